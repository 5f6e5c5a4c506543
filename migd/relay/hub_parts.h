/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the hub share: hub.c (relays), pump.c (the thread and the link), drain.c (waiting until all is through). Lock and order: struct relay_hub. */
#ifndef MIGD_RELAY_HUB_PARTS_H
#define MIGD_RELAY_HUB_PARTS_H
#include <pthread.h>
#include "conf/list.h"
#include "migd/relay/half.h"
#include "migd/relay/hub.h"
#include "migd/relay/tty.h"

enum { MARK = 16, RELAYS_MAX = 256, ANSWERS_MAX = 1024 };

struct relay {
	struct list node;
	uint64_t id;
	enum relay_kind kind;
	pid_t holder; /* at home: whose foreground state decides who reads the terminal */
	int original; /* home: the end as the family has it */
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
};

struct relay_hub {
	bool home;
	pthread_mutex_t turn; /* held while the thread is started or ended: who finds it ended may free the link */
	pthread_mutex_t drains; /* one at a time; taken before lock */
	pthread_mutex_t lock; /* taken after turn */
	pthread_cond_t changed;
	struct list relays, out; /* lock */
	size_t nrelays, nout;
	uint64_t gen; /* lock, home: of the decided copy, 0: none yet */
	bool up, stop, broken, paused; /* lock. paused: sinks write nothing more (the family is frozen) */
	bool stalled;		       /* lock: a drain was given up, and nothing has been taken since */
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
/* Guest: goes on writing the mark of a terminal that is being drained. */
void relay_mark_put(struct relay *r);

#endif
