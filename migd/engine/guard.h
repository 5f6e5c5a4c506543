/* SPDX-License-Identifier: Apache-2.0 */
/* Registers of a thread that are safe from our death; see guard.c. For calls that are made without the blob. */
#ifndef ENGINE_GUARD_H
#define ENGINE_GUARD_H
#include "migd/engine/core.h"

/* t is stopped. Calls of inject_raw() in it from now on: if we die, it goes on with these registers, its vector registers and t->sigmask. Nothing where that cannot be. */
void guard_up(struct eng_thread *t, const struct user_regs_struct *r);
/* Its registers have been set, or it is in the blob: nothing is left of it. */
void guard_down(struct eng_proc *p);
/* Sets in r where t makes its call, and with which stack pointer; false: it has no guard. */
bool guard_call(const struct eng_thread *t, struct user_regs_struct *r);
#endif
