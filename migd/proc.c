// SPDX-License-Identifier: Apache-2.0
/* Reads /proc; see proc.h. */
#include "migd/proc.h"
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/text.h"

#define PF_KTHREAD 0x00200000 /* include/linux/sched.h; field 9 of /proc/PID/stat */

static void take_line(struct proc_info *p, const char *line)
{
	if (sscanf(line, "Tgid: %d", &p->tgid) == 1 || sscanf(line, "PPid: %d", &p->ppid) == 1 || sscanf(line, "TracerPid: %d", &p->tracer) == 1 ||
		sscanf(line, "Uid: %u %u %u", &p->uid, &p->euid, &p->suid) >= 1 || sscanf(line, "Gid: %u", &p->gid) == 1 ||
		sscanf(line, "Threads: %u", &p->threads) == 1)
		return;
	if (sscanf(line, "Name:\t%16[^\n]", p->comm) == 1) {
		text_valid(p->comm);
		return;
	}
	if (!strncmp(line, "State:\t", 7))
		p->state = line[7];
}

static int read_flags(pid_t pid, struct proc_info *p)
{
	char path[40], buf[1024], *s;
	_cleanup_fclose_ FILE *f = NULL;
	unsigned flags;
	size_t n;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "re");
	n = f ? fread(buf, 1, sizeof(buf) - 1, f) : 0; /* not a line: the name may have one's end in it */
	if (!n)
		return -ESRCH;
	buf[n] = 0;
	s = strrchr(buf, ')');
	if (!s || sscanf(s + 1, " %*c %*d %*d %*d %*d %*d %u", &flags) != 1)
		return -EPROTO;
	p->kernel = flags & PF_KTHREAD;
	return 0;
}

int proc_read(pid_t pid, struct proc_info *out)
{
	char path[40], line[256];
	_cleanup_fclose_ FILE *f = NULL;

	if (pid <= 0)
		return -ESRCH;
	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	f = fopen(path, "re");
	if (!f)
		return -ESRCH;
	*out = (struct proc_info){ .pid = pid };
	while (fgets(line, sizeof(line), f))
		take_line(out, line);
	return out->tgid ? read_flags(pid, out) : -ESRCH;
}

bool proc_descends(pid_t pid, pid_t ancestor)
{
	struct proc_info p;

	for (int depth = 0; pid > 0 && depth < 4096; depth++) {
		if (pid == ancestor)
			return true;
		if (proc_read(pid, &p))
			return false;
		pid = p.ppid;
	}
	return false;
}

int proc_may_move(pid_t pid, uid_t uid, bool root_guests, struct proc_info *out, struct error *e)
{
	struct proc_info p;

	if (proc_read(pid, &p))
		return error_set(e, ESRCH, "there is no process %d here", pid);
	if (p.kernel)
		return error_set(e, EINVAL, "%d (%s) is a kernel thread: those cannot move", pid, p.comm);
	if (p.tgid != pid)
		return error_set(e, EINVAL, "%d is a thread of process %d: move that", pid, p.tgid);
	if (uid && (p.uid != uid || p.euid != uid || p.suid != uid))
		return error_set(e, EPERM, "%d (%s) is not yours: only its owner and root may move it", pid, p.comm);
	if (pid == getpid())
		return error_set(e, EINVAL, "%d is migd itself, which moves the others: it stays", pid);
	if (proc_descends(getpid(), pid))
		return error_set(e, EINVAL, "%d (%s) is an ancestor of migd, and would take it along", pid, p.comm);
	if (p.state == 'Z' && p.threads > 1)
		return error_set(e, EOPNOTSUPP, "%d (%s) cannot move: its first thread has ended while others run on", pid, p.comm);
	if (p.state == 'Z' || p.state == 'X')
		return error_set(e, ESRCH, "%d (%s) has ended and waits for its parent: nothing is left to move", pid, p.comm);
	if (p.tracer)
		return error_set(e, EBUSY, "%d (%s) is being traced by process %d (a debugger or strace): end that first", pid, p.comm, p.tracer);
	if ((!p.uid || !p.euid || !p.suid) && !root_guests)
		return error_set(e, EPERM, "%d (%s) is a process of root; those leave this host only when migd.root_guests is true in sprite.conf, here and there", pid,
			p.comm);
	*out = p;
	return 0;
}

bool proc_mounted(const char *who, const char *where, char dev[32])
{
	_cleanup_free_ char *path = NULL, *line = NULL;
	_cleanup_fclose_ FILE *f = NULL;
	char found[32], point[4096];
	size_t cap = 0;

	*dev = 0;
	if (asprintf(&path, "/proc/%s/mountinfo", who) < 0)
		return false;
	f = fopen(path, "re");
	while (f && getline(&line, &cap, f) > 0)
		if (sscanf(line, "%*d %*d %31s %*s %4095s", found, point) == 2 && text_unescape(point) == 0 && !strcmp(point, where))
			strcpy(dev, found); /* the last one lies on top */
	return *dev;
}

static unsigned long long meminfo(const char *format)
{
	_cleanup_fclose_ FILE *f = fopen("/proc/meminfo", "re");
	unsigned long long kb = 0;
	char line[128];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, format, &kb) == 1)
			break;
	return kb << 10;
}

unsigned long long proc_memory_free(void)
{
	return meminfo("MemAvailable: %llu");
}

unsigned long long proc_memory_total(void)
{
	return meminfo("MemTotal: %llu");
}

static unsigned number_in(const char *path)
{
	_cleanup_fclose_ FILE *f = fopen(path, "re");
	unsigned n = 0;

	return f && fscanf(f, "%u", &n) == 1 ? n : 32768;
}

unsigned proc_pids_max(void)
{
	unsigned a = number_in("/proc/sys/kernel/pid_max"), b = number_in("/proc/sys/kernel/threads-max");

	return a < b ? a : b;
}

unsigned proc_cpus(void)
{
	cpu_set_t set;

	return sched_getaffinity(0, sizeof(set), &set) ? 1 : (unsigned)CPU_COUNT(&set);
}
