/* SPDX-License-Identifier: Apache-2.0 */
/* Tells who waits for a move, while its image is on its way, twice a second: how much of it has been seen here (of one that goes from guest host to guest host: nothing), and for how long. */
#ifndef MIGD_TICKER_H
#define MIGD_TICKER_H
#include <pthread.h>
#include "migd/move.h"

struct ticker {
	struct family *f;
	const struct move_opts *o; /* NULL: nobody waits */
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool stop; /* lock */
};

void ticker_start(struct ticker *t, struct family *f, const struct move_opts *o);
void ticker_stop(struct ticker *t);
#endif
