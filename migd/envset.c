// SPDX-License-Identifier: Apache-2.0
/* Sets of variables by session and user; see envset.h. */
#include "migd/envset.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "conf/list.h"

enum { SESSIONS_MAX = 1024 };

struct envset {
	struct list node;
	uid_t uid;
	json_t *sessions; /* of numbers */
	json_t *vars;	  /* name -> value */
	size_t bytes;
};

struct envsets {
	struct list list;
};

struct envsets *envsets_new(void)
{
	struct envsets *t = calloc(1, sizeof(*t));

	if (t)
		list_init(&t->list);
	return t;
}

static void set_free(struct envset *s)
{
	list_del(&s->node);
	json_decref(s->sessions);
	json_decref(s->vars);
	free(s);
}

void envsets_free(struct envsets *t)
{
	struct envset *s, *tmp;

	if (!t)
		return;
	list_each_safe(s, tmp, &t->list, node)
		set_free(s);
	free(t);
}

static bool has_session(const struct envset *s, pid_t session)
{
	json_t *v;
	size_t i;

	json_array_foreach(s->sessions, i, v)
		if (json_integer_value(v) == session)
			return true;
	return false;
}

struct envset *envset_find(struct envsets *t, pid_t session, uid_t uid)
{
	struct envset *s;

	list_each(s, &t->list, node)
		if (s->uid == uid && has_session(s, session))
			return s;
	return NULL;
}

struct envset *envset_make(struct envsets *t, pid_t session, uid_t uid)
{
	struct envset *s = envset_find(t, session, uid);

	if (s)
		return s;
	s = calloc(1, sizeof(*s));
	if (!s)
		return NULL;
	s->uid = uid;
	s->sessions = json_array();
	s->vars = json_object();
	list_add_tail(&t->list, &s->node);
	if (!s->sessions || !s->vars || envset_tie(s, session)) {
		set_free(s);
		return NULL;
	}
	return s;
}

int envset_tie(struct envset *s, pid_t session)
{
	if (has_session(s, session))
		return 0;
	if (json_array_size(s->sessions) >= SESSIONS_MAX)
		json_array_remove(s->sessions, 1); /* the first is the login's own */
	return json_array_append_new(s->sessions, json_integer(session)) ? -ENOMEM : 0;
}

const char *envset_get(const struct envset *s, const char *name)
{
	return json_string_value(json_object_get(s->vars, name));
}

static bool name_ok(const char *n)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789";

	return *n && strlen(n) <= ENV_NAME_MAX && strspn(n, letters) == strlen(n) && !(*n >= '0' && *n <= '9');
}

static size_t size_of(const char *name, const char *value)
{
	return value ? strlen(name) + strlen(value) + 8 : 0;
}

int envset_set(struct envset *s, const char *name, const char *value, struct error *e)
{
	size_t bytes = s->bytes - size_of(name, envset_get(s, name)) + size_of(name, value);
	json_t *v;

	if (!name_ok(name))
		return error_set(e, EINVAL, "\"%.40s\": expected a name of letters, digits and _, no digit in front", name);
	if (strlen(value) > ENV_VALUE_MAX)
		return error_set(e, E2BIG, "%s: expected a value of at most %u bytes, found %zu", name, ENV_VALUE_MAX, strlen(value));
	if (bytes > ENV_TOTAL_MAX)
		return error_set(e, E2BIG, "%s: no room: all variables together have at most %u bytes", name, ENV_TOTAL_MAX);
	v = json_stringn_nocheck(value, strlen(value));
	if (!v || json_object_set_new_nocheck(s->vars, name, v))
		return error_set(e, ENOMEM, "out of memory");
	s->bytes = bytes;
	return 0;
}

int envset_unset(struct envset *s, const char *name, struct error *e)
{
	const char *have = envset_get(s, name);

	if (!have)
		return error_set(e, ENOENT, "%s: not set", name);
	s->bytes -= size_of(name, have);
	json_object_del(s->vars, name);
	return 0;
}

json_t *envset_list(const struct envset *s)
{
	return s->vars;
}

void envsets_clean(struct envsets *t, bool (*lives)(void *arg, pid_t session), void *arg)
{
	struct envset *s, *tmp;

	list_each_safe(s, tmp, &t->list, node) {
		for (size_t i = json_array_size(s->sessions); i-- > 0;)
			if (!lives(arg, (pid_t)json_integer_value(json_array_get(s->sessions, i))))
				json_array_remove(s->sessions, i);
		if (!json_array_size(s->sessions))
			set_free(s);
	}
}

json_t *envsets_save(const struct envsets *t)
{
	json_t *a = json_array();
	struct envset *s;

	list_each(s, &t->list, node)
		json_array_append_new(a, json_pack("{s:I, s:O, s:O}", "uid", (json_int_t)s->uid, "sessions", s->sessions, "vars", s->vars));
	return a;
}

static int load_one(struct envsets *t, json_t *one)
{
	json_t *sessions = json_object_get(one, "sessions"), *vars = json_object_get(one, "vars"), *v;
	uid_t uid = (uid_t)json_integer_value(json_object_get(one, "uid"));
	struct envset *s;
	const char *name;
	size_t i;

	if (!json_is_integer(json_object_get(one, "uid")) || !json_array_size(sessions) || !json_is_object(vars))
		return -EINVAL;
	s = envset_make(t, (pid_t)json_integer_value(json_array_get(sessions, 0)), uid);
	if (!s)
		return -ENOMEM;
	json_array_foreach(sessions, i, v)
		envset_tie(s, (pid_t)json_integer_value(v));
	json_object_foreach(vars, name, v)
		if (!json_is_string(v) || envset_set(s, name, json_string_value(v), NULL))
			return -EINVAL;
	return 0;
}

int envsets_load(struct envsets *t, const json_t *saved)
{
	json_t *one;
	size_t i;
	int err = json_is_array(saved) ? 0 : -EINVAL;

	json_array_foreach(saved, i, one)
		if (!err)
			err = load_one(t, one);
	return err;
}
