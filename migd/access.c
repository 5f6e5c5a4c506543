// SPDX-License-Identifier: Apache-2.0
/* See access.h. */
#include "migd/access.h"
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/list.h"
#include "conf/log.h"

enum { ANSWER_MS = 5000, COMPARE_MS = 5000, COMPARE_NONE_MS = 30000, AGAIN_MS = 200, AGAIN_MAX_MS = 1000 };

struct guest_host {
	struct list node;
	char *host, *family;
	uid_t uid;
};

struct access {
	struct migd *m;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	struct list list; /* who is let in */
	pthread_t thread;
	bool running, stopping;
	bool differs; /* spritefsd may have another list */
};

int access_open(struct migd *m, struct access **out)
{
	struct access *a = calloc(1, sizeof(*a));
	pthread_condattr_t attr;

	if (!a)
		return -ENOMEM;
	a->m = m;
	pthread_mutex_init(&a->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&a->cond, &attr);
	pthread_condattr_destroy(&attr);
	list_init(&a->list);
	a->differs = true;
	*out = a;
	return 0;
}

static void guest_host_free(struct guest_host *g)
{
	free(g->host);
	free(g->family);
	free(g);
}

void access_close(struct access *a)
{
	struct list *l;

	if (!a)
		return;
	if (a->running) {
		pthread_mutex_lock(&a->lock);
		a->stopping = true;
		pthread_cond_signal(&a->cond);
		pthread_mutex_unlock(&a->lock);
		pthread_join(a->thread, NULL);
	}
	while ((l = list_pop(&a->list)))
		guest_host_free(list_entry(l, struct guest_host, node));
	pthread_cond_destroy(&a->cond);
	pthread_mutex_destroy(&a->lock);
	free(a);
}

/* ---- the list; with the lock */

static struct guest_host *find(struct access *a, const char *host, uid_t uid, const char *family)
{
	struct guest_host *g;

	list_each(g, &a->list, node)
		if (g->uid == uid && !strcmp(g->host, host) && !strcmp(g->family, family))
			return g;
	return NULL;
}

static void drop(struct guest_host *g)
{
	if (!g)
		return;
	list_del(&g->node);
	guest_host_free(g);
}

/* 1: it is new; 0: it was there; -ENOMEM. */
static int add(struct access *a, const char *host, uid_t uid, const char *family)
{
	struct guest_host *g;

	if (find(a, host, uid, family))
		return 0;
	g = calloc(1, sizeof(*g));
	if (!g)
		return -ENOMEM;
	g->host = strdup(host);
	g->family = strdup(family);
	g->uid = uid;
	if (!g->host || !g->family) {
		guest_host_free(g);
		return -ENOMEM;
	}
	if (list_empty(&a->list))
		pthread_cond_signal(&a->cond);
	list_add_tail(&a->list, &g->node);
	return 1;
}

/* ---- telling spritefsd; with the lock */

static int call(struct access *a, json_t *request, struct error *e)
{
	_cleanup_free_ char *path = NULL;
	json_t *answer = NULL;
	int err;

	if (asprintf(&path, "%s/spritefsd.sock", a->m->conf->run_dir) < 0) {
		json_decref(request);
		return error_set(e, ENOMEM, "out of memory");
	}
	err = local_call_within(path, request, NULL, NULL, ANSWER_MS, &answer, e);
	json_decref(answer);
	return err;
}

static json_t *request_about(const char *verb, const char *host, uid_t uid, const char *family)
{
	return json_pack("{s:s, s:s, s:I, s:s}", "verb", verb, "host", host, "uid", (json_int_t)uid, "family", family);
}

static int tell_all(struct access *a, struct error *e)
{
	json_t *rows = json_array();
	struct guest_host *g;

	list_each(g, &a->list, node)
		json_array_append_new(rows, json_pack("{s:s, s:I, s:s}", "host", g->host, "uid", (json_int_t)g->uid, "family", g->family));
	return call(a, json_pack("{s:s, s:o}", "verb", "grants", "grants", rows), e);
}

static void differs(struct access *a)
{
	a->differs = true;
	pthread_cond_signal(&a->cond);
}

/* With the lock. Until it is time to tell it all again. What is let in to none, a new spritefsd cannot be without: add() ends that rest. */
static void rest(struct access *a, unsigned again_ms)
{
	uint64_t since = clock_host_mono_ns(), due;
	bool differed = a->differs;

	do {
		struct timespec t;

		due = since + (differed ? again_ms : list_empty(&a->list) ? COMPARE_NONE_MS : COMPARE_MS) * 1000000ull;
		t = (struct timespec){ .tv_sec = (time_t)(due / 1000000000), .tv_nsec = (long)(due % 1000000000) };
		pthread_cond_timedwait(&a->cond, &a->lock, &t);
	} while (!a->stopping && a->differs == differed && clock_host_mono_ns() < due);
}

static void *compare_main(void *arg)
{
	struct access *a = arg;
	bool told = false; /* in the log */
	unsigned ms = 0;

	pthread_setname_np(pthread_self(), "access");
	pthread_mutex_lock(&a->lock);
	while (!a->stopping) {
		struct error e = { 0 };

		a->differs = tell_all(a, &e) != 0;
		if (a->differs && !told && !list_empty(&a->list))
			log_warn("spritefsd does not hear who may get at the files of this host: %s; it is told again until it does", e.text);
		told = a->differs;
		ms = !a->differs ? 0 : ms < AGAIN_MAX_MS ? ms + AGAIN_MS : AGAIN_MAX_MS;
		rest(a, ms);
	}
	pthread_mutex_unlock(&a->lock);
	return NULL;
}

int access_start(struct access *a)
{
	int err = pthread_create(&a->thread, NULL, compare_main, a);

	a->running = !err;
	return -err;
}

/* ---- for the moves */

int access_grant(struct migd *m, const char *host, uid_t uid, const char *family, struct error *e)
{
	struct access *a = m->access;
	int err, fresh;

	pthread_mutex_lock(&a->lock);
	fresh = add(a, host, uid, family);
	err = fresh < 0 ? error_set(e, ENOMEM, "out of memory") : call(a, request_about("grant", host, uid, family), e);
	if (err && fresh > 0) {
		drop(find(a, host, uid, family));
		differs(a); /* it may have been heard all the same */
	}
	pthread_mutex_unlock(&a->lock);
	if (err)
		error_prefix(e, "%s cannot be let in to the files of this host (spritefsd serves them)", host);
	return err;
}

void access_expect(struct migd *m, const char *host, uid_t uid, const char *family)
{
	struct access *a = m->access;

	pthread_mutex_lock(&a->lock);
	if (add(a, host, uid, family) < 0)
		log_warn("family %s: no memory to let %s in to its files", family, host);
	pthread_mutex_unlock(&a->lock);
}

void access_revoke(struct migd *m, const char *host, uid_t uid, const char *family)
{
	struct access *a = m->access;
	struct error e = { 0 };
	int err;

	pthread_mutex_lock(&a->lock);
	drop(find(a, host, uid, family));
	err = call(a, request_about("revoke", host, uid, family), &e);
	if (err) {
		log_warn("family %s: taking back the access of %s: %s; it is tried again until it is done", family, host, e.text);
		differs(a);
	}
	pthread_mutex_unlock(&a->lock);
}
