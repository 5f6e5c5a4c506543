/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A family that is away from its home, or about to be: one record at its home, one on each guest host that holds it.
 *
 * Its actor is the one thread that makes all engine calls (ptrace relations belong to threads). It waits for two things: jobs that others put into its
 * mailbox, and events of the engine.
 *
 * Records are counted: family_find() etc. return a reference that family_put() gives back. The record leaves the table by family_remove(); its actor ends
 * when the last reference but its own goes.
 *
 * Locking: `lock` guards the fields marked so. The engine's object belongs to the actor alone. Order: families' table, then one family's lock; neither is held
 * over a call to another host or to the engine.
 */
#ifndef MIGD_FAMILY_H
#define MIGD_FAMILY_H
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "conf/list.h"
#include "migd/context.h"
#include "migd/engine/engine.h"
#include "migd/migrate.h"

enum { FAMILY_ID_MAX = 128, HOST_NAME_MAX_ = 256, FAMILY_MEMBERS_MAX = 32768, CGROUP_NAME_MAX = 128 };
enum family_role { FAM_HOME, FAM_GUEST };

struct member {
	pid_t pid, ppid;
	bool hollow;  /* home: its hollow is here (a child born away has none) */
	bool stopped; /* as its parent sees it */
	bool ended;
	uint64_t turned; /* home: number of the last SIGSTOP or SIGCONT that was sent after it */
	char comm[17];
};

struct relays;
struct outbox;
struct family;
struct local_conn;

struct family {
	struct list node; /* families.lock */
	atomic_int refs;
	struct migd *m;
	enum family_role role; /* these do not change */
	char id[FAMILY_ID_MAX];
	char home[HOST_NAME_MAX_];
	uid_t uid;
	gid_t gid;
	pid_t pid; /* the root process, as the family sees it */
	char comm[17];

	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* lock: */
	uint64_t gen;	      /* home: the decided generation. guest: of the copy that is here */
	uint64_t attempt;     /* home: the highest generation given to an attempt */
	char host[HOST_NAME_MAX_]; /* home: where it runs, decided */
	char dest[HOST_NAME_MAX_]; /* home: where the undecided attempt leads to, or "" */
	char source[HOST_NAME_MAX_]; /* guest: where its image may come from */
	struct mig_machine machine; /* home: coordinator. guest: source or destination */
	bool moving;	      /* home: a driver is at work */
	bool dead;	      /* over: nothing more is to be done with it */
	bool filled;	      /* home: the hollows hold an image that is not decided yet */
	struct rpc_stream *relay_stream; /* the relays' link */
	bool relay_open;      /* guest: a thread keeps it up */
	bool orphaned;	      /* guest: its home does not answer */
	bool unnoted;	      /* guest: its last note did not get into the journal: again, from a tick */
	char cgroup[CGROUP_NAME_MAX]; /* guest: its name, "" before it has a nest */
	bool evicting;	      /* guest: has to go; off the CPU until it is on its way */
	bool evict_by_hand;   /* guest: not for the owner's sake: it goes even if he has gone again */
	uint64_t evict_since_ns; /* guest: when it was first told to go */
	uint64_t evict_ns;    /* guest: when its home was asked last to take it, 0: not yet */
	char evict_why[64];   /* guest: set once, before it is asked */
	uint32_t stuck_kill_s; /* its user would rather have it killed than wait, stopped, for so long to leave; 0: it waits */
	uint32_t priority;    /* home: of the slot, enum select_priority */
	int64_t since;	      /* clock_real_ns() of the last arrival */
	struct member *members;
	size_t nmembers;
	uint64_t signal_seq;  /* guest: the last signal that was delivered; home, after a restart: the last one in the image of the commit */
	uint64_t report_seq;  /* home: the last report of generation `gen` that was carried out */
	uint64_t sync_ns;     /* guest: when the home was asked last */
	uint64_t slot;	      /* home: the master's leave to be on `host` (agent_leave()), 0: none was asked for */
	_Atomic uint64_t carried; /* of the image that is on its way through this host: for those who watch (no lock) */
	bool adopt;	      /* its destination becomes its home. guest: this host; home: of the attempt, or of the commit */
	bool given_up;	      /* home: a person has said that the destination is lost for good */
	uint64_t image_bytes; /* of its last image */
	struct rpc_stream *image; /* destination: while one comes in */
	uint64_t frozen_ns;   /* how long the last move froze it */
	char last_error[480]; /* why the last attempt failed */

	struct calls *calls; /* home: forward.c */
	bool run_pending; /* lock, home: `mig run` has not gone yet, and may still fail */
	bool run_failed;  /* lock */

	struct relays *relays; /* has its own lock */
	struct outbox *outbox;	  /* likewise */
	struct eng_family *eng;	  /* the actor's */
	char *saved;		  /* home: what eng_save() gave at the end of the dump or fill, by the actor for the driver, which waits for that */
	bool goes_home;		  /* guest: the attempt that is under way leads there */
	uint64_t to_gen;	  /* of that attempt */
	bool no_pipes;		  /* likewise: nothing is to be let go of (eng_let_go) */
	bool whole;		  /* guest, the actor's: the image has come in whole */
	bool ended;		  /* guest, the actor's: its last process has ended, and the home is being told */
	/* while the journal is replayed, before anybody else knows the record: */
	char *replay_state;
	bool replay_away, replay_commit;
	uint64_t exec_entry;	  /* `mig run`: held in the stop of its exec, at this address; it must not run here unless ctl_run.c says so */

	/* mailbox */
	pthread_mutex_t box_lock;
	struct list box; /* box_lock */
	int box_fd;
	pthread_t actor;
	bool quit; /* box_lock */
	/* Called by the actor for each event of the engine. */
	void (*on_event)(struct family *f, const struct eng_event *ev);
};

struct families;
int families_open(struct migd *m, struct families **out);
void families_close(struct families *t);

/* Makes a record with its actor and puts it into the table. id NULL: a new one of this home. -EEXIST: that id is there in that role; -EBUSY: without an id, that process has a record. */
struct family_new {
	enum family_role role;
	const char *id, *home;
	uid_t uid;
	gid_t gid;
	pid_t pid;
	const char *comm;
	bool adopt;
	void (*on_event)(struct family *f, const struct eng_event *ev);
};
int family_create(struct families *t, const struct family_new *n, struct family **out);
struct family *family_get(struct family *f);
void family_put(struct family *f);
/* Takes it out of the table and marks it dead. Idempotent. */
void family_remove(struct family *f);

struct family *family_find(struct families *t, enum family_role role, const char *id);
/* The family that process `pid` of this host belongs to as a home. */
struct family *family_of_pid(struct families *t, pid_t pid);
/* All of a role, each with a reference. */
size_t families_list(struct families *t, enum family_role role, struct family ***out);
void families_list_free(struct family **v, size_t n);
size_t families_count(struct families *t, enum family_role role);
/* How many records, also those that are no longer in the table, have an actor that may be at work. */
size_t families_alive(struct families *t);

/* The guest whose nest has that cgroup. */
struct family *family_of_cgroup(struct families *t, const char *cgroup);

/* Runs fn in the actor and waits for its result. */
int family_call(struct family *f, int (*fn)(struct family *f, void *arg), void *arg);
/* The same without waiting. */
int family_post(struct family *f, int (*fn)(struct family *f, void *arg), void *arg);

/* In the actor: hands over what the engine has to tell now, before a call after which it would not be told any more. */
void family_events(struct family *f);

/* Under f->lock. */
struct member *family_member(struct family *f, pid_t pid);
/* That is what `pid` is called now. */
void family_rename(struct family *f, pid_t pid, const char *comm);
struct member *family_add_member(struct family *f, pid_t pid, pid_t ppid, const char *comm, bool hollow);
/* One step of the machine, logged; under f->lock. */
int family_step(struct family *f, enum mig_event ev, enum mig_action *act);
/* A detached thread with all signals blocked. */
int thread_run(void *(*fn)(void *), void *arg);

#endif
