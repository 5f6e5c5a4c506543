/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors that a path leads to again: regular files, directories, O_PATH ones, and the character devices that are alike on every host.
 * Each is opened again by its path in the family's root view and must be the same inode there. On the way home, where its files are, one whose name leads elsewhere by
 * now, or nowhere, is found by what it is (res_by_inode()); from guest host to guest host its server hands it over.
 *
 * Refused: files without a name, those of the host's own trees (/proc, /sys, /dev), locks, and an offset that a process outside of the
 * family shares. (Sprite kept such offsets on the file server; served domains get that by the stream issue.)
 */
#include "migd/engine/res_files.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "fs/hand.h"
#include "migd/engine/core.h"

enum { FUSE_MAGIC = 0x65735546 };

static bool below(const char *path, const char *dir)
{
	size_t n = strlen(dir);

	return !strncmp(path, dir, n) && (!path[n] || path[n] == '/');
}

static bool host_tree(const char *path)
{
	return below(path, "/proc") || below(path, "/sys") || below(path, "/dev");
}

static bool ends_deleted(const char *path)
{
	size_t n = strlen(path);

	return n > 10 && !strcmp(path + n - 10, " (deleted)");
}

/* ---- probes ----------------------------------------------------------------------------------------- */

/*
 * Of a file on /sprite the kernel keeps no locks and /proc shows none: its spritefs is asked, through a duplicate of the descriptor. The process's own; OFD locks
 * count as those of who took them.
 */
static uint32_t sprite_locks(const struct file_look *l)
{
	char name[40];
	struct statfs fs;
	uint32_t locks = l->pid;

	snprintf(name, sizeof name, "/proc/%d/fd/%d", l->pid, l->num);
	if (l->flags & O_PATH || !S_ISREG(l->st.st_mode) || statfs(name, &fs) < 0 || fs.f_type != FUSE_MAGIC)
		return 0;
	_cleanup_close_ int pidfd = syscall(SYS_pidfd_open, l->pid, 0);
	_cleanup_close_ int fd = pidfd < 0 ? -1 : syscall(SYS_pidfd_getfd, pidfd, l->num, 0);

	return fd >= 0 && ioctl(fd, SPRITE_IOC_LOCKS, &locks) == 0 ? locks : 0;
}

const char *file_lock_held(const struct file_look *l)
{
	const char *k = eng_field(l->info, "lock");
	uint32_t there = k ? 0 : sprite_locks(l);

	if (k)
		return strstr(k, "FLOCK") ? "flock" : strstr(k, "OFDLCK") ? "OFD lock" : strstr(k, "LEASE") ? "lease" : "fcntl lock";
	return there & SPRITE_LOCKS_FLOCK ? "flock" : there & SPRITE_LOCKS_RANGE ? "fcntl lock" : NULL;
}

/* On /sprite locks go along (res_file_sprite.c); on a home's files, away, one that is held for a moment is waited for (res_files_settled.c). */
static void probe_locks(struct eng_probe *p, const struct file_look *l)
{
	const char *what = eng_field(l->info, "lock") ? file_lock_held(l) : NULL;

	if (what)
		file_reason(p, l, "%s held on %s: release it first", what, l->link);
}

/* /proc/PID of the process itself: there over there too, under the same number. */
static bool own_proc(const struct eng_probe *p, const char *path)
{
	char *end;

	return !strncmp(path, "/proc/", 6) && strtol(path + 6, &end, 10) == res_vpid(p->dir) && *end == '/';
}

/* /proc/PID/fd, fdinfo, mem, also of a thread. */
static bool shows_itself(const char *path)
{
	const char *rest = strchr(path + 6, '/');

	if (rest && !strncmp(rest, "/task/", 6))
		rest = strchr(rest + 6, '/');
	return rest && (!strcmp(rest, "/mem") || !strncmp(rest, "/fd/", 4) || !strcmp(rest, "/fd") || !strncmp(rest, "/fdinfo", 7) || !strncmp(rest, "/map_files", 10));
}

static int access_mode(uint32_t flags)
{
	static const int mode[4] = {R_OK, W_OK, R_OK | W_OK, R_OK | W_OK};

	return flags & O_PATH ? F_OK : mode[flags & O_ACCMODE];
}

/*
 * Opened in another view of the tree than the process has (a container's log file, whoever started it gave it): its path leads elsewhere, or nowhere. A name
 * that has just changed is none of that.
 */
static bool leads_elsewhere(const struct file_look *l)
{
	char path[PATH_MAX], name[32], now[PATH_MAX];
	struct stat st;
	ssize_t n;

	if (snprintf(path, sizeof path, "root%s", l->link) >= (int)sizeof path)
		return false;
	if (fstatat(l->dir, path, &st, AT_SYMLINK_NOFOLLOW) < 0 ? errno != ENOENT && errno != ENOTDIR : st.st_dev == l->st.st_dev && st.st_ino == l->st.st_ino)
		return false;
	snprintf(name, sizeof name, "fd/%d", l->num);
	n = readlinkat(l->dir, name, now, sizeof now);
	return n == (ssize_t)strlen(l->link) && !memcmp(now, l->link, n);
}

/* A home's open file whose name is gone: its server gives it to the next guest host. */
static bool can_be_offered(const struct file_look *l)
{
	char name[32];
	struct statfs fs;

	snprintf(name, sizeof name, "/proc/%d/fd/%d", l->pid, l->num);
	return S_ISREG(l->st.st_mode) && l->st.st_nlink && !(l->flags & O_PATH) && (ends_deleted(l->link) || file_handed_before(l->link)) &&
	       strncmp(l->link, "/sprite/", 8) && statfs(name, &fs) == 0 && fs.f_type == FUSE_MAGIC;
}

static void probe_named(struct eng_probe *p, const struct file_look *l)
{
	if (own_proc(p, l->link)) {
		if (!p->nest && shows_itself(l->link))
			file_reason(p, l, "%s shows what it has open, or its memory, and cannot be opened before that is there again: close it first", l->link);
		return;
	}
	if (host_tree(l->link))
		file_reason(p, l, "%s belongs to this host alone: close it first", l->link);
	else if (p->goes_home && strncmp(l->link, "/sprite/", 8)) /* its server knows what is open, by whatever name, and whoever may open it now */
		return;
	else if (p->nest && can_be_offered(l))
		return;
	else if (!l->st.st_nlink)
		file_reason(p, l, "%s has been unlinked and cannot be opened again elsewhere: close it first", l->link);
	else if (ends_deleted(l->link))
		file_reason(p, l, "%s is a name that is gone (the file has others): open it by another name", l->link);
	else if (!res_may(p->dir, l->link, access_mode(l->flags)))
		file_reason(p, l, "%s was opened with rights that the process no longer has: let its user have them (chmod, chown)", l->link);
	else if (leads_elsewhere(l))
		file_reason(p, l, "%s is no file of its own tree (whoever started it sees another one): redirect it to a file that the process can open itself", l->link);
}

static int regular_outside(const struct file_look *l)
{
	return (l->flags & (O_APPEND | O_ACCMODE)) == (O_APPEND | O_WRONLY) ? OUTSIDE_ALL : OUTSIDE_NOT_OFFSET; /* appending needs no offset */
}

static void named_probe(struct eng_probe *p, const struct file_look *l)
{
	probe_named(p, l);
	probe_locks(p, l);
}

static bool device_alike(dev_t rdev)
{
	unsigned n = minor(rdev);

	return major(rdev) == 1 && (n == 3 || n == 5 || n == 7 || n == 8 || n == 9);
}

static void device_probe(struct eng_probe *p, const struct file_look *l)
{
	if (S_ISBLK(l->st.st_mode))
		file_reason(p, l, "%s is a disk of this host: close it first", l->link);
	else if (!device_alike(l->st.st_rdev))
		file_reason(p, l, "%s is a device of this host: close it first", l->link);
}

/* ---- open ------------------------------------------------------------------------------------------- */

/* What nobody has open there (O_PATH, directories that nobody reads) its server cannot find for us at home: until we are there it is open. */
static int path_dump(struct eng_family *f, struct file_desc *d, Sprite__Img__File *m, struct error *e)
{
	char name[32];

	(void)m;
	(void)e;
	snprintf(name, sizeof name, "fd/%d", d->look.num);
	if (f->hooks.goes_home && d->fd < 0)
		d->fd = res_hold(d->look.dir, name, true);
	return 0;
}

static int regular_dump(struct eng_family *f, struct file_desc *d, Sprite__Img__File *m, struct error *e)
{
	(void)e;
	if (f->nest && !f->hooks.goes_home && can_be_offered(&d->look))
		m->hand = file_offer(d);
	return 0;
}

static int named_open(struct eng_family *f, struct eng_proc *p, struct file_desc *d, struct error *e)
{
	(void)f;
	return file_open_path(p, d->image, d->image->flags, e);
}

static int regular_open(struct eng_family *f, struct eng_proc *p, struct file_desc *d, struct error *e)
{
	if (d->image->hand && *d->image->hand)
		return file_claim(p, d->image, e);
	return file_open_path(p, d->image, d->image->flags | (d->image->held_pid && !f->home ? O_DIRECT : 0), e); /* asking its server each time: others use it meanwhile */
}

static int directory_open(struct eng_family *f, struct eng_proc *p, struct file_desc *d, struct error *e)
{
	struct error why = {0};
	int fd = named_open(f, p, d, &why);

	if (fd < 0 && !p->core->caps && !d->image->ino)
		fd = res_removed_directory(O_RDONLY);
	return fd < 0 ? error_set(e, why.code, "%s", why.text) : fd;
}

/* By number, not by path: the guest's /dev has these five, and a path could have been anything that pointed here. */
static int device_open(struct eng_family *f, struct eng_proc *p, struct file_desc *d, struct error *e)
{
	static const char *const name[] = {[3] = "/dev/null", [5] = "/dev/zero", [7] = "/dev/full", [8] = "/dev/random", [9] = "/dev/urandom"};
	dev_t rdev = d->image->rdev;
	struct stat st;

	(void)f;
	if (!device_alike(rdev))
		return error_set(e, EBADMSG, "image: %s is no device that can be opened anywhere", d->image->path);
	int fd = eng_open(p, name[minor(rdev)], d->image->flags, 0);

	if (fd < 0)
		return error_set(e, -fd, "%s cannot be opened there: %s", name[minor(rdev)], strerror(-fd));
	if (fstat(fd, &st) < 0 || !S_ISCHR(st.st_mode) || st.st_rdev != rdev) {
		close(fd);
		return error_set(e, ENODEV, "%s is another device there", name[minor(rdev)]);
	}
	return fd;
}

static bool is_path_only(const struct file_look *l)
{
	return l->flags & O_PATH && *l->link == '/';
}
static bool is_device(const struct file_look *l)
{
	return S_ISCHR(l->st.st_mode) || S_ISBLK(l->st.st_mode);
}
static bool is_directory(const struct file_look *l)
{
	return S_ISDIR(l->st.st_mode) && *l->link == '/';
}
static bool is_regular(const struct file_look *l)
{
	return S_ISREG(l->st.st_mode) && *l->link == '/' && strncmp(l->link, "/secretmem", 10); /* that one has no file */
}

const struct file_kind file_path_only = {.name = "path", .is = is_path_only, .probe = named_probe, .dump = path_dump, .open = named_open};
const struct file_kind file_device = {.name = "device", .is = is_device, .probe = device_probe, .open = device_open};
const struct file_kind file_directory = {.name = "directory", .is = is_directory, .probe = named_probe, .dump = path_dump, .open = directory_open};
const struct file_kind file_regular = {.name = "file", .is = is_regular, .probe = named_probe, .outside = regular_outside, .dump = regular_dump, .open = regular_open};
