/* SPDX-License-Identifier: Apache-2.0 */
/* Identity: who is let in, who is refused and in which words, TLS 1.3 only, certificates replaced while everything runs. */
#include "tests/unit/rpc_kit.h"
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

static struct pki_ca other, gone;

static int suite_begin(void)
{
	X509 *revoked[2] = { NULL, NULL };

	other = pki_make(kit_dir, "otherca", NULL, NULL, -3600, 86400);
	kit_host("evil", &other, "DNS:ws1", -3600, 86400);
	kit_host("old", &kit_ca, "DNS:ws1", -7200, -3600);
	kit_host("young", &kit_ca, "DNS:ws1", 3600, 7200);
	kit_host("nameless", &kit_ca, "IP:127.0.0.1", -3600, 86400);
	kit_host("selfsigned", NULL, "DNS:ws1", -3600, 86400);
	kit_host("live", &kit_ca, "DNS:before", -3600, 86400);
	gone = pki_make(kit_dir, "gone", "DNS:gone", &kit_ca, -3600, 86400);
	pki_revoke(kit_dir, "list", &kit_ca, revoked);
	port = 0;
	ts = kit_tls_crl("ca", "fs1", "list");
	tc = kit_tls("ws1");
	srv = ts ? kit_server(ts, &port) : NULL;
	return !srv;
}

static int suite_end(void)
{
	rpc_server_stop(srv);
	rpc_tls_free(ts);
	rpc_tls_free(tc);
	pki_free(&other);
	pki_free(&gone);
	return 0;
}

/* What the log says between begin and end. */
static int saved_err;
static char *log_path(void)
{
	static char p[128];

	snprintf(p, sizeof(p), "%s/log", kit_dir);
	return p;
}

static void log_begin(void)
{
	int fd = open(log_path(), O_RDWR | O_CREAT | O_TRUNC, 0600);

	fflush(stderr);
	saved_err = dup(2);
	dup2(fd, 2);
	close(fd);
}

static bool log_end(const char *want)
{
	char buf[8192] = "";
	FILE *f;
	bool found;

	kit_sleep(50); /* the other side's line */
	dup2(saved_err, 2);
	close(saved_err);
	f = fopen(log_path(), "r");
	buf[fread(buf, 1, sizeof(buf) - 1, f)] = 0;
	fclose(f);
	found = strstr(buf, want) != NULL;
	if (!found)
		fprintf(stderr, "expected \"%s\" in: %s\n", want, buf);
	return found;
}

static int call_with(struct rpc_tls *t, uint16_t p, const char *server)
{
	struct rpc_channel *ch = kit_channel(t, p, server);
	int r = kit_num(ch, &kit_echo, 1, 0, 5000, NULL);

	rpc_channel_close(ch);
	return r;
}

static void client_refused(const char *ca, const char *name, const char *words)
{
	struct rpc_tls *t;

	kit_sleep(1000); /* the server's warnings: one a second */
	log_begin();
	t = kit_tls_crl(ca, name, NULL);
	CU_ASSERT_PTR_NOT_NULL(t);
	if (t)
		CU_ASSERT_EQUAL(call_with(t, port, "fs1"), -EACCES);
	CU_ASSERT_TRUE(log_end(words));
	rpc_tls_free(t);
}

static void test_good(void)
{
	CU_ASSERT_EQUAL(call_with(tc, port, "fs1"), 0);
	CU_ASSERT_STRING_EQUAL(kit_last_peer, "ws1");
}

static void test_other_ca(void)
{
	client_refused("ca", "evil", "connection refused: certificate of ws1 was not signed by the cluster's CA");
	client_refused("otherca", "evil", "refused: certificate of fs1 was not signed by the cluster's CA"); /* told by the client */
	client_refused("ca", "selfsigned", "not signed by the cluster's CA");
}

static void test_expired(void)
{
	client_refused("ca", "old", "connection refused: certificate of ws1 has expired on 2");
	client_refused("ca", "old", "our own ");
	client_refused("ca", "young", "is not valid before 2");
}

static void test_other_name(void)
{
	log_begin();
	CU_ASSERT_EQUAL(call_with(tc, port, "fs2"), -EACCES);
	CU_ASSERT_TRUE(log_end("certificate is for fs1, expected fs2"));
	log_begin();
	CU_ASSERT_EQUAL(call_with(tc, port, "127.0.0.1"), -EACCES); /* an address is no name */
	CU_ASSERT_TRUE(log_end("expected 127.0.0.1"));
}

static void test_nameless(void)
{
	struct rpc_tls *t = kit_tls("nameless");

	log_begin();
	CU_ASSERT_EQUAL(call_with(t, port, "fs1"), -EACCES);
	CU_ASSERT_TRUE(log_end("without a DNS name"));
	rpc_tls_free(t);
}

static int load(const char *ca, const char *cert, const char *key, const char *name, struct error *e)
{
	struct conf c = { .name = (char *)name, .tls_ca = (char *)ca, .tls_cert = (char *)cert, .tls_key = (char *)key };
	struct rpc_tls *t = NULL;
	int r = rpc_tls_load(&c, &t, e);

	rpc_tls_free(t);
	return r;
}

static void test_load(void)
{
	char ca[128], cert[128], key[128], key2[128];
	struct error e;

	snprintf(ca, 128, "%s/ca.pem", kit_dir);
	snprintf(cert, 128, "%s/ws1.pem", kit_dir);
	snprintf(key, 128, "%s/ws1.key", kit_dir);
	snprintf(key2, 128, "%s/fs1.key", kit_dir);
#define LOAD(a, b, c, d) (memset(&e, 0, sizeof(e)), load(a, b, c, d, &e))
	CU_ASSERT_EQUAL(LOAD(ca, cert, key, "ws1"), 0);
	CU_ASSERT_TRUE(LOAD(ca, cert, key, "ws2") < 0 && strstr(e.text, "is for ws1, expected ws2"));
	CU_ASSERT_TRUE(LOAD(ca, cert, key2, "ws1") < 0 && strstr(e.text, "is not the key of"));
	CU_ASSERT_TRUE(LOAD(key, cert, key, "ws1") < 0 && strstr(e.text, "no certificate in PEM form"));
	CU_ASSERT_TRUE(LOAD(ca, key, key, "ws1") < 0 && strstr(e.text, "no certificate in PEM form"));
	CU_ASSERT_TRUE(LOAD(ca, cert, cert, "ws1") < 0 && strstr(e.text, "no private key in PEM form"));
	CU_ASSERT_EQUAL(LOAD("/nonexistent", cert, key, "ws1"), -ENOENT);
	CU_ASSERT_EQUAL(LOAD(ca, "/nonexistent", key, "ws1"), -ENOENT);
	CU_ASSERT_EQUAL(LOAD(ca, cert, "/nonexistent", "ws1"), -ENOENT);
#undef LOAD
}

/* ---- TLS by hand ---- */
/* Returns bytes that the server sends after the handshake (HTTP/2 settings when it lets us in), 0 when it closes, -1 when the handshake fails. */
static int raw_tls(int max_version, const char *cert)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	char path[128], buf[64];
	int fd = kit_connect(port), r = -1;
	SSL *ssl;

	SSL_CTX_set_max_proto_version(ctx, max_version);
	if (cert) {
		snprintf(path, sizeof(path), "%s/%s.pem", kit_dir, cert);
		SSL_CTX_use_certificate_file(ctx, path, SSL_FILETYPE_PEM);
		snprintf(path, sizeof(path), "%s/%s.key", kit_dir, cert);
		SSL_CTX_use_PrivateKey_file(ctx, path, SSL_FILETYPE_PEM);
	}
	SSL_CTX_set_alpn_protos(ctx, (const unsigned char *)"\x02h2", 3);
	ssl = SSL_new(ctx);
	SSL_set_fd(ssl, fd);
	if (SSL_connect(ssl) == 1) {
		r = SSL_read(ssl, buf, sizeof(buf));
		r = r < 0 ? 0 : r;
	}
	SSL_free(ssl);
	SSL_CTX_free(ctx);
	close(fd);
	ERR_clear_error();
	return r;
}

static void test_versions(void)
{
	CU_ASSERT_TRUE(raw_tls(TLS1_3_VERSION, "ws1") > 0);
	CU_ASSERT_EQUAL(raw_tls(TLS1_2_VERSION, "ws1"), -1);
	CU_ASSERT_TRUE(raw_tls(TLS1_3_VERSION, NULL) <= 0); /* no certificate */
	CU_ASSERT_TRUE(raw_tls(TLS1_3_VERSION, "evil") <= 0);
}

/* ---- replaced while we run ---- */
static bool becomes(bool (*fn)(void), int ms)
{
	bool r;

	for (; !(r = fn()) && ms > 0; ms -= 200)
		kit_sleep(200);
	return r;
}

static struct rpc_tls *live;
static bool peer_is_after(void)
{
	return call_with(live, port, "fs1") == 0 && !strcmp(kit_last_peer, "after");
}

/* Calls until the server sees the new certificate. The -errno of the first call that failed. */
static int call_until_after(struct rpc_channel *c)
{
	uint64_t t0 = kit_ms();
	int r = 0;

	strcpy(kit_last_peer, "");
	while (!r && strcmp(kit_last_peer, "after") && kit_ms() - t0 < 60000) {
		r = kit_num(c, &kit_echo, 1, 0, 20000, NULL);
		kit_sleep(50);
	}
	return r;
}

/* What is open goes on with the new certificate, and no call fails; what is under way stays where it is. */
static void test_renewed(void)
{
	struct relay *r = relay_start(port);
	struct rpc_stream *s = NULL;
	struct rpc_channel *c;
	struct rpc_msg m;
	Num n = num(7, 0);

	kit_host("open", &kit_ca, "DNS:before", -3600, 86400);
	live = kit_tls("open");
	c = kit_channel(live, r->port, "fs1");
	CU_ASSERT_EQUAL(kit_num(c, &kit_echo, 1, 0, 5000, NULL), 0);
	CU_ASSERT_STRING_EQUAL(kit_last_peer, "before");
	CU_ASSERT_EQUAL_FATAL(rpc_stream_open(c, &kit_str, -1, &s), 0);
	kit_host("open", &kit_ca, "DNS:after", -3600, 86400);
	CU_ASSERT_EQUAL(call_until_after(c), 0);
	CU_ASSERT_STRING_EQUAL(kit_last_peer, "after");
	CU_ASSERT_EQUAL(rpc_stream_send(s, &n.base, NULL, 0), 0);
	CU_ASSERT_EQUAL_FATAL(rpc_stream_recv(s, &m, 5000), 1);
	rpc_msg_clear(&m);
	CU_ASSERT_EQUAL(rpc_stream_finish(s, 0), ENOTTY);
	CU_ASSERT_EQUAL(r->accepted, 2);
	rpc_channel_close(c);
	relay_stop(r);
	rpc_tls_free(live);
}

/* The new one came so late that the old one ends before it is looked at: the server refuses a call, which is sent again. */
static void test_renewed_late(void)
{
	struct rpc_channel *c;

	kit_host("brief", &kit_ca, "DNS:before", -3600, 8);
	live = kit_tls("brief");
	c = kit_channel(live, port, "fs1");
	CU_ASSERT_EQUAL(kit_num(c, &kit_echo, 1, 0, 5000, NULL), 0);
	kit_host("brief", &kit_ca, "DNS:after", -3600, 86400);
	CU_ASSERT_EQUAL(call_until_after(c), 0);
	CU_ASSERT_STRING_EQUAL(kit_last_peer, "after");
	rpc_channel_close(c);
	rpc_tls_free(live);
}

/* A stream whose certificate ends: it stays if its host shows another one, and was not revoked; else it ends, too. */
static void test_stream_of_before(void)
{
	struct { /* of each: its name, its stream, what came of that */
		const char *name;
		struct rpc_tls *t;
		struct rpc_channel *c;
		struct rpc_stream *s;
		int r;
	} h[] = { { .name = "renews" }, { .name = "forgets" }, { .name = "loses" } };
	struct pki_ca lost = pki_make(kit_dir, "loses", "DNS:loses", &kit_ca, -3600, 12);
	X509 *revoked[2] = { NULL, NULL };
	uint64_t t0 = kit_ms();
	Num n = num(7, 0);
	struct rpc_msg m;

	kit_host("renews", &kit_ca, "DNS:renews", -3600, 12);
	kit_host("forgets", &kit_ca, "DNS:forgets", -3600, 12);
	for (size_t i = 0; i < ARRAY_SIZE(h); i++) {
		h[i].t = kit_tls(h[i].name);
		h[i].c = kit_channel(h[i].t, port, "fs1");
		CU_ASSERT_EQUAL_FATAL(rpc_stream_open(h[i].c, &kit_str, -1, &h[i].s), 0);
	}
	kit_host("renews", &kit_ca, "DNS:renews", -3600, 86400);
	kit_host("loses", &kit_ca, "DNS:loses", -3600, 86400);
	revoked[0] = lost.cert;
	pki_revoke(kit_dir, "list", &kit_ca, revoked);
	for (uint64_t ended = 0; kit_ms() - t0 < 60000 && (!ended || kit_ms() - ended < 11000);) { /* 11 s: all streams have been looked at since */
		CU_ASSERT_EQUAL(kit_num(h[0].c, &kit_echo, 1, 0, 20000, NULL), 0);
		kit_num(h[2].c, &kit_echo, 1, 0, 20000, NULL); /* until it shows the other one it is refused */
		for (size_t i = 1; i < ARRAY_SIZE(h); i++)
			if (!h[i].r && (h[i].r = rpc_stream_recv(h[i].s, &m, 200)) == -ETIMEDOUT)
				h[i].r = 0;
		if (h[1].r && h[2].r && !ended)
			ended = kit_ms();
	}
	CU_ASSERT_TRUE(h[1].r < 0 && h[2].r < 0);
	CU_ASSERT_EQUAL(rpc_stream_send(h[0].s, &n.base, NULL, 0), 0);
	CU_ASSERT_EQUAL(rpc_stream_recv(h[0].s, &m, 5000), 1);
	rpc_msg_clear(&m);
	CU_ASSERT_EQUAL(rpc_stream_finish(h[0].s, 0), ENOTTY);
	for (size_t i = 0; i < ARRAY_SIZE(h); i++) {
		if (i)
			rpc_stream_finish(h[i].s, 0);
		rpc_channel_close(h[i].c);
		rpc_tls_free(h[i].t);
	}
	pki_free(&lost);
}

static bool peer_gone_refused(void)
{
	return call_with(live, port, "fs1") == -EACCES;
}

static void test_reload(void)
{
	live = kit_tls("live");
	CU_ASSERT_EQUAL(call_with(live, port, "fs1"), 0);
	CU_ASSERT_STRING_EQUAL(kit_last_peer, "before");
	kit_host("live", &kit_ca, "DNS:after", -3600, 86400);
	CU_ASSERT_TRUE(becomes(peer_is_after, 15000));
	rpc_tls_free(live);
}

static void test_revoke(void)
{
	X509 *revoked[2] = { gone.cert, NULL };
	struct rpc_channel *ch;
	uint64_t t0;
	int r = 0;

	live = kit_tls("gone");
	ch = kit_channel(live, port, "fs1");
	CU_ASSERT_EQUAL(kit_num(ch, &kit_echo, 1, 0, 5000, NULL), 0);
	pki_revoke(kit_dir, "list", &kit_ca, revoked);
	log_begin();
	CU_ASSERT_TRUE(becomes(peer_gone_refused, 5000));
	CU_ASSERT_TRUE(log_end("certificate of gone has been revoked"));
	CU_ASSERT_EQUAL(call_with(tc, port, "fs1"), 0); /* others are not */
	t0 = kit_ms();
	while (kit_ms() - t0 < 15000 && (r = kit_num(ch, &kit_echo, 1, 0, 5000, NULL)) == 0)
		kit_sleep(200);
	CU_ASSERT_EQUAL(r, -EACCES); /* and the connection that was there is of no use any more */
	kit_host("gone", &kit_ca, "DNS:gone", -3600, 86400);
	t0 = kit_ms();
	while (kit_ms() - t0 < 60000 && (r = kit_num(ch, &kit_echo, 1, 0, 5000, NULL)) != 0)
		kit_sleep(200);
	CU_ASSERT_EQUAL(r, 0); /* until there is another certificate */
	rpc_channel_close(ch);
	rpc_tls_free(live);
}

int main(void)
{
	CU_pSuite s;

	kit_begin();
	CU_initialize_registry();
	s = CU_add_suite("rpc_tls", suite_begin, suite_end);
	CU_ADD_TEST(s, test_good);
	CU_ADD_TEST(s, test_other_ca);
	CU_ADD_TEST(s, test_expired);
	CU_ADD_TEST(s, test_other_name);
	CU_ADD_TEST(s, test_nameless);
	CU_ADD_TEST(s, test_load);
	CU_ADD_TEST(s, test_versions);
	CU_ADD_TEST(s, test_reload);
	CU_ADD_TEST(s, test_revoke);
	CU_ADD_TEST(s, test_renewed);
	CU_ADD_TEST(s, test_stream_of_before);
	CU_ADD_TEST(s, test_renewed_late);
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	return kit_end();
}
