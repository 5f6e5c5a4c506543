// SPDX-License-Identifier: Apache-2.0
/*
 * A private map of a file whose pages are written, given back to the file and written again all the time, beside memory enough for it to be sent ahead while the program runs: each page is
 * what was written last, or the file's. So is what was written once, before the first move, and made read-only (as linkers do).
 */
#include "move.h"

enum { PAGE = 4096, PAGES = 512, BIG = 8 << 20 };
static uint32_t now[PAGES]; /* what a page holds, 0: the file's */

static void fill(unsigned char *page, uint32_t v)
{
	for (int i = 0; i < PAGE; i += 4)
		memcpy(page + i, &(uint32_t){v + i}, 4);
}

static void check(const unsigned char *map, int i)
{
	uint32_t want = now[i] ? now[i] : 1000000u * (i + 1);

	for (int k = 0; k < PAGE; k += 4) {
		uint32_t is;

		memcpy(&is, map + i * PAGE + k, 4);
		CHECK(is == want + k, "page %d at %d: %u, wanted %u (%s)", i, k, is, want + k, now[i] ? "written" : "the file's");
	}
}

int main(int argc, char **argv)
{
	static unsigned char page[PAGE];
	uint64_t seed = 88172645463325252ull;
	uint32_t v = 7;

	move_begin(argc, argv);
	const char *path = move_path("filepriv");
	int fd = SYS(open(path, O_RDWR | O_CREAT | O_TRUNC, 0600));
	for (int i = 0; i < PAGES; i++) {
		fill(page, 1000000u * (i + 1));
		CHECK(write(fd, page, PAGE) == PAGE, "write");
	}
	unsigned char *map = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	unsigned char *once = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	unsigned char *big = mmap(NULL, BIG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(map != MAP_FAILED && once != MAP_FAILED && big != MAP_FAILED, "mmap");
	close(fd);
	for (int i = 0; i < BIG; i += 8)
		memcpy(big + i, &(uint64_t){move_rand(&seed)}, 8);
	for (int i = 0; i < 16; i += 2)
		fill(once + i * PAGE, 99 + i);
	SYS(mprotect(once, 16 * PAGE, PROT_READ));
	move_ready();
	while (move_more()) {
		int i = move_rand(&seed) % PAGES;

		switch (move_rand(&seed) % 8) {
		case 0:
			SYS(madvise(map + i * PAGE, PAGE, MADV_DONTNEED));
			now[i] = 0;
			break;
		case 1:
		case 2:
		case 3:
			fill(map + i * PAGE, v);
			now[i] = v;
			v = v + 4097 ? v + 4097 : 7;
			big[move_rand(&seed) % BIG]++;
			break;
		default:
			check(map, i);
		}
		if (i % 64 == 0)
			move_nap(200);
	}
	for (int i = 0; i < PAGES; i++)
		check(map, i);
	for (int i = 0; i < 16; i++) {
		uint32_t is;

		memcpy(&is, once + i * PAGE, 4);
		CHECK(is == (i % 2 ? 1000000u * (i + 1) : 99u + i), "page %d, written once: %u", i, is);
	}
	unlink(path);
	return move_pass();
}
