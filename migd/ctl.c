// SPDX-License-Identifier: Apache-2.0
/*
 * Verbs of the control socket (rpc/local.h). Each runs in a thread of its own and may block.
 *
 *	move    {pid, host?, max_freeze?, explain?}   only root and the owner of the process
 *	home    {pid}
 *	rehome  {pid, host, explain?}
 *	explain {pid}                                 rows {reason}
 *	resolve {pid, run}                            root: see mig-resolve in mig(1)
 *	ps      {all}                                 rows, one a process
 *	run     {host?, local_ok, priority?, ...}     see ctl_run.c
 *	went    {pid}                                 waits until the run of that process has gone, or failed
 *	hosts, stats, lend, evict, stop-all, status   see ctl_host.c
 *	ask, more, release                            see agent.h
 *	env                                           see env.h
 */
#include "migd/ctl.h"
#include "migd/agent.h"
#include "migd/env.h"
#include <errno.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/log.h"
#include "conf/text.h"
#include "migd/engine/engine.h"
#include "migd/family.h"
#include "migd/guest.h"
#include "migd/home.h"
#include "migd/hosts.h"
#include "migd/move.h"
#include "migd/owner.h"
#include "migd/pick.h"
#include "migd/proc.h"
#include "migd/select.h"

enum { STATUS_MS = 1500 };

static const char *text_of(json_t *rq, const char *key)
{
	return json_string_value(json_object_get(rq, key));
}

static pid_t pid_of(json_t *rq)
{
	json_int_t n = json_integer_value(json_object_get(rq, "pid"));

	return n > 0 && n <= 0x7fffffff ? (pid_t)n : 0;
}

static void fail(struct local_conn *c, const struct error *e, int err)
{
	int code = e->code ? e->code : -err;

	local_fail(c, code, "%s", e->code ? e->text : strerror(code));
}

/* ---- choosing ---- */

/* Without a master: by what the hosts say themselves. */
static char *pick_alone(struct migd *m, uid_t uid, uint64_t memory, const char *not_host, struct error *e)
{
	struct pick_need need = { .root = uid == 0, .memory = memory };
	struct host_status *s;
	struct pick_host *h;
	char *name = NULL;
	size_t n;
	int best;

	if (hosts_status(m->hosts, &(struct hosts_ask){ 0 }, STATUS_MS, &s, &n, e))
		return NULL;
	h = calloc(n + 1, sizeof(*h));
	for (size_t i = 0; h && i < n; i++) {
		const Sprite__Mig__StatusRep *r = s[i].rep;

		h[i].name = host_name(s[i].host);
		h[i].is_home = !strcmp(h[i].name, m->conf->name);
		h[i].is_source = !strcmp(h[i].name, not_host);
		if (!r)
			continue;
		h[i].reachable = true;
		h[i].lends = r->lend;
		h[i].idle = r->idle;
		h[i].cpu_ok = true;
		h[i].takes_root = r->root_guests;
		h[i].load = r->load;
		h[i].cpus = r->cpus;
		h[i].guests = r->guests;
		h[i].idle_ms = r->idle_ms;
		h[i].memory_free = r->memory_free;
	}
	best = h ? pick_host(h, n, &need, NULL) : -1;
	if (best >= 0)
		name = strdup(h[best].name);
	else
		error_set(e, EBUSY, "no host is idle and lends itself now (mig hosts shows why): name one with -H, or wait");
	free(h);
	hosts_status_free(s, n);
	return name;
}

char *ctl_pick(struct migd *m, uid_t uid, uint32_t priority, uint64_t memory, const char *not_host, uint64_t *slot, struct error *e)
{
	char *name = NULL;
	int err = agent_place(m, uid, priority, not_host, &name, slot, e);

	if (err != -EHOSTDOWN)
		return err ? NULL : name;
	*e = (struct error){ 0 };
	return pick_alone(m, uid, memory, not_host, e);
}

int ctl_may_leave(struct migd *m, const struct proc_info *p, struct error *e)
{
	const char *who = m->conf->exports_of;

	if (!strcmp(who, "none") || (!strcmp(who, "root") && p->uid))
		return error_set(e, EPERM, "%s lets %s leave (migd.exports in its sprite.conf)", m->conf->name, who[0] == 'n' ? "no processes" : "only processes of root");
	return 0;
}

/* ---- explain ---- */

/* The asker is a child of its shell and soon gone; what the engine says of a hollow is not what matters. */
static bool of_note(struct migd *m, const char *reason, const struct local_cred *who)
{
	pid_t pid = atoi(reason);
	struct family *f = pid == who->pid ? NULL : family_of_pid(m->families, pid);

	family_put(f);
	return pid != who->pid && !f;
}

/* Whom of its descendants the family would have to wait for; how many. */
static size_t rows_away(struct migd *m, struct local_conn *c, pid_t pid)
{
	struct family **away;
	size_t n = families_list(m->families, FAM_HOME, &away), found = 0;

	for (size_t i = 0; i < n; i++) {
		if (!proc_descends(away[i]->pid, pid))
			continue;
		local_row(c, json_pack("{s:o}", "reason", json_sprintf("%d (%s): is away, on %s: bring it home first (mig home %d)", away[i]->pid, away[i]->comm,
			away[i]->host, away[i]->pid)));
		found++;
	}
	families_list_free(away, n);
	return found;
}

/* Rows of reasons. Returns 0: movable, 1: not, -errno. */
static int explain(struct migd *m, struct local_conn *c, const struct local_cred *who, pid_t pid, json_t **facts, struct error *e)
{
	struct eng_reasons why = { 0 };
	struct eng_sizes sz = { 0 };
	struct proc_info p;
	size_t n;
	int r = proc_may_move(pid, who->uid, m->conf->root_guests, &p, e);

	if (r)
		return r;
	r = eng_explain(pid, &why, &sz, e);
	if (r < 0 && !why.n)
		return r;
	n = rows_away(m, c, pid);
	for (size_t i = 0; i < why.n; i++)
		if (of_note(m, why.line[i], who)) {
			local_row(c, json_pack("{s:s}", "reason", why.line[i]));
			n++;
		}
	*facts = json_pack("{s:b, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s}", "movable", n == 0, "comm", p.comm, "uid", (json_int_t)p.uid, "resident",
		(json_int_t)sz.resident, "to_send", (json_int_t)sz.to_send, "procs", (json_int_t)sz.procs, "threads", (json_int_t)sz.threads, "fds",
		(json_int_t)sz.fds, "freeze_ms", (json_int_t)sz.freeze_ms, "where", m->conf->name);
	r = n ? 1 : 0;
	eng_reasons_clear(&why);
	return r;
}

static bool may_touch(const struct family *f, const struct local_cred *who)
{
	return !who->uid || who->uid == f->uid;
}

/* What it is called: at home, as ps(1) has it, by its hollow (*p; else zeros). With f->lock. */
static const char *shown_name(const struct family *f, const struct member *mem, struct proc_info *p)
{
	*p = (struct proc_info){ 0 };
	if (f->role == FAM_HOME && (mem->hollow || mem->pid == f->pid) && !proc_read(mem->pid, p))
		return text_valid(p->comm);
	return *mem->comm ? mem->comm : f->comm;
}

static void verb_explain(struct migd *m, struct local_conn *c, const struct local_cred *who, json_t *rq)
{
	struct family *f = family_of_pid(m->families, pid_of(rq));
	const struct member *mem;
	struct error e = { 0 };
	json_t *facts = NULL;
	struct proc_info p;
	int r;

	if (f) {
		if (!may_touch(f, who)) {
			local_fail(c, EPERM, "%d (%s) is not yours", f->pid, f->comm);
		} else {
			pthread_mutex_lock(&f->lock);
			mem = family_member(f, pid_of(rq));
			facts = json_pack("{s:b, s:s, s:I, s:s, s:s, s:I}", "movable", 1, "comm", mem ? shown_name(f, mem, &p) : f->comm, "uid", (json_int_t)f->uid, "where", f->host,
				"last_error", f->last_error, "procs", (json_int_t)f->nmembers);
			pthread_mutex_unlock(&f->lock);
			local_ok(c, facts);
		}
		family_put(f);
		return;
	}
	r = explain(m, c, who, pid_of(rq), &facts, &e);
	if (r < 0)
		fail(c, &e, r);
	else
		local_ok(c, facts);
}

/* ---- move and home ---- */

static void progress(void *arg, const char *text)
{
	local_row(arg, json_pack("{s:s}", "progress", text));
}

static struct family *family_if_sound(struct migd *m, const struct local_cred *who, pid_t pid, uint64_t *memory, struct error *e)
{
	struct eng_reasons why = { 0 };
	struct eng_sizes sz = { 0 };
	struct family **away, *f = NULL;
	struct proc_info p;
	size_t n;
	int r;

	if (proc_may_move(pid, who->uid, m->conf->root_guests, &p, e) || ctl_may_leave(m, &p, e))
		return NULL;
	n = families_list(m->families, FAM_HOME, &away);
	for (size_t i = 0; i < n && !e->code; i++)
		if (proc_descends(away[i]->pid, pid))
			error_set(e, EBUSY, "%d (%s) has a descendant that is away (%d on %s): bring that home first (mig home %d)", pid, p.comm, away[i]->pid,
				away[i]->host, away[i]->pid);
	families_list_free(away, n);
	if (e->code)
		return NULL;
	r = eng_explain(pid, &why, &sz, e);
	if (why.n)
		error_set(e, EOPNOTSUPP, why.n > 1 ? "cannot move: %s (and %zu more reasons: mig explain %d)" : "cannot move: %s", why.line[0], why.n - 1, pid);
	eng_reasons_clear(&why);
	if (r) {
		error_set(e, r < 0 ? -r : EOPNOTSUPP, "%d (%s) cannot move", pid, p.comm);
		return NULL;
	}
	*memory = sz.resident;
	r = family_create(m->families,
		&(struct family_new){ .role = FAM_HOME, .home = m->conf->name, .uid = p.uid, .gid = p.gid, .pid = pid, .comm = p.comm, .on_event = home_event }, &f);
	if (r) {
		error_set(e, -r, "no room for a record: %s", strerror(-r));
		return NULL;
	}
	f->priority = SELECT_NORMAL;
	return f;
}

/*
 * A process that is at home becomes a family: looked at by us, then by the engine (without stopping it), then recorded. What is found amiss with one whom somebody
 * else has begun to move meanwhile is what that move does to it.
 */
static struct family *family_from_pid(struct migd *m, const struct local_cred *who, pid_t pid, uint64_t *memory, struct error *e)
{
	struct family *f = family_if_sound(m, who, pid, memory, e), *other = f ? NULL : family_of_pid(m->families, pid);

	if (other) {
		*e = (struct error){ 0 };
		error_set(e, EBUSY, "%d (%s) is on its way already: wait for that move to end", pid, other->comm);
		family_put(other);
	}
	return f;
}

/* A record of a family that never left, or is back, is of no use. */
static void drop_if_here(struct family *f)
{
	bool here;

	pthread_mutex_lock(&f->lock);
	here = !f->moving && !strcmp(f->host, f->m->conf->name);
	pthread_mutex_unlock(&f->lock);
	if (here)
		family_remove(f);
}

static void move_to(struct local_conn *c, struct family *f, const char *dest, uint64_t slot, unsigned max_freeze)
{
	struct move_opts o = { .dest = dest, .slot = slot, .max_freeze_ms = max_freeze, .progress = progress, .arg = c };
	struct move_result r = { 0 };
	struct error e = { 0 };
	int err = move_family(f, &o, &r, &e);

	drop_if_here(f);
	if (err)
		fail(c, &e, err);
	else
		local_ok(c, json_pack("{s:i, s:s, s:s, s:I, s:I, s:I}", "pid", f->pid, "comm", f->comm, "host", dest, "bytes", (json_int_t)r.bytes, "frozen_us",
				    (json_int_t)(r.frozen_ns / 1000), "total_us", (json_int_t)(r.total_ns / 1000)));
}

static void verb_move_explain(struct migd *m, struct local_conn *c, const struct local_cred *who, pid_t pid, const char *host)
{
	struct error e = { 0 };
	json_t *facts = NULL;
	int r = explain(m, c, who, pid, &facts, &e);

	if (r < 0) {
		fail(c, &e, r);
		return;
	}
	if (host && !hosts_find(m->hosts, host, &e)) {
		local_row(c, json_pack("{s:s}", "reason", e.text));
		json_object_set_new(facts, "movable", json_false());
	}
	local_ok(c, facts);
}

/* By the name of who was asked for, which need not be its family's first. */
static void refuse_there(struct family *f, pid_t pid, const char *host, struct error *e)
{
	const struct member *mem;
	struct proc_info p;

	pthread_mutex_lock(&f->lock);
	mem = family_member(f, pid);
	if (mem && !f->moving && !strcmp(f->host, host))
		error_set(e, EALREADY, "%d (%s) is on %s already", pid, shown_name(f, mem, &p), host);
	pthread_mutex_unlock(&f->lock);
}

static void verb_move(struct migd *m, struct local_conn *c, const struct local_cred *who, json_t *rq)
{
	json_int_t ms = json_integer_value(json_object_get(rq, "max_freeze"));
	const char *host = text_of(rq, "host");
	_cleanup_free_ char *picked = NULL;
	pid_t pid = pid_of(rq);
	struct error e = { 0 };
	uint64_t memory = 0, slot = 0;
	char now[HOST_NAME_MAX_];
	struct family *f;

	if (!pid) {
		local_fail(c, EINVAL, "expected the number of a process");
		return;
	}
	f = family_of_pid(m->families, pid);
	if (json_is_true(json_object_get(rq, "explain")) && !f) {
		verb_move_explain(m, c, who, pid, host);
		return;
	}
	if (f && !may_touch(f, who))
		error_set(&e, EPERM, "%d (%s) is not yours: only its owner and root may move it", pid, f->comm);
	else if (host && strcmp(host, m->conf->name) && !hosts_find(m->hosts, host, &e))
		host = NULL;
	else if (!f && host && !strcmp(host, m->conf->name))
		error_set(&e, EALREADY, "%d is on %s already", pid, host);
	else if (f && host)
		refuse_there(f, pid, host, &e);
	if (!e.code && !f)
		f = family_from_pid(m, who, pid, &memory, &e);
	if (!e.code && !host) {
		pthread_mutex_lock(&f->lock);
		strcpy(now, f->host);
		pthread_mutex_unlock(&f->lock);
		host = picked = ctl_pick(m, f->uid, f->priority, memory, now, &slot, &e);
	}
	if (e.code) {
		if (f)
			drop_if_here(f);
		fail(c, &e, -EIO);
	} else if (json_is_true(json_object_get(rq, "explain"))) {
		local_ok(c, json_pack("{s:b, s:s}", "movable", 1, "host", host));
		agent_leave(m, slot);
	} else {
		move_to(c, f, host, slot, ms > 0 && ms < 1 << 30 ? (unsigned)ms : 0);
	}
	family_put(f);
}

static void verb_home(struct migd *m, struct local_conn *c, const struct local_cred *who, json_t *rq)
{
	pid_t pid = pid_of(rq);
	struct family *f = family_of_pid(m->families, pid);
	struct proc_info p;

	if (!f && proc_read(pid, &p))
		local_fail(c, ESRCH, "there is no process %d here", pid);
	else if (!f)
		local_fail(c, EALREADY, "%d (%s) is at home", pid, p.comm);
	else if (!may_touch(f, who))
		local_fail(c, EPERM, "%d (%s) is not yours: only its owner and root may move it", pid, f->comm);
	else
		move_to(c, f, m->conf->name, 0, 0);
	family_put(f);
}

/* ---- rehome ---- */

static void tell_reasons(struct local_conn *c, const struct eng_reasons *why)
{
	for (size_t i = 0; i < why->n; i++)
		local_row(c, json_pack("{s:s}", "reason", why->line[i]));
}

/* A family that is at home. Takes the reference. */
static void rehome(struct migd *m, struct local_conn *c, struct family *f, const char *host, bool explain)
{
	struct move_opts o = { .dest = host, .adopt = true, .progress = progress, .arg = c };
	struct eng_reasons why = { 0 };
	struct move_result r = { 0 };
	struct error e = { 0 };
	int err = eng_explain_rehome(f->pid, m->conf->mount, &why);

	if (explain)
		tell_reasons(c, &why);
	else if (why.n)
		err = error_set(&e, EOPNOTSUPP, why.n > 1 ? "cannot change its home: %s (and %zu more reasons: mig rehome -n)" : "cannot change its home: %s", why.line[0], why.n - 1);
	else if (!err)
		err = move_family(f, &o, &r, &e);
	if (explain && err >= 0)
		local_ok(c, json_pack("{s:b, s:s}", "movable", !why.n, "host", host));
	else if (err)
		fail(c, &e, err);
	else
		local_ok(c, json_pack("{s:i, s:s, s:s, s:I, s:I, s:I}", "pid", f->pid, "comm", f->comm, "host", host, "bytes", (json_int_t)r.bytes, "frozen_us",
				    (json_int_t)(r.frozen_ns / 1000), "total_us", (json_int_t)(r.total_ns / 1000)));
	eng_reasons_clear(&why);
	drop_if_here(f);
	family_put(f);
}

/* One that is away comes home first: what it holds is known here. */
static void verb_rehome(struct migd *m, struct local_conn *c, const struct local_cred *who, json_t *rq)
{
	bool explain = json_is_true(json_object_get(rq, "explain"));
	const char *host = text_of(rq, "host");
	pid_t pid = pid_of(rq);
	struct family *f = family_of_pid(m->families, pid);
	struct move_opts back = { .dest = m->conf->name, .progress = progress, .arg = c };
	struct error e = { 0 };
	uint64_t memory;

	if (!host)
		error_set(&e, EINVAL, "name the new home (-H)");
	else if (!strcmp(host, m->conf->name))
		error_set(&e, EALREADY, "%s is its home already", host);
	else if (!hosts_find(m->hosts, host, &e))
		;
	else if (f && !may_touch(f, who))
		error_set(&e, EPERM, "%d (%s) is not yours: only its owner and root may move it", pid, f->comm);
	else if (f && explain)
		error_set(&e, EBUSY, "%d (%s) is on %s: bring it home first (mig home %d)", pid, f->comm, f->host, pid);
	else if (f)
		move_family(f, &back, NULL, &e);
	family_put(f);
	f = e.code ? NULL : family_from_pid(m, who, pid, &memory, &e);
	if (f)
		rehome(m, c, f, host, explain);
	else
		fail(c, &e, -EIO);
}

/* ---- resolve ---- */

static struct family *guest_with(struct migd *m, pid_t pid)
{
	struct family **v, *found = NULL;
	size_t n = families_list(m->families, FAM_GUEST, &v);

	for (size_t i = 0; i < n && !found; i++) {
		pthread_mutex_lock(&v[i]->lock);
		if (v[i]->pid == pid || family_member(v[i], pid))
			found = family_get(v[i]);
		pthread_mutex_unlock(&v[i]->lock);
	}
	families_list_free(v, n);
	return found;
}

static void verb_resolve(struct migd *m, struct local_conn *c, const struct local_cred *who, json_t *rq)
{
	bool run = json_is_true(json_object_get(rq, "run"));
	pid_t pid = pid_of(rq);
	struct family *f = guest_with(m, pid);
	struct error e = { 0 };
	int err;

	if (!f)
		f = family_of_pid(m->families, pid);
	if (who->uid)
		err = error_set(&e, EPERM, "only root may decide a move that is in doubt");
	else if (!f)
		err = error_set(&e, ESRCH, "%d is neither away from here nor a guest here", pid);
	else if (f->role == FAM_GUEST)
		err = guest_resolve(f, run, &e);
	else if (run)
		err = error_set(&e, EINVAL, "%d (%s) is on %s: if it is to run there, say so there", pid, f->comm, f->host);
	else
		err = home_resolve(f, &e);
	if (err)
		fail(c, &e, err);
	else
		local_ok(c, json_pack("{s:i}", "pid", pid));
	family_put(f);
}

/* ---- ps ---- */

static json_t *user_name(uid_t uid)
{
	char buf[1024];
	struct passwd pw, *found = NULL;

	if (getpwuid_r(uid, &pw, buf, sizeof(buf), &found) || !found)
		return json_sprintf("%u", uid);
	return json_string(pw.pw_name);
}

static json_t *process_row(const struct family *f, const struct member *mem, const char *where)
{
	struct proc_info p;
	const char *comm = shown_name(f, mem, &p);
	pid_t ppid = mem->ppid ? mem->ppid : p.ppid;

	return json_pack("{s:i, s:i, s:s, s:I, s:o, s:s, s:s, s:s, s:i, s:s, s:I, s:s, s:b}", "pid", mem->pid, "ppid", ppid, "comm",
		comm, "uid", (json_int_t)f->uid, "user", user_name(f->uid), "where", where, "home", f->home, "host", f->host, "root",
		f->pid, "family", f->id, "since", (json_int_t)f->since, "state", mig_state_name(f->machine.state), "stopped", mem->stopped);
}

static void family_rows(struct local_conn *c, struct family *f)
{
	struct member root = { .pid = f->pid };
	const char *where;
	json_t *rows = json_array(), *row;
	size_t i, shown = 0;

	pthread_mutex_lock(&f->lock);
	where = f->moving ? "moving" : f->role == FAM_HOME ? "away" : f->orphaned ? "orphan" : "guest";
	for (i = 0; i < f->nmembers; i++)
		if (!f->members[i].ended) {
			json_array_append_new(rows, process_row(f, &f->members[i], where));
			shown++;
		}
	if (!shown)
		json_array_append_new(rows, process_row(f, &root, where));
	pthread_mutex_unlock(&f->lock);
	json_array_foreach(rows, i, row)
		local_row(c, json_incref(row));
	json_decref(rows);
}

static void verb_ps(struct migd *m, struct local_conn *c, const struct local_cred *who, json_t *rq)
{
	bool all = json_is_true(json_object_get(rq, "all"));
	struct family **v;

	for (int role = FAM_HOME; role <= FAM_GUEST; role++) {
		size_t n = families_list(m->families, role, &v);

		for (size_t i = 0; i < n; i++)
			if (all || (role == FAM_HOME && may_touch(v[i], who)))
				family_rows(c, v[i]);
		families_list_free(v, n);
	}
	local_ok(c, NULL);
}

void ctl_handler(void *ctx, struct local_conn *c, const struct local_cred *who, json_t *rq)
{
	struct migd *m = ctx;
	const char *verb = text_of(rq, "verb");

	log_debug("mig %s from uid %u, pid %d", verb, who->uid, who->pid);
	if (!strcmp(verb, "move"))
		verb_move(m, c, who, rq);
	else if (!strcmp(verb, "home"))
		verb_home(m, c, who, rq);
	else if (!strcmp(verb, "rehome"))
		verb_rehome(m, c, who, rq);
	else if (!strcmp(verb, "resolve"))
		verb_resolve(m, c, who, rq);
	else if (!strcmp(verb, "explain"))
		verb_explain(m, c, who, rq);
	else if (!strcmp(verb, "run"))
		ctl_run(m, c, who, rq);
	else if (!strcmp(verb, "went"))
		ctl_went(m, c, who, rq);
	else if (!strcmp(verb, "ps"))
		verb_ps(m, c, who, rq);
	else if (!strcmp(verb, "env"))
		env_verb(m, c, who, rq);
	else if (!strcmp(verb, "ask"))
		agent_verb_ask(m, c, who, rq);
	else if (!strcmp(verb, "more"))
		agent_verb_more(m, c, who, rq);
	else if (!strcmp(verb, "release"))
		agent_verb_release(m, c, who, rq);
	else if (!ctl_host(m, c, who, rq, verb))
		local_fail(c, EOPNOTSUPP, "unknown verb \"%s\"", verb);
}
