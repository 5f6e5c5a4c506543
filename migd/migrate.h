/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The move protocol as three state tables, without any I/O: what the home (the coordinator), the source and the destination do on which event.
 * The drivers (move.c, part.c) carry out the actions and report what became of them as the next event.
 *
 * Invariants (tests/unit/test_migrate.c tries to break them with random losses and crashes):
 *   1. At most one side runs the family at any moment.
 *   2. Only the home decides, by its journal: COMMIT written and synced = the destination has it; no COMMIT (also after a crash) = the source has it.
 *   3. A source may go back to running by itself only as long as it has not answered SENT; from then on it stays parked until the home says which (DOUBT).
 *      The home commits only after SENT. A destination never runs by itself.
 *   4. A message that got lost, or time that passed, is never a decision.
 *
 *   home:    IDLE -> CHECKING -> PREPARING -> SENDING -> COMMITTING -> RELEASING -> STARTING -> FINISHING -> DONE
 *                        |           |           |           `-> UNCOMMITTING -.         |
 *                        `-> FAILED <-+-----------+--- ABORTING <---------------'         `-> BURYING -> LOST (the destination died with it)
 *   source:  RUNNING -> FREEZING -> DUMPING -> DOUBT -> GONE (released) or THAWING -> RUNNING
 *   dest:    NONE -> VIEWING -> READY -> FILLING -> DOUBT -> RESUMING -> RUNNING, or ABANDONING -> NONE
 */
#ifndef MIGD_MIGRATE_H
#define MIGD_MIGRATE_H

enum mig_state {
	/* the home's */
	MC_IDLE, MC_CHECKING, MC_PREPARING, MC_SENDING, MC_COMMITTING, MC_UNCOMMITTING, MC_RELEASING, MC_STARTING, MC_FINISHING, MC_ABORTING, MC_BURYING,
	MC_DONE, MC_FAILED, MC_LOST,
	/* the source's */
	MS_RUNNING, MS_FREEZING, MS_DUMPING, MS_DOUBT, MS_THAWING, MS_GONE,
	/* the destination's */
	MD_NONE, MD_VIEWING, MD_READY, MD_FILLING, MD_DOUBT, MD_RESUMING, MD_RUNNING, MD_ABANDONING,
	M_STATES
};

enum mig_event {
	ME_START,    /* somebody asks for the move */
	ME_OK,	     /* the last action was carried out */
	ME_FAIL,     /* ... was not, and it is known that it was not */
	ME_LOST,     /* ... nobody knows: the peer cannot be reached */
	ME_IMAGE,    /* dest: the source's stream opens */
	ME_RELEASE,  /* source: the home has committed */
	ME_GO,	     /* dest: the home has committed */
	ME_ABORT,    /* both: the home has given up */
	ME_STAY,     /* answer to an enquiry: undecided */
	ME_CRASH,    /* this daemon was started again and found its traces. Home: no COMMIT in the journal */
	ME_REPLAYED, /* home: started again, COMMIT without DONE in the journal */
	M_EVENTS
};

enum mig_action {
	MA_NONE,
	/* home */
	MA_CHECK, MA_PREPARE, MA_SEND, MA_COMMIT, MA_UNCOMMIT, MA_RELEASE, MA_GO, MA_DONE, MA_ABORT, MA_BURY, MA_TELL,
	/* source */
	MA_FREEZE, MA_DUMP, MA_SENT, MA_THAW, MA_DISCARD, MA_ASK,
	/* destination */
	MA_VIEW, MA_FILL, MA_PREPARED, MA_RESUME, MA_ABANDON,
};

struct mig_machine {
	enum mig_state state;
};

/* Takes the event: 0 with the new state and *act set, or -EPROTO (state unchanged) when the table has no such transition. */
int mig_step(struct mig_machine *m, enum mig_event ev, enum mig_action *act);
const char *mig_state_name(enum mig_state s);
const char *mig_event_name(enum mig_event e);

#endif
