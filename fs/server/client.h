/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The clients of this server. A client is one running spritefs: the name in its certificate and its boot epoch. It lives while it calls (Renew at
 * least). Silent for longer than CLIENT_TERM_NS it is given up as soon as others wait for its leases or locks, else after CLIENT_FORGET_NS, and
 * everything it held here goes. A later call makes a new client with another number (`id`, the protocol's lease_epoch), so that what it still
 * believes to hold is refused. One that lives but does not acknowledge a recall is fenced: refused everything for a term, then given up.
 *
 * Locking: `clients.lock` guards the map and each client's `instance` and `stream`; a client's counters are atomic. Counted references.
 */
#ifndef FS_SERVER_CLIENT_H
#define FS_SERVER_CLIENT_H
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "conf/hash.h"
#include "conf/list.h"

#define CLIENT_TERM_NS	   6000000000ull  /* of leases: a client that was not answered for so long has none */
#define CLIENT_MARGIN_NS   1000000000ull
#define CLIENT_FORGET_NS   60000000000ull /* open files and locks of a silent client that is in nobody's way */
#define CLIENT_MAX_OPENS   65536 /* this and the following: of all clients of one host, that is of one certificate */
#define CLIENT_MAX_WAITING 4096 /* locks */
#define CLIENT_MAX_PARKED  8192 /* operations that wait for acknowledgements */
#define CLIENT_MAX_PARKED_BYTES (64l << 20) /* data that wait with them */
#define CLIENT_MAX_LOCKS   65536 /* ranges */
#define CLIENT_MAX_HANDS   8192
#define CLIENT_MAX_EVENTS  262144 /* recalls that wait to be sent; who lets more pile up is cut off and comes again */
#define CLIENT_MAX_PER_PEER 64

struct event_stream;

/* What all clients of one host have together: one that starts client after client gets no more by it. Lives as long as the table. */
struct host_use {
	atomic_int opens, waiting, parked, hands, events;
	atomic_long parked_bytes;
	long locks; /* locks.lock */
};

struct client {
	struct list link; /* of those given up, while being released */
	uint64_t id;
	char *peer;
	struct host_use *host;
	uint64_t epoch;
	char instance[256];
	struct event_stream *stream; /* NULL: none at the moment */
	atomic_int refs;
	atomic_uint_fast64_t last_seen; /* boot time, ns */
	atomic_int nopens, nwaiting, nparked;
	atomic_uint_fast64_t calls;
	atomic_bool gone;
	atomic_bool given_up; /* it was silent: it may come back, as another client */
	atomic_bool noted;		    /* on the list of clients on disk (recover.h) */
	atomic_bool leases;		    /* it takes leases */
	atomic_uint_fast64_t fenced;	    /* since when its calls are refused (boot time, ns); 0: they are not */
};

struct clients {
	pthread_mutex_t lock;
	struct hash by_name; /* "peer epoch" */
	struct hash hosts;   /* peer -> struct host_use */
	uint64_t next_id;
};

void clients_init(struct clients *t);
void clients_destroy(struct clients *t);
/* Finds or makes, and notes that it was seen. NULL: too many of that peer, or no memory. Counted. */
struct client *clients_get(struct clients *t, const char *peer, uint64_t epoch);
struct client *client_ref(struct client *c);
void client_put(struct client *c);
/* This client serves that mount now: an older epoch of the same peer and instance is moved to `gone`. */
void clients_claim(struct clients *t, struct client *c, const char *instance, struct list *gone);
/* Takes out those silent for too long, or fenced for a term (counted, by `link`). `in_the_way`: do others wait for it? Asked of who has been silent for a term, without the lock; may be NULL. */
void clients_sweep(struct clients *t, uint64_t now, bool (*in_the_way)(void *arg, struct client *c), void *arg, struct list *gone);
/* Fences the client with this number. */
void clients_fence(struct clients *t, uint64_t id, uint64_t now);
/* Calls fn for each under the lock. */
void clients_each(struct clients *t, void (*fn)(void *arg, struct client *c), void *arg);

#endif
