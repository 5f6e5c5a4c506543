/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who outside of the family shares what the family has open: an offset (the same description), a file without a name (the same inode), a pipe that it reads. One walk over the
 * descriptors of all processes for all files of a process; only while it still runs: once it is frozen, nobody new can have come to share. But what a program that is called
 * by `mig run` inherits forbids nothing, except for pipes (res_files_held.c).
 *
 * Pipes: two readers on two hosts would each be shown what the other one takes. Who may share an end for reading is an ancestor that has it as its standard input (a shell
 * that reads on when the family has ended); of a pipe that the family has both ends of, nobody else: it is taken along.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "migd/engine/keeper.h"
#include "migd/engine/procfs.h"
#include "migd/engine/res_files.h"

struct outside_item {
	int num;
	char *link;
	uint64_t hash;
	bool by_inode, told;
	bool quiet; /* nobody is to be told why */
	bool pipe, nobody;
	int inside; /* pipe: has the family an end for writing too? -1: not known yet */
	dev_t dev;
	ino_t ino;
};

static uint64_t hash_of(const char *s)
{
	uint64_t h = 1469598103934665603u;

	while (*s)
		h = (h ^ (unsigned char)*s++) * 1099511628211u;
	return h;
}

int outside_add(struct outside *o, const struct file_look *l, enum outside_rule rule)
{
	bool by_inode = rule != OUTSIDE_NOT_OFFSET;
	uint64_t hash = hash_of(l->link);

	for (size_t i = 0; i < o->n; i++) /* dup(2)s are asked about once */
		if (o->v[i].hash == hash && !strcmp(o->v[i].link, l->link) &&
		    (by_inode || res_same(l->pid, l->pid, KCMP_FILE, l->num, o->v[i].num)))
			return 0;
	struct outside_item *v = realloc(o->v, (o->n + 1) * sizeof *v);

	if (!v)
		return -ENOMEM;
	o->v = v;
	v[o->n] = (struct outside_item){.num = l->num, .link = strdup(l->link), .hash = hash, .by_inode = by_inode, .dev = l->st.st_dev, .ino = l->st.st_ino,
					.pipe = rule == OUTSIDE_NOT_PIPE, .nobody = rule == OUTSIDE_NOBODY, .inside = -1};
	if (!v[o->n].link)
		return -ENOMEM;
	o->n++;
	return 0;
}

static bool same_thing(const struct eng_probe *p, const struct outside_item *x, pid_t pid, int dir, const char *name)
{
	struct stat st;

	if (x->by_inode)
		return fstatat(dir, name, &st, 0) == 0 && st.st_ino == x->ino && st.st_dev == x->dev;
	return res_same(p->pid, pid, KCMP_FILE, x->num, atoi(name));
}

static void tell(struct eng_probe *p, struct outside_item *x, pid_t who)
{
	struct file_look l = {.pid = p->pid, .dir = p->dir, .num = x->num};

	x->told = true;
	if (x->quiet)
		return;
	if (x->nobody)
		file_reason(p, &l, "%s leads to process %d, which stays: a new home has no way back to it; use files", x->link, who);
	else if (x->pipe)
		file_reason(p, &l, "%s is %s process %d too, which stays: move that one, or give one of them another", x->link, x->inside > 0 ? "open in" : "read by", who);
	else if (x->by_inode)
		file_reason(p, &l, "%s is open in process %d too, which stays: move that one, or close it first", x->link, who);
	else
		file_reason(p, &l, "the offset in %s is shared with process %d, which stays: move that one, or open the file for append", x->link,
			    who);
}

static bool has_mode(const char *info, bool reading)
{
	uint32_t mode = (uint32_t)res_field_u64(info, "flags", 8, 0) & O_ACCMODE;

	return mode != (reading ? O_WRONLY : O_RDONLY);
}

static int writes_one(const struct file_look *l, void *ctx)
{
	const struct outside_item *x = ctx;

	return l->st.st_ino == x->ino && l->st.st_dev == x->dev && has_mode(l->info, false);
}

/* Has the family an end of that pipe for writing? */
static bool written_inside(const struct eng_probe *p, struct outside_item *x)
{
	for (size_t i = 0; x->inside < 0 && i < p->nfamily; i++) {
		char name[32];

		snprintf(name, sizeof name, "/proc/%d", p->family[i]);
		_cleanup_close_ int dir = open(name, O_PATH | O_DIRECTORY | O_CLOEXEC);

		if (dir >= 0 && files_each(p->family[i], dir, writes_one, x) == 1)
			x->inside = 1;
	}
	if (x->inside < 0)
		x->inside = 0;
	return x->inside;
}

static bool is_ancestor(const struct eng_probe *p, pid_t who)
{
	pid_t pid = p->root;

	for (int up = 0; up < 64 && pid > 1 && pid != who; up++) {
		char name[32];
		struct procfs_stat st;

		snprintf(name, sizeof name, "/proc/%d", pid);
		_cleanup_close_ int dir = open(name, O_PATH | O_DIRECTORY | O_CLOEXEC);

		if (dir < 0 || procfs_stat(dir, &st) < 0)
			return false;
		pid = st.ppid;
	}
	return pid == who;
}

static bool is_called(int fds, const char *name)
{
	_cleanup_free_ char *comm = eng_proc_read(fds, "../comm", NULL);
	struct stat st;

	return comm && fstatat(fds, "..", &st, 0) == 0 && !st.st_uid && !strncmp(comm, name, strlen(name)) && !strcmp(comm + strlen(name), "\n");
}

/* Does that descriptor of a process outside forbid the move? fds: its /proc/PID/fd. */
static bool pipe_clashes(const struct eng_probe *p, struct outside_item *x, pid_t who, int fds, const char *num)
{
	char name[40];

	snprintf(name, sizeof name, "../fdinfo/%.16s", num);
	_cleanup_free_ char *info = eng_proc_read(fds, name, NULL);

	if (!info || is_called(fds, "sprite-relay")) /* of another of its families, which has it for somebody who is counted himself */
		return false;
	if (written_inside(p, x))
		return true;
	return has_mode(info, true) && !(!strcmp(num, "0") && is_ancestor(p, who));
}

static void look_into(struct eng_probe *p, struct outside *o, pid_t pid, DIR *d)
{
	char link[PATH_MAX];

	for (struct dirent *e; (e = readdir(d));) {
		if (*e->d_name < '0' || *e->d_name > '9' || res_readlink(dirfd(d), e->d_name, link, sizeof link) < 0)
			continue;
		uint64_t hash = hash_of(link);

		for (size_t i = 0; i < o->n; i++) {
			struct outside_item *x = &o->v[i];

			if (x->told || x->hash != hash || strcmp(x->link, link) || !same_thing(p, x, pid, dirfd(d), e->d_name))
				continue;
			if (res_inside(p, pid) || res_same(getpid(), pid, KCMP_VM, 0, 0)) /* born to the family meanwhile; or vforked by us, with all that we have open */
				return;
			if (p->nest && is_called(dirfd(d), KEEPER_NAME)) /* res_files_held.c */
				return;
			if (!x->pipe || pipe_clashes(p, x, pid, dirfd(d), e->d_name))
				tell(p, x, pid);
		}
	}
}

static bool in_list(const struct eng_probe *p, pid_t pid)
{
	for (size_t i = 0; i < p->nfamily; i++)
		if (p->family[i] == pid)
			return true;
	return pid == getpid();
}

static void look_at_all(struct eng_probe *p, struct outside *o)
{
	size_t left = 0;
	DIR *proc;

	for (size_t i = 0; i < o->n; i++)
		left += !o->v[i].told;
	proc = left ? opendir("/proc") : NULL;

	for (struct dirent *e; proc && (e = readdir(proc));) {
		pid_t pid = atoi(e->d_name);
		char name[40];

		if (pid <= 0 || in_list(p, pid))
			continue;
		snprintf(name, sizeof name, "/proc/%d/fd", pid);
		DIR *d = opendir(name);

		if (d) {
			look_into(p, o, pid, d);
			closedir(d);
		}
	}
	if (proc)
		closedir(proc);
}

void outside_report(struct eng_probe *p, struct outside *o)
{
	_cleanup_free_ char *status = eng_proc_read(p->dir, "status", NULL);
	bool ours = res_field_u64(status, "TracerPid", 10, 0) == (uint64_t)gettid();

	for (size_t i = 0; i < o->n; i++)
		o->v[i].told = ours && !o->v[i].pipe && !o->v[i].nobody;
	look_at_all(p, o);
}

void outside_find(struct eng_probe *p, struct outside *o)
{
	for (size_t i = 0; i < o->n; i++)
		o->v[i].quiet = true;
	look_at_all(p, o);
}

bool outside_has(const struct outside *o, int num)
{
	for (size_t i = 0; i < o->n; i++)
		if (o->v[i].num == num)
			return o->v[i].told;
	return false;
}

void outside_free(struct outside *o)
{
	for (size_t i = 0; i < o->n; i++)
		free(o->v[i].link);
	free(o->v);
	*o = (struct outside){NULL, 0};
}
