// SPDX-License-Identifier: Apache-2.0
/*
 * mig shell: an interactive shell on another host, as if here. Job control needs a terminal of which the kernel that runs the shell knows the session, so the terminal is
 * made over there, in the family:
 *
 *	this process, at home	has the user's terminal, in raw mode
 *	   | four pipes: keys, screen, errors, size
 *	mig run -- mig shell --serve CMD	moves before it does anything; makes a pty over there, starts CMD as its session's leader, and carries bytes
 *
 * What is written to `size`: struct term_hello first (settings and size of the user's terminal), then a struct winsize for each change. The first byte of `screen` says
 * that the pty is there: until then nothing is taken from the terminal, so that Ctrl-C and error messages work as usual.
 *
 * Exit status: the shell's, 128 + N when it was ended by signal N; mig run's when it cannot go there.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>
#include "conf/io.h"
#include "migd/cli/cli.h"

enum { SIZE_FD = 3, ROOM = 16384, TERM_FAILED = 125, DRAIN_MS = 100 };

struct term_hello {
	struct termios t;
	struct winsize w;
};

/* Bytes from one descriptor to another, neither of which may block. */
struct way {
	int from, to; /* -1: over */
	size_t at, n;
	unsigned char buf[ROOM];
};

static void way_close(struct way *w)
{
	w->from = -1;
	if (!w->n)
		w->to = -1;
}

/* Reads if there is nothing to write, writes what can be written. False: its end. */
static bool way_step(struct way *w)
{
	ssize_t n;

	if (!w->n && w->from >= 0) {
		n = read(w->from, w->buf, sizeof(w->buf));
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
			return false;
		w->at = 0;
		w->n = n > 0 ? (size_t)n : 0;
	}
	while (w->n) {
		n = write(w->to, w->buf + w->at, w->n);
		if (n < 0)
			return errno == EAGAIN || errno == EINTR;
		w->at += (size_t)n;
		w->n -= (size_t)n;
	}
	return w->from >= 0;
}

static struct pollfd way_poll(const struct way *w)
{
	return w->n ? (struct pollfd){.fd = w->to, .events = POLLOUT} : (struct pollfd){.fd = w->from, .events = POLLIN};
}

static void nonblocking(int fd)
{
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

static int status_of(int status)
{
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* ---- over there ---- */

static _Noreturn void become_shell(const char *pts, const struct term_hello *h, char **cmd)
{
	sigset_t none;
	int fd;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
	fd = open(pts, O_RDWR);
	if (fd < 0 || ioctl(fd, TIOCSCTTY, 0) || tcsetattr(fd, TCSANOW, &h->t) || ioctl(fd, TIOCSWINSZ, &h->w))
		_exit(failed("%s: %s", pts, strerror(errno)) ? TERM_FAILED : 0);
	for (int i = 0; i < 3; i++)
		dup2(fd, i);
	close_range(3, ~0u, 0);
	execvp(cmd[0], cmd);
	failed("%s: %s", cmd[0], strerror(errno));
	_exit(errno == ENOENT ? 127 : 126);
}

/* Carries until the shell has ended and what it has written is on its way. */
static int carry(int master, pid_t shell)
{
	static struct way keys, screen;
	int over = (int)syscall(SYS_pidfd_open, shell, 0), status = 0;
	struct winsize w;
	bool ended = false;

	keys.from = STDIN_FILENO;
	keys.to = screen.from = master;
	screen.to = STDOUT_FILENO;
	nonblocking(STDIN_FILENO);
	nonblocking(STDOUT_FILENO);
	nonblocking(master);
	for (;;) {
		struct pollfd p[] = {way_poll(&keys), way_poll(&screen), {.fd = SIZE_FD, .events = POLLIN}, {.fd = ended ? -1 : over, .events = POLLIN}};

		if (poll(p, 4, ended ? DRAIN_MS : -1) == 0)
			break;
		if (p[0].revents && !way_step(&keys))
			return 128 + SIGHUP; /* the user's terminal has gone: so has this one, with our end of it */
		if (p[1].revents && !way_step(&screen))
			break;
		if (p[2].revents && !io_read_all(SIZE_FD, &w, sizeof(w)))
			ioctl(master, TIOCSWINSZ, &w);
		else if (p[2].revents)
			return 128 + SIGHUP;
		ended |= p[3].revents != 0;
	}
	close(master); /* a shell that lives on without a screen is hung up */
	if (waitpid(shell, &status, 0) < 0)
		return TERM_FAILED;
	return status_of(status);
}

static int serve(char **cmd)
{
	struct term_hello h;
	char pts[64];
	int master;
	pid_t pid;

	signal(SIGPIPE, SIG_IGN);
	if (io_read_all(SIZE_FD, &h, sizeof(h)))
		return failed("shell: this verb's --serve is for mig shell itself") ? TERM_FAILED : 0;
	master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (master < 0 || grantpt(master) || unlockpt(master) || ptsname_r(master, pts, sizeof(pts)))
		return failed("no terminal can be made there: %s", strerror(errno)) ? TERM_FAILED : 0;
	if (io_write_all(STDOUT_FILENO, "", 1))
		return TERM_FAILED;
	pid = fork();
	if (pid == 0)
		become_shell(pts, &h, cmd);
	return pid < 0 ? TERM_FAILED : carry(master, pid);
}

/* ---- at home ---- */

struct term_options {
	const char *host, *priority;
	bool serve, verbose;
	char **cmd;
};

static bool parse(int argc, char **argv, struct term_options *o)
{
	static const struct option options[] = {{"host", required_argument, NULL, 'H'}, {"verbose", no_argument, NULL, 'v'}, {"priority", required_argument, NULL, 'p'},
		{"serve", no_argument, NULL, 's'}, {0}};
	int c;

	while ((c = getopt_long(argc, argv, "+:H:v", options, NULL)) != -1) {
		switch (c) {
		case 'H':
			o->host = optarg;
			break;
		case 'v':
			o->verbose = true;
			break;
		case 'p':
			o->priority = optarg;
			break;
		case 's':
			o->serve = true;
			break;
		default:
			option_error("shell", c, argv);
			return false;
		}
	}
	o->cmd = argv + optind;
	return true;
}

static char *user_shell(void)
{
	const struct passwd *pw;
	char *s = getenv("SHELL");

	if (s && *s)
		return s;
	pw = getpwuid(getuid());
	return pw && pw->pw_shell && *pw->pw_shell ? pw->pw_shell : "/bin/sh";
}

/* The process that goes: its end of the four pipes are 0 to 3. */
static _Noreturn void go(const struct term_options *o, int pipes[4][2])
{
	char self[4096], **argv;
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	int argc = 0, ours[4], n_cmd = 0, status;

	self[n > 0 ? n : 0] = 0;
	for (int i = 0; i < 4; i++)
		ours[i] = fcntl(pipes[i][i == 1 || i == 2], F_DUPFD, 10);
	for (int i = 0; i < 4; i++)
		dup2(ours[i], i);
	close_range(4, ~0u, 0);
	while (o->cmd[n_cmd])
		n_cmd++;
	argv = calloc((size_t)n_cmd + 16, sizeof(*argv));
	if (!argv)
		exit(failed("no memory"));
	argv[argc++] = "run";
	if (o->host)
		argv[argc++] = "--host", argv[argc++] = (char *)(uintptr_t)o->host;
	if (o->priority)
		argv[argc++] = "--priority", argv[argc++] = (char *)(uintptr_t)o->priority;
	if (o->verbose)
		argv[argc++] = "--verbose";
	argv[argc++] = "--";
	argv[argc++] = self;
	argv[argc++] = "shell";
	argv[argc++] = "--serve";
	argv[argc++] = "--";
	for (int i = 0; i < n_cmd; i++)
		argv[argc++] = o->cmd[i];
	optind = 0;
	status = cmd_run(argc, argv);
	free(argv);
	exit(status);
}

static struct termios before; /* what the user's terminal is given back */

static void give_back(void)
{
	tcsetattr(STDIN_FILENO, TCSADRAIN, &before);
}

/* Until the process that went has ended. signals: SIGWINCH, SIGCHLD, and what ends us. */
static int screen_run(pid_t pid, int pipes[4][2], int signals)
{
	static struct way keys, screen, errors;
	struct signalfd_siginfo si;
	bool ready = false, ended = false;
	struct winsize w;
	int status = 0;
	char c;

	keys.from = STDIN_FILENO;
	keys.to = pipes[0][1];
	screen.from = pipes[1][0];
	screen.to = STDOUT_FILENO;
	errors.from = pipes[2][0];
	errors.to = STDERR_FILENO;
	nonblocking(keys.to);
	nonblocking(screen.from);
	nonblocking(errors.from);
	while (!(ended && screen.from < 0 && errors.from < 0)) {
		struct pollfd p[] = {ready && keys.from >= 0 ? way_poll(&keys) : (struct pollfd){.fd = -1}, way_poll(&screen), way_poll(&errors), {.fd = signals, .events = POLLIN}};

		if (poll(p, 4, -1) < 0 && errno != EINTR)
			break;
		if (p[1].revents && !ready && read(screen.from, &c, 1) == 1) {
			struct termios raw = before;

			ready = true;
			cfmakeraw(&raw);
			atexit(give_back);
			tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
		} else if (p[1].revents && !way_step(&screen)) {
			way_close(&screen);
		}
		if (p[2].revents && !way_step(&errors))
			way_close(&errors);
		if (p[0].revents && !way_step(&keys))
			way_close(&keys);
		if (!p[3].revents || read(signals, &si, sizeof(si)) != sizeof(si))
			continue;
		if (si.ssi_signo == SIGWINCH && !ioctl(STDIN_FILENO, TIOCGWINSZ, &w))
			io_write_all(pipes[3][1], &w, sizeof(w));
		else if (si.ssi_signo == SIGCHLD)
			ended |= waitpid(pid, &status, WNOHANG) == pid;
		else if (si.ssi_signo != SIGWINCH)
			return 128 + (int)si.ssi_signo; /* our ends of the pipes go with us, and the shell over there is hung up on */
	}
	if (WIFSIGNALED(status))
		failed("the shell was ended by signal %d (%s)\r", WTERMSIG(status), strsignal(WTERMSIG(status)));
	return status_of(status);
}

int cmd_term(int argc, char **argv)
{
	char *fallback[2] = {NULL, NULL};
	struct term_options o = {0};
	struct term_hello h = {0};
	int pipes[4][2], signals;
	sigset_t mask, old;
	pid_t pid;

	if (!parse(argc, argv, &o))
		return MIG_USAGE;
	if (!*o.cmd) {
		fallback[0] = user_shell();
		o.cmd = fallback;
	}
	if (o.serve)
		return serve(o.cmd);
	if (tcgetattr(STDIN_FILENO, &before) || ioctl(STDIN_FILENO, TIOCGWINSZ, &h.w) || !isatty(STDOUT_FILENO))
		return failed("shell: standard input and output are no terminal: expected one (mig run needs none)");
	h.t = before;
	for (int i = 0; i < 4; i++)
		if (pipe2(pipes[i], O_CLOEXEC))
			return failed("shell: %s", strerror(errno));
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&mask);
	for (size_t i = 0; i < 4; i++)
		sigaddset(&mask, (int[]){SIGWINCH, SIGCHLD, SIGTERM, SIGHUP}[i]);
	sigprocmask(SIG_BLOCK, &mask, &old);
	signals = signalfd(-1, &mask, SFD_CLOEXEC);
	pid = fork();
	if (pid < 0)
		return failed("shell: cannot fork: %s", strerror(errno));
	if (pid == 0) {
		signal(SIGPIPE, SIG_DFL);
		sigprocmask(SIG_SETMASK, &old, NULL);
		go(&o, pipes);
	}
	for (int i = 0; i < 4; i++)
		close(pipes[i][i == 1 || i == 2]);
	io_write_all(pipes[3][1], &h, sizeof(h));
	return screen_run(pid, pipes, signals);
}
