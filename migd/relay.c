// SPDX-License-Identifier: Apache-2.0
/* The relay hub: see relay.h for protocol and locking, relay_half.h for what a byte goes through. */
#include "migd/relay.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/list.h"
#include "migd/relay_half.h"
#include "migd/relay_tty.h"

enum { MARK = 16, RELAYS_MAX = 256, TICK_MS = 2, TTY_TICK_MS = 50 };

struct relay {
	struct list node;
	uint64_t id;
	enum relay_kind kind;
	pid_t holder; /* at home: whose foreground state decides who reads the terminal */
	int original; /* home: the end as the family has it */
	bool has_source, has_sink;
	struct relay_source source;
	struct relay_sink sink;
	struct relay_tty tty;
	bool hello_due;
	unsigned char mark[MARK]; /* guest, terminal: see mark_terminals() */
	bool marked;
};

struct out_frame {
	struct list node;
	struct relay_frame f;
	unsigned char data[];
};

struct relay_hub {
	bool home;
	pthread_mutex_t turn; /* held while the thread is started or ended: who finds it ended may free the link */
	pthread_mutex_t lock; /* taken after turn */
	pthread_cond_t changed;
	struct list relays, out; /* lock */
	size_t nrelays;
	bool up, stop, broken, paused; /* lock. paused: sinks write nothing more (the family is frozen) */
	uint64_t token, synced;	       /* lock: of SYNC */
	int wake;
	pthread_t thread;
	struct relay_link link;
};

int relay_hub_new(bool home, struct relay_hub **out)
{
	struct relay_hub *h = calloc(1, sizeof(*h));
	pthread_condattr_t a;

	if (!h)
		return -ENOMEM;
	h->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (h->wake < 0) {
		free(h);
		return -errno;
	}
	h->home = home;
	pthread_mutex_init(&h->turn, NULL);
	pthread_mutex_init(&h->lock, NULL);
	pthread_condattr_init(&a);
	pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
	pthread_cond_init(&h->changed, &a);
	pthread_condattr_destroy(&a);
	list_init(&h->relays);
	list_init(&h->out);
	*out = h;
	return 0;
}

static void relay_free(struct relay *r)
{
	if (r->has_source)
		relay_source_clear(&r->source);
	if (r->has_sink)
		relay_sink_clear(&r->sink);
	relay_tty_clear(&r->tty);
	if (r->original >= 0)
		close(r->original);
	list_del(&r->node);
	free(r);
}

static void drop_out(struct relay_hub *h)
{
	struct list *n;

	while ((n = list_pop(&h->out)))
		free(list_entry(n, struct out_frame, node));
}

void relay_hub_free(struct relay_hub *h)
{
	if (!h)
		return;
	relay_down(h);
	while (!list_empty(&h->relays))
		relay_free(list_entry(h->relays.next, struct relay, node));
	drop_out(h);
	close(h->wake);
	pthread_cond_destroy(&h->changed);
	pthread_mutex_destroy(&h->lock);
	pthread_mutex_destroy(&h->turn);
	free(h);
}

size_t relay_count(const struct relay_hub *h)
{
	return h ? h->nrelays : 0;
}

static void poke(struct relay_hub *h)
{
	uint64_t one = 1;

	if (write(h->wake, &one, sizeof(one)) < 0)
		return; /* EAGAIN: it is awake anyway */
}

static struct relay *find(struct relay_hub *h, uint64_t id)
{
	struct relay *r;

	list_each(r, &h->relays, node)
		if (r->id == id)
			return r;
	return NULL;
}

static struct relay *relay_new(struct relay_hub *h, uint64_t id, enum relay_kind kind)
{
	struct relay *r;

	if (h->nrelays >= RELAYS_MAX)
		return NULL;
	r = calloc(1, sizeof(*r));
	if (!r)
		return NULL;
	r->id = id;
	r->kind = kind;
	r->original = -1;
	relay_tty_init(&r->tty);
	list_add_tail(&h->relays, &r->node);
	h->nrelays++;
	return r;
}

/* A description of our own for the same pipe or terminal: O_NONBLOCK on the family's would be seen by it. */
static int reopen(int fd, int flags)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, flags | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
}

/* Home: (re)creates the halves that stand at the original end. */
static int halves_at_home(struct relay *r)
{
	struct relay_source old = { .fd = -1, .scratch = { -1, -1 } };
	int fd, err;

	if (r->has_source)
		old = r->source;
	if (r->has_sink)
		relay_sink_clear(&r->sink);
	r->has_source = r->has_sink = false;
	if (r->kind != RELAY_OUT) {
		fd = reopen(r->original, O_RDONLY);
		err = fd < 0 ? -errno : relay_source_init(&r->source, fd, r->kind == RELAY_IN);
		r->has_source = fd >= 0;
		r->source.tty = r->kind == RELAY_TTY;
		if (!err && r->kind == RELAY_TTY && old.have) /* typed, taken by us, not read by the family yet */
			relay_source_carry(&r->source, &old);
		relay_source_clear(&old);
		if (err)
			return err;
	}
	if (r->kind != RELAY_IN) {
		fd = reopen(r->original, O_WRONLY);
		if (fd < 0 && errno != ENXIO) /* ENXIO: the reader has gone already */
			return -errno;
		relay_sink_init(&r->sink, fd, false);
		r->has_sink = true;
		r->sink.closed = fd < 0;
	}
	if (r->kind == RELAY_TTY)
		relay_tty_home(&r->tty, r->original, r->holder);
	return 0;
}

int relay_add(struct relay_hub *h, uint64_t id, enum relay_kind kind, int fd, pid_t holder)
{
	struct relay *r;
	int err = 0;

	pthread_mutex_lock(&h->lock);
	r = find(h, id);
	if (r) {
		close(fd);
	} else {
		r = relay_new(h, id, kind);
		if (r) {
			r->original = fd;
			r->holder = holder;
			err = halves_at_home(r);
		} else {
			close(fd);
			err = -ENFILE;
		}
	}
	pthread_mutex_unlock(&h->lock);
	return err;
}

int relay_original(struct relay_hub *h, uint64_t id)
{
	struct relay *r;
	int fd = -1;

	pthread_mutex_lock(&h->lock);
	r = find(h, id);
	if (r)
		fd = fcntl(r->original, F_DUPFD_CLOEXEC, 3);
	if (r && r->kind == RELAY_TTY)
		relay_tty_keep(&r->tty); /* what the image brings is the pty's, with our own bits in it */
	pthread_mutex_unlock(&h->lock);
	return r ? (fd < 0 ? -errno : fd) : -ENOENT;
}

void relay_reset(struct relay_hub *h)
{
	struct relay *r;

	pthread_mutex_lock(&h->lock);
	list_each(r, &h->relays, node)
		halves_at_home(r);
	drop_out(h);
	h->paused = false;
	pthread_mutex_unlock(&h->lock);
}

void relay_unread(struct relay_hub *h)
{
	struct relay *r;

	pthread_mutex_lock(&h->lock);
	list_each(r, &h->relays, node)
		if (r->kind == RELAY_TTY && r->has_source) {
			relay_tty_back(&r->tty);
			relay_tty_unread(&r->tty, r->source.win, r->source.have);
			r->source.have = 0;
		}
	pthread_mutex_unlock(&h->lock);
}

void relay_left(struct relay_hub *h, pid_t pid, bool ended)
{
	struct relay *r;

	pthread_mutex_lock(&h->lock);
	list_each(r, &h->relays, node) {
		struct relay_source *s = &r->source;

		if (r->kind != RELAY_TTY || r->holder != pid || r->tty.left)
			continue;
		r->tty.left = true;
		if (ended && r->has_source && s->have) { /* typed ahead: the next program's, as on any terminal */
			relay_tty_unread(&r->tty, s->win, s->have);
			relay_source_peer_closed(s);
		}
	}
	pthread_mutex_unlock(&h->lock);
}

void relay_back(struct relay_hub *h, pid_t pid)
{
	struct relay *r;

	pthread_mutex_lock(&h->lock);
	list_each(r, &h->relays, node)
		if (r->kind == RELAY_TTY && r->holder == pid)
			r->tty.left = false;
	pthread_mutex_unlock(&h->lock);
	poke(h);
}

static int make_pipe(struct relay *r, int *family_end)
{
	int p[2], ours, err = 0;

	if (pipe2(p, O_CLOEXEC))
		return -errno;
	ours = r->kind == RELAY_IN ? p[1] : p[0];
	*family_end = r->kind == RELAY_IN ? p[0] : p[1];
	fcntl(ours, F_SETFL, O_NONBLOCK); /* each end has its own description */
	if (r->kind == RELAY_IN) {
		relay_sink_init(&r->sink, ours, true);
		r->has_sink = true;
	} else {
		err = relay_source_init(&r->source, ours, false);
		r->has_source = true;
	}
	if (err)
		close(*family_end);
	return err;
}

static int make_pty(struct relay *r, int *family_end)
{
	int ours, err;

	err = relay_tty_guest(&r->tty, &ours, family_end);
	if (err)
		return err;
	relay_sink_init(&r->sink, fcntl(ours, F_DUPFD_CLOEXEC, 3), true);
	r->sink.count_fd = fcntl(*family_end, F_DUPFD_CLOEXEC, 3);
	r->has_sink = true;
	err = relay_source_init(&r->source, ours, false);
	r->has_source = true;
	return err;
}

int relay_make(struct relay_hub *h, uint64_t id, enum relay_kind kind)
{
	struct relay *r;
	int fd = -1, err;

	pthread_mutex_lock(&h->lock);
	r = find(h, id) ? NULL : relay_new(h, id, kind);
	err = !r ? -EEXIST : kind == RELAY_TTY ? make_pty(r, &fd) : make_pipe(r, &fd);
	pthread_mutex_unlock(&h->lock);
	return err ? err : fd;
}

/* ---- the hub's thread: what is to be sent (under the lock), then sending (without it) ---- */

static int queue(struct relay_hub *h, uint64_t id, enum relay_frame_kind kind, uint64_t offset, const void *data, size_t len)
{
	struct out_frame *o = malloc(sizeof(*o) + len);

	if (!o)
		return -ENOMEM;
	if (len)
		memcpy(o->data, data, len);
	o->f = (struct relay_frame){ .id = id, .kind = kind, .offset = offset, .data = o->data, .len = len };
	list_add_tail(&h->out, &o->node);
	return 0;
}

/* Takes the mark out of what has come through the pty. Until it is there nothing is sent, so that no part of it is. */
static bool mark_came(struct relay *r)
{
	struct relay_source *s = &r->source;
	size_t from = s->sent - s->acked;
	unsigned char *at = s->have > from ? memmem(s->win + from, s->have - from, r->mark, MARK) : NULL;

	if (!at)
		return s->have == RELAY_WINDOW || s->end; /* cannot come any more */
	memmove(at, at + MARK, s->win + s->have - at - MARK);
	s->have -= MARK;
	return true;
}

/*
 * Home: takes in what was typed, if it was typed for the family. Whose it is is asked before and after: what was read while the shell took the terminal back goes
 * back into it. (The shell takes it back when the holder ends or stops, and before that relay_left() has been called.)
 */
static void terminal_fill(struct relay *r)
{
	struct relay_source *s = &r->source;
	struct pollfd p = { .fd = s->fd, .events = POLLIN };
	size_t had = s->have;

	if (s->fd < 0 || poll(&p, 1, 0) <= 0 || !relay_tty_is_ours(&r->tty))
		return;
	if (relay_source_fill(s) < 0)
		s->end = true;
	if (s->have > had && !relay_tty_is_ours(&r->tty)) {
		relay_tty_unread(&r->tty, s->win + had, s->have - had);
		s->have = had;
	}
}

static void source_step(struct relay_hub *h, struct relay *r)
{
	struct relay_source *s = &r->source;
	const unsigned char *p;
	uint64_t off;
	size_t n, had = s->have;

	if (r->kind == RELAY_TTY && h->home)
		terminal_fill(r);
	else if (relay_source_fill(s) < 0)
		s->end = true;
	if (r->kind == RELAY_TTY && !h->home && s->have > had)
		s->have = had + relay_tty_uncook(&r->tty, s->win + had, s->have - had);
	if (r->marked && !mark_came(r))
		return;
	r->marked = false;
	while (!r->hello_due && (n = relay_source_next(s, &off, &p)) > 0) {
		if (queue(h, r->id, RF_DATA, off, p, n))
			return;
		relay_source_sent(s, n);
	}
	if (!r->hello_due && s->end && !s->end_sent && s->sent - s->acked == s->have && !queue(h, r->id, RF_END, s->sent, NULL, 0))
		s->end_sent = true;
}

static void sink_step(struct relay_hub *h, struct relay *r)
{
	struct relay_sink *k = &r->sink;
	struct pollfd p = { .fd = k->fd };
	uint64_t off;

	if (!h->paused)
		relay_sink_flush(k);
	if (k->fd >= 0 && r->kind != RELAY_TTY && poll(&p, 1, 0) > 0 && p.revents & POLLERR) {
		k->closed = true;
		relay_sink_flush(k);
	}
	if (k->closed && !k->closed_told && !queue(h, r->id, RF_CLOSED, 0, NULL, 0))
		k->closed_told = true;
	if (relay_sink_ack_due(k, &off) && !queue(h, r->id, RF_ACK, off, NULL, 0))
		k->acked = off;
}

static void tty_step(struct relay_hub *h, struct relay *r)
{
	unsigned char data[128];
	size_t n = relay_tty_news(&r->tty, data, sizeof(data));

	if (n)
		queue(h, r->id, h->home ? RF_WINSIZE : RF_TERMIOS, 0, data, n);
}

/* What to wait for. Returns the time-out: a tap with unread bytes, and a pipe whose reader must be watched, can only be looked at again. */
static int wait_for(struct relay_hub *h, struct pollfd *p, nfds_t *n)
{
	struct relay *r;
	int timeout = -1;
	uint64_t off;

	*n = 1;
	list_each(r, &h->relays, node) {
		struct relay_source *s = &r->source;
		struct relay_sink *k = &r->sink;

		if (r->has_source && s->fd >= 0 && !s->end && !s->peer_closed) {
			bool idle_tap = !s->tap || !s->have;

			if (r->kind == RELAY_TTY && h->home && !relay_tty_may_read(&r->tty))
				timeout = TTY_TICK_MS;
			else if (idle_tap && s->have < RELAY_WINDOW)
				p[(*n)++] = (struct pollfd){ .fd = s->fd, .events = POLLIN };
			else if (s->tap)
				timeout = TICK_MS;
		}
		if (r->has_sink && k->fd >= 0 && !h->paused) {
			p[(*n)++] = (struct pollfd){ .fd = k->fd, .events = k->have ? POLLOUT : 0 };
			if (k->count && (k->written > k->acked || (relay_sink_ack_due(k, &off))))
				timeout = TICK_MS;
		}
		if (r->kind == RELAY_TTY && timeout < 0)
			timeout = TTY_TICK_MS;
	}
	return timeout;
}

static void step_all(struct relay_hub *h)
{
	struct relay *r;

	list_each(r, &h->relays, node) {
		if (r->kind == RELAY_TTY)
			tty_step(h, r);
		if (r->has_source)
			source_step(h, r);
		if (r->has_sink)
			sink_step(h, r);
	}
	pthread_cond_broadcast(&h->changed);
}

/* Sends what is queued, with the lock given up meanwhile. */
static void send_all(struct relay_hub *h)
{
	struct list *n;

	while (!h->broken && !h->stop && (n = list_pop(&h->out))) {
		struct out_frame *o = list_entry(n, struct out_frame, node);
		int err;

		pthread_mutex_unlock(&h->lock);
		err = h->link.send(h->link.ctx, &o->f);
		free(o);
		pthread_mutex_lock(&h->lock);
		if (err)
			h->broken = true;
	}
}

static void *hub_main(void *arg)
{
	struct relay_hub *h = arg;
	struct pollfd p[2 * RELAYS_MAX + 1] = { { .fd = h->wake, .events = POLLIN } };
	uint64_t junk;
	int timeout;
	nfds_t n;

	pthread_mutex_lock(&h->lock);
	while (!h->stop && !h->broken) {
		step_all(h);
		if (!list_empty(&h->out)) {
			send_all(h);
			continue;
		}
		timeout = wait_for(h, p, &n);
		pthread_mutex_unlock(&h->lock);
		poll(p, n, timeout);
		if (read(h->wake, &junk, sizeof(junk)) < 0)
			junk = 0;
		/* Ends that poll() reports for ever (POLLHUP, POLLERR) are dealt with by step_all(): EOF or closed. */
		pthread_mutex_lock(&h->lock);
	}
	pthread_cond_broadcast(&h->changed);
	pthread_mutex_unlock(&h->lock);
	return NULL;
}

/* turn held. */
static void end_thread(struct relay_hub *h)
{
	bool was;

	pthread_mutex_lock(&h->lock);
	was = h->up;
	h->stop = true;
	h->up = false;
	pthread_mutex_unlock(&h->lock);
	poke(h);
	if (was)
		pthread_join(h->thread, NULL);
}

int relay_up(struct relay_hub *h, const struct relay_link *link)
{
	sigset_t all, old;
	struct relay *r;
	int err;

	pthread_mutex_lock(&h->turn);
	end_thread(h);
	pthread_mutex_lock(&h->lock);
	drop_out(h);
	h->link = *link;
	h->stop = h->broken = false;
	list_each(r, &h->relays, node) {
		r->hello_due = true; /* send nothing new before the other side has said what it has */
		r->sink.acked = 0;
		r->sink.closed_told = false;
		queue(h, r->id, RF_HELLO, r->has_sink ? r->sink.got : 0, NULL, 0);
	}
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = -pthread_create(&h->thread, NULL, hub_main, h);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	h->up = !err;
	pthread_mutex_unlock(&h->lock);
	pthread_mutex_unlock(&h->turn);
	return err;
}

void relay_down(struct relay_hub *h)
{
	pthread_mutex_lock(&h->turn);
	end_thread(h);
	pthread_mutex_unlock(&h->turn);
}

void relay_leave(struct relay_hub *h, const void *ctx)
{
	pthread_mutex_lock(&h->turn);
	if (h->link.ctx == ctx)
		end_thread(h);
	pthread_mutex_unlock(&h->turn);
}

bool relay_broken(struct relay_hub *h)
{
	bool b;

	pthread_mutex_lock(&h->lock);
	b = h->broken;
	pthread_mutex_unlock(&h->lock);
	return b;
}

static int input_relay(struct relay_hub *h, struct relay *r, const struct relay_frame *f)
{
	int err = 0;

	switch (f->kind) {
	case RF_HELLO:
		if (r->has_source)
			err = relay_source_rewind(&r->source, f->offset);
		r->hello_due = false;
		return err;
	case RF_DATA:
		return r->has_sink ? relay_sink_data(&r->sink, f->offset, f->data, f->len) : -EPROTO;
	case RF_ACK:
		return r->has_source ? relay_source_ack(&r->source, f->offset) : -EPROTO;
	case RF_END:
		if (r->has_sink)
			relay_sink_end(&r->sink, f->offset);
		return r->has_sink ? 0 : -EPROTO;
	case RF_CLOSED:
		if (r->has_source)
			relay_source_peer_closed(&r->source);
		return r->has_source ? 0 : -EPROTO;
	case RF_TERMIOS:
	case RF_WINSIZE:
		return r->kind == RELAY_TTY && (f->kind == RF_TERMIOS) == h->home ? relay_tty_input(&r->tty, f->data, f->len) : -EPROTO;
	default:
		return -EPROTO;
	}
}

int relay_input(struct relay_hub *h, const struct relay_frame *f)
{
	struct relay *r;
	int err = 0;

	pthread_mutex_lock(&h->lock);
	if (f->kind == RF_SYNC && h->home) {
		err = queue(h, 0, RF_SYNCED, f->offset, NULL, 0);
	} else if (f->kind == RF_SYNCED && !h->home) {
		h->synced = f->offset;
		pthread_cond_broadcast(&h->changed);
	} else {
		r = find(h, f->id);
		if (r)
			err = input_relay(h, r, f);
		else if (f->kind != RF_HELLO) /* home may know relays that this generation no longer has */
			err = -EPROTO;
	}
	pthread_mutex_unlock(&h->lock);
	poke(h);
	return err;
}

/* ---- waiting until all is through ---- */

static struct timespec deadline_in(int ms)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_sec += ms / 1000;
	t.tv_nsec += ms % 1000 * 1000000L;
	if (t.tv_nsec >= 1000000000L) {
		t.tv_sec++;
		t.tv_nsec -= 1000000000L;
	}
	return t;
}

static bool nothing_in(int fd)
{
	int n = 0;

	return fd < 0 || ioctl(fd, FIONREAD, &n) || !n;
}

static bool outputs_drained(struct relay_hub *h)
{
	struct relay *r;

	list_each(r, &h->relays, node)
		if (r->has_source && (r->marked || !relay_source_drained(&r->source) || (!r->source.peer_closed && !r->source.end && !nothing_in(r->source.fd))))
			return false;
	return true;
}

static bool inputs_told(struct relay_hub *h)
{
	struct relay *r;
	uint64_t off;

	list_each(r, &h->relays, node)
		if (r->has_sink && r->sink.count && relay_sink_ack_due(&r->sink, &off))
			return false;
	return list_empty(&h->out);
}

/* Waits (lock held) until the condition is true. */
static int wait_until(struct relay_hub *h, bool (*cond)(struct relay_hub *), const struct timespec *t)
{
	int err = 0;

	while (!cond(h) && !err) {
		poke(h);
		err = pthread_cond_timedwait(&h->changed, &h->lock, t);
	}
	return cond(h) ? 0 : -err;
}

/*
 * What a process has written to a pty is not at once on its master's side: a worker of the kernel carries it there, and FIONREAD says nothing of what is on
 * the way. So write something after it that we know again, and wait until that comes out.
 */
static void mark_terminals(struct relay_hub *h)
{
	struct relay *r;

	list_each(r, &h->relays, node) {
		if (r->kind != RELAY_TTY || r->sink.count_fd < 0 || r->source.end || r->source.peer_closed || r->marked)
			continue;
		if (getrandom(r->mark, MARK, 0) == MARK && write(r->sink.count_fd, r->mark, MARK) == MARK)
			r->marked = true;
	}
}

static int drain(struct relay_hub *h, const struct timespec *t)
{
	int err = wait_until(h, outputs_drained, t);

	if (!err) {
		mark_terminals(h);
		err = wait_until(h, outputs_drained, t);
	}
	return err;
}

static bool is_synced(struct relay_hub *h)
{
	return h->synced == h->token;
}

/* Home knows what was read here, and has carried out all that it was sent. */
static int sync_up(struct relay_hub *h, const struct timespec *t)
{
	int err = wait_until(h, inputs_told, t);

	if (!err) {
		h->token++;
		err = queue(h, 0, RF_SYNC, h->token, NULL, 0);
	}
	return err ? err : wait_until(h, is_synced, t);
}

int relay_drain(struct relay_hub *h, int timeout_ms)
{
	struct timespec t = deadline_in(timeout_ms);
	int err;

	if (!relay_count(h))
		return 0;
	pthread_mutex_lock(&h->lock);
	err = drain(h, &t);
	if (!err)
		err = sync_up(h, &t);
	pthread_mutex_unlock(&h->lock);
	return err;
}

int relay_quiesce(struct relay_hub *h, int timeout_ms)
{
	struct timespec t = deadline_in(timeout_ms);
	int err;

	if (!relay_count(h))
		return 0;
	pthread_mutex_lock(&h->lock);
	h->paused = true;
	err = drain(h, &t);
	if (!err)
		err = sync_up(h, &t);
	pthread_mutex_unlock(&h->lock);
	return err;
}

void relay_resume(struct relay_hub *h)
{
	pthread_mutex_lock(&h->lock);
	h->paused = false;
	pthread_mutex_unlock(&h->lock);
	poke(h);
}
