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
#include "fs/dirent.h"

#define TABLE	  0x7fffffff00000000ull
#define TABLE_END 0x7fffffff7fffffffull
#define PAGE_ASK  (128u << 10)

struct filler {
	fuse_req_t req;
	char *buf;
	size_t size, used;
};

/* false: full */
static bool fill(struct filler *f, const char *name, uint64_t ino, uint32_t type, uint64_t cookie)
{
	struct stat st = {.st_ino = ino, .st_mode = DTTOIF(type)};
	size_t n = fuse_add_direntry(f->req, f->buf + f->used, f->size - f->used, name, &st, (off_t)cookie);

	if (n > f->size - f->used)
		return false;
	f->used += n;
	return true;
}

/* Names of the table from `off` on. Returns 1 when all are out, 0 when the buffer is full. */
static int fill_table(struct fs *fs, struct filler *f, struct inode *dir, uint64_t off)
{
	uint64_t i = off >= TABLE ? off - TABLE : 0;
	struct pnode *k;

	if (!dir->pnode)
		return 1;
	while ((k = prefix_nth(fs, dir->pnode, &i)))
		if (!fill(f, k->name, k->inode->id + (1ull << 62), DT_DIR, TABLE + i))
			return 0;
	return 1;
}

static bool table_has(struct fs *fs, struct inode *dir, const char *name, size_t len)
{
	return dir->pnode && prefix_child(fs, dir->pnode, name, len);
}

/* From the page that the stream holds, which begins at `cookie`. st->lock is held. Returns 1: something said, or the end; 0: ask the server. */
static int fill_page(struct fs *fs, struct filler *f, struct stream *st, uint64_t cookie)
{
	struct fs_dirent d;
	char name[256];
	size_t at = 0, n;

	if (!st->page || st->page_cookie != cookie)
		return 0;
	while (at < st->page_len && (n = fs_dirent_get(st->page + at, st->page_len - at, &d))) {
		memcpy(name, d.name, d.namelen);
		name[d.namelen] = 0;
		if (!table_has(fs, st->ino, name, d.namelen) &&
			!fill(f, name, inode_show_ino(fs, st->ino->dom, d.ino), d.type, d.cookie))
			break;
		at += n;
		st->page_cookie = d.cookie;
	}
	/* keep the rest, from where the kernel will go on */
	memmove(st->page, st->page + at, st->page_len - at);
	st->page_len -= at;
	return f->used || (st->page_end && !st->page_len);
}

static void reply_dir(struct filler *f)
{
	fuse_reply_buf(f->req, f->buf, f->used);
}

static void readdir_done(struct call *c, int err, struct rpc_msg *out);

static void ask(struct call *c, struct stream *st, uint64_t cookie)
{
	call_cred(c, true);
	c->m.readdir.cred = &c->cred;
	c->handle = &c->m.readdir.handle;
	call_stream(c, st, &c->m.readdir.open);
	c->m.readdir.cookie = cookie;
	c->m.readdir.size = PAGE_ASK;
	call_submit(c);
}

static void readdir_done(struct call *c, int err, struct rpc_msg *out)
{
	struct filler f = {.req = c->req, .size = c->size};
	struct stream *st = c->st;
	uint8_t *page;

	if (err) {
		fuse_reply_err(c->req, err);
		return;
	}
	f.buf = malloc(c->size);
	page = malloc(out->bulk_len ? out->bulk_len : 1);
	if (!f.buf || !page) {
		free(f.buf);
		free(page);
		fuse_reply_err(c->req, ENOMEM);
		return;
	}
	pthread_mutex_lock(&st->lock);
	free(st->page);
	st->page = page;
	st->page_len = rpc_msg_copy(out, page, out->bulk_len);
	st->page_cookie = c->m.readdir.cookie;
	st->page_end = ((Sprite__Fs__ReaddirRep *)out->msg)->end;
	fill_page(c->fs, &f, st, st->page_cookie);
	pthread_mutex_unlock(&st->lock);
	reply_dir(&f);
	free(f.buf);
}

static void op_readdir(fuse_req_t req, fuse_ino_t id, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct fs *fs = fuse_req_userdata(req);
	struct stream *st = (struct stream *)fi->fh;
	struct filler f = {.req = req, .buf = malloc(size), .size = size};
	uint64_t cookie = (uint64_t)off;
	bool in_table = !off || (cookie >= TABLE && cookie <= TABLE_END);
	struct call *c;
	int r = 0;

	if (!f.buf) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	if (in_table && !fill_table(fs, &f, st->ino, cookie))
		goto reply;
	if (in_table)
		cookie = 0;
	if (!st->open || (in_table && f.used)) /* virtual, or the next call goes on with the server's names */
		goto reply;
	pthread_mutex_lock(&st->lock);
	if (!cookie) {
		free(st->page);
		st->page = NULL;
	}
	r = fill_page(fs, &f, st, cookie);
	pthread_mutex_unlock(&st->lock);
	if (r)
		goto reply;
	free(f.buf);
	c = call_new(fs, req, FS_READDIR, inode_get(fs, id), readdir_done);
	if (!c)
		return;
	c->size = size;
	ask(c, st, cookie);
	return;
reply:
	reply_dir(&f);
	free(f.buf);
}

static void opendir_done(struct call *c, int err, struct rpc_msg *out)
{
	struct stream *st;

	if (err) {
		fuse_reply_err(c->req, err);
		return;
	}
	st = stream_new(inode_hold(c->fs, c->ino), ((Sprite__Fs__OpenRep *)out->msg)->open, c->flags, true, fuse_req_ctx(c->req));
	if (!st) {
		inode_put(c->fs, c->ino);
		fuse_reply_err(c->req, ENOMEM);
		return;
	}
	c->fi.fh = (uint64_t)st;
	if (fuse_reply_open(c->req, &c->fi) == -ENOENT) {
		struct call *k = call_new(c->fs, NULL, FS_CLOSE, inode_hold(c->fs, c->ino), NULL);

		if (k) {
			k->m.close.open = st->open;
			call_submit(k);
		}
		stream_put(c->fs, st);
	}
}

static void op_opendir(fuse_req_t req, fuse_ino_t id, struct fuse_file_info *fi)
{
	struct fs *fs = fuse_req_userdata(req);
	struct inode *ino = inode_get(fs, id);
	struct stream *st;
	struct call *c;

	if (inode_is_virtual(fs, ino)) {
		st = stream_new(ino, 0, fi->flags, true, fuse_req_ctx(req));
		if (!st) {
			inode_put(fs, ino);
			fuse_reply_err(req, ENOMEM);
			return;
		}
		fi->fh = (uint64_t)st;
		if (fuse_reply_open(req, fi) == -ENOENT)
			stream_put(fs, st);
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
}
