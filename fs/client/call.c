// SPDX-License-Identifier: Apache-2.0
/*
 * A request on its way to a server and back.
 *
 *	NEW -> SENT -> DONE			the usual
 *	NEW|SENT -> PARKED -> SENT		the domain is being attached, or the stream opened again
 *	SENT -> RETRY -> SENT			the server is away: tried again until it is back
 *	PARKED|RETRY -> DONE			interrupted
 *	NEW -> QUEUED -> DONE			answered already, sent in a batch: dirq.c
 *
 * Locking: fs.wait_lock guards state, links, ticket and references. A call has one reference for its completion and one while call_send() is in
 * rpc_call_async(), whose completion may run before the ticket is known. The interrupt function runs under libfuse's lock of the request and so
 * only links the call into fs.interrupted; the ticker (call_tick.c) does the rest. Before a reply the function is taken out, which waits for one under way.
 */
#include "fs/client/client.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "conf/clock.h"
#include "conf/log.h"
#include "fs/client/kept.h"

#define QUICK_MS     2000
#define REFUSED_NS   (10000 * 1000000ull)
#define REOPEN_MAX   6
#define ASK_MS	     5000

struct call_chunk {
	struct call_chunk *next;
	char data[];
};

struct call *call_new(struct fs *fs, fuse_req_t req, enum fs_op op, struct inode *ino, call_done done)
{
	struct call *c = malloc(sizeof(*c));

	if (!c) {
		if (ino)
			inode_put(fs, ino);
		if (req)
			fuse_reply_err(req, ENOMEM);
		return NULL;
	}
	memset(c, 0, offsetof(struct call, arena));
	atomic_fetch_add(&fs->calls, 1);
	c->fs = fs;
	c->req = req;
	c->fd = session_fd();
	c->op = op;
	c->ino = ino;
	c->dom = ino ? ino->dom : NULL;
	c->done = done;
	c->refs = 1;
	c->start_ns = clock_mono_ns();
	if (c->dom && c->dom->home && c->dom->server) {
		c->told = atomic_load(&c->dom->server->told);
		c->told_rights = atomic_load(&c->dom->server->told_rights);
	}
	if (req) {
		c->unique = session_unique();
		c->keep = session_resent() ? resume_claim(fs, KEEP_CALL, c->unique) : NULL;
		if (c->keep) {
			c->seq_at = &((struct kept_call *)c->keep->data)->seq;
			c->seq_again = *c->seq_at;
		}
	}
	list_init(&c->link);
	list_init(&c->intr_link);
	protobuf_c_message_init(fs_methods[op].in, &c->m);
	c->msg = (ProtobufCMessage *)&c->m;
	sprite__fs__cred__init(&c->cred);
	sprite__fs__attr__init(&c->attr);
	return c;
}

void *call_alloc(struct call *c, size_t n)
{
	struct call_chunk *k;

	n = (n + 15) & ~(size_t)15;
	if (n <= sizeof(c->arena) - c->used) {
		c->used += n;
		return c->arena + c->used - n;
	}
	k = malloc(sizeof(*k) + n);
	if (!k)
		abort(); /* a name or a group list: if that is not to be had nothing is */
	k->next = c->chunks;
	c->chunks = k;
	return k->data;
}

char *call_strdup(struct call *c, const char *s)
{
	size_t n = strlen(s) + 1;

	return memcpy(call_alloc(c, n), s, n);
}

static void *alloc_in_call(void *arg, size_t n)
{
	return call_alloc(arg, n);
}

void call_cred(struct call *c, bool groups)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(c->req);

	c->cred.uid = ctx->uid;
	c->cred.gid = ctx->gid;
	c->cred.umask = ctx->umask;
	c->cred.pid = ctx->pid;
	if (groups && ctx->uid != 0 && ctx->pid > 0)
		cred_groups(ctx->pid, &c->cred.groups, &c->cred.n_groups, alloc_in_call, c);
}

void call_stream(struct call *c, struct stream *st, uint64_t *open)
{
	stream_hold(st);
	if (c->st) {
		c->st2 = st;
		c->open2 = open;
	} else {
		c->st = st;
		c->open = open;
	}
	*open = st->open;
}

static void call_free(struct call *c)
{
	struct fs *fs = c->fs;
	struct call_chunk *k;

	while ((k = c->chunks)) {
		c->chunks = k->next;
		free(k);
	}
	if (c->seq_again) /* nobody asks for its answer any more */
		rpc_seq_drop(c->seq_again);
	keep_free(c->keep);
	if (c->unpacked)
		protobuf_c_message_free_unpacked(c->unpacked, NULL);
	if (c->buf)
		session_buffer_give(c->buf);
	if (c->st)
		stream_put(c->fs, c->st);
	if (c->st2)
		stream_put(c->fs, c->st2);
	lease_set_end(c);
	read_end(c);
	read_change_end(c);
	lease_rename_end(c);
	if (c->ino)
		inode_put(fs, c->ino);
	if (c->ino2)
		inode_put(fs, c->ino2);
	if (c->child)
		inode_put(fs, c->child);
	if (c->gone[0])
		inode_put(fs, c->gone[0]);
	if (c->gone[1])
		inode_put(fs, c->gone[1]);
	free(c);
	atomic_fetch_sub(&fs->calls, 1);
}

void call_hold(struct call *c)
{
	pthread_mutex_lock(&c->fs->wait_lock);
	c->refs++;
	pthread_mutex_unlock(&c->fs->wait_lock);
}

void call_unref(struct call *c)
{
	struct fs *fs = c->fs;
	bool last;

	pthread_mutex_lock(&fs->wait_lock);
	last = --c->refs == 0;
	pthread_mutex_unlock(&fs->wait_lock);
	if (last)
		call_free(c);
}

/* With fs.wait_lock. Only what is asked in somebody's name tells that he is let in. */
static void let_in(struct domain *d, uint32_t uid, uint64_t told)
{
	unsigned i, at = 0;

	for (i = 0; i < sizeof(d->let_in) / sizeof(d->let_in[0]); i++) {
		if (d->let_in[i].at && d->let_in[i].uid == uid) {
			at = i;
			break;
		}
		if (d->let_in[i].at < d->let_in[at].at)
			at = i;
	}
	d->let_in[at].uid = uid;
	d->let_in[at].at = clock_mono_ns();
	d->let_in[at].told = told;
}

bool call_let_in(struct fs *fs, struct domain *d, uint32_t uid)
{
	uint64_t now = clock_mono_ns(), told;
	bool found = false;
	unsigned i;

	pthread_mutex_lock(&fs->wait_lock);
	told = d->server ? atomic_load(&d->server->told_rights) : 0;
	for (i = 0; i < sizeof(d->let_in) / sizeof(d->let_in[0]); i++)
		found = found || (d->let_in[i].at && d->let_in[i].uid == uid && now - d->let_in[i].at < home_bound(told, d->let_in[i].told));
	pthread_mutex_unlock(&fs->wait_lock);
	return found;
}

/* Answers and ends. `out` may be NULL. */
static void call_finish(struct call *c, int err, struct rpc_msg *out)
{
	struct fs *fs = c->fs;
	int fd;

	if (c->req)
		fuse_req_interrupt_func(c->req, NULL, NULL);
	pthread_mutex_lock(&fs->wait_lock);
	c->state = CALL_DONE;
	list_del(&c->link);
	list_del(&c->intr_link);
	if (!err && c->dom && c->dom->home && ((c->req && (c->op == FS_LOOKUP || c->op == FS_GETATTR || c->op == FS_OPEN)) || (c->op == FS_REFRESH && home_let_in(out))))
		let_in(c->dom, c->req ? fuse_req_ctx(c->req)->uid : c->cred.uid, c->told_rights);
	pthread_mutex_unlock(&fs->wait_lock);
	if (c->dom && c->dom->home && fs_methods[c->op].mutates && c->op != FS_CLOSE && (c->op != FS_OPEN || (c->flags & O_TRUNC))) {
		home_changed(c->ino);
		home_changed(c->ino2);
	}
	atomic_fetch_add_explicit(&fs->count[c->op], 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&fs->nanos[c->op], clock_mono_ns() - c->start_ns, memory_order_relaxed);
	fd = session_reply_on(c->fd);
	if (c->done)
		c->done(c, err, out);
	else if (c->req)
		fuse_reply_err(c->req, err);
	session_reply_on(fd);
	if (out)
		rpc_msg_clear(out);
	if (c->keep && c->seq_again) { /* ended without its answer, or asked again and not sent again: what came of it is still to be looked for */
		resume_unclaim(fs, c->keep);
		c->seq_again = 0;
	} else { /* the kernel has its answer */
		keep_free(c->keep);
	}
	c->keep = NULL;
	call_unref(c);
}

/* With fs.wait_lock held. */
static void call_retry_later(struct call *c)
{
	static const unsigned ms[] = {50, 100, 200, 500};
	unsigned i = c->tries < 3 ? c->tries : 3;

	c->tries++;
	c->state = CALL_RETRY;
	c->retry_at = clock_boot_ns() + ms[i] * 1000000ull;
	list_move_tail(&c->fs->retry, &c->link);
	atomic_fetch_add_explicit(&c->fs->retries, 1, memory_order_relaxed);
}

static bool status_means_away(int status)
{
	return status == -EHOSTDOWN || status == -ETIMEDOUT || status == -ECANCELED || status == -EPIPE || status == -ECONNRESET ||
	       status == -ECONNREFUSED || status == -EAGAIN;
}

/*
 * Only what may be repeated has a deadline: after it the call is sent again, to where the table then says. A call that changes something is
 * retried by rpc under its own sequence number.
 */
static int deadline(const struct call *c)
{
	if (c->quick)
		return QUICK_MS;
	return c->attach || c->op == FS_PREFIXES ? ASK_MS : -1;
}

static void dirs_change(struct call *c)
{
	if (fs_methods[c->op].mutates && c->op != FS_OPEN && c->op != FS_CLOSE && c->op != FS_BATCH) {
		lease_dir_changes(c->ino);
		lease_dir_changes(c->ino2);
	}
}

static void call_completed(void *arg, int status, struct rpc_msg *out)
{
	struct call *c = arg;
	struct fs *fs = c->fs;
	bool cancelled;

	dirs_change(c);
	pthread_mutex_lock(&fs->wait_lock);
	c->state = CALL_NEW;
	c->ticket = 0;
	if (status && c->seq_at) /* it may be executed yet */
		c->seq_again = *c->seq_at;
	cancelled = c->cancelled;
	/* a server that is starting may refuse certificates for a moment */
	if (status == -EACCES && clock_mono_ns() - c->start_ns < REFUSED_NS)
		status = -EHOSTDOWN;
	if (status && status_means_away(status) && !cancelled && !c->quick && !fs->stopping) {
		call_retry_later(c);
		pthread_mutex_unlock(&fs->wait_lock);
		return;
	}
	pthread_mutex_unlock(&fs->wait_lock);
	if (status) {
		if (!cancelled && !status_means_away(status))
			log_warn("%s: %s: %s", call_op_name(c->op), c->dom ? c->dom->prefix : c->server ? c->server->name : "?", strerror(-status));
		call_finish(c, cancelled ? EINTR : status_means_away(status) ? EHOSTDOWN : status == -EPROTO ? EIO : -status, NULL);
	} else if (out->err == FS_EREOPEN && c->st && c->op != FS_CLOSE && c->reopened++ < REOPEN_MAX) {
		rpc_msg_clear(out);
		stream_reopen(c);
	} else {
		call_finish(c, out->err == FS_EREOPEN ? EIO : out->err, out);
	}
}

/*
 * An open of ours, that no request of the kernel is for: when we are killed before its answer is noted the next spritefs finds it by this, and has it closed.
 * NULL: no room.
 */
static struct keep *open_record(const struct domain *d)
{
	struct keep *k = keep_new(sizeof(struct kept_call));

	if (k) {
		*(struct kept_call *)k->data = (struct kept_call){.op = FS_OPEN, .domain = d->index};
		keep_commit(k, KEEP_CALL, KEPT_CALL_OURS | (atomic_fetch_add(&keep_head()->next_ticket, 1) + 1));
	}
	return k;
}

struct keep *call_note_open(const struct domain *d)
{
	struct keep *k = open_record(d);

	if (k)
		rpc_seq_note(&((struct kept_call *)k->data)->seq);
	return k;
}

void call_note_end(struct fs *fs, struct keep *note, int r)
{
	uint64_t seq = note ? ((struct kept_call *)note->data)->seq : 0;

	if (r && seq) { /* it may be executed yet */
		resume_unclaim(fs, note);
		return;
	}
	keep_free(note);
	if (seq)
		rpc_seq_drop(seq);
}

/*
 * So that the answer is the same when we are killed before the kernel has it, and another spritefs is asked again: the number under which the server
 * executes it is noted before it is sent.
 */
static void call_number(struct call *c)
{
	if (!fs_methods[c->op].mutates)
		return;
	dirs_change(c);
	if (c->unique && !c->keep && (c->keep = keep_new(sizeof(struct kept_call)))) {
		*(struct kept_call *)c->keep->data = (struct kept_call){.op = c->op, .domain = c->dom ? c->dom->index : 0};
		c->seq_at = &((struct kept_call *)c->keep->data)->seq;
		keep_commit(c->keep, KEEP_CALL, c->unique);
	} else if (!c->unique && !c->keep && c->op == FS_OPEN && (c->keep = open_record(c->dom))) {
		c->seq_at = &((struct kept_call *)c->keep->data)->seq;
	}
	if (c->seq_at)
		rpc_seq_note(c->seq_at);
	rpc_seq_use(c->seq_again);
	c->seq_again = 0;
}

/* Which calls are of no use on a file that is open only here (open id 0). */
static bool op_needs_open(enum fs_op op)
{
	return op != FS_READ && op != FS_READDIR && op != FS_GETATTR;
}

void call_send(struct call *c)
{
	struct fs *fs = c->fs;
	const struct rpc_method *m = &fs_methods[c->op];
	struct server *s;
	struct rpc_channel *ch;
	uint64_t ticket;
	bool cancel = false;

	if (dirq_gate(c))
		return;
	pthread_mutex_lock(&fs->wait_lock);
	if (c->cancelled || fs->stopping) {
		pthread_mutex_unlock(&fs->wait_lock);
		call_finish(c, c->cancelled ? EINTR : ENOTCONN, NULL);
		return;
	}
	s = c->server ? c->server : c->dom->server;
	list_del(&c->link);
	if (!s || (!c->server && !c->attach && !c->dom->attached)) {
		if (c->quick) {
			pthread_mutex_unlock(&fs->wait_lock);
			if (!c->attach)
				prefix_attach(fs, c->dom);
			call_finish(c, EHOSTDOWN, NULL);
			return;
		}
		c->state = CALL_PARKED;
		list_add_tail(&c->dom->waiters, &c->link);
		pthread_mutex_unlock(&fs->wait_lock);
		prefix_attach(fs, c->dom);
		return;
	}
	c->on_bulk = m->bulk && c->op != FS_PREFIXES;
	if (c->st && op_needs_open(c->op) && (!c->st->open || (c->st2 && !c->st2->open))) {
		c->state = CALL_NEW;
		pthread_mutex_unlock(&fs->wait_lock);
		stream_reopen(c);
		return;
	}
	ch = c->on_bulk ? s->bulk : s->meta;
	c->state = CALL_SENT;
	c->refs++;
	pthread_mutex_unlock(&fs->wait_lock);
	if (c->handle)
		*c->handle = (ProtobufCBinaryData){.len = c->ino->handle_len, .data = c->ino->handle};
	if (c->handle2)
		*c->handle2 = (ProtobufCBinaryData){.len = c->ino2->handle_len, .data = c->ino2->handle};
	if (c->st)
		*c->open = c->st->open;
	if (c->st2)
		*c->open2 = c->st2->open;
	call_number(c);
	ticket = rpc_call_async(ch, m, c->msg, c->bulk.iov_len ? &c->bulk : NULL, c->bulk.iov_len ? 1 : 0, deadline(c),
		call_completed, c);
	pthread_mutex_lock(&fs->wait_lock);
	if (c->state == CALL_SENT) {
		c->ticket = ticket;
		cancel = c->cancelled && !c->waits;
	}
	pthread_mutex_unlock(&fs->wait_lock);
	if (cancel)
		rpc_cancel(ch, ticket);
	call_unref(c);
}

/* Under libfuse's lock of the request: only notes it. */
static void call_on_interrupt(fuse_req_t req, void *arg)
{
	struct call *c = arg;
	struct fs *fs = c->fs;

	(void)req;
	pthread_mutex_lock(&fs->wait_lock);
	if (!c->intr && c->state != CALL_DONE) {
		c->intr = true;
		c->intr_at = clock_boot_ns();
		list_move_tail(&fs->interrupted, &c->intr_link);
		pthread_cond_signal(&fs->wait_cond);
	}
	pthread_mutex_unlock(&fs->wait_lock);
}

void call_submit(struct call *c)
{
	if (c->req)
		fuse_req_interrupt_func(c->req, call_on_interrupt, c);
	call_send(c);
}

void call_wake(struct call *c)
{
	if (c->woken)
		c->woken(c);
	else
		call_submit(c);
}

void call_drop(struct call *c)
{
	pthread_mutex_lock(&c->fs->wait_lock);
	c->state = CALL_DONE;
	list_del(&c->link);
	list_del(&c->intr_link);
	pthread_mutex_unlock(&c->fs->wait_lock);
	call_unref(c);
}

void call_fail(struct call *c, int err)
{
	call_finish(c, err, NULL);
}

void call_end_queued(struct call *c, int err, struct rpc_msg *out)
{
	struct fs *fs = c->fs;
	int fd;

	pthread_mutex_lock(&fs->wait_lock);
	c->state = CALL_DONE;
	list_del(&c->link);
	list_del(&c->intr_link);
	pthread_mutex_unlock(&fs->wait_lock);
	atomic_fetch_add_explicit(&fs->batched[c->op], 1, memory_order_relaxed);
	fd = session_reply_on(c->fd);
	if (c->done)
		c->done(c, err, out);
	session_reply_on(fd);
	call_unref(c);
}

void call_release_waiters(struct fs *fs, struct list *waiters, int err)
{
	struct list mine, *l;

	list_init(&mine);
	pthread_mutex_lock(&fs->wait_lock);
	list_splice_tail(&mine, waiters);
	while ((l = list_pop(&mine))) {
		struct call *c = list_entry(l, struct call, link);

		c->state = CALL_NEW;
		pthread_mutex_unlock(&fs->wait_lock);
		if (err)
			call_finish(c, err, NULL);
		else
			call_send(c);
		pthread_mutex_lock(&fs->wait_lock);
	}
	pthread_mutex_unlock(&fs->wait_lock);
}

void call_init(struct fs *fs)
{
	pthread_condattr_t a;

	pthread_mutex_init(&fs->wait_lock, NULL);
	pthread_condattr_init(&a);
	pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
	pthread_cond_init(&fs->wait_cond, &a);
	pthread_condattr_destroy(&a);
	list_init(&fs->retry);
	list_init(&fs->interrupted);
	list_init(&fs->parked_intr);
	list_init(&fs->young);
	list_init(&fs->spares);
	list_init(&fs->claims);
	list_init(&fs->wb_files);
}

const char *call_op_name(enum fs_op op)
{
	return strrchr(fs_methods[op].name, '/') + 1;
}
