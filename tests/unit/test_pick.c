// SPDX-License-Identifier: Apache-2.0
/* Host selection: who is ruled out and why, who comes first, and that the order of the list does not matter. */
#include <CUnit/Basic.h>
#include <stdlib.h>
#include <string.h>
#include "migd/pick.h"

static struct pick_host good(const char *name, uint64_t idle_ms)
{
	return (struct pick_host){ .name = name, .reachable = true, .lends = true, .idle = true, .cpu_ok = true, .cpus = 2, .idle_ms = idle_ms, .memory_free = 1u << 30 };
}

static void test_longest_idle(void)
{
	struct pick_host h[] = { good("a", 1000), good("b", 9000), good("c", 5000) };
	const char *why[3];

	CU_ASSERT_EQUAL(pick_host(h, 3, &(struct pick_need){ 0 }, why), 1);
	CU_ASSERT_PTR_NULL(why[0]);
}

static void test_free_cpu_first(void)
{
	struct pick_host h[] = { good("a", 9000), good("b", 10) };

	h[0].guests = 2;
	CU_ASSERT_EQUAL(pick_host(h, 2, &(struct pick_need){ 0 }, NULL), 1);
	h[0].guests = 0;
	h[0].load = 2.5;
	CU_ASSERT_EQUAL(pick_host(h, 2, &(struct pick_need){ 0 }, NULL), 1);
	h[0].load = 0;
	CU_ASSERT_EQUAL(pick_host(h, 2, &(struct pick_need){ 0 }, NULL), 0);
}

static void test_refusals(void)
{
	struct pick_need none = { 0 }, root = { .root = true }, big = { .memory = 2u << 30 };
	struct pick_host h;

#define REFUSED(field, value, need)                                            \
	do {                                                                   \
		h = good("x", 1);                                              \
		CU_ASSERT_PTR_NULL(pick_refusal(&h, &none, false));          \
		h.field = value;                                               \
		CU_ASSERT_PTR_NOT_NULL(pick_refusal(&h, need, false));       \
		CU_ASSERT_EQUAL(pick_host(&h, 1, need, NULL), -1);           \
	} while (0)
	REFUSED(reachable, false, &none);
	REFUSED(lends, false, &none);
	REFUSED(idle, false, &none);
	REFUSED(is_home, true, &none);
	REFUSED(is_source, true, &none);
	REFUSED(cpu_ok, false, &none);
	REFUSED(takes_root, false, &root);
	REFUSED(memory_free, 5, &big);
	h = good("x", 1);
	h.idle = false;
	CU_ASSERT_PTR_NULL(pick_refusal(&h, &none, true)); /* named by the user */
	CU_ASSERT_EQUAL(pick_host(NULL, 0, &none, NULL), -1);
}

static void test_order_does_not_matter(void)
{
	unsigned seed = 5;

	for (int round = 0; round < 2000; round++) {
		struct pick_host h[6];
		const char *names[] = { "a", "b", "c", "d", "e", "f" };
		const char *first;
		int i;

		for (i = 0; i < 6; i++) {
			h[i] = good(names[i], rand_r(&seed) % 3 * 1000);
			h[i].guests = rand_r(&seed) % 3;
			h[i].cpus = rand_r(&seed) % 4;
			h[i].load = rand_r(&seed) % 4;
			h[i].idle = rand_r(&seed) % 4;
		}
		i = pick_host(h, 6, &(struct pick_need){ 0 }, NULL);
		first = i < 0 ? "" : h[i].name;
		for (int k = 0; k < 6; k++) {
			int a = rand_r(&seed) % 6, b = rand_r(&seed) % 6;
			struct pick_host t = h[a];

			h[a] = h[b];
			h[b] = t;
		}
		i = pick_host(h, 6, &(struct pick_need){ 0 }, NULL);
		CU_ASSERT_STRING_EQUAL(i < 0 ? "" : h[i].name, first);
	}
}

int main(void)
{
	CU_pSuite s;

	if (CU_initialize_registry() != CUE_SUCCESS)
		return 2;
	s = CU_add_suite("pick", NULL, NULL);
	CU_add_test(s, "longest idle first", test_longest_idle);
	CU_add_test(s, "a free CPU first", test_free_cpu_first);
	CU_add_test(s, "every refusal", test_refusals);
	CU_add_test(s, "the order of the list does not matter", test_order_does_not_matter);
	CU_basic_run_tests();
	return CU_get_number_of_failures() ? 1 : 0;
}
