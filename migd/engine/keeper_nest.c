// SPDX-License-Identifier: Apache-2.0
/*
 * Namespaces of a guest family.
 *
 *   outer   (real root of this host) joins the cgroup, makes a mount namespace with the home's root view as /, fresh /dev, /dev/pts, /dev/shm, read-only /sys,
 *           /sprite; starts the inner (keeper_main.c) with new user (identity), pid, uts, ipc and network namespaces; mounts its /proc; ends.
 *           The mount namespace belongs to the host's user namespace: nobody inside can mount or unmount.
 *   inner   makes the time namespace for its children, and its loopback.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/sched.h>
#include <net/if.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>
#include "migd/engine/keeper_nest.h"

static void join_cgroups(char *list)
{
	for (char *dir = strtok(list, ":"); dir; dir = strtok(NULL, ":")) {
		char path[PATH_MAX + 16];
		int fd;

		snprintf(path, sizeof(path), "%s/cgroup.procs", dir);
		fd = open(path, O_WRONLY | O_CLOEXEC);
		if (fd < 0 || write(fd, "0", 1) != 1)
			fail(path);
		close(fd);
	}
}

static void make_node(const char *name, unsigned major, unsigned minor)
{
	if (mknod(name, S_IFCHR | 0666, makedev(major, minor)) < 0 || chmod(name, 0666) < 0)
		fail(name);
}

/* In the new root. Not the host's devices: only those that are the same on every machine. */
static void make_dev(void)
{
	if (mount("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755,size=1m") < 0)
		fail("/dev");
	make_node("dev/null", 1, 3);
	make_node("dev/zero", 1, 5);
	make_node("dev/full", 1, 7);
	make_node("dev/random", 1, 8);
	make_node("dev/urandom", 1, 9);
	make_node("dev/tty", 5, 0);
	if (mkdir("dev/pts", 0755) < 0 || mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,gid=5,mode=620,ptmxmode=666") < 0)
		fail("/dev/pts");
	if (symlink("pts/ptmx", "dev/ptmx") < 0 || symlink("/proc/self/fd", "dev/fd") < 0 || symlink("/proc/self/fd/0", "dev/stdin") < 0 ||
		symlink("/proc/self/fd/1", "dev/stdout") < 0 || symlink("/proc/self/fd/2", "dev/stderr") < 0)
		fail("/dev links");
	if (mkdir("dev/shm", 01777) < 0 || mount("tmpfs", "dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777") < 0)
		fail("/dev/shm");
	if (mkdir("dev/mqueue", 01777) < 0)
		fail("/dev/mqueue");
}

static void make_root(const struct keeper_setup *s)
{
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		fail("mount namespace");
	if (mount(s->root, s->root, NULL, MS_BIND | MS_REC, NULL) < 0 || chdir(s->root) < 0)
		fail(s->root);
	make_dev();
	if (mount("/sys", "sys", NULL, MS_BIND, NULL) == 0)
		mount(NULL, "sys", NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	if (s->sprite[0] && mount(s->sprite, "sprite", NULL, MS_BIND | MS_REC, NULL) < 0)
		fail("/sprite in the home's root view");
	if (syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		fail("pivot_root");
}

static void write_at(int dir, const char *name, const char *text)
{
	int fd = openat(dir, name, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		fail(name);
	close(fd);
}

/*
 * Who is born here needs a number that is free at home as well: from a random place far above what a home uses by itself. (Before Linux 6.14 pid_max is
 * one for the whole host: the outer raised it.)
 */
static void set_numbers(void)
{
	unsigned random = 0;
	char text[16];
	int fd = open("/proc/sys/kernel/pid_max", O_WRONLY | O_CLOEXEC);

	if (fd >= 0) {
		if (write(fd, "4194304", 7) != 7)
			fprintf(stderr, "sprite-keeper: pid_max: %s\n", strerror(errno));
		close(fd);
	}
	if (getentropy(&random, sizeof(random)) < 0)
		fail("random numbers");
	snprintf(text, sizeof(text), "%u", 1000000 + random % 3000000);
	write_at(AT_FDCWD, "/proc/sys/kernel/ns_last_pid", text);
}

/* What is written there is this host's kernel's, not the home's: root over there may read it like everybody. */
static int proc_read_only(void)
{
	static const char *const part[] = {"/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs"};

	for (size_t i = 0; i < sizeof(part) / sizeof(part[0]); i++)
		if (mount(part[i], part[i], NULL, MS_BIND, NULL) < 0 ? errno != ENOENT :
								       mount(NULL, part[i], NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
			return -1;
	return 0;
}

/* A process inside of the pid namespace, but with the host's own rights, mounts /proc. */
static void mount_proc(pid_t inner)
{
	int pidfd = syscall(SYS_pidfd_open, inner, 0), st;
	pid_t helper;

	if (pidfd < 0)
		fail("pidfd");
	helper = fork(); /* the status of each is an errno */
	if (helper == 0) {
		pid_t in;

		if (setns(pidfd, CLONE_NEWPID) < 0)
			_exit(errno);
		in = fork();
		if (in == 0)
			_exit(mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0 || (set_numbers(), proc_read_only()) < 0 ? errno : 0);
		_exit(in < 0 || waitpid(in, &st, 0) < 0 ? errno : WIFEXITED(st) ? WEXITSTATUS(st) : EINTR);
	}
	if (helper < 0 || waitpid(helper, &st, 0) < 0)
		fail("mount of /proc");
	errno = WIFEXITED(st) ? WEXITSTATUS(st) : EINTR;
	if (errno)
		fail("mount of /proc");
	close(pidfd);
}

int outer_main(struct keeper_setup *s)
{
	int proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC), go[2];
	struct clone_args a = {.flags = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | (s->host_network ? 0 : CLONE_NEWNET),
		.exit_signal = SIGCHLD};
	char name[64], byte;
	pid_t inner;

	if (proc < 0 || pipe2(go, O_CLOEXEC) < 0)
		fail("/proc");
	setsid();
	if (setgroups(0, NULL) < 0)
		fail("setgroups");
	join_cgroups(s->cgroup);
	make_root(s);
	inner = syscall(SYS_clone3, &a, sizeof(a));
	if (inner < 0)
		fail("namespaces");
	if (inner == 0) {
		close(go[1]);
		if (read(go[0], &byte, 1) != 1)
			_exit(1);
		close(go[0]);
		inner_main(s);
	}
	snprintf(name, sizeof(name), "%d/uid_map", inner);
	write_at(proc, name, "0 0 4294967295");
	snprintf(name, sizeof(name), "%d/gid_map", inner);
	write_at(proc, name, "0 0 4294967295");
	mount_proc(inner);
	if (write(go[1], "", 1) != 1)
		fail("start of the inner");
	return 0;
}

/* ---- by the inner half ---- */

/* time_namespaces(7): lines "monotonic SECONDS NANOSECONDS". */
static int64_t own_offset(const char *clock)
{
	long long sec, nsec;
	char text[256], *line;
	int fd = open("/proc/self/timens_offsets", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	if (n <= 0)
		return 0;
	text[n] = 0;
	line = strstr(text, clock);
	return line && sscanf(line + strlen(clock), "%lld %lld", &sec, &nsec) == 2 ? sec * 1000000000 + nsec : 0;
}

void set_clocks(int64_t mono, int64_t boot)
{
	char text[128];
	int64_t ns[2] = {mono, boot}, sec[2];

	/* The kernel counts offsets from the initial time namespace; this host may be in one of its own. */
	for (int i = 0; i < 2; i++)
		ns[i] += own_offset(i ? "boottime" : "monotonic");
	for (int i = 0; i < 2; i++) { /* seconds and a nanosecond part that is not negative */
		sec[i] = ns[i] / 1000000000;
		ns[i] %= 1000000000;
		if (ns[i] < 0) {
			ns[i] += 1000000000;
			sec[i]--;
		}
	}
	if (unshare(CLONE_NEWTIME) < 0)
		fail("time namespace");
	snprintf(text, sizeof(text), "monotonic %lld %lld\nboottime %lld %lld\n", (long long)sec[0], (long long)ns[0], (long long)sec[1], (long long)ns[1]);
	write_at(AT_FDCWD, "/proc/self/timens_offsets", text);
}

void lo_up(void)
{
	struct ifreq r = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (s >= 0) {
		ioctl(s, SIOCSIFFLAGS, &r);
		close(s);
	}
}
