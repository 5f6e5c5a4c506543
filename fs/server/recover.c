/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Grace after a restart; see recover.h.
 *
 * Locking: recover.lock guards everything here. Operations are handed to the runners after it was released.
 */
#include "fs/server/recover.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/log.h"
#include "conf/save.h"
#include "fs/server/lease.h"

#define LEASES_MAX 8 /* restarts in the middle of one recovery; older ones are refused */

/* One line of the list. */
struct known {
	struct list link;
	char *peer, *instance;
	uint64_t epoch;
	bool now; /* of this run; else of the last one, waited for in grace */
	/* lease epochs whose changes it may still bring: of this run, and of those before it in which it was cut short. The last is of this run if `here` */
	uint64_t lease[LEASES_MAX];
	unsigned nleases;
	bool here;
};

struct recover {
	pthread_mutex_t lock;
	struct list known;
	bool grace;
	uint64_t deadline;
	struct list parked; /* struct op by rerun */
	char path[4096];
};

static void known_free(struct known *k)
{
	list_del(&k->link);
	free(k->peer);
	free(k->instance);
	free(k);
}

static struct known *known_add(struct recover *r, const char *peer, uint64_t epoch, const char *instance, bool now)
{
	struct known *k = calloc(1, sizeof(*k));

	if (!k)
		return NULL;
	list_init(&k->link);
	k->peer = strdup(peer);
	k->instance = strdup(instance);
	k->epoch = epoch;
	k->now = now;
	if (!k->peer || !k->instance) {
		known_free(k);
		return NULL;
	}
	list_add_tail(&r->known, &k->link);
	return k;
}

/* It is here now, as the client of that number. */
static void known_here(struct known *k, uint64_t id)
{
	if (k->nleases == LEASES_MAX)
		memmove(&k->lease[0], &k->lease[1], --k->nleases * sizeof(k->lease[0]));
	k->lease[k->nleases++] = id;
	k->here = true;
}

/* It has brought all that it had from before. */
static void known_clean(struct known *k)
{
	k->lease[0] = k->lease[k->nleases - 1];
	k->nleases = 1;
	k->now = true;
}

static struct known *known_find(struct recover *r, const struct client *c)
{
	struct known *k;

	list_each(k, &r->known, link)
		if (k->epoch == c->epoch && !strcmp(k->peer, c->peer))
			return k;
	return NULL;
}

/* ---- the list on disk ------------------------------------------------------------------------------------- */

static int list_save(struct recover *r)
{
	json_t *rows = json_array();
	struct known *k;
	int err;

	list_each(k, &r->known, link) {
		json_t *leases = json_array();

		for (unsigned i = 0; i < k->nleases; i++)
			json_array_append_new(leases, json_integer((json_int_t)k->lease[i]));
		json_array_append_new(rows, json_pack("{s:s,s:I,s:s,s:o}", "host", k->peer, "epoch", (json_int_t)k->epoch, "instance", k->instance,
						    "leases", leases));
	}
	err = save_json(r->path, rows, 0, true);
	if (err < 0)
		log_warn("%s: cannot write the list of clients: %s", r->path, strerror(-err));
	json_decref(rows);
	return err;
}

static size_t list_load(struct recover *r)
{
	json_t *rows = json_load_file(r->path, 0, NULL), *row;
	size_t i, n = 0;

	json_array_foreach(rows, i, row)
	{
		const char *host, *instance;
		json_t *leases = NULL, *one;
		json_int_t epoch;
		struct known *k;
		size_t l;

		if (json_unpack(row, "{s:s,s:I,s:s,s?o}", "host", &host, "epoch", &epoch, "instance", &instance, "leases", &leases) < 0)
			continue;
		k = known_add(r, host, (uint64_t)epoch, instance, false);
		if (!k)
			continue;
		n++;
		json_array_foreach(leases, l, one)
			if (k->nleases < LEASES_MAX)
				k->lease[k->nleases++] = (uint64_t)json_integer_value(one);
	}
	json_decref(rows);
	return n;
}

/* ---- grace -------------------------------------------------------------------------------------------------- */

int recover_start(struct fsd *d)
{
	struct recover *r = calloc(1, sizeof(*r));
	size_t n;

	if (!r)
		return -ENOMEM;
	pthread_mutex_init(&r->lock, NULL);
	list_init(&r->known);
	list_init(&r->parked);
	snprintf(r->path, sizeof(r->path), "%s/clients.json", d->conf->state_dir);
	d->recover = r;
	n = list_load(r);
	r->grace = n > 0;
	r->deadline = clock_boot_ns() + CLIENT_TERM_NS + CLIENT_MARGIN_NS;
	if (n)
		log_note("waiting for %zu clients of the last run to recover", n);
	return 0;
}

void recover_stop(struct fsd *d)
{
	struct recover *r = d->recover;
	struct known *k, *next;

	if (!r)
		return;
	list_each_safe(k, next, &r->known, link)
		known_free(k);
	pthread_mutex_destroy(&r->lock);
	free(r);
	d->recover = NULL;
}

/* recover.lock is held; the operations that waited go to `run`. */
static void grace_check(struct recover *r, uint64_t now, struct list *run)
{
	struct known *k, *next;
	size_t left = 0;

	if (!r->grace)
		return;
	list_each(k, &r->known, link)
		left += !k->now;
	if (left && now < r->deadline)
		return;
	if (left)
		log_warn("%zu clients of the last run did not come back", left);
	list_each_safe(k, next, &r->known, link)
		if (k->here) /* also who was late: it holds what it has reclaimed */
			known_clean(k);
		else
			known_free(k);
	r->grace = false;
	list_save(r);
	list_splice_tail(run, &r->parked);
	log_note("open to everyone again");
}

static void run_all(struct fsd *d, struct list *run)
{
	struct list *n;

	if (!d->stopping && !recover_in_grace(d)) /* before others ask for it */
		locks_settle(d);
	while ((n = list_pop(run)))
		lease_requeue(d, list_entry(n, struct op, rerun));
}

int recover_note(struct fsd *d, struct client *c)
{
	struct recover *r = d->recover;
	struct list run = LIST_INIT(run);
	struct known *k, *next;
	int err = 0;

	pthread_mutex_lock(&r->lock);
	k = known_find(r, c);
	if (k) {
		if (!k->here) { /* before anything is done under its new leases */
			known_here(k, c->id);
			err = list_save(r);
		}
		atomic_store(&c->noted, err == 0);
	} else {
		/* another life of the same mount: the old one will not come back */
		list_each_safe(k, next, &r->known, link)
			if (c->instance[0] && !strcmp(k->peer, c->peer) && !strcmp(k->instance, c->instance))
				known_free(k);
		k = known_add(r, c->peer, c->epoch, c->instance, true);
		if (k)
			known_here(k, c->id);
		err = k ? list_save(r) : -ENOMEM;
		atomic_store(&c->noted, err == 0);
		grace_check(r, clock_boot_ns(), &run);
	}
	pthread_mutex_unlock(&r->lock);
	run_all(d, &run);
	return err;
}

void recover_forget(struct fsd *d, struct client *c)
{
	struct recover *r = d->recover;
	struct known *k;

	pthread_mutex_lock(&r->lock);
	k = known_find(r, c);
	if (k && k->now) {
		known_free(k);
		list_save(r);
	} else if (k && k->here) { /* in grace: waited for all the same, but without what it had */
		k->here = false;
		k->nleases = 0;
		list_save(r);
	}
	pthread_mutex_unlock(&r->lock);
}

void recover_done(struct fsd *d, struct client *c)
{
	struct recover *r = d->recover;
	struct list run = LIST_INIT(run);
	struct known *k;

	pthread_mutex_lock(&r->lock);
	k = known_find(r, c);
	if (k && !k->here)
		known_here(k, c->id);
	if (k && (!k->now || k->nleases > 1)) {
		known_clean(k);
		list_save(r);
	}
	grace_check(r, clock_boot_ns(), &run);
	pthread_mutex_unlock(&r->lock);
	run_all(d, &run);
}

/* What may be done in grace: nothing that reads or changes a file, but for reclaiming. */
static bool allowed_in_grace(const struct op *o)
{
	const ProtobufCMessage *m = o->in->msg;

	switch (o->method) {
	case FS_OPEN:
		return ((const Sprite__Fs__OpenReq *)m)->reclaim;
	case FS_LOCK: {
		const Sprite__Fs__LockReq *l = (const void *)m;

		return l->reclaim || l->cancel || l->type == F_UNLCK;
	}
	case FS_SETATTR: /* by a reclaimed open: there are no others yet */
		return ((const Sprite__Fs__SetattrReq *)m)->open != 0;
	case FS_FSYNC:
		return !((const Sprite__Fs__FsyncReq *)m)->unsettled;
	case FS_STATUS:
	case FS_PREFIXES:
	case FS_REGISTER:
	case FS_ELECT:
	case FS_ATTACH:
	case FS_RENEW:
	case FS_STATFS:
	case FS_CLOSE:
	case FS_WRITE:
	case FS_BATCH: /* looks itself */
		return true;
	default:
		return false;
	}
}

bool recover_park(struct op *o)
{
	struct recover *r = o->d->recover;
	bool kept;

	if (!atomic_load(&o->d->grace_hint))
		return false;
	pthread_mutex_lock(&r->lock);
	kept = r->grace && !allowed_in_grace(o);
	if (kept)
		list_add_tail(&r->parked, &o->rerun);
	pthread_mutex_unlock(&r->lock);
	return kept;
}

bool recover_may_write(struct op *o, uint64_t lease_epoch)
{
	struct recover *r = o->d->recover;
	bool may = lease_epoch == o->client->id;
	struct known *k;
	unsigned i;

	if (may)
		return true;
	pthread_mutex_lock(&r->lock);
	k = r->grace ? known_find(r, o->client) : NULL;
	for (i = 0; k && i < k->nleases; i++)
		may |= k->lease[i] == lease_epoch;
	pthread_mutex_unlock(&r->lock);
	return may;
}

void recover_abandon(struct fsd *d)
{
	struct list run = LIST_INIT(run), *n;

	pthread_mutex_lock(&d->recover->lock);
	d->recover->grace = false;
	list_splice_tail(&run, &d->recover->parked);
	pthread_mutex_unlock(&d->recover->lock);
	while ((n = list_pop(&run)))
		op_fail(list_entry(n, struct op, rerun), ECANCELED); /* not remembered by rpc's reply cache */
}

bool recover_in_grace(struct fsd *d)
{
	bool g;

	pthread_mutex_lock(&d->recover->lock);
	g = d->recover->grace;
	pthread_mutex_unlock(&d->recover->lock);
	return g;
}

void recover_tick(struct fsd *d)
{
	struct list run = LIST_INIT(run);

	pthread_mutex_lock(&d->recover->lock);
	grace_check(d->recover, clock_boot_ns(), &run);
	atomic_store(&d->grace_hint, d->recover->grace);
	pthread_mutex_unlock(&d->recover->lock);
	run_all(d, &run);
}
