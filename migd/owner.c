// SPDX-License-Identifier: Apache-2.0
/* The owner's rights; see owner.h. One thread watches. */
#include "migd/owner.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <systemd/sd-login.h>
#include <unistd.h>
#include <utmpx.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/log.h"
#include "migd/cgroup.h"
#include "migd/evict.h"
#include "migd/family.h"
#include "migd/guest.h"
#include "migd/idle_load.h"
#include "migd/office.h"
#include "migd/proc.h"
#include "migd/stats.h"

/*
 * SAMPLE_MS: how often sources are looked at that cannot call; CALM_MS: on a host that is idle, with no guest that its owner could be disturbed by; ALL_MS: of those the dear ones.
 * TURN_MS: while guests are to leave.
 */
enum { SAMPLE_MS = 2000, CALM_MS = 5000, ALL_MS = 10000, TURN_MS = 500, SOURCES = 32 };

struct owner {
	struct migd *m;
	pthread_mutex_t lock;
	pthread_t thread;
	int stop_fd, kick_fd;
	struct idle_watch *watch; /* the thread's */
	struct idle_rules rules;
	uint64_t all_ns;       /* the thread's: when all sources were looked at last; 0: not yet */
	uint64_t evict_ns;     /* the thread's: when those began that are still to leave; 0: nobody is */
	struct idle_view view; /* lock */
	bool idle;	       /* lock */
	const char *why;       /* lock */
	struct idle_source sources[SOURCES]; /* lock */
	size_t nsources;
};

/* ---- lending ---- */

static char *lend_path(const struct conf *c)
{
	char *p;

	return asprintf(&p, "%s/lend", c->state_dir) < 0 ? NULL : p;
}

/* "on" or "off", until when (seconds since 1970): then it is the other way round; and "seat" if who sits here said so. */
void lend_load(struct migd *m)
{
	_cleanup_free_ char *path = lend_path(m->conf);
	_cleanup_fclose_ FILE *f = path ? fopen(path, "re") : NULL;
	long long until = 0;
	char word[8] = "", by[8] = "";

	m->lend = m->conf->lend;
	if (!f || fscanf(f, "%7s %lld %7s", word, &until, by) < 1)
		return;
	m->lend = !strcmp(word, "on");
	m->lend_seat = !strcmp(by, "seat");
	m->lend_until = until;
}

int lend_set(struct migd *m, bool on, int64_t until, bool seat, struct error *e)
{
	_cleanup_free_ char *path = lend_path(m->conf), *tmp = NULL;
	_cleanup_fclose_ FILE *f = NULL;

	if (!path || asprintf(&tmp, "%s.new", path) < 0)
		return error_set(e, ENOMEM, "out of memory");
	f = fopen(tmp, "we");
	if (!f || fprintf(f, "%s %lld%s\n", on ? "on" : "off", (long long)until, seat ? " seat" : "") < 0 || fflush(f) || fsync(fileno(f)) || rename(tmp, path))
		return error_set(e, errno, "%s: cannot be written: %s", path, strerror(errno));
	m->lend = on;
	m->lend_until = until;
	m->lend_seat = seat;
	log_note("this host %s%s", on ? "lends itself to guests" : "no longer lends itself", until ? " for the time being" : "");
	if (m->office)
		office_report_soon(m->office);
	return 0;
}

static void lend_check(struct migd *m)
{
	struct error e = { 0 };
	bool on = !m->lend;

	if (!m->lend_until || clock_real_ns() / 1000000000 < m->lend_until)
		return;
	if (lend_set(m, on, 0, m->lend_seat, &e))
		log_warn("%s", e.text);
	else if (!on)
		evict_guests(m, NULL, "the time it was lent for is over", true);
}

/* ---- who sits here ---- */

bool owner_sits_here(uid_t uid)
{
	struct utmpx *u;
	bool here = sd_uid_get_seats(uid, 1, NULL) > 0;
	struct passwd *pw = getpwuid(uid);

	if (here || !pw)
		return here;
	setutxent();
	while (!here && (u = getutxent()))
		here = u->ut_type == USER_PROCESS && (!u->ut_host[0] || u->ut_host[0] == ':') && !strncmp(u->ut_user, pw->pw_name, sizeof(u->ut_user));
	endutxent();
	return here;
}

bool lend_may_change(struct migd *m, uid_t uid)
{
	return !uid || ((m->lend || m->lend_seat) && owner_sits_here(uid));
}

/* ---- the watch ---- */

/* Runnable threads of all guests: they are not the owner's doing. */
static unsigned guests_running(struct migd *m)
{
	struct family **v = NULL;
	size_t n = m->cgroups ? families_list(m->families, FAM_GUEST, &v) : 0;
	unsigned running = 0;

	for (size_t i = 0; i < n; i++) {
		char name[CGROUP_NAME_MAX];
		pid_t pids[512];
		int k;

		pthread_mutex_lock(&v[i]->lock);
		strcpy(name, v[i]->cgroup);
		pthread_mutex_unlock(&v[i]->lock);
		k = *name ? cgroup_pids(m->cgroups, name, pids, ARRAY_SIZE(pids)) : 0;
		running += k > 0 ? idle_load_running(pids, k < (int)ARRAY_SIZE(pids) ? (size_t)k : ARRAY_SIZE(pids)) : 0;
	}
	families_list_free(v, n);
	return running;
}

static uint64_t quiet_ms(const struct idle_view *v)
{
	uint64_t since = v->last_input_ns ? v->last_input_ns : v->since_ns;

	return v->now_ns > since ? (v->now_ns - since) / 1000000 : 0;
}

/* The owner has touched the host: guests stop now, everything else comes after. */
static void on_input(struct owner *o)
{
	size_t n = evict_guests(o->m, NULL, "its owner is back", false);
	uint64_t before;

	if (!n)
		return;
	log_note("the owner is back: %zu guest%s stopped, and sent away", n, n == 1 ? "" : "s");
	pthread_mutex_lock(&o->lock);
	before = quiet_ms(&o->view);
	pthread_mutex_unlock(&o->lock);
	stats_idle_before(o->m, true, before);
}

/* Returns whether the host is idle now. */
static bool look(struct owner *o)
{
	struct idle_source src[SOURCES];
	uint64_t now = clock_mono_ns();
	bool was, idle, all = !o->all_ns || now - o->all_ns > (ALL_MS - SAMPLE_MS / 2) * 1000000ull;
	struct idle_view v;
	const char *why;
	size_t n;

	if (all)
		o->all_ns = now;
	idle_sample(o->watch, all, all ? guests_running(o->m) : 0, &v);
	n = idle_sources(o->watch, src, SOURCES);
	pthread_mutex_lock(&o->lock);
	was = o->idle;
	idle = idle_decide(&o->rules, &v, was, &why);
	o->idle = idle;
	o->why = why;
	o->view = v;
	memcpy(o->sources, src, n * sizeof(src[0]));
	o->nsources = n;
	pthread_mutex_unlock(&o->lock);
	if (was != idle) {
		log_note("this host is %s (%s)", idle ? "idle" : "in use", why);
		struct office *office = __atomic_load_n(&o->m->office, __ATOMIC_ACQUIRE); /* opened after us: it asks us */

		if (office)
			office_report_soon(office);
	}
	if (was && !idle && !strcmp(why, "input")) { /* most input is seen at once, by its device; this was seen by looking (atime, logind) */
		on_input(o);
	} else if (was && !idle && families_count(o->m->families, FAM_GUEST)) {
		log_note("no longer idle (%s): guests are sent away", why);
		evict_guests(o->m, NULL, why, false);
	}
	if (all)
		stats_sample(o->m, idle, v.load[0]);
	return idle;
}

/* Says, once, how long it took until the last one had left. */
static void watch_leaving(struct owner *o)
{
	bool some = evict_under_way(o->m);

	evict_calm(o->m, some);
	if (some && !o->evict_ns) {
		o->evict_ns = clock_mono_ns();
	} else if (!some && o->evict_ns) {
		log_note("all guests have left: %.0f ms", (clock_mono_ns() - o->evict_ns) / 1e6);
		o->evict_ns = 0;
	}
}

static void *owner_main(void *arg)
{
	struct owner *o = arg;
	struct pollfd p[3] = { { .fd = o->stop_fd, .events = POLLIN }, { .fd = idle_fd(o->watch), .events = POLLIN }, { .fd = o->kick_fd, .events = POLLIN } };
	bool idle = false;
	uint64_t last = 0, unused;

	for (;;) {
		bool input = false;
		int every = idle && !families_count(o->m->families, FAM_GUEST) ? CALM_MS : SAMPLE_MS; /* a guest that comes kicks us */

		poll(p, 3, o->evict_ns ? TURN_MS : every);
		if (p[0].revents)
			return NULL;
		if (p[1].revents)
			input = idle_poll(o->watch);
		if (p[2].revents && read(o->kick_fd, &unused, sizeof(unused)) < 0)
			continue;
		if (input && families_count(o->m->families, FAM_GUEST))
			on_input(o);
		if (input || clock_mono_ns() - last > (uint64_t)every * 900000) {
			last = clock_mono_ns();
			idle = look(o);
			lend_check(o->m);
		}
		if (families_count(o->m->families, FAM_GUEST))
			evict_turn(o->m, idle);
		watch_leaving(o);
	}
}

void owner_kick(struct owner *o)
{
	uint64_t one = 1;

	if (write(o->kick_fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
		log_warn("eventfd: %s", strerror(errno));
}

bool owner_is_idle(struct owner *o)
{
	struct owner_view v = { 0 };

	if (o)
		owner_look(o, &v);
	return v.idle;
}

/* All guests together. Without that control a host lends itself all the same: each family has limits of its own, and mig hosts -v shows what there is. */
static void limit_guests(struct migd *m)
{
	struct cgroup_limits l = { .memory_max = proc_memory_total() / 100 * m->conf->guests_memory_percent, .pids_max = proc_pids_max() / 2 };
	struct error e = { 0 };

	if (m->cgroups && cgroups_limit_all(m->cgroups, &l, &e))
		log_warn("%s", e.text);
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
	memcpy(o->rules.low, m->conf->load_low, sizeof(o->rules.low));
	memcpy(o->rules.high, m->conf->load_high, sizeof(o->rules.high));
	o->rules.remote_logins = m->conf->remote_logins;
	o->rules.on_battery = m->conf->on_battery;
	pthread_mutex_init(&o->lock, NULL);
	limit_guests(m);
	o->stop_fd = eventfd(0, EFD_CLOEXEC);
	o->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	err = o->stop_fd < 0 || o->kick_fd < 0 ? -errno : idle_open(&o->rules, &o->watch, e);
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

void owner_stop(struct owner *o)
{
	uint64_t one = 1;

	if (!o)
		return;
	if (write(o->stop_fd, &one, sizeof(one)) == sizeof(one))
		pthread_join(o->thread, NULL);
	evict_calm(o->m, false);
}

void owner_close(struct owner *o)
{
	if (!o)
		return;
	idle_close(o->watch);
	close(o->stop_fd);
	close(o->kick_fd);
	pthread_mutex_destroy(&o->lock);
	free(o);
}

void owner_look(struct owner *o, struct owner_view *out)
{
	pthread_mutex_lock(&o->lock);
	out->idle = o->idle;
	out->why = o->why;
	out->idle_ms = quiet_ms(&o->view);
	memcpy(out->load, o->view.load, sizeof(out->load));
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
