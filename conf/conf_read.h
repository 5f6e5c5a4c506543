/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Typed readers for conf.c: a JSON object is read by a table of keys, one reader per kind of value. A reader reports what is wrong
 * ("FILE: KEY: expected WHAT, found WHAT") and goes on, so that one run shows every error. Private to conf/.
 */
#ifndef CONF_CONF_READ_H
#define CONF_CONF_READ_H
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include "conf/conf.h"

struct conf_reader {
	const char *file;
	FILE *report; /* may be NULL */
	int flags;    /* enum conf_flags */
	unsigned errors;
	bool nomem;
};

struct conf_key {
	const char *name;
	size_t offset; /* in the struct that is filled; a list has its count at offset2 */
	/* `where` = dotted path of the key, for messages */
	void (*read)(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base);
	bool required;
	uint64_t min, max; /* of numbers; ports: min 0 = port 0 allowed */
	uint64_t scale;	   /* number read is multiplied by this */
	size_t offset2;
	const struct conf_key *object; /* keys of a nested object */
	const char *const *words;      /* allowed strings */
};

/* Reads `o` by the table (ends with a NULL name): unknown keys, missing keys, then each one's reader. `where` "" at the top. */
void conf_read_object(struct conf_reader *r, const char *where, json_t *o, const struct conf_key *keys, void *base);

void conf_read_name(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base);	/* char *: host name */
void conf_read_path(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base);	/* char *: absolute, normalised */
void conf_read_dir(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base);	/* the same, a directory that exists */
void conf_read_cert(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base);	/* the same, a PEM certificate */
void conf_read_key(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base);	/* the same, a PEM key not open to others */
void conf_read_crl(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base);	/* the same, a PEM list of revoked certificates */
void conf_read_word(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base);	/* char *: one of k->words */
void conf_read_addr(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base);	/* struct conf_addr; k->max = default port */
void conf_read_addrs(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base);	/* struct conf_addr *, size_t at offset2 */
void conf_read_bool(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base);	/* bool */
void conf_read_u32(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base);	/* uint32_t */
void conf_read_u64(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base);	/* uint64_t, times k->scale */
void conf_read_loads(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base);	/* double[3] */
void conf_read_names(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base);	/* char **: host names, NULL-terminated */
void conf_read_hosts(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base);	/* the same, "*" allowed */
void conf_read_features(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base); /* char **: [a-z0-9_]+ */
void conf_read_section(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base);  /* k->object, same base */

/* Reports. `v` NULL: found nothing. */
void conf_expected(struct conf_reader *r, const char *where, json_t *v, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
/* The same with what was found in words. */
void conf_expected_found(struct conf_reader *r, const char *where, const char *expected, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

#endif
