/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The relays of a family, as migd sees them: they live in sprite-relay (relay/wire.h), a process of this host that outlives migd; these are questions to it.
 * What each does is told in relay/hub.h. A family without a relay costs no question.
 *
 * Locking: none that a caller needs to know; all of these may block for a moment, drain and quiesce for as long as they are told.
 */
#ifndef MIGD_RELAYS_H
#define MIGD_RELAYS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "conf/error.h"
#include "migd/relay/hub.h" /* kinds and frames */

struct migd;
struct relays;
struct relayd;

/* Finds the sprite-relay of this host, or starts one. */
int relayd_open(struct migd *m, struct relayd **out, struct error *e);
void relayd_close(struct relayd *d);
/* The journal has been read, and all families have asked for theirs: what is left belongs to nobody. */
void relayd_sweep(struct relayd *d);

int relays_new(struct migd *m, bool home, struct relays **out);
void relays_close(struct relays *r); /* the family is over: lets go of all ends */
void relays_free(struct relays *r);
/* All of these: -ETIME: sprite-relay does not answer.
 * What they are known by. gen: guest: the generation. Before any of the following. */
void relays_name(struct relays *r, const char *family, uint64_t gen);
/* After a restart: takes up those that are there. */
void relays_find(struct relays *r);
size_t relays_count(const struct relays *r);

int relays_add(struct relays *r, uint64_t id, enum relay_kind kind, int fd, pid_t holder); /* fd is ours */
/* Of the family that is away in generation gen: one more, which it makes there. */
int relays_bear(struct relays *r, uint64_t gen, uint64_t id, enum relay_kind kind, int fd);
int relays_original(struct relays *r, uint64_t id);
int relays_make(struct relays *r, uint64_t id, enum relay_kind kind, const struct relay_net *net); /* net: of the network, else NULL */
int relays_make_born(struct relays *r, uint64_t id, enum relay_kind kind); /* of relays_bear(); the same one again, until relays_taken() */
void relays_taken(struct relays *r, uint64_t id);
int relays_whose(struct relays *r, uint64_t ino, uint64_t *id);
void relays_reset(struct relays *r, uint64_t gen);
void relays_unread(struct relays *r);
void relays_left(struct relays *r, pid_t pid, bool ended);
void relays_back(struct relays *r, pid_t pid);
void relays_down(struct relays *r);
int relays_drain(struct relays *r, int timeout_ms); /* -ENOTCONN: home cannot be reached */
int relays_hold(struct relays *r, int timeout_ms);
int relays_quiesce(struct relays *r, int timeout_ms);
void relays_resume(struct relays *r);

/*
 * The link: a socket that carries frames both ways until either side closes it, or -errno. Of a home whose hub is lost (sprite-relay was killed) a new one says so
 * to the guest host.
 */
int relays_link(struct relays *r, uint64_t gen);
int relay_frame_send(int link, const struct relay_frame *f);
/* 1: *f, whose data is in buf; 0: closed; -errno */
enum { RELAY_FRAME_BUF = (64 << 10) + 64 };
int relay_frame_recv(int link, void *buf, struct relay_frame *f);

#endif
