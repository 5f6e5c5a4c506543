/* SPDX-License-Identifier: Apache-2.0 */
/* A map that grows downwards (MAP_GROWSDOWN), as old thread libraries had for stacks: it keeps what is in it, and goes on growing after a move. */
#include "move.h"

enum { PAGE = 4096, ROOM = 2000 };

int main(int argc, char **argv)
{
	move_begin(argc, argv);
	/* free room below it, so that nothing else gets in the way */
	char *room = mmap(NULL, (ROOM + 300) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(room != MAP_FAILED, "mmap");
	char *top = room + (ROOM + 300) * PAGE, *low = top - PAGE;
	SYS(munmap(room, (ROOM + 300) * PAGE));
	CHECK(mmap(low, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE, -1, 0) == low, "MAP_GROWSDOWN: %s", strerror(errno));
	*(volatile long *)low = 1;
	move_ready();
	for (long n = 2; move_more(); n++) {
		if (n < ROOM) {
			low -= PAGE;
			*(volatile long *)low = n; /* a fault below its start makes it grow */
		}
		long last = n < ROOM ? n : ROOM - 1, i = 1;
		for (char *p = top - PAGE; p >= low; p -= PAGE, i++)
			CHECK(*(volatile long *)p == i, "page %ld holds %ld", i, *(volatile long *)p);
		CHECK(i == last + 1, "%ld pages", i);
		move_nap(1000);
	}
	return move_pass();
}
