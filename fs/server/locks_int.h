/* SPDX-License-Identifier: Apache-2.0 */
/* What locks.c (the cluster's tables) and lock_home.c (the kernel's locks in home domains) share. */
#ifndef FS_SERVER_LOCKS_INT_H
#define FS_SERVER_LOCKS_INT_H
#include "fs/server/lock.h"
#include "fs/server/ops.h"

struct native;

struct locks {
	pthread_mutex_t lock;
	struct lock_table fcntl, flock;
	/* lock_home.c */
	struct list natives, waiting; /* struct native; struct parked by in_home */
	pthread_cond_t wake;
	pthread_t thread;
	bool running, stop, kick;
};

/* A request that waits, in a table or for the kernel's lock. */
struct parked {
	struct lock_waiter w;
	struct op *o;
	struct fsd *d;
	struct lock_table *t;
	struct native *n; /* not NULL: waits in a home domain */
	struct list in_home;
	uint64_t since; /* there */
	bool cancelled; /* before it was parked (locks.lock) */
	bool parked;
};

/* Takes a place among those of its host that may wait. -ENOLCK, -ENOMEM. */
int parked_new(struct op *o, struct lock_table *t, uint64_t ticket, struct parked **out);
void parked_answer(struct parked *p, int err); /* no lock is held; frees it */

int homes_start(struct locks *l);
void homes_stop(struct locks *l);
int home_lock(struct op *o, struct lock_table *t, const Sprite__Fs__LockReq *in, const struct lock_range *range);
int home_test(struct op *o, struct lock_table *t, const Sprite__Fs__LockReq *in, const struct lock_range *range);
/* Does that owner hold something by the kernel? */
bool home_has(struct locks *l, const struct lock_table *t, const Sprite__Fs__LockReq *in, struct lock_owner who);
/* Lock held: */
struct parked *home_waiter(struct locks *l, struct lock_owner who, uint64_t ticket);
void home_forget(struct locks *l, struct parked *p);
void home_drop(struct locks *l, const void *handle, size_t len, struct lock_owner who);
void home_drop_client(struct locks *l, uint64_t client, struct list *orphans); /* struct parked by in_home */
/* Does a process of this host wait (in the kernel) for what that client holds? */
bool home_in_the_way(struct locks *l, uint64_t client);

#endif
