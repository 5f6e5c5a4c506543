/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log of intents; see intent.h.
 *
 * Locking: intents.lock guards the file, its size and the records of the last run.
 */
#include "fs/server/intent.h"
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "conf/hash.h"
#include "conf/log.h"

#define MAGIC	 0x49705253u /* "SRpI" */
#define MAGIC_H	 0x4a705253u /* "SRpJ": with a handle, its length before the peer */
#define PEER_MAX 255
#define HEAD	 48 /* magic to extra */

struct intents {
	pthread_mutex_t lock;
	int fd;
	size_t size;
	bool warned;
	char path[4096], old[4096];
	struct hash last; /* key of the last run -> struct intent */
};

struct key {
	uint64_t epoch, seq;
	char peer[PEER_MAX + 1];
};

static size_t key_make(struct key *k, const char *peer, size_t len, uint64_t epoch, uint64_t seq)
{
	k->epoch = epoch;
	k->seq = seq;
	memcpy(k->peer, peer, len);
	return offsetof(struct key, peer) + len;
}

static uint32_t check(const unsigned char *b, size_t n)
{
	uint32_t h = 2166136261u; /* FNV-1a: a torn record must not pass, nobody forges it */

	for (size_t i = 0; i < n; i++)
		h = (h ^ b[i]) * 16777619u;
	return h;
}

static void put_u64(unsigned char *to, uint64_t v)
{
	v = htole64(v);
	memcpy(to, &v, 8);
}

static uint64_t get_u64(const unsigned char *from)
{
	uint64_t v;

	memcpy(&v, from, 8);
	return le64toh(v);
}

static size_t record_pack(unsigned char *b, const char *peer, uint64_t epoch, uint64_t seq, const struct intent *in)
{
	uint16_t len = (uint16_t)strlen(peer), v2[2] = {htole16(in->method), htole16(len)};
	uint32_t magic = htole32(in->handle_len ? MAGIC_H : MAGIC), sum;
	size_t n = HEAD + (size_t)len;

	memcpy(b, &magic, 4);
	memcpy(b + 4, v2, 4);
	put_u64(b + 8, epoch);
	put_u64(b + 16, seq);
	put_u64(b + 24, in->dev);
	put_u64(b + 32, in->ino);
	put_u64(b + 40, in->extra);
	memcpy(b + HEAD, peer, len);
	if (in->handle_len) {
		b[n] = (unsigned char)in->handle_len;
		memcpy(b + n + 1, in->handle, in->handle_len);
		n += 1 + (size_t)in->handle_len;
	}
	sum = htole32(check(b, n));
	memcpy(b + n, &sum, 4);
	return n + 4;
}

static size_t intent_size(size_t handle_len)
{
	return offsetof(struct intent, handle) + handle_len;
}

/* Length of the record at `b`, 0 when there is no whole valid one. */
static size_t record_read(struct intents *t, const unsigned char *b, size_t n)
{
	struct intent it, *in, *was = NULL;
	uint32_t magic, sum;
	uint16_t v2[2];
	size_t len, klen, end, hl = 0;
	struct key k;

	if (n < HEAD + 4)
		return 0;
	memcpy(&magic, b, 4);
	memcpy(v2, b + 4, 4);
	len = le16toh(v2[1]);
	if ((le32toh(magic) != MAGIC && le32toh(magic) != MAGIC_H) || len > PEER_MAX || n < HEAD + len + 4)
		return 0;
	end = HEAD + len;
	if (le32toh(magic) == MAGIC_H) {
		hl = b[end];
		end += 1 + hl;
	}
	if (hl > INTENT_HANDLE_MAX || n < end + 4)
		return 0;
	memcpy(&sum, b + end, 4);
	if (le32toh(sum) != check(b, end))
		return 0;
	it.method = le16toh(v2[0]);
	it.handle_len = (uint16_t)hl;
	it.dev = get_u64(b + 24);
	it.ino = get_u64(b + 32);
	it.extra = get_u64(b + 40);
	memcpy(it.handle, b + end - hl, hl);
	in = malloc(intent_size(hl));
	if (!in)
		return 0;
	memcpy(in, &it, intent_size(hl));
	klen = key_make(&k, (const char *)b + HEAD, len, get_u64(b + 8), get_u64(b + 16));
	if (hash_set(&t->last, &k, klen, in, (void **)&was) < 0)
		free(in);
	free(was);
	return end + 4;
}

/* Returns how much of the file is whole records. */
static size_t file_read(struct intents *t, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	unsigned char *b = fd < 0 ? NULL : malloc(INTENT_FILE_MAX * 2);
	size_t n = 0, at = 0, k;
	ssize_t r;

	while (b && n < INTENT_FILE_MAX * 2 && (r = read(fd, b + n, INTENT_FILE_MAX * 2 - n)) > 0)
		n += (size_t)r;
	while (b && (k = record_read(t, b + at, n - at)))
		at += k;
	free(b);
	if (fd >= 0)
		close(fd);
	return at;
}

struct intents *intents_open(const char *dir)
{
	struct intents *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	pthread_mutex_init(&t->lock, NULL);
	snprintf(t->path, sizeof(t->path), "%s/intents", dir);
	snprintf(t->old, sizeof(t->old), "%s/intents.old", dir);
	file_read(t, t->old);
	t->size = file_read(t, t->path);
	/* goes on in the same file, after the last whole record: the run after this one may need them too */
	t->fd = open(t->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (t->fd < 0 || ftruncate(t->fd, (off_t)t->size) < 0) {
		int err = errno;

		intents_close(t);
		errno = err;
		return NULL;
	}
	return t;
}

void intents_close(struct intents *t)
{
	if (!t)
		return;
	hash_clear(&t->last, free);
	if (t->fd >= 0)
		close(t->fd);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

static void file_turn(struct intents *t)
{
	int fd;

	if (rename(t->path, t->old) < 0)
		return;
	fd = open(t->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (fd < 0)
		return;
	close(t->fd);
	t->fd = fd;
	t->size = 0;
}

static void intent_write(struct intents *t, const unsigned char *b, size_t n)
{
	pthread_mutex_lock(&t->lock);
	if (t->size > INTENT_FILE_MAX)
		file_turn(t);
	if (write(t->fd, b, n) != (ssize_t)n) {
		if (!t->warned)
			log_warn("%s: cannot write: %s; a change repeated after a restart may be answered wrongly", t->path,
				strerror(errno));
		t->warned = true;
	}
	t->size += n;
	pthread_mutex_unlock(&t->lock);
}

void intents_put(struct intents *t, const char *peer, uint64_t epoch, uint64_t seq, const struct intent *in)
{
	struct intent_held h = {.n = 0};

	intents_hold(t, &h, peer, epoch, seq, in);
	intents_flush(t, &h);
}

void intents_hold(struct intents *t, struct intent_held *h, const char *peer, uint64_t epoch, uint64_t seq, const struct intent *in)
{
	if (strlen(peer) > PEER_MAX || in->handle_len > INTENT_HANDLE_MAX)
		return;
	if (sizeof(h->b) - h->n < HEAD + PEER_MAX + 1 + INTENT_HANDLE_MAX + 4)
		intents_flush(t, h);
	h->n += record_pack(h->b + h->n, peer, epoch, seq, in);
}

void intents_flush(struct intents *t, struct intent_held *h)
{
	if (h->n)
		intent_write(t, h->b, h->n);
	h->n = 0;
}

bool intents_take(struct intents *t, const char *peer, uint64_t epoch, uint64_t seq, uint16_t method, struct intent *out)
{
	struct intent *in;
	struct key k;
	size_t klen;

	if (strlen(peer) > PEER_MAX)
		return false;
	klen = key_make(&k, peer, strlen(peer), epoch, seq);
	pthread_mutex_lock(&t->lock);
	in = t->last.count ? hash_get(&t->last, &k, klen) : NULL;
	if (in && in->method == method)
		hash_take(&t->last, &k, klen);
	else
		in = NULL;
	pthread_mutex_unlock(&t->lock);
	if (!in)
		return false;
	memcpy(out, in, intent_size(in->handle_len));
	free(in);
	return true;
}

size_t intents_left(struct intents *t)
{
	size_t n;

	pthread_mutex_lock(&t->lock);
	n = t->last.count;
	pthread_mutex_unlock(&t->lock);
	return n;
}
