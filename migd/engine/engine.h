/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine: freezes a family, turns it into an image, fills vessels from one. It knows nothing of hosts, homes or networks: an image goes out of, and
 * comes in by, a file descriptor (a socketpair that the caller pumps).
 *
 * All calls for one `struct eng_family` must come from one thread, the family's tracer (ptrace(2) relations belong to threads).
 *
 * Life of a move (design: engine of overview.md):
 *   source:       eng_explain -> eng_freeze -> eng_dump -> (commit) -> eng_hollow (at home) or eng_discard (guest host)
 *                 any failure before the commit: eng_thaw, and all runs on untouched
 *   destination:  eng_nest (keeper + namespaces; a guest host) or the hollows (home) -> eng_fill -> (commit) -> eng_resume
 *                 before the commit: eng_abandon
 *
 * Parking: from the end of eng_dump/eng_fill on, every thread sits in the blob, its registers saved in blob memory, so that the death of the
 * tracer leaves it parked and never lets it run.
 */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>
#include "conf/error.h"
#include "migd/engine/foreign.h"

/* Why a process cannot move: one line each, "fd 5: io_uring ring: close it first" (what, then the remedy). */
struct eng_reasons {
	char **line;
	size_t n;
};
void eng_reasons_clear(struct eng_reasons *r);

struct eng_sizes { /* estimate for mig explain; bytes */
	uint64_t resident, to_send;
	unsigned procs, threads, fds, maps;
	unsigned freeze_ms; /* about how long it would stand still: explain.c */
};

/* Looks at pid and all its descendants without stopping anything. Returns 0 (movable), 1 (reasons filled) or -errno (ESRCH, ...). */
int eng_explain(pid_t pid, struct eng_reasons *why, struct eng_sizes *sizes, struct error *e);

struct eng_family;

/* Which file descriptors the caller (migd) carries by itself: pipes, ttys and stream sockets whose other end stays. */
enum eng_relay_kind { ENG_RELAY_PIPE_IN, ENG_RELAY_PIPE_OUT, ENG_RELAY_TTY, ENG_RELAY_SOCK, ENG_RELAY_TCP, ENG_RELAY_LISTEN, ENG_RELAY_UDP, ENG_RELAY_SEQ, ENG_RELAY_DGRAM };
enum { ENG_NET_V6ONLY = 1, ENG_NET_REUSEPORT = 2, ENG_NET_PLACES = 64 /* so many sockets at one address and port */ };
struct eng_net { /* names of a socket of the network: each a struct sockaddr_in or sockaddr_in6 */
	uint16_t domain, flags;
	uint32_t backlog; /* of a listening one */
	uint8_t local[28], peer[28];
};
struct eng_relay { /* one open file description that must be relayed */
	uint64_t id;		  /* unique in the family, stays with the description over all moves */
	enum eng_relay_kind kind; /* PIPE_IN: the family reads */
	int fd;			  /* source at home: a duplicate of the original end. destination: filled in by the relay_open hook */
	pid_t pid;		  /* a holder and its number there, at the home: the hollow keeps it open */
	int num;
	const struct eng_net *net; /* destination: TCP, LISTEN, UDP */
};

/* Ends of a named pipe of the cluster's tree, and what the file system's agent on this host is to know of them (res_file_fifo.c). */
enum eng_fifo_verb { ENG_FIFO_KNOWN, ENG_FIFO_HOLD, ENG_FIFO_UNHOLD, ENG_FIFO_PLEDGE, ENG_FIFO_TAKE };
struct eng_fifo {
	uint64_t token; /* HOLD, PLEDGE: the same for all pipes of a family in one move; positive as a signed number */
	pid_t pid;	/* this host's, and its number; UNHOLD, TAKE: all of that process */
	int num;
	bool reads, writes;
	int size; /* PLEDGE: of the pipe that it had, 0: any */
};

struct eng_hooks {
	void *ctx;
	/* Path as the family sees it -> open it at the destination. The engine does that inside the vessel's own root view; no hook needed for files. */
	/* Destination: give the engine an fd (a fresh pipe end, pty slave) that stands for relay `r->id`; it is dup'd into the vessels and closed. At home: the original. */
	int (*relay_open)(void *ctx, struct eng_relay *r);
	/*
	 * Source: all stand still, for eng_freeze or for a moment of eng_precopy, and nothing of them has been changed yet. If we die from here on, they stand, parked, or run
	 * with all signals blocked, until eng_reattach finds them by what eng_save says of f now. It may still fail, or be tried again. May be NULL.
	 */
	void (*standing)(void *ctx, struct eng_family *f);
	/* Source: tells of each relayed description found while dumping, r->fd being a duplicate which the callee now owns. */
	int (*relay_found)(void *ctx, const struct eng_relay *r);
	/* Source on a guest host: of which connection that was made there is this socket (its inode) the family's end? 0 and *id, or -ENOENT. May be NULL. */
	int (*relay_whose)(void *ctx, uint64_t ino, uint64_t *id);
	/* Destination: all that eng_precopy sent ahead is in place (by eng_fill, in the family's thread): the source may freeze. May be NULL. */
	void (*ahead_done)(void *ctx);
	/* Both: may wait for other hosts. HOLD: the size of the pipe (F_GETPIPE_SZ), 0: not known. NULL: named pipes cannot be carried. */
	int (*fifo)(void *ctx, enum eng_fifo_verb verb, const struct eng_fifo *x, struct error *e);
	/*
	 * At home: the file of this host that a guest has open, whatever has become of its name (`path` was one): a descriptor (O_PATH) of ours, and in *access
	 * how it has it open (R_OK, W_OK); or -errno. ino: as it is seen away; mode: its type, 0: any. May be NULL.
	 */
	int (*by_inode)(void *ctx, uint64_t ino, uint32_t mode, const char *path, int *access);
	/*
	 * Guest host: a call about what is not here, to be made at home and answered (eng_call_answer()); data: of sendto(2). At any time, also while the family is being stopped: its threads
	 * stop when they are answered. Must not wait. May be NULL.
	 */
	void (*call)(void *ctx, const struct eng_foreign *c, const void *data, size_t len);
	bool goes_home; /* source on a guest host: to where its files are */
};

/*
 * Source: stops all threads of pid and its descendants and keeps them in ptrace stop. -errno: all runs on.
 * At home: *out must be NULL; a root that the calling thread already traces and that is in a ptrace stop (PTRACE_EVENT_EXEC of `mig run`) is taken over.
 * On a guest host: *out is the running family (from eng_nest) on entry and pid its root as the family sees it; the same object comes back.
 */
int eng_freeze(pid_t pid, const struct eng_hooks *h, struct eng_family **out, struct eng_reasons *why, struct error *e);
/*
 * Source, optional, before eng_freeze: sends ahead, while the family runs on, what the destination can make ready (head, maps, files to open) and, if there is
 * much, most of the memory, in rounds that stop when they no longer pay or after max_ms. fd is the same stream as eng_dump's later: the destination starts
 * eng_nest/eng_fill at once. *out as in eng_freeze; on success it is what to give to eng_freeze (at home too, NULL or a family; eng_thaw gives that up).
 * What was sent ends with
 * a mark, at which the destination calls ahead_done. 1: sent. 0: nothing was sent,
 * since it has children, or cannot move (eng_freeze tells why). Failure: all runs on, *out unchanged.
 */
int eng_precopy(pid_t pid, int fd, unsigned max_ms, const struct eng_hooks *h, struct eng_family **out, struct error *e);
/* Guest host: no eng_freeze will follow after all. Nothing if there was none, or it has failed. */
void eng_precopy_over(struct eng_family *f);
/* Source: writes the image to fd (blocking writes; the caller reads the other end in another thread). Ends with every thread parked. */
int eng_dump(struct eng_family *f, int fd, struct error *e);
/* Source, before the commit: back to where it was, running. Frees f. */
int eng_thaw(struct eng_family *f);
/* Source = home, after the commit: give the memory and descriptors back to the system but keep pid, threads, argument page, relayed descriptors. f stays: it supervises. */
int eng_hollow(struct eng_family *f, struct error *e);
/* Source = home, after the commit and before the destination resumes: closes the ends of named pipes that it took over. 0; anything else is left to eng_hollow(). */
int eng_let_go(struct eng_family *f);
bool eng_holds_pipes(struct eng_family *f); /* has it any to close? */
/* Source = guest host, after the commit: kill what is left, reap it, remove the nest. Frees f. */
int eng_discard(struct eng_family *f);

/* ---- destination --------------------------------------------------------------------------------- */
struct eng_nest_opts {
	const char *keeper;	/* path of sprite-keeper */
	const char *root;	/* directory that becomes / of the guests (the home's root view, a mount of spritefs) */
	const char *sprite;	/* directory that becomes /sprite in it (bind mount); NULL: none */
	const char *hostname;	/* the home's; not NULL */
	const char *cgroup;	/* cgroup v2 directory to put the family in; NULL: none. v1 directories may follow, separated by ':' */
	bool host_network;	/* false: a network namespace of its own with lo up */
};
/*
 * Guest host: keeper and namespaces. What takes longest in a move, and needs to know nothing of the family but its home: may be made before it comes, by any
 * thread. It ends with us. Goes to eng_nest() or eng_nest_drop().
 */
struct nest;
int eng_nest_make(const struct eng_nest_opts *o, struct nest **out, struct error *e);
pid_t eng_nest_keeper(const struct nest *n); /* its first process, as this host knows it; -ESRCH: it has been killed */
pid_t eng_keeper(const struct eng_family *f); /* of its nest; -ESRCH also if it is not in one */
void eng_nest_drop(struct nest *n);
/* Guest host: reads the image's head from fd (pids, clocks, creds) and makes vessels in the nest, which it takes over, whatever it returns. */
int eng_nest(int fd, struct nest *nest, const struct eng_hooks *h, struct eng_family **out, struct error *e);
/* What eng_save() gives of it is where a successor will find it: from now on the nest outlives us. Until then it ends with us. */
int eng_nest_held(struct eng_family *f);
/*
 * This host becomes its home (mig rehome): *out is filled by eng_fill(), which reads the head too; then eng_resume() frees it, as at any home, or eng_abandon().
 * rehome: adds to `why` what the process or its descendants have that such a move cannot take along, over what forbids any move. 0, 1: some were added, -errno. tree: the cluster's.
 */
void eng_clocks(uint64_t *mono_ns, uint64_t *boot_ns); /* as processes of this host see them */
/* any: of root, whose image is believed. Else it must be of that user of this host, with no more groups than he has here, and no capabilities. */
int eng_adopt(const struct eng_hooks *h, bool any, uid_t uid, const gid_t *groups, size_t ngroups, struct eng_family **out);
/* Filled, and noted where a successor of ours finds what eng_save() gives: from now on it outlives us, parked. Until then it ends with us. */
void eng_adopt_noted(struct eng_family *f);
int eng_explain_rehome(pid_t pid, const char *tree, struct eng_reasons *why);
/* Reads the rest of the image into the vessels (from eng_nest) or hollows (eng_hollow, at home; reads the head too). Ends parked. */
int eng_fill(struct eng_family *f, int fd, const struct eng_hooks *h, struct error *e);
/* At home, filled: what is sent to its processes between the two takes its place behind what came with the image, before what was sent here since it left. */
void eng_queue_open(struct eng_family *f);
/* For signals that only their target may queue with their siginfo: it does. -EINVAL: it need not be so (or cannot: stops, SIGKILL). */
int eng_queue_put(struct eng_family *f, pid_t pid, pid_t tid, const siginfo_t *info);
void eng_queue_close(struct eng_family *f);
/* After the commit: lets it run. At home, unless `f` is kept by the caller for nothing more, frees f (returns with *f gone). */
int eng_resume(struct eng_family *f, struct error *e);
/* Destination, before the commit: guest host: kills the vessels, removes the nest, frees f. Home: empties the hollows again, keeps f. */
int eng_abandon(struct eng_family *f);

/* ---- supervision ---------------------------------------------------------------------------------- */
enum eng_event_kind {
	ENG_NOTHING,
	ENG_SIGNAL,	/* at home: a hollow got a signal: forward it (info, pid, tid or 0 = process-wide) */
	ENG_STOPPED,	/* at home: hollow group-stopped by info.si_signo. On a guest host: the guest stopped */
	ENG_CONTINUED,
	ENG_EXITED,	/* guest host: process `pid` ended with wait status `status` (its zombie has been reaped). At home: the hollow was killed (SIGKILL) */
	ENG_OFFSET,	/* guest host: what is descriptor `num` of `pid` at home, and others' there, stands at `offset` now; -1: at the end of its file */
	ENG_BORN,	/* guest host: new process `pid` of parent `ppid` that has lived for some time, or whose parent ends: told before that end */
	ENG_NAMED,	/* guest host: process `pid` is called `comm` now: it has called exec(2), or named itself */
};
struct eng_event {
	enum eng_event_kind kind;
	pid_t pid, tid, ppid; /* as the family sees them */
	siginfo_t info;
	/*
	 * ENG_SIGNAL: which thread took it, and its number there (0: none). It is given up by the hollow only when the next event is asked for; if we die before,
	 * it comes again with the same number.
	 */
	pid_t taker;
	uint32_t nr;
	int status;
	struct rusage usage;
	int num; /* ENG_OFFSET */
	int64_t offset;
	pid_t pgid, sid; /* ENG_BORN, */
	unsigned exit_signal; /* and 1 + what its end sends to its parent, 0: not known */
	char comm[17]; /* ENG_BORN, ENG_NAMED */
};
/* fd to poll; readable when eng_next_event() has something. */
int eng_event_fd(struct eng_family *f);
/* Never blocks: 1 = *ev filled, 0 = nothing, -errno. */
int eng_next_event(struct eng_family *f, struct eng_event *ev);

/*
 * Guest host: delivers a signal as the home saw it (si_code, sender and value kept). SIGKILL, SIGSTOP and SIGCONT included. seq: ascending numbers, each of which is
 * delivered once however often it is given, over restarts of ours too. 0: without. -EAGAIN: what a dead predecessor began is not over yet.
 */
int eng_signal(struct eng_family *f, pid_t pid, pid_t tid, const siginfo_t *info, uint64_t seq);
/* Guest host: the home knows of the end of `pid`. Until it is told so, the keeper tells every new migd of that end again. */
int eng_exit_told(struct eng_family *f, pid_t pid);
/* Guest host: a call (eng_hooks.call) is answered over a descriptor of its own, from any thread, since the family's may be waiting for the caller to stop. */
int eng_answer_fd(struct eng_family *f);
int eng_call_answer(int fd, const struct eng_foreign *c, int got); /* got: the descriptor that it gets (connect(2)), or -1; stays the caller's */
/* Home: makes the call in the hollow of its caller (or of the root process, if it was born away); ret and out are filled. -errno: it could not be made. */
int eng_hollow_call(struct eng_family *f, struct eng_foreign *c);
/*
 * Home: nobody in the family has the pipe of relay `id` any more: its hollows close it too, or those at its other end would wait for them. 0 also for a relay that is no pipe or not known;
 * -EBUSY: the family is not away; -EAGAIN: one hollow is stopped, and keeps it.
 */
int eng_hollow_let_go(struct eng_family *f, uint64_t id);
/* Home: an ENG_OFFSET there: the description in the hollow is set to it. */
void eng_hollow_offset(struct eng_family *f, pid_t pid, int num, int64_t pos);
/* Home: who ends next is the last: what the family shared with others here is theirs alone again, before they hear of it. */
void eng_hollow_over(struct eng_family *f);
/* Home: ends the hollow `pid` so that its parent sees exactly wait status `status`. */
int eng_exit_hollow(struct eng_family *f, pid_t pid, int status);
/*
 * Home: a placeholder for a process that was born away (an ENG_BORN there): a hollow with its number, a child of its parent's hollow (or, if that has ended, of
 * another one), in its group, with its name. It is one of the family's hollows from then on. 0 also when it is there already; -EBUSY: the hollows are being filled.
 */
int eng_hollow_born(struct eng_family *f, const struct eng_event *born, struct error *e);
/*
 * Home: the hollow `pid` shows that name and these arguments (`len` bytes, the last a NUL; what has no room in its argument pages is cut; none: as they were).
 * -EBUSY: the hollows are being filled; -EAGAIN: it is stopped.
 */
int eng_hollow_named(struct eng_family *f, pid_t pid, const char *comm, const void *args, size_t len);
/* Home: mirror a stop or continue of the guest to the hollow (as the shell sees it). */
int eng_stop_hollow(struct eng_family *f, pid_t pid, int sig);

/* migd restarted: find the hollows (or the nest, through its keeper's socket in run_dir) again. state: what eng_save() gave. */
int eng_save(const struct eng_family *f, char **text);
int eng_reattach(const char *state, const struct eng_hooks *h, struct eng_family **out, struct error *e);
/* After all families have been found again: hollows of which nobody knows any more end by SIGKILL. */
void eng_end_strays(void);
/*
 * What the family is, also after eng_reattach(), which looks at the processes themselves: "parked" (dumped: eng_thaw, eng_hollow or eng_discard), "hollow",
 * "filled" (eng_resume or eng_abandon), "running" (a guest), "frozen", "nested".
 */
const char *eng_state_name(const struct eng_family *f);

/* Pids of the family, as it sees them, root process first. Borrowed; valid until the next call. */
const pid_t *eng_pids(const struct eng_family *f, size_t *n);
const char *eng_name(struct eng_family *f, pid_t pid); /* as it was when it was last looked at; "": not known */
/* The arguments of that process, as /proc/PID/cmdline has them, cut to `len` with a NUL at the end: how many bytes, or 0. */
enum { ENG_ARGS_MAX = 4096 };
size_t eng_args(struct eng_family *f, pid_t pid, char *args, size_t len);
int eng_stopped(const struct eng_family *f, pid_t pid); /* is that process stopped at this moment (SIGSTOP and kin): 1, 0; -1: it cannot be told while we hold it */
uint64_t eng_frozen_ns(const struct eng_family *f); /* clock_mono_ns() when the freeze began */

/* CPU features of this host as a list of names, for the head of an image; and what of `needed` this host lacks (NULL: nothing). */
const char *eng_cpu_missing(const char *needed, const char *const *hide);
const char *eng_cpu_features(const char *const *hide);

#endif
