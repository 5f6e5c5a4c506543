// SPDX-License-Identifier: Apache-2.0
/*
 * Guest side, see guest.h. Handlers run on rpc workers; what may take time is posted to the family's actor, which then answers the request.
 * A request is believed only from the family's home, which its certificate proves.
 */
#include "migd/guest.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/log.h"
#include "migd/cgroup.h"
#include "migd/evict.h"
#include "migd/fault.h"
#include "migd/forward.h"
#include "migd/hosts.h"
#include "migd/journal.h"
#include "migd/outbox.h"
#include "migd/owner.h"
#include "migd/proc.h"
#include "migd/relay.h"
#include "migd/relay_rpc.h"
#include "migd/stats.h"
#include "migd/transfer.h"
#include "migd/view.h"

enum { DRAIN_MS = 5000, FREEZE_MS = 200, SYNC_DOUBT_S = 1, SYNC_RUN_S = 5 };

/* A handler's request together with the family it is about. */
struct work {
	struct rpc_request *rq;
	struct family *f;
};

/* ---- record ---- */

void guest_cgroup(const struct family *f, char *out, size_t n)
{
	snprintf(out, n, "sprite-%s.%llu", f->id, (unsigned long long)f->gen);
}

static int freeze(struct family *f, bool frozen, int wait_ms)
{
	char name[FAMILY_ID_MAX + 40];

	if (!f->m->cgroups)
		return -EOPNOTSUPP;
	guest_cgroup(f, name, sizeof(name));
	return cgroup_freeze(f->m->cgroups, name, frozen, wait_ms);
}

static bool is_frozen(const struct family *f)
{
	char name[FAMILY_ID_MAX + 40];

	guest_cgroup(f, name, sizeof(name));
	return f->m->cgroups && cgroup_told_to_freeze(f->m->cgroups, name);
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
	char name[FAMILY_ID_MAX + 40];
	bool was;

	pthread_mutex_lock(&f->lock);
	was = !f->dead;
	pthread_mutex_unlock(&f->lock);
	if (!was)
		return;
	family_remove(f);
	relay_rpc_close(f);
	journal_note(f->m->journal, journal_record("drop", f->id, f->gen));
	guest_cgroup(f, name, sizeof(name));
	if (f->m->cgroups)
		cgroup_remove(f->m->cgroups, name, 2000);
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

/* In the actor: what a restarted migd must know to find the nest again. */
static int journal_state(struct family *f, void *unused)
{
	_cleanup_free_ char *state = NULL;
	json_t *r;

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
	json_object_set_new(r, "stuck_kill", json_integer(f->stuck_kill_s));
	json_object_set_new(r, "state", state ? json_string(state) : json_null());
	pthread_mutex_unlock(&f->lock);
	if (journal_note(f->m->journal, r))
		log_warn("family %s: the journal cannot be written: a restarted migd will not find it", f->id);
	else if (state)
		eng_nest_held(f->eng);
	return 0;
}

void guest_journal(struct family *f)
{
	family_call(f, journal_state, NULL);
}

int guest_nest(struct family *f, int fd, const struct eng_hooks *hooks, struct error *e)
{
	struct cgroup_limits lim = { .memory_max = f->m->conf->guest_memory_max, .pids_max = f->m->conf->guest_pids };
	_cleanup_free_ char *root = NULL, *cg = NULL;
	char name[FAMILY_ID_MAX + 40];
	struct eng_nest_opts o = { .keeper = f->m->keeper, .sprite = f->m->conf->mount, .hostname = f->home };
	struct error cge = { 0 };

	if (asprintf(&root, "%s/homes/%s", f->m->conf->run_dir, f->home) < 0)
		return error_set(e, ENOMEM, "out of memory");
	guest_cgroup(f, name, sizeof(name));
	if (f->m->cgroups && cgroup_make(f->m->cgroups, name, &lim, &cg, &cge))
		log_warn("family %s: no cgroup for it: %s", f->id, cge.text);
	o.root = root;
	o.cgroup = cg;
	o.host_network = f->m->conf->guest_network && !strcmp(f->m->conf->guest_network, "host");
	int err = eng_nest(fd, &o, hooks, &f->eng, e);

	fault_point("nest");
	if (!err)
		journal_state(f, NULL);
	return err;
}

/* ---- events of the engine: told to the home, in order ---- */

static int actor_end(struct family *f, void *unused)
{
	(void)unused;
	if (f->eng) {
		eng_discard(f->eng);
		f->eng = NULL;
	}
	return 0;
}

/* The last process has ended and the home knows of it all. */
static void *bury_main(void *arg)
{
	struct family *f = arg;

	outbox_flush(f->outbox, 3600 * 1000);
	family_call(f, actor_end, NULL);
	guest_forget(f);
	family_put(f);
	return NULL;
}

static void guest_ended(struct family *f)
{
	Sprite__Mig__ReportReq r = SPRITE__MIG__REPORT_REQ__INIT;

	r.kind = SPRITE__MIG__REPORT_REQ__KIND__EMPTY;
	outbox_report(f->outbox, &r);
	f->ended = true;
	family_get(f);
	if (thread_run(bury_main, f))
		family_put(f);
}

/* When all that the engine has to tell has been told: is it over? (Perhaps all has ended while nobody was here to hear of it.) */
static int actor_caught_up(struct family *f, void *unused)
{
	size_t left = 0;

	(void)unused;
	family_events(f);
	if (f->eng)
		eng_pids(f->eng, &left);
	if (!left && f->eng && !f->ended)
		guest_ended(f);
	return 0;
}

static void guest_event(struct family *f, const struct eng_event *ev)
{
	Sprite__Mig__ReportReq r = SPRITE__MIG__REPORT_REQ__INIT;
	size_t left = 1;

	r.pid = ev->pid;
	r.ppid = ev->ppid;
	switch (ev->kind) {
	case ENG_CALL:
		forward_call(f, &ev->call);
		return;
	case ENG_EXITED:
		relay_drain(f->relays, DRAIN_MS); /* its last words come before its end */
		r.kind = SPRITE__MIG__REPORT_REQ__KIND__EXITED;
		r.status = ev->status;
		r.utime_us = ev->usage.ru_utime.tv_sec * 1000000ull + ev->usage.ru_utime.tv_usec;
		r.stime_us = ev->usage.ru_stime.tv_sec * 1000000ull + ev->usage.ru_stime.tv_usec;
		r.maxrss_kb = ev->usage.ru_maxrss;
		eng_pids(f->eng, &left);
		break;
	case ENG_STOPPED:
		r.kind = SPRITE__MIG__REPORT_REQ__KIND__STOPPED;
		r.status = ev->info.si_signo;
		break;
	case ENG_CONTINUED:
		r.kind = SPRITE__MIG__REPORT_REQ__KIND__CONTINUED;
		break;
	case ENG_BORN:
		r.kind = SPRITE__MIG__REPORT_REQ__KIND__BORN;
		r.comm = (char *)ev->comm;
		r.pgid = ev->pgid;
		r.sid = ev->sid;
		break;
	default:
		return;
	}
	log_debug("family %s: report %d of %d, status %#x, %zu left", f->id, r.kind, ev->pid, ev->status, left);
	pthread_mutex_lock(&f->lock);
	if (ev->kind == ENG_BORN) {
		family_add_member(f, ev->pid, ev->ppid, ev->comm, false);
	} else if (ev->kind == ENG_EXITED) {
		struct member *m = family_member(f, ev->pid);

		if (m)
			m->ended = true;
	}
	pthread_mutex_unlock(&f->lock);
	outbox_report(f->outbox, &r);
	if (!left) /* there may be other ends to tell: EMPTY is the last word */
		family_post(f, actor_caught_up, NULL);
}

/* ---- Prepare ---- */

static int may_come(struct migd *m, const Sprite__Mig__PrepareReq *r, const char *peer, struct error *e)
{
	size_t n = strlen(r->home);

	if (strcmp(peer, r->home) || strncmp(r->family, r->home, n) || r->family[n] != '.' || strlen(r->family) >= FAMILY_ID_MAX || strchr(r->family, '/') ||
		n >= HOST_NAME_MAX_ || strlen(r->source) >= HOST_NAME_MAX_)
		return error_set(e, EACCES, "%s may not speak for family %s", peer, r->family);
	if (!m->lend)
		return error_set(e, EPERM, "%s does not lend itself: its owner can change that (mig lend on)", m->conf->name);
	if (!r->uid && !m->conf->root_guests)
		return error_set(e, EPERM, "%s takes no processes of root (migd.root_guests in its sprite.conf)", m->conf->name);
	if (!strcmp(m->conf->imports, "none") || (r->uid && !strcmp(m->conf->imports, "root")))
		return error_set(e, EPERM, "%s takes %s (migd.imports in its sprite.conf)", m->conf->name, m->conf->imports[0] == 'n' ? "no guests" : "processes of root only");
	if (r->assigned && !owner_is_idle(m->owner)) /* the master could not know yet; a host that was named is another matter */
		return error_set(e, EBUSY, "%s is in use again", m->conf->name);
	const char *missing = *r->cpu ? eng_cpu_missing(r->cpu, (const char *const *)m->conf->cpu_hide) : NULL;
	if (missing)
		return error_set(e, EOPNOTSUPP, "the CPU of %s lacks %s (name it in cpu_hide everywhere, and start the program again)", m->conf->name, missing);
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
		family_call(f, actor_end, NULL);
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
	int err = view_get(f->m->views, f->home, &dir, &e);

	pthread_mutex_lock(&f->lock);
	family_step(f, err ? ME_FAIL : ME_OK, &act);
	pthread_mutex_unlock(&f->lock);
	if (err)
		family_remove(f);
	mig_reply(w->rq, err ? (e.code ? e.code : EIO) : 0, "%s", e.text);
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
			.on_event = guest_event },
		&f);
	if (err) {
		mig_reply(rq, -err, "%s: no room for a guest: %s", m->conf->name, strerror(-err));
		free(w);
		return;
	}
	log_note("family %s: %d (%s) of uid %u may come from %s", f->id, r->pid, r->comm, r->uid, r->source);
	pthread_mutex_lock(&f->lock);
	f->gen = r->gen;
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
	if (!err)
		family_call(f, journal_state, NULL);
	rep.text = e.text;
	rep.signal_seq = f->signal_seq;
	rep.report_seq = outbox_last_seq(f->outbox);
	rep.bytes = p.bytes;
	rep.frozen_ns = p.frozen_ns ? clock_mono_ns() - p.frozen_ns : 0;
	rpc_reply(w->rq, err ? (e.code ? e.code : -err) : 0, &rep.base, NULL, 0, NULL, NULL);
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
	actor_end(f, NULL);
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
	if (w->rq)
		rpc_reply(w->rq, err ? (e.code ? e.code : EIO) : 0, &rep.base, NULL, 0, NULL, NULL);
	if (err) {
		log_error("family %s: %d (%s) cannot be let run here: %s", f->id, f->pid, f->comm, e.text);
		actor_end(f, NULL);
		guest_forget(f);
	} else {
		log_note("family %s: %d (%s) of %s runs here, for uid %u", f->id, f->pid, f->comm, f->home, f->uid);
		relay_rpc_open(f);
		journal_state(f, NULL);
		stats_count(f->m, COUNT_GUESTS, 1);
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
	relay_resume(f->relays);
	journal_state(f, NULL);
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

/* Takes an event of the home and has the actor do what the table says. Takes over the reference; rq may be NULL (the answer to an enquiry). */
static void decide(struct family *f, struct rpc_request *rq, enum mig_event ev)
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
		decide(f, rq, ME_RELEASE);
}

void guest_go(void *ctx, struct rpc_request *rq)
{
	const Sprite__Mig__FamilyReq *r = (const Sprite__Mig__FamilyReq *)rpc_request_msg(rq)->msg;
	struct family *f = guest_of(ctx, rq, r->family, r->gen, ESRCH);

	if (!f)
		return;
	pthread_mutex_lock(&f->lock);
	if (f->machine.state == MD_DOUBT)
		f->signal_seq = r->signal_seq;
	pthread_mutex_unlock(&f->lock);
	fault_point("go");
	decide(f, rq, ME_GO);
}

void guest_abort(void *ctx, struct rpc_request *rq)
{
	const Sprite__Mig__FamilyReq *r = (const Sprite__Mig__FamilyReq *)rpc_request_msg(rq)->msg;
	struct family *f = guest_of(ctx, rq, r->family, r->gen, 0);

	if (f)
		decide(f, rq, ME_ABORT);
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

/* ---- asking the home ---- */

static void apply_verdict(struct family *f, Sprite__Mig__SyncRep__Verdict v)
{
	enum mig_state s;

	pthread_mutex_lock(&f->lock);
	s = f->machine.state;
	f->orphaned = false;
	pthread_mutex_unlock(&f->lock);
	if (v == SPRITE__MIG__SYNC_REP__VERDICT__DROP) {
		if (s == MS_DOUBT) {
			decide(family_get(f), NULL, ME_RELEASE);
		} else if (s == MD_DOUBT || s == MD_READY) {
			decide(family_get(f), NULL, ME_ABORT);
		} else if (s == MD_RUNNING || s == MS_RUNNING) {
			log_warn("family %s: its home no longer knows it: %d (%s) is ended", f->id, f->pid, f->comm);
			family_call(f, actor_end, NULL);
			guest_forget(f);
		}
	} else if (v == SPRITE__MIG__SYNC_REP__VERDICT__RUN) {
		if (s == MS_DOUBT)
			decide(family_get(f), NULL, ME_ABORT);
		else if (s == MD_DOUBT)
			decide(family_get(f), NULL, ME_GO);
	}
}

int guest_resolve(struct family *f, bool run, struct error *e)
{
	enum mig_state s;

	pthread_mutex_lock(&f->lock);
	s = f->machine.state;
	pthread_mutex_unlock(&f->lock);
	if (s != MS_DOUBT && s != MD_DOUBT)
		return error_set(e, EALREADY, "%d (%s) is not in doubt here: %s", f->pid, f->comm, mig_state_name(s));
	log_warn("family %s: %d (%s) was in doubt (%s); a person decides: it %s here", f->id, f->pid, f->comm, mig_state_name(s), run ? "runs" : "ends");
	decide(family_get(f), NULL, run ? (s == MS_DOUBT ? ME_ABORT : ME_GO) : s == MS_DOUBT ? ME_RELEASE : ME_ABORT);
	return 0;
}

static void guest_sync(struct family *f)
{
	Sprite__Mig__SyncReq r = SPRITE__MIG__SYNC_REQ__INIT;
	struct error e = { 0 };
	struct rpc_msg out;
	struct host *h = hosts_find(f->m->hosts, f->home, &e);
	int err;

	r.family = f->id;
	pthread_mutex_lock(&f->lock);
	r.gen = f->gen;
	pthread_mutex_unlock(&f->lock);
	r.boot_id = (char *)clock_boot_id();
	err = h ? host_call(h, MIG_SYNC, &r.base, 3000, &out, &e) : -EHOSTDOWN;
	if (err) {
		pthread_mutex_lock(&f->lock);
		if (!f->orphaned)
			log_warn("family %s: its home does not answer (%s): it goes on as an orphan", f->id, e.text);
		f->orphaned = true;
		pthread_mutex_unlock(&f->lock);
		return;
	}
	apply_verdict(f, ((const Sprite__Mig__SyncRep *)out.msg)->verdict);
	rpc_msg_clear(&out);
}

static void *sync_main(void *arg)
{
	struct family *f = arg;

	guest_sync(f);
	family_put(f);
	return NULL;
}

void guests_tick(struct migd *m)
{
	struct family **v;
	size_t n = families_list(m->families, FAM_GUEST, &v);
	uint64_t now = clock_boot_ns();

	for (size_t i = 0; i < n; i++) {
		struct family *f = v[i];
		uint64_t every = SYNC_RUN_S;
		bool due;

		pthread_mutex_lock(&f->lock);
		if (f->machine.state == MS_DOUBT || f->machine.state == MD_DOUBT || f->machine.state == MD_READY)
			every = SYNC_DOUBT_S;
		if (!f->sync_ns)
			f->sync_ns = now;
		due = !f->dead && now - f->sync_ns >= every * 1000000000ull;
		if (due)
			f->sync_ns = now;
		pthread_mutex_unlock(&f->lock);
		if (due && thread_run(sync_main, family_get(f)))
			family_put(f);
	}
	families_list_free(v, n);
}

/* ---- after a restart ---- */

static int actor_reattach(struct family *f, void *arg)
{
	struct eng_hooks hooks;
	struct error e = { 0 };
	int err;

	transfer_hooks(f, &hooks);
	err = arg ? eng_reattach(arg, &hooks, &f->eng, &e) : error_set(&e, ESRCH, "nothing is known of it");
	if (!err && !f->whole) {
		eng_abandon(f->eng);
		f->eng = NULL;
		err = error_set(&e, ESTALE, "its image had not come in whole");
	}
	if (!err)
		log_debug("family %s: its nest is %s", f->id, eng_state_name(f->eng));
	if (!err && !strcmp(eng_state_name(f->eng), "running"))
		f->machine.state = MD_RUNNING;
	if (err)
		log_warn("family %s: its nest is given up: %s", f->id, e.text);
	return err;
}

void guest_replay_heard(struct migd *m, const json_t *r)
{
	struct family *f = family_find(m->families, FAM_GUEST, json_string_value(json_object_get(r, "f")));
	uint64_t seq = (uint64_t)json_integer_value(json_object_get(r, "seq"));

	if (!f)
		return;
	pthread_mutex_lock(&f->lock);
	if (f->gen == (uint64_t)json_integer_value(json_object_get(r, "g")) && seq > f->signal_seq)
		f->signal_seq = seq;
	pthread_mutex_unlock(&f->lock);
	family_put(f);
}

void guest_replay(struct migd *m, const json_t *r)
{
	const char *id = json_string_value(json_object_get(r, "f")), *home = json_string_value(json_object_get(r, "home"));
	const char *state = json_string_value(json_object_get(r, "state"));
	_cleanup_free_ char *dir = NULL;
	struct error e = { 0 };
	struct family *f;

	if (!home || family_create(m->families,
			&(struct family_new){ .role = FAM_GUEST, .id = id, .home = home, .uid = json_integer_value(json_object_get(r, "uid")),
				.gid = json_integer_value(json_object_get(r, "gid")), .pid = json_integer_value(json_object_get(r, "pid")),
				.comm = json_string_value(json_object_get(r, "comm")), .on_event = guest_event },
			&f))
		return;
	view_get(m->views, home, &dir, &e);
	pthread_mutex_lock(&f->lock);
	f->gen = json_integer_value(json_object_get(r, "g"));
	f->signal_seq = json_integer_value(json_object_get(r, "signal"));
	f->stuck_kill_s = (uint32_t)json_integer_value(json_object_get(r, "stuck_kill"));
	if (is_frozen(f)) { /* stopped for the owner's sake by who was here before: it is still to leave, or to run on when he goes */
		f->evicting = true;
		f->evict_since_ns = clock_boot_ns();
		snprintf(f->evict_why, sizeof(f->evict_why), "its owner is back");
		freeze(f, false, FREEZE_MS); /* its keeper could not answer; evict_turn() stops it again */
	}
	/* What it is now, actor_reattach() finds out; what it was, a destination or a source, tells who may let it run. */
	f->machine.state = json_is_true(json_object_get(r, "runs")) ? MS_DOUBT : MD_DOUBT;
	f->whole = json_is_true(json_object_get(r, "whole"));
	pthread_mutex_unlock(&f->lock);
	if (family_call(f, actor_reattach, (void *)state))
		guest_forget(f); /* what is left of it ends with its cgroup */
	else
		log_note("family %s: %d (%s) found again, %s", f->id, f->pid, f->comm, mig_state_name(f->machine.state));
	if (f->machine.state == MD_RUNNING)
		family_post(f, actor_caught_up, NULL);
	family_put(f);
}
