// SPDX-License-Identifier: Apache-2.0
/* See devices.h. */
#include "migd/engine/devices.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "conf/text.h"

struct mount {
	int id, parent;
	unsigned major, minor;
	char *point, *type;
};

/* No files of programs' own are in these, and what is in them is never the home's for one who is away. */
static bool counts(const char *type)
{
	static const char *const not[] = {"proc", "sysfs", "cgroup", "cgroup2", "devpts", "devtmpfs", "mqueue", "debugfs", "tracefs", "securityfs", "pstore", "bpf", "fusectl",
		"configfs", "hugetlbfs", "autofs", "binfmt_misc", "nsfs", "rpc_pipefs", "efivarfs", "selinuxfs"};

	for (size_t i = 0; i < sizeof(not) / sizeof(not[0]); i++)
		if (!strcmp(type, not[i]))
			return false;
	return true;
}

/* Does `path` lie below `point`? */
static bool below(const char *point, const char *path)
{
	size_t len = strcmp(point, "/") ? strlen(point) : 0;

	return !strncmp(point, path, len) && path[len] == '/' && path[len + 1];
}

static bool read_mount(char *line, struct mount *m)
{
	int point = 0, end = 0;
	char *type = strstr(line, " - ");

	if (!type || sscanf(line, "%d %d %u:%u %*s %n%*s%n", &m->id, &m->parent, &m->major, &m->minor, &point, &end) != 4 || !end || line[point] != '/')
		return false;
	line[end] = 0;
	m->point = line + point;
	m->type = type + 3;
	m->type[strcspn(m->type, " ")] = 0;
	return true;
}

/* Something is mounted over it, or over the way to it. */
static bool hidden(const struct mount *v, size_t n, size_t at)
{
	const struct mount *x = &v[at];

	for (size_t depth = 0; x && depth < n; depth++) {
		const struct mount *up = NULL;

		for (size_t i = 0; i < n; i++) {
			const struct mount *m = &v[i];

			if (m == x)
				continue;
			if (m->parent == x->parent && (below(m->point, x->point) || (m > x && !strcmp(m->point, x->point))))
				return true;
			if (m->parent == x->id && !strcmp(m->point, x->point) && x == &v[at])
				return true;
			if (m->id == x->parent)
				up = m;
		}
		x = up;
	}
	return false;
}

static bool put(char *out, size_t *used, const struct mount *m, devices_ask *ask, void *ctx)
{
	unsigned major = m->major, minor = m->minor;
	char *plain = strdup(m->point);
	int n;

	if (plain && ask && !strcmp(m->type, "btrfs") && text_unescape(plain) == 0)
		ask(ctx, plain, &major, &minor);
	free(plain);
	n = snprintf(out + *used, DEVICES_MAX - *used, "%u:%u %s\n", major, minor, m->point);
	if (n < 0 || (size_t)n >= DEVICES_MAX - *used)
		return false;
	*used += (size_t)n;
	return true;
}

char *devices_make(const char *mountinfo, devices_ask *ask, void *ctx)
{
	char *copy = strdup(mountinfo), *out = malloc(DEVICES_MAX), *save = NULL;
	struct mount *v = calloc(DEVICES_LINES, sizeof(*v));
	size_t n = 0, used = 0;
	bool fits = copy && out && v;

	for (char *l = fits ? strtok_r(copy, "\n", &save) : NULL; l && fits; l = strtok_r(NULL, "\n", &save)) {
		fits = n < DEVICES_LINES;
		if (fits && read_mount(l, &v[n]))
			n++;
	}
	for (size_t i = 0; i < n && fits; i++)
		if (counts(v[i].type) && !hidden(v, n, i))
			fits = put(out, &used, &v[i], ask, ctx);
	free(v);
	free(copy);
	if (!fits || !used) {
		free(out);
		return NULL;
	}
	return out;
}

/* The line at *s, which is moved behind it. */
static bool read_line(char **s, struct device *d)
{
	char *end = strchr(*s, '\n'), *p = *s;
	unsigned long number[2];

	if (!end)
		return false;
	*end = 0;
	*s = end + 1;
	for (int i = 0; i < 2; i++) {
		if (*p < '0' || *p > '9')
			return false;
		number[i] = strtoul(p, &p, 10);
		if (number[i] >= (i ? 1UL << 20 : 1UL << 12) || *p++ != (i ? ' ' : ':'))
			return false;
	}
	if (*p != '/' || text_unescape(p) < 0)
		return false;
	*d = (struct device){number[0], number[1], p, strcmp(p, "/") ? strlen(p) : 0};
	return !d->len || p[d->len - 1] != '/';
}

static int longer(const void *a, const void *b)
{
	const struct device *x = a, *y = b;

	return x->len < y->len ? 1 : x->len > y->len ? -1 : 0;
}

int devices_parse(struct devices *d, char *text)
{
	size_t n = 0;

	*d = (struct devices){0};
	if (strlen(text) >= DEVICES_MAX)
		return -E2BIG;
	for (const char *s = text; *s; s++)
		n += *s == '\n';
	if (!n || n > DEVICES_LINES)
		return -EINVAL;
	d->v = calloc(n, sizeof(*d->v));
	if (!d->v)
		return -ENOMEM;
	while (*text && d->n < n && read_line(&text, &d->v[d->n]))
		d->n++;
	if (*text || d->n != n) {
		devices_free(d);
		return -EINVAL;
	}
	qsort(d->v, d->n, sizeof(*d->v), longer);
	return 0;
}

void devices_free(struct devices *d)
{
	free(d->v);
	*d = (struct devices){0};
}

bool devices_valid(const char *text)
{
	char *copy = strdup(text);
	struct devices d;
	bool good = copy && devices_parse(&d, copy) == 0;

	if (good)
		devices_free(&d);
	free(copy);
	return good;
}

const struct device *devices_find(const struct devices *d, const char *path)
{
	for (size_t i = 0; i < d->n; i++) {
		const struct device *x = &d->v[i];

		if (!strncmp(x->point, path, x->len) && (path[x->len] == '/' || !path[x->len]) && *path == '/')
			return x;
	}
	return NULL;
}
