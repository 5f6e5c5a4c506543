// SPDX-License-Identifier: Apache-2.0
/* What a recipe is, as bytes; see far.h. */
#include "migd/cli/far.h"
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
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

static void fill_head(struct far_head *h)
{
	sigset_t blocked;

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
	h.nenv = count(environ, len);
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
	for (char **e = environ; *e; e++)
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
