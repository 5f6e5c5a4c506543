/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pipes and terminals between a family that is away and those who stayed at home.
 *
 * At home the hub holds the original ends (the hollow keeps its descriptors too); on the guest host it holds the other ends of the fresh pipes and
 * ptys that the family got. Frames travel over one stream per family and generation (rpc: RelayFrame). One thread per hub polls and sends; the stream's
 * reader hands frames in. The link may break and be made again at any time: half.h.
 *
 *   guest -> home   first HELLO{family, gen}, then HELLO{id, offset got} for each relay; home answers HELLO{id, offset got} for each
 *   both ways       DATA{id, offset} + bytes, ACK{id, offset}, END{id, offset} (no more writers), CLOSED{id} (no more readers)
 *   guest -> home   SYNC{offset = token}: answered by SYNCED{token} when everything before it has been carried out
 *   home -> guest   GONE{id} instead of HELLO: home knows no such relay (any more)
 *   tty             TERMIOS (both ways, tty.h) and WINSIZE (home -> guest) carry the kernel's structs; WINSIZE{1}, of one that has changed, is answered by WINSIZE
 *   network         NEW, ROOM, ACCEPTED, RESET, DONE, ALL: conn.c; PACKET: udp.c
 *
 * Locking: hub.lock guards all; it is never held while sending. Any thread may call.
 */
#ifndef MIGD_RELAY_HUB_H
#define MIGD_RELAY_HUB_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "migd/relay/net.h"

/* IN: the family reads. SOCK, SEQ, DGRAM: a connected unix socket, of streams, seqpackets, datagrams. TCP: a connection, LISTEN: one where they come in. UDP: one that has a name */
enum relay_kind { RELAY_IN, RELAY_OUT, RELAY_TTY, RELAY_SOCK, RELAY_TCP, RELAY_LISTEN, RELAY_UDP, RELAY_SEQ, RELAY_DGRAM };
/* Numbers with this bit are of connections that were made while the family was away (without it: the engine's): those that came in, and with the second one those to a socket file of the home. */
#define RELAY_BORN	(1ull << 62)
#define RELAY_BORN_UNIX (RELAY_BORN | 1ull << 61)
enum { RELAY_SPACES = 64 }; /* of a hub (net.h): so many sockets of a family can be at one place */
enum relay_frame_kind {
	RF_HELLO, RF_DATA, RF_ACK, RF_END, RF_CLOSED, RF_SYNC, RF_SYNCED, RF_GONE, RF_TERMIOS, RF_WINSIZE,
	RF_NEW, RF_ROOM, RF_ACCEPTED, RF_RESET, RF_DONE, RF_ALL, RF_PACKET, RF_KINDS
};

struct relay_frame {
	uint64_t id;
	enum relay_frame_kind kind;
	uint64_t offset;
	const void *data;
	size_t len;
};

/* Sends a frame; may block; -errno breaks the link. Called by the hub's thread only. */
struct relay_link {
	int (*send)(void *ctx, const struct relay_frame *f);
	void *ctx;
};

struct relay_hub;
int hub_new(bool home, struct relay_hub **out);
void hub_free(struct relay_hub *h); /* link must be down */
size_t hub_count(struct relay_hub *h);

/* Home: keeps `fd`, a duplicate of the original end (taken over). A known id: fd is closed, nothing changes. */
int hub_add(struct relay_hub *h, uint64_t id, enum relay_kind kind, int fd, pid_t holder);
/* Home: a new duplicate of the original end, for the engine when the family comes back. */
int hub_original(struct relay_hub *h, uint64_t id);
/* Guest: makes a fresh pipe, pty or socket and returns the family's end. net: names of a socket of the network. */
int hub_make(struct relay_hub *h, uint64_t id, enum relay_kind kind, const struct relay_net *net);
/* Guest: of a connection to a socket file: keeps a duplicate of the end that was made until the family has it (but not for longer than a minute): hub_make() gives that to who asks again. */
void hub_keep(struct relay_hub *h, uint64_t id, int fd);
void hub_taken(struct relay_hub *h, uint64_t id);
/* Guest: of which connection does the family's end have this inode? One that was made while it was here. -ENOENT */
int hub_whose(struct relay_hub *h, uint64_t ino, uint64_t *id);
/* Home: the family comes back: what was typed for it and not read goes back into its terminals. */
void hub_unread(struct relay_hub *h);
/* Home: process `pid` ends, or stops, in a moment: from now on nothing is read that is typed for its shell; what it has not read goes back when it has ended. */
void hub_left(struct relay_hub *h, pid_t pid, bool ended);
void hub_back(struct relay_hub *h, pid_t pid); /* it was stopped and goes on */
/* Home: generation gen is decided, it starts at offset 0 everywhere. The second time: nothing. */
void hub_reset(struct relay_hub *h, uint64_t gen);

/* The link is there: starts the hub's thread. link->ctx must stay valid until hub_leave() of it, or hub_down(), returns. */
int hub_up(struct relay_hub *h, uint64_t gen, const struct relay_link *link); /* gen: home: -ESTALE if another is decided */
void hub_down(struct relay_hub *h);
/* The link with this ctx goes; nothing, if another has taken its place. */
void hub_leave(struct relay_hub *h, const void *ctx);
/* A frame came in over the link with that ctx (NULL: who brings it answers for it). -EPROTO: nonsense, -EPIPE: of a link that is no longer it; drop the link. */
int hub_input(struct relay_hub *h, const void *ctx, const struct relay_frame *f);

/*
 * Guest, with the family frozen: what it wrote is with its readers, what it has not read is back in its pipe, and home confirms it. -ETIMEDOUT: not within
 * timeout_ms (a reader that does not read). Afterwards either the hub is freed, or hub_resume().
 */
int hub_quiesce(struct relay_hub *h, int timeout_ms);
/*
 * Guest, before a move: no new connections and packets come until hub_resume(), and what came has been accepted and read. -EBUSY: a connection has not within timeout_ms; -EAGAIN: a packet of a seqpacket socket has not.
 */
int hub_hold(struct relay_hub *h, int timeout_ms);
void hub_resume(struct relay_hub *h);
/*
 * Guest: a process has ended: waits until what has been written so far is with its readers, so that its parent finds it before the exit, and until home
 * knows how much of its input has been read.
 */
int hub_drain(struct relay_hub *h, int timeout_ms);

#endif
