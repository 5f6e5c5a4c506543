// SPDX-License-Identifier: Apache-2.0
/* The owner's rights; see owner.h. One thread watches. */
#include "migd/owner.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/log.h"
#include "migd/family.h"
#include "migd/guest.h"
#include "migd/hosts.h"

#define EVICT_AGAIN_NS (2ull * 1000000000)
enum { SAMPLE_MS = 2000, EVICT_CALL_MS = 3000 };

struct owner {
	struct migd *m;
	pthread_mutex_t lock;
	pthread_t thread;
	int stop_fd;
	struct idle_watch *watch; /* the thread's */
	struct idle_rules rules;
	struct idle_view view; /* lock */
	bool idle;	       /* lock */
	const char *why;       /* lock */
	struct idle_source sources[32]; /* lock */
	size_t nsources;
};

/* ---- lending ---- */

static char *lend_path(const struct conf *c)
{
	char *p;

	return asprintf(&p, "%s/lend", c->state_dir) < 0 ? NULL : p;
}

bool lend_load(const struct conf *c)
{
	_cleanup_free_ char *path = lend_path(c);
	_cleanup_fclose_ FILE *f = path ? fopen(path, "re") : NULL;
	char word[8] = "";

	if (!f || fscanf(f, "%7s", word) != 1)
		return c->lend;
	return !strcmp(word, "on");
}

int lend_set(struct migd *m, bool on, struct error *e)
{
	_cleanup_free_ char *path = lend_path(m->conf);
	_cleanup_close_ int fd = -1;
	const char *word = on ? "on\n" : "off\n";

	if (!path)
		return error_set(e, ENOMEM, "out of memory");
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0 || write(fd, word, strlen(word)) != (ssize_t)strlen(word))
		return error_set(e, errno, "%s: cannot be written: %s", path, strerror(errno));
	m->lend = on;
	log_note("this host %s", on ? "lends itself to guests" : "no longer lends itself");
	return 0;
}

/* ---- eviction ---- */

struct evict {
	struct family *f;
	char why[64];
};

static void *evict_main(void *arg)
{
	struct evict *ev = arg;
	struct family *f = ev->f;
	Sprite__Mig__EvictReq r = SPRITE__MIG__EVICT_REQ__INIT;
	struct error e = { 0 };
	struct host *h = hosts_find(f->m->hosts, f->home, &e);

	r.family = f->id;
	r.gen = f->gen;
	r.why = ev->why;
	if (!h || host_call(h, MIG_EVICT, &r.base, EVICT_CALL_MS, NULL, &e))
		log_warn("family %s: %d (%s) cannot go home now: %s", f->id, f->pid, f->comm, e.text);
	family_put(f);
	free(ev);
	return NULL;
}

static bool evict_ask(struct family *f, const char *why)
{
	struct evict *ev = calloc(1, sizeof(*ev));

	if (!ev)
		return false;
	ev->f = family_get(f);
	snprintf(ev->why, sizeof(ev->why), "%s", why);
	if (!thread_run(evict_main, ev))
		return true;
	family_put(f);
	free(ev);
	return false;
}

/* Off the CPU, if it is on it: one that is just arriving or leaving is in the engine's hands, where it does not run either. */
static bool evict_stop(struct family *f)
{
	uint64_t now = clock_boot_ns();
	bool news;

	pthread_mutex_lock(&f->lock);
	news = !f->evicting || now - f->evict_ns > EVICT_AGAIN_NS; /* an owner who types does not ask with every key */
	f->evicting = true;
	if (news)
		f->evict_ns = now;
	if (f->machine.state == MD_RUNNING || f->machine.state == MS_RUNNING)
		guest_freeze(f, true);
	pthread_mutex_unlock(&f->lock);
	return news;
}

size_t evict_guests(struct migd *m, const char *id, const char *why)
{
	struct family **v;
	size_t n = families_list(m->families, FAM_GUEST, &v), asked = 0;
	bool *ask = calloc(n + 1, sizeof(*ask));

	for (size_t i = 0; i < n; i++) /* all of them stop before anything else is done */
		if (!id || !strcmp(id, v[i]->id)) {
			bool news = evict_stop(v[i]);

			if (ask)
				ask[i] = news;
		}
	for (size_t i = 0; ask && i < n; i++)
		if (ask[i])
			asked += evict_ask(v[i], why);
	free(ask);
	families_list_free(v, n);
	return asked;
}

/* Guests that were told to go and are still here: asked for again, or let run on when the owner has gone again. */
static void evict_again(struct migd *m, bool idle)
{
	struct family **v;
	size_t n = families_list(m->families, FAM_GUEST, &v);
	uint64_t now = clock_boot_ns();

	for (size_t i = 0; i < n; i++) {
		struct family *f = v[i];
		bool ask = false;

		pthread_mutex_lock(&f->lock);
		if (f->evicting && idle) {
			f->evicting = false;
			guest_freeze(f, false);
		} else if (f->evicting && now - f->evict_ns > EVICT_AGAIN_NS) {
			f->evict_ns = now;
			ask = true;
			if (f->machine.state == MD_RUNNING || f->machine.state == MS_RUNNING)
				guest_freeze(f, true);
		}
		pthread_mutex_unlock(&f->lock);
		if (ask)
			evict_ask(f, "asked again");
	}
	families_list_free(v, n);
}

/* ---- the watch ---- */

static void look(struct owner *o)
{
	struct idle_source src[32];
	struct idle_view v;
	const char *why;
	bool was, idle;
	size_t n;

	idle_sample(o->watch, 0, &v);
	n = idle_sources(o->watch, src, 32);
	pthread_mutex_lock(&o->lock);
	was = o->idle;
	idle = idle_decide(&o->rules, &v, was, &why);
	o->idle = idle;
	o->why = why;
	o->view = v;
	memcpy(o->sources, src, n * sizeof(src[0]));
	o->nsources = n;
	pthread_mutex_unlock(&o->lock);
	if (was != idle)
		log_note("this host is %s (%s)", idle ? "idle" : "in use", why);
	evict_again(o->m, idle);
}

static void *owner_main(void *arg)
{
	struct owner *o = arg;
	struct pollfd p[2] = { { .fd = o->stop_fd, .events = POLLIN }, { .fd = idle_fd(o->watch), .events = POLLIN } };
	uint64_t last = 0;

	for (;;) {
		bool input = false;

		poll(p, 2, SAMPLE_MS);
		if (p[0].revents)
			return NULL;
		if (p[1].revents)
			input = idle_poll(o->watch);
		if (input && families_count(o->m->families, FAM_GUEST)) {
			size_t n = evict_guests(o->m, NULL, "its owner is back");

			if (n)
				log_note("the owner is back: %zu guest%s stopped and sent home", n, n == 1 ? "" : "s");
		}
		if (input || clock_mono_ns() - last > SAMPLE_MS * 900000ull) {
			last = clock_mono_ns();
			look(o);
		}
	}
}

int owner_open(struct migd *m, struct owner **out, struct error *e)
{
	struct owner *o = calloc(1, sizeof(*o));
	int err;

	if (!o)
		return error_set(e, ENOMEM, "out of memory");
	o->m = m;
	o->why = "waiting";
	o->rules = idle_rules_default;
	o->rules.idle_after_ns = m->conf->idle_after * 1000000000ull;
	o->rules.remote_logins = m->conf->remote_logins;
	o->rules.on_battery = m->conf->on_battery;
	pthread_mutex_init(&o->lock, NULL);
	o->stop_fd = eventfd(0, EFD_CLOEXEC);
	err = o->stop_fd < 0 ? -errno : idle_open(&o->rules, &o->watch, e);
	if (!err)
		err = -pthread_create(&o->thread, NULL, owner_main, o);
	if (err) {
		if (o->watch)
			idle_close(o->watch);
		free(o);
		return error_set(e, -err, "cannot watch for the owner's input: %s", strerror(-err));
	}
	*out = o;
	return 0;
}

void owner_close(struct owner *o)
{
	uint64_t one = 1;

	if (!o)
		return;
	if (write(o->stop_fd, &one, sizeof(one)) == sizeof(one))
		pthread_join(o->thread, NULL);
	idle_close(o->watch);
	close(o->stop_fd);
	pthread_mutex_destroy(&o->lock);
	free(o);
}

void owner_look(struct owner *o, struct owner_view *out)
{
	uint64_t since;

	pthread_mutex_lock(&o->lock);
	since = o->view.last_input_ns ? o->view.last_input_ns : o->view.since_ns;
	out->idle = o->idle;
	out->why = o->why;
	out->idle_ms = o->view.now_ns > since ? (o->view.now_ns - since) / 1000000 : 0;
	pthread_mutex_unlock(&o->lock);
}

size_t owner_sources(struct owner *o, struct idle_source *out, size_t max)
{
	size_t n;

	pthread_mutex_lock(&o->lock);
	n = o->nsources < max ? o->nsources : max;
	memcpy(out, o->sources, n * sizeof(*out));
	pthread_mutex_unlock(&o->lock);
	return n;
}
