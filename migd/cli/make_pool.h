/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mig make: where a recipe runs. Pure. A recipe takes a free slot on another host if it is worth the trip, else a local one. How long programs take is learnt
 * while the build runs, by the name of the first program of the recipe: what ends within EXPORT_WORTH_NS on the average stays at home (pmake left that to
 * the writer of the makefile: .NOEXPORT).
 */
#ifndef MIGD_CLI_MAKE_POOL_H
#define MIGD_CLI_MAKE_POOL_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "conf/hash.h"
#include "conf/list.h"

#define EXPORT_WORTH_NS 100000000ull

struct pool_slot { /* on another host, as migd granted it */
	struct list node;
	uint64_t id;
	char host[256];
	int pid;	/* of the recipe that is there, 0 = free */
	bool reclaimed; /* asked back: not given out again */
};

struct pool {
	struct list slots;
	unsigned remote, local_used;
	struct hash learnt; /* first word -> struct pool_learnt */
};

void pool_init(struct pool *p);
void pool_clear(struct pool *p);
int pool_grant(struct pool *p, uint64_t id, const char *host); /* 0 or -ENOMEM */
struct pool_slot *pool_find(struct pool *p, uint64_t id);
void pool_lose(struct pool *p, struct pool_slot *s);

/* A recipe starts: the slot that it takes, or NULL = here. */
struct pool_slot *pool_start(struct pool *p, const char *command, int pid);
/* It ended, wherever it ran, after took_ns of real time. Returns its slot (now free) or NULL. */
struct pool_slot *pool_end(struct pool *p, const char *command, int pid, uint64_t took_ns);

#endif
