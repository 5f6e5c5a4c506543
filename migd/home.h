/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The home's side of a family that is away: what happens to its hollows is told to the guest host, what happens to the guests happens to their hollows.
 */
#ifndef MIGD_HOME_H
#define MIGD_HOME_H
#include "migd/family.h"
#include "rpc/rpc.h"

/* Handlers of sprite.mig */
void home_report(void *ctx, struct rpc_request *rq);
void home_sync(void *ctx, struct rpc_request *rq);
void home_evict(void *ctx, struct rpc_request *rq);

void home_event(struct family *f, const struct eng_event *ev);
/* Every few seconds: do the hosts still have what we believe they have? */
void homes_tick(struct migd *m);
/* A person says that the host which has it, or was to get it, is lost for good. */
int home_resolve(struct family *f, struct error *e);
/* The guest host has lost it: the hollows die by SIGKILL, with a line in the log. */
void home_bury(struct family *f, const char *why);
/* In the actor: nothing remains of its processes here. */
int home_actor_discard(struct family *f, void *unused);
/* The master wants that slot (agent.h) back: its family goes home, or on. false: nobody is there by it now (it may be on its way). */
bool home_slot_wanted(struct migd *m, uint64_t slot);
/* It is over, or runs at home again: removes the record. In no lock; not in the actor. */
void home_forget(struct family *f);
/* Writes what a restarted migd must know of a family that is away. */
int home_journal(struct family *f);
/* In the actor: it is frozen for attempt `gen`; if we die from here on it may be found parked. */
void home_actor_journal_move(struct family *f, struct eng_family *standing);
/* In the actor: what the commit's record will say of its processes here. */
void home_actor_saved(struct family *f);
/* The decision, synced. */
int home_journal_commit(struct family *f, uint64_t gen, const char *dest, uint64_t signal_seq); /* signal_seq: of the last signal that is in the image */
void home_replay(struct migd *m, const json_t *record);
/* After all records have been replayed, before anybody can ask: finds the processes again and goes on with what was decided. */
void homes_replayed(struct migd *m);

#endif
