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
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "migd/cli/cli.h"
#include "migd/cli/make_agent.h"
#include "migd/cli/make_args.h"

extern char **environ;

enum { REMOTE_DEFAULT = 64, REMOTE_MAX = 1024, INCLUDES_MAX = 8 };

struct make_args {
	const char *argv[1024];
	int n;
	const char *files[16], *dirs[16]; /* make's -f and -C */
	size_t nfiles, ndirs;
};

/* How many more of ours are added behind make's own. */
enum { OURS = 40 };

static bool number_of(const char *s, unsigned max, unsigned *out)
{
	char *end;
	unsigned long v = strtoul(s, &end, 10);

	if (!*s || *end || v > max)
		return false;
	*out = (unsigned)v;
	return true;
}

/* One argument of make's. Which makefile it is we have to know. */
static bool give_make(struct make_args *m, const struct make_arg *x)
{
	if (m->n >= (int)ARRAY_SIZE(m->argv) - OURS)
		return false;
	if (x->letter == 'f' && x->value && m->nfiles < ARRAY_SIZE(m->files))
		m->files[m->nfiles++] = x->value;
	if (x->letter == 'C' && x->value && m->ndirs < ARRAY_SIZE(m->dirs))
		m->dirs[m->ndirs++] = x->value;
	for (int i = 0; i < 2 && x->as[i]; i++)
		if (i || strcmp(x->as[i], "--")) /* ours come behind; a target that begins with a dash make does not have */
			m->argv[m->n++] = x->as[i];
	return true;
}

/* One of ours? 1: yes, and taken; 0: make's; else an exit status. */
static int take_ours(struct make_line *l, struct make_arg *x, struct make_opts *o, unsigned *jobs)
{
	const char *v;

	if (x->letter == 'j') {
		if (x->value && (!number_of(x->value, REMOTE_MAX, jobs) || !*jobs))
			return usage_error("make", "-j: expected a number of recipes at a time, 1 to %d, found \"%s\"", REMOTE_MAX, x->value);
		return 1;
	}
	if (make_arg_is(l, x, "local", true)) {
		v = x->value ? x->value : "";
		return number_of(v, REMOTE_MAX, &o->local) && o->local ? 1 : usage_error("make", "--local: expected a number from 1, found \"%s\"", v);
	}
	if (make_arg_is(l, x, "remote", true)) {
		v = x->value ? x->value : "";
		return number_of(v, REMOTE_MAX, &o->remote) ? 1 : usage_error("make", "--remote: expected a number of slots, found \"%s\"", v);
	}
	if (make_arg_is(l, x, "priority", true)) {
		v = x->value ? x->value : "";
		if (strcmp(v, "low") && strcmp(v, "normal") && strcmp(v, "high"))
			return usage_error("make", "--priority: expected low, normal or high, found \"%s\"", v);
		if (!strcmp(v, "high") && geteuid()) { /* migd would say so, but only when the build is under way */
			failed("priority high is root's: ask for normal");
			return MIG_USAGE;
		}
		o->priority = v;
		return 1;
	}
	o->verbose |= make_arg_is(l, x, "verbose", false);
	return make_arg_is(l, x, "verbose", false);
}

/* Takes our options out, leaves make's. */
static int parse(int argc, char **argv, struct make_opts *o, struct make_args *m)
{
	struct make_line l;
	struct make_arg x;
	unsigned jobs = 0;

	make_line_init(&l, argc, argv);
	while (make_line_next(&l, &x)) {
		int r = l.words ? 0 : take_ours(&l, &x, o, &jobs);

		if (r > 1)
			return r;
		if (!r && !give_make(m, &x))
			return usage_error("make", "too many arguments");
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
	struct stat st;
	_cleanup_fclose_ FILE *f = !stat(file, &st) && S_ISREG(st.st_mode) ? fopen(file, "re") : NULL; /* a pipe's is make's alone to read */
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

	for (size_t i = 0; i < m->ndirs; i++)
		if (chdir(m->dirs[i]))
			goto out; /* make says so */
	for (size_t i = 0; !m->nfiles && i < ARRAY_SIZE(names); i++)
		if (!access(names[i], R_OK)) {
			m->files[m->nfiles++] = names[i];
			m->argv[m->n++] = "-f";
			m->argv[m->n++] = names[i];
		}
	for (size_t i = 0; i < m->nfiles; i++)
		read_makefile(m, m->files[i], 0);
out:
	if (m->ndirs && (here < 0 || fchdir(here)))
		failed("cannot go back from %s: %s", m->dirs[0], strerror(errno));
}

/*
 * What make reads last: the shell that its makefiles have come to is kept for sprite-sh, which takes its place. (A target that has a shell of its own keeps it, and runs here.)
 * sprite-sh has a name by which make knows (.ONESHELL) whether it is like sh.
 * Itself it is not to be seen: it has a rule, so that make does not look for one, but is no goal, and takes itself off the list of makefiles.
 */
static const char last_text[] =
	"override MIG_MAKE_SHELL := $(SHELL)\nexport MIG_MAKE_SHELL\n"
	"override SHELL := %1$s/$(if $(filter sh bash dash ksh rksh zsh ash,$(notdir $(SHELL))),sh,sprite-sh)\n"
	"MIG_MAKE_GOAL := $(.DEFAULT_GOAL)\n%1$s/last.mk: ;\n.DEFAULT_GOAL := $(MIG_MAKE_GOAL)\nundefine MIG_MAKE_GOAL\n"
	"MIG_MAKE_NOTHING :=\nMAKEFILE_LIST := $(subst $(MIG_MAKE_NOTHING) %1$s/last.mk,,$(MAKEFILE_LIST))\nundefine MIG_MAKE_NOTHING\n";

static bool link_in(const char *dir, const char *name, const char *to)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return symlink(to, path) == 0;
}

/* $(MAKE) is we again, by the name of make: each make has a shell of its own. */
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
		if (!f || (fprintf(f, last_text, dir) < 0) + (fclose(f) != 0) || !link_in(dir, "make", exe) || !link_in(dir, "sh", sh) || !link_in(dir, "sprite-sh", sh))
			return failed("%s: %s", path, strerror(errno));
		m->argv[m->n++] = make;
	}
	if (m->nfiles) {
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

enum { GRACE_US = 50000 };

/* What may end us, and make's end: waited for by run_make(), so blocked, in all threads. What nohup ignores make does not hear of either. */
static void hold_signals(sigset_t *held, sigset_t *before)
{
	static const int ends[] = { SIGINT, SIGQUIT, SIGTERM, SIGHUP };
	struct sigaction a;
	sigset_t reader;

	/* a worker, or whoever reads what we print, may be gone: that is no end of ours */
	sigemptyset(&reader);
	sigaddset(&reader, SIGPIPE);
	sigemptyset(held);
	sigaddset(held, SIGCHLD);
	for (int i = 0; i < 4; i++)
		if (!sigaction(ends[i], NULL, &a) && a.sa_handler != SIG_IGN)
			sigaddset(held, ends[i]);
	pthread_sigmask(SIG_BLOCK, held, before);
	pthread_sigmask(SIG_BLOCK, &reader, NULL);
}

/* make takes its handler off when it hears of a signal: has it not heard of this one yet? A second one would end it before it has removed what is half made. */
static bool is_news(pid_t make, int sig)
{
	char path[40];
	_cleanup_fclose_ FILE *f = NULL;
	_cleanup_free_ char *line = NULL;
	unsigned long long bits, caught = 0, waiting = 0;
	size_t cap = 0;

	snprintf(path, sizeof(path), "/proc/%d/status", make);
	f = fopen(path, "re");
	while (f && getline(&line, &cap, f) > 0) {
		if (sscanf(line, "SigCgt: %llx", &bits) == 1)
			caught = bits;
		else if (sscanf(line, "SigPnd: %llx", &bits) == 1 || sscanf(line, "ShdPnd: %llx", &bits) == 1)
			waiting |= bits;
	}
	return (caught & ~waiting) >> (sig - 1) & 1;
}

/*
 * What ends us is make's to hear: it ends its recipes, removes what is half made, and then itself; we stay to pass on their last words, and to tidy. A key, or a signal to the
 * whole group, it has by itself. *out: its wait(2) status.
 */
static int run_make(struct make_args *m, const sigset_t *held, const sigset_t *before, int *out)
{
	posix_spawnattr_t attr;
	pid_t pid;
	int status = 0, err, sig;

	m->argv[m->n] = NULL;
	posix_spawnattr_init(&attr);
	posix_spawnattr_setsigmask(&attr, before);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
	err = posix_spawnp(&pid, "make", NULL, &attr, (char **)m->argv, environ);
	posix_spawnattr_destroy(&attr);
	if (err) {
		failed("make: %s", strerror(err));
		return 127;
	}
	while (waitpid(pid, &status, WNOHANG) != pid) {
		if (sigwait(held, &sig) || sig == SIGCHLD)
			continue;
		usleep(GRACE_US);
		if (is_news(pid, sig)) /* it is our child, and not waited for: the number is its */
			kill(pid, sig);
	}
	*out = status;
	return 0;
}

/* A make that make starts: all but the makefiles was said before, in MAKEFLAGS and the environment. */
static int nested_make(int argc, char **argv, const char *agent)
{
	static struct make_args m = {.argv = {"make"}, .n = 1};
	struct make_line l;
	struct make_arg x;
	_cleanup_free_ char *dir = strdup(agent);
	char *slash = dir ? strrchr(dir, '/') : NULL;

	make_line_init(&l, argc, argv);
	while (make_line_next(&l, &x))
		if (!give_make(&m, &x))
			return failed("make: too many arguments");
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
	const char *agent = getenv("MIG_MAKE_AGENT");
	_cleanup_free_ char *old = make_flags_alone(getenv("MAKEFLAGS")), *flags = NULL, *dir = NULL;
	struct make_agent *a;
	struct error e = {0};
	char sh[PATH_MAX];
	sigset_t held, before;
	int jobs[2], r, status = 0;

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
	hold_signals(&held, &before);
	r = make_agent_new(&o, jobs, &a, &e);
	if (r)
		return failed("%s", e.text);
	dir = strdup(make_agent_path(a));
	if (!dir || !old || asprintf(&flags, "%.*s -j --jobserver-auth=%d,%d%s", (int)make_flags_options(old), old, jobs[0], jobs[1], old + make_flags_options(old)) < 0) {
		make_agent_stop(a);
		return failed("out of memory");
	}
	*strrchr(dir, '/') = 0;
	read_makefiles(&m);
	r = last_makefile(&m, dir, sh, false);
	setenv("MAKEFLAGS", flags, 1);
	setenv("MIG_MAKE_AGENT", make_agent_path(a), 1);
	if (o.verbose)
		setenv("MIG_MAKE_VERBOSE", "1", 1);
	if (!r && make_agent_start(a, &e)) /* last: its threads read the environment */
		r = failed("%s", e.text);
	else if (!r)
		r = run_make(&m, &held, &before, &status);
	make_agent_stop(a);
	return r ? r : end_alike(status);
}
