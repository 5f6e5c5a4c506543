/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of .sprite (special.h): special.c has the operations, special_job.c the nodes and what is done about them in threads. */
#ifndef FS_CLIENT_SPECIAL_INT_H
#define FS_CLIENT_SPECIAL_INT_H
#include "fs/client/special.h"

#define SPECIAL_OURS (1ull << 60)

static inline bool special_ours(fuse_ino_t ino)
{
	return ino & SPECIAL_OURS;
}

struct node {
	uint64_t id;
	const struct special_dir *dir; /* that it is, or that it is in */
	const struct special_file *file; /* NULL: a directory, or a name that comes and goes */
	char *name;			 /* of one that comes and goes; NULL otherwise */
	uint64_t nlookup;		 /* how often the kernel was told of it, less what it forgot */
};

struct node special_node_of(const struct special_dir *d, const struct special_file *f, const char *name);
/* A copy; *name (may be NULL): one of its name, to be freed. Without it n->name says only whether there is one. False: the kernel was not told of it by us. */
bool special_node_get(fuse_ino_t id, struct node *n, char **name);
void special_node_forget(uint64_t id, uint64_t count);
bool special_is_dir(const struct node *n);
void special_stat_of(const struct node *n, size_t size, struct stat *st);

enum what { ENTRY, ATTR, OPEN, READ, WRITE, TRUNCATE, CREATE, UNLINK, LIST };

struct job {
	struct fs *fs;
	fuse_req_t req;
	int fd; /* the clone of /dev/fuse for the answer */
	enum what what;
	const struct special_dir *dir;
	const struct special_file *file;
	char *name;
	uint64_t id; /* ENTRY, ATTR */
	struct special_who who;
	char *data; /* WRITE */
	size_t size;
	off_t off;
	bool plus; /* LIST */
	struct fuse_file_info fi;
};

struct job special_job_of(fuse_req_t req, enum what what, const struct special_dir *d, const struct special_file *f, const char *name);
/* The job for a file that the kernel knows; false after an answer. */
bool special_job_on(fuse_req_t req, enum what what, fuse_ino_t ino, struct fuse_file_info *fi, struct job *j);
/* Starts a copy of *j; what it points to is its own from here on. */
void special_start(const struct job *j);
void special_reply_entry(fuse_req_t req, const struct node *n, size_t size);

#endif
