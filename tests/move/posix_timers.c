/* SPDX-License-Identifier: Apache-2.0 */
/* POSIX timers: ids (with holes), clocks, what they signal and with which value, period, remaining time, overruns. */
#include "move.h"

#define N 7
static timer_t id[N];
static volatile sig_atomic_t ticks[N];
static pid_t thread_tid;

static void on_timer(int sig, siginfo_t *si, void *uc)
{
	(void)sig, (void)uc;
	int i = si->si_value.sival_int - 1000;
	if (si->si_code != SI_TIMER || i < 0 || i >= N)
		fail("timer signal with code %d value %d", si->si_code, si->si_value.sival_int);
	if (i == 2 && gettid() != thread_tid)
		fail("timer for thread %d signalled thread %d", thread_tid, gettid());
	ticks[i]++;
}

static void make(int i, clockid_t clock, int notify, int sig, pid_t tid, long first_ms, long every_ms)
{
	struct sigevent ev = {.sigev_notify = notify, .sigev_signo = sig, .sigev_value.sival_int = 1000 + i};
	ev._sigev_un._tid = tid;
	int kid;
	SYS(syscall(SYS_timer_create, clock, &ev, &kid)); /* the raw id is what must survive */
	id[i] = (timer_t)(uintptr_t)kid;
	struct itimerspec its = {{every_ms / 1000, every_ms % 1000 * 1000000}, {first_ms / 1000, first_ms % 1000 * 1000000}};
	SYS(syscall(SYS_timer_settime, kid, 0, &its, NULL));
}

static void get(int i, struct itimerspec *its)
{
	if (syscall(SYS_timer_gettime, (int)(uintptr_t)id[i], its) < 0)
		fail("timer %d (id %d) is gone: %s", i, (int)(uintptr_t)id[i], strerror(errno));
}

static void *sleeper(void *arg)
{
	(void)arg;
	thread_tid = gettid();
	for (;;)
		move_nap(1000000);
	return NULL;
}

int main(int argc, char **argv)
{
	move_begin(argc, argv);
	struct sigaction sa = {.sa_sigaction = on_timer, .sa_flags = SA_SIGINFO | SA_RESTART};
	SYS(sigaction(SIGRTMIN, &sa, NULL));
	SYS(sigaction(SIGUSR1, &sa, NULL));
	sigset_t blocked;
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGRTMIN + 1);
	pthread_sigmask(SIG_BLOCK, &blocked, NULL);
	pthread_t t;
	pthread_create(&t, NULL, sleeper, NULL);
	while (!thread_tid)
		move_nap(1000);

	make(0, CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN, 0, 20, 20);
	make(1, CLOCK_REALTIME, SIGEV_SIGNAL, SIGUSR1, 0, 30, 30);
	SYS(syscall(SYS_timer_delete, (int)(uintptr_t)id[0])); /* a hole in the ids */
	make(2, CLOCK_MONOTONIC, SIGEV_THREAD_ID, SIGRTMIN, thread_tid, 25, 25);
	make(3, CLOCK_BOOTTIME, SIGEV_NONE, 0, 0, 500000, 0);	      /* armed far ahead, only asked */
	uint64_t before4 = now_ns(CLOCK_MONOTONIC), count4 = 0;
	make(4, CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 1, 0, 5, 5); /* blocked: overruns pile up */
	uint64_t after4 = now_ns(CLOCK_MONOTONIC);
	make(5, CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN, 0, 0, 0);     /* disarmed */
	make(6, CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL, SIGRTMIN, 0, 50, 50);
	uint64_t end3 = now_ns(CLOCK_MONOTONIC) + 500000000000u;
	move_ready();
	while (move_more()) {
		sig_atomic_t a = ticks[1], b = ticks[2];
		uint64_t t0 = now_ns(CLOCK_MONOTONIC);
		while (now_ns(CLOCK_MONOTONIC) - t0 < 300000000)
			move_nap(20000);
		for (int i = 0; i < 1200 && (ticks[1] == a || ticks[2] == b); i++)
			move_nap(50000);
		CHECK(ticks[1] != a, "the CLOCK_REALTIME timer does not tick any more");
		CHECK(ticks[2] != b, "the timer of one thread does not tick any more");
		struct itimerspec its;
		uint64_t most = end3 - now_ns(CLOCK_MONOTONIC); /* before and after the look: the host may be busy in between */
		get(3, &its);
		uint64_t left = its.it_value.tv_sec * 1000000000ull + its.it_value.tv_nsec, least = end3 - now_ns(CLOCK_MONOTONIC);
		CHECK(left < most + 50000000 && left + 50000000 > least, "remaining time is %llu ms, not %llu ms",
		      (unsigned long long)left / 1000000, (unsigned long long)least / 1000000);
		get(5, &its);
		CHECK(!its.it_value.tv_sec && !its.it_value.tv_nsec && !ticks[5], "a disarmed timer was armed");
		get(1, &its);
		CHECK(its.it_interval.tv_nsec == 30000000, "period is %ld ns", its.it_interval.tv_nsec);
		get(6, &its);
		CHECK(its.it_interval.tv_nsec == 50000000, "CPU timer: period is %ld ns", its.it_interval.tv_nsec);
		/* The blocked one: signals plus overruns tell every expiry, none lost and none twice. */
		siginfo_t si;
		uint64_t least4 = (now_ns(CLOCK_MONOTONIC) - after4) / 5000000;
		struct timespec soon = {60, 0};
		int r = sigtimedwait(&blocked, &si, &soon);
		CHECK(r == SIGRTMIN + 1, "the blocked timer's signal is not pending");
		for (struct timespec none = {0, 0}; r > 0; r = sigtimedwait(&blocked, &si, &none)) {
			CHECK(si.si_code == SI_TIMER && si.si_value.sival_int == 1004, "blocked timer: code %d value %d", si.si_code,
			      si.si_value.sival_int);
			count4 += 1 + si.si_overrun;
		}
		uint64_t due = (now_ns(CLOCK_MONOTONIC) - before4) / 5000000;
		CHECK(count4 <= due + 1 && count4 + 1 >= least4, "blocked timer: %llu expiries told, %llu to %llu were due",
		      (unsigned long long)count4, (unsigned long long)least4, (unsigned long long)due);
		CHECK(syscall(SYS_timer_gettime, (int)(uintptr_t)id[0], &its) < 0 || id[0] == id[2], "a deleted timer came back");
	}
	return move_pass();
}
