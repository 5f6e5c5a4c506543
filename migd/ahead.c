// SPDX-License-Identifier: Apache-2.0
/*
 * See ahead.h.
 *
 *	wanted -> making (a thread) -> ready -> taken by a guest, or ended: KEEP_S after it was wanted last, or a fifth home is wanted
 *
 * Who takes one that is still being made waits for it. One whose root view or /sprite is no longer what is mounted here now (its spritefs was started anew) is
 * not used. The keeper of one that is not taken ends with migd; its cgroup is removed by the next migd (guests_replayed()).
 */
#include "migd/ahead.h"
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/list.h"
#include "conf/log.h"
#include "migd/cgroup.h"
#include "migd/owner.h"
#include "migd/proc.h"
#include "migd/view.h"

enum { HOMES_MAX = 4, KEEP_S = 30, REMOVE_MS = 2000, SOON_MS = 1000 };

struct ahead {
	struct list node;
	struct aheads *all;
	char home[HOST_NAME_MAX_], cgroup[CGROUP_NAME_MAX];
	struct nest *nest;
	bool view;	    /* counted as a user of its home's root view: by the thread that makes it, for as long as there is one */
	bool making, taken; /* taken, and still being made: by whoever waits for it */
	uint64_t wanted_ns;
};

struct soon {
	struct list node;
	char home[HOST_NAME_MAX_];
	uint64_t since_ns;
};

struct aheads {
	struct migd *m;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct list list; /* lock, and what is in it */
	struct list soon; /* lock: homes that want one when its guest has had a moment to itself */
	unsigned threads; /* that make one, or end one: who wants or takes one waits for no end */
	bool closing;
};

int aheads_open(struct migd *m, struct aheads **out)
{
	struct aheads *a = calloc(1, sizeof(*a));

	if (!a)
		return -ENOMEM;
	a->m = m;
	pthread_mutex_init(&a->lock, NULL);
	pthread_cond_init(&a->changed, NULL);
	list_init(&a->list);
	list_init(&a->soon);
	*out = a;
	return 0;
}

/* ---- a nest ---- */

static int make(struct migd *m, const char *home, char cgroup[CGROUP_NAME_MAX], struct nest **out, struct error *e)
{
	struct cgroup_limits lim = { .memory_max = m->conf->guest_memory_max, .pids_max = m->conf->guest_pids };
	_cleanup_free_ char *root = NULL, *paths = NULL;
	struct eng_nest_opts o = { .keeper = m->keeper, .sprite = m->conf->mount, .hostname = home };
	static atomic_uint count;
	struct error cge = { 0 };
	int err;

	*cgroup = 0;
	if (asprintf(&root, "%s/homes/%s", m->conf->run_dir, home) < 0)
		return error_set(e, ENOMEM, "out of memory");
	if (m->cgroups) { /* of another migd before us some may be left: the time tells ours from those */
		snprintf(cgroup, CGROUP_NAME_MAX, "sprite-%.80s.%llx.%x", home, (unsigned long long)clock_boot_ns(), count++);
		if (cgroup_make(m->cgroups, cgroup, &lim, &paths, &cge)) {
			log_warn("no cgroup for a guest of %s: %s", home, cge.text);
			*cgroup = 0;
		}
	}
	o.root = root;
	o.cgroup = paths;
	o.host_network = m->conf->guest_network && !strcmp(m->conf->guest_network, "host");
	err = eng_nest_make(&o, out, e);
	if (err && *cgroup)
		cgroup_remove(m->cgroups, cgroup, REMOVE_MS);
	return err;
}

static void unmake(struct migd *m, struct nest *nest, const char *cgroup)
{
	eng_nest_drop(nest);
	if (*cgroup)
		cgroup_remove(m->cgroups, cgroup, REMOVE_MS);
}

static bool is_good(struct migd *m, const struct ahead *x)
{
	_cleanup_free_ char *root = NULL;
	char who[16], there[32], here[32];
	pid_t keeper = x->nest ? eng_nest_keeper(x->nest) : -ESRCH;

	if (keeper < 0 || asprintf(&root, "%s/homes/%s", m->conf->run_dir, x->home) < 0)
		return false;
	snprintf(who, sizeof(who), "%d", keeper);
	return proc_mounted(who, "/", there) && proc_mounted("self", root, here) && !strcmp(there, here) && proc_mounted(who, "/sprite", there) &&
	       proc_mounted("self", m->conf->mount, here) && !strcmp(there, here);
}

/* ---- the few that are kept ---- */

static struct ahead *find(struct aheads *a, const char *home)
{
	struct ahead *x;

	list_each(x, &a->list, node)
		if (!strcmp(x->home, home) && !x->taken)
			return x;
	return NULL;
}

/* Out of the list already, not being made. */
static void discard(struct aheads *a, struct ahead *x)
{
	if (x->nest)
		unmake(a->m, x->nest, x->cgroup);
	if (x->view)
		view_put(a->m->views, x->home);
	free(x);
}

static void thread_over(struct aheads *a)
{
	pthread_mutex_lock(&a->lock);
	a->threads--;
	pthread_cond_broadcast(&a->changed);
	pthread_mutex_unlock(&a->lock);
}

static void *discard_main(void *arg)
{
	struct ahead *x = arg;
	struct aheads *a = x->all;

	discard(a, x);
	thread_over(a);
	return NULL;
}

/* As discard(), which may take REMOVE_MS; returns at once. */
static void discard_aside(struct aheads *a, struct ahead *x)
{
	bool aside = false;

	pthread_mutex_lock(&a->lock);
	if (x->nest && !thread_run(discard_main, x)) {
		a->threads++;
		aside = true;
	}
	pthread_mutex_unlock(&a->lock);
	if (!aside)
		discard(a, x);
}

static void *make_main(void *arg)
{
	struct ahead *x = arg;
	struct aheads *a = x->all;
	char cgroup[CGROUP_NAME_MAX] = "";
	_cleanup_free_ char *dir = NULL;
	struct nest *nest = NULL;
	struct error e = { 0 };
	bool drop;

	x->view = !view_get(a->m->views, x->home, &dir, &e);
	if (!x->view || make(a->m, x->home, cgroup, &nest, &e))
		log_debug("no nest could be made ahead for guests of %s: %s", x->home, e.text);
	pthread_mutex_lock(&a->lock);
	x->making = false;
	pthread_cond_broadcast(&a->changed);
	x->nest = nest;
	strcpy(x->cgroup, cgroup);
	drop = !nest && !x->taken;
	if (drop)
		list_del(&x->node);
	pthread_mutex_unlock(&a->lock);
	if (drop)
		discard(a, x);
	thread_over(a);
	return NULL;
}

/* The one that was wanted longest ago makes room; under the lock, which is let go of. */
static struct ahead *make_room(struct aheads *a)
{
	struct ahead *x, *oldest = NULL;
	unsigned n = 0;

	list_each(x, &a->list, node) {
		n++;
		if (!x->making && !x->taken && (!oldest || x->wanted_ns < oldest->wanted_ns))
			oldest = x;
	}
	if (n < HOMES_MAX || !oldest)
		return NULL;
	list_del(&oldest->node);
	return oldest;
}

/* Is there one? It is wanted, then. */
static bool again(struct aheads *a, const char *home)
{
	struct ahead *x = find(a, home);

	if (x)
		x->wanted_ns = clock_boot_ns();
	return x || a->closing;
}

void aheads_want(struct aheads *a, const char *home)
{
	struct ahead *x = calloc(1, sizeof(*x)), *old = NULL;
	bool there;

	if (!x)
		return;
	*x = (struct ahead){ .all = a, .making = true, .wanted_ns = clock_boot_ns() };
	snprintf(x->home, sizeof(x->home), "%s", home);
	pthread_mutex_lock(&a->lock);
	there = again(a, home);
	if (!there) {
		old = make_room(a);
		a->threads++;
		list_add_tail(&a->list, &x->node);
		if (thread_run(make_main, x)) {
			a->threads--;
			list_del(&x->node);
			there = true;
		}
	}
	pthread_mutex_unlock(&a->lock);
	if (there)
		discard(a, x); /* which has no nest */
	if (old)
		discard_aside(a, old);
}

void aheads_want_soon(struct aheads *a, const char *home)
{
	struct soon *s = calloc(1, sizeof(*s)), *other;

	if (!s)
		return;
	*s = (struct soon){ .since_ns = clock_boot_ns() };
	snprintf(s->home, sizeof(s->home), "%s", home);
	pthread_mutex_lock(&a->lock);
	list_each(other, &a->soon, node)
		if (!strcmp(other->home, home)) {
			other->since_ns = s->since_ns;
			free(s);
			s = NULL;
			break;
		}
	if (s)
		list_add_tail(&a->soon, &s->node);
	pthread_mutex_unlock(&a->lock);
}

/* One whose moment is over, out of the list; NULL: none. all: whether it is over or not. */
static struct soon *next_due(struct aheads *a, bool all)
{
	struct soon *s, *found = NULL;

	pthread_mutex_lock(&a->lock);
	list_each(s, &a->soon, node)
		if (all || clock_boot_ns() - s->since_ns >= SOON_MS * 1000000ull) {
			found = s;
			list_del(&s->node);
			break;
		}
	pthread_mutex_unlock(&a->lock);
	return found;
}

int aheads_take(struct aheads *a, const char *home, char cgroup[CGROUP_NAME_MAX], struct nest **out, struct error *e)
{
	struct ahead *x;

	pthread_mutex_lock(&a->lock);
	x = find(a, home);
	if (x) {
		x->taken = true;
		while (x->making)
			pthread_cond_wait(&a->changed, &a->lock);
		list_del(&x->node);
	}
	pthread_mutex_unlock(&a->lock);
	*out = NULL;
	if (x && is_good(a->m, x)) {
		*out = x->nest;
		strcpy(cgroup, x->cgroup);
		x->nest = NULL;
	}
	if (x)
		discard_aside(a, x);
	return *out ? 0 : make(a->m, home, cgroup, out, e);
}

bool aheads_any(struct aheads *a)
{
	bool any;

	pthread_mutex_lock(&a->lock);
	any = !list_empty(&a->list) || !list_empty(&a->soon);
	pthread_mutex_unlock(&a->lock);
	return any;
}

void aheads_tick(struct aheads *a)
{
	struct ahead *x, *tmp;
	struct list over;
	struct soon *s;

	while ((s = next_due(a, false))) {
		if (owner_is_idle(a->m->owner)) /* else none come, and it would be made at its owner's cost */
			aheads_want(a, s->home);
		free(s);
	}
	list_init(&over);
	pthread_mutex_lock(&a->lock);
	list_each_safe(x, tmp, &a->list, node) {
		if (x->making || x->taken || clock_boot_ns() - x->wanted_ns < KEEP_S * 1000000000ull)
			continue;
		list_del(&x->node);
		list_add_tail(&over, &x->node);
	}
	pthread_mutex_unlock(&a->lock);
	list_each_safe(x, tmp, &over, node)
		discard_aside(a, x);
}

void aheads_close(struct aheads *a)
{
	struct ahead *x, *tmp;
	struct soon *s;

	if (!a)
		return;
	while ((s = next_due(a, true)))
		free(s);
	pthread_mutex_lock(&a->lock);
	a->closing = true;
	while (a->threads)
		pthread_cond_wait(&a->changed, &a->lock);
	list_each_safe(x, tmp, &a->list, node) {
		if (x->taken)
			continue; /* its guest's actor has it */
		list_del(&x->node);
		discard(a, x);
	}
	pthread_mutex_unlock(&a->lock);
}
