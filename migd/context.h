/* SPDX-License-Identifier: Apache-2.0 */
/* What one migd consists of. Made by main.c before any thread starts, read-only afterwards but for what says otherwise. */
#ifndef MIGD_CONTEXT_H
#define MIGD_CONTEXT_H
#include <stdatomic.h>
#include <jansson.h>
#include <stdbool.h>
#include "conf/conf.h"
#include "rpc/local.h"
#include "rpc/rpc.h"

struct hosts;
struct families;
struct journal;
struct access;
struct views;
struct aheads;
struct adopteds;
struct cgroups;
struct owner;
struct office;
struct master;
struct agents;
struct envs;
struct relayd;
struct stats;

struct migd {
	const struct conf *conf;
	struct rpc_tls *tls;
	struct rpc_server *server;
	struct local_server *ctl;
	struct journal *journal;
	json_t *replay_later; /* while the journal is replayed: signals, reports and calls of families that are known when it has been read */
	struct hosts *hosts;	   /* who else there is */
	struct families *families; /* who is away from here, and who is here as a guest */
	struct access *access;	   /* who may get at this host's files */
	struct views *views;	   /* mounts of other hosts' roots, for guests */
	struct aheads *aheads;	   /* nests for guests to come */
	struct adopteds *adopteds; /* families whose home this host has become lately */
	struct cgroups *cgroups;   /* NULL: this host has none that we may use */
	struct owner *owner;	   /* is this host's owner away */
	struct office *office;	   /* who is the master */
	struct master *master;	   /* what we do when it is this host */
	struct envs *envs;	   /* shared environments of this home's processes */
	struct stats *stats;	   /* what has been done so far */
	struct agents *agents;	   /* who asked here for slots on other hosts */
	char *keeper, *spritefs, *relay; /* paths of programs */
	struct relayd *relayd;	   /* the process that holds the ends of relays */
	atomic_bool lend;	   /* does this host take guests */
	atomic_bool lend_seat;	   /* not, since who sits here said so: he may say otherwise */
	_Atomic int64_t lend_until; /* seconds since 1970 when that turns back, 0: never */
	atomic_bool stopping;
	atomic_uint images;	   /* taken or sent so far */
};

/* *out is for context_close() whether it succeeds or not. */
int context_open(const struct conf *conf, struct migd **out, struct error *e);
int context_start(struct migd *m, struct error *e); /* listens: calls come in from here on */
void context_close(struct migd *m);

#endif
