// SPDX-License-Identifier: Apache-2.0
/*
 * Which call a thread was in when it was stopped in a wait, and when that wait ends: the kernel knows, but shows only restart_syscall when the thread is
 * stopped again in the same wait. A table by (tid, its start time), oldest entries overwritten. Lock: `lock` guards all.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
#include "conf/clock.h"
#include "migd/engine/core.h"
#include "migd/engine/procfs.h"

enum { ENTRIES = 4096 };
static struct {
	pid_t tid;
	long nr; /* the call that waits */
	uint64_t start, end_ns;
	uint64_t sp;	 /* the thread's stack pointer in it, and the time-out that it was called with: an entry of an earlier wait differs */
	int64_t timeout;
} table[ENTRIES];
static unsigned next;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int start_time(pid_t tid, uint64_t *start)
{
	struct procfs_stat st;
	char path[64];
	int dir, r;

	snprintf(path, sizeof(path), "/proc/%d/task/%d", tid, tid);
	dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return -ESRCH;
	r = procfs_stat(dir, &st);
	close(dir);
	*start = st.start;
	return r;
}

void deadline_note(pid_t tid, long nr, uint64_t left_ns, uint64_t sp, int64_t timeout)
{
	uint64_t start;

	if (start_time(tid, &start) < 0)
		return;
	pthread_mutex_lock(&lock);
	table[next].tid = tid;
	table[next].nr = nr;
	table[next].start = start;
	table[next].end_ns = clock_mono_ns() + left_ns;
	table[next].sp = sp;
	table[next].timeout = timeout;
	next = (next + 1) % ENTRIES;
	pthread_mutex_unlock(&lock);
}

int deadline_left(pid_t tid, uint64_t sp, uint64_t slept_ns, long *nr, uint64_t *left_ns, int64_t *timeout)
{
	uint64_t start, now = clock_mono_ns();
	int r = -ENOENT;

	if (start_time(tid, &start) < 0)
		return -ESRCH;
	pthread_mutex_lock(&lock);
	for (unsigned i = 1; i <= ENTRIES && r < 0; i++) { /* newest first */
		unsigned at = (next + ENTRIES - i) % ENTRIES;

		if (table[at].tid != tid || table[at].start != start)
			continue;
		/* of an earlier wait: nobody falls asleep in one that is over */
		if (table[at].sp != sp || table[at].end_ns < now - slept_ns)
			break;
		*left_ns = table[at].end_ns > now ? table[at].end_ns - now : 0;
		*nr = table[at].nr;
		*timeout = table[at].timeout;
		r = 0;
	}
	pthread_mutex_unlock(&lock);
	return r;
}
