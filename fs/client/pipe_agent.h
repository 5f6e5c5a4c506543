/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Named pipes across nodes, this node's side. The kernel opens FIFOs itself; we see a GETATTR just before (pipes.md). The answer to it waits until
 * the hub (fs/server/pipe_state.h) knows of the open and our ends of the bridge, if any, are in place; then the kernel goes on natively.
 */
#ifndef FS_CLIENT_PIPE_AGENT_H
#define FS_CLIENT_PIPE_AGENT_H
#include <fuse_lowlevel.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

struct fs;
struct inode;

/* Is this GETATTR of a FIFO part of an open? Then the agent answers it with *st, sooner or later, on `fd` (session_fd()), and true comes back. */
bool pipe_agent_open(struct fs *fs, fuse_req_t req, int fd, struct inode *ino, const struct stat *st);

/*
 * For migd, when a process with ends of FIFOs moves (pipe_move.c tells the protocol). All block until it is done; -errno.
 *	KNOWN	is descriptor `fd` of `pid` a FIFO that is bridged? -EOPNOTSUPP: not one of this mount. Opens of the caller's threads are let through from now on.
 *	HOLD	source: pid, which is stopped, leaves: stand for its ends (r, w) of fd. The size of the pipe (F_SETPIPE_SZ)
 *	UNHOLD	source: pid stays after all
 *	PLEDGE	destination: pid, which is stopped, has opened the same ends and may come to life; size: of the pipe that it had, 0: as it is
 *	TAKE	destination: it does: the ends are its own, and all that it wrote or has not read is in its place
 */
enum pipe_verb { PIPE_KNOWN, PIPE_HOLD, PIPE_UNHOLD, PIPE_PLEDGE, PIPE_TAKE };
int pipe_agent_call(struct fs *fs, pid_t caller, enum pipe_verb verb, pid_t pid, int fd, uint64_t token, bool r, bool w, int size);

/* What a spritefs that was killed knew of a process that moves (KEEP_PIPE); takes over the record and a reference of ino. -errno: neither. */
struct keep;
struct kept_pipe {
	uint64_t ino, token;
	uint64_t born; /* of the process: field 22 of proc_pid_stat(5) */
	int32_t pid;
	uint8_t r, w, pledge;
};
int pipe_agent_resume(struct fs *fs, struct inode *ino, struct keep *k);
/* Bytes that were read here for other nodes: by the hub, directly. */
void pipe_agent_carried(struct fs *fs, uint64_t n[2]);
/* After a spritefs that was killed: finds out what processes of this node have open, for the hub. */
void pipe_agent_look(struct fs *fs);

#endif
