/* SPDX-License-Identifier: Apache-2.0 */
/* Clocks through the vdso and by system call: never backwards, never far apart, in two threads, while the vdso may be swapped beneath them. (CPU clocks start again with a move: sprite(7).) */
#include "move.h"
#include <sys/random.h>

static volatile bool stop;

static uint64_t raw_ns(clockid_t c)
{
	struct timespec t;
	SYS(syscall(SYS_clock_gettime, c, &t));
	return (uint64_t)t.tv_sec * 1000000000u + t.tv_nsec;
}

static void *watch(void *arg)
{
	static const clockid_t clocks[] = {CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_MONOTONIC_RAW, CLOCK_MONOTONIC_COARSE};
	uint64_t last[4] = {0};
	(void)arg;
	for (unsigned n = 0; !stop; n++)
		for (int i = 0; i < 4; i++) {
			uint64_t now = n % 16 == 15 ? raw_ns(clocks[i]) : now_ns(clocks[i]);
			CHECK(now >= last[i], "clock %d went back by %llu us", clocks[i], (unsigned long long)(last[i] - now) / 1000);
			last[i] = now;
		}
	return NULL;
}

int main(int argc, char **argv)
{
	move_begin(argc, argv);
	pthread_t t;
	pthread_create(&t, NULL, watch, NULL);
	uint64_t m0 = now_ns(CLOCK_MONOTONIC), b0 = now_ns(CLOCK_BOOTTIME);
	move_ready();
	for (unsigned n = 0; move_more(); n++) {
		uint64_t a = raw_ns(CLOCK_MONOTONIC), v = now_ns(CLOCK_MONOTONIC), b = raw_ns(CLOCK_MONOTONIC);
		CHECK(a <= v && v <= b, "vdso and system call disagree: %llu <= %llu <= %llu", (unsigned long long)a, (unsigned long long)v,
		      (unsigned long long)b);
		uint64_t m1 = now_ns(CLOCK_MONOTONIC) - m0, bt = now_ns(CLOCK_BOOTTIME) - b0, m2 = now_ns(CLOCK_MONOTONIC) - m0;
		CHECK(bt + 50000000 > m1 && bt < m2 + 50000000, "MONOTONIC and BOOTTIME drift apart: %llu, %llu, %llu us", (unsigned long long)m1 / 1000,
		      (unsigned long long)bt / 1000, (unsigned long long)m2 / 1000);
		time_t x = time(NULL);
		struct timeval tv;
		gettimeofday(&tv, NULL);
		CHECK(tv.tv_sec - x <= 60 && tv.tv_sec >= x, "time() and gettimeofday() disagree");
		unsigned cpu_now, node;
		CHECK(getcpu(&cpu_now, &node) == 0, "getcpu");
		char r[8] = {0};
		CHECK(getrandom(r, sizeof r, 0) == sizeof r, "getrandom");
	}
	stop = true;
	pthread_join(t, NULL);
	return move_pass();
}
