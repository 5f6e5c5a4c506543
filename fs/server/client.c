/* SPDX-License-Identifier: Apache-2.0 */
/* Who the clients are and whether they live; see client.h. */
#include "fs/server/client.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "conf/clock.h"
#include "conf/log.h"

void clients_init(struct clients *t)
{
	memset(t, 0, sizeof(*t));
	pthread_mutex_init(&t->lock, NULL);
	t->next_id = clock_epoch() << 20; /* numbers of another run are not ours */
}

struct client *client_ref(struct client *c)
{
	atomic_fetch_add(&c->refs, 1);
	return c;
}

void client_put(struct client *c)
{
	if (!c || atomic_fetch_sub(&c->refs, 1) != 1)
		return;
	free(c->peer);
	free(c);
}

static void client_put_value(void *c)
{
	client_put(c);
}

void clients_destroy(struct clients *t)
{
	hash_clear(&t->by_name, client_put_value);
	hash_clear(&t->hosts, free);
	pthread_mutex_destroy(&t->lock);
}

static int client_name(const char *peer, uint64_t epoch, char *out, size_t n)
{
	return snprintf(out, n, "%s %016llx", peer, (unsigned long long)epoch) < (int)n ? 0 : -1;
}

static int count_of_peer(const struct clients *t, const char *peer)
{
	struct hash_iter it = {0};
	struct client *c;
	int n = 0;

	while ((c = hash_next(&t->by_name, &it)))
		n += strcmp(c->peer, peer) == 0;
	return n;
}

static struct host_use *host_get(struct clients *t, const char *peer)
{
	struct host_use *h = hash_get_str(&t->hosts, peer);

	if (h)
		return h;
	h = calloc(1, sizeof(*h));
	if (h && hash_set_str(&t->hosts, peer, h, NULL) == 0)
		return h;
	free(h);
	return NULL;
}

static struct client *client_new(struct clients *t, const char *peer, uint64_t epoch, const char *name)
{
	struct client *c;

	if (count_of_peer(t, peer) >= CLIENT_MAX_PER_PEER)
		return NULL;
	c = calloc(1, sizeof(*c));
	if (!c)
		return NULL;
	c->peer = strdup(peer);
	c->host = host_get(t, peer);
	c->epoch = epoch;
	c->id = ++t->next_id;
	list_init(&c->link);
	atomic_init(&c->refs, 1);
	if (!c->peer || !c->host || hash_set_str(&t->by_name, name, c, NULL) < 0) {
		client_put(c);
		return NULL;
	}
	return c;
}

struct client *clients_get(struct clients *t, const char *peer, uint64_t epoch)
{
	char name[320];
	struct client *c;

	if (client_name(peer, epoch, name, sizeof(name)) < 0)
		return NULL;
	pthread_mutex_lock(&t->lock);
	c = hash_get_str(&t->by_name, name);
	if (!c)
		c = client_new(t, peer, epoch, name);
	if (c) {
		client_ref(c);
		atomic_store(&c->last_seen, clock_boot_ns());
		atomic_fetch_add(&c->calls, 1);
	}
	pthread_mutex_unlock(&t->lock);
	return c;
}

static void take_out(struct clients *t, struct client *c, struct list *gone)
{
	char name[320];

	client_name(c->peer, c->epoch, name, sizeof(name));
	hash_take_str(&t->by_name, name);
	atomic_store(&c->gone, true);
	list_add_tail(gone, &c->link); /* the map's reference goes to the list */
}

void clients_claim(struct clients *t, struct client *c, const char *instance, struct list *gone)
{
	struct hash_iter it = {0};
	struct client *o;

	if (!instance || !instance[0])
		return;
	pthread_mutex_lock(&t->lock);
	snprintf(c->instance, sizeof(c->instance), "%s", instance);
	while ((o = hash_next(&t->by_name, &it)))
		if (o != c && !strcmp(o->peer, c->peer) && !strcmp(o->instance, c->instance))
			take_out(t, o, gone);
	pthread_mutex_unlock(&t->lock);
}

static bool is_over(const struct client *c, uint64_t now, bool in_the_way)
{
	uint64_t fenced = atomic_load(&c->fenced), silent = now - atomic_load(&c->last_seen);

	if (now < atomic_load(&c->last_seen))
		return false;
	if (silent > CLIENT_FORGET_NS || (in_the_way && silent > CLIENT_TERM_NS + CLIENT_MARGIN_NS))
		return true;
	return fenced && now > fenced + CLIENT_TERM_NS + CLIENT_MARGIN_NS; /* it calls, and is refused: its term ends by its own clock */
}

/* Counted. Whoever waits for one of them waits until the next time if there is no memory. */
static size_t silent_ones(struct clients *t, uint64_t now, struct client ***out)
{
	struct hash_iter it = {0};
	struct client *c;
	size_t n = 0;

	pthread_mutex_lock(&t->lock);
	*out = t->by_name.count ? calloc(t->by_name.count, sizeof(struct client *)) : NULL;
	while (*out && (c = hash_next(&t->by_name, &it)))
		if (is_over(c, now, true))
			(*out)[n++] = client_ref(c);
	pthread_mutex_unlock(&t->lock);
	return n;
}

static bool is_one_of(const struct client *c, struct client *const *v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (v[i] == c)
			return true;
	return false;
}

void clients_sweep(struct clients *t, uint64_t now, bool (*in_the_way)(void *arg, struct client *c), void *arg, struct list *gone)
{
	struct client *c, **asked = NULL;
	struct hash_iter it = {0};
	size_t n = in_the_way ? silent_ones(t, now, &asked) : 0;

	for (size_t i = 0; i < n; i++)
		if (!in_the_way(arg, asked[i])) {
			client_put(asked[i]);
			asked[i] = NULL;
		}
	pthread_mutex_lock(&t->lock);
	while ((c = hash_next(&t->by_name, &it)))
		if (is_over(c, now, is_one_of(c, asked, n))) { /* who called meanwhile is not */
			atomic_store(&c->given_up, true);
			take_out(t, c, gone);
		}
	pthread_mutex_unlock(&t->lock);
	for (size_t i = 0; i < n; i++)
		client_put(asked[i]);
	free(asked);
}

void clients_fence(struct clients *t, uint64_t id, uint64_t now)
{
	struct hash_iter it = {0};
	struct client *c;

	pthread_mutex_lock(&t->lock);
	while ((c = hash_next(&t->by_name, &it)))
		if (c->id == id && !atomic_load(&c->fenced)) {
			atomic_store(&c->fenced, now);
			log_warn("client %s (%s) does not give back what others ask for: refused until its leases are over", c->peer, c->instance);
		}
	pthread_mutex_unlock(&t->lock);
}

void clients_each(struct clients *t, void (*fn)(void *arg, struct client *c), void *arg)
{
	struct hash_iter it = {0};
	struct client *c;

	pthread_mutex_lock(&t->lock);
	while ((c = hash_next(&t->by_name, &it)))
		fn(arg, c);
	pthread_mutex_unlock(&t->lock);
}
