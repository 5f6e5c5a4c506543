/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who outside of the family shares what the family has open: an offset (the same description), or a file without a name (the same inode). One walk over the
 * descriptors of all processes for all files of a process; only while it still runs: once it is frozen, nobody new can have come to share.
 */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "migd/engine/res_files.h"

struct outside_item {
	int num;
	char *link;
	uint64_t hash;
	bool by_inode, told;
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

int outside_add(struct outside *o, const struct file_look *l, bool by_inode)
{
	uint64_t hash = hash_of(l->link);

	for (size_t i = 0; i < o->n; i++) /* dup(2)s are asked about once */
		if (o->v[i].hash == hash && !strcmp(o->v[i].link, l->link) &&
		    (by_inode || res_same(l->pid, l->pid, KCMP_FILE, l->num, o->v[i].num)))
			return 0;
	struct outside_item *v = realloc(o->v, (o->n + 1) * sizeof *v);

	if (!v)
		return -ENOMEM;
	o->v = v;
	v[o->n] = (struct outside_item){l->num, strdup(l->link), hash, by_inode, false, l->st.st_dev, l->st.st_ino};
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
	if (x->by_inode)
		file_reason(p, &l, "%s is open in process %d too, which stays: move that one, or close it first", x->link, who);
	else
		file_reason(p, &l, "the offset in %s is shared with process %d, which stays: move that one, or open the file for append", x->link,
			    who);
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

void outside_report(struct eng_probe *p, struct outside *o)
{
	_cleanup_free_ char *status = eng_proc_read(p->dir, "status", NULL);
	DIR *proc = o->n && res_field_u64(status, "TracerPid", 10, 0) != (uint64_t)gettid() ? opendir("/proc") : NULL;

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

void outside_free(struct outside *o)
{
	for (size_t i = 0; i < o->n; i++)
		free(o->v[i].link);
	free(o->v);
	*o = (struct outside){NULL, 0};
}
