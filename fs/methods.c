/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of methods. `mutates` calls are executed once (reply cache); the others may be repeated freely: reads, locks (taking a lock
 * twice is taking it once) and the calls that announce or renew.
 */
#include "fs/methods.h"

#define METHOD(n, k, mut, blk, i, o)                                                                         \
	{.name = "/sprite.fs/" n,                                                                            \
		.kind = k,                                                                                   \
		.mutates = mut,                                                                              \
		.bulk = blk,                                                                                 \
		.in = &sprite__fs__##i##__descriptor,                                                        \
		.out = &sprite__fs__##o##__descriptor}
#define ASK(n, i, o)	METHOD(n, RPC_UNARY, false, false, i, o)
#define CHANGE(n, i, o) METHOD(n, RPC_UNARY, true, false, i, o)
#define BULK(n, i, o)	METHOD(n, RPC_UNARY, false, true, i, o)

const struct rpc_method fs_methods[FS_NOPS] = {
	[FS_PREFIXES] = BULK("Prefixes", prefixes_req, prefixes_rep),
	[FS_REGISTER] = ASK("Register", register_req, register_rep),
	[FS_ATTACH] = ASK("Attach", attach_req, attach_rep),
	[FS_RENEW] = ASK("Renew", renew_req, renew_rep),
	[FS_EVENTS] = METHOD("Events", RPC_BIDI, false, false, event_ack, event),
	[FS_LOOKUP] = ASK("Lookup", lookup_req, lookup_rep),
	[FS_GETATTR] = BULK("Getattr", getattr_req, getattr_rep),
	[FS_SETATTR] = CHANGE("Setattr", setattr_req, getattr_rep),
	[FS_READLINK] = ASK("Readlink", readlink_req, readlink_rep),
	[FS_MAKE] = CHANGE("Make", make_req, entry_rep),
	[FS_LINK] = CHANGE("Link", link_req, entry_rep),
	[FS_REMOVE] = CHANGE("Remove", remove_req, change_rep),
	[FS_RENAME] = CHANGE("Rename", rename_req, change_rep),
	[FS_OPEN] = CHANGE("Open", open_req, open_rep),
	[FS_CREATE] = CHANGE("Create", create_req, create_rep),
	[FS_CLOSE] = CHANGE("Close", close_req, empty),
	[FS_READ] = BULK("Read", read_req, read_rep),
	[FS_WRITE] = METHOD("Write", RPC_UNARY, true, true, write_req, write_rep),
	[FS_FSYNC] = ASK("Fsync", fsync_req, empty),
	[FS_FALLOCATE] = CHANGE("Fallocate", fallocate_req, getattr_rep),
	[FS_COPY] = CHANGE("Copy", copy_req, copy_rep),
	[FS_SEEK] = ASK("Seek", seek_req, seek_rep),
	[FS_READDIR] = BULK("Readdir", readdir_req, readdir_rep),
	[FS_STATFS] = ASK("Statfs", statfs_req, statfs_rep),
	[FS_GETXATTR] = BULK("Getxattr", xattr_req, xattr_rep),
	[FS_SETXATTR] = METHOD("Setxattr", RPC_UNARY, true, true, xattr_req, empty),
	[FS_LISTXATTR] = BULK("Listxattr", xattr_req, xattr_rep),
	[FS_REMOVEXATTR] = CHANGE("Removexattr", xattr_req, empty),
	[FS_LOCK] = ASK("Lock", lock_req, lock_rep),
	[FS_ELECT] = ASK("Elect", elect_req, elect_rep),
	[FS_HAND] = CHANGE("Hand", hand_req, hand_rep),
	[FS_STATUS] = BULK("Status", empty, empty),
	[FS_PIPE] = METHOD("Pipe", RPC_BIDI, false, true, pipe_msg, pipe_msg),
	[FS_BATCH] = METHOD("Batch", RPC_UNARY, true, true, batch_req, batch_rep),
	[FS_REFRESH] = BULK("Refresh", refresh_req, refresh_rep),
};
