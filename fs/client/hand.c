// SPDX-License-Identifier: Apache-2.0
/*
 * Open files that go from node to node: fs/hand.h tells the protocol, fs/server/hand.h what the server does.
 *
 * OFFER is an ioctl on the open file. At the destination the name that it gave is looked up: that claims an open of the file at the server, which waits
 * here (fs.claims, fs.wait_lock) for the open(2) that follows. Locks taken through that description name the token.
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
#include "fs/client/client.h"
#include "fs/hand.h"

#define WAIT_NS 30000000000ull /* for the open(2) of what was looked up */

struct claim {
	struct list link;
	struct inode *ino; /* held */
	uint8_t token[HAND_TOKEN], stream[HAND_TOKEN];
	uint64_t open, pos, since;
	uint32_t flags;
	bool shared;
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
	stream_changed(c->st);
	if (c->st->shared)
		h.pos = c->st->expect; /* where the kernel has to believe it to be, over there too */
	pthread_mutex_unlock(&c->st->ino->lock);
	fuse_reply_ioctl(c->req, 0, &h, sizeof(h));
}

/* Those whose locks go along: of the description itself, and of the process. */
static void owners_of(struct call *c, struct stream *st, uint32_t pid)
{
	uint64_t *list = call_alloc(c, HAND_OWNERS_MAX * sizeof(*list));
	size_t n = recover_lock_owners(st->ino, pid, list, HAND_OWNERS_MAX - 1);

	pthread_mutex_lock(&st->ino->lock);
	if (st->flock_owner)
		list[n++] = st->flock_owner;
	pthread_mutex_unlock(&st->ino->lock);
	c->m.hand.owners = list;
	c->m.hand.n_owners = n;
}

static void offer(fuse_req_t req, struct fs *fs, struct stream *st, const struct sprite_hand *in)
{
	struct call *c = call_new(fs, req, FS_HAND, inode_hold(fs, st->ino), offered);
	uint8_t *token;

	if (!c)
		return;
	token = call_alloc(c, HAND_TOKEN);
	if (getrandom(token, HAND_TOKEN, 0) != HAND_TOKEN)
		abort();
	c->m.hand.op = SPRITE__FS__HAND_REQ__OP__OFFER;
	c->m.hand.token = (ProtobufCBinaryData){HAND_TOKEN, token};
	c->m.hand.pos = st->shared ? st->expect : in->pos;
	c->m.hand.shared = in->flags & SPRITE_HAND_SHARED;
	owners_of(c, st, (uint32_t)in->pid);
	call_stream(c, st, &c->m.hand.open);
	wb_then(fs, st->ino, c);
}

static void cancelled(struct call *c, int err, struct rpc_msg *out)
{
	(void)out;
	if (err)
		fuse_reply_err(c->req, err);
	else
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
	uint32_t pid, found;
	bool flock; /* this description has used flock(2) */
};

static void locks_look_at(void *arg, uint32_t pid, uint32_t type, bool flock, uint64_t start, uint64_t end)
{
	struct locks_look *l = arg;

	(void)type, (void)start, (void)end;
	if (flock && l->flock)
		l->found |= SPRITE_LOCKS_FLOCK;
	else if (!flock && pid == l->pid)
		l->found |= SPRITE_LOCKS_RANGE;
}

static void locks_tell(fuse_req_t req, struct stream *st, const uint32_t *pid)
{
	struct locks_look l = {.pid = *pid};

	pthread_mutex_lock(&st->ino->lock);
	l.flock = st->flock_owner != 0;
	recover_locks_each(st->ino, locks_look_at, &l);
	pthread_mutex_unlock(&st->ino->lock);
	fuse_reply_ioctl(req, 0, &l.found, sizeof(l.found));
}

static void op_ioctl(fuse_req_t req, fuse_ino_t id, unsigned cmd, void *arg, struct fuse_file_info *fi, unsigned flags, const void *in, size_t in_size,
	size_t out_size)
{
	struct fs *fs = fuse_req_userdata(req);
	struct stream *st = stream_at(fs, fi->fh);

	(void)id;
	(void)arg;
	(void)flags;
	if ((cmd != SPRITE_IOC_OFFER && cmd != SPRITE_IOC_CANCEL && cmd != SPRITE_IOC_LOCKS) || !st || st->dir || !st->ino->dom)
		fuse_reply_err(req, ENOTTY);
	else if (fuse_req_ctx(req)->uid != 0)
		fuse_reply_err(req, EPERM);
	else if (cmd == SPRITE_IOC_CANCEL)
		cancel(req, fs, st);
	else if (cmd == SPRITE_IOC_LOCKS && in_size >= sizeof(uint32_t) && out_size >= sizeof(uint32_t))
		locks_tell(req, st, in);
	else if (cmd == SPRITE_IOC_LOCKS || in_size < sizeof(struct sprite_hand) || out_size < sizeof(struct sprite_hand))
		fuse_reply_err(req, EINVAL);
	else
		offer(req, fs, st, in);
}

/* ---- destination */

static void claim_free(struct fs *fs, struct claim *k, bool close)
{
	if (close)
		stream_close_id(fs, inode_hold(fs, k->ino), k->open, false, 0);
	inode_put(fs, k->ino);
	free(k);
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
	k = ino ? calloc(1, sizeof(*k)) : NULL;
	if (k) {
		k->ino = inode_hold(fs, ino);
		if (rep->token.len == HAND_TOKEN)
			memcpy(k->token, rep->token.data, HAND_TOKEN);
		if (rep->stream.len == HAND_TOKEN) /* of one whose offset is shared */
			memcpy(k->stream, rep->stream.data, HAND_TOKEN);
		k->open = rep->open;
		k->pos = rep->pos;
		k->flags = rep->flags;
		k->shared = rep->shared;
		k->since = clock_boot_ns();
		pthread_mutex_lock(&fs->wait_lock);
		list_add_tail(&fs->claims, &k->link);
		pthread_mutex_unlock(&fs->wait_lock);
		p.entry_timeout = p.attr_timeout = 0;
		fuse_reply_entry(c->req, &p);
	} else {
		fuse_reply_err(c->req, ENOMEM);
	}
	lease_reply_end(fs);
}

bool hand_lookup(struct fs *fs, fuse_req_t req, struct inode *dir, const char *name)
{
	uint8_t token[HAND_TOKEN];
	struct call *c;

	if (!dir->dom || dir != dir->dom->root || !token_of(name, token))
		return false;
	if (fuse_req_ctx(req)->uid != 0) {
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

/* Takes the claim that this open(2) is for, or NULL. */
static struct claim *claim_take(struct fs *fs, struct inode *ino, int flags)
{
	struct claim *k, *found = NULL;

	pthread_mutex_lock(&fs->wait_lock);
	list_each(k, &fs->claims, link)
		if (k->ino == ino && (k->flags & O_ACCMODE) == (uint32_t)(flags & O_ACCMODE)) {
			list_del(&k->link);
			found = k;
			break;
		}
	pthread_mutex_unlock(&fs->wait_lock);
	return found;
}

bool hand_open(struct fs *fs, fuse_req_t req, struct inode *ino, struct fuse_file_info *fi)
{
	struct claim *k;
	struct stream *st;

	if (list_empty(&fs->claims) || fuse_req_ctx(req)->uid != 0 || (k = claim_take(fs, ino, fi->flags)) == NULL)
		return false;
	st = stream_new(fs, inode_hold(fs, ino), k->open, fi->flags, false, fuse_req_ctx(req));
	if (!st) {
		claim_free(fs, k, true);
		fuse_reply_err(req, ENOMEM);
		return true;
	}
	st->claimed = true;
	memcpy(st->token, k->token, HAND_TOKEN);
	st->shared = k->shared;
	st->expect = k->pos; /* where lseek(2) will put it */
	memcpy(st->stream, k->stream, HAND_TOKEN);
	fi->direct_io = 1;
	st->direct = true;
	fi->fh = stream_told(st, session_unique());
	if (fuse_reply_open(req, fi) == -ENOENT)
		stream_release(fs, st, false, 0);
	claim_free(fs, k, false);
	return true;
}

void hand_tick(struct fs *fs, uint64_t now)
{
	struct claim *k, *old;

	do {
		old = NULL;
		pthread_mutex_lock(&fs->wait_lock);
		list_each(k, &fs->claims, link)
			if (now - k->since > WAIT_NS) {
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

void ops_hand(struct fuse_lowlevel_ops *ops)
{
	ops->ioctl = op_ioctl;
}
