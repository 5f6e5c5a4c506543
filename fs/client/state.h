/* SPDX-License-Identifier: Apache-2.0 */
/* What spritefs knows: servers, domains, nodes of the prefix table, inodes, open files, the mount. Who changes what, and under which locks, is told in client.h and by the files named here. */
#ifndef FS_CLIENT_STATE_H
#define FS_CLIENT_STATE_H
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
	atomic_uint_fast64_t told; /* of a home: since its event of this number it tells of changes of what is watched, and none came; 0: it does not */
	atomic_uint_fast64_t told_rights; /* the same, of revoked rights */
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
		uint64_t at;   /* clock_mono_ns() */
		uint64_t told; /* server.told_rights when he asked */
	} let_in[8]; /* home: whose call its server has answered last, and when: nobody else is served from what is kept here */
	atomic_uint_fast64_t home_mounts; /* home: RefreshRep.mounts that came last */
	struct inode *root;
};

/* A node of the prefix table: "/hosts/ws1" is root -> "hosts" -> "ws1". Nodes stay; `present` says whether the table has it now. */
struct pnode {
	struct pnode *parent, *child, *next; /* children in order of arrival: their index is a readdir cookie */
	char *name;
	struct domain *dom; /* NULL: only on the way to others */
	bool present, was; /* was: before the table that is being taken in */
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
	bool dir_told;	   /* of a directory: the times in `guess` have been told to somebody, nothing has been changed since, and nobody else could */
	struct timespec dir_told_at;
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
	struct list young; /* fs.young, or, when it is released, fs.spares; under fs.wait_lock */
	uint64_t opened_ns; /* when it came there */
	struct inode *ino;
	uint32_t refs;	  /* inode.lock */
	int flags;	  /* O_* of the open */
	bool dir;
	atomic_uint_fast64_t open; /* the server's id */
	uint64_t epoch; /* of the server's life that `open` is of; inode.lock */
	bool released; /* inode.lock */
	bool closes;   /* resume.c: its close is in the queue that an earlier spritefs left */
	bool spare;    /* inode.lock: and its open at the server can be had, stream_local.c */
	uint64_t flushed; /* boot clock: when somebody closed it last (FLUSH); its RELEASE is most likely on its way; inode.lock */
	unsigned ndirty; /* chunks of write-behind that need it; inode.lock */
	bool unlock;	 /* its close drops the flock of unlock_owner */
	uint64_t unlock_owner;
	uint64_t flock_owner; /* of the description itself, for flock and OFD locks; 0: not known yet */
	/* handed over, see hand.c: inode.lock */
	bool tail; /* SPRITE_IOC_TAIL: a write at `expect` is an append */
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
	uint64_t names_until;	   /* boot clock: for so long the kernel may go on with the names that it had from an earlier spritefs, while no Renew is answered; 0: no longer */
	struct list claims;	   /* hand.c */
	struct list young;	   /* streams of home domains that the server does not know yet, oldest first */
	struct list spares;	   /* and those that are released, and still open at the server */
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

#endif
