// SPDX-License-Identifier: Apache-2.0
/*
 * Bulk acquisition: what a program is going to ask of one directory, name by name, is had with few calls (ReaddirReq with leases for the entries, and contents).
 *
 * Three things begin it; whoever would have to send a call asks us first:
 *  - NAMES: the second look-up (or question for attributes) in a directory that had to be sent asks for its entries, in chunks, which look-ups wait for;
 *  - DATA: the second read of a small file asks for the contents of the small files beside it (the first, where such have just been read in another directory); reads
 *    there wait for the chunk that is on its way;
 *  - WRITE: the second change that had to be sent, since another node has something of the directory, asks for it and its entries for ourselves alone. It and those
 *    after it wait, and then are mostly answered here (ops_here.c). Where that has just been worth it in another directory the first change asks already. Who empties
 *    the directories of a directory one by one (rm -r) has those that come next in its listing asked for while he is at one: no more than he has been at already.
 *
 * Beyond a first chunk, in any second, no more is fetched than what the calls cost that could not be spared (in microseconds; calls as measured, since those that recall
 * something from others cost many times as much), unless what was fetched is used: a wrong guess doubles the cost at most, and where two nodes take a few files from
 * one another nothing is fetched in vain for long.
 * Names come in the server's order, which is not the program's; a chunk goes on from the cookie where the one before it ended.
 *
 * What came is what any reply says under its grants: inodes with attributes under ATTR (inode.c keeps them although the kernel has not heard of them), names under
 * NAMES, contents under DATA. None of it outlives a recall, and there is no other rule for it.
 *
 * A request that waits is handled anew from its start (park.c). Locking: struct ahead of the directory is under its inode.lock.
 */
#include "fs/client/client.h"
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "conf/clock.h"
#include "fs/dirent.h"

#define ATTR  SPRITE__FS__LEASE_BITS__LEASE_ATTR
#define NAMES SPRITE__FS__LEASE_BITS__LEASE_NAMES
#define DATA  SPRITE__FS__LEASE_BITS__LEASE_DATA
#define WRITE SPRITE__FS__LEASE_BITS__LEASE_WRITE

#define SMALL	  (64u << 10) /* contents come along up to this size */
#define ENTRY	  200u	      /* bytes of an entry in a chunk, about */
#define LUCK_NS	   1000000000ull
#define AGAIN_NS   1000000000ull /* after so long a first chunk is free again */
#define CHUNK_MIN  3000u	 /* what one costs at least */
#define CALL_MAX   3000u	 /* and a call at most */
#define SIBLINGS   4	 /* directories that are asked for at once */
#define SIBLINGS_MAX 256

static const struct {
	uint32_t first; /* bytes of a chunk at least */
	uint32_t call;	/* cost of a call that it may spare */
	uint32_t entry; /* of an entry fetched */
} kinds[] = {
	[AHEAD_NAMES] = {64u << 10, 120, 14},
	[AHEAD_DATA] = {256u << 10, 150, 25},
	[AHEAD_WRITE] = {128u << 10, 400, 20},
};
#define PER_KB 2u /* cost of contents */

/* ---- taking in */

/* One record. */
static void entry_learn(struct fs *fs, struct inode *dir, const struct fs_dirent *d, uint64_t changes, uint64_t mark)
{
	Sprite__Fs__Entry *e = sprite__fs__entry__unpack(NULL, d->entrylen, d->entry);
	struct inode *ino = e && e->attr && e->lease ? inode_met(fs, dir->dom, &e->handle, e->attr->mode) : NULL;
	uint64_t got;

	if (ino) {
		got = lease_take(ino, e->lease, e->lease_seq);
		lease_keep_attr(fs, ino, e->attr, got);
		if (got & ATTR)
			names_learn(dir, d->name, d->namelen, ino->id, changes);
		if ((got & DATA) && d->datalen != FS_DIRENT_NODATA) {
			struct iovec v = {(void *)d->data, d->datalen};

			read_keep(ino, mark, e->lease_seq, 0, &v, 1, d->datalen, true, 0);
		}
		atomic_store(&ino->parent, dir->id);
		inode_put(fs, ino);
	}
	if (e)
		sprite__fs__entry__free_unpacked(e, NULL);
}

void ahead_learn(struct fs *fs, struct inode *dir, const uint8_t *page, size_t len, uint64_t changes, uint64_t mark)
{
	struct fs_dirent d;
	size_t at = 0, n;

	for (; at < len && (n = fs_dirent_get(page + at, len - at, &d)); at += n)
		if (d.entrylen)
			entry_learn(fs, dir, &d, changes, mark);
}

/* ---- chunks */

static void siblings_ask(struct fs *fs, struct inode *dir, fuse_req_t req, const Sprite__Fs__Cred *who);

static void chunk_done(struct call *c, int err, struct rpc_msg *out)
{
	Sprite__Fs__ReaddirRep *rep = err ? NULL : (Sprite__Fs__ReaddirRep *)out->msg;
	struct inode *dir = c->ino;
	struct ahead_kind *k = &dir->ahead.kind[c->flags];
	uint64_t cookie = c->m.readdir.cookie, cost;
	size_t len = rep ? out->bulk_len : 0, at, n, entries = 0;
	uint8_t *page = len ? malloc(len) : NULL;
	bool covered = false, used;
	struct fs_dirent d;
	struct list ready;

	if (page)
		rpc_msg_copy(out, page, len);
	else
		len = 0;
	if (rep && len == out->bulk_len) {
		lease_reply_begin(c->fs);
		covered = ops_names_taken(dir, rep->dir_lease, rep->dir_lease_seq);
		if (covered) {
			names_page(dir, page, len, cookie, rep->end, c->seq);
			ahead_learn(c->fs, dir, page, len, c->seq, c->mark);
		}
		lease_reply_end(c->fs);
	}
	for (at = 0; at < len && (n = fs_dirent_get(page + at, len - at, &d)); at += n) {
		cookie = d.cookie;
		entries++;
	}
	free(page);
	if (covered && c->flags == AHEAD_WRITE && (rep->dir_lease & WRITE))
		atomic_store(&c->fs->took_at, clock_boot_ns());
	list_init(&ready);
	pthread_mutex_lock(&dir->lock);
	dir->ahead.busy = false;
	k->cookie = !rep || rep->end ? 0 : cookie;
	cost = entries * kinds[c->flags].entry + (c->flags == AHEAD_DATA ? (len >> 10) * PER_KB : 0);
	k->fetched += cost > CHUNK_MIN ? cost : CHUNK_MIN;
	k->at = clock_boot_ns();
	if (!covered || (c->flags == AHEAD_WRITE && !(rep->dir_lease & WRITE))) /* not to be had: not before many more were asked for */
		k->fetched += 1000 + k->asked;
	park_take(&ready, &dir->ahead.waiters);
	used = covered && c->flags == AHEAD_WRITE && (rep->dir_lease & WRITE) && !c->m.readdir.cookie && !list_empty(&ready);
	if (used)
		dir->ahead.unused = false;
	pthread_mutex_unlock(&dir->lock);
	park_again(c->fs, &ready);
	if (used)
		siblings_ask(c->fs, dir, NULL, &c->cred);
}

/* As who asked: of a request, or of another chunk; dir->ahead.busy has been set. To be submitted. */
static struct call *chunk_new(struct fs *fs, struct inode *dir, fuse_req_t req, const Sprite__Fs__Cred *who, enum ahead_what what, uint64_t cookie, uint64_t size)
{
	static const uint64_t want[] = {[AHEAD_NAMES] = ATTR | DATA, [AHEAD_DATA] = ATTR | DATA, [AHEAD_WRITE] = ATTR | DATA | WRITE};
	struct call *c = call_new(fs, NULL, FS_READDIR, inode_hold(fs, dir), chunk_done);

	if (!c)
		abort(); /* who waits for it would wait for ever */
	if (who) {
		c->cred = *who;
		c->cred.groups = who->n_groups ? memcpy(call_alloc(c, who->n_groups * sizeof(*who->groups)), who->groups, who->n_groups * sizeof(*who->groups)) : NULL;
	} else {
		c->req = req;
		call_cred(c, true);
		c->req = NULL; /* answered by others */
	}
	c->flags = what;
	c->quick = true; /* when the server is away each request waits for itself, and can be interrupted */
	c->m.readdir.cred = &c->cred;
	c->handle = &c->m.readdir.handle;
	c->m.readdir.cookie = cookie;
	c->m.readdir.size = size > FS_IO_MAX ? FS_IO_MAX : (uint32_t)size;
	c->m.readdir.plus = true;
	c->m.readdir.want = what == AHEAD_WRITE ? WRITE : 0;
	c->m.readdir.entry_want = want[what];
	c->m.readdir.data_max = what == AHEAD_DATA ? SMALL : 0;
	c->seq = atomic_load(&dir->changes);
	c->mark = read_mark(fs);
	return c;
}

/* With inode.lock. What is queued for the directory a chunk has to wait for; who is about to look is better off by himself then, who is about to change would have to wait as well. */
static bool may_ask(const struct inode *dir, enum ahead_what what)
{
	const struct domain *d = dir->dom;

	return d && d->server && !d->home && !dir->pnode && dir->handle_len && S_ISDIR(dir->type) && atomic_load(&d->server->leasing) &&
	       (what == AHEAD_WRITE || !dirq_pending(dir));
}

/* With inode.lock: one more that must be sent, of that cost. How large a chunk may be asked for now; 0: none. */
static uint64_t one_more(struct inode *dir, enum ahead_what what, uint64_t cost, bool at_once)
{
	struct ahead_kind *k = &dir->ahead.kind[what];
	bool second;
	uint64_t size;

	if (k->fetched && clock_boot_ns() - k->at > AGAIN_NS)
		k->asked = k->fetched = 0;
	second = k->asked > 0 || at_once;
	k->asked += cost;
	if (!second || dir->ahead.busy || k->fetched >= k->asked)
		return 0;
	size = (k->asked - k->fetched) / kinds[what].entry * ENTRY;
	if (what == AHEAD_DATA)
		size = ((k->asked - k->fetched) / PER_KB) << 10;
	dir->ahead.busy = true;
	dir->ahead.what = what;
	return size < kinds[what].first ? kinds[what].first : size;
}

void ahead_cost(struct call *c, enum ahead_what what)
{
	uint64_t cost = (clock_mono_ns() - c->start_ns) / 1000;

	if (cost <= kinds[what].call)
		return;
	pthread_mutex_lock(&c->ino->lock);
	c->ino->ahead.kind[what].asked += (cost < CALL_MAX ? cost : CALL_MAX) - kinds[what].call;
	pthread_mutex_unlock(&c->ino->lock);
}

void ahead_paid(struct inode *dir, enum ahead_what what)
{
	struct ahead_kind *k = &dir->ahead.kind[what];

	if (k->fetched && k->asked < 2 * k->fetched)
		k->asked += kinds[what].call / 2;
}

static void ahead_asked(struct fs *fs, fuse_req_t req, struct inode *dir)
{
	uint64_t size, cookie;

	pthread_mutex_lock(&dir->lock);
	size = may_ask(dir, AHEAD_NAMES) ? one_more(dir, AHEAD_NAMES, kinds[AHEAD_NAMES].call, false) : 0;
	cookie = dir->ahead.kind[AHEAD_NAMES].cookie;
	pthread_mutex_unlock(&dir->lock);
	if (size)
		call_submit(chunk_new(fs, dir, req, NULL, AHEAD_NAMES, cookie, size));
}

/* The directory that a file was last seen in, with a reference. */
static struct inode *parent_of(struct fs *fs, struct inode *ino)
{
	uint64_t id = atomic_load(&ino->parent);

	return id ? inode_find(fs, id) : NULL;
}

/* Those behind `id`, in the order in which whoever goes through them will come to them: before the first of them is removed, which is the end of the listing. */
static void siblings_note(struct inode *up, uint64_t id)
{
	uint64_t *all = malloc(SIBLINGS_MAX * sizeof(*all));
	int n = all ? names_dirs_after(up, id, all, SIBLINGS_MAX) : 0;

	pthread_mutex_lock(&up->lock);
	free(up->ahead.dirs);
	up->ahead.dirs = all;
	up->ahead.ndirs = (unsigned)n;
	up->ahead.next = up->ahead.taken = 0;
	pthread_mutex_unlock(&up->lock);
}

/* Directory `id` of `up` was had alone, and is used. Which of the next ones may be asked for? */
static int siblings_due(struct inode *up, uint64_t id, uint64_t *ids)
{
	struct ahead *a = &up->ahead;
	uint64_t now = clock_boot_ns();
	unsigned i;
	int n = 0;
	bool fresh;

	pthread_mutex_lock(&up->lock);
	fresh = !a->taken_at || now - a->taken_at > LUCK_NS;
	a->taken_at = now;
	pthread_mutex_unlock(&up->lock);
	if (fresh)
		siblings_note(up, id);
	pthread_mutex_lock(&up->lock);
	for (i = a->next; i < a->ndirs; i++)
		if (a->dirs[i] == id)
			a->next = i + 1;
	while (n < SIBLINGS && (unsigned)n < a->taken && a->next < a->ndirs)
		ids[n++] = a->dirs[a->next++];
	a->taken++;
	pthread_mutex_unlock(&up->lock);
	return n;
}

static bool sibling_wanted(struct inode *dir)
{
	struct ahead_kind *k = &dir->ahead.kind[AHEAD_WRITE];
	bool r;

	pthread_mutex_lock(&dir->lock);
	r = may_ask(dir, AHEAD_WRITE) && !dir->ahead.busy && !(k->fetched && clock_boot_ns() - k->at < AGAIN_NS) &&
	    !(dir->foreign_at && clock_boot_ns() - dir->foreign_at < FOREIGN_NS);
	if (r) {
		dir->ahead.busy = dir->ahead.unused = true;
		dir->ahead.what = AHEAD_WRITE;
	}
	pthread_mutex_unlock(&dir->lock);
	return r;
}

/* `dir` was had alone, and is used; by that request, or by who asked for a chunk. */
static void siblings_ask(struct fs *fs, struct inode *dir, fuse_req_t req, const Sprite__Fs__Cred *who)
{
	struct inode *up = parent_of(fs, dir), *next;
	uint64_t ids[SIBLINGS];
	int i, n = up ? siblings_due(up, dir->id, ids) : 0;

	for (i = 0; i < n; i++) {
		next = inode_find(fs, ids[i]);
		if (!next)
			continue;
		if (next->dom == dir->dom && sibling_wanted(next))
			call_submit(chunk_new(fs, next, req, who, AHEAD_WRITE, 0, kinds[AHEAD_WRITE].first));
		inode_put(fs, next);
	}
	if (up)
		inode_put(fs, up);
}

void ahead_asked_of(struct fs *fs, fuse_req_t req, struct inode *ino)
{
	struct inode *dir = parent_of(fs, ino);

	if (!dir)
		return;
	ahead_asked(fs, req, dir);
	inode_put(fs, dir);
}

/* Waits for a chunk of that kind, which may have to be asked for. */
static bool chunk_wait(struct fs *fs, fuse_req_t req, struct inode *dir, enum ahead_what what, uint64_t cost, bool at_once)
{
	struct parked *p = park_new(fs, req, dir);
	uint64_t size = 0, cookie = 0;
	bool wait = false;

	if (!p)
		return false;
	pthread_mutex_lock(&dir->lock);
	if (may_ask(dir, what)) {
		size = one_more(dir, what, cost, at_once);
		cookie = dir->ahead.kind[what].cookie;
		wait = dir->ahead.busy && dir->ahead.what == what;
		if (wait && !size) /* req is not ours any more when the lock is released */
			park_put(p, &dir->ahead.waiters);
	}
	pthread_mutex_unlock(&dir->lock);
	if (size) {
		struct call *c = chunk_new(fs, dir, req, NULL, what, cookie, size);

		pthread_mutex_lock(&dir->lock);
		park_put(p, &dir->ahead.waiters); /* `busy` is ours until c is answered */
		pthread_mutex_unlock(&dir->lock);
		call_submit(c);
	}
	if (!wait)
		park_drop(p);
	return wait;
}

bool ahead_lookup(struct fs *fs, fuse_req_t req, struct inode *dir)
{
	return !session_resent() && chunk_wait(fs, req, dir, AHEAD_NAMES, kinds[AHEAD_NAMES].call, false);
}

void ahead_was_read(struct fs *fs, struct inode *ino)
{
	struct inode *dir = parent_of(fs, ino);

	if (!dir)
		return;
	pthread_mutex_lock(&dir->lock);
	ahead_paid(dir, AHEAD_DATA);
	pthread_mutex_unlock(&dir->lock);
	atomic_store(&fs->read_at, clock_boot_ns());
	inode_put(fs, dir);
}

static bool lucky(atomic_uint_fast64_t *at)
{
	uint64_t then = atomic_load(at);

	return then && clock_boot_ns() - then < LUCK_NS;
}

bool ahead_read(struct fs *fs, fuse_req_t req, struct inode *ino, off_t off)
{
	struct inode *dir;
	struct stat st;
	bool wait;

	if (off || session_resent() || !lease_attr(fs, ino, &st) || !st.st_size || st.st_size > SMALL || !(dir = parent_of(fs, ino)))
		return false;
	atomic_store(&ino->reads_parked, dir->id);
	wait = chunk_wait(fs, req, dir, AHEAD_DATA, kinds[AHEAD_DATA].call + (uint64_t)(st.st_size >> 10) * PER_KB, lucky(&fs->read_at));
	inode_put(fs, dir);
	return wait;
}

void ahead_reads_go(struct fs *fs, struct inode *ino)
{
	uint64_t id = atomic_exchange(&ino->reads_parked, 0);
	struct inode *dir = id ? inode_find(fs, id) : NULL;
	struct list reads;

	if (!dir)
		return;
	list_init(&reads);
	pthread_mutex_lock(&dir->lock);
	park_take_reads(&reads, &dir->ahead.waiters, ino->id);
	pthread_mutex_unlock(&dir->lock);
	park_again(fs, &reads);
	inode_put(fs, dir);
}

bool ahead_change(struct fs *fs, fuse_req_t req, struct inode *dir)
{
	const struct fuse_ctx *who = fuse_req_ctx(req);
	bool first;

	if (session_resent() || !dirq_allows(dir, who->uid, who->gid))
		return false;
	pthread_mutex_lock(&dir->lock);
	first = lucky(&fs->took_at) && !(dir->foreign_at && clock_boot_ns() - dir->foreign_at < FOREIGN_NS);
	pthread_mutex_unlock(&dir->lock);
	return chunk_wait(fs, req, dir, AHEAD_WRITE, kinds[AHEAD_WRITE].call, first);
}

void ahead_used(struct fs *fs, fuse_req_t req, struct inode *dir)
{
	bool first;

	pthread_mutex_lock(&dir->lock);
	first = dir->ahead.unused;
	dir->ahead.unused = false;
	pthread_mutex_unlock(&dir->lock);
	if (first)
		siblings_ask(fs, dir, req, NULL);
}

/* With inode.lock: another node changes names here, or takes the directory. */
void ahead_foreign(struct inode *dir)
{
	dir->ahead.kind[AHEAD_WRITE].asked = 0; /* the next change is the first again */
}
