// SPDX-License-Identifier: Apache-2.0
/*
 * Making vessels: a process or thread with the number that the image says, caught, with the blob in and nothing else. On a guest host the keeper makes the root
 * vessel and clone3(set_tid) names the numbers; at home, where nobody but root may name one and a hollow is not root, the kernel's own counter is aimed.
 */
#include "migd/engine/vessel.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/log.h"
#include "migd/engine/adopt.h"
#include "migd/engine/aim.h"
#include "migd/engine/inject.h"
#include "migd/engine/memory.h"
#include "migd/engine/nest.h"

enum { TRIES = 50 }; /* for a number at home, which every fork there takes a chance at */

int vessel_catch(struct eng_thread *t)
{
	uint64_t mask = ~(1ULL << (SIGTRAP - 1));
	int r = inject_seize(t);

	if (r < 0)
		return r;
	t->core->how = PTRACE_CONT;
	r = inject_wait(t, NULL);
	if (r == 0)
		inject_filters_sleep(t);
	if (r == 0 && ptrace(PTRACE_SETSIGMASK, t->tid, 8, &mask) < 0)
		r = -errno;
	if (r == 0)
		pin_thread(t);
	return r;
}

/* ---- threads --------------------------------------------------------------------------------------- */
int find_tid(struct eng_proc *p, pid_t vtid, pid_t *tid)
{
	_cleanup_free_ pid_t *list = NULL;
	ssize_t n = procfs_tasks(p->pid, &list);

	return procfs_by_vpid(list, n, vtid, tid);
}

int vessel_thread(struct eng_proc *p, unsigned slot, pid_t vtid, struct error *e)
{
	struct eng_proc_core *c = p->core;
	uint64_t top = blob_stack_addr(c->blob, c->nslots, slot), at, tid_at;
	struct clone_args a = {.flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM, .stack = top - BLOB_STACK / 2,
		.stack_size = BLOB_STACK / 2};
	struct eng_thread *t;
	pid_t tid;
	long r;

	eng_scratch_reset(p);
	tid_at = eng_scratch_put(p, &vtid, sizeof(vtid));
	if (c->caps) {
		a.set_tid = tid_at;
		a.set_tid_size = 1;
	}
	at = eng_scratch_put(p, &a, sizeof(a));
	for (int try = 0;; try++) {
		r = clone_aimed(p, at, sizeof(a), blob_slot_addr(c->blob, slot), vtid);
		if (r < 0)
			return error_set(e, -r, "thread %d of process %d cannot be made: %s", vtid, p->vpid, strerror(-r));
		if (r == vtid)
			break;
		/* somebody else was faster: this one ends, once more */
		if (find_tid(p, r, &tid) == 0 && (t = thread_new(p, tid, r))) {
			t->core->slot = blob_slot_addr(c->blob, slot);
			if (vessel_catch(t) == 0)
				INJECT_RAW(t, SYS_exit, 0);
			thread_drop(p, p->nthreads - 1);
		}
		aim_again(vtid);
		if (try == TRIES)
			return error_set(e, EEXIST, "thread %d of process %d: that number is taken", vtid, p->vpid);
	}
	r = find_tid(p, vtid, &tid);
	t = r == 0 ? thread_new(p, tid, vtid) : NULL;
	if (!t)
		return error_set(e, r < 0 ? -r : ENOMEM, "thread %d of process %d is gone", vtid, p->vpid);
	t->core->slot = blob_slot_addr(c->blob, slot);
	r = vessel_catch(t);
	if (r == 0)
		r = inject_park(t);
	return r < 0 ? error_set(e, -r, "thread %d of process %d cannot be caught", vtid, p->vpid) : 0;
}

/* ---- vessels --------------------------------------------------------------------------------------- */
int vessel_credentials(struct eng_proc *p, const img_proc *m, struct error *e)
{
	if (!adopt_may(p->family, m->uid, m->gid, m->groups, m->n_groups))
		return adopt_refuse(p->vpid, e);
	p->core->uid = m->uid;
	p->core->gid = m->gid;
	free(p->core->groups);
	p->core->groups = NULL;
	p->core->ngroups = 0;
	if (!m->n_groups)
		return 0;
	p->core->groups = calloc(m->n_groups, sizeof(uint32_t));
	if (!p->core->groups)
		return -ENOMEM;
	memcpy(p->core->groups, m->groups, m->n_groups * sizeof(uint32_t));
	p->core->ngroups = m->n_groups;
	return 0;
}

void vessel_numbers(struct eng_proc *p, const img_proc *m)
{
	p->ppid = p->core->home_ppid = m->ppid;
	p->pgid = p->core->home_pgid = m->pgid;
	p->sid = p->core->home_sid = m->sid;
	p->core->stop_sig = m->stopped ? SIGSTOP : 0;
	p->core->stop_taken = m->stop_taken;
	snprintf(p->core->comm, sizeof(p->core->comm), "%s", m->comm);
}

/* The keeper's own libc has registered memory that goes away: the kernel would kill the vessel for its restartable sequence. */
static int forget_libc(struct eng_thread *t)
{
	struct {
		uint64_t ptr;
		uint32_t size, signature, flags, pad;
	} conf = {0};
	struct eng_call c[4] = {{.nr = SYS_set_tid_address, .arg = {0}}, {.nr = SYS_set_robust_list, .arg = {0, 24}}};
	size_t n = 2;

	if (t->proc->family->adopted && !t->proc->parent)
		c[n++] = (struct eng_call){.nr = SYS_close, .arg = {0}}; /* its tie */
	if (ptrace(0x420f /* PTRACE_GET_RSEQ_CONFIGURATION */, t->tid, sizeof(conf), &conf) == sizeof(conf) && conf.ptr)
		c[n++] = (struct eng_call){.nr = SYS_rseq, .arg = {conf.ptr, conf.size, 1, conf.signature}};
	return eng_batch(t, c, n, NULL);
}

/* Caught, blob in at the place the image says, all threads there. */
static int vessel_equip(struct eng_proc *p, const img_proc *m, struct error *e)
{
	struct maps *maps;
	int r = procfs_maps(p->dir, false, &maps);

	if (r == 0) {
		r = inject_prepare(p, maps);
		maps_free(maps);
	}
	p->core->blob = m->blob;
	if (r == 0)
		r = inject_blob(p, m->n_tids + 32, e);
	if (r == 0)
		r = inject_park(p->threads[0]);
	if (r == 0)
		r = forget_libc(p->threads[0]);
	if (r == 0 && p->core->caps) {
		uint64_t at = eng_scratch_put(p, p->core->groups, p->core->ngroups * sizeof(uint32_t));

		r = ENG_SYS(p->threads[0], SYS_setgroups, p->core->ngroups, at);
	}
	for (size_t i = 1; i < m->n_tids && r == 0; i++)
		r = vessel_thread(p, i, m->tids[i], e);
	return r < 0 ? error_set(e, -r, "vessel %d cannot be equipped: %s", p->vpid, strerror(-r)) : 0;
}

int vessel_root(struct eng_family *f, const img_proc *m, struct error *e)
{
	struct eng_proc *p;
	pid_t pid = m->pid;
	_cleanup_close_ int tie = -1;
	int r = f->nest ? nest_vessel(f->nest, m->pid, m->ppid, m->pgid, m->sid, &pid, e) : adopt_seat(m, &tie, e);

	if (r < 0)
		return r;
	p = proc_new(f, pid, m->pid);
	if (!p || !thread_new(p, pid, m->pid))
		return error_set(e, ENOMEM, "no memory");
	p->core->caps = true;
	vessel_numbers(p, m);
	r = proc_open(p);
	if (r == 0)
		r = vessel_credentials(p, m, e);
	if (r == 0)
		r = vessel_catch(p->threads[0]);
	if (r < 0)
		return error_set(e, -r, "vessel %d cannot be caught: %s", m->pid, strerror(-r));
	return vessel_equip(p, m, e);
}

static int find_child(struct eng_proc *parent, pid_t vpid, pid_t *pid)
{
	_cleanup_free_ pid_t *kids = NULL;
	ssize_t n = procfs_children(parent->pid, &kids);

	return procfs_by_vpid(kids, n, vpid, pid);
}

/* A child is forked by its parent's vessel, so that it is its child for wait and getppid. It starts parked in a copy of the parent's blob. */
int vessel_child(struct eng_family *f, struct eng_proc *parent, const img_proc *m, struct error *e)
{
	struct clone_args a = {.exit_signal = m->exit_signal && m->exit_signal <= SIGRTMAX + 1u ? m->exit_signal - 1 : SIGCHLD};
	struct eng_proc *p;
	struct eng_thread *t;
	uint64_t at;
	pid_t pid = 0, want = m->pid;
	long r;

	eng_scratch_reset(parent);
	if (parent->core->caps) {
		a.set_tid = eng_scratch_put(parent, &want, sizeof(want));
		a.set_tid_size = 1;
	}
	at = eng_scratch_put(parent, &a, sizeof(a));
	for (int try = 0;; try++) {
		r = clone_aimed(parent, at, sizeof(a), parent->threads[0]->core->slot, m->pid);
		if (r < 0 || r == m->pid)
			break;
		if (find_child(parent, r, &pid) == 0) /* another process was faster: this one ends, once more */
			kill(pid, SIGKILL);
		ENG_SYS(parent->threads[0], SYS_wait4, r, 0, __WALL, 0);
		hollow_drain(parent, r, (int)a.exit_signal);
		at = eng_scratch_put(parent, &a, sizeof(a));
		aim_again(m->pid);
		r = -EEXIST;
		if (try == TRIES)
			break;
	}
	if (r < 0)
		return error_set(e, -r, "process %d cannot be made: %s", m->pid, r != -EEXIST ? strerror(-r) : "that number is taken");
	r = find_child(parent, m->pid, &pid);
	p = r == 0 ? proc_new(f, pid, m->pid) : NULL;
	t = p ? thread_new(p, pid, m->pid) : NULL;
	if (!t)
		return error_set(e, r < 0 ? -r : ENOMEM, "process %d is gone", m->pid);
	p->parent = parent;
	p->core->exit_signal = (int)a.exit_signal;
	p->core->caps = parent->core->caps;
	vessel_numbers(p, m);
	p->core->sysinsn = parent->core->sysinsn;
	p->core->vdso = parent->core->vdso;
	p->core->vdso_end = parent->core->vdso_end;
	p->core->blob = parent->core->blob;
	p->core->nslots = parent->core->nslots;
	p->core->trap = parent->core->trap;
	t->core->slot = parent->threads[0]->core->slot;
	r = proc_open(p);
	if (r == 0)
		r = vessel_credentials(p, m, e);
	if (r == 0)
		r = vessel_catch(t);
	if (r == 0 && (p->core->blob_in = true))
		r = inject_unblob(p);
	if (r == 0)
		r = vessel_equip(p, m, e);
	return r < 0 ? error_set(e, -r, "vessel %d cannot be caught: %s", m->pid, strerror(-r)) : 0;
}

/* Groups and sessions inside of the family, once all are there. What was inherited from the parent is right already. */
static int vessel_group(struct eng_proc *p, const img_proc *m)
{
	struct eng_call is[2] = {{.nr = SYS_getpgid}, {.nr = SYS_getsid}};
	struct eng_thread *t = p->threads[0];
	long pgid, sid, r = 0;

	if (!p->parent && p->family->nest && p == p->family->procs[0])
		return 0; /* the keeper made it */
	r = eng_batch(t, is, ARRAY_SIZE(is), NULL);
	if (r < 0)
		return r;
	pgid = is[0].ret;
	sid = is[1].ret;
	if (m->sid == m->pid && sid != m->sid)
		r = ENG_SYS(t, SYS_setsid, 0);
	else if (m->pgid > 1 && pgid != m->pgid && (p != p->family->procs[0] || m->pgid == m->pid))
		r = ENG_SYS(t, SYS_setpgid, 0, m->pgid);
	if (p->parent && r >= 0 && m->sid > 1 && m->sid != m->pid && sid != m->sid && eng_proc_by_vpid(p->family, m->sid))
		return -EPERM; /* older than its parent's session: cannot be made again */
	return r < 0 ? r : 0;
}

/* ---- zombies, groups ------------------------------------------------------------------------------- */
int zombie_note(struct eng_family *f, const struct zombie *z)
{
	struct zombie *bigger = realloc(f->zombies, (f->nzombies + 1) * sizeof(*bigger));

	if (!bigger)
		return -ENOMEM;
	f->zombies = bigger;
	bigger[f->nzombies++] = *z;
	return 0;
}

const img_proc *head_find(const img_head *h, pid_t vpid)
{
	for (size_t i = 0; i < h->n_proc; i++)
		if (h->proc[i]->pid == vpid)
			return h->proc[i];
	return NULL;
}

/* A number that nobody has, for the moment in which it is needed. */
static pid_t spare_number(const img_head *h, pid_t near)
{
	pid_t pid = near;

	do
		pid += near < 4000000 ? 1 : -1;
	while (head_find(h, pid) || kill(pid, 0) == 0);
	return pid;
}

/* For one moment only: it ends, and what it has borne is nobody's child. */
static void let_end(struct eng_family *f, struct eng_proc *p, struct eng_proc *parent)
{
	pid_t vpid = p->vpid;

	p->core->exit_sent = true;
	vessel_die(p, 0);
	hollow_reap_zombie(parent, vpid, SIGCHLD);
	for (size_t i = 0; i < f->nprocs; i++)
		if (f->procs[i] == p) {
			proc_drop(f, i);
			break;
		}
}

int vessel_orphan(struct eng_family *f, const img_head *h, struct eng_proc *by, const img_proc *m, struct error *e)
{
	int32_t tid = spare_number(h, m->pid);
	img_proc between = {.pid = tid, .ppid = by->vpid, .pgid = by->pgid, .sid = by->sid, .n_tids = 1, .tids = &tid, .uid = by->core->uid, .gid = by->core->gid, .blob = by->core->blob,
		.comm = ""};
	int r = vessel_child(f, by, &between, e);
	struct eng_proc *mid = r == 0 ? eng_proc_by_vpid(f, tid) : NULL;

	if (!mid)
		return r;
	r = vessel_child(f, mid, m, e);
	let_end(f, mid, by);
	return r;
}

/* Who has ended and was not waited for: a child that ends in the same way. Its parent's SIGCHLD is carried with the parent's pending signals. */
int vessel_zombie(struct eng_family *f, const img_head *h, const img_proc *m, struct error *e)
{
	struct eng_proc *parent = eng_proc_by_vpid(f, m->ppid), *p;
	img_proc full = *m;
	int32_t tid = m->pid;
	int r;

	if (!parent)
		return error_set(e, EPROTO, "image: ended process %d has no parent in the family", m->pid);
	full.uid = parent->core->uid; /* whoever it was */
	full.gid = parent->core->gid;
	full.n_groups = 0;
	full.n_tids = 1;
	full.tids = &tid;
	full.blob = parent->core->blob;
	r = vessel_child(f, parent, &full, e);
	p = r == 0 ? eng_proc_by_vpid(f, m->pid) : NULL;
	if (p) {
		vessel_group(p, m);
		for (size_t i = 0; i < h->n_proc && r == 0; i++) /* who is in its session has to be born in it */
			if (!h->proc[i]->zombie && h->proc[i]->sid == m->pid && !head_find(h, h->proc[i]->ppid) && !eng_proc_by_vpid(f, h->proc[i]->pid))
				r = vessel_child(f, p, h->proc[i], e);
		if (r < 0)
			return r;
		p->core->exit_sent = true;
		r = vessel_die(p, m->exit_status);
		hollow_drain(parent, p->vpid, p->core->exit_signal);
		if (r == 0)
			r = zombie_note(f, &(struct zombie){p->pid, p->vpid, m->ppid, m->pgid, m->sid, m->exit_status, p->core->exit_signal});
		for (size_t i = 0; i < f->nprocs; i++)
			if (f->procs[i] == p) {
				proc_drop(f, i);
				break;
			}
	}
	return r;
}

/* A group or session whose leader has long ended: somebody has to be it for the moment in which its members join. */
static int with_ghost(struct eng_family *f, struct eng_proc *member, const img_proc *m, struct error *e)
{
	const struct eng_proc_core *root = f->procs[0]->core;
	int32_t tid = m->pgid;
	img_proc ghost = {.pid = m->pgid, .ppid = f->procs[0]->vpid, .pgid = m->pgid, .sid = m->sid, .n_tids = 1, .tids = &tid, .uid = root->uid, .gid = root->gid,
		.blob = root->blob, .comm = ""};
	struct eng_proc *g;
	int r = vessel_child(f, f->procs[0], &ghost, e);

	g = r == 0 ? eng_proc_by_vpid(f, m->pgid) : NULL;
	if (!g)
		return r;
	r = vessel_group(g, &ghost);
	if (r == 0)
		r = vessel_group(member, m);
	let_end(f, g, f->procs[0]);
	return r;
}

int vessel_join(struct eng_family *f, const img_proc *m, struct error *e)
{
	struct eng_proc *p = eng_proc_by_vpid(f, m->pid);
	int r = p ? vessel_group(p, m) : -ESRCH;

	if (r == -EPERM && !eng_proc_by_vpid(f, m->pgid) && f->procs[0]->threads[0]->core->stopped) /* a hollow that waits can be nobody's parent now */
		r = with_ghost(f, p, m, e);
	return r < 0 ? error_set(e, -r, "process %d: its group %d or session %d cannot be made: %s", m->pid, m->pgid, m->sid, strerror(-r)) : 0;
}
