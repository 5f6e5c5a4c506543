// SPDX-License-Identifier: Apache-2.0
/*
 * A path: a connection between the agents of the one source and the one sink of a FIFO, for the bytes alone. All else stays here, and all rules with it, because whatever is decided
 * here is decided without a path: before a round of roles, and before a hold is released, the path is settled.
 *
 *	OFFERED		bytes go through us, and all is at rest but for them: the sink is asked (PATH). It answers PATH, or SETTLED (it will not)
 *	ON		the source is told where the sink is (PATH). It connects, waits until all that it has sent to us is acknowledged, and sends by the path from then on: what it has
 *			sent, and keeps until the sink has said that it is in its pipe, is ring[acked..sent). We are not told when that begins, or whether it does.
 *	STOPPING	a round is wanted, or the source asks (SETTLE: it cannot connect, the connection broke, its writers have gone, its process moves): the sink is asked to stop
 *			(SETTLE). It gives us what it has received and not put into its pipe (RETURN), says how much it has received (SETTLED n), and takes no more by the path. It may also do so unasked
 *	RESENDING	the source is told n (SETTLE). It sends what the sink has not received to us, as ever, and says so (SETTLED). The path is over
 *
 * Invariants: (1) each byte is counted once, by n: below it is the sink's (in its pipe, or given back), from it on the source's, which still has it. (2) The order is that of the stream: what
 * the sink gives back comes to the front of the queue, which is empty but for what is given back, because the source sent nothing here since it began; what the source sends comes behind
 * it. (3) While a path is on, no role changes, nobody is let in, no hold ends. (4) At most one window is with the source and the sink together.
 * A node that goes has answered. If it is the sink n is 0, and the source begins behind what was acknowledged: as with bytes that were sent from here to a sink that is gone. If it is the source, the sink takes
 * what is still in the connection before it answers.
 */
#include <errno.h>
#include "fs/server/pipe_fifo.h"

#define CARRIED	  8u /* so many pieces go through us before a path is worth its messages */
#define RELUCTANT 3 /* a connection that could not be made, or broke: eight times as many before the next, until one has been given up for another reason */
#define RELUCTANT_MAX 4

static bool reachable(const struct ps *p, const struct member *m)
{
	return p->ops->reachable && p->ops->reachable(p->arg, m->node);
}

void ps_path_offer(struct ps *p, struct fifo *f)
{
	struct member *m, *source = NULL, *sink = NULL;
	struct chunk *c;

	if (f->running || f->proof != PROOF_NONE || f->path.state != PATH_NONE || f->carried < CARRIED << RELUCTANT * f->reluctant || !list_empty(&f->waiters) || !list_empty(&f->tokens))
		return;
	list_each(m, &f->members, link) {
		bool plain = !m->shared && !m->kept && !m->stands && !m->releasing;

		if (m->role == PS_SOURCE && plain && !m->r && !source)
			source = m;
		else if (m->role == PS_SINK && plain && !m->w && !sink)
			sink = m;
		else if (m->role != PS_NONE || m->r || m->w || !plain)
			return;
	}
	if (!source || !sink || !reachable(p, source) || !reachable(p, sink))
		return;
	list_each(c, &f->queue, link)
		if (c->from != source)
			return;
	f->path.id = ++p->paths;
	f->path.state = PATH_OFFERED;
	f->path.source = source;
	f->path.sink = sink;
	p->ops->path(p->arg, sink->node, &f->key, f->path.id, source->node, true);
}

static void over(struct ps *p, struct fifo *f)
{
	bool again = f->path.again;

	if (f->path.on && !f->path.failed)
		f->reluctant = 0;
	f->path = (struct path){0};
	f->carried = 0;
	ps_orphans(p, f);
	if (again)
		ps_round(p, f);
	else
		ps_sweep(p, f);
}

static void ask_source(struct ps *p, struct fifo *f, uint64_t n)
{
	f->path.sink = NULL;
	f->path.state = PATH_RESENDING;
	if (f->path.source)
		p->ops->settle(p->arg, f->path.source->node, &f->key, f->path.id, n, false);
	else
		over(p, f);
}

void ps_path_settle(struct ps *p, struct fifo *f)
{
	if (f->path.state != PATH_OFFERED && f->path.state != PATH_ON)
		return;
	f->path.state = PATH_STOPPING;
	p->ops->settle(p->arg, f->path.sink->node, &f->key, f->path.id, 0, false);
}

bool ps_path_round(struct ps *p, struct fifo *f)
{
	if (f->path.state == PATH_NONE)
		return false;
	f->path.again = true;
	ps_path_settle(p, f);
	return true;
}

void ps_path_gone(struct fifo *f, const struct member *m)
{
	if (f->path.source == m)
		f->path.source = NULL;
	if (f->path.sink == m)
		f->path.sink = NULL;
}

bool ps_path_after_gone(struct ps *p, struct fifo *f)
{
	if (f->path.state == PATH_NONE)
		return false;
	f->path.again = true;
	if (f->path.source && f->path.sink) {
		ps_path_settle(p, f);
	} else if (f->path.sink) {
		f->path.state = PATH_STOPPING;
		p->ops->settle(p->arg, f->path.sink->node, &f->key, f->path.id, 0, true);
	} else if (f->path.state != PATH_RESENDING || !f->path.source) {
		ask_source(p, f, 0);
	}
	return true;
}

static struct fifo *find(const struct ps *p, const struct ps_key *k, uint64_t id)
{
	struct fifo *f = ps_find(p, k);

	return f && f->path.state != PATH_NONE && f->path.id == id ? f : NULL;
}

int ps_path_ready(struct ps *p, const struct ps_key *k, void *node, uint64_t id)
{
	struct fifo *f = find(p, k, id);

	if (!f || f->path.state != PATH_OFFERED || f->path.sink->node != node)
		return 0; /* it is to be settled already */
	f->path.state = PATH_ON;
	f->path.on = true;
	p->ops->path(p->arg, f->path.source->node, k, id, node, false);
	return 0;
}

int ps_settle(struct ps *p, const struct ps_key *k, void *node, uint64_t id, bool failed)
{
	struct fifo *f = find(p, k, id);

	if (!f || !f->path.source || f->path.source->node != node)
		return 0;
	f->path.failed |= failed;
	f->reluctant += failed && f->reluctant < RELUCTANT_MAX;
	ps_path_settle(p, f);
	return 0;
}

int ps_settled(struct ps *p, const struct ps_key *k, void *node, uint64_t id, uint64_t n)
{
	struct fifo *f = find(p, k, id);

	if (!f)
		return 0;
	if (f->path.sink && f->path.sink->node == node) {
		if (f->path.state == PATH_OFFERED) /* not now: a process moves, say. The source was not told */
			over(p, f);
		else
			ask_source(p, f, n);
	} else if (f->path.state == PATH_RESENDING && f->path.source && f->path.source->node == node) {
		over(p, f);
	}
	return 0;
}
