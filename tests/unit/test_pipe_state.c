// SPDX-License-Identifier: Apache-2.0
/*
 * The pipe hub's decisions, with nodes that are played: opens in both orders, end of file behind the last byte, EPIPE, readers that leave bytes behind, and random
 * schedules in which every byte written must be read once and in order.
 */
#include "tests/unit/pipe_kit.h"

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

/* A reader at node 0 that does not read, a writer at 1, three bytes. */
static void start_unread(void)
{
	start();
	open_at(0, true, false, 1);
	open_at(1, false, true, 2);
	settle();
	came_in(0, true, false);
	came_in(1, false, true);
	put(1, "abc");
	settle();
}

static void test_epipe(void)
{
	start_unread();
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
	start_unread();
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
	start_unread();
	nodes[0].readers = 0;
	nodes[1].writers = 0;
	open_at(2, true, false, 3);
	settle();
	CU_ASSERT_TRUE(nodes[2].opened);
	CU_ASSERT_EQUAL(nodes[2].len, 0);
	CU_ASSERT_EQUAL(nodes[2].role, PS_NONE);
	stop();
}

static void test_all_closed_as_the_end_comes(void) /* the next one is on its way when the node hears that no writer is left: its agent keeps the pipe for it */
{
	start_unread();
	nodes[1].writers = 0;
	check_lost(&nodes[1]); /* the hub asks the reader's node, */
	nodes[0].readers = 0;
	open_at(0, true, false, 3); /* which hears of that behind this */
	settle();
	CU_ASSERT_TRUE(nodes[0].opened);
	CU_ASSERT_EQUAL(nodes[0].len, 0);
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
	start_unread();
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
	CU_add_test(s, "all closed, as the end comes", test_all_closed_as_the_end_comes);
	CU_add_test(s, "kept", test_kept);
	CU_add_test(s, "stands", test_stands);
	CU_add_test(s, "shared", test_shared);
	CU_add_test(s, "node gone", test_gone);
	CU_add_test(s, "lies", test_lies);
	CU_add_test(s, "random schedules", test_schedules);
	CU_basic_run_tests();
	return CU_get_number_of_failures() || CU_get_number_of_tests_run() != 13;
}
