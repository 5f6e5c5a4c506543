/* SPDX-License-Identifier: Apache-2.0 */
/* Whether one can listen at an address, asked of the kernel; see rpc.h. */
#include "rpc/internal.h"
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "conf/cleanup.h"

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
