// SPDX-License-Identifier: Apache-2.0
/* See ticker.h. */
#include "migd/ticker.h"
#include <errno.h>
#include <stdio.h>
#include "conf/clock.h"

enum { TICK_NS = 500000000 };

static void *ticker_main(void *arg)
{
	struct ticker *t = arg;
	uint64_t t0 = clock_mono_ns();
	struct timespec until;
	char text[80];

	pthread_mutex_lock(&t->lock);
	while (!t->stop) {
		uint64_t bytes = atomic_load(&t->f->carried);

		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += TICK_NS;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		if (pthread_cond_timedwait(&t->changed, &t->lock, &until) != ETIMEDOUT)
			continue;
		if (bytes)
			snprintf(text, sizeof(text), "sending: %.1f MiB in %.1f s", bytes / 1048576.0, (clock_mono_ns() - t0) / 1e9);
		else
			snprintf(text, sizeof(text), "sending, for %.1f s", (clock_mono_ns() - t0) / 1e9);
		t->o->progress(t->o->arg, text);
	}
	pthread_mutex_unlock(&t->lock);
	return NULL;
}

void ticker_start(struct ticker *t, struct family *f, const struct move_opts *o)
{
	*t = (struct ticker){ .f = f, .o = o, .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };
	atomic_store(&f->carried, 0);
	if (!o->progress || pthread_create(&t->thread, NULL, ticker_main, t))
		t->o = NULL;
}

void ticker_stop(struct ticker *t)
{
	if (!t->o)
		return;
	pthread_mutex_lock(&t->lock);
	t->stop = true;
	pthread_cond_signal(&t->changed);
	pthread_mutex_unlock(&t->lock);
	pthread_join(t->thread, NULL);
}
