/* SPDX-License-Identifier: Apache-2.0 */
/* The keeper's part in connect(2) to socket files of the home (keeper_connect.c). */
#ifndef ENGINE_KEEPER_CONNECT_H
#define ENGINE_KEEPER_CONNECT_H
#include <linux/seccomp.h>
#include "migd/engine/foreign.h"
#include "migd/engine/keeper_calls.h"

/* What to poll for connect_ask(), or -errno: all connect here. */
int connect_start(void);
/* A call of that process: made as it stands, or asked for later. */
void connect_take(const struct seccomp_notif *n, pid_t process);
void connect_ask(void (*ask)(const struct keeper_msg *m));
void connect_again(void (*ask)(const struct keeper_msg *m));
/* got: the end that the caller's descriptor becomes; -1: none. */
void connect_answer(int listener, const struct eng_foreign *c, int got);

#endif
