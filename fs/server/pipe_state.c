// SPDX-License-Identifier: Apache-2.0
/* Decisions of the pipe hub; see pipe_state.h. */
#include "fs/server/pipe_state.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TRIES_MAX 8 /* a node that will not take its role holds nobody up */

struct member {
	struct list link;
	void *node;
	bool r, w; /* believed to have readers, writers */
	enum ps_role role;
	bool shared;  /* what it was told */
	bool waiting; /* asked in this round, not answered yet */
	size_t unacked; /* bytes of its in the queue */
};

struct waiter { /* an open that is to be answered */
	struct list link;
	void *node;
	uint64_t req;
	uint64_t round; /* the end of this one answers it */
};

struct chunk {
	struct list link;
	struct member *from; /* NULL: given back, or its node is gone */
	size_t off, len;
	bool sent; /* to the holder */
	unsigned char bytes[];
};

struct fifo {
	struct ps_key key;
	struct list members, waiters, queue;
	uint64_t round;
	bool running, again; /* a round is under way; another one is to follow */
	unsigned pending;    /* answers missing in it */
	unsigned tries;	     /* how often it asked because a role had changed */
	struct member *holder;
	size_t out; /* bytes sent to the holder and not acknowledged */
};

void ps_init(struct ps *p, const struct ps_ops *ops, void *arg)
{
	*p = (struct ps){.ops = ops, .arg = arg, .fifos = HASH_INIT};
}

static struct fifo *find(const struct ps *p, const struct ps_key *k)
{
	return hash_get(&p->fifos, k->bytes, k->len);
}

bool ps_known(const struct ps *p, const struct ps_key *k)
{
	return find(p, k) != NULL;
}

static void fifo_free(void *arg)
{
	struct fifo *f = arg;
	struct list *l;

	while ((l = list_pop(&f->members)))
		free(list_entry(l, struct member, link));
	while ((l = list_pop(&f->waiters)))
		free(list_entry(l, struct waiter, link));
	while ((l = list_pop(&f->queue)))
		free(list_entry(l, struct chunk, link));
	free(f);
}

void ps_destroy(struct ps *p)
{
	hash_clear(&p->fifos, fifo_free);
}

static struct member *member_of(struct fifo *f, void *node)
{
	struct member *m;

	list_each(m, &f->members, link)
		if (m->node == node)
			return m;
	return NULL;
}

/* ---- roles ---- */

static bool others_read(const struct fifo *f, const struct member *m)
{
	struct member *o;

	list_each(o, &f->members, link)
		if (o != m && o->r)
			return true;
	return false;
}

/* What is said with a role, see ps_ops.role. */
static bool share_of(const struct fifo *f, const struct member *m, enum ps_role role)
{
	struct member *o;

	if (role == PS_SINK)
		return others_read(f, m);
	list_each(o, &f->members, link)
		if (role == PS_SOURCE && o != m && o->r && o->w)
			return true;
	return false;
}

static enum ps_role wanted(const struct fifo *f, const struct member *m)
{
	bool others_write = false;
	struct member *o;

	list_each(o, &f->members, link)
		others_write |= o != m && o->w;
	/* a sink stays one until the queue is empty: end of file comes behind the last byte */
	if (m->r && (others_write || !list_empty(&f->queue)))
		return PS_SINK;
	return m->w && others_read(f, m) ? PS_SOURCE : PS_NONE;
}

static void ask(struct ps *p, struct fifo *f, struct member *m)
{
	m->waiting = true;
	f->pending++;
	m->shared = share_of(f, m, wanted(f, m));
	p->ops->role(p->arg, m->node, &f->key, wanted(f, m), f->round, m->r, m->w, m->shared);
}

/* ---- the queue ---- */

/* The holder is no sink any more: what it has not acknowledged is to be sent to the next one. */
static void holder_drop(struct fifo *f)
{
	struct chunk *c;

	list_each(c, &f->queue, link)
		c->sent = false;
	f->out = 0;
	f->holder = NULL;
}

static void pump(struct ps *p, struct fifo *f)
{
	struct member *m;
	struct chunk *c;

	if (f->holder && f->holder->role != PS_SINK)
		holder_drop(f);
	if (!f->holder)
		list_each(m, &f->members, link)
			if (m->role == PS_SINK) {
				f->holder = m;
				break;
			}
	if (!f->holder)
		return;
	list_each(c, &f->queue, link) {
		if (c->sent)
			continue;
		if (f->out >= 2 * PS_WINDOW)
			break;
		c->sent = true;
		f->out += c->len - c->off;
		p->ops->data(p->arg, f->holder->node, &f->key, c->bytes + c->off, c->len - c->off);
	}
}

/* ---- rounds ---- */

static void fifo_maybe_free(struct ps *p, struct fifo *f)
{
	if (!list_empty(&f->members) || !list_empty(&f->waiters))
		return;
	hash_take(&p->fifos, f->key.bytes, f->key.len);
	fifo_free(f);
}

static void answer(struct ps *p, struct fifo *f)
{
	struct waiter *w, *tmp;

	list_each_safe(w, tmp, &f->waiters, link) {
		if (w->round > f->round)
			continue;
		list_del(&w->link);
		p->ops->opened(p->arg, w->node, &f->key, w->req);
		free(w);
	}
}

static void member_drop(struct fifo *f, struct member *m)
{
	struct chunk *c;

	list_each(c, &f->queue, link)
		if (c->from == m)
			c->from = NULL;
	if (f->holder == m)
		holder_drop(f);
	list_del(&m->link);
	free(m);
}

/* Takes the first `n` bytes off the queue and tells their sources. */
static void consume(struct ps *p, struct fifo *f, size_t n)
{
	while (n) {
		struct chunk *c = list_entry(f->queue.next, struct chunk, link);
		size_t part = c->len - c->off < n ? c->len - c->off : n;

		c->off += part;
		n -= part;
		if (c->from) {
			c->from->unacked -= part;
			p->ops->ack(p->arg, c->from->node, &f->key, part);
		}
		if (c->off == c->len) {
			list_del(&c->link);
			free(c);
		}
	}
}

/* As in a pipe that nobody has open any more. */
static void forget_bytes(struct ps *p, struct fifo *f)
{
	struct member *m;
	struct chunk *c;
	size_t n = 0;

	list_each(m, &f->members, link)
		if (m->r || m->w)
			return;
	if (!list_empty(&f->waiters))
		return;
	holder_drop(f);
	list_each(c, &f->queue, link)
		n += c->len - c->off;
	consume(p, f, n);
}

/* Nodes with no part in it any more. */
static void members_sweep(struct ps *p, struct fifo *f)
{
	struct member *m, *tmp;
	struct waiter *w;

	forget_bytes(p, f);
	list_each_safe(m, tmp, &f->members, link) {
		bool opening = false;

		list_each(w, &f->waiters, link)
			opening |= w->node == m->node;
		if (!m->r && !m->w && m->role == PS_NONE && !m->waiting && !opening && !m->unacked)
			member_drop(f, m);
	}
}

/* Asks whoever has a role or is to have one; then the others' answers decide. Returns false when `f` is gone. */
static bool round_run(struct ps *p, struct fifo *f, bool all)
{
	struct member *m;

	for (;;) {
		list_each(m, &f->members, link) {
			enum ps_role want = wanted(f, m);

			if (want != m->role || m->shared != share_of(f, m, want) ? f->tries < TRIES_MAX : all && want != PS_NONE)
				ask(p, f, m);
		}
		f->tries++;
		if (f->pending)
			return true;
		f->running = false;
		f->tries = 0;
		answer(p, f);
		members_sweep(p, f);
		if (!f->again)
			break;
		f->again = false;
		f->running = true;
		f->round++;
		all = true;
	}
	if (list_empty(&f->members) && list_empty(&f->waiters)) {
		fifo_maybe_free(p, f);
		return false;
	}
	pump(p, f);
	return true;
}

static bool round_start(struct ps *p, struct fifo *f)
{
	if (f->running) {
		f->again = true;
		pump(p, f);
		return true;
	}
	f->running = true;
	f->round++;
	return round_run(p, f, true);
}

static bool roles_differ(const struct fifo *f)
{
	struct member *m;

	list_each(m, &f->members, link)
		if (wanted(f, m) != m->role)
			return true;
	return false;
}

int ps_open(struct ps *p, const struct ps_key *k, void *node, bool r, bool w, uint64_t req)
{
	struct fifo *f = find(p, k);
	struct member *m = f ? member_of(f, node) : NULL;
	struct waiter *wt = calloc(1, sizeof(*wt));

	if (!wt)
		return -ENOMEM;
	if (!f) {
		f = p->fifos.count < PS_FIFOS_MAX ? calloc(1, sizeof(*f)) : NULL;
		if (!f || hash_set(&p->fifos, k->bytes, k->len, f, NULL)) {
			free(f);
			free(wt);
			return f ? -ENOMEM : -ENOSPC;
		}
		f->key = *k;
		list_init(&f->members);
		list_init(&f->waiters);
		list_init(&f->queue);
	}
	if (!m) {
		m = calloc(1, sizeof(*m));
		if (!m) {
			free(wt);
			fifo_maybe_free(p, f);
			return -ENOMEM;
		}
		m->node = node;
		list_add_tail(&f->members, &m->link);
	}
	m->r |= r;
	m->w |= w;
	*wt = (struct waiter){.node = node, .req = req, .round = f->round + 1};
	list_add_tail(&f->waiters, &wt->link);
	round_start(p, f);
	return 0;
}

int ps_report(struct ps *p, const struct ps_key *k, void *node, uint64_t round, enum ps_role role, bool r, bool w)
{
	struct fifo *f = find(p, k);
	struct member *m = f ? member_of(f, node) : NULL;
	bool answers = m && m->waiting && round && round == f->round;

	if (!m)
		return 0; /* it was forgotten meanwhile */
	/* What an open that came after the question has added stays. */
	if (!answers || !m->r)
		m->r = r;
	else
		m->r = r || (f->again && m->r);
	if (!answers || !m->w)
		m->w = w;
	else
		m->w = w || (f->again && m->w);
	m->role = role;
	if (f->holder == m && role != PS_SINK)
		holder_drop(f);
	if (!answers) {
		round_start(p, f);
		return 0;
	}
	m->waiting = false;
	if (--f->pending == 0)
		round_run(p, f, false);
	return 0;
}

int ps_data(struct ps *p, const struct ps_key *k, void *node, const void *bytes, size_t n)
{
	struct fifo *f = find(p, k);
	struct member *m = f ? member_of(f, node) : NULL;
	struct chunk *c;

	if (!n || n > PS_CHUNK_MAX || (m && m->unacked > PS_QUEUE_MAX))
		return -EPROTO;
	if (!m)
		return 0;
	c = malloc(sizeof(*c) + n);
	if (!c)
		return -ENOMEM;
	*c = (struct chunk){.from = m, .len = n};
	memcpy(c->bytes, bytes, n);
	m->unacked += n;
	list_add_tail(&f->queue, &c->link);
	pump(p, f);
	return 0;
}

int ps_return(struct ps *p, const struct ps_key *k, void *node, const void *bytes, size_t n, bool leaves)
{
	struct fifo *f = find(p, k);
	struct member *m = f ? member_of(f, node) : NULL;
	struct chunk *c, *at;

	if (!n || n > PS_CHUNK_MAX)
		return -EPROTO;
	if (!m || m->role != PS_SINK)
		return 0;
	c = malloc(sizeof(*c) + n);
	if (!c)
		return -ENOMEM;
	*c = (struct chunk){.len = n};
	memcpy(c->bytes, bytes, n);
	if (leaves && f->holder == m)
		holder_drop(f); /* what it did not acknowledge comes behind this */
	/* before all that is not on its way to a sink: that may not be sent twice */
	list_each(at, &f->queue, link)
		if (!at->sent)
			break;
	list_add_tail(&at->link, &c->link);
	if (leaves)
		return 0; /* its report follows */
	if (f->holder == m && !f->out)
		f->holder = NULL;
	list_move_tail(&f->members, &m->link); /* the others first */
	if (roles_differ(f))
		round_start(p, f);
	else
		pump(p, f);
	return 0;
}

int ps_ack(struct ps *p, const struct ps_key *k, void *node, size_t n)
{
	struct fifo *f = find(p, k);
	struct member *m = f ? member_of(f, node) : NULL;

	if (!m || f->holder != m)
		return 0;
	if (n > f->out)
		return -EPROTO;
	f->out -= n;
	consume(p, f, n);
	if (list_empty(&f->queue) && roles_differ(f))
		round_start(p, f);
	else
		pump(p, f);
	return 0;
}

void ps_gone(struct ps *p, void *node)
{
	struct hash_iter it = {0};
	struct waiter *w, *tmp;
	struct member *m;
	struct fifo *f;

	while ((f = hash_next(&p->fifos, &it))) {
		list_each_safe(w, tmp, &f->waiters, link)
			if (w->node == node) {
				list_del(&w->link);
				free(w);
			}
		m = member_of(f, node);
		if (!m)
			continue;
		f->pending -= m->waiting;
		member_drop(f, m);
		if (f->running && !f->pending)
			round_run(p, f, true);
		else
			round_start(p, f);
	}
}
