// SPDX-License-Identifier: Apache-2.0
/*
 * What happens to processes that the engine watches. Ptrace stops are told to a process by SIGCHLD only: one handler for the whole program writes to the
 * eventfd of each family that it concerns, which finds out by waitpid() on its own threads what it is. A chain to the handler that was there before.
 *
 * SIGCHLD is not queued, so the one that is named in it may not be the only one. Hollow families, of which a home has many and which have little to do, have said whom they watch: for each of
 * those it is asked whether there is something to wait for. (To wake all of them instead was ten of the 23 ms that a run with two births cost the home's migd beside nineteen others.) Any other
 * family is woken each time.
 *
 * Most stops are those of calls that we inject, and their tracer sits in waitpid(2) for just that thread: they ring no bell, else each would wake the actors of all families.
 * But SIGCHLD is not queued: that of a hollow which stops in the same moment may have been merged with one that rang none. So whoever waited rings after a millisecond at
 * most, and when he has done (events_catch_up).
 *
 * Lock: `slots` is a fixed table of families, entries set and cleared with atomics, read by the handler. Whom a family watches is changed by its own thread, and while it is, it is
 * woken each time; what happened before that is looked for after it (events_watched()).
 */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>
#include "conf/clock.h"
#include "conf/log.h"
#include "migd/engine/core.h"

enum { LISTENERS = 1024, WAITERS = 64, WATCHED = 16 };
static const uint64_t silence_ns = 1000000;
static struct slot {
	atomic_int fd;		      /* eventfd + 1; 0: free */
	atomic_int said;	      /* 1 + how many it watches; 0: it has not said */
	atomic_int watched[WATCHED];
} slots[LISTENERS];
static atomic_int used;		    /* beyond it none is taken */
static atomic_int awaited[WAITERS]; /* threads whose stop is being waited for; 0: free */
static atomic_bool muffled;	    /* a bell has not been rung since */
static _Atomic uint64_t rung_ns;
static struct sigaction before;

struct event_queue {
	struct eng_event *v;
	size_t n, cap;
	struct slot *slot;
};

static bool is_awaited(pid_t tid)
{
	for (int i = 0; i < WAITERS; i++)
		if (atomic_load(&awaited[i]) == tid)
			return true;
	return false;
}

/* Is there something that its family has to wait(2) for? Not by whoever is waiting for just that. */
static bool is_due(const struct slot *s, int n)
{
	for (int i = 0; i < n; i++) {
		pid_t tid = atomic_load_explicit(&s->watched[i], memory_order_relaxed);
		siginfo_t si = {0};

		if (tid && (waitid(P_PID, (id_t)tid, &si, WEXITED | WSTOPPED | WNOHANG | WNOWAIT | __WALL) < 0 || si.si_pid) && !is_awaited(tid))
			return true;
	}
	return false;
}

static void ring(void)
{
	int n = atomic_load(&used);
	uint64_t one = 1;

	for (int i = 0; i < n; i++) {
		int fd = atomic_load(&slots[i].fd), said = atomic_load(&slots[i].said);

		if (fd && (!said || is_due(&slots[i], said - 1)) && write(fd - 1, &one, sizeof(one)) < 0)
			continue; /* full: it is readable anyway */
	}
}

int events_await(pid_t tid)
{
	for (int i = 0; i < WAITERS; i++) {
		int is_free = 0;

		if (atomic_compare_exchange_strong(&awaited[i], &is_free, tid))
			return i;
	}
	return -1; /* its bell rings, then */
}

void events_awaited(int place)
{
	if (place >= 0)
		atomic_store(&awaited[place], 0);
	if (atomic_load(&muffled) && clock_mono_ns() - atomic_load(&rung_ns) > silence_ns)
		events_catch_up();
}

void events_catch_up(void)
{
	if (!atomic_exchange(&muffled, false))
		return;
	atomic_store(&rung_ns, clock_mono_ns());
	ring();
}

static void on_sigchld(int sig, siginfo_t *si, void *uc)
{
	int saved = errno;

	if (si->si_code == CLD_TRAPPED && is_awaited(si->si_pid)) {
		atomic_store(&muffled, true);
		if (!is_awaited(si->si_pid)) /* he has done waiting meanwhile, and looked before that was to be seen */
			ring();
	} else {
		ring();
	}
	if (before.sa_flags & SA_SIGINFO)
		before.sa_sigaction(sig, si, uc);
	else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN)
		before.sa_handler(sig);
	errno = saved;
}

static void install(void)
{
	static atomic_flag done = ATOMIC_FLAG_INIT;
	struct sigaction sa = {.sa_flags = SA_SIGINFO | SA_RESTART};

	if (atomic_flag_test_and_set(&done))
		return;
	sa.sa_sigaction = on_sigchld;
	sigfillset(&sa.sa_mask);
	sigaction(SIGCHLD, &sa, &before);
}

int events_add(struct eng_family *f, int fd)
{
	struct epoll_event ev = {.events = EPOLLIN};

	return epoll_ctl(f->event_fd, EPOLL_CTL_ADD, fd, &ev) < 0 ? -errno : 0;
}

int events_init(struct eng_family *f)
{
	install();
	f->events = calloc(1, sizeof(*f->events));
	f->event_fd = epoll_create1(EPOLL_CLOEXEC);
	f->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	f->apart_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (!f->events || f->event_fd < 0 || f->wake_fd < 0 || f->apart_fd < 0 || events_add(f, f->wake_fd) < 0 || events_add(f, f->apart_fd) < 0)
		return -errno;
	for (int i = 0; i < LISTENERS; i++) {
		int free_slot = 0;

		if (atomic_compare_exchange_strong(&slots[i].fd, &free_slot, f->wake_fd + 1)) {
			f->events->slot = &slots[i];
			for (int n = atomic_load(&used); n <= i && !atomic_compare_exchange_strong(&used, &n, i + 1);)
				;
			return 0;
		}
	}
	return -EMFILE;
}

void events_close(struct eng_family *f)
{
	if (f->events && f->events->slot) {
		atomic_store(&f->events->slot->fd, 0);
		atomic_store(&f->events->slot->said, 0);
	}
	if (f->event_fd >= 0)
		close(f->event_fd);
	if (f->wake_fd >= 0)
		close(f->wake_fd);
	if (f->apart_fd >= 0)
		close(f->apart_fd);
	f->event_fd = f->wake_fd = f->apart_fd = -1;
	if (f->events)
		free(f->events->v);
	free(f->events);
	f->events = NULL;
}

void event_push(struct eng_family *f, const struct eng_event *ev)
{
	struct event_queue *q = f->events;
	uint64_t one = 1;

	if (q->n == q->cap) {
		size_t cap = q->cap ? q->cap * 2 : 16;
		struct eng_event *v = realloc(q->v, cap * sizeof(*v));

		if (!v) {
			log_error("engine: no memory for an event of process %d", ev->pid);
			return;
		}
		q->v = v;
		q->cap = cap;
	}
	q->v[q->n++] = *ev;
	if (write(f->wake_fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
		log_error("engine: eventfd: %s", strerror(errno));
}

void event_exit_seen(struct eng_proc *p, struct eng_thread *t, int st)
{
	struct eng_event ev = {.kind = ENG_EXITED, .pid = p->vpid, .status = st};

	if (t != p->threads[0] || p->core->exit_sent)
		return;
	p->core->exit_sent = true;
	event_push(p->family, &ev);
}

/* Before its thread sleeps: whom it watches. true: it is another set than before, and what happened to one of them meanwhile may not have been told. */
static bool events_watched(struct eng_family *f)
{
	struct slot *s = f->events->slot;
	int tids[WATCHED], n = f->state == ENG_HOLLOW && !f->nest ? 0 : -1, had = atomic_load(&s->said) - 1;
	bool same;

	for (size_t i = 0; i < f->nprocs && n >= 0; i++)
		for (unsigned k = 0; k < f->procs[i]->nthreads && n >= 0; k++) {
			if (f->procs[i]->threads[k]->core->gone)
				continue;
			if (n < WATCHED)
				tids[n] = f->procs[i]->threads[k]->tid;
			n = n < WATCHED ? n + 1 : -1;
		}
	same = had == n;
	for (int i = 0; i < n && same; i++)
		same = atomic_load(&s->watched[i]) == tids[i];
	if (same)
		return false;
	atomic_store(&s->said, 0);
	for (int i = 0; i < n; i++)
		atomic_store(&s->watched[i], tids[i]);
	atomic_store(&s->said, n + 1);
	return true;
}

int eng_event_fd(struct eng_family *f)
{
	return f->event_fd;
}

int eng_next_event(struct eng_family *f, struct eng_event *ev)
{
	struct event_queue *q = f->events;
	uint64_t count;

	if (!q->n) {
		events_catch_up();
		hollow_release(f);
		if (read(f->wake_fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
			return -errno;
		watch_collect(f);
		if (!q->n && events_watched(f))
			watch_collect(f);
	}
	if (!q->n)
		return 0;
	*ev = q->v[0];
	memmove(&q->v[0], &q->v[1], (q->n - 1) * sizeof(q->v[0]));
	q->n--;
	return 1;
}
