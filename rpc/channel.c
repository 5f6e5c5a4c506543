/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The client's side: channels. Unary calls are in call.c.
 *
 * Beside gRPC's connection a channel has a lane (lane.h) when the server's replies tell of a port for it. It is made in a thread of its own, and again a second after it was lost or could not
 * be made, then less and less often; without one everything goes by gRPC. A gRPC connection that is lost takes the lane with it: it is gRPC that finds out about a server that stands still.
 *
 * A connection shows the certificate that was there when it was made. When files have come in its place, the next call begins another connection, and goes by the old one as all do until the other one
 * stands. Nothing is cut off: what is under way, streams above all, stays where it is until it ends. A server that refuses a call for our certificate is connected to anew at once, and the call is
 * sent again: it tells in the handshake whether it believes what is there now.
 */
#include "rpc/channel.h"
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/log.h"

#define LANE_FIRST_NS 1000000000ull
#define LANE_DOUBLE   6 /* times */

gpr_timespec deadline_of(int ms)
{
	if (ms < 0)
		return gpr_inf_future(GPR_CLOCK_MONOTONIC);
	return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(ms, GPR_TIMESPAN));
}

int status_to_errno(grpc_status_code code)
{
	switch (code) {
	case GRPC_STATUS_OK:
		return 0;
	case GRPC_STATUS_UNAVAILABLE:
		return -EHOSTDOWN;
	case GRPC_STATUS_DEADLINE_EXCEEDED:
		return -ETIMEDOUT;
	case GRPC_STATUS_CANCELLED:
		return -ECANCELED;
	case GRPC_STATUS_UNAUTHENTICATED:
	case GRPC_STATUS_PERMISSION_DENIED:
		return -EACCES;
	case GRPC_STATUS_RESOURCE_EXHAUSTED:
		return -EMSGSIZE;
	case GRPC_STATUS_UNIMPLEMENTED:
		return -EOPNOTSUPP;
	default:
		return -EPROTO;
	}
}

/* ---- channel ---- */
static void kick_parked(struct rpc_channel *ch)
{
	struct call *c;

	LIST_FOREACH(c, &ch->calls, link)
		if (c->parked)
			rt_timer_hurry(&c->park);
}

static void watch_more(struct line *n)
{
	HANDOVER_GIVE(&n->watch);
	grpc_channel_watch_connectivity_state(n->gc, n->state, gpr_inf_future(GPR_CLOCK_MONOTONIC), rt_cq(), &n->watch);
}

/* Lock held. */
static void line_over(struct line *n)
{
	if (n->gc || n->watching)
		return;
	n->ch->nlines--;
	pthread_cond_broadcast(&n->ch->idle);
	free(n);
}

void line_put(struct line *n)
{
	struct rpc_channel *ch = n->ch;
	bool last;

	pthread_mutex_lock(&ch->lock);
	last = !--n->users;
	pthread_mutex_unlock(&ch->lock);
	if (!last)
		return;
	grpc_channel_destroy(n->gc); /* ends the watch */
	pthread_mutex_lock(&ch->lock);
	n->gc = NULL;
	line_over(n);
	pthread_mutex_unlock(&ch->lock);
}

void line_served(struct line *n)
{
	atomic_store_explicit(&n->served, true, memory_order_relaxed);
}

/* Lock held. The old one, to be given back. */
static struct line *line_switch(struct rpc_channel *ch, struct line *n)
{
	struct line *old = ch->line;

	ch->line = n;
	for (size_t i = 0; i < METHODS_MAX; i++)
		ch->methods[i].handle = NULL;
	return old;
}

static void watch_fired(struct rt_tag *t, bool ok)
{
	struct line *n = container_of(t, struct line, watch), *old = NULL;
	struct rpc_channel *ch = n->ch;
	void (*changed)(void *, bool) = NULL;
	void *arg = NULL;
	bool up;

	(void)ok;
	pthread_mutex_lock(&ch->lock);
	if (ch->closing || (n != ch->line && n != ch->next)) {
		n->watching = false;
		line_over(n);
		pthread_mutex_unlock(&ch->lock);
		return;
	}
	/* A channel that was used once reconnects by itself: a lost server is noticed to be back without anybody calling it. */
	n->state = grpc_channel_check_connectivity_state(n->gc, ch->wanted);
	up = n->state == GRPC_CHANNEL_READY;
	if (n == ch->next && up) {
		ch->next = NULL;
		old = line_switch(ch, n);
	}
	if (n == ch->line && up != ch->up) {
		ch->up = up;
		changed = ch->changed;
		arg = ch->changed_arg;
		if (up) {
			ch->refusals = 0;
			ch->words[0] = 0;
			kick_parked(ch);
		} else if (ch->lane) {
			lane_kill(ch->lane);
		}
	}
	watch_more(n);
	pthread_mutex_unlock(&ch->lock);
	if (changed)
		changed(arg, up);
	if (old)
		line_put(old);
}

static char *target_of(const struct conf_addr *a)
{
	unsigned char bin[16];
	char *s = NULL;
	int r;

	if (inet_pton(AF_INET, a->host, bin) == 1)
		r = asprintf(&s, "ipv4:%s:%u", a->host, a->port);
	else if (inet_pton(AF_INET6, a->host, bin) == 1)
		r = asprintf(&s, "ipv6:[%s]:%u", a->host, a->port);
	else
		r = asprintf(&s, "dns:///%s:%u", a->host, a->port);
	return r < 0 ? NULL : s;
}

static grpc_arg arg_int(const char *key, int v)
{
	return (grpc_arg){ .type = GRPC_ARG_INTEGER, .key = (char *)key, .value.integer = v };
}

static grpc_arg arg_str(const char *key, const char *v)
{
	return (grpc_arg){ .type = GRPC_ARG_STRING, .key = (char *)key, .value.string = (char *)v };
}

static grpc_channel *open_grpc(struct rpc_tls *t, const char *target, const char *server)
{
	grpc_arg a[] = {
		arg_str(GRPC_SSL_TARGET_NAME_OVERRIDE_ARG, server),
		arg_str(GRPC_ARG_DEFAULT_AUTHORITY, server),
		arg_int(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1),
		arg_int(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100),
		arg_int(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 500),
		/* In fact the time-out of a connection attempt: a SYN that is lost is sent again after a second. */
		arg_int(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1500),
		arg_int(GRPC_ARG_DNS_MIN_TIME_BETWEEN_RESOLUTIONS_MS, 500),
		arg_int(GRPC_ARG_KEEPALIVE_TIME_MS, 5000),
		arg_int(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5000),
		arg_int(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
		arg_int(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0),
		arg_int(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, RPC_BULK_MAX),
		arg_int(GRPC_ARG_HTTP2_BDP_PROBE, 0),
		arg_int(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 2 << 20),
		arg_int(GRPC_ARG_ENABLE_RETRIES, 0), /* the reply cache needs our own */
		arg_int(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1),
		arg_int(GRPC_ARG_ENABLE_PER_MESSAGE_COMPRESSION, 0),
		arg_int(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0),
		arg_int(GRPC_ARG_ENABLE_CHANNELZ, 0),
		arg_int("grpc.enable_http_proxy", 0),
	};
	grpc_channel_args args = { ARRAY_SIZE(a), a };
	grpc_channel_credentials *cred = tls_channel_creds(t);
	grpc_channel *gc = grpc_channel_create(target, cred, &args);

	grpc_channel_credentials_release(cred);
	return gc;
}

/* Lock held. */
static struct line *line_new(struct rpc_channel *ch)
{
	struct line *n = calloc(1, sizeof(*n));

	if (!n)
		return NULL;
	n->ch = ch;
	n->files = tls_generation(ch->tls);
	n->gc = open_grpc(ch->tls, ch->target, ch->server);
	n->users = 1;
	n->born_ns = rt_now_ns();
	n->watch.fn = watch_fired;
	n->watching = true;
	n->state = GRPC_CHANNEL_IDLE;
	ch->nlines++;
	watch_more(n);
	return n;
}

/* Lock held. Do the files that our connection was made with still count? One that has still to be made, or made again, shows those that are there then. */
static void line_look(struct rpc_channel *ch)
{
	uint64_t files = tls_generation(ch->tls);

	if (ch->line->files == files || ch->next)
		return;
	if (!ch->up) {
		ch->line->files = files;
		return;
	}
	ch->next = line_new(ch);
	if (ch->next)
		grpc_channel_check_connectivity_state(ch->next->gc, 1);
}

struct rpc_channel *rpc_channel_open(struct rpc_tls *t, const struct conf_addr *addr, const char *server, const char *tag)
{
	struct rpc_channel *ch = calloc(1, sizeof(*ch));

	(void)tag; /* no two channels of ours share a connection */
	if (!ch)
		return NULL;
	pthread_mutex_init(&ch->lock, NULL);
	pthread_cond_init(&ch->idle, NULL);
	ch->addr = *addr;
	ch->server = strdup(server);
	ch->target = target_of(addr);
	ch->tls = tls_ref(t);
	pthread_mutex_lock(&ch->lock);
	ch->line = ch->server && ch->target ? line_new(ch) : NULL;
	pthread_mutex_unlock(&ch->lock);
	if (ch->line)
		return ch;
	rpc_tls_free(ch->tls);
	free(ch->server);
	free(ch->target);
	free(ch);
	return NULL;
}

void rpc_channel_watch(struct rpc_channel *ch, void (*changed)(void *arg, bool up), void *arg)
{
	pthread_mutex_lock(&ch->lock);
	ch->changed = changed;
	ch->changed_arg = arg;
	ch->wanted = true;
	grpc_channel_check_connectivity_state(ch->line->gc, 1);
	pthread_mutex_unlock(&ch->lock);
}

void rpc_channel_cancel(struct rpc_channel *ch)
{
	struct stream_link *l;
	struct call *c;

	pthread_mutex_lock(&ch->lock);
	ch->closing = true;
	LIST_FOREACH(c, &ch->calls, link)
		call_cancel_locked(c);
	if (ch->lane)
		lane_kill(ch->lane);
	LIST_FOREACH(l, &ch->streams, link)
		rpc_stream_cancel(stream_of_link(l));
	pthread_mutex_unlock(&ch->lock);
}

void rpc_channel_close(struct rpc_channel *ch)
{
	struct line *next;

	if (!ch)
		return;
	rpc_channel_cancel(ch);
	rt_handover();
	pthread_mutex_lock(&ch->lock);
	while (!LIST_EMPTY(&ch->calls) || ch->nstreams || ch->lane || ch->laning)
		pthread_cond_wait(&ch->idle, &ch->lock);
	next = ch->next;
	ch->next = NULL;
	pthread_mutex_unlock(&ch->lock);
	if (next)
		line_put(next);
	line_put(ch->line);
	pthread_mutex_lock(&ch->lock);
	while (ch->nlines)
		pthread_cond_wait(&ch->idle, &ch->lock);
	pthread_mutex_unlock(&ch->lock);
	pthread_cond_destroy(&ch->idle);
	pthread_mutex_destroy(&ch->lock);
	rpc_tls_free(ch->tls);
	free(ch->server);
	free(ch->target);
	free(ch);
}

void *channel_method(struct rpc_channel *ch, const struct rpc_method *m, struct rt_cost **cost)
{
	size_t i = ((uintptr_t)m >> 4) % METHODS_MAX, n;

	for (n = 0; n < METHODS_MAX; n++, i = (i + 1) % METHODS_MAX) {
		*cost = &ch->methods[i].cost;
		if (ch->methods[i].m && ch->methods[i].m != m)
			continue;
		ch->methods[i].m = m;
		if (!ch->methods[i].handle)
			ch->methods[i].handle = grpc_channel_register_call(ch->line->gc, m->name, NULL, NULL);
		return ch->methods[i].handle;
	}
	abort(); /* more methods than any protocol of ours has */
}

grpc_call *channel_new_call_locked(struct rpc_channel *ch, const struct rpc_method *m, gpr_timespec deadline, struct rt_cost **cost, struct line **line)
{
	ch->wanted = true;
	line_look(ch);
	ch->line->users++;
	*line = ch->line;
	return grpc_channel_create_registered_call(ch->line->gc, NULL, GRPC_PROPAGATE_DEFAULTS, rt_cq(), channel_method(ch, m, cost), deadline, NULL);
}

grpc_call *channel_new_call(struct rpc_channel *ch, const struct rpc_method *m, gpr_timespec deadline, struct line **line)
{
	grpc_call *gc = NULL;
	struct rt_cost *none;

	pthread_mutex_lock(&ch->lock);
	if (!ch->closing)
		gc = channel_new_call_locked(ch, m, deadline, &none, line);
	pthread_mutex_unlock(&ch->lock);
	return gc;
}

int channel_add_stream(struct rpc_channel *ch, struct rpc_stream *s)
{
	int r = -ECANCELED;

	pthread_mutex_lock(&ch->lock);
	if (!ch->closing) {
		LIST_INSERT_HEAD(&ch->streams, stream_link_of(s), link);
		ch->nstreams++;
		r = 0;
	}
	pthread_mutex_unlock(&ch->lock);
	return r;
}

void channel_del_stream(struct rpc_channel *ch, struct rpc_stream *s)
{
	pthread_mutex_lock(&ch->lock);
	LIST_REMOVE(stream_link_of(s), link);
	ch->nstreams--;
	pthread_cond_broadcast(&ch->idle);
	pthread_mutex_unlock(&ch->lock);
}

/* ---- the lane ---- */

/* Lock held. */
static void lane_later(struct rpc_channel *ch)
{
	ch->lane_after = rt_now_ns() + (LANE_FIRST_NS << (ch->lane_failures < LANE_DOUBLE ? ch->lane_failures : LANE_DOUBLE));
	ch->lane_failures++;
}

static void *lane_main(void *arg)
{
	struct rpc_channel *ch = arg;
	struct conf_addr addr = ch->addr;
	struct rpc_raw *raw = NULL;
	struct lane *l = NULL;
	struct error e = {0};
	uint64_t files = tls_generation(ch->tls);
	int r = lanes_start();

	addr.port = ch->lane_port;
	if (r == 0)
		r = rpc_raw_connect(ch->tls, &addr, ch->server, &raw, &e);
	if (r == 0)
		l = lane_new(raw, ch, NULL);
	pthread_mutex_lock(&ch->lock);
	if (!l) {
		if (!ch->lane_failures)
			log_note("%s: no direct connection, all goes by gRPC: %s", ch->server, e.code ? e.text : "out of memory");
		lane_later(ch);
	} else if (ch->closing) {
		lane_unref(l); /* the connection's reference */
		lane_unref(l);
	} else {
		ch->lane = l; /* with ours */
		l->files = files;
		ch->lane_failures = 0;
		lane_go(l);
	}
	ch->laning = false;
	pthread_cond_broadcast(&ch->idle);
	pthread_mutex_unlock(&ch->lock);
	return NULL;
}

void channel_lane_hint(struct rpc_channel *ch, uint32_t port)
{
	pthread_t t;

	if (!port || port > UINT16_MAX)
		return;
	pthread_mutex_lock(&ch->lock);
	if (!ch->lane && !ch->laning && !ch->closing && rt_now_ns() >= ch->lane_after) {
		ch->lane_port = (uint16_t)port;
		ch->laning = rt_thread(&t, lane_main, ch, "rpc-lane-new") == 0;
		if (ch->laning)
			pthread_detach(t);
		else
			lane_later(ch);
	}
	pthread_mutex_unlock(&ch->lock);
}

void channel_lane_down(struct rpc_channel *ch, struct lane *l)
{
	pthread_mutex_lock(&ch->lock);
	if (ch->lane == l) {
		ch->lane = NULL;
		lane_later(ch);
		lane_unref(l);
	}
	pthread_cond_broadcast(&ch->idle);
	pthread_mutex_unlock(&ch->lock);
}

uint64_t rpc_channel_direct(struct rpc_channel *ch, bool *up)
{
	pthread_mutex_lock(&ch->lock);
	*up = ch->lane != NULL;
	pthread_mutex_unlock(&ch->lock);
	return atomic_load(&ch->lane_calls);
}

/* ---- failures ---- */
#define REFUSED_NS 2000000000ull

void channel_log_failure(struct rpc_channel *ch, int err, const char *text)
{
	if (atomic_exchange(&ch->last_logged, err) == err)
		return;
	if (err == -EACCES)
		log_error("%s (%s): refused: %s", ch->server, ch->target, text);
	else if (err == -EPROTO || err == -EMSGSIZE)
		log_warn("%s (%s): %s", ch->server, ch->target, text);
	else
		log_debug("%s (%s): %s", ch->server, ch->target, text);
}

/*
 * A connection that was made and closed at once is a refusal, or was lost at a bad moment (the server was killed; gRPC also gives a failure's text to all
 * calls until its next attempt). Again and again for REFUSED_NS it is an answer for a call that can just be repeated; one that mutates goes on until its
 * deadline (-EAGAIN: ask again), as it does with a server that is down.
 */
static int refused_by_peer(struct rpc_channel *ch, bool mutates)
{
	uint64_t now = rt_now_ns();
	struct error own = { 0 };
	char words[sizeof(ch->words)];
	uint64_t since;
	unsigned n;

	if (tls_self_check(ch->tls, &own) < 0) {
		channel_log_failure(ch, -EACCES, own.text);
		return -EACCES;
	}
	pthread_mutex_lock(&ch->lock);
	/* Counts connections, not calls: all calls that waited for one connection fail together. */
	if (!ch->refusals)
		ch->refused_since = now;
	if (!ch->refusals || now - ch->refused_ns > 50000000ull) {
		ch->refusals++;
		ch->refused_ns = now;
	}
	n = ch->refusals;
	since = ch->refused_since;
	memcpy(words, ch->words, sizeof(words));
	pthread_mutex_unlock(&ch->lock);
	if (n < 3 || now - since < REFUSED_NS)
		return -EAGAIN;
	channel_log_failure(ch, -EACCES, *words ? words : "the server closes the connection after the handshake: it does not believe our certificate; its log says why");
	return mutates ? -EAGAIN : -EACCES;
}

/*
 * The server has let the connection stand, and believes its certificate no more. A connection that was of use is made anew, and the call is sent again; one that was not is no better the next
 * time: then it is not the certificate's age that is wrong with us.
 */
static int refused_call(struct rpc_channel *ch, struct line *by, const char *text)
{
	void (*changed)(void *, bool) = NULL;
	struct line *n = NULL, *old = NULL;
	void *arg = NULL;

	pthread_mutex_lock(&ch->lock);
	snprintf(ch->words, sizeof(ch->words), "%s", text);
	if (by && by == ch->line && !ch->closing && (by->served || rt_now_ns() - by->born_ns > REFUSED_NS)) {
		n = ch->next ? ch->next : line_new(ch);
		ch->next = NULL;
	}
	if (n) {
		old = line_switch(ch, n);
		grpc_channel_check_connectivity_state(n->gc, 1);
		if (ch->up)
			changed = ch->changed;
		arg = ch->changed_arg;
		ch->up = false;
		if (ch->lane)
			lane_kill(ch->lane);
	}
	n = ch->line;
	pthread_mutex_unlock(&ch->lock);
	if (changed)
		changed(arg, false);
	if (old)
		line_put(old);
	if (by != n)
		return -EAGAIN;
	channel_log_failure(ch, -EACCES, text);
	return -EACCES;
}

int channel_failure(struct rpc_channel *ch, struct line *line, grpc_status_code code, grpc_slice details, bool cancelled, bool mutates)
{
	char *text = grpc_slice_to_c_string(details);
	const char *words = text;
	int r = status_to_errno(code);

	if (r == -ECANCELED && !cancelled)
		r = -EHOSTDOWN; /* the server gave up on it: it is going down */
	if (code == GRPC_STATUS_UNAUTHENTICATED) {
		r = refused_call(ch, line, text);
		words = NULL; /* has been logged */
	} else if (r == -EHOSTDOWN) {
		switch (tls_refusal_of(text, &words)) {
		case TLS_REFUSED_BY_US:
			r = -EACCES;
			break;
		case TLS_REFUSED_BY_PEER:
			r = refused_by_peer(ch, mutates);
			words = NULL; /* has been logged */
			break;
		case TLS_NOT_REFUSED:
			pthread_mutex_lock(&ch->lock);
			ch->refusals = 0;
			pthread_mutex_unlock(&ch->lock);
			break;
		}
	}
	if (words)
		channel_log_failure(ch, r, words);
	gpr_free(text);
	return r;
}
