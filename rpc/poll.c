/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The threads that wait for the completion queue of gRPC, and those that wait for direct connections (lane.c): two queues of the same kind.
 *
 * One at a time waits in it, the poller, and runs in place what it finds. When several wait there gRPC wakes one of the others for every event, to wait
 * while the first is busy, and puts the first to sleep afterwards: two to three wake-ups for each event that lasts ten microseconds, which was more than
 * half of what a small call cost. Here nobody is woken for what is short:
 *
 *     PARKED --queue is free--> POLLING --event--> RUNNING --end--> POLLING
 *        ^                                            | the queue is given up: rt_handover(), before what is known to be long or waits; or
 *        +-------------------- end -- RUNNING ALONE <-+ the watcher takes it, after a tick without end
 *
 * The watcher is one of the parked. It looks each TICK_US while events come, and sleeps when none does, or when the only one since it woke is over. So whatever runs for long, known or not, holds up the others
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

struct queue {
	bool (*next)(struct rt_tag **t, bool *ok); /* waits; false: the queue is at its end */
	const char *name;
	pthread_t threads[THREADS_MAX];
	int nthreads, nwanted; /* wanted: beyond THREADS, by servers */
	pthread_mutex_t lock;
	pthread_cond_t parked_cond, watch_cond; /* watch_cond: of CLOCK_MONOTONIC */
	unsigned parked;
	bool free, watched, stop;
	_Atomic uint64_t run;
	_Atomic bool asleep; /* the watcher */
};

static grpc_completion_queue *cq;

static bool cq_next(struct rt_tag **t, bool *ok)
{
	grpc_event ev = grpc_completion_queue_next(cq, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);

	*t = ev.tag;
	*ok = ev.success;
	return ev.type != GRPC_QUEUE_SHUTDOWN;
}

static struct queue queues[] = {
	[RT_CALLS] = {.next = cq_next, .name = "rpc", .lock = PTHREAD_MUTEX_INITIALIZER, .parked_cond = PTHREAD_COND_INITIALIZER},
	[RT_LANES] = {.next = lanes_next, .name = "rpc-lane", .lock = PTHREAD_MUTEX_INITIALIZER, .parked_cond = PTHREAD_COND_INITIALIZER},
};

static __thread uint64_t mine; /* value of run while this thread is in an event and has the queue; else 0 */
static __thread struct queue *my_queue;

grpc_completion_queue *rt_cq(void)
{
	return cq;
}

void rt_start(grpc_call *call, const grpc_op *op, size_t n, struct rt_tag *t)
{
	HANDOVER_GIVE(t);
	if (grpc_call_start_batch(call, op, n, t, NULL) != GRPC_CALL_OK)
		abort(); /* only wrong use of the API does that */
}

/* With the lock. */
static void wake_one(struct queue *q)
{
	if (q->parked)
		pthread_cond_signal(&q->parked_cond);
	else if (q->watched)
		pthread_cond_signal(&q->watch_cond);
}

void rt_handover(void)
{
	struct queue *q = my_queue;
	uint64_t v = mine;

	mine = 0;
	if (!v || !atomic_compare_exchange_strong(&q->run, &v, v + 1))
		return;
	pthread_mutex_lock(&q->lock);
	q->free = true;
	wake_one(q);
	pthread_mutex_unlock(&q->lock);
}

static void tick(struct queue *q)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	ts.tv_nsec += TICK_US * 1000;
	if (ts.tv_nsec >= 1000000000) {
		ts.tv_nsec -= 1000000000;
		ts.tv_sec++;
	}
	pthread_cond_timedwait(&q->watch_cond, &q->lock, &ts);
}

/* Nothing has happened for a while: until an event begins. */
static void doze(struct queue *q)
{
	atomic_store(&q->asleep, true);
	while (!(atomic_load(&q->run) & 1) && atomic_load(&q->asleep) && !q->free && !q->stop)
		pthread_cond_wait(&q->watch_cond, &q->lock);
	atomic_store(&q->asleep, false);
}

/* With the lock. True: an event took too long, and the queue is ours now. False: look whether it is free. */
static bool watch(struct queue *q)
{
	uint64_t last = atomic_load(&q->run), woken = last, now;
	int idle = 0;

	while (!q->free && !q->stop) {
		if (idle < IDLE_TICKS) {
			tick(q);
		} else {
			doze(q);
			idle = 0;
			woken = last = atomic_load(&q->run);
			continue;
		}
		now = atomic_load(&q->run);
		if (!q->free && (now & 1) && now == last && atomic_compare_exchange_strong(&q->run, &now, now + 1))
			return true;
		idle = now == last ? idle + 1 : 0;
		if (!(now & 1) && now - woken < 4) /* what woke us, and nothing else: on a host where nothing happens each tick is the CPU out of its sleep */
			idle = IDLE_TICKS;
		last = now;
	}
	return false;
}

/* Parked until the queue is ours; false: it is no more. */
static bool queue_take(struct queue *q)
{
	bool got = false;

	pthread_mutex_lock(&q->lock);
	while (!got && !q->stop) {
		if (q->free) {
			q->free = false;
			got = true;
		} else if (!q->watched) {
			q->watched = true;
			got = watch(q);
			q->watched = false;
		} else {
			q->parked++;
			pthread_cond_wait(&q->parked_cond, &q->lock);
			q->parked--;
		}
	}
	if (got && !q->watched && q->parked)
		pthread_cond_signal(&q->parked_cond); /* to watch */
	pthread_mutex_unlock(&q->lock);
	return got;
}

static void run_event(struct queue *q, struct rt_tag *t, bool ok)
{
	mine = atomic_load(&q->run) + 1;
	atomic_store(&q->run, mine);
	if (atomic_load(&q->asleep) && atomic_exchange(&q->asleep, false)) {
		pthread_mutex_lock(&q->lock);
		pthread_cond_signal(&q->watch_cond);
		pthread_mutex_unlock(&q->lock);
	}
	HANDOVER_TAKE(t);
	t->fn(t, ok);
}

/* Is the queue still ours? */
static bool event_end(struct queue *q)
{
	uint64_t v = mine;

	mine = 0;
	return v && atomic_compare_exchange_strong(&q->run, &v, v + 1);
}

static void *poll_main(void *arg)
{
	struct queue *q = my_queue = arg;
	struct rt_tag *t;
	bool ok;

	while (queue_take(q)) {
		do {
			if (!q->next(&t, &ok)) {
				pthread_mutex_lock(&q->lock);
				q->stop = true;
				pthread_cond_broadcast(&q->parked_cond);
				pthread_cond_broadcast(&q->watch_cond);
				pthread_mutex_unlock(&q->lock);
				return NULL;
			}
			run_event(q, t, ok);
		} while (event_end(q));
	}
	return NULL;
}

/* Threads stay when a server stops: the next one takes them over. */
int rt_threads_add(enum rt_which which, int n)
{
	struct queue *q = &queues[which];
	int r = 0;

	pthread_mutex_lock(&q->lock);
	q->nwanted += n;
	while (!r && q->nthreads < THREADS + q->nwanted) {
		r = q->nthreads < THREADS_MAX ? rt_thread(&q->threads[q->nthreads], poll_main, q, q->name) : -EAGAIN;
		if (!r)
			q->nthreads++;
	}
	pthread_mutex_unlock(&q->lock);
	return r;
}

void rt_threads_del(enum rt_which which, int n)
{
	pthread_mutex_lock(&queues[which].lock);
	queues[which].nwanted -= n;
	pthread_mutex_unlock(&queues[which].lock);
}

static void queue_init(struct queue *q)
{
	pthread_condattr_t ca;

	pthread_condattr_init(&ca);
	pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
	pthread_cond_init(&q->watch_cond, &ca);
	pthread_condattr_destroy(&ca);
	q->free = true;
	q->stop = false;
	q->run = 0;
}

int rt_poll_start(void)
{
	for (size_t i = 0; i < sizeof(queues) / sizeof(queues[0]); i++)
		queue_init(&queues[i]);
	cq = grpc_completion_queue_create_for_next(NULL);
	return rt_threads_add(RT_CALLS, 0);
}

static void queue_end(struct queue *q)
{
	for (int i = 0; i < q->nthreads; i++)
		pthread_join(q->threads[i], NULL);
	q->nthreads = q->nwanted = 0;
	pthread_cond_destroy(&q->watch_cond);
}

void rt_poll_stop(void)
{
	lanes_stop();
	queue_end(&queues[RT_LANES]);
	lanes_stopped();
	grpc_completion_queue_shutdown(cq);
	queue_end(&queues[RT_CALLS]);
	grpc_completion_queue_destroy(cq);
	cq = NULL;
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
