/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The directory .sprite in the root of the whole mount: files that are answered by programs. It is not in listings of the root, and comes before the prefix
 * table and whatever is served there. Nothing of it is ever cached: contents come anew with every read, whole, and depend on who asks.
 *
 * A new file is a line in a table (special_env.c has its names by a function, since they come and go). Node numbers are made from names, so that they are the same
 * in every life of spritefs; a file handle is the number, there is no state.
 */
#ifndef FS_CLIENT_SPECIAL_H
#define FS_CLIENT_SPECIAL_H
#include <jansson.h>
#include <stdbool.h>
#include <sys/types.h>
#include "fs/client/client.h"

struct special_who { /* asks */
	pid_t pid; /* a thread's number, as this host's pid namespace has it */
	uid_t uid;
};

/* A file whose name is fixed. read() makes the whole text (malloc'ed) or returns -errno; it may block: it runs in a thread of its own. */
struct special_file {
	const char *name;
	mode_t mode; /* 0444: for all, 0400: for root only */
	int (*read)(struct fs *fs, const struct special_who *w, char **text, size_t *len);
};
/* A directory whose names come and go. All may block; -errno, -ENOENT for a name that is not there. */
struct special_names {
	int (*list)(struct fs *fs, const struct special_who *w, json_t *names); /* fills an object: name -> text */
	int (*set)(struct fs *fs, const struct special_who *w, const char *name, const char *text, size_t len);
	int (*unset)(struct fs *fs, const struct special_who *w, const char *name);
};
struct special_dir {
	const char *name; /* "" : .sprite itself */
	const struct special_file *files; /* ends with a NULL name; or */
	const struct special_names *names;
};

/* The directories there are; ends with a NULL name. Defined in special_env.c. */
extern const struct special_dir special_dirs[];

/* special_status.c */
extern const struct special_file special_status[];

size_t special_known(void); /* names of it that the kernel knows */
/* Puts itself before the operations of the mount. */
void special_wrap(struct fuse_lowlevel_ops *ops);

#endif
