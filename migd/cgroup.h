/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One cgroup per guest family, all below one parent with the lowest CPU and IO weight; limits of each and of all together; and the freezer, which
 * stops a family at once when the owner returns.
 * cgroup v2 first (below our own, delegated group: systemd Delegate=yes); controllers that the host has only in v1 hierarchies are used there.
 * Functions may be called from any thread. Groups live on when migd dies and are found again by name.
 */
#ifndef MIGD_CGROUP_H
#define MIGD_CGROUP_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "conf/error.h"

struct cgroup_limits {
	uint64_t memory_max; /* bytes, 0 = none */
	uint32_t pids_max;   /* 0 = none */
};

struct cgroups; /* the hierarchies of this host */

/* Finds the hierarchies and, in v2, makes room for groups below ours (moves this process into a leaf of its own). */
int cgroups_open(struct cgroups **out, struct error *e);
void cgroups_close(struct cgroups *c);
/* One line for logs and mig hosts -v: "v2 freezer memory pids; v1 cpu". */
const char *cgroups_describe(const struct cgroups *c);

/* Lowest weights and these limits for all guests together. */
int cgroups_limit_all(struct cgroups *c, const struct cgroup_limits *l, struct error *e);
/*
 * When all guests have been told to freeze, they get the CPU like anybody until they have: a task comes to the place where it stops only when it runs, and on a
 * busy host one of the lowest weight hardly does. The same goes for what the engine has them do while they are sent away. Not for long.
 */
void cgroups_hurry(struct cgroups *c);
/* The same while one arrives, whose vessel its home and its source wait for; counted, and for a second at most. */
void cgroups_arrival(struct cgroups *c, bool begins);
/* The lowest weight again, if they were hurried and that for `after_ns` at least. To be called each second: it ends what is done for arrivals too. */
void cgroups_calm(struct cgroups *c, uint64_t after_ns);
/* name: letters, digits, '-', '.'. An existing group of that name is taken over. *paths (caller frees): the directories to put processes in, ':'-separated. */
int cgroup_make(struct cgroups *c, const char *name, const struct cgroup_limits *l, char **paths, struct error *e);
/* Returns when every task in it is frozen (or running again), at the latest after timeout_ms: -ETIMEDOUT. Negative: does
 * not wait (many are told first, then waited for one by one). */
int cgroup_freeze(struct cgroups *c, const char *name, bool frozen, int timeout_ms);
/* Has somebody told it so? A task that waits for a disk or a server stops only after that. */
bool cgroup_told_to_freeze(struct cgroups *c, const char *name);
/* Pids as this pid namespace sees them. Returns how many there are (may exceed max), or -errno. */
int cgroup_pids(struct cgroups *c, const char *name, pid_t *pids, size_t max);
/* CPU time of all that ever ran in it, "" = of all guests since the parent was made. 0 or -errno. */
int cgroup_cpu_us(struct cgroups *c, const char *name, uint64_t *us);
/* Memory of its processes' own, which no file has. 0 or -errno (no such controller here). */
int cgroup_memory(struct cgroups *c, const char *name, uint64_t *bytes);
/* Calls fn with the name of each group that cgroup_make() made, by whichever migd of this host. fn may remove it. */
void cgroups_each(struct cgroups *c, void (*fn)(void *arg, const char *name), void *arg);
/* Kills what is left in it, waits up to timeout_ms for it to be gone, removes it. 0 also when there is no such group. */
int cgroup_remove(struct cgroups *c, const char *name, int timeout_ms);

#endif
