/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See replycache.h. A client's entries are in a list by number and in a small hash; clients are in a list by last use.
 * With 4096 clients at most a search by hash of (peer, epoch) would pay, and is done: the buckets of `table`.
 */
#include "rpc/replycache.h"
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#define TABLE	1024 /* buckets of clients; a power of two */
#define BUCKETS 32   /* buckets of one client's entries; a power of two */

struct entry {
	TAILQ_ENTRY(entry) order; /* by seq */
	LIST_ENTRY(entry) bucket;
	uint64_t seq;
	bool running;
	void *reply;
	size_t bytes;
	void **waiters;
	size_t nwaiters;
};
TAILQ_HEAD(entry_list, entry);
LIST_HEAD(entry_bucket, entry);

struct client {
	TAILQ_ENTRY(client) used; /* by last use, oldest first */
	LIST_ENTRY(client) bucket;
	uint64_t epoch, acked;
	uint64_t evicted; /* highest number of an answer that was dropped for want of room */
	size_t done, running, bytes;
	struct entry_list entries;
	struct entry_bucket hash[BUCKETS];
	char peer[];
};
TAILQ_HEAD(client_list, client);
LIST_HEAD(client_bucket, client);

struct replycache {
	struct replycache_limits limits;
	void (*drop)(void *reply);
	size_t clients, entries;
	struct client_list used;
	struct client_bucket table[TABLE];
};

struct replycache *replycache_new(const struct replycache_limits *l, void (*drop)(void *reply))
{
	struct replycache *rc = calloc(1, sizeof(*rc));

	if (!rc)
		return NULL;
	rc->limits = *l;
	rc->drop = drop;
	TAILQ_INIT(&rc->used);
	return rc;
}

static void entry_free(struct replycache *rc, struct client *c, struct entry *e)
{
	TAILQ_REMOVE(&c->entries, e, order);
	LIST_REMOVE(e, bucket);
	if (e->running) {
		c->running--;
	} else {
		c->done--;
		c->bytes -= e->bytes;
	}
	rc->entries--;
	if (e->reply)
		rc->drop(e->reply);
	free(e->waiters);
	free(e);
}

static void client_free(struct replycache *rc, struct client *c)
{
	while (!TAILQ_EMPTY(&c->entries))
		entry_free(rc, c, TAILQ_FIRST(&c->entries));
	TAILQ_REMOVE(&rc->used, c, used);
	LIST_REMOVE(c, bucket);
	rc->clients--;
	free(c);
}

void replycache_free(struct replycache *rc)
{
	if (!rc)
		return;
	while (!TAILQ_EMPTY(&rc->used))
		client_free(rc, TAILQ_FIRST(&rc->used));
	free(rc);
}

/* FNV-1a over the name and the epoch. */
static struct client_bucket *client_slot(struct replycache *rc, const char *peer, uint64_t epoch)
{
	uint64_t h = 0xcbf29ce484222325ull ^ epoch;

	for (; *peer; peer++)
		h = (h ^ (unsigned char)*peer) * 0x100000001b3ull;
	h ^= h >> 32;
	return &rc->table[h & (TABLE - 1)];
}

static struct client *client_find(struct replycache *rc, const char *peer, uint64_t epoch)
{
	struct client *c;

	LIST_FOREACH(c, client_slot(rc, peer, epoch), bucket)
		if (c->epoch == epoch && !strcmp(c->peer, peer))
			return c;
	return NULL;
}

/* Room for one more client: the oldest one goes, of the same peer if that has its share already. One with a running call stays. */
static void client_room(struct replycache *rc, const char *peer)
{
	struct client *c, *mine = NULL, *any = NULL;
	size_t n = 0;

	TAILQ_FOREACH(c, &rc->used, used) {
		bool own = !strcmp(c->peer, peer);

		n += own;
		if (c->running)
			continue;
		if (!any)
			any = c;
		if (own && !mine)
			mine = c;
	}
	if (n >= rc->limits.per_peer && mine)
		client_free(rc, mine);
	else if (rc->clients >= rc->limits.clients && any)
		client_free(rc, any);
}

static struct client *client_add(struct replycache *rc, const char *peer, uint64_t epoch)
{
	struct client *c;

	client_room(rc, peer);
	c = calloc(1, sizeof(*c) + strlen(peer) + 1);
	if (!c)
		return NULL;
	strcpy(c->peer, peer);
	c->epoch = epoch;
	TAILQ_INIT(&c->entries);
	TAILQ_INSERT_TAIL(&rc->used, c, used);
	LIST_INSERT_HEAD(client_slot(rc, peer, epoch), c, bucket);
	rc->clients++;
	return c;
}

static struct entry *entry_find(struct client *c, uint64_t seq)
{
	struct entry *e;

	LIST_FOREACH(e, &c->hash[seq & (BUCKETS - 1)], bucket)
		if (e->seq == seq)
			return e;
	return NULL;
}

static struct entry *entry_add(struct replycache *rc, struct client *c, uint64_t seq)
{
	struct entry *e = calloc(1, sizeof(*e)), *at;

	if (!e)
		return NULL;
	e->seq = seq;
	e->running = true;
	TAILQ_FOREACH_REVERSE(at, &c->entries, entry_list, order)
		if (at->seq < seq)
			break;
	if (at)
		TAILQ_INSERT_AFTER(&c->entries, at, e, order);
	else
		TAILQ_INSERT_HEAD(&c->entries, e, order);
	LIST_INSERT_HEAD(&c->hash[seq & (BUCKETS - 1)], e, bucket);
	c->running++;
	rc->entries++;
	return e;
}

/* The client has the results of everything below `acked`. What still runs there was given up by it, and goes when it ends. */
static void acknowledge(struct replycache *rc, struct client *c, uint64_t acked)
{
	struct entry *e, *next;

	if (acked <= c->acked)
		return;
	c->acked = acked;
	for (e = TAILQ_FIRST(&c->entries); e && e->seq < acked; e = next) {
		next = TAILQ_NEXT(e, order);
		if (!e->running)
			entry_free(rc, c, e);
	}
}

static void evict(struct replycache *rc, struct client *c)
{
	struct entry *e, *next;

	for (e = TAILQ_FIRST(&c->entries); e && (c->done > rc->limits.entries || c->bytes > rc->limits.bytes); e = next) {
		next = TAILQ_NEXT(e, order);
		if (e->running)
			continue;
		if (e->seq > c->evicted)
			c->evicted = e->seq;
		entry_free(rc, c, e);
	}
}

static enum replycache_verdict join(struct entry *e, void *waiter)
{
	void **w = realloc(e->waiters, (e->nwaiters + 1) * sizeof(*w));

	if (!w)
		return REPLY_NOMEM;
	e->waiters = w;
	e->waiters[e->nwaiters++] = waiter;
	return REPLY_WAIT;
}

enum replycache_verdict replycache_begin(struct replycache *rc, const char *peer, uint64_t epoch, uint64_t seq, uint64_t acked, void *waiter,
	void **reply)
{
	struct client *c = client_find(rc, peer, epoch);
	struct entry *e;

	if (!c)
		c = client_add(rc, peer, epoch);
	if (!c)
		return REPLY_NOMEM;
	TAILQ_REMOVE(&rc->used, c, used);
	TAILQ_INSERT_TAIL(&rc->used, c, used);
	acknowledge(rc, c, acked);
	e = entry_find(c, seq);
	if (e && e->running)
		return join(e, waiter);
	if (e) {
		*reply = e->reply;
		return REPLY_KNOWN;
	}
	if (seq < c->acked || seq <= c->evicted)
		return REPLY_LOST;
	return entry_add(rc, c, seq) ? REPLY_NEW : REPLY_NOMEM;
}

size_t replycache_end(struct replycache *rc, const char *peer, uint64_t epoch, uint64_t seq, void *reply, size_t bytes, void ***waiters)
{
	struct client *c = client_find(rc, peer, epoch);
	struct entry *e = c ? entry_find(c, seq) : NULL;
	size_t n;

	*waiters = NULL;
	if (!e || !e->running) {
		if (reply)
			rc->drop(reply);
		return 0;
	}
	n = e->nwaiters;
	*waiters = e->waiters;
	e->waiters = NULL;
	e->nwaiters = 0;
	e->reply = reply;
	if (!reply || seq < c->acked) {
		entry_free(rc, c, e);
		return n;
	}
	e->running = false;
	e->bytes = bytes;
	c->running--;
	c->done++;
	c->bytes += bytes;
	evict(rc, c);
	return n;
}

size_t replycache_clients(const struct replycache *rc)
{
	return rc->clients;
}

size_t replycache_entries(const struct replycache *rc)
{
	return rc->entries;
}
