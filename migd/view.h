/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Other hosts' roots, mounted here for their guests: one `spritefs --prefix /hosts/HOME` per home, on $run_dir/homes/HOME, for as long as guests
 * of that home are here and a while longer. The mount outlives migd: a restarted one finds it and goes on with it.
 * Locking: one lock inside, which nothing that asks another host is done under. Guests of one home wait for the same mount.
 */
#ifndef MIGD_VIEW_H
#define MIGD_VIEW_H
#include "migd/context.h"

struct views;
int views_open(struct migd *m, struct views **out);
void views_close(struct views *v); /* mounts that guests use stay */
/* Mounts it if need be and counts. *dir: malloc'ed path. */
int view_get(struct views *v, const char *home, char **dir, struct error *e);
void view_put(struct views *v, const char *home);
/* At start, when all guests have their views: mounts of before that nobody uses are unmounted in time, too. */
void views_adopt(struct views *v);
void views_tick(struct views *v); /* every few seconds: unmounts what has long been unused */

#endif
