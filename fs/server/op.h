/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One request being served. A handler of ops_*.c is
 *
 *	static int op_x(struct op *o, const ProtobufCMessage *m)
 *
 * and either returns -errno (answered for it), or answers with op_done()/op_done_bulk() and returns what that returned, or returns
 * OP_LATER when somebody else will answer. The pattern: resolve handles as root, become the caller, do the system calls, answer; the frame (ops.c)
 * makes the thread root again whatever happened.
 */
#ifndef FS_SERVER_OP_H
#define FS_SERVER_OP_H
#include "fs/server/consist.h"
#include "fs/server/fsd.h"
#include "fs/server/ids.h"
#include "fs/server/intent.h"

#define OP_LATER 1
#define OP_PARK	 2 /* from lease_begin(): it will be run again from its start */

enum op_park { OP_RUNNING, OP_PARKED, OP_WOKEN };

struct op {
	struct fsd *d;
	struct rpc_request *rq;
	const struct rpc_msg *in; /* the request, or its part of the batch */
	struct batch *batch;	  /* that it is part of, or NULL; see batch.c */
	uint32_t index;
	enum fs_op method;
	struct client *client; /* counted */
	bool entered;	       /* acting as ids */
	uint64_t started;      /* clock_mono_ns() */
	struct cs_op cs;       /* leases.lock */
	bool begun;	       /* cs is to be ended */
	struct list after;     /* struct cs_op: go on when it has ended; leases.lock */
	atomic_int park;       /* enum op_park */
	bool counted;	       /* among the client's parked ones */
	bool brief;	       /* as it stood when it was parked: a few system calls, none that frees many blocks */
	bool hurried;	       /* run by a thread that must not wait: what is being changed by another is for a runner (busy) */
	bool busy;
	bool waited; /* for room on the disk */
	bool lingers;	       /* answered; there until others have given up what it broke */
	struct list rerun;     /* leases.lock */
	struct cs_need *hopes; /* Readdir: what was asked of others for the page (hoped), the directory first */
	int nhopes;
	bool hoped;
	enum { OP_UNASKED, OP_FIRST, OP_REPEATED } repeated;
	struct intent intent; /* OP_REPEATED */
	struct ids ids;
};
typedef int (*op_handler)(struct op *o, const ProtobufCMessage *m);

/* May this client use the export at all, and as whom? Fills o->ids. -EACCES, -EINVAL. */
int op_access(struct op *o, struct export *ex, const Sprite__Fs__Cred *cred);
/* Is the export open to this client's host? 0 or -EACCES. */
int op_resolve_allowed(struct op *o, const struct export *ex);
/* Handle to object, as root, without becoming anyone. The export must be open to this client's host. */
int op_resolve(struct op *o, ProtobufCBinaryData handle, struct object *obj);
/* op_resolve() of `handle`, op_access(), and become the caller. */
int op_begin(struct op *o, const Sprite__Fs__Cred *cred, ProtobufCBinaryData handle, struct object *obj);
/* The same of a directory whose names are spoken of: obj->dev, ino are filled, and records of a batch that follow each other share what they have of it. */
int op_resolve_dir(struct op *o, ProtobufCBinaryData handle, struct object *obj);
int op_begin_dir(struct op *o, const Sprite__Fs__Cred *cred, ProtobufCBinaryData handle, struct object *obj);
/* The same, for who makes or takes away `name` there. */
int op_begin_name(struct op *o, const Sprite__Fs__Cred *cred, ProtobufCBinaryData handle, const char *name, struct object *obj);
int op_become(struct op *o);
void op_root(struct op *o);
/* The open `id` of this client (counted), still allowed. NULL and *err = -FS_EREOPEN or -EACCES. */
struct open *op_open(struct op *o, uint64_t id, int *err);

/* The record of this very call by the last run of the server, which may have done it before it was killed; NULL: it is new. */
const struct intent *op_repeated(struct op *o);
static inline bool op_intent_is(const struct intent *it, const struct stat *st)
{
	return it->dev == st->st_dev && it->ino == st->st_ino;
}
/* Writes down what is to be done to `st` (NULL: it is not there yet). Just before it is done. */
void op_intend(struct op *o, const struct stat *st, uint64_t extra);

/* Parts of a batch: what was answered, written down for a repetition after a restart; and the record of the last run. */
void op_note_done(struct op *o, int err, const unsigned char *handle, size_t len);
bool op_done_before(struct op *o, struct intent *done);

int op_done(struct op *o, const ProtobufCMessage *out);
int op_done_bulk(struct op *o, const ProtobufCMessage *out, void *data, size_t n); /* frees data when sent */
int op_done_lingering(struct op *o, const ProtobufCMessage *out); /* after lease_linger(): it ends when that does */
int op_fail(struct op *o, int err);						   /* err > 0 */
int op_fail_with(struct op *o, int err, const ProtobufCMessage *out);
void op_free(struct op *o);
void op_linger_end(struct op *o);
/* A new one with a count of the client (may be NULL); NULL: no memory. */
struct op *op_new(struct fsd *d, struct rpc_request *rq, enum fs_op method, struct client *c);
/* Runs the handler, now or again. */
void op_run(struct op *o);

/* Has it a POSIX ACL, or (a directory) one for what is made in it? *no_cap (may be NULL): it has surely no file capabilities. */
bool op_has_acl(int fd, mode_t mode, bool *no_cap);
/*
 * The contents of a regular file of at most `max` bytes, as who the thread acts as: their length, or -1. `st` was read under a lease on DATA. Looking ahead is no access: the time of
 * the last one is left alone where that is allowed. `fd`: O_PATH will do.
 */
ssize_t op_contents(int fd, const struct stat *st, uint32_t max, uint8_t *to);
uint64_t op_ino(const struct mount_node *m, ino_t ino); /* Attr.ino */
/* Attributes of what `fd` (O_PATH or open) is. */
void op_attr(struct fsd *d, const struct mount_node *m, int fd, const struct stat *st, Sprite__Fs__Attr *out);
uint64_t op_change(struct fsd *d, const struct stat *st); /* Attr.change */
/* The server has changed this inode: its `change` must differ from now on. */
void op_changed(struct fsd *d, const struct stat *st);
void op_changed_fd(struct fsd *d, int fd);
void op_changed_dir(struct fsd *d, const struct object *dir);

/* An Entry with room for what it points to. */
struct op_entry {
	Sprite__Fs__Entry msg;
	Sprite__Fs__Attr attr;
	unsigned char handle[HANDLE_MAX];
};
/* Fills it, granting what can be granted of `want` on the object; *st is read anew after a grant. */
int op_entry(struct op *o, const struct object *obj, struct stat *st, uint32_t want, struct op_entry *e);
/* The same when e->handle has been filled with n bytes. */
int op_entry_packed(struct op *o, const struct object *obj, struct stat *st, uint32_t want, struct op_entry *e, size_t n);
/* A directory after its client's own change: filled and returned when `lease` vouches for it (CS_ATTR), else NULL. */
Sprite__Fs__Attr *op_dir_attr(struct op *o, const struct object *dir, uint64_t lease, Sprite__Fs__Attr *a);
/* What is worth having of an object of this type. */
uint32_t op_want(const struct stat *st);

/* "/proc/self/fd/N": how to act on what an O_PATH descriptor names. */
struct op_path {
	char s[40];
};
struct op_path op_path(int fd);

#endif
