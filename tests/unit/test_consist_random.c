// SPDX-License-Identifier: Apache-2.0
/*
 * Leases under thousands of random schedules. Simulated clients cache what they were granted; replies, recalls and acknowledgements travel in any order; a
 * client whose kernel holds a directory for an own change acknowledges only after that change was answered. Some take many objects at once, for themselves alone
 * or to look at them. What a client reads from its cache must be the latest version (invariant 1), who was granted WRITE is alone, an event is acknowledged when all
 * of it was given up, everything must come to an end, and a flush of the holder of WRITE is never made to wait (invariant 4).
 */
#include <CUnit/Basic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "fs/server/consist.h"

#define CLIENTS 4
#define DIRS	2
#define OBJECTS 6 /* the first DIRS are directories */
#define OPS	40
#define ASPECTS 4  /* attributes; contents, or three names of a directory */

static const uint32_t aspect_bits[ASPECTS] = {CS_ATTR, CS_DATA | CS_NAMES, CS_NAMES, CS_NAMES};

enum kind { READ, CHANGE, TAKE }; /* TAKE: leases on many objects, others are asked for all of them at once */
enum stage { UNUSED, START, WAITING, APPLYING, REPLY }; /* REPLY: on its way to the client */

struct sim_op {
	struct cs_op cs;
	enum stage stage;
	enum kind kind;
	int client, n, object[OBJECTS];
	int name[OBJECTS]; /* directories: which of the aspects 1..3; 0: all */
	uint32_t breaks[OBJECTS];
	bool alone, hoped;
	uint32_t granted[OBJECTS];
	uint64_t seq[OBJECTS];
	int version[OBJECTS][ASPECTS];
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
	int steps, excuses, waits, busy, granted_writes, taken, shared_events;
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
	uint64_t last = 0;
	struct list *l;

	while ((l = list_pop(&out->recalls))) {
		struct cs_recall *r = list_entry(l, struct cs_recall, link);

		if (r->id == last) { /* of one event: only for who can acknowledge at any time */
			CU_ASSERT_TRUE(s->ack_now[r->client - 100]);
			s->shared_events++;
		}
		for (size_t i = 0; i < 512; i++) {
			CU_ASSERT_TRUE(r->id == last || !s->msg[i].used || s->msg[i].id != r->id); /* together */
			if (!s->msg[i].used) {
				s->msg[i] = (struct message){true, false, (int)(r->client - 100), r->handle[0],
					r->name[0] ? r->name[0] - '0' : 0, r->id, r->seq, (uint32_t)r->bits};
				break;
			}
		}
		last = r->id;
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
	return a == 0 || (is_dir(object) ? a == name || name == 0 : a == 1);
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

/* The excuse ends when the recalls that the change did not wait for are done: until then a reply of before it may still come. */
static void excuse_check(struct sim *s, int client, int object)
{
	struct cache *ca = &s->cache[client][object];
	bool owes = false;

	for (int i = 0; i < 512; i++)
		owes = owes || (s->msg[i].used && !s->msg[i].done && s->msg[i].client == client && s->msg[i].object == object);
	ca->excused = ca->excused && (owes || is_stale(s, ca, object));
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

static uint32_t want_of(int object, bool alone)
{
	return (is_dir(object) ? CS_ATTR | CS_NAMES : CS_ATTR | CS_DATA) | (alone ? CS_WRITE : 0);
}

/* Rule 2: the grant comes before the look. */
static void op_grant(struct sim *s, struct sim_op *o, int k)
{
	unsigned char handle = (unsigned char)o->object[k];

	o->granted[k] = consist_grant(&s->c, id_of(o->client), key(o->object[k]), &handle, 1, want_of(o->object[k], o->alone), false, &o->seq[k]);
	if (!(o->granted[k] & CS_WRITE))
		return;
	s->granted_writes++;
	s->taken += o->hoped;
	for (int c = 0; c < CLIENTS; c++)
		if (c != o->client && !s->dead[c])
			CU_ASSERT_EQUAL(s->cache[c][o->object[k]].bits, 0);
}

static int op_needs(struct sim *s, struct sim_op *o, struct cs_need *need)
{
	int n = 0;

	for (int k = 0; k < o->n; k++)
		if (o->kind != TAKE) {
			need[n++] = (struct cs_need){.key = key(o->object[k]), .breaks = o->breaks[k], .change = o->kind == CHANGE,
				.settle = o->kind == READ && !is_dir(o->object[k]), .name = names[o->name[k]]};
		} else {
			if (!o->hoped)
				o->breaks[k] = consist_obstacles(&s->c, id_of(o->client), key(o->object[k]), o->alone);
			if (o->breaks[k])
				need[n++] = (struct cs_need){.key = key(o->object[k]), .breaks = o->breaks[k], .hope = true};
		}
	o->hoped = true;
	return n;
}

static void op_begin(struct sim *s, struct sim_op *o)
{
	struct cs_need need[OBJECTS];
	struct cs_out out = CS_OUT_INIT(out);
	bool again = o->kind == TAKE && o->hoped;
	enum cs_verdict v;

	if (s->dead[o->client]) {
		op_finish(s, o, UNUSED);
		return;
	}
	if (o->kind == READ)
		op_grant(s, o, 0);
	v = consist_begin(&s->c, &o->cs, need, op_needs(s, o, need), (uint64_t)s->steps, &out);
	CU_ASSERT_TRUE(o->kind != TAKE || v == CS_GO || !again); /* hopes are waited for once */
	if (v == CS_GO) {
		o->stage = APPLYING;
		if (o->kind == CHANGE)
			op_apply(s, o);
		for (int k = 0; k < o->n && o->kind == TAKE; k++)
			op_grant(s, o, k);
	} else if (v == CS_WAIT) {
		o->stage = WAITING;
		s->waits++;
	} else {
		CU_ASSERT_EQUAL(v, CS_BUSY);
		s->busy++;
	}
	take_out(s, &out);
}

static void take_new(struct sim *s, struct sim_op *o)
{
	o->kind = TAKE;
	o->alone = rnd(s, 2);
	for (int k = 0; k < OBJECTS; k++)
		if (rnd(s, 3))
			o->object[o->n++] = k;
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
	cs_op_init(&o->cs, id_of(o->client));
	if (rnd(s, 5) == 0) {
		take_new(s, o);
		return;
	}
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
}

/* The reply has come: what it grants counts unless a recall has overtaken it. */
static void op_learn(struct sim *s, struct sim_op *o, int k)
{
	struct cache *ca = &s->cache[o->client][o->object[k]];

	if (!o->granted[k] || o->seq[k] <= ca->recall_seq || s->dead[o->client])
		return;
	ca->bits |= o->granted[k];
	know(ca, o->version[k], o->object[k], o->name[k]);
	excuse_check(s, o->client, o->object[k]);
}

static void op_step(struct sim *s, struct sim_op *o)
{
	if (o->stage == START) {
		op_begin(s, o);
	} else if (o->stage == APPLYING) {
		for (int k = 0; k < o->n; k++)
			memcpy(o->version[k], s->version[o->object[k]], sizeof(o->version[k]));
		op_finish(s, o, REPLY);
	} else if (o->stage == REPLY) {
		for (int k = 0; k < o->n && o->kind != CHANGE; k++)
			op_learn(s, o, k);
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
	uint64_t id;
	int client;

	if (s->dead[m->client]) {
		m->used = false;
		return;
	}
	if (!m->done) {
		if (client_is_tied(s, m->client, m->object))
			return; /* the kernel's lock is taken */
		if ((m->bits & CS_WRITE) && (ca->bits & CS_WRITE))
			flush(s, m->client, m->object);
		ca->bits &= ~(m->name ? m->bits & ~(uint32_t)CS_NAMES : m->bits);
		for (int a = 0; a < ASPECTS; a++)
			ca->known[a] = ca->known[a] && (ca->bits & aspect_bits[a]);
		if (m->bits & CS_NAMES)
			ca->known[m->name] = m->name ? false : ca->known[m->name];
		if (m->seq > ca->recall_seq)
			ca->recall_seq = m->seq;
		m->done = true;
		excuse_check(s, m->client, m->object);
		return;
	}
	for (size_t i = 0; i < 512; i++)
		if (s->msg[i].used && s->msg[i].id == m->id && !s->msg[i].done)
			return; /* the event is acknowledged when all of it is done */
	id = m->id;
	client = m->client;
	for (size_t i = 0; i < 512; i++)
		s->msg[i].used = s->msg[i].used && s->msg[i].id != id;
	consist_ack(&s->c, id_of(client), id, &out);
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
	int c = rnd(s, CLIENTS), o = rnd(s, OBJECTS);
	unsigned char handle = (unsigned char)o;
	uint64_t seq;
	uint32_t got;

	if (s->dead[c])
		return;
	got = consist_grant(&s->c, id_of(c), key(o), &handle, 1, want_of(o, true), false, &seq);
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
	int excuses = 0, waits = 0, busy = 0, writes = 0, taken = 0, shared = 0;
	struct sim *s = malloc(sizeof(*s));

	for (unsigned seed = 1; seed <= 5000; seed++) {
		memset(s, 0, sizeof(*s));
		run(seed, s);
		excuses += s->excuses;
		waits += s->waits;
		busy += s->busy;
		writes += s->granted_writes;
		taken += s->taken;
		shared += s->shared_events;
	}
	free(s);
	/* the schedules reach every corner */
	CU_ASSERT_TRUE(excuses > 100 && waits > 1000 && busy > 1000 && writes > 100 && taken > 1000 && shared > 1000);
}

int main(void)
{
	CU_pSuite s;
	unsigned failed;

	CU_initialize_registry();
	s = CU_add_suite("consist, at random", NULL, NULL);
	CU_add_test(s, "random schedules: no stale read, no wait without end", test_schedules);
	CU_basic_run_tests();
	failed = CU_get_number_of_failures();
	CU_cleanup_registry();
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
