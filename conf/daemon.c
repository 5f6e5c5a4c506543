// SPDX-License-Identifier: Apache-2.0
/* Command line and signals of a daemon: see daemon.h. Used by main's thread only. */
#include "conf/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sysexits.h>
#include <unistd.h>
#include "conf/log.h"

#ifndef SPRITE_VERSION
#define SPRITE_VERSION "unknown"
#endif

struct parsed {
	const char *config;
	bool check, foreground, help, version;
};

static void version(const char *program)
{
	printf("%s (Sprite for Linux) %s\n", program, SPRITE_VERSION);
}

static void help(const struct daemon *d, const struct daemon_option *common)
{
	char left[80];

	printf("usage: %s [OPTION]...%s%s\n%s\n\n", d->program, d->operands ? " " : "", d->operands ? d->operands : "", d->summary);
	for (int table = 0; table < 2; table++)
		for (const struct daemon_option *o = table ? common : d->options; o && o->name; o++) {
			snprintf(left, sizeof(left), "--%s%s%s", o->name, o->arg ? " " : "", o->arg ? o->arg : "");
			printf("  %-22s %s\n", left, o->help);
		}
	printf("\nDetails: %s(8), sprite.conf(5)\n", d->program);
}

static const struct daemon_option *find(const struct daemon_option *o, const char *name, size_t n)
{
	for (; o && o->name; o++)
		if (!strncmp(o->name, name, n) && !o->name[n])
			return o;
	return NULL;
}

/* One "--option[=value]" at argv[*i]; may take argv[*i + 1]. False: reported. */
static bool option(const struct daemon *d, const struct daemon_option *common, char **argv, int *i)
{
	const char *name = argv[*i] + 2, *eq = strchr(name, '=');
	size_t n = eq ? (size_t)(eq - name) : strlen(name);
	const struct daemon_option *o = find(d->options, name, n);

	if (!o)
		o = find(common, name, n);
	if (!o) {
		fprintf(stderr, "%s: no option %s; see %s --help\n", d->program, argv[*i], d->program);
		return false;
	}
	if (!o->arg && eq) {
		fprintf(stderr, "%s: --%s takes no value\n", d->program, o->name);
		return false;
	}
	if (!o->arg) {
		*o->flag = true;
		return true;
	}
	if (!eq && !argv[*i + 1]) {
		fprintf(stderr, "%s: --%s needs %s\n", d->program, o->name, o->arg);
		return false;
	}
	*o->value = eq ? eq + 1 : argv[++*i];
	return true;
}

/* Operands are moved to the front of argv + 1. */
static bool parse(struct daemon *d, const struct daemon_option *common, int argc, char **argv)
{
	int kept = 0;
	bool only_args = false;

	d->args = argv + 1;
	for (int i = 1; i < argc; i++) {
		if (!only_args && !strcmp(argv[i], "--")) {
			only_args = true;
		} else if (!only_args && !strcmp(argv[i], "-h")) {
			*find(common, "help", 4)->flag = true;
		} else if (!only_args && !strncmp(argv[i], "--", 2)) {
			if (!option(d, common, argv, &i))
				return false;
		} else if (!d->operands || (!only_args && argv[i][0] == '-' && argv[i][1])) {
			fprintf(stderr, "%s: did not expect \"%s\"; see %s --help\n", d->program, argv[i], d->program);
			return false;
		} else {
			d->args[kept++] = argv[i];
		}
	}
	if (argc > 0)
		d->args[kept] = NULL;
	return true;
}

static int signals(struct daemon *d)
{
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	d->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return d->signal_fd < 0 ? -errno : 0;
}

bool daemon_begin(struct daemon *d, int argc, char **argv, int *status)
{
	struct error e = {0};
	struct parsed p = {0};
	const struct daemon_option common[] = {
		{"config", "FILE", "read this configuration ($SPRITE_CONF, else " CONF_PATH_DEFAULT ")", &p.config, NULL},
		{"check", NULL, "only check the configuration and the certificate: exit status 0, or 78 and every error", NULL, &p.check},
		{"foreground", NULL, "stay in the foreground, as it does if it is not told otherwise", NULL, &p.foreground},
		{"help", NULL, "show this", NULL, &p.help},
		{"version", NULL, "show the version", NULL, &p.version},
		{0},
	};

	d->signal_fd = -1;
	*status = EX_USAGE;
	if (!parse(d, common, argc, argv))
		return false;
	*status = 0;
	if (p.help) {
		help(d, common);
		return false;
	}
	if (p.version) {
		version(d->program);
		return false;
	}
	log_init(d->program);
	d->only_check = p.check;
	*status = EX_NOPERM;
	if (d->root && !p.check && geteuid()) {
		log_error("needs root");
		return false;
	}
	*status = CONF_EXIT;
	if (conf_load(p.config, &d->conf))
		return false;
	if ((d->check && d->check(d->conf, &e) < 0) || (p.check && d->check_more && d->check_more(d->conf, &e) < 0)) {
		if (p.check)
			fprintf(stderr, "%s: %s\n", d->conf->file, e.text); /* as the other errors of a check */
		else
			log_error("%s: %s", d->conf->file, e.text);
		daemon_end(d);
		return false;
	}
	if (p.check) {
		printf("%s: good\n", d->conf->file);
		daemon_end(d);
		*status = 0;
		return false;
	}
	*status = EX_OSERR;
	if (signals(d)) {
		log_error("signalfd: %s", strerror(errno));
		daemon_end(d);
		return false;
	}
	*status = 0;
	return true;
}

bool daemon_part_asked(int argc, char **argv, const char *program, const char *usage)
{
	if (argc != 2)
		return false;
	if (!strcmp(argv[1], "--version"))
		version(program);
	else if (!strcmp(argv[1], "--help"))
		printf("%s", usage);
	else
		return false;
	return true;
}

int daemon_alone(const char *program, const char *dir, struct error *e)
{
	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET}, other = l;
	char path[PATH_MAX];
	int fd, r;

	if (snprintf(path, sizeof(path), "%s/%s.lock", dir, program) >= (int)sizeof(path))
		return error_set(e, ENAMETOOLONG, "%s: %s", dir, strerror(ENAMETOOLONG));
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return error_set(e, errno, "%s: %s", path, strerror(errno));
	if (fcntl(fd, F_SETLK, &l) == 0)
		return 0; /* it stays open */
	r = errno;
	if (r != EAGAIN && r != EACCES)
		error_set(e, r, "%s: %s", path, strerror(r));
	else if (fcntl(fd, F_GETLK, &other) == 0 && other.l_type != F_UNLCK && other.l_pid > 0)
		error_set(e, EBUSY, "another %s runs here (process %d)", program, (int)other.l_pid);
	else
		error_set(e, EBUSY, "another %s runs here", program);
	close(fd);
	return r == EAGAIN || r == EACCES ? -EBUSY : -r;
}

int daemon_signal(struct daemon *d)
{
	struct signalfd_siginfo si;

	return read(d->signal_fd, &si, sizeof(si)) == (ssize_t)sizeof(si) ? (int)si.ssi_signo : 0;
}

int daemon_wait(struct daemon *d, void (*hup)(void *arg), void *arg)
{
	struct pollfd p = {.fd = d->signal_fd, .events = POLLIN};
	int sig;

	for (;;) {
		if (poll(&p, 1, -1) < 0 && errno != EINTR)
			return SIGTERM;
		sig = daemon_signal(d);
		if (sig == SIGHUP) {
			if (hup)
				hup(arg);
		} else if (sig) {
			return sig;
		}
	}
}

bool daemon_told_to_end(void)
{
	sigset_t set;

	return sigpending(&set) == 0 && (sigismember(&set, SIGTERM) == 1 || sigismember(&set, SIGINT) == 1);
}

void daemon_end(struct daemon *d)
{
	if (d->signal_fd >= 0)
		close(d->signal_fd);
	d->signal_fd = -1;
	conf_free(d->conf);
	d->conf = NULL;
}

/* The leak checker of the asan build. */
__attribute__((weak)) void __lsan_do_leak_check(void);

void daemon_leave(int status)
{
	fflush(NULL);
	if (__lsan_do_leak_check)
		__lsan_do_leak_check();
	_exit(status);
}
