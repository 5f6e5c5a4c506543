/* SPDX-License-Identifier: Apache-2.0 */
/* Peers that do not play by the rules, with a good certificate and without: the server answers the next caller, and its memory and threads stay bounded. */
#include "tests/unit/rpc_kit.h"
#include <endian.h>
#include "rpc/internal.h"

static bool alive(void)
{
	uint64_t v = 0;

	return kit_num(ch, &kit_echo, 1, 0, 5000, &v) == 0 && v == 2;
}

/* ---- frames ---- */
struct raw {
	struct rt_tag tag;
	struct rt_event over;
};

static void raw_over(struct rt_tag *t, bool ok)
{
	(void)ok;
	rt_event_set(&container_of(t, struct raw, tag)->over);
}

/* Sends bytes as the one message of a unary call; the status. n == SIZE_MAX: no message at all. */
static grpc_status_code raw_call(const struct rpc_method *m, const void *p, size_t n)
{
	grpc_slice sl = grpc_slice_from_copied_buffer(p, n == SIZE_MAX ? 0 : n), details = grpc_empty_slice();
	grpc_byte_buffer *bb = grpc_raw_byte_buffer_create(&sl, 1), *back = NULL;
	struct line *line;
	grpc_call *call = channel_new_call(ch, m, deadline_of(5000), &line);
	struct raw r = { .tag.fn = raw_over };
	grpc_metadata_array a, b;
	grpc_status_code status;
	grpc_op op[6];
	int i = 0;

	grpc_metadata_array_init(&a);
	grpc_metadata_array_init(&b);
	memset(op, 0, sizeof(op));
	op[i++].op = GRPC_OP_SEND_INITIAL_METADATA;
	if (n != SIZE_MAX) {
		op[i].op = GRPC_OP_SEND_MESSAGE;
		op[i++].data.send_message.send_message = bb;
	}
	op[i++].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
	op[i].op = GRPC_OP_RECV_INITIAL_METADATA;
	op[i++].data.recv_initial_metadata.recv_initial_metadata = &a;
	op[i].op = GRPC_OP_RECV_MESSAGE;
	op[i++].data.recv_message.recv_message = &back;
	op[i].op = GRPC_OP_RECV_STATUS_ON_CLIENT;
	op[i].data.recv_status_on_client.trailing_metadata = &b;
	op[i].data.recv_status_on_client.status = &status;
	op[i++].data.recv_status_on_client.status_details = &details;
	rt_start(call, op, i, &r.tag);
	rt_event_wait(&r.over);
	grpc_slice_unref(details);
	grpc_slice_unref(sl);
	grpc_byte_buffer_destroy(bb);
	grpc_byte_buffer_destroy(back);
	line_put(line);
	grpc_metadata_array_destroy(&a);
	grpc_metadata_array_destroy(&b);
	grpc_call_unref(call);
	return status;
}

static size_t put32(uint8_t *p, uint32_t v)
{
	v = htole32(v);
	memcpy(p, &v, 4);
	return 4;
}

static void test_frames(void)
{
	static uint8_t big[2 << 20];
	uint8_t f[256];
	size_t n;

	CU_ASSERT_EQUAL(raw_call(&kit_echo, "", SIZE_MAX), GRPC_STATUS_INVALID_ARGUMENT);
	CU_ASSERT_EQUAL(raw_call(&kit_echo, "", 0), GRPC_STATUS_INVALID_ARGUMENT);
	CU_ASSERT_EQUAL(raw_call(&kit_echo, "abc", 3), GRPC_STATUS_INVALID_ARGUMENT);
	CU_ASSERT_EQUAL(raw_call(&kit_echo, "\xff\xff\xff\xff", 4), GRPC_STATUS_INVALID_ARGUMENT); /* header of 4 GiB */
	memset(f, 0xff, sizeof(f));
	n = put32(f, 100);
	CU_ASSERT_EQUAL(raw_call(&kit_echo, f, n + 100), GRPC_STATUS_INVALID_ARGUMENT); /* header that is no protobuf */
	n = put32(f, 0);
	CU_ASSERT_EQUAL(raw_call(&kit_echo, f, n), GRPC_STATUS_INVALID_ARGUMENT); /* no message length */
	n += put32(f + n, 50);
	CU_ASSERT_EQUAL(raw_call(&kit_echo, f, n + 49), GRPC_STATUS_INVALID_ARGUMENT); /* message cut off */
	put32(f + 4, RPC_CONTROL_MAX + 1);
	CU_ASSERT_EQUAL(raw_call(&kit_echo, f, sizeof(f)), GRPC_STATUS_RESOURCE_EXHAUSTED);
	CU_ASSERT_EQUAL(raw_call(&kit_echo, big, RPC_CONTROL_MAX + 1), GRPC_STATUS_RESOURCE_EXHAUSTED); /* control method */
	CU_ASSERT_EQUAL(raw_call(&kit_bulk, big, sizeof(big)), GRPC_STATUS_RESOURCE_EXHAUSTED);
	CU_ASSERT_TRUE(alive());
}

/* A header of another version: told by errno, so that an old program can say so in words. */
static void test_version(void)
{
	Num head = num(1, 0), body = num(1, 0);
	uint8_t f[256];
	size_t n;

	head.version = RPC_VERSION_MIN - 1;
	n = put32(f, sprite__rpc__head__get_packed_size(&head));
	n += sprite__rpc__head__pack(&head, f + n);
	n += put32(f + n, sprite__rpc__head__get_packed_size(&body));
	n += sprite__rpc__head__pack(&body, f + n);
	kit_last_epoch = 1234;
	CU_ASSERT_EQUAL(raw_call(&kit_echo, f, n), GRPC_STATUS_OK); /* EPROTONOSUPPORT inside */
	CU_ASSERT_EQUAL(kit_last_epoch, 1234);			    /* the handler has not seen it */
}

static void test_random_frames(void)
{
	uint8_t f[300];
	unsigned i, j, n, ok = 0;

	srandom(7);
	for (i = 0; i < 500; i++) {
		n = random() % sizeof(f);
		for (j = 0; j < n; j++)
			f[j] = random();
		if (i & 1 && n > 8)
			put32(f, random() % 20);
		ok += raw_call(i % 3 ? &kit_echo : &kit_add, f, n) == GRPC_STATUS_OK;
	}
	CU_ASSERT_TRUE(ok < 250);
	CU_ASSERT_TRUE(alive());
}

/* A stream whose peer sends rubbish is ended. */
static void test_stream_frames(void)
{
	CU_ASSERT_EQUAL(raw_call(&kit_str, "rubbish", 7), GRPC_STATUS_CANCELLED);
	CU_ASSERT_TRUE(alive());
}

/* ---- the port ---- */
static void spray(const void *p, size_t n, unsigned times)
{
	unsigned i;
	int fd;

	for (i = 0; i < times; i++) {
		fd = kit_connect(port);
		if (fd < 0)
			continue;
		if (send(fd, p, n, MSG_NOSIGNAL) < 0)
			CU_ASSERT_TRUE(errno == EPIPE || errno == ECONNRESET);
		if (i & 1)
			shutdown(fd, SHUT_WR);
		close(fd);
	}
}

static void test_garbage(void)
{
	static const uint8_t hello[] = { 0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc, 3, 3 }; /* a ClientHello of 16 KiB that never comes */
	uint8_t noise[4096];
	size_t i;

	srandom(11);
	for (i = 0; i < sizeof(noise); i++)
		noise[i] = random();
	spray(noise, sizeof(noise), 40);
	spray("GET / HTTP/1.0\r\n\r\n", 18, 20);
	spray("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24, 20);
	spray(hello, sizeof(hello), 20);
	spray("", 0, 50);
	CU_ASSERT_TRUE(alive());
}

#ifdef __SANITIZE_ADDRESS__
#define CLOSED_BY_MS 60000
#else
#define CLOSED_BY_MS 15000 /* the handshake's time is 10 s */
#endif

/* Connections that say nothing are closed after the handshake's time, and keep nobody out meanwhile. */
static void test_silent(void)
{
	int fds[100], i, open = 0, threads = kit_count("/proc/self/task");
	struct rpc_channel *c2;
	uint64_t t0 = kit_ms();
	char b;

	for (i = 0; i < 100; i++)
		fds[i] = kit_connect(port);
	c2 = kit_channel(tc, port, "fs1");
	CU_ASSERT_EQUAL(kit_num(c2, &kit_echo, 1, 0, 60000, NULL), 0);
	/* it was served before they were gone, not after */
	for (i = 0; i < 100; i++)
		open += recv(fds[i], &b, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN;
	CU_ASSERT_TRUE(open > 0);
	rpc_channel_close(c2);
	CU_ASSERT_TRUE(kit_count("/proc/self/task") <= threads + 4);
	for (i = open = 0; i < 100; i++) {
		struct timeval tv = { 60, 0 }; /* what hangs, not what is slow */

		setsockopt(fds[i], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
		open += recv(fds[i], &b, 1, 0) < 0 && errno == EAGAIN;
		close(fds[i]);
	}
	CU_ASSERT_EQUAL(open, 0);
	CU_ASSERT_TRUE(kit_ms() - t0 < CLOSED_BY_MS);
}

/* A client that floods: 3000 calls that hang, without waiting for any. Others are served. */
static void ignore(void *arg, int status, struct rpc_msg *out)
{
	(void)arg;
	(void)status;
	rpc_msg_clear(out);
}

static void test_flood(void)
{
	struct rpc_channel *c2 = kit_channel(tc, port, "fs1");
	Num in = num(0, 0);
	unsigned i;

	kit_cancelled = 0;
	for (i = 0; i < 3000; i++)
		rpc_call_async(c2, &kit_hang, &in.base, NULL, 0, -1, ignore, NULL);
	CU_ASSERT_TRUE(kit_wait(&kit_hanging, 3000, 10000));
	CU_ASSERT_TRUE(alive());
	rpc_channel_close(c2);
	CU_ASSERT_TRUE(kit_wait(&kit_cancelled, 3000, 10000));
	CU_ASSERT_EQUAL(kit_hanging, 0);
}

int main(void)
{
	CU_pSuite s;

	kit_begin();
	CU_initialize_registry();
	s = CU_add_suite("rpc_hostile", pair_begin, pair_end);
	CU_ADD_TEST(s, test_version);
	CU_ADD_TEST(s, test_frames);
	CU_ADD_TEST(s, test_random_frames);
	CU_ADD_TEST(s, test_stream_frames);
	CU_ADD_TEST(s, test_garbage);
	CU_ADD_TEST(s, test_flood);
	CU_ADD_TEST(s, test_silent);
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	return kit_end();
}
