// SPDX-License-Identifier: Apache-2.0
/*
 * Signals from home with their siginfo as it was. rt_sigqueueinfo(2): "si_code >= 0 or SI_TKILL" (kill, tgkill, the kernel's own) may be sent to
 * nobody but oneself; so the guest sends it to itself: its thread is stopped for a moment, makes the call, and goes on where it was, in whatever
 * system call that was. A stopped or ending process, SIGKILL and the job-control signals take the keeper's way (kill(2), sender unknown).
 *
 * In between the thread's registers are ours. A tracer that dies there would let it run on with them, so the tracer is a process of its own, which has this
 * one's memory and no other tie to it: kill -9 of migd leaves it to do its work. It tells the keeper when it is done, so that the next migd, which is sent the
 * signal again, does not do it once more. If the program has become another one (exec) between our look at it and the stop, we look again.
 */
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
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
#include "migd/engine/vessel.h"

static const uint64_t patience_ns = 300000000;
enum { LOOKS = 20 };

bool sigqueue_needed(const siginfo_t *si)
{
	switch (si->si_signo) {
	case SIGKILL:
	case SIGSTOP:
	case SIGCONT:
	case SIGTSTP:
	case SIGTTIN:
	case SIGTTOU:
		return false;
	}
	return si->si_code >= 0 || si->si_code == SI_TKILL;
}

static char task_state(pid_t pid, pid_t tid)
{
	char path[64];
	_cleanup_free_ char *text = NULL;
	const char *s;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", pid, tid);
	text = eng_proc_read(-100 /* AT_FDCWD */, path, NULL);
	s = text ? strrchr(text, ')') : NULL;
	return s && s[1] ? s[2] : 'X';
}

/* A thread in an uninterruptible sleep would not stop for us, and we could not let go of it: wait for it to come out. */
static int wait_ready(pid_t pid, pid_t tid)
{
	uint64_t end = clock_mono_ns() + patience_ns;

	for (;;) {
		char s = task_state(pid, tid);

		if (s == 'R' || s == 'S')
			return 0;
		if (s != 'D' || clock_mono_ns() > end)
			return -EBUSY;
		nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
	}
}

/* Into an interrupt's stop; signals that were on their way are let through first. */
static int stop(struct eng_thread *t)
{
	int st, s = inject_seize(t);

	if (s < 0)
		return s;
	for (;;) {
		pid_t r = waitpid(t->tid, &st, __WALL);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0 || WIFEXITED(st) || WIFSIGNALED(st)) {
			t->core->gone = true;
			return -ESRCH;
		}
		if (st >> 16 == PTRACE_EVENT_STOP) {
			t->core->stopped = true;
			inject_filters_sleep(t);
			return WSTOPSIG(st) == SIGTRAP ? 0 : -EAGAIN; /* group stop */
		}
		ptrace(PTRACE_CONT, t->tid, 0, st >> 16 ? 0 : WSTOPSIG(st) & 0x7f);
	}
}

/*
 * The stopped thread calls: a page of its own for the siginfo, so that no memory of the program is touched. The kernel gives a process's signal to its first thread
 * unless that blocks it (complete_signal()), and run-times that handle signals there rely on it: so in that call it blocks what it blocks by itself.
 */
static int send_to_self(struct eng_proc *p, struct eng_thread *t, bool whole, const siginfo_t *si)
{
	uint64_t mask = ~(1ULL << (SIGTRAP - 1)), bit = 1ULL << (si->si_signo - 1), own = t->sigmask & bit ? mask : mask & ~bit;
	long page = INJECT_RAW(t, SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), r;

	if (page < 0 && page > -4096)
		return page;
	r = eng_poke(p, page, si, sizeof(*si));
	if (r == 0)
		r = whole ? inject_raw_masked(t, SYS_rt_sigqueueinfo, (const uint64_t[6]){p->vpid, si->si_signo, page}, own, mask)
			  : INJECT_RAW(t, SYS_rt_tgsigqueueinfo, p->vpid, t->vtid, si->si_signo, page);
	INJECT_RAW(t, SYS_munmap, page, 4096);
	return r;
}

static int by_thread(struct eng_proc *p, struct eng_thread *t, bool whole, const siginfo_t *si, uint64_t seq)
{
	uint64_t mask = ~(1ULL << (SIGTRAP - 1));
	struct error e = {0};
	int r = stop(t);

	if (r == 0 && !inject_prepared(p))
		r = -ESTALE;
	if (r == 0 && ptrace(PTRACE_GETSIGMASK, t->tid, 8, &t->sigmask) == 0 && ptrace(PTRACE_SETSIGMASK, t->tid, 8, &mask) == 0)
		t->core->masked = true;
	if (r == 0)
		r = regs_frozen(t, NULL, &e);
	if (r == 0)
		r = send_to_self(p, t, whole, si);
	if (r == 0)
		nest_self_done(p->family->nest, seq);
	if (!t->core->gone)
		thaw_thread(t);
	return r;
}

static int apart(struct eng_proc *p, struct eng_thread *t, bool whole, const siginfo_t *si, uint64_t seq)
{
	volatile int result = -ECHILD;
	struct maps *maps;
	pid_t pid;
	int r = procfs_maps(p->dir, false, &maps);

	if (r == 0) {
		r = inject_prepare(p, maps);
		maps_free(maps);
	}
	if (r < 0) /* in the middle of an exec it has none, or they are not all there yet */
		return -ESTALE;
	r = nest_self_begin(p->family, seq);
	if (r < 0)
		return r == -EALREADY ? 0 : r;
	pid = vfork();
	if (pid == 0) {
		prctl(PR_SET_NAME, "sprite-tracer"); /* whoever ends migd by name does not mean this */
		result = by_thread(p, t, whole, si, seq);
		_exit(0);
	}
	if (pid < 0)
		return -errno;
	while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
		;
	return result;
}

/* -ESTALE: it has just become another program. */
static int send_once(struct eng_proc *p, pid_t vtid, const siginfo_t *si, uint64_t seq)
{
	pid_t want = vtid ? vtid : p->vpid, tid = 0;
	bool was_dead = p->core->dead;
	struct eng_thread *t;
	int r = find_tid(p, want, &tid);

	if (r == 0)
		r = wait_ready(p->pid, tid);
	if (r < 0)
		return r;
	t = thread_new(p, tid, want);
	if (!t)
		return -ENOMEM;
	r = apart(p, t, vtid == 0, si, seq);
	thread_drop(p, 0);
	if (tid != p->pid) /* a thread's end is not its process's */
		p->core->dead = was_dead;
	return r;
}

int sigqueue_self(struct eng_family *f, struct eng_proc *p, pid_t vtid, const siginfo_t *si, uint64_t seq)
{
	int r;

	if (f->state != ENG_RUNNING || p->nthreads || p->core->dead)
		return -EBUSY;
	r = p->dir < 0 || p->core->mem < 0 ? proc_open(p) : 0;
	if (r < 0)
		return r;
	for (int looks = 0; (r = send_once(p, vtid, si, seq)) == -ESTALE && looks < LOOKS; looks++)
		nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
	if (r < 0)
		log_debug("engine: process %d cannot be made to signal itself: %s", p->vpid, strerror(-r));
	return r;
}
