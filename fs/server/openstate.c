/* SPDX-License-Identifier: Apache-2.0 */
/* The table of open files; see openstate.h. */
#include "fs/server/openstate.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "conf/clock.h"
#include "fs/server/mounts.h"

void openstate_init(struct openstate *t)
{
	memset(t, 0, sizeof(*t));
	pthread_mutex_init(&t->lock, NULL);
	t->max = CLIENT_MAX_OPENS;
	t->next_id = t->none = clock_epoch() << 24; /* an id of an earlier run is unknown, never another file */
}

/* openstate.lock is held. */
static int inode_count(struct openstate *t, const struct open *o)
{
	struct inode_key k = {o->dev, o->ino};
	size_t *n = hash_get(&t->by_inode, &k, sizeof(k));

	if (!n) {
		n = calloc(1, sizeof(*n));
		if (!n || hash_set(&t->by_inode, &k, sizeof(k), n, NULL) < 0) {
			free(n);
			return -ENOMEM;
		}
	}
	++*n;
	return 0;
}

static void inode_uncount(struct openstate *t, const struct open *o)
{
	struct inode_key k = {o->dev, o->ino};
	size_t *n;

	pthread_mutex_lock(&t->lock);
	n = o->known ? hash_get(&t->by_inode, &k, sizeof(k)) : NULL;
	if (n && --*n == 0)
		free(hash_take(&t->by_inode, &k, sizeof(k)));
	pthread_mutex_unlock(&t->lock);
}

bool openstate_is_open(struct openstate *t, dev_t dev, ino_t ino)
{
	struct inode_key k = {dev, ino};
	bool r;

	pthread_mutex_lock(&t->lock);
	r = hash_get(&t->by_inode, &k, sizeof(k)) != NULL;
	pthread_mutex_unlock(&t->lock);
	return r;
}

void open_put(struct open *o)
{
	if (!o || atomic_fetch_sub(&o->refs, 1) != 1)
		return;
	inode_uncount(o->table, o);
	if (!o->table->closed || !o->table->closed(o->table->closed_arg, o))
		close(o->fd);
	atomic_fetch_sub(&o->client->nopens, 1);
	atomic_fetch_sub(&o->client->host->opens, 1);
	client_put(o->client);
	mount_node_put(o->mount);
	pthread_mutex_destroy(&o->lock);
	free(o);
}

static void open_put_value(void *o)
{
	open_put(o);
}

void openstate_destroy(struct openstate *t)
{
	struct hash all = t->by_id; /* open_put() takes the lock */

	t->by_id = (struct hash)HASH_INIT;
	hash_clear(&all, open_put_value);
	hash_clear(&t->by_inode, free);
	pthread_mutex_destroy(&t->lock);
}

int openstate_add(struct openstate *t, struct client *c, const struct object *obj, int fd, const struct stat *st, int flags, uid_t uid,
	const unsigned char *handle, size_t handle_len, struct open **out)
{
	struct open *o = calloc(1, sizeof(*o));
	int r;

	if (!o) {
		close(fd);
		return -ENOMEM;
	}
	o->client = client_ref(c);
	o->ex = obj->ex;
	o->mount = mount_node_get(obj->mount);
	o->fd = fd;
	o->table = t;
	o->dev = st->st_dev;
	o->ino = st->st_ino;
	o->dir = S_ISDIR(st->st_mode);
	o->write = (flags & O_ACCMODE) != O_RDONLY;
	o->flags = flags;
	o->uid = uid;
	memcpy(o->handle, handle, handle_len);
	o->handle_len = handle_len;
	atomic_init(&o->refs, 2);
	pthread_mutex_init(&o->lock, NULL);
	atomic_fetch_add(&c->nopens, 1);
	if (atomic_fetch_add(&c->host->opens, 1) >= t->max) {
		open_put(o);
		open_put(o);
		return -EMFILE;
	}
	pthread_mutex_lock(&t->lock);
	o->id = ++t->next_id;
	/* a client that was given up meanwhile would leave it for ever */
	r = atomic_load(&c->gone) ? -ESTALE : inode_count(t, o);
	o->known = r == 0;
	if (r == 0)
		r = hash_set_u64(&t->by_id, o->id, o, NULL);
	pthread_mutex_unlock(&t->lock);
	if (r < 0) {
		open_put(o);
		open_put(o);
		return r;
	}
	*out = o;
	return 0;
}

struct open *openstate_get(struct openstate *t, const struct client *c, uint64_t id)
{
	struct open *o;

	pthread_mutex_lock(&t->lock);
	o = hash_get_u64(&t->by_id, id);
	if (o && o->client != c)
		o = NULL;
	if (o)
		atomic_fetch_add(&o->refs, 1);
	pthread_mutex_unlock(&t->lock);
	return o;
}

bool openstate_has(struct openstate *t, const struct client *c, uint64_t id)
{
	struct open *o;
	bool r;

	pthread_mutex_lock(&t->lock);
	o = hash_get_u64(&t->by_id, id);
	r = o && o->client == c;
	pthread_mutex_unlock(&t->lock);
	return r;
}

struct open *openstate_take(struct openstate *t, const struct client *c, uint64_t id)
{
	struct open *o;

	pthread_mutex_lock(&t->lock);
	o = hash_get_u64(&t->by_id, id);
	if (o && o->client == c)
		hash_take_u64(&t->by_id, id);
	else
		o = NULL;
	pthread_mutex_unlock(&t->lock);
	return o;
}

size_t openstate_drop_client(struct openstate *t, const struct client *c)
{
	struct list gone = LIST_INIT(gone), *l;
	struct hash_iter it = {0};
	struct open *o;
	size_t n = 0;

	pthread_mutex_lock(&t->lock);
	while ((o = hash_next(&t->by_id, &it)))
		if (o->client == c) {
			hash_take_u64(&t->by_id, o->id);
			list_add_tail(&gone, &o->gone);
			n++;
		}
	pthread_mutex_unlock(&t->lock);
	while ((l = list_pop(&gone)))
		open_put(list_entry(l, struct open, gone));
	return n;
}

void openstate_each(struct openstate *t, void (*fn)(void *arg, struct open *o), void *arg)
{
	struct hash_iter it = {0};
	struct open *o;

	pthread_mutex_lock(&t->lock);
	while ((o = hash_next(&t->by_id, &it)))
		fn(arg, o);
	pthread_mutex_unlock(&t->lock);
}
