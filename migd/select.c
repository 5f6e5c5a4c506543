// SPDX-License-Identifier: Apache-2.0
/*
 * Selection (select.h). Hosts of one class (architecture, features, policy) share three heaps, each ordered by use and idleness (select_heap.c). A question looks at
 * the tops of the heaps of the classes that fit.
 */
#include "migd/select_in.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

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
	return (!a->arch || text_same(a->arch, c->arch)) && (!a->features || class_has(c, a->features));
}

static bool host_fits(const struct host *x, const struct select_ask *a)
{
	if (a->host && strcmp(a->host, x->name))
		return false;
	if ((a->not_host && !strcmp(a->not_host, x->name)) || (a->home && !strcmp(a->home, x->name)))
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
		struct host *x = class_fits(c, a) ? heap_best(&c->heap[l], a->home, a->not_host) : NULL;

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
		k->a.home = copy_string(a->home, &failed);
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
