// SPDX-License-Identifier: Apache-2.0
/*
 * One processor for the engine's thread and those that it works on. A call that is injected is two switches between them: 2 us on one processor, 50 where the other
 * one has to be woken from its sleep (measured; virtual machines are worst), and there are dozens of them in a freeze.
 *
 * A thread is told to stay on that processor when the engine puts its blob in, and is given back what it was allowed before when it is let go. Until then that stands in
 * its slot too, and before there is one in what the journal says of a freeze: whoever lets it go after our death gives it back.
 */
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "migd/engine/core.h"

/* The same for all of a family: 1 + its number. */
static int cpu_of(struct eng_family *f)
{
	int cpu = f->cpu ? f->cpu - 1 : sched_getcpu();

	if (cpu < 0 || cpu >= PIN_BYTES * 8)
		return -1;
	f->cpu = cpu + 1;
	return cpu;
}

static bool only(pid_t tid, int cpu)
{
	uint8_t one[PIN_BYTES] = {0};

	one[cpu / 8] = 1 << cpu % 8;
	return syscall(SYS_sched_setaffinity, tid, sizeof(one), one) == 0;
}

static unsigned processors(const uint8_t *cpus, unsigned n)
{
	unsigned sum = 0;

	for (unsigned i = 0; i < n; i++)
		sum += __builtin_popcount(cpus[i]);
	return sum;
}

void pin_note(struct eng_thread *t)
{
	long n = syscall(SYS_sched_getaffinity, t->tid, sizeof(t->core->cpus), t->core->cpus);

	t->core->nnoted = n > 0 ? n : 0;
}

bool pin_left(struct eng_thread *t)
{
	struct eng_thread_core *c = t->core;
	uint8_t now[PIN_BYTES];
	long n = syscall(SYS_sched_getaffinity, t->tid, sizeof(now), now);

	if (n <= 0 || processors(now, n) != 1 || processors(c->cpus, c->nnoted) < 2)
		return false;
	c->ncpus = c->nnoted;
	return true;
}

void pin_thread(struct eng_thread *t)
{
	struct eng_thread_core *c = t->core;
	int cpu = cpu_of(t->proc->family);
	long n = c->ncpus || cpu < 0 ? 0 : c->nnoted ? (long)c->nnoted : syscall(SYS_sched_getaffinity, t->tid, sizeof(c->cpus), c->cpus);

	if (n > 0 && only(t->tid, cpu)) /* else it is not allowed there, and stays as it is */
		c->ncpus = n;
}

void pin_again(struct eng_thread *t)
{
	t->core->ncpus = t->core->nnoted = 0;
	pin_thread(t);
}

void pin_release(struct eng_thread *t)
{
	struct eng_thread_core *c = t->core;
	unsigned allowed = processors(c->cpus, c->ncpus);

	if (allowed && allowed == (unsigned)sysconf(_SC_NPROCESSORS_ONLN)) { /* all: also those that are to come */
		memset(c->cpus, 0xff, sizeof(c->cpus));
		c->ncpus = sizeof(c->cpus);
	}
	if (c->ncpus)
		syscall(SYS_sched_setaffinity, t->tid, c->ncpus, c->cpus);
	c->ncpus = 0;
}

void pin_self(struct eng_family *f, struct pin_self *was)
{
	int cpu = cpu_of(f);
	long n = cpu < 0 ? 0 : syscall(SYS_sched_getaffinity, 0, sizeof(was->cpus), was->cpus);

	was->n = n > 0 && only(0, cpu) ? n : 0;
}

void pin_self_end(const struct pin_self *was)
{
	if (was->n)
		syscall(SYS_sched_setaffinity, 0, was->n, was->cpus);
	events_catch_up();
}
