// SPDX-License-Identifier: Apache-2.0
/*
 * Families whose home this host becomes (mig rehome): who may come so, with what rights, and which came lately.
 *
 * Such a family comes as a guest does, into no nest (engine/adopt.c). When it is let go it is nobody's guest any more and its record ends; but the answer to that GO may be
 * lost, and its old home, which keeps a parked copy until it has one, asks again. So the last ones are known here, and in the journal ("adopted", which ends the family's
 * "guest"), until ADOPTED_MAX others have come.
 */
#include "migd/guest_parts.h"
#include <errno.h>
#include <grp.h>
#include <pthread.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "conf/cleanup.h"
#include "conf/log.h"
#include "migd/journal.h"

enum { ADOPTED_MAX = 32, GROUPS_MAX = 256 };

struct adopteds {
	pthread_mutex_t lock; /* all below */
	struct {
		char id[FAMILY_ID_MAX], home[HOST_NAME_MAX_];
		uint64_t gen;
	} v[ADOPTED_MAX]; /* a ring; an empty id: none yet */
	unsigned next;
};

int adopteds_open(struct adopteds **out)
{
	*out = calloc(1, sizeof(**out));
	if (!*out)
		return -ENOMEM;
	pthread_mutex_init(&(*out)->lock, NULL);
	return 0;
}

int guest_may_be_adopted(struct migd *m, const Sprite__Mig__PrepareReq *r, struct error *e)
{
	uint64_t mono, boot;

	if (!strcmp(m->conf->adopts, "none") || (r->uid && !strcmp(m->conf->adopts, "root")) || (!r->uid && !m->conf->root_guests))
		return error_set(e, EPERM, "%s becomes the home of no such process (migd.adopts%s in its sprite.conf)", m->conf->name, r->uid ? "" : " and migd.root_guests");
	eng_clocks(&mono, &boot);
	if (mono < r->mono || boot < r->boot)
		return error_set(e, EOPNOTSUPP, "%s has been up for less time than %s: the clock of %d would go back there", m->conf->name, r->home, r->pid);
	if (!kill(r->pid, 0) || errno != ESRCH)
		return error_set(e, EEXIST, "%s has a process %d of its own: choose another host, or wait until that has ended", m->conf->name, r->pid);
	return 0;
}

int guest_adopt(struct family *f, const struct eng_hooks *hooks, struct error *e)
{
	gid_t groups[GROUPS_MAX];
	char buf[4096];
	struct passwd pw, *found = NULL;
	int n = ARRAY_SIZE(groups), err;

	if (f->uid && (getpwuid_r(f->uid, &pw, buf, sizeof(buf), &found) || !found || getgrouplist(pw.pw_name, pw.pw_gid, groups, &n) < 0))
		return error_set(e, EPERM, "%s has no user of number %u, or one of too many groups", f->m->conf->name, f->uid);
	err = eng_adopt(hooks, !f->uid, f->uid, groups, f->uid ? n : 0, &f->eng);
	return err ? error_set(e, -err, "out of memory") : 0;
}

/* dropped: whom it takes the place of, "" nobody. */
static void remember(struct adopteds *a, const char *id, uint64_t gen, const char *home, char dropped[FAMILY_ID_MAX])
{
	unsigned at;

	pthread_mutex_lock(&a->lock);
	at = a->next++ % ADOPTED_MAX;
	snprintf(dropped, FAMILY_ID_MAX, "%s", a->v[at].id);
	snprintf(a->v[at].id, sizeof(a->v[at].id), "%s", id);
	snprintf(a->v[at].home, sizeof(a->v[at].home), "%s", home);
	a->v[at].gen = gen;
	pthread_mutex_unlock(&a->lock);
}

void guest_note_adopted(struct family *f)
{
	json_t *r = journal_record("adopted", f->id, f->gen);
	char dropped[FAMILY_ID_MAX];

	f->eng = NULL;
	log_note("family %s: %d (%s) of %s has its home here now, for uid %u", f->id, f->pid, f->comm, f->home, f->uid);
	remember(f->m->adopteds, f->id, f->gen, f->home, dropped);
	json_object_set_new(r, "home", json_string(f->home));
	journal_note(f->m->journal, r);
	if (*dropped)
		journal_note(f->m->journal, journal_record("drop", dropped, 0));
}

void guest_replay_adopted(struct migd *m, const json_t *r)
{
	const char *home = json_string_value(json_object_get(r, "home"));
	char dropped[FAMILY_ID_MAX];

	if (home)
		remember(m->adopteds, json_string_value(json_object_get(r, "f")), json_integer_value(json_object_get(r, "g")), home, dropped);
}

bool guest_is_adopted(struct migd *m, const char *id, uint64_t gen, const char *home)
{
	struct adopteds *a = m->adopteds;
	bool is = false;

	pthread_mutex_lock(&a->lock);
	for (unsigned i = 0; i < ADOPTED_MAX; i++)
		is |= a->v[i].gen == gen && !strcmp(a->v[i].id, id) && !strcmp(a->v[i].home, home);
	pthread_mutex_unlock(&a->lock);
	return is;
}
