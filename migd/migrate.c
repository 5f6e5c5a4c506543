// SPDX-License-Identifier: Apache-2.0
/* The tables of the move protocol; see migrate.h for the invariants and the diagram. Pure: no I/O, no time, no locking. */
#include "migd/migrate.h"
#include <errno.h>
#include <stddef.h>

struct transition {
	enum mig_state in;
	enum mig_event on;
	enum mig_state to;
	enum mig_action act;
};

static const struct transition table[] = {
	/* ---- home */
	{ MC_IDLE, ME_START, MC_CHECKING, MA_CHECK },
	{ MC_CHECKING, ME_OK, MC_PREPARING, MA_PREPARE },
	{ MC_CHECKING, ME_FAIL, MC_FAILED, MA_TELL },
	{ MC_CHECKING, ME_LOST, MC_FAILED, MA_TELL },
	{ MC_PREPARING, ME_OK, MC_SENDING, MA_SEND },
	{ MC_PREPARING, ME_FAIL, MC_ABORTING, MA_ABORT },
	{ MC_PREPARING, ME_LOST, MC_ABORTING, MA_ABORT },
	{ MC_SENDING, ME_OK, MC_COMMITTING, MA_COMMIT },
	{ MC_SENDING, ME_FAIL, MC_ABORTING, MA_ABORT },
	{ MC_SENDING, ME_LOST, MC_ABORTING, MA_ABORT },
	{ MC_COMMITTING, ME_OK, MC_RELEASING, MA_RELEASE },
	/* A COMMIT whose sync failed may or may not be found after a crash: it must be taken back in writing before the source may run. */
	{ MC_COMMITTING, ME_FAIL, MC_UNCOMMITTING, MA_UNCOMMIT },
	{ MC_UNCOMMITTING, ME_OK, MC_ABORTING, MA_ABORT },
	{ MC_UNCOMMITTING, ME_FAIL, MC_UNCOMMITTING, MA_UNCOMMIT },
	/* The source is parked in doubt since SENT, so one that cannot be reached holds nothing up: it will ask, and be told to drop it. */
	{ MC_RELEASING, ME_OK, MC_STARTING, MA_GO },
	{ MC_RELEASING, ME_LOST, MC_STARTING, MA_GO },
	{ MC_RELEASING, ME_FAIL, MC_STARTING, MA_GO },
	{ MC_STARTING, ME_OK, MC_FINISHING, MA_DONE },
	{ MC_STARTING, ME_LOST, MC_STARTING, MA_GO },
	{ MC_STARTING, ME_FAIL, MC_BURYING, MA_BURY },
	{ MC_BURYING, ME_OK, MC_LOST, MA_TELL },
	{ MC_FINISHING, ME_OK, MC_DONE, MA_TELL },
	{ MC_FINISHING, ME_FAIL, MC_DONE, MA_TELL }, /* without DONE a restart only says GO once more */
	{ MC_ABORTING, ME_OK, MC_FAILED, MA_TELL },
	{ MC_ABORTING, ME_FAIL, MC_FAILED, MA_TELL },
	{ MC_ABORTING, ME_LOST, MC_FAILED, MA_TELL }, /* sides that were not reached ask */
	{ MC_IDLE, ME_CRASH, MC_ABORTING, MA_ABORT },
	{ MC_IDLE, ME_REPLAYED, MC_RELEASING, MA_RELEASE },

	/* ---- source */
	{ MS_RUNNING, ME_START, MS_FREEZING, MA_FREEZE },
	{ MS_RUNNING, ME_ABORT, MS_RUNNING, MA_NONE },
	{ MS_FREEZING, ME_OK, MS_DUMPING, MA_DUMP },
	{ MS_FREEZING, ME_FAIL, MS_RUNNING, MA_TELL },
	{ MS_DUMPING, ME_OK, MS_DOUBT, MA_SENT },
	{ MS_DUMPING, ME_FAIL, MS_THAWING, MA_THAW },
	{ MS_DUMPING, ME_LOST, MS_THAWING, MA_THAW },
	{ MS_DUMPING, ME_ABORT, MS_THAWING, MA_THAW },
	{ MS_DUMPING, ME_CRASH, MS_DOUBT, MA_ASK },
	{ MS_DOUBT, ME_RELEASE, MS_GONE, MA_DISCARD },
	{ MS_DOUBT, ME_ABORT, MS_THAWING, MA_THAW },
	{ MS_DOUBT, ME_STAY, MS_DOUBT, MA_NONE },
	{ MS_DOUBT, ME_LOST, MS_DOUBT, MA_NONE },
	{ MS_DOUBT, ME_CRASH, MS_DOUBT, MA_ASK },
	{ MS_THAWING, ME_OK, MS_RUNNING, MA_TELL },
	{ MS_THAWING, ME_FAIL, MS_RUNNING, MA_TELL },
	{ MS_THAWING, ME_ABORT, MS_THAWING, MA_NONE },
	{ MS_GONE, ME_RELEASE, MS_GONE, MA_NONE },

	/* ---- destination */
	{ MD_NONE, ME_START, MD_VIEWING, MA_VIEW },
	{ MD_NONE, ME_ABORT, MD_NONE, MA_NONE },
	{ MD_VIEWING, ME_OK, MD_READY, MA_NONE },
	{ MD_VIEWING, ME_FAIL, MD_NONE, MA_TELL },
	{ MD_READY, ME_START, MD_READY, MA_NONE },
	{ MD_READY, ME_IMAGE, MD_FILLING, MA_FILL },
	{ MD_READY, ME_ABORT, MD_ABANDONING, MA_ABANDON },
	{ MD_READY, ME_CRASH, MD_NONE, MA_NONE },
	{ MD_FILLING, ME_OK, MD_DOUBT, MA_PREPARED },
	{ MD_FILLING, ME_FAIL, MD_ABANDONING, MA_ABANDON },
	{ MD_FILLING, ME_LOST, MD_ABANDONING, MA_ABANDON },
	{ MD_FILLING, ME_CRASH, MD_ABANDONING, MA_ABANDON },
	{ MD_DOUBT, ME_GO, MD_RESUMING, MA_RESUME },
	{ MD_DOUBT, ME_ABORT, MD_ABANDONING, MA_ABANDON },
	{ MD_DOUBT, ME_STAY, MD_DOUBT, MA_NONE },
	{ MD_DOUBT, ME_LOST, MD_DOUBT, MA_NONE },
	{ MD_DOUBT, ME_CRASH, MD_DOUBT, MA_ASK },
	{ MD_RESUMING, ME_OK, MD_RUNNING, MA_TELL },
	{ MD_RESUMING, ME_GO, MD_RESUMING, MA_NONE }, /* told twice, while it is about to */
	{ MD_RESUMING, ME_FAIL, MD_NONE, MA_TELL },
	{ MD_RUNNING, ME_GO, MD_RUNNING, MA_NONE },
	{ MD_ABANDONING, ME_OK, MD_NONE, MA_TELL },
	{ MD_ABANDONING, ME_FAIL, MD_NONE, MA_TELL },
};

int mig_step(struct mig_machine *m, enum mig_event ev, enum mig_action *act)
{
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		if (table[i].in != m->state || table[i].on != ev)
			continue;
		m->state = table[i].to;
		*act = table[i].act;
		return 0;
	}
	return -EPROTO;
}

static const char *const state_names[M_STATES] = {
	[MC_IDLE] = "idle", [MC_CHECKING] = "checking", [MC_PREPARING] = "preparing", [MC_SENDING] = "sending", [MC_COMMITTING] = "committing",
	[MC_UNCOMMITTING] = "taking the commit back", [MC_RELEASING] = "releasing", [MC_STARTING] = "starting", [MC_FINISHING] = "finishing",
	[MC_ABORTING] = "giving up", [MC_BURYING] = "burying", [MC_DONE] = "done", [MC_FAILED] = "failed", [MC_LOST] = "lost",
	[MS_RUNNING] = "running", [MS_FREEZING] = "freezing", [MS_DUMPING] = "dumping", [MS_DOUBT] = "sent, in doubt", [MS_THAWING] = "thawing",
	[MS_GONE] = "gone", [MD_NONE] = "none", [MD_VIEWING] = "mounting", [MD_READY] = "ready", [MD_FILLING] = "filling",
	[MD_DOUBT] = "filled, in doubt", [MD_RESUMING] = "resuming", [MD_RUNNING] = "running here", [MD_ABANDONING] = "abandoning",
};

static const char *const event_names[M_EVENTS] = {
	[ME_START] = "start", [ME_OK] = "ok", [ME_FAIL] = "fail", [ME_LOST] = "lost", [ME_IMAGE] = "image", [ME_RELEASE] = "release", [ME_GO] = "go",
	[ME_ABORT] = "abort", [ME_STAY] = "stay", [ME_CRASH] = "crash", [ME_REPLAYED] = "replayed",
};

const char *mig_state_name(enum mig_state s)
{
	return s >= 0 && s < M_STATES && state_names[s] ? state_names[s] : "?";
}

const char *mig_event_name(enum mig_event e)
{
	return e >= 0 && e < M_EVENTS && event_names[e] ? event_names[e] : "?";
}
