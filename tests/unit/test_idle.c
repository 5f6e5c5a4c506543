// SPDX-License-Identifier: Apache-2.0
/* The idle decision: thresholds, hysteresis, unknown past. */
#include <CUnit/Basic.h>
#include <stdlib.h>
#include "migd/idle.h"

#define SEC 1000000000ull

static struct idle_view quiet_view(void)
{
	return (struct idle_view){.now_ns = 10000 * SEC, .last_input_ns = 9000 * SEC, .since_ns = 1 * SEC};
}

static void test_quiet_is_idle(void)
{
	struct idle_view v = quiet_view();
	const char *why;

	CU_ASSERT_TRUE(idle_decide(&idle_rules_default, &v, false, &why));
	CU_ASSERT_STRING_EQUAL(why, "idle");
}

static void test_input_counts_for_idle_after(void)
{
	struct idle_view v = quiet_view();
	const char *why;

	v.last_input_ns = v.now_ns - idle_rules_default.idle_after_ns + 1;
	CU_ASSERT_FALSE(idle_decide(&idle_rules_default, &v, true, &why));
	CU_ASSERT_STRING_EQUAL(why, "input");
	v.last_input_ns--;
	CU_ASSERT_TRUE(idle_decide(&idle_rules_default, &v, true, &why));
}

static void test_past_before_the_watch_is_unknown(void)
{
	struct idle_view v = quiet_view();
	const char *why;

	v.last_input_ns = 0;
	v.since_ns = v.now_ns - 10 * SEC;
	CU_ASSERT_FALSE(idle_decide(&idle_rules_default, &v, false, &why));
	CU_ASSERT_STRING_EQUAL(why, "waiting");
}

static void test_load_hysteresis(void)
{
	struct idle_view v = quiet_view();
	const char *why;

	v.load[0] = 1.5; /* between 0.75 and 2.5 */
	CU_ASSERT_FALSE(idle_decide(&idle_rules_default, &v, false, &why));
	CU_ASSERT_STRING_EQUAL(why, "load");
	CU_ASSERT_TRUE(idle_decide(&idle_rules_default, &v, true, &why));
	v.load[0] = 2.6;
	CU_ASSERT_FALSE(idle_decide(&idle_rules_default, &v, true, &why));
	v.load[0] = 0;
	v.load[2] = 3.1;
	CU_ASSERT_FALSE(idle_decide(&idle_rules_default, &v, true, &why));
}

static void test_battery_and_lid(void)
{
	struct idle_rules r = idle_rules_default;
	struct idle_view v = quiet_view();
	const char *why;

	v.battery = true;
	CU_ASSERT_FALSE(idle_decide(&r, &v, true, &why));
	CU_ASSERT_STRING_EQUAL(why, "battery");
	r.on_battery = true;
	CU_ASSERT_TRUE(idle_decide(&r, &v, true, &why));
}

static void test_clock_behind_input_is_not_idle(void)
{
	struct idle_view v = quiet_view();
	const char *why;

	v.last_input_ns = v.now_ns + SEC;
	CU_ASSERT_FALSE(idle_decide(&idle_rules_default, &v, true, &why));
}

int main(void)
{
	CU_initialize_registry();
	CU_pSuite s = CU_add_suite("idle", NULL, NULL);

	CU_add_test(s, "quiet is idle", test_quiet_is_idle);
	CU_add_test(s, "input counts for idle_after", test_input_counts_for_idle_after);
	CU_add_test(s, "the past before the watch is unknown", test_past_before_the_watch_is_unknown);
	CU_add_test(s, "load has hysteresis", test_load_hysteresis);
	CU_add_test(s, "battery and lid", test_battery_and_lid);
	CU_add_test(s, "clock behind input", test_clock_behind_input_is_not_idle);
	CU_basic_run_tests();
	int failed = CU_get_number_of_failures();

	CU_cleanup_registry();
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
