/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What this host has done for others and others for it: Sprite's usage table (Douglis and Ousterhout 1991, section 7: share of remote CPU time, migrations by
 * cause, evictions, how long hosts had been idle). Counters live on over restarts ($state_dir/stats.json, written every minute and at the end).
 * Also a short memory for mig top: the last moves of this home, and a load sample every few seconds.
 * Locking: one lock inside; any thread.
 */
#ifndef MIGD_STATS_H
#define MIGD_STATS_H
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "migd/family.h"

enum stats_cause { CAUSE_EXEC, CAUSE_MOVE, CAUSE_HOME, CAUSE_EVICTED_HOME, CAUSE_EVICTED_ONWARD, CAUSES };
enum stats_count {
	COUNT_ASKED,	     /* slots that processes of this home asked for */
	COUNT_GRANTED,	     /* of those, had at once or later */
	COUNT_LOST,	     /* slots taken back: the owner was back, others had a right to them, or the host went down */
	COUNT_GUESTS,	     /* families that came here */
	COUNT_EVICTIONS,     /* families told to go from here */
	COUNT_KILLED,	     /* guests ended because they could not leave in time and their user had asked for that */
	COUNT_LOCAL,	     /* recipes and commands that ran at home for want of a host */
	COUNTS
};

struct stats;
int stats_open(struct migd *m, struct stats **out);
void stats_close(struct stats *s);

/* A move of this home's family is over. frozen and total in ns. */
void stats_move(struct migd *m, const struct family *f, enum stats_cause cause, const char *from, const char *to, uint64_t bytes, uint64_t frozen_ns,
	uint64_t total_ns, int err);
void stats_count(struct migd *m, enum stats_count what, unsigned n);
/* CPU time that a process of this home used elsewhere, told when it ended. */
void stats_away_cpu(struct migd *m, uint64_t us);
/* This host had been idle for so long when a guest came / when guests were evicted. */
void stats_idle_before(struct migd *m, bool evicted, uint64_t idle_ms);
/* Every few seconds, from the owner's thread. */
void stats_sample(struct migd *m, bool idle, double load);
/* Everything, a new object. */
json_t *stats_json(struct migd *m);

#endif
