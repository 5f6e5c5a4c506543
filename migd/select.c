// SPDX-License-Identifier: Apache-2.0
/*
 * Selection (select.h). Hosts of one class (architecture, features, policy) share three heaps, each ordered by longest idle: with a free slot, with a slot
 * that does low-priority work, with one that does normal work. A question looks at the tops of the heaps of the classes that fit.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "conf/cleanup.h"
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

/* ---- heaps ---------------------------------------------------------------------------------------- */

static bool host_before(const struct host *a, const struct host *b)
{
	if (a->idle_since != b->idle_since)
		return a->idle_since < b->idle_since;
	return strcmp(a->name, b->name) < 0;
}

static void heap_put(struct heap *h, enum level l, size_t i, struct host *x)
{
	h->at[i] = x;
	x->pos[l] = i + 1;
}

static void heap_settle(struct heap *h, enum level l, size_t i)
{
	struct host *x = h->at[i];

	while (i && host_before(x, h->at[(i - 1) / 2])) {
		heap_put(h, l, i, h->at[(i - 1) / 2]);
		i = (i - 1) / 2;
	}
	for (size_t kid; (kid = 2 * i + 1) < h->n; i = kid) {
		if (kid + 1 < h->n && host_before(h->at[kid + 1], h->at[kid]))
			kid++;
		if (!host_before(h->at[kid], x))
			break;
		heap_put(h, l, i, h->at[kid]);
	}
	heap_put(h, l, i, x);
}

static void heap_remove(struct heap *h, enum level l, struct host *x)
{
	size_t i = x->pos[l] - 1;
	struct host *last = h->at[--h->n];

	x->pos[l] = 0;
	if (last == x)
		return;
	heap_put(h, l, i, last);
	heap_settle(h, l, i);
}

/* Room for every host of the class was made when it joined (class_reserve), so this cannot fail. */
static void heap_add(struct heap *h, enum level l, struct host *x)
{
	h->n++;
	heap_put(h, l, h->n - 1, x);
	heap_settle(h, l, h->n - 1);
}

/* Puts the host in just the heaps in which it belongs now. Called after every change of its fields. */
static void host_refile(struct host *x)
{
	bool want[LEVELS] = {
		[LEVEL_FREE] = x->offers && x->used < x->slots,
		[LEVEL_LOW] = x->offers && x->takeable[SELECT_LOW],
		[LEVEL_NORMAL] = x->offers && x->takeable[SELECT_NORMAL],
	};

	for (int l = 0; l < LEVELS; l++) {
		struct heap *h = &x->class->heap[l];

		if (want[l] && !x->pos[l])
			heap_add(h, l, x);
		else if (!want[l] && x->pos[l])
			heap_remove(h, l, x);
	}
}

/* The longest-idle host of a heap, or the next one when that is `not_host`: it is one of the top's children. */
static struct host *heap_best(const struct heap *h, const char *not_host)
{
	if (!h->n)
		return NULL;
	if (!not_host || strcmp(h->at[0]->name, not_host))
		return h->at[0];
	if (h->n < 3)
		return h->n == 2 ? h->at[1] : NULL;
	return host_before(h->at[1], h->at[2]) ? h->at[1] : h->at[2];
}

/* ---- tables --------------------------------------------------------------------------------------- */

struct select *select_new(const struct select_hooks *h)
{
	struct select *s = calloc(1, sizeof *s);

	if (!s)
		return NULL;
	s->hooks = *h;
	s->next_grant = 1;
	list_init(&s->classes);
	return s;
}

static bool same(const char *a, const char *b)
{
	return a == b || (a && b && !strcmp(a, b));
}

static int class_reserve(struct class *c)
{
	for (int l = 0; l < LEVELS; l++) {
		struct heap *h = &c->heap[l];
		size_t cap = h->cap ? h->cap * 2 : 16;

		if (c->hosts < h->cap)
			continue;
		struct host **at = realloc(h->at, cap * sizeof *at);

		if (!at)
			return -ENOMEM;
		h->at = at;
		h->cap = cap;
	}
	return 0;
}

static void class_free(struct class *c)
{
	list_del(&c->link);
	for (int l = 0; l < LEVELS; l++)
		free(c->heap[l].at);
	free(c->arch);
	free(c->features);
	free(c->asked);
	free(c);
}

static struct class *class_get(struct select *s, const struct select_host *h)
{
	struct class *c;

	list_each(c, &s->classes, link)
		if (c->import == h->import && same(c->arch, h->arch) && same(c->features, h->features))
			return c;
	c = calloc(1, sizeof *c);
	if (!c)
		return NULL;
	list_init(&c->link);
	c->import = h->import;
	c->arch = h->arch ? strdup(h->arch) : NULL;
	c->features = h->features ? strdup(h->features) : NULL;
	if ((h->arch && !c->arch) || (h->features && !c->features)) {
		class_free(c);
		return NULL;
	}
	list_add_tail(&s->classes, &c->link);
	return c;
}

static struct user *user_get(struct select *s, uint32_t uid)
{
	struct user *u = hash_get_u64(&s->users, uid);

	if (u)
		return u;
	u = calloc(1, sizeof *u);
	if (!u)
		return NULL;
	u->uid = uid;
	list_init(&u->grants);
	for (int p = 0; p < SELECT_PRIORITIES; p++)
		list_init(&u->asks[p]);
	if (hash_set_u64(&s->users, uid, u, NULL)) {
		free(u);
		return NULL;
	}
	return u;
}

static void user_forget_if_unused(struct select *s, struct user *u)
{
	if (u->held || u->waiting || u->coming)
		return;
	hash_take_u64(&s->users, u->uid);
	free(u);
}

static struct client *client_get(struct select *s, uint64_t id)
{
	struct client *c = hash_get_u64(&s->clients, id);

	if (c)
		return c;
	c = calloc(1, sizeof *c);
	if (!c)
		return NULL;
	c->id = id;
	list_init(&c->grants);
	list_init(&c->asks);
	if (hash_set_u64(&s->clients, id, c, NULL)) {
		free(c);
		return NULL;
	}
	return c;
}

static void client_forget_if_unused(struct select *s, struct client *c)
{
	if (!c || !list_empty(&c->grants) || !list_empty(&c->asks))
		return;
	hash_take_u64(&s->clients, c->id);
	free(c);
}

static void ask_free(struct select *s, struct ask *k)
{
	k->user->waiting -= k->missing;
	s->totals.waiting -= k->missing;
	list_del(&k->by_user);
	list_del(&k->by_client);
	free((char *)k->a.arch);
	free((char *)k->a.features);
	free((char *)k->a.not_host);
	free((char *)k->a.host);
	free(k);
}

/* ---- granting ------------------------------------------------------------------------------------- */

static bool has_word(const char *list, const char *word, size_t n)
{
	for (const char *s = list; s && *s; s += strspn(s, " ")) {
		size_t k = strcspn(s, " ");

		if (k == n && !strncmp(s, word, n))
			return true;
		s += k;
	}
	return false;
}

/* Has the class every CPU feature that the process may have found at home? A cluster asks for few different lists: the last answer is kept. */
static bool class_has(struct class *c, const char *features)
{
	if (c->asked && !strcmp(c->asked, features))
		return c->asked_ok;
	free(c->asked);
	c->asked = strdup(features);
	c->asked_ok = true;
	for (const char *s = features; *s && c->asked_ok; s += strspn(s, " ")) {
		size_t n = strcspn(s, " ");

		c->asked_ok = has_word(c->features, s, n);
		s += n;
	}
	return c->asked_ok;
}

static bool class_fits(struct class *c, const struct select_ask *a)
{
	if (c->import == POLICY_NONE || (c->import == POLICY_ROOT && a->uid != 0) || (c->import == POLICY_USERS && a->uid == 0))
		return false;
	return (!a->arch || same(a->arch, c->arch)) && (!a->features || class_has(c, a->features));
}

static bool host_fits(const struct host *x, const struct select_ask *a)
{
	if (a->host && strcmp(a->host, x->name))
		return false;
	if (a->not_host && !strcmp(a->not_host, x->name))
		return false;
	return class_fits(x->class, a);
}

static struct host *host_best(struct select *s, const struct select_ask *a, enum level l)
{
	struct host *best = NULL;
	struct class *c;

	if (a->host) {
		best = hash_get_str(&s->hosts, a->host);
		return best && best->pos[l] && host_fits(best, a) ? best : NULL;
	}
	list_each(c, &s->classes, link) {
		struct host *x = class_fits(c, a) ? heap_best(&c->heap[l], a->not_host) : NULL;

		if (x && (!best || host_before(x, best)))
			best = x;
	}
	return best;
}

static struct grant *grant_make(struct select *s, struct host *x, const struct select_ask *a)
{
	struct user *u = user_get(s, a->uid);
	struct client *c = u ? client_get(s, a->client) : NULL;
	struct grant *g = c ? calloc(1, sizeof *g) : NULL;

	if (!g || hash_set_u64(&s->grants, s->next_grant, g, NULL)) {
		free(g);
		client_forget_if_unused(s, c);
		if (u)
			user_forget_if_unused(s, u);
		return NULL;
	}
	g->pub = (struct select_grant){.id = s->next_grant++, .client = a->client, .uid = a->uid, .priority = a->priority, .host = x->name};
	g->host = x;
	g->user = u;
	list_add(&x->grants, &g->by_host);
	list_add(&u->grants, &g->by_user);
	list_add(&c->grants, &g->by_client);
	u->held++;
	x->used++;
	x->takeable[a->priority]++;
	s->totals.used++;
	host_refile(x);
	return g;
}

/* Who is next for a slot on x: highest priority, then who holds least, then who waits longest. */
static struct ask *ask_next(struct select *s, const struct host *x)
{
	for (int p = SELECT_PRIORITIES - 1; p >= 0; p--) {
		struct ask *best = NULL, *k;
		struct hash_iter it = {0};
		struct user *u;

		while ((u = hash_next(&s->users, &it))) {
			if (best && (u->held > best->user->held))
				continue;
			list_each(k, &u->asks[p], by_user) {
				if (!host_fits(x, &k->a))
					continue;
				if (!best || u->held < best->user->held || k->a.now < best->a.now)
					best = k;
				break; /* a user's own are in order of time */
			}
		}
		if (best)
			return best;
	}
	return NULL;
}

/* A slot on x became free: gives it, and any other free one there, to those who wait. */
static void host_serve(struct select *s, struct host *x)
{
	while (x->offers && x->used < x->slots) {
		struct ask *k = ask_next(s, x);
		struct grant *g = k ? grant_make(s, x, &k->a) : NULL;
		struct client *c;

		if (!g)
			return;
		k->missing--;
		k->user->waiting--;
		s->totals.waiting--;
		if (!k->missing) {
			c = hash_get_u64(&s->clients, k->a.client);
			ask_free(s, k);
			client_forget_if_unused(s, c);
		}
		s->hooks.granted(s->hooks.ctx, &g->pub);
	}
}

static void grant_end(struct select *s, struct grant *g)
{
	struct client *c = hash_get_u64(&s->clients, g->pub.client);
	struct user *u = g->user, *for_user = g->for_user;

	hash_take_u64(&s->grants, g->pub.id);
	list_del(&g->by_host);
	list_del(&g->by_user);
	list_del(&g->by_client);
	u->held--;
	if (g->reclaiming) {
		u->reclaiming--;
		for_user->coming--;
	} else {
		g->host->takeable[g->pub.priority]--;
	}
	g->host->used--;
	s->totals.used--;
	host_refile(g->host);
	free(g);
	client_forget_if_unused(s, c);
	if (for_user && for_user != u)
		user_forget_if_unused(s, for_user);
	user_forget_if_unused(s, u);
}

static void grant_reclaim(struct select *s, struct grant *g, struct user *for_user)
{
	g->reclaiming = true;
	g->for_user = for_user;
	g->user->reclaiming++;
	for_user->coming++;
	g->host->takeable[g->pub.priority]--;
	host_refile(g->host);
	s->hooks.reclaim(s->hooks.ctx, &g->pub);
}

/* ---- taking back ---------------------------------------------------------------------------------- */

/* Work of lower priority makes room. Returns whether something was asked back. */
static bool reclaim_lower(struct select *s, const struct select_ask *a, struct user *u)
{
	for (int p = SELECT_LOW; p < (int)a->priority; p++) {
		struct host *x = host_best(s, a, LEVEL_LOW + p);
		struct grant *g;

		if (!x)
			continue;
		list_each(g, &x->grants, by_host) /* newest first: it loses least */
			if ((int)g->pub.priority == p && !g->reclaiming) {
				grant_reclaim(s, g, u);
				return true;
			}
	}
	return false;
}

/* Who has the most above the fair share gives one back to who has less than it. */
static bool reclaim_share(struct select *s, const struct select_ask *a, struct user *u)
{
	size_t share = s->totals.slots / (s->users.count ? s->users.count : 1);
	struct user *most = NULL, *v;
	struct hash_iter it = {0};
	struct grant *g;

	if (u->held - u->reclaiming + u->coming >= share)
		return false;
	while ((v = hash_next(&s->users, &it)))
		if (v != u && v->held - v->reclaiming > share && (!most || v->held - v->reclaiming > most->held - most->reclaiming))
			most = v;
	if (!most)
		return false;
	list_each(g, &most->grants, by_user)
		if (!g->reclaiming && g->pub.priority <= a->priority && host_fits(g->host, a)) {
			grant_reclaim(s, g, u);
			return true;
		}
	return false;
}

static char *copy_string(const char *from, bool *failed)
{
	char *to = from ? strdup(from) : NULL;

	*failed |= from && !to;
	return to;
}

static int ask_wait(struct select *s, const struct select_ask *a, unsigned missing)
{
	struct user *u = user_get(s, a->uid);
	struct client *c = u ? client_get(s, a->client) : NULL;
	struct ask *k = c ? calloc(1, sizeof *k) : NULL;
	bool failed = !k;

	if (k) {
		k->a = *a;
		k->user = u;
		list_init(&k->by_user);
		list_init(&k->by_client);
		k->a.arch = copy_string(a->arch, &failed);
		k->a.features = copy_string(a->features, &failed);
		k->a.not_host = copy_string(a->not_host, &failed);
		k->a.host = copy_string(a->host, &failed);
		if (failed)
			ask_free(s, k);
	}
	if (failed) {
		client_forget_if_unused(s, c);
		if (u)
			user_forget_if_unused(s, u);
		return -ENOMEM;
	}
	k->missing = missing;
	u->waiting += missing;
	s->totals.waiting += missing;
	list_add_tail(&u->asks[a->priority], &k->by_user);
	list_add_tail(&c->asks, &k->by_client);
	/* Now that it counts as an asker: see who must give. */
	for (unsigned i = 0; i < missing; i++)
		if (!reclaim_lower(s, a, u) && !reclaim_share(s, a, u))
			break;
	return 0;
}

int select_ask(struct select *s, const struct select_ask *a, struct select_grant *out)
{
	unsigned n = 0;

	if (!a->want || a->want > SELECT_WANT_MAX || a->priority >= SELECT_PRIORITIES)
		return -EINVAL;
	if (a->host) {
		struct host *x = hash_get_str(&s->hosts, a->host);

		if (!x)
			return -ENOENT;
		if (!host_fits(x, a))
			return -EACCES;
	}
	while (n < a->want) {
		struct host *x = host_best(s, a, LEVEL_FREE);
		struct grant *g = x ? grant_make(s, x, a) : NULL;

		if (!g)
			break;
		out[n++] = g->pub;
	}
	if (n < a->want && a->wait) {
		int err = ask_wait(s, a, a->want - n);

		if (err && !n)
			return err;
	}
	return (int)n;
}

/* ---- changes -------------------------------------------------------------------------------------- */

static void totals_count(struct select *s, const struct host *x, int sign)
{
	s->totals.hosts += (size_t)sign;
	if (x->offers) {
		s->totals.offering += (size_t)sign;
		s->totals.slots += (size_t)((int)x->slots * sign);
	}
}

static void host_leave_class(struct host *x)
{
	bool offers = x->offers;

	if (!x->class)
		return;
	x->offers = false;
	host_refile(x);
	x->offers = offers;
	if (!--x->class->hosts)
		class_free(x->class);
	x->class = NULL;
}

static struct host *host_new(struct select *s, const char *name)
{
	struct host *x = calloc(1, sizeof *x);

	if (!x)
		return NULL;
	list_init(&x->grants);
	x->name = strdup(name);
	if (!x->name || hash_set_str(&s->hosts, name, x, NULL)) {
		free(x->name);
		free(x);
		return NULL;
	}
	totals_count(s, x, 1);
	return x;
}

static void host_lose_grants(struct select *s, struct host *x)
{
	while (!list_empty(&x->grants)) {
		struct grant *g = list_entry(x->grants.next, struct grant, by_host);
		struct select_grant lost = g->pub;

		grant_end(s, g);
		s->hooks.lost(s->hooks.ctx, &lost);
	}
}

int select_host_set(struct select *s, const struct select_host *h)
{
	struct host *x = hash_get_str(&s->hosts, h->name);
	struct class *c = class_get(s, h);

	if (!c)
		return -ENOMEM;
	if (!class_reserve(c) && !x)
		x = host_new(s, h->name);
	if (!x || c->hosts >= c->heap[LEVELS - 1].cap) {
		if (!c->hosts)
			class_free(c);
		return -ENOMEM;
	}
	totals_count(s, x, -1);
	/* Out of the heaps while the key of their order changes. */
	if (c != x->class) {
		c->hosts++;
		host_leave_class(x);
		x->class = c;
	} else {
		x->offers = false;
		host_refile(x);
	}
	x->offers = h->offers;
	x->idle_since = h->idle_since;
	x->slots = h->slots < 1 ? 1 : h->slots > SELECT_SLOTS_MAX ? SELECT_SLOTS_MAX : h->slots;
	totals_count(s, x, 1);
	host_refile(x);
	if (!x->offers)
		host_lose_grants(s, x);
	host_serve(s, x);
	return 0;
}

static void host_free(struct select *s, struct host *x)
{
	totals_count(s, x, -1);
	host_leave_class(x);
	free(x->name);
	free(x);
}

void select_host_gone(struct select *s, const char *name)
{
	struct host *x = hash_take_str(&s->hosts, name);

	if (!x)
		return;
	host_lose_grants(s, x);
	host_free(s, x);
}

enum select_state select_host_state(const struct select *s, const char *name)
{
	const struct host *x = hash_get_str(&s->hosts, name);

	if (!x)
		return HOST_DOWN;
	if (x->class->import == POLICY_NONE)
		return HOST_REFUSES;
	if (!x->offers)
		return HOST_ACTIVE;
	return !x->used ? HOST_IDLE : x->used < x->slots ? HOST_PART_USED : HOST_FULL;
}

int select_release(struct select *s, uint64_t grant)
{
	struct grant *g = hash_get_u64(&s->grants, grant);
	struct host *x;

	if (!g)
		return -ENOENT;
	x = g->host;
	grant_end(s, g);
	host_serve(s, x);
	return 0;
}

void select_stop_waiting(struct select *s, uint64_t client)
{
	struct client *c = hash_get_u64(&s->clients, client);
	struct ask *k, *tmp;

	if (!c)
		return;
	list_each_safe(k, tmp, &c->asks, by_client) {
		struct user *u = k->user;

		ask_free(s, k);
		user_forget_if_unused(s, u);
	}
	client_forget_if_unused(s, c);
}

void select_client_gone(struct select *s, uint64_t client)
{
	struct client *c;

	select_stop_waiting(s, client);
	/* Each release may serve somebody else, and forgets the client with its last grant. */
	while ((c = hash_get_u64(&s->clients, client)) && !list_empty(&c->grants))
		select_release(s, list_entry(c->grants.next, struct grant, by_client)->pub.id);
}

void select_totals(const struct select *s, struct select_totals *t)
{
	*t = s->totals;
}

void select_free(struct select *s)
{
	struct hash_iter it = {0};
	struct client *c;
	struct host *x;

	if (!s)
		return;
	s->hooks.lost = NULL;
	while ((x = hash_next(&s->hosts, &it)))
		x->offers = false; /* nobody is served any more */
	for (it = (struct hash_iter){0}; (c = hash_next(&s->clients, &it)); it = (struct hash_iter){0})
		select_client_gone(s, c->id);
	for (it = (struct hash_iter){0}; (x = hash_next(&s->hosts, &it)); it = (struct hash_iter){0}) {
		hash_take_str(&s->hosts, x->name);
		host_free(s, x);
	}
	hash_clear(&s->hosts, NULL);
	hash_clear(&s->users, free);
	hash_clear(&s->clients, free);
	hash_clear(&s->grants, free);
	free(s);
}
