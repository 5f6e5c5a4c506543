/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections between the pipe agents of two nodes (pipe_wire.c), and what goes by them for one FIFO (pipe_path.c): bytes of a source for its sink, without the hub, while
 * the hub says that there is one of each (fs/server/pipe_path.c has the rules).
 *
 * A frame is a head, little-endian, and `len` bytes. One connection goes from each node that is a source to each that is a sink; all FIFOs share it.
 *	DATA	source -> sink: bytes, behind those before
 *	STOP	source -> sink: there are no more
 *	ACK	sink -> source: so many bytes (u64), from the first on, are in its pipe
 */
#ifndef FS_CLIENT_PIPE_WIRE_H
#define FS_CLIENT_PIPE_WIRE_H
#include "fs/client/pipe_int.h"
#include "rpc/raw.h"

enum frame { FRAME_DATA = 1, FRAME_STOP, FRAME_ACK };
struct head {
	uint32_t kind, len;
	uint64_t id; /* of the path */
};
#define FRAME_MAX (1u << 20)

struct wire {
	struct list link; /* agent.wires */
	struct agent *a;
	enum { WIRE_COMING, WIRE_UP, WIRE_DOWN } state; /* DOWN: what came of it is to be told to its paths; then, if we connect, it waits to be tried again */
	bool ours; /* we connect */
	bool told;
	struct conf_addr addr;
	char peer[CONF_ADDR_MAX];
	struct rpc_raw *raw;
	uint64_t used, retry; /* UP: when it had a path last; DOWN: not to be tried again until then */
	uint64_t judged; /* UP: when its certificate was looked at last */
	struct head head; /* of what is being received: its first `got` bytes, then `left` of what follows */
	size_t got, left;
	uint8_t number[8]; /* of an ACK */
	bool full; /* the socket has not taken all yet */
};

/* A connection to that node, perhaps still on its way; NULL: it cannot be had, or could not a short while ago. */
struct wire *wire_to(struct agent *a, const char *peer, const char *address);
bool wire_from(const struct agent *a, const char *peer); /* is there one that it has made? */
void wire_send(struct wire *w, enum frame kind, uint64_t id, const void *p, size_t n);
/* Breaks it off. Its paths hear of it a little later: wires_tick(). */
void wire_fail(struct wire *w, const char *why);
void wire_event(struct agent *a, struct wire *w, uint32_t events);
void wire_mail(struct agent *a, struct wire *w, struct rpc_raw *raw); /* w NULL: it was accepted; raw NULL: it could not be made */
void wires_tick(struct agent *a);
/* Where we listen, from now on at the latest; "": nowhere. Any thread. */
const char *wires_listen(struct agent *a);

/* pipe_path.c */
void path_data(struct agent *a, struct wire *w, uint64_t id, const uint8_t *p, size_t n);
void path_ack(struct agent *a, struct wire *w, uint64_t id, uint64_t n);
void path_end(struct agent *a, struct wire *w, uint64_t id);
void path_wire(struct agent *a, struct wire *w); /* it is up, or down */
bool path_uses(const struct agent *a, const struct wire *w);

#endif
