/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Restartable sequences: per-CPU counters incremented without atomics by four threads. A move that lost a registration, or resumed in the
 * middle of a critical section, shows as a wrong sum or a crash.
 */
#include "move.h"
#include <sys/rseq.h>

#define THREADS 4
#define MAX_CPUS 4096

struct cell {
	uint64_t n;
	char pad[56];
};
static struct cell cell[MAX_CPUS];
static volatile bool stop;
static uint64_t made[THREADS], restarts[THREADS];

static struct rseq *area(void)
{
	return (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
}

/* One increment of this CPU's cell; false: interrupted, nothing was done. */
static bool increment(struct rseq *rs)
{
	uint32_t cpu = *(volatile uint32_t *)&rs->cpu_id_start;
	uint64_t *slot = &cell[cpu].n;
	__asm__ goto(".pushsection __rseq_cs_move, \"aw\"\n\t"
		     ".balign 32\n\t"
		     "3:\n\t"
		     ".long 0, 0\n\t"
		     ".quad 1f, 2f - 1f, 4f\n\t"
		     ".popsection\n\t"
		     "leaq 3b(%%rip), %%rax\n\t"
		     "movq %%rax, %c[cs](%[rs])\n\t"
		     "1:\n\t"
		     "cmpl %[cpu], %c[id](%[rs])\n\t"
		     "jnz 5f\n\t"
		     "movq (%[slot]), %%rcx\n\t"
		     "movl $40, %%eax\n\t" /* makes the section long enough to be hit */
		     "6: decl %%eax\n\t"
		     "jnz 6b\n\t"
		     "addq $1, %%rcx\n\t"
		     "movq %%rcx, (%[slot])\n\t"
		     "2:\n\t"
		     "jmp %l[done]\n\t"
		     ".byte 0x0f, 0xb9, 0x3d\n\t"
		     ".long 0x53053053\n\t" /* RSEQ_SIG */
		     "4:\n\t"
		     "5: jmp %l[again]\n\t"
		     :
		     : [rs] "r"(rs), [cpu] "r"(cpu), [slot] "r"(slot), [cs] "i"(offsetof(struct rseq, rseq_cs)),
		       [id] "i"(offsetof(struct rseq, cpu_id))
		     : "memory", "rax", "rcx", "cc"
		     : done, again);
done:
	return true;
again:
	return false;
}

static void *worker(void *arg)
{
	unsigned me = (unsigned)(uintptr_t)arg;
	struct rseq *rs = area();
	while (!stop) {
		CHECK((int)*(volatile uint32_t *)&rs->cpu_id >= 0, "thread %u: no longer registered", me);
		if (increment(rs))
			made[me]++;
		else
			restarts[me]++;
	}
	return NULL;
}

int main(int argc, char **argv)
{
	move_begin(argc, argv);
	if (!__rseq_size)
		skip("the C library does not use rseq here");
	pthread_t t[THREADS];
	for (uintptr_t i = 0; i < THREADS; i++)
		pthread_create(&t[i], NULL, worker, (void *)i);
	move_ready();
	while (move_more())
		move_nap(10000);
	stop = true;
	uint64_t sum = 0, want = 0;
	for (int i = 0; i < THREADS; i++) {
		pthread_join(t[i], NULL);
		want += made[i];
	}
	for (int i = 0; i < MAX_CPUS; i++)
		sum += cell[i].n;
	CHECK(sum == want, "%llu increments were made, the cells say %llu", (unsigned long long)want, (unsigned long long)sum);
	return move_pass();
}
