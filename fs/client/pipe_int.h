/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pipe agent's inside. One thread holds all of it, so that nothing needs a lock but its mailbox. Parts: pipe_agent.c (thread, openers, the hook),
 * pipe_ends.c (our ends in the kernel's FIFO and what goes through them), pipe_place.c (bytes before others), pipe_guard.c (a broken pipe is not seen too early), pipe_last.c (the last end),
 * pipe_hook.c (the open that we see), pipe_link.c (the stream to each server), pipe_path.c and pipe_wire.c (bytes that do not go by it), pipe_move.c (processes that move).
 */
#ifndef FS_CLIENT_PIPE_INT_H
#define FS_CLIENT_PIPE_INT_H
#include <semaphore.h>
#include "fs/client/client.h"
#include "fs/client/keep.h"
#include "fs/client/pipe_agent.h"
#include "fs/client/pipe_proc.h"

enum { NONE, SINK, SOURCE };
#define WINDOW	  (64u << 10)
#define CHUNK	  (256u << 10)
#define PAGE	  4096
#define PATH_RING (256u << 10) /* by a path: so much at most is unacknowledged */
#define PATH_ACK  (128u << 10)
#define EVENT_WIRE 1ull /* in epoll's data: not a FIFO but a connection */
#define EVENT_TIMER 2ull
#define SHARE_NS  5000000ull	/* readers on several nodes: so long bytes may lie unread */
#define AGAIN_NS  1000000ull	/* when an end says "nobody" and an opener is on its way; when a pipe could not be made small yet */
#define IDLE_NS	  10000000000ull /* a FIFO of which nothing was heard for so long is looked at: has anybody it open? */
#define WALK_NS	  60000000000ull /* for all FIFOs that rest, but not oftener than that */
#define ENDED_NS  3000000000ull /* a process that has left is killed at once; if not (its migd is dead), it is stopped for good */
#define PUT_OFF_NS 100000000ull
#define STOOD_NS  10000000000ull /* who stood still on its way out of its open makes it again within that time, perhaps on another node */
#define DOUBT_NS  20000000000ull /* the hub breaks with who does not answer for thirty */
#define ANSWER_NS 2000000000ull /* an open waits no longer for a server that is away */

struct opener {
	struct list link;
	struct pipe_proc who;
	fuse_req_t req; /* NULL: answered */
	int fd;
	struct stat st;
	uint64_t id, since;
	uint64_t stood; /* when it was last seen to stand still on its way out of its open; 0: never */
};

struct bytes {
	struct list link;
	size_t off, len;
	uint8_t data[];
};

/* What a process that moves has open, while it is nowhere: see pipe_move.c. */
struct claim {
	struct list link;
	struct fifo *fifo;
	uint64_t token; /* names the end of one family in one move, on both nodes */
	pid_t pid;
	int pidfd;
	int ns;	     /* hold: its pid namespace, which is its family's (open, so that its number is given to no other one); -1: that of this host */
	bool r, w;
	bool pledge; /* we are the destination; false: the source, which holds */
	bool orphan; /* hold: the process has gone, the hub was told */
	uint64_t releasing; /* hold: told to release at that time; done when the process has ended, 0: not */
	int end[2];  /* ends of our own that stand for its; pledge: to read only; -1: none */
	uint64_t id; /* pledge: of the PLEDGE or TAKE on its way, 0: none */
	struct pipe_call *call;
	struct keep *keep; /* NULL: not yet; a process that was found dead has none */
	uint64_t missed;   /* found: since when its process does not have it, as it seems */
	bool found;	   /* of a spritefs that was killed: what the hub said meanwhile we have not heard */
};

struct path { /* pipe_path.c */
	uint64_t id; /* 0: there is none */
	bool source;
	struct wire *wire; /* NULL: broken, or nothing has come by it yet */
	char *peer;
	/* source: */
	bool stopped; /* sends no more; the hub settles it */
	bool asked;   /* the hub wants it settled */
	bool blocked; /* does not read until there is room, or the connection takes more */
	uint8_t *ring;
	uint64_t sent, acked;
	/* sink: */
	bool used, ended; /* bytes have come by it; no more will */
	uint64_t received, placed, told; /* told: acknowledged */
	uint64_t told_since; /* that it is to be told of more */
	uint64_t until;	     /* the source is gone: what comes until then, 0: it is not */
};

struct fifo {
	struct list link;
	struct inode *ino;
	struct hub *hub;
	int role, end; /* end -1: none */
	uint32_t armed; /* what epoll was told of `end`, 0: nothing that counts any more */
	struct path path;
	int guard, past; /* pipe_guard.c; -1: none */
	int kept;      /* pipe_last.c: a write end that keeps unread bytes alive; -1: none */
	bool passing;  /* a reader of this node has been let in to them */
	bool gave;     /* SINK and shared: has given back bytes that a role which is on its way to us may not know of */
	int put_off;   /* the role that we could not take yet, for want of something; NONE */
	bool warned;
	bool check; /* role_check() is to be made, */
	uint64_t check_at; /* not before that */
	bool doubt;    /* whether anybody is at the other side of our end shows in a moment */
	uint64_t owed; /* the round in which the hub asked that, 0: it has been told; */
	uint64_t owed_since;
	bool silent;   /* the hub was told that nobody is left here: nothing is carried until it has said what follows */
	struct pipe_witness witness;
	bool suspect;  /* is there still a reader? Look before the guard is closed */
	uint64_t looked, look_ns; /* with a guard: when, and how long until it is to be done again */
	bool r, w;     /* what the hub was told */
	bool shared;   /* SINK: there are readers on other nodes too. SOURCE: chunks of at most a page */
	bool front;    /* who is waiting to read is the first reader here: what comes from the hub is older than what is in the pipe */
	int size;      /* SOURCE: of the pipe before we made it small, 0: we did not */
	int grown;     /* of the pipe before we made it large, 0: we did not */
	int unread;    /* SINK and shared: bytes in the pipe when it was looked at last */
	unsigned idle; /* how often it was empty since */
	struct list openers, claims;
	struct list out; /* SINK: bytes for the pipe */
	size_t done;	 /* SINK: bytes that are in the pipe and not acknowledged yet: with whatever is said next, or soon */
	uint64_t done_since;
	size_t unacked;	 /* of what we sent as a SOURCE; outlives the role, as the hub's queue does */
	uint64_t again;	 /* look at it then, 0: never */
	uint64_t used;
};

/* The stream to one server. */
struct hub {
	struct list link;
	struct agent *a;
	struct server *server;
	struct rpc_stream *stream; /* NULL: not up */
};

/* A request of the control socket, answered by the agent. */
struct pipe_call {
	enum pipe_verb verb;
	pid_t pid;
	uint64_t token;
	bool r, w;
	int size; /* PLEDGE */
	struct inode *ino; /* HOLD, PLEDGE: a reference */
	uint64_t since;
	unsigned waits; /* TAKE: claims that are not answered yet */
	int result;
	sem_t done;
};

enum mail_kind { MAIL_OPEN, MAIL_UP, MAIL_DOWN, MAIL_MSG, MAIL_CALL, MAIL_FOUND, MAIL_LOOK, MAIL_WIRE };
struct mail {
	struct list link;
	enum mail_kind kind;
	struct inode *ino; /* OPEN, FOUND */
	struct keep *keep; /* FOUND */
	struct opener *opener;
	struct hub *hub; /* the others */
	struct rpc_stream *stream;
	sem_t *seen; /* DOWN */
	struct pipe_call *call;
	struct rpc_msg msg;
	struct wire *wire; /* WIRE */
	struct rpc_raw *raw;
};

struct agent {
	struct fs *fs;
	pthread_t thread;
	int epoll, wake, timer;
	uint64_t alarm; /* when the timer goes off, 0: it is not set */
	pthread_mutex_t lock;
	struct list mails; /* lock */
	struct list fifos, hubs;
	uint64_t next_id;
	uint64_t walked; /* pipe_last.c: when all of /proc was looked through last */
	struct hash paths; /* by number */
	struct list wires;
	bool wires_pending; /* some have bytes that no poll tells of */
	uint64_t wires_looked;
	atomic_uint_fast64_t carried[2]; /* bytes of sources here: by the hub, by a path */
	pthread_mutex_t listen_lock;
	char address[CONF_ADDR_MAX]; /* where we listen; set under listen_lock, before the hub knows of us */
	uint8_t buf[CHUNK], wire_buf[CHUNK];
};

/* ---- pipe_hook.c */
/* The FIFO behind a descriptor of a process, with a reference. -EOPNOTSUPP: it is not one of ours, or not bridged. */
int fifo_behind(struct fs *fs, pid_t pid, int num, struct inode **out);

/* ---- pipe_agent.c */
struct agent *agent_of(struct fs *fs);
void fifo_free(struct agent *a, struct fifo *f);
void pipe_post(struct agent *a, struct mail *m);
/* Is somebody on its way in, to read (or to write)? Forgets those that have arrived. */
bool pipe_coming(struct fifo *f, bool r);
/* So it seems, but nobody of whom that is certain. */
bool pipe_doubtful(struct fifo *f, bool r);
/* Does one stand still that was, or has one just ceased to? */
bool pipe_standing(const struct fifo *f);
void opener_answer(struct opener *o);
/* Does somebody wait to be let in to read? */
bool reader_waits(const struct fifo *f);
/* The FIFO's state, made if need be; takes over a reference of ino. NULL: not bridged. */
struct fifo *fifo_get(struct agent *a, struct inode *ino);

/* ---- pipe_ends.c */
/* What the kernel has under this node id, whatever its name is now: an O_PATH descriptor. */
int fifo_path(struct fs *fs, const struct inode *ino);
int fifo_open(struct fs *fs, const struct inode *ino, int flags);
void end_close(struct fifo *f);
void end_leave(struct agent *a, struct fifo *f);
/* Bytes that came by a path, into the pipe or behind what waits for it. False: as pipe_pump(). */
bool sink_put(struct agent *a, struct fifo *f, const uint8_t *p, size_t n);
/* Carries what there is to carry. False: the other end of ours has gone (and the role with it): report it. */
bool pipe_pump(struct agent *a, struct fifo *f);
void pipe_role(struct agent *a, struct fifo *f, int role, bool shared);
/* Takes all that is in the pipe out of it, for the hub: as a SOURCE's bytes, or back to the front of the queue. */
void pipe_empty(struct agent *a, struct fifo *f);
bool end_has_error(int end);
/* A SINK whose readers have gone: gives back what they have not read; no role any more. */
void end_give_up(struct agent *a, struct fifo *f);
/* Has anybody here ends of it, or is on the way to them, or is held for? Slow, exact. */
void fifo_look(struct agent *a, struct fifo *f, int but, bool *r, bool *w); /* but: pipe_proc_holders() */

/* ---- pipe_place.c */
struct stack { /* bytes that are to be in the pipe, in order */
	uint8_t *p;
	size_t len, room;
};
/* Reads what is there, at most n bytes, behind what we have. */
void stack_read(struct stack *s, int fd, size_t n);
/* Takes out what is there now, by one call. */
void stack_drain(struct stack *s, int r);
/* Puts it before all that is in the pipe, whoever writes there; what that was is then in it too. r, w: ends of the pipe, neither of which waits. -EFBIG, -EBUSY, -ENOMEM: it is not in. */
int stack_front(struct stack *s, int r, int w);
/* What is in it goes to the hub as a source's, from `at` on. */
void stack_send(struct fifo *f, const struct stack *s, size_t at);
/* Puts what came from the hub into the pipe, all of it, before or behind what is there (f->front). */
void pipe_place(struct agent *a, struct fifo *f);

/* ---- pipe_last.c */
/* We are about to be a source no more: what is unread in the pipe stays, whether its writers do or not. Then settle: if there is nothing, our end goes again. */
void kept_open(struct agent *a, struct fifo *f);
void kept_settle(struct fifo *f);
/* A reader was let in: closes ours when its end is there, which is looked at again until then. True: closed. */
bool kept_pass(struct fifo *f);
/* True: there was one. Somebody else's end, or nobody, sees to it. */
bool kept_close(struct fifo *f);
void last_prove(struct agent *a, struct fifo *f, uint64_t round);
void last_discard(struct agent *a, struct fifo *f);
/* Those of which nothing was heard for long: has anybody here got them open? */
void last_idle(struct agent *a);

/* ---- pipe_guard.c */
bool guard_open(struct agent *a, struct fifo *f);
void guard_close(struct fifo *f);
/* Opens or closes it as need be, and looks whether readers are left. False: they are not, and the role has changed: report it. */
bool guard_settle(struct agent *a, struct fifo *f);
/* `end` is a read end that stood for somebody who may have been the last reader here; it is ours to close no longer. */
void guard_suspect(struct agent *a, struct fifo *f, int end);
/*
 * A role proves that there are readers (SINK), writers (SOURCE). That there are writers, or readers, beside them may be an old belief: nobody tells of a close. Others would share with readers who
 * are none, or make their pipes small for writers who are none, and no path be offered: so it is looked at, now or (f->check) as soon as may be. True: it was one.
 */
bool role_check(struct agent *a, struct fifo *f);
/* f is to be looked at then, or before. */
void look_at(struct fifo *f, uint64_t when);

/* ---- pipe_link.c */
struct hub *hub_of(struct agent *a, struct server *s);
void pipe_say(struct fifo *f, Sprite__Fs__PipeMsg__Kind kind, uint64_t id, size_t n, const void *bytes, size_t len);
void pipe_report(struct fifo *f, uint64_t round);
void pipe_answer(struct fifo *f, uint64_t round, bool alive); /* to `prove` */
/* A path is over here: so many bytes have come by it. */
void pipe_settled(struct fifo *f, uint64_t id, uint64_t n, bool unasked);
/* OPEN, PLEDGE, TAKE, ORPHAN, DROP, RELEASED: what has a token or says what somebody opens for. */
int pipe_tell(struct fifo *f, Sprite__Fs__PipeMsg__Kind kind, uint64_t id, bool r, bool w, uint64_t token);

/* ---- pipe_path.c */
void path_offered(struct agent *a, struct fifo *f, const Sprite__Fs__PipeMsg *m);
void path_settle(struct agent *a, struct fifo *f, const Sprite__Fs__PipeMsg *m);
void path_stop(struct agent *a, struct fifo *f); /* no more bytes by it: the hub is to settle it (source), or hears what came (sink) */
void path_forget(struct agent *a, struct fifo *f); /* the hub is away, with all it knew */
bool path_ready(const struct fifo *f); /* source: nothing goes by the hub any more */
size_t path_room(const struct fifo *f, uint8_t **at); /* for so many bytes, there; 0: not now */
void path_send(struct fifo *f, const uint8_t *at, size_t n);
void path_acknowledge(struct fifo *f, bool now);

/* ---- pipe_move.c */
void claim_call(struct agent *a, struct pipe_call *c);
void claim_found(struct agent *a, struct inode *ino, struct keep *k); /* takes over both */
void claims_up(struct agent *a, struct fifo *f); /* the stream is there again */
void claim_released(struct agent *a, struct fifo *f, uint64_t token);
bool claim_opened(struct agent *a, struct fifo *f, uint64_t id); /* true: the number was one of ours */
bool claim_taking(const struct fifo *f);
void claims_tick(struct agent *a, struct fifo *f);
void claims_free(struct fifo *f);

#endif
