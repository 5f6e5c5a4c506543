/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Locks of three kinds on one file, and one on a file without a name: what is held stays held, what is free can be had, and a lock that is taken and let go while
 * moving about is where it should be. A child, which has its own open file description, tries. On a file system whose locks do not move: skipped.
 */
#include "move.h"
#include <sys/file.h>
#include <sys/vfs.h>

enum { FUSE_MAGIC = 0x65735546 };

static struct flock range(short type, off_t start, off_t len)
{
	return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len};
}

/* 0: it can be had (and is let go again), else errno. */
static int try(int fd, int cmd, off_t start, off_t len)
{
	struct flock l = range(F_WRLCK, start, len), u = range(F_UNLCK, start, len);

	if (fcntl(fd, cmd, &l) < 0)
		return errno;
	SYS(fcntl(fd, cmd, &u));
	return 0;
}

/* The child: a byte comes, what it finds goes back. */
static void __attribute__((noreturn)) other(int in, int out, const char *path, const char *gone)
{
	int fd = SYS(open(path, O_RDWR)), un = SYS(open(gone, O_RDWR));
	char c;

	CHECK(write(out, "", 1) == 1, "write");
	while (read(in, &c, 1) == 1) {
		int r[6] = {flock(fd, LOCK_EX | LOCK_NB) ? errno : 0, try(fd, F_SETLK, 5, 1), try(fd, F_OFD_SETLK, 25, 1), try(fd, F_SETLK, 45, 1), flock(un, LOCK_EX | LOCK_NB) ? errno : 0,
			try(fd, F_OFD_SETLK, 100, 10)};

		CHECK(write(out, r, sizeof r) == sizeof r, "write");
	}
	_exit(0);
}

int main(int argc, char **argv)
{
	int down[2], up[2];
	struct statfs fs;
	char c;

	move_begin(argc, argv);
	SYS(statfs(move_dir, &fs));
	if (fs.f_type != FUSE_MAGIC)
		skip("the locks of this file system stay where they are");
	char *path = move_path("locked"), *gone = move_path("gone");
	int a = SYS(open(path, O_RDWR | O_CREAT, 0600)), b = SYS(open(path, O_RDWR)), un = SYS(open(gone, O_RDWR | O_CREAT, 0600));
	struct flock first = range(F_WRLCK, 0, 10), second = range(F_WRLCK, 20, 10), turn;

	SYS(pipe(down));
	SYS(pipe(up));
	pid_t kid = SYS(fork());
	if (!kid) {
		close(down[1]);
		close(a), close(b), close(un);
		other(down[0], up[1], path, gone);
	}
	CHECK(read(up[0], &c, 1) == 1, "the child");
	SYS(unlink(gone));
	SYS(flock(a, LOCK_EX));
	SYS(flock(un, LOCK_EX));
	SYS(fcntl(a, F_SETLK, &first));
	SYS(fcntl(b, F_OFD_SETLK, &second));
	move_ready();
	for (unsigned n = 0; move_more(); n++) {
		int r[6];

		turn = range(n & 1 ? F_WRLCK : F_UNLCK, 40, 10);
		SYS(fcntl(b, F_SETLK, &turn));
		CHECK(write(down[1], "", 1) == 1 && read(up[0], r, sizeof r) == sizeof r, "the child has gone");
		CHECK(r[0] == EAGAIN, "the flock is not held: %d", r[0]);
		CHECK(r[1] == EAGAIN, "the fcntl lock is not held: %d", r[1]);
		CHECK(r[2] == EAGAIN, "the OFD lock is not held: %d", r[2]);
		CHECK(r[3] == (n & 1 ? EAGAIN : 0), "turn %u: %d", n, r[3]);
		CHECK(r[4] == EAGAIN, "the flock on the file without a name is not held: %d", r[4]);
		CHECK(r[5] == 0, "what is free cannot be had: %d", r[5]);
		move_nap(2000);
	}
	close(down[1]);
	SYS(waitpid(kid, NULL, 0));
	unlink(path);
	return move_pass();
}
