// SPDX-License-Identifier: Apache-2.0
/*
 * After a server was restarted, or had given us up.
 *
 *	server_epoch changed	leases are over; caches are dropped, dirty data is kept. Then, while the server answers nobody else: attach, open
 *				again what is open (reclaim), take the locks again (reclaim), send the dirty data, and say so: Renew{recovered}.
 *	lease_epoch changed	the same, but dirty data from before must not be written any more (fencing): it is reported as EIO.
 *
 * Invariants
 *  1. Nothing is granted to us between the drop and the end (server.recovering keeps leasing off).
 *  2. A stream is opened once per life of the server: stream.epoch tells for which its id is. Calls that meet FS_EREOPEN meanwhile open it themselves.
 *  3. Processes only wait: their calls are parked by the server or retried by call.c.
 *
 * One thread per recovery; a restart in the middle of one makes it begin again. The ranges of locks held here are kept per inode in the order of no
 * importance: ranges of one owner never overlap (fcntl(2)).
 */
#include "fs/client/client.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include "conf/clock.h"
#include "conf/log.h"
#include "fs/client/kept.h"

struct held {
	struct list link; /* inode.locks, under inode.lock */
	struct held_lock l;
	struct keep *keep;
};

/* ---- which locks are held */

/* Its record anew, from what it is now. */
static void held_save(const struct inode *ino, struct held *k)
{
	struct kept_lock x = {.ino = ino->id, .owner = k->l.owner, .start = k->l.start, .end = k->l.end, .fh = k->l.fh, .type = k->l.type, .pid = k->l.pid, .flock = k->l.flock};
	struct keep *fresh;

	memcpy(x.token, k->l.token, HAND_TOKEN);
	fresh = keep_put(k->keep, KEEP_LOCK, k->keep ? k->keep->key : atomic_fetch_add(&keep_head()->next_ticket, 1) + 1, &x, sizeof(x));
	if (fresh)
		k->keep = fresh;
}

static void held_add(struct inode *ino, const struct held_lock *h)
{
	struct held *k = calloc(1, sizeof(*k));

	if (!k)
		return; /* then it is not reclaimed after a restart; nothing else depends on it */
	k->l = *h;
	held_save(ino, k);
	list_add_tail(&ino->locks, &k->link);
}

static void held_free(struct held *h)
{
	keep_free(h->keep);
	free(h);
}

void recover_locks_each(struct inode *ino, void (*fn)(void *arg, const struct held_lock *h), void *arg)
{
	struct held *h;

	list_each(h, &ino->locks, link)
		fn(arg, &h->l);
}

bool recover_lock_is(const struct stream *st, const struct held_lock *h)
{
	return (st->flock_owner && h->owner == st->flock_owner) || (!h->flock && h->fh == st->fh);
}

void recover_locks_offer(struct stream *st)
{
	struct held *h;

	list_each(h, &st->ino->locks, link)
		if (recover_lock_is(st, &h->l)) {
			memcpy(h->l.token, st->token, HAND_TOKEN);
			held_save(st->ino, h);
		}
}

void recover_lock_resume(struct inode *ino, struct keep *k)
{
	struct kept_lock *x = (struct kept_lock *)k->data;
	struct held *h = calloc(1, sizeof(*h));

	if (!h)
		abort();
	h->l = (struct held_lock){.owner = x->owner, .start = x->start, .end = x->end, .fh = x->fh, .type = x->type, .pid = x->pid, .flock = x->flock};
	memcpy(h->l.token, x->token, HAND_TOKEN);
	h->keep = k;
	list_add_tail(&ino->locks, &h->link);
}

void recover_note_lock(struct inode *ino, uint64_t owner, bool flock, uint32_t type, uint64_t start, uint64_t end, uint32_t pid, const struct stream *st)
{
	struct held_lock fresh = {.owner = owner, .start = start, .end = end, .fh = st ? st->fh : 0, .type = type, .pid = pid, .flock = flock}, cut;
	struct held *h, *tmp;

	pthread_mutex_lock(&ino->lock);
	list_each_safe(h, tmp, &ino->locks, link) {
		cut = h->l;
		if (cut.owner != owner || cut.flock != flock || cut.end < start || end < cut.start)
			continue;
		list_del(&h->link);
		held_free(h);
		if (cut.start < start) {
			struct held_lock before = cut;

			before.end = start - 1;
			held_add(ino, &before);
		}
		if (cut.end > end) {
			cut.start = end + 1;
			held_add(ino, &cut);
		}
	}
	if (st && (st->claimed || st->offered))
		memcpy(fresh.token, st->token, HAND_TOKEN);
	if (type != F_UNLCK)
		held_add(ino, &fresh);
	pthread_mutex_unlock(&ino->lock);
}

void recover_forget_locks(struct inode *ino)
{
	struct list *l;

	while ((l = list_pop(&ino->locks)))
		held_free(list_entry(l, struct held, link));
}

/* ---- taking back what we had */

static int attach_again(struct server *s, struct domain *d)
{
	Sprite__Fs__AttachReq m = SPRITE__FS__ATTACH_REQ__INIT;
	Sprite__Fs__Cred cred = SPRITE__FS__CRED__INIT;
	struct rpc_msg out;
	int r;

	m.prefix = d->prefix;
	m.cred = &cred;
	m.instance = (char *)s->fs->mount;
	m.leases = m.ack_now = true;
	r = rpc_call(s->meta, &fs_methods[FS_ATTACH], &m.base, NULL, 0, 5000, &out);
	if (r == 0) {
		r = -out.err;
		rpc_msg_clear(&out);
	}
	return r;
}

static int locks_again(struct server *s, struct inode *ino)
{
	static const uint8_t none[HAND_TOKEN];
	struct held_lock *all;
	struct held *h;
	size_t i, n = 0, room = 0;
	int r = 0;

	pthread_mutex_lock(&ino->lock);
	list_each(h, &ino->locks, link)
		room++;
	all = room ? malloc(room * sizeof(*all)) : NULL;
	if (all)
		list_each(h, &ino->locks, link)
			all[n++] = h->l;
	pthread_mutex_unlock(&ino->lock);
	for (i = 0; i < n && r == 0; i++) {
		Sprite__Fs__LockReq m = SPRITE__FS__LOCK_REQ__INIT;
		struct rpc_msg out;

		m.handle = (ProtobufCBinaryData){.len = ino->handle_len, .data = ino->handle};
		m.open = inode_any_writer(ino); /* a home lets nobody lock for writing by another */
		m.owner = all[i].owner;
		m.pid = all[i].pid;
		m.type = all[i].type;
		m.start = all[i].start;
		m.end = all[i].end;
		m.flock = all[i].flock;
		m.reclaim = true;
		if (memcmp(all[i].token, none, HAND_TOKEN) != 0)
			m.token = (ProtobufCBinaryData){HAND_TOKEN, all[i].token};
		r = rpc_call(s->meta, &fs_methods[FS_LOCK], &m.base, NULL, 0, 5000, &out);
		if (r == 0) {
			if (out.err)
				log_warn("%s: a lock held here is lost: %s", ino->dom->prefix, strerror(out.err));
			rpc_msg_clear(&out);
		}
	}
	free(all);
	return r;
}

static int say_recovered(struct server *s, uint64_t epoch)
{
	Sprite__Fs__RenewReq m = SPRITE__FS__RENEW_REQ__INIT;
	Sprite__Fs__RenewRep *rep;
	struct rpc_msg out;
	int r;

	m.instance = (char *)s->fs->mount;
	m.recovered = true;
	m.server_epoch = epoch;
	r = rpc_call(s->meta, &fs_methods[FS_RENEW], &m.base, NULL, 0, 5000, &out);
	if (r)
		return r;
	rep = (Sprite__Fs__RenewRep *)out.msg;
	r = out.err ? -out.err : rep->server_epoch != epoch ? -EAGAIN : 0;
	rpc_msg_clear(&out);
	return r;
}

/* Once through; -errno when the server is away again. */
static int recover_once(struct server *s, uint64_t epoch)
{
	struct fs *fs = s->fs;
	struct domain *doms[64];
	struct inode **all;
	size_t i, n, nd;
	int r = 0;

	nd = prefix_domains(s, doms, 64);
	for (i = 0; i < nd && r == 0; i++)
		r = attach_again(s, doms[i]);
	if (r == -EACCES) /* a home that lets us in no more: its files are not ours to reclaim */
		r = 0;
	n = inode_of_server(fs, s, &all);
	for (i = 0; i < n; i++) {
		if (r == 0)
			r = stream_open_again(fs, s, all[i], epoch);
		if (r == 0)
			r = locks_again(s, all[i]);
	}
	if (r == 0)
		r = dirq_drain(s);
	for (i = 0; i < n; i++) {
		if (r == 0 && !wb_flush_wait(fs, all[i], true))
			r = -EAGAIN;
		inode_put(fs, all[i]);
	}
	free(all);
	return r ? r : say_recovered(s, epoch);
}

static void *recover_main(void *arg)
{
	struct server *s = arg;
	uint64_t epoch;
	bool again;
	int r;

	pthread_setname_np(pthread_self(), "recover");
	do {
		pthread_mutex_lock(&s->lock);
		epoch = s->epoch;
		pthread_mutex_unlock(&s->lock);
		r = recover_once(s, epoch);
		pthread_mutex_lock(&s->lock);
		again = s->epoch != epoch || r < 0;
		if (!again) {
			s->recovered = epoch;
			s->renew_at = 0; /* leases are granted again from its answer on: what is opened without stays without */
			server_note(s);
		}
		if (!again || s->fs->stopping)
			s->recovering = again = false;
		pthread_mutex_unlock(&s->lock);
		if (again)
			usleep(200000);
	} while (again);
	log_note("%s: recovered", s->name);
	return NULL;
}

void recover_start(struct server *s)
{
	pthread_t t;
	bool start;

	pthread_mutex_lock(&s->lock);
	start = !s->recovering;
	s->recovering = true;
	pthread_mutex_unlock(&s->lock);
	if (!start)
		return;
	if (pthread_create(&t, NULL, recover_main, s) == 0) {
		pthread_detach(t);
		return;
	}
	log_error("%s: no thread for the recovery", s->name);
	pthread_mutex_lock(&s->lock);
	s->recovering = false;
	pthread_mutex_unlock(&s->lock);
}
