// SPDX-License-Identifier: Apache-2.0
/* Source and sink of a relay; see relay_half.h. */
#include "migd/relay/half.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>
#include "conf/log.h"
#include "migd/relay/tty.h"

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

int relay_source_init(struct relay_source *s, int fd, bool tap, bool sock)
{
	*s = (struct relay_source){ .fd = fd, .tap = tap, .sock = sock, .scratch = { -1, -1 } };
	s->win = malloc(RELAY_WINDOW);
	if (!s->win)
		return -ENOMEM;
	if (tap && !sock && pipe2(s->scratch, O_CLOEXEC | O_NONBLOCK))
		return -errno;
	if (tap && !sock)
		fcntl(s->scratch[1], F_SETPIPE_SZ, RELAY_WINDOW);
	return 0;
}

void relay_source_clear(struct relay_source *s)
{
	close_fd(&s->fd);
	close_fd(&s->scratch[0]);
	close_fd(&s->scratch[1]);
	free(s->win);
	s->win = NULL;
}

/* Descriptors cannot be relayed: their numbers mean nothing elsewhere. True: there were any. */
static bool were_passed(struct msghdr *h)
{
	bool any = false;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(h); c; c = CMSG_NXTHDR(h, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++)
			close(((int *)CMSG_DATA(c))[i]);
		any = true;
	}
	if (any)
		log_warn("a descriptor was sent (SCM_RIGHTS) through a socket whose other end is on another host, and this kernel cannot refuse that: the connection ends there");
	return any;
}

static ssize_t sock_read(const struct relay_source *s, void *buf, size_t n, int flags)
{
	char control[512] __attribute__((aligned(8)));
	struct iovec v = { buf, n };
	struct msghdr h = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	ssize_t k = recvmsg(s->fd, &h, flags | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (k >= 0 && were_passed(&h))
		return 0;
	return k < 0 && errno == ECONNRESET && !s->tcp ? 0 : k; /* the other side has gone without reading all: no more comes */
}

static int fill_plain(struct relay_source *s)
{
	ssize_t n;

	if (s->have == RELAY_WINDOW)
		return 0;
	n = s->sock ? sock_read(s, s->win + s->have, RELAY_WINDOW - s->have, 0) : read(s->fd, s->win + s->have, RELAY_WINDOW - s->have);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : errno == EIO ? (s->end = true, 1) : -errno; /* EIO: a pty without slaves */
	if (!n && s->tty) {
		struct termios t;

		if (tcgetattr(s->fd, &t)) {
			s->end = true; /* hung up */
			return 1;
		}
		s->win[s->have] = t.c_cc[VEOF];
		n = 1;
	}
	if (!n)
		s->end = true;
	s->have += n;
	return 1;
}

/* As many packets as there is room for. */
static int fill_packets(struct relay_source *s)
{
	int some = 0;

	for (;;) {
		struct pollfd p = { .fd = s->fd, .events = POLLRDHUP };
		ssize_t n = recv(s->fd, NULL, 0, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);
		uint32_t len;

		if (n < 0 && (errno != ECONNRESET || s->datagrams))
			return errno == EAGAIN || errno == EINTR || s->datagrams ? some : -errno;
		if (n < 0 || (!n && poll(&p, 1, 0) > 0 && p.revents & (POLLRDHUP | POLLHUP))) {
			s->end = true;
			return 1;
		}
		len = (uint32_t)n;
		if (n + sizeof(len) > RELAY_WINDOW)
			return -EMSGSIZE;
		if (n + sizeof(len) > RELAY_WINDOW - s->have)
			return some;
		memcpy(s->win + s->have, &len, sizeof(len));
		if (sock_read(s, s->win + s->have + sizeof(len), len, 0) != n) /* an empty one, too, is taken */
			return -EIO;
		s->have += sizeof(len) + len;
		some = 1;
	}
}

static int fill_peek(struct relay_source *s)
{
	ssize_t n;

	if (s->tcp && net_has_failed(s->fd))
		return s->have ? 0 : -ECONNRESET;
	n = sock_read(s, s->win, RELAY_WINDOW, MSG_PEEK);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (!n) {
		s->end = !s->have;
		return s->end;
	}
	if ((size_t)n <= s->have)
		return 0;
	s->have = n;
	return 1;
}

static int fill_tap(struct relay_source *s)
{
	size_t got = 0;
	ssize_t n = tee(s->fd, s->scratch[1], RELAY_WINDOW, SPLICE_F_NONBLOCK);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (!n) {
		if (s->end)
			return 0;
		s->end = true;
		return 1;
	}
	while (got < (size_t)n) {
		ssize_t k = read(s->scratch[0], s->win + got, n - got);

		if (k <= 0)
			return -EIO;
		got += k;
	}
	/* Bytes at the head of the pipe are those from `acked` on; if somebody else at home has read some, that is his right. */
	if (got <= s->have)
		return 0;
	s->have = got;
	return 1;
}

int relay_source_fill(struct relay_source *s)
{
	if (s->fd < 0 || s->end || s->peer_closed)
		return 0;
	if (s->packets)
		return fill_packets(s);
	return !s->tap ? fill_plain(s) : s->sock ? fill_peek(s) : fill_tap(s);
}

size_t relay_source_next(const struct relay_source *s, uint64_t *offset, const unsigned char **p)
{
	size_t done = s->sent - s->acked, n;

	if (s->peer_closed || done >= s->have)
		return 0;
	*offset = s->sent;
	*p = s->win + done;
	n = s->have - done;
	return n < RELAY_CHUNK ? n : RELAY_CHUNK;
}

void relay_source_sent(struct relay_source *s, size_t n)
{
	s->sent += n;
}

/* Takes n bytes out of the pipe that the family shares with those who stay: they have been read, over there. */
static int consume(const struct relay_source *s, size_t n)
{
	char trash[4096];

	while (n) {
		size_t want = n < sizeof(trash) ? n : sizeof(trash);
		ssize_t k = s->sock ? sock_read(s, trash, want, 0) : read(s->fd, trash, want);

		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0) /* a reader at home has been there before us */
			return k && errno != EAGAIN ? -errno : 0;
		n -= k;
	}
	return 0;
}

int relay_source_ack(struct relay_source *s, uint64_t offset)
{
	size_t n;
	int err = 0;

	if (offset < s->acked || s->peer_closed) /* what was on its way to a reader that has gone means nothing any more */
		return 0;
	if (offset > s->sent)
		return -EPROTO;
	n = offset - s->acked;
	if (s->tap && s->fd >= 0)
		err = consume(s, n);
	memmove(s->win, s->win + n, s->have - n);
	s->have -= n;
	s->acked = offset;
	return err;
}

int relay_source_rewind(struct relay_source *s, uint64_t offset)
{
	if (s->peer_closed)
		return 0;
	if (offset < s->acked || offset > s->sent)
		return -EPROTO;
	s->sent = offset;
	s->end_sent = false;
	return 0;
}

void relay_source_carry(struct relay_source *to, const struct relay_source *from)
{
	memcpy(to->win, from->win, from->have);
	to->have = from->have;
}

void relay_source_peer_closed(struct relay_source *s)
{
	s->peer_closed = true;
	s->sent = s->acked;
	s->have = 0;
	if (s->sock && s->fd >= 0)
		shutdown(s->fd, SHUT_RD);
	close_fd(&s->fd); /* whoever writes here learns it by SIGPIPE */
}

bool relay_source_drained(const struct relay_source *s)
{
	return s->peer_closed || (!s->have && s->sent == s->acked && (!s->end || s->end_sent));
}

void relay_sink_init(struct relay_sink *k, int fd, bool count)
{
	*k = (struct relay_sink){ .fd = fd, .count = count, .count_fd = -1 };
}

void relay_sink_clear(struct relay_sink *k)
{
	close_fd(&k->fd);
	close_fd(&k->count_fd);
	free(k->buf);
	k->buf = NULL;
}

static int sink_room(struct relay_sink *k, size_t n)
{
	size_t cap = k->cap ? k->cap : 4096;
	unsigned char *b;

	while (cap < k->have + n)
		cap *= 2;
	if (cap == k->cap)
		return 0;
	b = realloc(k->buf, cap);
	if (!b)
		return -ENOMEM;
	k->buf = b;
	k->cap = cap;
	return 0;
}

int relay_sink_data(struct relay_sink *k, uint64_t offset, const void *p, size_t n)
{
	uint64_t again;
	int err;

	if (offset > k->got || offset + n < offset)
		return -EPROTO;
	again = k->got - offset;
	if (again >= n)
		return 0;
	p = (const char *)p + again;
	n -= again;
	if (k->closed) {
		k->got = k->written += n;
		return 0;
	}
	if (k->have + n > RELAY_WINDOW)
		return -EPROTO;
	err = sink_room(k, n);
	if (err)
		return err;
	memcpy(k->buf + k->have, p, n);
	k->have += n;
	k->got += n;
	return 0;
}

void relay_sink_end(struct relay_sink *k, uint64_t offset)
{
	if (offset == k->got)
		k->end = true;
}

static uint64_t consumed(const struct relay_sink *k)
{
	int unread = 0;

	if (k->tcp && k->fd >= 0) {
		uint64_t n;
		int err = net_end_read(k->tcp, &n);

		return err == -ENOENT ? k->written : err ? k->acked : n < k->written ? n : k->written;
	}
	if (k->count && k->sock && k->fd >= 0) {
		ssize_t n = relay_sock_unread(k->reader);

		return n == -ENOENT ? k->written : n < 0 ? k->acked : k->written - n; /* not to be had just now: nothing more is taken for read */
	}
	if (k->count && !k->sock && k->fd < 0)
		return k->read;
	if (!k->count || k->fd < 0 || ioctl(k->count_fd >= 0 ? k->count_fd : k->fd, FIONREAD, &unread))
		return k->written;
	return k->written - unread;
}

/* What is in a pipe that nobody reads any more has not been read, and goes to whoever reads at home next. */
static void sink_close(struct relay_sink *k)
{
	if (k->fd >= 0)
		k->read = consumed(k);
	close_fd(&k->fd);
}

bool relay_sink_waits(const struct relay_sink *k)
{
	uint32_t len;

	if (!k->packets || k->have < sizeof(len))
		return k->have && !k->packets;
	memcpy(&len, k->buf, sizeof(len));
	return len > RELAY_WINDOW || k->have - sizeof(len) >= len;
}

/* One packet, or what the socket says. */
static ssize_t packet_write(struct relay_sink *k)
{
	uint32_t len;

	errno = EAGAIN;
	if (!relay_sink_waits(k))
		return -1;
	memcpy(&len, k->buf, sizeof(len));
	errno = EPROTO;
	if (len > RELAY_WINDOW) /* a peer that lies */
		return -1;
	return send(k->fd, k->buf + sizeof(len), len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -1 : (ssize_t)(sizeof(len) + len);
}

static ssize_t sink_write(struct relay_sink *k)
{
	if (k->packets)
		return packet_write(k);
	if (k->sock)
		return send(k->fd, k->buf, k->have, MSG_DONTWAIT | MSG_NOSIGNAL);
	return k->count_fd >= 0 ? relay_tty_write(k->fd, k->count_fd, k->buf, k->have) : write(k->fd, k->buf, k->have);
}

int relay_sink_flush(struct relay_sink *k)
{
	while (k->fd >= 0 && k->have) {
		ssize_t n = sink_write(k);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0) { /* EPIPE, EIO: nobody is there to read it */
			k->closed = true;
			n = k->have;
			sink_close(k);
		}
		memmove(k->buf, k->buf + n, k->have - n);
		k->have -= n;
		k->written += n;
	}
	/* The end comes behind what waits there: it need not have been read, unless nobody could tell afterwards whether it has been. */
	if (k->sock && k->fd >= 0 && k->end && !k->have && !k->shut && (!k->tcp || consumed(k) == k->got)) {
		shutdown(k->fd, SHUT_WR);
		k->shut = true;
	}
	if (k->closed || (k->end && !k->have && consumed(k) == k->got))
		sink_close(k);
	return 0;
}

bool relay_sink_ack_due(const struct relay_sink *k, uint64_t *offset)
{
	if (k->tcp && k->acked == k->written) { /* nothing can be unread: a thousand idle connections cost no question */
		k->tcp->exact = true;
		*offset = k->acked;
		return false;
	}
	*offset = consumed(k);
	return *offset > k->acked;
}
