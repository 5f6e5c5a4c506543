// SPDX-License-Identifier: Apache-2.0
/*
 * Run queue averages. On a whole machine the number of runnable threads is in /proc/loadavg; in a pid namespace (a container, the lab) that file
 * counts the whole machine, so there we count the processes in state R that we can see, by a walk through /proc.
 * The averages decay as the kernel's do (sched/loadavg.c: exp(-dt/T)); they exclude sleeping-in-disk threads, as Sprite's did.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "migd/idle_load.h"

#define PROC_PID_INIT_INO 0xEFFFFFFCu /* include/linux/proc_ns.h: the first pid namespace */

void idle_load_init(struct idle_load *l)
{
	struct stat st;

	*l = (struct idle_load){.cpus = (int)sysconf(_SC_NPROCESSORS_ONLN)};
	if (l->cpus < 1)
		l->cpus = 1;
	l->own_pidns = stat("/proc/self/ns/pid", &st) || st.st_ino != PROC_PID_INIT_INO;
}

static int runnable_in_loadavg(void)
{
	_cleanup_fclose_ FILE *f = fopen("/proc/loadavg", "re");
	int running;

	if (!f)
		return -errno;
	if (fscanf(f, "%*f %*f %*f %d/", &running) != 1)
		return -EIO;
	return running - 1; /* ourselves */
}

/* State and number of threads from a stat file of /proc; 0: it is gone. */
static char stat_of(int dir, const char *name, int *threads)
{
	char path[40], buf[512], *p;
	_cleanup_close_ int fd = -1;
	ssize_t n;

	snprintf(path, sizeof path, "%.16s/stat", name);
	fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	n = read(fd, buf, sizeof buf - 1);
	if (n <= 0)
		return 0;
	buf[n] = 0;
	p = strrchr(buf, ')'); /* a comm may hold anything, also ") R" */
	if (!p || p[1] != ' ')
		return 0;
	*threads = 1;
	sscanf(p + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %d", threads);
	return p[2];
}

/* Runnable threads of one process. */
static int runnable_of(int proc, const char *pid)
{
	int threads = 1, unused, n = 0;
	char state = stat_of(proc, pid, &threads), path[40];
	struct dirent *de;
	DIR *d;

	if (threads <= 1)
		return state == 'R';
	snprintf(path, sizeof path, "/proc/%.16s/task", pid);
	d = opendir(path);
	while (d && (de = readdir(d)))
		if (de->d_name[0] != '.')
			n += stat_of(dirfd(d), de->d_name, &unused) == 'R';
	if (d)
		closedir(d);
	return n;
}

static int runnable_in_proc(void)
{
	DIR *d = opendir("/proc");
	struct dirent *de;
	int n = 0;
	pid_t self = getpid();

	if (!d)
		return -errno;
	while ((de = readdir(d)))
		if (de->d_name[0] >= '1' && de->d_name[0] <= '9' && atoi(de->d_name) != self)
			n += runnable_of(dirfd(d), de->d_name);
	closedir(d);
	return n;
}

unsigned idle_load_running(const pid_t *pids, size_t n)
{
	_cleanup_close_ int proc = n ? open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	unsigned running = 0;
	char name[16];

	for (size_t i = 0; proc >= 0 && i < n; i++) {
		snprintf(name, sizeof name, "%d", pids[i]);
		running += (unsigned)runnable_of(proc, name);
	}
	return running;
}

int idle_load_sample(struct idle_load *l, uint64_t now_ns, unsigned guests_running)
{
	static const double period[3] = {60, 300, 900};
	int n = l->own_pidns ? runnable_in_proc() : runnable_in_loadavg();

	if (n < 0)
		return n;
	n = n > (int)guests_running ? n - (int)guests_running : 0;
	double dt = l->last_ns ? (double)(now_ns - l->last_ns) / 1e9 : 0;

	for (int i = 0; i < 3; i++) {
		double k = l->last_ns ? exp(-dt / period[i]) : 0; /* the first sample is all we know */

		l->avg[i] = l->avg[i] * k + n * (1 - k);
	}
	l->last_ns = now_ns;
	return 0;
}
