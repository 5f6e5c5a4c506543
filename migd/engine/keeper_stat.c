// SPDX-License-Identifier: Apache-2.0
/*
 * A file has one device number (st_dev) for as long as a process runs. Programs remember it beside st_ino and compare (xz before it removes its source, fts in the
 * middle of a tree, sqlite for its locks); the mounts of a guest host have numbers of their own. So for a family that was moved while it ran the filter
 * (keeper_calls.c) hands stat calls to threads of ours, which look as the caller would and answer with the number that the home has (devices.h).
 *
 * Only what is surely a file of the home is answered; for all else, and on any error, the call is made as it stands.
 *
 * Which thread does what: workers take notifications and answer them, since a stat may wait for a file server that is away; calls about processes they give to the
 * main loop. There is always one that waits for the next call, up to WORKERS. One answer for each: a call is given up (by the main loop) or answered (by its worker),
 * under `lock`; nothing is written to the caller after it was given up. Its memory is written without the lock: it may be a map that waits for a server as well.
 */
#include "migd/engine/keeper_stat.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include "migd/engine/devices.h"
#include "migd/engine/keeper_calls.h"

#ifndef SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (1UL << 0)
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#endif

enum { WORKERS = 64, STACK = 128 << 10, VIEWS = 16, GROUPS = 1024 };
enum { AS_IT_STANDS = 1 }; /* beside 0 and -errno */
static const int flags_known = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH;
const unsigned stat_calls[STAT_CALLS] = {SYS_fstat, SYS_newfstatat, SYS_statx, SYS_stat, SYS_lstat};

static struct devices table;
static dev_t view[VIEWS], root_view; /* devices of the mounts that show the home's tree (root_view) and the cluster's */
static unsigned nviews;
static unsigned long root_mount;
static int listener = -1, proc = -1, own = -1, main_end = -1;

enum state { IDLE, BUSY, ANSWERING, GIVEN_UP };
struct worker { /* state, id, caller: under lock */
	enum state state;
	uint64_t id;
	pid_t caller, tid;
	uint32_t uid, gid, groups[GROUPS]; /* whom it acts for: its own alone */
	size_t ngroups;
};
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct worker workers[WORKERS];
static unsigned nworkers; /* lock */
static atomic_int waiting;

struct ask { /* one call */
	pid_t tid;
	bool by_fd, x; /* x: statx */
	int dir;
	uint64_t path, to;
	unsigned flags, mask;
};
union answer {
	struct stat st;
	struct statx x;
};

/* ---- whom we act for --------------------------------------------------------------------------------- */
static const char *field(const char *text, const char *name)
{
	const char *s = strstr(text, name);

	return s ? s + strlen(name) : NULL;
}

/* May pass over modes of files, which we cannot tell from whom it is root without. */
static bool ordinary(uint32_t uid, const char *caps)
{
	enum { DAC = 3 << 1 }; /* CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH */

	return ((strtoull(caps, NULL, 16) & DAC) == DAC) == (uid == 0);
}

/* This thread looks at files with the rights of that one. Of `tid` nothing is kept: rights change. */
static bool become(struct worker *w, pid_t tid)
{
	char path[32], text[8192];
	uint32_t uid, gid, groups[GROUPS];
	const char *u, *g, *list, *caps;
	size_t ngroups = 0;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "%d/status", tid);
	fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n <= 0)
		return false;
	text[n] = 0;
	u = field(text, "\nUid:");
	g = field(text, "\nGid:");
	list = field(text, "\nGroups:");
	caps = field(text, "\nCapEff:");
	if (!u || !g || !list || !caps || sscanf(u, "%*u %*u %*u %u", &uid) != 1 || sscanf(g, "%*u %*u %*u %u", &gid) != 1 || !ordinary(uid, caps))
		return false;
	for (char *end; ngroups < GROUPS; list = end) {
		while (*list == ' ' || *list == '\t')
			list++;
		if (*list < '0' || *list > '9')
			break;
		groups[ngroups++] = (uint32_t)strtoul(list, &end, 10);
	}
	if (ngroups == GROUPS)
		return false;
	if ((ngroups != w->ngroups || memcmp(groups, w->groups, ngroups * sizeof(*groups))) && syscall(SYS_setgroups, ngroups, groups) < 0)
		return false;
	memcpy(w->groups, groups, ngroups * sizeof(*groups));
	w->ngroups = ngroups;
	if (gid != w->gid)
		syscall(SYS_setfsgid, gid);
	if (uid != w->uid)
		syscall(SYS_setfsuid, uid);
	w->gid = gid;
	w->uid = uid;
	return true;
}

/* ---- which file -------------------------------------------------------------------------------------- */
/* The caller's string, which may end at the end of what is mapped. */
static bool read_path(pid_t tid, uint64_t at, char path[PATH_MAX])
{
	for (size_t n = 0; n < PATH_MAX;) {
		size_t part = 4096 - (at + n) % 4096;

		if (part > PATH_MAX - n)
			part = PATH_MAX - n;
		if (!calls_copy(tid, at + n, path + n, part, false))
			return false;
		if (memchr(path + n, 0, part))
			return true;
		n += part;
	}
	return false;
}

/* Is the caller's root directory the nest's, as ours is? */
static bool at_our_root(pid_t tid)
{
	char name[32];
	struct statx x;

	snprintf(name, sizeof(name), "%d/root", tid);
	return calls_statx(proc, name, AT_STATX_DONT_SYNC, STATX_MNT_ID, &x) == 0 && x.stx_mnt_id == root_mount && x.stx_attributes & STATX_ATTR_MOUNT_ROOT;
}

static int open_path(const struct ask *a, const char *path)
{
	struct open_how how = {.flags = O_PATH | O_CLOEXEC | (a->flags & AT_SYMLINK_NOFOLLOW ? O_NOFOLLOW : 0), .resolve = RESOLVE_NO_MAGICLINKS};
	int dir = AT_FDCWD, fd;
	char name[48];

	if (*path != '/') {
		if (a->dir == AT_FDCWD)
			snprintf(name, sizeof(name), "%d/cwd", a->tid);
		else
			snprintf(name, sizeof(name), "%d/fd/%d", a->tid, a->dir);
		dir = openat(proc, name, O_PATH | O_CLOEXEC);
		if (dir < 0)
			return -1;
	}
	fd = syscall(SYS_openat2, dir, path, &how, sizeof(how));
	if (dir >= 0)
		close(dir);
	return fd;
}

static int open_file(const struct ask *a)
{
	char path[PATH_MAX], name[48];

	if (!a->by_fd && !(a->flags & AT_EMPTY_PATH && !a->path)) {
		if (!read_path(a->tid, a->path, path))
			return -1;
		if (*path || !(a->flags & AT_EMPTY_PATH))
			return open_path(a, path);
	}
	if (a->dir == AT_FDCWD)
		snprintf(name, sizeof(name), "%d/cwd", a->tid);
	else
		snprintf(name, sizeof(name), "%d/fd/%d", a->tid, a->dir);
	return openat(proc, name, O_PATH | O_CLOEXEC);
}

static bool in_view(dev_t dev)
{
	for (unsigned i = 0; i < nviews; i++)
		if (view[i] == dev)
			return true;
	return false;
}

/* As at home, where mounts have devices of their own: spritefsd marks in the upper bits of an inode number which one it is of (op.c). */
static uint64_t own_ino(dev_t dev, const struct device *d, uint64_t ino)
{
	return dev == root_view && d->len ? ino & 0xffffffffffff : ino;
}

/* 0: *out is what the caller shall see. */
static int look(int fd, const struct ask *a, union answer *out)
{
	int r = a->x ? calls_statx(fd, "", AT_EMPTY_PATH | (int)(a->flags & AT_STATX_SYNC_TYPE), a->mask, &out->x) :
		       calls_own(SYS_newfstatat, fd, (long)"", (long)&out->st, AT_EMPTY_PATH);
	dev_t dev = r < 0 ? 0 : a->x ? makedev(out->x.stx_dev_major, out->x.stx_dev_minor) : out->st.st_dev;
	char path[PATH_MAX], name[16];
	const struct device *d;
	ssize_t n;

	if (r < 0 || !in_view(dev))
		return AS_IT_STANDS;
	snprintf(name, sizeof(name), "%d", fd);
	n = readlinkat(own, name, path, sizeof(path) - 1);
	if (n <= 0)
		return AS_IT_STANDS;
	path[n] = 0;
	d = devices_find(&table, path);
	if (!d)
		return AS_IT_STANDS;
	if (a->x) {
		out->x.stx_dev_major = d->major;
		out->x.stx_dev_minor = d->minor;
		out->x.stx_ino = own_ino(dev, d, out->x.stx_ino);
	} else {
		out->st.st_dev = makedev(d->major, d->minor);
		out->st.st_ino = own_ino(dev, d, out->st.st_ino);
	}
	return 0;
}

/* false: not one that we know how to make. */
static bool describe(const struct seccomp_notif *n, struct ask *a)
{
	const __u64 *arg = n->data.args;

	*a = (struct ask){.tid = n->pid, .dir = AT_FDCWD, .to = arg[1]};
	switch (n->data.nr) {
	case SYS_fstat:
		a->by_fd = true;
		a->dir = (int)arg[0];
		return a->dir >= 0;
	case SYS_stat:
	case SYS_lstat:
		a->path = arg[0];
		a->flags = n->data.nr == SYS_lstat ? AT_SYMLINK_NOFOLLOW : 0;
		return true;
	case SYS_newfstatat:
		*a = (struct ask){.tid = n->pid, .dir = (int)arg[0], .path = arg[1], .to = arg[2], .flags = (unsigned)arg[3]};
		return !(a->flags & ~(unsigned)flags_known);
	default:
		*a = (struct ask){.tid = n->pid, .x = true, .dir = (int)arg[0], .path = arg[1], .to = arg[4], .flags = (unsigned)arg[2], .mask = (unsigned)arg[3]};
		return !(a->flags & ~(unsigned)(flags_known | AT_STATX_SYNC_TYPE)) && (a->flags & AT_STATX_SYNC_TYPE) != AT_STATX_SYNC_TYPE &&
		       !(a->mask & STATX__RESERVED);
	}
}

static int resolve(struct worker *w, const struct ask *a, union answer *out)
{
	int fd, r;

	if (!become(w, a->tid) || !at_our_root(a->tid))
		return AS_IT_STANDS;
	fd = open_file(a);
	if (fd < 0)
		return AS_IT_STANDS;
	r = look(fd, a, out);
	close(fd);
	return r;
}

/* ---- workers ----------------------------------------------------------------------------------------- */
static void serve(struct worker *w, const struct seccomp_notif *n)
{
	union answer out;
	struct ask a;
	__u64 id = n->id;
	int r;

	pthread_mutex_lock(&lock);
	w->state = BUSY;
	w->id = id;
	w->caller = n->pid;
	pthread_mutex_unlock(&lock);
	r = describe(n, &a) ? resolve(w, &a, &out) : AS_IT_STANDS;
	pthread_mutex_lock(&lock);
	if (w->state == BUSY)
		w->state = ANSWERING;
	pthread_mutex_unlock(&lock);
	if (w->state == ANSWERING && r == 0 && ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &id) == 0 &&
	    !calls_copy(a.tid, a.to, &out, a.x ? sizeof(out.x) : sizeof(out.st), true))
		r = -EFAULT;
	pthread_mutex_lock(&lock);
	if (w->state == ANSWERING)
		calls_respond(id, r < 0 ? r : 0, r == AS_IT_STANDS);
	w->state = IDLE;
	pthread_mutex_unlock(&lock);
}

static bool add_worker(void);

static void *work(void *arg)
{
	struct worker *w = arg;
	struct seccomp_notif n;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	pthread_mutex_lock(&lock);
	w->tid = gettid();
	pthread_mutex_unlock(&lock);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	for (;;) {
		bool alone = false; /* nobody takes the next call */
		int r, stat = 0;

		memset(&n, 0, sizeof(n));
		atomic_fetch_add(&waiting, 1);
		r = ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &n);
		if (atomic_fetch_sub(&waiting, 1) == 1 && r == 0)
			alone = !add_worker();
		if (r < 0)
			continue; /* interrupted, or the caller was killed */
		for (int i = 0; i < STAT_CALLS; i++)
			stat |= n.data.nr == (int)stat_calls[i];
		if (stat && alone)
			calls_respond(n.id, 0, true); /* all others wait for a server: who asks for a number sees this host's, rather than that all calls stand still */
		else if (stat)
			serve(w, &n);
		else
			while (write(main_end, &n, sizeof(n)) < 0 && errno == EINTR)
				;
	}
	return NULL;
}

static bool add_worker(void)
{
	pthread_attr_t attr;
	pthread_t t;
	bool added;

	pthread_mutex_lock(&lock);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	added = nworkers < WORKERS && pthread_create(&t, &attr, work, &workers[nworkers]) == 0;
	nworkers += added;
	pthread_attr_destroy(&attr);
	pthread_mutex_unlock(&lock);
	return added;
}

static void no_handler(int sig)
{
	(void)sig;
}

void stat_hurry(pid_t tid)
{
	pthread_mutex_lock(&lock);
	for (unsigned i = 0; i < nworkers; i++) {
		struct worker *w = &workers[i];

		if (w->state != BUSY || w->caller != tid)
			continue;
		w->state = GIVEN_UP;
		/* The kernel makes the call again (ERESTARTNOINTR) of who has a signal or a stop waiting, as it has. */
		calls_respond(w->id, -513, false);
		calls_own(SYS_tgkill, getpid(), w->tid, SIGUSR1, 0); /* out of its wait for the server */
	}
	pthread_mutex_unlock(&lock);
}

/* ---- start ------------------------------------------------------------------------------------------- */
/* Which file systems of this nest are views of others' trees. */
static int find_views(void)
{
	char line[PATH_MAX + 512];
	FILE *f = fopen("/proc/self/mountinfo", "re");
	struct statx x;

	if (!f)
		return -errno;
	while (fgets(line, sizeof(line), f)) {
		const char *type = strstr(line, " - fuse");
		unsigned major, minor;
		char point[3];

		if (!type || nviews == VIEWS || sscanf(line, "%*d %*d %u:%u %*s %2s", &major, &minor, point) != 3)
			continue;
		view[nviews++] = makedev(major, minor);
		if (!strcmp(point, "/"))
			root_view = makedev(major, minor);
	}
	fclose(f);
	if (calls_statx(AT_FDCWD, "/", AT_STATX_DONT_SYNC, STATX_MNT_ID, &x) < 0)
		return -errno;
	root_mount = x.stx_mnt_id;
	return x.stx_mask & STATX_MNT_ID ? 0 : -ENOSYS;
}

int stat_table(int sock, int len)
{
	char *text = len > 0 && len < DEVICES_MAX ? calloc(1, len + 1) : NULL; /* stays: the table refers to it */
	int r;

	if (recv(sock, text, text ? len : 0, 0) != len || !text)
		return -EINVAL;
	r = devices_parse(&table, text);
	if (r == 0)
		r = find_views();
	proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	own = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (r == 0 && (proc < 0 || own < 0))
		r = -errno;
	if (r < 0)
		devices_free(&table);
	return r;
}

bool stat_wanted(void)
{
	return table.n && nviews;
}

int stat_start(int fd)
{
	struct sigaction sa = {.sa_handler = no_handler};
	int p[2];

	if (pipe2(p, O_CLOEXEC) < 0)
		return -errno;
	listener = fd;
	main_end = p[1];
	sigaction(SIGUSR1, &sa, NULL);
	ioctl(listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP); /* from Linux 6.6 on: a call costs less */
	add_worker();
	add_worker();
	if (nworkers)
		return p[0];
	close(p[0]);
	close(p[1]);
	return -EAGAIN;
}
