/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unary calls, the client's side.
 *
 * A call goes through attempts, by the channel's lane (lane.h) or by gRPC, where one batch per attempt does all: send the request, receive reply and status. A mutating call whose attempt ends with
 * the connection is parked for a moment and sent again with the same number (the server's reply cache knows it), until its deadline:
 *
 *     start -> ATTEMPT --reply--------------------------> done
 *                 |  ^                                     ^
 *        lost and mutates  timer, or the channel is up     | deadline, cancel, close, certificate refused
 *                 v  |                                     |
 *                PARKED -----------------------------------+
 *
 * An attempt by gRPC is over when its batch is, and the transport has let go of the caller's bulk bytes (frame_hold); one by the lane when it has ended, who sent it has let go of it, and a cancel that
 * was on its way has found it ended or has ended it.
 *
 * Locking: channel.h. The lock is never held while a completion runs.
 */
#include "rpc/channel.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/log.h"

#define PARK_FIRST_MS 100
#define PARK_MAX_MS   1000

static void call_finish(struct call *c, int status, struct rpc_msg *out)
{
	struct rpc_channel *ch = c->ch;
	struct rt_event *after = c->after;
	uint64_t began;

	if (c->cost)
		rt_cost_begin(c->cost);
	began = rt_now_ns();
	if (c->seq.noted && (status || after)) /* after: who waits in rpc_call() uses the result when `done` has returned */
		rpc_seq_hold(c->seq.seq);
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

static void park_fired(struct rt_timer *t);

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
		c->park.fn = park_fired;
		rt_timer_arm(&c->park, ch->up ? 1 : ms);
	}
	pthread_mutex_unlock(&ch->lock);
	return again;
}

/* Its attempt by the lane is over, and no cancel on its way. */
static void lane_leave(struct call *c)
{
	struct lane *l;

	pthread_mutex_lock(&c->ch->lock);
	l = c->lane;
	c->lane = NULL;
	pthread_mutex_unlock(&c->ch->lock);
	if (l)
		lane_unref(l);
}

static void attempt_over(struct call *c)
{
	struct rpc_msg out = { 0 };
	struct frame_head h = { 0 };
	int r;

	if (c->status == GRPC_STATUS_OK && c->recv) {
		r = frame_decode(c->recv, frame_limit(c->m), c->m->out, &h, &out);
		c->recv = NULL;
		if (r)
			channel_log_failure(c->ch, r, "reply that cannot be decoded");
	} else if (c->status == GRPC_STATUS_OK) {
		r = -EPROTO;
		channel_log_failure(c->ch, r, "no reply in the answer");
	} else {
		r = channel_failure(c->ch, c->line, c->status, c->details, c->cancelled, c->m->mutates);
		if (r == -EHOSTDOWN && c->cancelled)
			r = -ECANCELED; /* its lane was quicker */
	}
	grpc_slice_unref(c->details);
	grpc_metadata_array_destroy(&c->md_init);
	grpc_metadata_array_destroy(&c->md_trail);
	if (c->recv)
		grpc_byte_buffer_destroy(c->recv);
	c->recv = NULL;
	if (!r) {
		c->ch->last_logged = 0;
		if (!c->lane)
			channel_lane_hint(c->ch, h.lane);
		if (c->line)
			line_served(c->line);
	}
	lane_leave(c);
	if (c->line)
		line_put(c->line);
	c->line = NULL;
	if (r && park(c, &r))
		return;
	if (r == -EAGAIN)
		r = -EHOSTDOWN;
	if (r == -EHOSTDOWN && c->m->mutates && gpr_time_cmp(gpr_now(GPR_CLOCK_MONOTONIC), c->deadline) >= 0)
		r = -ETIMEDOUT; /* what ended it is its deadline */
	call_finish(c, r, &out);
}

/* The rare case that the transport lets go of the bulk bytes after the call is over, and who sent it by a lane after that: goes on in the clock thread, out of gRPC's insides, and of the caller's. */
static void late_fired(struct rt_timer *t)
{
	attempt_over(container_of(t, struct call, park));
}

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

/* ---- by the lane ---- */
static void lane_over(struct lane_call *lc, grpc_status_code status, grpc_slice body)
{
	struct call *c = container_of(lc, struct call, by_lane);

	c->status = status;
	if (status == GRPC_STATUS_OK) {
		c->recv = grpc_raw_byte_buffer_create(&body, 1);
		grpc_slice_unref(body);
	} else {
		c->details = body;
	}
	frame_hold_drop(&c->hold);
}

static void lane_last(struct frame_hold *h)
{
	attempt_over(container_of(h, struct call, hold));
}

/* On the clock thread. */
static void lane_cancel(struct rt_timer *t)
{
	struct call *c = container_of(t, struct call, park);

	if (lane_forget(c->lane, &c->by_lane))
		lane_over(&c->by_lane, GRPC_STATUS_CANCELLED, grpc_empty_slice());
	frame_hold_drop(&c->hold);
}

/* A deadline is gRPC's matter. */
static bool attempt_by_lane(struct call *c)
{
	struct rpc_channel *ch = c->ch;
	size_t n = GRPC_SLICE_LENGTH(c->control);
	struct lane *l = NULL;

	for (int i = 0; i < c->nbulk; i++)
		n += c->bulk[i].iov_len;
	if (n > frame_limit(c->m) || gpr_time_cmp(c->deadline, gpr_inf_future(GPR_CLOCK_MONOTONIC)))
		return false;
	pthread_mutex_lock(&ch->lock);
	if (ch->lane && ch->lane->files != tls_generation(ch->tls)) {
		lane_retire(ch->lane);
	} else if (ch->lane && !ch->closing && !c->cancelled) {
		c->by_lane.done = lane_over;
		c->by_lane.hold = &c->hold;
		c->hold.count = 2; /* its end, and we */
		c->hold.last = lane_last;
		c->park.fn = lane_cancel;
		c->details = grpc_empty_slice();
		grpc_metadata_array_init(&c->md_init);
		grpc_metadata_array_init(&c->md_trail);
		if (lane_begin(ch->lane, &c->by_lane, n)) {
			l = lane_ref(ch->lane); /* for us: the call's goes with it */
			c->lane = lane_ref(l);
			channel_method(ch, c->m, &c->cost);
		}
	}
	pthread_mutex_unlock(&ch->lock);
	if (!l)
		return false;
	atomic_fetch_add_explicit(&ch->lane_calls, 1, memory_order_relaxed);
	if (!lane_send(l, &c->by_lane, c->m, c->control, c->bulk, c->nbulk) && atomic_fetch_sub(&c->hold.count, 1) == 1) { /* its caller does not expect the end of it yet */
		c->park.fn = late_fired;
		rt_timer_arm(&c->park, 0);
	}
	lane_unref(l);
	return true;
}

void call_cancel_locked(struct call *c)
{
	bool first = !c->cancelled;
	int n = c->lane && first ? atomic_load(&c->hold.count) : 0;

	c->cancelled = true;
	if (c->gcall)
		grpc_call_cancel(c->gcall, NULL);
	while (n && !atomic_compare_exchange_weak(&c->hold.count, &n, n + 1))
		;
	if (n) /* else it has just ended */
		rt_timer_arm(&c->park, 0);
	if (c->parked)
		rt_timer_hurry(&c->park);
}

/* ---- by gRPC ---- */
/* Ends with -errno, or an attempt is under way and `c` is no longer ours. */
static int attempt(struct call *c)
{
	struct rpc_channel *ch = c->ch;
	grpc_call *gcall;
	grpc_op op[6];
	int r;

	if (attempt_by_lane(c))
		return 0;
	c->hold.count = 1;
	c->hold.last = hold_over;
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
	gcall = c->gcall = channel_new_call_locked(ch, c->m, c->deadline, &c->cost, &c->line);
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
			call_cancel_locked(c);
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
