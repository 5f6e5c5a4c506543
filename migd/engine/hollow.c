// SPDX-License-Identifier: Apache-2.0
/*
 * Home side while a family is away: hollows. A hollow has its pid, threads, argument page and relayed descriptors; its first thread waits in the blob for
 * any signal. We hold it by ptrace, so that
 *   a signal      shows as the blob's trap, its siginfo in the slot of the first thread; one to a thread alone in that thread's, see apart_look();
 *   SIGSTOP       (which nobody can wait for) shows as a delivery, is let through so that the shell sees the stop, and is told;
 *   a stop or continue of the guest is played on the hollow;
 *   SIGKILL       shows as its end.
 * When we die the hollow lives on: a signal taken meanwhile waits in its slot (blob.h), all later ones in the kernel.
 * A signal that we have told stays in its slot, too, and its thread still, until the caller comes back for more events (he has written it down by then). It has a
 * number, so that one that is told again after our death is known again.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "conf/clock.h"
#include "conf/log.h"
#include "migd/engine/inject.h"
#include "migd/engine/memory.h"
#include "migd/engine/nest.h"
#include "migd/engine/procfs.h"

static const uint64_t own_mask = ~(1ULL << (SIGTRAP - 1));

static int thread_watch(struct eng_thread *t)
{
	uint32_t empty = 0, apart = t != t->proc->threads[0] && !t->core->own;
	int r;

	if (t->core->told) /* later: hollow_release() */
		return 0;
	r = eng_poke(t->proc, t->core->slot + offsetof(struct blob_slot, full), &empty, sizeof(empty));
	if (r == 0)
		r = eng_poke(t->proc, t->core->slot + offsetof(struct blob_slot, apart), &apart, sizeof(apart));
	if (r == 0)
		r = inject_park(t);
	pin_release(t);
	if (r == 0 && ptrace(PTRACE_CONT, t->tid, 0, 0) < 0)
		r = -errno;
	t->core->stopped = false;
	return r;
}

static int hollow_one(struct eng_proc *p, struct error *e)
{
	size_t n = 0;
	int r = 0;

	while (eng_res_table[n])
		n++;
	inject_transfer_close(p);
	while (n-- > 0 && r == 0) { /* the other way round: what was restored last goes first */
		eng_scratch_reset(p);
		if (eng_res_table[n]->hollow)
			r = eng_res_table[n]->hollow(p, e);
		if (r < 0)
			error_set(e, -r, "process %d: %s cannot be emptied: %s", p->vpid, eng_res_table[n]->name, strerror(-r));
	}
	if (r == 0)
		r = ENG_SYS(p->threads[0], SYS_madvise, p->core->blob + BLOB_SCRATCH, BLOB_SCRATCH_LEN, MADV_DONTNEED);
	if (r == 0)
		r = inject_set_mode(p, BLOB_WATCH);
	for (unsigned i = 0; i < p->nthreads && r == 0; i++)
		r = thread_watch(p->threads[i]);
	return r;
}

int eng_hollow(struct eng_family *f, struct error *e)
{
	int r = 0;

	if (f->nest || (f->state != ENG_PARKED && f->state != ENG_FILLED && f->state != ENG_HOLLOW))
		return error_set(e, EINVAL, "only a parked family at home can become hollow");
	if (f->state == ENG_HOLLOW) { /* abandoned in the middle of a fill */
		r = hollow_stop_all(f);
		if (r < 0)
			return r;
	}
	f->state = ENG_HOLLOW;
	for (size_t i = 0; i < f->nprocs; i++) {
		struct eng_proc *p = f->procs[i];
		int one = p->core->dead ? 0 : hollow_one(p, e);

		if (one < 0 && one != -ESRCH && r == 0)
			r = one;
	}
	family_forget_image(f);
	apart_start(f);
	return r;
}

/* ---- watching --------------------------------------------------------------------------------------- */
static bool is_child_news(const siginfo_t *si, pid_t child)
{
	return si->si_code >= CLD_EXITED && si->si_code <= CLD_CONTINUED && si->si_pid == child;
}

/* true: it was news. nr: its number in this thread's slot, 0: it has none. */
static bool tell_signal(struct eng_thread *t, const siginfo_t *si, uint32_t nr)
{
	struct eng_event ev = {.kind = ENG_SIGNAL, .pid = t->proc->vpid, .info = *si, .taker = t->vtid, .nr = nr};

	if (si->si_signo == SIGCONT && si->si_pid == getpid()) /* our own, from eng_stop_hollow() */
		return false;
	struct eng_proc *child = eng_proc_by_vpid(t->proc->family, si->si_pid);

	if (child && is_child_news(si, si->si_pid) && (si->si_signo == SIGCHLD || si->si_signo == child->core->exit_signal)) /* a hollow's end, which the guest knows of */
		return false;
	if (si->si_code == SI_TKILL)
		ev.tid = t->vtid;
	event_push(t->proc->family, &ev);
	return true;
}

/*
 * A thread that was stopped between the system call that took a signal and the note of it in the slot: on a busy machine that is a long time. The note is made for
 * it, and it goes on behind it: else it would make it once more if we died after the slot has been taken over.
 */
static bool took_unnoted(struct eng_thread *t)
{
	uint64_t base = t->proc->core->blob;
	struct user_regs_struct r;
	uint32_t full;

	if (!t->core->stopped || regs_get(t, &r) < 0 || r.rip < base + BLOB_AT(took) || r.rip >= base + BLOB_AT(noted) || (int)r.rax <= 0)
		return false;
	full = (uint32_t)r.rax;
	r.rip = base + BLOB_AT(noted);
	r.orig_rax = -1;
	return eng_poke(t->proc, t->core->slot + offsetof(struct blob_slot, full), &full, sizeof(full)) == 0 && regs_set(t, &r) == 0;
}

/* The blob's doorbell: a siginfo in the slot. Whoever calls this for a thread that does not stand at its trap parks it anew. */
static void take_slot(struct eng_thread *t)
{
	struct blob_slot s;

	if (t->core->told || eng_peek(t->proc, t->core->slot, &s, offsetof(struct blob_slot, sigmask)) < 0 || (!s.full && !took_unnoted(t)))
		return;
	t->core->told = true;
	t->core->own = false;
	t->core->told_nr = s.taken + 1 ? s.taken + 1 : 1;
	if (!tell_signal(t, &s.info, t->core->told_nr))
		event_push(t->proc->family, &(struct eng_event){.kind = ENG_NOTHING}); /* so that the caller comes back */
}

void hollow_release(struct eng_family *f)
{
	for (size_t i = 0; i < f->nprocs; i++)
		for (unsigned k = 0; k < f->procs[i]->nthreads; k++) {
			struct eng_thread *t = f->procs[i]->threads[k];
			uint32_t word[2] = {0, t->core->told_nr};

			if (!t->core->told)
				continue;
			t->core->told = false;
			if (t->core->gone || eng_poke(t->proc, t->core->slot + offsetof(struct blob_slot, full), word, sizeof(word)) < 0)
				continue;
			if (f->state == ENG_HOLLOW && t->core->stopped)
				thread_watch(t);
		}
}

static void group_stop(struct eng_thread *t, int sig)
{
	struct eng_proc *p = t->proc;
	struct eng_event ev = {.kind = ENG_STOPPED, .pid = p->vpid, .info.si_signo = sig};

	if (t == p->threads[0] && !p->core->mirrored && !p->core->stop_sig)
		event_push(p->family, &ev);
	if (t == p->threads[0]) {
		p->core->stop_sig = sig;
		p->core->mirrored = 0;
		ptrace(PTRACE_SETSIGMASK, t->tid, 8, &own_mask);
	}
	ptrace(PTRACE_LISTEN, t->tid, 0, 0);
}

static void thread_event(struct eng_thread *t, int st)
{
	struct eng_proc *p = t->proc;
	int sig = WSTOPSIG(st), pass = 0;
	siginfo_t si;

	if (st >> 16 == PTRACE_EVENT_STOP) {
		if (sig != SIGTRAP) {
			group_stop(t, sig);
			return;
		}
		if (t == p->threads[0] && p->core->stop_sig) {
			struct eng_event ev = {.kind = ENG_CONTINUED, .pid = p->vpid};

			p->core->stop_sig = 0;
			event_push(p->family, &ev);
		}
	} else if (sig == SIGTRAP) {
		if (ptrace(PTRACE_GETSIGINFO, t->tid, 0, &si) == 0 && si.si_code <= 0)
			tell_signal(t, &si, 0);
		else
			take_slot(t);
		if (t->core->told) {
			t->core->stopped = true;
			return;
		}
	} else if (sig == SIGSTOP && p->core->mirrored) { /* ours: in the name of the guest's */
		uint64_t mask = own_mask & ~(1ULL << (p->core->mirrored - 1));

		ptrace(PTRACE_SETSIGMASK, t->tid, 8, &mask);
		pass = p->core->mirrored;
	} else {
		pass = sig; /* SIGSTOP from somebody at home */
	}
	ptrace(PTRACE_CONT, t->tid, 0, pass);
}

static void thread_look(struct eng_thread *t)
{
	int st;
	pid_t r;

	while (!t->core->gone && (r = waitpid(t->tid, &st, __WALL | WNOHANG)) != 0) {
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0 || WIFEXITED(st) || WIFSIGNALED(st)) {
			t->core->gone = true;
			if (t == t->proc->threads[0])
				t->proc->core->dead = true;
			if (r > 0)
				event_exit_seen(t->proc, t, st);
			return;
		}
		thread_event(t, st);
	}
}

void watch_collect(struct eng_family *f)
{
	if (f->nest)
		nest_collect(f);
	if (f->state != ENG_HOLLOW)
		return;
	apart_look(f);
	for (size_t i = 0; i < f->nprocs; i++) /* the leader last: it can be reaped only then */
		for (unsigned k = f->procs[i]->nthreads; k-- > 0;)
			thread_look(f->procs[i]->threads[k]);
}

static int thread_stop(struct eng_thread *t)
{
	int st;

	if (t->core->gone)
		return -ESRCH;
	if (t->core->stopped)
		return 0;
	if (ptrace(PTRACE_INTERRUPT, t->tid, 0, 0) < 0)
		return -errno;
	t->core->how = PTRACE_CONT;
	for (;;) { /* not inject_wait(): a hollow that is group-stopped answers with that stop, and must not be let run on from it */
		pid_t got = waitpid(t->tid, &st, __WALL);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 || WIFEXITED(st) || WIFSIGNALED(st)) {
			t->core->gone = true;
			if (t == t->proc->threads[0])
				t->proc->core->dead = true;
			if (got > 0)
				event_exit_seen(t->proc, t, st);
			return -ESRCH;
		}
		t->core->stopped = true;
		if (st >> 16 == PTRACE_EVENT_STOP)
			break;
		t->core->stopped = false;
		thread_event(t, st);
		if (t->core->told) /* it stands at its trap, and will till that is taken over; the interrupt shows later and does no harm */
			return 0;
	}
	take_slot(t); /* what it had taken just now */
	return 0;
}

/* Found again while its group is stopped: it waits for signals when somebody continues it. */
static void thread_stays_stopped(struct eng_thread *t)
{
	if (t->core->told)
		return;
	inject_park(t);
	ptrace(PTRACE_SETSIGMASK, t->tid, 8, &own_mask);
	ptrace(PTRACE_LISTEN, t->tid, 0, 0);
	t->core->stopped = false;
}

void hollow_watch_all(struct eng_family *f)
{
	for (size_t i = 0; i < f->nprocs; i++)
		for (unsigned k = 0; k < f->procs[i]->nthreads; k++) {
			struct eng_thread *t = f->procs[i]->threads[k];

			take_slot(t);
			if (f->procs[i]->core->stop_sig)
				thread_stays_stopped(t);
			else
				thread_watch(t);
		}
	apart_start(f);
}

/* ---- signals to a single thread --------------------------------------------------------------------- */
static unsigned apart_count(const struct eng_family *f)
{
	unsigned n = 0;

	for (size_t i = 0; i < f->nprocs; i++)
		if (!f->procs[i]->core->dead)
			n += f->procs[i]->nthreads - 1;
	return n;
}

/* The more there are, the more rarely: nothing wakes us for them, and asking costs some 15 us each. */
void apart_start(struct eng_family *f)
{
	unsigned n = apart_count(f), ms = n < 5 ? 100 : n < 50 ? 20 * n : 1000;
	struct itimerspec t = {.it_value = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}};

	if (n)
		timerfd_settime(f->apart_fd, 0, &t, NULL);
}

/*
 * The kernel tells nobody of a blocked signal that is sent to one thread (tgkill(2), rt_tgsigqueueinfo(2)), and a thread that waited for it would take those of
 * the whole process, too. So they wait in the kernel until we see them, and then that thread is let take one: its own come first.
 */
void apart_look(struct eng_family *f)
{
	uint64_t times;

	if (read(f->apart_fd, &times, sizeof(times)) < 0)
		return;
	for (size_t i = 0; i < f->nprocs; i++)
		for (unsigned k = 1; !f->procs[i]->core->dead && k < f->procs[i]->nthreads; k++) {
			struct eng_thread *t = f->procs[i]->threads[k];

			if (t->core->gone || t->core->told || t->core->own || f->procs[i]->core->stop_sig || !procfs_pending(f->procs[i]->dir, t->tid))
				continue;
			if (thread_stop(t) < 0 || t->core->told)
				continue;
			t->core->own = true;
			thread_watch(t);
		}
	apart_start(f);
}

int hollow_stop_one(struct eng_proc *p)
{
	return thread_stop(p->threads[0]);
}

int hollow_watch_one(struct eng_proc *p)
{
	return thread_watch(p->threads[0]);
}

int hollow_stop_all(struct eng_family *f)
{
	int r = 0;

	for (size_t i = 0; i < f->nprocs; i++)
		for (unsigned k = 0; !f->procs[i]->core->dead && k < f->procs[i]->nthreads && r == 0; k++)
			r = thread_stop(f->procs[i]->threads[k]);
	return r;
}

/* ---- calls ------------------------------------------------------------------------------------------ */
static int make_call(struct eng_proc *p, struct eng_foreign *c)
{
	struct eng_call one = {.nr = c->nr, .may_fail = 1};
	int r;

	eng_scratch_reset(p);
	memcpy(one.arg, c->arg, sizeof(one.arg));
	if (c->in_arg >= 0)
		one.arg[c->in_arg] = eng_scratch_put(p, c->in, c->in_len);
	if (c->out_arg >= 0)
		one.arg[c->out_arg] = eng_scratch_put(p, NULL, c->out_len);
	r = eng_batch(p->threads[0], &one, 1, NULL);
	c->ret = one.ret;
	if (r == 0 && c->ret >= 0 && c->out_arg >= 0)
		r = eng_peek(p, one.arg[c->out_arg], c->out, c->out_len);
	return r;
}

int eng_hollow_call(struct eng_family *f, struct eng_foreign *c)
{
	struct eng_proc *p = eng_proc_by_vpid(f, c->pid);
	int r, again;

	if (!p || p->core->dead)
		p = f->nprocs ? f->procs[0] : NULL;
	if (f->state != ENG_HOLLOW || !p || p->core->dead)
		return -ESRCH;
	if (p->core->stop_sig) /* a stopped program makes no calls: it has just gone on, and that is still on its way here */
		return -EAGAIN;
	if (!foreign_valid(c))
		return -EINVAL;
	r = thread_stop(p->threads[0]);
	if (r < 0)
		return r;
	r = make_call(p, c);
	again = p->threads[0]->core->gone ? -ESRCH : thread_watch(p->threads[0]);
	return r < 0 ? r : again;
}

/* ---- ends ------------------------------------------------------------------------------------------- */
static void reap(struct eng_proc *p)
{
	uint64_t end = clock_mono_ns() + 2000000000ULL;

	while (!p->core->dead && clock_mono_ns() < end) {
		for (unsigned k = p->nthreads; k-- > 0;) {
			int st;

			if (p->threads[k]->core->gone || waitpid(p->threads[k]->tid, &st, __WALL | WNOHANG) == 0)
				continue;
			if (WIFSTOPPED(st)) {
				ptrace(PTRACE_CONT, p->threads[k]->tid, 0, WSTOPSIG(st) == SIGTRAP || st >> 16 ? 0 : WSTOPSIG(st));
				continue;
			}
			p->threads[k]->core->gone = true;
			if (k == 0)
				p->core->dead = true;
		}
		if (!p->core->dead)
			nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
	}
}

static int exit_by_signal(struct eng_proc *p, int sig)
{
	struct eng_thread *t = p->threads[0];
	struct ksigaction dfl = {0};
	struct rlimit none = {0, 0};
	uint64_t mask = ~(1ULL << (sig - 1)), at, lim;

	eng_scratch_reset(p);
	at = eng_scratch_put(p, &dfl, sizeof(dfl));
	lim = eng_scratch_put(p, &none, sizeof(none));
	ENG_SYS(t, SYS_setrlimit, RLIMIT_CORE, lim); /* the core of an emptied process is of no use to anybody */
	if (sig == SIGKILL)
		return syscall(SYS_pidfd_send_signal, p->pidfd, SIGKILL, NULL, 0) < 0 ? -errno : 0;
	INJECT_RAW(t, SYS_rt_sigaction, sig, at, 0, 8);
	ptrace(PTRACE_SETSIGMASK, t->tid, 8, &mask);
	if (syscall(SYS_tgkill, p->pid, t->tid, sig) < 0)
		return -errno;
	return ptrace(PTRACE_CONT, t->tid, 0, 0) < 0 ? -errno : 0;
}

static int exit_by_code(struct eng_proc *p, int code)
{
	struct eng_thread *t = p->threads[0];
	struct user_regs_struct r;

	if (regs_get(t, &r) < 0)
		return -ESRCH;
	r.orig_rax = -1;
	r.rax = SYS_exit_group;
	r.rdi = code;
	r.rip = p->core->sysinsn;
	if (regs_set(t, &r) < 0)
		return -ESRCH;
	return ptrace(PTRACE_CONT, t->tid, 0, 0) < 0 ? -errno : 0;
}

void hollow_drain(struct eng_proc *parent, pid_t child, int sig)
{
	struct eng_thread *t = parent->threads[0];
	uint64_t set, at, info;
	struct timespec none = {0, 0};
	siginfo_t si = {0};

	if (sig <= 0)
		return;
	set = 1ULL << (sig - 1);
	eng_scratch_reset(parent);
	at = eng_scratch_put(parent, &set, sizeof(set));
	info = eng_scratch_put(parent, &si, sizeof(si));
	if (ENG_SYS(t, SYS_rt_sigtimedwait, at, info, eng_scratch_put(parent, &none, sizeof(none)), 8) == sig && child && sig != SIGCHLD &&
	    eng_peek(parent, info, &si, sizeof(si)) == 0 && !is_child_news(&si, child))
		ENG_SYS(t, SYS_rt_sigqueueinfo, parent->vpid, sig, info); /* somebody has sent it */
}

/* The parent hollow waits for a child that has ended, and takes the signal that it got for it. */
void hollow_reap_zombie(struct eng_proc *parent, pid_t vpid, int sig)
{
	ENG_SYS(parent->threads[0], SYS_wait4, vpid, 0, WNOHANG | __WALL, 0);
	hollow_drain(parent, vpid, sig);
}

int eng_exit_hollow(struct eng_family *f, pid_t pid, int status)
{
	return f->nest ? -EINVAL : hollow_end(f, pid, status, END_REAP);
}

int vessel_die(struct eng_proc *p, int status)
{
	int r = WIFSIGNALED(status) ? exit_by_signal(p, WTERMSIG(status)) : exit_by_code(p, WEXITSTATUS(status));

	for (unsigned k = 1; k < p->nthreads; k++) /* they end with the group */
		ptrace(PTRACE_CONT, p->threads[k]->tid, 0, 0);
	if (r == 0)
		reap(p);
	return r;
}

/* Its parent waited for it away: here the hollow does. */
static void parent_waits(struct eng_proc *p, int how)
{
	struct eng_thread *t = p->parent && !p->parent->core->dead ? p->parent->threads[0] : NULL;
	bool waits = t && !t->core->stopped;

	if (!t || thread_stop(t) < 0)
		return;
	if (how == END_REAP)
		hollow_reap_zombie(p->parent, p->vpid, p->core->exit_signal);
	else
		hollow_drain(p->parent, p->vpid, p->core->exit_signal);
	if (waits)
		thread_watch(t);
}

/* END_KEEP: the family comes home with it as a zombie that its parent will wait for. */
int hollow_end(struct eng_family *f, pid_t pid, int status, int how)
{
	struct eng_proc *p = eng_proc_by_vpid(f, pid);
	int r = 0;

	if (!p)
		return -ESRCH;
	if (p->core->dead) { /* somebody has killed it here */
		if (how == END_REAP)
			parent_waits(p, how);
		return 0;
	}
	if (p->core->stop_sig && !WIFSIGNALED(status)) /* a stopped process cannot exit by itself */
		syscall(SYS_pidfd_send_signal, p->pidfd, SIGCONT, NULL, 0);
	p->core->exit_sent = true;
	for (unsigned k = 0; k < p->nthreads && r == 0; k++)
		r = thread_stop(p->threads[k]);
	if (r == 0)
		r = vessel_die(p, status);
	if (r == 0)
		parent_waits(p, how);
	return r == -ESRCH ? 0 : r;
}

int eng_stop_hollow(struct eng_family *f, pid_t pid, int sig)
{
	struct eng_proc *p = eng_proc_by_vpid(f, pid);

	if (!p || p->core->dead)
		return -ESRCH;
	if (sig == SIGCONT || sig == 0) {
		if (!p->core->stop_sig)
			return 0;
		return syscall(SYS_pidfd_send_signal, p->pidfd, SIGCONT, NULL, 0) < 0 ? -errno : 0;
	}
	if (p->core->stop_sig)
		return 0;
	p->core->mirrored = sig;
	return syscall(SYS_tgkill, p->pid, p->threads[0]->tid, SIGSTOP) < 0 ? -errno : 0;
}

int eng_discard(struct eng_family *f)
{
	for (size_t i = 0; i < f->nprocs && !f->nest; i++)
		if (!f->procs[i]->core->dead)
			syscall(SYS_pidfd_send_signal, f->procs[i]->pidfd, SIGKILL, NULL, 0);
	if (f->nest)
		nest_kill(f->nest);
	for (size_t i = f->nprocs; i-- > 0 && !f->nest;)
		if (f->procs[i]->nthreads && f->state != ENG_RUNNING)
			reap(f->procs[i]);
	family_free(f);
	return 0;
}
