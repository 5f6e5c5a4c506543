// SPDX-License-Identifier: Apache-2.0
/*
 * Operations on names. Where the prefix table has a name below a directory, the table wins over the directory: that name leads to another domain
 * (or is a directory on the way to one) and cannot be made, removed or renamed.
 */
#include "fs/client/client.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static void entry_param(struct fs *fs, struct inode *ino, const struct stat *st, struct fuse_entry_param *p)
{
	(void)fs;
	memset(p, 0, sizeof(*p));
	p->ino = ino->id;
	p->generation = 1;
	p->attr = *st;
	p->attr_timeout = inode_timeout(ino, st->st_mode);
	p->entry_timeout = ino->dom && ino->dom->home ? 1.0 : 0;
}

void ops_reply_entry(struct call *c, const Sprite__Fs__Entry *e)
{
	struct fs *fs = c->fs;
	struct fuse_entry_param p;
	struct inode *ino;
	struct stat st;

	if (!e || !e->attr) {
		fuse_reply_err(c->req, EIO);
		return;
	}
	ino = inode_looked_up(fs, c->dom, &e->handle, e->attr->mode);
	if (!ino) {
		fuse_reply_err(c->req, ENOMEM);
		return;
	}
	if (c->pnode && !ino->pnode)
		ino->pnode = c->pnode;
	inode_stat(fs, c->dom, e->attr, &st);
	entry_param(fs, ino, &st, &p);
	if (fuse_reply_entry(c->req, &p) == -ENOENT)
		inode_forget(fs, p.ino, 1);
}

static void entry_done(struct call *c, int err, struct rpc_msg *out)
{
	if (err)
		fuse_reply_err(c->req, err);
	else
		ops_reply_entry(c, ((Sprite__Fs__EntryRep *)out->msg)->entry);
}

static void err_done(struct call *c, int err, struct rpc_msg *out)
{
	(void)out;
	fuse_reply_err(c->req, err);
}

/* ---- lookup */

/* The entry of a prefix node: its domain's root, or the virtual directory; c may be NULL when nothing was asked of a server. */
static void reply_pnode(struct fs *fs, fuse_req_t req, struct pnode *k, const struct stat *st)
{
	struct fuse_entry_param p;

	entry_param(fs, k->inode, st, &p);
	inode_count_lookup(fs, k->inode);
	if (fuse_reply_entry(req, &p) == -ENOENT)
		inode_forget(fs, p.ino, 1);
}

/* What is shown of a domain's root while its server is away or lets us not in. */
static void root_stub(struct fs *fs, struct inode *ino, struct stat *st)
{
	pthread_mutex_lock(&ino->lock);
	if (ino->has_last) {
		*st = ino->last;
	} else {
		inode_virtual_stat(fs, ino, st);
		st->st_mode = S_IFDIR | 0555;
	}
	pthread_mutex_unlock(&ino->lock);
}

static void attach_lookup_done(struct call *c, int err, struct rpc_msg *out)
{
	struct inode *root = c->pnode->inode;
	struct stat st;

	if (!err)
		prefix_attached(c->fs, c->dom, (Sprite__Fs__AttachRep *)out->msg);
	if (err == EINTR) {
		fuse_reply_err(c->req, err);
		return;
	}
	root_stub(c->fs, root, &st);
	reply_pnode(c->fs, c->req, c->pnode, &st);
	if (!err)
		call_release_waiters(c->fs, &c->dom->waiters, 0);
}

static void lookup_domain(struct fs *fs, fuse_req_t req, struct pnode *k)
{
	struct call *c = call_new(fs, req, FS_ATTACH, inode_hold(fs, k->inode), attach_lookup_done);

	if (!c)
		return;
	c->pnode = k;
	c->attach = true;
	c->quick = true;
	call_cred(c, false);
	c->m.attach.cred = &c->cred;
	c->m.attach.prefix = c->dom->prefix;
	c->m.attach.instance = (char *)fs->mount;
	call_submit(c);
}

static void lookup_done(struct call *c, int err, struct rpc_msg *out)
{
	struct fuse_entry_param p;
	struct stat st;

	if (err == ENOENT && c->pnode) {
		inode_virtual_stat(c->fs, c->pnode->inode, &st);
		reply_pnode(c->fs, c->req, c->pnode, &st);
	} else if (err == ENOENT && c->dom->home) {
		memset(&p, 0, sizeof(p));
		p.entry_timeout = 1.0;
		fuse_reply_entry(c->req, &p);
	} else if (err) {
		fuse_reply_err(c->req, err);
	} else {
		ops_reply_entry(c, ((Sprite__Fs__LookupRep *)out->msg)->entry);
	}
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fs *fs = fuse_req_userdata(req);
	struct inode *dir = inode_get(fs, parent);
	struct pnode *k = dir->pnode ? prefix_child(fs, dir->pnode, name, strlen(name)) : NULL;
	bool is_virtual = inode_is_virtual(fs, dir);
	struct call *c;
	struct stat st;

	if (k && k->dom && k->dom->server) {
		inode_put(fs, dir);
		lookup_domain(fs, req, k);
		return;
	}
	/* "hosts" is ours in every cluster: it must not hang with the root server. */
	if (k && (is_virtual || (dir->id == FUSE_ROOT_ID && !strcmp(name, "hosts")))) {
		inode_put(fs, dir);
		inode_virtual_stat(fs, k->inode, &st);
		reply_pnode(fs, req, k, &st);
		return;
	}
	if (is_virtual) {
		inode_put(fs, dir);
		fuse_reply_err(req, ENOENT);
		return;
	}
	c = call_new(fs, req, FS_LOOKUP, dir, lookup_done);
	if (!c)
		return;
	c->pnode = k;
	call_cred(c, true);
	c->m.lookup.cred = &c->cred;
	c->handle = &c->m.lookup.dir;
	c->m.lookup.name = call_strdup(c, name);
	call_submit(c);
}

static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t n)
{
	inode_forget(fuse_req_userdata(req), ino, n);
	fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *f)
{
	size_t i;

	for (i = 0; i < count; i++)
		inode_forget(fuse_req_userdata(req), f[i].ino, f[i].nlookup);
	fuse_reply_none(req);
}

/* ---- making and removing */

/* A call that changes name `name` of `parent`; NULL when it was refused (and answered). */
static struct call *change_new(fuse_req_t req, enum fs_op op, fuse_ino_t parent, const char *name, int exists_err, call_done done)
{
	struct fs *fs = fuse_req_userdata(req);
	struct inode *dir = inode_get(fs, parent);
	struct call *c;
	int err = 0;

	if (inode_is_virtual(fs, dir))
		err = EROFS;
	if (dir->pnode && prefix_child(fs, dir->pnode, name, strlen(name)))
		err = exists_err;
	if (err) {
		inode_put(fs, dir);
		fuse_reply_err(req, err);
		return NULL;
	}
	c = call_new(fs, req, op, dir, done);
	if (c)
		call_cred(c, true);
	return c;
}

static void make(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev, const char *target)
{
	struct call *c = change_new(req, FS_MAKE, parent, name, EEXIST, entry_done);

	if (!c)
		return;
	c->m.make.cred = &c->cred;
	c->handle = &c->m.make.dir;
	c->m.make.name = call_strdup(c, name);
	c->m.make.mode = mode;
	c->m.make.rdev = rdev;
	if (target)
		c->m.make.target = call_strdup(c, target);
	call_submit(c);
}

static void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	make(req, parent, name, mode, rdev, NULL);
}

static void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	make(req, parent, name, (mode & ~S_IFMT) | S_IFDIR, 0, NULL);
}

static void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	make(req, parent, name, S_IFLNK | 0777, 0, target);
}

static void remove_name(fuse_req_t req, fuse_ino_t parent, const char *name, bool dir)
{
	struct call *c = change_new(req, FS_REMOVE, parent, name, EBUSY, err_done);

	if (!c)
		return;
	c->m.remove.cred = &c->cred;
	c->handle = &c->m.remove.dir;
	c->m.remove.name = call_strdup(c, name);
	c->m.remove.rmdir = dir;
	call_submit(c);
}

static void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	remove_name(req, parent, name, false);
}

static void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	remove_name(req, parent, name, true);
}

static void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t to, const char *to_name, unsigned flags)
{
	struct fs *fs = fuse_req_userdata(req);
	struct inode *to_dir = inode_get(fs, to);
	struct inode *from = inode_get(fs, parent);
	struct call *c;
	int err = 0;

	if (to_dir->dom != from->dom)
		err = EXDEV;
	else if (to_dir->pnode && prefix_child(fs, to_dir->pnode, to_name, strlen(to_name)))
		err = EBUSY;
	inode_put(fs, from);
	if (err) {
		inode_put(fs, to_dir);
		fuse_reply_err(req, err);
		return;
	}
	c = change_new(req, FS_RENAME, parent, name, EBUSY, err_done);
	if (!c) {
		inode_put(fs, to_dir);
		return;
	}
	c->ino2 = to_dir;
	c->m.rename.cred = &c->cred;
	c->handle = &c->m.rename.dir;
	c->handle2 = &c->m.rename.to_dir;
	c->m.rename.name = call_strdup(c, name);
	c->m.rename.to_name = call_strdup(c, to_name);
	c->m.rename.flags = flags;
	call_submit(c);
}

static void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
	struct fs *fs = fuse_req_userdata(req);
	struct inode *file = inode_get(fs, ino);
	struct inode *dir = inode_get(fs, parent);
	bool other = dir->dom != file->dom;
	struct call *c;

	inode_put(fs, dir);
	if (other) {
		inode_put(fs, file);
		fuse_reply_err(req, EXDEV);
		return;
	}
	c = change_new(req, FS_LINK, parent, name, EEXIST, entry_done);
	if (!c) {
		inode_put(fs, file);
		return;
	}
	c->ino2 = file;
	c->m.link.cred = &c->cred;
	c->handle = &c->m.link.dir;
	c->handle2 = &c->m.link.handle;
	c->m.link.name = call_strdup(c, name);
	call_submit(c);
}

static void readlink_done(struct call *c, int err, struct rpc_msg *out)
{
	if (err)
		fuse_reply_err(c->req, err);
	else
		fuse_reply_readlink(c->req, ((Sprite__Fs__ReadlinkRep *)out->msg)->target);
}

static void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
	struct fs *fs = fuse_req_userdata(req);
	struct call *c = call_new(fs, req, FS_READLINK, inode_get(fs, ino), readlink_done);

	if (!c)
		return;
	call_cred(c, false);
	c->m.readlink.cred = &c->cred;
	c->handle = &c->m.readlink.handle;
	call_submit(c);
}

void ops_name(struct fuse_lowlevel_ops *ops)
{
	ops->lookup = op_lookup;
	ops->forget = op_forget;
	ops->forget_multi = op_forget_multi;
	ops->mknod = op_mknod;
	ops->mkdir = op_mkdir;
	ops->symlink = op_symlink;
	ops->unlink = op_unlink;
	ops->rmdir = op_rmdir;
	ops->rename = op_rename;
	ops->link = op_link;
	ops->readlink = op_readlink;
}
