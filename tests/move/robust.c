/* SPDX-License-Identifier: Apache-2.0 */
/* Robust and priority-inheritance mutexes: a thread that ends while holding one is noticed after a move too. */
#include "move.h"

static pthread_mutex_t robust, pi;
static volatile int phase;
static volatile uint64_t pi_count;
static volatile bool stop;

static void *holder(void *arg)
{
	(void)arg;
	CHECK(!pthread_mutex_lock(&robust), "lock");
	phase = 1;
	while (phase == 1)
		move_nap(2000);
	return NULL; /* dies with the lock held: only the kernel's walk of the robust list frees it */
}

static void *pi_user(void *arg)
{
	(void)arg;
	while (!stop) {
		CHECK(!pthread_mutex_lock(&pi), "PI lock");
		uint64_t n = pi_count;
		sched_yield();
		pi_count = n + 1;
		CHECK(!pthread_mutex_unlock(&pi), "PI unlock");
	}
	return NULL;
}

int main(int argc, char **argv)
{
	move_begin(argc, argv);
	pthread_mutexattr_t a;
	pthread_mutexattr_init(&a);
	pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&robust, &a);
	pthread_mutexattr_init(&a);
	pthread_mutexattr_setprotocol(&a, PTHREAD_PRIO_INHERIT);
	pthread_mutex_init(&pi, &a);
	pthread_t p[2], t;
	for (int i = 0; i < 2; i++)
		pthread_create(&p[i], NULL, pi_user, NULL);
	move_ready();
	while (move_more()) {
		phase = 0;
		CHECK(!pthread_create(&t, NULL, holder, NULL), "pthread_create");
		while (!phase)
			move_nap(1000);
		move_nap(200000); /* moves happen here */
		CHECK(pthread_mutex_trylock(&robust) == EBUSY, "the mutex is not held");
		uint64_t before = pi_count;
		phase = 2;
		struct timespec until;
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec += 60;
		int r = pthread_mutex_timedlock(&robust, &until);
		CHECK(r == EOWNERDEAD, "the holder died and lock says '%s'", strerror(r));
		CHECK(!pthread_mutex_consistent(&robust) && !pthread_mutex_unlock(&robust), "consistent");
		pthread_join(t, NULL);
		for (int i = 0; i < 6000 && pi_count == before; i++)
			move_nap(10000);
		CHECK(pi_count != before, "the PI mutex stands still");
	}
	stop = true;
	pthread_join(p[0], NULL);
	pthread_join(p[1], NULL);
	return move_pass();
}
