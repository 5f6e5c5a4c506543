// SPDX-License-Identifier: Apache-2.0
/* See io.h. */
#include "conf/io.h"
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

/* May it be tried again? Not blocking: when it can be. */
static int again(int fd, short events)
{
	struct pollfd p = {.fd = fd, .events = events};

	if (errno == EINTR)
		return 1;
	return errno == EAGAIN && (poll(&p, 1, -1) > 0 || errno == EINTR);
}

int io_write_all(int fd, const void *p, size_t n)
{
	for (const char *c = p; n;) {
		ssize_t k = send(fd, c, n, MSG_NOSIGNAL);

		if (k < 0 && errno == ENOTSOCK)
			k = write(fd, c, n);
		if (k < 0 && again(fd, POLLOUT))
			continue;
		if (k <= 0)
			return k < 0 ? -errno : -EPIPE;
		c += k;
		n -= (size_t)k;
	}
	return 0;
}

int io_read_all(int fd, void *p, size_t n)
{
	for (char *c = p; n;) {
		ssize_t k = read(fd, c, n);

		if (k < 0 && again(fd, POLLIN))
			continue;
		if (k <= 0)
			return k < 0 ? -errno : -EPIPE;
		c += k;
		n -= (size_t)k;
	}
	return 0;
}
