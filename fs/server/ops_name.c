/* SPDX-License-Identifier: Apache-2.0 */
/* Operations on names: lookup, make, link, remove, rename, readlink. All act as the caller, so the kernel's rules (sticky, setgid, ACLs, umask) hold. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "fs/server/lease.h"
#include "fs/server/ops.h"
#include "fs/server/unlinked.h"

int op_lookup(struct op *o, const ProtobufCMessage *m)
{
	const Sprite__Fs__LookupReq *in = (const void *)m;
	Sprite__Fs__LookupRep rep = SPRITE__FS__LOOKUP_REP__INIT;
	struct object dir _cleanup_object_ = OBJECT_INIT, child _cleanup_object_ = OBJECT_INIT;
	struct op_entry e;
	struct stat st;
	int r;

	r = op_begin_dir(o, in->cred, in->dir, &dir);
	if (r < 0)
		return r;
	r = lease_look_dir(o, &dir);
	if (r)
		return r;
	rep.dir_lease = lease_grant_dir(o, &dir, in->dir, 0, &rep.dir_lease_seq);
	r = export_lookup(&dir, in->name, &child, &st);
	if (r == -ENOENT)
		return op_fail_with(o, ENOENT, &rep.base); /* that it is not there is worth a lease as well */
	if (r == 0)
		r = lease_look(o, child.ex, lease_key(&st), false);
	if (r == 0)
		r = op_entry(o, &child, &st, op_want(&st) | (S_ISREG(st.st_mode) ? (uint32_t)in->want & CS_WRITE : 0), &e);
	if (r)
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

/* Needs of an operation on one name of a directory. */
static int name_begin(struct op *o, const struct object *dir, const char *name)
{
	struct cs_need need = lease_change(lease_dir_key(dir), CS_NAMES | CS_ATTR, name);

	return lease_begin(o, dir->ex, &need, 1);
}

/* After EEXIST: was it this call that made the name, in the last run? */
static bool made_before(struct op *o, const struct object *dir, const char *name, mode_t type)
{
	struct stat st;

	return op_repeated(o) && fstatat(dir->fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && (st.st_mode & S_IFMT) == type &&
		st.st_uid == o->ids.uid;
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

/* Of what was just made: a directory is its maker's alone. */
static uint32_t made_want(const struct object *child, const struct stat *st, uint64_t want)
{
	if (!S_ISDIR(st->st_mode))
		return op_want(st);
	return lease_dir_bits(child, want);
}

int op_make(struct op *o, const ProtobufCMessage *m)
{
	const Sprite__Fs__MakeReq *in = (const void *)m;
	Sprite__Fs__EntryRep rep = SPRITE__FS__ENTRY_REP__INIT;
	struct object dir _cleanup_object_ = OBJECT_INIT, child _cleanup_object_ = OBJECT_INIT;
	struct op_entry e;
	Sprite__Fs__Attr dir_attr;
	struct stat st;
	bool made = false;
	int r = op_begin_name(o, in->cred, in->dir, in->name, &dir);

	if (r == 0)
		r = name_begin(o, &dir, in->name);
	if (r == 0) {
		op_repeated(o);
		op_intend(o, NULL, 0);
		r = make_node(dir.fd, in);
		made = r == 0;
	}
	if (r == -EEXIST && made_before(o, &dir, in->name, in->mode & S_IFMT))
		r = 0;
	if (r)
		return r;
	op_changed_dir(o->d, &dir);
	op_root(o); /* the caller may create in a directory that he may not search */
	rep.dir_lease = lease_grant_dir(o, &dir, in->dir, in->want, &rep.dir_lease_seq);
	r = export_lookup(&dir, in->name, &child, &st);
	child.bare = made && dir.facts && dir.facts->known && !dir.facts->acl;
	if (r == 0) /* nobody knows the new object yet, unless as the one of a number used before */
		r = op_entry(o, &child, &st, made_want(&child, &st, in->want), &e);
	if (r < 0)
		return r;
	rep.entry = &e.msg;
	rep.dir_attr = op_dir_attr(o, &dir, rep.dir_lease, &dir_attr);
	return op_done(o, &rep.base);
}

static bool linked_before(struct op *o, const struct object *dir, const char *name)
{
	const struct intent *it = op_repeated(o);
	struct stat st;
	bool r = it && fstatat(dir->fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && op_intent_is(it, &st);

	errno = EEXIST;
	return r;
}

int op_link(struct op *o, const ProtobufCMessage *m)
{
	const Sprite__Fs__LinkReq *in = (const void *)m;
	Sprite__Fs__EntryRep rep = SPRITE__FS__ENTRY_REP__INIT;
	struct object obj _cleanup_object_ = OBJECT_INIT, dir _cleanup_object_ = OBJECT_INIT;
	struct op_entry e;
	Sprite__Fs__Attr dir_attr;
	struct stat st;
	struct cs_need need[2];
	int r = export_name_check(in->name);

	if (r == 0)
		r = op_resolve(o, in->handle, &obj);
	if (r == 0)
		r = op_begin_name(o, in->cred, in->dir, in->name, &dir);
	if (r < 0)
		return r;
	if (obj.ex != dir.ex || obj.mount != dir.mount)
		return -EXDEV;
	if (fstat(obj.fd, &st) < 0)
		return -errno;
	if (st.st_nlink == unlinked_links(o->d, obj.mount, &st))
		return -ENOENT; /* what has no name gets none */
	need[0] = lease_change(lease_dir_key(&dir), CS_NAMES | CS_ATTR, in->name);
	need[1] = lease_change(lease_key(&st), CS_ATTR, NULL);
	r = lease_begin(o, dir.ex, need, 2);
	if (r)
		return r;
	op_repeated(o);
	op_intend(o, &st, 0);
	if (linkat(AT_FDCWD, op_path(obj.fd).s, dir.fd, in->name, AT_SYMLINK_FOLLOW) < 0 &&
		!(errno == EEXIST && linked_before(o, &dir, in->name)))
		return -errno;
	op_changed_dir(o->d, &dir);
	op_changed(o->d, &st);
	rep.dir_lease = lease_grant_dir(o, &dir, in->dir, in->want, &rep.dir_lease_seq);
	if (fstat(obj.fd, &st) < 0)
		return -errno;
	r = op_entry(o, &obj, &st, op_want(&st), &e);
	if (r < 0)
		return r;
	rep.entry = &e.msg;
	rep.dir_attr = op_dir_attr(o, &dir, rep.dir_lease, &dir_attr);
	return op_done(o, &rep.base);
}

static bool same_inode(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* Takes the directory and what the name means, which may become another object until both are ours: then again. */
static int remove_begin(struct op *o, const struct object *dir, const char *name, struct stat *st)
{
	struct cs_need need[2];
	struct stat now;
	int r;

	do {
		if (fstatat(dir->fd, name, st, AT_SYMLINK_NOFOLLOW) < 0)
			return -errno;
		need[0] = lease_change(lease_dir_key(dir), CS_NAMES | CS_ATTR, name);
		need[1] = lease_change(lease_key(st), CS_ATTR, NULL);
		r = lease_begin(o, dir->ex, need, 2);
		if (r)
			return r;
		if (fstatat(dir->fd, name, &now, AT_SYMLINK_NOFOLLOW) < 0)
			return -errno;
	} while (!same_inode(st, &now));
	return 0;
}

int op_remove(struct op *o, const ProtobufCMessage *m)
{
	const Sprite__Fs__RemoveReq *in = (const void *)m;
	Sprite__Fs__ChangeRep rep = SPRITE__FS__CHANGE_REP__INIT;
	Sprite__Fs__Attr attr;
	_cleanup_close_ int grave = -1;
	struct object dir _cleanup_object_ = OBJECT_INIT;
	struct stat st;
	bool kept;
	int r = op_begin_name(o, in->cred, in->dir, in->name, &dir);

	if (r == 0)
		r = remove_begin(o, &dir, in->name, &st);
	if ((r == -ENOENT && op_repeated(o)) || (r == 0 && op_repeated(o) && !op_intent_is(op_repeated(o), &st)))
		return op_done(o, &rep.base); /* it was removed by this call, before the server was killed */
	if (r)
		return r;
	op_intend(o, &st, 0);
	grave = grave_open(dir.fd, in->name, &st);
	kept = !in->rmdir && unlinked_keep(o, &dir, in->name, &st);
	if (unlinkat(dir.fd, in->name, in->rmdir ? AT_REMOVEDIR : 0) < 0) {
		r = -errno;
		if (kept)
			unlinked_undo(o, &dir, &st);
		return r;
	}
	grave_keep(&o->d->graves, steal_fd(&grave), clock_boot_ns());
	op_changed(o->d, &st);
	op_changed_dir(o->d, &dir);
	rep.dir_lease = lease_grant_dir(o, &dir, in->dir, in->want, &rep.dir_lease_seq);
	rep.dir_attr = op_dir_attr(o, &dir, rep.dir_lease, &attr);
	return op_done(o, &rep.base);
}

struct rename_view {
	struct stat src, over;
	bool replaced;
};

static int rename_look(const struct object *from, const struct object *to, const Sprite__Fs__RenameReq *in, struct rename_view *v)
{
	if (fstatat(from->fd, in->name, &v->src, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	v->replaced = fstatat(to->fd, in->to_name, &v->over, AT_SYMLINK_NOFOLLOW) == 0;
	return 0;
}

/* Takes both directories, what moves and what is replaced; again when the names came to mean others meanwhile. */
static int rename_begin(struct op *o, const struct object *from, const struct object *to, const Sprite__Fs__RenameReq *in,
	struct rename_view *v)
{
	struct rename_view now;
	struct cs_need need[4];
	int r;

	for (;;) {
		r = rename_look(from, to, in, v);
		if (r < 0)
			return r;
		need[0] = lease_change(lease_dir_key(from), CS_NAMES | CS_ATTR, in->name);
		need[1] = lease_change(lease_dir_key(to), CS_NAMES | CS_ATTR, in->to_name);
		need[2] = lease_change(lease_key(&v->src), CS_ATTR, NULL);
		if (v->replaced)
			need[3] = lease_change(lease_key(&v->over), CS_ATTR, NULL);
		r = lease_begin(o, from->ex, need, v->replaced ? 4 : 3);
		if (r == 0)
			r = rename_look(from, to, in, &now);
		if (r)
			return r;
		if (same_inode(&v->src, &now.src) && v->replaced == now.replaced &&
			(!v->replaced || same_inode(&v->over, &now.over)))
			return 0;
	}
}

/* `src`: what is to be moved now, NULL when there is none. */
static bool renamed_before(struct op *o, const struct object *to, const char *to_name, const struct stat *src)
{
	const struct intent *it = op_repeated(o);
	struct stat st;

	return it && !(src && op_intent_is(it, src)) && fstatat(to->fd, to_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
		op_intent_is(it, &st);
}

int op_rename(struct op *o, const ProtobufCMessage *m)
{
	const Sprite__Fs__RenameReq *in = (const void *)m;
	Sprite__Fs__ChangeRep rep = SPRITE__FS__CHANGE_REP__INIT;
	Sprite__Fs__Attr attr, to_attr;
	_cleanup_close_ int grave = -1;
	struct object from _cleanup_object_ = OBJECT_INIT, to _cleanup_object_ = OBJECT_INIT;
	struct rename_view v;
	bool kept = false;
	int r = export_name_check(in->to_name);

	if (r == 0 && (in->flags & ~(uint32_t)(RENAME_NOREPLACE | RENAME_EXCHANGE)))
		r = -EINVAL;
	if (r == 0)
		r = op_resolve_dir(o, in->to_dir, &to);
	if (r == 0 && export_is_private(&to, in->to_name))
		r = -EACCES;
	if (r == 0)
		r = op_begin_name(o, in->cred, in->dir, in->name, &from);
	if (r < 0)
		return r;
	if (from.ex != to.ex || from.mount != to.mount)
		return -EXDEV;
	r = rename_begin(o, &from, &to, in, &v);
	if ((r == 0 || r == -ENOENT) && renamed_before(o, &to, in->to_name, r == 0 ? &v.src : NULL))
		return op_done(o, &rep.base);
	if (r)
		return r;
	op_intend(o, &v.src, 0);
	if (v.replaced && !(in->flags & RENAME_EXCHANGE)) {
		grave = grave_open(to.fd, in->to_name, &v.over);
		kept = !(in->flags & RENAME_NOREPLACE) && !same_inode(&v.src, &v.over) && unlinked_keep(o, &to, in->to_name, &v.over);
	}
	if (renameat2(from.fd, in->name, to.fd, in->to_name, in->flags) < 0) {
		r = -errno;
		if (kept)
			unlinked_undo(o, &to, &v.over);
		return r;
	}
	grave_keep(&o->d->graves, steal_fd(&grave), clock_boot_ns());
	op_changed(o->d, &v.src);
	if (v.replaced)
		op_changed(o->d, &v.over);
	op_changed_dir(o->d, &from);
	op_changed_dir(o->d, &to);
	rep.dir_lease = lease_grant_dir(o, &from, in->dir, in->want, &rep.dir_lease_seq);
	rep.dir_attr = op_dir_attr(o, &from, rep.dir_lease, &attr);
	if (from.dev != to.dev || from.ino != to.ino) {
		rep.to_lease = lease_grant_dir(o, &to, in->to_dir, in->want, &rep.to_lease_seq);
		rep.to_attr = op_dir_attr(o, &to, rep.to_lease, &to_attr);
	}
	return op_done(o, &rep.base);
}
