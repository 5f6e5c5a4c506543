/* SPDX-License-Identifier: Apache-2.0 */
/* Descriptors that signal (O_ASYNC): to a process, a group, a thread; by SIGIO, and by a real-time signal that says which descriptor. */
#include "move.h"
#include <sys/socket.h>

enum { PIPES = 3 };
static volatile sig_atomic_t io, told[PIPES];
static int fd[PIPES][2];

static void on_io(int sig)
{
	(void)sig;
	io++;
}
static void on_rt(int sig, siginfo_t *si, void *ctx)
{
	(void)sig, (void)ctx;
	for (int i = 0; i < PIPES; i++)
		if (si->si_fd == fd[i][0])
			told[i]++;
}

int main(int argc, char **argv)
{
	struct sigaction a = {.sa_sigaction = on_rt, .sa_flags = SA_SIGINFO | SA_RESTART};
	struct f_owner_ex who = {F_OWNER_TID, gettid()};
	char c;
	move_begin(argc, argv);
	signal(SIGIO, on_io);
	SYS(sigaction(SIGRTMIN + 3, &a, NULL));
	setpgid(0, 0);
	for (int i = 0; i < PIPES; i++) {
		SYS(i == 1 ? socketpair(AF_UNIX, SOCK_STREAM, 0, fd[i]) : pipe(fd[i]));
		SYS(i == 0 ? fcntl(fd[i][0], F_SETOWN, getpid()) : i == 1 ? fcntl(fd[i][0], F_SETOWN, -getpgrp()) : fcntl(fd[i][0], F_SETOWN_EX, &who));
		if (i)
			SYS(fcntl(fd[i][0], F_SETSIG, SIGRTMIN + 3));
		SYS(fcntl(fd[i][0], F_SETFL, O_ASYNC | O_NONBLOCK));
	}
	move_ready();
	while (move_more()) {
		int was = io, was1 = told[1], was2 = told[2];
		move_nap(30000);
		for (int i = 0; i < PIPES; i++)
			SYS(write(fd[i][1], "x", 1));
		for (int k = 0; (io == was || told[1] == was1 || told[2] == was2) && k < 2000; k++)
			move_nap(5000);
		CHECK(io > was, "no SIGIO for a pipe");
		CHECK(told[1] > was1, "no signal for a socket, to the group");
		CHECK(told[2] > was2, "no signal for a pipe, to the thread");
		for (int i = 0; i < PIPES; i++)
			while (read(fd[i][0], &c, 1) > 0)
				;
		CHECK(fcntl(fd[0][0], F_GETOWN) == getpid() && fcntl(fd[1][0], F_GETOWN) == -getpgrp(), "owner %d and %d", fcntl(fd[0][0], F_GETOWN), fcntl(fd[1][0], F_GETOWN));
		CHECK(fcntl(fd[0][0], F_GETSIG) == 0 && fcntl(fd[1][0], F_GETSIG) == SIGRTMIN + 3, "signal %d and %d", fcntl(fd[0][0], F_GETSIG), fcntl(fd[1][0], F_GETSIG));
		CHECK(fcntl(fd[0][0], F_GETFL) & O_ASYNC, "O_ASYNC is gone");
	}
	return move_pass();
}
