// SPDX-License-Identifier: Apache-2.0
/* Decisions of the pipe hub; see pipe_state.h. */
#include "fs/server/pipe_fifo.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

void ps_init(struct ps *p, const struct ps_ops *ops, void *arg)
{
	*p = (struct ps){.ops = ops, .arg = arg, .fifos = HASH_INIT};
}

struct fifo *ps_find(const struct ps *p, const struct ps_key *k)
{
	return hash_get(&p->fifos, k->bytes, k->len);
}

bool ps_known(const struct ps *p, const struct ps_key *k)
{
	return ps_find(p, k) != NULL;
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
	while ((l = list_pop(&f->tokens)))
		free(list_entry(l, struct token, link));
	free(f);
}

void ps_destroy(struct ps *p)
{
	hash_clear(&p->fifos, fifo_free);
}

struct member *ps_member(struct fifo *f, void *node)
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

static bool writes(const struct member *m)
{
	return m->w || (m->kept && m->role == PS_NONE);
}

static enum ps_role wanted(const struct fifo *f, const struct member *m)
{
	bool others_write = false;
	struct member *o;

	list_each(o, &f->members, link)
		others_write |= o != m && writes(o);
	/* a sink stays one until the queue is empty: end of file comes behind the last byte. While somebody moves here, the queue is for it */
	if (m->r && (others_write || (!list_empty(&f->queue) && (!ps_active(f) || m->role == PS_SINK || ps_taking(f, m)))))
		return PS_SINK;
	return writes(m) && others_read(f, m) ? PS_SOURCE : PS_NONE;
}

void ps_ask(struct ps *p, struct fifo *f, struct member *m, const struct ps_ask *ask)
{
	m->waiting = true;
	f->pending++;
	p->ops->role(p->arg, m->node, &f->key, ask);
}

static void ask_role(struct ps *p, struct fifo *f, struct member *m)
{
	enum ps_role want = wanted(f, m);

	m->shared = share_of(f, m, want);
	m->proven = false;
	ps_ask(p, f, m, &(struct ps_ask){.role = want, .round = f->round, .r = m->r, .w = m->w, .shared = m->shared});
}

/* ---- the queue ---- */

void ps_holder_drop(struct fifo *f)
{
	struct chunk *c;

	list_each(c, &f->queue, link)
		c->sent = false;
	f->out = 0;
	f->holder = NULL;
}

static void pump_some(struct ps *p, struct fifo *f, size_t limit)
{
	struct member *m;
	struct chunk *c;

	if (f->holder && f->holder->role != PS_SINK)
		ps_holder_drop(f);
	if (!f->holder)
		list_each(m, &f->members, link)
			if (m->role == PS_SINK && !ps_taking(f, m)) {
				f->holder = m;
				break;
			}
	if (!f->holder)
		return;
	list_each(c, &f->queue, link) {
		if (c->sent)
			continue;
		if (f->out >= limit)
			break;
		c->sent = true;
		f->out += c->len - c->off;
		p->ops->data(p->arg, f->holder->node, &f->key, c->bytes + c->off, c->len - c->off);
	}
}

static void pump(struct ps *p, struct fifo *f)
{
	pump_some(p, f, 2 * PS_WINDOW);
}

void ps_flush(struct ps *p, struct fifo *f, struct member *m)
{
	if (m->role != PS_SINK)
		return;
	if (!f->holder)
		f->holder = m;
	if (f->holder == m)
		pump_some(p, f, SIZE_MAX);
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
	struct member *m;

	list_each_safe(w, tmp, &f->waiters, link) {
		if (w->round > f->round)
			continue;
		m = ps_member(f, w->node);
		if (w->r && m)
			ps_flush(p, f, m);
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
		ps_holder_drop(f);
	list_del(&m->link);
	free(m);
}

void ps_consume(struct ps *p, struct fifo *f, size_t n)
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

/* Nodes with no part in it any more. */
static void members_sweep(struct ps *p, struct fifo *f)
{
	struct member *m, *tmp;
	struct waiter *w;

	ps_forget_bytes(p, f);
	list_each_safe(m, tmp, &f->members, link) {
		bool opening = false;

		list_each(w, &f->waiters, link)
			opening |= w->node == m->node;
		if (!m->r && !m->w && !m->kept && !m->stands && m->role == PS_NONE && !m->waiting && !opening && !m->unacked && !ps_tokens_of(f, m))
			member_drop(f, m);
	}
}

/* Asks whoever has a role or is to have one; then the others' answers decide. Returns false when `f` is gone. */
static bool round_run(struct ps *p, struct fifo *f, bool all)
{
	struct member *m;

	for (;;) {
		if (f->proof == PROOF_WANTED && all) {
			ps_proof_ask(p, f);
			if (f->pending)
				return true;
		}
		if (f->proof == PROOF_ASKED) {
			ps_proof_over(p, f);
			f->tries = 0;
			all = true;
		}
		list_each(m, &f->members, link) {
			enum ps_role want = wanted(f, m);

			if (want != m->role || m->shared != share_of(f, m, want) ? f->tries < TRIES_MAX : all && (want != PS_NONE || m->proven))
				ask_role(p, f, m);
		}
		f->tries++;
		if (f->pending)
			return true;
		f->running = false;
		f->tries = 0;
		answer(p, f);
		f->again |= ps_take_round_over(p, f);
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

bool ps_round(struct ps *p, struct fifo *f)
{
	if (ps_path_round(p, f)) {
		pump(p, f);
		return true;
	}
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

struct fifo *ps_get(struct ps *p, const struct ps_key *k, void *node, struct member **m, int *err)
{
	struct fifo *f = ps_find(p, k);

	*m = f ? ps_member(f, node) : NULL;
	if (!f) {
		f = p->fifos.count < PS_FIFOS_MAX ? calloc(1, sizeof(*f)) : NULL;
		if (!f || hash_set(&p->fifos, k->bytes, k->len, f, NULL)) {
			*err = f ? -ENOMEM : -ENOSPC;
			free(f);
			return NULL;
		}
		f->key = *k;
		list_init(&f->members);
		list_init(&f->waiters);
		list_init(&f->queue);
		list_init(&f->tokens);
	}
	if (!*m) {
		*m = calloc(1, sizeof(**m));
		if (!*m) {
			*err = -ENOMEM;
			fifo_maybe_free(p, f);
			return NULL;
		}
		(*m)->node = node;
		list_add_tail(&f->members, &(*m)->link);
	}
	return f;
}

int ps_open(struct ps *p, const struct ps_key *k, void *node, bool r, bool w, uint64_t req)
{
	struct waiter *wt = calloc(1, sizeof(*wt));
	int err = -ENOMEM;
	struct member *m;
	struct fifo *f = wt ? ps_get(p, k, node, &m, &err) : NULL;

	if (!f) {
		free(wt);
		return err;
	}
	*wt = (struct waiter){.node = node, .req = req, .r = r, .w = w, .round = f->round + 1, .counted = f->proof == PROOF_NONE && !ps_doubtful(f)};
	if (wt->counted) {
		m->r |= r;
		m->w |= w;
	} else {
		wt->round = UINT64_MAX; /* until it counts */
		f->proof = f->proof == PROOF_ASKED ? PROOF_ASKED : PROOF_WANTED;
	}
	list_add_tail(&f->waiters, &wt->link);
	ps_round(p, f);
	return 0;
}

void ps_sweep(struct ps *p, struct fifo *f)
{
	if (f->running || f->path.state != PATH_NONE)
		return; /* its end does it */
	members_sweep(p, f);
	fifo_maybe_free(p, f);
}

/* Is somebody of that node on its way to read (or to write)? */
static bool opening(const struct fifo *f, const struct member *m, bool r)
{
	struct waiter *w;

	list_each(w, &f->waiters, link)
		if (w->counted && w->node == m->node && (r ? w->r : w->w))
			return true;
	return ps_takes(f, m, r);
}

int ps_report(struct ps *p, const struct ps_key *k, void *node, uint64_t round, const struct ps_part *part)
{
	struct fifo *f = ps_find(p, k);
	struct member *m = f ? ps_member(f, node) : NULL;
	bool answers = m && m->waiting && round && round == f->round;

	if (!m)
		return 0; /* it was forgotten meanwhile */
	/* What an open has added that is not answered yet stays: the report may be older. */
	m->r = part->r || opening(f, m, true);
	m->w = part->w || opening(f, m, false);
	m->kept = part->kept;
	m->stands = part->stands;
	m->alive |= part->alive;
	m->role = part->role;
	if (f->holder == m && m->role != PS_SINK)
		ps_holder_drop(f);
	if (!answers) {
		ps_round(p, f);
		return 0;
	}
	m->waiting = false;
	if (--f->pending == 0)
		round_run(p, f, false);
	return 0;
}

int ps_data(struct ps *p, const struct ps_key *k, void *node, const void *bytes, size_t n)
{
	struct fifo *f = ps_find(p, k);
	struct member *m = f ? ps_member(f, node) : NULL;
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
	f->carried++;
	pump(p, f);
	ps_path_offer(p, f);
	return 0;
}

int ps_return(struct ps *p, const struct ps_key *k, void *node, const void *bytes, size_t n, bool leaves)
{
	struct fifo *f = ps_find(p, k);
	struct member *m = f ? ps_member(f, node) : NULL;
	struct chunk *c, *at;

	if (!n || n > PS_CHUNK_MAX)
		return -EPROTO;
	if (!m)
		return 0; /* a role that it has just lost, or is just getting, does not matter: the bytes are nowhere else */
	c = malloc(sizeof(*c) + n);
	if (!c)
		return -ENOMEM;
	*c = (struct chunk){.len = n};
	memcpy(c->bytes, bytes, n);
	if (leaves && f->holder == m)
		ps_holder_drop(f); /* what it did not acknowledge comes behind this */
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
		ps_round(p, f);
	else
		pump(p, f);
	return 0;
}

int ps_ack(struct ps *p, const struct ps_key *k, void *node, size_t n)
{
	struct fifo *f = ps_find(p, k);
	struct member *m = f ? ps_member(f, node) : NULL;

	if (!m || f->holder != m)
		return 0;
	if (n > f->out)
		return -EPROTO;
	f->out -= n;
	ps_consume(p, f, n);
	if (list_empty(&f->queue) && roles_differ(f))
		ps_round(p, f);
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
		ps_tokens_gone(p, f, node);
		m = ps_member(f, node);
		if (!m)
			continue;
		f->pending -= m->waiting;
		ps_path_gone(f, m);
		member_drop(f, m);
		if (ps_path_after_gone(p, f))
			continue;
		if (f->running && !f->pending)
			round_run(p, f, true);
		else
			ps_round(p, f);
	}
}
