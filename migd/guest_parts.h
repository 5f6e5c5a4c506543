/* SPDX-License-Identifier: Apache-2.0 */
/* What guest*.c share, and nobody else uses. */
#ifndef MIGD_GUEST_PARTS_H
#define MIGD_GUEST_PARTS_H
#include "migd/guest.h"
#include "migd/mig_rpc.h"

/* In the actor: its processes end, and its nest. */
int guest_actor_end(struct family *f, void *unused);
/* In the actor: when all that the engine has to tell has been told: is it over? (Perhaps all has ended while nobody was here to hear of it.) */
int guest_actor_caught_up(struct family *f, void *unused);
/* In the actor: what a restarted migd must know to find the nest again. */
int guest_actor_journal(struct family *f, void *unused);
/* The same; e: why it could not be written. */
int guest_note(struct family *f, struct error *e);
/* guest_adopt.c. May this host become its home? */
int guest_may_be_adopted(struct migd *m, const Sprite__Mig__PrepareReq *r, struct error *e);
/* In the actor: instead of a nest; as the user that its home says it is of, for this host knows what he may here. */
int guest_adopt(struct family *f, const struct eng_hooks *hooks, struct error *e);
/* It runs, and the engine has let go of it. guest_forget() comes next. */
void guest_note_adopted(struct family *f);
/* It has been, lately: its old home may ask again. */
bool guest_is_adopted(struct migd *m, const char *id, uint64_t gen, const char *home);
void guest_event(struct family *f, const struct eng_event *ev);
/* Takes an event of the home and has the actor do what the table says. Takes over the reference; rq may be NULL (the answer to an enquiry). */
void guest_decide(struct family *f, struct rpc_request *rq, enum mig_event ev);
bool guest_told_to_freeze(const struct family *f);
#endif
