// SPDX-License-Identifier: Apache-2.0
/* The outbox of a family: see outbox.h. */
#include "migd/outbox.h"
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "conf/clock.h"
#include "conf/list.h"
#include "conf/log.h"
#include "migd/family.h"
#include "migd/hosts.h"
#include "migd/journal.h"
#include "migd/relays.h"

enum { CALL_MS = 5000, DRAIN_MS = 5000, RETRY_MS = 100, ITEMS_MAX = 65536 };

struct item {
	struct list node;
	uint64_t seq;
	bool report;
	pid_t taker; /* signal: see outbox_signal() */
	uint32_t nr;
	pid_t pid, tid;
	siginfo_t info;
	Sprite__Mig__ReportReq rep;
	char comm[17];
	uint8_t args[]; /* of rep */
};

struct outbox {
	struct family *f;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct list items; /* lock: the first one may be on its way */
	size_t n;
	uint64_t seq, delivered; /* lock */
	bool hold, stop, running, sending; /* lock */
	bool unnoted;			   /* lock: the last note could not be made, and that has been said */
	struct mark *marks; /* lock: the last number of each thread that has taken signals */
	size_t nmarks;
};

struct mark {
	pid_t taker;
	uint32_t nr;
};

int outbox_new(struct family *f, struct outbox **out)
{
	struct outbox *o = calloc(1, sizeof(*o));
	pthread_condattr_t a;

	if (!o)
		return -ENOMEM;
	o->f = f;
	o->seq = clock_boot_ns(); /* above all that a dead predecessor has used; unlike the time of day it never goes back, and nothing of ours outlives a boot */
	pthread_mutex_init(&o->lock, NULL);
	pthread_condattr_init(&a);
	pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
	pthread_cond_init(&o->changed, &a);
	pthread_condattr_destroy(&a);
	list_init(&o->items);
	*out = o;
	return 0;
}

void outbox_free(struct outbox *o)
{
	struct list *n;

	if (!o)
		return;
	while ((n = list_pop(&o->items)))
		free(list_entry(n, struct item, node));
	free(o->marks);
	pthread_cond_destroy(&o->changed);
	pthread_mutex_destroy(&o->lock);
	free(o);
}

void outbox_stop(struct outbox *o)
{
	pthread_mutex_lock(&o->lock);
	o->stop = true;
	pthread_cond_broadcast(&o->changed);
	pthread_mutex_unlock(&o->lock);
}

static void wait_ms(struct outbox *o, int ms)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_nsec += ms % 1000 * 1000000L;
	t.tv_sec += ms / 1000 + t.tv_nsec / 1000000000L;
	t.tv_nsec %= 1000000000L;
	pthread_cond_timedwait(&o->changed, &o->lock, &t);
}

static int send_signal(struct family *f, struct host *h, uint64_t gen, struct item *it, struct error *e)
{
	Sprite__Mig__SignalReq r = SPRITE__MIG__SIGNAL_REQ__INIT;

	r.family = f->id;
	r.gen = gen;
	r.seq = it->seq;
	r.pid = it->pid;
	r.tid = it->tid;
	r.info.data = (uint8_t *)&it->info;
	r.info.len = sizeof(it->info);
	return host_call(h, MIG_SIGNAL, &r.base, CALL_MS, NULL, e);
}

/*
 * The last words of a process come before its end, and all words of a family before it is forgotten: what is not with its reader yet is kept here. A reader who
 * does not read for some seconds hears of an end before he has read all; as of one who has ended with his words in the pipe.
 */
static int drain_first(struct family *f, const struct item *it)
{
	bool last = it->rep.kind == SPRITE__MIG__REPORT_REQ__KIND__EMPTY;
	int err;

	if (!last && it->rep.kind != SPRITE__MIG__REPORT_REQ__KIND__EXITED)
		return 0;
	err = relays_drain(f->relays, DRAIN_MS);
	return err == -ENOTCONN ? -EHOSTDOWN : err == -ETIMEDOUT && last ? -EAGAIN : 0;
}

/* One attempt. Who the peer is, and which generation counts, is looked at afresh each time. */
static int send_item(struct family *f, struct item *it, struct error *e)
{
	char peer[HOST_NAME_MAX_];
	struct host *h;
	uint64_t gen;
	int err;

	pthread_mutex_lock(&f->lock);
	strcpy(peer, f->role == FAM_HOME ? f->host : f->home);
	gen = f->gen;
	pthread_mutex_unlock(&f->lock);
	if (!strcmp(peer, f->m->conf->name))
		return -EAGAIN; /* it is at home: who brought it back takes what is left */
	h = hosts_find(f->m->hosts, peer, e);
	if (!h)
		return -EHOSTDOWN;
	if (!it->report)
		return send_signal(f, h, gen, it, e);
	err = drain_first(f, it);
	if (err)
		return err;
	it->rep.family = f->id;
	it->rep.gen = gen;
	it->rep.seq = it->seq;
	it->rep.comm = it->comm;
	return host_call(h, MIG_REPORT, &it->rep.base, CALL_MS, NULL, e);
}

/* ---- the journal's part: signals that a hollow has given up must not die with us ---- */

/* Lock held. */
static void note(struct outbox *o, json_t *r)
{
	bool was = o->unnoted;

	o->unnoted = journal_note(o->f->m->journal, r) != 0;
	if (o->unnoted && !was)
		log_warn("family %s: the journal cannot be written: a signal may be lost if migd dies now", o->f->id);
}

static void note_signal(struct outbox *o, const struct item *it)
{
	json_t *r = journal_record("sig", o->f->id, o->f->gen);

	json_object_set_new(r, "seq", json_integer((json_int_t)it->seq));
	json_object_set_new(r, "pid", json_integer(it->pid));
	json_object_set_new(r, "tid", json_integer(it->tid));
	json_object_set_new(r, "taker", json_integer(it->taker));
	json_object_set_new(r, "nr", json_integer(it->nr));
	json_object_set_new(r, "info", journal_bytes(&it->info, sizeof(it->info)));
	note(o, r);
}

/* Has arrived (or can not: whom it was for has ended). In order, so that its number stands for all before it. */
static void note_done(struct outbox *o, uint64_t seq)
{
	json_t *r = journal_record("sigdone", o->f->id, o->f->gen);

	json_object_set_new(r, "seq", json_integer((json_int_t)seq));
	note(o, r);
}

/* false: this is the one that this thread took last. */
static bool mark(struct outbox *o, pid_t taker, uint32_t nr)
{
	struct mark *more;

	for (size_t i = 0; i < o->nmarks; i++)
		if (o->marks[i].taker == taker) {
			bool news = o->marks[i].nr != nr;

			o->marks[i].nr = nr;
			return news;
		}
	more = realloc(o->marks, (o->nmarks + 1) * sizeof(*more));
	if (more) {
		o->marks = more;
		more[o->nmarks++] = (struct mark){ taker, nr };
	}
	return true;
}

static int actor_exit_told(struct family *f, void *pid)
{
	return f->eng ? eng_exit_told(f->eng, (pid_t)(intptr_t)pid) : 0;
}

/* It has arrived. */
static void item_done(struct outbox *o, const struct item *it)
{
	if (!it->report)
		note_done(o, it->seq);
	else if (it->rep.kind == SPRITE__MIG__REPORT_REQ__KIND__EXITED)
		family_post(o->f, actor_exit_told, (void *)(intptr_t)it->pid);
}

static void *outbox_main(void *arg)
{
	struct outbox *o = arg;
	struct family *f = o->f;
	struct item *it;
	int err;

	pthread_mutex_lock(&o->lock);
	while (!o->stop) {
		struct error e = { 0 };

		if (o->hold || list_empty(&o->items)) {
			pthread_cond_wait(&o->changed, &o->lock);
			continue;
		}
		it = list_entry(o->items.next, struct item, node);
		list_del(&it->node);
		o->sending = true;
		pthread_mutex_unlock(&o->lock);
		err = send_item(f, it, &e);
		pthread_mutex_lock(&o->lock);
		o->sending = false;
		if (!it->report && it->seq <= o->delivered)
			err = 0; /* it went along with the image */
		if (host_lost(err) || err == -EAGAIN || err == -EBUSY || err == -ESTALE) {
			list_add(&o->items, &it->node);
			pthread_cond_broadcast(&o->changed);
			wait_ms(o, RETRY_MS);
			continue;
		}
		if (err && err != -ESRCH)
			log_warn("family %s: %s %llu of %d was refused: %s", f->id, it->report ? "report" : "signal", (unsigned long long)it->seq, it->pid, e.text);
		item_done(o, it);
		free(it);
		o->n--;
		pthread_cond_broadcast(&o->changed);
	}
	o->running = false;
	pthread_cond_broadcast(&o->changed);
	pthread_mutex_unlock(&o->lock);
	family_put(f);
	return NULL;
}

/* Lock held. */
static int start(struct outbox *o)
{
	int err;

	if (o->running)
		return 0;
	family_get(o->f);
	err = thread_run(outbox_main, o);
	if (err)
		family_put(o->f);
	o->running = !err;
	return err;
}

static int put(struct outbox *o, struct item *it, uint64_t *seq)
{
	int err = 0;

	pthread_mutex_lock(&o->lock);
	if (it->nr && !mark(o, it->taker, it->nr)) {
		pthread_mutex_unlock(&o->lock);
		log_debug("family %s: signal %d of %d is known", o->f->id, it->info.si_signo, it->pid);
		free(it);
		return 0;
	}
	if (o->stop || o->n >= ITEMS_MAX) {
		err = o->stop ? -ESHUTDOWN : -ENOBUFS;
	} else {
		err = start(o);
		if (!err) {
			*seq = it->seq = ++o->seq;
			if (!it->report)
				note_signal(o, it);
			list_add_tail(&o->items, &it->node);
			o->n++;
			pthread_cond_broadcast(&o->changed);
		}
	}
	pthread_mutex_unlock(&o->lock);
	if (err) {
		log_warn("family %s: a message for its other side is lost: %s", o->f->id, strerror(-err));
		free(it);
	}
	return err;
}

int outbox_signal(struct outbox *o, pid_t pid, pid_t tid, const siginfo_t *info, pid_t taker, uint32_t nr, uint64_t *seq)
{
	struct item *it = calloc(1, sizeof(*it));

	*seq = 0;
	if (!it)
		return -ENOMEM;
	it->pid = pid;
	it->tid = tid;
	it->info = *info;
	it->taker = taker;
	it->nr = nr;
	return put(o, it, seq);
}

void outbox_replay(struct outbox *o, const json_t *r)
{
	struct item *it = calloc(1, sizeof(*it));
	pid_t taker = (pid_t)json_integer_value(json_object_get(r, "taker"));
	uint32_t nr = (uint32_t)json_integer_value(json_object_get(r, "nr"));
	uint64_t seq = (uint64_t)json_integer_value(json_object_get(r, "seq"));

	pthread_mutex_lock(&o->lock);
	if (o->seq < seq)
		o->seq = seq;
	if (nr)
		mark(o, taker, nr);
	if (it && journal_get_bytes(r, "info", &it->info, sizeof(it->info)) == sizeof(it->info) && !json_is_true(json_object_get(r, "done"))) {
		it->seq = seq;
		it->pid = (pid_t)json_integer_value(json_object_get(r, "pid"));
		it->tid = (pid_t)json_integer_value(json_object_get(r, "tid"));
		if (!start(o)) {
			list_add_tail(&o->items, &it->node);
			o->n++;
			it = NULL;
			pthread_cond_broadcast(&o->changed);
		}
	}
	pthread_mutex_unlock(&o->lock);
	free(it);
}

int outbox_report(struct outbox *o, const Sprite__Mig__ReportReq *r)
{
	struct item *it = calloc(1, sizeof(*it) + r->args.len);
	uint64_t seq;

	if (!it)
		return -ENOMEM;
	it->report = true;
	it->pid = r->pid;
	it->rep = *r;
	strncpy(it->comm, r->comm ? r->comm : "", sizeof(it->comm) - 1);
	it->rep.args.data = it->args;
	if (r->args.len)
		memcpy(it->args, r->args.data, r->args.len);
	return put(o, it, &seq);
}

void outbox_hold(struct outbox *o, bool hold)
{
	pthread_mutex_lock(&o->lock);
	o->hold = hold;
	pthread_cond_broadcast(&o->changed);
	pthread_mutex_unlock(&o->lock);
}

int outbox_flush(struct outbox *o, int timeout_ms)
{
	struct timespec t;
	int err = 0;

	clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_sec += timeout_ms / 1000 + 1;
	pthread_mutex_lock(&o->lock);
	while (o->n && !o->stop && !err)
		err = pthread_cond_timedwait(&o->changed, &o->lock, &t);
	err = o->n ? -ETIMEDOUT : 0;
	pthread_mutex_unlock(&o->lock);
	return err;
}

void outbox_delivered(struct outbox *o, uint64_t seq)
{
	struct item *it, *tmp;

	pthread_mutex_lock(&o->lock);
	if (o->delivered < seq)
		o->delivered = seq;
	list_each_safe(it, tmp, &o->items, node) {
		if (it->seq > seq)
			break;
		list_del(&it->node);
		item_done(o, it);
		free(it);
		o->n--;
	}
	pthread_cond_broadcast(&o->changed);
	pthread_mutex_unlock(&o->lock);
}

void outbox_deliver(struct outbox *o, void (*deliver)(const struct family *f, pid_t pid, pid_t tid, siginfo_t *info))
{
	struct item *it, *tmp;
	struct list all;

	list_init(&all);
	pthread_mutex_lock(&o->lock);
	while (o->sending) /* it comes back into the list: nobody over there takes it any more */
		pthread_cond_wait(&o->changed, &o->lock);
	list_each_safe(it, tmp, &o->items, node) {
		list_del(&it->node);
		list_add_tail(&all, &it->node);
		o->n--;
	}
	pthread_cond_broadcast(&o->changed);
	pthread_mutex_unlock(&o->lock);
	list_each(it, &all, node) /* one after the other, with nothing in between that takes time */
		deliver(o->f, it->pid, it->tid, &it->info);
	pthread_mutex_lock(&o->lock);
	list_each_safe(it, tmp, &all, node) {
		list_del(&it->node);
		item_done(o, it);
		free(it);
	}
	pthread_mutex_unlock(&o->lock);
}

bool outbox_waiting(struct outbox *o, int timeout_ms)
{
	bool yes;

	pthread_mutex_lock(&o->lock);
	for (; o->sending && timeout_ms > 0; timeout_ms -= 5)
		wait_ms(o, 5);
	yes = !o->sending && !list_empty(&o->items);
	pthread_mutex_unlock(&o->lock);
	return yes;
}

uint64_t outbox_last_seq(struct outbox *o)
{
	uint64_t s;

	pthread_mutex_lock(&o->lock);
	s = o->seq;
	pthread_mutex_unlock(&o->lock);
	return s;
}
