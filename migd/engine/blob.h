/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The blob: a page of position-independent, libc-free code and some data at a fixed place in a process that the engine works on. It can
 *   batch  run a list of system calls, then trap (the tracer sees SIGTRAP) and park;
 *   park   sleep for good, or, in a hollow, wait for any signal, keep its siginfo in the thread's slot, trap and sleep until the tracer took it. Only one thread
 *          of a process waits so: of several each would take from the queue of all, and nobody could tell the order. The others stand apart.
 * A trap without a tracer runs the blob's own SIGTRAP handler, which returns: so a thread in the blob survives the tracer's death and stays parked.
 *
 * Layout from the base:  code page | head page | batch | scratch | slots (one a thread) | stacks (one a thread, touched only by that handler).
 */
#ifndef ENGINE_BLOB_H
#define ENGINE_BLOB_H
#include <signal.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/user.h>

enum {
	BLOB_CODE = 0x0,
	BLOB_HEAD = 0x1000,
	BLOB_BATCH = 0x2000,
	BLOB_BATCH_LEN = 0x5000,
	BLOB_SCRATCH = BLOB_BATCH + BLOB_BATCH_LEN,
	BLOB_SCRATCH_LEN = 0x20000,
	BLOB_SLOTS = BLOB_SCRATCH + BLOB_SCRATCH_LEN,
	BLOB_SLOT = 512,
	BLOB_STACK = 0x4000,
	BLOB_CPUS = 128,
};
#define BLOB_MAGIC 0x62656c6f74697270ULL
enum { BLOB_PARK = 0, BLOB_WATCH = 1 };

struct blob_head { /* offsets are known to blob_code.c */
	uint64_t all;  /* 0: signal set of all but SIGTRAP */
	uint32_t mode; /* 8: BLOB_PARK or BLOB_WATCH */
	uint32_t nslots;
	uint64_t magic;
	uint64_t trap[4]; /* the program's own SIGTRAP action */
	int32_t vpid;
	uint32_t state; /* 1: put in by a dump, the true thread is parked here; 0: a vessel */
	struct rlimit sigpending; /* what RLIMIT_SIGPENDING was, */
	uint64_t raised;	  /* 1: while it is raised for us: whoever finds it so puts it back (res_signals_queue.c) */
};
struct blob_slot {
	siginfo_t info; /* 0 */
	uint32_t full;	/* 128: signal number, 0: empty */
	uint32_t taken; /* number of the last one that was taken over from here; written together with full = 0 */
	int32_t vtid;
	uint32_t apart; /* waits for no signal, not even its own */
	uint64_t sigmask;
	struct user_regs_struct regs; /* as frozen: what a thaw by another migd gives back */
	uint32_t ncpus; /* likewise, the processors that it may use (pin.c); 0: as it is */
	uint8_t cpus[BLOB_CPUS];
};
_Static_assert(sizeof(struct blob_slot) <= BLOB_SLOT, "slot");

/* The code, to be copied to the base; and the entries as offsets in it. */
extern const char blob_code_start[], blob_code_end[], blob_code_batch[], blob_code_park[], blob_code_took[], blob_code_noted[], blob_code_sleep[], blob_code_handler[], blob_code_restorer[],
	blob_code_tiles[];
#define BLOB_AT(label) ((uint64_t)(blob_code_##label - blob_code_start))

static inline uint64_t blob_size(unsigned nslots)
{
	uint64_t slots = ((uint64_t)nslots * BLOB_SLOT + 0xfff) & ~0xfffULL;

	return BLOB_SLOTS + slots + (uint64_t)nslots * BLOB_STACK;
}
static inline uint64_t blob_slot_addr(uint64_t base, unsigned i)
{
	return base + BLOB_SLOTS + (uint64_t)i * BLOB_SLOT;
}
/* Top of the stack of slot i. */
static inline uint64_t blob_stack_addr(uint64_t base, unsigned nslots, unsigned i)
{
	uint64_t slots = ((uint64_t)nslots * BLOB_SLOT + 0xfff) & ~0xfffULL;

	return base + BLOB_SLOTS + slots + (uint64_t)(i + 1) * BLOB_STACK - 64;
}
#endif
