/* SPDX-License-Identifier: Apache-2.0 */
/* What /proc tells of a thread that is opening a FIFO: FUSE asks for its attributes then, and says only who asks. */
#ifndef FS_CLIENT_PIPE_PROC_H
#define FS_CLIENT_PIPE_PROC_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct pipe_proc {
	pid_t tid;
	bool r, w;		/* what it opens for */
	char call[160];		/* its system call, as /proc/TID/syscall had it */
	unsigned long long cpu; /* its CPU time then, ticks */
};
/* Is it within an open (not O_PATH, not of our own)? Fills *out. */
bool pipe_proc_opening(pid_t tid, struct pipe_proc *out);
/*
 * Is a thread whose question we have answered in that open still? STANDS: stopped on its way out of it, to make it again. MAYBE: it has, or is to have, a processor, and nothing tells what for; that
 * does not last. LEFT is only said when it is certain.
 */
enum pipe_where { PIPE_IN, PIPE_MAYBE, PIPE_STANDS, PIPE_LEFT };
enum pipe_where pipe_proc_where(const struct pipe_proc *p);

/*
 * Which ends of the FIFO that `path` (an O_PATH descriptor) refers to do other processes of this node have open? A walk over all descriptors: milliseconds, so only
 * where an end of our own hides the answer of the kernel. Those of the pid namespace `but` (open; -1: none) do not count.
 */
void pipe_proc_holders(int path, int but, bool *r, bool *w);
/* Has any of them? Who had it when last asked is looked at first. */
struct pipe_witness {
	pid_t pid;
	int fd;
};
bool pipe_proc_any(int path, struct pipe_witness *who);
/* All FIFOs that they have open, by one walk. free(v). */
struct pipe_open {
	uint64_t ino;
	pid_t pid;
	int fd;
	bool r, w;
};
struct pipe_seen {
	struct pipe_open *v;
	size_t n, room;
	bool all; /* not known: as if all were */
};
void pipe_proc_seen(struct pipe_seen *s);
bool pipe_seen_has(const struct pipe_seen *s, uint64_t ino);
/* When it was started (field 22 of proc_pid_stat(5)), so that a number used again is told; 0: it is not there. */
uint64_t pipe_proc_born(pid_t pid);
/* Has that process the FIFO open? True, too, if that cannot be known. */
bool pipe_proc_has(int path, pid_t pid);
/* The pid namespace of a process, open; -1: it is our own, or not known. */
int pipe_proc_namespace(pid_t pid);

#endif
