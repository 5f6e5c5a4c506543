/* SPDX-License-Identifier: Apache-2.0 */
/* Pending signals: standard ones once, real-time ones queued in order, each with its siginfo, for the process and for each of two threads. */
#include "move.h"

#define DEEP 9 /* how many of one real-time signal wait */

static sigset_t all;

static void put(pid_t tid, int sig, int value) /* tid 0: the process */
{
	siginfo_t si = {.si_signo = sig, .si_code = SI_QUEUE, .si_pid = getpid(), .si_uid = 4242};
	si.si_value.sival_ptr = (void *)(0x7700000000ul + value);
	if (tid)
		SYS(syscall(SYS_rt_tgsigqueueinfo, getpid(), tid, sig, &si));
	else
		SYS(syscall(SYS_rt_sigqueueinfo, getpid(), sig, &si));
}

static void take(const char *who, int sig, int code, int value)
{
	sigset_t one;
	siginfo_t si;
	struct timespec now = {0, 0};
	sigemptyset(&one);
	sigaddset(&one, sig);
	int r = syscall(SYS_rt_sigtimedwait, &one, &si, &now, 8); /* glibc's wrapper turns SI_TKILL into SI_USER */
	CHECK(r == sig, "%s: signal %d (value %d) is not pending", who, sig, value);
	CHECK(si.si_code == code, "%s: signal %d has code %d, not %d", who, sig, si.si_code, code);
	if (code == SI_QUEUE) {
		CHECK(si.si_value.sival_ptr == (void *)(0x7700000000ul + value), "%s: signal %d: value %p, not %d", who, sig,
		      si.si_value.sival_ptr, value);
		CHECK(si.si_uid == 4242, "%s: signal %d: sender's uid %u", who, sig, si.si_uid);
	}
	if (code == SI_USER || code == SI_TKILL)
		CHECK(si.si_pid == getpid(), "%s: signal %d: sender %d", who, sig, si.si_pid);
}

static void none(const char *who)
{
	siginfo_t si;
	struct timespec now = {0, 0};
	int r = sigtimedwait(&all, &si, &now);
	CHECK(r < 0, "%s: signal %d is pending once too often", who, r);
}

static void *thread(void *arg)
{
	const char *who = arg;
	pid_t me = gettid();
	for (int n = 1; move_more(); n += 100) {
		for (int i = 0; i < DEEP; i++)
			put(me, SIGRTMIN + 5, n + i);
		put(me, SIGRTMIN + 6, n + 50);
		SYS(tgkill(getpid(), me, SIGUSR2));
		SYS(tgkill(getpid(), me, SIGUSR2)); /* a standard signal waits once */
		move_nap(150000);
		take(who, SIGRTMIN + 6, SI_QUEUE, n + 50);
		for (int i = 0; i < DEEP; i++)
			take(who, SIGRTMIN + 5, SI_QUEUE, n + i);
		take(who, SIGUSR2, SI_TKILL, 0);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	move_begin(argc, argv);
	sigfillset(&all);
	sigdelset(&all, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	pthread_t t[2];
	pthread_create(&t[0], NULL, thread, "thread 1");
	pthread_create(&t[1], NULL, thread, "thread 2");
	move_ready();
	for (int n = 1; move_more(); n += 100) {
		SYS(kill(getpid(), SIGUSR1));
		for (int i = 0; i < DEEP; i++)
			put(0, SIGRTMIN + 1, n + i);
		for (int i = 0; i < DEEP; i++)
			put(0, SIGRTMIN + 2, n + 20 + i);
		put(0, SIGHUP, n);
		move_nap(200000);
		sigset_t p;
		sigpending(&p);
		CHECK(sigismember(&p, SIGUSR1) && sigismember(&p, SIGRTMIN + 2), "sigpending() does not show what waits");
		for (int i = 0; i < DEEP; i++)
			take("process", SIGRTMIN + 2, SI_QUEUE, n + 20 + i);
		for (int i = 0; i < DEEP; i++)
			take("process", SIGRTMIN + 1, SI_QUEUE, n + i);
		take("process", SIGUSR1, SI_USER, 0);
		take("process", SIGHUP, SI_QUEUE, n);
		none("process");
	}
	pthread_join(t[0], NULL);
	pthread_join(t[1], NULL);
	return move_pass();
}
