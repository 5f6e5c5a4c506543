// SPDX-License-Identifier: Apache-2.0
/* mig: finds the verb and hands it the rest. */
#include "migd/cli/cli.h"

#include <errno.h>
#include <getopt.h>
#include <string.h>

#ifndef SPRITE_VERSION
#define SPRITE_VERSION "unknown"
#endif

const struct command commands[] = {
	{"run", cmd_run, "run [-H HOST] [--priority low|normal|high] [--local-ok] [-b] [-v] [--kill-if-stuck[=SECONDS]] [--] CMD...", "run a command on an idle host"},
	{"shell", cmd_term, "shell [-H HOST] [--priority low|normal|high] [-v] [--] [CMD...]", "an interactive shell, or another program for the terminal, on an idle host"},
	{"make", cmd_make, "make [-j N] [--local N] [--remote N] [--priority low|normal|high] [--verbose] [ARGUMENTS OF MAKE]", "make with recipes on idle hosts"},
	{"move", cmd_move, "move [-n] [-H HOST] [--max-freeze MS] [-q] [--json] PID...", "move running processes, with their descendants"},
	{"home", cmd_home, "home [-q] [--json] PID...", "bring processes home"},
	{"rehome", cmd_rehome, "rehome [-n] -H HOST [-q] [--json] PID...", "give processes another home, for good"},
	{"resolve", cmd_resolve, "resolve --run|--drop PID...", "decide a move that is in doubt and whose other host cannot be asked"},
	{"explain", cmd_explain, "explain [--json] PID", "what a process holds, and what forbids moving it"},
	{"ps", cmd_ps, "ps [-a] [-o COLUMNS] [--no-header] [--json]", "which processes are away, and which are guests here"},
	{"hosts", cmd_hosts, "hosts [-v] [-o COLUMNS] [--no-header] [--json]", "which hosts there are, and how they do"},
	{"env", cmd_env, "env [list [--json] | get NAME | set NAME=VALUE... | unset NAME...]", "variables that all processes of a login share, wherever they run"},
	{"top", cmd_top, "top [-d SECONDS] [-n TIMES] [--json]", "hosts, load and migrations, live"},
	{"stats", cmd_stats, "stats [-a] [-o COLUMNS] [--no-header] [--json]", "who worked for whom so far"},
	{"lend", cmd_lend, "lend on|off|status [--until TIME] [--json]", "may this host take guests"},
	{"evict", cmd_evict, "evict [--json] --all|PID|USER", "send guests of this host away"},
	{"stop-all", cmd_stop_all, "stop-all [--json]", "send all guests of this host away and take no new ones"},
	{0},
};

static void help(FILE *to)
{
	fprintf(to, "usage: mig VERB ...\n");
	for (const struct command *c = commands; c->name; c++)
		fprintf(to, "  mig %s\n      %s\n", c->usage, c->does);
	fprintf(to, "Details: mig(1)\n");
}

static int verb(int argc, char **argv)
{
	const char *slash = strrchr(argv[0], '/');

	if (slash && !strcmp(slash, "/make")) { /* cmd_make.c */
		argv[0] = "$(MAKE)";
		return cmd_make(argc, argv);
	}
	if (argc < 2) {
		help(stderr);
		return MIG_USAGE;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "help") || !strcmp(argv[1], "-h")) {
		help(stdout);
		return 0;
	}
	if (!strcmp(argv[1], "--version")) {
		printf("mig (Sprite for Linux) %s\n", SPRITE_VERSION);
		return 0;
	}
	opterr = 0; /* usage_error() says it */
	for (const struct command *c = commands; c->name; c++) {
		if (strcmp(c->name, argv[1]))
			continue;
		if (argc == 3 && !strcmp(argv[2], "--help")) {
			printf("usage: mig %s\n%s. Details: mig(1)\n", c->usage, c->does);
			return 0;
		}
		return c->run(argc - 1, argv + 1);
	}
	fprintf(stderr, "mig: no verb \"%s\"; see mig --help\n", argv[1]);
	return MIG_USAGE;
}

/* What could not be written was not said: a listing cut short must not look like a whole one. */
int main(int argc, char **argv)
{
	int status = verb(argc, argv), err = ferror(stdout) ? EIO : 0;

	errno = 0;
	if (fflush(stdout))
		err = errno;
	if (err)
		failed("standard output: %s", strerror(err));
	return err && !status ? MIG_FAILED : status;
}
