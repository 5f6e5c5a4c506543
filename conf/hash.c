// SPDX-License-Identifier: Apache-2.0
/* Hash map with chains: see hash.h. Doubles when it holds as many entries as buckets; never shrinks before hash_clear(). */
#include "conf/hash.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>
#include "conf/siphash.h"

struct hash_entry {
	struct hash_entry *next;
	uint64_t hash;
	void *value;
	size_t len;
	char key[];
};

static uint64_t seed[2];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void seed_init(void)
{
	if (getrandom(seed, sizeof(seed), 0) != (ssize_t)sizeof(seed))
		seed[0] = (uint64_t)time(NULL) * 0x9e3779b97f4a7c15ull;
}

/* SipHash-1-3: one round per word, three at the end; enough for a table whose order is never shown. */
uint64_t hash_bytes(const void *data, size_t len)
{
	uint64_t v[4];

	pthread_once(&once, seed_init);
	sip_begin(v, seed);
	sip_absorb(v, data, len, 1);
	v[2] ^= 0xff;
	sip_rounds(v, 3);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* The link that points to the entry, or to the NULL where it would be appended. */
static struct hash_entry **find(const struct hash *h, uint64_t hash, const void *key, size_t len)
{
	struct hash_entry **at = &h->bucket[hash & (h->nbucket - 1)];

	while (*at && !((*at)->hash == hash && (*at)->len == len && (!len || !memcmp((*at)->key, key, len))))
		at = &(*at)->next;
	return at;
}

void *hash_get(const struct hash *h, const void *key, size_t len)
{
	struct hash_entry *e;

	if (!h->count)
		return NULL;
	e = *find(h, hash_bytes(key, len), key, len);
	return e ? e->value : NULL;
}

static int grow(struct hash *h)
{
	size_t n = h->nbucket ? h->nbucket * 2 : 16;
	struct hash_entry **b = calloc(n, sizeof(*b)), *e;

	if (!b)
		return -ENOMEM;
	for (size_t i = 0; i < h->nbucket; i++)
		while ((e = h->bucket[i])) {
			h->bucket[i] = e->next;
			e->next = b[e->hash & (n - 1)];
			b[e->hash & (n - 1)] = e;
		}
	free(h->bucket);
	h->bucket = b;
	h->nbucket = n;
	return 0;
}

int hash_set(struct hash *h, const void *key, size_t len, void *value, void **old)
{
	uint64_t hash = hash_bytes(key, len);
	struct hash_entry **at, *e;

	if (old)
		*old = NULL;
	/* Failing to grow is only slow, unless there is no bucket at all. */
	if (h->count >= h->nbucket && grow(h) && !h->nbucket)
		return -ENOMEM;
	at = find(h, hash, key, len);
	if ((e = *at)) {
		if (old)
			*old = e->value;
		e->value = value;
		return 0;
	}
	e = malloc(sizeof(*e) + len);
	if (!e)
		return -ENOMEM;
	*e = (struct hash_entry){.hash = hash, .value = value, .len = len};
	if (len)
		memcpy(e->key, key, len);
	*at = e;
	h->count++;
	return 0;
}

void *hash_take(struct hash *h, const void *key, size_t len)
{
	struct hash_entry **at, *e;
	void *value;

	if (!h->count)
		return NULL;
	at = find(h, hash_bytes(key, len), key, len);
	if (!(e = *at))
		return NULL;
	value = e->value;
	*at = e->next;
	free(e);
	h->count--;
	return value;
}

void hash_clear(struct hash *h, void (*release)(void *value))
{
	struct hash_entry *e;

	for (size_t i = 0; i < h->nbucket; i++)
		while ((e = h->bucket[i])) {
			h->bucket[i] = e->next;
			if (release)
				release(e->value);
			free(e);
		}
	free(h->bucket);
	*h = (struct hash)HASH_INIT;
}

void *hash_next(const struct hash *h, struct hash_iter *it)
{
	struct hash_entry *e = it->next;

	while (!e) {
		if (it->next_bucket >= h->nbucket)
			return NULL;
		e = h->bucket[it->next_bucket++];
	}
	it->next = e->next;
	it->key = e->key;
	it->len = e->len;
	return e->value;
}
