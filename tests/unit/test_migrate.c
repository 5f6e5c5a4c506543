// SPDX-License-Identifier: Apache-2.0
/*
 * Drives the three tables of the move protocol through random schedules: messages are lost, delayed and repeated, daemons die at any moment and come
 * back. After every single step at most one side may run; when all is healed exactly one does, and all sides agree on which.
 */
#include <CUnit/Basic.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include "migd/migrate.h"

/* What the home remembers over a crash: its journal. A COMMIT whose sync failed may or may not be there afterwards. */
struct world {
	struct mig_machine c, s, d;
	enum mig_action ca, sa, da; /* actions under way; MA_NONE: waits for a message */
	bool commit, uncommit, done, maybe_commit;
	bool s_runs, d_runs;
	/* one-slot mailboxes; a message may be lost or taken twice */
	bool to_s_send, to_s_release, to_s_abort, to_d_prepare, to_d_image, to_d_go, to_d_abort;
	bool c_up, s_up, d_up, d_filled, s_sent;
	int s_epoch, send_epoch; /* the answer to SEND dies with the source daemon that was asked */
	int faults;
	unsigned seed;
};

static int rnd(struct world *w, int n)
{
	return (int)(rand_r(&w->seed) % (unsigned)n);
}

static bool fault(struct world *w)
{
	if (w->faults <= 0 || rnd(w, 6))
		return false;
	w->faults--;
	return true;
}

static void step(struct mig_machine *m, enum mig_event ev, enum mig_action *act)
{
	enum mig_state was = m->state;
	enum mig_action a = MA_NONE;

	if (!mig_step(m, ev, &a))
		*act = a == MA_NONE && m->state == was ? *act : a; /* told twice: what is under way goes on */
	else
		CU_FAIL("a transition that is not in the table");
}

static bool has(struct mig_machine m, enum mig_event ev)
{
	enum mig_action a;

	return !mig_step(&m, ev, &a);
}

/* The verdict as home.c gives it: decided by the journal, undecided while the home's own machine is between SEND and the end. */
static enum mig_event verdict(const struct world *w, bool source)
{
	bool decided = w->commit && !w->uncommit;
	bool open = w->c.state == MC_PREPARING || w->c.state == MC_SENDING || w->c.state == MC_COMMITTING || w->c.state == MC_UNCOMMITTING ||
		    w->c.state == MC_CHECKING;

	if (!decided)
		return open ? ME_STAY : ME_ABORT;
	return source ? ME_RELEASE : ME_GO;
}

static void run_home(struct world *w)
{
	bool ok;

	switch (w->ca) {
	case MA_CHECK:
		step(&w->c, fault(w) ? ME_FAIL : ME_OK, &w->ca);
		break;
	case MA_PREPARE:
		w->to_d_prepare = !fault(w);
		if (w->d_up && w->to_d_prepare && w->d.state == MD_NONE) {
			step(&w->d, ME_START, &w->da);
			step(&w->d, ME_OK, &w->da);
			step(&w->c, fault(w) ? ME_LOST : ME_OK, &w->ca);
		} else {
			step(&w->c, ME_LOST, &w->ca);
		}
		w->to_d_prepare = false;
		break;
	case MA_SEND:
		if (!w->to_s_send && w->s.state == MS_RUNNING && w->s_up && !w->s_sent && !fault(w)) {
			w->send_epoch = w->s_epoch;
			w->to_s_send = true; /* the answer comes when the source's machine has got there */
			step(&w->s, ME_START, &w->sa);
		} else if (fault(w) || (!w->to_s_send && !w->s_sent) || w->send_epoch != w->s_epoch) {
			w->to_s_send = false;
			step(&w->c, ME_LOST, &w->ca);
		} else if (w->s_sent) {
			w->to_s_send = false;
			step(&w->c, ME_OK, &w->ca);
		} else if (w->s.state == MS_RUNNING) {
			w->to_s_send = false;
			step(&w->c, ME_FAIL, &w->ca);
		}
		break;
	case MA_COMMIT:
		if (fault(w)) {
			w->maybe_commit = true;
			step(&w->c, ME_FAIL, &w->ca);
		} else {
			w->commit = true;
			step(&w->c, ME_OK, &w->ca);
		}
		break;
	case MA_UNCOMMIT:
		ok = !fault(w);
		if (ok)
			w->uncommit = true;
		step(&w->c, ok ? ME_OK : ME_FAIL, &w->ca);
		break;
	case MA_RELEASE:
		if (w->s_up && !fault(w)) {
			if (has(w->s, ME_RELEASE))
				step(&w->s, ME_RELEASE, &w->sa);
			step(&w->c, ME_OK, &w->ca);
		} else {
			step(&w->c, ME_LOST, &w->ca);
		}
		break;
	case MA_GO:
		if (w->d_up && !fault(w)) {
			if (has(w->d, ME_GO))
				step(&w->d, ME_GO, &w->da);
			step(&w->c, fault(w) ? ME_LOST : ME_OK, &w->ca);
		} else {
			step(&w->c, ME_LOST, &w->ca);
		}
		break;
	case MA_DONE:
		w->done = true;
		step(&w->c, ME_OK, &w->ca);
		break;
	case MA_ABORT:
		if (w->s_up && !fault(w) && has(w->s, ME_ABORT))
			step(&w->s, ME_ABORT, &w->sa);
		if (w->d_up && !fault(w) && has(w->d, ME_ABORT))
			step(&w->d, ME_ABORT, &w->da);
		step(&w->c, ME_OK, &w->ca);
		break;
	default:
		break;
	}
}

static void run_source(struct world *w)
{
	switch (w->sa) {
	case MA_FREEZE:
		w->s_runs = false;
		if (fault(w)) {
			w->s_runs = true;
			step(&w->s, ME_FAIL, &w->sa);
		} else {
			step(&w->s, ME_OK, &w->sa);
		}
		break;
	case MA_DUMP:
		if (w->d.state == MD_READY && w->d_up) {
			step(&w->d, ME_IMAGE, &w->da);
		} else if (w->d_filled && w->d.state == MD_DOUBT && !fault(w)) {
			step(&w->s, ME_OK, &w->sa);
			w->s_sent = true;
		} else if (w->d.state != MD_FILLING || fault(w)) {
			step(&w->s, ME_LOST, &w->sa);
		}
		break;
	case MA_THAW:
		w->s_runs = true;
		step(&w->s, ME_OK, &w->sa);
		break;
	default:
		if (w->s.state == MS_DOUBT && w->c_up && rnd(w, 3) == 0) {
			enum mig_event v = verdict(w, true);

			step(&w->s, v, &w->sa);
		}
		break;
	}
}

static void run_dest(struct world *w)
{
	switch (w->da) {
	case MA_FILL:
		if (fault(w)) {
			step(&w->d, ME_FAIL, &w->da);
		} else {
			w->d_filled = true;
			step(&w->d, ME_OK, &w->da);
		}
		break;
	case MA_RESUME:
		w->d_runs = true;
		step(&w->d, ME_OK, &w->da);
		break;
	case MA_ABANDON:
		CU_ASSERT_FALSE(w->d_runs);
		w->d_filled = false;
		step(&w->d, ME_OK, &w->da);
		break;
	default:
		if (w->d.state == MD_DOUBT && w->c_up && rnd(w, 3) == 0)
			step(&w->d, verdict(w, false), &w->da);
		break;
	}
}

/* Kills one daemon, or starts one that is dead. Processes parked in the blob stay parked; a ptrace-stopped one (FREEZING) runs on. */
static void crash_or_start(struct world *w)
{
	switch (rnd(w, 3)) {
	case 0:
		if (w->c_up && w->faults > 0) {
			w->faults--;
			w->c_up = false;
			if (w->maybe_commit && !w->uncommit)
				w->commit = rnd(w, 2);
		} else if (!w->c_up) {
			w->c_up = true;
			w->maybe_commit = false;
			w->c.state = MC_IDLE;
			if (w->commit && !w->uncommit && !w->done)
				step(&w->c, ME_REPLAYED, &w->ca);
			else if (!w->done)
				step(&w->c, ME_CRASH, &w->ca);
		}
		break;
	case 1:
		if (w->s_up && w->faults > 0) {
			w->faults--;
			w->s_up = false;
			w->s_epoch++;
			if (w->s.state == MS_FREEZING) {
				w->s_runs = true;
				w->s.state = MS_RUNNING;
				w->sa = MA_NONE;
			}
		} else if (!w->s_up) {
			w->s_up = true;
			if (has(w->s, ME_CRASH))
				step(&w->s, ME_CRASH, &w->sa);
		}
		break;
	default:
		if (w->d_up && w->faults > 0) {
			w->faults--;
			w->d_up = false;
		} else if (!w->d_up) {
			w->d_up = true;
			if (has(w->d, ME_CRASH))
				step(&w->d, ME_CRASH, &w->da);
		}
		break;
	}
}

static bool settled(const struct world *w)
{
	bool c = w->c.state == MC_DONE || w->c.state == MC_FAILED || (w->c.state == MC_IDLE && w->done);

	return w->c_up && w->s_up && w->d_up && c && (w->s.state == MS_RUNNING || w->s.state == MS_GONE) &&
	       (w->d.state == MD_NONE || w->d.state == MD_RUNNING);
}

static bool one_schedule(unsigned seed, int faults, bool *moved)
{
	struct world w = { .c = { MC_IDLE }, .s = { MS_RUNNING }, .d = { MD_NONE }, .s_runs = true, .c_up = true, .s_up = true, .d_up = true,
		.faults = faults, .seed = seed };

	step(&w.c, ME_START, &w.ca);
	for (int i = 0; i < 5000; i++) {
		switch (rnd(&w, 4)) {
		case 0:
			if (w.c_up)
				run_home(&w);
			break;
		case 1:
			if (w.s_up)
				run_source(&w);
			break;
		case 2:
			if (w.d_up)
				run_dest(&w);
			break;
		default:
			if (rnd(&w, 4) == 0)
				crash_or_start(&w);
			break;
		}
		if (w.s_runs && w.d_runs)
			return false;
		/* in READY with no home to say so, nobody holds anything: the destination gives its preparation up when it asks */
		if (w.d.state == MD_READY && w.d_up && (w.c.state == MC_FAILED || w.c.state == MC_DONE))
			step(&w.d, ME_ABORT, &w.da);
		if (settled(&w))
			break;
	}
	if (!settled(&w) || w.s_runs == w.d_runs)
		return false;
	*moved = w.d_runs;
	return w.d_runs ? w.commit && !w.uncommit && w.s.state == MS_GONE : w.s.state == MS_RUNNING;
}

static void test_no_faults(void)
{
	bool moved = false;

	CU_ASSERT_TRUE(one_schedule(7, 0, &moved));
	CU_ASSERT_TRUE(moved);
}

static void test_random_faults(void)
{
	unsigned moves = 0, stays = 0;

	for (unsigned seed = 1; seed <= 40000; seed++) {
		bool moved = false;

		if (!one_schedule(seed, 1 + seed % 7, &moved)) {
			CU_FAIL("a schedule ended with no copy, two copies, or sides that disagree");
			fprintf(stderr, "seed %u\n", seed);
			return;
		}
		moved ? moves++ : stays++;
	}
	CU_ASSERT_TRUE(moves > 1000);
	CU_ASSERT_TRUE(stays > 1000);
}

static void test_never_back_after_commit(void)
{
	/* No way leads from RELEASING, STARTING or FINISHING to a state in which the source may thaw. */
	for (int ev = 0; ev < M_EVENTS; ev++) {
		const enum mig_state from[] = { MC_RELEASING, MC_STARTING, MC_FINISHING, MC_BURYING };

		for (size_t i = 0; i < sizeof(from) / sizeof(from[0]); i++) {
			struct mig_machine m = { from[i] };
			enum mig_action a = MA_NONE;

			if (mig_step(&m, (enum mig_event)ev, &a))
				continue;
			CU_ASSERT_NOT_EQUAL(a, MA_ABORT);
			CU_ASSERT_NOT_EQUAL(m.state, MC_ABORTING);
			CU_ASSERT_NOT_EQUAL(m.state, MC_FAILED);
		}
	}
}

static void test_doubt_never_decides_alone(void)
{
	const enum mig_event passive[] = { ME_LOST, ME_STAY, ME_CRASH };

	for (size_t i = 0; i < 3; i++) {
		struct mig_machine s = { MS_DOUBT }, d = { MD_DOUBT };
		enum mig_action a;

		CU_ASSERT_EQUAL(mig_step(&s, passive[i], &a), 0);
		CU_ASSERT_EQUAL(s.state, MS_DOUBT);
		CU_ASSERT_EQUAL(mig_step(&d, passive[i], &a), 0);
		CU_ASSERT_EQUAL(d.state, MD_DOUBT);
	}
}

static void test_unknown_transition_is_an_error(void)
{
	struct mig_machine m = { MC_IDLE };
	enum mig_action a = MA_TELL;

	CU_ASSERT_EQUAL(mig_step(&m, ME_GO, &a), -EPROTO);
	CU_ASSERT_EQUAL(m.state, MC_IDLE);
	CU_ASSERT_EQUAL(a, MA_TELL);
	m.state = MD_NONE;
	CU_ASSERT_EQUAL(mig_step(&m, ME_GO, &a), -EPROTO);
	m.state = MD_READY;
	CU_ASSERT_EQUAL(mig_step(&m, ME_GO, &a), -EPROTO);
}

int main(void)
{
	CU_pSuite s;

	if (CU_initialize_registry() != CUE_SUCCESS)
		return 2;
	s = CU_add_suite("migrate", NULL, NULL);
	CU_add_test(s, "without faults the family moves", test_no_faults);
	CU_add_test(s, "random losses and crashes: exactly one copy", test_random_faults);
	CU_add_test(s, "never back after the commit", test_never_back_after_commit);
	CU_add_test(s, "a side in doubt never decides alone", test_doubt_never_decides_alone);
	CU_add_test(s, "a transition that is not in the table is an error", test_unknown_transition_is_an_error);
	CU_basic_run_tests();
	return CU_get_number_of_failures() ? 1 : 0;
}
