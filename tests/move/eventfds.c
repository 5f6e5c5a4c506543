/* SPDX-License-Identifier: Apache-2.0 */
/* eventfd (counter, semaphore, shared by dup), signalfd (mask, reading) and flags of each. timerfd has its own program. */
#include "move.h"
#include <sys/eventfd.h>
#include <sys/signalfd.h>

int main(int argc, char **argv)
{
	move_begin(argc, argv);
	int plain = SYS(eventfd(0, EFD_NONBLOCK)), sem = SYS(eventfd(0, EFD_SEMAPHORE | EFD_CLOEXEC | EFD_NONBLOCK));
	int twin = SYS(dup2(plain, 200));
	sigset_t s;
	sigemptyset(&s);
	sigaddset(&s, SIGUSR1);
	sigaddset(&s, SIGRTMIN + 7);
	pthread_sigmask(SIG_BLOCK, &s, NULL);
	int sfd = SYS(signalfd(-1, &s, SFD_NONBLOCK));
	uint64_t big = 0xfffffffffffffff0ull, one = 1, v;
	move_ready();
	for (uint64_t n = 1; move_more(); n++) {
		uint64_t x = n % 3 ? n : big;
		CHECK(write(plain, &x, 8) == 8, "eventfd write");
		uint64_t three = 3;
		CHECK(write(sem, &three, 8) == 8, "eventfd write");
		union sigval val = {.sival_int = (int)n};
		SYS(sigqueue(getpid(), SIGRTMIN + 7, val));
		move_nap(30000);
		CHECK(read(twin, &v, 8) == 8 && v == x, "eventfd: count was %llx, is %llx", (unsigned long long)x, (unsigned long long)v);
		CHECK(read(plain, &v, 8) < 0 && errno == EAGAIN, "eventfd: the twins do not share a counter");
		for (int i = 0; i < 3; i++)
			CHECK(read(sem, &v, 8) == 8 && v == one, "semaphore eventfd: read %d got %llu", i, (unsigned long long)v);
		CHECK(read(sem, &v, 8) < 0 && errno == EAGAIN, "semaphore eventfd: a fourth one");
		struct signalfd_siginfo si;
		CHECK(read(sfd, &si, sizeof si) == sizeof si && si.ssi_signo == (unsigned)(SIGRTMIN + 7) && si.ssi_int == (int)n,
		      "signalfd: no signal with value %llu", (unsigned long long)n);
		CHECK(read(sfd, &si, sizeof si) < 0 && errno == EAGAIN, "signalfd: signal %u twice", si.ssi_signo);
		CHECK(fcntl(sem, F_GETFD) == FD_CLOEXEC && fcntl(plain, F_GETFD) == 0, "close-on-exec changed");
		CHECK(fcntl(plain, F_GETFL) & O_NONBLOCK && fcntl(sfd, F_GETFL) & O_NONBLOCK, "O_NONBLOCK was lost");
	}
	return move_pass();
}
