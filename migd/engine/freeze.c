// SPDX-License-Identifier: Apache-2.0
/*
 * Stopping a family: its processes, each by freeze_threads.c. It is let go again by thaw.c.
 *
 * Invariants
 * 1. Nobody runs when eng_freeze returns 0: lists of processes and threads are read again until a round finds nobody new; a stopped
 *    thread makes no other, so this ends.
 * 2. A signal on its way to a thread is not lost: a thread that stops for a delivery is let on with that signal until it stops for our interrupt.
 * 3. On failure everything that was stopped runs on with its own registers, mask and job-control state.
 * 4. Nobody is left seized: he would stop, some time, for nobody. So who is in an uninterruptible wait is not seized, and who got into one in that moment is waited
 *    for, however long that takes, when all others run again.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/log.h"
#include "migd/engine/inject.h"
#include "migd/engine/memory.h"
#include "migd/engine/nest.h"
#include "migd/engine/procfs.h"

enum { ATTEMPTS = 40, ATTEMPT_PAUSE_MS = 30, ATTEMPT_PAUSE_MOST_MS = 150, EXPLAINED_MS = 100 };

static int headless(pid_t vpid, struct error *e)
{
	return error_set(e, EOPNOTSUPP, "process %d: its first thread has ended while others run on: cannot be carried", vpid);
}

/* The leader first: its number is the process's. */
static int proc_order(struct eng_proc *p, struct error *e)
{
	for (unsigned i = 0; i < p->nthreads; i++)
		if (p->threads[i]->tid == p->pid) {
			struct eng_thread *t = p->threads[i];

			p->threads[i] = p->threads[0];
			p->threads[0] = t;
			return 0;
		}
	log_debug("engine: process %d: %u threads, first %d", p->pid, p->nthreads, p->nthreads ? p->threads[0]->tid : 0);
	return headless(p->vpid, e);
}

/* A member that has ended and waits for its parent to ask. 1: noted, 0: it is not one. */
int freeze_zombie(struct eng_family *f, pid_t pid, struct eng_proc *parent)
{
	_cleanup_close_ int dir = -1;
	struct zombie *bigger;
	struct procfs_stat st;
	char path[64];
	pid_t vpid;
	int depth;

	snprintf(path, sizeof(path), "/proc/%d", pid);
	dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (!parent || dir < 0 || procfs_stat(dir, &st) < 0 || st.state != 'Z' || procfs_headless(pid) || procfs_nspid(dir, "status", &vpid, &depth) < 0)
		return 0;
	for (size_t i = 0; i < f->nzombies; i++)
		if (f->zombies[i].pid == pid)
			return 1;
	bigger = realloc(f->zombies, (f->nzombies + 1) * sizeof(*bigger));
	if (!bigger)
		return -ENOMEM;
	f->zombies = bigger;
	bigger[f->nzombies++] = (struct zombie){pid, vpid, parent->vpid, st.pgid, st.sid, st.exit_code, st.exit_signal};
	return 1;
}

static int add_process(struct eng_family *f, pid_t pid, struct eng_proc *parent, struct error *e)
{
	struct eng_proc *p;
	char path[64];
	pid_t vpid;
	int depth, r;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	if (procfs_nspid(-100, path, &vpid, &depth) < 0)
		return -ESRCH;
	if (procfs_headless(pid))
		return headless(vpid, e);
	p = eng_proc_by_vpid(f, vpid);
	if (p && p->pid == pid && p->core->seen && p->nthreads)
		return 0;
	if (!p)
		p = proc_new(f, pid, vpid);
	if (!p)
		return -ENOMEM;
	p->pid = pid;
	p->parent = parent;
	p->core->seen = false;
	p->core->stop_sig = 0;
	r = proc_open(p);
	if (r == 0)
		r = freeze_process(p, e);
	if (r == 0)
		r = -ESRCH;
	if (r > 0)
		r = proc_identity(p);
	p->core->seen = r >= 0;
	return r < 0 ? r : 1;
}

/* Who ended while the lists were read, or (a guest family) since the last move. */
static void drop_unseen(struct eng_family *f)
{
	for (size_t i = f->nprocs; i-- > 1;)
		if (!f->procs[i]->core->seen)
			proc_drop(f, i);
}

/* Parents before children, as the destination makes them: a family that lived on since its last move may be out of order. */
void freeze_order(struct eng_family *f)
{
	for (size_t i = 1; i < f->nprocs; i++)
		for (size_t k = i + 1; k < f->nprocs; k++)
			if (f->procs[i]->parent == f->procs[k]) {
				struct eng_proc *p = f->procs[k];

				memmove(&f->procs[i + 1], &f->procs[i], (k - i) * sizeof(p));
				f->procs[i] = p;
				k = i;
			}
}

static int add_children(struct eng_family *f, pid_t of, struct eng_proc *parent, struct error *e)
{
	_cleanup_free_ pid_t *kids = NULL;
	ssize_t n = procfs_children(of, &kids);
	int fresh = 0;

	for (ssize_t k = 0; k < n; k++) {
		int r;

		if (!parent && nest_is_standin(f->nest, kids[k])) {
			r = add_children(f, kids[k], NULL, e);
			if (r < 0)
				return r;
			fresh += r;
			continue;
		}
		r = freeze_zombie(f, kids[k], parent);
		if (r > 0)
			continue;
		if (r == 0)
			r = add_process(f, kids[k], parent, e);
		if (r == -ESRCH) { /* it ends just now: not to be lost, another look */
			r = freeze_zombie(f, kids[k], parent) == 0 && parent && kill(kids[k], 0) == 0;
			if (r)
				sched_yield();
		}
		if (r < 0)
			return r;
		fresh += r > 0;
	}
	return fresh;
}

/*
 * All descendants; on a guest host also who was orphaned there, which are children of the keeper. Rounds until nobody new is found: threads of a stopped process
 * bear nobody any more.
 */
static int freeze_tree(struct eng_family *f, struct error *e)
{
	int fresh, r;

	do {
		fresh = 0;
		for (size_t i = 0; i < f->nprocs; i++) {
			if (!f->procs[i]->core->seen)
				continue;
			r = add_children(f, f->procs[i]->pid, f->procs[i], e);
			if (r < 0)
				return r;
			fresh += r;
		}
		if (f->nest) {
			r = add_children(f, f->nest->keeper, NULL, e);
			if (r < 0)
				return r;
			fresh += r;
		}
	} while (fresh);
	drop_unseen(f);
	freeze_order(f);
	return 0;
}

static void find_vdso(const struct maps *maps, uint64_t *start, uint64_t *end)
{
	for (size_t i = 0; maps && i < maps->n; i++)
		if (maps->m[i].kind == KIND_VDSO) {
			*start = maps->m[i].start;
			*end = maps->m[i].end;
		}
}

static int died(const struct eng_proc *p, struct error *e)
{
	return error_set(e, ESRCH, "process %d ended while it was stopped", p->vpid);
}

/* What each thread blocks by itself, and where it may run, before that is changed. */
static int threads_note(struct eng_family *f, struct error *e)
{
	for (size_t i = 0; i < f->nprocs; i++) {
		struct eng_proc *p = f->procs[i];
		int r = proc_order(p, e);

		if (r < 0)
			return r;
		for (unsigned k = 0; k < p->nthreads; k++) {
			if (ptrace(PTRACE_GETSIGMASK, p->threads[k]->tid, 8, &p->threads[k]->sigmask) < 0)
				return died(p, e);
			pin_note(p->threads[k]);
		}
	}
	return 0;
}

static int family_look(struct eng_family *f, struct eng_reasons *why, struct error *e)
{
	for (size_t i = 0; i < f->nprocs; i++) {
		struct eng_proc *p = f->procs[i];
		uint64_t mask = FROZEN_MASK, vdso = 0, vdso_end = 0;
		int r = 0;

		dump_look(p); /* once for all that is to come: nobody maps anything any more, but for us */
		find_vdso(dump_layout(p), &vdso, &vdso_end);
		for (unsigned k = 0; k < p->nthreads && r == 0; k++) {
			struct eng_thread *t = p->threads[k];

			if (ptrace(PTRACE_SETSIGMASK, t->tid, 8, &mask) < 0)
				r = -ESRCH;
			else
				t->core->masked = true;
			if (r == 0)
				r = regs_leave_vdso(t, vdso, vdso_end);
			if (r == 0)
				r = regs_frozen(t, why, e);
		}
		if (r < 0)
			return died(p, e);
		for (size_t k = 0; eng_res_table[k] && r == 0; k++)
			r = eng_res_table[k]->settled ? eng_res_table[k]->settled(p, e) : 0;
		if (r < 0)
			return r;
	}
	return 0;
}

/* Not in the freeze: it asks file servers. Of who has just called exec nothing: it remembers none. */
static char *look_at_devices(pid_t host)
{
	char path[40];
	_cleanup_close_ int dir = -1;
	_cleanup_free_ char *status = NULL;

	snprintf(path, sizeof(path), "/proc/%d", host);
	dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	status = dir < 0 ? NULL : eng_proc_read(dir, "status", NULL);
	return !status || (pid_t)strtol(eng_field(status, "TracerPid") ?: "0", NULL, 10) == gettid() ? NULL : dump_devices(dir);
}

static int freeze_all(struct eng_family *f, pid_t pid, struct eng_reasons *why, struct error *e)
{
	int r = add_process(f, pid, NULL, e);

	if (r >= 0 && !f->procs[0]->core->seen)
		r = -ESRCH;
	if (r >= 0)
		r = freeze_tree(f, e);
	if (r >= 0)
		r = threads_note(f, e);
	if (r >= 0 && f->hooks.standing)
		f->hooks.standing(f->hooks.ctx, f);
	if (r >= 0)
		r = family_look(f, why, e);
	if (r == -ESRCH)
		return f->nest ? error_set(e, ESRCH, "it has ended") : error_set(e, ESRCH, "no process %d", pid); /* a guest's number here says nothing to anybody */
	return r;
}

/* One try. On failure all runs on; *f is NULL again if it was new. */
static int attempt(struct eng_family **f, pid_t host, const struct eng_hooks *h, struct eng_reasons *why, struct error *e)
{
	int r;

	if (!*f)
		*f = family_new(h);
	else if (h)
		(*f)->hooks = *h;
	if (!*f)
		return error_set(e, ENOMEM, "no memory");
	(*f)->home = !(*f)->nest;
	(*f)->nzombies = 0;
	(*f)->cpu = 0;
	for (size_t i = 0; i < (*f)->nprocs; i++)
		(*f)->procs[i]->core->seen = false;
	(*f)->frozen_ns = clock_mono_ns();
	r = freeze_all(*f, host, why, e);
	if (r < 0) {
		bool nest = (*f)->nest;

		eng_thaw(*f);
		if (!nest)
			*f = NULL;
		return r;
	}
	(*f)->state = ENG_FROZEN;
	if ((*f)->nest) /* the next host takes all that are in the image for known */
		nest_tell_young(*f);
	return 0;
}

/*
 * A running process is looked at piece by piece, so that a reason may be an illusion (a descriptor that was another one a moment later): only what is there three
 * times counts.
 */
static int explain_first(struct eng_family *f, pid_t host, bool goes_home, struct eng_reasons *why, struct error *e)
{
	struct eng_reasons mine = {0};
	int r = 1;

	for (int i = 0; i < 3 && r == 1; i++) {
		if (i)
			nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
		eng_reasons_clear(&mine);
		r = explain_family(host, f && f->nest, goes_home, &mine, NULL, e);
	}
	if (r == 1) /* the first one in the words of the error too: not every caller asks for the list */
		r = error_set(e, EOPNOTSUPP, "cannot move: %s%s", mine.n ? mine.line[0] : "", mine.n > 1 ? " (and more: mig explain)" : "");
	if (why && !why->n)
		*why = mine;
	else
		eng_reasons_clear(&mine);
	return r;
}

/* Once. */
static bool just_explained(struct eng_family *f)
{
	bool is = f && f->explained_ns && clock_mono_ns() < f->explained_ns + EXPLAINED_MS * 1000000ULL;

	if (f)
		f->explained_ns = 0;
	return is;
}

static int attempts(struct eng_family **f, pid_t host, pid_t pid, const struct eng_hooks *h, struct eng_reasons *why, struct error *e)
{
	for (int i = 0;; i++) {
		struct error now = {0};
		int r = attempt(f, host, h, why, &now);

		if (r == 0)
			return 0;
		if ((r != -EBUSY && r != -ESRCH) || i == ATTEMPTS - 1 || (r == -ESRCH && kill(host, 0) < 0))
			return error_set(e, -r, "%s", now.text);
		int pause = (i + 1) * ATTEMPT_PAUSE_MS;

		nanosleep(&(struct timespec){.tv_nsec = (pause < ATTEMPT_PAUSE_MOST_MS ? pause : ATTEMPT_PAUSE_MOST_MS) * 1000000}, NULL);
		if (*f)
			nest_refreeze(*f, pid);
	}
}

int eng_freeze(pid_t pid, const struct eng_hooks *h, struct eng_family **out, struct eng_reasons *why, struct error *e)
{
	struct eng_family *f = *out;
	pid_t host = f && f->nest ? nest_refreeze(f, pid) : pid;
	bool ahead = f && !f->nest; /* from eng_precopy at home: ours to free when this fails */
	_cleanup_free_ char *devices = NULL;
	int r;

	precopy_current(f);
	r = host < 0 ? error_set(e, -host, "no process %d in this family", pid) : just_explained(f) ? 0 : explain_first(f, host, h && h->goes_home, why, e);
	if (r == 0 && !(f && f->devices))
		devices = look_at_devices(host);
	if (r < 0 && ahead)
		eng_thaw(f);
	else if (r == 0)
		r = attempts(&f, host, pid, h, why, e);
	if (r == 0 && !f->devices && !f->just_begun) {
		f->devices = devices;
		devices = NULL;
	}
	if (r == 0)
		*out = f;
	else if (ahead)
		*out = NULL;
	events_catch_up();
	return r;
}
