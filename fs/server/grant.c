/* SPDX-License-Identifier: Apache-2.0 */
/* Grants on the home domain; see grant.h. */
#include "fs/server/grant.h"
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/log.h"
#include "conf/save.h"

struct grant {
	struct list link;
	bool said; /* grants_only() */
	char *host, *family;
	uid_t uid;
	bool any_group; /* the user is unknown here and migd named no groups: all but 0 */
	size_t ngids;
	gid_t *gids;
};

void grants_init(struct grants *g)
{
	pthread_mutex_init(&g->lock, NULL);
	list_init(&g->list);
	g->path = NULL;
}

static void grant_free(struct grant *x)
{
	if (!x)
		return;
	free(x->host);
	free(x->family);
	free(x->gids);
	free(x);
}

void grants_destroy(struct grants *g)
{
	struct list *l;

	while ((l = list_pop(&g->list)))
		grant_free(list_entry(l, struct grant, link));
	free(g->path);
	g->path = NULL;
	pthread_mutex_destroy(&g->lock);
}

static int groups_of_user(uid_t uid, gid_t **out, size_t *n)
{
	struct passwd pw, *found = NULL;
	char room[4096];
	int count = 256;

	if (getpwuid_r(uid, &pw, room, sizeof(room), &found) != 0 || !found)
		return -ENOENT;
	*out = calloc((size_t)count, sizeof(gid_t));
	if (!*out)
		return -ENOMEM;
	if (getgrouplist(found->pw_name, found->pw_gid, *out, &count) < 0)
		count = 256;
	*n = (size_t)count;
	return 0;
}

static struct grant *grant_new(const char *host, uid_t uid, const char *family, const gid_t *gids, size_t ngids)
{
	struct grant *x = calloc(1, sizeof(*x));

	if (!x)
		return NULL;
	x->host = strdup(host);
	x->family = strdup(family);
	x->uid = uid;
	if (gids) {
		x->gids = malloc((ngids + 1) * sizeof(gid_t));
		if (x->gids)
			memcpy(x->gids, gids, ngids * sizeof(gid_t));
		x->ngids = ngids;
	} else if (groups_of_user(uid, &x->gids, &x->ngids) < 0) {
		x->any_group = true;
		x->gids = malloc(sizeof(gid_t));
	}
	if (!x->host || !x->family || !x->gids) {
		grant_free(x);
		return NULL;
	}
	return x;
}

static bool grant_is(const struct grant *x, const char *host, uid_t uid, const char *family)
{
	return x->uid == uid && !strcmp(x->host, host) && (!family || !strcmp(x->family, family));
}

static int grants_remove_locked(struct grants *g, const char *host, uid_t uid, const char *family)
{
	struct grant *x, *next;
	int r = -ENOENT;

	list_each_safe(x, next, &g->list, link)
		if (grant_is(x, host, uid, family)) {
			list_del(&x->link);
			grant_free(x);
			r = 0;
		}
	return r;
}

/* With the lock. A whole file or the one before: it replaces it by name. */
static void grants_save(struct grants *g)
{
	json_t *rows, *all;
	struct grant *x;
	int r;

	if (!g->path)
		return;
	rows = json_array();
	list_each(x, &g->list, link) {
		json_t *gids = json_array();

		for (size_t i = 0; i < x->ngids; i++)
			json_array_append_new(gids, json_integer(x->gids[i]));
		json_array_append_new(rows, json_pack("{s:s,s:s,s:I,s:b,s:o}", "host", x->host, "family", x->family, "uid", (json_int_t)x->uid, "any_group",
						    x->any_group, "gids", gids));
	}
	all = json_pack("{s:s,s:o}", "boot", clock_boot_id(), "grants", rows);
	r = save_json(g->path, all, 0, false);
	if (r < 0) {
		log_warn("%s: cannot write: %s; a restart of spritefsd will take their files from guests", g->path, strerror(-r));
		unlink(g->path); /* what was taken back must not come again */
	}
	json_decref(all);
}

static struct grant *grant_of(const json_t *row)
{
	const char *host, *family;
	json_t *list, *id;
	struct grant *x;
	json_int_t uid;
	size_t i;
	int any;

	if (json_unpack((json_t *)row, "{s:s,s:s,s:I,s:b,s:o}", "host", &host, "family", &family, "uid", &uid, "any_group", &any, "gids", &list) < 0)
		return NULL;
	x = calloc(1, sizeof(*x));
	if (!x)
		return NULL;
	x->host = strdup(host);
	x->family = strdup(family);
	x->uid = (uid_t)uid;
	x->any_group = any;
	x->gids = calloc(json_array_size(list) + 1, sizeof(gid_t));
	if (!x->host || !x->family || !x->gids) {
		grant_free(x);
		return NULL;
	}
	json_array_foreach(list, i, id)
		x->gids[x->ngids++] = (gid_t)json_integer_value(id);
	return x;
}

void grants_load(struct grants *g, const char *dir)
{
	json_t *all, *row;
	struct grant *x;
	size_t i;

	pthread_mutex_lock(&g->lock);
	if (asprintf(&g->path, "%s/grants.json", dir) < 0)
		g->path = NULL;
	all = g->path ? json_load_file(g->path, 0, NULL) : NULL;
	if (all && json_string_value(json_object_get(all, "boot")) && !strcmp(json_string_value(json_object_get(all, "boot")), clock_boot_id()))
		json_array_foreach(json_object_get(all, "grants"), i, row)
			if ((x = grant_of(row)))
				list_add_tail(&g->list, &x->link);
	json_decref(all);
	pthread_mutex_unlock(&g->lock);
}

int grants_remove(struct grants *g, const char *host, uid_t uid, const char *family)
{
	int r;

	pthread_mutex_lock(&g->lock);
	r = grants_remove_locked(g, host, uid, family);
	if (r == 0)
		grants_save(g);
	pthread_mutex_unlock(&g->lock);
	return r;
}

int grants_add(struct grants *g, const char *host, uid_t uid, const char *family, const gid_t *gids, size_t ngids)
{
	struct grant *x = grant_new(host, uid, family, gids, ngids);

	if (!x)
		return -ENOMEM;
	pthread_mutex_lock(&g->lock);
	grants_remove_locked(g, host, uid, family); /* in one step: no request in between is refused */
	list_add_tail(&g->list, &x->link);
	grants_save(g);
	pthread_mutex_unlock(&g->lock);
	return 0;
}

static bool row_is(const json_t *row, const struct grant *x)
{
	return grant_is(x, json_string_value(json_object_get(row, "host")), (uid_t)json_integer_value(json_object_get(row, "uid")),
		json_string_value(json_object_get(row, "family")));
}

static bool row_good(const json_t *row)
{
	return json_is_string(json_object_get(row, "host")) && json_is_string(json_object_get(row, "family")) && json_is_integer(json_object_get(row, "uid"));
}

/* With the lock. The one that the row names, made if it is not there; NULL: no memory. */
static struct grant *grant_said(struct grants *g, const json_t *row, int *changed)
{
	struct grant *x;

	list_each(x, &g->list, link)
		if (row_is(row, x))
			return x;
	x = grant_new(json_string_value(json_object_get(row, "host")), (uid_t)json_integer_value(json_object_get(row, "uid")),
		json_string_value(json_object_get(row, "family")), NULL, 0);
	if (x) {
		list_add_tail(&g->list, &x->link);
		++*changed;
	}
	return x;
}

int grants_only(struct grants *g, const json_t *rows)
{
	struct grant *x, *next;
	int changed = 0, r = 0;
	json_t *row;
	size_t i;

	json_array_foreach((json_t *)rows, i, row)
		if (!row_good(row))
			return -EINVAL;
	pthread_mutex_lock(&g->lock);
	list_each(x, &g->list, link)
		x->said = false;
	json_array_foreach((json_t *)rows, i, row) {
		x = grant_said(g, row, &changed);
		if (x)
			x->said = true;
		else
			r = -ENOMEM;
	}
	list_each_safe(x, next, &g->list, link)
		if (!x->said) {
			list_del(&x->link);
			grant_free(x);
			changed++;
		}
	if (changed)
		grants_save(g);
	pthread_mutex_unlock(&g->lock);
	return r < 0 ? r : changed;
}

bool grants_host(struct grants *g, const char *host)
{
	struct grant *x;
	bool found = false;

	pthread_mutex_lock(&g->lock);
	list_each(x, &g->list, link)
		found = found || !strcmp(x->host, host);
	pthread_mutex_unlock(&g->lock);
	return found;
}

bool grants_stand_in(struct grants *g, const char *host, uid_t *uid, gid_t *gid)
{
	struct grant *x;
	bool found = false;

	pthread_mutex_lock(&g->lock);
	list_each(x, &g->list, link) {
		if (found || strcmp(x->host, host) != 0 || x->uid == 0)
			continue;
		found = true;
		*uid = x->uid;
		*gid = x->ngids ? x->gids[0] : 65534;
	}
	pthread_mutex_unlock(&g->lock);
	return found;
}

bool grants_allow(struct grants *g, const char *host, uid_t uid)
{
	struct grant *x;
	bool found = false;

	pthread_mutex_lock(&g->lock);
	list_each(x, &g->list, link)
		found = found || grant_is(x, host, uid, NULL);
	pthread_mutex_unlock(&g->lock);
	return found;
}

static bool group_allowed(const struct grants *g, const char *host, uid_t uid, gid_t gid)
{
	struct grant *x;

	if (uid == 0)
		return true;
	list_each(x, &g->list, link) {
		if (!grant_is(x, host, uid, NULL))
			continue;
		if (x->any_group && gid != 0)
			return true;
		for (size_t i = 0; i < x->ngids; i++)
			if (x->gids[i] == gid)
				return true;
	}
	return false;
}

void grants_trim(struct grants *g, const char *host, struct ids *ids)
{
	size_t n = 0;

	pthread_mutex_lock(&g->lock);
	for (size_t i = 0; i < ids->ngroups; i++)
		if (group_allowed(g, host, ids->uid, ids->groups[i]))
			ids->groups[n++] = ids->groups[i];
	ids->ngroups = n;
	if (!group_allowed(g, host, ids->uid, ids->gid))
		ids->gid = IDS_NOBODY;
	pthread_mutex_unlock(&g->lock);
}

json_t *grants_json(struct grants *g)
{
	json_t *a = json_array();
	struct grant *x;

	pthread_mutex_lock(&g->lock);
	list_each(x, &g->list, link)
		json_array_append_new(a, json_pack("{s:s,s:i,s:s}", "host", x->host, "uid", (int)x->uid, "family", x->family));
	pthread_mutex_unlock(&g->lock);
	return a;
}
