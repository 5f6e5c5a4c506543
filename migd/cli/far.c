// SPDX-License-Identifier: Apache-2.0
/* What a recipe is, as bytes; see far.h. */
#include "migd/cli/far.h"
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

extern char **environ;

static void put(char **to, const char *s)
{
	size_t n = strlen(s) + 1;

	memcpy(*to, s, n);
	*to += n;
}

static uint32_t count(char **v, size_t *bytes)
{
	uint32_t n = 0;

	for (; v[n]; n++)
		*bytes += strlen(v[n]) + 1;
	return n;
}

static uint64_t mix(uint64_t h, const void *p, size_t n)
{
	for (const unsigned char *c = p; n--; c++)
		h = (h ^ *c) * 0x100000001b3ull;
	return h;
}

void far_self(struct far_self *out)
{
	static const char *const spaces[] = {"mnt", "user", "net", "pid_for_children", "uts", "ipc"};
	gid_t groups[256];
	int n = getgroups(256, groups);
	cpu_set_t cpus;
	struct stat st;

	memset(out, 0, sizeof(*out));
	out->ids[0] = getuid();
	out->ids[1] = geteuid();
	out->ids[2] = getgid();
	out->ids[3] = getegid();
	out->personality = (uint32_t)personality(0xffffffff);
	out->no_new_privs = (uint32_t)prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
	out->policy = (uint32_t)sched_getscheduler(0);
	out->groups = mix((uint64_t)n, groups, n > 0 ? (size_t)n * sizeof(*groups) : 0);
	if (!sched_getaffinity(0, sizeof(cpus), &cpus))
		out->cpus = mix(1, &cpus, sizeof(cpus));
	if (!stat("/", &st)) {
		out->root[0] = st.st_dev;
		out->root[1] = st.st_ino;
	}
	for (size_t i = 0; i < 6; i++) {
		char path[40];

		snprintf(path, sizeof(path), "/proc/self/ns/%s", spaces[i]);
		if (!stat(path, &st))
			out->spaces[i] = st.st_ino;
	}
}

static void fill_head(struct far_head *h)
{
	sigset_t blocked;

	far_self(&h->self);
	h->mask = (uint32_t)umask(0);
	umask((mode_t)h->mask);
	errno = 0;
	h->nice = getpriority(PRIO_PROCESS, 0);
	sigprocmask(SIG_SETMASK, NULL, &blocked);
	for (int s = 1; s <= 64; s++) {
		struct sigaction a;

		if (sigismember(&blocked, s) == 1)
			h->blocked |= 1ull << (s - 1);
		if (!sigaction(s, NULL, &a) && a.sa_handler == SIG_IGN)
			h->ignored |= 1ull << (s - 1);
	}
	for (int i = 0; i < RLIMIT_NLIMITS; i++)
		getrlimit((__rlimit_resource_t)i, &h->limits[i]);
}

int far_pack(const char *command, char **args, bool plain, bool able, char **out, size_t *len)
{
	struct far_head h = {.able = able, .plain = plain};
	char dir[PATH_MAX] = "", *to;

	if (able && !getcwd(dir, sizeof(dir)))
		h.able = 0;
	*len = sizeof(h) + strlen(command) + strlen(dir) + 2;
	h.nargs = count(args, len);
	h.nenv = h.able ? count(environ, len) : 0;
	if (*len > FAR_MAX)
		return -E2BIG;
	if (h.able)
		fill_head(&h);
	*out = to = malloc(*len);
	if (!to)
		return -ENOMEM;
	memcpy(to, &h, sizeof(h));
	to += sizeof(h);
	put(&to, command);
	put(&to, dir);
	for (char **a = args; *a; a++)
		put(&to, *a);
	for (char **e = environ; h.able && *e; e++)
		put(&to, *e);
	return 0;
}

static char *next(char **p, const char *end)
{
	char *s = *p, *nul = s < end ? memchr(s, 0, (size_t)(end - s)) : NULL;

	if (nul)
		*p = nul + 1;
	return nul ? s : NULL;
}

int far_unpack(char *bytes, size_t len, struct far_recipe *out)
{
	char *p = bytes + sizeof(out->head), *end = bytes + len;
	size_t n;

	out->args = NULL;
	if (len < sizeof(out->head) || len > FAR_MAX)
		return -EPROTO;
	memcpy(&out->head, bytes, sizeof(out->head));
	if (!out->head.nargs || out->head.nargs > len || out->head.nenv > len)
		return -EPROTO;
	out->command = next(&p, end);
	out->dir = out->command ? next(&p, end) : NULL;
	n = (size_t)out->head.nargs + out->head.nenv + 2;
	out->args = out->dir ? calloc(n, sizeof(*out->args)) : NULL;
	if (!out->args)
		return out->dir ? -ENOMEM : -EPROTO;
	out->env = out->args + out->head.nargs + 1;
	for (size_t i = 0; i < n - 1; i++)
		if (i != out->head.nargs && !(out->args[i] = next(&p, end))) {
			free(out->args);
			out->args = NULL;
			return -EPROTO;
		}
	return 0;
}
