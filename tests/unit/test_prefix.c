// SPDX-License-Identifier: Apache-2.0
/* The prefix table: longest prefix, registration, expiry, versions, the way over the wire; readdir records. */
#include <CUnit/Basic.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "fs/dirent.h"
#include "fs/prefix.h"

static int put(struct prefix_table *t, const char *prefix, const char *server, uint64_t expires, uint64_t now)
{
	struct prefix p = {.prefix = (char *)prefix, .server = (char *)server, .host = "10.0.0.1", .port = 7700, .domain = 1, .expires = expires};

	return prefix_table_put(t, &p, now);
}

static void test_valid(void)
{
	static const char *const good[] = {"/", "/a", "/a/b", "/hosts/ws1", "/a.b", "/...", "/.a"};
	static const char *const bad[] = {"", "a", "//", "/a/", "/a//b", "/.", "/..", "/a/../b", "/a/.", NULL};
	char longname[300];

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		CU_ASSERT_TRUE(prefix_valid(good[i]));
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		CU_ASSERT_FALSE(prefix_valid(bad[i]));
	memset(longname, 'x', sizeof(longname));
	longname[0] = '/';
	longname[256] = 0;
	CU_ASSERT_TRUE(prefix_valid(longname));
	longname[256] = 'x';
	longname[257] = 0;
	CU_ASSERT_FALSE(prefix_valid(longname));
}

static void test_longest(void)
{
	struct prefix_table t = {0};
	const char *rest;

	CU_ASSERT_PTR_NULL(prefix_table_find(&t, "/x", &rest));
	put(&t, "/", "fs1", 0, 0);
	put(&t, "/src", "fs2", 0, 0);
	put(&t, "/src/deep", "fs3", 0, 0);
	CU_ASSERT_STRING_EQUAL(prefix_table_find(&t, "/", &rest)->server, "fs1");
	CU_ASSERT_STRING_EQUAL(rest, "");
	CU_ASSERT_STRING_EQUAL(prefix_table_find(&t, "/srcx", &rest)->server, "fs1");
	CU_ASSERT_STRING_EQUAL(rest, "srcx");
	CU_ASSERT_STRING_EQUAL(prefix_table_find(&t, "/src", &rest)->server, "fs2");
	CU_ASSERT_STRING_EQUAL(rest, "");
	CU_ASSERT_STRING_EQUAL(prefix_table_find(&t, "/src/deeper/a", &rest)->server, "fs2");
	CU_ASSERT_STRING_EQUAL(rest, "deeper/a");
	CU_ASSERT_STRING_EQUAL(prefix_table_find(&t, "/src/deep/a", &rest)->server, "fs3");
	CU_ASSERT_STRING_EQUAL(rest, "a");
	prefix_table_clear(&t);
}

static void test_register_and_expire(void)
{
	struct prefix_table t = {.version = 100};

	CU_ASSERT_EQUAL(put(&t, "/a", "fs2", 30, 0), 0);
	CU_ASSERT_EQUAL(t.version, 101);
	CU_ASSERT_EQUAL(put(&t, "/a", "fs2", 40, 10), 0); /* renewal: clients need not know */
	CU_ASSERT_EQUAL(t.version, 101);
	CU_ASSERT_EQUAL(put(&t, "/a", "fs3", 50, 20), -EEXIST);
	CU_ASSERT_EQUAL(prefix_table_expire(&t, 39), 0);
	CU_ASSERT_EQUAL(put(&t, "/a", "fs3", 80, 41), 0); /* its server is silent: another may take it */
	CU_ASSERT_EQUAL(t.version, 102);
	CU_ASSERT_EQUAL(prefix_table_expire(&t, 80), 1);
	CU_ASSERT_EQUAL(t.version, 103);
	CU_ASSERT_EQUAL(t.n, 0);
	CU_ASSERT_EQUAL(put(&t, "no", "fs2", 30, 0), -EINVAL);
	prefix_table_clear(&t);
}

static void test_retain(void)
{
	struct prefix_table t = {0};
	struct prefix keep = {.prefix = "/b"};

	put(&t, "/a", "fs2", 30, 0);
	put(&t, "/b", "fs2", 30, 0);
	put(&t, "/c", "fs3", 30, 0);
	CU_ASSERT_EQUAL(prefix_table_retain(&t, "fs2", &keep, 1), 1);
	CU_ASSERT_PTR_NULL(prefix_table_get(&t, "/a"));
	CU_ASSERT_PTR_NOT_NULL(prefix_table_get(&t, "/b"));
	CU_ASSERT_PTR_NOT_NULL(prefix_table_get(&t, "/c"));
	prefix_table_clear(&t);
}

static void test_wire(void)
{
	struct prefix_table t = {.version = 7}, copy = {0};
	Sprite__Fs__PrefixesRep rep;

	put(&t, "/b", "fs2", 30, 0);
	put(&t, "/", "fs1", 0, 0);
	CU_ASSERT_EQUAL(prefix_table_to_rep(&t, &rep), 0);
	CU_ASSERT_EQUAL(prefix_table_from_rep(&copy, &rep), 0);
	prefix_rep_free(&rep);
	CU_ASSERT_EQUAL(copy.n, 2);
	CU_ASSERT_EQUAL(copy.version, t.version);
	CU_ASSERT_STRING_EQUAL(copy.rows[1].prefix, "/b");
	CU_ASSERT_STRING_EQUAL(copy.rows[1].server, "fs2");
	prefix_table_clear(&t);
	prefix_table_clear(&copy);
}

/* Random tables against a search that tries every row. */
static void test_random(void)
{
	static const char *const names[] = {"/", "/a", "/a/b", "/a/b/c", "/ab", "/b", "/b/a", "/c/c", "/c"};
	unsigned seed = 5;

	for (int round = 0; round < 2000; round++) {
		struct prefix_table t = {0};
		char path[64] = "";
		const char *best = NULL;
		const struct prefix *got;

		for (int i = 0; i < 5; i++)
			put(&t, names[rand_r(&seed) % 9], "s", 0, 0);
		for (int i = rand_r(&seed) % 4; i >= 0; i--)
			snprintf(path + strlen(path), 8, "/%s", (const char *[]){"a", "b", "c", "ab"}[rand_r(&seed) % 4]);
		for (size_t i = 0; i < t.n; i++) {
			const char *p = t.rows[i].prefix;
			size_t n = strcmp(p, "/") ? strlen(p) : 0;

			if (!strncmp(p, path, n) && (path[n] == '/' || !path[n]) && (!best || strlen(p) > strlen(best)))
				best = p;
		}
		got = prefix_table_find(&t, path, NULL);
		CU_ASSERT_EQUAL(got != NULL, best != NULL);
		if (got && best)
			CU_ASSERT_STRING_EQUAL(got->prefix, best);
		prefix_table_clear(&t);
	}
}

static void test_dirent(void)
{
	static uint8_t room[FS_DIRENT_HEAD + 8 + FS_DIRENT_DATAMAX + 1];
	struct fs_dirent d = {.ino = 1ull << 60, .cookie = UINT64_MAX, .type = 8, .namelen = 3, .entrylen = 2, .datalen = 4, .name = "abc",
		.entry = (const uint8_t *)"xy", .data = (const uint8_t *)"data"};
	struct fs_dirent got;
	size_t n = fs_dirent_put(room, sizeof(room), &d);

	CU_ASSERT_EQUAL(n, FS_DIRENT_HEAD + 9);
	CU_ASSERT_EQUAL(fs_dirent_get(room, n, &got), n);
	CU_ASSERT(got.ino == d.ino && got.cookie == d.cookie && got.type == 8 && got.namelen == 3 && got.entrylen == 2 && got.datalen == 4);
	CU_ASSERT_EQUAL(memcmp(got.name, "abc", 3), 0);
	CU_ASSERT_EQUAL(memcmp(got.entry, "xy", 2), 0);
	CU_ASSERT_EQUAL(memcmp(got.data, "data", 4), 0);
	for (size_t k = 0; k < n; k++)
		CU_ASSERT_EQUAL(fs_dirent_get(room, k, &got), 0);
	CU_ASSERT_EQUAL(fs_dirent_put(room, n - 1, &d), 0);
	d.datalen = FS_DIRENT_NODATA;
	CU_ASSERT_EQUAL(fs_dirent_put(room, sizeof(room), &d), FS_DIRENT_HEAD + 5);
	CU_ASSERT_EQUAL(fs_dirent_get(room, sizeof(room), &got), FS_DIRENT_HEAD + 5);
	CU_ASSERT_EQUAL(got.datalen, FS_DIRENT_NODATA);
	d.datalen = 0; /* an empty file is not one whose contents were left out */
	CU_ASSERT_EQUAL(fs_dirent_put(room, sizeof(room), &d), FS_DIRENT_HEAD + 5);
	CU_ASSERT_EQUAL(fs_dirent_get(room, sizeof(room), &got), FS_DIRENT_HEAD + 5);
	CU_ASSERT_EQUAL(got.datalen, 0);
	room[FS_DIRENT_HEAD - 2] = FS_DIRENT_DATAMAX >> 16; /* the most, and one more */
	CU_ASSERT_EQUAL(fs_dirent_get(room, sizeof(room), &got), FS_DIRENT_HEAD + 5 + FS_DIRENT_DATAMAX);
	room[FS_DIRENT_HEAD - 4] = 1;
	CU_ASSERT_EQUAL(fs_dirent_get(room, sizeof(room), &got), 0);
	room[FS_DIRENT_HEAD - 2] = room[FS_DIRENT_HEAD - 4] = 0;
	room[FS_DIRENT_HEAD + 1] = '/';
	CU_ASSERT_EQUAL(fs_dirent_get(room, n, &got), 0);
}

int main(void)
{
	CU_pSuite s;
	unsigned failed;

	CU_initialize_registry();
	s = CU_add_suite("prefix", NULL, NULL);
	CU_add_test(s, "what a prefix is", test_valid);
	CU_add_test(s, "the longest prefix wins", test_longest);
	CU_add_test(s, "registration, renewal, expiry", test_register_and_expire);
	CU_add_test(s, "rows no longer registered go", test_retain);
	CU_add_test(s, "over the wire and back", test_wire);
	CU_add_test(s, "random tables", test_random);
	CU_add_test(s, "readdir records", test_dirent);
	CU_basic_run_tests();
	failed = CU_get_number_of_failures();
	CU_cleanup_registry();
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
