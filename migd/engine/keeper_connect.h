/* SPDX-License-Identifier: Apache-2.0 */
/* The keeper's part in connect(2) and sendto(2) to socket files of the home (keeper_connect.c). */
#ifndef ENGINE_KEEPER_CONNECT_H
#define ENGINE_KEEPER_CONNECT_H
#include <linux/seccomp.h>
#include "migd/engine/foreign.h"
#include "migd/engine/keeper_calls.h"

/* What to poll for connect_ask(), or -errno: all connect here. */
int connect_start(void);
/* One that may have a socket file's name in it? */
bool connect_is(int nr);
/* Made as it stands, or asked for later. */
void connect_take(const struct seccomp_notif *n);
typedef void (*connect_ask_fn)(const struct keeper_msg *m, const void *data);
void connect_ask(connect_ask_fn ask);
void connect_again(connect_ask_fn ask);
/* got: the end that the caller's descriptor becomes; -1: none. */
void connect_answer(int listener, const struct eng_foreign *c, int got);

#endif
