/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A map from bytes, a string or a u64 to a pointer. Keys are copied, values are borrowed. The hash function is keyed at random per process
 * (SipHash: Aumasson and Bernstein 2012), so that names chosen by a peer cannot pile up in one bucket. No locking of its own.
 *
 *	struct hash h = HASH_INIT;
 *	hash_set_u64(&h, ino, inode, NULL);
 *	struct hash_iter it = {0};
 *	while ((inode = hash_next(&h, &it)))
 *		...                          // it.key, it.len; hash_take() of the one just returned is allowed, adding is not
 *	hash_clear(&h, NULL);
 *
 * Use one kind of key per map.
 */
#ifndef CONF_HASH_H
#define CONF_HASH_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct hash_entry;
struct hash {
	struct hash_entry **bucket;
	size_t nbucket; /* 0 or a power of two */
	size_t count;
};
#define HASH_INIT {NULL, 0, 0}

/* NULL when it is not there. */
void *hash_get(const struct hash *h, const void *key, size_t len);
/* `value` must not be NULL. Replaces: *old (may be NULL) is the value before or NULL. 0 or -ENOMEM (nothing changed). */
int hash_set(struct hash *h, const void *key, size_t len, void *value, void **old);
/* Removes and returns the value; NULL when it was not there. */
void *hash_take(struct hash *h, const void *key, size_t len);
/* Removes everything; release(value) for each when not NULL. The map is empty and usable again. */
void hash_clear(struct hash *h, void (*release)(void *value));

struct hash_iter {
	const void *key; /* of the value returned last; valid until that entry is removed */
	size_t len;
	/* private */
	size_t next_bucket;
	struct hash_entry *next;
};
/* In no order. NULL at the end. */
void *hash_next(const struct hash *h, struct hash_iter *it);

static inline void *hash_get_u64(const struct hash *h, uint64_t key)
{
	return hash_get(h, &key, sizeof(key));
}
static inline int hash_set_u64(struct hash *h, uint64_t key, void *value, void **old)
{
	return hash_set(h, &key, sizeof(key), value, old);
}
static inline void *hash_take_u64(struct hash *h, uint64_t key)
{
	return hash_take(h, &key, sizeof(key));
}
static inline uint64_t hash_iter_u64(const struct hash_iter *it)
{
	uint64_t key;

	memcpy(&key, it->key, sizeof(key));
	return key;
}
static inline void *hash_get_str(const struct hash *h, const char *key)
{
	return hash_get(h, key, strlen(key) + 1);
}
/* The copied key keeps its NUL: it->key is a C string while iterating. */
static inline int hash_set_str(struct hash *h, const char *key, void *value, void **old)
{
	return hash_set(h, key, strlen(key) + 1, value, old);
}
static inline void *hash_take_str(struct hash *h, const char *key)
{
	return hash_take(h, key, strlen(key) + 1);
}

/* Keyed hash of bytes, the same for the life of the process; for tables of one's own and for spreading over shards. */
uint64_t hash_bytes(const void *data, size_t len);

#endif
