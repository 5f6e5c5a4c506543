// SPDX-License-Identifier: Apache-2.0
/*
 * Verbs about hosts (ctl.c has those about processes).
 *
 *	hosts    {stats?}                  rows, one a host
 *	stats    {}                        this host's counters (stats.h)
 *	lend     {on?, for?}               for: seconds until it turns back. Changes: only root
 *	evict    {family?}  stop-all {}    root, and who sits at this host
 *	status   {}
 *	reach    {pids, hosts}             where the caller's families with these processes are, and whether that answers: rows {"host", "answers", "pids"}; of these hosts in any case
 */
#include "migd/ctl.h"
#include <errno.h>
#include <string.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "migd/evict.h"
#include "migd/family.h"
#include "migd/hosts.h"
#include "migd/office.h"
#include "migd/owner.h"
#include "migd/stats.h"

enum { STATUS_MS = 1500, REACH_MS = 4000 };

/* ---- hosts ---- */

static json_t *sources_json(const Sprite__Mig__StatusRep *r)
{
	json_t *a = json_array();

	for (size_t i = 0; i < r->n_source; i++)
		json_array_append_new(a, json_pack("{s:s, s:b, s:I, s:s}", "name", r->source[i]->name, "readable", r->source[i]->readable, "ago_ms",
						 (json_int_t)r->source[i]->ago_ms, "text", r->source[i]->text));
	return a;
}

static json_t *guests_json(const Sprite__Mig__StatusRep *r)
{
	json_t *a = json_array();

	for (size_t i = 0; i < r->n_guest; i++) {
		const Sprite__Mig__Guest *g = r->guest[i];

		json_array_append_new(a, json_pack("{s:s, s:s, s:I, s:i, s:s, s:i, s:I, s:s}", "family", g->family, "home", g->home, "uid", (json_int_t)g->uid,
						 "pid", g->pid, "comm", g->comm, "procs", (int)g->procs, "since", (json_int_t)g->since, "state", g->state));
	}
	return a;
}

static json_t *host_row(struct migd *m, const struct host_status *s)
{
	const Sprite__Mig__StatusRep *r = s->rep;
	struct conf_addr a;
	json_t *o;

	host_addr(s->host, &a);
	o = json_pack("{s:s, s:s, s:b, s:s, s:i}", "name", host_name(s->host), "state", r ? "up" : host_without_migd(s->host) ? "no migd" : "down", "self",
		!strcmp(host_name(s->host), m->conf->name), "address", a.host, "port", a.port);
	if (!r) {
		json_object_set_new(o, "error", json_string(host_without_migd(s->host) ? "no migd runs there" : strerror(-s->err)));
		if (host_answered(s->host))
			json_object_set_new(o, "since", json_integer(host_answered(s->host)));
		return o;
	}
	json_object_update_new(o, json_pack("{s:b, s:b, s:I, s:s, s:f, s:i, s:i, s:i, s:I, s:b, s:s, s:o, s:o}", "lend", r->lend, "idle", r->idle, "idle_ms",
					  (json_int_t)r->idle_ms, "why", r->why, "load", r->load, "cpus", (int)r->cpus, "guests", (int)r->guests, "away",
					  (int)r->away, "memory_free", (json_int_t)r->memory_free, "root_guests", r->root_guests, "version", r->version,
					  "sources", sources_json(r), "guest", guests_json(r)));
	json_object_set_new(o, "cgroups", json_string(r->cgroups));
	json_object_set_new(o, "master", json_boolean(r->master));
	if (*r->stats)
		json_object_set_new(o, "stats", json_loads(r->stats, 0, NULL));
	return o;
}

static void verb_hosts(struct migd *m, struct local_conn *c, json_t *rq)
{
	const struct hosts_ask q = { .guests = true, .stats = json_is_true(json_object_get(rq, "stats")) };
	struct host_status *s;
	struct error e = { 0 };
	size_t n;
	int err = hosts_status(m->hosts, &q, STATUS_MS, &s, &n, &e);

	if (err) {
		local_fail(c, e.code, "%s", e.text);
		return;
	}
	for (size_t i = 0; i < n; i++)
		local_row(c, host_row(m, &s[i]));
	hosts_status_free(s, n);
	local_ok(c, NULL);
}

/* ---- who waits for whom ---- */

/* Adds pid to the list of the host that its family is on, which is not this one. */
static void add_place(struct migd *m, json_t *places, uid_t uid, pid_t pid)
{
	struct family *f = family_of_pid(m->families, pid);
	char host[HOST_NAME_MAX_] = "";
	json_t *list;

	if (!f)
		return;
	pthread_mutex_lock(&f->lock);
	if (f->role == FAM_HOME && (!uid || f->uid == uid) && strcmp(f->host, m->conf->name))
		strcpy(host, f->host);
	pthread_mutex_unlock(&f->lock);
	family_put(f);
	list = *host ? json_object_get(places, host) : NULL;
	if (*host && !list && (list = json_array()))
		json_object_set_new(places, host, list);
	if (list)
		json_array_append_new(list, json_integer(pid));
}

static void verb_reach(struct migd *m, struct local_conn *c, const struct local_cred *who, json_t *rq)
{
	json_t *places = json_object(), *x;
	struct hosts_ask q = { 0 };
	struct host_status *s = NULL;
	struct error e = { 0 };
	const char *name, **names;
	size_t i, n = 0;
	int err = 0;

	json_array_foreach(json_object_get(rq, "hosts"), i, x)
		if (json_is_string(x))
			json_object_set_new(places, json_string_value(x), json_array());
	json_array_foreach(json_object_get(rq, "pids"), i, x)
		add_place(m, places, who->uid, (pid_t)json_integer_value(x));
	names = calloc(json_object_size(places) + 1, sizeof(*names));
	i = 0;
	json_object_foreach(places, name, x)
		if (names)
			names[i++] = name;
	q.only = names;
	err = names ? hosts_status(m->hosts, &q, REACH_MS, &s, &n, &e) : error_set(&e, ENOMEM, "out of memory");
	for (i = 0; i < n; i++)
		local_row(c, json_pack("{s:s, s:b, s:O}", "host", host_name(s[i].host), "answers", s[i].rep != NULL, "pids", json_object_get(places, host_name(s[i].host))));
	hosts_status_free(s, n);
	free(names);
	json_decref(places);
	if (err)
		local_fail(c, e.code, "%s", e.text);
	else
		local_ok(c, NULL);
}

/* ---- this host ---- */

static json_t *self_json(struct migd *m)
{
	struct owner_view v = { .why = "unknown" };

	if (m->owner)
		owner_look(m->owner, &v);
	return json_pack("{s:s, s:b, s:I, s:b, s:s, s:I, s:I, s:I}", "name", m->conf->name, "lend", m->lend ? 1 : 0, "for",
		m->lend_until ? (json_int_t)(m->lend_until - clock_real_ns() / 1000000000) : 0, "idle", v.idle, "why", v.why, "idle_ms", (json_int_t)v.idle_ms,
		"guests", (json_int_t)families_count(m->families, FAM_GUEST), "away", (json_int_t)families_count(m->families, FAM_HOME));
}

static void verb_lend(struct migd *m, struct local_conn *c, const struct local_cred *who, json_t *rq)
{
	json_t *on = json_object_get(rq, "on");
	json_int_t left = json_integer_value(json_object_get(rq, "for")); /* seconds: the caller's clock is not ours */
	struct error e = { 0 };

	if (on && !lend_may_change(m, who->uid))
		local_fail(c, EPERM, m->lend || m->lend_seat ? "only root and who is logged in at this host itself may change whether it lends itself" :
							       "only root may lend this host: it is root, or the configuration, that does not (sudo mig lend on)");
	else if (on && who->uid && m->lend_until && !m->lend_seat)
		local_fail(c, EPERM, "root has said until when this host lends itself: only root changes that (mig stop-all sends guests away)");
	else if (on && left < 0)
		local_fail(c, EINVAL, "--until: expected a time to come");
	else if (on && lend_set(m, json_is_true(on), left ? clock_real_ns() / 1000000000 + left : 0, who->uid != 0, &e))
		local_fail(c, e.code, "%s", e.text);
	else
		local_ok(c, self_json(m));
	office_report_soon(m->office);
}

static void verb_evict(struct migd *m, struct local_conn *c, const struct local_cred *who, json_t *rq, bool stop)
{
	const char *family = json_string_value(json_object_get(rq, "family"));
	struct error e = { 0 };
	size_t n;

	if (who->uid && !owner_sits_here(who->uid)) {
		local_fail(c, EPERM, "only root and who is logged in at this host itself may send guests away (they go by themselves when its owner touches it)");
		return;
	}
	if (stop && lend_may_change(m, who->uid) && lend_set(m, false, 0, who->uid && (!m->lend_until || m->lend_seat), &e)) {
		local_fail(c, e.code, "%s", e.text);
		return;
	}
	n = evict_guests(m, family, stop ? "stop-all" : "evicted by hand", true);
	if (stop)
		office_report_soon(m->office);
	local_ok(c, json_pack("{s:I}", "asked", (json_int_t)n));
}

bool ctl_host(struct migd *m, struct local_conn *c, const struct local_cred *who, json_t *rq, const char *verb)
{
	if (!strcmp(verb, "hosts"))
		verb_hosts(m, c, rq);
	else if (!strcmp(verb, "lend"))
		verb_lend(m, c, who, rq);
	else if (!strcmp(verb, "evict") || !strcmp(verb, "stop-all"))
		verb_evict(m, c, who, rq, verb[0] == 's');
	else if (!strcmp(verb, "stats"))
		local_ok(c, json_pack("{s:s, s:o}", "name", m->conf->name, "stats", stats_json(m)));
	else if (!strcmp(verb, "reach"))
		verb_reach(m, c, who, rq);
	else if (!strcmp(verb, "status"))
		local_ok(c, self_json(m));
	else
		return false;
	return true;
}
