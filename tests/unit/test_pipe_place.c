// SPDX-License-Identifier: Apache-2.0
/*
 * stack_front(): bytes that are older than what is in a pipe go before it while writers write on. Numbers are written; some are taken out, as a source would, put
 * back to the front, and all is read: none may be missing, there twice, or out of order, whoever was quicker. What did not go in must be in the stack, in order.
 */
#include <CUnit/Basic.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "fs/client/pipe_int.h"

enum { NUMBERS = 300000, WRITE_MAX = 8192 };

struct writer {
	int fd;
	size_t most;	 /* numbers in one write */
	unsigned pause;	 /* us after each */
	bool first;	 /* runs before us whenever it can */
	int size;	 /* of the pipe; 0: as they are made */
	pthread_t thread;
};

static unsigned rnd(unsigned *seed)
{
	return (*seed = *seed * 1103515245 + 12345) >> 8;
}

/* On the first processor. rt: before all that is not, too. */
static void bind_to(int rt)
{
	struct sched_param p = {.sched_priority = rt};
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(0, &one);
	pthread_setaffinity_np(pthread_self(), sizeof(one), &one);
	if (rt)
		pthread_setschedparam(pthread_self(), SCHED_FIFO, &p);
}

static void *writer_main(void *arg)
{
	struct writer *w = arg;
	static uint64_t block[WRITE_MAX];
	unsigned seed = (unsigned)w->most;

	if (w->first)
		bind_to(2); /* stack_front() takes 1 */
	for (uint64_t next = 0; next < NUMBERS;) {
		size_t n = 1 + rnd(&seed) % w->most;

		if (n > NUMBERS - next)
			n = NUMBERS - next;
		for (size_t i = 0; i < n; i++)
			block[i] = next + i;
		if (write(w->fd, block, n * sizeof(*block)) != (ssize_t)(n * sizeof(*block)))
			return w;
		next += n;
		if (w->pause)
			usleep(w->pause);
	}
	close(w->fd);
	return NULL;
}

static int again(int fd, int flags)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, flags | O_NONBLOCK | O_CLOEXEC);
}

/* So many numbers as a source has taken out: at most, for there may be fewer yet. */
static void take(struct stack *s, int r, size_t n)
{
	for (size_t want = n * sizeof(uint64_t), had; s->len < want;) {
		had = s->len;
		stack_read(s, r, want - s->len);
		if (s->len == had)
			sched_yield();
	}
}

static bool in_order(const uint8_t *p, size_t len, uint64_t *next)
{
	for (size_t i = 0; i + sizeof(uint64_t) <= len; i += sizeof(uint64_t))
		if (memcmp(p + i, &(uint64_t){(*next)++}, sizeof(uint64_t)))
			return false;
	return len % sizeof(uint64_t) == 0;
}

static bool rest_in_order(int r, uint64_t *next)
{
	static uint8_t buf[65536];
	size_t left = 0;
	ssize_t n;

	while ((n = read(r, buf + left, sizeof(buf) - left)) > 0) {
		size_t all = left + (size_t)n, whole = all / sizeof(uint64_t) * sizeof(uint64_t);

		if (!in_order(buf, whole, next))
			return false;
		left = all - whole;
		memmove(buf, buf + whole, left);
	}
	return n == 0 && !left;
}

/* What stack_front() said. */
static int round_run(struct writer *w, size_t taken)
{
	struct stack s = {0};
	uint64_t next = 0;
	int p[2], r, end, err;
	void *bad;

	CU_ASSERT_EQUAL_FATAL(pipe2(p, O_CLOEXEC), 0);
	r = again(p[0], O_RDONLY);
	end = again(p[1], O_WRONLY);
	w->fd = p[1];
	if (w->size)
		CU_ASSERT_EQUAL(fcntl(end, F_SETPIPE_SZ, w->size), w->size);
	CU_ASSERT_EQUAL_FATAL(pthread_create(&w->thread, NULL, writer_main, w), 0);
	take(&s, r, taken);
	err = stack_front(&s, r, end);
	if (err)
		CU_ASSERT(in_order(s.p, s.len, &next));
	close(end);
	CU_ASSERT(rest_in_order(p[0], &next));
	CU_ASSERT_EQUAL(next, NUMBERS);
	pthread_join(w->thread, &bad);
	CU_ASSERT_PTR_NULL(bad);
	close(p[0]);
	close(r);
	free(s.p);
	return err;
}

static int rounds(struct writer w, size_t taken, int n)
{
	int well = 0;

	for (int i = 0; i < n; i++)
		well += round_run(&w, taken + (size_t)i * 97) == 0;
	return well;
}

static void test_small(void)
{
	CU_ASSERT(rounds((struct writer){.most = 64}, 16000, 30) > 15);
}

static void test_large(void)
{
	CU_ASSERT(rounds((struct writer){.most = WRITE_MAX}, 10000, 30) > 15);
}

static void test_little(void)
{
	CU_ASSERT(rounds((struct writer){.most = 8192}, 1, 20) > 10);
}

/* A writer who runs whenever there is room, and writes for as long as there is: it is always quicker. */
static void test_always_late(void)
{
	bind_to(0);
	rounds((struct writer){.most = 512, .first = true}, 16000, 10);
}

/* It is always quicker, but takes a breath now and then: what it writes in between is put in its place. */
static void test_slips(void)
{
	bind_to(0);
	CU_ASSERT(rounds((struct writer){.most = 2048, .pause = 20, .first = true}, 16000, 10) > 0);
}

/* The pipe is as large as we may make one, as it is when a reader that is slow moves time and again: there is no larger one to put the bytes into. */
static void test_grown(void)
{
	struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct old[2], d[2];

	CU_ASSERT_EQUAL_FATAL(syscall(SYS_capget, &h, old), 0);
	memcpy(d, old, sizeof(d));
	d[0].effective &= ~(1u << CAP_SYS_RESOURCE);
	CU_ASSERT_EQUAL_FATAL(syscall(SYS_capset, &h, d), 0);
	CU_ASSERT(rounds((struct writer){.most = 64, .pause = 50, .size = 1 << 20}, 16000, 10) > 5);
	CU_ASSERT_EQUAL(syscall(SYS_capset, &h, old), 0);
}

int main(void)
{
	CU_pSuite s;

	CU_initialize_registry();
	s = CU_add_suite("pipe_place", NULL, NULL);
	CU_add_test(s, "small writes", test_small);
	CU_add_test(s, "large writes", test_large);
	CU_add_test(s, "little to put back", test_little);
	CU_add_test(s, "a pipe that cannot be larger", test_grown);
	CU_add_test(s, "a writer that is always quicker", test_always_late);
	CU_add_test(s, "one that is quicker by a little", test_slips);
	CU_basic_run_tests();
	return CU_get_number_of_failures() || CU_get_number_of_tests_run() != 6;
}
