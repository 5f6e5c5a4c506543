// SPDX-License-Identifier: Apache-2.0
/*
 * Processes that move with ends of a FIFO open. The source's agent holds such ends, so that nothing seems to have gone; the destination's takes them:
 *
 *	PLEDGE			the process may come to life there; until it has, or has ended (DROP), its source holds even if its process is gone (ORPHAN)
 *	TAKE    WAITS		it has: the node counts as one with readers, or writers, but gets no bytes. One round: everybody with a role knows
 *		RELEASING	every other node is asked to give up what it holds for the token. What nobody reads there comes to us first (ps_return(), ps_data())
 *		RELEASED	one more round: roles without what was held; then the whole queue is sent there, and it is let in (opened)
 *
 * One TAKE at a time in each FIFO. So bytes that the process wrote before it moved are in the queue, or in the pipe over there, before it writes on; and bytes
 * that it has not read are in the pipe over there before it reads on.
 */
#include <errno.h>
#include <stdlib.h>
#include "fs/server/pipe_fifo.h"

struct token *ps_active(const struct fifo *f)
{
	struct token *t;

	list_each(t, &f->tokens, link)
		if (t->kind == TOKEN_TAKE)
			return t;
	return NULL;
}

static struct token *find(const struct fifo *f, uint64_t token, bool orphan)
{
	struct token *t;

	list_each(t, &f->tokens, link)
		if (t->token == token && (t->kind == TOKEN_ORPHAN) == orphan)
			return t;
	return NULL;
}

static void forget(struct token *t)
{
	list_del(&t->link);
	free(t);
}

static struct token *add(struct fifo *f, int kind, void *node, uint64_t token)
{
	struct token *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->kind = kind;
	t->node = node;
	t->token = token;
	list_add_tail(&f->tokens, &t->link);
	return t;
}

bool ps_tokens_of(const struct fifo *f, const struct member *m)
{
	struct token *t;

	list_each(t, &f->tokens, link)
		if (t->node == m->node)
			return true;
	return m->releasing;
}

bool ps_taking(const struct fifo *f, const struct member *m)
{
	struct token *t;

	list_each(t, &f->tokens, link)
		if (t->kind == TOKEN_TAKE && t->node == m->node)
			return true;
	return false;
}

bool ps_takes(const struct fifo *f, const struct member *m, bool r)
{
	struct token *t;

	list_each(t, &f->tokens, link)
		if (t->kind == TOKEN_TAKE && t->node == m->node && (r ? t->r : t->w))
			return true;
	return false;
}

static void release(struct ps *p, struct fifo *f, struct member *m, uint64_t token)
{
	m->releasing = true;
	p->ops->release(p->arg, m->node, &f->key, token);
}

static bool anybody_releasing(const struct fifo *f)
{
	struct member *m;

	list_each(m, &f->members, link)
		if (m->releasing)
			return true;
	return false;
}

/* Its process has ended, and nobody will take over what is held for it. */
static void orphan_release(struct ps *p, struct fifo *f, uint64_t token)
{
	struct token *t = find(f, token, true);
	struct member *m = t ? ps_member(f, t->node) : NULL;

	if (!t || find(f, token, false))
		return;
	if (f->path.state != PATH_NONE) { /* then ps_orphans() */
		ps_path_settle(p, f);
		return;
	}
	forget(t);
	if (m)
		release(p, f, m, token);
}

static void finish(struct ps *p, struct fifo *f, struct token *t)
{
	struct member *m = ps_member(f, t->node);
	struct token *other, *tmp;
	void *node = t->node;
	uint64_t req = t->req, token = t->token;

	list_each_safe(other, tmp, &f->tokens, link)
		if (other->token == token)
			forget(other);
	if (m)
		ps_flush(p, f, m);
	p->ops->opened(p->arg, node, &f->key, req);
	t = ps_active(f);
	if (t)
		t->round = f->round + 1;
}

bool ps_take_round_over(struct ps *p, struct fifo *f)
{
	struct token *t = ps_active(f);
	struct member *m;

	if (!t)
		return false;
	if (t->step == TAKE_WAITS && t->round <= f->round) {
		t->step = TAKE_RELEASING;
		list_each(m, &f->members, link)
			if (m->node != t->node)
				release(p, f, m, t->token);
	} else if (t->step == TAKE_RELEASED && t->round <= f->round) {
		finish(p, f, t);
		return ps_active(f) != NULL;
	}
	if (t->step != TAKE_RELEASING || anybody_releasing(f))
		return t->step != TAKE_RELEASING;
	t->step = TAKE_RELEASED;
	t->round = f->round + 1;
	return true;
}

int ps_pledge(struct ps *p, const struct ps_key *k, void *node, uint64_t req, uint64_t token)
{
	int err = 0;
	struct member *m;
	struct fifo *f = ps_get(p, k, node, &m, &err);

	if (!f)
		return err;
	if (!add(f, TOKEN_PLEDGE, node, token)) {
		ps_sweep(p, f);
		return -ENOMEM;
	}
	p->ops->opened(p->arg, node, k, req);
	return 0;
}

int ps_drop(struct ps *p, const struct ps_key *k, void *node, uint64_t token)
{
	struct fifo *f = ps_find(p, k);
	struct token *t, *tmp;

	if (!f)
		return 0;
	list_each_safe(t, tmp, &f->tokens, link)
		if (t->kind == TOKEN_PLEDGE && t->node == node && t->token == token)
			forget(t);
	orphan_release(p, f, token);
	ps_sweep(p, f);
	return 0;
}

int ps_take(struct ps *p, const struct ps_key *k, void *node, bool r, bool w, uint64_t req, uint64_t token)
{
	int err = 0;
	struct member *m;
	struct fifo *f = ps_get(p, k, node, &m, &err);
	struct token *t = f ? add(f, TOKEN_TAKE, node, token) : NULL;

	if (!t) {
		if (f)
			ps_sweep(p, f);
		return f ? -ENOMEM : err;
	}
	t->req = req;
	t->r = r;
	t->w = w;
	t->round = f->round + 1;
	m->r |= r;
	m->w |= w;
	ps_round(p, f);
	return 0;
}

int ps_orphan(struct ps *p, const struct ps_key *k, void *node, uint64_t token)
{
	struct fifo *f = ps_find(p, k);
	struct member *m = f ? ps_member(f, node) : NULL;

	if (!m)
		return 0;
	if (!find(f, token, true) && !add(f, TOKEN_ORPHAN, node, token))
		return -ENOMEM;
	orphan_release(p, f, token);
	return 0;
}

int ps_released(struct ps *p, const struct ps_key *k, void *node, uint64_t token)
{
	struct fifo *f = ps_find(p, k);
	struct member *m = f ? ps_member(f, node) : NULL;
	struct token *t = f ? ps_active(f) : NULL;

	(void)token;
	if (!m || !m->releasing)
		return 0;
	m->releasing = false;
	if (t && t->step == TAKE_RELEASING && !anybody_releasing(f)) {
		t->step = TAKE_RELEASED;
		t->round = f->round + 1;
	}
	ps_round(p, f); /* its ends may have been the last ones */
	return 0;
}

void ps_orphans(struct ps *p, struct fifo *f)
{
	struct token *t;
	bool again;

	do {
		uint64_t token = 0;

		list_each(t, &f->tokens, link)
			if (t->kind == TOKEN_ORPHAN && !find(f, t->token, false))
				token = t->token;
		again = token != 0 && f->path.state == PATH_NONE;
		if (token)
			orphan_release(p, f, token);
	} while (again);
}

void ps_tokens_gone(struct ps *p, struct fifo *f, void *node)
{
	struct token *t, *tmp;

	list_each_safe(t, tmp, &f->tokens, link)
		if (t->node == node)
			forget(t);
	ps_orphans(p, f);
}
