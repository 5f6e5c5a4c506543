// SPDX-License-Identifier: Apache-2.0
/* The relays of a hub: how they come, change generation and go. See hub.h for protocol and locking, half.h for what a byte goes through. */
#include "migd/relay/hub.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/log.h"
#include "migd/relay/hub_parts.h"

int hub_new(bool home, struct relay_hub **out)
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
	pthread_mutex_init(&h->drains, NULL);
	pthread_condattr_init(&a);
	pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
	pthread_cond_init(&h->changed, &a);
	pthread_condattr_destroy(&a);
	list_init(&h->relays);
	list_init(&h->out);
	*out = h;
	return 0;
}

/* While it stands for an end on another host nobody can send it a descriptor. */
void relay_rights_deny(struct relay *r)
{
	if (relay_is_unix(r) && !r->rights_off)
		r->rights_off = relay_sock_rights(r->original, false);
}

static void rights_allow(struct relay *r)
{
	if (r->rights_off)
		relay_sock_rights(r->original, true);
	r->rights_off = false;
}

static void relay_free(struct relay *r)
{
	rights_allow(r);
	if (relay_is_net(r))
		conn_free(r);
	if (r->has_source)
		relay_source_clear(&r->source);
	if (r->has_sink)
		relay_sink_clear(&r->sink);
	relay_tty_clear(&r->tty);
	born_taken(r);
	if (r->original >= 0)
		close(r->original);
	list_del(&r->node);
	free(r);
}

void hub_free(struct relay_hub *h)
{
	if (!h)
		return;
	hub_down(h);
	while (!list_empty(&h->relays))
		relay_free(list_entry(h->relays.next, struct relay, node));
	hub_drop_out(h);
	for (int i = 0; i < RELAY_SPACES; i++)
		net_space_close(&h->space[i]);
	close(h->wake);
	pthread_cond_destroy(&h->changed);
	pthread_mutex_destroy(&h->lock);
	pthread_mutex_destroy(&h->turn);
	pthread_mutex_destroy(&h->drains);
	free(h);
}

size_t hub_count(struct relay_hub *h)
{
	size_t n;

	if (!h)
		return 0;
	pthread_mutex_lock(&h->lock);
	n = h->nrelays;
	pthread_mutex_unlock(&h->lock);
	return n;
}

void hub_poke(struct relay_hub *h)
{
	uint64_t one = 1;

	if (write(h->wake, &one, sizeof(one)) < 0)
		return; /* EAGAIN: it is awake anyway */
}

struct relay *hub_find(struct relay_hub *h, uint64_t id)
{
	struct relay *r;

	list_each(r, &h->relays, node)
		if (r->id == id)
			return r;
	return NULL;
}

/* One that came to nothing, or is over. Lock held. */
void relay_drop(struct relay_hub *h, struct relay *r)
{
	relay_free(r);
	h->nrelays--;
}

struct relay *relay_new(struct relay_hub *h, uint64_t id, enum relay_kind kind)
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
	r->source.fd = r->sink.fd = r->spare = -1;
	r->made_ns = clock_mono_ns();
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
int relay_halves_at_home(struct relay *r)
{
	struct relay_source old = { .fd = -1, .scratch = { -1, -1 } };
	bool sock = relay_is_unix(r) || r->kind == RELAY_TCP, packets = relay_has_packets(r);
	int fd, err;

	if (r->kind == RELAY_LISTEN || r->kind == RELAY_UDP || r->original < 0)
		return 0;
	relay_rights_deny(r);
	if (r->has_source)
		old = r->source;
	r->conn.said_all |= r->has_sink && r->sink.end && !r->sink.have;
	if (r->has_sink)
		relay_sink_clear(&r->sink);
	r->has_source = r->has_sink = false;
	if (r->kind != RELAY_OUT) {
		fd = sock ? fcntl(r->original, F_DUPFD_CLOEXEC, 3) : reopen(r->original, O_RDONLY);
		err = fd < 0 ? -errno : relay_source_init(&r->source, fd, r->kind == RELAY_IN || (sock && !packets), sock);
		r->has_source = fd >= 0;
		r->source.tty = r->kind == RELAY_TTY;
		r->source.tcp = r->kind == RELAY_TCP;
		r->source.packets = packets;
		r->source.datagrams = r->kind == RELAY_DGRAM;
		if (!err && r->kind == RELAY_TTY && old.have) /* typed, taken by us, not read by the family yet */
			relay_source_carry(&r->source, &old);
		relay_source_clear(&old);
		if (err)
			return err;
	}
	if (r->kind != RELAY_IN) {
		fd = sock ? fcntl(r->original, F_DUPFD_CLOEXEC, 3) : reopen(r->original, O_WRONLY);
		if (fd < 0 && errno != ENXIO) /* ENXIO: the reader has gone already */
			return -errno;
		relay_sink_init(&r->sink, fd, false);
		r->sink.sock = sock;
		r->sink.packets = packets;
		r->has_sink = true;
		r->sink.closed = fd < 0;
	}
	if (r->kind == RELAY_TTY)
		relay_tty_home(&r->tty, r->original, r->holder);
	return 0;
}

int hub_add(struct relay_hub *h, uint64_t id, enum relay_kind kind, int fd, pid_t holder)
{
	struct relay *r;
	int err = 0;

	pthread_mutex_lock(&h->lock);
	r = hub_find(h, id);
	if (r) {
		close(fd);
	} else {
		r = relay_new(h, id, kind);
		if (r) {
			r->original = fd;
			r->holder = holder;
			r->hello_due = h->up; /* one that was connected away just now: over there it is made next */
			err = relay_halves_at_home(r);
			if (err) {
				r->conn.kept = true; /* the family's as before */
				relay_drop(h, r);
			}
		} else {
			close(fd);
			err = -ENFILE;
		}
	}
	pthread_mutex_unlock(&h->lock);
	return err;
}

int hub_original(struct relay_hub *h, uint64_t id)
{
	struct relay *r;
	int fd = -1;

	pthread_mutex_lock(&h->lock);
	r = hub_find(h, id);
	if (r)
		fd = fcntl(r->original, F_DUPFD_CLOEXEC, 3);
	if (r)
		r->conn.kept = true;
	if (r)
		rights_allow(r);
	if (r && r->kind == RELAY_TTY)
		relay_tty_keep(&r->tty); /* what the image brings is the pty's, with our own bits in it */
	pthread_mutex_unlock(&h->lock);
	return r ? (fd < 0 ? -errno : fd) : -ENOENT;
}

void hub_reset(struct relay_hub *h, uint64_t gen)
{
	struct relay *r;

	hub_down(h);
	pthread_mutex_lock(&h->lock);
	if (h->gen != gen) {
		list_each(r, &h->relays, node) {
			relay_halves_at_home(r);
			if (relay_is_net(r))
				conn_begin(r);
		}
		hub_drop_out(h);
		h->gen = gen;
	}
	h->paused = h->stalled = false;
	pthread_mutex_unlock(&h->lock);
}

void hub_unread(struct relay_hub *h)
{
	struct relay *r;

	hub_down(h);
	pthread_mutex_lock(&h->lock);
	list_each(r, &h->relays, node)
		if (r->kind == RELAY_TTY && r->has_source) {
			relay_tty_back(&r->tty);
			relay_tty_unread(&r->tty, r->source.win, r->source.have);
			r->source.have = 0;
		}
	pthread_mutex_unlock(&h->lock);
}

void hub_left(struct relay_hub *h, pid_t pid, bool ended)
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

void hub_back(struct relay_hub *h, pid_t pid)
{
	struct relay *r;

	pthread_mutex_lock(&h->lock);
	list_each(r, &h->relays, node)
		if (r->kind == RELAY_TTY && r->holder == pid)
			r->tty.left = false;
	pthread_mutex_unlock(&h->lock);
	hub_poke(h);
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
		err = relay_source_init(&r->source, ours, false, false);
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
	r->sink.count_fd = reopen(*family_end, O_RDWR); /* of our own: what is written there must not wait */
	r->has_sink = true;
	err = relay_source_init(&r->source, ours, false, false);
	r->has_source = true;
	if (err)
		close(*family_end);
	return err;
}

static int make_sock(struct relay *r, int *family_end)
{
	struct stat st;
	bool packets = relay_has_packets(r);
	int s[2], err, room = 2 * RELAY_WINDOW, type = r->kind == RELAY_SEQ ? SOCK_SEQPACKET : packets ? SOCK_DGRAM : SOCK_STREAM;

	if (socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, s))
		return -errno;
	relay_sock_rights(s[0], false);
	if (packets && setsockopt(s[0], SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room))) /* for whatever fits into a window */
		log_debug("SO_SNDBUFFORCE: %s", strerror(errno));
	if (fstat(s[1], &st)) {
		err = -errno;
		close(s[0]);
		close(s[1]);
		return err;
	}
	if (relay_sock_unread(st.st_ino) < 0) { /* this kernel does not tell: what the family has read could not be known */
		close(s[0]);
		close(s[1]);
		return -EOPNOTSUPP;
	}
	*family_end = s[1];
	relay_sink_init(&r->sink, fcntl(s[0], F_DUPFD_CLOEXEC, 3), !packets);
	r->sink.sock = true;
	r->sink.packets = packets;
	r->sink.reader = st.st_ino;
	r->has_sink = true;
	err = relay_source_init(&r->source, s[0], false, true);
	r->source.packets = packets;
	r->source.datagrams = r->kind == RELAY_DGRAM;
	r->has_source = true;
	if (err)
		close(s[1]);
	return err;
}

void hub_keep(struct relay_hub *h, uint64_t id, int fd)
{
	struct relay *r;

	pthread_mutex_lock(&h->lock);
	r = hub_find(h, id);
	if (r && r->spare < 0)
		r->spare = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	pthread_mutex_unlock(&h->lock);
}

void hub_taken(struct relay_hub *h, uint64_t id)
{
	struct relay *r;

	pthread_mutex_lock(&h->lock);
	r = hub_find(h, id);
	if (r)
		born_taken(r);
	pthread_mutex_unlock(&h->lock);
	hub_poke(h);
}

int hub_make(struct relay_hub *h, uint64_t id, enum relay_kind kind, const struct relay_net *net)
{
	struct relay *r;
	int fd = -1, err;

	pthread_mutex_lock(&h->lock);
	r = hub_find(h, id);
	if (r) { /* a migd that was killed did not hand it on, perhaps */
		fd = h->home ? -EEXIST : born_again(r, kind);
		pthread_mutex_unlock(&h->lock);
		return fd;
	}
	r = relay_new(h, id, kind);
	err = !r			? -ENFILE :
	      relay_is_net(r)		? conn_make(h, r, net, &fd) :
	      kind == RELAY_TTY		? make_pty(r, &fd) :
	      relay_is_unix(r)		? make_sock(r, &fd) :
					  make_pipe(r, &fd);
	if (!err && h->up)
		hub_queue(h, id, RF_HELLO, 0, NULL, 0);
	if (err && r)
		relay_drop(h, r);
	pthread_mutex_unlock(&h->lock);
	if (!err)
		hub_poke(h);
	return err ? err : fd;
}
