// SPDX-License-Identifier: Apache-2.0
/*
 * Registers of a frozen thread, made such that going on with them somewhere else is the same as going on here: system calls in progress, critical
 * sections of restartable sequences.
 *
 * A thread stopped by PTRACE_INTERRUPT inside of a system call has the call's number in orig_rax and in rax
 *   -512 ERESTARTSYS, -513 ERESTARTNOINTR, -514 ERESTARTNOHAND: the kernel re-executes the call when it runs on (or says EINTR if a handler runs first): as they are;
 *   -516 ERESTART_RESTARTBLOCK: goes on with state kept in the task: regs_rearm() makes the same state in the fresh task, or
 *        the call is simply made again (absolute times);
 *        When it was gone on with once already, orig_rax says restart_syscall: which call it was is read from the code, what is left from deadlines.c;
 *   -EINTR: it is our interrupt that they saw, so -514 is put in its place. They are made again as they were
 *        called, but for a relative time-out: that is what is left of it (wait_again()).
 */
#include <errno.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include "migd/engine/inject.h"
#include "migd/engine/procfs.h"

enum { ERESTARTSYS = 512, ERESTARTNOINTR = 513, ERESTARTNOHAND = 514, ERESTART_RESTARTBLOCK = 516 };

struct rseq_cs { /* linux/rseq.h */
	uint32_t version, flags;
	uint64_t start_ip, post_commit_offset, abort_ip;
};

/*
 * EINTR at our stop: from calls that give it whenever they are woken, signal or not (signal(7), "never restarted"), and from any call on a file system that lets its
 * calls be interrupted (a FUSE or NFS server that is away). It has done nothing, so it is made again; but close(2) has closed.
 */
static bool made_again(long nr)
{
	return nr != SYS_close;
}

/*
 * restart_syscall hides which call goes on. Nearly all code loads the number right before the instruction: b8 NR 0f 05. Else what it sleeps in tells.
 */
static long hidden_call(struct eng_thread *t, const struct user_regs_struct *r)
{
	unsigned char code[7];
	uint32_t nr;

	if (r->orig_rax != SYS_restart_syscall)
		return r->orig_rax;
	if (eng_peek(t->proc, r->rip - 7, code, sizeof(code)) == 0 && code[0] == 0xb8 && code[5] == 0x0f && code[6] == 0x05) {
		memcpy(&nr, code + 1, sizeof(nr));
		return nr;
	}
	if (strstr(t->core->wchan, "futex"))
		return SYS_futex;
	if (strstr(t->core->wchan, "poll"))
		return SYS_poll;
	if ((r->rsi & ~0x100UL) == (FUTEX_WAIT | FUTEX_PRIVATE_FLAG) && r->rdi % 4 == 0 && r->rdi > 4096)
		return SYS_futex;
	if (r->rdi >= 64)
		return SYS_nanosleep;
	return eng_peek(t->proc, r->rdx, code, 1) == 0 ? SYS_clock_nanosleep : SYS_poll;
}

/* The time-out of an interrupted relative wait, in ns; -1: none or absolute. */
static int64_t relative_timeout(struct eng_thread *t, const struct user_regs_struct *r)
{
	struct timespec ts;
	uint64_t at = 0;

	switch ((long)t->core->wait_nr) {
	case SYS_poll:
		return (int32_t)r->rdx < 0 ? -1 : (int64_t)(int32_t)r->rdx * 1000000;
	case SYS_nanosleep:
		at = r->rdi;
		break;
	case SYS_clock_nanosleep:
		at = r->rsi & TIMER_ABSTIME ? 0 : r->rdx;
		break;
	case SYS_futex:
		at = (r->rsi & 0x7f) == FUTEX_WAIT ? r->r10 : 0;
		break;
	}
	if (!at || eng_peek(t->proc, at, &ts, sizeof(ts)) < 0)
		return -1;
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

/* For the next time that it is stopped in this wait, here: then only restart_syscall is to be seen. */
static void note_wait(struct eng_thread *t, const struct user_regs_struct *r, int64_t timeout)
{
	uint64_t slept = freeze_slept_ns(t);

	t->core->has_remaining = true;
	t->core->remaining = (uint64_t)timeout > slept ? timeout - slept : 0;
	deadline_note(t->tid, t->core->wait_nr, t->core->remaining, r->rsp, timeout);
}

/* Gone on with before, and noted then. */
static bool wait_known(struct eng_thread *t, const struct user_regs_struct *r)
{
	int64_t timeout;

	if (r->orig_rax != SYS_restart_syscall || deadline_left(t->tid, r->rsp, freeze_slept_ns(t), &t->core->wait_nr, &t->core->remaining, &timeout) < 0 ||
	    relative_timeout(t, r) != timeout)
		return false;
	t->core->has_remaining = true;
	return true;
}

/*
 * A call that saw our interrupt is made again, for what is left of its relative time-out. That is in a register, or below the stack and what a function may keep
 * there (the red zone): the program's own timespec is not touched. The register stays changed when the call has ended, which callers of functions never see.
 */
enum { RED_ZONE = 128 };
static void wait_again(struct eng_thread *t, struct user_regs_struct *r)
{
	bool in_ms = r->orig_rax == SYS_epoll_wait || r->orig_rax == SYS_epoll_pwait;
	unsigned long long *arg = r->orig_rax == SYS_rt_sigtimedwait ? &r->rdx : &r->r10;
	uint64_t slept = freeze_slept_ns(t), at = (r->rsp - RED_ZONE - 32) & ~15ULL, left;
	struct timespec ts;

	r->rax = -ERESTARTNOHAND;
	if (!slept)
		return;
	if (in_ms) {
		if ((int32_t)*arg > 0)
			*arg = (uint64_t)(int32_t)*arg * 1000000 > slept ? (int32_t)*arg - slept / 1000000 : 0;
		return;
	}
	if ((r->orig_rax != SYS_rt_sigtimedwait && r->orig_rax != SYS_semtimedop && r->orig_rax != 441 /* epoll_pwait2 */) || !*arg ||
	    eng_peek(t->proc, *arg, &ts, sizeof(ts)) < 0 || ts.tv_sec < 0 || ts.tv_sec > 1000000000)
		return;
	left = ts.tv_sec * 1000000000ULL + ts.tv_nsec;
	left = left > slept ? left - slept : 0;
	ts = (struct timespec){left / 1000000000, left % 1000000000};
	if (eng_poke(t->proc, at, &ts, sizeof(ts)) == 0)
		*arg = at;
}

static void arrange_syscall(struct eng_thread *t)
{
	struct user_regs_struct *r = &t->regs;
	int64_t timeout;

	if ((long)r->orig_rax < 0)
		return;
	if ((long)r->rax == -EINTR && made_again(r->orig_rax)) {
		wait_again(t, r);
		t->core->frozen = *r;
	}
	if ((long)r->rax != -ERESTART_RESTARTBLOCK)
		return;
	if (wait_known(t, r))
		return;
	t->core->wait_nr = hidden_call(t, r);
	timeout = relative_timeout(t, r);
	if (timeout < 0) { /* absolute: the same call again is right */
		r->orig_rax = t->core->wait_nr;
		r->rax = -ERESTARTNOHAND;
		return;
	}
	note_wait(t, r, timeout);
}

void regs_let_go(struct eng_thread *t)
{
	struct user_regs_struct r;
	int64_t timeout;

	if (regs_get(t, &r) < 0 || (long)r.orig_rax < 0)
		return;
	if ((long)r.rax == -EINTR && made_again(r.orig_rax)) { /* it is our interrupt that it saw */
		wait_again(t, &r);
		regs_set(t, &r);
		return;
	}
	if ((long)r.rax != -ERESTART_RESTARTBLOCK || r.orig_rax == SYS_restart_syscall)
		return;
	t->core->wait_nr = r.orig_rax;
	timeout = relative_timeout(t, &r);
	if (timeout >= 0)
		note_wait(t, &r, timeout);
}

static int step_out(struct eng_thread *t, uint64_t start, uint64_t end)
{
	struct user_regs_struct r;
	int st;

	for (int i = 0; i < 20000; i++) {
		if (regs_get(t, &r) < 0)
			return -ESRCH;
		if (r.rip < start || r.rip >= end)
			return 0;
		t->core->how = PTRACE_SINGLESTEP;
		if (ptrace(PTRACE_SINGLESTEP, t->tid, 0, 0) < 0 || inject_wait(t, &st) < 0)
			return -ESRCH;
	}
	return -EBUSY;
}

/*
 * Nobody may be inside of the vdso: it works on pointers into its data pages, which are others in a time namespace (the guest's) and outside of one. A call
 * takes some tens of instructions, so: step to its end. (Signals are blocked by now.)
 */
int regs_leave_vdso(struct eng_thread *t, uint64_t start, uint64_t end)
{
	struct user_regs_struct r;

	if (regs_get(t, &r) < 0)
		return -ESRCH;
	return r.rip >= start && r.rip < end && (long)r.orig_rax < 0 ? step_out(t, start, end) : 0;
}

/* Inside of a critical section: go to its abort handler, as the kernel does when it moves a thread to another CPU. */
static int arrange_rseq(struct eng_thread *t)
{
	struct {
		uint64_t rseq_abi_pointer;
		uint32_t rseq_abi_size, signature, flags, pad;
	} conf = {0};
	struct rseq_cs cs;
	uint64_t ptr;

	if (ptrace(0x420f /* PTRACE_GET_RSEQ_CONFIGURATION */, t->tid, sizeof(conf), &conf) != sizeof(conf) || !conf.rseq_abi_pointer)
		return 0;
	t->core->rseq = conf.rseq_abi_pointer;
	t->core->rseq_len = conf.rseq_abi_size;
	t->core->rseq_sig = conf.signature;
	if (eng_peek(t->proc, conf.rseq_abi_pointer + 8, &ptr, 8) < 0 || !ptr)
		return 0;
	if (eng_peek(t->proc, ptr, &cs, sizeof(cs)) < 0)
		return 0;
	if (t->regs.rip - cs.start_ip < cs.post_commit_offset) {
		t->regs.rip = cs.abort_ip;
		t->core->frozen.rip = cs.abort_ip;
	}
	ptr = 0;
	return eng_poke(t->proc, conf.rseq_abi_pointer + 8, &ptr, 8);
}

static bool own_calls(struct eng_thread *t)
{
	struct {
		uint64_t mode, selector, offset, len;
	} c = {0};

	return ptrace(0x4211 /* PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, Linux 6.4 */, t->tid, sizeof(c), &c) == 0 && c.mode;
}

int regs_frozen(struct eng_thread *t, struct eng_reasons *why, struct error *e)
{
	(void)why;
	if (regs_get(t, &t->core->frozen) < 0)
		return -ESRCH;
	t->regs = t->core->frozen;
	t->core->looked = true;
	if (t->regs.cs != 0x33)
		return error_set(e, EOPNOTSUPP, "thread %d runs 32-bit code: build it for x86-64", t->vtid);
	if (own_calls(t)) /* the engine's calls would be caught, too */
		return error_set(e, EOPNOTSUPP, "thread %d catches its own system calls (PR_SET_SYSCALL_USER_DISPATCH): cannot be carried; start it without", t->vtid);
	arrange_syscall(t);
	return arrange_rseq(t);
}

/* The call that goes on, with its time-out replaced by what is left. */
static void rearm_regs(struct eng_thread *t, struct user_regs_struct *r, uint64_t ts_at)
{
	const struct user_regs_struct *w = &t->regs;

	r->rdi = w->rdi;
	r->rsi = w->rsi;
	r->rdx = w->rdx;
	r->r10 = w->r10;
	r->r8 = w->r8;
	r->r9 = w->r9;
	r->rax = t->core->wait_nr;
	r->orig_rax = -1;
	r->rbx = t->proc->core->blob + BLOB_HEAD;
	r->r15 = t->core->slot;
	r->rip = t->proc->core->blob + BLOB_AT(sleep);
	switch (t->core->wait_nr) {
	case SYS_poll:
		r->rdx = (t->core->remaining + 999999) / 1000000;
		break;
	case SYS_nanosleep:
		r->rdi = ts_at;
		break;
	case SYS_clock_nanosleep:
		r->rdx = ts_at;
		break;
	default:
		r->r10 = ts_at;
	}
}

/*
 * Only the kernel can make a restart block, when a call that it belongs to is interrupted. So: start the same wait for the time that is left, from the
 * blob, interrupt it, and let the true registers say "restart". (If we die meanwhile it parks when that time is over.) If the call ended at once (what it waited for is there) that is its result.
 */
int regs_rearm(struct eng_thread *t)
{
	struct timespec ts = {t->core->remaining / 1000000000, t->core->remaining % 1000000000};
	struct user_regs_struct r;
	uint64_t at;
	int st;

	eng_scratch_reset(t->proc);
	at = eng_scratch_put(t->proc, &ts, sizeof(ts));
	if (!at || regs_get(t, &r) < 0)
		return -ESRCH;
	rearm_regs(t, &r, at);
	if (regs_set(t, &r) < 0)
		return -ESRCH;
	t->core->how = PTRACE_SYSCALL;
	if (ptrace(PTRACE_SYSCALL, t->tid, 0, 0) < 0 || inject_wait(t, &st) < 0) /* at its entry ... */
		return -ESRCH;
	if (inject_interrupt(t) < 0 || regs_get(t, &r) < 0)
		return -ESRCH; /* ... it finds itself interrupted */
	t->regs.rax = r.rax;
	t->regs.orig_rax = (long)r.rax == -ERESTART_RESTARTBLOCK || (long)r.rax == -ERESTARTNOHAND ? (uint64_t)t->core->wait_nr : (uint64_t)-1;
	if ((long)r.rax == -ERESTART_RESTARTBLOCK)
		deadline_note(t->tid, t->core->wait_nr, t->core->remaining, t->regs.rsp, relative_timeout(t, &t->regs));
	return 0;
}
