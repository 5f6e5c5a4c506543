/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The master's policy: which host does whose work. Pure: no I/O, no clock; the caller passes times and carries out what the callbacks say.
 *
 * Rules (Douglis and Ousterhout 1991, section 5; Douglis' thesis, chapter 6):
 *  - longest-idle host first: those given out had been idle for 17 h on average, those that evicted only 4 min;
 *  - a second job goes to a host when all others have their first, and so on, by the part of a host's slots that is used;
 *  - a host has one slot per CPU; a slot is granted to one asker until released, reclaimed or the host is lost;
 *  - a slot that does low-priority work may be taken for normal or high work, a normal one for high;
 *  - fair shares: who asks and has less than slots/askers gets a slot back from who has the most above it;
 *  - who asked to wait is called back, highest priority first, then fewest slots held, then longest wait.
 *
 * Cost: O(log hosts) per operation for each class of hosts (hosts with the same architecture, CPU features and policy form a class), so that a question takes
 * well under a millisecond with 100,000 hosts.
 */
#ifndef MIGD_SELECT_H
#define MIGD_SELECT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SELECT_SLOTS_MAX 1024u
enum select_priority { SELECT_LOW, SELECT_NORMAL, SELECT_HIGH, SELECT_PRIORITIES };
enum select_state { HOST_ACTIVE, HOST_IDLE, HOST_PART_USED, HOST_FULL, HOST_REFUSES, HOST_DOWN };
enum select_policy { POLICY_ALL, POLICY_USERS, POLICY_ROOT, POLICY_NONE }; /* whose work: everybody's, all but root's, root's only, nobody's */

struct select_host { /* what a host says of itself */
	const char *name;
	const char *arch;     /* "x86_64" */
	const char *features; /* CPU features, separated by blanks */
	bool offers;	      /* idle, lending and able */
	enum select_policy import;
	uint64_t idle_since;  /* any monotonic unit, the same for all hosts: the smaller the better */
	unsigned slots;	      /* taken to be 1 to SELECT_SLOTS_MAX: nobody has more CPUs to lend than that, whatever he says */
};

struct select_ask {
	uint64_t client;      /* who is to be told: an agent, stands for (home, connection) */
	uint32_t uid;	      /* fair shares are per uid */
	enum select_priority priority;
	const char *arch;     /* NULL: any */
	const char *features; /* the host must have all of these: what the process may have found at home; NULL: any */
	const char *home;     /* the asker's own host, never given; NULL: any */
	const char *not_host; /* where it is, or was just refused; NULL: any */
	const char *host;     /* exactly this one; NULL: any */
	unsigned want;	      /* how many slots */
	bool wait;	      /* what cannot be had now is called back */
	uint64_t now;	      /* for the order of waiters */
};

struct select_grant {
	uint64_t id;	   /* never 0, never used again */
	uint64_t client;
	uint32_t uid;
	enum select_priority priority;
	const char *host;  /* valid until the host is forgotten */
};

struct select_hooks {
	void *ctx;
	void (*granted)(void *ctx, const struct select_grant *g); /* to a waiter; answers of select_ask() come by return */
	void (*reclaim)(void *ctx, const struct select_grant *g); /* evict it, then select_release() */
	void (*lost)(void *ctx, const struct select_grant *g);    /* its host stopped offering or is gone; the grant is over */
};

struct select;
struct select *select_new(const struct select_hooks *h);
void select_free(struct select *s);

/* New or changed. A host that stops offering loses its grants (its own migd evicts the guests). Returns 0 or -ENOMEM. */
int select_host_set(struct select *s, const struct select_host *h);
/* The host is down: its grants are lost. */
void select_host_gone(struct select *s, const char *name);
enum select_state select_host_state(const struct select *s, const char *name);

/*
 * Returns how many were granted at once (<= want), written to out[0..want). What is missing is waited for when a->wait. -ENOENT: `host` is not known; -EACCES: policy refuses;
 * -EINVAL: want is 0 or more than SELECT_WANT_MAX.
 */
#define SELECT_WANT_MAX 4096
int select_ask(struct select *s, const struct select_ask *a, struct select_grant *out);
/* The asker needs no more: what it still waits for is forgotten (its grants stay). */
void select_stop_waiting(struct select *s, uint64_t client);
/* Returns 0, or -ENOENT for a grant that is over already (harmless: a release and a loss may cross). */
int select_release(struct select *s, uint64_t grant);
/* The client is gone: everything it holds and waits for is released. */
void select_client_gone(struct select *s, uint64_t client);

struct select_totals {
	size_t hosts, offering, slots, used, waiting;
};
void select_totals(const struct select *s, struct select_totals *t);

#endif
