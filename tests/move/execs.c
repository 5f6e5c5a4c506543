/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program that becomes itself again all the time (exec), under the same number: what is handed over by exec is there each time (blocked and waiting signals, ignored ones,
 * descriptors, environment, limits, directory), and each real-time signal that somebody sends is taken once.
 */
#include "move.h"
#include <sys/resource.h>

#define MARK "descriptor that stays"

static void first(int argc, char **argv)
{
	int fd;
	move_begin(argc, argv);
	fd = SYS(memfd_create("execs", 0));
	CHECK(write(fd, MARK, sizeof MARK) == sizeof MARK && dup2(fd, 100) == 100, "descriptor");
	if (fd != 100)
		close(fd);
	signal(SIGUSR2, SIG_IGN);
	SYS(setrlimit(RLIMIT_CORE, &(struct rlimit){4096, 8192}));
	setenv("EXECS", "as it was", 1);
	umask(027);
	move_ready();
}
static void check(void)
{
	char text[sizeof MARK] = "";
	struct sigaction sa;
	struct rlimit l;
	mode_t m = umask(027);
	CHECK(pread(100, text, sizeof text, 0) == sizeof text && !strcmp(text, MARK), "descriptor 100");
	SYS(sigaction(SIGUSR2, NULL, &sa));
	CHECK(sa.sa_handler == SIG_IGN, "SIGUSR2 is not ignored any more");
	SYS(getrlimit(RLIMIT_CORE, &l));
	CHECK(l.rlim_cur == 4096 && l.rlim_max == 8192, "limit");
	CHECK(getenv("EXECS") && !strcmp(getenv("EXECS"), "as it was"), "environment");
	CHECK(m == 027, "umask %o", m);
}

/* execs SECONDS DIR, then by itself: execs again PID GOT TOLD */
int main(int argc, char **argv)
{
	sigset_t set;
	bool again = argc == 5 && !strcmp(argv[1], "again");
	unsigned long got = again ? strtoul(argv[3], NULL, 10) : 0, told = again ? strtoul(argv[4], NULL, 10) : 0;
	char pid[16], n[24], t[24];
	siginfo_t si;

	if (!again)
		first(argc, argv);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGRTMIN + 1);
	SYS(sigprocmask(SIG_BLOCK, &set, NULL));
	if (again) {
		CHECK(atoi(argv[2]) == getpid(), "%s has become %d", argv[2], (int)getpid());
		check();
	}
	while (sigtimedwait(&set, &si, &(struct timespec){0, 200000}) > 0) {
		if (si.si_signo == SIGTERM)
			return move_pass();
		CHECK(si.si_code == SI_USER && si.si_uid == getuid(), "signal %d, code %d, of %d, uid %d", si.si_signo, si.si_code, (int)si.si_pid, (int)si.si_uid);
		got++;
	}
	if (got >= told + 50) {
		printf("GOT %lu\n", told = got);
		fflush(stdout);
	}
	snprintf(pid, sizeof pid, "%d", (int)getpid());
	snprintf(n, sizeof n, "%lu", got);
	snprintf(t, sizeof t, "%lu", told);
	execl("/proc/self/exe", "execs", "again", pid, n, t, NULL);
	CHECK(false, "exec: %s", strerror(errno));
}
