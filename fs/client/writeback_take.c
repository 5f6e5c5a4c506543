// SPDX-License-Identifier: Apache-2.0
/* Write-behind: taking what a write(2) brings into a chunk, and chunks of an earlier spritefs. The rules are in writeback.c. */
#include "fs/client/writeback.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "conf/clock.h"

#define CHUNK_MAX      FS_IO_MAX
#define DIRTY_PART     4	     /* so large a part of cache_mb may be unsent, of all files; beyond it writers wait for their own chunk */
#define DIRTY_MOST     (64u << 20)   /* or so much: a recall has to send it within a lease term */
#define TAKE_FROM      (256u << 10)  /* writes of this size keep the request's buffer instead of being copied */
#define DIRTY_LARGE    (24u << 20)   /* of those so much: more buffers do not keep their memory (keep.c), and to fill one anew costs as much as to encrypt it */
#define ROOM_MIN       (4096 - sizeof(struct keep) - sizeof(struct kept_chunk))

/*
 * With inode.lock. The unsent chunk that has all of these bytes, and no later one has any: the write changes them there. (A linker writes its header last.) Whoever is asked again after a
 * kill in the middle of it writes the same once more.
 */
static struct chunk *chunk_with(struct inode *ino, const struct stream *st, uint64_t off, size_t len, uint32_t uid, uint32_t gid, bool kill)
{
	struct list *l;

	for (l = ino->dirty.prev; l != &ino->dirty; l = l->prev) {
		struct chunk *k = list_entry(l, struct chunk, link);

		if (off < k->off + k->len && k->off < off + len)
			return k->off <= off && off + len <= k->off + k->len && !k->syncer && !kept(k)->seq && !k->nreqs && k->st == st &&
					       k->lease == dirq_lease(ino->dom->server) && k->uid == uid && k->gid == gid && k->kill_suid == kill ?
				       k :
				       NULL;
	}
	return NULL;
}

/* With inode.lock. The chunk that this write may be appended to. */
static struct chunk *chunk_for(struct inode *ino, struct stream *st, uint64_t off, size_t len, uint32_t uid, uint32_t gid, bool kill)
{
	struct chunk *k;

	if (list_empty(&ino->dirty))
		return NULL;
	k = list_entry(ino->dirty.prev, struct chunk, link);
	if (k->sealed || k->buf || k->st != st || k->lease != dirq_lease(ino->dom->server) || k->uid != uid || k->gid != gid || k->kill_suid != kill || k->off + k->len != off ||
		k->len + len > CHUNK_MAX)
		return NULL;
	if (k->len + len > k->room) {
		size_t room = k->room * 2 > k->len + len ? k->room * 2 : k->len + len;
		struct keep *p = keep_new(sizeof(struct kept_chunk) + room);

		if (!p)
			return NULL;
		memcpy(p->data, k->keep->data, sizeof(struct kept_chunk) + k->len);
		keep_commit(p, KEEP_CHUNK, k->keep->key);
		keep_free(k->keep);
		k->keep = p;
		k->data = p->data + sizeof(struct kept_chunk);
		k->room = p->room - sizeof(struct kept_chunk);
	}
	return k;
}

/* Its record is not committed yet. */
static struct chunk *chunk_new(struct inode *ino, struct stream *st, uint64_t off, const void *data, size_t len, uint32_t uid, uint32_t gid, bool kill)
{
	struct chunk *k = calloc(1, sizeof(*k));

	if (!k)
		return NULL;
	k->ino = ino;
	k->st = st;
	k->off = off;
	k->since = clock_boot_ns();
	k->lease = dirq_lease(ino->dom->server);
	k->uid = uid;
	k->gid = gid;
	k->kill_suid = kill;
	if (len >= TAKE_FROM) {
		k->buf = session_buffer_take();
		k->keep = session_buffer_record(k->buf);
		k->data = (uint8_t *)data;
		k->len = len;
		k->sealed = true;
	} else {
		k->keep = keep_new(sizeof(struct kept_chunk) + (len < ROOM_MIN ? ROOM_MIN : len));
		if (!k->keep) {
			free(k);
			return NULL;
		}
		k->room = k->keep->room - sizeof(struct kept_chunk);
		k->data = k->keep->data + sizeof(struct kept_chunk);
	}
	*kept(k) = (struct kept_chunk){.ino = ino->id, .fh = st->fh, .off = off, .lease = k->lease, .uid = uid, .gid = gid, .kill_suid = kill,
		.data = (uint32_t)(k->data - k->keep->data)};
	atomic_store(&kept(k)->len, k->len);
	return k;
}

/* With inode.lock: the write of `len` bytes that is about to be put behind those of k, or (within) over some of them. NULL: no room for that, it may be taken twice after a crash. */
static struct keep *taken_begin(const struct chunk *k, uint64_t key, size_t len, bool within)
{
	struct keep *t = keep_new(sizeof(struct kept_taken));

	if (!t)
		return NULL;
	*(struct kept_taken *)t->data = (struct kept_taken){.chunk = key, .len = within ? UINT64_MAX : (k->buf ? 0 : k->len) + len, .size = (uint32_t)len};
	keep_commit(t, KEEP_TAKEN, session_unique());
	return t;
}

static void taken_applied(struct keep *t)
{
	if (t)
		atomic_store(&((struct kept_taken *)t->data)->applied, 1);
}

bool wb_took(struct fs *fs, uint64_t unique, size_t *size)
{
	struct keep *t = resume_claim(fs, KEEP_TAKEN, unique);
	struct kept_taken *x = t ? (struct kept_taken *)t->data : NULL;
	bool r = x && x->applied;

	if (r)
		*size = x->size;
	keep_free(t);
	return r;
}

void wb_resume(struct fs *fs, struct inode *ino, struct stream *st, struct keep *rec)
{
	struct chunk *k = calloc(1, sizeof(*k));
	struct kept_chunk *x = (struct kept_chunk *)rec->data;

	if (!k)
		abort();
	k->ino = ino;
	k->st = st;
	k->keep = rec;
	k->off = x->off;
	k->len = k->room = x->len;
	k->data = rec->data + x->data;
	k->lease = x->lease;
	k->uid = x->uid;
	k->gid = x->gid;
	k->kill_suid = x->kill_suid;
	k->sealed = true;
	if (x->seq)
		rpc_seq_hold(x->seq);
	st->refs++;
	st->ndirty++;
	list_add_tail(&ino->dirty, &k->link);
	ino->ndirty++;
	ino->eof = UINT64_MAX;
	if (k->off + k->len > ino->dirty_end)
		ino->dirty_end = k->off + k->len;
	ino->wb_urgent = true;
	atomic_fetch_add(&fs->dirty_bytes, k->len);
	wb_remember(fs, ino);
}

bool wb_resume_queued(struct call *c, uint64_t key)
{
	struct inode *ino = c->ino;
	struct chunk *k;

	list_each(k, &ino->dirty, link)
		if (k->keep->key == key) {
			list_move_tail(&ino->flying, &k->link);
			ino->ndirty--;
			ino->nflying++;
			ino->nqueued++;
			c->bulk.iov_base = k->data;
			c->bulk.iov_len = k->len;
			c->arg = k;
			c->done = wb_chunk_done;
			return true;
		}
	return false;
}

bool wb_write(struct fs *fs, fuse_req_t req, struct stream *st, const void *data, size_t len, uint64_t off, bool append, uint32_t uid, uint32_t gid,
	bool kill)
{
	struct inode *ino = st->ino;
	struct chunk *k;
	uint64_t most = len >= TAKE_FROM ? DIRTY_LARGE : DIRTY_MOST, part = fs->conf->cache_bytes / DIRTY_PART, key;
	bool full = atomic_load(&fs->dirty_bytes) > (part < most ? part : most), first, waits, fresh, within;
	struct keep *taken;
	int err;

	if (!len || st->direct || !ino->dom || atomic_load(&ino->dom->full))
		return false;
	if (kill) /* the mode that the kernel knows will not be the true one */
		fuse_lowlevel_notify_inval_inode(fs->se, ino->id, -1, 0);
	pthread_mutex_lock(&ino->lock);
	if (!(ino->lease & SPRITE__FS__LEASE_BITS__LEASE_WRITE)) {
		pthread_mutex_unlock(&ino->lock);
		return false;
	}
	first = list_empty(&ino->dirty) && list_empty(&ino->flying);
	if (first && !(ino->newborn && list_empty(&ino->dirty)))
		ino->eof = ino->attr_valid && !dirq_pending(ino) ? (uint64_t)ino->attr.st_size : UINT64_MAX;
	if (append && off != ino->eof) { /* the kernel is mistaken about the end; the server is not */
		pthread_mutex_unlock(&ino->lock);
		return false;
	}
	err = ino->wb_error;
	if (err) {
		inode_wb_error(ino, 0);
		pthread_mutex_unlock(&ino->lock);
		fuse_reply_err(req, err);
		return true;
	}
	k = len >= TAKE_FROM ? NULL : chunk_with(ino, st, off, len, uid, gid, kill);
	within = k;
	if (!k && len < TAKE_FROM)
		k = chunk_for(ino, st, off, len, uid, gid, kill);
	fresh = !k;
	if (fresh) {
		if (!list_empty(&ino->dirty))
			list_entry(ino->dirty.prev, struct chunk, link)->sealed = true;
		k = chunk_new(ino, st, off, data, len, uid, gid, kill);
		if (!k) {
			pthread_mutex_unlock(&ino->lock);
			return false;
		}
		st->refs++;
		st->ndirty++;
		list_add_tail(&ino->dirty, &k->link);
		ino->ndirty++;
	}
	blocks_forget(&ino->blocks);
	key = fresh ? atomic_fetch_add(&keep_head()->next_ticket, 1) + 1 : k->keep->key;
	taken = taken_begin(k, key, len, within);
	if (fresh)
		keep_commit(k->keep, KEEP_CHUNK, key);
	if (within) {
		memcpy(k->data + (off - k->off), data, len);
	} else if (!k->buf) {
		memcpy(k->data + k->len, data, len);
		k->len += len;
		atomic_store(&kept(k)->len, k->len);
		k->sealed |= k->len == CHUNK_MAX;
	}
	taken_applied(taken);
	if (first || off + len > ino->dirty_end)
		ino->dirty_end = off + len;
	if (ino->eof != UINT64_MAX && off + len > ino->eof)
		ino->eof = off + len;
	if (ino->guessed && off + len > (uint64_t)ino->guess.st_size)
		ino->guess.st_size = (off_t)(off + len);
	ino->attr_valid = false; /* until the server has said what the write made of them */
	atomic_fetch_add(&fs->dirty_bytes, within ? 0 : len);
	waits = full && wb_chunk_wait(k, req, len, taken);
	if (waits)
		ino->wb_urgent = true;
	pthread_mutex_unlock(&ino->lock);
	/* k may be gone as soon as it is sent, and the stream when the writer is answered */
	if (first)
		wb_remember(fs, ino);
	if (!waits) { /* before it is sent: he fills the next one while this one is encrypted */
		fuse_reply_write(req, len);
		keep_free(taken);
	}
	wb_kick(fs, ino);
	return true;
}
