// SPDX-License-Identifier: Apache-2.0
/* mig ps, mig hosts: listings. */
#include <errno.h>
#include <getopt.h>
#include <string.h>
#include "migd/cli/cli.h"

static const struct column ps_columns[] = {
	{"PID", "pid", COL_NUMBER, false},
	{"USER", "user", COL_TEXT, false},
	{"WHERE", "where", COL_TEXT, false},
	{"HOME", "home", COL_TEXT, false},
	{"HOST", "host", COL_TEXT, false},
	{"SINCE", "since", COL_TIME, false},
	{"COMMAND", "comm", COL_TEXT, false},
	{"PPID", "ppid", COL_NUMBER, true},
	{"UID", "uid", COL_NUMBER, true},
	{"STATE", "state", COL_TEXT, true},
	{"STOPPED", "stopped", COL_BOOL, true},
	{"ROOT", "root", COL_NUMBER, true},
	{"FAMILY", "family", COL_TEXT, true},
	{0},
};
static const struct column host_columns[] = {
	{"NAME", "name", COL_TEXT, false},
	{"STATE", "state", COL_TEXT, false},
	{"IDLE", "idle_ms", COL_DURATION_MS, false},
	{"LOAD", "load", COL_FRACTION, false},
	{"CPUS", "cpus", COL_NUMBER, false},
	{"FREE", "memory_free", COL_BYTES, false},
	{"GUESTS", "guests", COL_NUMBER, false},
	{"AWAY", "away", COL_NUMBER, false},
	{"LEND", "lend", COL_BOOL, false},
	{"WHY", "why", COL_TEXT, false},
	{"ADDRESS", "address", COL_TEXT, true},
	{"PORT", "port", COL_NUMBER, true},
	{"ROOT", "root_guests", COL_BOOL, true},
	{"VERSION", "version", COL_TEXT, true},
	{"ERROR", "error", COL_TEXT, true},
	{"SINCE", "since", COL_TIME, true},
	{0},
};

/* Asks and prints, then extra(rows) if not NULL. Errors are reported here. */
static int list(struct table *t, json_t *request, void (*prepare)(json_t *rows), void (*extra)(json_t *rows))
{
	struct error e = {0};
	json_t *rows;
	int r = ask(request, table_row, t, NULL, &e);

	if (r) {
		json_decref(t->rows);
		return ask_failed(NULL, &e);
	}
	if (prepare && !t->json)
		prepare(t->rows);
	rows = json_incref(t->rows);
	r = table_print(t, stdout, &e) ? failed("%s", e.text) : 0;
	if (!r && extra && !t->json)
		extra(rows);
	json_decref(rows);
	return r;
}

int cmd_ps(int argc, char **argv)
{
	static const struct option options[] = {TABLE_OPTIONS, {"all", no_argument, NULL, 'a'}, {0}};
	struct table t = {.columns = ps_columns};
	bool all = false;
	int c;

	while ((c = getopt_long(argc, argv, ":ao:", options, NULL)) != -1) {
		if (c == 'a')
			all = true;
		else if (!table_option(&t, c, optarg))
			return option_error("ps", c, argv);
	}
	if (optind < argc)
		return usage_error("ps", "did not expect \"%s\"", argv[optind]);
	if (table_check(&t, "ps"))
		return MIG_USAGE;
	return list(&t, json_pack("{s:s, s:b}", "verb", "ps", "all", (int)all), NULL, NULL);
}

/* What one source of idle detection saw last. Only input has a time; of the others the text is what counts. */
static void print_source(const char *host, json_t *s)
{
	const char *name = json_string_value(json_object_get(s, "name")), *what = json_string_value(json_object_get(s, "text"));
	json_int_t ago_ms = json_integer_value(json_object_get(s, "ago_ms"));
	bool input = name && (!strncmp(name, "input ", 6) || !strncmp(name, "tty ", 4));
	char text[600], ago[32] = "never";

	if (ago_ms > 0)
		format_duration(ago, sizeof(ago), (uint64_t)ago_ms);
	what = what ? what : "";
	if (json_is_false(json_object_get(s, "readable")))
		snprintf(text, sizeof(text), "%s: %s: cannot be read: %s", host, name ? name : "?", what);
	else if (input)
		snprintf(text, sizeof(text), "%s: %s: last input %s%s%s", host, name, ago_ms > 0 ? ago : "never", *what ? ": " : "", what);
	else
		snprintf(text, sizeof(text), "%s: %s: %s", host, name ? name : "?", what);
	puts(printable(text));
}

/* Under the table: each host's sources of idle detection, and what holds its guests. */
static void print_sources(json_t *rows)
{
	json_t *row, *s;
	size_t i, k;

	json_array_foreach(rows, i, row)
	{
		const char *host = json_string_value(json_object_get(row, "name")), *groups = json_string_value(json_object_get(row, "cgroups"));

		json_array_foreach(json_object_get(row, "sources"), k, s)
			print_source(host, s);
		if (groups)
			printf("%s: guests are held by: %s\n", host, groups);
	}
}

/* "up" says little to a person: is it idle, in use, or does it take nobody? Why not, where there is no reason of its own. */
static void hosts_prepare(json_t *rows)
{
	json_t *row, *error;
	json_int_t since;
	char when[40];
	size_t i;

	json_array_foreach(rows, i, row)
	{
		const char *state = json_string_value(json_object_get(row, "state"));

		error = json_object_get(row, "error");
		since = json_integer_value(json_object_get(row, "since"));
		format_time(when, sizeof(when), since);
		if (error && !json_object_get(row, "why"))
			json_object_set_new(row, "why", json_sprintf("%s%s%s", json_string_value(error), since ? " since " : "", since ? when : ""));
		if (state && !strcmp(state, "up"))
			json_object_set_new(row, "state", json_string(!json_is_true(json_object_get(row, "lend"))  ? "refuses"
								      : json_is_true(json_object_get(row, "idle")) ? "idle"
														   : "in use"));
	}
}

int cmd_hosts(int argc, char **argv)
{
	static const struct option options[] = {TABLE_OPTIONS, {"verbose", no_argument, NULL, 'v'}, {0}};
	struct table t = {.columns = host_columns};
	bool verbose = false;
	int c;

	while ((c = getopt_long(argc, argv, ":vo:", options, NULL)) != -1) {
		if (c == 'v')
			verbose = true;
		else if (!table_option(&t, c, optarg))
			return option_error("hosts", c, argv);
	}
	if (optind < argc)
		return usage_error("hosts", "did not expect \"%s\"", argv[optind]);
	if (table_check(&t, "hosts"))
		return MIG_USAGE;
	return list(&t, json_pack("{s:s}", "verb", "hosts"), hosts_prepare, verbose ? print_sources : NULL);
}
