/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket of migd, for mig: one verb, one function. */
#ifndef MIGD_CTL_H
#define MIGD_CTL_H
#include "migd/context.h"
#include "migd/proc.h"

void ctl_handler(void *ctx, struct local_conn *c, const struct local_cred *who, json_t *request);

/* ctl_host.c: false: not one of its verbs */
bool ctl_host(struct migd *m, struct local_conn *c, const struct local_cred *who, json_t *rq, const char *verb);

/* Does this home's policy (migd.exports) let it leave? 0 or -EPERM. */
int ctl_may_leave(struct migd *m, const struct proc_info *p, struct error *e);

/* ctl_run.c */
void ctl_run(struct migd *m, struct local_conn *c, const struct local_cred *who, json_t *rq);
void ctl_went(struct migd *m, struct local_conn *c, const struct local_cred *who, json_t *rq);
/* Picks a host for a process of `uid` that has `memory` bytes: its name (malloc'ed), or NULL with the reason. */
char *ctl_pick(struct migd *m, uid_t uid, uint32_t priority, uint64_t memory, const char *not_host, uint64_t *slot, struct error *e);
#endif
