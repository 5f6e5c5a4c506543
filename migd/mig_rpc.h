/* SPDX-License-Identifier: Apache-2.0 */
/* The methods of the service sprite.mig, for callers and for the server's table. */
#ifndef MIGD_MIG_RPC_H
#define MIGD_MIG_RPC_H
#include "rpc/master.pb-c.h"
#include "rpc/mig.pb-c.h"
#include "rpc/rpc.h"

enum mig_method {
	MIG_STATUS, MIG_PREPARE, MIG_SEND, MIG_RELEASE, MIG_GO, MIG_ABORT, MIG_SIGNAL, MIG_REPORT, MIG_SYNC, MIG_EVICT, MIG_ENV, MIG_CALL,
	MIG_IMAGE, MIG_RELAY,
	MIG_MASTER_REPORT, MIG_MASTER_ASK, MIG_METHODS
};
extern const struct rpc_method mig_methods[MIG_METHODS];

/* Replies with an errno and words. */
void mig_reply(struct rpc_request *rq, int err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
