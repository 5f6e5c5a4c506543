/* SPDX-License-Identifier: Apache-2.0 */
/* A nest: the namespaces of a guest family on this host, with its keeper as pid 1. */
#ifndef ENGINE_NEST_H
#define ENGINE_NEST_H
#include "migd/engine/core.h"
#include "migd/engine/keeper.h"

struct nest {
	pid_t keeper; /* on this host */
	int pidfd;
	int sock;
	bool lost;	/* the keeper has died, and all in its namespaces with it */
	int timer;	/* births and deaths are looked for at its ticks */
	unsigned ticks;
	bool awaited;	/* a reply of the keeper is: who waits for it may have a process in hand, so none is let go of */
	char name[64]; /* abstract socket for a restarted migd */
	uint8_t data[FOREIGN_DATA_MAX]; /* what came with the last message, a KEEPER_CALL */
};
/* 0 or -errno: n is the nest of f from now on, in any case, and its clocks are set. */
int nest_settle(struct eng_family *f, struct nest *n, int64_t mono_offset, int64_t boot_offset, struct error *e);
/* A thread that is seized and told to stop does not: perhaps it waits for what the keeper tells of a file, and the keeper for a server. It makes that call again later. */
void nest_hurry(struct eng_family *f, pid_t vtid);
/* What the keeper has told, while the actor waits for something else: a call that waits for the home would wait for him, and he for it. Without a nest nothing. */
void nest_hear(struct eng_family *f);
/* The keeper has a duplicate of that descriptor of ours until it ends: its number there, or -errno. */
int nest_keep(struct eng_family *f, int fd);
void held_tell(struct eng_family *f); /* res_files_held.c: offsets that home does not know of (ENG_OFFSET) */
/* A nest of a migd before us. nest_hello(), once its members are in f: the keeper tells of all ends that home does not know of; they are queued when it returns. */
int nest_attach(struct eng_family *f, const char *name, pid_t keeper, struct error *e);
int nest_hello(struct eng_family *f, struct error *e);
/* A vessel with the family's number vpid; *pid: on this host. */
int nest_vessel(struct nest *n, pid_t vpid, pid_t ppid, pid_t pgid, pid_t sid, pid_t *pid, struct error *e);
void nest_kill(struct nest *n);
void nest_free(struct nest *n);
/* Family about to be frozen again: host pid of its root, -ESRCH. */
pid_t nest_refreeze(struct eng_family *f, pid_t vpid);
/* Family runs (again): nothing of it is traced. */
void nest_running(struct eng_family *f);
void nest_collect(struct eng_family *f);
/* Is host process pid one of the keeper's own (stand-ins for who stayed at home)? */
bool nest_is_standin(const struct nest *n, pid_t pid);

/* sigqueue.c: a signal that only its target may queue with that siginfo; the target does so. 0 or -errno: not sent; -EINPROGRESS: by the tracer of a migd that has died, perhaps. */
bool sigqueue_needed(const siginfo_t *si);
int sigqueue_self(struct eng_family *f, struct eng_proc *p, pid_t vtid, const siginfo_t *si, uint64_t seq);
/* The keeper is told before: 0, -EALREADY, -EINPROGRESS; and afterwards, by whoever has done it. seq 0: it is not told. */
int nest_self_begin(struct eng_family *f, uint64_t seq);
void nest_self_done(const struct nest *n, uint64_t seq);

#endif
