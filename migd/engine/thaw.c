// SPDX-License-Identifier: Apache-2.0
/*
 * Letting go of a family that was stopped, or has come: each thread with its own registers, mask and job-control state.
 *
 * A call that was interrupted is made again by the program: it goes back to the instruction, and a signal that comes before that is on a processor again would run its
 * handler before the call, which then waits for another one. That must not be in calls whose sense is that there is no such gap (into_call()).
 */
#include <errno.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/log.h"
#include "migd/engine/guard.h"
#include "migd/engine/inject.h"
#include "migd/engine/memory.h"
#include "migd/engine/nest.h"
#include "migd/engine/res_util.h"

static const uint64_t entry_limit_ns = 1000000000ULL; /* nothing is between it and its call but a processor */

/* Not epoll_pwait(2) and others that say EINTR without having been ended by a signal: letting go looks like one. */
static bool waits_for_signal(const struct user_regs_struct *r)
{
	return (long)r->rax == -514 /* ERESTARTNOHAND */ &&
	       (r->orig_rax == SYS_pause || r->orig_rax == SYS_rt_sigsuspend || r->orig_rax == SYS_ppoll || r->orig_rax == SYS_pselect6);
}

/* Until its next stop of its own; one that somebody else holds (a freezer) is called off. 0, or -ESRCH: it has ended. */
static int run_to_stop(struct eng_thread *t, int *st)
{
	bool called = false, late;
	int r;

	do {
		if (ptrace(PTRACE_SYSCALL, t->tid, 0, 0) < 0)
			return -ESRCH;
		while ((r = freeze_wait_until(t->tid, st, clock_mono_ns() + entry_limit_ns)) == 0) {
			if (!called)
				log_warn("engine: thread %d is held by something else as it is let go: waiting for it", t->vtid);
			called = true;
			ptrace(PTRACE_INTERRUPT, t->tid, 0, 0);
		}
		if (r > 0 && !WIFSTOPPED(*st))
			event_exit_seen(t->proc, t, *st);
		if (r < 0 || !WIFSTOPPED(*st))
			return -ESRCH;
		late = *st >> 16 == PTRACE_EVENT_STOP && WSTOPSIG(*st) == SIGTRAP; /* of an interrupt of before */
	} while (late && !called);
	return 0;
}

/*
 * The thread makes the call for the program, at an instruction of the vdso (which is there, whatever has become of the pages of the program), is held at its entry, told
 * that it is the program's own, and can be let go: it runs already. Or it is let go with the signal that came first, and finds its registers as the interruption left them:
 * the kernel says EINTR, if it has a handler. That signal, or 0.
 */
static int into_call(struct eng_thread *t)
{
	struct user_regs_struct r = t->core->frozen;
	int st, place, err;

	if (!t->core->looked || !t->proc->core->sysinsn || t->proc->core->stop_sig || !waits_for_signal(&r))
		return 0;
	r.rax = r.orig_rax;
	r.orig_rax = -1;
	r.rip = t->proc->core->sysinsn;
	if (regs_set(t, &r) < 0)
		return 0;
	place = events_await(t->tid);
	err = run_to_stop(t, &st);
	events_awaited(place);
	if (err < 0) {
		t->core->gone = true;
		return 0;
	}
	r = t->core->frozen;
	if (WSTOPSIG(st) == (SIGTRAP | 0x80))
		r.rax = -ENOSYS; /* as at every entry */
	regs_set(t, &r);
	return WSTOPSIG(st) == (SIGTRAP | 0x80) || st >> 16 ? 0 : WSTOPSIG(st); /* stopped by job control just now: so it stays */
}

int thaw_thread(struct eng_thread *t)
{
	int r = 0, sig;

	for (int i = 0; !t->core->gone && !t->core->stopped; i++) { /* seized, but its stop had not been waited for */
		if (i == 1)
			log_warn("engine: thread %d does not stop to be let go: waiting for it", t->vtid);
		if (i)
			ptrace(PTRACE_INTERRUPT, t->tid, 0, 0);
		freeze_await(t, NULL);
	}
	t->core->seized = false;
	if (t->core->gone)
		return -ESRCH;
	if (t->core->looked)
		r = regs_set(t, &t->core->frozen);
	else
		regs_let_go(t);
	if (r == 0 && t->core->masked && ptrace(PTRACE_SETSIGMASK, t->tid, 8, &t->sigmask) < 0)
		r = -errno;
	sig = r == 0 ? into_call(t) : 0;
	pin_release(t); /* not before: it runs into its call and back to us */
	t->core->stopped = false;
	if (t->core->gone)
		return -ESRCH;
	if (ptrace(PTRACE_DETACH, t->tid, 0, sig) < 0)
		r = -errno;
	if (r < 0)
		log_warn("engine: thread %d cannot be let go: %s", t->vtid, strerror(-r));
	return r;
}

bool thaw_waits(const struct eng_proc *p, int sig)
{
	_cleanup_free_ char *status = eng_proc_read(p->dir, "status", NULL);

	return (res_field_u64(status, "ShdPnd", 16, 0) | res_field_u64(status, "SigPnd", 16, 0)) >> (sig - 1) & 1;
}

/*
 * A stop and a SIGCONT that waits exclude each other: the kernel takes the one away for the other. One that waits has come since, from who wants it to go on.
 */
bool thaw_stop(struct eng_proc *p)
{
	if (p->core->stop_sig && thaw_waits(p, SIGCONT))
		p->core->stop_sig = 0;
	return p->core->stop_sig && syscall(SYS_pidfd_send_signal, p->pidfd, SIGSTOP, NULL, 0) == 0;
}

int thaw_unblob(struct eng_proc *p, const struct user_regs_struct *first)
{
	int r;

	guard_up(p->threads[0], first);
	r = inject_unblob(p);
	regs_set(p->threads[0], first);
	guard_down(p);
	return r;
}

/* But for who has not stopped: thaw_processes(). */
static void proc_thaw(struct eng_proc *p)
{
	if (p->core->blob_in) {
		inject_transfer_close(p);
		if (thaw_unblob(p, &p->threads[0]->core->frozen) < 0 && !p->core->dead)
			log_error("engine: process %d: the engine's pages stay behind", p->vpid);
	}
	thaw_stop(p);
	for (unsigned k = 0; k < p->nthreads; k++)
		if (p->threads[k]->core->stopped)
			thaw_thread(p->threads[k]);
}

void thaw_processes(struct eng_family *f)
{
	for (size_t i = 0; i < f->nprocs; i++)
		proc_thaw(f->procs[i]);
	for (size_t i = 0; i < f->nprocs; i++) {
		struct eng_proc *p = f->procs[i];

		while (p->nthreads) {
			struct eng_thread *t = p->threads[p->nthreads - 1];

			if (t->core->seized)
				thaw_thread(t);
			thread_drop(p, p->nthreads - 1);
		}
	}
}

int eng_thaw(struct eng_family *f)
{
	for (size_t k = 0; eng_res_table[k]; k++)
		if (eng_res_table[k]->thaw)
			eng_res_table[k]->thaw(f);
	thaw_processes(f);
	events_catch_up();
	for (size_t i = 0; i < f->nprocs; i++)
		dump_maps_free(f->procs[i]), precopy_free(f->procs[i]);
	if (f->nest) { /* a guest that stays: the object goes on */
		family_forget_image(f);
		nest_running(f);
		return 0;
	}
	family_free(f);
	return 0;
}
