/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The other hosts. The list is the prefix table: each workstation has registered its own root as /hosts/NAME together with the port of its migd; the local
 * spritefs knows the table (control socket, verb "prefixes"). What a host can do right now it says itself (rpc Status).
 *
 * Hosts are never freed before hosts_close(): a pointer may be kept. Locking: one lock inside; any thread.
 */
#ifndef MIGD_HOSTS_H
#define MIGD_HOSTS_H
#include <stdbool.h>
#include <stdint.h>
#include "migd/context.h"
#include "migd/mig_rpc.h"

struct host;
struct hosts;

int hosts_open(struct migd *m, struct hosts **out);
void hosts_close(struct hosts *h);

/* Reads the table again if it is older than max_age_ms. -errno: the local spritefs does not answer; what was known before stays. */
int hosts_refresh(struct hosts *h, int max_age_ms, struct error *e);
/* NULL with e filled: no such host (ENXIO), or the list cannot be had. */
struct host *hosts_find(struct hosts *h, const char *name, struct error *e);
/* By what is known already, nobody is asked: NULL: not known. */
struct host *hosts_known(struct hosts *h, const char *name);
/* Does the table say that it runs no migd? */
bool host_without_migd(struct host *h);
const char *host_name(const struct host *h);
/* Real time, ns: of its last answer to hosts_status(), or when it did not answer first; 0: never asked. */
int64_t host_answered(struct host *h);
/* Where its migd listens. */
void host_addr(struct host *h, struct conf_addr *out);
struct rpc_channel *host_channel(struct host *h);	/* control messages */
struct rpc_channel *host_bulk_channel(struct host *h); /* images and relays */
/* May it be tried to connect to it for an image (direct.h)? Not within a minute of a failure. */
bool host_direct(struct host *h);
void host_direct_failed(struct host *h);

/* One call with its words: 0, a negative errno of the transport, or -(errno of the reply) with the words in e. */
int host_answers(struct host *h, struct error *e); /* does its migd? It may be starting, and our channel waiting to try again */
int host_call(struct host *h, enum mig_method method, const ProtobufCMessage *in, int deadline_ms, struct rpc_msg *out, struct error *e);
/* The same for a call that takes as long as it takes: ended only when the host does not answer other calls meanwhile. */
int host_call_long(struct host *h, enum mig_method method, const ProtobufCMessage *in, struct rpc_msg *out, struct error *e);
/* Did it fail because nobody knows what happened there? (As opposed to: the other side said no.) */
bool host_lost(int err);

struct host_status {
	struct host *host;
	int err; /* of the status call: -errno */
	Sprite__Mig__StatusRep *rep; /* NULL when err */
	struct rpc_msg msg;
};
struct hosts_ask {
	bool guests; /* and sources of idle detection */
	bool stats;
	const char *const *only; /* names, ended by NULL; NULL: all. Who is not known is left out */
};
/* Asks all hosts (or those named) at once; who has fallen out of the table within a day is down without a question; waits at most timeout_ms. *out: malloc'ed array in order of names, this host included. */
int hosts_status(struct hosts *h, const struct hosts_ask *q, int timeout_ms, struct host_status **out, size_t *n, struct error *e);
void hosts_status_free(struct host_status *s, size_t n);
/* What this host says of itself. Fields point into `store`, which the caller frees with host_own_free(). */
Sprite__Mig__StatusRep *host_own_status(struct migd *m, const struct hosts_ask *q);
void host_own_free(Sprite__Mig__StatusRep *rep);

#endif
