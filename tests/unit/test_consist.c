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
	CU_add_test(s, "random schedules: no stale read, no wait without end", test_schedules);
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
