/* SPDX-License-Identifier: Apache-2.0 */
/* What the records of keep.h say: written by the file that owns the thing, read back by resume.c. Change LAYOUT in keep.c with them. */
#ifndef FS_CLIENT_KEPT_H
#define FS_CLIENT_KEPT_H
#include <stdint.h>
#include "fs/client/client.h"
#include "fs/client/keep.h"

/* KEEP_SERVER, by index; in place. lease_epoch before epoch, and both after what follows from them: see resume.c. */
struct kept_server {
	_Atomic uint64_t epoch, lease_epoch, recovered, recalled_seq;
	_Atomic uint32_t lease_ms;
	uint32_t port;
	char name[256], host[256];
};

/* KEEP_DOMAIN, by index */
struct kept_domain {
	uint64_t id;
	uint32_t home, mig_port, attached, handle_len;
	uint32_t server; /* its index + 1; 0: none */
	uint32_t number; /* of the node of its root */
	uint8_t handle[FS_HANDLE_MAX];
	char prefix[];
};

/* KEEP_PNODE, by node id: its path, with its NUL */

/* KEEP_INODE, by node id */
struct kept_inode {
	_Atomic uint64_t nlookup; /* in place */
	_Atomic int32_t wb_error; /* in place */
	uint32_t domain, type, handle_len;
	uint8_t handle[];
};

/* KEEP_STREAM, by fh */
struct kept_stream {
	uint64_t ino, open, epoch, unlock_owner;
	uint64_t told; /* the request whose answer told the kernel of it */
	int32_t flags;
	uint32_t uid, gid, ngroups, nowner;
	uint64_t flock_owner, expect, at;
	uint8_t token[HAND_TOKEN], stream[HAND_TOKEN];
	uint8_t dir, direct, caches, released, unlock, shared, claimed, offered, tail;
	uint64_t offer_pos;
	uint64_t list[]; /* owners, then groups */
};

/* KEEP_LOCK, by a number */
struct kept_lock {
	uint64_t ino, owner, start, end, fh;
	uint32_t type, pid, flock, pad;
	uint8_t token[HAND_TOKEN];
};

/* KEEP_CLAIM, by its open */
struct kept_claim {
	uint64_t ino, pos;
	uint32_t flags, shared, uid, gid, ngroups;
	int32_t tid;
	uint8_t token[HAND_TOKEN], stream[HAND_TOKEN];
	uint32_t groups[];
};

/* KEEP_CHUNK, by a number that grows with the order of writing */
struct kept_chunk {
	uint64_t ino, fh, off;
	uint64_t lease;	      /* the lease_epoch under which it was written */
	uint64_t seq;	      /* of the call that carries it, 0: not sent; in place */
	_Atomic uint64_t len; /* in place */
	uint32_t uid, gid, kill_suid;
	uint32_t data; /* where they begin, from the record's data on */
};

/* KEEP_CALL, by the request's number; an open that no request is for by a number of ours and this bit, which no request has */
#define KEPT_CALL_OURS (1ull << 63)
struct kept_call {
	uint64_t seq; /* in place; 0: never sent */
	uint32_t op, domain; /* domain: its index */
};

/* KEEP_OP, by number: a call in a dirq. With the highest bit set, by the first number of it: a batch that is being sent. */
struct kept_op {
	uint64_t seq;	       /* of a batch; in place; 0: not sent */
	_Atomic uint64_t done; /* of a batch, in place: its server's calls up to this number were executed, and all that the answer says is noted */
	uint32_t op, n, len;   /* n: how many are in the batch */
	uint32_t server;       /* of a batch: index */
	uint64_t lease;	       /* the lease_epoch under which it was answered */
	uint64_t ino, ino2, child, fh, changes[4]; /* node ids; changes: what it concerns */
	uint64_t unique;       /* of the request that it answers, 0: none */
	uint64_t chunk;	       /* of a write: the key of its KEEP_CHUNK */
	uint8_t msg[];	       /* the request, without handles */
};

/* KEEP_TAKEN, by the request's number: its bytes are in the chunk when that is there and at least `len` long, or `applied` */
struct kept_taken {
	uint64_t chunk, len;
	uint32_t size;
	_Atomic uint32_t applied;
};

#endif
