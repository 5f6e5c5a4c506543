// SPDX-License-Identifier: Apache-2.0
/* What all verbs share: messages, pids, the way to migd. */
#include "migd/cli/cli.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/conf.h"
#include "rpc/local.h"

#define PID_MAX (1 << 22) /* Linux' own bound */

char *printable(char *s)
{
	for (char *c = s; *c; c++)
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			*c = '?';
	return s;
}

static void say(const char *fmt, va_list ap)
{
	char text[1024];

	vsnprintf(text, sizeof(text), fmt, ap);
	fprintf(stderr, "mig: %s\n", printable(text));
}

int failed(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(fmt, ap);
	va_end(ap);
	return MIG_FAILED;
}

int end_alike(int status)
{
	struct rlimit none = {0, 0};
	sigset_t its;

	if (WIFEXITED(status))
		return WEXITSTATUS(status);
	setrlimit(RLIMIT_CORE, &none);
	sigemptyset(&its);
	sigaddset(&its, WTERMSIG(status));
	signal(WTERMSIG(status), SIG_DFL);
	sigprocmask(SIG_UNBLOCK, &its, NULL);
	raise(WTERMSIG(status));
	return 128 + WTERMSIG(status);
}

int usage_error(const char *verb, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(fmt, ap);
	va_end(ap);
	for (const struct command *c = commands; c->name; c++)
		if (!strcmp(c->name, verb))
			fprintf(stderr, "usage: mig %s\n", c->usage);
	return MIG_USAGE;
}

int option_error(const char *verb, int c, char **argv)
{
	return usage_error(verb, c == ':' ? "\"%s\": expected something after it" : "unknown option \"%s\"", argv[optind - 1]);
}

/* Where migd listens. A host without a configuration has the default place. */
static void socket_path(char *to, size_t size)
{
	struct conf *c = NULL;
	int r = conf_load_with(NULL, CONF_NO_FILES, NULL, &c);

	if (r && (r != -ENOENT || getenv("SPRITE_CONF"))) {
		conf_load_with(NULL, CONF_NO_FILES, stderr, &c);
		exit(CONF_EXIT);
	}
	snprintf(to, size, "%s/migd.sock", c ? c->run_dir : "/run/sprite");
	conf_free(c);
}

/* Among the guests of another host our home's socket is only a name: who listens there is at home. The nest's first process tells where we are (engine/nest.h). */
static bool is_away(char *home, size_t size)
{
	_cleanup_fclose_ FILE *f = fopen("/proc/1/comm", "re");
	char name[32] = "";

	return f && fgets(name, sizeof(name), f) && !strcmp(name, "sprite-keeper\n") && !gethostname(home, size);
}

int ask_until(json_t *request, void (*row)(void *arg, json_t *line), void *arg, int stop_fd, json_t **answer, struct error *e)
{
	char path[4200], home[HOST_NAME_MAX + 1] = "";
	int r;

	socket_path(path, sizeof(path));
	r = local_call_until(path, request, row, arg, stop_fd, answer, e);
	if (!r || !e || (!e->absent && r != -EACCES) || !is_away(home, sizeof(home)))
		return r;
	*e = (struct error){.absent = true};
	return error_set(e, -r, "this process is away from its home %s: mig has to be run there", home);
}

int ask(json_t *request, void (*row)(void *arg, json_t *line), void *arg, json_t **answer, struct error *e)
{
	return ask_until(request, row, arg, -1, answer, e);
}

int ask_failed(const char *who, const struct error *e)
{
	/* migd's words often begin with the process themselves */
	if (who && !strncmp(e->text, who, strlen(who)))
		who = NULL;
	failed("%s%s%s", who ? who : "", who ? ": " : "", e->text);
	return e->absent ? MIG_ABSENT : MIG_FAILED;
}

int pid_parse(const char *s)
{
	long v;

	if (!*s || strlen(s) > 7 || strspn(s, "0123456789") != strlen(s))
		return 0;
	v = strtol(s, NULL, 10);
	return v >= 1 && v <= PID_MAX ? (int)v : 0;
}

bool pids_check(const char *verb, int argc, char **argv)
{
	for (int i = 0; i < argc; i++)
		if (!pid_parse(argv[i])) {
			usage_error(verb, "\"%s\": expected the number of a process", argv[i]);
			return false;
		}
	if (argc <= 0)
		usage_error(verb, "which process?");
	return argc > 0;
}
