/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The holder: sprite-holder (holder_main.c), the parent of spritefs. It keeps descriptors open that the mount lives by - /dev/fuse and its clones, the
 * memfd of keep.h, the lock file - and starts spritefs again when that dies by a signal. They talk over a socket (SOCK_SEQPACKET) whose number is in
 * $SPRITE_HOLDER, by the messages of fs/hold.h.
 *
 *	holder -> spritefs	HOLD_KEEP for everything it holds, then HOLD_END
 *	spritefs -> holder	HOLD_ALIVE (key: a thread that never does anything), HOLD_KEEP, HOLD_DROP, HOLD_READY (in service), HOLD_BYE (key: exit
 *				status; ends by itself)
 */
#ifndef FS_CLIENT_HOLDER_H
#define FS_CLIENT_HOLDER_H
#include <stdbool.h>
#include <stdint.h>
#include "fs/hold.h"

#define HOLD_ENV    "SPRITE_HOLDER"
#define HOLD_UP_ENV "SPRITE_HOLDER_UP" /* a descriptor: a zero byte when spritefs is ready, for who waits for --background */

enum {
	HOLD_DEV = 1, /* /dev/fuse of the mount */
	HOLD_STATE,
	HOLD_LOCK,
	HOLD_CLONE = 16,	/* and following */
	HOLD_PIPE = 1ull << 32, /* and following: pipe_agent.c's */
};

/* In spritefs, before anything else is opened. 0, or -errno when the holder does not speak. Without a holder: 0. */
int hold_begin(void);
bool hold_active(void);
/* What an earlier spritefs gave to keep, close-on-exec; -1: nothing of that key. A second time: -1. */
int hold_take(uint64_t key);
/* It stays open here too. Another one of that key is closed there. Any thread. */
void hold_keep(uint64_t key, int fd);
void hold_drop(uint64_t key);
void hold_ready(void);
void hold_bye(int status);
/* Becomes the holder of a new spritefs with these arguments; returns when there is none: -errno. `up`: see HOLD_UP_ENV; -1: none. */
int hold_exec(char **argv, int up);

#endif
