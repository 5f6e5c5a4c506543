/* SPDX-License-Identifier: Apache-2.0 */
/* A big map that grows and shrinks in place (mremap) all the time, as a large realloc does: also while its pages are sent ahead. */
#include "move.h"

#define ROOM (64ul << 20)
#define LEAST (8ul << 20)
#define STEP (64ul << 10)

static void expect(const unsigned char *p, size_t from, size_t to)
{
	for (size_t i = from; i < to; i += STEP)
		CHECK(*(const uint64_t *)(p + i) == (i ^ 0x5eed), "%zu KiB in: changed", i >> 10);
}

int main(int argc, char **argv)
{
	move_begin(argc, argv);
	unsigned char *p = mmap(NULL, ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(p != MAP_FAILED, "mmap of 64 MiB");
	SYS(munmap(p + LEAST, ROOM - LEAST)); /* room to grow into */
	size_t size = LEAST;
	for (size_t i = 0; i < size; i += STEP)
		*(uint64_t *)(p + i) = i ^ 0x5eed;
	move_ready();
	while (move_more()) {
		size_t want = size + STEP <= ROOM ? size + STEP : LEAST;
		CHECK(mremap(p, size, want, 0) == p, "mremap from %zu to %zu KiB: %s", size >> 10, want >> 10, strerror(errno));
		if (want > size)
			*(uint64_t *)(p + size) = size ^ 0x5eed;
		size = want;
		if (size == LEAST)
			expect(p, 0, size);
		move_nap(500);
	}
	expect(p, 0, size);
	return move_pass();
}
