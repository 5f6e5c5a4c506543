/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file server as one context of its parts. Each part locks itself; parts call each other only in this order and never back:
 * operations -> locks, openstate -> clients -> nothing. No lock is held while a system call on a file runs.
 */
#ifndef FS_SERVER_FSD_H
#define FS_SERVER_FSD_H
#include <pthread.h>
#include <stdatomic.h>
#include "conf/conf.h"
#include "fs/methods.h"
#include "fs/prefix.h"
#include "fs/server/client.h"
#include "fs/server/elect.h"
#include "fs/server/export.h"
#include "fs/server/grant.h"
#include "fs/server/grave.h"
#include "fs/server/openstate.h"
#include "rpc/local.h"
#include "rpc/rpc.h"

struct intents;
struct leases;
struct recover;
struct locks;
struct events;
struct pipes;
struct registrar;
struct unlinked;
struct watches;

#define FSD_CHANGES 65536

#define OP_BUCKETS 26 /* of durations: the n-th counts those below 2^n us, the last one all above as well */
struct op_stat {
	atomic_uint_fast64_t calls, errors, ns, took[OP_BUCKETS];
};

struct fsd {
	const struct conf *conf;
	struct rpc_tls *tls;
	struct rpc_server *server;
	struct local_server *control;
	struct exports exports;
	struct clients clients;
	struct openstate opens;
	struct grants grants;
	struct graves graves;
	struct unlinked *unlinked;
	struct locks *locks;
	struct hands *hands;
	struct leases *leases;
	struct recover *recover;
	struct intents *intents;
	atomic_bool grace_hint; /* false: surely not in grace any more */
	struct events *events;
	struct watches *watches;
	struct pipes *pipes;
	struct registrar *registrar;
	bool stopping;
	bool root; /* this host keeps the prefix table */

	pthread_mutex_t prefix_lock;
	struct prefix_table prefixes; /* root: the table; elsewhere: own domains (prefix_lock) */

	pthread_mutex_t elect_lock;
	struct elect *elect; /* offices of the cluster (elect_lock) */

	/* Attr.change is ctime plus a count of what this server changed; inodes share counters by hash, which only costs a cache refill. */
	atomic_uint_fast64_t changes[FSD_CHANGES];
	struct op_stat stats[FS_NOPS];
};

/* Starts everything but the main loop; on failure fsd_stop() is still to be called. `tls` is used, not owned. */
int fsd_start(struct fsd *d, const struct conf *c, struct rpc_tls *tls, struct error *e);
void fsd_stop(struct fsd *d);
/* Once a second: gives up silent clients, expires prefixes, follows mounts. */
void fsd_tick(struct fsd *d);
/* Clients that were given up: closes and unlocks what they had. Takes the list's references. */
void fsd_release(struct fsd *d, struct list *gone);

/* The table of services for rpc (ops.c); *n entries. */
const struct rpc_service *fsd_services(size_t *n);

/* Own rows of the prefix table, for registration. Caller frees the array; strings are borrowed from conf. */
int fsd_own_prefixes(struct fsd *d, struct prefix **out, size_t *n);
/* Writes the table to state_dir (root server). */
void fsd_prefixes_save(struct fsd *d);
void fsd_prefixes_load(struct fsd *d);

/* control.c */
int control_start(struct fsd *d, struct error *e);
json_t *fsd_status(struct fsd *d);

/* registrar.c: tells the root server of our domains */
int registrar_start(struct fsd *d, struct error *e);
void registrar_stop(struct fsd *d);

/* events.c */
int events_start(struct fsd *d);
void events_stop(struct fsd *d);
void events_serve(void *ctx, struct rpc_stream *s);
void events_push(struct fsd *d, Sprite__Fs__Event__Kind kind, const char *host); /* one without more, to every client, or to those of that host */
void events_drop(struct fsd *d, const struct client *c); /* one that was given up: its stream is of no use to what it is from now on */
/* struct cs_recall, which it frees; lost when the client has no stream now: repeated when it has */
void events_push_recalls(struct fsd *d, struct list *recalls);

/* pipe_hub.c */
int pipes_start(struct fsd *d);
void pipes_stop(struct fsd *d);
void pipes_tick(struct fsd *d);
void pipes_serve(void *ctx, struct rpc_stream *s);

/* locks.c */
int locks_start(struct fsd *d);
void locks_stop(struct fsd *d);
void locks_drop_client(struct fsd *d, uint64_t client);
/* Marks the locks of the open's client that an offer names (hand.h). */
void locks_mark(struct fsd *d, const struct open *o, const Sprite__Fs__HandReq *in, uint64_t mark);
void locks_drop_flock(struct fsd *d, const struct open *o, uint64_t owner);
bool locks_in_the_way(struct fsd *d, uint64_t client); /* it holds one, and somebody waits */
/* Clients of the last run have said what they hold: what was kept for others is let go of. Nothing to do: at once. */
void locks_settle(struct fsd *d);
void locks_tick(struct fsd *d);
void locks_count(struct fsd *d, size_t *held, size_t *waiting);

#endif
