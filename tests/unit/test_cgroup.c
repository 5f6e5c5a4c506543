// SPDX-License-Identifier: Apache-2.0
/* Guest cgroups on the real hierarchies of this machine: freeze stops a busy process at once, remove kills and leaves nothing. Needs root. */
#include <CUnit/Basic.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "conf/clock.h"
#include "migd/cgroup.h"

enum { FREEZE_MS = 60000 }; /* for a machine however busy */

static struct cgroups *groups;
static char name[64];

static pid_t busy_child(char *paths)
{
	pid_t pid = fork();

	if (pid == 0)
		for (;;)
			;
	for (char *save = NULL, *p = strtok_r(paths, ":", &save); p; p = strtok_r(NULL, ":", &save)) {
		char file[600];
		FILE *f;

		snprintf(file, sizeof file, "%s/cgroup.procs", p);
		f = fopen(file, "w");
		CU_ASSERT_PTR_NOT_NULL_FATAL(f);
		fprintf(f, "%d", pid);
		CU_ASSERT_EQUAL(fclose(f), 0);
	}
	return pid;
}

static unsigned long ticks(pid_t pid)
{
	char path[64], buf[1024], *p;
	unsigned long ut = 0, st = 0;
	FILE *f;

	snprintf(path, sizeof path, "/proc/%d/stat", pid);
	f = fopen(path, "r");
	if (!f)
		return 0;
	buf[fread(buf, 1, sizeof buf - 1, f)] = 0;
	fclose(f);
	p = strrchr(buf, ')');
	if (p)
		sscanf(p + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &ut, &st);
	return ut + st;
}

static void nap(long ms)
{
	nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static void test_freeze_and_remove(void)
{
	struct cgroup_limits l = {.pids_max = 100};
	struct error e = {0};
	char *paths = NULL;
	pid_t pids[4];

	CU_ASSERT_EQUAL_FATAL(cgroup_make(groups, name, &l, &paths, &e), 0);
	pid_t pid = busy_child(paths);

	free(paths);
	CU_ASSERT_EQUAL(cgroup_pids(groups, name, pids, 4), 1);
	CU_ASSERT_EQUAL(pids[0], pid);
	if (strstr(cgroups_describe(groups), "memory")) {
		uint64_t bytes = UINT64_MAX;

		CU_ASSERT_EQUAL(cgroup_memory(groups, name, &bytes), 0);
		CU_ASSERT_TRUE(bytes < 64 << 20);
	}
	CU_ASSERT_EQUAL(cgroup_freeze(groups, name, true, FREEZE_MS), 0);
	unsigned long before = ticks(pid);

	nap(100);
	CU_ASSERT_EQUAL(ticks(pid), before); /* frozen: uses nothing */
	CU_ASSERT_EQUAL(cgroup_freeze(groups, name, false, FREEZE_MS), 0);
	for (int i = 0; i < 3000 && ticks(pid) == before; i++) /* a busy machine gives it its first tick late */
		nap(20);
	CU_ASSERT_TRUE(ticks(pid) > before);
	CU_ASSERT_EQUAL(cgroup_freeze(groups, name, true, FREEZE_MS), 0);
	CU_ASSERT_EQUAL(cgroup_remove(groups, name, FREEZE_MS), 0); /* frozen or not */
	int status = 0;

	CU_ASSERT_EQUAL(waitpid(pid, &status, 0), pid);
	CU_ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	CU_ASSERT_EQUAL(cgroup_pids(groups, name, pids, 4), -ENOENT);
	CU_ASSERT_EQUAL(cgroup_remove(groups, name, 0), 0);
}

/* The number in a file of one of the group's directories; 0: no hierarchy here has it. */
static unsigned long long value_of(const char *paths, const char *v2_file, const char *v1_file)
{
	unsigned long long v = 0;
	char *copy = strdup(paths), *save = NULL;

	for (char *p = strtok_r(copy, ":", &save); p && !v; p = strtok_r(NULL, ":", &save))
		for (int i = 0; i < 2 && !v; i++) {
			char file[600];
			FILE *f;

			snprintf(file, sizeof file, "%s/%s", p, i ? v1_file : v2_file);
			f = fopen(file, "r");
			if (f && fscanf(f, "%llu", &v) != 1)
				v = 0;
			if (f)
				fclose(f);
		}
	free(copy);
	return v;
}

static uint64_t hand = 1000000000000; /* of the clock */

static uint64_t by_hand(void)
{
	return hand;
}

/* Guests have the CPU like anybody while one arrives, but not for longer than a second, or while all leave; each reason by itself. */
static void test_hurry(void)
{
	struct cgroup_limits none = {0};
	struct error e = {0};
	char *paths = NULL;

	CU_ASSERT_EQUAL_FATAL(cgroups_limit_all(groups, &none, &e), 0);
	CU_ASSERT_EQUAL_FATAL(cgroup_make(groups, name, &none, &paths, &e), 0);
	clock_fake(by_hand);
#define IDLE value_of(paths, "../cpu.idle", "../cpu.idle")
	if (IDLE == 1) { /* else the host has no such controller to give */
		cgroups_arrival(groups, true);
		CU_ASSERT_EQUAL(IDLE, 0);
		cgroups_arrival(groups, true);
		cgroups_arrival(groups, false);
		cgroups_calm(groups, UINT64_MAX);
		CU_ASSERT_EQUAL(IDLE, 0); /* one is still on its way in, not long since */
		cgroups_hurry(groups);
		cgroups_arrival(groups, false);
		CU_ASSERT_EQUAL(IDLE, 0);
		cgroups_calm(groups, 0);
		CU_ASSERT_EQUAL(IDLE, 1);
		cgroups_arrival(groups, true);
		hand += 1100000000;
		cgroups_calm(groups, UINT64_MAX);
		CU_ASSERT_EQUAL(IDLE, 1); /* it takes too long */
		cgroups_arrival(groups, false);
		cgroups_arrival(groups, true);
		CU_ASSERT_EQUAL(IDLE, 0);
		cgroups_arrival(groups, false);
		CU_ASSERT_EQUAL(IDLE, 1);
	}
#undef IDLE
	clock_fake(NULL);
	free(paths);
	CU_ASSERT_EQUAL(cgroup_remove(groups, name, FREEZE_MS), 0);
}

/* A group that is there already gets new limits, higher and lower: v1 has two that depend on each other. */
static void test_limit_changes(void)
{
	static const unsigned mib[] = {64, 256, 32, 128};

	if (!strstr(cgroups_describe(groups), "memory"))
		return; /* the host has no such controller to give */
	for (int i = 0; i < 4; i++) {
		struct cgroup_limits l = {.memory_max = (uint64_t)mib[i] << 20};
		struct error e = {0};
		char *paths = NULL;

		CU_ASSERT_EQUAL_FATAL(cgroup_make(groups, name, &l, &paths, &e), 0);
		CU_ASSERT_EQUAL(value_of(paths, "memory.max", "memory.limit_in_bytes"), l.memory_max);
		if (value_of(paths, "-", "memory.memsw.limit_in_bytes"))
			CU_ASSERT_EQUAL(value_of(paths, "-", "memory.memsw.limit_in_bytes"), l.memory_max);
		free(paths);
	}
	CU_ASSERT_EQUAL(cgroup_remove(groups, name, FREEZE_MS), 0);
}

static void test_bad_names(void)
{
	struct cgroup_limits l = {0};
	struct error e = {0};
	char *paths = NULL;

	CU_ASSERT_EQUAL(cgroup_make(groups, "../x", &l, &paths, &e), -EINVAL);
	CU_ASSERT_PTR_NOT_NULL(strstr(e.text, "expected letters"));
	CU_ASSERT_EQUAL(cgroup_make(groups, "", &l, &paths, NULL), -EINVAL);
}

int main(void)
{
	struct error e = {0};

	if (geteuid() != 0) {
		puts("skipped: needs root");
		return 77;
	}
	if (cgroups_open(&groups, &e)) {
		printf("skipped: %s\n", e.text);
		return 77;
	}
	printf("controllers: %s\n", cgroups_describe(groups));
	snprintf(name, sizeof name, "unit-%d", getpid());
	CU_initialize_registry();
	CU_pSuite s = CU_add_suite("cgroup", NULL, NULL);

	CU_add_test(s, "freeze stops it, remove leaves nothing", test_freeze_and_remove);
	CU_add_test(s, "limits are raised and lowered", test_limit_changes);
	CU_add_test(s, "guests in a hurry", test_hurry);
	CU_add_test(s, "bad names", test_bad_names);
	CU_basic_run_tests();
	int failed = CU_get_number_of_failures();

	CU_cleanup_registry();
	cgroups_close(groups);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
