/* SPDX-License-Identifier: Apache-2.0 */
/* Every call of the file protocol (rpc/fs.proto), in one table for client and server. */
#ifndef FS_METHODS_H
#define FS_METHODS_H
#include "rpc/rpc.h"
#include "rpc/fs.pb-c.h"

enum fs_op {
	FS_PREFIXES,
	FS_REGISTER,
	FS_ATTACH,
	FS_RENEW,
	FS_EVENTS, /* bidirectional: the server sends Event, the client EventAck */
	FS_LOOKUP,
	FS_GETATTR,
	FS_SETATTR,
	FS_READLINK,
	FS_MAKE,
	FS_LINK,
	FS_REMOVE,
	FS_RENAME,
	FS_OPEN,
	FS_CREATE,
	FS_CLOSE,
	FS_READ,
	FS_WRITE,
	FS_FSYNC,
	FS_FALLOCATE,
	FS_COPY,
	FS_SEEK,
	FS_READDIR,
	FS_STATFS,
	FS_GETXATTR,
	FS_SETXATTR,
	FS_LISTXATTR,
	FS_REMOVEXATTR,
	FS_LOCK,
	FS_ELECT,
	FS_PIPE, /* bidirectional: named pipes */
	FS_HAND,
	FS_STATUS,
	FS_BATCH,
	FS_REFRESH,
	FS_NOPS
};
extern const struct rpc_method fs_methods[FS_NOPS];

/* SetattrReq.valid: the values of FUSE_SET_ATTR_* (fuse_lowlevel.h). */
enum fs_set {
	FS_SET_MODE = 1 << 0,
	FS_SET_UID = 1 << 1,
	FS_SET_GID = 1 << 2,
	FS_SET_SIZE = 1 << 3,
	FS_SET_ATIME = 1 << 4,
	FS_SET_MTIME = 1 << 5,
	FS_SET_ATIME_NOW = 1 << 7,
	FS_SET_MTIME_NOW = 1 << 8,
};

/* Errno of a call that names an open id which the server does not know (it was restarted): open again with `reclaim`, then retry. */
#define FS_EREOPEN EBADFD

/* Largest data of one read or write. */
#define FS_IO_MAX (1u << 20)

#endif
