// SPDX-License-Identifier: Apache-2.0
/*
 * The pipe hub's decisions, with nodes that are played: opens in both orders, end of file behind the last byte, EPIPE, readers that leave bytes behind, and random
 * schedules in which every byte written must be read once and in order.
 */
#include "fs/server/pipe_state.h"

#include <CUnit/Basic.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NODES 4
enum kind { ROLE, OPENED, DATA, ACK };
struct msg { /* on its way to a node, in order */
	struct list link;
	enum kind kind;
	struct ps_ask ask;
	uint64_t id;
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
};
static struct ps state;
static int discards;
static struct node nodes[NODES];
static const struct ps_key key = {.bytes = "fifo", .len = 4};
static uint64_t seed;

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
	CU_ASSERT_TRUE_FATAL(n <= sizeof(m.bytes));
	memcpy(m.bytes, bytes, n);
	post(node, m);
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
static const struct ps_ops ops = {on_role, on_opened, on_data, on_ack, on_release};

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

	if (!n->readers && !n->writers && !opening && n->role == PS_NONE && !n->kept)
		n->len = 0;
}

static void discard(struct node *n)
{
	n->role = PS_NONE;
	n->kept = false;
	pipe_settle(n);
	discards++;
	report(n, 0);
}

/* Our end has lost its other side. */
static void check_lost(struct node *n)
{
	if (n->silent)
		return;
	if (n->role == PS_SINK && !has_r(n)) {
		if (n->len)
			CU_ASSERT_EQUAL(ps_return(&state, &key, n, n->pipe, n->len, true), 0);
		n->len = 0;
		n->role = PS_NONE;
		report(n, 0);
	} else if (n->role == PS_SOURCE && !has_w(n) && !n->len) {
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
	CU_ASSERT_EQUAL(ps_report(&state, &key, n, round, &p), 0);
}

static void role_take(struct node *n, const struct msg *m)
{
	bool was_source = n->role == PS_SOURCE;

	n->silent = false;
	if (m->ask.discard) {
		discard(n);
		return;
	}
	if (m->ask.prove) {
		prove(n, m->ask.round);
		return;
	}
	if (n->role == PS_SINK && m->ask.role != PS_SINK)
		check_lost(n);
	n->role = m->ask.role;
	if ((n->role == PS_SINK && !has_r(n)) || (n->role == PS_SOURCE && !has_w(n) && !n->len))
		n->role = PS_NONE;
	if (n->role != PS_NONE)
		n->kept = false;
	else if (was_source && n->len)
		n->kept = true;
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
	} else if (m->kind == DATA && n->role == PS_SINK) {
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

static void source_pump(struct node *n)
{
	size_t k = n->len < 200 ? n->len : 200;

	if (n->role != PS_SOURCE || !k || n->unacked >= 1000 || n->silent)
		return;
	CU_ASSERT_EQUAL(ps_data(&state, &key, n, n->pipe, k), 0);
	n->unacked += k;
	memmove(n->pipe, n->pipe + k, n->len - k);
	n->len -= k;
}

static void settle(void)
{
	bool more = true;

	while (more) {
		more = false;
		for (int i = 0; i < NODES; i++) {
			more |= step(&nodes[i]);
			if (nodes[i].role == PS_SOURCE && nodes[i].len && nodes[i].unacked < 1000 && !nodes[i].silent) {
				source_pump(&nodes[i]);
				more = true;
			}
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

static void test_reader_then_writer(void)
{
	start();
	open_at(0, true, false, 1);
	settle();
	came_in(0, true, false);
	CU_ASSERT_EQUAL(nodes[0].role, PS_NONE); /* nobody else: all is native */
	open_at(1, false, true, 2);
	CU_ASSERT_FALSE(nodes[1].opened);
	settle();
	CU_ASSERT_EQUAL(nodes[0].role, PS_SINK); /* both ends stand before the writer goes on */
	CU_ASSERT_EQUAL(nodes[1].role, PS_SOURCE);
	came_in(1, false, true);
	put(1, "hello");
	nodes[1].writers = 0; /* and closes at once: the end comes behind the bytes */
	settle();
	CU_ASSERT_EQUAL(nodes[0].len, 5);
	CU_ASSERT_EQUAL(memcmp(nodes[0].pipe, "hello", 5), 0);
	CU_ASSERT_EQUAL(nodes[0].role, PS_NONE);
	CU_ASSERT_EQUAL(nodes[1].role, PS_NONE);
	stop();
}

static void test_same_node(void)
{
	start();
	open_at(2, true, false, 1);
	open_at(2, false, true, 2);
	settle();
	CU_ASSERT_TRUE(nodes[2].opened);
	CU_ASSERT_EQUAL(nodes[2].role, PS_NONE);
	stop();
}

static void test_stale_belief(void) /* a reader that left natively, unknown to the hub */
{
	start();
	open_at(0, true, false, 1);
	settle();
	nodes[0].opening_r = 0;
	open_at(1, false, true, 2);
	settle();
	CU_ASSERT_TRUE(nodes[1].opened);
	CU_ASSERT_EQUAL(nodes[0].role, PS_NONE);
	CU_ASSERT_EQUAL(nodes[1].role, PS_NONE); /* waits natively, or gets ENXIO */
	stop();
}

static void test_epipe(void)
{
	start();
	open_at(0, true, false, 1);
	open_at(1, false, true, 2);
	settle();
	came_in(0, true, false);
	came_in(1, false, true);
	put(1, "abc");
	settle();
	nodes[0].readers = 0; /* leaves without reading */
	settle();
	CU_ASSERT_EQUAL(nodes[1].role, PS_NONE); /* the writer sees it */
	CU_ASSERT_EQUAL(nodes[0].len, 0);
	open_at(3, true, false, 3); /* what was not read is for the next one */
	settle();
	came_in(3, true, false);
	CU_ASSERT_EQUAL(nodes[3].role, PS_SINK);
	CU_ASSERT_EQUAL(nodes[3].len, 3);
	CU_ASSERT_EQUAL(memcmp(nodes[3].pipe, "abc", 3), 0);
	stop();
}

static void test_all_closed(void) /* the bytes go with the last end, and their source may send again */
{
	start();
	open_at(0, true, false, 1);
	open_at(1, false, true, 2);
	settle();
	came_in(0, true, false);
	came_in(1, false, true);
	put(1, "abc");
	settle();
	nodes[0].readers = 0;
	settle();
	close_w(1);
	open_at(2, true, false, 3);
	settle();
	CU_ASSERT_TRUE(nodes[2].opened);
	CU_ASSERT_EQUAL(nodes[2].len, 0);
	CU_ASSERT_EQUAL(nodes[2].role, PS_NONE); /* waits for a writer */
	CU_ASSERT_EQUAL(nodes[1].unacked, 0);
	CU_ASSERT_EQUAL(nodes[1].role, PS_NONE);
	stop();
}

static void test_all_closed_at_once(void) /* the agents have not noticed yet when the next one comes */
{
	start();
	open_at(0, true, false, 1);
	open_at(1, false, true, 2);
	settle();
	came_in(0, true, false);
	came_in(1, false, true);
	put(1, "abc");
	settle();
	nodes[0].readers = 0;
	nodes[1].writers = 0;
	open_at(2, true, false, 3);
	settle();
	CU_ASSERT_TRUE(nodes[2].opened);
	CU_ASSERT_EQUAL(nodes[2].len, 0);
	CU_ASSERT_EQUAL(nodes[2].role, PS_NONE);
	stop();
}

/* The reader goes; what is in the pipes of two writers' nodes is kept as long as one of the two is there. */
static void kept(bool both_go)
{
	start();
	open_at(0, true, false, 1);
	open_at(1, false, true, 2);
	open_at(2, false, true, 3);
	settle();
	came_in(0, true, false);
	came_in(1, false, true);
	came_in(2, false, true);
	put(1, "abc");
	settle();
	nodes[1].unacked = 1000; /* no more may be sent */
	put(1, "def");
	nodes[0].readers = 0;
	settle();
	CU_ASSERT_TRUE(nodes[1].kept);
	close_w(1);
	CU_ASSERT_EQUAL(nodes[1].len, 3);
	if (both_go)
		close_w(2);
	nodes[1].unacked = 0;
	open_at(3, true, false, 4);
	settle();
	CU_ASSERT_TRUE(nodes[3].opened);
	CU_ASSERT_EQUAL(nodes[3].len, both_go ? 0 : 6);
	CU_ASSERT_EQUAL(nodes[3].role, both_go ? PS_NONE : PS_SINK);
	CU_ASSERT_FALSE(nodes[1].kept);
	stop();
}

static void test_kept(void)
{
	kept(false);
	kept(true);
}

static void test_stands(void) /* who the writer was let in for is on its way to another node */
{
	start();
	open_at(0, true, false, 1);
	open_at(1, false, true, 2);
	settle();
	came_in(1, false, true);
	put(1, "abc");
	close_w(1);
	settle();
	CU_ASSERT_EQUAL(nodes[0].len, 3);
	nodes[0].opening_r = 0;
	nodes[0].stands = true;
	nodes[0].role = PS_SINK;
	check_lost(&nodes[0]);
	settle();
	open_at(2, true, false, 3);
	settle();
	CU_ASSERT_EQUAL(nodes[2].len, 3);
	stop();
}

static void test_shared(void) /* what one reader leaves lying is for the other one */
{
	start();
	open_at(0, true, false, 1);
	open_at(1, true, false, 2);
	open_at(2, false, true, 3);
	settle();
	came_in(0, true, false);
	came_in(1, true, false);
	came_in(2, false, true);
	put(2, "token");
	settle();
	CU_ASSERT_EQUAL(nodes[0].role, PS_SINK);
	CU_ASSERT_EQUAL(nodes[1].role, PS_SINK);
	CU_ASSERT_EQUAL(nodes[0].len + nodes[1].len, 5); /* once */
	for (int i = 0; i < 10; i++) {
		int has = nodes[0].len ? 0 : 1;

		CU_ASSERT_EQUAL(nodes[has].len, 5);
		CU_ASSERT_EQUAL(ps_return(&state, &key, &nodes[has], nodes[has].pipe, 5, false), 0);
		nodes[has].len = 0;
		settle();
		CU_ASSERT_EQUAL(nodes[has].len, 0); /* now the other one */
		CU_ASSERT_EQUAL(nodes[!has].len, 5);
		CU_ASSERT_EQUAL(memcmp(nodes[!has].pipe, "token", 5), 0);
	}
	stop();
}

static void test_gone(void)
{
	start();
	open_at(0, true, false, 1);
	open_at(1, false, true, 2);
	settle();
	came_in(0, true, false);
	came_in(1, false, true);
	put(1, "abc");
	settle();
	ps_gone(&state, &nodes[1]);
	settle();
	CU_ASSERT_EQUAL(nodes[0].len, 3);
	CU_ASSERT_EQUAL(nodes[0].role, PS_NONE); /* end of file */
	ps_gone(&state, &nodes[0]);
	CU_ASSERT_FALSE(ps_known(&state, &key)); /* nothing stays */
	stop();
}

static void test_lies(void)
{
	static char big[PS_CHUNK_MAX + 1];

	start();
	open_at(0, true, false, 1);
	open_at(1, false, true, 2);
	settle();
	CU_ASSERT_EQUAL(ps_ack(&state, &key, &nodes[0], 1), -EPROTO); /* what it never got */
	CU_ASSERT_EQUAL(ps_data(&state, &key, &nodes[1], big, sizeof(big)), -EPROTO);
	CU_ASSERT_EQUAL(ps_data(&state, &key, &nodes[2], "x", 1), 0); /* has no part in it: dropped */
	CU_ASSERT_EQUAL(ps_return(&state, &key, &nodes[1], "x", 1, true), 0);
	settle();
	CU_ASSERT_EQUAL(nodes[0].len, 0);
	stop();
}

/* One writer node, readers that come and go on the other nodes, one at a time: all bytes arrive once and in order. */
static void schedule(uint64_t s)
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
static void schedule_last(uint64_t s)
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
	}
	stop();
}

static void test_schedules(void)
{
	for (uint64_t s = 1; s <= 2000; s++)
		schedule(s * 0x9e3779b97f4a7c15ull);
	for (uint64_t s = 1; s <= 4000; s++)
		schedule_last(s * 0x9e3779b97f4a7c15ull);
	CU_ASSERT_TRUE(discards > 1000);
}

int main(void)
{
	CU_pSuite s;

	CU_initialize_registry();
	s = CU_add_suite("pipe state", NULL, NULL);
	CU_add_test(s, "reader, then writer", test_reader_then_writer);
	CU_add_test(s, "same node", test_same_node);
	CU_add_test(s, "stale belief", test_stale_belief);
	CU_add_test(s, "EPIPE and the next reader", test_epipe);
	CU_add_test(s, "all closed", test_all_closed);
	CU_add_test(s, "all closed, at once", test_all_closed_at_once);
	CU_add_test(s, "kept", test_kept);
	CU_add_test(s, "stands", test_stands);
	CU_add_test(s, "shared", test_shared);
	CU_add_test(s, "node gone", test_gone);
	CU_add_test(s, "lies", test_lies);
	CU_add_test(s, "random schedules", test_schedules);
	CU_basic_run_tests();
	return CU_get_number_of_failures() || CU_get_number_of_tests_run() != 12;
}
