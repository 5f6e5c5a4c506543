/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors that outlive the process that uses them, kept open by sprite-holder: spritefs' by its parent (client/holder.h), what spritefsd locks in homes by
 * a child (server/lock_keep.c). Here are the messages, one a datagram (SOCK_SEQPACKET), with a descriptor where there is one, and the store of what is kept.
 *
 *	who keeps -> the next user	HOLD_KEEP for everything that is kept, then HOLD_END
 *	the user -> who keeps		HOLD_KEEP, HOLD_DROP, and what is in client/holder.h
 */
#ifndef FS_HOLD_H
#define FS_HOLD_H
#include <stddef.h>
#include <stdint.h>
#include "conf/hash.h"

enum hold_op { HOLD_KEEP = 1, HOLD_DROP, HOLD_READY, HOLD_BYE, HOLD_END, HOLD_ALIVE };
enum { HOLD_BYTES_MAX = 512 };
struct hold_msg {
	uint32_t op, len; /* of `bytes`: what the user wants to be told of the descriptor again */
	uint64_t key;
	unsigned char bytes[HOLD_BYTES_MAX];
};

/* `fd` -1: none. It stays open here. -errno; waits while the other does not read, as long as the socket allows. */
int hold_send(int sock, uint32_t op, uint64_t key, const void *bytes, size_t len, int fd);
/* *fd is close-on-exec, or -1. -EPIPE: nothing more will come; -EPROTO: that was no message; other -errno of recvmsg(2). */
int hold_receive(int sock, struct hold_msg *m, int *fd, int flags);

struct hold_store {
	struct hash kept;
};

/* Takes `fd` over. What was kept under that key is closed. */
void hold_store_keep(struct hold_store *s, const struct hold_msg *m, int fd);
void hold_store_drop(struct hold_store *s, uint64_t key);
int hold_store_fd(const struct hold_store *s, uint64_t key); /* -1: none; still the store's */
/* Everything, and HOLD_END. */
int hold_store_give(const struct hold_store *s, int sock);
void hold_store_clear(struct hold_store *s);

/* Where sprite-holder is: beside this program. -errno. */
int hold_program(char *out, size_t room);
/* Sets this process' oom_score_adj. before: NULL, or what it was. */
void hold_oom(const char *adj, char before[16]);
#define HOLD_SPARED "-900" /* who keeps must not die, and is small */

/*
 * sprite-holder --keep PATH: keeps what the user at the other end of standard input gives it. When that has ended, the next one finds it all by the socket
 * PATH (descriptor 3, which listens), for HOLD_ALONE_NS. Ends when there is no user and nothing, or no such socket, any more. Returns an exit status.
 */
int hold_serve(const char *path);
#define HOLD_ALONE_NS 60000000000ull

#endif
