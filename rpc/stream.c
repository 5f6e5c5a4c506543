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
#include "rpc/stream.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "conf/clock.h"
#include "conf/log.h"

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

void stream_wait(struct rpc_stream *s)
{
	rt_handover();
	pthread_cond_wait(&s->changed, &s->lock);
}

void stream_start(struct rpc_stream *s, grpc_op *op, size_t n, struct rt_tag *t)
{
	s->pending++;
	rt_start(s->call, op, n, t);
}

/* ---- completions ---- */
void stream_op_over(struct rpc_stream *s)
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
	stream_op_over(s);
}

static void hello_over(struct rt_tag *t, bool ok)
{
	struct rpc_stream *s = container_of(t, struct rpc_stream, t_hello);

	(void)ok;
	pthread_mutex_lock(&s->lock);
	s->hello = true;
	stream_op_over(s);
}

static void close_over(struct rt_tag *t, bool ok)
{
	struct rpc_stream *s = container_of(t, struct rpc_stream, t_close);

	(void)ok;
	pthread_mutex_lock(&s->lock);
	stream_op_over(s);
}

static void end_over(struct rt_tag *t, bool ok)
{
	struct rpc_stream *s = container_of(t, struct rpc_stream, t_end);
	int err = 0;

	(void)ok;
	if (s->ch && s->status != GRPC_STATUS_OK)
		err = channel_failure(s->ch, s->line, s->status, s->details, false, false);
	pthread_mutex_lock(&s->lock);
	s->err = err == -EAGAIN ? -EHOSTDOWN : err;
	s->over = true;
	if (s->was_cancelled)
		s->cancelled = true;
	stream_op_over(s);
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
	s->t_recv.fn = stream_recv_over;
	s->t_send.fn = stream_send_over;
	s->t_post.fn = stream_post_over;
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
	if (s->line)
		line_put(s->line);
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
	stream_start(s, &op[2], 1, &s->t_end);
	stream_start(s, &op[0], 1, &s->t_start);
	stream_start(s, &op[1], 1, &s->t_hello);
	pthread_mutex_unlock(&s->lock);
	grpc_slice_unref(md.value);
}

int stream_broken(struct rpc_stream *s)
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
	s->call = channel_new_call(ch, m, deadline_of(deadline_ms), &s->line);
	if (!s->call || channel_add_stream(ch, s) < 0) {
		stream_free(s);
		return -ECANCELED;
	}
	start_client(s);
	pthread_mutex_lock(&s->lock);
	/* A call that failed delivers empty initial metadata, and then its status. */
	while (!s->over && !(s->hello && s->md_init.count))
		stream_wait(s);
	if (s->over && s->status != GRPC_STATUS_OK)
		r = stream_broken(s);
	else
		line_served(s->line);
	stream_more(s);
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
	stream_start(s, &op[0], 1, &s->t_end);
	stream_start(s, &op[1], 1, &s->t_hello);
	stream_more(s);
	pthread_mutex_unlock(&s->lock);
	grpc_slice_unref(md.value);
	return s;
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
	/* One that was replaced in time is no reason to end what cannot be begun again (bytes of named pipes): who is at the other end has not changed. */
	if (s->call && !s->cancelled && tls_peer(t, s->call, name, sizeof(name), &e) < 0 && !tls_succeeded(t, s->call)) {
		if (tls_may_warn(t, e.text))
			log_warn("stream of %s ended: %s", s->peer, e.text);
		s->cancelled = true;
		grpc_call_cancel_with_status(s->call, GRPC_STATUS_UNAUTHENTICATED, e.text, NULL);
		pthread_cond_broadcast(&s->changed);
	}
	pthread_mutex_unlock(&s->lock);
}

static void wait_idle(struct rpc_stream *s)
{
	pthread_mutex_lock(&s->lock);
	while (s->pending)
		stream_wait(s);
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
		stream_wait(s);
	if (s->call)
		stream_start(s, &op, 1, &s->t_close);
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
