/* SPDX-License-Identifier: Apache-2.0 */
/* What stream.c (making and ending one), stream_send.c and stream_recv.c share; what a stream is: stream.c. */
#ifndef RPC_STREAM_H
#define RPC_STREAM_H
#include "conf/cleanup.h"
#include "rpc/internal.h"

#define AHEAD 4

struct rpc_stream {
	struct stream_link link;
	struct rpc_channel *ch; /* client */
	struct rpc_server *srv; /* server */
	const struct rpc_method *m;
	grpc_call *call; /* NULL after a send that failed */
	struct line *line; /* client */
	uint64_t epoch;
	pthread_mutex_t send_lock, lock;
	pthread_cond_t changed, ended; /* ended: nothing comes any more, for who waits for that alone (take) */
	struct rt_tag t_start, t_hello, t_recv, t_send, t_post, t_close, t_end;
	int pending;
	bool cancelled;

	/* receiving */
	grpc_byte_buffer *queue[AHEAD], *incoming;
	unsigned head, count;
	bool receiving, eof, eof_broken;
	bool unwanted; /* no more of them: rpc_stream_unwanted() */
	rpc_stream_fn take; /* set once */
	void *take_arg;
	unsigned taking;    /* calls of it */

	/* sending */
	bool sending, sent_ok, half_closed;
	grpc_byte_buffer *posted; /* under way */
	struct frame_hold hold;
	bool held;

	/* the end */
	bool hello, over;	 /* client: status is in; server: closed is in */
	int err;		 /* client: -errno of the status */
	int was_cancelled;	 /* server; written by gRPC */
	grpc_metadata_array md_init, md_trail;
	grpc_status_code status;
	grpc_slice details;
	char peer[];
};

/* Until an operation is over; lock held. Not on a thread that has the queue. */
void stream_wait(struct rpc_stream *s);
/* Starts one operation; lock held. */
void stream_start(struct rpc_stream *s, grpc_op *op, size_t n, struct rt_tag *t);
/* It is over; lock held, and released. */
void stream_op_over(struct rpc_stream *s);
/* Lock held. The errno of a stream that ended without the peer's word. */
int stream_broken(struct rpc_stream *s);
/* Receives the next frame, if there is room; lock held. */
void stream_more(struct rpc_stream *s);
/* Completions. */
void stream_recv_over(struct rt_tag *t, bool ok);
void stream_send_over(struct rt_tag *t, bool ok);
void stream_post_over(struct rt_tag *t, bool ok);

#endif
