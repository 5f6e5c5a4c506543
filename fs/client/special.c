// SPDX-License-Identifier: Apache-2.0
/*
 * The directory .sprite (special.h). Its operations are put before those of the mount, which never see a node number of ours.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "fs/client/special_int.h"

#define ROOT_NAME ".sprite"

static struct fuse_lowlevel_ops below; /* those of the mount */

static const struct special_file *file_in(const struct special_dir *d, const char *name)
{
	for (const struct special_file *f = d->files; f && f->name; f++)
		if (!strcmp(f->name, name))
			return f;
	return NULL;
}

static const struct special_dir *dir_named(const char *name)
{
	for (const struct special_dir *d = special_dirs; d->name; d++)
		if (!strcmp(d->name, name))
			return d;
	return NULL;
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	const struct special_dir *sub;
	struct node dir, n;
	struct job j;

	if ((parent == ROOT_ID || parent == FUSE_ROOT_ID) && !strcmp(name, ROOT_NAME) && ((struct fs *)fuse_req_userdata(req))->whole) {
		n = special_node_of(dir_named(""), NULL, NULL);
		special_reply_entry(req, &n, 0);
		return;
	}
	if (!special_ours(parent)) {
		below.lookup(req, parent, name);
		return;
	}
	if (!special_node_get(parent, &dir, NULL) || !special_is_dir(&dir)) {
		fuse_reply_err(req, ESTALE);
		return;
	}
	sub = !dir.dir->name[0] && name[0] ? dir_named(name) : NULL;
	if (sub || file_in(dir.dir, name)) {
		n = sub ? special_node_of(sub, NULL, NULL) : special_node_of(dir.dir, file_in(dir.dir, name), NULL);
		special_reply_entry(req, &n, 0);
	} else if (dir.dir->names) {
		j = special_job_of(req, ENTRY, dir.dir, NULL, name);
		special_start(&j);
	} else {
		fuse_reply_err(req, ENOENT);
	}
}

static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t n)
{
	if (special_ours(ino)) {
		special_node_forget(ino, n);
		fuse_reply_none(req);
	} else {
		below.forget(req, ino, n);
	}
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *f)
{
	size_t kept = 0;

	for (size_t i = 0; i < count; i++) {
		if (special_ours(f[i].ino))
			special_node_forget(f[i].ino, f[i].nlookup);
		else
			f[kept++] = f[i];
	}
	below.forget_multi(req, kept, f);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct node n;
	struct stat st;
	struct job j;

	if (!special_ours(ino)) {
		below.getattr(req, ino, fi);
		return;
	}
	if (special_node_get(ino, &n, NULL) && !n.name) {
		special_stat_of(&n, 0, &st);
		fuse_reply_attr(req, &st, 0);
	} else if (special_job_on(req, ATTR, ino, fi, &j)) {
		special_start(&j);
	}
}

/* The directory behind a node number; NULL: there is none. */
static const struct special_dir *dir_at(fuse_ino_t ino)
{
	struct node n;

	return special_node_get(ino, &n, NULL) && special_is_dir(&n) ? n.dir : NULL;
}

static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *st, int valid, struct fuse_file_info *fi)
{
	struct job j;

	if (!special_ours(ino)) {
		below.setattr(req, ino, st, valid, fi);
		return;
	}
	if (valid & (FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)) {
		fuse_reply_err(req, EPERM);
		return;
	}
	if (!special_job_on(req, valid & FUSE_SET_ATTR_SIZE ? TRUNCATE : ATTR, ino, fi, &j))
		return;
	j.size = (size_t)st->st_size;
	special_start(&j);
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct job j;

	if (!special_ours(ino))
		below.open(req, ino, fi);
	else if (special_job_on(req, OPEN, ino, fi, &j))
		special_start(&j);
}

static void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	const struct special_dir *d = special_ours(parent) ? dir_at(parent) : NULL;
	struct job j;

	if (!special_ours(parent)) {
		below.create(req, parent, name, mode, fi);
	} else if (!d || !d->names) {
		fuse_reply_err(req, d ? EPERM : ESTALE);
	} else {
		j = special_job_of(req, CREATE, d, NULL, name);
		j.fi = *fi;
		special_start(&j);
	}
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct job j;

	if (!special_ours(ino)) {
		below.read(req, ino, size, off, fi);
	} else if (special_job_on(req, READ, ino, fi, &j)) {
		j.size = size;
		j.off = off;
		special_start(&j);
	}
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct job j;

	if (!special_ours(ino)) {
		below.write(req, ino, data, size, off, fi);
	} else if (special_job_on(req, WRITE, ino, fi, &j)) {
		j.size = size;
		j.off = off;
		j.data = malloc(size ? size : 1);
		if (j.data)
			memcpy(j.data, data, size);
		if (j.data && !j.file) {
			special_start(&j);
		} else {
			fuse_reply_err(req, j.file ? EPERM : ENOMEM);
			free(j.data);
			free(j.name);
		}
	}
}

static void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	const struct special_dir *d = special_ours(parent) ? dir_at(parent) : NULL;
	struct job j;

	if (!special_ours(parent)) {
		below.unlink(req, parent, name);
	} else if (!d || !d->names) {
		fuse_reply_err(req, d ? EPERM : ESTALE);
	} else {
		j = special_job_of(req, UNLINK, d, NULL, name);
		special_start(&j);
	}
}

static void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	if (!special_ours(ino)) {
		below.opendir(req, ino, fi);
	} else if (!dir_at(ino)) {
		fuse_reply_err(req, ESTALE);
	} else {
		fi->fh = ino;
		fuse_reply_open(req, fi);
	}
}

static void list(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, bool plus)
{
	const struct special_dir *d = dir_at(ino);
	struct job j;

	if (!d) {
		fuse_reply_err(req, ESTALE);
		return;
	}
	j = special_job_of(req, LIST, d, NULL, NULL);
	j.size = size;
	j.off = off;
	j.plus = plus;
	special_start(&j);
}

static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	if (special_ours(ino))
		list(req, ino, size, off, false);
	else
		below.readdir(req, ino, size, off, fi);
}

static void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	if (special_ours(ino))
		list(req, ino, size, off, true);
	else
		below.readdirplus(req, ino, size, off, fi);
}

/* What there is nothing to do about. */
#define NOTHING(op, err, params, args)                          \
	static void op_##op params                              \
	{                                                       \
		if (special_ours(ino))                                  \
			fuse_reply_err(req, err);               \
		else                                            \
			below.op args;                          \
	}
#define FI struct fuse_file_info *fi
NOTHING(release, 0, (fuse_req_t req, fuse_ino_t ino, FI), (req, ino, fi))
NOTHING(releasedir, 0, (fuse_req_t req, fuse_ino_t ino, FI), (req, ino, fi))
NOTHING(flush, 0, (fuse_req_t req, fuse_ino_t ino, FI), (req, ino, fi))
NOTHING(fsync, 0, (fuse_req_t req, fuse_ino_t ino, int datasync, FI), (req, ino, datasync, fi))
NOTHING(mkdir, EPERM, (fuse_req_t req, fuse_ino_t ino, const char *name, mode_t mode), (req, ino, name, mode))
NOTHING(mknod, EPERM, (fuse_req_t req, fuse_ino_t ino, const char *name, mode_t mode, dev_t rdev), (req, ino, name, mode, rdev))
NOTHING(rmdir, EPERM, (fuse_req_t req, fuse_ino_t ino, const char *name), (req, ino, name))
NOTHING(readlink, EINVAL, (fuse_req_t req, fuse_ino_t ino), (req, ino))
NOTHING(getxattr, ENODATA, (fuse_req_t req, fuse_ino_t ino, const char *name, size_t size), (req, ino, name, size))
NOTHING(setxattr, EOPNOTSUPP, (fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags), (req, ino, name, value, size, flags))
NOTHING(removexattr, EOPNOTSUPP, (fuse_req_t req, fuse_ino_t ino, const char *name), (req, ino, name))
NOTHING(fallocate, EOPNOTSUPP, (fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len, FI), (req, ino, mode, off, len, fi))
NOTHING(lseek, EINVAL, (fuse_req_t req, fuse_ino_t ino, off_t off, int whence, FI), (req, ino, off, whence, fi))
NOTHING(getlk, EOPNOTSUPP, (fuse_req_t req, fuse_ino_t ino, FI, struct flock *l), (req, ino, fi, l))
NOTHING(setlk, EOPNOTSUPP, (fuse_req_t req, fuse_ino_t ino, FI, struct flock *l, int sleep), (req, ino, fi, l, sleep))
NOTHING(flock, EOPNOTSUPP, (fuse_req_t req, fuse_ino_t ino, FI, int op), (req, ino, fi, op))

static void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	if (!special_ours(ino))
		below.listxattr(req, ino, size);
	else if (size)
		fuse_reply_buf(req, NULL, 0);
	else
		fuse_reply_xattr(req, 0);
}

static void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	if (special_ours(parent))
		fuse_reply_err(req, EPERM);
	else
		below.symlink(req, target, parent, name);
}

static void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t to, const char *to_name, unsigned flags)
{
	if (special_ours(parent) || special_ours(to))
		fuse_reply_err(req, special_ours(parent) && special_ours(to) ? EPERM : EXDEV);
	else
		below.rename(req, parent, name, to, to_name, flags);
}

static void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
	if (special_ours(ino) || special_ours(parent))
		fuse_reply_err(req, special_ours(ino) && special_ours(parent) ? EPERM : EXDEV);
	else
		below.link(req, ino, parent, name);
}

static void op_copy(fuse_req_t req, fuse_ino_t in, off_t off_in, FI, fuse_ino_t out, off_t off_out, struct fuse_file_info *fi_out, size_t len, int flags)
{
	if (special_ours(in) || special_ours(out))
		fuse_reply_err(req, EXDEV); /* read and write it, then */
	else
		below.copy_file_range(req, in, off_in, fi, out, off_out, fi_out, len, flags);
}

static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
	below.statfs(req, special_ours(ino) ? ROOT_ID : ino);
}

/* An operation that the mount has not is not ours either: libfuse answers it. */
void special_wrap(struct fuse_lowlevel_ops *ops)
{
#define PUT(op) if (ops->op) ops->op = op_##op
	below = *ops;
	PUT(lookup); PUT(forget); PUT(forget_multi); PUT(getattr); PUT(setattr); PUT(open); PUT(create); PUT(read); PUT(write); PUT(unlink); PUT(opendir);
	PUT(readdir); PUT(readdirplus); PUT(release); PUT(releasedir); PUT(flush); PUT(fsync); PUT(mkdir); PUT(mknod); PUT(rmdir); PUT(readlink); PUT(getxattr);
	PUT(listxattr); PUT(setxattr); PUT(removexattr); PUT(fallocate); PUT(lseek); PUT(getlk); PUT(setlk); PUT(flock); PUT(symlink); PUT(rename); PUT(link);
	PUT(statfs);
	if (ops->copy_file_range)
		ops->copy_file_range = op_copy;
}
