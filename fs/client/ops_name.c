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
#include "conf/clock.h"

static void entry_param(struct inode *ino, const struct stat *st, struct fuse_entry_param *p)
{
	memset(p, 0, sizeof(*p));
	p->ino = ino->id;
	p->generation = 1;
	p->attr = *st;
	p->attr_timeout = inode_timeout(ino, st->st_mode);
	p->entry_timeout = ino->dom && ino->dom->home ? 1.0 : 0;
}

/* Between lease_reply_begin() and _end(): the inode of an entry, with one lookup counted, and what the kernel may believe of it. */
struct inode *ops_entry_take(struct fs *fs, struct domain *dom, const Sprite__Fs__Entry *e, bool names, struct fuse_entry_param *p)
{
	struct inode *ino;
	struct stat st;
	uint64_t end, got;

	if (!e || !e->attr)
		return NULL;
	ino = inode_looked_up(fs, dom, &e->handle, e->attr->mode);
	if (!ino)
		return NULL;
	inode_stat(fs, dom, e->attr, &st);
	entry_param(ino, &st, p);
	got = lease_take(ino, e->lease, e->lease_seq);
	if ((got & SPRITE__FS__LEASE_BITS__LEASE_ATTR) && !S_ISFIFO(st.st_mode)) {
		p->attr_timeout = LEASE_LONG;
		lease_told(ino);
	}
	lease_keep_attr(fs, ino, e->attr, got);
	if (lease_outdated(ino, e->attr, &p->attr))
		p->attr_timeout = 0;
	if (dom->home)
		home_attr(fs, ino, e->attr);
	if (S_ISREG(st.st_mode) && (end = wb_dirty_end(ino))) { /* the server does not know all of it */
		if (end > (uint64_t)p->attr.st_size)
			p->attr.st_size = (off_t)end;
		p->attr_timeout = 0;
	}
	if (names)
		p->entry_timeout = LEASE_LONG;
	return ino;
}

bool ops_names_taken(struct inode *dir, uint64_t lease, uint64_t seq)
{
	return (lease_take(dir, lease, seq) & SPRITE__FS__LEASE_BITS__LEASE_NAMES) && !atomic_load(&dir->renaming);
}

static void reply_entry(struct call *c, const Sprite__Fs__Entry *e, uint64_t dir_lease, uint64_t dir_seq)
{
	struct fs *fs = c->fs;
	struct fuse_entry_param p;
	const char *name = c->op == FS_LOOKUP ? c->m.lookup.name : c->op == FS_MAKE ? c->m.make.name : c->m.link.name;
	struct inode *ino;
	bool gone = false, names;

	lease_reply_begin(fs);
	names = ops_names_taken(c->ino, dir_lease, dir_seq);
	ino = ops_entry_take(fs, c->dom, e, names, &p);
	if (ino) {
		atomic_store(&ino->parent, c->ino->id);
		if (c->op == FS_MAKE && S_ISDIR(p.attr.st_mode))
			names_begin_empty(ino);
		if (names)
			names_learn(c->ino, name, strlen(name), ino->id, c->seq);
		home_learn(c, name, ino->id);
		if (c->pnode && !ino->pnode)
			ino->pnode = c->pnode;
		gone = fuse_reply_entry(c->req, &p) == -ENOENT;
	} else {
		fuse_reply_err(c->req, EIO);
	}
	lease_reply_end(fs);
	if (gone)
		inode_forget(fs, p.ino, 1);
}

void ops_name_made(struct call *c, const char *name)
{
	uint64_t was = c->seq;

	if (atomic_compare_exchange_strong(&c->ino->changes, &was, was + 1))
		c->seq++; /* nothing else began: what the reply says of the name is the latest */
	else
		atomic_fetch_add(&c->ino->changes, 1);
	names_add(c->ino, name);
}

static void entry_done(struct call *c, int err, struct rpc_msg *out)
{
	Sprite__Fs__EntryRep *rep;

	ops_name_made(c, c->op == FS_MAKE ? c->m.make.name : c->m.link.name);
	if (err) {
		fuse_reply_err(c->req, err);
		return;
	}
	rep = (Sprite__Fs__EntryRep *)out->msg;
	ops_dir_changed(c->fs, c->ino, rep->dir_attr, c->mark);
	reply_entry(c, rep->entry, rep->dir_lease, rep->dir_lease_seq);
}

uint64_t ops_want_dir(const struct call *c)
{
	return c->dom && c->dom->exclusive ? SPRITE__FS__LEASE_BITS__LEASE_WRITE : 0;
}

/* A change of our own in a directory: the kernel asks for its attributes next. */
void ops_dir_changed(struct fs *fs, struct inode *dir, const Sprite__Fs__Attr *a, uint64_t mark)
{
	if (a && lease_held_since(dir, mark))
		lease_keep_attr(fs, dir, a, SPRITE__FS__LEASE_BITS__LEASE_ATTR); /* or those of a later change of ours stay */
	else
		lease_forget_attr(dir);
}

/* What was asked before this does not tell what the name means from now on. */
static void name_changes(struct inode *dir, const char *name)
{
	atomic_fetch_add(&dir->changes, 1);
	names_add(dir, name);
}

/* With c->gone empty: which inode loses the name `name` of `dir`, if it is sure; `i`: the n-th of c. */
static bool gone_note(struct call *c, int i, struct inode *dir, const char *name)
{
	uint64_t id;

	pthread_mutex_lock(&dir->lock);
	id = names_id(dir, name);
	c->gone_seq[i] = dir->recalled_seq;
	pthread_mutex_unlock(&dir->lock);
	if (id && id != NAMES_UNKNOWN)
		c->gone[i] = inode_find(c->fs, id);
	return !id || c->gone[i];
}

static bool gone_sure(const struct call *c, int i, struct inode *dir)
{
	bool r;

	pthread_mutex_lock(&dir->lock);
	r = c->gone_known && dir->recalled_seq == c->gone_seq[i] && (dir->lease & SPRITE__FS__LEASE_BITS__LEASE_NAMES);
	pthread_mutex_unlock(&dir->lock);
	return r;
}

/* c has taken its name out of the directory, or tried to. When no other change of ours began meanwhile, and none of others was told, the name is not there any more. */
static void name_removed(struct call *c, bool gone)
{
	uint64_t was = c->seq;

	if (!gone || !gone_sure(c, 0, c->ino) || !atomic_compare_exchange_strong(&c->ino->changes, &was, was + 1)) {
		name_changes(c->ino, c->m.remove.name);
		return;
	}
	pthread_mutex_lock(&c->ino->lock);
	if (c->ino->lease & SPRITE__FS__LEASE_BITS__LEASE_NAMES)
		names_set(c->ino, c->m.remove.name, 0);
	pthread_mutex_unlock(&c->ino->lock);
}

/* The link count of what lost its name is not what is remembered; when it is not sure what that was, no file's is. */
void ops_gone(struct call *c, bool sure)
{
	int i;

	if (!sure)
		atomic_fetch_add(&c->fs->victim_gen, 1);
	for (i = 0; i < 2; i++)
		if (c->gone[i])
			lease_forget_attr(c->gone[i]);
}

/* Of a removal or rename, which may have changed the nlink of an inode that we do not know by name. */
static void change_done(struct call *c, int err, struct rpc_msg *out)
{
	Sprite__Fs__ChangeRep *rep = err ? NULL : (Sprite__Fs__ChangeRep *)out->msg;

	ahead_cost(c, AHEAD_WRITE);
	/* who looked it up while it was under way may have been told what was before */
	if (c->op == FS_REMOVE)
		name_removed(c, !err);
	else
		name_changes(c->ino, c->m.rename.name);
	if (c->ino2)
		name_changes(c->ino2, c->m.rename.to_name);
	if (!err) {
		ops_gone(c, gone_sure(c, 0, c->ino) && (!c->ino2 || gone_sure(c, 1, c->ino2)));
		ops_dir_changed(c->fs, c->ino, rep->dir_attr, c->mark);
		lease_reply_begin(c->fs);
		ops_names_taken(c->ino, rep->dir_lease, rep->dir_lease_seq);
		if (c->ino2 && c->ino2 != c->ino) {
			ops_dir_changed(c->fs, c->ino2, rep->to_attr, c->mark2);
			ops_names_taken(c->ino2, rep->to_lease, rep->to_lease_seq);
		}
		lease_reply_end(c->fs);
	}
	fuse_reply_err(c->req, err);
}

static void victim_found(struct call *k, int err, struct rpc_msg *out)
{
	Sprite__Fs__LookupRep *rep = err ? NULL : (Sprite__Fs__LookupRep *)out->msg;
	struct inode *ino = rep && rep->entry ? inode_by_handle(k->fs, &rep->entry->handle) : NULL;

	if (!ino) {
		call_submit(k->arg);
		return;
	}
	stream_open_local_then(ino, k->arg);
	inode_put(k->fs, ino);
}

/*
 * Sends c, which takes the name `name` of `dir` away. Should that be the last name of a file that is open only here, then the server must know of
 * it first, or it is gone for good. Which file it is the server is asked when it is not known here, and there is any such file at all.
 */
static void submit_with_victim(struct call *c, struct inode *dir, const char *name)
{
	struct inode *ino;
	struct call *k;

	ino = c->gone[c->op == FS_RENAME];
	if (!atomic_load(&c->fs->local_streams) || (c->gone_known && !ino)) {
		call_submit(c);
		return;
	}
	if (c->gone_known) {
		stream_open_local_then(ino, c);
		return;
	}
	k = call_new(c->fs, NULL, FS_LOOKUP, inode_hold(c->fs, dir), victim_found);
	if (!k) {
		call_submit(c);
		return;
	}
	k->handle = &k->m.lookup.dir;
	k->m.lookup.name = call_strdup(k, name);
	k->cred.uid = c->cred.uid;
	k->cred.gid = c->cred.gid;
	k->cred.n_groups = c->cred.n_groups;
	k->cred.groups = c->cred.groups; /* of c, which waits for us */
	k->m.lookup.cred = &k->cred;
	k->arg = c;
	call_submit(k);
}

/* ---- lookup */

/* The entry of a prefix node: its domain's root, or the virtual directory; c may be NULL when nothing was asked of a server. */
static void reply_pnode(struct fs *fs, fuse_req_t req, struct pnode *k, const struct stat *st)
{
	struct fuse_entry_param p;

	entry_param(k->inode, st, &p);
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
		prefix_attached(c->fs, c->dom, (Sprite__Fs__AttachRep *)out->msg, c->seq);
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
	c->seq = clock_boot_ns();
	call_cred(c, false);
	c->m.attach.cred = &c->cred;
	c->m.attach.leases = c->m.attach.ack_now = true;
	c->m.attach.prefix = c->dom->prefix;
	c->m.attach.instance = (char *)fs->mount;
	call_submit(c);
}

static void reply_absent(struct call *c, const Sprite__Fs__LookupRep *rep)
{
	struct fuse_entry_param p;

	memset(&p, 0, sizeof(p));
	lease_reply_begin(c->fs);
	if (c->dom->home) {
		home_learn(c, c->m.lookup.name, 0);
		p.entry_timeout = 1.0;
	} else if (rep && ops_names_taken(c->ino, rep->dir_lease, rep->dir_lease_seq)) {
		p.entry_timeout = LEASE_LONG;
	}
	if (p.entry_timeout > 0)
		fuse_reply_entry(c->req, &p);
	else
		fuse_reply_err(c->req, ENOENT);
	lease_reply_end(c->fs);
}

static void lookup_done(struct call *c, int err, struct rpc_msg *out)
{
	Sprite__Fs__LookupRep *rep = out ? (Sprite__Fs__LookupRep *)out->msg : NULL;
	struct stat st;

	ahead_cost(c, AHEAD_NAMES);
	if (err == ENOENT && c->pnode) {
		inode_virtual_stat(c->fs, c->pnode->inode, &st);
		reply_pnode(c->fs, c->req, c->pnode, &st);
	} else if (err == ENOENT) {
		reply_absent(c, rep);
	} else if (err) {
		fuse_reply_err(c->req, err);
	} else {
		reply_entry(c, rep->entry, rep->dir_lease, rep->dir_lease_seq);
	}
}

/* May this user be told of names here without the server's word? The kernel has asked whether he may search the directory; root may be nobody at the server. */
bool ops_may_search(struct fs *fs, struct inode *dir, uid_t uid)
{
	struct stat st;

	return uid != 0 || (dir->dom && dir->dom->exclusive > 1) || (lease_attr(fs, dir, &st) && (st.st_mode & 0111) == 0111);
}

/* Between lease_reply_begin() and _end(): what a name means, from memory under leases; with one lookup counted. */
struct inode *ops_entry_known(struct fs *fs, struct inode *dir, const char *name, size_t len, struct fuse_entry_param *p)
{
	uint64_t id = names_known(dir, name, len);
	struct inode *ino = id && !atomic_load(&dir->renaming) ? inode_find(fs, id) : NULL;
	struct stat st;

	if (!ino)
		return NULL;
	if (!S_ISFIFO(ino->type) && lease_attr(fs, ino, &st)) {
		entry_param(ino, &st, p);
		p->attr_timeout = p->entry_timeout = LEASE_LONG;
		lease_told(ino);
		inode_count_lookup(fs, ino);
		inode_put(fs, ino);
		return ino; /* that lookup holds it */
	}
	inode_put(fs, ino);
	return NULL;
}

static bool lookup_here(struct fs *fs, fuse_req_t req, struct inode *dir, const char *name)
{
	struct fuse_entry_param p = {.entry_timeout = LEASE_LONG};
	bool known = false, gone = false;

	lease_reply_begin(fs);
	if (names_absent(dir, name)) {
		atomic_fetch_add_explicit(&fs->local_absent, 1, memory_order_relaxed);
		fuse_reply_entry(req, &p);
		known = true;
	} else if (ops_may_search(fs, dir, fuse_req_ctx(req)->uid) && ops_entry_known(fs, dir, name, strlen(name), &p)) {
		atomic_fetch_add_explicit(&fs->local_lookups, 1, memory_order_relaxed);
		gone = fuse_reply_entry(req, &p) == -ENOENT;
		known = true;
	}
	lease_reply_end(fs);
	if (gone)
		inode_forget(fs, p.ino, 1);
	return known;
}

static void reply_root(fuse_req_t req, struct fs *fs)
{
	struct fuse_entry_param p = {.ino = ROOT_ID, .generation = 1, .entry_timeout = HOME_TOLD_NS / 1e9};

	inode_virtual_stat(fs, fs->root->inode, &p.attr); /* to begin with: it asks */
	fuse_reply_entry(req, &p);
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fs *fs = fuse_req_userdata(req);
	struct inode *dir = inode_get(fs, parent);
	struct pnode *k = dir->pnode ? prefix_child(fs, dir->pnode, name, strlen(name)) : NULL;
	bool is_virtual = inode_is_virtual(fs, dir);
	struct call *c;
	struct stat st;

	if (parent == FUSE_ROOT_ID && !strcmp(name, ROOT_DIR)) {
		inode_put(fs, dir);
		reply_root(req, fs);
		return;
	}
	if (hand_lookup(fs, req, dir, name)) {
		inode_put(fs, dir);
		return;
	}
	if (k && k->dom && k->dom->server) {
		inode_put(fs, dir);
		lookup_domain(fs, req, k);
		return;
	}
	/* "hosts" is ours in every cluster: it must not hang with the root server. */
	if (k && (is_virtual || (dir->id == ROOT_ID && !strcmp(name, "hosts")))) {
		inode_put(fs, dir);
		inode_virtual_stat(fs, k->inode, &st);
		reply_pnode(fs, req, k, &st);
		return;
	}
	if (is_virtual || strlen(name) > 255) {
		inode_put(fs, dir);
		fuse_reply_err(req, is_virtual ? ENOENT : ENAMETOOLONG);
		return;
	}
	if (!k && (lookup_here(fs, req, dir, name) || home_lookup(fs, req, dir, name))) {
		inode_put(fs, dir);
		return;
	}
	if (!k && ahead_lookup(fs, req, dir)) {
		inode_put(fs, dir);
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
	c->seq = atomic_load(&c->ino->changes);
	home_note(c);
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
	if (c) {
		call_cred(c, true);
		if (op == FS_REMOVE || op == FS_RENAME)
			c->gone_known = gone_note(c, 0, dir, name);
		name_changes(dir, name);
		c->seq = atomic_load(&dir->changes);
		c->mark = lease_mark(dir);
	}
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
	c->m.make.want = ops_want_dir(c);
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
	struct fs *fs = fuse_req_userdata(req);
	struct inode *in = inode_get(fs, parent);
	bool here = here_remove(req, in, name, dir) || ahead_change(fs, req, in);
	struct call *c;

	inode_put(fs, in);
	if (here)
		return;
	c = change_new(req, FS_REMOVE, parent, name, EBUSY, change_done);
	if (!c)
		return;
	c->m.remove.cred = &c->cred;
	c->handle = &c->m.remove.dir;
	c->m.remove.name = call_strdup(c, name);
	c->m.remove.rmdir = dir;
	c->m.remove.want = ops_want_dir(c);
	submit_with_victim(c, c->ino, name);
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
	if (!err && (here_rename(req, from, name, to_dir, to_name, flags) || ahead_change(fs, req, from) || (to_dir != from && ahead_change(fs, req, to_dir)))) {
		inode_put(fs, from);
		inode_put(fs, to_dir);
		return;
	}
	inode_put(fs, from);
	if (err) {
		inode_put(fs, to_dir);
		fuse_reply_err(req, err);
		return;
	}
	c = change_new(req, FS_RENAME, parent, name, EBUSY, change_done);
	if (!c) {
		inode_put(fs, to_dir);
		return;
	}
	c->ino2 = to_dir;
	c->gone_known &= gone_note(c, 1, to_dir, to_name);
	name_changes(to_dir, to_name);
	c->mark2 = lease_mark(to_dir);
	lease_rename_begin(c);
	c->m.rename.cred = &c->cred;
	c->handle = &c->m.rename.dir;
	c->handle2 = &c->m.rename.to_dir;
	c->m.rename.name = call_strdup(c, name);
	c->m.rename.to_name = call_strdup(c, to_name);
	c->m.rename.flags = flags;
	c->m.rename.want = ops_want_dir(c);
	submit_with_victim(c, to_dir, to_name);
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
	c->m.link.want = ops_want_dir(c);
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
