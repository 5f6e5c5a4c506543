// SPDX-License-Identifier: Apache-2.0
/*
 * The guard: a read end of ours, never read from, beside the write end of a SINK. Writers of this node would see a broken pipe when the last reader of this node goes, or
 * before the first one is in; they must not while
 *	- a reader is between its GETATTR and the end of its open: the hub counts it, and our SOURCE's read end has been closed for it;
 *	- readers of other nodes have the FIFO open;
 *	- a process that moves here has taken over a reader's place and then ends before it comes to life (fifo->suspect).
 * A writer of this node that waited in open(2) for a reader comes in by the guard, writes, and may be gone before that reader, who is still on its way, is in: so until it
 * is, the guard stays, whatever becomes of the role, or the bytes would end with the last end of the pipe; and a write end of ours stands for that writer (fifo->past),
 * or the reader would wait for one. So it is with bytes of the hub that we have put in.
 * With a guard in it the pipe does not tell any more that its readers have gone, so we look (fifo_look(), dear) every now and then. When they have, what they did not read
 * goes back to the hub, and a node that still has writers becomes a SOURCE before the guard is closed. The same look tells that the writers of this node have gone, which
 * our own write end hides: with readers on two nodes, each would for ever be the other's writer, and no end of file come.
 */
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include "conf/clock.h"
#include "fs/client/pipe_int.h"

#define LOOK_NS	   200000000ull
#define LOOK_SHARE 50 /* a look may take this part of the time */

/* As a sink no more, with a reader on its way: is there what the guard has let in, bytes or a writer? Then a writer who has gone is stood for. */
static bool let_in(struct agent *a, struct fifo *f)
{
	bool writer = true;
	int n = 0, p[2];

	if (f->guard < 0 || ioctl(f->guard, FIONREAD, &n))
		return false;
	if (n && f->past < 0)
		f->past = fifo_open(a->fs, f->ino, O_WRONLY);
	if (!n && f->past < 0 && !pipe2(p, O_CLOEXEC | O_NONBLOCK)) {
		writer = tee(f->guard, p[1], 1, SPLICE_F_NONBLOCK) != 0; /* also one that is in its open still */
		close(p[0]);
		close(p[1]);
	}
	return writer;
}

static bool needed(struct agent *a, struct fifo *f)
{
	bool coming = pipe_coming(f, true);

	return f->role == SINK ? f->suspect || (f->w && (f->shared || coming)) : coming && let_in(a, f);
}

bool guard_open(struct agent *a, struct fifo *f)
{
	if (f->guard < 0)
		f->guard = fifo_open(a->fs, f->ino, O_RDONLY);
	f->looked = clock_mono_ns();
	f->look_ns = LOOK_NS;
	return f->guard >= 0;
}

void guard_close(struct fifo *f)
{
	if (f->guard >= 0)
		close(f->guard);
	if (f->past >= 0)
		close(f->past);
	f->guard = f->past = -1;
}

void guard_suspect(struct agent *a, struct fifo *f, int end)
{
	if (f->role != SINK || f->guard >= 0)
		close(end);
	else
		f->guard = end;
	f->suspect = f->role == SINK;
	f->looked = 0;
	f->look_ns = 0;
	if (!guard_settle(a, f))
		pipe_report(f, 0);
}

void look_at(struct fifo *f, uint64_t when)
{
	if (!f->again || when < f->again)
		f->again = when;
}

/* Have all readers of this node gone? And the writers: that is reported here. */
static bool alone(struct agent *a, struct fifo *f)
{
	uint64_t start = clock_mono_ns();
	bool r, w;

	if (start - f->looked < f->look_ns)
		return false;
	fifo_look(a, f, -1, &r, &w);
	f->suspect = false;
	if (f->w && !w) {
		f->w = false;
		pipe_report(f, 0);
	}
	f->looked = clock_mono_ns();
	f->look_ns = (f->looked - start) * LOOK_SHARE;
	if (f->look_ns < LOOK_NS)
		f->look_ns = LOOK_NS;
	return !r;
}

bool role_check(struct agent *a, struct fifo *f)
{
	bool *beside = f->role == SINK ? &f->w : &f->r, r, w;
	uint64_t start = clock_mono_ns();

	f->check = f->role != NONE && *beside;
	if (!f->check)
		return false;
	if (start < f->check_at) {
		look_at(f, f->check_at);
		return false;
	}
	fifo_look(a, f, -1, &r, &w);
	f->check_at = clock_mono_ns();
	f->check_at += (f->check_at - start) * LOOK_SHARE;
	f->check = false;
	*beside = f->role == SINK ? w : r;
	return !*beside;
}

/* The reader whom the guard and its bytes waited for has not come in after all (it moves, or was killed): they go back to the hub. */
static bool not_read(struct agent *a, struct fifo *f)
{
	bool r, w;
	int n = 0;

	if (f->role != NONE || !f->hub->stream || ioctl(f->guard, FIONREAD, &n) || !n)
		return true;
	fifo_look(a, f, -1, &r, &w);
	if (r)
		return true;
	end_give_up(a, f);
	return false;
}

bool guard_settle(struct agent *a, struct fifo *f)
{
	if (f->guard < 0 && needed(a, f))
		guard_open(a, f);
	if (f->guard < 0)
		return true;
	if (f->role == SINK && !pipe_coming(f, true) && alone(a, f)) {
		end_give_up(a, f);
		if (f->w)
			pipe_role(a, f, SOURCE, false);
		guard_close(f);
		return false;
	}
	if (!needed(a, f)) {
		bool stays = not_read(a, f);

		guard_close(f);
		return stays;
	}
	look_at(f, pipe_coming(f, true) ? clock_mono_ns() + AGAIN_NS : f->looked + f->look_ns);
	return true;
}
