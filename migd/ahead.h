/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Nests made ahead. The namespaces of a guest, its root view, its cgroup are the same for every guest of one home, and take longer to make than all the rest of a
 * small move: so one empty nest is kept ready for each of the few homes that guests came from lately, and made again, in the background, when one has been taken.
 * Locking: one lock inside; any thread.
 */
#ifndef MIGD_AHEAD_H
#define MIGD_AHEAD_H
#include "migd/context.h"
#include "migd/engine/engine.h"
#include "migd/family.h"

struct aheads;
int aheads_open(struct migd *m, struct aheads **out);
void aheads_close(struct aheads *a);
/* A guest of that home is about to come, or one has just ended. Returns at once. */
void aheads_want(struct aheads *a, const char *home);
/* The same in a second, which the guest that has just begun to run has for itself: making one slows its first forks by a third. */
void aheads_want_soon(struct aheads *a, const char *home);
/* A nest for a guest of that home, whose view the caller holds; made now if none is ready. cgroup: the name of its cgroup, "": none. */
int aheads_take(struct aheads *a, const char *home, char cgroup[CGROUP_NAME_MAX], struct nest **out, struct error *e);
/* Every second: what has not been wanted for a while ends. */
void aheads_tick(struct aheads *a);
/* Is there anything that a tick could find? */
bool aheads_any(struct aheads *a);
#endif
