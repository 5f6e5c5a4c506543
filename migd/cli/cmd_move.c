// SPDX-License-Identifier: Apache-2.0
/* mig move, mig home, mig rehome: one request for every process; what fails is said, the others go on. */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "migd/cli/cli.h"

struct outcome {
	const char *pid;
	bool quiet, json;
	bool line_open; /* a progress text stands on the terminal */
	unsigned reasons;
};

static void progress_clear(struct outcome *o)
{
	if (o->line_open)
		fputs("\r\033[K", stderr);
	o->line_open = false;
}

/* Progress is for people: on a terminal only, one line that is written over. */
static void progress(struct outcome *o, const char *text)
{
	char line[200];

	if (o->quiet || !isatty(STDERR_FILENO))
		return;
	snprintf(line, sizeof(line), "%s: %s", o->pid, text);
	progress_clear(o);
	fputs(printable(line), stderr);
	o->line_open = true;
}

static void on_line(void *arg, json_t *line)
{
	struct outcome *o = arg;
	const char *text = json_string_value(json_object_get(line, "progress"));
	const char *reason = json_string_value(json_object_get(line, "reason"));

	if (text)
		progress(o, text);
	if (!reason)
		return;
	progress_clear(o);
	o->reasons++;
	failed("%s: %s", o->pid, reason);
}

static void moved(const struct outcome *o, json_t *a)
{
	const char *host = json_string_value(json_object_get(a, "host"));
	double frozen = json_number_value(json_object_get(a, "frozen_us")) / 1000, total = json_number_value(json_object_get(a, "total_us")) / 1000;
	char bytes[32];

	if (o->json) {
		json_object_del(a, "ok");
		json_dumpf(a, stdout, JSON_COMPACT);
		putchar('\n');
	}
	if (o->quiet || o->json)
		return;
	format_bytes(bytes, sizeof(bytes), (uint64_t)json_integer_value(json_object_get(a, "bytes")));
	printf("%s: on %s (%s sent, stood still for %.1f ms of %.1f ms)\n", o->pid, host ? host : "?", bytes, frozen, total);
	fflush(stdout);
}

/* Steals the request; its "pid" is `pid`. Returns the exit status for this one. */
static int one(json_t *rq, const char *pid, bool dry, bool quiet, bool json)
{
	struct outcome o = {.pid = pid, .quiet = quiet, .json = json};
	json_t *a = NULL;
	struct error e = {0};
	int r = ask(rq, on_line, &o, &a, &e), status = 0;

	progress_clear(&o);
	if (r) {
		status = ask_failed(pid, &e);
	} else if (dry) {
		const char *host = json_string_value(json_object_get(a, "host"));

		if (!json_is_true(json_object_get(a, "movable")) || o.reasons)
			status = MIG_FAILED;
		if (json)
			moved(&o, a);
		else if (!status && !quiet)
			printf("%s: can move%s%s\n", pid, host && *host ? " to " : "", host ? host : "");
	} else {
		moved(&o, a);
	}
	json_decref(a);
	return status;
}

static bool max_freeze_parse(const char *s, long *out)
{
	char *end;

	*out = strtol(s, &end, 10);
	return *s && !*end && *out >= 1 && *out <= 3600000;
}

int cmd_move(int argc, char **argv)
{
	static const struct option options[] = {{"dry-run", no_argument, NULL, 'n'}, {"host", required_argument, NULL, 'H'},
		{"max-freeze", required_argument, NULL, 'F'}, {"quiet", no_argument, NULL, 'q'}, {"json", no_argument, NULL, 'J'}, {0}};
	bool dry = false, quiet = false, json = false;
	const char *host = NULL;
	long max_freeze = 0;
	int c, status = 0;

	while ((c = getopt_long(argc, argv, ":nH:q", options, NULL)) != -1) {
		switch (c) {
		case 'n':
			dry = true;
			break;
		case 'H':
			host = optarg;
			break;
		case 'F':
			if (!max_freeze_parse(optarg, &max_freeze))
				return usage_error("move", "--max-freeze: expected milliseconds, found \"%s\"", optarg);
			break;
		case 'q':
			quiet = true;
			break;
		case 'J':
			json = true;
			break;
		default:
			return option_error("move", c, argv);
		}
	}
	if (!pids_check("move", argc - optind, argv + optind))
		return MIG_USAGE;
	for (int i = optind; i < argc && status != MIG_ABSENT; i++) {
		json_t *rq = json_pack("{s:s, s:i, s:s*}", "verb", "move", "pid", pid_parse(argv[i]), "host", host);
		int r;

		if (max_freeze)
			json_object_set_new(rq, "max_freeze", json_integer(max_freeze));
		if (dry)
			json_object_set_new(rq, "explain", json_true());
		r = one(rq, argv[i], dry, quiet, json);
		status = r ? r : status;
	}
	return status;
}

int cmd_home(int argc, char **argv)
{
	static const struct option options[] = {{"quiet", no_argument, NULL, 'q'}, {"json", no_argument, NULL, 'J'}, {0}};
	bool quiet = false, json = false;
	int c, status = 0;

	while ((c = getopt_long(argc, argv, ":q", options, NULL)) != -1) {
		if (c != 'q' && c != 'J')
			return option_error("home", c, argv);
		quiet |= c == 'q';
		json |= c == 'J';
	}
	if (!pids_check("home", argc - optind, argv + optind))
		return MIG_USAGE;
	for (int i = optind; i < argc && status != MIG_ABSENT; i++) {
		int r = one(json_pack("{s:s, s:i}", "verb", "home", "pid", pid_parse(argv[i])), argv[i], false, quiet, json);

		status = r ? r : status;
	}
	return status;
}

int cmd_rehome(int argc, char **argv)
{
	static const struct option options[] = {{"dry-run", no_argument, NULL, 'n'}, {"host", required_argument, NULL, 'H'}, {"quiet", no_argument, NULL, 'q'},
		{"json", no_argument, NULL, 'J'}, {0}};
	bool dry = false, quiet = false, json = false;
	const char *host = NULL;
	int c, status = 0;

	while ((c = getopt_long(argc, argv, ":nH:q", options, NULL)) != -1) {
		if (c != 'n' && c != 'H' && c != 'q' && c != 'J')
			return option_error("rehome", c, argv);
		host = c == 'H' ? optarg : host;
		dry |= c == 'n';
		quiet |= c == 'q';
		json |= c == 'J';
	}
	if (!host)
		return usage_error("rehome", "expected -H with the name of the new home");
	if (!pids_check("rehome", argc - optind, argv + optind))
		return MIG_USAGE;
	for (int i = optind; i < argc && status != MIG_ABSENT; i++) {
		json_t *rq = json_pack("{s:s, s:i, s:s, s:b}", "verb", "rehome", "pid", pid_parse(argv[i]), "host", host, "explain", (int)dry);
		int r = one(rq, argv[i], dry, quiet, json);

		status = r ? r : status;
	}
	return status;
}
