// SPDX-License-Identifier: Apache-2.0
/* The single rules of leases, one case each; all of them at once, under random schedules: test_consist_random.c. */
#include <CUnit/Basic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "fs/server/consist.h"

static struct cs_key key(int object)
{
	return (struct cs_key){1, (uint64_t)object + 1};
}

struct pair {
	struct consist c;
	struct cs_out out;
};

static void pair_init(struct pair *p, bool ack_now)
{
	consist_init(&p->c);
	p->out = (struct cs_out)CS_OUT_INIT(p->out);
	consist_client_add(&p->c, 1, ack_now);
	consist_client_add(&p->c, 2, ack_now);
}

static void drop(struct list *l)
{
	struct list *n;

	while ((n = list_pop(l)))
		free(list_entry(n, struct cs_recall, link));
}

static uint32_t grant(struct pair *p, uint64_t client, uint32_t bits)
{
	uint64_t seq;

	return consist_grant(&p->c, client, key(0), "h", 1, bits, false, &seq);
}

static enum cs_verdict again(struct pair *p, struct cs_op *op, uint32_t breaks)
{
	struct cs_need n = {.key = key(0), .breaks = breaks, .change = breaks != CS_WRITE, .name = "x"};

	return consist_begin(&p->c, op, &n, 1, 1, &p->out);
}

static enum cs_verdict begin(struct pair *p, struct cs_op *op, uint64_t client, uint32_t breaks)
{
	cs_op_init(op, client);
	return again(p, op, breaks);
}

static void test_two_creators(void)
{
	struct pair p;
	struct cs_op a, b;

	pair_init(&p, false);
	grant(&p, 1, CS_NAMES | CS_ATTR);
	grant(&p, 2, CS_NAMES | CS_ATTR);
	CU_ASSERT_EQUAL(begin(&p, &a, 1, CS_NAMES | CS_ATTR), CS_WAIT);
	CU_ASSERT_EQUAL(begin(&p, &b, 2, CS_NAMES | CS_ATTR), CS_GO); /* 1 cannot acknowledge */
	consist_end(&p.c, &b, &p.out);
	drop(&p.out.recalls);
	consist_end(&p.c, &a, &p.out);
	consist_clear(&p.c);
	pair_init(&p, true);
	grant(&p, 1, CS_NAMES | CS_ATTR);
	grant(&p, 2, CS_NAMES | CS_ATTR);
	CU_ASSERT_EQUAL(begin(&p, &a, 1, CS_NAMES | CS_ATTR), CS_WAIT);
	CU_ASSERT_EQUAL(begin(&p, &b, 2, CS_NAMES | CS_ATTR), CS_WAIT); /* both can */
	consist_ack(&p.c, 2, 1, &p.out);
	CU_ASSERT_PTR_EQUAL(list_pop(&p.out.runnable), &a.link);
	drop(&p.out.recalls);
	consist_end(&p.c, &a, &p.out);
	consist_end(&p.c, &b, &p.out);
	consist_clear(&p.c);
}

/* An operation that begins anew with something else has ended its change: who waits for that goes on. */
static void test_begins_anew(void)
{
	struct cs_need other = {.key = key(1), .breaks = CS_DATA, .change = true}, look = {.key = key(0), .breaks = CS_WRITE, .settle = true};
	struct cs_op a, b;
	struct pair p;

	pair_init(&p, true);
	CU_ASSERT_EQUAL(grant(&p, 2, CS_ATTR | CS_DATA), CS_ATTR | CS_DATA);
	CU_ASSERT_EQUAL(begin(&p, &a, 1, CS_DATA), CS_WAIT);
	consist_ack(&p.c, 2, 1, &p.out);
	CU_ASSERT_PTR_EQUAL(list_pop(&p.out.runnable), &a.link);
	CU_ASSERT_EQUAL(again(&p, &a, CS_DATA), CS_GO);
	cs_op_init(&b, 2);
	CU_ASSERT_EQUAL(consist_begin(&p.c, &b, &look, 1, 1, &p.out), CS_WAIT);
	CU_ASSERT_TRUE(list_empty(&p.out.runnable));
	CU_ASSERT_EQUAL(consist_begin(&p.c, &a, &other, 1, 1, &p.out), CS_GO);
	CU_ASSERT_PTR_EQUAL(list_pop(&p.out.runnable), &b.link);
	CU_ASSERT_EQUAL(consist_begin(&p.c, &b, &look, 1, 1, &p.out), CS_GO);
	drop(&p.out.recalls);
	consist_end(&p.c, &a, &p.out);
	consist_end(&p.c, &b, &p.out);
	consist_clear(&p.c);
}

static void test_write_sharing(void)
{
	struct pair p;

	pair_init(&p, false);
	consist_open(&p.c, 1, key(0), true);
	CU_ASSERT_EQUAL(grant(&p, 1, CS_ATTR | CS_DATA | CS_WRITE), CS_ATTR | CS_DATA | CS_WRITE);
	CU_ASSERT_FALSE(consist_shared_write(&p.c, 1, key(0)));
	CU_ASSERT_TRUE(consist_hidden(&p.c, 2, key(0)));
	CU_ASSERT_EQUAL(grant(&p, 2, CS_ATTR | CS_DATA), 0);
	consist_open(&p.c, 2, key(0), false);
	CU_ASSERT_TRUE(consist_shared_write(&p.c, 1, key(0)));
	CU_ASSERT_TRUE(consist_shared_write(&p.c, 2, key(0)));
	consist_close(&p.c, 1, key(0), true);
	CU_ASSERT_FALSE(consist_shared_write(&p.c, 2, key(0)));
	consist_client_gone(&p.c, 1, &p.out);
	CU_ASSERT_EQUAL(grant(&p, 2, CS_ATTR | CS_DATA), CS_ATTR | CS_DATA);
	consist_clear(&p.c);
}

/* Two nodes write back what they have mapped: neither waits, both linger, and who reads or syncs waits for it. */
static void test_mapped(void)
{
	struct cs_need write = {.key = key(0), .breaks = CS_DATA | CS_ATTR, .change = true, .early = true};
	struct cs_need read = {.key = key(0), .breaks = CS_WRITE, .settle = true}, sync = {.key = key(0), .settle_all = true};
	struct cs_op a, b, reads, syncs, more;
	struct pair p;

	pair_init(&p, true);
	consist_client_add(&p.c, 3, true);
	grant(&p, 1, CS_ATTR | CS_DATA);
	grant(&p, 2, CS_ATTR | CS_DATA);
	cs_op_init(&a, 1);
	cs_op_init(&b, 2);
	cs_op_init(&reads, 3);
	cs_op_init(&syncs, 1);
	CU_ASSERT_EQUAL(consist_begin(&p.c, &a, &write, 1, 1, &p.out), CS_GO);
	CU_ASSERT_EQUAL(consist_begin(&p.c, &b, &write, 1, 1, &p.out), CS_BUSY); /* one is applied after the other */
	CU_ASSERT_EQUAL(consist_linger(&a, &p.out), CS_LINGERS);
	cs_op_init(&more, 1);
	CU_ASSERT_EQUAL(consist_begin(&p.c, &more, &write, 1, 1, &p.out), CS_GO);
	CU_ASSERT_EQUAL(consist_linger(&more, &p.out), CS_COVERED);
	consist_end(&p.c, &more, &p.out);
	CU_ASSERT_EQUAL(consist_begin(&p.c, &b, &write, 1, 1, &p.out), CS_GO);
	CU_ASSERT_EQUAL(consist_linger(&b, &p.out), CS_LINGERS);
	CU_ASSERT_EQUAL(grant(&p, 3, CS_ATTR | CS_DATA), 0);
	CU_ASSERT_EQUAL(consist_begin(&p.c, &reads, &read, 1, 1, &p.out), CS_WAIT);
	CU_ASSERT_EQUAL(consist_begin(&p.c, &syncs, &sync, 1, 1, &p.out), CS_WAIT);
	consist_ack(&p.c, 2, 1, &p.out);
	CU_ASSERT_PTR_EQUAL(list_pop(&p.out.runnable), &a.link);
	consist_end(&p.c, &a, &p.out);
	CU_ASSERT_TRUE(list_empty(&p.out.runnable)); /* b is still to be seen by 1 */
	consist_ack(&p.c, 1, 2, &p.out);
	CU_ASSERT_PTR_EQUAL(list_pop(&p.out.runnable), &b.link);
	consist_end(&p.c, &b, &p.out);
	CU_ASSERT_PTR_EQUAL(list_pop(&p.out.runnable), &reads.link);
	CU_ASSERT_PTR_EQUAL(list_pop(&p.out.runnable), &syncs.link);
	CU_ASSERT_EQUAL(consist_begin(&p.c, &reads, &read, 1, 1, &p.out), CS_GO);
	CU_ASSERT_EQUAL(consist_begin(&p.c, &syncs, &sync, 1, 1, &p.out), CS_GO);
	/* nobody else has anything: it is over at once */
	cs_op_init(&a, 1);
	CU_ASSERT_EQUAL(consist_begin(&p.c, &a, &write, 1, 1, &p.out), CS_GO);
	CU_ASSERT_EQUAL(consist_linger(&a, &p.out), CS_SETTLED);
	consist_end(&p.c, &a, &p.out);
	consist_end(&p.c, &reads, &p.out);
	consist_end(&p.c, &syncs, &p.out);
	drop(&p.out.recalls);
	consist_clear(&p.c);
}

static void test_downgrade(void)
{
	struct pair p;
	struct cs_op look_op;
	struct cs_recall *r;

	pair_init(&p, false);
	grant(&p, 1, CS_ATTR | CS_DATA | CS_WRITE);
	CU_ASSERT_EQUAL(begin(&p, &look_op, 2, CS_WRITE), CS_WAIT);
	r = list_entry(list_pop(&p.out.recalls), struct cs_recall, link);
	CU_ASSERT_EQUAL(r->bits, CS_WRITE);
	CU_ASSERT_EQUAL(r->client, 1);
	consist_ack(&p.c, 1, r->id, &p.out);
	free(r);
	CU_ASSERT_PTR_EQUAL(list_pop(&p.out.runnable), &look_op.link);
	CU_ASSERT_EQUAL(again(&p, &look_op, CS_WRITE), CS_GO);
	consist_end(&p.c, &look_op, &p.out);
	CU_ASSERT_EQUAL(grant(&p, 2, CS_ATTR | CS_DATA), CS_ATTR | CS_DATA); /* 1 still holds them too */
	CU_ASSERT_EQUAL(consist_client_leases(&p.c, 1), 1);
	consist_clear(&p.c);
}

#define MANY 3000

static struct cs_key nth(int i)
{
	return (struct cs_key){7, (uint64_t)i + 1};
}

/* Node 2 has looked at a directory of thousands of files; node 1 is about to remove them: a handful of messages, not one for each. */
static void test_many(void)
{
	static struct cs_need need[MANY];
	struct pair p;
	struct cs_op op;
	uint64_t seq, last = 0, acks = 0;
	int n = 0;
	struct list *l;

	pair_init(&p, true);
	for (int i = 0; i < MANY; i++)
		consist_grant(&p.c, 2, nth(i), "a handle of some length, as they are here now", 44, CS_ATTR | CS_DATA, false, &seq);
	consist_open(&p.c, 2, nth(17), false);
	consist_open(&p.c, 2, nth(18), true);
	for (int i = 0; i < MANY; i++) {
		uint32_t b = consist_obstacles(&p.c, 1, nth(i), true);

		CU_ASSERT_EQUAL(b == 0, i == 17 || i == 18); /* what is open there stays */
		if (b)
			need[n++] = (struct cs_need){.key = nth(i), .breaks = b, .hope = true};
	}
	CU_ASSERT_EQUAL(consist_obstacles(&p.c, 1, nth(3), false), 0); /* to look, nobody need be asked */
	cs_op_init(&op, 1);
	CU_ASSERT_EQUAL(consist_begin(&p.c, &op, need, n, 1, &p.out), CS_WAIT);
	while ((l = list_pop(&p.out.recalls))) {
		struct cs_recall *r = list_entry(l, struct cs_recall, link);

		CU_ASSERT_TRUE(r->id >= last);
		if (r->id != last) {
			acks++;
			if (last)
				consist_ack(&p.c, 2, last, &p.out);
			CU_ASSERT_TRUE(list_empty(&p.out.runnable));
		}
		last = r->id;
		free(r);
	}
	CU_ASSERT_TRUE(acks > 1 && acks < 8); /* a message has 64 KiB */
	consist_ack(&p.c, 2, last, &p.out);
	CU_ASSERT_PTR_EQUAL(list_pop(&p.out.runnable), &op.link);
	CU_ASSERT_EQUAL(consist_begin(&p.c, &op, need, n, 1, &p.out), CS_GO);
	for (int i = 0; i < MANY; i++) {
		uint32_t got = consist_grant(&p.c, 1, nth(i), "h", 1, CS_ATTR | CS_DATA | CS_WRITE, false, &seq);

		CU_ASSERT_EQUAL((got & CS_WRITE) == 0, i == 17 || i == 18);
	}
	consist_end(&p.c, &op, &p.out);
	CU_ASSERT_TRUE(list_empty(&p.out.recalls));
	consist_clear(&p.c);
}

/* What one node hopes for of another holds up nobody who reads: it changes nothing. */
static void test_hope_and_read(void)
{
	struct cs_need hope = {.key = key(0), .hope = true}, read = {.key = key(0), .breaks = CS_WRITE, .settle = true};
	struct pair p;
	struct cs_op hopes, reads;

	pair_init(&p, true);
	consist_client_add(&p.c, 3, true);
	grant(&p, 2, CS_ATTR | CS_DATA);
	hope.breaks = consist_obstacles(&p.c, 1, key(0), true);
	cs_op_init(&hopes, 1);
	CU_ASSERT_EQUAL(consist_begin(&p.c, &hopes, &hope, 1, 1, &p.out), CS_WAIT);
	cs_op_init(&reads, 3);
	CU_ASSERT_EQUAL(consist_begin(&p.c, &reads, &read, 1, 1, &p.out), CS_GO);
	consist_end(&p.c, &reads, &p.out);
	drop(&p.out.recalls);
	consist_clear(&p.c);
}

/* Two nodes want everything: both are answered, and neither has to wait twice. */
static void test_both_want_all(void)
{
	struct cs_need need[2][8];
	struct pair p;
	struct cs_op op[2];
	uint64_t seq;
	struct list *l;

	pair_init(&p, true);
	for (int i = 0; i < 8; i++)
		for (int c = 1; c <= 2; c++)
			consist_grant(&p.c, (uint64_t)c, nth(i), "h", 1, CS_ATTR | CS_DATA, false, &seq);
	for (int c = 0; c < 2; c++) {
		cs_op_init(&op[c], (uint64_t)c + 1);
		for (int i = 0; i < 8; i++)
			need[c][i] = (struct cs_need){.key = nth(c ? 7 - i : i), .breaks = consist_obstacles(&p.c, (uint64_t)c + 1, nth(i), true), .hope = true};
		CU_ASSERT_EQUAL(consist_begin(&p.c, &op[c], need[c], 8, 1, &p.out), CS_WAIT);
	}
	for (uint64_t id = 1; id <= 2; id++)
		consist_ack(&p.c, id == 1 ? 2 : 1, id, &p.out);
	drop(&p.out.recalls);
	for (int c = 0; c < 2; c++) {
		l = list_pop(&p.out.runnable);
		CU_ASSERT_PTR_EQUAL(l, &op[c].link);
		CU_ASSERT_EQUAL(consist_begin(&p.c, &op[c], need[c], 8, 1, &p.out), CS_GO);
		CU_ASSERT_EQUAL(consist_grant(&p.c, (uint64_t)c + 1, nth(0), "h", 1, CS_ATTR | CS_DATA | CS_WRITE, false, &seq), c ? CS_ATTR | CS_DATA | CS_WRITE : 0);
		consist_end(&p.c, &op[c], &p.out);
	}
	consist_clear(&p.c);
}

static void seen(void *arg, uint64_t client)
{
	*(uint64_t *)arg = client;
}

static void test_overdue(void)
{
	struct pair p;
	struct cs_op op;
	uint64_t who = 0;

	pair_init(&p, false);
	grant(&p, 1, CS_ATTR);
	CU_ASSERT_EQUAL(begin(&p, &op, 2, CS_ATTR), CS_WAIT);
	consist_overdue(&p.c, 1, seen, &who);
	CU_ASSERT_EQUAL(who, 0);
	consist_overdue(&p.c, 2, seen, &who);
	CU_ASSERT_EQUAL(who, 1);
	consist_repeat(&p.c, 1, 5, &p.out); /* it comes again: its time begins anew, once */
	who = 0;
	consist_overdue(&p.c, 5, seen, &who);
	CU_ASSERT_EQUAL(who, 0);
	consist_repeat(&p.c, 1, 9, &p.out);
	consist_overdue(&p.c, 6, seen, &who);
	CU_ASSERT_EQUAL(who, 1);
	CU_ASSERT_TRUE(consist_owes(&p.c, 1));
	consist_client_gone(&p.c, 1, &p.out);
	CU_ASSERT_PTR_EQUAL(list_pop(&p.out.runnable), &op.link);
	drop(&p.out.recalls);
	consist_end(&p.c, &op, &p.out);
	consist_clear(&p.c);
}

int main(void)
{
	CU_pSuite s;
	unsigned failed;

	CU_initialize_registry();
	s = CU_add_suite("consist", NULL, NULL);
	CU_add_test(s, "two creators in one directory", test_two_creators);
	CU_add_test(s, "begins anew with something else", test_begins_anew);
	CU_add_test(s, "no caching while write-shared", test_write_sharing);
	CU_add_test(s, "a look takes WRITE back, nothing else", test_downgrade);
	CU_add_test(s, "what two nodes have mapped", test_mapped);
	CU_add_test(s, "thousands of objects in a few messages", test_many);
	CU_add_test(s, "a read beside what is hoped for", test_hope_and_read);
	CU_add_test(s, "two that want everything", test_both_want_all);
	CU_add_test(s, "who does not acknowledge is found and given up", test_overdue);
	CU_basic_run_tests();
	failed = CU_get_number_of_failures();
	CU_cleanup_registry();
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
