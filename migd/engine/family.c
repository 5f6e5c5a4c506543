// SPDX-License-Identifier: Apache-2.0
/* Families, processes and threads as objects: making, finding, freeing them. No I/O but opening /proc. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "migd/engine/core.h"
#include "migd/engine/memory.h"
#include "migd/engine/nest.h"
#include "migd/engine/procfs.h"

struct eng_family *family_new(const struct eng_hooks *h)
{
	struct eng_family *f = calloc(1, sizeof(*f));

	if (!f)
		return NULL;
	f->event_fd = f->wake_fd = f->apart_fd = -1;
	if (h)
		f->hooks = *h;
	if (events_init(f) < 0) {
		free(f);
		return NULL;
	}
	return f;
}

struct eng_proc *proc_new(struct eng_family *f, pid_t pid, pid_t vpid)
{
	struct eng_proc **bigger = realloc(f->procs, (f->nprocs + 1) * sizeof(*bigger));
	struct eng_proc *p = calloc(1, sizeof(*p));
	struct eng_proc_core *c = calloc(1, sizeof(*c));

	if (bigger)
		f->procs = bigger;
	if (!bigger || !p || !c) {
		free(p);
		free(c);
		return NULL;
	}
	p->family = f;
	p->pid = pid;
	p->vpid = vpid;
	p->dir = p->pidfd = -1;
	p->core = c;
	c->mem = c->transfer = -1;
	f->procs[f->nprocs++] = p;
	return p;
}

static void thread_free(struct eng_thread *t)
{
	if (!t)
		return;
	free(t->core->xstate);
	free(t->core->status);
	free(t->core);
	free(t);
}

const char *thread_status(struct eng_thread *t)
{
	char name[40];

	snprintf(name, sizeof(name), "task/%d/status", t->tid);
	if (!t->core->status)
		t->core->status = eng_proc_read(t->proc->dir, name, NULL);
	return t->core->status;
}

struct eng_thread *thread_new(struct eng_proc *p, pid_t tid, pid_t vtid)
{
	struct eng_thread **bigger = realloc(p->threads, (p->nthreads + 1) * sizeof(*bigger));
	struct eng_thread *t = calloc(1, sizeof(*t));
	struct eng_thread_core *c = calloc(1, sizeof(*c));

	if (bigger)
		p->threads = bigger;
	if (!bigger || !t || !c) {
		free(t);
		free(c);
		return NULL;
	}
	t->proc = p;
	t->tid = tid;
	t->vtid = vtid;
	t->core = c;
	c->cpu = -1;
	p->threads[p->nthreads++] = t;
	return t;
}

void thread_drop(struct eng_proc *p, unsigned i)
{
	thread_free(p->threads[i]);
	memmove(&p->threads[i], &p->threads[i + 1], (p->nthreads - i - 1) * sizeof(p->threads[0]));
	p->nthreads--;
}

static void proc_close(struct eng_proc *p)
{
	int *fd[] = {&p->dir, &p->pidfd, &p->core->mem, &p->core->transfer};

	for (size_t i = 0; i < sizeof(fd) / sizeof(fd[0]); i++)
		if (*fd[i] >= 0) {
			close(*fd[i]);
			*fd[i] = -1;
		}
}

int proc_open(struct eng_proc *p)
{
	char path[64];

	proc_close(p);
	snprintf(path, sizeof(path), "/proc/%d", p->pid);
	p->dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	p->pidfd = syscall(SYS_pidfd_open, p->pid, 0);
	p->core->mem = p->dir < 0 ? -1 : openat(p->dir, "mem", O_RDWR | O_CLOEXEC);
	return p->dir < 0 || p->pidfd < 0 || p->core->mem < 0 ? -ESRCH : 0;
}

int proc_identity(struct eng_proc *p)
{
	struct procfs_stat st;
	int r = procfs_stat(p->dir, &st);

	if (r < 0 || st.state == 'Z' || st.state == 'X')
		return r < 0 ? r : -ESRCH;
	snprintf(p->core->comm, sizeof(p->core->comm), "%.16s", st.comm);
	p->ppid = st.ppid;
	p->pgid = st.pgid;
	p->sid = st.sid;
	p->core->exit_signal = st.exit_signal;
	return 0;
}

int proc_threads(struct eng_proc *p)
{
	pid_t *tids = NULL;
	ssize_t n = procfs_tasks(p->pid, &tids);
	int r = 0;

	for (ssize_t i = 0; i < n && r == 0; i++) {
		struct eng_thread *t;
		char path[64];
		pid_t vtid;
		int depth;

		snprintf(path, sizeof(path), "task/%d/status", tids[i]);
		if (procfs_nspid(p->dir, path, &vtid, &depth) < 0)
			continue; /* ended meanwhile */
		t = thread_new(p, tids[i], vtid);
		if (!t) {
			r = -ENOMEM;
		} else if (tids[i] == p->pid) {
			p->threads[p->nthreads - 1] = p->threads[0];
			p->threads[0] = t;
		}
	}
	free(tids);
	return r < 0 ? r : p->nthreads && p->threads[0]->tid == p->pid ? 0 : -ESRCH;
}

static void proc_release(struct eng_family *f, struct eng_proc *p)
{
	for (size_t i = 0; eng_res_table[i]; i++)
		if (eng_res_table[i]->release)
			eng_res_table[i]->release(f, p);
}

static void proc_free(struct eng_family *f, struct eng_proc *p)
{
	proc_release(f, p);
	while (p->nthreads)
		thread_drop(p, p->nthreads - 1);
	dump_maps_free(p);
	proc_close(p);
	free(p->core->groups);
	free(p->threads);
	free(p->core);
	free(p);
}

void proc_drop(struct eng_family *f, size_t i)
{
	struct eng_proc *gone = f->procs[i];

	for (size_t j = 0; j < f->nprocs; j++)
		if (f->procs[j]->parent == gone)
			f->procs[j]->parent = NULL;
	memmove(&f->procs[i], &f->procs[i + 1], (f->nprocs - i - 1) * sizeof(f->procs[0]));
	f->nprocs--;
	proc_free(f, gone);
}

/* What the modules noted for one image must not meet the next one. */
void family_forget_image(struct eng_family *f)
{
	for (size_t i = 0; i < f->nprocs; i++)
		proc_release(f, f->procs[i]);
	proc_release(f, NULL);
}

void family_free(struct eng_family *f)
{
	if (!f)
		return;
	precopy_forget(f);
	while (f->nprocs)
		proc_drop(f, f->nprocs - 1);
	proc_release(f, NULL);
	nest_free(f->nest);
	events_close(f);
	free(f->procs);
	free(f->vpids);
	free(f->zombies);
	free(f->head_hostname);
	free(f->devices);
	free(f->adopt_groups);
	free(f);
}

size_t eng_nprocs(const struct eng_family *f)
{
	return f->nprocs;
}

struct eng_proc *eng_proc_at(struct eng_family *f, size_t i)
{
	return i < f->nprocs ? f->procs[i] : NULL;
}

struct eng_proc *eng_proc_by_vpid(struct eng_family *f, pid_t vpid)
{
	for (size_t i = 0; i < f->nprocs; i++)
		if (f->procs[i]->vpid == vpid)
			return f->procs[i];
	return NULL;
}

const struct eng_hooks *eng_hooks(const struct eng_family *f)
{
	return &f->hooks;
}

unsigned eng_res_index(const struct eng_res *r)
{
	unsigned i = 0;

	while (eng_res_table[i] != r)
		i++;
	return i;
}

void **eng_family_res(struct eng_family *f, const struct eng_res *r)
{
	return &f->res[eng_res_index(r)];
}

int eng_stopped(const struct eng_family *f, pid_t pid)
{
	struct procfs_stat st;

	for (size_t i = 0; i < f->nprocs; i++)
		if (f->procs[i]->vpid == pid)
			return procfs_stat(f->procs[i]->dir, &st) < 0 || strchr("tZX", st.state) ? -1 : st.state == 'T'; /* Z: its first thread has ended, others run */
	return -1;
}

const char *eng_name(struct eng_family *f, pid_t pid)
{
	struct eng_proc *p = eng_proc_by_vpid(f, pid);

	return p ? p->core->comm : "";
}

size_t eng_args(struct eng_family *f, pid_t pid, char *args, size_t len)
{
	struct eng_proc *p = eng_proc_by_vpid(f, pid);
	_cleanup_free_ char *text = NULL;
	size_t n = 0;

	if (p && (p->dir >= 0 || proc_open(p) == 0))
		text = eng_proc_read(p->dir, "cmdline", &n);
	if (!text || !n)
		return 0;
	n = n < len ? n : len;
	memcpy(args, text, n);
	args[n - 1] = '\0';
	return n;
}

const pid_t *eng_pids(const struct eng_family *f, size_t *n)
{
	struct eng_family *w = (struct eng_family *)f; /* the list is a cache inside */
	pid_t *v = realloc(w->vpids, (f->nprocs + 1) * sizeof(pid_t));

	*n = 0;
	if (!v)
		return w->vpids;
	w->vpids = v;
	for (size_t i = 0; i < f->nprocs; i++)
		if (!f->procs[i]->core->dead)
			v[(*n)++] = f->procs[i]->vpid;
	return v;
}

uint64_t eng_frozen_ns(const struct eng_family *f)
{
	return f->frozen_ns;
}
