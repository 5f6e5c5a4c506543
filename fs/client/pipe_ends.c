// SPDX-License-Identifier: Apache-2.0
/*
 * Our ends of the kernel's FIFOs, opened through our own mount (those opens come back as GETATTRs of our own threads, which are answered at once).
 *
 *	role SINK    `end` is a write end: bytes of the hub go in, each acknowledged when it is in; its error means that all readers have gone
 *	role SOURCE  `end` is a read end: what comes out goes to the hub, at most WINDOW unacknowledged; its end means that all writers have gone
 *
 * An end is opened before the process it is for has come in, so "gone" may also be "not there yet": while an opener for that direction is between its
 * GETATTR and the end of its open, we look again a little later.
 *
 * Order: the hub's bytes go behind what is in the pipe, but for the first reader of this node (an opener that waits for our answer, or a process that moves here): what
 * the hub has then is older than what writers of this node have put into the pipe while nobody read, and goes before it (pipe_place()).
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/log.h"
#include "fs/client/pipe_int.h"

#define PLACE_TRIES 100 /* writers of this node may be faster */
#define SHRINK_TRIES 3
#define GROWN_MAX   (64 << 20)
#define DRAIN_MAX   (256u << 10)

/* What the kernel has under this node id, whatever its name is now. */
static int fifo_path(struct fs *fs, const struct inode *ino)
{
	struct {
		struct file_handle h;
		uint32_t id[3];
	} fh = {.h = {.handle_bytes = 12, .handle_type = 0x81}, .id = {(uint32_t)(ino->id >> 32), (uint32_t)ino->id, 1}}; /* FILEID_INO64_GEN */
	_cleanup_close_ int mount = open(fs->mount, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int fd = mount < 0 ? -1 : open_by_handle_at(mount, &fh.h, O_PATH | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

int fifo_open(struct fs *fs, const struct inode *ino, int flags)
{
	_cleanup_close_ int path = fifo_path(fs, ino);
	char name[40];
	int fd;

	if (path < 0)
		return path;
	snprintf(name, sizeof(name), "/proc/self/fd/%d", path);
	if (flags == O_RDWR) { /* a write end where nobody reads */
		_cleanup_close_ int both = open(name, O_RDWR | O_NONBLOCK | O_CLOEXEC);

		fd = both < 0 ? -1 : open(name, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
		return fd < 0 ? -errno : fd;
	}
	fd = open(name, flags | O_NONBLOCK | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

void fifo_look(struct agent *a, struct fifo *f, int but, bool *r, bool *w)
{
	_cleanup_close_ int path = fifo_path(a->fs, f->ino);
	bool coming_r = pipe_coming(f, true), coming_w = pipe_coming(f, false);
	struct claim *c;

	pipe_proc_holders(path, but, r, w);
	*r |= coming_r;
	*w |= coming_w;
	list_each(c, &f->claims, link)
		if (!c->pledge) {
			*r |= c->r;
			*w |= c->w;
		}
}

/* A pipe of one page gives out whole writes only (pipe_state.h). Not while more is in it: then a little later. */
static void source_size(struct fifo *f)
{
	int size = fcntl(f->end, F_GETPIPE_SZ);

	if (f->shared && !f->size && size > PAGE && fcntl(f->end, F_SETPIPE_SZ, PAGE) >= 0)
		f->size = size;
	else if (!f->shared && f->size && fcntl(f->end, F_SETPIPE_SZ, f->size) >= 0)
		f->size = 0;
}

/* Was made large for somebody who moved here; as soon as what is in it fits it gets its size back. Until then nothing more goes in. */
static void shrink(struct fifo *f)
{
	if (fcntl(f->end, F_SETPIPE_SZ, f->grown) >= 0)
		f->grown = 0;
}

void end_close(struct fifo *f)
{
	struct list *l;

	if (f->size) { /* the writers go on with the pipe as it was */
		f->shared = false;
		source_size(f);
		f->size = 0;
	}
	if (f->grown && f->end >= 0)
		shrink(f); /* or later, when we have an end again */
	if (f->end >= 0)
		close(f->end); /* epoll forgets it */
	f->end = -1;
	f->role = NONE;
	f->again = 0;
	while ((l = list_pop(&f->out)))
		free(list_entry(l, struct bytes, link));
}

/* The same, while a reader may be on its way to what we have put in: the last end must not go (pipe_guard.c). */
void end_leave(struct agent *a, struct fifo *f)
{
	int n = 0;

	if (f->role == SINK && pipe_coming(f, true) && !ioctl(f->end, FIONREAD, &n) && n)
		guard_open(a, f);
	end_close(f);
}

static void arm(struct agent *a, struct fifo *f, uint32_t events)
{
	struct epoll_event ev = {.events = events | EPOLLONESHOT, .data.ptr = f};

	if (epoll_ctl(a->epoll, EPOLL_CTL_MOD, f->end, &ev) && errno == ENOENT)
		epoll_ctl(a->epoll, EPOLL_CTL_ADD, f->end, &ev);
}

static int end_take(struct fifo *f, int role, int fd)
{
	if (fd < 0)
		return fd;
	f->end = fd;
	f->role = role;
	f->size = 0;
	return 0;
}

struct stack { /* all that is to be in the pipe, in order */
	uint8_t *p;
	size_t len, room;
};

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

/* Reads what is there, at most n bytes, behind what we have. */
static void stack_read(struct stack *s, int fd, size_t n)
{
	while (n && stack_room(s, PAGE)) {
		ssize_t k = read(fd, s->p + s->len, s->room - s->len < n ? s->room - s->len : n);

		if (k <= 0)
			return;
		s->len += (size_t)k;
		n -= (size_t)k;
	}
}

/* Takes out what is there now, by one call. The room for it is made, and touched, before: whoever writes gets no time in between. */
static void stack_drain(struct stack *s, int r)
{
	ssize_t n;

	if (!stack_room(s, DRAIN_MAX))
		return;
	memset(s->p + s->len, 0, DRAIN_MAX);
	n = read(r, s->p + s->len, DRAIN_MAX);
	if (n > 0)
		s->len += (size_t)n;
}

/* ---- SINK ---- */

/* Somebody waits for us to have the hub's bytes in their place before it reads. */
static bool collecting(const struct fifo *f)
{
	struct opener *o;

	list_each(o, &f->openers, link)
		if (o->req && o->who.r && f->front)
			return true;
	return claim_taking(f);
}

/* A process that moves away reads here no more and does not yet read elsewhere: what is in the pipe is its own. */
static bool held(const struct fifo *f)
{
	struct claim *c;

	list_each(c, &f->claims, link)
		if (!c->pledge && c->r)
			return true;
	return false;
}

/* What is in the pipe and will be read by nobody here (`leaves`), or not soon, goes back. */
static void give_back(struct agent *a, struct fifo *f, bool leaves)
{
	_cleanup_close_ int fd = fifo_open(a->fs, f->ino, O_RDONLY);
	struct stack s = {0};
	int n = 0;

	if (fd < 0 || ioctl(fd, FIONREAD, &n) || !n)
		return;
	stack_read(&s, fd, (size_t)n); /* no more than is there now: writers may go on */
	/* Each goes to the front of the queue: the last one first. */
	for (size_t end = s.len; end;) {
		size_t part = end % CHUNK ? end % CHUNK : CHUNK;

		pipe_say(f, SPRITE__FS__PIPE_MSG__KIND__RETURN, 0, leaves, s.p + end - part, part);
		end -= part;
	}
	free(s.p);
}

bool end_has_error(int end)
{
	struct pollfd p = {.fd = end};

	return poll(&p, 1, 0) > 0 && p.revents & (POLLERR | POLLNVAL);
}

void end_give_up(struct agent *a, struct fifo *f)
{
	give_back(a, f, true);
	f->r = false;
	end_close(f);
}

/*
 * The other end of ours is gone. False: somebody is on its way, look again later. `on_way` must have been asked (coming()) before the pipe was looked at: who comes in, writes
 * and leaves between a look at the pipe and a look at the openers would be in neither.
 */
static bool lost(struct agent *a, struct fifo *f, bool on_way)
{
	bool sink = f->role == SINK;

	if (on_way) {
		look_at(f, clock_mono_ns() + AGAIN_NS);
		return false;
	}
	if (sink) {
		end_give_up(a, f);
	} else {
		f->w = false;
		end_close(f);
	}
	return true;
}

/* Readers here and elsewhere: what lies here unread is for whoever reads first. Looked at every few ms: nothing tells that somebody reads. */
static void share(struct agent *a, struct fifo *f)
{
	int n = 0;

	ioctl(f->end, FIONREAD, &n);
	if (n && n == f->unread) {
		give_back(a, f, false);
		n = 0;
	}
	f->idle = n ? 0 : f->idle + 1;
	f->unread = n;
	look_at(f, clock_mono_ns() + (f->idle < 100 ? SHARE_NS : 4 * SHARE_NS));
}

/* Returns false when the readers have gone (and it is no sink any more). */
static bool sink_pump(struct agent *a, struct fifo *f)
{
	bool on_way;

	if (!guard_settle(a, f))
		return false;
	if (f->grown)
		shrink(f);
	while (!list_empty(&f->out) && !collecting(f) && !f->grown) {
		struct bytes *b = list_entry(f->out.next, struct bytes, link);
		ssize_t n;

		on_way = pipe_coming(f, true);
		n = write(f->end, b->data + b->off, b->len - b->off);

		if (n < 0 && errno == EAGAIN) {
			arm(a, f, EPOLLOUT);
			return true;
		}
		if (n < 0 && errno == EPIPE) {
			if (lost(a, f, on_way))
				return false;
			return true;
		}
		if (n < 0)
			return true;
		b->off += (size_t)n;
		pipe_say(f, SPRITE__FS__PIPE_MSG__KIND__ACK, 0, (size_t)n, NULL, 0);
		if (b->off == b->len) {
			list_del(&b->link);
			free(b);
		}
	}
	on_way = pipe_coming(f, true);
	if (end_has_error(f->end))
		return !lost(a, f, on_way);
	arm(a, f, 0);
	if (f->shared && !held(f) && !collecting(f))
		share(a, f);
	if (f->grown)
		look_at(f, clock_mono_ns() + AGAIN_NS);
	return true;
}

/* ---- SOURCE ---- */

/* Returns false when the writers have gone (and it is no source any more). */
static bool source_pump(struct agent *a, struct fifo *f)
{
	ssize_t n;

	while (f->unacked < WINDOW) {
		bool on_way = pipe_coming(f, false);

		if (f->shared != (f->size > 0))
			source_size(f);
		n = read(f->end, a->buf, f->shared ? sizeof(a->buf) : WINDOW);
		if (f->grown && !f->size)
			shrink(f);
		if (n < 0 && errno == EAGAIN) {
			arm(a, f, EPOLLIN);
			return true;
		}
		if (n <= 0)
			return !lost(a, f, on_way);
		f->unacked += (size_t)n;
		pipe_say(f, SPRITE__FS__PIPE_MSG__KIND__DATA, 0, 0, a->buf, (size_t)n);
	}
	return true; /* an acknowledgement goes on */
}

bool pipe_pump(struct agent *a, struct fifo *f)
{
	f->again = 0;
	if (f->role == SINK)
		return sink_pump(a, f);
	if (!guard_settle(a, f))
		return false;
	return f->role == SOURCE ? source_pump(a, f) : true;
}

void pipe_empty(struct agent *a, struct fifo *f)
{
	int left = 0;
	ssize_t n;

	if (f->role != SOURCE) {
		give_back(a, f, true);
		return;
	}
	ioctl(f->end, FIONREAD, &left); /* no more than is there now: others may write on */
	for (; left > 0 && (n = read(f->end, a->buf, (size_t)left < sizeof(a->buf) ? (size_t)left : sizeof(a->buf))) > 0; left -= (int)n) {
		f->unacked += (size_t)n;
		pipe_say(f, SPRITE__FS__PIPE_MSG__KIND__DATA, 0, 0, a->buf, (size_t)n);
	}
}

/* ---- roles ---- */

/* Only we read now: a pipe that was made large can be had small again, at once after it was emptied. */
static void source_shrink(struct fifo *f)
{
	struct stack s = {0};

	for (int i = 0; f->grown && i < SHRINK_TRIES; i++) {
		stack_drain(&s, f->end);
		shrink(f);
	}
	for (size_t at = 0; at < s.len;) {
		size_t part = s.len - at < CHUNK ? s.len - at : CHUNK;

		f->unacked += part;
		pipe_say(f, SPRITE__FS__PIPE_MSG__KIND__DATA, 0, 0, s.p + at, part);
		at += part;
	}
	free(s.p);
}

static void role_take(struct agent *a, struct fifo *f, int role)
{
	int fd;

	if (role == SINK) {
		fd = fifo_open(a->fs, f->ino, O_WRONLY);
		if (fd == -ENXIO && pipe_coming(f, true) && guard_open(a, f))
			fd = fifo_open(a->fs, f->ino, O_WRONLY);
		if (end_take(f, SINK, fd))
			f->r = false;
	} else if (role == SOURCE) {
		fd = fifo_open(a->fs, f->ino, O_RDONLY);
		if (end_take(f, SOURCE, fd))
			f->w = false;
		else if (f->grown)
			source_shrink(f);
	}
	pipe_pump(a, f); /* finds out whether there is anybody */
}

/* Our end to read goes, and readers of this node are to be enough for its writers: are there any? */
static bool may_be_sink(struct agent *a, struct fifo *f)
{
	bool r, w;

	fifo_look(a, f, -1, &r, &w);
	f->r &= r;
	return r && guard_open(a, f);
}

void pipe_role(struct agent *a, struct fifo *f, int role, bool shared)
{
	f->unread = 0;
	if (f->role == role) {
		f->shared = shared;
		pipe_pump(a, f);
	} else if (f->role != SOURCE || role != SINK || may_be_sink(a, f)) {
		end_leave(a, f);
		f->shared = shared;
		role_take(a, f, role);
	}
}

/* Nothing of ours is in it: does anybody have it open? Consumes nothing. */
bool fifo_in_use(struct agent *a, struct fifo *f)
{
	_cleanup_close_ int w = fifo_open(a->fs, f->ino, O_WRONLY), r = w < 0 ? fifo_open(a->fs, f->ino, O_RDONLY) : -1;
	int p[2];
	ssize_t n;

	if (w >= 0)
		return true;
	if (r < 0 || pipe2(p, O_CLOEXEC | O_NONBLOCK) < 0)
		return false;
	n = tee(r, p[1], 1, SPLICE_F_NONBLOCK);
	close(p[0]);
	close(p[1]);
	return n > 0 || (n < 0 && errno == EAGAIN);
}

/* ---- bytes of the hub in their place before anybody reads on ---- */

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
	for (size_t at = placed > n ? placed : n; at < s.len;) {
		size_t part = s.len - at < CHUNK ? s.len - at : CHUNK;

		f->unacked += part;
		pipe_say(f, SPRITE__FS__PIPE_MSG__KIND__DATA, 0, 0, s.p + at, part);
		at += part;
	}
	n = placed < n ? placed : n;
	f->front = false;
	if (!f->grown && fcntl(f->end, F_GETPIPE_SZ) != size && fcntl(f->end, F_SETPIPE_SZ, size) < 0)
		f->grown = size;
	free(s.p);
	if (n)
		pipe_say(f, SPRITE__FS__PIPE_MSG__KIND__ACK, 0, n, NULL, 0);
}
