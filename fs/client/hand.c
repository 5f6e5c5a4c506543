// SPDX-License-Identifier: Apache-2.0
/*
 * Open files that go from node to node: fs/hand.h tells the protocol, fs/server/hand.h what the server does.
 *
 * OFFER is an ioctl on the open file. At the destination the name that it gave is looked up: that claims an open of the file at the server, which waits
 * here (fs.claims, fs.wait_lock; KEEP_CLAIM) for the open(2) that follows: of that inode, by the same thread. Locks taken through that description name the
 * token. A claim stays until the kernel has the answer to its open(2): a next spritefs is asked for that again.
 *
 * A description whose offset is shared: `expect` is where the kernel believes it to stand. FUSE does not tell write(2) from pwrite(2), so a write there is
 * taken for the former. (An lseek(2) is not seen: what follows it is taken for a pwrite(2), unless it goes where the description stood.) It is always
 * one without a page cache, made by a claim: through the cache the kernel cuts a write(2) at the ends of pages, and the parts of two would be mixed.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include "conf/clock.h"
#include "conf/log.h"
#include "fs/client/kept.h"
#include "fs/hand.h"

#define WAIT_NS 30000000000ull /* for the open(2) of what was looked up */

struct claim {
	struct list link;
	struct inode *ino; /* held */
	uint8_t token[HAND_TOKEN], stream[HAND_TOKEN];
	uint64_t open, pos, since;
	uint32_t flags, uid, gid; /* uid, gid, groups: who opened it first */
	uint32_t *groups;
	size_t ngroups;
	pid_t tid; /* who looked it up */
	struct keep *keep;
	bool shared;
	bool taken;   /* by the open(2) that is being answered */
	bool resumed; /* an earlier spritefs has made a stream of it, and perhaps told the kernel: only for an open(2) that is asked again */
};

static int hex(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool token_of(const char *name, uint8_t *token)
{
	size_t n = strlen(HAND_PREFIX);
	int i;

	if (strncmp(name, HAND_PREFIX, n) != 0 || strlen(name) != n + 2 * HAND_TOKEN)
		return false;
	for (i = 0; i < HAND_TOKEN; i++) {
		int a = hex(name[n + 2 * (size_t)i]), b = hex(name[n + 2 * (size_t)i + 1]);

		if (a < 0 || b < 0)
			return false;
		token[i] = (uint8_t)(a << 4 | b);
	}
	return true;
}

/* ---- source */

static void offered(struct call *c, int err, struct rpc_msg *out)
{
	Sprite__Fs__HandRep *rep = err ? NULL : (Sprite__Fs__HandRep *)out->msg;
	const char *prefix = c->fs->whole ? c->dom->prefix + strspn(c->dom->prefix, "/") : "";
	struct sprite_hand h = {0};
	size_t i;
	int n;

	if (!err && rep->token.len != HAND_TOKEN)
		err = EIO;
	if (err) {
		fuse_reply_err(c->req, err);
		return;
	}
	h.pos = rep->pos;
	h.flags = rep->shared ? SPRITE_HAND_SHARED : 0;
	n = snprintf(h.name, sizeof(h.name), "%s%s" HAND_PREFIX, prefix, *prefix ? "/" : "");
	if ((size_t)n + 2 * HAND_TOKEN >= sizeof(h.name)) {
		fuse_reply_err(c->req, ENAMETOOLONG);
		return;
	}
	for (i = 0; i < HAND_TOKEN; i++)
		sprintf(h.name + n + 2 * i, "%02x", rep->token.data[i]);
	pthread_mutex_lock(&c->st->ino->lock);
	memcpy(c->st->token, rep->token.data, HAND_TOKEN);
	c->st->offered = true;
	c->st->offer_pos = c->m.hand.pos;
	stream_changed(c->st);
	recover_locks_offer(c->st);
	if (c->st->shared)
		h.pos = c->st->expect; /* where the kernel has to believe it to be, over there too */
	pthread_mutex_unlock(&c->st->ino->lock);
	fuse_reply_ioctl(c->req, 0, &h, sizeof(h));
}

struct along {
	const struct stream *st;
	uint64_t *owner, *start, *end;
	size_t n;
	bool more;
};

static void goes_along(void *arg, const struct held_lock *h)
{
	struct along *a = arg;

	if (!recover_lock_is(a->st, h))
		return;
	a->more = a->n == HAND_OWNERS_MAX;
	if (a->more)
		return;
	a->owner[a->n] = h->owner;
	a->start[a->n] = h->start;
	a->end[a->n++] = h->end;
}

/* The locks that go along; false: there are too many. */
static bool locks_along(struct call *c, struct stream *st)
{
	uint64_t *room = call_alloc(c, 3 * HAND_OWNERS_MAX * sizeof(uint64_t));
	struct along a = {.st = st, .owner = room, .start = room + HAND_OWNERS_MAX, .end = room + 2 * HAND_OWNERS_MAX};

	pthread_mutex_lock(&st->ino->lock);
	recover_locks_each(st->ino, goes_along, &a);
	pthread_mutex_unlock(&st->ino->lock);
	c->m.hand.owners = a.owner;
	c->m.hand.starts = a.start;
	c->m.hand.ends = a.end;
	c->m.hand.n_owners = c->m.hand.n_starts = c->m.hand.n_ends = a.n;
	return !a.more;
}

static void offer(fuse_req_t req, struct fs *fs, struct stream *st, const struct sprite_hand *in)
{
	struct call *c = call_new(fs, req, FS_HAND, inode_hold(fs, st->ino), offered);
	uint8_t *token;
	bool again;

	if (!c)
		return;
	token = call_alloc(c, HAND_TOKEN);
	pthread_mutex_lock(&st->ino->lock);
	again = st->offered; /* and nothing came of it: under the same name */
	if (again)
		memcpy(token, st->token, HAND_TOKEN);
	pthread_mutex_unlock(&st->ino->lock);
	if (!again && getrandom(token, HAND_TOKEN, 0) != HAND_TOKEN)
		abort();
	c->m.hand.op = SPRITE__FS__HAND_REQ__OP__OFFER;
	c->m.hand.token = (ProtobufCBinaryData){HAND_TOKEN, token};
	c->m.hand.pos = st->shared ? st->expect : in->pos;
	c->m.hand.shared = st->shared || in->flags & SPRITE_HAND_SHARED;
	c->cred.uid = st->uid;
	c->cred.gid = st->gid;
	c->cred.groups = memcpy(call_alloc(c, st->ngroups * sizeof(*st->groups) + 1), st->ngroups ? st->groups : (uint32_t *)token, st->ngroups * sizeof(*st->groups));
	c->cred.n_groups = st->ngroups;
	c->m.hand.cred = &c->cred;
	call_stream(c, st, &c->m.hand.open);
	if (!locks_along(c, st)) {
		fuse_reply_err(req, E2BIG);
		call_drop(c);
		return;
	}
	wb_then(fs, st->ino, c);
}

static void cancelled(struct call *c, int err, struct rpc_msg *out)
{
	(void)out;
	if (err) {
		fuse_reply_err(c->req, err);
		return;
	}
	pthread_mutex_lock(&c->st->ino->lock);
	c->st->offered = false; /* its locks may keep their mark: nobody can ask for one under it any more */
	stream_changed(c->st);
	pthread_mutex_unlock(&c->st->ino->lock);
	fuse_reply_ioctl(c->req, 0, NULL, 0);
}

static void cancel(fuse_req_t req, struct fs *fs, struct stream *st)
{
	struct call *c = call_new(fs, req, FS_HAND, inode_hold(fs, st->ino), cancelled);

	if (!c)
		return;
	c->m.hand.op = SPRITE__FS__HAND_REQ__OP__CANCEL;
	c->m.hand.token = (ProtobufCBinaryData){HAND_TOKEN, memcpy(call_alloc(c, HAND_TOKEN), st->token, HAND_TOKEN)};
	call_stream(c, st, &c->m.hand.open);
	call_submit(c);
}

struct locks_look {
	const struct stream *st;
	uint32_t pid, found;
	struct sprite_locks *list; /* NULL: only what kinds */
	bool more;
};

/* With inode.lock. 0: it is not one of this description. */
static enum sprite_lock_kind kind_of(const struct stream *st, const struct held_lock *h)
{
	if (!recover_lock_is(st, h))
		return 0;
	return h->owner != st->flock_owner ? SPRITE_POSIX : h->flock ? SPRITE_FLOCK : SPRITE_OFD;
}

static void locks_look_at(void *arg, const struct held_lock *h)
{
	struct locks_look *l = arg;
	enum sprite_lock_kind kind = kind_of(l->st, h);

	if (kind == SPRITE_FLOCK)
		l->found |= SPRITE_LOCKS_FLOCK;
	else if (kind == SPRITE_OFD || (kind == SPRITE_POSIX && h->pid == l->pid))
		l->found |= SPRITE_LOCKS_RANGE;
	if (!l->list || !kind)
		return;
	if (l->list->n == SPRITE_LOCKS_MAX)
		l->more = true;
	else
		l->list->lock[l->list->n++] = (struct sprite_lock){.start = h->start, .end = h->end, .kind = kind, .type = h->type, .pid = (int32_t)h->pid};
}

static void locks_tell(fuse_req_t req, struct stream *st, const uint32_t *pid)
{
	struct locks_look l = {.st = st, .pid = *pid};

	pthread_mutex_lock(&st->ino->lock);
	recover_locks_each(st->ino, locks_look_at, &l);
	pthread_mutex_unlock(&st->ino->lock);
	fuse_reply_ioctl(req, 0, &l.found, sizeof(l.found));
}

static void locks_list(fuse_req_t req, const struct fs *fs, struct stream *st)
{
	struct sprite_locks *list = calloc(1, sizeof(*list));
	struct locks_look l = {.st = st, .list = list};

	if (!list) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	pthread_mutex_lock(&st->ino->lock);
	list->flags = (fs->whole ? SPRITE_LIST_WHOLE : 0) | (list_empty(&st->ino->locks) ? 0 : SPRITE_LIST_LOCKED);
	recover_locks_each(st->ino, locks_look_at, &l);
	pthread_mutex_unlock(&st->ino->lock);
	if (l.more)
		fuse_reply_err(req, E2BIG);
	else
		fuse_reply_ioctl(req, 0, list, sizeof(*list));
	free(list);
}

static void tail(fuse_req_t req, struct stream *st, const uint64_t *at)
{
	uint64_t stands;

	pthread_mutex_lock(&st->ino->lock);
	if (*at != UINT64_MAX) {
		st->tail = true;
		st->expect = *at;
		stream_changed(st);
	}
	stands = st->expect;
	pthread_mutex_unlock(&st->ino->lock);
	fuse_reply_ioctl(req, 0, &stands, sizeof(stands));
}

static void op_ioctl(fuse_req_t req, fuse_ino_t id, unsigned cmd, void *arg, struct fuse_file_info *fi, unsigned flags, const void *in, size_t in_size,
	size_t out_size)
{
	struct fs *fs = fuse_req_userdata(req);
	struct stream *st = stream_at(fs, fi->fh);

	(void)id;
	(void)arg;
	(void)flags;
	if (!st || st->dir || !st->ino->dom)
		fuse_reply_err(req, ENOTTY);
	else if (cmd != SPRITE_IOC_OFFER && cmd != SPRITE_IOC_CANCEL && cmd != SPRITE_IOC_LOCKS && cmd != SPRITE_IOC_LIST && cmd != SPRITE_IOC_TAIL)
		fuse_reply_err(req, ENOTTY);
	else if (fuse_req_ctx(req)->uid != 0)
		fuse_reply_err(req, EPERM);
	else if (cmd == SPRITE_IOC_CANCEL)
		cancel(req, fs, st);
	else if (cmd == SPRITE_IOC_TAIL && in_size >= sizeof(uint64_t) && out_size >= sizeof(uint64_t))
		tail(req, st, in);
	else if (cmd == SPRITE_IOC_LOCKS && in_size >= sizeof(uint32_t) && out_size >= sizeof(uint32_t))
		locks_tell(req, st, in);
	else if (cmd == SPRITE_IOC_LIST && out_size >= sizeof(struct sprite_locks))
		locks_list(req, fs, st);
	else if (cmd == SPRITE_IOC_OFFER && in_size >= sizeof(struct sprite_hand) && out_size >= sizeof(struct sprite_hand))
		offer(req, fs, st, in);
	else
		fuse_reply_err(req, EINVAL);
}

/* ---- destination */

static void claim_free(struct fs *fs, struct claim *k, bool close)
{
	if (close && !stream_has(fs, k->open))
		stream_close_id(fs, inode_hold(fs, k->ino), k->open, false, 0);
	keep_free(k->keep);
	inode_put(fs, k->ino);
	free(k->groups);
	free(k);
}

static void claim_save(struct claim *k)
{
	size_t n = k->ngroups * sizeof(uint32_t);
	struct kept_claim *x;

	k->keep = keep_new(sizeof(*x) + n);
	if (!k->keep)
		return;
	x = (struct kept_claim *)k->keep->data;
	*x = (struct kept_claim){.ino = k->ino->id, .pos = k->pos, .flags = k->flags, .shared = k->shared, .uid = k->uid, .gid = k->gid,
		.ngroups = (uint32_t)k->ngroups, .tid = k->tid};
	memcpy(x->token, k->token, HAND_TOKEN);
	memcpy(x->stream, k->stream, HAND_TOKEN);
	if (n)
		memcpy(x->groups, k->groups, n);
	keep_commit(k->keep, KEEP_CLAIM, k->open);
}

/* The groups of who opened it, counted; false: no memory. */
static bool claim_groups(struct claim *k, const uint32_t *groups, size_t n)
{
	k->groups = n ? malloc(n * sizeof(*groups)) : NULL;
	if (n && !k->groups)
		return false;
	if (n)
		memcpy(k->groups, groups, n * sizeof(*groups));
	k->ngroups = n;
	return true;
}

static struct claim *claim_new(struct fs *fs, struct inode *ino, const Sprite__Fs__HandRep *rep, pid_t tid)
{
	struct claim *k = calloc(1, sizeof(*k));

	if (!k || (rep->cred && !claim_groups(k, rep->cred->groups, rep->cred->n_groups))) {
		free(k);
		return NULL;
	}
	k->ino = inode_hold(fs, ino);
	if (rep->token.len == HAND_TOKEN)
		memcpy(k->token, rep->token.data, HAND_TOKEN);
	if (rep->stream.len == HAND_TOKEN)
		memcpy(k->stream, rep->stream.data, HAND_TOKEN);
	if (rep->cred) {
		k->uid = rep->cred->uid;
		k->gid = rep->cred->gid;
	}
	k->open = rep->open;
	k->pos = rep->pos;
	k->flags = rep->flags;
	k->shared = rep->shared;
	k->tid = tid;
	k->since = clock_boot_ns();
	claim_save(k);
	return k;
}

/* Adds it. What the same thread looked up before and did not open it does not want any more; one of the same open is the answer to the same question. */
static void claim_add(struct fs *fs, struct claim *k)
{
	struct claim *old, *next;
	struct list gone = LIST_INIT(gone);

	pthread_mutex_lock(&fs->wait_lock);
	list_each_safe(old, next, &fs->claims, link)
		if (!old->taken && (old->open == k->open || (old->tid == k->tid && old->ino == k->ino)))
			list_move_tail(&gone, &old->link);
	list_add_tail(&fs->claims, &k->link);
	pthread_mutex_unlock(&fs->wait_lock);
	list_each_safe(old, next, &gone, link) {
		list_del(&old->link);
		claim_free(fs, old, old->open != k->open);
	}
}

static void claimed(struct call *c, int err, struct rpc_msg *out)
{
	Sprite__Fs__HandRep *rep = err ? NULL : (Sprite__Fs__HandRep *)out->msg;
	struct fuse_entry_param p;
	struct fs *fs = c->fs;
	struct inode *ino;
	struct claim *k;

	if (err) {
		fuse_reply_err(c->req, err);
		return;
	}
	lease_reply_begin(fs);
	ino = ops_entry_take(fs, c->dom, rep->entry, false, &p);
	k = ino ? claim_new(fs, ino, rep, fuse_req_ctx(c->req)->pid) : NULL;
	if (k) {
		claim_add(fs, k);
		p.entry_timeout = p.attr_timeout = 0;
		if (fuse_reply_entry(c->req, &p) == -ENOENT) /* its open(2) will not come: hand_tick() closes it */
			inode_forget(fs, p.ino, 1);
	} else {
		fuse_reply_err(c->req, ENOMEM);
		stream_close_id(fs, inode_hold(fs, c->ino), rep->open, false, 0);
		if (ino)
			inode_forget(fs, p.ino, 1);
	}
	lease_reply_end(fs);
}

void hand_resume(struct fs *fs, struct keep *keep)
{
	struct kept_claim *x = (struct kept_claim *)keep->data;
	struct inode *ino = inode_find(fs, x->ino);
	struct claim *k = ino ? calloc(1, sizeof(*k)) : NULL;

	if (!k || !claim_groups(k, x->groups, x->ngroups)) { /* the kernel let go of the file */
		if (k)
			abort();
		keep_free(keep);
		return;
	}
	k->ino = ino;
	memcpy(k->token, x->token, HAND_TOKEN);
	memcpy(k->stream, x->stream, HAND_TOKEN);
	k->open = keep->key;
	k->pos = x->pos;
	k->flags = x->flags;
	k->uid = x->uid;
	k->gid = x->gid;
	k->shared = x->shared;
	k->tid = x->tid;
	k->keep = keep;
	k->resumed = stream_has(fs, k->open);
	k->since = clock_boot_ns();
	list_add_tail(&fs->claims, &k->link);
}

bool hand_has(struct fs *fs, uint64_t open)
{
	struct claim *k;
	bool found = false;

	pthread_mutex_lock(&fs->wait_lock);
	list_each(k, &fs->claims, link)
		found = found || k->open == open;
	pthread_mutex_unlock(&fs->wait_lock);
	return found;
}

bool hand_lookup(struct fs *fs, fuse_req_t req, struct inode *dir, const char *name)
{
	uint8_t token[HAND_TOKEN];
	struct call *c;

	if (!dir->dom || dir != dir->dom->root || !token_of(name, token))
		return false;
	if (fuse_req_ctx(req)->uid != 0 || fuse_req_ctx(req)->pid == 0) { /* of a pid namespace that is none of ours: who opens it could not be told */
		fuse_reply_err(req, ENOENT);
		return true;
	}
	c = call_new(fs, req, FS_HAND, inode_hold(fs, dir), claimed);
	if (!c)
		return true;
	call_cred(c, true);
	c->m.hand.cred = &c->cred;
	c->m.hand.op = SPRITE__FS__HAND_REQ__OP__CLAIM;
	c->m.hand.token = (ProtobufCBinaryData){HAND_TOKEN, memcpy(call_alloc(c, HAND_TOKEN), token, HAND_TOKEN)};
	call_submit(c);
	return true;
}

/* The claim that this open(2) is for, or NULL. */
static struct claim *claim_take(struct fs *fs, struct inode *ino, int flags, pid_t tid)
{
	struct claim *k, *found = NULL;

	pthread_mutex_lock(&fs->wait_lock);
	list_each(k, &fs->claims, link)
		if (k->ino == ino && k->tid == tid && !k->taken && (k->flags & O_ACCMODE) == (uint32_t)(flags & O_ACCMODE) && (!k->resumed || session_resent())) {
			k->taken = true;
			found = k;
			break;
		}
	pthread_mutex_unlock(&fs->wait_lock);
	return found;
}

static void claim_done(struct fs *fs, struct claim *k, bool close)
{
	pthread_mutex_lock(&fs->wait_lock);
	list_del(&k->link);
	pthread_mutex_unlock(&fs->wait_lock);
	claim_free(fs, k, close);
}

static struct stream *claim_stream(struct fs *fs, struct inode *ino, struct claim *k, int flags)
{
	struct fuse_ctx who = {.uid = k->uid, .gid = k->gid};
	struct stream *st = stream_new(fs, inode_hold(fs, ino), k->open, flags, false, &who);

	if (!st) {
		inode_put(fs, ino);
		return NULL;
	}
	st->groups = k->groups;
	st->ngroups = k->ngroups;
	k->groups = NULL;
	st->claimed = true;
	memcpy(st->token, k->token, HAND_TOKEN);
	st->shared = k->shared;
	st->expect = k->pos; /* where lseek(2) will put it */
	memcpy(st->stream, k->stream, HAND_TOKEN);
	st->direct = true;
	return st;
}

bool hand_open(struct fs *fs, fuse_req_t req, struct inode *ino, struct fuse_file_info *fi)
{
	struct claim *k;
	struct stream *st;

	if (list_empty(&fs->claims) || fuse_req_ctx(req)->uid != 0 || (k = claim_take(fs, ino, fi->flags, fuse_req_ctx(req)->pid)) == NULL)
		return false;
	st = claim_stream(fs, ino, k, fi->flags);
	if (!st) {
		claim_done(fs, k, true);
		fuse_reply_err(req, ENOMEM);
		return true;
	}
	fi->direct_io = 1;
	fi->fh = stream_told(st, session_unique());
	if (fuse_reply_open(req, fi) == -ENOENT)
		stream_release(fs, st, false, 0);
	claim_done(fs, k, false);
	return true;
}

void hand_tick(struct fs *fs, uint64_t now)
{
	struct claim *k, *old;

	do {
		old = NULL;
		pthread_mutex_lock(&fs->wait_lock);
		list_each(k, &fs->claims, link)
			if (now - k->since > WAIT_NS && !k->taken) {
				list_del(&k->link);
				old = k;
				break;
			}
		pthread_mutex_unlock(&fs->wait_lock);
		if (old)
			claim_free(fs, old, true);
	} while (old);
}

/* ---- the shared offset */

bool hand_write_begin(struct stream *st, uint64_t off)
{
	bool r;

	pthread_mutex_lock(&st->ino->lock);
	r = st->shared && off == st->expect;
	pthread_mutex_unlock(&st->ino->lock);
	return r;
}

void hand_write_done(struct stream *st, uint64_t off, uint64_t size, uint64_t at)
{
	pthread_mutex_lock(&st->ino->lock);
	st->expect = off + size;
	st->at = at + size;
	stream_changed(st);
	pthread_mutex_unlock(&st->ino->lock);
}

/* ---- who stands for a description elsewhere (SPRITE_IOC_TAIL) */

bool hand_tail_begin(struct stream *st, uint64_t off)
{
	bool r;

	pthread_mutex_lock(&st->ino->lock);
	r = st->tail && off == st->expect;
	pthread_mutex_unlock(&st->ino->lock);
	return r;
}

void hand_tail_done(struct stream *st, uint64_t end)
{
	pthread_mutex_lock(&st->ino->lock);
	st->expect = end;
	stream_changed(st);
	pthread_mutex_unlock(&st->ino->lock);
}

void ops_hand(struct fuse_lowlevel_ops *ops)
{
	ops->ioctl = op_ioctl;
}
