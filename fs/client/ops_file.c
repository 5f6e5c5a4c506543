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
#include "conf/clock.h"

#define FMODE_EXEC 0x20 /* in the open flags of an exec, as the kernel passes them */

/* May the pages from before stay? Only when the file is as it was when they were read. */
static bool home_pages_good(struct inode *ino)
{
	struct home_attr *n = &ino->now, *s = &ino->seen;
	bool same;

	pthread_mutex_lock(&ino->lock);
	same = ino->has_seen && n->change == s->change && n->mtime == s->mtime && n->ctime == s->ctime && n->size == s->size;
	*s = *n;
	ino->has_seen = true;
	pthread_mutex_unlock(&ino->lock);
	return same;
}

/*
 * `pages`: DATA is held, so that what is in the cache is good; a recall empties it. A home's own files are appended to by its programs too, and by other guests: through a cache the kernel
 * would cut what is appended at the ends of pages, each part with an end of its own.
 */
static void choose_caching(struct stream *st, bool pages, struct fuse_file_info *fi)
{
	if (st->flags & O_DIRECT)
		fi->direct_io = 1;
	else if (st->ino->dom->home && (st->flags & O_APPEND) && (st->flags & O_ACCMODE) != O_RDONLY)
		fi->direct_io = 1;
	else if (st->ino->dom->home)
		fi->keep_cache = home_pages_good(st->ino);
	else if (pages)
		fi->keep_cache = 1;
	else
		fi->direct_io = 1;
	st->direct = fi->direct_io;
}

/* With a stream that the kernel is to know by fi; a stream that it does not take is released. */
static void reply_open(struct call *c, struct stream *st)
{
	c->fi.fh = stream_told(st, c->unique);
	if (fuse_reply_open(c->req, &c->fi) == -ENOENT) /* interrupted meanwhile */
		stream_release(c->fs, st, false, 0);
}

static void open_done(struct call *c, int err, struct rpc_msg *out)
{
	Sprite__Fs__OpenRep *rep;
	struct stream *st;
	bool appends;
	uint64_t got;

	read_change_end(c);
	if (err) {
		fuse_reply_err(c->req, err);
		return;
	}
	rep = (Sprite__Fs__OpenRep *)out->msg;
	st = stream_new(c->fs, inode_hold(c->fs, c->ino), rep->open, c->flags, false, fuse_req_ctx(c->req));
	if (!st) {
		stream_close_id(c->fs, c->ino, rep->open, false, 0); /* the reference is the one meant for the stream */
		fuse_reply_err(c->req, ENOMEM);
		return;
	}
	lease_reply_begin(c->fs);
	got = lease_take(c->ino, rep->lease, rep->lease_seq);
	lease_keep_attr(c->fs, c->ino, rep->attr, got);
	if (c->dom->home && rep->attr)
		home_attr(c->fs, c->ino, rep->attr);
	if (c->flags & O_TRUNC)
		fuse_lowlevel_notify_inval_inode(c->fs->se, c->ino->id, -1, 0);
	/*
	 * The kernel appends where it believes the end to be, and an OPEN reply cannot tell it better: such a file is cached only when what it was told
	 * last is still true. Else the server appends, and no page is filled at a wrong place.
	 */
	appends = (c->flags & O_APPEND) && (c->flags & O_ACCMODE) != O_RDONLY && !(c->flags & O_TRUNC) && !lease_size_told(c->ino);
	choose_caching(st, !rep->shared_write && !appends && (got & SPRITE__FS__LEASE_BITS__LEASE_DATA), &c->fi);
	reply_open(c, st);
	lease_reply_end(c->fs);
}

/*
 * Under ATTR an open for reading needs no word with the server: the kernel has checked permission with attributes that are true. The server is
 * told when it must know (a lock, or a change that would take the file from us: stream_open_local). In home domains, where nobody asks before
 * a file is removed, attributes of the last second serve (those of who was let in then), and the server is told of what is still open after a moment (stream_tick).
 */
static bool open_here(struct fs *fs, fuse_req_t req, struct inode *ino, struct fuse_file_info *fi)
{
	const struct fuse_ctx *who = fuse_req_ctx(req);
	bool all = false, home = ino->dom && ino->dom->home, known;
	struct stream *st = NULL;
	struct home_attr h;
	struct stat attr;

	if ((fi->flags & O_ACCMODE) != O_RDONLY || (fi->flags & (O_TRUNC | O_DIRECT)))
		return false;
	lease_reply_begin(fs);
	known = home ? home_fresh(ino, &h) && call_let_in(fs, ino->dom, who->uid) : lease_attr(fs, ino, &attr);
	if (known && home)
		attr.st_mode = h.mode;
	if (known && S_ISREG(attr.st_mode)) {
		all = (attr.st_mode & 0444) == 0444;
		/* root may be nobody at the server; who may only execute cannot be read for by its right to read */
		if (all || (who->uid != 0 && !(fi->flags & FMODE_EXEC)))
			st = stream_new(fs, inode_hold(fs, ino), 0, fi->flags, false, who);
	}
	if (st) {
		if (!all)
			stream_groups(st, who);
		atomic_fetch_add(&fs->local_streams, 1);
		atomic_fetch_add_explicit(&fs->local_opens, 1, memory_order_relaxed);
		fi->keep_cache = home ? home_pages_good(ino) : 1;
		fi->fh = stream_told(st, session_unique());
		if (home)
			stream_young(fs, st);
		if (fuse_reply_open(req, fi) == -ENOENT)
			stream_release(fs, st, false, 0);
	}
	lease_reply_end(fs);
	return st;
}

static void op_open(fuse_req_t req, fuse_ino_t id, struct fuse_file_info *fi)
{
	struct fs *fs = fuse_req_userdata(req);
	struct inode *ino = inode_get(fs, id);
	struct call *c;

	if (hand_open(fs, req, ino, fi) || open_here(fs, req, ino, fi)) {
		inode_put(fs, ino);
		return;
	}
	c = call_new(fs, req, FS_OPEN, ino, open_done);
	if (!c)
		return;
	call_cred(c, true);
	c->m.open.cred = &c->cred;
	c->handle = &c->m.open.handle;
	c->m.open.flags = (uint32_t)fi->flags;
	c->flags = fi->flags;
	c->fi = *fi;
	if (c->flags & O_TRUNC)
		read_change_begin(c, ino);
	wb_then(fs, ino, c);
}

static void create_done(struct call *c, int err, struct rpc_msg *out)
{
	Sprite__Fs__CreateRep *rep;
	struct fuse_entry_param p;
	struct stream *st = NULL;
	struct fs *fs = c->fs;
	struct inode *ino;
	bool gone = false, names;

	ops_name_made(c, c->m.create.name);
	read_change_end(c);
	if (err) {
		fuse_reply_err(c->req, err);
		return;
	}
	rep = (Sprite__Fs__CreateRep *)out->msg;
	ops_dir_changed(fs, c->ino, rep->dir_attr, c->mark);
	lease_reply_begin(fs);
	names = ops_names_taken(c->ino, rep->dir_lease, rep->dir_lease_seq);
	ino = ops_entry_take(fs, c->dom, rep->entry, names, &p);
	/* a new file has no capabilities, which the kernel asks for at the first write; one that was there and got some shows it by its ctime */
	if (ino && p.attr.st_size == 0 && p.attr.st_nlink == 1 && rep->entry->attr->mtime == rep->entry->attr->ctime)
		lease_no_cap(ino);
	if (ino && names)
		names_learn(c->ino, c->m.create.name, strlen(c->m.create.name), ino->id, c->seq);
	if (ino)
		st = stream_new(fs, inode_hold(fs, ino), rep->open, c->flags, false, fuse_req_ctx(c->req));
	if (st) {
		choose_caching(st, (rep->entry->lease & SPRITE__FS__LEASE_BITS__LEASE_DATA) && lease_has(ino, SPRITE__FS__LEASE_BITS__LEASE_DATA), &c->fi);
		c->fi.fh = stream_told(st, c->unique);
		gone = fuse_reply_create(c->req, &p, &c->fi) == -ENOENT;
	} else {
		fuse_reply_err(c->req, EIO);
	}
	lease_reply_end(fs);
	if (gone)
		stream_release(fs, st, false, 0);
	else if (!st)
		stream_close_id(fs, inode_hold(fs, c->ino), rep->open, false, 0);
	if (ino && (gone || !st))
		inode_forget(fs, p.ino, 1);
}

static void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	struct fs *fs = fuse_req_userdata(req);
	struct inode *dir = inode_get(fs, parent);
	struct call *c;
	uint64_t id;
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
	if (here_create(req, dir, name, mode, fi) || ahead_change(fs, req, dir)) {
		inode_put(fs, dir);
		return;
	}
	c = call_new(fs, req, FS_CREATE, dir, create_done);
	if (!c)
		return;
	id = fi->flags & O_TRUNC ? names_known(dir, name, strlen(name)) : 0; /* the kernel does not know that it is there */
	c->ino2 = id ? inode_find(fs, id) : NULL;
	call_cred(c, true);
	atomic_fetch_add(&dir->changes, 1);
	names_add(dir, name);
	c->mark = lease_mark(dir);
	c->m.create.cred = &c->cred;
	c->handle = &c->m.create.dir;
	c->m.create.name = call_strdup(c, name);
	c->m.create.mode = mode;
	c->m.create.flags = (uint32_t)fi->flags;
	c->m.create.want = ops_want_dir(c);
	c->seq = atomic_load(&dir->changes);
	if (c->ino2)
		read_change_begin(c, c->ino2);
	c->flags = fi->flags;
	c->fi = *fi;
	call_submit(c);
}

/* ---- data; reads are in ops_read.c */

static void write_done(struct call *c, int err, struct rpc_msg *out)
{
	Sprite__Fs__WriteRep *rep;
	uint64_t got;
	bool covered;

	read_change_end(c);
	if (err) {
		fuse_reply_err(c->req, err);
		return;
	}
	rep = (Sprite__Fs__WriteRep *)out->msg;
	lease_reply_begin(c->fs);
	got = lease_take(c->ino, rep->lease, rep->lease_seq);
	if (rep->attr && (got & SPRITE__FS__LEASE_BITS__LEASE_ATTR))
		lease_keep_attr(c->fs, c->ino, rep->attr, got);
	else
		lease_forget_attr(c->ino);
	lease_reply_end(c->fs);
	if (c->m.write.append && c->st->tail)
		hand_tail_done(c->st, c->m.write.offset + rep->size);
	if (c->m.write.stream)
		hand_write_done(c->st, c->m.write.offset, rep->size, rep->offset);
	if (c->m.write.kill_suid) /* the mode that the kernel knows is not the true one any more */
		fuse_lowlevel_notify_inval_inode(c->fs->se, c->ino->id, -1, 0);
	if (rep->unsettled)
		atomic_fetch_add(&c->ino->unsettled, 1);
	covered = c->st->direct || c->dom->home || (lease_has(c->ino, SPRITE__FS__LEASE_BITS__LEASE_DATA) && rep->offset == c->m.write.offset);
	fuse_reply_write(c->req, rep->size);
	if (!covered)
		lease_drop_pages(c->fs, c->ino);
}

static void op_write(fuse_req_t req, fuse_ino_t id, const char *data, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct fs *fs = fuse_req_userdata(req);
	struct stream *st = stream_at(fs, fi->fh);
	const struct fuse_ctx *who = fuse_req_ctx(req);
	/* of a mapping: nobody in particular writes */
	uint32_t uid = fi->writepage ? st->uid : who->uid, gid = fi->writepage ? st->gid : who->gid;
	struct inode *ino = inode_get(fs, id);
	struct call *c;

	if (session_resent() && wb_took(fs, session_unique(), &size)) {
		inode_put(fs, ino);
		fuse_reply_write(req, size);
		return;
	}
	if (!st->shared && !st->tail && !(fi->flags & (O_SYNC | O_DSYNC | O_DIRECT)) &&
		wb_write(fs, req, st, data, size, (uint64_t)off, (fi->flags & O_APPEND) && !fi->writepage, uid, gid, session_kill_suid())) {
		inode_put(fs, ino);
		return;
	}
	c = call_new(fs, req, FS_WRITE, ino, write_done);
	if (!c)
		return;
	c->cred.uid = uid;
	c->cred.gid = gid;
	c->m.write.cred = &c->cred;
	c->handle = &c->m.write.handle;
	call_stream(c, st, &c->m.write.open);
	c->m.write.offset = (uint64_t)off;
	c->m.write.append = !fi->writepage && (fi->flags & O_APPEND || hand_tail_begin(st, (uint64_t)off));
	c->m.write.stream = !c->m.write.append && !fi->writepage && hand_write_begin(st, (uint64_t)off);
	c->m.write.fsync = (fi->flags & O_SYNC) == O_SYNC ? 1 : fi->flags & O_DSYNC ? 2 : 0;
	c->m.write.kill_suid = session_kill_suid();
	c->bulk.iov_base = (void *)data;
	c->bulk.iov_len = size;
	c->m.write.mapped = fi->writepage;
	c->buf = session_buffer_take();
	read_change_begin(c, ino);
	wb_then(fs, c->ino, c);
}

/* close(2) of any descriptor drops the process's fcntl locks (fcntl(2)); the kernel keeps no list of ours. Takes over a reference of ino. */
static void flush_locks(struct fs *fs, fuse_req_t req, struct inode *ino, uint64_t owner)
{
	if (stream_owner_drop(ino, owner) || session_resent()) { /* asked again: whether the server heard it before we died, nobody knows */
		ops_unlock_owner(fs, ino, owner, req);
		return;
	}
	inode_put(fs, ino);
	fuse_reply_err(req, 0);
}

/* Writes of mapped pages up to that one are seen everywhere. */
static void settled(struct inode *ino, uint64_t upto)
{
	uint64_t was = atomic_load(&ino->settled);

	while (was < upto && !atomic_compare_exchange_weak(&ino->settled, &was, upto))
		;
}

static void flush_settled(struct call *c, int err, struct rpc_msg *out)
{
	(void)out;
	if (err) {
		fuse_reply_err(c->req, err);
		return;
	}
	settled(c->ino, c->seq);
	flush_locks(c->fs, c->req, inode_hold(c->fs, c->ino), c->mark);
}

static bool flush_settles(struct fs *fs, fuse_req_t req, struct inode *ino, struct fuse_file_info *fi)
{
	uint64_t seen = atomic_load(&ino->unsettled);
	bool wait = seen > atomic_load(&ino->settled);
	struct call *c = wait ? call_new(fs, req, FS_FSYNC, inode_hold(fs, ino), flush_settled) : NULL;

	if (!c)
		return wait; /* no memory: answered */
	c->handle = &c->m.fsync.handle;
	call_stream(c, stream_at(fs, fi->fh), &c->m.fsync.open);
	c->m.fsync.settle = c->m.fsync.unsettled = true;
	c->seq = seen;
	c->mark = fi->lock_owner;
	call_submit(c);
	return true;
}

static void op_flush(fuse_req_t req, fuse_ino_t id, struct fuse_file_info *fi)
{
	struct fs *fs = fuse_req_userdata(req);
	struct inode *ino = inode_get(fs, id);
	struct stream *st = stream_at(fs, fi->fh);
	int err = wb_error_take(ino);

	if (st) {
		pthread_mutex_lock(&ino->lock);
		st->flushed = clock_boot_ns();
		pthread_mutex_unlock(&ino->lock);
	}
	if (err) {
		inode_put(fs, ino);
		fuse_reply_err(req, err);
		return;
	}
	if (flush_settles(fs, req, ino, fi))
		inode_put(fs, ino);
	else
		flush_locks(fs, req, ino, fi->lock_owner);
}

static void op_release(fuse_req_t req, fuse_ino_t id, struct fuse_file_info *fi)
{
	struct fs *fs = fuse_req_userdata(req);
	struct stream *st = stream_at(fs, fi->fh);
	struct inode *ino;
	uint64_t owner = 0;
	bool more;

	if (!st || st->released) { /* asked again by the kernel after a restart of ours, and done before it */
		fuse_reply_err(req, 0);
		return;
	}

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
	(void)id;
	ino = inode_hold(fs, st->ino);
	if (fi->flock_release) { /* in this order: a lock that finds no note of it any more finds that it is being given up */
		ops_unlock_begin(ino);
		recover_note_lock(ino, fi->lock_owner, true, F_UNLCK, 0, INT64_MAX, 0, NULL);
	}
	stream_release(fs, st, fi->flock_release, fi->lock_owner);
	if (fi->flock_release)
		ops_unlock_end(ino);
	inode_put(fs, ino);
	fuse_reply_err(req, 0);
}

static void fsync_done(struct call *c, int err, struct rpc_msg *out)
{
	int lost = wb_error_take(c->ino);

	if (!err && out)
		settled(c->ino, c->seq);
	fuse_reply_err(c->req, err ? err : lost);
}

/* What was dirty is at the server, perhaps together with this. */
static void fsync_woken(struct call *c)
{
	int fd;

	c->woken = NULL;
	if (!c->synced) {
		call_submit(c);
		return;
	}
	fd = session_reply_on(c->fd); /* we are on an rpc thread */
	fsync_done(c, 0, NULL);
	session_reply_on(fd);
	call_drop(c);
}

static void op_fsync(fuse_req_t req, fuse_ino_t id, int datasync, struct fuse_file_info *fi)
{
	struct fs *fs = fuse_req_userdata(req);
	struct stream *st = stream_at(fs, fi->fh);
	struct call *c;

	if (inode_is_virtual(fs, st->ino)) {
		fuse_reply_err(req, 0);
		return;
	}
	c = call_new(fs, req, FS_FSYNC, inode_get(fs, id), fsync_done);
	if (!c)
		return;
	c->handle = &c->m.fsync.handle;
	call_stream(c, st, &c->m.fsync.open);
	c->m.fsync.data_only = datasync;
	c->seq = atomic_load(&c->ino->unsettled);
	c->m.fsync.unsettled = c->seq > atomic_load(&c->ino->settled);
	c->woken = fsync_woken;
	wb_then(fs, c->ino, c);
}

static void changed_done(struct call *c, int err, struct rpc_msg *out)
{
	(void)out;
	read_change_end(c);
	lease_forget_attr(c->ino);
	fuse_reply_err(c->req, err);
}

static void op_fallocate(fuse_req_t req, fuse_ino_t id, int mode, off_t off, off_t len, struct fuse_file_info *fi)
{
	struct fs *fs = fuse_req_userdata(req);
	struct call *c = call_new(fs, req, FS_FALLOCATE, inode_get(fs, id), changed_done);

	if (!c)
		return;
	call_cred(c, false);
	c->m.fallocate.cred = &c->cred;
	c->handle = &c->m.fallocate.handle;
	call_stream(c, stream_at(fs, fi->fh), &c->m.fallocate.open);
	c->m.fallocate.mode = (uint32_t)mode;
	c->m.fallocate.offset = (uint64_t)off;
	c->m.fallocate.length = (uint64_t)len;
	read_change_begin(c, c->ino);
	wb_then(fs, c->ino, c);
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
	call_stream(c, stream_at(fs, fi->fh), &c->m.seek.open);
	c->m.seek.offset = (uint64_t)off;
	c->m.seek.whence = (uint32_t)whence;
	wb_then(fs, c->ino, c);
}

static void copy_done(struct call *c, int err, struct rpc_msg *out)
{
	read_change_end(c);
	lease_forget_attr(c->ino2);
	if (err)
		fuse_reply_err(c->req, err);
	else
		fuse_reply_write(c->req, ((Sprite__Fs__CopyRep *)out->msg)->copied);
}

static void copy_woken(struct call *c)
{
	c->woken = NULL;
	wb_then(c->fs, c->ino2, c);
}

static void op_copy(fuse_req_t req, fuse_ino_t in, off_t off_in, struct fuse_file_info *fi_in, fuse_ino_t out, off_t off_out,
	struct fuse_file_info *fi_out, size_t len, int flags)
{
	struct fs *fs = fuse_req_userdata(req);
	struct stream *to = stream_at(fs, fi_out->fh);
	struct call *c;

	if (to->shared || to->tail || to->ino->dom != stream_at(fs, fi_in->fh)->ino->dom) {
		fuse_reply_err(req, EXDEV); /* the kernel then copies by reading and writing */
		return;
	}
	c = call_new(fs, req, FS_COPY, inode_get(fs, in), copy_done);
	if (!c)
		return;
	c->ino2 = inode_get(fs, out);
	call_cred(c, false);
	c->m.copy.cred = &c->cred;
	call_stream(c, stream_at(fs, fi_in->fh), &c->m.copy.open_in);
	call_stream(c, to, &c->m.copy.open_out);
	c->m.copy.off_in = (uint64_t)off_in;
	c->m.copy.off_out = (uint64_t)off_out;
	c->m.copy.length = len;
	c->m.copy.flags = (uint32_t)flags;
	c->woken = copy_woken;
	read_change_begin(c, c->ino2);
	wb_then(fs, c->ino, c);
}

void ops_file(struct fuse_lowlevel_ops *ops)
{
	ops->open = op_open;
	ops->create = op_create;
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
