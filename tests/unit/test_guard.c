// SPDX-License-Identifier: Apache-2.0
/* A thread in which a call is made goes on with its own registers when its tracer is killed, wherever that is (guard.h). */
#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "migd/engine/guard.h"
#include "migd/engine/inject.h"
#include "migd/engine/procfs.h"

struct shared {
	uint64_t rounds, stop;
	uint8_t vector[32];
};
static struct shared *sh;

/* Loops with known values in its registers until it is told to stop (0), or one has changed (1). */
static int hold_registers(struct shared *s)
{
	int wrong;

	__asm__ volatile("mov $0x1111111111, %%rbx\n mov $0x2222222222, %%r8\n mov $0x3333333333, %%r9\n mov $0x4444444444, %%r11\n mov $0x5555555555, %%r15\n"
			 "movdqu 16(%1), %%xmm7\n movdqa %%xmm7, %%xmm15\n"
			 "1: incq (%1)\n"
			 "mov $0x1111111111, %%rax\n cmp %%rax, %%rbx\n jne 2f\n"
			 "mov $0x2222222222, %%rax\n cmp %%rax, %%r8\n jne 2f\n"
			 "mov $0x3333333333, %%rax\n cmp %%rax, %%r9\n jne 2f\n"
			 "mov $0x4444444444, %%rax\n cmp %%rax, %%r11\n jne 2f\n"
			 "mov $0x5555555555, %%rax\n cmp %%rax, %%r15\n jne 2f\n"
			 "movdqa %%xmm7, %%xmm1\n pcmpeqb %%xmm15, %%xmm1\n movdqu 16(%1), %%xmm2\n pcmpeqb %%xmm7, %%xmm2\n pand %%xmm2, %%xmm1\n pmovmskb %%xmm1, %%eax\n"
			 "cmp $0xffff, %%eax\n jne 2f\n"
			 "cmpq $0, 8(%1)\n je 1b\n"
			 "xor %%eax, %%eax\n jmp 3f\n"
			 "2: mov $1, %%eax\n"
			 "3:\n"
			 : "=&a"(wrong)
			 : "r"(s)
			 : "rbx", "r8", "r9", "r11", "r15", "xmm1", "xmm2", "xmm7", "xmm15", "memory", "cc");
	return wrong;
}

static pid_t program(bool waits, int pipe_fd)
{
	pid_t pid = fork();
	sigset_t set;
	char c;

	if (pid)
		return pid;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_SETMASK, &set, NULL);
	if (waits)
		_exit(read(pipe_fd, &c, 1) == 1 && c == 'x' ? 42 : 1);
	_exit(hold_registers(sh) ? 1 : 42);
}

/* Stops it, has it call getppid(2), and dies before the call (0), at its entry (1), at its end (2), or with the registers put back (3). */
static void trace_and_die(pid_t pid, int when)
{
	struct eng_family *f = family_new(NULL);
	struct eng_proc *p = proc_new(f, pid, pid);
	struct eng_thread *t = thread_new(p, pid, pid);
	uint64_t mask = FROZEN_MASK;
	struct user_regs_struct r;
	struct maps *maps;
	int st;

	if (proc_open(p) || inject_seize(t) || waitpid(pid, &st, __WALL) != pid || procfs_maps(p->dir, false, &maps) || inject_prepare(p, maps))
		_exit(2);
	if (regs_get(t, &t->core->frozen) || ptrace(PTRACE_GETSIGMASK, pid, 8, &t->sigmask) || ptrace(PTRACE_SETSIGMASK, pid, 8, &mask))
		_exit(3);
	guard_up(t, &t->core->frozen);
	if (!p->core->guard)
		_exit(77);
	r = t->core->frozen;
	r.orig_rax = -1;
	r.rax = SYS_getppid;
	if (!guard_call(t, &r) || regs_set(t, &r))
		_exit(4);
	for (int i = 0; i < when && i < 2; i++)
		if (ptrace(PTRACE_SYSCALL, pid, 0, 0) || waitpid(pid, &st, __WALL) != pid || !WIFSTOPPED(st) || WSTOPSIG(st) != (SIGTRAP | 0x80))
			_exit(5);
	if (when == 3) {
		regs_set(t, &t->core->frozen);
		ptrace(PTRACE_SETSIGMASK, pid, 8, &t->sigmask);
		guard_down(p);
	}
	raise(SIGKILL);
}

static uint64_t blocked(pid_t pid)
{
	char path[64];
	_cleanup_free_ char *status = NULL;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	status = eng_proc_read(AT_FDCWD, path, NULL);
	return status ? strtoull(strstr(status, "SigBlk:") + 7, NULL, 16) : 0;
}

static void goes_on(bool waits)
{
	int p[2], st;
	pid_t pid, tracer;

	CU_ASSERT_EQUAL_FATAL(pipe(p), 0);
	memset(sh, 0, sizeof(*sh));
	for (size_t i = 0; i < sizeof(sh->vector); i++)
		sh->vector[i] = (uint8_t)(i * 7 + 3);
	pid = program(waits, p[0]);
	usleep(20000);
	for (int when = 0; when < 4; when++) {
		uint64_t before;

		tracer = fork();
		if (!tracer)
			trace_and_die(pid, when);
		waitpid(tracer, &st, 0);
		if (WIFEXITED(st) && WEXITSTATUS(st) == 77)
			break; /* no room for its vector registers on this machine */
		CU_ASSERT(WIFSIGNALED(st) && WTERMSIG(st) == SIGKILL);
		before = __atomic_load_n(&sh->rounds, __ATOMIC_RELAXED);
		usleep(20000);
		CU_ASSERT(waits || __atomic_load_n(&sh->rounds, __ATOMIC_RELAXED) > before);
		CU_ASSERT_EQUAL(blocked(pid), 1ULL << (SIGUSR2 - 1));
	}
	__atomic_store_n(&sh->stop, 1, __ATOMIC_RELAXED);
	CU_ASSERT_EQUAL(write(p[1], "x", 1), 1);
	CU_ASSERT_EQUAL(waitpid(pid, &st, 0), pid);
	CU_ASSERT(WIFEXITED(st) && WEXITSTATUS(st) == 42);
	close(p[0]);
	close(p[1]);
}

static void who_computes(void)
{
	goes_on(false);
}

static void who_waits_in_a_call(void)
{
	goes_on(true);
}

int main(void)
{
	CU_pSuite s;

	sh = mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (sh == MAP_FAILED || CU_initialize_registry() != CUE_SUCCESS)
		return 1;
	s = CU_add_suite("guard", NULL, NULL);
	CU_add_test(s, "who computes keeps his registers", who_computes);
	CU_add_test(s, "who waits in a call makes it again", who_waits_in_a_call);
	CU_basic_run_tests();
	return CU_get_number_of_failures() ? 1 : 0;
}
