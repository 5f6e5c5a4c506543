/* SPDX-License-Identifier: Apache-2.0 */
/* Streams: order, ends, errors, flow control, cancels from both sides, lost peers. */
#include "tests/unit/rpc_kit.h"

static char big[1 << 20];

static int send_num(struct rpc_stream *s, uint64_t seq, uint32_t err, size_t bulk)
{
	Num n = num(seq, err);
	struct iovec v = { big, bulk };

	return rpc_stream_send(s, &n.base, &v, bulk ? 1 : 0);
}

static struct rpc_stream *open_str(struct rpc_channel *c)
{
	struct rpc_stream *s = NULL;

	CU_ASSERT_EQUAL_FATAL(rpc_stream_open(c, &kit_str, -1, &s), 0);
	return s;
}

static void test_echo(void)
{
	struct rpc_stream *s = open_str(ch);
	struct rpc_msg m;
	uint64_t i;

	for (i = 0; i < 200; i++) {
		CU_ASSERT_EQUAL(send_num(s, i, 0, i % 50 ? i : 1 << 20), 0);
		CU_ASSERT_EQUAL_FATAL(rpc_stream_recv(s, &m, 5000), 1);
		CU_ASSERT_EQUAL(((Num *)m.msg)->seq, i);
		CU_ASSERT_EQUAL(m.bulk_len, i % 50 ? i : 1 << 20);
		rpc_msg_clear(&m);
	}
	CU_ASSERT_EQUAL(rpc_stream_recv(s, &m, 50), -ETIMEDOUT);
	rpc_stream_done_sending(s);
	CU_ASSERT_EQUAL(send_num(s, 0, 0, 0), -EPIPE);
	CU_ASSERT_EQUAL(rpc_stream_recv(s, &m, 5000), 0);
	CU_ASSERT_EQUAL(rpc_stream_finish(s, 0), 0);
	CU_ASSERT_EQUAL(kit_str_last, 0); /* the server saw an orderly end */
}

static void test_errno(void)
{
	struct rpc_stream *s = open_str(ch);
	struct rpc_msg m;

	CU_ASSERT_EQUAL(send_num(s, 0, 0, 0), 0);
	CU_ASSERT_EQUAL(rpc_stream_recv(s, &m, 5000), 1);
	rpc_msg_clear(&m);
	CU_ASSERT_EQUAL(rpc_stream_finish(s, 0), ENOTTY); /* an odd number of messages */
}

/* The server sends, then ends with an errno: everything arrives before. */
static void test_download(void)
{
	struct rpc_stream *s = open_str(ch);
	struct rpc_msg m;
	unsigned n = 0;

	CU_ASSERT_EQUAL(send_num(s, 0, 302, 0), 0);
	while (rpc_stream_recv(s, &m, 5000) == 1) {
		CU_ASSERT_EQUAL(((Num *)m.msg)->seq, n + 2);
		CU_ASSERT_EQUAL(m.bulk_len, 65536);
		rpc_msg_clear(&m);
		n++;
	}
	CU_ASSERT_EQUAL(n, 300);
	CU_ASSERT_EQUAL(rpc_stream_finish(s, 0), EXDEV);
}

/* finish() without reading: drains. */
static void test_drain(void)
{
	struct rpc_stream *s = open_str(ch);

	CU_ASSERT_EQUAL(send_num(s, 0, 102, 0), 0);
	CU_ASSERT_EQUAL(rpc_stream_finish(s, 0), EXDEV);
}

struct sender {
	struct rpc_stream *s;
	_Atomic uint32_t sent;
	_Atomic uint32_t over;
	int r;
};

static void *sender_main(void *arg)
{
	struct sender *b = arg;

	while ((b->r = send_num(b->s, 0, b->sent ? 0 : 1, 1 << 20)) == 0)
		b->sent++;
	b->over = 1;
	return NULL;
}

/* A reader that does not read stops the writer soon, and a cancel from another thread frees it. */
static void test_flow(void)
{
	struct sender b = { .s = open_str(ch) };
	pthread_t t;

	kit_str_ended = 0;
	pthread_create(&t, NULL, sender_main, &b);
	CU_ASSERT_TRUE(kit_wait(&b.sent, 1, 10000));
	CU_ASSERT_FALSE(kit_wait(&b.sent, 24, 25)); /* read ahead, windows, socket buffers; without flow control it takes some 20 ms */
	rpc_stream_cancel(b.s);
	CU_ASSERT_TRUE(kit_wait(&b.over, 1, 3000));
	pthread_join(t, NULL);
	CU_ASSERT_EQUAL(b.r, -ECANCELED);
	CU_ASSERT_EQUAL(rpc_stream_finish(b.s, 0), -ECANCELED);
	CU_ASSERT_TRUE(kit_wait(&kit_str_ended, 1, 3000)); /* and the server's handler learns of it */
}

static void *goes_on_main(void *arg)
{
	struct sender *b = arg;

	while ((b->r = send_num(b->s, 0, b->sent ? 0 : 4, 1 << 20)) == 0)
		b->sent++;
	b->over = 1;
	return NULL;
}

/* The server says its word and ends the stream, without reading what still comes: the sender gets to know, wherever it stands. */
static void test_early_end(void)
{
	for (int i = 0; i < 20; i++) {
		struct sender b = { .s = open_str(ch) };
		struct rpc_msg m;
		pthread_t t;

		pthread_create(&t, NULL, goes_on_main, &b);
		CU_ASSERT_TRUE(kit_wait(&b.over, 1, 20000));
		if (!b.over)
			rpc_stream_cancel(b.s);
		pthread_join(t, NULL);
		CU_ASSERT_TRUE(b.r == -EPIPE);
		CU_ASSERT_EQUAL(rpc_stream_recv(b.s, &m, 5000), 1); /* its word is still there */
		rpc_msg_clear(&m);
		CU_ASSERT_EQUAL(rpc_stream_finish(b.s, 0), EXDEV);
	}
}

static void *cancel_later(void *arg)
{
	kit_sleep(100);
	rpc_stream_cancel(arg);
	return NULL;
}

static void test_cancel_recv(void)
{
	struct rpc_stream *s = open_str(ch);
	struct rpc_msg m;
	pthread_t t;

	kit_str_ended = 0;
	pthread_create(&t, NULL, cancel_later, s);
	CU_ASSERT_EQUAL(rpc_stream_recv(s, &m, 5000), -ECANCELED);
	pthread_join(t, NULL);
	CU_ASSERT_EQUAL(rpc_stream_finish(s, 0), -ECANCELED);
	CU_ASSERT_TRUE(kit_wait(&kit_str_ended, 1, 3000));
	CU_ASSERT_EQUAL(kit_str_last, -ECANCELED);
}

static void test_deadline(void)
{
	struct rpc_stream *s = NULL;
	struct rpc_msg m;
	uint64_t t0 = kit_ms();

	CU_ASSERT_EQUAL_FATAL(rpc_stream_open(ch, &kit_str, 300, &s), 0);
	CU_ASSERT_EQUAL(rpc_stream_recv(s, &m, 5000), -ETIMEDOUT);
	CU_ASSERT_TRUE(kit_ms() - t0 >= 290 && kit_ms() - t0 < 2000);
	CU_ASSERT_EQUAL(rpc_stream_finish(s, 0), -ETIMEDOUT);
}

/* The last stream of a client goes, however: its server is told, once. */
static void test_peer_lost(void)
{
	struct relay *r = relay_start(port);
	struct rpc_channel *c2 = kit_channel(tc, r->port, "fs1");
	struct rpc_stream *a = open_str(c2), *b = open_str(c2);
	struct rpc_msg m;

	kit_sleep(50);
	kit_lost = kit_str_ended = 0;
	CU_ASSERT_EQUAL(rpc_stream_finish(a, 0), 0);
	CU_ASSERT_TRUE(kit_wait(&kit_str_ended, 1, 3000));
	kit_sleep(50);
	CU_ASSERT_EQUAL(kit_lost, 0);
	relay_cut(r);
	CU_ASSERT_EQUAL(rpc_stream_recv(b, &m, 5000), -EHOSTDOWN);
	CU_ASSERT_EQUAL(rpc_stream_send(b, NULL, NULL, 0), -EHOSTDOWN);
	CU_ASSERT_EQUAL(rpc_stream_finish(b, 0), -EHOSTDOWN);
	CU_ASSERT_TRUE(kit_wait(&kit_lost, 1, 3000));
	CU_ASSERT_EQUAL(kit_lost, 1);
	rpc_channel_close(c2);
	relay_stop(r);
}

/* The server stops with streams open, and the client's channel is closed with one open. */
static void *finish_later(void *arg)
{
	struct rpc_msg m;
	int *r = malloc(sizeof(*r));

	*r = rpc_stream_recv(arg, &m, 10000);
	rpc_stream_finish(arg, 0);
	return r;
}

static void test_stop(void)
{
	uint16_t p = 0;
	struct rpc_server *s2 = kit_server(ts, &p);
	struct rpc_channel *c2 = kit_channel(tc, p, "fs1");
	struct rpc_stream *a = open_str(c2);
	uint64_t t0 = kit_ms();
	pthread_t t;
	void *r;

	pthread_create(&t, NULL, finish_later, a);
	kit_sleep(50);
	rpc_server_stop(s2);
	pthread_join(t, &r);
	CU_ASSERT_EQUAL(*(int *)r, -EHOSTDOWN);
	free(r);
	CU_ASSERT_EQUAL(rpc_stream_open(c2, &kit_str, 2000, &a), -EHOSTDOWN);
	s2 = kit_server(ts, &p);
	while (rpc_stream_open(c2, &kit_str, -1, &a) == -EHOSTDOWN && kit_ms() - t0 < 2000) /* comes back */
		kit_sleep(20);
	pthread_create(&t, NULL, finish_later, a);
	kit_sleep(50);
	rpc_channel_close(c2);
	pthread_join(t, &r);
	CU_ASSERT_EQUAL(*(int *)r, -ECANCELED);
	free(r);
	rpc_server_stop(s2);
	CU_ASSERT_TRUE(kit_ms() - t0 < 2500);
}

static void *one_stream(void *arg)
{
	struct rpc_stream *s = NULL;
	struct rpc_msg m;
	uint64_t i;

	if (rpc_stream_open(arg, &kit_str, -1, &s))
		return (void *)1;
	for (i = 0; i < 50; i++) {
		if (send_num(s, i, 0, 100) || rpc_stream_recv(s, &m, 10000) != 1 || ((Num *)m.msg)->seq != i)
			return (void *)2;
		rpc_msg_clear(&m);
	}
	return rpc_stream_finish(s, 0) ? (void *)3 : NULL;
}

static void test_many(void)
{
	enum { N = 40 };
	pthread_t t[N];
	unsigned i, bad = 0;
	void *r;

	for (i = 0; i < N; i++)
		pthread_create(&t[i], NULL, one_stream, ch);
	for (i = 0; i < N; i++) {
		pthread_join(t[i], &r);
		bad += r != NULL;
	}
	CU_ASSERT_EQUAL(bad, 0);
}

int main(void)
{
	CU_pSuite s;

	kit_begin();
	CU_initialize_registry();
	s = CU_add_suite("rpc_stream", pair_begin, pair_end);
	CU_ADD_TEST(s, test_echo);
	CU_ADD_TEST(s, test_errno);
	CU_ADD_TEST(s, test_download);
	CU_ADD_TEST(s, test_drain);
	CU_ADD_TEST(s, test_flow);
	CU_ADD_TEST(s, test_early_end);
	CU_ADD_TEST(s, test_cancel_recv);
	CU_ADD_TEST(s, test_deadline);
	CU_ADD_TEST(s, test_peer_lost);
	CU_ADD_TEST(s, test_stop);
	CU_ADD_TEST(s, test_many);
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	return kit_end();
}
