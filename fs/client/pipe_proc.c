// SPDX-License-Identifier: Apache-2.0
/* See pipe_proc.h. x86-64 numbers of system calls: a 32-bit program's FIFOs stay native to its node. */
#include "fs/client/pipe_proc.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
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

/*
 * A stopped thread (by a signal, or by migd, which moves it) has left its open, though its registers still tell of it: it stops where signals are delivered. Either it
 * has got what it opened, or the call will be made again, and told again.
 */
static bool is_stopped(pid_t tid)
{
	char buf[1024], *p;

	return read_line(tid, "stat", buf, sizeof(buf)) || !(p = strrchr(buf, ')')) || !p[1] || strchr("tTZX", p[2]);
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
	return strcmp(call, p->call) != 0 || is_stopped(p->tid);
}

/* Access mode of a descriptor, from its fdinfo; -1: it is gone. */
static int mode_of(int dir, const char *num)
{
	char path[300], text[256], *p;
	unsigned flags = 0;
	ssize_t n;

	snprintf(path, sizeof(path), "fdinfo/%s", num);
	_cleanup_close_ int fd = openat(dir, path, O_RDONLY | O_CLOEXEC);

	n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (n <= 0)
		return -1;
	text[n] = 0;
	p = strstr(text, "flags:");
	if (!p || sscanf(p + 6, "%o", &flags) != 1 || flags & O_PATH)
		return -1;
	return (int)(flags & O_ACCMODE);
}

static void holders_of(int dir, const struct statx *want, bool *r, bool *w)
{
	int fds = openat(dir, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fds < 0 ? NULL : fdopendir(fds);
	struct dirent *e;
	struct statx x;
	char link[16];

	if (!d) {
		if (fds >= 0)
			close(fds);
		return;
	}
	while ((e = readdir(d))) {
		/* most are no files of ours, and are told from them without asking anybody for attributes */
		if (*e->d_name == '.' || readlinkat(fds, e->d_name, link, sizeof(link)) < 1 || *link != '/' || !strncmp(link, "/dev/", 5))
			continue;
		if (statx(fds, e->d_name, AT_STATX_DONT_SYNC, STATX_INO, &x) || x.stx_ino != want->stx_ino || x.stx_dev_major != want->stx_dev_major ||
		    x.stx_dev_minor != want->stx_dev_minor)
			continue;
		int mode = mode_of(dir, e->d_name);

		*r |= mode == O_RDONLY || mode == O_RDWR;
		*w |= mode == O_WRONLY || mode == O_RDWR;
	}
	closedir(d);
}

static uint64_t namespace_at(int dir, const char *name)
{
	struct stat st;

	return fstatat(dir, name, &st, *name ? 0 : AT_EMPTY_PATH) == 0 ? st.st_ino : 0;
}

int pipe_proc_namespace(pid_t pid)
{
	char path[48];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/ns/pid", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || namespace_at(fd, "") != namespace_at(AT_FDCWD, "/proc/self/ns/pid"))
		return fd;
	close(fd);
	return -1;
}

void pipe_proc_holders(int path, int but, bool *r, bool *w)
{
	uint64_t not = but < 0 ? 0 : namespace_at(but, "");
	DIR *proc = opendir("/proc");
	struct statx want;
	struct dirent *e;

	*r = *w = !proc || statx(path, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_INO, &want); /* not known: as if there were */
	while (proc && !(*r && *w) && (e = readdir(proc))) {
		int pid = atoi(e->d_name);

		if (pid <= 0 || pid == getpid())
			continue;
		_cleanup_close_ int dir = openat(dirfd(proc), e->d_name, O_PATH | O_DIRECTORY | O_CLOEXEC);

		if (dir >= 0 && (!not || namespace_at(dir, "ns/pid") != not))
			holders_of(dir, &want, r, w);
	}
	if (proc)
		closedir(proc);
}
