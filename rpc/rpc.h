/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls between daemons: protobuf-c messages over gRPC core (HTTP/2, mutual TLS 1.3).
 *
 * A frame is  u32 header_len | protobuf header (struct Rpc.Head: boot epoch, sequence, errno) | u32 msg_len | protobuf message | bulk bytes,
 * so that bulk bytes are never copied into or out of a protobuf message: they leave as user-data slices and arrive as
 * an iovec over the received slices.
 *
 * Errors: what an operation returned is a Linux errno in the reply (positive in `rpc_msg.err`). A transport failure is negative:
 * -EHOSTDOWN (no connection), -ETIMEDOUT (deadline), -ECANCELED, -EPROTO (undecodable), -EACCES (certificate refused); callers start recovery on those.
 *
 * Executed once: a client numbers its calls (epoch = clock_epoch(), seq). A method marked `mutates` is answered from the server's
 * reply cache when the same (peer, epoch, seq) comes again; rpc_call() retries such a call by itself with the same seq across reconnects until its deadline.
 *
 * Threads: every function may be called from any thread. Handlers run on a worker pool of the server and may keep the
 * request and reply later, from any thread. Completion callbacks run on the rpc threads and must not block.
 */
#ifndef RPC_RPC_H
#define RPC_RPC_H
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>
#include <protobuf-c/protobuf-c.h>
#include "conf/conf.h"
#include "conf/error.h"

#define RPC_CONTROL_MAX (64u << 10)		 /* bytes of protobuf message, control methods */
#define RPC_BULK_MAX	((1u << 20) + (64u << 10)) /* a whole frame of a bulk method */
#define RPC_IOV_MAX	256 /* pieces of bulk bytes, sent or received */

enum rpc_kind {
	RPC_UNARY,
	RPC_BIDI, /* also used one-way: either side may just never send */
};

struct rpc_method {
	const char *name; /* "/sprite.fs/Lookup" */
	enum rpc_kind kind;
	bool mutates;	  /* executed once, answered from the reply cache when retried */
	bool bulk;	  /* frames up to RPC_BULK_MAX (else RPC_CONTROL_MAX) */
	const ProtobufCMessageDescriptor *in, *out;
};

/*
 * Call once in main, after daemonising and forking (gRPC cannot fork later; use posix_spawn). Sets the malloc tunables.
 * -errno: no threads are to be had, and nothing is left but to end.
 */
int rpc_init(void);
/* Before rpc_init(): time-outs of calls and connections may be late by so much on a host where nothing else happens, so that gRPC need not wake it for each by itself. */
void rpc_init_slack(unsigned ms);
void rpc_shutdown(void);
/* Has that host name an address? For messages: what does not resolve and what does not answer are mended at different places. May wait for a name server. */
bool rpc_resolves(const char *host);
/*
 * Where one listens by that name: everywhere, if it is this host's own and its loopback's (Debian's installer writes "127.0.1.1 NAME" into /etc/hosts), where nobody else would come. There, if it
 * is another name of the loopback, or a number.
 */
const char *rpc_listen_host(const char *host);
/* Are these addresses of this host, and (ports) does nobody listen there? 0, or -errno and what is in the way. */
int rpc_listen_check(const struct conf_addr *a, size_t n, bool ports, struct error *e);

/* A received message. Owned by the receiver: rpc_msg_clear() frees; `iov` points into it. */
struct rpc_msg {
	int err;		 /* errno of the reply, 0 = success; requests and stream messages: 0 */
	ProtobufCMessage *msg;	 /* of the method's in/out type; NULL when err != 0 and the peer sent none */
	struct iovec *iov;	 /* the bulk bytes, niov <= RPC_IOV_MAX pieces */
	int niov;
	size_t bulk_len;
	void *priv;
};
void rpc_msg_clear(struct rpc_msg *m);
/* Copies up to `n` bulk bytes out; returns how many. */
size_t rpc_msg_copy(const struct rpc_msg *m, void *to, size_t n);

/* ---- client ---------------------------------------------------------------------------------------- */
struct rpc_channel;
struct rpc_tls; /* CA, certificate and key, reloaded when the files change */

int rpc_tls_load(const struct conf *c, struct rpc_tls **out, struct error *e);
/* Do certificate and key belong together, and is the certificate of this host? No other one will be good tomorrow: 0 or -errno. */
int rpc_tls_check_pair(const struct conf *c, struct error *e);
/* Would others believe us: do certificate, key, CA and list of the revoked belong together, today? 0 or -errno. Needs no rpc_init(). */
int rpc_tls_check(const struct conf *c, struct error *e);
void rpc_tls_free(struct rpc_tls *t);

/*
 * Opens a channel; connects lazily and reconnects by itself (back-off 100/100/500 ms). `server` is the name the server's certificate must carry.
 * `tag` separates connections: channels with different tags share no TCP connection ("bulk", "meta").
 */
struct rpc_channel *rpc_channel_open(struct rpc_tls *t, const struct conf_addr *addr, const char *server, const char *tag);
/* From any thread: what is outstanding ends, and so does whatever is begun on it later: -ECANCELED. It can still be named until it is closed. */
void rpc_channel_cancel(struct rpc_channel *ch);
void rpc_channel_close(struct rpc_channel *ch); /* cancels and waits for what is outstanding */

/* deadline_ms < 0: none. bulk may be NULL. Returns 0 with *out filled (look at out->err), or -errno of the transport. */
int rpc_call(struct rpc_channel *ch, const struct rpc_method *m, const ProtobufCMessage *in, const struct iovec *bulk, int nbulk,
	int deadline_ms, struct rpc_msg *out);

/*
 * The same without waiting. `bulk` must stay valid until `done` runs. `done(arg, status, out)` runs exactly once, with status 0 or -errno;
 * it owns *out's content (move it, or rpc_msg_clear()). Returns a ticket for rpc_cancel(); a ticket of a finished call is harmless there.
 */
typedef void (*rpc_done)(void *arg, int status, struct rpc_msg *out);
uint64_t rpc_call_async(struct rpc_channel *ch, const struct rpc_method *m, const ProtobufCMessage *in, const struct iovec *bulk, int nbulk,
	int deadline_ms, rpc_done done, void *arg);
void rpc_cancel(struct rpc_channel *ch, uint64_t ticket);

/* Calls that went by a direct connection (lane.h); *up: there is one now. */
uint64_t rpc_channel_direct(struct rpc_channel *ch, bool *up);

/* Called whenever the transport goes up or down (any thread; must not block). */
void rpc_channel_watch(struct rpc_channel *ch, void (*changed)(void *arg, bool up), void *arg);

/*
 * For a client whose process is restarted and goes on as the same client (clock_epoch_adopt()). `next` is where the numbers of calls are counted, in
 * memory that outlives the process. A mutating call whose result had not been used up when the process ended is sent again under its old number:
 * rpc_seq_hold() at the start keeps the server from forgetting its answer, rpc_seq_use() gives the number to the next call of this thread (and takes a
 * number back that is not used after all: rpc_seq_drop()). rpc_seq_note(): the next call of this thread writes its number there before it is sent.
 * A result counts as used up when `done` has returned. A call whose number was noted, and that ends without an answer (status), may be executed yet: its number stays held;
 * so does that of an rpc_call(), until rpc_seq_drop().
 */
void rpc_seq_keep(_Atomic uint64_t *next);
void rpc_seq_hold(uint64_t seq);
void rpc_seq_drop(uint64_t seq);
void rpc_seq_use(uint64_t seq);
void rpc_seq_note(uint64_t *where);

/* ---- streams (both sides) ----------------------------------------------------------------------------- */
struct rpc_stream;
int rpc_stream_open(struct rpc_channel *ch, const struct rpc_method *m, int deadline_ms, struct rpc_stream **out);
/* Blocks for flow control. One sender at a time is enforced inside. Returns 0 or -errno (-EPIPE: the peer finished or died). */
int rpc_stream_send(struct rpc_stream *s, const ProtobufCMessage *msg, const struct iovec *bulk, int nbulk);
/* timeout_ms < 0: for ever. 1: *m filled; 0: the peer has finished in order; -ETIMEDOUT; other -errno: broken. */
int rpc_stream_recv(struct rpc_stream *s, struct rpc_msg *m, int timeout_ms);
/* The same for a short message, without waiting: -EBUSY when another one is still on its way. */
int rpc_stream_post(struct rpc_stream *s, const ProtobufCMessage *msg);
/*
 * From now on frames go to fn, on threads of rpc; rpc_stream_recv() then waits for the end alone, and for fn to have returned or left. The next frame comes when it has: a fn that may be long, or wait,
 * calls rpc_stream_leave() before; after that it must not use the stream. *m is cleared after fn.
 */
typedef void (*rpc_stream_fn)(void *arg, struct rpc_stream *s, struct rpc_msg *m);
void rpc_stream_take(struct rpc_stream *s, rpc_stream_fn fn, void *arg);
void rpc_stream_leave(struct rpc_stream *s);
void rpc_stream_done_sending(struct rpc_stream *s);
/* Server: ends the call with an errno (0 = well). Client: half-closes, drains, returns the server's errno or -errno of the transport. Frees s. */
int rpc_stream_finish(struct rpc_stream *s, int err);
/* Server, from any other thread: rpc_stream_recv() returns -EPIPE now and from here on; the peer hears what is sent to it, and the end. */
void rpc_stream_unwanted(struct rpc_stream *s);
/* From any other thread: makes a blocked send or recv return -ECANCELED. */
void rpc_stream_cancel(struct rpc_stream *s);
bool rpc_stream_cancelled(const struct rpc_stream *s); /* by either side, or the connection was lost */
const char *rpc_stream_peer(const struct rpc_stream *s); /* certificate name; server side only */
uint64_t rpc_stream_epoch(const struct rpc_stream *s);	 /* the peer's boot epoch; server side only */

/* ---- server ----------------------------------------------------------------------------------------- */
struct rpc_server;
struct rpc_request;

struct rpc_service {
	const struct rpc_method *method;
	void (*unary)(void *ctx, struct rpc_request *rq);   /* must see to it that rpc_reply() is called exactly once */
	void (*stream)(void *ctx, struct rpc_stream *s);    /* runs in a thread of its own; must rpc_stream_finish() */
};

struct rpc_server_opts {
	struct rpc_tls *tls;
	const struct conf_addr *listen;
	size_t nlisten;
	int workers; /* threads for unary handlers */
	bool lanes;  /* unary calls may come by direct connections too (lane.h): clients are told of them by every reply */
	const struct rpc_service *services;
	size_t nservices;
	void *ctx;
	/*
	 * The last stream of one epoch of a peer went away (any thread; must not block long). May be NULL. Unary calls do not count: a client that
	 * wants to be missed keeps a stream open.
	 */
	void (*peer_lost)(void *ctx, const char *peer);
};
int rpc_server_start(const struct rpc_server_opts *o, struct rpc_server **out, struct error *e);
void rpc_server_stop(struct rpc_server *s); /* cancels calls, waits, frees */
uint64_t rpc_server_direct(const struct rpc_server *s, unsigned *lanes); /* calls that came by direct connections; how many of those there are */
uint16_t rpc_server_port(const struct rpc_server *s, size_t i); /* the real port when `listen[i].port` was 0 */

const char *rpc_request_peer(const struct rpc_request *rq);   /* the name in the peer's certificate */
const char *rpc_request_addr(const struct rpc_request *rq);   /* "ipv4:10.1.2.3:4567" */
uint64_t rpc_request_epoch(const struct rpc_request *rq);     /* the peer's boot epoch */
uint64_t rpc_request_seq(const struct rpc_request *rq);
/* The caller has sent this call before. That the handler runs means that this server did not execute it; one before it may have. */
bool rpc_request_again(const struct rpc_request *rq);
const struct rpc_msg *rpc_request_msg(const struct rpc_request *rq);
bool rpc_request_cancelled(const struct rpc_request *rq);
/*
 * Calls fn once when the caller cancels or goes away before the reply; at once if it already has. When rpc_reply() returns, fn does not
 * run and will not run any more (unless rpc_reply() was called from within it): so do not call rpc_reply() under a lock that fn takes.
 */
void rpc_request_on_cancel(struct rpc_request *rq, void (*fn)(void *arg), void *arg);
/*
 * Ends the request; its message and strings are valid until here. A mutating request that was cancelled and not executed must be answered with
 * ECANCELED: that answer is not remembered, so that a caller who only lost the connection may send it again.
 * err = errno (0 = success). `bulk` is not copied: release(arg) runs when it is no longer needed (may be NULL: static
 * or copied by the callee when release is NULL and nbulk > 0).
 */
void rpc_reply(struct rpc_request *rq, int err, const ProtobufCMessage *out, const struct iovec *bulk, int nbulk, void (*release)(void *arg),
	void *arg);

#endif
