/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What was asked back and was not given yet; see consist.h, consist_int.h. What one operation asks of one client goes as one event, for as long as it fits into a
 * message. Pure: no I/O, no clock, no locking.
 */
#include <stdlib.h>
#include <string.h>
#include "fs/server/consist_int.h"

#define EVENT_BYTES 60000u /* of a message of at most 64 KiB */
#define RECALL_ROOM 48u	   /* of its numbers */

void cs_recall_begin(struct consist *c)
{
	struct cs_client *cl;

	while (!list_empty(&c->gathering)) {
		cl = list_entry(list_pop(&c->gathering), struct cs_client, in_gathering);
		cl->open = NULL;
	}
}

/* The event that a recall of so many bytes goes with. A client that cannot always acknowledge at once gets each by itself: one that has to wait must not hold up the others. */
static struct asked *asked_get(struct consist *c, struct cs_client *cl, size_t bytes, uint64_t now)
{
	struct asked *a = cl->open;

	if (a && cl->ack_now && a->bytes + bytes <= EVENT_BYTES)
		return a;
	a = calloc(1, sizeof(*a));
	if (!a)
		return NULL;
	a->id = c->next_recall + 1;
	a->sent_at = now;
	a->client = cl;
	list_init(&a->owed);
	if (hash_set_u64(&c->recalls, a->id, a, NULL) < 0) {
		free(a);
		return NULL;
	}
	c->next_recall++;
	list_add_tail(&cl->events, &a->in_client);
	cl->open = a;
	cl->last = NULL;
	list_del(&cl->in_gathering);
	list_add(&c->gathering, &cl->in_gathering);
	return a;
}

static void recall_fill(struct cs_recall *r, const struct holder *h, uint32_t bits, const struct cs_need *named)
{
	r->client = h->client->id;
	r->bits = bits;
	if (named) {
		r->bits |= CS_NAMES;
		strncpy(r->name, named->name, sizeof(r->name) - 1);
	}
	r->handle_len = h->object->handle_len;
	memcpy(r->handle, h->object->handle, r->handle_len);
}

int cs_recall(struct consist *c, struct holder *h, uint32_t bits, struct cs_need *named, uint64_t now, struct cs_out *out)
{
	struct owed *w = calloc(1, sizeof(*w));
	struct cs_recall *r = calloc(1, sizeof(*r));
	struct cs_client *cl = h->client;
	struct asked *a = NULL;

	if (w && r) {
		recall_fill(r, h, bits, named);
		a = asked_get(c, cl, RECALL_ROOM + r->handle_len + strlen(r->name), now);
	}
	if (!a) {
		free(w);
		free(r);
		return -1;
	}
	a->bytes += RECALL_ROOM + r->handle_len + strlen(r->name);
	w->holder = h;
	w->bits = bits;
	list_init(&w->in_need);
	list_add_tail(&a->owed, &w->in_event);
	h->recalled |= bits;
	h->nowed++;
	if (named)
		list_add_tail(&named->owed, &w->in_need);
	r->id = a->id;
	r->seq = ++c->seq;
	w->text = *r;
	/* those of one event stand together */
	list_add_tail(cl->last ? cl->last->link.next : &out->recalls, &r->link);
	cl->last = r;
	c->recalls_sent++;
	return 0;
}

/* The answer will come to nobody, or has come. */
static void owed_remove(struct owed *w)
{
	list_del(&w->in_event);
	list_del(&w->in_need);
	w->holder->nowed--;
	free(w);
}

static void asked_unlink(struct consist *c, struct asked *a)
{
	hash_take_u64(&c->recalls, a->id);
	list_del(&a->in_client);
	if (a->client->open == a)
		a->client->open = NULL;
}

void cs_asked_free(struct consist *c, struct asked *a)
{
	asked_unlink(c, a);
	while (!list_empty(&a->owed))
		owed_remove(list_entry(a->owed.next, struct owed, in_event));
	free(a);
}

void consist_ack(struct consist *c, uint64_t client, uint64_t id, struct cs_out *out)
{
	struct asked *a = hash_get_u64(&c->recalls, id);
	struct owed *w;

	if (!a || a->client->id != client)
		return;
	asked_unlink(c, a);
	/* all of it is given up before anybody is woken: who needs many objects is looked at once */
	list_each(w, &a->owed, in_event) {
		cs_holder_set_bits(c, w->holder, w->holder->bits & ~w->bits);
		w->holder->recalled &= ~w->bits;
		list_del(&w->in_need);
	}
	while (!list_empty(&a->owed)) {
		struct holder *h;

		w = list_entry(a->owed.next, struct owed, in_event);
		h = w->holder;
		owed_remove(w);
		cs_object_wake(h->object, out);
		cs_holder_put(c, h);
	}
	free(a);
}

void consist_overdue(const struct consist *c, uint64_t since, void (*fn)(void *arg, uint64_t client), void *arg)
{
	struct hash_iter it = {0};
	struct cs_client *cl;

	while ((cl = hash_next(&c->clients, &it)))
		if (!list_empty(&cl->events) && list_entry(cl->events.next, struct asked, in_client)->sent_at < since)
			fn(arg, cl->id);
}

bool consist_owes(const struct consist *c, uint64_t client)
{
	const struct cs_client *cl = cs_client_find(c, client);

	return cl && !list_empty(&cl->events);
}

void consist_repeat(struct consist *c, uint64_t client, uint64_t now, struct cs_out *out)
{
	const struct cs_client *cl = cs_client_find(c, client);
	struct asked *a;
	struct owed *w;

	if (!cl)
		return;
	list_each(a, &cl->events, in_client) {
		if (!a->repeated)
			a->sent_at = now;
		a->repeated = true;
		list_each(w, &a->owed, in_event) {
			struct cs_recall *r = malloc(sizeof(*r));

			if (!r)
				return;
			*r = w->text;
			list_add_tail(&out->recalls, &r->link);
		}
	}
}
