/* SPDX-License-Identifier: Apache-2.0 */
/* Who holds what, and who has what open; see consist.h, consist_int.h. Pure: no I/O, no clock, no locking. */
#include <stdlib.h>
#include <string.h>
#include "fs/server/consist_int.h"

/* ---- objects, holders, clients ------------------------------------------------------------------------- */

struct cs_object *cs_object_find(const struct consist *c, struct cs_key key)
{
	return hash_get(&c->objects, &key, sizeof(key));
}

struct cs_object *cs_object_get(struct consist *c, struct cs_key key)
{
	struct cs_object *o = cs_object_find(c, key);

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

void cs_object_put(struct consist *c, struct cs_object *o)
{
	if (o->applying || !list_empty(&o->holders) || !list_empty(&o->needs))
		return;
	hash_take(&c->objects, &o->key, sizeof(o->key));
	free(o);
}

struct cs_client *cs_client_find(const struct consist *c, uint64_t id)
{
	return hash_get_u64(&c->clients, id);
}

struct cs_client *cs_client_get(struct consist *c, uint64_t id)
{
	struct cs_client *cl = cs_client_find(c, id);

	if (cl)
		return cl;
	cl = calloc(1, sizeof(*cl));
	if (!cl)
		return NULL;
	cl->id = id;
	list_init(&cl->holders);
	list_init(&cl->ops);
	list_init(&cl->events);
	list_init(&cl->in_gathering);
	if (hash_set_u64(&c->clients, id, cl, NULL) < 0) {
		free(cl);
		return NULL;
	}
	return cl;
}

int consist_client_add(struct consist *c, uint64_t client, bool ack_now)
{
	struct cs_client *cl = cs_client_get(c, client);

	if (!cl)
		return -1;
	cl->ack_now = ack_now;
	return 0;
}

struct holder *cs_holder_find(const struct cs_object *o, uint64_t client)
{
	struct holder *h;

	list_each(h, &o->holders, in_object)
		if (h->client->id == client)
			return h;
	return NULL;
}

static struct holder *holder_get(struct consist *c, struct cs_object *o, uint64_t client)
{
	struct holder *h = cs_holder_find(o, client);
	struct cs_client *cl;

	if (h)
		return h;
	cl = cs_client_get(c, client);
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

void cs_holder_set_bits(struct consist *c, struct holder *h, uint32_t bits)
{
	c->nleases += (bits != 0) - (h->bits != 0);
	h->bits = bits;
}

/* Frees the holder when nothing is left of it; not before every answer has come. */
void cs_holder_put(struct consist *c, struct holder *h)
{
	if (h->bits || h->nowed || h->readers || h->writers)
		return;
	list_del(&h->in_object);
	list_del(&h->in_client);
	h->client->nholders--;
	cs_object_put(c, h->object);
	free(h);
}

/* ---- grants and opens ------------------------------------------------------------------------------------ */

static uint32_t grant_allowed(const struct cs_object *o, uint64_t client, uint32_t bits, bool shared_ok)
{
	struct cs_need *n;
	struct holder *h;

	list_each(n, &o->needs, in_object)
		if (n->op->client != client)
			bits &= ~cs_closure(n->breaks); /* rule 3 */
	list_each(h, &o->holders, in_object) {
		if (h->client->id == client) {
			bits &= ~cs_closure(h->recalled);
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
	struct cs_client *cl = cs_client_find(c, client);
	struct cs_object *o;
	struct holder *h;

	if (!cl || cl->nholders >= CS_CLIENT_MAX || handle_len > CS_HANDLE_MAX)
		return 0;
	o = cs_object_get(c, key);
	if (!o)
		return 0;
	bits = grant_allowed(o, client, bits, shared_ok);
	h = bits ? holder_get(c, o, client) : NULL;
	if (!h) {
		cs_object_put(c, o);
		return 0;
	}
	o->handle_len = handle_len;
	memcpy(o->handle, handle, handle_len);
	cs_holder_set_bits(c, h, h->bits | bits);
	*seq = ++c->seq;
	return bits;
}

uint64_t consist_release(struct consist *c, uint64_t client, struct cs_key key, uint32_t bits, struct cs_out *out)
{
	struct cs_object *o = cs_object_find(c, key);
	struct holder *h = o ? cs_holder_find(o, client) : NULL;

	if (!h)
		return 0;
	cs_holder_set_bits(c, h, h->bits & ~cs_closure(bits)); /* an event that asked for them is still to be acknowledged, for the rest of it */
	cs_object_wake(o, out);
	cs_holder_put(c, h);
	return ++c->seq;
}

int consist_open(struct consist *c, uint64_t client, struct cs_key key, bool write)
{
	struct cs_object *o = cs_object_get(c, key);
	struct holder *h = o ? holder_get(c, o, client) : NULL;

	if (!h) {
		if (o)
			cs_object_put(c, o);
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
	struct cs_object *o = cs_object_find(c, key);
	struct holder *h = o ? cs_holder_find(o, client) : NULL;

	if (!h)
		return;
	if (write && h->writers)
		h->writers--;
	else if (!write && h->readers)
		h->readers--;
	cs_holder_put(c, h);
}

bool consist_hidden(const struct consist *c, uint64_t client, struct cs_key key)
{
	const struct cs_object *o = cs_object_find(c, key);
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
	const struct cs_object *o = cs_object_find(c, key);
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

uint32_t consist_obstacles(const struct consist *c, uint64_t client, struct cs_key key, bool alone)
{
	const struct cs_object *o = cs_object_find(c, key);
	bool hidden = false, others = false;
	struct cs_need *n;
	struct holder *h;

	if (!o)
		return 0;
	list_each(n, &o->needs, in_object)
		alone = alone && !(n->op->client != client && n->change);
	list_each(h, &o->holders, in_object) {
		if (h->client->id == client)
			continue;
		if (h->writers)
			return 0;
		alone = alone && !h->readers && (!(h->bits & CS_NAMES) || h->client->ack_now);
		hidden = hidden || (h->bits & CS_WRITE);
		others = others || h->bits;
	}
	return alone && others ? CS_ATTR | CS_NAMES | CS_DATA | CS_WRITE : hidden ? CS_WRITE : 0;
}

size_t consist_client_leases(const struct consist *c, uint64_t client)
{
	const struct cs_client *cl = cs_client_find(c, client);

	return cl ? cl->nholders : 0;
}
