// SPDX-License-Identifier: Apache-2.0
/* Attributes, extended attributes (POSIX ACLs are two of them), space. The mount's root and `df` answer also while a server is away. */
#include "fs/client/client.h"
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include "conf/clock.h"
#include "fs/client/pipe_agent.h"

#define READ_AGAIN (16u << 10) /* contents come along up to this size */

static void reply_attr(struct call *c, const struct rpc_msg *out)
{
	const Sprite__Fs__GetattrRep *rep = (const Sprite__Fs__GetattrRep *)out->msg;
	const Sprite__Fs__Attr *a = rep->attr;
	uint64_t got;
	double timeout;
	struct stat st;

	if (!a) {
		fuse_reply_err(c->req, EIO);
		return;
	}
	inode_stat(c->fs, c->dom, a, &st);
	if (c->ino == c->dom->root) {
		pthread_mutex_lock(&c->ino->lock);
		c->ino->last = st;
		c->ino->has_last = true;
		pthread_mutex_unlock(&c->ino->lock);
	}
	timeout = inode_timeout(c->ino, st.st_mode);
	lease_reply_begin(c->fs);
	got = lease_take(c->ino, rep->lease, rep->lease_seq);
	if (rep->data && (got & SPRITE__FS__LEASE_BITS__LEASE_DATA))
		read_keep(c->ino, c->mark, rep->lease_seq, 0, out->iov, out->niov, out->bulk_len, true, 0);
	/*
	 * The kernel takes what SETATTR answers without comparing attr_version: should a recall come between our reply and its use, a long time-out
	 * would outlive it. It asks again then, and is answered from memory.
	 */
	if (c->op == FS_GETATTR && (got & SPRITE__FS__LEASE_BITS__LEASE_ATTR) && !S_ISFIFO(st.st_mode)) {
		timeout = LEASE_LONG;
		lease_told(c->ino);
	}
	lease_keep_attr(c->fs, c->ino, a, got);
	if (c->op == FS_GETATTR && lease_outdated(c->ino, a, &st))
		timeout = 0;
	if (c->dom->home)
		home_attr(c->fs, c->ino, a);
	if (!S_ISFIFO(st.st_mode) || c->op != FS_GETATTR || !pipe_agent_open(c->fs, c->req, c->fd, c->ino, &st))
		fuse_reply_attr(c->req, &st, timeout);
	lease_reply_end(c->fs);
}

/*
 * Having created a file the kernel asks for its attributes once more, to check that it may be opened: that needs its mode and owner, which are known. It is the first that the
 * thread which creates asks of the file, and without a descriptor, for there is none yet; whoever stats it waits until the server has given it a number. (Threads outside
 * of our pid namespace are all 0 to us: of them another one with the same uid may be taken for it, should it stat the file in those very microseconds.)
 */
static bool being_created(fuse_req_t req, struct inode *ino)
{
	const struct fuse_ctx *who = fuse_req_ctx(req);
	bool once;

	pthread_mutex_lock(&ino->lock);
	once = ino->newborn && ino->born_tid == who->pid && ino->guess.st_uid == who->uid;
	if (once)
		ino->born_tid = BORN_OPENED;
	pthread_mutex_unlock(&ino->lock);
	return once;
}

/* From memory, under a lease. `by_name`: not through a descriptor. */
static bool reply_attr_kept(struct fs *fs, fuse_req_t req, struct inode *ino, bool by_name)
{
	struct stat st;
	bool known;

	lease_reply_begin(fs);
	known = lease_attr(fs, ino, &st);
	if (!known && (S_ISDIR(ino->type) || (by_name && being_created(req, ino))) && lease_guess(ino, &st)) {
		fuse_reply_attr(req, &st, S_ISDIR(ino->type) ? LEASE_GUESS : 0);
		lease_reply_end(fs);
		atomic_fetch_add_explicit(&fs->local_attrs, 1, memory_order_relaxed);
		return true;
	}
	if (known) {
		lease_told(ino);
		if (!S_ISFIFO(st.st_mode) || !pipe_agent_open(fs, req, session_fd(), ino, &st))
			fuse_reply_attr(req, &st, S_ISFIFO(st.st_mode) ? 0 : LEASE_LONG);
	}
	lease_reply_end(fs);
	if (known)
		atomic_fetch_add_explicit(&fs->local_attrs, 1, memory_order_relaxed);
	return known;
}

static void reply_remembered(struct fs *fs, fuse_req_t req, struct inode *ino)
{
	struct stat st;

	pthread_mutex_lock(&ino->lock);
	if (ino->has_last)
		st = ino->last;
	else
		inode_virtual_stat(fs, ino, &st);
	pthread_mutex_unlock(&ino->lock);
	fuse_reply_attr(req, &st, 0);
}

static void getattr_done(struct call *c, int err, struct rpc_msg *out)
{
	/* a reply of before our change may come after it, and the grant that this one lacks (somebody waits for the file) that one may have had */
	if (!err && c->sets && ((Sprite__Fs__GetattrRep *)out->msg)->attr)
		lease_attr_floor(c->ino, ((Sprite__Fs__GetattrRep *)out->msg)->attr->change);
	lease_set_end(c);
	read_change_end(c);
	if (err == EHOSTDOWN && c->quick)
		reply_remembered(c->fs, c->req, c->ino);
	else if (err)
		fuse_reply_err(c->req, err);
	else
		reply_attr(c, out);
}

/* The file is clean: the replies to its last writes brought its attributes. */
static void getattr_woken(struct call *c)
{
	int fd = session_reply_on(c->fd); /* we may be on an rpc thread */
	bool known;

	fuse_req_interrupt_func(c->req, NULL, NULL);
	known = reply_attr_kept(c->fs, c->req, c->ino, false);
	session_reply_on(fd);
	if (known)
		call_drop(c);
	else
		call_submit(c);
}

static void op_getattr(fuse_req_t req, fuse_ino_t id, struct fuse_file_info *fi)
{
	struct fs *fs = fuse_req_userdata(req);
	struct inode *ino = inode_get(fs, id);
	struct call *c;

	if (inode_is_virtual(fs, ino)) {
		reply_remembered(fs, req, ino);
		inode_put(fs, ino);
		return;
	}
	if (reply_attr_kept(fs, req, ino, !fi) /* not when it is dirty */ || home_getattr(fs, req, ino)) {
		inode_put(fs, ino);
		return;
	}
	if (!fi && !lease_has(ino, SPRITE__FS__LEASE_BITS__LEASE_ATTR)) /* not when a change of our own is what must be asked about */
		ahead_asked_of(fs, req, ino);
	c = call_new(fs, req, FS_GETATTR, ino, getattr_done);
	if (!c)
		return;
	call_cred(c, false);
	c->m.getattr.cred = &c->cred;
	c->handle = &c->m.getattr.handle;
	if (fi)
		call_stream(c, stream_at(fs, fi->fh), &c->m.getattr.open);
	else
		c->m.getattr.open = inode_any_open(ino);
	c->quick = ino == ino->dom->root;
	if (!fi && ino->read_again && !ino->dom->home) { /* a hint: what another node has taken from a reader is most likely read again */
		c->m.getattr.data_max = READ_AGAIN;
		c->mark = read_mark(fs);
	}
	c->woken = getattr_woken;
	wb_then(fs, ino, c);
}

static void setattr_woken(struct call *c)
{
	c->woken = NULL; /* once: it may wait in a gate too */
	lease_set_begin(c);
	if (c->m.setattr.valid & (FS_SET_MODE | FS_SET_UID | FS_SET_GID))
		stream_open_local_then(c->ino, c); /* who has it open keeps it, whatever the new mode says */
	else
		call_submit(c);
}

static int64_t ns(const struct timespec *t)
{
	return t->tv_sec * 1000000000ll + t->tv_nsec;
}

static void op_setattr(fuse_req_t req, fuse_ino_t id, struct stat *st, int valid, struct fuse_file_info *fi)
{
	struct fs *fs = fuse_req_userdata(req);
	struct inode *ino = inode_get(fs, id);
	struct call *c;

	if (inode_is_virtual(fs, ino)) {
		inode_put(fs, ino);
		fuse_reply_err(req, EROFS);
		return;
	}
	if (here_setattr(req, ino, st, valid)) {
		inode_put(fs, ino);
		return;
	}
	c = call_new(fs, req, FS_SETATTR, ino, getattr_done);
	if (!c)
		return;
	call_cred(c, true);
	c->m.setattr.cred = &c->cred;
	c->handle = &c->m.setattr.handle;
	c->m.setattr.valid = (uint32_t)valid & (FS_SET_MODE | FS_SET_UID | FS_SET_GID | FS_SET_SIZE | FS_SET_ATIME | FS_SET_MTIME |
							FS_SET_ATIME_NOW | FS_SET_MTIME_NOW);
	c->attr.mode = st->st_mode;
	c->attr.uid = st->st_uid;
	c->attr.gid = st->st_gid;
	c->attr.size = (uint64_t)st->st_size;
	c->attr.atime = ns(&st->st_atim);
	c->attr.mtime = ns(&st->st_mtim);
	c->m.setattr.attr = &c->attr;
	if (fi)
		call_stream(c, stream_at(fs, fi->fh), &c->m.setattr.open);
	if (valid & FS_SET_SIZE)
		read_change_begin(c, ino);
	c->woken = setattr_woken;
	wb_then(fs, ino, c);
}

/* ---- space */

static void reply_space(fuse_req_t req, const Sprite__Fs__StatfsRep *r)
{
	struct statvfs v = {.f_bsize = 4096, .f_frsize = 4096, .f_namemax = 255};

	if (r) {
		v.f_bsize = r->bsize;
		v.f_frsize = r->frsize;
		v.f_blocks = r->blocks;
		v.f_bfree = r->bfree;
		v.f_bavail = r->bavail;
		v.f_files = r->files;
		v.f_ffree = v.f_favail = r->ffree;
		v.f_namemax = r->namelen;
	}
	fuse_reply_statfs(req, &v);
}

static void statfs_done(struct call *c, int err, struct rpc_msg *out)
{
	if (err && err != EHOSTDOWN)
		fuse_reply_err(c->req, err);
	else
		reply_space(c->req, err ? NULL : (Sprite__Fs__StatfsRep *)out->msg);
}

static void op_statfs(fuse_req_t req, fuse_ino_t id)
{
	struct fs *fs = fuse_req_userdata(req);
	struct inode *ino = inode_get(fs, id ? id : ROOT_ID);
	struct call *c;

	if (inode_is_virtual(fs, ino)) {
		inode_put(fs, ino);
		reply_space(req, NULL);
		return;
	}
	c = call_new(fs, req, FS_STATFS, ino, statfs_done);
	if (!c)
		return;
	c->handle = &c->m.statfs.handle;
	c->quick = true;
	call_submit(c);
}

/* ---- extended attributes */

static struct call *xattr_new(fuse_req_t req, fuse_ino_t id, enum fs_op op, const char *name, size_t size, call_done done)
{
	struct fs *fs = fuse_req_userdata(req);
	struct inode *ino = inode_get(fs, id);
	struct call *c;

	if (inode_is_virtual(fs, ino)) {
		inode_put(fs, ino);
		if (op == FS_LISTXATTR)
			fuse_reply_xattr(req, 0);
		else
			fuse_reply_err(req, op == FS_GETXATTR ? ENODATA : EROFS);
		return NULL;
	}
	c = call_new(fs, req, op, ino, done);
	if (!c)
		return NULL;
	call_cred(c, true);
	c->m.xattr.cred = &c->cred;
	c->handle = &c->m.xattr.handle;
	if (name)
		c->m.xattr.name = call_strdup(c, name);
	c->m.xattr.size = (uint32_t)size;
	c->size = size;
	return c;
}

static void xattr_done(struct call *c, int err, struct rpc_msg *out)
{
	if (err)
		fuse_reply_err(c->req, err);
	else if (!c->size)
		fuse_reply_xattr(c->req, ((Sprite__Fs__XattrRep *)out->msg)->size);
	else if (out->bulk_len > c->size)
		fuse_reply_err(c->req, ERANGE);
	else
		fuse_reply_iov(c->req, out->iov, out->niov);
}

/* The kernel asks for ACLs before many a permission check and for capabilities before every exec: mostly there are none. */
static bool known_absent(struct fs *fs, fuse_ino_t id, const char *name)
{
	struct inode *ino = inode_get(fs, id);
	bool acl = !strncmp(name, "system.posix_acl_", 17), cap = !strcmp(name, "security.capability"), r;

	struct home_attr h;

	if (ino->dom && ino->dom->home) {
		r = home_fresh(ino, &h) && ((acl && h.no_acl) || (cap && home_no_cap(ino)));
	} else {
		pthread_mutex_lock(&ino->lock);
		r = (ino->lease & SPRITE__FS__LEASE_BITS__LEASE_ATTR) && ((acl && ino->no_acl) || (cap && ino->no_cap));
		pthread_mutex_unlock(&ino->lock);
	}
	inode_put(fs, ino);
	return r;
}

static void getxattr_done(struct call *c, int err, struct rpc_msg *out)
{
	if (err == ENODATA && !strcmp(c->m.xattr.name, "security.capability")) {
		pthread_mutex_lock(&c->ino->lock);
		/* only when no recall came since it was asked */
		if ((c->ino->lease & SPRITE__FS__LEASE_BITS__LEASE_ATTR) && c->ino->stamp == c->seq && c->leased)
			c->ino->no_cap = true;
		c->ino->no_cap_at = clock_mono_ns();
		pthread_mutex_unlock(&c->ino->lock);
	}
	xattr_done(c, err, out);
}

static void op_getxattr(fuse_req_t req, fuse_ino_t id, const char *name, size_t size)
{
	struct fs *fs = fuse_req_userdata(req);
	struct call *c;

	if (known_absent(fs, id, name)) {
		fuse_reply_err(req, ENODATA);
		return;
	}
	c = xattr_new(req, id, FS_GETXATTR, name, size, getxattr_done);
	if (!c)
		return;
	pthread_mutex_lock(&c->ino->lock);
	c->seq = c->ino->stamp;
	c->leased = c->ino->lease & SPRITE__FS__LEASE_BITS__LEASE_ATTR;
	pthread_mutex_unlock(&c->ino->lock);
	call_submit(c);
}

static void op_listxattr(fuse_req_t req, fuse_ino_t id, size_t size)
{
	struct call *c = xattr_new(req, id, FS_LISTXATTR, NULL, size, xattr_done);

	if (c)
		call_submit(c);
}

static void xattr_changed(struct call *c, int err, struct rpc_msg *out)
{
	(void)out;
	lease_forget_attr(c->ino);
	pthread_mutex_lock(&c->ino->lock);
	c->ino->now_at = c->ino->no_cap_at = 0;
	pthread_mutex_unlock(&c->ino->lock);
	if (!err && !strncmp(c->m.xattr.name, "system.posix_acl_", 17)) { /* its mode does not say all any more (ops_here.c) */
		pthread_mutex_lock(&c->ino->lock);
		if (S_ISDIR(c->ino->type))
			c->ino->lease &= ~(uint64_t)SPRITE__FS__LEASE_BITS__LEASE_WRITE;
		pthread_mutex_unlock(&c->ino->lock);
	}
	fuse_reply_err(c->req, err);
}

static void op_setxattr(fuse_req_t req, fuse_ino_t id, const char *name, const char *value, size_t size, int flags)
{
	struct call *c = xattr_new(req, id, FS_SETXATTR, name, size, xattr_changed);

	if (!c)
		return;
	c->m.xattr.flags = (uint32_t)flags;
	if (size) {
		c->bulk.iov_base = memcpy(call_alloc(c, size), value, size);
		c->bulk.iov_len = size;
	}
	call_submit(c);
}

static void op_removexattr(fuse_req_t req, fuse_ino_t id, const char *name)
{
	struct call *c = xattr_new(req, id, FS_REMOVEXATTR, name, 0, xattr_changed);

	if (c)
		call_submit(c);
}

void ops_attr(struct fuse_lowlevel_ops *ops)
{
	ops->getattr = op_getattr;
	ops->setattr = op_setattr;
	ops->statfs = op_statfs;
	ops->getxattr = op_getxattr;
	ops->listxattr = op_listxattr;
	ops->setxattr = op_setxattr;
	ops->removexattr = op_removexattr;
}
