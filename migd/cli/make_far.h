/* SPDX-License-Identifier: Apache-2.0 */
/* The agent's side of workers on other hosts (far.h). The agent's thread alone. */
#ifndef MIGD_CLI_MAKE_FAR_H
#define MIGD_CLI_MAKE_FAR_H
#include <poll.h>
#include "conf/list.h"
#include "migd/cli/make_recipe.h"

/* How the agent hears of it. */
struct far_hooks {
	void *ctx;
	void (*ready)(void *ctx, uint64_t slot); /* the worker is there; never: it did not get there, and recipes of that slot go by themselves */
	struct recipe *(*recipe)(void *ctx, uint32_t number); /* NULL: it is over */
	void (*ended)(void *ctx, struct recipe *r, int status);
	void (*gone)(void *ctx, int worker); /* nothing more comes of its recipes */
};
struct fars {
	struct far_hooks hooks;
	struct list list;
};
enum { FAR_FDS = 3 }; /* that are polled for each */

struct far;
void fars_init(struct fars *f, const struct far_hooks *h);
size_t fars_count(const struct fars *f);
/* Sends a worker off. 0 or -errno. */
int far_start(struct fars *f, uint64_t slot, const char *host);
/* The one of a slot that can take a recipe now; NULL: none. */
struct far *far_of(struct fars *f, uint64_t slot);
int far_run(struct far *w, struct recipe *r, const char *bytes, size_t len);
/* A signal for a recipe, wherever it is. */
void far_kill(struct fars *f, struct recipe *r, int sig);
int far_pid(const struct fars *f, uint64_t slot); /* of its process here; 0: none */
/* The slot is not ours any more: it ends when its recipe has. */
void far_leave(struct fars *f, uint64_t slot);
void fars_poll(struct fars *f, struct pollfd *p); /* fills FAR_FDS for each */
void fars_look(struct fars *f, const struct pollfd *p, size_t n); /* n: for how many of them */
void fars_end(struct fars *f); /* all end, by themselves */

#endif
