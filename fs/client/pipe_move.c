// SPDX-License-Identifier: Apache-2.0
/*
 * Processes that move with ends of FIFOs open. Nobody may see end of file or EPIPE while such an end is nowhere, and its bytes keep their order.
 *
 *	source		HOLD: the process is stopped; ends of our own stand for its. They are given up when
 *			  - it stays after all (UNHOLD),
 *			  - the hub says so (RELEASE): the destination has taken over. What is in the pipe and will be read here by nobody goes to the hub
 *			    first, all of it: what the process writes over there comes behind it.
 *			  - the process has ended and nobody has pledged to take over (ORPHAN to the hub, which answers by RELEASE).
 *	destination	the process-to-be opens the same ends, natively and unknown to the hub: it is stopped, so nothing is read or written. PLEDGE tells the
 *			  hub that it may come to life; withdrawn (DROP) when it ends before it does.
 *			TAKE: it does. The hub counts it as an opener, lets every other node RELEASE, and answers when what is to be in the pipe of this node is here
 *			  (fs/server/pipe_take.c); the call returns when it is in its place.
 * A token names one family's end in one move. Everything is by process or token, so that a migd that was started again finds it. And a spritefs: a claim whose caller has its answer
 * is in a record (KEEP_PIPE). The stream to the hub broke with the one that was killed, so a found claim is told anew; a found hold of a process that has let go of its
 * descriptors meanwhile is released at once.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/log.h"
#include "fs/client/pipe_int.h"

#define MOVE_MAX (128 << 10)

static void claim_free(struct claim *c)
{
	for (int i = 0; i < 2; i++)
		if (c->end[i] >= 0)
			close(c->end[i]);
	if (c->pidfd >= 0)
		close(c->pidfd);
	if (c->ns >= 0)
		close(c->ns);
	keep_free(c->keep);
	list_del(&c->link);
	free(c);
}

void claims_free(struct fifo *f)
{
	struct claim *c, *tmp;

	list_each_safe(c, tmp, &f->claims, link)
		claim_free(c);
}

/* Before its caller is answered: from then on it counts, whatever becomes of us. */
static void claim_keep(struct claim *c)
{
	struct kept_pipe x = {.ino = c->fifo->ino->id, .token = c->token, .born = pipe_proc_born(c->pid), .pid = c->pid, .r = c->r, .w = c->w, .pledge = c->pledge};
	struct keep *k = keep_put(c->keep, KEEP_PIPE, c->keep ? c->keep->key : atomic_fetch_add(&keep_head()->next_ticket, 1) + 1, &x, sizeof(x));

	c->keep = k ? k : c->keep;
}

static void call_answer(struct pipe_call *c, int result)
{
	c->result = result;
	sem_post(&c->done);
}

static struct claim *claim_make(struct agent *a, struct pipe_call *call)
{
	struct fifo *f = fifo_get(a, call->ino);
	struct claim *c = f ? calloc(1, sizeof(*c)) : NULL;

	if (!c)
		return NULL;
	*c = (struct claim){.fifo = f, .token = call->token, .pid = call->pid, .r = call->r, .w = call->w, .end = {-1, -1}};
	c->pidfd = (int)syscall(SYS_pidfd_open, call->pid, 0);
	c->ns = pipe_proc_namespace(call->pid);
	list_add_tail(&f->claims, &c->link);
	path_stop(a, f);
	return c;
}

/*
 * What a reader has not read has to be put before what the writers of its new node have written, in one piece and in one pipe (pipe_place()), of 1 MiB where nobody may make
 * larger ones. So a reader does not move while its pipe holds, or is large enough to be filled with, much more than a pipe does usually; nor to where such a one is.
 */
static bool too_much(struct fifo *f, int end)
{
	int n = 0;

	if (f->grown && fcntl(end, F_SETPIPE_SZ, f->grown) >= 0)
		f->grown = 0;
	if (f->w)
		n = fcntl(end, F_GETPIPE_SZ);
	else
		ioctl(end, FIONREAD, &n);
	return n > MOVE_MAX;
}

/* ---- source ---- */

/* Ends of our own that stand for its. */
static int hold_ends(struct agent *a, struct claim *c)
{
	if (c->r)
		c->end[0] = fifo_open(a->fs, c->fifo->ino, O_RDONLY);
	if (c->w)
		c->end[1] = fifo_open(a->fs, c->fifo->ino, O_WRONLY);
	if (c->end[1] == -ENXIO)
		c->end[1] = fifo_open(a->fs, c->fifo->ino, O_RDWR);
	return c->r && c->end[0] < 0 ? c->end[0] : c->w && c->end[1] < 0 ? c->end[1] : 0;
}

/* As the programs know it: we may have made it a page, or large. */
static int size_known(const struct fifo *f, int end)
{
	int size = f->size ? f->size : f->grown ? f->grown : fcntl(end, F_GETPIPE_SZ);

	return size > 0 ? size : 0;
}

/* The pipe of one who comes was so large: so is this one, unless others have it open here, and it is larger. */
static void size_take(struct agent *a, struct fifo *f, int want)
{
	bool others = f->r || f->w || f->role != NONE;
	int is;

	if (f->size || f->grown) {
		int *later = f->size ? &f->size : &f->grown;

		*later = want > *later ? want : *later;
		return;
	}
	_cleanup_close_ int end = fifo_open(a->fs, f->ino, O_RDWR);

	is = end < 0 ? -1 : fcntl(end, F_GETPIPE_SZ);
	if (is > 0 && (others ? is < want : is != want) && fcntl(end, F_SETPIPE_SZ, want) < 0)
		log_note("a named pipe keeps its %d bytes; that of a process which comes here had %d: %s", is, want, strerror(errno));
}

static void on_hold(struct agent *a, struct pipe_call *call)
{
	struct claim *c = claim_make(a, call), *old, *tmp;
	int err;

	if (!c) {
		call_answer(call, -ENOMEM);
		return;
	}
	list_each_safe(old, tmp, &c->fifo->claims, link)
		if (old != c && !old->pledge && old->token == c->token)
			claim_free(old); /* the answer did not arrive: a spritefs was killed */
	err = hold_ends(a, c);
	if (err < 0) {
		call_answer(call, err);
		claim_free(c);
		return;
	}
	if (c->r && too_much(c->fifo, c->end[0])) {
		call_answer(call, -EBUSY);
		claim_free(c);
		return;
	}
	c->fifo->r |= c->r;
	c->fifo->w |= c->w;
	pipe_tell(c->fifo, SPRITE__FS__PIPE_MSG__KIND__OPEN, ++a->next_id, c->r, c->w, 0); /* should it not know */
	claim_keep(c);
	call_answer(call, size_known(c->fifo, c->r ? c->end[0] : c->end[1]));
}

static void look_again(struct agent *a, struct fifo *f)
{
	if (!pipe_pump(a, f))
		pipe_report(f, 0);
}

static void on_unhold(struct agent *a, struct pipe_call *call)
{
	struct claim *c, *tmp;
	struct fifo *f;

	list_each(f, &a->fifos, link) {
		bool any = false;

		list_each_safe(c, tmp, &f->claims, link)
			if (!c->pledge && c->pid == call->pid) {
				claim_free(c);
				any = true;
			}
		if (any)
			look_again(a, f);
	}
	call_answer(call, 0);
}

/*
 * The hold ends. What is in the pipe goes to the hub first if nobody else here will read it, or if it is on its way there and the family's next bytes come from
 * elsewhere. The family that it was for may still have its descriptors, while it is being killed: it will not use them any more.
 */
static void release(struct agent *a, struct fifo *f, struct claim *c)
{
	int keep = f->role == NONE ? fifo_open(a->fs, f->ino, O_RDWR) : -1; /* a native pipe lives on while we look */
	bool r, w;

	if (f->role == SOURCE && c->w)
		pipe_empty(a, f);
	list_del(&c->link);
	fifo_look(a, f, c->ns, &r, &w);
	if (f->role != SOURCE && !r) {
		pipe_empty(a, f);
		end_close(f);
	}
	f->r &= r;
	if (f->role != SOURCE) { /* a source finds out when it has carried all */
		if (w && !f->w)
			pipe_tell(f, SPRITE__FS__PIPE_MSG__KIND__OPEN, ++a->next_id, false, true, 0); /* should the hub not know */
		f->w = w;
	}
	if (f->role == NONE && !f->r && f->w) /* writers of this node go on with readers elsewhere: they never see the pipe without a reader */
		pipe_role(a, f, SOURCE, false);
	list_init(&c->link);
	claim_free(c);
	if (keep >= 0)
		close(keep);
	pipe_pump(a, f);
	pipe_report(f, 0);
}

static bool has_ended(const struct claim *c)
{
	struct pollfd p = {.fd = c->pidfd, .events = POLLIN};

	return c->pidfd < 0 || poll(&p, 1, 0) > 0;
}

/* At home the process lives on, but has let go of its descriptors; on a guest host it is being killed. */
static bool has_left(const struct claim *c)
{
	return c->ns < 0 || has_ended(c) || clock_mono_ns() - c->releasing > ENDED_NS;
}

void claim_released(struct agent *a, struct fifo *f, uint64_t token)
{
	struct claim *c;

	list_each(c, &f->claims, link)
		if (!c->pledge && c->token == token) {
			c->releasing = clock_mono_ns();
			claims_tick(a, f);
			return;
		}
	pipe_tell(f, SPRITE__FS__PIPE_MSG__KIND__RELEASED, 0, false, false, token);
}

/* ---- destination ---- */

/* It will not come to life. */
static void pledge_free(struct agent *a, struct claim *c)
{
	struct fifo *f = c->fifo;
	int end = c->end[0];

	c->end[0] = -1;
	claim_free(c);
	if (end >= 0)
		guard_suspect(a, f, end);
}

static void on_pledge(struct agent *a, struct pipe_call *call)
{
	struct claim *c = claim_make(a, call), *old, *tmp;

	if (!c) {
		call_answer(call, -ENOMEM);
		return;
	}
	list_each_safe(old, tmp, &c->fifo->claims, link)
		if (old != c && old->pledge && old->pid == c->pid && !old->call) { /* of an attempt that was given up: a hollow does not end */
			pipe_tell(c->fifo, SPRITE__FS__PIPE_MSG__KIND__DROP, 0, false, false, old->token);
			pledge_free(a, old);
		}
	c->pledge = true;
	if (c->r) /* without it we could not tell whether writers of this node rely on a reader that never comes to life */
		c->end[0] = fifo_open(a->fs, c->fifo->ino, O_RDONLY);
	if (c->r && too_much(c->fifo, c->end[0]) && c->fifo->w) { /* asked without writers, too: they may be on their way here, to a pipe that is still large */
		call_answer(call, -EBUSY);
		pledge_free(a, c);
		return;
	}
	if (call->size > 0)
		size_take(a, c->fifo, call->size);
	c->id = ++a->next_id;
	c->call = call;
	/* without a stream: claims_up() sends it, or claims_tick() gives up */
	pipe_tell(c->fifo, SPRITE__FS__PIPE_MSG__KIND__PLEDGE, c->id, c->r, c->w, c->token);
}

static void take_send(struct agent *a, struct claim *c)
{
	c->id = ++a->next_id;
	pipe_tell(c->fifo, SPRITE__FS__PIPE_MSG__KIND__TAKE, c->id, c->r, c->w, c->token);
}

static void on_take(struct agent *a, struct pipe_call *call)
{
	struct claim *c;
	struct fifo *f;

	list_each(f, &a->fifos, link)
		list_each(c, &f->claims, link) {
			if (!c->pledge || c->pid != call->pid || c->call)
				continue;
			if (c->r)
				f->front = f->role != SINK;
			f->r |= c->r;
			f->w |= c->w;
			c->call = call;
			call->waits++;
			take_send(a, c);
		}
	if (!call->waits)
		call_answer(call, 0);
}

static void claim_answer(struct agent *a, struct claim *c, int result)
{
	struct pipe_call *call = c->call;
	struct fifo *f = c->fifo;

	c->id = 0;
	c->call = NULL;
	if (call->verb == PIPE_PLEDGE) {
		if (result < 0)
			pledge_free(a, c);
		else
			claim_keep(c);
		call_answer(call, result);
		return;
	}
	if (f->w) /* else what is to come out of the pipe is what we put in: at its own pace */
		pipe_place(a, f);
	claim_free(c);
	f->front &= reader_waits(f);
	look_again(a, f);
	if (--call->waits == 0)
		call_answer(call, 0);
}

bool claim_opened(struct agent *a, struct fifo *f, uint64_t id)
{
	struct claim *c;

	list_each(c, &f->claims, link)
		if (c->id == id && c->call) {
			claim_answer(a, c, 0);
			return true;
		}
	return false;
}

bool claim_taking(const struct fifo *f)
{
	struct claim *c;

	list_each(c, &f->claims, link)
		if (c->pledge && c->call && c->call->verb == PIPE_TAKE)
			return true;
	return false;
}

/* ---- both ---- */

/* After a stream broke, or one of us was killed. */
static void claim_tell(struct agent *a, struct claim *c)
{
	struct fifo *f = c->fifo;

	if (c->found)
		log_note("pipe %llu: process %d moves with it, known from before; the hub is told", (unsigned long long)f->ino->id, c->pid);
	if (!c->pledge) {
		c->orphan = false; /* is told again */
		pipe_tell(f, SPRITE__FS__PIPE_MSG__KIND__OPEN, ++a->next_id, c->r, c->w, 0);
	} else if (c->call && c->call->verb == PIPE_TAKE) {
		take_send(a, c);
	} else {
		c->id = ++a->next_id;
		pipe_tell(f, SPRITE__FS__PIPE_MSG__KIND__PLEDGE, c->id, c->r, c->w, c->token);
	}
}

void claim_found(struct agent *a, struct inode *ino, struct keep *k)
{
	const struct kept_pipe x = *(const struct kept_pipe *)k->data;
	struct pipe_call call = {.pid = x.pid, .token = x.token, .r = x.r, .w = x.w, .ino = ino};
	struct claim *c = claim_make(a, &call);

	if (!c) {
		keep_free(k);
		return;
	}
	c->pledge = x.pledge;
	c->found = true;
	c->keep = k;
	if (pipe_proc_born(x.pid) != x.born) { /* has ended, and its number was perhaps given to another one */
		if (c->pidfd >= 0)
			close(c->pidfd);
		if (c->ns >= 0)
			close(c->ns);
		c->pidfd = c->ns = -1;
	}
	if (c->pledge) {
		c->end[0] = c->r ? fifo_open(a->fs, ino, O_RDONLY) : -1;
	} else {
		hold_ends(a, c);
		c->fifo->r |= c->r;
		c->fifo->w |= c->w;
	}
	if (c->fifo->hub->stream) /* else claims_up() */
		claim_tell(a, c);
}

/* It came home, or stayed at home: the hollow goes on without descriptors. Was its release missed? */
static bool release_missed(struct agent *a, struct claim *c)
{
	_cleanup_close_ int path = c->found && !c->pledge && !has_ended(c) ? fifo_path(a->fs, c->fifo->ino) : -1;
	uint64_t now = clock_mono_ns();

	if (path < 0 || pipe_proc_has(path, c->pid)) {
		c->missed = 0;
		return false;
	}
	if (!c->missed)
		c->missed = now; /* it may be about to end: then nobody is to release before the destination takes */
	return now - c->missed > ENDED_NS;
}

void claim_call(struct agent *a, struct pipe_call *call)
{
	switch (call->verb) {
	case PIPE_HOLD:
		on_hold(a, call);
		break;
	case PIPE_UNHOLD:
		on_unhold(a, call);
		break;
	case PIPE_PLEDGE:
		on_pledge(a, call);
		break;
	case PIPE_TAKE:
		on_take(a, call);
		break;
	case PIPE_KNOWN:
		break;
	}
}

void claims_up(struct agent *a, struct fifo *f)
{
	struct claim *c;

	list_each(c, &f->claims, link)
		claim_tell(a, c);
}

void claims_tick(struct agent *a, struct fifo *f)
{
	struct claim *c, *tmp;

	list_each_safe(c, tmp, &f->claims, link) {
		if (f->path.id && !c->pledge) { /* what goes to the hub now would come before what went by it */
			look_at(f, clock_mono_ns() + AGAIN_NS);
			continue;
		}
		if (!c->releasing && f->hub->stream && release_missed(a, c)) {
			release(a, f, c);
		} else if (c->releasing) {
			uint64_t token = c->token;

			if (!has_left(c)) {
				f->again = clock_mono_ns() + AGAIN_NS;
				continue;
			}
			release(a, f, c);
			pipe_tell(f, SPRITE__FS__PIPE_MSG__KIND__RELEASED, 0, false, false, token);
		} else if (c->call) {
			if (!f->hub->stream && clock_mono_ns() - c->call->since > ANSWER_NS) {
				claim_answer(a, c, -EHOSTUNREACH);
				return; /* the others next time */
			}
		} else if (has_ended(c) && !c->orphan) {
			if (pipe_tell(f, c->pledge ? SPRITE__FS__PIPE_MSG__KIND__DROP : SPRITE__FS__PIPE_MSG__KIND__ORPHAN, 0, false, false, c->token) < 0)
				continue;
			c->orphan = true;
			if (c->pledge)
				pledge_free(a, c);
		}
	}
}
