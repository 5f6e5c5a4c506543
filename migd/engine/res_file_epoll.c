/* SPDX-License-Identifier: Apache-2.0 */
/*
 * epoll. fdinfo lists the targets by the number under which they were added; kcmp(KCMP_EPOLL_TFD) tells which description each is, since that number may
 * have been closed or given to another file meanwhile (epoll(7), Q6). Nested epolls are targets like any other.
 * Restored when all descriptors of a holder are in place; a target that is no longer at its number is put there for the moment of EPOLL_CTL_ADD.
 */
#include "migd/engine/res_files.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "conf/cleanup.h"

static bool is_epoll(const struct file_look *l)
{
	return !strcmp(l->link, "anon_inode:[eventpoll]");
}

/* Is description c the nth target that was added as number tfd? */
static bool is_target(const struct file_desc *d, const struct file_desc *c, unsigned tfd, unsigned nth)
{
	struct kcmp_epoll_slot slot = {.efd = d->look.num, .tfd = tfd, .toff = nth};

	return syscall(SYS_kcmp, c->look.pid, d->look.pid, KCMP_EPOLL_TFD, c->look.num, &slot) == 0;
}

static uint64_t target_find(struct eng_family *f, const struct file_desc *d, unsigned tfd, unsigned nth, uint64_t ino)
{
	for (struct file_desc *c = files_first(f); c; c = c->next)
		if (c->look.st.st_ino == ino && is_target(d, c, tfd, nth))
			return c->id;
	return 0;
}

static int epoll_dump(struct eng_family *f, struct file_desc *d, Sprite__Img__File *m, struct error *e)
{
	size_t max = 0;

	for (const char *s = d->look.info; (s = strstr(s, "tfd:")); s += 4)
		max++;
	m->epoll = malloc(sizeof *m->epoll);
	if (!m->epoll)
		return -ENOMEM;
	sprite__img__epoll__init(m->epoll);
	m->epoll->target = calloc(max + 1, sizeof *m->epoll->target);
	if (!m->epoll->target)
		return -ENOMEM;
	for (const char *s = d->look.info; (s = strstr(s, "tfd:")); s += 4) {
		unsigned tfd, events;
		unsigned long long data, ino = 0;

		if (sscanf(s, "tfd: %u events: %x data: %llx pos:%*d ino:%llx", &tfd, &events, &data, &ino) != 4)
			return error_set(e, ENOTSUP, "epoll: this kernel does not tell its targets");
		unsigned nth = 0;

		for (size_t i = 0; i < m->epoll->n_target; i++)
			nth += m->epoll->target[i]->num == tfd;
		Sprite__Img__EpollTarget *t = malloc(sizeof *t);

		if (!t)
			return -ENOMEM;
		sprite__img__epoll_target__init(t);
		t->num = tfd;
		t->events = events;
		t->data = data;
		t->file = target_find(f, d, tfd, nth, ino);
		m->epoll->target[m->epoll->n_target++] = t;
		if (!t->file)
			return error_set(e, EBADF, "epoll watches a file (added as fd %u) that no process of the family has open", tfd);
	}
	return 0;
}

static int epoll_open(struct eng_family *f, struct eng_proc *p, struct file_desc *d, struct error *e)
{
	(void)f, (void)p;
	if (!d->image->epoll)
		return res_bad_record(e, "epoll");
	int fd = epoll_create1(EPOLL_CLOEXEC);

	return fd < 0 ? error_set(e, errno, "epoll: %s", strerror(errno)) : fd;
}

static int free_number(struct eng_proc *p, int above)
{
	char name[24], link[16];

	for (;; above++) {
		snprintf(name, sizeof name, "fd/%d", above);
		if (readlinkat(p->dir, name, link, sizeof link) < 0)
			return above;
	}
}

/* Adds t to epoll `num` of process p, whatever is at t's number now. */
static int target_add(struct eng_proc *p, int num, const Sprite__Img__EpollTarget *t, struct file_desc *c)
{
	struct epoll_event ev = {.events = t->events, .data.u64 = t->data};
	struct file_look l;
	int there = file_look_at(p->pid, p->dir, t->num, &l), saved = -1;
	bool right = there == 0 && res_same(p->pid, getpid(), KCMP_FILE, t->num, c->fd);
	bool cloexec = there == 0 && l.cloexec;
	long r = 0;

	if (there == 0)
		file_look_free(&l);
	eng_scratch_reset(p);
	uint64_t at = eng_scratch_put(p, &ev, sizeof ev);

	if (right)
		return eng_syscall(p->threads[0], SYS_epoll_ctl, (long)num, (long)EPOLL_CTL_ADD, (long)t->num, at);
	if (there == 0) { /* lend the number and give it back */
		saved = eng_fd_get(p, t->num);
		if (saved < 0)
			return saved;
		r = eng_syscall(p->threads[0], SYS_close, (long)t->num);
	}
	if (!r)
		r = eng_fd_install(p, c->fd, t->num, 0);
	if (!r) {
		eng_scratch_reset(p);
		at = eng_scratch_put(p, &ev, sizeof ev);
		r = eng_syscall(p->threads[0], SYS_epoll_ctl, (long)num, (long)EPOLL_CTL_ADD, (long)t->num, at);
		eng_syscall(p->threads[0], SYS_close, (long)t->num);
	}
	if (saved >= 0) {
		int back = eng_fd_install(p, saved, t->num, cloexec ? O_CLOEXEC : 0);

		if (!r)
			r = back;
		close(saved);
	}
	return r;
}

static int epoll_finish(struct eng_proc *p, struct file_desc *d, int num, struct error *e)
{
	const Sprite__Img__Epoll *m = d->image->epoll;

	for (size_t i = 0; i < m->n_target; i++) {
		struct file_desc *c = file_by_id(p->family, m->target[i]->file);

		if (!c || c->fd < 0)
			return res_bad_record(e, "epoll");
		int at = num;

		if ((int)m->target[i]->num == num) { /* the epoll's own number was once the target's: use another for it meanwhile */
			at = free_number(p, num + 1);
			int r = eng_syscall(p->threads[0], SYS_dup3, (long)num, (long)at, (long)O_CLOEXEC);

			if (r < 0)
				return error_set(e, -r, "epoll (fd %d): %s", num, strerror(-r));
		}
		int r = target_add(p, at, m->target[i], c);

		if (at != num)
			eng_syscall(p->threads[0], SYS_close, (long)at);
		if (r < 0)
			return error_set(e, -r, "epoll (fd %d): target %u (%s): %s", num, m->target[i]->num, c->image->path, strerror(-r));
	}
	return 0;
}

const struct file_kind file_epoll = {.name = "epoll", .is = is_epoll, .dump = epoll_dump, .open = epoll_open, .finish = epoll_finish};
