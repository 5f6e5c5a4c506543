// SPDX-License-Identifier: Apache-2.0
/* See direct.h. Each side's connection belongs to the thread that pumps; nothing is shared. */
#include "migd/direct.h"
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/fault.h"
#include "conf/log.h"

/* PIECE: encrypted and sent, or received and passed on, at once: it stays in the processor's cache. TICK_MS: how soon it is noticed that the stream was cancelled. */
enum { PIECE = 8 * RPC_RAW_RECORD, TICK_MS = 250, WORD_MS = 3 * RPC_RAW_MS, PORT_UP = 10 };

typedef Sprite__Mig__ImageFrame frame;
typedef Sprite__Mig__ImageFrame__Direct word;
#define WORD(x) SPRITE__MIG__IMAGE_FRAME__DIRECT__##x

static int say(struct rpc_stream *s, word w, uint16_t port, uint64_t bytes)
{
	frame f = SPRITE__MIG__IMAGE_FRAME__INIT;

	f.direct = w;
	f.port = port;
	f.bytes = bytes;
	return rpc_stream_send(s, &f.base, NULL, 0);
}

/* ---- source ---- */

/* 0: PORT or YES with *port. The destination may have given up meanwhile. */
static int hear(struct rpc_stream *s, word *w, uint16_t *port, struct error *e)
{
	struct rpc_msg m;
	const frame *f;
	int r = rpc_stream_recv(s, &m, WORD_MS);

	if (r <= 0)
		return r ? r : -EPIPE;
	f = (const frame *)m.msg;
	*w = f->direct;
	*port = (uint16_t)f->port;
	r = f->err ? error_set(e, f->err, "%s", f->text) : *w == WORD(PORT) || *w == WORD(YES) ? 0 : -EPROTO;
	rpc_msg_clear(&m);
	return r;
}

static void connect_to(struct migd *m, struct host *dest, uint16_t port, struct rpc_raw **out)
{
	struct conf_addr addr;
	struct error e = { 0 };

	host_addr(dest, &addr);
	addr.port = port;
	if (rpc_raw_connect(m->tls, &addr, host_name(dest), out, &e))
		log_note("memory goes to %s without a connection of its own: %s", host_name(dest), e.text);
}

int direct_open(struct migd *m, struct host *dest, struct rpc_stream *s, struct rpc_raw **out, struct error *e)
{
	struct rpc_raw *raw = NULL;
	uint16_t port = 0;
	word w = WORD(NONE);
	int r;

	*out = NULL;
	if (!host_direct(dest))
		return 0;
	r = say(s, WORD(ASK), 0, 0);
	r = r ? r : hear(s, &w, &port, e);
	if (r || w != WORD(PORT) || !port)
		return r;
	connect_to(m, dest, port, &raw);
	r = hear(s, &w, &port, e); /* it says so, too, when nobody came */
	fault_point("direct");
	if (r || !raw || w != WORD(YES)) {
		rpc_raw_close(raw);
		if (!r)
			host_direct_failed(dest);
		return r;
	}
	*out = raw;
	return 0;
}

static int flush(struct rpc_raw *raw, struct rpc_stream *s)
{
	struct pollfd p = { .fd = rpc_raw_fd(raw), .events = POLLOUT };
	int r;

	while ((r = rpc_raw_flush(raw)) == -EAGAIN) {
		if (rpc_stream_cancelled(s))
			return -EPIPE;
		poll(&p, 1, TICK_MS);
	}
	return r ? -EPIPE : 0;
}

int direct_send(struct rpc_raw *raw, struct rpc_stream *s, const char *p, size_t n)
{
	int r = 0;

	while (n && !r) {
		size_t k = n < PIECE ? n : PIECE;

		r = rpc_raw_write(raw, p, k, false);
		r = r == -EAGAIN ? flush(raw, s) : r ? -EPIPE : 0;
		p += k;
		n -= k;
	}
	return r;
}

int direct_close(struct rpc_raw *raw, struct rpc_stream *s, uint64_t bytes)
{
	rpc_raw_close(raw);
	return say(s, WORD(OVER), 0, bytes);
}

/* ---- destination ---- */

static int open_door(struct migd *m, uint16_t *port)
{
	struct conf_addr addr = m->conf->mig_listen[0];
	struct error e = { 0 };
	int fd;

	addr.port = (uint16_t)(addr.port + PORT_UP);
	fd = rpc_raw_listen(&addr, port, &e);
	if (fd < 0) { /* another image comes in */
		addr.port = 0;
		fd = rpc_raw_listen(&addr, port, &e);
	}
	if (fd < 0)
		*port = 0;
	return fd;
}

/* Somebody else may knock as well. */
static struct rpc_raw *let_in(struct migd *m, struct rpc_stream *s, int door)
{
	struct pollfd p = { .fd = door, .events = POLLIN };
	uint64_t until = clock_mono_ns() + RPC_RAW_MS * 1000000ull;
	struct rpc_raw *raw = NULL;

	while (clock_mono_ns() < until && poll(&p, 1, TICK_MS) >= 0 && !rpc_stream_cancelled(s)) {
		int fd = p.revents ? accept4(door, NULL, NULL, SOCK_CLOEXEC) : -1;
		struct error e = { 0 };

		if (fd < 0 || rpc_raw_accept(m->tls, fd, &raw, &e))
			continue;
		if (!strcmp(rpc_raw_peer(raw), rpc_stream_peer(s)))
			return raw;
		rpc_raw_close(raw);
	}
	return NULL;
}

/* 1: there is something to read; 0: look again; -errno: nobody wants it any more. */
static int wait_for(struct rpc_raw *raw, struct rpc_stream *s, int engine)
{
	struct pollfd p[] = { { .fd = rpc_raw_fd(raw), .events = POLLIN }, { .fd = engine } };

	if (rpc_stream_cancelled(s))
		return -ECANCELED;
	if (poll(p, 2, TICK_MS) <= 0)
		return 0;
	return p[1].revents & (POLLHUP | POLLERR) ? -EPIPE : 1;
}

/* All that comes by it. 1: it has ended, in whatever way; *bytes says whether that is all. */
static int read_all(struct rpc_raw *raw, struct rpc_stream *s, const struct direct_sink *to, uint64_t *bytes)
{
	_cleanup_free_ char *buf = malloc(PIECE);
	ssize_t k = -EAGAIN;
	size_t n = 0;
	int r = buf ? 1 : -ENOMEM;

	while (r >= 0 && (k > 0 || k == -EAGAIN)) {
		if (k == -EAGAIN && (r = wait_for(raw, s, to->engine)) <= 0)
			continue;
		do
			if ((k = rpc_raw_read(raw, buf + n, PIECE - n)) > 0)
				n += (size_t)k;
		while (k > 0 && n + RPC_RAW_RECORD <= PIECE);
		*bytes += n;
		r = n ? to->take(to->arg, buf, n) : 1;
		n = 0;
	}
	return r < 0 ? r : 1;
}

/* The next word of the stream must be that one. */
static int next_word(struct rpc_stream *s, word w, uint64_t *bytes)
{
	struct rpc_msg m;
	int r = rpc_stream_recv(s, &m, -1);

	if (r != 1)
		return r ? r : -EPROTO;
	r = ((const frame *)m.msg)->direct == w ? 1 : -EPROTO;
	*bytes = ((const frame *)m.msg)->bytes;
	rpc_msg_clear(&m);
	return r;
}

int direct_serve(struct migd *m, struct rpc_stream *s, const Sprite__Mig__ImageFrame *f, const struct direct_sink *to)
{
	_cleanup_close_ int door = -1;
	struct rpc_raw *raw = NULL;
	uint64_t bytes = 0, sent = 0;
	uint16_t port = 0;
	int r;

	if (f->direct != WORD(ASK))
		return 1;
	door = open_door(m, &port);
	if (say(s, WORD(PORT), port, 0))
		return -ECANCELED;
	if (!port)
		return 1;
	raw = let_in(m, s, door);
	fault_point("direct");
	if (say(s, raw ? WORD(YES) : WORD(PORT), 0, 0)) {
		rpc_raw_close(raw);
		return -ECANCELED;
	}
	if (!raw)
		return 1;
	r = read_all(raw, s, to, &bytes);
	rpc_raw_close(raw);
	if (r == 1)
		r = next_word(s, WORD(OVER), &sent);
	if (r == 1 && sent != bytes)
		log_note("an image from %s: the connection that its memory came by is broken", rpc_stream_peer(s));
	return r == 1 && sent != bytes ? -ECONNRESET : r;
}
