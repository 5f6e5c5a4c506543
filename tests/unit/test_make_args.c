// SPDX-License-Identifier: Apache-2.0
/* Command lines of make, in all of make's ways: what is given on to make, and what of it we have to know. */
#include <CUnit/Basic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "migd/cli/make_args.h"

/* Words of a line, and what is seen: "letter=value" of those that have a letter, then ":" and what make is given, parted by "|". */
static void line(const char *text, const char *letters, const char *given)
{
	char copy[200], *argv[32] = {"make"}, seen[200] = "", as[200] = "";
	struct make_line l;
	struct make_arg a;
	int argc = 1;

	strcpy(copy, text);
	for (char *w = strtok(copy, " "); w; w = strtok(NULL, " "))
		argv[argc++] = w;
	make_line_init(&l, argc, argv);
	while (make_line_next(&l, &a)) {
		if (a.letter)
			sprintf(seen + strlen(seen), "%s%c%s%s", *seen ? " " : "", a.letter, a.value ? "=" : "", a.value ? a.value : "");
		for (int i = 0; i < 2 && a.as[i]; i++)
			sprintf(as + strlen(as), "%s%s", *as ? "|" : "", a.as[i]);
	}
	CU_ASSERT_STRING_EQUAL(seen, letters);
	CU_ASSERT_STRING_EQUAL(as, given);
}

static void test_lines(void)
{
	line("", "", "");
	line("all X=-j4 -", "", "all|X=-j4|-");
	line("-k -j8 all", "k j=8", "-k|-j8|all");
	line("-skj8", "s k j=8", "-s|-k|-j8");
	line("-j 8 -j all -l 2.5 -l all", "j=8 j l=2.5 l", "-j|8|-j|all|-l|2.5|-l|all");
	line("-jk", "j k", "-j|-k");
	line("-f a.mk -fb.mk -sf c.mk -sfd.mk", "f=a.mk f=b.mk s f=c.mk s f=d.mk", "-f|a.mk|-fb.mk|-s|-f|c.mk|-s|-fd.mk");
	line("-C x -Cy -kCz", "C=x C=y k C=z", "-C|x|-Cy|-k|-Cz");
	line("-Oline -O -ksOline all", "O=line O k s O=line", "-Oline|-O|-k|-s|-Oline|all");
	line("-f", "f", "-f");
	line("--jobs=8 --jobs 4 --jobs all", "j=8 j=4 j", "--jobs=8|--jobs|4|--jobs|all");
	line("--file=a --makefile b --directory=x --eval y --always-make", "f=a f=b C=x E=y", "--file=a|--makefile|b|--directory=x|--eval|y|--always-make");
	line("-- -j8 --file=x", "", "--|-j8|--file=x");
}

static void test_ours(void)
{
	char *argv[] = {"make", "--local=3", "--localx", "--local", "2", "--verbose", "--local"};
	struct make_line l;
	struct make_arg a;

	make_line_init(&l, 7, argv);
	CU_ASSERT_TRUE(make_line_next(&l, &a) && make_arg_is(&l, &a, "local", true));
	CU_ASSERT_STRING_EQUAL(a.value, "3");
	CU_ASSERT_TRUE(make_line_next(&l, &a) && !make_arg_is(&l, &a, "local", true));
	CU_ASSERT_TRUE(make_line_next(&l, &a) && make_arg_is(&l, &a, "local", true));
	CU_ASSERT_STRING_EQUAL(a.value, "2");
	CU_ASSERT_TRUE(make_line_next(&l, &a) && make_arg_is(&l, &a, "verbose", false));
	CU_ASSERT_TRUE(make_line_next(&l, &a) && make_arg_is(&l, &a, "local", true));
	CU_ASSERT_PTR_NULL(a.value);
	CU_ASSERT_FALSE(make_line_next(&l, &a));
}

static void alone(const char *flags, const char *want)
{
	char *f = make_flags_alone(flags);

	CU_ASSERT_STRING_EQUAL(f, want);
	free(f);
}

static void test_flags(void)
{
	alone(NULL, "");
	alone("", "");
	alone("ks", "ks");
	alone("k -j8 --jobserver-auth=3,4", "k");
	alone(" -j --jobserver-fds=3,4 -- X=a\\ b", " -- X=a\\ b");
	alone("k -j8 -- LTO=-flto\\ -j4 Y=", "k -- LTO=-flto\\ -j4 Y=");
	alone("w -j -Oline --jobserver-auth=fifo:/tmp/x --no-print-directory", "w -Oline --no-print-directory");
}

int main(void)
{
	CU_initialize_registry();
	CU_pSuite s = CU_add_suite("make_args", NULL, NULL);

	CU_add_test(s, "make's command lines", test_lines);
	CU_add_test(s, "options of ours among them", test_ours);
	CU_add_test(s, "MAKEFLAGS without another's job server", test_flags);
	CU_basic_set_mode(CU_BRM_NORMAL);
	CU_basic_run_tests();
	unsigned bad = CU_get_number_of_failures();

	CU_cleanup_registry();
	return bad ? 1 : 0;
}
