/* SPDX-License-Identifier: Apache-2.0 */
/* Two hubs, one as at home and one as on a guest host, joined by a link that can break after any frame, for test_relay.c and test_relay_net.c. */
#ifndef RELAY_KIT_H
#define RELAY_KIT_H
#pragma GCC diagnostic ignored "-Wunused-function"
#include "migd/relay/hub.h"

#include <CUnit/Basic.h>
#include <errno.h>
#include <pthread.h>

struct side {
	struct relay_hub *hub, *peer;
	struct side *other;
	int break_after; /* frames; < 0: never */
	bool broken;
};

static pthread_mutex_t joined = PTHREAD_MUTEX_INITIALIZER; /* held until both sides are up: a real link delivers nothing before */

static int pass(void *ctx, const struct relay_frame *f)
{
	struct side *s = ctx;
	int err;

	pthread_mutex_lock(&joined);
	pthread_mutex_unlock(&joined);
	if (s->broken || s->break_after == 0) {
		s->broken = true;
		return -EPIPE;
	}
	if (s->break_after > 0)
		s->break_after--;
	err = hub_input(s->peer, s->other, f);
	CU_ASSERT(!err || err == -EPIPE); /* the other side is down already */
	return err;
}

static struct relay_hub *home, *guest;
static struct side at_home, at_guest;
static uint64_t gen;

static void join(int break_home, int break_guest)
{
	hub_down(home);
	hub_down(guest);
	at_home = (struct side){ home, guest, &at_guest, break_home, false };
	at_guest = (struct side){ guest, home, &at_home, break_guest, false };
	pthread_mutex_lock(&joined);
	CU_ASSERT_EQUAL(hub_up(home, gen, &(struct relay_link){ pass, &at_home }), 0);
	CU_ASSERT_EQUAL(hub_up(guest, 0, &(struct relay_link){ pass, &at_guest }), 0);
	pthread_mutex_unlock(&joined);
}

static void teardown(void)
{
	hub_down(home); /* both, before either goes: they call into each other */
	hub_down(guest);
	hub_free(home);
	hub_free(guest);
}

#endif
