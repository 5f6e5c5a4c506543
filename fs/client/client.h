/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spritefs, the client of the file service: one FUSE mount that shows the tree of the prefix table (or, for a guest's root, one domain).
 *
 * A request of the kernel never blocks a thread: its handler builds a `struct call` that holds the fuse_req_t, hands it to call_submit() and
 * returns; the completion, on an rpc thread, answers the kernel. (fs.md: ten blocked lockers would hang a mount that waits in handlers, and
 * a recall that must invalidate a name deadlocks behind a handler that waits.)
 *
 * Lock order: fs.table_lock > fs.inode_lock > fs.wait_lock > inode.lock > stream.lock. No lock is held while the kernel is answered or an rpc
 * function is called. Who waits for what is told in call.c, the life of inodes in inode.c, of domains in prefix.c.
 */
#ifndef FS_CLIENT_CLIENT_H
#define FS_CLIENT_CLIENT_H
#include <fuse_lowlevel.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "conf/conf.h"
#include "conf/error.h"
#include "conf/hash.h"
#include "conf/list.h"
#include "fs/client/blocks.h"
#include "fs/client/keep.h"
#include "fs/hand.h"
#include "fs/methods.h"
#include "rpc/local.h"
#include "rpc/rpc.h"

#define FS_HANDLE_MAX 128

struct fs;
struct call;
struct kept_op;
struct agent;

/* A spritefsd. Lives as long as the mount. */
struct server {
	struct fs *fs;
	struct list link; /* fs.servers */
	unsigned index;	  /* in order of arrival */
	struct keep *keep;
	char *name;	  /* in its certificate */
	struct conf_addr addr;
	struct rpc_channel *meta, *bulk; /* names and attributes; data */
	atomic_bool up;			 /* the transport of `meta` */
	bool has_events;		 /* a thread for the Events stream */
	atomic_bool leasing;		/* its grants count: we are known to it */
	atomic_uint_fast64_t recalled_seq; /* the highest lease_seq of its recalls */
	atomic_uint_fast64_t valid_until;  /* boot clock, ns: leases end then */
	pthread_mutex_t ack_lock;	/* `stream` stays while it is held */
	pthread_mutex_t lock;		/* the fields below */
	struct rpc_stream *stream;	/* of events, for acknowledgements; changed under both locks */
	uint64_t epoch, lease_epoch;	/* as the server said last */
	uint64_t recovered;		/* the life (epoch) of the server that has again all that we hold */
	bool recovering;		/* recover.c is at it */
	unsigned dropping;		/* threads that take back all leases: nothing is granted until then */
	uint32_t lease_ms;		/* 0: not attached yet */
	uint64_t renew_at;		/* boot clock, ns */
	struct dirq {
		pthread_mutex_t lock; /* the last of all */
		struct list queue, gate; /* calls to be sent in batches; those that wait for them */
		atomic_uint n, room; /* queued; so many may be */
		uint64_t lease; /* lease_epoch of the leases held now: what is answered under them keeps it (fencing) */
		bool sending, paused;
		uint64_t last, skip;
		uint64_t urgent; /* somebody waits for all up to this one */
		uint64_t again_seq, again_last; /* a batch that an earlier spritefs sent: its number, and of its last call */
		struct keep *again_keep;	/* and its record */
		atomic_uint_fast64_t done;
		atomic_int_fast64_t skew; /* its clock is ahead of ours by so many ns */
	} q; /* see dirq.c */
};

/* What a prefix leads to. Never freed before the mount ends; fields under fs.wait_lock unless told otherwise. */
struct domain {
	unsigned index; /* in order of arrival */
	struct keep *keep; /* fs.table_lock */
	char *prefix;
	struct server *server; /* NULL: the table does not know (yet) */
	uint64_t id;
	bool home;	       /* natively used by its host: see fs.md */
	uint32_t mig_port;
	bool attached, attaching;
	uint32_t exclusive; /* AttachRep.exclusive */
	atomic_bool full;	/* little space left: written through, so that write(2) tells */
	atomic_bool written;	/* since the space was looked at */
	uint64_t space_at;	/* when that was, ticker only */
	struct list waiters; /* calls that need the root handle or a server */
	struct {
		uint32_t uid;
		uint64_t at; /* clock_mono_ns() */
	} let_in[8]; /* home: whose call its server has answered last, and when: nobody else is served from what is kept here */
	atomic_uint_fast64_t home_mounts; /* home: RefreshRep.mounts that came last */
	struct inode *root;
};

/* A node of the prefix table: "/hosts/ws1" is root -> "hosts" -> "ws1". Nodes stay; `present` says whether the table has it now. */
struct pnode {
	struct pnode *parent, *child, *next; /* children in order of arrival: their index is a readdir cookie */
	char *name;
	struct domain *dom; /* NULL: only on the way to others */
	bool present;
	struct inode *inode; /* of the domain's root, or the virtual directory */
};

/* Of a directory, see ahead.c. Costs in microseconds. */
enum ahead_what { AHEAD_NAMES, AHEAD_DATA, AHEAD_WRITE, AHEAD_KINDS };
struct ahead {
	struct ahead_kind {
		uint64_t cookie, asked, fetched, at; /* where the next chunk begins; what calls have cost; what chunks have cost; boot clock: when the last one came */
	} kind[AHEAD_KINDS];
	bool busy; /* a chunk is on its way, of kind `what` */
	bool unused; /* it was had alone in advance, and nothing was changed in it yet */
	/* of its directories, while they are changed one after the other: */
	unsigned taken; /* how many were, */
	uint64_t taken_at; /* boot clock: when last, */
	uint64_t *dirs; /* which come behind the first, */
	unsigned ndirs, next; /* and from which on none was asked for yet */
	enum ahead_what what;
	struct list waiters; /* requests that wait for it, park.c */
};

/*
 * What the kernel knows under a node id. Ids are never used twice, so the generation is constant.
 * When the kernel has forgotten it (nlookup) and no call uses it (refs) it is freed, or kept for a while for what a lease says of it; inodes of pnodes stay.
 */
struct inode {
	uint64_t id;
	struct keep *keep;    /* fs.inode_lock; NULL: a domain's root or virtual, or the store is full */
	struct domain *dom;   /* NULL: virtual directory */
	struct pnode *pnode;  /* not NULL: names of the prefix table are below it */
	uint64_t nlookup;     /* fs.inode_lock */
	uint64_t miscounted;  /* of them, such as the kernel was never told of; fs.inode_lock */
	uint32_t refs;	      /* fs.inode_lock */
	struct list idle;     /* fs.idle: nobody has it, but its lease is worth keeping; fs.inode_lock */
	pthread_mutex_t lock; /* the fields below */
	uint8_t handle[FS_HANDLE_MAX];
	uint32_t handle_len;  /* 0: not attached; set once, before the inode is seen, or under fs.wait_lock for a domain's root */
	uint32_t type;	      /* S_IFMT bits, 0: not known */
	struct list streams;  /* what is open here, struct stream.link */
	struct stat last;     /* of a domain's root: shown while its server is away */
	bool has_last;
	atomic_uint_fast64_t changes; /* grows when a change of names in this directory begins or ends, and when one of another node is told */
	/* leases, see lease.c */
	unsigned setting;	   /* SETATTRs of ours under way */
	atomic_uint renaming;	   /* renames of ours in this directory under way, while others are about in it */
	uint64_t foreign_at;	   /* boot clock: when another client last changed a name in it */
	uint64_t lease, recalled_seq, born_seq, stamp; /* stamp: counts what makes remembered attributes void */
	uint64_t told; /* stamp when the kernel was told attributes last, under ATTR: equal means that its size is the true one */
	struct stat attr; /* under LEASE_ATTR, when attr_valid */
	uint64_t attr_change, attr_gen, attr_recalls;
	bool attr_valid, no_acl, no_cap; /* no_*: known not to have such an xattr */
	/* files that nodes hand to one another, see lease_give_up() */
	uint64_t taken_at; /* boot clock: when another node last took WRITE or DATA of it */
	bool giving;	   /* WRITE was given up with a write that is not answered yet: no grant of it counts */
	atomic_bool was_read, read_again; /* contents were asked for here; they were, and then taken: they come along when its attributes are asked for */
	/* see names.c */
	struct hash names;
	bool complete, reading, listed, listing_over; /* all names are in the set; the listing is being read, is whole, is too long */
	uint8_t *listing;
	size_t listing_len, listing_room;
	uint64_t listing_next; /* the cookie that it goes on from */
	struct ahead ahead;
	atomic_uint_fast64_t parent; /* node id of the directory where it was last seen, for ahead.c; 0: none */
	atomic_uint_fast64_t reads_parked; /* node id of the directory for a chunk of which READs of this file may wait; 0: none */
	/* see dirq.c */
	uint64_t pend;	   /* number of the last queued call that concerns it */
	uint64_t set_pend; /* the last of them that sets its attributes */
	struct call *set_call; /* that one, until it is done */
	uint32_t born_at;  /* the record of the batch being sent that makes it */
	int stillborn;	   /* it was to be made, and was not: why */
	int born_tid;	   /* of a newborn: the thread that is still in its open(2), or */
#define BORN_OPENED (-1)
	bool newborn;	   /* made here, not yet at the server: no handle */
	bool attr_known;   /* ATTR has not been recalled since `attr` was kept: mode and owner in it are true, even when attr_valid is not set */
	bool guessed;
	struct stat guess; /* when guessed, and only while something is pending: as it will be, but for a file's number and times */
	unsigned nqueued;  /* chunks in flying that are in the queue */
	struct list locks; /* held by processes here, for recover.c */
	unsigned unlocking; /* closes with an unlock on their way: who wants a lock here waits for them in unlock_waiters */
	struct list unlock_waiters;
	struct blocks_of blocks; /* see ops_read.c */
	unsigned changing; /* changes of its contents by calls under way, see ops_read.c */
	unsigned nreads[2], reads_now; /* READs that the kernel has not been answered: those begun before the last read_settle(), and since; [reads_now] is since */
	atomic_uint_fast64_t unsettled, settled; /* grows with each write of mapped pages that others have not seen yet; up to which one an fsync has waited since */
	/* write-behind, see writeback.c */
	struct list dirty, flying, wb_waiters; /* chunks; calls that wait for the file to be clean */
	unsigned ndirty, nflying;
	uint64_t dirty_end, eof; /* eof: the true size while dirty, UINT64_MAX when not known */
	bool wb_urgent;
	unsigned wb_waits; /* recalls and the like that wait for it to be clean */
	int wb_error;
	struct list wb_link; /* fs.wb_files, under fs.wait_lock, which holds a reference */
	uint64_t wb_since;
	/*
	 * Home domains, which have no leases: the attributes that came last and when, and those that the kernel's pages were filled under. Pages are
	 * kept over an open when both are the same.
	 */
	struct home_attr {
		uint64_t change, size;
		int64_t mtime, ctime;
		uint32_t mode;
		bool no_acl;
	} now, seen;
	uint64_t now_at, no_cap_at; /* clock_mono_ns(), 0: never */
	bool has_seen;
	struct home_known *home; /* NULL: nothing has come; set once, freed with the inode */
};

/* An open file description of the kernel, which knows it by fi->fh = `fh`, a number that is never used twice. */
struct stream {
	uint64_t fh;
	struct keep *keep; /* inode.lock */
	struct list link; /* inode.streams, under inode.lock */
	struct list young; /* fs.young, under fs.wait_lock */
	uint64_t opened_ns;
	struct inode *ino;
	uint32_t refs;	  /* inode.lock */
	int flags;	  /* O_* of the open */
	bool dir;
	atomic_uint_fast64_t open; /* the server's id */
	uint64_t epoch; /* of the server's life that `open` is of; inode.lock */
	bool released; /* inode.lock */
	uint64_t flushed; /* boot clock: when somebody closed it last (FLUSH); its RELEASE is most likely on its way; inode.lock */
	unsigned ndirty; /* chunks of write-behind that need it; inode.lock */
	bool unlock;	 /* its close drops the flock of unlock_owner */
	uint64_t unlock_owner;
	uint64_t flock_owner; /* of the description itself, for flock and OFD locks; 0: not known yet */
	/* handed over, see hand.c: inode.lock */
	bool shared, claimed, offered; /* its offset is the server's; it came from another node, under `token`; it is offered under `token` */
	uint64_t offer_pos;
	uint8_t token[HAND_TOKEN], stream[HAND_TOKEN]; /* stream: name of the shared offset */
	uint64_t expect, at; /* where the kernel believes it to stand; the server's offset when we heard of it last */
	bool direct;   /* DIRECT_IO: no pages are cached by it */
	uint32_t uid, gid; /* who opened it: as whom it is opened (again) at the server */
	uint32_t *groups;
	size_t ngroups;
	/* reopening after FS_EREOPEN: fs.wait_lock */
	bool reopening;
	struct list waiters;
	/* owners of fcntl and OFD locks taken through it, until flush or release: inode.lock */
	uint64_t *owner;
	uint32_t nowner;
	/* directory: the page read ahead, `lock` */
	pthread_mutex_t lock;
	uint8_t *page;
	size_t page_len;
	uint64_t page_cookie; /* where it begins */
	bool page_end;	      /* nothing behind it */
	uint64_t page_ns;     /* when it came, clock_mono_ns() */
	uint64_t page_changes; /* ino's changes then */
	uint64_t page_names_seq; /* the grant of NAMES that came with it, 0: none */
	bool caches;	      /* the kernel keeps the listing (FOPEN_CACHE_DIR) */
};

struct fs {
	const struct conf *conf;
	const char *mount, *prefix;
	bool whole; /* the tree of the prefix table; false: one domain */
	struct rpc_tls *tls;
	struct fuse_session *se;
	int dev; /* /dev/fuse */
	bool mounted;
	uint64_t started_ns;
	atomic_bool stopping;
	bool resumed; /* we go on with an earlier spritefs' mount */

	pthread_mutex_t table_lock; /* pnodes, servers, version */
	struct pnode *root;
	struct list servers;
	unsigned nservers, ndomains;
	struct server *root_server;
	uint64_t version;
	bool table_known;
	bool table_asking;
	atomic_bool table_stale;

	pthread_mutex_t inode_lock;
	struct hash by_id, by_handle;
	struct list idle; /* the longest unused first */
	size_t nidle;
	uint64_t next_id;
	pthread_mutex_t stream_lock; /* the last of all locks */
	struct hash by_fh;

	pthread_mutex_t wait_lock; /* states of calls, see call.c */
	pthread_cond_t wait_cond;
	struct list retry;	   /* calls that wait for their time */
	struct list interrupted;   /* calls somebody wants to be rid of */
	struct list parked_intr;   /* the same of requests that were put aside: park.c */
	struct list wb_files;	   /* inodes with dirty data, oldest first */
	struct hash old_calls, old_taken; /* KEEP_CALL and KEEP_TAKEN of an earlier spritefs, by request, until their request has come again */
	uint64_t old_until;	   /* boot clock: those left by then were given up by who asked; 0: none left */
	struct list claims;	   /* hand.c */
	struct list young;	   /* streams of home domains that the server does not know yet, oldest first */
	pthread_t ticker;

	atomic_uint_fast64_t numbers; /* of queued calls of all servers */
	struct hash old_ops;	      /* unique -> struct kept_op, copied; stream_lock */
	atomic_uint_fast64_t batched[FS_NOPS]; /* done as parts of batches */
	atomic_uint_fast64_t count[FS_NOPS], nanos[FS_NOPS], retries, attach_failures;
	pthread_rwlock_t grant_lock; /* shared: a reply with a grant is being written */
	pthread_mutex_t recall_lock; /* recall_queue; and what wb_cond is for; the last but inode.lock */
	pthread_cond_t recall_cond, wb_cond; /* something was recalled; a chunk has arrived */
	struct list recall_queue; /* see recall.c */
	unsigned recall_idle, recall_threads;
	atomic_bool recall_at_once; /* one is done by a thread of rpc */
	atomic_uint_fast64_t recalls, epochs, local_opens, local_attrs, local_absent, local_lookups, local_listings;
	atomic_uint_fast64_t victim_gen; /* grows when a change of ours may have changed the nlink of we know not what */
	atomic_uint local_streams;
	atomic_uint_fast64_t dirty_bytes;
	atomic_uint_fast64_t took_at, read_at; /* ahead.c, boot clock: when a directory was had for ourselves last, when contents fetched ahead were read */
	struct blocks blocks;
	bool has_epoch; /* the kernel knows FUSE_NOTIFY_INC_EPOCH */
	atomic_uint calls; /* that exist */
	uint64_t asked_at; /* ticker only: for the table, last */
	struct local_server *ctl;
	struct agent *pipes; /* pipe_agent.c: made by the first open of a FIFO */
	atomic_int pipe_mover; /* process whose opens of FIFOs are for others (migd), 0: none */
};

/* ---- call.c: a request on its way */
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
void call_wake(struct call *c); /* one that waited in wb_then(): goes on */
/* Before an rpc_call() of FS_OPEN: a record of it, to be freed when the stream has what it answers. */
struct keep *call_note_open(void);
bool call_let_in(struct fs *fs, struct domain *d, uint32_t uid); /* a home's server answered this user within HOME_BOUND_NS */
void call_hold(struct call *c);
void call_unref(struct call *c);
void call_drop(struct call *c); /* one that was answered without being sent */
void call_fail(struct call *c, int err); /* one that is not sent: answers it */
void call_end_queued(struct call *c, int err, struct rpc_msg *out); /* one of a batch; `out` stays the caller's */
/* Sends again all that `waiters` hold, or fails it with `err`. */
void call_release_waiters(struct fs *fs, struct list *waiters, int err);
void call_init(struct fs *fs);
int call_ticker_start(struct fs *fs);
/* Answers everything that waits with ENOTCONN; the mount is going away. */
void call_stop_all(struct fs *fs);
const char *call_op_name(enum fs_op op);

/* ---- inode.c */
void inode_table_init(struct fs *fs);
struct inode *inode_get(struct fs *fs, uint64_t id); /* with a reference; never NULL for an id the kernel may use */
struct inode *inode_hold(struct fs *fs, struct inode *ino);
void inode_put(struct fs *fs, struct inode *ino);
void inode_forget(struct fs *fs, uint64_t id, uint64_t n);
/* New, known to the kernel by nobody yet, with a reference. */
struct inode *inode_new(struct fs *fs, struct domain *dom, struct pnode *pnode);
/* Its KEEP_INODE anew, from what it is now. With fs.inode_lock. */
void inode_save(struct inode *ino);
void inode_told(struct fs *fs, struct inode *ino); /* the same, with no lock */
void inode_wb_error(struct inode *ino, int err); /* sets it, with inode.lock */
/* Finds or makes the inode of a handle and counts one lookup of the kernel; NULL: no memory or a handle that cannot be. */
struct inode *inode_looked_up(struct fs *fs, struct domain *dom, const ProtobufCBinaryData *handle, uint32_t mode);
struct inode *inode_met(struct fs *fs, struct domain *dom, const ProtobufCBinaryData *handle, uint32_t mode); /* the same, with a reference instead: the kernel does not hear of it */
/* A file that is being made here: no handle yet, one lookup counted, with a reference, under every lease. NULL: no memory. */
struct inode *inode_born(struct fs *fs, struct domain *dom, const struct stat *guess);
struct inode *inode_find(struct fs *fs, uint64_t id); /* with a reference, or NULL */
void inode_count_lookup(struct fs *fs, struct inode *ino);
void inode_set_handle(struct fs *fs, struct inode *ino, const ProtobufCBinaryData *handle);
void inode_stat(struct fs *fs, const struct domain *dom, const Sprite__Fs__Attr *a, struct stat *st);
void inode_virtual_stat(struct fs *fs, const struct inode *ino, struct stat *st);
uint64_t inode_show_ino(const struct fs *fs, const struct domain *dom, uint64_t ino);
double inode_timeout(const struct inode *ino, uint32_t mode);
bool inode_is_virtual(struct fs *fs, const struct inode *ino);

/* ---- home.c: what is known of home domains */
#define HOME_BOUND_NS 1000000000ull /* for how long names and attributes are believed after the home was asked */
void home_attr(struct fs *fs, struct inode *ino, const Sprite__Fs__Attr *a); /* they came */
bool home_fresh(struct inode *ino, struct home_attr *a); /* what came less than HOME_BOUND_NS ago */
void home_changed(struct inode *ino); /* by a call of ours that is answered; may be NULL */
void home_end(struct inode *ino);
/* Around a look-up that is sent; id 0: the name is not there. */
void home_note(struct call *c);
void home_learn(struct call *c, const char *name, uint64_t id);
/* From memory, perhaps after a Refresh. false: it has to be sent. */
bool home_lookup(struct fs *fs, fuse_req_t req, struct inode *dir, const char *name);
bool home_getattr(struct fs *fs, fuse_req_t req, struct inode *ino);

/* Any open of it, for the server to find an unlinked file by; 0: none. */
uint64_t inode_any_open(struct inode *ino);
bool inode_is_known(struct fs *fs, struct inode *ino); /* to the kernel */
/* Is there a look-up of it that the kernel was answered and has not forgotten? inode_miscounted(): it seems not, of those counted until now. */
bool inode_is_awaited(struct fs *fs, struct inode *ino);
void inode_miscounted(struct fs *fs, struct inode *ino);
size_t inode_count(struct fs *fs); /* known to it, or in use */
void inode_each(struct fs *fs, void (*fn)(void *arg, struct inode *ino), void *arg); /* with its lock held; looks only */
size_t inode_of_server(struct fs *fs, const struct server *s, struct inode ***all); /* all that have streams or locks or dirty data, with references */
struct inode *inode_resume(struct fs *fs, struct domain *dom, struct keep *k); /* of an earlier spritefs */
void inode_resumed(struct fs *fs); /* all that is there is built: drops what nobody has */
struct inode *inode_by_handle(struct fs *fs, const ProtobufCBinaryData *h); /* with a reference, or NULL */
/* All that hold a lease of s, with references; *all is to be freed. With `reset` the seqs of every inode of s are forgotten. */
size_t inode_leased(struct fs *fs, const struct server *s, bool reset, struct inode ***all);

/* ---- stream.c */
struct stream *stream_new(struct fs *fs, struct inode *ino, uint64_t open, int flags, bool dir, const struct fuse_ctx *who); /* takes over a reference of ino */
/* The number the kernel is to know it by; from here on it outlives us. */
uint64_t stream_told(struct stream *st, uint64_t unique);
struct stream *stream_resume(struct fs *fs, struct inode *ino, struct keep *k); /* with a reference, for stream_resumed() */
void stream_resumed(struct fs *fs, struct stream *st);
/* The kernel does not know of it after all: the request whose answer it was has come again. */
void stream_untell(struct fs *fs, uint64_t unique);
/* Which one the kernel means by fi->fh; it has it open, so that it stays. NULL: only for a RELEASE that has been done before. */
struct stream *stream_at(struct fs *fs, uint64_t fh);
bool stream_has(struct fs *fs, uint64_t open); /* some stream is that open of a server */
void stream_groups(struct stream *st, const struct fuse_ctx *who); /* remembers whose groups it was opened with */
void stream_hold(struct stream *st);
void stream_put(struct fs *fs, struct stream *st);
void stream_owner_add(struct stream *st, uint64_t owner);
/* Forgets `owner` in every stream of the inode; true when it was there. */
bool stream_owner_drop(struct inode *ino, uint64_t owner);
/* The server does not know c's open id any more: opens again, then sends c again. Called without locks. */
void stream_reopen(struct call *c);
/* Opens again every stream whose id is of an earlier life of the server; -errno of the transport. */
int stream_open_again(struct fs *fs, struct server *s, struct inode *ino, uint64_t epoch);
/* Opens at the server what is only open here (open id 0), and waits for it; not from a handler. */
void stream_open_local(struct fs *fs, struct inode *ino);
/* Tells servers of home domains of what has been open here for a while. */
void stream_tick(struct fs *fs, uint64_t now_mono);
void stream_young(struct fs *fs, struct stream *st);
/* The same without waiting; then call_submit(c). */
void stream_open_local_then(struct inode *ino, struct call *c);
/* Closes an open of the server that no stream has. Takes over a reference of ino. */
void stream_close(struct fs *fs, struct stream *st); /* one that is released, at the server */
void stream_close_id(struct fs *fs, struct inode *ino, uint64_t open, bool unlock, uint64_t owner);
/* Waits a moment for those that somebody has just closed to be released: not from a handler or a completion. */
void stream_settle(struct fs *fs, struct inode *ino);
/* The kernel has let go of it. */
void stream_release(struct fs *fs, struct stream *st, bool unlock, uint64_t owner);

/* With inode.lock: what is kept of it is to be as it is now. */
void stream_changed(struct stream *st);

/* ---- hand.c */
/* Is this the name of an open file that another node hands over? Then it answers. */
bool hand_lookup(struct fs *fs, fuse_req_t req, struct inode *dir, const char *name);
bool hand_open(struct fs *fs, fuse_req_t req, struct inode *ino, struct fuse_file_info *fi); /* the open(2) after it: answers */
void hand_tick(struct fs *fs, uint64_t now);
void hand_resume(struct fs *fs, struct keep *k); /* a KEEP_CLAIM, when streams are there */
bool hand_has(struct fs *fs, uint64_t open); /* some claim is that open of a server */
bool hand_write_begin(struct stream *st, uint64_t off); /* is this write one at the shared offset? */
void hand_write_done(struct stream *st, uint64_t off, uint64_t size, uint64_t at);
void ops_hand(struct fuse_lowlevel_ops *ops);

/* ---- prefix.c */
int prefix_start(struct fs *fs, struct error *e);
void prefix_changed(struct fs *fs);
void prefix_tick(struct fs *fs, uint64_t now); /* every 100 ms: asks for the table, renews */
int prefix_resume(struct fs *fs, struct domain **doms, size_t room); /* servers, domains, nodes of an earlier spritefs; how many domains */
struct pnode *prefix_node(struct fs *fs, const char *path); /* made when missing */
size_t prefix_domains(struct server *s, struct domain **all, size_t room); /* attached ones of that server */
struct pnode *prefix_child(struct fs *fs, struct pnode *p, const char *name, size_t len);
void server_note(struct server *s); /* what is known of it outlives us; with its lock */
void server_note_recall(struct server *s);
/* Starts attaching when needed and sees to it that the waiters hear of it. */
void prefix_attach(struct fs *fs, struct domain *d);
/* What an Attach said: handle, attributes, lease. */
void prefix_attached(struct fs *fs, struct domain *d, const Sprite__Fs__AttachRep *rep, uint64_t sent);
/* The n-th child (from 0) that is there, starting at index *i, which moves behind it. */
struct pnode *prefix_nth(struct fs *fs, struct pnode *p, uint64_t *i);
void prefix_rows(struct fs *fs, void (*fn)(void *arg, const struct pnode *p, const char *path), void *arg);

/* ---- lease.c */
#define FOREIGN_NS 5000000000ull /* for so long it counts that another client has changed or taken something */
#define LEASE_LONG 86400.0 /* seconds that the kernel may believe what is under a lease */
void lease_init(struct fs *fs);
void lease_reply_begin(struct fs *fs);
void lease_reply_end(struct fs *fs);
uint64_t lease_take(struct inode *ino, uint64_t lease, uint64_t seq);
uint64_t lease_born(struct inode *ino, uint64_t lease); /* what the server granted with the birth of it */
void lease_told(struct inode *ino); /* the kernel is being told attributes, under ATTR */
bool lease_size_told(struct inode *ino);
bool lease_has(struct inode *ino, uint64_t bits);
void lease_keep_attr(struct fs *fs, struct inode *ino, const Sprite__Fs__Attr *a, uint64_t got);
/* ATTR is held without a break from when `mark` was taken until now: what a reply says meanwhile without a grant is true. */
uint64_t lease_mark(struct inode *ino);
bool lease_held_since(struct inode *ino, uint64_t mark);
void lease_forget_attr(struct inode *ino);
void lease_attr_floor(struct inode *ino, uint64_t change); /* nothing older than that counts */
void lease_no_cap(struct inode *ino); /* under ATTR: it has no security.capability */
bool lease_attr(struct fs *fs, struct inode *ino, struct stat *st);
bool lease_outdated(struct inode *ino, const Sprite__Fs__Attr *a, struct stat *st);
bool lease_guess(struct inode *ino, struct stat *st);
/*
 * The last write of a file is sent, `last`, with the close of st: which bits are given up with it (WriteReq.give_up), so that another node, which has lately taken it from us,
 * need not have it recalled. With inode.lock. Then, when that is answered, lease_given_up() before the grant is taken.
 */
uint64_t lease_give_up(struct inode *ino, const struct stream *st);
void lease_given_up(struct inode *ino, uint64_t seq);
/*
 * Others may see what a change of ours has made before its reply is here; who looks here meanwhile must not be shown what was before. So nothing
 * that the kernel or we remember of it counts while it is under way, and nothing is remembered.
 */
void lease_set_begin(struct call *c);
void lease_set_end(struct call *c);
void lease_rename_begin(struct call *c);
void lease_rename_end(struct call *c);
void lease_drop_all(struct server *s, bool restarted, bool given_up);
/* The server answered what was sent at `sent` (boot clock): its leases go on. `epoch` and `lease_epoch` (0: not said) are what it said of itself. */
void lease_renewed(struct server *s, uint64_t sent, uint64_t epoch, uint64_t lease_epoch, uint32_t lease_ms);
void lease_tick(struct server *s, uint64_t now);

/* ---- recall.c: giving leases back */
int recall_start(struct fs *fs);
/* Notes that `bits` are over, or (one_name) one name of a directory; seq 0: not by a recall. recall_noted() before anything is invalidated. */
void recall_note(struct inode *ino, uint64_t bits, const char *one_name, uint64_t seq);
void recall_noted(struct fs *fs); /* waits until every reply that had not seen what was noted is written */
void recall_drop(struct fs *fs, struct inode *ino, uint64_t bits); /* what the kernel has of it, as soon as it can */
void lease_recall(struct server *s, const Sprite__Fs__Event *ev, struct rpc_stream *stream); /* that it came by */
void lease_drop_pages(struct fs *fs, struct inode *ino);

/* ---- writeback.c */
/* Takes the data and answers req (the caller holds the inode); false: not under an exclusive lease, write through. */
bool wb_write(struct fs *fs, fuse_req_t req, struct stream *st, const void *data, size_t len, uint64_t off, bool append, uint32_t uid, uint32_t gid,
	bool kill);
void wb_then(struct fs *fs, struct inode *ino, struct call *c); /* call_submit(c) when the file is clean */
bool wb_dirty(struct inode *ino);
void wb_flush_start(struct fs *fs, struct inode *ino);
void wb_flush_wait(struct fs *fs, struct inode *ino); /* not from a handler or a completion */
int wb_error_take(struct inode *ino);
uint64_t wb_dirty_end(struct inode *ino); /* 0: clean; else the file is at least as long */
void wb_remember(struct fs *fs, struct inode *ino);
void wb_tick(struct fs *fs, uint64_t now, bool all);
void wb_discard(struct fs *fs, struct inode *ino);
void wb_look_at_space(struct fs *fs, struct domain *d);

bool wb_resume_queued(struct call *c, uint64_t key); /* c carries that chunk of its inode; false: there is none */
void wb_resume(struct fs *fs, struct inode *ino, struct stream *st, struct keep *k);
bool wb_took(struct fs *fs, uint64_t unique, size_t *size); /* the bytes of this write(2), asked again, are in a chunk or at the server */

/* ---- dirq.c */
#define STREAM_UNBORN 1 /* struct stream.open of a newborn; no server gives it */
void dirq_init(struct server *s);
/* May changes by this user in that directory be queued, as far as is known without its lock? */
bool dirq_allows(const struct inode *dir, uint32_t uid, uint32_t gid);
/* With inode.lock: something queued concerns it. */
bool dirq_pending(const struct inode *ino);
/* Locks them all; sorts *v and takes doubles out. */
void dirq_lock(struct inode **v, int *n);
void dirq_unlock(struct inode **v, int n);
uint64_t dirq_lease(struct server *s); /* dirq.lease; with the lock of an inode that WRITE is held on it stays */
/* With the locks: queues c, which changes these. Kick it when they are released. */
void dirq_put(struct call *c, struct inode **v, int n);
void dirq_kick(struct server *s, bool urgent);
/* With the locks of what it changes: may a queued call still be made to change more? Then until dirq_change_end() it is not sent. */
bool dirq_change_begin(struct call *c);
void dirq_change_end(struct call *c, struct inode **v, int n);
void dirq_hurry(struct inode *ino); /* somebody waits for what is queued for it */
/* Does c have to wait for what is queued? Then it is taken care of. */
bool dirq_gate(struct call *c);
/* Not from a handler or a completion. */
void dirq_flush_wait(struct fs *fs, struct inode *ino);
/* Sends all, also after an interruption by a restart; -EAGAIN when it was interrupted again. */
int dirq_drain(struct server *s);
bool dirq_empty(struct server *s);
void dirq_discard(struct server *s);

/* ---- dirq_keep.c: the queue's records */
struct keep *dirq_record(struct call *c, uint64_t number, struct inode **v, int n);
void dirq_resume_begin(struct fs *fs);
void dirq_resume(struct fs *fs, struct keep *k); /* a KEEP_OP of an earlier spritefs, by rising key */
/* The request, asked again, was answered by a call that is or was in the queue (op, child and fh are filled in). */
bool dirq_made(struct fs *fs, uint64_t unique); /* without taking it */
bool dirq_was(struct fs *fs, uint64_t unique, struct kept_op *x);

/* ---- ops_here.c: operations answered at once, under exclusive leases. Each returns false when it must be asked of the server. */
bool here_create(fuse_req_t req, struct inode *dir, const char *name, mode_t mode, struct fuse_file_info *fi);
bool here_remove(fuse_req_t req, struct inode *dir, const char *name, bool rmdir);
bool here_rename(fuse_req_t req, struct inode *dir, const char *name, struct inode *to_dir, const char *to_name, unsigned flags);
bool here_setattr(fuse_req_t req, struct inode *ino, const struct stat *st, int valid);
bool here_close(struct fs *fs, struct stream *st); /* the close of st is queued */
call_done here_done(enum fs_op op); /* of a call resumed */

/* ---- names.c */
void names_end(struct inode *dir); /* with inode.lock */
void names_add(struct inode *dir, const char *name); /* a change of it begins, or was made by another: what it means is not known */
void names_begin_empty(struct inode *dir);
/* What the server gave from `cookie` on, under NAMES; `changes`: the directory's count when it was asked for. */
void names_page(struct inode *dir, const uint8_t *page, size_t len, uint64_t cookie, bool end, uint64_t changes);
/* Copies whole records from behind `cookie` on. false: the server must be asked. */
bool names_listing(struct inode *dir, uint64_t cookie, uint8_t *to, size_t room, size_t *len, bool *end);
int names_dirs_after(struct inode *dir, uint64_t id, uint64_t *ids, int max); /* up to `max` directories that the listing has behind that one */
bool names_absent(struct inode *dir, const char *name);
uint64_t names_known(struct inode *dir, const char *name, size_t len); /* which node id it has, 0: not known */
#define NAMES_UNKNOWN FUSE_ROOT_ID
/* With inode.lock: which node id the name has; 0: it is not there; NAMES_UNKNOWN: it may be there, as whatever. */
uint64_t names_id(struct inode *dir, const char *name);
void names_set(struct inode *dir, const char *name, uint64_t id); /* with inode.lock; id 0: it is gone */
/* A reply whose grant of NAMES is good said so, to what was asked when dir.changes was `changes`. */
void names_learn(struct inode *dir, const char *name, size_t len, uint64_t id, uint64_t changes);

/* ---- ahead.c: what will be asked for next, in bulk */
/* Between lease_reply_begin() and _end(): what a page says under a good grant of NAMES; `mark`: read_mark() of when it was asked for. */
void ahead_learn(struct fs *fs, struct inode *dir, const uint8_t *page, size_t len, uint64_t changes, uint64_t mark);
/* Attributes of ino must be asked for. */
void ahead_asked_of(struct fs *fs, fuse_req_t req, struct inode *ino);
/* A look-up, a read, a change of a name must be sent; true: not now, the request comes again. */
bool ahead_lookup(struct fs *fs, fuse_req_t req, struct inode *dir);
bool ahead_read(struct fs *fs, fuse_req_t req, struct inode *ino, off_t off);
void ahead_reads_go(struct fs *fs, struct inode *ino); /* READs of it that wait for a chunk are sent by themselves */
bool ahead_change(struct fs *fs, fuse_req_t req, struct inode *dir);
void ahead_used(struct fs *fs, fuse_req_t req, struct inode *dir); /* a name was taken out of it here */
void ahead_foreign(struct inode *dir);
void ahead_cost(struct call *c, enum ahead_what what); /* c, of a name in c->ino, was answered after all */
/* Of what may have been fetched ahead something was of use. With inode.lock of dir. */
void ahead_paid(struct inode *dir, enum ahead_what what);
void ahead_was_read(struct fs *fs, struct inode *ino);

/* ---- recover.c */
void recover_start(struct server *s);
/* A lock was granted or (F_UNLCK) dropped; ends are inclusive. */
struct held_lock {
	uint64_t owner, start, end, fh; /* fh: the stream that it was taken through, 0: not known */
	uint32_t type, pid;
	bool flock;
	uint8_t token[HAND_TOKEN]; /* it stands beside those of another node under this token; zeros: none */
};
void recover_note_lock(struct inode *ino, uint64_t owner, bool flock, uint32_t type, uint64_t start, uint64_t end, uint32_t pid, const struct stream *st);
void recover_locks_each(struct inode *ino, void (*fn)(void *arg, const struct held_lock *h), void *arg); /* with inode.lock */
/* With inode.lock. Is it the description's own, or was it taken through it? And: all such go along with the offer under its token. */
bool recover_lock_is(const struct stream *st, const struct held_lock *h);
void recover_locks_offer(struct stream *st);
void recover_lock_resume(struct inode *ino, struct keep *k);
void recover_forget_locks(struct inode *ino);

/* ---- events.c */
void events_ack(struct server *s, uint64_t id);
int events_start(struct server *s);

/* ---- resume.c: going on with what an earlier spritefs had */
int resume_tables(struct fs *fs, struct error *e);
void resume_go(struct fs *fs); /* the kernel's requests are about to be read */
void resume_tick(struct fs *fs, uint64_t now);
/* The record of that kind for this request of the kernel, which has come again: NULL, or the caller's to free. */
struct keep *resume_claim(struct fs *fs, enum keep_kind kind, uint64_t unique);
void resume_unclaim(struct fs *fs, struct keep *k); /* of KEEP_CALL: it was of no use; takes it over */

/* ---- session.c: the kernel's side */
int session_mount(struct fs *fs, bool nosuid, struct error *e);
int session_resume(struct fs *fs, int dev, struct error *e); /* the mount of an earlier spritefs */
int session_run(struct fs *fs); /* until unmounted */
void session_unmount(struct fs *fs);
int session_reply_on(int fd); /* this thread's next answers go to that clone; returns the one before */
int session_fd(void);
/* The number of the request that this thread handles; has it been asked before, of an earlier spritefs? */
uint64_t session_unique(void);
bool session_resent(void);
const void *session_request(size_t *len); /* what this thread is handling, as the kernel sent it */
bool session_second(void); /* it has been put aside before: park.c */
/* Handles a request that was put aside, from its start, answering on that clone; its fuse_req_t is gone. */
void session_replay(struct fs *fs, const void *bytes, size_t len, int fd, bool interrupted);
struct keep *session_buffer_record(void *buf); /* a request's buffer lies in a record; the data may be kept where it is */

int session_bump_epoch(struct fs *fs); /* the kernel looks up every name again; -errno when it cannot */
bool session_kill_suid(void); /* of the request being handled: the kernel wants set-id bits cleared */
/* Returns when each RELEASE that the kernel had handed out before has come to its handler. */
void session_settle_releases(void);
void *session_buffer_take(void); /* the handler keeps the request's buffer */
void session_buffer_give(void *buf);
/* Is somebody serving this directory already? 1 yes, 0 no (a dead mount has been removed), -errno. */
int session_busy(const char *dir);

/* ---- park.c: requests put aside, to be handled anew from their start, once. Not writes. */
struct parked;
struct parked *park_new(struct fs *fs, fuse_req_t req, struct inode *at); /* NULL: it has been put aside before, or no memory */
void park_put(struct parked *p, struct list *waiters); /* with the lock of `at`, whose list that is; its handler is done with it */
void park_drop(struct parked *p); /* not put aside after all; NULL is allowed */
void park_take(struct list *to, struct list *waiters); /* with that lock: all, for park_again() */
void park_take_reads(struct list *to, struct list *waiters, uint64_t node); /* with that lock: READs of that node */
void park_again(struct fs *fs, struct list *parked);
void park_tick(struct fs *fs);

/* ---- ops_read.c: contents kept here, see blocks.h */
/* To be taken before contents are asked for, of whatever files. */
uint64_t read_mark(struct fs *fs);
/*
 * Between lease_reply_begin() and _end(): a reply that granted DATA under `seq` brought `len` bytes from `off` on (the beginning of a block); `end`: there
 * are no more behind them; `given`: so many of them the kernel is told now.
 */
void read_keep(struct inode *ino, uint64_t mark, uint64_t seq, uint64_t off, const struct iovec *iov, int niov, size_t len, bool end, size_t given);
void read_begin(struct call *c); /* a READ of c->ino, before it is sent */
void read_end(struct call *c);	 /* it was answered, or is given up; ended with c at the latest */
void read_settle(struct fs *fs, struct inode *ino, uint64_t until); /* waits for those begun before, until clock_boot_ns() is that; not from a handler or a completion */
/* c changes the contents of ino, one of its own: from before it is sent until before it is answered. Ended with c at the latest. */
void read_change_begin(struct call *c, struct inode *ino);
void read_change_end(struct call *c);

/* ---- cred.c */
int cred_groups(pid_t tid, uint32_t **groups, size_t *n, void *(*alloc)(void *arg, size_t n), void *arg);

/* ---- operations */
void ops_name(struct fuse_lowlevel_ops *ops);
void ops_attr(struct fuse_lowlevel_ops *ops);
void ops_file(struct fuse_lowlevel_ops *ops);
void ops_read(struct fuse_lowlevel_ops *ops);
void ops_dir(struct fuse_lowlevel_ops *ops);
void ops_lock(struct fuse_lowlevel_ops *ops);
struct inode *ops_entry_take(struct fs *fs, struct domain *dom, const Sprite__Fs__Entry *e, bool names, struct fuse_entry_param *p);
uint64_t ops_want_dir(const struct call *c); /* what a change of names asks for */
struct inode *ops_entry_known(struct fs *fs, struct inode *dir, const char *name, size_t len, struct fuse_entry_param *p);
void ops_gone(struct call *c, bool sure); /* c has removed or replaced what it names */
bool ops_may_search(struct fs *fs, struct inode *dir, uid_t uid);
bool ops_names_taken(struct inode *dir, uint64_t lease, uint64_t seq);
/* `name` was made in c->ino, or may have been: a page that was read meanwhile may be without it. c->seq: `changes` when it began, kept up if that was the last. */
void ops_name_made(struct call *c, const char *name);
void ops_dir_changed(struct fs *fs, struct inode *dir, const Sprite__Fs__Attr *a, uint64_t mark);
void ops_unlock_begin(struct inode *ino);
void ops_unlock_end(struct inode *ino);
void ops_unlock_owner(struct fs *fs, struct inode *ino, uint64_t owner, fuse_req_t req);

/* ---- ctl.c */
int ctl_start(struct fs *fs, const char *path, struct error *e);

#endif
