/* SPDX-License-Identifier: Apache-2.0 */
/* 17 threads: mutexes, condition variables, barrier, read-write lock, thread-local storage, tids and names. */
#include "move.h"
#include <sys/prctl.h>

#define WORKERS 16

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn_changed = PTHREAD_COND_INITIALIZER;
static pthread_rwlock_t rw = PTHREAD_RWLOCK_INITIALIZER;
static pthread_barrier_t barrier;
static unsigned turn;		 /* lock: whose turn in the ring */
static uint64_t rounds, hash = 1; /* lock */
static bool stop;		 /* lock */
static uint64_t rw_a, rw_b;	 /* rw: always equal */
static __thread uint64_t tls = 0x1234;

static void *worker(void *arg)
{
	unsigned me = (unsigned)(uintptr_t)arg;
	pid_t tid = gettid();
	char name[16], is[16];
	snprintf(name, sizeof name, "ring-%u", me);
	pthread_setname_np(pthread_self(), name);
	tls = me * 7919u;
	uint64_t mine = 0;
	for (bool go = true; go;) {
		pthread_mutex_lock(&lock);
		while (turn != me && !stop)
			pthread_cond_wait(&turn_changed, &lock);
		go = !stop;
		if (go) {
			hash = hash * 6364136223846793005u + me;
			mine++;
			if (me == WORKERS - 1)
				rounds++;
			turn = (me + 1) % WORKERS;
			pthread_cond_broadcast(&turn_changed);
		}
		pthread_mutex_unlock(&lock);
		if (me & 1) {
			pthread_rwlock_rdlock(&rw);
			CHECK(rw_a == rw_b, "thread %u: read lock let a writer in", me);
			pthread_rwlock_unlock(&rw);
		} else {
			pthread_rwlock_wrlock(&rw);
			rw_a++;
			sched_yield();
			rw_b++;
			pthread_rwlock_unlock(&rw);
		}
		CHECK(tls == me * 7919u, "thread %u: thread-local storage changed", me);
		CHECK(gettid() == tid, "thread %u: tid was %d, is %d", me, tid, gettid());
		prctl(PR_GET_NAME, is);
		CHECK(!strcmp(name, is), "thread %u: name was %s, is %s", me, name, is);
	}
	pthread_barrier_wait(&barrier);
	return (void *)(uintptr_t)mine;
}

int main(int argc, char **argv)
{
	move_begin(argc, argv);
	pthread_t t[WORKERS];
	pthread_barrier_init(&barrier, NULL, WORKERS + 1);
	for (uintptr_t i = 0; i < WORKERS; i++)
		CHECK(!pthread_create(&t[i], NULL, worker, (void *)i), "pthread_create");
	move_ready();
	while (move_more()) {
		uint64_t before, after;
		pthread_mutex_lock(&lock);
		before = rounds;
		pthread_mutex_unlock(&lock);
		move_nap(20000);
		for (int i = 0; i < 3000; i++) { /* a minute for one round: a lost wake-up stands still for ever */
			pthread_mutex_lock(&lock);
			after = rounds;
			pthread_mutex_unlock(&lock);
			if (after != before)
				break;
			move_nap(20000);
		}
		CHECK(after != before, "the ring stands still: a wake-up was lost");
	}
	pthread_mutex_lock(&lock);
	stop = true;
	pthread_cond_broadcast(&turn_changed);
	pthread_mutex_unlock(&lock);
	pthread_barrier_wait(&barrier);
	uint64_t sum = 0, expect = 1;
	for (int i = 0; i < WORKERS; i++) {
		void *n;
		pthread_join(t[i], &n);
		sum += (uintptr_t)n;
	}
	for (uint64_t i = 0; i < sum; i++)
		expect = expect * 6364136223846793005u + i % WORKERS;
	CHECK(expect == hash, "%llu turns taken, but not in order", (unsigned long long)sum);
	return move_pass();
}
