// SPDX-License-Identifier: Apache-2.0
/* mig explain: what would be moved, and what forbids it. Exit status 0: it can move; 1: it cannot, or could not be looked at. */
#include <getopt.h>
#include <string.h>
#include "migd/cli/cli.h"

static void reason(void *arg, json_t *line)
{
	const char *text = json_string_value(json_object_get(line, "reason"));

	if (text)
		json_array_append_new(arg, json_string(text));
}

static void print(int pid, json_t *a, json_t *reasons)
{
	const char *comm = json_string_value(json_object_get(a, "comm"));
	char resident[32], send[32], text[800];
	json_t *one;
	size_t i;

	format_bytes(resident, sizeof(resident), (uint64_t)json_integer_value(json_object_get(a, "resident")));
	format_bytes(send, sizeof(send), (uint64_t)json_integer_value(json_object_get(a, "to_send")));
	if (json_object_get(a, "last_error")) { /* away: its sizes are known over there only */
		const char *where = json_string_value(json_object_get(a, "where")), *why = json_string_value(json_object_get(a, "last_error"));

		snprintf(text, sizeof(text), "%d %s: away on %s, %lld process(es)%s%s", pid, comm ? comm : "?", where ? where : "?",
			(long long)json_integer_value(json_object_get(a, "procs")), why && *why ? "; the last attempt to move it failed: " : "", why ? why : "");
		puts(printable(text));
		return;
	}
	snprintf(text, sizeof(text), "%d %s: %lld process(es), %lld thread(s), %lld open descriptor(s), %s in memory, %s to send", pid, comm ? comm : "?",
		(long long)json_integer_value(json_object_get(a, "procs")), (long long)json_integer_value(json_object_get(a, "threads")),
		(long long)json_integer_value(json_object_get(a, "fds")), resident, send);
	puts(printable(text));
	if (!json_array_size(reasons)) {
		printf("%d can move: would stand still for about %lld ms, longer on a busy host or if it writes to memory fast\n", pid,
			(long long)json_integer_value(json_object_get(a, "freeze_ms")));
		return;
	}
	printf("%d cannot move:\n", pid);
	json_array_foreach(reasons, i, one)
	{
		snprintf(text, sizeof(text), "  %s", json_string_value(one));
		puts(printable(text));
	}
}

int cmd_explain(int argc, char **argv)
{
	static const struct option options[] = {{"json", no_argument, NULL, 'J'}, {0}};
	json_t *answer = NULL, *reasons;
	struct error e = {0};
	bool json = false;
	int c, pid, r;

	while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
		if (c != 'J')
			return option_error("explain", c, argv);
		json = true;
	}
	if (argc - optind != 1 || !(pid = pid_parse(argv[optind])))
		return usage_error("explain", "expected the number of one process");
	reasons = json_array();
	r = ask(json_pack("{s:s, s:i}", "verb", "explain", "pid", pid), reason, reasons, &answer, &e);
	if (r) {
		r = ask_failed(argv[optind], &e);
	} else if (json) {
		json_object_set(answer, "reasons", reasons);
		json_object_del(answer, "ok");
		json_dumpf(answer, stdout, JSON_INDENT(1));
		putchar('\n');
	} else {
		print(pid, answer, reasons);
	}
	if (!r && json_array_size(reasons))
		r = MIG_FAILED;
	json_decref(reasons);
	json_decref(answer);
	return r;
}
