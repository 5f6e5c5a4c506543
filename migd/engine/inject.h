/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System calls in a traced process: raw ones (two ptrace stops, nothing needed in the target) to bring the blob in and out, batches through the blob for all else.
 * The calling thread must be the tracer. Every function bears that the target dies at any moment: -ESRCH.
 */
#ifndef ENGINE_INJECT_H
#define ENGINE_INJECT_H
#include "migd/engine/core.h"

/*
 * Waits until t is in a ptrace stop. *status: wait status (may be NULL). Job-control stops and deliveries of signals that cannot be blocked are
 * kept in core->stop_sig and passed over. 0, -ESRCH.
 */
int inject_wait(struct eng_thread *t, int *status);
/* Lets a thread go that stands at the entry of a call, and stops it in the call, or at its end if that comes first. 0 or -ESRCH. */
int inject_interrupt(struct eng_thread *t);
/* Ours from now on, and on its way into an interrupt's stop. 0 or -errno. */
int inject_seize(struct eng_thread *t);
/* Of a stopped thread: neither its own seccomp filters nor the guest's (keeper_calls.c) are for what we inject. Never before it has stopped: they are for what
 * it calls until then. */
int inject_filters_sleep(struct eng_thread *t); /* -errno: where there is no seccomp */
/* Makes the kernel keep AMX's tiles for this thread; its process is permitted to use them. */
int inject_tiles(struct eng_thread *t);
/* One call by moving the instruction pointer to a `syscall` in the target. Leaves the registers changed. */
long inject_raw(struct eng_thread *t, long nr, const uint64_t arg[6]);
/* As inject_raw(), with these masks during the call and after it. */
long inject_raw_masked(struct eng_thread *t, long nr, const uint64_t arg[6], uint64_t during, uint64_t after);
#define INJECT_RAW(t, nr, ...) inject_raw(t, nr, (const uint64_t[6]){__VA_ARGS__})

/* Finds core->sysinsn. */
int inject_prepare(struct eng_proc *p, const struct maps *maps);
bool inject_prepared(struct eng_proc *p); /* still: it is the same program; it is stopped */
/* Maps the blob at core->blob with nslots slots (leader's thread is used) and takes SIGTRAP over. */
int inject_blob(struct eng_proc *p, unsigned nslots, struct error *e);
/* The other way round: the program's SIGTRAP action back, blob unmapped. Registers of the leader are the caller's to restore. */
int inject_unblob(struct eng_proc *p);
/* Registers of t: parked in the blob (it stays in ptrace stop; if the tracer dies it runs into the parking loop). */
int inject_park(struct eng_thread *t);
int inject_set_mode(struct eng_proc *p, unsigned mode);
/* Closes both ends of eng_fd_install()'s socket. */
void inject_transfer_close(struct eng_proc *p);

#endif
