// SPDX-License-Identifier: Apache-2.0
/*
 * What only the kernel knows of a unix socket.
 *
 * What waits unread at one that is not ours: unix_diag tells it by the inode (sock_diag(7)). The descriptor that the family has is not kept here, since its
 * end could not be seen then. A question takes some microseconds; one netlink socket serves all.
 */
#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <pthread.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include "migd/relay/half.h"

#define PASSRIGHTS 83 /* SO_PASSRIGHTS: younger than the C library's headers */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int nl = -1; /* lock */

/* lock held. */
static ssize_t ask(uint32_t ino, char *buf, size_t size)
{
	struct {
		struct nlmsghdr h;
		struct unix_diag_req r;
	} q = {
		.h = { .nlmsg_len = sizeof(q), .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST },
		.r = { .sdiag_family = AF_UNIX, .udiag_states = ~0u, .udiag_ino = ino, .udiag_show = UDIAG_SHOW_RQLEN, .udiag_cookie = { ~0u, ~0u } },
	};
	ssize_t n;

	if (nl < 0)
		nl = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	if (nl < 0 || send(nl, &q, sizeof(q), 0) < 0)
		return -errno;
	while ((n = recv(nl, buf, size, 0)) < 0 && errno == EINTR)
		;
	return n < 0 ? -errno : n;
}

ssize_t relay_sock_unread(uint32_t ino)
{
	char buf[4096] __attribute__((aligned(8)));
	struct nlmsghdr *h = (struct nlmsghdr *)buf;
	struct unix_diag_msg *m = NLMSG_DATA(h);
	ssize_t unread = -EPROTO;
	ssize_t n;

	pthread_mutex_lock(&lock);
	n = ask(ino, buf, sizeof(buf));
	pthread_mutex_unlock(&lock);
	if (n < 0 || !NLMSG_OK(h, (size_t)n))
		return n < 0 ? n : -EPROTO;
	if (h->nlmsg_type == NLMSG_ERROR)
		return ((struct nlmsgerr *)NLMSG_DATA(h))->error ?: -EPROTO;
	if (m->udiag_ino != ino)
		return -EPROTO;
	int left = (int)(h->nlmsg_len - NLMSG_LENGTH(sizeof(*m)));

	for (struct rtattr *a = (struct rtattr *)(m + 1); RTA_OK(a, left); a = RTA_NEXT(a, left))
		if (a->rta_type == UNIX_DIAG_RQLEN)
			unread = ((struct unix_diag_rqlen *)RTA_DATA(a))->udiag_rqueue;
	return unread;
}

bool relay_sock_rights(int fd, bool on)
{
	socklen_t n = sizeof(int);
	int is = on, want = on;

	return getsockopt(fd, SOL_SOCKET, PASSRIGHTS, &is, &n) == 0 && !!is != on && setsockopt(fd, SOL_SOCKET, PASSRIGHTS, &want, sizeof(want)) == 0;
}

bool relay_sock_unsent(int fd)
{
	int n = 0;

	return fd >= 0 && ioctl(fd, TIOCOUTQ, &n) == 0 && n; /* SIOCOUTQ */
}
