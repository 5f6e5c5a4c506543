/* SPDX-License-Identifier: Apache-2.0 */
/* The keeper's part in calls about processes that are not here (keeper_calls.c). */
#ifndef ENGINE_KEEPER_CALLS_H
#define ENGINE_KEEPER_CALLS_H
#include <stdbool.h>
#include <sys/types.h>
#include "migd/engine/keeper.h"

/* The filter for this process and all below it, with the listener on descriptor `num`. 0 or -errno: calls are then all made here. */
int calls_start(int num);
/* A system call of the keeper's own, which the filter lets pass. */
long calls_own(long nr, long a, long b, long c, long d);
/* The listener is readable: answers what is about somebody here, gives the rest to `ask`. here: is that number one of the family's on this host (negative: a group)? */
void calls_take(bool (*here)(pid_t pid), void (*ask)(const struct keeper_msg *m));
void calls_answer(const struct eng_foreign *c);
/* migd was restarted: what it owes an answer for is asked again. */
void calls_again(void (*ask)(const struct keeper_msg *m));

#endif
