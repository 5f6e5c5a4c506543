// SPDX-License-Identifier: Apache-2.0
/*
 * The prefix table: which server has which part of the tree.
 *
 * "A client needs only the root server's name" (Welch and Ousterhout 1986: prefix tables). The table is asked for at the start, when the root
 * server says on its Events stream that it has changed, and every 5 s in case that was lost. Nodes, domains and servers are added and
 * changed, never removed, while the mount lasts; what the table no longer has is only no longer `present`.
 *
 * A domain is attached when the first call for it is sent; calls wait in domain.waiters meanwhile, for ever when its server is away (they can be
 * interrupted), and fail with what the server said when it refuses. An attached domain's calls are refused by its server one by one.
 */
#include "fs/client/client.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "conf/clock.h"
#include "conf/log.h"
#include "fs/client/kept.h"

#define SPACE_EVERY_NS 1000000000ull
#define ASK_EVERY_NS (5000 * 1000000ull)

static void pnode_save(const struct pnode *p)
{
	char path[4096];
	size_t at = sizeof(path) - 1, n;
	uint64_t id = p->inode->id;

	path[at] = 0;
	for (; p->parent; p = p->parent) {
		n = strlen(p->name);
		if (n + 1 > at)
			return; /* no such path can be asked for */
		at -= n;
		memcpy(path + at, p->name, n);
		path[--at] = '/';
	}
	keep_put(NULL, KEEP_PNODE, id, path + at, sizeof(path) - at);
}

static struct pnode *pnode_new(struct fs *fs, struct pnode *parent, const char *name, size_t len)
{
	struct pnode *p = calloc(1, sizeof(*p)), **at;

	if (!p || !(p->name = strndup(name, len)))
		goto fail;
	p->parent = parent;
	p->inode = inode_new(fs, NULL, p);
	if (!p->inode)
		goto fail;
	if (parent) {
		for (at = &parent->child; *at; at = &(*at)->next)
			;
		*at = p;
		pnode_save(p);
	}
	return p;
fail:
	if (p)
		free(p->name);
	free(p);
	return NULL;
}

static struct pnode *pnode_find(struct pnode *p, const char *name, size_t len)
{
	struct pnode *k;

	for (k = p->child; k; k = k->next)
		if (strlen(k->name) == len && !memcmp(k->name, name, len))
			return k;
	return NULL;
}

struct pnode *prefix_child(struct fs *fs, struct pnode *p, const char *name, size_t len)
{
	struct pnode *k;

	pthread_mutex_lock(&fs->table_lock);
	k = pnode_find(p, name, len);
	if (k && !k->present)
		k = NULL;
	pthread_mutex_unlock(&fs->table_lock);
	return k;
}

struct pnode *prefix_nth(struct fs *fs, struct pnode *p, uint64_t *i)
{
	struct pnode *k;
	uint64_t n = 0;

	pthread_mutex_lock(&fs->table_lock);
	for (k = p->child; k; k = k->next, n++)
		if (n >= *i && k->present)
			break;
	*i = n + 1;
	pthread_mutex_unlock(&fs->table_lock);
	return k;
}

static void rows(struct pnode *p, const char *path, void (*fn)(void *arg, const struct pnode *p, const char *path), void *arg)
{
	char sub[4096];
	struct pnode *k;

	if (p->dom && p->present && p->dom->server)
		fn(arg, p, *path ? path : "/");
	for (k = p->child; k; k = k->next) {
		if ((size_t)snprintf(sub, sizeof(sub), "%s/%s", path, k->name) < sizeof(sub))
			rows(k, sub, fn, arg);
	}
}

void prefix_rows(struct fs *fs, void (*fn)(void *arg, const struct pnode *p, const char *path), void *arg)
{
	pthread_mutex_lock(&fs->table_lock);
	rows(fs->root, "", fn, arg);
	pthread_mutex_unlock(&fs->table_lock);
}

/* ---- servers */

static void server_changed(void *arg, bool up)
{
	struct server *s = arg;

	if (atomic_exchange(&s->up, up) != up)
		log_info("%s is %s", s->name, up ? "there" : "away");
}

static struct kept_server *kept_server(const struct server *s)
{
	return s->keep ? (struct kept_server *)s->keep->data : NULL;
}

static void server_save(struct server *s)
{
	struct kept_server *k;

	s->keep = keep_new(sizeof(*k));
	if (!s->keep)
		return;
	k = kept_server(s);
	memset(k, 0, sizeof(*k));
	k->port = s->addr.port;
	snprintf(k->name, sizeof(k->name), "%s", s->name);
	snprintf(k->host, sizeof(k->host), "%s", s->addr.host);
	keep_commit(s->keep, KEEP_SERVER, s->index);
}

/* With s->lock. What follows from it has been done. Killed in between, another spritefs does it again. */
void server_note(struct server *s)
{
	struct kept_server *k = kept_server(s);

	if (!k)
		return;
	if (s->recovered != s->epoch)
		atomic_store(&k->recovered, s->recovered);
	atomic_store(&k->lease_ms, s->lease_ms);
	atomic_store(&k->lease_epoch, s->lease_epoch);
	atomic_store(&k->epoch, s->epoch);
	atomic_store(&k->recovered, s->recovered);
}

void server_note_recall(struct server *s)
{
	pthread_mutex_lock(&s->lock); /* of two the later has the higher */
	if (kept_server(s))
		atomic_store(&kept_server(s)->recalled_seq, atomic_load(&s->recalled_seq));
	pthread_mutex_unlock(&s->lock);
}

/* With fs.table_lock. The server of that name and address; a moved one is a new one. */
static struct server *server_find(struct fs *fs, const char *name, const struct conf_addr *addr)
{
	struct server *s;

	/* the configuration may name the root server by another address than the table: it is one server all the same */
	s = fs->root_server;
	if (s && !strcmp(s->name, name) && s->addr.port == addr->port)
		return s;
	list_each(s, &fs->servers, link)
		if (!strcmp(s->name, name) && !strcmp(s->addr.host, addr->host) && s->addr.port == addr->port)
			return s;
	s = calloc(1, sizeof(*s));
	if (!s || !(s->name = strdup(name))) {
		free(s);
		return NULL;
	}
	s->fs = fs;
	s->addr = *addr;
	pthread_mutex_init(&s->lock, NULL);
	pthread_mutex_init(&s->ack_lock, NULL);
	dirq_init(s);
	s->meta = rpc_channel_open(fs->tls, addr, name, "meta");
	s->bulk = rpc_channel_open(fs->tls, addr, name, "bulk");
	if (!s->meta || !s->bulk) {
		if (s->meta)
			rpc_channel_close(s->meta);
		if (s->bulk)
			rpc_channel_close(s->bulk);
		free(s->name);
		free(s);
		return NULL;
	}
	s->index = fs->nservers++;
	if (!fs->resumed)
		server_save(s);
	s->up = true; /* until it shows otherwise */
	rpc_channel_watch(s->meta, server_changed, s);
	list_add_tail(&fs->servers, &s->link);
	return s;
}

/* With fs.table_lock or none: then nothing else changes it. */
static void domain_save(struct domain *d)
{
	size_t n = strlen(d->prefix) + 1;
	struct keep *k = keep_new(sizeof(struct kept_domain) + n);
	struct kept_domain *x;

	if (!k)
		return;
	x = (struct kept_domain *)k->data;
	memset(x, 0, sizeof(*x));
	x->id = d->id;
	x->home = d->home;
	x->mig_port = d->mig_port;
	x->attached = d->attached;
	x->server = d->server ? d->server->index + 1 : 0;
	x->number = (uint32_t)d->root->id;
	x->handle_len = d->root->handle_len;
	memcpy(x->handle, d->root->handle, d->root->handle_len);
	memcpy(x->prefix, d->prefix, n);
	keep_commit(k, KEEP_DOMAIN, d->index);
	keep_free(d->keep);
	d->keep = k;
}

/* ---- attaching */

void prefix_attached(struct fs *fs, struct domain *d, const Sprite__Fs__AttachRep *rep, uint64_t sent)
{
	struct server *s = d->server;

	inode_set_handle(fs, d->root, &rep->handle);
	pthread_mutex_lock(&d->root->lock);
	d->root->type = S_IFDIR;
	if (rep->attr) {
		inode_stat(fs, d, rep->attr, &d->root->last);
		d->root->has_last = true;
	}
	pthread_mutex_unlock(&d->root->lock);
	pthread_mutex_lock(&fs->wait_lock);
	d->attached = true;
	d->exclusive = rep->exclusive;
	if (rep->domain)
		d->id = rep->domain;
	pthread_mutex_unlock(&fs->wait_lock);
	pthread_mutex_lock(&fs->table_lock);
	domain_save(d);
	pthread_mutex_unlock(&fs->table_lock);
	if (!s)
		return;
	lease_renewed(s, sent, rep->server_epoch, rep->lease_epoch, rep->lease_ms);
	if (events_start(s) < 0)
		log_warn("%s: no thread for its events", s->name);
	if (!d->home)
		wb_look_at_space(fs, d);
}

static void attach_done(struct call *c, int err, struct rpc_msg *out)
{
	struct domain *d = c->dom;

	if (!err)
		prefix_attached(c->fs, d, (Sprite__Fs__AttachRep *)out->msg, c->seq);
	else
		atomic_fetch_add(&c->fs->attach_failures, 1);
	pthread_mutex_lock(&c->fs->wait_lock);
	d->attaching = false;
	pthread_mutex_unlock(&c->fs->wait_lock);
	call_release_waiters(c->fs, &d->waiters, err);
}

void prefix_attach(struct fs *fs, struct domain *d)
{
	struct call *c;
	bool start, ready;

	pthread_mutex_lock(&fs->wait_lock);
	ready = d->attached && d->server;
	start = d->server && !d->attached && !d->attaching;
	if (start)
		d->attaching = true;
	pthread_mutex_unlock(&fs->wait_lock);
	if (ready) { /* it was attached between the look of the caller and ours */
		call_release_waiters(fs, &d->waiters, 0);
		return;
	}
	if (!start)
		return;
	c = call_new(fs, NULL, FS_ATTACH, inode_hold(fs, d->root), attach_done);
	if (!c) {
		pthread_mutex_lock(&fs->wait_lock);
		d->attaching = false;
		pthread_mutex_unlock(&fs->wait_lock);
		return;
	}
	c->attach = true;
	c->seq = clock_boot_ns();
	c->m.attach.leases = c->m.attach.ack_now = true;
	c->m.attach.prefix = d->prefix;
	c->m.attach.instance = (char *)fs->mount;
	c->m.attach.cred = &c->cred;
	call_submit(c);
}

/* ---- the table */

static struct domain *domain_new(struct fs *fs, struct pnode *p, const char *prefix)
{
	struct domain *d = calloc(1, sizeof(*d));

	if (!d || !(d->prefix = strdup(prefix))) {
		free(d);
		return NULL;
	}
	list_init(&d->waiters);
	d->index = fs->ndomains++;
	d->root = p->inode;
	d->root->dom = d;
	d->root->pnode = p;
	p->dom = d;
	return d;
}

/* With fs.table_lock. The node of a prefix, made when missing; NULL: not a prefix. */
static struct pnode *pnode_walk(struct fs *fs, const char *prefix)
{
	struct pnode *p = fs->root, *k;
	const char *s = prefix;
	size_t n;

	if (*s != '/')
		return NULL;
	for (;;) {
		while (*s == '/')
			s++;
		n = strcspn(s, "/");
		if (!n)
			return p;
		if (n > 255)
			return NULL;
		k = pnode_find(p, s, n);
		if (!k)
			k = pnode_new(fs, p, s, n);
		if (!k)
			return NULL;
		p = k;
		s += n;
	}
}

struct pnode *prefix_node(struct fs *fs, const char *path)
{
	return pnode_walk(fs, path);
}

static void pnode_clear(struct pnode *p)
{
	for (; p; p = p->next) {
		p->was = p->present;
		p->present = false;
		pnode_clear(p->child);
	}
}

static bool pnode_changed(const struct pnode *p)
{
	for (; p; p = p->next)
		if (p->was != p->present || pnode_changed(p->child))
			return true;
	return false;
}

/* With fs.table_lock. Returns the domain when its waiters have to be looked after. */
static struct domain *table_add(struct fs *fs, const Sprite__Fs__Prefix *x)
{
	struct conf_addr addr = {.port = (uint16_t)x->port};
	struct pnode *p, *up;
	struct domain *d;
	struct server *s;

	if (fs->whole) {
		p = pnode_walk(fs, x->prefix);
	} else {
		if (strcmp(x->prefix, fs->prefix) != 0)
			return NULL;
		p = fs->root;
	}
	if (!p || !x->server || !*x->server || strlen(x->host) >= sizeof(addr.host))
		return NULL;
	strcpy(addr.host, *x->host ? x->host : x->server);
	if (!p->dom && !domain_new(fs, p, x->prefix))
		return NULL;
	d = p->dom;
	s = server_find(fs, x->server, &addr);
	if (!s)
		return NULL;
	for (up = p; up; up = up->parent)
		up->present = true;
	pthread_mutex_lock(&fs->wait_lock);
	if (d->server != s || (d->id && x->domain && d->id != x->domain)) {
		if (d->server)
			log_note("%s is now served by %s", d->prefix, s->name);
		d->server = s;
		d->attached = false;
	}
	d->id = x->domain ? x->domain : d->id;
	d->home = x->home;
	d->mig_port = x->mig_port;
	pthread_mutex_unlock(&fs->wait_lock);
	domain_save(d);
	return list_empty(&d->waiters) ? NULL : d;
}

static void table_ask(struct fs *fs);

static void table_got(struct call *c, int err, struct rpc_msg *out)
{
	struct fs *fs = c->fs;
	Sprite__Fs__PrefixesRep *rep = err ? NULL : (Sprite__Fs__PrefixesRep *)out->msg;
	struct domain **wake = NULL;
	size_t i, n = 0;
	bool names = false;

	if (rep && (rep->version != fs->version || !fs->table_known))
		wake = calloc(rep->n_prefixes + 1, sizeof(struct domain *));
	pthread_mutex_lock(&fs->table_lock);
	fs->table_asking = false;
	if (wake) {
		pnode_clear(fs->root->child);
		for (i = 0; i < rep->n_prefixes; i++)
			if ((wake[n] = table_add(fs, rep->prefixes[i])))
				n++;
		fs->version = rep->version;
		fs->table_known = true;
		names = pnode_changed(fs->root->child);
	}
	pthread_mutex_unlock(&fs->table_lock);
	if (names && fs->has_epoch) /* a name that was absent may lead somewhere now */
		session_bump_epoch(fs);
	for (i = 0; i < n; i++)
		prefix_attach(fs, wake[i]);
	free(wake);
	if (atomic_exchange(&fs->table_stale, false)) /* it changed again while this answer was on its way */
		table_ask(fs);
}

static void table_ask(struct fs *fs)
{
	struct call *c;

	pthread_mutex_lock(&fs->table_lock);
	if (fs->table_asking) { /* its answer may be older than the change that we were told of: again after it */
		atomic_store(&fs->table_stale, true);
		pthread_mutex_unlock(&fs->table_lock);
		return;
	}
	fs->table_asking = true;
	pthread_mutex_unlock(&fs->table_lock);
	c = call_new(fs, NULL, FS_PREFIXES, NULL, table_got);
	if (!c) {
		pthread_mutex_lock(&fs->table_lock);
		fs->table_asking = false;
		pthread_mutex_unlock(&fs->table_lock);
		return;
	}
	c->server = fs->root_server;
	c->m.prefixes.version = fs->version;
	call_submit(c);
}

/* A push of the root server: ask at once, not with the next tick, since somebody may be about to use a host that has just come. */
void prefix_changed(struct fs *fs)
{
	table_ask(fs);
}

static size_t domains(struct pnode *p, const struct server *s, struct domain **all, size_t n, size_t room)
{
	for (; p && n < room; p = p->next) {
		if (p->dom && p->dom->server == s && p->dom->attached)
			all[n++] = p->dom;
		n = domains(p->child, s, all, n, room);
	}
	return n;
}

static struct domain *domain_nth(struct pnode *p, unsigned index)
{
	struct domain *d = NULL;

	for (; p && !d; p = p->next)
		d = p->dom && p->dom->index == index ? p->dom : domain_nth(p->child, index);
	return d;
}

struct domain *prefix_domain(struct fs *fs, unsigned index)
{
	struct domain *d;

	pthread_mutex_lock(&fs->table_lock);
	d = domain_nth(fs->root, index);
	pthread_mutex_unlock(&fs->table_lock);
	return d;
}

size_t prefix_domains(struct server *s, struct domain **all, size_t room)
{
	size_t n;

	pthread_mutex_lock(&s->fs->table_lock);
	n = domains(s->fs->root, s, all, 0, room);
	pthread_mutex_unlock(&s->fs->table_lock);
	return n;
}

static void renewed(struct call *c, int err, struct rpc_msg *out)
{
	Sprite__Fs__RenewRep *rep = err ? NULL : (Sprite__Fs__RenewRep *)out->msg;

	if (rep && rep->real_ns)
		atomic_store(&c->server->q.skew, (int64_t)rep->real_ns - (int64_t)clock_real_ns());
	if (rep)
		lease_renewed(c->server, c->seq, rep->server_epoch, rep->lease_epoch, rep->lease_ms);
}

static void renew(struct server *s, uint64_t now)
{
	struct fs *fs = s->fs;
	struct call *c;
	bool due;

	pthread_mutex_lock(&s->lock);
	due = s->lease_ms && now >= s->renew_at;
	if (due)
		s->renew_at = now + s->lease_ms / 3 * 1000000ull;
	pthread_mutex_unlock(&s->lock);
	if (!due)
		return;
	c = call_new(fs, NULL, FS_RENEW, NULL, renewed);
	if (!c)
		return;
	c->server = s;
	c->quick = true;
	c->seq = clock_boot_ns();
	c->m.renew.instance = (char *)fs->mount;
	c->m.renew.lease_epoch = s->lease_epoch;
	pthread_mutex_lock(&s->lock);
	c->m.renew.recovered = s->recovered == s->epoch;
	c->m.renew.server_epoch = s->epoch; /* we may not have heard of a restart yet */
	pthread_mutex_unlock(&s->lock);
	call_submit(c);
}

static void space_tick(struct fs *fs, struct pnode *p, uint64_t now)
{
	for (; p; p = p->next) {
		if (p->dom && p->dom->attached && now - p->dom->space_at > SPACE_EVERY_NS && (atomic_exchange(&p->dom->written, false) || p->dom->full)) {
			p->dom->space_at = now;
			wb_look_at_space(fs, p->dom);
		}
		space_tick(fs, p->child, now);
	}
}

void prefix_tick(struct fs *fs, uint64_t now)
{
	struct server *s, *all[64];
	size_t i, n = 0;

	if (atomic_exchange(&fs->table_stale, false) || now - fs->asked_at >= ASK_EVERY_NS) {
		fs->asked_at = now;
		table_ask(fs);
	}
	pthread_mutex_lock(&fs->table_lock);
	list_each(s, &fs->servers, link)
		if (n < 64)
			all[n++] = s;
	pthread_mutex_unlock(&fs->table_lock);
	space_tick(fs, fs->root, now);
	for (i = 0; i < n; i++) {
		renew(all[i], now);
		lease_tick(all[i], now);
		dirq_kick(all[i], true);
	}
}

int prefix_start(struct fs *fs, struct error *e)
{
	pthread_mutex_init(&fs->table_lock, NULL);
	list_init(&fs->servers);
	fs->root = pnode_new(fs, NULL, "", 0); /* the first inode: ROOT_ID */
	if (!fs->root || !domain_new(fs, fs->root, fs->prefix))
		return error_set(e, ENOMEM, "out of memory");
	fs->root->present = true;
	pthread_mutex_lock(&fs->table_lock);
	fs->root_server = server_find(fs, fs->conf->root_server.host, &fs->conf->root_server);
	pthread_mutex_unlock(&fs->table_lock);
	if (!fs->root_server)
		return error_set(e, ENOMEM, "root server %s: no channel", fs->conf->root_server.host);
	return 0;
}

/* ---- going on with what an earlier spritefs knew */

struct resuming {
	struct fs *fs;
	struct domain **doms;
	size_t room, n;
};

static void server_resume(void *arg, struct keep *k)
{
	struct fs *fs = ((struct resuming *)arg)->fs;
	struct kept_server *x = (struct kept_server *)k->data;
	struct conf_addr addr = {.port = (uint16_t)x->port};
	struct server *s;

	snprintf(addr.host, sizeof(addr.host), "%s", x->host);
	s = server_find(fs, x->name, &addr);
	if (!s || s->index != k->key)
		abort(); /* the configuration has another root server than the mount */
	s->keep = k;
	s->epoch = x->epoch;
	s->lease_epoch = s->q.lease = x->lease_epoch;
	s->recovered = x->recovered;
	s->lease_ms = x->lease_ms;
	atomic_store(&s->recalled_seq, x->recalled_seq);
}

static void pnode_resume(void *arg, struct keep *k)
{
	struct fs *fs = ((struct resuming *)arg)->fs;

	fs->next_id = k->key;
	if (!prefix_node(fs, (char *)k->data))
		abort();
	keep_free(k); /* it has been written anew */
}

static struct server *server_nth(struct fs *fs, unsigned i)
{
	struct server *s;

	list_each(s, &fs->servers, link)
		if (s->index == i)
			return s;
	return NULL;
}

static void domain_resume(void *arg, struct keep *k)
{
	struct resuming *r = arg;
	struct kept_domain *x = (struct kept_domain *)k->data;
	struct pnode *p = r->fs->whole ? prefix_node(r->fs, x->prefix) : r->fs->root, *up;
	ProtobufCBinaryData handle = {.len = x->handle_len, .data = x->handle};
	struct domain *d = p ? p->dom : NULL;

	if (!d)
		d = p ? domain_new(r->fs, p, x->prefix) : NULL;
	if (!d || k->key >= r->room)
		abort();
	d->index = (unsigned)k->key;
	d->id = x->id;
	d->home = x->home;
	d->mig_port = x->mig_port;
	d->server = x->server ? server_nth(r->fs, x->server - 1) : NULL;
	d->attached = x->attached;
	inode_set_handle(r->fs, d->root, &handle);
	d->root->type = S_IFDIR;
	d->keep = k;
	for (up = p; up; up = up->parent)
		up->present = true;
	r->doms[k->key] = d;
	if (k->key >= r->n)
		r->n = k->key + 1;
}

int prefix_resume(struct fs *fs, struct domain **doms, size_t room)
{
	struct resuming r = {fs, doms, room, 0};

	doms[0] = fs->root->dom;

	keep_each(KEEP_SERVER, server_resume, &r);
	keep_each(KEEP_PNODE, pnode_resume, &r);
	keep_each(KEEP_DOMAIN, domain_resume, &r);
	fs->ndomains = r.n ? (unsigned)r.n : 1; /* of the root there is always one */
	return (int)fs->ndomains;
}
