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

#define PLACE_TRIES 100 /* writers of this node may be faster */
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

/*
 * One try to put s into the pipe, before all that writers of this node have put there. The pipe is one page small, so that they wait with at most a page in it. Everything
 * is laid out beforehand: all but the last of `pages` pieces are s. Then that page is read as the last piece, the pipe made exactly as large as all pieces, and they are
 * put in. If they went in whole, nobody was before us. If not, the pipe is full: nobody writes until we have taken out what came first, which goes behind s, and our
 * part of it. -EAGAIN: try again, nothing is changed but s.
 */
static int stack_try(struct stack *s, int r, int w, uint8_t *m, size_t pages)
{
	struct iovec v[UIO_MAXIOV];
	size_t at = 0, n = pages - 1;
	ssize_t last, in = -1;
	bool too_large = false;
	size_t first;
	int all = 0;

	for (size_t i = 0; i < n; i++) {
		size_t part = (s->len - at + n - i - 1) / (n - i);

		memcpy(m + i * PAGE, s->p + at, part);
		v[i] = (struct iovec){m + i * PAGE, part};
		at += part;
	}
	last = read(r, m + n * PAGE, PAGE);
	if (last > 0) {
		v[n] = (struct iovec){m + n * PAGE, (size_t)last};
	} else if (n > 1) { /* it was empty: one of ours in two halves */
		v[n] = (struct iovec){(uint8_t *)v[n - 1].iov_base + v[n - 1].iov_len / 2, v[n - 1].iov_len - v[n - 1].iov_len / 2};
		v[n - 1].iov_len /= 2;
	} else {
		pages = 1;
	}
	if (pages == 1 || fcntl(w, F_SETPIPE_SZ, pages * PAGE) >= 0)
		in = vmsplice(w, v, pages, SPLICE_F_NONBLOCK);
	else
		too_large = errno == EPERM;
	if (last > 0 && stack_room(s, (size_t)last)) {
		memcpy(s->p + s->len, m + n * PAGE, (size_t)last);
		s->len += (size_t)last;
	}
	if (in == (ssize_t)s->len)
		return 0;
	if (in <= 0)
		return too_large ? -EFBIG : -EAGAIN;
	/* by one call, and the pipe small again at once: while we do that, who waits for room has not woken up yet */
	ioctl(w, FIONREAD, &all);
	first = (size_t)all - (size_t)in;
	if (!stack_room(s, first))
		return -ENOMEM;
	v[0] = (struct iovec){s->p + s->len, first};
	v[1] = (struct iovec){m + pages * PAGE, (size_t)in}; /* the pages of m itself are in the pipe */
	if (readv(r, v, 2) > 0)
		fcntl(w, F_SETPIPE_SZ, PAGE);
	s->len += first;
	return -EAGAIN;
}

/* Puts s before all that is in the pipe. */
static int stack_front(struct stack *s, int r, int w)
{
	struct sched_param high = {.sched_priority = 1}, normal = {0};
	int err = -EAGAIN;

	sched_setscheduler(0, SCHED_FIFO, &high); /* a race against writers: all depends on losing no time */
	for (int i = 0; i < PLACE_TRIES && err == -EAGAIN; i++) {
		size_t pages = 2;
		uint8_t *m;

		while (fcntl(w, F_SETPIPE_SZ, PAGE) < 0 && errno == EBUSY && s->len < UIO_MAXIOV * PAGE)
			stack_drain(s, r);
		while ((pages - 1) * PAGE < s->len)
			pages *= 2;
		m = pages > UIO_MAXIOV ? MAP_FAILED : mmap(NULL, 2 * pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
		err = m == MAP_FAILED ? -EFBIG : stack_try(s, r, w, m, pages);
		if (m != MAP_FAILED)
			munmap(m, 2 * pages * PAGE); /* the pipe keeps the pages of the first half */
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
		int err = stack_front(&s, r, f->end);

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
