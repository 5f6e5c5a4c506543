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
#include "fs/client/call.h"
#include "fs/client/state.h"

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

/*
 * What is mounted is a directory below the root that the kernel makes by itself, and which means the same here. The kernel's own is made before INIT says that there are ACLs: it never keeps
 * what was answered of those (ACL_DONT_CACHE), and every path that somebody other than root walks from there costs a message; see mount.c.
 */
#define ROOT_ID 2
#define ROOT_DIR ".root"

/* ---- home.c: what is known of home domains */
#define HOME_BOUND_NS 1000000000ull /* for how long names and attributes are believed after the home was asked, */
#define HOME_TOLD_NS 30000000000ull /* or for so long, as long as it would have told that they have changed: of stores through a shared mapping, and over a link that is cut, nobody is told */
/* `then`: server.told, or told_rights, when it was asked. */
static inline uint64_t home_bound(uint64_t now, uint64_t then)
{
	return now && now == then ? HOME_TOLD_NS : HOME_BOUND_NS;
}
void home_event(struct server *s, const Sprite__Fs__Event *ev); /* the home tells of a change, or that it tells from now on; NULL: not any more */
void home_attr(struct fs *fs, struct inode *ino, const Sprite__Fs__Attr *a); /* they came */
bool home_fresh(struct inode *ino, struct home_attr *a); /* what came less than home_bound() ago */
bool home_no_cap(struct inode *ino); /* so has been learnt that it has no capabilities */
void home_changed(struct inode *ino); /* by a call of ours that is answered; may be NULL */
bool home_let_in(const struct rpc_msg *out); /* an answer to Refresh: does it say that who asked may use the home? */
bool home_roots(const struct inode *ino); /* with inode.lock: nobody but root can change it */
void home_end(struct inode *ino);
/* Around a look-up that is sent; id 0: the name is not there. */
void home_note(struct call *c);
void home_learn(struct call *c, const char *name, uint64_t id);
/* From memory, perhaps after a Refresh. false: it has to be sent. */
bool home_lookup(struct fs *fs, fuse_req_t req, struct inode *dir, const char *name);
bool home_getattr(struct fs *fs, fuse_req_t req, struct inode *ino);

/* Any open of it, for the server to find an unlinked file by; 0: none. */
uint64_t inode_any_open(struct inode *ino);
/* One open for writing if there is one, else any. */
uint64_t inode_any_writer(struct inode *ino);
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

/* ---- stream.c; stream_local.c: what is open here only */
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
/* One that is released and open at the server: true if it stays so for a while, with the caller's reference. */
bool stream_spare(struct fs *fs, struct stream *st);
/* The same without waiting; then call_submit(c). */
void stream_open_local_then(struct inode *ino, struct call *c);
/* Closes an open of the server that no stream has. Takes over a reference of ino. */
void stream_opened(struct fs *fs, struct stream *st, uint64_t open, bool local); /* the server knows it by `open` from now on; `local`: it was open only here when that was asked */
void stream_open_fill(struct stream *st, Sprite__Fs__OpenReq *m, Sprite__Fs__Cred *cred); /* what opens it again at the server */
void stream_open_start(struct fs *fs, struct stream *st, call_done done, void *arg); /* asks that; takes over a reference of st, which done finds in fi.fh */
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
bool hand_tail_begin(struct stream *st, uint64_t off); /* likewise at where one stands that stands for another: an append */
void hand_tail_done(struct stream *st, uint64_t end);
bool hand_write_begin(struct stream *st, uint64_t off); /* is this write one at the shared offset? */
void hand_write_done(struct stream *st, uint64_t off, uint64_t size, uint64_t at);
void ops_hand(struct fuse_lowlevel_ops *ops);

/* ---- prefix.c */
int prefix_start(struct fs *fs, struct error *e);
void prefix_changed(struct fs *fs);
void prefix_tick(struct fs *fs, uint64_t now); /* every 100 ms: asks for the table, renews */
int prefix_resume(struct fs *fs, struct domain **doms, size_t room); /* servers, domains, nodes of an earlier spritefs; how many domains */
struct pnode *prefix_node(struct fs *fs, const char *path); /* made when missing */
struct domain *prefix_domain(struct fs *fs, unsigned index); /* NULL: none */
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
#define LEASE_GUESS 0.01 /* and what is known of a directory that is being changed here: for the checks of one system call, which are up to four */
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
void lease_dir_changes(struct inode *ino); /* by a call that is not queued, if it is a directory; NULL: nothing */
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
bool wb_flush_wait(struct fs *fs, struct inode *ino, bool recovery); /* not from a handler or a completion. recovery: false when the queue waits for another one, and this one is to begin again */
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
bool dirq_paused(struct server *s); /* until it is drained: the server was restarted in the middle of a batch */
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
struct call *here_call(fuse_req_t req, enum fs_op op, struct inode *dir, call_done done); /* to be queued: nobody in the kernel waits for it; NULL: no memory, answered */
void here_was_set(struct call *c, int err, struct rpc_msg *out);
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
#define NAMES_UNKNOWN 1
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

/* ---- mount.c */
int mount_make(struct fs *fs, bool nosuid, struct error *e);
void mount_end(struct fs *fs);
/* Is somebody serving this directory already? 1 yes, 0 no (a dead mount has been removed), -errno. */
int mount_busy(const char *dir);

/* ---- session.c: the kernel's side */
/* The device has just been mounted: INIT is answered. Then one request more; -errno: the connection has ended. Then the clones, before the first request is read from one of them. */
int session_begin(struct fs *fs, struct error *e);
int session_answer(void);
void session_clones(struct fs *fs);
int session_resume(struct fs *fs, int dev, struct error *e); /* the mount of an earlier spritefs */
int session_run(struct fs *fs); /* until unmounted */
int session_reply_on(int fd); /* this thread's next answers go to that clone; returns the one before */
int session_fd(void);
/* The number of the request that this thread handles; has it been asked before, of an earlier spritefs? */
uint64_t session_unique(void);
bool session_resent(void);
const void *session_request(size_t *len); /* what this thread is handling, as the kernel sent it */
bool session_second(void); /* it has been put aside before: park.c */
uint64_t session_began(void); /* when it was, on clock_mono_ns(); now, if it was not */
/* Handles a request that was put aside, from its start, answering on that clone; its fuse_req_t is gone. */
void session_replay(struct fs *fs, const void *bytes, size_t len, int fd, uint64_t since, bool interrupted);
struct keep *session_buffer_record(void *buf); /* a request's buffer lies in a record; the data may be kept where it is */

bool session_names_back(struct fs *fs); /* may that be done here? The kernel takes away what is mounted on a name that it drops, and guests have /proc, /dev, /sprite mounted on their home's */
int session_bump_epoch(struct fs *fs); /* the kernel looks up every name again; -errno when it cannot */
bool session_kill_suid(void); /* of the request being handled: the kernel wants set-id bits cleared */
/* Returns when each RELEASE that the kernel had handed out before has come to its handler. */
void session_settle_releases(void);
/* Has every request that the kernel asks again, after a spritefs that was killed, come to its handler? May say no for a while longer. */
bool session_asked_again(struct fs *fs);
void *session_buffer_take(void); /* the handler keeps the request's buffer */
void session_buffer_give(void *buf);

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
