/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The client's side: channels and unary calls.
 *
 * A call goes through attempts. One batch per attempt does all: send the request, receive reply and status. A mutating call whose attempt ends with
 * the connection is parked for a moment and sent again with the same number (the server's reply cache knows it), until its deadline:
 *
 *     start -> ATTEMPT --reply--------------------------> done
 *                 |  ^                                     ^
 *        lost and mutates  timer, or the channel is up     | deadline, cancel, close, certificate refused
 *                 v  |                                     |
 *                PARKED -----------------------------------+
 *
 * An attempt is over when its batch is, and the transport has let go of the caller's bulk bytes (frame_hold).
 *
 * Locking: `lock` of the channel protects its lists, the state of its calls and `gcall` of each. It is never held while a completion runs.
 */
#include "rpc/internal.h"
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/log.h"

#define PARK_FIRST_MS 100
#define PARK_MAX_MS   1000
#define METHODS_MAX   128 /* slots of the table of registered methods; a power of two */

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
	grpc_byte_buffer *send, *recv;
	grpc_metadata_array md_init, md_trail;
	grpc_status_code status;
	grpc_slice details;
};
LIST_HEAD(call_list, call);

struct rpc_channel {
	pthread_mutex_t lock;
	pthread_cond_t idle;
	grpc_channel *gc;
	char *server;
	char *target;
	struct call_list calls;
	struct stream_list streams;
	unsigned nstreams;
	struct rpc_tls *tls;
	bool closing, wanted, up;
	unsigned refusals;   /* connections in a row that the server closed after the handshake */
	uint64_t refused_ns, refused_since; /* the last of them, the first */
	_Atomic int last_logged; /* errno of the last failure that was logged, 0 after a success */
	void (*changed)(void *arg, bool up);
	void *changed_arg;
	struct rt_tag watch;
	bool watching;
	grpc_connectivity_state state;
	struct {
		const struct rpc_method *m;
		void *handle;
		struct rt_cost cost; /* of what is done with its replies */
	} methods[METHODS_MAX];
};

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

static void watch_more(struct rpc_channel *ch)
{
	HANDOVER_GIVE(&ch->watch);
	grpc_channel_watch_connectivity_state(ch->gc, ch->state, gpr_inf_future(GPR_CLOCK_MONOTONIC), rt_cq(), &ch->watch);
}

static void watch_fired(struct rt_tag *t, bool ok)
{
	struct rpc_channel *ch = container_of(t, struct rpc_channel, watch);
	void (*changed)(void *, bool) = NULL;
	void *arg = NULL;
	bool up;

	(void)ok;
	pthread_mutex_lock(&ch->lock);
	if (ch->closing) {
		ch->watching = false;
		pthread_cond_broadcast(&ch->idle);
		pthread_mutex_unlock(&ch->lock);
		return;
	}
	/* A channel that was used once reconnects by itself: a lost server is noticed to be back without anybody calling it. */
	ch->state = grpc_channel_check_connectivity_state(ch->gc, ch->wanted);
	up = ch->state == GRPC_CHANNEL_READY;
	if (up != ch->up) {
		ch->up = up;
		changed = ch->changed;
		arg = ch->changed_arg;
		if (up) {
			ch->refusals = 0;
			kick_parked(ch);
		}
	}
	watch_more(ch);
	pthread_mutex_unlock(&ch->lock);
	if (changed)
		changed(arg, up);
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

struct rpc_channel *rpc_channel_open(struct rpc_tls *t, const struct conf_addr *addr, const char *server, const char *tag)
{
	struct rpc_channel *ch = calloc(1, sizeof(*ch));

	(void)tag; /* no two channels of ours share a connection */
	if (!ch)
		return NULL;
	pthread_mutex_init(&ch->lock, NULL);
	pthread_cond_init(&ch->idle, NULL);
	ch->server = strdup(server);
	ch->target = target_of(addr);
	if (!ch->server || !ch->target) {
		free(ch->server);
		free(ch->target);
		free(ch);
		return NULL;
	}
	ch->tls = tls_ref(t);
	ch->gc = open_grpc(t, ch->target, server);
	ch->watch.fn = watch_fired;
	ch->watching = true;
	ch->state = GRPC_CHANNEL_IDLE;
	watch_more(ch);
	return ch;
}

void rpc_channel_watch(struct rpc_channel *ch, void (*changed)(void *arg, bool up), void *arg)
{
	pthread_mutex_lock(&ch->lock);
	ch->changed = changed;
	ch->changed_arg = arg;
	ch->wanted = true;
	grpc_channel_check_connectivity_state(ch->gc, 1);
	pthread_mutex_unlock(&ch->lock);
}

static void cancel_locked(struct call *c)
{
	c->cancelled = true;
	if (c->gcall)
		grpc_call_cancel(c->gcall, NULL);
	if (c->parked)
		rt_timer_hurry(&c->park);
}

void rpc_channel_cancel(struct rpc_channel *ch)
{
	struct stream_link *l;
	struct call *c;

	pthread_mutex_lock(&ch->lock);
	ch->closing = true;
	LIST_FOREACH(c, &ch->calls, link)
		cancel_locked(c);
	LIST_FOREACH(l, &ch->streams, link)
		rpc_stream_cancel(stream_of_link(l));
	pthread_mutex_unlock(&ch->lock);
}

void rpc_channel_close(struct rpc_channel *ch)
{
	if (!ch)
		return;
	rpc_channel_cancel(ch);
	rt_handover();
	pthread_mutex_lock(&ch->lock);
	while (!LIST_EMPTY(&ch->calls) || ch->nstreams)
		pthread_cond_wait(&ch->idle, &ch->lock);
	pthread_mutex_unlock(&ch->lock);
	grpc_channel_destroy(ch->gc); /* ends the watch */
	pthread_mutex_lock(&ch->lock);
	while (ch->watching)
		pthread_cond_wait(&ch->idle, &ch->lock);
	pthread_mutex_unlock(&ch->lock);
	pthread_cond_destroy(&ch->idle);
	pthread_mutex_destroy(&ch->lock);
	rpc_tls_free(ch->tls);
	free(ch->server);
	free(ch->target);
	free(ch);
}

/* The registered handle of a method; lock held. */
static void *method_handle(struct rpc_channel *ch, const struct rpc_method *m, struct rt_cost **cost)
{
	size_t i = ((uintptr_t)m >> 4) % METHODS_MAX, n;

	for (n = 0; n < METHODS_MAX; n++, i = (i + 1) % METHODS_MAX) {
		*cost = &ch->methods[i].cost;
		if (ch->methods[i].m == m)
			return ch->methods[i].handle;
		if (!ch->methods[i].m) {
			ch->methods[i].m = m;
			ch->methods[i].handle = grpc_channel_register_call(ch->gc, m->name, NULL, NULL);
			return ch->methods[i].handle;
		}
	}
	abort(); /* more methods than any protocol of ours has */
}

static grpc_call *new_call_locked(struct rpc_channel *ch, const struct rpc_method *m, gpr_timespec deadline, struct rt_cost **cost)
{
	ch->wanted = true;
	return grpc_channel_create_registered_call(ch->gc, NULL, GRPC_PROPAGATE_DEFAULTS, rt_cq(), method_handle(ch, m, cost), deadline, NULL);
}

grpc_call *channel_new_call(struct rpc_channel *ch, const struct rpc_method *m, gpr_timespec deadline)
{
	grpc_call *gc = NULL;
	struct rt_cost *none;

	pthread_mutex_lock(&ch->lock);
	if (!ch->closing)
		gc = new_call_locked(ch, m, deadline, &none);
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

/* ---- failures ---- */
#define REFUSED_NS 2000000000ull

static void log_failure(struct rpc_channel *ch, int err, const char *text)
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
	uint64_t since;
	unsigned n;

	if (tls_self_check(ch->tls, &own) < 0) {
		log_failure(ch, -EACCES, own.text);
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
	pthread_mutex_unlock(&ch->lock);
	if (n < 3 || now - since < REFUSED_NS)
		return -EAGAIN;
	log_failure(ch, -EACCES, "the server closes the connection after the handshake: it does not believe our certificate; its log says why");
	return mutates ? -EAGAIN : -EACCES;
}

int channel_failure(struct rpc_channel *ch, grpc_status_code code, grpc_slice details, bool cancelled, bool mutates)
{
	char *text = grpc_slice_to_c_string(details);
	const char *words = text;
	int r = status_to_errno(code);

	if (r == -ECANCELED && !cancelled)
		r = -EHOSTDOWN; /* the server gave up on it: it is going down */
	if (r == -EHOSTDOWN) {
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
		log_failure(ch, r, words);
	gpr_free(text);
	return r;
}

/* ---- calls ---- */
static void call_finish(struct call *c, int status, struct rpc_msg *out)
{
	struct rpc_channel *ch = c->ch;
	struct rt_event *after = c->after;
	uint64_t began;

	if (c->cost)
		rt_cost_begin(c->cost);
	began = rt_now_ns();
	c->done(c->arg, status, out);
	if (c->cost)
		rt_cost_note(c->cost, began);
	rt_seq_end(&c->seq); /* not before: until now the result could be asked for again by who goes on after a crash of ours */
	pthread_mutex_lock(&ch->lock);
	LIST_REMOVE(c, link);
	if (LIST_EMPTY(&ch->calls))
		pthread_cond_broadcast(&ch->idle);
	pthread_mutex_unlock(&ch->lock);
	grpc_slice_unref(c->control);
	free(c);
	if (after)
		rt_event_set(after);
}

static bool may_retry(const struct call *c, int err)
{
	return (err == -EAGAIN || (c->m->mutates && err == -EHOSTDOWN)) && gpr_time_cmp(gpr_now(GPR_CLOCK_MONOTONIC), c->deadline) < 0;
}

/*
 * Parks the call when it is to be sent again. A cancel that comes before is seen here, and is what ends the call, whatever the attempt met at that
 * moment; one that comes after hurries the timer.
 */
static bool park(struct call *c, int *err)
{
	struct rpc_channel *ch = c->ch;
	bool again;
	unsigned ms;
	int64_t left;

	pthread_mutex_lock(&ch->lock);
	again = may_retry(c, *err);
	if (again && (c->cancelled || ch->closing)) {
		*err = -ECANCELED;
		again = false;
	}
	if (again) {
		c->park_ms = c->park_ms ? c->park_ms * 2 : PARK_FIRST_MS;
		if (c->park_ms > PARK_MAX_MS)
			c->park_ms = PARK_MAX_MS;
		ms = c->park_ms;
		if (gpr_time_cmp(c->deadline, gpr_inf_future(GPR_CLOCK_MONOTONIC))) {
			left = gpr_time_to_millis(gpr_time_sub(c->deadline, gpr_now(GPR_CLOCK_MONOTONIC)));
			ms = left < ms ? (left < 0 ? 0 : left + 1) : ms;
		}
		c->parked = true;
		rt_timer_arm(&c->park, ch->up ? 1 : ms);
	}
	pthread_mutex_unlock(&ch->lock);
	return again;
}

static void attempt_over(struct call *c)
{
	struct rpc_msg out = { 0 };
	struct frame_head h;
	int r;

	if (c->status == GRPC_STATUS_OK && c->recv) {
		r = frame_decode(c->recv, frame_limit(c->m), c->m->out, &h, &out);
		c->recv = NULL;
		if (r)
			log_failure(c->ch, r, "reply that cannot be decoded");
	} else if (c->status == GRPC_STATUS_OK) {
		r = -EPROTO;
		log_failure(c->ch, r, "no reply in the answer");
	} else {
		r = channel_failure(c->ch, c->status, c->details, c->cancelled, c->m->mutates);
	}
	grpc_slice_unref(c->details);
	grpc_metadata_array_destroy(&c->md_init);
	grpc_metadata_array_destroy(&c->md_trail);
	if (c->recv)
		grpc_byte_buffer_destroy(c->recv);
	c->recv = NULL;
	if (!r)
		c->ch->last_logged = 0;
	if (r && park(c, &r))
		return;
	if (r == -EAGAIN)
		r = -EHOSTDOWN;
	if (r == -EHOSTDOWN && c->m->mutates && gpr_time_cmp(gpr_now(GPR_CLOCK_MONOTONIC), c->deadline) >= 0)
		r = -ETIMEDOUT; /* what ended it is its deadline */
	call_finish(c, r, &out);
}

/* The rare case that the transport lets go of the bulk bytes after the call is over: goes on in the clock thread, out of gRPC's insides. */
static void late_fired(struct rt_timer *t)
{
	attempt_over(container_of(t, struct call, park));
}

static void park_fired(struct rt_timer *t);

static void hold_over(struct frame_hold *h)
{
	struct call *c = container_of(h, struct call, hold);

	c->park.fn = late_fired;
	rt_timer_arm(&c->park, 0);
}

static void batch_over(struct rt_tag *t, bool ok)
{
	struct call *c = container_of(t, struct call, tag);
	grpc_call *gcall;

	(void)ok; /* receiving a status always succeeds */
	pthread_mutex_lock(&c->ch->lock);
	gcall = c->gcall;
	c->gcall = NULL;
	pthread_mutex_unlock(&c->ch->lock);
	grpc_call_unref(gcall);
	grpc_byte_buffer_destroy(c->send);
	c->send = NULL;
	if (atomic_fetch_sub(&c->hold.count, 1) == 1)
		attempt_over(c);
}

static void fill_ops(struct call *c, grpc_op *op)
{
	memset(op, 0, 6 * sizeof(*op));
	op[0].op = GRPC_OP_SEND_INITIAL_METADATA;
	op[1].op = GRPC_OP_SEND_MESSAGE;
	op[1].data.send_message.send_message = c->send;
	op[2].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
	op[3].op = GRPC_OP_RECV_INITIAL_METADATA;
	op[3].data.recv_initial_metadata.recv_initial_metadata = &c->md_init;
	op[4].op = GRPC_OP_RECV_MESSAGE;
	op[4].data.recv_message.recv_message = &c->recv;
	op[5].op = GRPC_OP_RECV_STATUS_ON_CLIENT;
	op[5].data.recv_status_on_client.trailing_metadata = &c->md_trail;
	op[5].data.recv_status_on_client.status = &c->status;
	op[5].data.recv_status_on_client.status_details = &c->details;
}

/* Ends with -errno, or an attempt is under way and `c` is no longer ours. */
static int attempt(struct call *c)
{
	struct rpc_channel *ch = c->ch;
	grpc_call *gcall;
	grpc_op op[6];
	int r;

	c->hold.count = 1;
	c->hold.last = hold_over;
	c->park.fn = park_fired;
	r = frame_buffer(c->control, c->bulk, c->nbulk, &c->hold, frame_limit(c->m), &c->send);
	if (r)
		return r;
	grpc_metadata_array_init(&c->md_init);
	grpc_metadata_array_init(&c->md_trail);
	fill_ops(c, op);
	pthread_mutex_lock(&ch->lock);
	if (ch->closing || c->cancelled) {
		pthread_mutex_unlock(&ch->lock);
		grpc_byte_buffer_destroy(c->send); /* nothing but this holds the slices */
		return -ECANCELED;
	}
	gcall = c->gcall = new_call_locked(ch, c->m, c->deadline, &c->cost);
	grpc_call_ref(gcall); /* a quick end drops the other reference before start_batch returns */
	pthread_mutex_unlock(&ch->lock);
	rt_start(gcall, op, 6, &c->tag);
	grpc_call_unref(gcall);
	return 0;
}

/* From now on the call says that it was sent before. */
static void mark_again(struct call *c)
{
	grpc_slice s;

	if (c->again || frame_control_again(c->control, &s) < 0)
		return;
	grpc_slice_unref(c->control);
	c->control = s;
	c->again = true;
}

static void park_fired(struct rt_timer *t)
{
	struct call *c = container_of(t, struct call, park);
	struct rpc_msg none = { 0 };
	int r;

	mark_again(c);

	pthread_mutex_lock(&c->ch->lock);
	c->parked = false;
	pthread_mutex_unlock(&c->ch->lock);
	if (gpr_time_cmp(gpr_now(GPR_CLOCK_MONOTONIC), c->deadline) >= 0)
		r = -ETIMEDOUT;
	else
		r = attempt(c);
	if (r)
		call_finish(c, r, &none);
}

static uint64_t call_begin(struct rpc_channel *ch, const struct rpc_method *m, const ProtobufCMessage *in, const struct iovec *bulk, int nbulk,
	int deadline_ms, rpc_done done, void *arg, struct rt_event *after)
{
	static _Atomic uint64_t tickets;
	struct frame_head h = { .version = RPC_VERSION, .epoch = clock_epoch() };
	struct rpc_msg none = { 0 };
	struct call *c = calloc(1, sizeof(*c));
	uint64_t ticket = atomic_fetch_add(&tickets, 1) + 1;
	int r;

	if (!c) {
		done(arg, -ENOMEM, &none);
		if (after)
			rt_event_set(after);
		return ticket;
	}
	*c = (struct call){ .tag.fn = batch_over, .ch = ch, .m = m, .ticket = ticket, .bulk = bulk, .nbulk = nbulk, .done = done, .arg = arg, .after = after };
	c->deadline = deadline_of(deadline_ms);
	c->control = grpc_empty_slice();
	h.again = c->again = rt_seq_begin(&c->seq, m->mutates, &h.acked);
	h.seq = c->seq.seq;
	r = frame_control(&h, in, &c->control);
	pthread_mutex_lock(&ch->lock);
	LIST_INSERT_HEAD(&ch->calls, c, link);
	pthread_mutex_unlock(&ch->lock);
	if (!r)
		r = attempt(c);
	if (r)
		call_finish(c, r, &none);
	return ticket;
}

uint64_t rpc_call_async(struct rpc_channel *ch, const struct rpc_method *m, const ProtobufCMessage *in, const struct iovec *bulk, int nbulk,
	int deadline_ms, rpc_done done, void *arg)
{
	return call_begin(ch, m, in, bulk, nbulk, deadline_ms, done, arg, NULL);
}

void rpc_cancel(struct rpc_channel *ch, uint64_t ticket)
{
	struct call *c;

	pthread_mutex_lock(&ch->lock);
	LIST_FOREACH(c, &ch->calls, link) {
		if (c->ticket == ticket) {
			cancel_locked(c);
			break;
		}
	}
	pthread_mutex_unlock(&ch->lock);
}

struct sync_call {
	int status;
	struct rpc_msg *out;
};

static void sync_done(void *arg, int status, struct rpc_msg *out)
{
	struct sync_call *s = arg;

	s->status = status;
	*s->out = *out;
}

int rpc_call(struct rpc_channel *ch, const struct rpc_method *m, const ProtobufCMessage *in, const struct iovec *bulk, int nbulk,
	int deadline_ms, struct rpc_msg *out)
{
	struct sync_call s = { .out = out };
	struct rt_event end = { 0 };

	call_begin(ch, m, in, bulk, nbulk, deadline_ms, sync_done, &s, &end);
	rt_event_wait(&end);
	return s.status;
}
