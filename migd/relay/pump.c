// SPDX-License-Identifier: Apache-2.0
/* The hub's thread and its link: what is to be sent is found under the lock, and sent without it; what comes in is carried out by who brings it. See hub.h. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "migd/relay/hub_parts.h"

enum { TICK_MS = 2, TTY_TICK_MS = 50, CR_NS = 20 * 1000 * 1000 };

struct out_frame {
	struct list node;
	struct relay_frame f;
	unsigned char data[];
};

void hub_drop_out(struct relay_hub *h)
{
	struct list *n;

	while ((n = list_pop(&h->out)))
		free(list_entry(n, struct out_frame, node));
	h->nout = 0;
}

int hub_queue(struct relay_hub *h, uint64_t id, enum relay_frame_kind kind, uint64_t offset, const void *data, size_t len)
{
	struct out_frame *o = malloc(sizeof(*o) + len);

	if (!o)
		return -ENOMEM;
	if (len)
		memcpy(o->data, data, len);
	o->f = (struct relay_frame){ .id = id, .kind = kind, .offset = offset, .data = o->data, .len = len };
	list_add_tail(&h->out, &o->node);
	h->nout++;
	return 0;
}

/*
 * Takes the mark out of what has come through the pty. Returns how many of the last bytes must not be sent yet: they may be its beginning, or the half of a
 * line end.
 */
static size_t held_back(struct relay *r)
{
	struct relay_source *s = &r->source;
	size_t from = s->sent - s->acked;
	unsigned char *at = r->marked && s->have > from ? memmem(s->win + from, s->have - from, r->mark, MARK) : NULL;

	if (at) {
		memmove(at, at + MARK, s->win + s->have - at - MARK);
		s->have -= MARK;
	}
	if (at || s->end)
		r->marked = false;
	if (r->cr_held && clock_mono_ns() - r->cr_ns > CR_NS)
		r->cr_held = false;
	return r->marked ? MARK - 1 : r->cr_held;
}

/* Guest, terminal: what OPOST did to the bytes from `had` on is undone. */
static void uncook(struct relay *r, size_t had)
{
	struct relay_source *s = &r->source;

	if (s->have == had)
		return;
	had -= r->cr_held;
	s->have = had + relay_tty_uncook(&r->tty, s->win + had, s->have - had);
	r->cr_held = s->have && s->win[s->have - 1] == '\r';
	r->cr_ns = clock_mono_ns();
}

/*
 * Home: takes in what was typed, if it was typed for the family. Whose it is is asked before and after: what was read while the shell took the terminal back goes
 * back into it. (The shell takes it back when the holder ends or stops, and before that hub_left() has been called.)
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
	size_t n, had = s->have, held;
	const unsigned char *p;
	uint64_t off;

	if (r->kind == RELAY_TTY && h->home)
		terminal_fill(r);
	else if (!(h->home && relay_has_packets(r) && !r->conn.room) && relay_source_fill(s) < 0)
		*(s->tcp ? &r->conn.failed : &s->end) = true;
	if (r->kind == RELAY_TTY && !h->home) {
		relay_mark_put(r);
		uncook(r, had);
	}
	held = held_back(r);
	while (!r->hello_due && (n = relay_source_next(s, &off, &p)) > 0) {
		size_t unsent = s->have - (s->sent - s->acked);

		if (unsent <= held)
			break;
		if (n > unsent - held)
			n = unsent - held;
		if (hub_queue(h, r->id, RF_DATA, off, p, n))
			return;
		relay_source_sent(s, n);
	}
	if (!r->hello_due && !h->settled && s->end && !r->conn.failed && !r->conn.wrecked && !s->end_sent && s->sent - s->acked == s->have && !hub_queue(h, r->id, RF_END, s->sent, NULL, 0))
		s->end_sent = true;
}

static void sink_step(struct relay_hub *h, struct relay *r)
{
	struct relay_sink *k = &r->sink;
	struct pollfd p = { .fd = k->fd };
	uint64_t off;

	if (!h->paused)
		relay_sink_flush(k);
	if (k->fd >= 0 && r->kind != RELAY_TTY && r->kind != RELAY_TCP && poll(&p, 1, 0) > 0 && p.revents & (relay_is_unix(r) ? POLLHUP | POLLERR : POLLERR)) {
		k->closed = true;
		relay_sink_flush(k);
	}
	/* How much of it has been read comes before that nobody reads any more. */
	if (relay_sink_ack_due(k, &off) && !hub_queue(h, r->id, RF_ACK, off, NULL, 0))
		k->acked = off;
	if (k->closed && !h->settled && r->kind != RELAY_TCP && !k->closed_told && !hub_queue(h, r->id, RF_CLOSED, 0, NULL, 0))
		k->closed_told = true;
}

/*
 * Home: nobody in the family has this pipe any more, so those at its other end must not wait for us. (Of a socket both directions have been shut down by now, which holds for every
 * descriptor of it; a terminal can be opened again by name.)
 */
static void original_step(struct relay *r)
{
	bool over = r->kind == RELAY_OUT ? r->sink.end && r->sink.fd < 0 : r->kind == RELAY_IN && r->source.peer_closed;

	if (over && r->original >= 0) {
		close(r->original);
		r->original = -1;
	}
}

static void tty_step(struct relay_hub *h, struct relay *r)
{
	struct termios tio;
	struct winsize ws;
	bool changed;

	if (relay_tty_size(&r->tty, &ws, &changed))
		hub_queue(h, r->id, RF_WINSIZE, changed, &ws, sizeof(ws));
	if (!h->paused && relay_tty_set(&r->tty, &tio))
		hub_queue(h, r->id, RF_TERMIOS, r->tty.count, &tio, sizeof(tio));
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
			else if (h->home && relay_has_packets(r) && !r->conn.room)
				; /* not now */
			else if (idle_tap && s->have < RELAY_WINDOW)
				p[(*n)++] = (struct pollfd){ .fd = s->fd, .events = POLLIN };
			else if (s->tap)
				timeout = TICK_MS;
		}
		if (r->has_sink && k->fd >= 0 && !h->paused) {
			if (k->have || r->kind != RELAY_TCP) /* of a connection what else there is to see its source sees */
				p[(*n)++] = (struct pollfd){ .fd = k->fd, .events = relay_sink_waits(k) ? POLLOUT : 0 };
			if (k->count && (k->written > k->acked || (relay_sink_ack_due(k, &off))))
				timeout = TICK_MS;
		}
		if (r->kind == RELAY_TTY && timeout < 0)
			timeout = TTY_TICK_MS;
		int ms = relay_is_net(r) ? conn_tick(h, r) : born_tick(h, r);

		if (ms >= 0 && (timeout < 0 || ms < timeout))
			timeout = ms;
		if (relay_is_net(r)) {
			if (r->kind == RELAY_LISTEN && h->home && r->conn.here && !r->conn.full && r->conn.offers < r->conn.room)
				p[(*n)++] = (struct pollfd){ .fd = r->original, .events = POLLIN };
			if (r->kind == RELAY_UDP && h->home && r->conn.here && r->conn.room)
				p[(*n)++] = (struct pollfd){ .fd = r->original, .events = POLLIN };
			for (int i = 0; i < 2; i++)
				if (r->conn.raw[i])
					p[(*n)++] = (struct pollfd){ .fd = r->conn.raw[i], .events = POLLIN };
		}
		if (r->cr_held || (r->marked && r->mark_put < MARK))
			timeout = TICK_MS;
	}
	return timeout;
}

static void step_all(struct relay_hub *h)
{
	struct relay *r;

	list_each(r, &h->relays, node) {
		if (r->kind == RELAY_TTY)
			tty_step(h, r);
		if (r->has_source && !r->conn.over)
			source_step(h, r);
		if (r->has_sink && !r->conn.over)
			sink_step(h, r);
		if (h->home)
			original_step(r);
		if (relay_is_net(r))
			conn_step(h, r);
		else if (relay_has_packets(r))
			conn_rooms(h);
		born_step(h, r);
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

		h->nout--;
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
	hub_poke(h);
	if (was)
		pthread_join(h->thread, NULL);
}

int hub_up(struct relay_hub *h, uint64_t gen, const struct relay_link *link)
{
	sigset_t all, old;
	struct relay *r;
	int err;

	pthread_mutex_lock(&h->turn);
	end_thread(h);
	pthread_mutex_lock(&h->lock);
	if (h->home && h->gen != gen) {
		pthread_mutex_unlock(&h->lock);
		pthread_mutex_unlock(&h->turn);
		return -ESTALE;
	}
	hub_drop_out(h);
	h->link = *link;
	h->stop = h->broken = false;
	if (h->home)
		conn_offer(h);
	list_each(r, &h->relays, node) {
		conn_link(r);
		relay_tty_link(&r->tty);
		r->hello_due = true; /* send nothing new before the other side has said what it has */
		r->sink.acked = 0;
		r->sink.closed_told = false;
		hub_queue(h, r->id, RF_HELLO, r->has_sink ? r->sink.got : 0, NULL, 0);
	}
	if (!h->home)
		hub_queue(h, 0, RF_ALL, 0, NULL, 0);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = -pthread_create(&h->thread, NULL, hub_main, h);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	h->up = !err;
	pthread_mutex_unlock(&h->lock);
	pthread_mutex_unlock(&h->turn);
	return err;
}

void hub_down(struct relay_hub *h)
{
	pthread_mutex_lock(&h->turn);
	end_thread(h);
	pthread_mutex_unlock(&h->turn);
}

void hub_leave(struct relay_hub *h, const void *ctx)
{
	pthread_mutex_lock(&h->turn);
	if (h->link.ctx == ctx)
		end_thread(h);
	pthread_mutex_unlock(&h->turn);
}

static int input_relay(struct relay_hub *h, struct relay *r, const struct relay_frame *f)
{
	int err = 0;

	if (r->conn.kept) { /* a way home that came to nothing */
		r->conn.kept = false;
		relay_rights_deny(r);
	}
	switch (f->kind) {
	case RF_HELLO:
		if (r->has_source && !r->conn.over)
			err = relay_source_rewind(&r->source, f->offset);
		r->hello_due = false;
		r->conn.here = r->conn.seen = true;
		return err;
	case RF_DATA:
		return r->has_sink ? relay_sink_data(&r->sink, f->offset, f->data, f->len) : -EPROTO;
	case RF_ACK:
		h->stalled = false;
		return r->has_source ? relay_source_ack(&r->source, f->offset) : -EPROTO;
	case RF_END:
		if (r->has_sink && !r->conn.over)
			relay_sink_end(&r->sink, f->offset);
		return r->has_sink ? 0 : -EPROTO;
	case RF_CLOSED:
		if (r->has_source)
			relay_source_peer_closed(&r->source);
		return r->has_source ? 0 : -EPROTO;
	case RF_WINSIZE:
		if (r->kind == RELAY_TTY && h->home) {
			relay_tty_sized(&r->tty);
			return 0;
		}
		if (f->offset)
			hub_queue(h, r->id, RF_WINSIZE, 0, NULL, 0);
		/* fall through */
	case RF_TERMIOS:
		return r->kind == RELAY_TTY ? relay_tty_input(&r->tty, f->kind == RF_WINSIZE, f->offset, f->data, f->len) : -EPROTO;
	default:
		return -EPROTO;
	}
}

/* Home: what the guest has is unknown here (whoever kept it was killed): for the family that is as if nobody had the other end any more. */
static void gone(struct relay *r)
{
	if (r->has_source)
		relay_source_peer_closed(&r->source);
	if (r->has_sink)
		relay_sink_end(&r->sink, r->sink.got);
	r->hello_due = false;
}

int hub_input(struct relay_hub *h, const void *ctx, const struct relay_frame *f)
{
	struct relay *r;
	int err = 0;

	pthread_mutex_lock(&h->lock);
	if (ctx && (!h->up || h->link.ctx != ctx)) {
		err = -EPIPE; /* of a link that another has taken the place of: its offsets may mean something else */
	} else if (h->home && h->nout > ANSWERS_MAX && (f->kind == RF_SYNC || f->kind == RF_HELLO)) {
		err = -EPROTO; /* it asks and asks, and does not read the answers */
	} else if (f->kind == RF_SYNC && h->home) {
		err = hub_queue(h, 0, RF_SYNCED, f->offset, NULL, 0);
	} else if (f->kind == RF_SYNCED && !h->home) {
		h->synced = f->offset;
		pthread_cond_broadcast(&h->changed);
	} else if (f->kind >= RF_NEW) {
		err = conn_input(h, f);
	} else {
		r = hub_find(h, f->id);
		if (r && f->kind == RF_GONE && !h->home && (relay_is_net(r) || r->conn.over))
			conn_gone(h, r);
		else if (r && f->kind == RF_GONE && !h->home)
			gone(r);
		else if (r)
			err = input_relay(h, r, f);
		else if (!h->home)
			err = 0; /* home knows relays that this generation no longer has */
		else if (f->kind != RF_HELLO)
			err = -EPROTO;
		else
			err = hub_queue(h, f->id, RF_GONE, 0, NULL, 0);
	}
	pthread_mutex_unlock(&h->lock);
	hub_poke(h);
	return err;
}
