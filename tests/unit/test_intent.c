// SPDX-License-Identifier: Apache-2.0
/* The log of intents: what one run wrote the next one finds, once; a torn end costs only the torn record; two runs in a row; the file does not grow for ever. */
#include <CUnit/Basic.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "fs/server/intent.h"

static char dir[] = "/tmp/sprite-intent-XXXXXX";

static char *path(const char *name)
{
	static char p[256];

	snprintf(p, sizeof(p), "%s/%s", dir, name);
	return p;
}

static void put(struct intents *t, const char *peer, uint64_t seq)
{
	struct intent in = {.method = 7, .dev = 1, .ino = seq * 3, .extra = seq * 5};

	intents_put(t, peer, 11, seq, &in);
}

static bool take(struct intents *t, const char *peer, uint64_t seq)
{
	struct intent got;
	bool r = intents_take(t, peer, 11, seq, 7, &got);

	if (r)
		CU_ASSERT(got.method == 7 && got.dev == 1 && got.ino == seq * 3 && got.extra == seq * 5);
	return r;
}

static void clean(void)
{
	unlink(path("intents"));
	unlink(path("intents.old"));
}

static void test_next_run_finds_it_once(void)
{
	struct intents *t = intents_open(dir);
	struct intent got;

	CU_ASSERT_PTR_NOT_NULL_FATAL(t);
	put(t, "ws1", 1);
	put(t, "ws2", 1);
	CU_ASSERT_FALSE(take(t, "ws1", 1)); /* its own run answers from the reply cache */
	intents_close(t);
	t = intents_open(dir);
	CU_ASSERT_EQUAL(intents_left(t), 2);
	CU_ASSERT_FALSE(take(t, "ws3", 1));
	CU_ASSERT_FALSE(take(t, "ws1", 2));
	CU_ASSERT_FALSE(intents_take(t, "ws1", 12, 1, 7, &got)); /* another epoch */
	CU_ASSERT_FALSE(intents_take(t, "ws1", 11, 1, 8, &got)); /* another method */
	CU_ASSERT_TRUE(take(t, "ws1", 1));
	CU_ASSERT_FALSE(take(t, "ws1", 1));
	CU_ASSERT_TRUE(take(t, "ws2", 1));
	intents_close(t);
	clean();
}

static void test_torn_end(void)
{
	struct stat st;

	for (int cut = 1; cut < 55; cut++) {
		struct intents *t = intents_open(dir);

		put(t, "ws1", 1);
		put(t, "ws1", 2);
		intents_close(t);
		CU_ASSERT_EQUAL(stat(path("intents"), &st), 0);
		CU_ASSERT_EQUAL(truncate(path("intents"), st.st_size - cut), 0);
		t = intents_open(dir);
		CU_ASSERT_TRUE(take(t, "ws1", 1));
		CU_ASSERT_FALSE(take(t, "ws1", 2));
		intents_close(t);
		clean();
	}
}

static void test_killed_twice(void)
{
	struct intents *t = intents_open(dir);

	put(t, "ws1", 1);
	intents_close(t);
	intents_close(intents_open(dir)); /* dies before the client has come back */
	t = intents_open(dir);
	CU_ASSERT_TRUE(take(t, "ws1", 1));
	intents_close(t);
	clean();
}

/* What a part of a batch was answered takes the place of its intent, and carries the handle of what was made. */
static void test_done(void)
{
	struct intent in = {.method = 7 | INTENT_DONE, .extra = 28, .handle_len = 33}, got;
	struct intents *t = intents_open(dir);

	CU_ASSERT_PTR_NOT_NULL_FATAL(t);
	memset(in.handle, 'h', 33);
	put(t, "ws1", 1);
	intents_put(t, "ws1", 11, 1, &in);
	put(t, "ws1", 2); /* plain records and those with a handle follow each other */
	intents_close(t);
	t = intents_open(dir);
	CU_ASSERT_PTR_NOT_NULL_FATAL(t);
	CU_ASSERT_FALSE(take(t, "ws1", 1));
	CU_ASSERT_TRUE_FATAL(intents_take(t, "ws1", 11, 1, 7 | INTENT_DONE, &got));
	CU_ASSERT(got.extra == 28 && got.handle_len == 33 && !memcmp(got.handle, in.handle, 33));
	CU_ASSERT_TRUE(take(t, "ws1", 2));
	intents_close(t);
	clean();
}

static void test_bounded(void)
{
	struct intents *t = intents_open(dir);
	struct stat st;
	uint64_t n = 400000;

	for (uint64_t i = 1; i <= n; i++)
		put(t, "ws1", i);
	intents_close(t);
	CU_ASSERT_EQUAL(stat(path("intents"), &st), 0);
	CU_ASSERT_TRUE(st.st_size <= INTENT_FILE_MAX + 4096);
	CU_ASSERT_EQUAL(stat(path("intents.old"), &st), 0);
	CU_ASSERT_TRUE(st.st_size <= INTENT_FILE_MAX + 4096);
	t = intents_open(dir);
	CU_ASSERT_TRUE(take(t, "ws1", n)); /* the latest are there */
	CU_ASSERT_TRUE(take(t, "ws1", n - 100000));
	intents_close(t);
	clean();
}

int main(void)
{
	CU_pSuite s;
	unsigned failed;

	if (!mkdtemp(dir))
		return EXIT_FAILURE;
	CU_initialize_registry();
	s = CU_add_suite("intent", NULL, NULL);
	CU_add_test(s, "the next run finds it, once", test_next_run_finds_it_once);
	CU_add_test(s, "a torn end", test_torn_end);
	CU_add_test(s, "killed twice", test_killed_twice);
	CU_add_test(s, "what was done, with a handle", test_done);
	CU_add_test(s, "the log is bounded", test_bounded);
	CU_basic_run_tests();
	failed = CU_get_number_of_failures();
	CU_cleanup_registry();
	rmdir(dir);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
