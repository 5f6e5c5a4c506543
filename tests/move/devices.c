/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Device and inode numbers of files, as programs remember them: of a file on each file system that it finds (its own directory, /, /usr/bin, /etc/ssl, /sprite, ...), by every
 * call that tells them, of open files, of symbolic links, of what was unlinked; from threads too. Errors and what is no file stay what they were.
 */
#include "move.h"
#include <sys/sysmacros.h>

enum { MOST = 16 };
static struct known {
	char path[512];
	int fd; /* -1: not open */
	struct stat st;
} known[MOST];
static unsigned n;
static int top; /* the directory of all this */

static void know(const char *path, bool opened)
{
	struct known *k = &known[n];

	if (n == MOST || lstat(path, &k->st) < 0)
		return;
	snprintf(k->path, sizeof k->path, "%s", path);
	k->fd = opened ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	n++;
}

static void agree(const struct known *k, dev_t dev, ino_t ino, mode_t mode, const char *by)
{
	CHECK(dev == k->st.st_dev, "%s by %s: device was %u:%u, is %u:%u", k->path, by, major(k->st.st_dev), minor(k->st.st_dev), major(dev), minor(dev));
	CHECK(ino == k->st.st_ino, "%s by %s: inode was %lu, is %lu", k->path, by, (long)k->st.st_ino, (long)ino);
	CHECK(mode == k->st.st_mode, "%s by %s: mode was %o, is %o", k->path, by, k->st.st_mode, mode);
}

static void look(const struct known *k)
{
	struct statx x;
	struct stat st;

	SYS(lstat(k->path, &st));
	agree(k, st.st_dev, st.st_ino, st.st_mode, "lstat");
	SYS(syscall(SYS_lstat, k->path, &st));
	agree(k, st.st_dev, st.st_ino, st.st_mode, "lstat(2)");
	if (!S_ISLNK(k->st.st_mode)) {
		SYS(syscall(SYS_stat, k->path, &st));
		agree(k, st.st_dev, st.st_ino, st.st_mode, "stat(2)");
	}
	SYS(statx(AT_FDCWD, k->path, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &x));
	agree(k, makedev(x.stx_dev_major, x.stx_dev_minor), x.stx_ino, x.stx_mode, "statx");
	if (k->fd < 0)
		return;
	SYS(syscall(SYS_fstat, k->fd, &st));
	agree(k, st.st_dev, st.st_ino, st.st_mode, "fstat(2)");
	SYS(fstatat(k->fd, "", &st, AT_EMPTY_PATH));
	agree(k, st.st_dev, st.st_ino, st.st_mode, "fstatat of an empty path");
	SYS(statx(k->fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_INO | STATX_TYPE | STATX_MODE, &x));
	agree(k, makedev(x.stx_dev_major, x.stx_dev_minor), x.stx_ino, x.stx_mode, "statx of a descriptor");
}

static void *thread(void *arg)
{
	(void)arg;
	while (move_more()) {
		for (unsigned i = 0; i < n; i++)
			look(&known[i]);
		move_nap(2000);
	}
	return NULL;
}

static void no_files(void)
{
	struct stat st;
	int p[2];

	CHECK(syscall(SYS_stat, "nowhere/at/all", &st) < 0 && errno == ENOENT, "no ENOENT");
	CHECK(syscall(SYS_fstat, 999, &st) < 0 && errno == EBADF, "no EBADF");
	CHECK(syscall(SYS_stat, known[0].path, (void *)8) < 0 && errno == EFAULT, "no EFAULT for what is told");
	CHECK(syscall(SYS_stat, (void *)8, &st) < 0 && errno == EFAULT, "no EFAULT for the path");
	CHECK(syscall(SYS_newfstatat, AT_FDCWD, known[0].path, &st, 0x10) < 0 && errno == EINVAL, "no EINVAL");
	CHECK(syscall(SYS_newfstatat, AT_FDCWD, "", &st, 0) < 0 && errno == ENOENT, "no ENOENT for an empty path");
	SYS(pipe(p));
	SYS(fstat(p[0], &st));
	CHECK(S_ISFIFO(st.st_mode), "a pipe is none");
	close(p[0]);
	close(p[1]);
	SYS(stat("/dev/null", &st));
	CHECK(S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3), "/dev/null is none");
}

int main(int argc, char **argv)
{
	static const char *const dirs[] = {".", "/", "/usr", "/usr/bin", "/tmp", "/var", "/etc/passwd", "/etc/ssl", "/home", "/sprite"};
	char path[512], deep[600];
	pthread_t t[2];

	move_begin(argc, argv);
	snprintf(path, sizeof path, "%s", move_path("dir"));
	SYS(mkdir(path, 0755));
	SYS(chdir(path));
	close(SYS(open("file", O_CREAT | O_WRONLY, 0600)));
	SYS(symlink("file", "link"));
	know("file", true);
	know("link", false);
	for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++)
		know(dirs[i], true);
	snprintf(deep, sizeof deep, "/tmp/move.%d.own", (int)getpid());
	close(SYS(open(deep, O_CREAT | O_WRONLY, 0600)));
	know(deep, true);
	top = SYS(open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	for (int i = 0; i < 2; i++)
		pthread_create(&t[i], NULL, thread, NULL);
	move_ready();
	while (move_more()) {
		struct stat st;

		no_files();
		SYS(fstatat(top, "link", &st, 0)); /* followed */
		agree(&known[0], st.st_dev, st.st_ino, st.st_mode, "fstatat of a link to it");
		snprintf(path, sizeof path, "../%s/./link", strrchr(move_path("dir"), '/') + 1);
		SYS(stat(path, &st));
		agree(&known[0], st.st_dev, st.st_ino, st.st_mode, "stat of a long way to it");
		SYS(fstatat(AT_FDCWD, "", &st, AT_EMPTY_PATH));
		agree(&known[2], st.st_dev, st.st_ino, st.st_mode, "fstatat of the working directory");
		move_nap(3000);
	}
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	unlink("file");
	unlink("link");
	unlink(deep);
	SYS(chdir("/"));
	rmdir(move_path("dir"));
	return move_pass();
}
