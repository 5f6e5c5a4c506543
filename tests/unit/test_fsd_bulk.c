/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Listings with leases and contents (ReaddirReq.entry_want, data_max) from a real server: what another client holds is asked of it in one event, the contents of
 * files come only for who may read them, and what another has open is left alone.
 */
#include "tests/unit/fsd_kit.h"

#define FILES 300
#define READ  (SPRITE__FS__LEASE_BITS__LEASE_ATTR | SPRITE__FS__LEASE_BITS__LEASE_DATA)
#define WRITE SPRITE__FS__LEASE_BITS__LEASE_WRITE

static struct handle_copy root, d;

/* What a listing said of one name. */
struct seen {
	bool there, data;
	uint64_t lease;
	uint32_t len, text;
};

struct listing {
	int who;
	uint32_t uid, size, data_max;
	uint64_t want, entry_want;
	pthread_t thread;
	/* out */
	uint64_t dir_lease;
	int pages, n;
	struct seen file[FILES], secret;
};

static void note(struct listing *l, const struct fs_dirent *e)
{
	Sprite__Fs__Entry *en = e->entrylen ? sprite__fs__entry__unpack(NULL, e->entrylen, e->entry) : NULL;
	struct seen s = {.there = en != NULL, .data = e->datalen != FS_DIRENT_NODATA, .lease = en ? en->lease : 0, .len = s.data ? e->datalen : 0};
	char name[256];

	snprintf(name, sizeof(name), "%.*s", (int)e->namelen, e->name);
	if (s.data && e->datalen >= 4)
		memcpy(&s.text, e->data, 4);
	CU_ASSERT_TRUE(!s.data || (en && (en->lease & SPRITE__FS__LEASE_BITS__LEASE_DATA) && en->attr->size == e->datalen));
	if (name[0] == 'f')
		l->file[atoi(name + 1) % FILES] = s;
	if (!strcmp(name, "secret"))
		l->secret = s;
	l->n += name[0] == 'f';
	if (en)
		sprite__fs__entry__free_unpacked(en, NULL);
}

static void *list_run(void *arg)
{
	struct listing *l = arg;
	Sprite__Fs__ReaddirReq q = SPRITE__FS__READDIR_REQ__INIT;
	Sprite__Fs__Cred c = cred_of(l->uid);
	bool end = false;

	q.cred = &c;
	q.handle = as_bytes(&d);
	q.size = l->size;
	q.plus = true;
	q.want = l->want;
	q.entry_want = l->entry_want;
	q.data_max = l->data_max;
	while (!end && l->pages++ < 100) {
		struct fs_dirent e;
		struct rpc_msg m;
		size_t at = 0, k;
		uint8_t *b;

		if (call(l->who, FS_READDIR, &q.base, &m) != 0)
			break;
		b = malloc(m.bulk_len + 1);
		rpc_msg_copy(&m, b, m.bulk_len);
		while (at < m.bulk_len && (k = fs_dirent_get(b + at, m.bulk_len - at, &e))) {
			q.cookie = e.cookie;
			note(l, &e);
			at += k;
		}
		CU_ASSERT_EQUAL(at, m.bulk_len);
		end = ((Sprite__Fs__ReaddirRep *)m.msg)->end;
		l->dir_lease = ((Sprite__Fs__ReaddirRep *)m.msg)->dir_lease;
		free(b);
		rpc_msg_clear(&m);
	}
	CU_ASSERT_TRUE(end);
	return NULL;
}

static void list_begin(struct listing *l, int who, uint64_t want, uint64_t entry_want, uint32_t data_max)
{
	*l = (struct listing){.who = who, .uid = 1000, .size = FS_IO_MAX, .want = want, .entry_want = entry_want, .data_max = data_max};
	CU_ASSERT_EQUAL_FATAL(pthread_create(&l->thread, NULL, list_run, l), 0);
}

static void list_end(struct listing *l)
{
	pthread_join(l->thread, NULL);
	CU_ASSERT_EQUAL(l->n, FILES);
}

static void attach_both(void)
{
	Sprite__Fs__AttachReq q = SPRITE__FS__ATTACH_REQ__INIT;
	struct rpc_msg m;

	q.prefix = (char *)"/";
	q.leases = q.ack_now = true;
	for (int i = 0; i < 2; i++) {
		CU_ASSERT_EQUAL_FATAL(call(i, FS_ATTACH, &q.base, &m), 0);
		root = handle_of(((Sprite__Fs__AttachRep *)m.msg)->handle);
		rpc_msg_clear(&m);
	}
}

static void prepare(void)
{
	char name[64], text[64];

	for (int i = 0; i < FILES; i++) {
		snprintf(name, sizeof(name), "export/open/f%d", i);
		snprintf(text, sizeof(text), "%04d and more", i);
		put_file(name, i % 50 ? text : "", 0644, 1000);
	}
	put_file("export/open/secret", "secret", 0600, 1001);
	attach_both();
	CU_ASSERT_EQUAL_FATAL(lookup(0, 1000, &root, "open", &d), 0);
}

/* The next event: how many recalls; acknowledged unless `id`. */
static size_t event_take(struct rpc_stream *s, uint64_t *id)
{
	Sprite__Fs__EventAck ack = SPRITE__FS__EVENT_ACK__INIT;
	struct rpc_msg m;
	size_t n;

	CU_ASSERT_EQUAL_FATAL(rpc_stream_recv(s, &m, 60000), 1);
	CU_ASSERT_EQUAL(((Sprite__Fs__Event *)m.msg)->kind, SPRITE__FS__EVENT__KIND__RECALL);
	n = ((Sprite__Fs__Event *)m.msg)->n_recalls;
	ack.id = ((Sprite__Fs__Event *)m.msg)->id;
	if (id)
		*id = ack.id;
	else
		CU_ASSERT_EQUAL(rpc_stream_send(s, &ack.base, NULL, 0), 0);
	rpc_msg_clear(&m);
	return n;
}

static void test_contents(void)
{
	struct listing l;

	list_begin(&l, 0, 0, READ, 64);
	list_end(&l);
	CU_ASSERT_EQUAL(l.pages, 1);
	for (int i = 0; i < FILES; i++) {
		char text[64];

		snprintf(text, sizeof(text), "%04d", i);
		CU_ASSERT_TRUE(l.file[i].there && l.file[i].data && (l.file[i].lease & READ) == READ);
		CU_ASSERT_EQUAL(l.file[i].len, i % 50 ? 13 : 0);
		CU_ASSERT_TRUE(i % 50 == 0 || !memcmp(&l.file[i].text, text, 4));
	}
	CU_ASSERT_TRUE(l.secret.there && !l.secret.data); /* its attributes are everybody's */
	list_begin(&l, 0, 0, READ, 12);
	list_end(&l);
	for (int i = 0; i < FILES; i++)
		CU_ASSERT_EQUAL(l.file[i].data, i % 50 == 0); /* too long to come along, but empty ones */
	list_begin(&l, 0, 0, 0, 0);
	list_end(&l);
	CU_ASSERT_FALSE(l.file[1].data);
}

/* In small pages nothing is lost, nor contents of what is told. */
static void test_small_pages(void)
{
	struct listing l = {.who = 0, .uid = 1000, .size = 8192, .entry_want = READ, .data_max = 64};

	list_run(&l);
	CU_ASSERT_EQUAL(l.n, FILES);
	CU_ASSERT_TRUE(l.pages > 5);
	for (int i = 0; i < FILES; i++)
		CU_ASSERT_TRUE(l.file[i].there && l.file[i].data);
}

static void close_open(int who, uint64_t open)
{
	Sprite__Fs__CloseReq q = SPRITE__FS__CLOSE_REQ__INIT;

	q.open = open;
	CU_ASSERT_EQUAL(call(who, FS_CLOSE, &q.base, NULL), 0);
}

static uint64_t open_name(const char *name, uint32_t flags)
{
	struct handle_copy h;
	uint64_t id = 0;

	CU_ASSERT_EQUAL_FATAL(lookup(0, 1000, &d, name, &h), 0);
	CU_ASSERT_EQUAL_FATAL(open_handle(0, 1000, &h, flags, &id), 0);
	return id;
}

/* The first client caches everything, and has two files open; the second looks, then takes all for itself alone; then the first looks again. */
static void test_one_event(void)
{
	struct rpc_stream *s[2] = {events_open(0), events_open(1)};
	Sprite__Fs__EventAck ack = SPRITE__FS__EVENT_ACK__INIT;
	struct listing l;
	uint64_t reads, writes;

	list_begin(&l, 0, 0, READ, 0);
	list_end(&l);
	reads = open_name("f7", O_RDONLY);
	writes = open_name("f8", O_RDWR);
	list_begin(&l, 1, 0, READ, 64);
	list_end(&l);
	CU_ASSERT_TRUE((l.file[7].lease & READ) == READ && l.file[7].data && !l.file[8].there); /* what is being written is not waited for */

	list_begin(&l, 1, WRITE, READ | WRITE, 0);
	CU_ASSERT_EQUAL(event_take(s[0], &ack.id), FILES); /* without those two, with "secret" and the directory */
	CU_ASSERT_NOT_EQUAL(pthread_tryjoin_np(l.thread, NULL), 0); /* not before they were given up */
	CU_ASSERT_EQUAL(rpc_stream_send(s[0], &ack.base, NULL, 0), 0);
	list_end(&l);
	CU_ASSERT_EQUAL(l.pages, 1);
	CU_ASSERT_TRUE(l.dir_lease & WRITE);
	for (int i = 0; i < FILES; i++)
		CU_ASSERT_EQUAL((l.file[i].lease & WRITE) != 0, i != 7 && i != 8);
	CU_ASSERT_TRUE((l.file[7].lease & READ) == READ && !l.file[8].there);

	list_begin(&l, 0, 0, READ, 64);
	CU_ASSERT_EQUAL(event_take(s[1], NULL), 1); /* the directory, before its names are told at all */
	CU_ASSERT_EQUAL(event_take(s[1], NULL), FILES - 1);
	list_end(&l);
	for (int i = 0; i < FILES; i++)
		CU_ASSERT_TRUE((l.file[i].lease & READ) == READ && l.file[i].data);
	close_open(0, reads);
	close_open(0, writes);
	for (int i = 0; i < 2; i++) {
		rpc_stream_cancel(s[i]);
		rpc_stream_finish(s[i], 0);
	}
}

static int getattr(int who, uint32_t uid, struct handle_copy *h, uint32_t data_max, struct rpc_msg *m)
{
	Sprite__Fs__GetattrReq q = SPRITE__FS__GETATTR_REQ__INIT;
	Sprite__Fs__Cred c = cred_of(uid);

	q.cred = &c;
	q.handle = as_bytes(h);
	q.data_max = data_max;
	return call(who, FS_GETATTR, &q.base, m);
}

static void test_attributes_with_contents(void)
{
	static const struct {
		const char *name;
		uint32_t uid, max;
		int len; /* -1: no contents */
	} t[] = {{"f21", 1000, 64, 13}, {"f21", 1000, 13, 13}, {"f21", 1000, 12, -1}, {"f50", 1000, 64, 0}, {"f21", 1000, 0, -1},
		{"secret", 1000, 64, -1}, {"secret", 1001, 64, 6}};
	struct handle_copy h;
	struct rpc_msg m;

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		const Sprite__Fs__GetattrRep *r;

		CU_ASSERT_EQUAL_FATAL(lookup(0, 1000, &d, t[i].name, &h), 0);
		CU_ASSERT_EQUAL_FATAL(getattr(0, t[i].uid, &h, t[i].max, &m), 0);
		r = (const void *)m.msg;
		CU_ASSERT_EQUAL(r->data, t[i].len >= 0);
		CU_ASSERT_EQUAL(m.bulk_len, t[i].len > 0 ? (size_t)t[i].len : 0);
		CU_ASSERT_TRUE((r->lease & READ) == READ && r->attr->no_cap && !r->attr->has_acl);
		rpc_msg_clear(&m);
	}
	CU_ASSERT_EQUAL_FATAL(getattr(0, 1000, &d, 64, &m), 0); /* a directory has none */
	CU_ASSERT_FALSE(((const Sprite__Fs__GetattrRep *)m.msg)->data);
	rpc_msg_clear(&m);
}

/* Who gives WRITE up with his last write is not asked for it by the next one who looks. */
static void test_give_up(void)
{
	Sprite__Fs__WriteReq q = SPRITE__FS__WRITE_REQ__INIT;
	Sprite__Fs__Cred c = cred_of(1000);
	struct iovec v = {(char *)"new", 3};
	struct handle_copy h;
	struct rpc_msg m;

	put_file("export/open/f-alone", "", 0644, 1000);
	CU_ASSERT_EQUAL_FATAL(lookup(0, 1000, &d, "f-alone", &h), 0);
	q.cred = &c;
	q.handle = as_bytes(&h);
	q.open = open_name("f-alone", O_RDWR); /* with WRITE, as nobody else knows it */
	q.close = true;
	q.give_up = WRITE;
	CU_ASSERT_EQUAL(rpc_call(ch[0], &fs_methods[FS_WRITE], &q.base, &v, 1, 20000, &m), 0);
	CU_ASSERT_EQUAL_FATAL(m.err, 0);
	CU_ASSERT_TRUE(((Sprite__Fs__WriteRep *)m.msg)->lease == READ && ((Sprite__Fs__WriteRep *)m.msg)->lease_seq > 0);
	rpc_msg_clear(&m);
	/* nobody reads the first one's events: this would wait for him to be given up */
	CU_ASSERT_EQUAL_FATAL(getattr(1, 1000, &h, 64, &m), 0);
	CU_ASSERT_TRUE(((Sprite__Fs__GetattrRep *)m.msg)->lease == READ && ((Sprite__Fs__GetattrRep *)m.msg)->data);
	rpc_msg_clear(&m);
}

int main(void)
{
	static const struct kit_test tests[] = {
		{"files and clients", prepare},
		{"contents come along, for who may read them", test_contents},
		{"small pages", test_small_pages},
		{"all that one client holds is one event", test_one_event},
		{"attributes with contents", test_attributes_with_contents},
		{"given up with the last write", test_give_up},
	};

	return kit_run("test_fsd_bulk", tests, sizeof(tests) / sizeof(tests[0]));
}
