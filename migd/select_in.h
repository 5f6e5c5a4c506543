/* SPDX-License-Identifier: Apache-2.0 */
/* Inside selection (select.h): what select.c decides on, select_heap.c keeps in order and select_table.c finds and forgets. */
#ifndef MIGD_SELECT_IN_H
#define MIGD_SELECT_IN_H
#include "conf/hash.h"
#include "conf/list.h"
#include "migd/select.h"

enum level { LEVEL_FREE, LEVEL_LOW, LEVEL_NORMAL, LEVELS }; /* LEVEL_LOW + p: holds work of priority p that could be taken */

struct heap {
	struct host **at;
	size_t n, cap;
};

struct class {
	struct list link;
	char *arch, *features;
	enum select_policy import;
	size_t hosts;
	struct heap heap[LEVELS];
	char *asked; /* features that were asked for last, and whether this class has them all */
	bool asked_ok;
};

struct host {
	char *name;
	struct class *class;
	bool offers;
	uint64_t idle_since;
	unsigned slots, used;
	unsigned takeable[SELECT_PRIORITIES]; /* grants of that priority that are not being reclaimed already */
	size_t pos[LEVELS];		      /* index in the class's heap + 1; 0 = not in it */
	struct list grants;
};

struct user {
	uint32_t uid;
	unsigned held, reclaiming; /* grants; of those, asked back already */
	unsigned waiting;	   /* slots */
	unsigned coming;	   /* slots being reclaimed on this user's behalf */
	struct list grants;	   /* newest first */
	struct list asks[SELECT_PRIORITIES];
};

struct client {
	uint64_t id;
	struct list grants, asks;
};

struct grant {
	struct select_grant pub;
	struct host *host;
	struct user *user;
	struct user *for_user; /* being reclaimed on whose behalf */
	bool reclaiming;
	struct list by_host, by_user, by_client;
};

struct ask {
	struct select_ask a; /* its strings are our copies */
	struct user *user;
	unsigned missing;
	struct list by_user, by_client;
};

struct select {
	struct select_hooks hooks;
	struct hash hosts, users, clients, grants;
	struct list classes;
	uint64_t next_grant;
	struct select_totals totals;
};

/* select_heap.c: the hosts of a class, those of whose slots the smallest part is used first, of these the longest idle. */
bool host_before(const struct host *a, const struct host *b);
/* Puts the host in just the heaps in which it belongs now. Called after every change of its fields. */
void host_refile(struct host *x);
/* The first host of a heap that is neither of the two (NULL: no name). */
struct host *heap_best(const struct heap *h, const char *not_this, const char *nor_this);

/* select_table.c. Whatever is got is made when it is not there (NULL: out of memory), and forgotten when nothing is left of it. */
struct class *class_get(struct select *s, const struct select_host *h);
int class_reserve(struct class *c); /* room in its heaps for one host more: 0 or -ENOMEM */
void class_free(struct class *c);
struct user *user_get(struct select *s, uint32_t uid);
void user_forget_if_unused(struct select *s, struct user *u);
struct client *client_get(struct select *s, uint64_t id);
void client_forget_if_unused(struct select *s, struct client *c);
void ask_free(struct select *s, struct ask *k);
struct host *host_new(struct select *s, const char *name);
void host_leave_class(struct host *x);
void host_free(struct select *s, struct host *x);
void totals_count(struct select *s, const struct host *x, int sign);
bool text_same(const char *a, const char *b); /* either may be NULL */

#endif
