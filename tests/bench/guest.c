// SPDX-License-Identifier: Apache-2.0
/*
 * The programs that tests/bench/move_bench.sh moves and measures.
 *
 *   guest hold MIB [THREADS [sparse]]   has so much memory in use (sparse: reserved, one page in 4096 in use) and so many threads, and sleeps
 *   guest write MIB PERCENT             has so much memory in use, and writes to so much of it, page after page, in each second
 *   guest compute|gettimeofday|getpid|fork N      N rounds; prints wall and CPU time of one in nanoseconds
 *   guest allowed N      as getpid, under a seccomp filter that allows all and is never run (the kernel notes what it would say): what any filter costs
 */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void *sleeper(void *arg)
{
	for (;;)
		pause();
	return arg;
}

/* A hundredth of it each ten milliseconds; one page of each eight, so that what is written lies scattered. */
static int writes(size_t mib, unsigned percent)
{
	size_t pages = (mib << 20) / 4096, at = 0;
	volatile unsigned char *p = mmap(NULL, mib << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct timespec next;

	if (p == MAP_FAILED)
		return 1;
	for (size_t i = 0; i < pages * 4096; i += 64)
		p[i] = (unsigned char)(i * 2654435761u >> 13);
	puts("ready");
	fflush(stdout);
	clock_gettime(CLOCK_MONOTONIC, &next);
	for (;;) {
		for (size_t k = 0; k < pages * percent / 10000; k++, at = at + 8 < pages ? at + 8 : (at + 1) % 8)
			p[at * 4096]++;
		next.tv_nsec += 10000000;
		next.tv_sec += next.tv_nsec / 1000000000;
		next.tv_nsec %= 1000000000;
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
	}
}

static int hold(size_t mib, int threads, int sparse)
{
	size_t size = mib << 20, step = sparse ? 4096 * 4096 : 4096;
	unsigned char *p = mmap(NULL, size ? size : 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint64_t x = 88172645463325252ull;
	pthread_t t;

	if (p == MAP_FAILED)
		return 1;
	for (size_t i = 0; i < size; i += step)
		for (size_t k = 0; k < 4096; k += 8) { /* nothing that compresses */
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			memcpy(p + i + k, &x, 8);
		}
	while (--threads > 0)
		if (pthread_create(&t, NULL, sleeper, NULL))
			return 1;
	puts("ready");
	fflush(stdout);
	sleeper(NULL);
	return 0;
}

static double now(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static double cpu(void)
{
	struct rusage a, b;

	getrusage(RUSAGE_SELF, &a);
	getrusage(RUSAGE_CHILDREN, &b);
	return ((double)a.ru_utime.tv_sec + (double)a.ru_stime.tv_sec + (double)b.ru_utime.tv_sec + (double)b.ru_stime.tv_sec) * 1e9 +
	       ((double)a.ru_utime.tv_usec + (double)a.ru_stime.tv_usec + (double)b.ru_utime.tv_usec + (double)b.ru_stime.tv_usec) * 1e3;
}

static uint64_t sink;

static int rounds(const char *what, long n)
{
	double wall = now(CLOCK_MONOTONIC), used = cpu();

	for (long i = 0; i < n; i++) {
		if (*what == 'c') {
			for (int k = 0; k < 1000; k++)
				sink = sink * 6364136223846793005ull + (uint64_t)k;
		} else if (!strcmp(what, "gettimeofday")) {
			struct timeval tv;

			gettimeofday(&tv, NULL);
			sink += (uint64_t)tv.tv_usec;
		} else if (!strcmp(what, "getpid")) {
			sink += (uint64_t)syscall(SYS_getpid);
		} else {
			pid_t pid = fork();

			if (pid == 0)
				_exit(0);
			if (pid < 0 || waitpid(pid, NULL, 0) != pid)
				return 1;
		}
	}
	printf("%.1f %.1f\n", (now(CLOCK_MONOTONIC) - wall) / (double)n, (cpu() - used) / (double)n);
	return sink == 1;
}

int main(int argc, char **argv)
{
	if (argc >= 3 && !strcmp(argv[1], "hold"))
		return hold(strtoul(argv[2], NULL, 10), argc > 3 ? atoi(argv[3]) : 1, argc > 4);
	if (argc == 4 && !strcmp(argv[1], "write"))
		return writes(strtoul(argv[2], NULL, 10), (unsigned)atoi(argv[3]));
	if (argc == 3 && !strcmp(argv[1], "allowed")) {
		struct sock_filter all = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
		struct sock_fprog prog = {1, &all};

		if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog))
			return 1;
		return rounds("getpid", atol(argv[2]));
	}
	if (argc == 3)
		return rounds(argv[1], atol(argv[2]));
	fprintf(stderr, "usage: guest hold MIB [THREADS [sparse]] | guest write MIB PERCENT | guest compute|gettimeofday|getpid|allowed|fork N\n");
	return 64;
}
