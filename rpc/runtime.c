/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process-wide part of rpc: start and end of gRPC, timers, call numbers, and gRPC's own log. Its threads are in poll.c.
 *
 * Locking: `clock_lock` protects the timer list, `seq_lock` the numbers; neither is held while foreign code runs.
 */
#include "rpc/internal.h"
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <malloc.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <grpc/support/log.h>
#include <openssl/crypto.h>
#include "conf/clock.h"
#include "conf/log.h"

static struct {
	pthread_t clock;
	pthread_mutex_t clock_lock;
	pthread_cond_t clock_cond;
	TAILQ_HEAD(rt_timers, rt_timer) timers; /* by when_ns */
	bool stop;
	struct rt_timer trim;
	_Atomic bool active; /* a frame came since the timer ran last */
	bool grown;
	pthread_mutex_t seq_lock;
	_Atomic uint64_t *next_seq; /* NULL: own_seq */
	TAILQ_HEAD(rt_seq_list, rt_seq) unfinished; /* by seq */
} rt = {
	.clock_lock = PTHREAD_MUTEX_INITIALIZER,
	.seq_lock = PTHREAD_MUTEX_INITIALIZER,
};

uint64_t rt_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

void rt_event_set(struct rt_event *e)
{
	/* The waiter may return and free `e` as soon as it sees the store; FUTEX_WAKE on a stale address is harmless. */
	atomic_store(&e->set, 1);
	syscall(SYS_futex, &e->set, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

void rt_event_wait(struct rt_event *e)
{
	rt_handover();
	while (!atomic_load(&e->set))
		syscall(SYS_futex, &e->set, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
}

/* Signals belong to the daemon's main thread: every thread of ours (and those that gRPC starts from them) blocks all. */
int rt_thread(pthread_t *t, void *(*fn)(void *), void *arg, const char *name)
{
	sigset_t all, old;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(t, NULL, fn, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!r)
		pthread_setname_np(*t, name);
	return -r;
}

/* ---- timers ---- */
static void timer_insert(struct rt_timer *t)
{
	struct rt_timer *at;

	/* Most are armed with the same delay, so that the end is nearly always the place. */
	TAILQ_FOREACH_REVERSE (at, &rt.timers, rt_timers, link)
		if (at->when_ns <= t->when_ns)
			break;
	if (at)
		TAILQ_INSERT_AFTER(&rt.timers, at, t, link);
	else
		TAILQ_INSERT_HEAD(&rt.timers, t, link);
	if (TAILQ_FIRST(&rt.timers) == t)
		pthread_cond_signal(&rt.clock_cond);
}

void rt_timer_arm(struct rt_timer *t, unsigned ms)
{
	pthread_mutex_lock(&rt.clock_lock);
	t->when_ns = rt_now_ns() + ms * 1000000ull;
	t->armed = true;
	timer_insert(t);
	pthread_mutex_unlock(&rt.clock_lock);
}

bool rt_timer_hurry(struct rt_timer *t)
{
	bool armed;

	pthread_mutex_lock(&rt.clock_lock);
	armed = t->armed;
	if (armed) {
		TAILQ_REMOVE(&rt.timers, t, link);
		t->when_ns = 0;
		timer_insert(t);
		pthread_cond_signal(&rt.clock_cond);
	}
	pthread_mutex_unlock(&rt.clock_lock);
	return armed;
}

static void *clock_main(void *arg)
{
	struct rt_timer *t;

	(void)arg;
	pthread_mutex_lock(&rt.clock_lock);
	while (!rt.stop) {
		t = TAILQ_FIRST(&rt.timers);
		if (!t) {
			pthread_cond_wait(&rt.clock_cond, &rt.clock_lock);
		} else if (t->when_ns > rt_now_ns()) {
			struct timespec ts = { t->when_ns / 1000000000, t->when_ns % 1000000000 };

			pthread_cond_timedwait(&rt.clock_cond, &rt.clock_lock, &ts);
		} else {
			TAILQ_REMOVE(&rt.timers, t, link);
			t->armed = false;
			pthread_mutex_unlock(&rt.clock_lock);
			t->fn(t);
			pthread_mutex_lock(&rt.clock_lock);
		}
	}
	pthread_mutex_unlock(&rt.clock_lock);
	return NULL;
}

/* ---- call numbers ---- */
static _Atomic uint64_t own_seq;
static __thread uint64_t use_seq, *note_seq;

void rpc_seq_keep(_Atomic uint64_t *next)
{
	rt.next_seq = next;
}

void rpc_seq_note(uint64_t *where)
{
	note_seq = where;
}

void rpc_seq_use(uint64_t seq)
{
	use_seq = seq;
}

/* With seq_lock: before the first that is higher, so that the list stays in order. */
static void seq_insert(struct rt_seq *q)
{
	struct rt_seq *at;

	TAILQ_FOREACH_REVERSE(at, &rt.unfinished, rt_seq_list, link) {
		if (at->seq <= q->seq) {
			TAILQ_INSERT_AFTER(&rt.unfinished, at, q, link);
			return;
		}
	}
	TAILQ_INSERT_HEAD(&rt.unfinished, q, link);
}

void rpc_seq_hold(uint64_t seq)
{
	struct rt_seq *q = calloc(1, sizeof(*q));

	if (!q)
		abort();
	q->seq = seq;
	q->held = q->listed = true;
	pthread_mutex_lock(&rt.seq_lock);
	seq_insert(q);
	pthread_mutex_unlock(&rt.seq_lock);
}

void rpc_seq_drop(uint64_t seq)
{
	struct rt_seq *q;

	pthread_mutex_lock(&rt.seq_lock);
	TAILQ_FOREACH(q, &rt.unfinished, link)
		if (q->seq == seq && q->held)
			break;
	if (q)
		TAILQ_REMOVE(&rt.unfinished, q, link);
	pthread_mutex_unlock(&rt.seq_lock);
	free(q);
}

bool rt_seq_begin(struct rt_seq *q, bool mutates, uint64_t *acked)
{
	uint64_t old = mutates ? use_seq : 0;

	pthread_mutex_lock(&rt.seq_lock);
	q->seq = old ? old : atomic_fetch_add(rt.next_seq ? rt.next_seq : &own_seq, 1) + 1;
	q->listed = mutates;
	if (mutates) {
		q->noted = note_seq;
		if (note_seq)
			*note_seq = q->seq;
		seq_insert(q);
		use_seq = 0;
		note_seq = NULL;
	}
	*acked = TAILQ_EMPTY(&rt.unfinished) ? q->seq : TAILQ_FIRST(&rt.unfinished)->seq;
	pthread_mutex_unlock(&rt.seq_lock);
	if (old)
		rpc_seq_drop(old);
	return old;
}

void rt_seq_end(struct rt_seq *q)
{
	if (!q->listed)
		return;
	pthread_mutex_lock(&rt.seq_lock);
	TAILQ_REMOVE(&rt.unfinished, q, link);
	q->listed = false;
	pthread_mutex_unlock(&rt.seq_lock);
}

/* ---- memory ---- */
/*
 * The allocator is told to keep what is freed (rpc_init()): right under load, but a daemon that has moved one big process would stay big. After
 * half a minute without a frame everything goes back to the kernel.
 */
#define TRIM_MS 30000

void rt_active(void)
{
	atomic_store_explicit(&rt.active, true, memory_order_relaxed);
}

static void trim(struct rt_timer *t)
{
	if (atomic_exchange(&rt.active, false)) {
		rt.grown = true;
	} else if (rt.grown) {
		malloc_trim(0);
		rt.grown = false;
	}
	rt_timer_arm(t, TRIM_MS);
}

/* ---- start and end ---- */
/*
 * Debian builds abseil, whose mutexes gRPC uses, with its search for lock cycles switched on: some 5 % of the CPU time of a call. There is a C++ function
 * to switch it off; without it we are only slower.
 */
static void no_deadlock_search(void)
{
	void (*set)(int) = (void (*)(int))dlsym(RTLD_DEFAULT, "_ZN4absl7debian329SetMutexDeadlockDetectionModeENS0_15OnDeadlockCycleE");

	if (set)
		set(0); /* OnDeadlockCycle::kIgnore */
}

static void grpc_to_log(gpr_log_func_args *a)
{
	/* gRPC calls a peer that goes away an error; what matters to people is logged by our own code with the peer's name. But for its last words. */
	if (strstr(a->message, "assertion failed"))
		log_error("grpc: %s:%d: %s", a->file, a->line, a->message);
	else
		log_debug("grpc: %s", a->message);
}

/*
 * TLS 1.3 only: gRPC's C API cannot set the lowest version, but its cipher list governs TLS 1.2 alone (SSL_CTX_set_cipher_list(3)),
 * and a pre-shared-key cipher can never be agreed on by us. 1.3 has its own list.
 */
#define CIPHERS_WITHOUT_TLS12 "PSK-AES256-GCM-SHA384"

void rt_openssl_stays(void)
{
	/*
	 * At exit(3) OpenSSL would take down what threads of gRPC that are still ending (it does not join all) use, and what each of them has of its own would
	 * be lost: the 984 bytes of a thread's errors and random numbers that the leak checker saw now and then. Only its first initialisation decides that.
	 */
	OPENSSL_init_crypto(OPENSSL_INIT_NO_ATEXIT, NULL);
}

static unsigned long slack_ns;
static grpc_channel *first; /* never connects */

void rpc_init_slack(unsigned ms)
{
	slack_ns = ms * 1000000ul;
}

/*
 * gRPC's threads, with the timer slack that they and theirs inherit. Its timers are in several lists (two for each CPU), each of which wakes its thread every second
 * though it be empty; and there is a second such thread, which the first channel starts and the last one ends. With slack they are seen to together.
 */
static void grpc_start(void)
{
	long old = prctl(PR_GET_TIMERSLACK);
	grpc_channel_credentials *cred;

	if (slack_ns)
		prctl(PR_SET_TIMERSLACK, slack_ns);
	grpc_init();
	if (!slack_ns)
		return;
	cred = grpc_insecure_credentials_create();
	first = grpc_channel_create("unix:/none", cred, NULL);
	grpc_channel_credentials_release(cred);
	prctl(PR_SET_TIMERSLACK, old > 0 ? (unsigned long)old : 0);
}

int rpc_init(void)
{
	int err;
	sigset_t all, old;
	pthread_condattr_t ca;
	long cpus;

	/* A frame of 1 MiB is allocated and freed for every bulk call: without these each one goes to the kernel and back. */
	mallopt(M_TRIM_THRESHOLD, 1 << 30);
	mallopt(M_MMAP_THRESHOLD, 32 << 20);
	mallopt(M_TOP_PAD, 16 << 20);
	/* Few arenas: what one thread frees another uses, and only the first one's top is ever given back. */
	cpus = sysconf(_SC_NPROCESSORS_ONLN);
	mallopt(M_ARENA_MAX, cpus < 8 ? 1 : cpus < 32 ? 2 : 4);
	if (cpus <= 2)
		rt_long_ns = RT_LONG_FEW_CPUS_NS;
	no_deadlock_search();
	rt_openssl_stays();
	setenv("GRPC_POLL_STRATEGY", "epoll1", 0);
	setenv("GRPC_DNS_RESOLVER", "native", 1); /* getaddrinfo: /etc/hosts counts */
	setenv("GRPC_SSL_CIPHER_SUITES", CIPHERS_WITHOUT_TLS12, 1);
	gpr_set_log_function(grpc_to_log);
	gpr_set_log_verbosity(log_enabled(LOG_DBG) ? GPR_LOG_SEVERITY_DEBUG : GPR_LOG_SEVERITY_ERROR);

	TAILQ_INIT(&rt.timers);
	TAILQ_INIT(&rt.unfinished);
	rt.stop = false;
	pthread_condattr_init(&ca);
	pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
	pthread_cond_init(&rt.clock_cond, &ca);
	pthread_condattr_destroy(&ca);

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	grpc_start();
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	rt.trim.fn = trim;
	rt_timer_arm(&rt.trim, TRIM_MS);
	err = rt_poll_start();
	return err ? err : rt_thread(&rt.clock, clock_main, NULL, "rpc-clock");
}

void rpc_shutdown(void)
{
	pthread_mutex_lock(&rt.clock_lock);
	rt.stop = true;
	pthread_cond_signal(&rt.clock_cond);
	pthread_mutex_unlock(&rt.clock_lock);
	pthread_join(rt.clock, NULL);
	rt_poll_stop();
	pthread_cond_destroy(&rt.clock_cond);
	if (first)
		grpc_channel_destroy(first);
	first = NULL;
	grpc_shutdown_blocking();
}
