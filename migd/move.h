/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The home's driver of a move: carries out the actions of the coordinator's table (migrate.h) one after the other, in the thread that asked for it.
 */
#ifndef MIGD_MOVE_H
#define MIGD_MOVE_H
#include "migd/family.h"

struct move_opts {
	bool answers; /* the destination has just answered: it is not asked again whether it does */
	const char *dest; /* host name; the home's own: bring it home */
	uint64_t slot; /* the master's leave to be there, 0: the user named the host; ours whatever becomes of the move */
	unsigned max_freeze_ms;
	bool eviction;
	bool adopt; /* from this host, for good: the destination becomes its home, and the record here ends */
	void (*progress)(void *arg, const char *text); /* may be NULL */
	void *arg;
};
struct move_result {
	uint64_t bytes, frozen_ns, total_ns;
};

/* -errno: it runs on where it was, e says why. The record stays while the family is away, and is removed when it has come home. */
int move_family(struct family *f, const struct move_opts *o, struct move_result *r, struct error *e);
/* After a restart with a COMMIT in the journal: says GO until it is answered, in a thread of its own. */
void move_finish(struct family *f);

/* It runs here (again): signals that were still on their way to it. */
void move_deliver_here(struct family *f);

#endif
