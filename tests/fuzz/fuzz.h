/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A fuzz target in one header: fuzz_main() mutates seeds by a deterministic generator and feeds a decoder for as many seconds as argv[1] says
 * (default 60), and until it has had a third of them on a CPU: `make check` runs it when nobody else wants one. It must not crash, hang or trip a
 * sanitizer. A run prints its seed first; FUZZ_SEED=N repeats it. What was fed last is kept in memory and written to ./crash-NAME when a signal
 * or a sanitizer ends the run; `TARGET FILE` (a path instead of seconds) feeds it again.
 *
 *	static void one(const uint8_t *data, size_t len) { ...decode... }
 *	static const struct fuzz_seed seeds[] = {{"{\"name\":\"x\"}", 12}};
 *	int main(int argc, char **argv)
 *	{
 *		return fuzz_main(argc, argv, "conf", seeds, ARRAY_SIZE(seeds), words, one);
 *	}
 */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
#include "conf/cleanup.h"

#define FUZZ_MAX (1u << 16) /* bytes of an input */

struct fuzz_seed {
	const void *data;
	size_t len;
};

static struct {
	uint64_t state;
	const char *name;
	const uint8_t *last;
	size_t last_len;
	size_t runs, seen[2]; /* inputs so far, and how many there were when a watch last looked */
} fuzz;

static inline uint64_t fuzz_rnd(void) /* xorshift64* */
{
	fuzz.state ^= fuzz.state >> 12;
	fuzz.state ^= fuzz.state << 25;
	fuzz.state ^= fuzz.state >> 27;
	return fuzz.state * 2685821657736338717ull;
}

static inline size_t fuzz_below(size_t n)
{
	return n ? (size_t)(fuzz_rnd() % n) : 0;
}

static void fuzz_keep(void)
{
	char path[80];
	int fd;

	snprintf(path, sizeof(path), "crash-%s", fuzz.name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	if (fd < 0)
		return;
	if (write(fd, fuzz.last, fuzz.last_len) >= 0)
		fprintf(stderr, "\nfuzz %s: the input is in %s\n", fuzz.name, path);
	close(fd);
}

/* Two watches, by CPU time (it computes for ever) and by the clock (it waits for ever): has the same input been there the last time they looked? */
enum { FUZZ_CPU_SECONDS = 20, FUZZ_WAIT_SECONDS = 300 };

static void fuzz_signal(int sig)
{
	bool watch = sig == SIGPROF || sig == SIGALRM;

	if (watch) {
		size_t *seen = &fuzz.seen[sig == SIGALRM];

		if (*seen != fuzz.runs) {
			*seen = fuzz.runs;
			return;
		}
		fprintf(stderr, "\nfuzz %s: hangs: %d s %s with one input\n", fuzz.name, sig == SIGPROF ? FUZZ_CPU_SECONDS : FUZZ_WAIT_SECONDS,
			sig == SIGPROF ? "of CPU time" : "by the clock");
	}
	fuzz_keep();
	signal(watch ? SIGABRT : sig, SIG_DFL);
	raise(watch ? SIGABRT : sig);
}

static inline void fuzz_watch(void)
{
	static const int fatal[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
	const struct sigaction sa = {.sa_handler = fuzz_signal, .sa_flags = SA_RESTART};
	struct itimerval cpu = {{FUZZ_CPU_SECONDS, 0}, {FUZZ_CPU_SECONDS, 0}}, wait = {{FUZZ_WAIT_SECONDS, 0}, {FUZZ_WAIT_SECONDS, 0}};

	for (size_t i = 0; i < ARRAY_SIZE(fatal); i++)
		signal(fatal[i], fuzz_signal);
	sigaction(SIGPROF, &sa, NULL);
	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_PROF, &cpu, NULL);
	setitimer(ITIMER_REAL, &wait, NULL);
}

/* A directory for the target's files: in $TMPDIR, which is the runner's. */
static inline bool fuzz_dir(char *dir, size_t size)
{
	const char *tmp = getenv("TMPDIR");

	return snprintf(dir, size, "%s/sprite-fuzz-XXXXXX", tmp ? tmp : "/tmp") < (int)size && mkdtemp(dir);
}

/* The sanitizers, when they are there, call this before they end the process. */
__attribute__((weak)) void __sanitizer_set_death_callback(void (*fn)(void));

/* Changes buf[0..len) in place by one of many ways; returns the new length. */
static inline size_t fuzz_mutate(uint8_t *buf, size_t len, const char *const *words, size_t nwords)
{
	static const uint8_t edge[] = {0, 1, 0x7f, 0x80, 0xff, '"', '\\', '{', '[', '\n'};
	static const uint64_t numbers[] = {0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fffffff, 0x80000000u, 0xffffffffu, ~0ull, 1ull << 63};
	size_t at = fuzz_below(len + 1), n = 1 + fuzz_below(16), from;
	uint64_t v;

	switch (fuzz_below(9)) {
	case 0: /* a bit */
		if (len)
			buf[fuzz_below(len)] ^= (uint8_t)(1u << fuzz_below(8));
		return len;
	case 1: /* a byte */
		if (len)
			buf[fuzz_below(len)] = fuzz_below(2) ? edge[fuzz_below(sizeof(edge))] : (uint8_t)fuzz_rnd();
		return len;
	case 2: /* cut the end */
		return at;
	case 3: /* take a piece out */
		if (at + n > len)
			return at;
		memmove(buf + at, buf + at + n, len - at - n);
		return len - n;
	case 4: /* put random bytes in */
		if (len + n > FUZZ_MAX)
			return len;
		memmove(buf + at + n, buf + at, len - at);
		for (size_t i = 0; i < n; i++)
			buf[at + i] = (uint8_t)fuzz_rnd();
		return len + n;
	case 5: /* double a piece */
		n = fuzz_below(2) ? fuzz_below(len + 1) : n;
		from = fuzz_below(len + 1);
		if (from + n > len || len + n > FUZZ_MAX)
			return len;
		memmove(buf + from + n, buf + from, len - from);
		return len + n;
	case 6: /* a number of 1 to 8 bytes, either end first */
		v = numbers[fuzz_below(ARRAY_SIZE(numbers))];
		n = (size_t)1 << fuzz_below(4);
		if (fuzz_below(2))
			v = n == 1 ? v : n == 2 ? __builtin_bswap16((uint16_t)v) : n == 4 ? __builtin_bswap32((uint32_t)v) : __builtin_bswap64(v);
		if (at + n <= len)
			memcpy(buf + at, &v, n);
		return len;
	default: /* a word the decoder knows */
		if (!nwords)
			return len;
		words += fuzz_below(nwords);
		n = strlen(*words);
		if (len + n > FUZZ_MAX)
			return len;
		if (fuzz_below(2) && at + n <= len) { /* over what is there */
			memcpy(buf + at, *words, n);
			return len;
		}
		memmove(buf + at + n, buf + at, len - at);
		memcpy(buf + at, *words, n);
		return len + n;
	}
}

static inline int fuzz_file(const char *path, void (*one)(const uint8_t *data, size_t len))
{
	static uint8_t buf[FUZZ_MAX];
	FILE *f = fopen(path, "rb");
	uint8_t *copy;
	size_t n;

	if (!f) {
		perror(path);
		return 2;
	}
	n = fread(buf, 1, sizeof(buf), f);
	fclose(f);
	copy = malloc(n ? n : 1);
	if (!copy)
		abort();
	memcpy(copy, buf, n);
	one(copy, n);
	free(copy);
	printf("fuzz: %s: %zu bytes, survived\n", path, n);
	return 0;
}

/* `words` (NULL-terminated, may be NULL) are put in now and then. The copy given to `one` is exactly as long as said, for the address sanitizer. */
static inline int fuzz_main(int argc, char **argv, const char *name, const struct fuzz_seed *seeds, size_t nseeds, const char *const *words,
	void (*one)(const uint8_t *data, size_t len))
{
	static uint8_t buf[FUZZ_MAX];
	long seconds = argc > 1 && strspn(argv[1], "0123456789") == strlen(argv[1]) ? atol(argv[1]) : argc > 1 ? -1 : 60;
	const char *given = getenv("FUZZ_SEED");
	size_t len, nwords = 0;
	uint64_t seed = 0;
	time_t end;

	fuzz.name = name;
	if (seconds < 0)
		return fuzz_file(argv[1], one);
	if (given)
		seed = strtoull(given, NULL, 0);
	else if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
		seed = (uint64_t)time(NULL);
	fuzz.state = seed ? seed : 1;
	printf("fuzz %s: FUZZ_SEED=%llu, %ld s\n", name, (unsigned long long)seed, seconds);
	fflush(stdout);
	while (words && words[nwords])
		nwords++;
	fuzz_watch();
	if (__sanitizer_set_death_callback)
		__sanitizer_set_death_callback(fuzz_keep);
	end = time(NULL) + seconds;
	for (; time(NULL) < end || clock() / CLOCKS_PER_SEC < seconds / 3 || fuzz.runs < nseeds; fuzz.runs++) {
		const struct fuzz_seed *s = &seeds[fuzz.runs % nseeds];

		len = s->len < FUZZ_MAX ? s->len : FUZZ_MAX;
		memcpy(buf, s->data, len);
		/* the seeds themselves first */
		for (size_t i = fuzz.runs < nseeds ? 0 : 1 + fuzz_below(8); i; i--)
			len = fuzz_mutate(buf, len, words, nwords);
		uint8_t *copy = malloc(len ? len : 1);
		if (!copy)
			abort();
		memcpy(copy, buf, len);
		fuzz.last = copy;
		fuzz.last_len = len;
		one(copy, len);
		free(copy);
	}
	printf("fuzz %s: %zu inputs, none did harm; %ld s of CPU time\n", name, fuzz.runs, (long)(clock() / CLOCKS_PER_SEC));
	return 0;
}

#endif
