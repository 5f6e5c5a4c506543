/* SPDX-License-Identifier: Apache-2.0 */
/* A family whose home this host becomes; see adopt.c. */
#ifndef ENGINE_ADOPT_H
#define ENGINE_ADOPT_H
#include "migd/engine/vessel.h"

/*
 * A process of this host with the number, group and session of the family's first, asleep and with nothing open but 0; child of init. It ends when *tie is closed
 * before it is caught. 0 or -errno with e filled.
 */
int adopt_seat(const img_proc *m, int *tie, struct error *e);
/* Has the one whom it is taken in for these rights here? Also true of a family that is not adopted. */
bool adopt_may(const struct eng_family *f, uint32_t uid, uint32_t gid, const uint32_t *groups, size_t n);
/* Root's, or not adopted: then what puts it before others here is believed. */
bool adopt_privileged(const struct eng_family *f);
int adopt_refuse(pid_t vpid, struct error *e); /* if not: -EPERM */
/* The family's clocks were never later than ours are now: 0, else -EOPNOTSUPP with e filled. */
int adopt_clock(const img_head *h, struct error *e);
#endif
