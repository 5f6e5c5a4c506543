// SPDX-License-Identifier: Apache-2.0
/* Messages over SOCK_SEQPACKET; see wire.h. */
#include "migd/relay/wire.h"
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int wire_send(int sock, const void *head, size_t head_len, const void *data, size_t len, int fd)
{
	union {
		struct cmsghdr h;
		char buf[CMSG_SPACE(sizeof(int))];
	} c = { 0 };
	struct iovec v[2] = { { (void *)head, head_len }, { (void *)data, len } };
	struct msghdr m = { .msg_iov = v, .msg_iovlen = len ? 2 : 1 };
	ssize_t n;

	if (fd >= 0) {
		c.h.cmsg_level = SOL_SOCKET;
		c.h.cmsg_type = SCM_RIGHTS;
		c.h.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&c.h), &fd, sizeof(int));
		m.msg_control = &c;
		m.msg_controllen = sizeof(c);
	}
	while ((n = sendmsg(sock, &m, MSG_NOSIGNAL)) < 0 && errno == EINTR)
		;
	return n < 0 ? -errno : 0;
}

ssize_t wire_recv(int sock, void *buf, size_t size, int *fd)
{
	union {
		struct cmsghdr h;
		char buf[CMSG_SPACE(sizeof(int))];
	} c;
	struct iovec v = { buf, size };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof(c) };
	struct cmsghdr *x;
	int got = -1;
	ssize_t n;

	while ((n = recvmsg(sock, &m, MSG_CMSG_CLOEXEC)) < 0 && errno == EINTR)
		;
	if (n < 0)
		return -errno;
	x = CMSG_FIRSTHDR(&m);
	if (x && x->cmsg_level == SOL_SOCKET && x->cmsg_type == SCM_RIGHTS && x->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(&got, CMSG_DATA(x), sizeof(int));
	if (fd)
		*fd = got;
	else if (got >= 0)
		close(got);
	return m.msg_flags & MSG_TRUNC ? -EMSGSIZE : n;
}
