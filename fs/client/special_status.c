// SPDX-License-Identifier: Apache-2.0
/*
 * .sprite/{domains,clients,leases,locks,recalls,rpc,cache,metrics}: how this mount and its servers do, as text. What servers say is asked of all that we
 * know when the file is read, a second each at most: one that is away is shown as that.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "conf/cleanup.h"
#include "fs/client/special.h"

#define ASK_MS	    1000
#define SERVERS_MAX 64

struct text {
	char *buf;
	size_t len;
	FILE *f;
};

static FILE *text_begin(struct text *t)
{
	t->buf = NULL;
	return t->f = open_memstream(&t->buf, &t->len);
}

static int text_end(struct text *t, char **text, size_t *len)
{
	if (fclose(t->f) != 0) {
		free(t->buf);
		return -ENOMEM;
	}
	*text = t->buf;
	*len = t->len;
	return 0;
}

/* ---- what servers say */

static json_t *server_ask(struct server *s)
{
	Sprite__Fs__Empty in = SPRITE__FS__EMPTY__INIT;
	json_t *answer = NULL;
	struct rpc_msg out;
	char *text;

	if (rpc_call(s->bulk, &fs_methods[FS_STATUS], &in.base, NULL, 0, ASK_MS, &out) < 0)
		return NULL;
	text = out.err ? NULL : malloc(out.bulk_len + 1);
	if (text)
		answer = json_loadb(text, rpc_msg_copy(&out, text, out.bulk_len), 0, NULL);
	free(text);
	rpc_msg_clear(&out);
	return answer;
}

/* fn(f, server, its status or NULL) for each. */
static void servers_each(struct fs *fs, FILE *f, void (*fn)(FILE *f, struct server *s, json_t *status))
{
	struct server *s, *all[SERVERS_MAX];
	json_t *status;
	size_t i, n = 0;

	pthread_mutex_lock(&fs->table_lock);
	list_each(s, &fs->servers, link)
		if (n < SERVERS_MAX)
			all[n++] = s;
	pthread_mutex_unlock(&fs->table_lock);
	for (i = 0; i < n; i++) {
		status = server_ask(all[i]);
		fn(f, all[i], status);
		json_decref(status);
	}
}

static long long number(json_t *o, const char *key)
{
	return (long long)json_integer_value(json_object_get(o, key));
}

static const char *word(json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s && *s ? s : "-";
}

static void clients_of(FILE *f, struct server *s, json_t *status)
{
	size_t i;
	json_t *c;

	if (!status)
		fprintf(f, "%s away\n", s->name);
	json_array_foreach(json_object_get(status, "clients"), i, c)
		fprintf(f, "%s %s %s opens=%lld leases=%lld calls=%lld parked=%lld silent_ms=%lld\n", s->name, word(c, "host"), word(c, "instance"), number(c, "opens"),
			number(c, "leases"), number(c, "calls"), number(c, "parked"), number(c, "silent_ms"));
}

static int clients_read(struct fs *fs, const struct special_who *w, char **text, size_t *len)
{
	struct text t;

	(void)w;
	if (!text_begin(&t))
		return -ENOMEM;
	fprintf(t.f, "# server client-host mount opens leases calls parked silent\n");
	servers_each(fs, t.f, clients_of);
	return text_end(&t, text, len);
}

/* ---- domains */

static void domain_row(void *arg, const struct pnode *p, const char *path)
{
	const struct domain *d = p->dom;

	fprintf(arg, "%s %s %s:%d %s %s%s\n", path, d->server->name, d->server->addr.host, d->server->addr.port, atomic_load(&d->server->up) ? "up" : "away",
		d->attached ? "attached" : "-", d->home ? " home" : "");
}

static int domains_read(struct fs *fs, const struct special_who *w, char **text, size_t *len)
{
	struct text t;

	(void)w;
	if (!text_begin(&t))
		return -ENOMEM;
	fprintf(t.f, "# prefix server address state\n");
	prefix_rows(fs, domain_row, t.f);
	return text_end(&t, text, len);
}

/* ---- leases, locks, recalls */

struct lease_counts {
	FILE *f;
	const struct inode *ino;
	size_t inodes, attr, names, data, write, dirty, opens;
};

static void lease_one(void *arg, struct inode *ino)
{
	struct lease_counts *n = arg;
	struct list *l;

	n->inodes++;
	n->attr += !!(ino->lease & SPRITE__FS__LEASE_BITS__LEASE_ATTR);
	n->names += !!(ino->lease & SPRITE__FS__LEASE_BITS__LEASE_NAMES);
	n->data += !!(ino->lease & SPRITE__FS__LEASE_BITS__LEASE_DATA);
	n->write += !!(ino->lease & SPRITE__FS__LEASE_BITS__LEASE_WRITE);
	n->dirty += !list_empty(&ino->dirty) || !list_empty(&ino->flying);
	for (l = ino->streams.next; l != &ino->streams; l = l->next)
		n->opens++;
}

static void leases_of(FILE *f, struct server *s, json_t *status)
{
	if (status)
		fprintf(f, "server %s leases=%lld of all clients\n", s->name, number(status, "leases"));
	else
		fprintf(f, "server %s away\n", s->name);
}

static int leases_read(struct fs *fs, const struct special_who *w, char **text, size_t *len)
{
	struct lease_counts n = {0};
	struct text t;

	(void)w;
	if (!text_begin(&t))
		return -ENOMEM;
	inode_each(fs, lease_one, &n);
	fprintf(t.f, "here inodes=%zu attr=%zu names=%zu data=%zu write=%zu dirty_files=%zu dirty_bytes=%llu opens=%zu\n", n.inodes, n.attr, n.names, n.data, n.write, n.dirty,
		(unsigned long long)atomic_load(&fs->dirty_bytes), n.opens);
	servers_each(fs, t.f, leases_of);
	return text_end(&t, text, len);
}

static void lock_row(void *arg, const struct held_lock *h)
{
	struct lease_counts *n = arg;

	fprintf(n->f, "here node=%llu pid=%u %s %s %llu ", (unsigned long long)n->ino->id, h->pid, h->flock ? "flock" : "fcntl", h->type == F_WRLCK ? "write" : "read",
		(unsigned long long)h->start);
	if (h->end >= INT64_MAX)
		fprintf(n->f, "end\n");
	else
		fprintf(n->f, "%llu\n", (unsigned long long)h->end);
}

static void lock_one(void *arg, struct inode *ino)
{
	((struct lease_counts *)arg)->ino = ino;
	recover_locks_each(ino, lock_row, arg);
}

static void locks_of(FILE *f, struct server *s, json_t *status)
{
	json_t *l = json_object_get(status, "locks");

	if (l)
		fprintf(f, "server %s held=%lld waiting=%lld\n", s->name, number(l, "held"), number(l, "waiting"));
	else
		fprintf(f, "server %s away\n", s->name);
}

static int locks_read(struct fs *fs, const struct special_who *w, char **text, size_t *len)
{
	struct lease_counts n = {0};
	struct text t;

	(void)w;
	if (!text_begin(&t))
		return -ENOMEM;
	n.f = t.f;
	inode_each(fs, lock_one, &n);
	servers_each(fs, t.f, locks_of);
	return text_end(&t, text, len);
}

static void recalls_of(FILE *f, struct server *s, json_t *status)
{
	if (status)
		fprintf(f, "server %s sent=%lld owed=%lld\n", s->name, number(status, "recalls"), number(status, "recalls_owed"));
	else
		fprintf(f, "server %s away\n", s->name);
}

static int recalls_read(struct fs *fs, const struct special_who *w, char **text, size_t *len)
{
	struct text t;

	(void)w;
	if (!text_begin(&t))
		return -ENOMEM;
	fprintf(t.f, "here received=%llu name_caches_dropped=%llu\n", (unsigned long long)atomic_load(&fs->recalls), (unsigned long long)atomic_load(&fs->epochs));
	servers_each(fs, t.f, recalls_of);
	return text_end(&t, text, len);
}

/* ---- calls and hits */

/* Calls that went by a connection without gRPC, of each server. */
static void direct_each(struct fs *fs, void (*fn)(FILE *f, const struct server *s, uint64_t calls, int up), FILE *f)
{
	struct server *s;
	bool meta, bulk;
	uint64_t n;

	pthread_mutex_lock(&fs->table_lock);
	list_each(s, &fs->servers, link) {
		n = rpc_channel_direct(s->meta, &meta) + rpc_channel_direct(s->bulk, &bulk);
		fn(f, s, n, meta + bulk);
	}
	pthread_mutex_unlock(&fs->table_lock);
}

static void direct_row(FILE *f, const struct server *s, uint64_t calls, int up)
{
	fprintf(f, "direct %s calls=%llu connections=%d\n", s->name, (unsigned long long)calls, up);
}

static void direct_metric(FILE *f, const struct server *s, uint64_t calls, int up)
{
	(void)up;
	fprintf(f, "spritefs_direct_calls_total{server=\"%s\"} %llu\n", s->name, (unsigned long long)calls);
}

static int rpc_read(struct fs *fs, const struct special_who *w, char **text, size_t *len)
{
	struct text t;
	int i;

	(void)w;
	if (!text_begin(&t))
		return -ENOMEM;
	fprintf(t.f, "# operation calls mean_us\n");
	for (i = 0; i < FS_NOPS; i++)
		if (fs->count[i])
			fprintf(t.f, "%s %llu %.1f\n", call_op_name(i), (unsigned long long)fs->count[i], (double)fs->nanos[i] / (double)fs->count[i] / 1e3);
	fprintf(t.f, "retries %llu\n", (unsigned long long)atomic_load(&fs->retries));
	direct_each(fs, direct_row, t.f);
	return text_end(&t, text, len);
}

static void hits(FILE *f, const char *what, uint64_t here, uint64_t asked)
{
	fprintf(f, "%s here=%llu asked=%llu hit_percent=%.1f\n", what, (unsigned long long)here, (unsigned long long)asked,
		here + asked ? 100.0 * (double)here / (double)(here + asked) : 0.0);
}

static int cache_read(struct fs *fs, const struct special_who *w, char **text, size_t *len)
{
	struct text t;

	(void)w;
	if (!text_begin(&t))
		return -ENOMEM;
	fprintf(t.f, "# of what the kernel asked us (it keeps names, attributes and pages itself as long as they are leased)\n");
	hits(t.f, "opens", fs->local_opens, fs->count[FS_OPEN]);
	hits(t.f, "attributes", fs->local_attrs, fs->count[FS_GETATTR]);
	hits(t.f, "absent_names", fs->local_absent, fs->count[FS_LOOKUP]);
	return text_end(&t, text, len);
}

static void metric(FILE *f, const char *name, const char *type, const char *help, uint64_t v)
{
	fprintf(f, "# HELP spritefs_%s %s\n# TYPE spritefs_%s %s\nspritefs_%s %llu\n", name, help, name, type, name, (unsigned long long)v);
}

static int metrics_read(struct fs *fs, const struct special_who *w, char **text, size_t *len)
{
	struct lease_counts n = {0};
	struct text t;
	int i;

	(void)w;
	if (!text_begin(&t))
		return -ENOMEM;
	inode_each(fs, lease_one, &n);
	metric(t.f, "inodes", "gauge", "Inodes that the kernel knows.", n.inodes);
	metric(t.f, "opens", "gauge", "Open file descriptions.", n.opens);
	metric(t.f, "special_names", "gauge", "Names below .sprite that the kernel knows.", special_known());
	metric(t.f, "leases", "gauge", "Inodes under a lease on their attributes.", n.attr);
	metric(t.f, "dirty_bytes", "gauge", "Written here and not at the server yet.", fs->dirty_bytes);
	metric(t.f, "recalls_total", "counter", "Recalls received.", fs->recalls);
	metric(t.f, "local_opens_total", "counter", "Opens that needed no server.", fs->local_opens);
	metric(t.f, "local_attrs_total", "counter", "Attributes that needed no server.", fs->local_attrs);
	metric(t.f, "local_absent_total", "counter", "Absent names that needed no server.", fs->local_absent);
	metric(t.f, "retries_total", "counter", "Calls sent again because a server was away.", fs->retries);
	metric(t.f, "restarts_total", "counter", "How often spritefs was started again under this mount.", keep_head()->restarts);
	fprintf(t.f, "# HELP spritefs_direct_calls_total Calls that went by a connection without gRPC.\n# TYPE spritefs_direct_calls_total counter\n");
	direct_each(fs, direct_metric, t.f);
	fprintf(t.f, "# HELP spritefs_rpc_calls_total Calls by operation.\n# TYPE spritefs_rpc_calls_total counter\n");
	for (i = 0; i < FS_NOPS; i++)
		if (fs->count[i])
			fprintf(t.f, "spritefs_rpc_calls_total{operation=\"%s\"} %llu\n", call_op_name(i), (unsigned long long)fs->count[i]);
	fprintf(t.f, "# HELP spritefs_rpc_seconds_total Time from the request to the answer.\n# TYPE spritefs_rpc_seconds_total counter\n");
	for (i = 0; i < FS_NOPS; i++)
		if (fs->count[i])
			fprintf(t.f, "spritefs_rpc_seconds_total{operation=\"%s\"} %.6f\n", call_op_name(i), (double)fs->nanos[i] / 1e9);
	return text_end(&t, text, len);
}

const struct special_file special_status[] = {
	{"domains", 0444, domains_read},
	{"clients", 0444, clients_read},
	{"leases", 0444, leases_read},
	{"locks", 0444, locks_read},
	{"recalls", 0444, recalls_read},
	{"rpc", 0444, rpc_read},
	{"cache", 0444, cache_read},
	{"metrics", 0444, metrics_read},
	{0},
};
