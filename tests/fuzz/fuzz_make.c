// SPDX-License-Identifier: Apache-2.0
/*
 * What the agent of mig make hears from a recipe's shell (a recipe and two descriptors), the shell from the agent (a word and two descriptors), and the agent from a worker
 * (frames), or anything. What is no such thing is refused, and no descriptor stays behind. The files are taken in whole.
 */
#include "migd/cli/cmd_shell.c"
#include "migd/cli/make_recipe.c"
#include "migd/cli/make_far.c"
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
	static char bytes[FAR_MAX] __attribute__((aligned(8)));
	size_t len;
	struct recipe *r = recipe_receive(fd, bytes, sizeof(bytes), &len);

	if (!r)
		return;
	if (!r->command || r->pid != getpid() || len > sizeof(bytes))
		abort();
	recipe_free(r);
}

static struct list recipes;

static struct recipe *numbered(void *ctx, uint32_t number)
{
	struct recipe *r;

	(void)ctx;
	list_each(r, &recipes, node)
		if (r->number == number)
			return r;
	return NULL;
}

static void ready(void *ctx, uint64_t slot)
{
	(void)ctx;
	(void)slot;
}

static void ended(void *ctx, struct recipe *r, int status)
{
	(void)ctx;
	(void)status;
	recipe_ended(r);
	if (recipe_is_over(r))
		recipe_free(r);
}

static void worker_gone(void *ctx, int worker)
{
	(void)ctx;
	(void)worker;
}

/* A worker that runs recipe 1 speaks. */
static void from_worker(int fd)
{
	struct fars all;
	struct far *w = calloc(1, sizeof(*w));
	struct recipe *r = calloc(1, sizeof(*r));

	*r = (struct recipe){.number = 1, .pidfd = -1, .from = {-1, -1}, .to = {fcntl(null, F_DUPFD_CLOEXEC, 3), fcntl(null, F_DUPFD_CLOEXEC, 3)}, .lock_fd = -1, .shell_fd = -1, .far_open = 3};
	list_init(&recipes);
	list_add_tail(&recipes, &r->node);
	fars_init(&all, &(struct far_hooks){NULL, ready, numbered, ended, worker_gone});
	*w = (struct far){.all = &all, .pidfd = -1, .in = -1, .out = fcntl(fd, F_DUPFD_CLOEXEC, 3), .recipe = 1};
	list_add_tail(&all.list, &w->node);
	while (w->out >= 0)
		hear(w);
	if (!list_empty(&recipes))
		recipe_free(list_entry(recipes.next, struct recipe, node));
	fars_end(&all);
}

/* Its standard output goes where the agent says: put back afterwards. */
static void to_shell(int fd)
{
	char host[256];

	fflush(stdout);
	if (take_answer(fd, host, sizeof(host)) != HERE && !memchr(host, 0, sizeof(host)))
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
	say(s[1], data + 1, len - 1, data[0] & 0x80 ? 0 : data[0] >> 1 & 3 ? data[0] >> 1 & 3 : data[0] >> 3 & 4);
	if (data[0] & 0x80)
		from_worker(s[0]);
	else if (data[0] & 1)
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
	static const char *const words[] = {"gcc -c a.c", "ws2", "@", "\n", NULL};
	static char recipe[2048] = {5};
	struct fuzz_seed seeds[] = {{recipe, 0}, SEED("\4ws2\0"), SEED("\4\0"), SEED("\0@\0"), SEED("\3\xff\xff\xff\xff!"), SEED("\7\0\0\0\0"),
		SEED("\x80\3\0\0\0\0\0\0\0\0\0\0\0\4\0\0\0\1\0\0\0\3\0\0\0out\6\0\0\0\1\0\0\0\1\0\0\0\0\6\0\0\0\1\0\0\0\1\0\0\0\1\7\0\0\0\1\0\0\0\4\0\0\0\0\1\0\0")};
	uint32_t n;
	size_t len;
	char *bytes;

	clearenv();
	setenv("PATH", "/bin", 1);
	if (far_pack("gcc -c a.c", (char *[]){"gcc", "-c", "a.c", NULL}, true, true, &bytes, &len) || len > sizeof(recipe) - 5)
		abort();
	n = (uint32_t)len;
	memcpy(recipe + 1, &n, sizeof(n));
	memcpy(recipe + 5, bytes, len);
	free(bytes);
	seeds[0].len = len + 5;
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	out[0] = fcntl(1, F_DUPFD_CLOEXEC, 3);
	out[1] = fcntl(2, F_DUPFD_CLOEXEC, 3);
	return fuzz_main(argc, argv, "make", seeds, ARRAY_SIZE(seeds), words, one);
}
