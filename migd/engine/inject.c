// SPDX-License-Identifier: Apache-2.0
/* System calls inside of a traced process (inject.h, blob.h). */
#include "migd/engine/inject.h"
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/fault.h"
#include "conf/log.h"
#include "migd/engine/guard.h"
#include "migd/engine/procfs.h"

static int thread_lost_at(struct eng_thread *t, int line)
{
	log_debug("engine: thread %d is lost (inject.c:%d): %s", t->vtid, line, strerror(errno));
	t->core->gone = true;
	t->core->stopped = false;
	if (t == t->proc->threads[0])
		t->proc->core->dead = true;
	return -ESRCH;
}

#define thread_lost(t) thread_lost_at(t, __LINE__)

static bool is_jobctl(int sig)
{
	return sig == SIGSTOP || sig == SIGTSTP || sig == SIGTTIN || sig == SIGTTOU;
}

/* asked: the stop of PTRACE_INTERRUPT is waited for, which in a group that is stopped has a job-control signal in the place of SIGTRAP. */
static int wait_stop(struct eng_thread *t, bool asked, int *status)
{
	int st;

	if (t->core->gone)
		return -ESRCH;
	for (;;) {
		pid_t r = waitpid(t->tid, &st, __WALL);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0 || WIFEXITED(st) || WIFSIGNALED(st)) {
			if (r > 0)
				event_exit_seen(t->proc, t, st);
			return thread_lost(t);
		}
		if (WIFSTOPPED(st) && is_jobctl(WSTOPSIG(st)) && !(asked && st >> 16 == PTRACE_EVENT_STOP)) { /* delivery of SIGSTOP, or the group stop it makes */
			t->proc->core->stop_sig = WSTOPSIG(st);
			ptrace(t->core->how, t->tid, 0, 0);
			continue;
		}
		break;
	}
	t->core->stopped = true;
	if (status)
		*status = st;
	return 0;
}

static int wait_for(struct eng_thread *t, bool asked, int *status)
{
	int place = events_await(t->tid), r = wait_stop(t, asked, status);

	events_awaited(place);
	return r;
}

int inject_wait(struct eng_thread *t, int *status)
{
	return wait_for(t, false, status);
}

int inject_interrupt(struct eng_thread *t)
{
	t->core->how = PTRACE_CONT;
	return ptrace(PTRACE_INTERRUPT, t->tid, 0, 0) < 0 || ptrace(PTRACE_CONT, t->tid, 0, 0) < 0 ? -ESRCH : wait_for(t, true, NULL);
}

/* Who is mortal ends with us, and so does whom it makes, who is ours from birth. */
static int options(const struct eng_thread *t)
{
	return PTRACE_O_TRACESYSGOOD | (t->proc->family->mortal ? PTRACE_O_EXITKILL | PTRACE_O_TRACEFORK | PTRACE_O_TRACECLONE : 0);
}

int inject_seize(struct eng_thread *t)
{
	if (ptrace(PTRACE_SEIZE, t->tid, 0, options(t)) < 0)
		return errno == EPERM && t->proc->family->mortal ? 0 : -errno; /* ours already, and about to stop */
	return ptrace(PTRACE_INTERRUPT, t->tid, 0, 0) < 0 ? -errno : 0;
}

int inject_filters_sleep(struct eng_thread *t)
{
	return ptrace(PTRACE_SETOPTIONS, t->tid, 0, options(t) | 1 << 21 /* PTRACE_O_SUSPEND_SECCOMP */) < 0 ? -errno : 0;
}

int regs_set(struct eng_thread *t, const struct user_regs_struct *r)
{
	struct iovec v = {(void *)r, sizeof(*r)};

	return ptrace(PTRACE_SETREGSET, t->tid, 1 /* NT_PRSTATUS */, &v) < 0 ? -errno : 0;
}

int regs_get(struct eng_thread *t, struct user_regs_struct *r)
{
	struct iovec v = {r, sizeof(*r)};

	return ptrace(PTRACE_GETREGSET, t->tid, 1, &v) < 0 ? -errno : 0;
}

/* Has the instruction that it was set to not been there? */
static bool faulted(struct eng_thread *t, int st)
{
	int sig = WSTOPSIG(st);
	siginfo_t si;

	return !(st >> 16) && (sig == SIGSEGV || sig == SIGBUS || sig == SIGILL) && ptrace(PTRACE_GETSIGINFO, t->tid, 0, &si) == 0 && si.si_code > 0;
}

/* Runs to the next system-call stop; signals are masked by the caller, what comes all the same (SIGSTOP) inject_wait keeps. */
static int to_syscall_stop(struct eng_thread *t)
{
	int st, r;

	for (;;) {
		t->core->how = PTRACE_SYSCALL;
		if (ptrace(PTRACE_SYSCALL, t->tid, 0, 0) < 0)
			return thread_lost(t);
		t->core->stopped = false;
		r = inject_wait(t, &st);
		if (r < 0)
			return r;
		if (WSTOPSIG(st) == (SIGTRAP | 0x80))
			return 0;
		if (faulted(t, st)) /* it would, for ever */
			return -EFAULT;
	}
}

/* mask: of the call alone, and after it; NULL: as it is. It is changed while the thread is in the kernel: nothing is delivered in between. */
static long raw(struct eng_thread *t, long nr, const uint64_t arg[6], const uint64_t mask[2])
{
	struct user_regs_struct r;
	int err;

	if (t->core->gone)
		return -ESRCH;
	if (regs_get(t, &r) < 0)
		return thread_lost(t);
	r.orig_rax = -1;
	r.rax = nr;
	r.rdi = arg[0];
	r.rsi = arg[1];
	r.rdx = arg[2];
	r.r10 = arg[3];
	r.r8 = arg[4];
	r.r9 = arg[5];
	if (!guard_call(t, &r))
		r.rip = t->proc->core->sysinsn;
	r.eflags = 0x202;
	if (regs_set(t, &r) < 0)
		return thread_lost(t);
	err = to_syscall_stop(t);
	if (err == 0 && mask && ptrace(PTRACE_SETSIGMASK, t->tid, 8, &mask[0]) < 0)
		err = thread_lost(t);
	if (err == 0)
		err = to_syscall_stop(t);
	if (err == 0 && mask && ptrace(PTRACE_SETSIGMASK, t->tid, 8, &mask[1]) < 0)
		err = thread_lost(t);
	if (err < 0)
		return err;
	if (regs_get(t, &r) < 0)
		return thread_lost(t);
	return r.rax;
}

long inject_raw(struct eng_thread *t, long nr, const uint64_t arg[6])
{
	return raw(t, nr, arg, NULL);
}

long inject_raw_masked(struct eng_thread *t, long nr, const uint64_t arg[6], uint64_t during, uint64_t after)
{
	return raw(t, nr, arg, (const uint64_t[2]){during, after});
}

int inject_prepare(struct eng_proc *p, const struct maps *maps)
{
	for (int pass = 0; pass < 2; pass++) /* the vdso first: it is there in nearly every process */
		for (size_t i = 0; i < maps->n; i++) {
			const struct map *m = &maps->m[i];
			size_t len = m->end - m->start > 1 << 20 ? 1 << 20 : m->end - m->start;
			_cleanup_free_ char *text = NULL;
			char *hit;

			if ((pass == 0) != (m->kind == KIND_VDSO) || !(m->prot & PROT_EXEC) || m->kind == KIND_VSYSCALL)
				continue;
			text = malloc(len);
			if (!text || eng_peek(p, m->start, text, len) < 0)
				continue;
			hit = memmem(text, len, "\x0f\x05", 2);
			if (hit) {
				p->core->sysinsn = m->start + (hit - text);
				p->core->vdso = pass ? 0 : m->start;
				p->core->vdso_end = m->end;
				return 0;
			}
		}
	return -ENOEXEC;
}

bool inject_prepared(struct eng_proc *p)
{
	char insn[2];

	return eng_peek(p, p->core->sysinsn, insn, sizeof(insn)) == 0 && !memcmp(insn, "\x0f\x05", sizeof(insn));
}

int inject_blob(struct eng_proc *p, unsigned nslots, struct error *e)
{
	struct eng_thread *t = p->threads[0];
	struct eng_proc_core *c = p->core;
	size_t size = blob_size(nslots);
	struct blob_head head = {.all = ~(1ULL << (SIGTRAP - 1)), .mode = BLOB_PARK, .nslots = nslots, .magic = BLOB_MAGIC, .vpid = p->vpid, .state = p->family->state == ENG_FROZEN};
	struct ksigaction act = {c->blob + BLOB_AT(handler), 0x04000000 /* SA_RESTORER */, c->blob + BLOB_AT(restorer), ~0ULL};
	uint64_t scratch = c->blob + BLOB_SCRATCH;
	long r;

	r = INJECT_RAW(t, SYS_mmap, c->blob, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (r < 0 || (uint64_t)r != c->blob)
		return error_set(e, r < 0 ? -r : EEXIST, "process %d: no room for %zu bytes of the engine at %#lx", p->vpid, size, c->blob);
	/* Not by mprotect(2): PR_SET_MDWE forbids to make memory executable later. */
	r = INJECT_RAW(t, SYS_mmap, c->blob, 0x1000, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	if (r < 0)
		return error_set(e, -r, "process %d: code of the engine cannot be made executable", p->vpid);
	r = eng_poke(p, c->blob, blob_code_start, blob_code_end - blob_code_start);
	if (r == 0)
		r = eng_poke(p, scratch, &act, sizeof(act));
	if (r == 0)
		r = INJECT_RAW(t, SYS_rt_sigaction, SIGTRAP, scratch, scratch + sizeof(act), 8);
	if (r == 0)
		r = eng_peek(p, scratch + sizeof(act), &c->trap, sizeof(c->trap));
	if (r < 0)
		return error_set(e, -r, "process %d: the engine's code cannot be put in", p->vpid);
	memcpy(head.trap, &c->trap, sizeof(head.trap));
	r = eng_poke(p, c->blob + BLOB_HEAD, &head, sizeof(head));
	if (r < 0)
		return error_set(e, -r, "process %d: the engine's head cannot be put in", p->vpid);
	c->blob_in = true;
	c->nslots = nslots;
	c->scratch = 0;
	for (unsigned i = 0; i < p->nthreads; i++)
		p->threads[i]->core->slot = blob_slot_addr(c->blob, i);
	return 0;
}

int inject_unblob(struct eng_proc *p)
{
	struct eng_proc_core *c = p->core;
	struct eng_thread *t = p->threads[0];
	uint64_t scratch = c->blob + BLOB_SCRATCH;
	long r;

	if (!c->blob_in)
		return 0;
	r = eng_poke(p, scratch, &c->trap, sizeof(c->trap));
	if (r == 0)
		r = INJECT_RAW(t, SYS_rt_sigaction, SIGTRAP, scratch, 0, 8);
	fault_point("leaving");
	if (r == 0)
		r = INJECT_RAW(t, SYS_munmap, c->blob, blob_size(c->nslots));
	c->blob_in = false;
	return r;
}

static unsigned slot_index(const struct eng_thread *t)
{
	return (t->core->slot - t->proc->core->blob - BLOB_SLOTS) / BLOB_SLOT;
}

static int blob_regs(struct eng_thread *t, struct user_regs_struct *r, uint64_t entry)
{
	struct eng_proc_core *c = t->proc->core;

	if (regs_get(t, r) < 0)
		return thread_lost(t);
	r->orig_rax = -1;
	r->rax = 0;
	r->rip = c->blob + entry;
	r->rsp = blob_stack_addr(c->blob, c->nslots, slot_index(t));
	r->r15 = t->core->slot;
	r->eflags = 0x202;
	return 0;
}

int inject_park(struct eng_thread *t)
{
	struct user_regs_struct r;
	int err = blob_regs(t, &r, BLOB_AT(park));

	if (err < 0)
		return err;
	return regs_set(t, &r) < 0 ? thread_lost(t) : 0;
}

int inject_set_mode(struct eng_proc *p, unsigned mode)
{
	uint32_t m = mode;

	return eng_poke(p, p->core->blob + BLOB_HEAD + offsetof(struct blob_head, mode), &m, sizeof(m));
}

/* ---- batches --------------------------------------------------------------------------------------- */
/* Lets the blob run to its trap. */
static int run_to_trap(struct eng_thread *t)
{
	siginfo_t si;
	int st, r, faults = 0;

	for (;;) {
		t->core->how = PTRACE_CONT;
		if (ptrace(PTRACE_CONT, t->tid, 0, 0) < 0)
			return thread_lost(t);
		t->core->stopped = false;
		r = inject_wait(t, &st);
		if (r < 0)
			return r;
		if (st >> 16) /* a ptrace event: an interrupt that came late */
			continue;
		if (WSTOPSIG(st) == SIGTRAP && ptrace(PTRACE_GETSIGINFO, t->tid, 0, &si) == 0 && si.si_code > 0)
			return 0;
		if (WSTOPSIG(st) == SIGTRAP) /* somebody's kill(SIGTRAP) */
			continue;
		/*
		 * The program's own fault, queued before we stopped it: the kernel takes synchronous signals in the order of their coming, blocked or not, so it shows
		 * at our trap. It is dropped: its instruction will fault again.
		 */
		if (!faults++ && (WSTOPSIG(st) == SIGSEGV || WSTOPSIG(st) == SIGBUS || WSTOPSIG(st) == SIGILL || WSTOPSIG(st) == SIGFPE))
			continue;
		log_error("engine: process %d got signal %d inside of the blob", t->proc->vpid, WSTOPSIG(st));
		return -EFAULT;
	}
}

int inject_tiles(struct eng_thread *t)
{
	unsigned char config[64] __attribute__((aligned(64))) = {[0] = 1, [16] = 64, [48] = 1}; /* palette; bytes a row and rows of the first tile */
	struct user_regs_struct r;
	uint64_t at;
	int err;

	eng_scratch_reset(t->proc);
	at = eng_scratch_put(t->proc, config, sizeof(config));
	err = at ? blob_regs(t, &r, BLOB_AT(tiles)) : -ENOMEM;
	if (err < 0)
		return err;
	r.rdi = at;
	return regs_set(t, &r) < 0 ? thread_lost(t) : run_to_trap(t);
}

int eng_batch(struct eng_thread *t, struct eng_call *c, size_t n, size_t *failed)
{
	return batch_after(t, c, n, failed, NULL, NULL);
}

int batch_after(struct eng_thread *t, struct eng_call *c, size_t n, size_t *failed, void (*last)(void *), void *arg)
{
	struct eng_proc *p = t->proc;
	uint64_t calls = p->core->blob + BLOB_BATCH + 16, done;
	struct user_regs_struct r;
	int err;

	if (t->core->gone)
		return -ESRCH;
	if (n > ENG_BATCH_MAX)
		return -E2BIG;
	err = eng_poke(p, calls, c, n * sizeof(*c));
	if (err == 0)
		err = blob_regs(t, &r, BLOB_AT(batch));
	if (err < 0)
		return err;
	r.rbp = calls;
	r.r13 = n;
	if (regs_set(t, &r) < 0)
		return thread_lost(t);
	if (last)
		last(arg);
	err = run_to_trap(t);
	if (err < 0)
		return err;
	{
		struct iovec l[2] = {{&done, 8}, {c, n * sizeof(*c)}}, rem = {(void *)(calls - 8), 8 + n * sizeof(*c)};

		if (process_vm_readv(p->pid, l, 2, &rem, 1, 0) != (ssize_t)rem.iov_len)
			return thread_lost(t);
	}
	if (done == n)
		return 0;
	if (failed)
		*failed = done;
	return c[done].ret < 0 ? c[done].ret : -EIO;
}

long eng_syscall_n(struct eng_thread *t, long nr, const uint64_t arg[6])
{
	struct eng_call c = {.nr = nr, .may_fail = 1};
	int r;

	memcpy(c.arg, arg, sizeof(c.arg));
	r = eng_batch(t, &c, 1, NULL);
	return r < 0 ? r : c.ret;
}

long eng_syscall(struct eng_thread *t, long nr, ...)
{
	uint64_t arg[6];
	va_list ap;

	va_start(ap, nr);
	for (int i = 0; i < 6; i++)
		arg[i] = va_arg(ap, uint64_t);
	va_end(ap);
	return eng_syscall_n(t, nr, arg);
}

/* ---- memory ---------------------------------------------------------------------------------------- */
int eng_peek(struct eng_proc *p, uint64_t addr, void *buf, size_t len)
{
	struct iovec l = {buf, len}, r = {(void *)addr, len};

	if (process_vm_readv(p->pid, &l, 1, &r, 1, 0) == (ssize_t)len)
		return 0;
	while (len) { /* not readable for the program itself: the debugger's way */
		ssize_t n = pread(p->core->mem, buf, len, addr);

		if (n <= 0)
			return n == 0 ? -ESRCH : -errno;
		buf = (char *)buf + n;
		addr += n;
		len -= n;
	}
	return 0;
}

int eng_poke(struct eng_proc *p, uint64_t addr, const void *buf, size_t len)
{
	struct iovec l = {(void *)buf, len}, r = {(void *)addr, len};

	if (process_vm_writev(p->pid, &l, 1, &r, 1, 0) == (ssize_t)len)
		return 0;
	while (len) {
		ssize_t n = pwrite(p->core->mem, buf, len, addr);

		if (n <= 0)
			return n == 0 ? -ESRCH : -errno;
		buf = (const char *)buf + n;
		addr += n;
		len -= n;
	}
	return 0;
}

void eng_scratch_reset(struct eng_proc *p)
{
	p->core->scratch = 0;
}

uint64_t eng_scratch_put(struct eng_proc *p, const void *data, size_t len)
{
	struct eng_proc_core *c = p->core;
	uint64_t at = c->blob + BLOB_SCRATCH + c->scratch;

	if (len > ENG_SCRATCH - c->scratch)
		return 0;
	if (data && eng_poke(p, at, data, len) < 0)
		return 0;
	c->scratch += (len + 15) & ~15UL;
	if (c->scratch > ENG_SCRATCH)
		c->scratch = ENG_SCRATCH;
	return at;
}

void eng_sigtrap_action(const struct eng_proc *p, void *out)
{
	memcpy(out, &p->core->trap, sizeof(p->core->trap));
}

void eng_sigtrap_set(struct eng_proc *p, const void *act)
{
	memcpy(&p->core->trap, act, sizeof(p->core->trap));
	eng_poke(p, p->core->blob + BLOB_HEAD + offsetof(struct blob_head, trap), act, sizeof(p->core->trap));
}

/* ---- descriptors ------------------------------------------------------------------------------------ */
int eng_fd_get(struct eng_proc *p, int num)
{
	int fd = syscall(SYS_pidfd_getfd, p->pidfd, num, 0);

	return fd < 0 ? -errno : fd;
}

/* A socket pair made by the target; we take one end. High numbers keep out of the way of what is restored. */
static int transfer_open(struct eng_proc *p)
{
	struct eng_thread *t = p->threads[0];
	size_t mark = p->core->scratch;
	uint64_t pair = eng_scratch_put(p, NULL, 8);
	int num[2];
	long r;

	if (!pair)
		return -ENOSPC;
	r = ENG_SYS(t, SYS_socketpair, AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair);
	if (r == 0)
		r = eng_peek(p, pair, num, sizeof(num));
	p->core->scratch = mark;
	if (r < 0)
		return r;
	r = eng_fd_get(p, num[1]);
	if (r < 0)
		return r;
	p->core->transfer = r;
	ENG_SYS(t, SYS_close, num[1]);
	r = ENG_SYS(t, SYS_fcntl, num[0], F_DUPFD_CLOEXEC, 700); /* below the smallest usual RLIMIT_NOFILE */
	if (r >= 0) {
		ENG_SYS(t, SYS_close, num[0]);
		num[0] = r;
	}
	p->core->transfer_num = num[0];
	return 0;
}

void inject_transfer_close(struct eng_proc *p)
{
	if (p->core->transfer < 0)
		return;
	close(p->core->transfer);
	p->core->transfer = -1;
	ENG_SYS(p->threads[0], SYS_close, p->core->transfer_num);
}

static int send_fd(int sock, int fd)
{
	char byte = 0, space[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec v = {&byte, 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof(space)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(int));
	return sendmsg(sock, &m, MSG_NOSIGNAL) == 1 ? 0 : -errno;
}

int eng_fd_install(struct eng_proc *p, int fd, int num, int flags)
{
	struct { /* as the target sees it */
		struct msghdr m;
		struct iovec v;
		char byte[16], control[CMSG_SPACE(sizeof(int))];
	} x = {0};
	struct eng_thread *t = p->threads[0];
	size_t mark = p->core->scratch;
	uint64_t at;
	int got;
	long r;

	if (p->core->transfer < 0) {
		r = transfer_open(p);
		if (r < 0)
			return r;
	}
	if (p->core->transfer_num == num) { /* the program's own 700: the socket moves up, dup3() below takes its place */
		r = ENG_SYS(t, SYS_fcntl, num, F_DUPFD_CLOEXEC, num + 1);
		if (r < 0)
			return r;
		p->core->transfer_num = r;
	}
	at = eng_scratch_put(p, NULL, sizeof(x));
	if (!at)
		return -ENOSPC;
	x.m.msg_iov = (void *)(at + offsetof(typeof(x), v));
	x.m.msg_iovlen = 1;
	x.m.msg_control = (void *)(at + offsetof(typeof(x), control));
	x.m.msg_controllen = sizeof(x.control);
	x.v.iov_base = (void *)(at + offsetof(typeof(x), byte));
	x.v.iov_len = 1;
	r = eng_poke(p, at, &x, sizeof(x));
	if (r == 0)
		r = send_fd(p->core->transfer, fd);
	if (r == 0)
		r = ENG_SYS(t, SYS_recvmsg, p->core->transfer_num, at, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	if (r == 1)
		r = eng_peek(p, at + offsetof(typeof(x), control) + CMSG_LEN(0), &got, sizeof(got));
	p->core->scratch = mark;
	if (r < 0)
		return r;
	if (got == num) { /* by chance the right number */
		r = ENG_SYS(t, SYS_fcntl, got, F_SETFD, flags & O_CLOEXEC ? FD_CLOEXEC : 0);
		return r < 0 ? r : 0;
	}
	{
		struct eng_call c[2] = {{.nr = SYS_dup3, .arg = {got, num, flags & O_CLOEXEC}}, {.nr = SYS_close, .arg = {got}}};

		r = eng_batch(t, c, 2, NULL);
	}
	return r < 0 ? r : 0;
}
