// SPDX-License-Identifier: Apache-2.0
/* What may not be moved, told by real processes: each is refused with its reason, before anything is done to it. */
#include "migd/proc.h"

#include <CUnit/Basic.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* 0 or the error; its text must contain `say`. */
static int may(pid_t pid, uid_t uid, bool root_guests, const char *say)
{
	struct proc_info p = {.pid = -1};
	struct error e = {0};
	int rc = proc_may_move(pid, uid, root_guests, &p, &e);

	if (rc && !strstr(e.text, say))
		CU_FAIL(say);
	CU_ASSERT_EQUAL(p.pid, rc ? -1 : pid); /* unchanged on failure */
	return rc;
}

static pid_t child(bool traced)
{
	pid_t pid = fork();

	if (pid == 0) {
		if (traced)
			ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		for (;;)
			pause();
	}
	waitpid(pid, NULL, WUNTRACED);
	return pid;
}

static void end(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/* Where this machine shows any (a container does not): kthreadd and its children. */
static void test_kernel_thread(void)
{
	struct proc_info p;

	if (proc_read(2, &p) == 0 && p.kernel)
		CU_ASSERT_EQUAL(may(2, 0, true, "2 (kthreadd) is a kernel thread"), -EINVAL);
	CU_ASSERT_TRUE(proc_read(getpid(), &p) == 0 && !p.kernel);
}

static void test_not_there(void)
{
	pid_t pid = child(false);
	siginfo_t si;

	end(pid);
	CU_ASSERT_EQUAL(may(pid, 0, true, "there is no process"), -ESRCH);
	CU_ASSERT_EQUAL(may(-1, 0, true, "there is no process"), -ESRCH);
	pid = fork();
	if (pid == 0)
		_exit(0);
	waitid(P_PID, pid, &si, WEXITED | WNOWAIT);
	CU_ASSERT_EQUAL(may(pid, 0, true, "has ended and waits for its parent"), -ESRCH);
	waitpid(pid, NULL, 0);
}

static void test_odd_name(void)
{
	struct proc_info p;
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_NAME, "a\nb) 1");
		raise(SIGSTOP);
		_exit(0);
	}
	waitpid(pid, NULL, WUNTRACED);
	CU_ASSERT_EQUAL(may(pid, 0, true, ""), 0);
	CU_ASSERT(proc_read(pid, &p) == 0 && !p.kernel && p.ppid == getpid());
	end(pid);
}

static void test_us(void)
{
	CU_ASSERT_EQUAL(may(getpid(), 0, true, "is migd itself"), -EINVAL);
	CU_ASSERT_EQUAL(may(getppid(), 0, true, "is an ancestor of migd"), -EINVAL);
	CU_ASSERT_EQUAL(may(1, 0, true, "is an ancestor of migd"), -EINVAL);
}

static void test_traced(void)
{
	pid_t pid = child(true);

	CU_ASSERT_EQUAL(may(pid, getuid(), true, "is being traced by process"), -EBUSY);
	end(pid);
}

static void *waits(void *tid)
{
	*(pid_t *)tid = (pid_t)syscall(SYS_gettid);
	pause();
	return NULL;
}

static void test_thread(void)
{
	volatile pid_t tid = 0;
	pthread_t t;

	CU_ASSERT_EQUAL_FATAL(pthread_create(&t, NULL, waits, (void *)&tid), 0);
	while (!tid)
		sched_yield();
	CU_ASSERT_EQUAL(may(tid, 0, true, "is a thread of process"), -EINVAL);
	pthread_cancel(t);
	pthread_join(t, NULL);
}

static void test_whose(void)
{
	pid_t pid = child(false);

	CU_ASSERT_EQUAL(may(pid, getuid() + 1000, true, "is not yours"), -EPERM);
	CU_ASSERT_EQUAL(may(pid, 0, true, ""), 0);
	if (getuid() == 0)
		CU_ASSERT_EQUAL(may(pid, 0, false, "migd.root_guests"), -EPERM);
	end(pid);
}

int main(void)
{
	CU_pSuite s;

	CU_initialize_registry();
	s = CU_add_suite("proc", NULL, NULL);
	CU_add_test(s, "kernel thread", test_kernel_thread);
	CU_add_test(s, "not there", test_not_there);
	CU_add_test(s, "a name with a line end in it", test_odd_name);
	CU_add_test(s, "us", test_us);
	CU_add_test(s, "traced", test_traced);
	CU_add_test(s, "thread", test_thread);
	CU_add_test(s, "whose", test_whose);
	CU_basic_run_tests();
	return CU_get_number_of_failures() || CU_get_number_of_tests_run() != 7;
}
