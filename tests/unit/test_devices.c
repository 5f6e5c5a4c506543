// SPDX-License-Identifier: Apache-2.0
/* Device numbers that a family remembers (devices.c): which mounts of a mountinfo text are seen, which one a path lies on, and what is not believed. */
#include <CUnit/Basic.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "migd/engine/devices.h"

static bool ask(void *ctx, const char *point, unsigned *maj, unsigned *min)
{
	(void)ctx;
	CU_ASSERT_STRING_EQUAL(point, "/a b");
	*maj = 0;
	*min = 77;
	return true;
}

static unsigned minor_of(const struct devices *d, const char *path)
{
	const struct device *x = devices_find(d, path);

	return x ? x->minor : 999;
}

static void test_mounts(void)
{
	char *text = devices_make("20 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
				  "21 20 0:5 / /proc rw - proc proc rw\n"
				  "22 20 8:2 /x /tmp rw shared:1 - xfs /dev/sda2 rw\n"
				  "23 20 8:3 / /srv/data rw - ext4 /dev/sda3 rw\n"
				  "24 20 8:4 / /srv rw - ext4 /dev/sda4 rw\n" /* over the way to 23 */
				  "25 24 8:5 / /srv/other rw - ext4 /dev/sda5 rw\n"
				  "26 22 8:6 / /tmp rw - ext4 /dev/sda6 rw\n" /* on top of 22 */
				  "27 22 8:7 / /tmp/under rw - ext4 /dev/sda7 rw\n"
				  "28 20 0:40 / /a\\040b rw - btrfs /dev/sda8 rw\n"
				  "29 20 0:41 / /sprite rw - fuse.spritefs sprite rw\n", ask, NULL);
	struct devices d;

	CU_ASSERT_PTR_NOT_NULL_FATAL(text);
	CU_ASSERT_STRING_EQUAL(text, "8:1 /\n8:4 /srv\n8:5 /srv/other\n8:6 /tmp\n0:77 /a\\040b\n0:41 /sprite\n");
	CU_ASSERT_TRUE(devices_valid(text));
	CU_ASSERT_EQUAL_FATAL(devices_parse(&d, text), 0);
	CU_ASSERT_EQUAL(minor_of(&d, "/"), 1);
	CU_ASSERT_EQUAL(minor_of(&d, "/tmpfile"), 1);
	CU_ASSERT_EQUAL(minor_of(&d, "/tmp"), 6);
	CU_ASSERT_EQUAL(minor_of(&d, "/tmp/x (deleted)"), 6);
	CU_ASSERT_EQUAL(minor_of(&d, "/srv/data/x"), 4);
	CU_ASSERT_EQUAL(minor_of(&d, "/srv/other/x"), 5);
	CU_ASSERT_EQUAL(minor_of(&d, "/a b/c"), 77);
	CU_ASSERT_EQUAL(minor_of(&d, "/sprite/.."), 41);
	CU_ASSERT_EQUAL(minor_of(&d, "pipe:[1]"), 999);
	CU_ASSERT_EQUAL(minor_of(&d, ""), 999);
	devices_free(&d);
	free(text);
}

static void test_not_believed(void)
{
	static const char *const bad[] = {"", "8:1", "8:1 /", "8:1 x\n", "8:1  /\n", "-8:1 /\n", "8:-1 /\n", "4096:1 /\n", "8:1048576 /\n", "8 /\n", "8:1 /a/\n", "8:1 /a\\04\n", "8:1 /a\\999\n",
		"8:1 /\n\n", "8:1 /\nx", "99999999999999999999:1 /\n"};
	char *many = malloc(DEVICES_MAX + 10);
	struct devices d;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		CU_ASSERT_FALSE(devices_valid(bad[i]));
	*many = 0;
	for (size_t i = 0; i <= DEVICES_LINES; i++)
		memcpy(many + i * 6, "8:1 /\n", 7);
	CU_ASSERT_FALSE(devices_valid(many));
	many[DEVICES_LINES * 6] = 0;
	CU_ASSERT_TRUE(devices_valid(many));
	memset(many, 'a', DEVICES_MAX);
	memcpy(many, "8:1 /", 5);
	strcpy(many + DEVICES_MAX - 1, "\n");
	CU_ASSERT_EQUAL(devices_parse(&d, many), -E2BIG);
	free(many);
	CU_ASSERT_PTR_NULL(devices_make("", NULL, NULL));
	CU_ASSERT_PTR_NULL(devices_make("nonsense - x\n1 2 3\n", NULL, NULL));
}

int main(void)
{
	CU_pSuite s;
	unsigned bad;

	CU_initialize_registry();
	s = CU_add_suite("devices", NULL, NULL);
	CU_add_test(s, "mounts that are seen", test_mounts);
	CU_add_test(s, "what is not believed", test_not_believed);
	CU_basic_run_tests();
	bad = CU_get_number_of_failures();
	CU_cleanup_registry();
	return bad != 0;
}
