// SPDX-License-Identifier: Apache-2.0
/* Driver of a move at the home; see move.h. Decisions are in migrate.c, this file only does what the table says. */
#include "migd/move.h"
#include "migd/access.h"
#include <errno.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "conf/clock.h"
#include "conf/log.h"
#include "migd/agent.h"
#include "conf/fault.h"
#include "migd/home.h"
#include "migd/hosts.h"
#include "migd/journal.h"
#include "migd/outbox.h"
#include "migd/relays.h"
#include "migd/relay_rpc.h"
#include "migd/stats.h"
#include "migd/ticker.h"
#include "migd/transfer.h"

enum { PREPARE_MS = 30000, RELEASE_MS = 3000, GO_MS = 3000, ABORT_MS = 2000, AGAIN_US = 200000, STILL_MS = 20 };

struct move {
	struct family *f;
	struct migd *m;
	const struct move_opts *o;
	struct error *e;
	struct host *source, *dest; /* NULL: this host */
	char source_name[HOST_NAME_MAX_];
	uint64_t gen, old_gen; /* of this attempt; decided before */
	uint64_t signal_seq;
	struct mig_machine source_machine; /* when the source is this host */
	struct move_result res;
	enum stats_cause cause;
	uint64_t start_ns, frozen_at;
	bool granted;
	bool doubtful; /* the COMMIT could not be written, and perhaps is there */
	struct release *release; /* under way */
	struct send_plan plan;	 /* when the source is this host */
};

static void say(struct move *v, const char *text)
{
	if (v->o && v->o->progress)
		v->o->progress(v->o->arg, text);
}

/* ok / fail / nobody knows */
static enum mig_event event_of(int err)
{
	return !err ? ME_OK : host_lost(err) ? ME_LOST : ME_FAIL;
}

/* ---- the actions ---- */

static int do_check(struct move *v)
{
	const char *self = v->m->conf->name, *dest = v->o->dest;

	if (!strcmp(dest, v->source_name))
		return error_set(v->e, EALREADY, "%d (%s) is on %s already", v->f->pid, v->f->comm, dest);
	if (strcmp(dest, self)) {
		v->dest = hosts_find(v->m->hosts, dest, v->e);
		if (!v->dest)
			return -ENXIO;
	}
	if (strcmp(v->source_name, self)) {
		v->source = hosts_find(v->m->hosts, v->source_name, v->e);
		if (!v->source)
			return -ENXIO;
	}
	/* One that is cut off is noticed before anything depends on it; from there on calls are repeated for as long as it takes. */
	if (v->dest && !v->o->answers && host_answers(v->dest, v->e))
		return -EHOSTDOWN;
	return v->source ? host_answers(v->source, v->e) : 0;
}

static int do_prepare(struct move *v)
{
	Sprite__Mig__PrepareReq r = SPRITE__MIG__PREPARE_REQ__INIT;
	struct family *f = v->f;
	int err;

	if (!v->dest)
		return 0; /* the hollows are always prepared */
	err = f->adopt ? 0 : access_grant(v->m, host_name(v->dest), f->uid, f->id, v->e);
	if (err)
		return err;
	v->granted = !f->adopt;
	r.family = f->id;
	r.gen = v->gen;
	r.home = f->home;
	r.source = v->source_name;
	r.uid = f->uid;
	r.gid = f->gid;
	r.pid = f->pid;
	r.comm = f->comm;
	r.hostname = f->home;
	r.committed = v->old_gen;
	r.at = v->source_name;
	r.cpu = (char *)eng_cpu_features((const char *const *)v->m->conf->cpu_hide);
	r.eviction = v->o->eviction;
	r.assigned = v->o->slot != 0;
	r.stuck_kill_s = f->stuck_kill_s;
	r.adopt = f->adopt;
	eng_clocks(&r.mono, &r.boot);
	fault_point("prepare");
	return host_call(v->dest, MIG_PREPARE, &r.base, PREPARE_MS, NULL, v->e);
}

static int send_from_here(struct move *v)
{
	int err;

	v->plan = (struct send_plan){ .dest = v->dest, .to_gen = v->gen, .max_freeze_ms = v->o->max_freeze_ms, .machine = &v->source_machine };
	v->source_machine.state = MS_RUNNING;
	err = transfer_send(v->f, &v->plan, v->e);
	v->res.bytes = v->plan.bytes;
	v->frozen_at = v->plan.frozen_ns;
	return err;
}

static int send_from_there(struct move *v)
{
	Sprite__Mig__SendReq r = SPRITE__MIG__SEND_REQ__INIT;
	const Sprite__Mig__SendRep *rep;
	struct rpc_msg out;
	int err;

	r.family = v->f->id;
	r.gen = v->old_gen;
	r.to_gen = v->gen;
	r.dest = (char *)v->o->dest;
	r.max_freeze_ms = v->o->max_freeze_ms;
	err = host_call_long(v->source, MIG_SEND, &r.base, &out, v->e);
	if (err)
		return err;
	rep = (const Sprite__Mig__SendRep *)out.msg;
	v->signal_seq = rep->signal_seq;
	v->res.bytes = rep->bytes;
	v->frozen_at = clock_mono_ns() - rep->frozen_ns;
	rpc_msg_clear(&out);
	return 0;
}

static int do_send(struct move *v)
{
	struct ticker t;
	int err;

	say(v, "sending");
	ticker_start(&t, v->f, v->o);
	err = v->source ? send_from_there(v) : send_from_here(v);
	ticker_stop(&t);
	return err;
}

/* The decision. What follows may only go forward. */
static int do_commit(struct move *v)
{
	struct family *f = v->f;
	int err;

	fault_point("commit");
	err = home_journal_commit(f, v->gen, v->o->dest, v->signal_seq);
	v->doubtful = err > 0;
	if (err)
		return error_set(v->e, v->doubtful ? EIO : -err, "the journal of %s cannot be written: %s", v->m->conf->name, strerror(v->doubtful ? EIO : -err));
	fault_point("committed");
	outbox_delivered(f->outbox, v->signal_seq);
	pthread_mutex_lock(&f->lock);
	f->gen = v->gen;
	f->report_seq = 0;
	strcpy(f->host, v->o->dest);
	f->dest[0] = 0;
	f->since = clock_real_ns();
	pthread_mutex_unlock(&f->lock);
	relay_rpc_close(f);
	if (v->dest)
		relays_reset(f->relays, v->gen);
	else
		relays_unread(f->relays);
	return 0;
}

static int do_uncommit(struct move *v)
{
	int err = v->doubtful ? journal_write(v->m->journal, journal_record("abort", v->f->id, v->gen)) : 0;

	if (err) {
		log_error("family %s: the journal can neither be written nor taken back (%s): it stays frozen until it can", v->f->id, strerror(err < 0 ? -err : EIO));
		usleep(AGAIN_US * 5);
	}
	return err > 0 ? -EIO : err;
}

struct release {
	struct family *f;
	struct host *source;
	uint64_t gen;
	sem_t over;
	atomic_int refs; /* the call's thread, the move */
};

static void release_put(struct release *l)
{
	if (!l || atomic_fetch_sub(&l->refs, 1) != 1)
		return;
	sem_destroy(&l->over);
	family_put(l->f);
	free(l);
}

static void *release_main(void *arg)
{
	Sprite__Mig__FamilyReq r = SPRITE__MIG__FAMILY_REQ__INIT;
	struct release *l = arg;

	r.family = l->f->id;
	r.gen = l->gen;
	host_call(l->source, MIG_RELEASE, &r.base, RELEASE_MS, NULL, NULL);
	sem_post(&l->over);
	release_put(l);
	return NULL;
}

/*
 * It has been parked in doubt since it said SENT, and only this home could let it run: nobody waits for its answer, least of all the frozen family. If the call
 * is lost it asks, and is told to drop it.
 */
static int do_release(struct move *v)
{
	struct release *l;

	if (!v->source)
		return 0; /* parked, and nobody but this driver could wake it */
	l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	l->f = family_get(v->f);
	l->source = v->source;
	l->gen = v->old_gen;
	sem_init(&l->over, 0, 0);
	atomic_init(&l->refs, 2);
	v->release = l;
	if (!thread_run(release_main, l))
		return 0;
	v->release = NULL;
	release_put(l);
	release_put(l);
	return -ENOMEM;
}

static void deliver_here(const struct family *f, pid_t pid, pid_t tid, siginfo_t *info)
{
	long r = f->eng ? eng_queue_put(f->eng, pid, tid, info) : -1;

	if (r && info->si_code < 0 && info->si_code != SI_TKILL)
		r = tid ? syscall(SYS_rt_tgsigqueueinfo, pid, tid, info->si_signo, info) : syscall(SYS_rt_sigqueueinfo, pid, info->si_signo, info);
	if (r)
		r = tid ? syscall(SYS_tgkill, pid, tid, info->si_signo) : kill(pid, info->si_signo);
	if (r && errno != ESRCH)
		log_warn("family %s: signal %d for %d is lost: %s", f->id, info->si_signo, pid, strerror(errno));
}

/* Signals that came for it on its way home. */
void move_deliver_here(struct family *f)
{
	outbox_deliver(f->outbox, deliver_here);
}

static int actor_resume_home(struct family *f, void *arg)
{
	struct move *v = arg;
	int err;

	if (!f->eng)
		return error_set(v->e, ESRCH, "its hollows are gone");
	family_events(f); /* a signal that a hollow had taken */
	if (outbox_waiting(f->outbox, STILL_MS)) { /* not if one is still on its way: nobody waits for a host that does not answer now */
		eng_queue_open(f->eng);
		move_deliver_here(f);
		eng_queue_close(f->eng);
	}
	err = eng_resume(f->eng, v->e);
	f->eng = NULL;
	return err;
}

static bool given_up(struct family *f)
{
	bool yes;

	pthread_mutex_lock(&f->lock);
	yes = f->given_up;
	pthread_mutex_unlock(&f->lock);
	return yes;
}

static int actor_let_go(struct family *f, void *unused)
{
	(void)unused;
	return f->eng ? eng_let_go(f->eng) : 0;
}

static int do_go(struct move *v)
{
	Sprite__Mig__FamilyReq r = SPRITE__MIG__FAMILY_REQ__INIT;
	struct error e = { 0 };
	int err;

	if (!v->dest) {
		err = family_call(v->f, actor_resume_home, v);
		fault_point("running");
		if (!err)
			move_deliver_here(v->f);
	} else if (given_up(v->f)) {
		err = error_set(v->e, ESRCH, "its host is lost: a person has said so (mig resolve)");
	} else {
		if (!v->source && !v->f->no_pipes)
			family_call(v->f, actor_let_go, NULL);
		r.family = v->f->id;
		r.gen = v->gen;
		r.signal_seq = v->signal_seq;
		err = host_call(v->dest, MIG_GO, &r.base, GO_MS, NULL, &e);
		if (err == -ESRCH)
			error_set(v->e, ESRCH, "%s", e.text);
		else if (err && !host_lost(err)) { /* only "I do not have it" means that it is lost: anything else is asked again */
			log_note("family %s: %s cannot let it run yet: %s", v->f->id, host_name(v->dest), e.text);
			err = -EHOSTDOWN;
		}
	}
	if (!err && v->frozen_at)
		v->res.frozen_ns = clock_mono_ns() - v->frozen_at;
	if (host_lost(err)) {
		say(v, "decided; waiting for the destination to answer");
		usleep(AGAIN_US);
	}
	return err;
}

static int actor_hollow(struct family *f, void *arg)
{
	struct move *v = arg;
	struct error e = { 0 };
	int err;

	(void)v;
	if (!f->eng || !strcmp(eng_state_name(f->eng), "hollow"))
		return 0; /* a restarted migd cannot know how far its predecessor came */
	err = eng_hollow(f->eng, &e);
	if (err)
		log_error("family %s: %d keeps its memory here: %s", f->id, f->pid, e.text);
	return err;
}

/* It has another home now: nothing of it remains here. */
static int left_for_good(struct move *v)
{
	struct family *f = v->f;

	family_call(f, home_actor_discard, NULL);
	fault_point("away");
	pthread_mutex_lock(&f->lock);
	f->moving = false;
	f->frozen_ns = v->res.frozen_ns;
	pthread_mutex_unlock(&f->lock);
	home_forget(f);
	return 0;
}

/* The move is over; what remains is housekeeping. */
static int do_done(struct move *v)
{
	struct family *f = v->f;
	int err = 0;

	fault_point("done");
	if (f->adopt)
		return left_for_good(v);
	if (!v->source && v->dest)
		family_call(f, actor_hollow, v);
	if (v->release) { /* it runs already; but who is told that it has moved finds nothing left behind */
		while (sem_wait(&v->release->over) && errno == EINTR)
			;
		release_put(v->release);
		v->release = NULL;
	}
	if (v->source)
		access_revoke(v->m, host_name(v->source), f->uid, f->id);
	fault_point("away");
	pthread_mutex_lock(&f->lock);
	f->moving = false;
	f->frozen_ns = v->res.frozen_ns;
	pthread_mutex_unlock(&f->lock);
	if (!v->dest)
		home_forget(f);
	else
		err = home_journal(f);
	return err;
}

static int actor_undo_fill(struct family *f, void *unused)
{
	(void)unused;
	return f->eng ? eng_abandon(f->eng) : 0;
}

static void abort_host(struct move *v, struct host *h, uint64_t gen)
{
	Sprite__Mig__FamilyReq r = SPRITE__MIG__FAMILY_REQ__INIT;
	struct error e = { 0 };

	r.family = v->f->id;
	r.gen = gen;
	if (host_call(h, MIG_ABORT, &r.base, ABORT_MS, NULL, &e))
		log_note("family %s: %s was not told that the move is off (%s): it will ask", v->f->id, host_name(h), e.text);
}

/* The source first: that is where the user's process waits. */
static int do_abort(struct move *v)
{
	struct family *f = v->f;
	enum mig_action act = MA_NONE;

	pthread_mutex_lock(&f->lock);
	f->dest[0] = 0;
	f->moving = false; /* an enquiry is answered from here on: it stays where it was */
	if (!v->source && v->source_machine.state == MS_DOUBT)
		mig_step(&v->source_machine, ME_ABORT, &act);
	pthread_mutex_unlock(&f->lock);
	if (act == MA_THAW && !f->exec_entry)
		family_call(f, transfer_thaw, NULL);
	if (v->source)
		abort_host(v, v->source, v->old_gen);
	if (v->dest)
		abort_host(v, v->dest, v->gen);
	if (!v->dest && f->filled)
		family_call(f, actor_undo_fill, NULL);
	f->filled = false;
	if (v->granted)
		access_revoke(v->m, host_name(v->dest), f->uid, f->id);
	return 0;
}

static int do_bury(struct move *v)
{
	if (v->f->adopt)
		error_set(v->e, EIO, "%s took %d (%s) for good, and does not know of it any more: look there whether it runs", v->o->dest, v->f->pid, v->f->comm);
	else
		error_set(v->e, EIO, "%s took %d (%s) and lost it before it ran there", v->o->dest, v->f->pid, v->f->comm);
	home_bury(v->f, v->e->text);
	return 0;
}

/* ---- the loop ---- */

static int act_on(struct move *v, enum mig_action act)
{
	switch (act) {
	case MA_CHECK:
		return do_check(v);
	case MA_PREPARE:
		say(v, "preparing");
		return do_prepare(v);
	case MA_SEND:
		return do_send(v);
	case MA_COMMIT:
		return do_commit(v);
	case MA_UNCOMMIT:
		return do_uncommit(v);
	case MA_RELEASE:
		return do_release(v);
	case MA_GO:
		return do_go(v);
	case MA_DONE:
		return do_done(v);
	case MA_ABORT:
		return do_abort(v);
	case MA_BURY:
		return do_bury(v);
	default:
		return 0;
	}
}

static int run_machine(struct move *v, enum mig_event ev)
{
	struct family *f = v->f;
	enum mig_action act = MA_NONE;
	enum mig_state state;

	do {
		pthread_mutex_lock(&f->lock);
		if (family_step(f, ev, &act)) {
			pthread_mutex_unlock(&f->lock);
			return error_set(v->e, EPROTO, "the move stands in a state that has no way on (a bug)");
		}
		state = f->machine.state;
		pthread_mutex_unlock(&f->lock);
		if (act != MA_TELL)
			ev = event_of(act_on(v, act));
	} while (act != MA_TELL);
	return state == MC_DONE ? 0 : v->e && v->e->code ? -v->e->code : -EIO;
}

static int begin(struct move *v, struct family *f, struct error *e)
{
	int err = 0;

	pthread_mutex_lock(&f->lock);
	if (f->dead)
		err = error_set(e, ESRCH, "%d (%s) has ended", f->pid, f->comm);
	else if (f->moving)
		err = error_set(e, EBUSY, "%d (%s) is on its way already: wait for that move to end", f->pid, f->comm);
	if (!err) {
		f->moving = true;
		f->filled = f->no_pipes = false;
		f->adopt = v->o->adopt;
		free(f->saved); /* nobody else is at it: the actor begins when the driver says so */
		f->saved = NULL;
		f->machine.state = MC_IDLE;
		v->old_gen = f->gen;
		v->gen = ++f->attempt;
		strcpy(v->source_name, f->host);
		snprintf(f->dest, sizeof(f->dest), "%s", v->o->dest);
	}
	pthread_mutex_unlock(&f->lock);
	return err;
}

int move_family(struct family *f, const struct move_opts *o, struct move_result *r, struct error *e)
{
	struct error own = { 0 };
	struct move v = { .f = f, .m = f->m, .o = o, .e = e ? e : &own, .start_ns = clock_mono_ns() };
	int err = begin(&v, f, v.e);
	bool goes_home = !strcmp(o->dest, f->m->conf->name);
	uint64_t over;

	if (err) {
		agent_leave(f->m, o->slot);
		return err;
	}
	v.cause = o->eviction ? (goes_home ? CAUSE_EVICTED_HOME : CAUSE_EVICTED_ONWARD) : f->exec_entry ? CAUSE_EXEC : goes_home ? CAUSE_HOME : CAUSE_MOVE;
	err = run_machine(&v, ME_START);
	release_put(v.release);
	transfer_sent(&v.plan);
	pthread_mutex_lock(&f->lock);
	f->moving = false;
	over = o->slot;
	if (!err && !f->dead) {
		over = f->slot;
		f->slot = o->slot;
	}
	f->dest[0] = 0;
	snprintf(f->last_error, sizeof(f->last_error), "%s", err ? v.e->text : "");
	pthread_mutex_unlock(&f->lock);
	agent_leave(f->m, over);
	v.res.total_ns = clock_mono_ns() - v.start_ns;
	if (r)
		*r = v.res;
	stats_move(f->m, f, v.cause, v.source_name, o->dest, v.res.bytes, v.res.frozen_ns, v.res.total_ns, err);
	if (err)
		log_note("family %s: %d (%s) stays on %s: %s", f->id, f->pid, f->comm, f->host, v.e->text);
	else
		log_note("family %s: %d (%s) of uid %u moved from %s to %s: %llu bytes, frozen for %.1f ms", f->id, f->pid, f->comm, f->uid, v.source_name, o->dest,
			(unsigned long long)v.res.bytes, v.res.frozen_ns / 1e6);
	return err;
}

/* ---- after a restart ---- */

static void *finish_main(void *arg)
{
	struct family *f = arg;
	struct move_opts o = { 0 };
	struct error e = { 0 };
	char dest[HOST_NAME_MAX_];
	struct move v = { .f = f, .m = f->m, .o = &o, .e = &e, .start_ns = clock_mono_ns() };

	pthread_mutex_lock(&f->lock);
	strcpy(dest, f->host);
	v.gen = f->gen;
	v.signal_seq = f->signal_seq;
	pthread_mutex_unlock(&f->lock);
	o.dest = dest;
	strcpy(v.source_name, f->m->conf->name);
	while (strcmp(dest, f->m->conf->name) && !(v.dest = hosts_find(f->m->hosts, dest, NULL)) && !f->m->stopping)
		usleep(AGAIN_US * 5);
	run_machine(&v, ME_REPLAYED);
	release_put(v.release);
	family_put(f);
	return NULL;
}

void move_finish(struct family *f)
{
	if (thread_run(finish_main, family_get(f)))
		family_put(f);
}
