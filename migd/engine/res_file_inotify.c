/* SPDX-License-Identifier: Apache-2.0 */
/*
 * inotify. fdinfo lists the watches by file handle: the name of each is found through the mount that it lies on, else by looking around, and over there the same file is watched under
 * the same number (INOTIFY_IOC_SETNEXTWD). Events that wait to be read cannot be put into another descriptor: a move waits until the program has read
 * them (res_files_settled.c), and fails in words if it does not. What happens to a watched file between dump and resume is not told. On the way home a watched file of the
 * home that has no name any more is found by what it is, if the program has it open, or it was removed there, and the program is told that.
 *
 * fanotify is refused: its marks belong to this host's mounts.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "migd/engine/core.h"
#include "migd/engine/res_files.h"

#ifndef INOTIFY_IOC_SETNEXTWD
#define INOTIFY_IOC_SETNEXTWD _IOW('I', 0, int32_t)
#endif

static bool is_inotify(const struct file_look *l)
{
	return !strcmp(l->link, "anon_inode:inotify") || !strcmp(l->link, "anon_inode:[fanotify]");
}

struct watch {
	int32_t wd;
	uint32_t mask;
	uint64_t ino, dev; /* dev: as fdinfo has it, major << 20 | minor */
	struct {
		struct file_handle h;
		unsigned char room[MAX_HANDLE_SZ];
	} handle;
};

/* One line "inotify wd:1 ino:.. sdev:.. mask:.. ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:..", all hexadecimal. */
static bool watch_parse(const char *line, struct watch *w)
{
	unsigned long long ino, dev;
	unsigned bytes, type;
	int at = 0;

	if (sscanf(line, "inotify wd:%x ino:%llx sdev:%llx mask:%x ignored_mask:%*x fhandle-bytes:%x fhandle-type:%x f_handle:%n", (unsigned *)&w->wd, &ino, &dev,
		   &w->mask, &bytes, &type, &at) != 6 ||
	    !at || bytes > sizeof w->handle.room)
		return false;
	w->ino = ino;
	w->dev = dev;
	w->handle.h.handle_bytes = bytes;
	w->handle.h.handle_type = type;
	for (unsigned i = 0; i < bytes; i++) {
		unsigned b;

		if (sscanf(line + at + 2 * i, "%2x", &b) != 1)
			return false;
		w->handle.room[i] = b;
	}
	return true;
}

/* Name of what is watched, in the root of the process behind dir: by its handle in a mount of that device. 0 or -errno. */
static int watch_by_handle(int dir, const struct watch *w, char *path, size_t size)
{
	_cleanup_free_ char *mounts = eng_proc_read(dir, "mountinfo", NULL);
	_cleanup_close_ int root = openat(dir, "root", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int r = -ENOENT;

	if (!mounts || root < 0)
		return -ESRCH;
	for (char *l = mounts, *eol; *l && r < 0 && (eol = strchr(l, '\n')); l = eol + 1) {
		unsigned maj, min;
		char point[PATH_MAX + 1], proc[40];
		struct stat st;

		if (sscanf(l, "%*d %*d %u:%u %*s %4096s", &maj, &min, point) != 3 || ((uint64_t)maj << 20 | min) != w->dev)
			continue;
		_cleanup_close_ int mount = openat(root, point[1] ? point + 1 : ".", O_RDONLY | O_CLOEXEC | O_NONBLOCK);
		_cleanup_close_ int fd = mount < 0 ? -1 : open_by_handle_at(mount, (void *)&w->handle.h, O_PATH | O_CLOEXEC);

		if (fd < 0 || fstat(fd, &st) < 0)
			continue;
		snprintf(proc, sizeof proc, "/proc/self/fd/%d", fd);
		ssize_t n = readlink(proc, path, size - 1);

		if (n <= 0 || *path != '/')
			continue;
		path[n] = '\0';
		res_undelete(dir, path, &st);
		_cleanup_free_ char *relative = NULL;
		struct stat is;

		/* A mount elsewhere in the tree, or a name without its directories: only what leads there again counts. */
		if (asprintf(&relative, ".%s", path) > 0 && fstatat(root, relative, &is, AT_SYMLINK_NOFOLLOW) == 0 && is.st_ino == st.st_ino && is.st_dev == st.st_dev)
			r = 0;
	}
	return r;
}

struct search {
	int dir, root; /* of the process */
	const struct watch *w;
	char *path;
	size_t size, budget; /* names that may still be looked at */
};

static bool is_it(const struct search *s, const char *path)
{
	struct stat st;
	_cleanup_free_ char *relative = NULL;

	return asprintf(&relative, ".%s", path) > 0 && fstatat(s->root, relative, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_ino == s->w->ino &&
	       ((uint64_t)major(st.st_dev) << 20 | minor(st.st_dev)) == s->w->dev;
}

/* The path itself, or what lies in it. */
static bool search_in(struct search *s, const char *path)
{
	_cleanup_free_ char *relative = NULL;
	int fd = asprintf(&relative, ".%s", path) > 0 ? openat(s->root, relative, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	bool found = is_it(s, path);

	if (found)
		snprintf(s->path, s->size, "%s", path);
	for (struct dirent *e; d && !found && s->budget && (e = readdir(d)); s->budget--) {
		char name[PATH_MAX + NAME_MAX + 2];

		if (e->d_ino != s->w->ino || !strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		snprintf(name, sizeof name, "%s/%s", path[1] ? path : "", e->d_name);
		found = is_it(s, name) && snprintf(s->path, s->size, "%s", name) < (int)s->size;
	}
	if (d)
		closedir(d);
	return found;
}

/* And what lies beside it. */
static bool search_around(struct search *s, const char *path)
{
	char up[PATH_MAX];
	char *slash;

	if (*path != '/' || !s->budget)
		return false;
	snprintf(up, sizeof up, "%s", path);
	slash = strrchr(up, '/');
	slash[slash == up] = '\0';
	return search_in(s, path) || search_in(s, up);
}

/*
 * A network file system may have forgotten the way to a directory that is only watched. Then it is looked for where the process has to do: at its
 * working directory, at what it has open, and at what else it watches.
 */
static int watch_search(int dir, const char *info, const struct watch *w, char *path, size_t size)
{
	_cleanup_close_ int root = openat(dir, "root", O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct search s = {.dir = dir, .root = root, .w = w, .path = path, .size = size, .budget = 20000};
	char at[PATH_MAX];
	bool found = root >= 0 && res_readlink(dir, "cwd", at, sizeof at) > 0 && search_around(&s, at);
	int fds = openat(dir, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fds < 0 ? NULL : fdopendir(fds);

	for (struct dirent *e; root >= 0 && d && !found && (e = readdir(d));)
		found = res_readlink(fds, e->d_name, at, sizeof at) > 0 && search_around(&s, at);
	if (d)
		closedir(d);
	for (const char *l = info; root >= 0 && !found && s.budget && l && (l = strstr(l, "inotify wd:")); l++) {
		struct watch other;

		found = watch_parse(l, &other) && other.wd != w->wd && watch_by_handle(dir, &other, at, sizeof at) == 0 && search_around(&s, at);
	}
	return found ? 0 : -ENOENT;
}

static int watch_path(int dir, const char *info, const struct watch *w, char *path, size_t size)
{
	int r = watch_by_handle(dir, w, path, size);

	return r == -ENOENT ? watch_search(dir, info, w, path, size) : r;
}

/* Calls f for each watch that fdinfo has. 0 or the first non-zero of f. */
static int watches_each(const struct file_look *l, int (*f)(void *arg, const struct watch *w), void *arg)
{
	int r = 0;

	for (const char *s = l->info; !r && s && (s = strstr(s, "inotify wd:")); s++) {
		struct watch w;

		r = watch_parse(s, &w) ? f(arg, &w) : -ENOTSUP;
	}
	return r;
}

/* Is it a file of the home? Away they are all in the mount that the process has for its root. */
static bool is_of_home(int dir, const struct watch *w)
{
	struct stat st;

	return fstatat(dir, "root/.", &st, 0) == 0 && ((uint64_t)major(st.st_dev) << 20 | minor(st.st_dev)) == w->dev;
}

struct probing {
	struct eng_probe *p;
	const struct file_look *l;
};

static int probe_watch(void *arg, const struct watch *w)
{
	const struct probing *x = arg;
	char path[PATH_MAX];

	if (x->p->goes_home && is_of_home(x->p->dir, w))
		return 0;
	if (watch_path(x->p->dir, x->l->info, w, path, sizeof path) < 0)
		file_reason(x->p, x->l, "inotify watches a file (inode %llu) whose name cannot be found: watch it by another name", (unsigned long long)w->ino);
	return 0;
}

static void inotify_probe(struct eng_probe *p, const struct file_look *l)
{
	if (strcmp(l->link, "anon_inode:inotify"))
		file_reason(p, l, "fanotify watches files from this host: close it first");
	else if (watches_each(l, probe_watch, &(struct probing){p, l}) < 0)
		file_reason(p, l, "inotify: this kernel does not tell its watches: close it first");
}

static int unread(const struct file_look *l, struct eng_proc *p)
{
	_cleanup_close_ int fd = eng_fd_get(p, l->num);
	int n = 0;

	return fd >= 0 && ioctl(fd, FIONREAD, &n) == 0 ? n : 0;
}

struct dumping {
	bool goes_home;
	struct file_desc *d;
	Sprite__Img__Inotify *m;
	size_t room;
};

static int dump_watch(void *arg, const struct watch *w)
{
	struct dumping *x = arg;
	char path[PATH_MAX];
	int r = watch_path(x->d->look.dir, x->d->look.info, w, path, sizeof path);

	if (r == -ENOENT && x->goes_home && is_of_home(x->d->look.dir, w)) { /* there it is known by its inode, or gone */
		*path = '\0';
		r = 0;
	}
	if (r < 0)
		return r;
	if (x->m->n_watch == x->room) {
		Sprite__Img__Watch **more = realloc(x->m->watch, (x->room += 32) * sizeof *more);

		if (!more)
			return -ENOMEM;
		x->m->watch = more;
	}
	Sprite__Img__Watch *to = malloc(sizeof *to);

	if (!to)
		return -ENOMEM;
	sprite__img__watch__init(to);
	x->m->watch[x->m->n_watch++] = to;
	to->wd = w->wd;
	to->mask = w->mask;
	to->ino = w->ino;
	to->path = strdup(path);
	return to->path ? 0 : -ENOMEM;
}

static int inotify_dump(struct eng_family *f, struct file_desc *d, Sprite__Img__File *m, struct error *e)
{
	struct dumping x = {.goes_home = f->hooks.goes_home, .d = d};

	if (unread(&d->look, d->holder))
		return error_set(e, EBUSY, "inotify has events that the program has not yet read: try again");
	m->inotify = x.m = malloc(sizeof *x.m);
	if (!x.m)
		return -ENOMEM;
	sprite__img__inotify__init(x.m);
	int r = watches_each(&d->look, dump_watch, &x);

	return r < 0 ? error_set(e, -r, "inotify: a watched file cannot be found: %s", strerror(-r)) : 0;
}

static int inotify_open(struct eng_family *f, struct eng_proc *p, struct file_desc *d, struct error *e)
{
	(void)f;
	if (!d->image->inotify)
		return res_bad_record(e, "inotify");
	/* This thread alone, for a moment: instance and watches are to be the user's, within his limits (fs.inotify). */
	syscall(SYS_setresuid, -1, p->core->uid, -1);
	int fd = inotify_init1(IN_CLOEXEC), err = errno;

	syscall(SYS_setresuid, -1, 0, -1);
	return fd < 0 ? error_set(e, err, "inotify: %s", strerror(err)) : fd;
}

static int watch_add(int fd, int at, const Sprite__Img__Watch *w, struct error *e)
{
	char name[40];

	snprintf(name, sizeof name, "/proc/self/fd/%d", at);
	if (ioctl(fd, INOTIFY_IOC_SETNEXTWD, (long)w->wd) < 0)
		return error_set(e, errno, "inotify: this kernel cannot give a watch its number: %s", strerror(errno));
	int wd = inotify_add_watch(fd, name, w->mask & ~(uint32_t)(IN_IGNORED | IN_ISDIR | IN_Q_OVERFLOW | IN_UNMOUNT));

	if (wd < 0)
		return error_set(e, errno, "inotify: %s cannot be watched there: %s", w->path, strerror(errno));
	return wd == w->wd ? 0 : error_set(e, EEXIST, "inotify: watch %d of %s became %d", w->wd, w->path, wd);
}

/* Its file has been removed at home meanwhile, and nobody has it open. The program is told what it would have been told there: another one is removed under that watch. */
static int watch_removed(int fd, const Sprite__Img__Watch *w, struct error *e)
{
	char name[] = "/tmp/.sprite-removed.XXXXXX";
	bool dir = w->mask & IN_ONLYDIR;
	_cleanup_close_ int at = !dir ? mkstemp(name) : mkdtemp(name) ? open(name, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
	int r = at < 0 ? error_set(e, errno, "inotify: %s: %s", name, strerror(errno)) : watch_add(fd, at, w, e);

	unlinkat(AT_FDCWD, name, dir ? AT_REMOVEDIR : 0);
	return r;
}

static int watch_again(struct eng_proc *p, int fd, const Sprite__Img__Watch *w, struct error *e)
{
	bool home = !p->core->caps, nameless = !*w->path;
	struct stat st;
	_cleanup_close_ int at = nameless ? -ENOENT : eng_open(p, w->path, O_PATH | O_NOFOLLOW, 0);

	if (at >= 0 && fstat(at, &st) == 0 && res_same_ino(st.st_ino, w->ino))
		return watch_add(fd, at, w, e);
	_cleanup_close_ int same = res_by_inode(p, nameless ? "/" : w->path, w->ino, 0, O_PATH);

	if (same >= 0)
		return watch_add(fd, same, w, e);
	if (home && (nameless || strncmp(w->path, "/sprite/", 8)))
		return watch_removed(fd, w, e);
	if (at < 0)
		return error_set(e, -at, "inotify: %s cannot be watched there: %s", w->path, strerror(-at));
	return error_set(e, ESTALE, "inotify: %s is another file there", w->path);
}

/* All descriptions of the family are open: nothing of our doing is told. */
static int inotify_finish(struct eng_proc *p, struct file_desc *d, int num, struct error *e)
{
	int r = 0;

	(void)num;
	for (size_t i = 0; !r && i < d->image->inotify->n_watch; i++)
		r = watch_again(p, d->fd, d->image->inotify->watch[i], e);
	return r;
}

bool inotify_unread(struct eng_proc *p, int num)
{
	return unread(&(struct file_look){.num = num}, p);
}

const struct file_kind file_inotify = {
	.name = "inotify", .is = is_inotify, .probe = inotify_probe, .dump = inotify_dump, .open = inotify_open, .finish = inotify_finish};
