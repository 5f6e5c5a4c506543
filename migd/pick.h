/* SPDX-License-Identifier: Apache-2.0 */
/* Which host gets a family. Pure: what the hosts said of themselves in, the choice and a reason for each one passed over out. */
#ifndef MIGD_PICK_H
#define MIGD_PICK_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct pick_host {
	const char *name;
	bool reachable, lends, idle;
	bool is_home;	/* of the family: never a place to go to on its own account */
	bool is_source; /* where it runs now */
	bool cpu_ok;	/* has every CPU feature that is needed */
	bool takes_root;
	double load; /* runnable threads over the last minute */
	unsigned cpus, guests;
	uint64_t idle_ms, memory_free;
};
struct pick_need {
	bool root;	 /* a process of root */
	uint64_t memory; /* bytes it needs there, 0 = unknown */
};

/*
 * Index of the best host, or -1. why[i] (may be NULL) gets a static word for each host: NULL for a candidate, else what rules it out.
 * "Longest idle first" (Douglis and Ousterhout 1991), but a host with a free CPU goes before one that is full already.
 */
int pick_host(const struct pick_host *h, size_t n, const struct pick_need *need, const char **why);
/* What rules this one out, or NULL. `named`: the user asked for this host, so that its being busy rules nothing out. */
const char *pick_refusal(const struct pick_host *h, const struct pick_need *need, bool named);

#endif
