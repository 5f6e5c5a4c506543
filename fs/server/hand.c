/* SPDX-License-Identifier: Apache-2.0 */
/* See hand.h. */
#include "fs/server/hand.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "fs/hand.h"
#include "fs/server/lease.h"

#define TOKEN HAND_TOKEN

struct hand {
	uint64_t open; /* of the client that offers */
	struct client *client; /* counted */
	uint64_t pos; /* where the kernel over there believes it to stand */
	unsigned char token[TOKEN];
};

struct hands {
	pthread_mutex_t lock;
	struct hash by_token, offsets;
};

int hands_start(struct fsd *d)
{
	d->hands = calloc(1, sizeof(*d->hands));
	if (!d->hands)
		return -ENOMEM;
	pthread_mutex_init(&d->hands->lock, NULL);
	return 0;
}

static void hand_free(void *p)
{
	struct hand *h = p;

	atomic_fetch_sub(&h->client->host->hands, 1);
	client_put(h->client);
	free(h);
}

/* After openstate_destroy(): no offset is left. */
void hands_stop(struct fsd *d)
{
	if (!d->hands)
		return;
	hash_clear(&d->hands->by_token, hand_free);
	hash_clear(&d->hands->offsets, NULL);
	pthread_mutex_destroy(&d->hands->lock);
	free(d->hands);
	d->hands = NULL;
}

/* ---- offsets; with hands.lock */

static struct offset *offset_get(struct hands *t, const void *token, uint64_t pos)
{
	struct offset *of = hash_get(&t->offsets, token, TOKEN);

	if (of) {
		of->refs++;
		return of;
	}
	of = calloc(1, sizeof(*of));
	if (!of)
		return NULL;
	pthread_mutex_init(&of->lock, NULL);
	of->pos = pos;
	of->refs = 1;
	memcpy(of->token, token, TOKEN);
	if (hash_set(&t->offsets, token, TOKEN, of, NULL) == 0)
		return of;
	free(of);
	return NULL;
}

void hand_offset_put(struct fsd *d, struct offset *of)
{
	bool last;

	if (!of)
		return;
	pthread_mutex_lock(&d->hands->lock);
	last = --of->refs == 0;
	if (last)
		hash_take(&d->hands->offsets, of->token, TOKEN);
	pthread_mutex_unlock(&d->hands->lock);
	if (last) {
		pthread_mutex_destroy(&of->lock);
		free(of);
	}
}

/*
 * Where it is moved to, written down before the write that moves it: a write whose answer was lost with the server must not be written over by the
 * next, of another client, who cannot know of it.
 */
void hand_offset_intend(struct fsd *d, const struct offset *of, uint64_t len)
{
	struct intent it = {.method = FS_HAND, .dev = of->pos, .ino = of->pos + len};
	uint64_t name[2];

	memcpy(name, of->token, sizeof(name));
	intents_put(d->intents, "@offset", name[0], name[1], &it);
}

/* What the last run wrote down of it. A write that reached the file's end was made. */
static uint64_t offset_of_last_run(struct fsd *d, const struct open *f, const struct offset *of)
{
	struct intent it;
	uint64_t name[2];
	struct stat st;

	memcpy(name, of->token, sizeof(name));
	if (!intents_take(d->intents, "@offset", name[0], name[1], FS_HAND, &it) || fstat(f->fd, &st) < 0)
		return 0;
	return (uint64_t)st.st_size >= it.ino ? it.ino : it.dev;
}

int hand_reclaim(struct fsd *d, struct open *f, ProtobufCBinaryData token, uint64_t pos)
{
	struct offset *of;
	uint64_t known;

	if (token.len != TOKEN || pos > INT64_MAX)
		return -EINVAL;
	pthread_mutex_lock(&d->hands->lock);
	of = f->offset;
	if (!of)
		of = f->offset = offset_get(d->hands, token.data, pos);
	pthread_mutex_unlock(&d->hands->lock);
	if (!of)
		return -ENOMEM;
	pthread_mutex_lock(&of->lock);
	known = offset_of_last_run(d, f, of);
	if (known > pos)
		pos = known;
	if (pos > of->pos)
		of->pos = pos;
	pthread_mutex_unlock(&of->lock);
	return 0;
}

/* ---- offers */

/* With hands.lock. Takes out those whose open is closed; called when there are many. */
static void hands_prune(struct fsd *d)
{
	struct hash_iter it = {0};
	struct hand *h;

	while ((h = hash_next(&d->hands->by_token, &it))) {
		if (openstate_has(&d->opens, h->client, h->open))
			continue;
		hash_take(&d->hands->by_token, h->token, TOKEN);
		hand_free(h);
	}
}

/* The open that is offered under this token, counted; NULL: no such offer, or its open is closed: then it is over. */
static struct open *hand_find(struct fsd *d, ProtobufCBinaryData token, uint64_t *pos)
{
	struct open *f = NULL;
	struct hand *h;

	if (token.len != TOKEN)
		return NULL;
	pthread_mutex_lock(&d->hands->lock);
	h = hash_get(&d->hands->by_token, token.data, TOKEN);
	if (h)
		f = openstate_get(&d->opens, h->client, h->open);
	if (f)
		*pos = h->pos;
	if (h && !f) {
		hash_take(&d->hands->by_token, h->token, TOKEN);
		hand_free(h);
	}
	pthread_mutex_unlock(&d->hands->lock);
	return f;
}

static uint64_t mark_of(ProtobufCBinaryData token)
{
	uint64_t m;

	memcpy(&m, token.data, sizeof(m));
	return m | 1; /* never 0 */
}

uint64_t hand_mark(struct fsd *d, ProtobufCBinaryData token)
{
	uint64_t pos;
	struct open *f = hand_find(d, token, &pos);

	if (!f)
		return 0;
	open_put(f);
	return mark_of(token);
}

static int hand_add(struct fsd *d, struct client *c, const Sprite__Fs__HandReq *in)
{
	struct hand *h = calloc(1, sizeof(*h)), *old = NULL;
	int r;

	if (!h)
		return -ENOMEM;
	h->open = in->open;
	h->pos = in->pos;
	h->client = client_ref(c);
	atomic_fetch_add(&c->host->hands, 1);
	memcpy(h->token, in->token.data, TOKEN);
	pthread_mutex_lock(&d->hands->lock);
	if (atomic_load(&c->host->hands) > CLIENT_MAX_HANDS || d->hands->by_token.count >= HAND_MAX)
		hands_prune(d);
	old = hash_get(&d->hands->by_token, h->token, TOKEN);
	r = atomic_load(&c->host->hands) > CLIENT_MAX_HANDS || d->hands->by_token.count >= HAND_MAX ? -EUSERS :
	    old && (old->client != c || old->open != in->open) ? -EEXIST :
						       hash_set(&d->hands->by_token, h->token, TOKEN, h, (void **)&old);
	pthread_mutex_unlock(&d->hands->lock);
	if (r < 0)
		hand_free(h);
	else if (old)
		hand_free(old);
	return r;
}

static int offer(struct op *o, const Sprite__Fs__HandReq *in)
{
	Sprite__Fs__HandRep rep = SPRITE__FS__HAND_REP__INIT;
	struct open *f;
	int r = 0;

	if (in->token.len != TOKEN || in->pos > INT64_MAX || in->n_owners > HAND_OWNERS_MAX)
		return -EINVAL;
	f = op_open(o, in->open, &r);
	if (!f)
		return r;
	if (in->shared && !f->offset) {
		r = !f->write || (f->flags & O_ACCMODE) != O_WRONLY ? -EOPNOTSUPP : hand_reclaim(o->d, f, in->token, in->pos);
	}
	if (r == 0)
		r = hand_add(o->d, o->client, in);
	if (r == 0) {
		locks_mark(o->d, f, in->owners, in->n_owners, mark_of(in->token));
		rep.token = in->token;
		rep.shared = f->offset != NULL;
		rep.pos = in->pos;
		if (f->offset) {
			pthread_mutex_lock(&f->offset->lock);
			rep.pos = f->offset->pos;
			pthread_mutex_unlock(&f->offset->lock);
			rep.stream = (ProtobufCBinaryData){TOKEN, f->offset->token};
		}
		r = op_done(o, &rep.base);
	}
	open_put(f);
	return r;
}

/* Another open of the same file. The descriptor leads to it whether it still has a name or not. */
static int claim(struct op *o, const Sprite__Fs__HandReq *in)
{
	Sprite__Fs__HandRep rep = SPRITE__FS__HAND_REP__INIT;
	struct op_entry e = {.msg = SPRITE__FS__ENTRY__INIT};
	uint64_t pos = 0;
	struct open *f = hand_find(o->d, in->token, &pos), *mine = NULL;
	struct object obj;
	struct stat st;
	int fd, r;

	if (!f)
		return -ENOENT;
	obj = (struct object){.fd = f->fd, .ex = f->ex, .mount = f->mount};
	r = op_access(o, f->ex, in->cred);
	fd = r < 0 ? -1 : open(op_path(f->fd).s, (f->flags & (O_ACCMODE | O_DIRECTORY | O_SYNC | O_DSYNC | O_NOATIME)) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (r == 0 && fd < 0)
		r = -errno;
	if (r == 0)
		r = fstat(fd, &st) < 0 ? -errno :
					 openstate_add(&o->d->opens, o->client, &obj, fd, &st, f->flags & ~O_TRUNC, f->uid, f->handle, f->handle_len, &mine);
	if (r < 0) {
		open_put(f);
		return r;
	}
	if (f->offset) {
		r = hand_reclaim(o->d, mine, (ProtobufCBinaryData){TOKEN, f->offset->token}, 0);
		if (r < 0) {
			openstate_take(&o->d->opens, o->client, mine->id);
			open_put(mine);
			open_put(mine);
			open_put(f);
			return r;
		}
		rep.stream = (ProtobufCBinaryData){TOKEN, f->offset->token};
	}
	lease_open(o->d, mine);
	rep.pos = pos;
	sprite__fs__attr__init(&e.attr);
	op_attr(o->d, f->mount, fd, &st, &e.attr);
	e.msg.attr = &e.attr;
	e.msg.handle = open_handle_of(f);
	rep.entry = &e.msg;
	rep.open = mine->id;
	rep.flags = (uint32_t)f->flags;
	rep.shared = f->offset != NULL;
	rep.token = in->token;
	open_put(mine);
	r = r < 0 ? r : op_done(o, &rep.base);
	open_put(f);
	return r;
}

static int cancel(struct op *o, const Sprite__Fs__HandReq *in)
{
	Sprite__Fs__HandRep rep = SPRITE__FS__HAND_REP__INIT;
	struct hand *h = NULL;

	if (in->token.len != TOKEN)
		return -EINVAL;
	pthread_mutex_lock(&o->d->hands->lock);
	h = hash_get(&o->d->hands->by_token, in->token.data, TOKEN);
	if (h && h->client == o->client)
		hash_take(&o->d->hands->by_token, in->token.data, TOKEN);
	else
		h = NULL;
	pthread_mutex_unlock(&o->d->hands->lock);
	if (h)
		hand_free(h);
	return op_done(o, &rep.base);
}

int op_hand(struct op *o, const ProtobufCMessage *m)
{
	const Sprite__Fs__HandReq *in = (const void *)m;

	switch (in->op) {
	case SPRITE__FS__HAND_REQ__OP__OFFER:
		return offer(o, in);
	case SPRITE__FS__HAND_REQ__OP__CLAIM:
		return claim(o, in);
	case SPRITE__FS__HAND_REQ__OP__CANCEL:
		return cancel(o, in);
	default:
		return -EINVAL;
	}
}
