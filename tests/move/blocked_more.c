/* SPDX-License-Identifier: Apache-2.0 */
/*
 * More system calls in which a thread waits while it is moved, as blocked_io.c: for room in an eventfd and for many packets at once, for a word that processes share, in
 * a wait that goes on in another's queue (requeue), for a child by its pidfd.
 */
#include "blocked.h"
#include <linux/futex.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#ifndef P_PIDFD
#define P_PIDFD 3
#endif

static long word_of(struct wait *w)
{
	long v;
	while (!(v = w->word)) /* what it waited for came before the value was seen */
		move_nap(100);
	w->word = 0;
	return v;
}
static void make_none(struct wait *w)
{
	(void)w;
}

/* ---- an eventfd that is full */
static void make_full_event(struct wait *w)
{
	uint64_t all = UINT64_MAX - 1;
	w->a = SYS(eventfd(0, EFD_CLOEXEC));
	CHECK(write(w->a, &all, sizeof all) == sizeof all, "eventfd");
}
static long w_event(struct wait *w)
{
	uint64_t all = UINT64_MAX - 1;
	ssize_t n = write(w->a, &all, sizeof all);
	return n < 0 ? -errno : word_of(w);
}
static void give_event(struct wait *w, uint64_t v)
{
	uint64_t have;
	w->word = v;
	CHECK(read(w->a, &have, sizeof have) == sizeof have && have == UINT64_MAX - 1, "%s: %llu was in it", w->name, (unsigned long long)have);
}

/* ---- a socket that takes no packet more, until all are taken: each is numbered, none may be lost or doubled */
static uint64_t sent, taken;
static void make_packets(struct wait *w)
{
	int s[2];
	SYS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s));
	w->a = s[0], w->b = s[1];
}
static int send_next(struct wait *w, int flags)
{
	uint64_t n = sent + 1;
	struct iovec io = {&n, sizeof n};
	struct mmsghdr m = {.msg_hdr = {.msg_iov = &io, .msg_iovlen = 1}};
	int r = sendmmsg(w->a, &m, 1, flags);
	sent += r == 1;
	return r;
}
static long w_sendmmsg(struct wait *w)
{
	while (send_next(w, MSG_DONTWAIT) == 1)
		;
	if (errno != EAGAIN || send_next(w, 0) != 1)
		return -errno;
	return word_of(w);
}
static void give_packet(struct wait *w, uint64_t v)
{
	uint64_t n;
	w->word = v;
	while (recv(w->b, &n, sizeof n, taken ? MSG_DONTWAIT : 0) == sizeof n)
		CHECK(n == ++taken, "%s: packet %llu comes, not %llu", w->name, (unsigned long long)n, (unsigned long long)taken);
}

/* ---- a word in memory that another process has too, which wakes */
struct common {
	volatile uint32_t word;
};
static struct common *common;
static void make_common(struct wait *w)
{
	int s[2];
	common = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(common != MAP_FAILED, "mmap: %s", strerror(errno));
	SYS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s));
	w->b = s[1];
	if (SYS(fork()) == 0) {
		uint32_t v;
		signal(SIGTERM, SIG_IGN);
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* the ends of the pipes that would tell it are in the other children too */
		close(s[1]);
		while (read(s[0], &v, sizeof v) == sizeof v) {
			common->word = v;
			syscall(SYS_futex, &common->word, FUTEX_WAKE, 1, NULL, NULL, 0);
		}
		_exit(0);
	}
	close(s[0]);
}
static long w_common(struct wait *w)
{
	(void)w;
	while (!common->word)
		if (syscall(SYS_futex, &common->word, FUTEX_WAIT, 0, NULL, NULL, 0) < 0 && errno != EAGAIN)
			return -errno;
	long v = common->word;
	common->word = 0;
	return v;
}
static void give_common(struct wait *w, uint64_t v)
{
	uint32_t word = v;
	CHECK(write(w->b, &word, sizeof word) == sizeof word, "write");
}

/* ---- a wait that ends as the owner of another futex, which has priority inheritance */
static uint32_t owner;
static long w_requeue(struct wait *w)
{
	long r = syscall(SYS_futex, &w->word, FUTEX_WAIT_REQUEUE_PI | FUTEX_PRIVATE_FLAG, 0, NULL, &owner, 0);
	if (r < 0 && errno != EAGAIN) /* EAGAIN: the word has its value already */
		return -errno;
	if (r == 0)
		CHECK((owner & FUTEX_TID_MASK) == (uint32_t)syscall(SYS_gettid) && syscall(SYS_futex, &owner, FUTEX_UNLOCK_PI | FUTEX_PRIVATE_FLAG) == 0, "it owns the lock");
	return word_of(w);
}
static void give_requeue(struct wait *w, uint64_t v)
{
	w->word = v;
	CHECK(syscall(SYS_futex, &w->word, FUTEX_CMP_REQUEUE_PI | FUTEX_PRIVATE_FLAG, 1, 0, &owner, v) >= 0, "requeue: %s", strerror(errno));
}

/* ---- a child by its pidfd */
static void make_pipe(struct wait *w)
{
	int p[2];
	SYS(pipe2(p, O_CLOEXEC));
	w->a = p[0], w->b = p[1];
}
static void give_pipe(struct wait *w, uint64_t v)
{
	CHECK(write(w->b, &v, sizeof v) == sizeof v, "write");
}
static pid_t child(struct wait *w)
{
	pid_t kid = fork();
	if (!kid) {
		uint64_t v = 0;
		signal(SIGTERM, SIG_IGN);
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* the ends of the pipes that would tell it are in the other children too */
		close(w->b);
		_exit(read(w->a, &v, sizeof v) == sizeof v ? v & 127 : 0);
	}
	return kid;
}
static long by_pidfd(struct wait *w, bool poll_first)
{
	siginfo_t si = {0};
	pid_t kid = child(w);
	int fd = syscall(SYS_pidfd_open, kid, 0), r = fd < 0 ? -1 : 0;
	struct pollfd pf = {fd, POLLIN, 0};
	if (r == 0 && poll_first)
		r = poll(&pf, 1, -1) == 1 ? 0 : -1;
	if (r == 0)
		r = waitid(P_PIDFD, fd, &si, WEXITED | (poll_first ? WNOHANG : 0));
	if (r < 0)
		return -errno;
	close(fd);
	return si.si_pid != kid || si.si_code != CLD_EXITED ? -EPROTO : si.si_status;
}
static long w_waitid_pidfd(struct wait *w)
{
	return by_pidfd(w, false);
}
static long w_poll_pidfd(struct wait *w)
{
	return by_pidfd(w, true);
}

static struct wait table[] = {
	{"write to a full eventfd", w_event, give_event, make_full_event, .a = 0},
	{"sendmmsg of packets", w_sendmmsg, give_packet, make_packets, .a = 0},
	{"futex wait on a word that processes share", w_common, give_common, make_common, .a = 0},
	{"futex wait with requeue", w_requeue, give_requeue, make_none, .a = 0},
	{"waitid of a pidfd", w_waitid_pidfd, give_pipe, make_pipe, .a = 0},
	{"poll of a pidfd", w_poll_pidfd, give_pipe, make_pipe, .a = 0},
};

int main(int argc, char **argv)
{
	return blocked_main(argc, argv, table, sizeof table / sizeof *table);
}
