/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The image's way from one host to another: the engine writes into (reads from) one end of a socketpair, a thread of ours pumps the other end into (out
 * of) an rpc stream in frames of at most 1 MiB. The source's and the destination's half, the same at a home and on a guest host.
 */
#ifndef MIGD_TRANSFER_H
#define MIGD_TRANSFER_H
#include <stdint.h>
#include "migd/family.h"
#include "migd/hosts.h"

struct send_plan { /* source */
	struct host *dest;
	uint64_t to_gen;
	unsigned max_freeze_ms; /* 0: no limit */
	struct mig_machine *machine; /* a guest's own, or one of the driver at home */
	/* out: */
	uint64_t bytes, frozen_ns;
	struct rpc_stream *stream; /* to be ended by transfer_sent(), when it is of no use to the family to hurry */
};
/*
 * Freezes, dumps and streams; returns 0 when the destination has said PREPARED: the family is parked, in doubt. Otherwise -errno with the reason in e, and the
 * family runs on. Called from a thread that may block.
 */
int transfer_send(struct family *f, struct send_plan *p, struct error *e);
void transfer_sent(struct send_plan *p); /* in any case, once, not while the family waits */
/* Destination: serves one Image stream to its end. */
void transfer_serve(void *ctx, struct rpc_stream *s);

/* ---- in the actor ---- */
int transfer_thaw(struct family *f, void *unused);

#endif
