/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System calls that wait for a process outside of the family, which stays at home: file locks that it holds, and the other end of a named pipe. As blocked_io.c; the two
 * talk by files: "NAME.go" asks the helper for the next turn, "NAME.held" says that the next wait will have to wait.
 */
#include "blocked.h"
#include <sys/file.h>

enum { FLOCK, POSIX, OFD, FIFO_READ, FIFO_WRITE, KINDS };
static const char *const names[KINDS] = {"flock", "posix", "ofd", "fifo_read", "fifo_write"};
static pid_t family; /* in the names of files */

static char *path(int kind, const char *what, char *b)
{
	snprintf(b, 600, "%s/home.%d.%s.%s", move_dir, family, names[kind], what);
	return b;
}
static void say(int kind, const char *what, uint64_t n)
{
	char b[600], text[24];
	int fd = SYS(open(path(kind, what, b), O_WRONLY | O_CREAT, 0600));
	snprintf(text, sizeof text, "%020llu", (unsigned long long)n);
	CHECK(pwrite(fd, text, 20, 0) == 20, "%s: %s", b, strerror(errno));
	SYS(close(fd));
}
static uint64_t heard(int kind, const char *what)
{
	char b[600], text[24] = "";
	int fd = open(path(kind, what, b), O_RDONLY);
	if (fd < 0)
		return 0;
	ssize_t n = read(fd, text, 20);
	close(fd);
	return n == 20 ? strtoull(text, NULL, 10) : 0;
}
static int lock(int kind, int fd, int type)
{
	struct flock l = {.l_type = type == LOCK_EX ? F_WRLCK : F_UNLCK, .l_whence = SEEK_SET, .l_start = 7, .l_len = 3};
	return kind == FLOCK ? flock(fd, type) : fcntl(fd, kind == OFD ? F_OFD_SETLKW : F_SETLKW, &l);
}

/* ---- the helper: one process for each kind; ends with the directory, when told to, or after five minutes */
static void serve_lock(int kind, int fd, uint64_t n)
{
	SYS(lock(kind, fd, LOCK_UN));
	while (heard(kind, "got") < n)
		move_nap(5000);
	SYS(lock(kind, fd, LOCK_EX));
}
static void serve_fifo(int kind, uint64_t n)
{
	char b[600];
	uint64_t v = n;
	int fd = SYS(open(path(kind, "fifo", b), kind == FIFO_READ ? O_WRONLY : O_RDONLY));
	CHECK((kind == FIFO_READ ? write(fd, &v, sizeof v) : read(fd, &v, sizeof v)) == sizeof v, "%s: %s", b, strerror(errno));
	SYS(close(fd));
}
static void helper(int kind)
{
	char b[600];
	int fd = kind <= OFD ? SYS(open(path(kind, "lock", b), O_RDWR | O_CREAT, 0600)) : -1;
	if (kind <= OFD)
		SYS(lock(kind, fd, LOCK_EX));
	else
		SYS(mkfifo(path(kind, "fifo", b), 0600));
	alarm(300);
	for (uint64_t n = 1;; n++) {
		say(kind, "held", n);
		while (heard(kind, "go") < n) {
			if (heard(kind, "end") || access(move_dir, F_OK) < 0)
				_exit(0);
			move_nap(5000);
		}
		if (kind <= OFD)
			serve_lock(kind, fd, n);
		else
			serve_fifo(kind, n);
	}
}
static void start_helper(int kind)
{
	pid_t pid = SYS(fork());
	if (!pid) {
		setsid();
		if (SYS(fork()))
			_exit(0);
		for (int i = 0; i < 3; i++) /* nothing is shared with the family */
			close(i);
		for (int i = 0; i < 3; i++)
			open("/dev/null", O_RDWR);
		helper(kind);
	}
	SYS(waitpid(pid, NULL, 0));
}

/* ---- those who wait; c: the kind */
static void wait_for_turn(struct wait *w)
{
	while (!stop && heard(w->c, "held") < w->got + 1)
		move_nap(5000);
}
static void give_turn(struct wait *w, uint64_t v)
{
	w->word = v;
	say(w->c, "go", w->given);
}
static void make_turn(struct wait *w)
{
	while (heard(w->c, "held") < 1)
		move_nap(5000);
}
static long w_lock(struct wait *w)
{
	char b[600];
	wait_for_turn(w);
	int fd = open(path(w->c, "lock", b), O_RDWR), r = fd < 0 ? -errno : lock(w->c, fd, LOCK_EX) < 0 ? -errno : 0;
	if (r == 0 && !stop && w->given != w->got + 1)
		return -EPROTO; /* somebody else holds it */
	if (r == 0)
		r = lock(w->c, fd, LOCK_UN) < 0 ? -errno : (long)w->word;
	if (fd >= 0)
		close(fd);
	if (r > 0)
		say(w->c, "got", w->got + 1);
	return r;
}
static long w_fifo(struct wait *w)
{
	char b[600];
	uint64_t v = w->got + 1;
	wait_for_turn(w);
	int fd = open(path(w->c, "fifo", b), w->c == FIFO_READ ? O_RDONLY : O_WRONLY);
	if (fd < 0)
		return -errno;
	ssize_t n = w->c == FIFO_READ ? read(fd, &v, sizeof v) : write(fd, &v, sizeof v);
	int err = errno;
	close(fd);
	if (n >= 0 && (n != sizeof v || v != w->got + 1))
		printf("FAIL: turn %llu of %s: %zd bytes, %llu\n", (unsigned long long)w->got + 1, b, n, (unsigned long long)v);
	return n < 0 ? -err : n != sizeof v || v != w->got + 1 ? -EPROTO : (long)w->word;
}

static struct wait table[] = {
	{"flock", w_lock, give_turn, make_turn, .c = FLOCK},
	{"F_SETLKW", w_lock, give_turn, make_turn, .c = POSIX},
	{"F_OFD_SETLKW", w_lock, give_turn, make_turn, .c = OFD},
	{"open of a named pipe for reading", w_fifo, give_turn, make_turn, .c = FIFO_READ},
	{"open of a named pipe for writing", w_fifo, give_turn, make_turn, .c = FIFO_WRITE},
};

int main(int argc, char **argv)
{
	move_begin(argc, argv);
	family = getpid();
	for (int i = 0; i < KINDS; i++)
		start_helper(i);
	int r = blocked_main(argc, argv, table, sizeof table / sizeof table[0]);
	for (int i = 0; i < KINDS; i++)
		say(i, "end", 1);
	return r;
}
