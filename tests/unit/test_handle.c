// SPDX-License-Identifier: Apache-2.0
/* Handles: the MAC is SipHash as published; nothing but what was packed with this key is ever unpacked; the key outlives a restart. */
#include <CUnit/Basic.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "fs/server/handle.h"

static const struct handle_key key = {{0x1122334455667788ull, 0x99aabbccddeeff00ull}};

static void test_published_vector(void)
{
	/* SipHash-2-4-128 of the empty string under the key 00 01 .. 0f, from the authors' test vectors */
	static const unsigned char expect[16] = {
		0xa3, 0x81, 0x7f, 0x04, 0xba, 0x25, 0xa8, 0xe6, 0x6d, 0xf6, 0x72, 0x14, 0xc7, 0x55, 0x02, 0x93};
	static const struct handle_key k = {{0x0706050403020100ull, 0x0f0e0d0c0b0a0908ull}};
	unsigned char mac[HANDLE_MAC];

	handle_mac(&k, "", 0, mac);
	CU_ASSERT_EQUAL(memcmp(mac, expect, 16), 0);
}

static struct handle sample(unsigned len)
{
	struct handle h = {.domain = 0xd0d1d2d3d4d5d6d7ull, .mount = 7, .type = 0x81, .len = len};

	for (unsigned i = 0; i < len; i++)
		h.fh[i] = (unsigned char)(i * 7 + 1);
	return h;
}

static void test_round_trip(void)
{
	for (unsigned len = 0; len <= HANDLE_FH_MAX; len++) {
		struct handle h = sample(len), got;
		unsigned char b[HANDLE_MAX];
		size_t n = handle_pack(&key, &h, b);

		CU_ASSERT_EQUAL(n, HANDLE_HEAD + len + HANDLE_MAC);
		CU_ASSERT_EQUAL(handle_unpack(&key, b, n, &got), 0);
		CU_ASSERT(got.domain == h.domain && got.mount == h.mount && got.type == h.type && got.len == len);
		CU_ASSERT_EQUAL(memcmp(got.fh, h.fh, len), 0);
	}
}

/* Every single flipped bit, every other length, another key. */
static void test_forgeries(void)
{
	struct handle h = sample(12), got;
	struct handle_key other = key;
	unsigned char b[HANDLE_MAX];
	size_t n = handle_pack(&key, &h, b);

	for (size_t bit = 0; bit < n * 8; bit++) {
		b[bit / 8] ^= (unsigned char)(1 << bit % 8);
		CU_ASSERT_EQUAL(handle_unpack(&key, b, n, &got), -ESTALE);
		b[bit / 8] ^= (unsigned char)(1 << bit % 8);
	}
	for (size_t len = 0; len <= HANDLE_MAX; len++)
		if (len != n)
			CU_ASSERT_EQUAL(handle_unpack(&key, b, len, &got), -ESTALE);
	other.k[1] ^= 1;
	CU_ASSERT_EQUAL(handle_unpack(&other, b, n, &got), -ESTALE);
	CU_ASSERT_EQUAL(handle_unpack(&key, b, n, &got), 0);
}

static void test_too_long(void)
{
	struct handle h = sample(0);
	unsigned char b[HANDLE_MAX];

	h.len = HANDLE_FH_MAX + 1;
	CU_ASSERT_EQUAL(handle_pack(&key, &h, b), 0);
}

static void test_key_file(void)
{
	char dir[] = "/tmp/sprite-handle-XXXXXX", path[64];
	struct handle_key a, b;
	struct error e = {0};
	struct stat st;

	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/key", dir);
	CU_ASSERT_EQUAL(handle_key_load(path, &a, NULL), 0);
	CU_ASSERT_EQUAL(stat(path, &st), 0);
	CU_ASSERT_EQUAL(st.st_mode & 07777, 0600);
	CU_ASSERT_EQUAL(handle_key_load(path, &b, NULL), 0);
	CU_ASSERT_EQUAL(memcmp(&a, &b, sizeof(a)), 0);
	CU_ASSERT_EQUAL(truncate(path, 3), 0);
	CU_ASSERT_TRUE(handle_key_load(path, &b, &e) < 0);
	CU_ASSERT_PTR_NOT_NULL(strstr(e.text, "server key"));
	unlink(path);
	rmdir(dir);
}

int main(void)
{
	CU_pSuite s;
	unsigned failed;

	CU_initialize_registry();
	s = CU_add_suite("handle", NULL, NULL);
	CU_add_test(s, "the MAC is SipHash-2-4-128", test_published_vector);
	CU_add_test(s, "what was packed is unpacked", test_round_trip);
	CU_add_test(s, "nothing else is", test_forgeries);
	CU_add_test(s, "a handle that is too long is refused", test_too_long);
	CU_add_test(s, "the key is made once and kept", test_key_file);
	CU_basic_run_tests();
	failed = CU_get_number_of_failures();
	CU_cleanup_registry();
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
