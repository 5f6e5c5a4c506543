/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System calls that wait for room, and a few more, as blocked_io.c: in each of them while the process is moved, then given what it waits for. What waited before it
 * is still there, in order.
 */
#include "blocked.h"
#include <linux/futex.h>
#include <mqueue.h>
#include <setjmp.h>
#include <sys/epoll.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>

static long word_of(struct wait *w)
{
	long v;
	while (!(v = w->word)) /* room came before the value was seen */
		move_nap(100);
	w->word = 0;
	return v;
}

/* ---- queues of numbered messages: a: where they are put, b: where they are taken */
struct message {
	long type;
	uint64_t n;
	char text[800];
};
static struct message numbered(uint64_t n)
{
	struct message m = {.type = 1, .n = n};
	memset(m.text, 'a' + n % 26, sizeof m.text);
	return m;
}
static void check_number(struct wait *w, const struct message *m, uint64_t n)
{
	struct message want = numbered(n);
	CHECK(m->n == n && !memcmp(m->text, want.text, sizeof want.text), "%s: message %llu is there, not %llu", w->name, (unsigned long long)m->n, (unsigned long long)n);
}
struct kind {
	long (*put)(struct wait *w, const struct message *m, bool wait);
	long (*take)(struct wait *w, struct message *m);
};
static uint64_t sent[4], taken[4];
static long put_next(struct wait *w, const struct kind *k, bool wait)
{
	struct message m = numbered(sent[w->c] + 1);
	long r = k->put(w, &m, wait);
	sent[w->c] += r >= 0;
	return r < 0 ? -errno : 0;
}
static void take_next(struct wait *w, const struct kind *k, uint64_t v)
{
	struct message m;
	w->word = v;
	SYS(k->take(w, &m));
	check_number(w, &m, ++taken[w->c]);
}
static void fill(struct wait *w, const struct kind *k, int c)
{
	long r;
	w->c = c;
	while ((r = put_next(w, k, false)) == 0)
		;
	CHECK(r == -EAGAIN, "%s: %s", w->name, strerror(-r));
}
static long put_and_wait(struct wait *w, const struct kind *k)
{
	long r = put_next(w, k, true);
	return r < 0 ? r : word_of(w);
}

static long sysv_put(struct wait *w, const struct message *m, bool wait)
{
	return msgsnd(w->a, m, sizeof *m - sizeof m->type, wait ? 0 : IPC_NOWAIT);
}
static long sysv_take(struct wait *w, struct message *m)
{
	return msgrcv(w->a, m, sizeof *m - sizeof m->type, 0, 0);
}
static const struct kind sysv = {sysv_put, sysv_take};
static int queue = -1;
static void make_queue(struct wait *w)
{
	w->a = queue = SYS(msgget(IPC_PRIVATE, 0600));
	fill(w, &sysv, 0);
}
static long w_msgsnd(struct wait *w)
{
	return put_and_wait(w, &sysv);
}
static void give_queue(struct wait *w, uint64_t v)
{
	take_next(w, &sysv, v);
}

static char mq_name[40];
static long mq_put(struct wait *w, const struct message *m, bool wait)
{
	struct timespec at;
	clock_gettime(CLOCK_REALTIME, &at);
	at.tv_sec += wait ? 3600 : -1;
	long r = mq_timedsend(w->a, (const char *)m, sizeof *m, 2, &at);
	if (r < 0 && errno == ETIMEDOUT && !wait)
		errno = EAGAIN;
	return r;
}
static long mq_take(struct wait *w, struct message *m)
{
	return mq_receive(w->a, (char *)m, sizeof *m, NULL);
}
static const struct kind mq = {mq_put, mq_take};
static void make_mq(struct wait *w)
{
	struct mq_attr a = {.mq_maxmsg = 3, .mq_msgsize = sizeof(struct message)};
	snprintf(mq_name, sizeof mq_name, "/blocked_full.%d", (int)getpid());
	w->a = SYS(mq_open(mq_name, O_RDWR | O_CREAT | O_EXCL, 0600, &a));
	fill(w, &mq, 1);
}
static long w_mq(struct wait *w)
{
	return put_and_wait(w, &mq);
}
static void give_mq(struct wait *w, uint64_t v)
{
	take_next(w, &mq, v);
}

static long sock_put(struct wait *w, const struct message *m, bool wait)
{
	struct iovec io = {(void *)m, sizeof *m};
	struct msghdr h = {.msg_iov = &io, .msg_iovlen = 1};
	return sendmsg(w->a, &h, wait ? 0 : MSG_DONTWAIT);
}
static const struct kind packets = {sock_put, NULL};
static void make_full_socket(struct wait *w, int type, int c)
{
	int p[2];
	SYS(socketpair(AF_UNIX, type, 0, p));
	w->a = p[0];
	w->b = p[1];
	fill(w, &packets, c);
}
static void make_datagrams(struct wait *w)
{
	make_full_socket(w, SOCK_DGRAM, 2);
}
static void make_packets(struct wait *w)
{
	make_full_socket(w, SOCK_SEQPACKET, 3);
}
/* Who waits for room in a socket is woken when half of it is there, so all is taken. */
static long w_sendmsg(struct wait *w)
{
	long r;
	while ((r = put_next(w, &packets, false)) == 0)
		;
	return r == -EAGAIN ? put_and_wait(w, &packets) : r;
}
static void give_packet(struct wait *w, uint64_t v)
{
	struct message m;
	w->word = v;
	while (w->word) {
		if (recv(w->b, &m, sizeof m, MSG_DONTWAIT) == sizeof m)
			check_number(w, &m, ++taken[w->c]);
		else
			move_nap(500);
	}
}

/* ---- a full pipe: a: its read end, b: its write end. What is put in is put in whole, in parts if need be. */
enum { FULL = 65536 };
static unsigned char pattern[FULL] __attribute__((aligned(4096))); /* vmsplice: each page is a slot of the pipe */
static void make_full_pipe(struct wait *w)
{
	int p[2];
	for (int i = 0; i < FULL; i++)
		pattern[i] = i % 253;
	SYS(pipe(p));
	w->a = p[0];
	w->b = p[1];
	SYS(fcntl(w->b, F_SETPIPE_SZ, FULL));
	CHECK(write(w->b, pattern, FULL) == FULL, "filling the pipe");
}
static void drain(struct wait *w, uint64_t v)
{
	static unsigned char b[FULL];
	w->word = v;
	for (ssize_t n = 0, k; n < FULL; n += k) {
		k = read(w->a, b + n, FULL - n);
		CHECK(k > 0, "%s: draining the pipe", w->name);
	}
	CHECK(!memcmp(b, pattern, FULL), "%s: what was written differs", w->name);
}
static long w_writev(struct wait *w)
{
	for (ssize_t n = 0, k; n < FULL; n += k) {
		struct iovec io[2] = {{pattern + n, (FULL - n) / 2}, {pattern + n + (FULL - n) / 2, FULL - n - (FULL - n) / 2}};
		if ((k = writev(w->b, io, 2)) < 0)
			return -errno;
	}
	return word_of(w);
}
static long w_vmsplice(struct wait *w)
{
	for (ssize_t n = 0, k; n < FULL; n += k) {
		struct iovec io = {pattern + n, FULL - n};
		if ((k = vmsplice(w->b, &io, 1, 0)) < 0)
			return -errno;
	}
	return word_of(w);
}
static void make_sendfile(struct wait *w)
{
	make_full_pipe(w);
	w->c = SYS(open(move_path("sendfile"), O_RDWR | O_CREAT | O_EXCL, 0600));
	SYS(unlink(move_path("sendfile")));
	CHECK(pwrite(w->c, pattern, FULL, 0) == FULL, "writing a file");
}
static long w_sendfile(struct wait *w)
{
	off_t at = 0;
	while (at < FULL)
		if (sendfile(w->b, w->c, &at, FULL - at) < 0)
			return -errno;
	return word_of(w);
}

/* ---- others */
static void make_tee(struct wait *w)
{
	int p[2];
	SYS(pipe(p));
	w->a = p[0];
	w->b = p[1];
	SYS(pipe(p));
	w->c = p[0];
	w->word = p[1];
}
static void give_b(struct wait *w, uint64_t v)
{
	CHECK(write(w->b, &v, sizeof v) == sizeof v, "%s: write: %s", w->name, strerror(errno));
}
static long w_tee(struct wait *w)
{
	uint64_t v = 0, again = 0;
	long n = tee(w->a, w->word, sizeof v, 0);
	if (n != sizeof v)
		return n < 0 ? -errno : -EPROTO;
	CHECK(read(w->a, &v, sizeof v) == sizeof v && read(w->c, &again, sizeof again) == sizeof again && v == again, "tee: the two ends differ");
	return v;
}
static long w_readv(struct wait *w)
{
	uint64_t v = 0;
	struct iovec io[2] = {{&v, 3}, {(char *)&v + 3, 5}};
	ssize_t n = readv(w->a, io, 2);
	return n < 0 ? -errno : n == sizeof v ? (long)v : -EPROTO;
}
static long w_epoll_pwait(struct wait *w)
{
	struct epoll_event ev = {0};
	sigset_t s;
	uint64_t v;
	sigfillset(&s);
	int r = epoll_pwait(w->c, &ev, 1, -1, &s);
	return r < 0 ? -errno : r != 1 ? -EPROTO : read(w->a, &v, sizeof v) == sizeof v ? (long)v : -EPROTO;
}
static void make_epoll(struct wait *w)
{
	struct epoll_event ev = {.events = EPOLLIN};
	make_tee(w);
	w->c = SYS(epoll_create1(0));
	SYS(epoll_ctl(w->c, EPOLL_CTL_ADD, w->a, &ev));
}
static void make_none(struct wait *w)
{
	w->word = 0;
}
static void give_bitset(struct wait *w, uint64_t v)
{
	w->word = v;
	syscall(SYS_futex, &w->word, FUTEX_WAKE_BITSET_PRIVATE, 1, NULL, NULL, 4);
}
static long w_bitset(struct wait *w)
{
	while (!w->word) {
		long r = syscall(SYS_futex, &w->word, FUTEX_WAIT_BITSET_PRIVATE, 0, NULL, NULL, 4 | 16);
		if (r < 0 && errno != EAGAIN)
			return -errno;
	}
	return word_of(w);
}
/* pause(2) is ended by a handler alone, which jumps out: a signal that comes before the call is not missed. */
static sigjmp_buf out_of_pause;
static volatile int paused;
static void on_pause(int sig, siginfo_t *si, void *uc)
{
	(void)sig, (void)uc;
	paused = si->si_value.sival_int;
	siglongjmp(out_of_pause, 1);
}
static void make_pause(struct wait *w)
{
	struct sigaction sa = {.sa_sigaction = on_pause, .sa_flags = SA_SIGINFO};
	(void)w;
	SYS(sigaction(SIGRTMIN, &sa, NULL));
}
static void give_pause(struct wait *w, uint64_t v)
{
	CHECK(pthread_sigqueue(w->thread, SIGRTMIN, (union sigval){.sival_int = (int)v}) == 0, "pthread_sigqueue");
}
static long w_pause(struct wait *w)
{
	sigset_t s;
	(void)w;
	if (sigsetjmp(out_of_pause, 1))
		return paused;
	sigemptyset(&s);
	sigaddset(&s, SIGRTMIN);
	pthread_sigmask(SIG_UNBLOCK, &s, NULL);
	pause();
	return -EPROTO;
}

static struct wait table[] = {
	{"msgsnd to a full queue", w_msgsnd, give_queue, make_queue, .a = 0},
	{"mq_timedsend to a full queue", w_mq, give_mq, make_mq, .a = 0},
	{"sendmsg of datagrams", w_sendmsg, give_packet, make_datagrams, .a = 0},
	{"sendmsg of packets", w_sendmsg, give_packet, make_packets, .a = 0},
	{"writev to a full pipe", w_writev, drain, make_full_pipe, .a = 0},
	{"vmsplice to a full pipe", w_vmsplice, drain, make_full_pipe, .a = 0},
	{"sendfile to a full pipe", w_sendfile, drain, make_sendfile, .a = 0},
	{"tee", w_tee, give_b, make_tee, .a = 0},
	{"readv", w_readv, give_b, make_tee, .a = 0},
	{"epoll_pwait", w_epoll_pwait, give_b, make_epoll, .a = 0},
	{"futex wait with a bit set", w_bitset, give_bitset, make_none, .a = 0},
	{"pause", w_pause, give_pause, make_pause, .a = 0},
};

int main(int argc, char **argv)
{
	sigset_t s;
	sigemptyset(&s);
	sigaddset(&s, SIGRTMIN);
	pthread_sigmask(SIG_BLOCK, &s, NULL);
	int r = blocked_main(argc, argv, table, sizeof table / sizeof table[0]);
	msgctl(queue, IPC_RMID, NULL);
	mq_unlink(mq_name);
	return r;
}
