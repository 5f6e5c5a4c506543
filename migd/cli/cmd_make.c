// SPDX-License-Identifier: Apache-2.0
/*
 * mig make: GNU make whose recipes run here or on idle hosts (Sprite's pmake). make itself, and makes that it starts, run here; its shell is sprite-sh (cmd_shell.c).
 * Parallelism follows the slots: the job server is ours (make_agent.h), make only inherits it.
 *
 * .NOEXPORT: TARGET...   in the makefile keeps those recipes here, as pmake had it; in GNU make the line is a rule without effect.
 * The shell of recipes is what the makefiles set (SHELL, .SHELLFLAGS), here and there, in each make for itself.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "migd/cli/cli.h"
#include "migd/cli/make_agent.h"

extern char **environ;

enum { REMOTE_DEFAULT = 64, REMOTE_MAX = 1024, INCLUDES_MAX = 8 };

struct make_args {
	const char *argv[1024];
	int n;
	const char *file, *dir; /* make's -f and -C */
};

static bool number_of(const char *s, unsigned max, unsigned *out)
{
	char *end;
	unsigned long v = strtoul(s, &end, 10);

	if (!*s || *end || v > max)
		return false;
	*out = (unsigned)v;
	return true;
}

/* The value of "-jN", "-j N", "--jobs=N": where an option of ours may be written in all of make's ways. NULL: not that option. */
static const char *option(int argc, char **argv, int *i, char letter, const char *name)
{
	size_t n = strlen(name);

	if (argv[*i][0] == '-' && argv[*i][1] == letter)
		return argv[*i][2] ? argv[*i] + 2 : *i + 1 < argc ? argv[++*i] : "";
	if (!strncmp(argv[*i], "--", 2) && !strncmp(argv[*i] + 2, name, n)) {
		if (argv[*i][2 + n] == '=')
			return argv[*i] + 3 + n;
		if (!argv[*i][2 + n])
			return *i + 1 < argc ? argv[++*i] : "";
	}
	return NULL;
}

/* One argument of make's. Which makefile it is we have to know. */
static void take_makes(struct make_args *m, int argc, char **argv, int i)
{
	const char *v;
	int k = i;

	if ((v = option(argc, argv, &k, 'f', "file")) || (v = option(argc, argv, &k, 0x7f, "makefile")))
		m->file = v;
	else if ((v = option(argc, argv, &k, 'C', "directory")))
		m->dir = v;
	m->argv[m->n++] = argv[i];
}

/* Takes our options out, leaves make's. */
static int parse(int argc, char **argv, struct make_opts *o, struct make_args *m)
{
	unsigned jobs = 0;

	for (int i = 1; i < argc; i++) {
		const char *v;

		if (m->n >= (int)ARRAY_SIZE(m->argv) - 40)
			return usage_error("make", "too many arguments");
		if ((v = option(argc, argv, &i, 'j', "jobs"))) {
			if (!number_of(v, REMOTE_MAX, &jobs) || !jobs)
				return usage_error("make", "-j: expected a number of recipes at a time, 1 to %d, found \"%s\"", REMOTE_MAX, v);
		} else if ((v = option(argc, argv, &i, 0x7f, "local"))) {
			if (!number_of(v, REMOTE_MAX, &o->local) || !o->local)
				return usage_error("make", "--local: expected a number from 1, found \"%s\"", v);
		} else if ((v = option(argc, argv, &i, 0x7f, "remote"))) {
			if (!number_of(v, REMOTE_MAX, &o->remote))
				return usage_error("make", "--remote: expected a number of slots, found \"%s\"", v);
		} else if ((v = option(argc, argv, &i, 0x7f, "priority"))) {
			if (strcmp(v, "low") && strcmp(v, "normal") && strcmp(v, "high"))
				return usage_error("make", "--priority: expected low, normal or high, found \"%s\"", v);
			o->priority = v;
		} else if (!strcmp(argv[i], "--verbose")) {
			o->verbose = true;
		} else {
			take_makes(m, argc, argv, i);
		}
	}
	if (jobs) {
		if (o->local > jobs)
			o->local = jobs;
		if (o->remote > jobs - o->local)
			o->remote = jobs - o->local;
	}
	return 0;
}

/* Targets after ".NOEXPORT:" get a shell of their own, the real one, whatever else is said. */
static void noexport_target(struct make_args *m, const char *target)
{
	char *eval;

	if (m->n < (int)ARRAY_SIZE(m->argv) - 8 && asprintf(&eval, "--eval=%s: private override SHELL=$(MIG_MAKE_SHELL)", target) > 0)
		m->argv[m->n++] = eval; /* lives as long as we */
}

/* What a makefile says of us. Files that are included by a plain name are looked at too. */
static void read_makefile(struct make_args *m, const char *file, int depth)
{
	_cleanup_fclose_ FILE *f = fopen(file, "re");
	_cleanup_free_ char *line = NULL;
	bool goes_on = false;
	size_t cap = 0;
	ssize_t n;

	while (f && (n = getline(&line, &cap, f)) > 0) {
		bool targets = goes_on || !strncmp(line, ".NOEXPORT:", 10);
		bool includes = !goes_on && (!strncmp(line, "include ", 8) || !strncmp(line, "-include ", 9));
		char *rest = goes_on ? line : line + (targets ? 10 : 9), *save = NULL;

		goes_on = targets && n > 1 && line[n - 2] == '\\';
		for (char *t = targets || includes ? strtok_r(rest, " \t\\\n", &save) : NULL; t; t = strtok_r(NULL, " \t\\\n", &save))
			if (targets)
				noexport_target(m, t);
			else if (depth < INCLUDES_MAX && !strchr(t, '$'))
				read_makefile(m, t, depth + 1);
	}
}

static void read_makefiles(struct make_args *m)
{
	static const char *const names[] = {"GNUmakefile", "makefile", "Makefile"};
	_cleanup_close_ int here = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (m->dir && chdir(m->dir))
		return; /* make says so */
	for (size_t i = 0; !m->file && i < ARRAY_SIZE(names); i++)
		if (!access(names[i], R_OK)) {
			m->file = names[i];
			m->argv[m->n++] = "-f";
			m->argv[m->n++] = m->file;
		}
	if (m->file)
		read_makefile(m, m->file, 0);
	if (m->dir && (here < 0 || fchdir(here)))
		failed("cannot go back from %s: %s", m->dir, strerror(errno));
}

/*
 * What make reads last: the shell that its makefiles have come to is kept for sprite-sh, which takes its place. (A target that has a shell of its own keeps it, and runs here.)
 * $(MAKE) is we again, by the name of make: each make has a shell of its own.
 */
static int last_makefile(struct make_args *m, const char *dir, const char *sh, bool nested)
{
	static char path[PATH_MAX], make[PATH_MAX];
	char exe[PATH_MAX];
	ssize_t n;

	snprintf(path, sizeof(path), "%s/last.mk", dir);
	snprintf(make, sizeof(make), "MAKE=%s/make", dir);
	if (!nested) {
		FILE *f = fopen(path, "we");

		n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
		exe[n > 0 ? n : 0] = 0;
		if (!f || fprintf(f, "override MIG_MAKE_SHELL := $(SHELL)\nexport MIG_MAKE_SHELL\noverride SHELL := %s\n%s: ;\n", sh, path) < 0 || fclose(f) ||
			symlink(exe, make + strlen("MAKE=")))
			return failed("%s: %s", path, strerror(errno));
		m->argv[m->n++] = make;
	}
	if (m->file) {
		m->argv[m->n++] = "-f";
		m->argv[m->n++] = path;
	}
	return 0;
}

static void sprite_sh(char *to, size_t n)
{
	char exe[PATH_MAX];
	ssize_t k = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
	char *slash;

	exe[k > 0 ? k : 0] = 0;
	slash = strrchr(exe, '/');
	if (slash)
		*slash = 0;
	snprintf(to, n, "%.*s/sprite-sh", (int)n - 12, exe);
}

static int run_make(struct make_args *m)
{
	pid_t pid;
	int status, err;

	m->argv[m->n] = NULL;
	err = posix_spawnp(&pid, "make", NULL, NULL, (char **)m->argv, environ);
	if (err) {
		failed("make: %s", strerror(err));
		return 127;
	}
	/* Ctrl-C is for make, which ends its recipes and then itself: we stay to pass on their last words. */
	signal(SIGINT, SIG_IGN);
	signal(SIGQUIT, SIG_IGN);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFEXITED(status))
		return WEXITSTATUS(status);
	return 128 + WTERMSIG(status);
}

/* A make that make starts: all but the makefiles was said before, in MAKEFLAGS and the environment. */
static int nested_make(int argc, char **argv, const char *agent)
{
	static struct make_args m = {.argv = {"make"}, .n = 1};
	_cleanup_free_ char *dir = strdup(agent);
	char *slash = dir ? strrchr(dir, '/') : NULL;

	for (int i = 1; i < argc; i++) {
		if (m.n >= (int)ARRAY_SIZE(m.argv) - 40)
			return failed("make: too many arguments");
		take_makes(&m, argc, argv, i);
	}
	if (slash)
		*slash = 0;
	read_makefiles(&m);
	last_makefile(&m, dir ? dir : "", "", true);
	m.argv[m.n] = NULL;
	execvp("make", (char **)m.argv);
	failed("make: %s", strerror(errno));
	return 127;
}

int cmd_make(int argc, char **argv)
{
	struct make_opts o = {.local = (unsigned)sysconf(_SC_NPROCESSORS_ONLN), .remote = REMOTE_DEFAULT, .priority = "normal"};
	static struct make_args m = {.argv = {"make"}, .n = 1};
	const char *old = getenv("MAKEFLAGS"), *agent = getenv("MIG_MAKE_AGENT");
	_cleanup_free_ char *flags = NULL, *dir = NULL;
	static struct make_agent *a; /* its asker may be at work until we are gone */
	struct error e = {0};
	char sh[PATH_MAX];
	int jobs[2], r;

	if (agent && !strcmp(argv[0], "$(MAKE)"))
		return nested_make(argc, argv, agent);
	r = parse(argc, argv, &o, &m);
	if (r)
		return r;
	sprite_sh(sh, sizeof(sh));
	if (access(sh, X_OK))
		return failed("%s: %s", sh, strerror(errno));
	if (pipe(jobs)) /* inherited by make: no close-on-exec */
		return failed("no pipe for the job server: %s", strerror(errno));
	r = make_agent_start(&o, jobs, &a, &e);
	if (r)
		return failed("%s", e.text);
	dir = strdup(make_agent_path(a));
	if (!dir || asprintf(&flags, "%s -j --jobserver-auth=%d,%d", old ? old : "", jobs[0], jobs[1]) < 0)
		return failed("out of memory");
	*strrchr(dir, '/') = 0;
	read_makefiles(&m);
	r = last_makefile(&m, dir, sh, false);
	setenv("MAKEFLAGS", flags, 1);
	setenv("MIG_MAKE_AGENT", make_agent_path(a), 1);
	if (o.verbose)
		setenv("MIG_MAKE_VERBOSE", "1", 1);
	if (!r)
		r = run_make(&m);
	make_agent_stop(a);
	/* Not by exit(3), while the asker may be at work: what it holds at that moment would look lost to the leak checker. */
	fflush(NULL);
	_exit(r);
}
