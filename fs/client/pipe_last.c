// SPDX-License-Identifier: Apache-2.0
/*
 * The last end, this node's side (fs/server/pipe_last.c tells the protocol): is anybody left here, and what nobody has read.
 *
 * `kept`: the readers of a source have gone, so our read end must: its writers are to see a broken pipe. What they wrote before is for the next reader, wherever, as long
 * as anybody has the FIFO open, and the kernel would drop it with this node's last writer. So a write end of ours stays beside it, until there is another end of ours (a role),
 * a reader of this node is in, or nobody is left.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "fs/client/pipe_int.h"

static bool hung_up(int end, short what)
{
	struct pollfd p = {.fd = end};

	return poll(&p, 1, 0) > 0 && p.revents & (what | POLLNVAL);
}

void kept_open(struct agent *a, struct fifo *f)
{
	int n = 0;

	/* A reader of this node that waits in open(2) would take it for its writer: then only for bytes. Else it is there before our read end goes, so that none slips through. */
	if (f->kept < 0 && !ioctl(f->end, FIONREAD, &n) && (n || !pipe_coming(f, true)))
		f->kept = fifo_open(a->fs, f->ino, O_WRONLY); /* our read end is there, so there is a reader */
}

void kept_settle(struct fifo *f)
{
	int n = 0;

	if (f->kept >= 0 && !ioctl(f->kept, FIONREAD, &n) && !n)
		kept_close(f);
}

bool kept_close(struct fifo *f)
{
	if (f->kept < 0)
		return false;
	close(f->kept);
	f->kept = -1;
	return true;
}

bool kept_pass(struct fifo *f)
{
	bool coming = f->kept >= 0 && pipe_coming(f, true);

	if (coming || (f->kept >= 0 && pipe_standing(f))) {
		look_at(f, clock_mono_ns() + (coming ? AGAIN_NS : 10 * AGAIN_NS));
		return false;
	}
	f->passing = false;
	if (f->kept < 0)
		return false;
	if (!hung_up(f->kept, POLLERR))
		return kept_close(f);
	kept_settle(f); /* it has gone, or did not come: what it did not read is for the next one */
	return f->kept < 0;
}

/* By a read end, without taking anything out. 0: there is no writer, and nothing. */
static ssize_t peek(int end)
{
	ssize_t n;
	int p[2];

	if (pipe2(p, O_CLOEXEC | O_NONBLOCK))
		return -1;
	n = tee(end, p[1], 1, SPLICE_F_NONBLOCK);
	close(p[0]);
	close(p[1]);
	return n;
}

/* The kernel has no such inode any more, so nobody has it open. Any other error tells nothing. */
static bool forgotten(int err)
{
	return err == -ESTALE || err == -ENOENT;
}

/* Is there a process with the FIFO open, or in an open that we have let it go on with? Exact, but for descriptors that are just on their way through a socket. */
static bool anybody(struct agent *a, struct fifo *f)
{
	bool sink = f->role == SINK, source = f->role == SOURCE;
	struct claim *c;
	struct opener *o;

	list_each(c, &f->claims, link)
		return true;
	pipe_coming(f, true); /* forgets those that have arrived */
	list_each(o, &f->openers, link)
		if (!o->req)
			return true;
	if (sink && f->guard < 0 && !hung_up(f->end, POLLERR))
		return true;
	if (source && !hung_up(f->end, POLLHUP) && peek(f->end) != 0)
		return true;
	/* what an end of ours does not hide, the kernel tells. (Where there may be a reader we do not open a write end to ask: it would see it come and go.) */
	if (f->guard < 0 && f->past < 0 && f->kept < 0 && !(sink ? f->w : f->r)) {
		if (f->role != NONE)
			return false;
		_cleanup_close_ int r = fifo_open(a->fs, f->ino, O_RDONLY);

		return r < 0 ? !forgotten(r) : peek(r) != 0;
	}
	_cleanup_close_ int path = fifo_path(a->fs, f->ino);

	return path < 0 ? !forgotten(path) : pipe_proc_any(path, &f->witness);
}

static void others_wait(struct fifo *f)
{
	struct opener *o;

	list_each(o, &f->openers, link) { /* they count when they are let in: the hub knows of them */
		f->r |= o->who.r;
		f->w |= o->who.w;
	}
}

void last_prove(struct agent *a, struct fifo *f, uint64_t round)
{
	bool alive;

	pipe_pump(a, f);
	alive = anybody(a, f) || pipe_standing(f);
	if (!alive && f->role == NONE)
		f->r = f->w = false;
	f->silent = !alive;
	pipe_answer(f, round, alive);
	others_wait(f);
}

void last_discard(struct agent *a, struct fifo *f)
{
	(void)a;
	kept_close(f);
	guard_close(f);
	end_close(f);
	f->r = f->w = f->suspect = false;
	f->done = 0;
	others_wait(f);
	pipe_report(f, 0);
}

static bool idle(struct fifo *f, uint64_t now)
{
	struct opener *o;

	list_each(o, &f->openers, link)
		if (o->req)
			return false;
	return f->role == NONE && list_empty(&f->claims) && now - f->used >= IDLE_NS && !pipe_coming(f, true) && !pipe_coming(f, false);
}

void last_idle(struct agent *a)
{
	uint64_t now = clock_mono_ns();
	struct pipe_seen seen = {0};
	bool looked = false;
	struct fifo *f, *tmp;
	struct statx x;

	if (a->walked && now - a->walked < WALK_NS)
		return;
	list_each_safe(f, tmp, &a->fifos, link) {
		if (!idle(f, now))
			continue;
		if (!looked)
			pipe_proc_seen(&seen);
		looked = true;
		a->walked = f->used = now;
		_cleanup_close_ int path = fifo_path(a->fs, f->ino);

		if (path < 0 ? !forgotten(path) : (statx(path, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_INO, &x) || pipe_seen_has(&seen, x.stx_ino)))
			continue;
		if (f->r || f->w) {
			f->r = f->w = false;
			pipe_report(f, 0);
		}
		if (f->kept < 0 && !f->unacked && !f->path.id && list_empty(&f->openers))
			fifo_free(a, f);
	}
	free(seen.v);
}
