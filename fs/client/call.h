/* SPDX-License-Identifier: Apache-2.0 */
/* A request on its way to a server and back: call.c. */
#ifndef FS_CLIENT_CALL_H
#define FS_CLIENT_CALL_H
#include "fs/client/state.h"

enum call_state {
	CALL_NEW,
	CALL_SENT,   /* with rpc */
	CALL_RETRY,  /* in fs.retry */
	CALL_PARKED, /* in the waiters of a domain or a stream, or in a gate */
	CALL_QUEUED, /* in a dirq, or in the batch that is on its way */
	CALL_DONE,
};

typedef void (*call_done)(struct call *c, int err, struct rpc_msg *out);

struct call {
	struct fs *fs;
	fuse_req_t req; /* NULL: nobody in the kernel waits */
	uint64_t unique; /* the kernel's number of it */
	struct keep *keep; /* KEEP_CALL */
	uint64_t *seq_at; /* where its number is noted before it is sent, in memory that survives; NULL: nowhere */
	uint64_t seq_again; /* the number that an earlier spritefs sent it under, 0: none */
	int fd;		/* the clone of /dev/fuse that it came from and whose reply it takes */
	enum fs_op op;
	struct domain *dom;
	struct server *server; /* instead of dom's, when not NULL */
	struct inode *ino, *ino2;
	struct stream *st, *st2;
	ProtobufCMessage *msg;
	uint64_t *open, *open2; /* where in *msg the ids of st and st2 stand: filled in whenever it is sent */
	ProtobufCBinaryData *handle, *handle2; /* the same for the handles of ino and ino2 */
	struct iovec bulk;
	void *buf; /* of the bulk bytes, from session_buffer_take() */
	call_done done;
	void (*woken)(struct call *c); /* instead of call_submit(), when it waited for a clean file */
	bool quick;    /* does not wait for a server that is away: done(EHOSTDOWN) */
	bool attach;   /* goes to a domain that is not attached */
	bool sets;     /* lease_set_begin() was called for ino */
	bool renames;  /* lease_rename_begin() was called */
	bool synced;   /* FSYNC: the write that it waited for has done it */
	bool waits;    /* a lock that may wait long: interrupts are for the server */
	bool queued;   /* dirq_put() was called */
	bool taken;    /* and it is in a batch, or was; dirq.lock */
	uint64_t lease; /* of a queued call: the lease_epoch under which it was answered */
	uint64_t number; /* of a queued call; of one in a gate: which it waits for */
	struct inode *child; /* newborn that it makes; held */
	struct inode *gone[2]; /* of removals and renames: which lose a name, as far as known; held */
	struct inode *changing; /* read_change_begin() */
	unsigned char reads;   /* 1 + where it counts in ino->nreads */
	bool gone_known;       /* these and no others, unless what names mean was recalled since: */
	uint64_t gone_seq[2];  /* recalled_seq of ino and ino2 then */
	uint64_t chunk_key;  /* of a queued write: its KEEP_CHUNK */
	ProtobufCMessage *unpacked; /* *m was taken over from it (dirq_keep.c) */
	uint64_t start_ns;
	uint64_t told, told_rights; /* of a home: as of its server then */

	/* fs.wait_lock */
	enum call_state state;
	int refs;
	uint64_t ticket;
	bool on_bulk;
	bool intr, cancelled;
	uint64_t intr_at, retry_at;
	unsigned tries, reopened;
	struct list link, intr_link;

	Sprite__Fs__Cred cred;
	union {
		Sprite__Fs__PrefixesReq prefixes;
		Sprite__Fs__AttachReq attach;
		Sprite__Fs__RenewReq renew;
		Sprite__Fs__LookupReq lookup;
		Sprite__Fs__GetattrReq getattr;
		Sprite__Fs__SetattrReq setattr;
		Sprite__Fs__ReadlinkReq readlink;
		Sprite__Fs__MakeReq make;
		Sprite__Fs__LinkReq link;
		Sprite__Fs__RemoveReq remove;
		Sprite__Fs__RenameReq rename;
		Sprite__Fs__OpenReq open;
		Sprite__Fs__CreateReq create;
		Sprite__Fs__CloseReq close;
		Sprite__Fs__ReadReq read;
		Sprite__Fs__WriteReq write;
		Sprite__Fs__FsyncReq fsync;
		Sprite__Fs__FallocateReq fallocate;
		Sprite__Fs__CopyReq copy;
		Sprite__Fs__SeekReq seek;
		Sprite__Fs__ReaddirReq readdir;
		Sprite__Fs__StatfsReq statfs;
		Sprite__Fs__XattrReq xattr;
		Sprite__Fs__LockReq lock;
		Sprite__Fs__HandReq hand;
		Sprite__Fs__BatchReq batch;
		Sprite__Fs__RefreshReq refresh;
	} m;
	Sprite__Fs__Attr attr;
	/* of the operation, for its done function */
	struct pnode *pnode;
	size_t size;
	off_t off;
	int flags;
	void *arg;
	uint64_t mark, mark2; /* lease_mark() of ino and ino2, of calls that change them */
	uint64_t seq; /* ino's stamp when it was asked */
	bool leased;  /* ATTR was held then */
	struct fuse_file_info fi;

	struct call_chunk *chunks;
	size_t used;
	char arena[768];
};

/* `ino` may be NULL; a reference of the caller's is taken over. Returns NULL after having answered ENOMEM. */
struct call *call_new(struct fs *fs, fuse_req_t req, enum fs_op op, struct inode *ino, call_done done);
void *call_alloc(struct call *c, size_t n);
char *call_strdup(struct call *c, const char *s);
/* Who asks, as the server is to see it; with `groups` the supplementary groups too. */
void call_cred(struct call *c, bool groups);
void call_stream(struct call *c, struct stream *st, uint64_t *open); /* takes a reference */
void call_submit(struct call *c);
void call_send(struct call *c); /* again: one that has been submitted, in no list now, NEW */
void call_wake(struct call *c); /* one that waited in wb_then(): goes on */
/* Before an rpc_call() of FS_OPEN: a record of it; and when the stream has what it answered, with its result. What one that was given up has opened is closed later (resume.c). */
struct keep *call_note_open(const struct domain *d);
void call_note_end(struct fs *fs, struct keep *note, int r);
bool call_let_in(struct fs *fs, struct domain *d, uint32_t uid); /* a home's server answered this user within home_bound() */
void call_hold(struct call *c);
void call_unref(struct call *c);
void call_drop(struct call *c); /* one that was answered without being sent */
void call_fail(struct call *c, int err); /* one that is not sent: answers it */
void call_end_queued(struct call *c, int err, struct rpc_msg *out); /* one of a batch; `out` stays the caller's */
/* Sends again all that `waiters` hold, or fails it with `err`. */
void call_release_waiters(struct fs *fs, struct list *waiters, int err);
const char *call_op_name(enum fs_op op);
void call_init(struct fs *fs);

/* ---- call_tick.c */
int call_ticker_start(struct fs *fs);
/* Answers everything that waits with ENOTCONN; the mount is going away. */
void call_stop_all(struct fs *fs);

#endif
