// SPDX-License-Identifier: Apache-2.0
/*
 * keep.c: records that survive a kill -9 at any instruction. A worker (this program again) changes records at random and is killed at a random moment; the next
 * one checks what it finds against what the last had said it would do and had done, in a page that both share, and goes on.
 */
#include <CUnit/Basic.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <unistd.h>
#include "fs/client/keep.h"

#define KEYS   200
#define ROUNDS 60

/* What is to be found under a key: `done`, or `next` when that is another; 0: nothing. Each version has its own length and contents. */
struct said {
	_Atomic uint64_t done, next;
};
struct page {
	_Atomic uint64_t versions, bad, ops, checked;
	struct said key[KEYS];
};

static uint64_t rnd_state;
static uint64_t rnd(void)
{
	rnd_state ^= rnd_state << 13;
	rnd_state ^= rnd_state >> 7;
	return rnd_state ^= rnd_state << 17;
}

static size_t length(uint64_t version)
{
	static const size_t of[] = {8, 40, 100, 200, 500, 3000, 16000, 16384, 70000, 300000, 1100000};

	return of[version * 0x9e3779b97f4a7c15ull % (sizeof(of) / sizeof(of[0]))];
}

static void contents(uint8_t *to, size_t n, uint64_t version)
{
	for (size_t i = 0; i + 8 <= n; i += 8)
		memcpy(to + i, &(uint64_t){version * 31 + i}, 8);
}

/* ---- worker */

static struct page *page;
static struct keep *have[KEYS];

static void found(void *arg, struct keep *k)
{
	uint64_t version = 0, want = k->key < KEYS ? atomic_load(&page->key[k->key].done) : 0, next = k->key < KEYS ? atomic_load(&page->key[k->key].next) : 0;
	uint8_t *expect;

	(void)arg;
	memcpy(&version, k->data, 8);
	version /= 31;
	if (k->key >= KEYS || have[k->key] || !version || (version != want && version != next) || k->len != length(version)) {
		atomic_fetch_add(&page->bad, 1);
		return;
	}
	expect = calloc(1, k->len);
	contents(expect, k->len, version);
	if (memcmp(expect, k->data, k->len / 8 * 8) != 0)
		atomic_fetch_add(&page->bad, 1);
	free(expect);
	have[k->key] = k;
	atomic_store(&page->key[k->key].done, version);
	atomic_fetch_add(&page->checked, 1);
}

static void check_all(void)
{
	keep_each(KEEP_OP, found, NULL);
	for (int i = 0; i < KEYS; i++) {
		struct said *s = &page->key[i];

		if (!have[i] && atomic_load(&s->done) && atomic_load(&s->next)) /* it was there, and was not to go */
			atomic_fetch_add(&page->bad, 1);
		if (!have[i])
			atomic_store(&s->done, 0);
		atomic_store(&s->next, atomic_load(&s->done));
	}
}

static void change(void)
{
	uint64_t key = rnd() % KEYS, version;
	struct said *s = &page->key[key];
	struct keep *k;

	if (have[key] && rnd() % 4 == 0) {
		atomic_store(&s->next, 0);
		keep_free(have[key]);
		have[key] = NULL;
		atomic_store(&s->done, 0);
		return;
	}
	version = atomic_fetch_add(&page->versions, 1) + 1;
	k = keep_new(length(version));
	if (!k)
		return;
	contents(k->data, k->len, version);
	atomic_store(&s->next, version);
	keep_commit(k, KEEP_OP, key);
	keep_free(have[key]);
	have[key] = k;
	atomic_store(&s->done, version);
}

static int worker(int fd, int page_fd)
{
	page = mmap(NULL, sizeof(*page), PROT_READ | PROT_WRITE, MAP_SHARED, page_fd, 0);
	if (page == MAP_FAILED || getrandom(&rnd_state, sizeof(rnd_state), 0) != sizeof(rnd_state) || keep_open(fd) < 0)
		return 1;
	rnd_state |= 1;
	check_all();
	for (;;) {
		change();
		atomic_fetch_add(&page->ops, 1);
	}
}

/* ---- the test */

static void test_killed(void)
{
	int fd, page_fd = memfd_create("page", 0), status;
	char a[16], b[16];
	uint64_t ops;
	struct page *p;

	CU_ASSERT_EQUAL_FATAL(ftruncate(page_fd, sizeof(*p)), 0);
	p = mmap(NULL, sizeof(*p), PROT_READ | PROT_WRITE, MAP_SHARED, page_fd, 0);
	CU_ASSERT_PTR_NOT_EQUAL_FATAL(p, MAP_FAILED);
	CU_ASSERT_EQUAL_FATAL(keep_open(-1), 0);
	fd = dup(keep_fd()); /* without close-on-exec */
	snprintf(a, sizeof(a), "%d", fd);
	snprintf(b, sizeof(b), "%d", page_fd);
	for (int i = 0; i < ROUNDS; i++) {
		pid_t pid;

		ops = atomic_load(&p->ops);
		pid = fork();
		if (pid == 0) {
			execl("/proc/self/exe", "test_keep", "worker", a, b, NULL);
			_exit(1);
		}
		while (atomic_load(&p->ops) < ops + (uint64_t)(i % 7) * 10 + 1 && waitpid(pid, &status, WNOHANG) == 0) /* it has begun */
			usleep(100);
		usleep((useconds_t)(i * 37 % 2000));
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		CU_ASSERT(WIFSIGNALED(status));
		CU_ASSERT_EQUAL(atomic_load(&p->bad), 0);
	}
	CU_ASSERT(atomic_load(&p->checked) > ROUNDS);
}

static void test_foreign(void)
{
	int fd = memfd_create("other", 0);

	CU_ASSERT_EQUAL(ftruncate(fd, 1 << 20), 0);
	CU_ASSERT_EQUAL(pwrite(fd, "something else", 14, 0), 14);
	CU_ASSERT_EQUAL(keep_open(fd), -EPROTO);
}

int main(int argc, char **argv)
{
	CU_pSuite s;
	unsigned failed;

	if (argc == 4 && !strcmp(argv[1], "worker"))
		return worker(atoi(argv[2]), atoi(argv[3]));
	CU_initialize_registry();
	s = CU_add_suite("keep", NULL, NULL);
	CU_add_test(s, "killed at random moments", test_killed);
	CU_add_test(s, "a file that is not ours", test_foreign);
	CU_basic_run_tests();
	failed = CU_get_number_of_failures();
	CU_cleanup_registry();
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
