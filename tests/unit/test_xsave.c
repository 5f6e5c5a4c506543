// SPDX-License-Identifier: Apache-2.0
/* A thread's extended state from the layout of one processor into another's: parts at other places, a smaller or a bigger whole, parts that are missing. */
#include <CUnit/Basic.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "conf/cleanup.h"
#include "migd/engine/xsave.h"

/* As an Intel server and an AMD one have them: the protection keys' register is at another place. */
static const struct xsave_part intel[] = {{2, 576, 256}, {5, 1088, 64}, {6, 1152, 512}, {7, 1664, 1024}, {9, 2688, 8}};
static const struct xsave_part amd[] = {{2, 576, 256}, {5, 832, 64}, {6, 896, 512}, {7, 1408, 1024}, {9, 2432, 8}};
static const struct xsave_part old[] = {{2, 576, 256}};
enum { INTEL = 2696, AMD = 2440, OLD = 832 };

static unsigned char from[4096], to[4096];

static void make(uint64_t used, const struct xsave_part *v, size_t n)
{
	memset(from, 0, sizeof from);
	memset(to, 0x77, sizeof to);
	for (int i = 0; i < 464; i++)
		from[i] = i * 7;
	memset(from + 464, 0x55, 48); /* the kernel's own words */
	memcpy(from + 512, &used, 8);
	for (size_t i = 0; i < n; i++)
		for (uint32_t k = 0; used >> v[i].id & 1 && k < v[i].size; k++)
			from[v[i].offset + k] = v[i].id * 31 + k;
}
static bool part_is(const struct xsave_part *p, bool there)
{
	for (uint32_t k = 0; k < p->size; k++)
		if (to[p->offset + k] != (there ? (unsigned char)(p->id * 31 + k) : 0))
			return false;
	return true;
}
static bool legacy_is_right(void)
{
	return !memcmp(to, from, 28) && to[28] == 0x77 && to[31] == 0x77 && !memcmp(to + 32, from + 32, 464 - 32) && to[464] == 0x77 && to[511] == 0x77;
}

static void test_other_places(void)
{
	make(0x2e7, intel, ARRAY_SIZE(intel));
	CU_ASSERT(xsave_convert(from, INTEL, intel, ARRAY_SIZE(intel), to, AMD, amd, ARRAY_SIZE(amd)) == 0);
	CU_ASSERT(legacy_is_right());
	for (size_t i = 0; i < ARRAY_SIZE(amd); i++)
		CU_ASSERT(part_is(&amd[i], true));
	uint64_t used;

	memcpy(&used, to + 512, 8);
	CU_ASSERT(used == 0x2e7);
	CU_ASSERT(to[AMD] == 0x77); /* not a byte behind it */
}

static void test_bigger(void)
{
	make(7, old, ARRAY_SIZE(old));
	CU_ASSERT(xsave_convert(from, OLD, old, 1, to, INTEL, intel, ARRAY_SIZE(intel)) == 0);
	CU_ASSERT(legacy_is_right() && part_is(&intel[0], true));
	for (size_t i = 1; i < ARRAY_SIZE(intel); i++) /* those are in their initial state */
		CU_ASSERT(part_is(&intel[i], false));
}

static void test_smaller(void)
{
	make(7, intel, ARRAY_SIZE(intel)); /* what it does not use needs no room */
	CU_ASSERT(xsave_convert(from, INTEL, intel, ARRAY_SIZE(intel), to, OLD, old, 1) == 0);
	CU_ASSERT(part_is(&old[0], true));
	make(0x27, intel, ARRAY_SIZE(intel));
	CU_ASSERT(xsave_convert(from, INTEL, intel, ARRAY_SIZE(intel), to, OLD, old, 1) == 5);
	CU_ASSERT(to[0] == 0x77 && to[512] == 0x77); /* nothing changed */
	CU_ASSERT(!strcmp(xsave_name(5), "AVX-512 registers"));
}

static void test_bad(void)
{
	static const struct xsave_part out[] = {{2, 576, 256}, {9, 4000, 800}}, early[] = {{2, 100, 256}}, size[] = {{2, 576, 128}};

	make(0x207, intel, ARRAY_SIZE(intel));
	CU_ASSERT(xsave_convert(from, 100, intel, 5, to, AMD, amd, 5) == -EINVAL);
	CU_ASSERT(xsave_convert(from, INTEL, intel, 5, to, 100, amd, 5) == -EINVAL);
	CU_ASSERT(xsave_convert(from, INTEL, out, 2, to, AMD, amd, 5) == 9);
	CU_ASSERT(xsave_convert(from, INTEL, early, 1, to, AMD, amd, 5) == 2);
	CU_ASSERT(xsave_convert(from, INTEL, size, 1, to, AMD, amd, 5) == 2);
	CU_ASSERT(xsave_convert(from, INTEL, NULL, 0, to, AMD, amd, 5) == 2);
	from[527] = 0x80; /* a compacted area */
	CU_ASSERT(xsave_convert(from, INTEL, intel, 5, to, AMD, amd, 5) == -EINVAL);
}

static void test_here(void)
{
	struct xsave_part v[XSAVE_PARTS];
	size_t n = xsave_layout(v);

	for (size_t i = 0; i < n; i++) {
		CU_ASSERT(v[i].id >= 2 && v[i].id < 63 && v[i].offset >= 576 && v[i].size);
		for (size_t k = 0; k < i; k++) /* they do not overlap */
			CU_ASSERT(v[k].id != v[i].id && (v[k].offset + v[k].size <= v[i].offset || v[i].offset + v[i].size <= v[k].offset));
	}
}

int main(void)
{
	CU_initialize_registry();
	CU_pSuite s = CU_add_suite("extended state", NULL, NULL);
	CU_add_test(s, "parts at other places", test_other_places);
	CU_add_test(s, "to a bigger one", test_bigger);
	CU_add_test(s, "to a smaller one", test_smaller);
	CU_add_test(s, "what is no area", test_bad);
	CU_add_test(s, "this processor's", test_here);
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	unsigned failed = CU_get_number_of_failures();

	CU_cleanup_registry();
	return failed != 0;
}
