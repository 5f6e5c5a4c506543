/* SPDX-License-Identifier: Apache-2.0 */
/* Operations on names: lookup, make, link, remove, rename, readlink. All act as the caller, so the kernel's rules (sticky, setgid, ACLs, umask) hold. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include "fs/server/ops.h"

int op_lookup(struct op *o, const ProtobufCMessage *m)
{
	const Sprite__Fs__LookupReq *in = (const void *)m;
	Sprite__Fs__LookupRep rep = SPRITE__FS__LOOKUP_REP__INIT;
	struct object dir _cleanup_object_ = OBJECT_INIT, child _cleanup_object_ = OBJECT_INIT;
	struct op_entry e;
	struct stat st;
	int r;

	r = op_begin(o, in->cred, in->dir, &dir);
	if (r == 0)
		r = export_lookup(&dir, in->name, &child, &st);
	if (r == 0)
		r = op_entry(o, &child, &st, &e);
	if (r < 0)
		return r;
	rep.entry = &e.msg;
	return op_done(o, &rep.base);
}

int op_readlink(struct op *o, const ProtobufCMessage *m)
{
	const Sprite__Fs__ReadlinkReq *in = (const void *)m;
	Sprite__Fs__ReadlinkRep rep = SPRITE__FS__READLINK_REP__INIT;
	struct object obj _cleanup_object_ = OBJECT_INIT;
	char target[PATH_MAX + 1];
	ssize_t n;
	int r;

	r = op_begin(o, in->cred, in->handle, &obj);
	if (r < 0)
		return r;
	n = readlinkat(obj.fd, "", target, PATH_MAX);
	if (n < 0)
		return errno == ENOENT ? -EINVAL : -errno; /* what an O_PATH descriptor of another type says */
	target[n] = 0;
	rep.target = target;
	return op_done(o, &rep.base);
}

static int make_node(int dirfd, const Sprite__Fs__MakeReq *in)
{
	mode_t mode = in->mode & 07777;
	int r;

	switch (in->mode & S_IFMT) {
	case S_IFDIR:
		r = mkdirat(dirfd, in->name, mode);
		break;
	case S_IFLNK:
		r = symlinkat(in->target ? in->target : "", dirfd, in->name);
		break;
	case S_IFREG:
	case S_IFIFO:
	case S_IFSOCK:
		r = mknodat(dirfd, in->name, in->mode, 0);
		break;
	case S_IFCHR:
	case S_IFBLK:
		r = mknodat(dirfd, in->name, in->mode, in->rdev);
		break;
	default:
		return -EINVAL;
	}
	return r < 0 ? -errno : 0;
}

int op_make(struct op *o, const ProtobufCMessage *m)
{
	const Sprite__Fs__MakeReq *in = (const void *)m;
	Sprite__Fs__EntryRep rep = SPRITE__FS__ENTRY_REP__INIT;
	struct object dir _cleanup_object_ = OBJECT_INIT, child _cleanup_object_ = OBJECT_INIT;
	struct op_entry e;
	struct stat st;
	int r = export_name_check(in->name);

	if (r == 0)
		r = op_begin(o, in->cred, in->dir, &dir);
	if (r == 0)
		r = make_node(dir.fd, in);
	if (r < 0)
		return r;
	op_changed_fd(o->d, dir.fd);
	op_root(o); /* the caller may create in a directory that he may not search */
	r = export_lookup(&dir, in->name, &child, &st);
	if (r == 0)
		r = op_entry(o, &child, &st, &e);
	if (r < 0)
		return r;
	rep.entry = &e.msg;
	return op_done(o, &rep.base);
}

int op_link(struct op *o, const ProtobufCMessage *m)
{
	const Sprite__Fs__LinkReq *in = (const void *)m;
	Sprite__Fs__EntryRep rep = SPRITE__FS__ENTRY_REP__INIT;
	struct object obj _cleanup_object_ = OBJECT_INIT, dir _cleanup_object_ = OBJECT_INIT;
	struct op_entry e;
	struct stat st;
	int r = export_name_check(in->name);

	if (r == 0)
		r = op_resolve(o, in->handle, &obj);
	if (r == 0)
		r = op_begin(o, in->cred, in->dir, &dir);
	if (r < 0)
		return r;
	if (obj.ex != dir.ex || obj.mount != dir.mount)
		return -EXDEV;
	if (linkat(AT_FDCWD, op_path(obj.fd).s, dir.fd, in->name, AT_SYMLINK_FOLLOW) < 0)
		return -errno;
	op_changed_fd(o->d, dir.fd);
	op_changed_fd(o->d, obj.fd);
	if (fstat(obj.fd, &st) < 0)
		return -errno;
	r = op_entry(o, &obj, &st, &e);
	if (r < 0)
		return r;
	rep.entry = &e.msg;
	return op_done(o, &rep.base);
}

int op_remove(struct op *o, const ProtobufCMessage *m)
{
	const Sprite__Fs__RemoveReq *in = (const void *)m;
	Sprite__Fs__Empty rep = SPRITE__FS__EMPTY__INIT;
	struct object dir _cleanup_object_ = OBJECT_INIT;
	struct stat st;
	int r = export_name_check(in->name);

	if (r == 0)
		r = op_begin(o, in->cred, in->dir, &dir);
	if (r < 0)
		return r;
	if (fstatat(dir.fd, in->name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
		unlinkat(dir.fd, in->name, in->rmdir ? AT_REMOVEDIR : 0) < 0)
		return -errno;
	op_changed(o->d, &st);
	op_changed_fd(o->d, dir.fd);
	return op_done(o, &rep.base);
}

int op_rename(struct op *o, const ProtobufCMessage *m)
{
	const Sprite__Fs__RenameReq *in = (const void *)m;
	Sprite__Fs__Empty rep = SPRITE__FS__EMPTY__INIT;
	struct object from _cleanup_object_ = OBJECT_INIT, to _cleanup_object_ = OBJECT_INIT;
	struct stat st, over;
	bool replaced;
	int r = export_name_check(in->name);

	if (r == 0)
		r = export_name_check(in->to_name);
	if (r == 0 && (in->flags & ~(uint32_t)(RENAME_NOREPLACE | RENAME_EXCHANGE)))
		r = -EINVAL;
	if (r == 0)
		r = op_resolve(o, in->to_dir, &to);
	if (r == 0)
		r = op_begin(o, in->cred, in->dir, &from);
	if (r < 0)
		return r;
	if (from.ex != to.ex || from.mount != to.mount)
		return -EXDEV;
	if (fstatat(from.fd, in->name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	replaced = fstatat(to.fd, in->to_name, &over, AT_SYMLINK_NOFOLLOW) == 0;
	if (renameat2(from.fd, in->name, to.fd, in->to_name, in->flags) < 0)
		return -errno;
	op_changed(o->d, &st);
	if (replaced)
		op_changed(o->d, &over);
	op_changed_fd(o->d, from.fd);
	op_changed_fd(o->d, to.fd);
	return op_done(o, &rep.base);
}
