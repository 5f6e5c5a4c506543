// SPDX-License-Identifier: Apache-2.0
/* Sockets of the network on a guest host: see net.h. */
#include "migd/relay/net.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/tcp.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/log.h"
#include "migd/relay/half.h"

enum { LO = 1, JOIN_MS = 100 };
enum { STATE_SYN_RECV = 3, STATE_TIME_WAIT = 6, STATE_LISTEN = 10 }; /* of the kernel's; no header for programs has them beside the whole struct tcp_info */
#ifndef IPV6_FREEBIND
#define IPV6_FREEBIND 78
#endif

union addr {
	struct sockaddr sa;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
};
_Static_assert(sizeof(union addr) <= RELAY_ADDR, "an address fits");

static union addr addr_of(const uint8_t a[RELAY_ADDR])
{
	union addr u;

	memcpy(&u, a, sizeof(u));
	return u;
}

static socklen_t addr_len(const union addr *u)
{
	return u->sa.sa_family == AF_INET ? sizeof(u->in) : sizeof(u->in6);
}

uint16_t net_port(const uint8_t a[RELAY_ADDR])
{
	union addr u = addr_of(a);

	return ntohs(u.in.sin_port); /* at the same place in both */
}

bool net_is_any(const uint8_t a[RELAY_ADDR])
{
	union addr u = addr_of(a);

	return u.sa.sa_family == AF_INET ? !u.in.sin_addr.s_addr : IN6_IS_ADDR_UNSPECIFIED(&u.in6.sin6_addr);
}

static bool addr_valid(const struct relay_net *n, const uint8_t a[RELAY_ADDR])
{
	union addr u = addr_of(a);

	return u.sa.sa_family == n->domain && u.in.sin_port && (n->domain == AF_INET || !u.in6.sin6_scope_id);
}

bool net_valid(const struct relay_net *n, bool connected)
{
	return (n->domain == AF_INET || n->domain == AF_INET6) && addr_valid(n, n->local) && (!connected || addr_valid(n, n->peer));
}

int net_of(int fd, struct relay_net *n)
{
	union addr u = { 0 };
	socklen_t len = sizeof(u);

	*n = (struct relay_net){ 0 };
	if (getsockname(fd, &u.sa, &len))
		return -errno;
	n->domain = u.sa.sa_family;
	memcpy(n->local, &u, sizeof(u));
	u = (union addr){ 0 };
	len = sizeof(u);
	if (!getpeername(fd, &u.sa, &len))
		memcpy(n->peer, &u, sizeof(u));
	return 0;
}

/* ---- spaces ---- */

static int netlink_ask(int nl, void *q, size_t len, void *answer, size_t size)
{
	ssize_t n;

	if (send(nl, q, len, 0) < 0)
		return -errno;
	while ((n = recv(nl, answer, size, 0)) < 0 && errno == EINTR)
		;
	if (n < 0)
		return -errno;
	if (!NLMSG_OK((struct nlmsghdr *)answer, (size_t)n))
		return -EPROTO;
	if (((struct nlmsghdr *)answer)->nlmsg_type == NLMSG_ERROR)
		return ((struct nlmsgerr *)NLMSG_DATA((struct nlmsghdr *)answer))->error;
	return (int)n;
}

/* Every address of that family is one of this space's. */
static int all_local(int nl, int family)
{
	struct {
		struct nlmsghdr h;
		struct rtmsg r;
		struct rtattr a;
		uint32_t device;
	} q = {
		.h = { .nlmsg_len = sizeof(q), .nlmsg_type = RTM_NEWROUTE, .nlmsg_flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_ACK },
		.r = { .rtm_family = (uint8_t)family, .rtm_table = RT_TABLE_LOCAL, .rtm_protocol = RTPROT_STATIC, .rtm_type = RTN_LOCAL,
			.rtm_scope = family == AF_INET ? RT_SCOPE_HOST : RT_SCOPE_UNIVERSE },
		.a = { .rta_len = RTA_LENGTH(sizeof(uint32_t)), .rta_type = RTA_OIF },
		.device = LO,
	};
	char answer[1024] __attribute__((aligned(8)));

	return netlink_ask(nl, &q, sizeof(q), answer, sizeof(answer));
}

static void set_number(const char *name, const char *text)
{
	char path[80];
	int fd;

	snprintf(path, sizeof(path), "/proc/sys/net/ipv4/%s", name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		log_debug("%s: %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
}

/* In the new namespace. What is under way in a socket stays within bounds. */
static int furnish(struct net_space *s)
{
	_cleanup_close_ int any = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), nl = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	struct ifreq r = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	int err;

	if (any < 0 || nl < 0 || ioctl(any, SIOCSIFFLAGS, &r))
		return -errno;
	err = all_local(nl, AF_INET);
	if (err)
		return err;
	if (all_local(nl, AF_INET6))
		log_debug("no IPv6 in a space for sockets");
	set_number("tcp_rmem", "4096 131072 262144");
	set_number("tcp_wmem", "4096 65536 262144");
	s->diag = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	return s->diag < 0 ? -errno : 0;
}

static int own_namespace(void)
{
	return open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
}

static void go_back(int ns)
{
	if (setns(ns, CLONE_NEWNET)) { /* it was ours a moment ago */
		log_error("a thread cannot return to its network namespace: %s", strerror(errno));
		abort();
	}
}

int net_space_open(struct net_space *s)
{
	_cleanup_close_ int here = own_namespace();
	int err;

	*s = (struct net_space){ .ns = -1, .diag = -1 };
	if (here < 0 || unshare(CLONE_NEWNET)) {
		err = -errno;
		s->ns = 0;
		return err;
	}
	err = furnish(s);
	if (!err) {
		s->ns = own_namespace();
		err = s->ns < 0 ? -errno : 0;
	}
	go_back(here);
	if (err)
		net_space_close(s);
	return err;
}

void net_space_close(struct net_space *s)
{
	if (s->ns > 0)
		close(s->ns);
	if (s->diag > 0)
		close(s->diag);
	*s = (struct net_space){ 0 };
}

int net_socket(const struct net_space *s, int domain, int type, int protocol)
{
	_cleanup_close_ int here = own_namespace();
	int fd;

	if (here < 0 || setns(s->ns, CLONE_NEWNET))
		return -errno;
	fd = socket(domain, type | SOCK_CLOEXEC, protocol);
	if (fd < 0)
		fd = -errno;
	go_back(here);
	return fd;
}

/* ---- sockets ---- */

void net_set(int fd, int level, int option, int value)
{
	if (setsockopt(fd, level, option, &value, sizeof(value)))
		log_debug("socket option %d/%d: %s", level, option, strerror(errno));
}

int net_bound(const struct net_space *s, const struct relay_net *n, const uint8_t at[RELAY_ADDR], int type)
{
	union addr u = addr_of(at);
	_cleanup_close_ int fd = net_socket(s, n->domain, type, 0);

	if (fd < 0)
		return fd;
	net_set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (n->domain == AF_INET6) {
		net_set(fd, IPPROTO_IPV6, IPV6_V6ONLY, !!(n->flags & RELAY_NET_V6ONLY));
		net_set(fd, IPPROTO_IPV6, IPV6_FREEBIND, 1);
	}
	if (bind(fd, &u.sa, addr_len(&u)))
		return -errno;
	if (n->domain == AF_INET6)
		net_set(fd, IPPROTO_IPV6, IPV6_FREEBIND, 0);
	return steal_fd(&fd);
}

int net_listen(const struct net_space *s, const struct relay_net *n)
{
	_cleanup_close_ int fd = net_bound(s, n, n->local, SOCK_STREAM);

	if (fd < 0)
		return fd;
	if (n->flags & RELAY_NET_REUSEPORT) /* it is alone with its port in this space: only so that it says what it is */
		net_set(fd, SOL_SOCKET, SO_REUSEPORT, 1);
	return listen(fd, (int)n->backlog) ? -errno : steal_fd(&fd);
}

int net_join(const struct net_space *s, const struct relay_net *n)
{
	union addr to = addr_of(n->local);
	_cleanup_close_ int fd = net_bound(s, n, n->peer, SOCK_STREAM);
	struct pollfd p = { .events = POLLOUT };
	socklen_t len = sizeof(int);
	int err = 0;

	if (fd < 0)
		return fd;
	net_set(fd, SOL_SOCKET, SO_RCVBUF, RELAY_WINDOW);
	net_set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	net_break_at_close(fd, true);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	if (!connect(fd, &to.sa, addr_len(&to)))
		return steal_fd(&fd);
	if (errno != EINPROGRESS)
		return -errno;
	p.fd = fd; /* nothing is far away here: who does not answer has no room */
	if (poll(&p, 1, JOIN_MS) != 1)
		return -EAGAIN;
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) || err)
		return err ? -err : -errno;
	return steal_fd(&fd);
}

int net_pair(const struct net_space *s, const struct relay_net *n, int *family)
{
	struct relay_net l = *n;
	_cleanup_close_ int listener = -1, ours = -1;

	l.backlog = 1;
	l.flags &= (uint16_t)~RELAY_NET_REUSEPORT;
	listener = net_listen(s, &l);
	if (listener < 0)
		return listener;
	ours = net_join(s, n);
	if (ours < 0)
		return ours;
	*family = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	return *family < 0 ? -errno : steal_fd(&ours);
}

void net_break_at_close(int fd, bool yes)
{
	struct linger l = { .l_onoff = yes };

	if (setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l)))
		log_debug("SO_LINGER: %s", strerror(errno));
}

void net_take_over(int fd)
{
	net_break_at_close(fd, true);
	net_set(fd, IPPROTO_TCP, TCP_CORK, 0);
	net_set(fd, SOL_SOCKET, SO_RCVLOWAT, 1);
}

bool net_has_failed(int fd)
{
	struct pollfd p = { .fd = fd };
	int n = 0;

	return poll(&p, 1, 0) > 0 && p.revents & POLLERR && !ioctl(fd, FIONREAD, &n) && !n;
}

/* ---- what the kernel tells of the family's end ---- */

static void diag_addr(const union addr *u, __be32 out[4], __be16 *port)
{
	*port = u->in.sin_port;
	if (u->sa.sa_family == AF_INET)
		out[0] = u->in.sin_addr.s_addr;
	else
		memcpy(out, &u->in6.sin6_addr, 16);
}

/* from, to: as the kernel wants them. */
static int ask_diag(const struct net_space *s, const struct relay_net *n, int protocol, const uint8_t *from, const uint8_t *to, char *buf, size_t size)
{
	struct {
		struct nlmsghdr h;
		struct inet_diag_req_v2 r;
	} q = {
		.h = { .nlmsg_len = sizeof(q), .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST },
		.r = { .sdiag_family = (uint8_t)n->domain, .sdiag_protocol = (uint8_t)protocol, .idiag_ext = 1 << (INET_DIAG_INFO - 1), .idiag_states = ~0u,
			.id.idiag_cookie = { INET_DIAG_NOCOOKIE, INET_DIAG_NOCOOKIE } },
	};
	union addr a = addr_of(from), b = addr_of(to);

	diag_addr(&a, q.r.id.idiag_src, &q.r.id.idiag_sport);
	diag_addr(&b, q.r.id.idiag_dst, &q.r.id.idiag_dport);
	return netlink_ask(s->diag, &q, sizeof(q), buf, size);
}

int net_look(const struct net_space *s, const struct relay_net *n, bool listening, struct net_look *out)
{
	static const uint8_t nobody[RELAY_ADDR];
	char buf[4096] __attribute__((aligned(8)));
	struct nlmsghdr *h = (struct nlmsghdr *)buf;
	const struct inet_diag_msg *m = NLMSG_DATA(h);
	int left, r = ask_diag(s, n, IPPROTO_TCP, n->local, listening ? nobody : n->peer, buf, sizeof(buf));

	if (r < 0)
		return r;
	/* Without a connection of that name the kernel shows who listens there; one that is over (TIME_WAIT) belongs to nobody. */
	if (m->idiag_state == STATE_SYN_RECV)
		return -EAGAIN;
	if ((m->idiag_state == STATE_LISTEN) != listening || m->idiag_state == STATE_TIME_WAIT)
		return -ENOENT;
	*out = (struct net_look){ .state = m->idiag_state, .ino = m->idiag_inode, .unread = m->idiag_rqueue, .unsent = m->idiag_wqueue };
	left = (int)(h->nlmsg_len - NLMSG_LENGTH(sizeof(*m)));
	for (struct rtattr *a = (struct rtattr *)(m + 1); RTA_OK(a, left); a = RTA_NEXT(a, left))
		if (a->rta_type == INET_DIAG_INFO && RTA_PAYLOAD(a) >= offsetof(struct tcp_info, tcpi_bytes_received) + 8) {
			memcpy(&out->received, (char *)RTA_DATA(a) + offsetof(struct tcp_info, tcpi_bytes_received), 8);
			return 0;
		}
	return listening ? 0 : m->idiag_inode ? -EOPNOTSUPP : -ENOENT; /* what is left of one that was closed has no numbers */
}

int net_look_udp(const struct net_space *s, const struct relay_net *n, struct net_look *out)
{
	char buf[4096] __attribute__((aligned(8)));
	const struct inet_diag_msg *m = NLMSG_DATA((struct nlmsghdr *)buf);
	int r = ask_diag(s, n, IPPROTO_UDP, n->peer, n->local, buf, sizeof(buf)); /* as a packet to it would be addressed */

	if (r < 0)
		return r;
	*out = (struct net_look){ .state = m->idiag_state, .ino = m->idiag_inode, .unread = m->idiag_rqueue };
	return 0;
}

int net_end_read(struct net_end *e, uint64_t *n)
{
	struct net_look before, now;
	int err;

	e->exact = true;
	err = net_look(e->space, &e->net, false, &before);
	if (!err)
		err = net_look(e->space, &e->net, false, &now);
	if (err) {
		e->exact = err == -ENOENT;
		return err;
	}
	/* An answer is not of one moment: what is unread is counted before what has come in. With the count of before the sum is never too large. */
	e->exact = before.received == now.received;
	*n = before.received > now.unread ? before.received - now.unread : 0;
	return 0;
}

bool net_end_drained(const struct net_end *e, int fd)
{
	struct net_look l;
	int err, n = 0, one = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &one, sizeof(one)); /* what has come here is acknowledged now, not in 40 ms */
	err = net_look(e->space, &e->net, false, &l);
	if (err && err != -ENOENT)
		return false;
	if (!err && l.unsent)
		return false;
	return ioctl(fd, FIONREAD, &n) || !n;
}
