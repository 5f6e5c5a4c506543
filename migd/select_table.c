// SPDX-License-Identifier: Apache-2.0
/* What selection knows: classes, hosts, users, clients, who waits; each is made when it is first heard of. */
#include "migd/select_in.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

bool text_same(const char *a, const char *b)
{
	return a == b || (a && b && !strcmp(a, b));
}

int class_reserve(struct class *c)
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

void class_free(struct class *c)
{
	list_del(&c->link);
	for (int l = 0; l < LEVELS; l++)
		free(c->heap[l].at);
	free(c->arch);
	free(c->features);
	free(c->asked);
	free(c);
}

struct class *class_get(struct select *s, const struct select_host *h)
{
	struct class *c;

	list_each(c, &s->classes, link)
		if (c->import == h->import && text_same(c->arch, h->arch) && text_same(c->features, h->features))
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

struct user *user_get(struct select *s, uint32_t uid)
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

void user_forget_if_unused(struct select *s, struct user *u)
{
	if (u->held || u->waiting || u->coming)
		return;
	hash_take_u64(&s->users, u->uid);
	free(u);
}

struct client *client_get(struct select *s, uint64_t id)
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

void client_forget_if_unused(struct select *s, struct client *c)
{
	if (!c || !list_empty(&c->grants) || !list_empty(&c->asks))
		return;
	hash_take_u64(&s->clients, c->id);
	free(c);
}

void ask_free(struct select *s, struct ask *k)
{
	k->user->waiting -= k->missing;
	s->totals.waiting -= k->missing;
	list_del(&k->by_user);
	list_del(&k->by_client);
	free((char *)k->a.arch);
	free((char *)k->a.features);
	free((char *)k->a.home);
	free((char *)k->a.not_host);
	free((char *)k->a.host);
	free(k);
}

void totals_count(struct select *s, const struct host *x, int sign)
{
	s->totals.hosts += (size_t)sign;
	if (x->offers) {
		s->totals.offering += (size_t)sign;
		s->totals.slots += (size_t)((int)x->slots * sign);
	}
}

void host_leave_class(struct host *x)
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

struct host *host_new(struct select *s, const char *name)
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

void host_free(struct select *s, struct host *x)
{
	totals_count(s, x, -1);
	host_leave_class(x);
	free(x->name);
	free(x);
}
