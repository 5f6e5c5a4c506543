// SPDX-License-Identifier: Apache-2.0
/* Hash map and list against a plain model, with random operations of a fixed seed. */
#include "conf/hash.h"

#include <CUnit/Basic.h>
#include <errno.h>
#include <stdlib.h>
#include "conf/list.h"

static uint64_t state = 88172645463325252ull;

static uint64_t rnd(void) /* xorshift64 */
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

#define KEYS 3000
static void test_model(void)
{
	struct hash h = HASH_INIT;
	void *model[KEYS] = {0}, *old;
	size_t count = 0;

	for (int i = 0; i < 200000; i++) {
		uint64_t k = rnd() % KEYS, key = k * 0x100000000ull; /* keys that differ in high bits only */

		switch (rnd() % 3) {
		case 0:
			CU_ASSERT_EQUAL(hash_set_u64(&h, key, &model[rnd() % KEYS], &old), 0);
			CU_ASSERT_PTR_EQUAL(old, model[k]);
			count += !model[k];
			model[k] = hash_get_u64(&h, key);
			CU_ASSERT_PTR_NOT_NULL(model[k]);
			break;
		case 1:
			CU_ASSERT_PTR_EQUAL(hash_take_u64(&h, key), model[k]);
			count -= !!model[k];
			model[k] = NULL;
			break;
		default:
			CU_ASSERT_PTR_EQUAL(hash_get_u64(&h, key), model[k]);
		}
		CU_ASSERT_EQUAL(h.count, count);
	}
	hash_clear(&h, NULL);
	CU_ASSERT_EQUAL(h.count, 0);
	CU_ASSERT_PTR_NULL(hash_get_u64(&h, 0));
	CU_ASSERT_PTR_NULL(hash_take_u64(&h, 0));
}

static void test_iterate_and_take(void)
{
	struct hash h = HASH_INIT;
	struct hash_iter it = {0};
	bool seen[500] = {0};
	size_t n = 0;
	void *v;

	CU_ASSERT_PTR_NULL(hash_next(&h, &it));
	for (uint64_t i = 0; i < 500; i++)
		hash_set_u64(&h, i, &seen[i], NULL);
	it = (struct hash_iter){0};
	while ((v = hash_next(&h, &it))) {
		uint64_t k = hash_iter_u64(&it);

		CU_ASSERT_PTR_EQUAL(v, &seen[k]);
		CU_ASSERT_FALSE(seen[k]);
		seen[k] = true;
		n++;
		if (k % 2)
			CU_ASSERT_PTR_EQUAL(hash_take_u64(&h, k), v);
	}
	CU_ASSERT_EQUAL(n, 500);
	CU_ASSERT_EQUAL(h.count, 250);
	hash_clear(&h, NULL);
}

static void test_strings_and_bytes(void)
{
	struct hash h = HASH_INIT, b = HASH_INIT;
	struct hash_iter it = {0};
	char key[] = "ws1";
	int one, two;

	CU_ASSERT_EQUAL(hash_set_str(&h, key, &one, NULL), 0);
	key[0] = 'x'; /* the map has its own copy */
	CU_ASSERT_PTR_EQUAL(hash_get_str(&h, "ws1"), &one);
	CU_ASSERT_PTR_NULL(hash_get_str(&h, "ws"));
	CU_ASSERT_PTR_NULL(hash_get_str(&h, "ws11"));
	CU_ASSERT_PTR_EQUAL(hash_next(&h, &it), &one);
	CU_ASSERT_STRING_EQUAL(it.key, "ws1");
	CU_ASSERT_PTR_EQUAL(hash_take_str(&h, "ws1"), &one);

	CU_ASSERT_EQUAL(hash_set(&b, "a\0b", 3, &one, NULL), 0);
	CU_ASSERT_EQUAL(hash_set(&b, "a\0c", 3, &two, NULL), 0);
	CU_ASSERT_EQUAL(hash_set(&b, "", 0, &two, NULL), 0);
	CU_ASSERT_PTR_EQUAL(hash_get(&b, "a\0b", 3), &one);
	CU_ASSERT_PTR_EQUAL(hash_get(&b, "a\0c", 3), &two);
	CU_ASSERT_PTR_EQUAL(hash_get(&b, NULL, 0), &two);
	hash_clear(&h, NULL);
	hash_clear(&b, NULL);
}

static void test_release(void)
{
	struct hash h = HASH_INIT;

	for (uint64_t i = 0; i < 100; i++)
		hash_set_u64(&h, i, malloc(8), NULL);
	hash_clear(&h, free); /* the leak checker of the asan build looks */
	CU_ASSERT_EQUAL(h.nbucket, 0);
}

static void test_spread(void) /* no bucket of a filled table is long */
{
	size_t count[256] = {0}, max = 0;

	for (uint64_t i = 0; i < 256 * 64; i++)
		count[hash_bytes(&i, sizeof(i)) & 255]++;
	for (int i = 0; i < 256; i++)
		max = count[i] > max ? count[i] : max;
	CU_ASSERT_TRUE(max < 128); /* mean 64, standard deviation 8 */
	CU_ASSERT_EQUAL(hash_bytes("sprite", 6), hash_bytes("sprite", 6));
	CU_ASSERT_NOT_EQUAL(hash_bytes("sprite", 6), hash_bytes("sprite", 7));
}

struct item {
	int n;
	struct list link;
};

static void test_list(void)
{
	struct list a = LIST_INIT(a), b = LIST_INIT(b);
	struct item it[10], *p, *tmp;
	int want = 0;

	CU_ASSERT_PTR_NULL(list_pop(&a));
	for (int i = 0; i < 10; i++) {
		it[i].n = i;
		list_add_tail(i < 5 ? &a : &b, &it[i].link);
	}
	list_splice_tail(&a, &b);
	list_splice_tail(&a, &b); /* of nothing */
	CU_ASSERT_TRUE(list_empty(&b));
	list_each(p, &a, link)
		CU_ASSERT_EQUAL(p->n, want++);
	CU_ASSERT_EQUAL(want, 10);
	list_each_safe(p, tmp, &a, link)
	{
		if (p->n % 2) {
			list_del(&p->link);
			list_del(&p->link); /* twice is harmless */
			list_add(&b, &p->link);
		}
	}
	want = 0;
	list_each(p, &a, link)
	{
		CU_ASSERT_EQUAL(p->n, want);
		want += 2;
	}
	CU_ASSERT_EQUAL(want, 10);
	CU_ASSERT_EQUAL(list_entry(list_pop(&b), struct item, link)->n, 9);
	list_move_tail(&b, &it[7].link);
	CU_ASSERT_EQUAL(list_entry(b.prev, struct item, link)->n, 7);
}

int main(void)
{
	CU_pSuite s;

	CU_initialize_registry();
	s = CU_add_suite("hash", NULL, NULL);
	CU_add_test(s, "model", test_model);
	CU_add_test(s, "iterate", test_iterate_and_take);
	CU_add_test(s, "strings", test_strings_and_bytes);
	CU_add_test(s, "release", test_release);
	CU_add_test(s, "spread", test_spread);
	CU_add_test(s, "list", test_list);
	CU_basic_run_tests();
	return CU_get_number_of_failures() || CU_get_number_of_tests_run() != 6;
}
