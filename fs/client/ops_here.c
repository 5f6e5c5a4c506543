// SPDX-License-Identifier: Apache-2.0
/*
 * Operations answered at once: under exclusive leases (LEASE_WRITE) of the directory and of the file, with all names of the directory known, what would be the
 * server's answer is known here. The kernel has checked the caller's rights with attributes that are true (default_permissions); the server gives
 * WRITE on a directory only where nothing else decides (lease_may_exclude()). The call goes into the queue of dirq.c.
 *
 * Not here: directories and symbolic links that are made (their attributes are asked for at once), hard links, sizes, files that are open only here, names of the prefix table.
 *
 * Failures that only the server can know are reported late: failed().
 */
#include "fs/client/kept.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "conf/clock.h"
#include "conf/log.h"

#define WRITE SPRITE__FS__LEASE_BITS__LEASE_WRITE
#define NAME_LONGEST 255

/* A change that was answered with success and did not come to pass: what is remembered of the directory is wrong. */
static void failed(struct call *c, struct inode *file, int err)
{
	struct inode *dir = c->ino;

	log_error("%s: a change made here is lost: %s: %s", c->dom->prefix, call_op_name(c->op), strerror(err));
	if (err == ENOSPC || err == EDQUOT)
		atomic_store(&c->dom->full, true);
	pthread_mutex_lock(&dir->lock);
	inode_wb_error(dir, err);
	names_end(dir);
	pthread_mutex_unlock(&dir->lock);
	if (file) {
		pthread_mutex_lock(&file->lock);
		inode_wb_error(file, err);
		pthread_mutex_unlock(&file->lock);
	}
	lease_dir_changes(dir);
	lease_forget_attr(dir);
	lease_drop_pages(c->fs, dir); /* the listing */
	session_bump_epoch(c->fs);
}

/* With the lock of `dir`: can names in it be changed here, those that are known? */
static bool dir_is_held(const struct inode *dir)
{
	uint64_t all = WRITE | SPRITE__FS__LEASE_BITS__LEASE_NAMES | SPRITE__FS__LEASE_BITS__LEASE_ATTR;

	return (dir->lease & all) == all && dir->attr_known && (dirq_pending(dir) ? dir->guessed : dir->attr_valid);
}

/* And made, since all are known? */
static bool dir_is_ours(const struct inode *dir)
{
	return dir->complete && dir_is_held(dir);
}

/*
 * With its lock: will the server, which knows users and groups alone, let them change names there? The kernel has let in more: who has CAP_DAC_OVERRIDE or
 * CAP_FOWNER without being root. `victim`: what is to go, whose lock is held too; NULL: nothing.
 */
static bool may_change(const struct inode *dir, const Sprite__Fs__Cred *who, const struct inode *victim)
{
	const struct stat *a = dirq_pending(dir) && dir->guessed ? &dir->guess : &dir->attr;
	bool in = who->gid == a->st_gid;
	mode_t bits;
	size_t i;

	if (who->uid == 0)
		return true;
	for (i = 0; i < who->n_groups; i++)
		in |= who->groups[i] == a->st_gid;
	bits = who->uid == a->st_uid ? a->st_mode >> 6 : in ? a->st_mode >> 3 : a->st_mode;
	if ((bits & 3) != 3)
		return false;
	if (!victim || !(a->st_mode & S_ISVTX) || who->uid == a->st_uid)
		return true;
	return victim->guessed && dirq_pending(victim) ? victim->guess.st_uid == who->uid : victim->attr_known && victim->attr.st_uid == who->uid;
}

/* With its lock, before the change is queued: as the directory will be. */
static void dir_touch(struct inode *dir, int links)
{
	int64_t now = (int64_t)clock_real_ns() + atomic_load(&dir->dom->server->q.skew);
	struct stat *g = &dir->guess;

	if (!dirq_pending(dir))
		*g = dir->attr;
	dir->guessed = true;
	dir->dir_told = false;
	g->st_nlink = (nlink_t)((int64_t)g->st_nlink + links);
	if (now <= g->st_mtim.tv_sec * 1000000000ll + g->st_mtim.tv_nsec)
		return;
	g->st_mtim = g->st_ctim = (struct timespec){now / 1000000000, now % 1000000000};
}

/* With its lock: a file that only we can see. */
static bool file_is_ours(const struct inode *ino)
{
	const struct stream *st;

	if (!S_ISREG(ino->type) || !(ino->lease & WRITE))
		return false;
	list_each(st, &ino->streams, link)
		if (!st->open && !st->released) /* the server must hear of the open first */
			return false;
	return true;
}

/* Has the kernel been answered this already, by an earlier spritefs, or was about to be? Then it is answered again. */
static bool answered(fuse_req_t req, const struct inode *dir, struct fuse_file_info *fi)
{
	struct fs *fs = fuse_req_userdata(req);
	struct fuse_entry_param p = {.generation = 1};
	struct inode *child;
	struct kept_op x;

	if (!dirq_was(fs, session_unique(), &x))
		return false;
	if (x.op != FS_CREATE) {
		fuse_reply_err(req, 0); /* SETATTR, whose answer has attributes, is just done again */
		return true;
	}
	child = inode_find(fs, x.child);
	if (!child || !dir->dom) {
		if (child)
			inode_put(fs, child);
		fuse_reply_err(req, EIO);
		return true;
	}
	p.ino = child->id;
	p.attr.st_mode = S_IFREG | 0600; /* with no time to live */
	p.attr.st_ino = (1ull << 62) + child->id;
	p.attr.st_nlink = 1;
	fi->direct_io = 1;
	fi->fh = x.fh;
	fuse_reply_create(req, &p, fi);
	inode_put(fs, child);
	return true;
}

struct call *here_call(fuse_req_t req, enum fs_op op, struct inode *dir, call_done done)
{
	struct fs *fs = fuse_req_userdata(req);
	struct call *c = call_new(fs, req, op, inode_hold(fs, dir), done);

	if (c) {
		call_cred(c, true);
		c->req = NULL;
		c->mark = lease_mark(dir);
		c->handle = NULL;
	}
	return c;
}

/* ---- create */

static void create_born(struct call *c, int err, struct rpc_msg *out)
{
	Sprite__Fs__CreateRep *rep = err ? NULL : (Sprite__Fs__CreateRep *)out->msg;
	struct inode *ino = c->child;
	struct fs *fs = c->fs;
	uint64_t got;

	if (!err && (!rep->entry || !rep->entry->attr || !rep->entry->handle.len))
		err = EPROTO;
	if (err) {
		pthread_mutex_lock(&ino->lock);
		ino->stillborn = err;
		ino->lease = 0;
		pthread_mutex_unlock(&ino->lock);
		failed(c, ino, err);
		return;
	}
	ops_dir_changed(fs, c->ino, rep->dir_attr, c->mark);
	lease_reply_begin(fs);
	ops_names_taken(c->ino, rep->dir_lease, rep->dir_lease_seq);
	inode_set_handle(fs, ino, &rep->entry->handle);
	got = lease_born(ino, rep->entry->lease);
	lease_keep_attr(fs, ino, rep->entry->attr, got);
	pthread_mutex_lock(&ino->lock);
	ino->newborn = false;
	c->st->open = rep->open;
	c->st->epoch = c->dom->server->epoch;
	stream_changed(c->st);
	pthread_mutex_unlock(&ino->lock);
	lease_reply_end(fs);
	if (!(got & SPRITE__FS__LEASE_BITS__LEASE_DATA))
		lease_drop_pages(fs, ino);
}

/* What the file will be; false: not known without the server. */
static bool guess_new(struct inode *dir, const struct fuse_ctx *who, mode_t mode, struct stat *st)
{
	bool known;

	memset(st, 0, sizeof(*st));
	pthread_mutex_lock(&dir->lock);
	known = dir_is_ours(dir);
	st->st_gid = dir->attr.st_mode & S_ISGID ? dir->attr.st_gid : who->gid;
	if ((dir->attr.st_mode & S_ISGID) && who->uid && who->gid != dir->attr.st_gid)
		mode &= ~(mode_t)S_ISGID; /* unless the caller is of that group, which matters to nobody before the true attributes come */
	pthread_mutex_unlock(&dir->lock);
	st->st_mode = S_IFREG | (mode & 07777 & ~who->umask);
	st->st_uid = who->uid;
	st->st_nlink = 1;
	st->st_blksize = 4096;
	clock_gettime(CLOCK_REALTIME, &st->st_mtim);
	st->st_atim = st->st_ctim = st->st_mtim;
	return known;
}

/* The directory's lock is taken for the decision alone: what was prepared is thrown away when it is against us. */
static bool create_put(struct call *c, const char *name)
{
	struct inode *v[2] = {c->ino, c->child};
	bool ours;
	int n = 2;

	inode_told(c->fs, c->child);
	stream_told(c->st, c->unique);
	dirq_lock(v, &n);
	ours = dir_is_ours(c->ino) && names_id(c->ino, name) == 0 && may_change(c->ino, &c->cred, NULL);
	if (ours) {
		names_set(c->ino, name, c->child->id);
		ours = c->ino->complete;
	}
	if (ours) {
		atomic_fetch_add(&c->ino->changes, 1);
		dir_touch(c->ino, 0);
		dirq_put(c, v, n);
	}
	dirq_unlock(v, n);
	return ours;
}

bool here_create(fuse_req_t req, struct inode *dir, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	struct fs *fs = fuse_req_userdata(req);
	const struct fuse_ctx *who = fuse_req_ctx(req);
	struct fuse_entry_param p = {.generation = 1, .entry_timeout = LEASE_LONG};
	struct server *s;
	struct stream *st;
	struct stat guess;
	struct call *c;
	bool done;

	if (session_resent())
		return answered(req, dir, fi);
	if (dir->pnode || !dirq_allows(dir, who->uid, who->gid) || strlen(name) > NAME_LONGEST || !guess_new(dir, who, mode, &guess) ||
		!names_absent(dir, name))
		return false;
	s = dir->dom->server;
	c = here_call(req, FS_CREATE, dir, create_born);
	if (!c)
		return true;
	c->child = inode_born(fs, dir->dom, &guess);
	if (c->child)
		c->child->born_tid = who->pid;
	st = c->child ? stream_new(fs, inode_hold(fs, c->child), STREAM_UNBORN, fi->flags, false, who) : NULL;
	if (!st)
		abort();
	stream_hold(st);
	c->st = st; /* without c->open: the request has none */
	c->m.create.cred = &c->cred;
	c->handle = &c->m.create.dir;
	c->m.create.name = call_strdup(c, name);
	c->m.create.mode = mode;
	c->m.create.flags = (uint32_t)fi->flags;
	c->m.create.want = WRITE;
	p.ino = c->child->id;
	p.attr = c->child->guess;
	lease_reply_begin(fs);
	done = create_put(c, name);
	if (done) {
		fi->keep_cache = 1;
		fi->fh = st->fh; /* create_put() has told */
		if (fuse_reply_create(req, &p, fi) == -ENOENT) {
			stream_release(fs, st, false, 0);
			inode_forget(fs, p.ino, 1);
		}
	}
	lease_reply_end(fs);
	if (done) {
		dirq_kick(s, false);
		return true;
	}
	stream_put(fs, st);
	inode_forget(fs, p.ino, 1);
	call_drop(c);
	return false;
}

/* ---- remove, rename */

/* Of removals and renames. */
static void changed(struct call *c, int err, struct rpc_msg *out)
{
	Sprite__Fs__ChangeRep *rep = err ? NULL : (Sprite__Fs__ChangeRep *)out->msg;

	ops_gone(c, c->gone[0]); /* not of one that an earlier spritefs answered */
	if (err) {
		failed(c, NULL, err);
		if (c->ino2)
			lease_forget_attr(c->ino2);
		return;
	}
	ops_dir_changed(c->fs, c->ino, rep->dir_attr, c->mark);
	lease_reply_begin(c->fs);
	ops_names_taken(c->ino, rep->dir_lease, rep->dir_lease_seq);
	if (c->ino2 && c->ino2 != c->ino) {
		ops_dir_changed(c->fs, c->ino2, rep->to_attr, c->mark2);
		ops_names_taken(c->ino2, rep->to_lease, rep->to_lease_seq);
	}
	lease_reply_end(c->fs);
}

/* The inode of a name, with a reference; NULL: it must be asked for. */
static struct inode *named(struct fs *fs, struct inode *dir, const char *name)
{
	uint64_t id;

	pthread_mutex_lock(&dir->lock);
	id = dir_is_held(dir) ? names_id(dir, name) : 0;
	pthread_mutex_unlock(&dir->lock);
	return id && id != NAMES_UNKNOWN ? inode_find(fs, id) : NULL;
}

static bool may_go(const struct inode *victim, bool rmdir)
{
	if (!rmdir)
		return file_is_ours(victim);
	return S_ISDIR(victim->type) && !victim->pnode && dir_is_ours(victim) && !victim->names.count;
}

bool here_remove(fuse_req_t req, struct inode *dir, const char *name, bool rmdir)
{
	struct fs *fs = fuse_req_userdata(req);
	const struct fuse_ctx *who = fuse_req_ctx(req);
	struct inode *victim, *v[2];
	struct server *s;
	struct call *c;
	bool done, unused;
	int n = 2;

	if (session_resent())
		return answered(req, dir, NULL);
	if (dir->pnode || !dirq_allows(dir, who->uid, who->gid))
		return false;
	victim = named(fs, dir, name);
	if (!victim)
		return false;
	s = dir->dom->server;
	c = here_call(req, FS_REMOVE, dir, changed);
	if (!c) {
		inode_put(fs, victim);
		return true;
	}
	c->m.remove.cred = &c->cred;
	c->handle = &c->m.remove.dir;
	c->m.remove.name = call_strdup(c, name);
	c->m.remove.rmdir = rmdir;
	c->m.remove.want = WRITE;
	c->gone[0] = inode_hold(fs, victim);
	v[0] = dir;
	v[1] = victim;
	dirq_lock(v, &n);
	done = dir_is_held(dir) && names_id(dir, name) == victim->id && may_go(victim, rmdir) && may_change(dir, &c->cred, victim);
	if (done) {
		names_set(dir, name, 0);
		atomic_fetch_add(&dir->changes, 1);
		dir_touch(dir, rmdir ? -1 : 0);
		ahead_paid(dir, AHEAD_WRITE);
		victim->guessed = false; /* its link count is not what it was */
		dirq_put(c, v, n);
	}
	unused = dir->ahead.unused;
	dirq_unlock(v, n);
	inode_put(fs, victim);
	if (!done) {
		call_drop(c);
		return false;
	}
	if (unused)
		ahead_used(fs, req, dir);
	fuse_reply_err(req, 0);
	dirq_kick(s, false);
	return true;
}

/* Only of files, and onto files. */
bool here_rename(fuse_req_t req, struct inode *dir, const char *name, struct inode *to_dir, const char *to_name, unsigned flags)
{
	struct fs *fs = fuse_req_userdata(req);
	const struct fuse_ctx *who = fuse_req_ctx(req);
	struct inode *file, *over, *v[4];
	struct server *s;
	struct call *c;
	uint64_t at;
	bool done;
	int n = 3;

	if (session_resent())
		return answered(req, dir, NULL);
	if (flags || dir->pnode || to_dir->pnode || strlen(to_name) > NAME_LONGEST || !dirq_allows(dir, who->uid, who->gid))
		return false;
	file = named(fs, dir, name);
	if (!file)
		return false;
	over = named(fs, to_dir, to_name);
	s = dir->dom->server;
	c = here_call(req, FS_RENAME, dir, changed);
	if (!c)
		goto out;
	c->ino2 = inode_hold(fs, to_dir);
	c->mark2 = lease_mark(to_dir);
	c->gone[0] = inode_hold(fs, file);
	c->gone[1] = over ? inode_hold(fs, over) : NULL;
	c->m.rename.cred = &c->cred;
	c->handle = &c->m.rename.dir;
	c->handle2 = &c->m.rename.to_dir;
	c->m.rename.name = call_strdup(c, name);
	c->m.rename.to_name = call_strdup(c, to_name);
	c->m.rename.want = WRITE;
	v[0] = dir;
	v[1] = to_dir;
	v[2] = file;
	if (over)
		v[n++] = over;
	dirq_lock(v, &n);
	at = dir_is_held(to_dir) ? names_id(to_dir, to_name) : NAMES_UNKNOWN;
	done = dir_is_held(dir) && names_id(dir, name) == file->id && file_is_ours(file) && at == (over ? over->id : 0) && over != file &&
		(!over || file_is_ours(over)) && may_change(dir, &c->cred, file) && may_change(to_dir, &c->cred, over);
	if (done) {
		names_set(to_dir, to_name, file->id);
		names_set(dir, name, 0);
		atomic_fetch_add(&dir->changes, 1);
		atomic_fetch_add(&to_dir->changes, 1);
		dir_touch(dir, 0);
		if (to_dir != dir)
			dir_touch(to_dir, 0);
		if (over)
			over->guessed = false;
		file->guessed = false;
		dirq_put(c, v, n);
	}
	dirq_unlock(v, n);
	if (!done) {
		call_drop(c);
		inode_put(fs, file);
		if (over)
			inode_put(fs, over);
		return false;
	}
	fuse_reply_err(req, 0);
	dirq_kick(s, false);
out:
	inode_put(fs, file);
	if (over)
		inode_put(fs, over);
	return true;
}

/* ---- close */

bool here_close(struct fs *fs, struct stream *st)
{
	struct inode *ino = st->ino;
	struct server *s = ino->dom->server;
	struct call *c;
	bool behind, any;

	pthread_mutex_lock(&ino->lock);
	behind = st->open == STREAM_UNBORN || dirq_pending(ino);
	/* nobody waits for the others either, unless another node is about the file, which is not to find it open here */
	any = !st->dir && !ino->dom->home && atomic_load(&s->leasing) && !(ino->taken_at && clock_boot_ns() - ino->taken_at < FOREIGN_NS);
	pthread_mutex_unlock(&ino->lock);
	if (!behind && !any)
		return false;
	c = call_new(fs, NULL, FS_CLOSE, inode_hold(fs, ino), NULL);
	if (!c)
		abort();
	call_stream(c, st, &c->m.close.open);
	pthread_mutex_lock(&ino->lock);
	dirq_put(c, &ino, behind); /* of one behind nothing nobody needs to wait for the end */
	pthread_mutex_unlock(&ino->lock);
	dirq_kick(s, false);
	return true;
}

call_done here_done(enum fs_op op)
{
	switch (op) {
	case FS_CREATE:
		return create_born;
	case FS_REMOVE:
	case FS_RENAME:
		return changed;
	case FS_SETATTR:
		return here_was_set;
	default:
		return NULL;
	}
}
