/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Batches (fs/batch.h): each record becomes an operation of its own, executed and answered after the one before it, so that it has the same checks, leases and
 * intents as if it had come by itself. The client holds exclusive leases on all that the records change: none has to wait for another client, and
 * so a batch that another client's recall waits for always ends.
 *
 * A record that names an open of the server's last life ends the batch there: the client opens it again and sends the rest anew.
 *
 * After a restart of the server a batch may come that its last run had begun. What was done then is answered from the log of intents, and not done again: it may have been undone
 * since by a later part (create a, remove a). The one that was under way is looked at as any repeated call (op_repeated()).
 *
 * Locking: none. One thread at a time has the batch: who runs its present operation, or who answers it (`turn`).
 */
#include "fs/batch.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "fs/server/lease.h"
#include "fs/server/mounts.h"
#include "fs/server/recover.h"
#include "fs/server/ops.h"

#define ANSWER_MAX 2048u /* what one part may answer: two handles, two sets of attributes */

struct made {
	int err;
	uint64_t open;
	uint32_t handle_len;
	unsigned char handle[HANDLE_MAX];
};

struct batch {
	struct op *o; /* of the Batch call */
	uint8_t *in;
	size_t in_len, at;
	uint32_t n, next;
	bool stop;
	struct made *made; /* [n]: what later records may speak of */
	uint8_t *out;
	size_t out_len, room;
	struct intent_held held;
	struct object dir; /* the directory that records spoke of last */
	struct dir_facts dir_facts;
	uint32_t dir_handle_len, dir_used; /* by which record, lest it is exchanged while that has it in its hands */
	unsigned char dir_handle[HANDLE_MAX];
	atomic_int turn; /* of two: who runs the operation has returned; it was answered */
	/* the present one */
	struct rpc_msg part;
	struct iovec data;
};

static void batch_free(struct batch *b)
{
	object_clear(&b->dir);
	free(b->in);
	free(b->made);
	free(b->out);
	free(b);
}

struct intent_held *batch_held(struct op *o)
{
	return &o->batch->held;
}

static void dir_lend(struct batch *b, struct object *obj)
{
	*obj = b->dir;
	obj->borrowed = true;
	obj->facts = &b->dir_facts;
	mount_node_get(obj->mount);
	b->dir_used = b->next;
}

bool batch_dir_get(struct op *o, ProtobufCBinaryData handle, struct object *obj)
{
	struct batch *b = o->batch;

	if (b->dir.fd < 0 || handle.len != b->dir_handle_len || memcmp(handle.data, b->dir_handle, handle.len))
		return false;
	dir_lend(b, obj);
	return true;
}

void batch_dir_put(struct op *o, ProtobufCBinaryData handle, struct object *obj)
{
	struct batch *b = o->batch;

	if ((b->dir.fd >= 0 && b->dir_used == b->next) || handle.len > HANDLE_MAX)
		return;
	object_clear(&b->dir);
	b->dir = *obj;
	b->dir_facts.known = false;
	b->dir_handle_len = (uint32_t)handle.len;
	memcpy(b->dir_handle, handle.data, handle.len);
	dir_lend(b, obj);
}

/* Puts what earlier records have made in the place of references to them. */
static int refs_fill(const struct batch *b, ProtobufCMessage *m)
{
	for (unsigned i = 0; i < m->descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &m->descriptor->fields[i];
		void *at = (char *)m + f->offset;
		uint32_t k;

		if (f->label == PROTOBUF_C_LABEL_REPEATED)
			continue;
		if (f->type == PROTOBUF_C_TYPE_BYTES) {
			ProtobufCBinaryData *h = at;
			uint8_t *copy;

			if (!batch_ref_get(h->data, h->len, &k))
				continue;
			if (k >= b->next || (!b->made[k].err && !b->made[k].handle_len))
				return -EINVAL;
			if (b->made[k].err)
				return -b->made[k].err;
			copy = malloc(b->made[k].handle_len);
			if (!copy)
				return -ENOMEM;
			free(h->data);
			h->data = memcpy(copy, b->made[k].handle, b->made[k].handle_len);
			h->len = b->made[k].handle_len;
		} else if (f->type == PROTOBUF_C_TYPE_UINT64 && !strcmp(f->name, "open") && batch_ref_open(*(uint64_t *)at, &k)) {
			if (k >= b->next)
				return -EINVAL;
			if (b->made[k].err)
				return -b->made[k].err;
			*(uint64_t *)at = b->made[k].open;
		}
	}
	return 0;
}

static void batch_end(struct batch *b)
{
	Sprite__Fs__BatchRep rep = SPRITE__FS__BATCH_REP__INIT;
	struct op *o = b->o;
	uint8_t *out = b->out;
	size_t n = b->out_len;

	intents_flush(o->d->intents, &b->held);
	rep.n = b->stop ? b->next - 1 : b->next;
	b->out = NULL;
	batch_free(b);
	op_done_bulk(o, &rep.base, out, n);
}

/* What it made, for those that come after it. */
static void made_note(struct made *m, enum fs_op method, int err, const ProtobufCMessage *out)
{
	const Sprite__Fs__Entry *e = NULL;

	m->err = err;
	if (err || !out)
		return;
	if (method == FS_CREATE) {
		e = ((const Sprite__Fs__CreateRep *)out)->entry;
		m->open = ((const Sprite__Fs__CreateRep *)out)->open;
	} else if (method == FS_MAKE || method == FS_LINK) {
		e = ((const Sprite__Fs__EntryRep *)out)->entry;
	}
	if (e && e->handle.len <= HANDLE_MAX) {
		m->handle_len = (uint32_t)e->handle.len;
		memcpy(m->handle, e->handle.data, e->handle.len);
	}
}

/* Before anything is done: what was done and cannot be answered would be done again. */
static bool answer_room(struct batch *b)
{
	size_t room = b->room * 2 + ANSWER_MAX;
	uint8_t *p;

	if (b->room - b->out_len >= BATCH_REP_HEAD + ANSWER_MAX)
		return true;
	p = realloc(b->out, room);
	if (!p)
		return false;
	b->out = p;
	b->room = room;
	return true;
}

static void answer_put(struct batch *b, int err, const ProtobufCMessage *out)
{
	size_t len = !err && out ? protobuf_c_message_get_packed_size(out) : 0;

	if (len > ANSWER_MAX)
		abort();
	b->out_len += batch_answer_put(b->out + b->out_len, err, (uint32_t)len);
	if (len)
		b->out_len += protobuf_c_message_pack(out, b->out + b->out_len);
}

static void part_clear(struct batch *b)
{
	if (b->part.msg)
		protobuf_c_message_free_unpacked(b->part.msg, NULL);
	memset(&b->part, 0, sizeof(b->part));
}

/* The next operation, ready to be run; NULL: it was answered, or there is none (then b->stop or all are done). */
static struct op *part_next(struct batch *b)
{
	struct batch_record r;
	struct op *o;
	size_t len = batch_get(b->in + b->at, b->in_len - b->at, &r);
	int err = 0;

	b->at += len;
	b->next++;
	if (!answer_room(b)) { /* the client sends it, and what follows, again */
		b->stop = true;
		return NULL;
	}
	memset(&b->part, 0, sizeof(b->part));
	b->part.msg = len ? protobuf_c_message_unpack(fs_methods[r.method].in, NULL, r.msg_len, r.msg) : NULL;
	if (!b->part.msg) {
		b->at = b->in_len; /* nothing after it can be understood */
		err = EPROTO;
	} else {
		b->next--;
		err = -refs_fill(b, b->part.msg);
		b->next++;
		if (!err && (atomic_load(&b->o->client->gone) || atomic_load(&b->o->client->fenced)))
			err = ESTALE; /* its leases were broken while the batch was at work */
	}
	if (r.data_len) {
		b->data = (struct iovec){(void *)r.data, r.data_len};
		b->part.iov = &b->data;
		b->part.niov = 1;
		b->part.bulk_len = r.data_len;
	}
	o = err ? NULL : op_new(b->o->d, b->o->rq, r.method, client_ref(b->o->client));
	if (!o) {
		b->stop = !err || err == ENOMEM; /* nothing was done: to be sent again */
		if (!b->stop) {
			b->made[b->next - 1].err = err;
			answer_put(b, err, NULL);
		}
		part_clear(b);
		return NULL;
	}
	o->in = &b->part;
	o->batch = b;
	o->index = b->next - 1;
	return o;
}

/* ---- repetition --------------------------------------------------------------------------------------- */

/* A file that the last run made, open again. Its name may be gone by now, and then the file with the run's open of it: what follows says so. */
static int create_again(struct op *o, const Sprite__Fs__CreateReq *in, const struct intent *done)
{
	Sprite__Fs__CreateRep rep = SPRITE__FS__CREATE_REP__INIT;
	struct object obj _cleanup_object_ = OBJECT_INIT;
	ProtobufCBinaryData handle = {done->handle_len, (uint8_t *)done->handle};
	struct op_entry e;
	struct open *f;
	struct stat st;
	int fd, r;

	sprite__fs__entry__init(&e.msg);
	sprite__fs__attr__init(&e.attr);
	e.attr.mode = S_IFREG;
	e.msg.handle = handle;
	e.msg.attr = &e.attr;
	rep.entry = &e.msg;
	r = op_resolve(o, handle, &obj);
	if (r == 0 && fstat(obj.fd, &st) < 0)
		r = -errno;
	if (r == 0) {
		op_attr(o->d, obj.mount, obj.fd, &st, &e.attr);
		fd = open(op_path(obj.fd).s, (int)(in->flags & O_ACCMODE) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
		r = fd < 0 ? -errno :
			     openstate_add(&o->d->opens, o->client, &obj, fd, &st, (int)in->flags, st.st_uid, handle.data, handle.len, &f);
		if (r == 0) {
			rep.open = f->id;
			lease_open(o->d, f);
			open_put(f);
		}
		if (r < 0 && r != -ENOENT && r != -ESTALE) /* no descriptor left: what needs the open ends the batch, and the client opens it again */
			rep.open = o->d->opens.none;
	}
	return op_done(o, &rep.base);
}

static int entry_again(struct op *o, const struct intent *done)
{
	Sprite__Fs__EntryRep rep = SPRITE__FS__ENTRY_REP__INIT;
	struct object obj _cleanup_object_ = OBJECT_INIT;
	ProtobufCBinaryData handle = {done->handle_len, (uint8_t *)done->handle};
	struct op_entry e;
	struct stat st;
	int r = op_resolve(o, handle, &obj);

	if (r == 0 && fstat(obj.fd, &st) < 0)
		r = -errno;
	if (r == 0)
		r = op_entry(o, &obj, &st, 0, &e);
	if (r < 0)
		return r;
	rep.entry = &e.msg;
	return op_done(o, &rep.base);
}

static void close_again(struct op *o, uint64_t open)
{
	struct open *f = openstate_take(&o->d->opens, o->client, open);

	if (f)
		open_put(f);
}

/* Answers what the last run has done. */
static int part_again(struct op *o, const struct intent *done)
{
	Sprite__Fs__ChangeRep change = SPRITE__FS__CHANGE_REP__INIT;
	Sprite__Fs__GetattrRep attr = SPRITE__FS__GETATTR_REP__INIT;
	Sprite__Fs__WriteRep write = SPRITE__FS__WRITE_REP__INIT;
	Sprite__Fs__Empty empty = SPRITE__FS__EMPTY__INIT;
	const Sprite__Fs__WriteReq *w = (const void *)o->in->msg;

	if (done->extra)
		return -(int)done->extra;
	switch (o->method) {
	case FS_CREATE:
		return create_again(o, (const void *)o->in->msg, done);
	case FS_MAKE:
	case FS_LINK:
		return entry_again(o, done);
	case FS_REMOVE:
	case FS_RENAME:
		return op_done(o, &change.base);
	case FS_SETATTR:
		return op_done(o, &attr.base);
	case FS_WRITE:
		if (w->close)
			close_again(o, w->open);
		write.size = o->in->bulk_len;
		write.offset = w->offset;
		return op_done(o, &write.base);
	default:
		close_again(o, ((const Sprite__Fs__CloseReq *)(const void *)o->in->msg)->open);
		return op_done(o, &empty.base);
	}
}

static void part_run(struct op *o)
{
	struct intent done;
	int r;

	if (!op_done_before(o, &done)) {
		op_run(o);
		return;
	}
	r = part_again(o, &done);
	if (r < 0)
		op_fail(o, -r);
}

/* Goes on from one operation to the next for as long as they are answered while they run. */
static void batch_go(struct batch *b)
{
	struct op *o;

	while (!b->stop && b->next < b->n) {
		o = part_next(b);
		if (!o)
			continue;
		atomic_store(&b->turn, 2);
		part_run(o);
		if (atomic_fetch_sub(&b->turn, 1) == 2)
			return; /* it waits: whoever answers it goes on */
	}
	batch_end(b);
}

void batch_answer(struct op *o, int err, const ProtobufCMessage *out)
{
	struct batch *b = o->batch;

	if ((err == FS_EREOPEN && o->method != FS_CLOSE) || err == ECANCELED) {
		b->stop = true;
	} else {
		made_note(&b->made[o->index], o->method, err, out);
		op_note_done(o, err, b->made[o->index].handle, b->made[o->index].handle_len);
		answer_put(b, err, out);
	}
	part_clear(b);
	if (atomic_fetch_sub(&b->turn, 1) == 1)
		batch_go(b);
}

int op_batch(struct op *o, const ProtobufCMessage *m)
{
	const Sprite__Fs__BatchReq *in = (const void *)m;
	struct batch *b;

	if (!in->n || in->n > BATCH_MAX || o->in->bulk_len > BATCH_BYTES)
		return -EINVAL;
	/* fencing: what was done under leases that have been broken since must not come late */
	if (!recover_may_write(o, in->lease_epoch))
		return -ESTALE;
	b = calloc(1, sizeof(*b));
	if (!b)
		return -ENOMEM;
	b->o = o;
	b->dir.fd = -1;
	b->n = in->n;
	b->in_len = o->in->bulk_len;
	b->in = malloc(b->in_len + 1);
	b->made = calloc(in->n, sizeof(*b->made));
	b->room = 512u * in->n;
	b->out = malloc(b->room);
	if (!b->in || !b->made || !b->out) {
		batch_free(b);
		return -ENOMEM;
	}
	rpc_msg_copy(o->in, b->in, b->in_len);
	batch_go(b);
	return OP_LATER;
}
