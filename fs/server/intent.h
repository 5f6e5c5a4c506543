/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log of intents: what a change is about, written down just before it is made. A client repeats a call that was not answered under the same
 * sequence number; within one run rpc's reply cache answers it, after a restart this log tells what the call had meant, and the handler looks whether it was done: else a
 * rename that was made, and whose answer was lost with the server, would be answered ENOENT.
 *
 * The log lies in the page cache when the server is killed, and is not synced: after a crash of the machine it is as good as the changes are that it
 * speaks of. Two files: when the new one is full it becomes the old one. Records of the last run are read at the start.
 *
 * Record: u32 magic, u16 method, u16 length of the peer's name, u64 epoch, seq, dev, ino, extra, then the name, (u8 length, handle); little-endian; u32 check
 * at the end. Parts of a batch (batch.c) have a second record when they are done, which takes the place of the first: method | INTENT_DONE, extra is what
 * was answered, and the handle of what was made. It is written with the intent of the next part: until that is there, nothing can have undone the effect of
 * the first one, which tells as much.
 */
#ifndef FS_SERVER_INTENT_H
#define FS_SERVER_INTENT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define INTENT_FILE_MAX	  (8u << 20)
#define INTENT_HANDLE_MAX 160
#define INTENT_DONE	  0x8000

struct intents;
struct intent {
	uint16_t method;
	uint64_t dev, ino; /* the inode that it is about; 0: none */
	uint64_t extra;	   /* append: where it was to land; INTENT_DONE: errno */
	uint16_t handle_len;
	unsigned char handle[INTENT_HANDLE_MAX]; /* read and written as far as handle_len says */
};

/* Reads what is in `dir` (intents.old, intents), then goes on writing there. NULL with errno set. */
struct intents *intents_open(const char *dir);
void intents_close(struct intents *t);
/* Any thread. Failing to write is worth a warning, not a refusal. */
void intents_put(struct intents *t, const char *peer, uint64_t epoch, uint64_t seq, const struct intent *in);
/* Records that need not be in the log before what is done next: kept, and written with the next ones in one go. */
struct intent_held {
	size_t n;
	unsigned char b[1536];
};
void intents_hold(struct intents *t, struct intent_held *h, const char *peer, uint64_t epoch, uint64_t seq, const struct intent *in);
void intents_flush(struct intents *t, struct intent_held *h);
/* The record of the last run with this number, of this method. Taken out: a call is resolved once. */
bool intents_take(struct intents *t, const char *peer, uint64_t epoch, uint64_t seq, uint16_t method, struct intent *out);
size_t intents_left(struct intents *t);

#endif
