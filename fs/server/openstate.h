/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Open files: the server's descriptor for each open file description of a client. An unlinked file lives on for as long as it is here. The ids are
 * meaningless to any client but the one that opened.
 *
 * Locking: `openstate.lock` guards the map. An open is counted and closed with its last reference, so that an operation under way ends well when the client
 * closes or is given up. `open.lock` serialises what uses the descriptor's own offset (readdir, append, seek).
 */
#ifndef FS_SERVER_OPENSTATE_H
#define FS_SERVER_OPENSTATE_H
#include <pthread.h>
#include <stdatomic.h>
#include "conf/hash.h"
#include "fs/server/client.h"
#include "fs/server/export.h"
#include <protobuf-c/protobuf-c.h>

struct offset;

/* Of tables by inode. */
struct inode_key {
	uint64_t dev, ino;
};

struct open {
	uint64_t id;
	struct client *client; /* counted */
	struct export *ex;
	struct mount_node *mount; /* counted */
	int fd;
	int flags; /* of open(2), as asked */
	uid_t uid; /* who opened */
	bool dir;
	dev_t dev;
	ino_t ino;
	bool write;   /* opened for writing */
	bool counted; /* for the write-sharing rule */
	bool known;   /* counted in by_inode (openstate.lock) */
	struct list gone; /* of its client, while all of that are closed */
	unsigned char handle[HANDLE_MAX];
	size_t handle_len;
	atomic_int refs;
	struct openstate *table;
	pthread_mutex_t lock;
	struct offset *offset; /* shared with other opens, NULL: none; set once (hand.h) */
	bool shares; /* its client goes by that offset; set before anybody else sees it */
	uint64_t dir_pos; /* cookie at which the descriptor stands (lock) */
	atomic_bool wrote;
	uint64_t front, streamed; /* how far it was written, and how much in a stream up to there (lock) */
};

/* The handle that it was opened by: what a client says of itself is not to be trusted. */
static inline ProtobufCBinaryData open_handle_of(struct open *o)
{
	return (ProtobufCBinaryData){o->handle_len, o->handle};
}

struct openstate {
	pthread_mutex_t lock;
	struct hash by_id;
	struct hash by_inode; /* dev, ino -> size_t: how many opens there are */
	uint64_t next_id;
	uint64_t none; /* no open has this id */
	int max; /* of one host */
	bool (*closed)(void *arg, struct open *o); /* when the last reference goes; no lock is held. true: it has taken the descriptor over */
	void *closed_arg;
};

void openstate_init(struct openstate *t);
void openstate_destroy(struct openstate *t);
/* Takes `fd` over (also on failure); *out is counted once more for the caller. -EMFILE: the client has too many. */
int openstate_add(struct openstate *t, struct client *c, const struct object *o, int fd, const struct stat *st, int flags, uid_t uid,
	const unsigned char *handle, size_t handle_len, struct open **out);
/* Counted; NULL when `c` has no such open. */
struct open *openstate_get(struct openstate *t, const struct client *c, uint64_t id);
bool openstate_has(struct openstate *t, const struct client *c, uint64_t id);
/* Has anybody the inode open? */
bool openstate_is_open(struct openstate *t, dev_t dev, ino_t ino);
void open_put(struct open *o);
/* Takes it out of the map: the caller holds the last but those of operations under way. NULL: no such. */
struct open *openstate_take(struct openstate *t, const struct client *c, uint64_t id);
/* Closes everything of a client; returns how many. */
size_t openstate_drop_client(struct openstate *t, const struct client *c);
void openstate_each(struct openstate *t, void (*fn)(void *arg, struct open *o), void *arg);

#endif
