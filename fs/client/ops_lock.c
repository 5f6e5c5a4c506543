// SPDX-License-Identifier: Apache-2.0
/*
 * flock, fcntl and OFD locks: the server's tables decide, nothing is kept here but who has used a stream, for unlocking at its end.
 * FUSE does not tell an OFD lock from a process's: the owner is the kernel's id of the file description or of the process's table of files,
 * so that both live in one space of owners. A lock that waits is ended by the server when its waiter is interrupted (call.c).
 *
 * In home domains, where no lease keeps what the kernel has of a file true, who has got a lock reads what was written before: the pages go first. By threads of their own,
 * since that waits for READs under way, whose answers come by the thread that brings ours; several, since a server that is away may hold one up.
 */
#include "fs/client/client.h"
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>

/*
 * close(2) of a file with a flock has returned before the kernel's RELEASE reaches us, yet the next flock(2) must find it free: it waits here
 * until the server has answered the close. The RELEASE comes before it, but another thread may have read it and not have said so yet: who would be
 * refused for a lock of this node looks for that first.
 */
void ops_unlock_begin(struct inode *ino)
{
	pthread_mutex_lock(&ino->lock);
	ino->unlocking++;
	pthread_mutex_unlock(&ino->lock);
}

void ops_unlock_end(struct inode *ino)
{
	struct list ready, *l;

	list_init(&ready);
	pthread_mutex_lock(&ino->lock);
	if (--ino->unlocking == 0)
		list_splice_tail(&ready, &ino->unlock_waiters);
	pthread_mutex_unlock(&ino->lock);
	while ((l = list_pop(&ready)))
		call_submit(list_entry(l, struct call, link));
}

struct rival {
	const Sprite__Fs__LockReq *m;
	bool stands;
};

static void rival_look(void *arg, const struct held_lock *h)
{
	struct rival *r = arg;
	const Sprite__Fs__LockReq *m = r->m;

	r->stands |= h->owner != m->owner && h->flock == m->flock && h->start <= m->end && m->start <= h->end && (h->type == F_WRLCK || m->type == F_WRLCK);
}

struct own {
	const Sprite__Fs__LockReq *m;
	bool covers;
};

static void own_look(void *arg, const struct held_lock *h)
{
	struct own *o = arg;

	o->covers |= h->owner == o->m->owner && h->flock == o->m->flock && h->type == F_WRLCK && h->start <= o->m->start && h->end >= o->m->end;
}

/* Is nothing asked for but to let go, or to hold on for reading alone to what is held for writing? */
static bool weakens(struct inode *ino, const Sprite__Fs__LockReq *m)
{
	struct own o = {.m = m};

	if (m->type != F_RDLCK)
		return m->type == F_UNLCK;
	pthread_mutex_lock(&ino->lock);
	recover_locks_each(ino, own_look, &o);
	pthread_mutex_unlock(&ino->lock);
	return o.covers;
}

static void lock_submit(struct call *c)
{
	const Sprite__Fs__LockReq *m = &c->m.lock;
	struct rival r = {.m = m};
	bool wait;

	if (!m->test && weakens(c->ino, m)) /* from now on another may have it: not to be reclaimed if the server dies before we have its answer */
		recover_note_lock(c->ino, m->owner, m->flock, m->type, m->start, m->end, m->pid, c->st);
	if (c->m.lock.type != F_UNLCK && !c->m.lock.wait) {
		pthread_mutex_lock(&c->ino->lock);
		recover_locks_each(c->ino, rival_look, &r);
		pthread_mutex_unlock(&c->ino->lock);
		if (r.stands)
			session_settle_releases();
	}
	pthread_mutex_lock(&c->ino->lock);
	wait = c->ino->unlocking && c->m.lock.type != F_UNLCK;
	if (wait)
		list_add_tail(&c->ino->unlock_waiters, &c->link);
	pthread_mutex_unlock(&c->ino->lock);
	if (!wait)
		call_submit(c);
}

static void lock_range(struct call *c, const struct flock *l)
{
	c->m.lock.start = (uint64_t)l->l_start;
	c->m.lock.end = l->l_len ? (uint64_t)(l->l_start + l->l_len - 1) : INT64_MAX;
}

static struct call *lock_new(fuse_req_t req, fuse_ino_t id, struct fuse_file_info *fi, call_done done)
{
	struct fs *fs = fuse_req_userdata(req);
	struct call *c = call_new(fs, req, FS_LOCK, inode_get(fs, id), done);

	if (!c)
		return NULL;
	c->handle = &c->m.lock.handle;
	call_stream(c, stream_at(fs, fi->fh), &c->m.lock.open);
	c->m.lock.owner = fi->lock_owner;
	if (c->st->claimed || c->st->offered)
		c->m.lock.token = (ProtobufCBinaryData){HAND_TOKEN, memcpy(call_alloc(c, HAND_TOKEN), c->st->token, HAND_TOKEN)};
	return c;
}

static void getlk_done(struct call *c, int err, struct rpc_msg *out)
{
	Sprite__Fs__LockRep *rep;
	struct flock l = {.l_whence = SEEK_SET};

	if (err) {
		fuse_reply_err(c->req, err);
		return;
	}
	rep = (Sprite__Fs__LockRep *)out->msg;
	l.l_type = (short)rep->type;
	l.l_start = (off_t)rep->start;
	l.l_len = rep->end >= INT64_MAX ? 0 : (off_t)(rep->end - rep->start + 1);
	l.l_pid = (pid_t)rep->pid;
	fuse_reply_lock(c->req, &l);
}

/* The description's own owner, see SPRITE_OWNER_AT. */
static void owner_known(struct stream *st, uint64_t owner)
{
	pthread_mutex_lock(&st->ino->lock);
	if (st->flock_owner != owner) {
		st->flock_owner = owner;
		stream_changed(st);
	}
	pthread_mutex_unlock(&st->ino->lock);
}

static void op_getlk(fuse_req_t req, fuse_ino_t id, struct fuse_file_info *fi, struct flock *l)
{
	struct call *c;

	if (l->l_start == SPRITE_OWNER_AT && l->l_len == 1 && fuse_req_ctx(req)->uid == 0) {
		owner_known(stream_at(fuse_req_userdata(req), fi->fh), fi->lock_owner);
		l->l_type = F_UNLCK;
		fuse_reply_lock(req, l);
		return;
	}
	c = lock_new(req, id, fi, getlk_done);
	if (!c)
		return;
	lock_range(c, l);
	c->m.lock.type = (uint32_t)l->l_type;
	c->m.lock.pid = (uint32_t)l->l_pid;
	c->m.lock.test = true;
	lock_submit(c);
}

enum { GOT_THREADS_MAX = 64 };

/* A lock that was granted, before its asker is told. */
struct got {
	struct list link;
	struct fs *fs;
	struct inode *ino; /* counted */
	fuse_req_t req;
	int fd;
};
static pthread_mutex_t got_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t got_more = PTHREAD_COND_INITIALIZER;
static struct list got_list = LIST_INIT(got_list); /* got_lock */
static unsigned got_threads, got_idle, got_queued;    /* got_lock */

static void *got_main(void *arg)
{
	struct got *g;

	pthread_setname_np(pthread_self(), "locks");
	pthread_mutex_lock(&got_lock);
	for (;;) {
		got_idle++;
		while (list_empty(&got_list))
			pthread_cond_wait(&got_more, &got_lock);
		got_idle--;
		g = list_entry(list_pop(&got_list), struct got, link);
		got_queued--;
		pthread_mutex_unlock(&got_lock);
		fuse_lowlevel_notify_inval_inode(g->fs->se, g->ino->id, 0, 0);
		session_reply_on(g->fd);
		fuse_reply_err(g->req, 0);
		inode_put(g->fs, g->ino);
		free(g);
		pthread_mutex_lock(&got_lock);
	}
	return arg;
}

/* False: there is no memory, or no thread, for it. */
static bool got_tell(struct call *c)
{
	struct got *g = malloc(sizeof(*g));
	pthread_t t;
	bool told;

	pthread_mutex_lock(&got_lock);
	if (got_queued >= got_idle && got_threads < GOT_THREADS_MAX && pthread_create(&t, NULL, got_main, NULL) == 0) {
		pthread_detach(t);
		got_threads++;
	}
	told = g && got_threads;
	if (told) {
		*g = (struct got){.fs = c->fs, .ino = inode_hold(c->fs, c->ino), .req = c->req, .fd = c->fd};
		list_add_tail(&got_list, &g->link);
		got_queued++;
		pthread_cond_signal(&got_more);
	}
	pthread_mutex_unlock(&got_lock);
	if (!told)
		free(g);
	return told;
}

static void setlk_done(struct call *c, int err, struct rpc_msg *out)
{
	const Sprite__Fs__LockReq *m = &c->m.lock;

	(void)out;
	if (!err && m->type != F_UNLCK)
		recover_note_lock(c->ino, m->owner, m->flock, m->type, m->start, m->end, m->pid, c->st);
	if (!err && m->type != F_UNLCK && c->dom->home && got_tell(c))
		return;
	fuse_reply_err(c->req, err);
}

static void op_setlk(fuse_req_t req, fuse_ino_t id, struct fuse_file_info *fi, struct flock *l, int sleep)
{
	struct call *c = lock_new(req, id, fi, setlk_done);

	if (!c)
		return;
	lock_range(c, l);
	c->m.lock.type = (uint32_t)l->l_type;
	c->m.lock.pid = (uint32_t)l->l_pid;
	if (l->l_type != F_UNLCK) {
		stream_owner_add(c->st, fi->lock_owner);
		c->m.lock.wait = c->waits = sleep;
		c->m.lock.ticket = atomic_fetch_add(&keep_head()->next_ticket, 1) + 1;
	}
	lock_submit(c);
}

static void op_flock(fuse_req_t req, fuse_ino_t id, struct fuse_file_info *fi, int op)
{
	struct call *c = lock_new(req, id, fi, setlk_done);

	if (!c)
		return;
	c->m.lock.flock = true;
	c->m.lock.end = INT64_MAX;
	c->m.lock.pid = (uint32_t)fuse_req_ctx(req)->pid;
	c->m.lock.type = (op & LOCK_UN) ? F_UNLCK : (op & LOCK_EX) ? F_WRLCK : F_RDLCK;
	if (!(op & LOCK_UN)) {
		owner_known(c->st, fi->lock_owner);
		c->m.lock.wait = c->waits = !(op & LOCK_NB);
		c->m.lock.ticket = atomic_fetch_add(&keep_head()->next_ticket, 1) + 1;
	}
	lock_submit(c);
}

/* Drops all fcntl locks of an owner on a file; answers `req` (0, close(2) does not fail for that) when there is one. Takes over the reference. */
static void unlocked(struct call *c, int err, struct rpc_msg *out)
{
	(void)err;
	(void)out;
	if (c->req)
		fuse_reply_err(c->req, 0);
	else
		ops_unlock_end(c->ino);
}

void ops_unlock_owner(struct fs *fs, struct inode *ino, uint64_t owner, fuse_req_t req)
{
	struct call *c = call_new(fs, req, FS_LOCK, ino, unlocked);

	if (!c)
		return;
	c->handle = &c->m.lock.handle;
	c->m.lock.open = inode_any_open(ino);
	c->m.lock.owner = owner;
	c->m.lock.type = F_UNLCK;
	c->m.lock.end = INT64_MAX;
	if (!req)
		ops_unlock_begin(ino);
	recover_note_lock(ino, owner, false, F_UNLCK, 0, INT64_MAX, 0, NULL);
	call_submit(c);
}

void ops_lock(struct fuse_lowlevel_ops *ops)
{
	ops->getlk = op_getlk;
	ops->setlk = op_setlk;
	ops->flock = op_flock;
}
