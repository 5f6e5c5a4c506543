// SPDX-License-Identifier: Apache-2.0
/*
 * The hub of named pipes and a client with a good certificate that lies: about its state, about bytes, about what it was asked, about what a FIFO is. Its stream is broken off, or it is
 * not heard; between two others every byte goes through, in order, all the while.
 */
#include "tests/unit/fsd_kit.h"

typedef Sprite__Fs__PipeMsg msg;
#define KIND(k) SPRITE__FS__PIPE_MSG__KIND__##k
enum { WAIT_MS = 60000, LIE = 255 /* a byte that the honest ones never write */ };

static struct handle_copy fifo, file;
static uint64_t said; /* bytes that the writer has given to the hub */

/* One who keeps to the rules, with a thread that answers and takes what comes. */
static struct honest {
	struct rpc_stream *s;
	pthread_t thread;
	bool opened;	/* lock */
	unsigned roles; /* lock: how often it has said what it is */
	uint64_t bytes; /* lock: received in order, or acknowledged */
} reader, writer;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static unsigned char byte_at(uint64_t i)
{
	return (unsigned char)(i % 251);
}

static struct rpc_stream *hello(int who)
{
	msg m = SPRITE__FS__PIPE_MSG__INIT;
	struct rpc_stream *s;

	CU_ASSERT_EQUAL_FATAL(rpc_stream_open(ch[who], &fs_methods[FS_PIPE], -1, &s), 0);
	m.kind = KIND(HELLO);
	m.id = clock_epoch();
	CU_ASSERT_EQUAL_FATAL(rpc_stream_send(s, &m.base, NULL, 0), 0);
	return s;
}

static void end(struct rpc_stream *s)
{
	rpc_stream_cancel(s);
	rpc_stream_finish(s, 0);
}

static int tell(struct rpc_stream *s, msg m, const void *bytes, size_t n)
{
	struct iovec v = {(void *)(uintptr_t)bytes, n};

	return rpc_stream_send(s, &m.base, n ? &v : NULL, n ? 1 : 0);
}

static msg about(struct handle_copy *h, int kind)
{
	msg m = SPRITE__FS__PIPE_MSG__INIT;

	m.kind = (Sprite__Fs__PipeMsg__Kind)kind;
	m.handle = as_bytes(h);
	return m;
}

static void report(struct rpc_stream *s, const msg *asked)
{
	msg r = about(&fifo, KIND(REPORT));

	r.id = asked->id;
	r.role = asked->role;
	r.r = asked->r;
	r.w = asked->w;
	r.alive = true;
	if (asked->id)
		tell(s, r, NULL, 0);
}

/* Receives until a message of that kind comes; does meanwhile what is asked. False: the stream has ended. */
static bool await(struct rpc_stream *s, int kind)
{
	struct rpc_msg in;
	int found = -1;

	while (found != kind && rpc_stream_recv(s, &in, WAIT_MS) == 1) {
		found = (int)((const msg *)in.msg)->kind;
		if (found == KIND(ROLE))
			report(s, (const msg *)in.msg);
		rpc_msg_clear(&in);
	}
	return found == kind;
}

/* Of the reader: into its pipe. What a liar wrote does not count. */
static void take(struct honest *h, struct rpc_msg *in)
{
	msg ack = about(&fifo, KIND(ACK));
	unsigned char *p = malloc(in->bulk_len);

	rpc_msg_copy(in, p, in->bulk_len);
	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < in->bulk_len; i++) {
		CU_ASSERT(p[i] == LIE || p[i] == byte_at(h->bytes));
		h->bytes += p[i] != LIE;
	}
	pthread_mutex_unlock(&lock);
	ack.n = in->bulk_len;
	tell(h->s, ack, NULL, 0);
	free(p);
}

static void *honest_main(void *arg)
{
	struct honest *h = arg;
	struct rpc_msg in;

	while (rpc_stream_recv(h->s, &in, -1) == 1) {
		const msg *m = (const msg *)in.msg;

		if (m->kind == KIND(ROLE))
			report(h->s, m);
		if (m->kind == KIND(DATA))
			take(h, &in);
		pthread_mutex_lock(&lock);
		h->opened |= m->kind == KIND(OPENED);
		h->roles += m->kind == KIND(ROLE);
		if (m->kind == KIND(ACK))
			h->bytes += m->n;
		pthread_cond_broadcast(&changed);
		pthread_mutex_unlock(&lock);
		rpc_msg_clear(&in);
	}
	return NULL;
}

/* lock held. */
static bool wait_more(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	t.tv_sec += WAIT_MS / 1000;
	return pthread_cond_timedwait(&changed, &lock, &t) == 0;
}

static void opens(struct rpc_stream *s, struct handle_copy *h, bool r, bool w)
{
	msg m = about(h, KIND(OPEN));

	m.id = 1;
	m.r = r;
	m.w = w;
	CU_ASSERT_EQUAL(tell(s, m, NULL, 0), 0);
}

/* Some bytes from the writer to the reader; both say so. */
static void through(void)
{
	unsigned char out[1000];

	for (size_t i = 0; i < sizeof(out); i++)
		out[i] = byte_at(said + i);
	said += sizeof(out);
	CU_ASSERT_EQUAL(tell(writer.s, about(&fifo, KIND(DATA)), out, sizeof(out)), 0);
	pthread_mutex_lock(&lock);
	while ((reader.bytes < said || writer.bytes < said) && wait_more())
		;
	CU_ASSERT_EQUAL(reader.bytes, said);
	CU_ASSERT_EQUAL(writer.bytes, said);
	pthread_mutex_unlock(&lock);
}

/* Is it broken off? One that is not is answered. */
static bool is_over(struct rpc_stream *s)
{
	msg m = about(&file, KIND(OPEN)); /* no FIFO: goes on natively, at once */

	m.id = 77;
	return tell(s, m, NULL, 0) < 0 || !await(s, KIND(OPENED));
}

static void honest_begin(struct honest *h, bool r)
{
	h->s = hello(1);
	pthread_create(&h->thread, NULL, honest_main, h);
	opens(h->s, &fifo, r, !r);
}

static void test_begin(void)
{
	struct handle_copy root;

	CU_ASSERT_EQUAL_FATAL(attach(1, "/", false, &root), 0);
	CU_ASSERT_EQUAL_FATAL(lookup(1, 1000, &root, "fifo", &fifo), 0);
	CU_ASSERT_EQUAL_FATAL(lookup(1, 1000, &root, "mine", &file), 0);
	CU_ASSERT_EQUAL_FATAL(attach(0, "/", false, &root), 0);
	honest_begin(&reader, true);
	honest_begin(&writer, false);
	pthread_mutex_lock(&lock);
	while (!(reader.opened && writer.opened) && wait_more())
		;
	CU_ASSERT_FATAL(reader.opened && writer.opened);
	pthread_mutex_unlock(&lock);
	through();
}

/* One message that cannot be: it is the last one of its stream. */
static void one_lie(bool member, msg m, size_t bytes, bool breaks)
{
	struct rpc_stream *s = hello(0);
	char *p = malloc(bytes + 1);

	memset(p, LIE, bytes + 1);
	if (member) {
		opens(s, &fifo, false, true);
		CU_ASSERT(await(s, KIND(OPENED)));
	}
	tell(s, m, p, bytes);
	CU_ASSERT_EQUAL(is_over(s), breaks);
	free(p);
	through();
	end(s);
	through();
}

static void test_lies(void)
{
	msg m;

	m = about(&fifo, KIND(REPORT));
	m.role = 7;
	one_lie(true, m, 0, true);
	m = about(&fifo, KIND(ACK));
	m.n = 1ull << 40; /* of bytes that it never had */
	one_lie(true, m, 0, false);
	one_lie(false, m, 0, false);
	m = about(&fifo, KIND(DATA));
	one_lie(true, m, 0, true);
	one_lie(true, m, (1 << 20) + 1, true);
	one_lie(false, m, 1000, false); /* has not opened it */
	m = about(&fifo, KIND(RETURN));
	one_lie(false, m, 1000, false);
	one_lie(true, m, 0, true);
	for (int k = KIND(PATH); k <= KIND(SETTLED); k++) {
		m = about(&fifo, k);
		m.id = m.n = 123456789;
		one_lie(true, m, 0, false);
		one_lie(false, m, 0, false);
	}
	for (int k = KIND(DROP); k <= KIND(RELEASED); k++) {
		m = about(&fifo, k);
		m.token = 99;
		if (k != KIND(RELEASE))
			one_lie(true, m, 0, false);
	}
	m = about(&fifo, KIND(OPENED)); /* the hub's own words */
	one_lie(true, m, 0, true);
	m = about(&fifo, 99);
	one_lie(true, m, 0, true);
	m = about(&fifo, KIND(REPORT));
	m.handle.len = 0;
	one_lie(true, m, 0, true);
}

/* What is no FIFO, no handle, not its: it is told to go on by itself, and nothing is kept. */
static void test_no_fifo(void)
{
	struct handle_copy bad = fifo, others = file;
	struct rpc_stream *s = hello(0);

	bad.b[bad.n - 1] ^= 1;
	for (int i = 0; i < 3; i++) {
		opens(s, i == 0 ? &bad : i == 1 ? &others : &file, true, true);
		CU_ASSERT(await(s, KIND(OPENED)));
	}
	through();
	end(s);
}

static void *flood_main(void *s)
{
	static char much[256 << 10];

	memset(much, LIE, sizeof(much));
	for (int i = 0; i < 200; i++)
		if (tell(s, about(&fifo, KIND(DATA)), much, sizeof(much)) < 0)
			break;
	return NULL;
}

/* Writes without end and does not wait for answers: what it has not opened is dropped; what it has, is a writer's word up to where it goes too far. */
static void test_flood(void)
{
	static char much[256 << 10];
	struct rpc_stream *s = hello(0);
	pthread_t t;
	int r = 0;

	memset(much, LIE, sizeof(much));
	opens(s, &fifo, false, true);
	CU_ASSERT(await(s, KIND(OPENED)));
	for (int i = 0; i < 200 && r == 0; i++)
		r = tell(s, about(&file, KIND(DATA)), much, sizeof(much));
	CU_ASSERT_EQUAL(r, 0);
	through();
	pthread_create(&t, NULL, flood_main, s);
	CU_ASSERT_FALSE(await(s, KIND(OPENED))); /* it is broken off */
	rpc_stream_cancel(s);
	pthread_join(t, NULL);
	end(s);
	through();
}

/* Does not answer when it is asked for its role: an opener waits for it, but not without end. */
static void test_silent(void)
{
	struct rpc_stream *s = hello(0), *next = hello(1);
	struct rpc_msg in;

	pthread_mutex_lock(&lock);
	unsigned r = reader.roles, w = writer.roles;
	pthread_mutex_unlock(&lock);
	opens(s, &fifo, true, true); /* is asked at once, as the others are */
	CU_ASSERT_EQUAL_FATAL(rpc_stream_recv(s, &in, WAIT_MS), 1);
	rpc_msg_clear(&in);
	pthread_mutex_lock(&lock);
	while ((reader.roles == r || writer.roles == w) && wait_more())
		;
	pthread_mutex_unlock(&lock);
	through(); /* comes behind their answers */
	opens(next, &fifo, false, true);
	__atomic_add_fetch(&clock_ahead, 31000000000ull, __ATOMIC_RELAXED);
	pipes_tick(&server);
	CU_ASSERT(await(next, KIND(OPENED)));
	end(s);
	end(next);
	through();
}

static void test_end(void)
{
	rpc_stream_cancel(writer.s);
	rpc_stream_cancel(reader.s);
	pthread_join(writer.thread, NULL);
	pthread_join(reader.thread, NULL);
	end(writer.s);
	end(reader.s);
}

int main(void)
{
	static const struct kit_test tests[] = {
		{"two that keep to the rules", test_begin},
		{"lies", test_lies},
		{"what is no named pipe", test_no_fifo},
		{"a flood", test_flood},
		{"one that does not answer", test_silent},
		{"the end", test_end},
	};

	return kit_run("test_fsd_pipes", tests, sizeof(tests) / sizeof(tests[0]));
}
