/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory that goes ahead of a move, past gRPC: by a connection of its own (rpc/raw.h) beside the image's stream, as long as one part of the image lasts.
 *
 *     source                          destination
 *     ASK                       ->    listens
 *     connects                  <-    PORT (0: it cannot)
 *                               <-    YES: it is the host that the stream is of; PORT 0: nobody came
 *     bytes, by the connection  ->
 *     closes it; OVER (bytes)   ->    has so many come? Then the stream goes on.
 *
 * Whom it does not come about with (a firewall) is not asked again for a minute; all goes by the stream then. A connection that breaks in the middle is not mended: OVER
 * says another number than has come, and the move is given up; the program runs on. Nothing is asked for while a family is frozen.
 */
#ifndef MIGD_DIRECT_H
#define MIGD_DIRECT_H
#include "migd/context.h"
#include "migd/hosts.h"
#include "rpc/mig.pb-c.h"
#include "rpc/raw.h"

/* Source. 0: *out, or NULL: the stream goes on. -errno: the stream is broken, or the destination has given up, with its words in e. */
int direct_open(struct migd *m, struct host *dest, struct rpc_stream *s, struct rpc_raw **out, struct error *e);
/* 0, or -EPIPE: broken, or the destination takes no more. */
int direct_send(struct rpc_raw *raw, struct rpc_stream *s, const char *p, size_t n);
/* In any case, once. bytes: how many went by it. */
int direct_close(struct rpc_raw *raw, struct rpc_stream *s, uint64_t bytes);

/* Destination. What comes by the connection is given to take: 1, or -errno, which ends all. engine: what that writes to, to be told when it has been closed. */
struct direct_sink {
	int (*take)(void *arg, const char *p, size_t n);
	void *arg;
	int engine;
};
/* With each frame of the stream. 1: on with the stream; else as rpc_stream_recv(). */
int direct_serve(struct migd *m, struct rpc_stream *s, const Sprite__Mig__ImageFrame *f, const struct direct_sink *to);
#endif
