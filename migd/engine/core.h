/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The core's own view of families, processes and threads, shared by the files of this folder that are not resource modules.
 * Everything here is used by the family's tracer thread alone.
 */
#ifndef ENGINE_CORE_H
#define ENGINE_CORE_H
#include <signal.h>
#include <stdbool.h>
#include <sys/resource.h>
#include "migd/engine/blob.h"
#include "migd/engine/xsave.h"
#include "migd/engine/res.h"

enum { ENG_VERSION = 3 };
enum eng_state { ENG_TRACKED, ENG_FROZEN, ENG_PARKED, ENG_HOLLOW, ENG_NESTED, ENG_FILLED, ENG_RUNNING };

/* What a thread blocks from the freeze on, as the kernel says it: all but SIGTRAP (and KILL and STOP). Nobody else's mask: C libraries block SIGTRAP with all others. */
#define FROZEN_MASK 0xfffffffffffbfeefULL

struct ksigaction { /* the kernel's, not libc's */
	uint64_t handler, flags, restorer, mask;
};

enum { SPECULATIONS = 3, PIN_BYTES = BLOB_CPUS };

struct thread_asked { /* source: what only the thread itself can tell, as found in this dump */
	bool is;
	stack_t alt;
	uint64_t tid_addr, permitted, slack;
	uint32_t tsc, personality;
	int32_t pdeath_sig;
	int securebits, dumpable;
	bool segments; /* of its own (modify_ldt(2)) */
	uint32_t speculation[SPECULATIONS];
};

struct eng_thread_core {
	bool stopped;			 /* in ptrace stop */
	unsigned tsc, speculation[SPECULATIONS]; /* as in the image */
	bool seized;			 /* by the freeze, and not let go yet */
	bool gone;
	bool told;			 /* hollow: the signal in its slot has been told; it stands still until that has been taken over */
	uint32_t told_nr;
	bool own;			 /* hollow: it is let take a signal that was sent to it alone */
	bool looked, masked;		 /* `frozen` is valid; the signal mask is ours */
	int how;			 /* ptrace request that lets it run on: PTRACE_CONT or PTRACE_SYSCALL */
	struct user_regs_struct frozen;	 /* as PTRACE_INTERRUPT left them: what a thaw gives back */
	uint64_t slot;			 /* address of its struct blob_slot */
	uint64_t rseq, robust, tid_addr;
	uint32_t rseq_len, rseq_sig;
	stack_t alt;
	char comm[17];
	void *xstate;			 /* destination: to be set */
	size_t xstate_len;
	double ran_ms, switches;	 /* source, before it was stopped: when it last ran, by the clock of processor `cpu`; its voluntary context switches */
	int cpu;			 /* -1: it did not sleep */
	bool has_remaining;
	bool amx; /* its process may use AMX (arch_prctl(2)) */
	unsigned ncpus;			 /* it is kept on one processor; what it was allowed before, in bytes */
	unsigned nnoted;		 /* bytes of cpus as noted before that (pin_note()), 0: not */
	uint8_t cpus[PIN_BYTES];
	struct thread_asked asked;
	char *status;			 /* source: its /proc/TID/status as frozen (thread_status()) */
	uint64_t slack;			 /* destination: timer slack, and personality, as they shall be, */
	uint32_t personality;
	bool has_settings;		 /* if these are known */
	uint64_t remaining;
	long wait_nr;			 /* the call that has_remaining is about */
	char wchan[32];			 /* source: kernel function it slept in */
};

struct eng_proc_core {
	bool dead;
	bool blob_in;
	int mem;	  /* /proc/PID/mem */
	uint64_t blob;	  /* base of the blob, 0: not yet chosen */
	unsigned nslots;  /* slots the mapped blob has room for */
	uint64_t sysinsn; /* address of a `syscall` instruction in the target, for calls without the blob */
	uint64_t vdso, vdso_end; /* where that is, if it is the vdso's; else 0 */
	uint64_t guard;	  /* guard.c: its code and frame, 0: none; */
	size_t guard_len;
	struct eng_thread *guarded;
	size_t scratch;	  /* bytes in use */
	struct ksigaction trap; /* the program's own action for SIGTRAP */
	int exit_signal;  /* what its end sends its parent */
	int stop_sig;	  /* job control: group-stopped by this signal, 0: not */
	bool stood;	  /* a hollow that comes to life: it was stopped as such */
	bool stop_taken;  /* and its parent in the family has been told */
	struct rlimit left[RLIM_NLIMITS]; /* home: its limits when it left, */
	bool left_known;		  /* if this migd has seen it leave */
	unsigned mlockall; /* source: MCL_FUTURE, MCL_ONFAULT as dumped */
	bool caps;	  /* vessel on a guest host: full capabilities, acts for uid/gid below when it opens files */
	uint32_t uid, gid;
	uint32_t *groups;
	size_t ngroups;
	struct maps *maps, *layout; /* source: dump_maps(), dump_layout() */
	struct maps_reader *reader; /* source: who reads the former (dump.c) */
	int transfer;	  /* our end of the descriptor transfer socket, -1: none */
	int transfer_num; /* the target's end */
	void *mm;	  /* destination: unpacked ImgMm until finish */
	void *pre;	  /* destination: unpacked ImgMm of the PRE_MM record, until the true one comes */
	bool exe_ahead;	  /* destination: /proc/PID/exe is set already */
	struct track *track; /* source: pre-copy, see precopy.c */
	char comm[17];
	bool exit_sent;
	bool seen;	  /* found again in this freeze */
	bool of_member;	  /* guest host: was seen last as a child of another member: its end is seen by nobody but us */
	bool known;	  /* guest host: came in an image, or its birth has been told */
	unsigned fresh;	  /* how often it has been seen before that */
	pid_t born_of;
	int mirrored; /* home: a stop signal that is being played on the hollow */
	pid_t home_ppid, home_pgid, home_sid; /* guest host: as the image said */
};

struct zombie { /* a member that has ended and that its parent has not waited for */
	pid_t pid, vpid, parent; /* this host's; the family's */
	pid_t pgid, sid;	 /* the family's */
	int status, exit_signal;
};

struct eng_family {
	enum eng_state state;
	bool home;	   /* hollows (or about to be); false: a nest */
	bool adopted;	   /* destination: this host becomes its home (adopt.c), */
	bool mortal;	   /* until the caller has noted it: nobody would find it again (eng_adopt_noted()) */
	bool adopt_any;	   /* with whatever rights it comes, */
	uint32_t adopt_uid, *adopt_groups; /* or as this user of this host, who has these groups */
	size_t nadopt_groups;
	struct eng_hooks hooks;
	struct eng_proc **procs;
	size_t nprocs;
	struct zombie *zombies; /* source: found by the freeze. Home: those that were left */
	size_t nzombies;
	pid_t *vpids;
	void *res[ENG_RES_MAX];
	int event_fd; /* epoll of the next and the keeper's socket */
	int wake_fd;  /* eventfd */
	int apart_fd; /* timerfd: when to look for signals to single threads of hollows */
	uint64_t frozen_ns;
	int cpu;	   /* 1 + the processor that we and its threads keep to, 0: not chosen yet */
	struct nest *nest; /* guest host */
	struct event_queue *events;
	struct objects *objects;
	int64_t mono_offset, boot_offset; /* guest host: the family's clocks minus this host's */
	char *head_hostname;
	char *devices; /* guest host: numbers of the file systems where it was moved away from first (devices.h); NULL: it had not run yet then */
	uint64_t explained_ns; /* source: when pre-copy found that it may move; 0: not */
	bool just_begun; /* home: frozen in the stop of its exec, it remembers nothing */
	struct xsave_part xsave[XSAVE_PARTS]; /* destination: how the image's threads keep their state */
	size_t n_xsave;
	bool found_again; /* by eng_reattach(): what modules kept is gone */
	uint64_t not_before; /* home: CLOCK_MONOTONIC as the family saw it last while away */
};

uint64_t vdso_sum(void); /* vdso.c: of this kernel's; 0: none */

/* events.c */
int events_init(struct eng_family *f);
void events_close(struct eng_family *f);
int events_add(struct eng_family *f, int fd);
void event_push(struct eng_family *f, const struct eng_event *ev);
/* A thread that we trace ended with wait status `st` (reaped by us as its tracer). */
void event_exit_seen(struct eng_proc *p, struct eng_thread *t, int st);

/* Around waitpid(2) for that thread, which is about to stop for us: its SIGCHLD is no news to anybody else. And when there is nothing more to wait for. */
int events_await(pid_t tid);
void events_awaited(int place);
void events_catch_up(void);

/* hollow.c: looks at every watched thread (waitpid, keeper's messages) and pushes what it finds. */
void watch_collect(struct eng_family *f);
void hollow_release(struct eng_family *f); /* what has been told has been taken over: those threads wait for signals again */
void apart_start(struct eng_family *f); /* hollow: threads that stand apart are looked at from now on */
void apart_look(struct eng_family *f);
void hollow_watch_all(struct eng_family *f); /* back to waiting for signals; what a slot holds is told */
enum { END_REAP = 1, END_KEEP = 2 };
void hollow_reap_zombie(struct eng_proc *parent, pid_t vpid, int sig);
void hollow_drain(struct eng_proc *parent, pid_t child, int sig); /* the signal that the parent has got for its child; 0: any such */
int vessel_die(struct eng_proc *p, int status); /* a stopped vessel ends in that way, and we have let go of it */
int hollow_end(struct eng_family *f, pid_t pid, int status, int how); /* eng_exit_hollow; reviving: its parent stays stopped */
int hollow_stop_one(struct eng_proc *p); /* its first thread; and back */
int hollow_watch_one(struct eng_proc *p);
void hollow_call_it(struct eng_proc *p, const char *name);
int hollow_stop_all(struct eng_family *f); /* every thread into a ptrace stop */

/* nest.c: who is not known yet becomes known now. */
void nest_tell_young(struct eng_family *f);
void nest_all_known(struct eng_family *f);

/* explain.c: eng_explain, for a family at home or in a nest. */
ssize_t explain_list(pid_t root, pid_t **out); /* it and all descendants; malloc'd */
int explain_family(pid_t pid, bool in_nest, bool goes_home, struct eng_reasons *why, struct eng_sizes *sizes, struct error *e);

/* freeze.c */
/* Stopped: how long the wait that it was stopped in had lasted; 0 when that is not sure (then it waits longer, never shorter). */
int freeze_process(struct eng_proc *p, struct error *e); /* how many of its threads have been stopped, or -errno */
uint64_t freeze_slept_ns(const struct eng_thread *t);
int freeze_wait_until(pid_t tid, int *st, uint64_t end); /* waitpid with a limit. 1: *st filled, 0: time is over, -ESRCH */
int freeze_await(struct eng_thread *t, struct error *e); /* seized and interrupted: its stop. 0, -ESRCH: it ended meanwhile, -EBUSY */
int freeze_zombie(struct eng_family *f, pid_t pid, struct eng_proc *parent); /* 1: noted as one that waits for its parent to ask, 0: it is not one */
void freeze_order(struct eng_family *f); /* parents before children */

/* thaw.c */
void thaw_processes(struct eng_family *f); /* all run on; the objects stay, without threads */
bool thaw_waits(const struct eng_proc *p, int sig); /* has it such a signal waiting? */
bool thaw_stop(struct eng_proc *p); /* before its threads: one that is stopped by job control stays so, if nobody has continued it since. Does it? */
int thaw_unblob(struct eng_proc *p, const struct user_regs_struct *first); /* its first thread has these registers then */
int thaw_thread(struct eng_thread *t); /* true registers, true mask, detached */

/* pin.c: onto the family's processor; what that changed is noted anew; as it was. And this thread itself, while it injects much. */
void pin_note(struct eng_thread *t); /* what it is allowed, for who lets it go after our death */
bool pin_left(struct eng_thread *t); /* it was noted, and a migd that died left it on one processor: pin_release() gives it back */
void pin_thread(struct eng_thread *t);
void pin_again(struct eng_thread *t);
void pin_release(struct eng_thread *t);
struct pin_self {
	unsigned n;
	uint8_t cpus[PIN_BYTES];
};
void pin_self(struct eng_family *f, struct pin_self *was);
void pin_self_end(const struct pin_self *was);

/* inject.c: eng_batch, with something to do in the last moment before the target runs. */
int batch_after(struct eng_thread *t, struct eng_call *c, size_t n, size_t *failed, void (*last)(void *), void *arg);

/* fill.c */
int vessel_catch(struct eng_thread *t);	      /* seize, interrupt, mask: from now on ours */
int eng_release_threads(struct eng_family *f); /* true registers and masks, detached */

/* dump.c */
struct clocks {
	uint64_t mono, boot, real;
};
void clocks_read(struct clocks *c); /* of one moment: read again when we were interrupted in between (a busy host) */
int blob_find(struct eng_proc *p, struct blob_head *head, const struct maps *maps); /* where the blob is in p: 1 and *head; 0: not in it */
void dump_look(struct eng_proc *p);	    /* frozen: its maps, or, if their flags take long, their layout */
void dump_maps_free(struct eng_proc *p);
struct maps *dump_layout(struct eng_proc *p); /* likewise, perhaps without their flags */
struct maps *dump_maps(struct eng_proc *p); /* frozen: as they were before the blob came in, read once; NULL: it has ended */
int dump_blob_in(struct eng_proc *p, struct error *e);
/*
 * What numbers the files of a process have that it remembers, or will once it has run on the next host (devices.h); NULL: none. dir: of /proc/PID. Asked for once,
 * for they stay the same until it is home again.
 */
char *dump_devices(int dir);
/* ahead: a guess, who is not in it has not ended. put: the record alone. */
int dump_head(struct eng_family *f, struct eng_image *out, bool ahead, struct error *e);
int dump_put_head(struct eng_family *f, struct eng_image *out, bool ahead);
void dump_numbers(struct eng_family *f); /* guests: parents, groups and sessions as the family sees them */

/*
 * announce.c: what goes ahead of a process that runs on. 1: sent, 0: it is one of a family. f: the guest family; NULL: pid at home. *watchable: bytes in maps that precopy.c could watch.
 */
int fs_put_ahead(struct eng_proc *p, struct eng_image *out); /* res_fs.c */
int announce(struct eng_family *f, pid_t pid, struct eng_image *out, uint64_t *watchable, struct error *e);

/* image.c */
struct eng_image *image_writer(int fd);
struct eng_image *image_reader(int fd);
void image_free(struct eng_image *im);
int image_flush(struct eng_image *im);
struct image_rec {
	uint32_t type;
	int32_t vpid;
	uint64_t len;
};
/* The next record; body valid until the next call. 0, -EPIPE (end of file too early), -EPROTO, -errno. */
int image_next(struct eng_image *im, struct image_rec *rec, const void **body);
/* Room for a record body of up to `len` in the buffer, to be filled in place and then committed with its true length. */
void *image_reserve(struct eng_image *im, size_t len);
int image_commit(struct eng_image *im, uint32_t type, pid_t vpid, size_t len);
enum { IMG_HEAD = 1, IMG_THREAD, IMG_OBJECT, IMG_OBJECT_PAGES, IMG_PRE_MM, IMG_MM, IMG_PAGES, IMG_DROP, IMG_READY, IMG_END = 99 };
enum { IMG_MAX = 8 << 20 }; /* longest body that is believed */

/* regs_x86_64.c */
void regs_let_go(struct eng_thread *t); /* stopped, but not looked at: its call goes on as if nothing had been, and what would be forgotten of its wait is noted */
int regs_frozen(struct eng_thread *t, struct eng_reasons *why, struct error *e);
int regs_set(struct eng_thread *t, const struct user_regs_struct *r);
int regs_get(struct eng_thread *t, struct user_regs_struct *r);
/* Calls under a relative time-out that the kernel would go on with (-ERESTART_RESTARTBLOCK): arranges the same in a fresh task. */
int regs_rearm(struct eng_thread *t);
int regs_leave_vdso(struct eng_thread *t, uint64_t start, uint64_t end);

/* cpuclock.c: the scheduler's clock of a processor, now; 0 when it is not to be had. freeze: any number of this freeze. And a number of a `sched` file, 0 if missing. */
double cpuclock_ms(uint64_t freeze, int cpu);
double sched_number(const char *text, const char *key);

/* deadlines.c: when the interrupted wait of a thread on this host ends. slept_ns: for how long it has slept, at most. */
void deadline_note(pid_t tid, long nr, uint64_t left_ns, uint64_t sp, int64_t timeout);
int deadline_left(pid_t tid, uint64_t sp, uint64_t slept_ns, long *nr, uint64_t *left_ns, int64_t *timeout);

/* family.c */
struct eng_family *family_new(const struct eng_hooks *h);
void family_free(struct eng_family *f);
void family_forget_image(struct eng_family *f);
struct eng_proc *proc_new(struct eng_family *f, pid_t pid, pid_t vpid);
struct eng_thread *thread_new(struct eng_proc *p, pid_t tid, pid_t vtid);
void thread_drop(struct eng_proc *p, unsigned i);
void proc_drop(struct eng_family *f, size_t i);
int proc_open(struct eng_proc *p); /* dir, pidfd, mem */
int proc_identity(struct eng_proc *p); /* comm and this host's numbers; -ESRCH: it has ended */
const char *thread_status(struct eng_thread *t); /* source, frozen: its /proc/TID/status, read once; NULL: it has ended */
int threads_ask(struct eng_thread *t); /* source, once a dump: ->asked */
int proc_threads(struct eng_proc *p);  /* all there are now, the leader (its number is the process's) first */

#endif
