// SPDX-License-Identifier: Apache-2.0
/*
 * A signal ends the wait that it comes to, also in the moment after a move. A child sends SIGUSR1, one at a time, each when the one before has been answered; the parent, who has it blocked
 * but in sigsuspend(2), which lets it in without a gap, answers when that returns. A signal that ran its handler before the call was made again would leave it waiting, and both for ever.
 */
#include "move.h"

static struct shared {
	volatile int sent, handled, answered, end;
} *x;

static void on_usr1(int sig)
{
	(void)sig;
	x->handled++;
}

/* A machine that is busy may take its time to run the parent; to have run the handler and not to come back, however, is what must not be. */
static void send_all(pid_t parent)
{
	while (!x->end) {
		x->sent++;
		SYS(kill(parent, SIGUSR1));
		for (int late = 0; x->answered != x->sent && !x->end; move_nap(200)) {
			late = x->handled == x->sent ? late + 1 : 0;
			CHECK(late < 50000, "signal %d ran its handler, and did not end the wait", x->sent);
		}
		if (x->sent % 8 == 0)
			move_nap(300);
	}
	_exit(0);
}

int main(int argc, char **argv)
{
	struct sigaction sa = {.sa_handler = on_usr1};
	sigset_t blocked, open;
	int st = 0;

	move_begin(argc, argv);
	x = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(x != MAP_FAILED, "shared memory");
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGUSR1);
	sigaddset(&blocked, SIGTERM);
	SYS(sigprocmask(SIG_BLOCK, &blocked, &open));
	sigdelset(&open, SIGUSR1);
	SYS(sigaction(SIGUSR1, &sa, NULL));
	pid_t child = SYS(fork());
	if (!child)
		send_all(getppid());
	move_ready();
	while (move_more()) {
		sigsuspend(&open);
		x->answered = x->handled;
		CHECK(waitpid(child, &st, WNOHANG) == 0, "the sender has ended: %#x", st);
	}
	x->end = 1;
	SYS(waitpid(child, &st, 0));
	CHECK(st == 0, "the sender ended with %#x", st);
	CHECK(x->answered == x->handled, "%d signals handled, %d waits ended", x->handled, x->answered);
	return move_pass();
}
