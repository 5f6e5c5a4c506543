/* SPDX-License-Identifier: Apache-2.0 */
/* What writeback.c (sending, waiting) and writeback_take.c (taking) share; the rules are in writeback.c. */
#ifndef FS_CLIENT_WRITEBACK_H
#define FS_CLIENT_WRITEBACK_H
#include "fs/client/kept.h"

struct chunk {
	struct list link; /* inode.dirty or inode.flying */
	struct inode *ino;
	struct stream *st; /* held */
	uint64_t off;
	size_t len, room;
	struct keep *keep; /* holds the data */
	uint8_t *data;
	void *buf;	   /* data lies in a request's buffer */
	uint64_t lease; /* the lease_epoch that it was written under */
	uint32_t uid, gid;
	bool kill_suid, sealed;
	struct call *syncer; /* an FSYNC that waits for it, which goes along with it */
	uint64_t since;
	fuse_req_t *reqs;  /* writers who wait for it */
	int *fds;
	size_t *sizes;
	struct keep **taken;
	unsigned nreqs;
};

static inline struct kept_chunk *kept(const struct chunk *k)
{
	return (struct kept_chunk *)k->keep->data;
}

void wb_kick(struct fs *fs, struct inode *ino); /* sends what may be sent now */
void wb_chunk_done(struct call *c, int err, struct rpc_msg *out);
bool wb_chunk_wait(struct chunk *k, fuse_req_t req, size_t size, struct keep *taken); /* req is answered with the chunk; false: no memory */

#endif
