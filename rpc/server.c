/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The server's side of unary calls, and the acceptance of streams (stream.c goes on with those).
 *
 * For every method a bounded number of requests is outstanding at gRPC (slots). A worker takes one from the server's queue, asks for the next, and
 * runs the handler in place. All further operations of the call belong to the process's own queue, so that a cancellation is seen while
 * all workers are busy.
 *
 * A request has two lives: its gRPC call ends when the reply is out and the close is in; its memory when also the handler has replied and the transport
 * has let go of the bulk bytes (`refs`).
 *
 * Locking: server.lock: counts, streams, peers. server.cache_lock: the reply cache. request.lock: cancelled, on_cancel, replied. None is held
 * while a handler or a call-back runs; no two at once.
 */
#include "rpc/internal.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <arpa/inet.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/log.h"
#include "rpc/replycache.h"

#define SLOTS_MIN   4	 /* outstanding requests per method, at least */
#define STREAMS_MAX 1024 /* streams of all peers; each costs a thread */
#define RECHECK_MS  10000
#define PEER_MAX    256	 /* bytes of a peer's name with its NUL: what DNS allows */

static const struct replycache_limits cache_limits = { .clients = 4096, .per_peer = 64, .entries = 2048, .bytes = 4 << 20 };

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

/* Streams by (peer, epoch), to tell when the last one is gone. */
struct peer {
	LIST_ENTRY(peer) link;
	uint64_t epoch;
	unsigned streams;
	char name[PEER_MAX];
};

struct rpc_server {
	struct rpc_server_opts o;
	grpc_server *gs;
	grpc_completion_queue *cq;
	pthread_t *workers;
	int nworkers;
	struct slot *slots;
	size_t nslots;
	struct stray stray;
	uint16_t *ports;
	struct rt_tag down_tag;
	struct rt_event down;
	struct rt_timer recheck;

	pthread_mutex_t lock;
	pthread_cond_t idle;
	bool stopping, rechecking;
	unsigned live; /* requests and streams */
	struct stream_list streams;
	unsigned nstreams;
	LIST_HEAD(, peer) peers;

	pthread_mutex_t cache_lock;
	struct replycache *cache;
	_Atomic uint64_t last_warn_ns;
};

struct rpc_request {
	struct rpc_server *srv;
	const struct rpc_service *svc;
	grpc_call *call;
	struct rt_tag closed_tag, sent_tag;
	_Atomic int ops;  /* closed, sent: the call's life */
	_Atomic int refs; /* handler, closed, sent, hold */
	struct frame_hold hold;
	void (*release)(void *arg);
	void *release_arg;
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

/* At most one line a second: a peer that sends rubbish shall not fill the disk. */
static bool may_warn(struct rpc_server *srv)
{
	uint64_t now = rt_now_ns(), last = atomic_load(&srv->last_warn_ns);

	return now - last > 1000000000ull && atomic_compare_exchange_strong(&srv->last_warn_ns, &last, now);
}

/* ---- life of a request ---- */
static void request_unref(struct rpc_request *rq)
{
	struct rpc_server *srv = rq->srv;

	if (atomic_fetch_sub(&rq->refs, 1) != 1)
		return;
	rpc_msg_clear(&rq->msg);
	pthread_mutex_destroy(&rq->lock);
	pthread_cond_destroy(&rq->told);
	gpr_free(rq->addr);
	free(rq);
	pthread_mutex_lock(&srv->lock);
	if (!--srv->live)
		pthread_cond_broadcast(&srv->idle);
	pthread_mutex_unlock(&srv->lock);
}

static void op_over(struct rpc_request *rq)
{
	if (atomic_fetch_sub(&rq->ops, 1) == 1)
		grpc_call_unref(rq->call);
	request_unref(rq);
}

static void sent(struct rt_tag *t, bool ok)
{
	struct rpc_request *rq = container_of(t, struct rpc_request, sent_tag);

	(void)ok; /* a caller that is gone needs no reply; one that lives asks again */
	grpc_byte_buffer_destroy(rq->send);
	rq->send = NULL;
	op_over(rq);
}

static void closed(struct rt_tag *t, bool ok)
{
	struct rpc_request *rq = container_of(t, struct rpc_request, closed_tag);
	void (*fn)(void *) = NULL;
	void *arg = NULL;

	(void)ok;
	pthread_mutex_lock(&rq->lock);
	if (rq->was_cancelled) {
		rq->cancelled = true;
		if (!rq->replied) {
			fn = rq->on_cancel;
			arg = rq->on_cancel_arg;
			rq->on_cancel = NULL;
			rq->telling = fn != NULL;
			rq->teller = pthread_self();
		}
	}
	pthread_mutex_unlock(&rq->lock);
	if (fn) {
		fn(arg);
		pthread_mutex_lock(&rq->lock);
		rq->telling = false;
		pthread_cond_broadcast(&rq->told);
		pthread_mutex_unlock(&rq->lock);
	}
	op_over(rq);
}

static void hold_over(struct frame_hold *h)
{
	struct rpc_request *rq = container_of(h, struct rpc_request, hold);

	if (rq->release)
		rq->release(rq->release_arg);
	request_unref(rq);
}

static struct rpc_request *request_new(struct slot *sl)
{
	struct rpc_request *rq = calloc(1, sizeof(*rq));
	grpc_op op;

	if (!rq)
		return NULL;
	rq->srv = sl->srv;
	rq->svc = sl->svc;
	rq->call = sl->call;
	pthread_mutex_init(&rq->lock, NULL);
	pthread_cond_init(&rq->told, NULL);
	rq->closed_tag.fn = closed;
	rq->sent_tag.fn = sent;
	rq->hold = (struct frame_hold){ 1, hold_over };
	rq->ops = 2;
	rq->refs = 4;
	memset(&op, 0, sizeof(op));
	op.op = GRPC_OP_RECV_CLOSE_ON_SERVER;
	op.data.recv_close_on_server.cancelled = &rq->was_cancelled;
	if (grpc_call_start_batch(rq->call, &op, 1, &rq->closed_tag, NULL) != GRPC_CALL_OK)
		abort();
	return rq;
}

/* Sends `control` and bulk, or with control NULL the status. Ends the handler's and the hold's references. */
static void send_reply(struct rpc_request *rq, const grpc_slice *control, const struct iovec *bulk, int nbulk, bool copy, grpc_status_code status,
	const char *details)
{
	grpc_op op[3];
	grpc_slice text;
	int n = 0, r = 0;

	memset(op, 0, sizeof(op));
	op[n++].op = GRPC_OP_SEND_INITIAL_METADATA;
	if (control)
		r = frame_buffer(*control, bulk, nbulk, copy ? NULL : &rq->hold, frame_limit(rq->svc->method), &rq->send);
	if (r) {
		status = GRPC_STATUS_RESOURCE_EXHAUSTED;
		details = "the reply is too long";
		log_error("%s: reply of %s is too long", rq->svc->method->name, rq->peer);
	} else if (control) {
		op[n].op = GRPC_OP_SEND_MESSAGE;
		op[n++].data.send_message.send_message = rq->send;
	}
	text = grpc_slice_from_copied_string(details ? details : "");
	op[n].op = GRPC_OP_SEND_STATUS_FROM_SERVER;
	op[n].data.send_status_from_server.status = status;
	op[n++].data.send_status_from_server.status_details = &text;
	if (grpc_call_start_batch(rq->call, op, n, &rq->sent_tag, NULL) != GRPC_CALL_OK)
		abort();
	grpc_slice_unref(text);
	frame_hold_drop(&rq->hold);
	request_unref(rq);
}

static void send_status(struct rpc_request *rq, grpc_status_code status, const char *details)
{
	send_reply(rq, NULL, NULL, 0, true, status, details);
}

/* ---- reply cache: an answer is one slice, control and bulk bytes behind one another ---- */
static void drop_slice(void *reply)
{
	grpc_slice_unref(*(grpc_slice *)reply);
	free(reply);
}

static grpc_slice *flatten(grpc_slice control, const struct iovec *bulk, int nbulk)
{
	grpc_slice *s = malloc(sizeof(*s));
	size_t n = GRPC_SLICE_LENGTH(control), i;
	uint8_t *p;

	if (!s)
		return NULL;
	if (!nbulk) {
		*s = grpc_slice_ref(control);
		return s;
	}
	for (i = 0; i < (size_t)nbulk; i++)
		n += bulk[i].iov_len;
	*s = grpc_slice_malloc(n);
	p = GRPC_SLICE_START_PTR(*s);
	memcpy(p, GRPC_SLICE_START_PTR(control), GRPC_SLICE_LENGTH(control));
	p += GRPC_SLICE_LENGTH(control);
	for (i = 0; i < (size_t)nbulk; i++) {
		memcpy(p, bulk[i].iov_base, bulk[i].iov_len);
		p += bulk[i].iov_len;
	}
	return s;
}

static void answer_err(struct rpc_request *rq, int err)
{
	struct frame_head h = { .version = RPC_VERSION, .epoch = clock_epoch(), .err = err };
	grpc_slice control;

	if (frame_control(&h, NULL, &control) < 0)
		abort(); /* a header alone always fits */
	send_reply(rq, &control, NULL, 0, true, GRPC_STATUS_OK, NULL);
	grpc_slice_unref(control);
}

/* True: the handler is to run. Else the request has been answered, or waits for the one that runs. */
static bool first_time(struct rpc_request *rq)
{
	struct rpc_server *srv = rq->srv;
	void *reply = NULL;
	enum replycache_verdict v;
	grpc_slice known = grpc_empty_slice();

	pthread_mutex_lock(&srv->cache_lock);
	v = replycache_begin(srv->cache, rq->peer, rq->head.epoch, rq->head.seq, rq->head.acked, rq, &reply);
	if (v == REPLY_KNOWN)
		known = grpc_slice_ref(*(grpc_slice *)reply);
	pthread_mutex_unlock(&srv->cache_lock);
	switch (v) {
	case REPLY_NEW:
		return true;
	case REPLY_KNOWN:
		send_reply(rq, &known, NULL, 0, true, GRPC_STATUS_OK, NULL);
		grpc_slice_unref(known);
		break;
	case REPLY_WAIT:
		break;
	case REPLY_LOST:
		log_warn("%s from %s: call %" PRIu64 " came again after its answer was dropped", rq->svc->method->name, rq->peer, rq->head.seq);
		answer_err(rq, EBADE);
		break;
	case REPLY_NOMEM:
		answer_err(rq, ENOMEM);
		break;
	}
	return false;
}

/* Stores the answer, and gives it to the same call that came again meanwhile. Not executed: they are told to ask once more. */
static void finish_cached(struct rpc_request *rq, bool executed, grpc_slice control, const struct iovec *bulk, int nbulk)
{
	struct rpc_server *srv = rq->srv;
	grpc_slice *keep = executed ? flatten(control, bulk, nbulk) : NULL, mine = grpc_empty_slice();
	void **w;
	size_t i, n;

	if (keep)
		mine = grpc_slice_ref(*keep);
	pthread_mutex_lock(&srv->cache_lock);
	n = replycache_end(srv->cache, rq->peer, rq->head.epoch, rq->head.seq, keep, GRPC_SLICE_LENGTH(mine) + 128, &w);
	pthread_mutex_unlock(&srv->cache_lock);
	for (i = 0; i < n; i++) {
		if (executed)
			send_reply(w[i], &mine, NULL, 0, true, GRPC_STATUS_OK, NULL);
		else
			send_status(w[i], GRPC_STATUS_UNAVAILABLE, "the first try was cancelled");
	}
	grpc_slice_unref(mine);
	free(w);
}

void rpc_reply(struct rpc_request *rq, int err, const ProtobufCMessage *out, const struct iovec *bulk, int nbulk, void (*release)(void *arg),
	void *arg)
{
	struct frame_head h = { .version = RPC_VERSION, .epoch = clock_epoch(), .err = err };
	grpc_slice control;
	bool cancelled;

	if (frame_control(&h, out, &control) < 0) {
		log_error("%s: the answer to %s is longer than %u bytes", rq->svc->method->name, rq->peer, RPC_CONTROL_MAX);
		h.err = EMSGSIZE;
		if (frame_control(&h, NULL, &control) < 0)
			abort();
	}
	pthread_mutex_lock(&rq->lock);
	rq->replied = true;
	cancelled = rq->cancelled;
	while (rq->telling && !pthread_equal(rq->teller, pthread_self()))
		pthread_cond_wait(&rq->told, &rq->lock);
	pthread_mutex_unlock(&rq->lock);
	rq->release = release;
	rq->release_arg = arg;
	if (rq->svc->method->mutates)
		finish_cached(rq, !(cancelled && err == ECANCELED), control, bulk, nbulk);
	send_reply(rq, &control, bulk, nbulk, !release, GRPC_STATUS_OK, NULL);
	grpc_slice_unref(control);
}

/* ---- what a handler asks ---- */
const char *rpc_request_peer(const struct rpc_request *rq)
{
	return rq->peer;
}

const char *rpc_request_addr(const struct rpc_request *crq)
{
	struct rpc_request *rq = (struct rpc_request *)crq; /* filled when first asked for */

	if (!rq->addr)
		rq->addr = grpc_call_get_peer(rq->call);
	return rq->addr;
}

uint64_t rpc_request_epoch(const struct rpc_request *rq)
{
	return rq->head.epoch;
}

uint64_t rpc_request_seq(const struct rpc_request *rq)
{
	return rq->head.seq;
}

const struct rpc_msg *rpc_request_msg(const struct rpc_request *rq)
{
	return &rq->msg;
}

bool rpc_request_cancelled(const struct rpc_request *crq)
{
	struct rpc_request *rq = (struct rpc_request *)crq;
	bool c;

	pthread_mutex_lock(&rq->lock);
	c = rq->cancelled;
	pthread_mutex_unlock(&rq->lock);
	return c;
}

void rpc_request_on_cancel(struct rpc_request *rq, void (*fn)(void *arg), void *arg)
{
	bool now;

	pthread_mutex_lock(&rq->lock);
	now = rq->cancelled;
	if (!now) {
		rq->on_cancel = fn;
		rq->on_cancel_arg = arg;
	}
	pthread_mutex_unlock(&rq->lock);
	if (now && fn)
		fn(arg);
}

/* ---- taking requests ---- */
static void slot_ask(struct slot *sl)
{
	struct rpc_server *srv = sl->srv;

	sl->call = NULL;
	sl->payload = NULL;
	grpc_metadata_array_init(&sl->md);
	if (grpc_server_request_registered_call(srv->gs, sl->handle, &sl->call, &sl->deadline, &sl->md,
		    sl->svc->method->kind == RPC_UNARY ? &sl->payload : NULL, rt_cq(), srv->cq, &sl->tag) != GRPC_CALL_OK)
		abort();
}

static int decode(struct rpc_request *rq, grpc_byte_buffer *payload)
{
	int r = -EPROTO;

	if (payload)
		r = frame_decode(payload, frame_limit(rq->svc->method), rq->svc->method->in, &rq->head, &rq->msg);
	rq->msg.err = 0;
	return r;
}

static void take_unary(struct rpc_request *rq, grpc_byte_buffer *payload)
{
	int r = decode(rq, payload);
	struct error e;

	if (tls_peer(rq->srv->o.tls, rq->call, rq->peer, sizeof(rq->peer), &e) < 0) {
		if (may_warn(rq->srv))
			log_warn("%s: refused: %s", rpc_request_addr(rq), e.text);
		send_status(rq, GRPC_STATUS_UNAUTHENTICATED, e.text);
	} else if (r) {
		if (may_warn(rq->srv))
			log_warn("%s (%s): request %s: %s", rq->peer, rpc_request_addr(rq), rq->svc->method->name, strerror(-r));
		send_status(rq, r == -EMSGSIZE ? GRPC_STATUS_RESOURCE_EXHAUSTED : GRPC_STATUS_INVALID_ARGUMENT, "request that cannot be decoded");
	} else if (rq->head.version < RPC_VERSION_MIN) {
		answer_err(rq, EPROTONOSUPPORT);
	} else if (!rq->svc->method->mutates || first_time(rq)) {
		rq->svc->unary(rq->srv->o.ctx, rq);
	}
}

static uint64_t md_u64(const grpc_metadata_array *md, const char *key)
{
	char *s;
	uint64_t v = 0;
	size_t i;

	for (i = 0; i < md->count; i++) {
		if (grpc_slice_str_cmp(md->metadata[i].key, key))
			continue;
		s = grpc_slice_to_c_string(md->metadata[i].value);
		v = strtoull(s, NULL, 10);
		gpr_free(s);
	}
	return v;
}

struct stream_start {
	struct rpc_server *srv;
	const struct rpc_service *svc;
	struct rpc_stream *s;
};

static void *stream_main(void *arg)
{
	struct stream_start st = *(struct stream_start *)arg;

	free(arg);
	st.svc->stream(st.srv->o.ctx, st.s);
	return NULL;
}

/* Counts the stream for its peer; lock held. */
static void peer_count(struct rpc_server *srv, const char *name, uint64_t epoch)
{
	struct peer *p;

	LIST_FOREACH(p, &srv->peers, link)
		if (p->epoch == epoch && !strcmp(p->name, name))
			break;
	if (!p) {
		p = calloc(1, sizeof(*p));
		if (!p)
			return; /* its loss goes unnoticed by this path; leases run out as well */
		p->epoch = epoch;
		strcpy(p->name, name);
		LIST_INSERT_HEAD(&srv->peers, p, link);
	}
	p->streams++;
}

void server_stream_gone(struct rpc_server *srv, struct rpc_stream *s)
{
	char name[PEER_MAX];
	bool lost = false;
	struct peer *p;

	strcpy(name, rpc_stream_peer(s));
	pthread_mutex_lock(&srv->lock);
	LIST_REMOVE(stream_link_of(s), link);
	LIST_FOREACH(p, &srv->peers, link)
		if (p->epoch == rpc_stream_epoch(s) && !strcmp(p->name, name))
			break;
	if (p && !--p->streams) {
		LIST_REMOVE(p, link);
		free(p);
		lost = true;
	}
	pthread_mutex_unlock(&srv->lock);
	if (lost && srv->o.peer_lost)
		srv->o.peer_lost(srv->o.ctx, name);
	pthread_mutex_lock(&srv->lock);
	srv->nstreams--;
	if (!--srv->live)
		pthread_cond_broadcast(&srv->idle);
	pthread_mutex_unlock(&srv->lock);
}

static void take_stream(struct slot *sl)
{
	struct rpc_server *srv = sl->srv;
	struct stream_start *st = malloc(sizeof(*st));
	uint64_t epoch = md_u64(&sl->md, RPC_MD_EPOCH);
	char peer[PEER_MAX] = "";
	struct error e = { 0 };
	struct rpc_stream *s;
	pthread_t t;
	bool full;

	if (!st || tls_peer(srv->o.tls, sl->call, peer, sizeof(peer), &e) < 0) {
		if (e.code && may_warn(srv))
			log_warn("stream refused: %s", e.text);
		grpc_call_cancel_with_status(sl->call, GRPC_STATUS_UNAUTHENTICATED, e.text, NULL);
		grpc_call_unref(sl->call);
		free(st);
		return;
	}
	pthread_mutex_lock(&srv->lock);
	full = srv->stopping || srv->nstreams >= STREAMS_MAX;
	if (!full) {
		srv->nstreams++;
		srv->live++;
		peer_count(srv, peer, epoch);
	}
	pthread_mutex_unlock(&srv->lock);
	if (full) {
		grpc_call_cancel_with_status(sl->call, GRPC_STATUS_UNAVAILABLE, "no more streams", NULL);
		grpc_call_unref(sl->call);
		free(st);
		return;
	}
	s = stream_accept(srv, sl->call, sl->svc->method, peer, epoch);
	pthread_mutex_lock(&srv->lock);
	LIST_INSERT_HEAD(&srv->streams, stream_link_of(s), link);
	if (srv->stopping)
		rpc_stream_cancel(s);
	pthread_mutex_unlock(&srv->lock);
	*st = (struct stream_start){ srv, sl->svc, s };
	if (rt_thread(&t, stream_main, st, "rpc-stream") < 0) {
		free(st);
		rpc_stream_finish(s, EAGAIN);
		return;
	}
	pthread_detach(t);
}

static void slot_fired(struct rt_tag *t, bool ok)
{
	struct slot *sl = container_of(t, struct slot, tag);
	struct rpc_server *srv = sl->srv;
	struct rpc_request *rq = NULL;
	grpc_byte_buffer *payload = sl->payload;

	if (!ok) { /* the server is going down */
		grpc_metadata_array_destroy(&sl->md);
		return;
	}
	if (sl->svc->method->kind == RPC_BIDI) {
		take_stream(sl);
	} else {
		pthread_mutex_lock(&srv->lock);
		srv->live++;
		pthread_mutex_unlock(&srv->lock);
		rq = request_new(sl);
		if (!rq)
			abort();
	}
	grpc_metadata_array_destroy(&sl->md);
	slot_ask(sl);
	if (rq)
		take_unary(rq, payload);
}

static void stray_ask(struct stray *st)
{
	grpc_call_details_init(&st->details);
	grpc_metadata_array_init(&st->md);
	if (grpc_server_request_call(st->srv->gs, &st->call, &st->details, &st->md, rt_cq(), st->srv->cq, &st->tag) != GRPC_CALL_OK)
		abort();
}

static void stray_fired(struct rt_tag *t, bool ok)
{
	struct stray *st = container_of(t, struct stray, tag);

	if (ok) {
		grpc_call_cancel_with_status(st->call, GRPC_STATUS_UNIMPLEMENTED, "no such method", NULL);
		grpc_call_unref(st->call);
	}
	grpc_call_details_destroy(&st->details);
	grpc_metadata_array_destroy(&st->md);
	if (ok)
		stray_ask(st);
}

static void *worker_main(void *arg)
{
	struct rpc_server *srv = arg;

	for (;;) {
		grpc_event ev = grpc_completion_queue_next(srv->cq, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);

		if (ev.type == GRPC_QUEUE_SHUTDOWN)
			return NULL;
		if (ev.type == GRPC_OP_COMPLETE)
			rt_dispatch(ev);
	}
}

/* Streams live for days: looks again now and then whether their peers are still to be believed. */
static void recheck(struct rt_timer *t)
{
	struct rpc_server *srv = container_of(t, struct rpc_server, recheck);
	struct stream_link *l;

	pthread_mutex_lock(&srv->lock);
	LIST_FOREACH(l, &srv->streams, link)
		stream_recheck(stream_of_link(l), srv->o.tls);
	if (srv->stopping)
		srv->rechecking = false;
	else
		rt_timer_arm(t, RECHECK_MS);
	pthread_cond_broadcast(&srv->idle);
	pthread_mutex_unlock(&srv->lock);
}

/* ---- start and stop ---- */
static grpc_server *create_server(grpc_completion_queue *cq)
{
#define INT(k, v) { .type = GRPC_ARG_INTEGER, .key = (char *)(k), .value.integer = (v) }
	grpc_arg a[] = {
		INT(GRPC_ARG_ALLOW_REUSEPORT, 0), /* else two daemons would share a port without a word */
		INT(GRPC_ARG_MAX_CONCURRENT_STREAMS, 4096),
		INT(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, RPC_BULK_MAX),
		INT(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, 10000),
		INT(GRPC_ARG_KEEPALIVE_TIME_MS, 5000),
		INT(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5000),
		INT(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
		INT(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0),
		INT(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 1000),
		INT(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0),
		INT(GRPC_ARG_HTTP2_BDP_PROBE, 0),
		INT(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 2 << 20),
		INT(GRPC_ARG_ENABLE_PER_MESSAGE_COMPRESSION, 0),
		INT(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0),
		INT(GRPC_ARG_ENABLE_CHANNELZ, 0),
	};
#undef INT
	grpc_channel_args args = { ARRAY_SIZE(a), a };
	grpc_server *gs = grpc_server_create(&args, NULL);

	grpc_server_register_completion_queue(gs, cq, NULL);
	return gs;
}

static int listen_all(struct rpc_server *srv, struct error *e)
{
	grpc_server_credentials *cred = tls_server_creds(srv->o.tls);
	const struct conf_addr *a;
	char addr[sizeof(a->host) + 16];
	size_t i;
	int port, r = 0;

	for (i = 0; !r && i < srv->o.nlisten; i++) {
		a = &srv->o.listen[i];
		snprintf(addr, sizeof(addr), strchr(a->host, ':') ? "[%s]:%u" : "%s:%u", a->host, a->port);
		port = grpc_server_add_http2_port(srv->gs, addr, cred);
		if (port <= 0)
			r = error_set(e, EADDRNOTAVAIL, "cannot listen on %s: the address is not ours, or the port is taken", addr);
		srv->ports[i] = port;
	}
	grpc_server_credentials_release(cred);
	return r;
}

static void make_slots(struct rpc_server *srv)
{
	size_t per = srv->nworkers > SLOTS_MIN ? srv->nworkers : SLOTS_MIN, i, j;
	const struct rpc_service *svc;
	void *handle;

	for (i = 0; i < srv->o.nservices; i++) {
		svc = &srv->o.services[i];
		handle = grpc_server_register_method(srv->gs, svc->method->name, NULL,
			svc->method->kind == RPC_UNARY ? GRPC_SRM_PAYLOAD_READ_INITIAL_BYTE_BUFFER : GRPC_SRM_PAYLOAD_NONE, 0);
		for (j = 0; j < per; j++)
			srv->slots[srv->nslots++] = (struct slot){ .tag.fn = slot_fired, .srv = srv, .svc = svc, .handle = handle };
	}
}

static void down(struct rt_tag *t, bool ok)
{
	struct rpc_server *srv = container_of(t, struct rpc_server, down_tag);

	(void)ok;
	rt_event_set(&srv->down);
}

static void server_free(struct rpc_server *srv)
{
	struct peer *p;

	while ((p = LIST_FIRST(&srv->peers))) {
		LIST_REMOVE(p, link);
		free(p);
	}
	grpc_server_destroy(srv->gs);
	grpc_completion_queue_destroy(srv->cq);
	replycache_free(srv->cache);
	pthread_mutex_destroy(&srv->lock);
	pthread_cond_destroy(&srv->idle);
	pthread_mutex_destroy(&srv->cache_lock);
	free((void *)srv->o.services);
	free(srv->workers);
	free(srv->slots);
	free(srv->ports);
	free(srv);
}

static int start_workers(struct rpc_server *srv)
{
	int n = srv->o.workers > 0 ? srv->o.workers : 1;

	while (srv->nworkers < n && rt_thread(&srv->workers[srv->nworkers], worker_main, srv, "rpc-worker") == 0)
		srv->nworkers++;
	return srv->nworkers ? 0 : -EAGAIN;
}

static struct rpc_server *server_new(const struct rpc_server_opts *o)
{
	struct rpc_server *srv = calloc(1, sizeof(*srv));
	int workers = o->workers > 0 ? o->workers : 1;
	struct rpc_service *copy;

	if (!srv)
		return NULL;
	srv->o = *o;
	srv->nworkers = workers; /* for the number of slots */
	copy = malloc(o->nservices * sizeof(*copy));
	srv->workers = calloc(workers, sizeof(*srv->workers));
	srv->slots = calloc(o->nservices * (workers > SLOTS_MIN ? workers : SLOTS_MIN), sizeof(*srv->slots));
	srv->ports = calloc(o->nlisten ? o->nlisten : 1, sizeof(*srv->ports));
	srv->cache = replycache_new(&cache_limits, drop_slice);
	if (!copy || !srv->workers || !srv->slots || !srv->ports || !srv->cache) {
		free(copy);
		free(srv->workers);
		free(srv->slots);
		free(srv->ports);
		replycache_free(srv->cache);
		free(srv);
		return NULL;
	}
	memcpy(copy, o->services, o->nservices * sizeof(*copy));
	srv->o.services = copy;
	srv->down_tag.fn = down;
	pthread_mutex_init(&srv->lock, NULL);
	pthread_cond_init(&srv->idle, NULL);
	pthread_mutex_init(&srv->cache_lock, NULL);
	return srv;
}

int rpc_server_start(const struct rpc_server_opts *o, struct rpc_server **out, struct error *e)
{
	struct rpc_server *srv = server_new(o);
	size_t i;
	int r;

	if (!srv)
		return error_set(e, ENOMEM, "out of memory");
	srv->cq = grpc_completion_queue_create_for_next(NULL);
	srv->gs = create_server(srv->cq);
	make_slots(srv);
	srv->nworkers = 0;
	r = listen_all(srv, e);
	if (!r)
		r = start_workers(srv);
	if (!r) {
		grpc_server_start(srv->gs);
		for (i = 0; i < srv->nslots; i++)
			slot_ask(&srv->slots[i]);
		srv->stray = (struct stray){ .tag.fn = stray_fired, .srv = srv };
		stray_ask(&srv->stray);
		srv->recheck.fn = recheck;
		srv->rechecking = true;
		rt_timer_arm(&srv->recheck, RECHECK_MS);
		*out = srv;
		return 0;
	}
	error_set(e, -r, "cannot start threads");
	rpc_server_stop(srv);
	return r;
}

void rpc_server_stop(struct rpc_server *srv)
{
	struct stream_link *l;
	grpc_event ev;
	int i;

	if (!srv)
		return;
	pthread_mutex_lock(&srv->lock);
	srv->stopping = true;
	LIST_FOREACH(l, &srv->streams, link)
		rpc_stream_cancel(stream_of_link(l));
	pthread_mutex_unlock(&srv->lock);
	grpc_server_shutdown_and_notify(srv->gs, srv->cq, &srv->down_tag);
	grpc_server_cancel_all_calls(srv->gs);
	if (srv->nworkers)
		rt_event_wait(&srv->down);
	pthread_mutex_lock(&srv->lock);
	if (srv->rechecking)
		rt_timer_hurry(&srv->recheck);
	while (srv->live || srv->rechecking)
		pthread_cond_wait(&srv->idle, &srv->lock);
	pthread_mutex_unlock(&srv->lock);
	grpc_completion_queue_shutdown(srv->cq);
	for (i = 0; i < srv->nworkers; i++)
		pthread_join(srv->workers[i], NULL);
	while (!srv->nworkers) { /* never had workers: drain here */
		ev = grpc_completion_queue_next(srv->cq, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
		if (ev.type == GRPC_QUEUE_SHUTDOWN)
			break;
	}
	server_free(srv);
}

uint16_t rpc_server_port(const struct rpc_server *srv, size_t i)
{
	return i < srv->o.nlisten ? srv->ports[i] : 0;
}
