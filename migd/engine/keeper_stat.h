/* SPDX-License-Identifier: Apache-2.0 */
/* The keeper's part in stat(2) of a family that remembers device numbers of its home (keeper_stat.c). */
#ifndef ENGINE_KEEPER_STAT_H
#define ENGINE_KEEPER_STAT_H
#include <stdbool.h>
#include <sys/types.h>

/* fstat, stat, lstat, newfstatat, statx */
enum { STAT_CALLS = 5 };
extern const unsigned stat_calls[STAT_CALLS];

/* The family's table (devices.h), which comes as a packet of its own from `sock`. 0 or -errno: no stat is answered here then. */
int stat_table(int sock, int len);
bool stat_wanted(void);
/* Once the filter is on: threads take the notifications of `listener`; those about other calls are written, whole, to the descriptor that is returned. -errno: none was started. */
int stat_start(int listener);
/* That thread is about to stop for its tracer, and its call may wait for a file server: it makes the call again when it runs on. */
void stat_hurry(pid_t tid);
#endif
