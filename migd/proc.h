/* SPDX-License-Identifier: Apache-2.0 */
/* What migd itself must know of a process before it touches it, from /proc. */
#ifndef MIGD_PROC_H
#define MIGD_PROC_H
#include <stdbool.h>
#include <sys/types.h>
#include "conf/error.h"

struct proc_info {
	pid_t pid, tgid, ppid, tracer;
	uid_t uid, euid, suid;
	gid_t gid;
	bool kernel; /* a kernel thread */
	char state;
	char comm[17];
	unsigned threads;
};
/* -ESRCH when it is not there. */
int proc_read(pid_t pid, struct proc_info *out);
/* Is `pid` the same as `ancestor` or descended from it? */
bool proc_descends(pid_t pid, pid_t ancestor);
/*
 * May `uid` have `pid` moved, and can it be moved at all as far as migd can tell (the engine looks at the rest)? 0 with *out, or -errno with one
 * line that says what is the matter and what to do.
 */
int proc_may_move(pid_t pid, uid_t uid, bool root_guests, struct proc_info *out, struct error *e);
/* Which file system ("major:minor") process `who` ("self" or a number) sees mounted at `where`; told without touching it, which may hang. */
bool proc_mounted(const char *who, const char *where, char dev[32]);
/* Bytes of memory that nobody uses or could be given back (MemAvailable); CPUs that we may use. */
unsigned long long proc_memory_free(void);
unsigned proc_cpus(void);
unsigned long long proc_memory_total(void);
unsigned proc_pids_max(void); /* processes and threads that this host can have */

#endif
