/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine's inside: what a resource module sees (layout-and-style: "the engine is an array of {probe, dump, fill, finish}, one entry per kind of state").
 *
 * One file res_NAME.c per kind of state, one `const struct eng_res res_NAME`, one line in res_table.c. Modules run in the family's tracer thread and need no locks.
 *
 * Two places, one picture:
 *   source       every thread of every process is in ptrace stop, its true registers are in t->regs, the blob is mapped: eng_syscall() works in any thread.
 *   destination  every process is a vessel: blob and vdso only, all threads exist, caps are full, no descriptor is open but what modules opened;
 *                order: all records in the order of the stream (fill), then finish() of each module in the order of the table for each process.
 * A module must undo at the source what it changed in the target (a thaw may follow a dump): dump() only looks.
 *
 * Numbers: `pid`/`tid` are this host's (for /proc, ptrace, pidfd); `vpid`/`vtid` are the family's own (its home's) and the only ones that go into an image.
 */
#ifndef ENGINE_RES_H
#define ENGINE_RES_H
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>
#include <sys/user.h>
#include "conf/error.h"
#include "migd/engine/engine.h"

enum { ENG_RES_MAX = 32 };

struct eng_family;
struct eng_proc;
struct eng_res;

struct eng_thread {
	struct eng_proc *proc;
	pid_t tid, vtid;
	struct user_regs_struct regs; /* true ones: as frozen, restart of a system call already arranged; destination: as they will be set */
	uint64_t sigmask;	      /* likewise (the kernel's blocked set while parked is full) */
	void *res[ENG_RES_MAX];	      /* a module's own, index = its place in the table (eng_res_index()) */
	struct eng_thread_core *core; /* the core's own: inject.h */
};

struct eng_proc {
	struct eng_family *family;
	pid_t pid, vpid;
	pid_t ppid, pgid, sid;	     /* the family's numbers; 0: a process outside of the family's view */
	struct eng_proc *parent;     /* in the family; NULL: the root process */
	int dir;		     /* O_PATH fd of /proc/PID on this host */
	int pidfd;		     /* for pidfd_getfd() and the like */
	unsigned nthreads;
	struct eng_thread **threads; /* threads[0] is the leader (vtid == vpid) */
	void *res[ENG_RES_MAX];
	struct eng_proc_core *core;
};

/* The family's processes, parents before children. */
size_t eng_nprocs(const struct eng_family *f);
struct eng_proc *eng_proc_at(struct eng_family *f, size_t i);
struct eng_proc *eng_proc_by_vpid(struct eng_family *f, pid_t vpid);
const struct eng_hooks *eng_hooks(const struct eng_family *f); /* never NULL; its members may be */
void **eng_family_res(struct eng_family *f, const struct eng_res *r); /* a module's own pointer for the whole family */

/* ---- system calls in the target ------------------------------------------------------------------ */
/*
 * Runs one system call in thread t (masked signals, seccomp suspended). Returns its result, -errno as the kernel gives it; -ESRCH: the target is gone
 * (and stays gone for all later calls). SIGKILL may come at any time: every caller must bear -ESRCH.
 */
long eng_syscall(struct eng_thread *t, long nr, ...);
#define ENG_SYS(t, nr, ...) eng_syscall_n(t, nr, (const uint64_t[6]){__VA_ARGS__})
long eng_syscall_n(struct eng_thread *t, long nr, const uint64_t arg[6]);

/*
 * Many calls in one go (one stop of the target instead of one each; about 1 us a call). Stops at the first call that fails if its `may_fail` is not set.
 * An argument can be the result of an earlier call of the batch: set bit i of `from` and arg[i] = index of that call.
 */
struct eng_call {
	int64_t nr;
	uint64_t arg[6];
	int64_t ret; /* out */
	uint32_t may_fail;
	uint32_t from;
};
enum { ENG_BATCH_MAX = 256 };
/* 0, or the first failing call's -errno with *failed (may be NULL) = its index. n <= ENG_BATCH_MAX. */
int eng_batch(struct eng_thread *t, struct eng_call *c, size_t n, size_t *failed);

/*
 * Scratch memory in the target for arguments: bump-allocated, 16-byte aligned, ENG_SCRATCH bytes a process, all forgotten by eng_scratch_reset().
 * put copies `len` bytes in (or reserves them if data is NULL) and returns the address in the target, 0 if there is no room.
 * Any other address of the target works with eng_peek/eng_poke too (protections do not matter). 0 or -errno.
 */
enum { ENG_SCRATCH = 128 * 1024 };
void eng_scratch_reset(struct eng_proc *p);
uint64_t eng_scratch_put(struct eng_proc *p, const void *data, size_t len);
int eng_peek(struct eng_proc *p, uint64_t addr, void *buf, size_t len);
int eng_poke(struct eng_proc *p, uint64_t addr, const void *buf, size_t len);

/* A duplicate of the target's descriptor for us (pidfd_getfd, close-on-exec). fd or -errno. */
int eng_fd_get(struct eng_proc *p, int num);
/* Gives the target a duplicate of our `fd` as number `num` (which must be free; flags: O_CLOEXEC or 0). `fd` stays ours. 0 or -errno. */
int eng_fd_install(struct eng_proc *p, int fd, int num, int flags);

/*
 * Destination: opens a path as the family sees it, inside the vessel's root view, with the fsuid/fsgid/groups of the family's user, and returns an fd of ours. fd or -errno.
 * Flags as open(2); O_NOCTTY and O_CLOEXEC are added.
 */
int eng_open(struct eng_proc *p, const char *path, int flags, mode_t mode);

/*
 * The program's own action for SIGTRAP (32 bytes: handler, flags, restorer, mask), which the blob's stands in for. set: destination; takes effect when it resumes.
 */
void eng_sigtrap_action(const struct eng_proc *p, void *ksigaction32);
void eng_sigtrap_set(struct eng_proc *p, const void *ksigaction32);
/* res_signals.c, for eng_queue_open() and eng_queue_close(). */
void signals_queue_open(struct eng_proc *p);
void signals_queue_close(struct eng_proc *p);

/* ---- reading /proc -------------------------------------------------------------------------------- */
/* Whole small file below dirfd (p->dir), NUL-terminated, malloc'd; NULL and errno. */
char *eng_proc_read(int dirfd, const char *name, size_t *len);
/* Value of "Key:\t..." in a text like /proc/PID/status or fdinfo: pointer into text just after the blanks, or NULL. */
const char *eng_field(const char *text, const char *key);

/* ---- image ---------------------------------------------------------------------------------------- */
/*
 * A record: type, owner process (vpid; 0: the family), length, body. Types 1..99 are the core's, 100..999 the modules' (each module owns those in its `types`).
 * Bodies are protobuf-c messages (rpc/image.proto of the core, rpc/image_res.proto of the modules) packed with protobuf_c_message_pack().
 */
struct eng_image; /* one direction */
struct ProtobufCMessage;
int eng_image_put(struct eng_image *im, uint32_t type, pid_t vpid, const void *body, size_t len);
int eng_image_put_msg(struct eng_image *im, uint32_t type, pid_t vpid, const struct ProtobufCMessage *m);

/* ---- modules -------------------------------------------------------------------------------------- */
struct places;
struct eng_probe { /* one process, looked at from outside; nothing is stopped, it may change or vanish meanwhile: that is no error */
	pid_t pid, root; /* this host's; root process of the family that would move */
	int dir;	 /* O_PATH fd of /proc/PID */
	const pid_t *family;
	size_t nfamily;	 /* all pids of the family, to tell inside from outside */
	struct eng_reasons *why;
	struct eng_sizes *sizes; /* may be NULL */
	bool nest, goes_home; /* a guest; to where its files are, so that their names do not matter */
	struct places *places; /* of its sockets of the network, those of the whole family: res_file_inet.c */
};
/* Adds "PID (comm): TEXT"; text: what, then the remedy. */
void eng_reason(struct eng_probe *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

struct eng_res {
	const char *name;
	uint32_t types[2]; /* first and last record type it owns; 0,0: none */
	/* Source, before the freeze and again when frozen: name all that cannot be carried. 0 or -errno (ESRCH is ignored). */
	int (*probe)(struct eng_probe *p);
	/* Source, frozen: -EBUSY with e filled while something is under way that is over in a moment: all runs on, and the freeze is tried again. May be NULL. */
	int (*settled)(struct eng_proc *p, struct error *e);
	/* Source: write what concerns the whole family (shared things), once, before any process's. */
	int (*dump_family)(struct eng_family *f, struct eng_image *out, struct error *e);
	/* Source: write one process's (its threads' too). */
	int (*dump)(struct eng_proc *p, struct eng_image *out, struct error *e);
	/* Destination: one of its records; p NULL: a record of the family. Keep what finish() needs in ->res[]; body is gone afterwards. */
	int (*fill)(struct eng_family *f, struct eng_proc *p, uint32_t type, const void *body, size_t len, struct error *e);
	/* Destination: memory and descriptors of all processes are in place. In the order of the table. */
	int (*finish)(struct eng_proc *p, struct error *e);
	/* Destination, after the commit, threads still parked: what must not happen before (names in the file tree). Cannot fail any more: say what did not work. May be NULL. */
	void (*resume)(struct eng_proc *p);
	/* Source = home after the commit: let go (close descriptors, ...); and home before a fill is abandoned: the same. NULL: nothing to do. */
	int (*hollow)(struct eng_proc *p, struct error *e);
	/*
	 * Home: what must outlive this process of what is kept for a family that is away, a line each for eng_save(); and a line back: 1 it is its own, 0 it is not,
	 * -errno. hollow: the family is away now. May be NULL.
	 */
	int (*save)(const struct eng_family *f, FILE *o);
	int (*restore)(struct eng_family *f, const char *line, bool hollow);
	/* Source, before the commit: it stays after all, and is about to run on: takes back what dump() has caused outside of the target. May be NULL. */
	void (*thaw)(struct eng_family *f);
	/* Frees ->res[] of its index; called for family (p NULL), each process and each thread's process. */
	void (*release)(struct eng_family *f, struct eng_proc *p);
};

/* res_table.c: in the order of restore. Core first (memory, threads), then files, signals, timers, limits, ..., creds last, seccomp very last. */
extern const struct eng_res *const eng_res_table[]; /* ends with NULL */
unsigned eng_res_index(const struct eng_res *r);

#endif
