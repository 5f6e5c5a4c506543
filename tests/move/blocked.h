/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads that each wait in one system call, moved while they wait and then given what they wait for: every one gets it exactly once, none returns early.
 * A program has a table of struct wait and calls blocked_main().
 */
#ifndef MOVE_BLOCKED_H
#define MOVE_BLOCKED_H
#include "move.h"

static volatile bool stop;

struct wait {
	const char *name;
	long (*wait)(struct wait *w);  /* >= 0: what it got; -errno */
	void (*give)(struct wait *w, uint64_t value); /* 1..100 */
	void (*make)(struct wait *w);
	int a, b, c;
	volatile uint32_t word;
	volatile uint64_t given, got;
	pthread_t thread;
};

static void *run(void *arg)
{
	struct wait *w = arg;
	for (;;) {
		uint64_t want = w->got + 1;
		long r = w->wait(w);
		if (stop)
			return NULL;
		CHECK(r >= 0, "%s: %s", w->name, strerror(-r));
		CHECK(w->given >= want, "%s returned %ld before anything was there", w->name, r);
		CHECK((uint64_t)r == want % 100 + 1, "%s got %ld, expected %llu", w->name, r, (unsigned long long)(want % 100 + 1));
		w->got = want;
	}
}

static inline int blocked_main(int argc, char **argv, struct wait *table, unsigned n)
{
	move_begin(argc, argv);
	signal(SIGPIPE, SIG_IGN);
	sigset_t s;
	sigemptyset(&s);
	sigaddset(&s, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &s, NULL);
	for (unsigned i = 0; i < n; i++) {
		table[i].make(&table[i]);
		pthread_create(&table[i].thread, NULL, run, &table[i]);
	}
	pthread_sigmask(SIG_UNBLOCK, &s, NULL);
	move_ready();
	uint64_t seed = 99;
	while (move_more()) {
		move_nap(150000 + move_rand(&seed) % 250000); /* all of them wait: moves happen here */
		for (unsigned i = 0; i < n; i++) {
			struct wait *w = &table[i];
			CHECK(w->got == w->given, "%s: %llu given, %llu got", w->name, (unsigned long long)w->given, (unsigned long long)w->got);
			w->given++;
			w->give(w, w->given % 100 + 1);
		}
		for (unsigned i = 0; i < n; i++)
			for (int k = 0; table[i].got != table[i].given; k++) {
				CHECK(k < 12000, "%s: was given something and still waits", table[i].name);
				move_nap(5000);
			}
	}
	stop = true; /* what the program gives back now may end a wait */
	return move_pass();
}

#endif
