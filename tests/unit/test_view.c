// SPDX-License-Identifier: Apache-2.0
/* Root views: a home that is away holds up who wants its files, and nobody else, and that no longer than this migd lives. Its spritefs is a script here. */
#include <CUnit/Basic.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "migd/view.h"

/* Waits for the home "away" for ever, and says its number; finds no other. */
static const char script[] = "#!/bin/sh\ncase $* in */hosts/away*) echo $$ >\"${0%/*}/waits.new\"; mv \"${0%/*}/waits.new\" \"${0%/*}/waits\"; exec sleep 300;; esac\nexit 1\n";

static char dir[] = "/tmp/sprite-view.XXXXXX", program[64], waits[64];
static struct views *views;
static atomic_bool returned;

static void *get_main(void *arg)
{
	struct error *e = arg;
	char *path = NULL;

	view_get(views, "away", &path, e);
	free(path);
	returned = true;
	return NULL;
}

static pid_t waiting(void)
{
	FILE *f;
	int pid = 0;

	while (!(f = fopen(waits, "r")) && !returned)
		usleep(1000);
	if (f) {
		if (fscanf(f, "%d", &pid) != 1)
			pid = 0;
		fclose(f);
	}
	return pid;
}

static void test_away(void)
{
	struct conf conf = { .run_dir = dir, .name = "here", .file = "none" };
	struct migd m = { .conf = &conf, .spritefs = program };
	struct error e = { 0 }, mine = { 0 };
	pthread_t other;
	char *path = NULL;
	pid_t pid;

	CU_ASSERT_FATAL(!views_open(&m, &views));
	CU_ASSERT_FATAL(!pthread_create(&other, NULL, get_main, &e));
	pid = waiting();
	CU_ASSERT_FATAL(pid > 0);
	views_tick(views);
	CU_ASSERT_FALSE(returned);
	CU_ASSERT(view_get(views, "unknown", &path, &mine) == -EHOSTUNREACH);
	CU_ASSERT_PTR_NULL(path);
	CU_ASSERT_FALSE(returned); /* all that happened while the other one waited */
	CU_ASSERT(!kill(pid, 0));
	m.stopping = true;
	pthread_join(other, NULL);
	CU_ASSERT(e.code == ECANCELED); /* and not that its time was over */
	CU_ASSERT(kill(pid, 0) && errno == ESRCH);
	views_close(views);
}

int main(void)
{
	unsigned failed;
	CU_pSuite s;
	FILE *f;

	if (!mkdtemp(dir))
		return 1;
	snprintf(program, sizeof(program), "%s/spritefs", dir);
	snprintf(waits, sizeof(waits), "%s/waits", dir);
	f = fopen(program, "w");
	if (!f || fputs(script, f) < 0 || fclose(f) || chmod(program, 0700) || CU_initialize_registry())
		return 1;
	s = CU_add_suite("view", NULL, NULL);
	CU_add_test(s, "a home that is away", test_away);
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	failed = CU_get_number_of_failures();
	CU_cleanup_registry();
	unlink(waits);
	unlink(program);
	strcat(strcpy(waits, dir), "/homes");
	rmdir(waits);
	rmdir(dir);
	return failed != 0;
}
