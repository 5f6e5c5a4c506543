/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What must survive a kill -9 of this process: records in one memfd, which the holder keeps open (holder.h) and the next spritefs maps.
 *
 * A record is there or it is not: keep_commit() and keep_free() are one store each, in the order of the program, and a new version of a record is
 * committed before the old one is freed (of two with the same kind and key the later counts). Words of a committed record may be changed in
 * place where every value in between is right. There is no guard against a crash of the machine: then the kernel's side is gone too.
 *
 * Without a holder the same records lie in plain memory. Functions are for any thread; the lock inside is the last of all.
 */
#ifndef FS_CLIENT_KEEP_H
#define FS_CLIENT_KEEP_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum keep_kind {
	KEEP_NONE, /* free, or not committed yet */
	KEEP_DOMAIN,
	KEEP_SERVER,
	KEEP_PNODE,
	KEEP_INODE,
	KEEP_STREAM,
	KEEP_LOCK,
	KEEP_CHUNK, /* written here, not at the server yet */
	KEEP_CALL,  /* a call under way that changes something, for a request of the kernel */
	KEEP_TAKEN, /* a write(2) that is being taken into a chunk */
	KEEP_OP,    /* dirq.c */
	KEEP_PIPE,  /* pipe_move.c: a process that moves */
	KEEP_CLAIM, /* hand.c: looked up, not opened yet */
	KEEP_KINDS,
};

struct keep {
	_Atomic uint32_t kind;
	uint32_t len;	  /* of data */
	uint64_t key;
	uint64_t version; /* grows over all records */
	uint32_t room;	  /* of data */
	uint32_t place;	  /* keep.c */
	uint8_t data[];
};

#define KEEP_INIT_MAX 128

/* What there is one of. Words that change while we run are changed in place. */
struct keep_head {
	uint64_t magic, layout;
	uint64_t epoch;		   /* clock_epoch() of the first of us: what the servers know this mount by */
	_Atomic uint64_t next_seq; /* of rpc */
	_Atomic uint64_t next_id, next_fh, next_ticket, next_version;
	uint64_t restarts;
	uint32_t nclones;
	uint32_t init_len; /* the kernel's INIT request, 0: not mounted yet */
	uint8_t init[KEEP_INIT_MAX];
	char mount[4096];
};

/* fd -1: a new store; else one of an earlier spritefs. -errno; -EPROTO: it is of another version of the program. */
int keep_open(int fd);
int keep_fd(void);
struct keep_head *keep_head(void);
/* Room for `len` bytes, not committed: gone after a crash. NULL: the store is full. */
struct keep *keep_new(size_t len);
void keep_commit(struct keep *k, enum keep_kind kind, uint64_t key);
/* keep_new(), copy, commit; then frees `old` (NULL: none). NULL: the store is full, `old` stays as it was. */
struct keep *keep_put(struct keep *old, enum keep_kind kind, uint64_t key, const void *bytes, size_t len);
void keep_free(struct keep *k); /* NULL is allowed */
/* At the start: every record of that kind, by rising key. fn may free it. */
void keep_each(enum keep_kind kind, void (*fn)(void *arg, struct keep *k), void *arg);
size_t keep_count(enum keep_kind kind); /* walks: for tests and status */

#endif
