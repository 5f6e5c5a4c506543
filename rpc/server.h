/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private to server.c and request.c: the two structs of a server.
 *
 * Locking: server.lock: counts, queue, streams, peers. server.cache_lock: the reply cache. request.lock: cancelled, on_cancel, replied. None is
 * held while a handler or a call-back runs; no two at once.
 */
#ifndef RPC_SERVER_H
#define RPC_SERVER_H
#include "rpc/internal.h"
#include "rpc/lane.h"
#include "rpc/replycache.h"

struct slot {
	struct rt_tag tag;
	struct rpc_server *srv;
	const struct rpc_service *svc;
	void *handle;
	grpc_call *call;
	gpr_timespec deadline;
	grpc_metadata_array md;
	grpc_byte_buffer *payload;
};

/* Calls of methods that we do not have. */
struct stray {
	struct rt_tag tag;
	struct rpc_server *srv;
	grpc_call *call;
	grpc_call_details details;
	grpc_metadata_array md;
};

struct rpc_request {
	STAILQ_ENTRY(rpc_request) link; /* srv->waiting */
	struct rpc_server *srv;
	const struct rpc_service *svc;
	struct slot *slot;		/* to be asked again when this request is taken from the queue; NULL: it came by a lane: */
	struct rt_cost *cost;		/* of its method's handler */
	struct lane *lane;
	uint64_t lane_id;
	size_t lane_bytes;
	LIST_ENTRY(rpc_request) in_lane; /* lane->lock, */
	bool in_list;			 /* as well */
	grpc_call *call;
	struct rt_tag closed_tag, sent_tag;
	_Atomic int ops;  /* closed, sent: the call's life */
	_Atomic int refs; /* handler, closed, sent, hold; by a lane: handler, the lane's list, hold */
	struct frame_hold hold;
	void (*release)(void *arg);
	void *release_arg;
	grpc_byte_buffer *payload; /* until it is decoded */
	struct frame_head head;
	struct rpc_msg msg;
	grpc_byte_buffer *send;
	pthread_mutex_t lock;
	pthread_cond_t told;
	bool cancelled, replied;
	bool telling;	   /* on_cancel runs in `teller` */
	pthread_t teller;
	int was_cancelled; /* written by gRPC */
	void (*on_cancel)(void *arg);
	void *on_cancel_arg;
	char *addr;
	char peer[PEER_MAX];
};

struct rpc_server {
	struct rpc_server_opts o;
	grpc_server *gs;
	struct slot *slots;
	struct rt_cost *costs;
	size_t nslots;
	struct stray stray;
	struct door *doors; /* for lanes, one for each address that is listened on; lane_server.c */
	uint16_t lane_port; /* what replies say of them, 0: nothing */
	_Atomic uint64_t lane_calls;
	uint16_t *ports;
	struct rt_tag down_tag;
	struct rt_timer recheck;
	_Atomic uint64_t last_warn_ns;

	pthread_mutex_t lock;
	pthread_cond_t idle;
	bool started, stopping, rechecking, down;
	int running;			   /* threads in handlers of unary calls, up to o.workers */
	STAILQ_HEAD(, rpc_request) waiting; /* for one of those */
	unsigned live;			   /* requests and streams */
	size_t quiet;			   /* slots and stray that are asked no more */
	struct stream_list streams;
	unsigned nstreams;
	LIST_HEAD(, peer) peers;
	LIST_HEAD(, lane) lanes;
	LIST_HEAD(, shaking) shaking;
	unsigned nlanes, nshaking, ndoors;

	pthread_mutex_t cache_lock;
	struct replycache *cache;
};

/* A request that has just come, by a slot or, with a frame that is taken over, by a lane. */
struct rpc_request *request_new(struct slot *sl);
struct rpc_request *request_by_lane(struct rpc_server *srv, const struct rpc_service *svc, struct lane *l, uint64_t id, const char *peer, grpc_slice frame);
/* Runs it, or leaves it for who has time. */
void server_take(struct rpc_server *srv, struct rpc_request *rq);
/* Its caller does not wait for it any more. */
void request_cancelled(struct rpc_request *rq);
void request_unref(struct rpc_request *rq);
/* Decodes, judges, and runs the handler if it is to run. */
void request_run(struct rpc_request *rq);
void drop_slice(void *reply); /* what the reply cache holds */
bool server_may_warn(struct rpc_server *srv);

#endif
