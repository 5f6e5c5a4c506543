/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Leases at work; see lease.h. Threads of our own run parked operations again, since rpc's workers have gone on to other requests.
 *
 * Locking: leases.lock guards the decisions and the queue. Recalls are pushed, and operations queued, after it was released.
 */
#include "fs/server/lease.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/log.h"
#include "fs/server/mounts.h"

#define RUNNERS	  4
#define SHORT_MAX (64u << 10)
#define CALM_MAX  4  /* so many who only look wait for the end of a change; the threads are everybody's */
#define CALM_MS	  20 /* and that long: a change may be a truncation of gigabytes, which takes seconds */

struct leases {
	pthread_mutex_t lock;
	pthread_cond_t applied; /* an operation has ended: who found an object busy tries again */
	pthread_cond_t queued;
	struct consist c;
	struct list queue; /* struct op by rerun */
	unsigned calm;	   /* who only look, and wait */
	unsigned outside;  /* operations that are run by who received an acknowledgement */
	bool stop;
	pthread_t runner[RUNNERS];
	int nrunners;
};

/* ---- running again ---------------------------------------------------------------------------------------- */

static void *runner(void *arg)
{
	struct leases *l = arg;
	struct list *n;

	pthread_mutex_lock(&l->lock);
	for (;;) {
		while (!l->stop && list_empty(&l->queue))
			pthread_cond_wait(&l->queued, &l->lock);
		n = list_pop(&l->queue);
		if (!n)
			break; /* stopping */
		pthread_mutex_unlock(&l->lock);
		op_run(list_entry(n, struct op, rerun));
		pthread_mutex_lock(&l->lock);
	}
	pthread_mutex_unlock(&l->lock);
	return NULL;
}

int leases_start(struct fsd *d)
{
	struct leases *l = calloc(1, sizeof(*l));
	pthread_condattr_t attr;

	if (!l)
		return -ENOMEM;
	pthread_mutex_init(&l->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&l->applied, &attr);
	pthread_condattr_destroy(&attr);
	pthread_cond_init(&l->queued, NULL);
	list_init(&l->queue);
	consist_init(&l->c);
	d->leases = l;
	for (; l->nrunners < RUNNERS; l->nrunners++)
		if (pthread_create(&l->runner[l->nrunners], NULL, runner, l) != 0)
			return -EAGAIN;
	return 0;
}

void leases_stop(struct fsd *d)
{
	struct leases *l = d->leases;

	if (!l)
		return;
	pthread_mutex_lock(&l->lock);
	l->stop = true;
	pthread_cond_broadcast(&l->queued);
	while (l->outside)
		pthread_cond_wait(&l->applied, &l->lock);
	pthread_mutex_unlock(&l->lock);
	for (int i = 0; i < l->nrunners; i++)
		pthread_join(l->runner[i], NULL);
	consist_clear(&l->c);
	pthread_cond_destroy(&l->applied);
	pthread_cond_destroy(&l->queued);
	pthread_mutex_destroy(&l->lock);
	free(l);
	d->leases = NULL;
}

static void queue_op(struct leases *l, struct op *o)
{
	pthread_mutex_lock(&l->lock);
	list_add_tail(&l->queue, &o->rerun);
	pthread_cond_signal(&l->queued);
	pthread_mutex_unlock(&l->lock);
}

/* An operation that is still on its way out of its handler notices by `park` that it may start again. */
static void op_wake(struct leases *l, struct op *o)
{
	int is = OP_RUNNING;

	if (atomic_compare_exchange_strong(&o->park, &is, OP_WOKEN))
		return;
	atomic_store(&o->park, OP_RUNNING);
	queue_op(l, o);
}

void lease_requeue(struct fsd *d, struct op *o)
{
	queue_op(d->leases, o);
}

/* Does what the decisions have brought about. No lock is held. */
static void carry_out(struct fsd *d, struct cs_out *out)
{
	struct list *n;

	events_push_recalls(d, &out->recalls);
	while ((n = list_pop(&out->runnable)))
		op_wake(d->leases, container_of(list_entry(n, struct cs_op, link), struct op, cs));
}

/* ---- operations -------------------------------------------------------------------------------------------- */

/* With the lock: waits for the end of a change, only to look at what is there then. False: it takes too long, or too many do. */
static bool wait_calmly(struct leases *l, struct timespec *until)
{
	bool ended;

	if (l->calm >= CALM_MAX)
		return false;
	if (!until->tv_sec) {
		clock_gettime(CLOCK_MONOTONIC, until);
		until->tv_nsec += CALM_MS * 1000000l;
		until->tv_sec += until->tv_nsec / 1000000000;
		until->tv_nsec %= 1000000000;
	}
	l->calm++;
	ended = pthread_cond_timedwait(&l->applied, &l->lock, until) == 0;
	l->calm--;
	return ended;
}

int lease_begin(struct op *o, const struct export *ex, const struct cs_need *need, int n)
{
	struct leases *l = o->d->leases;
	struct cs_out out = CS_OUT_INIT(out);
	struct timespec until = {0};
	struct cs_need at_once;
	enum cs_verdict v;

	if (ex->conf->home)
		return 0;
	pthread_mutex_lock(&l->lock);
	o->begun = true;
	for (;;) {
		bool held = o->cs.state == CS_OP_APPLYING;

		v = atomic_load(&o->client->gone) ? CS_NOMEM : consist_begin(&l->c, &o->cs, need, n, clock_boot_ns(), &out);
		if (held) /* it has let go of what it had */
			pthread_cond_broadcast(&l->applied);
		if (v != CS_BUSY || o->hurried)
			break;
		/* it runs system calls on another thread and waits for nobody */
		if (!list_empty(&out.runnable) || !list_empty(&out.recalls)) {
			pthread_mutex_unlock(&l->lock);
			carry_out(o->d, &out);
			pthread_mutex_lock(&l->lock);
			continue;
		}
		if (!need->calm) {
			pthread_cond_wait(&l->applied, &l->lock);
		} else if (!wait_calmly(l, &until)) {
			at_once = *need; /* it will be granted nothing */
			at_once.calm = false;
			need = &at_once;
		}
	}
	pthread_mutex_unlock(&l->lock);
	carry_out(o->d, &out);
	if (v == CS_BUSY) {
		o->busy = true; /* op_run() queues it */
		return OP_PARK;
	}
	return v == CS_GO ? 0 : v == CS_WAIT ? OP_PARK : atomic_load(&o->client->gone) ? -ESTALE : -ENOMEM;
}

int lease_look(struct op *o, const struct export *ex, struct cs_key key, bool settle)
{
	struct cs_need n = {.key = key, .breaks = CS_WRITE, .settle = settle};

	return lease_begin(o, ex, &n, 1);
}

int lease_look_calm(struct op *o, const struct export *ex, struct cs_key key)
{
	struct cs_need n = {.key = key, .breaks = CS_WRITE, .calm = true};

	return lease_begin(o, ex, &n, 1);
}

int lease_settle(struct op *o, const struct export *ex, struct cs_key key)
{
	struct cs_need n = {.key = key, .settle_all = true};

	return lease_begin(o, ex, &n, 1);
}

enum cs_after lease_linger(struct op *o)
{
	struct leases *l = o->d->leases;
	struct cs_out out = CS_OUT_INIT(out);
	enum cs_after r;

	if (!o->begun)
		return CS_SETTLED;
	pthread_mutex_lock(&l->lock);
	r = consist_linger(&o->cs, &out);
	pthread_cond_broadcast(&l->applied);
	pthread_mutex_unlock(&l->lock);
	carry_out(o->d, &out);
	return r;
}

int lease_look_dir(struct op *o, const struct object *dir)
{
	return dir->ex->conf->home ? 0 : lease_look(o, dir->ex, lease_dir_key(dir), false);
}

bool lease_hidden(struct op *o, const struct export *ex, struct cs_key key)
{
	struct leases *l = o->d->leases;
	bool r;

	if (ex->conf->home)
		return false;
	pthread_mutex_lock(&l->lock);
	r = consist_hidden(&l->c, o->client->id, key);
	pthread_mutex_unlock(&l->lock);
	return r;
}

int lease_hopes(struct op *o, const struct export *ex, const struct cs_key *keys, int n, bool alone, struct cs_need *hopes)
{
	struct leases *l = o->d->leases;
	int count = 0;

	if (ex->conf->home || !atomic_load(&o->client->leases))
		return 0;
	pthread_mutex_lock(&l->lock);
	for (int i = 0; i < n; i++) {
		uint32_t breaks = consist_obstacles(&l->c, o->client->id, keys[i], alone);

		if (breaks)
			hopes[count++] = (struct cs_need){.key = keys[i], .breaks = breaks, .hope = true};
	}
	pthread_mutex_unlock(&l->lock);
	return count;
}

void lease_end(struct op *o)
{
	struct leases *l = o->d->leases;
	struct cs_out out = CS_OUT_INIT(out);

	if (!o->begun)
		return;
	o->begun = false;
	pthread_mutex_lock(&l->lock);
	consist_end(&l->c, &o->cs, &out);
	list_splice_tail(&out.runnable, &o->after);
	pthread_cond_broadcast(&l->applied);
	pthread_mutex_unlock(&l->lock);
	carry_out(o->d, &out);
}

/* ---- grants -------------------------------------------------------------------------------------------------- */

uint32_t lease_grant(struct op *o, const struct export *ex, struct cs_key key, ProtobufCBinaryData handle, uint32_t bits, bool shared_ok,
	uint64_t *seq)
{
	struct leases *l = o->d->leases;
	uint32_t got;

	if (ex->conf->home || !atomic_load(&o->client->leases))
		return 0;
	pthread_mutex_lock(&l->lock);
	got = consist_grant(&l->c, o->client->id, key, handle.data, handle.len, bits, shared_ok, seq);
	pthread_mutex_unlock(&l->lock);
	return got;
}

void lease_release(struct op *o, const struct export *ex, struct cs_key key, uint32_t bits, uint64_t *seq)
{
	struct leases *l = o->d->leases;
	struct cs_out out = CS_OUT_INIT(out);

	if (ex->conf->home)
		return;
	pthread_mutex_lock(&l->lock);
	*seq = consist_release(&l->c, o->client->id, key, bits, &out);
	if (o->begun) /* in the middle of this change they would be granted nothing */
		list_splice_tail(&o->after, &out.runnable);
	pthread_mutex_unlock(&l->lock);
	carry_out(o->d, &out);
}

uint32_t lease_exclusive(const struct export *ex)
{
	const struct conf_export *c = ex->conf;

	if (c->home || c->readonly || c->uid_min > 0 || c->uid_max < UINT32_MAX - 1)
		return 0;
	return c->root_squash ? 1 : 2;
}

static bool kernel_folds;
static pthread_once_t asked = PTHREAD_ONCE_INIT;

static void ask_kernel(void)
{
	kernel_folds = access("/sys/fs/ext4/features/casefold", F_OK) == 0 || access("/sys/fs/f2fs/features/casefold", F_OK) == 0 ||
		access("/sys/fs/tmpfs/features/casefold", F_OK) == 0;
}

/* Does one change of a name in this directory concern names of other spellings? Then nobody can be told of it by name. */
static bool names_fold(const struct object *dir)
{
	_cleanup_close_ int fd = -1;
	int flags = 0;

	pthread_once(&asked, ask_kernel);
	if (dir->mount->folds)
		return true;
	if (!kernel_folds)
		return false;
	fd = open(op_path(dir->fd).s, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd >= 0 && ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0 && (flags & FS_CASEFOLD_FL);
}

/* Nothing but its mode decides who may make names in it? */
static bool dir_plain(const struct object *dir, bool acl)
{
	struct statx sx;

	return !acl && statx(dir->fd, "", AT_EMPTY_PATH, STATX_TYPE, &sx) == 0 &&
		!(sx.stx_attributes & (STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND | STATX_ATTR_ENCRYPTED));
}

struct dir_facts *lease_dir_facts(const struct object *dir, struct dir_facts *room)
{
	struct dir_facts *f = dir->facts ? dir->facts : room;

	if (f->known)
		return f;
	f->folds = names_fold(dir);
	f->acl = !dir->bare && op_has_acl(dir->fd, S_IFDIR, NULL);
	f->plain = dir_plain(dir, f->acl);
	f->known = true;
	return f;
}

uint32_t lease_dir_bits(const struct object *dir, uint64_t want)
{
	struct dir_facts room = {.known = false}, *f;

	if (!(want & CS_WRITE) || !lease_exclusive(dir->ex))
		return names_fold(dir) ? CS_ATTR : CS_ATTR | CS_NAMES;
	f = lease_dir_facts(dir, &room);
	if (f->folds)
		return CS_ATTR;
	return CS_ATTR | CS_NAMES | (f->plain ? CS_WRITE : 0);
}

uint32_t lease_grant_dir(struct op *o, const struct object *dir, ProtobufCBinaryData handle, uint64_t want, uint64_t *seq)
{
	if (dir->ex->conf->home || !atomic_load(&o->client->leases))
		return 0;
	return lease_grant(o, dir->ex, lease_dir_key(dir), handle, lease_dir_bits(dir, want), false, seq);
}

void lease_open(struct fsd *d, struct open *f)
{
	if (f->ex->conf->home)
		return;
	pthread_mutex_lock(&d->leases->lock);
	if (!atomic_load(&f->client->gone))
		f->counted = consist_open(&d->leases->c, f->client->id, (struct cs_key){f->dev, f->ino}, f->write) == 0;
	pthread_mutex_unlock(&d->leases->lock);
}

void lease_close(struct fsd *d, struct open *f)
{
	bool counted;

	pthread_mutex_lock(&d->leases->lock);
	counted = f->counted;
	f->counted = false;
	if (counted)
		consist_close(&d->leases->c, f->client->id, (struct cs_key){f->dev, f->ino}, f->write);
	pthread_mutex_unlock(&d->leases->lock);
}

bool lease_shared_write(struct op *o, struct cs_key key)
{
	bool r;

	pthread_mutex_lock(&o->d->leases->lock);
	r = consist_shared_write(&o->d->leases->c, o->client->id, key);
	pthread_mutex_unlock(&o->d->leases->lock);
	return r;
}

/* ---- clients -------------------------------------------------------------------------------------------------- */

void lease_client_add(struct op *o, bool ack_now)
{
	struct leases *l = o->d->leases;

	pthread_mutex_lock(&l->lock);
	if (!atomic_load(&o->client->gone) && consist_client_add(&l->c, o->client->id, ack_now) == 0)
		atomic_store(&o->client->leases, true);
	pthread_mutex_unlock(&l->lock);
}

void lease_client_gone(struct fsd *d, uint64_t client)
{
	struct cs_out out = CS_OUT_INIT(out);

	pthread_mutex_lock(&d->leases->lock);
	consist_client_gone(&d->leases->c, client, &out);
	pthread_mutex_unlock(&d->leases->lock);
	carry_out(d, &out);
}

/* Operations that a thread which has something else to do may run: a few system calls, little data, and nothing that frees many blocks of the disk or waits for it. */
static bool is_short(const struct op *o)
{
	const Sprite__Fs__WriteReq *w;

	if (o->batch || o->lingers) /* the request of one that lingers is gone */
		return false;
	w = (const void *)o->in->msg;
	switch (o->method) {
	case FS_GETATTR:
	case FS_LOOKUP:
	case FS_MAKE:
		return true;
	case FS_OPEN:
	case FS_CREATE:
		return o->brief;
	case FS_WRITE:
		return o->in->bulk_len <= SHORT_MAX && !w->fsync && !w->sync;
	default:
		return false;
	}
}

/* The same as carry_out(), but the last of those that go on is left to the caller, if it is short: whoever waits for it waits for one thread less to be woken. */
static struct op *carry_out_but_one(struct fsd *d, struct cs_out *out)
{
	struct op *last = list_empty(&out->runnable) ? NULL : container_of(list_entry(out->runnable.prev, struct cs_op, link), struct op, cs);
	int is = OP_PARKED;

	if (last)
		list_del(&last->cs.link);
	carry_out(d, out);
	if (!last)
		return NULL;
	if (!atomic_compare_exchange_strong(&last->park, &is, OP_RUNNING)) { /* still on its way out of its handler, which may give its request back: not to be looked at */
		op_wake(d->leases, last);
		return NULL;
	}
	if (is_short(last))
		return last;
	queue_op(d->leases, last);
	return NULL;
}

void lease_ack(struct fsd *d, uint64_t client, uint64_t id, struct rpc_stream *s)
{
	struct cs_out out = CS_OUT_INIT(out);
	struct leases *l = d->leases;
	struct op *o;

	pthread_mutex_lock(&l->lock);
	consist_ack(&l->c, client, id, &out);
	pthread_mutex_unlock(&l->lock);
	o = carry_out_but_one(d, &out);
	if (!o)
		return;
	pthread_mutex_lock(&l->lock);
	l->outside++;
	pthread_mutex_unlock(&l->lock);
	rpc_stream_leave(s); /* however long it takes, the client's next acknowledgement is heard */
	o->hurried = true; /* this is a thread that others count on: it does not wait */
	op_run(o);
	pthread_mutex_lock(&l->lock);
	l->outside--;
	pthread_cond_broadcast(&l->applied);
	pthread_mutex_unlock(&l->lock);
}

void lease_repeat(struct fsd *d, uint64_t client)
{
	struct cs_out out = CS_OUT_INIT(out);

	pthread_mutex_lock(&d->leases->lock);
	consist_repeat(&d->leases->c, client, clock_boot_ns(), &out);
	pthread_mutex_unlock(&d->leases->lock);
	carry_out(d, &out);
}

struct overdue {
	uint64_t id[64];
	int n;
};

static void overdue_note(void *arg, uint64_t client)
{
	struct overdue *v = arg;

	if (v->n < 64)
		v->id[v->n++] = client;
}

void lease_overdue(struct fsd *d, uint64_t since, void (*fn)(struct fsd *d, uint64_t client))
{
	struct overdue v = {.n = 0};

	pthread_mutex_lock(&d->leases->lock);
	consist_overdue(&d->leases->c, since, overdue_note, &v);
	pthread_mutex_unlock(&d->leases->lock);
	for (int i = 0; i < v.n; i++)
		fn(d, v.id[i]);
}

bool lease_owes(struct fsd *d, uint64_t client)
{
	bool r;

	pthread_mutex_lock(&d->leases->lock);
	r = consist_owes(&d->leases->c, client);
	pthread_mutex_unlock(&d->leases->lock);
	return r;
}

size_t lease_count(struct fsd *d, uint64_t client)
{
	size_t n;

	pthread_mutex_lock(&d->leases->lock);
	n = consist_client_leases(&d->leases->c, client);
	pthread_mutex_unlock(&d->leases->lock);
	return n;
}

void lease_totals(struct fsd *d, size_t *leases, uint64_t *recalls, size_t *owed)
{
	pthread_mutex_lock(&d->leases->lock);
	*leases = d->leases->c.nleases;
	*recalls = d->leases->c.recalls_sent;
	*owed = d->leases->c.recalls.count;
	pthread_mutex_unlock(&d->leases->lock);
}
