// SPDX-License-Identifier: Apache-2.0
/*
 * What the agent of mig make hears from a recipe's shell, and the shell from the agent: a word and two descriptors, or anything. What is no such thing is
 * refused, and no descriptor stays behind. Both files are taken in whole.
 */
#include "migd/cli/cmd_shell.c"
#include "migd/cli/make_agent.c"
#include <dirent.h>
#include "tests/fuzz/fuzz.h"

const struct command commands[] = {{0}};
static int null, out[2];

static unsigned open_files(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	if (!d)
		abort();
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static void say(int fd, const uint8_t *p, size_t len, size_t fds)
{
	union {
		struct cmsghdr h;
		char buf[CMSG_SPACE(4 * sizeof(int))];
	} c = {.h = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(fds * sizeof(int))}};
	struct iovec v = {(void *)p, len};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};

	if (fds) {
		memcpy(CMSG_DATA(&c.h), (const int[]){null, null, null, null}, fds * sizeof(int));
		m.msg_control = &c;
		m.msg_controllen = CMSG_SPACE(fds * sizeof(int));
	}
	if (sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		abort();
	shutdown(fd, SHUT_WR);
}

static void to_agent(int fd)
{
	static char line[COMMAND_MAX];
	int to[2] = {-1, -1};
	struct recipe *r = receive(fd, line, sizeof(line), to) ? NULL : recipe_new(fd, line);

	if (r) {
		if (!r->command || r->pid != getpid())
			abort();
		close(r->pidfd);
		r->pidfd = -1;
		recipe_free(r);
	}
	for (int i = 0; i < 2; i++)
		if (to[i] >= 0)
			close(to[i]);
}

/* Its standard output goes where the agent says: put back afterwards. */
static void to_shell(int fd)
{
	char host[256];

	fflush(stdout);
	if (take_answer(fd, host, sizeof(host)) && !memchr(host, 0, sizeof(host)))
		abort();
	dup2(out[0], 1);
	dup2(out[1], 2);
}

/* First byte: to whom, and how many descriptors go along. */
static void one(const uint8_t *data, size_t len)
{
	unsigned before = open_files();
	int s[2];

	if (len < 2)
		return;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s) < 0)
		abort();
	say(s[1], data + 1, len - 1, data[0] >> 1 & 3 ? data[0] >> 1 & 3 : data[0] >> 3 & 4);
	if (data[0] & 1)
		to_agent(s[0]);
	else
		to_shell(s[0]);
	close(s[0]);
	close(s[1]);
	if (open_files() != before)
		abort();
}

#define SEED(s) {s, sizeof(s) - 1}
int main(int argc, char **argv)
{
	static const char *const words[] = {"gcc -c a.c", "ws2", "\n", NULL};
	static const struct fuzz_seed seeds[] = {SEED("\5\12\0\0\0gcc -c a.c"), SEED("\4ws2\0"), SEED("\4\0"), SEED("\3\xff\xff\xff\xff!"), SEED("\7\0\0\0\0")};

	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	out[0] = fcntl(1, F_DUPFD_CLOEXEC, 3);
	out[1] = fcntl(2, F_DUPFD_CLOEXEC, 3);
	return fuzz_main(argc, argv, "make", seeds, ARRAY_SIZE(seeds), words, one);
}
