/* SPDX-License-Identifier: Apache-2.0 */
/* Moved while inside a handler on the alternate stack, with a second handler nested in it. */
#include "move.h"

#define SIZE (256 * 1024)
static char *base;
static volatile uint64_t outer_sum, inner_sum;

static uint64_t work(uint64_t seed, int loops)
{
	volatile uint64_t frame[64]; /* on the stack in question */
	for (int i = 0; i < 64; i++)
		frame[i] = seed + i;
	for (int n = 0; n < loops; n++)
		for (int i = 0; i < 64; i++)
			frame[i] = frame[i] * 6364136223846793005u + frame[(i + 1) & 63];
	uint64_t s = 0;
	for (int i = 0; i < 64; i++)
		s ^= frame[i];
	return s;
}

static void inner(int sig)
{
	(void)sig;
	char here;
	CHECK(&here >= base && &here < base + SIZE, "nested handler left the alternate stack");
	stack_t is;
	SYS(sigaltstack(NULL, &is));
	CHECK(is.ss_flags & SS_ONSTACK, "in use, but sigaltstack() says it is not");
	inner_sum = work(99, 200000);
}

static void outer(int sig)
{
	(void)sig;
	char here;
	CHECK(&here >= base && &here < base + SIZE, "handler not on the alternate stack");
	raise(SIGUSR2);
	outer_sum = work(7, 400000);
}

int main(int argc, char **argv)
{
	move_begin(argc, argv);
	base = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	stack_t ss = {.ss_sp = base, .ss_size = SIZE}, is;
	SYS(sigaltstack(&ss, NULL));
	struct sigaction sa = {.sa_handler = outer, .sa_flags = SA_ONSTACK};
	SYS(sigaction(SIGUSR1, &sa, NULL));
	sa.sa_handler = inner;
	SYS(sigaction(SIGUSR2, &sa, NULL));
	uint64_t o = work(7, 400000), i = work(99, 200000);
	move_ready();
	while (move_more()) {
		outer_sum = inner_sum = 0;
		raise(SIGUSR1);
		CHECK(outer_sum == o, "the handler's frame was damaged");
		CHECK(inner_sum == i, "the nested handler's frame was damaged");
		SYS(sigaltstack(NULL, &is));
		CHECK(is.ss_sp == base && is.ss_size == SIZE && !(is.ss_flags & SS_ONSTACK), "the alternate stack changed");
	}
	return move_pass();
}
