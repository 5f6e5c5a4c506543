// SPDX-License-Identifier: Apache-2.0
/*
 * Paths (fs/server/pipe_path.c), with nodes that are played: bytes that do not go by the hub, and what becomes of them when something else is to happen. Then the random schedules of
 * test_pipe_state.c with paths: every byte written must be read once and in order.
 */
#include "tests/unit/pipe_kit.h"

/* A reader on node 0 and a writer on node 1 with a path; all that was written was read. */
static void way_up(void)
{
	start();
	paths = true;
	open_at(0, true, false, 1);
	open_at(1, false, true, 2);
	settle();
	came_in(0, true, false);
	came_in(1, false, true);
	for (int i = 0; i < 20 && !nodes[1].way.id; i++) {
		put(1, "x");
		settle();
	}
	CU_ASSERT_TRUE_FATAL(nodes[0].way.id && nodes[0].way.id == nodes[1].way.id);
	nodes[0].len = 0;
	lazy = true;
}

static void way_down(void)
{
	lazy = paths = false;
	stop();
}

static void send(const char *s)
{
	put(1, s);
	source_pump(&nodes[1]);
	CU_ASSERT_EQUAL(nodes[1].len, 0);
}

static void reads(int i, const char *s)
{
	CU_ASSERT_EQUAL(nodes[i].len, strlen(s));
	CU_ASSERT_EQUAL(memcmp(nodes[i].pipe, s, strlen(s)), 0);
}

static void test_direct(void)
{
	way_up();
	send("abc");
	CU_ASSERT_TRUE(list_empty(&nodes[0].in)); /* the hub has nothing to do with it */
	wire_step();
	way_place(&nodes[0], 9);
	reads(0, "abc");
	way_down();
}

/* Placed, received, under way, written: then the writer closes. The end comes behind the last byte. */
static void test_writer_ends(void)
{
	way_up();
	send("ab");
	wire_step();
	way_place(&nodes[0], 1);
	send("cd");
	put(1, "ef");
	nodes[1].writers = 0;
	while (nodes[0].role == PS_SINK && (step(&nodes[0]) || step(&nodes[1]))) {
		source_pump(&nodes[1]);
		check_lost(&nodes[1]);
	}
	settle();
	reads(0, "abcdef");
	CU_ASSERT_EQUAL(nodes[0].role, PS_NONE);
	CU_ASSERT_EQUAL(nodes[1].unacked, 0);
	way_down();
}

static void test_reader_ends(void) /* what it has not read is for the next one, wherever it was */
{
	way_up();
	send("ab");
	wire_step();
	way_place(&nodes[0], 1);
	send("cd");
	nodes[0].readers = 0;
	check_lost(&nodes[0]);
	settle();
	CU_ASSERT_EQUAL(nodes[1].role, PS_NONE);
	open_at(2, true, false, 3);
	settle();
	came_in(2, true, false);
	reads(2, "abcd");
	way_down();
}

static void test_third(void) /* nobody is let in before the path is settled */
{
	way_up();
	send("ab");
	wire_step();
	open_at(2, true, false, 3);
	CU_ASSERT_FALSE(nodes[2].opened);
	CU_ASSERT_TRUE(step(&nodes[0]));
	CU_ASSERT_EQUAL(nodes[0].way.id, 0);
	send("cd"); /* the source has not heard of it yet */
	settle();
	CU_ASSERT_TRUE(nodes[2].opened);
	CU_ASSERT_EQUAL(nodes[0].len + nodes[2].len, 4);
	way_down();
}

static void test_sink_gone(void)
{
	way_up();
	send("ab");
	wire_step();
	ps_gone(&state, &nodes[0]);
	nodes[0].way = (struct way){0};
	nodes[0].role = PS_NONE;
	nodes[0].readers = 0;
	settle();
	CU_ASSERT_EQUAL(nodes[1].role, PS_NONE);
	open_at(2, true, false, 3);
	settle();
	reads(2, "ab"); /* not acknowledged: as if it had not been there */
	way_down();
}

static void test_source_gone(void)
{
	way_up();
	send("ab");
	wire_step();
	send("cd");
	ps_gone(&state, &nodes[1]);
	CU_ASSERT_EQUAL(nodes[0].role, PS_SINK);
	settle();
	reads(0, "abcd");
	CU_ASSERT_EQUAL(nodes[0].role, PS_NONE); /* end of file */
	ps_gone(&state, &nodes[0]);
	CU_ASSERT_FALSE(ps_known(&state, &key));
	way_down();
}

static void test_both_gone(void)
{
	way_up();
	send("ab");
	ps_gone(&state, &nodes[1]);
	ps_gone(&state, &nodes[0]);
	CU_ASSERT_FALSE(ps_known(&state, &key));
	way_down();
	way_up();
	send("ab");
	ps_gone(&state, &nodes[0]);
	ps_gone(&state, &nodes[1]);
	CU_ASSERT_FALSE(ps_known(&state, &key));
	way_down();
}

static void test_cut(void) /* the connection breaks: all goes on by the hub, and another path is not made soon */
{
	way_up();
	send("ab");
	wire_step();
	send("cd");
	nodes[1].way.stopped = true;
	CU_ASSERT_EQUAL(ps_settle(&state, &key, &nodes[1], nodes[1].way.id, true), 0);
	settle();
	CU_ASSERT_EQUAL(nodes[1].way.id, 0);
	for (int i = 0; i < 40; i++) {
		put(1, "e");
		settle();
	}
	CU_ASSERT_EQUAL(nodes[1].way.id, 0);
	CU_ASSERT_EQUAL(nodes[0].len, 44);
	CU_ASSERT_EQUAL(memcmp(nodes[0].pipe, "abcde", 5), 0);
	for (int i = 0; i < 40; i++) {
		put(1, "e");
		settle();
	}
	CU_ASSERT_NOT_EQUAL(nodes[1].way.id, 0);
	way_down();
}

static void test_lies(void)
{
	uint64_t id;

	way_up();
	id = nodes[0].way.id;
	CU_ASSERT_EQUAL(ps_settled(&state, &key, &nodes[2], id, 99), 0); /* has no part in it */
	CU_ASSERT_EQUAL(ps_settled(&state, &key, &nodes[1], id, 99), 0); /* was not asked */
	CU_ASSERT_EQUAL(ps_settle(&state, &key, &nodes[0], id, true), 0);
	CU_ASSERT_EQUAL(ps_path_ready(&state, &key, &nodes[2], id), 0);
	CU_ASSERT_EQUAL(ps_settled(&state, &key, &nodes[0], id + 1, 0), 0);
	settle();
	CU_ASSERT_EQUAL(nodes[0].way.id, id);
	CU_ASSERT_EQUAL(nodes[1].way.id, id);
	way_down();
}

static void test_schedules(void)
{
	paths = lazy = true;
	by_path = 0;
	for (uint64_t s = 1; s <= 2000; s++)
		schedule(s * 0x9e3779b97f4a7c15ull);
	for (uint64_t s = 1; s <= 4000; s++)
		schedule_last(s * 0x9e3779b97f4a7c15ull);
	CU_ASSERT_TRUE(discards > 1000);
	CU_ASSERT_TRUE(by_path > 10000);
	paths = lazy = false;
}

int main(void)
{
	CU_pSuite s;

	CU_initialize_registry();
	s = CU_add_suite("pipe path", NULL, NULL);
	CU_add_test(s, "direct", test_direct);
	CU_add_test(s, "the writer ends", test_writer_ends);
	CU_add_test(s, "the reader ends", test_reader_ends);
	CU_add_test(s, "a third one opens", test_third);
	CU_add_test(s, "sink gone", test_sink_gone);
	CU_add_test(s, "source gone", test_source_gone);
	CU_add_test(s, "both gone", test_both_gone);
	CU_add_test(s, "connection cut", test_cut);
	CU_add_test(s, "lies", test_lies);
	CU_add_test(s, "random schedules", test_schedules);
	CU_basic_run_tests();
	return CU_get_number_of_failures() || CU_get_number_of_tests_run() != 10;
}
