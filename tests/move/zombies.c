/* SPDX-License-Identifier: Apache-2.0 */
/* Children that have ended and are not yet waited for, with exit status or signal; orphans that a subreaper gets; one whose end is told by another signal (clone(2)). */
#include "move.h"
#include <sys/prctl.h>

#define KIDS 6

static pid_t make(int i)
{
	pid_t kid = SYS(fork());
	if (kid)
		return kid;
	signal(SIGTERM, SIG_DFL);
	if (i % 3 == 2) {
		raise(i == 2 ? SIGTERM : SIGKILL);
		_exit(0);
	}
	_exit(i * 17 + 1);
}

static volatile sig_atomic_t told;

static void on_end(int sig)
{
	(void)sig;
	told++;
}

/* It lives long enough to be known at home, wherever it was born. */
static pid_t make_other(void)
{
	pid_t kid = SYS(syscall(SYS_clone, SIGUSR2, 0, 0, 0, 0));

	if (kid)
		return kid;
	move_nap(600000);
	_exit(77);
}

static void check_end(int i, int st)
{
	if (i % 3 == 2)
		CHECK(WIFSIGNALED(st) && WTERMSIG(st) == (i == 2 ? SIGTERM : SIGKILL), "child %d: status %x", i, st);
	else
		CHECK(WIFEXITED(st) && WEXITSTATUS(st) == i * 17 + 1, "child %d: status %x", i, st);
}

int main(int argc, char **argv)
{
	move_begin(argc, argv);
	SYS(prctl(PR_SET_CHILD_SUBREAPER, 1));
	struct sigaction sa = {.sa_handler = on_end, .sa_flags = SA_RESTART};
	SYS(sigaction(SIGUSR2, &sa, NULL));
	move_ready();
	while (move_more()) {
		pid_t kid[KIDS], orphan, other = make_other();
		int p[2], st;
		for (int i = 0; i < KIDS; i++)
			kid[i] = make(i);
		SYS(pipe(p));
		pid_t middle = SYS(fork());
		if (!middle) { /* its child becomes ours */
			pid_t k = fork();
			if (!k) {
				signal(SIGTERM, SIG_IGN);
				move_nap(150000);
				_exit(99);
			}
			CHECK(write(p[1], &k, sizeof k) == sizeof k, "write");
			_exit(0);
		}
		CHECK(read(p[0], &orphan, sizeof orphan) == sizeof orphan, "read");
		close(p[0]);
		close(p[1]);
		siginfo_t si = {0};
		for (int i = 0; i < KIDS; i++) /* a busy machine may not have run them yet */
			SYS(waitid(P_PID, kid[i], &si, WEXITED | WNOWAIT));
		move_nap(250000); /* moves happen here */
		SYS(waitid(P_PID, kid[1], &si, WEXITED | WNOWAIT));
		CHECK(si.si_pid == kid[1] && si.si_status == 18, "waitid: pid %d status %d", si.si_pid, si.si_status);
		for (int i = KIDS - 1; i >= 0; i--) {
			pid_t r = waitpid(kid[i], &st, WNOHANG);
			CHECK(r == kid[i], "child %d (pid %d): wait says %d, %s", i, kid[i], r, r < 0 ? strerror(errno) : "still runs");
			check_end(i, st);
		}
		SYS(waitpid(middle, &st, 0));
		CHECK(waitpid(orphan, &st, 0) == orphan, "the orphan %d did not come to its subreaper: %s", orphan, strerror(errno));
		CHECK(WIFEXITED(st) && WEXITSTATUS(st) == 99, "orphan: status %x", st);
		CHECK(waitpid(other, &st, __WALL) == other && WIFEXITED(st) && WEXITSTATUS(st) == 77, "the child of clone(2): %s, status %x", strerror(errno), st);
		CHECK(told == 1, "its end was told %d times", (int)told);
		told = 0;
		CHECK(waitpid(-1, &st, WNOHANG) < 0 && errno == ECHILD, "a child too many");
	}
	return move_pass();
}
