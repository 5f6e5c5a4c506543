// SPDX-License-Identifier: Apache-2.0
/*
 * Stopping the threads of one process (freeze.c): seized, interrupted and waited for, until a round finds no new one. What each waited in, and since when, is noted
 * before it is woken for that.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/log.h"
#include "migd/engine/inject.h"
#include "migd/engine/nest.h"
#include "migd/engine/procfs.h"

/*
 * A thread that is in an uninterruptible wait for longer than the limit waits for a device, or for its vfork child, which we have stopped: so all is let go, and
 * tried again.
 */
static const uint64_t stop_limit_ns = 100000000ULL, busy_limit_ns = 3000000000ULL; /* in an uninterruptible wait; on a busy machine */
static const uint64_t hear_ns = 20000000;

/* Root process of `mig run`: already ours, in the stop of its exec. */
static int thread_take_over(struct eng_thread *t)
{
	if (ptrace(PTRACE_SETOPTIONS, t->tid, 0, PTRACE_O_TRACESYSGOOD) < 0 || ptrace(PTRACE_INTERRUPT, t->tid, 0, 0) < 0 || ptrace(PTRACE_CONT, t->tid, 0, 0) < 0)
		return -errno;
	return 0;
}

int freeze_wait_until(pid_t tid, int *st, uint64_t end)
{
	for (unsigned spin = 0;; spin++) {
		pid_t r = waitpid(tid, st, __WALL | WNOHANG);

		if (r == tid)
			return 1;
		if (r < 0 && errno != EINTR)
			return -ESRCH;
		if (spin < 50)
			sched_yield();
		else
			nanosleep(&(struct timespec){.tv_nsec = spin < 500 ? 50000 : 2000000}, NULL);
		if (clock_mono_ns() > end)
			return 0;
	}
}

static char thread_state(struct eng_thread *t)
{
	struct procfs_stat st;
	char path[64];
	_cleanup_close_ int dir = -1;

	snprintf(path, sizeof(path), "task/%d", t->tid);
	dir = openat(t->proc->dir, path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return dir < 0 || procfs_stat(dir, &st) < 0 ? 'X' : st.state;
}

static int uninterruptible(const struct eng_thread *t, struct error *e)
{
	return error_set(e, EBUSY, "thread %d does not stop: it is in an uninterruptible wait (vfork or a device): try again later", t->vtid);
}

/* Waits for what the keeper tells of a file (keeper_stat.c): it will stop when we ask the keeper, however long a file server is silent. */
static bool asks_of_file(const struct eng_thread *t)
{
	static const long stats[] = {SYS_stat, SYS_fstat, SYS_lstat, SYS_newfstatat, SYS_statx};
	char name[64];
	bool is = false;

	if (!t->proc->family->devices)
		return false;
	snprintf(name, sizeof(name), "task/%d/wchan", t->tid);
	_cleanup_free_ char *wchan = eng_proc_read(t->proc->dir, name, NULL);

	snprintf(name, sizeof(name), "task/%d/syscall", t->tid);
	_cleanup_free_ char *call = eng_proc_read(t->proc->dir, name, NULL);

	for (size_t i = 0; call && i < sizeof(stats) / sizeof(stats[0]); i++)
		is |= strtol(call, NULL, 10) == stats[i];
	return is && wchan && !strncmp(wchan, "seccomp_do_user_notif", 21);
}

/* Waits for an answer of the home's (keeper_calls.c), and stops when that has come. */
static bool asks_home(const struct eng_thread *t)
{
	char name[64];

	snprintf(name, sizeof(name), "task/%d/wchan", t->tid);
	_cleanup_free_ char *wchan = t->proc->family->nest ? eng_proc_read(t->proc->dir, name, NULL) : NULL;

	return wchan && !strncmp(wchan, "seccomp_do_user_notif", 21);
}

/* Before it is seized. */
static int thread_interruptible(struct eng_thread *t, struct error *e)
{
	uint64_t end = clock_mono_ns() + stop_limit_ns;

	while (thread_state(t) == 'D') {
		if (clock_mono_ns() > end)
			return asks_of_file(t) ? 0 : uninterruptible(t, e);
		nest_hear(t->proc->family);
		nanosleep(&(struct timespec){.tv_nsec = 300000}, NULL);
	}
	return 0;
}

/* 0, -ESRCH: it ended meanwhile, -EBUSY. */
static int await_stop(struct eng_thread *t, struct error *e)
{
	uint64_t begun = clock_mono_ns();
	bool hurried = !t->proc->family->nest || !t->proc->family->devices, heard = !t->proc->family->nest;
	int st, r;

	for (;;) {
		r = freeze_wait_until(t->tid, &st, clock_mono_ns() + (heard ? stop_limit_ns : hear_ns));
		if (r == 0)
			nest_hear(t->proc->family); /* what it waits for is perhaps still to be asked, and it is we who ask */
		if (r == 0 && !heard) {
			heard = true;
			continue;
		}
		if (r == 0 && !hurried) {
			nest_hurry(t->proc->family, t->vtid);
			hurried = true;
			continue;
		}
		if (r == 0 && (thread_state(t) != 'D' || asks_home(t)) && clock_mono_ns() < begun + busy_limit_ns)
			continue;
		if (r == 0)
			return uninterruptible(t, e);
		if (r < 0 || WIFEXITED(st) || WIFSIGNALED(st)) {
			t->core->gone = true;
			return -ESRCH;
		}
		if (!WIFSTOPPED(st))
			continue;
		if (st >> 16 == PTRACE_EVENT_STOP) {
			if (WSTOPSIG(st) != SIGTRAP)
				t->proc->core->stop_sig = WSTOPSIG(st);
			t->core->stopped = true;
			inject_filters_sleep(t);
			return 0;
		}
		/* a delivery: let it happen (the handler's frame is then part of the state); another event: on */
		ptrace(PTRACE_CONT, t->tid, 0, st >> 16 ? 0 : WSTOPSIG(st) & 0x7f);
	}
}

int freeze_await(struct eng_thread *t, struct error *e)
{
	int place = events_await(t->tid), r = await_stop(t, e);

	events_awaited(place);
	return r;
}

static char *sched_read(const struct eng_thread *t)
{
	char path[80];

	snprintf(path, sizeof(path), "/proc/%d/task/%d/sched", t->proc->pid, t->tid);
	return eng_proc_read(-100 /* AT_FDCWD */, path, NULL);
}

/* The processor that it ran on last; -1 when it does not sleep: one that waits for a processor, in or before its call, has not slept. */
static int asleep_on(const struct eng_thread *t)
{
	char name[64], state;
	int cpu = -1;

	snprintf(name, sizeof(name), "task/%d/stat", t->tid);
	_cleanup_free_ char *text = eng_proc_read(t->proc->dir, name, NULL);
	const char *s = text ? strrchr(text, ')') : NULL;

	if (!s || sscanf(s + 1, " %c", &state) != 1 || state != 'S')
		return -1;
	for (int field = 2; s && field < 39; field++) /* ')' ends the second */
		s = strchr(s + 1, ' ');
	return s && sscanf(s, "%d", &cpu) == 1 ? cpu : -1;
}

/* Since when it sleeps, before it is woken to be stopped: sched's exec_start is when it last ran, by the clock of that processor (cpuclock.c). */
static void thread_slept(struct eng_thread *t)
{
	char path[80];
	_cleanup_free_ char *wchan = NULL, *its = sched_read(t);

	snprintf(path, sizeof(path), "task/%d/wchan", t->tid);
	wchan = eng_proc_read(t->proc->dir, path, NULL);
	snprintf(t->core->wchan, sizeof(t->core->wchan), "%s", wchan ? wchan : "");
	t->core->ran_ms = sched_number(its, "se.exec_start");
	t->core->switches = sched_number(its, "nr_voluntary_switches");
	t->core->cpu = t->core->ran_ms > 0 ? asleep_on(t) : -1;
}

uint64_t freeze_slept_ns(const struct eng_thread *t)
{
	_cleanup_free_ char *its = t->core->cpu >= 0 ? sched_read(t) : NULL;
	double now;

	/* One switch is into our stop. More: it woke in between, and this is another wait. */
	if (!its || sched_number(its, "nr_voluntary_switches") > t->core->switches + 1)
		return 0;
	now = cpuclock_ms(t->proc->family->frozen_ns, t->core->cpu);
	return now > t->core->ran_ms ? (now - t->core->ran_ms) * 1e6 : 0;
}

static struct eng_thread *thread_by_tid(struct eng_proc *p, pid_t tid)
{
	for (unsigned i = 0; i < p->nthreads; i++)
		if (p->threads[i]->tid == tid)
			return p->threads[i];
	return NULL;
}

/* The kernel says EPERM, too, for who is ending just now. */
static bool thread_ended(struct eng_thread *t)
{
	char state = thread_state(t);

	return state == 'Z' || state == 'X';
}

/* One round over a process's threads. Number of new ones, or -errno. */
static int proc_round(struct eng_proc *p, bool ours, struct error *e)
{
	_cleanup_free_ pid_t *tids = NULL;
	ssize_t n = procfs_tasks(p->pid, &tids);
	unsigned first = p->nthreads;
	int r, fresh = 0;

	if (n < 0)
		return n;
	for (ssize_t i = 0; i < n; i++) {
		char path[64];
		pid_t vtid;
		int depth;
		struct eng_thread *t;

		if (thread_by_tid(p, tids[i]))
			continue;
		vtid = tids[i];
		snprintf(path, sizeof(path), "task/%d/status", tids[i]);
		if ((p->family->nest || p->vpid != p->pid) && procfs_nspid(p->dir, path, &vtid, &depth) < 0) /* at home they have but one number */
			continue; /* ended meanwhile */
		t = thread_new(p, tids[i], vtid);
		if (!t)
			return -ENOMEM;
		thread_slept(t);
		r = ours || t->core->cpu >= 0 ? 0 : thread_interruptible(t, e);
		if (r < 0) {
			t->core->gone = true; /* not ours */
			return r;
		}
		r = ours ? thread_take_over(t) : inject_seize(t);
		if (r == -ESRCH || (r == -EPERM && thread_ended(t))) {
			t->core->gone = true;
			continue;
		}
		if (r < 0) {
			t->core->gone = true;
			return error_set(e, -r, "thread %d cannot be stopped: %s", vtid, strerror(-r));
		}
		t->core->seized = true;
	}
	for (unsigned i = first; i < p->nthreads; i++) {
		struct eng_thread *t = p->threads[i];

		if (t->core->gone)
			continue;
		r = freeze_await(t, e);
		if (r == -ESRCH)
			continue;
		if (r < 0)
			return r;
		fresh++;
	}
	for (unsigned i = p->nthreads; i-- > first;)
		if (p->threads[i]->core->gone)
			thread_drop(p, i);
	return fresh;
}

int freeze_process(struct eng_proc *p, struct error *e)
{
	int r, total = 0;
	bool ours = false;
	_cleanup_free_ char *status = eng_proc_read(p->dir, "status", NULL);
	const char *tracer = status ? eng_field(status, "TracerPid") : NULL;

	if (!tracer)
		return -ESRCH;
	if (atoi(tracer) == gettid() && p->nthreads == 0)
		ours = p->family->just_begun = true;
	else if (atoi(tracer))
		return error_set(e, EPERM, "process %d is traced by process %s", p->vpid, "(a debugger): end it first");
	do {
		r = proc_round(p, ours, e);
		if (r < 0)
			return r;
		total += r;
		ours = false;
	} while (r > 0);
	if (total > 0) { /* it may have called exec since: then that descriptor is of the address space before */
		close(p->core->mem);
		p->core->mem = openat(p->dir, "mem", O_RDWR | O_CLOEXEC);
	}
	return total;
}
