/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System calls that wait, one thread each, table-driven: none returns early, with EINTR or with the wrong result because its process was moved while it waited.
 * Those that wait for time only; blocked_io.c has the ones that wait for descriptors.
 */
#include "move.h"
#include <linux/futex.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ipc.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>

#define SLACK_MS 60000 /* a move on a busy host takes time; a lost wake-up takes for ever */

static struct timespec ms_ts(uint64_t ms)
{
	return (struct timespec){ms / 1000, ms % 1000 * 1000000};
}
static struct timespec at_ts(clockid_t c, uint64_t ms)
{
	uint64_t ns = now_ns(c) + ms * 1000000;
	return (struct timespec){ns / 1000000000, ns % 1000000000};
}

/* Each waits `ms` and returns 0, or -errno of what it did not expect. */
static long w_nanosleep(uint64_t ms)
{
	struct timespec t = ms_ts(ms);
	return syscall(SYS_nanosleep, &t, NULL) < 0 ? -errno : 0;
}
static long w_clock_rel(uint64_t ms)
{
	struct timespec t = ms_ts(ms), left;
	return -clock_nanosleep(CLOCK_BOOTTIME, 0, &t, &left);
}
static long w_clock_abs(uint64_t ms)
{
	struct timespec t = at_ts(CLOCK_MONOTONIC, ms);
	return -clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}
static long w_clock_real(uint64_t ms)
{
	struct timespec t = at_ts(CLOCK_REALTIME, ms);
	return -clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &t, NULL);
}
static long w_poll(uint64_t ms)
{
	return syscall(SYS_poll, NULL, 0, (int)ms) < 0 ? -errno : 0;
}
static long w_ppoll(uint64_t ms)
{
	struct timespec t = ms_ts(ms);
	return ppoll(NULL, 0, &t, NULL) < 0 ? -errno : 0;
}
static long w_select(uint64_t ms)
{
	struct timeval t = {ms / 1000, ms % 1000 * 1000};
	return select(0, NULL, NULL, NULL, &t) < 0 ? -errno : 0;
}
static long w_pselect(uint64_t ms)
{
	struct timespec t = ms_ts(ms);
	return pselect(0, NULL, NULL, NULL, &t, NULL) < 0 ? -errno : 0;
}
static long w_futex_rel(uint64_t ms)
{
	uint32_t word = 5;
	struct timespec t = ms_ts(ms);
	long r = syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 5, &t, NULL, 0);
	return r < 0 && errno == ETIMEDOUT ? 0 : r < 0 ? -errno : -EPROTO;
}
static long w_futex_abs(uint64_t ms)
{
	uint32_t word = 5;
	struct timespec t = at_ts(CLOCK_MONOTONIC, ms);
	long r = syscall(SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE, 5, &t, NULL, FUTEX_BITSET_MATCH_ANY);
	return r < 0 && errno == ETIMEDOUT ? 0 : r < 0 ? -errno : -EPROTO;
}
static long w_sigtimedwait(uint64_t ms)
{
	struct timespec t = ms_ts(ms);
	sigset_t s;
	sigemptyset(&s);
	sigaddset(&s, SIGUSR2);
	long r = sigtimedwait(&s, NULL, &t);
	return r < 0 && errno == EAGAIN ? 0 : r < 0 ? -errno : -EPROTO;
}
static long w_cond(uint64_t ms)
{
	pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
	pthread_cond_t c = PTHREAD_COND_INITIALIZER;
	struct timespec t = at_ts(CLOCK_REALTIME, ms);
	int r;
	pthread_mutex_lock(&m);
	while ((r = pthread_cond_timedwait(&c, &m, &t)) == 0)
		; /* spurious ones are allowed here */
	pthread_mutex_unlock(&m);
	return r == ETIMEDOUT ? 0 : -r;
}

static long w_epoll(uint64_t ms)
{
	struct epoll_event ev;
	int fd = epoll_create1(0);
	long r = epoll_wait(fd, &ev, 1, (int)ms), err = errno;
	close(fd);
	return r < 0 ? -err : r;
}
static long w_epoll_pwait2(uint64_t ms)
{
	struct epoll_event ev;
	struct timespec t = ms_ts(ms);
	int fd = epoll_create1(0);
	long r = syscall(441, fd, &ev, 1, &t, NULL, 8), err = errno;
	close(fd);
	CHECK(t.tv_nsec == (long)(ms % 1000 * 1000000), "the time-out of epoll_pwait2 was written to");
	return r < 0 && err == ENOSYS ? w_epoll(ms) : r < 0 ? -err : r;
}
static int sems;
static long w_semtimedop(uint64_t ms)
{
	struct timespec t = ms_ts(ms);
	struct sembuf b = {.sem_op = -1};
	long r = semtimedop(sems, &b, 1, &t);
	return r < 0 && errno == EAGAIN ? 0 : r < 0 ? -errno : -EPROTO;
}
static long w_recv_timed(uint64_t ms)
{
	struct timeval t = {ms / 1000, ms % 1000 * 1000};
	int p[2];
	char c;
	SYS(socketpair(AF_UNIX, SOCK_STREAM, 0, p));
	SYS(setsockopt(p[0], SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
	long r = recv(p[0], &c, 1, 0), err = errno;
	close(p[0]);
	close(p[1]);
	return r < 0 && err == EAGAIN ? 0 : r < 0 ? -err : -EPROTO;
}
/* These wait for devices only, so that a move waits for them: none fails, and nothing is lost of what was written. */
static long w_sync(uint64_t ms)
{
	static unsigned char b[20000];
	unsigned char *map;
	uint64_t end = now_ns(CLOCK_BOOTTIME) + ms * 1000000, n = 0;
	int fd = SYS(open(move_path("sync"), O_RDWR | O_CREAT | O_TRUNC, 0600));
	SYS(ftruncate(fd, sizeof b));
	map = mmap(NULL, sizeof b, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(map != MAP_FAILED, "mmap: %s", strerror(errno));
	for (; now_ns(CLOCK_BOOTTIME) < end; n++) {
		memset(map + 4096, n, 4096);
		CHECK(msync(map, sizeof b, MS_SYNC) == 0, "msync: %s", strerror(errno));
		CHECK(pwrite(fd, &n, sizeof n, 12000) == sizeof n && fsync(fd) == 0, "fsync: %s", strerror(errno));
		CHECK(pread(fd, b, sizeof b, 0) == sizeof b && b[5000] == (n & 255) && !memcmp(b + 12000, &n, sizeof n), "what was written is not there after round %llu", (unsigned long long)n);
		move_nap(2000);
	}
	munmap(map, sizeof b);
	close(fd);
	return 0;
}
static long w_getrandom(uint64_t ms)
{
	uint64_t end = now_ns(CLOCK_BOOTTIME) + ms * 1000000;
	char b[256]; /* as much as no signal cuts short */
	while (now_ns(CLOCK_BOOTTIME) < end) {
		long n = syscall(SYS_getrandom, b, sizeof b, 0);
		if (n != sizeof b)
			return n < 0 ? -errno : -EPROTO;
		move_nap(500);
	}
	return 0;
}

static const struct {
	const char *name;
	long (*wait)(uint64_t ms);
} table[] = {
	{"nanosleep", w_nanosleep},
	{"clock_nanosleep relative", w_clock_rel},
	{"clock_nanosleep absolute", w_clock_abs},
	{"clock_nanosleep CLOCK_REALTIME", w_clock_real},
	{"poll", w_poll},
	{"ppoll", w_ppoll},
	{"select", w_select},
	{"pselect", w_pselect},
	{"futex wait", w_futex_rel},
	{"futex wait absolute", w_futex_abs},
	{"sigtimedwait", w_sigtimedwait},
	{"pthread_cond_timedwait", w_cond},
	{"epoll_wait", w_epoll},
	{"epoll_pwait2", w_epoll_pwait2},
	{"semtimedop", w_semtimedop},
	{"recv with SO_RCVTIMEO", w_recv_timed},
	{"fsync and msync", w_sync},
	{"getrandom", w_getrandom},
};
#define N (sizeof table / sizeof table[0])

static volatile bool stop;

static void *run(void *arg)
{
	unsigned i = (unsigned)(uintptr_t)arg;
	uint64_t seed = 0x9e3779b9u + i;
	while (!stop) {
		uint64_t ms = 100 + move_rand(&seed) % 900, t0 = now_ns(CLOCK_BOOTTIME);
		long r = table[i].wait(ms);
		uint64_t took = now_ns(CLOCK_BOOTTIME) - t0;
		CHECK(r == 0, "%s: %s", table[i].name, strerror(-r));
		CHECK(took + 2000000 >= ms * 1000000, "%s of %llu ms ended after %llu ms", table[i].name, (unsigned long long)ms,
		      (unsigned long long)took / 1000000);
		CHECK(took < (ms + SLACK_MS) * 1000000, "%s of %llu ms took %llu ms", table[i].name, (unsigned long long)ms,
		      (unsigned long long)took / 1000000);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	move_begin(argc, argv);
	pthread_t t[N];
	sigset_t s;
	sems = SYS(semget(IPC_PRIVATE, 1, 0600));
	sigemptyset(&s);
	sigaddset(&s, SIGUSR2);
	sigaddset(&s, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &s, NULL);
	for (uintptr_t i = 0; i < N; i++)
		pthread_create(&t[i], NULL, run, (void *)i);
	sigdelset(&s, SIGUSR2);
	pthread_sigmask(SIG_UNBLOCK, &s, NULL);
	move_ready();
	while (move_more())
		move_nap(50000);
	stop = true;
	for (unsigned i = 0; i < N; i++)
		pthread_join(t[i], NULL);
	semctl(sems, 0, IPC_RMID);
	return move_pass();
}
