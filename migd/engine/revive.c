// SPDX-License-Identifier: Apache-2.0
/*
 * Vessels that are there already become those of a (later) head: hollows at home that come to life, or vessels made after an announcement. Who ended meanwhile
 * ends here, who was born is made. By a head that is only a guess (`ahead`) nobody ends: who is not in it may just have been ending, or was not seen yet.
 */
#include "migd/engine/vessel.h"
#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include "conf/cleanup.h"
#include "migd/engine/inject.h"
#include "migd/engine/memory.h"
#include "migd/engine/procfs.h"

static int adjust_threads(struct eng_proc *p, const img_proc *m, bool ahead, struct error *e)
{
	unsigned used = 0;
	int r = 0;

	for (unsigned i = p->nthreads; i-- > 1 && !ahead;) { /* who ended away ends here */
		bool wanted = false;

		for (size_t k = 1; k < m->n_tids; k++)
			wanted |= m->tids[k] == p->threads[i]->vtid;
		if (wanted)
			continue;
		INJECT_RAW(p->threads[i], SYS_exit, 0);
		thread_drop(p, i);
	}
	/* slots: their own to all, without gaps */
	for (unsigned i = 0; i < p->nthreads; i++)
		p->threads[i]->core->slot = blob_slot_addr(p->core->blob, used++);
	for (size_t k = 1; k < m->n_tids && r == 0 && used < p->core->nslots; k++) {
		bool here = false;

		for (unsigned i = 1; i < p->nthreads; i++)
			here |= p->threads[i]->vtid == m->tids[k];
		if (!here)
			r = vessel_thread(p, used++, m->tids[k], e);
	}
	for (unsigned i = 0; i < p->nthreads && r == 0; i++)
		r = inject_park(p->threads[i]);
	return r;
}

/*
 * It has been continued away, of which nobody here has heard yet. Its group is stopped as the kernel knows it: that ends by SIGCONT alone, of which neither it nor its
 * parent shall hear once more. One that waits already has done it.
 */
static void go_on(struct eng_proc *p)
{
	struct eng_proc *parent = p->parent && !p->parent->core->dead ? p->parent : NULL;
	bool chld = parent && thaw_waits(parent, SIGCHLD);

	p->core->stood = false;
	if (thaw_waits(p, SIGCONT) || syscall(SYS_pidfd_send_signal, p->pidfd, SIGCONT, NULL, 0) < 0)
		return;
	hollow_drain(p, 0, SIGCONT);
	if (parent && !chld)
		hollow_drain(parent, p->vpid, SIGCHLD);
}

static int revive_one(struct eng_proc *p, const img_proc *m, bool ahead, struct error *e)
{
	int r = 0;

	for (unsigned i = 0; i < p->nthreads; i++)
		pin_thread(p->threads[i]);
	if (ahead && (p->core->blob != m->blob || p->core->nslots < m->n_tids))
		return 0; /* the true head will do that */
	if (p->core->blob != m->blob || p->core->nslots < m->n_tids) { /* the program took that place, or has more threads */
		r = memory_forget_ahead(p, e);
		if (r == 0)
			r = inject_unblob(p);
		p->core->blob = m->blob;
		if (r == 0)
			r = inject_blob(p, m->n_tids + 32, e);
		for (unsigned i = 0; i < p->nthreads && r == 0; i++)
			r = inject_park(p->threads[i]);
	}
	if (r == 0)
		r = inject_set_mode(p, BLOB_PARK);
	vessel_numbers(p, m);
	if (r == 0 && !ahead && p->core->stood && !m->stopped)
		go_on(p);
	if (r == 0)
		r = adjust_threads(p, m, ahead, e);
	return r < 0 ? error_set(e, -r, "hollow %d cannot be made ready: %s", p->vpid, strerror(-r)) : 0;
}

/* Children of hollows that have ended and that nobody has waited for: as they are, for we may have been restarted, or died while we ended one. */
static int look_for_zombies(struct eng_family *f)
{
	int r = 0;

	f->nzombies = 0;
	for (size_t i = 0; i < f->nprocs && r >= 0; i++) {
		_cleanup_free_ pid_t *kids = NULL;
		ssize_t n = f->procs[i]->core->dead ? 0 : procfs_children(f->procs[i]->pid, &kids);

		for (ssize_t k = 0; k < n && r >= 0; k++)
			r = freeze_zombie(f, kids[k], f->procs[i]);
	}
	return r < 0 ? r : 0;
}

/* Members that ended away: their hollows end too; waited for by the parent, or as a zombie if the parent has yet to wait. */
static int revive_ended(struct eng_family *f, const img_head *h)
{
	int r = 0;

	for (size_t i = f->nprocs; i-- > 0 && r == 0;) {
		struct eng_proc *p = f->procs[i];
		const img_proc *m = head_find(h, p->vpid);

		if (m && !m->zombie)
			continue;
		r = p->core->dead ? 0 : hollow_end(f, p->vpid, m ? m->exit_status : 0, m ? END_KEEP : END_REAP);
		if (r == 0 && m) /* it is a zombie of this host now, as in the image */
			r = zombie_note(f, &(struct zombie){p->pid, p->vpid, m->ppid, m->pgid, m->sid, m->exit_status, p->core->exit_signal});
		if (r == 0)
			proc_drop(f, i);
	}
	if (r == 0 && !f->nest)
		r = look_for_zombies(f);
	for (size_t i = 0; i < f->nzombies && r == 0; i++) { /* left here as zombies, waited for away */
		struct eng_proc *parent = eng_proc_by_vpid(f, f->zombies[i].parent);

		if (parent && !head_find(h, f->zombies[i].vpid))
			hollow_reap_zombie(parent, f->zombies[i].vpid, f->zombies[i].exit_signal);
	}
	return r;
}

static bool is_zombie_here(const struct eng_family *f, pid_t vpid)
{
	for (size_t i = 0; i < f->nzombies; i++)
		if (f->zombies[i].vpid == vpid)
			return true;
	return false;
}

/*
 * An orphan: born away, and its parent has ended. In a nest it is a child of the first process; at home it becomes one of init's (or of who reaps for it), and from then on no descendant of
 * the family's root: the next move leaves it at home, as it would any daemon. 1: it is there, 0: not yet (and not `last`): who leads its session is not, or has ended (vessel_zombie() makes it).
 */
static int make_orphan(struct eng_family *f, const img_head *h, const img_proc *m, bool last, struct error *e)
{
	const img_proc *session = m->sid == m->pid ? NULL : head_find(h, m->sid), *group = m->pgid == m->pid ? NULL : head_find(h, m->pgid);
	struct eng_proc *by = session ? eng_proc_by_vpid(f, session->pid) : NULL;
	int r;

	if (session && !by && !last)
		return 0;
	/* The keeper has a stand-in for each leader that it does not know of; the number of one who is still to be made would be taken then. */
	if (!by && f->nprocs && (!f->nest || (group && m->sid == h->proc[0]->sid)))
		by = f->procs[0];
	r = by ? vessel_orphan(f, h, by, m, e) : vessel_root(f, m, e);
	return r < 0 ? r : 1;
}

/* Those who live: each when its parent is there, or who it is in the session of. */
static int make_living(struct eng_family *f, const img_head *h, bool last, struct error *e)
{
	bool more = true;
	int r = 0;

	while (more && r >= 0) {
		more = false;
		for (size_t i = 0; i < h->n_proc && r >= 0; i++) {
			const img_proc *m = h->proc[i];
			struct eng_proc *parent = eng_proc_by_vpid(f, m->ppid);

			if (m->zombie || eng_proc_by_vpid(f, m->pid) || is_zombie_here(f, m->pid) || (!parent && head_find(h, m->ppid)))
				continue;
			r = parent ? vessel_child(f, parent, m, e) : make_orphan(f, h, m, last, e);
			more |= parent || r > 0;
			if (r == 0 && parent && m->sid == m->pid) /* before it has children: they are born into it */
				r = vessel_join(f, m, e);
		}
	}
	return r < 0 ? r : 0;
}

int vessels_make(struct eng_family *f, const img_head *h, struct error *e)
{
	int r = make_living(f, h, false, e);

	for (size_t i = 0; i < h->n_proc && r == 0; i++) /* one that nobody waits for is none any more */
		if (h->proc[i]->zombie && !is_zombie_here(f, h->proc[i]->pid) && !eng_proc_by_vpid(f, h->proc[i]->pid) && eng_proc_by_vpid(f, h->proc[i]->ppid))
			r = vessel_zombie(f, h, h->proc[i], e);
	return r < 0 ? r : make_living(f, h, true, e); /* and those below who is in the session of one that has ended */
}

/* Members that were born away. Groups when all are there: a leader may come after who follows it. */
static int revive_born(struct eng_family *f, const img_head *h, struct error *e)
{
	_cleanup_free_ bool *was = calloc(h->n_proc, sizeof(*was));
	int r = was ? 0 : -ENOMEM;

	for (size_t i = 0; i < h->n_proc && r == 0; i++)
		was[i] = eng_proc_by_vpid(f, h->proc[i]->pid);
	if (r == 0)
		r = vessels_make(f, h, e);
	for (size_t i = 0; i < h->n_proc && r == 0; i++)
		if (!was[i] && !h->proc[i]->zombie && eng_proc_by_vpid(f, h->proc[i]->pid))
			r = vessel_join(f, h->proc[i], e);
	return r;
}

/* Vessels that are there become those of the head: hollows that come to life, or vessels made after an earlier head (pre-copy). */
int vessels_reconcile(struct eng_family *f, const img_head *h, struct error *e)
{
	int r = h->ahead ? 0 : revive_ended(f, h);

	for (size_t i = 0; i < f->nprocs && r == 0; i++) {
		const img_proc *m = head_find(h, f->procs[i]->vpid);

		if (h->ahead && (!m || m->zombie || f->procs[i]->core->dead))
			continue;
		r = vessel_credentials(f->procs[i], m, e);
		if (r == 0)
			r = revive_one(f->procs[i], m, h->ahead, e);
	}
	if (r == 0)
		r = revive_born(f, h, e);
	return r;
}
