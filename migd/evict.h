/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sending guests away. All that are to go stop at once, by their cgroup, before anything else is done; then their homes are asked to take them (Evict), the
 * smallest first, migd.evict_at_once at a time (those of up to 16 MiB 16 at a time beside them), and what they send keeps within migd.evict_mb_s, so that ten guests of 1 GiB do not take the owner's link.
 * Who cannot leave stays stopped and is asked for again every 2 s; it runs on when the owner has gone again, or is killed when its user has
 * asked for that (mig run --kill-if-stuck).
 * Locking: one lock inside, for the rate; families have their own. Any thread.
 */
#ifndef MIGD_EVICT_H
#define MIGD_EVICT_H
#include <stdbool.h>
#include <stddef.h>
#include "migd/family.h"

/*
 * Stops all guests (the one family `id`) and begins to send them away. Returns how many were not on their way before. by_hand: they go even if the
 * owner is gone again before they are.
 */
size_t evict_guests(struct migd *m, const char *id, const char *why, bool by_hand);
/* From the owner's thread, every second or so and whenever a guest has left or arrived: asks the next ones. `idle`: the owner has gone again. */
void evict_turn(struct migd *m, bool idle);
/* Something has changed that evict_turn() should look at. */
void evict_kick(struct migd *m);
/* Sleeps as long as it takes for n more bytes of an evicted family's image to be within the limit. */
void evict_throttle(struct family *f, size_t n);
/* Is somebody still to leave? */
bool evict_under_way(struct migd *m);
/* Often while guests may be leaving, some: evict_under_way(). */
void evict_calm(struct migd *m, bool some);

#endif
