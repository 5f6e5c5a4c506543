/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the mains of spritefsd, spritefs and migd have in common: the options --config FILE, --check, --foreground, --help, --version, root's rights, and the
 * signals that end a daemon. Of programs that these start: --help and --version.
 *
 *	static const char *mount_dir;
 *	static const struct daemon_option options[] = {
 *		{"mount", "DIR", "mount there instead of what the configuration says", &mount_dir, NULL},
 *		{0},
 *	};
 *	int main(int argc, char **argv)
 *	{
 *		struct daemon d = {.program = "spritefs", .summary = "mounts the single image", .options = options};
 *		int status;
 *
 *		if (!daemon_begin(&d, argc, argv, &status))
 *			return status;
 *		...start with d.conf...; notify_ready();
 *		daemon_wait(&d, NULL, NULL);	// or put d.signal_fd into your own poll and call daemon_signal()
 *		...end in order...
 *		daemon_end(&d);
 *		return 0;
 *	}
 */
#ifndef CONF_DAEMON_H
#define CONF_DAEMON_H
#include <stdbool.h>
#include "conf/conf.h"
#include "conf/error.h"

struct daemon_option {
	const char *name;   /* without "--"; NULL ends the table */
	const char *arg;    /* what its argument is called in the help; NULL: a flag */
	const char *help;
	const char **value; /* set when `arg` is not NULL */
	bool *flag;	    /* set when `arg` is NULL */
};

struct daemon {
	const char *program, *summary;
	const struct daemon_option *options; /* may be NULL */
	int (*check)(const struct conf *c, struct error *e);	  /* what is looked at beside the configuration, at each start: 0 or -errno and a text, which is told with the file's name; may be NULL */
	int (*check_more)(const struct conf *c, struct error *e); /* what --check looks at, too: it may be otherwise in a minute; may be NULL */
	const char *operands;		     /* for the usage line, "[SOURCE] [DIR]"; NULL: none allowed */
	bool root;			     /* runs as root only; --check is for everybody */

	/* filled by daemon_begin() */
	struct conf *conf;
	bool only_check; /* was it --check (daemon_begin() has returned false then) */
	int signal_fd; /* SIGTERM, SIGINT and SIGHUP, which are blocked from then on: readable when one came */
	char **args;   /* operands, NULL-terminated */
};

/*
 * Call first in main: parses, starts the log, loads the configuration, blocks the signals (SIGPIPE is ignored). Returns true to go on, or false and the
 * exit status: 0 after --help, --version and a good --check; 64 (EX_USAGE) for a wrong command line; 77 (EX_NOPERM) without the rights; 78 for a bad configuration.
 */
bool daemon_begin(struct daemon *d, int argc, char **argv, int *status);

/*
 * Before anything there is touched: no other process by the name of `program` works on the directory `dir`, and none will until this one ends (fcntl(2): children do not
 * have this lock). -EBUSY: one does.
 */
int daemon_alone(const char *program, const char *dir, struct error *e);

/* Waits for SIGTERM or SIGINT and returns it. SIGHUP: calls hup(arg) if not NULL and goes on. */
int daemon_wait(struct daemon *d, void (*hup)(void *arg), void *arg);
/* Reads one pending signal: its number, or 0 when there is none. */
int daemon_signal(struct daemon *d);
/* For a start that waits: SIGTERM or SIGINT has come, and is still there for daemon_wait(). */
bool daemon_told_to_end(void);
void daemon_end(struct daemon *d);
/* A program that nobody starts by hand: prints `usage` for --help, the version for --version, and returns true. */
bool daemon_part_asked(int argc, char **argv, const char *program, const char *usage);
/* Instead of returning from main, when threads still run that cannot be waited for. */
void __attribute__((noreturn)) daemon_leave(int status);

#endif
