/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening, creating and closing. Only regular files and directories are ever opened here: a FIFO or device is the client
 * kernel's, and opening one on the server would reach the server's hardware.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "fs/server/hand.h"
#include "fs/server/lease.h"
#include "fs/server/mounts.h"
#include "fs/server/ops.h"
#include "fs/server/unlinked.h"

#define FMODE_EXEC_FLAG 0x20 /* what Linux puts into the flags of an open for execve(2); FUSE passes it on */
#define BRIEF_MAX	(256 << 10) /* truncating so much takes no time that matters */
#define OPEN_FLAGS	(O_ACCMODE | O_TRUNC | O_DIRECTORY | O_SYNC | O_DSYNC | O_NOATIME)

static int open_checked(const struct object *obj, const struct stat *st, int flags)
{
	int fd;

	if (S_ISLNK(st->st_mode))
		return -ELOOP;
	if (!S_ISREG(st->st_mode) && !S_ISDIR(st->st_mode))
		return -ENXIO;
	fd = open(op_path(obj->fd).s, (flags & OPEN_FLAGS) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	return fd < 0 ? -errno : fd;
}

/* A program may be executed by who may not read it: then root opens it for him. */
static int open_for_exec(struct op *o, const struct object *obj, const struct stat *st)
{
	if (syscall(SYS_faccessat2, obj->fd, "", X_OK, AT_EACCESS | AT_EMPTY_PATH) < 0)
		return -EACCES;
	op_root(o);
	return open_checked(obj, st, O_RDONLY);
}

static int open_as_caller(struct op *o, const struct object *obj, const struct stat *st, uint32_t flags)
{
	int fd = open_checked(obj, st, (int)flags);

	if (fd == -EACCES && (flags & FMODE_EXEC_FLAG) && S_ISREG(st->st_mode))
		fd = open_for_exec(o, obj, st);
	return fd;
}

/* Who had a file open keeps it open over a restart of the server, also when its mode has changed: the owner is let in (as NFS does). */
static int open_reclaimed(struct op *o, const struct object *obj, const struct stat *st, uint32_t flags)
{
	if (!S_ISREG(st->st_mode) || st->st_uid != o->ids.uid)
		return -EACCES;
	op_root(o);
	return open_checked(obj, st, (int)flags & ~O_TRUNC);
}

static bool is_write(uint32_t flags)
{
	return (flags & O_ACCMODE) != O_RDONLY;
}

/* An open that truncates changes the contents, any other only looks. */
static int open_begin(struct op *o, const struct object *obj, const struct stat *st, uint32_t flags)
{
	struct cs_need need = lease_change(lease_key(st), CS_DATA | CS_ATTR, NULL);

	o->brief = !(flags & O_TRUNC) || st->st_size <= BRIEF_MAX;
	if (flags & O_TRUNC)
		return lease_begin(o, obj->ex, &need, 1);
	return lease_look(o, obj->ex, lease_key(st), false);
}

/* What comes with an open: attributes as whoever opens may cache, counted for write-sharing first. */
static uint32_t open_want(const struct stat *st, uint32_t flags)
{
	return op_want(st) | (is_write(flags) && S_ISREG(st->st_mode) ? CS_WRITE : 0);
}

int op_open_file(struct op *o, const ProtobufCMessage *m)
{
	const Sprite__Fs__OpenReq *in = (const void *)m;
	Sprite__Fs__OpenRep rep = SPRITE__FS__OPEN_REP__INIT;
	struct object obj _cleanup_object_ = OBJECT_INIT;
	Sprite__Fs__Attr attr;
	struct open *f;
	struct stat st;
	int fd, r;

	r = op_begin(o, in->cred, in->handle, &obj);
	if (r == 0 && fstat(obj.fd, &st) < 0)
		r = -errno;
	if (r == 0)
		r = open_begin(o, &obj, &st, in->flags);
	if (r)
		return r;
	fd = open_as_caller(o, &obj, &st, in->flags);
	if (fd == -EACCES && in->reclaim)
		fd = open_reclaimed(o, &obj, &st, in->flags);
	if (fd < 0)
		return fd;
	if (in->flags & O_TRUNC)
		op_changed(o->d, &st);
	r = openstate_add(&o->d->opens, o->client, &obj, fd, &st, (int)in->flags, o->ids.uid, in->handle.data, in->handle.len, &f);
	if (r < 0)
		return r;
	rep.open = f->id;
	if (in->reclaim && in->stream.len)
		r = hand_reclaim(o->d, f, in->stream, in->pos);
	if (r >= 0 && in->reclaim && in->offer.len)
		r = hand_offered(o->d, f, in->offer, in->offer_pos, in->stream.len, in->cred);
	if (r < 0) {
		openstate_take(&o->d->opens, o->client, f->id);
		open_put(f);
		open_put(f);
		return r;
	}
	lease_open(o->d, f);
	rep.lease = lease_grant(o, obj.ex, lease_key(&st), in->handle, open_want(&st, in->flags), false, &rep.lease_seq);
	rep.shared_write = lease_shared_write(o, lease_key(&st));
	open_put(f);
	if (fstat(obj.fd, &st) < 0)
		return -errno;
	op_attr(o->d, obj.mount, obj.fd, &st, &attr);
	rep.attr = &attr;
	return op_done(o, &rep.base);
}

#define CREATE_PARK (-4096) /* OP_PARK among descriptors and errnos */

/* Makes the file, or opens the one that is there unless O_EXCL. Loops when names come and go meanwhile. */
static int create_or_open(struct op *o, const struct object *dir, const Sprite__Fs__CreateReq *in, struct object *child,
	struct stat *st, bool *made)
{
	int flags = (int)in->flags & (OPEN_FLAGS & ~(O_TRUNC | O_DIRECTORY));

	for (int tries = 0; tries < 16; tries++) {
		struct cs_need need = lease_change(lease_dir_key(dir), CS_NAMES | CS_ATTR, in->name);
		int fd, r;

		o->brief = true;
		r = lease_begin(o, dir->ex, &need, 1);
		if (r)
			return r == OP_PARK ? CREATE_PARK : r;
		op_repeated(o);
		op_intend(o, NULL, 0);
		fd = openat(dir->fd, in->name, flags | O_CREAT | O_EXCL | O_CLOEXEC | O_NOCTTY, in->mode & 07777);
		if (fd >= 0) {
			r = export_wrap(dir, fd, child, st); /* the object, whatever the name means by now */
			child->borrowed = true;		     /* the open's */
			*made = true;
			return r < 0 ? r : fd;
		}
		/* when the last run has made it for this very call, O_EXCL holds */
		if (errno != EEXIST || ((in->flags & O_EXCL) && !op_repeated(o)))
			return -errno;
		r = export_lookup(dir, in->name, child, st);
		if (r == -ENOENT)
			continue;
		if (r == 0) {
			r = open_begin(o, child, st, in->flags);
			if (r == OP_PARK)
				r = CREATE_PARK;
		}
		if (r < 0)
			return r;
		*made = false;
		return open_as_caller(o, child, st, in->flags & ~(uint32_t)(O_CREAT | O_EXCL));
	}
	return -EAGAIN;
}

int op_create(struct op *o, const ProtobufCMessage *m)
{
	const Sprite__Fs__CreateReq *in = (const void *)m;
	Sprite__Fs__CreateRep rep = SPRITE__FS__CREATE_REP__INIT;
	struct object dir _cleanup_object_ = OBJECT_INIT, child _cleanup_object_ = OBJECT_INIT;
	struct op_entry e;
	Sprite__Fs__Attr dir_attr;
	struct open *f;
	struct stat st;
	bool made = false;
	size_t len;
	int fd, r = op_begin_name(o, in->cred, in->dir, in->name, &dir);

	if (r < 0)
		return r;
	fd = create_or_open(o, &dir, in, &child, &st, &made);
	if (fd < 0)
		return fd == CREATE_PARK ? OP_PARK : fd;
	op_root(o);
	if (made)
		op_changed_dir(o->d, &dir);
	else if (in->flags & O_TRUNC)
		op_changed(o->d, &st);
	r = export_pack(&o->d->exports, &child, e.handle);
	if (r < 0) {
		close(fd);
		return r;
	}
	len = (size_t)r;
	r = openstate_add(&o->d->opens, o->client, &child, fd, &st, (int)in->flags, o->ids.uid, e.handle, len, &f);
	if (r < 0)
		return r;
	rep.open = f->id;
	lease_open(o->d, f);
	rep.dir_lease = lease_grant_dir(o, &dir, in->dir, in->want, &rep.dir_lease_seq);
	child.bare = made && dir.facts && dir.facts->known && !dir.facts->acl;
	r = op_entry_packed(o, &child, &st, open_want(&st, in->flags), &e, len);
	if (r == 0 && !e.msg.lease && fstat(child.fd, &st) == 0)
		op_attr(o->d, child.mount, child.fd, &st, &e.attr);
	open_put(f); /* not before: the object is by its descriptor */
	if (r < 0)
		return r;
	rep.entry = &e.msg;
	rep.dir_attr = op_dir_attr(o, &dir, rep.dir_lease, &dir_attr);
	return op_done(o, &rep.base);
}

int op_close(struct op *o, const ProtobufCMessage *m)
{
	const Sprite__Fs__CloseReq *in = (const void *)m;
	Sprite__Fs__Empty rep = SPRITE__FS__EMPTY__INIT;
	struct open *f = openstate_take(&o->d->opens, o->client, in->open);

	if (!f)
		return -FS_EREOPEN;
	if (in->unlock_flock)
		locks_drop_flock(o->d, f, in->flock_owner);
	open_put(f);
	unlinked_run(o->d);
	return op_done(o, &rep.base);
}
