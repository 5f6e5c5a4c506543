// SPDX-License-Identifier: Apache-2.0
/*
 * Open files and their data.
 *
 * Without a lease there is no page cache: files of served domains are opened FOPEN_DIRECT_IO, so that each read(2) and write(2) is one call to
 * the server and nothing can be stale (invariant 7). Home domains are bounded by a second anyway; there the kernel caches pages, and keeps them
 * over an open when the server says that the file is as it was when they were read.
 */
#include "fs/client/client.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

/* With the attributes that came with an open: may the pages from before stay? Remembers them for the next one. */
static bool pages_still_good(struct inode *ino, const Sprite__Fs__Attr *a)
{
	bool same;

	pthread_mutex_lock(&ino->lock);
	same = ino->has_seen && ino->seen_change == a->change && ino->seen_mtime == a->mtime && ino->seen_ctime == a->ctime &&
	       ino->seen_size == a->size;
	ino->seen_change = a->change;
	ino->seen_mtime = a->mtime;
	ino->seen_ctime = a->ctime;
	ino->seen_size = a->size;
	ino->has_seen = true;
	pthread_mutex_unlock(&ino->lock);
	return same;
}

static void choose_caching(struct domain *d, struct inode *ino, const Sprite__Fs__Attr *a, struct fuse_file_info *fi)
{
	if (d->home && a)
		fi->keep_cache = pages_still_good(ino, a);
	else
		fi->direct_io = 1;
}

/* Closes an open that the kernel did not take or has released. Takes over the reference of ino. */
static void server_close(struct fs *fs, struct inode *ino, uint64_t open, bool unlock, uint64_t owner)
{
	struct call *c = call_new(fs, NULL, FS_CLOSE, ino, NULL);

	if (!c)
		return;
	c->m.close.open = open;
	c->m.close.unlock_flock = unlock;
	c->m.close.flock_owner = owner;
	call_submit(c);
}

static void open_done(struct call *c, int err, struct rpc_msg *out)
{
	Sprite__Fs__OpenRep *rep;
	struct stream *st;

	if (err) {
		fuse_reply_err(c->req, err);
		return;
	}
	rep = (Sprite__Fs__OpenRep *)out->msg;
	st = stream_new(inode_hold(c->fs, c->ino), rep->open, c->flags, false, fuse_req_ctx(c->req));
	if (!st) {
		server_close(c->fs, c->ino, rep->open, false, 0); /* the reference is the one meant for the stream */
		fuse_reply_err(c->req, ENOMEM);
		return;
	}
	c->fi.fh = (uint64_t)st;
	choose_caching(c->dom, c->ino, rep->attr, &c->fi);
	if (fuse_reply_open(c->req, &c->fi) == -ENOENT) { /* interrupted meanwhile */
		server_close(c->fs, inode_hold(c->fs, c->ino), st->open, false, 0);
		stream_put(c->fs, st);
	}
}

static void op_open(fuse_req_t req, fuse_ino_t id, struct fuse_file_info *fi)
{
	struct fs *fs = fuse_req_userdata(req);
	struct call *c = call_new(fs, req, FS_OPEN, inode_get(fs, id), open_done);

	if (!c)
		return;
	call_cred(c, true);
	c->m.open.cred = &c->cred;
	c->handle = &c->m.open.handle;
	c->m.open.flags = (uint32_t)fi->flags;
	c->flags = fi->flags;
	c->fi = *fi;
	call_submit(c);
}

static void create_done(struct call *c, int err, struct rpc_msg *out)
{
	Sprite__Fs__CreateRep *rep;
	struct fuse_entry_param p;
	struct stream *st = NULL;
	struct inode *ino;

	if (err) {
		fuse_reply_err(c->req, err);
		return;
	}
	rep = (Sprite__Fs__CreateRep *)out->msg;
	if (!rep->entry || !rep->entry->attr) {
		fuse_reply_err(c->req, EIO);
		return;
	}
	ino = inode_looked_up(c->fs, c->dom, &rep->entry->handle, rep->entry->attr->mode);
	if (ino)
		st = stream_new(inode_hold(c->fs, ino), rep->open, c->flags, false, fuse_req_ctx(c->req));
	if (!st) {
		server_close(c->fs, inode_hold(c->fs, c->ino), rep->open, false, 0);
		fuse_reply_err(c->req, ENOMEM);
		return;
	}
	memset(&p, 0, sizeof(p));
	p.ino = ino->id;
	p.generation = 1;
	inode_stat(c->fs, c->dom, rep->entry->attr, &p.attr);
	p.attr_timeout = inode_timeout(ino, p.attr.st_mode);
	p.entry_timeout = c->dom->home ? 1.0 : 0;
	c->fi.fh = (uint64_t)st;
	choose_caching(c->dom, ino, rep->entry->attr, &c->fi);
	if (fuse_reply_create(c->req, &p, &c->fi) == -ENOENT) {
		server_close(c->fs, inode_hold(c->fs, ino), st->open, false, 0);
		stream_put(c->fs, st);
		inode_forget(c->fs, p.ino, 1);
	}
}

static void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	struct fs *fs = fuse_req_userdata(req);
	struct inode *dir = inode_get(fs, parent);
	struct call *c;
	int err = 0;

	if (inode_is_virtual(fs, dir))
		err = EROFS;
	else if (dir->pnode && prefix_child(fs, dir->pnode, name, strlen(name)))
		err = fi->flags & O_EXCL ? EEXIST : EISDIR;
	if (err) {
		inode_put(fs, dir);
		fuse_reply_err(req, err);
		return;
	}
	c = call_new(fs, req, FS_CREATE, dir, create_done);
	if (!c)
		return;
	call_cred(c, true);
	c->m.create.cred = &c->cred;
	c->handle = &c->m.create.dir;
	c->m.create.name = call_strdup(c, name);
	c->m.create.mode = mode;
	c->m.create.flags = (uint32_t)fi->flags;
	c->flags = fi->flags;
	c->fi = *fi;
	call_submit(c);
}

/* ---- data */

static void read_done(struct call *c, int err, struct rpc_msg *out)
{
	if (err)
		fuse_reply_err(c->req, err);
	else if (out->bulk_len > c->size)
		fuse_reply_err(c->req, EIO);
	else
		fuse_reply_iov(c->req, out->iov, out->niov);
}

static void op_read(fuse_req_t req, fuse_ino_t id, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct fs *fs = fuse_req_userdata(req);
	struct call *c = call_new(fs, req, FS_READ, inode_get(fs, id), read_done);

	if (!c)
		return;
	c->handle = &c->m.read.handle;
	call_stream(c, (struct stream *)fi->fh, &c->m.read.open);
	c->m.read.offset = (uint64_t)off;
	c->m.read.size = (uint32_t)(size < FS_IO_MAX ? size : FS_IO_MAX);
	c->size = c->m.read.size;
	call_submit(c);
}

static void write_done(struct call *c, int err, struct rpc_msg *out)
{
	if (err)
		fuse_reply_err(c->req, err);
	else
		fuse_reply_write(c->req, ((Sprite__Fs__WriteRep *)out->msg)->size);
}

static void op_write(fuse_req_t req, fuse_ino_t id, const char *data, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct fs *fs = fuse_req_userdata(req);
	struct call *c = call_new(fs, req, FS_WRITE, inode_get(fs, id), write_done);
	struct stream *st = (struct stream *)fi->fh;

	if (!c)
		return;
	call_cred(c, false);
	if (fi->writepage) { /* of a mapping: nobody in particular writes */
		c->cred.uid = st->uid;
		c->cred.gid = st->gid;
	}
	c->m.write.cred = &c->cred;
	c->handle = &c->m.write.handle;
	call_stream(c, st, &c->m.write.open);
	c->m.write.offset = (uint64_t)off;
	c->m.write.append = (fi->flags & O_APPEND) && !fi->writepage;
	c->m.write.sync = fi->flags & (O_SYNC | O_DSYNC);
	c->m.write.kill_suid = session_kill_suid();
	c->bulk.iov_base = (void *)data;
	c->bulk.iov_len = size;
	c->buf = session_buffer_take();
	call_submit(c);
}

static void op_flush(fuse_req_t req, fuse_ino_t id, struct fuse_file_info *fi)
{
	struct fs *fs = fuse_req_userdata(req);
	struct inode *ino = inode_get(fs, id);

	/* close(2) of any descriptor drops the process's fcntl locks (fcntl(2)); the kernel keeps no list of ours */
	if (stream_owner_drop(ino, fi->lock_owner)) {
		ops_unlock_owner(fs, ino, fi->lock_owner, req);
		return;
	}
	inode_put(fs, ino);
	fuse_reply_err(req, 0);
}

static void op_release(fuse_req_t req, fuse_ino_t id, struct fuse_file_info *fi)
{
	struct fs *fs = fuse_req_userdata(req);
	struct stream *st = (struct stream *)fi->fh;
	uint64_t owner = 0;
	bool more;

	/* what is left are OFD locks: their owner is the open file description itself, which ends here */
	do {
		pthread_mutex_lock(&st->ino->lock);
		more = st->nowner > 0;
		if (more)
			owner = st->owner[--st->nowner];
		pthread_mutex_unlock(&st->ino->lock);
		if (more)
			ops_unlock_owner(fs, inode_hold(fs, st->ino), owner, NULL);
	} while (more);
	if (st->open)
		server_close(fs, inode_get(fs, id), st->open, fi->flock_release, fi->lock_owner);
	stream_put(fs, st);
	fuse_reply_err(req, 0);
}

static void op_fsync(fuse_req_t req, fuse_ino_t id, int datasync, struct fuse_file_info *fi)
{
	struct fs *fs = fuse_req_userdata(req);
	struct stream *st = (struct stream *)fi->fh;
	struct call *c;

	if (!st->open) { /* a virtual directory */
		fuse_reply_err(req, 0);
		return;
	}
	c = call_new(fs, req, FS_FSYNC, inode_get(fs, id), NULL);
	if (!c)
		return;
	c->handle = &c->m.fsync.handle;
	call_stream(c, st, &c->m.fsync.open);
	c->m.fsync.data_only = datasync;
	call_submit(c);
}

static void op_fallocate(fuse_req_t req, fuse_ino_t id, int mode, off_t off, off_t len, struct fuse_file_info *fi)
{
	struct fs *fs = fuse_req_userdata(req);
	struct call *c = call_new(fs, req, FS_FALLOCATE, inode_get(fs, id), NULL);

	if (!c)
		return;
	call_cred(c, false);
	c->m.fallocate.cred = &c->cred;
	c->handle = &c->m.fallocate.handle;
	call_stream(c, (struct stream *)fi->fh, &c->m.fallocate.open);
	c->m.fallocate.mode = (uint32_t)mode;
	c->m.fallocate.offset = (uint64_t)off;
	c->m.fallocate.length = (uint64_t)len;
	call_submit(c);
}

static void seek_done(struct call *c, int err, struct rpc_msg *out)
{
	if (err)
		fuse_reply_err(c->req, err);
	else
		fuse_reply_lseek(c->req, (off_t)((Sprite__Fs__SeekRep *)out->msg)->offset);
}

static void op_lseek(fuse_req_t req, fuse_ino_t id, off_t off, int whence, struct fuse_file_info *fi)
{
	struct fs *fs = fuse_req_userdata(req);
	struct call *c = call_new(fs, req, FS_SEEK, inode_get(fs, id), seek_done);

	if (!c)
		return;
	call_stream(c, (struct stream *)fi->fh, &c->m.seek.open);
	c->m.seek.offset = (uint64_t)off;
	c->m.seek.whence = (uint32_t)whence;
	call_submit(c);
}

static void copy_done(struct call *c, int err, struct rpc_msg *out)
{
	if (err)
		fuse_reply_err(c->req, err);
	else
		fuse_reply_write(c->req, ((Sprite__Fs__CopyRep *)out->msg)->copied);
}

static void op_copy(fuse_req_t req, fuse_ino_t in, off_t off_in, struct fuse_file_info *fi_in, fuse_ino_t out, off_t off_out,
	struct fuse_file_info *fi_out, size_t len, int flags)
{
	struct fs *fs = fuse_req_userdata(req);
	struct stream *to = (struct stream *)fi_out->fh;
	struct call *c;

	if (to->ino->dom != ((struct stream *)fi_in->fh)->ino->dom) {
		fuse_reply_err(req, EXDEV); /* the kernel then copies by reading and writing */
		return;
	}
	c = call_new(fs, req, FS_COPY, inode_get(fs, in), copy_done);
	if (!c)
		return;
	c->ino2 = inode_get(fs, out);
	call_cred(c, false);
	c->m.copy.cred = &c->cred;
	call_stream(c, (struct stream *)fi_in->fh, &c->m.copy.open_in);
	call_stream(c, to, &c->m.copy.open_out);
	c->m.copy.off_in = (uint64_t)off_in;
	c->m.copy.off_out = (uint64_t)off_out;
	c->m.copy.length = len;
	c->m.copy.flags = (uint32_t)flags;
	call_submit(c);
}

void ops_file(struct fuse_lowlevel_ops *ops)
{
	ops->open = op_open;
	ops->create = op_create;
	ops->read = op_read;
	ops->write = op_write;
	ops->flush = op_flush;
	ops->release = op_release;
	ops->fsync = op_fsync;
	ops->fsyncdir = op_fsync;
	ops->releasedir = op_release;
	ops->fallocate = op_fallocate;
	ops->lseek = op_lseek;
	ops->copy_file_range = op_copy;
}
