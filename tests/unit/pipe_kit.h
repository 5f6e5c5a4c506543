/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes that are played, for test_pipe_state.c and test_pipe_path.c: their kernels' pipes, processes and agents, and the messages on their way to and from the hub's decisions. */
#ifndef PIPE_KIT_H
#define PIPE_KIT_H
#pragma GCC diagnostic ignored "-Wunused-function"
#include "fs/server/pipe_state.h"

#include <CUnit/Basic.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NODES 4
enum kind { ROLE, OPENED, DATA, ACK, PATH, SETTLE };
struct msg { /* on its way to a node, in order */
	struct list link;
	enum kind kind;
	struct ps_ask ask;
	uint64_t id;
	size_t n;
	struct node *peer; /* PATH */
	bool sink, gone;
	char bytes[256];
};
/* A node's part in a path: what pipe_path.c of the client does. */
struct way {
	uint64_t id;
	bool source, stopped, used;
	struct node *sink;
	char ring[4096], out[4096]; /* sent; received and not placed */
	size_t sent, received, nout;
};
struct flight { /* on a connection */
	struct list link;
	uint64_t id;
	struct node *to;
	size_t n;
	char bytes[256];
};
struct node {
	int readers, writers; /* processes that have it open here */
	int opening_r, opening_w;
	bool opened;
	uint64_t opened_id;
	enum ps_role role;
	struct list in;
	char pipe[4096]; /* the native pipe */
	size_t len, placed;
	size_t unacked;
	bool kept, stands, silent;
	bool guard; /* its agent keeps the pipe for a reader that is on its way */
	struct way way;
};
static struct ps state;
static int discards;
static struct node nodes[NODES];
static const struct ps_key key = {.bytes = "fifo", .len = 4};
static uint64_t seed;
static bool paths; /* nodes can reach each other */
static bool lazy;  /* what comes by a path waits for way_place() */
static unsigned by_path; /* bytes */
static struct list wire = {&wire, &wire};

static unsigned rnd(unsigned n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (unsigned)(seed % n);
}

static void post(void *node, struct msg m)
{
	struct msg *c = malloc(sizeof(*c));

	*c = m;
	list_add_tail(&((struct node *)node)->in, &c->link);
}

static void on_role(void *arg, void *node, const struct ps_key *k, const struct ps_ask *ask)
{
	(void)arg;
	CU_ASSERT_EQUAL(k->len, 4);
	post(node, (struct msg){.kind = ROLE, .ask = *ask});
}
static void on_opened(void *arg, void *node, const struct ps_key *k, uint64_t req)
{
	(void)arg;
	(void)k;
	post(node, (struct msg){.kind = OPENED, .id = req});
}
static void on_data(void *arg, void *node, const struct ps_key *k, const void *bytes, size_t n)
{
	struct msg m = {.kind = DATA, .n = n};

	(void)arg;
	(void)k;
	while (n) { /* what is given back may be long */
		m.n = n < sizeof(m.bytes) ? n : sizeof(m.bytes);
		memcpy(m.bytes, bytes, m.n);
		post(node, m);
		bytes = (const char *)bytes + m.n;
		n -= m.n;
	}
}
static void on_ack(void *arg, void *node, const struct ps_key *k, size_t n)
{
	(void)arg;
	(void)k;
	post(node, (struct msg){.kind = ACK, .n = n});
}
static void on_release(void *arg, void *node, const struct ps_key *k, uint64_t token)
{
	(void)arg;
	(void)k;
	(void)node;
	(void)token;
}
static bool on_reachable(void *arg, void *node)
{
	(void)arg;
	(void)node;
	return paths;
}
static void on_path(void *arg, void *node, const struct ps_key *k, uint64_t id, void *peer, bool sink)
{
	(void)arg;
	(void)k;
	post(node, (struct msg){.kind = PATH, .id = id, .peer = peer, .sink = sink});
}
static void on_settle(void *arg, void *node, const struct ps_key *k, uint64_t id, uint64_t n, bool gone)
{
	(void)arg;
	(void)k;
	post(node, (struct msg){.kind = SETTLE, .id = id, .n = n, .gone = gone});
}
static const struct ps_ops ops = {on_role, on_opened, on_data, on_ack, on_release, on_reachable, on_path, on_settle};

static void start(void)
{
	ps_init(&state, &ops, NULL);
	for (int i = 0; i < NODES; i++) {
		nodes[i] = (struct node){0};
		list_init(&nodes[i].in);
	}
}

static void stop(void)
{
	struct list *l;

	for (int i = 0; i < NODES; i++)
		while ((l = list_pop(&nodes[i].in)))
			free(list_entry(l, struct msg, link));
	while ((l = list_pop(&wire)))
		free(list_entry(l, struct flight, link));
	ps_destroy(&state);
}

static bool has_r(const struct node *n)
{
	return n->readers || n->opening_r;
}
static bool has_w(const struct node *n)
{
	return n->writers || n->opening_w;
}

static void report(struct node *n, uint64_t round)
{
	CU_ASSERT_EQUAL(ps_report(&state, &key, n, round, &(struct ps_part){n->role, has_r(n), has_w(n), .kept = n->kept, .stands = n->stands}), 0);
}

/* The kernel's part: the pipe of a node goes with its last end. */
static void pipe_settle(struct node *n)
{
	bool opening = n->opened && (n->opening_r || n->opening_w);

	if (!n->readers && !n->writers && !opening && n->role == PS_NONE && !n->kept && !n->guard)
		n->len = 0;
}

static void discard(struct node *n)
{
	n->role = PS_NONE;
	n->kept = n->guard = false;
	pipe_settle(n);
	discards++;
	report(n, 0);
}

/* ---- paths */

static void way_place(struct node *n, size_t some)
{
	struct way *w = &n->way;

	some = some < w->nout ? some : w->nout;
	memcpy(n->pipe + n->len, w->out, some);
	n->len += some;
	w->nout -= some;
	memmove(w->out, w->out + some, w->nout);
}

/* The connection brings its next piece. */
static bool wire_step(void)
{
	struct list *l = list_pop(&wire);
	struct flight *x;
	struct way *w;

	if (!l)
		return false;
	x = list_entry(l, struct flight, link);
	w = &x->to->way;
	if (w->id == x->id && !w->source) {
		CU_ASSERT_EQUAL(x->to->role, PS_SINK);
		w->used = true;
		w->received += x->n;
		memcpy(w->out + w->nout, x->bytes, x->n);
		w->nout += x->n;
		by_path += (unsigned)x->n;
		if (!lazy)
			way_place(x->to, w->nout);
	}
	free(x);
	return true;
}

static void way_stop(struct node *n)
{
	struct way w = n->way;

	if (!w.id || w.stopped)
		return;
	if (w.source) {
		n->way.stopped = true;
		CU_ASSERT_EQUAL(ps_settle(&state, &key, n, w.id, false), 0);
		return;
	}
	n->way = (struct way){0};
	if (w.nout)
		CU_ASSERT_EQUAL(ps_return(&state, &key, n, w.out, w.nout, false), 0);
	CU_ASSERT_EQUAL(ps_settled(&state, &key, n, w.id, w.received), 0);
}

static void way_offered(struct node *n, const struct msg *m)
{
	if (n->role != (m->sink ? PS_SINK : PS_SOURCE)) {
		CU_ASSERT_EQUAL(m->sink ? ps_settled(&state, &key, n, m->id, 0) : ps_settle(&state, &key, n, m->id, true), 0);
		return;
	}
	CU_ASSERT_EQUAL(n->way.id, 0);
	n->way = (struct way){.id = m->id, .source = !m->sink, .sink = m->peer};
	if (m->sink)
		CU_ASSERT_EQUAL(ps_path_ready(&state, &key, n, m->id), 0);
}

static void way_settle(struct node *n, const struct msg *m)
{
	struct way w = n->way;

	if (w.id != m->id) {
		CU_ASSERT_EQUAL(ps_settled(&state, &key, n, m->id, 0), 0);
	} else if (w.source) {
		n->way = (struct way){0};
		CU_ASSERT_TRUE_FATAL(m->n <= w.sent);
		if (w.sent > m->n) {
			n->unacked += w.sent - m->n;
			CU_ASSERT_EQUAL(ps_data(&state, &key, n, w.ring + m->n, w.sent - m->n), 0);
		}
		CU_ASSERT_EQUAL(ps_settled(&state, &key, n, m->id, 0), 0);
	} else {
		while (m->gone && wire_step())
			;
		way_stop(n);
	}
}

/* ---- */

/* Our end has lost its other side. */
static void check_lost(struct node *n)
{
	if (n->silent)
		return;
	if (n->role == PS_SINK && !has_r(n)) {
		way_stop(n);
		if (n->len)
			CU_ASSERT_EQUAL(ps_return(&state, &key, n, n->pipe, n->len, true), 0);
		n->len = 0;
		n->role = PS_NONE;
		report(n, 0);
	} else if (n->role == PS_SOURCE && !has_w(n) && !n->len) {
		way_stop(n);
		n->role = PS_NONE;
		report(n, 0);
	}
}

/* Openers that are not let in yet do not count. */
static void prove(struct node *n, uint64_t round)
{
	check_lost(n);
	bool waits = (n->opening_r || n->opening_w) && !n->opened;
	struct ps_part p = {n->role, has_r(n), has_w(n), .kept = n->kept, .stands = n->stands};

	p.alive = n->readers || n->writers || n->stands || ((n->opening_r || n->opening_w) && !waits);
	n->silent = !p.alive;
	if (!p.alive && n->role == PS_NONE)
		p.r = p.w = false;
	CU_ASSERT_EQUAL(ps_report(&state, &key, n, round, &p), 0);
}

static void role_take(struct node *n, const struct msg *m)
{
	bool was_source = n->role == PS_SOURCE, was_sink = n->role == PS_SINK;

	n->silent = false;
	if (m->ask.discard) {
		discard(n);
		return;
	}
	if (m->ask.prove) {
		prove(n, m->ask.round);
		return;
	}
	CU_ASSERT_EQUAL(n->way.id, 0); /* no role changes with a path */
	if (n->role == PS_SINK && m->ask.role != PS_SINK)
		check_lost(n);
	n->role = m->ask.role;
	if ((n->role == PS_SINK && !has_r(n)) || (n->role == PS_SOURCE && !has_w(n) && !n->len))
		n->role = PS_NONE;
	if (n->role != PS_NONE)
		n->kept = false;
	else if (was_source && n->len)
		n->kept = true;
	else if (was_sink && n->len && n->opening_r)
		n->guard = true;
	pipe_settle(n);
	report(n, m->ask.round);
}

/* The node handles its next message. */
static bool step(struct node *n)
{
	struct list *l = list_pop(&n->in);
	struct msg *m;

	if (!l)
		return false;
	m = list_entry(l, struct msg, link);
	if (m->kind == ROLE) {
		role_take(n, m);
	} else if (m->kind == OPENED) {
		n->opened = true;
		n->opened_id = m->id;
	} else if (m->kind == PATH) {
		way_offered(n, m);
	} else if (m->kind == SETTLE) {
		way_settle(n, m);
	} else if (m->kind == DATA && n->role == PS_SINK) {
		CU_ASSERT_FALSE(n->way.used);
		size_t at = n->opening_r && !n->opened ? n->placed : n->len; /* the first reader: before what writers of this node have written */

		memmove(n->pipe + at + m->n, n->pipe + at, n->len - at);
		memcpy(n->pipe + at, m->bytes, m->n);
		n->placed += m->n;
		n->len += m->n;
		CU_ASSERT_EQUAL(ps_ack(&state, &key, n, m->n), 0);
	} else if (m->kind == ACK) {
		n->unacked -= m->n < n->unacked ? m->n : n->unacked;
	}
	free(m);
	return true;
}

static void way_send(struct node *n, size_t k)
{
	struct flight *x = n->unacked || n->way.sent + k > sizeof(n->way.ring) ? NULL : calloc(1, sizeof(*x));

	if (!x)
		return;
	x->id = n->way.id;
	x->to = n->way.sink;
	x->n = k;
	memcpy(x->bytes, n->pipe, k);
	list_add_tail(&wire, &x->link);
	memcpy(n->way.ring + n->way.sent, n->pipe, k);
	n->way.sent += k;
	memmove(n->pipe, n->pipe + k, n->len - k);
	n->len -= k;
}

static void source_pump(struct node *n)
{
	size_t k = n->len < 200 ? n->len : 200;

	if (n->role != PS_SOURCE || !k || n->unacked >= 1000 || n->silent || n->way.stopped)
		return;
	if (n->way.id) {
		way_send(n, k);
		return;
	}
	CU_ASSERT_EQUAL(ps_data(&state, &key, n, n->pipe, k), 0);
	n->unacked += k;
	memmove(n->pipe, n->pipe + k, n->len - k);
	n->len -= k;
}

static void settle(void)
{
	bool more = true;

	while (more) {
		more = wire_step();
		for (int i = 0; i < NODES; i++) {
			size_t len = nodes[i].len;

			more |= step(&nodes[i]);
			way_place(&nodes[i], SIZE_MAX);
			source_pump(&nodes[i]);
			more |= nodes[i].len != len;
			check_lost(&nodes[i]);
		}
	}
}

static void open_at(int i, bool r, bool w, uint64_t id)
{
	struct node *n = &nodes[i];

	n->opening_r += r;
	n->opening_w += w;
	n->opened = false;
	n->placed = r && n->role != PS_SINK ? 0 : n->len;
	CU_ASSERT_EQUAL(ps_open(&state, &key, n, r, w, id), 0);
}

static void came_in(int i, bool r, bool w)
{
	CU_ASSERT_TRUE(nodes[i].opened);
	nodes[i].opening_r -= r;
	nodes[i].opening_w -= w;
	nodes[i].readers += r;
	nodes[i].writers += w;
	nodes[i].guard &= nodes[i].opening_r > 0;
}

static void put(int i, const char *s)
{
	memcpy(nodes[i].pipe + nodes[i].len, s, strlen(s));
	nodes[i].len += strlen(s);
}

static void close_w(int i)
{
	nodes[i].writers = 0;
	pipe_settle(&nodes[i]);
}

static inline void wire_move(void)
{
	if (rnd(2))
		wire_step();
	way_place(&nodes[rnd(NODES)], rnd(4));
}

/* One writer node, readers that come and go on the other nodes, one at a time: all bytes arrive once and in order. */
static inline void schedule(uint64_t s)
{
	unsigned next = 0, wrote = 0;
	int reader = 0;

	seed = s;
	start();
	open_at(0, false, true, 1);
	settle();
	came_in(0, false, true);
	for (int i = 0; i < 400; i++) {
		struct node *n;

		if (rnd(3) && nodes[0].len < 2000)
			nodes[0].pipe[nodes[0].len++] = (char)wrote++;
		source_pump(&nodes[0]);
		step(&nodes[rnd(NODES)]);
		if (paths)
			wire_move();
		n = &nodes[reader ? reader : 1];
		if (!reader && !rnd(4)) {
			reader = 1 + (int)rnd(NODES - 1);
			open_at(reader, true, false, (uint64_t)i + 2);
			settle();
			came_in(reader, true, false);
		} else if (reader && n->len && rnd(2)) {
			CU_ASSERT_EQUAL((unsigned char)n->pipe[0], (unsigned char)next);
			next++;
			memmove(n->pipe, n->pipe + 1, --n->len);
		} else if (reader && !rnd(20)) {
			n->readers = 0;
			reader = 0;
			settle();
		}
		check_lost(n);
	}
	if (!reader) {
		reader = 1;
		open_at(1, true, false, 9999);
		settle();
		came_in(1, true, false);
	}
	while (next < wrote) {
		settle();
		CU_ASSERT_TRUE_FATAL(nodes[reader].len > 0);
		CU_ASSERT_EQUAL((unsigned char)nodes[reader].pipe[0], (unsigned char)next);
		next++;
		memmove(nodes[reader].pipe, nodes[reader].pipe + 1, --nodes[reader].len);
	}
	CU_ASSERT_EQUAL(nodes[reader].len, 0);
	stop();
}

/* Writers and readers that come and go on all nodes, at most one reader and one writer at a time: none reads what was written before everybody had gone, and nothing else is missing. */
static inline void schedule_last(uint64_t s)
{
	unsigned next = 0, wrote = 0;
	int reader = -1, writer = -1;

	seed = s;
	start();
	for (int i = 0; i < 600; i++) {
		struct node *n;
		bool settled = !rnd(3);

		switch (rnd(6)) {
		case 0:
			if (writer < 0) {
				writer = (int)rnd(NODES);
				open_at(writer, false, true, (uint64_t)i + 1);
				settle();
				came_in(writer, false, true);
			}
			break;
		case 1:
			if (reader < 0) {
				reader = (int)rnd(NODES);
				open_at(reader, true, false, (uint64_t)i + 1);
				settle();
				came_in(reader, true, false);
			}
			break;
		case 2:
			if (writer >= 0 && !rnd(4)) {
				close_w(writer);
				writer = -1;
			}
			break;
		case 3:
			if (reader >= 0 && !rnd(4)) {
				n = &nodes[reader];
				n->readers = 0;
				pipe_settle(n);
				reader = -1;
			}
			break;
		case 4:
			n = writer < 0 ? NULL : &nodes[writer];
			if (n && reader >= 0 && n->len < 100 && (reader == writer || n->role == PS_SOURCE))
				n->pipe[n->len++] = (char)wrote++;
			break;
		default:
			n = reader < 0 ? NULL : &nodes[reader];
			if (n && n->len) {
				CU_ASSERT_EQUAL_FATAL((unsigned char)n->pipe[0], (unsigned char)next);
				next++;
				memmove(n->pipe, n->pipe + 1, --n->len);
			}
		}
		if (reader < 0 && writer < 0)
			next = wrote; /* all is gone */
		if (settled)
			settle();
		else
			step(&nodes[rnd(NODES)]);
		if (paths)
			wire_move();
	}
	stop();
}

#endif
