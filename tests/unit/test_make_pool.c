// SPDX-License-Identifier: Apache-2.0
/* mig make's choice between here and there: words, learning, slots taken once and given back. */
#include <CUnit/Basic.h>
#include <stdlib.h>
#include <string.h>
#include "migd/cli/command.h"
#include "migd/cli/make_pool.h"

#define MS 1000000ull

static void test_words(void)
{
	static const char *const t[][2] = {{"gcc -c a.c", "gcc"}, {"  /usr/bin/gcc -c a.c", "gcc"}, {"CC=x LD='y' ld -o a", "ld"}, {"(cd x; make)", "cd"},
		{"@echo hi", "echo"}, {"", ""}, {"./a=b c", "a=b"}, {"! test -f x", "test"}, {"a;b", "a"}};
	char w[64];

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		command_word(t[i][0], w, sizeof(w));
		CU_ASSERT_STRING_EQUAL(w, t[i][1]);
	}
	command_word("averyverylongname", w, 5);
	CU_ASSERT_STRING_EQUAL(w, "aver");
}

/* The words, with | between them; "-" when a shell is needed. */
static void splits(const char *command, const char *words)
{
	char buf[64], out[80] = "-", *argv[6], *to = out;
	int n = command_split(command, buf, sizeof(buf), argv, 6);

	for (int i = 0; i < n; i++)
		to += sprintf(to, "%s%s", i ? "|" : "", argv[i]);
	CU_ASSERT_STRING_EQUAL(out, words);
	CU_ASSERT_TRUE(!n || !argv[n]);
}

static void test_split(void)
{
	splits("gcc -O2 -c  a.c\t", "gcc|-O2|-c|a.c");
	splits("  gcc -DX='\"a b\"' \"it's\" ''", "gcc|-DX=\"a b\"|it's|");
	splits("echo a'$b'c", "echo|a$bc");
	static const char *const shell[] = {"", "cd x", "a; b", "a>b", "a $b", "a `b`", "\"$a\"", "a *.c", "X=1 a", "a \\b", "'a", "\"a", "a\nb", "~/a", "a # b", "! a", "time a", "{ a", "'' a",
		"a 'b\\n'", "1 2 3 4 5 6", "a 12345678901234567890123456789012345678901234567890123456789012345"};

	for (size_t i = 0; i < ARRAY_SIZE(shell); i++)
		splits(shell[i], "-");
}

static void test_tiny(void)
{
	CU_ASSERT_TRUE(command_tiny("@echo hi"));
	CU_ASSERT_TRUE(command_tiny("test -f \"x\""));
	CU_ASSERT_FALSE(command_tiny("echo hi; gcc x.c"));
	CU_ASSERT_FALSE(command_tiny("echo $(gcc --version)"));
	CU_ASSERT_FALSE(command_tiny("gcc x.c"));
}

static void test_slots(void)
{
	struct pool p;
	struct pool_slot *a, *b;

	pool_init(&p);
	CU_ASSERT_PTR_NULL(pool_start(&p, "gcc -c 1.c", 10));
	CU_ASSERT_EQUAL(p.local_used, 1);
	pool_grant(&p, 1, "ws2");
	pool_grant(&p, 2, "ws3");
	a = pool_start(&p, "gcc -c 2.c", 11);
	b = pool_start(&p, "gcc -c 3.c", 12);
	CU_ASSERT_TRUE(a && b && a != b);
	CU_ASSERT_PTR_NULL(pool_start(&p, "gcc -c 4.c", 13));
	CU_ASSERT_PTR_EQUAL(pool_end(&p, "gcc -c 2.c", 11, 5000 * MS), a);
	CU_ASSERT_PTR_EQUAL(pool_start(&p, "gcc -c 5.c", 14), a);
	CU_ASSERT_PTR_NULL(pool_end(&p, "gcc -c 1.c", 10, 5000 * MS));
	CU_ASSERT_EQUAL(p.local_used, 1);
	b->reclaimed = true;
	CU_ASSERT_PTR_EQUAL(pool_end(&p, "gcc -c 3.c", 12, 5000 * MS), b);
	CU_ASSERT_PTR_NULL(pool_start(&p, "gcc -c 6.c", 15)); /* asked back: nobody gets it */
	pool_lose(&p, b);
	CU_ASSERT_EQUAL(p.remote, 1);
	pool_clear(&p);
}

static void test_learns_what_is_small(void)
{
	struct pool p;

	pool_init(&p);
	pool_grant(&p, 1, "ws2");
	CU_ASSERT_PTR_NULL(pool_start(&p, "echo hi", 1)); /* known beforehand */
	pool_end(&p, "echo hi", 1, 1 * MS);
	CU_ASSERT_PTR_NOT_NULL(pool_start(&p, "gen x", 2)); /* unknown: tried */
	pool_end(&p, "gen x", 2, 3 * MS);
	CU_ASSERT_PTR_NULL(pool_start(&p, "gen y", 3)); /* learnt */
	for (int i = 0; i < 10; i++)
		pool_end(&p, "gen y", 3, 9000 * MS);
	CU_ASSERT_PTR_NOT_NULL(pool_start(&p, "gen z", 4)); /* learnt otherwise */
	pool_clear(&p);
}

int main(void)
{
	CU_initialize_registry();
	CU_pSuite s = CU_add_suite("make_pool", NULL, NULL);

	CU_add_test(s, "the first word of a recipe", test_words);
	CU_add_test(s, "a recipe without its shell", test_split);
	CU_add_test(s, "what a shell does by itself", test_tiny);
	CU_add_test(s, "slots", test_slots);
	CU_add_test(s, "learns what is small", test_learns_what_is_small);
	CU_basic_run_tests();
	int failed = CU_get_number_of_failures();

	CU_cleanup_registry();
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
