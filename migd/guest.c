// SPDX-License-Identifier: Apache-2.0
/*
 * Guest side, see guest.h. Handlers run on rpc workers; what may take time is posted to the family's actor, which then answers the request.
 * A request is believed only from the family's home, which its certificate proves.
 */
#include "migd/guest_parts.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/log.h"
#include "migd/ahead.h"
#include "migd/cgroup.h"
#include "migd/evict.h"
#include "conf/fault.h"
#include "migd/hosts.h"
#include "migd/journal.h"
#include "migd/outbox.h"
#include "migd/owner.h"
#include "migd/proc.h"
#include "migd/relays.h"
#include "migd/relay_rpc.h"
#include "migd/stats.h"
#include "migd/transfer.h"
#include "migd/view.h"

enum { FREEZE_MS = 200 };

/* A handler's request together with the family it is about. */
struct work {
	struct rpc_request *rq;
	struct family *f;
};

/* ---- record ---- */

static int freeze(struct family *f, bool frozen, int wait_ms)
{
	if (!f->m->cgroups)
		return -EOPNOTSUPP;
	return *f->cgroup ? cgroup_freeze(f->m->cgroups, f->cgroup, frozen, wait_ms) : -ENOENT;
}

bool guest_told_to_freeze(const struct family *f)
{
	return f->m->cgroups && *f->cgroup && cgroup_told_to_freeze(f->m->cgroups, f->cgroup);
}

int guest_freeze(struct family *f, bool frozen)
{
	return freeze(f, frozen, FREEZE_MS);
}

void guest_freeze_begin(struct family *f)
{
	freeze(f, true, -1);
}

void guest_forget(struct family *f)
{
	char name[CGROUP_NAME_MAX];
	bool was;

	pthread_mutex_lock(&f->lock);
	was = !f->dead;
	strcpy(name, f->cgroup);
	pthread_mutex_unlock(&f->lock);
	if (!was)
		return;
	family_remove(f);
	relay_rpc_close(f);
	relays_close(f->relays);
	if (!guest_is_adopted(f->m, f->id, f->gen, f->home))
		journal_note(f->m->journal, journal_record("drop", f->id, f->gen));
	if (f->m->cgroups && *name)
		cgroup_remove(f->m->cgroups, name, 2000);
	if (!f->adopt)
		view_put(f->m->views, f->home);
	evict_kick(f->m);
}

static int actor_save(struct family *f, void *arg)
{
	return f->eng ? eng_save(f->eng, arg) : -ESRCH;
}

static bool is_source(enum mig_state s)
{
	return s >= MS_RUNNING && s <= MS_GONE;
}

int guest_actor_journal(struct family *f, void *unused)
{
	_cleanup_free_ char *state = NULL;
	bool before;
	json_t *r;
	int err;

	(void)unused;
	if (actor_save(f, &state))
		state = NULL;
	pthread_mutex_lock(&f->lock);
	r = journal_record("guest", f->id, f->gen);
	json_object_set_new(r, "home", json_string(f->home));
	json_object_set_new(r, "uid", json_integer(f->uid));
	json_object_set_new(r, "gid", json_integer(f->gid));
	json_object_set_new(r, "pid", json_integer(f->pid));
	json_object_set_new(r, "comm", json_string(f->comm));
	json_object_set_new(r, "runs", json_boolean(f->machine.state == MD_RUNNING || is_source(f->machine.state)));
	json_object_set_new(r, "whole", json_boolean(f->whole));
	json_object_set_new(r, "signal", json_integer(f->signal_seq));
	json_object_set_new(r, "cgroup", json_string(f->cgroup));
	json_object_set_new(r, "stuck_kill", json_integer(f->stuck_kill_s));
	json_object_set_new(r, "adopt", json_boolean(f->adopt));
	json_object_set_new(r, "state", state ? json_string(state) : json_null());
	pthread_mutex_unlock(&f->lock);
	err = journal_note(f->m->journal, r);
	pthread_mutex_lock(&f->lock);
	before = f->unnoted;
	f->unnoted = err;
	pthread_mutex_unlock(&f->lock);
	if (err && !before)
		log_warn("family %s: the journal cannot be written (%s): until it can, a restarted migd will not find it", f->id, strerror(err < 0 ? -err : EIO));
	else if (!err && state && !f->adopt)
		eng_nest_held(f->eng);
	return err < 0 ? err : err ? -EIO : 0;
}

int guest_note(struct family *f, struct error *e)
{
	int err = guest_actor_journal(f, NULL);

	return err ? error_set(e, -err, "its journal cannot be written: %s", strerror(-err)) : 0;
}

int guest_nest(struct family *f, int fd, const struct eng_hooks *hooks, struct error *e)
{
	char cgroup[CGROUP_NAME_MAX];
	struct nest *nest;
	int err = f->adopt ? guest_adopt(f, hooks, e) : aheads_take(f->m->aheads, f->home, cgroup, &nest, e);

	if (!err && !f->adopt) {
		pthread_mutex_lock(&f->lock);
		strcpy(f->cgroup, cgroup);
		pthread_mutex_unlock(&f->lock);
		err = eng_nest(fd, nest, hooks, &f->eng, e);
	}
	fault_point("nest");
	return err ? err : guest_note(f, e);
}

/* ---- Prepare ---- */

static int may_come(struct migd *m, const Sprite__Mig__PrepareReq *r, const char *peer, struct error *e)
{
	size_t n = strlen(r->home);

	if (strcmp(peer, r->home) || strncmp(r->family, r->home, n) || r->family[n] != '.' || strlen(r->family) >= FAMILY_ID_MAX || strchr(r->family, '/') ||
		n >= HOST_NAME_MAX_ || strlen(r->source) >= HOST_NAME_MAX_)
		return error_set(e, EACCES, "%s may not speak for family %s", peer, r->family);
	const char *missing = *r->cpu ? eng_cpu_missing(r->cpu, (const char *const *)m->conf->cpu_hide) : NULL;
	if (missing)
		return error_set(e, EOPNOTSUPP, "the CPU of %s lacks %s (name it in cpu_hide everywhere, and start the program again)", m->conf->name, missing);
	if (r->adopt)
		return guest_may_be_adopted(m, r, e);
	if (!m->lend)
		return error_set(e, EPERM, "%s does not lend itself: its owner can change that (mig lend on)", m->conf->name);
	if (!r->uid && !m->conf->root_guests)
		return error_set(e, EPERM, "%s takes no processes of root (migd.root_guests in its sprite.conf)", m->conf->name);
	if (!strcmp(m->conf->imports, "none") || (r->uid && !strcmp(m->conf->imports, "root")))
		return error_set(e, EPERM, "%s takes %s (migd.imports in its sprite.conf)", m->conf->name, m->conf->imports[0] == 'n' ? "no guests" : "processes of root only");
	if (r->assigned && !owner_is_idle(m->owner)) /* the master could not know yet; a host that was named is another matter */
		return error_set(e, EBUSY, "%s is in use again", m->conf->name);
	return 0;
}

/* A record of an older generation: the home says that it is over (it holds a later one for decided, or this one for being elsewhere). */
static int make_room(struct migd *m, const Sprite__Mig__PrepareReq *r, struct error *e)
{
	struct family *f = family_find(m->families, FAM_GUEST, r->family);
	bool same;

	if (!f)
		return 0;
	pthread_mutex_lock(&f->lock);
	same = f->gen == r->gen;
	pthread_mutex_unlock(&f->lock);
	if (!same && !strcmp(r->at, m->conf->name)) {
		family_put(f);
		return error_set(e, EALREADY, "%d is on %s already", r->pid, m->conf->name);
	}
	if (!same) {
		log_note("family %s: generation %llu is over: its home has gone on", f->id, (unsigned long long)f->gen);
		family_call(f, guest_actor_end, NULL);
		guest_forget(f);
	}
	family_put(f);
	return same ? 1 : 0;
}

static int actor_view(struct family *f, void *arg)
{
	struct work *w = arg;
	_cleanup_free_ char *dir = NULL;
	enum mig_action act;
	struct error e = { 0 };
	int err = f->adopt ? 0 : view_get(f->m->views, f->home, &dir, &e);

	pthread_mutex_lock(&f->lock);
	family_step(f, err ? ME_FAIL : ME_OK, &act);
	pthread_mutex_unlock(&f->lock);
	if (err)
		family_remove(f);
	mig_reply(w->rq, err ? (e.code ? e.code : EIO) : 0, "%s", e.text);
	if (!err && !f->adopt)
		aheads_want(f->m->aheads, f->home); /* for this very one */
	family_put(f);
	free(w);
	return 0;
}

void guest_prepare(void *ctx, struct rpc_request *rq)
{
	struct migd *m = ctx;
	const Sprite__Mig__PrepareReq *r = (const Sprite__Mig__PrepareReq *)rpc_request_msg(rq)->msg;
	struct work *w = calloc(1, sizeof(*w));
	enum mig_action act;
	struct error e = { 0 };
	struct family *f;
	int err = w ? may_come(m, r, rpc_request_peer(rq), &e) : error_set(&e, ENOMEM, "out of memory");

	if (!err)
		err = make_room(m, r, &e);
	if (err) { /* 1: it was prepared before */
		mig_reply(rq, err > 0 ? 0 : e.code, "%s", e.text);
		free(w);
		return;
	}
	err = family_create(m->families,
		&(struct family_new){ .role = FAM_GUEST, .id = r->family, .home = r->home, .uid = r->uid, .gid = r->gid, .pid = r->pid, .comm = r->comm,
			.adopt = r->adopt, .on_event = guest_event },
		&f);
	if (err) {
		mig_reply(rq, -err, "%s: no room for a guest: %s", m->conf->name, strerror(-err));
		free(w);
		return;
	}
	log_note("family %s: %d (%s) of uid %u may come from %s%s", f->id, r->pid, r->comm, r->uid, r->source, r->adopt ? ", for good" : "");
	pthread_mutex_lock(&f->lock);
	f->gen = r->gen;
	relays_name(f->relays, f->id, f->gen);
	strcpy(f->source, r->source);
	f->stuck_kill_s = r->stuck_kill_s;
	family_step(f, ME_START, &act);
	pthread_mutex_unlock(&f->lock);
	*w = (struct work){ .rq = rq, .f = f };
	if (family_post(f, actor_view, w))
		mig_reply(rq, ENOMEM, "out of memory");
}

/* ---- requests about a family that is here ---- */

/* The guest record that a request speaks of, or NULL after an answer. `missing`: the errno when there is none (0: that is as good as done). */
static struct family *guest_of(struct migd *m, struct rpc_request *rq, const char *id, uint64_t gen, int missing)
{
	struct family *f = family_find(m->families, FAM_GUEST, id);
	uint64_t have = 0;

	if (f && strcmp(f->home, rpc_request_peer(rq))) {
		mig_reply(rq, EACCES, "%s is not the home of family %s", rpc_request_peer(rq), id);
		family_put(f);
		return NULL;
	}
	if (f) {
		pthread_mutex_lock(&f->lock);
		have = f->gen;
		pthread_mutex_unlock(&f->lock);
	}
	if (f && have == gen)
		return f;
	if (guest_is_adopted(m, id, gen, rpc_request_peer(rq))) /* has been let go long ago */
		missing = 0;
	mig_reply(rq, missing, "%s holds no generation %llu of family %s", m->conf->name, (unsigned long long)gen, id);
	family_put(f);
	return NULL;
}

/* ---- Send: the source's part of a move that the home drives ---- */

static int find_dest(struct migd *m, const Sprite__Mig__SendReq *r, struct host **out, struct error *e)
{
	*out = hosts_find(m->hosts, r->dest, e);
	return *out ? 0 : -ENXIO;
}

static void *send_main(void *arg)
{
	struct work *w = arg;
	struct family *f = w->f;
	const Sprite__Mig__SendReq *r = (const Sprite__Mig__SendReq *)rpc_request_msg(w->rq)->msg;
	Sprite__Mig__SendRep rep = SPRITE__MIG__SEND_REP__INIT;
	struct send_plan p = { .to_gen = r->to_gen, .max_freeze_ms = r->max_freeze_ms, .machine = &f->machine };
	struct error e = { 0 };
	int err = find_dest(f->m, r, &p.dest, &e);

	pthread_mutex_lock(&f->lock);
	if (f->machine.state == MD_RUNNING)
		f->machine.state = MS_RUNNING; /* what it was as a destination is past */
	pthread_mutex_unlock(&f->lock);
	if (!err)
		err = transfer_send(f, &p, &e);
	rep.text = e.text;
	rep.signal_seq = f->signal_seq;
	rep.report_seq = outbox_last_seq(f->outbox);
	rep.bytes = p.bytes;
	rep.frozen_ns = p.frozen_ns ? clock_mono_ns() - p.frozen_ns : 0;
	rpc_reply(w->rq, err ? (e.code ? e.code : -err) : 0, &rep.base, NULL, 0, NULL, NULL);
	transfer_sent(&p);
	family_put(f);
	free(w);
	return NULL;
}

void guest_send(void *ctx, struct rpc_request *rq)
{
	struct migd *m = ctx;
	const Sprite__Mig__SendReq *r = (const Sprite__Mig__SendReq *)rpc_request_msg(rq)->msg;
	struct family *f = guest_of(m, rq, r->family, r->gen, ESTALE);
	struct work *w;

	if (!f)
		return;
	w = calloc(1, sizeof(*w));
	if (w)
		*w = (struct work){ .rq = rq, .f = f };
	if (!w || thread_run(send_main, w)) {
		mig_reply(rq, ENOMEM, "out of memory");
		family_put(f);
		free(w);
	}
}

/* ---- Release, Go, Abort ---- */

static int actor_release(struct family *f, void *arg)
{
	struct work *w = arg;

	/* It is parked for good from the moment the state says GONE: the answer need not wait for the memory to be given back. */
	uint64_t t0 = clock_mono_ns(), t1;

	if (w->rq)
		mig_reply(w->rq, 0, "%s", "");
	relay_rpc_close(f);
	guest_actor_end(f, NULL);
	t1 = clock_mono_ns();
	guest_forget(f);
	log_debug("family %s: emptied in %.1f ms, forgotten in %.1f ms", f->id, (t1 - t0) / 1e6, (clock_mono_ns() - t1) / 1e6);
	log_note("family %s: %d (%s) has left", f->id, f->pid, f->comm);
	family_put(f);
	free(w);
	return 0;
}

static int actor_go(struct family *f, void *arg)
{
	struct work *w = arg;
	Sprite__Mig__GoRep rep = SPRITE__MIG__GO_REP__INIT;
	enum mig_action act;
	struct error e = { 0 };
	int err = f->eng ? eng_resume(f->eng, &e) : error_set(&e, ESRCH, "its vessels are gone");

	fault_point("running");
	pthread_mutex_lock(&f->lock);
	family_step(f, err ? ME_FAIL : ME_OK, &act);
	f->since = clock_real_ns();
	f->sync_ns = clock_boot_ns();
	if (!err && f->evicting) /* the owner came back while it was on its way in */
		guest_freeze_begin(f);
	pthread_mutex_unlock(&f->lock);
	rep.text = e.text;
	if (!err && f->adopt) {
		guest_note_adopted(f);
		fault_point("adopted");
	}
	if (w->rq)
		rpc_reply(w->rq, err ? (e.code ? e.code : EIO) : 0, &rep.base, NULL, 0, NULL, NULL);
	if (!err && f->adopt) {
		guest_forget(f);
	} else if (err) {
		log_error("family %s: %d (%s) cannot be let run here: %s", f->id, f->pid, f->comm, e.text);
		guest_actor_end(f, NULL);
		guest_forget(f);
	} else {
		log_note("family %s: %d (%s) of %s runs here, for uid %u", f->id, f->pid, f->comm, f->home, f->uid);
		relay_rpc_open(f);
		guest_actor_journal(f, NULL);
		stats_count(f->m, COUNT_GUESTS, 1);
		aheads_want_soon(f->m->aheads, f->home);
		evict_kick(f->m);
	}
	family_put(f);
	free(w);
	return 0;
}

static int actor_abandon(struct family *f, void *arg)
{
	struct work *w = arg;

	if (f->eng) {
		eng_abandon(f->eng);
		f->eng = NULL;
	}
	guest_forget(f);
	if (w->rq)
		mig_reply(w->rq, 0, "%s", "");
	family_put(f);
	free(w);
	return 0;
}

static int actor_abort_source(struct family *f, void *arg)
{
	struct work *w = arg;
	enum mig_action act;

	transfer_thaw(f, NULL);
	pthread_mutex_lock(&f->lock);
	family_step(f, ME_OK, &act);
	pthread_mutex_unlock(&f->lock);
	relays_resume(f->relays);
	relay_rpc_open(f);
	guest_actor_journal(f, NULL);
	if (w->rq)
		mig_reply(w->rq, 0, "%s", "");
	family_put(f);
	free(w);
	return 0;
}

static int actor_nothing(struct family *f, void *arg)
{
	struct work *w = arg;

	if (w->rq)
		mig_reply(w->rq, 0, "%s", "");
	family_put(f);
	free(w);
	return 0;
}

/* Told twice: what became of the first time? */
static int actor_gone_before(struct family *f, void *arg)
{
	struct work *w = arg;
	Sprite__Mig__GoRep rep = SPRITE__MIG__GO_REP__INIT;
	bool runs;

	pthread_mutex_lock(&f->lock);
	runs = f->machine.state == MD_RUNNING;
	pthread_mutex_unlock(&f->lock);
	rep.text = runs ? "" : "it could not be let run";
	if (w->rq)
		rpc_reply(w->rq, runs ? 0 : ESRCH, &rep.base, NULL, 0, NULL, NULL);
	family_put(f);
	free(w);
	return 0;
}

void guest_decide(struct family *f, struct rpc_request *rq, enum mig_event ev)
{
	struct work *w = calloc(1, sizeof(*w));
	enum mig_action act = MA_NONE;
	int (*fn)(struct family *, void *) = ev == ME_GO ? actor_gone_before : actor_nothing;
	int err;

	pthread_mutex_lock(&f->lock);
	if (ev == ME_GO && f->machine.state == MS_RUNNING)
		f->machine.state = MD_RUNNING; /* told twice */
	err = w ? family_step(f, ev, &act) : -ENOMEM;
	pthread_mutex_unlock(&f->lock);
	switch (act) {
	case MA_DISCARD:
		fn = actor_release;
		break;
	case MA_RESUME:
		fn = actor_go;
		break;
	case MA_ABANDON:
		fn = actor_abandon;
		break;
	case MA_THAW:
		fn = actor_abort_source;
		break;
	default:
		break;
	}
	if (!err) {
		*w = (struct work){ .rq = rq, .f = f };
		err = family_post(f, fn, w);
	}
	if (err) {
		if (rq)
			mig_reply(rq, err == -EPROTO ? EBUSY : -err, "family %s is %s on %s", f->id, mig_state_name(f->machine.state), f->m->conf->name);
		free(w);
		family_put(f);
	}
}

void guest_release(void *ctx, struct rpc_request *rq)
{
	const Sprite__Mig__FamilyReq *r = (const Sprite__Mig__FamilyReq *)rpc_request_msg(rq)->msg;
	struct family *f = guest_of(ctx, rq, r->family, r->gen, 0);

	fault_point("release");
	if (f)
		guest_decide(f, rq, ME_RELEASE);
}

void guest_go(void *ctx, struct rpc_request *rq)
{
	const Sprite__Mig__FamilyReq *r = (const Sprite__Mig__FamilyReq *)rpc_request_msg(rq)->msg;
	struct family *f = guest_of(ctx, rq, r->family, r->gen, ESRCH);

	if (!f)
		return;
	pthread_mutex_lock(&f->lock);
	if (r->signal_seq > f->signal_seq) /* told again to one that runs, and was started again in between: it knows no better */
		f->signal_seq = r->signal_seq;
	pthread_mutex_unlock(&f->lock);
	fault_point("go");
	guest_decide(f, rq, ME_GO);
}

void guest_abort(void *ctx, struct rpc_request *rq)
{
	const Sprite__Mig__FamilyReq *r = (const Sprite__Mig__FamilyReq *)rpc_request_msg(rq)->msg;
	struct family *f = guest_of(ctx, rq, r->family, r->gen, 0);

	if (f)
		guest_decide(f, rq, ME_ABORT);
}

/* ---- Signal ---- */

/* If we die before the home has our answer, it sends the signal again. */
static void note_heard(struct family *f, uint64_t seq)
{
	json_t *r = journal_record("heard", f->id, f->gen);

	json_object_set_new(r, "seq", json_integer((json_int_t)seq));
	journal_note(f->m->journal, r);
}

static int actor_signal(struct family *f, void *arg)
{
	struct work *w = arg;
	const Sprite__Mig__SignalReq *r = (const Sprite__Mig__SignalReq *)rpc_request_msg(w->rq)->msg;
	siginfo_t info;
	bool runs;
	int err = 0;

	pthread_mutex_lock(&f->lock);
	runs = f->machine.state == MD_RUNNING || f->machine.state == MS_RUNNING;
	pthread_mutex_unlock(&f->lock);
	if (!runs) {
		mig_reply(w->rq, EAGAIN, "it is on its way");
	} else if (r->seq <= f->signal_seq) {
		mig_reply(w->rq, 0, "%s", ""); /* it has come before */
	} else {
		memcpy(&info, r->info.data, sizeof(info));
		err = f->eng ? eng_signal(f->eng, r->pid, r->tid, &info, r->seq) : -ESRCH;
		if (!err || err == -ESRCH) {
			pthread_mutex_lock(&f->lock);
			f->signal_seq = r->seq;
			pthread_mutex_unlock(&f->lock);
			note_heard(f, r->seq);
		}
		log_debug("family %s: signal %d for %d: %d", f->id, info.si_signo, r->pid, err);
		mig_reply(w->rq, -err, "%s", err ? strerror(-err) : "");
	}
	family_put(f);
	free(w);
	return 0;
}

void guest_signal(void *ctx, struct rpc_request *rq)
{
	const Sprite__Mig__SignalReq *r = (const Sprite__Mig__SignalReq *)rpc_request_msg(rq)->msg;
	struct family *f;
	struct work *w;

	if (r->info.len != sizeof(siginfo_t)) {
		mig_reply(rq, EINVAL, "siginfo of %zu bytes, expected %zu", r->info.len, sizeof(siginfo_t));
		return;
	}
	f = guest_of(ctx, rq, r->family, r->gen, ESTALE);
	if (!f)
		return;
	w = calloc(1, sizeof(*w));
	if (w)
		*w = (struct work){ .rq = rq, .f = f };
	if (!w || family_post(f, actor_signal, w)) {
		mig_reply(rq, ENOMEM, "out of memory");
		family_put(f);
		free(w);
	}
}
