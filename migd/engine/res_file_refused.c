/* SPDX-License-Identifier: Apache-2.0 */
/* Descriptors that are not carried: each is refused by its name, with the remedy. One that is learned gets a file of its own and leaves this one. */
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "migd/engine/core.h"
#include "migd/engine/procfs.h"
#include "migd/engine/res_files.h"

static bool anon(const struct file_look *l, const char *name)
{
	return !strncmp(l->link, "anon_inode:", 11) && !strcmp(l->link + 11, name);
}

/* ---- the rest --------------------------------------------------------------------------------------- */

static bool is_other(const struct file_look *l)
{
	(void)l;
	return true;
}

static const struct {
	const char *link, *what;
} others[] = {
	{"[io_uring]", "io_uring ring: close it first"},
	{"[userfaultfd]", "userfaultfd: its owner handles page faults from outside; close it first"},
	{"[perf_event]", "performance counter of this host's CPU: close it first"},
	{"bpf-map", "BPF map: belongs to this kernel; close it first"},
	{"bpf-prog", "BPF program: belongs to this kernel; close it first"},
	{"bpf_link", "BPF link: belongs to this kernel; close it first"},
	{"kvm-vm", "virtual machine (KVM): shut it down first"},
	{"kvm-vcpu", "virtual machine (KVM): shut it down first"},
	{"[fscontext]", "file system context: close it first"},
	{"seccomp notify", "seccomp listener: supervises another process; close it first"},
	{"[landlock-ruleset]", "Landlock rules: cannot be carried; close it first"},
	{"[secretmem]", "secret memory: cannot leave this host; close it first"},
	{"sync_file", "graphics fence of this host: close it first"},
};

static void other_probe(struct eng_probe *p, const struct file_look *l)
{
	for (size_t i = 0; i < ARRAY_SIZE(others); i++)
		if (strstr(l->link, others[i].link)) {
			file_reason(p, l, "%s", others[i].what);
			return;
		}
	if (!strncmp(l->link, "/secretmem", 10))
		file_reason(p, l, "secret memory: cannot leave this host; close it first");
	else if (!strncmp(l->link, "mnt:[", 5) || !strncmp(l->link, "net:[", 5) || !strncmp(l->link, "pid:[", 5) ||
		 !strncmp(l->link, "user:[", 6) || !strncmp(l->link, "uts:[", 5) || !strncmp(l->link, "ipc:[", 5) ||
		 !strncmp(l->link, "time:[", 6) || !strncmp(l->link, "cgroup:[", 8))
		file_reason(p, l, "namespace of this host (%s): close it first", l->link);
	else
		file_reason(p, l, "%s cannot be carried: close it first", l->link);
}

/* ---- pidfd: of a process of the family, or of one that has ended and been waited for: all of these are alike -------------- */

enum { ENDED = -1 };

static bool is_pidfd(const struct file_look *l)
{
	return anon(l, "[pidfd]") || !strncmp(l->link, "pidfd:", 6);
}

static pid_t pidfd_of(const struct file_look *l)
{
	const char *v = eng_field(l->info, "Pid");

	return v ? atoi(v) : 0;
}

static void pidfd_probe(struct eng_probe *p, const struct file_look *l)
{
	pid_t pid = pidfd_of(l);

	if (pid == ENDED || (pid > 0 && res_inside(p, pid)))
		return;
	if (pid > 0)
		file_reason(p, l, "pidfd of process %d, which stays: close it first", pid);
	else
		file_reason(p, l, "pidfd of a process that is not seen here: close it first");
}

static int pidfd_dump(struct eng_family *f, struct file_desc *d, Sprite__Img__File *m, struct error *e)
{
	pid_t pid = pidfd_of(&d->look), vpid = pid == ENDED ? ENDED : 0;

	for (size_t i = 0; i < eng_nprocs(f); i++)
		if (eng_proc_at(f, i)->pid == pid)
			vpid = eng_proc_at(f, i)->vpid;
	for (size_t i = 0; i < f->nzombies; i++)
		if (f->zombies[i].pid == pid)
			vpid = f->zombies[i].vpid;
	if (!vpid)
		return error_set(e, ESRCH, "pidfd of a process that does not move");
	m->pidfd = malloc(sizeof *m->pidfd);
	if (!m->pidfd)
		return -ENOMEM;
	sprite__img__pidfd__init(m->pidfd);
	m->pidfd->pid = vpid;
	return 0;
}

/* This host's pid of a child that has ended and is not waited for; 0: there is none. */
static pid_t zombie_pid(struct eng_family *f, pid_t vpid)
{
	for (size_t i = 0; i < eng_nprocs(f); i++) {
		_cleanup_free_ pid_t *kids = NULL;
		ssize_t n = procfs_children(eng_proc_at(f, i)->pid, &kids);

		for (ssize_t k = 0; k < n; k++) {
			char path[40];
			pid_t is;
			int depth;

			snprintf(path, sizeof path, "/proc/%d/status", kids[k]);
			if (procfs_nspid(AT_FDCWD, path, &is, &depth) == 0 && is == vpid)
				return kids[k];
		}
	}
	return 0;
}

/* One of p's pid namespace, so that signals by it fail as they should: a child of the vessel that ends at once. */
static int pidfd_of_ended(struct eng_proc *p, struct error *e)
{
	struct clone_args a = {.flags = CLONE_PIDFD};
	struct eng_thread *t = p->threads[0];
	struct eng_call c = {.nr = SYS_clone3, .arg = {0, sizeof a, 0, 0, 0, t->core->slot}, .may_fail = 1};
	int num = -1, fd = -1, r;

	eng_scratch_reset(p);
	a.pidfd = eng_scratch_put(p, &num, sizeof num);
	c.arg[0] = eng_scratch_put(p, &a, sizeof a);
	r = eng_batch(t, &c, 1, NULL);
	if (r == 0)
		r = c.ret < 0 ? (int)c.ret : eng_peek(p, a.pidfd, &num, sizeof num);
	if (r == 0)
		r = fd = eng_fd_get(p, num);
	if (r >= 0) {
		syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0);
		ENG_SYS(t, SYS_wait4, c.ret, 0, __WALL, 0);
		ENG_SYS(t, SYS_close, num);
	}
	return r < 0 ? error_set(e, -r, "pidfd of an ended process: %s", strerror(-r)) : fd;
}

static int pidfd_open_it(struct eng_family *f, struct eng_proc *p, struct file_desc *d, struct error *e)
{
	struct eng_proc *of = d->image->pidfd ? eng_proc_by_vpid(f, d->image->pidfd->pid) : NULL;
	pid_t pid = of ? of->pid : d->image->pidfd ? zombie_pid(f, d->image->pidfd->pid) : 0;

	if (d->image->pidfd && d->image->pidfd->pid == ENDED)
		pid = ENDED;
	if (pid <= 0 && pid != ENDED)
		return res_bad_record(e, "pidfds");
	if (pid == ENDED)
		return pidfd_of_ended(p, e);
	int fd = syscall(SYS_pidfd_open, pid, 0);

	return fd < 0 ? error_set(e, errno, "pidfd of %d: %s", d->image->pidfd->pid, strerror(errno)) : fd;
}

const struct file_kind file_other = {.name = "other", .is = is_other, .probe = other_probe};
const struct file_kind file_pidfd = {.name = "pidfd", .is = is_pidfd, .probe = pidfd_probe, .dump = pidfd_dump, .open = pidfd_open_it};
