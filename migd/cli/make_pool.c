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
