// SPDX-License-Identifier: Apache-2.0
/*
 * Forwarded calls, see forward.h.
 *
 * Guest host: a thread a call, since the family's actor may just be waiting for the caller to stop (a freeze). It asks until it has an answer; a home that cannot be
 * reached for PATIENCE_S is EHOSTDOWN to the caller, and the call may or may not have been made, as with any lost link.
 * Home: the actor makes the call in the hollow. While the family is on its way the hollows are not to be had: then a thread with the family's ids makes it. Which of the
 * two does is decided by one compare-and-swap. What was answered is remembered (DONE calls): a call that is asked again is not made again.
 *
 * Locking: f->lock for the remembered answers.
 */
#include "migd/forward.h"
#include <errno.h>
#include <grp.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "conf/clock.h"
#include "conf/log.h"
#include "migd/hosts.h"

enum { CALL_MS = 3000, AGAIN_US = 20000, PATIENCE_S = 15, ACTOR_MS = 50, DONE = 64 };

/* ---- guest host ---- */

struct asking {
	struct family *f;
	struct eng_foreign c;
	int fd;
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
	int err;

	while ((err = ask(a)) && (host_lost(err) || err == -EAGAIN) && clock_mono_ns() < end)
		usleep(AGAIN_US);
	if (err)
		a->c.ret = host_lost(err) || err == -EAGAIN ? -EHOSTDOWN : -ESRCH;
	log_debug("family %s: call %d of %d about a process at home: %lld", a->f->id, a->c.nr, a->c.pid, (long long)a->c.ret);
	eng_call_answer(a->fd, &a->c);
	close(a->fd);
	family_put(a->f);
	free(a);
	return NULL;
}

void forward_call(struct family *f, const struct eng_foreign *c)
{
	struct asking *a = malloc(sizeof(*a));
	struct eng_foreign no = *c;
	int fd = eng_answer_fd(f->eng);

	if (a && fd >= 0) {
		*a = (struct asking){ family_get(f), *c, fd };
		if (!thread_run(ask_main, a))
			return;
		family_put(f);
	}
	no.ret = -EAGAIN;
	if (fd >= 0) {
		eng_call_answer(fd, &no);
		close(fd);
	}
	free(a);
}

/* ---- home ---- */

struct calls_done {
	struct eng_foreign c[DONE];
	unsigned next;
};

struct making {
	struct family *f;
	struct eng_foreign c;
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
	free(k);
}

static bool claim(struct making *k)
{
	int nobody = 0;

	return atomic_compare_exchange_strong(&k->claimed, &nobody, 1);
}

static int actor_make(struct family *f, void *arg)
{
	struct making *k = arg;

	if (claim(k)) {
		int err = f->eng ? eng_hollow_call(f->eng, &k->c) : -EAGAIN;

		pthread_mutex_lock(&k->lock);
		k->err = err;
		k->done = true;
		pthread_cond_broadcast(&k->cond);
		pthread_mutex_unlock(&k->lock);
	}
	making_put(k);
	return 0;
}

/* This thread becomes the family's user for good (raw calls: of this thread alone) and makes the call. */
static void make_as_user(struct making *k)
{
	struct eng_foreign *c = &k->c;
	uint64_t a[6];
	gid_t gid = k->f->gid;

	memcpy(a, c->arg, sizeof(a));
	if (c->in_arg >= 0)
		a[c->in_arg] = (uintptr_t)c->in;
	if (c->out_arg >= 0)
		a[c->out_arg] = (uintptr_t)c->out;
	if (syscall(SYS_setgroups, 1, &gid) || syscall(SYS_setresgid, gid, gid, gid) || syscall(SYS_setresuid, k->f->uid, k->f->uid, k->f->uid)) {
		c->ret = -EPERM;
		return;
	}
	c->ret = syscall(c->nr, a[0], a[1], a[2], a[3], a[4], a[5]);
	if (c->ret < 0)
		c->ret = -errno;
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

static void remember(struct family *f, const struct eng_foreign *c)
{
	pthread_mutex_lock(&f->lock);
	if (!f->calls_done)
		f->calls_done = calloc(1, sizeof(*f->calls_done));
	if (f->calls_done)
		f->calls_done->c[f->calls_done->next++ % DONE] = *c;
	pthread_mutex_unlock(&f->lock);
}

static bool recall(struct family *f, struct eng_foreign *c)
{
	bool found = false;

	pthread_mutex_lock(&f->lock);
	for (unsigned i = 0; f->calls_done && i < DONE && !found; i++) {
		const struct eng_foreign *d = &f->calls_done->c[i];

		found = d->id == c->id && d->pid == c->pid && d->nr == c->nr;
		if (found)
			*c = *d;
	}
	pthread_mutex_unlock(&f->lock);
	return found;
}

static int make(struct making *k)
{
	if (recall(k->f, &k->c))
		return 0;
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
			break;
		}
	}
	if (!k->err)
		remember(k->f, &k->c);
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
	if (foreign_valid(&k->c))
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
