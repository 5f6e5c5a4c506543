// SPDX-License-Identifier: Apache-2.0
/* Slots and those who asked for them; see agent.h. Each agent has a thread that reads its stream; whoever asks writes to it himself. */
#include "migd/agent.h"
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/list.h"
#include "conf/log.h"
#include "migd/family.h"
#include "migd/home.h"
#include "migd/hosts.h"
#include "migd/office.h"
#include "migd/select.h"
#include "migd/stats.h"
#include "migd/status.h"
#include "rpc/master.pb-c.h"

enum { POLL_MS = 250, RETRY_MS = 500, PLACE_MS = 2000, WANTS_MAX = 256 };
#define ADOPT_NS 10000000000ull /* a new master hears from all hosts within that time */

struct slot {
	struct list node;
	uint64_t id;	/* ours, as agents know it */
	uint64_t mid;	/* the master's; 0: to be adopted */
	uint64_t adopt_until;
	uint32_t uid, priority;
	bool wanted; /* others have a right to it: whoever is there by it has to go */
	char host[256];
};

struct want {
	struct list node;
	uint64_t tag;
	uint32_t uid, priority, want, got;
	bool wait, sent, answered;
	int err;
	char host[256], not_host[256];
	uint64_t last_slot;
};

struct agent {
	struct list node; /* table */
	struct migd *m;
	uint64_t id;
	uid_t uid;
	int refs;		  /* table's lock */
	struct local_conn *conn;  /* NULL: migd's own */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct rpc_stream *stream; /* lock */
	unsigned senders;	   /* lock: threads that use the stream now */
	bool stop;		   /* lock */
	struct list slots, wants;  /* lock */
};

struct agents {
	pthread_mutex_t lock;
	struct list list;  /* lock */
	uint64_t next;	   /* lock: ids of agents, slots and tags */
	struct agent *own; /* lock: for agent_place() */
	pthread_t own_thread;
};

static uint64_t new_id(struct migd *m)
{
	pthread_mutex_lock(&m->agents->lock);
	uint64_t id = ++m->agents->next;
	pthread_mutex_unlock(&m->agents->lock);
	return id;
}

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

static void send_want(struct agent *a, const struct want *w, uint32_t n)
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

static void send_id(struct agent *a, Sprite__Master__Frame__Kind kind, uint64_t mid)
{
	Sprite__Master__Frame f = SPRITE__MASTER__FRAME__INIT;

	f.kind = kind;
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

static struct slot *slot_by_id(struct agent *a, uint64_t id)
{
	struct slot *s;

	list_each(s, &a->slots, node)
		if (s->id == id)
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
	uint64_t id = new_id(a->m);

	pthread_mutex_lock(&a->lock);
	s = f->tag ? slot_by_id(a, f->tag) : NULL;
	if (s) { /* adopted */
		s->mid = f->id;
		pthread_mutex_unlock(&a->lock);
		return;
	}
	w = want_for(a, f->tag);
	s = w ? calloc(1, sizeof *s) : NULL;
	if (!s) { /* nobody wants it any more */
		pthread_mutex_unlock(&a->lock);
		send_id(a, SPRITE__MASTER__FRAME__KIND__RELEASE, f->id);
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
		s = slot_by_id(a, f->tag);
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
		send_want(a, &wants[i], wants[i].want - wants[i].got);
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

static void agent_run(struct agent *a)
{
	uint64_t adopt_ns = 0;

	while (!over(a)) {
		struct rpc_msg m = {0};
		int r;

		if (!a->stream && !open_stream(a)) {
			nanosleep(&(struct timespec){.tv_nsec = RETRY_MS * 1000000L}, NULL);
			continue;
		}
		r = rpc_stream_recv(a->stream, &m, POLL_MS);
		if (r == 1) {
			handle(a, (const Sprite__Master__Frame *)m.msg);
			rpc_msg_clear(&m);
		} else if (r != -ETIMEDOUT) {
			close_stream(a);
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

/* ---- agents ---- */

static struct agent *agent_new(struct migd *m, uid_t uid, struct local_conn *conn)
{
	struct agent *a = calloc(1, sizeof *a);

	if (!a)
		return NULL;
	a->m = m;
	a->uid = uid;
	a->conn = conn;
	a->refs = 1;
	a->id = new_id(m);
	pthread_mutex_init(&a->lock, NULL);
	pthread_cond_init(&a->changed, NULL);
	list_init(&a->slots);
	list_init(&a->wants);
	pthread_mutex_lock(&m->agents->lock);
	list_add_tail(&m->agents->list, &a->node);
	pthread_mutex_unlock(&m->agents->lock);
	return a;
}

static void agent_put(struct agent *a)
{
	struct agents *t = a->m->agents;
	struct list *n;

	pthread_mutex_lock(&t->lock);
	bool last = --a->refs == 0;
	pthread_mutex_unlock(&t->lock);
	if (!last)
		return;
	while ((n = list_pop(&a->slots)))
		free(list_entry(n, struct slot, node));
	while ((n = list_pop(&a->wants)))
		free(list_entry(n, struct want, node));
	pthread_cond_destroy(&a->changed);
	pthread_mutex_destroy(&a->lock);
	free(a);
}

static void agent_end(struct agent *a)
{
	pthread_mutex_lock(&a->m->agents->lock);
	list_del(&a->node);
	pthread_mutex_unlock(&a->m->agents->lock);
	agent_put(a);
}

/* A reference, or NULL: no such agent, or another user's. */
static struct agent *agent_find(struct migd *m, json_int_t id, uid_t uid)
{
	struct agent *a, *found = NULL;

	pthread_mutex_lock(&m->agents->lock);
	list_each(a, &m->agents->list, node)
		if ((json_int_t)a->id == id && a->conn && (a->uid == uid || uid == 0))
			found = a;
	if (found)
		found->refs++;
	pthread_mutex_unlock(&m->agents->lock);
	return found;
}

static struct want *want_new(struct agent *a, uint32_t uid, uint32_t priority, uint32_t n, bool wait, const char *host, const char *not_host)
{
	struct want *w = calloc(1, sizeof *w);

	if (!w)
		return NULL;
	w->tag = new_id(a->m);
	w->uid = uid;
	w->priority = priority;
	w->want = n;
	w->wait = wait;
	stats_count(a->m, COUNT_ASKED, n);
	snprintf(w->host, sizeof w->host, "%s", host ? host : "");
	snprintf(w->not_host, sizeof w->not_host, "%s", not_host ? not_host : "");
	pthread_mutex_lock(&a->lock);
	list_add_tail(&a->wants, &w->node);
	bool there = a->stream != NULL;

	w->sent = there;
	struct want copy = *w;
	pthread_mutex_unlock(&a->lock);
	if (there)
		send_want(a, &copy, n);
	return w;
}

/* n more of what is waited for already: one want a priority, however often slots come and go. false: nothing like it is waited for. */
static bool want_more(struct agent *a, uint32_t priority, uint32_t n)
{
	struct want *w, copy;
	bool found = false, there;

	pthread_mutex_lock(&a->lock);
	list_each(w, &a->wants, node)
		if (w->wait && w->priority == priority && !w->host[0] && w->want + n <= SELECT_WANT_MAX) {
			found = true;
			w->want += n;
			copy = *w;
			break;
		}
	there = found && a->stream && copy.sent;
	pthread_mutex_unlock(&a->lock);
	if (found)
		stats_count(a->m, COUNT_ASKED, n);
	if (there)
		send_want(a, &copy, n);
	return found;
}

int agent_priority(const char *word, uid_t uid, struct error *e)
{
	static const char *const name[SELECT_PRIORITIES] = {"low", "normal", "high"};

	if (!word)
		return SELECT_NORMAL;
	for (int i = 0; i < SELECT_PRIORITIES; i++)
		if (!strcmp(word, name[i]))
			return i == SELECT_HIGH && uid ? error_set(e, EPERM, "priority high is root's: ask for normal") : i;
	return error_set(e, EINVAL, "priority: expected low, normal or high, found \"%s\"", word);
}

static bool want_ok(struct local_conn *c, json_int_t n)
{
	if (n >= 1 && n <= SELECT_WANT_MAX)
		return true;
	local_fail(c, EINVAL, "want: expected 1 to %d slots, found %lld", SELECT_WANT_MAX, (long long)n);
	return false;
}

void agent_verb_ask(struct migd *m, struct local_conn *c, const struct local_cred *who, json_t *rq)
{
	json_int_t n = json_integer_value(json_object_get(rq, "want"));
	const char *word = json_string_value(json_object_get(rq, "priority")), *not_host = json_string_value(json_object_get(rq, "not_host"));
	struct error e = {0};
	int priority = agent_priority(word, who->uid, &e);
	struct agent *a;

	if (!want_ok(c, n))
		return;
	if (priority < 0) {
		local_fail(c, e.code, "%s", e.text);
		return;
	}
	a = agent_new(m, who->uid, c);
	if (!a || !want_new(a, who->uid, (uint32_t)priority, (uint32_t)n, json_is_true(json_object_get(rq, "wait")),
			   json_string_value(json_object_get(rq, "host")), not_host ? not_host : m->conf->name)) {
		if (a)
			agent_end(a);
		local_fail(c, ENOMEM, "out of memory");
		return;
	}
	local_row(c, json_pack("{s:I}", "agent", (json_int_t)a->id));
	agent_run(a);
	agent_end(a);
	local_ok(c, NULL);
}

static struct agent *agent_of(struct migd *m, struct local_conn *c, const struct local_cred *who, json_t *rq)
{
	json_int_t id = json_integer_value(json_object_get(rq, "agent"));
	struct agent *a = agent_find(m, id, who->uid);

	if (!a)
		local_fail(c, ENOENT, "agent %lld: there is none of yours with that number", (long long)id);
	return a;
}

static size_t wants(struct agent *a)
{
	struct want *w;
	size_t n = 0;

	pthread_mutex_lock(&a->lock);
	list_each(w, &a->wants, node)
		n++;
	pthread_mutex_unlock(&a->lock);
	return n;
}

void agent_verb_more(struct migd *m, struct local_conn *c, const struct local_cred *who, json_t *rq)
{
	json_int_t n = json_integer_value(json_object_get(rq, "want"));
	struct error e = {0};
	int priority = agent_priority(json_string_value(json_object_get(rq, "priority")), who->uid, &e);
	struct agent *a;

	if (priority < 0) {
		local_fail(c, e.code, "%s", e.text);
		return;
	}
	if (!want_ok(c, n) || !(a = agent_of(m, c, who, rq)))
		return;
	if (wants(a) >= WANTS_MAX)
		local_fail(c, E2BIG, "agent %llu asks for too much at a time already", (unsigned long long)a->id);
	else if ((json_is_true(json_object_get(rq, "wait")) && want_more(a, (uint32_t)priority, (uint32_t)n)) ||
		want_new(a, a->uid, (uint32_t)priority, (uint32_t)n, json_is_true(json_object_get(rq, "wait")), NULL, m->conf->name))
		local_ok(c, NULL);
	else
		local_fail(c, ENOMEM, "out of memory");
	agent_put(a);
}

static bool give_back(struct agent *a, uint64_t id)
{
	struct slot *s;
	uint64_t mid = 0;

	pthread_mutex_lock(&a->lock);
	s = slot_by_id(a, id);
	if (s) {
		mid = s->mid;
		list_del(&s->node);
	}
	pthread_mutex_unlock(&a->lock);
	if (mid)
		send_id(a, SPRITE__MASTER__FRAME__KIND__RELEASE, mid);
	free(s);
	return s != NULL;
}

void agent_verb_release(struct migd *m, struct local_conn *c, const struct local_cred *who, json_t *rq)
{
	struct agent *a = agent_of(m, c, who, rq);
	json_int_t id = json_integer_value(json_object_get(rq, "id"));

	if (!a)
		return;
	if (give_back(a, (uint64_t)id))
		local_ok(c, NULL);
	else
		local_fail(c, ENOENT, "slot %lld: not held (any more)", (long long)id);
	agent_put(a);
}

/* ---- migd's own ---- */

static void *own_main(void *arg)
{
	agent_run(arg);
	return NULL;
}

static struct agent *own_agent(struct migd *m)
{
	struct agent *a = m->agents->own;

	if (a)
		return a;
	a = agent_new(m, 0, NULL);
	if (!a)
		return NULL;
	pthread_mutex_lock(&m->agents->lock);
	bool first = !m->agents->own;

	if (first)
		m->agents->own = a;
	pthread_mutex_unlock(&m->agents->lock);
	if (first && pthread_create(&m->agents->own_thread, NULL, own_main, a)) {
		m->agents->own = NULL;
		first = false;
	}
	if (!first)
		agent_end(a);
	return m->agents->own;
}

int agent_place(struct migd *m, uid_t uid, uint32_t priority, const char *not_host, char **host, uint64_t *slot, struct error *e)
{
	char master[256];
	struct timespec until;
	struct agent *a;
	struct want *w;
	struct slot *s;
	int err;

	office_master(m->office, master, sizeof master);
	if (!master[0])
		return error_set(e, EHOSTDOWN, "no master is known");
	a = own_agent(m);
	w = a ? want_new(a, uid, priority, 1, false, NULL, not_host) : NULL;
	if (!w)
		return error_set(e, ENOMEM, "out of memory");
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += PLACE_MS / 1000;
	pthread_mutex_lock(&a->lock);
	while (!w->got && !w->answered && !pthread_cond_timedwait(&a->changed, &a->lock, &until))
		;
	s = w->got ? slot_by_id(a, w->last_slot) : NULL;
	if (s) {
		*slot = s->id;
		*host = strdup(s->host);
		err = *host ? 0 : -ENOMEM;
	} else {
		err = w->answered ? -EBUSY : -EHOSTDOWN;
	}
	list_del(&w->node);
	pthread_mutex_unlock(&a->lock);
	free(w);
	if (err == -EBUSY)
		error_set(e, EBUSY, "no host is idle and lends itself now (mig hosts shows why): name one with -H, or wait");
	else if (err)
		error_set(e, -err, "no master answers");
	return err;
}

void agent_leave(struct migd *m, uint64_t slot)
{
	struct agents *t = m->agents;
	struct agent *a;

	if (!slot || !t)
		return;
	pthread_mutex_lock(&t->lock);
	a = t->own;
	if (a)
		a->refs++;
	pthread_mutex_unlock(&t->lock);
	if (!a)
		return;
	give_back(a, slot);
	agent_put(a);
}

int agents_open(struct migd *m, struct agents **out)
{
	struct agents *t = calloc(1, sizeof *t);

	(void)m;
	if (!t)
		return -ENOMEM;
	pthread_mutex_init(&t->lock, NULL);
	list_init(&t->list);
	*out = t;
	return 0;
}

/* The table itself stays: actors of families that live on without us may still give slots back until the process is gone. */
void agents_close(struct agents *t)
{
	struct agent *a;

	if (!t)
		return;
	pthread_mutex_lock(&t->lock);
	a = t->own;
	t->own = NULL;
	pthread_mutex_unlock(&t->lock);
	if (!a)
		return;
	pthread_mutex_lock(&a->lock);
	a->stop = true;
	pthread_mutex_unlock(&a->lock);
	pthread_join(t->own_thread, NULL);
	agent_end(a);
}
