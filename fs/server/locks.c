/* SPDX-License-Identifier: Apache-2.0 */
/*
 * flock and fcntl for the whole cluster: the two lock tables, and the requests that wait in them. A waiting request keeps its op and is answered by
 * whoever frees what it waits for, by a cancel (EINTR), or when its client goes (ESTALE, into the void). In home domains the kernel decides, where the file is on a local filesystem: lock_home.c.
 *
 * Locking: locks.lock guards both tables. Answers are sent after it was released.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include "conf/fault.h"
#include "fs/server/hand.h"
#include "fs/server/locks_int.h"

int locks_start(struct fsd *d)
{
	d->locks = calloc(1, sizeof(*d->locks));
	if (!d->locks)
		return -ENOMEM;
	pthread_mutex_init(&d->locks->lock, NULL);
	lock_table_init(&d->locks->fcntl, false);
	lock_table_init(&d->locks->flock, true);
	d->locks->fcntl.account_max = d->locks->flock.account_max = CLIENT_MAX_LOCKS;
	return homes_start(d->locks, d->conf->run_dir);
}

void locks_stop(struct fsd *d)
{
	if (!d->locks)
		return;
	homes_stop(d->locks);
	lock_table_clear(&d->locks->fcntl);
	lock_table_clear(&d->locks->flock);
	pthread_mutex_destroy(&d->locks->lock);
	free(d->locks);
	d->locks = NULL;
}

void parked_answer(struct parked *p, int err)
{
	Sprite__Fs__LockRep rep = SPRITE__FS__LOCK_REP__INIT;

	atomic_fetch_sub(&p->o->client->nwaiting, 1);
	atomic_fetch_sub(&p->o->client->host->waiting, 1);
	if (err)
		op_fail(p->o, err);
	else
		op_done(p->o, &rep.base);
	free(p);
}

static void answer_all(struct list *l, int err)
{
	struct list *n;

	while ((n = list_pop(l)))
		parked_answer(container_of(list_entry(n, struct lock_waiter, in_object), struct parked, w), err);
}

static void lock_cancelled(void *arg)
{
	struct parked *p = arg;
	struct locks *l = p->d->locks;
	bool mine = false;

	pthread_mutex_lock(&l->lock);
	if (p->parked && p->n) {
		home_forget(l, p);
		mine = true;
	} else if (p->parked && p->w.object) {
		lock_forget(p->t, &p->w);
		mine = true;
	} else if (!p->parked) {
		p->cancelled = true;
	}
	pthread_mutex_unlock(&l->lock);
	if (mine)
		parked_answer(p, EINTR);
}

/* Only fcntl and flock calls of clients with room for more wait. */
int parked_new(struct op *o, struct lock_table *t, uint64_t ticket, struct parked **out)
{
	struct parked *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	atomic_fetch_add(&o->client->nwaiting, 1);
	if (atomic_fetch_add(&o->client->host->waiting, 1) >= CLIENT_MAX_WAITING) {
		atomic_fetch_sub(&o->client->nwaiting, 1);
		atomic_fetch_sub(&o->client->host->waiting, 1);
		free(p);
		return -ENOLCK;
	}
	p->o = o;
	p->d = o->d;
	p->t = t;
	p->w.ticket = ticket;
	*out = p;
	rpc_request_on_cancel(o->rq, lock_cancelled, p);
	return 0;
}

/* Waits for the lock; the op is answered later. */
static int lock_wait(struct op *o, struct lock_table *t, const Sprite__Fs__LockReq *in, const struct lock_range *want,
	struct list *granted)
{
	struct locks *l = o->d->locks;
	struct parked *p;
	int r = parked_new(o, t, in->ticket, &p);

	if (r < 0)
		return r;
	pthread_mutex_lock(&l->lock);
	r = atomic_load(&o->client->gone) ? -ESTALE :
	    p->cancelled		  ? -EINTR :
					    lock_take(t, in->handle.data, in->handle.len, want, &p->w, granted);
	p->parked = r == -EINPROGRESS;
	pthread_mutex_unlock(&l->lock);
	if (r == -EINPROGRESS)
		return OP_LATER; /* p and o may be gone by now */
	parked_answer(p, -r); /* also when r is 0: the frame must not touch p after the answer */
	return OP_LATER;
}

static int lock_set(struct op *o, struct lock_table *t, const Sprite__Fs__LockReq *in, const struct lock_range *range)
{
	Sprite__Fs__LockRep rep = SPRITE__FS__LOCK_REP__INIT;
	struct list granted = LIST_INIT(granted);
	struct locks *l = o->d->locks;
	int r;

	if (in->wait && in->type != F_UNLCK) {
		r = lock_wait(o, t, in, range, &granted);
		answer_all(&granted, 0);
		return r;
	}
	pthread_mutex_lock(&l->lock);
	if (in->type == F_UNLCK)
		r = lock_drop(t, in->handle.data, in->handle.len, range->who, range->start, range->end, &granted);
	else if (atomic_load(&o->client->gone))
		r = -ESTALE;
	else
		r = lock_take(t, in->handle.data, in->handle.len, range, NULL, &granted);
	if (r == 0 && !in->reclaim)
		lock_yield(t, in->handle.data, in->handle.len, range->who, in->type == F_UNLCK ? NULL : &range->type, range->start, range->end, range->mark, &granted);
	pthread_mutex_unlock(&l->lock);
	answer_all(&granted, 0);
	if (in->type == F_UNLCK)
		fault_point("lock-dropped");
	return r < 0 ? r : op_done(o, &rep.base);
}

static int lock_query(struct op *o, struct lock_table *t, const Sprite__Fs__LockReq *in, const struct lock_range *range)
{
	Sprite__Fs__LockRep rep = SPRITE__FS__LOCK_REP__INIT;
	struct lock_range other;
	bool found;

	pthread_mutex_lock(&o->d->locks->lock);
	found = lock_test(t, in->handle.data, in->handle.len, range, &other);
	pthread_mutex_unlock(&o->d->locks->lock);
	rep.type = F_UNLCK;
	if (found) {
		rep.type = other.type == RANGE_WRITE ? F_WRLCK : F_RDLCK;
		rep.start = (uint64_t)other.start;
		rep.end = (uint64_t)other.end;
		rep.pid = other.who.client == o->client->id ? other.pid : 0; /* a pid of another host means nothing here */
	}
	return op_done(o, &rep.base);
}

static int lock_cancel(struct op *o, struct lock_table *t, const Sprite__Fs__LockReq *in, struct lock_owner who)
{
	Sprite__Fs__LockRep rep = SPRITE__FS__LOCK_REP__INIT;
	struct lock_waiter *w;
	struct parked *p;

	pthread_mutex_lock(&o->d->locks->lock);
	p = home_waiter(o->d->locks, who, in->ticket);
	w = p ? NULL : lock_find_waiter(t, who, in->ticket);
	if (p)
		home_forget(o->d->locks, p);
	if (w)
		lock_forget(t, w);
	pthread_mutex_unlock(&o->d->locks->lock);
	if (w || p)
		parked_answer(p ? p : container_of(w, struct parked, w), EINTR);
	return op_done(o, &rep.base);
}

/* Elsewhere the home's kernel may have to ask another host: the table is for those, as everywhere but at home. */
static bool by_kernel(struct op *o, const struct lock_table *t, struct export *ex, const struct handle *h, const Sprite__Fs__LockReq *in, struct lock_owner who)
{
	if (!ex->conf->home)
		return false;
	home_claim(o->d->locks, o->client);
	if (in->type == F_UNLCK && !in->test) /* the mount may be gone */
		return home_has(o->d->locks, t, in, who);
	return export_is_local(ex, h);
}

int op_lock(struct op *o, const ProtobufCMessage *m)
{
	const Sprite__Fs__LockReq *in = (const void *)m;
	struct lock_table *t = in->flock ? &o->d->locks->flock : &o->d->locks->fcntl;
	struct lock_range range = {.who = {o->client->id, in->owner}, .pid = in->pid, .account = &o->client->host->locks};
	struct export *ex;
	struct handle h;
	int r = export_unpack(&o->d->exports, in->handle.data, in->handle.len, &h, &ex);

	if (r == 0)
		r = op_resolve_allowed(o, ex);
	if (r < 0)
		return r;
	if (in->cancel)
		return lock_cancel(o, t, in, range.who);
	if (in->type != F_RDLCK && in->type != F_WRLCK && in->type != F_UNLCK)
		return -EINVAL;
	range.type = in->type == F_WRLCK ? RANGE_WRITE : RANGE_READ;
	range.start = in->flock ? 0 : (int64_t)in->start;
	range.end = in->flock || in->end > INT64_MAX ? LOCK_EOF : (int64_t)in->end;
	if (range.start < 0 || range.end < range.start)
		return -EINVAL;
	if (by_kernel(o, t, ex, &h, in, range.who))
		return in->test ? home_test(o, t, in, &range) : home_lock(o, t, in, &range);
	if (in->token.len)
		range.mark = hand_mark(o->d, in->token, in->reclaim);
	return in->test ? lock_query(o, t, in, &range) : lock_set(o, t, in, &range);
}

void locks_mark(struct fsd *d, const struct open *f, const Sprite__Fs__HandReq *in, uint64_t mark)
{
	size_t i;

	pthread_mutex_lock(&d->locks->lock);
	for (i = 0; i < in->n_owners; i++) {
		struct lock_owner who = {f->client->id, in->owners[i]};
		int64_t end = in->ends[i] > INT64_MAX ? LOCK_EOF : (int64_t)in->ends[i];

		if (in->starts[i] > INT64_MAX)
			continue;
		lock_mark(&d->locks->flock, f->handle, f->handle_len, who, (int64_t)in->starts[i], end, mark);
		lock_mark(&d->locks->fcntl, f->handle, f->handle_len, who, (int64_t)in->starts[i], end, mark);
	}
	pthread_mutex_unlock(&d->locks->lock);
}

void locks_drop_flock(struct fsd *d, const struct open *f, uint64_t owner)
{
	struct lock_owner who = {f->client->id, owner};
	struct list granted = LIST_INIT(granted);

	if (f->ex->conf->home)
		home_claim(d->locks, f->client);
	pthread_mutex_lock(&d->locks->lock);
	lock_drop(&d->locks->flock, f->handle, f->handle_len, who, 0, LOCK_EOF, &granted);
	lock_drop(&d->locks->fcntl, f->handle, f->handle_len, who, 0, LOCK_EOF, &granted); /* OFD locks */
	if (f->ex->conf->home)
		home_drop(d->locks, f->handle, f->handle_len, who);
	pthread_mutex_unlock(&d->locks->lock);
	answer_all(&granted, 0);
}

void locks_drop_client(struct fsd *d, uint64_t client)
{
	struct list granted = LIST_INIT(granted), orphans = LIST_INIT(orphans), home = LIST_INIT(home), *x;

	pthread_mutex_lock(&d->locks->lock);
	lock_drop_client(&d->locks->fcntl, client, &granted, &orphans);
	lock_drop_client(&d->locks->flock, client, &granted, &orphans);
	home_drop_client(d->locks, client, d->stopping, &home);
	pthread_mutex_unlock(&d->locks->lock);
	answer_all(&granted, 0);
	answer_all(&orphans, ESTALE);
	while ((x = list_pop(&home)))
		parked_answer(list_entry(x, struct parked, in_home), ESTALE);
}

bool locks_in_the_way(struct fsd *d, uint64_t client)
{
	bool r;

	pthread_mutex_lock(&d->locks->lock);
	r = lock_blocks(&d->locks->fcntl, client) || lock_blocks(&d->locks->flock, client) || home_in_the_way(d->locks, client);
	pthread_mutex_unlock(&d->locks->lock);
	return r;
}

void locks_settle(struct fsd *d)
{
	homes_settle(d->locks);
}

void locks_tick(struct fsd *d)
{
	pthread_mutex_lock(&d->locks->lock);
	lock_keep_tick(d->locks);
	pthread_mutex_unlock(&d->locks->lock);
}

void locks_count(struct fsd *d, size_t *held, size_t *waiting)
{
	pthread_mutex_lock(&d->locks->lock);
	*held = d->locks->fcntl.nheld + d->locks->flock.nheld;
	*waiting = d->locks->fcntl.nwaiting + d->locks->flock.nwaiting;
	pthread_mutex_unlock(&d->locks->lock);
}
