// SPDX-License-Identifier: Apache-2.0
/*
 * mig top: hosts, their load over the last minutes, and the last migrations, live. One request to migd a tick; drawing is all that happens here. Without a
 * terminal (or with -n) it prints plain pages, so that it can be looked at by programs too.
 */
#include <curses.h>
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "migd/cli/cli.h"

enum { HOSTS_MAX = 512, BARS = 40 };

struct top {
	json_t *hosts; /* rows of the verb "hosts" with stats */
	struct error e;
	int err;
	size_t from; /* first host shown */
	bool curses, json;
	int lines, cols, at;
};

/* ---- what is seen ---- */

static void top_ask(struct top *t)
{
	struct table rows = {.rows = json_array()};

	t->e = (struct error){0};
	t->err = ask(json_pack("{s:s, s:b}", "verb", "hosts", "stats", 1), table_row, &rows, NULL, &t->e);
	if (t->err) {
		json_decref(rows.rows);
		return; /* what was seen last stays */
	}
	json_decref(t->hosts);
	t->hosts = rows.rows;
}

static const char *text(json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "";
}

static double num(json_t *o, const char *key)
{
	return json_number_value(json_object_get(o, key));
}

static int by_time(const void *a, const void *b)
{
	double x = num(*(json_t *const *)a, "when"), y = num(*(json_t *const *)b, "when");

	return x > y ? -1 : x < y;
}

static json_t *recent(json_t *host)
{
	return json_object_get(json_object_get(host, "stats"), "recent");
}

/* The last moves of all homes, newest first; borrowed, but for the array, which the caller frees. */
static json_t **moves(const struct top *t, size_t *n)
{
	json_t *host, *m, **all;
	size_t i, k, room = 0;

	*n = 0;
	json_array_foreach(t->hosts, i, host)
		room += json_array_size(recent(host));
	all = calloc(room + 1, sizeof(json_t *));
	if (!all)
		return NULL;
	json_array_foreach(t->hosts, i, host)
		json_array_foreach(recent(host), k, m)
			all[(*n)++] = m;
	if (*n > 1)
		qsort(all, *n, sizeof(json_t *), by_time);
	return all;
}

/* ---- drawing ---- */

static void line(struct top *t, int attr, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void line(struct top *t, int attr, const char *fmt, ...)
{
	char buf[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(buf, sizeof(buf), fmt, ap);
	va_end(ap);
	printable(buf);
	if (!t->curses) {
		puts(buf);
		return;
	}
	if (t->at >= t->lines)
		return;
	attron(attr);
	mvaddnstr(t->at++, 0, buf, t->cols);
	attroff(attr);
	clrtoeol();
}

/* Load over the last minutes as a row of digits: tenths of a CPU each, '.' for none, '#' from one CPU on. */
static void history(json_t *h, char *to, size_t width)
{
	size_t n = json_array_size(h), from = n > width ? n - width : 0;

	for (size_t i = from; i < n; i++) {
		double load = json_number_value(json_array_get(json_array_get(h, i), 0));

		*to++ = load < 0.05 ? '.' : load >= 0.95 ? '#' : (char)('0' + (int)(load * 10 + 0.5));
	}
	*to = 0;
}

static const char *state_of(json_t *host)
{
	const char *s = text(host, "state");

	if (strcmp(s, "up"))
		return s;
	return !json_is_true(json_object_get(host, "lend")) ? "refuses" : json_is_true(json_object_get(host, "idle")) ? "idle" : "in use";
}

static void draw_head(struct top *t)
{
	size_t i, idle = 0, guests = 0, up = 0;
	const char *master = "none";
	char now[40];
	json_t *host;

	json_array_foreach(t->hosts, i, host)
	{
		up += !strcmp(text(host, "state"), "up");
		idle += !strcmp(state_of(host), "idle");
		guests += (size_t)num(host, "guests");
		if (json_is_true(json_object_get(host, "master")))
			master = text(host, "name");
	}
	format_time(now, sizeof(now), (int64_t)time(NULL) * 1000000000);
	line(t, A_BOLD, "mig top  %s  %zu hosts, %zu up, %zu idle, %zu guests; master: %s", now, json_array_size(t->hosts), up, idle, guests, master);
	if (t->err)
		line(t, A_BOLD, "migd does not answer: %s", t->e.text);
	line(t, 0, "%s", "");
}

static void draw_hosts(struct top *t, int most)
{
	json_t *host;
	size_t i;

	line(t, A_REVERSE, "%-16s %-8s %8s %6s %4s %6s %6s %6s  %s", "HOST", "STATE", "IDLE", "LOAD", "CPUS", "FREE", "GUESTS", "AWAY", "LOAD PER CPU (latest right)");
	json_array_foreach(t->hosts, i, host)
	{
		char idle[32] = "-", mem[32] = "-", bars[BARS + 1] = "";

		if (i < t->from || most-- <= 0)
			continue;
		history(json_object_get(json_object_get(host, "stats"), "history"), bars, BARS);
		if (json_object_get(host, "idle_ms")) {
			format_duration(idle, sizeof(idle), (uint64_t)num(host, "idle_ms"));
			format_bytes(mem, sizeof(mem), (uint64_t)num(host, "memory_free"));
		}
		line(t, strcmp(text(host, "state"), "up") ? A_DIM : 0, "%-16.16s %-8.8s %8s %6.2f %4.0f %6s %6.0f %6.0f  %s", text(host, "name"), state_of(host), idle,
			num(host, "load"), num(host, "cpus"), mem, num(host, "guests"), num(host, "away"), bars);
	}
}

static void draw_moves(struct top *t, int most)
{
	size_t n;
	_cleanup_free_ json_t **m = moves(t, &n);

	line(t, 0, "%s", "");
	line(t, A_REVERSE, "%-20s %-14s %7s %-15s %-24s %6s %10s %10s", "WHEN", "WHY", "PID", "COMMAND", "FROM -> TO", "SENT", "STOOD", "TOOK");
	for (size_t i = 0; i < n && most-- > 0; i++) {
		char when[40], bytes[32], way[80], failed_[80] = "";

		format_time(when, sizeof(when), json_integer_value(json_object_get(m[i], "when")));
		format_bytes(bytes, sizeof(bytes), (uint64_t)num(m[i], "bytes"));
		snprintf(way, sizeof(way), "%.30s -> %.30s", text(m[i], "from"), text(m[i], "to"));
		if (num(m[i], "errno") > 0)
			snprintf(failed_, sizeof(failed_), "  failed: %s", strerror((int)num(m[i], "errno")));
		line(t, 0, "%-20s %-14s %7.0f %-15.15s %-24s %6s %7.1f ms %7.1f ms%s", when, text(m[i], "cause"), num(m[i], "pid"), text(m[i], "comm"), way, bytes,
			num(m[i], "frozen_us") / 1000, num(m[i], "total_us") / 1000, failed_);
	}
}

/* A page as one line of JSON: the rows of mig hosts --json with their statistics, and the last moves of all homes, newest first. */
static void draw_json(const struct top *t)
{
	size_t n;
	_cleanup_free_ json_t **m = moves(t, &n);
	json_t *list = json_array(), *page;

	for (size_t i = 0; m && i < n; i++)
		json_array_append(list, m[i]);
	page = json_pack("{s:I, s:O, s:o}", "when", (json_int_t)time(NULL) * 1000000000, "hosts", t->hosts, "moves", list);
	json_dumpf(page, stdout, JSON_COMPACT);
	putchar('\n');
	json_decref(page);
	fflush(stdout);
}

static void draw(struct top *t)
{
	int room;

	if (t->json) {
		draw_json(t);
		return;
	}
	t->at = 0;
	if (t->curses) {
		getmaxyx(stdscr, t->lines, t->cols);
		erase();
	} else {
		t->lines = 1 << 20;
	}
	room = t->lines - 7;
	draw_head(t);
	draw_hosts(t, t->curses && (int)json_array_size(t->hosts) > room * 2 / 3 ? room * 2 / 3 : HOSTS_MAX);
	draw_moves(t, t->curses ? t->lines : 20);
	if (t->curses)
		refresh();
	else
		fflush(stdout);
}

/* ---- the loop ---- */

/* Waits for a key or the next tick. Returns whether to end. */
static bool keys(struct top *t, long ms)
{
	int c;

	if (!t->curses) {
		poll(NULL, 0, (int)ms);
		return false;
	}
	timeout((int)ms);
	c = getch();
	if ((c == KEY_DOWN || c == 'j') && t->from + 1 < json_array_size(t->hosts))
		t->from++;
	else if ((c == KEY_UP || c == 'k') && t->from)
		t->from--;
	return c == 'q' || c == 'Q' || c == 27;
}

int cmd_top(int argc, char **argv)
{
	static const struct option options[] = {{"delay", required_argument, NULL, 'd'}, {"times", required_argument, NULL, 'n'},
		{"json", no_argument, NULL, 'J'}, {0}};
	struct top t = {.curses = isatty(STDOUT_FILENO) && isatty(STDIN_FILENO)};
	double delay = 2;
	long times = 0;
	char *end;
	int c;

	while ((c = getopt_long(argc, argv, ":d:n:", options, NULL)) != -1) {
		if (c == 'd' && ((delay = strtod(optarg, &end)) < 0.1 || delay > 3600 || *end))
			return usage_error("top", "-d: expected seconds, 0.1 to 3600, found \"%s\"", optarg);
		if (c == 'n' && ((times = strtol(optarg, &end, 10)) < 1 || *end))
			return usage_error("top", "-n: expected how often, from 1, found \"%s\"", optarg);
		t.json |= c == 'J';
		if (c != 'd' && c != 'n' && c != 'J')
			return option_error("top", c, argv);
	}
	if (optind < argc)
		return usage_error("top", "did not expect \"%s\"", argv[optind]);
	top_ask(&t);
	if (t.err)
		return ask_failed(NULL, &t.e);
	if (t.json && !times)
		times = 1;
	if (times)
		t.curses = false;
	if (t.curses && !initscr())
		t.curses = false;
	if (t.curses) {
		cbreak();
		noecho();
		curs_set(0);
		keypad(stdscr, true);
	}
	for (long i = 1;; i++) {
		draw(&t);
		if (i == times || ferror(stdout) || keys(&t, (long)(delay * 1000)))
			break;
		top_ask(&t);
	}
	if (t.curses)
		endwin();
	json_decref(t.hosts);
	return 0;
}
