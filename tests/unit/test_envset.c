// SPDX-License-Identifier: Apache-2.0
/* Shared environments: sets by session and user, ties, bounds, what survives a restart; thousands of random changes against a plain table. */
#include <CUnit/Basic.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "migd/envset.h"

static void test_one_set(void)
{
	struct envsets *t = envsets_new();
	struct envset *s = envset_make(t, 100, 1000);
	struct error e = {0};

	CU_ASSERT_PTR_NULL(envset_find(t, 100, 1001));
	CU_ASSERT_PTR_NULL(envset_find(t, 101, 1000));
	CU_ASSERT_PTR_EQUAL(envset_find(t, 100, 1000), s);
	CU_ASSERT_PTR_EQUAL(envset_make(t, 100, 1000), s);
	CU_ASSERT_EQUAL(envset_set(s, "A", "1", &e), 0);
	CU_ASSERT_EQUAL(envset_set(s, "A", "two words = 2", &e), 0);
	CU_ASSERT_STRING_EQUAL(envset_get(s, "A"), "two words = 2");
	CU_ASSERT_PTR_NULL(envset_get(s, "B"));
	CU_ASSERT_EQUAL(envset_unset(s, "B", &e), -ENOENT);
	CU_ASSERT_EQUAL(envset_unset(s, "A", &e), 0);
	CU_ASSERT_PTR_NULL(envset_get(s, "A"));
	CU_ASSERT_EQUAL(envset_tie(s, 200), 0);
	CU_ASSERT_PTR_EQUAL(envset_find(t, 200, 1000), s);
	CU_ASSERT_PTR_NOT_EQUAL(envset_make(t, 200, 0), s); /* root in the same session has its own */
	envsets_free(t);
}

static void test_refused(void)
{
	static const char *const bad[] = {"", "1A", "A-B", "A=B", "A B", "A/B", "..", "\xc3\xa4"};
	struct envsets *t = envsets_new();
	struct envset *s = envset_make(t, 1, 1);
	static char big[ENV_VALUE_MAX + 2], name[ENV_NAME_MAX + 2];
	struct error e = {0};
	int n = 0;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		CU_ASSERT_EQUAL(envset_set(s, bad[i], "x", &e), -EINVAL);
	memset(name, 'N', ENV_NAME_MAX + 1);
	CU_ASSERT_EQUAL(envset_set(s, name, "x", &e), -EINVAL);
	memset(big, 'v', ENV_VALUE_MAX + 1);
	CU_ASSERT_EQUAL(envset_set(s, "A", big, &e), -E2BIG);
	big[ENV_VALUE_MAX] = 0;
	for (char v[2] = "A"; v[0] <= 'Z' && !envset_set(s, v, big, &e); v[0]++)
		n++;
	CU_ASSERT_EQUAL(n, (int)(ENV_TOTAL_MAX / (ENV_VALUE_MAX + 9)));
	CU_ASSERT_EQUAL(envset_set(s, "Z", big, &e), -E2BIG);
	CU_ASSERT_EQUAL(envset_set(s, "A", "short", &e), 0); /* in place of a long one */
	CU_ASSERT_EQUAL(envset_unset(s, "B", &e), 0);
	CU_ASSERT_EQUAL(envset_set(s, "Z", big, &e), 0);
	envsets_free(t);
}

static bool even(void *arg, pid_t session)
{
	(*(int *)arg)++;
	return session % 2 == 0;
}

static void test_clean(void)
{
	struct envsets *t = envsets_new();
	struct envset *s = envset_make(t, 1, 1);
	int asked = 0;

	envset_tie(s, 2);
	envset_make(t, 3, 1);
	envset_make(t, 4, 1);
	envsets_clean(t, even, &asked);
	CU_ASSERT_EQUAL(asked, 4);
	CU_ASSERT_PTR_NULL(envset_find(t, 1, 1));
	CU_ASSERT_PTR_EQUAL(envset_find(t, 2, 1), s); /* its login has ended, what it left goes on */
	CU_ASSERT_PTR_NULL(envset_find(t, 3, 1));
	CU_ASSERT_PTR_NOT_NULL(envset_find(t, 4, 1));
	envsets_free(t);
}

static void test_random(void)
{
	struct envsets *t = envsets_new(), *u;
	static int model[8][26]; /* session, name -> value or 0 */
	struct error e = {0};
	json_t *saved;

	srandom(7);
	for (int i = 0; i < 20000; i++) {
		int ses = (int)(random() % 8), n = (int)(random() % 26), v = (int)(random() % 1000) + 1;
		struct envset *s = envset_make(t, 10 + ses, 5);
		char name[2] = {(char)('a' + n), 0}, value[16];

		snprintf(value, sizeof value, "%d", v);
		if (random() % 3) {
			CU_ASSERT_EQUAL(envset_set(s, name, value, &e), 0);
			model[ses][n] = v;
		} else {
			CU_ASSERT_EQUAL(envset_unset(s, name, &e), model[ses][n] ? 0 : -ENOENT);
			model[ses][n] = 0;
		}
	}
	/* and over a restart */
	saved = envsets_save(t);
	u = envsets_new();
	CU_ASSERT_EQUAL(envsets_load(u, saved), 0);
	for (int ses = 0; ses < 8; ses++)
		for (int n = 0; n < 26; n++) {
			char name[2] = {(char)('a' + n), 0};
			const char *v = envset_get(envset_find(u, 10 + ses, 5), name);

			CU_ASSERT_EQUAL(v ? atoi(v) : 0, model[ses][n]);
		}
	json_decref(saved);
	saved = json_pack("[{s:i}]", "uid", 1);
	CU_ASSERT_EQUAL(envsets_load(u, saved), -EINVAL);
	json_decref(saved);
	envsets_free(t);
	envsets_free(u);
}

int main(void)
{
	CU_initialize_registry();
	CU_pSuite s = CU_add_suite("envset", NULL, NULL);

	CU_add_test(s, "one set", test_one_set);
	CU_add_test(s, "bounds", test_refused);
	CU_add_test(s, "sessions that have ended", test_clean);
	CU_add_test(s, "random changes, and a restart", test_random);
	CU_basic_run_tests();
	int failed = CU_get_number_of_failures();

	CU_cleanup_registry();
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
