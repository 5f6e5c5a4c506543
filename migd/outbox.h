/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What one side of an away family has to tell the other, in order and exactly once: signals from the home to where the family runs, reports from there to the
 * home. One thread sends one message at a time and repeats it until it is answered; the receiver knows it again by its number.
 * While a family is moving, signals wait until it is decided where they go.
 *
 * Locking: one lock inside, taken before nothing else.
 */
#ifndef MIGD_OUTBOX_H
#define MIGD_OUTBOX_H
#include <jansson.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "rpc/mig.pb-c.h"

struct family;
struct outbox;

int outbox_new(struct family *f, struct outbox **out);
void outbox_free(struct outbox *o); /* after outbox_stop() */
void outbox_stop(struct outbox *o); /* nothing more is sent; idempotent; does not wait */

/*
 * taker, nr: the hollow's thread that took it and its number there (0: none). It is in the journal before it is on its way. One that was put there by a
 * predecessor which died is known again by those two and passed over. *seq: its number on the way, 0 when it was passed over.
 */
int outbox_signal(struct outbox *o, pid_t pid, pid_t tid, const siginfo_t *info, pid_t taker, uint32_t nr, uint64_t *seq);
/* From the journal: a signal of before a restart. done: it has arrived. */
void outbox_replay(struct outbox *o, const json_t *record);
int outbox_report(struct outbox *o, const Sprite__Mig__ReportReq *r); /* copied; family, gen and seq are filled in */
/* Holds back (true) or goes on (false). */
void outbox_hold(struct outbox *o, bool hold);
/* Waits until all has been answered. -ETIMEDOUT. */
int outbox_flush(struct outbox *o, int timeout_ms);
/* Home: the old guest host has delivered signals up to seq: forget them. */
void outbox_delivered(struct outbox *o, uint64_t seq);
/* Takes all undelivered signals out, for delivery here at home; only then are they noted as done: after a crash they may come twice, but they come. */
void outbox_deliver(struct outbox *o, void (*deliver)(const struct family *f, pid_t pid, pid_t tid, siginfo_t *info));
/* Held back: there is something to deliver, and no message is on its way any more. */
bool outbox_waiting(struct outbox *o, int timeout_ms);
uint64_t outbox_last_seq(struct outbox *o);

#endif
