/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the parts of consist.h share: consist.c has the operations, consist_hold.c who holds what, consist_recall.c what was asked back. No locking: the
 * caller of consist.h has the one lock.
 */
#ifndef FS_SERVER_CONSIST_INT_H
#define FS_SERVER_CONSIST_INT_H
#include "fs/server/consist.h"

struct cs_client {
	uint64_t id;
	bool ack_now;
	size_t nholders;
	struct list holders; /* struct holder by in_client */
	struct list ops;     /* struct cs_op by in_client, those that began */
	struct list events;  /* struct asked by in_client, oldest first */
	struct asked *open;  /* that the operation which begins may still add to; NULL: none */
	struct cs_recall *last; /* of it, on the list of those to be sent; only while that operation begins */
	struct list in_gathering;
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

/* Recalls that were sent as one event, and not acknowledged. */
struct asked {
	struct list in_client;
	struct list owed; /* struct owed by in_event */
	struct cs_client *client;
	uint64_t id, sent_at;
	bool repeated;
	size_t bytes; /* of its message */
};

/* One of them. */
struct owed {
	struct list in_event;
	struct list in_need;
	struct holder *holder;
	uint32_t bits; /* that go with the answer; not a single name */
	struct cs_recall text; /* to be sent again when the client's stream was broken */
};

/* consist_hold.c */
struct cs_object *cs_object_find(const struct consist *c, struct cs_key key);
struct cs_object *cs_object_get(struct consist *c, struct cs_key key);
void cs_object_put(struct consist *c, struct cs_object *o); /* frees it when nothing is left of it */
struct cs_client *cs_client_find(const struct consist *c, uint64_t id);
struct cs_client *cs_client_get(struct consist *c, uint64_t id);
struct holder *cs_holder_find(const struct cs_object *o, uint64_t client);
void cs_holder_set_bits(struct consist *c, struct holder *h, uint32_t bits);
void cs_holder_put(struct consist *c, struct holder *h);

/* consist_recall.c */
/* What was asked so far is an event of its own from here on: the next operation begins. */
void cs_recall_begin(struct consist *c);
/* Asks `h` for `bits`, and with `named` to forget that name too. */
int cs_recall(struct consist *c, struct holder *h, uint32_t bits, struct cs_need *named, uint64_t now, struct cs_out *out);
/* Nothing of it is waited for any more. */
void cs_asked_free(struct consist *c, struct asked *a);

/* consist.c */
/* Operations on the object that nothing holds up any more. */
void cs_object_wake(struct cs_object *o, struct cs_out *out);

/* Whoever loses ATTR or DATA loses WRITE, which implies both; of a directory, ATTR and NAMES. */
static inline uint32_t cs_closure(uint32_t breaks)
{
	return breaks & (CS_ATTR | CS_DATA) ? breaks | CS_WRITE : breaks;
}
/* The bits it breaks: not one name. */
static inline uint32_t cs_need_bits(const struct cs_need *n)
{
	return cs_closure(n->name ? n->breaks & ~(uint32_t)CS_NAMES : n->breaks);
}
/* One name of a directory. */
static inline bool cs_need_named(const struct cs_need *n)
{
	return n->name && (n->breaks & CS_NAMES);
}

#endif
