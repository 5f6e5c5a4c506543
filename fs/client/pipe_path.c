// SPDX-License-Identifier: Apache-2.0
/*
 * Paths, this node's side: bytes of a FIFO that go by a connection between the source's and the sink's agent and not by the hub. fs/server/pipe_path.c has the rules and the
 * invariants, pipe_ends.c what goes in and out of the kernel's pipes.
 *
 *	source	reads into `ring`, from where it is sent; a byte stays there until the sink has said that it is in its pipe. [acked, sent) is what the hub gets when it settles the path,
 *		but for what the sink has received.
 *	sink	counts what it has `received` and what it has `placed`; the difference is in fifo.out, and goes back to the hub when the path is settled.
 *
 * There is none while a process that moves is held or pledged for here (claims): the hub is asked to settle it before.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "conf/clock.h"
#include "conf/log.h"
#include "fs/client/pipe_wire.h"

#define DRAIN_NS 2000000000ull /* what a source that is gone has sent arrives within that, or never */

static void forget(struct agent *a, struct fifo *f)
{
	hash_take_u64(&a->paths, f->path.id);
	free(f->path.ring);
	free(f->path.peer);
	f->path = (struct path){0};
}

void path_forget(struct agent *a, struct fifo *f)
{
	if (f->path.id)
		forget(a, f);
}

/* ---- the hub ---- */

static void refuse(struct fifo *f, const Sprite__Fs__PipeMsg *m, bool unreachable)
{
	if (m->role == SINK)
		pipe_settled(f, m->id, 0, false);
	else
		pipe_say(f, SPRITE__FS__PIPE_MSG__KIND__SETTLE, m->id, unreachable, NULL, 0);
}

void path_offered(struct agent *a, struct fifo *f, const Sprite__Fs__PipeMsg *m)
{
	struct path p = {.id = m->id, .source = m->role == SOURCE};

	if (f->path.id || f->role != (int)m->role || f->shared || f->guard >= 0 || !list_empty(&f->claims) || (!p.source && !a->address[0])) {
		refuse(f, m, false);
		return;
	}
	p.peer = strdup(m->peer);
	if (p.source) {
		p.ring = malloc(PATH_RING);
		p.wire = wire_to(a, m->peer, m->address);
	}
	if (!p.peer || (p.source && (!p.ring || !p.wire)) || hash_set_u64(&a->paths, p.id, f, NULL)) {
		free(p.peer);
		free(p.ring);
		refuse(f, m, p.source && !p.wire);
		return;
	}
	f->path = p;
	if (!p.source)
		pipe_say(f, SPRITE__FS__PIPE_MSG__KIND__PATH, p.id, 0, NULL, 0);
	else if (!pipe_pump(a, f))
		pipe_report(f, 0);
}

/* What the sink has not received is the hub's. */
static void resend(struct agent *a, struct fifo *f, uint64_t from)
{
	struct path *p = &f->path;

	if (from < p->acked || from > p->sent) /* it is not known, or not true */
		from = from > p->sent ? p->sent : p->acked;
	while (from < p->sent) {
		size_t at = from % PATH_RING, n = p->sent - from;

		n = n < PATH_RING - at ? n : PATH_RING - at;
		f->unacked += n;
		pipe_say(f, SPRITE__FS__PIPE_MSG__KIND__DATA, 0, 0, p->ring + at, n);
		from += n;
	}
	pipe_settled(f, p->id, 0, false);
	forget(a, f);
	if (!pipe_pump(a, f))
		pipe_report(f, 0);
}

void path_settle(struct agent *a, struct fifo *f, const Sprite__Fs__PipeMsg *m)
{
	struct path *p = &f->path;

	p->asked |= p->id == m->id;
	if (p->id != m->id) {
		pipe_settled(f, m->id, 0, false);
	} else if (p->source) {
		resend(a, f, m->n);
	} else if (m->gone && !p->ended && (p->wire || wire_from(a, p->peer))) {
		p->until = clock_mono_ns() + DRAIN_NS;
		look_at(f, p->until);
	} else {
		path_stop(a, f);
	}
}

/* ---- the end of it ---- */

static void sink_stop(struct agent *a, struct fifo *f)
{
	struct path *p = &f->path;
	uint8_t *all = NULL;
	struct bytes *b, *tmp;
	size_t n = 0, at = 0;

	if (p->used) {
		path_acknowledge(f, true);
		list_each(b, &f->out, link)
			n += b->len - b->off;
		all = n ? malloc(n) : NULL;
		list_each_safe(b, tmp, &f->out, link) {
			if (all)
				memcpy(all + at, b->data + b->off, b->len - b->off);
			at += b->len - b->off;
			list_del(&b->link);
			free(b);
		}
	}
	/* in one piece: each goes to the front of what is there */
	if (all)
		pipe_say(f, SPRITE__FS__PIPE_MSG__KIND__RETURN, 0, 0, all, n);
	else
		p->received -= n; /* no memory: the source has it still */
	pipe_settled(f, p->id, p->received, !p->asked);
	free(all);
	forget(a, f);
}

void path_stop(struct agent *a, struct fifo *f)
{
	struct path *p = &f->path;

	if (!p->id || p->stopped)
		return;
	if (!p->source) {
		sink_stop(a, f);
		return;
	}
	p->stopped = true;
	if (p->wire)
		wire_send(p->wire, FRAME_STOP, p->id, NULL, 0);
	if (f->hub->stream)
		pipe_say(f, SPRITE__FS__PIPE_MSG__KIND__SETTLE, p->id, 0, NULL, 0);
	else
		forget(a, f);
}

/* ---- the connection ---- */

void path_wire(struct agent *a, struct wire *w)
{
	struct fifo *f;

	list_each(f, &a->fifos, link) {
		struct path *p = &f->path;

		if (!p->id || (p->wire != w && (p->wire || !p->until || strcmp(p->peer, w->peer))))
			continue;
		if (w->state == WIRE_DOWN) {
			p->wire = NULL;
			p->ended = true;
			if (p->source && !p->stopped) {
				p->stopped = true;
				pipe_say(f, SPRITE__FS__PIPE_MSG__KIND__SETTLE, p->id, 1, NULL, 0);
			} else if (p->until) {
				path_stop(a, f);
			}
		} else if (p->source && !pipe_pump(a, f)) {
			pipe_report(f, 0);
		}
	}
}

bool path_uses(const struct agent *a, const struct wire *w)
{
	struct fifo *f;

	list_each(f, &a->fifos, link)
		if (f->path.wire == w)
			return true;
	return false;
}

/* ---- source ---- */

bool path_ready(const struct fifo *f)
{
	return f->path.id && f->path.source && (f->path.stopped || f->path.wire->state != WIRE_COMING);
}

size_t path_room(const struct fifo *f, uint8_t **at)
{
	const struct path *p = &f->path;
	size_t i = p->sent % PATH_RING, n = PATH_RING - (p->sent - p->acked);

	*at = p->ring + i;
	if (p->stopped || f->unacked || p->wire->full || p->wire->state != WIRE_UP)
		return 0;
	n = n < PATH_RING - i ? n : PATH_RING - i;
	return n < WINDOW ? n : WINDOW;
}

void path_send(struct fifo *f, const uint8_t *at, size_t n)
{
	f->path.sent += n;
	wire_send(f->path.wire, FRAME_DATA, f->path.id, at, n);
}

void path_ack(struct agent *a, struct wire *w, uint64_t id, uint64_t n)
{
	struct fifo *f = hash_get_u64(&a->paths, id);

	if (!f || f->path.wire != w || n > f->path.sent || n < f->path.acked)
		return;
	f->path.acked = n;
	if (f->path.blocked && !pipe_pump(a, f))
		pipe_report(f, 0);
}

/* ---- sink ---- */

void path_data(struct agent *a, struct wire *w, uint64_t id, const uint8_t *bytes, size_t n)
{
	struct fifo *f = hash_get_u64(&a->paths, id);
	struct path *p = f ? &f->path : NULL;

	if (!f || p->source || p->ended || (p->wire && p->wire != w) || strcmp(p->peer, w->peer))
		return; /* it was settled meanwhile */
	if (!p->used && (!list_empty(&f->out) || f->done)) { /* the source was to wait until that is acknowledged */
		path_stop(a, f);
		return;
	}
	p->wire = w;
	p->used = true;
	p->received += n;
	if (p->received - p->placed > PATH_RING) {
		p->received -= n;
		wire_fail(w, "sends more than its window");
	} else if (!sink_put(a, f, bytes, n)) {
		pipe_report(f, 0);
	}
}

void path_end(struct agent *a, struct wire *w, uint64_t id)
{
	struct fifo *f = hash_get_u64(&a->paths, id);

	if (!f || f->path.source || f->path.wire != w)
		return;
	f->path.ended = true;
	if (f->path.until)
		path_stop(a, f);
}

void path_acknowledge(struct fifo *f, bool now)
{
	struct path *p = &f->path;
	uint64_t n = p->placed;

	if (n == p->told || !p->wire)
		return;
	if (!now && n - p->told < PATH_ACK && clock_mono_ns() - p->told_since < AGAIN_NS) {
		look_at(f, p->told_since + AGAIN_NS);
		return;
	}
	wire_send(p->wire, FRAME_ACK, p->id, &n, sizeof(n));
	p->told = n;
}
