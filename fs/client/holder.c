// SPDX-License-Identifier: Apache-2.0
/* spritefs' side of the holder: see holder.h. The socket is written from any thread, one datagram a message, and read at the start only. */
#include "fs/client/holder.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>
#include "conf/log.h"

static int sock = -1;
static struct held {
	uint64_t key;
	int fd;
} *got;
static unsigned ngot;

static void tell(uint32_t op, uint64_t key, int fd)
{
	if (sock >= 0)
		hold_send(sock, op, key, NULL, 0, fd);
}

/* Its end tells the holder of ours. It is never in the kernel for long, so that it dies at once, whatever others hang in. */
static void *alive(void *arg)
{
	sigset_t all;

	(void)arg;
	pthread_setname_np(pthread_self(), "alive");
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	tell(HOLD_ALIVE, (uint64_t)gettid(), -1);
	for (;;)
		pause();
	return NULL;
}

int hold_begin(void)
{
	const char *s = getenv(HOLD_ENV);
	struct hold_msg m;
	struct held *more;
	pthread_t t;
	int fd, r;

	if (!s)
		return 0;
	sock = atoi(s);
	unsetenv(HOLD_ENV);
	if (fcntl(sock, F_SETFD, FD_CLOEXEC) < 0)
		return -errno;
	while ((r = hold_receive(sock, &m, &fd, 0)) == 0 && m.op == HOLD_KEEP) {
		more = realloc(got, (ngot + 1) * sizeof(*got));
		if (!more)
			return -ENOMEM;
		got = more;
		got[ngot++] = (struct held){m.key, fd};
	}
	if (r || m.op != HOLD_END)
		return r ? r : -EPROTO;
	r = pthread_create(&t, NULL, alive, NULL);
	if (r)
		return -r;
	pthread_detach(t);
	return 0;
}

bool hold_active(void)
{
	return sock >= 0;
}

int hold_take(uint64_t key)
{
	unsigned i;
	int fd = -1;

	for (i = 0; i < ngot; i++)
		if (got[i].key == key) {
			fd = got[i].fd;
			got[i] = got[--ngot];
			break;
		}
	return fd;
}

void hold_keep(uint64_t key, int fd)
{
	tell(HOLD_KEEP, key, fd);
}

void hold_drop(uint64_t key)
{
	tell(HOLD_DROP, key, -1);
}

void hold_ready(void)
{
	tell(HOLD_READY, 0, -1);
}

void hold_bye(int status)
{
	tell(HOLD_BYE, (uint64_t)status, -1);
}

/* FUSE_NOTIFY_RESEND: without it what the kernel had asked of the dead process would never be answered. */
static bool kernel_can(void)
{
	struct utsname u;
	int major = 0, minor = 0;

	return uname(&u) == 0 && sscanf(u.release, "%d.%d", &major, &minor) == 2 && (major > 6 || (major == 6 && minor >= 9));
}

int hold_exec(char **argv, int up)
{
	char self[PATH_MAX], holder[PATH_MAX + 16], number[16], **args;
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	int i;

	if (!kernel_can())
		return -EOPNOTSUPP;
	if (n <= 0)
		return -errno;
	self[n] = 0;
	if ((i = hold_program(holder, sizeof(holder))) < 0)
		return i;
	for (i = 0; argv[i]; i++)
		;
	args = calloc((size_t)i + 3, sizeof(*args));
	if (!args)
		return -ENOMEM;
	args[0] = "sprite-holder";
	args[1] = self;
	for (i = 1; argv[i]; i++)
		args[i + 1] = argv[i];
	if (up >= 0) {
		snprintf(number, sizeof(number), "%d", up);
		setenv(HOLD_UP_ENV, number, 1);
		fcntl(up, F_SETFD, 0);
	}
	execv(holder, args);
	n = -errno;
	unsetenv(HOLD_UP_ENV);
	free(args);
	return (int)n;
}
