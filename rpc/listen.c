/* SPDX-License-Identifier: Apache-2.0 */
/* Names of hosts, and whether one can listen at an address, asked of the resolver and the kernel; see rpc.h. */
#include "rpc/internal.h"
#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>
#include "conf/cleanup.h"

bool rpc_resolves(const char *host)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found = NULL;
	bool ok = getaddrinfo(host, NULL, &hints, &found) == 0;

	if (found)
		freeaddrinfo(found);
	return ok;
}

static bool is_loopback(const struct sockaddr *a)
{
	const struct sockaddr_in6 *six = (const void *)a;
	const struct sockaddr_in *four = (const void *)a;

	return a->sa_family == AF_INET ? ntohl(four->sin_addr.s_addr) >> 24 == 127 : a->sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&six->sin6_addr);
}

/* Debian's: any other name of a loopback is there because somebody wants to be reached by nobody else. */
static bool is_installers(const struct sockaddr *a)
{
	const struct sockaddr_in *four = (const void *)a;

	return a->sa_family == AF_INET && ntohl(four->sin_addr.s_addr) == 0x7f000101;
}

/* This host's own, with or without its domain. */
static bool is_own(const char *host)
{
	char own[HOST_NAME_MAX + 1] = "";
	size_t n, m;

	gethostname(own, sizeof(own) - 1);
	n = strcspn(own, ".");
	m = strcspn(host, ".");
	return n && n == m && !strncasecmp(own, host, n) && (!own[n] || !host[m] || !strcasecmp(own, host));
}

const char *rpc_listen_host(const char *host)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found = NULL;
	struct sockaddr_in6 any = { .sin6_family = AF_INET6 };
	struct in6_addr number;
	bool here = true, installers = false;
	int s;

	if (inet_pton(AF_INET, host, &number) == 1 || inet_pton(AF_INET6, host, &number) == 1 || !strcmp(host, "localhost") || getaddrinfo(host, NULL, &hints, &found))
		return host;
	for (const struct addrinfo *a = found; a; a = a->ai_next) {
		here &= is_loopback(a->ai_addr);
		installers |= is_installers(a->ai_addr);
	}
	freeaddrinfo(found);
	if (!here || !(installers || is_own(host)))
		return host;
	s = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	here = s >= 0 && bind(s, (const struct sockaddr *)&any, sizeof(any)) == 0;
	if (s >= 0)
		close(s);
	return here ? "::" : "0.0.0.0";
}

/* 0, or the errno of bind(2). */
static int try_bind(const struct addrinfo *a)
{
	_cleanup_close_ int s = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int on = 1;

	return s >= 0 && setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0 && bind(s, a->ai_addr, a->ai_addrlen) == 0 && listen(s, 1) == 0 ? 0 : errno;
}

/* One address of the name is enough. */
static int fault(const char *name, uint16_t port)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *found = NULL;
	char service[8];
	int r = EADDRNOTAVAIL;

	snprintf(service, sizeof(service), "%u", port);
	if (getaddrinfo(rpc_listen_host(name), service, &hints, &found))
		return ENXIO;
	for (const struct addrinfo *a = found; a && r; a = a->ai_next)
		r = try_bind(a);
	freeaddrinfo(found);
	return r;
}

static int told(const struct conf_addr *a, int err, struct error *e)
{
	switch (err) {
	case ENXIO:
		return error_set(e, EADDRNOTAVAIL, "cannot listen on %s:%u: %s does not resolve (DNS or /etc/hosts)", a->host, a->port, a->host);
	case EADDRNOTAVAIL:
		return error_set(e, err, "cannot listen on %s:%u: %s is no address of this host", a->host, a->port, a->host);
	case EADDRINUSE:
		return error_set(e, err, "cannot listen on %s:%u: another program listens there", a->host, a->port);
	default:
		return error_set(e, err, "cannot listen on %s:%u: %s", a->host, a->port, strerror(err));
	}
}

int rpc_listen_check(const struct conf_addr *a, size_t n, bool ports, struct error *e)
{
	int err = 0;
	size_t i;

	for (i = 0; i < n && !err; i++)
		err = fault(a[i].host, ports ? a[i].port : 0);
	return err ? told(&a[i - 1], err, e) : 0;
}
