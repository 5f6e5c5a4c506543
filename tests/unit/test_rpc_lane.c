// SPDX-License-Identifier: Apache-2.0
/* Calls by direct connections (rpc/lane.h): as by gRPC, and when the connection is cut at any moment; who comes without a certificate, or with rubbish. */
#include "tests/unit/rpc_kit.h"
#include <semaphore.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include "conf/clock.h"
#include "rpc/channel.h"

static struct rpc_tls *stranger;

/* Calls by the lane have no deadline. */
static int call(struct rpc_channel *c, const struct rpc_method *m, uint64_t seq, uint32_t err, uint64_t *out)
{
	return kit_num(c, m, seq, err, -1, out);
}

static bool lane_is_up(struct rpc_channel *c)
{
	bool up = false;

	for (int i = 0; i < 4000 && !up; i++) {
		pthread_mutex_lock(&c->lock);
		c->lane_after = 0; /* at once, not in a second */
		pthread_mutex_unlock(&c->lock);
		call(c, &kit_echo, 1, 0, NULL);
		rpc_channel_direct(c, &up);
		if (!up)
			kit_sleep(5);
	}
	return up;
}

static bool lane_cut(struct rpc_channel *c)
{
	bool there;

	pthread_mutex_lock(&c->lock);
	there = c->lane != NULL;
	if (there)
		lane_kill(c->lane);
	pthread_mutex_unlock(&c->lock);
	return there;
}

static void test_direct(void)
{
	uint64_t v = 0, before;
	bool up;

	CU_ASSERT_TRUE_FATAL(lane_is_up(ch));
	before = rpc_channel_direct(ch, &up);
	CU_ASSERT_EQUAL(call(ch, &kit_echo, 41, 0, &v), 0);
	CU_ASSERT_EQUAL(v, 42);
	CU_ASSERT_STRING_EQUAL(kit_last_peer, "ws1");
	CU_ASSERT_EQUAL(strncmp(kit_last_addr, "ipv4:127.0.0.1:", 15), 0);
	CU_ASSERT_EQUAL(kit_last_epoch, clock_epoch());
	CU_ASSERT_EQUAL(call(ch, &kit_echo, 0, ENOTEMPTY, NULL), ENOTEMPTY);
	CU_ASSERT_EQUAL(call(ch, &kit_none, 0, 0, NULL), -EOPNOTSUPP);
	CU_ASSERT_EQUAL(rpc_channel_direct(ch, &up), before + 3);
	CU_ASSERT_EQUAL(kit_num(ch, &kit_echo, 41, 0, 5000, &v), 0); /* with a deadline */
	CU_ASSERT_EQUAL(rpc_channel_direct(ch, &up), before + 3);
}

static void test_bulk(void)
{
	static const size_t sizes[] = {0, 1, 15, 16, 4000, 4095, 4096, 65536, 131073, 1u << 20};
	unsigned char *p = malloc(1 << 20), *got = malloc(1 << 20);
	struct rpc_msg m;
	uint64_t before;
	bool up;

	for (size_t i = 0; i < 1 << 20; i++)
		p[i] = (unsigned char)(i * 2654435761u >> 13);
	CU_ASSERT_TRUE_FATAL(lane_is_up(ch));
	before = rpc_channel_direct(ch, &up);
	for (size_t i = 0; i < ARRAY_SIZE(sizes) * 2; i++) {
		Num in = num(i & 1 ? 7 : 0, 0);
		size_t n = sizes[i / 2], same = 0;
		struct iovec v[2] = {{p, n / 5}, {p + n / 5, n - n / 5}};

		CU_ASSERT_EQUAL(rpc_call(ch, &kit_bulk, &in.base, v, 2, -1, &m), 0);
		CU_ASSERT_EQUAL(rpc_msg_copy(&m, got, 1 << 20), n);
		while (same < n && got[same] == (p[same] ^ 0xff))
			same++;
		CU_ASSERT_EQUAL(same, n);
		rpc_msg_clear(&m);
	}
	CU_ASSERT_EQUAL(call(ch, &kit_bulk, 0, 2, NULL), -EMSGSIZE); /* 2 MiB */
	CU_ASSERT_EQUAL(call(ch, &kit_bulk, 0, 1, NULL), 0);
	CU_ASSERT_EQUAL(rpc_channel_direct(ch, &up), before + 2 * ARRAY_SIZE(sizes) + 2);
	free(p);
	free(got);
}

static _Atomic uint32_t ok, bad, cancelled;
static void count_done(void *arg, int status, struct rpc_msg *out)
{
	if (status == -ECANCELED)
		cancelled++;
	else if (status || out->err || (arg && ((Num *)out->msg)->seq != (uintptr_t)arg))
		bad++;
	else
		ok++;
	rpc_msg_clear(out);
}

/* More than a lane takes: the rest goes by gRPC. */
static void test_many(void)
{
	uint64_t before;
	bool up;

	CU_ASSERT_TRUE_FATAL(lane_is_up(ch));
	ok = bad = 0;
	before = rpc_channel_direct(ch, &up);
	for (unsigned i = 0; i < 5000; i++) {
		Num in = num(i, 0);

		rpc_call_async(ch, &kit_echo, &in.base, NULL, 0, -1, count_done, (void *)(uintptr_t)(i + 1));
	}
	CU_ASSERT_TRUE(kit_wait(&ok, 5000, 20000));
	CU_ASSERT_EQUAL(bad, 0);
	CU_ASSERT_TRUE(rpc_channel_direct(ch, &up) > before + LANE_CALLS);
}

/* Both sides hear of a cancel, also of one that comes at once. */
static void test_cancel(void)
{
	Num in = num(0, 0);

	CU_ASSERT_TRUE_FATAL(lane_is_up(ch));
	kit_cancelled = ok = bad = cancelled = 0;
	for (unsigned i = 0; i < 1000; i++) {
		uint64_t ticket = rpc_call_async(ch, &kit_hang, &in.base, NULL, 0, -1, count_done, NULL);

		if (i % 3 == 0)
			CU_ASSERT_TRUE(kit_wait(&kit_hanging, 1, 3000));
		rpc_cancel(ch, ticket);
		CU_ASSERT_TRUE(kit_wait(&cancelled, i + 1, 3000));
	}
	rpc_cancel(ch, 1u << 30);
	for (unsigned i = 0; i < 4000 && kit_hanging; i++)
		kit_sleep(5);
	CU_ASSERT_EQUAL(kit_hanging, 0);
	CU_ASSERT_EQUAL(ok + bad, 0);
}

struct hammer {
	unsigned from, n;
	_Atomic unsigned *failed;
	struct rpc_channel *c;
};

static void *hammer_main(void *arg)
{
	struct hammer *h = arg;

	for (unsigned i = h->from; i < h->from + h->n; i++)
		if (call(h->c, &kit_add, i, i % 50 == 0 ? 3 : 0, NULL))
			(*h->failed)++;
	return NULL;
}

/* The lane is cut again and again; every call succeeds, and every one was executed once. */
static void test_once_over_cuts(void)
{
	enum { N = 4, PER = 3000 };
	struct rpc_channel *c = kit_channel(tc, port, "fs1");
	unsigned wrong = 0, cuts = 0;
	_Atomic unsigned failed = 0;
	struct hammer h[N];
	pthread_t t[N];
	bool up;

	memset((void *)kit_executed, 0, sizeof(kit_executed));
	kit_total = 0;
	CU_ASSERT_TRUE_FATAL(lane_is_up(c));
	for (unsigned i = 0; i < N; i++) {
		h[i] = (struct hammer){1 + i * PER, PER, &failed, c};
		pthread_create(&t[i], NULL, hammer_main, &h[i]);
	}
	for (unsigned last = 0; kit_total < N * PER; last = kit_total) {
		pthread_mutex_lock(&c->lock);
		c->lane_after = 0; /* at once, not in a second */
		pthread_mutex_unlock(&c->lock);
		for (int i = 0; i < 2000 && kit_total < last + 400 && kit_total < N * PER; i++)
			kit_sleep(1);
		cuts += lane_cut(c);
	}
	for (unsigned i = 0; i < N; i++)
		pthread_join(t[i], NULL);
	for (unsigned i = 1; i <= N * PER; i++)
		wrong += kit_executed[i] != 1;
	CU_ASSERT_EQUAL(failed, 0);
	CU_ASSERT_EQUAL(wrong, 0);
	CU_ASSERT_EQUAL(kit_total, N * PER);
	CU_ASSERT_TRUE(cuts >= 3);
	CU_ASSERT_TRUE(rpc_channel_direct(c, &up) > 100);
	rpc_channel_close(c);
}

/* The lane goes while the handler runs: the second try waits for the first, and gets its answer. */
static void test_once_while_running(void)
{
	Num in = num(5, 500);

	CU_ASSERT_TRUE_FATAL(lane_is_up(ch));
	memset((void *)kit_executed, 0, sizeof(kit_executed));
	ok = bad = 0;
	rpc_call_async(ch, &kit_add, &in.base, NULL, 0, -1, count_done, NULL);
	while (!kit_executed[5])
		kit_sleep(1);
	CU_ASSERT_TRUE(lane_cut(ch));
	CU_ASSERT_TRUE(kit_wait(&ok, 1, 5000));
	CU_ASSERT_EQUAL(bad, 0);
	CU_ASSERT_EQUAL(kit_executed[5], 1);
}

/* What waits (a lock) was cancelled by the loss, and is asked for again. */
static void test_wait_survives_cut(void)
{
	Num in = num(9, 0);

	CU_ASSERT_TRUE_FATAL(lane_is_up(ch));
	memset((void *)kit_executed, 0, sizeof(kit_executed));
	kit_free = false;
	kit_cancelled = ok = bad = cancelled = 0;
	rpc_call_async(ch, &kit_lock, &in.base, NULL, 0, -1, count_done, (void *)9);
	CU_ASSERT_TRUE(kit_wait(&kit_hanging, 1, 3000));
	CU_ASSERT_TRUE(lane_cut(ch));
	CU_ASSERT_TRUE(kit_wait(&kit_cancelled, 1, 3000));
	CU_ASSERT_TRUE(kit_wait(&kit_hanging, 1, 5000)); /* by gRPC, so that no cut ends it */
	kit_free = true;
	pthread_mutex_lock(&ch->lock);
	for (struct call *c = LIST_FIRST(&ch->calls); c; c = LIST_NEXT(c, link))
		if (c->gcall)
			grpc_call_cancel_with_status(c->gcall, GRPC_STATUS_UNAVAILABLE, "cut", NULL);
	pthread_mutex_unlock(&ch->lock);
	CU_ASSERT_TRUE(kit_wait(&ok, 1, 5000));
	CU_ASSERT_EQUAL(kit_executed[9], 1);
	CU_ASSERT_TRUE(kit_again);
	CU_ASSERT_EQUAL(bad + cancelled, 0);
	kit_free = false;
}

/* What does not change anything is told of the loss. */
static void test_lost(void)
{
	Num in = num(0, 0);

	CU_ASSERT_TRUE_FATAL(lane_is_up(ch));
	kit_cancelled = ok = bad = 0;
	rpc_call_async(ch, &kit_hang, &in.base, NULL, 0, -1, count_done, NULL);
	CU_ASSERT_TRUE(kit_wait(&kit_hanging, 1, 3000));
	lane_cut(ch);
	CU_ASSERT_TRUE(kit_wait(&bad, 1, 3000));
	CU_ASSERT_TRUE(kit_wait(&kit_cancelled, 1, 3000));
}

/* The channel is closed with calls under way. */
static void test_close(void)
{
	struct rpc_channel *c = kit_channel(tc, port, "fs1");
	Num in = num(0, 0);

	CU_ASSERT_TRUE_FATAL(lane_is_up(c));
	kit_cancelled = cancelled = 0;
	for (unsigned i = 0; i < 10; i++)
		rpc_call_async(c, &kit_hang, &in.base, NULL, 0, -1, count_done, NULL);
	CU_ASSERT_TRUE(kit_wait(&kit_hanging, 10, 3000));
	rpc_channel_close(c);
	CU_ASSERT_EQUAL(cancelled, 10);
	CU_ASSERT_TRUE(kit_wait(&kit_cancelled, 10, 3000));
}

/* ---- hostile ones ---- */
static uint16_t lane_port(void)
{
	CU_ASSERT_TRUE_FATAL(lane_is_up(ch));
	return ch->lane_port;
}

static struct rpc_raw *knock(struct rpc_tls *t, int *err)
{
	struct conf_addr a = {"127.0.0.1", lane_port()};
	struct rpc_raw *raw = NULL;
	struct error e = {0};

	*err = rpc_raw_connect(t, &a, "fs1", &raw, &e);
	return raw;
}

/* Waits for the next byte, or the end (0). */
static ssize_t next(struct rpc_raw *raw, void *to, size_t n)
{
	struct pollfd p = {.fd = rpc_raw_fd(raw), .events = POLLIN};
	ssize_t r;

	while ((r = rpc_raw_read(raw, to, n)) == -EAGAIN && poll(&p, 1, 20000) == 1)
		;
	return r < 0 ? 0 : r;
}

static void test_rubbish(void)
{
	static const struct lane_head bad_heads[] = {
		{.len = 0, .kind = 0}, {.len = 0, .kind = 9}, {.len = UINT32_MAX, .kind = 1, .more = 1}, {.len = 4, .kind = 1, .more = 5}, {.len = 70000, .kind = 1, .more = 65535},
		{.len = 4, .kind = 2}, {.len = 1, .kind = 3}};
	unsigned char b[64] = {0};
	struct rpc_raw *raw;
	int err;

	for (size_t i = 0; i < ARRAY_SIZE(bad_heads); i++) {
		raw = knock(tc, &err);
		CU_ASSERT_PTR_NOT_NULL_FATAL(raw);
		rpc_raw_write(raw, &bad_heads[i], sizeof(bad_heads[i]), false);
		CU_ASSERT_EQUAL(next(raw, b, sizeof(b)), 0); /* sent away */
		rpc_raw_close(raw);
	}
	raw = knock(tc, &err); /* cancels what is not, and calls with a frame that is none: an answer */
	rpc_raw_write(raw, &(struct lane_head){.kind = 3, .id = 77}, sizeof(struct lane_head), true);
	rpc_raw_write(raw, &(struct lane_head){.len = 11, .kind = 1, .more = 7, .id = 5}, sizeof(struct lane_head), true);
	rpc_raw_write(raw, "/t/Echo\xff\xff\xff\xff", 11, false);
	CU_ASSERT_TRUE(next(raw, b, sizeof(b)) >= (ssize_t)sizeof(struct lane_head));
	CU_ASSERT_EQUAL(((struct lane_head *)b)->kind, 2);
	CU_ASSERT_EQUAL(((struct lane_head *)b)->id, 5);
	CU_ASSERT_NOT_EQUAL(((struct lane_head *)b)->more, GRPC_STATUS_OK);
	rpc_raw_close(raw);
	CU_ASSERT_EQUAL(call(ch, &kit_echo, 1, 0, NULL), 0);
}

/* Asks for megabytes and takes none: it is not heard any more, and nobody else suffers. */
static void test_deaf(void)
{
	struct frame_head h = {.version = RPC_VERSION, .epoch = 1};
	Num in = num(0, 1);
	struct lane_head lh;
	unsigned lanes, i;
	struct rpc_raw *raw;
	grpc_slice control;
	uint64_t before;
	int err;

	raw = knock(tc, &err);
	CU_ASSERT_PTR_NOT_NULL_FATAL(raw);
	frame_control(&h, &in.base, &control);
	lh = (struct lane_head){.len = (uint32_t)(7 + GRPC_SLICE_LENGTH(control)), .kind = 1, .more = 7};
	before = rpc_server_direct(srv, &lanes);
	for (i = 0; i < 20000; i++) {
		lh.id = i;
		rpc_raw_write(raw, &lh, sizeof(lh), true);
		rpc_raw_write(raw, "/t/Bulk", 7, true);
		rpc_raw_write(raw, GRPC_SLICE_START_PTR(control), GRPC_SLICE_LENGTH(control), i % 16 != 0);
	}
	for (i = 0; i < 100; i++) /* others are served meanwhile */
		CU_ASSERT_EQUAL(call(ch, &kit_echo, 1, 0, NULL), 0);
	kit_sleep(200);
	CU_ASSERT_TRUE(rpc_server_direct(srv, &lanes) - before < 2 * LANE_CALLS + 200);
	grpc_slice_unref(control);
	rpc_raw_close(raw);
	CU_ASSERT_EQUAL(call(ch, &kit_echo, 1, 0, NULL), 0);
}

static void test_strangers(void)
{
	struct rpc_raw *raw;
	char c;
	int err, fd;

	raw = knock(stranger, &err); /* the server's refusal may come after our part of the handshake */
	CU_ASSERT_TRUE(!raw || next(raw, &c, 1) == 0);
	rpc_raw_close(raw);
	fd = kit_connect(lane_port()); /* no TLS */
	CU_ASSERT_TRUE(fd >= 0 && write(fd, "GET / HTTP/1.0\r\n\r\n", 18) == 18);
	while (read(fd, &c, 1) > 0)
		;
	close(fd);
	CU_ASSERT_EQUAL(call(ch, &kit_echo, 1, 0, NULL), 0);
}

/* The server stops with calls of a lane under way; the next one is found by what its replies say. */
static void test_stop(void)
{
	uint16_t p2 = 0;
	struct rpc_server *s2 = kit_server(ts, &p2);
	struct rpc_channel *c = kit_channel(tc, p2, "fs1");
	Num in = num(0, 0);

	CU_ASSERT_TRUE_FATAL(lane_is_up(c));
	kit_cancelled = bad = ok = 0;
	for (unsigned i = 0; i < 5; i++)
		rpc_call_async(c, &kit_hang, &in.base, NULL, 0, -1, count_done, NULL);
	CU_ASSERT_TRUE(kit_wait(&kit_hanging, 5, 3000));
	rpc_server_stop(s2);
	CU_ASSERT_TRUE(kit_wait(&bad, 5, 3000));
	CU_ASSERT_EQUAL(kit_cancelled, 5);
	s2 = kit_server(ts, &p2);
	CU_ASSERT_PTR_NOT_NULL_FATAL(s2);
	CU_ASSERT_TRUE(lane_is_up(c));
	rpc_channel_close(c);
	rpc_server_stop(s2);
}

/* Nobody listens at the port that the replies tell of: all goes by gRPC. */
static void test_no_door(void)
{
	struct rpc_channel *c;
	uint64_t v = 0;
	bool up;

	server_lanes_stop(srv);
	c = kit_channel(tc, port, "fs1");
	for (unsigned i = 0; i < 200; i++) {
		CU_ASSERT_EQUAL(call(c, &kit_add, 1, 0, NULL), 0);
		CU_ASSERT_EQUAL(call(c, &kit_echo, i, 0, &v), 0);
		CU_ASSERT_EQUAL(v, i + 1);
	}
	CU_ASSERT_EQUAL(rpc_channel_direct(c, &up), 0);
	CU_ASSERT_FALSE(up);
	rpc_channel_close(c);
}

static int suite_begin(void)
{
	struct pki_ca other = pki_make(kit_dir, "otherca", NULL, NULL, -3600, 86400);

	kit_host("evil", &other, "DNS:ws1", -3600, 86400);
	pki_free(&other);
	stranger = kit_tls("evil");
	kit_lanes = true;
	return !stranger || pair_begin();
}

static int suite_end(void)
{
	rpc_tls_free(stranger);
	return pair_end();
}

/* ---- a process is killed, and the next one goes on as the same client, as spritefs does */
enum { LIVES = 15, THREADS = 4, OPS = KIT_SEQ_MAX / 2, FIRST = KIT_SEQ_MAX / 2 };
struct lives {
	_Atomic uint64_t next_seq, epoch, lanes, bad;
	_Atomic uint32_t taken;
	uint64_t seq[OPS];	 /* 0: not sent */
	_Atomic bool done[OPS];
};
static struct lives *lives;
static _Atomic uint32_t again_at;
static uint32_t before; /* so many were taken by earlier lives */

struct one_op {
	uint32_t i;
	sem_t over;
};

static void op_done(void *arg, int status, struct rpc_msg *out)
{
	struct one_op *o = arg;

	if (status || out->err)
		lives->bad++;
	lives->done[o->i] = true; /* here: until we return the server keeps the answer */
	rpc_msg_clear(out);
	sem_post(&o->over);
}

static void one_op(struct rpc_channel *c, uint32_t i)
{
	Num in = num(FIRST + i, i % 16 ? 0 : 3);
	struct one_op o = {.i = i};

	sem_init(&o.over, 0, 0);
	rpc_seq_use(lives->seq[i]);
	rpc_seq_note(&lives->seq[i]);
	rpc_call_async(c, &kit_add, &in.base, NULL, 0, -1, op_done, &o);
	while (sem_wait(&o.over) < 0)
		;
}

static void *life_thread(void *arg)
{
	uint32_t i;

	while ((i = again_at++) < before) /* what was under way comes first, or beside what is new */
		if (lives->seq[i] && !lives->done[i])
			one_op(arg, i);
	while ((i = lives->taken++) < OPS)
		one_op(arg, i);
	return NULL;
}

static void __attribute__((noreturn)) life(char **argv)
{
	pthread_t t[THREADS];
	struct rpc_channel *c;
	bool up;

	lives = mmap(NULL, sizeof(*lives), PROT_READ | PROT_WRITE, MAP_SHARED, atoi(argv[2]), 0);
	strcpy(kit_dir, argv[4]);
	log_init("life");
	rpc_init();
	if (lives->epoch)
		clock_epoch_adopt(lives->epoch);
	lives->epoch = clock_epoch();
	rpc_seq_keep(&lives->next_seq);
	before = lives->taken < OPS ? lives->taken : OPS;
	for (uint32_t i = 0; i < before; i++)
		if (lives->seq[i] && !lives->done[i])
			rpc_seq_hold(lives->seq[i]);
	c = kit_channel(kit_tls("ws1"), (uint16_t)atoi(argv[3]), "fs1");
	for (int i = 0; i < THREADS; i++)
		pthread_create(&t[i], NULL, life_thread, c);
	for (;;) {
		uint64_t was = rpc_channel_direct(c, &up);

		kit_sleep(5);
		lives->lanes += rpc_channel_direct(c, &up) - was;
	}
}

static void test_once_over_kills(void)
{
	int fd = memfd_create("lives", 0);
	char number[2][16], *argv[] = {"life", "life", number[0], number[1], kit_dir, NULL};
	uint32_t i, n, twice = 0, lost = 0;
	pid_t pid;

	CU_ASSERT_EQUAL_FATAL(ftruncate(fd, sizeof(*lives)), 0);
	lives = mmap(NULL, sizeof(*lives), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	snprintf(number[0], sizeof(number[0]), "%d", fd);
	snprintf(number[1], sizeof(number[1]), "%u", port);
	for (unsigned k = 0; k < LIVES; k++) {
		uint32_t first = lives->taken;
		uint64_t by_lane = lives->lanes;

		pid = fork();
		if (pid == 0) {
			execv("/proc/self/exe", argv);
			_exit(1);
		}
		for (i = 0; i < 2000 && (lives->taken == first || lives->lanes == by_lane); i++)
			kit_sleep(5);
		usleep((useconds_t)(rand() % 60000)); /* a random moment: decides nothing */
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
	n = lives->taken < OPS ? lives->taken : OPS;
	for (i = 0; i < n; i++) {
		twice += kit_executed[FIRST + i] > 1;
		lost += lives->done[i] && !kit_executed[FIRST + i];
	}
	CU_ASSERT_EQUAL(twice, 0);
	CU_ASSERT_EQUAL(lost, 0);
	CU_ASSERT_EQUAL(lives->bad, 0);
	CU_ASSERT_TRUE(lives->lanes > 0);
	fprintf(stderr, "%u calls, %u lives, %u by lane ", n, LIVES, (unsigned)lives->lanes);
	munmap(lives, sizeof(*lives));
	close(fd);
}

int main(int argc, char **argv)
{
	CU_pSuite s;

	if (argc == 5)
		life(argv);
	kit_begin();
	CU_initialize_registry();
	s = CU_add_suite("lane", suite_begin, suite_end);
	CU_ADD_TEST(s, test_direct);
	CU_ADD_TEST(s, test_bulk);
	CU_ADD_TEST(s, test_many);
	CU_ADD_TEST(s, test_cancel);
	CU_ADD_TEST(s, test_once_over_cuts);
	CU_ADD_TEST(s, test_once_while_running);
	CU_ADD_TEST(s, test_once_over_kills);
	CU_ADD_TEST(s, test_wait_survives_cut);
	CU_ADD_TEST(s, test_lost);
	CU_ADD_TEST(s, test_close);
	CU_ADD_TEST(s, test_rubbish);
	CU_ADD_TEST(s, test_deaf);
	CU_ADD_TEST(s, test_strangers);
	CU_ADD_TEST(s, test_stop);
	CU_ADD_TEST(s, test_no_door); /* the last: the doors are gone */
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	return kit_end();
}
