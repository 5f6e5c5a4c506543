/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System calls that wait for sockets, signals, timers, IPC objects, other threads or events of files, as blocked_io.c: in each of them while the process is moved, then
 * given what it waits for.
 */
#include "blocked.h"
#include <linux/futex.h>
#include <mqueue.h>
#include <poll.h>
#include <semaphore.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>

enum { FOR_FD = 1, FOR_WAITINFO, FOR_TIMEDWAIT, FOR_SUSPEND }; /* real-time signals */
static const struct timespec long_time = {60, 0};

/* ---- sockets */
static void make_pair(struct wait *w, int type)
{
	int p[2];
	SYS(socketpair(AF_UNIX, type, 0, p));
	w->a = p[0];
	w->b = p[1];
}
static void make_stream(struct wait *w)
{
	make_pair(w, SOCK_STREAM);
}
static void make_dgram(struct wait *w)
{
	make_pair(w, SOCK_DGRAM);
}
static void make_packets(struct wait *w)
{
	make_pair(w, SOCK_SEQPACKET);
}
static void make_timed(struct wait *w)
{
	struct timeval t = {60, 0};
	make_pair(w, SOCK_STREAM);
	SYS(setsockopt(w->a, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
}
static void give_b(struct wait *w, uint64_t v)
{
	CHECK(write(w->b, &v, sizeof v) == sizeof v, "%s: write: %s", w->name, strerror(errno));
}
static long got_value(long n, const uint64_t *v)
{
	return n < 0 ? -errno : n == sizeof *v ? (long)*v : -EPROTO;
}
static long w_recv(struct wait *w)
{
	uint64_t v;
	return got_value(recv(w->a, &v, sizeof v, 0), &v);
}
static long w_recvmsg(struct wait *w)
{
	uint64_t v;
	struct iovec io = {&v, sizeof v};
	struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1};
	return got_value(recvmsg(w->a, &m, 0), &v);
}
static long w_recvmmsg(struct wait *w)
{
	uint64_t v;
	struct iovec io = {&v, sizeof v};
	struct mmsghdr m = {.msg_hdr = {.msg_iov = &io, .msg_iovlen = 1}};
	int r = recvmmsg(w->a, &m, 1, 0, NULL);
	return r < 0 ? -errno : got_value(m.msg_len, &v);
}
static void make_listen(struct wait *w)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	w->a = SYS(socket(AF_UNIX, SOCK_STREAM, 0));
	snprintf(a.sun_path + 1, sizeof a.sun_path - 1, "blocked.%d", (int)getpid());
	SYS(bind(w->a, (struct sockaddr *)&a, sizeof a));
	SYS(listen(w->a, 5));
}
static void give_connection(struct wait *w, uint64_t v)
{
	struct sockaddr_un a;
	socklen_t n = sizeof a;
	int c = SYS(socket(AF_UNIX, SOCK_STREAM, 0));
	SYS(getsockname(w->a, (struct sockaddr *)&a, &n));
	SYS(connect(c, (struct sockaddr *)&a, n));
	CHECK(write(c, &v, sizeof v) == sizeof v, "write to a connection");
	SYS(close(c));
}
static long w_accept(struct wait *w)
{
	uint64_t v = 0;
	int c = accept(w->a, NULL, NULL);
	if (c < 0)
		return -errno;
	long r = got_value(read(c, &v, sizeof v), &v);
	close(c);
	return r;
}
/* More than the socket takes: it waits in the middle of the data. As after SIGSTOP and SIGCONT it may say then what it has sent; no byte is lost or sent twice. */
enum { MUCH = 1 << 20 };
static long w_send(struct wait *w)
{
	static unsigned char b[MUCH];
	long v;
	for (size_t i = 0; i < sizeof b; i++)
		b[i] = i % 251;
	for (size_t at = 0; at < sizeof b;) {
		long n = send(w->b, b + at, sizeof b - at, 0);
		if (n <= 0)
			return n < 0 ? -errno : -EPROTO;
		at += n;
	}
	while (!(v = w->word))
		move_nap(100);
	w->word = 0;
	return v;
}
static void give_reader(struct wait *w, uint64_t v)
{
	static unsigned char b[65536];
	for (size_t n = 0; n < MUCH;) {
		ssize_t k = read(w->a, b, MUCH - n < sizeof b ? MUCH - n : sizeof b);
		CHECK(k > 0, "reading what was sent");
		for (ssize_t i = 0; i < k; i++, n++)
			CHECK(b[i] == n % 251, "byte %zu of what was sent is another one", n);
	}
	w->word = v;
}

/* ---- descriptors with a time-out that is far */
static void make_epoll(struct wait *w)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.u32 = 77};
	make_stream(w);
	w->c = SYS(epoll_create1(0));
	SYS(epoll_ctl(w->c, EPOLL_CTL_ADD, w->a, &ev));
}
static long w_epoll_pwait2(struct wait *w)
{
	struct epoll_event ev = {0};
	long r = syscall(441, w->c, &ev, 1, &long_time, NULL, 8);
	if (r < 0 && errno == ENOSYS)
		r = epoll_pwait(w->c, &ev, 1, 60000, NULL);
	return r < 0 ? -errno : r != 1 || ev.data.u32 != 77 ? -ETIME : w_recv(w);
}
static long w_ppoll(struct wait *w)
{
	struct pollfd p = {w->a, POLLIN, 0};
	int r = ppoll(&p, 1, &long_time, NULL);
	return r < 0 ? -errno : r != 1 ? -ETIME : w_recv(w);
}
static long w_pselect(struct wait *w)
{
	fd_set s;
	FD_ZERO(&s);
	FD_SET(w->a, &s);
	int r = pselect(w->a + 1, &s, NULL, NULL, &long_time, NULL);
	return r < 0 ? -errno : r != 1 ? -ETIME : w_recv(w);
}
static void make_splice(struct wait *w)
{
	int p[2];
	SYS(pipe(p));
	w->a = p[0];
	w->b = p[1];
	SYS(pipe(p));
	w->c = p[0];
	w->word = p[1];
}
static long w_splice(struct wait *w)
{
	uint64_t v;
	long n = splice(w->a, NULL, w->word, NULL, sizeof v, 0);
	return n != sizeof v ? (n < 0 ? -errno : -EPROTO) : got_value(read(w->c, &v, sizeof v), &v);
}

/* ---- signals: blocked in all threads */
static sigset_t one_signal(int n)
{
	sigset_t s;
	sigemptyset(&s);
	sigaddset(&s, SIGRTMIN + n);
	return s;
}
static void make_none(struct wait *w)
{
	w->word = 0;
}
static void make_signalfd(struct wait *w)
{
	sigset_t s = one_signal(FOR_FD);
	w->c = FOR_FD;
	w->a = SYS(signalfd(-1, &s, 0));
}
static void make_waitinfo(struct wait *w)
{
	w->c = FOR_WAITINFO;
}
static void make_timedwait(struct wait *w)
{
	w->c = FOR_TIMEDWAIT;
}
static void give_signal(struct wait *w, uint64_t v)
{
	SYS(sigqueue(getpid(), SIGRTMIN + w->c, (union sigval){.sival_int = (int)v}));
}
static long w_signalfd(struct wait *w)
{
	struct signalfd_siginfo si;
	ssize_t n = read(w->a, &si, sizeof si);
	return n < 0 ? -errno : n != sizeof si ? -EPROTO : si.ssi_int;
}
static long w_waitinfo(struct wait *w)
{
	sigset_t s = one_signal(w->c);
	siginfo_t si;
	int r = sigwaitinfo(&s, &si);
	return r < 0 ? -errno : si.si_value.sival_int;
}
static long w_timedwait(struct wait *w)
{
	sigset_t s = one_signal(w->c);
	siginfo_t si;
	int r = sigtimedwait(&s, &si, &long_time);
	return r < 0 ? -errno : si.si_value.sival_int;
}
static volatile int suspended;
static void on_suspend(int sig, siginfo_t *si, void *uc)
{
	(void)sig, (void)uc;
	suspended = si->si_value.sival_int;
}
static void make_suspend(struct wait *w)
{
	struct sigaction sa = {.sa_sigaction = on_suspend, .sa_flags = SA_SIGINFO};
	w->c = FOR_SUSPEND;
	SYS(sigaction(SIGRTMIN + FOR_SUSPEND, &sa, NULL));
}
static void give_thread_signal(struct wait *w, uint64_t v)
{
	CHECK(pthread_sigqueue(w->thread, SIGRTMIN + w->c, (union sigval){.sival_int = (int)v}) == 0, "pthread_sigqueue");
}
static long w_suspend(struct wait *w)
{
	sigset_t s;
	pthread_sigmask(SIG_SETMASK, NULL, &s);
	sigdelset(&s, SIGRTMIN + w->c);
	suspended = 0;
	int r = sigsuspend(&s);
	return r == -1 && errno == EINTR && suspended ? suspended : -EPROTO; /* the handler has run, and nothing else ends it */
}

/* ---- timers and files */
static void make_timer(struct wait *w)
{
	w->a = SYS(timerfd_create(CLOCK_MONOTONIC, 0));
}
static void give_timer(struct wait *w, uint64_t v)
{
	struct itimerspec t = {.it_value.tv_nsec = 1};
	w->word = v;
	SYS(timerfd_settime(w->a, 0, &t, NULL));
}
static long w_timer(struct wait *w)
{
	uint64_t n;
	ssize_t r = read(w->a, &n, sizeof n);
	return r < 0 ? -errno : n != 1 ? -EPROTO : (long)w->word;
}
static void make_inotify(struct wait *w)
{
	w->a = SYS(inotify_init1(IN_CLOEXEC));
	SYS(mkdir(move_path("watched"), 0700));
	SYS(inotify_add_watch(w->a, move_path("watched"), IN_CREATE));
}
static void give_file(struct wait *w, uint64_t v)
{
	char name[600];
	(void)w;
	snprintf(name, sizeof name, "%s/%llu", move_path("watched"), (unsigned long long)v);
	int fd = SYS(open(name, O_CREAT | O_EXCL | O_WRONLY, 0600));
	SYS(close(fd));
	SYS(unlink(name));
}
static long w_inotify(struct wait *w)
{
	_Alignas(struct inotify_event) char b[4096];
	ssize_t n = read(w->a, b, sizeof b);
	const struct inotify_event *ev = (void *)b;
	return n < 0 ? -errno : (size_t)n != sizeof *ev + ev->len ? -EPROTO : atol(ev->name);
}

/* ---- IPC */
static int queue = -1, sems = -1;
struct message {
	long type;
	uint64_t v;
};
static void make_queue(struct wait *w)
{
	w->a = queue = SYS(msgget(IPC_PRIVATE, 0600));
}
static void give_message(struct wait *w, uint64_t v)
{
	struct message m = {9, v};
	SYS(msgsnd(w->a, &m, sizeof m.v, 0));
}
static long w_msgrcv(struct wait *w)
{
	struct message m;
	return got_value(msgrcv(w->a, &m, sizeof m.v, 9, 0), &m.v);
}
static void make_sems(struct wait *w)
{
	if (sems < 0)
		sems = SYS(semget(IPC_PRIVATE, 2, 0600));
	w->a = sems;
}
static void sem_up(int i)
{
	struct sembuf b = {.sem_num = i, .sem_op = 1};
	SYS(semop(sems, &b, 1));
}
static void give_sem(struct wait *w, uint64_t v)
{
	w->word = v;
	sem_up(0);
}
static void give_sem_timed(struct wait *w, uint64_t v)
{
	w->word = v;
	sem_up(1);
}
static long w_semop(struct wait *w)
{
	struct sembuf b = {.sem_num = 0, .sem_op = -1};
	return semop(w->a, &b, 1) < 0 ? -errno : (long)w->word;
}
static long w_semtimedop(struct wait *w)
{
	struct sembuf b = {.sem_num = 1, .sem_op = -1};
	return semtimedop(w->a, &b, 1, &long_time) < 0 ? -errno : (long)w->word;
}
static char mq_name[40];
static void make_mq(struct wait *w)
{
	struct mq_attr a = {.mq_maxmsg = 4, .mq_msgsize = sizeof(uint64_t)};
	snprintf(mq_name, sizeof mq_name, "/blocked.%d", (int)getpid());
	w->a = SYS(mq_open(mq_name, O_RDWR | O_CREAT | O_EXCL, 0600, &a));
}
static void give_mq(struct wait *w, uint64_t v)
{
	SYS(mq_send(w->a, (char *)&v, sizeof v, 3));
}
static long w_mq(struct wait *w)
{
	uint64_t v;
	struct timespec at;
	clock_gettime(CLOCK_REALTIME, &at);
	at.tv_sec += 3600;
	return got_value(mq_timedreceive(w->a, (char *)&v, sizeof v, NULL, &at), &v);
}

/* ---- other threads */
static sem_t semaphore;
static void make_semaphore(struct wait *w)
{
	(void)w;
	sem_init(&semaphore, 0, 0);
}
static void give_semaphore(struct wait *w, uint64_t v)
{
	w->word = v;
	sem_post(&semaphore);
}
static long w_semaphore(struct wait *w)
{
	return sem_wait(&semaphore) < 0 ? -errno : (long)w->word;
}
struct waitv { /* linux/futex.h of newer kernels */
	uint64_t val, uaddr;
	uint32_t flags, reserved;
};
static void give_word(struct wait *w, uint64_t v)
{
	w->word = v;
	syscall(SYS_futex, &w->word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}
static long w_waitv(struct wait *w)
{
	while (!w->word) {
		struct waitv v = {.uaddr = (uintptr_t)&w->word, .flags = 2 | 128 /* 32 bits, private */};
		long r = syscall(449 /* futex_waitv */, &v, 1, 0, NULL, 0);
		if (r < 0 && errno == ENOSYS)
			r = syscall(SYS_futex, &w->word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
		if (r < 0 && errno != EAGAIN)
			return -errno;
	}
	long v = w->word;
	w->word = 0;
	return v;
}
/* A mutex with priority inheritance, held by the main thread but for the moments in which it gives. */
static pthread_mutex_t pi;
static void make_pi(struct wait *w)
{
	pthread_mutexattr_t a;
	pthread_mutexattr_init(&a);
	CHECK(pthread_mutexattr_setprotocol(&a, PTHREAD_PRIO_INHERIT) == 0 && pthread_mutex_init(&pi, &a) == 0, "mutex with priority inheritance");
	CHECK(pthread_mutex_lock(&pi) == 0, "lock");
	w->c = 1;
}
static void give_pi(struct wait *w, uint64_t v)
{
	w->word = v;
	__atomic_store_n(&w->c, 0, __ATOMIC_SEQ_CST);
	CHECK(pthread_mutex_unlock(&pi) == 0, "unlock of a mutex that others wait for");
	while (w->word)
		move_nap(100);
	CHECK(pthread_mutex_lock(&pi) == 0, "lock");
	__atomic_store_n(&w->c, 1, __ATOMIC_SEQ_CST);
}
static long w_pi(struct wait *w)
{
	while (!__atomic_load_n(&w->c, __ATOMIC_SEQ_CST))
		move_nap(100);
	int r = pthread_mutex_lock(&pi);
	if (r)
		return -r;
	long v = w->word;
	w->word = 0;
	r = pthread_mutex_unlock(&pi);
	return r ? -r : v;
}
static void make_child(struct wait *w)
{
	make_stream(w);
}
static long w_waitid(struct wait *w)
{
	siginfo_t si = {0};
	pid_t kid = fork();
	if (!kid) {
		uint64_t v = 0;
		signal(SIGTERM, SIG_IGN);
		close(w->b);
		_exit(read(w->a, &v, sizeof v) == sizeof v ? v & 127 : 0);
	}
	int r = waitid(P_PID, kid, &si, WEXITED);
	return r < 0 ? -errno : si.si_pid != kid || si.si_code != CLD_EXITED ? -EPROTO : si.si_status;
}

static struct wait table[] = {
	{"recv of a stream", w_recv, give_b, make_stream, .a = 0},
	{"recv with SO_RCVTIMEO", w_recv, give_b, make_timed, .a = 0},
	{"recvmsg of datagrams", w_recvmsg, give_b, make_dgram, .a = 0},
	{"recvmmsg of packets", w_recvmmsg, give_b, make_packets, .a = 0},
	{"accept", w_accept, give_connection, make_listen, .a = 0},
	{"send", w_send, give_reader, make_stream, .a = 0},
	{"epoll_pwait2", w_epoll_pwait2, give_b, make_epoll, .a = 0},
	{"ppoll", w_ppoll, give_b, make_stream, .a = 0},
	{"pselect", w_pselect, give_b, make_stream, .a = 0},
	{"splice", w_splice, give_b, make_splice, .a = 0},
	{"read of a signalfd", w_signalfd, give_signal, make_signalfd, .a = 0},
	{"sigwaitinfo", w_waitinfo, give_signal, make_waitinfo, .a = 0},
	{"sigtimedwait", w_timedwait, give_signal, make_timedwait, .a = 0},
	{"sigsuspend", w_suspend, give_thread_signal, make_suspend, .a = 0},
	{"read of a timerfd", w_timer, give_timer, make_timer, .a = 0},
	{"read of inotify", w_inotify, give_file, make_inotify, .a = 0},
	{"msgrcv", w_msgrcv, give_message, make_queue, .a = 0},
	{"semop", w_semop, give_sem, make_sems, .a = 0},
	{"semtimedop", w_semtimedop, give_sem_timed, make_sems, .a = 0},
	{"mq_timedreceive", w_mq, give_mq, make_mq, .a = 0},
	{"sem_wait", w_semaphore, give_semaphore, make_semaphore, .a = 0},
	{"futex_waitv", w_waitv, give_word, make_none, .a = 0},
	{"mutex with priority inheritance", w_pi, give_pi, make_pi, .a = 0},
	{"waitid", w_waitid, give_b, make_child, .a = 0},
};

int main(int argc, char **argv)
{
	sigset_t s;
	sigemptyset(&s);
	for (int i = FOR_FD; i <= FOR_SUSPEND; i++)
		sigaddset(&s, SIGRTMIN + i);
	pthread_sigmask(SIG_BLOCK, &s, NULL);
	int r = blocked_main(argc, argv, table, sizeof table / sizeof table[0]);
	msgctl(queue, IPC_RMID, NULL);
	semctl(sems, 0, IPC_RMID);
	mq_unlink(mq_name);
	return r;
}
