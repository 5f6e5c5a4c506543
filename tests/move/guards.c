/* SPDX-License-Identifier: Apache-2.0 */
/* Guard regions (MADV_GUARD_INSTALL, Linux 6.13), as allocators and thread stacks have them: pages that fault, in the middle of memory that does not; put up and taken down. */
#include "move.h"
#include <setjmp.h>
#include <sys/utsname.h>
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif
#define PAGES 64
#define PAGE 4096

/* Linux 6.15 tells them from swapped pages; before that a process that has some is refused (sprite-state(7)). */
static bool told(void)
{
	struct utsname u;
	int major, minor;

	return uname(&u) == 0 && sscanf(u.release, "%d.%d", &major, &minor) == 2 && (major > 6 || (major == 6 && minor >= 15));
}

static sigjmp_buf back;
static void on_fault(int sig)
{
	siglongjmp(back, sig);
}
static bool faults(volatile char *p)
{
	if (sigsetjmp(back, 1))
		return true;
	*p;
	return false;
}

int main(int argc, char **argv)
{
	bool guard[PAGES] = {false};
	uint64_t seed = 7;
	move_begin(argc, argv);
	char *m = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(m != MAP_FAILED, "mmap: %s", strerror(errno));
	if (!told() || madvise(m, PAGE, MADV_GUARD_INSTALL))
		skip("guard regions do not move before Linux 6.15");
	SYS(madvise(m, PAGE, MADV_GUARD_REMOVE));
	signal(SIGSEGV, on_fault);
	for (int i = 0; i < PAGES; i++)
		m[i * PAGE] = i + 1;
	move_ready();
	while (move_more()) {
		int k = move_rand(&seed) % PAGES;
		SYS(madvise(m + k * PAGE, PAGE, guard[k] ? MADV_GUARD_REMOVE : MADV_GUARD_INSTALL));
		if (guard[k])
			m[k * PAGE] = k + 1;
		guard[k] = !guard[k];
		move_nap(20000);
		for (int i = 0; i < PAGES; i++) {
			CHECK(faults(m + i * PAGE) == guard[i], "page %d %s", i, guard[i] ? "is no guard any more" : "faults");
			CHECK(guard[i] || m[i * PAGE] == i + 1, "page %d: %d", i, m[i * PAGE]);
		}
	}
	return move_pass();
}
