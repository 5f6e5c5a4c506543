/* SPDX-License-Identifier: Apache-2.0 */
/* Run queue averages of this host as its own processes make them, guests left out. One thread. */
#ifndef MIGD_IDLE_LOAD_H
#define MIGD_IDLE_LOAD_H
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct idle_load {
	double avg[3]; /* runnable threads over 1, 5, 15 minutes, not per CPU */
	uint64_t last_ns;
	int cpus;
	int own_pidns; /* in a pid namespace of our own /proc/loadavg speaks of other people's processes too */
};
void idle_load_init(struct idle_load *l);
/* Takes one sample at now_ns; `guests_running` runnable guest threads are not the owner's doing. Returns 0 or -errno. */
int idle_load_sample(struct idle_load *l, uint64_t now_ns, unsigned guests_running);
/* How many threads of these processes are runnable now. */
unsigned idle_load_running(const pid_t *pids, size_t n);

#endif
