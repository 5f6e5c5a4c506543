// SPDX-License-Identifier: Apache-2.0
/*
 * From image to running family: vessels on a guest host (eng_nest) or hollows at home take what the image has (eng_fill), wait parked, and run (eng_resume).
 *
 * A vessel's way: child of the keeper -> seized -> blob in -> threads with their numbers -> records -> finish of every module -> parked -> true registers.
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
#include "conf/clock.h"
#include "conf/log.h"
#include "migd/engine/adopt.h"
#include "migd/engine/devices.h"
#include "migd/engine/inject.h"
#include "migd/engine/memory.h"
#include "migd/engine/nest.h"
#include "migd/engine/res_signals.h"
#include "migd/engine/res_util.h"

static int check_head(const img_head *h, struct error *e)
{
	const char *missing;

	if (!h || h->version != ENG_VERSION || !h->n_proc)
		return error_set(e, EPROTO, "image: no head, or of another version of sprite");
	missing = eng_cpu_missing(h->cpu, NULL);
	if (missing)
		return error_set(e, EOPNOTSUPP, "this processor has no %s", missing);
	if (h->page_size != (uint64_t)sysconf(_SC_PAGESIZE))
		return error_set(e, EOPNOTSUPP, "this host has another page size");
	if (h->vdso && h->vdso != vdso_sum())
		return error_set(e, EOPNOTSUPP, "another kernel runs here (its vdso differs): the same kernel build is needed");
	if (*h->devices && !devices_valid(h->devices))
		return error_set(e, EPROTO, "image: the numbers of file systems are not what they should be");
	if (h->n_xsave % 3 || h->n_xsave > XSAVE_PARTS * 3)
		return error_set(e, EPROTO, "image: the processor's layout is not what it should be");
	for (size_t i = 0; i < h->n_proc; i++)
		if (h->proc[i]->zombie ? i == 0 || h->proc[i]->pid <= 1 : !h->proc[i]->n_tids || h->proc[i]->tids[0] != h->proc[i]->pid || h->proc[i]->pid <= 1 || h->proc[i]->n_tids > 10000)
			return error_set(e, EPROTO, "image: process %d is not what it should be", h->proc[i]->pid);
	return 0;
}

static int read_head(struct eng_image *in, img_head **h, struct error *e)
{
	struct image_rec rec;
	const void *body;
	int r = image_next(in, &rec, &body);

	if (r < 0 || rec.type != IMG_HEAD)
		return error_set(e, r < 0 ? -r : EPROTO, "the image has no head: %s", strerror(r < 0 ? -r : EPROTO));
	*h = sprite__image__img_head__unpack(NULL, rec.len, body);
	return check_head(*h, e);
}

static void take_layout(struct eng_family *f, const img_head *h)
{
	f->n_xsave = h->n_xsave / 3;
	if (h->n_xsave)
		memcpy(f->xsave, h->xsave, h->n_xsave * sizeof(*h->xsave));
}

/*
 * The family's clocks here: the home's when the image was begun, and how long ago that was, by the calendar that both hosts share. A difference that cannot
 * be travel time is one between their clocks: none then.
 */
static void set_offsets(struct eng_family *f, const img_head *h)
{
	struct clocks now;

	clocks_read(&now);
	int64_t travel = (int64_t)(now.real - h->real);

	if (travel < 0 || travel > 10000000000LL)
		travel = 0;
	f->mono_offset = (int64_t)(h->mono + travel - now.mono);
	f->boot_offset = (int64_t)(h->boot + travel - now.boot);
}

/* The family's clock never goes back: who comes to a clock that is behind waits until it is not (offsets of calendars are small). */
static void wait_for_clock(struct eng_family *f)
{
	struct clocks now;

	for (int i = 0; i < 2000 && (clocks_read(&now), now.mono + f->mono_offset < f->not_before); i++)
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static int make_family(struct eng_family *f, const img_head *h, struct error *e)
{
	int r = vessel_root(f, h->proc[0], e);

	if (r == 0)
		r = vessels_make(f, h, e);
	/* leaders first: who joins a group needs it to be there */
	for (int pass = 0; pass < 2; pass++)
		for (size_t i = 1; i < h->n_proc && r == 0; i++)
			if (!h->proc[i]->zombie && (h->proc[i]->pgid == h->proc[i]->pid) == (pass == 0))
				r = vessel_join(f, h->proc[i], e);
	return r;
}

int eng_nest(int fd, struct nest *nest, const struct eng_hooks *hooks, struct eng_family **out, struct error *e)
{
	struct eng_image *in = image_reader(fd);
	struct eng_family *f = family_new(hooks);
	struct pin_self was;
	img_head *h = NULL;
	int r = in && f ? read_head(in, &h, e) : error_set(e, ENOMEM, "no memory");

	if (r == 0) {
		f->head_hostname = strdup(h->hostname);
		f->devices = *h->devices ? strdup(h->devices) : NULL;
		set_offsets(f, h);
		take_layout(f, h);
		r = nest_settle(f, nest, f->mono_offset, f->boot_offset, e);
	}
	if (r == 0) {
		pin_self(f, &was);
		r = make_family(f, h, e);
		pin_self_end(&was);
	}
	sprite__image__img_head__free_unpacked(h, NULL);
	image_free(in);
	if (r < 0) {
		if (f && f->nest)
			nest_kill(f->nest);
		else
			eng_nest_drop(nest);
		family_free(f);
		return r;
	}
	f->state = ENG_NESTED;
	*out = f;
	return 0;
}

static int second_head(struct eng_family *f, const void *body, size_t len, struct error *e)
{
	img_head *h = sprite__image__img_head__unpack(NULL, len, body);
	int r = check_head(h, e);

	if (r == 0) {
		f->not_before = h->mono;
		take_layout(f, h);
		r = vessels_reconcile(f, h, e);
	}
	if (r == 0)
		for (size_t i = 1; i < h->n_proc && r == 0; i++)
			if (!h->proc[i]->zombie)
				r = vessel_join(f, h->proc[i], e);
	sprite__image__img_head__free_unpacked(h, NULL);
	return r < 0 ? error_set(e, -r, "the vessels cannot be made as the second head says: %s", strerror(-r)) : 0;
}

static int revive(struct eng_family *f, struct eng_image *in, struct error *e)
{
	img_head *h = NULL;
	int r = read_head(in, &h, e);

	f->cpu = 0; /* of where we are now */
	for (size_t i = 0; i < f->nprocs; i++)
		f->procs[i]->core->stood = f->procs[i]->core->stop_sig;
	if (r == 0 && f->adopted)
		r = adopt_clock(h, e);
	if (r == 0)
		r = hollow_stop_all(f);
	if (r == 0) {
		f->not_before = h->mono;
		take_layout(f, h);
		r = vessels_reconcile(f, h, e);
	}
	for (size_t i = 0; r == 0 && i < h->n_proc; i++) { /* who has become leader of a session or joined a group away */
		struct error why = {0};

		if (!h->proc[i]->zombie && !h->ahead && vessel_join(f, h->proc[i], &why) < 0)
			log_warn("engine: %s", why.text);
	}
	sprite__image__img_head__free_unpacked(h, NULL);
	return r < 0 ? error_set(e, -r, "the hollows cannot be made ready: %s", strerror(-r)) : 0;
}

/* ---- placeholders ----------------------------------------------------------------------------------- */
static struct eng_proc *living_hollow(struct eng_family *f, pid_t vpid)
{
	struct eng_proc *p = eng_proc_by_vpid(f, vpid);

	if (p && !p->core->dead)
		return p;
	for (size_t i = 0; i < f->nprocs; i++) /* its parent has ended: any of the family will do, it will not wait for it */
		if (!f->procs[i]->core->dead)
			return f->procs[i];
	return NULL;
}

int eng_hollow_born(struct eng_family *f, const struct eng_event *b, struct error *e)
{
	int32_t tid = b->pid;
	img_proc m = {.pid = b->pid, .ppid = b->ppid, .pgid = b->pgid, .sid = b->sid, .n_tids = 1, .tids = &tid, .comm = (char *)b->comm, .exit_signal = b->exit_signal};
	struct eng_proc *parent = living_hollow(f, b->ppid), *p = eng_proc_by_vpid(f, b->pid);
	struct blob_slot slot = {.taken = (uint32_t)clock_mono_ns(), .vtid = b->pid};
	size_t known;
	bool waits;
	int r;

	if (f->nest || f->state != ENG_HOLLOW)
		return -EBUSY;
	if (p && !p->core->dead)
		return 0;
	for (size_t i = 0; p && i < f->nprocs; i++) /* it had that number before */
		if (f->procs[i] == p) {
			proc_drop(f, i);
			break;
		}
	if (!parent)
		return error_set(e, ESRCH, "no hollow is left");
	if (parent->core->stop_sig)
		return error_set(e, EAGAIN, "hollow %d is stopped", parent->vpid);
	waits = !parent->threads[0]->core->stopped;
	r = hollow_stop_one(parent);
	if (r < 0)
		return error_set(e, -r, "hollow %d cannot be stopped", parent->vpid);
	m.blob = parent->core->blob;
	known = f->nprocs;
	r = vessel_child(f, parent, &m, e);
	p = f->nprocs > known ? f->procs[f->nprocs - 1] : NULL;
	if (r == 0) {
		vessel_join(f, &m, NULL); /* a group whose leader is not here: it stays in its parent's */
		hollow_call_it(p, b->comm);
		inject_transfer_close(p);
		r = (int)ENG_SYS(p->threads[0], SYS_close_range, 0, ~0U, 0); /* what its parent has is not for it to keep open */
		if (r == 0)
			r = eng_poke(p, p->threads[0]->core->slot, &slot, sizeof(slot));
		if (r == 0)
			r = inject_set_mode(p, BLOB_WATCH);
		if (r == 0)
			r = hollow_watch_one(p);
	}
	if (r < 0 && p) { /* half made: nobody shall see it */
		p->core->exit_sent = true;
		vessel_die(p, SIGKILL);
		hollow_reap_zombie(parent, b->pid, p->core->exit_signal);
		proc_drop(f, f->nprocs - 1);
	}
	if (waits)
		hollow_watch_one(parent);
	return r < 0 ? error_set(e, -r, "hollow %d cannot be made: %s", b->pid, strerror(-r)) : r;
}

/* ---- records ----------------------------------------------------------------------------------------- */
static int dispatch(struct eng_family *f, const struct image_rec *rec, const void *body, struct error *e)
{
	struct eng_proc *p = rec->vpid ? eng_proc_by_vpid(f, rec->vpid) : NULL;

	if (rec->vpid && !p)
		return error_set(e, EPROTO, "image: a record of process %d, which is not in its head", rec->vpid);
	for (size_t k = 0; eng_res_table[k]; k++) {
		const struct eng_res *m = eng_res_table[k];

		if (m->fill && rec->type >= m->types[0] && rec->type <= m->types[1]) {
			int r = m->fill(f, p, rec->type, body, rec->len, e);

			log_debug("engine: fill of %s, record %u: %d", m->name, rec->type, r);
			return r;
		}
	}
	return error_set(e, EPROTO, "image: a record of unknown type %u", rec->type);
}

static int finish_all(struct eng_family *f, struct error *e)
{
	int r = 0;

	for (size_t k = 0; eng_res_table[k] && r == 0; k++)
		for (size_t i = 0; i < f->nprocs && r == 0 && eng_res_table[k]->finish; i++) {
			eng_scratch_reset(f->procs[i]);
			r = eng_res_table[k]->finish(f->procs[i], e);
			log_debug("engine: finish of %s of %d: %d", eng_res_table[k]->name, f->procs[i]->vpid, r);
			if (r < 0)
				error_set(e, -r, "process %d: %s cannot be restored: %s", f->procs[i]->vpid, eng_res_table[k]->name, strerror(-r));
		}
	return r;
}

int eng_fill(struct eng_family *f, int fd, const struct eng_hooks *hooks, struct error *e)
{
	struct eng_image *in = image_reader(fd);
	struct pin_self was = {0};
	bool ahead = false, first = true;
	struct image_rec rec;
	const void *body;
	int r = in ? 0 : error_set(e, ENOMEM, "no memory");

	if (hooks)
		f->hooks = *hooks;
	if (r == 0 && f->state == ENG_HOLLOW)
		r = revive(f, in, e);
	while (r == 0) {
		r = image_next(in, &rec, &body);
		if (r < 0)
			error_set(e, -r, "the image ends too early: %s", strerror(-r));
		if (r < 0 || rec.type == IMG_END)
			break;
		ahead = first ? rec.type == IMG_PRE_MM : ahead && rec.type != IMG_HEAD;
		first = false;
		if (!ahead && !was.n) /* its source stands still */
			pin_self(f, &was);
		if (rec.type == IMG_READY && f->hooks.ahead_done)
			f->hooks.ahead_done(f->hooks.ctx);
		else if (rec.type == IMG_HEAD)
			r = second_head(f, body, rec.len, e);
		else
			r = dispatch(f, &rec, body, e);
	}
	if (r == 0)
		r = finish_all(f, e);
	for (size_t i = 0; i < f->nprocs && r == 0; i++) {
		inject_transfer_close(f->procs[i]);
		for (unsigned k = 0; k < f->procs[i]->nthreads && r == 0; k++) {
			struct eng_thread *t = f->procs[i]->threads[k];
			struct blob_slot s = {.taken = (uint32_t)clock_mono_ns(), .vtid = t->vtid, .sigmask = t->sigmask, .regs = t->regs, .ncpus = t->core->ncpus};

			memcpy(s.cpus, t->core->cpus, sizeof(s.cpus));
			r = eng_poke(f->procs[i], t->core->slot, &s, sizeof(s));
			if (r == 0)
				r = inject_park(t);
		}
	}
	pin_self_end(&was);
	image_free(in);
	if (r == 0) {
		f->state = ENG_FILLED;
		nest_all_known(f);
	}
	return r < 0 ? error_set(e, -r, "the vessels cannot be filled: %s", strerror(-r)) : 0;
}

enum { STOPS_MS = 1000 }; /* one that is held by something else stops later, and says so once more */

/* ---- go ----------------------------------------------------------------------------------------------- */
/* When all its threads have stopped the kernel has a report for the parent. With `flags`: whether it is left there. */
static int stop_report(struct eng_proc *parent, struct eng_proc *p, int flags)
{
	siginfo_t si = {0};
	uint64_t at;
	long r;

	eng_scratch_reset(parent);
	at = eng_scratch_put(parent, &si, sizeof(si));
	r = ENG_SYS(parent->threads[0], SYS_waitid, P_PID, p->vpid, at, WSTOPPED | WNOHANG | __WALL | flags, 0);
	if (r == 0)
		r = eng_peek(parent, at, &si, sizeof(si));
	return r < 0 ? r : si.si_pid != 0;
}

static bool all_stopped(const struct eng_proc *p)
{
	_cleanup_free_ pid_t *task = NULL;
	ssize_t n = procfs_tasks(p->pid, &task);

	for (ssize_t i = 0; i < n; i++) {
		char name[40];
		struct procfs_stat st;

		snprintf(name, sizeof(name), "task/%d", task[i]);
		_cleanup_close_ int dir = openat(p->dir, name, O_PATH | O_DIRECTORY | O_CLOEXEC);

		if (dir >= 0 && procfs_stat(dir, &st) == 0 && st.state != 'T')
			return false;
	}
	return n > 0;
}

/* For a stop that is none its parent, who has not been let go of yet, shall not get another SIGCHLD (chld: has it one waiting?), nor a report if it has taken that before. */
static void stop_told(struct eng_proc *p, struct eng_proc *parent, bool chld)
{
	int r = 0;

	for (int i = 0; i < STOPS_MS && (r = stop_report(parent, p, WNOWAIT)) == 0; i++) {
		if (all_stopped(p)) { /* as a hollow stands already: then there is no report but of that */
			r = stop_report(parent, p, WNOWAIT);
			break;
		}
		nanosleep(&(struct timespec){.tv_nsec = i < 20 ? 50000 : 1000000}, NULL);
	}
	if (r > 0 && p->core->stop_taken)
		stop_report(parent, p, 0);
	if (r > 0 && !chld)
		hollow_drain(parent, p->vpid, SIGCHLD);
}

static void release_one(struct eng_proc *p)
{
	struct eng_proc *parent = p->parent && p->parent->core->blob_in ? p->parent : NULL;
	bool stops, chld = parent && p->core->stop_sig && thaw_waits(parent, SIGCHLD);

	for (unsigned k = 0; k < p->nthreads; k++)
		if (p->threads[k]->core->has_remaining)
			regs_rearm(p->threads[k]);
	thaw_unblob(p, &p->threads[0]->regs);
	stops = thaw_stop(p);
	for (unsigned k = 0; k < p->nthreads; k++) {
		p->threads[k]->core->frozen = p->threads[k]->regs;
		p->threads[k]->core->looked = p->threads[k]->core->masked = true;
		thaw_thread(p->threads[k]);
	}
	if (stops && parent)
		stop_told(p, parent, chld);
}

/* Parents last. */
int eng_release_threads(struct eng_family *f)
{
	for (size_t i = f->nprocs; i-- > 0;)
		release_one(f->procs[i]);
	return 0;
}

void eng_queue_open(struct eng_family *f)
{
	for (size_t i = 0; i < f->nprocs && f->state == ENG_FILLED; i++)
		if (!f->procs[i]->core->dead)
			signals_queue_open(f->procs[i]);
}

int eng_queue_put(struct eng_family *f, pid_t pid, pid_t tid, const siginfo_t *info)
{
	struct eng_proc *p = f->state == ENG_FILLED && sigqueue_needed(info) ? eng_proc_by_vpid(f, pid) : NULL;
	struct eng_thread *t = p && !p->core->dead && p->nthreads ? (tid ? res_thread_by_vtid(p, tid) : p->threads[0]) : NULL;

	return t ? sigqueue_put(t, tid == 0, info) : -EINVAL;
}

void eng_queue_close(struct eng_family *f)
{
	for (size_t i = 0; i < f->nprocs && f->state == ENG_FILLED; i++)
		if (!f->procs[i]->core->dead)
			signals_queue_close(f->procs[i]);
}

int eng_resume(struct eng_family *f, struct error *e)
{
	struct pin_self was;

	/* Parked: found again after a restart; the caller's journal knows that it had been filled. */
	if (f->state != ENG_FILLED && f->state != ENG_PARKED)
		return error_set(e, EINVAL, "resume of a family that is %s", eng_state_name(f));
	wait_for_clock(f);
	pin_self(f, &was);
	for (size_t k = 0; eng_res_table[k]; k++)
		for (size_t i = 0; i < f->nprocs && eng_res_table[k]->resume; i++) {
			eng_scratch_reset(f->procs[i]);
			eng_res_table[k]->resume(f->procs[i]);
		}
	eng_release_threads(f);
	pin_self_end(&was);
	if (f->nest)
		nest_running(f);
	else
		family_free(f);
	return 0;
}

int eng_abandon(struct eng_family *f)
{
	struct error e = {0};

	if (f->adopted) /* its home has it still */
		return eng_discard(f);
	if (!f->nest)
		return eng_hollow(f, &e);
	nest_kill(f->nest);
	family_free(f);
	return 0;
}
