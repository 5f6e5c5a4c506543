// SPDX-License-Identifier: Apache-2.0
/*
 * The last end. What is unread in a FIFO that nobody has open any more is discarded, as by the kernel on one machine; and none of it before, whoever reads next, and wherever.
 *
 * Unread bytes are in our queue, in the pipes of sinks and sources, or kept in the pipe of a node whose writers sent them (`kept`: its agent has a write end of its own
 * there, since the last reader went). Whether anybody is left cannot be told from what we believe: writers whose readers have gone close without a word, and readers just before their
 * agent notices. It matters only when somebody opens: till then nobody can tell the difference. So an opener who comes upon such bytes is not counted at first:
 *
 *	doubt		there may be such bytes, and no opener is counted and not let in yet (for which the same was proven), and nothing moves (tokens)
 *	WANTED		an opener came in doubt; it, and who comes behind it, waits uncounted for the end of the round that runs
 *	ASKED		each node that has a role or is believed to have anything looks (prove): at the other side of its ends, or at its kernel's pipe, or at all its processes, but
 *			not at openers that are not let in yet. A node that goes has answered.
 *	over		nobody: the queue is dropped, who was asked is told to DISCARD, that is to close all ends that its agent has. In any case the openers count
 *			now, and the round goes on with its roles.
 *
 * A discard needs no answer: whatever is said to that node later comes behind it. What an agent reports by itself (it looks after some seconds of rest) may show the same
 * without any opener: ps_forget_bytes().
 */
#include "fs/server/pipe_fifo.h"

static bool may_have_bytes(const struct member *m)
{
	return m->kept || m->role != PS_NONE;
}

bool ps_doubtful(const struct fifo *f)
{
	bool bytes = !list_empty(&f->queue);
	struct member *m;
	struct waiter *w;

	list_each(m, &f->members, link)
		bytes |= may_have_bytes(m);
	list_each(w, &f->waiters, link)
		if (w->counted)
			return false;
	return bytes && list_empty(&f->tokens);
}

static bool has_any(const struct member *m)
{
	return m->r || m->w || m->stands || may_have_bytes(m);
}

void ps_proof_ask(struct ps *p, struct fifo *f)
{
	struct member *m;

	f->proof = PROOF_ASKED;
	list_each(m, &f->members, link)
		if (has_any(m)) {
			m->proven = true;
			ps_ask(p, f, m, &(struct ps_ask){.role = m->role, .round = f->round, .r = m->r, .w = m->w, .prove = true});
		}
}

static void discard(struct ps *p, struct fifo *f)
{
	struct member *m;
	struct chunk *c;
	size_t n = 0;

	ps_holder_drop(f);
	list_each(c, &f->queue, link)
		n += c->len - c->off;
	ps_consume(p, f, n);
	list_each(m, &f->members, link) {
		if (has_any(m) || m->proven) /* also who says that he has nothing: his agent may keep what he had for who is just opening (end_leave()) */
			p->ops->role(p->arg, m->node, &f->key, &(struct ps_ask){.role = m->role, .discard = true});
		m->r = m->w = m->kept = m->stands = m->proven = false;
		m->role = PS_NONE;
	}
}

void ps_proof_over(struct ps *p, struct fifo *f)
{
	bool anybody = !list_empty(&f->tokens);
	struct waiter *w;
	struct member *m;

	f->proof = PROOF_NONE;
	list_each(m, &f->members, link) {
		anybody |= m->alive;
		m->alive = false;
	}
	if (!anybody)
		discard(p, f);
	list_each(w, &f->waiters, link) {
		m = w->counted ? NULL : ps_member(f, w->node);
		if (!m)
			continue;
		w->counted = true;
		w->round = f->round;
		m->r |= w->r;
		m->w |= w->w;
	}
}

void ps_forget_bytes(struct ps *p, struct fifo *f)
{
	bool bytes = !list_empty(&f->queue);
	struct member *m;

	list_each(m, &f->members, link) {
		if (m->r || m->w || m->stands)
			return;
		bytes |= m->kept;
	}
	if (bytes && list_empty(&f->waiters) && list_empty(&f->tokens))
		discard(p, f);
}
