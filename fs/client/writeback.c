// SPDX-License-Identifier: Apache-2.0
/*
 * Write-behind: what programs write under an exclusive lease (LEASE_WRITE) is answered at once and sent to the server a little later, small writes
 * put together up to 1 MiB, the last of a file together with its close. Sprite kept such data for 30 s; here it leaves when the file is closed,
 * when a megabyte is together (or many small pieces all over the file), or after FLUSH_AFTER_NS.
 *
 * Invariants
 *  1. Data is taken only while LEASE_WRITE is held; that is decided under inode.lock, where a recall clears the bit. A recall of WRITE sends
 *     everything and waits before it is acknowledged, so that no other node can see the file without it.
 *  2. Chunks of one file that overlap are sent one after the other, in the order of the writes.
 *  3. Whatever shows the file (attributes, reads, seeks, copies, truncation, fsync) waits until its dirty chunks are at the server: wb_then().
 *  4. Data that the server refuses is reported: at the next write, fsync or close of the file on this node (inode.wb_error), and in the log.
 *  5. An open id is closed after its last chunk has arrived.
 *
 *  6. A kill -9 of this process loses nothing: a chunk is a record of keep.h, which the next spritefs sends; a write(2) that was taken in and not
 *     answered is known by a second record (KEEP_TAKEN), so that it is not taken twice.
 *
 * Small chunks all over a file (a database) would be a call each: while one is under way the others go through the queue of dirq.c, many in a batch.
 *
 * Chunk: DIRTY (in inode.dirty, may grow) -> FLYING (sent) -> gone. Locking: inode.lock for the lists of the inode and the counts of streams.
 */
#include "fs/client/writeback.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include "conf/clock.h"
#include "conf/log.h"

#define FLYING_MAX     4
#define FLUSH_AFTER_NS 2000000000ull
#define SPACE_MIN      (512ull << 20)
#define QUEUE_MAX      (64u << 10)   /* chunks up to this size follow what is queued for their file in its batch */
#define MANY_MAX       (16u << 10)   /* chunks up to this size go in batches when others of their file are under way */
#define MANY_QUEUED    1024
#define LATER_MAX      64	     /* so many chunks of that size wait for each other */

static bool overlap(const struct chunk *a, const struct chunk *b)
{
	return a->off < b->off + b->len && b->off < a->off + a->len;
}

static void chunk_free(struct fs *fs, struct chunk *k)
{
	if (k->buf)
		session_buffer_give(k->buf);
	else
		keep_free(k->keep);
	free(k->reqs);
	free(k->taken);
	free(k->fds);
	free(k->sizes);
	stream_put(fs, k->st);
	free(k);
}

/* Answers those who waited for the chunk. */
static void chunk_answer(struct chunk *k, int err)
{
	unsigned i;
	int old;

	for (i = 0; i < k->nreqs; i++) {
		old = session_reply_on(k->fds[i]);
		if (err)
			fuse_reply_err(k->reqs[i], err);
		else
			fuse_reply_write(k->reqs[i], k->sizes[i]);
		session_reply_on(old);
		keep_free(k->taken[i]);
	}
}

bool wb_chunk_wait(struct chunk *k, fuse_req_t req, size_t size, struct keep *taken)
{
	struct keep **t = realloc(k->taken, (k->nreqs + 1) * sizeof(*t));
	fuse_req_t *r = realloc(k->reqs, (k->nreqs + 1) * sizeof(*r));
	int *f = realloc(k->fds, (k->nreqs + 1) * sizeof(*f));
	size_t *z = realloc(k->sizes, (k->nreqs + 1) * sizeof(*z));

	if (r)
		k->reqs = r;
	if (f)
		k->fds = f;
	if (z)
		k->sizes = z;
	if (t)
		k->taken = t;
	if (!r || !f || !z || !t)
		return false;
	t[k->nreqs] = taken;
	r[k->nreqs] = req;
	f[k->nreqs] = session_fd();
	z[k->nreqs++] = size;
	return true;
}

/* ---- sending */

/* A small file that was written whole: who reads it here next need not ask. (The kernel keeps only whole pages of it.) */
static void chunk_keep(struct chunk *k, const Sprite__Fs__WriteRep *rep, uint64_t mark)
{
	struct iovec v = {k->data, k->len};
	struct fs *fs = k->ino->dom->server->fs;

	if (k->off || k->len > BLOCK_SIZE || !rep->attr || rep->attr->size != k->len)
		return;
	lease_reply_begin(fs);
	read_keep(k->ino, mark, rep->lease_seq, 0, &v, 1, k->len, true, 0);
	lease_reply_end(fs);
}

void wb_chunk_done(struct call *c, int err, struct rpc_msg *out)
{
	struct chunk *k = c->arg;
	struct inode *ino = k->ino;
	struct fs *fs = c->fs;
	Sprite__Fs__WriteRep *rep = err ? NULL : (Sprite__Fs__WriteRep *)out->msg;
	struct list ready;
	struct list *l;
	uint64_t mark;
	bool close_id;

	if (err == ESTALE || (!err && rep->size != k->len)) /* ESTALE: it came too late (fencing) */
		err = EIO;
	if (c->m.write.give_up)
		lease_given_up(ino, rep ? rep->lease_seq : 0);
	if (rep) {
		lease_reply_begin(fs);
		lease_keep_attr(fs, ino, rep->attr, lease_take(ino, rep->lease, rep->lease_seq));
		lease_reply_end(fs);
	} else {
		lease_forget_attr(ino);
	}
	if (err == ENOSPC || err == EDQUOT)
		atomic_store(&c->dom->full, true);
	atomic_store(&c->dom->written, true);
	if (err)
		log_error("%s: %zu bytes written here are lost: %s", c->dom->prefix, k->len, strerror(err));
	list_init(&ready);
	pthread_mutex_lock(&ino->lock);
	blocks_forget(&ino->blocks);
	mark = read_mark(fs); /* a change that begins after this one is known by it */
	if (k->syncer && rep && rep->synced)
		k->syncer->synced = true;
	list_del(&k->link);
	ino->nflying--;
	ino->nqueued -= c->queued;
	if (err && !k->nreqs)
		inode_wb_error(ino, err);
	k->st->ndirty--;
	/* released meanwhile, and this was the last: the close did not go with it, or was not made */
	close_id = k->st->released && !k->st->ndirty && (!c->m.write.close || err) && k->st->open;
	if (list_empty(&ino->dirty) && list_empty(&ino->flying))
		list_splice_tail(&ready, &ino->wb_waiters);
	pthread_mutex_unlock(&ino->lock);
	atomic_fetch_sub(&fs->dirty_bytes, k->len);
	if (!err && (rep->lease & SPRITE__FS__LEASE_BITS__LEASE_DATA))
		chunk_keep(k, rep, mark);
	chunk_answer(k, err);
	if (err) /* the kernel has what nobody else will see */
		lease_drop_pages(fs, ino);
	if (close_id && (k->st->unlock || !here_close(fs, k->st)))
		stream_close(fs, k->st);
	pthread_mutex_lock(&fs->recall_lock);
	pthread_cond_broadcast(&fs->wb_cond);
	pthread_mutex_unlock(&fs->recall_lock);
	while ((l = list_pop(&ready)))
		call_wake(list_entry(l, struct call, link));
	wb_kick(fs, ino);
	chunk_free(fs, k);
}

/* urgent: somebody waits for it, also for what is queued */
static void chunk_send(struct fs *fs, struct chunk *k, bool close, bool urgent)
{
	struct call *c = call_new(fs, NULL, FS_WRITE, inode_hold(fs, k->ino), wb_chunk_done);
	struct server *s = k->ino->dom->server;
	struct inode *ino = k->ino;
	unsigned room = atomic_load(&s->q.room); /* a recall waits for what is in there */
	bool queued, many;

	if (!c)
		abort();
	c->cred.uid = k->uid;
	c->cred.gid = k->gid;
	c->m.write.cred = &c->cred;
	c->handle = &c->m.write.handle;
	call_stream(c, k->st, &c->m.write.open);
	c->m.write.offset = k->off;
	c->m.write.kill_suid = k->kill_suid;
	c->m.write.close = close;
	if (k->syncer)
		c->m.write.fsync = k->syncer->m.fsync.data_only ? 2 : 1;
	c->m.write.lease_epoch = c->lease = k->lease;
	c->bulk.iov_base = k->data;
	c->bulk.iov_len = k->len;
	c->arg = k;
	c->seq_at = &kept(k)->seq;
	c->seq_again = kept(k)->seq; /* it may have been sent by an earlier spritefs */
	/* c and k may be gone as soon as the lock is released */
	pthread_mutex_lock(&ino->lock);
	many = k->len <= MANY_MAX && (ino->nflying > 1 || !list_empty(&ino->dirty)) && atomic_load(&s->q.n) < (room < MANY_QUEUED ? room : MANY_QUEUED);
	queued = k->len <= QUEUE_MAX && !c->seq_again && k->keep && (many || dirq_pending(ino));
	if (close && !queued)
		c->m.write.give_up = lease_give_up(ino, k->st);
	urgent |= ino->wb_waits || k->nreqs; /* who came to wait since it was decided to send it finds it in the queue, or is found here */
	if (queued) {
		ino->nqueued++;
		c->chunk_key = k->keep->key;
		dirq_put(c, &ino, 1);
	}
	pthread_mutex_unlock(&ino->lock);
	if (!queued)
		call_submit(c);
	else
		dirq_kick(s, urgent);
}

/* With inode.lock, without anybody in a hurry: a large piece is together, or many small ones. */
static bool worth_sending(const struct inode *ino)
{
	struct chunk *k;

	if (ino->ndirty >= LATER_MAX)
		return list_entry(ino->dirty.next, struct chunk, link)->sealed;
	list_each(k, &ino->dirty, link)
		if (k->sealed && k->len > MANY_MAX)
			return true;
	return false;
}

/* With inode.lock: the next chunk that may be sent now, moved to flying; NULL: none. */
static struct chunk *chunk_next(struct inode *ino)
{
	struct chunk *k, *f;
	bool clash = false;

	if (ino->nflying - ino->nqueued >= FLYING_MAX || list_empty(&ino->dirty))
		return NULL;
	k = list_entry(ino->dirty.next, struct chunk, link);
	if (!ino->wb_urgent && list_empty(&ino->wb_waiters) && !worth_sending(ino))
		return NULL;
	list_each(f, &ino->flying, link)
		clash |= overlap(k, f);
	if (clash)
		return NULL;
	list_move_tail(&ino->flying, &k->link);
	ino->ndirty--;
	ino->nflying++;
	return k;
}

void wb_kick(struct fs *fs, struct inode *ino)
{
	struct chunk *k;
	bool close, urgent;

	for (;;) {
		pthread_mutex_lock(&ino->lock);
		k = chunk_next(ino);
		close = k && k->st->released && k->st->ndirty == 1 && !k->st->unlock;
		urgent = ino->wb_waits || !list_empty(&ino->wb_waiters);
		if (list_empty(&ino->dirty))
			ino->wb_urgent = false;
		pthread_mutex_unlock(&ino->lock);
		if (!k)
			return;
		chunk_send(fs, k, close, urgent);
	}
}

/* ---- waiting */

bool wb_dirty(struct inode *ino)
{
	bool r;

	pthread_mutex_lock(&ino->lock);
	r = !list_empty(&ino->dirty) || !list_empty(&ino->flying);
	pthread_mutex_unlock(&ino->lock);
	return r;
}

/* With inode.lock. An FSYNC goes along with the one chunk that it waits for, if that is all that is not at the server yet. */
static void sync_along(struct inode *ino, struct call *c)
{
	struct chunk *k;

	if (c->op != FS_FSYNC || list_empty(&ino->dirty) || ino->dirty.next != ino->dirty.prev || !list_empty(&ino->flying) || dirq_pending(ino))
		return;
	k = list_entry(ino->dirty.next, struct chunk, link);
	if (!k->syncer && !kept(k)->seq) { /* one that an earlier spritefs sent may have been executed without */
		k->syncer = c;
		k->sealed = true;
	}
}

void wb_then(struct fs *fs, struct inode *ino, struct call *c)
{
	bool wait;

	inode_hold(fs, ino); /* c may be answered, and its reference gone, before we return */
	pthread_mutex_lock(&ino->lock);
	wait = !list_empty(&ino->dirty) || !list_empty(&ino->flying);
	if (wait) {
		sync_along(ino, c);
		ino->wb_urgent = true;
		list_add_tail(&ino->wb_waiters, &c->link);
	}
	pthread_mutex_unlock(&ino->lock);
	if (wait) {
		wb_kick(fs, ino);
		dirq_hurry(ino);
	} else {
		call_wake(c);
	}
	inode_put(fs, ino);
}

void wb_flush_start(struct fs *fs, struct inode *ino)
{
	pthread_mutex_lock(&ino->lock);
	ino->wb_urgent = !list_empty(&ino->dirty);
	pthread_mutex_unlock(&ino->lock);
	wb_kick(fs, ino);
}

bool wb_flush_wait(struct fs *fs, struct inode *ino, bool recovery)
{
	bool paused = false;

	pthread_mutex_lock(&ino->lock);
	ino->wb_waits++;
	pthread_mutex_unlock(&ino->lock);
	wb_flush_start(fs, ino);
	dirq_hurry(ino);
	pthread_mutex_lock(&fs->recall_lock);
	while (wb_dirty(ino) && !fs->stopping && !(recovery && (paused = dirq_paused(ino->dom->server))))
		pthread_cond_wait(&fs->wb_cond, &fs->recall_lock);
	pthread_mutex_unlock(&fs->recall_lock);
	pthread_mutex_lock(&ino->lock);
	ino->wb_waits--;
	pthread_mutex_unlock(&ino->lock);
	return !paused;
}

int wb_error_take(struct inode *ino)
{
	int err;

	pthread_mutex_lock(&ino->lock);
	err = ino->wb_error;
	if (err)
		inode_wb_error(ino, 0);
	pthread_mutex_unlock(&ino->lock);
	return err;
}

uint64_t wb_dirty_end(struct inode *ino)
{
	uint64_t end = 0;

	pthread_mutex_lock(&ino->lock);
	if (!list_empty(&ino->dirty) || !list_empty(&ino->flying))
		end = ino->dirty_end;
	pthread_mutex_unlock(&ino->lock);
	return end;
}

/* ---- by age */

void wb_remember(struct fs *fs, struct inode *ino)
{
	bool add;

	pthread_mutex_lock(&fs->inode_lock);
	pthread_mutex_lock(&fs->wait_lock);
	add = list_empty(&ino->wb_link);
	if (add) {
		ino->refs++;
		ino->wb_since = clock_boot_ns();
		list_add_tail(&fs->wb_files, &ino->wb_link);
	}
	pthread_mutex_unlock(&fs->wait_lock);
	pthread_mutex_unlock(&fs->inode_lock);
}

void wb_tick(struct fs *fs, uint64_t now, bool all)
{
	struct inode *ino;
	unsigned n = 0;

	pthread_mutex_lock(&fs->wait_lock);
	list_each(ino, &fs->wb_files, wb_link)
		n++;
	while (n-- && !list_empty(&fs->wb_files)) {
		ino = list_entry(fs->wb_files.next, struct inode, wb_link);
		if (!all && now - ino->wb_since < FLUSH_AFTER_NS)
			break;
		list_del(&ino->wb_link);
		pthread_mutex_unlock(&fs->wait_lock);
		wb_flush_start(fs, ino);
		if (wb_dirty(ino))
			wb_remember(fs, ino);
		inode_put(fs, ino);
		pthread_mutex_lock(&fs->wait_lock);
	}
	pthread_mutex_unlock(&fs->wait_lock);
}

/* The server gave us up: what was not sent under its lease must not be sent without (fencing). */
void wb_discard(struct fs *fs, struct inode *ino)
{
	struct list gone, *l;

	list_init(&gone);
	pthread_mutex_lock(&ino->lock);
	list_splice_tail(&gone, &ino->dirty);
	ino->ndirty = 0;
	if (!list_empty(&gone))
		inode_wb_error(ino, EIO);
	pthread_mutex_unlock(&ino->lock);
	while ((l = list_pop(&gone))) {
		struct chunk *k = list_entry(l, struct chunk, link);
		struct list ready;

		log_error("%s: %zu bytes written here are lost: the server had given this host up", ino->dom->prefix, k->len);
		list_init(&ready);
		pthread_mutex_lock(&ino->lock);
		k->st->ndirty--;
		if (list_empty(&ino->flying))
			list_splice_tail(&ready, &ino->wb_waiters);
		pthread_mutex_unlock(&ino->lock);
		atomic_fetch_sub(&fs->dirty_bytes, k->len);
		chunk_answer(k, EIO);
		while ((l = list_pop(&ready)))
			call_wake(list_entry(l, struct call, link));
		chunk_free(fs, k);
	}
}

/* ---- space: as long as there is plenty, a full disk cannot come as a surprise after write(2) has said yes */

static void space_known(struct call *c, int err, struct rpc_msg *out)
{
	Sprite__Fs__StatfsRep *r = err ? NULL : (Sprite__Fs__StatfsRep *)out->msg;

	if (r)
		atomic_store(&c->dom->full, r->bavail * r->frsize < SPACE_MIN);
}

void wb_look_at_space(struct fs *fs, struct domain *d)
{
	struct call *c = call_new(fs, NULL, FS_STATFS, inode_hold(fs, d->root), space_known);

	if (!c)
		return;
	c->handle = &c->m.statfs.handle;
	c->quick = true;
	call_submit(c);
}
