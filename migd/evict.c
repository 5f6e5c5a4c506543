// SPDX-License-Identifier: Apache-2.0
/* Sending guests away; see evict.h. */
#include "migd/evict.h"
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/fault.h"
#include "conf/log.h"
#include "migd/cgroup.h"
#include "migd/guest.h"
#include "migd/hosts.h"
#include "migd/owner.h"
#include "migd/stats.h"

#define AGAIN_NS (2ull * 1000000000)
#define HURRY_NS (3ull * 1000000000)
#define SMALL (16ull << 20) /* bytes: who has no more is gone before another could wait for him */
enum { CALL_MS = 3000, LINK_DEFAULT_MBIT = 1000, SMALL_AT_ONCE = 16 };

/* ---- asking a home ---- */

static void *ask_main(void *arg)
{
	struct family *f = arg;
	Sprite__Mig__EvictReq r = SPRITE__MIG__EVICT_REQ__INIT;
	struct error e = { 0 };
	struct host *h = hosts_find(f->m->hosts, f->home, &e);
	int err = -EHOSTDOWN;

	r.family = f->id;
	r.gen = f->gen;
	r.why = f->evict_why;
	if (h)
		err = host_call(h, MIG_EVICT, &r.base, CALL_MS, NULL, &e);
	if (err && err != -EBUSY) /* busy: it is on its way already */
		log_warn("family %s: %d (%s) cannot leave now: %s", f->id, f->pid, f->comm, e.text);
	family_put(f);
	return NULL;
}

static void ask(struct family *f)
{
	if (thread_run(ask_main, family_get(f)))
		family_put(f); /* asked again in a moment */
}

/* ---- whose turn it is ---- */

static bool runs(const struct family *f)
{
	return f->machine.state == MD_RUNNING || f->machine.state == MS_RUNNING;
}

/* Off the CPU, if it is on it: one that is just arriving or leaving is in the engine's hands, where it does not run either (guest.c stops it on arrival). */
static bool stop(struct family *f, const char *why, bool by_hand)
{
	bool news;

	pthread_mutex_lock(&f->lock);
	news = !f->evicting;
	if (news) {
		f->evicting = true;
		f->evict_by_hand = false;
		f->evict_since_ns = clock_boot_ns();
		f->evict_ns = 0;
		snprintf(f->evict_why, sizeof(f->evict_why), "%s", why);
	}
	f->evict_by_hand |= by_hand;
	if (runs(f))
		guest_freeze_begin(f);
	pthread_mutex_unlock(&f->lock);
	return news;
}

size_t evict_guests(struct migd *m, const char *id, const char *why, bool by_hand)
{
	struct family **v;
	size_t n = families_list(m->families, FAM_GUEST, &v), news = 0;

	for (size_t i = 0; i < n; i++)
		if (!id || !strcmp(id, v[i]->id))
			news += stop(v[i], why, by_hand);
	families_list_free(v, n);
	if (news && !id && m->cgroups) {
		cgroups_hurry(m->cgroups);
		fault_point("hurried");
	}
	if (news)
		stats_count(m, COUNT_EVICTIONS, (unsigned)news);
	evict_turn(m, false);
	return news;
}

static int actor_kill(struct family *f, void *unused)
{
	siginfo_t info = { .si_signo = SIGKILL, .si_code = SI_USER };
	size_t n = 0;
	const pid_t *p = f->eng ? eng_pids(f->eng, &n) : NULL;

	(void)unused;
	for (size_t i = 0; i < n; i++)
		eng_signal(f->eng, p[i], 0, &info, 0);
	pthread_mutex_lock(&f->lock);
	guest_freeze(f, false); /* v1: a frozen task does not die */
	pthread_mutex_unlock(&f->lock);
	return 0;
}

/* Under f->lock: asked and about to begin, or in the hands of the engine. */
static bool under_way(const struct family *f, uint64_t now)
{
	return !runs(f) || (f->evict_ns && now - f->evict_ns < AGAIN_NS);
}

/* Its user would rather lose it than have it wait for so long. Under f->lock. */
static bool is_stuck(const struct family *f, uint64_t now)
{
	return f->stuck_kill_s && now - f->evict_since_ns > f->stuck_kill_s * 1000000000ull;
}

static void end_stuck(struct family *f)
{
	log_warn("family %s: %d (%s) could not leave within %u s: its user asked for it to be killed then", f->id, f->pid, f->comm, f->stuck_kill_s);
	stats_count(f->m, COUNT_KILLED, 1);
	family_post(f, actor_kill, NULL);
}

/* One that waits for its turn. Returns whether it has it now. */
static bool take_turn(struct family *f, uint64_t now, bool place)
{
	bool waits, stuck;

	pthread_mutex_lock(&f->lock);
	waits = f->evicting && !under_way(f, now);
	stuck = waits && is_stuck(f, now);
	if (waits && (place || stuck))
		f->evict_ns = now;
	if (waits)
		guest_freeze_begin(f); /* a move that failed has let it go */
	pthread_mutex_unlock(&f->lock);
	if (stuck)
		end_stuck(f);
	else if (waits && place)
		ask(f);
	return waits && place && !stuck;
}

/* The owner has gone again: who is still here and was stopped for his sake runs on. Who is just coming or leaving does so, or is told no, first. */
static void let_run(struct family *f)
{
	pthread_mutex_lock(&f->lock);
	if (f->evicting && !f->evict_by_hand && runs(f)) {
		f->evicting = false;
		f->evict_ns = 0;
		guest_freeze(f, false);
	}
	pthread_mutex_unlock(&f->lock);
}

/* One that is to leave, as it was when it was looked at. */
struct leaver {
	struct family *f;
	uint64_t bytes; /* that its image will have, about */
	bool under_way;
};

/* Is it to leave? A command that was placed here came with a small image and has grown since: what counts is what it has now. */
static bool look_at(struct family *f, uint64_t now, struct leaver *out)
{
	char name[CGROUP_NAME_MAX];
	bool leaves;

	pthread_mutex_lock(&f->lock);
	leaves = f->evicting;
	*out = (struct leaver){ .f = f, .bytes = f->image_bytes, .under_way = under_way(f, now) };
	strcpy(name, f->cgroup);
	pthread_mutex_unlock(&f->lock);
	if (leaves && *name && f->m->cgroups)
		cgroup_memory(f->m->cgroups, name, &out->bytes);
	return leaves;
}

static int by_size(const void *a, const void *b)
{
	const struct leaver *x = a, *y = b;

	return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

void evict_turn(struct migd *m, bool idle)
{
	static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER; /* one looks at a time: a place is given once */
	struct family **v;
	size_t n = families_list(m->families, FAM_GUEST, &v), leaving = 0;
	struct leaver *l = n ? calloc(n, sizeof(*l)) : NULL;
	unsigned small = 0, large = 0; /* on their way */
	uint64_t now;

	pthread_mutex_lock(&turn);
	now = clock_boot_ns();
	for (size_t i = 0; l && i < n; i++) {
		if (idle)
			let_run(v[i]);
		if (!look_at(v[i], now, &l[leaving]))
			continue;
		if (l[leaving].under_way)
			*(l[leaving].bytes > SMALL ? &large : &small) += 1;
		leaving++;
	}
	if (leaving > 1)
		qsort(l, leaving, sizeof(*l), by_size);
	for (size_t i = 0; i < leaving; i++) {
		unsigned *busy = l[i].bytes > SMALL ? &large : &small;

		*busy += take_turn(l[i].f, now, *busy < (busy == &large ? m->conf->evict_at_once : SMALL_AT_ONCE));
	}
	pthread_mutex_unlock(&turn);
	free(l);
	families_list_free(v, n);
}

bool evict_under_way(struct migd *m)
{
	struct family **v;
	size_t n = families_list(m->families, FAM_GUEST, &v);
	bool any = false;

	for (size_t i = 0; i < n; i++) {
		pthread_mutex_lock(&v[i]->lock);
		any |= v[i]->evicting;
		pthread_mutex_unlock(&v[i]->lock);
	}
	families_list_free(v, n);
	return any;
}

void evict_calm(struct migd *m, bool some)
{
	if (m->cgroups)
		cgroups_calm(m->cgroups, some ? HURRY_NS : 0);
}

void evict_kick(struct migd *m)
{
	if (m->owner)
		owner_kick(m->owner);
}

/* ---- the rate ---- */

/* Of the fastest link that is up and has hardware behind it (a bridge or a container's veth says what it likes), in Mbit/s. */
static unsigned link_speed(void)
{
	DIR *d = opendir("/sys/class/net");
	struct dirent *de;
	int best = 0;

	while (d && (de = readdir(d))) {
		char path[320], word[16] = "";
		int speed = 0;
		FILE *f;

		snprintf(path, sizeof(path), "/sys/class/net/%s/operstate", de->d_name);
		f = de->d_name[0] == '.' ? NULL : fopen(path, "re");
		if (!f)
			continue;
		if (fscanf(f, "%15s", word) != 1)
			word[0] = 0;
		fclose(f);
		snprintf(path, sizeof(path), "/sys/class/net/%s/device", de->d_name);
		if (access(path, F_OK))
			continue;
		snprintf(path, sizeof(path), "/sys/class/net/%s/speed", de->d_name);
		f = strcmp(word, "up") ? NULL : fopen(path, "re");
		if (f && fscanf(f, "%d", &speed) == 1 && speed > best)
			best = speed;
		if (f)
			fclose(f);
	}
	if (d)
		closedir(d);
	return best > 0 ? (unsigned)best : LINK_DEFAULT_MBIT;
}

void evict_throttle(struct family *f, size_t n)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static uint64_t free_ns, rate; /* lock: when the link is free again; bytes a second */
	uint64_t now = clock_mono_ns(), wait;

	if (f->role != FAM_GUEST || !f->evicting)
		return;
	pthread_mutex_lock(&lock);
	if (free_ns < now) /* the first for a while: the links may have changed */
		rate = f->m->conf->evict_mb_s ? (uint64_t)f->m->conf->evict_mb_s << 20 : link_speed() * 1000000ull / 8 * 3 / 4;
	if (free_ns < now)
		free_ns = now;
	wait = free_ns - now;
	free_ns += n * 1000000000ull / rate;
	pthread_mutex_unlock(&lock);
	if (wait)
		nanosleep(&(struct timespec){ .tv_sec = (time_t)(wait / 1000000000), .tv_nsec = (long)(wait % 1000000000) }, NULL);
}
