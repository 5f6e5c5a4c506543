// SPDX-License-Identifier: Apache-2.0
/*
 * UDP sockets that have a name. Each packet is a frame, PACKET{id} with a struct packet, both ways; none is kept, numbered or sent again: what is on its way when a link
 * breaks is lost, as packets may be. The home takes packets from the true socket only while the guest has room for them (ROOM, conn.c), and so waits before a move until the
 * family has read what came.
 *
 * Over there a packet is said in the name of its sender, and what the family sends, to whomever, is seen, by raw sockets of the space (net.h), in which every address is local.
 * Ours are known by their hop limit; the family's socket hears no others (what its family sends goes to the home, also if it is for one of its own, and comes from there).
 * So that nobody tells a connected socket that there is no port at the other end we have one there, which hears nothing.
 *
 * Lock: the hub's; buffer_lock is taken after it.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/udp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/log.h"
#include "migd/relay/hub_parts.h"

enum { OUR_HOPS = 251, AT_ONCE = 64, RAW_BUF = 1 << 20, QUEUE_MAX = 256, HEAD_MAX = 60 };

struct packet {
	uint8_t peer[RELAY_ADDR]; /* who sent it, or shall get it */
};
_Static_assert(sizeof(struct packet) + 65507 <= RELAY_CHUNK, "a packet fits into a frame");

/* One for all hubs: 64 KiB are too many for each thread. */
static pthread_mutex_t buffer_lock = PTHREAD_MUTEX_INITIALIZER;
static char buffer[sizeof(struct packet) + HEAD_MAX + 65536]; /* buffer_lock */

union addr {
	struct sockaddr sa;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
	uint8_t raw[RELAY_ADDR];
};

static union addr addr_of(const uint8_t a[RELAY_ADDR])
{
	union addr u;

	memcpy(&u, a, RELAY_ADDR);
	return u;
}

static bool is_mapped(const union addr *u)
{
	return u->sa.sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&u->in6.sin6_addr);
}

/* ---- guest ---- */

/* A socket that sees all packets of that family that go through the space. */
static int raw_socket(const struct net_space *s, int domain)
{
	int fd = net_socket(s, domain, SOCK_RAW | SOCK_NONBLOCK, IPPROTO_UDP);

	if (fd < 0)
		return fd;
	net_set(fd, SOL_SOCKET, SO_RCVBUF, RAW_BUF);
	if (domain == AF_INET) {
		net_set(fd, IPPROTO_IP, IP_TTL, OUR_HOPS);
		return fd;
	}
	net_set(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS, OUR_HOPS);
	net_set(fd, IPPROTO_IPV6, 78 /* IPV6_FREEBIND */, 1);
	net_set(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
	net_set(fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1);
	net_set(fd, IPPROTO_IPV6, IPV6_CHECKSUM, offsetof(struct udphdr, check));
	return fd;
}

/* Whatever the family sends is local here: without this its own sockets would hear it. */
static int hears_only_ours(int fd)
{
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, (uint32_t)SKF_NET_OFF),
		BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xf0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x40, 0, 2),
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, (uint32_t)SKF_NET_OFF + 8), /* IPv4: time to live */
		BPF_STMT(BPF_JMP | BPF_JA, 1),
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, (uint32_t)SKF_NET_OFF + 7), /* IPv6: hop limit */
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OUR_HOPS, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
		BPF_STMT(BPF_RET | BPF_K, 0),
	};
	struct sock_fprog prog = { sizeof(f) / sizeof(*f), f };
	int on = 1;

	return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog)) || setsockopt(fd, SOL_SOCKET, SO_LOCK_FILTER, &on, sizeof(on)) ? -errno : 0;
}

static int hush_socket(const struct net_space *s, const struct relay_net *n)
{
	struct sock_filter nothing = BPF_STMT(BPF_RET | BPF_K, 0);
	struct sock_fprog prog = { 1, &nothing };
	int fd = net_bound(s, n, n->peer, SOCK_DGRAM);

	if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog)))
		log_debug("SO_ATTACH_FILTER: %s", strerror(errno));
	return fd;
}

int udp_make(struct relay *r, const struct net_space *s, int *family)
{
	const struct relay_net *n = &r->conn.net;
	union addr peer = addr_of(n->peer);
	_cleanup_close_ int fd = net_bound(s, n, n->local, SOCK_DGRAM);
	int err;

	if (fd < 0)
		return fd;
	err = hears_only_ours(fd);
	if (err)
		return err;
	for (int i = 0; i < 2; i++) {
		if (i && n->domain == AF_INET)
			break;
		err = raw_socket(s, i ? AF_INET6 : AF_INET);
		if (err < 0)
			goto undo;
		r->conn.raw[i] = err;
	}
	if (net_port(n->peer)) {
		err = hush_socket(s, n);
		if (err < 0)
			goto undo;
		r->conn.hush = err;
		err = -EADDRNOTAVAIL;
		if (connect(fd, &peer.sa, peer.sa.sa_family == AF_INET ? sizeof(peer.in) : sizeof(peer.in6)))
			goto undo;
	}
	*family = steal_fd(&fd);
	return 0;
undo:
	udp_free(r);
	return err;
}

void udp_free(struct relay *r)
{
	int *mine[] = { &r->conn.raw[0], &r->conn.raw[1], &r->conn.hush };

	for (int i = 0; i < 3; i++) {
		if (*mine[i] > 0)
			close(*mine[i]);
		*mine[i] = 0;
	}
}

bool udp_quiet(const struct relay_hub *h, const struct relay *r)
{
	int n;

	for (int i = 0; i < 2; i++)
		if (r->conn.raw[i] && !ioctl(r->conn.raw[i], FIONREAD, &n) && n)
			return false;
	return !h->nout;
}

bool udp_read(const struct relay *r)
{
	struct net_look l;

	return net_look_udp(r->conn.space, &r->conn.net, &l) || !l.unread;
}

/* Is that the address of the family's socket? Of one that is bound to any, each is. */
static bool is_from(const struct relay *r, const void *addr, bool four)
{
	union addr u = addr_of(r->conn.net.local);

	if (u.sa.sa_family == AF_INET)
		return four && (!u.in.sin_addr.s_addr || !memcmp(&u.in.sin_addr, addr, 4));
	if (IN6_IS_ADDR_UNSPECIFIED(&u.in6.sin6_addr))
		return true;
	return four == is_mapped(&u) && !memcmp(four ? &u.in6.sin6_addr.s6_addr[12] : u.in6.sin6_addr.s6_addr, addr, four ? 4 : 16);
}

/* A packet of the space: sent by the family's socket? Its destination as that socket names it. */
static bool seen4(const struct relay *r, const char *buf, size_t n, union addr *to, size_t *head)
{
	struct iphdr ip;
	struct udphdr udp;

	if (n < sizeof(ip) + sizeof(udp))
		return false;
	memcpy(&ip, buf, sizeof(ip));
	*head = ip.ihl * 4u + sizeof(udp);
	if (ip.ttl == OUR_HOPS || n < *head)
		return false;
	memcpy(&udp, buf + ip.ihl * 4, sizeof(udp));
	if (ntohs(udp.source) != net_port(r->conn.net.local) || !is_from(r, &ip.saddr, true))
		return false;
	*to = (union addr){ 0 };
	if (r->conn.net.domain == AF_INET) {
		to->in = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = udp.dest, .sin_addr.s_addr = ip.daddr };
		return true;
	}
	to->in6 = (struct sockaddr_in6){ .sin6_family = AF_INET6, .sin6_port = udp.dest };
	to->in6.sin6_addr.s6_addr[10] = to->in6.sin6_addr.s6_addr[11] = 0xff;
	memcpy(&to->in6.sin6_addr.s6_addr[12], &ip.daddr, 4);
	return true;
}

static bool seen6(const struct relay *r, struct msghdr *m, const char *buf, size_t n, const struct in6_addr *from, union addr *to, size_t *head)
{
	struct in6_pktinfo info = { 0 };
	struct udphdr udp;
	int hops = OUR_HOPS;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c))
		if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO)
			memcpy(&info, CMSG_DATA(c), sizeof(info));
		else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_HOPLIMIT)
			memcpy(&hops, CMSG_DATA(c), sizeof(hops));
	if (n < sizeof(udp) || hops == OUR_HOPS)
		return false;
	memcpy(&udp, buf, sizeof(udp));
	*head = sizeof(udp);
	*to = (union addr){ 0 };
	to->in6 = (struct sockaddr_in6){ .sin6_family = AF_INET6, .sin6_port = udp.dest, .sin6_addr = info.ipi6_addr };
	return ntohs(udp.source) == net_port(r->conn.net.local) && is_from(r, from, false);
}

static void hear(struct relay_hub *h, struct relay *r, int i)
{
	char control[128] __attribute__((aligned(8))), *at = buffer + sizeof(struct packet);

	for (int k = 0; k < AT_ONCE && h->nout < QUEUE_MAX; k++) {
		struct iovec v = { at, sizeof(buffer) - sizeof(struct packet) };
		struct sockaddr_in6 from = { 0 };
		struct msghdr m = { .msg_name = &from, .msg_namelen = sizeof(from), .msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
		union addr to;
		size_t head;
		ssize_t n;

		pthread_mutex_lock(&buffer_lock);
		n = recvmsg(r->conn.raw[i], &m, MSG_DONTWAIT);
		if (n > 0 && (i ? seen6(r, &m, at, (size_t)n, &from.sin6_addr, &to, &head) : seen4(r, at, (size_t)n, &to, &head))) {
			memcpy(buffer + head, to.raw, sizeof(struct packet)); /* just in front of what it says */
			hub_queue(h, r->id, RF_PACKET, 0, buffer + head, (size_t)n - head + sizeof(struct packet));
		}
		pthread_mutex_unlock(&buffer_lock);
		if (n < 0)
			return;
	}
}

/* Says it to the family's socket in its sender's name. */
static void say(const struct relay *r, const union addr *from, const char *data, size_t len)
{
	union addr local = addr_of(r->conn.net.local);
	bool four = from->sa.sa_family == AF_INET || is_mapped(from);
	struct udphdr udp = { .source = from->in.sin_port, .dest = local.in.sin_port, .len = htons((uint16_t)(sizeof(udp) + len)) };
	union {
		struct cmsghdr h;
		char buf[CMSG_SPACE(sizeof(struct in6_pktinfo))];
	} c = { .h.cmsg_level = four ? IPPROTO_IP : IPPROTO_IPV6, .h.cmsg_type = four ? IP_PKTINFO : IPV6_PKTINFO };
	struct iovec v[2] = { { &udp, sizeof(udp) }, { (void *)data, len } };
	struct sockaddr_in to4 = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr_in6 to6 = { .sin6_family = AF_INET6, .sin6_addr = in6addr_loopback };
	struct msghdr m = { .msg_iov = v, .msg_iovlen = 2, .msg_control = &c };

	if (four) {
		struct in_pktinfo info = { 0 };

		memcpy(&info.ipi_spec_dst, from->sa.sa_family == AF_INET ? (const void *)&from->in.sin_addr : &from->in6.sin6_addr.s6_addr[12], 4);
		if (local.sa.sa_family == AF_INET && local.in.sin_addr.s_addr)
			to4.sin_addr = local.in.sin_addr;
		else if (is_mapped(&local))
			memcpy(&to4.sin_addr, &local.in6.sin6_addr.s6_addr[12], 4);
		memcpy(CMSG_DATA(&c.h), &info, sizeof(info));
		c.h.cmsg_len = CMSG_LEN(sizeof(info));
		m.msg_name = &to4;
		m.msg_namelen = sizeof(to4);
	} else {
		struct in6_pktinfo info = { .ipi6_addr = from->in6.sin6_addr };

		if (!IN6_IS_ADDR_UNSPECIFIED(&local.in6.sin6_addr))
			to6.sin6_addr = local.in6.sin6_addr;
		memcpy(CMSG_DATA(&c.h), &info, sizeof(info));
		c.h.cmsg_len = CMSG_LEN(sizeof(info));
		m.msg_name = &to6;
		m.msg_namelen = sizeof(to6);
	}
	m.msg_controllen = CMSG_SPACE(four ? sizeof(struct in_pktinfo) : sizeof(struct in6_pktinfo));
	if (sendmsg(r->conn.raw[!four], &m, MSG_DONTWAIT) < 0)
		log_debug("a packet to a guest: %s", strerror(errno));
}

/* ---- home ---- */

static void take(struct relay_hub *h, struct relay *r)
{
	for (int k = 0; k < AT_ONCE && h->nout < QUEUE_MAX; k++) {
		union addr from = { 0 };
		socklen_t len = sizeof(from);
		ssize_t n;

		pthread_mutex_lock(&buffer_lock);
		n = recvfrom(r->original, buffer + sizeof(struct packet), sizeof(buffer) - sizeof(struct packet), MSG_DONTWAIT, &from.sa, &len);
		if (n >= 0) {
			memcpy(buffer, from.raw, sizeof(struct packet));
			hub_queue(h, r->id, RF_PACKET, 0, buffer, sizeof(struct packet) + (size_t)n);
		}
		pthread_mutex_unlock(&buffer_lock);
		if (n < 0)
			return; /* an error that the network told of: the family is not told */
	}
}

/* ---- both ---- */

void udp_step(struct relay_hub *h, struct relay *r)
{
	if (r->hello_due)
		return;
	if (h->home) {
		if (r->conn.here && r->conn.room)
			take(h, r);
		return;
	}
	for (int i = 0; i < 2; i++)
		if (r->conn.raw[i])
			hear(h, r, i);
}

int udp_input(struct relay_hub *h, struct relay *r, const struct relay_frame *f)
{
	union addr peer;
	const char *data = (const char *)f->data + sizeof(struct packet);
	size_t len = f->len - sizeof(struct packet);

	if (r->kind != RELAY_UDP || f->len < sizeof(struct packet))
		return -EPROTO;
	peer = addr_of(f->data);
	if (peer.sa.sa_family != AF_INET && peer.sa.sa_family != AF_INET6)
		return -EPROTO;
	if (!h->home && !r->conn.over && (peer.sa.sa_family == r->conn.net.domain || peer.sa.sa_family == AF_INET))
		say(r, &peer, data, len);
	else if (h->home && sendto(r->original, data, len, MSG_DONTWAIT | MSG_NOSIGNAL, &peer.sa, peer.sa.sa_family == AF_INET ? sizeof(peer.in) : sizeof(peer.in6)) < 0)
		log_debug("a packet of a guest: %s", strerror(errno));
	return 0;
}
