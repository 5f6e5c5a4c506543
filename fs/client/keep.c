// SPDX-License-Identifier: Apache-2.0
/*
 * The store of records; keep.h tells what for.
 *
 * The memfd is cut into segments of 64 KiB. A table at its beginning says of each: free, cut into slots of one class, or the first of several that
 * make one big record. The table and the `kind` of each record are all that the next process goes by: lists of free slots are found anew from them.
 * A segment's entry is written before anything in it is committed, and never changed: what lies inside a big one is never taken for records.
 */
#include "fs/client/keep.h"
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAGIC	 0x70656b2d65746972ull
#define LAYOUT	 ((uint64_t)sizeof(struct keep_head) << 8 | 7)
#define SEGMENT	 (64u << 10)
#define SEGMENTS 65536u /* 4 GiB of addresses; memory is taken as it is used */
#define BIG	 0x80000000u
#define CACHED	 24u /* big ones of one size that keep their memory when they are free */

static const uint32_t class_size[] = {64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 8192, 16384};
#define CLASSES (sizeof(class_size) / sizeof(class_size[0]))

struct free_slot { /* lies where data[] is, so that `kind` stays KEEP_NONE */
	struct keep k;
	struct keep *next;
};

struct free_big {
	struct free_big *next;
	uint32_t first, n;
	bool resident;
};

static struct {
	pthread_mutex_t lock;
	int fd;
	uint8_t *base;
	struct keep_head *head;
	_Atomic uint32_t *table; /* 0: free; class + 1; BIG | segments */
	uint32_t used;		 /* segments from the beginning that were ever used */
	struct keep *slots[CLASSES];
	struct free_big *big;
	unsigned resident;
} store = {.lock = PTHREAD_MUTEX_INITIALIZER, .fd = -1};

static uint8_t *segment(uint32_t i)
{
	return store.base + (size_t)i * SEGMENT;
}

int keep_fd(void)
{
	return store.fd;
}

struct keep_head *keep_head(void)
{
	return store.head;
}

static void slot_free(struct keep *k, uint32_t class)
{
	struct free_slot *f = (struct free_slot *)k;

	k->place = class;
	f->next = store.slots[class];
	store.slots[class] = k;
}

/* All slots of a segment that are not committed. */
static void segment_slots(uint32_t i, uint32_t class)
{
	uint32_t size = class_size[class], at;

	for (at = 0; at + size <= SEGMENT; at += size) {
		struct keep *k = (struct keep *)(segment(i) + at);

		k->room = size - (uint32_t)sizeof(*k);
		if (atomic_load(&k->kind) == KEEP_NONE)
			slot_free(k, class);
	}
}

static bool big_remember(uint32_t first, uint32_t n, bool resident)
{
	struct free_big *b = malloc(sizeof(*b));

	if (!b)
		return false;
	*b = (struct free_big){store.big, first, n, resident};
	store.big = b;
	store.resident += resident;
	return true;
}

/* What an earlier process left. */
static int adopt(void)
{
	uint32_t i, t, n, head = (uint32_t)((sizeof(struct keep_head) + SEGMENTS * sizeof(uint32_t) + SEGMENT - 1) / SEGMENT);

	if (store.head->magic != MAGIC || store.head->layout != LAYOUT)
		return -EPROTO;
	for (i = head; i < SEGMENTS; i += n) {
		t = atomic_load(&store.table[i]);
		n = t & BIG ? t & ~BIG : 1;
		if (!t)
			continue;
		store.used = i + n;
		if (!(t & BIG)) {
			if (t > CLASSES)
				return -EPROTO;
			segment_slots(i, t - 1);
		} else if (!n || n > SEGMENTS - i) {
			return -EPROTO;
		} else if (atomic_load(&((struct keep *)segment(i))->kind) == KEEP_NONE) {
			madvise(segment(i), (size_t)n * SEGMENT, MADV_REMOVE);
			big_remember(i, n, false);
		}
	}
	store.used = store.used > head ? store.used : head;
	return 0;
}

int keep_open(int fd)
{
	size_t size = (size_t)SEGMENTS * SEGMENT;
	bool fresh = fd < 0;

	if (fresh) {
		fd = memfd_create("spritefs", MFD_CLOEXEC);
		if (fd < 0 || ftruncate(fd, (off_t)size) < 0)
			return -errno;
	}
	store.base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (store.base == MAP_FAILED)
		return -errno;
	store.fd = fd;
	store.head = (struct keep_head *)store.base;
	store.table = (_Atomic uint32_t *)(store.base + sizeof(struct keep_head));
	if (!fresh)
		return adopt();
	store.used = (uint32_t)((sizeof(struct keep_head) + SEGMENTS * sizeof(uint32_t) + SEGMENT - 1) / SEGMENT);
	store.head->layout = LAYOUT;
	store.head->magic = MAGIC;
	return 0;
}

/* With the lock. */
static struct keep *small_new(uint32_t class)
{
	struct keep *k = store.slots[class];

	if (!k && store.used < SEGMENTS) {
		atomic_store(&store.table[store.used], class + 1);
		segment_slots(store.used++, class);
		k = store.slots[class];
	}
	if (k)
		store.slots[class] = ((struct free_slot *)k)->next;
	return k;
}

/* With the lock. */
static struct keep *big_new(uint32_t n)
{
	struct free_big **at, *b;
	struct keep *k;
	uint32_t first;

	for (at = &store.big; (b = *at); at = &b->next)
		if (b->n == n)
			break;
	if (b) {
		first = b->first;
		*at = b->next;
		store.resident -= b->resident;
		free(b);
	} else if (store.used + n <= SEGMENTS) {
		first = store.used;
		store.used += n;
		atomic_store(&store.table[first], BIG | n);
	} else {
		return NULL;
	}
	k = (struct keep *)segment(first);
	k->room = n * SEGMENT - (uint32_t)sizeof(*k);
	k->place = BIG | first;
	return k;
}

struct keep *keep_new(size_t len)
{
	size_t need = len + sizeof(struct keep);
	struct keep *k;
	uint32_t class;

	pthread_mutex_lock(&store.lock);
	for (class = 0; class < CLASSES && class_size[class] < need; class++)
		;
	k = class < CLASSES ? small_new(class) : big_new((uint32_t)((need + SEGMENT - 1) / SEGMENT));
	pthread_mutex_unlock(&store.lock);
	if (k)
		k->len = (uint32_t)len;
	return k;
}

void keep_commit(struct keep *k, enum keep_kind kind, uint64_t key)
{
	k->key = key;
	k->version = atomic_fetch_add(&store.head->next_version, 1) + 1;
	atomic_store(&k->kind, kind);
}

struct keep *keep_put(struct keep *old, enum keep_kind kind, uint64_t key, const void *bytes, size_t len)
{
	struct keep *k = keep_new(len);

	if (!k)
		return NULL;
	memcpy(k->data, bytes, len);
	keep_commit(k, kind, key);
	keep_free(old);
	return k;
}

void keep_free(struct keep *k)
{
	uint32_t first, n;
	bool resident;

	if (!k)
		return;
	atomic_store(&k->kind, KEEP_NONE);
	pthread_mutex_lock(&store.lock);
	if (!(k->place & BIG)) {
		slot_free(k, k->place);
	} else {
		first = k->place & ~BIG;
		n = atomic_load(&store.table[first]) & ~BIG;
		resident = store.resident < CACHED;
		if (!resident)
			madvise(k, (size_t)n * SEGMENT, MADV_REMOVE);
		big_remember(first, n, resident); /* no memory for that: those addresses are lost to us, no more */
	}
	pthread_mutex_unlock(&store.lock);
}

/* ---- at the start */

struct found {
	struct keep **all;
	size_t n, room;
};

static void found_add(struct found *f, struct keep *k)
{
	if (f->n == f->room) {
		f->room = f->room ? f->room * 2 : 256;
		f->all = realloc(f->all, f->room * sizeof(*f->all));
		if (!f->all)
			abort(); /* a part of what is kept is worse than none */
	}
	f->all[f->n++] = k;
}

static void find(enum keep_kind kind, struct found *f)
{
	uint32_t i, t, n, at, head = (uint32_t)((sizeof(struct keep_head) + SEGMENTS * sizeof(uint32_t) + SEGMENT - 1) / SEGMENT);

	for (i = head; i < store.used; i += n) {
		t = atomic_load(&store.table[i]);
		n = t & BIG ? t & ~BIG : 1;
		if (t & BIG) {
			if (atomic_load(&((struct keep *)segment(i))->kind) == kind)
				found_add(f, (struct keep *)segment(i));
			continue;
		}
		for (at = 0; t && at + class_size[t - 1] <= SEGMENT; at += class_size[t - 1])
			if (atomic_load(&((struct keep *)(segment(i) + at))->kind) == kind)
				found_add(f, (struct keep *)(segment(i) + at));
	}
}

static int by_key(const void *a, const void *b)
{
	const struct keep *x = *(struct keep *const *)a, *y = *(struct keep *const *)b;

	if (x->key != y->key)
		return x->key < y->key ? -1 : 1;
	return x->version < y->version ? 1 : -1; /* the latest first */
}

void keep_each(enum keep_kind kind, void (*fn)(void *arg, struct keep *k), void *arg)
{
	struct found f = {0};
	uint64_t last = 0;
	size_t i;

	pthread_mutex_lock(&store.lock);
	find(kind, &f);
	pthread_mutex_unlock(&store.lock);
	if (f.n)
		qsort(f.all, f.n, sizeof(*f.all), by_key);
	for (i = 0; i < f.n; i++) {
		struct keep *k = f.all[i];

		if (i && k->key == last) {
			keep_free(k); /* killed between the new version and the end of the old */
			continue;
		}
		last = k->key;
		fn(arg, k);
	}
	free(f.all);
}

size_t keep_count(enum keep_kind kind)
{
	struct found f = {0};

	pthread_mutex_lock(&store.lock);
	find(kind, &f);
	pthread_mutex_unlock(&store.lock);
	free(f.all);
	return f.n;
}
