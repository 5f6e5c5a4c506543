/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Contents of files that are here before the kernel asks for them: fetched around a small read, or together with a directory. Bounded; what was used
 * least goes first, and what the kernel has been given whole goes at once, as the kernel keeps it.
 *
 * It knows nothing of leases: its owner puts and gets under the lock of the file (inode.lock), where DATA is held, and forgets in the same place when
 * DATA goes or when a change of our own begins and ends. An answer that was under way meanwhile is told from a good one by the mark that its asker took.
 *
 * Locking: blocks.lock, the last of all, for all but `changed`, which has the lock of the file.
 */
#ifndef FS_CLIENT_BLOCKS_H
#define FS_CLIENT_BLOCKS_H
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>
#include "conf/hash.h"
#include "conf/list.h"

#define BLOCK_SIZE (64u << 10)
#define BLOCKS_MAX 17 /* of one answer: 1 MiB, wherever it begins */

struct block;

struct blocks {
	pthread_mutex_t lock;
	struct hash by_no; /* (file, number) -> struct block */
	struct list lru;   /* used last at the end */
	size_t bytes, bound;
	atomic_uint_fast64_t changes; /* of all files, that were told to blocks_forget() */
};

/* A file's part. */
struct blocks_of {
	struct blocks *all;
	uint64_t id;
	uint64_t changed;
	struct list list;
	atomic_uint n;
	atomic_uint asked, served; /* for whoever decides whether fetching ahead pays here: blocks put, answers given */
};

/* What blocks_get() found, to be given back when it has been used. */
struct blocks_held {
	struct block *block[BLOCKS_MAX];
	struct iovec iov[BLOCKS_MAX];
	int n;
	size_t len;
};

void blocks_init(struct blocks *b, size_t bound);
void blocks_of_init(struct blocks_of *of, struct blocks *b, uint64_t id);
/* To be taken before the contents are asked for. */
uint64_t blocks_mark(struct blocks *b);
/*
 * Keeps what was answered: `len` bytes of the file from `off` on, which begins a block; `end`: the file ends behind them. The last block is kept only if it
 * is whole or ends the file. `given`: so many of them the kernel gets without asking here again. Of no effect when the file was changed since `mark`.
 */
void blocks_put(struct blocks_of *of, uint64_t mark, uint64_t off, const struct iovec *iov, int niov, size_t len, bool end, size_t given);
/* All of these bytes, or all up to the end of the file; false: not all are here. */
bool blocks_get(struct blocks_of *of, uint64_t off, size_t len, struct blocks_held *h);
void blocks_give(struct blocks *b, struct blocks_held *h);
/* Nothing that was read until now counts any more. */
void blocks_forget(struct blocks_of *of);

#endif
