// SPDX-License-Identifier: Apache-2.0
/*
 * Home domains: a host's own root, which it changes without asking anybody. Nothing is leased there; names and attributes are believed for HOME_BOUND_NS.
 *
 * A program that is started over and over (a compiler) walks the same few hundred names each time, and one second later all of them would be asked for again, one by one.
 * So what is known is kept beyond its second, and when something of it is asked for, all that was in use of late is asked about in one call (Refresh): the home says the
 * change time of each object, and those that have the one we know are good for another second, from when we asked. A directory that has not changed means by its names
 * what it meant, and has none that it had not.
 *
 * Invariants
 * 1. Who asks is told nothing that the home was asked about longer than HOME_BOUND_NS before: the bound is what it was. (Before he asked: a home that is slow to answer would never be
 *    believed, and asked the more for that.)
 * 2. Only what belongs to root, without ACL, and nobody else may write; and only for who is not root: nobody sees his own changes late. What root changes by way of this
 *    mount is void from the moment the change is answered (home_changed()), and a Refresh that was sent before does not count.
 * 3. Two changes within one tick of the home's clock leave the same time behind: a name is learnt only in a directory that has been known, as it is, for SETTLED_NS, and
 *    attributes are believed beyond their second only when they have come once more, the same, that long after they came first.
 * 4. What is mounted at home changes no directory: the answer of a Refresh, and no other, tells of it, by a number that grows with each change of the home's mounts. Names of
 *    another number are void.
 * 5. Who asks must have been let in by the home within the bound, as for all that is answered here (call_let_in()).
 *
 * A request that waits for a Refresh is handled anew from its start, once (park.c); the struct ahead of the domain's root, which bulk acquisition does not use here, has the
 * list. Locking: struct home_known is under inode.lock, its `link` and `used_at` under used_lock, the last of all.
 */
#include "fs/client/client.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "conf/clock.h"
#include "fs/refresh.h"

#define SETTLED_NS  1000000000ull
#define USED_NS	    10000000000ull /* what was in use within that time is asked about, as far as there is room for it; */
#define LATE_NS	    600000000000ull /* and what was within that, as long as it is not more than LATE_MAX in all: who compiles again after a while needs what he needed then */
#define LATE_MAX    512
#define NAMES_MAX   4096	   /* of one directory */
#define ALL_MAX	    65536

struct home_known {
	struct list link; /* of those in use, the latest last */
	struct inode *ino;
	uint64_t used_at;
	uint64_t version, since; /* grows when what came differs from what was there; since when it is so */
	uint64_t came_at;	 /* when it came last: by an answer of its own, not by a Refresh */
	uint64_t void_at;	 /* when a change of ours was answered */
	uint64_t told;		 /* server.told when a Refresh asked of it that called it watched; 0: none has */
	struct stat st;
	struct hash names; /* node id + 1; 1: not there */
	uint64_t names_version, names_changes, names_mounts;
	uint64_t names_at; /* when the first of them was learnt, or the last Refresh told of the home's mounts */
};

static pthread_mutex_t used_lock = PTHREAD_MUTEX_INITIALIZER;
static struct list used_list = {&used_list, &used_list};
static atomic_size_t all_names;

/* ---- what came */

static void forget_names(struct home_known *h)
{
	atomic_fetch_sub(&all_names, h->names.count);
	hash_clear(&h->names, NULL);
}

void home_end(struct inode *ino)
{
	struct home_known *h = ino->home;

	if (!h)
		return;
	pthread_mutex_lock(&used_lock);
	list_del(&h->link);
	pthread_mutex_unlock(&used_lock);
	forget_names(h);
	free(h);
}

static struct home_known *known_new(struct inode *ino)
{
	struct home_known *h = calloc(1, sizeof(*h));

	if (h) {
		h->ino = ino;
		list_init(&h->link);
	}
	return h;
}

static void used(struct inode *ino, uint64_t now)
{
	struct home_known *h = ino->home;

	if (!h)
		return;
	pthread_mutex_lock(&used_lock);
	if (now - h->used_at > HOME_BOUND_NS / 2 || list_empty(&h->link)) {
		list_move_tail(&used_list, &h->link);
		h->used_at = now;
	}
	pthread_mutex_unlock(&used_lock);
}

static bool same(const struct home_attr *a, const struct home_attr *b)
{
	return a->change == b->change && a->size == b->size && a->mtime == b->mtime && a->ctime == b->ctime && a->mode == b->mode && a->no_acl == b->no_acl;
}

void home_attr(struct fs *fs, struct inode *ino, const Sprite__Fs__Attr *a)
{
	struct home_attr n = {.change = a->change, .size = a->size, .mtime = a->mtime, .ctime = a->ctime, .mode = a->mode, .no_acl = !a->has_acl};
	uint64_t now = clock_mono_ns();
	struct home_known *h;

	pthread_mutex_lock(&ino->lock);
	h = ino->home;
	if (!h)
		h = ino->home = known_new(ino);
	if (h && (!h->version || !same(&n, &ino->now))) {
		h->version++;
		h->since = now;
	}
	if (h) {
		h->came_at = now;
		inode_stat(fs, ino->dom, a, &h->st);
	}
	ino->now = n;
	ino->now_at = now;
	if (a->no_cap)
		ino->no_cap_at = now;
	pthread_mutex_unlock(&ino->lock);
	used(ino, now);
}

/* With inode.lock: for how long what is known of it is believed. */
static uint64_t bound(const struct inode *ino)
{
	return ino->home && ino->dom->server ? home_bound(atomic_load(&ino->dom->server->told), ino->home->told) : HOME_BOUND_NS;
}

bool home_fresh(struct inode *ino, struct home_attr *a)
{
	bool fresh;

	pthread_mutex_lock(&ino->lock);
	fresh = ino->now_at && clock_mono_ns() - ino->now_at < bound(ino);
	*a = ino->now;
	pthread_mutex_unlock(&ino->lock);
	return fresh;
}

bool home_no_cap(struct inode *ino)
{
	bool fresh;

	pthread_mutex_lock(&ino->lock);
	fresh = ino->no_cap_at && clock_mono_ns() - ino->no_cap_at < bound(ino);
	pthread_mutex_unlock(&ino->lock);
	return fresh;
}

void home_changed(struct inode *ino)
{
	if (!ino)
		return;
	pthread_mutex_lock(&ino->lock);
	ino->now_at = 0;
	if (ino->home)
		ino->home->void_at = clock_mono_ns();
	pthread_mutex_unlock(&ino->lock);
}

/* ---- names */

bool home_roots(const struct inode *ino)
{
	const struct home_known *h = ino->home;

	return h && h->version && h->st.st_uid == 0 && ino->now.no_acl && (S_ISLNK(h->st.st_mode) || ((S_ISREG(h->st.st_mode) || S_ISDIR(h->st.st_mode)) && !(h->st.st_mode & 022)));
}

void home_note(struct call *c)
{
	struct inode *dir = c->ino;

	c->mark2 = 0;
	if (!dir->dom || !dir->dom->home)
		return;
	pthread_mutex_lock(&dir->lock);
	if (home_roots(dir) && dir->now_at && clock_mono_ns() - dir->home->since > SETTLED_NS)
		c->mark2 = dir->home->version;
	pthread_mutex_unlock(&dir->lock);
}

void home_learn(struct call *c, const char *name, uint64_t id)
{
	struct inode *dir = c->ino;
	struct home_known *h = dir->home;
	uint64_t mounts;
	size_t before;

	if (!c->mark2 || c->op != FS_LOOKUP)
		return;
	mounts = atomic_load(&c->dom->home_mounts);
	pthread_mutex_lock(&dir->lock);
	if (h->version == c->mark2 && atomic_load(&dir->changes) == c->seq) {
		if (h->names_version != h->version || h->names_changes != c->seq || h->names_mounts != mounts || h->names.count >= NAMES_MAX)
			forget_names(h);
		if (!h->names.count)
			h->names_at = c->start_ns;
		h->names_version = h->version;
		h->names_changes = c->seq;
		h->names_mounts = mounts;
		before = h->names.count;
		if (atomic_load(&all_names) < ALL_MAX && hash_set(&h->names, name, strlen(name), (void *)(uintptr_t)(id + 1), NULL) == 0)
			atomic_fetch_add(&all_names, h->names.count - before);
	}
	pthread_mutex_unlock(&dir->lock);
}

/* With inode.lock. A Refresh can tell that it is as it was: else it is asked for by itself. */
static bool is_settled(const struct home_known *h)
{
	return h->came_at > h->since + SETTLED_NS;
}

/* What the name means (0: it is not there), and until when that is good: perhaps no longer. */
static bool name_known(struct inode *dir, const char *name, uint64_t *id, uint64_t *until)
{
	struct home_known *h;
	void *v = NULL;

	pthread_mutex_lock(&dir->lock);
	h = dir->home;
	if (home_roots(dir) && h->names_version == h->version && h->names_changes == atomic_load(&dir->changes) && h->names_mounts == atomic_load(&dir->dom->home_mounts))
		v = hash_get(&h->names, name, strlen(name));
	if (v && dir->now_at + bound(dir) <= session_began() && !is_settled(h))
		v = NULL;
	if (v) {
		*id = (uint64_t)(uintptr_t)v - 1;
		*until = !dir->now_at ? 0 : (dir->now_at < h->names_at ? dir->now_at : h->names_at) + bound(dir);
	}
	pthread_mutex_unlock(&dir->lock);
	return v;
}

static bool attr_known(struct inode *ino, struct stat *st, uint64_t *until)
{
	bool yes;

	pthread_mutex_lock(&ino->lock);
	yes = home_roots(ino) && (is_settled(ino->home) || ino->now_at + bound(ino) > session_began());
	if (yes) {
		*st = ino->home->st;
		*until = ino->now_at ? ino->now_at + bound(ino) : 0;
	}
	pthread_mutex_unlock(&ino->lock);
	return yes;
}

/* ---- Refresh */

struct refresh {
	size_t n;
	struct {
		struct inode *ino;
		uint64_t version;
	} of[REFRESH_MAX];
	size_t len;
	uint8_t bytes[REFRESH_MAX * (1 + FS_HANDLE_MAX)];
};

/* Those of the domain that were in use of late, the latest first. */
static size_t in_use(const struct domain *dom, uint64_t ids[REFRESH_MAX])
{
	uint64_t now = clock_mono_ns();
	size_t n = 0;
	struct list *l;

	pthread_mutex_lock(&used_lock);
	for (l = used_list.prev; l != &used_list && n < REFRESH_MAX; l = l->prev) {
		struct home_known *h = list_entry(l, struct home_known, link);

		if (now - h->used_at > USED_NS && (n >= LATE_MAX || now - h->used_at > LATE_NS))
			break;
		if (h->ino->dom == dom)
			ids[n++] = h->ino->id;
	}
	pthread_mutex_unlock(&used_lock);
	return n;
}

/* Of `one` alone, when it is only asked whether who asks is still let in; NULL: of all in use that would have to be asked for soon. */
static struct refresh *refresh_new(struct fs *fs, const struct domain *dom, struct inode *one)
{
	struct refresh *r = malloc(sizeof(*r));
	uint64_t ids[REFRESH_MAX], now = clock_mono_ns();
	size_t n;

	if (!r)
		return NULL;
	ids[0] = one ? one->id : 0;
	n = one ? 1 : in_use(dom, ids);
	r->n = r->len = 0;
	for (size_t i = 0; i < n; i++) {
		struct inode *ino = inode_find(fs, ids[i]);
		bool take = false;

		if (!ino)
			continue;
		pthread_mutex_lock(&ino->lock);
		take = ino->dom == dom && ino->handle_len && home_roots(ino) && is_settled(ino->home) && (one || bound(ino) == HOME_BOUND_NS || now - ino->now_at > bound(ino) / 2);
		if (take)
			r->of[r->n].version = ino->home->version;
		pthread_mutex_unlock(&ino->lock);
		if (!take) {
			inode_put(fs, ino);
			continue;
		}
		r->of[r->n++].ino = ino;
		r->bytes[r->len++] = (uint8_t)ino->handle_len;
		memcpy(r->bytes + r->len, ino->handle, ino->handle_len);
		r->len += ino->handle_len;
	}
	return r;
}

/* NULL: nothing could be learnt of it. */
static void answered(struct inode *ino, uint64_t version, const struct refresh_answer *a, uint64_t asked, uint64_t told)
{
	struct home_known *h;

	pthread_mutex_lock(&ino->lock);
	h = ino->home;
	if (a && !a->err && h->version == version && h->void_at < asked && is_settled(h) && a->ctime == ino->now.ctime && a->change == ino->now.change) {
		h->names_at = asked;
		h->told = a->watched ? told : 0;
		if (ino->no_cap_at > h->since + SETTLED_NS || (ino->no_cap_at && asked > h->since + SETTLED_NS))
			ino->no_cap_at = asked;
		if (ino->now_at < asked)
			ino->now_at = asked;
	} else if (a && ino->now_at < asked) {
		ino->now_at = 0; /* it has changed, is gone, or is not known for long enough: it is asked for by itself */
	}
	pthread_mutex_unlock(&ino->lock);
}

/* Rights were asked for at the first object that is still known. */
bool home_let_in(const struct rpc_msg *out)
{
	struct refresh_answer a[REFRESH_MAX];
	size_t n = rpc_msg_copy(out, a, sizeof(a)) / sizeof(a[0]);

	for (size_t i = 0; i < n; i++)
		if (!a[i].err)
			return true;
	return false;
}

static void refresh_done(struct call *c, int err, struct rpc_msg *out)
{
	Sprite__Fs__RefreshRep *rep = err ? NULL : (Sprite__Fs__RefreshRep *)out->msg;
	struct refresh *r = c->arg;
	struct inode *root = c->ino;
	bool good = rep && out->bulk_len == r->n * sizeof(struct refresh_answer);
	struct refresh_answer *a = good ? malloc(out->bulk_len + 1) : NULL;
	struct list ready;

	if (a)
		rpc_msg_copy(out, a, out->bulk_len);
	if (a)
		atomic_store(&c->dom->home_mounts, rep->mounts);
	for (size_t i = 0; i < r->n; i++) {
		answered(r->of[i].ino, r->of[i].version, a ? &a[i] : NULL, c->start_ns, c->told);
		inode_put(c->fs, r->of[i].ino);
	}
	free(a);
	free(r);
	list_init(&ready);
	pthread_mutex_lock(&root->lock);
	root->ahead.busy = false;
	park_take(&ready, &root->ahead.waiters);
	pthread_mutex_unlock(&root->lock);
	park_again(c->fs, &ready);
}

static struct call *refresh_call(struct fs *fs, fuse_req_t req, struct domain *dom, struct inode *one)
{
	const struct fuse_ctx *who = fuse_req_ctx(req);
	struct call *c = call_new(fs, NULL, FS_REFRESH, inode_hold(fs, dom->root), refresh_done); /* before we look what is to be asked */
	struct refresh *r = refresh_new(fs, dom, one);

	if (!r || !c)
		abort(); /* who waits for it would wait for ever */
	c->cred.uid = who->uid;
	c->cred.gid = who->gid;
	c->m.refresh.cred = &c->cred;
	c->arg = r;
	c->bulk = (struct iovec){r->bytes, r->len};
	c->quick = true; /* when the server is away each request waits for itself, and can be interrupted */
	return c;
}

/* Puts the request aside until all that is in use, or `one`, has been asked about. */
static bool refresh_wait(struct fs *fs, fuse_req_t req, struct domain *dom, struct inode *one)
{
	struct inode *root = dom->root;
	struct parked *p;
	struct call *c;
	bool busy;

	if (session_resent() || !dom->server || !(p = park_new(fs, req, root)))
		return false;
	pthread_mutex_lock(&root->lock);
	busy = root->ahead.busy;
	root->ahead.busy = true;
	if (busy) /* req is not ours any more when the lock is released */
		park_put(p, &root->ahead.waiters);
	pthread_mutex_unlock(&root->lock);
	if (busy)
		return true;
	c = refresh_call(fs, req, dom, one);
	pthread_mutex_lock(&root->lock);
	park_put(p, &root->ahead.waiters);
	pthread_mutex_unlock(&root->lock);
	call_submit(c);
	return true;
}

/* ---- what the home tells */

/* Of all that it was asked about: the kernel was told that it is good for long. */
static void kernel_asks(struct server *s)
{
	size_t n = 0, room = 0;
	uint64_t *ids = NULL;
	struct list *l;

	pthread_mutex_lock(&used_lock);
	for (l = used_list.next; l != &used_list; l = l->next)
		room++;
	ids = room ? malloc(room * sizeof(*ids)) : NULL;
	for (l = used_list.next; ids && l != &used_list; l = l->next)
		if (list_entry(l, struct home_known, link)->ino->dom->server == s)
			ids[n++] = list_entry(l, struct home_known, link)->ino->id;
	pthread_mutex_unlock(&used_lock);
	if (n)
		session_bump_epoch(s->fs);
	for (size_t i = 0; i < n; i++) {
		struct inode *ino = inode_find(s->fs, ids[i]);

		if (ino) {
			recall_drop(s->fs, ino, SPRITE__FS__LEASE_BITS__LEASE_ATTR);
			inode_put(s->fs, ino);
		}
	}
	free(ids);
}

void home_event(struct server *s, const Sprite__Fs__Event *ev)
{
	static atomic_uint_fast64_t number;
	uint64_t next = ev ? atomic_fetch_add(&number, 1) + 1 : 0;

	if (!ev || ev->kind != SPRITE__FS__EVENT__KIND__CHANGED)
		atomic_store(&s->told_rights, next);
	if (ev && ev->kind == SPRITE__FS__EVENT__KIND__REVOKED)
		return;
	if (!atomic_exchange(&s->told, next))
		return;
	recall_noted(s->fs); /* replies that did not see it are written when this returns */
	kernel_asks(s);
}

/* ---- what is asked */

/* For how long the kernel may believe what is good until then; between lease_reply_begin and _end. `told`: what the server's number was before we looked. */
static double kernel_time(const struct domain *dom, uint64_t told, uint64_t until, uint64_t now)
{
	return until <= now || (dom->server && atomic_load(&dom->server->told) != told) ? 0 : (double)(until - now) / 1e9;
}

/* The same of a name, which it cannot be told to forget everywhere. */
static double kernel_name_time(struct fs *fs, double time)
{
	const double most = HOME_BOUND_NS / 1e9;

	return time > most && !(fs->has_epoch && session_names_back(fs)) ? most : time;
}

static uint64_t told_now(const struct domain *dom)
{
	return dom->server ? atomic_load(&dom->server->told) : 0;
}

bool home_lookup(struct fs *fs, fuse_req_t req, struct inode *dir, const char *name)
{
	const struct fuse_ctx *who = fuse_req_ctx(req);
	struct fuse_entry_param p = {0};
	uint64_t id, until, child_until, now = clock_mono_ns(), told;
	struct inode *ino = NULL;
	bool waits = false;

	if (!dir->dom || !dir->dom->home || who->uid == 0)
		return false;
	told = told_now(dir->dom);
	if (!name_known(dir, name, &id, &until) || (id && !(ino = inode_find(fs, id))))
		return false;
	used(dir, now);
	if (ino && !attr_known(ino, &p.attr, &child_until)) {
		inode_put(fs, ino);
		return false;
	}
	if (ino) {
		used(ino, now);
		until = child_until < until ? child_until : until;
	}
	if (until <= session_began() || !call_let_in(fs, dir->dom, who->uid)) {
		waits = refresh_wait(fs, req, dir->dom, until <= session_began() ? NULL : dir);
		if (ino)
			inode_put(fs, ino);
		return waits;
	}
	if (ino) {
		p.ino = ino->id;
		p.generation = 1;
		inode_count_lookup(fs, ino);
		atomic_store(&ino->parent, dir->id);
	}
	atomic_fetch_add_explicit(ino ? &fs->local_lookups : &fs->local_absent, 1, memory_order_relaxed);
	lease_reply_begin(fs);
	p.attr_timeout = kernel_time(dir->dom, told, until, now);
	p.entry_timeout = kernel_name_time(fs, p.attr_timeout);
	if (fuse_reply_entry(req, &p) == -ENOENT && ino)
		inode_forget(fs, p.ino, 1);
	lease_reply_end(fs);
	if (ino)
		inode_put(fs, ino);
	return true;
}

bool home_getattr(struct fs *fs, fuse_req_t req, struct inode *ino)
{
	const struct fuse_ctx *who = fuse_req_ctx(req);
	uint64_t until, now = clock_mono_ns(), told;
	struct stat st;

	if (!ino->dom || !ino->dom->home || who->uid == 0)
		return false;
	told = told_now(ino->dom);
	if (!attr_known(ino, &st, &until))
		return false;
	used(ino, now);
	if (until <= session_began() || !call_let_in(fs, ino->dom, who->uid))
		return refresh_wait(fs, req, ino->dom, until <= session_began() ? NULL : ino);
	atomic_fetch_add_explicit(&fs->local_attrs, 1, memory_order_relaxed);
	lease_reply_begin(fs);
	fuse_reply_attr(req, &st, kernel_time(ino->dom, told, until, now));
	lease_reply_end(fs);
	return true;
}
