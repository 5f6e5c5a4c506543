// SPDX-License-Identifier: Apache-2.0
/* Slots of a parallel make; see make_pool.h. */
#include "migd/cli/make_pool.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "migd/cli/command.h"

struct pool_learnt {
	uint64_t mean_ns; /* newer runs weigh more */
	unsigned n;
};

struct pool_rule {
	unsigned small;	   /* in a row */
	uint64_t until_ns; /* make runs it itself; 0: not */
	char name[];
};

void pool_init(struct pool *p)
{
	*p = (struct pool){0};
	list_init(&p->slots);
}

void pool_clear(struct pool *p)
{
	struct list *n;

	while ((n = list_pop(&p->slots)))
		free(list_entry(n, struct pool_slot, node));
	hash_clear(&p->learnt, free);
	hash_clear(&p->rules, free);
}

int pool_grant(struct pool *p, uint64_t id, const char *host)
{
	struct pool_slot *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->id = id;
	snprintf(s->host, sizeof(s->host), "%s", host);
	list_add_tail(&p->slots, &s->node);
	p->remote++;
	return 0;
}

struct pool_slot *pool_find(struct pool *p, uint64_t id)
{
	struct pool_slot *s;

	list_each(s, &p->slots, node)
		if (s->id == id)
			return s;
	return NULL;
}

void pool_lose(struct pool *p, struct pool_slot *s)
{
	list_del(&s->node);
	free(s);
	p->remote--;
}

/* Not worth the trip? Unknown programs are given the benefit of the doubt, but not what a shell does by itself. */
static bool small(struct pool *p, const char *command)
{
	char word[64];
	struct pool_learnt *l;

	command_word(command, word, sizeof(word));
	l = hash_get_str(&p->learnt, word);
	return l ? l->mean_ns < EXPORT_WORTH_NS : command_tiny(command);
}

struct pool_slot *pool_start(struct pool *p, const char *command, int pid)
{
	struct pool_slot *s;

	if (!small(p, command))
		list_each(s, &p->slots, node)
			if (!s->pid && !s->reclaimed) {
				s->pid = pid;
				list_move_tail(&p->slots, &s->node); /* spreads over hosts */
				return s;
			}
	p->local_used++;
	return NULL;
}

static void learn(struct pool *p, const char *command, uint64_t took_ns)
{
	char word[64];
	struct pool_learnt *l;

	command_word(command, word, sizeof(word));
	l = hash_get_str(&p->learnt, word);
	if (!l) {
		l = calloc(1, sizeof(*l));
		if (!l || hash_set_str(&p->learnt, word, l, NULL)) {
			free(l);
			return;
		}
	}
	l->mean_ns = l->n++ ? (l->mean_ns * 3 + took_ns) / 4 : took_ns;
}

struct pool_slot *pool_end(struct pool *p, const char *command, int pid, uint64_t took_ns)
{
	struct pool_slot *s;

	learn(p, command, took_ns);
	list_each(s, &p->slots, node)
		if (s->pid == pid) {
			s->pid = 0;
			return s;
		}
	if (p->local_used)
		p->local_used--;
	return NULL;
}

/* NULL: out of memory, nothing is learnt. */
static struct pool_rule *rule_get(struct pool *p, const char *rule)
{
	struct pool_rule *r = hash_get_str(&p->rules, rule);
	size_t n = strlen(rule) + 1;

	if (r)
		return r;
	r = calloc(1, sizeof(*r) + n);
	if (!r)
		return NULL;
	memcpy(r->name, rule, n);
	if (hash_set_str(&p->rules, r->name, r, NULL)) {
		free(r);
		return NULL;
	}
	return r;
}

bool pool_rule_end(struct pool *p, const char *rule, uint64_t took_ns, bool silent, uint64_t now_ns)
{
	struct pool_rule *r = *rule && !strchr(rule, ':') ? rule_get(p, rule) : NULL;
	bool was;

	if (!r)
		return false;
	was = r->until_ns != 0;
	r->small = silent && took_ns < DIRECT_NS ? r->small + 1 : 0;
	r->until_ns = r->small >= DIRECT_AFTER ? now_ns + DIRECT_WINDOW_NS : 0;
	return was != (r->until_ns != 0);
}

char *pool_rules_direct(struct pool *p, uint64_t now_ns, uint64_t *until_ns)
{
	struct hash_iter it = {0};
	struct pool_rule *r;
	size_t size = 2;
	char *list, *to;

	*until_ns = 0;
	while ((r = hash_next(&p->rules, &it))) {
		if (r->until_ns <= now_ns)
			r->until_ns = 0;
		else if (!*until_ns || r->until_ns < *until_ns)
			*until_ns = r->until_ns;
		size += r->until_ns ? strlen(r->name) + 1 : 0;
	}
	to = list = malloc(size);
	if (!list)
		return NULL;
	to += sprintf(to, ":");
	for (it = (struct hash_iter){0}; (r = hash_next(&p->rules, &it));)
		if (r->until_ns)
			to += sprintf(to, "%s:", r->name);
	return list;
}
