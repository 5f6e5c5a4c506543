// SPDX-License-Identifier: Apache-2.0
/* mig lend, mig evict, mig stop-all: what the owner of a host decides. */
#include <errno.h>
#include <getopt.h>
#include <pwd.h>
#include <string.h>
#include <time.h>
#include "migd/cli/cli.h"

/* What migd says of this host, in words. */
static void print_lending(json_t *a)
{
	const char *why = json_string_value(json_object_get(a, "why"));
	json_int_t left = json_integer_value(json_object_get(a, "for"));
	char idle[32], when[40] = "", end[64] = "";

	format_duration(idle, sizeof(idle), (uint64_t)json_integer_value(json_object_get(a, "idle_ms")));
	if (left) {
		format_time(when, sizeof(when), (time(NULL) + left) * 1000000000);
		snprintf(end, sizeof(end), ", until %s", when);
	}
	if (!json_is_true(json_object_get(a, "lend")))
		printf("off: this host takes no guests%s\n", end);
	else if (json_is_true(json_object_get(a, "idle")))
		printf("on: this host takes guests%s (nobody has used it for %s)\n", end, idle);
	else
		printf("on: this host takes guests%s, but not now (%s)\n", end, why ? why : "in use");
}

static void print_json(json_t *a)
{
	json_object_del(a, "ok");
	json_dumpf(a, stdout, JSON_INDENT(1));
	putchar('\n');
}

int cmd_lend(int argc, char **argv)
{
	static const struct option options[] = {{"until", required_argument, NULL, 'u'}, {"json", no_argument, NULL, 'J'}, {0}};
	json_t *rq, *answer = NULL;
	const char *what, *until = NULL;
	struct error e = {0};
	bool json = false;
	int64_t when = 0;
	int c, r;

	while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
		if (c == 'J')
			json = true;
		else if (c == 'u')
			until = optarg;
		else
			return option_error("lend", c, argv);
	}
	what = optind + 1 == argc ? argv[optind] : "";
	if (strcmp(what, "on") && strcmp(what, "off") && strcmp(what, "status"))
		return usage_error("lend", "expected on, off or status");
	if (until && !strcmp(what, "status"))
		return usage_error("lend", "--until goes with on or off");
	if (until && !(when = time_parse(until)))
		return usage_error("lend", "--until: expected a time such as 18:30, +2h or 2026-12-24T18:30, found \"%s\"", until);
	if (when && when <= time(NULL))
		return usage_error("lend", "--until: expected a time to come, found \"%s\"", until);
	rq = json_pack("{s:s}", "verb", "lend");
	if (strcmp(what, "status"))
		json_object_set_new(rq, "on", json_boolean(!strcmp(what, "on")));
	if (when)
		json_object_set_new(rq, "for", json_integer(when > time(NULL) ? when - time(NULL) : -1));
	r = ask(rq, NULL, NULL, &answer, &e);
	if (!r && json)
		print_json(answer);
	else if (!r)
		print_lending(answer);
	json_decref(answer);
	return r ? ask_failed(NULL, &e) : 0;
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
	return r ? ask_failed(NULL, &e) : 0;
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
		r = ask_failed(NULL, &e);
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

static void said(json_int_t asked, bool json)
{
	if (json)
		printf("{\"asked\": %lld}\n", (long long)asked);
	else
		printf("%lld famil%s asked to leave\n", (long long)asked, asked == 1 ? "y" : "ies");
}

int cmd_evict(int argc, char **argv)
{
	static const struct option options[] = {{"all", no_argument, NULL, 'a'}, {"json", no_argument, NULL, 'J'}, {0}};
	json_int_t asked = 0, uid = -1;
	struct passwd *pw;
	bool all = false, json = false;
	int c, r, pid = 0;

	while ((c = getopt_long(argc, argv, ":", options, NULL)) == 'a' || c == 'J') {
		all |= c == 'a';
		json |= c == 'J';
	}
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
		said(asked, json);
	return r;
}

int cmd_stop_all(int argc, char **argv)
{
	json_t *answer = NULL;
	struct error e = {0};
	int r;

	bool json = argc == 2 && !strcmp(argv[1], "--json");

	if (argc > 1 + json)
		return usage_error("stop-all", "did not expect \"%s\"", argv[1]);
	r = ask(json_pack("{s:s}", "verb", "stop-all"), NULL, NULL, &answer, &e);
	if (!r)
		said(json_integer_value(json_object_get(answer, "asked")), json);
	json_decref(answer);
	return r ? ask_failed(NULL, &e) : 0;
}
