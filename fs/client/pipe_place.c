// SPDX-License-Identifier: Apache-2.0
/*
 * Order. The hub's bytes go behind what is in the pipe, but for the first reader of this node (an opener that waits for our answer, or a process that moves here): what
 * the hub has then is older than what writers of this node have put into the pipe while nobody read, and goes before it, before anybody reads on.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/log.h"
#include "fs/client/pipe_int.h"

#define PLACE_TRIES 20 /* writers of this node may be faster */
#define GROWN_MAX   (64 << 20)
#define DRAIN_MAX   (256u << 10)

static bool stack_room(struct stack *s, size_t n)
{
	size_t room = s->room ? s->room : CHUNK;
	uint8_t *p;

	while (room < s->len + n)
		room *= 2;
	if (room == s->room)
		return true;
	p = realloc(s->p, room);
	if (!p)
		return false;
	s->p = p;
	s->room = room;
	return true;
}

void stack_read(struct stack *s, int fd, size_t n)
{
	while (n && stack_room(s, PAGE)) {
		ssize_t k = read(fd, s->p + s->len, s->room - s->len < n ? s->room - s->len : n);

		if (k <= 0)
			return;
		s->len += (size_t)k;
		n -= (size_t)k;
	}
}

void stack_drain(struct stack *s, int r)
{
	ssize_t n;

	if (!stack_room(s, DRAIN_MAX))
		return;
	memset(s->p + s->len, 0, DRAIN_MAX); /* the room is made, and touched, before: whoever writes gets no time in between */
	n = read(r, s->p + s->len, DRAIN_MAX);
	if (n > 0)
		s->len += (size_t)n;
}

void stack_send(struct fifo *f, const struct stack *s, size_t at)
{
	while (at < s->len) {
		size_t part = s->len - at < CHUNK ? s->len - at : CHUNK;

		f->unacked += part;
		pipe_say(f, SPRITE__FS__PIPE_MSG__KIND__DATA, 0, 0, s->p + at, part);
		at += part;
	}
}

/* n bytes that are there. */
static void pull(int r, uint8_t *to, size_t n)
{
	ssize_t k;

	for (; n && (k = read(r, to, n)) > 0; n -= (size_t)k)
		to += k;
}

/*
 * Our pages, which are in the pipe and fill it to the brim, get their content: at their end s, then what came before them. That is read first, and last what is over at
 * their beginning, so s is what comes next. Who finds room meanwhile writes behind them.
 */
static void stack_settle(struct stack *s, int r, uint8_t *m, size_t in, size_t before)
{
	size_t spare = in - before - s->len;

	pull(r, s->p + s->len, before);
	s->len += before;
	memcpy(m + spare, s->p, s->len);
	pull(r, s->p + s->len, spare);
}

/*
 * One try. Writers of this node can be kept from writing only by a full pipe, and one that has room for s has room for them: so what comes first is settled when it is full.
 * The pipe is made much larger and, with the next call, filled to the brim with pages of ours, of which it keeps references (vmsplice(2); shared ones, or a fork in another
 * thread would make copies of those that we write to). Now it is full, whoever was quicker: what is in it and not ours came before, and nothing is behind. If our pages have
 * room for that and for s: stack_settle(). If not, writers had too much time between the two calls: all is taken out, the pipe is made a page small, and
 * what came before goes behind s. -EAGAIN: try again, nothing is changed but s.
 */
static int stack_try(struct stack *s, int r, int w)
{
	int all = 0, size = fcntl(w, F_GETPIPE_SZ), err = -EAGAIN;
	size_t least, room = PAGE, in, before;
	struct iovec v;
	ssize_t n;

	if (size < 0 || ioctl(w, FIONREAD, &all))
		return -errno;
	least = (size_t)size + s->len + (size_t)all;
	while (room < 2 * least)
		room *= 2;
	v = (struct iovec){mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0), room};
	if (v.iov_base == MAP_FAILED)
		return -ENOMEM;
	if (!stack_room(s, room))
		err = -ENOMEM;
	while (err == -EAGAIN && fcntl(w, F_SETPIPE_SZ, room) < 0) {
		if (errno != EPERM || room / 2 < least)
			err = errno == EPERM ? -EFBIG : -errno;
		room /= 2;
	}
	n = err == -EAGAIN ? vmsplice(w, &v, 1, SPLICE_F_NONBLOCK) : 0;
	if (err == -EAGAIN) {
		in = n > 0 ? (size_t)n : 0;
		ioctl(w, FIONREAD, &all);
		before = (size_t)all - in;
		if (in >= s->len + before) {
			stack_settle(s, r, v.iov_base, in, before);
			err = 0;
		} else { /* by one call, and the pipe small at once: while we do that, who waits for room has not woken up yet */
			n = read(r, s->p + s->len, (size_t)all);
			fcntl(w, F_SETPIPE_SZ, PAGE);
			s->len += n < (ssize_t)before ? (n > 0 ? (size_t)n : 0) : before;
		}
	}
	munmap(v.iov_base, v.iov_len);
	return err;
}

int stack_front(struct stack *s, int r, int w)
{
	struct sched_param high = {.sched_priority = 1}, normal = {0};
	int err = -EAGAIN;

	sched_setscheduler(0, SCHED_FIFO, &high); /* the less time is lost, the less has to be tried again */
	for (int i = 0; i < PLACE_TRIES && (err == -EAGAIN || (err == -EFBIG && i == 1)); i++) { /* one that was large already is made small first */
		while (i && fcntl(w, F_SETPIPE_SZ, PAGE) < 0 && errno == EBUSY && s->len < GROWN_MAX)
			stack_drain(s, r);
		err = stack_try(s, r, w);
	}
	sched_setscheduler(0, SCHED_OTHER, &normal);
	return err == -EAGAIN ? -EBUSY : err;
}

/* Behind what is there, in a pipe that grows as need be. How many bytes went in: all, if the kernel lets it grow so far. */
static size_t stack_behind(const struct stack *s, int w)
{
	size_t at = 0;

	while (at < s->len) {
		ssize_t n = write(w, s->p + at, s->len - at);
		int size = fcntl(w, F_GETPIPE_SZ);

		if (n > 0)
			at += (size_t)n;
		else if (n == 0 || errno != EAGAIN || size <= 0 || size > GROWN_MAX || fcntl(w, F_SETPIPE_SZ, 2 * size) < 0)
			break;
	}
	return at;
}

void pipe_place(struct agent *a, struct fifo *f)
{
	struct stack s = {0};
	size_t n = 0, placed = 0;
	struct bytes *b, *tmp;
	int size;

	if (f->role != SINK || list_empty(&f->out)) {
		f->front = false;
		return;
	}
	list_each(b, &f->out, link)
		if (stack_room(&s, b->len - b->off)) {
			memcpy(s.p + s.len, b->data + b->off, b->len - b->off);
			s.len += b->len - b->off;
		}
	n = s.len;
	size = fcntl(f->end, F_GETPIPE_SZ);
	if (f->front) {
		_cleanup_close_ int r = fifo_open(a->fs, f->ino, O_RDONLY);
		int err = r < 0 ? r : stack_front(&s, r, f->end);

		placed = err ? 0 : s.len;
		if (err)
			log_warn("%zu bytes of a pipe go behind newer ones: %s", n, strerror(-err));
	}
	if (!placed)
		placed = stack_behind(&s, f->end);
	list_each_safe(b, tmp, &f->out, link) {
		list_del(&b->link);
		free(b);
	}
	/* As much as the kernel lets us; the rest as usual, and by way of the hub what writers of this node had put in. */
	if (placed < n && (b = malloc(sizeof(*b) + n - placed))) {
		*b = (struct bytes){.len = n - placed};
		memcpy(b->data, s.p + placed, b->len);
		list_add_tail(&f->out, &b->link);
	}
	stack_send(f, &s, placed > n ? placed : n);
	n = placed < n ? placed : n;
	f->front = false;
	if (!f->grown && fcntl(f->end, F_GETPIPE_SZ) != size && fcntl(f->end, F_SETPIPE_SZ, size) < 0)
		f->grown = size;
	free(s.p);
	if (n)
		pipe_say(f, SPRITE__FS__PIPE_MSG__KIND__ACK, 0, n, NULL, 0);
}
