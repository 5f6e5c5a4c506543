/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System calls that wait for a descriptor, a child or another thread, one thread each: moved while they wait, then given what they wait for. Every one
 * gets it exactly once, none returns early. Pipes, eventfd and epoll are all inside of the process.
 */
#include "blocked.h"
#include <linux/futex.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/select.h>

static void make_pipe(struct wait *w)
{
	int p[2];
	SYS(pipe(p));
	w->a = p[0];
	w->b = p[1];
}
static void give_pipe(struct wait *w, uint64_t v)
{
	CHECK(write(w->b, &v, sizeof v) == sizeof v, "write to pipe");
}
static long take_pipe(struct wait *w)
{
	uint64_t v;
	ssize_t n = read(w->a, &v, sizeof v);
	return n < 0 ? -errno : n == sizeof v ? (long)v : -EPROTO;
}
static long w_read(struct wait *w)
{
	return take_pipe(w);
}
static long w_poll(struct wait *w)
{
	struct pollfd p = {w->a, POLLIN, 0};
	int r = poll(&p, 1, -1);
	return r < 0 ? -errno : r != 1 || p.revents != POLLIN ? -EPROTO : take_pipe(w);
}
static long w_poll_time(struct wait *w)
{
	struct pollfd p = {w->a, POLLIN, 0};
	int r = poll(&p, 1, 60000);
	return r < 0 ? -errno : r != 1 ? -ETIME : take_pipe(w);
}
static long w_select(struct wait *w)
{
	fd_set s;
	FD_ZERO(&s);
	FD_SET(w->a, &s);
	int r = select(w->a + 1, &s, NULL, NULL, NULL);
	return r < 0 ? -errno : r != 1 || !FD_ISSET(w->a, &s) ? -EPROTO : take_pipe(w);
}
static void make_epoll(struct wait *w)
{
	make_pipe(w);
	w->c = SYS(epoll_create1(0));
	struct epoll_event ev = {.events = EPOLLIN, .data.u64 = 0xfeedfacecafeull};
	SYS(epoll_ctl(w->c, EPOLL_CTL_ADD, w->a, &ev));
}
static long w_epoll(struct wait *w)
{
	struct epoll_event ev = {0};
	int r = epoll_wait(w->c, &ev, 1, -1);
	return r < 0 ? -errno : r != 1 || ev.data.u64 != 0xfeedfacecafeull ? -EPROTO : take_pipe(w);
}
static long w_epoll_time(struct wait *w)
{
	struct epoll_event ev = {0};
	int r = epoll_wait(w->c, &ev, 1, 60000);
	return r < 0 ? -errno : r != 1 ? -ETIME : take_pipe(w);
}
static void make_event(struct wait *w)
{
	w->a = SYS(eventfd(0, 0));
}
static void give_event(struct wait *w, uint64_t v)
{
	CHECK(write(w->a, &v, 8) == 8, "write to eventfd");
}
static long w_event(struct wait *w)
{
	uint64_t v;
	ssize_t n = read(w->a, &v, 8);
	return n < 0 ? -errno : n == 8 ? (long)v : -EPROTO;
}
static void make_none(struct wait *w)
{
	w->word = 0;
}
static void give_futex(struct wait *w, uint64_t v)
{
	w->word = v;
	syscall(SYS_futex, &w->word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}
static long w_futex(struct wait *w)
{
	while (!w->word) {
		long r = syscall(SYS_futex, &w->word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
		if (r < 0 && errno != EAGAIN)
			return -errno;
	}
	long v = w->word;
	w->word = 0;
	return v;
}
/* A writer that waits for room: what is read afterwards must be whole. */
static void make_full(struct wait *w)
{
	make_pipe(w);
	static char b[65536];
	SYS(fcntl(w->b, F_SETPIPE_SZ, 65536));
	CHECK(write(w->b, b, sizeof b) == sizeof b, "filling the pipe");
}
static void give_room(struct wait *w, uint64_t v)
{
	static char b[65536];
	w->word = v;
	for (size_t n = 0; n < sizeof b;) {
		ssize_t k = read(w->a, b + n, sizeof b - n);
		CHECK(k > 0, "draining the pipe");
		n += k;
	}
}
static long w_write(struct wait *w)
{
	static char b[65536];
	ssize_t n = write(w->b, b, sizeof b);
	if (n < 0)
		return -errno;
	if (n != sizeof b)
		return -EPROTO;
	while (!w->word) /* room came before the value was seen */
		move_nap(100);
	long v = w->word;
	w->word = 0;
	return v;
}
static void make_child(struct wait *w)
{
	make_pipe(w);
}
static void give_child(struct wait *w, uint64_t v)
{
	give_pipe(w, v);
}
static long w_waitpid(struct wait *w)
{
	pid_t kid = fork();
	if (!kid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		signal(SIGTERM, SIG_IGN);
		uint64_t v;
		if (read(w->a, &v, 8) != 8)
			_exit(0);
		_exit(v & 127);
	}
	int st;
	pid_t r = waitpid(kid, &st, 0);
	return r < 0 ? -errno : r != kid || !WIFEXITED(st) ? -EPROTO : WEXITSTATUS(st);
}

static struct wait table[] = {
	{"read of a pipe", w_read, give_pipe, make_pipe, .a = 0},
	{"poll", w_poll, give_pipe, make_pipe, .a = 0},
	{"poll with time-out", w_poll_time, give_pipe, make_pipe, .a = 0},
	{"select", w_select, give_pipe, make_pipe, .a = 0},
	{"epoll_wait", w_epoll, give_pipe, make_epoll, .a = 0},
	{"epoll_wait with time-out", w_epoll_time, give_pipe, make_epoll, .a = 0},
	{"read of an eventfd", w_event, give_event, make_event, .a = 0},
	{"futex wait", w_futex, give_futex, make_none, .a = 0},
	{"write to a full pipe", w_write, give_room, make_full, .a = 0},
	{"waitpid", w_waitpid, give_child, make_child, .a = 0},
};

int main(int argc, char **argv)
{
	return blocked_main(argc, argv, table, sizeof table / sizeof table[0]);
}
