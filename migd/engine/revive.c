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

static const img_proc *in_head(const img_head *h, pid_t vpid)
{
	for (size_t i = 0; i < h->n_proc; i++)
		if (h->proc[i]->pid == vpid)
			return h->proc[i];
	return NULL;
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
		const img_proc *m = in_head(h, p->vpid);

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

		if (parent && !in_head(h, f->zombies[i].vpid))
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

/* A number that nobody has at home, for the moment in which it is needed. */
static pid_t spare_number(const img_head *h, pid_t near)
{
	pid_t pid = near;

	do
		pid += near < 4000000 ? 1 : -1;
	while (in_head(h, pid) || kill(pid, 0) == 0);
	return pid;
}

/*
 * Born away, and its parent has ended: away it is a child of the nest's first process, here it becomes one of init's (or of who reaps for it), by a parent that
 * ends at once. From then on it is no descendant of the family's root: the next move leaves it at home, as it would any daemon.
 */
static int revive_orphan(struct eng_family *f, const img_head *h, const img_proc *m, struct error *e)
{
	struct eng_proc *root = f->procs[0], *mid;
	int32_t tid = spare_number(h, m->pid);
	img_proc between = {.pid = tid, .ppid = root->vpid, .pgid = root->pgid, .sid = root->sid, .n_tids = 1, .tids = &tid, .uid = root->core->uid,
		.gid = root->core->gid, .blob = root->core->blob, .comm = ""};
	int r = vessel_child(f, root, &between, e);

	mid = r == 0 ? eng_proc_by_vpid(f, tid) : NULL;
	if (!mid)
		return r;
	r = vessel_child(f, mid, m, e);
	if (r == 0)
		r = vessel_join(f, m, e);
	mid->core->exit_sent = true;
	vessel_die(mid, 0);
	hollow_reap_zombie(root, tid, SIGCHLD);
	for (size_t i = 0; i < f->nprocs; i++)
		if (f->procs[i] == mid) {
			proc_drop(f, i);
			break;
		}
	return r;
}

/* Members that were born away. */
static int revive_born(struct eng_family *f, const img_head *h, struct error *e)
{
	int r = 0;

	for (size_t i = 0; i < h->n_proc && r == 0; i++) {
		const img_proc *m = h->proc[i];
		struct eng_proc *parent = eng_proc_by_vpid(f, m->ppid);

		if (eng_proc_by_vpid(f, m->pid) || is_zombie_here(f, m->pid))
			continue;
		if (m->zombie && !parent) /* nobody waits for it */
			continue;
		if (m->zombie) {
			r = vessel_zombie(f, m, e);
			continue;
		}
		if (!parent) {
			r = f->nest || !f->nprocs ? vessel_root(f, m, e) : revive_orphan(f, h, m, e);
			continue;
		}
		r = vessel_child(f, parent, m, e);
		if (r == 0)
			r = vessel_join(f, m, e);
	}
	return r;
}

/* Vessels that are there become those of the head: hollows that come to life, or vessels made after an earlier head (pre-copy). */
int vessels_reconcile(struct eng_family *f, const img_head *h, struct error *e)
{
	int r = h->ahead ? 0 : revive_ended(f, h);

	for (size_t i = 0; i < f->nprocs && r == 0; i++) {
		const img_proc *m = in_head(h, f->procs[i]->vpid);

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
