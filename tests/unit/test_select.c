// SPDX-License-Identifier: Apache-2.0
/* The master's policy: order, priorities, shares, waiters, filters; and thousands of random operations against simple invariants. */
#include <CUnit/Basic.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "migd/select.h"

static struct select_grant granted[64], reclaimed[64], lost[64];
static size_t ngranted, nreclaimed, nlost;

static void on_granted(void *ctx, const struct select_grant *g)
{
	(void)ctx;
	granted[ngranted++ % 64] = *g;
}
static void on_reclaim(void *ctx, const struct select_grant *g)
{
	(void)ctx;
	reclaimed[nreclaimed++ % 64] = *g;
}
static void on_lost(void *ctx, const struct select_grant *g)
{
	(void)ctx;
	lost[nlost++ % 64] = *g;
}
static const struct select_hooks hooks = {NULL, on_granted, on_reclaim, on_lost};

static struct select *fresh(void)
{
	ngranted = nreclaimed = nlost = 0;
	return select_new(&hooks);
}

static void host(struct select *s, const char *name, uint64_t idle_since, unsigned slots, bool offers)
{
	struct select_host h = {.name = name, .arch = "x86_64", .features = "f", .offers = offers, .idle_since = idle_since, .slots = slots};

	CU_ASSERT_EQUAL(select_host_set(s, &h), 0);
}

static struct select_ask ask_of(uint64_t client, uint32_t uid, unsigned want)
{
	return (struct select_ask){.client = client, .uid = uid, .priority = SELECT_NORMAL, .arch = "x86_64", .want = want};
}

static void test_longest_idle_first(void)
{
	struct select *s = fresh();
	struct select_ask a = ask_of(1, 1000, 3);
	struct select_grant g[3];

	host(s, "b", 20, 1, true);
	host(s, "a", 30, 1, true);
	host(s, "c", 10, 1, true);
	host(s, "busy", 1, 1, false);
	CU_ASSERT_EQUAL(select_ask(s, &a, g), 3);
	CU_ASSERT_STRING_EQUAL(g[0].host, "c");
	CU_ASSERT_STRING_EQUAL(g[1].host, "b");
	CU_ASSERT_STRING_EQUAL(g[2].host, "a");
	CU_ASSERT_EQUAL(select_host_state(s, "c"), HOST_FULL);
	CU_ASSERT_EQUAL(select_host_state(s, "busy"), HOST_ACTIVE);
	CU_ASSERT_EQUAL(select_host_state(s, "none"), HOST_DOWN);
	select_free(s);
}

static void test_spread(void)
{
	static const char *const order[] = {"c", "b", "a", "c", "c", "b", "c"};
	struct select *s = fresh();
	struct select_ask a = ask_of(1, 1000, 7);
	struct select_grant g[7];

	host(s, "b", 20, 2, true);
	host(s, "a", 30, 1, true);
	host(s, "c", 10, 4, true);
	CU_ASSERT_EQUAL(select_ask(s, &a, g), 7);
	for (int i = 0; i < 7; i++)
		CU_ASSERT_STRING_EQUAL(g[i].host, order[i]);
	/* What is given back counts no more, whichever it was. */
	CU_ASSERT_EQUAL(select_release(s, g[2].id), 0);
	CU_ASSERT_EQUAL(select_release(s, g[1].id), 0);
	CU_ASSERT_EQUAL(select_release(s, g[5].id), 0);
	a.want = 3;
	CU_ASSERT_EQUAL(select_ask(s, &a, g), 3);
	CU_ASSERT_STRING_EQUAL(g[0].host, "b");
	CU_ASSERT_STRING_EQUAL(g[1].host, "a");
	CU_ASSERT_STRING_EQUAL(g[2].host, "b");
	select_free(s);
}

static void test_nonsense(void)
{
	static const struct select_host odd[] = {
		{.name = "many", .arch = "x86_64", .features = "f", .offers = true, .slots = 0xffffffff},
		{.name = "none", .arch = "x86_64", .features = "f", .offers = true, .slots = 0},
		{.name = "old", .arch = "x86_64", .features = "  f   ", .offers = true, .idle_since = UINT64_MAX, .slots = 1},
		{.name = "bare", .offers = true, .slots = 1},
		{.name = "", .arch = "", .features = "", .offers = true, .slots = 1},
	};
	struct select_ask a = ask_of(1, 1000, SELECT_WANT_MAX);
	static struct select_grant g[SELECT_WANT_MAX];
	struct select *s = fresh();
	struct select_totals t;

	for (size_t i = 0; i < sizeof(odd) / sizeof(odd[0]); i++)
		CU_ASSERT_EQUAL(select_host_set(s, &odd[i]), 0);
	select_totals(s, &t);
	CU_ASSERT_EQUAL(t.slots, SELECT_SLOTS_MAX + 4);
	a.features = "f";
	CU_ASSERT_EQUAL(select_ask(s, &a, g), (int)SELECT_SLOTS_MAX + 2); /* "many", "none" and "old" have f */
	a.want = 10000; /* more than anybody is given at a time */
	CU_ASSERT_EQUAL(select_ask(s, &a, g), -EINVAL);
	a.want = 0;
	CU_ASSERT_EQUAL(select_ask(s, &a, g), -EINVAL);
	select_free(s);
}

static void test_features(void)
{
	struct select *s = fresh();
	struct select_ask a = ask_of(1, 1000, 1);
	struct select_host more = {.name = "more", .arch = "x86_64", .features = "sse avx avx2", .offers = true, .idle_since = 9, .slots = 2},
			   less = {.name = "less", .arch = "x86_64", .features = "sse avx", .offers = true, .idle_since = 1, .slots = 2};
	struct select_grant g[1];

	select_host_set(s, &more);
	select_host_set(s, &less);
	a.features = "sse avx2";
	CU_ASSERT_EQUAL(select_ask(s, &a, g), 1);
	CU_ASSERT_STRING_EQUAL(g[0].host, "more");
	a.features = "avx";
	CU_ASSERT_EQUAL(select_ask(s, &a, g), 1);
	CU_ASSERT_STRING_EQUAL(g[0].host, "less"); /* idle for longer */
	a.features = "av";
	CU_ASSERT_EQUAL(select_ask(s, &a, g), 0);
	select_free(s);
}

/* Passed over: where it is, and its home, wherever in the order they stand. */
static void test_two_passed_over(void)
{
	char name[5][4] = {"h0", "h1", "h2", "h3", "h4"};

	for (int i = 0; i < 25; i++) {
		struct select *s = fresh();
		struct select_ask a = ask_of(1, 1000, 5);
		struct select_grant g[5];

		a.home = name[i / 5];
		a.not_host = name[i % 5];
		for (unsigned k = 0; k < 5; k++)
			host(s, name[k], (7 * k) % 5, 1, true);
		CU_ASSERT_EQUAL(select_ask(s, &a, g), i / 5 == i % 5 ? 4 : 3);
		select_free(s);
	}
}

static void test_filters(void)
{
	struct select *s = fresh();
	struct select_ask a = ask_of(1, 1000, 1);
	struct select_grant g[1];
	struct select_host root = {.name = "rootonly", .arch = "x86_64", .features = "f", .offers = true, .import = POLICY_ROOT, .slots = 1};

	host(s, "a", 1, 1, true);
	select_host_set(s, &root);
	a.not_host = "a";
	CU_ASSERT_EQUAL(select_ask(s, &a, g), 0);
	a.not_host = NULL;
	a.home = "a";
	CU_ASSERT_EQUAL(select_ask(s, &a, g), 0);
	a.home = NULL;
	a.arch = "aarch64";
	CU_ASSERT_EQUAL(select_ask(s, &a, g), 0);
	a.arch = "x86_64";
	a.features = "more";
	CU_ASSERT_EQUAL(select_ask(s, &a, g), 0);
	a.features = NULL;
	a.host = "rootonly";
	CU_ASSERT_EQUAL(select_ask(s, &a, g), -EACCES);
	a.uid = 0;
	CU_ASSERT_EQUAL(select_ask(s, &a, g), 1);
	a.host = "unknown";
	CU_ASSERT_EQUAL(select_ask(s, &a, g), -ENOENT);
	a.host = NULL;
	a.want = 0;
	CU_ASSERT_EQUAL(select_ask(s, &a, g), -EINVAL);
	a.want = 10000;
	CU_ASSERT_EQUAL(select_ask(s, &a, g), -EINVAL);
	select_free(s);
}

static void test_waiter_is_called_back(void)
{
	struct select *s = fresh();
	struct select_ask a = ask_of(1, 1000, 1), b = ask_of(2, 1000, 1);
	struct select_grant g[1];

	host(s, "a", 1, 1, true);
	CU_ASSERT_EQUAL(select_ask(s, &a, g), 1);
	b.wait = true;
	CU_ASSERT_EQUAL(select_ask(s, &b, NULL), 0);
	CU_ASSERT_EQUAL(ngranted, 0);
	CU_ASSERT_EQUAL(select_release(s, g[0].id), 0);
	CU_ASSERT_EQUAL(ngranted, 1);
	CU_ASSERT_EQUAL(granted[0].client, 2);
	CU_ASSERT_EQUAL(select_release(s, g[0].id), -ENOENT);
	b.now = 5;
	select_ask(s, &b, NULL);
	select_stop_waiting(s, 2);
	host(s, "new", 1, 4, true);
	CU_ASSERT_EQUAL(ngranted, 1);
	select_free(s);
}

static void test_higher_priority_takes_low(void)
{
	struct select *s = fresh();
	struct select_ask low = ask_of(1, 1000, 2), high = ask_of(2, 1000, 1);
	struct select_grant g[2];

	host(s, "a", 1, 1, true);
	host(s, "b", 2, 1, true);
	low.priority = SELECT_LOW;
	CU_ASSERT_EQUAL(select_ask(s, &low, g), 2);
	high.wait = true;
	CU_ASSERT_EQUAL(select_ask(s, &high, NULL), 0);
	CU_ASSERT_EQUAL(nreclaimed, 1);
	CU_ASSERT_EQUAL(reclaimed[0].client, 1);
	select_release(s, reclaimed[0].id);
	CU_ASSERT_EQUAL(ngranted, 1);
	CU_ASSERT_EQUAL(granted[0].client, 2);
	select_free(s);
}

static void test_fair_share(void)
{
	struct select *s = fresh();
	struct select_ask a = ask_of(1, 1000, 4), b = ask_of(2, 1001, 4);
	struct select_grant g[4];

	for (int i = 0; i < 4; i++) {
		char name[16];

		snprintf(name, sizeof name, "h%d", i);
		host(s, name, (uint64_t)i, 1, true);
	}
	CU_ASSERT_EQUAL(select_ask(s, &a, g), 4);
	b.wait = true;
	CU_ASSERT_EQUAL(select_ask(s, &b, g), 0);
	CU_ASSERT_EQUAL(nreclaimed, 2); /* half of four, not more */
	select_release(s, reclaimed[0].id);
	select_release(s, reclaimed[1].id);
	CU_ASSERT_EQUAL(ngranted, 2);
	CU_ASSERT_EQUAL(granted[0].uid, 1001);
	CU_ASSERT_EQUAL(granted[1].uid, 1001);
	select_free(s);
}

static void test_host_gone_loses(void)
{
	struct select *s = fresh();
	struct select_ask a = ask_of(1, 1000, 2);
	struct select_grant g[2];
	struct select_totals t;

	host(s, "a", 1, 2, true);
	CU_ASSERT_EQUAL(select_ask(s, &a, g), 2);
	select_host_gone(s, "a");
	CU_ASSERT_EQUAL(nlost, 2);
	host(s, "b", 1, 1, true);
	CU_ASSERT_EQUAL(select_ask(s, &a, g), 1);
	host(s, "b", 1, 1, false); /* its owner is back */
	CU_ASSERT_EQUAL(nlost, 3);
	CU_ASSERT_EQUAL(select_host_state(s, "b"), HOST_ACTIVE);
	select_host_gone(s, "b");
	select_totals(s, &t);
	CU_ASSERT_EQUAL(t.hosts + t.used + t.slots, 0);
	CU_ASSERT_EQUAL(select_release(s, g[0].id), -ENOENT);
	select_free(s);
}

/* Random: what is out never exceeds a host's slots; totals are right; everything can be given back. */
static struct {
	uint64_t id;
	uint64_t client;
} out[20000];
static size_t nout;

static void keep(const struct select_grant *g)
{
	out[nout].id = g->id;
	out[nout++].client = g->client;
}
static void drop(uint64_t id)
{
	for (size_t i = 0; i < nout; i++)
		if (out[i].id == id) {
			out[i] = out[--nout];
			return;
		}
}
static void r_granted(void *ctx, const struct select_grant *g)
{
	(void)ctx;
	keep(g);
}
static void r_lost(void *ctx, const struct select_grant *g)
{
	(void)ctx;
	drop(g->id);
}
static void r_reclaim(void *ctx, const struct select_grant *g)
{
	size_t *n = ctx;

	(void)g;
	++*n;
}

static void random_step(struct select *s)
{
	char name[16];
	struct select_ask a = ask_of((uint64_t)(random() % 6 + 1), (uint32_t)(1000 + random() % 3), (unsigned)(random() % 5 + 1));
	struct select_grant g[8];
	int n;

	snprintf(name, sizeof name, "h%d", (int)(random() % 12));
	switch (random() % 8) {
	case 0:
	case 1:
		host(s, name, (uint64_t)(random() % 100), (unsigned)(random() % 4 + 1), random() % 3);
		break;
	case 2:
		select_host_gone(s, name);
		break;
	case 3:
	case 4:
		a.wait = random() % 2;
		a.priority = (enum select_priority)(random() % SELECT_PRIORITIES);
		a.not_host = random() % 2 ? name : NULL;
		n = select_ask(s, &a, g);
		CU_ASSERT_TRUE(n >= 0 && n <= (int)a.want);
		for (int i = 0; i < n; i++) {
			CU_ASSERT_TRUE(!a.not_host || strcmp(g[i].host, a.not_host));
			keep(&g[i]);
		}
		break;
	case 5:
	case 6:
		if (nout) {
			uint64_t id = out[(size_t)random() % nout].id;

			drop(id);
			CU_ASSERT_EQUAL(select_release(s, id), 0);
		}
		break;
	case 7:
		for (size_t i = nout; i-- > 0;)
			if (out[i].client == a.client)
				out[i] = out[--nout];
		select_client_gone(s, a.client);
		break;
	}
}

static void test_random(void)
{
	for (unsigned seed = 1; seed <= 300; seed++) {
		size_t reclaims = 0;
		struct select_hooks h = {&reclaims, r_granted, r_reclaim, r_lost};
		struct select *s = select_new(&h);
		struct select_totals t;

		srandom(seed);
		nout = 0;
		for (int i = 0; i < 400; i++) {
			random_step(s);
			select_totals(s, &t);
			if (t.used != nout) {
				CU_FAIL("grants out and grants counted differ");
				printf("seed %u step %d: used %zu, out %zu\n", seed, i, t.used, nout);
				break;
			}
		}
		for (uint64_t c = 1; c <= 6; c++)
			select_stop_waiting(s, c);
		while (nout) {
			uint64_t id = out[--nout].id;

			CU_ASSERT_EQUAL(select_release(s, id), 0);
		}
		select_totals(s, &t);
		CU_ASSERT_EQUAL(t.used, 0);
		CU_ASSERT_EQUAL(t.waiting, 0);
		select_free(s);
	}
}

int main(void)
{
	CU_initialize_registry();
	CU_pSuite s = CU_add_suite("select", NULL, NULL);

	CU_add_test(s, "hosts and users that say nonsense", test_nonsense);
	CU_add_test(s, "CPU features", test_features);
	CU_add_test(s, "longest idle first", test_longest_idle_first);
	CU_add_test(s, "jobs are spread over hosts", test_spread);
	CU_add_test(s, "filters", test_filters);
	CU_add_test(s, "two are passed over", test_two_passed_over);
	CU_add_test(s, "a waiter is called back", test_waiter_is_called_back);
	CU_add_test(s, "higher priority takes low", test_higher_priority_takes_low);
	CU_add_test(s, "fair share", test_fair_share);
	CU_add_test(s, "host gone loses its grants", test_host_gone_loses);
	CU_add_test(s, "random schedules", test_random);
	CU_basic_run_tests();
	int failed = CU_get_number_of_failures();

	CU_cleanup_registry();
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
