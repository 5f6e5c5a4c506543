// SPDX-License-Identifier: Apache-2.0
/*
 * Going on with the mount of a spritefs that was killed: its holder started us with the kernel's device and the records of keep.h.
 *
 * For the servers we are the same client (epoch, numbers of calls, instance), for the kernel the same daemon (node ids, numbers of open files). So:
 *  1. Opens and locks at the servers stay as they are. What the servers believe to have granted us stays granted; we believe to hold nothing: a recall is
 *     acknowledged after the kernel has been told, whatever we know. The kernel is made to forget what files hold; names it keeps, unless the first Renew
 *     says that our leases are over, or is not answered in time: a directory whose name it drops has none until somebody has looked it up again, and
 *     getcwd(2) fails in it (sqlite3 could not open its database). What homes have told counts by the clock, and is forgotten.
 *  2. Unsent data are in their chunks before the first recall can come: it sends them, then acknowledges.
 *  3. The kernel asks again whatever it had not been answered. A call that changes something goes out under the number it was sent under before
 *     (KEEP_CALL): the server answers it from its reply cache, or executes it if it had not come that far.
 *  4. A request whose process has died meanwhile is not asked again. What it left, an open at the server perhaps, is looked for after CLAIM_NS, when all that the
 *     kernel does ask again has come to its handler (on a busy machine that may be later: one that came after would be executed a second time); so are opens of
 *     ours that were under way (files that had been open here only).
 *  5. A server restarted, or that gave us up, while nobody listened is found out by the next Renew, as ever: lease.c, recover.c.
 *
 * Runs before any other thread but those of rpc, so that nothing is locked here that its functions do not lock themselves.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include "conf/clock.h"
#include "conf/log.h"
#include "fs/client/kept.h"
#include "fs/client/pipe_agent.h"

#define DOMAINS_MAX 4096
#define CLAIM_NS    2000000000ull
#define NAMES_NS    1000000000ull /* a lease was renewed lately, or it had been dropped */

struct resuming {
	struct fs *fs;
	struct domain *doms[DOMAINS_MAX];
	unsigned ndoms;
	struct stream **streams;
	size_t nstreams, room;
	struct hash chunks; /* by number: length + 1 */
	bool bad;
};

static void inode_one(void *arg, struct keep *k)
{
	struct resuming *r = arg;
	struct kept_inode *i = (struct kept_inode *)k->data;

	if (i->domain >= r->ndoms || !r->doms[i->domain] || i->handle_len > FS_HANDLE_MAX || k->len < sizeof(*i) + i->handle_len)
		r->bad = true;
	else
		inode_resume(r->fs, r->doms[i->domain], k);
}

static struct inode *known(struct resuming *r, uint64_t id)
{
	return hash_get_u64(&r->fs->by_id, id);
}

static void stream_one(void *arg, struct keep *k)
{
	struct resuming *r = arg;
	struct inode *ino = known(r, ((struct kept_stream *)k->data)->ino);

	if (!ino) { /* the kernel let go of it, and its record was to go too */
		keep_free(k);
		return;
	}
	if (r->nstreams == r->room) {
		r->room = r->room ? r->room * 2 : 64;
		r->streams = realloc(r->streams, r->room * sizeof(*r->streams));
		if (!r->streams)
			abort();
	}
	if ((((struct kept_stream *)k->data)->flags & O_ACCMODE) != O_RDONLY)
		atomic_fetch_add(&ino->unsettled, 1); /* what it wrote through a map may not be seen everywhere yet: its first close asks */
	r->streams[r->nstreams++] = stream_resume(r->fs, ino, k);
}

static void lock_one(void *arg, struct keep *k)
{
	struct inode *ino = known(arg, ((struct kept_lock *)k->data)->ino);

	if (ino)
		recover_lock_resume(ino, k);
	else
		keep_free(k);
}

static void chunk_one(void *arg, struct keep *k)
{
	struct resuming *r = arg;
	struct kept_chunk *x = (struct kept_chunk *)k->data;
	struct inode *ino = known(r, x->ino);
	struct stream *st = stream_at(r->fs, x->fh);

	if (!x->len) {
		keep_free(k);
	} else if (!ino || !st) {
		log_error("%llu bytes written here are lost: their file is not known any more", (unsigned long long)x->len);
		keep_free(k);
	} else {
		hash_set_u64(&r->chunks, k->key, (void *)(uintptr_t)(x->len + 1), NULL);
		wb_resume(r->fs, ino, st, k);
	}
}

static void claim_one(void *arg, struct keep *k)
{
	hand_resume(((struct resuming *)arg)->fs, k);
}

static void pipe_one(void *arg, struct keep *k)
{
	struct resuming *r = arg;
	struct kept_pipe *x = (struct kept_pipe *)k->data;
	struct inode *ino = known(r, x->ino);

	if (!ino || pipe_agent_resume(r->fs, inode_hold(r->fs, ino), k) < 0)
		keep_free(k);
}

static void op_one(void *arg, struct keep *k)
{
	dirq_resume(((struct resuming *)arg)->fs, k);
}

static void taken_one(void *arg, struct keep *k)
{
	struct resuming *r = arg;
	struct kept_taken *x = (struct kept_taken *)k->data;
	uintptr_t len = (uintptr_t)hash_get_u64(&r->chunks, x->chunk);

	if (len && len - 1 >= x->len)
		atomic_store(&x->applied, 1);
	if (hash_set_u64(&r->fs->old_taken, k->key, k, NULL) < 0)
		abort();
}

static void call_one(void *arg, struct keep *k)
{
	struct resuming *r = arg;
	struct kept_call *x = (struct kept_call *)k->data;

	if (!x->seq) {
		keep_free(k);
		return;
	}
	rpc_seq_hold(x->seq);
	if (hash_set_u64(&r->fs->old_calls, k->key, k, NULL) < 0)
		abort();
}

int resume_tables(struct fs *fs, struct error *e)
{
	struct resuming *r = calloc(1, sizeof(*r));
	struct keep_head *h = keep_head();
	uint64_t next_id = h->next_id;
	size_t i;

	if (!r)
		return error_set(e, ENOMEM, "out of memory");
	r->fs = fs;
	r->ndoms = (unsigned)prefix_resume(fs, r->doms, DOMAINS_MAX);
	keep_each(KEEP_INODE, inode_one, r);
	keep_each(KEEP_STREAM, stream_one, r);
	keep_each(KEEP_LOCK, lock_one, r);
	keep_each(KEEP_CLAIM, claim_one, r);
	keep_each(KEEP_CHUNK, chunk_one, r);
	dirq_resume_begin(fs);
	keep_each(KEEP_OP, op_one, r);
	keep_each(KEEP_TAKEN, taken_one, r);
	keep_each(KEEP_CALL, call_one, r);
	fs->next_id = next_id;
	fs->names_until = clock_boot_ns() + NAMES_NS;
	for (i = 0; i < r->ndoms; i++)
		if (r->doms[i] && r->doms[i]->home && r->doms[i]->attached)
			fs->names_until = 0;
	for (i = 0; i < r->nstreams; i++)
		stream_resumed(fs, r->streams[i]);
	inode_resumed(fs);
	keep_each(KEEP_PIPE, pipe_one, r); /* starts a thread */
	pipe_agent_look(fs);
	log_note("%s: going on with %zu inodes, %zu open files, %llu bytes not yet sent", fs->mount, inode_count(fs), r->nstreams,
		(unsigned long long)atomic_load(&fs->dirty_bytes));
	hash_clear(&r->chunks, NULL);
	free(r->streams);
	i = r->bad;
	free(r);
	return i ? error_set(e, EPROTO, "%s: what the earlier spritefs left is not consistent", fs->mount) : 0;
}

void resume_go(struct fs *fs)
{
	struct hash_iter it = {0};
	struct inode **all, *ino;
	struct server *s;
	size_t i, n = 0;
	bool again;

	pthread_mutex_lock(&fs->inode_lock);
	all = calloc(fs->by_id.count + 1, sizeof(*all));
	while (all && (ino = hash_next(&fs->by_id, &it)))
		if (ino->nlookup) {
			ino->refs++;
			all[n++] = ino;
		}
	pthread_mutex_unlock(&fs->inode_lock);
	for (i = 0; i < n; i++) {
		lease_drop_pages(fs, all[i]);
		inode_put(fs, all[i]);
	}
	free(all);
	fs->old_until = clock_boot_ns() + CLAIM_NS;
	list_each(s, &fs->servers, link) {
		if (!s->lease_ms)
			continue;
		if (events_start(s) < 0)
			log_warn("%s: no thread for its events", s->name);
		pthread_mutex_lock(&s->lock);
		again = s->epoch && s->recovered != s->epoch;
		pthread_mutex_unlock(&s->lock);
		if (again)
			recover_start(s);
	}
}

struct keep *resume_claim(struct fs *fs, enum keep_kind kind, uint64_t unique)
{
	struct keep *k;

	pthread_mutex_lock(&fs->stream_lock);
	k = hash_take_u64(kind == KEEP_CALL ? &fs->old_calls : &fs->old_taken, unique);
	pthread_mutex_unlock(&fs->stream_lock);
	return k;
}

void resume_unclaim(struct fs *fs, struct keep *k)
{
	pthread_mutex_lock(&fs->stream_lock);
	if (hash_set_u64(&fs->old_calls, k->key, k, NULL) < 0)
		abort();
	pthread_mutex_unlock(&fs->stream_lock);
	if (!fs->old_until)
		fs->old_until = clock_boot_ns() + CLAIM_NS;
}

/* ---- what nobody asked for again */

static void orphan_answered(struct call *c, int err, struct rpc_msg *out)
{
	uint64_t open = 0;

	if (!err && c->op == FS_OPEN)
		open = ((Sprite__Fs__OpenRep *)out->msg)->open;
	else if (!err && c->op == FS_CREATE)
		open = ((Sprite__Fs__CreateRep *)out->msg)->open;
	else if (!err && c->op == FS_HAND)
		open = ((Sprite__Fs__HandRep *)out->msg)->open;
	if (open && !stream_has(c->fs, open) && !hand_has(c->fs, open)) /* the kernel may have had its answer all the same */
		stream_close_id(c->fs, inode_hold(c->fs, c->ino), open, false, 0);
}

/*
 * An open that was executed for a process that has died: asked under its number the server says which it is. If it never came to the server, it is
 * refused there, since there is no handle in it.
 */
static void orphan(struct fs *fs, struct keep *k)
{
	struct kept_call *x = (struct kept_call *)k->data;
	struct domain *d = prefix_domain(fs, x->domain);
	struct call *c = NULL;

	if (d && (x->op == FS_OPEN || x->op == FS_CREATE || x->op == FS_HAND))
		c = call_new(fs, NULL, (enum fs_op)x->op, inode_hold(fs, d->root), orphan_answered);
	if (!c) {
		rpc_seq_drop(x->seq);
		keep_free(k);
		return;
	}
	if (x->op == FS_OPEN)
		c->m.open.cred = &c->cred;
	else if (x->op == FS_HAND)
		c->m.hand.cred = &c->cred;
	else
		c->m.create.cred = &c->cred;
	c->keep = k;
	c->seq_at = &x->seq;
	c->seq_again = x->seq;
	call_submit(c);
}

static void names_tick(struct fs *fs, uint64_t now)
{
	struct server *s;
	bool over = false;

	if (!fs->names_until || now < fs->names_until)
		return;
	fs->names_until = 0;
	pthread_mutex_lock(&fs->table_lock);
	list_each(s, &fs->servers, link)
		over |= s->lease_ms && !atomic_load(&s->leasing);
	pthread_mutex_unlock(&fs->table_lock);
	if (over)
		session_bump_epoch(fs);
}

void resume_tick(struct fs *fs, uint64_t now)
{
	struct hash_iter it;
	struct keep *k;

	names_tick(fs, now);
	if (!fs->old_until || now < fs->old_until || !session_asked_again(fs))
		return;
	fs->old_until = 0;
	do {
		memset(&it, 0, sizeof(it));
		pthread_mutex_lock(&fs->stream_lock);
		k = hash_next(&fs->old_calls, &it);
		if (k)
			hash_take_u64(&fs->old_calls, k->key);
		pthread_mutex_unlock(&fs->stream_lock);
		if (k)
			orphan(fs, k);
	} while (k);
	do {
		memset(&it, 0, sizeof(it));
		pthread_mutex_lock(&fs->stream_lock);
		k = hash_next(&fs->old_taken, &it);
		if (k)
			hash_take_u64(&fs->old_taken, k->key);
		pthread_mutex_unlock(&fs->stream_lock);
		keep_free(k);
	} while (k);
}
