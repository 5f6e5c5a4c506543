/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sprite-lab exec: the node's init runs the command (server.h); this end passes its descriptors, or, at a terminal, relays between that and a pty of the node.
 * Signals that come here go to the command. Exit status: the command's; 128 + N if signal N ended it; 125 if it could not be asked for, 126/127 as env(1).
 */
#include "lab.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <termios.h>

struct session {
	int sock, signals;
	int master;	  /* of the node's pty; -1: the command has our descriptors */
	bool in_open;	  /* more may come on our stdin */
};

static struct termios saved;
static bool raw;

static void restore(void)
{
	if (raw)
		tcsetattr(0, TCSANOW, &saved);
}

static int write_all(int fd, const char *buf, ssize_t n)
{
	while (n > 0) {
		ssize_t done = write(fd, buf, n);
		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return -errno;
		buf += done;
		n -= done;
	}
	return 0;
}

static void on_signal(struct session *s)
{
	struct signalfd_siginfo si;
	struct winsize size;

	if (read(s->signals, &si, sizeof(si)) != sizeof(si))
		return;
	if (si.ssi_signo == SIGWINCH) {
		if (s->master >= 0 && ioctl(0, TIOCGWINSZ, &size) == 0)
			ioctl(s->master, TIOCSWINSZ, &size);
		return;
	}
	client_send(s->sock, json_pack("{s:i}", "signal", (int)si.ssi_signo), NULL, 0);
}

static void drain(int master)
{
	char buf[4096];
	ssize_t n;

	fcntl(master, F_SETFL, O_NONBLOCK);
	while ((n = read(master, buf, sizeof(buf))) > 0)
		write_all(1, buf, n);
}

/* Until the command's status comes. */
static int relay(struct session *s)
{
	char buf[4096];
	ssize_t n;

	for (;;) {
		struct pollfd p[4] = {{.fd = s->sock, .events = POLLIN}, {.fd = s->signals, .events = POLLIN}, {.fd = s->master, .events = POLLIN},
			{.fd = s->master >= 0 && s->in_open ? 0 : -1, .events = POLLIN}};

		if (poll(p, 4, -1) < 0)
			continue;
		if (p[1].revents)
			on_signal(s);
		if (p[3].revents) {
			n = read(0, buf, sizeof(buf));
			s->in_open = n > 0;
			write_all(s->master, n > 0 ? buf : "\004", n > 0 ? n : 1);
		}
		if (p[2].revents) {
			n = read(s->master, buf, sizeof(buf));
			if (n > 0) {
				write_all(1, buf, n);
				continue; /* all output before the status */
			}
			close(s->master); /* EIO: nobody holds the other side */
			s->master = -1;
		}
		if (p[0].revents) {
			json_t *m = client_receive(s->sock, NULL), *status = json_object_get(m, "status");
			int w = json_integer_value(status);
			bool have = status != NULL;

			json_decref(m);
			if (!m)
				return LAB_FAILURE;
			if (!have)
				continue;
			if (s->master >= 0)
				drain(s->master);
			return WIFSIGNALED(w) ? 128 + WTERMSIG(w) : WEXITSTATUS(w);
		}
	}
}

static int start(struct session *s, const char *user, bool tty, char **command, struct error *e)
{
	static const int fds[3] = {0, 1, 2};
	struct winsize size = {.ws_row = 24, .ws_col = 80};
	json_t *args = json_array(), *request, *answer;
	const char *term = getenv("TERM"), *text;
	int rc;

	for (; *command; command++)
		if (json_array_append_new(args, json_string(*command)) < 0)
			return error_set(e, EILSEQ, "the command line is not UTF-8");
	ioctl(0, TIOCGWINSZ, &size);
	request = json_pack("{s:s, s:o, s:s, s:b, s:s, s:i, s:i}", "verb", "exec", "argv", args, "user", user, "tty", tty, "term", term ? term : "dumb",
		"rows", size.ws_row, "cols", size.ws_col);
	rc = client_send(s->sock, request, fds, tty ? 0 : 3);
	if (rc < 0)
		return error_set(e, -rc, "cannot ask the node: %s", strerror(-rc));
	answer = client_receive(s->sock, &s->master);
	text = json_string_value(json_object_get(answer, "error"));
	if (!json_is_true(json_object_get(answer, "ok")))
		error_set(e, EIO, "%s", text ? text : "the node hung up");
	json_decref(answer);
	return e->code ? -e->code : 0;
}

int cmd_exec(const char *name, int argc, char **argv)
{
	static struct lab lab;
	struct session s = {.master = -1, .in_open = true};
	struct lab_node *node;
	struct error e = {0};
	const char *user = "root";
	bool tty = isatty(0) && isatty(1);
	int i = 2, status;
	sigset_t set;

	if (argc < 2)
		return usage_error("exec") ? LAB_FAILURE : 0;
	for (; i < argc && argv[i][0] == '-' && strcmp(argv[i], "--") != 0; i++) {
		if (strcmp(argv[i], "-u") == 0 && i + 1 < argc)
			user = argv[++i];
		else if (strcmp(argv[i], "-t") == 0)
			tty = true;
		else if (strcmp(argv[i], "-T") == 0)
			tty = false;
		else
			return usage_error("exec") ? LAB_FAILURE : 0;
	}
	i += i < argc && strcmp(argv[i], "--") == 0;
	if (i >= argc)
		return usage_error("exec") ? LAB_FAILURE : 0;
	if (lab_use_node(&lab, name, argv[1], &node, &e) < 0)
		return fail(&e) ? LAB_FAILURE : 0;
	sigemptyset(&set);
	for (size_t k = 0; k < 8; k++)
		sigaddset(&set, (int[]){SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGCONT, SIGWINCH}[k]);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	s.signals = signalfd(-1, &set, SFD_CLOEXEC);
	s.sock = client_connect(&lab, node->name, &e);
	if (s.sock < 0 || start(&s, user, tty, argv + i, &e) < 0)
		return fail(&e) ? LAB_FAILURE : 0;
	if (tty && isatty(0) && tcgetattr(0, &saved) == 0) {
		struct termios t = saved;
		cfmakeraw(&t);
		raw = tcsetattr(0, TCSANOW, &t) == 0;
	}
	status = relay(&s);
	restore();
	return status;
}
