// SPDX-License-Identifier: Apache-2.0
/* Listings: columns as wide as what is in them, chosen by -o; or the rows as they came, as JSON. */
#include "migd/cli/cli.h"

#include <ctype.h>
#include <errno.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include "conf/cleanup.h"

enum { COLUMNS_MAX = 32, CELL_MAX = 256 };

void format_bytes(char *to, size_t size, uint64_t bytes)
{
	static const char units[] = "BKMGTPE";
	double v = (double)bytes;
	int u = 0;

	while (v >= 1023.95 && u < 6) {
		v /= 1024;
		u++;
	}
	snprintf(to, size, u && v < 99.95 ? "%.1f%c" : "%.0f%c", v, units[u]);
}

void format_duration(char *to, size_t size, uint64_t ms)
{
	uint64_t s = ms / 1000;

	if (ms < 10000)
		snprintf(to, size, "%.1fs", (double)ms / 1000);
	else if (s < 100)
		snprintf(to, size, "%us", (unsigned)s);
	else if (s < 6000)
		snprintf(to, size, "%um%02us", (unsigned)(s / 60), (unsigned)(s % 60));
	else if (s < 2 * 86400)
		snprintf(to, size, "%uh%02um", (unsigned)(s / 3600), (unsigned)(s / 60 % 60));
	else
		snprintf(to, size, "%llud%02uh", (unsigned long long)(s / 86400), (unsigned)(s / 3600 % 24));
}

void format_time(char *to, size_t size, int64_t real_ns)
{
	time_t s = (time_t)(real_ns / 1000000000);
	struct tm tm;

	if (!gmtime_r(&s, &tm) || !strftime(to, size, "%Y-%m-%dT%H:%M:%SZ", &tm))
		snprintf(to, size, "?");
}

static int64_t relative(const char *s)
{
	char *end;
	unsigned long n = strtoul(s, &end, 10);
	unsigned unit = *end == 's' ? 1 : *end == 'm' ? 60 : *end == 'h' ? 3600 : *end == 'd' ? 86400 : 0;

	return n && unit && !end[1] && n <= 10000 ? time(NULL) + (int64_t)n * unit : 0;
}

int64_t time_parse(const char *s)
{
	static const char *const formats[] = {"%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M", "%Y-%m-%d", "%H:%M"};
	time_t now = time(NULL), t;
	struct tm tm;

	if (*s == '+')
		return relative(s + 1);
	for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
		const char *end;
		bool clock_only = i + 1 == ARRAY_SIZE(formats), utc;

		if (clock_only)
			localtime_r(&now, &tm);
		else
			tm = (struct tm){0};
		tm.tm_sec = 0;
		end = strptime(s, formats[i], &tm);
		utc = end && !strcmp(end, "Z");
		if (!end || (*end && !utc))
			continue;
		tm.tm_isdst = -1;
		t = utc ? timegm(&tm) : mktime(&tm);
		return clock_only && t <= now ? t + 86400 : t;
	}
	return 0;
}

bool table_option(struct table *t, int c, const char *arg)
{
	if (c == 'J')
		t->json = true;
	else if (c == 'N')
		t->no_header = true;
	else if (c == 'o')
		t->pick = arg;
	else
		return false;
	return true;
}

void table_row(void *table, json_t *line)
{
	struct table *t = table;

	if (!t->rows)
		t->rows = json_array();
	if (!json_object_get(line, "progress"))
		json_array_append(t->rows, line);
}

static void cell(const struct column *c, json_t *row, char *to)
{
	json_t *v = json_object_get(row, c->key);
	struct passwd *pw;

	snprintf(to, CELL_MAX, "-");
	if (!v || json_is_null(v))
		return;
	switch (c->type) {
	case COL_TEXT:
		if (json_is_string(v) && json_string_length(v))
			snprintf(to, CELL_MAX, "%s", json_string_value(v));
		break;
	case COL_NUMBER:
		snprintf(to, CELL_MAX, "%lld", (long long)json_integer_value(v));
		break;
	case COL_BYTES:
		format_bytes(to, CELL_MAX, (uint64_t)json_integer_value(v));
		break;
	case COL_TIME:
		if (json_integer_value(v))
			format_time(to, CELL_MAX, json_integer_value(v));
		break;
	case COL_DURATION_MS:
		format_duration(to, CELL_MAX, (uint64_t)json_integer_value(v));
		break;
	case COL_BOOL:
		snprintf(to, CELL_MAX, json_is_true(v) ? "yes" : "no");
		break;
	case COL_USER:
		pw = getpwuid((uid_t)json_integer_value(v));
		if (pw)
			snprintf(to, CELL_MAX, "%s", pw->pw_name);
		else
			snprintf(to, CELL_MAX, "%lld", (long long)json_integer_value(v));
		break;
	case COL_FRACTION:
		snprintf(to, CELL_MAX, "%.2f", json_number_value(v));
		break;
	}
	printable(to);
}

/* What -o names, or all that are not hidden. */
static int choose(const struct table *t, const struct column **out, size_t *n, struct error *e)
{
	_cleanup_free_ char *names = t->pick ? strdup(t->pick) : NULL;
	char *save = NULL, known[400] = "";
	const struct column *c;

	*n = 0;
	for (c = t->columns; !t->pick && c->title && *n < COLUMNS_MAX; c++)
		if (!c->hidden)
			out[(*n)++] = c;
	for (char *w = names ? strtok_r(names, ",", &save) : NULL; w && *n < COLUMNS_MAX; w = strtok_r(NULL, ",", &save)) {
		for (c = t->columns; c->title && strcasecmp(c->title, w); c++)
			;
		if (c->title) {
			out[(*n)++] = c;
			continue;
		}
		for (c = t->columns; c->title; c++) {
			size_t len = strlen(known);

			snprintf(known + len, sizeof(known) - len, "%s%s", len ? "," : "", c->title);
		}
		for (char *s = known; *s; s++)
			*s = (char)tolower((unsigned char)*s);
		return error_set(e, EINVAL, "-o: no column \"%s\"; there are %s", w, known);
	}
	return *n ? 0 : error_set(e, EINVAL, "-o: no column named");
}

int table_check(const struct table *t, const char *verb)
{
	const struct column *cols[COLUMNS_MAX];
	struct error e = {0};
	size_t n;

	return choose(t, cols, &n, &e) ? usage_error(verb, "%s", e.text) : 0;
}

static bool right(const struct column *c)
{
	return c->type == COL_NUMBER || c->type == COL_BYTES || c->type == COL_DURATION_MS || c->type == COL_FRACTION;
}

/* Columns in characters as the terminal counts them, for UTF-8 without combining ones. */
static size_t width(const char *s)
{
	size_t n = 0;

	for (; *s; s++)
		n += ((unsigned char)*s & 0xc0) != 0x80;
	return n;
}

static void put(FILE *to, const char *text, size_t w, bool is_right, bool last)
{
	int pad = (int)(w - width(text));

	if (is_right)
		fprintf(to, "%*s%s", pad, "", text);
	else if (last)
		fputs(text, to);
	else
		fprintf(to, "%s%*s", text, pad, "");
	fputs(last ? "\n" : "  ", to);
}

static void print_text(const struct table *t, const struct column **cols, size_t n, FILE *to)
{
	size_t w[COLUMNS_MAX], i, k;
	char text[CELL_MAX];
	json_t *row;

	for (k = 0; k < n; k++) {
		w[k] = t->no_header ? 0 : strlen(cols[k]->title);
		json_array_foreach(t->rows, i, row)
		{
			cell(cols[k], row, text);
			if (width(text) > w[k])
				w[k] = width(text);
		}
	}
	for (k = 0; !t->no_header && k < n; k++)
		put(to, cols[k]->title, w[k], right(cols[k]), k + 1 == n);
	json_array_foreach(t->rows, i, row)
	{
		for (k = 0; k < n; k++) {
			cell(cols[k], row, text);
			put(to, text, w[k], right(cols[k]), k + 1 == n);
		}
	}
}

int table_print(struct table *t, FILE *to, struct error *e)
{
	const struct column *cols[COLUMNS_MAX];
	size_t n;
	int r = choose(t, cols, &n, e);

	if (!t->rows)
		t->rows = json_array();
	if (!r && t->json) {
		json_dumpf(t->rows, to, JSON_INDENT(1));
		fputc('\n', to);
	} else if (!r) {
		print_text(t, cols, n, to);
	}
	json_decref(t->rows);
	t->rows = NULL;
	return r;
}
