/* SPDX-License-Identifier: Apache-2.0 */
/* The hub's view of one FIFO, for pipe_state.c (roles, rounds, queue), pipe_take.c (processes that move) and pipe_last.c (the last end). */
#ifndef FS_SERVER_PIPE_FIFO_H
#define FS_SERVER_PIPE_FIFO_H
#include "fs/server/pipe_state.h"

#define TRIES_MAX 8 /* a node that will not take its role holds nobody up */

struct member {
	struct list link;
	void *node;
	bool r, w; /* believed to have readers, writers */
	bool kept, stands, alive; /* struct ps_part */
	enum ps_role role;
	bool shared;  /* what it was told */
	bool waiting; /* asked in this round, not answered yet */
	bool proven;	/* said whether anybody is left, and waits to hear what follows */
	bool releasing; /* asked to release, not answered yet */
	size_t unacked; /* bytes of its in the queue */
};

struct waiter { /* an open that is to be answered */
	struct list link;
	void *node;
	uint64_t req;
	bool r, w;
	uint64_t round; /* the end of this one answers it */
	bool counted;	/* among what its node has; not before it is proven whether anybody is left from before */
};

/* A process that moves, see pipe_take.c. */
struct token {
	struct list link;
	enum { TOKEN_PLEDGE, TOKEN_ORPHAN, TOKEN_TAKE } kind;
	void *node;
	uint64_t token;
	/* TAKE: */
	bool r, w;
	uint64_t req, round;
	enum { TAKE_WAITS, TAKE_COUNTED, TAKE_RELEASING, TAKE_RELEASED } step;
};

struct chunk {
	struct list link;
	struct member *from; /* NULL: given back, or its node is gone */
	size_t off, len;
	bool sent; /* to the holder */
	unsigned char bytes[];
};

struct path { /* pipe_path.c */
	enum { PATH_NONE, PATH_OFFERED, PATH_ON, PATH_STOPPING, PATH_RESENDING } state;
	uint64_t id;
	struct member *source, *sink; /* NULL: is gone, or has answered */
	bool again;		      /* a round is wanted when it is over */
	bool on, failed;	      /* it has been ON; the source says that its connection came to nothing */
};

struct fifo {
	struct ps_key key;
	struct list members, waiters, queue, tokens;
	uint64_t round;
	bool running, again; /* a round is under way; another one is to follow */
	unsigned pending;    /* answers missing in it */
	unsigned tries;	     /* how often it asked because a role had changed */
	enum { PROOF_NONE, PROOF_WANTED, PROOF_ASKED } proof; /* pipe_last.c */
	struct member *holder;
	size_t out; /* bytes sent to the holder and not acknowledged */
	struct path path;
	unsigned carried, reluctant; /* pieces since the last path; connections that came to nothing */
};

struct fifo *ps_find(const struct ps *p, const struct ps_key *k);
/* Found or made, and this node's part in it: *m. NULL: -ENOMEM or -ENOSPC in *err. */
struct fifo *ps_get(struct ps *p, const struct ps_key *k, void *node, struct member **m, int *err);
struct member *ps_member(struct fifo *f, void *node);
/* Asks for the roles anew, and again if that is under way; false: f is gone. */
bool ps_round(struct ps *p, struct fifo *f);
/* Sends m all that the queue holds, if it is the sink that is served. */
void ps_flush(struct ps *p, struct fifo *f, struct member *m);
/* No round runs and nobody has a part in it any more: f goes. */
void ps_sweep(struct ps *p, struct fifo *f);

/* The holder is no sink any more: what it has not acknowledged is to be sent to the next one. */
void ps_holder_drop(struct fifo *f);
/* Takes the first `n` bytes off the queue and tells their sources. */
void ps_consume(struct ps *p, struct fifo *f, size_t n);
void ps_ask(struct ps *p, struct fifo *f, struct member *m, const struct ps_ask *ask);

/* ---- pipe_path.c, for the others */
void ps_path_offer(struct ps *p, struct fifo *f); /* if it is worth one */
void ps_path_settle(struct ps *p, struct fifo *f); /* if there is one: ps_orphans() and, if wanted, a round follow when it is over */
bool ps_path_round(struct ps *p, struct fifo *f);  /* true: a round has to wait for that */
void ps_path_gone(struct fifo *f, const struct member *m); /* m goes; then, when it has gone: */
bool ps_path_after_gone(struct ps *p, struct fifo *f); /* true: a round follows when the path is over; f may be gone */

/* ---- pipe_last.c, for pipe_state.c */
/* Before an opener is counted: may there be bytes that nobody has open any more? That is to be proven first. */
bool ps_doubtful(const struct fifo *f);
void ps_proof_ask(struct ps *p, struct fifo *f);
void ps_proof_over(struct ps *p, struct fifo *f); /* discards what is nobody's, and counts the openers */
void ps_forget_bytes(struct ps *p, struct fifo *f); /* if nobody is believed to be left */

/* ---- pipe_take.c, for pipe_state.c */
bool ps_tokens_of(const struct fifo *f, const struct member *m); /* may not be forgotten yet */
bool ps_taking(const struct fifo *f, const struct member *m);	 /* gets no bytes yet */
bool ps_takes(const struct fifo *f, const struct member *m, bool r); /* an end to read, or to write */
struct token *ps_active(const struct fifo *f);			 /* the TAKE that is under way */
bool ps_take_round_over(struct ps *p, struct fifo *f);		 /* true: another round is wanted */
void ps_orphans(struct ps *p, struct fifo *f); /* releases what is held for nobody any more */
void ps_tokens_gone(struct ps *p, struct fifo *f, void *node);

#endif
