/* SPDX-License-Identifier: Apache-2.0 */
/* sprite-lab: the command line. Finds the command, hands it the rest. See lab.h for how a lab is made and sprite-lab(1) for its use. */
#include "lab.h"
#include <stdio.h>
#include <string.h>

static const struct command {
	const char *name;
	int (*run)(const char *lab, int argc, char **argv);
	const char *usage, *does;
} commands[] = {
	{"up", cmd_up, "up [-n WORKSTATIONS] [-s SERVERS] [--store SIZE] [--bind SRC:DST] [--cpu-hide NODE=FEATURE,..]", "start a lab; returns when every daemon is ready"},
	{"exec", cmd_exec, "exec NODE [-u USER] [-t|-T] -- CMD...", "run a command on a node"},
	{"ls", cmd_ls, "ls [--json]", "list nodes and daemons"},
	{"logs", cmd_logs, "logs NODE [DAEMON]", "print what daemons wrote"},
	{"kill", cmd_kill, "kill NODE DAEMON [SIGNAL]", "signal a daemon (default KILL)"},
	{"start", cmd_start, "start NODE DAEMON [VAR=VALUE...]", "start a daemon again, wait until it is ready"},
	{"cut", cmd_cut, "cut NODE [NODE]", "pull the node's cable, or lose what these two say to each other"},
	{"heal", cmd_heal, "heal NODE [NODE]", "undo cut"},
	{"link", cmd_link, "link NODE [--delay MS] [--rate MBIT]", "make the node's cable slow; no option: as it was"},
	{"cpu", cmd_cpu, "cpu NODE PERCENT", "let the node have that much of one CPU; 0: no limit"},
	{"input", cmd_input, "input NODE", "press a key at the node's terminal"},
	{"down", cmd_down, "down", "end the lab; leaves nothing"},
};

static void usage(FILE *to)
{
	fprintf(to, "usage: sprite-lab [--name LAB] COMMAND ...\n");
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		fprintf(to, "  %s\n      %s\n", commands[i].usage, commands[i].does);
}

int fail(const struct error *e)
{
	fprintf(stderr, "sprite-lab: %s\n", e->text);
	return 1;
}

int usage_error(const char *command)
{
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (strcmp(commands[i].name, command) == 0)
			fprintf(stderr, "usage: sprite-lab [--name LAB] %s\n", commands[i].usage);
	return 2;
}

int main(int argc, char **argv)
{
	const char *lab = getenv("SPRITE_LAB");
	int i = 1;

	if (argc > 1 && strcmp(argv[1], "link-forward") == 0) /* the hub starts this one */
		return link_forward_main(argc - 1, argv + 1);
	if (!lab || !*lab)
		lab = "lab";
	if (i + 1 < argc && strcmp(argv[i], "--name") == 0) {
		lab = argv[i + 1];
		i += 2;
	} else if (i < argc && strncmp(argv[i], "--name=", 7) == 0) {
		lab = argv[i++] + 7;
	}
	if (i < argc && (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "help") == 0)) {
		usage(stdout);
		return 0;
	}
	if (i < argc && strcmp(argv[i], "--version") == 0) {
		printf("sprite-lab (Sprite for Linux) %s\n", SPRITE_VERSION);
		return 0;
	}
	for (size_t c = 0; i < argc && c < ARRAY_SIZE(commands); c++) {
		if (strcmp(argv[i], commands[c].name) != 0)
			continue;
		if (geteuid() != 0) {
			fprintf(stderr, "sprite-lab: needs root: it makes namespaces\n");
			return 1;
		}
		argv[i] = xasprintf("sprite-lab %s", commands[c].name); /* getopt(3) begins its lines with it */
		return commands[c].run(lab, argc - i, argv + i);
	}
	if (i < argc && strcmp(argv[i], "--name") == 0)
		fprintf(stderr, "sprite-lab: --name needs the name of a lab\n");
	else if (i < argc)
		fprintf(stderr, "sprite-lab: no command \"%s\": see sprite-lab --help\n", argv[i]);
	else
		usage(stderr);
	return 2;
}
