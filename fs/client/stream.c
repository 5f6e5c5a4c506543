// SPDX-License-Identifier: Apache-2.0
/*
 * Open file descriptions. The kernel's fi->fh is a struct stream; the server knows it by `open`.
 *
 * A server that was restarted answers FS_EREOPEN to an open id of its former life. Then the first call that hears of it opens the handle again
 * (reclaim: without a permission check, which was passed once), the others wait in stream.waiters; all are sent again with the new id.
 */
#include "fs/client/client.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include "conf/log.h"

struct stream *stream_new(struct inode *ino, uint64_t open, int flags, bool dir, const struct fuse_ctx *who)
{
	struct stream *st = calloc(1, sizeof(*st));

	if (!st)
		return NULL;
	st->ino = ino;
	st->open = open;
	st->flags = flags;
	st->dir = dir;
	st->uid = who->uid;
	st->gid = who->gid;
	st->refs = 1;
	list_init(&st->waiters);
	pthread_mutex_init(&st->lock, NULL);
	pthread_mutex_lock(&ino->lock);
	list_add_tail(&ino->streams, &st->link);
	pthread_mutex_unlock(&ino->lock);
	return st;
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
	pthread_mutex_destroy(&st->lock);
	free(st->owner);
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
				found = true;
			}
	pthread_mutex_unlock(&ino->lock);
	return found;
}

static void reopened(struct call *c, int err, struct rpc_msg *out)
{
	struct stream *st = (struct stream *)c->fi.fh;

	if (!err)
		st->open = ((Sprite__Fs__OpenRep *)out->msg)->open;
	else
		log_warn("%s: a file open there could not be opened again after the restart of its server: %s", c->dom->prefix, strerror(err));
	pthread_mutex_lock(&c->fs->wait_lock);
	st->reopening = false;
	pthread_mutex_unlock(&c->fs->wait_lock);
	call_release_waiters(c->fs, &st->waiters, err);
	stream_put(c->fs, st);
}

void stream_reopen(struct call *c)
{
	struct fs *fs = c->fs;
	struct stream *st = c->st;
	struct call *k;
	bool start = false, resend = false;

	/* With two streams: the one that is still as it was sent; when it is not clear, first one, then (after the next refusal) the other. */
	if (c->st2 && (c->tries & 1))
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
	if (!start)
		return;
	k = call_new(fs, NULL, FS_OPEN, inode_hold(fs, st->ino), reopened);
	if (!k) {
		pthread_mutex_lock(&fs->wait_lock);
		st->reopening = false;
		pthread_mutex_unlock(&fs->wait_lock);
		call_release_waiters(fs, &st->waiters, ENOMEM);
		stream_put(fs, st);
		return;
	}
	k->handle = &k->m.open.handle;
	k->m.open.flags = (uint32_t)(st->flags & ~(O_TRUNC | O_EXCL | O_CREAT));
	k->m.open.reclaim = true;
	k->cred.uid = st->uid;
	k->cred.gid = st->gid;
	k->m.open.cred = &k->cred;
	k->fi.fh = (uint64_t)st;
	call_submit(k);
}
