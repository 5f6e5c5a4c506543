/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What people run on a node: commands of `exec`, children of its init, each the leader of a session of its own; and the console, a login session of user sprite
 * at a pty (with a utmp entry), whose terminal sees input when somebody says `sprite-lab input`.
 */
#include "server.h"
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <termios.h>
#include <utmp.h>

extern char **environ;

/* What a login gives. The hub's own helpers (no user) keep what they have. */
static int become(const char *user, const char *term)
{
	struct passwd *pw = getpwnam(user);
	char *env[16];
	size_t n = 0;

	if (!pw) {
		dprintf(2, "sprite-lab: user %s: not known on this node\n", user);
		return -ENOENT;
	}
	if (initgroups(pw->pw_name, pw->pw_gid) < 0 || setgid(pw->pw_gid) < 0 || setuid(pw->pw_uid) < 0) {
		dprintf(2, "sprite-lab: user %s: %s\n", user, strerror(errno));
		return -errno;
	}
	env[n++] = xasprintf("PATH=" LAB_BIN ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
	env[n++] = xasprintf("HOME=%s", pw->pw_dir);
	env[n++] = xasprintf("USER=%s", pw->pw_name);
	env[n++] = xasprintf("LOGNAME=%s", pw->pw_name);
	env[n++] = xasprintf("SHELL=%s", pw->pw_shell);
	env[n++] = xasprintf("LANG=C.UTF-8");
	env[n++] = xasprintf("TERM=%s", term && *term ? term : "dumb");
	env[n] = NULL;
	environ = memcpy(xcalloc(n + 1, sizeof(char *)), env, (n + 1) * sizeof(char *));
	if (chdir(pw->pw_dir) < 0 && chdir("/") < 0)
		return -errno;
	return 0;
}

static int pty_open(char *slave, size_t size, int *master)
{
	*master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (*master < 0 || grantpt(*master) < 0 || unlockpt(*master) < 0 || ptsname_r(*master, slave, size) != 0) {
		int rc = -errno;
		if (*master >= 0)
			close(*master);
		*master = -1;
		return rc;
	}
	return 0;
}

static void __attribute__((noreturn)) job_child(json_t *request, const char *const *argv, const int *fds, const char *slave)
{
	const char *user = json_string_value(json_object_get(request, "user"));
	sigset_t none;
	int tty = -1;

	setsid();
	if (slave) {
		tty = open(slave, O_RDWR);
		ioctl(tty, TIOCSCTTY, 0);
	}
	for (int i = 0; i < 3; i++)
		dup2(slave ? tty : fds[i], i);
	close_range(3, ~0u, 0);
	for (int sig = 1; sig < NSIG; sig++)
		signal(sig, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	umask(022);
	if (user && become(user, json_string_value(json_object_get(request, "term"))) < 0)
		_exit(LAB_FAILURE);
	execvp(argv[0], (char *const *)argv);
	dprintf(2, "sprite-lab: %s: %s\n", argv[0], strerror(errno));
	_exit(errno == ENOENT ? 127 : 126);
}

int job_start(struct conn *c, json_t *request, const int *fds, size_t nfds, int *master, struct error *e)
{
	json_t *args = json_object_get(request, "argv"), *item;
	bool tty = json_is_true(json_object_get(request, "tty"));
	_cleanup_free_ const char **argv = NULL;
	char slave[64];
	size_t i;

	*master = -1;
	if (c->job || json_array_size(args) == 0 || (!tty && nfds != 3))
		return error_set(e, EINVAL, "exec: no command, or no descriptors for it");
	argv = xcalloc(json_array_size(args) + 1, sizeof(char *));
	json_array_foreach(args, i, item)
		argv[i] = json_string_value(item);
	if (tty) {
		struct winsize size = {.ws_row = json_integer_value(json_object_get(request, "rows")),
			.ws_col = json_integer_value(json_object_get(request, "cols"))};
		int rc = pty_open(slave, sizeof(slave), master);
		if (rc < 0)
			return error_set(e, -rc, "no terminal to be had: %s", strerror(-rc));
		ioctl(*master, TIOCSWINSZ, &size);
	}
	c->job = fork();
	if (c->job == 0)
		job_child(request, argv, fds, tty ? slave : NULL);
	if (c->job < 0) {
		c->job = 0;
		return error_set(e, errno, "fork: %s", strerror(errno));
	}
	return 0;
}

/* Reads what is typed, as a shell would; the terminal's access time moves with it. */
static void __attribute__((noreturn)) console_child(const char *slave)
{
	struct utmp ut = {.ut_type = USER_PROCESS, .ut_pid = getpid(), .ut_user = "sprite", .ut_host = ":0"};
	sigset_t none;
	char buf[64];
	int tty;

	setsid();
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	tty = open(slave, O_RDWR);
	ioctl(tty, TIOCSCTTY, 0);
	if (fchown(tty, 1000, 5) == 0) {
		struct timeval now;
		FILE *f = fopen("/run/utmp", "ae");

		gettimeofday(&now, NULL);
		ut.ut_tv.tv_sec = now.tv_sec;
		memcpy(ut.ut_line, slave + strlen("/dev/"), strnlen(slave + strlen("/dev/"), sizeof(ut.ut_line) - 1));
		memcpy(ut.ut_id, slave + strlen("/dev/pts/"), strnlen(slave + strlen("/dev/pts/"), sizeof(ut.ut_id)));
		if (f) {
			fwrite(&ut, sizeof(ut), 1, f);
			fclose(f);
		}
	}
	for (int i = 0; i < 3; i++)
		dup2(tty, i);
	close_range(3, ~0u, 0);
	prctl(PR_SET_NAME, "lab-console");
	if (setgid(1000) < 0 || setuid(1000) < 0)
		_exit(1);
	while (read(0, buf, sizeof(buf)) > 0)
		;
	_exit(0);
}

int console_open(struct error *e)
{
	struct termios t;
	char slave[64];
	int master, rc = pty_open(slave, sizeof(slave), &master);
	pid_t pid;

	if (rc < 0)
		return error_set(e, -rc, "no terminal for the console: %s", strerror(-rc));
	tcgetattr(master, &t);
	cfmakeraw(&t); /* every key reaches the reader at once, nothing is echoed into a buffer that nobody empties */
	tcsetattr(master, TCSANOW, &t);
	pid = fork();
	if (pid == 0)
		console_child(slave);
	return pid < 0 ? error_set(e, errno, "fork: %s", strerror(errno)) : master;
}
