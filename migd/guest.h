/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest host's side of a family that is here: prepares for it, fills it, runs it when the home says so, tells the home what becomes of it, and
 * forgets it. It decides nothing: see the tables in migrate.h.
 */
#ifndef MIGD_GUEST_H
#define MIGD_GUEST_H
#include "migd/family.h"
#include "rpc/rpc.h"

/* Handlers of sprite.mig */
void guest_prepare(void *ctx, struct rpc_request *rq);
void guest_send(void *ctx, struct rpc_request *rq);
void guest_release(void *ctx, struct rpc_request *rq);
void guest_go(void *ctx, struct rpc_request *rq);
void guest_abort(void *ctx, struct rpc_request *rq);
void guest_signal(void *ctx, struct rpc_request *rq);

/* Under f->lock: takes it off the CPU, or lets it run on, by its cgroup. At once; -errno. begin: does not wait for the kernel to have done it. */
int guest_freeze(struct family *f, bool frozen);
void guest_freeze_begin(struct family *f);

/* A person decides what the home, which cannot be asked, would: it runs here, or what is here of it ends. */
int guest_resolve(struct family *f, bool run, struct error *e);

/* Every second: asks the home what to do with families in doubt. */
void guests_tick(struct migd *m);
/* One record of the journal, at start; after it perhaps the number of the last signal that was delivered. */
void guest_replay_heard(struct migd *m, const json_t *r);
void guest_replay(struct migd *m, const json_t *record);
/* Families whose home this host became lately (guest_adopt.c); and their records. */
int adopteds_open(struct adopteds **out);
void guest_replay_adopted(struct migd *m, const json_t *r);
/* When all of it has been read: ends what is here of guests that it does not speak of. */
void guests_replayed(struct migd *m);

/* ---- for transfer.c ---- */
/* In the actor: nest and vessels from the head of the image. */
int guest_nest(struct family *f, int fd, const struct eng_hooks *hooks, struct error *e);
/* Nothing of it is here any more: removes the record, lets go of the view. */
void guest_forget(struct family *f);
#endif
