/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptor tables. Source: all descriptions of the family (kcmp(2) tells which descriptors share one), then each process's table. Destination: each description is
 * opened once, by us (eng_open() acts for the family's user in the family's root view), and given to every process that has it, under its number.
 *
 * fill()   RES_FILE_AHEAD: open it in advance (res_files_ahead.c); RES_FILE: open it; RES_FDS: remember
 * finish() give the numbers, then what needs all numbers in place (epoll)
 * hollow() close all but what is relayed: the hollow keeps the original there
 */
#include "migd/engine/res_files.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/kcmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "migd/engine/inject.h"

const struct eng_res res_files;

/* The first that fits: the general ones last. */
static const struct file_kind *const kinds[] = {
	&file_path_only, &file_tty,	&file_device,  &file_pipe,    &file_fifo,  &file_socket,    &file_memfd,    &file_mqueue,  &file_eventfd,
	&file_timerfd,	 &file_epoll,	&file_signalfd, &file_inotify, &file_pidfd, &file_directory, &file_handed, &file_unlinked, &file_shm, &file_regular, &file_other,
};

enum { BUCKETS = 1024 };
struct files_state { /* family's ->res[] */
	struct file_desc *first, **tail;
	struct file_desc *bucket[BUCKETS]; /* source only */
	uint64_t n;
	struct ahead *ahead; /* destination only */
};

/* ---- looking -------------------------------------------------------------------------------------- */

void file_look_free(struct file_look *l)
{
	free(l->link);
	free(l->info);
	l->link = l->info = NULL;
}

int file_look_at(pid_t pid, int dir, int num, struct file_look *l)
{
	char name[32], link[PATH_MAX];

	memset(l, 0, sizeof *l);
	l->pid = pid;
	l->dir = dir;
	l->num = num;
	snprintf(name, sizeof name, "fd/%d", num);
	ssize_t n = res_readlink(dir, name, link, sizeof link);

	if (n < 0)
		return n;
	if (fstatat(dir, name, &l->st, 0) < 0) {
		if (errno != ESTALE)
			return -errno;
		l->st = (struct stat){.st_mode = S_IFDIR}; /* removed at its server, which would have kept an open file */
	}
	res_undelete(dir, link, &l->st);
	snprintf(name, sizeof name, "fdinfo/%d", num);
	l->info = eng_proc_read(dir, name, NULL);
	if (!l->info)
		return -errno;
	uint32_t flags = res_field_u64(l->info, "flags", 8, 0);

	l->flags = flags & ~O_CLOEXEC;
	l->cloexec = flags & O_CLOEXEC;
	l->pos = res_field_u64(l->info, "pos", 10, 0);
	l->link = strdup(link);
	if (!l->link) {
		file_look_free(l);
		return -ENOMEM;
	}
	return 0;
}

int files_each(pid_t pid, int dir, int (*cb)(const struct file_look *l, void *ctx), void *ctx)
{
	int fd = openat(dir, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
	DIR *d = fd < 0 ? NULL : fdopendir(fd);

	if (!d) {
		r = -errno;
		if (fd >= 0)
			close(fd);
		return r;
	}
	for (struct dirent *e; !r && (e = readdir(d));) {
		struct file_look l;

		if (*e->d_name < '0' || *e->d_name > '9')
			continue;
		r = file_look_at(pid, dir, atoi(e->d_name), &l);
		if (r == -ENOENT || r == -EBADF) { /* closed meanwhile (probe of a running process) */
			r = 0;
			continue;
		}
		if (!r) {
			r = cb(&l, ctx);
			file_look_free(&l);
		}
	}
	closedir(d);
	return r;
}

static const struct file_kind *kind_of(const struct file_look *l)
{
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if (kinds[i]->is(l))
			return kinds[i];
	return &file_other;
}

static const struct file_kind *kind_by_name(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if (!strcmp(kinds[i]->name, name))
			return kinds[i];
	return NULL;
}

/* ---- probe ---------------------------------------------------------------------------------------- */

void file_reason(struct eng_probe *p, const struct file_look *l, const char *fmt, ...)
{
	char text[PATH_MAX + 200];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	eng_reason(p, "fd %d: %s", l->num, text);
}

struct probe_ctx {
	struct eng_probe *p;
	struct outside outside;
};

static int probe_one(const struct file_look *l, void *ctx)
{
	struct probe_ctx *x = ctx;
	const struct file_kind *k = kind_of(l);
	int share = k->outside ? k->outside(l) : OUTSIDE_ALL;

	if (share == OUTSIDE_NOT_FILE && x->p->goes_home && k == &file_unlinked) /* it is the same file at home */
		share = OUTSIDE_NOT_OFFSET;
	if (x->p->sizes)
		x->p->sizes->fds++;
	if (k->probe)
		k->probe(x->p, l);
	return share == OUTSIDE_ALL ? 0 : outside_add(&x->outside, l, (enum outside_rule)share);
}

static int files_probe(struct eng_probe *p)
{
	struct probe_ctx x = {.p = p};
	int r = files_each(p->pid, p->dir, probe_one, &x);

	if (!r)
		outside_report(p, &x.outside);
	outside_free(&x.outside);
	return r == -ESRCH || r == -ENOENT ? 0 : r;
}

/* ---- dump ----------------------------------------------------------------------------------------- */

static struct files_state *state_of(struct eng_family *f)
{
	struct files_state **s = (struct files_state **)eng_family_res(f, &res_files);

	if (!*s && (*s = calloc(1, sizeof **s)))
		(*s)->tail = &(*s)->first;
	return *s;
}

static void desc_free(struct file_desc *d)
{
	file_look_free(&d->look);
	if (d->image)
		sprite__img__file__free_unpacked(d->image, NULL);
	if (d->fd >= 0)
		close(d->fd);
	free(d);
}

static void state_clear(struct files_state *s)
{
	while (s->first) {
		struct file_desc *d = s->first;

		s->first = d->next;
		desc_free(d);
	}
	files_free_ahead(&s->ahead);
	memset(s, 0, sizeof *s);
	s->tail = &s->first;
}

struct file_desc *files_first(struct eng_family *f)
{
	return state_of(f) ? state_of(f)->first : NULL;
}

struct file_desc *file_by_id(struct eng_family *f, uint64_t id)
{
	for (struct file_desc *d = files_first(f); d; d = d->next)
		if (d->id == id)
			return d;
	return NULL;
}

/* What two descriptors of one description have in common for sure, so that few pairs need kcmp. */
static unsigned look_hash(const struct file_look *l)
{
	uint64_t h = l->st.st_ino * 0x9e3779b97f4a7c15u ^ l->st.st_dev;

	if (!S_ISREG(l->st.st_mode) && !S_ISDIR(l->st.st_mode)) /* whoever shares such a one moves it while we look */
		h ^= (uint64_t)l->flags << 20 ^ l->pos * 0xff51afd7ed558ccdu;
	h ^= res_field_u64(l->info, "eventfd-id", 10, 0) * 0x100000001b3u; /* anonymous inodes are all one */
	return (h ^ h >> 32) % BUCKETS;
}

struct dump_ctx {
	struct eng_family *f;
	struct eng_proc *p;
	Sprite__Img__Fds *m; /* NULL: only find descriptions */
	struct file_desc *(*found)(struct dump_ctx *x, const struct file_look *l);
};

static struct file_desc *desc_find(struct files_state *s, const struct file_look *l)
{
	for (struct file_desc *d = s->bucket[look_hash(l)]; d; d = d->bucket)
		if (d->look.st.st_ino == l->st.st_ino && d->look.st.st_dev == l->st.st_dev &&
		    res_same(d->look.pid, l->pid, KCMP_FILE, d->look.num, l->num))
			return d;
	return NULL;
}

static int find_one(const struct file_look *l, void *ctx)
{
	struct dump_ctx *x = ctx;
	struct files_state *s = state_of(x->f);
	struct file_desc *d = desc_find(s, l);

	if (d) {
		d->holders++;
		return 0;
	}
	d = calloc(1, sizeof *d);
	if (!d)
		return -ENOMEM;
	d->fd = -1;
	d->id = ++s->n;
	d->kind = kind_of(l);
	d->look = *l;
	d->look.link = strdup(l->link);
	d->look.info = strdup(l->info);
	d->holder = x->p;
	d->holders = 1;
	*s->tail = d;
	s->tail = &d->next;
	unsigned b = look_hash(l);

	d->bucket = s->bucket[b];
	s->bucket[b] = d;
	return d->look.link && d->look.info ? 0 : -ENOMEM;
}

/* F_SETOWN and F_SETSIG: only who asked for signals has them. */
static int owner_dump(struct file_desc *d, Sprite__Img__File *m, struct error *e)
{
	struct f_owner_ex o;

	if (!(d->look.flags & O_ASYNC))
		return 0;
	_cleanup_close_ int fd = eng_fd_get(d->holder, d->look.num);

	if (fd < 0)
		return error_set(e, -fd, "fd %d of %d: %s", d->look.num, d->holder->vpid, strerror(-fd));
	int sig = fcntl(fd, F_GETSIG);

	if (fcntl(fd, F_GETOWN_EX, &o) < 0 || !o.pid)
		return 0;
	for (size_t i = 0; i < eng_nprocs(d->holder->family); i++) {
		struct eng_proc *p = eng_proc_at(d->holder->family, i);
		struct eng_thread *t = res_thread_by_tid(p, o.pid); /* of a group: its leader */

		if (!t)
			continue;
		m->owner_type = o.type;
		m->owner = t->vtid;
		m->owner_sig = sig;
		return 0;
	}
	return error_set(e, EINVAL, "fd %d of %d: signals a process outside of its family (F_SETOWN): turn O_ASYNC off first", d->look.num, d->holder->vpid);
}

static int desc_dump(struct eng_family *f, struct file_desc *d, struct eng_image *out, struct error *e)
{
	Sprite__Img__File *m = calloc(1, sizeof *m);
	int r = -ENOMEM;

	if (!m)
		return r;
	sprite__img__file__init(m);
	if (!d->kind->open) { /* opened since the probe looked */
		free(m);
		return error_set(e, ENOTSUP, "fd %d of %d: %s cannot be carried", d->look.num, d->holder->vpid, d->look.link);
	}
	m->id = d->id;
	m->kind = strdup(d->kind->name);
	m->path = strdup(d->look.link);
	m->flags = d->look.flags;
	m->pos = d->look.pos;
	m->ino = d->look.st.st_ino;
	m->mode = d->look.st.st_mode;
	m->rdev = d->look.st.st_rdev;
	d->out = out;
	held_dump(f, d, m);
	if (m->kind && m->path) {
		r = owner_dump(d, m, e);
		if (!r && d->kind->dump)
			r = d->kind->dump(f, d, m, e);
		if (!r)
			r = eng_image_put_msg(out, RES_FILE, 0, &m->base);
	}
	sprite__img__file__free_unpacked(m, NULL);
	return r < 0 ? error_set(e, -r, "fd %d of %d (%s): %s", d->look.num, d->holder->vpid, d->look.link, strerror(-r)) : 0;
}

static int files_dump_family(struct eng_family *f, struct eng_image *out, struct error *e)
{
	struct files_state *s = state_of(f);
	int r = s ? 0 : -ENOMEM;

	if (s)
		state_clear(s);
	for (size_t i = 0; !r && i < eng_nprocs(f); i++) {
		struct dump_ctx x = {.f = f, .p = eng_proc_at(f, i)};

		r = files_each(x.p->pid, x.p->dir, find_one, &x);
	}
	if (r < 0)
		return error_set(e, -r, "descriptors cannot be read: %s", strerror(-r));
	r = held_begin(f, e);
	if (r < 0)
		return error_set(e, -r, "what others share with it cannot be kept: %s", strerror(-r));
	for (struct file_desc *d = s->first; !r && d; d = d->next)
		r = desc_dump(f, d, out, e);
	return r;
}

static int table_one(const struct file_look *l, void *ctx)
{
	struct dump_ctx *x = ctx;
	struct file_desc *d = desc_find(state_of(x->f), l);
	Sprite__Img__Fd **more = realloc(x->m->fd, (x->m->n_fd + 1) * sizeof *more), *fd = malloc(sizeof *fd);

	if (more)
		x->m->fd = more;
	if (!more || !fd || !d) {
		free(fd);
		return d ? -ENOMEM : -EAGAIN;
	}
	sprite__img__fd__init(fd);
	fd->num = l->num;
	fd->file = d->id;
	fd->cloexec = l->cloexec;
	x->m->fd[x->m->n_fd++] = fd;
	return 0;
}

static int files_dump(struct eng_proc *p, struct eng_image *out, struct error *e)
{
	struct dump_ctx x = {.f = p->family, .p = p, .m = calloc(1, sizeof *x.m)};

	if (!x.m)
		return -ENOMEM;
	sprite__img__fds__init(x.m);
	int r = files_each(p->pid, p->dir, table_one, &x);

	if (!r)
		r = eng_image_put_msg(out, RES_FDS, p->vpid, &x.m->base);
	sprite__img__fds__free_unpacked(x.m, NULL);
	return r < 0 ? error_set(e, -r, "descriptors of %d cannot be read: %s", p->vpid, strerror(-r)) : 0;
}

/* ---- fill ----------------------------------------------------------------------------------------- */

/* Is it the same object? Those of /proc (of a process of the family) have made-up inodes. */
static int is_the_same(int fd, const Sprite__Img__File *m, struct error *e)
{
	struct stat st = {0};

	if (fstat(fd, &st) == 0 && (!strncmp(m->path, "/proc/", 6) || res_same_ino(st.st_ino, m->ino)) && (st.st_mode & S_IFMT) == (m->mode & S_IFMT))
		return 0;
	return error_set(e, ESTALE, "%s is another file there (inode %llu, was %llu)", m->path, (unsigned long long)st.st_ino, (unsigned long long)m->ino);
}

int file_open_path(struct eng_proc *p, const Sprite__Img__File *m, uint32_t flags, struct error *e)
{
	struct files_state *s = state_of(p->family);
	int fd = s ? files_take_ahead(&s->ahead, p, m, flags) : -1, r, same;

	if (fd < 0)
		fd = eng_open(p, m->path, file_open_flags(flags), 0);
	r = fd < 0 ? error_set(e, -fd, "%s cannot be opened there: %s", m->path, strerror(-fd)) : is_the_same(fd, m, e);
	if (r == 0)
		return fd;
	if (fd >= 0)
		close(fd);
	same = res_by_inode(p, m->path, m->ino, m->mode, file_open_flags(flags));
	return same >= 0 ? same : r;
}

static int desc_open(struct eng_family *f, const void *body, size_t len, struct error *e)
{
	struct files_state *s = state_of(f);
	struct file_desc *d = calloc(1, sizeof *d);
	struct eng_proc *p = eng_proc_at(f, 0);

	if (!s || !d) {
		free(d);
		return -ENOMEM;
	}
	d->fd = -1;
	d->image = sprite__img__file__unpack(NULL, len, body);
	if (!d->image || !(d->kind = kind_by_name(d->image->kind)) || !d->kind->open) {
		desc_free(d);
		return res_bad_record(e, "open files");
	}
	d->id = d->image->id;
	*s->tail = d;
	s->tail = &d->next;
	int fd = held_take(f, d->image);

	if (fd >= 0) { /* it has never been closed */
		d->fd = fd;
		return 0;
	}
	fd = d->kind->open(f, p, d, e);
	if (fd < 0)
		return fd;
	d->fd = fd;
	/* What open(2) does not take, or the kind did not. O_PATH knows no flags. */
	const uint32_t settable = O_APPEND | O_NONBLOCK | O_ASYNC | O_DIRECT | O_NOATIME;
	int is = d->image->flags & O_PATH ? 0 : fcntl(fd, F_GETFL);

	if (!(d->image->flags & O_PATH) && ((is ^ d->image->flags) & (settable & ~O_ASYNC)) &&
	    fcntl(fd, F_SETFL, (is & ~settable) | (d->image->flags & settable & ~O_ASYNC)) < 0)
		return error_set(e, errno, "%s: flags %o: %s", d->image->path, d->image->flags, strerror(errno));
	return held_arrive(f, d);
}

static int files_fill(struct eng_family *f, struct eng_proc *p, uint32_t type, const void *body, size_t len, struct error *e)
{
	if (type == RES_FILE)
		return desc_open(f, body, len, e);
	if (type == RES_FILE_AHEAD)
		return state_of(f) ? files_fill_ahead(&state_of(f)->ahead, p, body, len, e) : -ENOMEM;
	if (!p)
		return res_bad_record(e, "descriptors");
	void **s = &p->res[eng_res_index(&res_files)];

	if (*s)
		sprite__img__fds__free_unpacked(*s, NULL);
	*s = sprite__img__fds__unpack(NULL, len, body);
	return *s ? 0 : res_bad_record(e, "descriptors");
}

/* ---- finish --------------------------------------------------------------------------------------- */

static int close_num(const struct file_look *l, void *ctx)
{
	struct eng_proc *p = ctx;
	long r = eng_syscall(p->threads[0], SYS_close, (long)l->num);

	return r == -ESRCH ? r : 0;
}

static int limit_files(pid_t pid, uint64_t files)
{
	struct rlimit lim;

	if (prlimit(pid, RLIMIT_NOFILE, NULL, &lim) < 0)
		return -errno;
	lim.rlim_cur = files;
	return prlimit(pid, RLIMIT_NOFILE, &lim, NULL) < 0 ? -errno : 0;
}

/* A hollow still has the relayed ones; the table of the image takes their place. The limit must let the highest number in; limits come later. */
static int table_prepare(struct eng_proc *p, const Sprite__Img__Fds *m, struct error *e)
{
	struct rlimit lim;
	uint32_t top = 0;
	inject_transfer_close(p); /* opened for the maps; comes again */
	int r = files_each(p->pid, p->dir, close_num, p);

	for (size_t i = 0; i < m->n_fd; i++)
		if (m->fd[i]->num > top)
			top = m->fd[i]->num;
	if (!r && prlimit(p->pid, RLIMIT_NOFILE, NULL, &lim) == 0 && lim.rlim_cur < top + 16) {
		lim.rlim_cur = top + 16;
		if (lim.rlim_max < lim.rlim_cur)
			lim.rlim_max = lim.rlim_cur;
		if (prlimit(p->pid, RLIMIT_NOFILE, &lim, NULL) < 0) /* just under a hard limit that we may not raise */
			r = limit_files(p->pid, top + 1);
	}
	return r < 0 ? error_set(e, -r, "descriptors of %d cannot be made ready: %s", p->vpid, strerror(-r)) : 0;
}

static int owner_set(struct file_desc *d, struct error *e)
{
	const Sprite__Img__File *m = d->image;

	if (!m->owner)
		return 0;
	for (size_t i = 0; i < eng_nprocs(eng_proc_at(d->holder->family, 0)->family); i++) {
		struct eng_thread *t = res_thread_by_vtid(eng_proc_at(d->holder->family, i), m->owner);
		struct f_owner_ex o = {.type = m->owner_type};

		if (!t)
			continue;
		o.pid = t->tid;
		if (fcntl(d->fd, F_SETOWN_EX, &o) < 0 || fcntl(d->fd, F_SETSIG, m->owner_sig) < 0)
			return error_set(e, errno, "%s: F_SETOWN: %s", m->path, strerror(errno));
	}
	return 0;
}

/* By the process itself: the signal tells the number over which it was asked for. */
static int async_set(struct eng_proc *p, struct file_desc *d, int num, struct error *e)
{
	int flags = fcntl(d->fd, F_GETFL);
	struct eng_call c[2] = {{SYS_fcntl, {num, F_SETFL, flags & ~O_ASYNC}, 0, 0, 0}, {SYS_fcntl, {num, F_SETFL, flags | O_ASYNC}, 0, 0, 0}};
	int r = d->image->owner ? eng_batch(p->threads[0], c, 2, NULL) : 0;

	return r < 0 ? error_set(e, -r, "fd %d of %d: O_ASYNC: %s", num, p->vpid, strerror(-r)) : 0;
}

static int offset_set(struct file_desc *d, struct error *e)
{
	bool has = S_ISREG(d->image->mode) || S_ISDIR(d->image->mode);

	/*
	 * ext4 keeps where a listing is beside the offset and forgets to reset it when the first listing of a description is at the end of the
	 * directory: after rewinddir(3) the directory would seem empty. One look at the start before makes it keep count.
	 */
	if (S_ISDIR(d->image->mode) && d->image->pos && !(d->image->flags & O_PATH)) {
		char some[4096];

		(void)!syscall(SYS_getdents64, d->fd, some, sizeof some);
	}
	if (!has || d->image->flags & O_PATH || lseek(d->fd, d->image->pos, SEEK_SET) >= 0)
		return 0;
	return error_set(e, errno, "%s: offset %lld: %s", d->image->path, (long long)d->image->pos, strerror(errno));
}

static int files_finish(struct eng_proc *p, struct error *e)
{
	void **s = &p->res[eng_res_index(&res_files)];
	Sprite__Img__Fds *m = *s;

	if (!m)
		return error_set(e, EBADMSG, "image: no descriptors of process %d", p->vpid);
	int r = table_prepare(p, m, e);
	_cleanup_free_ struct file_gift *gift = calloc(m->n_fd + 1, sizeof *gift);

	if (!gift)
		return -ENOMEM;
	for (size_t i = 0; !r && i < m->n_fd; i++) {
		struct file_desc *d = file_by_id(p->family, m->fd[i]->file);

		if (!d || d->fd < 0)
			return res_bad_record(e, "descriptors");
		if (!d->holder) { /* the first process that has it */
			d->holder = p;
			r = offset_set(d, e);
			if (!r)
				r = owner_set(d, e);
		}
		gift[i] = (struct file_gift){d->fd, m->fd[i]->num, m->fd[i]->cloexec};
	}
	if (!r && (r = files_give(p, gift, m->n_fd)) < 0)
		error_set(e, -r, "descriptors of %d cannot be given: %s", p->vpid, strerror(-r));
	for (size_t i = 0; !r && i < m->n_fd; i++) {
		struct file_desc *d = file_by_id(p->family, m->fd[i]->file);

		bool first = d->holder == p && !d->holders++;

		if (first && d->kind->finish)
			r = d->kind->finish(p, d, m->fd[i]->num, e);
		if (!r && first)
			r = async_set(p, d, m->fd[i]->num, e);
		if (!r && d->kind->each)
			r = d->kind->each(p, d, m->fd[i]->num, e);
	}
	sprite__img__fds__free_unpacked(m, NULL);
	*s = NULL;
	/* Ours would keep pipes from ending and files from closing: give them up with the last process. */
	if (!r && p == eng_proc_at(p->family, eng_nprocs(p->family) - 1))
		state_clear(state_of(p->family));
	return r;
}

/* ---- hollow --------------------------------------------------------------------------------------- */

struct hollow_ctx {
	struct eng_proc *p;
	struct eng_call c[64];
	size_t n;
	int r;
};

static int hollow_flush(struct hollow_ctx *x)
{
	int r = x->n ? eng_batch(x->p->threads[0], x->c, x->n, NULL) : 0;

	x->n = 0;
	return r;
}

static int hollow_one(const struct file_look *l, void *ctx)
{
	struct hollow_ctx *x = ctx;
	const struct file_kind *k = kind_of(l);

	if ((k->stays && k->stays(x->p, l)) || held_stays(x->p, l))
		return 0;
	x->c[x->n++] = (struct eng_call){SYS_close, {l->num}, 0, 1, 0};
	return x->n == ARRAY_SIZE(x->c) ? hollow_flush(x) : 0;
}

static int files_hollow(struct eng_proc *p, struct error *e)
{
	struct hollow_ctx x = {.p = p};
	int r = files_each(p->pid, p->dir, hollow_one, &x);

	if (!r)
		r = hollow_flush(&x);
	if (!r && p == eng_proc_at(p->family, eng_nprocs(p->family) - 1))
		state_clear(state_of(p->family)); /* what was dumped: the image that comes home has descriptions of its own */
	return r < 0 && r != -ESRCH ? error_set(e, -r, "descriptors of %d cannot be closed: %s", p->vpid, strerror(-r)) : 0;
}

static void files_release(struct eng_family *f, struct eng_proc *p)
{
	unsigned i = eng_res_index(&res_files);

	if (p) {
		if (p->res[i])
			sprite__img__fds__free_unpacked(p->res[i], NULL);
		p->res[i] = NULL;
		return;
	}
	struct files_state **s = (struct files_state **)eng_family_res(f, &res_files);

	if (!eng_nprocs(f)) /* else an image is over, the family is not */
		held_drop(f);
	if (*s) {
		state_clear(*s);
		free(*s);
		*s = NULL;
	}
}

static int files_save(const struct eng_family *f, FILE *o)
{
	held_save(f, o);
	return 0;
}

static int files_restore(struct eng_family *f, const char *line, bool hollow)
{
	(void)hollow;
	return held_restore(f, line);
}

/* At home, for all of the family at once: its processes have what is held again. */
static void files_resume(struct eng_proc *p)
{
	if (!p->family->nest)
		held_drop(p->family);
}

const struct eng_res res_files = {
	.name = "files",
	.types = {RES_FILE, RES_FILE_AHEAD},
	.probe = files_probe,
	.settled = files_settled,
	.dump_family = files_dump_family,
	.dump = files_dump,
	.fill = files_fill,
	.finish = files_finish,
	.hollow = files_hollow,
	.resume = files_resume,
	.save = files_save,
	.restore = files_restore,
	.release = files_release,
};
