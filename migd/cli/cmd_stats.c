// SPDX-License-Identifier: Apache-2.0
/*
 * mig stats: who worked for whom so far, as Sprite's authors counted it (Douglis and Ousterhout 1991, section 7): share of remote CPU time, migrations by
 * cause with their times, requests that got a host, evictions, how long hosts had been idle. Of this host, or of all (-a).
 */
#include <errno.h>
#include <getopt.h>
#include <string.h>
#include "conf/cleanup.h"
#include "migd/cli/cli.h"

static const struct column columns[] = {
	{"HOST", "name", COL_TEXT, false},
	{"SINCE", "since", COL_TIME, false},
	{"IDLE", "idle_part", COL_FRACTION, false},
	{"REMOTE", "remote_part", COL_FRACTION, false},
	{"GUESTCPU", "guest_ms", COL_DURATION_MS, false},
	{"AWAYCPU", "away_ms", COL_DURATION_MS, false},
	{"MOVES", "moves", COL_NUMBER, false},
	{"FAILED", "failed", COL_NUMBER, false},
	{"GUESTS", "guests", COL_NUMBER, false},
	{"EVICTED", "evictions", COL_NUMBER, false},
	{"ASKED", "asked", COL_NUMBER, true},
	{"GRANTED", "granted", COL_NUMBER, true},
	{"LOST", "lost", COL_NUMBER, true},
	{"KILLED", "killed", COL_NUMBER, true},
	{"HOSTCPU", "host_ms", COL_DURATION_MS, true},
	{"EXEC", "exec", COL_NUMBER, true},
	{"MOVE", "move", COL_NUMBER, true},
	{"HOME", "home", COL_NUMBER, true},
	{"HOMEWARD", "evicted_home", COL_NUMBER, true},
	{"ONWARD", "evicted_onward", COL_NUMBER, true},
	{0},
};
static const struct {
	const char *key, *text;
} causes[] = {{"exec", "at exec (mig run, mig make)"}, {"move", "of running processes"}, {"home", "brought home"}, {"evicted_home", "evicted, home"},
	{"evicted_onward", "evicted, onward"}};

static double num(json_t *o, const char *key)
{
	return json_number_value(json_object_get(o, key));
}

static double part(double a, double b)
{
	return b > 0 ? a / b : 0;
}

/* Adds up numbers of the same name, at any depth; "since" is the earliest. */
static void add(json_t *to, json_t *from)
{
	const char *key;
	json_t *v;

	json_object_foreach(from, key, v)
	{
		json_t *have = json_object_get(to, key);

		if (json_is_object(v)) {
			if (!have)
				json_object_set_new(to, key, json_object());
			add(json_object_get(to, key), v);
		} else if (json_is_integer(v)) {
			json_int_t a = json_integer_value(have), b = json_integer_value(v);

			json_object_set_new(to, key, json_integer(strcmp(key, "since") ? a + b : a && a < b ? a : b));
		}
	}
}

static json_t *flat(const char *name, json_t *s)
{
	json_t *row = json_object(), *counts = json_object_get(s, "counts"), *moves = json_object_get(s, "moves");
	double n = 0, failed = 0;

	json_object_set_new(row, "name", json_string(name));
	json_object_set(row, "since", json_object_get(s, "since"));
	json_object_set_new(row, "idle_part", json_real(part(num(s, "idle_s"), num(s, "watched_s"))));
	json_object_set_new(row, "remote_part", json_real(part(num(s, "guest_cpu_us"), num(s, "host_cpu_us"))));
	json_object_set_new(row, "guest_ms", json_integer((json_int_t)(num(s, "guest_cpu_us") / 1000)));
	json_object_set_new(row, "away_ms", json_integer((json_int_t)(num(s, "away_cpu_us") / 1000)));
	json_object_set_new(row, "host_ms", json_integer((json_int_t)(num(s, "host_cpu_us") / 1000)));
	json_object_update(row, counts);
	for (size_t i = 0; i < ARRAY_SIZE(causes); i++) {
		json_t *c = json_object_get(moves, causes[i].key);

		json_object_set(row, causes[i].key, json_object_get(c, "n"));
		n += num(c, "n");
		failed += num(c, "failed");
	}
	json_object_set_new(row, "moves", json_integer((json_int_t)n));
	json_object_set_new(row, "failed", json_integer((json_int_t)failed));
	return row;
}

static void print_moves(json_t *moves, double all)
{
	char bytes[32];

	for (size_t i = 0; i < ARRAY_SIZE(causes); i++) {
		json_t *c = json_object_get(moves, causes[i].key);
		double n = num(c, "n");

		if (n <= 0 && num(c, "failed") <= 0)
			continue;
		format_bytes(bytes, sizeof(bytes), (uint64_t)part(num(c, "bytes"), n));
		printf("  %-28s %6.0f  %3.0f %%   mean: %s sent, stood still for %.1f ms of %.1f ms; %.0f failed\n", causes[i].text, n, 100 * part(n, all), bytes,
			part(num(c, "frozen_us"), n) / 1000, part(num(c, "total_us"), n) / 1000, num(c, "failed"));
	}
}

static void print_table(json_t *s, size_t hosts)
{
	json_t *counts = json_object_get(s, "counts"), *row = flat("", s);
	char since[40], guest[32], host[32], away[32], came[32], evicted[32];

	format_time(since, sizeof(since), json_integer_value(json_object_get(s, "since")));
	format_duration(guest, sizeof(guest), (uint64_t)(num(s, "guest_cpu_us") / 1000));
	format_duration(host, sizeof(host), (uint64_t)(num(s, "host_cpu_us") / 1000));
	format_duration(away, sizeof(away), (uint64_t)(num(s, "away_cpu_us") / 1000));
	format_duration(came, sizeof(came), (uint64_t)part(num(s, "came_idle_s") * 1000, num(s, "came_n")));
	format_duration(evicted, sizeof(evicted), (uint64_t)part(num(s, "evicted_idle_s") * 1000, num(s, "evicted_n")));
	printf("%-30s %s, %zu host%s\n", "since", since, hosts, hosts == 1 ? "" : "s");
	printf("%-30s %s of %s here (%.0f %%)\n", "CPU time of guests", guest, host, 100 * num(row, "remote_part"));
	printf("%-30s %s\n", "CPU time of ours elsewhere", away);
	printf("%-30s %.0f %% of the time\n", "idle", 100 * num(row, "idle_part"));
	printf("%-30s %.0f asked for, %.0f granted (%.0f %%), %.0f lost again\n", "slots on other hosts", num(counts, "asked"), num(counts, "granted"),
		100 * part(num(counts, "granted"), num(counts, "asked")), num(counts, "lost"));
	printf("%-30s %.0f came, %.0f were evicted, %.0f of them killed\n", "guests", num(counts, "guests"), num(counts, "evictions"), num(counts, "killed"));
	printf("%-30s %s when guests came, %s when it evicted them\n", "had been idle, on average", came, evicted);
	printf("%-30s %.0f\n", "migrations", num(row, "moves"));
	print_moves(json_object_get(s, "moves"), num(row, "moves"));
	json_decref(row);
}

/* Rows {name, stats} of this host or of all that answer. */
static int ask_stats(bool all, json_t *rows)
{
	struct table t = {.rows = json_array()};
	json_t *answer = NULL, *row;
	struct error e = {0};
	size_t i;
	int r = all ? ask(json_pack("{s:s, s:b}", "verb", "hosts", "stats", 1), table_row, &t, NULL, &e) : ask(json_pack("{s:s}", "verb", "stats"), NULL, NULL, &answer, &e);

	if (!r && !all)
		json_array_append(t.rows, answer);
	json_array_foreach(t.rows, i, row)
		if (json_object_get(row, "stats"))
			json_array_append_new(rows, json_pack("{s:O, s:O}", "name", json_object_get(row, "name"), "stats", json_object_get(row, "stats")));
	json_decref(t.rows);
	json_decref(answer);
	return r ? ask_failed(NULL, &e) : 0;
}

int cmd_stats(int argc, char **argv)
{
	static const struct option options[] = {TABLE_OPTIONS, {"all", no_argument, NULL, 'a'}, {0}};
	struct table t = {.columns = columns};
	json_t *rows, *sum, *row;
	struct error e = {0};
	bool all = false, listing = false;
	size_t i;
	int c, r;

	while ((c = getopt_long(argc, argv, ":ao:", options, NULL)) != -1) {
		if (c == 'a')
			all = true;
		else if (table_option(&t, c, optarg))
			listing = true;
		else
			return option_error("stats", c, argv);
	}
	if (optind < argc)
		return usage_error("stats", "did not expect \"%s\"", argv[optind]);
	if (table_check(&t, "stats"))
		return MIG_USAGE;
	rows = json_array();
	sum = json_object();
	r = ask_stats(all, rows);
	t.rows = json_array();
	json_array_foreach(rows, i, row)
	{
		json_t *s = json_object_get(row, "stats"), *line = flat(json_string_value(json_object_get(row, "name")), s);

		add(sum, s);
		if (t.json)
			json_object_update_missing(line, s);
		json_array_append_new(t.rows, line);
	}
	if (!r && listing)
		r = table_print(&t, stdout, &e) ? failed("%s", e.text) : 0;
	else if (!r)
		print_table(sum, json_array_size(rows));
	json_decref(t.rows);
	json_decref(rows);
	json_decref(sum);
	return r;
}
