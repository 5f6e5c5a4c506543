/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The server: takes unary requests and streams, starts, stops. request.c and stream.c go on with what was taken.
 *
 * For every method a bounded number of requests is outstanding at gRPC (slots). The thread that finds a request in the completion queue, mostly the one
 * that read it from the socket, runs the handler in place (poll.c); with `workers` of them busy it leaves the request in `waiting` for the first
 * that gets free, and its slot is asked again only then. So there is always a thread left that sees replies, closes and cancels.
 * Locking: server.h.
 */
#include "rpc/server.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "conf/cleanup.h"
#include "conf/log.h"

#define SLOTS_MIN   4	 /* outstanding requests per method, at least */
#define STREAMS_MAX 1024 /* streams of all peers; each costs a thread */
#define STREAMS_PEER 256 /* of one */
#define RECHECK_MS  10000

static const struct replycache_limits cache_limits = { .clients = 4096, .per_peer = 64, .entries = 32768, .bytes = 4 << 20 };

/* Streams by (peer, epoch), to tell when the last one is gone. */
struct peer {
	LIST_ENTRY(peer) link;
	uint64_t epoch;
	unsigned streams;
	char name[PEER_MAX];
};

/* ---- taking requests ---- */
static void slot_ask(struct slot *sl)
{
	struct rpc_server *srv = sl->srv;

	sl->call = NULL;
	sl->payload = NULL;
	grpc_metadata_array_init(&sl->md);
	HANDOVER_GIVE(&sl->tag);
	if (grpc_server_request_registered_call(srv->gs, sl->handle, &sl->call, &sl->deadline, &sl->md,
		    sl->svc->method->kind == RPC_UNARY ? &sl->payload : NULL, rt_cq(), rt_cq(), &sl->tag) != GRPC_CALL_OK)
		abort();
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

/* With srv->lock. */
static unsigned peer_streams(const struct rpc_server *srv, const char *name)
{
	const struct peer *p;
	unsigned n = 0;

	LIST_FOREACH(p, &srv->peers, link)
		if (!strcmp(p->name, name))
			n += p->streams;
	return n;
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
	char *addr;
	bool full;

	if (!st || tls_peer(srv->o.tls, sl->call, peer, sizeof(peer), &e) < 0) {
		if (e.code && tls_may_warn(srv->o.tls, e.text)) {
			addr = grpc_call_get_peer(sl->call);
			log_warn("%s: stream refused: %s", addr, e.text);
			gpr_free(addr);
		}
		grpc_call_cancel_with_status(sl->call, GRPC_STATUS_UNAUTHENTICATED, e.text, NULL);
		grpc_call_unref(sl->call);
		free(st);
		return;
	}
	pthread_mutex_lock(&srv->lock);
	full = srv->stopping || srv->nstreams >= STREAMS_MAX || peer_streams(srv, peer) >= STREAMS_PEER;
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

static void gone_quiet(struct rpc_server *srv)
{
	pthread_mutex_lock(&srv->lock);
	srv->quiet++;
	pthread_cond_broadcast(&srv->idle);
	pthread_mutex_unlock(&srv->lock);
}

/* The next request that waits for this thread; NULL: none, the thread is free. */
static struct rpc_request *next_waiting(struct rpc_server *srv)
{
	struct rpc_request *rq;

	pthread_mutex_lock(&srv->lock);
	rq = STAILQ_FIRST(&srv->waiting);
	if (rq)
		STAILQ_REMOVE_HEAD(&srv->waiting, link);
	else if (!--srv->running)
		pthread_cond_broadcast(&srv->idle);
	pthread_mutex_unlock(&srv->lock);
	return rq;
}

void server_take(struct rpc_server *srv, struct rpc_request *rq)
{
	struct rt_cost *cost;
	uint64_t began;
	bool run;

	pthread_mutex_lock(&srv->lock);
	run = srv->running < srv->o.workers;
	if (run)
		srv->running++;
	else
		STAILQ_INSERT_TAIL(&srv->waiting, rq, link);
	pthread_mutex_unlock(&srv->lock);
	while (run && rq) {
		cost = rq->cost;
		if (rq->slot) {
			grpc_metadata_array_destroy(&rq->slot->md);
			slot_ask(rq->slot);
		}
		rt_cost_begin(cost);
		began = rt_now_ns();
		request_run(rq);
		rt_cost_note(cost, began);
		rq = next_waiting(srv);
	}
}

static void slot_fired(struct rt_tag *t, bool ok)
{
	struct slot *sl = container_of(t, struct slot, tag);

	if (!ok) { /* the server is going down */
		grpc_metadata_array_destroy(&sl->md);
		gone_quiet(sl->srv);
	} else if (sl->svc->method->kind == RPC_BIDI) {
		take_stream(sl);
		grpc_metadata_array_destroy(&sl->md);
		slot_ask(sl);
	} else {
		server_take(sl->srv, request_new(sl));
	}
}

static void stray_ask(struct stray *st)
{
	grpc_call_details_init(&st->details);
	grpc_metadata_array_init(&st->md);
	HANDOVER_GIVE(&st->tag);
	if (grpc_server_request_call(st->srv->gs, &st->call, &st->details, &st->md, rt_cq(), rt_cq(), &st->tag) != GRPC_CALL_OK)
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
	else
		gone_quiet(st->srv);
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
static grpc_server *create_server(void)
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

	grpc_server_register_completion_queue(gs, rt_cq(), NULL);
	return gs;
}

static int listen_all(struct rpc_server *srv, struct error *e)
{
	grpc_server_credentials *cred = tls_server_creds(srv->o.tls);
	const struct conf_addr *a;
	char addr[sizeof(a->host) + 16];
	const char *host;
	size_t i;
	int port, r = 0;

	for (i = 0; !r && i < srv->o.nlisten; i++) {
		a = &srv->o.listen[i];
		host = rpc_listen_host(a->host);
		snprintf(addr, sizeof(addr), strchr(host, ':') ? "[%s]:%u" : "%s:%u", host, a->port);
		port = grpc_server_add_http2_port(srv->gs, addr, cred);
		if (port <= 0)
			r = rpc_listen_check(a, 1, true, e);
		if (port <= 0 && r == 0)
			r = error_set(e, EADDRNOTAVAIL, "cannot listen on %s", addr);
		srv->ports[i] = port;
	}
	grpc_server_credentials_release(cred);
	return r;
}

static void make_slots(struct rpc_server *srv)
{
	size_t per = srv->o.workers > SLOTS_MIN ? srv->o.workers : SLOTS_MIN, i, j;
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
	pthread_mutex_lock(&srv->lock);
	srv->down = true;
	pthread_cond_broadcast(&srv->idle);
	pthread_mutex_unlock(&srv->lock);
}

static void server_free(struct rpc_server *srv)
{
	struct peer *p;

	while ((p = LIST_FIRST(&srv->peers))) {
		LIST_REMOVE(p, link);
		free(p);
	}
	grpc_server_destroy(srv->gs);
	replycache_free(srv->cache);
	pthread_mutex_destroy(&srv->lock);
	pthread_cond_destroy(&srv->idle);
	pthread_mutex_destroy(&srv->cache_lock);
	free((void *)srv->o.services);
	free(srv->doors);
	free(srv->slots);
	free(srv->costs);
	free(srv->ports);
	free(srv);
}

static struct rpc_server *server_new(const struct rpc_server_opts *o)
{
	struct rpc_server *srv = calloc(1, sizeof(*srv));
	struct rpc_service *copy;
	int workers;

	if (!srv)
		return NULL;
	srv->o = *o;
	if (srv->o.workers < 1)
		srv->o.workers = 1;
	workers = srv->o.workers;
	STAILQ_INIT(&srv->waiting);
	copy = malloc(o->nservices * sizeof(*copy));
	srv->slots = calloc(o->nservices * (workers > SLOTS_MIN ? workers : SLOTS_MIN), sizeof(*srv->slots));
	srv->costs = calloc(o->nservices, sizeof(*srv->costs));
	srv->ports = calloc(o->nlisten ? o->nlisten : 1, sizeof(*srv->ports));
	srv->cache = replycache_new(&cache_limits, drop_slice);
	if (!copy || !srv->slots || !srv->costs || !srv->ports || !srv->cache) {
		free(copy);
		free(srv->slots);
		free(srv->costs);
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
	srv->gs = create_server();
	make_slots(srv);
	r = listen_all(srv, e);
	if (!r && rt_threads_add(RT_CALLS, srv->o.workers) < 0)
		r = error_set(e, EAGAIN, "cannot start threads");
	if (!r) {
		srv->started = true;
		if (srv->o.lanes)
			server_lanes_listen(srv);
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
	rpc_server_stop(srv);
	return r;
}

void rpc_server_stop(struct rpc_server *srv)
{
	struct stream_link *l;

	if (!srv)
		return;
	pthread_mutex_lock(&srv->lock);
	srv->stopping = true;
	LIST_FOREACH(l, &srv->streams, link)
		rpc_stream_cancel(stream_of_link(l));
	if (srv->rechecking)
		rt_timer_hurry(&srv->recheck);
	pthread_mutex_unlock(&srv->lock);
	HANDOVER_GIVE(&srv->down_tag);
	grpc_server_shutdown_and_notify(srv->gs, rt_cq(), &srv->down_tag);
	grpc_server_cancel_all_calls(srv->gs);
	server_lanes_stop(srv);
	pthread_mutex_lock(&srv->lock);
	while (!srv->down || srv->live || srv->nlanes || srv->nshaking || srv->ndoors || srv->running || srv->rechecking || (srv->started && srv->quiet < srv->nslots + 1))
		pthread_cond_wait(&srv->idle, &srv->lock);
	pthread_mutex_unlock(&srv->lock);
	rt_threads_del(RT_CALLS, srv->o.workers);
	if (srv->doors)
		rt_threads_del(RT_LANES, srv->o.workers);
	server_free(srv);
}

uint16_t rpc_server_port(const struct rpc_server *srv, size_t i)
{
	return i < srv->o.nlisten ? srv->ports[i] : 0;
}
