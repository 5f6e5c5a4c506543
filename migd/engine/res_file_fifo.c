/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ends of named pipes in the cluster's tree. What is in the pipe, and that nobody sees it end meanwhile, is the business of the file system's pipe agents on both
 * hosts, which the caller reaches by the `fifo` hook (engine.h): HOLD while it is dumped, PLEDGE when it has been filled, TAKE when it resumes; UNHOLD when it stays.
 * Over there the ends are opened by their path, without waiting for anybody: the family is parked, and its agents know what that open means.
 * Its size (F_SETPIPE_SZ) is a matter of each host's pipe: the agents know what it was before they changed it, and set it there.
 * A process that was stopped within open(2) has no descriptor yet: its call is made again.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/log.h"
#include "migd/engine/core.h"
#include "migd/engine/res_files.h"

enum { FUSE_MAGIC = 0x65735546 };

struct fifos_state { /* ->res[] of the family */
	uint64_t token; /* of this move */
	bool held, pledged;
};

const struct eng_res res_fifos;

static struct fifos_state *state_of(struct eng_family *f)
{
	struct fifos_state **s = (struct fifos_state **)eng_family_res(f, &res_fifos);

	if (!*s)
		*s = calloc(1, sizeof **s);
	return *s;
}

static bool is_fifo(const struct file_look *l)
{
	return S_ISFIFO(l->st.st_mode);
}

bool fifo_in_cluster_tree(const struct file_look *l)
{
	struct statfs fs;
	char name[24];

	snprintf(name, sizeof name, "fd/%d", l->num);
	_cleanup_close_ int fd = openat(l->dir, name, O_PATH | O_CLOEXEC);

	return fd >= 0 && fstatfs(fd, &fs) == 0 && fs.f_type == FUSE_MAGIC;
}

static void fifo_probe(struct eng_probe *p, const struct file_look *l)
{
	size_t n = strlen(l->link);

	if (!fifo_in_cluster_tree(l))
		file_reason(p, l, "named pipe %s is on a disk of this host: close it first, or make it in the cluster's tree", l->link);
	else if (!l->st.st_nlink || (n > 10 && !strcmp(l->link + n - 10, " (deleted)")))
		file_reason(p, l, "named pipe %s has been unlinked and cannot be opened again elsewhere: close it first", l->link);
}

static bool reads(uint32_t flags)
{
	return (flags & O_ACCMODE) != O_WRONLY;
}
static bool writes(uint32_t flags)
{
	return (flags & O_ACCMODE) != O_RDONLY;
}

static int hook(struct eng_family *f, enum eng_fifo_verb verb, struct eng_fifo x, struct error *e)
{
	const struct eng_hooks *h = eng_hooks(f);

	return h->fifo ? h->fifo(h->ctx, verb, &x, e) : error_set(e, ENOTSUP, "nobody here knows of named pipes");
}

/* ---- source ----------------------------------------------------------------------------------------- */

static bool same_pipe(const struct file_desc *a, const struct file_desc *b)
{
	return a->kind == &file_fifo && b->kind == &file_fifo && a->look.st.st_ino == b->look.st.st_ino && a->look.st.st_dev == b->look.st.st_dev;
}

static int hold(struct eng_family *f, struct file_desc *first, struct error *e)
{
	struct fifos_state *s = state_of(f);
	struct eng_fifo x = {.pid = first->holder->pid, .num = first->look.num};

	if (!s)
		return -ENOMEM;
	if (!s->held && getrandom(&s->token, sizeof s->token, 0) != sizeof s->token)
		return -EIO;
	s->token = (s->token & INT64_MAX) | 1; /* JSON integers have a sign; never 0 */
	for (struct file_desc *c = first; c; c = c->next)
		if (same_pipe(c, first)) {
			x.reads |= reads(c->look.flags);
			x.writes |= writes(c->look.flags);
		}
	x.token = s->token;
	s->held = true;
	return hook(f, ENG_FIFO_HOLD, x, e);
}

static int fifo_dump(struct eng_family *f, struct file_desc *d, Sprite__Img__File *m, struct error *e)
{
	struct file_desc *first = files_first(f);

	while (!same_pipe(first, d))
		first = first->next;
	int size = first == d ? hold(f, d, e) : 0;

	if (size < 0)
		return size;
	m->pipe = malloc(sizeof *m->pipe);
	if (!m->pipe)
		return -ENOMEM;
	sprite__img__pipe__init(m->pipe);
	m->pipe->pipe = first->id;
	m->pipe->size = size;
	m->fifo = state_of(f)->token;
	return 0;
}

/* It stays after all. A family found again after a restart may hold without that we know of it. */
static void fifos_thaw(struct eng_family *f)
{
	struct fifos_state **s = (struct fifos_state **)eng_family_res(f, &res_fifos);
	struct error e = {0};

	if (!f->hooks.fifo || (!f->found_again && !(*s && (*s)->held)))
		return;
	for (size_t i = 0; i < eng_nprocs(f); i++)
		if (hook(f, ENG_FIFO_UNHOLD, (struct eng_fifo){.pid = eng_proc_at(f, i)->pid}, &e) < 0)
			log_warn("process %d: its named pipes: %s", eng_proc_at(f, i)->vpid, e.text);
	if (*s)
		**s = (struct fifos_state){0};
}

static int close_one(const struct file_look *l, void *ctx)
{
	struct eng_proc *p = ctx;

	if (S_ISFIFO(l->st.st_mode) && strncmp(l->link, "pipe:[", 6) && fifo_in_cluster_tree(l))
		ENG_SYS(p->threads[0], SYS_close, l->num);
	return 0;
}

bool eng_holds_pipes(struct eng_family *f)
{
	struct fifos_state **s = (struct fifos_state **)eng_family_res(f, &res_fifos);

	return !f->nest && f->state == ENG_PARKED && (f->found_again || (*s && (*s)->held));
}

int eng_let_go(struct eng_family *f)
{
	struct fifos_state **s = (struct fifos_state **)eng_family_res(f, &res_fifos);

	if (!eng_holds_pipes(f))
		return 0;
	for (size_t i = 0; i < f->nprocs; i++)
		if (!f->procs[i]->core->dead)
			files_each(f->procs[i]->pid, f->procs[i]->dir, close_one, f->procs[i]);
	if (*s)
		(*s)->held = false; /* whoever takes over tells the agent */
	return 0;
}

/* ---- destination ------------------------------------------------------------------------------------ */

static int reopen(int path, uint32_t flags)
{
	char name[40];
	int both = -1, fd;

	snprintf(name, sizeof name, "/proc/self/fd/%d", path);
	if (!reads(flags)) /* to be a writer whether there is a reader or not */
		both = open(name, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	fd = open(name, (flags & O_ACCMODE) | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		fd = -errno;
	if (both >= 0)
		close(both);
	return fd;
}

static int fifo_open(struct eng_family *f, struct eng_proc *p, struct file_desc *d, struct error *e)
{
	const Sprite__Img__File *m = d->image;

	if (!m->fifo || !m->pipe)
		return res_bad_record(e, "named pipes");
	_cleanup_close_ int path = file_open_path(p, m, O_PATH, e);

	if (path < 0)
		return path;
	int r = hook(f, ENG_FIFO_KNOWN, (struct eng_fifo){.pid = getpid(), .num = path}, e);
	int fd = r < 0 ? r : reopen(path, m->flags);

	if (fd < 0)
		return r < 0 ? r : error_set(e, -fd, "named pipe %s cannot be opened there: %s", m->path, strerror(-fd));
	return fd;
}

static int fifo_finish(struct eng_proc *p, struct file_desc *d, int num, struct error *e)
{
	const Sprite__Img__File *m = d->image;
	struct fifos_state *s = state_of(p->family);
	struct eng_fifo x = {.token = m->fifo, .pid = p->pid, .num = num, .size = m->pipe->size <= INT32_MAX ? (int)m->pipe->size : 0};

	if (m->pipe->pipe != d->id)
		return 0;
	for (const struct file_desc *c = files_first(p->family); c; c = c->next)
		if (c->kind == &file_fifo && c->image->pipe && c->image->pipe->pipe == d->id) {
			x.reads |= reads(c->image->flags);
			x.writes |= writes(c->image->flags);
		}
	if (!s)
		return -ENOMEM;
	s->pledged = true;
	return hook(p->family, ENG_FIFO_PLEDGE, x, e);
}

static void fifos_resume(struct eng_proc *p)
{
	struct fifos_state **s = (struct fifos_state **)eng_family_res(p->family, &res_fifos);
	struct error e = {0};

	if (!p->family->hooks.fifo || (!p->family->found_again && !(*s && (*s)->pledged)))
		return;
	if (hook(p->family, ENG_FIFO_TAKE, (struct eng_fifo){.pid = p->pid}, &e) < 0)
		log_error("process %d: its named pipes: %s", p->vpid, e.text);
}

static void fifos_release(struct eng_family *f, struct eng_proc *p)
{
	struct fifos_state **s = (struct fifos_state **)eng_family_res(f, &res_fifos);

	if (p)
		return;
	free(*s);
	*s = NULL;
}

const struct file_kind file_fifo = {.name = "fifo", .is = is_fifo, .probe = fifo_probe, .dump = fifo_dump, .open = fifo_open, .finish = fifo_finish};
const struct eng_res res_fifos = {.name = "named pipes", .resume = fifos_resume, .thaw = fifos_thaw, .release = fifos_release};
