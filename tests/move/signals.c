/* SPDX-License-Identifier: Apache-2.0 */
/* Signal dispositions with all their flags, ignored signals, masks of three threads, and delivery itself. */
#include "move.h"

static volatile sig_atomic_t got[65];
static volatile sig_atomic_t nested, on_alt;
static char *alt_base;
#define ALT_SIZE 65536

static void plain(int sig)
{
	got[sig]++;
}

static void info(int sig, siginfo_t *si, void *uc)
{
	(void)uc;
	char here;
	on_alt = &here >= alt_base && &here < alt_base + ALT_SIZE;
	nested = si->si_value.sival_int;
	got[sig]++;
}

static const struct expect {
	int sig, flags;
	void *handler;
	int masked; /* one signal of sa_mask, 0 none */
} table[] = {
	{SIGHUP, SA_RESTART, plain, SIGUSR2},
	{SIGUSR1, SA_SIGINFO | SA_ONSTACK, info, SIGHUP},
	{SIGUSR2, SA_SIGINFO | SA_NODEFER, info, 0},
	{SIGCHLD, SA_NOCLDSTOP | SA_NOCLDWAIT, plain, 0},
	{SIGPIPE, 0, SIG_IGN, 0},
	{SIGQUIT, SA_RESTART, SIG_IGN, SIGINT},
	{SIGWINCH, SA_RESTART | SA_NODEFER, plain, SIGALRM},
	{SIGTRAP, 0, plain, 0},
	{SIGINT, 0, SIG_DFL, 0},
	{40, SA_SIGINFO | SA_RESTART | SA_ONSTACK, info, 41},
	{64, SA_SIGINFO, info, 63},
};
#define N (sizeof table / sizeof table[0])

static void check_table(void)
{
	for (unsigned i = 0; i < N; i++) {
		struct sigaction is;
		SYS(sigaction(table[i].sig, NULL, &is));
		CHECK((void *)is.sa_handler == table[i].handler, "signal %d: handler changed", table[i].sig);
		CHECK((is.sa_flags & ~0x04000000) == table[i].flags, "signal %d: flags are %x, not %x", table[i].sig, is.sa_flags,
		      table[i].flags);
		for (int s = 1; s < 64; s++)
			CHECK(sigismember(&is.sa_mask, s) == (s == table[i].masked), "signal %d: %d in its mask", table[i].sig, s);
	}
	struct sigaction is;
	SYS(sigaction(SIGXCPU, NULL, &is));
	CHECK(is.sa_handler == SIG_DFL, "a default disposition changed");
}

static void check_mask(const char *who, const int *blocked)
{
	sigset_t m;
	pthread_sigmask(SIG_BLOCK, NULL, &m);
	for (int s = 1; s <= 64; s++) {
		if (s == 32 || s == 33)
			continue;
		bool want = false;
		for (const int *b = blocked; *b; b++)
			want |= *b == s;
		CHECK(sigismember(&m, s) == want, "%s: signal %d is %sblocked", who, s, want ? "not " : "");
	}
}

static volatile bool stop;
static const int masks[3][6] = {{SIGALRM, 50, 0}, {SIGHUP, SIGUSR1, 40, 0}, {SIGTERM, SIGVTALRM, 60, 61, 0}};

static void block(const int *list)
{
	sigset_t m;
	sigemptyset(&m);
	for (; *list; list++)
		sigaddset(&m, *list);
	pthread_sigmask(SIG_SETMASK, &m, NULL);
}

static void *thread(void *arg)
{
	int me = (int)(uintptr_t)arg;
	block(masks[me]);
	while (!stop) {
		check_mask(me == 1 ? "thread 1" : "thread 2", masks[me]);
		move_nap(1000);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	move_begin(argc, argv);
	alt_base = mmap(NULL, ALT_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	stack_t ss = {.ss_sp = alt_base, .ss_size = ALT_SIZE};
	SYS(sigaltstack(&ss, NULL));
	for (unsigned i = 0; i < N; i++) {
		struct sigaction sa = {.sa_flags = table[i].flags};
		sa.sa_handler = table[i].handler;
		if (table[i].masked)
			sigaddset(&sa.sa_mask, table[i].masked);
		SYS(sigaction(table[i].sig, &sa, NULL));
	}
	pthread_t t[2];
	for (uintptr_t i = 1; i <= 2; i++)
		pthread_create(&t[i - 1], NULL, thread, (void *)i);
	block(masks[0]);
	move_ready();
	for (int n = 1; move_more(); n++) {
		check_table();
		check_mask("main thread", masks[0]);
		stack_t is;
		SYS(sigaltstack(NULL, &is));
		CHECK(is.ss_sp == alt_base && is.ss_size == ALT_SIZE && !is.ss_flags, "the alternate stack changed");
		int before = got[SIGUSR1];
		union sigval v = {.sival_int = n};
		SYS(pthread_sigqueue(pthread_self(), SIGUSR1, v));
		CHECK(got[SIGUSR1] == before + 1 && nested == n, "SIGUSR1 with value %d: handler saw %d", n, nested);
		CHECK(on_alt, "SIGUSR1's handler did not run on the alternate stack");
		SYS(pthread_sigqueue(pthread_self(), SIGUSR2, v));
		CHECK(!on_alt, "SIGUSR2's handler ran on the alternate stack");
		raise(SIGPIPE);
		move_nap(500);
	}
	stop = true;
	pthread_join(t[0], NULL);
	pthread_join(t[1], NULL);
	return move_pass();
}
