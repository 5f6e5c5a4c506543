/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vfork(2) in progress nearly all the time: the parent waits in the kernel, uninterruptibly, for a child that lives in its memory, until that calls exec or ends.
 * What the child writes is seen by the parent, its status is right, one that has called exec lives on.
 */
#include "move.h"

static volatile unsigned mark;

static __attribute__((noinline)) pid_t short_child(unsigned n, unsigned us)
{
	struct timespec t = {0, us * 1000};
	pid_t kid = vfork();
	if (kid == 0) {
		mark = n;
		syscall(SYS_nanosleep, &t, NULL);
		_exit(n % 100);
	}
	return kid;
}

static __attribute__((noinline)) pid_t exec_child(char *const argv[])
{
	pid_t kid = vfork();
	if (kid == 0) {
		execv(argv[0], argv);
		_exit(127);
	}
	return kid;
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "child")) {
		move_nap(60000);
		return 42;
	}
	move_begin(argc, argv);
	char self[512], *const child[] = {self, "child", NULL};
	ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);
	uint64_t seed = 4711;
	CHECK(len > 0, "readlink");
	self[len] = 0;
	move_ready();
	for (unsigned n = 1; move_more(); n++) {
		int st;
		pid_t kid = SYS(short_child(n, 20000 + move_rand(&seed) % 60000));
		CHECK(mark == n, "what the child wrote is not there: %u, not %u", mark, n);
		CHECK(waitpid(kid, &st, 0) == kid && WIFEXITED(st) && WEXITSTATUS(st) == (int)(n % 100), "status %x of child %u", st, n);
		kid = SYS(exec_child(child));
		CHECK(waitpid(kid, &st, 0) == kid && WIFEXITED(st) && WEXITSTATUS(st) == 42, "status %x of one that called exec", st);
	}
	return move_pass();
}
