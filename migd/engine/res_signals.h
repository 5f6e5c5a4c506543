/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Queues of signals of a stopped process, for res_signals.c. `shared`: the process's queue, else that of thread t alone.
 * Who takes signals out and puts them back makes room for them first: the kernel counts those of all processes of the user against RLIMIT_SIGPENDING of the one
 * that is to get one, and another may use up what we have just made free. What the limit was is in the blob's head for so long: if we die meanwhile, the next migd
 * puts it back when it finds the process again.
 */
#ifndef ENGINE_RES_SIGNALS_H
#define ENGINE_RES_SIGNALS_H
#include <signal.h>
#include <sys/resource.h>
#include "migd/engine/blob.h"
#include "migd/engine/res_util.h"

enum { NSIGS = 64 };
struct sig_list {
	siginfo_t *info;
	size_t n;
};
struct sigqueue_room {
	struct rlimit was;
	bool made;
};

/* Both use the scratch memory. */
void sigqueue_room_make(struct eng_proc *p, struct sigqueue_room *room);
void sigqueue_room_end(struct eng_proc *p, struct sigqueue_room *room);
/* A process found again with the room that a migd made in it which has died. It is stopped. */
void sigqueue_room_found(struct eng_proc *p, const struct blob_head *head);

/* Everything that waits; out->info is the caller's. */
int sigqueue_peek(struct eng_thread *t, bool shared, struct sig_list *out);
/* Takes one waiting signal `sig` out (thread t's own first, then the process's). 1, 0: nothing there, or -errno. */
int sigqueue_take(struct eng_thread *t, int sig, siginfo_t *info);
int sigqueue_put(struct eng_thread *t, bool shared, const siginfo_t *info);
/* True also if it cannot be told. */
bool sigqueue_has(struct eng_thread *t, bool shared, const siginfo_t *info);
bool sigqueue_own(struct eng_thread *t, int sig);
void sigqueue_count(struct eng_proc *p, unsigned n[NSIGS + 1]);
/* The first n waiting `sig` of the process go to the end of its queue. */
int sigqueue_turn(struct eng_proc *p, int sig, unsigned n);
#endif
