/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The lock table of one kind (flock, or fcntl) over all objects: who holds which byte range of what, and who waits. Cluster-wide, because every
 * client's locks come here. Semantics of fcntl(2): ranges of one owner merge, split and change type; ends are inclusive. flock(2)
 * is the same with whole-file ranges, but an upgrade gives up what was held while it waits (flock(2): "may release the existing lock").
 *
 * Pure: no I/O, no time, no locking of its own. A request that must wait is kept with the caller's cookie; every call that may free something
 * returns the waiters that have got their lock by it, in the order in which they came.
 */
#ifndef FS_SERVER_LOCK_H
#define FS_SERVER_LOCK_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "conf/hash.h"
#include "conf/list.h"

#define LOCK_EOF INT64_MAX
#define LOCK_MAX (1u << 20) /* ranges held in one table; more are ENOLCK */

enum lock_type { RANGE_READ, RANGE_WRITE };

struct lock_owner {
	uint64_t client; /* number of the client on this server */
	uint64_t owner;	 /* the client's name for the owner */
};

struct lock_range {
	struct lock_owner who;
	uint32_t pid; /* as the client told, for F_GETLK */
	enum lock_type type;
	int64_t start, end; /* inclusive */
	long *account; /* counts what its host holds, NULL: nobody counts */
	uint64_t mark; /* two ranges with the same, not 0, are not in each other's way: one is taking over from the other */
};

struct lock_object;
struct lock_table {
	bool whole;	    /* flock rules */
	struct hash objects; /* key bytes -> struct lock_object */
	size_t nheld, nwaiting;
	long account_max; /* more on one account are ENOLCK */
	struct list waiters; /* all waiting requests, for the search of cycles */
};

/* One waiting request. Embedded by the caller, who gets it back when it is granted or removed. */
struct lock_waiter {
	struct lock_range want;
	uint64_t ticket;
	/* private */
	struct lock_object *object;
	struct list in_object, in_table;
};

void lock_table_init(struct lock_table *t, bool whole);
void lock_table_clear(struct lock_table *t); /* there must be no waiter left */

/*
 * Takes the lock: 0 at once. When others are in the way: -EAGAIN without `wait`; with it -EINPROGRESS and `wait` is queued; -EDEADLK when waiting would
 * close a cycle (fcntl only). -ENOMEM. `granted` receives waiters (by in_object) that got theirs because this request gave something up.
 */
int lock_take(struct lock_table *t, const void *key, size_t keylen, const struct lock_range *want, struct lock_waiter *wait,
	struct list *granted);
int lock_drop(struct lock_table *t, const void *key, size_t keylen, struct lock_owner who, int64_t start, int64_t end,
	struct list *granted);
/* Does `who` hold anything of it? */
bool lock_holds(const struct lock_table *t, const void *key, size_t keylen, struct lock_owner who);
/* The first range that `who` holds there at `at` or behind. */
bool lock_next(const struct lock_table *t, const void *key, size_t keylen, struct lock_owner who, int64_t at, struct lock_range *out);
/* F_GETLK: fills *out with a lock in the way and returns true. */
bool lock_test(const struct lock_table *t, const void *key, size_t keylen, const struct lock_range *want, struct lock_range *out);
/* Does another client's request wait for something that this client holds? */
bool lock_blocks(const struct lock_table *t, uint64_t client);
/* Gives what `who` holds there of the object that mark. */
void lock_mark(struct lock_table *t, const void *key, size_t keylen, struct lock_owner who, int64_t start, int64_t end, uint64_t mark);
/* What others hold there under that mark and more strongly than `who` now does (type NULL: not at all) they hold no more: who took over has let go of it. */
void lock_yield(struct lock_table *t, const void *key, size_t keylen, struct lock_owner who, const enum lock_type *type, int64_t start, int64_t end, uint64_t mark,
	struct list *granted);
/* A waiter gives up; it is unlinked. */
void lock_forget(struct lock_table *t, struct lock_waiter *w);
struct lock_waiter *lock_find_waiter(struct lock_table *t, struct lock_owner who, uint64_t ticket);
/* Everything of one client goes: held ranges are dropped; its waiters are unlinked and returned in `orphans` (by in_object). */
void lock_drop_client(struct lock_table *t, uint64_t client, struct list *granted, struct list *orphans);

#endif
