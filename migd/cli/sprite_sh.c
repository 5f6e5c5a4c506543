// SPDX-License-Identifier: Apache-2.0
/* sprite-sh, the shell of mig make (cmd_shell.c): a program of its own, since it starts once for every recipe and the rest of mig would have to be loaded each time. */
#include "migd/cli/cli.h"

const struct command commands[] = {{0}};

int main(int argc, char **argv)
{
	return cmd_shell(argc, argv);
}
