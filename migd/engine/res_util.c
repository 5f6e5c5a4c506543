/* SPDX-License-Identifier: Apache-2.0 */
/* Small things that the resource modules share. No state, no locks. */
#include "migd/engine/res_util.h"
#include <errno.h>
#include <stddef.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "migd/engine/core.h"
#include "migd/engine/procfs.h"

bool res_same(pid_t a, pid_t b, int kind, unsigned long ia, unsigned long ib)
{
	return syscall(SYS_kcmp, a, b, kind, ia, ib) == 0;
}

bool res_ended(pid_t pid)
{
	char name[32], link[16];
	struct procfs_stat st;

	snprintf(name, sizeof name, "/proc/%d", pid);
	int dir = open(name, O_PATH | O_DIRECTORY | O_CLOEXEC);
	bool ended = dir < 0 || procfs_stat(dir, &st) < 0 || st.state == 'Z' || st.state == 'X' ||
		     (readlinkat(dir, "cwd", link, sizeof link) < 0 && errno == ENOENT);

	if (dir >= 0)
		close(dir);
	return ended;
}

bool res_shares(pid_t a, pid_t b, int kind)
{
	for (int i = 0; i < (kind == KCMP_VM ? 1000 : 100); i++) {
		if (!res_same(a, b, kind, 0, 0) || res_ended(a) || res_ended(b))
			return false;
		nanosleep(&(struct timespec){.tv_nsec = 3000000}, NULL);
	}
	return true;
}

struct eng_thread *res_thread_by_tid(struct eng_proc *p, pid_t tid)
{
	for (unsigned i = 0; i < p->nthreads; i++)
		if (p->threads[i]->tid == tid)
			return p->threads[i];
	return NULL;
}

struct eng_thread *res_thread_by_vtid(struct eng_proc *p, pid_t vtid)
{
	for (unsigned i = 0; i < p->nthreads; i++)
		if (p->threads[i]->vtid == vtid)
			return p->threads[i];
	return NULL;
}

uint64_t res_clock(struct eng_thread *t, int clock)
{
	struct timespec ts;
	uint64_t at = eng_scratch_put(t->proc, NULL, sizeof ts);

	if (!at || eng_syscall(t, SYS_clock_gettime, (long)clock, at) < 0 || eng_peek(t->proc, at, &ts, sizeof ts) < 0)
		return 0;
	return (uint64_t)ts.tv_sec * 1000000000u + ts.tv_nsec;
}

int res_timer_read(struct eng_thread *t, long nr, long id, int clock, struct itimerspec *its, uint64_t *now)
{
	struct {
		struct timespec before, after;
		struct itimerspec its;
	} got;
	uint64_t best = UINT64_MAX;

	for (int tries = 0; tries < 5 && best > 50000; tries++) {
		eng_scratch_reset(t->proc);
		uint64_t at = eng_scratch_put(t->proc, NULL, sizeof got);
		struct eng_call c[3] = {
			{SYS_clock_gettime, {clock, at + offsetof(typeof(got), before)}, 0, 0, 0},
			{nr, {id, at + offsetof(typeof(got), its)}, 0, 0, 0},
			{SYS_clock_gettime, {clock, at + offsetof(typeof(got), after)}, 0, 0, 0},
		};
		int r = at ? eng_batch(t, c, 3, NULL) : -ENOMEM;

		if (r < 0 || (r = eng_peek(t->proc, at, &got, sizeof got)) < 0)
			return r;
		uint64_t a = (uint64_t)got.before.tv_sec * 1000000000u + got.before.tv_nsec,
			 b = (uint64_t)got.after.tv_sec * 1000000000u + got.after.tv_nsec;

		if (b - a >= best)
			continue;
		best = b - a;
		*its = got.its;
		*now = b; /* rather late than early */
	}
	return 0;
}

ssize_t res_readlink(int dir, const char *name, char *buf, size_t size)
{
	ssize_t n = readlinkat(dir, name, buf, size);

	if (n < 0)
		return -errno;
	if ((size_t)n >= size)
		return -ENAMETOOLONG;
	buf[n] = 0;
	return n;
}

bool res_undelete(int dir, char *path, const struct stat *st)
{
	size_t n = strlen(path);
	struct stat is;
	char *relative = NULL;
	bool same = false;

	if (n <= 10 || strcmp(path + n - 10, " (deleted)") || !st->st_nlink || *path != '/')
		return false;
	int root = openat(dir, "root", O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (root >= 0 && asprintf(&relative, ".%.*s", (int)n - 10, path) > 0)
		same = fstatat(root, relative, &is, AT_SYMLINK_NOFOLLOW) == 0 && is.st_ino == st->st_ino && is.st_dev == st->st_dev;
	free(relative);
	if (root >= 0)
		close(root);
	if (same)
		path[n - 10] = 0;
	return same;
}

uint64_t res_field_u64(const char *text, const char *key, int base, uint64_t missing)
{
	const char *v = text ? eng_field(text, key) : NULL;

	return v ? strtoull(v, NULL, base) : missing;
}

pid_t res_vpid(int dir)
{
	char *status = eng_proc_read(dir, "status", NULL);
	const char *v = status ? eng_field(status, "NSpid") : NULL;
	pid_t pid = 0;

	for (char *end; v && *v && *v != '\n'; v = end) {
		long n = strtol(v, &end, 10);

		if (end == v)
			break;
		pid = n;
	}
	free(status);
	return pid;
}

bool res_inside(const struct eng_probe *p, pid_t pid)
{
	if (pid == getpid())
		return true;
	for (int up = 0; up < 64 && pid > 1; up++) {
		char name[32];
		struct procfs_stat st;

		for (size_t i = 0; i < p->nfamily; i++)
			if (p->family[i] == pid)
				return true;
		snprintf(name, sizeof name, "/proc/%d", pid);
		int dir = open(name, O_PATH | O_DIRECTORY | O_CLOEXEC), r = dir < 0 ? -ESRCH : procfs_stat(dir, &st);

		if (dir >= 0)
			close(dir);
		if (r < 0)
			return up == 0; /* ended while we looked */
		pid = st.ppid;
	}
	return false;
}

struct ids {
	unsigned uid, gid;
	unsigned group[1024];
	long ngroups;
};

static int ids_of(int dir, struct ids *d)
{
	char *status = eng_proc_read(dir, "status", NULL);
	const char *u = status ? eng_field(status, "Uid") : NULL, *g = status ? eng_field(status, "Gid") : NULL,
		   *v = status ? eng_field(status, "Groups") : NULL;
	int r = u && g && v && sscanf(u, "%*u %*u %*u %u", &d->uid) == 1 && sscanf(g, "%*u %*u %*u %u", &d->gid) == 1 ? 0 : -ESRCH;

	d->ngroups = 0;
	for (char *end; !r && *v && *v != '\n' && d->ngroups < 1024; v = end) {
		d->group[d->ngroups] = strtoul(v, &end, 10);
		if (end == v)
			break;
		d->ngroups++;
		while (*end == ' ')
			end++;
	}
	free(status);
	return r;
}

bool res_may(int dir, const char *path, int mode)
{
	struct ids d, mine;
	int root = ids_of(dir, &d) < 0 ? -1 : openat(dir, "root", O_PATH | O_DIRECTORY | O_CLOEXEC);
	char *relative = NULL;
	bool may = true;

	if (root < 0 || d.uid == 0 || asprintf(&relative, ".%s", path) < 0)
		goto out;
	mine.ngroups = syscall(SYS_getgroups, 1024, mine.group);
	if (mine.ngroups < 0 || syscall(SYS_setgroups, d.ngroups, d.group) < 0)
		goto out;
	mine.gid = syscall(SYS_setfsgid, d.gid);
	mine.uid = syscall(SYS_setfsuid, d.uid); /* takes the file capabilities away too */
	may = syscall(SYS_faccessat2, root, relative, mode, AT_EACCESS) == 0 || (errno != EACCES && errno != EPERM);
	syscall(SYS_setfsuid, mine.uid);
	syscall(SYS_setfsgid, mine.gid);
	syscall(SYS_setgroups, mine.ngroups, mine.group);
out:
	free(relative);
	if (root >= 0)
		close(root);
	return may;
}

int res_open_as(int dir, int fd, int flags)
{
	struct ids d, mine;
	char name[40];
	int r, err;

	snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
	if (ids_of(dir, &d) < 0)
		return -ESRCH;
	mine.ngroups = syscall(SYS_getgroups, 1024, mine.group);
	if (mine.ngroups < 0 || syscall(SYS_setgroups, d.ngroups, d.group) < 0)
		return -errno;
	mine.gid = syscall(SYS_setfsgid, d.gid);
	mine.uid = syscall(SYS_setfsuid, d.uid); /* takes the file capabilities away too */
	r = open(name, flags | O_CLOEXEC | O_NOCTTY);
	err = errno;
	syscall(SYS_setfsuid, mine.uid);
	syscall(SYS_setfsgid, mine.gid);
	syscall(SYS_setgroups, mine.ngroups, mine.group);
	return r < 0 ? -err : r;
}

/* The cluster's tree and what each host has of its own are not the home's files. */
static bool homes_own(const char *path)
{
	static const char *const others[] = {"/sprite", "/proc", "/sys", "/dev"};

	for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
		size_t n = strlen(others[i]);

		if (!strncmp(path, others[i], n) && (!path[n] || path[n] == '/'))
			return false;
	}
	return *path == '/';
}

int res_by_inode(struct eng_proc *p, const char *path, uint64_t ino, uint32_t mode, int flags)
{
	static const int needs[4] = {R_OK, W_OK, R_OK | W_OK, R_OK | W_OK};
	const struct eng_hooks *h = &p->family->hooks;
	int access = 0, found = !p->core->caps && h->by_inode && homes_own(path) ? h->by_inode(h->ctx, ino, mode, path, &access) : -ENOENT, fd;
	char name[40];

	if (found < 0 || flags & O_PATH)
		return found;
	fd = res_open_as(p->dir, found, flags);
	if ((fd == -EACCES || fd == -EPERM) && !(needs[flags & O_ACCMODE] & ~access)) { /* what was opened once stays open, whoever may open it now */
		snprintf(name, sizeof name, "/proc/self/fd/%d", found);
		fd = open(name, flags | O_CLOEXEC | O_NOCTTY);
		fd = fd < 0 ? -errno : fd;
	}
	close(found);
	return fd;
}

static bool leads_there(int dir, const char *link, const struct stat *st)
{
	int root = openat(dir, "root", O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct stat is;
	bool same = root >= 0 && fstatat(root, link[1] ? link + 1 : ".", &is, AT_SYMLINK_NOFOLLOW) == 0 && is.st_ino == st->st_ino && is.st_dev == st->st_dev;

	if (root >= 0)
		close(root);
	return same;
}

int res_hold(int dir, const char *name, bool always)
{
	char link[PATH_MAX];
	struct stat st = {0};
	struct flock any = {.l_type = F_RDLCK};
	ssize_t n = res_readlink(dir, name, link, sizeof link);
	int at = n < 0 || *link != '/' ? -1 : openat(dir, name, O_PATH | O_CLOEXEC), fd = -1;

	if (at >= 0 && fstat(at, &st) < 0)
		fd = -errno;
	else if (at >= 0 && (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)) && (always || !leads_there(dir, link, &st)))
		fd = res_open_as(dir, at, O_RDONLY | O_NONBLOCK);
	/* What is only read spritefs may have opened without a word to the server: either needs that. */
	if (fd >= 0 && (S_ISDIR(st.st_mode) ? fsync(fd) : fcntl(fd, F_OFD_GETLK, &any)) < 0) {
		n = -errno;
		close(fd);
		fd = n;
	}
	if (at >= 0)
		close(at);
	return fd;
}

int res_removed_directory(int flags)
{
	char name[] = "/tmp/.sprite-removed.XXXXXX";
	int fd = mkdtemp(name) ? open(name, flags | O_DIRECTORY | O_CLOEXEC) : -1, err = errno;

	rmdir(name);
	return fd < 0 ? -err : fd;
}

/* As in a URL: the lines are JSON's, which takes no bytes that are no text. */
void res_save_name(FILE *o, const char *name)
{
	for (const unsigned char *s = (const unsigned char *)name; *s; s++)
		fprintf(o, *s <= ' ' || *s == '%' || *s >= 0x7f ? "%%%02x" : "%c", *s);
	fputc('\n', o);
}

char *res_load_name(const char *text)
{
	char *name = strdup(text), *to = name;
	unsigned byte;

	for (const char *s = text; name && *s; s++) {
		bool escaped = *s == '%' && sscanf(s + 1, "%2x", &byte) == 1 && byte;

		*to++ = escaped ? (char)byte : *s;
		s += escaped ? 2 : 0;
	}
	if (name)
		*to = 0;
	return name;
}

int res_bad_record(struct error *e, const char *what)
{
	return error_set(e, EBADMSG, "image: damaged record of %s", what);
}
