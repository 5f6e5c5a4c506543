// SPDX-License-Identifier: Apache-2.0
/* Which process has which shared environment; see env.h. */
#include "migd/env.h"
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/log.h"
#include "conf/save.h"
#include "migd/envset.h"
#include "migd/family.h"
#include "migd/hosts.h"
#include "migd/mig_rpc.h"
#include "migd/proc.h"

enum { DEPTH_MAX = 4096, CALL_MS = 5000, CLEAN_EVERY_S = 60 };

struct envs {
	pthread_mutex_t lock;
	char *path;
	struct envsets *sets; /* lock */
	uint64_t cleaned_ns;  /* lock */
};

/* ---- processes ---- */

static int session_of(pid_t pid, pid_t *ppid, pid_t *session)
{
	char path[40], buf[512], *s;
	_cleanup_fclose_ FILE *f = NULL;
	size_t n;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "re");
	n = f ? fread(buf, 1, sizeof(buf) - 1, f) : 0; /* not a line: the name may have one's end in it */
	if (!n)
		return -ESRCH;
	buf[n] = 0;
	s = strrchr(buf, ')');
	return s && sscanf(s + 1, " %*c %d %*d %d", ppid, session) == 2 ? 0 : -EPROTO;
}

struct living {
	pid_t *session;
	size_t n;
};

static bool lives(void *arg, pid_t session)
{
	struct living *l = arg;

	for (size_t i = 0; i < l->n; i++)
		if (l->session[i] == session)
			return true;
	return false;
}

/* Under the lock. Sessions that nobody is in any more: their numbers may be given to others soon. */
static void clean(struct envs *t)
{
	struct living l = { 0 };
	struct dirent *de;
	DIR *d;

	if (clock_boot_ns() - t->cleaned_ns < CLEAN_EVERY_S * 1000000000ull)
		return;
	t->cleaned_ns = clock_boot_ns();
	d = opendir("/proc");
	l.session = calloc(65536, sizeof(*l.session));
	while (d && l.session && (de = readdir(d)) && l.n < 65536) {
		pid_t pid = atoi(de->d_name), ppid;

		if (pid > 0 && !session_of(pid, &ppid, &l.session[l.n]))
			l.n++;
	}
	if (d && l.n && l.n < 65536)
		envsets_clean(t->sets, lives, &l);
	if (d)
		closedir(d);
	free(l.session);
}

/*
 * Under the lock. The set of a process of this home: its session's, or that of the nearest ancestor that has one; then its session is tied to it, so that it
 * keeps it when those between have ended. NULL: there is none (make: out of memory).
 */
static struct envset *set_of(struct envs *t, pid_t pid, uid_t uid, bool make)
{
	pid_t own = 0, session, ppid;
	struct envset *s = NULL;

	clean(t);
	for (int depth = 0; depth < DEPTH_MAX && pid > 0 && !s && !session_of(pid, &ppid, &session); depth++, pid = ppid) {
		if (!own)
			own = session;
		if (session > 0)
			s = envset_find(t->sets, session, uid);
	}
	if (s && own)
		envset_tie(s, own);
	return s || !make || !own ? s : envset_make(t->sets, own, uid);
}

/* Under the lock. */
static void save(struct envs *t)
{
	json_t *o = json_pack("{s:s, s:o}", "boot", clock_boot_id(), "sets", envsets_save(t->sets));
	int r = save_json(t->path, o, JSON_COMPACT, false);

	if (r < 0)
		log_warn("%s: cannot be written: %s", t->path, strerror(-r));
	json_decref(o);
}

/* ---- one question ---- */

enum op { OP_LIST, OP_GET, OP_SET, OP_UNSET, OPS };
static const char *const op_name[OPS] = { "list", "get", "set", "unset" };

struct question {
	enum op op;
	pid_t pid; /* as its home knows it */
	uid_t uid;
	const char *name, *value;
	json_t *answer; /* an object of variables: all, or the one; new */
};

static int answer_here(struct migd *m, struct question *q, struct error *e)
{
	struct envs *t = m->envs;
	const char *value;
	struct envset *s;
	int err = 0;

	q->answer = json_object();
	pthread_mutex_lock(&t->lock);
	s = set_of(t, q->pid, q->uid, q->op == OP_SET);
	value = s && q->name ? envset_get(s, q->name) : NULL;
	if (!s && q->op == OP_SET)
		err = error_set(e, ESRCH, "there is no process %d at its home %s", q->pid, m->conf->name);
	else if (q->op == OP_LIST && s)
		json_object_update(q->answer, envset_list(s));
	else if (q->op == OP_GET && value)
		json_object_set_new(q->answer, q->name, json_string(value));
	else if (q->op == OP_SET)
		err = envset_set(s, q->name, q->value, e);
	else if (q->op == OP_UNSET && s)
		err = envset_unset(s, q->name, e);
	else if (q->op != OP_LIST)
		err = error_set(e, ENOENT, "%s: not set", q->name);
	if (!err && (q->op == OP_SET || q->op == OP_UNSET))
		save(t);
	pthread_mutex_unlock(&t->lock);
	return err;
}

static int answer_there(struct migd *m, struct family *f, struct question *q, struct error *e)
{
	Sprite__Mig__EnvReq r = SPRITE__MIG__ENV_REQ__INIT;
	const Sprite__Mig__EnvRep *rep;
	struct rpc_msg out;
	struct host *h = hosts_find(m->hosts, f->home, e);
	int err;

	if (!h)
		return -EHOSTDOWN;
	r.family = f->id;
	r.pid = q->pid;
	r.op = (char *)op_name[q->op];
	r.name = (char *)(q->name ? q->name : "");
	r.value = (char *)(q->value ? q->value : "");
	err = host_call(h, MIG_ENV, &r.base, CALL_MS, &out, e);
	if (err)
		return err;
	rep = (const Sprite__Mig__EnvRep *)out.msg;
	q->answer = *rep->vars ? json_loads(rep->vars, 0, NULL) : NULL;
	if (!q->answer)
		q->answer = json_object();
	rpc_msg_clear(&out);
	return 0;
}

void env_serve(void *ctx, struct rpc_request *rq)
{
	struct migd *m = ctx;
	const Sprite__Mig__EnvReq *r = (const Sprite__Mig__EnvReq *)rpc_request_msg(rq)->msg;
	struct family *f = family_find(m->families, FAM_HOME, r->family);
	Sprite__Mig__EnvRep rep = SPRITE__MIG__ENV_REP__INIT;
	_cleanup_free_ char *vars = NULL;
	struct question q = { .op = OPS, .name = *r->name ? r->name : NULL, .value = r->value };
	struct error e = { 0 };
	struct member *mem;
	int err = 0;

	for (int i = 0; i < OPS; i++)
		if (!strcmp(r->op, op_name[i]))
			q.op = (enum op)i;
	if (!f || q.op == OPS || (!q.name && q.op != OP_LIST)) {
		err = error_set(&e, f ? EINVAL : ESRCH, f ? "env: unknown operation" : "family %s is over here", r->family);
	} else {
		pthread_mutex_lock(&f->lock);
		mem = family_member(f, r->pid);
		q.pid = mem && mem->hollow ? r->pid : f->pid; /* who was born over there has no process here: its family's will do */
		q.uid = f->uid;
		if (strcmp(f->host, rpc_request_peer(rq)) && strcmp(f->dest, rpc_request_peer(rq)))
			err = error_set(&e, EACCES, "family %s is not at %s", f->id, rpc_request_peer(rq));
		pthread_mutex_unlock(&f->lock);
	}
	if (!err)
		err = answer_here(m, &q, &e);
	if (q.answer)
		vars = json_dumps(q.answer, JSON_COMPACT);
	json_decref(q.answer);
	if (vars)
		rep.vars = vars;
	rep.text = e.text;
	rpc_reply(rq, err ? (e.code ? e.code : -err) : 0, &rep.base, NULL, 0, NULL, NULL);
	family_put(f);
}

/* ---- the control verb ---- */

/* Of which guest family is process `pid` of this host? Its cgroup tells. *there: its pid as it sees it. */
static struct family *guest_family(struct migd *m, pid_t pid, pid_t *there)
{
	_cleanup_free_ char *line = NULL;
	_cleanup_fclose_ FILE *f = NULL, *st = NULL;
	char path[40], group[CGROUP_NAME_MAX] = "";
	size_t cap = 0;

	snprintf(path, sizeof(path), "/proc/%d/cgroup", pid);
	f = fopen(path, "re");
	while (f && !*group && getline(&line, &cap, f) > 0) {
		char *at = strstr(line, "/sprite-guests/sprite-");

		if (at)
			sscanf(at + strlen("/sprite-guests/"), "%127[^/\n]", group);
	}
	if (!*group)
		return NULL;
	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	st = fopen(path, "re");
	while (st && getline(&line, &cap, st) > 0)
		if (!strncmp(line, "NSpid:", 6)) {
			char *last = strrchr(line, '\t');

			*there = last ? atoi(last + 1) : 0;
		}
	return family_of_cgroup(m->families, group);
}

static bool question_of(struct local_conn *c, const struct local_cred *who, json_t *rq, struct question *q)
{
	const char *op = json_string_value(json_object_get(rq, "op"));
	json_t *pid = json_object_get(rq, "pid");
	struct proc_info p;

	*q = (struct question){ .op = OPS, .pid = pid ? (pid_t)json_integer_value(pid) : who->pid, .uid = who->uid,
		.name = json_string_value(json_object_get(rq, "name")), .value = json_string_value(json_object_get(rq, "value")) };
	for (int i = 0; op && i < OPS; i++)
		if (!strcmp(op, op_name[i]))
			q->op = (enum op)i;
	if (q->op == OPS)
		local_fail(c, EINVAL, "env: op: expected list, get, set or unset");
	else if (q->op != OP_LIST && !q->name)
		local_fail(c, EINVAL, "env: expected a name");
	else if (q->op == OP_SET && !q->value)
		local_fail(c, EINVAL, "env: expected a value");
	else if (pid && proc_read(q->pid, &p))
		local_fail(c, ESRCH, "there is no process %d here", q->pid);
	else if (pid && who->uid && p.uid != who->uid)
		local_fail(c, EPERM, "%d (%s) is not yours", q->pid, p.comm);
	else {
		if (pid)
			q->uid = p.uid;
		return true;
	}
	return false;
}

void env_verb(struct migd *m, struct local_conn *c, const struct local_cred *who, json_t *rq)
{
	struct error e = { 0 };
	struct question q;
	struct family *f;
	const char *name;
	json_t *v;
	int err;

	if (!question_of(c, who, rq, &q))
		return;
	f = guest_family(m, q.pid, &q.pid);
	if (f && q.uid && q.uid != f->uid) { /* anyone may name a cgroup of his own as ours are named */
		local_fail(c, EPERM, "%d is not of the family %s", q.pid, f->id);
		family_put(f);
		return;
	}
	err = f ? answer_there(m, f, &q, &e) : answer_here(m, &q, &e);
	family_put(f);
	if (err) {
		local_fail(c, e.code ? e.code : -err, "%s", e.text);
	} else if (q.op == OP_GET) {
		local_ok(c, json_pack("{s:O?}", "value", json_object_get(q.answer, q.name)));
	} else {
		json_object_foreach(q.answer, name, v)
			local_row(c, json_pack("{s:s, s:O}", "name", name, "value", v));
		local_ok(c, NULL);
	}
	json_decref(q.answer);
}

json_t *env_of_command(struct migd *m, pid_t pid, uid_t uid, pid_t from_session)
{
	struct question q = { .op = OP_LIST, .pid = pid, .uid = uid };
	struct envset *s;
	pid_t ppid, own;

	if (from_session > 0 && !session_of(pid, &ppid, &own)) { /* what it left may be gone already: its parent does not wait */
		pthread_mutex_lock(&m->envs->lock);
		s = envset_find(m->envs->sets, from_session, uid);
		if (s)
			envset_tie(s, own);
		pthread_mutex_unlock(&m->envs->lock);
	}
	answer_here(m, &q, NULL);
	return q.answer;
}

/* ---- the table: never freed, requests may look at it until the process is gone ---- */

int envs_open(struct migd *m, struct envs **out)
{
	struct envs *t = calloc(1, sizeof(*t));
	const char *boot;
	json_t *o;

	if (!t || !(t->sets = envsets_new()) || asprintf(&t->path, "%s/env.json", m->conf->state_dir) < 0) {
		free(t);
		return -ENOMEM;
	}
	pthread_mutex_init(&t->lock, NULL);
	t->cleaned_ns = clock_boot_ns();
	o = json_load_file(t->path, 0, NULL);
	boot = json_string_value(json_object_get(o, "boot"));
	if (boot && !strcmp(boot, clock_boot_id()) && envsets_load(t->sets, json_object_get(o, "sets")))
		log_warn("%s: damaged: some shared variables may be lost", t->path);
	json_decref(o);
	*out = t;
	return 0;
}
