/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The prefix table: which server has which part of the tree. The longest prefix of a path wins (Welch and Ousterhout, "Prefix Tables",
 * 1986). The root server keeps the one true table, made of what servers register and renew; clients hold copies of it.
 *
 * Pure: no I/O, no clock, no locking of its own.
 */
#ifndef FS_PREFIX_H
#define FS_PREFIX_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "rpc/fs.pb-c.h"

#define PREFIX_TTL_NS 30000000000ull /* forgotten this long after the last registration */
#define PREFIX_MAX    4096	     /* rows; a table that is full refuses new ones */

struct prefix {
	char *prefix;	  /* "/", "/src", "/hosts/ws1" */
	char *server;	  /* certificate name */
	char *host;	  /* address */
	uint16_t port;
	uint16_t mig_port; /* 0: no migd there */
	uint64_t domain;
	bool home;
	uint64_t expires; /* boot time in ns; 0 = never */
};

struct prefix_table {
	struct prefix *rows; /* sorted by prefix */
	size_t n;
	uint64_t version; /* changes whenever a row appears, changes or goes */
};

/* Absolute, normalised: "/" or "/a/b" without empty, "." or ".." components and without a slash at the end; each name <= 255 bytes. */
bool prefix_valid(const char *prefix);
/* Is `path` at or below `prefix`? *rest (may be NULL) points to what follows, "" or "x/y". */
bool prefix_covers(const char *prefix, const char *path, const char **rest);

void prefix_table_clear(struct prefix_table *t);
/*
 * Adds a row or renews it (strings are copied). -EEXIST: another server has that prefix and has not expired. -EINVAL, -ENOSPC, -ENOMEM.
 * The version changes only when something that clients see has changed.
 */
int prefix_table_put(struct prefix_table *t, const struct prefix *p, uint64_t now);
/* Removes what has expired; returns how many rows went. */
size_t prefix_table_expire(struct prefix_table *t, uint64_t now);
/* Removes rows of `server` that are not in `keep` (rows it no longer registers); returns how many. */
size_t prefix_table_retain(struct prefix_table *t, const char *server, const struct prefix *keep, size_t nkeep);
/* The row with the longest prefix of `path`; NULL when nothing covers it. */
const struct prefix *prefix_table_find(const struct prefix_table *t, const char *path, const char **rest);
const struct prefix *prefix_table_get(const struct prefix_table *t, const char *prefix);

/* To and from the wire. The message borrows from the table; free only its arrays with prefix_rep_free(). */
int prefix_table_to_rep(const struct prefix_table *t, Sprite__Fs__PrefixesRep *rep);
void prefix_rep_free(Sprite__Fs__PrefixesRep *rep);
/* Replaces the table by the reply's; rows that are not valid are left out. */
int prefix_table_from_rep(struct prefix_table *t, const Sprite__Fs__PrefixesRep *rep);

#endif
