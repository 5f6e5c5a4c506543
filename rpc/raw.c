// SPDX-License-Identifier: Apache-2.0
/* Connections without gRPC; see raw.h. A link that is cut is noticed after DEAD_MS, whether there is something to send or not. */
#include "rpc/raw.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include "conf/cleanup.h"
#include "conf/log.h"
#include "rpc/certs.h"
#include "rpc/internal.h"

#define DEAD_MS	    4000
#define RENEW	    (1u << 18) /* records under one key; far below what AES-GCM allows */
#define READ_BUFFER (8 * (RPC_RAW_RECORD + 256)) /* records that one read(2) takes */

struct rpc_raw {
	SSL *ssl;
	int fd;
	bool up; /* the handshake is over: what is written is put together first */
	uint64_t until; /* before: when it must be, rt_now_ns() */
	uint8_t *out;
	size_t nout, at, room; /* out[at..nout) is to be sent */
	unsigned records;
	char peer[256];
};

/* ---- how OpenSSL gets at the socket ---- */

static int after(BIO *b, ssize_t n, int flags)
{
	BIO_clear_retry_flags(b);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		BIO_set_flags(b, flags | BIO_FLAGS_SHOULD_RETRY);
	return (int)n;
}

/* A record is at most 16 KiB, and each send(2) may wake the other side up: so they are put together. */
static int bio_write(BIO *b, const char *p, int n)
{
	struct rpc_raw *r = BIO_get_data(b);
	size_t need = r->nout + (size_t)n;

	if (!r->up)
		return after(b, send(r->fd, p, (size_t)n, MSG_NOSIGNAL), BIO_FLAGS_WRITE);
	if (need > r->room && r->at) {
		memmove(r->out, r->out + r->at, r->nout - r->at);
		r->nout -= r->at;
		need -= r->at;
		r->at = 0;
	}
	if (need > r->room) {
		size_t room = need + need / 2;
		uint8_t *out = realloc(r->out, room);

		if (!out) {
			errno = ENOMEM;
			return after(b, -1, 0);
		}
		r->out = out;
		r->room = room;
	}
	memcpy(r->out + r->nout, p, (size_t)n);
	r->nout = need;
	return after(b, n, 0);
}

static int bio_read(BIO *b, char *p, int n)
{
	struct rpc_raw *r = BIO_get_data(b);
	struct pollfd x = {.fd = r->fd, .events = POLLIN};
	uint64_t now = r->up ? 0 : rt_now_ns();

	/* all of a handshake, not each of its pieces: who drips is sent away */
	if (!r->up && (now >= r->until || poll(&x, 1, (int)((r->until - now) / 1000000) + 1) != 1)) {
		errno = EAGAIN;
		return after(b, -1, BIO_FLAGS_READ);
	}
	return after(b, recv(r->fd, p, (size_t)n, 0), BIO_FLAGS_READ);
}

static long bio_ctrl(BIO *b, int cmd, long num, void *arg)
{
	(void)b;
	(void)num;
	(void)arg;
	return cmd == BIO_CTRL_FLUSH;
}

static BIO_METHOD *method;

static void method_make(void)
{
	method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "socket");
	if (method && (!BIO_meth_set_write(method, bio_write) || !BIO_meth_set_read(method, bio_read) || !BIO_meth_set_ctrl(method, bio_ctrl))) {
		BIO_meth_free(method);
		method = NULL;
	}
}

static bool attach(struct rpc_raw *r)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	BIO *b;

	pthread_once(&once, method_make);
	b = method ? BIO_new(method) : NULL;
	if (!b)
		return false;
	BIO_set_data(b, r);
	BIO_set_init(b, 1);
	SSL_set_bio(r->ssl, b, b);
	return true;
}

/* ---- handshakes ---- */

/* For one handshake: what is to be believed, and why not. */
struct judge {
	struct rpc_tls *t;
	const char *server; /* NULL: we are the server */
	struct error *e;
	int fd;
};

static void warn_refused(const struct judge *j)
{
	struct sockaddr_storage a = {0};
	socklen_t len = sizeof(a);
	char host[INET6_ADDRSTRLEN] = "?";

	getpeername(j->fd, (struct sockaddr *)&a, &len);
	getnameinfo((struct sockaddr *)&a, len, host, sizeof(host), NULL, 0, NI_NUMERICHOST);
	log_warn("%s: connection refused: %s", host, j->e->text);
}

static int believe(X509_STORE_CTX *ctx, void *arg)
{
	struct judge *j = arg;

	if (tls_judge(j->t, X509_STORE_CTX_get0_cert(ctx), j->server != NULL, j->server, j->e) == 0)
		return 1;
	if (!j->server && tls_may_warn(j->t, j->e->text))
		warn_refused(j);
	X509_STORE_CTX_set_error(ctx, X509_V_ERR_CERT_REJECTED);
	return 0;
}

/* Made for each connection: certificate and key may have been replaced. */
static SSL_CTX *context(struct judge *j)
{
	SSL_CTX *c = SSL_CTX_new(j->server ? TLS_client_method() : TLS_server_method());
	const char *cert, *key;

	tls_files(j->t, &cert, &key);
	if (!c || !SSL_CTX_set_min_proto_version(c, TLS1_3_VERSION) || SSL_CTX_use_certificate_chain_file(c, cert) != 1 || SSL_CTX_use_PrivateKey_file(c, key, SSL_FILETYPE_PEM) != 1 ||
		SSL_CTX_check_private_key(c) != 1 || !SSL_CTX_set_ciphersuites(c, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256")) {
		error_set(j->e, EIO, "%s, %s: cannot be used for a connection", cert, key);
		SSL_CTX_free(c);
		return NULL;
	}
	SSL_CTX_set_verify(c, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	SSL_CTX_set_cert_verify_callback(c, believe, j);
	SSL_CTX_set_num_tickets(c, 0);
	SSL_CTX_set_session_cache_mode(c, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_read_ahead(c, 1);
	SSL_CTX_set_default_read_buffer_len(c, READ_BUFFER);
	return c;
}

static void option(int fd, int level, int name, int value)
{
	setsockopt(fd, level, name, &value, sizeof(value));
}

static void options(int fd)
{
	struct timeval t = {.tv_sec = RPC_RAW_MS / 1000};

	option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 2);
	option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 1);
	option(fd, IPPROTO_TCP, TCP_KEEPCNT, DEAD_MS / 1000 - 2);
	option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, DEAD_MS);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof(t)); /* for the handshake; reading: bio_read() */
}

static bool peer_name(struct rpc_raw *r)
{
	X509 *x = SSL_get1_peer_certificate(r->ssl);
	bool ok = x && certs_name(x, r->peer, sizeof(r->peer));

	X509_free(x);
	return ok;
}

/* Takes over fd. */
static int handshake(struct judge *j, int fd, struct rpc_raw **out)
{
	struct rpc_raw *r = calloc(1, sizeof(*r));
	SSL_CTX *c = r ? context(j) : NULL;
	int n = -1;

	j->fd = fd;
	if (!r)
		error_set(j->e, ENOMEM, "out of memory");
	if (!c) {
		free(r);
		close(fd);
		return -j->e->code;
	}
	r->fd = fd;
	r->until = rt_now_ns() + RPC_RAW_MS * 1000000ull;
	r->ssl = SSL_new(c);
	SSL_CTX_free(c); /* the connection has a reference */
	options(fd);
	if (r->ssl && attach(r))
		n = j->server ? SSL_connect(r->ssl) : SSL_accept(r->ssl);
	if (n == 1 && peer_name(r) && fcntl(fd, F_SETFL, O_NONBLOCK) == 0) {
		ERR_clear_error();
		r->up = true;
		SSL_CTX_set_cert_verify_callback(SSL_get_SSL_CTX(r->ssl), NULL, NULL); /* *j ends with us */
		*out = r;
		return 0;
	}
	if (!j->e->code)
		error_set(j->e, EPROTO, "no TLS connection: %s", ERR_peek_error() ? ERR_reason_error_string(ERR_peek_error()) : "the other side is silent, or has closed");
	ERR_clear_error();
	rpc_raw_close(r);
	return -j->e->code;
}

static int connect_to(const struct addrinfo *a)
{
	int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), err = 0;
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	socklen_t len = sizeof(err);

	if (fd < 0)
		return -errno;
	if (connect(fd, a->ai_addr, a->ai_addrlen) && errno != EINPROGRESS)
		err = errno;
	else if (poll(&p, 1, RPC_RAW_MS) != 1)
		err = ETIMEDOUT;
	else
		getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len);
	if (!err && fcntl(fd, F_SETFL, 0) < 0)
		err = errno;
	if (!err)
		return fd;
	close(fd);
	return -err;
}

static int resolve(const struct conf_addr *addr, int flags, struct addrinfo **list, struct error *e)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV | flags};
	char port[8];
	int r;

	snprintf(port, sizeof(port), "%u", addr->port);
	r = getaddrinfo(addr->host, port, &hints, list);
	return r ? error_set(e, EHOSTUNREACH, "%s: %s", addr->host, gai_strerror(r)) : 0;
}

int rpc_raw_connect(struct rpc_tls *t, const struct conf_addr *addr, const char *server, struct rpc_raw **out, struct error *e)
{
	struct judge j = {t, server, e, -1};
	struct addrinfo *list, *a;
	int fd = -EHOSTUNREACH, r = resolve(addr, 0, &list, e);

	if (r < 0)
		return r;
	for (a = list; a && fd < 0; a = a->ai_next)
		fd = connect_to(a);
	freeaddrinfo(list);
	if (fd < 0)
		return error_set(e, -fd, "%s:%u: %s", addr->host, addr->port, strerror(-fd));
	r = handshake(&j, fd, out);
	if (r < 0)
		error_prefix(e, "%s:%u", addr->host, addr->port);
	return r;
}

int rpc_raw_accept(struct rpc_tls *t, int fd, struct rpc_raw **out, struct error *e)
{
	struct judge j = {t, NULL, e, -1};

	return handshake(&j, fd, out);
}

int rpc_raw_listen(const struct conf_addr *addr, uint16_t *port, struct error *e)
{
	struct sockaddr_in6 own; /* an IPv4 address has its port at the same place */
	socklen_t len = sizeof(own);
	struct addrinfo *list, *a;
	struct conf_addr at = *addr;
	int fd = -1, err = EADDRNOTAVAIL, r;

	snprintf(at.host, sizeof(at.host), "%s", rpc_listen_host(addr->host));
	r = resolve(&at, AI_PASSIVE, &list, e);

	if (r < 0)
		return r;
	for (a = list; a && fd < 0; a = a->ai_next) {
		fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
		option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
		if (fd >= 0 && (bind(fd, a->ai_addr, a->ai_addrlen) || listen(fd, 64))) {
			err = errno;
			close(fd);
			fd = -1;
		}
	}
	freeaddrinfo(list);
	if (fd >= 0 && getsockname(fd, (struct sockaddr *)&own, &len) == 0)
		*port = ntohs(own.sin6_port);
	return fd >= 0 ? fd : error_set(e, err, "%s:%u: %s", addr->host, addr->port, strerror(err));
}

void rpc_raw_close(struct rpc_raw *r)
{
	if (!r)
		return;
	SSL_free(r->ssl);
	close(r->fd);
	free(r->out);
	free(r);
}

int rpc_raw_judge(struct rpc_raw *r, struct rpc_tls *t, struct error *e)
{
	X509 *x = SSL_get1_peer_certificate(r->ssl);
	int n = tls_judge(t, x, SSL_is_server(r->ssl) == 0, NULL, e);

	X509_free(x);
	return n;
}

const char *rpc_raw_peer(const struct rpc_raw *r)
{
	return r->peer;
}

int rpc_raw_fd(const struct rpc_raw *r)
{
	return r->fd;
}

/* What a call that has not done it says. */
static ssize_t failed(struct rpc_raw *r, int n)
{
	int err = errno;

	switch (SSL_get_error(r->ssl, n)) {
	case SSL_ERROR_WANT_READ:
	case SSL_ERROR_WANT_WRITE:
		return -EAGAIN;
	case SSL_ERROR_ZERO_RETURN:
		return 0;
	case SSL_ERROR_SYSCALL:
		ERR_clear_error();
		return err ? -err : 0;
	default: /* closed without a word, too: as by a kill */
		ERR_clear_error();
		return -EPIPE;
	}
}

ssize_t rpc_raw_read(struct rpc_raw *r, void *buf, size_t n)
{
	int k;

	errno = 0;
	k = SSL_read(r->ssl, buf, n > INT_MAX ? INT_MAX : (int)n);
	return k > 0 ? k : failed(r, k);
}

bool rpc_raw_pending(const struct rpc_raw *r)
{
	return SSL_has_pending(r->ssl);
}

int rpc_raw_flush(struct rpc_raw *r)
{
	while (r->at < r->nout) {
		ssize_t n = send(r->fd, r->out + r->at, r->nout - r->at, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		r->at += (size_t)n;
	}
	r->at = r->nout = 0;
	return 0;
}

size_t rpc_raw_unsent(const struct rpc_raw *r)
{
	return r->nout - r->at;
}

int rpc_raw_write(struct rpc_raw *r, const void *buf, size_t n, bool more)
{
	const uint8_t *p = buf;

	while (n) {
		bool renew = ++r->records % RENEW == 0;
		int k = !renew || SSL_key_update(r->ssl, SSL_KEY_UPDATE_NOT_REQUESTED) ? SSL_write(r->ssl, p, n < RPC_RAW_RECORD ? (int)n : RPC_RAW_RECORD) : -1;

		if (k <= 0) {
			ERR_clear_error();
			return -EPIPE;
		}
		p += k;
		n -= (size_t)k;
	}
	return more ? 0 : rpc_raw_flush(r);
}
