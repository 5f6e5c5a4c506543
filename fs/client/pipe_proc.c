// SPDX-License-Identifier: Apache-2.0
/* See pipe_proc.h. x86-64 numbers of system calls: a 32-bit program's FIFOs stay native to its node. */
#include "fs/client/pipe_proc.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include "conf/cleanup.h"

#define SLEEP_TRIES 5000 /* seconds */
#define OPEN_TICKS 10 /* 100 ms of CPU: no open takes that much, it must have left it */

static int read_line(pid_t tid, const char *what, char *to, size_t size)
{
	char path[64];
	_cleanup_close_ int fd = -1;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/%s", tid, what);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = read(fd, to, size - 1);
	if (n < 0)
		return -errno;
	to[n] = 0;
	to[strcspn(to, "\n")] = 0;
	return n ? 0 : -ESRCH;
}

/* utime and stime, the 14th and 15th field of proc_pid_stat(5), together: the kernel divides them by guessing. 0 when it cannot be read. */
static unsigned long long cpu_time(pid_t tid)
{
	unsigned long long ut = 0, st = 0;
	char buf[1024], *p;

	if (read_line(tid, "stat", buf, sizeof(buf)) || !(p = strrchr(buf, ')')))
		return 0;
	sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &ut, &st);
	return ut + st;
}

static bool flags_of(pid_t tid, const char *call, unsigned long long *flags)
{
	unsigned long long a[4];
	struct open_how how;
	long nr;

	if (sscanf(call, "%ld %llx %llx %llx %llx", &nr, &a[0], &a[1], &a[2], &a[3]) != 5)
		return false;
	if (nr == SYS_open) {
		*flags = a[1];
	} else if (nr == SYS_openat) {
		*flags = a[2];
	} else if (nr == SYS_openat2) {
		struct iovec to = {&how, sizeof(how.flags)}, from = {(void *)(uintptr_t)a[2], sizeof(how.flags)};

		if (process_vm_readv(tid, &to, 1, &from, 1, 0) != (ssize_t)sizeof(how.flags))
			return false;
		*flags = how.flags;
	} else {
		return false;
	}
	return true;
}

bool pipe_proc_opening(pid_t tid, struct pipe_proc *out)
{
	unsigned long long flags;
	char own[64];
	int tries;

	snprintf(own, sizeof(own), "/proc/self/task/%d", tid);
	if (access(own, F_OK) == 0)
		return false;
	*out = (struct pipe_proc){.tid = tid};
	/* it may not have gone to sleep yet, on a busy machine for long: then its call cannot be read. It does, since it waits for us */
	for (tries = 0; tries < SLEEP_TRIES; tries++) {
		if (read_line(tid, "syscall", out->call, sizeof(out->call)))
			return false;
		if (strcmp(out->call, "running"))
			break;
		usleep(tries < 200 ? 20 : 1000);
	}
	if (!flags_of(tid, out->call, &flags) || flags & O_PATH)
		return false;
	out->r = (flags & O_ACCMODE) != O_WRONLY;
	out->w = (flags & O_ACCMODE) != O_RDONLY;
	out->cpu = cpu_time(tid);
	return true;
}

bool pipe_proc_left(const struct pipe_proc *p)
{
	char call[sizeof(p->call)];

	if (read_line(p->tid, "syscall", call, sizeof(call)))
		return true;
	if (!strcmp(call, "running"))
		return cpu_time(p->tid) > p->cpu + OPEN_TICKS;
	return strcmp(call, p->call) != 0;
}
