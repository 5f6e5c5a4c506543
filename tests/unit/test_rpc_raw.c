// SPDX-License-Identifier: Apache-2.0
/* Connections without gRPC: bytes both ways with a full socket in between, the end, and who is refused by whom, in which words. */
#include "tests/unit/rpc_kit.h"
#include <sched.h>
#include <sys/mount.h>
#include "rpc/raw.h"

static struct pki_ca other, gone;
static struct rpc_tls *fs1, *ws1;

static int suite_begin(void)
{
	X509 *revoked[2] = {NULL, NULL};

	other = pki_make(kit_dir, "otherca", NULL, NULL, -3600, 86400);
	kit_host("evil", &other, "DNS:ws1", -3600, 86400);
	kit_host("old", &kit_ca, "DNS:ws1", -7200, -3600);
	kit_host("nameless", &kit_ca, "IP:127.0.0.1", -3600, 86400);
	gone = pki_make(kit_dir, "gone", "DNS:gone", &kit_ca, -3600, 86400);
	revoked[0] = gone.cert;
	pki_revoke(kit_dir, "list", &kit_ca, revoked);
	fs1 = kit_tls_crl("ca", "fs1", "list");
	ws1 = kit_tls("ws1");
	return !fs1 || !ws1;
}

static int suite_end(void)
{
	rpc_tls_free(fs1);
	rpc_tls_free(ws1);
	pki_free(&other);
	pki_free(&gone);
	return 0;
}

struct side {
	int listener, r;
	struct rpc_raw *raw;
	struct error e;
};

static void *accept_main(void *arg)
{
	struct side *s = arg;

	s->r = rpc_raw_accept(fs1, accept4(s->listener, NULL, NULL, SOCK_CLOEXEC), &s->raw, &s->e);
	return NULL;
}

/* `tls` connects to us (fs1), and expects `name`; or, if it is NULL, says something that is no TLS. */
static struct side *pair(struct rpc_tls *tls, const char *name)
{
	static struct side s[2];
	struct conf_addr a = {.host = "127.0.0.1"};
	pthread_t t;

	memset(s, 0, sizeof(s));
	s[0].listener = rpc_raw_listen(&a, &a.port, &s[0].e);
	CU_ASSERT_TRUE_FATAL(s[0].listener >= 0 && a.port);
	pthread_create(&t, NULL, accept_main, &s[0]);
	if (tls) {
		s[1].r = rpc_raw_connect(tls, &a, name, &s[1].raw, &s[1].e);
	} else {
		int fd = kit_connect(a.port);

		CU_ASSERT_EQUAL(write(fd, "GET / HTTP/1.0\r\n\r\n", 18), 18);
		pthread_join(t, NULL);
		close(fd);
	}
	if (tls)
		pthread_join(t, NULL);
	close(s[0].listener);
	return s;
}

static void side_end(struct side *s)
{
	rpc_raw_close(s[0].raw);
	rpc_raw_close(s[1].raw);
}

/* One goes on sending, the other begins to read when nothing more is taken. */
static void through(struct rpc_raw *from, struct rpc_raw *to)
{
	enum { ALL = 6 << 20, PIECE = 70000 };
	uint8_t *out = malloc(ALL), *in = malloc(ALL);
	size_t sent = 0, got = 0;
	bool full = false, was_full = false;

	for (size_t i = 0; i < ALL; i++)
		out[i] = (uint8_t)(i * 7 + i / 251);
	while (got < ALL) {
		size_t n = ALL - sent < PIECE ? ALL - sent : PIECE;
		bool more = sent % (2 * PIECE) == 0 && sent + n < ALL; /* every other one leaves with the next */
		ssize_t k = rpc_raw_unsent(from) && !full ? rpc_raw_flush(from) : 0;

		if (n && k == 0 && (!rpc_raw_unsent(from) || sent % (2 * PIECE))) {
			k = rpc_raw_write(from, out + sent, n, more);
			sent += n;
		}
		CU_ASSERT_TRUE_FATAL(k == 0 || k == -EAGAIN);
		full |= k == -EAGAIN;
		if (n && !full)
			continue;
		full = false;
		was_full |= k == -EAGAIN;
		k = rpc_raw_read(to, in + got, ALL - got);
		CU_ASSERT_TRUE_FATAL(k > 0 || k == -EAGAIN);
		got += k > 0 ? (size_t)k : 0;
	}
	CU_ASSERT_TRUE(was_full);
	CU_ASSERT_EQUAL(memcmp(in, out, ALL), 0);
	free(in);
	free(out);
}

static void test_bytes(void)
{
	struct side *s = pair(ws1, "fs1");
	char c;

	CU_ASSERT_EQUAL_FATAL(s[0].r, 0);
	CU_ASSERT_EQUAL_FATAL(s[1].r, 0);
	CU_ASSERT_STRING_EQUAL(rpc_raw_peer(s[0].raw), "ws1");
	CU_ASSERT_STRING_EQUAL(rpc_raw_peer(s[1].raw), "fs1");
	CU_ASSERT_EQUAL(rpc_raw_read(s[0].raw, &c, 1), -EAGAIN);
	through(s[1].raw, s[0].raw);
	through(s[0].raw, s[1].raw);
	CU_ASSERT_EQUAL(rpc_raw_write(s[1].raw, "x", 1, false), 0);
	rpc_raw_close(s[1].raw);
	s[1].raw = NULL;
	CU_ASSERT_EQUAL(poll(&(struct pollfd){.fd = rpc_raw_fd(s[0].raw), .events = POLLIN}, 1, 5000), 1);
	CU_ASSERT_EQUAL(rpc_raw_read(s[0].raw, &c, 1), 1); /* what came before the end is read before it */
	CU_ASSERT_TRUE(rpc_raw_read(s[0].raw, &c, 1) <= 0);
	side_end(s);
}

static void test_key_renewed(void)
{
	struct side *s = pair(ws1, "fs1");
	unsigned sent = 0, got = 0;
	char in[4096];
	ssize_t k;

	CU_ASSERT_EQUAL_FATAL(s[0].r, 0);
	while (got < 600000) {
		for (int i = 0; i < 400; i++, sent++) {
			char c = (char)sent;

			CU_ASSERT_EQUAL_FATAL(rpc_raw_write(s[1].raw, &c, 1, i < 399), 0);
		}
		while ((k = rpc_raw_read(s[0].raw, in, sizeof(in))) > 0)
			for (ssize_t i = 0; i < k; i++, got++)
				CU_ASSERT_TRUE_FATAL(in[i] == (char)got);
		CU_ASSERT_EQUAL_FATAL(k, -EAGAIN);
	}
	side_end(s);
}

static void client_refused(const char *name, const char *words)
{
	struct rpc_tls *t = kit_tls(name);
	struct side *s = pair(t, "fs1");

	CU_ASSERT_EQUAL(s[0].r, -EACCES);
	CU_ASSERT_PTR_NULL(s[0].raw);
	if (!strstr(s[0].e.text, words))
		fprintf(stderr, "expected \"%s\" in: %s\n", words, s[0].e.text);
	CU_ASSERT_PTR_NOT_NULL(strstr(s[0].e.text, words));
	side_end(s);
	rpc_tls_free(t);
}

static void test_client_refused(void)
{
	client_refused("evil", "not signed by the cluster's CA");
	client_refused("old", "has expired");
	client_refused("gone", "has been revoked");
}

static void test_nameless(void)
{
	struct rpc_tls *t = kit_tls("nameless");
	struct side *s = pair(t, "fs1");

	CU_ASSERT_TRUE(s[0].r < 0);
	side_end(s);
	rpc_tls_free(t);
}

static void test_server_refused(void)
{
	struct side *s = pair(ws1, "fs2");

	CU_ASSERT_EQUAL(s[1].r, -EACCES);
	CU_ASSERT_PTR_NOT_NULL(strstr(s[1].e.text, "expected fs2"));
	CU_ASSERT_TRUE(s[0].r < 0);
	side_end(s);
}

static void test_no_tls(void)
{
	struct side *s = pair(NULL, NULL);

	CU_ASSERT_EQUAL(s[0].r, -EPROTO);
	side_end(s);
}

static void test_nobody_there(void)
{
	struct conf_addr a = {.host = "127.0.0.1"};
	struct rpc_raw *raw = NULL;
	struct error e = {0};
	int fd = rpc_raw_listen(&a, &a.port, &e);

	close(fd);
	CU_ASSERT_EQUAL(rpc_raw_connect(ws1, &a, "fs1", &raw, &e), -ECONNREFUSED);
	CU_ASSERT_PTR_NULL(raw);
}

/* With an /etc/hosts and a name of its own, which go with the thread. */
static void *hosts_main(void *arg)
{
	static const char hosts[] = "127.0.0.1 localhost\n127.0.0.1 inside here.example\n127.0.1.1 debian\n127.0.0.9 other.here\n192.0.2.1 outside\n";
	char path[] = "/tmp/test_rpc_raw.XXXXXX";
	int fd = mkstemp(path);
	bool done = fd >= 0 && write(fd, hosts, sizeof(hosts) - 1) == (ssize_t)sizeof(hosts) - 1 && !unshare(CLONE_NEWNS | CLONE_NEWUTS) &&
		    !mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) && !mount(path, "/etc/hosts", NULL, MS_BIND, NULL) && !sethostname("here", 4);

	if (fd >= 0)
		close(fd);
	if (done) {
		CU_ASSERT_STRING_EQUAL(rpc_listen_host("inside"), "inside");
		CU_ASSERT_STRING_EQUAL(rpc_listen_host("other.here"), "other.here");
		CU_ASSERT_STRING_EQUAL(rpc_listen_host("localhost"), "localhost");
		CU_ASSERT_STRING_EQUAL(rpc_listen_host("outside"), "outside");
		CU_ASSERT_STRING_EQUAL(rpc_listen_host("127.0.1.1"), "127.0.1.1");
		CU_ASSERT_STRING_NOT_EQUAL(rpc_listen_host("debian"), "debian");
		CU_ASSERT_STRING_NOT_EQUAL(rpc_listen_host("here.example"), "here.example");
	}
	unlink(path);
	return done ? arg : NULL;
}

/* Everywhere by this host's own name, when that is its loopback's; not by any other that is. */
static void test_listen_host(void)
{
	void *done = NULL;
	pthread_t t;

	CU_ASSERT_FATAL(!pthread_create(&t, NULL, hosts_main, ""));
	pthread_join(t, &done);
	if (!done)
		puts("(no namespaces of its own: not tested)");
}

int main(void)
{
	CU_pSuite s;

	kit_begin();
	CU_initialize_registry();
	s = CU_add_suite("rpc_raw", suite_begin, suite_end);
	CU_ADD_TEST(s, test_bytes);
	CU_ADD_TEST(s, test_key_renewed);
	CU_ADD_TEST(s, test_client_refused);
	CU_ADD_TEST(s, test_nameless);
	CU_ADD_TEST(s, test_server_refused);
	CU_ADD_TEST(s, test_no_tls);
	CU_ADD_TEST(s, test_nobody_there);
	CU_ADD_TEST(s, test_listen_host);
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	return kit_end();
}
