/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Intrusive doubly linked list with a head: put a `struct list` into what you link, get back with container_of() (cleanup.h) or list_entry().
 * No locking of its own. A node is either linked or was given to list_init(); list_del() leaves it initialised, so it may be called twice.
 */
#ifndef CONF_LIST_H
#define CONF_LIST_H
#include <stdbool.h>
#include <stddef.h>
#include "conf/cleanup.h"

struct list {
	struct list *next, *prev;
};
#define LIST_INIT(name) {&(name), &(name)}

static inline void list_init(struct list *l)
{
	l->next = l->prev = l;
}
static inline bool list_empty(const struct list *l)
{
	return l->next == l;
}
static inline void list_link(struct list *n, struct list *prev, struct list *next)
{
	n->prev = prev;
	n->next = next;
	prev->next = n;
	next->prev = n;
}
static inline void list_add(struct list *head, struct list *n) /* first */
{
	list_link(n, head, head->next);
}
static inline void list_add_tail(struct list *head, struct list *n) /* last */
{
	list_link(n, head->prev, head);
}
static inline void list_del(struct list *n)
{
	n->prev->next = n->next;
	n->next->prev = n->prev;
	list_init(n);
}
static inline void list_move_tail(struct list *head, struct list *n)
{
	list_del(n);
	list_add_tail(head, n);
}
/* Takes the first node out; NULL when empty. */
static inline struct list *list_pop(struct list *head)
{
	struct list *n = head->next;

	if (n == head)
		return NULL;
	list_del(n);
	return n;
}
/* Moves all of `from` to the end of `to`. */
static inline void list_splice_tail(struct list *to, struct list *from)
{
	if (list_empty(from))
		return;
	from->next->prev = to->prev;
	to->prev->next = from->next;
	from->prev->next = to;
	to->prev = from->prev;
	list_init(from);
}

#define list_entry(p, type, member) container_of(p, type, member)
/* `pos` is a pointer of the containing type. */
#define list_each(pos, head, member)                                                                         \
	for (pos = list_entry((head)->next, __typeof__(*pos), member); &pos->member != (head);               \
	     pos = list_entry(pos->member.next, __typeof__(*pos), member))
/* The same where the body may unlink or free `pos` (and only that one); `tmp` is a second pointer of the same type. */
#define list_each_safe(pos, tmp, head, member)                                                               \
	for (pos = list_entry((head)->next, __typeof__(*pos), member),                                       \
	    tmp = list_entry(pos->member.next, __typeof__(*pos), member);                                    \
	     &pos->member != (head); pos = tmp, tmp = list_entry(tmp->member.next, __typeof__(*tmp), member))

#endif
