// SPDX-License-Identifier: Apache-2.0
/*
 * Asynchronous changes: what a program does to names and attributes under exclusive leases is answered at once and sent to the server a little later, in order
 * and in batches (fs/batch.h). CephFS calls it asynchronous dirops; here each change is the `struct call` that would have been sent at once, kept in one
 * queue per server.
 *
 * Invariants
 *  1. A call is queued only while LEASE_WRITE is held on everything that it changes: the directory, and the file that is removed, renamed or set. That is
 *     decided under inode.lock, where a recall clears the bit; the recall is acknowledged when all that was queued for the inode is done. So nobody else
 *     can see what is not done yet, and the server executes a batch without waiting for anybody.
 *  2. What is queued is executed in the order of the queue, one batch at a time. Every call outside of the queue that names an inode waits until what is
 *     queued for that inode is done (dirq_gate): nothing here overtakes.
 *  3. Whatever shows numbers or times of the server (attributes of files, listings) is such a call. A file that was made here and that the server does not know yet
 *     ("newborn") has no handle and no inode number; what is told of it meanwhile is told with a time-out of 0.
 *     A directory's attributes are the exception: the kernel asks for them after every change in it, so they are told as they will be, with the server's time
 *     as far as it is known here (dirq.skew) until the server has said it.
 *  4. A change that the server refuses after all (EDQUOT, ENOSPC) is reported like lost data: at the next fsync or close of the file or directory, and in the log.
 *  5. After a restart of the server the same batch comes again under its sequence number, and the log of intents tells the server what of it was done.
 *
 * Numbers: a queued call gets the next one of its server; inode.pend is the last one that concerns the inode; dirq.done: all up to it are done.
 *
 * Locking: inode.lock (several: in the order of ids) > dirq.lock. dirq.gate under fs.wait_lock.
 */
#include "fs/client/client.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "conf/clock.h"
#include "conf/log.h"
#include "fs/batch.h"
#include "fs/client/kept.h"

#define KICK	 32u   /* so many together leave by themselves; the ticker sends what is left */
#define ROOM_NS	 1000000000ull /* so long may what is queued take the server, as fast as it was of late: a recall that waits for it has a lease term */
#define ROOM_MIN 256u
#define ROOM_MAX 8192u
#define SEND_MAX (512u << 10)
#define REOPEN_MAX 6

struct sent {
	struct server *s;
	struct call *call[BATCH_MAX];
	unsigned n, ndone; /* so many were answered, and are held */
	uint8_t *buf;
	size_t len, room;
	struct keep *keep;	      /* of the batch */
	struct keep *keeps[BATCH_MAX]; /* of calls that are done */
	uint64_t seq, lease;
	uint64_t last; /* number of the last call taken, whether it is sent or ended without */
	uint64_t sent_ns;
};

void dirq_init(struct server *s)
{
	pthread_mutex_init(&s->q.lock, NULL);
	list_init(&s->q.queue);
	list_init(&s->q.gate);
	atomic_init(&s->q.room, ROOM_MIN);
}

bool dirq_allows(const struct inode *dir, uint32_t uid, uint32_t gid)
{
	struct domain *d = dir->dom;
	struct server *s = d ? d->server : NULL;

	if (!s || d->home || !d->exclusive || atomic_load(&d->full) || !atomic_load(&s->leasing) || atomic_load(&s->q.n) >= atomic_load(&s->q.room))
		return false;
	return d->exclusive > 1 || (uid && gid);
}

bool dirq_pending(const struct inode *ino)
{
	return ino->pend && ino->dom && ino->dom->server && ino->pend > atomic_load(&ino->dom->server->q.done);
}

void dirq_lock(struct inode **v, int *n)
{
	int i, k, m = 0;

	for (i = 0; i < *n; i++) { /* sorted by id, each once; at most four */
		for (k = 0; k < m && v[k]->id < v[i]->id; k++)
			;
		if (k < m && v[k] == v[i])
			continue;
		struct inode *x = v[i];

		memmove(&v[k + 1], &v[k], (size_t)(m - k) * sizeof(*v));
		v[k] = x;
		m++;
	}
	*n = m;
	for (i = 0; i < m; i++)
		pthread_mutex_lock(&v[i]->lock);
}

void dirq_unlock(struct inode **v, int n)
{
	while (n--)
		pthread_mutex_unlock(&v[n]->lock);
}

uint64_t dirq_lease(struct server *s)
{
	uint64_t lease;

	pthread_mutex_lock(&s->q.lock);
	lease = s->q.lease;
	pthread_mutex_unlock(&s->q.lock);
	return lease;
}

void dirq_put(struct call *c, struct inode **v, int n)
{
	struct dirq *q = &c->dom->server->q;
	uint64_t number;

	c->queued = true;
	c->state = CALL_QUEUED;
	pthread_mutex_lock(&q->lock);
	c->number = number = q->last = atomic_fetch_add(&c->fs->numbers, 1) + 1;
	if (!c->lease)
		c->lease = q->lease;
	c->keep = dirq_record(c, number, v, n);
	list_add_tail(&q->queue, &c->link);
	q->n++;
	pthread_mutex_unlock(&q->lock);
	while (n--) { /* c may be gone already */
		v[n]->pend = number;
		v[n]->attr_valid = false;
		v[n]->stamp++;
	}
}

bool dirq_change_begin(struct call *c)
{
	struct dirq *q = &c->dom->server->q;

	pthread_mutex_lock(&q->lock);
	if (!c->taken && c->lease == q->lease)
		return true;
	pthread_mutex_unlock(&q->lock);
	return false;
}

void dirq_change_end(struct call *c, struct inode **v, int n)
{
	struct keep *k = dirq_record(c, c->number, v, n);

	keep_free(c->keep);
	c->keep = k;
	pthread_mutex_unlock(&c->dom->server->q.lock);
}

/* ---- sending */

/* The handle of an inode, or which record of this batch makes it. */
static void handle_fill(struct call *c, struct inode *ino, ProtobufCBinaryData *h)
{
	uint8_t *ref;

	if (ino->handle_len) {
		*h = (ProtobufCBinaryData){.len = ino->handle_len, .data = ino->handle};
		return;
	}
	ref = call_alloc(c, BATCH_REF);
	batch_ref_put(ref, ino->born_at);
	*h = (ProtobufCBinaryData){.len = BATCH_REF, .data = ref};
}

static bool stillborn(const struct inode *ino)
{
	return ino && ino->stillborn && !ino->handle_len;
}

static bool pack(struct sent *b, struct call *c)
{
	size_t len, need;

	if (c->handle)
		handle_fill(c, c->ino, c->handle);
	if (c->handle2)
		handle_fill(c, c->ino2, c->handle2);
	if (c->st && c->open)
		*c->open = c->st->open == STREAM_UNBORN ? c->st->ino->born_at + 1 : c->st->open;
	len = protobuf_c_message_get_packed_size(c->msg);
	need = BATCH_REQ_HEAD + len + c->bulk.iov_len;
	if (b->room - b->len < need) {
		size_t room = b->room * 2 + need;
		uint8_t *p = realloc(b->buf, room);

		if (!p)
			return false;
		b->buf = p;
		b->room = room;
	}
	if (c->child)
		c->child->born_at = b->n;
	b->len += batch_put(b->buf + b->len, c->op, (uint32_t)len, (uint32_t)c->bulk.iov_len);
	b->len += protobuf_c_message_pack(c->msg, b->buf + b->len);
	if (c->bulk.iov_len)
		memcpy(b->buf + b->len, c->bulk.iov_base, c->bulk.iov_len);
	b->len += c->bulk.iov_len;
	b->call[b->n++] = c;
	return true;
}

/* The next call; with `lease` only one that was answered under that. */
static struct call *take(struct dirq *q, uint64_t lease)
{
	struct call *c = NULL;

	pthread_mutex_lock(&q->lock);
	if (!list_empty(&q->queue)) {
		c = list_entry(q->queue.next, struct call, link);
		if (lease && c->lease != lease)
			c = NULL;
	}
	if (c) {
		list_del(&c->link);
		c->taken = true;
		q->n--;
	}
	pthread_mutex_unlock(&q->lock);
	return c;
}

static void batch_done(struct call *k, int err, struct rpc_msg *out);
static void batch_end(struct sent *b, uint64_t done);

static void batch_record(struct sent *b)
{
	struct keep *again = b->s->q.again_keep, *k = again ? again : keep_new(sizeof(struct kept_op));

	b->s->q.again_keep = NULL;
	b->keep = k;
	if (!k || again) /* sent before, by an earlier spritefs */
		return;
	*(struct kept_op *)k->data = (struct kept_op){.op = FS_BATCH, .n = b->n, .server = b->s->index, .lease = b->lease};
	keep_commit(k, KEEP_OP, b->call[0]->number | 1ull << 63);
}

static void batch_send(struct server *s)
{
	struct sent *b = calloc(1, sizeof(*b));
	struct call *c, *k;

	if (!b)
		abort();
	b->s = s;
	while (b->n < BATCH_MAX && b->len < SEND_MAX && !(b->n && b->last == s->q.again_last) && (c = take(&s->q, b->lease))) {
		b->last = c->number;
		b->lease = c->lease;
		if (stillborn(c->ino) || stillborn(c->ino2))
			call_end_queued(c, EIO, NULL);
		else if (!pack(b, c))
			abort();
	}
	if (!b->n) {
		batch_end(b, b->last);
		return;
	}
	batch_record(b);
	k = call_new(s->fs, NULL, FS_BATCH, NULL, batch_done);
	if (!k)
		abort(); /* what was answered must not be forgotten */
	k->server = s;
	k->arg = b;
	k->bulk.iov_base = b->buf;
	k->bulk.iov_len = b->len;
	k->m.batch.lease_epoch = b->lease;
	k->m.batch.n = b->n;
	k->seq_at = b->keep ? &((struct kept_op *)b->keep->data)->seq : &b->seq;
	k->seq_again = s->q.again_seq;
	s->q.again_seq = s->q.again_last = 0;
	b->sent_ns = clock_mono_ns();
	call_submit(k);
}

void dirq_kick(struct server *s, bool urgent)
{
	struct dirq *q = &s->q;
	bool send;

	pthread_mutex_lock(&q->lock);
	if (urgent && q->n)
		q->urgent = q->last;
	send = !q->sending && !q->paused && q->n && (q->urgent > atomic_load(&q->done) || q->n >= KICK);
	if (send)
		q->sending = true;
	pthread_mutex_unlock(&q->lock);
	if (send)
		batch_send(s);
}

/* ---- answers */

/* Those that waited for what is done now. */
static void gate_open(struct server *s)
{
	struct fs *fs = s->fs;
	struct call *c, *next;
	struct list ready, *l;

	list_init(&ready);
	pthread_mutex_lock(&fs->wait_lock);
	list_each_safe(c, next, &s->q.gate, link)
		if (c->number <= atomic_load(&s->q.done)) {
			c->state = CALL_NEW;
			list_move_tail(&ready, &c->link);
		}
	while ((l = list_pop(&ready))) {
		pthread_mutex_unlock(&fs->wait_lock);
		call_wake(list_entry(l, struct call, link));
		pthread_mutex_lock(&fs->wait_lock);
	}
	pthread_mutex_unlock(&fs->wait_lock);
	pthread_mutex_lock(&fs->recall_lock);
	pthread_cond_broadcast(&fs->wb_cond);
	pthread_mutex_unlock(&fs->recall_lock);
}

static void one_done(struct sent *b, unsigned i, int err, const uint8_t *msg, uint32_t len)
{
	struct call *c = b->call[i];
	struct rpc_msg out = {.err = err};

	if (!err) {
		out.msg = protobuf_c_message_unpack(fs_methods[c->op].out, NULL, len, msg);
		err = out.msg ? 0 : EPROTO;
	}
	b->keeps[i] = c->keep; /* all of a batch, or none */
	c->keep = NULL;
	call_hold(c); /* and with it the records of its inodes and streams, by which those are understood */
	call_end_queued(c, err, err ? NULL : &out);
	b->ndone = i + 1;
	if (out.msg)
		protobuf_c_message_free_unpacked(out.msg, NULL);
}

/* How many may be queued: what the server gets done in ROOM_NS. Beyond that a change is a call of its own, and waits. */
static void room_learn(const struct sent *b, unsigned executed)
{
	uint64_t each = executed ? (clock_mono_ns() - b->sent_ns) / executed + 1 : 0, room = each ? ROOM_NS / each : 0;

	room = (atomic_load(&b->s->q.room) * 3 + room) / 4;
	atomic_store(&b->s->q.room, room < ROOM_MIN ? ROOM_MIN : room > ROOM_MAX ? ROOM_MAX : (unsigned)room);
}

/* An open of the server's last life stopped it at record `from`: once recover.c has opened all files again the rest is sent anew, under the leases it was answered under. */
static void put_back(struct server *s, struct sent *b, unsigned from)
{
	struct dirq *q = &s->q;
	struct stream *st = b->call[from]->st;
	unsigned i;

	b->call[from]->reopened++;

	if (st) {
		pthread_mutex_lock(&st->ino->lock);
		st->epoch = 0;
		pthread_mutex_unlock(&st->ino->lock);
	}
	pthread_mutex_lock(&q->lock);
	for (i = b->n; i-- > from;) {
		list_add(&q->queue, &b->call[i]->link);
		q->n++;
	}
	q->paused = true;
	q->urgent = q->last;
	pthread_mutex_unlock(&q->lock);
	pthread_mutex_lock(&s->fs->recall_lock);
	pthread_cond_broadcast(&s->fs->wb_cond); /* a recovery that waits for what is in it begins again */
	pthread_mutex_unlock(&s->fs->recall_lock);
	pthread_mutex_lock(&s->lock);
	s->renew_at = 0;
	pthread_mutex_unlock(&s->lock);
	recover_start(s);
}

static void batch_done(struct call *k, int err, struct rpc_msg *out)
{
	struct sent *b = k->arg;
	struct server *s = b->s;
	size_t n = err ? 0 : out->bulk_len, at = 0, one;
	uint8_t *bytes = n ? malloc(n) : NULL;
	unsigned i = 0, executed = err || !out ? 0 : ((Sprite__Fs__BatchRep *)out->msg)->n;
	uint64_t done = b->last;

	room_learn(b, executed);
	if (bytes)
		rpc_msg_copy(out, bytes, n);
	for (; !err && i < b->n && i < executed; i++) {
		const uint8_t *msg;
		uint32_t len;
		int e;

		one = bytes ? batch_answer_get(bytes + at, n - at, &e, &msg, &len) : 0;
		if (!one)
			err = EPROTO; /* and for the rest too */
		at += one;
		one_done(b, i, err ? err : e, msg, len);
	}
	if (!err && i < b->n && b->call[i]->reopened >= REOPEN_MAX) /* its file is gone: nobody can open it any more */
		one_done(b, i++, EIO, NULL, 0);
	if (!err && i < b->n) {
		done = b->call[i]->number - 1;
		put_back(s, b, i);
	}
	for (; err && i < b->n; i++)
		one_done(b, i, err == ESTALE || err == EPROTO ? EIO : err, NULL, 0);
	free(bytes);
	batch_end(b, done);
}

static void batch_end(struct sent *b, uint64_t done)
{
	struct server *s = b->s;
	unsigned i;

	/* a spritefs that comes after us now asks for the answer again; after this one store it has what is left of the queue */
	if (b->keep)
		atomic_store(&((struct kept_op *)b->keep->data)->done, done);
	for (i = 0; i < b->n; i++)
		keep_free(b->keeps[i]);
	keep_free(b->keep);
	for (i = 0; i < b->ndone; i++)
		call_unref(b->call[i]);
	free(b->buf);
	free(b);
	pthread_mutex_lock(&s->q.lock);
	atomic_store(&s->q.done, s->q.skip > done ? s->q.skip : done);
	s->q.skip = 0;
	s->q.sending = false;
	pthread_mutex_unlock(&s->q.lock);
	gate_open(s);
	dirq_kick(s, false);
}

/* ---- waiting */

bool dirq_gate(struct call *c)
{
	struct inode *v[2] = {c->ino, c->ino2};
	struct server *s = c->dom ? c->dom->server : NULL;
	uint64_t need = 0;
	bool wait;
	int i, dead = 0;

	if (!s || c->server)
		return false;
	if (c->op == FS_REMOVE || c->op == FS_RENAME) { /* what is queued for what the names mean, which only the server may know */
		pthread_mutex_lock(&s->q.lock);
		need = s->q.last;
		pthread_mutex_unlock(&s->q.lock);
	}
	for (i = 0; i < 2; i++) {
		if (!v[i])
			continue;
		pthread_mutex_lock(&v[i]->lock);
		if (v[i]->pend > need)
			need = v[i]->pend;
		if (stillborn(v[i]))
			dead = v[i]->stillborn;
		pthread_mutex_unlock(&v[i]->lock);
	}
	if (dead) {
		call_fail(c, dead);
		return true;
	}
	if (need <= atomic_load(&s->q.done))
		return false;
	pthread_mutex_lock(&c->fs->wait_lock);
	wait = need > atomic_load(&s->q.done);
	if (wait) {
		c->number = need;
		c->state = CALL_PARKED;
		list_add_tail(&s->q.gate, &c->link);
	}
	pthread_mutex_unlock(&c->fs->wait_lock);
	if (wait)
		dirq_kick(s, true);
	return wait;
}

void dirq_hurry(struct inode *ino)
{
	bool pending;

	pthread_mutex_lock(&ino->lock);
	pending = dirq_pending(ino);
	pthread_mutex_unlock(&ino->lock);
	if (pending)
		dirq_kick(ino->dom->server, true);
}

void dirq_flush_wait(struct fs *fs, struct inode *ino)
{
	struct server *s = ino->dom ? ino->dom->server : NULL;
	uint64_t need;

	if (!s)
		return;
	pthread_mutex_lock(&ino->lock);
	need = ino->pend;
	pthread_mutex_unlock(&ino->lock);
	dirq_kick(s, need > atomic_load(&s->q.done));
	pthread_mutex_lock(&fs->recall_lock);
	while (need > atomic_load(&s->q.done) && !fs->stopping)
		pthread_cond_wait(&fs->wb_cond, &fs->recall_lock);
	pthread_mutex_unlock(&fs->recall_lock);
}

bool dirq_empty(struct server *s)
{
	bool r;

	pthread_mutex_lock(&s->q.lock);
	r = !s->q.n && !s->q.sending;
	pthread_mutex_unlock(&s->q.lock);
	return r;
}

int dirq_drain(struct server *s)
{
	struct fs *fs = s->fs;
	bool paused = false;

	pthread_mutex_lock(&s->q.lock);
	s->q.paused = false;
	pthread_mutex_unlock(&s->q.lock);
	dirq_kick(s, true);
	pthread_mutex_lock(&fs->recall_lock);
	while (!paused && !dirq_empty(s) && !fs->stopping) {
		struct timespec ts;

		clock_gettime(CLOCK_MONOTONIC, &ts);
		ts.tv_sec++;
		pthread_cond_timedwait(&fs->wb_cond, &fs->recall_lock, &ts);
		paused = dirq_paused(s);
	}
	pthread_mutex_unlock(&fs->recall_lock);
	return paused ? -EAGAIN : 0;
}

bool dirq_paused(struct server *s)
{
	bool r;

	pthread_mutex_lock(&s->q.lock);
	r = s->q.paused;
	pthread_mutex_unlock(&s->q.lock);
	return r;
}

/* The server gave us up: what was not sent under its leases must not be sent without (fencing). */
void dirq_discard(struct server *s)
{
	struct call *c;
	unsigned n = 0;
	uint64_t done = 0;

	while ((c = take(&s->q, 0))) {
		done = c->number;
		n += c->op != FS_CLOSE; /* the server has closed all */
		call_end_queued(c, EIO, NULL);
	}
	if (!done)
		return;
	if (n)
		log_error("%s: %u changes made here are lost: the server had given this host up", s->name, n);
	pthread_mutex_lock(&s->q.lock);
	s->q.paused = false;
	if (s->q.sending) /* its end says so */
		s->q.skip = done;
	else
		atomic_store(&s->q.done, done);
	pthread_mutex_unlock(&s->q.lock);
	gate_open(s);
}
