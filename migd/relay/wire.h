/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How migd talks to sprite-relay, the process of this host that holds the ends of all relays, so that they outlive migd: at run_dir/relay.sock (SOCK_SEQPACKET),
 * root only. One question a connection: a struct relay_ask, perhaps with a descriptor, then a struct relay_answer, perhaps with one. But
 *
 *   OWNER   the connection stays for as long as that migd lives. Without one, and without a hub, sprite-relay ends.
 *   LINK    after an answer of 0 the connection carries frames both ways (struct relay_packet and the data), until either side closes it
 *
 * Hubs have names: of a home "h:FAMILY", of a guest host "g:FAMILY:GENERATION". SWEEP frees those that nobody has opened since the last OWNER came: of families
 * that ended while there was no migd.
 */
#ifndef MIGD_RELAY_WIRE_H
#define MIGD_RELAY_WIRE_H
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "migd/relay/net.h"

enum { RELAY_WIRE_VERSION = 3, RELAY_HUB_NAME_MAX = 160 };
enum relay_op {
	RELAY_OP_OWNER,
	RELAY_OP_FIND,	/* is there such a hub? -ENOENT */
	RELAY_OP_MAKE,	/* makes it if it is not there: kind: it is of a home */
	RELAY_OP_FREE,
	RELAY_OP_SWEEP,
	RELAY_OP_ADD,	/* these as in hub.h */
	RELAY_OP_ORIGINAL,
	RELAY_OP_OPEN, /* number: 1: kept for who asks again, until it is TAKEN */
	RELAY_OP_RESET, /* number: generation */
	RELAY_OP_UNREAD,
	RELAY_OP_LEFT,	/* kind: it has ended */
	RELAY_OP_BACK,
	RELAY_OP_DRAIN, /* number: ms */
	RELAY_OP_QUIESCE,
	RELAY_OP_RESUME,
	RELAY_OP_HOLD,	/* number: ms */
	RELAY_OP_WHOSE, /* number: inode; -ENOENT */
	RELAY_OP_LINK,	/* number: generation */
	RELAY_OP_DOWN,
	RELAY_OP_TAKEN
};
struct relay_ask {
	uint32_t version, op;
	uint64_t id, number;
	uint32_t kind;
	int32_t pid;
	struct relay_net net; /* OPEN, of kinds that have names */
	char hub[RELAY_HUB_NAME_MAX];
};
struct relay_answer {
	int32_t result; /* 0 or -errno */
	uint32_t count; /* how many relays the hub has */
	uint64_t id;	/* WHOSE */
};
struct relay_packet {
	uint64_t id, offset;
	uint32_t kind, len;
};

/* One message of two parts, with a descriptor if fd >= 0. 0 or -errno. */
int wire_send(int sock, const void *head, size_t head_len, const void *data, size_t len, int fd);
/* Bytes, 0: closed, -errno. *fd: what came along, -1: none; NULL: it is closed. */
ssize_t wire_recv(int sock, void *buf, size_t size, int *fd);

#endif
