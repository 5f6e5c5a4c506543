// SPDX-License-Identifier: Apache-2.0
/* How long the master's policy takes per question as the number of hosts grows: ask one slot, release an older one, now and then a host changes. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "migd/select.h"

#define HELD 256 /* slots out at a time */
#define ROUNDS 200000

static void ignore(void *ctx, const struct select_grant *g)
{
	(void)ctx;
	(void)g;
}

static double now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static void host_put(struct select *s, unsigned i)
{
	char name[24];
	struct select_host h = {.name = name, .arch = "x86_64", .features = i % 3 ? "avx2" : "avx2 avx512f", .offers = i % 4 != 3,
		.idle_since = (uint64_t)random(), .slots = 1 + i % 8};

	snprintf(name, sizeof name, "ws%u", i);
	select_host_set(s, &h);
}

static void run(unsigned hosts)
{
	static double took[ROUNDS];
	const struct select_hooks hooks = {NULL, ignore, ignore, ignore};
	struct select *s = select_new(&hooks);
	uint64_t held[HELD] = {0};
	double start, total = 0;

	for (unsigned i = 0; i < hosts; i++)
		host_put(s, i);
	for (unsigned i = 0; i < ROUNDS; i++) {
		struct select_ask a = {.client = i % 50 + 1, .uid = 1000 + i % 20, .priority = SELECT_NORMAL, .arch = "x86_64", .features = i % 2 ? "avx2" : "avx2 avx512f", .want = 1};
		struct select_grant g;

		start = now_us();
		if (held[i % HELD])
			select_release(s, held[i % HELD]);
		held[i % HELD] = select_ask(s, &a, &g) == 1 ? g.id : 0;
		took[i] = now_us() - start;
		total += took[i];
		if (i % 10 == 0)
			host_put(s, (unsigned)random() % hosts);
	}
	qsort(took, ROUNDS, sizeof *took, by_value);
	printf("%7u hosts: p50 %6.2f us  p99 %6.2f us  max %8.2f us; 1000 requests/s cost %.3f %% of a CPU\n", hosts, took[ROUNDS / 2],
		took[ROUNDS * 99 / 100], took[ROUNDS - 1], total / ROUNDS * 1000 / 1e6 * 100);
	select_free(s);
}

int main(void)
{
	for (unsigned hosts = 100; hosts <= 100000; hosts *= 10)
		run(hosts);
	return 0;
}
