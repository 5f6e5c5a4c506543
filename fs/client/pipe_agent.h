/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Named pipes across nodes, this node's side. The kernel opens FIFOs itself; we see a GETATTR just before (pipes.md). The answer to it waits until
 * the hub (fs/server/pipe_state.h) knows of the open and our ends of the bridge, if any, are in place; then the kernel goes on natively.
 */
#ifndef FS_CLIENT_PIPE_AGENT_H
#define FS_CLIENT_PIPE_AGENT_H
#include <fuse_lowlevel.h>
#include <stdbool.h>
#include <sys/stat.h>

struct fs;
struct inode;

/* Is this GETATTR of a FIFO part of an open? Then the agent answers it with *st, sooner or later, on `fd` (session_fd()), and true comes back. */
bool pipe_agent_open(struct fs *fs, fuse_req_t req, int fd, struct inode *ino, const struct stat *st);

#endif
