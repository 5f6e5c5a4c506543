// SPDX-License-Identifier: Apache-2.0
/*
 * Home side, see home.h: what the journal holds of families that are away, and what a restarted migd makes of it. Records "away", "move", "commit" each say all that is
 * to be known; which of them is there decides (see migrate.h). Engine calls are made by the family's actor only.
 */
#include "migd/home_parts.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/log.h"
#include "migd/access.h"
#include "migd/forward.h"
#include "migd/hooks.h"
#include "migd/journal.h"
#include "migd/move.h"
#include "migd/outbox.h"
#include "migd/relays.h"
#include "migd/transfer.h"

/* ---- journal ---- */

int home_actor_save(struct family *f, void *arg)
{
	return f->eng ? eng_save(f->eng, arg) : -ESRCH;
}

static json_t *members_json(const struct family *f)
{
	json_t *a = json_array();

	for (size_t i = 0; i < f->nmembers; i++)
		if (!f->members[i].ended)
			json_array_append_new(a, json_pack("{s:i, s:i, s:b}", "pid", f->members[i].pid, "ppid", f->members[i].ppid, "hollow", f->members[i].hollow));
	return a;
}

json_t *home_record_with(struct family *f, const char *type, uint64_t gen, const char *state)
{
	json_t *r;

	pthread_mutex_lock(&f->lock);
	r = journal_record(type, f->id, gen);
	json_object_set_new(r, "host", json_string(f->host));
	json_object_set_new(r, "uid", json_integer(f->uid));
	json_object_set_new(r, "gid", json_integer(f->gid));
	json_object_set_new(r, "pid", json_integer(f->pid));
	json_object_set_new(r, "comm", json_string(f->comm));
	json_object_set_new(r, "attempt", json_integer(f->attempt));
	json_object_set_new(r, "boot", json_string(clock_boot_id()));
	json_object_set_new(r, "members", members_json(f));
	json_object_set_new(r, "state", state ? json_string(state) : json_null());
	pthread_mutex_unlock(&f->lock);
	return r;
}

/* From outside of the actor. */
static json_t *home_record(struct family *f, const char *type, uint64_t gen)
{
	_cleanup_free_ char *state = NULL;

	if (family_call(f, home_actor_save, &state))
		state = NULL;
	return home_record_with(f, type, gen, state);
}

int home_note_unless_dead(struct family *f, json_t *r)
{
	int err = 0;

	pthread_mutex_lock(&f->lock);
	if (f->dead)
		json_decref(r);
	else
		err = journal_note(f->m->journal, r);
	pthread_mutex_unlock(&f->lock);
	return err;
}

int home_journal(struct family *f)
{
	return home_note_unless_dead(f, home_record(f, "away", f->gen));
}

void home_actor_journal_move(struct family *f, struct eng_family *standing)
{
	_cleanup_free_ char *state = NULL;

	if (eng_save(standing, &state))
		state = NULL;
	if (journal_note(f->m->journal, home_record_with(f, "move", f->to_gen, state)))
		log_warn("family %s: the journal cannot be written", f->id);
}

void home_actor_saved(struct family *f)
{
	free(f->saved);
	if (home_actor_save(f, &f->saved))
		f->saved = NULL;
}

int home_journal_commit(struct family *f, uint64_t gen, const char *dest, uint64_t signal_seq)
{
	json_t *r = f->saved ? home_record_with(f, "commit", gen, f->saved) : home_record(f, "commit", gen);

	free(f->saved);
	f->saved = NULL;
	json_object_set_new(r, "host", json_string(dest));
	json_object_set_new(r, "seq", json_integer((json_int_t)signal_seq));
	json_object_set_new(r, "adopt", json_boolean(f->adopt));
	return journal_write(f->m->journal, r);
}

/* ---- after a restart ---- */

static struct family *replay_family(struct migd *m, const json_t *r)
{
	const char *id = json_string_value(json_object_get(r, "f"));
	struct family *f = family_find(m->families, FAM_HOME, id);

	if (f)
		return f;
	if (family_create(m->families,
		    &(struct family_new){ .role = FAM_HOME, .id = id, .home = m->conf->name, .uid = json_integer_value(json_object_get(r, "uid")),
			    .gid = json_integer_value(json_object_get(r, "gid")), .pid = json_integer_value(json_object_get(r, "pid")),
			    .comm = json_string_value(json_object_get(r, "comm")), .on_event = home_event },
		    &f))
		return NULL;
	return f;
}

/* Records come in order: away, move, commit. What they amount to is decided when all are known. */
void home_replay(struct migd *m, const json_t *r)
{
	const char *type = json_string_value(json_object_get(r, "t")), *state = json_string_value(json_object_get(r, "state"));
	const char *host = json_string_value(json_object_get(r, "host")), *boot = json_string_value(json_object_get(r, "boot"));
	uint64_t gen = json_integer_value(json_object_get(r, "g")), attempt = json_integer_value(json_object_get(r, "attempt"));
	json_t *one, *members = json_object_get(r, "members");
	bool adopt = json_is_true(json_object_get(r, "adopt")); /* its new home waits for our word, also when this one has been down */
	struct family *f;
	size_t i;

	if (!adopt && (!boot || strcmp(boot, clock_boot_id()))) {
		log_note("family %s was away when this host went down: it is over", json_string_value(json_object_get(r, "f")));
		journal_note(m->journal, journal_record("end", json_string_value(json_object_get(r, "f")), gen));
		return;
	}
	f = replay_family(m, r);
	if (!f)
		return;
	pthread_mutex_lock(&f->lock);
	f->attempt = attempt > f->attempt ? attempt : f->attempt;
	f->attempt = gen > f->attempt ? gen : f->attempt;
	if (strcmp(type, "move")) {
		f->gen = gen;
		snprintf(f->host, sizeof(f->host), "%s", host ? host : "");
		f->replay_commit = !strcmp(type, "commit");
		f->adopt = adopt;
		f->signal_seq = (uint64_t)json_integer_value(json_object_get(r, "seq"));
		f->replay_away = !f->replay_commit || f->replay_away;
	}
	if (state) {
		free(f->replay_state);
		f->replay_state = strdup(state);
	}
	json_array_foreach(members, i, one)
		family_add_member(f, json_integer_value(json_object_get(one, "pid")), json_integer_value(json_object_get(one, "ppid")), NULL,
			json_is_true(json_object_get(one, "hollow")));
	pthread_mutex_unlock(&f->lock);
	family_put(f);
}

/* What the shell was told by who was here before us. */
static void see_stopped(struct family *f)
{
	pthread_mutex_lock(&f->lock);
	for (size_t i = 0; i < f->nmembers; i++)
		f->members[i].stopped = f->members[i].hollow && !f->members[i].ended && eng_stopped(f->eng, f->members[i].pid) == 1;
	pthread_mutex_unlock(&f->lock);
}

/* In the actor. 0: goes on being away (or on its way); 1: it is here and runs, nothing remains to be done; -errno: its hollows are gone. */
static int actor_reattach(struct family *f, void *unused)
{
	struct eng_hooks hooks;
	struct error e = { 0 };
	const char *state;
	int err;

	(void)unused;
	hooks_of(f, &hooks);
	err = f->replay_state ? eng_reattach(f->replay_state, &hooks, &f->eng, &e) : error_set(&e, ESRCH, "nothing is known of them");
	if (err && f->adopt) /* nothing is left of it here */
		return 0;
	if (err == -ENOENT)
		return 1;
	if (err) {
		log_warn("family %s: its hollows are not there any more: %s", f->id, e.text);
		return err;
	}
	state = eng_state_name(f->eng);
	log_debug("family %s: found %s", f->id, state);
	if (f->replay_commit)
		return 0;
	if (!f->replay_away && !strcmp(state, "hollow"))
		return -EBADMSG; /* it has left, and the record of that is lost */
	if (f->replay_away) {
		if (strcmp(state, "hollow"))
			eng_abandon(f->eng); /* it was coming home, undecided */
		else
			see_stopped(f);
		return 0;
	}
	transfer_thaw(f, NULL); /* it had not left */
	return 1;
}

static void replay_end(struct family *f)
{
	bool here = !strcmp(f->host, f->m->conf->name);
	int r;

	relays_find(f->relays);
	if (f->replay_commit)
		outbox_delivered(f->outbox, f->signal_seq); /* they are in the image that was decided for */
	r = family_call(f, actor_reattach, NULL);
	if (r == -EBADMSG) {
		snprintf(f->host, sizeof(f->host), "a host");
		home_bury(f, "the journal does not tell which");
		return;
	}
	if (r) {
		if (r > 0) {
			log_note("family %s: %d (%s) runs here", f->id, f->pid, f->comm);
			move_deliver_here(f);
		}
		home_forget(f); /* a guest host that still has it is told so when it asks */
		return;
	}
	if (here) /* as do_commit() would have gone on */
		relays_unread(f->relays);
	else
		relays_reset(f->relays, f->gen);
	if (!here && !f->adopt)
		access_expect(f->m, f->host, f->uid, f->id);
	log_note("family %s: %d (%s) found again, %s %s", f->id, f->pid, f->comm, f->replay_commit ? "on its way to" : "away on", f->host);
	if (f->replay_commit) {
		f->moving = true;
		move_finish(f);
	}
}

static void replay_parts(struct migd *m, const char *type, void (*fn)(struct family *f, const json_t *r))
{
	struct family *f;
	json_t *r;
	size_t k;

	json_array_foreach(m->replay_later, k, r) {
		if (strcmp(json_string_value(json_object_get(r, "t")), type))
			continue;
		f = family_find(m->families, FAM_HOME, json_string_value(json_object_get(r, "f")));
		if (f)
			fn(f, r);
		family_put(f);
	}
}

static void replay_signal(struct family *f, const json_t *r)
{
	outbox_replay(f->outbox, r);
}

void homes_replayed(struct migd *m)
{
	struct family **v;
	size_t n = families_list(m->families, FAM_HOME, &v);

	replay_parts(m, "sig", replay_signal);
	replay_parts(m, "call", forward_replay);
	for (size_t i = 0; i < n; i++)
		replay_end(v[i]);
	families_list_free(v, n);
	replay_parts(m, "rep", home_replay_report); /* of those that are still away */
}
