// SPDX-License-Identifier: Apache-2.0
/*
 * An agent and the master: the stream between them, opened anew when the master changes, what goes over it and what comes. The agent's own thread reads;
 * whoever asks writes to it himself.
 */
#include "migd/agent_in.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "migd/home.h"
#include "migd/hosts.h"
#include "migd/office.h"
#include "migd/stats.h"
#include "migd/status.h"
#include "rpc/master.pb-c.h"

enum { POLL_MS = 250, OWN_POLL_MS = 1000, RETRY_MS = 500 }; /* POLL_MS: how soon it is noticed that somebody is there no longer; for migd itself nobody can leave */
#define ADOPT_NS 10000000000ull /* a new master hears from all hosts within that time */

/* ---- sending: never under the lock, since flow control may block ---- */

static int send_frame(struct agent *a, Sprite__Master__Frame *f)
{
	struct rpc_stream *s;
	int err;

	pthread_mutex_lock(&a->lock);
	s = a->stream;
	a->senders += s != NULL;
	pthread_mutex_unlock(&a->lock);
	if (!s)
		return -EHOSTDOWN;
	err = rpc_stream_send(s, &f->base, NULL, 0);
	pthread_mutex_lock(&a->lock);
	a->senders--;
	pthread_cond_broadcast(&a->changed);
	pthread_mutex_unlock(&a->lock);
	return err;
}

void agent_send_want(struct agent *a, const struct want *w, uint32_t n)
{
	Sprite__Master__Frame f = SPRITE__MASTER__FRAME__INIT;
	struct utsname u;

	uname(&u);
	f.kind = SPRITE__MASTER__FRAME__KIND__ASK;
	f.tag = w->tag;
	f.uid = w->uid;
	f.priority = w->priority;
	f.want = n;
	f.wait = w->wait;
	f.host = (char *)w->host;
	f.not_host = (char *)w->not_host;
	f.arch = u.machine;
	f.features = (char *)status_cpu_features(a->m);
	send_frame(a, &f);
}

void agent_send_release(struct agent *a, uint64_t mid)
{
	Sprite__Master__Frame f = SPRITE__MASTER__FRAME__INIT;

	f.kind = SPRITE__MASTER__FRAME__KIND__RELEASE;
	f.id = mid;
	send_frame(a, &f);
}

static void send_adopt(struct agent *a, const struct slot *s)
{
	Sprite__Master__Frame f = SPRITE__MASTER__FRAME__INIT;

	f.kind = SPRITE__MASTER__FRAME__KIND__ADOPT;
	f.tag = s->id;
	f.uid = s->uid;
	f.priority = s->priority;
	f.want = 1;
	f.host = (char *)s->host;
	send_frame(a, &f);
}

/* ---- what the master says ---- */

static void row(struct agent *a, const char *what, uint64_t id, const char *host)
{
	if (a->conn)
		local_row(a->conn, json_pack("{s:{s:I, s:s}}", what, "id", (json_int_t)id, "host", host));
}

static struct slot *slot_by_mid(struct agent *a, uint64_t mid)
{
	struct slot *s;

	list_each(s, &a->slots, node)
		if (s->mid == mid)
			return s;
	return NULL;
}

/* Whose is a slot that came? A tag says it; one without was waited for. */
static struct want *want_for(struct agent *a, uint64_t tag)
{
	struct want *w;

	list_each(w, &a->wants, node)
		if (tag ? w->tag == tag : w->wait && w->got < w->want)
			return w;
	return NULL;
}

static void want_end_if_over(struct want *w)
{
	if (w->answered && (w->got == w->want || !w->wait)) {
		list_del(&w->node);
		free(w);
	}
}

static void granted(struct agent *a, const Sprite__Master__Frame *f)
{
	struct slot *s;
	struct want *w;
	uint64_t id = agent_new_id(a->m);

	pthread_mutex_lock(&a->lock);
	s = f->tag ? agent_slot(a, f->tag) : NULL;
	if (s) { /* adopted */
		s->mid = f->id;
		pthread_mutex_unlock(&a->lock);
		return;
	}
	w = want_for(a, f->tag);
	s = w ? calloc(1, sizeof *s) : NULL;
	if (!s) { /* nobody wants it any more */
		pthread_mutex_unlock(&a->lock);
		agent_send_release(a, f->id);
		return;
	}
	s->id = id;
	s->mid = f->id;
	s->uid = w->uid;
	s->priority = w->priority;
	snprintf(s->host, sizeof s->host, "%s", f->host);
	list_add_tail(&a->slots, &s->node);
	w->got++;
	w->last_slot = id;
	if (a->conn)
		want_end_if_over(w);
	pthread_cond_broadcast(&a->changed);
	pthread_mutex_unlock(&a->lock);
	stats_count(a->m, COUNT_GRANTED, 1);
	row(a, "granted", id, f->host);
}

static void answered(struct agent *a, const Sprite__Master__Frame *f)
{
	struct want *w;

	pthread_mutex_lock(&a->lock);
	w = want_for(a, f->tag);
	if (w && f->tag) {
		w->answered = true;
		w->err = f->err;
		if (f->err)
			w->wait = false;
		if (a->conn)
			want_end_if_over(w);
	}
	pthread_cond_broadcast(&a->changed);
	pthread_mutex_unlock(&a->lock);
	if (a->conn && w)
		local_row(a->conn, json_pack("{s:{s:i, s:i}}", "answered", "granted", (int)f->want, "errno", f->err));
}

static void slot_gone(struct agent *a, struct slot *s)
{
	list_del(&s->node);
	pthread_mutex_unlock(&a->lock);
	stats_count(a->m, COUNT_LOST, 1);
	row(a, "lost", s->id, s->host);
	free(s);
	pthread_mutex_lock(&a->lock);
}

static void handle(struct agent *a, const Sprite__Master__Frame *f)
{
	struct slot *s;
	uint64_t id;

	switch (f->kind) {
	case SPRITE__MASTER__FRAME__KIND__GRANTED:
		granted(a, f);
		break;
	case SPRITE__MASTER__FRAME__KIND__ANSWERED:
		answered(a, f);
		break;
	case SPRITE__MASTER__FRAME__KIND__RECLAIM:
		pthread_mutex_lock(&a->lock);
		s = slot_by_mid(a, f->id);
		id = s ? s->id : 0;
		if (s)
			s->wanted = true;
		pthread_mutex_unlock(&a->lock);
		if (id)
			row(a, "reclaim", id, f->host);
		if (id && !a->conn)
			home_slot_wanted(a->m, id);
		break;
	case SPRITE__MASTER__FRAME__KIND__LOST:
		pthread_mutex_lock(&a->lock);
		s = slot_by_mid(a, f->id);
		if (s)
			slot_gone(a, s);
		pthread_mutex_unlock(&a->lock);
		break;
	case SPRITE__MASTER__FRAME__KIND__REFUSED:
		pthread_mutex_lock(&a->lock);
		s = agent_slot(a, f->tag);
		/* ENOENT: the new master has not heard of that host yet; asked again by adopt_rest(). */
		if (s && (f->err != ENOENT || clock_boot_ns() > s->adopt_until))
			slot_gone(a, s);
		pthread_mutex_unlock(&a->lock);
		break;
	default:
		break;
	}
}

/* ---- the stream ---- */

/* Everything the master must know, after the stream was opened (all) or for slots that are not adopted yet. */
static void tell_master(struct agent *a, bool all)
{
	size_t ns = 0, nw = 0, slots_n = 0, wants_n = 0;
	struct slot *s, *slots;
	struct want *w, *wants;

	pthread_mutex_lock(&a->lock);
	list_each(s, &a->slots, node)
		slots_n += !s->mid;
	list_each(w, &a->wants, node)
		wants_n += (all || !w->sent) && w->got < w->want;
	slots = calloc(slots_n + 1, sizeof *slots);
	wants = calloc(wants_n + 1, sizeof *wants);
	list_each(s, &a->slots, node)
		if (slots && !s->mid)
			slots[ns++] = *s;
	list_each(w, &a->wants, node)
		if (wants && (all || !w->sent) && w->got < w->want) {
			w->sent = true;
			wants[nw++] = *w;
		}
	pthread_mutex_unlock(&a->lock);
	for (size_t i = 0; i < ns; i++)
		send_adopt(a, &slots[i]);
	for (size_t i = 0; i < nw; i++)
		agent_send_want(a, &wants[i], wants[i].want - wants[i].got);
	free(slots);
	free(wants);
}

/* migd's own slots that are wanted back: whoever was on his way there then has arrived by now. */
static void give_up_wanted(struct agent *a)
{
	uint64_t ids[64];
	struct slot *s;
	size_t n = 0;

	pthread_mutex_lock(&a->lock);
	list_each(s, &a->slots, node)
		if (s->wanted && n < ARRAY_SIZE(ids))
			ids[n++] = s->id;
	pthread_mutex_unlock(&a->lock);
	while (n--)
		home_slot_wanted(a->m, ids[n]);
}

static bool open_stream(struct agent *a)
{
	struct rpc_stream *st;
	struct error e = {0};
	char master[256];
	struct host *h;
	struct slot *s;

	office_master(a->m->office, master, sizeof master);
	if (!master[0] || hosts_refresh(a->m->hosts, 5000, NULL) || !(h = hosts_find(a->m->hosts, master, &e)))
		return false;
	if (rpc_stream_open(host_channel(h), &mig_methods[MIG_MASTER_ASK], -1, &st))
		return false;
	pthread_mutex_lock(&a->lock);
	a->stream = st;
	list_each(s, &a->slots, node) {
		s->mid = 0;
		s->adopt_until = clock_boot_ns() + ADOPT_NS;
	}
	pthread_mutex_unlock(&a->lock);
	if (a->conn)
		local_row(a->conn, json_pack("{s:s}", "master", master));
	tell_master(a, true);
	return true;
}

static void close_stream(struct agent *a)
{
	struct rpc_stream *st;

	pthread_mutex_lock(&a->lock);
	st = a->stream;
	a->stream = NULL;
	if (st)
		rpc_stream_cancel(st);
	while (a->senders)
		pthread_cond_wait(&a->changed, &a->lock);
	pthread_mutex_unlock(&a->lock);
	if (st)
		rpc_stream_finish(st, 0);
}

static bool over(struct agent *a)
{
	if (a->conn && local_gone(a->conn))
		return true;
	pthread_mutex_lock(&a->lock);
	bool stop = a->stop;
	pthread_mutex_unlock(&a->lock);
	return stop || a->m->stopping;
}

void agent_run(struct agent *a)
{
	uint64_t adopt_ns = 0;

	while (!over(a)) {
		struct rpc_msg m = {0};
		int r;

		if (!a->stream && !open_stream(a)) {
			nanosleep(&(struct timespec){.tv_nsec = RETRY_MS * 1000000L}, NULL);
			continue;
		}
		r = rpc_stream_recv(a->stream, &m, a->conn ? POLL_MS : OWN_POLL_MS);
		if (r == 1) {
			handle(a, (const Sprite__Master__Frame *)m.msg);
			rpc_msg_clear(&m);
		} else if (r != -ETIMEDOUT) {
			close_stream(a);
			if (a->m->office)
				office_look_soon(a->m->office);
			nanosleep(&(struct timespec){.tv_nsec = RETRY_MS * 1000000L}, NULL);
		} else if (clock_mono_ns() - adopt_ns > 1000000000ull) {
			adopt_ns = clock_mono_ns();
			tell_master(a, false);
			if (!a->conn)
				give_up_wanted(a);
		}
	}
	close_stream(a);
}
