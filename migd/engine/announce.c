// SPDX-License-Identifier: Apache-2.0
/*
 * Before the freeze: what the destination can make ready while the program runs on.
 *
 * A look from outside (nothing is stopped, nothing is injected) gives the head, the maps (PRE_MM) and the names of open files (FILE_AHEAD); over there the nest,
 * the vessels with their threads, the maps and the open descriptions are made meanwhile. All of it is a guess: the records of the dump are the truth, and what
 * they say otherwise is made anew.
 *
 * Only a process without children is announced: of a family, members end and are born all the time, and a guess about who there is costs more than it saves.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "conf/cleanup.h"
#include "migd/engine/inject.h"
#include "migd/engine/memory.h"
#include "migd/engine/nest.h"
#include "migd/engine/res_files.h"

static int look_at(struct eng_proc *p)
{
	int r = proc_open(p);

	if (r == 0)
		r = proc_identity(p);
	if (r == 0)
		r = proc_threads(p);
	if (r == 0)
		r = procfs_maps(p->dir, true, &p->core->maps);
	if (r < 0)
		return r;
	p->core->blob = memory_blob_place(p->core->maps, p->core->blob, p->nthreads);
	return p->core->blob ? 0 : -ENOMEM;
}

/* 0: it is in the look now, or it is just ending: then it is left out. */
static int look_add(struct eng_family *l, pid_t pid, pid_t vpid, struct eng_proc *parent, const struct eng_proc *known)
{
	struct eng_proc *p = proc_new(l, pid, vpid);
	int r;

	if (!p)
		return -ENOMEM;
	p->parent = parent;
	if (known) {
		p->core->blob = known->core->blob;
		p->core->home_ppid = known->core->home_ppid;
		p->core->home_pgid = known->core->home_pgid;
		p->core->home_sid = known->core->home_sid;
	}
	r = look_at(p);
	if (r < 0)
		proc_drop(l, l->nprocs - 1);
	return r == -ENOMEM ? r : 0;
}

/* deep: the living too. A hollow of somebody who is not named would be ended over there, so zombies have to be in. */
static int look_children(struct eng_family *l, struct eng_proc *parent, bool deep)
{
	_cleanup_free_ pid_t *kids = NULL;
	ssize_t n = procfs_children(parent->pid, &kids);
	int r = 0;

	for (ssize_t i = 0; i < n && r == 0; i++) {
		char path[64];
		pid_t vpid;
		int depth;

		r = freeze_zombie(l, kids[i], parent);
		if (r == 1 || !deep) {
			r = r < 0 ? r : 0;
			continue;
		}
		snprintf(path, sizeof(path), "/proc/%d/status", kids[i]);
		if (procfs_nspid(-100 /* AT_FDCWD */, path, &vpid, &depth) == 0)
			r = look_add(l, kids[i], vpid, parent, NULL);
	}
	return r;
}

static int look_home(struct eng_family *l, pid_t pid)
{
	int r = look_add(l, pid, pid, NULL, NULL);

	for (size_t i = 0; i < l->nprocs && r == 0; i++)
		r = look_children(l, l->procs[i], true);
	return r;
}

/* On a guest host its members are known; who was born in the last moment comes with the dump. */
static int look_nest(struct eng_family *l, const struct eng_family *f)
{
	int r = 0;

	for (size_t i = 0; i < f->nprocs && r == 0; i++)
		if (!f->procs[i]->core->dead)
			r = look_add(l, f->procs[i]->pid, f->procs[i]->vpid, NULL, f->procs[i]);
	for (size_t i = 0; i < l->nprocs; i++)
		for (size_t k = 0; k < l->nprocs; k++)
			if (l->procs[i]->ppid == l->procs[k]->pid)
				l->procs[i]->parent = l->procs[k];
	freeze_order(l);
	for (size_t i = 0; i < l->nprocs && r == 0; i++)
		r = look_children(l, l->procs[i], false);
	dump_numbers(l);
	return r;
}

static int put_all(struct eng_family *l, struct eng_image *out)
{
	int r = dump_put_head(l, out, true);

	if (r == 0) /* the vessels are made meanwhile */
		r = image_flush(out);
	for (size_t i = 0; i < l->nprocs && r == 0; i++)
		r = memory_put_ahead(l->procs[i], l->procs[i]->core->maps, out);
	for (size_t i = 0; i < l->nprocs && r == 0; i++)
		r = files_put_ahead(l->procs[i], out);
	for (size_t i = 0; i < l->nprocs && r == 0; i++)
		r = fs_put_ahead(l->procs[i], out);
	return r < 0 ? r : image_flush(out);
}

int announce(struct eng_family *f, pid_t pid, struct eng_image *out, uint64_t *watchable, struct error *e)
{
	struct eng_family *l = family_new(NULL);
	int r = l ? 0 : -ENOMEM;

	*watchable = 0;
	if (r == 0 && f) {
		l->mono_offset = f->mono_offset;
		l->boot_offset = f->boot_offset;
		l->head_hostname = f->head_hostname ? strdup(f->head_hostname) : NULL;
		l->devices = f->devices ? strdup(f->devices) : NULL;
	}
	if (r == 0)
		r = f && f->nest ? look_nest(l, f) : look_home(l, pid);
	if (r == 0 && (!l->nprocs || l->procs[0]->vpid != (f && f->nest ? f->procs[0]->vpid : pid)))
		r = -ESRCH;
	if (r == 0 && !l->devices)
		l->devices = dump_devices(l->procs[0]->dir);
	for (size_t i = 0; i < (r == 0 ? l->nprocs : 0); i++)
		*watchable += precopy_watchable(l->procs[i], l->procs[i]->core->maps);
	if (r == 0 && l->nprocs == 1 && !l->nzombies) {
		r = put_all(l, out);
		r = r < 0 ? r : 1;
	}
	family_free(l);
	return r < 0 ? error_set(e, -r, "process %d cannot be announced: %s", pid, strerror(-r)) : r;
}
