// SPDX-License-Identifier: Apache-2.0
/*
 * The records of queued calls (KEEP_OP), so that a kill -9 of spritefs loses nothing that was answered. A call's record is there before the kernel is answered;
 * it goes when the whole batch was answered and what the answer says is in the records of inodes and streams.
 *
 * A batch that was being sent has a record too, with the number it was sent under: it is sent again under that, of the same calls in the same order, and the
 * server answers from its reply cache what it has executed.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "conf/log.h"
#include "fs/client/kept.h"

#define BATCH (1ull << 63)

/* Under dirq.lock. NULL: no room; then it lives as long as we do. */
struct keep *dirq_record(struct call *c, uint64_t number, struct inode **v, int n)
{
	size_t len = protobuf_c_message_get_packed_size(c->msg);
	struct keep *k = keep_new(sizeof(struct kept_op) + len);
	struct kept_op *x;
	int i;

	if (!k)
		return NULL;
	x = (struct kept_op *)k->data;
	*x = (struct kept_op){.op = c->op, .len = (uint32_t)len, .ino = c->ino->id, .ino2 = c->ino2 ? c->ino2->id : 0,
		.child = c->child ? c->child->id : 0, .fh = c->st ? c->st->fh : 0, .lease = c->lease, .unique = c->unique, .chunk = c->chunk_key};
	for (i = 0; i < n; i++)
		x->changes[i] = v[i]->id;
	protobuf_c_message_pack(c->msg, x->msg);
	keep_commit(k, KEEP_OP, number);
	return k;
}

bool dirq_made(struct fs *fs, uint64_t unique)
{
	bool r;

	pthread_mutex_lock(&fs->stream_lock);
	r = fs->old_ops.count && hash_get_u64(&fs->old_ops, unique);
	pthread_mutex_unlock(&fs->stream_lock);
	return r;
}

bool dirq_was(struct fs *fs, uint64_t unique, struct kept_op *x)
{
	struct kept_op *old;

	pthread_mutex_lock(&fs->stream_lock);
	old = fs->old_ops.count ? hash_take_u64(&fs->old_ops, unique) : NULL;
	pthread_mutex_unlock(&fs->stream_lock);
	if (!old)
		return false;
	*x = *old;
	free(old);
	return true;
}

/* ---- a later spritefs */

static void parts_find(struct call *c)
{
	switch (c->op) {
	case FS_CREATE:
		c->handle = &c->m.create.dir;
		break;
	case FS_REMOVE:
		c->handle = &c->m.remove.dir;
		break;
	case FS_RENAME:
		c->handle = &c->m.rename.dir;
		c->handle2 = &c->m.rename.to_dir;
		break;
	case FS_SETATTR:
		c->handle = &c->m.setattr.handle;
		break;
	case FS_WRITE:
		c->handle = &c->m.write.handle;
		c->open = &c->m.write.open;
		break;
	default:
		c->open = &c->m.close.open;
		break;
	}
}

static struct call *call_resume(struct fs *fs, struct keep *k)
{
	struct kept_op *x = (struct kept_op *)k->data;
	struct inode *ino = inode_find(fs, x->ino), *at;
	ProtobufCMessage *m = protobuf_c_message_unpack(fs_methods[x->op].in, NULL, x->len, x->msg);
	struct call *c;
	int i;

	if (!ino || !m || !ino->dom || !ino->dom->server)
		return NULL;
	c = call_new(fs, NULL, (enum fs_op)x->op, ino, here_done((enum fs_op)x->op));
	if (!c)
		abort();
	memcpy(&c->m, m, m->descriptor->sizeof_message);
	c->unpacked = m;
	c->msg = (ProtobufCMessage *)&c->m;
	parts_find(c);
	c->ino2 = x->ino2 ? inode_find(fs, x->ino2) : NULL;
	c->child = x->child ? inode_find(fs, x->child) : NULL;
	c->st = x->fh ? stream_at(fs, x->fh) : NULL;
	if (c->st)
		stream_hold(c->st);
	if (c->st && c->op == FS_CLOSE)
		c->st->closes = true;
	if (c->child)
		c->child->stillborn = 0;
	if ((c->op == FS_CREATE && (!c->child || !c->st)) || (c->open && !c->st) || (c->op == FS_RENAME && !c->ino2)) {
		log_error("%s: a change made here is lost: what it is about is not known any more", c->dom->prefix);
		call_drop(c);
		return NULL;
	}
	if (c->op == FS_WRITE)
		wb_resume_queued(c, x->chunk); /* or its bytes are at the server */
	for (i = 0; i < 4; i++) {
		at = x->changes[i] ? inode_find(fs, x->changes[i]) : NULL;
		if (!at)
			continue;
		at->pend = k->key;
		inode_put(fs, at);
	}
	return c;
}

/* Of a batch that was being sent. One that was answered has had its calls done: dirq_resume_begin(). */
static void batch_resume(struct fs *fs, struct keep *k)
{
	struct kept_op *x = (struct kept_op *)k->data;
	struct server *s = NULL, *each;
	struct call *c;
	unsigned n = 0;

	list_each(each, &fs->servers, link)
		if (each->index == x->server)
			s = each;
	if (s && !x->done)
		list_each(c, &s->q.queue, link) {
			if (!n && c->number != (k->key & ~BATCH))
				continue;
			s->q.again_last = c->number;
			if (++n == x->n)
				break;
		}
	if (n && x->seq && n == x->n) {
		rpc_seq_hold(x->seq);
		s->q.again_seq = x->seq;
		s->q.again_keep = k; /* until it is answered: we may be killed before it is sent again */
		return;
	}
	if (n)
		s->q.again_last = 0;
	keep_free(k);
}

static void done_note(void *arg, struct keep *k)
{
	const struct kept_op *x = (const struct kept_op *)k->data;
	struct fs *fs = arg;
	struct server *s;

	if (!(k->key & BATCH) || !x->done)
		return;
	if (x->done > atomic_load(&fs->numbers))
		atomic_store(&fs->numbers, x->done);
	list_each(s, &fs->servers, link)
		if (s->index == x->server && x->done > atomic_load(&s->q.done))
			atomic_store(&s->q.done, x->done);
}

void dirq_resume_begin(struct fs *fs)
{
	keep_each(KEEP_OP, done_note, fs);
}

/* Was it part of a batch that was answered? */
static bool op_done(struct fs *fs, const struct keep *k)
{
	struct inode *ino = inode_find(fs, ((const struct kept_op *)k->data)->ino);
	struct server *s = ino && ino->dom ? ino->dom->server : NULL;
	bool done = s && k->key <= atomic_load(&s->q.done);

	if (ino)
		inode_put(fs, ino);
	return done;
}

void dirq_resume(struct fs *fs, struct keep *k)
{
	struct kept_op *x = (struct kept_op *)k->data, *copy;
	struct call *c;

	if (k->key & BATCH) {
		batch_resume(fs, k);
		return;
	}
	if (x->unique && (copy = malloc(sizeof(*copy)))) {
		*copy = *x;
		if (hash_set_u64(&fs->old_ops, x->unique, copy, NULL) < 0)
			free(copy);
	}
	c = op_done(fs, k) ? NULL : call_resume(fs, k);
	if (!c) {
		keep_free(k);
		return;
	}
	if (k->key > atomic_load(&fs->numbers))
		atomic_store(&fs->numbers, k->key);
	c->keep = k;
	c->queued = true;
	c->lease = x->lease;
	c->state = CALL_QUEUED;
	c->number = c->dom->server->q.last = k->key;
	list_add_tail(&c->dom->server->q.queue, &c->link);
	c->dom->server->q.n++;
}
