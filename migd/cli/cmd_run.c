// SPDX-License-Identifier: Apache-2.0
/*
 * mig run: this very process becomes the command. migd seizes it, it execs the command at home, stops at that exec and is moved like any other process, with the
 * pid, environment, directory, descriptors and limits that it has here.
 *
 * Exit status: the command's (this process is the command then); 125 when mig or the move failed, 126 when the command was found but could not be executed, 127 when it was
 * not found: as env(1). --background: 0 when it has gone; the command runs in a session of its own.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include "migd/cli/cli.h"

enum { STUCK_DEFAULT_S = 60, STUCK_MAX_S = 7 * 86400, RUN_FAILED = 125, RUN_NOT_EXECUTABLE = 126, RUN_NOT_FOUND = 127 };

struct run_options {
	const char *host, *priority;
	unsigned kill_if_stuck; /* seconds */
	bool local_ok, background, verbose;
};

static bool parse(int argc, char **argv, struct run_options *o)
{
	static const struct option options[] = {{"host", required_argument, NULL, 'H'}, {"local-ok", no_argument, NULL, 'l'},
		{"background", no_argument, NULL, 'b'}, {"verbose", no_argument, NULL, 'v'}, {"priority", required_argument, NULL, 'p'},
		{"kill-if-stuck", optional_argument, NULL, 'k'}, {0}};
	char *end = NULL;
	int c;

	/* '+': options end at the command */
	while ((c = getopt_long(argc, argv, "+:H:lbv", options, NULL)) != -1) {
		switch (c) {
		case 'H':
			o->host = optarg;
			break;
		case 'l':
			o->local_ok = true;
			break;
		case 'b':
			o->background = true;
			break;
		case 'v':
			o->verbose = true;
			break;
		case 'p':
			o->priority = optarg;
			break;
		case 'k':
			o->kill_if_stuck = optarg ? (unsigned)strtoul(optarg, &end, 10) : STUCK_DEFAULT_S;
			if (o->kill_if_stuck && o->kill_if_stuck <= STUCK_MAX_S && !(optarg && *end))
				break;
			usage_error("run", "--kill-if-stuck: expected seconds, 1 to %d, found \"%s\"", STUCK_MAX_S, optarg);
			return false;
		default:
			option_error("run", c, argv);
			return false;
		}
	}
	if (optind < argc)
		return true;
	usage_error("run", "which command?");
	return false;
}

/* Can it be executed at all? Asked before migd is troubled, since after that only the exec itself can tell. 0, 126, 127. */
static int look_up(const char *cmd)
{
	const char *path = getenv("PATH");
	char full[4096];
	int err = ENOENT;

	if (strchr(cmd, '/')) {
		if (!access(cmd, X_OK))
			return 0;
		err = errno;
	} else {
		for (path = path ? path : "/usr/local/bin:/usr/bin:/bin"; err;) {
			size_t n = strcspn(path, ":");

			snprintf(full, sizeof(full), "%.*s/%s", n ? (int)n : 1, n ? path : ".", cmd);
			if (!access(full, X_OK))
				err = 0;
			else if (errno == EACCES)
				err = EACCES;
			if (!path[n])
				break;
			path += n + 1;
		}
	}
	if (!err)
		return 0;
	failed("%s: %s", cmd, strerror(err));
	return err == EACCES ? RUN_NOT_EXECUTABLE : RUN_NOT_FOUND;
}

/*
 * --background: the parent says the child's pid when its image has gone, or ends as the child does if it cannot go. Between the two, on a socket that exec closes:
 * child -> parent 'g': migd holds it, it will exec as soon as the parent is heard by migd (a byte back); 'h': it runs here; 'x': its exec has failed.
 */
static int ended(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return RUN_FAILED;
	return WIFEXITED(status) ? WEXITSTATUS(status) : RUN_FAILED;
}

static void heard(void *arg, json_t *line)
{
	(void)line;
	send(*(int *)arg, "", 1, MSG_NOSIGNAL);
}

static int wait_gone(pid_t pid, int sock)
{
	json_t *answer = NULL;
	struct error e = {0};
	bool gone = false;
	char c;

	if (recv(sock, &c, 1, 0) != 1)
		return ended(pid);
	if (c == 'g') {
		/* without a migd any more nobody stops it: it goes on here */
		gone = ask(json_pack("{s:s, s:i}", "verb", "went", "pid", (int)pid), heard, &sock, &answer, &e) || !json_is_true(json_object_get(answer, "failed"));
		json_decref(answer);
		shutdown(sock, SHUT_RDWR);
	} else {
		gone = recv(sock, &c, 1, 0) != 1;
	}
	if (!gone)
		return ended(pid);
	printf("%d\n", (int)pid);
	return 0;
}

/* Returns only in the child: its end of the socket. */
static int background(void)
{
	int sv[2];
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) || (pid = fork()) < 0)
		exit(failed("cannot fork: %s", strerror(errno)) ? RUN_FAILED : 0);
	if (pid) {
		close(sv[1]);
		exit(wait_gone(pid, sv[0]));
	}
	close(sv[0]);
	setsid();
	for (int fd = 0; fd < 3; fd++) { /* what is a terminal's is not for the background */
		int null = isatty(fd) ? open("/dev/null", fd ? O_WRONLY : O_RDONLY) : -1;

		if (null >= 0) {
			dup2(null, fd);
			close(null);
		}
	}
	return sv[1];
}

static void tell_parent(int sock, char what)
{
	if (sock < 0)
		return;
	send(sock, &what, 1, MSG_NOSIGNAL);
	if (what == 'g' && recv(sock, &what, 1, 0) < 0)
		return; /* it has gone: nobody waits */
}

int cmd_run(int argc, char **argv)
{
	struct run_options o = {0};
	struct error e = {0};
	json_t *rq, *answer, *value;
	const char *host, *name;
	int r, parent = -1;
	pid_t session;

	if (!parse(argc, argv, &o))
		return RUN_FAILED;
	argv += optind;
	r = look_up(argv[0]);
	if (r)
		return r;
	session = getsid(0);
	if (o.background)
		parent = background();
	rq = json_pack("{s:s, s:b, s:s*, s:s*}", "verb", "run", "local_ok", (int)o.local_ok, "host", o.host, "priority", o.priority);
	if (o.background)
		json_object_set_new(rq, "from_session", json_integer(session));
	if (o.kill_if_stuck)
		json_object_set_new(rq, "kill_if_stuck", json_integer(o.kill_if_stuck));
	r = ask(rq, NULL, NULL, &answer, &e);
	if (r && !(o.local_ok && e.absent)) {
		json_decref(answer);
		failed("%s", e.text);
		return RUN_FAILED;
	}
	/* The shared environment comes on top of our own (mig env). */
	json_object_foreach(json_object_get(answer, "env"), name, value)
		setenv(name, json_string_value(value), 1);
	host = json_string_value(json_object_get(answer, "host"));
	if (o.verbose)
		fprintf(stderr, "mig: %s %s %s\n", argv[0], host && *host && !r ? "goes to" : "runs", host && *host && !r ? host : "here");
	tell_parent(parent, host && *host && !r ? 'g' : 'h');
	json_decref(answer);
	fflush(NULL);
	execvp(argv[0], argv);
	tell_parent(parent, 'x');
	r = errno == ENOENT ? RUN_NOT_FOUND : RUN_NOT_EXECUTABLE;
	failed("%s: %s", argv[0], strerror(errno));
	return r;
}
