/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Exports: the directories served as domains, and the way from a handle to an object inside.
 *
 * Each export holds private, detached clones of its mounts (open_tree(2) OPEN_TREE_CLONE, not recursive) with nodev, nosuid and nosymfollow, and
 * read-only where it says so: what is mounted below shows as the bare directory, devices cannot be opened, and the kernel itself keeps a read-only export
 * unchanged. A home export also serves what is mounted below it: each such mount has a clone of its own, a stable number (hash of
 * its place and filesystem) that is part of handles, and a "cover", the directory in the parent clone that it hides. Left out are kernel
 * filesystems, FUSE, /dev, and the sprite mount; there the guest sees the bare directory and mounts its own.
 *
 * Locking: `lock` of an export guards its mounts, read by every resolve, written by a rescan. A mount's clone stays open
 * while an object uses it (count), even when the home has unmounted it meanwhile.
 */
#ifndef FS_SERVER_EXPORT_H
#define FS_SERVER_EXPORT_H
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/stat.h>
#include "conf/conf.h"
#include "fs/server/handle.h"

struct mount_node;

struct export {
	const struct conf_export *conf;
	uint64_t domain;
	pthread_rwlock_t lock;
	struct mount_node **mounts; /* [0] is the export's own, number 0 */
	size_t nmounts;
};

struct exports {
	struct export *list;
	size_t n;
	struct handle_key key;
	const char *sprite_mount; /* left out of home exports */
	int mountinfo;		  /* polls ready when mounts change */
	atomic_uint_fast64_t mounts; /* another number whenever they have, also over a restart */
};

/* What is found out about a directory once for all records of a batch. */
struct dir_facts {
	bool known;
	bool folds; /* names that differ mean the same */
	bool plain; /* nothing but its mode decides who may make names in it */
	bool acl;   /* it has one, or one for what is made in it */
};

/* An object being worked on: O_PATH descriptor below a clone. */
struct object {
	int fd;
	bool borrowed; /* the descriptor is somebody else's, who keeps it for longer */
	bool bare;     /* just made where nothing is inherited: it has no ACL */
	struct export *ex;
	struct mount_node *mount; /* counted */
	dev_t dev;		  /* dev, ino: of directories (op_begin_dir()), and of what export_lookup() and export_wrap() found */
	ino_t ino;
	struct dir_facts *facts; /* kept by the batch, or NULL */
};
#define OBJECT_INIT {.fd = -1}
void object_clear(struct object *o);
#define _cleanup_object_ __attribute__((cleanup(object_clear)))

int exports_open(const struct conf *c, struct exports *out, struct error *e);
void exports_close(struct exports *x);
/* The mounts have changed: follow them in home exports. */
void exports_rescan(struct exports *x);

struct export *exports_by_prefix(struct exports *x, const char *prefix);
struct export *exports_by_domain(struct exports *x, uint64_t domain);

/* Proves a handle without touching the disk. -ESTALE. */
int export_unpack(struct exports *x, const void *bytes, size_t len, struct handle *h, struct export **ex);
/* As root: handle to object. -ESTALE when it is gone. */
int export_open_handle(struct export *ex, const struct handle *h, struct object *out);
/* Is it on a filesystem none of whose calls waits for another host? Not if its mount is gone. */
bool export_is_local(struct export *ex, const struct handle *h);
int export_open_root(struct export *ex, struct object *out);
/*
 * Looks one name up in a directory, as whoever the thread acts as, without following anything. *out has the object, *st its attributes. A covered
 * directory of a home export is replaced by the root of what is mounted there.
 */
int export_lookup(const struct object *dir, const char *name, struct object *out, struct stat *st);
/* As export_lookup() for an object that the caller has just opened or made: `fd` is taken over. */
int export_wrap(const struct object *dir, int fd, struct object *out, struct stat *st);
/* Handle bytes of an object; returns their length or -errno (-EOPNOTSUPP: the filesystem has no handles). */
int export_pack(struct exports *x, const struct object *o, unsigned char out[HANDLE_MAX]);

/* A directory of the server's own at the root of an export (unlinked.h): clients neither see that name there nor may they use it. */
#define EXPORT_PRIVATE ".sprite-unlinked"
bool export_is_private(const struct object *dir, const char *name);

/* A name that a client may use for one component: 0, -EINVAL, -ENAMETOOLONG. */
int export_name_check(const char *name);

#endif
