// SPDX-License-Identifier: Apache-2.0
/*
 * Sockets of the network in a hub. The home keeps the true one; on the guest host the family has one of a space (net.h). A connection is a source and a sink on
 * either side, like a unix socket; beside that it can break, it is over some time, and new ones come in where one listens.
 *
 *   home -> guest   NEW{id, struct conn_new}   a connection that was accepted here; again over each link until ACCEPTED
 *                   RESET{id, offset}          it broke; what is there may be read first (0), or: the family's next word shall fail (1)
 *                   GONE{id}                   after DONE: it is forgotten here
 *   guest -> home   ROOM{id, offset}           listening: how many connections this generation takes, counted from its beginning; UDP and seqpackets: 1: they may come; 0: none now
 *                   ACCEPTED{id}               the family has it
 *                   DONE{id, offset}           the family has closed it, or both directions have ended (0); it broke (1): the true one is closed in the same way
 *                   ALL                        behind the HELLOs of a link: of the network there are no others here
 *
 * Invariants
 *   1. A connection is offered to a generation while its family is not known to have accepted it, and never after: DONE says so too. Who is asked for ALL, and has
 *      it no more, has closed it.
 *   2. Only the guest says that a connection is over, when all that the family wrote is written at home; it forgets it when home has (GONE).
 *   3. A true connection whose keeper is killed breaks (SO_LINGER 0): nobody takes what has been cut off for the whole.
 *   4. A new connection is accepted at home only as long as there is room for it over there: few, since one that the family has not accepted cannot be put back.
 *
 * Lock: the hub's.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "conf/clock.h"
#include "conf/log.h"
#include "migd/relay/hub_parts.h"

enum { ROOM_MAX = 4, UNACCEPTED_MS = 5, ENDING_MS = 50, LISTEN_MS = 1000, FULL_MS = 100 };

struct conn_new {
	uint64_t parent;
	struct relay_net net;
};

/* ---- guest: the family's sockets ---- */

static int space_at(struct relay_hub *h, int i)
{
	return h->space[i].ns > 0 ? 0 : net_space_open(&h->space[i]);
}

static bool same_place(const struct relay_net *a, const struct relay_net *b)
{
	return net_port(a->local) == net_port(b->local) && (net_is_any(a->local) || net_is_any(b->local) || !memcmp(a->local, b->local, RELAY_ADDR));
}

/* Of two that listen at one place the kernel would choose; of two that send packets from one we could not tell which it was. */
static bool is_taken(struct relay_hub *h, enum relay_kind kind, const struct net_space *s, const struct relay_net *net)
{
	struct relay *r;

	list_each(r, &h->relays, node)
		if (r->kind == kind && r->conn.space == s && same_place(&r->conn.net, net))
			return true;
	return false;
}

/* fd: our end of a new connection in s. */
static int adopt(struct relay *r, const struct net_space *s, int fd)
{
	struct net_look l;
	int err;

	r->conn.space = s;
	r->conn.end = (struct net_end){ .space = s, .net = r->conn.net };
	relay_sink_init(&r->sink, fcntl(fd, F_DUPFD_CLOEXEC, 3), true);
	r->sink.sock = true;
	r->sink.tcp = &r->conn.end;
	r->has_sink = true;
	err = relay_source_init(&r->source, fd, false, true);
	r->source.tcp = true;
	r->has_source = true;
	if (err || r->sink.fd < 0)
		return err ? err : -ENFILE;
	err = net_look(s, &r->conn.net, false, &l);
	return err == -EAGAIN ? 0 : err; /* its last packet is on its way */
}

int conn_make(struct relay_hub *h, struct relay *r, const struct relay_net *net, int *family)
{
	int err = -EINVAL;

	*family = -1;
	if (!net_valid(net, r->kind == RELAY_TCP || (r->kind == RELAY_UDP && net_port(net->peer))))
		return -EINVAL;
	r->conn.net = *net;
	for (int i = 0; i < RELAY_SPACES; i++) {
		err = space_at(h, i);
		if (err)
			return err;
		err = -EADDRINUSE;
		if (r->kind != RELAY_TCP && is_taken(h, r->kind, &h->space[i], net))
			continue;
		err = r->kind == RELAY_TCP    ? net_pair(&h->space[i], net, family) :
		      r->kind == RELAY_LISTEN ? net_listen(&h->space[i], net) :
						udp_make(r, &h->space[i], family);
		if (err >= 0) {
			r->conn.space = &h->space[i];
			break;
		}
		if (err != -EADDRINUSE && (err != -EADDRNOTAVAIL || i)) /* else: both ends of one connection, say */
			return err;
	}
	if (r->kind == RELAY_TCP && err >= 0)
		err = adopt(r, r->conn.space, err);
	else if (err >= 0 && r->kind == RELAY_LISTEN)
		*family = err;
	if (err < 0 && *family >= 0)
		close(*family);
	return err < 0 ? err : 0;
}

static struct relay *parent_of(struct relay_hub *h, const struct relay *r)
{
	struct relay *l = r->conn.parent ? hub_find(h, r->conn.parent) : NULL;

	return l && l->kind == RELAY_LISTEN ? l : NULL;
}

static uint64_t room(const struct relay_hub *h, const struct relay *l)
{
	unsigned most = l->conn.net.backlog < ROOM_MAX ? l->conn.net.backlog : ROOM_MAX;

	if (h->holding || l->conn.over)
		return 0;
	return l->kind != RELAY_LISTEN ? 1 : l->conn.settled + (most ? most : 1);
}

void conn_rooms(struct relay_hub *h)
{
	struct relay *r;

	list_each(r, &h->relays, node)
		if (!h->home && relay_has_room(r) && !r->conn.over && r->conn.room_told != room(h, r) && !hub_queue(h, r->id, RF_ROOM, room(h, r), NULL, 0))
			r->conn.room_told = room(h, r);
}

static bool is_unaccepted(const struct relay *r)
{
	return r->conn.parent && !r->conn.accepted && !r->conn.over;
}

bool conn_all_accepted(struct relay_hub *h)
{
	struct relay *r;

	list_each(r, &h->relays, node)
		if (is_unaccepted(r))
			return false;
	return true;
}

/* Has the family taken it, perhaps closed it already? */
static bool was_taken(struct relay *r)
{
	enum { ESTABLISHED = 1, CLOSE_WAIT = 8 }; /* while it waits */
	struct net_look l;
	int err = net_look(r->conn.space, &r->conn.net, false, &l);

	if (err)
		return err == -ENOENT;
	if (l.ino)
		r->conn.ino = l.ino;
	return l.ino || (l.state != ESTABLISHED && l.state != CLOSE_WAIT);
}

bool conn_all_told(struct relay_hub *h)
{
	struct relay *r;

	list_each(r, &h->relays, node) {
		if (r->conn.accepted && !r->conn.accepted_told)
			return false;
		if (is_unaccepted(r) && was_taken(r))
			return false;
	}
	return true;
}

static void settled(struct relay_hub *h, const struct relay *r)
{
	struct relay *l = parent_of(h, r);

	if (l)
		l->conn.settled++;
}

/* Nothing goes through it any more. Our end closes: as it should, or so that the family's breaks too. */
static void set_over(struct relay_hub *h, struct relay *r, bool clean, bool breaks)
{
	if (is_unaccepted(r))
		settled(h, r);
	r->conn.over = true;
	r->conn.clean = clean;
	if (r->kind != RELAY_TCP)
		return;
	if (r->source.fd >= 0) {
		net_break_at_close(r->source.fd, breaks);
		close(r->source.fd);
	}
	if (r->sink.fd >= 0)
		close(r->sink.fd);
	r->source.fd = r->sink.fd = -1;
	r->source.have = 0;
	r->source.acked = r->source.sent;
	r->sink.closed = true;
	r->sink.have = 0;
	r->sink.written = r->sink.got;
}

static void look_whether_accepted(struct relay_hub *h, struct relay *r)
{
	if (is_unaccepted(r) && was_taken(r)) {
		r->conn.accepted = true;
		settled(h, r);
	}
	if (r->conn.accepted && !r->conn.accepted_told && !r->hello_due && !hub_queue(h, r->id, RF_ACCEPTED, 0, NULL, 0))
		r->conn.accepted_told = true;
}

static void guest_connection(struct relay_hub *h, struct relay *r)
{
	struct relay_source *s = &r->source;
	struct relay_sink *k = &r->sink;
	struct net_look l;
	uint64_t off;

	if (r->conn.failed || k->closed) { /* the family broke it, or wrote to it no more while we had something for it */
		set_over(h, r, false, true);
	} else if (r->conn.reset) {
		bool read = !k->have && !relay_sink_ack_due(k, &off) && k->acked == k->got;

		if (read || r->conn.reset > 1 || s->have)
			set_over(h, r, false, true);
	} else if (s->end && s->end_sent && !s->have) {
		bool both = k->end && (k->shut || k->fd < 0);

		if (both || net_look(r->conn.space, &r->conn.net, false, &l) == -ENOENT) /* both directions have ended, or the family has closed it */
			set_over(h, r, true, false);
	}
}

static void guest_named(struct relay *r)
{
	struct net_look l;
	uint64_t now = clock_mono_ns();
	int err;

	if (now < r->conn.look_ns)
		return;
	r->conn.look_ns = now + LISTEN_MS * 1000000ull;
	err = r->kind == RELAY_UDP ? net_look_udp(r->conn.space, &r->conn.net, &l) : net_look(r->conn.space, &r->conn.net, true, &l);

	if (err != -ENOENT)
		return;
	r->conn.over = r->conn.clean = true; /* the family has closed it */
	udp_free(r);
}

/* ---- home: the true ones ---- */

void conn_begin(struct relay *r)
{
	if (r->kind == RELAY_TCP)
		net_take_over(r->original);
	r->conn.offered = r->conn.failed = r->conn.kept = false;
	r->conn.offers = r->conn.room = 0;
}

void conn_free(struct relay *r)
{
	udp_free(r);
	/* The family had shut it down, or closed it, and has ended: what was written goes out, and then the end. */
	if (r->kind == RELAY_TCP && r->original >= 0 && !r->conn.kept && r->sink.end && !r->sink.have)
		net_break_at_close(r->original, false);
}

static int offer(struct relay_hub *h, struct relay *r)
{
	struct conn_new n = { .parent = r->conn.parent, .net = r->conn.net };
	struct relay *l = parent_of(h, r);

	if (l && !r->conn.offered)
		l->conn.offers++;
	r->conn.offered = true;
	return hub_queue(h, r->id, RF_NEW, 0, &n, sizeof(n));
}

void conn_offer(struct relay_hub *h)
{
	struct relay *r;

	list_each(r, &h->relays, node)
		if (is_unaccepted(r))
			offer(h, r);
}

/* fd: a connection that came in at l. */
static void take_in(struct relay_hub *h, struct relay *l, int fd)
{
	uint64_t now = clock_mono_ns() & (RELAY_BORN_UNIX - RELAY_BORN - 1);
	struct relay *r = NULL;
	struct relay_net net;

	net_take_over(fd);
	if (!net_of(fd, &net) && net_valid(&net, true)) {
		h->last_born = now > h->last_born ? now : h->last_born + 1;
		r = relay_new(h, RELAY_BORN | h->last_born, RELAY_TCP);
	} else {
		log_warn("a connection came in from an address that means nothing elsewhere: it is refused");
	}
	if (!r) {
		close(fd);
		return;
	}
	r->original = fd;
	r->conn.net = net;
	r->conn.parent = l->id;
	r->hello_due = true;
	if (relay_halves_at_home(r) || offer(h, r))
		relay_drop(h, r);
}

static void home_listener(struct relay_hub *h, struct relay *l)
{
	struct pollfd p = { .fd = l->original, .events = POLLIN };

	l->conn.full = false;
	while (l->conn.here && l->conn.offers < l->conn.room && poll(&p, 1, 0) > 0 && p.revents & POLLIN) {
		int fd = h->nrelays < RELAYS_MAX ? accept4(l->original, NULL, NULL, SOCK_CLOEXEC) : -1; /* nobody else takes from it: what is there stays there */

		if (fd < 0) {
			l->conn.full = true;
			break;
		}
		take_in(h, l, fd);
	}
}

static void home_connection(struct relay_hub *h, struct relay *r)
{
	struct relay_source *s = &r->source;

	if (r->sink.closed) /* what it said when we wrote it does not say again */
		r->conn.wrecked = true;
	if (r->conn.wrecked && (s->end || r->sink.closed))
		r->conn.failed = true;
	if (!r->conn.failed)
		return;
	if (!s->have && s->fd >= 0) { /* nothing more to be seen */
		close(s->fd);
		s->fd = -1;
	}
	if (!r->hello_due && !r->conn.reset_told && !hub_queue(h, r->id, RF_RESET, s->have > 0, NULL, 0))
		r->conn.reset_told = true;
}

/* The family, away, has closed those that the guest did not name; or who kept its end there was killed: then its peer must not take what came for all. */
static void close_others(struct relay_hub *h)
{
	struct relay *r, *next;

	list_each_safe(r, next, &h->relays, node) {
		if (r->conn.here || is_unaccepted(r) || !(relay_is_net(r) || (relay_was_born(r) && (r->conn.seen || born_lost(r))))) /* one just connected is made over there next */
			continue;
		if (r->kind == RELAY_TCP)
			net_break_at_close(r->original, r->conn.failed || r->conn.wrecked || !(r->conn.said_all || (r->sink.end && !r->sink.have)));
		r->conn.kept = true; /* it has been said how it shall end */
		relay_drop(h, r);
	}
}

static int done(struct relay_hub *h, struct relay *r, uint64_t id, bool broke)
{
	if (r && r->kind == RELAY_TCP) {
		net_break_at_close(r->original, broke);
		r->conn.kept = true;
	}
	if (r)
		relay_drop(h, r);
	return hub_queue(h, id, RF_GONE, 0, NULL, 0);
}

/* ---- both ---- */

void conn_link(struct relay *r)
{
	r->conn.here = r->conn.reset_told = r->conn.told = r->conn.accepted_told = false;
	r->conn.room = 0;
	r->conn.room_told = 0;
}

void conn_step(struct relay_hub *h, struct relay *r)
{
	if (h->home && r->kind == RELAY_LISTEN)
		home_listener(h, r);
	else if (r->kind == RELAY_UDP && !r->conn.over)
		udp_step(h, r);
	else if (h->home)
		home_connection(h, r);
	else if (!r->conn.over && r->kind == RELAY_TCP) {
		look_whether_accepted(h, r);
		if (!h->paused)
			guest_connection(h, r);
	}
	if (h->home)
		return;
	if (r->kind != RELAY_TCP && !r->conn.over)
		guest_named(r);
	if (r->kind != RELAY_TCP)
		conn_rooms(h);
	if (r->conn.over && !r->conn.told && !r->hello_due && !hub_queue(h, r->id, RF_DONE, !r->conn.clean, NULL, 0))
		r->conn.told = true;
}

int conn_tick(struct relay_hub *h, struct relay *r)
{
	const struct relay_sink *k = &r->sink;

	if (h->home)
		return r->conn.full ? FULL_MS : -1;
	if (r->conn.over)
		return -1;
	if (r->kind != RELAY_TCP)
		return LISTEN_MS;
	if (is_unaccepted(r) || r->conn.reset || (k->end && !k->shut))
		return UNACCEPTED_MS;
	return r->source.end ? ENDING_MS : -1;
}

void conn_gone(struct relay_hub *h, struct relay *r)
{
	if (!r->conn.over) /* home knows nothing of it: whoever kept it was killed */
		set_over(h, r, false, true);
	relay_drop(h, r);
}

/* Guest. */
static int come_in(struct relay_hub *h, const struct relay_frame *f)
{
	struct conn_new n;
	struct relay *l, *r;
	int fd = -EPROTO;

	if (f->len != sizeof(n))
		return -EPROTO;
	if (hub_find(h, f->id)) /* told again */
		return 0;
	memcpy(&n, f->data, sizeof(n));
	l = hub_find(h, n.parent);
	if (!l || l->kind != RELAY_LISTEN || !net_valid(&n.net, true))
		return hub_queue(h, f->id, RF_DONE, 1, NULL, 0); /* the family has closed where it was to come in */
	r = relay_new(h, f->id, RELAY_TCP);
	if (r) {
		r->conn.net = n.net;
		fd = net_join(l->conn.space, &n.net);
		if (fd >= 0)
			fd = adopt(r, l->conn.space, fd);
		if (fd < 0)
			relay_drop(h, r);
	}
	if (fd < 0) {
		log_debug("a connection cannot come in: %s", strerror(-fd));
		l->conn.settled++;
		return hub_queue(h, f->id, RF_DONE, 1, NULL, 0);
	}
	r->conn.parent = n.parent;
	return hub_queue(h, r->id, RF_HELLO, 0, NULL, 0);
}

int conn_input(struct relay_hub *h, const struct relay_frame *f)
{
	struct relay *r = hub_find(h, f->id);

	if (r && !relay_is_net(r) && !(relay_has_packets(r) && f->kind == RF_ROOM) && !(relay_was_born(r) && f->kind == RF_DONE))
		return -EPROTO;
	switch (f->kind) {
	case RF_NEW:
		return h->home ? -EPROTO : come_in(h, f);
	case RF_PACKET:
		return r ? udp_input(h, r, f) : 0;
	case RF_RESET:
		if (r && !h->home)
			r->conn.reset = f->offset ? 2 : 1;
		return h->home ? -EPROTO : 0;
	case RF_ROOM:
		if (r && h->home)
			r->conn.room = f->offset;
		return h->home ? 0 : -EPROTO;
	case RF_ACCEPTED:
		if (r && h->home)
			r->conn.accepted = true;
		return h->home ? 0 : -EPROTO;
	case RF_DONE:
		return h->home ? done(h, r, f->id, f->offset) : -EPROTO;
	case RF_ALL:
		if (h->home)
			close_others(h);
		return h->home ? 0 : -EPROTO;
	default:
		return -EPROTO;
	}
}

int hub_whose(struct relay_hub *h, uint64_t ino, uint64_t *id)
{
	struct net_look l;
	struct relay *r;
	int err = -ENOENT;

	pthread_mutex_lock(&h->lock);
	list_each(r, &h->relays, node) {
		if (!h->home && relay_was_born(r) && !r->conn.over)
			r->conn.ino = r->sink.reader;
		else if (h->home || r->kind != RELAY_TCP || !r->conn.parent || r->conn.over)
			continue;
		if (!r->conn.ino && !net_look(r->conn.space, &r->conn.net, false, &l))
			r->conn.ino = l.ino;
		if (r->conn.ino != ino)
			continue;
		*id = r->id;
		err = 0;
		break;
	}
	pthread_mutex_unlock(&h->lock);
	return err;
}
