/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Interval timers and POSIX timers.
 *
 * Read: getitimer, /proc/PID/timers (ids, signals, clocks), timer_gettime. Restored under the same ids: PR_TIMER_CREATE_RESTORE_IDS (Linux 6.15), else
 * by creating and deleting until the id comes, the kernel counting upwards.
 * A timer on CLOCK_MONOTONIC or CLOCK_BOOTTIME is set to the moment when it was due: those clocks go on over a move (time namespace), so what fell due while
 * frozen fires at once and counts its overruns. Others get what is left, less the time that has gone by, or the moment when they fell due. That moment is
 * the first expiry that no signal of the image tells: res_signals.c looks at timers and queues together.
 *
 * hollow(): disarms and keeps them. Coming home finds them by id, where older kernels would not give a used id again.
 */
#include "migd/engine/res_util.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include "conf/cleanup.h"
#include "rpc/image_res.pb-c.h"

#ifndef PR_TIMER_CREATE_RESTORE_IDS
#define PR_TIMER_CREATE_RESTORE_IDS 77
#endif
enum { ID_TRIES = 100000 };

const struct eng_res res_timers;

static const int itimers[3] = {ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF};

static uint64_t ts_ns(struct timespec t)
{
	return (uint64_t)t.tv_sec * 1000000000u + t.tv_nsec;
}
static struct timespec ns_ts(uint64_t ns)
{
	return (struct timespec){ns / 1000000000u, ns % 1000000000u};
}
static uint64_t tv_ns(struct timeval t)
{
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_usec * 1000u;
}
static struct timeval ns_tv(uint64_t ns) /* rounded up: never early, never 0 by rounding */
{
	ns += 999;
	return (struct timeval){ns / 1000000000u, ns % 1000000000u / 1000};
}

/* These go on over a move, so that a moment on them means the same over there. */
static bool clock_goes_on(int clock)
{
	return clock == CLOCK_MONOTONIC || clock == CLOCK_BOOTTIME || clock == CLOCK_BOOTTIME_ALARM;
}

/* ---- /proc/PID/timers ----------------------------------------------------------------------------- */

/* Next timer of the text at *at into m (init'ed), ids of threads translated. 1, 0 at the end, -errno. */
static int timer_parse(struct eng_proc *p, const char **at, Sprite__Img__PTimer *m)
{
	int id, sig, tid, clock;
	unsigned long long val;
	char notify[16], what[8];

	if (!**at)
		return 0;
	if (sscanf(*at, "ID: %d\nsignal: %d/%llx\nnotify: %15[a-z]/%7[a-z].%d\nClockID: %d\n", &id, &sig, &val, notify, what, &tid,
		   &clock) != 7)
		return -EBADMSG;
	m->id = id;
	m->sig = sig;
	m->sigval = val;
	m->clock = clock;
	m->notify = !strcmp(notify, "none") ? SIGEV_NONE : !strcmp(notify, "thread") ? SIGEV_THREAD : SIGEV_SIGNAL;
	if (!strcmp(what, "tid")) {
		struct eng_thread *t = res_thread_by_tid(p, tid);

		if (!t) /* its thread ended: it can never signal again */
			m->notify = SIGEV_NONE;
		else
			m->tid = t->vtid;
		if (t)
			m->notify |= SIGEV_THREAD_ID;
	}
	*at = strstr(*at, "ClockID:");
	*at = strchr(*at, '\n');
	*at = *at ? *at + 1 : "";
	return 1;
}

/* Newer kernels add lines of their own to an entry: skip to the next "ID:". */
static const char *next_entry(const char *at)
{
	while (*at && strncmp(at, "ID:", 3)) {
		at = strchr(at, '\n');
		at = at ? at + 1 : "";
	}
	return at;
}

static void timers_free(Sprite__Img__Timers *m)
{
	if (m)
		sprite__img__timers__free_unpacked(m, NULL);
}

static int by_id(const void *a, const void *b)
{
	const Sprite__Img__PTimer *const *x = a, *const *y = b;

	return ((*x)->id > (*y)->id) - ((*x)->id < (*y)->id);
}

/* All POSIX timers of p as /proc tells them. NULL and *r. */
static Sprite__Img__Timers *timers_list(struct eng_proc *p, int *r)
{
	_cleanup_free_ char *text = eng_proc_read(p->dir, "timers", NULL);
	Sprite__Img__Timers *m = calloc(1, sizeof *m);

	if (!m) {
		*r = -ENOMEM;
		return NULL;
	}
	sprite__img__timers__init(m);
	*r = 0;
	if (!text) {
		*r = errno == ENOENT ? 0 : -errno; /* a kernel without CONFIG_CHECKPOINT_RESTORE: probe() has looked */
		if (*r < 0) {
			timers_free(m);
			return NULL;
		}
		return m;
	}
	size_t max = 0;

	for (const char *s = text; (s = strstr(s, "ID: ")); s += 4)
		max++;
	m->ptimer = calloc(max + 1, sizeof *m->ptimer);
	for (const char *at = next_entry(text); m->ptimer && m->n_ptimer <= max; at = next_entry(at)) {
		Sprite__Img__PTimer *t = malloc(sizeof *t);

		if (!t) {
			*r = -ENOMEM;
			break;
		}
		sprite__img__ptimer__init(t);
		*r = timer_parse(p, &at, t);
		if (*r <= 0) {
			free(t);
			break;
		}
		m->ptimer[m->n_ptimer++] = t;
	}
	if (!m->ptimer)
		*r = -ENOMEM;
	if (*r < 0) {
		timers_free(m);
		return NULL;
	}
	qsort(m->ptimer, m->n_ptimer, sizeof *m->ptimer, by_id); /* the order in which ids can be had again */
	return m;
}

/* ---- source --------------------------------------------------------------------------------------- */

static int itimers_dump(struct eng_proc *p, Sprite__Img__Timers *m)
{
	struct { /* one batch: the clock and the three timers */
		struct timespec now;
		struct itimerval v[3];
	} got;
	struct eng_call c[4];

	eng_scratch_reset(p);
	uint64_t at = eng_scratch_put(p, NULL, sizeof got);

	m->itimer = calloc(3, sizeof *m->itimer);
	if (!at || !m->itimer)
		return -ENOMEM;
	c[0] = (struct eng_call){SYS_clock_gettime, {CLOCK_MONOTONIC, at}, 0, 0, 0};
	for (int i = 0; i < 3; i++)
		c[i + 1] = (struct eng_call){SYS_getitimer, {itimers[i], at + sizeof got.now + i * sizeof got.v[0]}, 0, 0, 0};
	int r = eng_batch(p->threads[0], c, 4, NULL);

	if (r < 0 || (r = eng_peek(p, at, &got, sizeof got)) < 0)
		return r;
	m->monotonic = ts_ns(got.now);
	for (int i = 0; i < 3; i++) {
		Sprite__Img__ITimer *t = malloc(sizeof *t);

		if (!t)
			return -ENOMEM;
		sprite__img__itimer__init(t);
		t->which = itimers[i];
		t->value = tv_ns(got.v[i].it_value);
		t->interval = tv_ns(got.v[i].it_interval);
		m->itimer[m->n_itimer++] = t;
	}
	return 0;
}

static int ptimer_read(struct eng_proc *p, Sprite__Img__PTimer *t)
{
	struct itimerspec v;
	uint64_t now;
	int clock = t->clock == CLOCK_BOOTTIME_ALARM || t->clock == CLOCK_BOOTTIME ? CLOCK_BOOTTIME : CLOCK_MONOTONIC;
	int r = res_timer_read(p->threads[0], SYS_timer_gettime, t->id, clock, &v, &now);

	if (r < 0)
		return r;
	t->value = ts_ns(v.it_value);
	t->interval = ts_ns(v.it_interval);
	if (!t->value)
		return 0;
	if (clock_goes_on(t->clock))
		t->due = now + t->value;
	else
		t->read = now;
	return 0;
}

/* Kept for timers_dump(). */
int res_timers_look(struct eng_proc *p, size_t *n)
{
	int r;
	Sprite__Img__Timers *m = timers_list(p, &r);

	for (size_t i = 0; m && !r && i < m->n_ptimer; i++)
		r = ptimer_read(p, m->ptimer[i]);
	timers_free(p->res[eng_res_index(&res_timers)]);
	p->res[eng_res_index(&res_timers)] = m;
	*n = m ? m->n_ptimer : 0;
	return r;
}

static int timers_dump(struct eng_proc *p, struct eng_image *out, struct error *e)
{
	Sprite__Img__Timers *m = p->res[eng_res_index(&res_timers)]; /* signals, whose turn was before, have looked */
	int r = m ? itimers_dump(p, m) : -ENOENT;

	if (!r)
		r = eng_image_put_msg(out, RES_TIMERS, p->vpid, &m->base);
	timers_free(m);
	p->res[eng_res_index(&res_timers)] = NULL;
	return r < 0 ? error_set(e, -r, "timers of %d cannot be read: %s", p->vpid, strerror(-r)) : 0;
}

/* ---- destination ---------------------------------------------------------------------------------- */

static int timers_fill(struct eng_family *f, struct eng_proc *p, uint32_t type, const void *body, size_t len, struct error *e)
{
	(void)f, (void)type;
	if (!p)
		return res_bad_record(e, "timers");
	void **s = &p->res[eng_res_index(&res_timers)];

	timers_free(*s);
	*s = sprite__img__timers__unpack(NULL, len, body);
	return *s ? 0 : res_bad_record(e, "timers");
}

static long timer_create_once(struct eng_thread *t, const Sprite__Img__PTimer *m, int *id)
{
	struct sigevent ev = {.sigev_notify = m->notify, .sigev_signo = m->sig, .sigev_value.sival_ptr = (void *)m->sigval};

	ev._sigev_un._tid = m->tid;
	eng_scratch_reset(t->proc);
	uint64_t ae = eng_scratch_put(t->proc, &ev, sizeof ev), ai = eng_scratch_put(t->proc, id, sizeof *id);
	long r = eng_syscall(t, SYS_timer_create, (long)m->clock, ae, ai);

	return r < 0 ? r : eng_peek(t->proc, ai, id, sizeof *id);
}

/* Makes the timer with exactly its id. */
static long timer_make(struct eng_thread *t, const Sprite__Img__PTimer *m, bool restore_ids)
{
	for (int tries = 0; tries < ID_TRIES; tries++) {
		int id = m->id;
		long r = timer_create_once(t, m, &id);

		if (r < 0 || id == m->id)
			return r;
		eng_syscall(t, SYS_timer_delete, (long)id);
		if (restore_ids || id > m->id)
			return -EBUSY;
	}
	return -EBUSY;
}

static long ptimer_arm(struct eng_proc *p, const Sprite__Img__PTimer *m, uint64_t now)
{
	struct itimerspec v = {.it_interval = ns_ts(m->interval)};
	int flags = 0;

	if (m->due) {
		v.it_value = ns_ts(m->due);
		flags = TIMER_ABSTIME;
	} else if (m->value) {
		uint64_t gone_by = now > m->read ? now - m->read : 0;
		bool cpu = m->clock < 0 || m->clock == CLOCK_PROCESS_CPUTIME_ID || m->clock == CLOCK_THREAD_CPUTIME_ID;
		uint64_t there;

		if (cpu || m->value > gone_by) {
			v.it_value = ns_ts(cpu ? m->value : m->value - gone_by);
		} else if ((there = res_clock(p->threads[0], m->clock)) > gone_by) { /* a moment that is over: the kernel counts what fell due since, and keeps its beat */
			v.it_value = ns_ts(there - (gone_by - m->value));
			flags = TIMER_ABSTIME;
		} else {
			v.it_value = ns_ts(1);
		}
	}
	eng_scratch_reset(p);
	return eng_syscall(p->threads[0], SYS_timer_settime, (long)m->id, (long)flags, eng_scratch_put(p, &v, sizeof v), 0ul);
}

static bool ptimer_same(const Sprite__Img__PTimer *a, const Sprite__Img__PTimer *b)
{
	return a->id == b->id && a->clock == b->clock && a->notify == b->notify && a->sig == b->sig && a->sigval == b->sigval &&
	       a->tid == b->tid;
}

/* Leaves of what is there (a hollow's) only what the image has too; *kept[i] tells which of the image's those are. */
static int timers_prune(struct eng_proc *p, const Sprite__Img__Timers *m, bool *kept)
{
	int r;
	Sprite__Img__Timers *is = timers_list(p, &r);

	if (!is)
		return r;
	for (size_t i = 0; r >= 0 && i < is->n_ptimer; i++) {
		bool keep = false;

		for (size_t k = 0; k < m->n_ptimer; k++)
			if (ptimer_same(is->ptimer[i], m->ptimer[k]))
				keep = kept[k] = true;
		if (!keep)
			r = eng_syscall(p->threads[0], SYS_timer_delete, (long)is->ptimer[i]->id);
	}
	timers_free(is);
	return r < 0 ? r : 0;
}

static int ptimers_finish(struct eng_proc *p, const Sprite__Img__Timers *m, uint64_t now, struct error *e)
{
	struct eng_thread *t = p->threads[0];
	_cleanup_free_ bool *kept = calloc(m->n_ptimer + 1, sizeof *kept);
	int r = kept ? timers_prune(p, m, kept) : -ENOMEM;

	if (r < 0)
		return error_set(e, -r, "old timers of %d: %s", p->vpid, strerror(-r));
	if (!m->n_ptimer)
		return 0;
	bool restore_ids = eng_syscall(t, SYS_prctl, (long)PR_TIMER_CREATE_RESTORE_IDS, 1ul, 0ul, 0ul, 0ul) == 0;

	for (size_t i = 0; i < m->n_ptimer && !r; i++) {
		long k = kept[i] ? 0 : timer_make(t, m->ptimer[i], restore_ids);

		if (!k)
			k = ptimer_arm(p, m->ptimer[i], now);
		if (k < 0)
			r = error_set(e, -k, "timer %d (clock %d) of %d cannot be made again: %s", m->ptimer[i]->id,
				      m->ptimer[i]->clock, p->vpid, strerror(-k));
	}
	if (restore_ids)
		eng_syscall(t, SYS_prctl, (long)PR_TIMER_CREATE_RESTORE_IDS, 0ul, 0ul, 0ul, 0ul);
	return r;
}

static int itimers_finish(struct eng_proc *p, const Sprite__Img__Timers *m, uint64_t gone_by, struct error *e)
{
	struct eng_call c[3];
	size_t n = 0, at = 0;

	eng_scratch_reset(p);
	for (size_t i = 0; i < m->n_itimer && n < 3; i++) {
		const Sprite__Img__ITimer *it = m->itimer[i];
		uint64_t left = it->value;

		if (it->which == ITIMER_REAL && left)
			left = left > gone_by ? left - gone_by : 1;
		if (!left) /* it has fired and stands still until its signal is taken (Linux 6.13): that signal waits in the image as a plain one */
			left = it->interval;
		if (!left)
			continue;
		struct itimerval v = {it->interval ? ns_tv(it->interval) : (struct timeval){0, 0}, ns_tv(left)};

		c[n++] = (struct eng_call){SYS_setitimer, {it->which, eng_scratch_put(p, &v, sizeof v), 0}, 0, 0, 0};
	}
	int r = n ? eng_batch(p->threads[0], c, n, &at) : 0;

	return r < 0 ? error_set(e, -r, "interval timer of %d: %s", p->vpid, strerror(-r)) : 0;
}

static bool any_armed(const Sprite__Img__Timers *m)
{
	for (size_t i = 0; i < m->n_itimer; i++)
		if (m->itimer[i]->value || m->itimer[i]->interval)
			return true;
	return m->n_ptimer > 0;
}

static int timers_finish(struct eng_proc *p, struct error *e)
{
	void **s = &p->res[eng_res_index(&res_timers)];
	Sprite__Img__Timers *m = *s;
	uint64_t now = 0;

	if (!m)
		return error_set(e, EBADMSG, "image: no timers of process %d", p->vpid);
	eng_scratch_reset(p);
	if (any_armed(m))
		now = res_clock(p->threads[0], CLOCK_MONOTONIC);
	int r = ptimers_finish(p, m, now, e);

	if (!r)
		r = itimers_finish(p, m, now > m->monotonic ? now - m->monotonic : 0, e);
	timers_free(m);
	*s = NULL;
	return r;
}

static int timers_hollow(struct eng_proc *p, struct error *e)
{
	int r;
	Sprite__Img__Timers *is = timers_list(p, &r);
	struct itimerspec off = {{0, 0}, {0, 0}};

	(void)e;
	if (!is)
		return r;
	eng_scratch_reset(p);
	uint64_t at = eng_scratch_put(p, &off, sizeof off); /* serves as struct itimerval too */
	struct eng_call c[3];

	for (int i = 0; i < 3; i++)
		c[i] = (struct eng_call){SYS_setitimer, {itimers[i], at, 0}, 0, 1, 0};
	eng_batch(p->threads[0], c, 3, NULL);
	for (size_t i = 0; i < is->n_ptimer; i++)
		eng_syscall(p->threads[0], SYS_timer_settime, (long)is->ptimer[i]->id, 0l, at, 0ul);
	timers_free(is);
	return 0;
}

/* A CPU clock of another process cannot follow (timer_create on clock_getcpuclockid(pid)). */
static int timers_probe(struct eng_probe *p)
{
	_cleanup_free_ char *text = eng_proc_read(p->dir, "timers", NULL);

	for (const char *s = text ? strstr(text, "ClockID: ") : NULL; s; s = strstr(s + 9, "ClockID: ")) {
		int clock = atoi(s + 9);

		if (clock < 0 && !(clock & 4) && ~(clock >> 3) && ~(clock >> 3) != res_vpid(p->dir))
			eng_reason(p, "POSIX timer on the CPU clock of process %d: delete it first", ~(clock >> 3));
	}
	return 0;
}

static void timers_release(struct eng_family *f, struct eng_proc *p)
{
	(void)f;
	if (!p)
		return;
	timers_free(p->res[eng_res_index(&res_timers)]);
	p->res[eng_res_index(&res_timers)] = NULL;
}

const struct eng_res res_timers = {
	.name = "timers",
	.types = {RES_TIMERS, RES_TIMERS},
	.probe = timers_probe,
	.dump = timers_dump,
	.fill = timers_fill,
	.finish = timers_finish,
	.hollow = timers_hollow,
	.release = timers_release,
};
