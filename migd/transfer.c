// SPDX-License-Identifier: Apache-2.0
/* Image transfer: see transfer.h. The state tables say what may happen when (migrate.h); this file does it. */
#include "migd/transfer.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/fault.h"
#include "conf/log.h"
#include "migd/cgroup.h"
#include "migd/direct.h"
#include "migd/evict.h"
#include "migd/guest_parts.h"
#include "migd/home.h"
#include "migd/hooks.h"
#include "migd/outbox.h"
#include "migd/relays.h"

enum { OPEN_TRIES = 20, OPEN_AGAIN_US = 100000, PRECOPY_MS = 30000, FRAME_MAX = 1 << 20, SOCKET_BUF = 4 << 20, ANSWER_MS = 120000, DIRECT_FROM = 8 << 20, DRAIN_MS = 2000, HOLD_MS = 3000, FLUSH_MS = 5000 };

static int image_pair(int sv[2])
{
	int size = SOCKET_BUF;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv))
		return -errno;
	for (int i = 0; i < 2; i++)
		if (setsockopt(sv[i], SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)))
			setsockopt(sv[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	return 0;
}

/* An engine call that runs in the actor while this thread pumps. */
struct engine_job {
	struct family *f;
	int fd;
	int (*work)(struct family *f, int fd, struct error *e);
	struct rpc_stream *from; /* what is pumped in; NULL: it is pumped out */
	struct error e;
	int result;
	bool done;
	pthread_mutex_t lock;
	pthread_cond_t cond;
};

static int engine_job_run(struct family *f, void *arg)
{
	struct engine_job *j = arg;
	int r = j->work(f, j->fd, &j->e);

	shutdown(j->fd, r ? SHUT_RDWR : SHUT_WR);
	if (r && j->from) /* the sender may be waiting for our word, and the pump for him */
		rpc_stream_unwanted(j->from);
	pthread_mutex_lock(&j->lock);
	j->result = r;
	j->done = true;
	pthread_cond_broadcast(&j->cond);
	pthread_mutex_unlock(&j->lock);
	return 0;
}

static int engine_job_start(struct engine_job *j)
{
	pthread_mutex_init(&j->lock, NULL);
	pthread_cond_init(&j->cond, NULL);
	return family_post(j->f, engine_job_run, j);
}

static int engine_job_wait(struct engine_job *j)
{
	pthread_mutex_lock(&j->lock);
	while (!j->done)
		pthread_cond_wait(&j->cond, &j->lock);
	pthread_mutex_unlock(&j->lock);
	pthread_cond_destroy(&j->cond);
	pthread_mutex_destroy(&j->lock);
	return j->result;
}

/* ---- source ---- */

struct freeze_arg {
	struct error *e;
	bool goes_home;
};

/* What it may not take along to a new home it may have got since that was looked at first. */
static int look_again(struct family *f, struct eng_reasons *why)
{
	int r = eng_explain_rehome(f->pid, f->m->conf->mount, why);

	if (r)
		transfer_thaw(f, NULL);
	return r;
}

static int actor_freeze(struct family *f, void *arg)
{
	struct freeze_arg *a = arg;
	struct eng_reasons why = { 0 };
	struct eng_hooks hooks;
	int r;

	hooks_of(f, &hooks);
	hooks.goes_home = a->goes_home;
	r = eng_freeze(f->pid, &hooks, &f->eng, &why, a->e);
	if (r == 0 && f->role == FAM_HOME && f->adopt)
		r = look_again(f, &why);
	if (r > 0 || (r < 0 && why.n)) {
		const char *what = f->role == FAM_HOME && f->adopt ? "change its home" : "move";

		if (why.n == 1)
			error_set(a->e, EOPNOTSUPP, "cannot %s: %s", what, why.line[0]);
		else
			error_set(a->e, EOPNOTSUPP, "cannot %s: %s (and %zu more reasons: mig explain %d)", what, why.n ? why.line[0] : "?",
				why.n ? why.n - 1 : 0, f->pid);
		eng_reasons_clear(&why);
		return -EOPNOTSUPP;
	}
	eng_reasons_clear(&why);
	if (r == 0 && f->role == FAM_GUEST)
		family_events(f); /* what it has said so far */
	return r ? error_set(a->e, -r, "%d (%s) cannot be stopped: %s", f->pid, f->comm, strerror(-r)) : 0;
}

int transfer_thaw(struct family *f, void *unused)
{
	(void)unused;
	if (!f->eng)
		return 0;
	eng_thaw(f->eng);
	if (f->role == FAM_HOME)
		f->eng = NULL; /* freed; on a guest host it goes on */
	return 0;
}

/* In the actor. The family is frozen: pids of all its processes become members (at home they will be hollows). */
static void add_members(struct family *f)
{
	size_t n;
	const pid_t *p = eng_pids(f->eng, &n);

	pthread_mutex_lock(&f->lock);
	for (size_t i = 0; i < n; i++)
		if (!family_member(f, p[i]))
			family_add_member(f, p[i], 0, eng_name(f->eng, p[i]), true);
	pthread_mutex_unlock(&f->lock);
}

static int work_dump(struct family *f, int fd, struct error *e)
{
	int r = eng_dump(f->eng, fd, e);

	/* The destination has work for longer than this takes. */
	shutdown(fd, r ? SHUT_RDWR : SHUT_WR);
	if (!r && f->role == FAM_HOME) {
		f->no_pipes = !eng_holds_pipes(f->eng);
		add_members(f);
		home_actor_saved(f);
	} else if (!r) {
		guest_actor_journal(f, NULL);
	}
	return r;
}

/* Opens the stream and says whose image it will be. */
static int stream_begin(struct family *f, struct send_plan *p, struct rpc_stream **out, struct error *e)
{
	Sprite__Mig__ImageFrame frame = SPRITE__MIG__IMAGE_FRAME__INIT;
	int err = -EHOSTDOWN;

	frame.family = f->id;
	frame.gen = p->to_gen;
	for (int i = 0; i < OPEN_TRIES && host_lost(err); i++) { /* a channel that waits to connect again fails at once */
		if (i)
			usleep(OPEN_AGAIN_US);
		err = rpc_stream_open(host_bulk_channel(p->dest), &mig_methods[MIG_IMAGE], -1, out);
		if (err)
			continue;
		err = rpc_stream_send(*out, &frame.base, NULL, 0);
		if (err)
			rpc_stream_finish(*out, 0);
	}
	return err ? error_set(e, -err, "%s does not answer: %s", host_name(p->dest), strerror(-err)) : 0;
}

static uint64_t frozen_ms(uint64_t t0)
{
	return (clock_mono_ns() - t0) / 1000000;
}

/* t0: when the freeze began, 0: not yet. */
static bool too_long(const struct send_plan *p, uint64_t t0, struct error *e)
{
	if (!t0 || !p->max_freeze_ms || frozen_ms(t0) < p->max_freeze_ms)
		return false;
	error_set(e, ETIME, "it would be frozen for more than %u ms (--max-freeze)", p->max_freeze_ms);
	return true;
}

/* One part of the image on its way. */
struct part {
	struct family *f;
	struct send_plan *p;
	struct rpc_stream *s;
	struct rpc_raw *raw; /* since some of it: it goes by this one, and not by the stream */
	uint64_t t0;	     /* when the freeze began, 0: not yet */
	uint64_t bytes, by_raw;
	bool asked;
};

static int send_piece(struct part *t, char *p, size_t n, struct error *e)
{
	Sprite__Mig__ImageFrame frame = SPRITE__MIG__IMAGE_FRAME__INIT;
	struct iovec v = { p, n };

	/* A connection takes some milliseconds to make, and to be refused some seconds: not while the family stands still. */
	if (!t->asked && !t->t0 && t->bytes >= DIRECT_FROM) {
		int err = direct_open(t->f->m, t->p->dest, t->s, &t->raw, e);

		t->asked = true;
		if (err)
			return err;
	}
	t->bytes += n;
	if (!t->raw)
		return rpc_stream_send(t->s, &frame.base, &v, 1);
	t->by_raw += n;
	return direct_send(t->raw, t->s, p, n);
}

/* Sends what comes out of fd. 0 at its end. */
static int pump_out(struct part *t, int fd, struct error *e)
{
	_cleanup_free_ char *buf = malloc(FRAME_MAX);
	int err = 0;

	if (!buf)
		return error_set(e, ENOMEM, "out of memory");
	while (!err) {
		ssize_t n = recv(fd, buf, FRAME_MAX, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : 0;
		if (too_long(t->p, t->t0, e))
			return -ETIME;
		evict_throttle(t->f, (size_t)n);
		err = send_piece(t, buf, (size_t)n, e);
		t->p->bytes += n;
		atomic_store(&t->f->carried, t->p->bytes);
	}
	return err;
}

static int pump_part(struct part *t, int fd, struct error *e)
{
	int err = pump_out(t, fd, e), over = t->raw ? direct_close(t->raw, t->s, err ? UINT64_MAX : t->by_raw) : 0;

	return err ? err : over;
}

/* The destination's word: what was sent ahead is in place (or, the second time, filled and parked), or why not. */
static int read_answer(struct send_plan *p, struct rpc_stream *s, uint64_t t0, struct error *e)
{
	const Sprite__Mig__ImageFrame *a;
	int r, wait = ANSWER_MS;
	struct rpc_msg m;

	if (too_long(p, t0, e))
		return -ETIME;
	if (t0 && p->max_freeze_ms) {
		uint64_t frozen = frozen_ms(t0);

		wait = frozen < p->max_freeze_ms ? (int)(p->max_freeze_ms - frozen) : 0;
	}
	r = rpc_stream_recv(s, &m, wait);
	if (too_long(p, t0, e)) {
		if (r == 1)
			rpc_msg_clear(&m);
		return -ETIME;
	}
	if (r == 0)
		return error_set(e, EPROTO, "%s did not say whether it took the image", host_name(p->dest));
	if (r < 0)
		return error_set(e, -r, "%s: lost while the image was on its way: %s", host_name(p->dest), strerror(-r));
	a = (const Sprite__Mig__ImageFrame *)m.msg;
	r = a->err ? error_set(e, a->err, "%s: %s", host_name(p->dest), a->text) : 0;
	rpc_msg_clear(&m);
	return r;
}

/* Lets the engine write in the actor while this thread sends. Returns what became of the sending, *engine what became of the writing. */
static int stream_part(struct family *f, struct send_plan *p, struct rpc_stream *s, struct engine_job *job, uint64_t t0, int *engine, struct error *e)
{
	_cleanup_close_ int ours = -1, theirs = -1;
	struct part part = { .f = f, .p = p, .s = s, .t0 = t0 };
	int sv[2], err = image_pair(sv);

	*engine = -EIO;
	if (err)
		return error_set(e, -err, "socketpair: %s", strerror(-err));
	ours = sv[0];
	theirs = sv[1];
	job->f = f;
	job->fd = theirs;
	err = engine_job_start(job);
	if (err)
		return error_set(e, -err, "out of memory");
	err = pump_part(&part, ours, e);
	shutdown(ours, SHUT_RDWR);
	*engine = engine_job_wait(job);
	return err;
}

static int work_precopy(struct family *f, int fd, struct error *e)
{
	struct eng_hooks hooks;
	int r;

	hooks_of(f, &hooks);
	hooks.goes_home = f->goes_home;
	r = eng_precopy(f->pid, fd, PRECOPY_MS, &hooks, &f->eng, e);
	return r < 0 ? r : 0;
}

/* At home the object of a pre-copy is of no use without the freeze; on a guest host it is the family's own. */
static int actor_give_up_precopy(struct family *f, void *unused)
{
	(void)unused;
	if (f->role == FAM_HOME && f->eng) {
		eng_thaw(f->eng);
		f->eng = NULL;
	} else if (f->eng) {
		eng_precopy_over(f->eng);
	}
	return 0;
}

/* Sends ahead what can be while the family runs on. *out: the stream, to go on with. */
static int precopy(struct family *f, struct send_plan *p, struct rpc_stream **out, struct error *e)
{
	struct engine_job job = { .work = work_precopy };
	struct rpc_stream *s;
	int err = stream_begin(f, p, &s, e), r;

	if (err)
		return err;
	err = stream_part(f, p, s, &job, 0, &r, e);
	if (!err && r)
		err = error_set(e, -r, "%s", job.e.code ? job.e.text : strerror(-r));
	if (!err && p->bytes) {
		err = read_answer(p, s, 0, e);
	} else if (err == -EPIPE) {
		err = read_answer(p, s, 0, e);
		if (!err)
			err = error_set(e, EPROTO, "%s ended the image early", host_name(p->dest));
	}
	if (!err) {
		*out = s;
		return 0;
	}
	rpc_stream_cancel(s);
	rpc_stream_finish(s, 0);
	family_call(f, actor_give_up_precopy, NULL);
	return err;
}

/* The end of the stream is waited for when nobody stands still any more. */
void transfer_sent(struct send_plan *p)
{
	if (p->stream)
		rpc_stream_finish(p->stream, 0);
	p->stream = NULL;
}

/* s: the stream of a pre-copy, NULL: none. Ends it, or leaves that to transfer_sent(). */
static int stream_image(struct family *f, struct send_plan *p, struct rpc_stream *s, uint64_t t0, struct error *e)
{
	struct engine_job job = { .work = work_dump };
	int err = s ? 0 : stream_begin(f, p, &s, e), r;

	if (err)
		return err;
	err = stream_part(f, p, s, &job, t0, &r, e);
	if (r && job.e.code && err != -EPIPE && !(e && e->code)) {
		/* The dump itself failed: the half image must not be taken for a whole one. */
		error_set(e, job.e.code, "%s", job.e.text);
		err = r;
	}
	if (!err && r)
		err = error_set(e, -r, "the image could not be taken: %s", strerror(-r));
	if (!err) {
		rpc_stream_done_sending(s);
		err = read_answer(p, s, t0, e);
	} else if (err == -EPIPE) {
		err = read_answer(p, s, t0, e); /* it ended early, and says why */
		if (!err)
			err = error_set(e, EPROTO, "%s ended the image early", host_name(p->dest));
	}
	p->stream = s;
	if (err) {
		rpc_stream_cancel(s);
		transfer_sent(p);
	}
	return err;
}

static int give_up(struct family *f, struct send_plan *p, enum mig_event ev)
{
	enum mig_action act;

	pthread_mutex_lock(&f->lock);
	mig_step(p->machine, ev, &act);
	pthread_mutex_unlock(&f->lock);
	if (act == MA_THAW) {
		if (!f->exec_entry)
			family_call(f, transfer_thaw, NULL);
		pthread_mutex_lock(&f->lock);
		mig_step(p->machine, ME_OK, &act);
		pthread_mutex_unlock(&f->lock);
	}
	if (f->role == FAM_GUEST) {
		relays_resume(f->relays);
		pthread_mutex_lock(&f->lock);
		if (f->evicting)
			guest_freeze(f, true); /* it stays, but off the CPU; its home is asked again */
		pthread_mutex_unlock(&f->lock);
	}
	return 0;
}

static int send_family(struct family *f, struct send_plan *p, struct error *e)
{
	struct freeze_arg a = { .e = e, .goes_home = f->role == FAM_GUEST && !strcmp(host_name(p->dest), f->home) };
	enum mig_action act = MA_NONE;
	struct rpc_stream *s = NULL;
	uint64_t t0;
	int err;

	pthread_mutex_lock(&f->lock);
	err = mig_step(p->machine, ME_START, &act);
	if (!err && f->role == FAM_GUEST && f->evicting)
		guest_freeze(f, false); /* injected code does not run in a frozen group; the engine stops it in a moment */
	pthread_mutex_unlock(&f->lock);
	if (err)
		return error_set(e, EBUSY, "%d (%s) is on its way already", f->pid, f->comm);
	f->m->images++;
	fault_point("freeze");
	f->goes_home = a.goes_home;
	f->to_gen = p->to_gen;
	/* Nothing goes ahead of who stands still: a program that has just been called, and who is evicted and has run here for the last time. */
	err = f->exec_entry || f->evicting ? 0 : precopy(f, p, &s, e);
	/* A connection that it has not accepted cannot be put back into its queue at home. Who is evicted does not run, and loses it. */
	int held = !err && f->role == FAM_GUEST && !f->evicting ? relays_hold(f->relays, HOLD_MS) : 0;

	if (held == -ETIME)
		err = error_set(e, ETIME, "sprite-relay of %s, which has its pipes, does not answer", f->m->conf->name);
	else if (held == -EAGAIN)
		err = error_set(e, EBUSY, "messages wait in a unix seqpacket socket that %d (%s) does not read: try again later", f->pid, f->comm);
	else if (held == -EBUSY && a.goes_home)
		err = error_set(e, EBUSY, "a connection has come in that %d (%s) does not accept: try again later", f->pid, f->comm);
	if (!err)
		err = family_call(f, actor_freeze, &a);
	if (err && s) {
		family_call(f, actor_give_up_precopy, NULL);
		rpc_stream_cancel(s);
		rpc_stream_finish(s, 0);
	}
	pthread_mutex_lock(&f->lock);
	mig_step(p->machine, err ? ME_FAIL : ME_OK, &act);
	pthread_mutex_unlock(&f->lock);
	if (err && f->role == FAM_GUEST)
		relays_resume(f->relays);
	if (err)
		return err;
	t0 = eng_frozen_ns(f->eng);
	if (f->role == FAM_GUEST) {
		/* What it has said so far arrives before it does: reports, output, unread input. */
		err = outbox_flush(f->outbox, FLUSH_MS);
		if (err)
			error_set(e, ETIMEDOUT, "%s does not take the reports of %d", f->home, f->pid);
		if (!err && (err = relays_quiesce(f->relays, DRAIN_MS)))
			error_set(e, -err, err == -ETIME ? "what relays the pipes of %d (%s) does not answer" : "the output of %d (%s) is not read at its home: let its reader go on, then try again", f->pid, f->comm);
	}
	fault_point("dump");
	if (!err) {
		err = stream_image(f, p, s, t0, e);
	} else if (s) {
		rpc_stream_cancel(s);
		rpc_stream_finish(s, 0);
	}
	if (err) {
		give_up(f, p, ME_FAIL);
		return err;
	}
	p->frozen_ns = t0;
	f->image_bytes = p->bytes;
	fault_point("sent");
	pthread_mutex_lock(&f->lock);
	mig_step(p->machine, ME_OK, &act);
	pthread_mutex_unlock(&f->lock);
	return 0;
}

int transfer_send(struct family *f, struct send_plan *p, struct error *e)
{
	int err = send_family(f, p, e);

	if (err && e && !e->code)
		error_set(e, -err, "%s: lost while the image was on its way: %s", host_name(p->dest), strerror(-err));
	return err;
}

/* ---- destination ---- */

/* The owner of this host came back while the image is on its way in: before it is whole its home has committed to nothing, and it runs on where it is. */
static bool wanted_back(struct family *f)
{
	bool yes;

	pthread_mutex_lock(&f->lock);
	yes = f->role == FAM_GUEST && f->evicting && !f->adopt;
	pthread_mutex_unlock(&f->lock);
	return yes;
}

struct inlet {
	struct family *f;
	int fd;
};

/* Gives some of the image to the engine. 1; -EBUSY: the owner is back; -EPIPE: the engine has given up, and its reason comes from its job. */
static int take_in(void *arg, const char *p, size_t left)
{
	struct inlet *in = arg;
	int r = wanted_back(in->f) ? -EBUSY : 1;

	in->f->image_bytes += left;
	atomic_store(&in->f->carried, in->f->image_bytes);
	while (left && r == 1) {
		ssize_t n = send(in->fd, p, left, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			r = -EPIPE;
		else
			p += n, left -= (size_t)n;
	}
	return r;
}

/* 0: whole; -EBUSY: broken off for the owner; other errors: the stream's, or -EPIPE: the engine has given up. */
static int pump_in(struct family *f, struct rpc_stream *s, int fd)
{
	struct inlet in = { f, fd };
	const struct direct_sink sink = { take_in, &in, fd };
	struct rpc_msg m;
	int r;

	f->image_bytes = 0;
	while ((r = rpc_stream_recv(s, &m, -1)) == 1) {
		for (int i = 0; i < m.niov && r == 1; i++)
			r = take_in(&in, m.iov[i].iov_base, m.iov[i].iov_len);
		if (r == 1)
			r = direct_serve(f->m, s, (const Sprite__Mig__ImageFrame *)m.msg, &sink);
		rpc_msg_clear(&m);
		if (r != 1)
			break;
	}
	return r;
}

/* What a vessel does at the lowest weight it does late on a busy host. */
static void arrival(struct family *f, bool begins)
{
	if (f->role == FAM_GUEST && f->m->cgroups)
		cgroups_arrival(f->m->cgroups, begins);
}

static int work_fill(struct family *f, int fd, struct error *e)
{
	struct eng_hooks hooks;
	int err = 0;

	arrival(f, true);
	hooks_of(f, &hooks);
	fault_point("fill");
	if (f->role == FAM_GUEST)
		err = guest_nest(f, fd, &hooks, e);
	else if (!f->eng)
		err = error_set(e, ESRCH, "the hollows of %d are gone", f->pid);
	if (!err)
		err = eng_fill(f->eng, fd, &hooks, e);
	f->whole = !err;
	if (!err && f->role == FAM_GUEST) /* what a restarted migd would not find must not be committed to */
		err = guest_note(f, e);
	if (!err && f->role == FAM_GUEST && f->adopt)
		eng_adopt_noted(f->eng);
	if (err && f->eng) {
		eng_abandon(f->eng);
		if (f->role == FAM_GUEST)
			f->eng = NULL;
	}
	if (!err && f->role == FAM_HOME)
		home_actor_saved(f);
	arrival(f, false);
	return err;
}

/* Whose image is it, and do we expect it from him? */
static struct family *image_family(struct migd *m, const char *peer, const Sprite__Mig__ImageFrame *first, struct error *e)
{
	struct family *f = family_find(m->families, FAM_GUEST, first->family);
	enum mig_action act = MA_NONE;
	bool ok = false;

	if (f) {
		pthread_mutex_lock(&f->lock);
		ok = f->gen == first->gen && !strcmp(f->source, peer) && f->machine.state == MD_READY && !family_step(f, ME_IMAGE, &act);
		pthread_mutex_unlock(&f->lock);
	} else {
		f = family_find(m->families, FAM_HOME, first->family);
		if (f) {
			pthread_mutex_lock(&f->lock);
			ok = f->moving && f->attempt == first->gen && !strcmp(f->dest, m->conf->name) && !strcmp(f->host, peer);
			pthread_mutex_unlock(&f->lock);
		}
	}
	if (ok)
		return f;
	error_set(e, ESTALE, "this image was not expected here");
	family_put(f);
	return NULL;
}

static void filled(struct family *f, int err)
{
	enum mig_action act = MA_NONE;

	pthread_mutex_lock(&f->lock);
	if (f->role == FAM_HOME) {
		f->filled = !err;
		pthread_mutex_unlock(&f->lock);
		return;
	}
	if (f->machine.state == MD_FILLING)
		family_step(f, err ? ME_FAIL : ME_OK, &act);
	pthread_mutex_unlock(&f->lock);
	if (act == MA_ABANDON) /* work_fill() has done it */
		guest_forget(f);
}

static int fill_from(struct family *f, struct rpc_stream *s, struct error *e)
{
	struct engine_job job = { .f = f, .work = work_fill, .from = s };
	_cleanup_close_ int ours = -1, theirs = -1;
	int sv[2], err, r;

	err = image_pair(sv);
	if (err)
		return error_set(e, -err, "socketpair: %s", strerror(-err));
	ours = sv[0];
	theirs = sv[1];
	job.fd = theirs;
	f->image = s;
	err = engine_job_start(&job);
	if (err)
		return error_set(e, -err, "out of memory");
	r = pump_in(f, s, ours);
	shutdown(ours, r ? SHUT_RDWR : SHUT_WR);
	err = engine_job_wait(&job);
	f->image = NULL;
	if (err && r == -EBUSY)
		return error_set(e, EBUSY, "in use again");
	if (err && job.e.code)
		return error_set(e, job.e.code, "%s", job.e.text);
	if (err)
		return error_set(e, -err, "the image cannot be brought to life: %s", strerror(-err));
	if (r && r != -EPIPE) /* EPIPE: trailing bytes that the engine had no use for */
		log_debug("family %s: image stream: %s", f->id, strerror(-r));
	return 0;
}

void transfer_serve(void *ctx, struct rpc_stream *s)
{
	struct migd *m = ctx;
	Sprite__Mig__ImageFrame answer = SPRITE__MIG__IMAGE_FRAME__INIT;
	struct error e = { 0 };
	struct rpc_msg first;
	struct family *f = NULL;
	int err = rpc_stream_recv(s, &first, 10000);

	if (err != 1) {
		rpc_stream_finish(s, EPROTO);
		return;
	}
	f = image_family(m, rpc_stream_peer(s), (const Sprite__Mig__ImageFrame *)first.msg, &e);
	rpc_msg_clear(&first);
	err = f ? fill_from(f, s, &e) : -ESTALE;
	m->images++;
	if (f)
		filled(f, err);
	if (!err)
		fault_point("prepared");
	answer.err = err ? (e.code ? e.code : -err) : 0;
	answer.text = e.text;
	rpc_stream_send(s, &answer.base, NULL, 0);
	rpc_stream_finish(s, 0);
	if (err)
		log_note("an image was not taken: %s", e.text);
	family_put(f);
}
