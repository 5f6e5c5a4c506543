// SPDX-License-Identifier: Apache-2.0
/*
 * read(2), and what is read ahead of it.
 *
 * A small read that has to ask fetches the whole block (64 KiB) that it lies in; what the kernel was not given of it waits in blocks.h for its next
 * read there; of a file that fits, and is read here and there for longer, some blocks at once, which cost little more than one. Large ones, by which the kernel reads ahead itself,
 * go past. That costs a random reader of a file that does not fit, so where it is more than twice as large as all of the cache it is done only as long as it pays.
 *
 * Invariants: a block is put, used and dropped under inode.lock. It is put only by a reply that granted DATA (so what it says is of after that grant) under a
 * seq that no recall has overtaken, and only if no change of ours to the file was under way since it was asked for; it is used only under DATA, and not while something is
 * dirty or a change of ours is under way, whose effect others may have seen already: read_change_begin(), _end(). The kernel is answered between lease_reply_begin()
 * and _end(), so that a recall finds it answered.
 */
#include "fs/client/client.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include "conf/clock.h"

#define DATA	   SPRITE__FS__LEASE_BITS__LEASE_DATA
#define AROUND_MAX (16u << 10) /* larger reads are not small */
#define TRIES	   64	       /* blocks of a large file that are fetched before it is asked whether they were used */
#define WIDE	   (4 * BLOCK_SIZE)
#define WIDE_AFTER 16	       /* blocks fetched one by one */

uint64_t read_mark(struct fs *fs)
{
	return blocks_mark(&fs->blocks);
}

void read_keep(struct inode *ino, uint64_t mark, uint64_t seq, uint64_t off, const struct iovec *iov, int niov, size_t len, bool end, size_t given)
{
	pthread_mutex_lock(&ino->lock);
	if ((ino->lease & DATA) && seq > ino->recalled_seq && !ino->changing && list_empty(&ino->dirty) && list_empty(&ino->flying))
		blocks_put(&ino->blocks, mark, off, iov, niov, len, end, given);
	pthread_mutex_unlock(&ino->lock);
}

void read_change_begin(struct call *c, struct inode *ino)
{
	pthread_mutex_lock(&ino->lock);
	blocks_forget(&ino->blocks);
	ino->changing++;
	pthread_mutex_unlock(&ino->lock);
	c->changing = ino;
}

void read_change_end(struct call *c)
{
	struct inode *ino = c->changing;

	if (!ino)
		return;
	c->changing = NULL;
	pthread_mutex_lock(&ino->lock);
	blocks_forget(&ino->blocks);
	ino->changing--;
	pthread_mutex_unlock(&ino->lock);
}

void read_begin(struct call *c)
{
	struct inode *ino = c->ino;

	pthread_mutex_lock(&ino->lock);
	ino->nreads[ino->reads_now]++;
	c->reads = (unsigned char)(1 + ino->reads_now);
	pthread_mutex_unlock(&ino->lock);
}

void read_end(struct call *c)
{
	struct fs *fs = c->fs;
	bool awaited;

	if (!c->reads)
		return;
	pthread_mutex_lock(&c->ino->lock);
	awaited = --c->ino->nreads[c->reads - 1] == 0 && c->reads - 1u != c->ino->reads_now;
	pthread_mutex_unlock(&c->ino->lock);
	c->reads = 0;
	if (!awaited)
		return;
	pthread_mutex_lock(&fs->recall_lock);
	pthread_cond_broadcast(&fs->wb_cond);
	pthread_mutex_unlock(&fs->recall_lock);
}

/*
 * Before the kernel is told that what it knows of the file is over: a READ that is answered short after that is not taken for the end of the file (fuse_short_read() compares
 * attr_version), and zeros are read up to where the file ended before. None of them waits for who waits for us (consist.h, rule 6); should one hang with its server, it is not waited for longer.
 * Only those begun before: a file that is read all the time would hold the recall else. What a wait before left (it gave up) counts as before.
 */
void read_settle(struct fs *fs, struct inode *ino, uint64_t until)
{
	struct timespec ts;
	bool turned = false, busy;

	pthread_mutex_lock(&fs->recall_lock);
	for (;;) {
		pthread_mutex_lock(&ino->lock);
		if (!turned && ino->nreads[!ino->reads_now] == 0) {
			ino->reads_now = !ino->reads_now;
			turned = true;
		}
		busy = !turned || ino->nreads[!ino->reads_now];
		pthread_mutex_unlock(&ino->lock);
		if (!busy || clock_boot_ns() >= until)
			break;
		clock_gettime(CLOCK_MONOTONIC, &ts);
		ts.tv_nsec += 50000000;
		if (ts.tv_nsec >= 1000000000) {
			ts.tv_sec++;
			ts.tv_nsec -= 1000000000;
		}
		pthread_cond_timedwait(&fs->wb_cond, &fs->recall_lock, &ts);
	}
	pthread_mutex_unlock(&fs->recall_lock);
}

/* `len` bytes of iov from `skip` on, as an iovec; returns its pieces. */
static int iov_part(const struct iovec *iov, int niov, size_t skip, size_t len, struct iovec *to)
{
	int i, n = 0;

	for (i = 0; i < niov && len; i++) {
		size_t at = skip < iov[i].iov_len ? skip : iov[i].iov_len, part = iov[i].iov_len - at;

		skip -= at;
		if (part > len)
			part = len;
		if (part)
			to[n++] = (struct iovec){(uint8_t *)iov[i].iov_base + at, part};
		len -= part;
	}
	return n;
}

static void read_done(struct call *c, int err, struct rpc_msg *out)
{
	size_t skip = (size_t)((uint64_t)c->off - c->m.read.offset), len;
	Sprite__Fs__ReadRep *rep;
	struct iovec iov[RPC_IOV_MAX];
	bool covered;
	int n;

	if (err) {
		fuse_reply_err(c->req, err);
		return;
	}
	if (out->bulk_len > c->m.read.size) {
		fuse_reply_err(c->req, EIO);
		return;
	}
	rep = (Sprite__Fs__ReadRep *)out->msg;
	len = out->bulk_len > skip ? out->bulk_len - skip : 0;
	if (len > c->size)
		len = c->size;
	n = iov_part(out->iov, out->niov, skip, len, iov);
	lease_reply_begin(c->fs);
	if ((lease_take(c->ino, rep->lease, rep->lease_seq) & DATA) && out->bulk_len > len)
		read_keep(c->ino, c->mark, rep->lease_seq, c->m.read.offset, out->iov, out->niov, out->bulk_len, out->bulk_len < c->m.read.size, len);
	covered = lease_has(c->ino, DATA);
	fuse_reply_iov(c->req, iov, n);
	lease_reply_end(c->fs);
	if (!covered && !c->dom->home && !c->st->direct)
		lease_drop_pages(c->fs, c->ino);
}

/* Answers from what is here. */
static bool read_here(struct fs *fs, fuse_req_t req, struct inode *ino, size_t size, off_t off)
{
	struct blocks_held h;
	bool r;

	if (!atomic_load(&ino->blocks.n))
		return false;
	lease_reply_begin(fs);
	pthread_mutex_lock(&ino->lock);
	r = (ino->lease & DATA) && !ino->changing && list_empty(&ino->dirty) && list_empty(&ino->flying) && blocks_get(&ino->blocks, (uint64_t)off, size, &h);
	pthread_mutex_unlock(&ino->lock);
	if (r)
		fuse_reply_iov(req, h.iov, h.n);
	lease_reply_end(fs);
	if (r) {
		blocks_give(&fs->blocks, &h);
		ahead_was_read(fs, ino);
	}
	return r;
}

/* So much around a small read is worth fetching: 0: nothing. */
static uint64_t worth_around(struct fs *fs, struct inode *ino)
{
	unsigned asked = atomic_load(&ino->blocks.asked), served = atomic_load(&ino->blocks.served);
	uint64_t size;

	pthread_mutex_lock(&ino->lock);
	size = (uint64_t)ino->attr.st_size;
	pthread_mutex_unlock(&ino->lock);
	if (size <= fs->blocks.bound)
		return asked < WIDE_AFTER ? BLOCK_SIZE : WIDE;
	return size <= 2 * fs->blocks.bound || asked < TRIES || served > asked / 2 ? BLOCK_SIZE : 0;
}

static void op_read(fuse_req_t req, fuse_ino_t id, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct fs *fs = fuse_req_userdata(req);
	struct inode *ino = inode_get(fs, id);
	uint64_t begin = (uint64_t)off, end, around;
	struct call *c;

	if (size > FS_IO_MAX)
		size = FS_IO_MAX;
	ino->was_read = true; /* no more than a hint */
	if (read_here(fs, req, ino, size, off) || ahead_read(fs, req, ino, off)) {
		inode_put(fs, ino);
		return;
	}
	c = call_new(fs, req, FS_READ, ino, read_done);
	if (!c)
		return;
	c->handle = &c->m.read.handle;
	call_stream(c, stream_at(fs, fi->fh), &c->m.read.open);
	if (!c->st->open) {
		c->cred.uid = c->st->uid;
		c->cred.gid = c->st->gid;
		c->cred.groups = c->st->groups;
		c->cred.n_groups = c->st->ngroups;
		c->m.read.cred = &c->cred;
	}
	end = begin + size;
	around = size <= AROUND_MAX && !ino->dom->home ? worth_around(fs, ino) : 0;
	if (around) {
		begin -= begin % around;
		end += (around - end % around) % around;
	}
	c->mark = read_mark(fs);
	c->off = off;
	c->size = size;
	c->m.read.offset = begin;
	c->m.read.size = (uint32_t)(end - begin);
	read_begin(c);
	wb_then(fs, ino, c);
}

void ops_read(struct fuse_lowlevel_ops *ops)
{
	ops->read = op_read;
}
