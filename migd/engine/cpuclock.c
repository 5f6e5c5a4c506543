// SPDX-License-Identifier: Apache-2.0
/*
 * What the scheduler's clock of one processor says now. se.exec_start of /proc/PID/sched is in that clock, and the clocks of two processors are not the same:
 * each leaves out the time that interrupts took, and that a hypervisor gave to others (0.15 s apart after hours, seen). It can be read only by running there:
 * our thread goes there for a moment. Kept for one freeze, per thread: no lock.
 */
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "conf/clock.h"
#include "conf/cleanup.h"
#include "migd/engine/core.h"

enum { CPUS = 1024 };
static __thread struct {
	uint64_t freeze;
	double behind_ms[CPUS]; /* CLOCK_MONOTONIC less the processor's clock; 0: not known */
} seen;

double sched_number(const char *text, const char *key)
{
	const char *s = text ? strstr(text, key) : NULL;

	s = s ? strchr(s, ':') : NULL;
	return s ? strtod(s + 1, NULL) : 0;
}

/* Just moved to another processor (or back) our own exec_start is fresh. 0: not to be had. */
static double look(int cpu)
{
	struct sched_param first = {.sched_priority = 1}, normal = {0};
	cpu_set_t all, one;
	int policy = sched_getscheduler(0);
	double is = 0;

	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	if (sched_getaffinity(0, sizeof(all), &all) < 0)
		return 0;
	if (policy == SCHED_OTHER)
		sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &first); /* not behind all who wait there */
	if (sched_setaffinity(0, sizeof(one), &one) == 0) {
		_cleanup_free_ char *text = eng_proc_read(-100 /* AT_FDCWD */, "/proc/thread-self/sched", NULL);
		double then = sched_number(text, "se.exec_start");

		is = then > 0 ? clock_mono_ns() / 1e6 - then : 0;
		sched_setaffinity(0, sizeof(all), &all);
	}
	if (policy == SCHED_OTHER)
		sched_setscheduler(0, SCHED_OTHER, &normal);
	return is;
}

double cpuclock_ms(uint64_t freeze, int cpu)
{
	if (cpu < 0 || cpu >= CPUS)
		return 0;
	if (seen.freeze != freeze) {
		memset(&seen, 0, sizeof(seen));
		seen.freeze = freeze;
	}
	if (seen.behind_ms[cpu] == 0)
		seen.behind_ms[cpu] = look(cpu);
	return seen.behind_ms[cpu] == 0 ? 0 : clock_mono_ns() / 1e6 - seen.behind_ms[cpu];
}
