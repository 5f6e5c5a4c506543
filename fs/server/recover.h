/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Restart of the server. Open files, locks and leases are in memory only; the clients bring them back.
 *
 * Invariants
 * 1. Who was a client is on disk before it can hold anything (state_dir/clients.json).
 * 2. After a start with clients on that list the server is in grace until each of them has said that it has reclaimed all and re-sent what was unsynced, or
 *    is known to be dead (another epoch of the same mount), or a lease term has passed, after which it has none by its own clock.
 * 3. In grace nothing is read or changed but by what is being reclaimed; all else waits, in order. So nobody sees a file without the data that its writer
 *    still has, and no lock is given away that somebody holds.
 *
 *	start --no client on the list--> OPEN
 *	start --clients--> GRACE --all recovered, or term over--> OPEN
 */
#ifndef FS_SERVER_RECOVER_H
#define FS_SERVER_RECOVER_H
#include "fs/server/op.h"

int recover_start(struct fsd *d);
void recover_stop(struct fsd *d);
/* Writes the client down before it may hold anything. */
int recover_note(struct fsd *d, struct client *c);
void recover_forget(struct fsd *d, struct client *c);
/* The client has said that it is recovered. */
void recover_done(struct fsd *d, struct client *c);
/* True: the operation was kept and will be run when grace is over. */
bool recover_park(struct op *o);
/*
 * Fencing: may what this client did under the leases of `lease_epoch`, and answered, still be done? Under those it has now, yes; under those of a run before this
 * one while grace lasts, if it has had them, and not sent all since.
 */
bool recover_may_write(struct op *o, uint64_t lease_epoch);
bool recover_in_grace(struct fsd *d);
/* The server stops: what waits is answered ESTALE (into the void: its callers ask the next run). */
void recover_abandon(struct fsd *d);
/* Once a second. */
void recover_tick(struct fsd *d);

#endif
