// SPDX-License-Identifier: Apache-2.0
/*
 * The pipe agent's thread: openers, messages of the hub and of connections, what is due. See pipe_int.h for its parts.
 *
 * `openers` are those between the GETATTR and the end of their open: an opener that waits to read is answered when the hub's bytes are in their place.
 */
#include "fs/client/pipe_wire.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/fault.h"
#include "conf/log.h"

#define TIMER_NS 1000000ull /* the shortest wait */

static pthread_mutex_t start_lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- mailbox ---- */

void pipe_post(struct agent *a, struct mail *m)
{
	pthread_mutex_lock(&a->lock);
	list_add_tail(&a->mails, &m->link);
	pthread_mutex_unlock(&a->lock);
	eventfd_write(a->wake, 1);
}

/* ---- openers ---- */

void opener_answer(struct opener *o)
{
	int old;

	if (!o->req)
		return;
	old = session_reply_on(o->fd);
	fuse_reply_attr(o->req, &o->st, 0);
	session_reply_on(old);
	o->req = NULL;
}

static bool stood(const struct opener *o)
{
	return o->stood && clock_mono_ns() - o->stood < STOOD_NS;
}

/* How near is who is nearest, to read (or to write)? Forgets those that have arrived. */
static enum pipe_where nearest(struct fifo *f, bool r)
{
	enum pipe_where where, best = PIPE_LEFT;
	struct opener *o, *tmp;

	list_each_safe(o, tmp, &f->openers, link) {
		where = o->req ? PIPE_IN : pipe_proc_where(&o->who);
		if (where <= PIPE_MAYBE) {
			if (where < best && (r ? o->who.r : o->who.w))
				best = where;
		} else if (where == PIPE_STANDS) {
			o->stood = clock_mono_ns();
		} else if (!stood(o)) {
			list_del(&o->link);
			free(o);
		}
	}
	return best;
}

bool pipe_coming(struct fifo *f, bool r)
{
	return nearest(f, r) <= PIPE_MAYBE;
}

bool pipe_doubtful(struct fifo *f, bool r)
{
	return nearest(f, r) == PIPE_MAYBE;
}

bool pipe_standing(const struct fifo *f)
{
	struct opener *o;

	list_each(o, &f->openers, link)
		if (stood(o))
			return true;
	return false;
}

/* ---- fifos ---- */

static struct fifo *fifo_find(struct agent *a, const struct inode *ino)
{
	struct fifo *f;

	list_each(f, &a->fifos, link)
		if (f->ino == ino)
			return f;
	return NULL;
}

/* Takes over a reference of ino. */
struct fifo *fifo_get(struct agent *a, struct inode *ino)
{
	struct fifo *f = fifo_find(a, ino);

	if (f) {
		inode_put(a->fs, ino);
	} else {
		f = calloc(1, sizeof(*f));
		if (!f || !ino->dom || !ino->dom->server || !(f->hub = hub_of(a, ino->dom->server))) {
			free(f);
			inode_put(a->fs, ino);
			return NULL;
		}
		f->ino = ino;
		f->end = f->guard = f->past = f->kept = -1;
		list_init(&f->openers);
		list_init(&f->out);
		list_init(&f->claims);
		list_add_tail(&a->fifos, &f->link);
	}
	f->used = clock_mono_ns();
	return f;
}

void fifo_free(struct agent *a, struct fifo *f)
{
	struct list *l;

	end_close(f);
	path_forget(a, f);
	guard_close(f);
	kept_close(f);
	claims_free(f);
	while ((l = list_pop(&f->openers))) {
		opener_answer(list_entry(l, struct opener, link));
		free(list_entry(l, struct opener, link));
	}
	list_del(&f->link);
	inode_put(a->fs, f->ino);
	free(f);
}

static void open_send(struct fifo *f, struct opener *o)
{
	f->r |= o->who.r;
	f->w |= o->who.w;
	if (pipe_tell(f, SPRITE__FS__PIPE_MSG__KIND__OPEN, o->id, o->who.r, o->who.w, 0) < 0)
		opener_answer(o);
}

bool reader_waits(const struct fifo *f)
{
	struct opener *o;

	list_each(o, &f->openers, link)
		if (o->req && o->who.r)
			return true;
	return claim_taking(f);
}

static void on_open(struct agent *a, struct inode *ino, struct opener *o)
{
	struct fifo *f, *g;
	struct opener *old, *tmp;

	/* whatever this thread was opening before, it has left that; what was given back because it stood still is kept for it until it is let in */
	list_each(g, &a->fifos, link)
		list_each_safe(old, tmp, &g->openers, link)
			if (old->who.tid == o->who.tid && !old->req) {
				if (g->ino == ino)
					o->stood = old->stood;
				list_del(&old->link);
				free(old);
			}
	f = fifo_get(a, ino);
	if (!f) {
		opener_answer(o);
		free(o);
		return;
	}
	if (f->guard >= 0 && f->role != SINK && !guard_settle(a, f)) /* what stood for a writer is there for those before this one: it would come in by it, and find an end of file */
		pipe_report(f, 0);
	o->id = ++a->next_id;
	o->since = clock_mono_ns();
	if (o->who.r && !reader_waits(f))
		f->front = f->role != SINK;
	list_add_tail(&f->openers, &o->link);
	f->w |= o->who.w;
	if (!guard_settle(a, f)) /* a writer comes to where others read elsewhere */
		pipe_report(f, 0);
	if (f->hub->stream)
		open_send(f, o);
}

/* ---- the hub's side ---- */

static bool unread(const struct fifo *f)
{
	int n = 0;

	return f->role == SINK && !ioctl(f->end, FIONREAD, &n) && n;
}

static void on_opened(struct agent *a, struct fifo *f, uint64_t id)
{
	struct opener *o;

	if (claim_opened(a, f, id))
		return;
	list_each(o, &f->openers, link) {
		if (o->id != id || !o->req)
			continue;
		if (o->who.r && f->front && (f->w || unread(f)))
			pipe_place(a, f);
		opener_answer(o);
		f->front &= reader_waits(f);
		f->passing |= o->who.r && f->kept >= 0;
		if (o->who.r && !pipe_pump(a, f))
			pipe_report(f, 0);
		return;
	}
}

/*
 * Is the other side of our end there? The hub lets in by that, so it hears of it when it is certain: somebody who was let in earlier, and runs, is on its way into its open, or has been there, and
 * closed, long ago (`tests/move/blocked_home.c`).
 */
static void role_answer(struct fifo *f)
{
	if (!f->owed || (f->doubt && clock_mono_ns() - f->owed_since < DOUBT_NS))
		return;
	pipe_report(f, f->owed);
	f->owed = 0;
}

static void on_role(struct agent *a, struct fifo *f, const Sprite__Fs__PipeMsg *m)
{
	f->silent = false;
	if (m->discard) {
		last_discard(a, f);
		return;
	}
	f->r |= m->r;
	f->w |= m->w;
	if (m->prove) {
		last_prove(a, f, m->id);
		return;
	}
	pipe_role(a, f, (int)m->role, m->shared);
	f->owed = m->id;
	f->owed_since = clock_mono_ns();
	role_answer(f);
}

/* The kernel has forgotten it: nobody has it open here. */
static void on_unknown(struct hub *h, const Sprite__Fs__PipeMsg *m)
{
	Sprite__Fs__PipeMsg no = SPRITE__FS__PIPE_MSG__INIT;

	switch (m->kind) {
	case SPRITE__FS__PIPE_MSG__KIND__ROLE:
		no.kind = SPRITE__FS__PIPE_MSG__KIND__REPORT;
		break;
	case SPRITE__FS__PIPE_MSG__KIND__RELEASE:
		no.kind = SPRITE__FS__PIPE_MSG__KIND__RELEASED;
		break;
	case SPRITE__FS__PIPE_MSG__KIND__PATH:
		no.kind = m->role == SINK ? SPRITE__FS__PIPE_MSG__KIND__SETTLED : SPRITE__FS__PIPE_MSG__KIND__SETTLE;
		break;
	case SPRITE__FS__PIPE_MSG__KIND__SETTLE:
		no.kind = SPRITE__FS__PIPE_MSG__KIND__SETTLED;
		break;
	default:
		return;
	}
	no.handle = m->handle;
	no.id = m->id;
	no.token = m->token;
	rpc_stream_send(h->stream, &no.base, NULL, 0);
}

static void on_message(struct agent *a, struct hub *h, struct rpc_msg *in)
{
	const Sprite__Fs__PipeMsg *m = (const void *)in->msg;
	struct inode *ino = m ? inode_by_handle(a->fs, &m->handle) : NULL;
	struct fifo *f;
	struct bytes *b;

	if (!ino) {
		if (m)
			on_unknown(h, m);
		return;
	}
	f = fifo_get(a, ino);
	if (!f)
		return;
	log_debug("pipe %llu: kind %d, id %llu, role %d, r %d, w %d, n %llu, %zu bytes; role here %d", (unsigned long long)ino->id, (int)m->kind, (unsigned long long)m->id,
		  (int)m->role, m->r, m->w, (unsigned long long)m->n, (size_t)in->bulk_len, f->role);
	switch (m->kind) {
	case SPRITE__FS__PIPE_MSG__KIND__OPENED:
		on_opened(a, f, m->id);
		break;
	case SPRITE__FS__PIPE_MSG__KIND__RELEASE:
		claim_released(a, f, m->token);
		break;
	case SPRITE__FS__PIPE_MSG__KIND__ROLE:
		on_role(a, f, m);
		break;
	case SPRITE__FS__PIPE_MSG__KIND__PATH:
		path_offered(a, f, m);
		break;
	case SPRITE__FS__PIPE_MSG__KIND__SETTLE:
		path_settle(a, f, m);
		break;
	case SPRITE__FS__PIPE_MSG__KIND__DATA:
		if (f->path.used) /* none comes as long as it is not settled */
			path_stop(a, f);
		b = f->role == SINK ? malloc(sizeof(*b) + in->bulk_len) : NULL;
		if (!b)
			break; /* the hub has it still */
		*b = (struct bytes){.len = in->bulk_len};
		rpc_msg_copy(in, b->data, b->len);
		list_add_tail(&f->out, &b->link);
		if (!pipe_pump(a, f))
			pipe_report(f, 0);
		break;
	case SPRITE__FS__PIPE_MSG__KIND__ACK:
		f->unacked -= m->n < f->unacked ? m->n : f->unacked;
		if (!pipe_pump(a, f))
			pipe_report(f, 0);
		break;
	default:
		break;
	}
}

static void on_up(struct agent *a, struct hub *h, struct rpc_stream *s)
{
	struct opener *o;
	struct fifo *f;

	h->stream = s;
	list_each(f, &a->fifos, link) {
		if (f->hub != h)
			continue;
		list_each(o, &f->openers, link)
			open_send(f, o); /* those that wait, and those that are in their open natively */
		if (f->r || f->w)
			pipe_tell(f, SPRITE__FS__PIPE_MSG__KIND__OPEN, ++a->next_id, f->r, f->w, 0); /* a server that was started again knows of nobody */
		claims_up(a, f);
	}
}

static void on_down(struct agent *a, struct hub *h)
{
	struct opener *o;
	struct fifo *f;

	h->stream = NULL;
	if (!a->fs->stopping)
		log_warn("named pipes: the connection to their server is lost; who has a partner on another node sees an end, or a broken pipe");
	list_each(f, &a->fifos, link) {
		if (f->hub != h)
			continue;
		end_leave(a, f);
		path_forget(a, f);
		f->unacked = f->done = 0;
		f->silent = false;
		f->owed = 0;
		kept_close(f);
		list_each(o, &f->openers, link)
			opener_answer(o);
		guard_settle(a, f);
	}
}

/* ---- after a spritefs that was killed ---- */

static void look(struct agent *a)
{
	struct pipe_seen seen;
	struct inode *ino;
	struct fifo *f;

	pipe_proc_seen(&seen);
	for (size_t i = 0; i < seen.n; i++) {
		if (fifo_behind(a->fs, seen.v[i].pid, seen.v[i].fd, &ino) || !(f = fifo_get(a, ino)))
			continue;
		f->r |= seen.v[i].r;
		f->w |= seen.v[i].w;
		if (f->hub->stream) /* else on_up() tells */
			pipe_tell(f, SPRITE__FS__PIPE_MSG__KIND__OPEN, ++a->next_id, seen.v[i].r, seen.v[i].w, 0);
	}
	free(seen.v);
}

/* ---- the thread ---- */

static void mail_handle(struct agent *a, struct mail *m)
{
	fault_point("pipe-mail");
	switch (m->kind) {
	case MAIL_OPEN:
		on_open(a, m->ino, m->opener);
		break;
	case MAIL_UP:
		on_up(a, m->hub, m->stream);
		break;
	case MAIL_DOWN:
		on_down(a, m->hub);
		sem_post(m->seen);
		break;
	case MAIL_MSG:
		if (m->hub->stream)
			on_message(a, m->hub, &m->msg);
		rpc_msg_clear(&m->msg);
		break;
	case MAIL_CALL:
		claim_call(a, m->call);
		break;
	case MAIL_LOOK:
		look(a);
		break;
	case MAIL_FOUND:
		claim_found(a, m->ino, m->keep);
		break;
	case MAIL_WIRE:
		wire_mail(a, m->wire, m->raw);
		break;
	}
	free(m);
}

static void mails_handle(struct agent *a)
{
	eventfd_t n;
	struct list *l;

	eventfd_read(a->wake, &n);
	for (;;) {
		pthread_mutex_lock(&a->lock);
		l = list_pop(&a->mails);
		pthread_mutex_unlock(&a->lock);
		if (!l)
			return;
		mail_handle(a, list_entry(l, struct mail, link));
	}
}

/* When something is to be looked at again; does what is due. */
static uint64_t due(struct agent *a)
{
	uint64_t now = clock_mono_ns(), next = now + 1000000000ull;
	struct fifo *f;
	struct opener *o;

	list_each(f, &a->fifos, link) {
		list_each(o, &f->openers, link)
			if (o->req && now - o->since > ANSWER_NS && !f->hub->stream)
				opener_answer(o);
		if (f->again && f->again <= now && (f->end >= 0 || f->guard >= 0 || f->put_off || f->passing) && !pipe_pump(a, f))
			pipe_report(f, 0);
		role_answer(f);
		claims_tick(a, f);
		if (f->again && f->again < next)
			next = f->again;
	}
	last_idle(a);
	return next;
}

/*
 * A timer that is set seldom: earlier than needed it does no harm. With a time-out of epoll_wait(2) each wait would set one, and where that is the processor's next one the machine's clock
 * with it: a third of what a byte costs.
 */
static void timer_set(struct agent *a, uint64_t when)
{
	struct itimerspec t = {0};
	uint64_t now;

	if (a->alarm && when >= a->alarm)
		return;
	now = clock_mono_ns();
	when = when > now + TIMER_NS ? when : now + TIMER_NS;
	t.it_value = (struct timespec){.tv_sec = (time_t)((when - now) / 1000000000), .tv_nsec = (long)((when - now) % 1000000000)};
	timerfd_settime(a->timer, 0, &t, NULL);
	a->alarm = when;
}

/* Something to read, room, or the other side's end. Said once, but for what a source without a pause has to read. */
static void fifo_event(struct agent *a, struct fifo *f)
{
	if (f->armed & EPOLLONESHOT)
		f->armed = 0;
	if (f->end >= 0 && !pipe_pump(a, f))
		pipe_report(f, 0);
}

static void *agent_main(void *arg)
{
	struct agent *a = arg;
	struct epoll_event ev[16];
	int n;

	pthread_setname_np(pthread_self(), "pipes");
	while (!a->fs->stopping) {
		bool mails = false;

		wires_tick(a);
		timer_set(a, due(a));
		n = epoll_wait(a->epoll, ev, 16, a->wires_pending ? 0 : -1);
		for (int i = 0; i < n; i++) {
			if (!ev[i].data.ptr)
				mails = true;
			else if (ev[i].data.u64 == EVENT_TIMER)
				a->alarm = 0;
			else if (ev[i].data.u64 & EVENT_WIRE)
				wire_event(a, (struct wire *)(uintptr_t)(ev[i].data.u64 & ~EVENT_WIRE), ev[i].events);
			else
				fifo_event(a, ev[i].data.ptr);
		}
		if (mails)
			mails_handle(a);
	}
	return NULL;
}

/* Each FIFO may need several. */
static void descriptors(void)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_NOFILE, &l) == 0 && l.rlim_cur < l.rlim_max) {
		l.rlim_cur = l.rlim_max;
		setrlimit(RLIMIT_NOFILE, &l);
	}
}

static struct agent *agent_start(struct fs *fs)
{
	struct agent *a = calloc(1, sizeof(*a));
	struct epoll_event ev = {.events = EPOLLIN}, tick = {.events = EPOLLIN | EPOLLET, .data.u64 = EVENT_TIMER};

	if (!a)
		return NULL;
	descriptors();
	a->fs = fs;
	pthread_mutex_init(&a->lock, NULL);
	pthread_mutex_init(&a->listen_lock, NULL);
	list_init(&a->wires);
	list_init(&a->mails);
	list_init(&a->fifos);
	list_init(&a->hubs);
	a->epoll = epoll_create1(EPOLL_CLOEXEC);
	a->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	a->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (a->epoll >= 0 && a->wake >= 0 && a->timer >= 0 && !epoll_ctl(a->epoll, EPOLL_CTL_ADD, a->wake, &ev) && !epoll_ctl(a->epoll, EPOLL_CTL_ADD, a->timer, &tick) && !pthread_create(&a->thread, NULL, agent_main, a))
		return a;
	free(a);
	return NULL;
}

struct agent *agent_of(struct fs *fs)
{
	struct agent *a;

	pthread_mutex_lock(&start_lock);
	if (!fs->pipes)
		fs->pipes = agent_start(fs);
	a = fs->pipes;
	pthread_mutex_unlock(&start_lock);
	return a;
}

void pipe_agent_carried(struct fs *fs, uint64_t n[2])
{
	struct agent *a;

	pthread_mutex_lock(&start_lock);
	a = fs->pipes;
	pthread_mutex_unlock(&start_lock);
	for (int i = 0; i < 2; i++)
		n[i] = a ? atomic_load(&a->carried[i]) : 0;
}
