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
#include "fs/server/recover.h"

#define TOKEN	   HAND_TOKEN
#define GROUPS_MAX 256 /* that are remembered of who opened it: they are only for bringing it back after a restart */

struct hand {
	uint64_t open; /* of the client that offers */
	struct client *client; /* counted */
	uint64_t pos; /* where the kernel over there believes it to stand */
	bool shared;
	unsigned char token[TOKEN];
	uint32_t uid, gid, ngroups; /* who opened it, as its client says: as whom the next one brings it back after a restart */
	uint32_t groups[];
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

/* What the last run wrote down of it; 0: nothing. A write that reached the file's end was made. With its lock. */
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
	f->shares = true;
	pthread_mutex_lock(&of->lock);
	known = offset_of_last_run(d, f, of);
	if (known > pos)
		pos = known;
	if (pos > of->pos)
		of->pos = pos;
	if (known)
		hand_offset_intend(d, of, 0); /* the next run may want it before anybody has written */
	pthread_mutex_unlock(&of->lock);
	return 0;
}

/*
 * The offset of an open that is offered with it. What an offer that was given up has left is no offset that anybody goes by: then where the description stands
 * counts anew.
 */
static int offset_offer(struct fsd *d, struct open *f, ProtobufCBinaryData token, uint64_t pos)
{
	bool alone = false;

	pthread_mutex_lock(&d->hands->lock);
	if (!f->offset)
		f->offset = offset_get(d->hands, token.data, pos);
	else
		alone = f->offset->refs == 1 && !f->shares;
	pthread_mutex_unlock(&d->hands->lock);
	if (alone) {
		pthread_mutex_lock(&f->offset->lock);
		f->offset->pos = pos;
		pthread_mutex_unlock(&f->offset->lock);
	}
	return f->offset ? 0 : -ENOMEM;
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

/* What is offered under this token: a copy of the hand, to be freed, and the open, counted. -ENOENT: no such offer, or its open is closed: then it is over. */
static int hand_find(struct fsd *d, ProtobufCBinaryData token, struct hand **copy, struct open **open)
{
	struct open *f = NULL;
	struct hand *h;
	int r = -ENOENT;

	if (token.len != TOKEN)
		return -ENOENT;
	pthread_mutex_lock(&d->hands->lock);
	h = hash_get(&d->hands->by_token, token.data, TOKEN);
	if (h)
		f = openstate_get(&d->opens, h->client, h->open);
	if (f && copy) {
		size_t n = sizeof(*h) + h->ngroups * sizeof(h->groups[0]);

		*copy = malloc(n);
		if (*copy)
			memcpy(*copy, h, n);
	}
	if (f)
		r = copy && !*copy ? -ENOMEM : 0;
	if (h && !f) {
		hash_take(&d->hands->by_token, h->token, TOKEN);
		hand_free(h);
	}
	pthread_mutex_unlock(&d->hands->lock);
	if (r < 0)
		open_put(f);
	else
		*open = f;
	return r;
}

static uint64_t mark_of(ProtobufCBinaryData token)
{
	uint64_t m;

	memcpy(&m, token.data, sizeof(m));
	return m | 1; /* never 0 */
}

uint64_t hand_mark(struct fsd *d, ProtobufCBinaryData token, bool reclaim)
{
	struct open *f;

	if (token.len == TOKEN && reclaim && recover_in_grace(d))
		return mark_of(token);
	if (hand_find(d, token, NULL, &f) < 0)
		return 0;
	open_put(f);
	return mark_of(token);
}

static int hand_add(struct fsd *d, struct open *f, ProtobufCBinaryData token, uint64_t pos, bool shared, const Sprite__Fs__Cred *cred)
{
	size_t ngroups = cred ? cred->n_groups : 0;
	struct client *c = f->client;
	struct hand *h, *old = NULL;
	int r;

	if (ngroups > GROUPS_MAX)
		ngroups = GROUPS_MAX;
	h = calloc(1, sizeof(*h) + ngroups * sizeof(h->groups[0]));
	if (!h)
		return -ENOMEM;
	h->open = f->id;
	h->pos = pos;
	h->shared = shared;
	h->client = client_ref(c);
	h->uid = cred ? cred->uid : IDS_NOBODY;
	h->gid = cred ? cred->gid : IDS_NOBODY;
	h->ngroups = (uint32_t)ngroups;
	if (ngroups)
		memcpy(h->groups, cred->groups, ngroups * sizeof(h->groups[0]));
	atomic_fetch_add(&c->host->hands, 1);
	memcpy(h->token, token.data, TOKEN);
	pthread_mutex_lock(&d->hands->lock);
	if (atomic_load(&c->host->hands) > CLIENT_MAX_HANDS || d->hands->by_token.count >= HAND_MAX)
		hands_prune(d);
	old = hash_get(&d->hands->by_token, h->token, TOKEN);
	r = atomic_load(&c->host->hands) > CLIENT_MAX_HANDS || d->hands->by_token.count >= HAND_MAX ? -EUSERS :
	    old && (old->client != c || old->open != f->id) ? -EEXIST :
						       hash_set(&d->hands->by_token, h->token, TOKEN, h, (void **)&old);
	pthread_mutex_unlock(&d->hands->lock);
	if (r < 0)
		hand_free(h);
	else if (old)
		hand_free(old);
	return r;
}

int hand_offered(struct fsd *d, struct open *f, ProtobufCBinaryData token, uint64_t pos, bool shared, const Sprite__Fs__Cred *cred)
{
	return token.len != TOKEN || pos > INT64_MAX ? -EINVAL : hand_add(d, f, token, pos, shared && f->offset, cred);
}

static int offer(struct op *o, const Sprite__Fs__HandReq *in)
{
	Sprite__Fs__HandRep rep = SPRITE__FS__HAND_REP__INIT;
	struct open *f;
	int r = 0;

	if (in->token.len != TOKEN || in->pos > INT64_MAX || in->n_owners > HAND_OWNERS_MAX || in->n_starts != in->n_owners || in->n_ends != in->n_owners)
		return -EINVAL;
	f = op_open(o, in->open, &r);
	if (!f)
		return r;
	if (in->shared)
		r = !f->write || (f->flags & O_ACCMODE) != O_WRONLY ? -EOPNOTSUPP : offset_offer(o->d, f, in->token, in->pos);
	if (r == 0)
		r = hand_add(o->d, f, in->token, in->pos, in->shared, in->cred);
	if (r == 0) {
		locks_mark(o->d, f, in, mark_of(in->token));
		rep.token = in->token;
		rep.shared = in->shared;
		rep.pos = in->pos;
		if (in->shared) {
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

/* The claimer's own open of what f is. The descriptor leads to it whether it still has a name or not. */
static int open_again(struct op *o, struct open *f, bool shared, struct open **mine, struct stat *st)
{
	struct object obj = {.fd = f->fd, .ex = f->ex, .mount = f->mount};
	int fd = open(op_path(f->fd).s, (f->flags & (O_ACCMODE | O_DIRECTORY | O_SYNC | O_DSYNC | O_NOATIME)) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK), r;

	if (fd < 0)
		return -errno;
	if (fstat(fd, st) < 0) {
		close(fd);
		return -EIO;
	}
	r = openstate_add(&o->d->opens, o->client, &obj, fd, st, f->flags & ~O_TRUNC, f->uid, f->handle, f->handle_len, mine);
	if (r == 0 && shared) {
		r = hand_reclaim(o->d, *mine, (ProtobufCBinaryData){TOKEN, f->offset->token}, 0);
		if (r < 0) {
			openstate_take(&o->d->opens, o->client, (*mine)->id);
			open_put(*mine);
			open_put(*mine);
		}
	}
	return r;
}

static int claim(struct op *o, const Sprite__Fs__HandReq *in)
{
	Sprite__Fs__HandRep rep = SPRITE__FS__HAND_REP__INIT;
	Sprite__Fs__Cred cred = SPRITE__FS__CRED__INIT;
	struct op_entry e = {.msg = SPRITE__FS__ENTRY__INIT};
	_cleanup_free_ struct hand *h = NULL;
	struct open *f, *mine;
	struct stat st;
	int r = hand_find(o->d, in->token, &h, &f);

	if (r < 0)
		return r;
	r = op_access(o, f->ex, in->cred);
	if (r >= 0)
		r = open_again(o, f, h->shared, &mine, &st);
	if (r < 0) {
		open_put(f);
		return r;
	}
	lease_open(o->d, mine);
	sprite__fs__attr__init(&e.attr);
	op_attr(o->d, f->mount, mine->fd, &st, &e.attr);
	e.msg.attr = &e.attr;
	e.msg.handle = open_handle_of(f);
	cred.uid = h->uid;
	cred.gid = h->gid;
	cred.groups = h->groups;
	cred.n_groups = h->ngroups;
	rep.cred = &cred;
	rep.entry = &e.msg;
	rep.open = mine->id;
	rep.flags = (uint32_t)f->flags;
	rep.shared = h->shared;
	rep.pos = h->pos;
	rep.token = in->token;
	if (h->shared)
		rep.stream = (ProtobufCBinaryData){TOKEN, f->offset->token};
	open_put(mine);
	r = op_done(o, &rep.base);
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
