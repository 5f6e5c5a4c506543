// SPDX-License-Identifier: Apache-2.0
/*
 * Giving leases back: what the kernel has under them is dropped, then the server is told. (What is granted, and the invariants: lease.c.)
 *
 *	noted -> flushed (write-behind, dirq.c) -> READs under way answered -> dropped by the kernel -> acknowledged, all objects of one event together
 *
 * The kernel is told by as many threads as there are recalls at once: one of them may wait in the kernel for a page that is locked by a READ or WRITE of ours, which the server
 * answers when somebody else has acknowledged; no recall may wait for another one's page.
 *
 * One at a time that will most likely wait for nothing (recall_is_quick()) is done at once by the thread of rpc that received it: two threads less are woken. Should it have to wait
 * all the same, rpc has another thread.
 *
 * No two nodes wait for each other so. Of a file at most one node writes through a description that caches pages (whoever opens it after him for writing is told that it is
 * shared), and that WRITE holds the page of its last bytes; a READ is answered at once while its client owes an acknowledgement (consist.h, rule 6); pages of a mapping are
 * taken by the server without waiting (WriteReq.mapped; rule 9).
 */
#include "fs/client/client.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include "conf/clock.h"
#include "conf/log.h"

#define ATTR	    SPRITE__FS__LEASE_BITS__LEASE_ATTR
#define NAMES	    SPRITE__FS__LEASE_BITS__LEASE_NAMES
#define DATA	    SPRITE__FS__LEASE_BITS__LEASE_DATA
#define WRITE	    SPRITE__FS__LEASE_BITS__LEASE_WRITE
#define IDLE	    4	/* threads that wait for the next recall */
#define THREADS_MAX 256

/* An Event of recalls, acknowledged when all of it is done. */
struct recall {
	struct list link; /* fs.recall_queue */
	struct server *s; /* NULL: nobody waits for an acknowledgement */
	uint64_t id;
	size_t n;
	struct {
		struct inode *ino; /* held */
		uint64_t bits;
	} of[];
};

/* ---- noting */

void recall_note(struct inode *ino, uint64_t bits, const char *one_name, uint64_t seq)
{
	if (bits & NAMES) /* a reply that is being taken in just now speaks of before it */
		atomic_fetch_add(&ino->changes, 1);
	if (one_name)
		names_add(ino, one_name);
	pthread_mutex_lock(&ino->lock);
	if (one_name)
		ino->foreign_at = clock_boot_ns();
	if (bits & NAMES)
		ahead_foreign(ino);
	if (seq > ino->recalled_seq)
		ino->recalled_seq = seq;
	if (one_name)
		bits &= ~(uint64_t)NAMES;
	ino->lease &= ~bits;
	if ((bits & WRITE) && ino->dir_told) /* others are told what the server says, so are we now */
		ino->dir_told = ino->attr_valid = false;
	ino->stamp++;
	if (seq && (bits & (WRITE | DATA)))
		ino->taken_at = clock_boot_ns();
	if (bits & DATA) {
		ino->read_again = ino->was_read;
		ino->was_read = false;
	}
	if (bits & NAMES)
		names_end(ino);
	if (bits & DATA)
		blocks_forget(&ino->blocks);
	if (bits & ATTR) {
		ino->attr_valid = ino->attr_known = ino->no_acl = ino->no_cap = false;
		ino->attr_recalls++;
	}
	pthread_mutex_unlock(&ino->lock);
}

void recall_noted(struct fs *fs)
{
	pthread_rwlock_wrlock(&fs->grant_lock);
	pthread_rwlock_unlock(&fs->grant_lock);
}

/* ---- what the kernel has */

#define INVAL_US 200
#define SETTLE_NS    2000000000ull
#define SETTLE_FEW   4
#define INVAL_ALL_US 500000 /* for all of a recall; then a count of look-ups is mistaken, not the kernel late */

/*
 * The kernel has no inode of this number: it has forgotten it and says so in a moment (FORGET), or a look-up that we have answered is still to be taken in by
 * who asked. That one would make the inode with what we told before the recall, for long: nothing in it compares with an invalidation that came too early.
 * Look-ups that a killed spritefs had counted, and whose answers never came, are waited for once (inode.miscounted).
 */
static void kernel_inval(struct fs *fs, struct inode *ino, off_t off, unsigned *left)
{
	unsigned pause = INVAL_US, waited = 0;

	while (fuse_lowlevel_notify_inval_inode(fs->se, ino->id, off, 0) == -ENOENT && inode_is_awaited(fs, ino)) {
		if (*left < pause) {
			if (waited > INVAL_ALL_US / 2)
				inode_miscounted(fs, ino);
			return;
		}
		*left -= pause;
		waited += pause;
		usleep(pause);
		if (pause < 10000)
			pause *= 2;
	}
}

/* What the kernel has of it. What it does not know by now (after recall_noted()) it will not be told under this lease. */
static void kernel_drop(struct fs *fs, struct inode *ino, uint64_t bits, unsigned *left)
{
	if (!inode_is_known(fs, ino))
		return;
	if (bits & (DATA | NAMES)) /* NAMES: the listing, which it keeps as the directory's pages */
		kernel_inval(fs, ino, 0, left);
	else if ((bits & ATTR) || ((bits & WRITE) && S_ISDIR(ino->type))) /* its times: dir_told */
		kernel_inval(fs, ino, -1, left);
}

static void recall_run(struct fs *fs, struct recall *r)
{
	unsigned left = INVAL_ALL_US;
	uint64_t all = 0, until;
	size_t i;

	for (i = 0; r->s && i < r->n && i < SETTLE_FEW; i++) /* of many few can have been closed in this moment */
		stream_settle(fs, r->of[i].ino);
	for (i = 0; r->s && i < r->n; i++) /* all are on their way before one is waited for */
		if (r->of[i].bits & (WRITE | DATA))
			wb_flush_start(fs, r->of[i].ino);
	for (i = 0; r->s && i < r->n; i++)
		if (r->of[i].bits & (WRITE | DATA))
			wb_flush_wait(fs, r->of[i].ino, false);
	for (i = 0; r->s && i < r->n; i++)
		dirq_flush_wait(fs, r->of[i].ino);
	for (i = 0; i < r->n; i++)
		if (r->of[i].bits & ATTR)
			stream_open_local(fs, r->of[i].ino);
	/* for all of an event together, well below the time for an acknowledgement; pages without a lease are to go soon */
	until = clock_boot_ns() + (r->s ? SETTLE_NS : SETTLE_NS / 40);
	for (i = 0; i < r->n; i++)
		if ((r->of[i].bits & DATA) && (r->s || r->of[i].bits == DATA)) { /* not when leases have run out */
			ahead_reads_go(fs, r->of[i].ino);
			read_settle(fs, r->of[i].ino, until);
		}
	for (i = 0; i < r->n; i++) {
		kernel_drop(fs, r->of[i].ino, r->of[i].bits, &left);
		all |= r->of[i].bits;
	}
	if (all & NAMES)
		session_bump_epoch(fs);
	if (r->s && !fs->stopping) /* without a lock: sending waits for completions, which take ours */
		events_ack(r->s, r->id);
}

static void recall_free(struct fs *fs, struct recall *r)
{
	while (r->n)
		inode_put(fs, r->of[--r->n].ino);
	free(r);
}

/* ---- threads */

static void *recall_main(void *arg);

/* With fs.recall_lock. */
static int thread_more(struct fs *fs)
{
	pthread_t t;
	int r = pthread_create(&t, NULL, recall_main, fs);

	if (r)
		return -r;
	pthread_detach(t);
	fs->recall_threads++;
	return 0;
}

static void *recall_main(void *arg)
{
	struct fs *fs = arg;
	struct list *l;

	pthread_setname_np(pthread_self(), "recall");
	pthread_mutex_lock(&fs->recall_lock);
	while (!fs->stopping) {
		l = list_pop(&fs->recall_queue);
		if (!l && fs->recall_idle >= IDLE)
			break;
		if (!l) {
			fs->recall_idle++;
			pthread_cond_wait(&fs->recall_cond, &fs->recall_lock);
			fs->recall_idle--;
			continue;
		}
		if (!fs->recall_idle && fs->recall_threads < THREADS_MAX)
			thread_more(fs); /* somebody is there for the next one, however long this takes */
		pthread_mutex_unlock(&fs->recall_lock);
		recall_run(fs, list_entry(l, struct recall, link));
		recall_free(fs, list_entry(l, struct recall, link));
		pthread_mutex_lock(&fs->recall_lock);
	}
	fs->recall_threads--;
	pthread_mutex_unlock(&fs->recall_lock);
	return NULL;
}

int recall_start(struct fs *fs)
{
	int r;

	pthread_mutex_lock(&fs->recall_lock);
	r = thread_more(fs);
	pthread_mutex_unlock(&fs->recall_lock);
	return r;
}

/* ---- what is asked back */

static struct recall *recall_new(struct server *s, uint64_t id, size_t room)
{
	struct recall *r = calloc(1, sizeof(*r) + room * sizeof(r->of[0]));

	if (!r)
		abort(); /* an acknowledgement that never comes would hold up another client */
	r->s = s;
	r->id = id;
	return r;
}

/* Takes over a reference. */
static void recall_add(struct recall *r, struct inode *ino, uint64_t bits)
{
	r->of[r->n].ino = ino;
	r->of[r->n++].bits = bits;
}

static void recall_queue(struct fs *fs, struct recall *r)
{
	pthread_mutex_lock(&fs->recall_lock);
	list_add_tail(&fs->recall_queue, &r->link);
	pthread_cond_signal(&fs->recall_cond);
	pthread_mutex_unlock(&fs->recall_lock);
}

/* Nothing here is to be sent or waited for. */
static bool recall_is_quick(struct fs *fs, const struct recall *r)
{
	struct inode *ino;
	bool quick;

	if (r->n > 1)
		return false;
	if (!r->n)
		return true;
	ino = r->of[0].ino;
	pthread_mutex_lock(&ino->lock);
	quick = list_empty(&ino->dirty) && list_empty(&ino->flying) && !dirq_pending(ino) && !ino->nreads[0] && !ino->nreads[1] && !atomic_load(&ino->reads_parked) &&
		(!(r->of[0].bits & ATTR) || !atomic_load(&fs->local_streams) || list_empty(&ino->streams));
	pthread_mutex_unlock(&ino->lock);
	return quick;
}

static void seq_is(struct server *s, uint64_t seq)
{
	uint64_t was = atomic_load(&s->recalled_seq);

	while (was < seq && !atomic_compare_exchange_weak(&s->recalled_seq, &was, seq))
		;
}

/* On a thread of rpc; perhaps several at a time. */
void lease_recall(struct server *s, const Sprite__Fs__Event *ev, struct rpc_stream *stream)
{
	struct recall *all = recall_new(s, ev->id, ev->n_recalls);
	struct fs *fs = s->fs;
	bool at_once;
	size_t i;

	/* before inodes are looked for: one that is made after this compares itself with it */
	for (i = 0; i < ev->n_recalls; i++)
		seq_is(s, ev->recalls[i]->lease_seq);
	server_note_recall(s);
	atomic_fetch_add(&fs->recalls, ev->n_recalls);
	for (i = 0; i < ev->n_recalls; i++) {
		const Sprite__Fs__Recall *r = ev->recalls[i];
		struct inode *ino = inode_by_handle(fs, &r->handle);

		if (!ino)
			continue;
		recall_note(ino, r->bits, r->name && *r->name ? r->name : NULL, r->lease_seq);
		recall_add(all, ino, r->bits);
	}
	recall_noted(fs);
	at_once = recall_is_quick(fs, all) && !atomic_exchange(&fs->recall_at_once, true);
	if (!at_once) {
		recall_queue(fs, all);
		return;
	}
	rpc_stream_leave(stream);
	recall_run(fs, all);
	recall_free(fs, all);
	atomic_store(&fs->recall_at_once, false);
}

void recall_drop(struct fs *fs, struct inode *ino, uint64_t bits)
{
	struct recall *r = recall_new(NULL, 0, 1);

	recall_add(r, inode_hold(fs, ino), bits);
	recall_queue(fs, r);
}

/* Pages of this file came into the kernel's cache without a lease: they go as soon as they can. */
void lease_drop_pages(struct fs *fs, struct inode *ino)
{
	recall_drop(fs, ino, DATA);
}
