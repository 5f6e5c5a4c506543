/* SPDX-License-Identifier: Apache-2.0 */
/* A 2 GiB map of which 1 page in 4,096 has been written: the rest stays zero, and unallocated. */
#include "move.h"

#define SIZE (2ul << 30)
#define STEP (16ul << 20)

static long resident_kb(void)
{
	char line[200];
	long kb = -1;
	FILE *f = fopen("/proc/self/status", "r");
	while (f && fgets(line, sizeof line, f))
		if (sscanf(line, "VmRSS: %ld", &kb) == 1)
			break;
	if (f)
		fclose(f);
	return kb;
}

int main(int argc, char **argv)
{
	move_begin(argc, argv);
	unsigned char *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(p != MAP_FAILED, "mmap of 2 GiB");
	SYS(madvise(p, SIZE, MADV_NOHUGEPAGE));
	for (size_t i = 0; i < SIZE; i += STEP)
		*(uint64_t *)(p + i + 8) = i ^ 0xabcdef;
	long before = resident_kb();
	move_ready();
	for (uint64_t n = 0; move_more(); n++) {
		for (size_t i = 0; i < SIZE; i += STEP)
			CHECK(*(uint64_t *)(p + i + 8) == (i ^ 0xabcdef), "page at %zu MiB changed", i >> 20);
		long now = resident_kb();
		CHECK(now < before + 8192, "resident %ld kB, was %ld kB: holes have been filled", now, before);
		move_nap(10000);
	}
	for (size_t i = 4096; i < SIZE; i += STEP)
		CHECK(*(uint64_t *)(p + i) == 0, "a hole at %zu MiB is not zero", i >> 20);
	return move_pass();
}
