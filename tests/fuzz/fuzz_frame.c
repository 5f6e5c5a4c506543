/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames of rpc as a peer may send them: any bytes, in any slices, decoded as a request of several protocols, as control and bulk frames. What decodes is
 * encoded and decoded once more, and must be the same.
 */
#include "tests/fuzz/fuzz.h"
#include "rpc/internal.h"
#include "rpc/fs.pb-c.h"
#include "rpc/rpc.pb-c.h"

/* Cuts the input into slices; sizes come from the input itself, so that a crash can be repeated. */
static grpc_byte_buffer *cut(const uint8_t *p, size_t n, uint32_t how)
{
	grpc_slice s[600];
	grpc_byte_buffer *bb;
	size_t i = 0, part, k;

	for (; n && i < ARRAY_SIZE(s); i++) {
		how = how * 1103515245u + 12345;
		part = (how >> 16) % (how & 0x8000 ? 7 : 300);
		if (part > n || i == ARRAY_SIZE(s) - 1)
			part = n;
		s[i] = grpc_slice_from_copied_buffer((const char *)p, part);
		p += part;
		n -= part;
	}
	bb = grpc_raw_byte_buffer_create(s, i);
	for (k = 0; k < i; k++)
		grpc_slice_unref(s[k]);
	return bb;
}

static void die(const char *what)
{
	fprintf(stderr, "fuzz_frame: %s\n", what);
	abort();
}

/* protobuf-c keeps an unknown field of number 0, packs it, and then refuses what it packed: nothing that a frame could mend. */
static bool unpacks_again(const ProtobufCMessage *msg, const ProtobufCMessageDescriptor *d)
{
	size_t n = protobuf_c_message_get_packed_size(msg);
	uint8_t *p = malloc(n + 1);
	ProtobufCMessage *back = protobuf_c_message_unpack(d, NULL, protobuf_c_message_pack(msg, p), p);

	free(p);
	if (back)
		protobuf_c_message_free_unpacked(back, NULL);
	return back;
}

static void again(const struct frame_head *h, const struct rpc_msg *m, const ProtobufCMessageDescriptor *d)
{
	struct frame_head h2;
	struct rpc_msg m2;
	grpc_byte_buffer *bb;
	grpc_slice control;
	char *a, *b;
	int r;

	if (m->msg && !unpacks_again(m->msg, d))
		return;
	if (frame_control(h, m->msg, &control) < 0)
		return; /* protobuf-c packs some messages longer than it read them */
	r = frame_buffer(control, m->iov, m->niov, NULL, 2 * RPC_BULK_MAX, &bb);
	grpc_slice_unref(control);
	if (r)
		die("what was decoded cannot be sent");
	if (frame_decode(bb, 2 * RPC_BULK_MAX, d, &h2, &m2) < 0)
		die("what was sent cannot be decoded");
	if (h->version != h2.version || h->epoch != h2.epoch || h->seq != h2.seq || h->acked != h2.acked || h->err != h2.err || h->again != h2.again ||
		m2.bulk_len != m->bulk_len)
		die("header or bulk length differ");
	a = malloc(m->bulk_len + 1);
	b = malloc(m->bulk_len + 1);
	if (rpc_msg_copy(m, a, m->bulk_len) != m->bulk_len || rpc_msg_copy(&m2, b, m->bulk_len) != m->bulk_len || memcmp(a, b, m->bulk_len))
		die("bulk bytes differ");
	free(a);
	free(b);
	rpc_msg_clear(&m2);
}

static void one(const uint8_t *data, size_t len)
{
	static const ProtobufCMessageDescriptor *const types[] = { &sprite__rpc__head__descriptor, &sprite__fs__write_req__descriptor,
		&sprite__fs__lookup_rep__descriptor, &sprite__fs__prefixes_rep__descriptor, NULL };
	size_t i, limit;
	struct frame_head h;
	struct rpc_msg m;
	uint32_t how = 0;

	if (len >= 4)
		memcpy(&how, data + len - 4, 4);
	for (i = 0; i < ARRAY_SIZE(types); i++) {
		limit = (how + i) & 1 ? RPC_BULK_MAX : 512;
		memset(&h, 0, sizeof(h));
		memset(&m, 0xee, sizeof(m));
		if (frame_decode(cut(data, len, how + i), limit, types[i], &h, &m) < 0)
			continue;
		if (len > limit || m.niov > RPC_IOV_MAX || (types[i] && !m.msg))
			die("a limit was passed");
		again(&h, &m, types[i]);
		rpc_msg_clear(&m);
	}
}

static struct fuzz_seed seed_of(const ProtobufCMessage *msg, size_t bulk)
{
	struct frame_head h = { .version = 1, .epoch = 0x1122334455667788, .seq = 300, .acked = 299, .err = 2 };
	struct fuzz_seed s;
	grpc_slice c;
	uint8_t *p;

	if (frame_control(&h, msg, &c) < 0)
		die("seed");
	s.len = GRPC_SLICE_LENGTH(c) + bulk;
	s.data = p = calloc(1, s.len);
	memcpy(p, GRPC_SLICE_START_PTR(c), GRPC_SLICE_LENGTH(c));
	grpc_slice_unref(c);
	return s;
}

int main(int argc, char **argv)
{
	Sprite__Fs__WriteReq w = SPRITE__FS__WRITE_REQ__INIT;
	Sprite__Fs__Cred cred = SPRITE__FS__CRED__INIT;
	Sprite__Fs__PrefixesRep pr = SPRITE__FS__PREFIXES_REP__INIT;
	Sprite__Fs__Prefix pf = SPRITE__FS__PREFIX__INIT, *pfs[2] = { &pf, &pf };
	uint32_t groups[] = { 4, 24, 1000 };
	struct fuzz_seed seeds[4];
	int i, r;

	grpc_init();
	cred.uid = 1000;
	cred.groups = groups;
	cred.n_groups = 3;
	w.cred = &cred;
	w.offset = 1ull << 40;
	w.handle = (ProtobufCBinaryData){ 16, (uint8_t *)"0123456789abcdef" };
	pf.prefix = "/hosts/ws1";
	pf.server = "ws1";
	pr.n_prefixes = 2;
	pr.prefixes = pfs;
	seeds[0] = seed_of(NULL, 0);
	seeds[1] = seed_of(&w.base, 4096);
	seeds[2] = seed_of(&pr.base, 0);
	seeds[3] = (struct fuzz_seed){ "", 0 };
	r = fuzz_main(argc, argv, "frame", seeds, ARRAY_SIZE(seeds), NULL, one);
	for (i = 0; i < 3; i++)
		free((void *)seeds[i].data);
	grpc_shutdown_blocking();
	return r;
}
