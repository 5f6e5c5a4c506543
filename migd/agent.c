// SPDX-License-Identifier: Apache-2.0
/* Slots and those who asked for them; see agent.h. Each agent has a thread, which reads its stream (agent_stream.c). */
#include "migd/agent_in.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "migd/select.h"
#include "migd/stats.h"

enum { WANTS_MAX = 256 };

uint64_t agent_new_id(struct migd *m)
{
	pthread_mutex_lock(&m->agents->lock);
	uint64_t id = ++m->agents->next;
	pthread_mutex_unlock(&m->agents->lock);
	return id;
}

struct slot *agent_slot(struct agent *a, uint64_t id)
{
	struct slot *s;

	list_each(s, &a->slots, node)
		if (s->id == id)
			return s;
	return NULL;
}

struct agent *agent_new(struct migd *m, uid_t uid, struct local_conn *conn)
{
	struct agent *a = calloc(1, sizeof *a);

	if (!a)
		return NULL;
	a->m = m;
	a->uid = uid;
	a->conn = conn;
	a->refs = 1;
	a->id = agent_new_id(m);
	pthread_mutex_init(&a->lock, NULL);
	pthread_cond_init(&a->changed, NULL);
	list_init(&a->slots);
	list_init(&a->wants);
	pthread_mutex_lock(&m->agents->lock);
	list_add_tail(&m->agents->list, &a->node);
	pthread_mutex_unlock(&m->agents->lock);
	return a;
}

void agent_put(struct agent *a)
{
	struct agents *t = a->m->agents;
	struct list *n;

	pthread_mutex_lock(&t->lock);
	bool last = --a->refs == 0;
	pthread_mutex_unlock(&t->lock);
	if (!last)
		return;
	while ((n = list_pop(&a->slots)))
		free(list_entry(n, struct slot, node));
	while ((n = list_pop(&a->wants)))
		free(list_entry(n, struct want, node));
	pthread_cond_destroy(&a->changed);
	pthread_mutex_destroy(&a->lock);
	free(a);
}

void agent_end(struct agent *a)
{
	pthread_mutex_lock(&a->m->agents->lock);
	list_del(&a->node);
	pthread_mutex_unlock(&a->m->agents->lock);
	agent_put(a);
}

/* A reference, or NULL: no such agent, or another user's. */
static struct agent *agent_find(struct migd *m, json_int_t id, uid_t uid)
{
	struct agent *a, *found = NULL;

	pthread_mutex_lock(&m->agents->lock);
	list_each(a, &m->agents->list, node)
		if ((json_int_t)a->id == id && a->conn && (a->uid == uid || uid == 0))
			found = a;
	if (found)
		found->refs++;
	pthread_mutex_unlock(&m->agents->lock);
	return found;
}

struct want *agent_want(struct agent *a, uint32_t uid, uint32_t priority, uint32_t n, bool wait, const char *host, const char *not_host)
{
	struct want *w = calloc(1, sizeof *w);

	if (!w)
		return NULL;
	w->tag = agent_new_id(a->m);
	w->uid = uid;
	w->priority = priority;
	w->want = n;
	w->wait = wait;
	stats_count(a->m, COUNT_ASKED, n);
	snprintf(w->host, sizeof w->host, "%s", host ? host : "");
	snprintf(w->not_host, sizeof w->not_host, "%s", not_host ? not_host : "");
	pthread_mutex_lock(&a->lock);
	list_add_tail(&a->wants, &w->node);
	bool there = a->stream != NULL;

	w->sent = there;
	struct want copy = *w;
	pthread_mutex_unlock(&a->lock);
	if (there)
		agent_send_want(a, &copy, n);
	return w;
}

/* n more of what is waited for already: one want a priority, however often slots come and go. false: nothing like it is waited for. */
static bool want_more(struct agent *a, uint32_t priority, uint32_t n)
{
	struct want *w, copy;
	bool found = false, there;

	pthread_mutex_lock(&a->lock);
	list_each(w, &a->wants, node)
		if (w->wait && w->priority == priority && !w->host[0] && w->want + n <= SELECT_WANT_MAX) {
			found = true;
			w->want += n;
			copy = *w;
			break;
		}
	there = found && a->stream && copy.sent;
	pthread_mutex_unlock(&a->lock);
	if (found)
		stats_count(a->m, COUNT_ASKED, n);
	if (there)
		agent_send_want(a, &copy, n);
	return found;
}

int agent_priority(const char *word, uid_t uid, struct error *e)
{
	static const char *const name[SELECT_PRIORITIES] = {"low", "normal", "high"};

	if (!word)
		return SELECT_NORMAL;
	for (int i = 0; i < SELECT_PRIORITIES; i++)
		if (!strcmp(word, name[i]))
			return i == SELECT_HIGH && uid ? error_set(e, EPERM, "priority high is root's: ask for normal") : i;
	return error_set(e, EINVAL, "priority: expected low, normal or high, found \"%s\"", word);
}

static bool want_ok(struct local_conn *c, json_int_t n)
{
	if (n >= 1 && n <= SELECT_WANT_MAX)
		return true;
	local_fail(c, EINVAL, "want: expected 1 to %d slots, found %lld", SELECT_WANT_MAX, (long long)n);
	return false;
}

void agent_verb_ask(struct migd *m, struct local_conn *c, const struct local_cred *who, json_t *rq)
{
	json_int_t n = json_integer_value(json_object_get(rq, "want"));
	const char *word = json_string_value(json_object_get(rq, "priority")), *not_host = json_string_value(json_object_get(rq, "not_host"));
	struct error e = {0};
	int priority = agent_priority(word, who->uid, &e);
	struct agent *a;

	if (!want_ok(c, n))
		return;
	if (priority < 0) {
		local_fail(c, e.code, "%s", e.text);
		return;
	}
	a = agent_new(m, who->uid, c);
	if (!a || !agent_want(a, who->uid, (uint32_t)priority, (uint32_t)n, json_is_true(json_object_get(rq, "wait")),
			   json_string_value(json_object_get(rq, "host")), not_host ? not_host : m->conf->name)) {
		if (a)
			agent_end(a);
		local_fail(c, ENOMEM, "out of memory");
		return;
	}
	local_row(c, json_pack("{s:I}", "agent", (json_int_t)a->id));
	agent_run(a);
	agent_end(a);
	local_ok(c, NULL);
}

static struct agent *agent_of(struct migd *m, struct local_conn *c, const struct local_cred *who, json_t *rq)
{
	json_int_t id = json_integer_value(json_object_get(rq, "agent"));
	struct agent *a = agent_find(m, id, who->uid);

	if (!a)
		local_fail(c, ENOENT, "agent %lld: there is none of yours with that number", (long long)id);
	return a;
}

static size_t wants(struct agent *a)
{
	struct want *w;
	size_t n = 0;

	pthread_mutex_lock(&a->lock);
	list_each(w, &a->wants, node)
		n++;
	pthread_mutex_unlock(&a->lock);
	return n;
}

void agent_verb_more(struct migd *m, struct local_conn *c, const struct local_cred *who, json_t *rq)
{
	json_int_t n = json_integer_value(json_object_get(rq, "want"));
	struct error e = {0};
	int priority = agent_priority(json_string_value(json_object_get(rq, "priority")), who->uid, &e);
	struct agent *a;

	if (priority < 0) {
		local_fail(c, e.code, "%s", e.text);
		return;
	}
	if (!want_ok(c, n) || !(a = agent_of(m, c, who, rq)))
		return;
	if (wants(a) >= WANTS_MAX)
		local_fail(c, E2BIG, "agent %llu asks for too much at a time already", (unsigned long long)a->id);
	else if ((json_is_true(json_object_get(rq, "wait")) && want_more(a, (uint32_t)priority, (uint32_t)n)) ||
		agent_want(a, a->uid, (uint32_t)priority, (uint32_t)n, json_is_true(json_object_get(rq, "wait")), NULL, m->conf->name))
		local_ok(c, NULL);
	else
		local_fail(c, ENOMEM, "out of memory");
	agent_put(a);
}

bool agent_give_back(struct agent *a, uint64_t id)
{
	struct slot *s;
	uint64_t mid = 0;

	pthread_mutex_lock(&a->lock);
	s = agent_slot(a, id);
	if (s) {
		mid = s->mid;
		list_del(&s->node);
	}
	pthread_mutex_unlock(&a->lock);
	if (mid)
		agent_send_release(a, mid);
	free(s);
	return s != NULL;
}

void agent_verb_release(struct migd *m, struct local_conn *c, const struct local_cred *who, json_t *rq)
{
	struct agent *a = agent_of(m, c, who, rq);
	json_int_t id = json_integer_value(json_object_get(rq, "id"));

	if (!a)
		return;
	if (agent_give_back(a, (uint64_t)id))
		local_ok(c, NULL);
	else
		local_fail(c, ENOENT, "slot %lld: not held (any more)", (long long)id);
	agent_put(a);
}

int agents_open(struct migd *m, struct agents **out)
{
	struct agents *t = calloc(1, sizeof *t);

	(void)m;
	if (!t)
		return -ENOMEM;
	pthread_mutex_init(&t->lock, NULL);
	list_init(&t->list);
	*out = t;
	return 0;
}

/* The table itself stays: actors of families that live on without us may still give slots back until the process is gone. */
void agents_close(struct agents *t)
{
	struct agent *a;

	if (!t)
		return;
	pthread_mutex_lock(&t->lock);
	a = t->own;
	t->own = NULL;
	pthread_mutex_unlock(&t->lock);
	if (!a)
		return;
	pthread_mutex_lock(&a->lock);
	a->stop = true;
	if (a->stream)
		rpc_stream_cancel(a->stream);
	pthread_mutex_unlock(&a->lock);
	pthread_join(t->own_thread, NULL);
	agent_end(a);
}
