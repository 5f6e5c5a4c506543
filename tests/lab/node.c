/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A node: its namespaces, its clocks and its root directory.
 *
 * The starter (a child of the hub) joins the node's control groups, makes all namespaces but the pid namespace, builds the root, waits for its end of the cable,
 * then makes the pid namespace with the init in it and ends. Everything of the node is on tmpfs mounts that only its mount namespace has, so it goes with the
 * node's last process. The host's /usr/... is bound read-only, entry by entry, into the node's own /usr, which holds a mark that no other node has.
 */
#include "lab.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif
#define OVERLAY_MAGIC 0x794c7630

static int fill_mount(const char *what, const char *where, const char *type, unsigned long flags, const char *options, struct error *e)
{
	int rc = make_dirs(where, 0755);

	if (rc < 0)
		return error_set(e, -rc, "%s: %s", where, strerror(-rc));
	if (mount(what, where, type, flags, options) < 0)
		return error_set(e, errno, "mount %s on %s: %s", what, where, strerror(errno));
	return 0;
}

/* Binds from (and what is mounted below it), read-only. */
static int bind_readonly(const char *from, const char *to, struct error *e)
{
	struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY, .propagation = MS_PRIVATE};
	_cleanup_close_ int tree = open_tree(AT_FDCWD, from, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
	struct stat st;
	int rc = 0;

	if (tree < 0 || fstat(tree, &st) < 0)
		return error_set(e, errno, "bind %s: %s", from, strerror(errno));
	if (S_ISDIR(st.st_mode))
		rc = make_dirs(to, st.st_mode & 07777);
	else if (access(to, F_OK) < 0)
		rc = write_file(to, "", 0644);
	if (rc < 0)
		return error_set(e, -rc, "%s: %s", to, strerror(-rc));
	if (mount_setattr(tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attr, sizeof(attr)) < 0 ||
		move_mount(tree, "", AT_FDCWD, to, MOVE_MOUNT_F_EMPTY_PATH) < 0)
		return error_set(e, errno, "bind %s on %s: %s", from, to, strerror(errno));
	return 0;
}

/* Takes over one entry of a host directory: symbolic links are copied, the rest is bound. */
static int take_over(const char *dir, const char *name, const char *root, struct error *e)
{
	_cleanup_free_ char *from = xasprintf("%s/%s", strcmp(dir, "/") ? dir : "", name), *to = xasprintf("%s%s", root, from);
	char target[1024];
	struct stat st;
	ssize_t n;

	if (lstat(from, &st) < 0)
		return errno == ENOENT ? 0 : error_set(e, errno, "%s: %s", from, strerror(errno));
	if (!S_ISLNK(st.st_mode))
		return bind_readonly(from, to, e);
	n = readlink(from, target, sizeof(target) - 1);
	if (n < 0)
		return error_set(e, errno, "%s: %s", from, strerror(errno));
	target[n] = 0;
	return symlink(target, to) < 0 && errno != EEXIST ? error_set(e, errno, "%s: %s", to, strerror(errno)) : 0;
}

static int make_usr(const struct lab_node *n, const char *root, struct error *e)
{
	static const char *const top[] = {"bin", "sbin", "lib", "lib32", "lib64", "libx32"};
	/* of /etc, what is a directory of data that belongs to /usr's programs */
	static const char *const etc[] = {"alternatives", "ssl", "ld.so.conf.d", "terminfo", "perl", "python3", "python3.11", "fonts", "java-17-openjdk"};
	_cleanup_free_ char *usr = xasprintf("%s/usr", root), *mark = xasprintf("%s/sprite-node", usr), *text = xasprintf("%s\n", n->name);
	struct dirent *entry;
	DIR *d;
	int rc = fill_mount("usr", usr, "tmpfs", 0, "mode=755,size=1m", e);

	if (rc < 0)
		return rc;
	d = opendir("/usr");
	if (!d)
		return error_set(e, errno, "/usr: %s", strerror(errno));
	while (rc == 0 && (entry = readdir(d)))
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..") && strcmp(entry->d_name, "sprite-node"))
			rc = take_over("/usr", entry->d_name, root, e);
	closedir(d);
	if (rc == 0 && write_file(mark, text, 0644) < 0)
		rc = error_set(e, EIO, "%s: cannot write", mark);
	for (size_t i = 0; rc == 0 && i < ARRAY_SIZE(top); i++)
		rc = take_over("/", top[i], root, e);
	for (size_t i = 0; rc == 0 && i < ARRAY_SIZE(etc); i++)
		rc = take_over("/etc", etc[i], root, e);
	return rc;
}

static int make_dev(const char *root, struct error *e)
{
	static const struct {
		const char *name;
		int major, minor;
	} devices[] = {{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}, {"fuse", 10, 229}};
	static const char *const links[][2] = {{"pts/ptmx", "ptmx"}, {"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"},
		{"/proc/self/fd/2", "stderr"}};
	char path[512];
	int rc;

	snprintf(path, sizeof(path), "%s/dev", root);
	rc = fill_mount("dev", path, "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=4m", e);
	for (size_t i = 0; rc == 0 && i < ARRAY_SIZE(devices); i++) {
		char host[64];

		snprintf(path, sizeof(path), "%s/dev/%s", root, devices[i].name);
		snprintf(host, sizeof(host), "/dev/%s", devices[i].name);
		if (mknod(path, S_IFCHR | 0666, makedev(devices[i].major, devices[i].minor)) == 0) {
			if (chmod(path, 0666) < 0)
				return error_set(e, errno, "%s: %s", path, strerror(errno));
			continue;
		}
		/* no right to make device nodes: a container. The host's will do. */
		if (errno != EPERM || write_file(path, "", 0666) < 0 || mount(host, path, NULL, MS_BIND, NULL) < 0)
			return error_set(e, errno, "%s: %s", path, strerror(errno));
	}
	for (size_t i = 0; rc == 0 && i < ARRAY_SIZE(links); i++) {
		snprintf(path, sizeof(path), "%s/dev/%s", root, links[i][1]);
		if (symlink(links[i][0], path) < 0)
			rc = error_set(e, errno, "%s: %s", path, strerror(errno));
	}
	snprintf(path, sizeof(path), "%s/dev/pts", root);
	rc = rc ? rc : fill_mount("devpts", path, "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=666,mode=620,gid=5", e);
	snprintf(path, sizeof(path), "%s/dev/shm", root);
	rc = rc ? rc : fill_mount("shm", path, "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777", e);
	snprintf(path, sizeof(path), "%s/dev/mqueue", root);
	if (rc == 0)
		fill_mount("mqueue", path, "mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL, NULL); /* not every kernel has it */
	return rc;
}

static int make_dirs_of_own(const struct lab_node *n, const char *root, struct error *e)
{
	static const struct {
		const char *path;
		mode_t mode;
		uid_t owner;
	} dirs[] = {{"etc", 0755, 0}, {"home", 0755, 0}, {"home/sprite", 0755, 1000}, {"home/guest", 0755, 1001}, {"root", 0700, 0}, {"tmp", 01777, 0},
		{"mnt", 0755, 0}, {"media", 0755, 0}, {"opt", 0755, 0}, {"srv", 0755, 0}, {"proc", 0555, 0}, {"sys", 0555, 0}, {"run", 0755, 0},
		{"run/sprite", 0755, 0}, {"run/lock", 01777, 0}, {"var", 0755, 0}, {"var/tmp", 01777, 0}, {"var/log", 0755, 0}, {"var/log/sprite", 0755, 0},
		{"var/lib", 0755, 0}, {"var/lib/sprite", 0700, 0}, {"var/cache", 0755, 0}, {"var/spool", 0755, 0}};
	char path[512];

	(void)n;
	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
		int rc;

		snprintf(path, sizeof(path), "%s/%s", root, dirs[i].path);
		rc = make_dirs(path, dirs[i].mode);
		if (rc == 0 && dirs[i].owner && chown(path, dirs[i].owner, dirs[i].owner) < 0)
			rc = -errno;
		if (rc < 0)
			return error_set(e, -rc, "%s: %s", path, strerror(-rc));
	}
	snprintf(path, sizeof(path), "%s/var/run", root);
	if (symlink("/run", path) < 0)
		return error_set(e, errno, "%s: %s", path, strerror(errno));
	snprintf(path, sizeof(path), "%s/sprite", root);
	if (!n->server && mkdir(path, 0755) < 0)
		return error_set(e, errno, "%s: %s", path, strerror(errno));
	return 0;
}

/* The server's disk: a directory on the host's where its filesystem has file handles, memory elsewhere. */
static int make_store(const struct lab *lab, const struct lab_node *n, const struct lab_options *o, const char *root, struct error *e)
{
	_cleanup_free_ char *where = xasprintf("%s/srv/sprite", root), *store = xasprintf("%s/%s", lab->disk, n->name), *options = NULL;
	struct statfs fs;
	int rc = make_dirs(store, 0755);

	if (rc < 0)
		return error_set(e, -rc, "%s: %s", store, strerror(-rc));
	if (!o->store_size && statfs(store, &fs) == 0 && fs.f_type != OVERLAY_MAGIC)
		rc = fill_mount(store, where, NULL, MS_BIND, NULL, e);
	else {
		options = xasprintf("mode=1777%s%s", o->store_size ? ",size=" : "", o->store_size ? o->store_size : "");
		rc = fill_mount("store", where, "tmpfs", 0, options, e);
	}
	if (rc == 0 && chmod(where, 01777) < 0)
		rc = error_set(e, errno, "%s: %s", where, strerror(errno));
	return rc;
}

static int make_root(const struct lab *lab, const struct lab_node *n, const struct lab_options *o, const char *root, struct error *e)
{
	char path[512];
	int rc;

	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return error_set(e, errno, "mount private /: %s", strerror(errno));
	rc = fill_mount(n->name, root, "tmpfs", 0, "mode=755", e);
	rc = rc ? rc : make_dirs_of_own(n, root, e);
	rc = rc ? rc : make_usr(n, root, e);
	rc = rc ? rc : etc_write(lab, n, o, root, e);
	rc = rc ? rc : make_dev(root, e);
	snprintf(path, sizeof(path), "%s%s", root, LAB_BIN);
	rc = rc ? rc : bind_readonly(lab->bindir, path, e);
	if (rc == 0 && n->server)
		rc = make_store(lab, n, o, root, e);
	for (size_t i = 0; rc == 0 && i < o->nbind; i++) {
		const char *colon = strchr(o->bind[i], ':');
		_cleanup_free_ char *from = strndup(o->bind[i], colon - o->bind[i]);

		snprintf(path, sizeof(path), "%s%s", root, colon + 1);
		rc = bind_readonly(from, path, e);
	}
	return rc;
}

/* /proc/sys/kernel/random/boot_id as if the node had booted by itself. */
static int own_boot_id(struct error *e)
{
	unsigned char r[16];
	char text[64];

	if (getrandom(r, sizeof(r), 0) != sizeof(r))
		return error_set(e, errno, "getrandom: %s", strerror(errno));
	r[6] = (r[6] & 0x0f) | 0x40;
	r[8] = (r[8] & 0x3f) | 0x80;
	snprintf(text, sizeof(text), "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x\n", r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7],
		r[8], r[9], r[10], r[11], r[12], r[13], r[14], r[15]);
	if (write_file("/run/boot_id", text, 0444) < 0)
		return error_set(e, EIO, "/run/boot_id: cannot write");
	return bind_readonly("/run/boot_id", "/proc/sys/kernel/random/boot_id", e);
}

/* Pids above the limit belong to children of guests (engine: slices above the home's lowered pid_max). Before 6.14 the limit was the host's own: hands off. */
static void lower_pid_max(void)
{
	struct utsname u;
	int major = 0, minor = 0;

	if (uname(&u) == 0 && sscanf(u.release, "%d.%d", &major, &minor) == 2 && (major > 6 || (major == 6 && minor >= 14)))
		write_file("/proc/sys/kernel/pid_max", "30000", 0644);
}

/* In the node's pid namespace, as its pid 1: moves into the new root. */
static int enter_root(const struct lab_node *n, const char *root, struct error *e)
{
	char path[512];
	int rc;

	snprintf(path, sizeof(path), "%s/proc", root);
	rc = fill_mount("proc", path, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL, e);
	snprintf(path, sizeof(path), "%s/sys", root);
	/* the mount is read-only, the file system is not: spritefs sets its read-ahead there */
	rc = rc ? rc : fill_mount("sysfs", path, "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL, e);
	if (rc == 0 && mount(NULL, path, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
		rc = error_set(e, errno, "%s: cannot be made read-only: %s", path, strerror(errno));
	rc = rc ? rc : cgroup_node_mount(root, e);
	if (rc < 0)
		return rc;
	if (chdir(root) < 0 || syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		return error_set(e, errno, "%s: pivot_root: %s", root, strerror(errno));
	rc = cgroup_node_settle();
	if (rc < 0)
		return error_set(e, -rc, "cgroup: %s", strerror(-rc));
	if (!n->server)
		lower_pid_max();
	return own_boot_id(e);
}

/* Monotonic and boot-time clocks that differ from node to node by hours. Must come before the first process of the time namespace. */
static int set_clocks(const struct lab_node *n, struct error *e)
{
	char text[128];
	int rc;

	snprintf(text, sizeof(text), "monotonic %d 0\nboottime %d 0\n", 3600 + 1000 * n->index, 7200 + 2000 * n->index);
	rc = write_file("/proc/self/timens_offsets", text, 0644);
	return rc < 0 ? error_set(e, -rc, "/proc/self/timens_offsets: %s", strerror(-rc)) : 0;
}

static int starter_main(const struct lab *lab, const struct lab_node *n, const struct lab_options *o, int channel, struct error *e)
{
	_cleanup_free_ char *root = xasprintf("%s/%s", lab->dir, n->name), *path = xasprintf("%s.sock", root);
	const struct rlimit files = {1024, 524288}, core = {0, RLIM_INFINITY};
	struct error none = {0};
	int listener, null, rc;
	char byte;
	pid_t pid;

	rc = cgroup_node_join(lab, n->name, e);
	if (rc < 0)
		return rc;
	if (unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWCGROUP | CLONE_NEWTIME) < 0)
		return error_set(e, errno, "unshare: %s", strerror(errno));
	rc = set_clocks(n, e);
	if (rc < 0)
		return rc;
	if (write(channel, &none, sizeof(none)) != sizeof(none))
		return error_set(e, EPIPE, "the hub has gone");
	if (sethostname(n->name, strlen(n->name)) < 0)
		return error_set(e, errno, "sethostname: %s", strerror(errno));
	setrlimit(RLIMIT_NOFILE, &files);
	setrlimit(RLIMIT_CORE, &core);
	rc = make_root(lab, n, o, root, e);
	if (rc < 0)
		return rc;
	if (read(channel, &byte, 1) != 1)
		return error_set(e, EPIPE, "the hub has gone");
	rc = net_node_up(n, e);
	if (rc < 0)
		return rc;
	if (unshare(CLONE_NEWPID) < 0)
		return error_set(e, errno, "unshare: %s", strerror(errno));
	pid = fork();
	if (pid < 0)
		return error_set(e, errno, "fork: %s", strerror(errno));
	if (pid > 0)
		_exit(0); /* the hub inherits the init */
	prctl(PR_SET_NAME, "lab-init");
	listener = server_listen(path, e); /* while the path is still there; in this process, whose pid SO_PEERCRED shall tell */
	rc = listener < 0 ? listener : enter_root(n, root, e);
	if (rc < 0)
		return rc;
	if (write(channel, &none, sizeof(none)) != sizeof(none))
		return error_set(e, EPIPE, "the hub has gone");
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int i = 0; i < 3; i++)
		dup2(null, i);
	close(channel);
	server_run(&(struct server_options){.node = n, .listener = listener, .leash = -1, .lock = -1});
}

int node_spawn(const struct lab *lab, const struct lab_node *n, const struct lab_options *o, int *channel, pid_t *starter, struct error *e)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return error_set(e, errno, "socketpair: %s", strerror(errno));
	*starter = fork();
	if (*starter < 0) {
		close(pair[0]);
		close(pair[1]);
		return error_set(e, errno, "fork: %s", strerror(errno));
	}
	if (*starter == 0) {
		struct error mine = {0};

		dup2(pair[1], 3); /* nothing of the hub's: not its leash, not the other nodes' channels */
		close_range(4, ~0u, 0);
		fcntl(3, F_SETFD, FD_CLOEXEC);
		umask(022);
		if (starter_main(lab, n, o, 3, &mine) < 0 && write(3, &mine, sizeof(mine)) < 0)
			_exit(2);
		_exit(1);
	}
	close(pair[1]);
	*channel = pair[0];
	return 0;
}
