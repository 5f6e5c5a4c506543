/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two halves of a relay, without threads or network. Bytes are numbered from 0 in each generation; nothing is lost or doubled when the link
 * breaks and is made again, since the source keeps what is not acknowledged and the sink passes over what it has.
 *
 * Source: takes bytes from a descriptor and offers them to the link. As a *tap* (at home, the family's standard input) it copies out of the pipe
 * with tee(2) and takes bytes out only when the family has read them over there: what it has not read is still in the pipe when it comes home.
 * Of a socket the same is true: the home looks at what waits there (MSG_PEEK), and takes it when the family has read it. The flags of its description are the family's,
 * so each call says that it does not wait. A half of a socket that comes to its end shuts that direction down, whoever else has a descriptor of it.
 * Descriptors cannot be relayed: who sends one through a socket is refused (relay_sock_rights()); where the kernel cannot do that, that direction ends.
 * Of a socket of packets (`packets`) each goes through as its length and what it says. The home takes them for good, and only while the guest wants them (hub.h: ROOM).
 * Sink: puts bytes into a descriptor. A *counting* sink (on the guest host, the same standard input) acknowledges what the family has read
 * (FIONREAD, for a socket what sock_diag(7) tells of it), any other what has been written.
 * A connection of the network (`tcp`) that fails is -ECONNRESET, which is not the end. The end, on the guest host, waits until all before it has been read: after it the
 * kernel might have nothing more to tell.
 *
 * No locking: the hub's lock is held.
 */
#ifndef MIGD_RELAY_HALF_H
#define MIGD_RELAY_HALF_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "migd/relay/net.h"

enum { RELAY_WINDOW = 256 << 10, RELAY_CHUNK = 64 << 10 };

struct relay_source {
	int fd; /* non-blocking (a description of our own: the family's flags are its own business); -1: none (any more) */
	bool tap, sock, tcp, packets, datagrams;
	bool tty; /* a terminal at home: end of file is a key like any other */
	int scratch[2]; /* tap: the pipe that tee() fills */
	uint64_t acked, sent;
	unsigned char *win; /* offsets acked .. acked + have */
	size_t have;
	bool end, end_sent; /* no more writers */
	bool peer_closed;
};
int relay_source_init(struct relay_source *s, int fd, bool tap, bool sock); /* takes over fd */
void relay_source_clear(struct relay_source *s);
/* Reads what is there into the window. 1: something new, 0: nothing, -errno. */
int relay_source_fill(struct relay_source *s);
/* Unsent bytes: their offset, place and number (0: none). relay_source_sent() takes them for sent. */
size_t relay_source_next(const struct relay_source *s, uint64_t *offset, const unsigned char **p);
void relay_source_sent(struct relay_source *s, size_t n);
/* -EPROTO: an offset that was never sent. */
int relay_source_ack(struct relay_source *s, uint64_t offset);
/* The link is new: the peer has got everything before offset (which is not the same as done with it); send again from there. */
int relay_source_rewind(struct relay_source *s, uint64_t offset);
/* Bytes that were taken and not acknowledged: moves them into a source that starts anew. */
void relay_source_carry(struct relay_source *to, const struct relay_source *from);
void relay_source_peer_closed(struct relay_source *s);
bool relay_source_drained(const struct relay_source *s); /* all that was read is acknowledged */

struct relay_sink {
	int fd; /* non-blocking; -1: closed */
	bool count, sock, packets;
	struct net_end *tcp; /* counting, of the network: the family's end */
	uint32_t reader; /* counting socket: the inode of the one that the family reads from */
	int count_fd; /* where FIONREAD tells what is unread: fd itself, or the slave of a pty; -1: fd */
	uint64_t got, written, acked;
	uint64_t read;		/* counting pipe, closed: what had been read of it by then */
	unsigned char *buf; /* offsets written .. got */
	size_t have, cap;
	bool end;		/* the source has ended at `got` */
	bool shut;		/* socket: and that is told */
	bool closed, closed_told; /* nobody reads here any more */
};
void relay_sink_init(struct relay_sink *k, int fd, bool count);
void relay_sink_clear(struct relay_sink *k);
int relay_sink_data(struct relay_sink *k, uint64_t offset, const void *p, size_t n); /* -EPROTO: a gap, or more than a window */
void relay_sink_end(struct relay_sink *k, uint64_t offset);
bool relay_sink_waits(const struct relay_sink *k); /* there is something that could be written: of packets a whole one */
int relay_sink_flush(struct relay_sink *k); /* writes what fits; notices that nobody reads */
/* Offset to acknowledge now, true when it is news. relay_sink_acked() notes that it was sent. */
bool relay_sink_ack_due(const struct relay_sink *k, uint64_t *offset);

/*
 * Denies, or allows again, that descriptors be sent to this socket: from Linux 6.16 on the sender's call fails (EPERM). False: nothing was changed.
 */
bool relay_sock_rights(int fd, bool on);
/* Has what was sent from this socket not all been read, even if it says nothing? */
bool relay_sock_unsent(int fd);
/* What was written to a socket and waits at its other end, whose inode is `ino`, in this network namespace: bytes; -ENOENT: that has been closed; -errno. */
ssize_t relay_sock_unread(uint32_t ino);

#endif
