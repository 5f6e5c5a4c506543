/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connection of its own between two daemons, without gRPC: mutual TLS 1.3 with the same certificates and the same judgement (identity.c), then nothing but bytes.
 * For what has to go through by few wake-ups: a message costs one send(2) here and one recv(2) over there.
 *
 * rpc_raw_connect() and rpc_raw_accept() block, for RPC_RAW_MS at most. After them the connection is non-blocking and one thread's: read and write when poll(2) says so,
 * but read first while rpc_raw_pending().
 */
#ifndef RPC_RAW_H
#define RPC_RAW_H
#include "rpc/rpc.h"

#define RPC_RAW_MS     5000
#define RPC_RAW_RECORD 16384 /* bytes that leave as one piece: what is read comes in pieces of at most that */

struct rpc_raw;

/* `server`: the name that the other side's certificate must carry. -errno with the reason. */
int rpc_raw_connect(struct rpc_tls *t, const struct conf_addr *addr, const char *server, struct rpc_raw **out, struct error *e);
/* Takes over fd, whatever comes of it. */
int rpc_raw_accept(struct rpc_tls *t, int fd, struct rpc_raw **out, struct error *e);
/* Bound and listening, at *port, or -errno with the reason. */
int rpc_raw_listen(const struct conf_addr *addr, uint16_t *port, struct error *e);
void rpc_raw_close(struct rpc_raw *r);

/* Is its certificate still to be believed? -EACCES with the reason. */
int rpc_raw_judge(struct rpc_raw *r, struct rpc_tls *t, struct error *e);
const char *rpc_raw_peer(const struct rpc_raw *r); /* the first DNS name of its certificate */
int rpc_raw_fd(const struct rpc_raw *r);
/* Bytes; 0: the other side has closed; -EAGAIN; other -errno: broken. */
ssize_t rpc_raw_read(struct rpc_raw *r, void *buf, size_t n);
bool rpc_raw_pending(const struct rpc_raw *r); /* something was received and not read yet: no poll(2) tells of it */
/* Takes all, and sends what the socket takes at once, unless `more` is to come at once: then both leave together. 0; -EAGAIN: not all is sent yet; other -errno: broken. */
int rpc_raw_write(struct rpc_raw *r, const void *buf, size_t n, bool more);
/* When poll(2) says that there is room. 0: all is sent. */
int rpc_raw_flush(struct rpc_raw *r);
size_t rpc_raw_unsent(const struct rpc_raw *r); /* bytes: whoever writes on before it is 0 must bound it himself */

#endif
