/* SPDX-License-Identifier: Apache-2.0 */
/* What channel.c (connections) and call.c (unary calls) share. Locking: `lock` of the channel protects its lists, the state of its calls, and `gcall` and `lane` of each. */
#ifndef RPC_CHANNEL_H
#define RPC_CHANNEL_H
#include "rpc/lane.h"

#define METHODS_MAX 128 /* slots of the table of registered methods; a power of two */

struct call {
	LIST_ENTRY(call) link;	 /* ch->lock */
	struct rt_tag tag;
	struct frame_hold hold;
	struct rt_timer park;
	struct rt_seq seq;
	struct rpc_channel *ch;
	const struct rpc_method *m;
	uint64_t ticket;
	grpc_slice control;
	const struct iovec *bulk;
	int nbulk;
	gpr_timespec deadline;
	unsigned park_ms;
	bool again;
	rpc_done done;
	void *arg;
	struct rt_event *after; /* who waits for the end of it all: set last, or he would meet our locks with his next call */
	bool cancelled, parked;	 /* ch->lock */
	struct rt_cost *cost;	 /* NULL: not sent yet */
	/* of the attempt */
	grpc_call *gcall;	 /* ch->lock */
	struct line *line;	 /* NULL: it goes by the lane */
	grpc_byte_buffer *send, *recv;
	grpc_metadata_array md_init, md_trail;
	grpc_status_code status;
	grpc_slice details;
	struct lane *lane; /* ch->lock: it goes by this one, and not by gRPC */
	struct lane_call by_lane;
};
LIST_HEAD(call_list, call);

/*
 * A connection of gRPC's. When our certificate has been replaced, or was refused, the channel goes on by another one; what is under way by the old one ends there. Locking: ch->lock; `gc` is used by
 * its users alone.
 */
struct line {
	struct rpc_channel *ch;
	grpc_channel *gc; /* NULL: given back */
	struct rt_tag watch;
	bool watching;
	grpc_connectivity_state state;
	unsigned users; /* calls, streams, and the channel itself */
	uint64_t files; /* tls_generation() that it shows, or a later one */
	uint64_t born_ns;
	_Atomic bool served; /* a call, or a stream */
};

struct rpc_channel {
	pthread_mutex_t lock;
	pthread_cond_t idle;
	struct line *line; /* that calls go by; */
	struct line *next; /* and will go by when it is connected, or NULL */
	unsigned nlines;   /* with old ones */
	char *server;
	char *target;
	struct call_list calls;
	struct stream_list streams;
	unsigned nstreams;
	struct rpc_tls *tls;
	bool closing, wanted, up;
	unsigned refusals;   /* connections in a row that the server closed after the handshake */
	uint64_t refused_ns, refused_since; /* the last of them, the first */
	char words[200]; /* of the server's last refusal, until a connection is there */
	_Atomic int last_logged; /* errno of the last failure that was logged, 0 after a success */
	void (*changed)(void *arg, bool up);
	void *changed_arg;
	struct lane *lane;	  /* NULL: there is none */
	bool laning;		  /* one is being made */
	uint16_t lane_port;	  /* to that port; */
	uint64_t lane_after;	  /* not before that time */
	unsigned lane_failures;	  /* in a row */
	_Atomic uint64_t lane_calls;
	struct conf_addr addr;
	struct {
		const struct rpc_method *m;
		void *handle;	     /* of `line`; NULL: not registered yet */
		struct rt_cost cost; /* of what is done with its replies */
	} methods[METHODS_MAX];
};

/* With the lock: the registered handle of a method, and what its replies cost. */
void *channel_method(struct rpc_channel *ch, const struct rpc_method *m, struct rt_cost **cost);
/* The same, as a gRPC call; the caller uses *line until line_put(). */
grpc_call *channel_new_call_locked(struct rpc_channel *ch, const struct rpc_method *m, gpr_timespec deadline, struct rt_cost **cost, struct line **line);
void channel_log_failure(struct rpc_channel *ch, int err, const char *text);
/* A reply by gRPC told of that port for lanes. */
void channel_lane_hint(struct rpc_channel *ch, uint32_t port);
void call_cancel_locked(struct call *c);

#endif
