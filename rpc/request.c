/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One unary request on the server: from its frame to its reply.
 *
 * A request has two lives: its gRPC call ends when the reply is out and the close is in; its memory when also the handler has replied and the
 * transport has let go of the bulk bytes (`refs`). Locking: server.h.
 */
#include "rpc/server.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/log.h"

/* At most one line a second: a peer that sends rubbish shall not fill the disk. */
bool server_may_warn(struct rpc_server *srv)
{
	uint64_t now = rt_now_ns(), last = atomic_load(&srv->last_warn_ns);

	return now - last > 1000000000ull && atomic_compare_exchange_strong(&srv->last_warn_ns, &last, now);
}

/* ---- life of a request ---- */
void request_unref(struct rpc_request *rq)
{
	struct rpc_server *srv = rq->srv;

	if (atomic_fetch_sub(&rq->refs, 1) != 1)
		return;
	rpc_msg_clear(&rq->msg);
	if (rq->lane)
		lane_unref(rq->lane);
	if (rq->payload)
		grpc_byte_buffer_destroy(rq->payload);
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

void request_cancelled(struct rpc_request *rq)
{
	void (*fn)(void *) = NULL;
	void *arg = NULL;

	pthread_mutex_lock(&rq->lock);
	rq->cancelled = true;
	if (!rq->replied) {
		fn = rq->on_cancel;
		arg = rq->on_cancel_arg;
		rq->on_cancel = NULL;
		rq->telling = fn != NULL;
		rq->teller = pthread_self();
	}
	pthread_mutex_unlock(&rq->lock);
	if (fn) {
		fn(arg);
		pthread_mutex_lock(&rq->lock);
		rq->telling = false;
		pthread_cond_broadcast(&rq->told);
		pthread_mutex_unlock(&rq->lock);
	}
}

static void closed(struct rt_tag *t, bool ok)
{
	struct rpc_request *rq = container_of(t, struct rpc_request, closed_tag);

	(void)ok;
	if (rq->was_cancelled)
		request_cancelled(rq);
	op_over(rq);
}

static void hold_over(struct frame_hold *h)
{
	struct rpc_request *rq = container_of(h, struct rpc_request, hold);

	if (rq->release)
		rq->release(rq->release_arg);
	request_unref(rq);
}

static struct rpc_request *request_make(struct rpc_server *srv, const struct rpc_service *svc, grpc_byte_buffer *payload, int refs)
{
	struct rpc_request *rq = calloc(1, sizeof(*rq));

	if (!rq)
		abort();
	rq->srv = srv;
	rq->svc = svc;
	rq->cost = &srv->costs[svc - srv->o.services];
	rq->payload = payload;
	pthread_mutex_init(&rq->lock, NULL);
	pthread_cond_init(&rq->told, NULL);
	rq->hold = (struct frame_hold){ 1, hold_over };
	rq->refs = refs;
	pthread_mutex_lock(&srv->lock);
	srv->live++;
	pthread_mutex_unlock(&srv->lock);
	return rq;
}

struct rpc_request *request_by_lane(struct rpc_server *srv, const struct rpc_service *svc, struct lane *l, uint64_t id, const char *peer, grpc_slice frame)
{
	struct rpc_request *rq = request_make(srv, svc, grpc_raw_byte_buffer_create(&frame, 1), 3);

	rq->lane = lane_ref(l);
	rq->lane_id = id;
	rq->lane_bytes = GRPC_SLICE_LENGTH(frame);
	strncpy(rq->peer, peer, sizeof(rq->peer) - 1);
	grpc_slice_unref(frame);
	return rq;
}

struct rpc_request *request_new(struct slot *sl)
{
	struct rpc_request *rq = request_make(sl->srv, sl->svc, sl->payload, 4);
	grpc_op op;

	rq->slot = sl;
	rq->call = sl->call;
	rq->closed_tag.fn = closed;
	rq->sent_tag.fn = sent;
	rq->ops = 2;
	memset(&op, 0, sizeof(op));
	op.op = GRPC_OP_RECV_CLOSE_ON_SERVER;
	op.data.recv_close_on_server.cancelled = &rq->was_cancelled;
	rt_start(rq->call, &op, 1, &rq->closed_tag);
	return rq;
}

static void send_by_lane(struct rpc_request *rq, const grpc_slice *control, const struct iovec *bulk, int nbulk, grpc_status_code status, const char *details)
{
	size_t n = control ? GRPC_SLICE_LENGTH(*control) : 0;
	grpc_slice text;

	for (int i = 0; control && i < nbulk; i++)
		n += bulk[i].iov_len;
	if (n > frame_limit(rq->svc->method)) {
		log_error("%s: reply of %s is too long", rq->svc->method->name, rq->peer);
		control = NULL;
		status = GRPC_STATUS_RESOURCE_EXHAUSTED;
		details = "the reply is too long";
	}
	text = control ? grpc_empty_slice() : grpc_slice_from_copied_string(details);
	lane_reply(rq->lane, rq, status, control ? *control : text, bulk, control ? nbulk : 0);
	grpc_slice_unref(text);
}

/* Sends `control` and bulk, or with control NULL the status. Ends the handler's and the hold's references. */
static void send_reply(struct rpc_request *rq, const grpc_slice *control, const struct iovec *bulk, int nbulk, bool copy, grpc_status_code status,
	const char *details)
{
	grpc_op op[3];
	grpc_slice text;
	int n = 0, r = 0;

	if (rq->lane) {
		send_by_lane(rq, control, bulk, nbulk, status, details);
		frame_hold_drop(&rq->hold);
		request_unref(rq);
		return;
	}
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
	rt_start(rq->call, op, n, &rq->sent_tag);
	grpc_slice_unref(text);
	frame_hold_drop(&rq->hold);
	request_unref(rq);
}

static void send_status(struct rpc_request *rq, grpc_status_code status, const char *details)
{
	send_reply(rq, NULL, NULL, 0, true, status, details);
}

/* ---- reply cache: an answer is one slice, control and bulk bytes behind one another ---- */
void drop_slice(void *reply)
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
	struct frame_head h = { .version = RPC_VERSION, .epoch = clock_epoch(), .err = err, .lane = rq->srv->lane_port };
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
	struct frame_head h = { .version = RPC_VERSION, .epoch = clock_epoch(), .err = err, .lane = rq->srv->lane_port };
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
	if (rq->telling)
		rt_handover();
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
		rq->addr = rq->lane ? lane_addr(rq->lane) : grpc_call_get_peer(rq->call);
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

bool rpc_request_again(const struct rpc_request *rq)
{
	return rq->head.again;
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

/* ---- running ---- */
static int decode(struct rpc_request *rq)
{
	int r = -EPROTO;

	if (rq->payload)
		r = frame_decode(rq->payload, frame_limit(rq->svc->method), rq->svc->method->in, &rq->head, &rq->msg);
	rq->payload = NULL;
	rq->msg.err = 0;
	return r;
}

void request_run(struct rpc_request *rq)
{
	bool gone = !rq->payload; /* called off before it was here: its caller ends */
	int r = decode(rq);
	struct error e;

	if (!rq->lane && tls_peer(rq->srv->o.tls, rq->call, rq->peer, sizeof(rq->peer), &e) < 0) {
		if (tls_may_warn(rq->srv->o.tls, e.text))
			log_warn("%s: refused: %s", rpc_request_addr(rq), e.text);
		send_status(rq, GRPC_STATUS_UNAUTHENTICATED, e.text);
	} else if (r) {
		if (!gone && server_may_warn(rq->srv))
			log_warn("%s (%s): request %s: %s", rq->peer, rpc_request_addr(rq), rq->svc->method->name, strerror(-r));
		send_status(rq, r == -EMSGSIZE ? GRPC_STATUS_RESOURCE_EXHAUSTED : GRPC_STATUS_INVALID_ARGUMENT, "request that cannot be decoded");
	} else if (rq->head.version < RPC_VERSION_MIN) {
		answer_err(rq, EPROTONOSUPPORT);
	} else if (!rq->svc->method->mutates || first_time(rq)) {
		rq->svc->unary(rq->srv->o.ctx, rq);
	}
}
