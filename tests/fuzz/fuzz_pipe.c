// SPDX-License-Identifier: Apache-2.0
/*
 * The hub of named pipes, told anything by its clients: three nodes, two FIFOs, each message in any order with any contents. What is refused breaks that
 * node's stream, as pipe_hub.c does. Nothing may be told to a node that is not there, nor acknowledged to it that it has not sent.
 */
#include <errno.h>
#include "fs/server/pipe_state.h"
#include "tests/fuzz/fuzz.h"

#define NODES 3

static struct node {
	bool there;
	size_t sent; /* bytes that it has given to the hub and that nobody has acknowledged to it */
} node[NODES];

static void must_be_there(void *n)
{
	if (!((struct node *)n)->there)
		abort();
}

static void on_role(void *arg, void *n, const struct ps_key *k, const struct ps_ask *ask)
{
	(void)arg;
	must_be_there(n);
	if (ask->role > PS_SOURCE || !k->len || k->len > PS_KEY_MAX)
		abort();
}

static void on_opened(void *arg, void *n, const struct ps_key *k, uint64_t req)
{
	(void)arg, (void)k, (void)req;
	must_be_there(n);
}

static void on_data(void *arg, void *n, const struct ps_key *k, const void *bytes, size_t len)
{
	volatile uint8_t sum = 0;

	(void)arg, (void)k;
	must_be_there(n);
	for (size_t i = 0; i < len; i++) /* all of it can be read */
		sum ^= ((const uint8_t *)bytes)[i];
}

static void on_ack(void *arg, void *n, const struct ps_key *k, size_t len)
{
	(void)arg, (void)k;
	must_be_there(n);
	if (len > ((struct node *)n)->sent)
		abort();
	((struct node *)n)->sent -= len;
}

static const struct ps_ops ops = {.role = on_role, .opened = on_opened, .data = on_data, .ack = on_ack};

/* Messages of 4 bytes: what, node and FIFO, two numbers; DATA and RETURN take that many of the bytes that follow. */
static void one(const uint8_t *p, size_t len)
{
	struct ps s;

	memset(node, 0, sizeof(node));
	ps_init(&s, &ops, NULL);
	for (; len >= 4; p += 4, len -= 4) {
		struct ps_key k = {.bytes = {p[1] >> 4 & 1}, .len = 1 + (p[1] >> 5 & 1)};
		struct node *n = &node[p[1] % NODES];
		size_t bytes = p[2] < len - 4 ? p[2] : len - 4;
		int r = 0;

		n->there = true;
		switch (p[0] % 8) {
		case 0:
		case 1:
			r = ps_open(&s, &k, n, p[2] & 1, p[2] & 2, p[3]);
			if (r == -ENOMEM || r == -ENOSPC)
				r = 0;
			break;
		case 2:
		case 3:
			r = ps_report(&s, &k, n, p[3], &(struct ps_part){(enum ps_role)(p[2] % 3), p[2] & 64, p[2] & 128, .kept = p[2] & 32, .stands = p[2] & 16, .alive = p[2] & 8});
			break;
		case 4:
			n->sent += bytes; /* before it is told: it may be acknowledged in there */
			r = ps_data(&s, &k, n, p + 4, bytes);
			break;
		case 5:
			r = ps_return(&s, &k, n, p + 4, bytes, p[3] & 1);
			break;
		case 6:
			r = ps_ack(&s, &k, n, p[2] | (p[3] & 0xf0 ? (size_t)-256 : 0));
			break;
		default:
			r = -EPROTO; /* its stream breaks by itself */
		}
		if (r < 0) {
			ps_gone(&s, n);
			*n = (struct node){0};
		}
		ps_known(&s, &k);
	}
	for (int i = 0; i < NODES; i++)
		if (node[i].there) {
			ps_gone(&s, &node[i]);
			node[i].there = false;
		}
	ps_destroy(&s);
}

int main(int argc, char **argv)
{
	/* a reader at 0, a writer at 1: opens, reports for rounds 1 to 4, data, acknowledgement, return, end */
	static const uint8_t talk[] = {0, 0, 1, 1, 2, 0, 64, 1, 0, 1, 2, 2, 2, 0, 65, 2, 2, 1, 130, 2, 2, 0, 65, 3, 2, 1, 130, 3, 4, 1, 5, 0, 'h', 'e', 'l', 'l', 'o',
		6, 0, 3, 0, 5, 0, 2, 1, 'l', 'o', 2, 0, 0, 0, 0, 2, 1, 1, 2, 1, 128, 0, 7, 1, 0, 0};
	static const uint8_t opens[] = {0, 0, 3, 1, 0, 1, 1, 2, 0, 2, 2, 3, 2, 0, 192, 1, 2, 1, 64, 1, 2, 2, 128, 1, 0, 16, 1, 9, 2, 16, 64, 1};
	static const struct fuzz_seed seeds[] = {{talk, sizeof(talk)}, {opens, sizeof(opens)}};

	return fuzz_main(argc, argv, "pipe", seeds, ARRAY_SIZE(seeds), NULL, one);
}
