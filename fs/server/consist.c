/* SPDX-License-Identifier: Apache-2.0 */
/* Decisions about leases; see consist.h for the rules. Pure: no I/O, no clock, no locking. */
#include <stdlib.h>
#include <string.h>
#include "fs/server/consist_int.h"

void consist_init(struct consist *c)
{
	memset(c, 0, sizeof(*c));
	list_init(&c->gathering);
}

void cs_op_init(struct cs_op *op, uint64_t client)
{
	memset(op, 0, sizeof(*op));
	op->client = client;
	op->need = op->few;
	list_init(&op->link);
	list_init(&op->in_client);
}

/* ---- conflicts ------------------------------------------------------------------------------------------ */

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
	const struct holder *mine = cs_holder_find(n->object, n->op->client);
	struct cs_need *other;

	if (n->settle_all)
		list_each(other, &n->object->needs, in_object)
			if (other->op->lingers)
				return true;
	if (!n->settle || (mine && (mine->recalled & CS_DATA)))
		return false;
	list_each(other, &n->object->needs, in_object)
		if (other->op->client != n->op->client && other->change && (other->breaks & CS_DATA))
			return true;
	return false;
}

static bool need_blocked(const struct cs_need *n)
{
	uint32_t bits = cs_need_bits(n);
	struct holder *h;
	struct owed *w;

	if (n->hope && n->op->again)
		return false;
	if (n->early)
		return false;
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

/* Begins with what blocked it last, so that one of thousands of needs which is met costs little. */
static bool op_blocked(struct cs_op *op)
{
	for (int k = 0; k < op->nneeds; k++) {
		int i = (op->blocked_at + k) % op->nneeds;

		if (need_blocked(&op->need[i])) {
			op->blocked_at = i;
			return true;
		}
	}
	return false;
}

static int need_recall(struct consist *c, struct cs_need *n, uint64_t now, struct cs_out *out)
{
	struct holder *h;

	if (n->hope && n->op->again)
		return 0;
	list_each(h, &n->object->holders, in_object) {
		uint32_t hit = h->bits & cs_need_bits(n) & ~h->recalled;
		bool names = cs_need_named(n) && (h->bits & CS_NAMES) && !n->asked;

		if (h->client->id != n->op->client && (hit || names) && cs_recall(c, h, hit, names ? n : NULL, now, out) < 0)
			return -1;
	}
	n->asked = true;
	return 0;
}

void cs_object_wake(struct cs_object *o, struct cs_out *out)
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
	for (int i = 0; i < op->nneeds; i++) {
		struct cs_need *need = &op->need[i];

		list_del(&need->in_object); /* a second need of the same object keeps it until its turn */
		while (list_pop(&need->owed))
			; /* the answers will still come, to nobody */
		if (need->object->applying == op)
			need->object->applying = NULL;
		if (out)
			cs_object_wake(need->object, out);
		cs_object_put(c, need->object);
	}
	op->nneeds = 0;
	if (op->need != op->few)
		free(op->need);
	op->need = op->few;
	list_del(&op->in_client);
}

/* Ends the application, not the operation. */
static void op_release(struct cs_op *op, struct cs_out *out)
{
	for (int i = 0; i < op->nneeds; i++)
		if (op->need[i].object->applying == op) {
			op->need[i].object->applying = NULL;
			cs_object_wake(op->need[i].object, out);
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

		if (!need->asked || !need->name || n == CS_NEEDS_FEW)
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
	struct cs_client *cl = cs_client_get(c, op->client);

	if (!cl)
		return -1;
	if (n > CS_NEEDS_FEW) {
		op->need = calloc((size_t)n, sizeof(*op->need));
		if (!op->need) {
			op->need = op->few;
			return -1;
		}
	}
	op->blocked_at = 0;
	list_add_tail(&cl->ops, &op->in_client);
	for (int i = 0; i < n; i++) {
		struct cs_need *to = &op->need[i];

		*to = need[i];
		to->op = op;
		to->asked = false;
		list_init(&to->owed);
		to->object = cs_object_get(c, to->key);
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
		const struct cs_object *o = need[i].change || need[i].calm ? cs_object_find(c, need[i].key) : NULL;

		if (o && o->applying && o->applying != op)
			return true;
	}
	return false;
}

/* An operation that only looks, at what nobody has changed unseen, needs no entry at all. */
static bool needs_free(const struct consist *c, const struct cs_op *op, const struct cs_need *need, int n)
{
	for (int i = 0; i < n; i++)
		if (need[i].change || (need[i].breaks & ~(uint32_t)CS_WRITE) || ((need[i].settle || need[i].settle_all) && cs_object_find(c, need[i].key)) ||
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
	struct kept kept[CS_NEEDS_FEW];
	int nkept;

	if (needs_busy(c, op, need, n)) {
		op_release(op, out); /* all or none: it must not hold what it had while it waits for the rest */
		op->state = CS_OP_RUNNABLE; /* what it has asked for stays asked */
		return CS_BUSY;
	}
	nkept = op_keep(op, kept);
	op_unregister(c, op, op->state == CS_OP_APPLYING ? out : NULL); /* as if it had ended and another came */
	list_del(&op->link);
	op->state = CS_OP_NEW;
	if (needs_free(c, op, need, n)) {
		op->state = CS_OP_APPLYING;
		return CS_GO;
	}
	cs_recall_begin(c);
	op->again = op->waited;
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
		for (int i = 0; i < n; i++)
			op->waited = op->waited || need[i].hope;
		for (int i = 0; i < n; i++) /* rule 5: who waited for us need not now */
			cs_object_wake(op->need[i].object, out);
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

/* Another one of the same client on all of its objects. */
static bool op_covered(const struct cs_op *op)
{
	struct cs_need *other;

	for (int i = 0; i < op->nneeds; i++) {
		bool found = false;

		list_each(other, &op->need[i].object->needs, in_object)
			found = found || (other->op != op && other->op->lingers && other->op->client == op->client && op_blocked(other->op));
		if (!found)
			return false;
	}
	return true;
}

enum cs_after consist_linger(struct cs_op *op, struct cs_out *out)
{
	for (int i = 0; i < op->nneeds; i++)
		op->need[i].early = false;
	if (op->state != CS_OP_APPLYING || !op_blocked(op))
		return CS_SETTLED;
	if (op_covered(op))
		return CS_COVERED;
	op->state = CS_OP_WAITING;
	op->lingers = true;
	op_release(op, out);
	return CS_LINGERS;
}

void consist_end(struct consist *c, struct cs_op *op, struct cs_out *out)
{
	op->state = CS_OP_NEW;
	op->lingers = false;
	op_unregister(c, op, out);
	list_del(&op->link);
	op->state = CS_OP_NEW;
}

/* ---- the end of clients ------------------------------------------------------------------------------------- */

void consist_client_gone(struct consist *c, uint64_t client, struct cs_out *out)
{
	struct cs_client *cl = cs_client_find(c, client);
	struct list *l;

	if (!cl)
		return;
	while (!list_empty(&cl->events))
		cs_asked_free(c, list_entry(cl->events.next, struct asked, in_client));
	list_del(&cl->in_gathering);
	while (!list_empty(&cl->ops)) {
		struct cs_op *op = list_entry(cl->ops.next, struct cs_op, in_client);

		if (op->state == CS_OP_WAITING && !op->lingers) { /* what lingers ends with the last acknowledgement, as ever */
			op->state = CS_OP_RUNNABLE;
			list_add_tail(&out->runnable, &op->link);
		}
		list_del(&op->in_client); /* its needs stay until it ends */
	}
	while ((l = cl->holders.next) != &cl->holders) {
		struct holder *h = list_entry(l, struct holder, in_client);
		struct cs_object *o = h->object;

		cs_holder_set_bits(c, h, 0);
		h->recalled = 0;
		h->readers = h->writers = 0;
		cs_object_wake(o, out);
		cs_holder_put(c, h);
	}
	hash_take_u64(&c->clients, client);
	free(cl);
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
