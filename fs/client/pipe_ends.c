// SPDX-License-Identifier: Apache-2.0
/*
 * Our ends of the kernel's FIFOs, opened through our own mount (those opens come back as GETATTRs of our own threads, which are answered at once).
 *
 *	role SINK    `end` is a write end: bytes of the hub go in, each acknowledged when it is in; its error means that all readers have gone
 *	role SOURCE  `end` is a read end: what comes out goes to the hub, at most WINDOW unacknowledged; its end means that all writers have gone
 *
 * An end is opened before the process it is for has come in, so "gone" may also be "not there yet": while an opener for that direction is between its
 * GETATTR and the end of its open, we look again a little later.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/log.h"
#include "fs/client/pipe_int.h"

#define SHRINK_TRIES 3

int fifo_path(struct fs *fs, const struct inode *ino)
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

	path_stop(f->hub->a, f);
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
	f->role = f->put_off = NONE;
	f->doubt = false;
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

static void arm_as(struct agent *a, struct fifo *f, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.ptr = f};

	if (f->armed == events)
		return;
	if (epoll_ctl(a->epoll, EPOLL_CTL_MOD, f->end, &ev) && errno == ENOENT)
		epoll_ctl(a->epoll, EPOLL_CTL_ADD, f->end, &ev);
	f->armed = events;
}

/* Once; the other side's end is told in any case. */
static void arm(struct agent *a, struct fifo *f, uint32_t events)
{
	arm_as(a, f, events | EPOLLONESHOT);
}

static int end_take(struct fifo *f, int role, int fd)
{
	if (fd < 0)
		return fd;
	f->end = fd;
	f->role = role;
	f->size = 0;
	f->armed = 0;
	return 0;
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

	path_stop(a, f); /* what it has received comes behind this */
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
		f->doubt = pipe_doubtful(f, sink);
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
		f->gave = true;
		n = 0;
	}
	f->idle = n ? 0 : f->idle + 1;
	f->unread = n;
	look_at(f, clock_mono_ns() + (f->idle < 100 ? SHARE_NS : 4 * SHARE_NS));
}

/* A reader that takes small pieces makes room for small pieces: not each is worth a message. */
static void acknowledge(struct fifo *f)
{
	if (f->path.used)
		path_acknowledge(f, false);
	if (!f->done)
		return;
	if (list_empty(&f->out) || f->done >= WINDOW / 2 || clock_mono_ns() - f->done_since >= AGAIN_NS)
		pipe_say(f, SPRITE__FS__PIPE_MSG__KIND__ACK, 0, 0, NULL, 0);
	else
		look_at(f, f->done_since + AGAIN_NS);
}

static void placed(struct fifo *f, size_t n)
{
	struct path *p = &f->path;
	bool first = p->used ? p->placed == p->told : !f->done;

	if (first)
		*(p->used ? &p->told_since : &f->done_since) = clock_mono_ns();
	if (p->used)
		p->placed += n;
	else
		f->done += n;
}

/* Returns false when the readers have gone (and it is no sink any more). */
static bool sink_pump(struct agent *a, struct fifo *f)
{
	bool on_way;

	if (!guard_settle(a, f))
		return false;
	f->doubt = f->guard >= 0 && pipe_doubtful(f, true); /* it hides that nobody reads */
	if (f->path.until && clock_mono_ns() >= f->path.until)
		path_stop(a, f);
	else if (f->path.until)
		look_at(f, f->path.until);
	if (f->grown)
		shrink(f);
	while (!list_empty(&f->out) && !collecting(f) && !f->grown) {
		struct bytes *b = list_entry(f->out.next, struct bytes, link);
		ssize_t n;

		on_way = pipe_coming(f, true);
		n = write(f->end, b->data + b->off, b->len - b->off);

		if (n < 0 && errno == EAGAIN) {
			arm(a, f, EPOLLOUT);
			acknowledge(f);
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
		placed(f, (size_t)n);
		if (b->off == b->len) {
			list_del(&b->link);
			free(b);
		}
	}
	acknowledge(f);
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

bool sink_put(struct agent *a, struct fifo *f, const uint8_t *p, size_t n)
{
	bool plain = f->role == SINK && list_empty(&f->out) && f->guard < 0 && list_empty(&f->openers) && list_empty(&f->claims) && !f->grown;
	ssize_t k = plain ? write(f->end, p, n) : 0;
	struct bytes *b;

	if (k > 0) {
		placed(f, (size_t)k);
		p += k;
		n -= (size_t)k;
	}
	if (!n) {
		acknowledge(f);
		return true;
	}
	b = malloc(sizeof(*b) + n);
	if (!b) {
		f->path.received -= n;
		path_stop(a, f); /* the source has it still */
		return true;
	}
	*b = (struct bytes){.len = n};
	memcpy(b->data, p, n);
	list_add_tail(&f->out, &b->link);
	return pipe_pump(a, f);
}

/* ---- SOURCE ---- */

/* What is in the pipe goes by the path. As source_pump(). */
static bool carry(struct agent *a, struct fifo *f)
{
	bool on_way = pipe_coming(f, false);
	uint8_t *at;
	size_t room = path_room(f, &at);
	ssize_t n;

	f->path.blocked = !room;
	if (!room) {
		if (f->armed == EPOLLIN)
			arm(a, f, 0);
		return true; /* an acknowledgement goes on, or the hub, which settles it */
	}
	n = read(f->end, at, room);
	if (n == 0 || (n < 0 && errno != EAGAIN)) {
		if (lost(a, f, on_way))
			return false;
		if (f->armed == EPOLLIN)
			arm(a, f, 0);
		return true;
	}
	if (f->size)
		source_size(f);
	else if (f->grown)
		shrink(f);
	if (n > 0) {
		path_send(f, at, (size_t)n);
		atomic_fetch_add(&a->carried[1], (uint64_t)n);
	}
	arm_as(a, f, EPOLLIN); /* and stays: nothing is to be told to epoll between two pieces */
	return true;
}

/* Returns false when the writers have gone (and it is no source any more). */
static bool source_pump(struct agent *a, struct fifo *f)
{
	ssize_t n;

	if (path_ready(f))
		return carry(a, f);
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
		atomic_fetch_add(&a->carried[0], (uint64_t)n);
		pipe_say(f, SPRITE__FS__PIPE_MSG__KIND__DATA, 0, 0, a->buf, (size_t)n);
	}
	if (f->armed == EPOLLIN)
		arm(a, f, 0);
	return true; /* an acknowledgement goes on */
}

static void role_take(struct agent *a, struct fifo *f, int role);

bool pipe_pump(struct agent *a, struct fifo *f)
{
	int put_off = f->put_off;

	f->again = 0;
	f->doubt = false;
	if (f->silent)
		return true;
	if (f->passing && kept_pass(f))
		pipe_report(f, 0);
	if (put_off) {
		role_take(a, f, put_off);
		return f->role == NONE; /* else it is to be told */
	}
	if (f->check && role_check(a, f))
		pipe_report(f, 0);
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
	stack_send(f, &s, 0);
	free(s.p);
}

/* The kernel has nobody at the other side, or no such inode any more. Any other error tells nothing: want of descriptors, of memory. */
static bool nobody(int err)
{
	return err == -ENXIO || err == -ESTALE || err == -ENOENT;
}

static void put_off(struct fifo *f, int role, int err)
{
	if (!f->warned)
		log_warn("pipe %llu: cannot be opened: %s; tried again", (unsigned long long)f->ino->id, strerror(-err));
	f->warned = true;
	f->put_off = role;
	look_at(f, clock_mono_ns() + PUT_OFF_NS);
}

static void role_take(struct agent *a, struct fifo *f, int role)
{
	int fd = 0, unread = 0;

	f->put_off = NONE;
	if (role == SINK) {
		fd = fifo_open(a->fs, f->ino, O_WRONLY);
		if (fd == -ENXIO && pipe_coming(f, true) && guard_open(a, f))
			fd = fifo_open(a->fs, f->ino, O_WRONLY);
		if (end_take(f, SINK, fd) && nobody(fd))
			f->r = false;
	} else if (role == SOURCE) {
		fd = fifo_open(a->fs, f->ino, O_RDONLY);
		if (end_take(f, SOURCE, fd) && nobody(fd))
			f->w = false;
		else if (fd >= 0 && !ioctl(fd, FIONREAD, &unread) && unread)
			f->w = true; /* bytes that were kept: whoever wrote them counts until they are read to their end, or readers would see that end before them */
		if (f->role == SOURCE && f->grown)
			source_shrink(f);
	}
	if (fd < 0 && !nobody(fd)) {
		put_off(f, role, fd);
		return;
	}
	f->warned = false;
	if (f->role != NONE)
		kept_close(f); /* our end keeps the pipe as well */
	role_check(a, f);
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

/*
 * What a shared sink has given back may cross the message that it is a sink no more, since the queue is empty: its readers would see an end before these bytes. So it stays one for once, and says
 * so, behind them; the hub asks again if it is to be.
 */
static bool crosses(struct fifo *f, int role)
{
	bool yes = f->gave && f->role == SINK && role == NONE;

	f->gave = false;
	return yes;
}

void pipe_role(struct agent *a, struct fifo *f, int role, bool shared)
{
	if (crosses(f, role))
		role = SINK;
	f->unread = 0;
	f->put_off = NONE;
	if (f->role == role) {
		f->shared = shared;
		pipe_pump(a, f);
	} else if (f->role != SOURCE || role != SINK || may_be_sink(a, f)) {
		if (f->role == SINK)
			pipe_pump(a, f); /* one whose readers have just gone gives back first */
		if (f->role == SOURCE)
			kept_open(a, f);
		end_leave(a, f);
		kept_settle(f);
		f->shared = shared;
		role_take(a, f, role);
	}
}
