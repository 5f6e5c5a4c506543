/* SPDX-License-Identifier: Apache-2.0 */
/* Attributes, extended attributes (POSIX ACLs among them) and statfs. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "fs/dirent.h"
#include "fs/server/intent.h"
#include "fs/server/lease.h"
#include "fs/server/ops.h"

static int getattr_of(struct op *o, const struct export *ex, const struct mount_node *mount, int fd, ProtobufCBinaryData handle,
	Sprite__Fs__GetattrRep *rep, Sprite__Fs__Attr *attr, struct stat *st)
{
	int r;

	if (fstat(fd, st) < 0)
		return -errno;
	r = lease_look_calm(o, ex, lease_key(st));
	if (r)
		return r;
	rep->lease = lease_grant(o, ex, lease_key(st), handle, op_want(st), false, &rep->lease_seq);
	if (fstat(fd, st) < 0)
		return -errno;
	op_attr(o->d, mount, fd, st, attr);
	rep->attr = attr;
	return 0;
}

int op_getattr(struct op *o, const ProtobufCMessage *m)
{
	const Sprite__Fs__GetattrReq *in = (const void *)m;
	Sprite__Fs__GetattrRep rep = SPRITE__FS__GETATTR_REP__INIT;
	struct object obj _cleanup_object_ = OBJECT_INIT;
	uint32_t max = in->data_max < FS_DIRENT_DATAMAX ? in->data_max : FS_DIRENT_DATAMAX;
	Sprite__Fs__Attr attr;
	struct open *f = NULL;
	uint8_t *data = NULL;
	ssize_t n = -1;
	struct stat st;
	int r = 0;

	if (in->open) /* it reaches also what is unlinked; closed meanwhile or of a former life, the handle does */
		f = op_open(o, in->open, &r);
	if (f) {
		r = getattr_of(o, f->ex, f->mount, f->fd, open_handle_of(f), &rep, &attr, &st);
		if (r == 0 && max && (!in->cred || op_access(o, f->ex, in->cred) < 0 || op_become(o) < 0))
			max = 0;
	} else if (r == 0 || r == -FS_EREOPEN) {
		r = op_begin(o, in->cred, in->handle, &obj);
		if (r == 0)
			r = getattr_of(o, obj.ex, obj.mount, obj.fd, in->handle, &rep, &attr, &st);
	}
	if (r == 0 && max && (rep.lease & CS_DATA) && st.st_size <= max)
		data = malloc((size_t)st.st_size + 1);
	if (data)
		n = op_contents(f ? f->fd : obj.fd, &st, max, data);
	open_put(f);
	if (r || n < 0) {
		free(data);
		return r ? r : op_done(o, &rep.base);
	}
	rep.data = true;
	return op_done_bulk(o, &rep.base, data, (size_t)n);
}

static struct timespec time_of(uint32_t valid, uint32_t set, uint32_t now, int64_t ns)
{
	struct timespec t = {.tv_nsec = UTIME_OMIT};

	if (valid & now) {
		t.tv_nsec = UTIME_NOW;
	} else if (valid & set) {
		t.tv_sec = ns / 1000000000;
		t.tv_nsec = ns % 1000000000;
		if (t.tv_nsec < 0) { /* before 1970 */
			t.tv_sec--;
			t.tv_nsec += 1000000000;
		}
	}
	return t;
}

/* `file` is the open that the client's own call was made on, or NULL. */
static int attr_apply(const struct object *obj, struct open *file, uint32_t valid, const Sprite__Fs__Attr *a)
{
	struct op_path path = op_path(obj->fd);

	if (valid & FS_SET_SIZE) {
		if (a->size > INT64_MAX)
			return -EFBIG;
		if ((file ? ftruncate(file->fd, (off_t)a->size) : truncate(path.s, (off_t)a->size)) < 0)
			return -errno;
	}
	if (valid & (FS_SET_UID | FS_SET_GID)) {
		uid_t uid = valid & FS_SET_UID ? a->uid : (uid_t)-1;
		gid_t gid = valid & FS_SET_GID ? a->gid : (gid_t)-1;

		if (fchownat(obj->fd, "", uid, gid, AT_EMPTY_PATH) < 0)
			return -errno;
	}
	if ((valid & FS_SET_MODE) && chmod(path.s, a->mode & 07777) < 0)
		return -errno;
	if (valid & (FS_SET_ATIME | FS_SET_MTIME | FS_SET_ATIME_NOW | FS_SET_MTIME_NOW)) {
		struct timespec t[2] = {time_of(valid, FS_SET_ATIME, FS_SET_ATIME_NOW, a->atime),
			time_of(valid, FS_SET_MTIME, FS_SET_MTIME_NOW, a->mtime)};

		if (utimensat(obj->fd, "", t, AT_EMPTY_PATH) < 0)
			return -errno;
	}
	return 0;
}

static int change_begin(struct op *o, const struct object *obj, uint32_t breaks)
{
	struct cs_need need;
	struct stat st;

	if (fstat(obj->fd, &st) < 0)
		return -errno;
	need = lease_change(lease_key(&st), breaks, NULL);
	return lease_begin(o, obj->ex, &need, 1);
}

static bool open_is(const struct open *f, const struct object *obj)
{
	struct stat st;

	return fstat(obj->fd, &st) == 0 && st.st_dev == f->dev && st.st_ino == f->ino;
}

int op_setattr(struct op *o, const ProtobufCMessage *m)
{
	const Sprite__Fs__SetattrReq *in = (const void *)m;
	Sprite__Fs__GetattrRep rep = SPRITE__FS__GETATTR_REP__INIT;
	struct object obj _cleanup_object_ = OBJECT_INIT;
	struct open *f = NULL;
	Sprite__Fs__Attr attr;
	struct stat st;
	int r = 0;

	if (!in->attr)
		return -EINVAL;
	if (in->open) {
		f = op_open(o, in->open, &r);
		if (!f)
			return r;
	}
	r = op_begin(o, in->cred, in->handle, &obj);
	if (r == 0 && f && !open_is(f, &obj))
		r = -EINVAL;
	if (r == 0)
		r = change_begin(o, &obj, in->valid & FS_SET_SIZE ? CS_ATTR | CS_DATA : CS_ATTR);
	if (r == 0 && o->batch) /* it has no intent of its own, and may change what those before it are known by (owner, mode) */
		intents_flush(o->d->intents, batch_held(o));
	if (r == 0)
		r = attr_apply(&obj, f, in->valid, in->attr);
	open_put(f);
	if (r)
		return r;
	if (fstat(obj.fd, &st) < 0)
		return -errno;
	op_changed(o->d, &st);
	rep.lease = lease_grant(o, obj.ex, lease_key(&st), in->handle, op_want(&st), false, &rep.lease_seq);
	if (fstat(obj.fd, &st) < 0)
		return -errno;
	op_attr(o->d, obj.mount, obj.fd, &st, &attr);
	rep.attr = &attr;
	return op_done(o, &rep.base);
}

int op_statfs(struct op *o, const ProtobufCMessage *m)
{
	const Sprite__Fs__StatfsReq *in = (const void *)m;
	Sprite__Fs__StatfsRep rep = SPRITE__FS__STATFS_REP__INIT;
	struct object obj _cleanup_object_ = OBJECT_INIT;
	struct statvfs v;
	int r = op_resolve(o, in->handle, &obj);

	if (r < 0)
		return r;
	if (fstatvfs(obj.fd, &v) < 0)
		return -errno;
	rep.bsize = v.f_bsize;
	rep.frsize = v.f_frsize;
	rep.blocks = v.f_blocks;
	rep.bfree = v.f_bfree;
	rep.bavail = v.f_bavail;
	rep.files = v.f_files;
	rep.ffree = v.f_ffree;
	rep.namelen = (uint32_t)v.f_namemax;
	return op_done(o, &rep.base);
}

/* ---- extended attributes -------------------------------------------------------------------------------- */

static int xattr_name_check(const char *name)
{
	size_t n = name ? strlen(name) : 0;

	return n == 0 ? -EINVAL : n > XATTR_NAME_MAX ? -ERANGE : 0;
}

/* Answers with a value of n bytes (n < 0: errno), only its size when none was asked for. */
static int xattr_answer(struct op *o, uint32_t asked, void *value, ssize_t n)
{
	Sprite__Fs__XattrRep rep = SPRITE__FS__XATTR_REP__INIT;

	if (n < 0) {
		int r = -errno;

		free(value);
		return r;
	}
	rep.size = (uint32_t)n;
	return op_done_bulk(o, &rep.base, value, asked ? (size_t)n : 0);
}

static int xattr_room(uint32_t size, void **value)
{
	if (size > XATTR_SIZE_MAX)
		return -ERANGE;
	*value = malloc(size ? size : 1);
	return *value ? 0 : -ENOMEM;
}

int op_getxattr(struct op *o, const ProtobufCMessage *m)
{
	const Sprite__Fs__XattrReq *in = (const void *)m;
	struct object obj _cleanup_object_ = OBJECT_INIT;
	uint32_t size = in->size > XATTR_SIZE_MAX ? XATTR_SIZE_MAX : in->size;
	void *value = NULL;
	int r = xattr_name_check(in->name);

	if (r == 0)
		r = op_begin(o, in->cred, in->handle, &obj);
	if (r == 0)
		r = xattr_room(size, &value);
	if (r < 0)
		return r;
	return xattr_answer(o, size, value, getxattr(op_path(obj.fd).s, in->name, value, size));
}

int op_listxattr(struct op *o, const ProtobufCMessage *m)
{
	const Sprite__Fs__XattrReq *in = (const void *)m;
	struct object obj _cleanup_object_ = OBJECT_INIT;
	uint32_t size = in->size > XATTR_LIST_MAX ? XATTR_LIST_MAX : in->size;
	void *value = NULL;
	int r = op_begin(o, in->cred, in->handle, &obj);

	if (r == 0)
		r = xattr_room(size, &value);
	if (r < 0)
		return r;
	return xattr_answer(o, size, value, listxattr(op_path(obj.fd).s, value, size));
}

int op_setxattr(struct op *o, const ProtobufCMessage *m)
{
	const Sprite__Fs__XattrReq *in = (const void *)m;
	const struct rpc_msg *msg = o->in;
	Sprite__Fs__Empty rep = SPRITE__FS__EMPTY__INIT;
	struct object obj _cleanup_object_ = OBJECT_INIT;
	_cleanup_free_ void *value = NULL;
	int r = xattr_name_check(in->name);

	if (r == 0 && msg->bulk_len > XATTR_SIZE_MAX)
		r = -E2BIG;
	if (r == 0)
		r = xattr_room((uint32_t)msg->bulk_len, &value);
	if (r == 0)
		r = op_begin(o, in->cred, in->handle, &obj);
	if (r == 0)
		r = change_begin(o, &obj, CS_ATTR);
	if (r)
		return r;
	rpc_msg_copy(msg, value, msg->bulk_len);
	if (setxattr(op_path(obj.fd).s, in->name, value, msg->bulk_len, (int)in->flags) < 0)
		return -errno;
	op_changed_fd(o->d, obj.fd);
	return op_done(o, &rep.base);
}

int op_removexattr(struct op *o, const ProtobufCMessage *m)
{
	const Sprite__Fs__XattrReq *in = (const void *)m;
	Sprite__Fs__Empty rep = SPRITE__FS__EMPTY__INIT;
	struct object obj _cleanup_object_ = OBJECT_INIT;
	int r = xattr_name_check(in->name);

	if (r == 0)
		r = op_begin(o, in->cred, in->handle, &obj);
	if (r == 0)
		r = change_begin(o, &obj, CS_ATTR);
	if (r)
		return r;
	if (removexattr(op_path(obj.fd).s, in->name) < 0)
		return -errno;
	op_changed_fd(o->d, obj.fd);
	return op_done(o, &rep.base);
}
