/* SPDX-License-Identifier: Apache-2.0 */
/* pidfds of a child and of the process itself: signal, poll for the end, waitid(P_PIDFD). */
#include "move.h"
#include <poll.h>
#include <sys/prctl.h>
#include <sys/pidfd.h>

static volatile sig_atomic_t got;
static void on_usr1(int sig)
{
	(void)sig;
	got++;
}

int main(int argc, char **argv)
{
	move_begin(argc, argv);
	struct sigaction sa = {.sa_handler = on_usr1, .sa_flags = SA_RESTART};
	SYS(sigaction(SIGUSR1, &sa, NULL));
	int self = SYS(syscall(SYS_pidfd_open, getpid(), 0));
	int over = -1; /* of a child that has ended and been waited for */
	move_ready();
	for (int n = 0; move_more(); n++) {
		sigset_t term, before_fork;
		sigemptyset(&term);
		sigaddset(&term, SIGTERM);
		sigprocmask(SIG_BLOCK, &term, &before_fork);
		pid_t kid = SYS(fork());
		if (!kid) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			signal(SIGTERM, SIG_DFL); /* a move may come before this: until then the signal waits */
			sigprocmask(SIG_SETMASK, &before_fork, NULL);
			for (;;)
				pause();
		}
		sigprocmask(SIG_SETMASK, &before_fork, NULL);
		int fd = SYS(syscall(SYS_pidfd_open, kid, 0));
		struct pollfd p = {fd, POLLIN, 0};
		move_nap(100000); /* moves happen here */
		CHECK(poll(&p, 1, 0) == 0, "the pidfd of a living child says that it has ended");
		if (over >= 0) {
			struct pollfd q = {over, POLLIN, 0};

			CHECK(poll(&q, 1, 0) == 1 && q.revents & POLLIN, "the pidfd of an ended child says that it lives");
			CHECK(syscall(SYS_pidfd_send_signal, over, 0, NULL, 0) < 0 && errno == ESRCH, "the pidfd of an ended child: %s", strerror(errno));
			CHECK(waitid(P_PIDFD, over, NULL, WEXITED) < 0 && errno == ECHILD, "waitid of an ended child: %s", strerror(errno));
		}
		int before = got;
		SYS(syscall(SYS_pidfd_send_signal, self, SIGUSR1, NULL, 0));
		CHECK(got == before + 1, "a signal by the own pidfd does not arrive");
		SYS(syscall(SYS_pidfd_send_signal, fd, SIGTERM, NULL, 0));
		int r = poll(&p, 1, 60000);

		if (r < 0 && errno == EINTR && move_told) /* SIGTERM's handler ends it, anywhere */
			r = poll(&p, 1, 60000);
		CHECK(r == 1 && p.revents & POLLIN, "the pidfd does not tell the child's end");
		siginfo_t si = {0};
		SYS(waitid(P_PIDFD, fd, &si, WEXITED));
		CHECK(si.si_pid == kid && si.si_code == CLD_KILLED && si.si_status == SIGTERM, "waitid: pid %d code %d status %d", si.si_pid,
		      si.si_code, si.si_status);
		CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC, "close-on-exec changed");
		if (over >= 0)
			close(over);
		over = fd;
	}
	return move_pass();
}
