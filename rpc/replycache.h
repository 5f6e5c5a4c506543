/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which mutating calls were executed, and what was answered: so that a call that is sent again after a reconnect is not executed again.
 * Decides only: no I/O, no clock, no lock (the server serialises).
 *
 * A client is (peer, epoch): one start of one process of a host. Its calls carry a number that is used once, and a watermark `acked`: every
 * mutating call below has its result. Answers below the watermark are dropped. So the cache holds no more than the client has calls under way;
 * the bounds matter only against clients that misbehave, and then a call that cannot be told from an executed one is refused (REPLY_LOST),
 * never executed twice.
 */
#ifndef RPC_REPLYCACHE_H
#define RPC_REPLYCACHE_H
#include <stddef.h>
#include <stdint.h>

struct replycache;

struct replycache_limits {
	size_t clients;	 /* in all */
	size_t per_peer; /* clients of one peer: the one used longest ago makes room */
	size_t entries;	 /* finished calls of one client */
	size_t bytes;	 /* of finished calls of one client */
};

enum replycache_verdict {
	REPLY_NEW,   /* execute it, then replycache_end() */
	REPLY_WAIT,  /* is being executed: `waiter` is handed out by replycache_end() */
	REPLY_KNOWN, /* *reply is the answer, borrowed until the next call here */
	REPLY_LOST,  /* may have been executed, the answer is gone */
	REPLY_NOMEM,
};

/* drop(reply) frees an answer. */
struct replycache *replycache_new(const struct replycache_limits *l, void (*drop)(void *reply));
void replycache_free(struct replycache *rc);

enum replycache_verdict replycache_begin(struct replycache *rc, const char *peer, uint64_t epoch, uint64_t seq, uint64_t acked, void *waiter,
	void **reply);

/*
 * The call is over. Takes `reply` (NULL: it was not executed, forget it), `bytes` long for the accounts. Returns the number of waiters and
 * their array (caller frees) in *waiters.
 */
size_t replycache_end(struct replycache *rc, const char *peer, uint64_t epoch, uint64_t seq, void *reply, size_t bytes, void ***waiters);

size_t replycache_clients(const struct replycache *rc);
size_t replycache_entries(const struct replycache *rc); /* finished and running ones of all clients */

#endif
