/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files without a name that somebody has open. The server's descriptor keeps them, until it is killed: so before the last name of an open file goes, the file gets another
 * one in a directory of ours at the root of its export, which clients do not see. That name goes with the last open; at the start of the server those that are found stay
 * until all clients have come back and taken their files again, or grace is over. The directory is made before there are clients, so that none has cached that above it.
 *
 * Attributes say one name less of such a file, and of the root. Not kept: directories, and files of home exports, whose tree is not ours to write into.
 *
 * Locking: unlinked.lock guards the set and what is done in the directories; openstate.lock is taken inside it.
 */
#ifndef FS_SERVER_UNLINKED_H
#define FS_SERVER_UNLINKED_H
#include <stdbool.h>
#include <sys/stat.h>
#include "fs/server/op.h"

int unlinked_start(struct fsd *d);
void unlinked_stop(struct fsd *d);

/* Before `name`, which is `st`, goes (as the caller; as the caller again afterwards). true: it is kept now, and unlinked_undo() is due when the name stays. */
bool unlinked_keep(struct op *o, const struct object *dir, const char *name, const struct stat *st);
void unlinked_undo(struct op *o, const struct object *dir, const struct stat *st);
/* An open of it has gone: noted only, since who closes may act as somebody else. */
void unlinked_closed(struct fsd *d, const struct open *f);
bool unlinked_busy(struct fsd *d); /* are there any, or are some just going? */
/* As root: what was noted goes unless it was opened again; returns how many went. */
size_t unlinked_run(struct fsd *d);
/* Once a second. When grace is over what nobody has taken again goes. */
void unlinked_tick(struct fsd *d);
/* How many of st_nlink are ours. */
unsigned unlinked_links(struct fsd *d, const struct mount_node *m, const struct stat *st);

#endif
