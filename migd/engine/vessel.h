/* SPDX-License-Identifier: Apache-2.0 */
/* Vessels: empty processes ready to be filled. vessel.c makes them, revive.c adapts those that are there, fill.c fills them. */
#ifndef ENGINE_VESSEL_H
#define ENGINE_VESSEL_H
#include "migd/engine/core.h"
#include "rpc/image.pb-c.h"

typedef Sprite__Image__ImgHead img_head;
typedef Sprite__Image__ImgProc img_proc;

/* vessel.c. All: 0 or -errno with e filled. */
int vessel_root(struct eng_family *f, const img_proc *m, struct error *e);
/* The outer number of the thread vtid of p: 0, or -ESRCH. */
int find_tid(struct eng_proc *p, pid_t vtid, pid_t *tid);
int vessel_child(struct eng_family *f, struct eng_proc *parent, const img_proc *m, struct error *e);
int vessel_thread(struct eng_proc *p, unsigned slot, pid_t vtid, struct error *e);
int vessel_credentials(struct eng_proc *p, const img_proc *m, struct error *e); /* for whom it opens files */
void vessel_numbers(struct eng_proc *p, const img_proc *m);
int vessel_join(struct eng_family *f, const img_proc *m, struct error *e); /* its group or session, once all are there */
int vessel_zombie(struct eng_family *f, const img_head *h, const img_proc *m, struct error *e); /* and orphans in its session */
int vessel_orphan(struct eng_family *f, const img_head *h, struct eng_proc *by, const img_proc *m, struct error *e); /* in the session of `by` */
const img_proc *head_find(const img_head *h, pid_t vpid); /* NULL: it is none of the image's */
int zombie_note(struct eng_family *f, const struct zombie *z);

/* revive.c */
int vessels_make(struct eng_family *f, const img_head *h, struct error *e); /* all of the head that are not there yet */
int vessels_reconcile(struct eng_family *f, const img_head *h, struct error *e);

#endif
