// SPDX-License-Identifier: Apache-2.0
/* Relay frames over rpc streams; see relay_rpc.h and relay.h. */
#include "migd/relay_rpc.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/log.h"
#include "migd/hosts.h"
#include "migd/relay.h"

enum { RETRY_US = 100000, RETRY_MAX_US = 5000000 };

static int frame_send(void *ctx, const struct relay_frame *f)
{
	Sprite__Mig__RelayFrame r = SPRITE__MIG__RELAY_FRAME__INIT;
	struct iovec v = { (void *)f->data, f->len };

	r.id = f->id;
	r.kind = (Sprite__Mig__RelayFrame__Kind)f->kind;
	r.offset = f->offset;
	return rpc_stream_send(ctx, &r.base, f->len ? &v : NULL, f->len ? 1 : 0);
}

/* A frame of a generation that is over must not reach the hub: its offsets mean something else. */
static bool is_current(struct family *f, struct rpc_stream *s)
{
	bool yes;

	pthread_mutex_lock(&f->lock);
	yes = f->relay_stream == s && !f->dead;
	pthread_mutex_unlock(&f->lock);
	return yes;
}

static int frame_take(struct family *f, struct rpc_msg *m)
{
	const Sprite__Mig__RelayFrame *r = (const Sprite__Mig__RelayFrame *)m->msg;
	_cleanup_free_ char *copy = NULL;
	struct relay_frame in = { .id = r->id, .kind = (enum relay_frame_kind)r->kind, .offset = r->offset, .len = m->bulk_len };

	if (m->niov == 1) {
		in.data = m->iov[0].iov_base;
	} else if (m->bulk_len) {
		copy = malloc(m->bulk_len);
		if (!copy)
			return -ENOMEM;
		rpc_msg_copy(m, copy, m->bulk_len);
		in.data = copy;
	}
	return relay_input(f->relays, &in);
}

/* Feeds the hub from the stream until either breaks. */
static int stream_loop(struct family *f, struct rpc_stream *s)
{
	struct rpc_msg m;
	int err;

	for (;;) {
		err = rpc_stream_recv(s, &m, 1000);
		if (err == -ETIMEDOUT) {
			if (relay_broken(f->relays) || !is_current(f, s))
				return -EPIPE;
			continue;
		}
		if (err != 1)
			return err ? err : -EPIPE;
		err = is_current(f, s) ? frame_take(f, &m) : -EPIPE;
		rpc_msg_clear(&m);
		if (err == -EPROTO)
			log_warn("family %s: relay: a frame that makes no sense", f->id);
		if (err)
			return err;
	}
}

/* Makes s the stream of this family; the one before ends. */
static bool set_stream(struct family *f, struct rpc_stream *s)
{
	bool ok;

	pthread_mutex_lock(&f->lock);
	if (f->relay_stream)
		rpc_stream_cancel(f->relay_stream);
	ok = !f->dead;
	f->relay_stream = ok ? s : NULL;
	pthread_mutex_unlock(&f->lock);
	return ok;
}

static void unset_stream(struct family *f, struct rpc_stream *s)
{
	pthread_mutex_lock(&f->lock);
	if (f->relay_stream == s)
		f->relay_stream = NULL;
	pthread_mutex_unlock(&f->lock);
	rpc_stream_cancel(s);
	relay_leave(f->relays, s); /* the hub's thread may still send on it when another stream is the family's already */
}

static void *guest_main(void *arg)
{
	struct family *f = arg;
	struct rpc_stream *s;
	useconds_t wait = RETRY_US;

	while (!f->dead) {
		uint64_t began = clock_mono_ns();
		Sprite__Mig__RelayFrame first = SPRITE__MIG__RELAY_FRAME__INIT;
		struct error e = { 0 };
		struct host *h = hosts_find(f->m->hosts, f->home, &e);

		if (!h || rpc_stream_open(host_bulk_channel(h), &mig_methods[MIG_RELAY], -1, &s)) {
			usleep(RETRY_US);
			continue;
		}
		first.family = f->id;
		first.gen = f->gen;
		if (!rpc_stream_send(s, &first.base, NULL, 0) && set_stream(f, s) && !relay_up(f->relays, &(struct relay_link){ frame_send, s }))
			stream_loop(f, s);
		unset_stream(f, s);
		rpc_stream_finish(s, 0);
		/* A home that takes the stream and drops it at once (it was started again and knows nothing of these relays) is not asked ten times a second. */
		wait = clock_mono_ns() - began > 5000000000ull ? RETRY_US : wait < RETRY_MAX_US ? wait * 2 : wait;
		for (useconds_t t = 0; t < wait && !f->dead; t += RETRY_US)
			usleep(RETRY_US);
	}
	family_put(f);
	return NULL;
}

void relay_rpc_open(struct family *f)
{
	if (!relay_count(f->relays))
		return;
	family_get(f);
	if (thread_run(guest_main, f)) {
		log_error("family %s: no thread for its pipes", f->id);
		family_put(f);
	}
}

void relay_rpc_close(struct family *f)
{
	pthread_mutex_lock(&f->lock);
	if (f->relay_stream)
		rpc_stream_cancel(f->relay_stream);
	f->relay_stream = NULL;
	pthread_mutex_unlock(&f->lock);
	relay_down(f->relays); /* the thread that kept the stream up ends by itself, soon */
}

void relay_rpc_serve(void *ctx, struct rpc_stream *s)
{
	struct migd *m = ctx;
	struct family *f = NULL;
	struct rpc_msg first;
	int err = rpc_stream_recv(s, &first, 10000);

	if (err == 1) {
		const Sprite__Mig__RelayFrame *r = (const Sprite__Mig__RelayFrame *)first.msg;

		f = family_find(m->families, FAM_HOME, r->family);
		if (f) {
			pthread_mutex_lock(&f->lock);
			err = f->gen == r->gen && !strcmp(f->host, rpc_stream_peer(s)) ? 1 : -ESTALE;
			pthread_mutex_unlock(&f->lock);
		}
		rpc_msg_clear(&first);
	}
	if (!f || err != 1) {
		family_put(f);
		rpc_stream_finish(s, ESTALE);
		return;
	}
	if (set_stream(f, s) && !relay_up(f->relays, &(struct relay_link){ frame_send, s }))
		stream_loop(f, s);
	unset_stream(f, s);
	rpc_stream_finish(s, 0);
	family_put(f);
}
