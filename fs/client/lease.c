// SPDX-License-Identifier: Apache-2.0
/*
 * Leases: what the kernel and this daemon may remember, and how it is taken back.
 *
 * A reply of the server may grant bits of LeaseBits on the objects it speaks of. Then the kernel is given long time-outs (ATTR: attributes, NAMES:
 * entries, absent names and listings of a directory, DATA: pages) and it asks no more. The server recalls what another client's change would make
 * stale, and applies the change after our acknowledgement. "Kernel caches are valid exactly while a lease is held."
 *
 * Invariants
 *  1. A grant that a recall has overtaken is void: lease_seq of the reply <= the highest one recalled for that object. Inodes that are new here are
 *     compared with the highest seq recalled from that server at all, as recalls of objects unknown here leave no other trace.
 *  2. A reply with a valid grant is written to the kernel under `grant_lock` (shared); a recall notes its seq, then takes grant_lock once
 *     (exclusively), then invalidates. So the kernel never gets a long time-out after the invalidation that should have ended it. What happens between
 *     the write and the kernel's use of it is the kernel's: it compares attr_version, takes the directory's lock, waits for pages being read.
 *  3. No thread of ours waits for a lock that a request holds until we answer it. notify_inval_entry would: for the directory's inode lock. A local create
 *     whose answer depends on our acknowledgement (A and B both create in D) would be waited for in vain, and after a kill -9 such a thread keeps the
 *     process, and with it the connection, for ever. So names are taken back by FUSE_NOTIFY_INC_EPOCH: the kernel looks every name up again.
 *  4. Leases end with the server's: lease_ms after the sending of the last Renew that was answered; a little before that all is dropped.
 */
#include "fs/client/client.h"
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include "conf/clock.h"
#include "conf/log.h"

#define MARGIN_NS (1000 * 1000000ull)

void lease_init(struct fs *fs)
{
	pthread_rwlockattr_t a;
	pthread_condattr_t c;

	pthread_rwlockattr_init(&a);
	pthread_rwlockattr_setkind_np(&a, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&fs->grant_lock, &a);
	pthread_rwlockattr_destroy(&a);
	pthread_mutex_init(&fs->recall_lock, NULL);
	pthread_cond_init(&fs->recall_cond, NULL);
	pthread_condattr_init(&c);
	pthread_condattr_setclock(&c, CLOCK_MONOTONIC); /* waits end though somebody sets the clock */
	pthread_cond_init(&fs->wb_cond, &c);
	pthread_condattr_destroy(&c);
	list_init(&fs->recall_queue);
}

/* ---- granting */

void lease_reply_begin(struct fs *fs)
{
	pthread_rwlock_rdlock(&fs->grant_lock);
}

void lease_reply_end(struct fs *fs)
{
	pthread_rwlock_unlock(&fs->grant_lock);
}

/* What WRITE implies. Of a directory it is of no use without the names. */
static uint64_t lease_closure(const struct inode *ino, uint64_t lease)
{
	if (!(lease & SPRITE__FS__LEASE_BITS__LEASE_WRITE))
		return lease;
	if (!S_ISDIR(ino->type))
		return lease | SPRITE__FS__LEASE_BITS__LEASE_DATA | SPRITE__FS__LEASE_BITS__LEASE_ATTR;
	return lease & SPRITE__FS__LEASE_BITS__LEASE_NAMES ? lease | SPRITE__FS__LEASE_BITS__LEASE_ATTR : lease & ~(uint64_t)SPRITE__FS__LEASE_BITS__LEASE_WRITE;
}

/* Between begin and end: takes what was granted and is not void; returns those bits. */
uint64_t lease_take(struct inode *ino, uint64_t lease, uint64_t seq)
{
	struct server *s = ino->dom ? ino->dom->server : NULL;
	uint64_t got = 0;

	if (!lease || !s || !atomic_load(&s->leasing))
		return 0;
	if (!s->fs->has_epoch)
		lease &= ~(uint64_t)SPRITE__FS__LEASE_BITS__LEASE_NAMES; /* could not be given back in every case */
	lease = lease_closure(ino, lease);
	pthread_mutex_lock(&ino->lock);
	if (ino->giving)
		lease &= ~(uint64_t)SPRITE__FS__LEASE_BITS__LEASE_WRITE;
	if (seq > ino->recalled_seq && ino->born_seq < seq) {
		ino->lease |= lease;
		got = lease;
	}
	if (ino->setting) /* held, but what this reply says may be of before our own change */
		got &= ~(uint64_t)SPRITE__FS__LEASE_BITS__LEASE_ATTR;
	pthread_mutex_unlock(&ino->lock);
	return got;
}

/*
 * Nothing can have overtaken this grant: nobody else could see the file before its directory was recalled, and that waits for the reply that is being
 * taken in now.
 */
uint64_t lease_born(struct inode *ino, uint64_t lease)
{
	struct server *s = ino->dom->server;
	uint64_t got;

	pthread_mutex_lock(&ino->lock);
	/* what was dropped meanwhile (the server is away) stays dropped */
	got = s && atomic_load(&s->leasing) ? lease_closure(ino, lease) & ino->lease : 0;
	ino->lease = got;
	pthread_mutex_unlock(&ino->lock);
	return got;
}

void lease_told(struct inode *ino)
{
	pthread_mutex_lock(&ino->lock);
	if (ino->lease & SPRITE__FS__LEASE_BITS__LEASE_ATTR)
		ino->told = ino->stamp;
	pthread_mutex_unlock(&ino->lock);
}

bool lease_size_told(struct inode *ino)
{
	bool r;

	pthread_mutex_lock(&ino->lock);
	r = (ino->lease & SPRITE__FS__LEASE_BITS__LEASE_ATTR) && ino->told == ino->stamp;
	pthread_mutex_unlock(&ino->lock);
	return r;
}

bool lease_has(struct inode *ino, uint64_t bits)
{
	bool r;

	pthread_mutex_lock(&ino->lock);
	r = (ino->lease & bits) == bits;
	pthread_mutex_unlock(&ino->lock);
	return r;
}

/*
 * The times of a directory that is changed here are told before the server has made the change, milliseconds later. Who has been told them must not find it changed by that: so they stay
 * for as long as we have it alone. With inode.lock.
 */
static void dir_as_told(const struct inode *ino, struct stat *st)
{
	if (ino->dir_told)
		st->st_mtim = st->st_ctim = ino->dir_told_at;
}

/* Of what is in `guess`: a change of names made both times; what was set shows in its ctime, which is the server's alone. */
static void dir_tell(struct inode *ino)
{
	if (!S_ISDIR(ino->type) || ino->set_pend > atomic_load(&ino->dom->server->q.done) || ino->guess.st_mtim.tv_sec != ino->guess.st_ctim.tv_sec || ino->guess.st_mtim.tv_nsec != ino->guess.st_ctim.tv_nsec)
		return;
	ino->dir_told = true;
	ino->dir_told_at = ino->guess.st_mtim;
}

void lease_dir_changes(struct inode *ino)
{
	if (!ino || !S_ISDIR(ino->type))
		return;
	pthread_mutex_lock(&ino->lock);
	if (ino->dir_told) {
		ino->dir_told = false;
		ino->attr_valid = false;
	}
	pthread_mutex_unlock(&ino->lock);
}

/*
 * Keeps attributes that came with a reply which granted `got`; of two replies the one with the higher change counts. One whose grant is void may be of
 * before another client's change, even when ATTR has been granted anew since; but what is kept of a lower change (of before a write of our own, when
 * its reply could not grant since somebody waits for the file) is over all the same.
 */
void lease_keep_attr(struct fs *fs, struct inode *ino, const Sprite__Fs__Attr *a, uint64_t got)
{
	uint64_t gen = atomic_load(&fs->victim_gen);

	if (!a)
		return;
	if (!(got & SPRITE__FS__LEASE_BITS__LEASE_ATTR)) {
		lease_attr_floor(ino, a->change);
		return;
	}
	pthread_mutex_lock(&ino->lock);
	if ((ino->lease & SPRITE__FS__LEASE_BITS__LEASE_ATTR) && (a->change > ino->attr_change || (!ino->attr_valid && a->change == ino->attr_change))) {
		inode_stat(fs, ino->dom, a, &ino->attr);
		dir_as_told(ino, &ino->attr);
		ino->attr_change = a->change;
		ino->no_acl = !a->has_acl;
		ino->no_cap = a->no_cap;
		ino->attr_gen = gen;
		ino->attr_valid = ino->attr_known = true;
	}
	pthread_mutex_unlock(&ino->lock);
}

/* After a change of our own whose reply did not bring the attributes: only what is newer than what we knew counts from now on. */
void lease_forget_attr(struct inode *ino)
{
	pthread_mutex_lock(&ino->lock);
	ino->attr_valid = ino->no_acl = ino->no_cap = false;
	ino->attr_change++;
	ino->stamp++;
	pthread_mutex_unlock(&ino->lock);
}

void lease_attr_floor(struct inode *ino, uint64_t change)
{
	pthread_mutex_lock(&ino->lock);
	if (change > ino->attr_change) {
		ino->attr_change = change;
		ino->attr_valid = ino->no_acl = ino->no_cap = false;
		ino->stamp++;
	}
	pthread_mutex_unlock(&ino->lock);
}

void lease_no_cap(struct inode *ino)
{
	pthread_mutex_lock(&ino->lock);
	ino->no_cap = ino->lease & SPRITE__FS__LEASE_BITS__LEASE_ATTR;
	pthread_mutex_unlock(&ino->lock);
}

uint64_t lease_mark(struct inode *ino)
{
	uint64_t n;

	pthread_mutex_lock(&ino->lock);
	n = ino->lease & SPRITE__FS__LEASE_BITS__LEASE_ATTR ? ino->attr_recalls + 1 : 0;
	pthread_mutex_unlock(&ino->lock);
	return n;
}

bool lease_held_since(struct inode *ino, uint64_t mark)
{
	return mark && lease_mark(ino) == mark;
}

bool lease_attr(struct fs *fs, struct inode *ino, struct stat *st)
{
	bool r;

	pthread_mutex_lock(&ino->lock);
	r = ino->attr_valid && !ino->setting && !dirq_pending(ino) && (ino->lease & SPRITE__FS__LEASE_BITS__LEASE_ATTR) &&
	    list_empty(&ino->dirty) && list_empty(&ino->flying) && (S_ISDIR(ino->attr.st_mode) || ino->attr_gen == atomic_load(&fs->victim_gen));
	if (r)
		*st = ino->attr;
	pthread_mutex_unlock(&ino->lock);
	return r;
}

/*
 * What a reply says may be of before a change of our own that is queued, or was done since: then *st is what is known better, and not to be believed for long.
 */
bool lease_outdated(struct inode *ino, const Sprite__Fs__Attr *a, struct stat *st)
{
	bool pending, r;

	pthread_mutex_lock(&ino->lock);
	pending = dirq_pending(ino);
	r = pending || a->change < ino->attr_change;
	if (pending && ino->guessed) {
		*st = ino->guess;
		dir_tell(ino);
	} else if (r && ino->attr_valid) {
		*st = ino->attr;
	}
	dir_as_told(ino, st);
	pthread_mutex_unlock(&ino->lock);
	return r;
}

/* As it will be when what is queued for it is done. */
bool lease_guess(struct inode *ino, struct stat *st)
{
	bool r;

	pthread_mutex_lock(&ino->lock);
	/* what was set shows in its ctime, which is the server's alone */
	r = dirq_pending(ino) && ino->guessed && ino->set_pend <= atomic_load(&ino->dom->server->q.done) && (ino->lease & SPRITE__FS__LEASE_BITS__LEASE_WRITE);
	if (r) {
		*st = ino->guess;
		dir_tell(ino);
	}
	pthread_mutex_unlock(&ino->lock);
	return r;
}

/* ---- giving back: recall.c */

uint64_t lease_give_up(struct inode *ino, const struct stream *st)
{
	const struct stream *other;

	if (!(ino->lease & SPRITE__FS__LEASE_BITS__LEASE_WRITE) || !ino->taken_at || clock_boot_ns() - ino->taken_at > FOREIGN_NS || !list_empty(&ino->dirty) || ino->nflying != 1 ||
		dirq_pending(ino))
		return 0;
	list_each(other, &ino->streams, link)
		if (other != st && (other->flags & O_ACCMODE) != O_RDONLY)
			return 0;
	ino->lease &= ~(uint64_t)SPRITE__FS__LEASE_BITS__LEASE_WRITE;
	ino->giving = true;
	return SPRITE__FS__LEASE_BITS__LEASE_WRITE;
}

void lease_given_up(struct inode *ino, uint64_t seq)
{
	pthread_mutex_lock(&ino->lock);
	ino->giving = false;
	if (seq && seq - 1 > ino->recalled_seq) /* as if it had been recalled just before that grant */
		ino->recalled_seq = seq - 1;
	pthread_mutex_unlock(&ino->lock);
}

void lease_set_begin(struct call *c)
{
	pthread_mutex_lock(&c->ino->lock);
	c->ino->setting++;
	c->ino->attr_valid = false;
	pthread_mutex_unlock(&c->ino->lock);
	c->sets = true;
	recall_noted(c->fs); /* replies that did not see it are written when this returns */
	fuse_lowlevel_notify_inval_inode(c->fs->se, c->ino->id, -1, 0);
}

void lease_set_end(struct call *c)
{
	if (!c->sets)
		return;
	c->sets = false;
	pthread_mutex_lock(&c->ino->lock);
	c->ino->setting--;
	c->ino->attr_valid = false; /* a reply that was being taken in when we began may have left what was before */
	pthread_mutex_unlock(&c->ino->lock);
}

/*
 * A name cannot be invalidated while its directory is locked for the rename, but all names can. That is dear, so it is done only where another
 * client has changed names lately. (Where others only look, what they see for the length of one call may be ahead of what is seen here.)
 */
void lease_rename_begin(struct call *c)
{
	uint64_t now = clock_boot_ns();
	bool foreign;

	pthread_mutex_lock(&c->ino2->lock);
	foreign = c->ino2->foreign_at && now - c->ino2->foreign_at < FOREIGN_NS;
	pthread_mutex_unlock(&c->ino2->lock);
	if (!foreign)
		return;
	c->renames = true;
	atomic_fetch_add(&c->ino->renaming, 1);
	atomic_fetch_add(&c->ino2->renaming, 1);
	recall_noted(c->fs);
	session_bump_epoch(c->fs);
}

void lease_rename_end(struct call *c)
{
	if (!c->renames)
		return;
	c->renames = false;
	atomic_fetch_sub(&c->ino->renaming, 1);
	atomic_fetch_sub(&c->ino2->renaming, 1);
}

/* ---- the end of all leases of a server */

/* The server has restarted, given us up, or been silent for too long: nothing that it granted counts any more. */
void lease_drop_all(struct server *s, bool restarted, bool given_up)
{
	struct fs *fs = s->fs;
	struct inode **all;
	size_t i, n;

	if (restarted) {
		atomic_store(&s->recalled_seq, 0);
		server_note_recall(s);
	}
	n = inode_leased(fs, s, restarted, &all);
	for (i = 0; i < n; i++) {
		recall_note(all[i], ~0ull, NULL, 0);
		if (given_up)
			wb_discard(fs, all[i]);
	}
	recall_noted(fs);
	if (given_up)
		dirq_discard(s);
	session_bump_epoch(fs);
	for (i = 0; i < n; i++) { /* one by one: any may wait for a request that hangs */
		recall_drop(fs, all[i], SPRITE__FS__LEASE_BITS__LEASE_ATTR | SPRITE__FS__LEASE_BITS__LEASE_DATA);
		inode_put(fs, all[i]);
	}
	free(all);
	if (n)
		log_note("%s: %zu leases dropped", s->name, n);
}

void lease_renewed(struct server *s, uint64_t sent, uint64_t epoch, uint64_t lease_epoch, uint32_t lease_ms)
{
	bool restarted, given_up, ours;

	pthread_mutex_lock(&s->lock);
	restarted = s->epoch && s->epoch != epoch;
	given_up = s->lease_epoch && lease_epoch && s->lease_epoch != lease_epoch;
	if (!s->epoch)
		s->recovered = epoch; /* there was nothing to take back */
	else if (given_up)
		s->recovered = 0;
	s->epoch = epoch;
	if (lease_epoch || restarted)
		s->lease_epoch = lease_epoch;
	if (lease_ms)
		s->lease_ms = lease_ms;
	s->dropping += restarted || given_up;
	pthread_mutex_unlock(&s->lock);
	if (restarted || given_up) {
		log_note("%s %s: caches are dropped, files are opened anew", s->name, restarted ? "was restarted" : "had given us up");
		atomic_store(&s->leasing, false);
		lease_drop_all(s, restarted, given_up && !restarted);
		recover_start(s);
	}
	pthread_mutex_lock(&s->lock);
	s->dropping -= restarted || given_up;
	server_note(s);
	if (!s->dropping) { /* what was answered under the old ones has their name by now */
		pthread_mutex_lock(&s->q.lock);
		s->q.lease = s->lease_epoch;
		pthread_mutex_unlock(&s->q.lock);
	}
	ours = !s->recovering && !s->dropping;
	pthread_mutex_unlock(&s->lock);
	if (lease_ms && ours) {
		atomic_store(&s->valid_until, sent + lease_ms * 1000000ull);
		atomic_store(&s->leasing, true);
	}
}

/* Every 100 ms: leases that could not be renewed are dropped while the server still honours them. */
void lease_tick(struct server *s, uint64_t now)
{
	if (!atomic_load(&s->leasing) || now + MARGIN_NS < atomic_load(&s->valid_until))
		return;
	atomic_store(&s->leasing, false);
	lease_drop_all(s, false, false); /* what is dirty waits: the server may be back in time, or else say that it gave us up */
}
