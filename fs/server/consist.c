/* SPDX-License-Identifier: Apache-2.0 */
/* Decisions about leases; see consist.h for the rules. Pure: no I/O, no clock, no locking. */
#include "fs/server/consist.h"
#include <stdlib.h>
#include <string.h>

struct cs_client {
	uint64_t id;
	bool ack_now;
	size_t nholders;
	struct list holders; /* struct holder by in_client */
	struct list ops;     /* struct cs_op by in_client, those that began */
	struct list owed;    /* struct owed by in_client, oldest first */
};

/* What one client has of one object: leases, and opens. */
struct holder {
	struct list in_object, in_client;
	struct cs_object *object;
	struct cs_client *client;
	uint32_t bits, recalled;
	unsigned nowed; /* recalls without an answer, named ones too */
	unsigned readers, writers;
};

struct cs_object {
	struct cs_key key;
	struct list holders;
	struct list needs; /* of operations that wait, are runnable or are applied */
	struct cs_op *applying;
	size_t handle_len;
	unsigned char handle[CS_HANDLE_MAX];
};

/* A recall that was sent and not acknowledged. */
struct owed {
	struct list in_client;
	struct list in_need;
	uint64_t id, sent_at;
	struct holder *holder;
	uint32_t bits; /* that go with the answer; not NAMES */
	struct cs_recall text; /* to be sent again when the client's stream was broken */
};

void consist_init(struct consist *c)
{
	memset(c, 0, sizeof(*c));
}

void cs_op_init(struct cs_op *op, uint64_t client)
{
	memset(op, 0, sizeof(*op));
	op->client = client;
	list_init(&op->link);
	list_init(&op->in_client);
}

/* ---- objects, holders, clients ------------------------------------------------------------------------- */

static struct cs_object *object_find(const struct consist *c, struct cs_key key)
{
	return hash_get(&c->objects, &key, sizeof(key));
}

static struct cs_object *object_get(struct consist *c, struct cs_key key)
{
	struct cs_object *o = object_find(c, key);

	if (o)
		return o;
	o = calloc(1, sizeof(*o));
	if (!o)
		return NULL;
	o->key = key;
	list_init(&o->holders);
	list_init(&o->needs);
	if (hash_set(&c->objects, &key, sizeof(key), o, NULL) < 0) {
		free(o);
		return NULL;
	}
	return o;
}

static void object_put(struct consist *c, struct cs_object *o)
{
	if (o->applying || !list_empty(&o->holders) || !list_empty(&o->needs))
		return;
	hash_take(&c->objects, &o->key, sizeof(o->key));
	free(o);
}

static struct cs_client *client_find(const struct consist *c, uint64_t id)
{
	return hash_get_u64(&c->clients, id);
}

static struct cs_client *client_get(struct consist *c, uint64_t id)
{
	struct cs_client *cl = client_find(c, id);

	if (cl)
		return cl;
	cl = calloc(1, sizeof(*cl));
	if (!cl)
		return NULL;
	cl->id = id;
	list_init(&cl->holders);
	list_init(&cl->ops);
	list_init(&cl->owed);
	if (hash_set_u64(&c->clients, id, cl, NULL) < 0) {
		free(cl);
		return NULL;
	}
	return cl;
}

int consist_client_add(struct consist *c, uint64_t client, bool ack_now)
{
	struct cs_client *cl = client_get(c, client);

	if (!cl)
		return -1;
	cl->ack_now = ack_now;
	return 0;
}

static struct holder *holder_find(const struct cs_object *o, uint64_t client)
{
	struct holder *h;

	list_each(h, &o->holders, in_object)
		if (h->client->id == client)
			return h;
	return NULL;
}

static struct holder *holder_get(struct consist *c, struct cs_object *o, uint64_t client)
{
	struct holder *h = holder_find(o, client);
	struct cs_client *cl;

	if (h)
		return h;
	cl = client_get(c, client);
	h = cl ? calloc(1, sizeof(*h)) : NULL;
	if (!h)
		return NULL;
	h->object = o;
	h->client = cl;
	cl->nholders++;
	list_add_tail(&o->holders, &h->in_object);
	list_add_tail(&cl->holders, &h->in_client);
	return h;
}

static void holder_set_bits(struct consist *c, struct holder *h, uint32_t bits)
{
	c->nleases += (bits != 0) - (h->bits != 0);
	h->bits = bits;
}

/* Frees the holder when nothing is left of it; not before every answer has come. */
static void holder_put(struct consist *c, struct holder *h)
{
	if (h->bits || h->nowed || h->readers || h->writers)
		return;
	list_del(&h->in_object);
	list_del(&h->in_client);
	h->client->nholders--;
	object_put(c, h->object);
	free(h);
}

/* ---- conflicts ------------------------------------------------------------------------------------------ */

/* Whoever loses ATTR or DATA loses WRITE, which implies both. */
static uint32_t closure(uint32_t breaks)
{
	return breaks & (CS_ATTR | CS_DATA) ? breaks | CS_WRITE : breaks;
}

/* Rule 5: the client's own change waits on this directory, and its kernel cannot give the names up before that was answered. */
static bool holder_is_tied(const struct holder *h, const struct cs_need *n)
{
	struct cs_need *other;

	if (!(n->breaks & CS_NAMES) || h->client->ack_now)
		return false;
	list_each(other, &h->object->needs, in_object)
		if (other->op != n->op && other->op->client == h->client->id && other->change && other->op->state == CS_OP_WAITING)
			return true;
	return false;
}

/* Rule 6: is a change of the contents on its way that the client of `n` has given way to, or never stood in the way of? */
static bool need_unsettled(const struct cs_need *n)
{
	const struct holder *mine = holder_find(n->object, n->op->client);
	struct cs_need *other;

	if (!n->settle || (mine && (mine->recalled & CS_DATA)))
		return false;
	list_each(other, &n->object->needs, in_object)
		if (other->op->client != n->op->client && (other->breaks & CS_DATA))
			return true;
	return false;
}

static bool need_blocked(const struct cs_need *n)
{
	uint32_t bits = closure(n->breaks & ~(uint32_t)CS_NAMES);
	struct holder *h;
	struct owed *w;

	if (need_unsettled(n))
		return true;
	list_each(h, &n->object->holders, in_object)
		if (h->client->id != n->op->client && (h->bits & bits) && !holder_is_tied(h, n))
			return true;
	list_each(w, &n->owed, in_need)
		if (!holder_is_tied(w->holder, n))
			return true;
	return false;
}

static bool op_blocked(const struct cs_op *op)
{
	for (int i = 0; i < op->nneeds; i++)
		if (need_blocked(&op->need[i]))
			return true;
	return false;
}

/* Asks `h` for `bits`, and with `named` to forget that name too. */
static int recall(struct consist *c, struct holder *h, uint32_t bits, struct cs_need *named, uint64_t now, struct cs_out *out)
{
	struct owed *w = calloc(1, sizeof(*w));
	struct cs_recall *r = calloc(1, sizeof(*r));

	if (!w || !r || hash_set_u64(&c->recalls, c->next_recall + 1, w, NULL) < 0) {
		free(w);
		free(r);
		return -1;
	}
	w->id = r->id = ++c->next_recall;
	w->sent_at = now;
	w->holder = h;
	w->bits = bits;
	list_init(&w->in_need);
	list_add_tail(&h->client->owed, &w->in_client);
	h->recalled |= bits;
	h->nowed++;
	r->client = h->client->id;
	r->bits = bits;
	if (named) {
		list_add_tail(&named->owed, &w->in_need);
		r->bits |= CS_NAMES;
		strncpy(r->name, named->name ? named->name : "", sizeof(r->name) - 1);
	}
	r->seq = ++c->seq;
	r->handle_len = h->object->handle_len;
	memcpy(r->handle, h->object->handle, r->handle_len);
	w->text = *r;
	list_add_tail(&out->recalls, &r->link);
	c->recalls_sent++;
	return 0;
}

static int need_recall(struct consist *c, struct cs_need *n, uint64_t now, struct cs_out *out)
{
	struct holder *h;

	list_each(h, &n->object->holders, in_object) {
		uint32_t hit = h->bits & closure(n->breaks & ~(uint32_t)CS_NAMES) & ~h->recalled;
		bool names = (n->breaks & h->bits & CS_NAMES) && !n->asked;

		if (h->client->id != n->op->client && (hit || names) && recall(c, h, hit, names ? n : NULL, now, out) < 0)
			return -1;
	}
	n->asked = true;
	return 0;
}

/* Operations on the object that nothing holds up any more. */
static void object_wake(struct cs_object *o, struct cs_out *out)
{
	struct cs_need *n;

	list_each(n, &o->needs, in_object)
		if (n->op->state == CS_OP_WAITING && !op_blocked(n->op)) {
			n->op->state = CS_OP_RUNNABLE;
			list_add_tail(&out->runnable, &n->op->link);
		}
}

/* ---- operations ----------------------------------------------------------------------------------------- */

/* `out` not NULL: wakes those who waited for the end of this change (rule 6). */
static void op_unregister(struct consist *c, struct cs_op *op, struct cs_out *out)
{
	struct cs_object *o[CS_NEEDS_MAX];
	int n = op->nneeds;

	for (int i = 0; i < n; i++) {
		struct cs_need *need = &op->need[i];

		o[i] = need->object;
		list_del(&need->in_object);
		while (list_pop(&need->owed))
			; /* the answers will still come, to nobody */
		if (o[i]->applying == op)
			o[i]->applying = NULL;
	}
	op->nneeds = 0;
	list_del(&op->in_client);
	for (int i = 0; i < n; i++) {
		bool seen = false;

		for (int k = 0; k < i; k++) /* two needs may be of one object */
			seen = seen || o[k] == o[i];
		if (seen)
			continue;
		if (out)
			object_wake(o[i], out);
		object_put(c, o[i]);
	}
}

/* Ends the application, not the operation. */
static void op_release(struct cs_op *op, struct cs_out *out)
{
	for (int i = 0; i < op->nneeds; i++)
		if (op->need[i].object->applying == op) {
			op->need[i].object->applying = NULL;
			object_wake(op->need[i].object, out);
		}
}

/* What was asked for a name stays asked when the operation begins again: nobody was granted the name since (rule 3). */
struct kept {
	struct cs_key key;
	char name[256];
	struct list owed;
};

static int op_keep(struct cs_op *op, struct kept *kept)
{
	int n = 0;

	for (int i = 0; i < op->nneeds; i++) {
		struct cs_need *need = &op->need[i];
		struct kept *k = &kept[n];

		if (!need->asked || !need->name)
			continue;
		k->key = need->key;
		strncpy(k->name, need->name, sizeof(k->name) - 1);
		k->name[sizeof(k->name) - 1] = 0;
		list_init(&k->owed);
		list_splice_tail(&k->owed, &need->owed);
		n++;
	}
	return n;
}

static void need_resume(struct cs_need *need, struct kept *kept, int n)
{
	for (int i = 0; i < n && need->name; i++)
		if (!memcmp(&kept[i].key, &need->key, sizeof(need->key)) && !strcmp(kept[i].name, need->name)) {
			need->asked = true;
			list_splice_tail(&need->owed, &kept[i].owed);
		}
}

static int op_register(struct consist *c, struct cs_op *op, const struct cs_need *need, int n, struct kept *kept, int nkept)
{
	struct cs_client *cl = client_get(c, op->client);

	if (!cl)
		return -1;
	list_add_tail(&cl->ops, &op->in_client);
	for (int i = 0; i < n; i++) {
		struct cs_need *to = &op->need[i];

		*to = need[i];
		to->op = op;
		to->asked = false;
		list_init(&to->owed);
		to->object = object_get(c, to->key);
		if (!to->object)
			return -1;
		list_add_tail(&to->object->needs, &to->in_object);
		op->nneeds = i + 1;
		need_resume(to, kept, nkept);
	}
	return 0;
}

static bool needs_busy(const struct consist *c, const struct cs_op *op, const struct cs_need *need, int n)
{
	for (int i = 0; i < n; i++) {
		const struct cs_object *o = need[i].change ? object_find(c, need[i].key) : NULL;

		if (o && o->applying && o->applying != op)
			return true;
	}
	return false;
}

/* An operation that only looks, at what nobody has changed unseen, needs no entry at all. */
static bool needs_free(const struct consist *c, const struct cs_op *op, const struct cs_need *need, int n)
{
	for (int i = 0; i < n; i++)
		if (need[i].change || (need[i].breaks & ~(uint32_t)CS_WRITE) || (need[i].settle && object_find(c, need[i].key)) ||
			consist_hidden(c, op->client, need[i].key))
			return false;
	return true;
}

/* Who makes a name knows it from then on: others that want to change the same name must ask (that client) anew. */
static void need_outdates(const struct cs_need *n)
{
	struct cs_need *other;

	if (!(n->breaks & CS_NAMES) || !n->name)
		return;
	list_each(other, &n->object->needs, in_object)
		if (other->op != n->op && other->name && !strcmp(other->name, n->name))
			other->asked = false;
}

enum cs_verdict consist_begin(struct consist *c, struct cs_op *op, const struct cs_need *need, int n, uint64_t now, struct cs_out *out)
{
	struct kept kept[CS_NEEDS_MAX];
	int nkept;

	if (needs_busy(c, op, need, n)) {
		op_release(op, out); /* all or none: it must not hold what it had while it waits for the rest */
		op->state = CS_OP_RUNNABLE; /* what it has asked for stays asked */
		return CS_BUSY;
	}
	nkept = op_keep(op, kept);
	op_unregister(c, op, NULL);
	list_del(&op->link);
	op->state = CS_OP_NEW;
	if (needs_free(c, op, need, n)) {
		op->state = CS_OP_APPLYING;
		return CS_GO;
	}
	if (op_register(c, op, need, n, kept, nkept) < 0) {
		op_unregister(c, op, out);
		return CS_NOMEM;
	}
	for (int i = 0; i < n; i++)
		if (need_recall(c, &op->need[i], now, out) < 0) {
			op_unregister(c, op, out);
			return CS_NOMEM;
		}
	if (op_blocked(op)) {
		op->state = CS_OP_WAITING;
		for (int i = 0; i < n; i++) /* rule 5: who waited for us need not now */
			object_wake(op->need[i].object, out);
		return CS_WAIT;
	}
	for (int i = 0; i < n; i++)
		if (op->need[i].change) {
			op->need[i].object->applying = op;
			need_outdates(&op->need[i]);
		}
	op->state = CS_OP_APPLYING;
	return CS_GO;
}

void consist_end(struct consist *c, struct cs_op *op, struct cs_out *out)
{
	op->state = CS_OP_NEW;
	op_unregister(c, op, out);
	list_del(&op->link);
	op->state = CS_OP_NEW;
}

/* ---- grants and opens ------------------------------------------------------------------------------------ */

static uint32_t grant_allowed(const struct cs_object *o, uint64_t client, uint32_t bits, bool shared_ok)
{
	struct cs_need *n;
	struct holder *h;

	list_each(n, &o->needs, in_object)
		if (n->op->client != client)
			bits &= ~closure(n->breaks); /* rule 3 */
	list_each(h, &o->holders, in_object) {
		if (h->client->id == client) {
			bits &= ~closure(h->recalled);
			continue;
		}
		if ((h->bits & CS_WRITE) || (h->writers && !shared_ok))
			bits &= ~(uint32_t)(CS_ATTR | CS_DATA | CS_WRITE); /* write-sharing: no caching for as long as it lasts */
		else if (h->writers)
			bits &= ~(uint32_t)(CS_ATTR | CS_WRITE);
		if (h->bits || h->readers)
			bits &= ~(uint32_t)CS_WRITE;
	}
	if (!(bits & CS_ATTR) || !(bits & (CS_DATA | CS_NAMES)))
		bits &= ~(uint32_t)CS_WRITE;
	return bits;
}

uint32_t consist_grant(struct consist *c, uint64_t client, struct cs_key key, const void *handle, size_t handle_len, uint32_t bits,
	bool shared_ok, uint64_t *seq)
{
	struct cs_client *cl = client_find(c, client);
	struct cs_object *o;
	struct holder *h;

	if (!cl || cl->nholders >= CS_CLIENT_MAX || handle_len > CS_HANDLE_MAX)
		return 0;
	o = object_get(c, key);
	if (!o)
		return 0;
	bits = grant_allowed(o, client, bits, shared_ok);
	h = bits ? holder_get(c, o, client) : NULL;
	if (!h) {
		object_put(c, o);
		return 0;
	}
	o->handle_len = handle_len;
	memcpy(o->handle, handle, handle_len);
	holder_set_bits(c, h, h->bits | bits);
	*seq = ++c->seq;
	return bits;
}

int consist_open(struct consist *c, uint64_t client, struct cs_key key, bool write)
{
	struct cs_object *o = object_get(c, key);
	struct holder *h = o ? holder_get(c, o, client) : NULL;

	if (!h) {
		if (o)
			object_put(c, o);
		return -1;
	}
	if (write)
		h->writers++;
	else
		h->readers++;
	return 0;
}

void consist_close(struct consist *c, uint64_t client, struct cs_key key, bool write)
{
	struct cs_object *o = object_find(c, key);
	struct holder *h = o ? holder_find(o, client) : NULL;

	if (!h)
		return;
	if (write && h->writers)
		h->writers--;
	else if (!write && h->readers)
		h->readers--;
	holder_put(c, h);
}

bool consist_hidden(const struct consist *c, uint64_t client, struct cs_key key)
{
	const struct cs_object *o = object_find(c, key);
	struct holder *h;

	if (!o)
		return false;
	list_each(h, &o->holders, in_object)
		if (h->client->id != client && (h->bits & CS_WRITE))
			return true;
	return false;
}

bool consist_shared_write(const struct consist *c, uint64_t client, struct cs_key key)
{
	const struct cs_object *o = object_find(c, key);
	bool writers = false, mine = false, others = false;
	struct holder *h;

	if (!o)
		return false;
	list_each(h, &o->holders, in_object) {
		if (!h->readers && !h->writers)
			continue;
		writers = writers || h->writers;
		mine = mine || h->client->id == client;
		others = others || h->client->id != client;
	}
	return writers && mine && others;
}

/* ---- acknowledgements and the end of clients --------------------------------------------------------------- */

static void owed_remove(struct consist *c, struct owed *w)
{
	hash_take_u64(&c->recalls, w->id);
	list_del(&w->in_client);
	list_del(&w->in_need);
	w->holder->nowed--;
	free(w);
}

void consist_ack(struct consist *c, uint64_t client, uint64_t id, struct cs_out *out)
{
	struct owed *w = hash_get_u64(&c->recalls, id);
	struct holder *h;
	struct cs_object *o;

	if (!w || w->holder->client->id != client)
		return;
	h = w->holder;
	o = h->object;
	holder_set_bits(c, h, h->bits & ~w->bits);
	h->recalled &= ~w->bits;
	owed_remove(c, w);
	object_wake(o, out);
	holder_put(c, h);
}

void consist_client_gone(struct consist *c, uint64_t client, struct cs_out *out)
{
	struct cs_client *cl = client_find(c, client);
	struct list *l;

	if (!cl)
		return;
	while (!list_empty(&cl->owed))
		owed_remove(c, list_entry(cl->owed.next, struct owed, in_client));
	while (!list_empty(&cl->ops)) {
		struct cs_op *op = list_entry(cl->ops.next, struct cs_op, in_client);

		if (op->state == CS_OP_WAITING) {
			op->state = CS_OP_RUNNABLE;
			list_add_tail(&out->runnable, &op->link);
		}
		list_del(&op->in_client); /* its needs stay until it ends */
	}
	while ((l = cl->holders.next) != &cl->holders) {
		struct holder *h = list_entry(l, struct holder, in_client);
		struct cs_object *o = h->object;

		holder_set_bits(c, h, 0);
		h->recalled = 0;
		h->readers = h->writers = 0;
		object_wake(o, out);
		holder_put(c, h);
	}
	hash_take_u64(&c->clients, client);
	free(cl);
}

void consist_overdue(const struct consist *c, uint64_t since, void (*fn)(void *arg, uint64_t client), void *arg)
{
	struct hash_iter it = {0};
	struct cs_client *cl;

	while ((cl = hash_next(&c->clients, &it)))
		if (!list_empty(&cl->owed) && list_entry(cl->owed.next, struct owed, in_client)->sent_at < since)
			fn(arg, cl->id);
}

bool consist_owes(const struct consist *c, uint64_t client)
{
	const struct cs_client *cl = client_find(c, client);

	return cl && !list_empty(&cl->owed);
}

size_t consist_client_leases(const struct consist *c, uint64_t client)
{
	const struct cs_client *cl = client_find(c, client);

	return cl ? cl->nholders : 0;
}

void consist_clear(struct consist *c)
{
	struct cs_out out = CS_OUT_INIT(out);

	for (;;) {
		struct hash_iter it = {0};
		struct cs_client *cl = hash_next(&c->clients, &it);

		if (!cl)
			break;
		consist_client_gone(c, cl->id, &out);
	}
	hash_clear(&c->objects, free);
	hash_clear(&c->clients, free);
	hash_clear(&c->recalls, free);
}

void consist_repeat(const struct consist *c, uint64_t client, struct cs_out *out)
{
	const struct cs_client *cl = client_find(c, client);
	struct owed *w;

	if (!cl)
		return;
	list_each(w, &cl->owed, in_client) {
		struct cs_recall *r = malloc(sizeof(*r));

		if (!r)
			return;
		*r = w->text;
		list_add_tail(&out->recalls, &r->link);
	}
}
