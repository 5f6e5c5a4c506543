// SPDX-License-Identifier: Apache-2.0
/*
 * Stopping a family. It is let go again by thaw.c.
 *
 * Invariants
 * 1. Nobody runs when eng_freeze returns 0: lists of processes and threads are read again until a round finds nobody new; a stopped
 *    thread makes no other, so this ends.
 * 2. A signal on its way to a thread is not lost: a thread that stops for a delivery is let on with that signal until it stops for our interrupt.
 * 3. On failure everything that was stopped runs on with its own registers, mask and job-control state.
 * 4. Nobody is left seized: he would stop, some time, for nobody. So who is in an uninterruptible wait is not seized, and who got into one in that moment is waited
 *    for, however long that takes, when all others run again.
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
#include "migd/engine/memory.h"
#include "migd/engine/nest.h"
#include "migd/engine/procfs.h"

/*
 * A thread that is in an uninterruptible wait for longer than the limit waits for a device, or for its vfork child, which we have stopped: so all is let go, and
 * tried again.
 */
static const uint64_t stop_limit_ns = 100000000ULL, busy_limit_ns = 3000000000ULL; /* in an uninterruptible wait; on a busy machine */
static const uint64_t hear_ns = 20000000;
enum { ATTEMPTS = 40, ATTEMPT_PAUSE_MS = 30, ATTEMPT_PAUSE_MOST_MS = 150 };

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
		snprintf(path, sizeof(path), "task/%d/status", tids[i]);
		if (procfs_nspid(p->dir, path, &vtid, &depth) < 0)
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

static int proc_freeze(struct eng_proc *p, struct error *e)
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

static int headless(pid_t vpid, struct error *e)
{
	return error_set(e, EOPNOTSUPP, "process %d: its first thread has ended while others run on: cannot be carried", vpid);
}

/* The leader first: its number is the process's. */
static int proc_order(struct eng_proc *p, struct error *e)
{
	for (unsigned i = 0; i < p->nthreads; i++)
		if (p->threads[i]->tid == p->pid) {
			struct eng_thread *t = p->threads[i];

			p->threads[i] = p->threads[0];
			p->threads[0] = t;
			return 0;
		}
	log_debug("engine: process %d: %u threads, first %d", p->pid, p->nthreads, p->nthreads ? p->threads[0]->tid : 0);
	return headless(p->vpid, e);
}

/* A member that has ended and waits for its parent to ask. 1: noted, 0: it is not one. */
int freeze_zombie(struct eng_family *f, pid_t pid, struct eng_proc *parent)
{
	_cleanup_close_ int dir = -1;
	struct zombie *bigger;
	struct procfs_stat st;
	char path[64];
	pid_t vpid;
	int depth;

	snprintf(path, sizeof(path), "/proc/%d", pid);
	dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (!parent || dir < 0 || procfs_stat(dir, &st) < 0 || st.state != 'Z' || procfs_headless(pid) || procfs_nspid(dir, "status", &vpid, &depth) < 0)
		return 0;
	for (size_t i = 0; i < f->nzombies; i++)
		if (f->zombies[i].pid == pid)
			return 1;
	bigger = realloc(f->zombies, (f->nzombies + 1) * sizeof(*bigger));
	if (!bigger)
		return -ENOMEM;
	f->zombies = bigger;
	bigger[f->nzombies++] = (struct zombie){pid, vpid, parent->vpid, st.pgid, st.sid, st.exit_code, st.exit_signal};
	return 1;
}

static int add_process(struct eng_family *f, pid_t pid, struct eng_proc *parent, struct error *e)
{
	struct eng_proc *p;
	char path[64];
	pid_t vpid;
	int depth, r;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	if (procfs_nspid(-100, path, &vpid, &depth) < 0)
		return -ESRCH;
	if (procfs_headless(pid))
		return headless(vpid, e);
	p = eng_proc_by_vpid(f, vpid);
	if (p && p->pid == pid && p->core->seen && p->nthreads)
		return 0;
	if (!p)
		p = proc_new(f, pid, vpid);
	if (!p)
		return -ENOMEM;
	p->pid = pid;
	p->parent = parent;
	p->core->seen = false;
	p->core->stop_sig = 0;
	r = proc_open(p);
	if (r == 0)
		r = proc_freeze(p, e);
	if (r == 0)
		r = -ESRCH;
	if (r > 0)
		r = proc_identity(p);
	p->core->seen = r >= 0;
	return r < 0 ? r : 1;
}

/* Who ended while the lists were read, or (a guest family) since the last move. */
static void drop_unseen(struct eng_family *f)
{
	for (size_t i = f->nprocs; i-- > 1;)
		if (!f->procs[i]->core->seen)
			proc_drop(f, i);
}

/* Parents before children, as the destination makes them: a family that lived on since its last move may be out of order. */
void freeze_order(struct eng_family *f)
{
	for (size_t i = 1; i < f->nprocs; i++)
		for (size_t k = i + 1; k < f->nprocs; k++)
			if (f->procs[i]->parent == f->procs[k]) {
				struct eng_proc *p = f->procs[k];

				memmove(&f->procs[i + 1], &f->procs[i], (k - i) * sizeof(p));
				f->procs[i] = p;
				k = i;
			}
}

static int add_children(struct eng_family *f, pid_t of, struct eng_proc *parent, struct error *e)
{
	_cleanup_free_ pid_t *kids = NULL;
	ssize_t n = procfs_children(of, &kids);
	int fresh = 0;

	for (ssize_t k = 0; k < n; k++) {
		int r;

		if (!parent && nest_is_standin(f->nest, kids[k])) {
			r = add_children(f, kids[k], NULL, e);
			if (r < 0)
				return r;
			fresh += r;
			continue;
		}
		r = freeze_zombie(f, kids[k], parent);
		if (r > 0)
			continue;
		if (r == 0)
			r = add_process(f, kids[k], parent, e);
		if (r == -ESRCH) { /* it ends just now: not to be lost, another look */
			r = freeze_zombie(f, kids[k], parent) == 0 && parent && kill(kids[k], 0) == 0;
			if (r)
				sched_yield();
		}
		if (r < 0)
			return r;
		fresh += r > 0;
	}
	return fresh;
}

/*
 * All descendants; on a guest host also who was orphaned there, which are children of the keeper. Rounds until nobody new is found: threads of a stopped process
 * bear nobody any more.
 */
static int freeze_tree(struct eng_family *f, struct error *e)
{
	int fresh, r;

	do {
		fresh = 0;
		for (size_t i = 0; i < f->nprocs; i++) {
			if (!f->procs[i]->core->seen)
				continue;
			r = add_children(f, f->procs[i]->pid, f->procs[i], e);
			if (r < 0)
				return r;
			fresh += r;
		}
		if (f->nest) {
			r = add_children(f, f->nest->keeper, NULL, e);
			if (r < 0)
				return r;
			fresh += r;
		}
	} while (fresh);
	drop_unseen(f);
	freeze_order(f);
	return 0;
}

static void find_vdso(const struct maps *maps, uint64_t *start, uint64_t *end)
{
	for (size_t i = 0; maps && i < maps->n; i++)
		if (maps->m[i].kind == KIND_VDSO) {
			*start = maps->m[i].start;
			*end = maps->m[i].end;
		}
}

static int died(const struct eng_proc *p, struct error *e)
{
	return error_set(e, ESRCH, "process %d ended while it was stopped", p->vpid);
}

/* What each thread blocks by itself, and where it may run, before that is changed. */
static int threads_note(struct eng_family *f, struct error *e)
{
	for (size_t i = 0; i < f->nprocs; i++) {
		struct eng_proc *p = f->procs[i];
		int r = proc_order(p, e);

		if (r < 0)
			return r;
		for (unsigned k = 0; k < p->nthreads; k++) {
			if (ptrace(PTRACE_GETSIGMASK, p->threads[k]->tid, 8, &p->threads[k]->sigmask) < 0)
				return died(p, e);
			pin_note(p->threads[k]);
		}
	}
	return 0;
}

static int family_look(struct eng_family *f, struct eng_reasons *why, struct error *e)
{
	for (size_t i = 0; i < f->nprocs; i++) {
		struct eng_proc *p = f->procs[i];
		uint64_t mask = FROZEN_MASK, vdso = 0, vdso_end = 0;
		int r = 0;

		maps_free(p->core->maps);
		p->core->maps = NULL;
		procfs_maps(p->dir, true, &p->core->maps); /* once for all that is to come: nobody maps anything any more, but for us */
		find_vdso(p->core->maps, &vdso, &vdso_end);
		for (unsigned k = 0; k < p->nthreads && r == 0; k++) {
			struct eng_thread *t = p->threads[k];

			if (ptrace(PTRACE_SETSIGMASK, t->tid, 8, &mask) < 0)
				r = -ESRCH;
			else
				t->core->masked = true;
			if (r == 0)
				r = regs_leave_vdso(t, vdso, vdso_end);
			if (r == 0)
				r = regs_frozen(t, why, e);
		}
		if (r < 0)
			return died(p, e);
		for (size_t k = 0; eng_res_table[k] && r == 0; k++)
			r = eng_res_table[k]->settled ? eng_res_table[k]->settled(p, e) : 0;
		if (r < 0)
			return r;
	}
	return 0;
}

/* Not in the freeze: it asks file servers. Of who has just called exec nothing: it remembers none. */
static char *look_at_devices(pid_t host)
{
	char path[40];
	_cleanup_close_ int dir = -1;
	_cleanup_free_ char *status = NULL;

	snprintf(path, sizeof(path), "/proc/%d", host);
	dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	status = dir < 0 ? NULL : eng_proc_read(dir, "status", NULL);
	return !status || (pid_t)strtol(eng_field(status, "TracerPid") ?: "0", NULL, 10) == gettid() ? NULL : dump_devices(dir);
}

static int freeze_all(struct eng_family *f, pid_t pid, struct eng_reasons *why, struct error *e)
{
	int r = add_process(f, pid, NULL, e);

	if (r >= 0 && !f->procs[0]->core->seen)
		r = -ESRCH;
	if (r >= 0)
		r = freeze_tree(f, e);
	if (r >= 0)
		r = threads_note(f, e);
	if (r >= 0 && f->hooks.standing)
		f->hooks.standing(f->hooks.ctx, f);
	if (r >= 0)
		r = family_look(f, why, e);
	if (r == -ESRCH)
		return error_set(e, ESRCH, "no process %d", pid);
	return r;
}

/* One try. On failure all runs on; *f is NULL again if it was new. */
static int attempt(struct eng_family **f, pid_t host, const struct eng_hooks *h, struct eng_reasons *why, struct error *e)
{
	int r;

	if (!*f)
		*f = family_new(h);
	else if (h)
		(*f)->hooks = *h;
	if (!*f)
		return error_set(e, ENOMEM, "no memory");
	(*f)->home = !(*f)->nest;
	(*f)->nzombies = 0;
	(*f)->cpu = 0;
	for (size_t i = 0; i < (*f)->nprocs; i++)
		(*f)->procs[i]->core->seen = false;
	(*f)->frozen_ns = clock_mono_ns();
	r = freeze_all(*f, host, why, e);
	if (r < 0) {
		bool nest = (*f)->nest;

		eng_thaw(*f);
		if (!nest)
			*f = NULL;
		return r;
	}
	(*f)->state = ENG_FROZEN;
	if ((*f)->nest) /* the next host takes all that are in the image for known */
		nest_tell_young(*f);
	return 0;
}

/*
 * A running process is looked at piece by piece, so that a reason may be an illusion (a descriptor that was another one a moment later): only what is there three
 * times counts.
 */
static int explain_first(struct eng_family *f, pid_t host, bool goes_home, struct eng_reasons *why, struct error *e)
{
	struct eng_reasons mine = {0};
	int r = 1;

	for (int i = 0; i < 3 && r == 1; i++) {
		if (i)
			nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
		eng_reasons_clear(&mine);
		r = explain_family(host, f && f->nest, goes_home, &mine, NULL, e);
	}
	if (r == 1) /* the first one in the words of the error too: not every caller asks for the list */
		r = error_set(e, EOPNOTSUPP, "cannot move: %s%s", mine.n ? mine.line[0] : "", mine.n > 1 ? " (and more: mig explain)" : "");
	if (why && !why->n)
		*why = mine;
	else
		eng_reasons_clear(&mine);
	return r;
}

static int attempts(struct eng_family **f, pid_t host, pid_t pid, const struct eng_hooks *h, struct eng_reasons *why, struct error *e)
{
	for (int i = 0;; i++) {
		struct error now = {0};
		int r = attempt(f, host, h, why, &now);

		if (r == 0)
			return 0;
		if ((r != -EBUSY && r != -ESRCH) || i == ATTEMPTS - 1 || (r == -ESRCH && kill(host, 0) < 0))
			return error_set(e, -r, "%s", now.text);
		int pause = (i + 1) * ATTEMPT_PAUSE_MS;

		nanosleep(&(struct timespec){.tv_nsec = (pause < ATTEMPT_PAUSE_MOST_MS ? pause : ATTEMPT_PAUSE_MOST_MS) * 1000000}, NULL);
		if (*f)
			nest_refreeze(*f, pid);
	}
}

int eng_freeze(pid_t pid, const struct eng_hooks *h, struct eng_family **out, struct eng_reasons *why, struct error *e)
{
	struct eng_family *f = *out;
	pid_t host = f && f->nest ? nest_refreeze(f, pid) : pid;
	bool ahead = f && !f->nest; /* from eng_precopy at home: ours to free when this fails */
	_cleanup_free_ char *devices = NULL;
	int r;

	precopy_current(f);
	r = host < 0 ? error_set(e, -host, "no process %d in this family", pid) : explain_first(f, host, h && h->goes_home, why, e);
	if (r == 0 && !(f && f->devices))
		devices = look_at_devices(host);
	if (r < 0 && ahead)
		eng_thaw(f);
	else if (r == 0)
		r = attempts(&f, host, pid, h, why, e);
	if (r == 0 && !f->devices && !f->just_begun) {
		f->devices = devices;
		devices = NULL;
	}
	if (r == 0)
		*out = f;
	else if (ahead)
		*out = NULL;
	events_catch_up();
	return r;
}
