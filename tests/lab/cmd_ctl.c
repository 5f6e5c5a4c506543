/* SPDX-License-Identifier: Apache-2.0 */
/* sprite-lab kill, start, input, cpu: one request each to a node's init, or to its control group. */
#include "lab.h"
#include <ctype.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

static int signal_number(const char *text)
{
	if (isdigit((unsigned char)text[0])) {
		int n = atoi(text);
		return n < NSIG ? n : -1;
	}
	if (strncasecmp(text, "SIG", 3) == 0)
		text += 3;
	for (int n = 1; n < NSIG; n++)
		if (sigabbrev_np(n) && strcasecmp(sigabbrev_np(n), text) == 0)
			return n;
	return -1;
}

/* Opens the lab, asks the node, prints what went wrong. */
static int ask(const char *name, const char *node, json_t *request)
{
	static struct lab lab;
	struct lab_node *n;
	struct error e = {0};

	if (lab_use_node(&lab, name, node, &n, &e) < 0) {
		json_decref(request);
		return fail(&e);
	}
	return client_call(&lab, node, request, NULL, &e) < 0 ? fail(&e) : 0;
}

int cmd_kill(const char *name, int argc, char **argv)
{
	int sig = argc == 4 ? signal_number(argv[3]) : SIGKILL;

	if (sig < 0)
		fprintf(stderr, "sprite-lab: kill: no signal \"%s\"\n", argv[3]);
	if (argc < 3 || argc > 4 || sig < 0)
		return usage_error("kill");
	return ask(name, argv[1], json_pack("{s:s, s:s, s:i}", "verb", "kill", "daemon", argv[2], "signal", sig));
}

int cmd_start(const char *name, int argc, char **argv)
{
	json_t *env = json_array();

	for (int i = 3; i < argc; i++)
		if (!strchr(argv[i], '=') || json_array_append_new(env, json_string(argv[i])) < 0)
			argc = 0;
	if (argc < 3) {
		json_decref(env);
		return usage_error("start");
	}
	return ask(name, argv[1], json_pack("{s:s, s:s, s:o}", "verb", "start", "daemon", argv[2], "env", env));
}

int cmd_input(const char *name, int argc, char **argv)
{
	if (argc != 2)
		return usage_error("input");
	return ask(name, argv[1], json_pack("{s:s}", "verb", "input"));
}

int cmd_cpu(const char *name, int argc, char **argv)
{
	static struct lab lab;
	struct lab_node *n;
	struct error e = {0};
	char *end = NULL;
	long percent = argc == 3 ? strtol(argv[2], &end, 10) : -1;

	if (argc == 3 && (percent < 0 || percent > 100000 || *end || end == argv[2])) {
		fprintf(stderr, "sprite-lab: cpu: expected percents of one CPU, 0 to 100000, found \"%s\"\n", argv[2]);
		return usage_error("cpu");
	}
	if (argc != 3)
		return usage_error("cpu");
	if (lab_use_node(&lab, name, argv[1], &n, &e) < 0 || cgroup_node_cpu(&lab, n->name, percent, &e) < 0)
		return fail(&e);
	return 0;
}
