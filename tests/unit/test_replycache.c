/* SPDX-License-Identifier: Apache-2.0 */
/* The reply cache against a model: thousands of random schedules of calls, retries, acknowledgements and ends, in which nothing is executed twice. */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <CUnit/Basic.h>
#include "rpc/replycache.h"

static size_t alive; /* answers not dropped yet */
static uint64_t *answer(uint64_t v)
{
	uint64_t *p = malloc(sizeof(*p));

	*p = v;
	alive++;
	return p;
}

static void drop(void *p)
{
	alive--;
	free(p);
}

static struct replycache *make(size_t clients, size_t per_peer, size_t entries, size_t bytes)
{
	struct replycache_limits l = { clients, per_peer, entries, bytes };

	alive = 0;
	return replycache_new(&l, drop);
}

static enum replycache_verdict begin(struct replycache *rc, const char *peer, uint64_t epoch, uint64_t seq, uint64_t acked)
{
	void *reply = NULL;

	return replycache_begin(rc, peer, epoch, seq, acked, NULL, &reply);
}

static void end(struct replycache *rc, const char *peer, uint64_t epoch, uint64_t seq, uint64_t v)
{
	void **w;

	replycache_end(rc, peer, epoch, seq, answer(v), 10, &w);
	free(w);
}

static void test_known(void)
{
	struct replycache *rc = make(8, 8, 100, 10000);
	void *reply = NULL;

	CU_ASSERT_EQUAL(begin(rc, "a", 1, 5, 5), REPLY_NEW);
	end(rc, "a", 1, 5, 55);
	CU_ASSERT_EQUAL(replycache_begin(rc, "a", 1, 5, 5, NULL, &reply), REPLY_KNOWN);
	CU_ASSERT_EQUAL(*(uint64_t *)reply, 55);
	CU_ASSERT_EQUAL(begin(rc, "b", 1, 5, 5), REPLY_NEW); /* another peer */
	CU_ASSERT_EQUAL(begin(rc, "a", 2, 5, 5), REPLY_NEW); /* another life of it */
	CU_ASSERT_EQUAL(replycache_clients(rc), 3);
	replycache_free(rc);
	CU_ASSERT_EQUAL(alive, 0);
}

static void test_acked(void)
{
	struct replycache *rc = make(8, 8, 100, 10000);
	uint64_t i;

	for (i = 1; i <= 10; i++) {
		CU_ASSERT_EQUAL(begin(rc, "a", 1, i, 1), REPLY_NEW);
		end(rc, "a", 1, i, i);
	}
	CU_ASSERT_EQUAL(alive, 10);
	CU_ASSERT_EQUAL(begin(rc, "a", 1, 11, 8), REPLY_NEW);
	CU_ASSERT_EQUAL(alive, 3);
	CU_ASSERT_EQUAL(begin(rc, "a", 1, 7, 1), REPLY_LOST); /* a straggler below the watermark is not executed again */
	CU_ASSERT_EQUAL(begin(rc, "a", 1, 8, 1), REPLY_KNOWN);
	CU_ASSERT_EQUAL(begin(rc, "a", 1, 20, 20), REPLY_NEW); /* 11 still runs, its caller has given it up */
	end(rc, "a", 1, 11, 11);
	CU_ASSERT_EQUAL(alive, 0);
	CU_ASSERT_EQUAL(replycache_entries(rc), 1);
	replycache_free(rc);
}

static void test_waiters(void)
{
	struct replycache *rc = make(8, 8, 100, 10000);
	int a, b;
	void *reply = NULL, **w;

	CU_ASSERT_EQUAL(begin(rc, "a", 1, 1, 1), REPLY_NEW);
	CU_ASSERT_EQUAL(replycache_begin(rc, "a", 1, 1, 1, &a, &reply), REPLY_WAIT);
	CU_ASSERT_EQUAL(replycache_begin(rc, "a", 1, 1, 1, &b, &reply), REPLY_WAIT);
	CU_ASSERT_EQUAL(replycache_end(rc, "a", 1, 1, answer(3), 8, &w), 2);
	CU_ASSERT_TRUE(w[0] == &a && w[1] == &b);
	free(w);
	CU_ASSERT_EQUAL(begin(rc, "a", 1, 1, 1), REPLY_KNOWN);
	/* Not executed after all: forgotten, the next try is a new one. */
	CU_ASSERT_EQUAL(begin(rc, "a", 1, 2, 1), REPLY_NEW);
	CU_ASSERT_EQUAL(replycache_begin(rc, "a", 1, 2, 1, &a, &reply), REPLY_WAIT);
	CU_ASSERT_EQUAL(replycache_end(rc, "a", 1, 2, NULL, 0, &w), 1);
	free(w);
	CU_ASSERT_EQUAL(begin(rc, "a", 1, 2, 1), REPLY_NEW);
	replycache_free(rc);
	CU_ASSERT_EQUAL(alive, 0);
}

/* A client that acknowledges nothing: memory stays bounded, and what was evicted is refused, not executed again. */
static void test_bounds(void)
{
	struct replycache *rc = make(8, 8, 50, 400);
	uint64_t i;

	for (i = 1; i <= 1000; i++) {
		CU_ASSERT_EQUAL(begin(rc, "a", 1, i, 1), REPLY_NEW);
		end(rc, "a", 1, i, i);
	}
	CU_ASSERT_EQUAL(alive, 40); /* 400 bytes, 10 each */
	CU_ASSERT_EQUAL(begin(rc, "a", 1, 960, 1), REPLY_LOST);
	CU_ASSERT_EQUAL(begin(rc, "a", 1, 961, 1), REPLY_KNOWN);
	CU_ASSERT_EQUAL(begin(rc, "a", 1, 1, 1), REPLY_LOST);
	replycache_free(rc);
	CU_ASSERT_EQUAL(alive, 0);
}

static void test_clients(void)
{
	struct replycache *rc = make(6, 3, 50, 400);
	char name[] = "a";
	uint64_t i;

	CU_ASSERT_EQUAL(begin(rc, "good", 1, 1, 1), REPLY_NEW);
	end(rc, "good", 1, 1, 1);
	for (i = 1; i <= 100; i++) { /* one host with ever new epochs pushes out itself only */
		CU_ASSERT_EQUAL(begin(rc, "bad", i, 1, 1), REPLY_NEW);
		end(rc, "bad", i, 1, 1);
	}
	CU_ASSERT_EQUAL(replycache_clients(rc), 4);
	CU_ASSERT_EQUAL(begin(rc, "good", 1, 1, 1), REPLY_KNOWN);
	CU_ASSERT_EQUAL(begin(rc, "bad", 100, 1, 1), REPLY_KNOWN);
	CU_ASSERT_EQUAL(begin(rc, "good", 1, 2, 1), REPLY_NEW); /* runs: cannot be evicted */
	for (i = 0; i < 20; i++, name[0]++) {
		CU_ASSERT_EQUAL(begin(rc, name, 1, 1, 1), REPLY_NEW);
		end(rc, name, 1, 1, 1);
	}
	CU_ASSERT_TRUE(replycache_clients(rc) <= 6);
	CU_ASSERT_EQUAL(begin(rc, "good", 1, 1, 1), REPLY_KNOWN);
	replycache_free(rc);
	CU_ASSERT_EQUAL(alive, 0);
}

/* ---- random schedules ---- */
enum { WINDOW = 40, CALLS = 200 };
static uint64_t rng;
static uint32_t rnd(uint32_t n)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (rng >> 11) % n;
}

/* What client and network do with one call: sent any number of times, results get lost, then it is known and acknowledged. */
struct model {
	unsigned executed;
	bool running, finished, cancelled;
};

static bool schedule(uint64_t seed)
{
	struct replycache *rc = make(4, 4, WINDOW * 2, 1 << 20);
	struct model m[CALLS + WINDOW + 1] = { 0 };
	uint64_t low = 1, s, steps = 0;
	bool ok = true;
	void *reply, **w;

	rng = seed;
	while (ok && low <= CALLS && steps++ < 100000) {
		s = low + rnd(WINDOW);
		if (m[s].running && !rnd(3)) { /* the handler ends; now and then it did not execute after a cancel */
			m[s].cancelled = !rnd(5);
			m[s].executed += !m[s].cancelled;
			m[s].running = false;
			replycache_end(rc, "a", 1, s, m[s].cancelled ? NULL : answer(s), 10, &w);
			free(w);
			continue;
		}
		reply = NULL;
		switch (m[s].finished ? REPLY_LOST : replycache_begin(rc, "a", 1, s, low, &m[s], &reply)) {
		case REPLY_NEW:
			ok = !m[s].running && !m[s].executed;
			m[s].running = true;
			break;
		case REPLY_WAIT:
			ok = m[s].running;
			break;
		case REPLY_KNOWN:
			ok = m[s].executed == 1 && *(uint64_t *)reply == s;
			m[s].finished = rnd(2); /* else the answer got lost on its way */
			break;
		case REPLY_LOST:
			ok = m[s].finished; /* with room enough no call that still waits is refused */
			break;
		case REPLY_NOMEM:
			ok = false;
		}
		while (m[low].finished)
			low++;
	}
	for (s = 1; s < low; s++)
		ok = ok && m[s].executed == 1;
	ok = ok && low > CALLS && replycache_entries(rc) <= WINDOW * 2;
	replycache_free(rc);
	return ok && !alive;
}

static void test_random(void)
{
	uint64_t seed, bad = 0;

	for (seed = 1; seed <= 2000 && !bad; seed++)
		if (!schedule(seed * 0x9e3779b97f4a7c15ull))
			bad = seed;
	if (bad)
		printf("schedule %" PRIu64 " ", bad);
	CU_ASSERT_EQUAL(bad, 0);
}

int main(void)
{
	unsigned failed;
	CU_pSuite s;

	CU_initialize_registry();
	s = CU_add_suite("replycache", NULL, NULL);
	CU_ADD_TEST(s, test_known);
	CU_ADD_TEST(s, test_acked);
	CU_ADD_TEST(s, test_waiters);
	CU_ADD_TEST(s, test_bounds);
	CU_ADD_TEST(s, test_clients);
	CU_ADD_TEST(s, test_random);
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	failed = CU_get_number_of_failures();
	CU_cleanup_registry();
	return failed ? 1 : 0;
}
