/* SPDX-License-Identifier: Apache-2.0 */
/* What every operation needs; see op.h. */
#include "fs/server/op.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "fs/server/lease.h"
#include "fs/server/mounts.h"
#include "fs/server/ops.h"
#include "fs/server/unlinked.h"

/* ---- access ------------------------------------------------------------------------------------------- */

static bool host_listed(const struct conf_export *c, const char *peer)
{
	for (char **h = c->hosts; h && *h; h++)
		if ((!c->home && !strcmp(*h, "*")) || !strcmp(*h, peer)) /* a home is never open to everyone */
			return true;
	return false;
}

static bool host_allowed(struct op *o, const struct export *ex)
{
	return host_listed(ex->conf, o->client->peer) || (ex->conf->home && grants_host(&o->d->grants, o->client->peer));
}

/* Who acts here as root may as well be anybody: a guest of root that changes its uid away. It gains nothing, and a guest of a user never has this. */
static bool root_granted(struct op *o)
{
	return o->d->conf->root_guests && grants_allow(&o->d->grants, o->client->peer, 0);
}

static bool home_uid_allowed(struct op *o, const struct export *ex, uid_t uid)
{
	if (uid == 0 && !o->d->conf->root_guests)
		return false;
	return host_listed(ex->conf, o->client->peer) || grants_allow(&o->d->grants, o->client->peer, uid) || root_granted(o);
}

int op_access(struct op *o, struct export *ex, const Sprite__Fs__Cred *cred)
{
	struct ids_rule rule = {ex->conf->root_squash, ex->conf->uid_min, ex->conf->uid_max};
	Sprite__Fs__Cred stand_in = SPRITE__FS__CRED__INIT;
	int r;

	if (!host_allowed(o, ex))
		return -EACCES;
	if (ex->conf->home) /* exactly as the uid that was granted, never mapped to somebody else */
		rule = (struct ids_rule){false, 0, UINT32_MAX - 1};
	if (ex->conf->home && cred && cred->uid == 0 && !home_uid_allowed(o, ex, 0) &&
		grants_stand_in(&o->d->grants, o->client->peer, &stand_in.uid, &stand_in.gid)) {
		stand_in.umask = cred->umask;
		cred = &stand_in; /* its migd mounts and enters the root view as root */
	}
	r = ids_map(&rule, cred, &o->ids);
	if (r < 0 || !ex->conf->home)
		return r;
	if (!home_uid_allowed(o, ex, o->ids.uid))
		return -EACCES;
	if (!host_listed(ex->conf, o->client->peer) && !root_granted(o))
		grants_trim(&o->d->grants, o->client->peer, &o->ids);
	return 0;
}

int op_resolve_allowed(struct op *o, const struct export *ex)
{
	return host_allowed(o, ex) ? 0 : -EACCES;
}

int op_resolve(struct op *o, ProtobufCBinaryData handle, struct object *obj)
{
	struct export *ex;
	struct handle h;
	int r = export_unpack(&o->d->exports, handle.data, handle.len, &h, &ex);

	if (r < 0)
		return r;
	if (!host_allowed(o, ex))
		return -EACCES;
	return export_open_handle(ex, &h, obj);
}

int op_resolve_dir(struct op *o, ProtobufCBinaryData handle, struct object *obj)
{
	struct stat st;
	int r;

	if (o->batch && batch_dir_get(o, handle, obj))
		return host_allowed(o, obj->ex) ? 0 : -EACCES;
	r = op_resolve(o, handle, obj);
	if (r == 0 && fstat(obj->fd, &st) < 0)
		r = -errno;
	if (r < 0)
		return r;
	obj->dev = st.st_dev;
	obj->ino = st.st_ino;
	if (o->batch && S_ISDIR(st.st_mode))
		batch_dir_put(o, handle, obj);
	return 0;
}

int op_begin_dir(struct op *o, const Sprite__Fs__Cred *cred, ProtobufCBinaryData handle, struct object *obj)
{
	int r = op_resolve_dir(o, handle, obj);

	if (r == 0)
		r = op_access(o, obj->ex, cred);
	return r < 0 ? r : op_become(o);
}

int op_begin_name(struct op *o, const Sprite__Fs__Cred *cred, ProtobufCBinaryData handle, const char *name, struct object *obj)
{
	int r = export_name_check(name);

	if (r == 0)
		r = op_begin_dir(o, cred, handle, obj);
	return r == 0 && export_is_private(obj, name) ? -EACCES : r;
}

int op_become(struct op *o)
{
	int r = ids_enter(&o->ids);

	o->entered = r == 0;
	return r;
}

void op_root(struct op *o)
{
	if (o->entered)
		ids_leave();
	o->entered = false;
}

int op_begin(struct op *o, const Sprite__Fs__Cred *cred, ProtobufCBinaryData handle, struct object *obj)
{
	int r = op_resolve(o, handle, obj);

	if (r == 0)
		r = op_access(o, obj->ex, cred);
	return r < 0 ? r : op_become(o);
}

struct open *op_open(struct op *o, uint64_t id, int *err)
{
	struct open *f = openstate_get(&o->d->opens, o->client, id);

	*err = f ? 0 : -FS_EREOPEN;
	if (f && (!host_allowed(o, f->ex) || (f->ex->conf->home && !home_uid_allowed(o, f->ex, f->uid)))) {
		*err = -EACCES; /* revoked since it was opened */
		open_put(f);
		f = NULL;
	}
	return f;
}

/* ---- calls repeated after a restart ---------------------------------------------------------------------- */

/* Of the call, and of the part of a batch: numbers of calls stay far below 2^48. */
static uint64_t op_number(const struct op *o)
{
	return rpc_request_seq(o->rq) | (o->batch ? (uint64_t)(o->index + 1) << 48 : 0);
}

const struct intent *op_repeated(struct op *o)
{
	if (o->repeated == OP_UNASKED)
		o->repeated = rpc_request_again(o->rq) &&
				intents_take(o->d->intents, o->client->peer, rpc_request_epoch(o->rq), op_number(o), (uint16_t)o->method,
					&o->intent) ?
			OP_REPEATED :
			OP_FIRST;
	return o->repeated == OP_REPEATED ? &o->intent : NULL;
}

void op_intend(struct op *o, const struct stat *st, uint64_t extra)
{
	struct intent in;

	in.method = (uint16_t)o->method;
	in.dev = st ? st->st_dev : 0;
	in.ino = st ? st->st_ino : 0;
	in.extra = extra;
	in.handle_len = 0;
	if (o->batch) {
		struct intent_held *h = batch_held(o);

		intents_hold(o->d->intents, h, o->client->peer, rpc_request_epoch(o->rq), op_number(o), &in);
		intents_flush(o->d->intents, h);
	} else {
		intents_put(o->d->intents, o->client->peer, rpc_request_epoch(o->rq), op_number(o), &in);
	}
}

bool op_done_before(struct op *o, struct intent *done)
{
	return rpc_request_again(o->rq) &&
		intents_take(o->d->intents, o->client->peer, rpc_request_epoch(o->rq), op_number(o), (uint16_t)o->method | INTENT_DONE, done);
}

void op_note_done(struct op *o, int err, const unsigned char *handle, size_t len)
{
	struct intent in;

	in.method = (uint16_t)o->method | INTENT_DONE;
	in.dev = in.ino = 0;
	in.extra = (uint64_t)err;
	in.handle_len = (uint16_t)len;
	memcpy(in.handle, handle, len);
	intents_hold(o->d->intents, batch_held(o), o->client->peer, rpc_request_epoch(o->rq), op_number(o), &in);
}

/* ---- answers ------------------------------------------------------------------------------------------ */

struct op *op_new(struct fsd *d, struct rpc_request *rq, enum fs_op method, struct client *c)
{
	struct op *o = malloc(sizeof(*o));

	if (!o)
		return NULL;
	memset(o, 0, offsetof(struct op, ids));
	o->d = d;
	o->rq = rq;
	o->in = rpc_request_msg(rq);
	o->method = method;
	o->client = c;
	o->started = clock_mono_ns();
	o->repeated = OP_UNASKED;
	atomic_init(&o->park, OP_RUNNING);
	list_init(&o->rerun);
	list_init(&o->after);
	cs_op_init(&o->cs, c ? c->id : 0);
	return o;
}

void op_free(struct op *o)
{
	client_put(o->client);
	free(o->hopes);
	free(o);
}

static void op_answer(struct op *o, int err, const ProtobufCMessage *out)
{
	if (o->batch)
		batch_answer(o, err, out);
	else
		rpc_reply(o->rq, err, out, NULL, 0, NULL, NULL);
}

static void op_count(struct op *o, int err)
{
	struct op_stat *s = &o->d->stats[o->method];
	uint64_t ns = clock_mono_ns() - o->started, us = ns / 1000;
	unsigned n = us ? 64 - (unsigned)__builtin_clzll(us) : 0;

	atomic_fetch_add(&s->calls, 1);
	atomic_fetch_add(&s->errors, err != 0);
	atomic_fetch_add(&s->ns, ns);
	atomic_fetch_add_explicit(&s->took[n < OP_BUCKETS ? n : OP_BUCKETS - 1], 1, memory_order_relaxed);
}

int op_done(struct op *o, const ProtobufCMessage *out)
{
	op_root(o);
	lease_end(o);
	op_count(o, 0);
	op_answer(o, 0, out);
	op_free(o);
	return OP_LATER;
}

void op_linger_end(struct op *o)
{
	lease_end(o);
	op_free(o);
}

int op_done_lingering(struct op *o, const ProtobufCMessage *out)
{
	int is = OP_RUNNING;

	op_root(o);
	op_count(o, 0);
	op_answer(o, 0, out);
	o->lingers = true;
	if (!atomic_compare_exchange_strong(&o->park, &is, OP_PARKED)) /* all have given up already */
		op_linger_end(o);
	return OP_LATER;
}

int op_done_bulk(struct op *o, const ProtobufCMessage *out, void *data, size_t n)
{
	struct iovec v = {data, n};

	op_root(o);
	lease_end(o);
	op_count(o, 0);
	if (n) {
		rpc_reply(o->rq, 0, out, &v, 1, free, data);
	} else {
		rpc_reply(o->rq, 0, out, NULL, 0, NULL, NULL);
		free(data);
	}
	op_free(o);
	return OP_LATER;
}

int op_fail(struct op *o, int err)
{
	return op_fail_with(o, err, NULL);
}

int op_fail_with(struct op *o, int err, const ProtobufCMessage *out)
{
	op_root(o);
	lease_end(o);
	op_count(o, err);
	op_answer(o, err, out);
	op_free(o);
	return OP_LATER;
}

/* ---- attributes --------------------------------------------------------------------------------------- */

static atomic_uint_fast64_t *change_slot(struct fsd *d, const struct stat *st)
{
	uint64_t h = (st->st_ino ^ (uint64_t)st->st_dev << 32) * 0x9e3779b97f4a7c15ull;

	return &d->changes[h >> 48];
}

static int64_t ns(const struct timespec *t)
{
	return (int64_t)t->tv_sec * 1000000000 + t->tv_nsec;
}

uint64_t op_change(struct fsd *d, const struct stat *st)
{
	return (uint64_t)ns(&st->st_ctim) + atomic_load(change_slot(d, st));
}

bool op_has_acl(int fd, mode_t mode, bool *no_cap)
{
	struct op_path p;

	if (no_cap)
		*no_cap = true;
	if (S_ISLNK(mode))
		return false;
	p = op_path(fd);
	if (listxattr(p.s, NULL, 0) == 0) /* mostly there is nothing at all */
		return false;
	if (no_cap)
		*no_cap = getxattr(p.s, "security.capability", NULL, 0) < 0 && (errno == ENODATA || errno == EOPNOTSUPP);
	return getxattr(p.s, "system.posix_acl_access", NULL, 0) > 0 ||
		(S_ISDIR(mode) && getxattr(p.s, "system.posix_acl_default", NULL, 0) > 0);
}

ssize_t op_contents(int fd, const struct stat *st, uint32_t max, uint8_t *to)
{
	_cleanup_close_ int own = -1;
	struct op_path path = op_path(fd);
	int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK;

	if (!S_ISREG(st->st_mode) || st->st_size > max)
		return -1;
	own = open(path.s, flags | O_NOATIME);
	if (own < 0 && errno == EPERM)
		own = open(path.s, flags);
	return own >= 0 && pread(own, to, (size_t)st->st_size, 0) == st->st_size ? st->st_size : -1;
}

/* inode numbers of the mounts of a home are kept apart: equal (dev, ino) would look like a hard link */
uint64_t op_ino(const struct mount_node *m, ino_t ino)
{
	return ino ^ (m->number ? (m->number & 0x7fff) << 48 : 0);
}

/* All but has_acl and no_cap. */
static void attr_of(struct fsd *d, const struct mount_node *m, const struct stat *st, Sprite__Fs__Attr *a)
{
	sprite__fs__attr__init(a);
	a->ino = op_ino(m, st->st_ino);
	a->mode = st->st_mode;
	a->nlink = (uint32_t)st->st_nlink - unlinked_links(d, m, st);
	a->uid = st->st_uid;
	a->gid = st->st_gid;
	a->rdev = st->st_rdev;
	a->size = (uint64_t)st->st_size;
	a->blocks = (uint64_t)st->st_blocks;
	a->blksize = (uint32_t)st->st_blksize;
	a->atime = ns(&st->st_atim);
	a->mtime = ns(&st->st_mtim);
	a->ctime = ns(&st->st_ctim);
	a->change = op_change(d, st);
}

void op_attr(struct fsd *d, const struct mount_node *m, int fd, const struct stat *st, Sprite__Fs__Attr *a)
{
	bool no_cap;

	attr_of(d, m, st, a);
	a->has_acl = op_has_acl(fd, st->st_mode, &no_cap);
	a->no_cap = no_cap;
}

void op_changed(struct fsd *d, const struct stat *st)
{
	atomic_fetch_add(change_slot(d, st), 1);
}

void op_changed_fd(struct fsd *d, int fd)
{
	struct stat st;

	if (fstat(fd, &st) == 0)
		op_changed(d, &st);
}

void op_changed_dir(struct fsd *d, const struct object *dir)
{
	struct stat st = {.st_dev = dir->dev, .st_ino = dir->ino};

	op_changed(d, &st);
}

uint32_t op_want(const struct stat *st)
{
	return S_ISREG(st->st_mode) ? CS_ATTR | CS_DATA : CS_ATTR;
}

int op_entry_packed(struct op *o, const struct object *obj, struct stat *st, uint32_t want, struct op_entry *e, size_t n)
{
	bool no_cap = true;

	sprite__fs__entry__init(&e->msg);
	e->msg.handle.data = e->handle;
	e->msg.handle.len = n;
	e->msg.lease = lease_grant(o, obj->ex, lease_key(st), e->msg.handle, want, false, &e->msg.lease_seq);
	if (e->msg.lease && fstat(obj->fd, st) < 0)
		return -errno;
	attr_of(o->d, obj->mount, st, &e->attr);
	e->attr.has_acl = !obj->bare && op_has_acl(obj->fd, st->st_mode, &no_cap);
	e->attr.no_cap = no_cap;
	e->msg.attr = &e->attr;
	return 0;
}

int op_entry(struct op *o, const struct object *obj, struct stat *st, uint32_t want, struct op_entry *e)
{
	int n = export_pack(&o->d->exports, obj, e->handle);

	return n < 0 ? n : op_entry_packed(o, obj, st, want, e, (size_t)n);
}

Sprite__Fs__Attr *op_dir_attr(struct op *o, const struct object *dir, uint64_t lease, Sprite__Fs__Attr *a)
{
	struct stat st;

	if (!(lease & CS_ATTR) || fstat(dir->fd, &st) < 0)
		return NULL;
	attr_of(o->d, dir->mount, &st, a);
	a->has_acl = dir->facts && dir->facts->known ? dir->facts->acl : op_has_acl(dir->fd, st.st_mode, NULL);
	return a;
}

struct op_path op_path(int fd)
{
	struct op_path p;

	snprintf(p.s, sizeof(p.s), "/proc/self/fd/%d", fd);
	return p;
}
