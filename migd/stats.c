// SPDX-License-Identifier: Apache-2.0
/* Counters, and their file; see stats.h. */
#include "migd/stats.h"
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
#include "migd/cgroup.h"
#include "migd/proc.h"

enum { RECENT = 32, HISTORY = 120, SAVE_EVERY_S = 60 };

static const char *const cause_name[CAUSES] = {"exec", "move", "home", "evicted_home", "evicted_onward"};
static const char *const count_name[COUNTS] = {"asked", "granted", "lost", "guests", "evictions", "killed", "local"};

struct cause {
	uint64_t n, failed, bytes, frozen_us, total_us;
};

struct recent {
	int64_t when;
	enum stats_cause cause;
	pid_t pid;
	uid_t uid;
	int err;
	uint64_t bytes, frozen_us, total_us;
	char comm[17], from[64], to[64];
};

struct point {
	float load;
	uint16_t guests, away;
};

struct stats {
	pthread_mutex_t lock; /* everything below */
	char *path;
	int64_t since;
	uint64_t count[COUNTS];
	struct cause cause[CAUSES];
	uint64_t away_us;
	uint64_t guest_base_us, guest_seen_us; /* guests' CPU here: of earlier lives of the group, and what it says now */
	uint64_t host_base_us, host_seen_us;   /* likewise of the whole host */
	uint64_t idle_s, watched_s;
	uint64_t came_n, came_idle_s, evicted_n, evicted_idle_s;
	uint64_t last_ns, saved_ns;
	struct recent recent[RECENT];
	unsigned nrecent; /* ever; the last is at (nrecent - 1) % RECENT */
	struct point history[HISTORY];
	unsigned nhistory;
};

/* ---- CPU time ---- */

static uint64_t number_after(const char *path, const char *word)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	char buf[2048], *p;
	ssize_t n = fd < 0 ? -1 : read(fd, buf, sizeof(buf) - 1);

	if (n <= 0)
		return 0;
	buf[n] = 0;
	p = strstr(buf, word);
	return p ? strtoull(p + strlen(word), NULL, 10) : 0;
}

/* All CPU time of this host: of its cgroup where it is a container (the root of its view has the file then), else /proc/stat. */
static uint64_t host_cpu_us(void)
{
	static const char *const v2[] = {"/sys/fs/cgroup/cpu.stat", "/sys/fs/cgroup/unified/cpu.stat"};
	unsigned long long user, nice, sys, idle, wait, irq, soft;
	_cleanup_fclose_ FILE *f = NULL;
	uint64_t us;

	for (size_t i = 0; i < ARRAY_SIZE(v2); i++)
		if ((us = number_after(v2[i], "usage_usec ")))
			return us;
	f = fopen("/proc/stat", "re");
	if (!f || fscanf(f, "cpu %llu %llu %llu %llu %llu %llu %llu", &user, &nice, &sys, &idle, &wait, &irq, &soft) != 7)
		return 0;
	return (user + nice + sys + irq + soft) * 1000000ull / (uint64_t)sysconf(_SC_CLK_TCK);
}

/* A counter that begins anew when its group or the host does. */
static void follow(uint64_t *base, uint64_t *seen, uint64_t now)
{
	if (now < *seen)
		*base += *seen;
	*seen = now;
}

static void look_at_cpu(struct migd *m, struct stats *s)
{
	uint64_t us;

	if (m->cgroups && !cgroup_cpu_us(m->cgroups, "", &us))
		follow(&s->guest_base_us, &s->guest_seen_us, us);
	us = host_cpu_us();
	if (us)
		follow(&s->host_base_us, &s->host_seen_us, us);
}

/* ---- json ---- */

static json_t *numbers(const struct stats *s)
{
	json_t *o = json_object(), *counts = json_object(), *causes = json_object();
	struct stats_field {
		const char *name;
		uint64_t value;
	} f[] = {{"away_cpu_us", s->away_us}, {"guest_cpu_us", s->guest_base_us + s->guest_seen_us}, {"host_cpu_us", s->host_base_us + s->host_seen_us},
		{"idle_s", s->idle_s}, {"watched_s", s->watched_s}, {"came_n", s->came_n}, {"came_idle_s", s->came_idle_s}, {"evicted_n", s->evicted_n},
		{"evicted_idle_s", s->evicted_idle_s}, {"guest_group_us", s->guest_seen_us}, {"host_group_us", s->host_seen_us}};

	for (int i = 0; i < COUNTS; i++)
		json_object_set_new(counts, count_name[i], json_integer((json_int_t)s->count[i]));
	for (int i = 0; i < CAUSES; i++) {
		const struct cause *c = &s->cause[i];

		json_object_set_new(causes, cause_name[i], json_pack("{s:I, s:I, s:I, s:I, s:I}", "n", (json_int_t)c->n, "failed", (json_int_t)c->failed, "bytes",
								  (json_int_t)c->bytes, "frozen_us", (json_int_t)c->frozen_us, "total_us", (json_int_t)c->total_us));
	}
	json_object_set_new(o, "since", json_integer(s->since));
	for (size_t i = 0; i < ARRAY_SIZE(f); i++)
		json_object_set_new(o, f[i].name, json_integer((json_int_t)f[i].value));
	json_object_set_new(o, "counts", counts);
	json_object_set_new(o, "moves", causes);
	return o;
}

static uint64_t get(json_t *o, const char *key)
{
	json_int_t n = json_integer_value(json_object_get(o, key));

	return n > 0 ? (uint64_t)n : 0;
}

/* What an earlier run has written. A file that cannot be read begins anew: counters are not worth a refusal to start. */
static void load(struct stats *s)
{
	json_error_t je;
	json_t *o = json_load_file(s->path, 0, &je);

	if (!o) {
		if (!access(s->path, F_OK))
			log_warn("%s: %s: counting begins anew", s->path, je.text);
		return;
	}
	for (int i = 0; i < COUNTS; i++)
		s->count[i] = get(json_object_get(o, "counts"), count_name[i]);
	for (int i = 0; i < CAUSES; i++) {
		json_t *c = json_object_get(json_object_get(o, "moves"), cause_name[i]);

		s->cause[i] = (struct cause){get(c, "n"), get(c, "failed"), get(c, "bytes"), get(c, "frozen_us"), get(c, "total_us")};
	}
	s->since = json_integer_value(json_object_get(o, "since"));
	s->away_us = get(o, "away_cpu_us");
	s->guest_seen_us = get(o, "guest_group_us"); /* the group may have lived on */
	s->host_seen_us = get(o, "host_group_us");
	s->guest_base_us = get(o, "guest_cpu_us") - s->guest_seen_us;
	s->host_base_us = get(o, "host_cpu_us") - s->host_seen_us;
	s->idle_s = get(o, "idle_s");
	s->watched_s = get(o, "watched_s");
	s->came_n = get(o, "came_n");
	s->came_idle_s = get(o, "came_idle_s");
	s->evicted_n = get(o, "evicted_n");
	s->evicted_idle_s = get(o, "evicted_idle_s");
	json_decref(o);
}

static void save(struct stats *s)
{
	json_t *o = numbers(s);
	int r = save_json(s->path, o, JSON_INDENT(1), false);

	if (r < 0)
		log_warn("%s: cannot be written: %s", s->path, strerror(-r));
	json_decref(o);
}

static json_t *recent_json(const struct stats *s)
{
	json_t *a = json_array();

	for (unsigned i = s->nrecent > RECENT ? s->nrecent - RECENT : 0; i < s->nrecent; i++) {
		const struct recent *r = &s->recent[i % RECENT];

		json_array_append_new(a, json_pack("{s:I, s:s, s:i, s:I, s:s, s:s, s:s, s:i, s:I, s:I, s:I}", "when", (json_int_t)r->when, "cause",
						 cause_name[r->cause], "pid", r->pid, "uid", (json_int_t)r->uid, "comm", r->comm, "from", r->from, "to", r->to, "errno",
						 r->err, "bytes", (json_int_t)r->bytes, "frozen_us", (json_int_t)r->frozen_us, "total_us", (json_int_t)r->total_us));
	}
	return a;
}

json_t *stats_json(struct migd *m)
{
	struct stats *s = m->stats;
	json_t *o, *h = json_array();

	pthread_mutex_lock(&s->lock);
	look_at_cpu(m, s);
	o = numbers(s);
	json_object_set_new(o, "recent", recent_json(s));
	for (unsigned i = s->nhistory > HISTORY ? s->nhistory - HISTORY : 0; i < s->nhistory; i++) {
		const struct point *p = &s->history[i % HISTORY];

		json_array_append_new(h, json_pack("[f, i, i]", (double)p->load, p->guests, p->away));
	}
	pthread_mutex_unlock(&s->lock);
	json_object_set_new(o, "history", h);
	return o;
}

/* ---- counting ---- */

void stats_move(struct migd *m, const struct family *f, enum stats_cause cause, const char *from, const char *to, uint64_t bytes, uint64_t frozen_ns,
	uint64_t total_ns, int err)
{
	struct stats *s = m->stats;
	struct cause *c = &s->cause[cause];
	struct recent *r;

	pthread_mutex_lock(&s->lock);
	if (err) {
		c->failed++;
	} else {
		c->n++;
		c->bytes += bytes;
		c->frozen_us += frozen_ns / 1000;
		c->total_us += total_ns / 1000;
	}
	r = &s->recent[s->nrecent++ % RECENT];
	*r = (struct recent){.when = clock_real_ns(), .cause = cause, .pid = f->pid, .uid = f->uid, .err = -err, .bytes = bytes, .frozen_us = frozen_ns / 1000,
		.total_us = total_ns / 1000};
	snprintf(r->comm, sizeof(r->comm), "%s", f->comm);
	snprintf(r->from, sizeof(r->from), "%s", from);
	snprintf(r->to, sizeof(r->to), "%s", to);
	pthread_mutex_unlock(&s->lock);
}

void stats_count(struct migd *m, enum stats_count what, unsigned n)
{
	pthread_mutex_lock(&m->stats->lock);
	m->stats->count[what] += n;
	pthread_mutex_unlock(&m->stats->lock);
}

void stats_away_cpu(struct migd *m, uint64_t us)
{
	pthread_mutex_lock(&m->stats->lock);
	m->stats->away_us += us;
	pthread_mutex_unlock(&m->stats->lock);
}

void stats_idle_before(struct migd *m, bool evicted, uint64_t idle_ms)
{
	struct stats *s = m->stats;

	pthread_mutex_lock(&s->lock);
	if (evicted) {
		s->evicted_n++;
		s->evicted_idle_s += idle_ms / 1000;
	} else {
		s->came_n++;
		s->came_idle_s += idle_ms / 1000;
	}
	pthread_mutex_unlock(&s->lock);
}

void stats_sample(struct migd *m, bool idle, double load_now)
{
	struct stats *s = m->stats;
	uint64_t now = clock_boot_ns(), guests = families_count(m->families, FAM_GUEST), away = families_count(m->families, FAM_HOME);

	pthread_mutex_lock(&s->lock);
	if (s->last_ns) {
		s->watched_s += now / 1000000000 - s->last_ns / 1000000000;
		s->idle_s += idle ? now / 1000000000 - s->last_ns / 1000000000 : 0;
	}
	s->last_ns = now;
	s->history[s->nhistory++ % HISTORY] = (struct point){(float)load_now, (uint16_t)guests, (uint16_t)away};
	if (now - s->saved_ns > SAVE_EVERY_S * 1000000000ull) {
		s->saved_ns = now;
		look_at_cpu(m, s);
		save(s);
	}
	pthread_mutex_unlock(&s->lock);
}

int stats_open(struct migd *m, struct stats **out)
{
	struct stats *s = calloc(1, sizeof(*s));

	if (!s || asprintf(&s->path, "%s/stats.json", m->conf->state_dir) < 0) {
		free(s);
		return -ENOMEM;
	}
	pthread_mutex_init(&s->lock, NULL);
	load(s);
	if (!s->since)
		s->since = clock_real_ns();
	s->saved_ns = clock_boot_ns();
	*out = s;
	return 0;
}

/* The object stays: families that live on without us may still count until the process is gone. */
void stats_close(struct stats *s)
{
	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	save(s);
	pthread_mutex_unlock(&s->lock);
}
