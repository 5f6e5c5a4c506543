// SPDX-License-Identifier: Apache-2.0
/*
 * Two relay hubs, one as at home and one as on a guest host, joined by a link that can break after any frame. Whatever happens each byte
 * arrives once and in order, and what the family has not read over there is still in the pipe at home.
 */
#include <CUnit/Basic.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "tests/unit/relay_kit.h"

static void setup(void)
{
	gen = 0;
	CU_ASSERT_EQUAL_FATAL(hub_new(true, &home), 0);
	CU_ASSERT_EQUAL_FATAL(hub_new(false, &guest), 0);
}

static unsigned char byte_at(size_t i)
{
	uint64_t x = (i + 1) * 0x9e3779b97f4a7c15u;

	return (unsigned char)((x ^ x >> 29) * 0xbf58476d1ce4e5b9u >> 56);
}

struct writer {
	int fd;
	size_t n;
};

static void *write_pattern(void *arg)
{
	struct writer *w = arg;
	unsigned char buf[5000];
	unsigned seed = 3;

	for (size_t done = 0; done < w->n;) {
		size_t k = 1 + rand_r(&seed) % sizeof(buf);

		if (k > w->n - done)
			k = w->n - done;
		for (size_t i = 0; i < k; i++)
			buf[i] = byte_at(done + i);
		ssize_t r = write(w->fd, buf, k);
		if (r <= 0)
			break;
		done += r;
	}
	close(w->fd);
	return NULL;
}

/* Reads up to n bytes that must continue the pattern at *pos. Returns bytes, 0 at the end; gives up after 10 s. */
static size_t read_pattern(int fd, size_t n, size_t *pos)
{
	unsigned char buf[4096];
	size_t got = 0;

	while (got < n) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		size_t want = n - got < sizeof(buf) ? n - got : sizeof(buf);

		if (poll(&p, 1, 10000) <= 0) {
			CU_FAIL("nothing came for ten seconds");
			break;
		}
		ssize_t r = read(fd, buf, want);
		if (r <= 0)
			break;
		for (ssize_t i = 0; i < r; i++)
			if (buf[i] != byte_at(*pos + i)) {
				CU_FAIL("a byte is lost, doubled or out of order");
				return got;
			}
		*pos += r;
		got += r;
	}
	return got;
}

static void input_with_breaks(bool breaks)
{
	const size_t total = 1 << 20, away = 300000;
	int p[2], fam;
	size_t pos = 0;
	pthread_t t;

	setup();
	CU_ASSERT_EQUAL_FATAL(pipe(p), 0);
	CU_ASSERT_EQUAL(hub_add(home, 7, RELAY_IN, dup(p[0]), getpid()), 0);
	fam = hub_make(guest, 7, RELAY_IN, NULL);
	CU_ASSERT_FATAL(fam >= 0);
	struct writer w = { p[1], total };
	pthread_create(&t, NULL, write_pattern, &w);
	for (int i = 0; pos < away; i++) {
		join(breaks ? 3 + i % 5 : -1, breaks ? 2 + i % 7 : -1);
		while (pos < away) {
			struct pollfd q = { .fd = fam, .events = POLLIN };

			if (poll(&q, 1, breaks ? 30 : 10000) <= 0)
				break;
			char one[997];
			size_t want = away - pos < sizeof(one) ? away - pos : sizeof(one);
			ssize_t r = read(fam, one, want);
			for (ssize_t k = 0; k < r; k++)
				if ((unsigned char)one[k] != byte_at(pos + k))
					CU_FAIL_FATAL("a byte is lost, doubled or out of order");
			pos += r;
		}
	}
	join(-1, -1);
	CU_ASSERT_EQUAL(hub_quiesce(guest, 5000), 0);
	hub_down(guest);
	hub_down(home);
	close(fam);
	/* back home: the rest is in the pipe, with nothing missing between */
	CU_ASSERT_EQUAL(read_pattern(p[0], total, &pos), total - away);
	CU_ASSERT_EQUAL(pos, total);
	pthread_join(t, NULL);
	close(p[0]);
	teardown();
}

static void test_input(void)
{
	input_with_breaks(false);
}

static void test_input_breaks(void)
{
	input_with_breaks(true);
}

/* What is there, up to n bytes. */
static void read_some(int fd, size_t n, size_t *pos)
{
	unsigned char buf[4096];
	ssize_t r = read(fd, buf, n < sizeof(buf) ? n : sizeof(buf));

	for (ssize_t i = 0; i < r; i++)
		if (buf[i] != byte_at(*pos + i)) {
			CU_FAIL_FATAL("a byte is lost, doubled or out of order");
			return;
		}
	*pos += r > 0 ? r : 0;
}

static void output_with_breaks(bool breaks)
{
	const size_t total = 1 << 20;
	int p[2], fam;
	size_t pos = 0;
	pthread_t t;

	setup();
	CU_ASSERT_EQUAL_FATAL(pipe(p), 0);
	CU_ASSERT_EQUAL(hub_add(home, 1, RELAY_OUT, p[1], getpid()), 0);
	fam = hub_make(guest, 1, RELAY_OUT, NULL);
	CU_ASSERT_FATAL(fam >= 0);
	struct writer w = { fam, total };
	pthread_create(&t, NULL, write_pattern, &w);
	for (int i = 0; pos < total; i++) {
		join(breaks ? 4 + i % 5 : -1, breaks ? 3 + i % 9 : -1);
		for (;;) {
			struct pollfd q = { .fd = p[0], .events = POLLIN };

			if (poll(&q, 1, breaks ? 20 : 10000) <= 0)
				break;
			size_t was = pos;
			read_some(p[0], total - pos, &pos);
			if (pos == was || pos == total)
				break;
		}
		if (!breaks)
			break;
	}
	CU_ASSERT_EQUAL(pos, total);
	pthread_join(t, NULL);
	join(-1, -1); /* the end of file comes through as well, and the hub lets go of the original (our p[1]) only when freed */
	CU_ASSERT_EQUAL(hub_drain(guest, 5000), 0);
	teardown();
	CU_ASSERT_EQUAL(read_pattern(p[0], 1, &pos), 0);
	close(p[0]);
}

static void test_output(void)
{
	output_with_breaks(false);
}

static void test_output_breaks(void)
{
	output_with_breaks(true);
}

/* A socket, both ways at once, over a link that breaks; half closed at the end; then home with what was not read. */
static void test_socket_breaks(void)
{
	const size_t total = 1 << 20, away = 300000;
	size_t in = 0, out = 0;
	int s[2], fam;
	pthread_t t, u;

	setup();
	CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
	CU_ASSERT_EQUAL(hub_add(home, 3, RELAY_SOCK, dup(s[0]), getpid()), 0);
	fam = hub_make(guest, 3, RELAY_SOCK, NULL);
	CU_ASSERT_FATAL(fam >= 0);
	struct writer w = { dup(s[1]), total }, x = { dup(fam), total };
	pthread_create(&t, NULL, write_pattern, &w);
	pthread_create(&u, NULL, write_pattern, &x);
	for (int i = 0; in < away || out < total; i++) {
		struct pollfd q[2] = { { fam, in < away ? POLLIN : 0, 0 }, { out < total ? s[1] : -1, POLLIN, 0 } };

		join(4 + i % 5, 3 + i % 9);
		while (poll(q, 2, 20) > 0) {
			if (q[0].revents & POLLIN)
				read_some(fam, away - in, &in);
			if (q[1].revents & POLLIN)
				read_some(s[1], total - out, &out);
			q[0].events = in < away ? POLLIN : 0;
			q[1].fd = out < total ? s[1] : -1;
		}
	}
	CU_ASSERT_EQUAL(out, total);
	pthread_join(u, NULL);
	join(-1, -1);
	CU_ASSERT_EQUAL(shutdown(fam, SHUT_WR), 0);
	CU_ASSERT_EQUAL(read_pattern(s[1], 1, &out), 0); /* the end comes through, the other direction stays */
	CU_ASSERT_EQUAL(hub_quiesce(guest, 5000), 0);
	hub_down(guest);
	hub_down(home);
	close(fam);
	shutdown(s[1], SHUT_WR); /* the writer may be through or not */
	pthread_join(t, NULL);
	size_t left = read_pattern(s[0], total - in, &in);
	CU_ASSERT(left > 0); /* what was there, with nothing missing between */
	close(s[0]);
	close(s[1]);
	teardown();
}

static atomic_int held;

static void *hold_main(void *unused)
{
	int err = hub_hold(guest, 20000);

	(void)unused;
	held = err ? err : 1;
	return NULL;
}

/* A packet of some length that says which one it is. */
static size_t make_packet(unsigned char *buf, unsigned i)
{
	size_t n = i % 7 == 3 ? 0 : i % 11 == 5 ? 50000 : i % 300 + 4;

	memset(buf, (int)i, n);
	if (n)
		memcpy(buf, &i, sizeof(i));
	return n;
}

static bool take_packet(int fd, unsigned i)
{
	static unsigned char want[60000], got[60000];
	struct pollfd p = { fd, POLLIN, 0 };
	size_t n = make_packet(want, i);

	return poll(&p, 1, 10000) == 1 && recv(fd, got, sizeof(got), MSG_DONTWAIT) == (ssize_t)n && !memcmp(want, got, n);
}

static void *send_packets(void *arg)
{
	struct writer *w = arg;
	unsigned char buf[60000];

	for (unsigned i = 0; i < w->n; i++)
		if (send(w->fd, buf, make_packet(buf, i), 0) < 0)
			break;
	return NULL;
}

/* Packets keep their borders, both ways, over a link that breaks and to the next host; home takes none while it is not asked to. */
static void test_packets(void)
{
	enum { PACKETS = 200, AWAY = 120 };
	unsigned char buf[60000];
	unsigned in = 0, out = 0;
	pthread_t t, u;
	int s[2], fam;

	setup();
	CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s), 0);
	CU_ASSERT_EQUAL(hub_add(home, 3, RELAY_SEQ, dup(s[0]), getpid()), 0);
	fam = hub_make(guest, 3, RELAY_SEQ, NULL);
	CU_ASSERT_FATAL(fam >= 0);
	struct writer w = { dup(s[1]), PACKETS }, x = { dup(fam), PACKETS };
	pthread_create(&t, NULL, send_packets, &w);
	pthread_create(&u, NULL, send_packets, &x);
	for (int i = 0; in < AWAY || out < PACKETS; i++) {
		struct pollfd q[2] = { { in < AWAY ? fam : -1, POLLIN, 0 }, { out < PACKETS ? s[1] : -1, POLLIN, 0 } };

		if (i % 20 == 0)
			join(6 + i % 5, 5 + i % 9);
		if (poll(q, 2, 20) < 1)
			continue;
		if (q[0].revents)
			CU_ASSERT_FATAL(take_packet(fam, in++));
		if (q[1].revents)
			CU_ASSERT_FATAL(take_packet(s[1], out++));
	}
	pthread_join(u, NULL);
	join(-1, -1);
	CU_ASSERT_EQUAL(hub_hold(guest, 500), -EAGAIN); /* it does not read */
	hub_resume(guest);
	CU_ASSERT_EQUAL(poll(&(struct pollfd){ fam, POLLIN, 0 }, 1, 10000), 1);
	pthread_create(&u, NULL, hold_main, NULL);
	while (!held) /* it reads on until nothing comes any more */
		if (poll(&(struct pollfd){ fam, POLLIN, 0 }, 1, 20) == 1)
			CU_ASSERT_FATAL(take_packet(fam, in++));
	pthread_join(u, NULL);
	CU_ASSERT_EQUAL(held, 1);
	CU_ASSERT_EQUAL(hub_quiesce(guest, 5000), 0);
	hub_down(guest);
	hub_down(home);
	close(fam);
	while (in < PACKETS && take_packet(s[0], in))
		in++;
	pthread_join(t, NULL);
	CU_ASSERT_EQUAL(in, PACKETS);
	CU_ASSERT_EQUAL(recv(s[0], buf, sizeof(buf), MSG_DONTWAIT), -1);
	close(s[0]);
	close(s[1]);
	close(x.fd);
	close(w.fd);
	teardown();
}

/* It reads some of its input and ends at once: the rest, and only that, is still there. */
static void test_reader_ends(void)
{
	char buf[8] = "";
	int p[2], fam;

	for (int i = 0; i < 50; i++) {
		struct pollfd q;

		setup();
		CU_ASSERT_EQUAL_FATAL(pipe2(p, O_NONBLOCK), 0);
		CU_ASSERT_EQUAL(hub_add(home, 1, RELAY_IN, dup(p[0]), getpid()), 0);
		fam = hub_make(guest, 1, RELAY_IN, NULL);
		join(-1, -1);
		CU_ASSERT_EQUAL(write(p[1], "abcdef", 6), 6);
		q = (struct pollfd){ fam, POLLIN, 0 };
		CU_ASSERT_EQUAL(poll(&q, 1, 10000), 1);
		CU_ASSERT_EQUAL(read(fam, buf, 3), 3);
		close(fam);
		CU_ASSERT_EQUAL(hub_drain(guest, 5000), 0);
		hub_down(guest);
		hub_down(home);
		CU_ASSERT_EQUAL(read(p[0], buf, sizeof(buf)), 3);
		CU_ASSERT_EQUAL(memcmp(buf, "def", 3), 0);
		teardown();
		close(p[0]);
		close(p[1]);
	}
}

static void test_reader_gone(void)
{
	int p[2], fam;
	char junk[100] = "";
	ssize_t r = 0;

	setup();
	CU_ASSERT_EQUAL_FATAL(pipe(p), 0);
	CU_ASSERT_EQUAL(hub_add(home, 1, RELAY_OUT, p[1], getpid()), 0);
	fam = hub_make(guest, 1, RELAY_OUT, NULL);
	join(-1, -1);
	close(p[0]);
	for (int i = 0; i < 1000 && r >= 0; i++) {
		r = write(fam, junk, sizeof(junk));
		usleep(1000);
	}
	CU_ASSERT_EQUAL(r, -1);
	CU_ASSERT_EQUAL(errno, EPIPE);
	close(fam);
	teardown();
}

static void test_writer_gone(void)
{
	int p[2], fam;
	size_t pos = 0;

	setup();
	CU_ASSERT_EQUAL_FATAL(pipe(p), 0);
	CU_ASSERT_EQUAL(hub_add(home, 1, RELAY_IN, p[0], getpid()), 0);
	fam = hub_make(guest, 1, RELAY_IN, NULL);
	join(-1, -1);
	unsigned char b[3] = { byte_at(0), byte_at(1), byte_at(2) };
	CU_ASSERT_EQUAL(write(p[1], b, 3), 3);
	close(p[1]);
	CU_ASSERT_EQUAL(read_pattern(fam, 100, &pos), 3); /* and then end of file */
	close(fam);
	teardown();
}

/* Whoever held the ends at home was killed: what is there now knows nothing of them. */
static void test_home_lost(void)
{
	char junk[100] = "";
	int in, out;
	size_t pos = 0;
	ssize_t r = 0;

	setup();
	in = hub_make(guest, 1, RELAY_IN, NULL);
	out = hub_make(guest, 2, RELAY_OUT, NULL);
	join(-1, -1);
	CU_ASSERT_EQUAL(read_pattern(in, 1, &pos), 0);
	for (int i = 0; i < 10000 && r >= 0; i++) {
		r = write(out, junk, sizeof(junk));
		usleep(1000);
	}
	CU_ASSERT_EQUAL(r, -1);
	CU_ASSERT_EQUAL(errno, EPIPE);
	CU_ASSERT_EQUAL(hub_drain(guest, 5000), 0);
	close(in);
	close(out);
	teardown();
}

static void *drain_once(void *err)
{
	*(atomic_int *)err = hub_drain(guest, 30000);
	return NULL;
}

/* The drain for an end waits for what was written before it, not for what others write on and on. */
static void test_drain_while_written(void)
{
	struct writer w = { -1, SIZE_MAX };
	static char buf[1 << 16];
	atomic_int err = 1;
	struct pollfd q;
	pthread_t t, d;
	int p[2];

	setup();
	CU_ASSERT_EQUAL_FATAL(pipe(p), 0);
	CU_ASSERT_EQUAL(hub_add(home, 1, RELAY_OUT, p[1], getpid()), 0);
	w.fd = hub_make(guest, 1, RELAY_OUT, NULL);
	CU_ASSERT_FATAL(w.fd >= 0);
	join(-1, -1);
	CU_ASSERT_EQUAL(hub_drain(guest, 10000), 0);
	hub_down(home);
	hub_down(guest);
	CU_ASSERT_EQUAL(write(w.fd, "x", 1), 1);
	CU_ASSERT_EQUAL(hub_drain(guest, 50), -ENOTCONN); /* it is not with its reader, and the home cannot be reached */
	join(-1, -1);
	CU_ASSERT_EQUAL(hub_drain(guest, 10000), 0);
	CU_ASSERT_EQUAL(read(p[0], buf, 1), 1);
	pthread_create(&t, NULL, write_pattern, &w);
	pthread_create(&d, NULL, drain_once, &err);
	q = (struct pollfd){ .fd = p[0], .events = POLLIN };
	for (size_t n = 0; err == 1 || n < 1 << 20;) {
		ssize_t k = poll(&q, 1, 10000) > 0 ? read(p[0], buf, sizeof(buf)) : -1;

		if (k <= 0)
			break;
		n += k;
	}
	CU_ASSERT_EQUAL(err, 0); /* and the writer is not through */
	close(p[0]); /* it ends by EPIPE */
	pthread_join(t, NULL);
	pthread_join(d, NULL);
	teardown();
}

static void test_quiesce_waits_for_reader(void)
{
	int p[2], fam;
	static char block[300 << 10];

	setup();
	CU_ASSERT_EQUAL_FATAL(pipe(p), 0);
	CU_ASSERT_EQUAL(hub_add(home, 1, RELAY_OUT, p[1], getpid()), 0);
	fam = hub_make(guest, 1, RELAY_OUT, NULL);
	fcntl(fam, F_SETFL, O_NONBLOCK);
	join(-1, -1);
	for (size_t done = 0; done < 100 << 10;) {
		ssize_t r = write(fam, block, 4096);

		done += r > 0 ? r : 0;
		if (r < 0)
			usleep(1000);
	}
	CU_ASSERT_EQUAL(hub_quiesce(guest, 100), -ETIMEDOUT); /* the pipe at home holds 64 KiB and nobody reads */
	hub_resume(guest);
	CU_ASSERT_EQUAL(read(p[0], block, sizeof(block)), 64 << 10);
	CU_ASSERT_EQUAL(hub_quiesce(guest, 5000), 0);
	close(fam);
	teardown();
	close(p[0]);
}

static void test_second_generation(void)
{
	int p[2], q[2], fam;
	size_t pos = 0;

	setup();
	CU_ASSERT_EQUAL_FATAL(pipe(p), 0);
	CU_ASSERT_EQUAL_FATAL(pipe(q), 0);
	CU_ASSERT_EQUAL(hub_add(home, 1, RELAY_IN, p[0], getpid()), 0);
	CU_ASSERT_EQUAL(hub_add(home, 2, RELAY_OUT, q[1], getpid()), 0);
	unsigned char b[64];
	for (size_t i = 0; i < sizeof(b); i++)
		b[i] = byte_at(i);
	CU_ASSERT_EQUAL(write(p[1], b, sizeof(b)), sizeof(b));
	for (int round = 0; round < 4; round++) { /* guest to guest: each new one starts with what has not been read */
		fam = hub_make(guest, 1, RELAY_IN, NULL);
		int out = hub_make(guest, 2, RELAY_OUT, NULL);
		join(-1, -1);
		CU_ASSERT_EQUAL(read_pattern(fam, 10, &pos), 10);
		CU_ASSERT_EQUAL(write(out, b, 5), 5);
		CU_ASSERT_EQUAL(hub_quiesce(guest, 5000), 0);
		hub_down(guest);
		hub_down(home);
		close(fam);
		close(out);
		hub_free(guest);
		CU_ASSERT_EQUAL(hub_up(home, gen + 1, NULL), -ESTALE);
		hub_reset(home, ++gen);
		hub_reset(home, gen);
		CU_ASSERT_EQUAL_FATAL(hub_new(false, &guest), 0);
		char got[5];
		CU_ASSERT_EQUAL(read(q[0], got, 5), 5);
		CU_ASSERT_EQUAL(memcmp(got, b, 5), 0);
	}
	int orig = hub_original(home, 1);
	CU_ASSERT_EQUAL(read_pattern(orig, 24, &pos), 24);
	close(orig);
	CU_ASSERT_EQUAL(hub_original(home, 99), -ENOENT);
	teardown();
}

static void test_nonsense(void)
{
	struct relay_frame f = { .id = 1, .kind = RF_DATA, .offset = 5, .data = "x", .len = 1 };
	int p[2];

	setup();
	CU_ASSERT_EQUAL_FATAL(pipe(p), 0);
	CU_ASSERT_EQUAL(hub_add(home, 1, RELAY_OUT, p[1], getpid()), 0);
	CU_ASSERT_EQUAL(hub_input(home, &at_home, &f), -EPIPE); /* no link */
	join(-1, -1);
	CU_ASSERT_EQUAL(hub_input(home, &at_home, &f), -EPROTO); /* a gap */
	f.id = 2;
	CU_ASSERT_EQUAL(hub_input(home, &at_home, &f), -EPROTO); /* no such relay */
	f.id = 1;
	f.kind = RF_ACK;
	CU_ASSERT_EQUAL(hub_input(home, &at_home, &f), -EPROTO); /* home sends nothing on it */
	f.kind = RF_SYNCED;
	CU_ASSERT_EQUAL(hub_input(home, &at_home, &f), -EPROTO);
	f.kind = RF_TERMIOS;
	CU_ASSERT_EQUAL(hub_input(home, &at_home, &f), -EPROTO);
	f.kind = RF_KINDS;
	CU_ASSERT_EQUAL(hub_input(home, &at_home, &f), -EPROTO);
	close(p[0]);
	teardown();
}

int main(void)
{
	CU_pSuite s;

	signal(SIGPIPE, SIG_IGN);
	if (CU_initialize_registry() != CUE_SUCCESS)
		return 2;
	s = CU_add_suite("relay", NULL, NULL);
	CU_add_test(s, "input: what was not read over there is still here", test_input);
	CU_add_test(s, "input over a link that breaks", test_input_breaks);
	CU_add_test(s, "output in order", test_output);
	CU_add_test(s, "output over a link that breaks", test_output_breaks);
	CU_add_test(s, "a socket both ways, over a link that breaks", test_socket_breaks);
	CU_add_test(s, "who ends leaves what he has not read", test_reader_ends);
	CU_add_test(s, "packets of a socket keep their borders", test_packets);
	CU_add_test(s, "a reader at home goes: EPIPE over there", test_reader_gone);
	CU_add_test(s, "a writer at home goes: end of file over there", test_writer_gone);
	CU_add_test(s, "the home's ends are lost: as if nobody had them", test_home_lost);
	CU_add_test(s, "drain while others write on", test_drain_while_written);
	CU_add_test(s, "quiesce waits for a reader, not for ever", test_quiesce_waits_for_reader);
	CU_add_test(s, "generation after generation", test_second_generation);
	CU_add_test(s, "nonsense is refused", test_nonsense);
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	return CU_get_number_of_failures() ? 1 : 0;
}
