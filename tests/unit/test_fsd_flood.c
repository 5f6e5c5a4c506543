// SPDX-License-Identifier: Apache-2.0
/*
 * What one client can do to a file server by taking all it gets and saying what has no sense: others' offers, floods of opens and streams, garbage of every kind.
 */
#include "tests/unit/fsd_kit.h"

/* ---- an open file that is handed over ------------------------------------------------------------------- */

static int hand(int who, int op, const char *token, uint64_t open, bool shared, uint64_t *got)
{
	Sprite__Fs__HandReq q = SPRITE__FS__HAND_REQ__INIT;
	Sprite__Fs__Cred c = cred_of(1000);
	struct rpc_msg m;
	int r;

	q.op = (Sprite__Fs__HandReq__Op)op;
	q.token = (ProtobufCBinaryData){strlen(token), (uint8_t *)token};
	q.open = open;
	q.shared = shared;
	q.cred = &c;
	r = call(who, FS_HAND, &q.base, &m);
	if (r == 0) {
		if (got)
			*got = ((Sprite__Fs__HandRep *)m.msg)->open;
		rpc_msg_clear(&m);
	}
	return r;
}

enum { OFFER = SPRITE__FS__HAND_REQ__OP__OFFER, CLAIM = SPRITE__FS__HAND_REQ__OP__CLAIM, CANCEL = SPRITE__FS__HAND_REQ__OP__CANCEL };

/* Whoever knows the secret, and may use the export, gets what is offered, for as long as it is; nobody else, and nothing else. */
static void test_hand(void)
{
	struct handle_copy root, two, h, secret;
	uint64_t id, other, theirs;

	CU_ASSERT_EQUAL_FATAL(attach(0, "/", false, &root), 0);
	CU_ASSERT_EQUAL_FATAL(lookup(0, 1000, &root, "mine", &h), 0);
	CU_ASSERT_EQUAL_FATAL(open_handle(0, 1000, &h, O_RDWR, &id), 0);
	CU_ASSERT_EQUAL(hand(0, OFFER, "short", id, false, NULL), EINVAL);
	CU_ASSERT_EQUAL(hand(1, OFFER, "0123456789abcdef", id, false, NULL), FS_EREOPEN); /* not theirs */
	CU_ASSERT_EQUAL(hand(1, CLAIM, "0123456789abcdef", 0, false, NULL), ENOENT);
	CU_ASSERT_EQUAL(hand(0, OFFER, "0123456789abcdef", id, true, NULL), EOPNOTSUPP); /* it is read too */
	CU_ASSERT_EQUAL(hand(0, OFFER, "0123456789abcdef", id, false, NULL), 0);
	CU_ASSERT_EQUAL(hand(1, CLAIM, "0123456789abcdeF", 0, false, NULL), ENOENT);
	CU_ASSERT_EQUAL(hand(1, CANCEL, "0123456789abcdef", 0, false, NULL), 0); /* of no effect */
	CU_ASSERT_EQUAL(hand(1, CLAIM, "0123456789abcdef", 0, false, &other), 0);
	CU_ASSERT_EQUAL(hand(1, OFFER, "0123456789abcdef", other, false, NULL), EEXIST); /* does not take the name over */
	CU_ASSERT_EQUAL(hand(0, CANCEL, "0123456789abcdef", 0, false, NULL), 0);
	CU_ASSERT_EQUAL(hand(1, CLAIM, "0123456789abcdef", 0, false, NULL), ENOENT);
	/* an export that is not ours: the secret does not help */
	CU_ASSERT_EQUAL_FATAL(attach(1, "/two", false, &two), 0);
	CU_ASSERT_EQUAL_FATAL(lookup(1, 1000, &two, "secret", &secret), 0);
	CU_ASSERT_EQUAL_FATAL(open_handle(1, 1000, &secret, O_RDONLY, &theirs), 0);
	CU_ASSERT_EQUAL(hand(1, OFFER, "fedcba9876543210", theirs, false, NULL), 0);
	CU_ASSERT_EQUAL(hand(0, CLAIM, "fedcba9876543210", 0, false, NULL), EACCES);
}

/* ---- floods ------------------------------------------------------------------------------------------------ */

/* A host that opens without end is refused, and others are not. */
static void test_flood_of_opens(void)
{
	struct handle_copy root[2], h[2];
	uint64_t id, first = 0;
	int n, r = 0;

	for (int i = 0; i < 2; i++) {
		CU_ASSERT_EQUAL_FATAL(attach(i, "/", false, &root[i]), 0);
		CU_ASSERT_EQUAL_FATAL(lookup(i, 1000, &root[i], "mine", &h[i]), 0);
	}
	server.opens.max = 100;
	for (n = 0; n < 200 && (r = open_handle(0, 1000, &h[0], O_RDONLY, &id)) == 0; n++)
		first = first ? first : id;
	CU_ASSERT_EQUAL(r, EMFILE);
	CU_ASSERT(n > 50 && n <= 100);
	CU_ASSERT_EQUAL(open_handle(1, 1000, &h[1], O_RDONLY, &id), 0);
	{
		Sprite__Fs__CloseReq q = SPRITE__FS__CLOSE_REQ__INIT;

		q.open = first;
		CU_ASSERT_EQUAL(call(0, FS_CLOSE, &q.base, NULL), 0);
	}
	CU_ASSERT_EQUAL(open_handle(0, 1000, &h[0], O_RDONLY, &id), 0); /* one closed, one opened */
	server.opens.max = CLIENT_MAX_OPENS;
}

/* Streams cost a thread each. */
static void test_flood_of_streams(void)
{
	struct rpc_stream *s[300];
	int n = 0, refused = 0;
	struct handle_copy root;

	for (int i = 0; i < 300; i++) {
		Sprite__Fs__EventAck hello = SPRITE__FS__EVENT_ACK__INIT;
		struct rpc_msg m;

		hello.epoch = clock_epoch();
		if (rpc_stream_open(ch[0], &fs_methods[FS_EVENTS], 60000, &s[n]) < 0) {
			refused++;
			continue;
		}
		if (rpc_stream_send(s[n], &hello.base, NULL, 0) == 0 && rpc_stream_recv(s[n], &m, 60000) == 1)
			rpc_msg_clear(&m);
		else
			refused++;
		n++;
	}
	CU_ASSERT(refused >= 40);
	CU_ASSERT_EQUAL(attach(1, "/", true, &root), 0);
	for (int i = 0; i < n; i++) {
		rpc_stream_cancel(s[i]);
		rpc_stream_finish(s[i], 0);
	}
	{
		struct rpc_stream *other = events_open(1); /* another host has room */

		CU_ASSERT_PTR_NOT_NULL(other);
		rpc_stream_cancel(other);
		rpc_stream_finish(other, 0);
	}
}

/* ---- garbage ----------------------------------------------------------------------------------------------- */

static uint64_t rnd_state = 88172645463325252ull;
static uint64_t rnd(void)
{
	rnd_state ^= rnd_state << 13;
	rnd_state ^= rnd_state >> 7;
	return rnd_state ^= rnd_state << 17;
}

static struct handle_copy *known; /* handles that are real */
static size_t nknown;

static uint64_t odd_number(void)
{
	static const uint64_t odd[] = {0, 1, 2, 4096, 65535, INT32_MAX, UINT32_MAX, INT64_MAX, INT64_MAX - 1, UINT64_MAX, 1ull << 63};

	return rnd() % 3 ? odd[rnd() % (sizeof(odd) / sizeof(odd[0]))] : rnd() >> (rnd() % 64);
}

static void *odd_bytes(size_t n)
{
	uint8_t *b = malloc(n + 1);

	for (size_t i = 0; i < n; i++)
		b[i] = (uint8_t)rnd();
	b[n] = 0;
	return b;
}

static char *odd_name(void)
{
	static const char *const names[] = {"mine", "open", "escape", "..", ".", "", "a/b", "../outside/secret", "fifo", "null", "new", "/"};

	if (rnd() % 4)
		return strdup(names[rnd() % (sizeof(names) / sizeof(names[0]))]);
	char *s = odd_bytes(rnd() % 5000);

	for (char *p = s; *p; p++)
		*p |= 1;
	return s;
}

static void fill(ProtobufCMessage *m)
{
	for (unsigned i = 0; i < m->descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &m->descriptor->fields[i];
		void *at = (char *)m + f->offset;
		struct handle_copy *h;

		if (f->label == PROTOBUF_C_LABEL_REPEATED)
			continue;
		switch (f->type) {
		case PROTOBUF_C_TYPE_STRING:
			*(char **)at = odd_name();
			break;
		case PROTOBUF_C_TYPE_BYTES:
			h = &known[rnd() % nknown];
			if (rnd() % 3)
				*(ProtobufCBinaryData *)at = (ProtobufCBinaryData){h->n, memcpy(malloc(h->n), h->b, h->n)};
			else
				*(ProtobufCBinaryData *)at = (ProtobufCBinaryData){rnd() % 200, odd_bytes(200)};
			break;
		case PROTOBUF_C_TYPE_MESSAGE:
			if (rnd() % 8) {
				ProtobufCMessage *sub = malloc(((const ProtobufCMessageDescriptor *)f->descriptor)->sizeof_message);

				protobuf_c_message_init(f->descriptor, sub);
				fill(sub);
				*(ProtobufCMessage **)at = sub;
			}
			break;
		case PROTOBUF_C_TYPE_BOOL:
			*(protobuf_c_boolean *)at = rnd() & 1;
			break;
		case PROTOBUF_C_TYPE_UINT64:
		case PROTOBUF_C_TYPE_INT64:
		case PROTOBUF_C_TYPE_FIXED64:
			*(uint64_t *)at = odd_number();
			break;
		default:
			*(uint32_t *)at = (uint32_t)odd_number();
		}
	}
}

/* Valid messages with senseless contents, of every kind: each is answered, nothing outside is touched, others are served as before. */
static void test_garbage(void)
{
	struct handle_copy root, h[3];
	char *p = path_in("outside/secret"), text[16] = "";
	FILE *f;

	CU_ASSERT_EQUAL_FATAL(attach(0, "/", true, &root), 0);
	h[0] = root;
	CU_ASSERT_EQUAL(lookup(0, 1000, &root, "open", &h[1]), 0);
	CU_ASSERT_EQUAL(lookup(0, 1000, &root, "fifo", &h[2]), 0);
	known = h;
	nknown = 3;
	for (int round = 0; round < 6000; round++) {
		enum fs_op op = (enum fs_op)(rnd() % FS_NOPS);
		ProtobufCMessage *m;
		struct iovec bulk = {odd_bytes(2000), rnd() % 2000};
		struct rpc_msg out;
		int r;

		if (fs_methods[op].kind == RPC_UNARY && op != FS_ELECT) {
			m = calloc(1, fs_methods[op].in->sizeof_message);
			protobuf_c_message_init(fs_methods[op].in, m);
			fill(m);
			if (op == FS_LOCK)
				((Sprite__Fs__LockReq *)m)->wait = false;
			r = rpc_call(ch[0], &fs_methods[op], m, fs_methods[op].bulk ? &bulk : NULL, fs_methods[op].bulk, 30000, &out);
			CU_ASSERT(r == 0 || r == -EMSGSIZE || r == -EPROTO);
			if (r == 0)
				rpc_msg_clear(&out);
			protobuf_c_message_free_unpacked(m, NULL);
		}
		free(bulk.iov_base);
	}
	f = fopen(p, "r");
	CU_ASSERT_PTR_NOT_NULL_FATAL(f);
	CU_ASSERT_PTR_NOT_NULL(fgets(text, sizeof(text), f));
	fclose(f);
	CU_ASSERT_STRING_EQUAL(text, "secret");
	free(p);
	CU_ASSERT_EQUAL(access("/tmp/outside", F_OK), -1);
	__atomic_add_fetch(&clock_ahead, CLIENT_FORGET_NS + 1, __ATOMIC_RELAXED); /* whatever leases it got, nobody acknowledges: it is given up */
	fsd_tick(&server);
	CU_ASSERT_EQUAL(attach(1, "/", false, &root), 0);
	CU_ASSERT_EQUAL(make_dir(1, 1000, &root, "still-served"), 0);
}

int main(void)
{
	static const struct kit_test tests[] = {
		{"who may take what is handed over", test_hand},
		{"a flood of opens", test_flood_of_opens},
		{"a flood of streams", test_flood_of_streams},
		{"garbage of every kind", test_garbage},
	};

	return kit_run("test_fsd_flood", tests, sizeof(tests) / sizeof(tests[0]));
}
