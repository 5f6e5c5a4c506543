/* SPDX-License-Identifier: Apache-2.0 */
/* The relay hub's link over rpc: one stream per family and generation, opened by the guest host and made again when it breaks. */
#ifndef MIGD_RELAY_RPC_H
#define MIGD_RELAY_RPC_H
#include "migd/family.h"
#include "rpc/rpc.h"

/* Guest: starts the thread that keeps the stream up; nothing to do when there are no relays. relay_rpc_close() ends it. */
void relay_rpc_open(struct family *f);
void relay_rpc_close(struct family *f);
/* Home: serves a stream. */
void relay_rpc_serve(void *ctx, struct rpc_stream *s);
#endif
