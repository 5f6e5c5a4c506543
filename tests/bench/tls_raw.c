// SPDX-License-Identifier: Apache-2.0
/*
 * How long TLS 1.3 alone needs for so many bytes, to compare a move's whole time with: one connection, one thread a side, nothing but SSL_write and SSL_read. The
 * sender's bytes are memory that it filled itself, as a program's are; the receiver throws them away, which a destination cannot.
 *
 *   tls_raw serve PORT CERT KEY     serves for ever, one connection after the other
 *   tls_raw send ADDRESS PORT MIB   prints milliseconds, from the first byte until the last has arrived
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PIECE = 1 << 20 };

static int fail(const char *what)
{
	perror(what);
	return 1;
}

static SSL *wrap(SSL_CTX *c, int fd)
{
	SSL *s = SSL_new(c);
	int one = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	SSL_set_fd(s, fd);
	return s;
}

static void take(SSL *s, char *buf)
{
	uint64_t left;

	while (SSL_read(s, &left, sizeof(left)) == sizeof(left)) {
		int n = 1;

		for (; left && n > 0; left -= n > 0 ? n : 0)
			n = SSL_read(s, buf, left < PIECE ? left : PIECE);
		if (n <= 0 || SSL_write(s, "", 1) != 1)
			return;
	}
}

static int serve(int port, const char *cert, const char *key)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {INADDR_ANY}};
	SSL_CTX *c = SSL_CTX_new(TLS_server_method());
	int l = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	char *buf = malloc(PIECE);

	SSL_CTX_set_min_proto_version(c, TLS1_3_VERSION);
	if (SSL_CTX_use_certificate_file(c, cert, SSL_FILETYPE_PEM) != 1 || SSL_CTX_use_PrivateKey_file(c, key, SSL_FILETYPE_PEM) != 1)
		return fail("certificate");
	setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(l, (void *)&a, sizeof(a)) < 0 || listen(l, 1) < 0)
		return fail("port");
	puts("ready");
	fflush(stdout);
	for (;;) {
		int fd = accept(l, NULL, NULL);
		SSL *s = wrap(c, fd);

		if (SSL_accept(s) == 1)
			take(s, buf);
		SSL_free(s);
		close(fd);
	}
}

static int send_all(const char *address, int port, uint64_t bytes)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
	SSL_CTX *c = SSL_CTX_new(TLS_client_method());
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	uint64_t *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), x = 88172645463325252ull;
	struct timespec t0, t1;
	SSL *s;
	char byte;

	if (p == MAP_FAILED || inet_pton(AF_INET, address, &a.sin_addr) != 1 || connect(fd, (void *)&a, sizeof(a)) < 0)
		return fail(address);
	for (uint64_t i = 0; i < bytes / 8; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		p[i] = x;
	}
	s = wrap(c, fd);
	if (SSL_connect(s) != 1)
		return fail("TLS");
	clock_gettime(CLOCK_MONOTONIC, &t0);
	if (SSL_write(s, &bytes, sizeof(bytes)) != sizeof(bytes))
		return fail("TLS");
	for (uint64_t i = 0; i < bytes; i += PIECE)
		if (SSL_write(s, (char *)p + i, PIECE) != PIECE)
			return fail("TLS");
	if (SSL_read(s, &byte, 1) != 1)
		return fail("TLS");
	clock_gettime(CLOCK_MONOTONIC, &t1);
	printf("%.1f\n", (t1.tv_sec - t0.tv_sec) * 1e3 + (t1.tv_nsec - t0.tv_nsec) / 1e6);
	return 0;
}

int main(int argc, char **argv)
{
	signal(SIGPIPE, SIG_IGN);
	if (argc == 5 && !strcmp(argv[1], "serve"))
		return serve(atoi(argv[2]), argv[3], argv[4]);
	if (argc == 5 && !strcmp(argv[1], "send"))
		return send_all(argv[2], atoi(argv[3]), strtoull(argv[4], NULL, 10) << 20);
	fprintf(stderr, "usage: tls_raw serve PORT CERT KEY | tls_raw send ADDRESS PORT MIB\n");
	return 64;
}
