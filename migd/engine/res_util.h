/* SPDX-License-Identifier: Apache-2.0 */
/* Small things that the resource modules share. */
#ifndef ENGINE_RES_UTIL_H
#define ENGINE_RES_UTIL_H
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include "migd/engine/res.h"

enum { /* record types; rpc/image_res.proto tells the messages */
	RES_SIGNALS = 100,
	RES_TIMERS = 110,
	RES_LIMITS = 120,
	RES_CREDS = 130,
	RES_FS = 140,
	RES_FS_AHEAD = 141,
	RES_SECCOMP = 150,
	RES_FILE = 200,
	RES_FDS = 201,
	RES_FILE_AHEAD = 202,
	RES_SYSV = 300,
	RES_SYSV_ATTACH = 301,
	RES_SYSV_PAGES = 302,
	RES_MQUEUE = 303,
};

/* The same descriptor table, memory, ...: kcmp(2), one of KCMP_*; true when equal. pids are this host's. */
bool res_same(pid_t a, pid_t b, int kind, unsigned long ia, unsigned long ib);

/* Has ended, or is about to: has no memory, files or directory any more. */
bool res_ended(pid_t pid);
/* Do two processes share `kind` for good? Who ends has none, and two of those would be alike; a vfork(2) is over in a moment, on a busy
 * machine a longer one: memory is looked at for 3 s, all else for 0.3. */
bool res_shares(pid_t a, pid_t b, int kind);

/* A thread of the family by this host's tid, NULL if it is not one; and by the family's. */
struct eng_thread *res_thread_by_tid(struct eng_proc *p, pid_t tid);
struct eng_thread *res_thread_by_vtid(struct eng_proc *p, pid_t vtid);

/* A clock as the target sees it (its time namespace), ns; 0 when it cannot be read. */
uint64_t res_clock(struct eng_thread *t, int clock);

/*
 * A timer as it is (nr: SYS_timer_gettime or SYS_timerfd_gettime of `id`), and the moment of that on `clock`, in the target: what is left counts from then.
 * Asked again while the two are far apart (a busy host). 0 or -errno.
 */
int res_timer_read(struct eng_thread *t, long nr, long id, int clock, struct itimerspec *its, uint64_t *now);
/* res_timers.c, at the source: when the POSIX timers of p fall due next, as they will be in the image; *n of them. 0 or -errno. */
int res_timers_look(struct eng_proc *p, size_t *n);

/* Whole link below `dir` (readlinkat), NUL-terminated; length or -errno. */
ssize_t res_readlink(int dir, const char *name, char *buf, size_t size);

/* A home's files have their native inode number at home; away the number of the mount that they lie on is mixed into its upper 16 bits (spritefsd). */
static inline bool res_same_ino(uint64_t a, uint64_t b)
{
	return ((a ^ b) & 0xffffffffffff) == 0;
}

/*
 * "PATH (deleted)" is also what the kernel shows when a network file system has merely forgotten the name (a lease was recalled). If PATH, in the root of the process
 * behind `dir`, still is the file of `st`, the suffix is taken off. True if so.
 */
bool res_undelete(int dir, char *path, const struct stat *st);

/* Opens what the descriptor `fd` (O_PATH) of ours stands for, with the rights of the process behind `dir`. fd or -errno. */
int res_open_as(int dir, int fd, int flags);

/*
 * A file of the home whose name leads nowhere any more, or elsewhere, is found by what it is:
 * by_inode	at home, filling: opens it; flags as open(2). fd or -errno
 * hold		source, on the way home: the server of the home's files knows only what is open there. So what /proc/PID/`name` stands for without that (O_PATH, a directory)
 *		is opened, with the rights of the process, always or if its name does not lead to it: an fd to keep till the move is over; -ESTALE: it has been removed; < 0: not needed, or
 *		not to be had
 * removed_directory	in place of one of which nothing is left: nothing is in it, and nothing can be made there
 */
int res_by_inode(struct eng_proc *p, const char *path, uint64_t ino, uint32_t mode, int flags);
int res_hold(int dir, const char *name, bool always);
int res_removed_directory(int flags);

/* Field of /proc/PID/status-like text as a number of the given base; `missing` if it is not there. */
uint64_t res_field_u64(const char *text, const char *key, int base, uint64_t missing);

/* The process's number as it sees itself (last of NSpid); 0 when unknown. */
pid_t res_vpid(int dir);

/*
 * May the process behind `dir` (by its file system ids and groups) get at `path` in its own root with `mode` (R_OK|W_OK|X_OK)? Descriptors may have been
 * opened with other rights, before a change of user. Changes and restores the ids of the calling thread only.
 */
bool res_may(int dir, const char *path, int mode);

/* Is pid one of the family, or born to it since its list was read? We ourselves count too, and who is gone. */
bool res_inside(const struct eng_probe *p, pid_t pid);
/* First process outside of the family that maps that inode; 0: none. (res_misc.c) */
pid_t res_mapper_outside(struct eng_probe *p, unsigned major, unsigned minor, uint64_t ino);

/* A name of any bytes as the rest of a line of eng_save(); and back (malloc'd; NULL: no memory). */
void res_save_name(FILE *o, const char *name);
char *res_load_name(const char *text);

/* Text for "cannot unpack record". -EBADMSG with `e` filled. */
int res_bad_record(struct error *e, const char *what);

#endif
