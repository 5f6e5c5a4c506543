/* SPDX-License-Identifier: Apache-2.0 */
/* Decisions about locks; see lock.h. Pure. */
#include "fs/server/lock.h"
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* A held range. The ranges of one owner on one object never overlap, and adjacent ones of the same type are merged. */
struct held {
	struct list link;
	struct lock_range r;
};

struct lock_object {
	struct list held;
	struct list waiters; /* struct lock_waiter by in_object, in order of arrival */
	size_t keylen;
	unsigned char key[];
};

static bool owner_same(struct lock_owner a, struct lock_owner b)
{
	return a.client == b.client && a.owner == b.owner;
}

static bool ranges_meet(const struct lock_range *a, const struct lock_range *b)
{
	return a->start <= b->end && b->start <= a->end;
}

static bool ranges_conflict(const struct lock_range *a, const struct lock_range *b)
{
	return ranges_meet(a, b) && !owner_same(a->who, b->who) && (a->type == RANGE_WRITE || b->type == RANGE_WRITE) &&
	       !(a->mark && a->mark == b->mark);
}

static void held_count(struct lock_table *t, const struct lock_range *r, int d)
{
	t->nheld += (size_t)d;
	if (r->account)
		*r->account += d;
}

void lock_table_init(struct lock_table *t, bool whole)
{
	memset(t, 0, sizeof(*t));
	t->whole = whole;
	t->account_max = LONG_MAX;
	list_init(&t->waiters);
}

static void object_free(void *p)
{
	struct lock_object *o = p;
	struct held *h, *next;

	list_each_safe(h, next, &o->held, link)
		free(h);
	free(o);
}

void lock_table_clear(struct lock_table *t)
{
	hash_clear(&t->objects, object_free);
	t->nheld = 0;
}

static struct lock_object *object_get(struct lock_table *t, const void *key, size_t keylen, bool create)
{
	struct lock_object *o = hash_get(&t->objects, key, keylen);

	if (o || !create)
		return o;
	o = calloc(1, sizeof(*o) + keylen);
	if (!o)
		return NULL;
	list_init(&o->held);
	list_init(&o->waiters);
	o->keylen = keylen;
	memcpy(o->key, key, keylen);
	if (hash_set(&t->objects, key, keylen, o, NULL) < 0) {
		free(o);
		return NULL;
	}
	return o;
}

static void object_put(struct lock_table *t, struct lock_object *o)
{
	if (!list_empty(&o->held) || !list_empty(&o->waiters))
		return;
	hash_take(&t->objects, o->key, o->keylen);
	free(o);
}

static const struct lock_range *object_blocker(const struct lock_object *o, const struct lock_range *want)
{
	struct held *h;

	list_each(h, &o->held, link)
		if (ranges_conflict(&h->r, want))
			return &h->r;
	return NULL;
}

/* Cuts [start, end] out of what `who` holds. `spare` serves a split and is taken (set to NULL) when used. */
static void object_cut(struct lock_table *t, struct lock_object *o, struct lock_owner who, int64_t start, int64_t end,
	struct held **spare)
{
	struct held *h, *next;

	list_each_safe(h, next, &o->held, link) {
		if (!owner_same(h->r.who, who) || h->r.end < start || h->r.start > end)
			continue;
		if (h->r.start < start && h->r.end > end) { /* the middle goes: two remain */
			struct held *tail = *spare;

			*spare = NULL;
			tail->r = h->r;
			tail->r.start = end + 1;
			h->r.end = start - 1;
			list_add(&h->link, &tail->link);
			held_count(t, &tail->r, 1);
			return;
		}
		if (h->r.start < start) {
			h->r.end = start - 1;
		} else if (h->r.end > end) {
			h->r.start = end + 1;
		} else {
			list_del(&h->link);
			held_count(t, &h->r, -1);
			free(h);
		}
	}
}

/* Puts the range in, merged with neighbours of the same owner and type. `fresh` is used up. */
static void object_add(struct lock_table *t, struct lock_object *o, const struct lock_range *want, struct held *fresh)
{
	struct held *h, *next;

	fresh->r = *want;
	list_each_safe(h, next, &o->held, link) {
		bool touches;

		if (!owner_same(h->r.who, want->who) || h->r.type != want->type || h->r.mark != want->mark)
			continue;
		touches = (h->r.end != LOCK_EOF && h->r.end + 1 == fresh->r.start) ||
			(fresh->r.end != LOCK_EOF && fresh->r.end + 1 == h->r.start);
		if (!touches)
			continue;
		if (h->r.start < fresh->r.start)
			fresh->r.start = h->r.start;
		if (h->r.end > fresh->r.end)
			fresh->r.end = h->r.end;
		list_del(&h->link);
		held_count(t, &h->r, -1);
		free(h);
	}
	list_add_tail(&o->held, &fresh->link);
	held_count(t, &fresh->r, 1);
}

/* Needs two spare nodes at most: one for the new range, one for a split. */
static int object_take(struct lock_table *t, struct lock_object *o, const struct lock_range *want)
{
	struct held *fresh = malloc(sizeof(*fresh)), *spare = malloc(sizeof(*spare));

	if (!fresh || !spare) {
		free(fresh);
		free(spare);
		return -ENOMEM;
	}
	object_cut(t, o, want->who, want->start, want->end, &spare);
	object_add(t, o, want, fresh);
	free(spare);
	return 0;
}

static void waiter_unlink(struct lock_table *t, struct lock_waiter *w)
{
	list_del(&w->in_object);
	list_del(&w->in_table);
	w->object = NULL;
	t->nwaiting--;
}

/* Gives their lock to waiters that nothing is in the way of any more; again when a grant was a downgrade that lets others in. */
static void object_wake(struct lock_table *t, struct lock_object *o, struct list *granted)
{
	struct lock_waiter *w, *next;
	bool again = true;

	while (again) {
		again = false;
		list_each_safe(w, next, &o->waiters, in_object) {
			if (object_blocker(o, &w->want) || object_take(t, o, &w->want) < 0)
				continue;
			waiter_unlink(t, w);
			list_add_tail(granted, &w->in_object);
			again = true;
		}
	}
}

/*
 * Would `who`, waiting for `want` on `o`, wait for itself? Follows waits-for edges: from an owner to the holders that are in its way, and on through
 * the requests for which those wait. An owner may wait for several at once (threads), so it is a search, not a walk. `seen` marks waiters.
 */
struct cycle_search {
	const struct lock_waiter **seen;
	size_t nseen, max;
};

static bool cycle_reaches(const struct lock_table *t, const struct lock_object *o, const struct lock_range *want,
	struct lock_owner who, struct cycle_search *s)
{
	struct held *h;
	struct lock_waiter *w;

	list_each(h, &o->held, link) {
		if (!ranges_conflict(&h->r, want))
			continue;
		if (owner_same(h->r.who, who))
			return true;
		list_each(w, &t->waiters, in_table) {
			bool known = false;

			if (!owner_same(w->want.who, h->r.who))
				continue;
			for (size_t i = 0; i < s->nseen && !known; i++)
				known = s->seen[i] == w;
			if (known || s->nseen == s->max)
				continue;
			s->seen[s->nseen++] = w;
			if (cycle_reaches(t, w->object, &w->want, who, s))
				return true;
		}
	}
	return false;
}

static bool would_deadlock(const struct lock_table *t, const struct lock_object *o, const struct lock_range *want)
{
	struct cycle_search s = {.max = t->nwaiting < 256 ? t->nwaiting : 256};
	bool found;

	if (!s.max)
		return false;
	s.seen = calloc(s.max, sizeof(*s.seen));
	if (!s.seen)
		return false;
	found = cycle_reaches(t, o, want, want->who, &s);
	free(s.seen);
	return found;
}

int lock_take(struct lock_table *t, const void *key, size_t keylen, const struct lock_range *want, struct lock_waiter *wait,
	struct list *granted)
{
	struct lock_object *o;
	int r;

	if (want->start < 0 || want->end < want->start)
		return -EINVAL;
	if (t->nheld >= LOCK_MAX || (want->account && *want->account >= t->account_max))
		return -ENOLCK;
	o = object_get(t, key, keylen, true);
	if (!o)
		return -ENOMEM;
	if (!object_blocker(o, want)) {
		r = object_take(t, o, want);
		object_wake(t, o, granted); /* a downgrade lets readers in */
		object_put(t, o);
		return r;
	}
	if (!wait) {
		object_put(t, o);
		return -EAGAIN;
	}
	if (!t->whole && would_deadlock(t, o, want)) {
		object_put(t, o);
		return -EDEADLK;
	}
	if (t->whole) {
		struct held *none = NULL; /* a whole-file range is never split */

		object_cut(t, o, want->who, 0, LOCK_EOF, &none);
	}
	wait->want = *want;
	wait->object = o;
	list_add_tail(&o->waiters, &wait->in_object);
	list_add_tail(&t->waiters, &wait->in_table);
	t->nwaiting++;
	if (t->whole)
		object_wake(t, o, granted);
	return -EINPROGRESS;
}

int lock_drop(struct lock_table *t, const void *key, size_t keylen, struct lock_owner who, int64_t start, int64_t end,
	struct list *granted)
{
	struct lock_object *o = object_get(t, key, keylen, false);
	struct held *spare;

	if (start < 0 || end < start)
		return -EINVAL;
	if (!o)
		return 0;
	spare = malloc(sizeof(*spare));
	if (!spare)
		return -ENOMEM;
	object_cut(t, o, who, start, end, &spare);
	free(spare);
	object_wake(t, o, granted);
	object_put(t, o);
	return 0;
}

bool lock_next(const struct lock_table *t, const void *key, size_t keylen, struct lock_owner who, int64_t at, struct lock_range *out)
{
	const struct lock_object *o = hash_get(&t->objects, key, keylen);
	const struct held *h, *first = NULL;

	if (o)
		list_each(h, &o->held, link)
			if (owner_same(h->r.who, who) && h->r.end >= at && (!first || h->r.start < first->r.start))
				first = h;
	if (first)
		*out = first->r;
	return first != NULL;
}

bool lock_holds(const struct lock_table *t, const void *key, size_t keylen, struct lock_owner who)
{
	struct lock_range r;

	return lock_next(t, key, keylen, who, 0, &r);
}

bool lock_test(const struct lock_table *t, const void *key, size_t keylen, const struct lock_range *want, struct lock_range *out)
{
	const struct lock_object *o = hash_get(&t->objects, key, keylen);
	const struct lock_range *b = o ? object_blocker(o, want) : NULL;

	if (b)
		*out = *b;
	return b != NULL;
}

bool lock_blocks(const struct lock_table *t, uint64_t client)
{
	struct lock_waiter *w;
	struct held *h;

	list_each(w, &t->waiters, in_table) {
		if (w->want.who.client == client)
			continue;
		list_each(h, &w->object->held, link)
			if (h->r.who.client == client && ranges_conflict(&h->r, &w->want))
				return true;
	}
	return false;
}

void lock_mark(struct lock_table *t, const void *key, size_t keylen, struct lock_owner who, int64_t start, int64_t end, uint64_t mark)
{
	struct lock_object *o = object_get(t, key, keylen, false);
	struct held *h;

	if (!o)
		return;
	list_each(h, &o->held, link)
		if (owner_same(h->r.who, who) && h->r.start <= end && start <= h->r.end)
			h->r.mark = mark;
}

/* The next range that lock_yield() is to take away. */
static bool yields(struct lock_table *t, const void *key, size_t keylen, struct lock_owner who, const enum lock_type *type, int64_t start, int64_t end, uint64_t mark,
	struct lock_range *out)
{
	struct lock_object *o = object_get(t, key, keylen, false);
	struct held *h;

	if (!o)
		return false;
	list_each(h, &o->held, link)
		if (h->r.mark == mark && !owner_same(h->r.who, who) && h->r.start <= end && start <= h->r.end && (!type || h->r.type > *type)) {
			*out = h->r;
			return true;
		}
	return false;
}

void lock_yield(struct lock_table *t, const void *key, size_t keylen, struct lock_owner who, const enum lock_type *type, int64_t start, int64_t end, uint64_t mark,
	struct list *granted)
{
	struct lock_range r;

	while (mark && yields(t, key, keylen, who, type, start, end, mark, &r))
		if (lock_drop(t, key, keylen, r.who, r.start > start ? r.start : start, r.end < end ? r.end : end, granted) < 0)
			return;
}

void lock_forget(struct lock_table *t, struct lock_waiter *w)
{
	struct lock_object *o = w->object;

	waiter_unlink(t, w);
	object_put(t, o);
}

struct lock_waiter *lock_find_waiter(struct lock_table *t, struct lock_owner who, uint64_t ticket)
{
	struct lock_waiter *w;

	list_each(w, &t->waiters, in_table)
		if (w->ticket == ticket && owner_same(w->want.who, who))
			return w;
	return NULL;
}

static void object_drop_client(struct lock_table *t, struct lock_object *o, uint64_t client, struct list *orphans)
{
	struct lock_waiter *w, *nextw;
	struct held *h, *next;

	list_each_safe(w, nextw, &o->waiters, in_object)
		if (w->want.who.client == client) {
			waiter_unlink(t, w);
			list_add_tail(orphans, &w->in_object);
		}
	list_each_safe(h, next, &o->held, link)
		if (h->r.who.client == client) {
			list_del(&h->link);
			held_count(t, &h->r, -1);
			free(h);
		}
}

void lock_drop_client(struct lock_table *t, uint64_t client, struct list *granted, struct list *orphans)
{
	struct hash_iter it = {0};
	struct lock_object *o;

	while ((o = hash_next(&t->objects, &it))) {
		object_drop_client(t, o, client, orphans);
		object_wake(t, o, granted);
		object_put(t, o); /* takes only the object just returned */
	}
}

