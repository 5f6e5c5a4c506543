/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lanes: unary calls by connections of our own (raw.h) instead of gRPC's, which take half of the CPU time of a small call, and a third of that of a megabyte, on both sides. See lane.c.
 *
 * A lane carries what a gRPC call would: the same frames, numbers, errors; whatever becomes of it looks to the caller as if gRPC's connection had been lost. So nobody above call.c and
 * request.c knows of lanes, and what has no lane goes by gRPC: streams, calls with a deadline, all when a lane cannot be had.
 */
#ifndef RPC_LANE_H
#define RPC_LANE_H
#include "rpc/internal.h"
#include "rpc/raw.h"

#define LANE_CALLS 256		/* of a client at once; more go by gRPC. A server reads on as long as it has less than twice that */
#define LANE_BYTES (16u << 20)	/* bytes of their requests, likewise */
#define LANE_PORT  10		/* a server's port for lanes is its other one and that, or any */

struct rpc_request;
struct rpc_channel;
struct rpc_server;

struct lane_call {
	uint64_t id; /* 0: not on a lane */
	size_t bytes;
	struct frame_hold *hold; /* lane_send() gives one back */
	/* Runs once, on a thread of rpc, with the reply's frame or the text of an error; it owns the slice. */
	void (*done)(struct lane_call *c, grpc_status_code status, grpc_slice body);
};

struct lane_head {
	uint32_t len; /* of what comes behind it */
	uint16_t kind, more; /* more: CALL: length of the method's name, which comes first; REPLY: grpc_status_code */
	uint64_t id;
};

struct lane {
	struct rt_tag tag;
	_Atomic int refs;
	struct rpc_channel *ch; /* client, */
	struct rpc_server *srv; /* or server */
	LIST_ENTRY(lane) link;	/* srv->lock */
	pthread_mutex_t lock;
	struct rpc_raw *raw;
	bool reading;		/* a thread has been told that the socket is ready: it alone reads, until it has armed it again */
	bool drained;		/* the last read found nothing more */
	bool paused;		/* nothing is read: too much is unanswered */
	bool dead;
	/* of who reads */
	uint8_t head[sizeof(struct lane_head)];
	struct lane_head is;
	size_t got;
	grpc_slice body;
	bool in_body;
	/* client */
	struct lane_call *calls[LANE_CALLS];
	uint64_t ids;
	uint64_t files; /* tls_generation() that it shows */
	/* both: unanswered */
	unsigned n;
	size_t bytes;
	/* server */
	LIST_HEAD(, rpc_request) requests;
	uint64_t judged_ns;
};

/* ---- lane.c ---- */
/* Takes over raw. Two references: the caller's, and one that goes with the connection. NULL: no memory. */
struct lane *lane_new(struct rpc_raw *raw, struct rpc_channel *ch, struct rpc_server *srv);
void lane_go(struct lane *l); /* from now on it is read */
struct lane *lane_ref(struct lane *l);
void lane_unref(struct lane *l);
char *lane_addr(struct lane *l); /* as gRPC writes a peer's address; for gpr_free() */
void lane_kill(struct lane *l); /* from any thread: it will end */
int lanes_start(void);

/* Client. False: no room, or it is dead. Then lane_send(), once: after it the call may be over, and gone. False: it was over before, and c->hold is as it was. */
bool lane_begin(struct lane *l, struct lane_call *c, size_t bytes);
bool lane_send(struct lane *l, const struct lane_call *c, const struct rpc_method *m, grpc_slice control, const struct iovec *bulk, int nbulk);
/* True: it was under way, and `done` will not run; the server is told. */
bool lane_forget(struct lane *l, struct lane_call *c);

/* Client: nothing more is begun on it; ends it when nothing is under way any more. */
void lane_retire(struct lane *l);

/* Server. Notes it among those that are unanswered; of who reads. */
void lane_add(struct lane *l, struct rpc_request *rq);
/* Text or frame, and bulk bytes, which are not needed any more afterwards. */
void lane_reply(struct lane *l, struct rpc_request *rq, grpc_status_code status, grpc_slice control, const struct iovec *bulk, int nbulk);
void lane_refuse(struct lane *l, uint64_t id, grpc_status_code status, const char *text);

/* ---- lane_server.c ---- */
int server_lanes_listen(struct rpc_server *srv);
void server_lanes_stop(struct rpc_server *srv); /* begins it; srv->lanes, doors and handshakes end by and by */
/* A call has come: takes over the frame, and notes it. NULL: it was refused. Then it is to be run, by whoever has the time. */
struct rpc_request *server_lane_call(struct rpc_server *srv, struct lane *l, uint64_t id, const char *name, size_t len, grpc_slice frame);
void server_lane_down(struct rpc_server *srv, struct lane *l);

/* ---- channel.c ---- */
void channel_lane_down(struct rpc_channel *ch, struct lane *l);

#endif
