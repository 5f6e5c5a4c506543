/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bidirectional streams, both sides.
 *
 * Receiving runs ahead by at most AHEAD frames; further ones wait in HTTP/2's flow control, so that a slow reader slows the writer.
 * Sending is one frame at a time: rpc_stream_send() returns when the transport has taken the frame and let go of the caller's bytes. rpc_stream_post() waits for nothing: it
 * is for short messages whose sender has something else to do.
 *
 * With rpc_stream_take() frames are given to a function on the thread that found them in the completion queue, one at a time unless the function is done with the stream before it ends
 * (rpc_stream_leave()): nobody has to be woken for them. What receives by rpc_stream_recv() hears of the end alone then.
 *
 *     client: start, hello (initial metadata of the server), [receive]..., status       server: hello, [receive]..., closed, status
 *
 * `pending` counts gRPC operations under way; the stream is freed by rpc_stream_finish() when there is none.
 *
 * Locking: s->lock for everything. `send_lock` admits one sender. Order: send_lock, lock. Neither is held while taking the channel's or server's.
 */
#include "rpc/internal.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/log.h"

#define AHEAD 4

struct rpc_stream {
	struct stream_link link;
	struct rpc_channel *ch; /* client */
	struct rpc_server *srv; /* server */
	const struct rpc_method *m;
	grpc_call *call; /* NULL after a send that failed */
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

struct stream_link *stream_link_of(struct rpc_stream *s)
{
	return &s->link;
}

struct rpc_stream *stream_of_link(struct stream_link *l)
{
	return container_of(l, struct rpc_stream, link);
}

uint64_t rpc_stream_epoch(const struct rpc_stream *s)
{
	return s->epoch;
}

const char *rpc_stream_peer(const struct rpc_stream *s)
{
	return s->peer;
}

/* Until an operation is over; lock held. Not on a thread that has the queue. */
static void wait_change(struct rpc_stream *s)
{
	rt_handover();
	pthread_cond_wait(&s->changed, &s->lock);
}

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

/* Starts one operation; lock held. */
static void start(struct rpc_stream *s, grpc_op *op, size_t n, struct rt_tag *t)
{
	s->pending++;
	rt_start(s->call, op, n, t);
}

static void receive_more(struct rpc_stream *s)
{
	grpc_op op;

	if (s->receiving || s->eof || s->count == AHEAD || !s->call)
		return;
	memset(&op, 0, sizeof(op));
	op.op = GRPC_OP_RECV_MESSAGE;
	op.data.recv_message.recv_message = &s->incoming;
	s->receiving = true;
	start(s, &op, 1, &s->t_recv);
}

/* ---- completions ---- */
static void op_over(struct rpc_stream *s)
{
	s->pending--;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
}

static void start_over(struct rt_tag *t, bool ok)
{
	struct rpc_stream *s = container_of(t, struct rpc_stream, t_start);

	(void)ok;
	pthread_mutex_lock(&s->lock);
	op_over(s);
}

static void hello_over(struct rt_tag *t, bool ok)
{
	struct rpc_stream *s = container_of(t, struct rpc_stream, t_hello);

	(void)ok;
	pthread_mutex_lock(&s->lock);
	s->hello = true;
	op_over(s);
}

/* A frame that this thread has given to s->take. */
static __thread struct taking {
	bool op;   /* it is in recv_over(), and counts as pending */
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

static void recv_over(struct rt_tag *t, bool ok)
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
		receive_more(s);
	} else if (ok && s->incoming) {
		s->queue[(s->head + s->count++) % AHEAD] = s->incoming;
		s->incoming = NULL;
		receive_more(s);
	} else {
		s->eof = true;
		s->eof_broken = grpc_call_failed_before_recv_message(s->call);
		pthread_cond_broadcast(&s->ended);
	}
	op_over(s);
}

static void send_over(struct rt_tag *t, bool ok)
{
	struct rpc_stream *s = container_of(t, struct rpc_stream, t_send);

	pthread_mutex_lock(&s->lock);
	s->sending = false;
	s->sent_ok = ok;
	op_over(s);
}

static void post_over(struct rt_tag *t, bool ok)
{
	struct rpc_stream *s = container_of(t, struct rpc_stream, t_post);
	grpc_byte_buffer *bb;

	(void)ok; /* a stream that has died says so to who receives */
	pthread_mutex_lock(&s->lock);
	bb = s->posted;
	s->posted = NULL;
	op_over(s);
	grpc_byte_buffer_destroy(bb);
}

static void close_over(struct rt_tag *t, bool ok)
{
	struct rpc_stream *s = container_of(t, struct rpc_stream, t_close);

	(void)ok;
	pthread_mutex_lock(&s->lock);
	op_over(s);
}

static void end_over(struct rt_tag *t, bool ok)
{
	struct rpc_stream *s = container_of(t, struct rpc_stream, t_end);
	int err = 0;

	(void)ok;
	if (s->ch && s->status != GRPC_STATUS_OK)
		err = channel_failure(s->ch, s->status, s->details, false, false);
	pthread_mutex_lock(&s->lock);
	s->err = err == -EAGAIN ? -EHOSTDOWN : err;
	s->over = true;
	if (s->was_cancelled)
		s->cancelled = true;
	op_over(s);
}

static void hold_over(struct frame_hold *h)
{
	struct rpc_stream *s = container_of(h, struct rpc_stream, hold);

	pthread_mutex_lock(&s->lock);
	s->held = false;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
}

/* ---- making one ---- */
static struct rpc_stream *stream_new(const struct rpc_method *m, const char *peer)
{
	struct rpc_stream *s = calloc(1, sizeof(*s) + strlen(peer) + 1);
	pthread_condattr_t ca;

	if (!s)
		return NULL;
	s->m = m;
	strcpy(s->peer, peer);
	pthread_mutex_init(&s->lock, NULL);
	pthread_mutex_init(&s->send_lock, NULL);
	pthread_condattr_init(&ca);
	pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
	pthread_cond_init(&s->changed, &ca);
	pthread_cond_init(&s->ended, &ca);
	pthread_condattr_destroy(&ca);
	s->t_start.fn = start_over;
	s->t_hello.fn = hello_over;
	s->t_recv.fn = recv_over;
	s->t_send.fn = send_over;
	s->t_post.fn = post_over;
	s->t_close.fn = close_over;
	s->t_end.fn = end_over;
	grpc_metadata_array_init(&s->md_init);
	grpc_metadata_array_init(&s->md_trail);
	s->details = grpc_empty_slice();
	return s;
}

static void stream_free(struct rpc_stream *s)
{
	for (; s->count; s->count--, s->head = (s->head + 1) % AHEAD)
		grpc_byte_buffer_destroy(s->queue[s->head]);
	grpc_metadata_array_destroy(&s->md_init);
	grpc_metadata_array_destroy(&s->md_trail);
	grpc_slice_unref(s->details);
	if (s->call)
		grpc_call_unref(s->call);
	pthread_mutex_destroy(&s->lock);
	pthread_mutex_destroy(&s->send_lock);
	pthread_cond_destroy(&s->changed);
	pthread_cond_destroy(&s->ended);
	free(s);
}

/* Both sides tell their epoch at the start: the server's also proves that the stream was accepted. */
static grpc_metadata epoch_md(void)
{
	grpc_metadata md = { 0 };
	char epoch[24];

	snprintf(epoch, sizeof(epoch), "%" PRIu64, clock_epoch());
	md.key = grpc_slice_from_static_string(RPC_MD_EPOCH);
	md.value = grpc_slice_from_copied_string(epoch);
	return md;
}

static void start_client(struct rpc_stream *s)
{
	grpc_metadata md = epoch_md();
	grpc_op op[3];

	memset(op, 0, sizeof(op));
	op[0].op = GRPC_OP_SEND_INITIAL_METADATA;
	op[0].data.send_initial_metadata.count = 1;
	op[0].data.send_initial_metadata.metadata = &md;
	op[1].op = GRPC_OP_RECV_INITIAL_METADATA;
	op[1].data.recv_initial_metadata.recv_initial_metadata = &s->md_init;
	op[2].op = GRPC_OP_RECV_STATUS_ON_CLIENT;
	op[2].data.recv_status_on_client.trailing_metadata = &s->md_trail;
	op[2].data.recv_status_on_client.status = &s->status;
	op[2].data.recv_status_on_client.status_details = &s->details;
	pthread_mutex_lock(&s->lock);
	start(s, &op[2], 1, &s->t_end);
	start(s, &op[0], 1, &s->t_start);
	start(s, &op[1], 1, &s->t_hello);
	pthread_mutex_unlock(&s->lock);
	grpc_slice_unref(md.value);
}

/* lock held. The errno of a stream that ended without the peer's word. */
static int broken(struct rpc_stream *s)
{
	if (s->cancelled && !(s->ch && s->over && s->status == GRPC_STATUS_DEADLINE_EXCEEDED))
		return -ECANCELED;
	return s->ch && s->over && s->status != GRPC_STATUS_OK ? s->err : -EPIPE;
}

int rpc_stream_open(struct rpc_channel *ch, const struct rpc_method *m, int deadline_ms, struct rpc_stream **out)
{
	struct rpc_stream *s = stream_new(m, "");
	int r = 0;

	if (!s)
		return -ENOMEM;
	s->ch = ch;
	s->call = channel_new_call(ch, m, deadline_of(deadline_ms));
	if (!s->call || channel_add_stream(ch, s) < 0) {
		stream_free(s);
		return -ECANCELED;
	}
	start_client(s);
	pthread_mutex_lock(&s->lock);
	/* A call that failed delivers empty initial metadata, and then its status. */
	while (!s->over && !(s->hello && s->md_init.count))
		wait_change(s);
	if (s->over && s->status != GRPC_STATUS_OK)
		r = broken(s);
	receive_more(s);
	pthread_mutex_unlock(&s->lock);
	if (r) {
		rpc_stream_finish(s, 0);
		return r;
	}
	*out = s;
	return 0;
}

struct rpc_stream *stream_accept(struct rpc_server *srv, grpc_call *call, const struct rpc_method *m, const char *peer, uint64_t epoch)
{
	struct rpc_stream *s = stream_new(m, peer);
	grpc_metadata md = epoch_md();
	grpc_op op[2];

	if (!s)
		abort();
	s->srv = srv;
	s->call = call;
	s->epoch = epoch;
	memset(op, 0, sizeof(op));
	op[0].op = GRPC_OP_RECV_CLOSE_ON_SERVER;
	op[0].data.recv_close_on_server.cancelled = &s->was_cancelled;
	op[1].op = GRPC_OP_SEND_INITIAL_METADATA;
	op[1].data.send_initial_metadata.count = 1;
	op[1].data.send_initial_metadata.metadata = &md;
	pthread_mutex_lock(&s->lock);
	start(s, &op[0], 1, &s->t_end);
	start(s, &op[1], 1, &s->t_hello);
	receive_more(s);
	pthread_mutex_unlock(&s->lock);
	grpc_slice_unref(md.value);
	return s;
}

/* ---- use ---- */
/*
 * A send failed, so the stream is dead; but gRPC keeps the frame, and with it the caller's bytes, as long as the call. Gives up the call. Lock held; is
 * let go of meanwhile.
 */
static void drop_call(struct rpc_stream *s)
{
	grpc_call *call;

	/* The peer's status is on its way, behind what it sent before: it says why, if there is room to receive it. */
	while (!s->over && !s->cancelled && s->count < AHEAD)
		wait_change(s);
	grpc_call_cancel(s->call, NULL); /* a no-op when it is over */
	while (s->pending)
		wait_change(s);
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
		wait_change(s);
	if (s->cancelled || s->over || s->half_closed || !s->call) {
		r = s->half_closed ? -EPIPE : broken(s);
		pthread_mutex_unlock(&s->lock);
		grpc_byte_buffer_destroy(bb);
		goto out;
	}
	memset(&op, 0, sizeof(op));
	op.op = GRPC_OP_SEND_MESSAGE;
	op.data.send_message.send_message = bb;
	s->sending = s->held = true;
	start(s, &op, 1, &s->t_send);
	while (s->sending)
		wait_change(s);
	if (!s->sent_ok) {
		drop_call(s);
		r = broken(s);
	}
	pthread_mutex_unlock(&s->lock);
	grpc_byte_buffer_destroy(bb);
	frame_hold_drop(&s->hold);
	pthread_mutex_lock(&s->lock);
	while (s->held) {
		if (s->over && s->call) /* the peer ended the stream and will never read this frame: gRPC calls that sent, and keeps it */
			drop_call(s);
		else
			wait_change(s);
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
		r = s->half_closed ? -EPIPE : broken(s);
	if (!r) {
		memset(&op, 0, sizeof(op));
		op.op = GRPC_OP_SEND_MESSAGE;
		op.data.send_message.send_message = s->posted = bb;
		start(s, &op, 1, &s->t_post);
	}
	pthread_mutex_unlock(&s->lock);
	if (r)
		grpc_byte_buffer_destroy(bb);
out:
	pthread_mutex_unlock(&s->send_lock);
	return r;
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
			wait_change(s);
		return s->status == GRPC_STATUS_OK ? 0 : broken(s);
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
	while (!s->count && (!s->eof || s->taking) && r != ETIMEDOUT) {
		if (s->take)
			wait_end(s);
		else if (timeout_ms < 0)
			wait_change(s);
		else
			r = wait_change_until(s, &ts);
	}
	if (!s->count) {
		r = s->eof ? recv_end(s) : -ETIMEDOUT;
		pthread_mutex_unlock(&s->lock);
		return r;
	}
	bb = s->queue[s->head];
	s->head = (s->head + 1) % AHEAD;
	s->count--;
	receive_more(s);
	pthread_mutex_unlock(&s->lock);
	r = frame_decode(bb, frame_limit(s->m), s->ch ? s->m->out : s->m->in, &h, m);
	if (r) {
		rpc_stream_cancel(s);
		return r;
	}
	m->err = 0;
	return 1;
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
	receive_more(s);
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
	receive_more(s);
	if (me->op)
		op_over(s);
	else
		pthread_mutex_unlock(&s->lock);
}

void rpc_stream_done_sending(struct rpc_stream *s)
{
	grpc_op op;

	if (!s->ch)
		return; /* the server ends its side with the status */
	pthread_mutex_lock(&s->send_lock);
	pthread_mutex_lock(&s->lock);
	while (s->posted)
		wait_change(s);
	if (!s->half_closed && !s->over && s->call) {
		s->half_closed = true;
		memset(&op, 0, sizeof(op));
		op.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
		start(s, &op, 1, &s->t_close);
	}
	pthread_mutex_unlock(&s->lock);
	pthread_mutex_unlock(&s->send_lock);
}

void rpc_stream_cancel(struct rpc_stream *s)
{
	pthread_mutex_lock(&s->lock);
	if (!s->cancelled) {
		s->cancelled = true;
		if (s->call)
			grpc_call_cancel(s->call, NULL);
		pthread_cond_broadcast(&s->changed);
	}
	pthread_mutex_unlock(&s->lock);
}

bool rpc_stream_cancelled(const struct rpc_stream *cs)
{
	struct rpc_stream *s = (struct rpc_stream *)cs;
	bool c;

	pthread_mutex_lock(&s->lock);
	c = s->cancelled || (s->ch && s->over && s->status != GRPC_STATUS_OK);
	pthread_mutex_unlock(&s->lock);
	return c;
}

void stream_recheck(struct rpc_stream *s, struct rpc_tls *t)
{
	struct error e = { 0 };
	char name[256];

	pthread_mutex_lock(&s->lock);
	if (s->call && !s->cancelled && tls_peer(t, s->call, name, sizeof(name), &e) < 0) {
		log_warn("stream of %s ended: %s", s->peer, e.text);
		s->cancelled = true;
		grpc_call_cancel_with_status(s->call, GRPC_STATUS_UNAUTHENTICATED, "certificate is not valid any more", NULL);
		pthread_cond_broadcast(&s->changed);
	}
	pthread_mutex_unlock(&s->lock);
}

static void wait_idle(struct rpc_stream *s)
{
	pthread_mutex_lock(&s->lock);
	while (s->pending)
		wait_change(s);
	pthread_mutex_unlock(&s->lock);
}

static int finish_client(struct rpc_stream *s)
{
	struct rpc_msg m;
	size_t i;
	int r;

	rpc_stream_done_sending(s);
	while ((r = rpc_stream_recv(s, &m, -1)) > 0)
		rpc_msg_clear(&m);
	wait_idle(s);
	for (i = 0; !r && i < s->md_trail.count; i++) {
		char *v;

		if (grpc_slice_str_cmp(s->md_trail.metadata[i].key, RPC_MD_ERRNO))
			continue;
		v = grpc_slice_to_c_string(s->md_trail.metadata[i].value);
		r = atoi(v);
		gpr_free(v);
		if (r < 0 || r > 4095)
			r = EPROTO;
	}
	channel_del_stream(s->ch, s);
	return r;
}

static int finish_server(struct rpc_stream *s, int err)
{
	grpc_metadata md = { 0 };
	char text[16];
	grpc_op op;

	snprintf(text, sizeof(text), "%d", err);
	md.key = grpc_slice_from_static_string(RPC_MD_ERRNO);
	md.value = grpc_slice_from_copied_string(text);
	memset(&op, 0, sizeof(op));
	op.op = GRPC_OP_SEND_STATUS_FROM_SERVER;
	op.data.send_status_from_server.status = GRPC_STATUS_OK;
	if (err) {
		op.data.send_status_from_server.trailing_metadata_count = 1;
		op.data.send_status_from_server.trailing_metadata = &md;
	}
	pthread_mutex_lock(&s->lock);
	while (s->posted)
		wait_change(s);
	if (s->call)
		start(s, &op, 1, &s->t_close);
	pthread_mutex_unlock(&s->lock);
	wait_idle(s);
	grpc_slice_unref(md.value);
	return 0;
}

int rpc_stream_finish(struct rpc_stream *s, int err)
{
	struct rpc_server *srv = s->srv;
	int r = s->ch ? finish_client(s) : finish_server(s, err);

	/* A frame that was received ahead may have started another receive before the end was seen; it is over as well. */
	if (srv)
		server_stream_gone(srv, s);
	stream_free(s);
	return r;
}
