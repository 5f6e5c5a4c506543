// SPDX-License-Identifier: Apache-2.0
/* Reports of stopped children: one that wait(2) has told is not told again, nor is there another SIGCHLD for it; one that nobody has asked for is still there. They go on when they are continued, wherever that is. */
#include "move.h"

static volatile sig_atomic_t chld;
static void on_chld(int sig)
{
	(void)sig;
	chld++;
}

static pid_t child(void)
{
	pid_t pid = SYS(fork());

	if (pid)
		return pid;
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	struct sigaction sa = {.sa_handler = on_chld, .sa_flags = SA_RESTART};
	siginfo_t si;
	int st;

	move_begin(argc, argv);
	SYS(sigaction(SIGCHLD, &sa, NULL));
	move_ready();
	while (move_more()) {
		pid_t told = child(), untold = child();

		SYS(kill(told, SIGSTOP));
		CHECK(waitpid(told, &st, WUNTRACED) == told && WIFSTOPPED(st), "the stop: %#x", st);
		SYS(kill(untold, SIGSTOP));
		memset(&si, 0, sizeof si);
		SYS(waitid(P_PID, untold, &si, WSTOPPED | WNOWAIT));
		int before = chld;

		for (int i = 0; i < 150; i++) {
			move_nap(2000);
			CHECK(waitpid(told, &st, WUNTRACED | WNOHANG) == 0, "told again: %#x", st);
		}
		CHECK(chld == before, "%d SIGCHLD of stops that were told", (int)chld - before);
		CHECK(waitpid(untold, &st, WUNTRACED | WNOHANG) == untold && WIFSTOPPED(st) && WSTOPSIG(st) == SIGSTOP, "the stop that nobody has asked for is gone: %#x", st);
		pid_t both[2] = {told, untold};

		for (int i = 0; i < 2; i++) { /* the kernel lets it go on, and end by what waits */
			SYS(kill(both[i], SIGUSR2));
			CHECK(waitpid(both[i], &st, WNOHANG) == 0, "it runs although it is stopped");
			SYS(kill(both[i], SIGCONT));
			CHECK(waitpid(both[i], &st, 0) == both[i] && WIFSIGNALED(st) && WTERMSIG(st) == SIGUSR2, "its end: %#x", st);
		}
	}
	return move_pass();
}
