/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Named pipes across nodes: what the hub knows and decides. Pure: no I/O, no clock, no locking of its own; answers leave through `struct ps_ops`.
 *
 * Every node keeps the kernel's own FIFO. The hub is told of every open before it happens (OPEN) and gives each node a role:
 *   SINK    it has readers, and writers are elsewhere: its agent holds a write end and puts into the pipe what comes from the hub
 *   SOURCE  it has writers, readers are elsewhere, and it is no sink: its agent holds a read end and sends what comes out of the pipe
 *   NONE    all is native
 * A node believed to have readers (r) or writers (w) proves it when it takes a role: the agent tries to open the other end. So what a node does
 * natively needs no message, and a belief may be stale without harm. An open is answered when one round, in which every node was asked and
 * no role changed any more, has ended after it came.
 *
 * Bytes: sources send at most PS_WINDOW without having them acknowledged; the hub keeps each byte until the sink has put it into its pipe (ACK).
 * PIPE_BUF: a write of at most 4096 bytes is whole when it comes out of a source's pipe, and the sink's agent is the only writer into its pipe but for that node's
 * own. Where there are such, a write of the agent that does not fit could be cut in two by them: then sources make their pipes one page small, so that
 * no chunk is larger than what a pipe takes as a whole or not at all.
 *
 * One sink at a time is served (the holder). When its readers go, it gives back what nobody has read (RETURN), to the front of the queue. When there are
 * readers on several nodes, a sink also gives back what has lain in its pipe unread for a few ms, and the next sink is served: so no byte waits at a node
 * that does not read while another one would (the order in which readers of several nodes get bytes is not defined, as it is not on one machine).
 * Roles that end behind data wait for it: that is how end of file follows the last byte.
 *
 * The first reader of a node is let in (opened) only when all that the queue holds has been sent to it. Processes that move: pipe_take.c. What nobody has read when the last
 * end closes: pipe_last.c. Bytes that do not come by here: pipe_path.c.
 */
#ifndef FS_SERVER_PIPE_STATE_H
#define FS_SERVER_PIPE_STATE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "conf/hash.h"
#include "conf/list.h"

#define PS_WINDOW    (64u << 10)
#define PS_CHUNK_MAX (1u << 20)
#define PS_QUEUE_MAX (4u << 20) /* bytes of one node in one FIFO; who has more than that does not keep to the window */
#define PS_KEY_MAX   128
#define PS_FIFOS_MAX 16384

enum ps_role { PS_NONE, PS_SINK, PS_SOURCE };

struct ps_key {
	unsigned char bytes[PS_KEY_MAX];
	size_t len;
};

struct ps_ask { /* of a node */
	enum ps_role role;
	uint64_t round; /* 0: no answer is waited for */
	bool r, w;	/* what it is believed to have */
	bool shared;	/* SINK: there are readers on other nodes too. SOURCE: a node with readers has writers of its own, see below */
	bool prove;	/* no new role: is anybody left there who has it open, but for openers that are not let in yet? */
	bool discard;	/* no new role: nobody is left anywhere who could want what it has; it gives up all its ends */
};

struct ps_part { /* what a node says of itself */
	enum ps_role role;
	bool r, w;
	bool kept;   /* bytes of writers that may have gone are in its pipe, which it keeps alive */
	bool stands; /* a process stopped in its open, to make it again perhaps on another node: what was written for it is not nobody's */
	bool alive;  /* answer to `prove` */
};

struct ps_ops { /* all only queue; `node` is the caller's word for a node */
	void (*role)(void *arg, void *node, const struct ps_key *k, const struct ps_ask *ask);
	void (*opened)(void *arg, void *node, const struct ps_key *k, uint64_t req);
	void (*data)(void *arg, void *node, const struct ps_key *k, const void *bytes, size_t n);
	void (*ack)(void *arg, void *node, const struct ps_key *k, size_t n);
	void (*release)(void *arg, void *node, const struct ps_key *k, uint64_t token); /* is answered by ps_released() */
	/* pipe_path.c: */
	bool (*reachable)(void *arg, void *node);
	void (*path)(void *arg, void *node, const struct ps_key *k, uint64_t id, void *peer, bool sink); /* `node` is the sink: answers by ps_path_ready() */
	void (*settle)(void *arg, void *node, const struct ps_key *k, uint64_t id, uint64_t n, bool gone); /* is answered by ps_settled() */
};

struct ps {
	const struct ps_ops *ops;
	void *arg;
	struct hash fifos;
	uint64_t paths; /* number of the last one */
};

void ps_init(struct ps *p, const struct ps_ops *ops, void *arg);
void ps_destroy(struct ps *p);
bool ps_known(const struct ps *p, const struct ps_key *k);

/* A process of the node is about to open it for reading, writing or both; opened(req) when it may go on. -ENOMEM, -ENOSPC. */
int ps_open(struct ps *p, const struct ps_key *k, void *node, bool r, bool w, uint64_t req);
/* Answer to role() (round != 0), or by itself when an end has gone. -EPROTO for what cannot be. */
int ps_report(struct ps *p, const struct ps_key *k, void *node, uint64_t round, const struct ps_part *part);
int ps_data(struct ps *p, const struct ps_key *k, void *node, const void *bytes, size_t n);
/* leaves: its readers have gone, a report follows. */
int ps_return(struct ps *p, const struct ps_key *k, void *node, const void *bytes, size_t n, bool leaves);
int ps_ack(struct ps *p, const struct ps_key *k, void *node, size_t n);
/* Processes that move, see pipe_take.c: the destination (req: opened(req) when it is so) ... */
int ps_pledge(struct ps *p, const struct ps_key *k, void *node, uint64_t req, uint64_t token);
int ps_drop(struct ps *p, const struct ps_key *k, void *node, uint64_t token);
int ps_take(struct ps *p, const struct ps_key *k, void *node, bool r, bool w, uint64_t req, uint64_t token);
/* ... and the source: what holds for this token has lost its process; it has given up what it held. */
int ps_orphan(struct ps *p, const struct ps_key *k, void *node, uint64_t token);
int ps_released(struct ps *p, const struct ps_key *k, void *node, uint64_t token);
/* Paths, see pipe_path.c: the sink takes bytes by it; the source asks that it be settled; sink or source has done its part of that. */
int ps_path_ready(struct ps *p, const struct ps_key *k, void *node, uint64_t id);
int ps_settle(struct ps *p, const struct ps_key *k, void *node, uint64_t id, bool failed);
int ps_settled(struct ps *p, const struct ps_key *k, void *node, uint64_t id, uint64_t n);
/* The node is gone, with all it had. */
void ps_gone(struct ps *p, void *node);

#endif
