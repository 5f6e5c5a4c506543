/* SPDX-License-Identifier: Apache-2.0 */
/* Threads and processes with given numbers; see aim.c. */
#ifndef ENGINE_AIM_H
#define ENGINE_AIM_H
#include "migd/engine/core.h"

/*
 * clone3 by the leader's thread of p, so that the new one gets number `want`: its number, which is another one if somebody was faster, or -errno. args, len: a
 * struct clone_args in its memory; slot: the blob's slot the new one starts with.
 */
long clone_aimed(struct eng_proc *p, uint64_t args, size_t len, uint64_t slot, pid_t want);
/* Before another try: waits up to 100 ms for whoever has the number. */
void aim_again(pid_t want);
/* Around a fork of this daemon's own. Not with pthread_create, which does it itself. */
void aim_hold(void);
void aim_let_go(void);
#endif
