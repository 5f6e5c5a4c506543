/* SPDX-License-Identifier: Apache-2.0 */
/*
 * epoll: level, edge and one-shot targets with their data, nested epolls, a target that was dup'd and closed under its first number (epoll(7), Q6), and a
 * number used again by another file.
 */
#include "move.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>

static void add(int ep, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event ev = {.events = events, .data.u64 = data};
	SYS(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev));
}
static void bump(int fd)
{
	uint64_t one = 1;
	CHECK(write(fd, &one, 8) == 8, "eventfd");
}
static void drain(int fd)
{
	uint64_t v;
	CHECK(read(fd, &v, 8) == 8, "eventfd");
}
/* Exactly one event, with this data. */
static void one(int ep, uint64_t data, const char *what)
{
	struct epoll_event ev[8];
	int n = epoll_wait(ep, ev, 8, 60000);
	CHECK(n == 1, "%s: %d events", what, n);
	CHECK(ev[0].data.u64 == data, "%s: data %llx", what, (unsigned long long)ev[0].data.u64);
}
static void none(int ep, const char *what)
{
	struct epoll_event ev[8];
	int n = epoll_wait(ep, ev, 8, 0);
	CHECK(n == 0, "%s: an event for %llx too many", what, n > 0 ? (unsigned long long)ev[0].data.u64 : 0);
}

int main(int argc, char **argv)
{
	move_begin(argc, argv);
	int ep = SYS(epoll_create1(EPOLL_CLOEXEC)), inner = SYS(epoll_create1(0));
	int level = SYS(eventfd(0, 0)), shot = SYS(eventfd(0, 0)), deep = SYS(eventfd(0, 0)), old = SYS(eventfd(0, 0));
	add(ep, level, EPOLLIN, 0x1111222233334444ull);
	add(ep, shot, EPOLLIN | EPOLLONESHOT, 0xaaaa);
	add(inner, deep, EPOLLIN, 0xbbbb);
	add(ep, inner, EPOLLIN, 0xcccc);
	add(ep, old, EPOLLIN, 0xdddd);
	int moved = SYS(dup(old)); /* the target stays in ep under the number `old`, ... */
	close(old);
	int reused = SYS(eventfd(0, 0)); /* ... which now is another file */
	CHECK(reused == old, "number not used again");
	add(ep, reused, EPOLLIN, 0xeeee);
	move_ready();
	while (move_more()) {
		none(ep, "at rest");
		move_nap(20000);
		bump(level);
		one(ep, 0x1111222233334444ull, "level-triggered");
		one(ep, 0x1111222233334444ull, "level-triggered again");
		drain(level);
		bump(deep);
		one(ep, 0xcccc, "nested");
		one(inner, 0xbbbb, "inner");
		drain(deep);
		bump(moved);
		one(ep, 0xdddd, "dup'd and closed target");
		drain(moved);
		bump(reused);
		one(ep, 0xeeee, "number used again");
		drain(reused);
		bump(shot);
		one(ep, 0xaaaa, "one-shot");
		none(ep, "one-shot that has fired");
		move_nap(20000);
		none(ep, "one-shot that has fired, later");
		drain(shot);
		struct epoll_event ev = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = 0xaaaa};
		SYS(epoll_ctl(ep, EPOLL_CTL_MOD, shot, &ev));
		CHECK(epoll_ctl(ep, EPOLL_CTL_ADD, level, &ev) < 0 && errno == EEXIST, "a target is not there any more");
		move_nap(20000);
	}
	return move_pass();
}
