// SPDX-License-Identifier: Apache-2.0
/*
 * Forwarded calls, see forward.h.
 *
 * Guest host: a thread a call, since the family's actor may just be waiting for the caller to stop (a freeze). It asks until it has an answer; a home that cannot be
 * reached for PATIENCE_S is EHOSTDOWN to the caller, and the call may or may not have been made, as with any lost link.
 * Home: the actor makes the call in the hollow. While the family is on its way the hollows are not to be had: then a process with the family's ids makes it. Which of the
 * two does is decided by one compare-and-swap. Datagrams are sent by such a process at any time (connect.c).
 *
 * Once: the home keeps the last PLACES calls by their id. One that is asked again while it is being made waits for that; one that was made is answered again. What
 * does harm when it is done twice (a signal, a datagram) is in the journal before it is made, and its result before it is answered. A migd that finds only the first of the two
 * cannot know whether it was made: it does not make it, and answers EHOSTDOWN.
 *
 * Locking: f->lock for the places.
 */
#include "migd/forward.h"
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "conf/clock.h"
#include "conf/fault.h"
#include "conf/log.h"
#include "migd/connect.h"
#include "migd/hosts.h"
#include "migd/journal.h"
#include "migd/user.h"

enum { CALL_MS = 3000, AGAIN_US = 20000, PATIENCE_S = 15, ACTOR_MS = 50, CHILD_MS = 2000, PLACES = 64 };

/* ---- guest host ---- */

struct asking {
	struct family *f;
	struct eng_foreign c;
	int fd;
	size_t len;
	uint8_t data[]; /* of sendto */
};

static int ask(struct asking *a)
{
	Sprite__Mig__CallReq r = SPRITE__MIG__CALL_REQ__INIT;
	const Sprite__Mig__CallRep *rep;
	struct eng_foreign *c = &a->c;
	struct rpc_msg out;
	struct host *h = hosts_find(a->f->m->hosts, a->f->home, NULL);
	int err;

	r.family = a->f->id;
	pthread_mutex_lock(&a->f->lock);
	r.gen = a->f->gen;
	pthread_mutex_unlock(&a->f->lock);
	r.id = c->id;
	r.pid = c->pid;
	r.nr = c->nr;
	r.n_arg = 6;
	r.arg = c->arg;
	r.in_arg = c->in_arg;
	r.in = (ProtobufCBinaryData){ c->in_len, c->in };
	r.out_arg = c->out_arg;
	r.out_len = c->out_len;
	r.data = (ProtobufCBinaryData){ a->len, a->data };
	err = h ? host_call(h, MIG_CALL, &r.base, CALL_MS, &out, NULL) : -EHOSTDOWN;
	if (err)
		return err;
	rep = (const Sprite__Mig__CallRep *)out.msg;
	c->ret = rep->ret;
	if (rep->out.len && rep->out.len <= sizeof(c->out))
		memcpy(c->out, rep->out.data, rep->out.len);
	rpc_msg_clear(&out);
	return 0;
}

static void *ask_main(void *arg)
{
	struct asking *a = arg;
	uint64_t end = clock_mono_ns() + PATIENCE_S * 1000000000ull;
	int err, got = -1;

	while ((err = ask(a)) && (host_lost(err) || err == -EAGAIN) && clock_mono_ns() < end)
		usleep(AGAIN_US);
	if (err == -EAGAIN && a->c.nr == SYS_sendto)
		a->c.ret = -EAGAIN; /* who receives them takes none: as if SO_SNDTIMEO were that long */
	else if (err)
		a->c.ret = host_lost(err) || err == -EAGAIN ? -EHOSTDOWN : -ESRCH;
	if (!err && a->c.nr == SYS_connect && a->c.ret == 0) {
		got = connect_made(a->f, &a->c);
		a->c.ret = got < 0 ? -ECONNREFUSED : 0;
	}
	log_debug("family %s: call %d of %d about a process at home: %lld", a->f->id, a->c.nr, a->c.pid, (long long)a->c.ret);
	if (got >= 0)
		fault_point("connected");
	eng_call_answer(a->fd, &a->c, got);
	if (got >= 0) {
		close(got);
		connect_taken(a->f, &a->c);
	}
	close(a->fd);
	family_put(a->f);
	free(a);
	return NULL;
}

void forward_call(struct family *f, const struct eng_foreign *c, const void *data, size_t len)
{
	struct asking *a = malloc(sizeof(*a) + len);
	struct eng_foreign no = *c;
	int fd = eng_answer_fd(f->eng);

	if (a && fd >= 0) {
		*a = (struct asking){ family_get(f), *c, fd, len };
		if (len)
			memcpy(a->data, data, len);
		if (!thread_run(ask_main, a))
			return;
		family_put(f);
	}
	no.ret = -EAGAIN;
	if (fd >= 0) {
		eng_call_answer(fd, &no, -1);
		close(fd);
	}
	free(a);
}

/* ---- home ---- */

struct place {
	uint64_t id; /* 0: free */
	pid_t pid;
	int nr;
	struct making *made_by; /* under way, with a reference; NULL: `c` is the answer */
	struct eng_foreign c;
};
struct calls {
	struct place place[PLACES]; /* f->lock */
	unsigned next;
};

struct making {
	struct family *f;
	struct eng_foreign c;
	uint8_t *data; /* sendto */
	size_t len;
	int err;
	atomic_int refs, claimed; /* claimed: by whom it is made, the first */
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool done; /* lock */
};

static void making_put(struct making *k)
{
	if (atomic_fetch_sub(&k->refs, 1) != 1)
		return;
	pthread_mutex_destroy(&k->lock);
	pthread_cond_destroy(&k->cond);
	family_put(k->f);
	free(k->data);
	free(k);
}

static bool claim(struct making *k)
{
	int nobody = 0;

	return atomic_compare_exchange_strong(&k->claimed, &nobody, 1);
}

static void set_done(struct making *k, int err)
{
	pthread_mutex_lock(&k->lock);
	k->err = err;
	k->done = true;
	pthread_cond_broadcast(&k->cond);
	pthread_mutex_unlock(&k->lock);
}

static int actor_make(struct family *f, void *arg)
{
	struct making *k = arg;

	if (claim(k))
		set_done(k, f->eng ? eng_hollow_call(f->eng, &k->c) : -EAGAIN);
	making_put(k);
	return 0;
}

struct made {
	int64_t ret;
	uint8_t out[FOREIGN_MAX];
};
struct call_of {
	const struct user_ids *u;
	const struct eng_foreign *c;
};

/* In a process of its own. */
static int child_call(const void *arg, void *answer)
{
	const struct call_of *x = arg;
	const struct eng_foreign *c = x->c;
	struct made *m = answer;
	uint64_t a[6];

	memcpy(a, c->arg, sizeof(a));
	if (c->in_arg >= 0)
		a[c->in_arg] = (uintptr_t)c->in;
	if (c->out_arg >= 0)
		a[c->out_arg] = (uintptr_t)m->out;
	m->ret = -EPERM;
	if (user_become(x->u)) {
		m->ret = syscall(c->nr, a[0], a[1], a[2], a[3], a[4], a[5]);
		if (m->ret < 0)
			m->ret = -errno;
	}
	return -1;
}

/*
 * No thread of ours does it: whoever may send that user signals could end this daemon with one. A child that is killed or stopped meanwhile leaves open whether the
 * call was made.
 */
static void make_as_user(struct making *k)
{
	struct user_ids u = { .uid = k->f->uid, .gid = k->f->gid, .groups = { k->f->gid }, .ngroups = 1 };
	struct call_of x = { &u, &k->c };
	struct made m;

	k->c.ret = -EHOSTDOWN;
	if (user_run(child_call, &x, CHILD_MS, &m, sizeof(m), NULL))
		return;
	k->c.ret = m.ret;
	memcpy(k->c.out, m.out, k->c.out_len);
}

static bool wait_done(struct making *k, int ms)
{
	struct timespec until;
	bool done;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += ms * 1000000l;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	pthread_mutex_lock(&k->lock);
	while (!k->done && pthread_cond_timedwait(&k->cond, &k->lock, &until) == 0)
		;
	done = k->done;
	pthread_mutex_unlock(&k->lock);
	return done;
}

/* Does it do harm when it is made twice? */
static bool once_only(int nr)
{
	return nr == SYS_sendto || nr == SYS_kill || nr == SYS_tkill || nr == SYS_tgkill || nr == SYS_rt_sigqueueinfo || nr == SYS_rt_tgsigqueueinfo;
}

/* f->lock held. c NULL: it was not made, and may be asked for again; made: its result is known. */
static void note(struct family *f, unsigned at, const struct eng_foreign *c, bool made)
{
	json_t *r;

	if (f->dead)
		return;
	r = journal_record("call", f->id, f->gen);
	json_object_set_new(r, "place", json_integer(at));
	json_object_set_new(r, "id", json_integer(c ? (json_int_t)c->id : 0));
	json_object_set_new(r, "pid", json_integer(c ? c->pid : 0));
	json_object_set_new(r, "nr", json_integer(c ? c->nr : 0));
	if (made)
		json_object_set_new(r, "ret", json_integer(c->ret));
	if (journal_note(f->m->journal, r))
		log_warn("family %s: the journal cannot be written: a call may be made twice if migd dies now", f->id);
}

void forward_replay(struct family *f, const json_t *r)
{
	json_int_t at = json_integer_value(json_object_get(r, "place"));
	const json_t *ret = json_object_get(r, "ret");
	struct place *p;

	if (!f->calls)
		f->calls = calloc(1, sizeof(*f->calls));
	if (!f->calls || at < 0 || at >= PLACES)
		return;
	p = &f->calls->place[at];
	*p = (struct place){ .id = (uint64_t)json_integer_value(json_object_get(r, "id")), .pid = (pid_t)json_integer_value(json_object_get(r, "pid")),
		.nr = (int)json_integer_value(json_object_get(r, "nr")) };
	p->c.ret = ret ? json_integer_value(ret) : -EHOSTDOWN;
	f->calls->next = (unsigned)at + 1;
}

static struct place *place_of(struct calls *t, const struct eng_foreign *c)
{
	for (unsigned i = 0; i < PLACES; i++)
		if (t->place[i].id == c->id && t->place[i].pid == c->pid && t->place[i].nr == c->nr)
			return &t->place[i];
	return NULL;
}

static struct place *place_free(struct calls *t)
{
	for (unsigned i = 0; i < PLACES; i++) {
		struct place *p = &t->place[t->next++ % PLACES];

		if (!p->made_by)
			return p;
	}
	return NULL;
}

static void answer_from(struct eng_foreign *to, const struct eng_foreign *from)
{
	to->ret = from->ret;
	memcpy(to->out, from->out, to->out_len);
}

/* 0: answered already, in k->c. 1: *other is making it, with a reference. 2: *mine is the place for this one, which is to be made. */
static int look_up(struct making *k, struct making **other, struct place **mine)
{
	struct family *f = k->f;
	struct place *p;
	int what = -EAGAIN;

	pthread_mutex_lock(&f->lock);
	if (!f->calls)
		f->calls = calloc(1, sizeof(*f->calls));
	p = f->calls ? place_of(f->calls, &k->c) : NULL;
	if (p && p->made_by) {
		*other = p->made_by;
		atomic_fetch_add(&p->made_by->refs, 1);
		what = 1;
	} else if (p) {
		answer_from(&k->c, &p->c);
		what = 0;
	} else if (f->calls && (p = place_free(f->calls))) {
		*p = (struct place){ k->c.id, k->c.pid, k->c.nr, k, k->c };
		atomic_fetch_add(&k->refs, 1);
		if (once_only(k->c.nr))
			note(f, (unsigned)(p - f->calls->place), &k->c, false);
		*mine = p;
		what = 2;
	}
	pthread_mutex_unlock(&f->lock);
	return what;
}

static void finished(struct making *k, struct place *p)
{
	struct family *f = k->f;

	pthread_mutex_lock(&f->lock);
	p->made_by = NULL;
	if (k->err)
		p->id = 0;
	else
		p->c = k->c;
	if (once_only(k->c.nr))
		note(f, (unsigned)(p - f->calls->place), k->err ? NULL : &k->c, !k->err);
	pthread_mutex_unlock(&f->lock);
	making_put(k);
}

static int make(struct making *k)
{
	struct making *other;
	struct place *p;
	int what = look_up(k, &other, &p);

	if (what == 1) {
		while (!wait_done(other, CHILD_MS))
			;
		k->err = other->err;
		answer_from(&k->c, &other->c);
		making_put(other);
		return k->err;
	}
	if (what != 2)
		return what;
	if (k->c.nr == SYS_sendto) {
		k->c.ret = connect_send(k->f, &k->c, k->data, k->len);
		set_done(k, k->c.ret == -EAGAIN && !k->c.arg[3] ? -EAGAIN : 0); /* it waits for room over there */
		finished(k, p);
		return k->err;
	}
	atomic_fetch_add(&k->refs, 1);
	if (family_post(k->f, actor_make, k))
		making_put(k);
	while (!wait_done(k, ACTOR_MS)) {
		bool moving;

		pthread_mutex_lock(&k->f->lock);
		moving = k->f->moving; /* else the actor is merely busy */
		pthread_mutex_unlock(&k->f->lock);
		if (moving && claim(k)) {
			make_as_user(k);
			set_done(k, 0);
		}
	}
	finished(k, p);
	return k->err;
}

struct serving {
	struct rpc_request *rq;
	struct making *k;
};

static void *serve_main(void *arg)
{
	struct serving *s = arg;
	Sprite__Mig__CallRep rep = SPRITE__MIG__CALL_REP__INIT;
	int err = make(s->k);

	rep.ret = s->k->c.ret;
	rep.out = (ProtobufCBinaryData){ s->k->c.out_len, s->k->c.out };
	rpc_reply(s->rq, -err, &rep.base, NULL, 0, NULL, NULL);
	making_put(s->k);
	free(s);
	return NULL;
}

static struct making *making_new(struct family *f, const Sprite__Mig__CallReq *r)
{
	struct making *k = r->n_arg == 6 && r->in.len <= FOREIGN_MAX && r->out_len <= FOREIGN_MAX ? calloc(1, sizeof(*k)) : NULL;

	if (!k)
		return NULL;
	k->f = f;
	atomic_init(&k->refs, 1);
	pthread_mutex_init(&k->lock, NULL);
	pthread_cond_init(&k->cond, NULL);
	k->c = (struct eng_foreign){ .id = r->id, .pid = r->pid, .nr = r->nr, .in_arg = (int8_t)r->in_arg, .out_arg = (int8_t)r->out_arg, .in_len = (uint16_t)r->in.len,
		.out_len = (uint16_t)r->out_len };
	memcpy(k->c.arg, r->arg, sizeof(k->c.arg));
	if (r->in.len)
		memcpy(k->c.in, r->in.data, r->in.len);
	if (r->data.len && (k->data = malloc(r->data.len))) {
		memcpy(k->data, r->data.data, r->data.len);
		k->len = r->data.len;
	}
	if (k->len == r->data.len && (k->c.nr == SYS_sendto ? connect_send_valid(&k->c) : !k->len && foreign_valid(&k->c)))
		return k;
	k->f = NULL;
	making_put(k);
	return NULL;
}

void forward_serve(void *ctx, struct rpc_request *rq)
{
	struct migd *m = ctx;
	const Sprite__Mig__CallReq *r = (const Sprite__Mig__CallReq *)rpc_request_msg(rq)->msg;
	Sprite__Mig__CallRep no = SPRITE__MIG__CALL_REP__INIT;
	struct family *f = family_find(m->families, FAM_HOME, r->family);
	struct serving *s = NULL;
	int err = ESTALE;

	if (f) {
		pthread_mutex_lock(&f->lock);
		if (f->gen == r->gen && !strcmp(f->host, rpc_request_peer(rq)))
			err = 0;
		pthread_mutex_unlock(&f->lock);
	}
	if (!err && r->nr == SYS_connect) {
		connect_serve(f, rq);
		return;
	}
	if (!err) {
		s = calloc(1, sizeof(*s));
		if (s)
			*s = (struct serving){ rq, making_new(f, r) };
		if (s && s->k && !thread_run(serve_main, s))
			return;
		err = s && s->k ? ENOMEM : EINVAL;
		if (s && s->k) {
			s->k->f = NULL;
			making_put(s->k);
		}
		free(s);
	}
	rpc_reply(rq, err, &no.base, NULL, 0, NULL, NULL);
	family_put(f);
}
