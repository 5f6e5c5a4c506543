/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Seccomp filters: two for the process, one more for one thread, another added while it works. Each forbidden call says what its filter says, all else works, and
 * a child inherits them. /proc shows as many as were installed (a guest host may have one of its own below them).
 */
#include "move.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>

/* Call `nr` gives error `err`. */
static void forbid(int nr, int err)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | err),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {sizeof code / sizeof *code, code};

	SYS(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	SYS(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog));
}

static void denied(int nr, int err, const char *what)
{
	long r = syscall(nr, -1, 0, 0, 0, 0);

	CHECK(r == -1 && errno == err, "%s gives %ld, %s", what, r, strerror(errno));
}

static volatile bool stop;

static void *other(void *arg)
{
	(void)arg;
	forbid(SYS_sched_get_priority_max, EXDEV);
	while (!stop) {
		denied(SYS_sched_get_priority_max, EXDEV, "the thread's own filter");
		denied(SYS_msgget, EILSEQ, "the process's filter in the thread");
		move_nap(1500);
	}
	return NULL;
}

static void child(bool third)
{
	pid_t pid = SYS(fork());
	int st;

	if (!pid) {
		denied(SYS_msgget, EILSEQ, "the first filter in the child");
		denied(SYS_semget, EDOM, "the second filter in the child");
		if (third)
			denied(SYS_shmget, ENOANO, "the third filter in the child");
		_exit(7);
	}
	SYS(waitpid(pid, &st, 0));
	CHECK(WIFEXITED(st) && WEXITSTATUS(st) == 7, "child ended with %x", st);
}

int main(int argc, char **argv)
{
	pthread_t t;

	move_begin(argc, argv);
	forbid(SYS_msgget, EILSEQ);
	forbid(SYS_semget, EDOM);
	pthread_create(&t, NULL, other, NULL);
	move_ready();
	for (unsigned n = 0; move_more(); n++) {
		if (n == 200)
			forbid(SYS_shmget, ENOANO);
		denied(SYS_msgget, EILSEQ, "the first filter");
		denied(SYS_semget, EDOM, "the second filter");
		if (n >= 200)
			denied(SYS_shmget, ENOANO, "the third filter");
		CHECK(syscall(SYS_sched_get_priority_max, SCHED_FIFO) > 0, "the other thread's filter is ours too");
		CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1, "no_new_privs is lost");
		if (n % 40 == 0)
			child(n >= 200);
		move_nap(1500);
	}
	stop = true;
	pthread_join(t, NULL);
	return move_pass();
}
