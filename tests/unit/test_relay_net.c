// SPDX-License-Identifier: Apache-2.0
/*
 * Sockets of the network in two relay hubs joined by a link that can break: the family's end has the names of the true one, each byte comes once, ends are ends and breaks
 * are breaks, connections that come in are accepted once, and nothing is left in either hub. Needs root: network namespaces.
 */
#include <CUnit/Basic.h>
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "tests/unit/relay_kit.h"

/* The family arrives on another host. */
static void new_guest(void)
{
	hub_down(home); /* nobody brings frames any more */
	if (guest) {
		hub_down(guest);
		hub_free(guest);
	}
	CU_ASSERT_EQUAL_FATAL(hub_new(false, &guest), 0);
	hub_reset(home, ++gen);
}

static void setup(void)
{
	guest = NULL;
	CU_ASSERT_EQUAL_FATAL(hub_new(true, &home), 0);
}

static int listener(int domain, struct sockaddr_storage *a)
{
	int fd = socket(domain, SOCK_STREAM, 0), on = 1;
	socklen_t n = sizeof(*a);

	memset(a, 0, sizeof(*a));
	a->ss_family = (sa_family_t)domain;
	if (domain == AF_INET)
		((struct sockaddr_in *)a)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	else
		((struct sockaddr_in6 *)a)->sin6_addr = in6addr_loopback;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	CU_ASSERT_EQUAL_FATAL(bind(fd, (struct sockaddr *)a, domain == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6)), 0);
	CU_ASSERT_EQUAL_FATAL(listen(fd, 5), 0);
	CU_ASSERT_EQUAL(getsockname(fd, (struct sockaddr *)a, &n), 0);
	return fd;
}

static int connected(const struct sockaddr_storage *a)
{
	int fd = socket(a->ss_family, SOCK_STREAM, 0), one = 1;

	CU_ASSERT_EQUAL_FATAL(connect(fd, (const struct sockaddr *)a, a->ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6)), 0);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

static void same_names(int a, int b)
{
	struct sockaddr_storage x[2] = { 0 }, y[2] = { 0 };
	socklen_t n = sizeof(x[0]);

	CU_ASSERT_EQUAL(getsockname(a, (struct sockaddr *)&x[0], &n), 0);
	n = sizeof(x[0]);
	CU_ASSERT_EQUAL(getpeername(a, (struct sockaddr *)&x[1], &n), 0);
	n = sizeof(x[0]);
	CU_ASSERT_EQUAL(getsockname(b, (struct sockaddr *)&y[0], &n), 0);
	n = sizeof(x[0]);
	CU_ASSERT_EQUAL(getpeername(b, (struct sockaddr *)&y[1], &n), 0);
	CU_ASSERT_EQUAL(memcmp(x, y, sizeof(x)), 0);
}

/* true: the family's socket; ours: who it is connected to. Away at once, under number id. Returns the family's end. */
static int away(int truly, uint64_t id)
{
	struct relay_net net;
	int fd;

	CU_ASSERT_EQUAL_FATAL(net_of(truly, &net), 0);
	fd = hub_make(guest, id, RELAY_TCP, &net);
	CU_ASSERT_FATAL(fd >= 0);
	return fd;
}

static bool empty(struct relay_hub *h)
{
	for (int i = 0; i < 500 && hub_count(h); i++)
		poll(NULL, 0, 10);
	return !hub_count(h);
}

static bool says(int fd, const char *what)
{
	char buf[256];
	size_t n = 0, len = strlen(what);

	while (n < len) {
		struct pollfd p = { fd, POLLIN, 0 };
		ssize_t k = poll(&p, 1, 10000) == 1 ? recv(fd, buf + n, len - n, 0) : -1;

		if (k <= 0)
			return false;
		n += (size_t)k;
	}
	return !memcmp(buf, what, len);
}

/* What comes at the end: 0, or an error. */
static int end_of(int fd)
{
	struct pollfd p = { fd, POLLIN, 0 };
	char buf[65536];
	ssize_t n;

	while ((n = poll(&p, 1, 10000) == 1 ? recv(fd, buf, sizeof(buf), 0) : (errno = ETIMEDOUT, -1)) > 0)
		;
	return n ? errno : 0;
}

static void one_connection(int domain)
{
	struct sockaddr_storage a;
	int l = listener(domain, &a), far = connected(&a), truly = accept(l, NULL, NULL), fam;

	setup();
	CU_ASSERT_EQUAL(hub_add(home, 1, RELAY_TCP, dup(truly), getpid()), 0);
	new_guest();
	fam = away(truly, 1);
	same_names(truly, fam);
	join(-1, -1);
	CU_ASSERT_EQUAL(write(far, "hello", 5), 5);
	CU_ASSERT(says(fam, "hello"));
	CU_ASSERT_EQUAL(write(fam, "answer", 6), 6);
	CU_ASSERT(says(far, "answer"));
	/* On, with something unread and something half said, then home. */
	CU_ASSERT_EQUAL(write(far, "unread", 6), 6);
	CU_ASSERT(says(fam, "un"));
	CU_ASSERT_EQUAL(write(fam, "last", 4), 4);
	CU_ASSERT_EQUAL(hub_quiesce(guest, 5000), 0);
	hub_down(guest); /* before the copy there is given up its home has cut the link */
	close(fam);
	new_guest();
	fam = away(truly, 1);
	same_names(truly, fam);
	join(-1, -1);
	CU_ASSERT(says(far, "last"));
	CU_ASSERT(says(fam, "re"));
	CU_ASSERT_EQUAL(hub_quiesce(guest, 5000), 0);
	hub_down(guest);
	hub_down(home);
	close(fam);
	close(hub_original(home, 1));
	teardown();
	CU_ASSERT(says(truly, "ad"));
	CU_ASSERT_EQUAL(write(truly, "back", 4), 4);
	CU_ASSERT(says(far, "back"));
	close(truly);
	close(far);
	close(l);
}

static void test_connection(void)
{
	one_connection(AF_INET);
	one_connection(AF_INET6);
}

struct flow {
	int fd;
	size_t total;
};

static void *write_pattern(void *arg)
{
	struct flow *w = arg;
	unsigned char buf[5000];

	for (size_t n = 0; n < w->total;) {
		size_t k = w->total - n < sizeof(buf) ? w->total - n : sizeof(buf);
		ssize_t r;

		for (size_t i = 0; i < k; i++)
			buf[i] = (unsigned char)((n + i) * 31 >> 3);
		r = write(w->fd, buf, k);
		if (r <= 0)
			break;
		n += (size_t)r;
	}
	shutdown(w->fd, SHUT_WR);
	return NULL;
}

/* As much as there is now. false: nothing more will come. */
static bool read_pattern(int fd, size_t *n)
{
	unsigned char buf[70000];
	ssize_t r = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);

	if (r <= 0)
		return r < 0 && errno == EAGAIN;
	for (ssize_t i = 0; i < r; i++)
		if (buf[i] != (unsigned char)((*n + (size_t)i) * 31 >> 3)) {
			CU_FAIL("a byte is not the one that was sent");
			return false;
		}
	*n += (size_t)r;
	return true;
}

/* Both ways at once, over a link that breaks all the time, and between hosts; both ends shut down at the end. */
static void test_breaks(void)
{
	const size_t total = 3 << 20;
	struct sockaddr_storage a;
	int l = listener(AF_INET, &a), far = connected(&a), truly = accept(l, NULL, NULL), fam;
	bool in_open = true, out_open = true;
	struct flow w = { far, total }, x;
	size_t in = 0, out = 0;
	pthread_t t, u;

	setup();
	CU_ASSERT_EQUAL(hub_add(home, 1, RELAY_TCP, truly, getpid()), 0);
	new_guest();
	fam = away(far, 1); /* names do not matter here */
	x = (struct flow){ fam, total };
	pthread_create(&t, NULL, write_pattern, &w);
	pthread_create(&u, NULL, write_pattern, &x);
	for (int i = 0; i < 3000 && (in_open || out_open); i++) {
		struct pollfd q[2] = { { in_open ? fam : -1, POLLIN, 0 }, { out_open ? far : -1, POLLIN, 0 } };

		if (i % 3 == 0)
			join(6 + i % 5, 5 + i % 9);
		poll(q, 2, 20);
		if (in_open && q[0].revents)
			in_open = read_pattern(fam, &in);
		if (out_open && q[1].revents)
			out_open = read_pattern(far, &out);
	}
	join(-1, -1);
	while (in_open || out_open) {
		struct pollfd q[2] = { { in_open ? fam : -1, POLLIN, 0 }, { out_open ? far : -1, POLLIN, 0 } };

		if (poll(q, 2, 10000) < 1)
			break;
		if (in_open && q[0].revents)
			in_open = read_pattern(fam, &in);
		if (out_open && q[1].revents)
			out_open = read_pattern(far, &out);
	}
	CU_ASSERT_EQUAL(in, total);
	CU_ASSERT_EQUAL(out, total);
	pthread_join(t, NULL);
	pthread_join(u, NULL);
	CU_ASSERT(empty(guest) && empty(home));
	close(fam);
	close(far);
	close(l);
	teardown();
}

static void set_break(int fd)
{
	struct linger g = { .l_onoff = 1 };

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &g, sizeof(g));
}

/* Who ends it, and how: the other sees the same. */
static void one_end(bool family, bool breaks, bool unread)
{
	struct sockaddr_storage a;
	int l = listener(AF_INET, &a), far = connected(&a), truly = accept(l, NULL, NULL), fam;

	setup();
	CU_ASSERT_EQUAL(hub_add(home, 1, RELAY_TCP, dup(truly), getpid()), 0);
	new_guest();
	fam = away(truly, 1);
	close(truly);
	join(-1, -1);
	CU_ASSERT_EQUAL(write(family ? fam : far, "word", 4), 4);
	if (unread) {
		CU_ASSERT_EQUAL(write(family ? far : fam, "nobody reads it", 15), 15);
		CU_ASSERT_EQUAL(poll(&(struct pollfd){ family ? fam : far, POLLIN, 0 }, 1, 10000), 1);
	}
	CU_ASSERT(says(family ? far : fam, "word"));
	if (breaks)
		set_break(family ? fam : far);
	close(family ? fam : far);
	CU_ASSERT_EQUAL(end_of(family ? far : fam), breaks || unread ? ECONNRESET : 0);
	if (!breaks && !unread) { /* the other direction: what is said to who has gone breaks it, at the second word at the latest */
		int rest = family ? far : fam, err = 0;

		for (int i = 0; i < 500 && !err; i++) {
			err = send(rest, "x", 1, MSG_NOSIGNAL) < 0 ? errno : 0;
			poll(NULL, 0, 10);
		}
		CU_ASSERT(err == EPIPE || err == ECONNRESET);
	}
	close(family ? far : fam);
	CU_ASSERT(empty(guest) && empty(home));
	close(l);
	teardown();
}

static void test_ends(void)
{
	for (int i = 0; i < 8; i++)
		one_end(i & 1, i & 2, i & 4);
}

/* fd where connections come in, away. */
static int away_listener(int l)
{
	struct relay_net net;
	int fd;

	CU_ASSERT_EQUAL_FATAL(net_of(l, &net), 0);
	net.backlog = 5;
	fd = hub_make(guest, 1, RELAY_LISTEN, &net);
	CU_ASSERT_FATAL(fd >= 0);
	return fd;
}

static bool readable(int fd)
{
	return poll(&(struct pollfd){ fd, POLLIN, 0 }, 1, 10000) == 1;
}

static void test_listen(void)
{
	struct sockaddr_storage a, b = { 0 };
	int l = listener(AF_INET, &a), fam, far[10], got[10];
	socklen_t n = sizeof(b);

	setup();
	CU_ASSERT_EQUAL(hub_add(home, 1, RELAY_LISTEN, dup(l), getpid()), 0);
	new_guest();
	fam = away_listener(l);
	CU_ASSERT_EQUAL(getsockname(fam, (struct sockaddr *)&b, &n), 0);
	CU_ASSERT_EQUAL(memcmp(&a, &b, sizeof(struct sockaddr_in)), 0);
	for (int i = 0; i < 10; i++) {
		join(i % 3 ? -1 : 3 + i, -1); /* the link breaks about when it comes in */
		far[i] = connected(&a);
		CU_ASSERT_EQUAL(write(far[i], "hi", 2), 2);
		if (!(i % 3))
			join(-1, -1);
		CU_ASSERT_FATAL(readable(fam));
		got[i] = accept(fam, NULL, NULL);
		CU_ASSERT_FATAL(got[i] >= 0);
	}
	for (int i = 0; i < 10; i++) { /* which of them is which, its name says; what it says is right */
		struct sockaddr_in me = { 0 }, peer = { 0 };
		int k;

		n = sizeof(me);
		getsockname(far[i], (struct sockaddr *)&me, &n);
		for (k = 0; k < 10; k++) {
			n = sizeof(peer);
			getpeername(got[k], (struct sockaddr *)&peer, &n);
			if (peer.sin_port == me.sin_port)
				break;
		}
		CU_ASSERT_FATAL(k < 10);
		CU_ASSERT(says(got[k], "hi"));
		CU_ASSERT_EQUAL(write(got[k], "you", 3), 3);
		CU_ASSERT(says(far[i], "you"));
	}
	CU_ASSERT_EQUAL(hub_hold(guest, 5000), 0);
	far[0] = (close(far[0]), connected(&a)); /* waits at home */
	CU_ASSERT_EQUAL(poll(&(struct pollfd){ fam, POLLIN, 0 }, 1, 300), 0);
	hub_resume(guest);
	CU_ASSERT(readable(fam));
	CU_ASSERT_EQUAL(hub_hold(guest, 300), -EBUSY); /* it has come, and is not accepted */
	hub_resume(guest);
	close(got[0]);
	got[0] = accept(fam, NULL, NULL);
	for (int i = 1; i < 10; i++) {
		close(far[i]);
		CU_ASSERT_EQUAL(end_of(got[i]), 0);
		close(got[i]);
	}
	close(far[0]);
	CU_ASSERT_EQUAL(end_of(got[0]), 0);
	close(got[0]);
	for (int i = 0; i < 500 && (hub_count(home) > 1 || hub_count(guest) > 1); i++)
		poll(NULL, 0, 10);
	CU_ASSERT_EQUAL(hub_count(home), 1);
	CU_ASSERT_EQUAL(hub_count(guest), 1);
	close(fam);
	CU_ASSERT(empty(guest) && empty(home));
	close(l);
	teardown();
}

/* One that was not accepted is offered to the next host, one that was is not; one that was closed is closed, one that the next host does not know breaks. */
static void listen_on(bool closes)
{
	struct sockaddr_storage a;
	int l = listener(AF_INET, &a), fam, far[3], got, last, again;

	setup();
	CU_ASSERT_EQUAL(hub_add(home, 1, RELAY_LISTEN, dup(l), getpid()), 0);
	new_guest();
	fam = away_listener(l);
	join(-1, -1);
	far[0] = connected(&a);
	CU_ASSERT_FATAL(readable(fam));
	got = accept(fam, NULL, NULL);
	CU_ASSERT_EQUAL(write(far[0], "one", 3), 3);
	CU_ASSERT(says(got, "one"));
	far[2] = connected(&a);
	CU_ASSERT_FATAL(readable(fam));
	far[1] = connected(&a);
	CU_ASSERT_EQUAL(write(far[1], "two", 3), 3);
	for (int i = 0; i < 500 && hub_count(guest) < 4; i++)
		poll(NULL, 0, 10);
	last = accept(fam, NULL, NULL); /* as the last thing it did */
	close(got);
	if (closes)
		close(last);
	CU_ASSERT_EQUAL(hub_quiesce(guest, 5000), 0);
	hub_down(guest);
	if (!closes) /* as if who kept it had been killed */
		close(last);
	close(fam);
	new_guest();
	fam = away_listener(l);
	join(-1, -1);
	CU_ASSERT_EQUAL(end_of(far[0]), 0);
	CU_ASSERT_EQUAL(end_of(far[2]), closes ? 0 : ECONNRESET);
	CU_ASSERT_FATAL(readable(fam));
	again = accept(fam, NULL, NULL);
	CU_ASSERT(says(again, "two"));
	CU_ASSERT_EQUAL(poll(&(struct pollfd){ fam, POLLIN, 0 }, 1, 200), 0);
	for (int i = 0; i < 3; i++)
		close(far[i]);
	CU_ASSERT_EQUAL(end_of(again), 0);
	close(again);
	close(fam);
	CU_ASSERT(empty(guest) && empty(home));
	close(l);
	teardown();
}

static void test_listen_on(void)
{
	listen_on(false);
	listen_on(true);
}

/* Both ends of one connection in the family, and many with one port. */
static void test_spaces(void)
{
	struct sockaddr_storage a;
	int l = listener(AF_INET, &a), far[20], truly[20], fam[21];

	setup();
	for (int i = 0; i < 20; i++) {
		far[i] = connected(&a);
		truly[i] = accept(l, NULL, NULL);
		CU_ASSERT_EQUAL(hub_add(home, 2 + i, RELAY_TCP, dup(truly[i]), getpid()), 0);
	}
	CU_ASSERT_EQUAL(hub_add(home, 30, RELAY_TCP, dup(far[0]), getpid()), 0);
	CU_ASSERT_EQUAL(hub_add(home, 1, RELAY_LISTEN, dup(l), getpid()), 0);
	new_guest();
	fam[20] = away(far[0], 30);
	for (int i = 0; i < 20; i++)
		fam[i] = away(truly[i], 2 + i);
	int f = away_listener(l);

	join(-1, -1);
	CU_ASSERT_EQUAL(write(fam[20], "self", 4), 4);
	CU_ASSERT(says(fam[0], "self"));
	for (int i = 1; i < 20; i++) {
		CU_ASSERT_EQUAL(write(far[i], &"0123456789abcdefghijk"[i], 1), 1);
		CU_ASSERT(says(fam[i], (char[]){ "0123456789abcdefghijk"[i], 0 }));
	}
	for (int i = 0; i < 20; i++) {
		close(far[i]);
		close(truly[i]);
	}
	for (int i = 0; i < 21; i++)
		close(fam[i]);
	close(f);
	CU_ASSERT(empty(guest) && empty(home));
	close(l);
	teardown();
}

/* As many at one place as the engine lets come (ENG_NET_PLACES), and not one more. */
static void test_full(void)
{
	struct sockaddr_storage a;
	int l = listener(AF_INET, &a), fam[RELAY_SPACES];
	struct relay_net net;

	setup();
	new_guest();
	CU_ASSERT_EQUAL_FATAL(net_of(l, &net), 0);
	net.backlog = 5;
	for (int i = 0; i < RELAY_SPACES; i++) {
		fam[i] = hub_make(guest, 1 + i, RELAY_LISTEN, &net);
		CU_ASSERT(fam[i] >= 0);
	}
	CU_ASSERT_EQUAL(hub_make(guest, 100, RELAY_LISTEN, &net), -EADDRINUSE);
	for (int i = 0; i < RELAY_SPACES; i++)
		close(fam[i]);
	close(l);
	teardown();
}

/* ---- packets ---- */

static int packets(int domain, struct sockaddr_storage *a, socklen_t *len)
{
	int fd = socket(domain, SOCK_DGRAM, 0);

	memset(a, 0, sizeof(*a));
	a->ss_family = (sa_family_t)domain;
	if (domain == AF_INET)
		((struct sockaddr_in *)a)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	else
		((struct sockaddr_in6 *)a)->sin6_addr = in6addr_loopback;
	*len = domain == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
	CU_ASSERT_EQUAL_FATAL(bind(fd, (struct sockaddr *)a, *len), 0);
	CU_ASSERT_EQUAL(getsockname(fd, (struct sockaddr *)a, len), 0);
	return fd;
}

static int away_packets(int truly)
{
	struct relay_net net;
	int fd;

	CU_ASSERT_EQUAL_FATAL(net_of(truly, &net), 0);
	fd = hub_make(guest, 1, RELAY_UDP, &net);
	CU_ASSERT_FATAL(fd >= 0);
	return fd;
}

/* One packet, as it was sent, from who sent it. */
static bool packet(int fd, const struct sockaddr_storage *from, socklen_t len, const char *what, size_t n)
{
	static char buf[70000];
	struct sockaddr_storage a = { 0 };
	socklen_t got = sizeof(a);

	return readable(fd) && recvfrom(fd, buf, sizeof(buf), 0, (struct sockaddr *)&a, &got) == (ssize_t)n && !memcmp(buf, what, n) && got == len && !memcmp(&a, from, len);
}

static void one_udp(int domain)
{
	static char big[60000];
	struct sockaddr_storage a, b, c;
	socklen_t len;
	int truly = packets(domain, &a, &len), far = packets(domain, &b, &len), third = packets(domain, &c, &len), fam;

	setup();
	CU_ASSERT_EQUAL(hub_add(home, 1, RELAY_UDP, dup(truly), getpid()), 0);
	CU_ASSERT_EQUAL(sendto(far, "before", 6, 0, (struct sockaddr *)&a, len), 6);
	new_guest();
	fam = away_packets(truly);
	join(-1, -1);
	CU_ASSERT(packet(fam, &b, len, "before", 6));
	CU_ASSERT_EQUAL(sendto(far, "one", 3, 0, (struct sockaddr *)&a, len), 3);
	CU_ASSERT_EQUAL(sendto(far, "", 0, 0, (struct sockaddr *)&a, len), 0);
	CU_ASSERT_EQUAL(sendto(far, big, sizeof(big), 0, (struct sockaddr *)&a, len), sizeof(big));
	CU_ASSERT_EQUAL(sendto(third, "two", 3, 0, (struct sockaddr *)&a, len), 3);
	CU_ASSERT(packet(fam, &b, len, "one", 3));
	CU_ASSERT(packet(fam, &b, len, "", 0));
	CU_ASSERT(packet(fam, &b, len, big, sizeof(big)));
	CU_ASSERT(packet(fam, &c, len, "two", 3));
	CU_ASSERT_EQUAL(sendto(fam, "to third", 8, 0, (struct sockaddr *)&c, len), 8);
	CU_ASSERT_EQUAL(sendto(fam, big, sizeof(big), 0, (struct sockaddr *)&b, len), sizeof(big));
	CU_ASSERT_EQUAL(sendto(fam, "", 0, 0, (struct sockaddr *)&b, len), 0);
	CU_ASSERT(packet(third, &a, len, "to third", 8));
	CU_ASSERT(packet(far, &a, len, big, sizeof(big)));
	CU_ASSERT(packet(far, &a, len, "", 0));
	/* Before it goes on it reads what came; later ones wait at home. */
	CU_ASSERT_EQUAL(sendto(far, "last", 4, 0, (struct sockaddr *)&a, len), 4);
	CU_ASSERT(readable(fam));
	CU_ASSERT_EQUAL(recv(fam, big, 4, MSG_PEEK), 4);
	CU_ASSERT(packet(fam, &b, len, "last", 4));
	CU_ASSERT_EQUAL(hub_hold(guest, 5000), 0);
	CU_ASSERT_EQUAL(sendto(far, "later", 5, 0, (struct sockaddr *)&a, len), 5);
	CU_ASSERT_EQUAL(sendto(fam, "bye", 3, 0, (struct sockaddr *)&b, len), 3);
	CU_ASSERT_EQUAL(hub_quiesce(guest, 5000), 0);
	CU_ASSERT(packet(far, &a, len, "bye", 3));
	hub_down(guest);
	close(fam);
	/* Connected to one of them, on the next host: the other's are not for it. */
	CU_ASSERT_EQUAL(connect(truly, (struct sockaddr *)&b, len), 0);
	new_guest();
	fam = away_packets(truly);
	same_names(truly, fam);
	join(-1, -1);
	CU_ASSERT(packet(fam, &b, len, "later", 5));
	CU_ASSERT_EQUAL(send(fam, "word", 4, 0), 4);
	CU_ASSERT(packet(far, &a, len, "word", 4));
	CU_ASSERT_EQUAL(send(fam, "again", 5, 0), 5); /* nobody has said that there is no port */
	CU_ASSERT(packet(far, &a, len, "again", 5));
	CU_ASSERT_EQUAL(sendto(far, "yes", 3, 0, (struct sockaddr *)&a, len), 3);
	CU_ASSERT(packet(fam, &b, len, "yes", 3));
	close(fam);
	CU_ASSERT(empty(guest) && empty(home));
	close(truly);
	close(far);
	close(third);
	teardown();
}

static void test_udp(void)
{
	one_udp(AF_INET);
	one_udp(AF_INET6);
}

/* One of IPv6 that takes those of IPv4 too, bound to any address. */
static void test_udp_any(void)
{
	struct sockaddr_in6 any = { .sin6_family = AF_INET6 }, mapped = { .sin6_family = AF_INET6 };
	struct sockaddr_storage b, c;
	socklen_t len, len6, n = sizeof(any);
	int truly = socket(AF_INET6, SOCK_DGRAM, 0), far = packets(AF_INET, &b, &len), far6 = packets(AF_INET6, &c, &len6), fam;
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };

	setup();
	CU_ASSERT_EQUAL(bind(truly, (struct sockaddr *)&any, sizeof(any)), 0);
	getsockname(truly, (struct sockaddr *)&any, &n);
	to.sin_port = mapped.sin6_port = any.sin6_port;
	any.sin6_addr = in6addr_loopback;
	CU_ASSERT_EQUAL(hub_add(home, 1, RELAY_UDP, dup(truly), getpid()), 0);
	new_guest();
	fam = away_packets(truly);
	join(-1, -1);
	mapped.sin6_port = ((struct sockaddr_in *)&b)->sin_port;
	inet_pton(AF_INET6, "::ffff:127.0.0.1", &mapped.sin6_addr);
	CU_ASSERT_EQUAL(sendto(far, "four", 4, 0, (struct sockaddr *)&to, sizeof(to)), 4);
	CU_ASSERT(packet(fam, (struct sockaddr_storage *)&mapped, sizeof(mapped), "four", 4));
	CU_ASSERT_EQUAL(sendto(far6, "six", 3, 0, (struct sockaddr *)&any, sizeof(any)), 3);
	CU_ASSERT(packet(fam, &c, len6, "six", 3));
	CU_ASSERT_EQUAL(sendto(fam, "back", 4, 0, (struct sockaddr *)&mapped, sizeof(mapped)), 4);
	CU_ASSERT(packet(far, (struct sockaddr_storage *)&to, sizeof(to), "back", 4));
	CU_ASSERT_EQUAL(sendto(fam, "back6", 5, 0, (struct sockaddr *)&c, len6), 5);
	CU_ASSERT(packet(far6, (struct sockaddr_storage *)&any, sizeof(any), "back6", 5));
	close(fam);
	CU_ASSERT(empty(guest) && empty(home));
	close(truly);
	close(far);
	close(far6);
	teardown();
}

static int packets_at(uint32_t addr, uint16_t port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(addr), .sin_port = port };
	int fd = socket(AF_INET, SOCK_DGRAM, 0), on = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	CU_ASSERT_EQUAL_FATAL(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	return fd;
}

static bool silent(int fd)
{
	return poll(&(struct pollfd){ fd, POLLIN, 0 }, 1, 200) == 0;
}

/* What the family says is not heard by its own sockets on the way: one that talks to a peer at its own port, and two that talk to each other. */
static void test_udp_own(void)
{
	struct sockaddr_storage a, b;
	struct sockaddr_in to = { .sin_family = AF_INET };
	socklen_t n = sizeof(to), len;
	int any = packets_at(INADDR_ANY, 0), far, one = packets(AF_INET, &a, &len), two = packets(AF_INET, &b, &len), fam[3];
	struct relay_net net;
	char buf[20];

	getsockname(any, (struct sockaddr *)&to, &n);
	far = packets_at(INADDR_LOOPBACK + 1, to.sin_port);
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1);
	setup();
	CU_ASSERT_EQUAL(hub_add(home, 1, RELAY_UDP, dup(any), getpid()), 0);
	CU_ASSERT_EQUAL(hub_add(home, 2, RELAY_UDP, dup(one), getpid()), 0);
	CU_ASSERT_EQUAL(hub_add(home, 3, RELAY_UDP, dup(two), getpid()), 0);
	new_guest();
	for (int i = 0; i < 3; i++) {
		CU_ASSERT_EQUAL(net_of(i == 0 ? any : i == 1 ? one : two, &net), 0);
		fam[i] = hub_make(guest, 1 + (uint64_t)i, RELAY_UDP, &net);
		CU_ASSERT_FATAL(fam[i] >= 0);
	}
	join(-1, -1);
	CU_ASSERT_EQUAL(sendto(fam[0], "out", 3, 0, (struct sockaddr *)&to, sizeof(to)), 3);
	CU_ASSERT(readable(far));
	CU_ASSERT_EQUAL(recv(far, buf, sizeof(buf), MSG_DONTWAIT), 3);
	CU_ASSERT(silent(fam[0]) && silent(far));
	CU_ASSERT_EQUAL(sendto(fam[1], "over", 4, 0, (struct sockaddr *)&b, len), 4);
	CU_ASSERT(packet(fam[2], &a, len, "over", 4));
	CU_ASSERT(silent(fam[2]) && silent(fam[1]) && silent(fam[0]));
	for (int i = 0; i < 3; i++)
		close(fam[i]);
	CU_ASSERT(empty(guest) && empty(home));
	close(any);
	close(one);
	close(two);
	close(far);
	teardown();
}

/* A peer that lies. */
static void test_nonsense(void)
{
	struct relay_frame f = { .id = 1, .kind = RF_NEW, .data = "x", .len = 1 };
	int l, s[2];
	struct sockaddr_storage a;

	setup();
	l = listener(AF_INET, &a);
	CU_ASSERT_EQUAL(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
	CU_ASSERT_EQUAL(hub_add(home, 1, RELAY_LISTEN, l, getpid()), 0);
	CU_ASSERT_EQUAL(hub_add(home, 2, RELAY_SOCK, s[0], getpid()), 0);
	new_guest();
	for (int k = RF_NEW; k < RF_KINDS; k++) {
		f.kind = (enum relay_frame_kind)k;
		f.id = 2;
		CU_ASSERT_EQUAL(hub_input(home, NULL, &f), -EPROTO); /* of no socket of the network */
	}
	f.id = 1;
	f.kind = RF_NEW;
	CU_ASSERT_EQUAL(hub_input(home, NULL, &f), -EPROTO);
	CU_ASSERT_EQUAL(hub_input(guest, NULL, &f), -EPROTO);
	f.kind = RF_DATA;
	CU_ASSERT_EQUAL(hub_input(home, NULL, &f), -EPROTO);
	f.kind = RF_RESET;
	CU_ASSERT_EQUAL(hub_input(home, NULL, &f), -EPROTO);
	f.kind = RF_DONE;
	CU_ASSERT_EQUAL(hub_input(guest, NULL, &f), -EPROTO);
	f.id = 77;
	CU_ASSERT_EQUAL(hub_input(home, NULL, &f), 0);
	CU_ASSERT_EQUAL(hub_make(guest, 5, RELAY_TCP, &(struct relay_net){ .domain = AF_INET }), -EINVAL);
	CU_ASSERT_EQUAL(hub_count(guest), 0);
	close(s[1]);
	teardown();
}

int main(void)
{
	CU_pSuite s;
	unsigned failed;

	if (geteuid()) {
		puts("skipped: needs root");
		return 0;
	}
	signal(SIGPIPE, SIG_IGN);
	CU_initialize_registry();
	s = CU_add_suite("relay of the network", NULL, NULL);
	CU_add_test(s, "a connection: names, on and home", test_connection);
	CU_add_test(s, "both ways over a link that breaks", test_breaks);
	CU_add_test(s, "ends and breaks, both ways", test_ends);
	CU_add_test(s, "connections come in", test_listen);
	CU_add_test(s, "connections that came in, and the next host", test_listen_on);
	CU_add_test(s, "both ends in one family; many with one port", test_spaces);
	CU_add_test(s, "as many with one port as there are spaces", test_full);
	CU_add_test(s, "packets: borders, names, on", test_udp);
	CU_add_test(s, "packets: both families of addresses", test_udp_any);
	CU_add_test(s, "packets: the family does not hear itself", test_udp_own);
	CU_add_test(s, "nonsense", test_nonsense);
	CU_basic_run_tests();
	failed = CU_get_number_of_failures();
	CU_cleanup_registry();
	return failed != 0;
}
