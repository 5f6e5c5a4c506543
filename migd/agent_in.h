/* SPDX-License-Identifier: Apache-2.0 */
/* Inside the asker's side of selection (agent.h): agent.c holds agents and answers verbs, agent_stream.c talks to the master, agent_own.c asks for migd itself. */
#ifndef MIGD_AGENT_IN_H
#define MIGD_AGENT_IN_H
#include <pthread.h>
#include "conf/list.h"
#include "migd/agent.h"

struct slot {
	struct list node;
	uint64_t id;	/* ours, as agents know it */
	uint64_t mid;	/* the master's; 0: to be adopted */
	uint64_t adopt_until;
	uint32_t uid, priority;
	bool wanted; /* others have a right to it: whoever is there by it has to go */
	char host[256];
};

struct want {
	struct list node;
	uint64_t tag;
	uint32_t uid, priority, want, got;
	bool wait, sent, answered;
	int err;
	char host[256], not_host[256];
	uint64_t last_slot;
};

struct agent {
	struct list node; /* table */
	struct migd *m;
	uint64_t id;
	uid_t uid;
	int refs;		  /* table's lock */
	struct local_conn *conn;  /* NULL: migd's own */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct rpc_stream *stream; /* lock */
	unsigned senders;	   /* lock: threads that use the stream now */
	bool stop;		   /* lock */
	struct list slots, wants;  /* lock */
};

struct agents {
	pthread_mutex_t lock;
	struct list list;  /* lock */
	uint64_t next;	   /* lock: ids of agents, slots and tags */
	struct agent *own; /* lock: for agent_place() */
	pthread_t own_thread;
};

/* agent.c */
uint64_t agent_new_id(struct migd *m); /* of an agent, a slot, a tag */
struct agent *agent_new(struct migd *m, uid_t uid, struct local_conn *conn);
void agent_put(struct agent *a);
void agent_end(struct agent *a); /* out of the table, and put */
struct slot *agent_slot(struct agent *a, uint64_t id); /* under its lock */
struct want *agent_want(struct agent *a, uint32_t uid, uint32_t priority, uint32_t n, bool wait, const char *host, const char *not_host);
bool agent_give_back(struct agent *a, uint64_t slot);

/* agent_stream.c: never under the lock, since flow control may block. */
void agent_send_want(struct agent *a, const struct want *w, uint32_t n);
void agent_send_release(struct agent *a, uint64_t mid);
void agent_run(struct agent *a); /* until who asked has gone, or migd ends */

#endif
