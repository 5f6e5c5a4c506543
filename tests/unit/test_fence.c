// SPDX-License-Identifier: Apache-2.0
/*
 * Fencing: what a client did, and was answered, under leases of an earlier life of the server is done after a restart as long as nobody else can have seen the
 * state without it, and never later. The server is stopped and started in this process; each of its lives numbers its clients anew.
 */
#include "fs/batch.h"
#include "fs/server/recover.h"
#include "tests/unit/fsd_kit.h"

/* Another life of the server, on another port. */
static void restart(void)
{
	struct conf_addr addr = {.host = "127.0.0.1"};
	uint64_t epoch = clock_epoch();
	static uint64_t lives;
	struct error e = {0};

	for (int i = 0; i < 2; i++)
		rpc_channel_close(ch[i]);
	fsd_stop(&server);
	clock_epoch_adopt(epoch ^ ++lives << 8);
	memset(&server, 0, sizeof(server));
	CU_ASSERT_EQUAL_FATAL(fsd_start(&server, &server_conf, server_tls, &e), 0);
	clock_epoch_adopt(epoch); /* the clients are who they were */
	addr.port = rpc_server_port(server.server, 0);
	for (int i = 0; i < 2; i++)
		ch[i] = rpc_channel_open(tls[i], &addr, "fs1", "meta");
}

static uint64_t attach_lease(int who, struct handle_copy *root)
{
	Sprite__Fs__AttachReq q = SPRITE__FS__ATTACH_REQ__INIT;
	uint64_t lease = 0;
	struct rpc_msg m;

	q.prefix = "/";
	q.instance = "/sprite";
	if (call(who, FS_ATTACH, &q.base, &m) == 0) {
		lease = ((Sprite__Fs__AttachRep *)m.msg)->lease_epoch;
		*root = handle_of(((Sprite__Fs__AttachRep *)m.msg)->handle);
		rpc_msg_clear(&m);
	}
	return lease;
}

static void recovered(int who)
{
	Sprite__Fs__RenewReq q = SPRITE__FS__RENEW_REQ__INIT;

	q.recovered = true;
	q.server_epoch = clock_epoch();
	q.instance = "/sprite";
	CU_ASSERT_EQUAL(call(who, FS_RENEW, &q.base, NULL), 0);
}

/* One new file, as a batch of what was answered under `lease`: errno of the batch. */
static int make_late(int who, struct handle_copy *dir, const char *name, uint64_t lease)
{
	Sprite__Fs__MakeReq make = SPRITE__FS__MAKE_REQ__INIT;
	Sprite__Fs__BatchReq q = SPRITE__FS__BATCH_REQ__INIT;
	Sprite__Fs__Cred c = cred_of(1000);
	struct rpc_msg out;
	uint8_t buf[1024];
	struct iovec v = {buf, 0};
	int r;

	make.cred = &c;
	make.dir = as_bytes(dir);
	make.name = (char *)name;
	make.mode = S_IFREG | 0644;
	v.iov_len = batch_put(buf, FS_MAKE, (uint32_t)protobuf_c_message_get_packed_size(&make.base), 0);
	v.iov_len += protobuf_c_message_pack(&make.base, buf + v.iov_len);
	q.n = 1;
	q.lease_epoch = lease;
	CU_ASSERT_EQUAL_FATAL(rpc_call(ch[who], &fs_methods[FS_BATCH], &q.base, &v, 1, 20000, &out), 0);
	r = out.err;
	if (!r)
		CU_ASSERT_EQUAL(((Sprite__Fs__BatchRep *)out.msg)->n, 1);
	rpc_msg_clear(&out);
	return r;
}

static int write_late(int who, struct handle_copy *h, uint64_t lease)
{
	Sprite__Fs__OpenReq o = SPRITE__FS__OPEN_REQ__INIT;
	Sprite__Fs__WriteReq q = SPRITE__FS__WRITE_REQ__INIT;
	Sprite__Fs__Cred c = cred_of(1000);
	struct iovec v = {"late", 4};
	struct rpc_msg m;
	int r;

	o.cred = &c;
	o.handle = as_bytes(h);
	o.flags = O_WRONLY;
	o.reclaim = true;
	CU_ASSERT_EQUAL_FATAL(call(who, FS_OPEN, &o.base, &m), 0);
	q.open = ((Sprite__Fs__OpenRep *)m.msg)->open;
	rpc_msg_clear(&m);
	q.cred = &c;
	q.handle = as_bytes(h);
	q.lease_epoch = lease;
	q.close = true;
	CU_ASSERT_EQUAL_FATAL(rpc_call(ch[who], &fs_methods[FS_WRITE], &q.base, &v, 1, 20000, &m), 0);
	r = m.err;
	rpc_msg_clear(&m);
	return r;
}

static void grace_over(void)
{
	__atomic_add_fetch(&clock_ahead, CLIENT_TERM_NS + 2 * CLIENT_MARGIN_NS, __ATOMIC_RELAXED);
	recover_tick(&server);
	CU_ASSERT_FALSE(recover_in_grace(&server));
}

/* Until it has sent all, however often the server is restarted meanwhile; not after, and not by guessing. */
static void test_until_recovered(void)
{
	struct handle_copy root, mine;
	uint64_t first, second, third;

	first = attach_lease(0, &root);
	CU_ASSERT_NOT_EQUAL_FATAL(first, 0);
	CU_ASSERT_EQUAL_FATAL(lookup(0, 1000, &root, "mine", &mine), 0);
	CU_ASSERT_EQUAL(make_late(0, &root, "open-now", first), 0);
	CU_ASSERT_EQUAL(make_late(0, &root, "x", first + 1), ESTALE);
	restart();
	CU_ASSERT_EQUAL(make_late(0, &root, "a", first), 0); /* even before it has attached again */
	second = attach_lease(0, &root);
	CU_ASSERT_NOT_EQUAL(second, first);
	CU_ASSERT_EQUAL(make_late(0, &root, "b", first), 0);
	CU_ASSERT_EQUAL(make_late(0, &root, "c", second), 0);
	CU_ASSERT_EQUAL(write_late(0, &mine, first), 0);
	restart(); /* in the middle of it */
	third = attach_lease(0, &root);
	CU_ASSERT_EQUAL(make_late(0, &root, "d", first), 0);
	CU_ASSERT_EQUAL(make_late(0, &root, "e", second), 0);
	CU_ASSERT_EQUAL(make_late(0, &root, "x", third + 1), ESTALE);
	recovered(0);
	CU_ASSERT_EQUAL(make_late(0, &root, "x", first), ESTALE);
	CU_ASSERT_EQUAL(make_late(0, &root, "x", second), ESTALE);
	CU_ASSERT_EQUAL(write_late(0, &mine, second), ESTALE);
	CU_ASSERT_EQUAL(make_late(0, &root, "f", third), 0);
	CU_ASSERT_EQUAL(write_late(0, &mine, third), 0);
	CU_ASSERT_EQUAL(write_late(0, &mine, 0), 0); /* nothing that was answered before */
	CU_ASSERT_EQUAL(lookup(0, 1000, &root, "x", &mine), ENOENT);
}

/* Nor after the server has stopped waiting for it: others have gone on. */
static void test_too_late(void)
{
	struct handle_copy root, mine;
	uint64_t first;

	first = attach_lease(0, &root);
	CU_ASSERT_EQUAL_FATAL(lookup(0, 1000, &root, "mine", &mine), 0);
	restart();
	grace_over();
	CU_ASSERT_EQUAL(make_late(0, &root, "y", first), ESTALE);
	CU_ASSERT_EQUAL(write_late(0, &mine, first), ESTALE);
	CU_ASSERT_EQUAL(lookup(1, 1000, &root, "y", &mine), ENOENT);
	CU_ASSERT_NOT_EQUAL(attach_lease(0, &root), first);
}

/* A client that comes back within grace, and is slow, is on the list of the next grace too. */
static void test_slow(void)
{
	struct handle_copy root;
	uint64_t now;

	attach_lease(0, &root);
	restart();
	now = attach_lease(0, &root);
	grace_over();
	CU_ASSERT_EQUAL(make_late(0, &root, "g", now), 0);
	restart();
	CU_ASSERT_EQUAL(make_late(0, &root, "h", now), 0);
	grace_over();
}

/* Its stream ends with it: else what is recalled from its successor, of the same name, would be told to nobody, and the next one be given up for that. */
static void test_stream_ends(void)
{
	struct handle_copy root;
	struct rpc_stream *s;
	struct rpc_msg m;
	int r;

	CU_ASSERT_NOT_EQUAL(attach_lease(1, &root), 0);
	s = events_open(1);
	__atomic_add_fetch(&clock_ahead, CLIENT_FORGET_NS + 2 * CLIENT_TERM_NS, __ATOMIC_RELAXED);
	fsd_tick(&server);
	while ((r = rpc_stream_recv(s, &m, 60000)) == 1)
		rpc_msg_clear(&m);
	CU_ASSERT_NOT_EQUAL(r, -ETIMEDOUT);
	rpc_stream_finish(s, 0);
}

int main(void)
{
	static const struct kit_test tests[] = {
		{"what was answered before a restart is done until its client has recovered", test_until_recovered},
		{"not after grace", test_too_late},
		{"who is given up loses its stream", test_stream_ends},
		{"a slow client is known to the next life", test_slow},
	};

	return kit_run("test_fence", tests, sizeof(tests) / sizeof(tests[0]));
}
