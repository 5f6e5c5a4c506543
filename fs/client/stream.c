// SPDX-License-Identifier: Apache-2.0
/*
 * Open file descriptions. The kernel knows one by the number fi->fh, the server by `open`.
 *
 * A server that was restarted answers FS_EREOPEN to an open id of its former life. Then the first call that hears of it opens the handle again
 * (reclaim: without a permission check, which was passed once), the others wait in stream.waiters; all are sent again with the new id.
 */
#include "fs/client/client.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include "conf/clock.h"
#include "conf/fault.h"
#include "conf/log.h"
#include "fs/client/kept.h"


/* Takes over a reference of ino. open 0: open here only. */
struct stream *stream_new(struct fs *fs, struct inode *ino, uint64_t open, int flags, bool dir, const struct fuse_ctx *who)
{
	struct stream *st = calloc(1, sizeof(*st));

	if (!st)
		return NULL;
	pthread_mutex_lock(&fs->stream_lock);
	st->fh = atomic_fetch_add(&keep_head()->next_fh, 1) + 1;
	if (hash_set_u64(&fs->by_fh, st->fh, st, NULL) < 0) {
		pthread_mutex_unlock(&fs->stream_lock);
		free(st);
		return NULL;
	}
	pthread_mutex_unlock(&fs->stream_lock);
	st->ino = ino;
	st->open = open;
	st->epoch = ino->dom && ino->dom->server ? ino->dom->server->epoch : 0;
	st->flags = flags;
	st->dir = dir;
	st->uid = who->uid;
	st->gid = who->gid;
	st->refs = 1;
	list_init(&st->waiters);
	list_init(&st->young);
	pthread_mutex_init(&st->lock, NULL);
	pthread_mutex_lock(&ino->lock);
	list_add_tail(&ino->streams, &st->link);
	pthread_mutex_unlock(&ino->lock);
	return st;
}

struct stream *stream_at(struct fs *fs, uint64_t fh)
{
	struct stream *st;

	pthread_mutex_lock(&fs->stream_lock);
	st = hash_get_u64(&fs->by_fh, fh);
	pthread_mutex_unlock(&fs->stream_lock);
	return st;
}

bool stream_has(struct fs *fs, uint64_t open)
{
	struct hash_iter it = {0};
	struct stream *st;

	pthread_mutex_lock(&fs->stream_lock);
	while ((st = hash_next(&fs->by_fh, &it)) && st->open != open)
		;
	pthread_mutex_unlock(&fs->stream_lock);
	return st;
}

/* With inode.lock. Its record anew, from what it is now. */
static void stream_save(struct stream *st, uint64_t told)
{
	struct keep *k = keep_new(sizeof(struct kept_stream) + (st->nowner + st->ngroups) * sizeof(uint64_t));
	struct kept_stream *x;
	size_t i;

	if (!k)
		return;
	x = (struct kept_stream *)k->data;
	*x = (struct kept_stream){.ino = st->ino->id, .open = st->open, .epoch = st->epoch, .unlock_owner = st->unlock_owner, .told = told,
		.flags = st->flags, .uid = st->uid, .gid = st->gid, .ngroups = (uint32_t)st->ngroups, .nowner = st->nowner, .dir = st->dir,
		.direct = st->direct, .caches = st->caches, .released = st->released, .unlock = st->unlock, .flock_owner = st->flock_owner, .expect = st->expect, .at = st->at, .shared = st->shared, .tail = st->tail,
		.claimed = st->claimed, .offered = st->offered, .offer_pos = st->offer_pos};
	memcpy(x->token, st->token, HAND_TOKEN);
	memcpy(x->stream, st->stream, HAND_TOKEN);
	for (i = 0; i < st->nowner; i++)
		x->list[i] = st->owner[i];
	for (i = 0; i < st->ngroups; i++)
		x->list[st->nowner + i] = st->groups[i];
	keep_commit(k, KEEP_STREAM, st->fh);
	keep_free(st->keep);
	st->keep = k;
}

/* With inode.lock. Only what the kernel has been told of is worth a record. */
void stream_changed(struct stream *st)
{
	if (st->keep)
		stream_save(st, ((struct kept_stream *)st->keep->data)->told);
}

uint64_t stream_told(struct stream *st, uint64_t unique)
{
	pthread_mutex_lock(&st->ino->lock);
	stream_save(st, unique);
	pthread_mutex_unlock(&st->ino->lock);
	return st->fh;
}

struct stream *stream_resume(struct fs *fs, struct inode *ino, struct keep *k)
{
	const struct kept_stream *x = (struct kept_stream *)k->data;
	struct stream *st = calloc(1, sizeof(*st));
	size_t i;

	if (!st)
		abort();
	st->fh = k->key;
	st->keep = k;
	st->ino = inode_hold(fs, ino);
	st->open = x->open;
	st->epoch = x->epoch;
	st->flags = x->flags;
	st->uid = x->uid;
	st->gid = x->gid;
	st->dir = x->dir;
	st->direct = x->direct;
	st->caches = x->caches;
	st->released = x->released;
	st->unlock = x->unlock;
	st->unlock_owner = x->unlock_owner;
	st->flock_owner = x->flock_owner;
	st->shared = x->shared;
	st->tail = x->tail;
	st->claimed = x->claimed;
	st->offered = x->offered;
	st->offer_pos = x->offer_pos;
	st->expect = x->expect;
	st->at = x->at;
	memcpy(st->token, x->token, HAND_TOKEN);
	memcpy(st->stream, x->stream, HAND_TOKEN);
	st->nowner = x->nowner;
	st->owner = calloc(x->nowner + 1, sizeof(*st->owner));
	st->ngroups = x->ngroups;
	st->groups = calloc(x->ngroups + 1, sizeof(*st->groups));
	if (!st->owner || !st->groups || hash_set_u64(&fs->by_fh, st->fh, st, NULL) < 0)
		abort();
	for (i = 0; i < x->nowner; i++)
		st->owner[i] = x->list[i];
	for (i = 0; i < x->ngroups; i++)
		st->groups[i] = (uint32_t)x->list[x->nowner + i];
	st->refs = 1 + !st->released; /* ours, and the kernel's */
	list_init(&st->waiters);
	list_init(&st->young);
	pthread_mutex_init(&st->lock, NULL);
	list_add_tail(&ino->streams, &st->link);
	if (!st->open && !st->released && ino->dom)
		atomic_fetch_add(&fs->local_streams, 1);
	return st;
}

void stream_resumed(struct fs *fs, struct stream *st)
{
	bool close_it, young;

	pthread_mutex_lock(&st->ino->lock);
	close_it = st->released && !st->closes && !st->ndirty && st->open;
	st->ino->unlocking += close_it && st->unlock;
	young = !st->released && !st->open && !st->dir && st->ino->dom && st->ino->dom->home;
	pthread_mutex_unlock(&st->ino->lock);
	if (close_it)
		stream_close(fs, st);
	if (young)
		stream_young(fs, st);
	stream_put(fs, st);
}

void stream_untell(struct fs *fs, uint64_t unique)
{
	struct hash_iter it = {0};
	uint64_t open = 0;
	struct stream *st;
	bool asked;

	pthread_mutex_lock(&fs->stream_lock);
	asked = hash_get_u64(&fs->old_calls, unique);
	while ((st = hash_next(&fs->by_fh, &it)))
		if (st->keep && !st->released && ((struct kept_stream *)st->keep->data)->told == unique)
			break;
	pthread_mutex_unlock(&fs->stream_lock);
	if (!st)
		return;
	/* its id at the server is what the call that comes again is answered with: not to be closed. Unless it had been open here only, and a recall came first. */
	pthread_mutex_lock(&st->ino->lock);
	st->released = true;
	if (!st->open && st->ino->dom)
		atomic_fetch_sub(&fs->local_streams, 1);
	open = asked ? 0 : st->open;
	st->open = 0;
	pthread_mutex_unlock(&st->ino->lock);
	if (open)
		stream_close_id(fs, inode_hold(fs, st->ino), open, false, 0);
	stream_put(fs, st);
}

static void *plain_alloc(void *arg, size_t n)
{
	(void)arg;
	return malloc(n);
}

void stream_groups(struct stream *st, const struct fuse_ctx *who)
{
	if (who->uid != 0 && who->pid > 0)
		cred_groups(who->pid, &st->groups, &st->ngroups, plain_alloc, NULL);
}

void stream_hold(struct stream *st)
{
	pthread_mutex_lock(&st->ino->lock);
	st->refs++;
	pthread_mutex_unlock(&st->ino->lock);
}

void stream_put(struct fs *fs, struct stream *st)
{
	struct inode *ino = st->ino;
	bool last;

	pthread_mutex_lock(&ino->lock);
	last = --st->refs == 0;
	if (last)
		list_del(&st->link);
	pthread_mutex_unlock(&ino->lock);
	if (!last)
		return;
	pthread_mutex_lock(&fs->stream_lock);
	hash_take_u64(&fs->by_fh, st->fh);
	pthread_mutex_unlock(&fs->stream_lock);
	keep_free(st->keep);
	pthread_mutex_destroy(&st->lock);
	free(st->owner);
	free(st->groups);
	free(st->page);
	free(st);
	inode_put(fs, ino);
}

void stream_owner_add(struct stream *st, uint64_t owner)
{
	uint64_t *more;
	uint32_t i;

	pthread_mutex_lock(&st->ino->lock);
	for (i = 0; i < st->nowner; i++)
		if (st->owner[i] == owner)
			goto out;
	more = realloc(st->owner, (st->nowner + 1) * sizeof(*more));
	if (more) {
		st->owner = more;
		st->owner[st->nowner++] = owner;
		stream_changed(st);
	}
out:
	pthread_mutex_unlock(&st->ino->lock);
}

bool stream_owner_drop(struct inode *ino, uint64_t owner)
{
	struct stream *st;
	bool found = false;
	uint32_t i;

	pthread_mutex_lock(&ino->lock);
	list_each(st, &ino->streams, link)
		for (i = 0; i < st->nowner; i++)
			if (st->owner[i] == owner) {
				st->owner[i--] = st->owner[--st->nowner];
				stream_changed(st);
				found = true;
			}
	pthread_mutex_unlock(&ino->lock);
	return found;
}

static void unlocked(struct call *c, int err, struct rpc_msg *out)
{
	(void)err;
	(void)out;
	ops_unlock_end(c->ino);
}

/* Of an open that no stream has: by it the next spritefs closes it, if we are killed before the server has. NULL: no room. */
static struct keep *close_record(struct inode *ino, uint64_t open, bool unlock, uint64_t owner)
{
	struct keep *k = keep_new(sizeof(struct kept_stream));

	if (k) {
		*(struct kept_stream *)k->data = (struct kept_stream){.ino = ino->id, .open = open, .epoch = ino->dom->server ? ino->dom->server->epoch : 0, .released = true,
			.unlock = unlock, .unlock_owner = owner};
		keep_commit(k, KEEP_STREAM, atomic_fetch_add(&keep_head()->next_fh, 1) + 1);
	}
	return k;
}

/* With `unlock`: ops_unlock_begin() has been called. */
void stream_close_id(struct fs *fs, struct inode *ino, uint64_t open, bool unlock, uint64_t owner)
{
	struct call *c = call_new(fs, NULL, FS_CLOSE, ino, unlock ? unlocked : NULL);

	if (!c)
		return;
	c->m.close.open = open;
	c->m.close.unlock_flock = unlock;
	c->m.close.flock_owner = owner;
	c->keep = close_record(ino, open, unlock, owner);
	fault_point("spritefs-closes");
	call_submit(c);
}

void stream_close(struct fs *fs, struct stream *st)
{
	struct call *c = call_new(fs, NULL, FS_CLOSE, inode_hold(fs, st->ino), st->unlock ? unlocked : NULL);

	if (!c)
		return;
	c->m.close.open = st->open;
	c->m.close.unlock_flock = st->unlock;
	c->m.close.flock_owner = st->unlock_owner;
	pthread_mutex_lock(&st->ino->lock);
	c->keep = st->keep; /* until the server has closed it */
	st->keep = NULL;
	pthread_mutex_unlock(&st->ino->lock);
	call_submit(c);
}

void stream_opened(struct fs *fs, struct stream *st, uint64_t open, bool local)
{
	bool superfluous;

	pthread_mutex_lock(&st->ino->lock);
	superfluous = (st->released && !st->ndirty) || (local && st->open);
	if (!superfluous) {
		if (!st->open)
			atomic_fetch_sub(&fs->local_streams, 1);
		st->open = open;
		st->epoch = st->ino->dom->server->epoch;
		stream_changed(st);
	}
	pthread_mutex_unlock(&st->ino->lock);
	if (superfluous)
		stream_close_id(fs, inode_hold(fs, st->ino), open, false, 0);
}

void stream_release(struct fs *fs, struct stream *st, bool unlock, uint64_t owner)
{
	bool dirty, stays = false;
	uint64_t open;

	pthread_mutex_lock(&st->ino->lock);
	st->released = true;
	unlock &= st->open != 0;
	st->ino->unlocking += unlock;
	st->unlock = unlock;
	st->unlock_owner = owner;
	open = st->open;
	dirty = st->ndirty;
	if (!open && st->ino->dom)
		atomic_fetch_sub(&fs->local_streams, 1);
	if (open || st->refs > 1) /* who opens it at the server meanwhile has it too: its record may outlive us */
		stream_changed(st);
	pthread_mutex_unlock(&st->ino->lock);
	if (dirty) /* the last chunk closes it */
		wb_flush_start(fs, st->ino);
	else if (open && !unlock && (stays = stream_spare(fs, st)))
		;
	else if (open && !unlock && here_close(fs, st))
		;
	else if (open)
		stream_close(fs, st);
	if (!stays)
		stream_put(fs, st);
	pthread_mutex_lock(&fs->recall_lock);
	pthread_cond_broadcast(&fs->wb_cond);
	pthread_mutex_unlock(&fs->recall_lock);
}

void stream_open_fill(struct stream *st, Sprite__Fs__OpenReq *m, Sprite__Fs__Cred *cred)
{
	m->flags = (uint32_t)(st->flags & ~(O_TRUNC | O_EXCL | O_CREAT));
	m->reclaim = true;
	if (st->shared) {
		m->stream = (ProtobufCBinaryData){HAND_TOKEN, st->stream};
		m->pos = st->at;
	}
	if (st->offered) {
		m->offer = (ProtobufCBinaryData){HAND_TOKEN, st->token};
		m->offer_pos = st->offer_pos;
	}
	cred->uid = st->uid;
	cred->gid = st->gid;
	cred->groups = st->groups;
	cred->n_groups = st->ngroups;
	m->cred = cred;
}

static void reopened(struct call *c, int err, struct rpc_msg *out)
{
	struct stream *st = (struct stream *)c->fi.fh;

	if (!err)
		stream_opened(c->fs, st, ((Sprite__Fs__OpenRep *)out->msg)->open, c->flags);
	else
		log_warn("%s: a file open there could not be opened again: %s", c->dom->prefix, strerror(err));
	pthread_mutex_lock(&c->fs->wait_lock);
	st->reopening = false;
	pthread_mutex_unlock(&c->fs->wait_lock);
	call_release_waiters(c->fs, &st->waiters, err);
	stream_put(c->fs, st);
}

void stream_open_start(struct fs *fs, struct stream *st, call_done done, void *arg)
{
	struct call *k = call_new(fs, NULL, FS_OPEN, inode_hold(fs, st->ino), done);

	if (!k)
		abort();
	k->handle = &k->m.open.handle;
	stream_open_fill(st, &k->m.open, &k->cred);
	k->fi.fh = (uint64_t)st;
	k->flags = !st->open; /* local */
	k->arg = arg;
	call_submit(k);
}

void stream_reopen(struct call *c)
{
	struct fs *fs = c->fs;
	struct stream *st = c->st;
	bool start = false, resend = false;

	/* With two streams: the one that is open here only; else first one, then (after the next refusal) the other. */
	if (c->st2 && c->st->open && (!c->st2->open || (c->tries & 1)))
		st = c->st2;
	pthread_mutex_lock(&fs->wait_lock);
	c->tries++;
	if (!c->st2 && *c->open != st->open) {
		resend = true;
	} else {
		start = !st->reopening;
		st->reopening = true;
	}
	if (!resend) {
		c->state = CALL_PARKED;
		list_move_tail(&st->waiters, &c->link);
	} else {
		c->state = CALL_RETRY;
		c->retry_at = 0;
		list_move_tail(&fs->retry, &c->link);
		pthread_cond_signal(&fs->wait_cond);
	}
	if (start) /* c may be gone as soon as the lock is released */
		stream_hold(st);
	pthread_mutex_unlock(&fs->wait_lock);
	if (start)
		stream_open_start(fs, st, reopened, NULL);
}

/* The next stream whose id is of another life of the server, after the `skip` first ones; with a reference. */
static struct stream *next_old(struct inode *ino, uint64_t epoch, unsigned skip)
{
	struct stream *st, *found = NULL;

	pthread_mutex_lock(&ino->lock);
	list_each(st, &ino->streams, link)
		if (st->open && st->open != STREAM_UNBORN && (!st->released || st->ndirty) && st->epoch != epoch && !skip--) {
			st->refs++;
			found = st;
			break;
		}
	pthread_mutex_unlock(&ino->lock);
	return found;
}

int stream_open_again(struct fs *fs, struct server *s, struct inode *ino, uint64_t epoch)
{
	struct stream *st;
	unsigned failed = 0;
	int r = 0;

	while (r == 0 && (st = next_old(ino, epoch, failed))) {
		Sprite__Fs__OpenReq m = SPRITE__FS__OPEN_REQ__INIT;
		Sprite__Fs__Cred cred = SPRITE__FS__CRED__INIT;
		struct rpc_msg out;
		struct keep *note;

		stream_open_fill(st, &m, &cred);
		m.handle = (ProtobufCBinaryData){.len = ino->handle_len, .data = ino->handle};
		note = call_note_open(ino->dom);
		r = rpc_call(s->meta, &fs_methods[FS_OPEN], &m.base, NULL, 0, 5000, &out);
		if (r == 0 && !out.err) {
			pthread_mutex_lock(&ino->lock);
			st->open = ((Sprite__Fs__OpenRep *)out.msg)->open;
			st->epoch = epoch;
			stream_changed(st);
			pthread_mutex_unlock(&ino->lock);
		} else {
			failed++;
			if (r == 0)
				log_warn("%s: a file open here could not be reclaimed: %s", ino->dom->prefix, strerror(out.err));
		}
		if (r == 0)
			rpc_msg_clear(&out);
		call_note_end(fs, note, r);
		stream_put(fs, st);
	}
	return r;
}
