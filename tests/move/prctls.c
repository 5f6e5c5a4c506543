/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Settings of a process that no other program here has: capabilities kept over setuid, no huge pages, merging of equal pages, memory that is written and never run
 * (MDWE), what is mapped later locked (mlockall), advice on memory. Those that can be taken back change all the time.
 */
#include "move.h"
#include <sys/prctl.h>
#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#define PR_GET_MDWE 66
#endif
#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#define PR_GET_MEMORY_MERGE 68
#endif

/* VmFlags of the map at p; NULL: none there. */
static const char *flags_of(const void *p)
{
	static char line[600];
	unsigned long a, b;
	bool here = false;
	FILE *f = fopen("/proc/self/smaps", "re");
	CHECK(f, "smaps: %s", strerror(errno));
	while (fgets(line, sizeof line, f)) {
		if (sscanf(line, "%lx-%lx ", &a, &b) == 2)
			here = (unsigned long)p >= a && (unsigned long)p < b;
		else if (here && !strncmp(line, "VmFlags:", 8)) {
			fclose(f);
			return line;
		}
	}
	fclose(f);
	return NULL;
}
static void *pages(size_t n)
{
	void *p = mmap(NULL, n * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(p != MAP_FAILED, "mmap: %s", strerror(errno));
	return p;
}

/* What is mapped from now on is locked, and there at once unless ON_FAULT. */
static void check_future(int want)
{
	char *p = pages(64);
	unsigned char there[64];
	const char *f = flags_of(p);
	SYS(mincore(p, 64 * 4096, there));
	CHECK(f && !!strstr(f, " lo") == !!(want & MCL_FUTURE), "mlockall(%d): a new map has %s", want, f ? f : "no flags");
	CHECK((there[60] & 1) == (want == MCL_FUTURE), "mlockall(%d): the pages of a new map are %sthere", want, there[60] & 1 ? "" : "not ");
	munmap(p, 64 * 4096);
}

/* Sleeps; without the time stamp counter, which libc's clocks need, so only here. */
static void quiet_nap(bool no_tsc)
{
	int is = PR_TSC_SIGSEGV;
	if (no_tsc)
		SYS(prctl(PR_SET_TSC, PR_TSC_SIGSEGV));
	move_nap(10000);
	if (no_tsc) {
		SYS(prctl(PR_GET_TSC, &is));
		SYS(prctl(PR_SET_TSC, PR_TSC_ENABLE));
	}
	CHECK(is == PR_TSC_SIGSEGV, "the time stamp counter can be read again: %d", is);
}

static const struct {
	int advice;
	const char *flag;
	bool may_miss;
} advices[] = {{MADV_DONTFORK, " dc", false}, {MADV_WIPEONFORK, " wf", false}, {MADV_NOHUGEPAGE, " nh", false}, {MADV_HUGEPAGE, " hg", false}, {MADV_MERGEABLE, " mg", true},
	{MADV_DONTDUMP, " dd", false}, {MADV_SEQUENTIAL, " sr", false}, {MADV_RANDOM, " rr", false}};
enum { ADVICES = sizeof advices / sizeof advices[0] };

/* A child has what was advised: nothing, zeros, or the contents. */
static void check_fork(char *dont, char *wipe, char *plain)
{
	pid_t kid = SYS(fork());
	if (!kid) {
		unsigned char v;
		_exit(mincore(dont, 4096, &v) < 0 && errno == ENOMEM && *wipe == 0 && *plain == 'c' ? 0 : 1);
	}
	int st;
	SYS(waitpid(kid, &st, 0));
	CHECK(st == 0, "a child does not have the memory that was advised: %x", st);
}

int main(int argc, char **argv)
{
	move_begin(argc, argv);
	char *area[ADVICES];
	bool had[ADVICES];
	for (int i = 0; i < ADVICES; i++) {
		char *hole = pages(1); /* each a map of its own */
		area[i] = pages(3);
		munmap(hole, 4096);
		area[i][5] = 'c';
		had[i] = madvise(area[i], 3 * 4096, advices[i].advice) == 0;
		CHECK(had[i] || advices[i].may_miss || errno == EINVAL, "madvise(%d): %s", advices[i].advice, strerror(errno));
	}
	SYS(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
	int tsc = 0, spec = prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, 0, 0, 0);
	bool has_tsc = prctl(PR_GET_TSC, &tsc) == 0, has_spec = spec > 0 && spec & PR_SPEC_PRCTL;
	bool mdwe = prctl(PR_SET_MDWE, 1, 0, 0, 0) == 0, merge = prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0) == 0;
	move_ready();
	for (unsigned n = 0; move_more(); n++) {
		static const int locks[] = {0, MCL_FUTURE, MCL_FUTURE | MCL_ONFAULT};
		int lock = locks[n % 3], keep = n & 1;
		SYS(munlockall());
		if (lock)
			SYS(mlockall(lock));
		SYS(prctl(PR_SET_KEEPCAPS, keep));
		if (has_spec)
			SYS(prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, keep ? PR_SPEC_DISABLE : PR_SPEC_ENABLE, 0, 0));
		for (int i = 0; i < 20 && move_more(); i++) {
			quiet_nap(has_tsc && keep);
			check_future(lock);
			CHECK(prctl(PR_GET_KEEPCAPS) == keep, "keepcaps was %d", keep);
			spec = has_spec ? prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, 0, 0, 0) : 0;
			CHECK(!has_spec || !!(spec & PR_SPEC_DISABLE) == keep, "speculation past stores was %s, is %x", keep ? "disabled" : "enabled", spec);
			CHECK(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1, "huge pages are allowed again");
			CHECK(!merge || prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0) == 1, "equal pages are not merged any more");
			if (mdwe) {
				CHECK(prctl(PR_GET_MDWE, 0, 0, 0, 0) == 1, "MDWE is gone");
				void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
				CHECK(p == MAP_FAILED && errno == EACCES, "memory to be written and run");
			}
		}
		for (int i = 0; i < ADVICES; i++) {
			const char *f = flags_of(area[i]);
			CHECK(f && (!had[i] || strstr(f, advices[i].flag)), "advice %d: %s", advices[i].advice, f ? f : "no map");
			CHECK(area[i][5] == 'c' && !area[i][2 * 4096], "contents under advice %d", advices[i].advice);
		}
		check_fork(area[0], area[1] + 5, area[2] + 5);
	}
	return move_pass();
}
