/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Locks in home domains, on local filesystems (mounts.c): the files are a workstation's own, whose processes lock them natively. So the kernel decides there, for guests too: for each owner of locks on a file
 * we have an open file description of our own, and hold by it what that owner holds (flock(2), or OFD locks, which are in the way of those of processes). The tables of lock.h have
 * a copy, for counts and bounds; deadlocks are not looked for. An owner's description is closed when it holds nothing any more.
 *
 * Who waits is tried again, at once when somebody lets go of something by us, else every few ms: the kernel tells nobody that a lock is free who is not in its queue, and a thread there for each
 * could not be called off. While no server runs a child of the last one keeps the descriptions open (lock_keep.c), so that nobody at home is quicker than the clients, who take their locks again: on what
is held for them.
 *
 * Locking: all under locks.lock, lock calls on the home's own files too: none of these waits on a local filesystem. Opens do, for who watches them (fanotify(7)), and are made without it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "fs/server/locks_int.h"

enum { AGAIN_MS = 2, AGAIN_MAX_MS = 20, AGAIN_LATE_MS = 100 };
#define LATE_NS 10000000000ull /* who has waited for so long is tried less often, unless somebody lets go by us */
#define NO_DESCRIPTION 1      /* from native_get(): one is to be opened first */

static struct flock place_of(const struct lock_range *r, short type)
{
	return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = r->start, .l_len = r->end == LOCK_EOF ? 0 : r->end - r->start + 1};
}

/* ---- descriptions */

static struct native *find(const struct locks *l, const struct lock_table *t, const void *handle, size_t len, struct lock_owner who)
{
	struct native *n;

	list_each(n, &l->natives, link)
		if (n->t == t && n->who.client == who.client && n->who.owner == who.owner && n->len == len && !memcmp(n->handle, handle, len))
			return n;
	return NULL;
}

struct native *native_new(struct locks *l, struct lock_table *t, const char *peer, uint64_t epoch, struct lock_owner who, const void *handle, size_t len)
{
	struct native *n = calloc(1, sizeof(*n));

	if (!n)
		return NULL;
	*n = (struct native){.who = who, .epoch = epoch, .peer = strdup(peer), .t = t, .fd = -1, .len = len};
	if (!n->peer) {
		free(n);
		return NULL;
	}
	memcpy(n->handle, handle, len);
	list_add_tail(&l->natives, &n->link);
	return n;
}

/* Forgets it. What it holds is let go of, unless somebody else has the description. */
static void native_close(struct native *n)
{
	list_del(&n->link);
	close(n->fd);
	free(n->peer);
	free(n);
}

static void unlock(const struct native *n, int fd, const struct lock_range *r)
{
	struct flock fl = place_of(r, F_UNLCK);

	if (n->t->whole)
		flock(fd, LOCK_UN);
	else
		fcntl(fd, F_OFD_SETLK, &fl);
}

static const struct lock_range everything = {.end = LOCK_EOF};

static void native_free(struct locks *l, struct native *n)
{
	l->inherited -= n->inherited;
	if (n->held)
		unlock(n, n->fd, &everything);
	lock_keep_drop(l, n);
	native_close(n);
}

/* It may have been the last of what it was for. What the last run held, or the next one is to find, stays. */
static void settle(struct locks *l, struct native *n)
{
	if (!n->waiting && !n->inherited && !(n->held && l->leaving) && !lock_holds(n->t, n->handle, n->len, n->who))
		native_free(l, n);
}

/* An OFD lock wants a descriptor of its own kind; an open for writing is seen by others (inotify(7), ETXTBSY), so only where it is needed. */
static int open_again(int fd, bool write)
{
	char path[40];
	struct stat st;
	int r;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
		return -EINVAL;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	r = open(path, (write ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (r < 0)
		return errno == EWOULDBLOCK ? -ENOLCK : -errno; /* somebody has a lease on it (fcntl(2)): we do not wait for that */
	return r;
}

/* Only what this client has open, for writing if that is locked: the kernel holds the lock against everybody here. */
static int open_for(struct op *o, const Sprite__Fs__LockReq *in, bool write)
{
	_cleanup_object_ struct object obj = OBJECT_INIT;
	int err, fd = -EBADF;
	struct open *f = op_open(o, in->open, &err);
	struct stat st;

	if (!f)
		return in->open ? err : -EBADF;
	err = op_resolve(o, in->handle, &obj);
	if (err < 0)
		fd = err;
	else if ((!write || f->write) && fstat(obj.fd, &st) == 0 && st.st_dev == f->dev && st.st_ino == f->ino)
		fd = open_again(f->fd, write);
	open_put(f);
	return fd;
}

/* Those that are held to read go on being held: they are in nobody's way whom the old description was not in. */
static void replace(struct locks *l, struct native *n, int fd)
{
	struct lock_range r;
	int old = n->fd;

	for (int64_t at = 0; lock_next(n->t, n->handle, n->len, n->who, at, &r); at = r.end + 1) {
		struct flock fl = place_of(&r, F_RDLCK);

		if (fcntl(fd, F_OFD_SETLK, &fl) < 0 || r.end == LOCK_EOF)
			break;
	}
	n->fd = fd;
	n->write = true;
	if (n->held) {
		lock_keep(l, n);
		unlock(n, old, &everything);
	}
	close(old);
}

/* Lock held. *fd: a new description, or -1; -1 afterwards: it was made use of. */
static int native_get(struct locks *l, struct lock_table *t, const struct client *c, const Sprite__Fs__LockReq *in, const struct lock_range *range, int *fd,
	struct native **out)
{
	bool write = !t->whole && range->type == RANGE_WRITE;
	struct native *n = find(l, t, in->handle.data, in->handle.len, range->who);

	*out = n;
	if (n && (!write || n->write))
		return 0;
	if (*fd < 0)
		return NO_DESCRIPTION;
	if (n) {
		replace(l, n, *fd);
	} else {
		n = native_new(l, t, c->peer, c->epoch, range->who, in->handle.data, in->handle.len);
		if (!n)
			return -ENOMEM;
		n->write = write;
		n->fd = *fd;
		*out = n;
	}
	*fd = -1;
	return 0;
}

/* ---- the kernel's locks */

/* Somebody has let go of something. */
static void kick(struct locks *l)
{
	l->kick = true;
	pthread_cond_signal(&l->wake);
}

/* Takes it without waiting, in the kernel and in the table. -EAGAIN: somebody is in the way. */
static int native_take(struct locks *l, struct native *n, const struct lock_range *want)
{
	struct flock fl = place_of(want, want->type == RANGE_WRITE ? F_WRLCK : F_RDLCK);
	struct list granted = LIST_INIT(granted); /* stays empty: nobody waits in the table for such a file */
	int r;

	if (want->account && *want->account >= n->t->account_max)
		return -ENOLCK;
	r = n->t->whole ? flock(n->fd, (want->type == RANGE_WRITE ? LOCK_EX : LOCK_SH) | LOCK_NB) : fcntl(n->fd, F_OFD_SETLK, &fl);
	if (r < 0)
		r = errno == EACCES ? -EAGAIN : -errno;
	if (r == -EAGAIN && n->t->whole && lock_holds(n->t, n->handle, n->len, n->who)) { /* one that is to become another is given up first (flock(2)) */
		lock_drop(n->t, n->handle, n->len, n->who, 0, LOCK_EOF, &granted);
		kick(l);
	}
	if (r == 0)
		r = lock_take(n->t, n->handle, n->len, want, NULL, &granted);
	else
		return r;
	if (r < 0)
		unlock(n, n->fd, want);
	else if (!n->held)
		lock_keep(l, n);
	return r;
}

/* ---- waiting */

/* Those who have come to wait of late are at the end. */
static unsigned next_pause(const struct locks *l, unsigned ms)
{
	unsigned max = clock_mono_ns() - list_entry(l->waiting.prev, struct parked, in_home)->since > LATE_NS ? AGAIN_LATE_MS : AGAIN_MAX_MS;

	return l->kick ? AGAIN_MS : 2 * ms < max ? 2 * ms : max;
}

static void *waiting_main(void *arg)
{
	struct locks *l = arg;
	unsigned ms = AGAIN_MS;

	pthread_mutex_lock(&l->lock);
	while (!l->stop) {
		struct list done = LIST_INIT(done), *x;
		struct timespec until;
		struct parked *p, *next;

		if (list_empty(&l->waiting)) {
			pthread_cond_wait(&l->wake, &l->lock);
			ms = AGAIN_MS;
			continue;
		}
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_nsec += ms * 1000000l;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		if (!l->kick)
			pthread_cond_timedwait(&l->wake, &l->lock, &until);
		if (list_empty(&l->waiting))
			continue;
		ms = next_pause(l, ms);
		l->kick = false;
		list_each_safe(p, next, &l->waiting, in_home) {
			int r = native_take(l, p->n, &p->w.want);

			if (r == -EAGAIN)
				continue;
			home_forget(l, p);
			p->w.ticket = (uint64_t)-r; /* it is of no more use */
			list_add_tail(&done, &p->in_home);
		}
		pthread_mutex_unlock(&l->lock);
		while ((x = list_pop(&done))) {
			p = list_entry(x, struct parked, in_home);
			parked_answer(p, (int)p->w.ticket);
		}
		pthread_mutex_lock(&l->lock);
	}
	pthread_mutex_unlock(&l->lock);
	return NULL;
}

/* Lock held. */
static int park(struct locks *l, struct parked *p, struct native *n, const struct lock_range *want)
{
	if (!l->running && pthread_create(&l->thread, NULL, waiting_main, l))
		return -ENOLCK;
	l->running = true;
	p->w.want = *want;
	p->since = clock_mono_ns();
	p->n = n;
	n->waiting++;
	list_add_tail(&l->waiting, &p->in_home);
	kick(l);
	return -EINPROGRESS;
}

struct parked *home_waiter(struct locks *l, struct lock_owner who, uint64_t ticket)
{
	struct parked *p;

	list_each(p, &l->waiting, in_home)
		if (p->w.ticket == ticket && p->w.want.who.client == who.client && p->w.want.who.owner == who.owner)
			return p;
	return NULL;
}

void home_forget(struct locks *l, struct parked *p)
{
	struct native *n = p->n;

	list_del(&p->in_home);
	p->n = NULL;
	n->waiting--;
	settle(l, n);
}

/* ---- requests */

/* Lock held. */
static int take_locked(struct op *o, struct lock_table *t, const Sprite__Fs__LockReq *in, const struct lock_range *range, struct parked *p, int *fd)
{
	struct locks *l = o->d->locks;
	struct native *n = NULL;
	int r = atomic_load(&o->client->gone) ? -ESTALE : p && p->cancelled ? -EINTR : native_get(l, t, o->client, in, range, fd, &n);

	if (r == 0)
		r = native_take(l, n, range);
	if (r == -EAGAIN && p)
		r = park(l, p, n, range);
	if (p)
		p->parked = r == -EINPROGRESS;
	if (n)
		settle(l, n);
	return r;
}

static int take(struct op *o, struct lock_table *t, const Sprite__Fs__LockReq *in, const struct lock_range *range, struct parked *p)
{
	struct locks *l = o->d->locks;
	int fd = -1, r;

	pthread_mutex_lock(&l->lock);
	r = take_locked(o, t, in, range, p, &fd);
	pthread_mutex_unlock(&l->lock);
	if (r != NO_DESCRIPTION)
		return r;
	fd = open_for(o, in, !t->whole && range->type == RANGE_WRITE);
	if (fd < 0)
		return fd;
	pthread_mutex_lock(&l->lock);
	r = take_locked(o, t, in, range, p, &fd);
	pthread_mutex_unlock(&l->lock);
	if (fd >= 0)
		close(fd);
	return r;
}

static void drop(struct locks *l, struct lock_table *t, const Sprite__Fs__LockReq *in, const struct lock_range *range)
{
	struct list granted = LIST_INIT(granted);
	struct native *n;

	pthread_mutex_lock(&l->lock);
	n = find(l, t, in->handle.data, in->handle.len, range->who);
	if (n) {
		unlock(n, n->fd, range);
		lock_drop(t, n->handle, n->len, range->who, range->start, range->end, &granted);
		settle(l, n);
		kick(l);
	}
	pthread_mutex_unlock(&l->lock);
}

bool home_has(struct locks *l, const struct lock_table *t, const Sprite__Fs__LockReq *in, struct lock_owner who)
{
	bool r;

	pthread_mutex_lock(&l->lock);
	r = find(l, t, in->handle.data, in->handle.len, who) != NULL;
	pthread_mutex_unlock(&l->lock);
	return r;
}

int home_lock(struct op *o, struct lock_table *t, const Sprite__Fs__LockReq *in, const struct lock_range *range)
{
	Sprite__Fs__LockRep rep = SPRITE__FS__LOCK_REP__INIT;
	struct parked *p;
	int r;

	if (in->handle.len > HANDLE_MAX)
		return -EINVAL;
	if (in->type == F_UNLCK) {
		drop(o->d->locks, t, in, range);
		return op_done(o, &rep.base);
	}
	if (!in->wait) {
		r = take(o, t, in, range, NULL);
		return r < 0 ? r : op_done(o, &rep.base);
	}
	r = parked_new(o, t, in->ticket, &p);
	if (r < 0)
		return r;
	r = take(o, t, in, range, p);
	if (r != -EINPROGRESS)
		parked_answer(p, -r);
	return OP_LATER; /* p and o may be gone by now */
}

int home_test(struct op *o, struct lock_table *t, const Sprite__Fs__LockReq *in, const struct lock_range *range)
{
	struct flock fl = place_of(range, range->type == RANGE_WRITE ? F_WRLCK : F_RDLCK);
	Sprite__Fs__LockRep rep = SPRITE__FS__LOCK_REP__INIT;
	struct locks *l = o->d->locks;
	_cleanup_close_ int own = -1;
	struct native *n;
	int r = 0;

	pthread_mutex_lock(&l->lock);
	n = find(l, t, in->handle.data, in->handle.len, range->who);
	if (n && fcntl(n->fd, F_OFD_GETLK, &fl) < 0)
		r = -errno;
	pthread_mutex_unlock(&l->lock);
	if (!n && (own = open_for(o, in, false)) < 0)
		r = own;
	else if (!n && fcntl(own, F_OFD_GETLK, &fl) < 0)
		r = -errno;
	if (r < 0)
		return r;
	rep.type = (uint32_t)fl.l_type;
	rep.start = (uint64_t)fl.l_start;
	rep.end = fl.l_len ? (uint64_t)(fl.l_start + fl.l_len - 1) : INT64_MAX;
	rep.pid = fl.l_type != F_UNLCK && fl.l_pid > 0 ? (uint32_t)fl.l_pid : 0; /* of the home, whose numbers guests have */
	return op_done(o, &rep.base);
}

void home_drop(struct locks *l, const void *handle, size_t len, struct lock_owner who)
{
	struct native *n, *next;

	list_each_safe(n, next, &l->natives, link)
		if (n->who.client == who.client && n->who.owner == who.owner && n->len == len && !memcmp(n->handle, handle, len)) {
			unlock(n, n->fd, &everything);
			settle(l, n); /* the tables have let go of it before */
			kick(l);
		}
}

void home_drop_client(struct locks *l, uint64_t client, bool stopping, struct list *orphans)
{
	struct parked *p, *next;
	struct native *n, *after;

	l->leaving = stopping;
	list_each_safe(p, next, &l->waiting, in_home)
		if (p->w.want.who.client == client) {
			home_forget(l, p);
			list_add_tail(orphans, &p->in_home);
		}
	list_each_safe(n, after, &l->natives, link)
		if (n->who.client == client && !stopping) {
			native_free(l, n);
			kick(l);
		}
}

/* Our own descriptor's line of the lock that is held by it has the file's place in the form of /proc/locks. */
static void place(struct native *n)
{
	_cleanup_fclose_ FILE *f = NULL;
	char line[256];

	snprintf(line, sizeof(line), "/proc/self/fdinfo/%d", n->fd);
	f = fopen(line, "re");
	while (f && !n->placed && fgets(line, sizeof(line), f))
		n->placed = sscanf(line, "lock:\t%*d: %*s %*s %*s %*d %x:%x:%lu", &n->major, &n->minor, &n->inode) == 3;
}

static bool places(struct locks *l, uint64_t client)
{
	struct native *n;
	bool any = false;

	list_each(n, &l->natives, link) {
		if (n->who.client != client)
			continue;
		if (!n->placed)
			place(n);
		any = true;
	}
	return any;
}

static bool holds(const struct locks *l, uint64_t client, unsigned major, unsigned minor, unsigned long inode)
{
	struct native *n;

	list_each(n, &l->natives, link)
		if (n->who.client == client && n->placed && n->major == major && n->minor == minor && n->inode == inode)
			return true;
	return false;
}

bool home_in_the_way(struct locks *l, uint64_t client)
{
	_cleanup_fclose_ FILE *f = places(l, client) ? fopen("/proc/locks", "re") : NULL;
	unsigned major, minor;
	unsigned long inode;
	char line[256];
	bool found = false;

	while (f && !found && fgets(line, sizeof(line), f)) /* "->": it waits for the one before */
		found = sscanf(line, "%*d: -> %*s %*s %*s %*d %x:%x:%lu", &major, &minor, &inode) == 3 && holds(l, client, major, minor, inode);
	return found;
}

void home_claim(struct locks *l, const struct client *c)
{
	struct native *n;

	pthread_mutex_lock(&l->lock);
	if (l->inherited && !atomic_load(&c->gone)) /* else that life of it is over, and the next one's turn */
		list_each(n, &l->natives, link)
			if (!n->who.client && n->epoch == c->epoch && !strcmp(n->peer, c->peer))
				n->who.client = c->id;
	pthread_mutex_unlock(&l->lock);
}

/* The kernel's locks of what the table does not have. */
static void unlock_others(const struct native *n)
{
	struct lock_range r, gap = everything;

	if (n->t->whole && lock_holds(n->t, n->handle, n->len, n->who))
		return;
	while (!n->t->whole && lock_next(n->t, n->handle, n->len, n->who, gap.start, &r)) {
		gap.end = r.start - 1;
		if (gap.start <= gap.end)
			unlock(n, n->fd, &gap);
		if (r.end == LOCK_EOF)
			return;
		gap = (struct lock_range){.start = r.end + 1, .end = LOCK_EOF};
	}
	unlock(n, n->fd, &gap);
}

void homes_settle(struct locks *l)
{
	struct native *n, *next;

	pthread_mutex_lock(&l->lock);
	if (l->inherited)
		list_each_safe(n, next, &l->natives, link)
			if (n->inherited) {
				n->inherited = false;
				l->inherited--;
				unlock_others(n);
				settle(l, n);
				kick(l);
			}
	pthread_mutex_unlock(&l->lock);
}

int homes_start(struct locks *l, const char *run_dir)
{
	pthread_condattr_t attr;

	list_init(&l->natives);
	list_init(&l->waiting);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&l->wake, &attr);
	pthread_condattr_destroy(&attr);
	lock_keep_start(l, run_dir);
	return 0;
}

/* No request is left. */
void homes_stop(struct locks *l)
{
	struct list *x;

	pthread_mutex_lock(&l->lock);
	l->stop = true;
	pthread_cond_signal(&l->wake);
	pthread_mutex_unlock(&l->lock);
	if (l->running)
		pthread_join(l->thread, NULL);
	while ((x = l->natives.next) != &l->natives)
		native_close(list_entry(x, struct native, link));
	lock_keep_stop(l);
	pthread_cond_destroy(&l->wake);
}
