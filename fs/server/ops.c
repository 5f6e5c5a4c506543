/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The frame of every operation: finds the client, calls the handler, makes the thread root again, answers errors. Runs on rpc's workers.
 */
#include "fs/server/ops.h"
#include "fs/server/lease.h"
#include "fs/server/recover.h"
#include "fs/server/unlinked.h"
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
#include "conf/clock.h"

#define ROOM_TRIES 25
#define ROOM_US	   20000

static const op_handler handlers[FS_NOPS] = {
	[FS_PREFIXES] = op_prefixes,
	[FS_REGISTER] = op_register,
	[FS_ATTACH] = op_attach,
	[FS_RENEW] = op_renew,
	[FS_LOOKUP] = op_lookup,
	[FS_GETATTR] = op_getattr,
	[FS_SETATTR] = op_setattr,
	[FS_READLINK] = op_readlink,
	[FS_MAKE] = op_make,
	[FS_LINK] = op_link,
	[FS_REMOVE] = op_remove,
	[FS_RENAME] = op_rename,
	[FS_OPEN] = op_open_file,
	[FS_CREATE] = op_create,
	[FS_CLOSE] = op_close,
	[FS_READ] = op_read,
	[FS_WRITE] = op_write,
	[FS_FSYNC] = op_fsync,
	[FS_FALLOCATE] = op_fallocate,
	[FS_COPY] = op_copy,
	[FS_SEEK] = op_seek,
	[FS_READDIR] = op_readdir,
	[FS_STATFS] = op_statfs,
	[FS_GETXATTR] = op_getxattr,
	[FS_SETXATTR] = op_setxattr,
	[FS_LISTXATTR] = op_listxattr,
	[FS_REMOVEXATTR] = op_removexattr,
	[FS_LOCK] = op_lock,
	[FS_HAND] = op_hand,
	[FS_STATUS] = op_status,
	[FS_ELECT] = op_elect,
	[FS_BATCH] = op_batch,
	[FS_REFRESH] = op_refresh,
};

static void parked_count(struct op *o, int d)
{
	atomic_fetch_add(&o->client->nparked, d);
	atomic_fetch_add(&o->client->host->parked, d);
	atomic_fetch_add(&o->client->host->parked_bytes, d * (long)(o->in->bulk_len + (size_t)o->nhopes * 2 * sizeof(*o->hopes)));
}

/* A removed file may be open only because its close is still on its way (clients send them together, every 100 ms), or is just being freed by somebody else. Once for an operation. */
static bool wait_for_room(struct op *o)
{
	bool waits = unlinked_busy(o->d);

	o->waited = true;
	for (int i = 0; i < ROOM_TRIES && unlinked_busy(o->d); i++) {
		usleep(ROOM_US);
		if (unlinked_run(o->d) + graves_expire(&o->d->graves, UINT64_MAX))
			break;
	}
	return waits;
}

void op_run(struct op *o)
{
	bool hurried;

	if (o->lingers) {
		op_linger_end(o);
		return;
	}
	for (;;) {
		if (o->counted)
			parked_count(o, -1);
		o->counted = false;
		int is = OP_RUNNING, r = handlers[o->method](o, o->in->msg);

		if (r == OP_LATER)
			return;
		if (r == -ENOSPC) { /* perhaps what we keep of removed files was the last of it: once more */
			op_root(o);
			if (unlinked_run(o->d) + graves_expire(&o->d->graves, UINT64_MAX) || (!o->waited && wait_for_room(o)))
				continue;
		}
		if (r != OP_PARK) {
			op_fail(o, r < 0 ? -r : EIO);
			return;
		}
		op_root(o);
		if (atomic_load(&o->client->host->parked) >= CLIENT_MAX_PARKED || atomic_load(&o->client->host->parked_bytes) >= CLIENT_MAX_PARKED_BYTES) { /* it costs memory: not without end */
			op_fail(o, EAGAIN);
			return;
		}
		o->counted = true;
		parked_count(o, 1);
		hurried = o->hurried;
		o->hurried = false;
		if (o->busy) { /* nobody will wake it */
			o->busy = false;
			lease_requeue(o->d, o);
			return;
		}
		if (atomic_compare_exchange_strong(&o->park, &is, OP_PARKED))
			return; /* whoever wakes it owns it now */
		o->hurried = hurried;
		atomic_store(&o->park, OP_RUNNING); /* it may go on already */
	}
}

/* After these the client may hold something that it must be able to bring back after a restart. */
static bool holds_something(enum fs_op m)
{
	return m == FS_ATTACH || m == FS_OPEN || m == FS_CREATE || m == FS_LOCK || m == FS_HAND ||
		m == FS_BATCH;
}

static void serve(struct fsd *d, struct rpc_request *rq, enum fs_op method)
{
	struct op *o = op_new(d, rq, method, clients_get(&d->clients, rpc_request_peer(rq), rpc_request_epoch(rq)));

	if (!o) {
		rpc_reply(rq, ENOMEM, NULL, NULL, 0, NULL, NULL);
		return;
	}
	if (!o->client)
		op_fail(o, EUSERS);
	else if (atomic_load(&o->client->fenced))
		op_fail(o, ESTALE); /* it did not give back what others wait for */
	else if (!atomic_load(&o->client->noted) && holds_something(method) && recover_note(d, o->client) < 0)
		op_fail(o, EIO);
	else if (!recover_park(o))
		op_run(o);
}

#define SERVE(M)                                                                                             \
	static void serve_##M(void *ctx, struct rpc_request *rq)                                             \
	{                                                                                                    \
		serve(ctx, rq, FS_##M);                                                                      \
	}
#define EACH(X)                                                                                              \
	X(PREFIXES)                                                                                          \
	X(REGISTER)                                                                                          \
	X(ATTACH)                                                                                            \
	X(RENEW)                                                                                             \
	X(LOOKUP)                                                                                            \
	X(GETATTR)                                                                                           \
	X(SETATTR)                                                                                           \
	X(READLINK)                                                                                          \
	X(MAKE)                                                                                              \
	X(LINK)                                                                                              \
	X(REMOVE)                                                                                            \
	X(RENAME)                                                                                            \
	X(OPEN)                                                                                              \
	X(CREATE)                                                                                            \
	X(CLOSE)                                                                                             \
	X(READ)                                                                                              \
	X(WRITE)                                                                                             \
	X(FSYNC)                                                                                             \
	X(FALLOCATE)                                                                                         \
	X(COPY)                                                                                              \
	X(SEEK)                                                                                              \
	X(READDIR)                                                                                           \
	X(STATFS)                                                                                            \
	X(GETXATTR)                                                                                          \
	X(SETXATTR)                                                                                          \
	X(LISTXATTR)                                                                                         \
	X(REMOVEXATTR)                                                                                       \
	X(LOCK)                                                                                              \
	X(HAND)                                                                                              \
	X(STATUS)                                                                                            \
	X(ELECT)                                                                                             \
	X(BATCH)                                                                                             \
	X(REFRESH)
EACH(SERVE)

#define SERVICE(M) {.method = &fs_methods[FS_##M], .unary = serve_##M},
static const struct rpc_service services[] = {EACH(SERVICE){.method = &fs_methods[FS_EVENTS], .stream = events_serve},
	{.method = &fs_methods[FS_PIPE], .stream = pipes_serve}};

const struct rpc_service *fsd_services(size_t *n)
{
	*n = ARRAY_SIZE(services);
	return services;
}
