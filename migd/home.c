// SPDX-License-Identifier: Apache-2.0
/* Home side, see home.h. Engine calls are made by the family's actor only. */
#include "migd/home_parts.h"
#include "migd/access.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/log.h"
#include "migd/agent.h"
#include "migd/forward.h"
#include "migd/hooks.h"
#include "migd/hosts.h"
#include "migd/journal.h"
#include "migd/move.h"
#include "migd/outbox.h"
#include "migd/relays.h"
#include "migd/relay_rpc.h"
#include "migd/stats.h"
#include "migd/transfer.h"

enum { CHECK_MS = 3000, SETTLE_S = 5 };

/* ---- from the hollows to the guests ---- */

/* What is stopped or continued here is told over there; reports of before that has arrived there speak of what is over. */
static void forward(struct family *f, pid_t pid, pid_t tid, const siginfo_t *info, pid_t taker, uint32_t nr)
{
	struct member *m;
	uint64_t seq;

	outbox_signal(f->outbox, pid, tid, info, taker, nr, &seq);
	if ((info->si_signo != SIGSTOP && info->si_signo != SIGCONT) || !seq)
		return;
	pthread_mutex_lock(&f->lock);
	m = family_member(f, pid);
	if (m)
		m->turned = seq;
	pthread_mutex_unlock(&f->lock);
}

static void forward_plain(struct family *f, pid_t pid, int sig)
{
	siginfo_t info = { .si_signo = sig, .si_code = SI_USER };

	forward(f, pid, 0, &info, 0, 0);
}

void home_event(struct family *f, const struct eng_event *ev)
{
	struct member *m;
	bool was = false;

	log_debug("family %s: hollow %d: event %d, signal %d", f->id, ev->pid, ev->kind, ev->info.si_signo);
	pthread_mutex_lock(&f->lock);
	m = family_member(f, ev->pid);
	if (m) {
		was = ev->kind == ENG_STOPPED ? m->stopped : m->ended;
		if (ev->kind == ENG_STOPPED || ev->kind == ENG_CONTINUED)
			m->stopped = ev->kind == ENG_STOPPED;
		if (ev->kind == ENG_EXITED)
			m->hollow = false;
	}
	pthread_mutex_unlock(&f->lock);
	switch (ev->kind) {
	case ENG_SIGNAL:
		forward(f, ev->pid, ev->tid, &ev->info, ev->taker, ev->nr);
		break;
	case ENG_STOPPED: /* by SIGSTOP, or mirrored from over there: then there is nothing to tell */
		if (!was)
			forward_plain(f, ev->pid, SIGSTOP);
		break;
	case ENG_CONTINUED:
		relays_back(f->relays, ev->pid);
		break;
	case ENG_EXITED: /* somebody killed the hollow */
		if (!was)
			forward_plain(f, ev->pid, SIGKILL);
		break;
	default:
		break;
	}
}

/* ---- from the guests to the hollows ---- */

struct report {
	struct rpc_request *rq; /* NULL: answered already, and in the journal until it is carried out */
	struct family *f;
	Sprite__Mig__ReportReq *msg; /* ours */
};

int home_actor_discard(struct family *f, void *unused)
{
	(void)unused;
	if (f->eng) {
		eng_discard(f->eng);
		f->eng = NULL;
	}
	return 0;
}

void home_forget(struct family *f)
{
	char host[HOST_NAME_MAX_];

	pthread_mutex_lock(&f->lock);
	strcpy(host, f->host);
	pthread_mutex_unlock(&f->lock);
	family_remove(f);
	relay_rpc_close(f);
	relays_close(f->relays);
	journal_note(f->m->journal, journal_record("end", f->id, f->gen));
	if (strcmp(host, f->m->conf->name))
		access_revoke(f->m, host, f->uid, f->id);
}

static void *forget_main(void *arg)
{
	struct family *f = arg;

	family_call(f, home_actor_discard, NULL);
	home_forget(f);
	family_put(f);
	return NULL;
}

static void over(struct family *f)
{
	log_note("family %s: %d (%s) has ended on %s", f->id, f->pid, f->comm, f->host);
	family_get(f);
	if (thread_run(forget_main, f))
		family_put(f);
}

static bool some_left(const struct family *f)
{
	for (size_t i = 0; i < f->nmembers; i++)
		if (!f->members[i].ended)
			return true;
	return false;
}

static void mirror_exit(struct family *f, pid_t pid, int status)
{
	struct member *m;
	bool hollow, last;

	pthread_mutex_lock(&f->lock);
	m = family_member(f, pid);
	hollow = m && m->hollow;
	if (m)
		m->ended = true; /* before the hollow ends: its end is no news then */
	last = !some_left(f);
	pthread_mutex_unlock(&f->lock);
	if (hollow)
		relays_left(f->relays, pid, true);
	if (last && f->eng)
		eng_hollow_over(f->eng);
	if (m && f->eng) /* one that was killed here has yet to be waited for */
		eng_exit_hollow(f->eng, pid, status);
	log_debug("family %s: %d has ended with wait status %#x", f->id, pid, status);
}

/* heard: see mig.proto. One that crossed with a SIGSTOP or SIGCONT of ours would undo here for a moment what a shell has just done. */
static void mirror_stop(struct family *f, pid_t pid, bool stop, int sig, uint64_t heard)
{
	struct member *m;
	bool change = false;

	pthread_mutex_lock(&f->lock);
	m = family_member(f, pid);
	if (m && (!heard || heard > m->turned)) {
		change = m->hollow && m->stopped != stop;
		m->stopped = stop;
	}
	pthread_mutex_unlock(&f->lock);
	if (change && stop)
		relays_left(f->relays, pid, false);
	else if (change)
		relays_back(f->relays, pid);
	if (change && f->eng)
		eng_stop_hollow(f->eng, pid, stop ? sig : SIGCONT);
}

/*
 * A process was born away: at home it gets a placeholder, so that ps, pstree and kill know it there. In the actor. Without one (its number is taken here, the
 * hollows are about to come to life) it is in mig ps all the same.
 */
static void mirror_birth(struct family *f, const Sprite__Mig__ReportReq *r)
{
	struct eng_event ev = { .kind = ENG_BORN, .pid = r->pid, .ppid = r->ppid, .pgid = r->pgid, .sid = r->sid, .exit_signal = r->exit_signal };
	_cleanup_free_ char *state = NULL;
	struct error e = { 0 };
	struct member *m;
	int err;

	snprintf(ev.comm, sizeof(ev.comm), "%s", r->comm);
	pthread_mutex_lock(&f->lock);
	m = family_add_member(f, r->pid, r->ppid, r->comm, false);
	pthread_mutex_unlock(&f->lock);
	if (!m || !f->eng)
		return;
	err = eng_hollow_born(f->eng, &ev, &e);
	if (err) {
		log_debug("family %s: no placeholder for %d (%s): %s", f->id, r->pid, r->comm, err == -EBUSY ? "it is on its way" : e.text);
		return;
	}
	pthread_mutex_lock(&f->lock);
	m = family_member(f, r->pid);
	if (m)
		m->hollow = true;
	pthread_mutex_unlock(&f->lock);
	home_actor_save(f, &state);
	home_note_unless_dead(f, home_record_with(f, "away", f->gen, state));
}

/* Its process is called that now: so is its hollow. In the actor. */
static void mirror_name(struct family *f, const Sprite__Mig__ReportReq *r)
{
	int err = f->eng ? eng_hollow_named(f->eng, r->pid, r->comm, r->args.data, r->args.len) : 0;

	if (err)
		log_debug("family %s: hollow %d cannot be called %s: %s", f->id, r->pid, r->comm, strerror(-err));
	pthread_mutex_lock(&f->lock);
	family_rename(f, r->pid, r->comm);
	pthread_mutex_unlock(&f->lock);
}

/* Of a whole report: pid, numbers, a name of 16 bytes, arguments. */
enum { REPORT_MAX = 1024 + ENG_ARGS_MAX };

static Sprite__Mig__ReportReq *report_copy(const Sprite__Mig__ReportReq *r)
{
	size_t n = sprite__mig__report_req__get_packed_size(r);
	uint8_t packed[REPORT_MAX];

	if (n > sizeof(packed))
		return NULL;
	sprite__mig__report_req__pack(r, packed);
	return sprite__mig__report_req__unpack(NULL, n, packed);
}

/* Answered before it is carried out: a migd that comes after us carries it out. */
static int note_report(struct family *f, const Sprite__Mig__ReportReq *r)
{
	json_t *rec = journal_record("rep", f->id, r->gen);
	uint8_t packed[REPORT_MAX];
	size_t n = sprite__mig__report_req__pack(r, packed); /* report_copy() has seen that it fits */

	json_object_set_new(rec, "seq", json_integer((json_int_t)r->seq));
	json_object_set_new(rec, "msg", journal_bytes(packed, n));
	return home_note_unless_dead(f, rec);
}

static void note_report_done(struct family *f, const Sprite__Mig__ReportReq *r)
{
	json_t *rec = journal_record("repdone", f->id, r->gen);

	json_object_set_new(rec, "seq", json_integer((json_int_t)r->seq));
	home_note_unless_dead(f, rec);
}

static void report_free(struct report *w)
{
	sprite__mig__report_req__free_unpacked(w->msg, NULL);
	family_put(w->f);
	free(w);
}

static int actor_report(struct family *f, void *arg)
{
	struct report *w = arg;
	const Sprite__Mig__ReportReq *r = w->msg;
	bool again, empty = false;

	pthread_mutex_lock(&f->lock);
	again = r->seq <= f->report_seq;
	if (!again)
		f->report_seq = r->seq;
	pthread_mutex_unlock(&f->lock);
	if (!again) {
		switch (r->kind) {
		case SPRITE__MIG__REPORT_REQ__KIND__BORN:
			mirror_birth(f, r);
			/* fall through */
		case SPRITE__MIG__REPORT_REQ__KIND__NAMED:
			mirror_name(f, r);
			break;
		case SPRITE__MIG__REPORT_REQ__KIND__EXITED:
			if (r->pid == f->pid) /* with all its descendants that it waited for */
				stats_away_cpu(f->m, r->utime_us + r->stime_us);
			mirror_exit(f, r->pid, r->status);
			break;
		case SPRITE__MIG__REPORT_REQ__KIND__STOPPED:
			mirror_stop(f, r->pid, true, r->status, r->heard);
			break;
		case SPRITE__MIG__REPORT_REQ__KIND__CONTINUED:
			mirror_stop(f, r->pid, false, 0, r->heard);
			break;
		case SPRITE__MIG__REPORT_REQ__KIND__OFFSET:
			if (f->eng)
				eng_hollow_offset(f->eng, r->pid, r->num, r->pos);
			break;
		case SPRITE__MIG__REPORT_REQ__KIND__EMPTY:
			empty = true;
			break;
		default:
			break;
		}
	}
	if (empty)
		over(f);
	if (w->rq)
		mig_reply(w->rq, 0, "%s", "");
	else if (!empty) /* else the end of the record stands for it */
		note_report_done(f, r);
	report_free(w);
	return 0;
}

void home_report(void *ctx, struct rpc_request *rq)
{
	struct migd *m = ctx;
	const Sprite__Mig__ReportReq *r = (const Sprite__Mig__ReportReq *)rpc_request_msg(rq)->msg;
	struct family *f = family_find(m->families, FAM_HOME, r->family);
	struct report *w;
	bool ok, now = false;

	if (!f) {
		mig_reply(rq, 0, "family %s is over here", r->family); /* the reporter need not repeat it */
		return;
	}
	pthread_mutex_lock(&f->lock);
	ok = f->gen == r->gen && !strcmp(f->host, rpc_request_peer(rq));
	/* On its way home: the actor already fills the hollows and waits for the rest of the image, whose source waits for this answer before its freeze. */
	now = f->moving && !strcmp(f->dest, m->conf->name);
	pthread_mutex_unlock(&f->lock);
	w = ok ? calloc(1, sizeof(*w)) : NULL;
	if (w) {
		*w = (struct report){ now ? NULL : rq, f, report_copy(r) };
		if (w->msg && (!now || !note_report(f, w->msg)) && !family_post(f, actor_report, w)) {
			if (now)
				mig_reply(rq, 0, "%s", "");
			return;
		}
	}
	if (ok) /* it asks again */
		mig_reply(rq, EAGAIN, "%s cannot take a report now", m->conf->name);
	else
		mig_reply(rq, ESTALE, "generation %llu of family %s is not at %s", (unsigned long long)r->gen, r->family, rpc_request_peer(rq));
	if (w)
		report_free(w);
	else
		family_put(f);
}

/* Answered by who was here before us. A report of a generation that is no longer decided had been carried out before the commit. */
void home_replay_report(struct family *f, const json_t *rec)
{
	struct report *w = calloc(1, sizeof(*w));
	uint8_t packed[REPORT_MAX];
	ssize_t n = journal_get_bytes(rec, "msg", packed, sizeof(packed));

	if (!w || (uint64_t)json_integer_value(json_object_get(rec, "g")) != f->gen) {
		free(w);
		return;
	}
	*w = (struct report){ NULL, family_get(f), n > 0 ? sprite__mig__report_req__unpack(NULL, (size_t)n, packed) : NULL };
	if (!w->msg || family_post(f, actor_report, w))
		report_free(w);
}

/* ---- Sync: the home decides ---- */

void home_sync(void *ctx, struct rpc_request *rq)
{
	struct migd *m = ctx;
	const Sprite__Mig__SyncReq *r = (const Sprite__Mig__SyncReq *)rpc_request_msg(rq)->msg;
	Sprite__Mig__SyncRep rep = SPRITE__MIG__SYNC_REP__INIT;
	struct family *f = family_find(m->families, FAM_HOME, r->family);

	rep.verdict = SPRITE__MIG__SYNC_REP__VERDICT__DROP;
	rep.boot_id = (char *)clock_boot_id();
	if (f) {
		const char *peer = rpc_request_peer(rq);

		pthread_mutex_lock(&f->lock);
		if (!strcmp(peer, f->host) && r->gen == f->gen)
			rep.verdict = f->moving ? SPRITE__MIG__SYNC_REP__VERDICT__STAY : SPRITE__MIG__SYNC_REP__VERDICT__RUN;
		else if (f->moving && !strcmp(peer, f->dest) && r->gen == f->attempt)
			rep.verdict = SPRITE__MIG__SYNC_REP__VERDICT__STAY;
		pthread_mutex_unlock(&f->lock);
	}
	rpc_reply(rq, 0, &rep.base, NULL, 0, NULL, NULL);
	family_put(f);
}

/* ---- a guest host that has lost it ---- */

static int actor_kill_hollows(struct family *f, void *unused)
{
	size_t n = 0;
	const pid_t *p = f->eng ? eng_pids(f->eng, &n) : NULL;

	(void)unused;
	for (size_t i = n; i-- > 0;) {
		struct member *m;

		pthread_mutex_lock(&f->lock);
		m = family_member(f, p[i]); /* NULL: it is ending as its guest did; a SIGKILL now would be what its parent sees */
		if (m)
			m->ended = true;
		pthread_mutex_unlock(&f->lock);
		if (m)
			eng_exit_hollow(f->eng, p[i], SIGKILL);
	}
	return 0;
}

void home_bury(struct family *f, const char *why)
{
	pthread_mutex_lock(&f->lock);
	log_error("family %s: %d (%s) of uid %u was lost with %s (%s): its processes here end by SIGKILL", f->id, f->pid, f->comm, f->uid, f->host, why);
	pthread_mutex_unlock(&f->lock);
	family_call(f, actor_kill_hollows, NULL);
	family_call(f, home_actor_discard, NULL);
	home_forget(f);
}

int home_resolve(struct family *f, struct error *e)
{
	bool waits;

	pthread_mutex_lock(&f->lock);
	waits = f->moving && f->machine.state == MC_STARTING;
	if (waits)
		f->given_up = true;
	else if (f->moving)
		error_set(e, EBUSY, "%d (%s) is on its way: %s", f->pid, f->comm, mig_state_name(f->machine.state));
	pthread_mutex_unlock(&f->lock);
	if (e->code)
		return -e->code;
	log_warn("family %s: %d (%s) is given up: a person says that %s is lost", f->id, f->pid, f->comm, f->host);
	if (!waits)
		home_bury(f, "a person says that this host will not come back");
	return 0;
}

/* Does the host's own list hold this family? */
static bool holds(const Sprite__Mig__StatusRep *rep, const char *id, uint64_t gen)
{
	for (size_t i = 0; i < rep->n_guest; i++)
		if (!strcmp(rep->guest[i]->family, id) && rep->guest[i]->gen == gen)
			return true;
	return false;
}

static void check_family(struct family *f)
{
	Sprite__Mig__StatusReq req = SPRITE__MIG__STATUS_REQ__INIT;
	char host[HOST_NAME_MAX_];
	struct error e = { 0 };
	struct rpc_msg out;
	uint64_t gen;
	struct host *h;
	bool settled, same;

	pthread_mutex_lock(&f->lock);
	strcpy(host, f->host);
	gen = f->gen;
	/* One that is here, before its first move or between two attempts, is nobody's guest. */
	settled = !f->moving && !f->dead && strcmp(host, f->m->conf->name) && clock_real_ns() - f->since > SETTLE_S * 1000000000ll;
	pthread_mutex_unlock(&f->lock);
	h = settled ? hosts_find(f->m->hosts, host, &e) : NULL;
	if (!h)
		return;
	req.guests = true;
	if (host_call(h, MIG_STATUS, &req.base, CHECK_MS, &out, &e))
		return; /* silence proves nothing */
	pthread_mutex_lock(&f->lock);
	same = !f->moving && !f->dead && some_left(f) && f->gen == gen && !strcmp(f->host, host); /* nobody left: over() is at it */
	pthread_mutex_unlock(&f->lock);
	if (same && !holds((const Sprite__Mig__StatusRep *)out.msg, f->id, gen))
		home_bury(f, "it says that it does not hold it any more");
	rpc_msg_clear(&out);
}

static void *check_main(void *arg)
{
	struct migd *m = arg;
	struct family **v;
	size_t n = families_list(m->families, FAM_HOME, &v);

	for (size_t i = 0; i < n; i++)
		check_family(v[i]);
	families_list_free(v, n);
	return NULL;
}

void homes_tick(struct migd *m)
{
	if (families_count(m->families, FAM_HOME))
		thread_run(check_main, m);
}

/* ---- Evict: the owner of the guest host wants it back ---- */

/* Straight on to another idle host, where the policy says so and there is one. */
static bool onward(struct family *f)
{
	_cleanup_free_ char *host = NULL;
	struct move_opts o = { .eviction = true };
	struct error e = { 0 };
	char from[HOST_NAME_MAX_];

	pthread_mutex_lock(&f->lock);
	strcpy(from, f->host);
	pthread_mutex_unlock(&f->lock);
	if (!f->m->conf->evicted_onward || agent_place(f->m, f->uid, f->priority, from, &host, &o.slot, &e))
		return false;
	o.dest = host;
	if (!move_family(f, &o, NULL, &e))
		return true;
	log_note("family %s: %d (%s) could not go on to %s: %s", f->id, f->pid, f->comm, host, e.text);
	return false;
}

static void *evict_main(void *arg)
{
	struct family *f = arg;
	struct move_opts o = { .dest = f->m->conf->name, .eviction = true };
	struct error e = { 0 };

	if (!onward(f) && move_family(f, &o, NULL, &e) && e.code != EALREADY)
		log_warn("family %s: %d (%s) could not come home: %s", f->id, f->pid, f->comm, e.text);
	family_put(f);
	return NULL;
}

bool home_slot_wanted(struct migd *m, uint64_t slot)
{
	struct family **v;
	size_t n = families_list(m->families, FAM_HOME, &v);
	bool found = false;

	for (size_t i = 0; i < n && !found; i++) {
		struct family *f = v[i];

		pthread_mutex_lock(&f->lock);
		found = f->slot == slot && !f->moving && !f->dead;
		pthread_mutex_unlock(&f->lock);
		if (!found)
			continue;
		log_note("family %s: %d (%s) gives %s back: others have a right to it", f->id, f->pid, f->comm, f->host);
		if (thread_run(evict_main, family_get(f)))
			family_put(f);
	}
	families_list_free(v, n);
	return found;
}

void home_evict(void *ctx, struct rpc_request *rq)
{
	struct migd *m = ctx;
	const Sprite__Mig__EvictReq *r = (const Sprite__Mig__EvictReq *)rpc_request_msg(rq)->msg;
	struct family *f = family_find(m->families, FAM_HOME, r->family);
	bool ok = false;

	if (f) {
		pthread_mutex_lock(&f->lock);
		ok = !strcmp(f->host, rpc_request_peer(rq)) && f->gen == r->gen && !f->moving;
		pthread_mutex_unlock(&f->lock);
	}
	if (!ok) {
		mig_reply(rq, f ? EBUSY : ESRCH, "family %s is not there, or on its way", r->family);
		family_put(f);
		return;
	}
	log_note("family %s: %d (%s) is sent away by %s: %s", f->id, f->pid, f->comm, f->host, r->why);
	mig_reply(rq, 0, "%s", "");
	if (thread_run(evict_main, f))
		family_put(f);
}
