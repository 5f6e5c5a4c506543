// SPDX-License-Identifier: Apache-2.0
/* Attributes that are set at once, under an exclusive lease, and sent later: see ops_here.c. */
#include "fs/client/client.h"
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include "conf/log.h"

#define WRITE SPRITE__FS__LEASE_BITS__LEASE_WRITE

void here_was_set(struct call *c, int err, struct rpc_msg *out)
{
	Sprite__Fs__GetattrRep *rep = err ? NULL : (Sprite__Fs__GetattrRep *)out->msg;

	if (err) {
		log_error("%s: attributes set here are lost: %s", c->dom->prefix, strerror(err));
		pthread_mutex_lock(&c->ino->lock);
		inode_wb_error(c->ino, err);
		pthread_mutex_unlock(&c->ino->lock);
	}
	pthread_mutex_lock(&c->ino->lock);
	if (c->ino->set_call == c)
		c->ino->set_call = NULL;
	pthread_mutex_unlock(&c->ino->lock);
	if (!rep || !rep->attr) {
		lease_forget_attr(c->ino);
		return;
	}
	lease_reply_begin(c->fs);
	lease_keep_attr(c->fs, c->ino, rep->attr, lease_take(c->ino, rep->lease, rep->lease_seq));
	lease_reply_end(c->fs);
}

#define SET_HERE (FS_SET_MODE | FS_SET_UID | FS_SET_GID | FS_SET_ATIME | FS_SET_MTIME | FS_SET_ATIME_NOW | FS_SET_MTIME_NOW)

static void guess_set(struct stat *g, const struct stat *st, int valid)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	if (valid & FS_SET_MODE)
		g->st_mode = (g->st_mode & S_IFMT) | (st->st_mode & 07777);
	if (valid & FS_SET_UID)
		g->st_uid = st->st_uid;
	if (valid & FS_SET_GID)
		g->st_gid = st->st_gid;
	if (valid & (FS_SET_ATIME | FS_SET_ATIME_NOW))
		g->st_atim = valid & FS_SET_ATIME_NOW ? now : st->st_atim;
	if (valid & (FS_SET_MTIME | FS_SET_MTIME_NOW))
		g->st_mtim = valid & FS_SET_MTIME_NOW ? now : st->st_mtim;
}

/* With inode.lock: what it is as far as we know, in ino->guess. */
static bool guess_begin(struct inode *ino)
{
	ino->dir_told = false;
	if (dirq_pending(ino))
		return ino->guessed;
	if (!ino->attr_valid)
		return false;
	ino->guess = ino->attr;
	ino->guessed = true;
	return true;
}

static bool may_set(const struct inode *ino, const struct fuse_ctx *who, int valid)
{
	if (!(ino->lease & WRITE) || ino->setting || !list_empty(&ino->dirty) || ino->nflying != ino->nqueued)
		return false;
	if (!S_ISREG(ino->type) && !(S_ISDIR(ino->type) && ino->attr_known))
		return false;
	/* ids and set-id bits: only for root, whose rights do not depend on the groups that the server sees */
	return who->uid == 0 || (ino->guess.st_uid == who->uid && !(valid & (FS_SET_UID | FS_SET_GID)));
}

/* What is to be set, in addition to what c sets already. */
static void set_fill(struct call *c, const struct stat *st, int valid)
{
	uint32_t old = c->m.setattr.valid;

	if (valid & FS_SET_MODE)
		c->attr.mode = st->st_mode;
	if (valid & FS_SET_UID)
		c->attr.uid = st->st_uid;
	if (valid & FS_SET_GID)
		c->attr.gid = st->st_gid;
	if (valid & (FS_SET_ATIME | FS_SET_ATIME_NOW)) {
		c->attr.atime = st->st_atim.tv_sec * 1000000000ll + st->st_atim.tv_nsec;
		old &= ~(uint32_t)(FS_SET_ATIME | FS_SET_ATIME_NOW);
	}
	if (valid & (FS_SET_MTIME | FS_SET_MTIME_NOW)) {
		c->attr.mtime = st->st_mtim.tv_sec * 1000000000ll + st->st_mtim.tv_nsec;
		old &= ~(uint32_t)(FS_SET_MTIME | FS_SET_MTIME_NOW);
	}
	c->m.setattr.valid = old | ((uint32_t)valid & SET_HERE);
}

/*
 * With inode.lock. What unpacks an archive sets times, owner and mode one after the other: that is one change while the first is not sent yet and nothing else of the file is queued
 * behind it. (The server sets owner, mode, times in that order; an owner set after a mode takes set-id bits away, so that one is not put together.)
 */
static bool set_joins(struct inode *ino, const struct call *c, const struct stat *st, int valid)
{
	struct call *k = ino->set_call;
	struct inode *v[1] = {ino};

	if (!k || k->number != ino->pend || k->cred.uid != c->cred.uid || k->cred.gid != c->cred.gid || k->cred.pid != c->cred.pid ||
		((k->m.setattr.valid & FS_SET_MODE) && (valid & (FS_SET_UID | FS_SET_GID))))
		return false;
	if (!dirq_change_begin(k))
		return false;
	set_fill(k, st, valid);
	dirq_change_end(k, v, 1);
	return true;
}

bool here_setattr(fuse_req_t req, struct inode *ino, const struct stat *st, int valid)
{
	struct fs *fs = fuse_req_userdata(req);
	const struct fuse_ctx *who = fuse_req_ctx(req);
	struct inode *v[1] = {ino};
	struct server *s;
	struct stat guess;
	struct call *c;
	bool done, joined = false;

	/* FUSE says with FH, LOCKOWNER and CTIME nothing that we need */
	if (session_resent() || (valid & FS_SET_SIZE) || !(valid & SET_HERE) || ino->pnode || !dirq_allows(ino, who->uid, who->gid) || !lease_has(ino, WRITE))
		return false;
	s = ino->dom->server;
	if (S_ISREG(ino->type) && wb_dirty(ino)) /* small data goes into the queue, before this */
		wb_flush_start(fs, ino);
	c = here_call(req, FS_SETATTR, ino, here_was_set);
	if (!c)
		return true;
	c->m.setattr.cred = &c->cred;
	c->handle = &c->m.setattr.handle;
	set_fill(c, st, valid);
	c->m.setattr.attr = &c->attr;
	pthread_mutex_lock(&ino->lock);
	done = guess_begin(ino) && may_set(ino, who, valid);
	if (done) {
		guess_set(&ino->guess, st, valid);
		guess = ino->guess;
		joined = set_joins(ino, c, st, valid);
	}
	if (done && !joined) {
		ino->set_call = c;
		dirq_put(c, v, 1);
		ino->set_pend = ino->pend;
	}
	pthread_mutex_unlock(&ino->lock);
	if (!done || joined)
		call_drop(c);
	if (!done)
		return false;
	fuse_reply_attr(req, &guess, 0);
	dirq_kick(s, false);
	return true;
}
