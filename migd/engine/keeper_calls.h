/* SPDX-License-Identifier: Apache-2.0 */
/* The keeper's part in calls about processes that are not here (keeper_calls.c). */
#ifndef ENGINE_KEEPER_CALLS_H
#define ENGINE_KEEPER_CALLS_H
#include <stdbool.h>
#include <sys/stat.h>
#include <sys/types.h>
#include "migd/engine/keeper.h"

/* The filter for this process and all below it, with the listener on descriptor `num`. What to poll for calls_take(), or -errno: calls are then all made here. */
int calls_start(int num);
/* A system call of the keeper's own, which the filter lets pass. */
long calls_own(long nr, long a, long b, long c, long d);
int calls_statx(int dir, const char *path, int flags, unsigned mask, struct statx *out);
/* A file of /proc as text; what cannot be read is empty. */
void calls_read(const char *path, char *text, size_t room);
/* From or to (out) the memory of a thread that waits for an answer. */
bool calls_copy(pid_t tid, uint64_t addr, void *buf, size_t len, bool out);
bool calls_waits(uint64_t id); /* has it not been killed? */
pid_t calls_process(pid_t tid); /* of a thread, in the numbers of this namespace */
void calls_respond(uint64_t id, int64_t ret, bool as_it_stands);
/* The listener is readable: answers what is about somebody here, gives the rest to `ask`. here: is that number one of the family's on this host (negative: a group)? */
void calls_take(bool (*here)(pid_t pid), void (*ask)(const struct keeper_msg *m, const void *data));
void calls_answer(const struct eng_foreign *c, int got); /* got: a descriptor that came along, or -1 */
/* migd was restarted: what it owes an answer for is asked again. */
void calls_again(void (*ask)(const struct keeper_msg *m, const void *data));

#endif
