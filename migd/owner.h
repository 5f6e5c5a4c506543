/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The owner of this workstation comes first: watches for his input, and has guests stopped and sent away (evict.h) when he is back.
 * Also keeps whether this host lends itself (survives a restart: $state_dir/lend).
 * Locking: one lock inside; any thread.
 */
#ifndef MIGD_OWNER_H
#define MIGD_OWNER_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "migd/context.h"
#include "migd/idle.h"

struct owner_view {
	bool idle;
	uint64_t idle_ms; /* since the last input */
	const char *why;  /* static word */
	double load[3];	  /* run queue per CPU, guests not counted */
};
int owner_open(struct migd *m, struct owner **out, struct error *e);
/* Watches no longer: guests that stay have the lowest weight. Who is left may still look. NULL is fine. */
void owner_stop(struct owner *o);
void owner_close(struct owner *o); /* after owner_stop() */
void owner_look(struct owner *o, struct owner_view *out);
size_t owner_sources(struct owner *o, struct idle_source *out, size_t max);

bool owner_is_idle(struct owner *o); /* NULL: no */
/* Something has changed about guests that are to leave (evict.h). */
void owner_kick(struct owner *o);
/* Has this user a login at this host's own seat or terminals (not over the network)? He may send guests away. Not from several threads at once. */
bool owner_sits_here(uid_t uid);

/* mig lend on|off; until: seconds since 1970 when it turns back, 0: never; seat: it is who sits here that says so, not root */
int lend_set(struct migd *m, bool on, int64_t until, bool seat, struct error *e);
/* Root may, and who sits here, but not where root or the configuration has said no. */
bool lend_may_change(struct migd *m, uid_t uid);
void lend_load(struct migd *m);

#endif
