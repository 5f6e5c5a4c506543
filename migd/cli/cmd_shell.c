// SPDX-License-Identifier: Apache-2.0
/*
 * sprite-sh: the shell that mig make gives to make. Asks the agent where this recipe is to run, then becomes the real shell, here or there, or waits for a worker to run
 * it (far.h). Whatever goes wrong on the way there, the recipe runs here: a build never fails for want of a host.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/io.h"
#include "migd/cli/builtin.h"
#include "migd/cli/cli.h"
#include "migd/cli/command.h"
#include "migd/cli/far.h"

enum { WORDS_MAX = 4096 };

/* make leaves the job server open only for recipes that are makes themselves: those stay. */
static bool is_make(void)
{
	const char *flags = getenv("MAKEFLAGS"), *auth = flags ? strstr(flags, "--jobserver-auth=") : NULL;
	int r, w;

	return auth && sscanf(auth, "--jobserver-auth=%d,%d", &r, &w) == 2 && fcntl(r, F_GETFD) >= 0 && !(fcntl(r, F_GETFD) & FD_CLOEXEC);
}

static int connect_agent(const char *path)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int fd;

	if (strlen(path) >= sizeof(un.sun_path))
		return -1;
	strcpy(un.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&un, sizeof(un))) {
		close(fd);
		fd = -1;
	}
	return fd;
}

static bool send_question(int fd, const char *bytes, size_t n)
{
	char control[CMSG_SPACE(2 * sizeof(int))] __attribute__((aligned(8))) = {0};
	uint32_t len = (uint32_t)n;
	struct iovec iov[2] = {{&len, sizeof(len)}, {(char *)bytes, n}};
	struct msghdr mh = {.msg_iov = iov, .msg_iovlen = 2, .msg_control = control, .msg_controllen = sizeof(control)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&mh);
	const int out[2] = {1, 2};
	ssize_t sent;

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(out));
	memcpy(CMSG_DATA(c), out, sizeof(out));
	sent = sendmsg(fd, &mh, MSG_NOSIGNAL);
	if (sent < (ssize_t)sizeof(len))
		return false;
	return !io_write_all(fd, bytes + (sent - (ssize_t)sizeof(len)), n - (size_t)(sent - (ssize_t)sizeof(len)));
}

/* The agent's answer: where to run, with two pipes to write to; or that a worker runs it, with none. */
enum place { HERE, THERE, FAR };
static enum place take_answer(int fd, char *host, size_t size)
{
	char control[CMSG_SPACE(2 * sizeof(int))] __attribute__((aligned(8)));
	struct iovec iov = {host, size};
	struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(fd, &mh, MSG_CMSG_CLOEXEC);
	struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&mh) : NULL;
	int to[2] = {-1, -1};

	if (n > 0)
		host[n - 1] = 0;
	if (n > 0 && !c && !strcmp(host, "@"))
		return FAR;
	if (!c || c->cmsg_type != SCM_RIGHTS || c->cmsg_len > CMSG_LEN(sizeof(to)))
		return HERE;
	memcpy(to, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0));
	if (to[1] < 0) {
		close(to[0]);
		return HERE;
	}
	dup2(to[0], 1);
	dup2(to[1], 2);
	close(to[0]);
	close(to[1]);
	return host[0] ? THERE : HERE;
}

static int end_as_there(int fd)
{
	int status;

	return io_read_all(fd, &status, sizeof(status)) ? failed("make: the recipe's place is not known any more") : end_alike(status);
}

/* A file beside the agent's socket. */
static void beside(const char *agent, const char *name, char path[PATH_MAX])
{
	const char *slash = strrchr(agent, '/');

	snprintf(path, PATH_MAX, "%.*s/%s", slash ? (int)(slash - agent) : 0, agent, name);
}

/* Nothing else writes until we end: not the output of another recipe, which the agent passes on in one piece. */
static void lock_output(const char *agent)
{
	char path[PATH_MAX];
	int fd;

	beside(agent, "lock", path);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0)
		flock(fd, LOCK_EX);
}

/* Has it nothing that only this host has? Its input is at an end, and there are no descriptors but that and its output. */
static bool may_go_far(const char *agent)
{
	struct pollfd p = {.fd = 0, .events = POLLIN};
	struct stat st, null;
	struct dirent *de;
	bool more = false;
	char far[PATH_MAX];
	DIR *d;

	beside(agent, "far", far);
	if (access(far, F_OK)) /* nobody is there yet */
		return false;
	if (!(poll(&p, 1, 0) == 1 && p.revents == POLLHUP) && (fstat(0, &st) || stat("/dev/null", &null) || !S_ISCHR(st.st_mode) || st.st_rdev != null.st_rdev))
		return false;
	d = opendir("/proc/self/fd");
	while (d && (de = readdir(d)) && !more) {
		int fd = atoi(de->d_name), flags = fd > 2 && fd != dirfd(d) ? fcntl(fd, F_GETFD) : FD_CLOEXEC;

		more = flags >= 0 && !(flags & FD_CLOEXEC);
	}
	if (d)
		closedir(d);
	return d && !more;
}

/* Returns its status if it has run far away, else -1. */
static int ask_agent(const char *agent, const char *command, char **args, bool plain, char *host, size_t size)
{
	_cleanup_free_ char *bytes = NULL;
	_cleanup_close_ int fd = -1;
	enum place where = HERE;
	size_t n;

	if (far_pack(command, args, plain, may_go_far(agent), &bytes, &n))
		return -1;
	fd = connect_agent(agent);
	if (fd >= 0 && send_question(fd, bytes, n))
		where = take_answer(fd, host, size);
	if (where != THERE)
		host[0] = 0;
	return where == FAR ? end_as_there(fd) : -1;
}

/* make gives all but one of its recipes a pipe that nobody writes to as standard input: at its end from the start, so nothing has to be relayed. */
static void drop_ended_input(void)
{
	struct pollfd p = {.fd = 0, .events = POLLIN};
	int null = poll(&p, 1, 0) == 1 && p.revents == POLLHUP ? open("/dev/null", O_RDONLY | O_CLOEXEC) : -1;

	if (null > 0) {
		dup2(null, 0);
		close(null);
	}
}

/* "-c", "-ec": the command of a recipe follows; else we are $(SHELL) that runs a script. */
static bool is_c(const char *flag)
{
	return flag[0] == '-' && flag[1] && flag[strlen(flag) - 1] == 'c';
}

/* make itself starts no shell where none is needed: nor do we. */
static bool needs_no_shell(int argc, char **argv, const char *shell, char **words)
{
	static char text[32768];

	return argc == 3 && !strcmp(argv[1], "-c") && (!strcmp(shell, "/bin/sh") || !strcmp(shell, "/bin/bash")) && command_split(argv[2], text, sizeof(text), words, WORDS_MAX);
}

/* What we do ourselves is not worth a question. The exit status, or -1. */
static int do_here(char **words, const char *agent)
{
	bool says;

	if (!builtin_is(words, &says))
		return -1;
	if (says && agent)
		lock_output(agent);
	return builtin_do(words);
}

int cmd_shell(int argc, char **argv)
{
	const char *agent = getenv("MIG_MAKE_AGENT"), *shell = getenv("MIG_MAKE_SHELL"), *command = argc >= 3 ? argv[argc - 1] : "";
	static char *words[WORDS_MAX];
	char host[256] = "";
	bool plain, told = agent && getenv("MIG_MAKE_VERBOSE"); /* where each one runs */
	int r;

	shell = shell ? shell : "/bin/sh";
	plain = needs_no_shell(argc, argv, shell, words);
	r = plain && !told ? do_here(words, agent) : -1;
	if (r >= 0)
		return r;
	if (!plain)
		argv[0] = (char *)shell;
	if (agent && argc >= 3 && is_c(argv[argc - 2]) && !is_make() && (r = ask_agent(agent, command, plain ? words : argv, plain, host, sizeof(host))) >= 0)
		return r;
	if (host[0])
		drop_ended_input();
	if (host[0])
		ask(json_pack("{s:s, s:s, s:b}", "verb", "run", "host", host, "local_ok", 1), NULL, NULL, NULL, NULL);
	else if (plain && told && (r = do_here(words, NULL)) >= 0)
		return r;
	if (plain)
		execvp(words[0], words); /* not found: the shell has the words for that */
	argv[0] = (char *)shell;
	execvp(shell, argv);
	failed("%s: %s", shell, strerror(errno));
	return 127;
}
