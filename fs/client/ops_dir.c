// SPDX-License-Identifier: Apache-2.0
/*
 * Reading directories.
 *
 * Cookies are the server's, so that a reader that goes on after an interruption, a seekdir() or a restart of anything neither loses nor repeats
 * a name. In a directory of the prefix table the names of the table come first, under cookies of their own (TABLE | index + 1), which no
 * filesystem uses: ext4's go up to 2^63 but never have these upper bits save for its end mark. A name that both have is shown once.
 *
 * The server is asked for large pages; what the kernel's buffer does not hold waits in the stream. A rewind throws it away.
 */
#include "fs/client/client.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "conf/clock.h"
#include "fs/dirent.h"

#define TABLE	  0x7fffffff00000000ull
#define TABLE_END 0x7fffffff7fffffffull
#define PAGE_ASK  (128u << 10)
#define FRESH_NS  200000000ull

struct filler {
	struct fs *fs;
	fuse_req_t req;
	struct domain *dom;
	struct inode *dir;
	uint64_t changes; /* of dir when the page was asked for */
	bool known;	  /* entries are told from memory */
	unsigned bare, told; /* then: those without and with attributes */
	bool plus;
	char *buf;
	size_t size, used;
	/* lookups counted by this reply, to be taken back when the kernel does not take it */
	uint64_t *ids;
	size_t nids;
};

static bool filler_init(struct filler *f, struct fs *fs, fuse_req_t req, struct domain *dom, size_t size, bool plus)
{
	memset(f, 0, sizeof(*f));
	f->fs = fs;
	f->req = req;
	f->dom = dom;
	f->plus = plus;
	f->size = size;
	f->buf = malloc(size);
	f->ids = plus ? malloc(size / FS_DIRENT_HEAD * sizeof(*f->ids)) : NULL;
	if (f->buf && (f->ids || !plus))
		return true;
	free(f->buf);
	free(f->ids);
	fuse_reply_err(req, ENOMEM);
	return false;
}

static void filler_reply(struct filler *f)
{
	size_t i;

	if (fuse_reply_buf(f->req, f->buf, f->used) != 0)
		for (i = 0; i < f->nids; i++)
			inode_forget(f->fs, f->ids[i], 1);
	free(f->buf);
	free(f->ids);
}

/* The entry of a record, when it is there and not older than what we know. */
static void entry_take(struct filler *f, const struct fs_dirent *d, bool names, struct fuse_entry_param *p)
{
	Sprite__Fs__Entry *e = d->entrylen ? sprite__fs__entry__unpack(NULL, d->entrylen, d->entry) : NULL;
	struct inode *ino;
	bool old;

	if (!e || !e->attr)
		goto out;
	ino = ops_entry_take(f->fs, f->dom, e, names, p);
	if (ino && names)
		names_learn(f->dir, d->name, d->namelen, ino->id, f->changes);
	if (!ino) {
		p->ino = 0;
		goto out;
	}
	pthread_mutex_lock(&ino->lock);
	old = e->attr->change < ino->attr_change;
	pthread_mutex_unlock(&ino->lock);
	if (old) {
		inode_forget(f->fs, p->ino, 1);
		p->ino = 0;
	} else {
		f->ids[f->nids++] = p->ino;
	}
out:
	if (e)
		sprite__fs__entry__free_unpacked(e, NULL);
}

static void entry_known(struct filler *f, const char *name, struct fuse_entry_param *p)
{
	if (!strcmp(name, ".") || !strcmp(name, ".."))
		return;
	if (ops_entry_known(f->fs, f->dir, name, strlen(name), p)) {
		f->ids[f->nids++] = p->ino;
		f->told++;
	} else {
		memset(p, 0, sizeof(*p));
		f->bare++;
	}
}

/* false: full. `d` is NULL for names of the table. */
static bool fill(struct filler *f, const char *name, uint64_t ino, uint32_t type, uint64_t cookie, const struct fs_dirent *d, bool names)
{
	struct fuse_entry_param p;
	size_t need;

	memset(&p, 0, sizeof(p));
	if (f->plus) {
		need = fuse_add_direntry_plus(f->req, NULL, 0, name, NULL, 0);
		if (need > f->size - f->used)
			return false;
		if (f->known)
			entry_known(f, name, &p);
		else if (d)
			entry_take(f, d, names, &p);
	}
	if (!p.ino) {
		p.attr.st_ino = ino;
		p.attr.st_mode = DTTOIF(type);
	}
	if (f->plus)
		need = fuse_add_direntry_plus(f->req, f->buf + f->used, f->size - f->used, name, &p, (off_t)cookie);
	else
		need = fuse_add_direntry(f->req, f->buf + f->used, f->size - f->used, name, &p.attr, (off_t)cookie);
	if (need > f->size - f->used)
		return false;
	f->used += need;
	return true;
}

/* Names of the table from `off` on. Returns 1 when all are out, 0 when the buffer is full. */
static int fill_table(struct filler *f, struct inode *dir, uint64_t off)
{
	uint64_t i = off >= TABLE ? off - TABLE : 0;
	struct pnode *k;

	if (!dir->pnode)
		return 1;
	while ((k = prefix_nth(f->fs, dir->pnode, &i)))
		if (!fill(f, k->name, k->inode->id + (1ull << 62), DT_DIR, TABLE + i, NULL, false))
			return 0;
	return 1;
}

static bool table_has(struct fs *fs, struct inode *dir, const char *name, size_t len)
{
	return dir->pnode && prefix_child(fs, dir->pnode, name, len);
}

/*
 * From the page that the stream holds, which begins at `cookie`. st->lock is held. Returns true when something was said, or it is the end; false:
 * ask the server. Attributes of a page that has lain here for long are left out where no lease says that they are still true.
 */
static bool fill_page(struct filler *f, struct stream *st, uint64_t cookie)
{
	struct fs_dirent d;
	char name[256];
	size_t at = 0, n;
	bool fresh = clock_mono_ns() - st->page_ns < FRESH_NS || (st->ino->dom && !st->ino->dom->home);
	bool names = st->page_names_seq && ops_names_taken(st->ino, SPRITE__FS__LEASE_BITS__LEASE_NAMES, st->page_names_seq);

	if (!st->page || st->page_cookie != cookie)
		return false;
	f->dir = st->ino;
	f->changes = st->page_changes;
	while (at < st->page_len && (n = fs_dirent_get(st->page + at, st->page_len - at, &d))) {
		memcpy(name, d.name, d.namelen);
		name[d.namelen] = 0;
		if (!fresh || !st->ino->dom || st->page_changes != atomic_load(&st->ino->changes))
			d.entrylen = 0; /* or a name that was removed meanwhile would come to life in the kernel */
		if (!table_has(f->fs, st->ino, name, d.namelen) &&
			!fill(f, name, inode_show_ino(f->fs, st->ino->dom, d.ino), d.type, d.cookie, &d, names))
			break;
		at += n;
		st->page_cookie = d.cookie;
	}
	/* keep the rest, from where the kernel will go on */
	memmove(st->page, st->page + at, st->page_len - at);
	st->page_len -= at;
	return f->used || (st->page_end && !st->page_len);
}

/*
 * From the listing that is remembered of the directory, under NAMES. false: the server is asked, also where it would tell many attributes that are not known here.
 */
static bool fill_known(struct filler *f, struct inode *dir, uint64_t cookie)
{
	uint8_t *records = dir->listed && !atomic_load(&dir->renaming) && (!f->plus || ops_may_search(f->fs, dir, fuse_req_ctx(f->req)->uid)) ? malloc(f->size) : NULL;
	size_t at = 0, n, len;
	struct fs_dirent d;
	char name[256];
	bool end;

	if (!records || !names_listing(dir, cookie, records, f->size, &len, &end)) {
		free(records);
		return false;
	}
	f->dir = dir;
	f->known = true;
	for (; at < len && (n = fs_dirent_get(records + at, len - at, &d)); at += n) {
		memcpy(name, d.name, d.namelen);
		name[d.namelen] = 0;
		if (!table_has(f->fs, dir, name, d.namelen) && !fill(f, name, inode_show_ino(f->fs, f->dom, d.ino), d.type, d.cookie, NULL, true))
			break;
	}
	free(records);
	f->known = false;
	if ((!f->used && !(end && !len)) || f->bare > f->told / 4) {
		while (f->nids)
			inode_forget(f->fs, f->ids[--f->nids], 1);
		f->used = 0;
		return false;
	}
	atomic_fetch_add_explicit(&f->fs->local_listings, 1, memory_order_relaxed);
	return true;
}

static void readdir_done(struct call *c, int err, struct rpc_msg *out)
{
	struct stream *st = c->st;
	Sprite__Fs__ReaddirRep *rep;
	struct filler f;
	uint8_t *page;
	bool covered;

	if (err) {
		fuse_reply_err(c->req, err);
		return;
	}
	page = malloc(out->bulk_len ? out->bulk_len : 1);
	if (!page) {
		fuse_reply_err(c->req, ENOMEM);
		return;
	}
	if (!filler_init(&f, c->fs, c->req, c->dom, c->size, c->m.readdir.plus)) {
		free(page);
		return;
	}
	rep = (Sprite__Fs__ReaddirRep *)out->msg;
	lease_reply_begin(c->fs);
	covered = ops_names_taken(c->ino, rep->dir_lease, rep->dir_lease_seq);
	pthread_mutex_lock(&st->lock);
	free(st->page);
	st->page = page;
	st->page_len = rpc_msg_copy(out, page, out->bulk_len);
	st->page_cookie = c->m.readdir.cookie;
	st->page_end = rep->end;
	st->page_ns = clock_mono_ns();
	st->page_changes = c->seq;
	st->page_names_seq = covered ? rep->dir_lease_seq : 0;
	if (covered) {
		names_page(c->ino, page, st->page_len, c->m.readdir.cookie, rep->end, c->seq);
		ahead_learn(c->fs, c->ino, page, st->page_len, c->seq, c->mark);
	}
	fill_page(&f, st, st->page_cookie);
	pthread_mutex_unlock(&st->lock);
	filler_reply(&f);
	lease_reply_end(c->fs);
	if (!covered && st->caches)
		lease_drop_pages(c->fs, c->ino);
}

static void ask(struct call *c, struct stream *st, uint64_t cookie, bool plus)
{
	if (st->open) {
		call_cred(c, true);
	} else { /* as who opened it */
		c->cred.uid = st->uid;
		c->cred.gid = st->gid;
		c->cred.groups = st->groups;
		c->cred.n_groups = st->ngroups;
	}
	c->m.readdir.cred = &c->cred;
	c->handle = &c->m.readdir.handle;
	call_stream(c, st, &c->m.readdir.open);
	c->m.readdir.cookie = cookie;
	c->m.readdir.size = PAGE_ASK;
	c->m.readdir.plus = plus;
	if (plus)
		c->m.readdir.entry_want = SPRITE__FS__LEASE_BITS__LEASE_ATTR | SPRITE__FS__LEASE_BITS__LEASE_DATA;
	c->mark = read_mark(c->fs);
	c->seq = atomic_load(&c->ino->changes);
	call_submit(c);
}

static void read_names(fuse_req_t req, fuse_ino_t id, size_t size, off_t off, struct fuse_file_info *fi, bool plus)
{
	struct fs *fs = fuse_req_userdata(req);
	struct stream *st = stream_at(fs, fi->fh);
	uint64_t cookie = (uint64_t)off;
	bool in_table = !off || (cookie >= TABLE && cookie <= TABLE_END), done;
	struct filler f;
	struct call *c;

	if (!filler_init(&f, fs, req, st->ino->dom, size, plus))
		return;
	if (in_table && !fill_table(&f, st->ino, cookie))
		goto reply;
	if (in_table)
		cookie = 0;
	if (inode_is_virtual(fs, st->ino) || (in_table && f.used)) /* else the next call goes on with the server's names */
		goto reply;
	lease_reply_begin(fs);
	done = fill_known(&f, st->ino, cookie);
	if (!done) {
		pthread_mutex_lock(&st->lock);
		if (!cookie) {
			free(st->page);
			st->page = NULL;
		}
		done = fill_page(&f, st, cookie);
		pthread_mutex_unlock(&st->lock);
	}
	if (done)
		filler_reply(&f);
	lease_reply_end(fs);
	if (done)
		return;
	free(f.buf);
	free(f.ids);
	c = call_new(fs, req, FS_READDIR, inode_get(fs, id), readdir_done);
	if (!c)
		return;
	c->size = size;
	ask(c, st, cookie, plus);
	return;
reply:
	filler_reply(&f);
}

static void op_readdir(fuse_req_t req, fuse_ino_t id, size_t size, off_t off, struct fuse_file_info *fi)
{
	read_names(req, id, size, off, fi, false);
}

static void op_readdirplus(fuse_req_t req, fuse_ino_t id, size_t size, off_t off, struct fuse_file_info *fi)
{
	read_names(req, id, size, off, fi, true);
}

static void opendir_done(struct call *c, int err, struct rpc_msg *out)
{
	Sprite__Fs__OpenRep *rep;
	struct stream *st;
	bool gone;

	if (err) {
		fuse_reply_err(c->req, err);
		return;
	}
	rep = (Sprite__Fs__OpenRep *)out->msg;
	st = stream_new(c->fs, inode_hold(c->fs, c->ino), rep->open, c->flags, true, fuse_req_ctx(c->req));
	if (!st) {
		stream_close_id(c->fs, c->ino, rep->open, false, 0);
		fuse_reply_err(c->req, ENOMEM);
		return;
	}
	lease_reply_begin(c->fs);
	lease_keep_attr(c->fs, c->ino, rep->attr, lease_take(c->ino, rep->lease, rep->lease_seq));
	c->fi.fh = stream_told(st, c->unique);
	gone = fuse_reply_open(c->req, &c->fi) == -ENOENT;
	lease_reply_end(c->fs);
	if (gone)
		stream_release(c->fs, st, false, 0);
}

/*
 * Under ATTR (so that the kernel's check of permission was true) a directory is opened without the server. What is listed may stay in the
 * kernel's cache: a change by another client recalls the listing, one of our own the kernel sees.
 */
static bool opendir_known(struct fs *fs, struct inode *ino, struct stat *st)
{
	struct home_attr h;

	if (!ino->dom || !ino->dom->home)
		return lease_attr(fs, ino, st) || lease_guess(ino, st); /* its listing waits for what is queued */
	if (!home_fresh(ino, &h))
		return false;
	st->st_mode = h.mode;
	return true;
}

static bool opendir_here(struct fs *fs, fuse_req_t req, struct inode *ino, struct fuse_file_info *fi)
{
	const struct fuse_ctx *who = fuse_req_ctx(req);
	struct stream *st = NULL;
	struct stat attr;

	lease_reply_begin(fs);
	if (!(ino->pnode && ino->dom && ino->dom->home) && opendir_known(fs, ino, &attr) && (who->uid != 0 || (attr.st_mode & 0444) == 0444))
		st = stream_new(fs, inode_hold(fs, ino), 0, fi->flags | O_DIRECTORY, true, who);
	if (st) {
		stream_groups(st, who);
		atomic_fetch_add(&fs->local_streams, 1);
		atomic_fetch_add_explicit(&fs->local_opens, 1, memory_order_relaxed);
		st->caches = !ino->dom->home && !ino->pnode; /* nobody recalls names of the table */
		fi->cache_readdir = fi->keep_cache = st->caches;
		fi->fh = stream_told(st, session_unique());
		if (fuse_reply_open(req, fi) == -ENOENT)
			stream_release(fs, st, false, 0);
	}
	lease_reply_end(fs);
	return st;
}

static void op_opendir(fuse_req_t req, fuse_ino_t id, struct fuse_file_info *fi)
{
	struct fs *fs = fuse_req_userdata(req);
	struct inode *ino = inode_get(fs, id);
	struct stream *st;
	struct call *c;

	if (inode_is_virtual(fs, ino)) {
		st = stream_new(fs, ino, 0, fi->flags, true, fuse_req_ctx(req));
		if (!st) {
			inode_put(fs, ino);
			fuse_reply_err(req, ENOMEM);
			return;
		}
		fi->fh = stream_told(st, session_unique());
		if (fuse_reply_open(req, fi) == -ENOENT)
			stream_put(fs, st);
		return;
	}
	if (opendir_here(fs, req, ino, fi)) {
		inode_put(fs, ino);
		return;
	}
	c = call_new(fs, req, FS_OPEN, ino, opendir_done);
	if (!c)
		return;
	call_cred(c, true);
	c->m.open.cred = &c->cred;
	c->handle = &c->m.open.handle;
	c->m.open.flags = (uint32_t)fi->flags | O_DIRECTORY;
	c->flags = fi->flags | O_DIRECTORY;
	c->fi = *fi;
	call_submit(c);
}

void ops_dir(struct fuse_lowlevel_ops *ops)
{
	ops->opendir = op_opendir;
	ops->readdir = op_readdir;
	ops->readdirplus = op_readdirplus;
}
