/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames: u32 head_len | struct Head (rpc.proto) | u32 msg_len | message | bulk bytes; integers little-endian. A frame is one gRPC message.
 *
 * Everything that is decoded here came from a peer. Lengths are checked before use, the protobuf part is at most RPC_CONTROL_MAX, and what it
 * unpacks to is bounded too: protobuf-c makes a struct of any size from a submessage of two bytes.
 */
#include "rpc/internal.h"
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "rpc/rpc.pb-c.h"

#define HEAD_MAX     128	   /* bytes of a packed Head; ours take about 30 */
#define UNPACKED_MAX (4u << 20) /* bytes of memory that one message may unpack to */

/* ---- sending ---- */
static uint8_t *put32(uint8_t *p, uint32_t v)
{
	v = htole32(v);
	memcpy(p, &v, 4);
	return p + 4;
}

int frame_control(const struct frame_head *h, const ProtobufCMessage *msg, grpc_slice *out)
{
	Sprite__Rpc__Head head = SPRITE__RPC__HEAD__INIT;
	size_t hl, ml;
	grpc_slice s;
	uint8_t *p;

	head.version = h->version;
	head.epoch = h->epoch;
	head.seq = h->seq;
	head.acked = h->acked;
	head.err = h->err;
	head.again = h->again;
	head.lane = h->lane;
	hl = sprite__rpc__head__get_packed_size(&head);
	ml = msg ? protobuf_c_message_get_packed_size(msg) : 0;
	if (ml > RPC_CONTROL_MAX)
		return -EMSGSIZE;
	s = grpc_slice_malloc(8 + hl + ml);
	p = put32(GRPC_SLICE_START_PTR(s), hl);
	p += sprite__rpc__head__pack(&head, p);
	p = put32(p, ml);
	if (msg)
		protobuf_c_message_pack(msg, p);
	*out = s;
	return 0;
}

int frame_control_again(grpc_slice control, grpc_slice *out)
{
	const uint8_t *p = GRPC_SLICE_START_PTR(control);
	size_t n = GRPC_SLICE_LENGTH(control), rest;
	Sprite__Rpc__Head *head;
	uint32_t hl;
	uint8_t *q;

	memcpy(&hl, p, 4);
	hl = le32toh(hl);
	head = sprite__rpc__head__unpack(NULL, hl, p + 4);
	if (!head)
		return -EPROTO;
	head->again = true;
	rest = n - 4 - hl;
	*out = grpc_slice_malloc(4 + sprite__rpc__head__get_packed_size(head) + rest);
	q = put32(GRPC_SLICE_START_PTR(*out), sprite__rpc__head__get_packed_size(head));
	q += sprite__rpc__head__pack(head, q);
	memcpy(q, p + 4 + hl, rest);
	sprite__rpc__head__free_unpacked(head, NULL);
	return 0;
}

static void hold_release(void *arg)
{
	HANDOVER_TAKE(arg);
	frame_hold_drop(arg);
}

int frame_buffer(grpc_slice control, const struct iovec *bulk, int nbulk, struct frame_hold *hold, size_t limit, grpc_byte_buffer **out)
{
	grpc_slice s[1 + RPC_IOV_MAX];
	size_t total = GRPC_SLICE_LENGTH(control);
	int i, n = 1;

	if (nbulk < 0 || nbulk > RPC_IOV_MAX)
		return -EINVAL;
	for (i = 0; i < nbulk; i++) {
		if (bulk[i].iov_len > limit)
			return -EMSGSIZE;
		total += bulk[i].iov_len;
	}
	if (total > limit)
		return -EMSGSIZE;
	s[0] = control;
	for (i = 0; i < nbulk; i++) {
		if (!bulk[i].iov_len)
			continue;
		if (hold) {
			atomic_fetch_add(&hold->count, 1);
			s[n++] = grpc_slice_new_with_user_data(bulk[i].iov_base, bulk[i].iov_len, hold_release, hold);
		} else {
			s[n++] = grpc_slice_from_copied_buffer(bulk[i].iov_base, bulk[i].iov_len);
		}
	}
	if (hold)
		HANDOVER_GIVE(hold);
	*out = grpc_raw_byte_buffer_create(s, n);
	for (i = 1; i < n; i++)
		grpc_slice_unref(s[i]);
	return 0;
}

/* ---- receiving ---- */
struct received {
	grpc_byte_buffer *bb;
	struct iovec iov[];
};

struct cursor {
	const grpc_slice_buffer *sb;
	size_t i, off; /* slice, offset in it */
	size_t left;   /* bytes of the whole frame not read yet */
};

/* The next `n` bytes: in place when one slice has them all, else copied to *copy (freed by the caller). NULL: not there, or no memory. */
static const uint8_t *take(struct cursor *c, size_t n, uint8_t **copy)
{
	const uint8_t *p;
	size_t part, done = 0;

	*copy = NULL;
	if (n > c->left)
		return NULL;
	c->left -= n;
	while (c->i < c->sb->count && c->off == GRPC_SLICE_LENGTH(c->sb->slices[c->i])) {
		c->i++;
		c->off = 0;
	}
	if (!n)
		return (const uint8_t *)"";
	p = GRPC_SLICE_START_PTR(c->sb->slices[c->i]) + c->off;
	if (GRPC_SLICE_LENGTH(c->sb->slices[c->i]) - c->off >= n) {
		c->off += n;
		return p;
	}
	*copy = malloc(n);
	if (!*copy)
		return NULL;
	while (done < n) {
		part = GRPC_SLICE_LENGTH(c->sb->slices[c->i]) - c->off;
		if (part > n - done)
			part = n - done;
		memcpy(*copy + done, GRPC_SLICE_START_PTR(c->sb->slices[c->i]) + c->off, part);
		done += part;
		c->off += part;
		if (c->off == GRPC_SLICE_LENGTH(c->sb->slices[c->i])) {
			c->i++;
			c->off = 0;
		}
	}
	return *copy;
}

static bool take32(struct cursor *c, uint32_t *v)
{
	uint8_t *copy;
	const uint8_t *p = take(c, 4, &copy);

	if (!p)
		return false;
	memcpy(v, p, 4);
	*v = le32toh(*v);
	free(copy);
	return true;
}

/* protobuf-c's allocator with a bound. What it returns is freed by free(), as the default allocator does. */
static void *bounded_alloc(void *left, size_t n)
{
	size_t *l = left;

	if (n > *l)
		return NULL;
	*l -= n;
	return malloc(n);
}

static void bounded_free(void *left, void *p)
{
	(void)left;
	free(p);
}

static ProtobufCMessage *unpack(const ProtobufCMessageDescriptor *d, size_t n, const uint8_t *p, size_t bound)
{
	ProtobufCAllocator a = { bounded_alloc, bounded_free, &bound };

	return protobuf_c_message_unpack(d, &a, n, p);
}

static int decode_head(struct cursor *c, struct frame_head *h)
{
	uint8_t *copy;
	const uint8_t *p;
	uint32_t n;
	Sprite__Rpc__Head *head;

	if (!take32(c, &n) || n > HEAD_MAX)
		return -EPROTO;
	p = take(c, n, &copy);
	head = p ? (Sprite__Rpc__Head *)unpack(&sprite__rpc__head__descriptor, n, p, 4096) : NULL;
	free(copy);
	if (!head)
		return -EPROTO;
	h->version = head->version;
	h->err = head->err;
	h->epoch = head->epoch;
	h->seq = head->seq;
	h->acked = head->acked;
	h->again = head->again;
	h->lane = head->lane;
	sprite__rpc__head__free_unpacked(head, NULL);
	return 0;
}

static int decode_msg(struct cursor *c, const ProtobufCMessageDescriptor *desc, ProtobufCMessage **out)
{
	uint8_t *copy;
	const uint8_t *p;
	uint32_t n;

	*out = NULL;
	if (!take32(c, &n))
		return -EPROTO;
	if (n > RPC_CONTROL_MAX)
		return -EMSGSIZE;
	p = take(c, n, &copy);
	if (p && desc)
		*out = unpack(desc, n, p, UNPACKED_MAX);
	free(copy);
	return p && (*out || !desc) ? 0 : -EPROTO;
}

/* What the cursor has left becomes the iovec. A peer that cut it into too many slices costs itself a copy. */
static int decode_bulk(struct cursor *c, struct rpc_msg *m, grpc_byte_buffer *bb)
{
	size_t n = c->sb->count - c->i, off = c->off, i;
	struct received *r;
	bool flat = n > RPC_IOV_MAX;

	r = malloc(sizeof(*r) + (flat ? sizeof(struct iovec) + c->left : n * sizeof(struct iovec)));
	if (!r)
		return -ENOMEM;
	r->bb = bb;
	m->priv = r;
	m->iov = r->iov;
	m->bulk_len = c->left;
	if (flat) {
		r->iov[0].iov_base = &r->iov[1];
		r->iov[0].iov_len = 0;
		m->niov = 1;
	}
	for (i = c->i; i < c->sb->count; i++, off = 0) {
		uint8_t *p = GRPC_SLICE_START_PTR(c->sb->slices[i]) + off;
		size_t len = GRPC_SLICE_LENGTH(c->sb->slices[i]) - off;

		if (flat) {
			memcpy((char *)r->iov[0].iov_base + r->iov[0].iov_len, p, len);
			r->iov[0].iov_len += len;
		} else if (len) {
			r->iov[m->niov++] = (struct iovec){ p, len };
		}
	}
	return 0;
}

int frame_decode(grpc_byte_buffer *bb, size_t limit, const ProtobufCMessageDescriptor *desc, struct frame_head *h, struct rpc_msg *out)
{
	struct cursor c = { .sb = &bb->data.raw.slice_buffer };
	struct rpc_msg m = { 0 };
	int r;

	c.left = c.sb->length;
	if (c.left > 4096)
		rt_active();
	if (bb->type != GRPC_BB_RAW || bb->data.raw.compression != GRPC_COMPRESS_NONE)
		r = -EPROTO;
	else if (c.left > limit)
		r = -EMSGSIZE;
	else
		r = decode_head(&c, h);
	if (!r)
		r = decode_msg(&c, desc, &m.msg);
	if (!r && c.left)
		r = decode_bulk(&c, &m, bb);
	if (r || !m.priv)
		grpc_byte_buffer_destroy(bb);
	if (r) {
		if (m.msg)
			protobuf_c_message_free_unpacked(m.msg, NULL);
		return r;
	}
	m.err = h->err;
	*out = m;
	return 0;
}

void rpc_msg_clear(struct rpc_msg *m)
{
	struct received *r = m->priv;

	if (m->msg)
		protobuf_c_message_free_unpacked(m->msg, NULL);
	if (r) {
		grpc_byte_buffer_destroy(r->bb);
		free(r);
	}
	memset(m, 0, sizeof(*m));
}

size_t rpc_msg_copy(const struct rpc_msg *m, void *to, size_t n)
{
	size_t done = 0, part;
	int i;

	for (i = 0; i < m->niov && done < n; i++) {
		part = m->iov[i].iov_len < n - done ? m->iov[i].iov_len : n - done;
		memcpy((char *)to + done, m->iov[i].iov_base, part);
		done += part;
	}
	return done;
}
