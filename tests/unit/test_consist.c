// SPDX-License-Identifier: Apache-2.0
/*
 * Leases under thousands of random schedules. Simulated clients cache what they were granted; replies, recalls and acknowledgements travel in any order; a
 * client whose kernel holds a directory for an own change acknowledges only after that change was answered. What a client reads from its cache must be the
 * latest version (invariant 1), everything must come to an end, and a flush of the holder of WRITE is never made to wait (invariant 4).
 */
#include <CUnit/Basic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "fs/server/consist.h"

#define CLIENTS 4
#define DIRS	2
#define OBJECTS 4 /* the first DIRS are directories */
#define OPS	40
#define ASPECTS 4  /* attributes; contents, or three names of a directory */

static const uint32_t aspect_bits[ASPECTS] = {CS_ATTR, CS_DATA | CS_NAMES, CS_NAMES, CS_NAMES};

enum kind { READ, CHANGE };
enum stage { UNUSED, START, WAITING, APPLYING, REPLY }; /* REPLY: on its way to the client */

struct sim_op {
	struct cs_op cs;
	enum stage stage;
	enum kind kind;
	int client, n, object[2];
	int name[2]; /* directories: which of the aspects 1..3 */
	uint32_t breaks[2];
	uint32_t granted; /* READ: of object[0] */
	uint64_t seq;
	int version[ASPECTS];
};

struct message { /* a recall on its way, or done and to be acknowledged */
	bool used, done;
	int client, object, name;
	uint64_t id, seq;
	uint32_t bits;
};

struct cache {
	uint32_t bits;
	uint64_t recall_seq;
	int version[ASPECTS];
	bool known[ASPECTS];
	bool excused; /* rule 5 let a change pass before this client knew */
};

struct sim {
	struct consist c;
	unsigned seed;
	int version[OBJECTS][ASPECTS];
	struct cache cache[CLIENTS][OBJECTS];
	struct sim_op op[OPS];
	struct message msg[512];
	bool ack_now[CLIENTS], dead[CLIENTS];
	int steps, excuses, waits, busy, granted_writes;
};

static int rnd(struct sim *s, int n)
{
	return rand_r(&s->seed) % n;
}

static struct cs_key key(int object)
{
	return (struct cs_key){1, (uint64_t)object + 1};
}

static uint64_t id_of(int client)
{
	return (uint64_t)client + 100;
}

static bool is_dir(int object)
{
	return object < DIRS;
}

/* Recalls get on their way, runnable operations start again. */
static void take_out(struct sim *s, struct cs_out *out)
{
	struct list *l;

	while ((l = list_pop(&out->recalls))) {
		struct cs_recall *r = list_entry(l, struct cs_recall, link);

		for (size_t i = 0; i < 512; i++)
			if (!s->msg[i].used) {
				s->msg[i] = (struct message){true, false, (int)(r->client - 100), r->handle[0],
					r->name[0] ? r->name[0] - '0' : 0, r->id, r->seq, (uint32_t)r->bits};
				break;
			}
		free(r);
	}
	while ((l = list_pop(&out->runnable))) {
		struct sim_op *o = container_of(list_entry(l, struct cs_op, link), struct sim_op, cs);

		CU_ASSERT_EQUAL(o->stage, WAITING);
		o->stage = START;
	}
}

static void op_finish(struct sim *s, struct sim_op *o, enum stage stage)
{
	struct cs_out out = CS_OUT_INIT(out);

	consist_end(&s->c, &o->cs, &out);
	take_out(s, &out);
	o->stage = stage;
}

/* Would the client's acknowledgement have to wait for an own change on that directory? */
static bool client_is_tied(const struct sim *s, int client, int object)
{
	if (s->ack_now[client] || !is_dir(object))
		return false;
	for (int i = 0; i < OPS; i++) {
		const struct sim_op *o = &s->op[i];

		if (o->stage == UNUSED || o->client != client || o->kind != CHANGE)
			continue;
		for (int k = 0; k < o->n; k++)
			if (o->object[k] == object)
				return true;
	}
	return false;
}

/* Does an operation on the object speak of aspect `a`? A name: only of its own. */
static bool concerns(int object, int name, int a)
{
	return a == 0 || (is_dir(object) ? a == name : a == 1);
}

/* The client learns a state; one that is older than what it knows (an own change was later) does not count: its kernel orders these. */
static void know(struct cache *ca, const int *version, int object, int name)
{
	for (int a = 0; a < ASPECTS; a++)
		if (concerns(object, name, a)) {
			ca->known[a] = (ca->bits & aspect_bits[a]) != 0; /* nothing is kept without a lease */
			if (version[a] > ca->version[a])
				ca->version[a] = version[a];
		}
}

/* Does the cache say something that is not so? */
static bool is_stale(const struct sim *s, const struct cache *ca, int object)
{
	for (int a = 0; a < ASPECTS; a++)
		if ((ca->bits & aspect_bits[a]) && ca->known[a] && ca->version[a] != s->version[object][a])
			return true;
	return false;
}

static void op_apply(struct sim *s, struct sim_op *o)
{
	for (int k = 0; k < o->n; k++) {
		for (int a = 0; a < ASPECTS; a++)
			s->version[o->object[k]][a] += (o->breaks[k] & aspect_bits[a]) && concerns(o->object[k], o->name[k], a);
		for (int c = 0; c < CLIENTS; c++) {
			struct cache *ca = &s->cache[c][o->object[k]];

			if (c == o->client) {
				know(ca, s->version[o->object[k]], o->object[k], o->name[k]); /* what it did */
				continue;
			}
			CU_ASSERT_TRUE(s->dead[c] || ca->excused || !is_stale(s, ca, o->object[k]) || client_is_tied(s, c, o->object[k]));
			if (!s->dead[c] && client_is_tied(s, c, o->object[k]) && consist_owes(&s->c, id_of(c))) {
				ca->excused = true;
				s->excuses++;
			}
		}
	}
}

static const char *const names[] = {"", "1", "2", "3"};

static void op_begin(struct sim *s, struct sim_op *o)
{
	struct cs_need need[2];
	struct cs_out out = CS_OUT_INIT(out);
	unsigned char handle = (unsigned char)o->object[0];
	enum cs_verdict v;

	if (s->dead[o->client]) {
		op_finish(s, o, UNUSED);
		return;
	}
	if (o->kind == READ) /* rule 2: the grant comes before the look */
		o->granted = consist_grant(&s->c, id_of(o->client), key(o->object[0]), &handle, 1,
			is_dir(o->object[0]) ? CS_ATTR | CS_NAMES : CS_ATTR | CS_DATA, false, &o->seq);
	for (int k = 0; k < o->n; k++)
		need[k] = (struct cs_need){.key = key(o->object[k]), .breaks = o->breaks[k], .change = o->kind == CHANGE,
			.settle = o->kind == READ && !is_dir(o->object[k]), .name = names[o->name[k]]};
	v = consist_begin(&s->c, &o->cs, need, o->n, (uint64_t)s->steps, &out);
	if (v == CS_GO) {
		o->stage = APPLYING;
		if (o->kind == CHANGE)
			op_apply(s, o);
	} else if (v == CS_WAIT) {
		o->stage = WAITING;
		s->waits++;
	} else {
		CU_ASSERT_EQUAL(v, CS_BUSY);
		s->busy++;
	}
	take_out(s, &out);
}

static void op_new(struct sim *s)
{
	int i = rnd(s, OPS), other;
	struct sim_op *o = &s->op[i];

	if (o->stage != UNUSED)
		return;
	memset(o, 0, sizeof(*o));
	o->client = rnd(s, CLIENTS);
	if (s->dead[o->client])
		return;
	o->stage = START;
	o->kind = rnd(s, 2) ? CHANGE : READ;
	o->n = 1;
	o->object[0] = rnd(s, OBJECTS);
	o->name[0] = 1 + rnd(s, 3);
	o->name[1] = 1 + rnd(s, 3);
	o->breaks[0] = o->kind == READ ? CS_WRITE : is_dir(o->object[0]) ? CS_NAMES | CS_ATTR : CS_DATA | CS_ATTR;
	other = rnd(s, OBJECTS);
	if (o->kind == CHANGE && other != o->object[0] && rnd(s, 2)) { /* unlink, rename */
		o->object[1] = other;
		o->breaks[1] = is_dir(other) ? CS_NAMES | CS_ATTR : CS_ATTR;
		o->n = 2;
	}
	cs_op_init(&o->cs, id_of(o->client));
}

static void op_step(struct sim *s, struct sim_op *o)
{
	if (o->stage == START) {
		op_begin(s, o);
	} else if (o->stage == APPLYING) {
		if (o->kind == READ)
			memcpy(o->version, s->version[o->object[0]], sizeof(o->version));
		op_finish(s, o, REPLY);
	} else if (o->stage == REPLY) {
		struct cache *ca = &s->cache[o->client][o->object[0]];

		if (o->kind == READ && o->granted && o->seq > ca->recall_seq && !s->dead[o->client]) {
			ca->bits |= o->granted;
			know(ca, o->version, o->object[0], o->name[0]);
			ca->excused = ca->excused && is_stale(s, ca, o->object[0]);
		}
		o->stage = UNUSED;
	}
}

/* The holder of WRITE sends what it has before it acknowledges; nothing may hold that up. */
static void flush(struct sim *s, int client, int object)
{
	struct sim_op o = {.client = client};
	struct cs_need need = {.key = key(object), .breaks = CS_DATA | CS_ATTR, .change = true};
	struct cs_out out = CS_OUT_INIT(out);
	enum cs_verdict v;

	cs_op_init(&o.cs, id_of(client));
	v = consist_begin(&s->c, &o.cs, &need, 1, 0, &out);
	CU_ASSERT_TRUE(v == CS_GO || v == CS_BUSY);
	CU_ASSERT_TRUE(list_empty(&out.recalls));
	consist_end(&s->c, &o.cs, &out);
	take_out(s, &out);
}

static void message_step(struct sim *s, struct message *m)
{
	struct cache *ca = &s->cache[m->client][m->object];
	struct cs_out out = CS_OUT_INIT(out);

	if (s->dead[m->client]) {
		m->used = false;
		return;
	}
	if (!m->done) {
		if (client_is_tied(s, m->client, m->object))
			return; /* the kernel's lock is taken */
		if ((m->bits & CS_WRITE) && (ca->bits & CS_WRITE))
			flush(s, m->client, m->object);
		ca->bits &= ~(m->bits & ~(uint32_t)CS_NAMES);
		for (int a = 0; a < ASPECTS; a++)
			ca->known[a] = ca->known[a] && (ca->bits & aspect_bits[a]);
		if (m->bits & CS_NAMES)
			ca->known[m->name] = false;
		ca->excused = ca->excused && is_stale(s, ca, m->object); /* another name may still be on its way */
		if (m->seq > ca->recall_seq)
			ca->recall_seq = m->seq;
		m->done = true;
		return;
	}
	m->used = false;
	consist_ack(&s->c, id_of(m->client), m->id, &out);
	take_out(s, &out);
}

/* What a program on the client sees without asking the server. */
static void look(struct sim *s)
{
	int c = rnd(s, CLIENTS), o = rnd(s, OBJECTS);
	struct cache *ca = &s->cache[c][o];

	if (ca->bits && !ca->excused && !s->dead[c])
		CU_ASSERT_FALSE(is_stale(s, ca, o));
}

static void take_write_lease(struct sim *s)
{
	int c = rnd(s, CLIENTS), o = DIRS + rnd(s, OBJECTS - DIRS);
	unsigned char handle = (unsigned char)o;
	uint64_t seq;
	uint32_t got;

	if (s->dead[c])
		return;
	got = consist_grant(&s->c, id_of(c), key(o), &handle, 1, CS_ATTR | CS_DATA | CS_WRITE, false, &seq);
	if (got & CS_WRITE) {
		s->granted_writes++;
		for (int k = 0; k < CLIENTS; k++)
			if (k != c && !s->dead[k])
				CU_ASSERT_EQUAL(s->cache[k][o].bits, 0);
	}
	if (got && seq > s->cache[c][o].recall_seq) { /* this reply arrives at once */
		s->cache[c][o].bits |= got;
		know(&s->cache[c][o], s->version[o], o, 0);
		s->cache[c][o].excused = false;
	}
}

static void client_dies(struct sim *s)
{
	int c = rnd(s, CLIENTS);
	struct cs_out out = CS_OUT_INIT(out);

	if (s->dead[c])
		return;
	s->dead[c] = true;
	memset(s->cache[c], 0, sizeof(s->cache[c]));
	consist_client_gone(&s->c, id_of(c), &out);
	take_out(s, &out);
}

static bool settle(struct sim *s)
{
	bool left = false;

	for (int i = 0; i < OPS; i++)
		if (s->op[i].stage != UNUSED) {
			op_step(s, &s->op[i]);
			left = true;
		}
	for (int i = 0; i < 512; i++)
		if (s->msg[i].used) {
			message_step(s, &s->msg[i]);
			left = true;
		}
	return left;
}

static void check_empty(struct sim *s)
{
	for (int c = 0; c < CLIENTS; c++) {
		struct cs_out out = CS_OUT_INIT(out);

		consist_client_gone(&s->c, id_of(c), &out);
	}
	CU_ASSERT_EQUAL(s->c.objects.count, 0);
	CU_ASSERT_EQUAL(s->c.recalls.count, 0);
	CU_ASSERT_EQUAL(s->c.nleases, 0);
	consist_clear(&s->c);
}

static void run(unsigned seed, struct sim *s)
{
	int left = 2000;

	s->seed = seed;
	consist_init(&s->c);
	for (int c = 0; c < CLIENTS; c++) {
		s->ack_now[c] = rnd(s, 2);
		consist_client_add(&s->c, id_of(c), s->ack_now[c]);
	}
	for (s->steps = 0; s->steps < 400; s->steps++) {
		int what = rnd(s, 100);

		if (what < 20)
			op_new(s);
		else if (what < 60)
			op_step(s, &s->op[rnd(s, OPS)]);
		else if (what < 85) {
			for (int tries = 0; tries < 64; tries++) {
				struct message *m = &s->msg[rnd(s, 40)];

				if (m->used) {
					message_step(s, m);
					break;
				}
			}
		} else if (what < 95)
			look(s);
		else if (what < 99)
			take_write_lease(s);
		else if (rnd(s, 4) == 0)
			client_dies(s);
		if (CU_get_number_of_failures()) {
			const CU_FailureRecord *f = CU_get_failure_list();

			printf("seed %u, step %d: line %u: %s\n", seed, s->steps, f->uiLineNumber, f->strCondition);
			exit(EXIT_FAILURE);
		}
	}
	while (settle(s) && --left)
		look(s);
	if (CU_get_number_of_failures()) {
		printf("seed %u: while settling\n", seed);
		exit(EXIT_FAILURE);
	}
	CU_ASSERT_TRUE(left > 0); /* else somebody waits for ever */
	if (left <= 0) {
		printf("seed %u: does not come to an end\n", seed);
		exit(EXIT_FAILURE);
	}
	check_empty(s);
}

static void test_schedules(void)
{
	int excuses = 0, waits = 0, busy = 0, writes = 0;
	struct sim *s = malloc(sizeof(*s));

	for (unsigned seed = 1; seed <= 5000; seed++) {
		memset(s, 0, sizeof(*s));
		run(seed, s);
		excuses += s->excuses;
		waits += s->waits;
		busy += s->busy;
		writes += s->granted_writes;
	}
	free(s);
	/* the schedules reach every corner */
	CU_ASSERT_TRUE(excuses > 100 && waits > 1000 && busy > 1000 && writes > 100);
}

/* ---- single rules ------------------------------------------------------------------------------------------ */

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
	CU_add_test(s, "random schedules: no stale read, no wait without end", test_schedules);
	CU_add_test(s, "two creators in one directory", test_two_creators);
	CU_add_test(s, "no caching while write-shared", test_write_sharing);
	CU_add_test(s, "a look takes WRITE back, nothing else", test_downgrade);
	CU_add_test(s, "who does not acknowledge is found and given up", test_overdue);
	CU_basic_run_tests();
	failed = CU_get_number_of_failures();
	CU_cleanup_registry();
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
