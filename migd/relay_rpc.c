// SPDX-License-Identifier: Apache-2.0
/*
 * Relay frames between sprite-relay (relays.h) and the other host: one thread carries each way, and knows nothing of what is in them, but that a pipe which the family has
 * no longer is not the hollows' either. Whatever is lost here when one side breaks is sent again over the next link.
 */
#include "migd/relay_rpc.h"
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/log.h"
#include "migd/hosts.h"
#include "migd/relays.h"

enum { RETRY_US = 100000, RETRY_MAX_US = 1000000 };

/* One stream with its link. */
struct way {
	struct family *f;
	struct rpc_stream *s;
	int link;
	pthread_t out;
	atomic_bool broken;
};

static int frame_send(struct rpc_stream *s, const struct relay_frame *f)
{
	Sprite__Mig__RelayFrame r = SPRITE__MIG__RELAY_FRAME__INIT;
	struct iovec v = { (void *)f->data, f->len };

	r.id = f->id;
	r.kind = (Sprite__Mig__RelayFrame__Kind)f->kind;
	r.offset = f->offset;
	return rpc_stream_send(s, &r.base, f->len ? &v : NULL, f->len ? 1 : 0);
}

/* From sprite-relay to the other host. */
static void *out_main(void *arg)
{
	_cleanup_free_ char *buf = malloc(RELAY_FRAME_BUF);
	struct way *w = arg;
	struct relay_frame f;

	while (buf && relay_frame_recv(w->link, buf, &f) == 1 && !frame_send(w->s, &f))
		;
	shutdown(w->link, SHUT_RDWR); /* who sends there does not wait for us */
	w->broken = true;
	rpc_stream_cancel(w->s);
	return NULL;
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

static int actor_let_go(struct family *f, void *id)
{
	int err = f->eng ? eng_hollow_let_go(f->eng, (uintptr_t)id) : 0;

	if (err)
		log_debug("family %s: its hollows keep pipe %llu open: %s", f->id, (unsigned long long)(uintptr_t)id, strerror(-err));
	return 0;
}

static int frame_take(struct way *w, struct rpc_msg *m)
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
	if (w->f->role == FAM_HOME && (in.kind == RF_END || in.kind == RF_CLOSED)) /* told again over each link */
		family_post(w->f, actor_let_go, (void *)(uintptr_t)in.id);
	return in.kind < RF_KINDS ? relay_frame_send(w->link, &in) : -EPROTO;
}

/* From the other host to sprite-relay, until either breaks. */
static void stream_loop(struct way *w)
{
	struct family *f = w->f;
	struct rpc_msg m;
	int err = 1;

	while (err == 1 || err == -ETIMEDOUT) {
		err = rpc_stream_recv(w->s, &m, 1000);
		if (w->broken || !is_current(f, w->s)) {
			if (err == 1)
				rpc_msg_clear(&m);
			return;
		}
		if (err != 1)
			continue;
		if (frame_take(w, &m) < 0)
			err = -EPIPE;
		rpc_msg_clear(&m);
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
}

static int thread_new(pthread_t *t, void *(*fn)(void *), void *arg)
{
	sigset_t all, old;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = pthread_create(t, NULL, fn, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -err;
}

/* Joins the stream with sprite-relay for as long as both are there. */
static void stream_carry(struct family *f, struct rpc_stream *s, uint64_t gen)
{
	struct way w = { .f = f, .s = s };

	if (!set_stream(f, s))
		return;
	w.link = relays_link(f->relays, gen);
	if (w.link < 0) {
		log_debug("family %s: no link to its relays: %s", f->id, strerror(-w.link));
	} else if (!thread_new(&w.out, out_main, &w)) {
		stream_loop(&w);
		unset_stream(f, s);
		shutdown(w.link, SHUT_RDWR);
		pthread_join(w.out, NULL);
	}
	if (w.link >= 0)
		close(w.link);
	unset_stream(f, s);
}

/* A home that drops the stream at once is not asked ten times a second. */
static void wait_before_next(struct family *f, uint64_t began, useconds_t *wait)
{
	bool lasted = clock_mono_ns() - began > 1000000000ull;

	*wait = lasted ? RETRY_US : *wait < RETRY_MAX_US ? *wait * 2 : *wait;
	for (useconds_t t = 0; t < *wait && !f->dead; t += RETRY_US)
		usleep(RETRY_US);
}

static void *guest_main(void *arg)
{
	struct family *f = arg;
	struct rpc_stream *s;
	useconds_t wait = RETRY_US / 2;

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
		if (!rpc_stream_send(s, &first.base, NULL, 0))
			stream_carry(f, s, f->gen);
		rpc_stream_finish(s, 0);
		wait_before_next(f, began, &wait);
	}
	family_put(f);
	return NULL;
}

void relay_rpc_open(struct family *f)
{
	bool open;

	if (!relays_count(f->relays))
		return;
	pthread_mutex_lock(&f->lock);
	open = f->relay_open;
	f->relay_open = true;
	pthread_mutex_unlock(&f->lock);
	if (open)
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
	relays_down(f->relays); /* the thread that kept the stream up ends by itself, soon */
}

void relay_rpc_serve(void *ctx, struct rpc_stream *s)
{
	struct migd *m = ctx;
	struct family *f = NULL;
	struct rpc_msg first;
	int err = rpc_stream_recv(s, &first, 10000);
	uint64_t gen = 0;

	if (err == 1) {
		const Sprite__Mig__RelayFrame *r = (const Sprite__Mig__RelayFrame *)first.msg;

		gen = r->gen;
		f = family_find(m->families, FAM_HOME, r->family);
		if (f) {
			pthread_mutex_lock(&f->lock);
			err = f->gen == gen && !strcmp(f->host, rpc_stream_peer(s)) ? 1 : -ESTALE;
			pthread_mutex_unlock(&f->lock);
		}
		rpc_msg_clear(&first);
	}
	if (!f || err != 1) {
		family_put(f);
		rpc_stream_finish(s, ESTALE);
		return;
	}
	stream_carry(f, s, gen);
	rpc_stream_finish(s, 0);
	family_put(f);
}
