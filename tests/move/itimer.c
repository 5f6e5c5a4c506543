/* SPDX-License-Identifier: Apache-2.0 */
/* The three interval timers: ticks keep their period over a move, one-shots neither fire early nor get lost. */
#include "move.h"

static volatile sig_atomic_t real_ticks, cpu_ticks, prof_ticks;

static void on_alarm(int sig)
{
	if (sig == SIGALRM)
		real_ticks++;
	else if (sig == SIGVTALRM)
		cpu_ticks++;
	else
		prof_ticks++;
}

static void spin(uint64_t ns)
{
	for (uint64_t end = now_ns(CLOCK_MONOTONIC) + ns; now_ns(CLOCK_MONOTONIC) < end;)
		;
}

int main(int argc, char **argv)
{
	move_begin(argc, argv);
	struct sigaction sa = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
	SYS(sigaction(SIGALRM, &sa, NULL));
	SYS(sigaction(SIGVTALRM, &sa, NULL));
	SYS(sigaction(SIGPROF, &sa, NULL));
	struct itimerval fast = {{0, 10000}, {0, 10000}}, slow = {{0, 30000}, {0, 30000}}, is;
	SYS(setitimer(ITIMER_VIRTUAL, &slow, NULL));
	SYS(setitimer(ITIMER_PROF, &slow, NULL));
	move_ready();
	for (unsigned round = 0; move_more(); round++) {
		/* A periodic one: it must go on ticking. */
		SYS(setitimer(ITIMER_REAL, &fast, NULL));
		sig_atomic_t r = real_ticks, c = cpu_ticks, p = prof_ticks;
		uint64_t t0 = now_ns(CLOCK_MONOTONIC);
		spin(300000000);
		for (int i = 0; i < 600 && real_ticks - r < 5; i++) /* most of the time may have gone into moves */
			spin(100000000);
		uint64_t took = now_ns(CLOCK_MONOTONIC) - t0;
		CHECK(real_ticks - r >= 5, "ITIMER_REAL: %d ticks of 10 ms in %llu ms", real_ticks - r,
		      (unsigned long long)took / 1000000);
		CHECK((uint64_t)(real_ticks - r) <= took / 10000000 + 2, "ITIMER_REAL: %d ticks of 10 ms in only %llu ms",
		      real_ticks - r, (unsigned long long)took / 1000000);
		if (round && round % 8 == 0) /* CPU timers: coarse, and CPU time is what the scheduler gives */
			CHECK(cpu_ticks > c - 1 && prof_ticks > p - 1, "CPU timers run backwards");
		SYS(getitimer(ITIMER_REAL, &is));
		CHECK(is.it_interval.tv_usec == 10000 && !is.it_interval.tv_sec, "ITIMER_REAL: interval is %ld us", is.it_interval.tv_usec);
		SYS(getitimer(ITIMER_VIRTUAL, &is));
		CHECK(is.it_interval.tv_usec == 30000, "ITIMER_VIRTUAL: interval is %ld us", is.it_interval.tv_usec);
		SYS(getitimer(ITIMER_PROF, &is));
		CHECK(is.it_interval.tv_usec == 30000, "ITIMER_PROF: interval is %ld us", is.it_interval.tv_usec);
		/* A one-shot: not before its time, and not never. */
		struct itimerval once = {{0, 0}, {0, 400000}};
		SYS(setitimer(ITIMER_REAL, &once, NULL));
		r = real_ticks;
		t0 = now_ns(CLOCK_MONOTONIC);
		while (real_ticks == r) {
			CHECK(now_ns(CLOCK_MONOTONIC) - t0 < 60000000000u, "ITIMER_REAL: the one-shot was lost");
			move_nap(5000);
		}
		took = now_ns(CLOCK_MONOTONIC) - t0;
		CHECK(took >= 399000000, "ITIMER_REAL: one-shot of 400 ms after %llu us", (unsigned long long)took / 1000);
	}
	sig_atomic_t c = cpu_ticks, p = prof_ticks;
	for (int i = 0; i < 600 && (cpu_ticks == c || prof_ticks == p); i++)
		spin(100000000);
	CHECK(cpu_ticks != c, "ITIMER_VIRTUAL does not tick any more");
	CHECK(prof_ticks != p, "ITIMER_PROF does not tick any more");
	return move_pass();
}
