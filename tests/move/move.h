/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the surviving programs have in common. Each one sets one kind of state up, prints READY, goes on checking it while
 * somebody moves it about, and at SIGTERM, or after the seconds of its first argument, says PASS (status 0) or what differs (1).
 *
 *   PROGRAM [SECONDS [DIR]]      SECONDS 0 (default): until SIGTERM. DIR: where its files go, default $TMPDIR or /tmp
 *
 * Exit status 77: this machine cannot give the state at all (skipped). Nothing of Sprite is used here: an unmodified program is the point.
 */
#ifndef MOVE_MOVE_H
#define MOVE_MOVE_H
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t move_told; /* SIGTERM came */
static uint64_t move_until;
static const char *move_dir;

static inline uint64_t now_ns(clockid_t c)
{
	struct timespec t;
	clock_gettime(c, &t);
	return (uint64_t)t.tv_sec * 1000000000u + t.tv_nsec;
}

/* Says what differs and ends the whole program, from any thread. */
static inline void __attribute__((format(printf, 1, 2), noreturn)) fail(const char *fmt, ...)
{
	char line[600];
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(line, sizeof line - 1, fmt, ap);
	va_end(ap);
	if (n > (int)sizeof line - 2)
		n = sizeof line - 2;
	line[n] = '\n';
	if (write(1, "FAIL: ", 6) < 0 || write(1, line, n + 1) < 0)
		_exit(2);
	_exit(1);
}
#define CHECK(cond, ...)                                                                                     \
	do {                                                                                                 \
		if (!(cond))                                                                                 \
			fail(__VA_ARGS__);                                                                   \
	} while (0)
/* For calls that set errno. */
#define SYS(call)                                                                                            \
	({                                                                                                   \
		long r_ = (long)(call);                                                                      \
		if (r_ == -1)                                                                                \
			fail("%s:%d: %s: %s", __FILE__, __LINE__, #call, strerror(errno));                   \
		r_;                                                                                          \
	})

static inline void __attribute__((noreturn)) skip(const char *why)
{
	printf("SKIP: %s\n", why);
	exit(77);
}

static inline void move_on_term(int sig)
{
	(void)sig;
	move_told = 1;
}

static inline void move_begin(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	double s = argc > 1 ? atof(argv[1]) : 0;
	move_dir = argc > 2 ? argv[2] : getenv("TMPDIR");
	if (!move_dir)
		move_dir = "/tmp";
	move_until = s > 0 ? now_ns(CLOCK_MONOTONIC) + (uint64_t)(s * 1e9) : 0;
	struct sigaction sa = {.sa_handler = move_on_term, .sa_flags = SA_RESTART};
	sigaction(SIGTERM, &sa, NULL);
}

static inline void move_ready(void)
{
	if (write(1, "READY\n", 6) < 0)
		_exit(2);
}

static inline bool move_more(void)
{
	return !move_told && (!move_until || now_ns(CLOCK_MONOTONIC) < move_until);
}

static inline int __attribute__((unused)) move_pass(void)
{
	if (write(1, "PASS\n", 5) < 0)
		return 2;
	return 0;
}

/* "DIR/move.PID.NAME", in one of a few rotating buffers. */
static inline char *move_path(const char *name)
{
	static char buf[8][512];
	static int next;
	char *b = buf[next++ & 7];
	snprintf(b, sizeof buf[0], "%s/move.%d.%s", move_dir, (int)getpid(), name);
	return b;
}

/* Sleeps a little without leaning on any timer of the test. */
static inline void move_nap(unsigned us)
{
	struct timespec t = {us / 1000000, us % 1000000 * 1000};
	while (nanosleep(&t, &t) < 0 && errno == EINTR)
		;
}

/* xorshift; never 0. */
static inline uint64_t move_rand(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

#endif
