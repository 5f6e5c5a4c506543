/* SPDX-License-Identifier: Apache-2.0 */
/* timerfd: periodic on three clocks with every tick told once, a one-shot far ahead, a disarmed one, one that fell due unread. */
#include "move.h"
#include <poll.h>
#include <sys/timerfd.h>

static void arm(int fd, int flags, uint64_t first_ns, uint64_t every_ns)
{
	struct itimerspec t = {{every_ns / 1000000000, every_ns % 1000000000}, {first_ns / 1000000000, first_ns % 1000000000}};
	SYS(timerfd_settime(fd, flags, &t, NULL));
}

static uint64_t ticks(int fd)
{
	uint64_t v;
	ssize_t n = read(fd, &v, 8);
	if (n < 0 && errno == EAGAIN)
		return 0;
	CHECK(n == 8, "timerfd read");
	return v;
}

int main(int argc, char **argv)
{
	static const clockid_t clock[3] = {CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_BOOTTIME};
	static const uint64_t every[3] = {7000000, 11000000, 13000000};
	int fd[3];
	uint64_t count[3] = {0}, start[3];

	move_begin(argc, argv);
	for (int i = 0; i < 3; i++) {
		fd[i] = SYS(timerfd_create(clock[i], TFD_NONBLOCK));
		start[i] = now_ns(clock[i]);
		arm(fd[i], i == 2 ? 0 : TFD_TIMER_ABSTIME, i == 2 ? every[i] : start[i] + every[i], every[i]);
	}
	int far = SYS(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC)), off = SYS(timerfd_create(CLOCK_MONOTONIC, 0)),
	    due = SYS(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
	arm(far, 0, 900000000000u, 0);
	uint64_t far_end = now_ns(CLOCK_MONOTONIC) + 900000000000u;
	move_ready();
	while (move_more()) {
		arm(due, 0, 1000000, 0);
		move_nap(200000);
		for (int i = 0; i < 3; i++) {
			uint64_t least = (now_ns(clock[i]) - start[i]) / every[i];
			count[i] += ticks(fd[i]);
			uint64_t should = (now_ns(clock[i]) - start[i]) / every[i];
			CHECK(count[i] <= should + 1, "clock %d: %llu ticks, only %llu were due", clock[i], (unsigned long long)count[i],
			      (unsigned long long)should);
			CHECK(count[i] + least / 20 + 3 >= least, "clock %d: %llu ticks, %llu were due", clock[i],
			      (unsigned long long)count[i], (unsigned long long)least);
		}
		CHECK(ticks(due) == 1 && ticks(due) == 0, "a one-shot that fell due is told %s", "not exactly once");
		struct itimerspec t;
		int64_t most = far_end - now_ns(CLOCK_MONOTONIC);
		SYS(timerfd_gettime(far, &t));
		int64_t left = t.it_value.tv_sec * 1000000000ll + t.it_value.tv_nsec, want = far_end - now_ns(CLOCK_MONOTONIC);
		CHECK(left < most + 50000000 && left > want - 50000000, "one-shot: %lld ms left, not %lld", (long long)left / 1000000, (long long)want / 1000000);
		SYS(timerfd_gettime(off, &t));
		CHECK(!t.it_value.tv_sec && !t.it_value.tv_nsec, "a disarmed timer runs");
		struct pollfd p = {off, POLLIN, 0};
		CHECK(poll(&p, 1, 0) == 0, "a disarmed timer is readable");
		CHECK(fcntl(far, F_GETFD) == FD_CLOEXEC, "close-on-exec changed");
	}
	return move_pass();
}
