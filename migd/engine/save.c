// SPDX-License-Identifier: Apache-2.0
/*
 * Finding hollows, parked families and nests again after migd was restarted.
 *
 * eng_save() writes one fact a line. eng_reattach() believes of it only what it can check: a process is the same if its start time is; whether it is parked,
 * hollow or runs is read from the process itself (the blob's head and slots), because the text may be older than that.
 *
 *   kind home|nest|adopted MONO BOOT HOSTNAME      nest NAME PID START      device MAJOR:MINOR POINT (devices.h)
 *   proc VPID PID START BLOB PPID PGID SID STOP CAPS UID GID PARENT
 *   thread VTID TID SLOT MASK CPUS         (of the proc before it; the last two count if it was stopped then; "-": not noted)
 *   what modules keep of a family that is away (eng_res.save)
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/log.h"
#include "migd/engine/inject.h"
#include "migd/engine/memory.h"
#include "migd/engine/nest.h"
#include "migd/engine/res_signals.h"
#include "migd/engine/res_util.h"

static uint64_t start_of(pid_t pid)
{
	struct procfs_stat st = {0};
	char path[64];
	_cleanup_close_ int dir = -1;

	snprintf(path, sizeof(path), "/proc/%d", pid);
	dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return dir >= 0 && procfs_stat(dir, &st) == 0 ? st.start : 0;
}

/* Not as a zombie. */
static bool alive(pid_t pid, unsigned long start)
{
	struct procfs_stat st = {0};
	char path[64];
	_cleanup_close_ int dir = -1;

	snprintf(path, sizeof(path), "/proc/%d", pid);
	dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return start && dir >= 0 && procfs_stat(dir, &st) == 0 && st.start == start && st.state != 'Z' && st.state != 'X';
}

static void put_thread(FILE *o, const struct eng_thread *t)
{
	const struct eng_thread_core *c = t->core;

	fprintf(o, "thread %d %d %lx %lx ", t->vtid, t->tid, (long)c->slot, (long)t->sigmask);
	for (unsigned i = 0; i < c->nnoted; i++)
		fprintf(o, "%02x", c->cpus[i]);
	fputs(c->nnoted ? "\n" : "-\n", o);
}

int eng_save(const struct eng_family *f, char **text)
{
	size_t len;
	FILE *o = open_memstream(text, &len);

	if (!o)
		return -ENOMEM;
	fprintf(o, "kind %s %ld %ld %s\n", f->nest ? "nest" : f->adopted ? "adopted" : "home", (long)f->mono_offset, (long)f->boot_offset,
		f->head_hostname ? f->head_hostname : "-");
	if (f->nest)
		fprintf(o, "nest %s %d %lu\n", f->nest->name, f->nest->keeper, (long)start_of(f->nest->keeper));
	for (const char *l = f->nest && f->devices ? f->devices : ""; *l; l = strchr(l, '\n') + 1)
		fprintf(o, "device %.*s\n", (int)strcspn(l, "\n"), l);
	for (size_t i = 0; i < f->nprocs; i++) {
		const struct eng_proc *p = f->procs[i];
		const struct eng_proc_core *c = p->core;

		if (c->dead)
			continue;
		fprintf(o, "proc %d %d %lu %lx %d %d %d %d %d %u %u %d\n", p->vpid, p->pid, (long)start_of(p->pid), (long)c->blob,
			f->nest ? c->home_ppid : p->ppid, f->nest ? c->home_pgid : p->pgid, f->nest ? c->home_sid : p->sid, c->stop_sig, c->caps, c->uid,
			c->gid, p->parent ? p->parent->vpid : 0);
		for (unsigned k = 0; k < p->nthreads; k++)
			put_thread(o, p->threads[k]);
	}
	for (size_t k = 0; eng_res_table[k]; k++)
		if (eng_res_table[k]->save)
			eng_res_table[k]->save(f, o);
	return fclose(o) ? -ENOMEM : 0;
}

/* ---- reading ---------------------------------------------------------------------------------------- */
/* *skipped: it has ended, and the lines of its threads mean nothing. */
static int read_proc(struct eng_family *f, const char *l, bool *skipped, struct error *e)
{
	int vpid, pid, ppid, pgid, sid, stop, caps, parent;
	unsigned long start, blob;
	unsigned uid, gid;
	struct eng_proc *p;

	if (sscanf(l, "proc %d %d %lu %lx %d %d %d %d %d %u %u %d", &vpid, &pid, &start, &blob, &ppid, &pgid, &sid, &stop, &caps, &uid, &gid, &parent) != 12)
		return error_set(e, EPROTO, "saved state: %s", l);
	/* In a nest, who has not been waited for counts as there: the news of his end is still to come. That of others comes with nest_hello(), if home does not have it. */
	*skipped = f->nest ? !start || start_of(pid) != start : !alive(pid, start);
	if (*skipped && f->nest)
		return 0;
	p = proc_new(f, pid, vpid);
	if (!p)
		return error_set(e, ENOMEM, "no memory");
	p->ppid = p->core->home_ppid = ppid;
	p->pgid = p->core->home_pgid = pgid;
	p->sid = p->core->home_sid = sid;
	p->parent = eng_proc_by_vpid(f, parent);
	p->core->blob = blob;
	p->core->stop_sig = stop;
	p->core->caps = caps;
	p->core->uid = uid;
	p->core->gid = gid;
	if (!*skipped && proc_open(p) == 0)
		return 0;
	if (f->nest) { /* in this very moment */
		*skipped = true;
		return 0;
	}
	*skipped = p->core->dead = true; /* nobody saw its end: only SIGKILL ends a hollow that we do not end */
	event_push(f, &(struct eng_event){.kind = ENG_EXITED, .pid = vpid, .status = SIGKILL});
	return 0;
}

static int read_thread(struct eng_family *f, const char *l, struct error *e)
{
	struct eng_thread *t;
	unsigned long slot, mask = FROZEN_MASK;
	char cpus[2 * BLOB_CPUS + 1] = "";
	int vtid, tid;

	if (!f->nprocs || sscanf(l, "thread %d %d %lx %lx %256[0-9a-f]", &vtid, &tid, &slot, &mask, cpus) < 3) /* three: of an older migd */
		return error_set(e, EPROTO, "saved state: %s", l);
	t = thread_new(f->procs[f->nprocs - 1], tid, vtid);
	if (!t)
		return error_set(e, ENOMEM, "no memory");
	t->core->slot = slot;
	t->sigmask = mask;
	while (sscanf(cpus + 2 * t->core->nnoted, "%2hhx", &t->core->cpus[t->core->nnoted]) == 1)
		t->core->nnoted++;
	return 0;
}

static int read_device(struct eng_family *f, const char *l)
{
	char *more = NULL;

	if (asprintf(&more, "%s%s\n", f->devices ? f->devices : "", l) < 0)
		return -ENOMEM;
	free(f->devices);
	f->devices = more;
	return 0;
}

static int read_lines(struct eng_family *f, const char *state, struct error *e)
{
	_cleanup_free_ char *copy = strdup(state);
	bool skipped = false;
	char *save = NULL;
	int r = copy ? 0 : -ENOMEM;

	for (char *l = strtok_r(copy, "\n", &save); l && r == 0; l = strtok_r(NULL, "\n", &save)) {
		char kind[16], host[65], name[64];
		long mono, boot;
		unsigned long start;
		int pid;

		if (sscanf(l, "kind %15s %ld %ld %64s", kind, &mono, &boot, host) == 4) {
			f->adopted = !strcmp(kind, "adopted");
			f->home = f->adopted || !strcmp(kind, "home");
			f->mono_offset = mono;
			f->boot_offset = boot;
			f->head_hostname = strcmp(host, "-") ? strdup(host) : NULL;
		} else if (sscanf(l, "nest %63s %d %lu", name, &pid, &start) == 3) {
			r = start && start_of(pid) == start ? nest_attach(f, name, pid, e) : error_set(e, ESRCH, "the nest has ended");
		} else if (!strncmp(l, "device ", 7)) {
			r = read_device(f, l + 7);
		} else if (!strncmp(l, "proc ", 5)) {
			r = read_proc(f, l, &skipped, e);
		} else if (!strncmp(l, "thread ", 7)) {
			r = skipped ? 0 : read_thread(f, l, e);
		} /* else a module's: read_modules() */
	}
	for (size_t i = 0; i < f->nprocs && r == 0; i++)
		if (!f->procs[i]->core->dead)
			return 0;
	return r < 0 || f->nest ? r : error_set(e, ESRCH, "no process of the family is left");
}

/* What modules keep, once it is known whether the family is away. */
static int read_modules(struct eng_family *f, const char *state, bool hollow, struct error *e)
{
	_cleanup_free_ char *copy = strdup(state);
	char *save = NULL;

	for (char *l = strtok_r(copy, "\n", &save); l; l = strtok_r(NULL, "\n", &save))
		for (size_t k = 0; eng_res_table[k]; k++) {
			int r = eng_res_table[k]->restore ? eng_res_table[k]->restore(f, l, hollow) : 0;

			if (r < 0)
				return error_set(e, -r, "saved state: %s: %s", l, strerror(-r));
			if (r)
				break;
		}
	return copy ? 0 : error_set(e, ENOMEM, "no memory");
}

/* ---- looking ---------------------------------------------------------------------------------------- */
int blob_find(struct eng_proc *p, struct blob_head *head, const struct maps *maps)
{
	for (size_t i = 0; i < maps->n; i++) {
		uint64_t base = maps->m[i].start;

		if (maps->m[i].end - base != 0x1000 || maps->m[i].kind != KIND_ANON || eng_peek(p, base + BLOB_HEAD, head, sizeof(*head)) < 0)
			continue;
		if (head->magic != BLOB_MAGIC || head->vpid != p->vpid || head->nslots > 100000)
			continue;
		p->core->blob = base;
		p->core->nslots = head->nslots;
		p->core->blob_in = true;
		memcpy(&p->core->trap, head->trap, sizeof(p->core->trap));
		return 1;
	}
	return 0;
}

/* Seized: its stop. Not inject_wait(): one whose group is stopped answers with that stop, for ever, and is not to run on from it. */
static int await_found(struct eng_thread *t)
{
	int st;

	for (;;) {
		pid_t r = waitpid(t->tid, &st, __WALL);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0 || !WIFSTOPPED(st)) {
			t->core->gone = true;
			t->proc->core->dead |= t == t->proc->threads[0];
			return -ESRCH;
		}
		if (st >> 16 == PTRACE_EVENT_STOP && WSTOPSIG(st) != SIGTRAP)
			t->proc->core->stop_sig = WSTOPSIG(st);
		if (st >> 16 || (WSTOPSIG(st) != SIGSTOP && WSTOPSIG(st) != SIGTSTP && WSTOPSIG(st) != SIGTTIN && WSTOPSIG(st) != SIGTTOU))
			break;
		ptrace(PTRACE_CONT, t->tid, 0, WSTOPSIG(st)); /* about to stop its group */
	}
	t->core->stopped = true;
	return 0;
}

/* Stopped; migd died when it was not in the blob, and it ran on: on one processor, or with all its signals waiting, perhaps. What it is to have when it is let go. */
static int ran_on(struct eng_thread *t, uint64_t mask)
{
	uint64_t frozen = FROZEN_MASK;
	struct error e = {0};

	if (ptrace(PTRACE_GETSIGMASK, t->tid, 8, &t->sigmask) < 0 || ptrace(PTRACE_SETSIGMASK, t->tid, 8, &frozen) < 0)
		return -ESRCH;
	if (t->sigmask == FROZEN_MASK)
		t->sigmask = mask;
	t->core->masked = true;
	pin_left(t);
	return regs_frozen(t, NULL, &e);
}

/* Nothing has been put into p, or nothing is left in it. Were its threads stopped already? */
static void let_run(struct eng_proc *p)
{
	for (unsigned i = 0; i < p->nthreads; i++) {
		struct eng_thread *t = p->threads[i];
		uint64_t mask = t->sigmask;
		char path[64];

		snprintf(path, sizeof(path), "task/%d/status", t->tid);
		_cleanup_free_ char *status = eng_proc_read(p->dir, path, NULL);

		if ((mask == FROZEN_MASK || res_field_u64(status, "SigBlk", 16, 0) != FROZEN_MASK) && !pin_left(t))
			continue;
		if (inject_seize(t) < 0)
			continue;
		t->core->how = PTRACE_CONT;
		if (await_found(t) == 0 && ran_on(t, mask) == 0)
			thaw_thread(t);
	}
}

static int take_thread(struct eng_thread *t)
{
	struct eng_proc_core *c = t->proc->core;
	struct blob_slot s;
	struct {
		uint64_t ptr;
		uint32_t size, signature, flags, pad;
	} conf = {0};
	int r = 0;

	for (unsigned i = 0; i < c->nslots; i++)
		if (eng_peek(t->proc, blob_slot_addr(c->blob, i), &s, sizeof(s)) == 0 && s.vtid == t->vtid) {
			t->core->slot = blob_slot_addr(c->blob, i);
			break;
		}
	r = inject_seize(t);
	if (r < 0)
		return r;
	t->core->how = PTRACE_CONT;
	r = await_found(t);
	if (r < 0)
		return r;
	inject_filters_sleep(t);
	r = regs_get(t, &t->regs);
	if (r < 0 || !t->core->slot || t->regs.rip - c->blob >= BLOB_HEAD)
		return r < 0 ? r : ran_on(t, t->core->slot ? s.sigmask : t->sigmask);
	t->regs = s.regs;
	if ((long)t->regs.rax == -516 && (long)t->regs.orig_rax >= 0) /* its restart block may be of another task: the call is made again */
		t->regs.rax = -514;
	t->core->frozen = t->regs;
	t->core->ncpus = s.ncpus <= sizeof(s.cpus) ? s.ncpus : 0;
	memcpy(t->core->cpus, s.cpus, sizeof(s.cpus));
	t->sigmask = s.sigmask;
	t->core->looked = t->core->masked = true;
	if (ptrace(0x420f /* PTRACE_GET_RSEQ_CONFIGURATION */, t->tid, sizeof(conf), &conf) == sizeof(conf) && conf.ptr) {
		t->core->rseq = conf.ptr;
		t->core->rseq_len = conf.size;
		t->core->rseq_sig = conf.signature;
	}
	return 0;
}

/* A descriptor that pre-copy had made in it (no program that has one of its own is moved). */
static void close_watch(struct eng_proc *p)
{
	_cleanup_close_ int dir = openat(p->dir, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = dir < 0 ? NULL : fdopendir(dir);
	const struct dirent *de;
	char what[64];

	if (!d)
		return;
	dir = -1;
	while ((de = readdir(d))) {
		ssize_t n = readlinkat(dirfd(d), de->d_name, what, sizeof(what) - 1);

		what[n < 0 ? 0 : n] = 0;
		if (!strcmp(what, "anon_inode:[userfaultfd]"))
			ENG_SYS(p->threads[0], SYS_close, atoi(de->d_name));
	}
	closedir(d);
}

/* Those of the text may be older; of who is there still it is known what he had when he was stopped. */
static int threads_anew(struct eng_proc *p)
{
	unsigned n = p->nthreads;
	struct told {
		pid_t tid;
		uint64_t mask;
		struct eng_thread_core core;
	} *told = calloc(n + 1, sizeof(*told));
	int r;

	if (!told)
		return -ENOMEM;
	for (unsigned i = 0; i < n; i++)
		told[i] = (struct told){p->threads[i]->tid, p->threads[i]->sigmask, *p->threads[i]->core};
	while (p->nthreads)
		thread_drop(p, p->nthreads - 1);
	r = proc_threads(p);
	for (unsigned i = 0; i < p->nthreads; i++) {
		struct eng_thread *t = p->threads[i];

		t->sigmask = FROZEN_MASK;
		for (unsigned k = 0; k < n; k++)
			if (told[k].tid == t->tid) {
				t->sigmask = told[k].mask;
				t->core->nnoted = told[k].core.nnoted;
				memcpy(t->core->cpus, told[k].core.cpus, sizeof(t->core->cpus));
			}
	}
	free(told);
	return r;
}

/* What state p is in, and if it is ours: caught. */
static int take_proc(struct eng_proc *p, struct error *e, enum eng_state *state)
{
	struct blob_head head;
	struct procfs_stat st;
	struct maps *maps;
	int r = procfs_maps(p->dir, false, &maps);

	if (r < 0)
		return error_set(e, -r, "process %d has ended", p->vpid);
	p->core->exit_signal = procfs_stat(p->dir, &st) < 0 ? SIGCHLD : st.exit_signal;
	inject_prepare(p, maps);
	r = blob_find(p, &head, maps);
	maps_free(maps);
	if (r == 0) {
		*state = ENG_RUNNING;
		let_run(p);
		return 0;
	}
	*state = head.mode == BLOB_WATCH ? ENG_HOLLOW : p->family->nest && !head.state ? ENG_FILLED : ENG_PARKED;
	if (*state == ENG_HOLLOW) /* likewise: await_found() sees it */
		p->core->stop_sig = 0;
	r = threads_anew(p);
	for (unsigned i = 0; i < p->nthreads && r == 0; i++)
		r = take_thread(p->threads[i]);
	if (r == 0)
		sigqueue_room_found(p, &head);
	if (r == 0 && *state == ENG_PARKED && p->nthreads && p->threads[0]->core->slot)
		close_watch(p);
	return r < 0 ? error_set(e, -r, "process %d cannot be caught: %s", p->vpid, strerror(-r)) : 0;
}

/* Stops and continues that nobody heard of: as they are now. */
static void tell_stops(struct eng_family *f)
{
	for (size_t i = 0; i < f->nprocs; i++) {
		struct eng_event ev = {.kind = ENG_CONTINUED, .pid = f->procs[i]->vpid};
		struct procfs_stat st;

		if (procfs_stat(f->procs[i]->dir, &st) < 0 || st.state == 'Z')
			continue;
		if (st.state == 'T') {
			ev.kind = ENG_STOPPED;
			ev.info.si_signo = SIGSTOP;
		}
		event_push(f, &ev);
	}
}

int eng_reattach(const char *state, const struct eng_hooks *h, struct eng_family **out, struct error *e)
{
	struct eng_family *f = family_new(h);
	enum eng_state first = ENG_RUNNING, s = ENG_RUNNING;
	int r = f ? read_lines(f, state, e) : error_set(e, ENOMEM, "no memory");

	for (size_t i = 0, taken = 0; r == 0 && i < f->nprocs; i++) {
		if (f->procs[i]->core->dead)
			continue;
		r = take_proc(f->procs[i], e, &s);
		if (r == -ESRCH && f->nest) { /* it has just ended: the news comes */
			*e = (struct error){0};
			r = 0;
			continue;
		}
		if (!taken++)
			first = s;
	}
	if (r == 0 && first == ENG_RUNNING && !f->nest)
		r = error_set(e, ENOENT, "process %d runs here: it never left", f->procs[0]->vpid);
	if (r == 0)
		r = read_modules(f, state, first == ENG_HOLLOW, e);
	if (r == 0 && f->nest) /* after them: before an end is told comes what they have to tell (held_tell()) */
		r = nest_hello(f, e);
	if (r < 0) {
		family_free(f);
		return r;
	}
	f->state = first;
	nest_all_known(f);
	f->found_again = true;
	if (first == ENG_HOLLOW)
		hollow_watch_all(f);
	else if (first == ENG_RUNNING)
		tell_stops(f);
	*out = f;
	return 0;
}

const char *eng_state_name(const struct eng_family *f)
{
	static const char *const names[] = {"tracked", "frozen", "parked", "hollow", "nested", "filled", "running"};

	return names[f->state];
}
