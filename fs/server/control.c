/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control socket (spritefsd.sock): status for everyone; grant and revoke for root, that is for this host's migd.
 *
 *	{"verb":"grant","host":"ws2","uid":1000,"family":"ws1:4711","gids":[1000,100]}   gids may be missing: the user's groups here
 *	{"verb":"revoke","host":"ws2","uid":1000,"family":"ws1:4711"}                    family may be missing: all of them
 *	{"verb":"grants","grants":[{"host":"ws2","uid":1000,"family":"ws1:4711"}]}       these and no others
 *	{"verb":"held","host":"ws2","uid":1000,"ino":4711}      -> {"ok":true,"pid":P,"fd":N,"read":true,"write":false}  what that user has open there of a home's files, by
 *		the number that they have there: our descriptor of it, good while it stays open there, and how it is open. ESRCH: it is not. EAGAIN: not yet, clients are still
 *		opening again what they had open before this server was started again
 *	{"verb":"status"}                                                               -> {"ok":true,"status":{...}}
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "conf/clock.h"
#include "conf/log.h"
#include "fs/server/lease.h"
#include "fs/server/op.h"
#include "fs/server/mounts.h"
#include "fs/server/recover.h"

/* ---- status -------------------------------------------------------------------------------------------- */

static json_t *domains_json(struct fsd *d)
{
	json_t *a = json_array();

	for (size_t i = 0; i < d->exports.n; i++) {
		struct export *ex = &d->exports.list[i];
		char id[20];
		size_t mounts;

		pthread_rwlock_rdlock(&ex->lock);
		mounts = ex->nmounts;
		pthread_rwlock_unlock(&ex->lock);
		snprintf(id, sizeof(id), "%016llx", (unsigned long long)ex->domain);
		json_array_append_new(a,
			json_pack("{s:s,s:s,s:s,s:b,s:b,s:i}", "prefix", ex->conf->prefix, "path", ex->conf->path, "domain", id,
				"home", ex->conf->home, "readonly", ex->conf->readonly, "mounts", (int)mounts));
	}
	return a;
}

struct clients_json {
	struct fsd *d;
	json_t *all;
};

static void client_json(void *arg, struct client *c)
{
	uint64_t now = clock_boot_ns(), seen = atomic_load(&c->last_seen);
	struct clients_json *x = arg;

	json_array_append_new(x->all,
		json_pack("{s:s,s:s,s:b,s:b,s:I,s:b,s:i,s:i,s:i,s:I,s:I}", "host", c->peer, "instance", c->instance, "events", c->stream != NULL,
			"fenced", atomic_load(&c->fenced) != 0, "leases", (json_int_t)lease_count(x->d, c->id), "owes_recalls", lease_owes(x->d, c->id), "opens", atomic_load(&c->nopens), "waiting", atomic_load(&c->nwaiting), "parked",
			atomic_load(&c->nparked), "calls", (json_int_t)atomic_load(&c->calls), "silent_ms", (json_int_t)(now > seen ? (now - seen) / 1000000 : 0)));
}

/* Up to how many microseconds that part of the calls took: a power of two. */
static json_int_t took_us(const json_t *took, uint64_t calls, double part)
{
	uint64_t n = 0;
	json_t *v;
	size_t i;

	json_array_foreach((json_t *)took, i, v) {
		n += (uint64_t)json_integer_value(v);
		if ((double)n >= part * (double)calls)
			return (json_int_t)1 << i;
	}
	return (json_int_t)1 << OP_BUCKETS;
}

static json_t *rpcs_json(struct fsd *d)
{
	json_t *o = json_object();

	for (int i = 0; i < FS_NOPS; i++) {
		struct op_stat *s = &d->stats[i];
		uint64_t calls = atomic_load(&s->calls);
		json_t *took;

		if (!calls)
			continue;
		took = json_array();
		for (int k = 0; k < OP_BUCKETS; k++)
			json_array_append_new(took, json_integer((json_int_t)atomic_load(&s->took[k])));
		json_object_set_new(o, strrchr(fs_methods[i].name, '/') + 1,
			json_pack("{s:I,s:I,s:f,s:I,s:I,s:o}", "calls", (json_int_t)calls, "errors", (json_int_t)atomic_load(&s->errors), "mean_us",
				(double)atomic_load(&s->ns) / 1000.0 / (double)calls, "median_us", took_us(took, calls, 0.5), "p99_us", took_us(took, calls, 0.99), "took", took));
	}
	return o;
}

static json_t *prefixes_json(struct fsd *d)
{
	json_t *a = json_array();

	pthread_mutex_lock(&d->prefix_lock);
	for (size_t i = 0; i < d->prefixes.n; i++) {
		const struct prefix *p = &d->prefixes.rows[i];

		json_array_append_new(a,
			json_pack("{s:s,s:s,s:s,s:i,s:i,s:b}", "prefix", p->prefix, "server", p->server, "host", p->host, "port",
				(int)p->port, "mig_port", (int)p->mig_port, "home", p->home));
	}
	pthread_mutex_unlock(&d->prefix_lock);
	return a;
}

static void count_open(void *arg, struct open *o)
{
	(void)o;
	++*(size_t *)arg;
}

json_t *fsd_status(struct fsd *d)
{
	json_t *clients = json_array();
	struct clients_json x = {d, clients};
	size_t held, waiting, leases, owed, opens = 0;
	unsigned lanes = 0;
	uint64_t recalls, direct = d->server ? rpc_server_direct(d->server, &lanes) : 0;

	clients_each(&d->clients, client_json, &x);
	openstate_each(&d->opens, count_open, &opens);
	locks_count(d, &held, &waiting);
	lease_totals(d, &leases, &recalls, &owed);
	return json_pack("{s:s,s:b,s:b,s:o,s:o,s:o,s:o,s:I,s:I,s:I,s:I,s:{s:I,s:I},s:I,s:I,s:o}", "name", d->conf->name, "root", d->root, "grace", recover_in_grace(d), "domains",
		domains_json(d), "clients", clients, "prefixes", prefixes_json(d), "grants", grants_json(&d->grants), "opens",
		(json_int_t)opens, "leases", (json_int_t)leases, "recalls", (json_int_t)recalls, "recalls_owed", (json_int_t)owed, "locks", "held", (json_int_t)held, "waiting", (json_int_t)waiting,
		"direct_calls", (json_int_t)direct, "direct_connections", (json_int_t)lanes, "rpc", rpcs_json(d));
}

/* ---- verbs ----------------------------------------------------------------------------------------------- */

static void verb_grant(struct fsd *d, struct local_conn *c, json_t *rq, bool revoke)
{
	const char *host = json_string_value(json_object_get(rq, "host"));
	const char *family = json_string_value(json_object_get(rq, "family"));
	json_t *uid = json_object_get(rq, "uid"), *list = json_object_get(rq, "gids");
	gid_t gids[IDS_GROUPS_MAX];
	size_t n = json_array_size(list);
	int r;

	if (!host || !json_is_integer(uid) || (!family && !revoke) || (list && !json_is_array(list)) || n > IDS_GROUPS_MAX) {
		local_fail(c, EINVAL, "expected host, uid, family and perhaps gids");
		return;
	}
	for (size_t i = 0; i < n; i++)
		gids[i] = (gid_t)json_integer_value(json_array_get(list, i));
	if (revoke) {
		r = grants_remove(&d->grants, host, (uid_t)json_integer_value(uid), family);
		if (r == 0 && !grants_allow(&d->grants, host, (uid_t)json_integer_value(uid)))
			events_push(d, SPRITE__FS__EVENT__KIND__REVOKED, host);
	} else {
		r = grants_add(&d->grants, host, (uid_t)json_integer_value(uid), family, list ? gids : NULL, n);
	}
	if (r < 0 && !(revoke && r == -ENOENT)) /* nothing to take back: it may be said twice */
		local_fail(c, -r, "%s of %s, uid %lld: %s", revoke ? "revoke" : "grant", host, json_integer_value(uid), strerror(-r));
	else
		local_ok(c, NULL);
}

static void verb_grants(struct fsd *d, struct local_conn *c, json_t *rq)
{
	json_t *rows = json_object_get(rq, "grants");
	int r = json_is_array(rows) ? grants_only(&d->grants, rows) : -EINVAL;

	if (r > 0) {
		events_push(d, SPRITE__FS__EVENT__KIND__REVOKED, NULL);
		log_note("grants on this host's files: %d put right as migd says", r);
	}
	if (r == -EINVAL)
		local_fail(c, EINVAL, "expected grants: a list of host, uid and family");
	else if (r < 0)
		local_fail(c, -r, "grants: %s", strerror(-r));
	else
		local_ok(c, NULL);
}

struct held {
	const char *host;
	uid_t uid;
	uint64_t ino;
	int fd;
	bool read, write;
};

static void look_held(void *arg, struct open *o)
{
	struct held *h = arg;
	int how = o->flags & O_ACCMODE;

	if (!o->ex->conf->home || o->uid != h->uid || strcmp(o->client->peer, h->host) || op_ino(o->mount, o->ino) != h->ino)
		return;
	h->fd = o->fd;
	h->read |= how != O_WRONLY;
	h->write |= how != O_RDONLY;
}

static void verb_held(struct fsd *d, struct local_conn *c, json_t *rq)
{
	json_t *uid = json_object_get(rq, "uid"), *ino = json_object_get(rq, "ino");
	struct held h = {.host = json_string_value(json_object_get(rq, "host")), .uid = (uid_t)json_integer_value(uid), .ino = (uint64_t)json_integer_value(ino), .fd = -1};
	bool grace;

	if (!h.host || !json_is_integer(uid) || !json_is_integer(ino)) {
		local_fail(c, EINVAL, "expected host, uid and ino");
		return;
	}
	grace = recover_in_grace(d); /* before: who opens between the two is found */
	openstate_each(&d->opens, look_held, &h);
	if (h.fd < 0 && grace)
		local_fail(c, EAGAIN, "clients of the last run are still coming back");
	else if (h.fd < 0)
		local_fail(c, ESRCH, "%s, uid %d has no such file open", h.host, (int)h.uid);
	else
		local_ok(c, json_pack("{s:i,s:i,s:b,s:b}", "pid", (int)getpid(), "fd", h.fd, "read", h.read, "write", h.write));
}

static void control_handle(void *ctx, struct local_conn *c, const struct local_cred *who, json_t *rq)
{
	struct fsd *d = ctx;
	const char *verb = json_string_value(json_object_get(rq, "verb"));

	if (verb && !strcmp(verb, "status")) {
		local_ok(c, json_pack("{s:o}", "status", fsd_status(d)));
	} else if (verb && !strcmp(verb, "held")) {
		if (who->uid != 0)
			local_fail(c, EPERM, "only root may ask what is held");
		else
			verb_held(d, c, rq);
	} else if (verb && (!strcmp(verb, "grant") || !strcmp(verb, "revoke") || !strcmp(verb, "grants"))) {
		if (who->uid != 0)
			local_fail(c, EPERM, "only root may %s", verb[5] == 's' ? "set grants" : verb);
		else if (verb[5] == 's')
			verb_grants(d, c, rq);
		else
			verb_grant(d, c, rq, verb[0] == 'r');
	} else {
		local_fail(c, EINVAL, "unknown verb; expected status, grant, revoke, grants or held");
	}
}

int control_start(struct fsd *d, struct error *e)
{
	char path[4096];

	snprintf(path, sizeof(path), "%s/spritefsd.sock", d->conf->run_dir);
	return local_server_start(path, 0666, control_handle, d, &d->control, e);
}
