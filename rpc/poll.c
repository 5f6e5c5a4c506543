/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The threads that wait for the completion queue.
 *
 * One at a time waits in it, the poller, and runs in place what it finds. When several wait there gRPC wakes one of the others for every event, to wait
 * while the first is busy, and puts the first to sleep afterwards: two to three wake-ups for each event that lasts ten microseconds, which was more than
 * half of what a small call cost. Here nobody is woken for what is short:
 *
 *     PARKED --queue is free--> POLLING --event--> RUNNING --end--> POLLING
 *        ^                                            | the queue is given up: rt_handover(), before what is known to be long or waits; or
 *        +-------------------- end -- RUNNING ALONE <-+ the watcher takes it, after a tick without end
 *
 * The watcher is one of the parked. It looks each TICK_US while events come, and sleeps when none does. So whatever runs for long, known or not, holds up the others
 * for two ticks at most; and no wait of rpc's own (rt_event, streams) holds the queue.
 *
 * Locking: `lock` for all but `run` and `asleep`. `run` grows: even, the queue is polled or free; odd, its poller is in an event. Whoever changes it from odd
 * to even (compare and swap) has the queue.
 */
#include "rpc/internal.h"
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#define THREADS	    2 /* poller and watcher; those of servers' workers come on top */
#define THREADS_MAX 256
#define TICK_US	    1000
#define IDLE_TICKS  3

static struct {
	grpc_completion_queue *cq;
	pthread_t threads[THREADS_MAX];
	int nthreads, nwanted; /* wanted: beyond THREADS, by servers */
	pthread_mutex_t lock;
	pthread_cond_t parked_cond, watch_cond; /* watch_cond: of CLOCK_MONOTONIC */
	unsigned parked;
	bool free, watched, stop;
	_Atomic uint64_t run;
	_Atomic bool asleep; /* the watcher */
} poll = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.parked_cond = PTHREAD_COND_INITIALIZER,
};

static __thread uint64_t mine; /* value of run while this thread is in an event and has the queue; else 0 */

grpc_completion_queue *rt_cq(void)
{
	return poll.cq;
}

void rt_start(grpc_call *call, const grpc_op *op, size_t n, struct rt_tag *t)
{
	HANDOVER_GIVE(t);
	if (grpc_call_start_batch(call, op, n, t, NULL) != GRPC_CALL_OK)
		abort(); /* only wrong use of the API does that */
}

/* With the lock. */
static void wake_one(void)
{
	if (poll.parked)
		pthread_cond_signal(&poll.parked_cond);
	else if (poll.watched)
		pthread_cond_signal(&poll.watch_cond);
}

void rt_handover(void)
{
	uint64_t v = mine;

	mine = 0;
	if (!v || !atomic_compare_exchange_strong(&poll.run, &v, v + 1))
		return;
	pthread_mutex_lock(&poll.lock);
	poll.free = true;
	wake_one();
	pthread_mutex_unlock(&poll.lock);
}

static void tick(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	ts.tv_nsec += TICK_US * 1000;
	if (ts.tv_nsec >= 1000000000) {
		ts.tv_nsec -= 1000000000;
		ts.tv_sec++;
	}
	pthread_cond_timedwait(&poll.watch_cond, &poll.lock, &ts);
}

/* Nothing has happened for a while: until an event begins. */
static void doze(void)
{
	atomic_store(&poll.asleep, true);
	while (!(atomic_load(&poll.run) & 1) && atomic_load(&poll.asleep) && !poll.free && !poll.stop)
		pthread_cond_wait(&poll.watch_cond, &poll.lock);
	atomic_store(&poll.asleep, false);
}

/* With the lock. True: an event took too long, and the queue is ours now. False: look whether it is free. */
static bool watch(void)
{
	uint64_t last = atomic_load(&poll.run), now;
	int idle = 0;

	while (!poll.free && !poll.stop) {
		if (idle < IDLE_TICKS) {
			tick();
		} else {
			doze();
			idle = 0;
			last = atomic_load(&poll.run);
			continue;
		}
		now = atomic_load(&poll.run);
		if (!poll.free && (now & 1) && now == last && atomic_compare_exchange_strong(&poll.run, &now, now + 1))
			return true;
		idle = now == last ? idle + 1 : 0;
		last = now;
	}
	return false;
}

/* Parked until the queue is ours; false: it is no more. */
static bool queue_take(void)
{
	bool got = false;

	pthread_mutex_lock(&poll.lock);
	while (!got && !poll.stop) {
		if (poll.free) {
			poll.free = false;
			got = true;
		} else if (!poll.watched) {
			poll.watched = true;
			got = watch();
			poll.watched = false;
		} else {
			poll.parked++;
			pthread_cond_wait(&poll.parked_cond, &poll.lock);
			poll.parked--;
		}
	}
	if (got && !poll.watched && poll.parked)
		pthread_cond_signal(&poll.parked_cond); /* to watch */
	pthread_mutex_unlock(&poll.lock);
	return got;
}

static void run_event(grpc_event ev)
{
	struct rt_tag *t = ev.tag;

	mine = atomic_load(&poll.run) + 1;
	atomic_store(&poll.run, mine);
	if (atomic_load(&poll.asleep) && atomic_exchange(&poll.asleep, false)) {
		pthread_mutex_lock(&poll.lock);
		pthread_cond_signal(&poll.watch_cond);
		pthread_mutex_unlock(&poll.lock);
	}
	HANDOVER_TAKE(t);
	t->fn(t, ev.success);
}

/* Is the queue still ours? */
static bool event_end(void)
{
	uint64_t v = mine;

	mine = 0;
	return v && atomic_compare_exchange_strong(&poll.run, &v, v + 1);
}

static void *poll_main(void *arg)
{
	grpc_event ev;

	(void)arg;
	while (queue_take()) {
		do {
			ev = grpc_completion_queue_next(poll.cq, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
			if (ev.type == GRPC_QUEUE_SHUTDOWN) {
				pthread_mutex_lock(&poll.lock);
				poll.stop = true;
				pthread_cond_broadcast(&poll.parked_cond);
				pthread_cond_broadcast(&poll.watch_cond);
				pthread_mutex_unlock(&poll.lock);
				return NULL;
			}
			run_event(ev);
		} while (event_end());
	}
	return NULL;
}

/* Threads stay when a server stops: the next one takes them over. */
int rt_threads_add(int n)
{
	int r = 0;

	pthread_mutex_lock(&poll.lock);
	poll.nwanted += n;
	while (!r && poll.nthreads < THREADS + poll.nwanted) {
		r = poll.nthreads < THREADS_MAX ? rt_thread(&poll.threads[poll.nthreads], poll_main, NULL, "rpc") : -EAGAIN;
		if (!r)
			poll.nthreads++;
	}
	pthread_mutex_unlock(&poll.lock);
	return r;
}

void rt_threads_del(int n)
{
	pthread_mutex_lock(&poll.lock);
	poll.nwanted -= n;
	pthread_mutex_unlock(&poll.lock);
}

int rt_poll_start(void)
{
	pthread_condattr_t ca;

	pthread_condattr_init(&ca);
	pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
	pthread_cond_init(&poll.watch_cond, &ca);
	pthread_condattr_destroy(&ca);
	poll.free = true;
	poll.stop = false;
	poll.run = 0;
	poll.cq = grpc_completion_queue_create_for_next(NULL);
	return rt_threads_add(0);
}

void rt_poll_stop(void)
{
	int i;

	grpc_completion_queue_shutdown(poll.cq);
	for (i = 0; i < poll.nthreads; i++)
		pthread_join(poll.threads[i], NULL);
	poll.nthreads = poll.nwanted = 0;
	grpc_completion_queue_destroy(poll.cq);
	poll.cq = NULL;
	pthread_cond_destroy(&poll.watch_cond);
}

/* ---- is it worth another thread? */

uint64_t rt_long_ns = RT_LONG_NS;

void rt_cost_note(struct rt_cost *c, uint64_t began_ns)
{
	int n = atomic_load_explicit(&c->score, memory_order_relaxed);
	bool l = rt_now_ns() - began_ns > rt_long_ns;

	if (l ? n < RT_SCORE_MAX : n > 0)
		atomic_store_explicit(&c->score, l ? n + 1 : n - 1, memory_order_relaxed);
}
