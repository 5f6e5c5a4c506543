/* SPDX-License-Identifier: Apache-2.0 */
/* The mounts below a home export; see export.h. */
#ifndef FS_SERVER_MOUNTS_H
#define FS_SERVER_MOUNTS_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "conf/error.h"

struct mount_node {
	atomic_int refs;
	uint64_t number; /* 0: the export's own */
	uint64_t parent; /* number of the mount that it lies on */
	char *place;	 /* relative to the export, "" for its own */
	int tree;	 /* detached clone, O_PATH */
	int dirfd;	 /* the same, opened: open_by_handle_at() wants that */
	dev_t cover_dev; /* the directory of the parent that it hides */
	ino_t cover_ino;
	dev_t dev; /* of its root */
	ino_t ino;
	bool handles; /* the filesystem has handles */
	bool private_dir; /* EXPORT_PRIVATE is in its root; set before there are clients */
	bool local;   /* no call on it waits for another host or a process (locks.c) */
	bool folds;   /* names of other spellings mean the same, everywhere in it */
};

/* Clones the mount at `path` (not what lies below it). */
int mount_node_open(const char *path, bool readonly, struct mount_node **out);
struct mount_node *mount_node_get(struct mount_node *m);
void mount_node_put(struct mount_node *m);

/* What is mounted below `root` and is to be served, parents first. `skip` is left out with all below. The caller frees with mounts_free(). */
struct mount_place {
	char *path; /* absolute */
	uint64_t mnt_id;
};
int mounts_list(const char *root, const char *skip, struct mount_place **out, size_t *n);
void mounts_free(struct mount_place *m, size_t n);
/* Is a filesystem of this type served? */
bool mounts_served_type(const char *fstype);

#endif
