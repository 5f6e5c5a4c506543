// SPDX-License-Identifier: Apache-2.0
/* The cache of blocks against a plain model: what is answered is what was put last, whole or not at all, and nothing that was read before a change. */
#include "fs/client/blocks.h"

#include <CUnit/Basic.h>
#include <stdlib.h>
#include <string.h>

static uint64_t state = 88172645463325252ull;

static uint64_t rnd(void) /* xorshift64 */
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static bool same(const struct blocks_held *h, const uint8_t *want, size_t len)
{
	size_t at = 0;
	int i;

	if (h->len != len)
		return false;
	for (i = 0; i < h->n; at += h->iov[i++].iov_len)
		if (memcmp(h->iov[i].iov_base, want + at, h->iov[i].iov_len) != 0)
			return false;
	return at == len;
}

#define FILES 3
#define ROOM  (5 * BLOCK_SIZE)

/* An answer on its way: what the file was when it was asked for. */
struct answer {
	bool on;
	uint64_t mark, off;
	size_t len;
	bool end;
	uint8_t data[ROOM];
};

static void test_model(void)
{
	static uint8_t file[FILES][ROOM];
	static struct answer way[FILES];
	size_t size[FILES], off, len, hits = 0, old = 0;
	struct blocks_of of[FILES] = {0};
	struct blocks b = {0};
	struct blocks_held h;
	struct iovec v[2];
	unsigned f, i;

	blocks_init(&b, 6 * BLOCK_SIZE);
	for (f = 0; f < FILES; f++) {
		blocks_of_init(&of[f], &b, f + 1);
		size[f] = rnd() % ROOM;
	}
	for (i = 0; i < 30000; i++) {
		struct answer *a = &way[f = rnd() % FILES];

		switch (rnd() % 8) {
		case 0: /* a change */
			blocks_forget(&of[f]);
			size[f] = rnd() % 3 ? rnd() % ROOM : rnd() % 5 * BLOCK_SIZE;
			memset(file[f], (int)rnd(), size[f]);
			old += a->on;
			break;
		case 1:
		case 2: /* asked */
			a->on = true;
			a->mark = blocks_mark(&b);
			a->off = rnd() % 5 * BLOCK_SIZE;
			a->len = (rnd() % 3 + 1) * BLOCK_SIZE;
			a->end = a->off + a->len > size[f];
			if (a->end)
				a->len = size[f] > a->off ? size[f] - a->off : 0;
			memcpy(a->data, file[f] + a->off, a->len);
			break;
		case 3: /* answered */
			if (!a->on)
				break;
			len = a->len ? rnd() % a->len : 0;
			v[0] = (struct iovec){a->data, len};
			v[1] = (struct iovec){a->data + len, a->len - len};
			blocks_put(&of[f], a->mark, a->off, v, 2, a->len, a->end, 0);
			a->on = false;
			break;
		default:
			off = rnd() % ROOM;
			len = rnd() % (rnd() % 8 ? BLOCK_SIZE / 4 : 2 * BLOCK_SIZE) + 1;
			if (!blocks_get(&of[f], off, len, &h))
				break;
			hits++;
			if (off >= size[f])
				len = 0;
			else if (off + len > size[f])
				len = size[f] - off;
			CU_ASSERT(same(&h, file[f] + off, len));
			blocks_give(&b, &h);
		}
		CU_ASSERT(b.bytes <= b.bound);
	}
	CU_ASSERT(hits > 1000);
	CU_ASSERT(old > 300);
	for (f = 0; f < FILES; f++)
		blocks_forget(&of[f]);
	CU_ASSERT_EQUAL(b.bytes, 0);
	CU_ASSERT_EQUAL(b.by_no.count, 0);
	hash_clear(&b.by_no, NULL);
}

/* What is being answered from stays until it is given back, and what the kernel has been given whole does not take up room. */
static void test_held_and_given(void)
{
	static uint8_t data[BLOCK_SIZE];
	struct iovec v = {data, sizeof(data)};
	struct blocks_of of = {0};
	struct blocks b = {0};
	struct blocks_held h, k;

	memset(data, 7, sizeof(data));
	blocks_init(&b, BLOCK_SIZE);
	blocks_of_init(&of, &b, 1);
	blocks_put(&of, blocks_mark(&b), 0, &v, 1, BLOCK_SIZE, false, 4096);
	CU_ASSERT_FATAL(blocks_get(&of, 4096, 4096, &h));
	blocks_forget(&of);
	CU_ASSERT_FALSE(blocks_get(&of, 4096, 4096, &k));
	CU_ASSERT(same(&h, data, 4096));
	blocks_give(&b, &h);
	CU_ASSERT_EQUAL(b.bytes, 0);
	blocks_put(&of, blocks_mark(&b), BLOCK_SIZE, &v, 1, BLOCK_SIZE, false, 4096);
	CU_ASSERT_FATAL(blocks_get(&of, BLOCK_SIZE + 4096, BLOCK_SIZE - 4096, &h));
	CU_ASSERT_EQUAL(b.bytes, 0);
	CU_ASSERT(same(&h, data, BLOCK_SIZE - 4096));
	blocks_give(&b, &h);
	/* of two the one that was used last stays */
	blocks_put(&of, blocks_mark(&b), 0, &v, 1, BLOCK_SIZE / 2, true, 0);
	CU_ASSERT_FATAL(blocks_get(&of, 100, BLOCK_SIZE, &h)); /* to its end */
	CU_ASSERT(same(&h, data, BLOCK_SIZE / 2 - 100));
	blocks_give(&b, &h);
	blocks_put(&of, blocks_mark(&b), 3 * BLOCK_SIZE, &v, 1, BLOCK_SIZE, false, 0);
	CU_ASSERT_FALSE(blocks_get(&of, 0, 1, &h));
	CU_ASSERT_FATAL(blocks_get(&of, 3 * BLOCK_SIZE, 1, &h));
	blocks_give(&b, &h);
	blocks_forget(&of);
	hash_clear(&b.by_no, NULL);
}

int main(void)
{
	CU_pSuite s;

	CU_initialize_registry();
	s = CU_add_suite("blocks", NULL, NULL);
	CU_add_test(s, "model", test_model);
	CU_add_test(s, "held, given, bounded", test_held_and_given);
	CU_basic_run_tests();
	return CU_get_number_of_failures() || CU_get_number_of_tests_run() != 2;
}
