/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes of mapped pages, which are answered before others have given up what they break (consist.h, rule 9), on a real server: thousands of them cost no more than one that
 * waits, and a close that waits for them does so over a restart of the server.
 */
#include "tests/unit/fsd_kit.h"

#define PAGES 9000 /* more than a host may have waiting */

static struct handle_copy root[2], file[2];
static uint64_t writer;
static struct rpc_stream *events;

/* Both know the file, and the second one has its contents. */
static void begin(void)
{
	Sprite__Fs__ReadReq q = SPRITE__FS__READ_REQ__INIT;
	Sprite__Fs__Cred c = cred_of(1000);
	struct rpc_msg m;

	for (int i = 0; i < 2; i++) {
		CU_ASSERT_EQUAL_FATAL(attach(i, "/", true, &root[i]), 0);
		CU_ASSERT_EQUAL_FATAL(lookup(i, 1000, &root[i], "mine", &file[i]), 0);
	}
	events = events_open(1);
	CU_ASSERT_EQUAL_FATAL(open_handle(0, 1000, &file[0], O_RDWR, &writer), 0);
	q.handle = as_bytes(&file[1]);
	q.cred = &c;
	q.size = 4096;
	CU_ASSERT_EQUAL_FATAL(call(1, FS_READ, &q.base, &m), 0);
	CU_ASSERT_TRUE(((Sprite__Fs__ReadRep *)m.msg)->lease & SPRITE__FS__LEASE_BITS__LEASE_DATA);
	rpc_msg_clear(&m);
}

static void write_page(unsigned n)
{
	static char page[4096];
	Sprite__Fs__WriteReq q = SPRITE__FS__WRITE_REQ__INIT;
	Sprite__Fs__Cred c = cred_of(1000);
	struct iovec v = {page, sizeof(page)};
	struct rpc_msg m;

	q.cred = &c;
	q.handle = as_bytes(&file[0]);
	q.open = writer;
	q.offset = (uint64_t)(n % 64) * sizeof(page);
	q.mapped = true;
	CU_ASSERT_EQUAL_FATAL(rpc_call(ch[0], &fs_methods[FS_WRITE], &q.base, &v, 1, 20000, &m), 0);
	CU_ASSERT_EQUAL_FATAL(m.err, 0);
	CU_ASSERT_TRUE(((Sprite__Fs__WriteRep *)m.msg)->unsettled);
	rpc_msg_clear(&m);
}

static void settle(struct async *a, bool unsettled)
{
	Sprite__Fs__FsyncReq q = SPRITE__FS__FSYNC_REQ__INIT;

	*a = (struct async){.lock = PTHREAD_MUTEX_INITIALIZER};
	q.handle = as_bytes(&file[0]);
	q.open = unsettled ? writer : 0;
	q.settle = q.unsettled = unsettled;
	rpc_call_async(ch[0], &fs_methods[FS_FSYNC], &q.base, NULL, 0, -1, async_done, a);
}

/* All that the server has asked of the second one so far is given up. */
static void give_up(void)
{
	Sprite__Fs__EventAck ack = SPRITE__FS__EVENT_ACK__INIT;
	struct rpc_msg m;

	while (rpc_stream_recv(events, &m, 300) == 1) {
		ack.id = ((Sprite__Fs__Event *)m.msg)->id;
		rpc_msg_clear(&m);
		CU_ASSERT_EQUAL(rpc_stream_send(events, &ack.base, NULL, 0), 0);
	}
}

static void test_many(void)
{
	struct async a;

	begin();
	for (unsigned n = 0; n < PAGES; n++)
		write_page(n);
	settle(&a, true);
	CU_ASSERT_FALSE(async_wait(&a, 300)); /* it waits: no refusal for what waits already */
	give_up();
	CU_ASSERT_TRUE(async_wait(&a, 20000));
	CU_ASSERT_EQUAL(a.err, 0);
}

static void restart(void)
{
	struct conf_addr addr = {.host = "127.0.0.1"};
	struct error e = {0};

	rpc_stream_cancel(events);
	rpc_stream_finish(events, 0);
	for (int i = 0; i < 2; i++)
		rpc_channel_close(ch[i]);
	fsd_stop(&server);
	CU_ASSERT_EQUAL_FATAL(fsd_start(&server, &server_conf, server_tls, &e), 0);
	addr.port = rpc_server_port(server.server, 0);
	for (int i = 0; i < 2; i++)
		ch[i] = rpc_channel_open(tls[i], &addr, "fs1", "meta");
}

static void recovered(int who)
{
	Sprite__Fs__RenewReq q = SPRITE__FS__RENEW_REQ__INIT;

	q.instance = (char *)"";
	q.recovered = true;
	q.server_epoch = clock_epoch();
	CU_ASSERT_EQUAL(call(who, FS_RENEW, &q.base, NULL), 0);
}

/* What is open of a home cannot be known before its clients are back. */
static int ask_held(void)
{
	char *path = path_in("run/spritefsd.sock");
	struct error e = {0};
	int r = local_call(path, json_pack("{s:s, s:s, s:i, s:i}", "verb", "held", "host", "ws1", "uid", 1000, "ino", 1), NULL, NULL, NULL, &e);

	free(path);
	return r;
}

/* The server has forgotten that the second one has old pages; it has not, until it says that it is here again. */
static void test_restart(void)
{
	Sprite__Fs__OpenReq q = SPRITE__FS__OPEN_REQ__INIT;
	Sprite__Fs__Cred c = cred_of(1000);
	struct async a, b;
	struct rpc_msg m;

	CU_ASSERT_EQUAL(ask_held(), -ESRCH);
	restart();
	CU_ASSERT_EQUAL(ask_held(), -EAGAIN);
	for (int i = 0; i < 2; i++)
		CU_ASSERT_EQUAL_FATAL(attach(i, "/", true, &root[i]), 0);
	q.cred = &c;
	q.handle = as_bytes(&file[0]);
	q.flags = O_RDWR;
	q.reclaim = true;
	CU_ASSERT_EQUAL_FATAL(call(0, FS_OPEN, &q.base, &m), 0);
	writer = ((Sprite__Fs__OpenRep *)m.msg)->open;
	rpc_msg_clear(&m);
	settle(&b, false); /* an fsync that has nothing of the kind to wait for */
	CU_ASSERT_TRUE(async_wait(&b, 20000));
	CU_ASSERT_EQUAL(b.err, 0);
	settle(&a, true);
	CU_ASSERT_FALSE(async_wait(&a, 300));
	recovered(0);
	CU_ASSERT_FALSE(async_wait(&a, 300));
	recovered(1);
	CU_ASSERT_TRUE(async_wait(&a, 20000));
	CU_ASSERT_EQUAL(a.err, 0);
	CU_ASSERT_EQUAL(ask_held(), -ESRCH);
	events = events_open(1);
	rpc_stream_cancel(events);
	rpc_stream_finish(events, 0);
}

int main(void)
{
	static const struct kit_test tests[] = {{"thousands are one that waits", test_many}, {"a close that waits for them does so over a restart", test_restart}};

	return kit_run("test_fsd_mapped", tests, sizeof(tests) / sizeof(tests[0]));
}
