// SPDX-License-Identifier: Apache-2.0
/*
 * Hosts in the order in which they are given out, least used and then longest idle: three heaps for each class, with a free slot, with a slot that does low-priority work, with one that does
 * normal work. Pure, as all of select.
 */
#include "migd/select_in.h"
#include <string.h>

/* A second job on one host is worth less to who asks than one on another (its caches, its disk, its memory), and an owner who comes back meets fewer. */
bool host_before(const struct host *a, const struct host *b)
{
	unsigned in_a = a->used * b->slots, in_b = b->used * a->slots; /* at most SELECT_SLOTS_MAX squared */

	if (in_a != in_b)
		return in_a < in_b;
	if (a->idle_since != b->idle_since)
		return a->idle_since < b->idle_since;
	return strcmp(a->name, b->name) < 0;
}

static void heap_put(struct heap *h, enum level l, size_t i, struct host *x)
{
	h->at[i] = x;
	x->pos[l] = i + 1;
}

static void heap_settle(struct heap *h, enum level l, size_t i)
{
	struct host *x = h->at[i];

	while (i && host_before(x, h->at[(i - 1) / 2])) {
		heap_put(h, l, i, h->at[(i - 1) / 2]);
		i = (i - 1) / 2;
	}
	for (size_t kid; (kid = 2 * i + 1) < h->n; i = kid) {
		if (kid + 1 < h->n && host_before(h->at[kid + 1], h->at[kid]))
			kid++;
		if (!host_before(h->at[kid], x))
			break;
		heap_put(h, l, i, h->at[kid]);
	}
	heap_put(h, l, i, x);
}

static void heap_remove(struct heap *h, enum level l, struct host *x)
{
	size_t i = x->pos[l] - 1;
	struct host *last = h->at[--h->n];

	x->pos[l] = 0;
	if (last == x)
		return;
	heap_put(h, l, i, last);
	heap_settle(h, l, i);
}

/* Room for every host of the class was made when it joined (class_reserve), so this cannot fail. */
static void heap_add(struct heap *h, enum level l, struct host *x)
{
	h->n++;
	heap_put(h, l, h->n - 1, x);
	heap_settle(h, l, h->n - 1);
}

void host_refile(struct host *x)
{
	bool want[LEVELS] = {
		[LEVEL_FREE] = x->offers && x->used < x->slots,
		[LEVEL_LOW] = x->offers && x->takeable[SELECT_LOW],
		[LEVEL_NORMAL] = x->offers && x->takeable[SELECT_NORMAL],
	};

	for (int l = 0; l < LEVELS; l++) {
		struct heap *h = &x->class->heap[l];

		if (want[l] && !x->pos[l])
			heap_add(h, l, x);
		else if (want[l])
			heap_settle(h, l, x->pos[l] - 1);
		else if (x->pos[l])
			heap_remove(h, l, x);
	}
}

/* Of those at i and below: who is passed over leaves his children. */
static struct host *best_below(const struct heap *h, size_t i, const char *not_this, const char *nor_this)
{
	struct host *x, *y;

	if (i >= h->n)
		return NULL;
	x = h->at[i];
	if ((!not_this || strcmp(x->name, not_this)) && (!nor_this || strcmp(x->name, nor_this)))
		return x;
	x = best_below(h, 2 * i + 1, not_this, nor_this);
	y = best_below(h, 2 * i + 2, not_this, nor_this);
	return !x || (y && host_before(y, x)) ? y : x;
}

struct host *heap_best(const struct heap *h, const char *not_this, const char *nor_this)
{
	return best_below(h, 0, not_this, nor_this);
}
