/* SPDX-License-Identifier: Apache-2.0 */
/* What /proc says of a process: task lists, address space, a few fields of stat and status. No state, no locks. */
#ifndef ENGINE_PROCFS_H
#define ENGINE_PROCFS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "migd/engine/res.h"

/* Lists of pids; *out malloc'd. Count or -errno. */
ssize_t procfs_tasks(pid_t pid, pid_t **out);
ssize_t procfs_children(pid_t pid, pid_t **out); /* of all its threads */

struct procfs_stat {
	char comm[64];
	char state;
	pid_t ppid, pgid, sid;
	int threads;
	uint64_t start; /* clock ticks since boot */
	uint64_t start_code, end_code, start_stack, start_data, end_data, start_brk, arg_start, arg_end, env_start, env_end;
	unsigned flags; /* PF_* */
	int exit_signal, exit_code;
};
int procfs_stat(int dirfd, struct procfs_stat *st);
enum { PF_EXITING = 4 }; /* of flags: it is ending */
/* Its first thread has ended, and it looks like a zombie, while others run on. */
bool procfs_headless(pid_t pid);
/* A signal waits for this thread alone. */
bool procfs_pending(int dirfd, pid_t tid);
/* The number in the innermost pid namespace and how deep below ours that is (1: ours). */
int procfs_nspid(int dirfd, const char *name, pid_t *vpid, int *depth);
int procfs_nspid_in(const char *status, pid_t *vpid, int *depth); /* NULL: -ESRCH */
/* Which of these tasks (list, n: as the functions above give them) has the number vpid inside: 0, or -ESRCH. */
int procfs_by_vpid(const pid_t *list, ssize_t n, pid_t vpid, pid_t *pid);

/* VmFlags of smaps that matter here. */
enum {
	MAPF_GROWSDOWN = 1 << 0,
	MAPF_LOCKED = 1 << 1,
	MAPF_SEQ = 1 << 2,
	MAPF_RAND = 1 << 3,
	MAPF_DONTCOPY = 1 << 4,
	MAPF_DONTDUMP = 1 << 5,
	MAPF_WIPEONFORK = 1 << 6,
	MAPF_HUGE = 1 << 7,
	MAPF_NOHUGE = 1 << 8,
	MAPF_MERGE = 1 << 9,
	MAPF_HUGETLB = 1 << 10,
	MAPF_DEVICE = 1 << 11,
	MAPF_UFFD = 1 << 12,
	MAPF_NORESERVE = 1 << 13,
	MAPF_SEALED = 1 << 14,
	MAPF_DROPPABLE = 1 << 15,
	MAPF_MAYWRITE = 1 << 16,
	MAPF_ACCOUNT = 1 << 17,
	MAPF_UFFD_WP = 1 << 18,
	MAPF_SHADOW = 1 << 19,
	MAPF_ONFAULT = 1 << 20, /* locked, but not there before it is touched */
};
enum map_kind { KIND_ANON, KIND_FILE_PRIV, KIND_FILE_SHARED, KIND_OBJECT, KIND_SYSV, KIND_VDSO, KIND_VVAR, KIND_VSYSCALL, KIND_BLOB, KIND_REFUSED };
struct map {
	uint64_t start, end, offset;
	unsigned prot;
	bool shared;
	uint64_t dev, ino;
	char *path; /* as /proc shows it, may be "" */
	uint64_t flags;
	unsigned pkey; /* with smaps: its protection key, 0: that of all memory */
	enum map_kind kind;
	uint32_t object;
};
struct maps {
	struct map *m;
	size_t n;
};
/* `smaps`: with VmFlags and protection keys, and names that a network file system has forgotten looked up again (which may wait for its server). */
int procfs_maps(int dirfd, bool smaps, struct maps **out);
void maps_free(struct maps *m);

#endif
