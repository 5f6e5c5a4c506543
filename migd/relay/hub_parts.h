/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the hub share: hub.c (relays), pump.c (the thread and the link), drain.c (waiting until all is through), conn.c (the network),
 * born.c (unix sockets that were connected away). Lock and order: struct relay_hub. */
#ifndef MIGD_RELAY_HUB_PARTS_H
#define MIGD_RELAY_HUB_PARTS_H
#include <pthread.h>
#include "conf/list.h"
#include "migd/relay/half.h"
#include "migd/relay/hub.h"
#include "migd/relay/tty.h"

enum { MARK = 16, RELAYS_MAX = 1024, ANSWERS_MAX = 4096 };

/* What a relay of the network has beside its halves: conn.c. */
struct conn {
	struct relay_net net;
	struct net_end end;	 /* guest: the family's */
	const struct net_space *space; /* guest */
	uint64_t parent;	 /* of one that came in while the family was away: where, 0: it is none */
	bool accepted;		 /* ... and the family has it */
	bool accepted_told;	 /* guest: home knows that */
	uint32_t ino;		 /* guest, ... of its end */
	bool offered;		 /* home, ... and this generation was told of it */
	bool here, seen;	 /* home: this link's guest has it; one had it */
	bool kept;		 /* home: the family has the original again */
	bool failed, wrecked;	 /* it broke; home: in writing, so that the socket itself no longer says so */
	bool reset_told;	 /* home */
	bool said_all;		 /* home: in a generation before, the family has ended its direction, and all of that is written */
	unsigned reset;		 /* guest: home says that it broke: when all is read, or (2) at once */
	bool over, clean, told;	 /* guest: nothing more goes through it; home knows */
	uint64_t room, offers;	 /* listening, home: how many this generation takes; has been told of */
	uint64_t settled;	 /* listening, guest: how many have been accepted, or came to nothing */
	uint64_t room_told;
	uint64_t look_ns;	 /* guest, that has a name: when to look whether it has been closed */
	bool full;		 /* listening, home: one waits that cannot be taken just now */
	int raw[2];		 /* UDP, guest: what goes through the space over IPv4 and IPv6, and how we say something in somebody's name; 0: none */
	int hush;		 /* UDP, guest: has the name of who it is connected to; 0: none */
};

struct relay {
	struct list node;
	uint64_t id;
	enum relay_kind kind;
	pid_t holder; /* at home: whose foreground state decides who reads the terminal */
	int original; /* home: the end as the family has it; -1: a pipe that it has let go of */
	bool has_source, has_sink;
	struct relay_source source;
	struct relay_sink sink;
	struct relay_tty tty;
	bool hello_due;
	char mark[MARK]; /* guest, terminal: see mark_terminals() */
	size_t mark_put; /* so much of it is in the pty */
	bool marked;
	bool cr_held;	 /* guest, terminal: the last byte is a \r, and a \n may follow */
	uint64_t cr_ns;	 /* ... since when */
	uint64_t target; /* hub_drain(): what has to be with its reader */
	struct conn conn; /* RELAY_TCP, RELAY_LISTEN, RELAY_UDP; of unix sockets some of it: born.c */
	int spare;	 /* guest, born.c: the family's end, until it has it; -1: it has */
	uint64_t made_ns; /* born.c: when it came to be here */
	bool rights_off; /* home, unix sockets: sock_rights() has been denied to the original */
};

struct relay_hub {
	bool home;
	pthread_mutex_t turn; /* held while the thread is started or ended: who finds it ended may free the link */
	pthread_mutex_t drains; /* one at a time; taken before lock */
	pthread_mutex_t lock; /* taken after turn */
	pthread_cond_t changed;
	struct list relays, out; /* lock */
	size_t nrelays, nout;
	struct net_space space[RELAY_SPACES]; /* lock, guest */
	uint64_t last_born;		/* lock, home */
	bool holding;			/* lock, guest: no new connections */
	uint64_t gen; /* lock, home: of the decided copy, 0: none yet */
	bool up, stop, broken, paused; /* lock. paused: sinks write nothing more (the family is frozen) */
	bool stalled;		       /* lock: a drain was given up, and nothing has been taken since */
	bool settled;		       /* lock, guest: the family is frozen and all is told. An end that shows now is the end of this copy of it, which is nobody's business */
	uint64_t token, synced;	       /* lock: of SYNC */
	int wake;
	pthread_t thread;
	struct relay_link link;
};

struct relay *hub_find(struct relay_hub *h, uint64_t id); /* lock held */
void hub_poke(struct relay_hub *h);			  /* the thread looks again */
/* Lock held. */
int hub_queue(struct relay_hub *h, uint64_t id, enum relay_frame_kind kind, uint64_t offset, const void *data, size_t len);
void hub_drop_out(struct relay_hub *h);
struct relay *relay_new(struct relay_hub *h, uint64_t id, enum relay_kind kind);
void relay_drop(struct relay_hub *h, struct relay *r);
int relay_halves_at_home(struct relay *r);
void relay_rights_deny(struct relay *r);

/* conn.c; lock held */
static inline bool relay_is_net(const struct relay *r)
{
	return r->kind == RELAY_TCP || r->kind == RELAY_LISTEN || r->kind == RELAY_UDP;
}
/* Of a unix socket whatever is said goes through as a whole. */
static inline bool relay_has_packets(const struct relay *r)
{
	return r->kind == RELAY_SEQ || r->kind == RELAY_DGRAM;
}
static inline bool relay_is_unix(const struct relay *r)
{
	return r->kind == RELAY_SOCK || relay_has_packets(r);
}
/* Home takes from it only while it is asked to. */
static inline bool relay_has_room(const struct relay *r)
{
	return r->kind == RELAY_LISTEN || r->kind == RELAY_UDP || relay_has_packets(r);
}
int conn_make(struct relay_hub *h, struct relay *r, const struct relay_net *net, int *family);
void conn_begin(struct relay *r);		  /* home: a generation is decided */
void conn_free(struct relay *r);		  /* its hub, or it, is about to go */
void conn_offer(struct relay_hub *h);		  /* home, with a new link: what it may not know */
void conn_link(struct relay *r);		  /* a new link */
void conn_step(struct relay_hub *h, struct relay *r);
int conn_tick(struct relay_hub *h, struct relay *r); /* ms until the next look, -1: none */
void conn_gone(struct relay_hub *h, struct relay *r);
int conn_input(struct relay_hub *h, const struct relay_frame *f);
bool conn_all_accepted(struct relay_hub *h);
bool conn_all_told(struct relay_hub *h); /* guest, frozen: home knows of each whether the family has it */
void conn_rooms(struct relay_hub *h);

/* born.c; lock held */
static inline bool relay_was_born(const struct relay *r)
{
	return (r->id & RELAY_BORN_UNIX) == RELAY_BORN_UNIX && relay_is_unix(r);
}
int born_again(const struct relay *r, enum relay_kind kind); /* guest: a duplicate of the end that was made and not taken, or -EEXIST */
void born_taken(struct relay *r);
bool born_lost(const struct relay *r); /* nobody asks for it any more */
void born_step(struct relay_hub *h, struct relay *r);
int born_tick(const struct relay_hub *h, const struct relay *r); /* as conn_tick() */

/* udp.c; lock held */
int udp_make(struct relay *r, const struct net_space *s, int *family);
void udp_free(struct relay *r);
void udp_step(struct relay_hub *h, struct relay *r);
int udp_input(struct relay_hub *h, struct relay *r, const struct relay_frame *f);
bool udp_quiet(const struct relay_hub *h, const struct relay *r); /* guest: all that the family has sent is on its way */
bool udp_read(const struct relay *r);				     /* guest: the family has read all that came */

/* Guest: goes on writing the mark of a terminal that is being drained. */
void relay_mark_put(struct relay *r);

#endif
