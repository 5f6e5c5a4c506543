// SPDX-License-Identifier: Apache-2.0
/* Elections: one holder at a time under random delays, lost messages and server restarts; terms grow; a restart changes no master. */
#include <CUnit/Basic.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "fs/server/elect.h"

#define MS 1000000ull

static struct elect_answer ask(struct elect *e, const char *who, uint64_t term, bool holding, uint64_t now)
{
	struct elect_ask a = {.office = "master", .candidate = who, .value = "addr", .term = term, .holding = holding};
	struct elect_answer r;

	CU_ASSERT_EQUAL(elect_ask(e, &a, now, &r), 0);
	return r;
}

static void test_first_comes_first(void)
{
	struct elect *e = elect_new(0);
	uint64_t t = ELECT_TTL_NS;
	struct elect_answer a = ask(e, "ws1", 0, false, t), b = ask(e, "ws2", 0, false, t + MS);

	CU_ASSERT_TRUE(a.you);
	CU_ASSERT_FALSE(b.you);
	CU_ASSERT_STRING_EQUAL(b.holder, "ws1");
	CU_ASSERT_EQUAL(b.term, a.term);
	CU_ASSERT_EQUAL(b.left_ns, ELECT_TTL_NS - MS);
	CU_ASSERT_TRUE(ask(e, "ws1", a.term, true, t + MS).you); /* renewed meanwhile: it is told of that */
	b = ask(e, "ws2", b.term, false, t + MS + b.left_ns);
	CU_ASSERT_FALSE(b.you);
	CU_ASSERT_EQUAL(b.left_ns, MS);
	b = ask(e, "ws2", b.term, false, t + MS + ELECT_TTL_NS);
	CU_ASSERT_TRUE(b.you);
	CU_ASSERT_EQUAL(b.left_ns, ELECT_TTL_NS);
	CU_ASSERT_TRUE(b.term > a.term);
	elect_free(e);
}

static void test_resign(void)
{
	struct elect *e = elect_new(0);
	uint64_t t = ELECT_TTL_NS;
	struct elect_ask r = {.office = "master", .candidate = "ws1", .value = "", .resign = true};
	struct elect_answer a;

	ask(e, "ws1", 0, false, t);
	CU_ASSERT_EQUAL(elect_ask(e, &r, t + MS, &a), 0);
	CU_ASSERT_STRING_EQUAL(a.holder, "");
	CU_ASSERT_TRUE(ask(e, "ws2", a.term, false, t + 2 * MS).you);
	elect_free(e);
}

static void test_restart_keeps_the_master(void)
{
	struct elect *e = elect_new(0);
	struct elect_answer a = ask(e, "ws1", 0, false, ELECT_TTL_NS), b;

	elect_free(e);
	e = elect_new(5000 * MS);
	b = ask(e, "ws2", a.term, false, 5001 * MS);
	CU_ASSERT_FALSE(b.you);
	b = ask(e, "ws1", a.term, true, 5002 * MS);
	CU_ASSERT_TRUE(b.you);
	CU_ASSERT_EQUAL(b.term, a.term);
	elect_free(e);
}

static void test_bad_asks(void)
{
	struct elect *e = elect_new(0);
	struct elect_ask a = {.office = "", .candidate = "x", .value = ""};
	struct elect_answer r;
	char name[24];

	CU_ASSERT_EQUAL(elect_ask(e, &a, 1, &r), -EINVAL);
	a.office = name;
	for (int i = 0; i < 20; i++) {
		snprintf(name, sizeof name, "office%d", i);
		CU_ASSERT_EQUAL(elect_ask(e, &a, ELECT_TTL_NS, &r), i < 4 ? 0 : -ENOSPC);
	}
	elect_free(e);
}

/* Three candidates with delays on the way there and back. A candidate acts from the answer until ttl after it sent the question. */
struct candidate {
	char name[8];
	uint64_t acts_until, term, sent, arrives, back;
	struct elect_answer answer;
	int stage; /* 0 idle, 1 on the way there, 2 on the way back */
};

static void test_never_two(void)
{
	for (unsigned seed = 1; seed <= 200; seed++) {
		struct candidate c[3] = {{.name = "a"}, {.name = "b"}, {.name = "c"}};
		struct elect *e = elect_new(0);
		uint64_t last_term = 0;
		unsigned reigns = 0;

		srandom(seed);
		for (uint64_t now = 1; now < 60000 * MS; now += 20 * MS) {
			int acting = 0;

			if (random() % 2000 == 0) { /* the server restarts */
				elect_free(e);
				e = elect_new(now);
			}
			for (int i = 0; i < 3; i++) {
				struct candidate *k = &c[i];

				if (k->stage == 0 && random() % 40 == 0) {
					k->stage = 1;
					k->sent = now;
					k->arrives = now + (uint64_t)(random() % 2000) * MS;
				} else if (k->stage == 1 && now >= k->arrives) {
					k->answer = ask(e, k->name, k->term, k->acts_until > k->sent, now);
					k->back = now + (uint64_t)(random() % 2000) * MS;
					k->stage = random() % 10 ? 2 : 0; /* one in ten answers is lost */
				} else if (k->stage == 2 && now >= k->back) {
					k->stage = 0;
					if (k->answer.term > k->term)
						k->term = k->answer.term;
					if (k->answer.you && k->sent + ELECT_TTL_NS > now) {
						k->acts_until = k->sent + ELECT_TTL_NS;
						if (k->answer.term > last_term)
							reigns++;
						CU_ASSERT_TRUE(k->answer.term >= last_term);
						last_term = k->answer.term;
					}
				}
				acting += k->acts_until > now;
			}
			if (acting > 1) {
				CU_FAIL("two masters at once");
				break;
			}
		}
		CU_ASSERT_TRUE(reigns > 0);
		elect_free(e);
	}
}

/* A host that stands for all it can think of keeps nobody from the one that counts, and a term that it makes up ends nobody's reign for good. */
static void test_hostile(void)
{
	struct elect *e = elect_new(0);
	uint64_t t = ELECT_TTL_NS;
	struct elect_answer a;
	char name[16];
	int i, got = 0;

	for (i = 0; i < 100; i++) {
		struct elect_ask x = {.office = name, .candidate = "evil", .value = "", .term = UINT64_MAX};

		snprintf(name, sizeof name, "o%d", i);
		got += elect_ask(e, &x, t, &a) == 0;
	}
	CU_ASSERT_TRUE(got > 0 && got < 16);
	a = ask(e, "ws1", 7, false, t);
	CU_ASSERT_TRUE(a.you && a.term == 8);
	a = ask(e, "evil", UINT64_MAX, false, t + MS);
	CU_ASSERT_FALSE(a.you);
	for (i = 0; i < 8; i++) { /* reigns in turn */
		struct elect_answer b = ask(e, i % 2 ? "evil" : "ws2", i % 2 ? UINT64_MAX : a.term, false, t += ELECT_TTL_NS + MS);

		CU_ASSERT_TRUE(b.you && b.term > a.term);
		a = b;
	}
	elect_free(e);
}

int main(void)
{
	CU_initialize_registry();
	CU_pSuite s = CU_add_suite("elect", NULL, NULL);

	CU_add_test(s, "first comes first", test_first_comes_first);
	CU_add_test(s, "resign", test_resign);
	CU_add_test(s, "restart keeps the master", test_restart_keeps_the_master);
	CU_add_test(s, "bad asks", test_bad_asks);
	CU_add_test(s, "hostile", test_hostile);
	CU_add_test(s, "never two", test_never_two);
	CU_basic_run_tests();
	int failed = CU_get_number_of_failures();

	CU_cleanup_registry();
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
