/* SPDX-License-Identifier: Apache-2.0 */
/* Receiving on a stream, by whoever asks for it or by the thread that found the frame; see stream.c. */
#include "rpc/stream.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void wait_end(struct rpc_stream *s)
{
	rt_handover();
	pthread_cond_wait(&s->ended, &s->lock);
}

static int wait_change_until(struct rpc_stream *s, const struct timespec *ts)
{
	rt_handover();
	return pthread_cond_timedwait(&s->changed, &s->lock, ts);
}

void stream_more(struct rpc_stream *s)
{
	grpc_op op;

	if (s->receiving || s->eof || s->count == AHEAD || !s->call)
		return;
	memset(&op, 0, sizeof(op));
	op.op = GRPC_OP_RECV_MESSAGE;
	op.data.recv_message.recv_message = &s->incoming;
	s->receiving = true;
	stream_start(s, &op, 1, &s->t_recv);
}

/* A frame that this thread has given to s->take. */
static __thread struct taking {
	bool op;   /* it is in stream_recv_over(), and counts as pending */
	bool left; /* and is done with the stream */
} *taking;

/* Lock held. */
static void taken(struct rpc_stream *s)
{
	s->taking--;
	if (s->eof)
		pthread_cond_broadcast(&s->ended);
}

/* Lock held; it is let go of meanwhile. false: the stream may be gone, and the lock is not held. */
static bool take_frame(struct rpc_stream *s, grpc_byte_buffer *bb, bool op)
{
	struct taking me = { .op = op };
	struct frame_head h;
	struct rpc_msg m;
	int r;

	s->taking++;
	pthread_mutex_unlock(&s->lock);
	r = frame_decode(bb, frame_limit(s->m), s->ch ? s->m->out : s->m->in, &h, &m);
	if (r) {
		rpc_stream_cancel(s);
	} else {
		m.err = 0;
		taking = &me;
		s->take(s->take_arg, s, &m);
		taking = NULL;
		rpc_msg_clear(&m);
	}
	if (me.left && op)
		return false;
	pthread_mutex_lock(&s->lock);
	if (!me.left)
		taken(s);
	return true;
}

void stream_recv_over(struct rt_tag *t, bool ok)
{
	struct rpc_stream *s = container_of(t, struct rpc_stream, t_recv);
	grpc_byte_buffer *bb;

	pthread_mutex_lock(&s->lock);
	s->receiving = false;
	if (ok && s->incoming && s->take) {
		bb = s->incoming;
		s->incoming = NULL;
		if (!take_frame(s, bb, true))
			return;
		stream_more(s);
	} else if (ok && s->incoming) {
		s->queue[(s->head + s->count++) % AHEAD] = s->incoming;
		s->incoming = NULL;
		stream_more(s);
	} else {
		s->eof = true;
		s->eof_broken = grpc_call_failed_before_recv_message(s->call);
		pthread_cond_broadcast(&s->ended);
	}
	stream_op_over(s);
}

static void after(struct timespec *ts, int ms)
{
	clock_gettime(CLOCK_MONOTONIC, ts);
	ts->tv_sec += ms / 1000;
	ts->tv_nsec += ms % 1000 * 1000000l;
	if (ts->tv_nsec >= 1000000000l) {
		ts->tv_sec++;
		ts->tv_nsec -= 1000000000l;
	}
}

/* lock held: what the end of the frames means. On the client the status comes soon after. */
static int recv_end(struct rpc_stream *s)
{
	if (s->ch) {
		while (!s->over)
			stream_wait(s);
		return s->status == GRPC_STATUS_OK ? 0 : stream_broken(s);
	}
	return s->cancelled || s->eof_broken ? -ECANCELED : 0;
}

int rpc_stream_recv(struct rpc_stream *s, struct rpc_msg *m, int timeout_ms)
{
	grpc_byte_buffer *bb;
	struct frame_head h;
	struct timespec ts;
	int r = 0;

	if (timeout_ms >= 0)
		after(&ts, timeout_ms);
	pthread_mutex_lock(&s->lock);
	while (!s->count && !s->unwanted && (!s->eof || s->taking) && r != ETIMEDOUT) {
		if (s->take)
			wait_end(s);
		else if (timeout_ms < 0)
			stream_wait(s);
		else
			r = wait_change_until(s, &ts);
	}
	if (!s->count || s->unwanted) {
		r = s->unwanted ? -EPIPE : s->eof ? recv_end(s) : -ETIMEDOUT;
		pthread_mutex_unlock(&s->lock);
		return r;
	}
	bb = s->queue[s->head];
	s->head = (s->head + 1) % AHEAD;
	s->count--;
	stream_more(s);
	pthread_mutex_unlock(&s->lock);
	r = frame_decode(bb, frame_limit(s->m), s->ch ? s->m->out : s->m->in, &h, m);
	if (r) {
		rpc_stream_cancel(s);
		return r;
	}
	m->err = 0;
	return 1;
}

void rpc_stream_unwanted(struct rpc_stream *s)
{
	pthread_mutex_lock(&s->lock);
	s->unwanted = true;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
}

void rpc_stream_take(struct rpc_stream *s, rpc_stream_fn fn, void *arg)
{
	grpc_byte_buffer *bb;

	pthread_mutex_lock(&s->lock);
	s->take = fn;
	s->take_arg = arg;
	while (s->count) { /* came before; the next one may come on another thread meanwhile */
		bb = s->queue[s->head];
		s->head = (s->head + 1) % AHEAD;
		s->count--;
		take_frame(s, bb, false);
	}
	stream_more(s);
	pthread_mutex_unlock(&s->lock);
}

void rpc_stream_leave(struct rpc_stream *s)
{
	struct taking *me = taking;

	if (!me || me->left)
		return;
	me->left = true;
	pthread_mutex_lock(&s->lock);
	taken(s);
	stream_more(s);
	if (me->op)
		stream_op_over(s);
	else
		pthread_mutex_unlock(&s->lock);
}
