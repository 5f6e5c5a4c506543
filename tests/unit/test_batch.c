// SPDX-License-Identifier: Apache-2.0
/* The records of batches: what was put is got; a record that does not fit, is not whole, or may not be in a batch is none. */
#include <CUnit/Basic.h>
#include <stdlib.h>
#include <string.h>
#include "fs/batch.h"

static void test_put_and_get(void)
{
	uint8_t b[200];
	struct batch_record r;
	size_t n = batch_put(b, FS_RENAME, 7, 5);

	memcpy(b + n, "requestdata.", 12);
	CU_ASSERT_EQUAL(batch_get(b, n + 12, &r), n + 12);
	CU_ASSERT(r.method == FS_RENAME && r.msg_len == 7 && r.data_len == 5);
	CU_ASSERT(!memcmp(r.msg, "request", 7) && !memcmp(r.data, "data.", 5));
	for (size_t cut = 0; cut < n + 12; cut++)
		CU_ASSERT_EQUAL(batch_get(b, cut, &r), 0);
}

static void test_only_changes(void)
{
	uint8_t b[BATCH_REQ_HEAD];
	struct batch_record r;
	int taken = 0;

	for (unsigned m = 0; m < FS_NOPS + 3; m++) {
		batch_put(b, (enum fs_op)m, 0, 0);
		if (!batch_get(b, sizeof(b), &r))
			continue;
		taken++;
		CU_ASSERT_TRUE(fs_methods[m].mutates); /* what may be repeated freely has no business in one */
	}
	CU_ASSERT_EQUAL(taken, 8);
	batch_put(b, FS_BATCH, 0, 0); /* nor one in the other */
	CU_ASSERT_EQUAL(batch_get(b, sizeof(b), &r), 0);
	batch_put(b, FS_WRITE, UINT32_MAX, UINT32_MAX); /* whose sum is small in 32 bits */
	CU_ASSERT_EQUAL(batch_get(b, sizeof(b), &r), 0);
}

static void test_answers(void)
{
	uint8_t b[64];
	const uint8_t *msg;
	uint32_t len;
	int err;
	size_t n = batch_answer_put(b, 28, 0);

	n += batch_answer_put(b + n, 0, 3);
	memcpy(b + n, "abc", 3);
	CU_ASSERT_EQUAL(batch_answer_get(b, n + 3, &err, &msg, &len), BATCH_REP_HEAD);
	CU_ASSERT(err == 28 && len == 0);
	CU_ASSERT_EQUAL(batch_answer_get(b + BATCH_REP_HEAD, n + 3 - BATCH_REP_HEAD, &err, &msg, &len), BATCH_REP_HEAD + 3);
	CU_ASSERT(err == 0 && len == 3 && !memcmp(msg, "abc", 3));
	CU_ASSERT_EQUAL(batch_answer_get(b + BATCH_REP_HEAD, n + 2 - BATCH_REP_HEAD, &err, &msg, &len), 0);
}

static void test_references(void)
{
	uint8_t ref[BATCH_REF], handle[64];
	uint32_t k;

	batch_ref_put(ref, 77);
	CU_ASSERT(batch_ref_get(ref, sizeof(ref), &k) && k == 77);
	memset(handle, 0xff, sizeof(handle));
	CU_ASSERT_FALSE(batch_ref_get(handle, sizeof(handle), &k));
	CU_ASSERT_FALSE(batch_ref_get(ref, 0, &k));
	CU_ASSERT(batch_ref_open(1, &k) && k == 0);
	CU_ASSERT(batch_ref_open(BATCH_MAX, &k) && k == BATCH_MAX - 1);
	CU_ASSERT_FALSE(batch_ref_open(0, &k));
	CU_ASSERT_FALSE(batch_ref_open(BATCH_MAX + 1, &k));
}

int main(void)
{
	CU_pSuite s;
	unsigned failed;

	CU_initialize_registry();
	s = CU_add_suite("batch", NULL, NULL);
	CU_add_test(s, "what was put is got", test_put_and_get);
	CU_add_test(s, "only changes are in a batch", test_only_changes);
	CU_add_test(s, "answers", test_answers);
	CU_add_test(s, "references", test_references);
	CU_basic_run_tests();
	failed = CU_get_number_of_failures();
	CU_cleanup_registry();
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
