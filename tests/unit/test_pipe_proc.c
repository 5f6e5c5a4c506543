// SPDX-License-Identifier: Apache-2.0
/* Is a thread on its way into the open of a FIFO? While it waits there, when it stands still (it may make the call again elsewhere), and when its process dies, which takes a while. */
#include <CUnit/Basic.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "fs/client/pipe_proc.h"

enum { TRIES = 20 };
static char fifo[64];

static void *opener_main(void *arg)
{
	return (void *)(intptr_t)open(arg, O_RDONLY);
}

/* A process, and its thread that waits in open(2); what it has of memory takes its time to go. */
static pid_t child_make(size_t memory, bool thread)
{
	pid_t pid = fork();
	pthread_t t;
	char *p;

	if (pid)
		return pid;
	p = mmap(NULL, memory, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		_exit(1);
	madvise(p, memory, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < memory; i += 4096)
		p[i] = 1;
	if (!thread && (intptr_t)opener_main(fifo) >= 0)
		for (;;)
			;
	if (!thread)
		_exit(1);
	pthread_create(&t, NULL, opener_main, fifo);
	for (;;)
		pause();
}

/* The number of its only thread besides the first one, or of that. */
static pid_t thread_of(pid_t pid, bool other)
{
	char name[64];
	pid_t tid = 0;

	if (!other)
		return pid;
	for (tid = pid + 1; tid < pid + 1000; tid++) {
		snprintf(name, sizeof(name), "/proc/%d/task/%d", pid, tid);
		if (access(name, F_OK) == 0)
			return tid;
	}
	return 0;
}

static pid_t child_waits(size_t memory, bool thread, struct pipe_proc *p)
{
	pid_t pid = child_make(memory, thread), tid;

	CU_ASSERT_FATAL(pid > 0);
	while (!(tid = thread_of(pid, thread)) || !pipe_proc_opening(tid, p))
		usleep(1000);
	return pid;
}

static void child_end(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/* Of a thread: its flags (PF_EXITING), 0: it has gone. */
static unsigned flags_of(pid_t pid)
{
	char name[64], line[1024], state = 0;
	unsigned flags = 0;
	FILE *f;

	snprintf(name, sizeof(name), "/proc/%d/stat", pid);
	f = fopen(name, "r");
	if (f && fgets(line, sizeof(line), f))
		sscanf(strrchr(line, ')') + 1, " %c %*d %*d %*d %*d %*d %u", &state, &flags);
	if (f)
		fclose(f);
	return state == 'Z' ? 0 : flags;
}

static void test_waits(void)
{
	struct pipe_proc p;
	pid_t pid;

	for (int thread = 0; thread < 2; thread++) {
		pid = child_waits(4096, thread, &p);
		CU_ASSERT(p.r && !p.w);
		CU_ASSERT(pipe_proc_where(&p) == PIPE_IN);
		child_end(pid);
		CU_ASSERT(pipe_proc_where(&p) == PIPE_LEFT);
	}
}

static void test_stands(void)
{
	struct pipe_proc p;
	pid_t pid = child_waits(4096, false, &p);

	kill(pid, SIGSTOP);
	waitpid(pid, NULL, WUNTRACED);
	CU_ASSERT(pipe_proc_where(&p) == PIPE_STANDS);
	child_end(pid);
}

/* Let in, it goes on without a pause: at first it may still be in that open; when it has had more of a processor than any open takes, it is not. */
static void test_runs(void)
{
	bool seen = false;

	for (int i = 0; !seen && i < TRIES; i++) { /* we may be without a processor ourselves */
		struct pipe_proc p;
		pid_t pid = child_waits(4096, false, &p);
		int end = open(fifo, O_WRONLY);
		enum pipe_where where;

		CU_ASSERT_FATAL(end >= 0);
		while ((where = pipe_proc_where(&p)) != PIPE_LEFT) {
			seen |= where == PIPE_MAYBE;
			usleep(1000);
		}
		close(end);
		child_end(pid);
	}
	CU_ASSERT(seen);
}

static void test_dies(void)
{
	struct pipe_proc p;
	bool seen = false;

	for (int i = 0; !seen && i < TRIES; i++) {
		pid_t pid = child_waits(128 << 20, false, &p);
		unsigned flags;

		kill(pid, SIGKILL);
		while ((flags = flags_of(pid)) && !(flags & 0x4)) /* PF_EXITING */
			;
		if (flags) {
			enum pipe_where where = pipe_proc_where(&p);

			seen = flags_of(pid);
			CU_ASSERT(where == PIPE_LEFT);
		}
		waitpid(pid, NULL, 0);
	}
	if (!seen)
		puts("  (none was met while it died)");
}

int main(void)
{
	CU_pSuite s;
	char dir[] = "/tmp/test_pipe_proc.XXXXXX";

	if (!mkdtemp(dir))
		return 1;
	snprintf(fifo, sizeof(fifo), "%s/fifo", dir);
	if (mkfifo(fifo, 0600))
		return 1;
	CU_initialize_registry();
	s = CU_add_suite("pipe_proc", NULL, NULL);
	CU_add_test(s, "waits in its open", test_waits);
	CU_add_test(s, "stands still", test_stands);
	CU_add_test(s, "runs after it", test_runs);
	CU_add_test(s, "is being killed", test_dies);
	CU_basic_run_tests();
	unlink(fifo);
	rmdir(dir);
	return CU_get_number_of_failures() || CU_get_number_of_tests_run() != 4;
}
