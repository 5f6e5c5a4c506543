/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SysV IPC objects, and whose they are. The kernel knows no owner but a uid: a process is seen to use an object by having it mapped, or by being the one that made
 * it or worked on it last. The lists are /proc/sysvipc of the calling thread's IPC namespace.
 */
#include "migd/engine/res_sysv.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sem.h>
#include <time.h>
#include <unistd.h>
#include "conf/cleanup.h"

int sysv_enter(int dir)
{
	char a[64], b[64];
	_cleanup_close_ int there = openat(dir, "ns/ipc", O_RDONLY | O_CLOEXEC);
	int here = open("/proc/thread-self/ns/ipc", O_RDONLY | O_CLOEXEC);

	if (there >= 0 && here >= 0 && res_readlink(dir, "ns/ipc", a, sizeof a) > 0 && res_readlink(AT_FDCWD, "/proc/thread-self/ns/ipc", b, sizeof b) > 0 &&
	    (!strcmp(a, b) || setns(there, CLONE_NEWIPC) == 0))
		return here;
	int r = -errno;

	if (here >= 0)
		close(here);
	return r < 0 ? r : -ESRCH;
}

void sysv_leave(int here)
{
	if (here < 0)
		return;
	(void)!setns(here, CLONE_NEWIPC); /* ours a moment ago */
	close(here);
}

static bool parse(enum sysv_kind kind, const char *line, struct sysv_object *o)
{
	unsigned long long size, attached;
	int n;

	o->kind = kind;
	switch (kind) {
	case SYSV_SHM:
		n = sscanf(line, "%d %d %o %llu %d %d %llu %u %u %u %u %ld %*d %ld", &o->key, &o->id, &o->mode, &size, &o->user[0], &o->user[1], &attached, &o->uid,
			&o->gid, &o->cuid, &o->cgid, &o->used, &o->changed);
		o->size = size;
		o->attached = attached;
		return n == 13;
	case SYSV_SEM:
		n = sscanf(line, "%d %d %o %llu %u %u %u %u %ld %ld", &o->key, &o->id, &o->mode, &size, &o->uid, &o->gid, &o->cuid, &o->cgid, &o->used, &o->changed);
		o->size = size;
		return n == 10;
	case SYSV_MSG: {
		long sent = 0, received = 0;

		n = sscanf(line, "%d %d %o %*u %llu %d %d %u %u %u %u %ld %ld %ld", &o->key, &o->id, &o->mode, &size, &o->user[0], &o->user[1], &o->uid, &o->gid,
			&o->cuid, &o->cgid, &sent, &received, &o->changed);
		o->size = size;
		o->used = sent > received ? sent : received;
		return n == 13;
	}
	}
	return false;
}

int sysv_list(struct sysv_list *l)
{
	static const struct {
		enum sysv_kind kind;
		const char *file;
	} files[] = {{SYSV_SHM, "/proc/sysvipc/shm"}, {SYSV_SEM, "/proc/sysvipc/sem"}, {SYSV_MSG, "/proc/sysvipc/msg"}};

	*l = (struct sysv_list){NULL, 0};
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		_cleanup_free_ char *text = eng_proc_read(AT_FDCWD, files[i].file, NULL);

		for (char *line = text ? strchr(text, '\n') : NULL; line && line[1]; line = strchr(line + 1, '\n')) {
			struct sysv_object o = {0}, *v;

			if (!parse(files[i].kind, line + 1, &o))
				continue;
			v = realloc(l->v, (l->n + 1) * sizeof *v);
			if (!v) {
				sysv_list_free(l);
				return -ENOMEM;
			}
			l->v = v;
			v[l->n++] = o;
		}
	}
	return 0;
}

void sysv_list_free(struct sysv_list *l)
{
	free(l->v);
	*l = (struct sysv_list){NULL, 0};
}

bool sysv_is_filler(const struct sysv_object *o)
{
	return !o->key && !(o->mode & 0777) && !o->cuid && !o->uid && (o->kind == SYSV_MSG ? !o->size : o->size == 1) && !o->attached;
}

/* ---- whose ------------------------------------------------------------------------------------------- */

/* Wall-clock second in which the process started: a pid of the same number that acted before was another process. 0: it is gone. */
static long started_at(pid_t pid)
{
	struct procfs_stat st;
	struct timespec real, boot;
	char path[32];

	snprintf(path, sizeof path, "/proc/%d", pid);
	_cleanup_close_ int dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (dir < 0 || procfs_stat(dir, &st) < 0)
		return 0;
	clock_gettime(CLOCK_REALTIME, &real);
	clock_gettime(CLOCK_BOOTTIME, &boot);
	return real.tv_sec - boot.tv_sec + (long)(st.start / sysconf(_SC_CLK_TCK)) - 2; /* two clocks cut to seconds, and the objects' is a tick behind */
}

void sysv_family_init(struct sysv_family *f, const pid_t *pid, size_t n, pid_t root)
{
	char name[40];

	snprintf(name, sizeof name, "/proc/%d/status", root);
	_cleanup_free_ char *s = eng_proc_read(AT_FDCWD, name, NULL);
	const char *uid = s ? eng_field(s, "Uid") : NULL;

	*f = (struct sysv_family){.pid = pid, .n = n, .root = root, .since = started_at(root), .uid = UINT32_MAX};
	if (uid)
		sscanf(uid, "%*u %u", &f->uid);
}

static bool inside(const struct sysv_family *f, pid_t pid)
{
	for (size_t i = 0; i < f->n; i++)
		if (f->pid[i] == pid)
			return true;
	return false;
}

/* A process by the number of any of its threads: of a message queue the kernel knows the thread that a message woke. */
static pid_t process_of(pid_t tid)
{
	char path[32];

	snprintf(path, sizeof path, "/proc/%d/status", tid);
	_cleanup_free_ char *s = eng_proc_read(AT_FDCWD, path, NULL);

	return res_field_u64(s, "Tgid", 10, tid);
}

/* How a pid that worked on the object last counts: `user` (or any member if 0) makes it ours, a living stranger is told. */
static void count_user(const struct sysv_family *f, const struct sysv_object *o, pid_t pid, pid_t user, bool *ours, pid_t *other)
{
	if (pid <= 0)
		return;
	if (!inside(f, pid))
		pid = process_of(pid);
	if (inside(f, pid))
		*ours |= (!user || user == pid) && (o->used >= f->since || o->changed >= f->since);
	else if (pid != getpid() && started_at(pid) && started_at(pid) <= (o->used > o->changed ? o->used : o->changed))
		*other = pid;
}

static unsigned maps_segment(pid_t pid, int id)
{
	char path[32];
	struct maps *maps;
	unsigned n = 0;

	snprintf(path, sizeof path, "/proc/%d", pid);
	_cleanup_close_ int dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (dir < 0 || procfs_maps(dir, false, &maps) < 0)
		return 0;
	struct sysv_segment *s = NULL;
	ssize_t all = sysv_segments(maps, &s);

	for (ssize_t i = 0; i < all; i++)
		n += s[i].id == id;
	free(s);
	maps_free(maps);
	return n;
}

/* More have it mapped than the family: who? */
static pid_t mapper_outside(const struct sysv_family *f, int id)
{
	DIR *proc = opendir("/proc");
	pid_t found = 0;

	for (struct dirent *d; proc && !found && (d = readdir(proc));) {
		pid_t pid = atoi(d->d_name);

		if (pid > 0 && pid != getpid() && !inside(f, pid) && maps_segment(pid, id))
			found = pid;
	}
	if (proc)
		closedir(proc);
	return found;
}

bool sysv_is_ours(const struct sysv_family *f, struct sysv_object *o, pid_t user, pid_t *other)
{
	bool ours = false, touched = o->user[0] || o->user[1];

	*other = 0;
	if (o->kind == SYSV_SEM && o->used < f->since && o->changed < f->since)
		return false;
	count_user(f, o, o->user[0], user, &ours, other);
	count_user(f, o, o->user[1], user, &ours, other);
	if (o->kind == SYSV_SEM)
		for (uint64_t i = 0; i < o->size; i++) {
			int pid = semctl(o->id, i, GETPID);

			touched |= pid > 0;
			count_user(f, o, pid, user, &ours, other);
		}
	if (o->kind == SYSV_SHM && o->attached) {
		uint64_t n = 0;

		for (size_t i = 0; i < f->n; i++) {
			unsigned k = maps_segment(f->pid[i], o->id);

			n += k;
			ours |= k && (!user || user == f->pid[i]);
		}
		*other = ours && n < o->attached ? mapper_outside(f, o->id) : 0;
	}
	o->guessed = !ours && !touched && (!user || user == f->root) && o->cuid == f->uid && o->changed >= f->since;
	return ours || o->guessed;
}

/* ---- attachments ------------------------------------------------------------------------------------- */

ssize_t sysv_segments(const struct maps *maps, struct sysv_segment **out)
{
	size_t n = 0;

	*out = NULL;
	for (size_t i = 0; i < maps->n; i++) {
		const struct map *m = &maps->m[i];

		if (m->kind != KIND_SYSV)
			continue;
		struct sysv_segment *s = n ? &(*out)[n - 1] : NULL;

		if (s && s->id == (int)m->ino && s->start == m->start - m->offset && m->start < s->start + (4ull << 40) && m->offset) {
			s->gap |= s->highest != m->start;
			s->highest = m->end;
			s->read_only &= !(m->flags & MAPF_MAYWRITE);
			continue;
		}
		struct sysv_segment *v = realloc(*out, (n + 1) * sizeof *v);

		if (!v) {
			free(*out);
			return -ENOMEM;
		}
		*out = v;
		v[n++] = (struct sysv_segment){.id = m->ino, .start = m->start - m->offset, .lowest = m->start, .highest = m->end, .gap = m->offset != 0,
			.read_only = !(m->flags & MAPF_MAYWRITE)};
	}
	return n;
}
