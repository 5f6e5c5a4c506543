/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mig, the user's command: one cmd_*.c per verb. A verb asks this host's migd by its control socket (rpc/local.h) and prints what comes back;
 * it decides nothing. One thread.
 *
 * Exit status: 0; 1 when something asked for could not be done (one line on stderr says why); 64 wrong command line; 69 migd is not there; 78 bad
 * configuration; `mig run`: see cmd_run.c.
 */
#ifndef MIGD_CLI_CLI_H
#define MIGD_CLI_CLI_H
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include "conf/error.h"

#define MIG_FAILED 1
#define MIG_USAGE  64 /* EX_USAGE */
#define MIG_ABSENT 69 /* EX_UNAVAILABLE */

struct command {
	const char *name;
	int (*run)(int argc, char **argv); /* argv[0] is the verb; returns the exit status */
	const char *usage, *does;
};
extern const struct command commands[]; /* ends with a NULL name */

int cmd_run(int argc, char **argv);
int cmd_move(int argc, char **argv);
int cmd_home(int argc, char **argv);
int cmd_rehome(int argc, char **argv);
int cmd_resolve(int argc, char **argv);
int cmd_explain(int argc, char **argv);
int cmd_ps(int argc, char **argv);
int cmd_hosts(int argc, char **argv);
int cmd_top(int argc, char **argv);
int cmd_stats(int argc, char **argv);
int cmd_env(int argc, char **argv);
int cmd_lend(int argc, char **argv);
int cmd_evict(int argc, char **argv);
int cmd_stop_all(int argc, char **argv);
int cmd_make(int argc, char **argv);
int cmd_term(int argc, char **argv);  /* mig shell */
int cmd_shell(int argc, char **argv); /* as sprite-sh */

/* Prints "mig: text" (and how the verb is used); returns MIG_USAGE. `verb` names the entry of commands[]. */
int usage_error(const char *verb, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The same for what getopt_long() did not take: c is what it said (its options begin with ':'). */
int option_error(const char *verb, int c, char **argv);
/* Prints "mig: text"; returns MIG_FAILED. */
int failed(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Whoever stands for another that has ended with that wait(2) status ends as that did: by its signal, or with what is returned. */
int end_alike(int status);
/* ask() has failed: prints e's words (after "who: " when not NULL) and returns MIG_FAILED or MIG_ABSENT. */
int ask_failed(const char *who, const struct error *e);

/* Bytes for the terminal: anything below ' ' becomes '?'. In place. */
char *printable(char *s);

/*
 * Asks migd: the request is stolen, row(arg, line) is called for each line before the last, *answer (may be NULL) is the last one. 0, or -errno with e filled.
 * An unusable configuration ends the process (78).
 */
int ask(json_t *request, void (*row)(void *arg, json_t *line), void *arg, json_t **answer, struct error *e);
/* The same, given up with -ECANCELED when stop_fd can be read. */
int ask_until(json_t *request, void (*row)(void *arg, json_t *line), void *arg, int stop_fd, json_t **answer, struct error *e);

/* A pid: 1 to 2^22. 0 when `s` is none. */
int pid_parse(const char *s);
/* Are argv[0..argc) pids, one at least? Else prints how the verb is used. */
bool pids_check(const char *verb, int argc, char **argv);

/* ---- table.c: listings ---- */
struct column {
	const char *title; /* also its name for -o, in lower case */
	const char *key;   /* of the row's object */
	enum { COL_TEXT, COL_NUMBER, COL_BYTES, COL_TIME, COL_DURATION_MS, COL_BOOL, COL_USER, COL_FRACTION } type;
	bool hidden; /* shown only when asked for with -o */
};
struct table {
	const struct column *columns; /* ends with a NULL title */
	const char *pick;	      /* -o: names, separated by commas; NULL: all that are not hidden */
	bool no_header, json;
	json_t *rows; /* array of objects */
};
/* Options -o COLS, --no-header, --json that all listings share; getopt_long's value handled: true. */
#define TABLE_OPTIONS {"json", no_argument, NULL, 'J'}, {"no-header", no_argument, NULL, 'N'}, {"columns", required_argument, NULL, 'o'}
bool table_option(struct table *t, int c, const char *arg);
/* Callback for ask(): collects the lines; arg is the table. */
void table_row(void *table, json_t *line);
/* Are the columns that -o names there? Said before anybody is asked: 0, or MIG_USAGE after a line. */
int table_check(const struct table *t, const char *verb);
/* Prints and frees the rows. -EINVAL with e filled: -o names a column that is not there. */
int table_print(struct table *t, FILE *to, struct error *e);
/* "1.5G", "2d03h", "2026-11-26T22:00:00Z" */
void format_bytes(char *to, size_t size, uint64_t bytes);
void format_duration(char *to, size_t size, uint64_t ms);
void format_time(char *to, size_t size, int64_t real_ns);
/* "2026-11-26T22:00", "2026-11-26T22:00:30Z", "22:00" (the next one), "+2h", "+90m", "+3d": seconds since 1970, 0: none of these. */
int64_t time_parse(const char *s);

#endif
