// SPDX-License-Identifier: Apache-2.0
/* sprite-sh, the shell of mig make (cmd_shell.c): a program of its own, since it starts once for every recipe and the rest of mig would have to be loaded each time. */
#include "migd/cli/cli.h"
#include "migd/cli/far.h"
#include <stdlib.h>
#include <string.h>

const struct command commands[] = {{0}};

/* Typed by somebody; under mig make it is for the shell that we are. */
static bool asked(const char *what)
{
	if (!strcmp(what, "--version"))
		printf("sprite-sh (Sprite for Linux) %s\n", SPRITE_VERSION);
	else if (!strcmp(what, "--help"))
		printf("usage: sprite-sh -c RECIPE\n"
		       "The shell of recipes under mig make: asks where this one is to run, goes there and becomes sh(1). Details: sprite-sh(1)\n");
	else
		return false;
	return true;
}

int main(int argc, char **argv)
{
	if (argc == 2 && !getenv("MIG_MAKE_AGENT") && asked(argv[1]))
		return 0;
	if (argc == 3 && !strcmp(argv[1], "--far"))
		return far_go(argv[2]);
	if (argc == 2 && !strcmp(argv[1], "--work"))
		return far_work();
	return cmd_shell(argc, argv);
}
