// SPDX-License-Identifier: Apache-2.0
/*
 * Unix sockets that were connected while the family was away (migd/connect.c): at home nobody has their end but we, no hollow has. So one that is over is let go of, as a
 * connection of the network is: the guest says DONE, the home forgets it and says GONE, the guest forgets it (conn.c). They are known by their numbers, on all hosts.
 *
 * Lock: the hub's.
 */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>
#include "conf/clock.h"
#include "migd/relay/hub_parts.h"

enum { LOOK_MS = 1000, TAKEN_MS = 60000 };

/* An end that we hold hides that the family has closed its. */
void born_taken(struct relay *r)
{
	if (r->spare >= 0)
		close(r->spare);
	r->spare = -1;
}

/* Whoever asked for it has given up, or has been answered, by now. */
bool born_lost(const struct relay *r)
{
	return clock_mono_ns() - r->made_ns > TAKEN_MS * 1000000ull;
}

int born_again(const struct relay *r, enum relay_kind kind)
{
	int fd = r->spare < 0 || r->kind != kind ? -EEXIST : fcntl(r->spare, F_DUPFD_CLOEXEC, 3);

	return fd < 0 && fd != -EEXIST ? -errno : fd;
}

/* All that the family has said is at home, and nothing more can come either way. */
static bool is_over(struct relay *r)
{
	const struct relay_source *s = &r->source;
	const struct relay_sink *k = &r->sink;
	bool said = s->peer_closed || (s->end && s->end_sent && !s->have), heard = (k->closed && k->closed_told) || (k->end && k->fd < 0 && !k->have);
	uint64_t now;

	if (r->kind != RELAY_DGRAM)
		return said && heard;
	if (s->have) /* of datagrams there is no end: the family's socket has gone */
		return false;
	now = clock_mono_ns();
	if (now < r->conn.look_ns)
		return false;
	r->conn.look_ns = now + LOOK_MS * 1000000ull;
	return relay_sock_unread(k->reader) == -ENOENT && relay_source_fill(&r->source) <= 0 && !s->have;
}

void born_step(struct relay_hub *h, struct relay *r)
{
	if (h->home || h->paused || !relay_was_born(r))
		return;
	if (born_lost(r))
		born_taken(r);
	r->conn.over |= is_over(r);
	if (r->conn.over && !r->conn.told && !r->hello_due && !hub_queue(h, r->id, RF_DONE, 0, NULL, 0))
		r->conn.told = true;
}

int born_tick(const struct relay_hub *h, const struct relay *r)
{
	return !h->home && relay_was_born(r) && !r->conn.over && (r->kind == RELAY_DGRAM || r->spare >= 0) ? LOOK_MS : -1;
}
