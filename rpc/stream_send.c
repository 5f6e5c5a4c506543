/* SPDX-License-Identifier: Apache-2.0 */
/* Sending on a stream; see stream.c. */
#include "rpc/stream.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "conf/clock.h"

void stream_send_over(struct rt_tag *t, bool ok)
{
	struct rpc_stream *s = container_of(t, struct rpc_stream, t_send);

	pthread_mutex_lock(&s->lock);
	s->sending = false;
	s->sent_ok = ok;
	stream_op_over(s);
}

void stream_post_over(struct rt_tag *t, bool ok)
{
	struct rpc_stream *s = container_of(t, struct rpc_stream, t_post);
	grpc_byte_buffer *bb;

	(void)ok; /* a stream that has died says so to who receives */
	pthread_mutex_lock(&s->lock);
	bb = s->posted;
	s->posted = NULL;
	stream_op_over(s);
	grpc_byte_buffer_destroy(bb);
}

static void hold_over(struct frame_hold *h)
{
	struct rpc_stream *s = container_of(h, struct rpc_stream, hold);

	pthread_mutex_lock(&s->lock);
	s->held = false;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
}

/*
 * A send failed, so the stream is dead; but gRPC keeps the frame, and with it the caller's bytes, as long as the call. Gives up the call. Lock held; is
 * let go of meanwhile.
 */
static void drop_call(struct rpc_stream *s)
{
	grpc_call *call;

	/* The peer's status is on its way, behind what it sent before: it says why, if there is room to receive it. */
	while (!s->over && !s->cancelled && s->count < AHEAD)
		stream_wait(s);
	grpc_call_cancel(s->call, NULL); /* a no-op when it is over */
	while (s->pending)
		stream_wait(s);
	call = s->call;
	s->call = NULL;
	pthread_mutex_unlock(&s->lock);
	grpc_call_unref(call);
	pthread_mutex_lock(&s->lock);
}

int rpc_stream_send(struct rpc_stream *s, const ProtobufCMessage *msg, const struct iovec *bulk, int nbulk)
{
	struct frame_head h = { .version = RPC_VERSION, .epoch = clock_epoch() };
	grpc_byte_buffer *bb;
	grpc_slice control;
	grpc_op op;
	int r;

	r = frame_control(&h, msg, &control);
	if (r)
		return r;
	pthread_mutex_lock(&s->send_lock);
	s->hold = (struct frame_hold){ 1, hold_over };
	r = frame_buffer(control, bulk, nbulk, &s->hold, frame_limit(s->m), &bb);
	grpc_slice_unref(control);
	if (r)
		goto out;
	pthread_mutex_lock(&s->lock);
	while (s->posted)
		stream_wait(s);
	if (s->cancelled || s->over || s->half_closed || !s->call) {
		r = s->half_closed ? -EPIPE : stream_broken(s);
		pthread_mutex_unlock(&s->lock);
		grpc_byte_buffer_destroy(bb);
		goto out;
	}
	memset(&op, 0, sizeof(op));
	op.op = GRPC_OP_SEND_MESSAGE;
	op.data.send_message.send_message = bb;
	s->sending = s->held = true;
	stream_start(s, &op, 1, &s->t_send);
	while (s->sending)
		stream_wait(s);
	if (!s->sent_ok) {
		drop_call(s);
		r = stream_broken(s);
	}
	pthread_mutex_unlock(&s->lock);
	grpc_byte_buffer_destroy(bb);
	frame_hold_drop(&s->hold);
	pthread_mutex_lock(&s->lock);
	while (s->held) {
		if (s->over && s->call) /* the peer ended the stream and will never read this frame: gRPC calls that sent, and keeps it */
			drop_call(s);
		else
			stream_wait(s);
	}
	pthread_mutex_unlock(&s->lock);
out:
	pthread_mutex_unlock(&s->send_lock);
	return r;
}

int rpc_stream_post(struct rpc_stream *s, const ProtobufCMessage *msg)
{
	struct frame_head h = { .version = RPC_VERSION, .epoch = clock_epoch() };
	grpc_byte_buffer *bb;
	grpc_slice control;
	grpc_op op;
	int r;

	if (pthread_mutex_trylock(&s->send_lock))
		return -EBUSY;
	r = frame_control(&h, msg, &control);
	if (r)
		goto out;
	r = frame_buffer(control, NULL, 0, NULL, frame_limit(s->m), &bb);
	grpc_slice_unref(control);
	if (r)
		goto out;
	pthread_mutex_lock(&s->lock);
	if (s->posted || s->sending)
		r = -EBUSY;
	else if (s->cancelled || s->over || s->half_closed || !s->call)
		r = s->half_closed ? -EPIPE : stream_broken(s);
	if (!r) {
		memset(&op, 0, sizeof(op));
		op.op = GRPC_OP_SEND_MESSAGE;
		op.data.send_message.send_message = s->posted = bb;
		stream_start(s, &op, 1, &s->t_post);
	}
	pthread_mutex_unlock(&s->lock);
	if (r)
		grpc_byte_buffer_destroy(bb);
out:
	pthread_mutex_unlock(&s->send_lock);
	return r;
}

void rpc_stream_done_sending(struct rpc_stream *s)
{
	grpc_op op;

	if (!s->ch)
		return; /* the server ends its side with the status */
	pthread_mutex_lock(&s->send_lock);
	pthread_mutex_lock(&s->lock);
	while (s->posted)
		stream_wait(s);
	if (!s->half_closed && !s->over && s->call) {
		s->half_closed = true;
		memset(&op, 0, sizeof(op));
		op.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
		stream_start(s, &op, 1, &s->t_close);
	}
	pthread_mutex_unlock(&s->lock);
	pthread_mutex_unlock(&s->send_lock);
}
