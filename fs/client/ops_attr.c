// SPDX-License-Identifier: Apache-2.0
/* Attributes, extended attributes (POSIX ACLs are two of them), space. The mount's root and `df` answer also while a server is away. */
#include "fs/client/client.h"
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

static void reply_attr(struct call *c, const Sprite__Fs__Attr *a)
{
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
	fuse_reply_attr(c->req, &st, inode_timeout(c->ino, st.st_mode));
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
	if (err == EHOSTDOWN && c->quick)
		reply_remembered(c->fs, c->req, c->ino);
	else if (err)
		fuse_reply_err(c->req, err);
	else
		reply_attr(c, ((Sprite__Fs__GetattrRep *)out->msg)->attr);
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
	c = call_new(fs, req, FS_GETATTR, ino, getattr_done);
	if (!c)
		return;
	call_cred(c, false);
	c->m.getattr.cred = &c->cred;
	c->handle = &c->m.getattr.handle;
	if (fi)
		call_stream(c, (struct stream *)fi->fh, &c->m.getattr.open);
	else
		c->m.getattr.open = inode_any_open(ino);
	c->quick = ino == ino->dom->root;
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
		call_stream(c, (struct stream *)fi->fh, &c->m.setattr.open);
	call_submit(c);
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
	struct inode *ino = inode_get(fs, id ? id : FUSE_ROOT_ID);
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

static void op_getxattr(fuse_req_t req, fuse_ino_t id, const char *name, size_t size)
{
	struct call *c = xattr_new(req, id, FS_GETXATTR, name, size, xattr_done);

	if (c)
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
