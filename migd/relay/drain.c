// SPDX-License-Identifier: Apache-2.0
/* Waiting until all that was written is with its readers, and what was not read is back: for a move, and for the end of a process. See hub.h. */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>
#include "migd/relay/hub_parts.h"

enum { STALLED_MS = 200, LOOK_MS = 2 };

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

static size_t waits_in(int fd)
{
	int n = 0;

	return fd < 0 || ioctl(fd, FIONREAD, &n) ? 0 : n;
}

/* All that has been written up to now has to be with its readers, however much is written meanwhile. */
static void set_targets(struct relay_hub *h)
{
	struct relay *r;

	list_each(r, &h->relays, node) {
		const struct relay_source *s = &r->source;

		r->target = s->acked + s->have + (r->kind == RELAY_TTY || s->end ? 0 : waits_in(s->fd)); /* a terminal: all up to the mark is in the window */
	}
}

static bool targets_reached(struct relay_hub *h)
{
	struct relay *r;

	list_each(r, &h->relays, node) {
		if (r->conn.over)
			continue;
		if (h->paused && r->kind == RELAY_UDP && !udp_quiet(h, r))
			return false;
		if (r->has_source && !r->source.peer_closed && (r->source.acked < r->target || (r->source.end && !r->source.end_sent)))
			return false;
		/* Of a connection there may be more in the family's own socket; nobody adds to it now. */
		if (h->paused && r->source.tcp && (r->source.have || !net_end_drained(&r->conn.end, r->source.fd)))
			return false;
	}
	return !h->paused || conn_all_told(h);
}

static bool marks_came(struct relay_hub *h)
{
	struct relay *r;

	list_each(r, &h->relays, node)
		if (r->marked)
			return false;
	return true;
}

static bool inputs_told(struct relay_hub *h)
{
	struct relay *r;
	uint64_t off;

	list_each(r, &h->relays, node)
		if (r->has_sink && r->sink.count && (relay_sink_ack_due(&r->sink, &off) || (r->sink.tcp && !r->conn.over && !r->sink.tcp->exact)))
			return false;
	return true;
}

static bool is_past(const struct timespec *t)
{
	struct timespec now = deadline_in(0);

	return now.tv_sec > t->tv_sec || (now.tv_sec == t->tv_sec && now.tv_nsec >= t->tv_nsec);
}

/*
 * Waits (lock held) until the condition is true. -ENOTCONN: it is not, and the link is not there. Each turn of the hub's thread tells us; it is made to turn when it
 * has not for LOOK_MS, not each time it has, or the two wake each other without pause.
 */
static int wait_until(struct relay_hub *h, bool (*cond)(struct relay_hub *), const struct timespec *t)
{
	hub_poke(h);
	while (!cond(h) && !is_past(t)) {
		struct timespec look = deadline_in(LOOK_MS);

		if (pthread_cond_timedwait(&h->changed, &h->lock, &look) == ETIMEDOUT)
			hub_poke(h);
	}
	return cond(h) ? 0 : !h->up || h->broken ? -ENOTCONN : -ETIMEDOUT;
}

void relay_mark_put(struct relay *r)
{
	ssize_t n;

	/* Written in one piece, it comes out in one piece, whoever else writes: so not while the pty is full because we do not read it. */
	if (!r->marked || r->mark_put == MARK || (!r->mark_put && r->source.have > RELAY_WINDOW / 2))
		return;
	n = write(r->sink.count_fd, r->mark + r->mark_put, MARK - r->mark_put);
	if (n > 0)
		r->mark_put += n;
	else if (errno != EAGAIN && errno != EINTR)
		r->marked = false; /* hung up */
}

/*
 * What a process has written to a pty is not at once on its master's side: a worker of the kernel carries it there, and FIONREAD says nothing of what is on
 * the way. So write something after it that we know again (letters: no output mode changes those), and wait until that comes out.
 */
static void mark_terminals(struct relay_hub *h)
{
	struct relay *r;

	list_each(r, &h->relays, node) {
		if (r->kind != RELAY_TTY || r->sink.count_fd < 0 || r->source.end || r->source.peer_closed || r->marked)
			continue;
		if (getrandom(r->mark, MARK, 0) != MARK)
			continue;
		for (size_t i = 0; i < MARK; i++)
			r->mark[i] = 'A' + (r->mark[i] & 15);
		r->mark_put = 0;
		r->marked = true;
		relay_mark_put(r);
	}
}

static int drain(struct relay_hub *h, const struct timespec *t)
{
	int err;

	mark_terminals(h);
	err = wait_until(h, marks_came, t);
	if (err)
		return err;
	set_targets(h);
	return wait_until(h, targets_reached, t);
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
		err = hub_queue(h, 0, RF_SYNC, h->token, NULL, 0);
	}
	return err ? err : wait_until(h, is_synced, t);
}

/* Of sockets of packets: what home took is not there any more. */
static bool packets_read(struct relay_hub *h)
{
	struct relay *r;

	list_each(r, &h->relays, node) {
		const struct relay_sink *k = &r->sink;

		if (relay_has_packets(r) && !k->closed && (k->have || k->acked != k->got || (r->kind == RELAY_SEQ ? relay_sock_unread(k->reader) > 0 : relay_sock_unsent(k->fd))))
			return false;
	}
	return true;
}

static int drain_all(struct relay_hub *h, bool pause, int timeout_ms)
{
	struct timespec t;
	int err;
	bool stalled;

	if (!hub_count(h))
		return 0;
	pthread_mutex_lock(&h->drains);
	pthread_mutex_lock(&h->lock);
	stalled = !pause && h->stalled; /* and nothing has been read since: it would be so again */
	t = deadline_in(stalled && timeout_ms > STALLED_MS ? STALLED_MS : timeout_ms);
	if (pause) {
		h->paused = h->holding = true;
		conn_rooms(h);
	}
	err = drain(h, &t);
	h->stalled = err == -ETIMEDOUT;
	if (stalled)
		t = deadline_in(timeout_ms);
	if (!err)
		err = sync_up(h, &t);
	if (!err && pause && !packets_read(h))
		err = -EAGAIN;
	if (pause) /* a drain for the end of a process may come later */
		h->settled = !err;
	pthread_mutex_unlock(&h->lock);
	pthread_mutex_unlock(&h->drains);
	return err;
}

int hub_drain(struct relay_hub *h, int timeout_ms)
{
	return drain_all(h, false, timeout_ms);
}

int hub_quiesce(struct relay_hub *h, int timeout_ms)
{
	return drain_all(h, true, timeout_ms);
}

static bool udp_all_read(struct relay_hub *h)
{
	struct relay *r;

	list_each(r, &h->relays, node)
		if (r->kind == RELAY_UDP && !r->conn.over && !udp_read(r))
			return false;
	return true;
}

int hub_hold(struct relay_hub *h, int timeout_ms)
{
	struct timespec t = deadline_in(timeout_ms);
	struct relay *r;
	bool any = false;
	int err = 0;

	pthread_mutex_lock(&h->drains);
	pthread_mutex_lock(&h->lock);
	list_each(r, &h->relays, node)
		any |= relay_has_room(r);
	if (any) {
		h->holding = true;
		conn_rooms(h);
		h->token++;
		err = hub_queue(h, 0, RF_SYNC, h->token, NULL, 0); /* what home had accepted by then is here when it answers */
		if (!err)
			err = wait_until(h, is_synced, &t);
		if (!err)
			wait_until(h, udp_all_read, &t); /* else they are lost, as they may be */
		if (!err)
			err = wait_until(h, conn_all_accepted, &t);
		if (!err && wait_until(h, packets_read, &t))
			err = -EAGAIN;
	}
	pthread_mutex_unlock(&h->lock);
	pthread_mutex_unlock(&h->drains);
	return err == -ETIMEDOUT ? -EBUSY : err;
}

void hub_resume(struct relay_hub *h)
{
	pthread_mutex_lock(&h->lock);
	h->paused = h->holding = h->settled = false;
	pthread_mutex_unlock(&h->lock);
	hub_poke(h);
}
