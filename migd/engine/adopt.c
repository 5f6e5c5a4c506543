// SPDX-License-Identifier: Apache-2.0
/*
 * A family that gets this host for its home (mig rehome): it comes as an image, like a guest, but into this host's own namespaces, so that afterwards it is a family
 * like any that was started here. There are no hollows: the seat of its first process is made here, with its number, group and session; the others are forked
 * from it, and all is filled as vessels of a nest are, with the rights of root until the credentials come.
 *
 * What cannot be had is refused, before the freeze where it can be seen there: a number that is taken here, a clock that would go back, files of the old home's own
 * disks, ends of pipes and terminals that stay (eng_explain_rehome).
 */
#include "migd/engine/adopt.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "migd/engine/aim.h"
#include "migd/engine/inject.h"
#include "migd/engine/procfs.h"
#include "migd/engine/res_files.h"
#include "migd/engine/res_sysv.h"

enum { TRIES = 25 };

/* ---- the seat, by this host ------------------------------------------------------------------------- */
/* Between the clone and the seizing nothing of libc is used: we are forked from a program of many threads. */
static pid_t clone_as(pid_t want)
{
	pid_t tid[1] = {want};
	struct clone_args a = {.exit_signal = SIGCHLD, .set_tid = want ? (uintptr_t)tid : 0, .set_tid_size = want ? 1 : 0};

	return syscall(SYS_clone3, &a, sizeof(a));
}

static void give_up(int out)
{
	int err = errno;

	(void)!write(out, &err, sizeof(err));
	_exit(1);
}

/* Whoever forks the next one ends when that has joined what it is to inherit; the last is the seat, whose parent is then this host's init. */
static void sit(const img_proc *m, int out, int tie)
{
	pid_t pid;
	char c;

	prctl(PR_SET_NAME, "sprite-adopt");
	if (m->sid > 1 && m->sid != m->pid && setsid() < 0)
		give_up(out);
	if (m->pgid > 1 && m->pgid != m->pid && m->pgid != m->sid) { /* we are the session's leader: a group's is another */
		pid = clone_as(m->pgid);
		if (pid < 0 || (pid == 0 && setpgid(0, 0) < 0))
			give_up(out);
		if (pid > 0)
			_exit(0);
	}
	pid = clone_as(m->pid);
	if (pid < 0)
		give_up(out);
	if (pid > 0)
		_exit(0);
	if (m->sid == m->pid || m->sid <= 1 ? setsid() < 0 : m->pgid == m->pid && setpgid(0, 0) < 0)
		give_up(out);
	dup2(tie, 0);
	syscall(SYS_close_range, 1, ~0U, 0);
	while (read(0, &c, 1) < 0)
		;
	_exit(1); /* migd is gone before it had us */
}

/* 0 or an errno, positive. */
static int seat_once(const img_proc *m, int *tie)
{
	sigset_t all, was;
	int out[2], hold[2], err = 0, st;
	pid_t first;

	if (pipe2(out, O_CLOEXEC) < 0)
		return errno;
	if (pipe2(hold, O_CLOEXEC) < 0) {
		err = errno;
		close(out[0]);
		close(out[1]);
		return err;
	}
	sigfillset(&all);
	aim_hold();
	pthread_sigmask(SIG_SETMASK, &all, &was);
	first = clone_as(m->sid > 1 && m->sid != m->pid ? m->sid : 0);
	if (first == 0)
		sit(m, out[1], hold[0]);
	pthread_sigmask(SIG_SETMASK, &was, NULL);
	aim_let_go();
	err = first < 0 ? errno : 0;
	close(out[1]);
	close(hold[0]);
	if (first > 0 && read(out[0], &err, sizeof(err)) != sizeof(err)) /* the seat has closed it */
		err = 0;
	close(out[0]);
	if (first > 0)
		waitpid(first, &st, 0);
	if (err)
		close(hold[1]);
	else
		*tie = hold[1];
	return err;
}

int adopt_seat(const img_proc *m, int *tie, struct error *e)
{
	int err = seat_once(m, tie);

	for (int i = 0; i < TRIES && err == EEXIST; i++) { /* somebody who is soon gone, perhaps: a thread of ours */
		nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
		err = seat_once(m, tie);
	}
	if (err == EEXIST)
		return error_set(e, EEXIST, "the number of process %d, or of its group %d or session %d, is taken here: try again later, or another host", m->pid, m->pgid, m->sid);
	return err ? error_set(e, err, "process %d cannot be made here: %s", m->pid, strerror(err)) : 0;
}

void eng_clocks(uint64_t *mono_ns, uint64_t *boot_ns)
{
	struct clocks now;

	clocks_read(&now);
	*mono_ns = now.mono;
	*boot_ns = now.boot;
}

int adopt_clock(const img_head *h, struct error *e)
{
	struct clocks now;

	clocks_read(&now);
	if (now.mono >= h->mono && now.boot >= h->boot)
		return 0;
	return error_set(e, EOPNOTSUPP, "this host has been up for less time than the process's home: its clock would go back here");
}

bool adopt_privileged(const struct eng_family *f)
{
	return !f->adopted || f->adopt_any;
}

bool adopt_may(const struct eng_family *f, uint32_t uid, uint32_t gid, const uint32_t *groups, size_t n)
{
	if (adopt_privileged(f))
		return true;
	if (uid != f->adopt_uid)
		return false;
	for (size_t i = 0; i <= n; i++) {
		uint32_t one = i < n ? groups[i] : gid;
		bool has = false;

		for (size_t k = 0; k < f->nadopt_groups; k++)
			has |= f->adopt_groups[k] == one;
		if (!has)
			return false;
	}
	return true;
}

int adopt_refuse(pid_t vpid, struct error *e)
{
	return error_set(e, EPERM, "process %d has rights that its user has not here (ids, groups or capabilities): it cannot have its home here", vpid);
}

int eng_adopt(const struct eng_hooks *h, bool any, uid_t uid, const gid_t *groups, size_t ngroups, struct eng_family **out)
{
	struct eng_family *f = family_new(h);

	if (!f)
		return -ENOMEM;
	f->adopt_groups = calloc(ngroups + 1, sizeof(*f->adopt_groups));
	if (!f->adopt_groups) {
		family_free(f);
		return -ENOMEM;
	}
	for (size_t i = 0; i < ngroups; i++)
		f->adopt_groups[i] = groups[i];
	f->nadopt_groups = ngroups;
	f->adopt_any = any;
	f->adopt_uid = uid;
	f->home = f->adopted = f->mortal = true;
	f->state = ENG_HOLLOW; /* of nobody yet */
	*out = f;
	return 0;
}

void eng_adopt_noted(struct eng_family *f)
{
	f->mortal = false;
	for (size_t i = 0; i < f->nprocs; i++)
		for (unsigned k = 0; k < f->procs[i]->nthreads; k++)
			inject_filters_sleep(f->procs[i]->threads[k]);
}

/* ---- may it go, by the old home ---------------------------------------------------------------------- */
struct look {
	struct eng_probe *p;
	const char *tree; /* the cluster's */
	struct outside outside;
};

static bool below(const char *path, const char *tree)
{
	size_t n = strlen(tree);

	return !strncmp(path, tree, n) && (path[n] == '/' || !path[n]);
}

/* Of those of memory that any move takes along (res_file_path.c), each host has its own, and they are alike: null, zero, ... */
static bool harmless(const struct stat *st)
{
	return S_ISCHR(st->st_mode) && major(st->st_rdev) == 1;
}

static int look_at_file(const struct file_look *l, void *ctx)
{
	struct look *x = ctx;

	if (!strncmp(l->link, "pipe:", 5) || !strncmp(l->link, "socket:", 7)) /* other things without a path the kernel keeps for the process alone */
		return outside_add(&x->outside, l, OUTSIDE_NOBODY);
	if (*l->link != '/')
		return 0;
	if (!below(l->link, x->tree) && !harmless(&l->st) && strncmp(l->link, "/memfd:", 7))
		file_reason(x->p, l, "%s is this host's own: a new home has it not; use files below %s, or /dev/null", l->link, x->tree);
	return 0;
}

/* Of what it would leave here. */
static bool named(struct eng_probe *p, const struct map *m)
{
	struct stat st;
	char file[64];

	snprintf(file, sizeof(file), "map_files/%lx-%lx", (long)m->start, (long)m->end);
	return !strncmp(m->path, "/dev/shm/", 9) && fstatat(p->dir, file, &st, 0) == 0 && st.st_nlink;
}

static void look_at_sysv(struct eng_probe *p)
{
	static const char *const what[] = {[SYSV_SHM] = "shared memory", [SYSV_SEM] = "semaphores", [SYSV_MSG] = "a message queue"};
	struct sysv_family who;
	struct sysv_list l;
	pid_t other;

	sysv_family_init(&who, p->family, p->nfamily, p->root);
	if (sysv_list(&l) < 0)
		return;
	for (size_t i = 0; i < l.n; i++)
		if (sysv_is_ours(&who, &l.v[i], 0, &other) && !l.v[i].guessed)
			eng_reason(p, "has made or used SysV %s (id %d), which would stay here: remove it first (ipcrm)", what[l.v[i].kind], l.v[i].id);
	sysv_list_free(&l);
}

static void look_at_one(struct look *x)
{
	struct eng_probe *p = x->p;
	struct maps *maps;
	char cwd[PATH_MAX];

	if (res_readlink(p->dir, "cwd", cwd, sizeof(cwd)) > 0 && strcmp(cwd, "/") && !below(cwd, x->tree))
		eng_reason(p, "working directory %s is this host's own: cd to / or below %s", cwd, x->tree);
	files_each(p->pid, p->dir, look_at_file, x);
	outside_report(p, &x->outside);
	outside_free(&x->outside);
	if (procfs_maps(p->dir, false, &maps) < 0)
		return;
	for (size_t i = 0; i < maps->n; i++) {
		const struct map *m = &maps->m[i];

		if (m->kind == KIND_OBJECT && named(p, m))
			eng_reason(p, "a map of an object of /dev/shm with a name, which others here may look for: unmap or unlink it first");
		else if (m->kind == KIND_FILE_SHARED && m->prot & PROT_WRITE && !below(m->path, x->tree))
			eng_reason(p, "a shared map of %s, which is this host's own: unmap it first", m->path);
	}
	maps_free(maps);
}

/* Its parent waits for it, and would never hear of its end. */
static void look_at_parent(struct eng_probe *p)
{
	struct procfs_stat st, parent;
	char path[64];
	_cleanup_close_ int dir = -1;

	if (procfs_stat(p->dir, &st) < 0 || st.ppid <= 1)
		return;
	snprintf(path, sizeof(path), "/proc/%d", st.ppid);
	dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (dir >= 0 && procfs_stat(dir, &parent) == 0 && parent.state != 'Z')
		eng_reason(p, "its parent, process %d (%s), stays here and would wait for it for ever: let that end first (a new home is for what is nobody's child)", st.ppid,
			parent.comm);
}

int eng_explain_rehome(pid_t pid, const char *tree, struct eng_reasons *why)
{
	_cleanup_free_ pid_t *family = NULL;
	ssize_t n = explain_list(pid, &family);
	size_t before = why->n;

	for (ssize_t i = 0; i < n; i++) {
		struct eng_probe p = {.pid = family[i], .root = pid, .dir = -1, .family = family, .nfamily = n, .why = why};
		struct look x = {.p = &p, .tree = tree};
		char path[64];

		snprintf(path, sizeof(path), "/proc/%d", p.pid);
		p.dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (p.dir < 0)
			continue;
		look_at_one(&x);
		if (i == 0) {
			look_at_parent(&p);
			look_at_sysv(&p);
		}
		close(p.dir);
	}
	return n < 0 ? n : why->n > before;
}
