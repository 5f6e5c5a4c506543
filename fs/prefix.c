/* SPDX-License-Identifier: Apache-2.0 */
/* The prefix table; see prefix.h. A sorted array: tables have tens of rows, are read often and change seldom. */
#include "fs/prefix.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

bool prefix_valid(const char *prefix)
{
	if (!prefix || prefix[0] != '/' || strlen(prefix) > 1024)
		return false;
	if (!prefix[1])
		return true;
	for (const char *p = prefix; *p;) {
		size_t len = strcspn(p + 1, "/");

		if (len == 0 || len > 255 || (len == 1 && p[1] == '.') || (len == 2 && p[1] == '.' && p[2] == '.'))
			return false;
		p += 1 + len;
	}
	return true;
}

bool prefix_covers(const char *prefix, const char *path, const char **rest)
{
	size_t n = strlen(prefix);

	if (n == 1)
		n = 0; /* "/" covers everything */
	if (strncmp(prefix, path, n) != 0 || (path[n] && path[n] != '/'))
		return false;
	if (rest)
		*rest = path + n + (path[n] == '/');
	return true;
}

static void row_clear(struct prefix *r)
{
	free(r->prefix);
	free(r->server);
	free(r->host);
	memset(r, 0, sizeof(*r));
}

void prefix_table_clear(struct prefix_table *t)
{
	for (size_t i = 0; i < t->n; i++)
		row_clear(&t->rows[i]);
	free(t->rows);
	t->rows = NULL;
	t->n = 0;
}

static int row_copy(struct prefix *to, const struct prefix *from)
{
	*to = *from;
	to->prefix = strdup(from->prefix);
	to->server = strdup(from->server);
	to->host = strdup(from->host);
	if (!to->prefix || !to->server || !to->host) {
		row_clear(to);
		return -ENOMEM;
	}
	return 0;
}

static bool row_same(const struct prefix *a, const struct prefix *b)
{
	return !strcmp(a->server, b->server) && !strcmp(a->host, b->host) && a->port == b->port &&
		a->mig_port == b->mig_port && a->domain == b->domain && a->home == b->home;
}

/* Index of the row, or -(where it belongs) - 1. */
static long row_search(const struct prefix_table *t, const char *prefix)
{
	size_t lo = 0, hi = t->n;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;
		int c = strcmp(t->rows[mid].prefix, prefix);

		if (c == 0)
			return (long)mid;
		if (c < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return -(long)lo - 1;
}

int prefix_table_put(struct prefix_table *t, const struct prefix *p, uint64_t now)
{
	struct prefix copy, *rows;
	long i;
	int r;

	if (!prefix_valid(p->prefix) || !p->server || !p->server[0] || !p->host || !p->host[0] || !p->port)
		return -EINVAL;
	i = row_search(t, p->prefix);
	if (i >= 0) {
		struct prefix *old = &t->rows[i];

		if (strcmp(old->server, p->server) && (!old->expires || old->expires > now))
			return -EEXIST;
		if (row_same(old, p)) {
			old->expires = p->expires;
			return 0;
		}
		r = row_copy(&copy, p);
		if (r < 0)
			return r;
		row_clear(old);
		*old = copy;
		t->version++;
		return 0;
	}
	if (t->n >= PREFIX_MAX)
		return -ENOSPC;
	r = row_copy(&copy, p);
	if (r < 0)
		return r;
	rows = realloc(t->rows, (t->n + 1) * sizeof(*rows));
	if (!rows) {
		row_clear(&copy);
		return -ENOMEM;
	}
	t->rows = rows;
	i = -i - 1;
	memmove(&rows[i + 1], &rows[i], (t->n - (size_t)i) * sizeof(*rows));
	rows[i] = copy;
	t->n++;
	t->version++;
	return 0;
}

static void row_remove(struct prefix_table *t, size_t i)
{
	row_clear(&t->rows[i]);
	memmove(&t->rows[i], &t->rows[i + 1], (t->n - i - 1) * sizeof(t->rows[0]));
	t->n--;
	t->version++;
}

size_t prefix_table_expire(struct prefix_table *t, uint64_t now)
{
	size_t gone = 0;

	for (size_t i = t->n; i-- > 0;)
		if (t->rows[i].expires && t->rows[i].expires <= now) {
			row_remove(t, i);
			gone++;
		}
	return gone;
}

size_t prefix_table_retain(struct prefix_table *t, const char *server, const struct prefix *keep, size_t nkeep)
{
	size_t gone = 0;

	for (size_t i = t->n; i-- > 0;) {
		bool found = strcmp(t->rows[i].server, server) != 0;

		for (size_t k = 0; k < nkeep && !found; k++)
			found = strcmp(t->rows[i].prefix, keep[k].prefix) == 0;
		if (!found) {
			row_remove(t, i);
			gone++;
		}
	}
	return gone;
}

const struct prefix *prefix_table_get(const struct prefix_table *t, const char *prefix)
{
	long i = row_search(t, prefix);

	return i >= 0 ? &t->rows[i] : NULL;
}

const struct prefix *prefix_table_find(const struct prefix_table *t, const char *path, const char **rest)
{
	const struct prefix *best = NULL;
	size_t best_len = 0;

	for (size_t i = 0; i < t->n; i++) {
		size_t len = strlen(t->rows[i].prefix);

		if (len > best_len && prefix_covers(t->rows[i].prefix, path, NULL)) {
			best = &t->rows[i];
			best_len = len;
		}
	}
	if (best && rest)
		prefix_covers(best->prefix, path, rest);
	return best;
}

int prefix_table_to_rep(const struct prefix_table *t, Sprite__Fs__PrefixesRep *rep)
{
	Sprite__Fs__Prefix *rows;

	sprite__fs__prefixes_rep__init(rep);
	rep->version = t->version;
	if (!t->n)
		return 0;
	rep->prefixes = calloc(t->n, sizeof(*rep->prefixes));
	rows = calloc(t->n, sizeof(*rows));
	if (!rep->prefixes || !rows) {
		free(rep->prefixes);
		free(rows);
		rep->prefixes = NULL;
		return -ENOMEM;
	}
	for (size_t i = 0; i < t->n; i++) {
		const struct prefix *r = &t->rows[i];

		sprite__fs__prefix__init(&rows[i]);
		rows[i].prefix = r->prefix;
		rows[i].server = r->server;
		rows[i].host = r->host;
		rows[i].port = r->port;
		rows[i].domain = r->domain;
		rows[i].home = r->home;
		rows[i].mig_port = r->mig_port;
		rep->prefixes[i] = &rows[i];
	}
	rep->n_prefixes = t->n;
	return 0;
}

void prefix_rep_free(Sprite__Fs__PrefixesRep *rep)
{
	if (rep->n_prefixes)
		free(rep->prefixes[0]); /* one array holds all rows */
	free(rep->prefixes);
	rep->prefixes = NULL;
	rep->n_prefixes = 0;
}

int prefix_table_from_rep(struct prefix_table *t, const Sprite__Fs__PrefixesRep *rep)
{
	struct prefix_table fresh = {0};

	for (size_t i = 0; i < rep->n_prefixes; i++) {
		const Sprite__Fs__Prefix *w = rep->prefixes[i];
		struct prefix p = {.prefix = w->prefix,
			.server = w->server,
			.host = w->host,
			.port = (uint16_t)w->port,
			.mig_port = (uint16_t)w->mig_port,
			.domain = w->domain,
			.home = w->home};
		int r = prefix_table_put(&fresh, &p, 0);

		if (r == -ENOMEM) {
			prefix_table_clear(&fresh);
			return r;
		}
	}
	prefix_table_clear(t);
	*t = fresh;
	t->version = rep->version;
	return 0;
}
