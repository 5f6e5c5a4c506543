/* SPDX-License-Identifier: Apache-2.0 */
/* What locks.c (the cluster's tables) and lock_home.c (the kernel's locks in home domains) share. */
#ifndef FS_SERVER_LOCKS_INT_H
#define FS_SERVER_LOCKS_INT_H
#include "fs/server/lock.h"
#include "fs/server/ops.h"

/* An open file description of our own, by which one owner holds locks of one kind on a file. */
struct native {
	struct list link; /* locks.natives */
	struct lock_owner who; /* client 0: of the last run, and not claimed yet by */
	uint64_t epoch;	       /* the client of that epoch */
	char *peer;
	struct lock_table *t;
	unsigned waiting;
	bool write;
	bool held;	/* has held something: lock_keep.c has it, under `key` */
	bool inherited; /* holds what it held in the last run */
	bool placed;	/* major, minor, inode: as the kernel calls the file in /proc/locks, which is not what stat(2) says on btrfs */
	unsigned major, minor;
	unsigned long inode;
	uint64_t key;
	int fd;
	size_t len;
	unsigned char handle[HANDLE_MAX];
};

struct lock_keeper {
	int sock;      /* -1: none */
	pid_t pid;     /* 0: it is none of our children */
	uint64_t last; /* key */
	bool said;     /* that it cannot be started */
	char path[108];
};

struct locks {
	pthread_mutex_t lock;
	struct lock_table fcntl, flock;
	/* lock_home.c */
	struct list natives, waiting; /* struct native; struct parked by in_home */
	pthread_cond_t wake;
	pthread_t thread;
	bool running, stop, kick;
	bool leaving;	  /* the server stops: its clients will come to the next one */
	size_t inherited; /* natives by the last run */
	struct lock_keeper keeper;
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

int homes_start(struct locks *l, const char *run_dir);
void homes_stop(struct locks *l);
/* Those of the last run have said what they hold: the rest is let go of. */
void homes_settle(struct locks *l);
/* It is here again: what the last run held for it is its own. */
void home_claim(struct locks *l, const struct client *c);
int home_lock(struct op *o, struct lock_table *t, const Sprite__Fs__LockReq *in, const struct lock_range *range);
int home_test(struct op *o, struct lock_table *t, const Sprite__Fs__LockReq *in, const struct lock_range *range);
/* Does that owner hold something by the kernel? */
bool home_has(struct locks *l, const struct lock_table *t, const Sprite__Fs__LockReq *in, struct lock_owner who);
/* Lock held: */
struct parked *home_waiter(struct locks *l, struct lock_owner who, uint64_t ticket);
void home_forget(struct locks *l, struct parked *p);
void home_drop(struct locks *l, const void *handle, size_t len, struct lock_owner who);
void home_drop_client(struct locks *l, uint64_t client, bool stopping, struct list *orphans); /* struct parked by in_home; stopping: what it holds stays held, for the next run */
/* Does a process of this host wait (in the kernel) for what that client holds? */
bool home_in_the_way(struct locks *l, uint64_t client);
struct native *native_new(struct locks *l, struct lock_table *t, const char *peer, uint64_t epoch, struct lock_owner who, const void *handle, size_t len);

/* lock_keep.c; lock held: */
void lock_keep(struct locks *l, struct native *n); /* it holds something, or holds it by another descriptor */
void lock_keep_drop(struct locks *l, const struct native *n);
void lock_keep_tick(struct locks *l);
void lock_keep_start(struct locks *l, const char *run_dir); /* also fetches what the last run held */
void lock_keep_stop(struct locks *l);

#endif
