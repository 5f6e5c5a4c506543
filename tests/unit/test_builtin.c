// SPDX-License-Identifier: Apache-2.0
/* Recipes that need no program: they do what the program does, and leave to it what goes wrong. */
#include <CUnit/Basic.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "migd/cli/builtin.h"
#include "migd/cli/command.h"

enum { IS_NONE = -2 };

/* Its exit status; -1: left to the program; IS_NONE: none of ours. */
static int run(const char *command)
{
	char buf[256], *argv[8];
	bool says;

	CU_ASSERT_TRUE_FATAL(command_split(command, buf, sizeof(buf), argv, 8) > 0);
	return builtin_is(argv, &says) ? builtin_do(argv) : IS_NONE;
}

static mode_t mode_of(const char *file)
{
	struct stat st;

	return lstat(file, &st) ? 0 : st.st_mode;
}

static void test_which(void)
{
	static const char *const none[] = {"touch", "touch -r a b", "touch a -c", "mkdir a", "mkdir -p", "mkdir -p -m 700 a", "rm a", "rm -rf a", "rm -f -r a", "echo -n x", "gcc", "cp a b", "/bin/touch a"};

	for (size_t i = 0; i < sizeof(none) / sizeof(none[0]); i++)
		CU_ASSERT_EQUAL(run(none[i]), IS_NONE);
	CU_ASSERT_EQUAL(run("true x"), 0);
	CU_ASSERT_EQUAL(run("false"), 1);
}

static void test_names(void)
{
	struct stat st;

	umask(027);
	CU_ASSERT_EQUAL(run("touch a b"), 0);
	CU_ASSERT_EQUAL(mode_of("a"), S_IFREG | 0640);
	CU_ASSERT_EQUAL(mode_of("b"), S_IFREG | 0640);
	CU_ASSERT_EQUAL(utimensat(AT_FDCWD, "a", (struct timespec[2]){{1, 0}, {1, 0}}, 0), 0);
	CU_ASSERT_EQUAL(run("touch a"), 0);
	CU_ASSERT_TRUE(!stat("a", &st) && st.st_mtim.tv_sec > 1 && st.st_size == 0);
	CU_ASSERT_EQUAL(run("mkdir -p d/e/f d d/g/"), 0);
	CU_ASSERT_EQUAL(mode_of("d/e/f"), S_IFDIR | 0750);
	CU_ASSERT_EQUAL(mode_of("d/g"), S_IFDIR | 0750);
	CU_ASSERT_EQUAL(run("rm -f b nothing"), 0);
	CU_ASSERT_EQUAL(mode_of("b"), 0);
}

static void test_the_program_has_to(void)
{
	char dir[] = "/tmp/sprite-builtin.XXXXXX", path[128], *old = strdup(getenv("PATH"));

	CU_ASSERT_EQUAL(run("touch d"), -1); /* a directory */
	CU_ASSERT_EQUAL(run("touch nowhere/x"), -1);
	CU_ASSERT_EQUAL(run("rm -f d"), -1);
	CU_ASSERT_EQUAL(run("mkdir -p a"), -1);
	CU_ASSERT_EQUAL(run("mkdir -p a/x"), -1);
	umask(0277);
	CU_ASSERT_EQUAL(run("mkdir -p h/i"), -1);
	umask(022);
	/* somebody's own */
	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/touch", dir);
	CU_ASSERT_EQUAL(symlink("/bin/true", path), 0);
	snprintf(path, sizeof(path), "%s:/usr/bin:/bin", dir);
	setenv("PATH", path, 1);
	CU_ASSERT_EQUAL(run("touch c"), IS_NONE);
	CU_ASSERT_EQUAL(run("rm -f c"), 0);
	setenv("PATH", ":/usr/bin", 1); /* where we stand */
	CU_ASSERT_EQUAL(run("rm -f c"), IS_NONE);
	setenv("PATH", old, 1);
	free(old);
	snprintf(path, sizeof(path), "%s/touch", dir);
	unlink(path);
	rmdir(dir);
}

int main(void)
{
	char dir[] = "/tmp/sprite-builtin.XXXXXX", command[64];

	if (!mkdtemp(dir) || chdir(dir))
		return EXIT_FAILURE;
	setenv("PATH", "/usr/local/bin:/usr/bin:/bin", 1);
	CU_initialize_registry();
	CU_pSuite s = CU_add_suite("builtin", NULL, NULL);

	CU_add_test(s, "which", test_which);
	CU_add_test(s, "names", test_names);
	CU_add_test(s, "what the program has to do", test_the_program_has_to);
	CU_basic_run_tests();
	int failed = CU_get_number_of_failures();

	CU_cleanup_registry();
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command) || failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
