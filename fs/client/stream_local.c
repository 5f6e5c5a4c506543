// SPDX-License-Identifier: Apache-2.0
/*
 * Files that are open here only (open id 0): under ATTR an open for reading needs no word with the server. It is told when it must know: a change that would take the file from us, a lock;
 * of those of home domains after a moment, unless an open that it knows can be had for it (spares). And descriptors that somebody has closed, whose RELEASE is still to come.
 */
#include "fs/client/client.h"
#include <stdlib.h>
#include <time.h>
#include "conf/clock.h"

#define YOUNG_NS   150000000ull
#define SPARE_NS   10000000000ull
#define RELEASE_NS 5000000ull /* a RELEASE comes that long after the FLUSH before it, at most; else another descriptor has it open */

/* The next local stream of ino after the `skip` first ones, with a reference. */
static struct stream *next_local(struct inode *ino, unsigned skip)
{
	struct stream *st, *found = NULL;

	pthread_mutex_lock(&ino->lock);
	list_each(st, &ino->streams, link)
		if (!st->open && !st->released && !skip--) {
			st->refs++;
			found = st;
			break;
		}
	pthread_mutex_unlock(&ino->lock);
	return found;
}

void stream_open_local(struct fs *fs, struct inode *ino)
{
	struct stream *st;
	unsigned failed = 0;

	while (ino->dom && ino->dom->server && (st = next_local(ino, failed))) {
		Sprite__Fs__OpenReq m = SPRITE__FS__OPEN_REQ__INIT;
		Sprite__Fs__Cred cred = SPRITE__FS__CRED__INIT;
		struct rpc_msg out;
		struct keep *note;
		int r;

		stream_open_fill(st, &m, &cred);
		m.handle = (ProtobufCBinaryData){.len = ino->handle_len, .data = ino->handle};
		note = call_note_open(ino->dom);
		r = rpc_call(ino->dom->server->meta, &fs_methods[FS_OPEN], &m.base, NULL, 0, 5000, &out);
		if (r == 0 && !out.err)
			stream_opened(fs, st, ((Sprite__Fs__OpenRep *)out.msg)->open, true);
		else
			failed++;
		if (r == 0)
			rpc_msg_clear(&out);
		call_note_end(fs, note, r);
		stream_put(fs, st);
	}
}

/* So that a program that runs from there, or any long reader, keeps its file when the home removes it. */
void stream_young(struct fs *fs, struct stream *st)
{
	stream_hold(st);
	st->opened_ns = clock_mono_ns();
	pthread_mutex_lock(&fs->wait_lock);
	list_add_tail(&fs->young, &st->young);
	pthread_mutex_unlock(&fs->wait_lock);
}

/*
 * Spares. A compiler that is started over and over has the same twenty files of its home open each time, for longer than a moment: two calls for each of them. So an open of what only
 * root may change there is not closed when its stream is released, but kept for some seconds for the next stream of the same file and user. Its record says that it is released: when we
 * are killed the next spritefs closes it. An open of a former life of the server is worth nothing.
 */
bool stream_spare(struct fs *fs, struct stream *st)
{
	struct inode *ino = st->ino;
	bool good;

	pthread_mutex_lock(&ino->lock);
	good = ino->dom && ino->dom->home && ino->dom->server && st->epoch == ino->dom->server->epoch && st->open && st->keep && !st->dir && !st->ngroups && !st->shared && !st->claimed &&
		!st->offered && (st->flags & O_ACCMODE) == O_RDONLY && home_roots(ino);
	pthread_mutex_unlock(&ino->lock);
	if (!good)
		return false;
	pthread_mutex_lock(&fs->wait_lock);
	good = list_empty(&st->young);
	if (good) {
		st->opened_ns = clock_mono_ns();
		list_add_tail(&fs->spares, &st->young);
	}
	pthread_mutex_unlock(&fs->wait_lock);
	if (good) {
		pthread_mutex_lock(&ino->lock);
		st->spare = true;
		pthread_mutex_unlock(&ino->lock);
	}
	return good;
}

/* Is there one for st? What was its own stream then has nothing that would have to be closed. */
static bool spare_take(struct fs *fs, struct stream *st)
{
	struct inode *ino = st->ino;
	struct stream *s, *found = NULL;

	pthread_mutex_lock(&ino->lock);
	list_each(s, &ino->streams, link)
		if (s->spare && ino->dom->server && s->epoch == ino->dom->server->epoch && s->flags == st->flags && s->uid == st->uid && s->gid == st->gid && !st->ngroups) {
			found = s;
			break;
		}
	if (found && !st->released && !st->open) {
		uint64_t open = found->open;

		found->spare = false;
		found->open = 0;
		keep_free(found->keep); /* first: an open that two records had would be closed under the one that lives */
		found->keep = NULL;
		st->open = open;
		st->epoch = found->epoch;
		atomic_fetch_sub(&fs->local_streams, 1);
		stream_changed(st);
	} else {
		found = NULL;
	}
	pthread_mutex_unlock(&ino->lock);
	return found;
}

static void spares_tick(struct fs *fs, uint64_t now)
{
	struct stream *st;
	bool close_it;

	pthread_mutex_lock(&fs->wait_lock);
	while (!list_empty(&fs->spares)) {
		st = list_entry(fs->spares.next, struct stream, young);
		if (now - st->opened_ns < SPARE_NS)
			break;
		list_del(&st->young);
		pthread_mutex_unlock(&fs->wait_lock);
		pthread_mutex_lock(&st->ino->lock);
		close_it = st->spare;
		st->spare = false;
		pthread_mutex_unlock(&st->ino->lock);
		if (close_it)
			stream_close(fs, st);
		stream_put(fs, st);
		pthread_mutex_lock(&fs->wait_lock);
	}
	pthread_mutex_unlock(&fs->wait_lock);
}

static void young_done(struct call *k, int err, struct rpc_msg *out)
{
	struct stream *st = (struct stream *)k->fi.fh;

	if (!err)
		stream_opened(k->fs, st, ((Sprite__Fs__OpenRep *)out->msg)->open, true);
	stream_put(k->fs, st);
}

void stream_tick(struct fs *fs, uint64_t now)
{
	struct stream *st;
	bool wanted;

	pthread_mutex_lock(&fs->wait_lock);
	while (!list_empty(&fs->young)) {
		st = list_entry(fs->young.next, struct stream, young);
		if (now - st->opened_ns < YOUNG_NS)
			break;
		list_del(&st->young);
		pthread_mutex_unlock(&fs->wait_lock);
		pthread_mutex_lock(&st->ino->lock);
		wanted = !st->released && !st->open;
		pthread_mutex_unlock(&st->ino->lock);
		if (wanted && !spare_take(fs, st))
			stream_open_start(fs, st, young_done, NULL); /* with the reference of the list */
		else
			stream_put(fs, st);
		pthread_mutex_lock(&fs->wait_lock);
	}
	pthread_mutex_unlock(&fs->wait_lock);
	spares_tick(fs, now);
}

struct together {
	atomic_int n;
	struct call *c;
};

static void together_done(struct call *k, int err, struct rpc_msg *out)
{
	struct together *t = k->arg;
	struct stream *st = (struct stream *)k->fi.fh;

	if (!err)
		stream_opened(k->fs, st, ((Sprite__Fs__OpenRep *)out->msg)->open, true);
	stream_put(k->fs, st);
	if (atomic_fetch_sub(&t->n, 1) == 1) {
		call_submit(t->c);
		free(t);
	}
}

void stream_open_local_then(struct inode *ino, struct call *c)
{
	struct stream **v = NULL, **more, *st;
	struct together *t;
	unsigned i, n = 0;

	/* all that there are before the first is asked for: one whose answer is quick would be no local one any more, and those behind it counted wrongly */
	while (atomic_load(&c->fs->local_streams) && (st = next_local(ino, n))) {
		more = realloc(v, (n + 1) * sizeof(*v));
		if (!more) {
			stream_put(c->fs, st);
			break;
		}
		v = more;
		v[n++] = st;
	}
	t = n ? malloc(sizeof(*t)) : NULL;
	if (t)
		*t = (struct together){.n = n + 1, .c = c};
	for (i = 0; i < n; i++)
		if (t)
			stream_open_start(c->fs, v[i], together_done, t);
		else
			stream_put(c->fs, v[i]);
	free(v);
	if (!t || atomic_fetch_sub(&t->n, 1) == 1) {
		call_submit(c);
		free(t);
	}
}

/* With inode.lock. */
static bool is_closing(struct inode *ino)
{
	uint64_t now = clock_boot_ns();
	struct stream *st;

	list_each(st, &ino->streams, link)
		if (!st->released && st->flushed && now - st->flushed < RELEASE_NS)
			return true;
	return false;
}

/*
 * close(2) has returned with FLUSH, and who closed goes on; RELEASE comes by itself. What another node asks for in between would find a file open that nobody has any more: it would
 * be opened at the server for a reader, and be held to be written by a writer. So those are waited for.
 */
void stream_settle(struct fs *fs, struct inode *ino)
{
	uint64_t until = clock_boot_ns() + RELEASE_NS;
	struct timespec ts;
	bool closing;

	pthread_mutex_lock(&fs->recall_lock);
	for (;;) {
		pthread_mutex_lock(&ino->lock);
		closing = is_closing(ino);
		pthread_mutex_unlock(&ino->lock);
		if (!closing || clock_boot_ns() >= until)
			break;
		clock_gettime(CLOCK_MONOTONIC, &ts);
		ts.tv_nsec += 1000000;
		if (ts.tv_nsec >= 1000000000) {
			ts.tv_sec++;
			ts.tv_nsec -= 1000000000;
		}
		pthread_cond_timedwait(&fs->wb_cond, &fs->recall_lock, &ts);
	}
	pthread_mutex_unlock(&fs->recall_lock);
}
