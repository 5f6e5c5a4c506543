// SPDX-License-Identifier: Apache-2.0
/* mig lend, mig evict, mig stop-all: what the owner of a host decides. */
#include <errno.h>
#include <getopt.h>
#include <pwd.h>
#include <string.h>
#include "migd/cli/cli.h"

int cmd_lend(int argc, char **argv)
{
	json_t *rq, *answer = NULL;
	struct error e = {0};
	const char *why;
	char idle[32];
	int r;

	if (argc != 2 || (strcmp(argv[1], "on") && strcmp(argv[1], "off") && strcmp(argv[1], "status")))
		return usage_error("lend", "expected on, off or status");
	rq = json_pack("{s:s}", "verb", "lend");
	if (strcmp(argv[1], "status"))
		json_object_set_new(rq, "on", json_boolean(!strcmp(argv[1], "on")));
	r = ask(rq, NULL, NULL, &answer, &e);
	if (r) {
		json_decref(answer);
		return ask_failed(r, NULL, &e);
	}
	why = json_string_value(json_object_get(answer, "why"));
	format_duration(idle, sizeof(idle), (uint64_t)json_integer_value(json_object_get(answer, "idle_ms")));
	if (!json_is_true(json_object_get(answer, "lend")))
		puts("off: this host takes no guests");
	else if (json_is_true(json_object_get(answer, "idle")))
		printf("on: this host takes guests (nobody has used it for %s)\n", idle);
	else
		printf("on: this host takes guests, but not now (%s)\n", why ? why : "in use");
	json_decref(answer);
	return 0;
}

/* Asks for one family (NULL: all); adds how many were asked. */
static int evict(const char *family, json_int_t *asked)
{
	json_t *rq = json_pack("{s:s}", "verb", "evict"), *answer = NULL;
	struct error e = {0};
	int r;

	if (family)
		json_object_set_new(rq, "family", json_string(family));
	r = ask(rq, NULL, NULL, &answer, &e);
	*asked += json_integer_value(json_object_get(answer, "asked"));
	json_decref(answer);
	return r ? ask_failed(r, NULL, &e) : 0;
}

/* Evicts the families of guests that are process `pid` or belong to `uid`; each once. */
static int evict_some(int pid, json_int_t uid, json_int_t *asked)
{
	struct table t = {0};
	json_t *row, *done = json_object();
	struct error e = {0};
	size_t i;
	int r = ask(json_pack("{s:s, s:b}", "verb", "ps", "all", 1), table_row, &t, NULL, &e);

	if (r)
		r = ask_failed(r, NULL, &e);
	json_array_foreach(t.rows, i, row)
	{
		const char *family = json_string_value(json_object_get(row, "family")), *where = json_string_value(json_object_get(row, "where"));
		json_t *home = json_object_get(row, "home"), *host = json_object_get(row, "host");

		if (r || !family || !where || (strcmp(where, "guest") && strcmp(where, "orphan")) || json_equal(home, host))
			continue;
		if (pid ? json_integer_value(json_object_get(row, "pid")) != pid : json_integer_value(json_object_get(row, "uid")) != uid)
			continue;
		if (!json_object_get(done, family)) {
			json_object_set_new(done, family, json_true());
			r = evict(family, asked);
		}
	}
	json_decref(t.rows);
	json_decref(done);
	return r;
}

static void said(json_int_t asked)
{
	printf("%lld famil%s asked to leave\n", (long long)asked, asked == 1 ? "y" : "ies");
}

int cmd_evict(int argc, char **argv)
{
	static const struct option options[] = {{"all", no_argument, NULL, 'a'}, {0}};
	json_int_t asked = 0, uid = -1;
	struct passwd *pw;
	bool all = false;
	int c, r, pid = 0;

	while ((c = getopt_long(argc, argv, "", options, NULL)) == 'a')
		all = true;
	if (c != -1 || argc - optind != !all)
		return usage_error("evict", "expected --all, a process or a user");
	if (!all && !(pid = pid_parse(argv[optind]))) {
		pw = getpwnam(argv[optind]);
		if (!pw)
			return failed("%s: neither a process nor a user", argv[optind]);
		uid = (json_int_t)pw->pw_uid;
	}
	r = all ? evict(NULL, &asked) : evict_some(pid, uid, &asked);
	if (!r && !all && !asked)
		return failed("%s: no guest of this host", argv[optind]);
	if (!r)
		said(asked);
	return r;
}

int cmd_stop_all(int argc, char **argv)
{
	json_t *answer = NULL;
	struct error e = {0};
	int r;

	if (argc > 1)
		return usage_error("stop-all", "did not expect \"%s\"", argv[1]);
	r = ask(json_pack("{s:s}", "verb", "stop-all"), NULL, NULL, &answer, &e);
	if (!r)
		said(json_integer_value(json_object_get(answer, "asked")));
	json_decref(answer);
	return r ? ask_failed(r, NULL, &e) : 0;
}
