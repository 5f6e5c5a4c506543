// SPDX-License-Identifier: Apache-2.0
#include "fs/client/blocks.h"
#include <stdlib.h>
#include <string.h>

struct block {
	struct list link, lru; /* blocks_of.list, blocks.lru */
	struct blocks_of *of;  /* NULL: not in the cache any more */
	uint64_t no;
	unsigned refs;	       /* answers that are being written from it */
	size_t len, given;
	bool end;
	uint8_t data[];
};

struct key {
	uint64_t id, no;
};

void blocks_init(struct blocks *b, size_t bound)
{
	pthread_mutex_init(&b->lock, NULL);
	list_init(&b->lru);
	b->bound = bound;
}

void blocks_of_init(struct blocks_of *of, struct blocks *b, uint64_t id)
{
	of->all = b;
	of->id = id;
	list_init(&of->list);
}

uint64_t blocks_mark(struct blocks *b)
{
	return atomic_load(&b->changes);
}

static struct block *find(struct blocks_of *of, uint64_t no)
{
	struct key k = {of->id, no};

	return hash_get(&of->all->by_no, &k, sizeof(k));
}

/* With the lock. */
static void take_out(struct block *x)
{
	struct key k = {x->of->id, x->no};
	struct blocks *b = x->of->all;

	hash_take(&b->by_no, &k, sizeof(k));
	list_del(&x->link);
	list_del(&x->lru);
	b->bytes -= x->len;
	atomic_fetch_sub(&x->of->n, 1);
	x->of = NULL;
	if (!x->refs)
		free(x);
}

static bool put_in(struct blocks_of *of, struct block *x)
{
	struct key k = {of->id, x->no};
	struct blocks *b = of->all;
	struct block *old = find(of, x->no);

	if (old)
		take_out(old);
	while (b->bytes + x->len > b->bound && !list_empty(&b->lru))
		take_out(list_entry(b->lru.next, struct block, lru));
	if (b->bytes + x->len > b->bound || hash_set(&b->by_no, &k, sizeof(k), x, NULL) < 0)
		return false;
	x->of = of;
	list_add_tail(&of->list, &x->link);
	list_add_tail(&b->lru, &x->lru);
	b->bytes += x->len;
	atomic_fetch_add(&of->n, 1);
	atomic_fetch_add(&of->asked, 1);
	return true;
}

/* `n` bytes from `skip` on. */
static void copy_from(uint8_t *to, const struct iovec *iov, int niov, size_t skip, size_t n)
{
	size_t part;

	for (; n && niov; iov++, niov--) {
		if (skip >= iov->iov_len) {
			skip -= iov->iov_len;
			continue;
		}
		part = iov->iov_len - skip < n ? iov->iov_len - skip : n;
		memcpy(to, (uint8_t *)iov->iov_base + skip, part);
		to += part;
		n -= part;
		skip = 0;
	}
}

void blocks_put(struct blocks_of *of, uint64_t mark, uint64_t off, const struct iovec *iov, int niov, size_t len, bool end, size_t given)
{
	size_t at, n;
	bool kept;

	if (of->changed > mark || off % BLOCK_SIZE)
		return;
	for (at = 0; at < len || (end && at == len && len % BLOCK_SIZE == 0); at += BLOCK_SIZE) {
		struct block *x;

		n = len - at < BLOCK_SIZE ? len - at : BLOCK_SIZE;
		if (n < BLOCK_SIZE && !end)
			return;
		x = calloc(1, sizeof(*x) + n);
		if (!x)
			return;
		x->no = (off + at) / BLOCK_SIZE;
		x->len = n;
		x->end = end && at + n == len;
		x->given = given * n / (len ? len : 1);
		copy_from(x->data, iov, niov, at, n);
		pthread_mutex_lock(&of->all->lock);
		kept = put_in(of, x);
		pthread_mutex_unlock(&of->all->lock);
		if (!kept)
			free(x);
	}
}

bool blocks_get(struct blocks_of *of, uint64_t off, size_t len, struct blocks_held *h)
{
	struct blocks *b = of->all;
	struct block *x = NULL;
	size_t at, n;
	int i;

	h->n = 0;
	h->len = 0;
	if (!atomic_load(&of->n))
		return false;
	pthread_mutex_lock(&b->lock);
	while (h->len < len && h->n < BLOCKS_MAX && (x = find(of, (off + h->len) / BLOCK_SIZE))) {
		at = (off + h->len) % BLOCK_SIZE;
		n = at < x->len ? x->len - at : 0;
		if (n > len - h->len)
			n = len - h->len;
		x->refs++;
		h->block[h->n] = x;
		h->iov[h->n++] = (struct iovec){x->data + at, n};
		h->len += n;
		if (x->end && at + n >= x->len)
			break;
	}
	if (!x || (h->len < len && !x->end)) {
		pthread_mutex_unlock(&b->lock);
		blocks_give(b, h);
		return false;
	}
	for (i = 0; i < h->n; i++) {
		x = h->block[i];
		x->given += h->iov[i].iov_len;
		if (x->given >= x->len)
			take_out(x); /* for the kernel has it */
		else
			list_move_tail(&b->lru, &x->lru);
	}
	atomic_fetch_add(&of->served, 1);
	pthread_mutex_unlock(&b->lock);
	return true;
}

void blocks_give(struct blocks *b, struct blocks_held *h)
{
	struct block *x;

	pthread_mutex_lock(&b->lock);
	while (h->n) {
		x = h->block[--h->n];
		if (!--x->refs && !x->of)
			free(x);
	}
	pthread_mutex_unlock(&b->lock);
}

void blocks_forget(struct blocks_of *of)
{
	struct blocks *b = of->all;

	of->changed = atomic_fetch_add(&b->changes, 1) + 1;
	if (!atomic_load(&of->n))
		return;
	pthread_mutex_lock(&b->lock);
	while (!list_empty(&of->list))
		take_out(list_entry(of->list.next, struct block, link));
	pthread_mutex_unlock(&b->lock);
}
