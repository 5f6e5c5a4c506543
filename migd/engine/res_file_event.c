/* SPDX-License-Identifier: Apache-2.0 */
/*
 * eventfd, timerfd, signalfd. All that they are is in their fdinfo (proc(5)). They are made by us and handed over; a timerfd is armed by the target,
 * whose time namespace its absolute times belong to.
 */
#include "migd/engine/res_files.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>
#include "conf/cleanup.h"

#define TIMERFD_SET_TICKS _IOW('T', 0, uint64_t) /* TFD_IOC_SET_TICKS of linux/timerfd.h */

/* ---- eventfd ---------------------------------------------------------------------------------------- */

static bool is_eventfd(const struct file_look *l)
{
	return !strcmp(l->link, "anon_inode:[eventfd]");
}

static int eventfd_dump(struct eng_family *f, struct file_desc *d, Sprite__Img__File *m, struct error *e)
{
	const char *count = eng_field(d->look.info, "eventfd-count");

	(void)f;
	if (!count)
		return error_set(e, ENOTSUP, "eventfd: this kernel does not tell its count");
	m->eventfd = malloc(sizeof *m->eventfd);
	if (!m->eventfd)
		return -ENOMEM;
	sprite__img__eventfd__init(m->eventfd);
	m->eventfd->count = strtoull(count, NULL, 16);
	m->eventfd->semaphore = res_field_u64(d->look.info, "eventfd-semaphore", 10, 0);
	return 0;
}

static int eventfd_open(struct eng_family *f, struct eng_proc *p, struct file_desc *d, struct error *e)
{
	const Sprite__Img__Eventfd *m = d->image->eventfd;

	(void)f, (void)p;
	if (!m)
		return res_bad_record(e, "eventfd");
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | (m->semaphore ? EFD_SEMAPHORE : 0));

	if (fd < 0 || (m->count && write(fd, &m->count, sizeof m->count) != sizeof m->count)) {
		int r = error_set(e, errno, "eventfd: %s", strerror(errno));

		if (fd >= 0)
			close(fd);
		return r;
	}
	return fd;
}

/* ---- signalfd --------------------------------------------------------------------------------------- */

static bool is_signalfd(const struct file_look *l)
{
	return !strcmp(l->link, "anon_inode:[signalfd]");
}

static int signalfd_dump(struct eng_family *f, struct file_desc *d, Sprite__Img__File *m, struct error *e)
{
	(void)f, (void)e;
	m->signalfd = malloc(sizeof *m->signalfd);
	if (!m->signalfd)
		return -ENOMEM;
	sprite__img__signalfd__init(m->signalfd);
	m->signalfd->mask = res_field_u64(d->look.info, "sigmask", 16, 0);
	return 0;
}

static int signalfd_open(struct eng_family *f, struct eng_proc *p, struct file_desc *d, struct error *e)
{
	(void)f, (void)p;
	if (!d->image->signalfd)
		return res_bad_record(e, "signalfd");
	uint64_t mask = d->image->signalfd->mask;
	int fd = syscall(SYS_signalfd4, -1, &mask, sizeof mask, SFD_CLOEXEC);

	return fd < 0 ? error_set(e, errno, "signalfd: %s", strerror(errno)) : fd;
}

/* ---- timerfd ---------------------------------------------------------------------------------------- */

static bool is_timerfd(const struct file_look *l)
{
	return !strcmp(l->link, "anon_inode:[timerfd]");
}

static uint64_t ts_ns(struct timespec t)
{
	return (uint64_t)t.tv_sec * 1000000000u + t.tv_nsec;
}
static struct timespec ns_ts(uint64_t ns)
{
	return (struct timespec){ns / 1000000000u, ns % 1000000000u};
}

/*
 * A periodic timer that fell due stands still until somebody looks; timerfd_gettime(2) makes it catch up, and only then ticks and remaining time are true.
 */
static int timerfd_dump(struct eng_family *f, struct file_desc *d, Sprite__Img__File *m, struct error *e)
{
	struct itimerspec its;
	struct file_look l;
	uint64_t now;
	int clock = res_field_u64(d->look.info, "clockid", 10, 0);
	bool wall = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_ALARM,
	     absolute = !wall || res_field_u64(d->look.info, "settime flags", 8, 0) & TFD_TIMER_ABSTIME;
	int reference = !absolute ? CLOCK_MONOTONIC : wall ? CLOCK_REALTIME : clock == CLOCK_MONOTONIC ? CLOCK_MONOTONIC : CLOCK_BOOTTIME;

	(void)f;
	for (int tries = 0;; tries++) {
		int r = res_timer_read(d->holder->threads[0], SYS_timerfd_gettime, d->look.num, reference, &its, &now);

		if (r < 0 || (r = file_look_at(d->look.pid, d->look.dir, d->look.num, &l)) < 0)
			return error_set(e, -r, "timerfd: %s", strerror(-r));
		/* Standing still again: it fell due between the two looks, and that tick would be told twice. */
		if (tries == 10 || !ts_ns(its.it_interval) || !strstr(l.info, "it_value: (0, 0)"))
			break;
		file_look_free(&l);
	}
	m->timerfd = malloc(sizeof *m->timerfd);
	if (!m->timerfd) {
		file_look_free(&l);
		return -ENOMEM;
	}
	Sprite__Img__Timerfd *t = m->timerfd;

	sprite__img__timerfd__init(t);
	t->clock = res_field_u64(l.info, "clockid", 10, 0);
	t->ticks = res_field_u64(l.info, "ticks", 10, 0);
	t->settime_flags = res_field_u64(l.info, "settime flags", 8, 0);
	t->value = ts_ns(its.it_value);
	t->interval = ts_ns(its.it_interval);
	file_look_free(&l);
	if (absolute && t->value)
		t->due = now + t->value;
	else
		t->monotonic = now;
	return 0;
}

static int timerfd_open(struct eng_family *f, struct eng_proc *p, struct file_desc *d, struct error *e)
{
	(void)f, (void)p;
	if (!d->image->timerfd)
		return res_bad_record(e, "timerfd");
	int fd = timerfd_create(d->image->timerfd->clock, TFD_CLOEXEC);

	return fd < 0 ? error_set(e, errno, "timerfd: %s", strerror(errno)) : fd;
}

/* Ticks that were unread, plus what has come since; not near an expiry, which could come between looking and setting. */
static int ticks_add(struct eng_proc *p, int num, int fd, uint64_t ticks)
{
	struct itimerspec left;

	for (int tries = 0; tries < 100; tries++) {
		struct file_look l;

		if (timerfd_gettime(fd, &left) < 0)
			return -errno;
		if (ts_ns(left.it_value) && ts_ns(left.it_value) < 200000) {
			nanosleep(&left.it_value, NULL);
			if (ts_ns(left.it_interval) > 400000)
				continue;
		}
		int r = file_look_at(p->pid, p->dir, num, &l);

		if (r < 0)
			return r;
		ticks += res_field_u64(l.info, "ticks", 10, 0);
		file_look_free(&l);
		return ioctl(fd, TIMERFD_SET_TICKS, &ticks) < 0 ? -errno : 0;
	}
	return -EBUSY;
}

static int timerfd_finish(struct eng_proc *p, struct file_desc *d, int num, struct error *e)
{
	const Sprite__Img__Timerfd *t = d->image->timerfd;
	struct itimerspec its = {.it_interval = ns_ts(t->interval)};
	long flags = t->settime_flags & ~TFD_TIMER_ABSTIME;

	eng_scratch_reset(p);
	if (t->due) {
		flags |= TFD_TIMER_ABSTIME;
		its.it_value = ns_ts(t->due);
	} else if (t->value) {
		uint64_t now = res_clock(p->threads[0], CLOCK_MONOTONIC), by = now > t->monotonic ? now - t->monotonic : 0;

		its.it_value = ns_ts(t->value > by ? t->value - by : 1);
	}
	long r = 0;

	if (t->value)
		r = eng_syscall(p->threads[0], SYS_timerfd_settime, (long)num, flags, eng_scratch_put(p, &its, sizeof its), 0ul);
	if (!r && t->ticks)
		r = ticks_add(p, num, d->fd, t->ticks);
	return r < 0 ? error_set(e, -r, "timerfd (fd %d): %s", num, strerror(-r)) : 0;
}

const struct file_kind file_eventfd = {.name = "eventfd", .is = is_eventfd, .dump = eventfd_dump, .open = eventfd_open};
const struct file_kind file_signalfd = {.name = "signalfd", .is = is_signalfd, .dump = signalfd_dump, .open = signalfd_open};
const struct file_kind file_timerfd = {
	.name = "timerfd", .is = is_timerfd, .dump = timerfd_dump, .open = timerfd_open, .finish = timerfd_finish};
