/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Consistency: who may cache what, and who must wait for whom. Pure decisions, driven by the server (lease.c) and by random schedules in tests.
 *
 * "Sprite guarantees that whenever a process reads data from a file, it receives the most recently written data" (Nelson, Welch, Ousterhout 1988).
 * Sprite did it per open; here a client holds leases on objects, of these bits:
 *	ATTR   the inode's attributes			shared
 *	NAMES  a directory's names, also absent ones	shared; a change of a name recalls that name alone, which leaves the bit
 *	DATA   a file's contents			shared
 *	WRITE  all of the file, with its own changes not yet told: exclusive, implies ATTR and DATA. Of a directory: its names and attributes, the same way;
 *	       implies ATTR and NAMES. Who looks at it, or changes it, breaks it.
 *
 * Invariants
 * 1. An operation is applied only when no other client holds a lease that it breaks. The exception is rule 5.
 * 2. A grant is entered before the state it speaks of is read; so a change either sees it and recalls it, or was applied before.
 * 3. While a change waits or is applied, nobody else is granted what it breaks; nor a client what is being recalled from it.
 * 4. An operation that waits holds up nothing: only one that is being applied (system calls, no waiting) excludes others on its objects. Objects are
 *    taken all or none. What it only hopes for (hope) it waits for once, and then goes on with what it got.
 * 5. A change of a directory does not wait for a client that has itself a change waiting on that directory, unless the client can acknowledge without
 *    its kernel's lock on it (ack_now): it is asked all the same, and acknowledges when its own request was answered. Else two clients creating
 *    in one directory would wait for each other for ever.
 * 6. An operation that settles (a read, whose pages a kernel will keep) waits until the changes that are on their way are applied, unless its client has
 *    one of them still to acknowledge: then it is answered at once, and invalidated later.
 * 7. A client that does not acknowledge is given up by the caller (consist_client_gone()); its leases are over then.
 * 8. What one operation asks of one client is one event, acknowledged as a whole; but a client which cannot acknowledge at any time (rule 5) gets each recall
 *    as an event of its own.
 * 9. A write of mapped pages (early) is applied without waiting: the kernel there holds the pages until it is answered, and might be asked for them itself by who is waited for.
 *    It lingers until all have given up what it breaks: nobody else is granted that (rule 3), reads settle (rule 6), fsync(2) and close(2) wait for it (settle_all). So what a
 *    mapping shows elsewhere is old for no longer than until the msync(2) or close(2) here returns, and nobody sees first the new and then the old.
 *
 * An operation (struct cs_op): NEW -> WAITING -> RUNNABLE -> (begin again) WAITING | APPLYING -> ended | (lingers) WAITING -> RUNNABLE -> ended. A RUNNABLE one is run again from its start.
 */
#ifndef FS_SERVER_CONSIST_H
#define FS_SERVER_CONSIST_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "conf/hash.h"
#include "conf/list.h"

enum {
	CS_ATTR = 1,
	CS_NAMES = 2,
	CS_DATA = 4,
	CS_WRITE = 8,
};

#define CS_NEEDS_FEW   4 /* needs with a name: no more of one operation */
#define CS_HANDLE_MAX  128
#define CS_CLIENT_MAX  262144 /* leases of one client; more are not granted */

struct cs_key {
	uint64_t dev, ino;
};

struct cs_object;
struct cs_op;

/* What an operation does to one object. */
struct cs_need {
	struct cs_key key;
	uint32_t breaks;  /* bits that others must give up; CS_WRITE alone: it only looks */
	bool change;	  /* excludes other changes while it is applied */
	bool settle;	  /* rule 6, for DATA */
	bool calm;	  /* looks when no change is being applied (CS_BUSY): in the middle of one nothing could be granted */
	const char *name; /* with CS_NAMES: which name, NULL: the bit itself; valid until the operation ends or begins again */
	bool hope;	  /* it goes on without, when waiting once did not help */
	bool early;	  /* rule 9: applied first, waits then (consist_linger()) */
	bool settle_all;  /* waits for those that linger, also one's own */
	/* private */
	bool asked; /* every holder of NAMES was asked to forget the name */
	struct cs_op *op;
	struct cs_object *object;
	struct list in_object;
	struct list owed; /* struct owed by in_need: the named recalls */
};

enum cs_state { CS_OP_NEW, CS_OP_WAITING, CS_OP_RUNNABLE, CS_OP_APPLYING };

struct cs_op {
	uint64_t client;
	/* private */
	enum cs_state state;
	struct cs_need *need, few[CS_NEEDS_FEW];
	int nneeds, blocked_at;
	bool waited, again; /* for what it hopes; and has begun again since */
	bool lingers;
	struct list link; /* of a list of runnable ones that was handed out; in the client's list otherwise */
	struct list in_client;
};

/* A recall to be sent; the receiver of the list frees it. Those of one event have its `id` and follow each other. */
struct cs_recall {
	struct list link;
	uint64_t client, id, bits, seq;
	size_t handle_len;
	unsigned char handle[CS_HANDLE_MAX];
	char name[256]; /* bits & CS_NAMES: "" is all of them */
};

/* What a call has brought about: recalls to send, operations to run again. */
struct cs_out {
	struct list recalls, runnable;
};
#define CS_OUT_INIT(o) {LIST_INIT((o).recalls), LIST_INIT((o).runnable)}

struct consist {
	struct hash objects, clients, recalls; /* recalls: events */
	struct list gathering; /* clients with an event that the operation which begins may add to */
	uint64_t seq, next_recall;
	size_t nleases;
	uint64_t recalls_sent;
};

void consist_init(struct consist *c);
void consist_clear(struct consist *c);

void cs_op_init(struct cs_op *op, uint64_t client);
/* This client takes leases. ack_now: rule 5. */
int consist_client_add(struct consist *c, uint64_t client, bool ack_now);

enum cs_verdict {
	CS_GO,	  /* applying: consist_end() when done */
	CS_WAIT,  /* acknowledgements are outstanding: it comes back as runnable */
	CS_BUSY,  /* another is being applied: try again when one has ended */
	CS_NOMEM,
};
/* `need` (key, breaks, change filled) replaces what the operation needed before. */
enum cs_verdict consist_begin(struct consist *c, struct cs_op *op, const struct cs_need *need, int n, uint64_t now, struct cs_out *out);
/*
 * It has been applied. CS_LINGERS: it comes back as runnable when it is to be ended. CS_COVERED: it is to be ended now, but another one of the same client lingers there and waits for the same
 * acknowledgements (so there is one of a client and object at most). CS_SETTLED: nobody has anything left that it broke.
 */
enum cs_after { CS_SETTLED, CS_COVERED, CS_LINGERS };
enum cs_after consist_linger(struct cs_op *op, struct cs_out *out);
/* Ends it in any state, also when it never began; harmless twice. */
void consist_end(struct consist *c, struct cs_op *op, struct cs_out *out);

/*
 * Grants of `bits` what may be granted; returns them, and in *seq the grant's number. handle: how the client knows the object.
 * shared_ok: DATA also while the file is open for writing elsewhere (each write will recall it).
 */
uint32_t consist_grant(struct consist *c, uint64_t client, struct cs_key key, const void *handle, size_t handle_len, uint32_t bits,
	bool shared_ok, uint64_t *seq);
/* The client gives up `bits` of itself; returns the number from which on grants count again. 0: it holds nothing of it. */
uint64_t consist_release(struct consist *c, uint64_t client, struct cs_key key, uint32_t bits, struct cs_out *out);
/* The client has the file open once more (or once less) for reading or writing: for the write-sharing rule. */
int consist_open(struct consist *c, uint64_t client, struct cs_key key, bool write);
void consist_close(struct consist *c, uint64_t client, struct cs_key key, bool write);
/* Does another client than `client` hold WRITE? (Then looking at the object needs a recall.) */
bool consist_hidden(const struct consist *c, uint64_t client, struct cs_key key);
/* Is the file open for writing by one client and open by another? */
bool consist_shared_write(const struct consist *c, uint64_t client, struct cs_key key);

/*
 * What others would have to give up, so that the client may look at the object or (alone) be granted WRITE: what to put into `breaks` of a hope. 0: nothing stands in the way, or
 * it cannot be had without holding somebody up: it is open there for writing, or (alone) at all, or somebody changes it.
 */
uint32_t consist_obstacles(const struct consist *c, uint64_t client, struct cs_key key, bool alone);

/* The client has done all that event `id` asked for. Unknown ids are ignored. */
void consist_ack(struct consist *c, uint64_t client, uint64_t id, struct cs_out *out);
/*
 * All recalls that the client has not acknowledged, once more, on a new stream. Its time for them begins anew, once: it may have been killed and started again.
 */
void consist_repeat(struct consist *c, uint64_t client, uint64_t now, struct cs_out *out);
/* All leases, opens and recalls of the client are over; its operations come back in *out to be failed. */
void consist_client_gone(struct consist *c, uint64_t client, struct cs_out *out);
/* Calls fn for each client that owes an acknowledgement since before `since`. */
void consist_overdue(const struct consist *c, uint64_t since, void (*fn)(void *arg, uint64_t client), void *arg);
/* Does the client owe an acknowledgement? */
bool consist_owes(const struct consist *c, uint64_t client);
size_t consist_client_leases(const struct consist *c, uint64_t client);

#endif
