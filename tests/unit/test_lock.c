// SPDX-License-Identifier: Apache-2.0
/*
 * The lock table against a naive model that keeps one cell per byte and owner: thousands of random schedules of taking, waiting, dropping, giving up and
 * clients that go; after each step every byte, every waiter and every verdict of deadlock must agree.
 */
#include <CUnit/Basic.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "fs/server/lock.h"

#define OBJECTS 2
#define OWNERS	5
#define BYTES	12 /* the last one stands for all to the end of the file */
#define WAITERS 64

/* ---- the model --------------------------------------------------------------------------------------- */

struct model_waiter {
	int owner, object, from, to;
	enum lock_type type;
	struct lock_waiter *real;
};
struct model {
	bool whole;
	char cell[OBJECTS][OWNERS][BYTES]; /* 0, 'r', 'w' */
	struct model_waiter w[WAITERS];
	int n;
};

static bool model_conflict(const struct model *m, int object, int owner, int from, int to, enum lock_type type, int other)
{
	if (other == owner)
		return false;
	for (int b = from; b <= to; b++) {
		char c = m->cell[object][other][b];

		if (c == 'w' || (c == 'r' && type == RANGE_WRITE))
			return true;
	}
	return false;
}

static bool model_blocked(const struct model *m, int object, int owner, int from, int to, enum lock_type type)
{
	for (int o = 0; o < OWNERS; o++)
		if (model_conflict(m, object, owner, from, to, type, o))
			return true;
	return false;
}

static void model_put(struct model *m, int object, int owner, int from, int to, char c)
{
	for (int b = from; b <= to; b++)
		m->cell[object][owner][b] = c;
}

static char type_char(enum lock_type t)
{
	return t == RANGE_WRITE ? 'w' : 'r';
}

/* Grants what can be granted on the object; each grant must be in `granted`. */
static int model_wake(struct model *m, int object)
{
	int count = 0;

	for (bool again = true; again;) {
		again = false;
		for (int i = 0; i < m->n; i++) {
			struct model_waiter w = m->w[i];

			if (w.object != object || model_blocked(m, object, w.owner, w.from, w.to, w.type))
				continue;
			model_put(m, object, w.owner, w.from, w.to, type_char(w.type));
			memmove(&m->w[i], &m->w[i + 1], (size_t)(m->n - i - 1) * sizeof(m->w[0]));
			m->n--;
			i--;
			count++;
			again = true;
		}
	}
	return count;
}

/*
 * Does somebody in the way of the request wait, directly or not, for `owner`? By the closure of the whole graph. A cycle that is there already (a grant
 * can close one) but does not lead through this request is not its deadlock.
 */
static bool model_deadlock(const struct model *m, int object, int owner, int from, int to, enum lock_type type)
{
	bool edge[OWNERS][OWNERS] = {{false}};

	for (int i = 0; i < m->n; i++)
		for (int o = 0; o < OWNERS; o++)
			if (model_conflict(m, m->w[i].object, m->w[i].owner, m->w[i].from, m->w[i].to, m->w[i].type, o))
				edge[m->w[i].owner][o] = true;
	for (int k = 0; k < OWNERS; k++)
		for (int a = 0; a < OWNERS; a++)
			for (int b = 0; b < OWNERS; b++)
				edge[a][b] = edge[a][b] || (edge[a][k] && edge[k][b]);
	for (int o = 0; o < OWNERS; o++)
		if (model_conflict(m, object, owner, from, to, type, o) && edge[o][owner])
			return true;
	return false;
}

/* ---- both together ------------------------------------------------------------------------------------ */

struct world {
	struct model m;
	struct lock_table t;
	unsigned seed;
	uint64_t ticket;
};

static int rnd(struct world *w, int n)
{
	return rand_r(&w->seed) % n;
}

static int64_t byte_end(int b)
{
	return b == BYTES - 1 ? LOCK_EOF : b;
}

static struct lock_owner who(int owner)
{
	return (struct lock_owner){(uint64_t)owner % 2 + 1, (uint64_t)owner}; /* two clients */
}

static int drain(struct list *l)
{
	struct list *n;
	int count = 0;

	for (; (n = list_pop(l)); count++)
		free(list_entry(n, struct lock_waiter, in_object));
	return count;
}

/* Every byte of every object as F_GETLK by a stranger sees it, and the counts. */
static void compare(struct world *w)
{
	for (int o = 0; o < OBJECTS; o++)
		for (int b = 0; b < BYTES; b++)
			for (int t = 0; t < 2; t++) {
				struct lock_range q = {.who = {9, 99}, .type = t ? RANGE_WRITE : RANGE_READ, .start = b, .end = byte_end(b)};
				struct lock_range got;
				bool real = lock_test(&w->t, &o, sizeof(o), &q, &got);
				bool model = model_blocked(&w->m, o, -1, b, b, q.type);

				CU_ASSERT_EQUAL(real, model);
				if (real && model)
					CU_ASSERT_EQUAL(w->m.cell[o][got.who.owner][b], type_char(got.type));
			}
	CU_ASSERT_EQUAL(w->t.nwaiting, (size_t)w->m.n);
}

static void step_take(struct world *w, bool wait)
{
	int object = rnd(w, OBJECTS), owner = rnd(w, OWNERS);
	int from = w->m.whole ? 0 : rnd(w, BYTES), to = w->m.whole ? BYTES - 1 : from + rnd(w, BYTES - from);
	enum lock_type type = rnd(w, 2) ? RANGE_WRITE : RANGE_READ;
	struct lock_range want = {.who = who(owner), .type = type, .start = from, .end = byte_end(to)};
	struct lock_waiter *lw = NULL;
	struct list granted = LIST_INIT(granted);
	bool blocked = model_blocked(&w->m, object, owner, from, to, type);
	int r, woken = 0;

	if (wait && w->m.n < WAITERS) {
		lw = calloc(1, sizeof(*lw));
		lw->ticket = ++w->ticket;
	}
	r = lock_take(&w->t, &object, sizeof(object), &want, lw, &granted);
	if (!blocked) {
		CU_ASSERT_EQUAL(r, 0);
		model_put(&w->m, object, owner, from, to, type_char(type));
		woken = model_wake(&w->m, object);
	} else if (!lw) {
		CU_ASSERT_EQUAL(r, -EAGAIN);
	} else if (!w->m.whole && model_deadlock(&w->m, object, owner, from, to, type)) {
		CU_ASSERT_EQUAL(r, -EDEADLK);
	} else {
		CU_ASSERT_EQUAL(r, -EINPROGRESS);
		if (w->m.whole)
			model_put(&w->m, object, owner, 0, BYTES - 1, 0);
		w->m.w[w->m.n++] = (struct model_waiter){owner, object, from, to, type, lw};
		if (w->m.whole)
			woken = model_wake(&w->m, object);
	}
	CU_ASSERT_EQUAL(drain(&granted), woken);
	if (r != -EINPROGRESS)
		free(lw);
}

static void step_drop(struct world *w)
{
	int object = rnd(w, OBJECTS), owner = rnd(w, OWNERS);
	int from = w->m.whole ? 0 : rnd(w, BYTES), to = w->m.whole ? BYTES - 1 : from + rnd(w, BYTES - from);
	struct list granted = LIST_INIT(granted);

	CU_ASSERT_EQUAL(lock_drop(&w->t, &object, sizeof(object), who(owner), from, byte_end(to), &granted), 0);
	model_put(&w->m, object, owner, from, to, 0);
	CU_ASSERT_EQUAL(drain(&granted), model_wake(&w->m, object));
}

static void step_forget(struct world *w)
{
	struct model_waiter *mw;
	struct lock_waiter *lw;

	if (!w->m.n)
		return;
	mw = &w->m.w[rnd(w, w->m.n)];
	lw = lock_find_waiter(&w->t, who(mw->owner), mw->real->ticket);
	CU_ASSERT_PTR_EQUAL(lw, mw->real);
	lock_forget(&w->t, mw->real);
	free(mw->real);
	memmove(mw, mw + 1, (size_t)(&w->m.w[w->m.n] - (mw + 1)) * sizeof(*mw));
	w->m.n--;
}

static void step_client_goes(struct world *w)
{
	uint64_t client = (uint64_t)rnd(w, 2) + 1;
	struct list granted = LIST_INIT(granted), orphans = LIST_INIT(orphans);
	int gone = 0, woken = 0;

	lock_drop_client(&w->t, client, &granted, &orphans);
	for (int i = 0; i < w->m.n; i++)
		if (who(w->m.w[i].owner).client == client) {
			memmove(&w->m.w[i], &w->m.w[i + 1], (size_t)(w->m.n - i - 1) * sizeof(w->m.w[0]));
			w->m.n--;
			i--;
			gone++;
		}
	for (int o = 0; o < OBJECTS; o++) {
		for (int k = 0; k < OWNERS; k++)
			if (who(k).client == client)
				model_put(&w->m, o, k, 0, BYTES - 1, 0);
		woken += model_wake(&w->m, o);
	}
	CU_ASSERT_EQUAL(drain(&orphans), gone);
	CU_ASSERT_EQUAL(drain(&granted), woken);
}

static void run(unsigned seed, bool whole)
{
	struct world w = {.seed = seed, .m.whole = whole};

	lock_table_init(&w.t, whole);
	for (int i = 0; i < 60; i++) {
		int what = rnd(&w, 20);

		if (what < 9)
			step_take(&w, what < 6);
		else if (what < 16)
			step_drop(&w);
		else if (what < 19)
			step_forget(&w);
		else
			step_client_goes(&w);
		compare(&w);
		if (CU_get_number_of_failures()) {
			const CU_FailureRecord *f = CU_get_failure_list();

			printf("seed %u, step %d, whole %d: line %u: %s\n", seed, i, whole, f->uiLineNumber, f->strCondition);
			exit(EXIT_FAILURE); /* from here on the two only drift apart */
		}
	}
	while (w.m.n)
		step_forget(&w);
	lock_table_clear(&w.t);
	CU_ASSERT_EQUAL(w.t.objects.count, 0);
}

static void test_fcntl_schedules(void)
{
	for (unsigned seed = 1; seed <= 3000; seed++)
		run(seed, false);
}

static void test_flock_schedules(void)
{
	for (unsigned seed = 1; seed <= 2000; seed++)
		run(seed, true);
}

/* ---- what the manual promises, by name ------------------------------------------------------------------ */

static struct lock_range range(uint64_t owner, enum lock_type type, int64_t start, int64_t end)
{
	return (struct lock_range){.who = {1, owner}, .type = type, .start = start, .end = end};
}

static void test_split_and_merge(void)
{
	struct lock_table t;
	struct list granted = LIST_INIT(granted);
	struct lock_range r = range(1, RANGE_WRITE, 0, LOCK_EOF), got;

	lock_table_init(&t, false);
	CU_ASSERT_EQUAL(lock_take(&t, "x", 1, &r, NULL, &granted), 0);
	CU_ASSERT_EQUAL(lock_drop(&t, "x", 1, r.who, 10, 19, &granted), 0);
	CU_ASSERT_EQUAL(t.nheld, 2);
	r = range(2, RANGE_READ, 15, 30);
	CU_ASSERT_TRUE(lock_test(&t, "x", 1, &r, &got));
	CU_ASSERT_EQUAL(got.start, 20);
	CU_ASSERT_EQUAL(got.end, LOCK_EOF);
	r = range(1, RANGE_WRITE, 10, 19);
	CU_ASSERT_EQUAL(lock_take(&t, "x", 1, &r, NULL, &granted), 0);
	CU_ASSERT_EQUAL(t.nheld, 1);
	lock_table_clear(&t);
}

static void test_deadlock_of_three(void)
{
	struct lock_table t;
	struct list granted = LIST_INIT(granted);
	struct lock_waiter w[3] = {{.ticket = 1}, {.ticket = 2}, {.ticket = 3}};

	lock_table_init(&t, false);
	for (uint64_t i = 0; i < 3; i++) {
		struct lock_range own = range(i, RANGE_WRITE, (int64_t)i, (int64_t)i);

		CU_ASSERT_EQUAL(lock_take(&t, "x", 1, &own, NULL, &granted), 0);
	}
	for (uint64_t i = 0; i < 3; i++) {
		struct lock_range next = range(i, RANGE_WRITE, (int64_t)(i + 1) % 3, (int64_t)(i + 1) % 3);

		CU_ASSERT_EQUAL(lock_take(&t, "x", 1, &next, &w[i], &granted), i == 2 ? -EDEADLK : -EINPROGRESS);
	}
	lock_forget(&t, &w[0]);
	lock_forget(&t, &w[1]);
	lock_table_clear(&t);
}

/* One account takes no more than it may; others still get theirs. */
static void test_accounts(void)
{
	struct lock_table t;
	struct list granted = LIST_INIT(granted);
	long a = 0, b = 0;
	int i, key = 1;

	lock_table_init(&t, false);
	t.account_max = 3;
	for (i = 0; i < 5; i++) {
		struct lock_range want = {.who = who(0), .type = RANGE_WRITE, .start = 10 * i, .end = 10 * i, .account = &a};

		CU_ASSERT_EQUAL(lock_take(&t, &key, sizeof(key), &want, NULL, &granted), i < 3 ? 0 : -ENOLCK);
	}
	CU_ASSERT_EQUAL(a, 3);
	CU_ASSERT_EQUAL(lock_take(&t, &key, sizeof(key), &(struct lock_range){.who = who(1), .type = RANGE_WRITE, .start = 5, .end = 5, .account = &b}, NULL, &granted), 0);
	CU_ASSERT_EQUAL(lock_drop(&t, &key, sizeof(key), who(0), 0, LOCK_EOF, &granted), 0);
	CU_ASSERT_EQUAL(a, 0);
	CU_ASSERT_EQUAL(b, 1);
	lock_table_clear(&t);
}

/* Two ranges with one mark are not in each other's way, and in that of all others. */
static void test_marks(void)
{
	struct lock_range first = {.who = who(0), .type = RANGE_WRITE, .start = 0, .end = 9}, next = first, other = first;
	struct list granted = LIST_INIT(granted);
	struct lock_table t;
	int key = 1;

	next.who = who(1);
	next.mark = 77;
	other.who = who(2);
	lock_table_init(&t, false);
	CU_ASSERT_EQUAL(lock_take(&t, &key, sizeof(key), &first, NULL, &granted), 0);
	CU_ASSERT_EQUAL(lock_take(&t, &key, sizeof(key), &next, NULL, &granted), -EAGAIN); /* not offered */
	lock_mark(&t, &key, sizeof(key), first.who, 0, LOCK_EOF, 77);
	CU_ASSERT_EQUAL(lock_take(&t, &key, sizeof(key), &next, NULL, &granted), 0);
	CU_ASSERT_EQUAL(lock_take(&t, &key, sizeof(key), &other, NULL, &granted), -EAGAIN);
	lock_yield(&t, &key, sizeof(key), next.who, &next.type, 0, 9, 77, &granted); /* as strong as before: nothing goes */
	CU_ASSERT_EQUAL(t.nheld, 2);
	CU_ASSERT_EQUAL(lock_drop(&t, &key, sizeof(key), next.who, 3, 5, &granted), 0);
	other.start = 3, other.end = 5;
	CU_ASSERT_EQUAL(lock_take(&t, &key, sizeof(key), &other, NULL, &granted), -EAGAIN); /* who let go is the one who took over: */
	lock_yield(&t, &key, sizeof(key), next.who, NULL, 3, 5, 77, &granted);
	CU_ASSERT_EQUAL(lock_take(&t, &key, sizeof(key), &other, NULL, &granted), 0); /* the other has let go with it, there */
	CU_ASSERT_EQUAL(lock_drop(&t, &key, sizeof(key), other.who, 0, LOCK_EOF, &granted), 0);
	other.start = 0, other.end = 9;
	CU_ASSERT_EQUAL(lock_drop(&t, &key, sizeof(key), first.who, 0, LOCK_EOF, &granted), 0);
	CU_ASSERT_EQUAL(lock_take(&t, &key, sizeof(key), &other, NULL, &granted), -EAGAIN); /* the one who took over has it */
	CU_ASSERT_EQUAL(lock_drop(&t, &key, sizeof(key), next.who, 0, LOCK_EOF, &granted), 0);
	CU_ASSERT_EQUAL(lock_take(&t, &key, sizeof(key), &other, NULL, &granted), 0);
	lock_table_clear(&t);
}

static void test_bad_ranges(void)
{
	struct lock_table t;
	struct list granted = LIST_INIT(granted);
	struct lock_range r = range(1, RANGE_READ, 5, 4);

	lock_table_init(&t, false);
	CU_ASSERT_EQUAL(lock_take(&t, "x", 1, &r, NULL, &granted), -EINVAL);
	r = range(1, RANGE_READ, -1, 4);
	CU_ASSERT_EQUAL(lock_take(&t, "x", 1, &r, NULL, &granted), -EINVAL);
	CU_ASSERT_EQUAL(lock_drop(&t, "x", 1, r.who, 7, 6, &granted), -EINVAL);
	CU_ASSERT_EQUAL(lock_drop(&t, "never seen", 10, r.who, 0, LOCK_EOF, &granted), 0);
	lock_table_clear(&t);
}

int main(void)
{
	CU_pSuite s;
	unsigned failed;

	CU_initialize_registry();
	s = CU_add_suite("lock", NULL, NULL);
	CU_add_test(s, "fcntl: random schedules agree with the model", test_fcntl_schedules);
	CU_add_test(s, "flock: random schedules agree with the model", test_flock_schedules);
	CU_add_test(s, "ranges split and merge", test_split_and_merge);
	CU_add_test(s, "a cycle of three is a deadlock", test_deadlock_of_three);
	CU_add_test(s, "bad ranges are refused", test_bad_ranges);
	CU_add_test(s, "accounts", test_accounts);
	CU_add_test(s, "who takes over stands beside who gives", test_marks);
	CU_basic_run_tests();
	failed = CU_get_number_of_failures();
	CU_cleanup_registry();
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
