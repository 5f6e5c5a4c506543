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
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "migd/relay.h"

struct side {
	struct relay_hub *hub, *peer;
	int break_after; /* frames; < 0: never */
	bool broken;
};

static pthread_mutex_t joined = PTHREAD_MUTEX_INITIALIZER; /* held until both sides are up: a real link delivers nothing before */

static int pass(void *ctx, const struct relay_frame *f)
{
	struct side *s = ctx;

	pthread_mutex_lock(&joined);
	pthread_mutex_unlock(&joined);
	if (s->broken || s->break_after == 0) {
		s->broken = true;
		return -EPIPE;
	}
	if (s->break_after > 0)
		s->break_after--;
	CU_ASSERT_EQUAL(relay_input(s->peer, f), 0);
	return 0;
}

static struct relay_hub *home, *guest;
static struct side at_home, at_guest;

static void join(int break_home, int break_guest)
{
	relay_down(home);
	relay_down(guest);
	at_home = (struct side){ home, guest, break_home, false };
	at_guest = (struct side){ guest, home, break_guest, false };
	pthread_mutex_lock(&joined);
	CU_ASSERT_EQUAL(relay_up(home, &(struct relay_link){ pass, &at_home }), 0);
	CU_ASSERT_EQUAL(relay_up(guest, &(struct relay_link){ pass, &at_guest }), 0);
	pthread_mutex_unlock(&joined);
}

static void setup(void)
{
	CU_ASSERT_EQUAL_FATAL(relay_hub_new(true, &home), 0);
	CU_ASSERT_EQUAL_FATAL(relay_hub_new(false, &guest), 0);
}

static void teardown(void)
{
	relay_down(home); /* both, before either goes: they call into each other */
	relay_down(guest);
	relay_hub_free(home);
	relay_hub_free(guest);
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
	CU_ASSERT_EQUAL(relay_add(home, 7, RELAY_IN, dup(p[0]), getpid()), 0);
	fam = relay_make(guest, 7, RELAY_IN);
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
	CU_ASSERT_EQUAL(relay_quiesce(guest, 5000), 0);
	relay_down(guest);
	relay_down(home);
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

static void output_with_breaks(bool breaks)
{
	const size_t total = 1 << 20;
	int p[2], fam;
	size_t pos = 0;
	pthread_t t;

	setup();
	CU_ASSERT_EQUAL_FATAL(pipe(p), 0);
	CU_ASSERT_EQUAL(relay_add(home, 1, RELAY_OUT, p[1], getpid()), 0);
	fam = relay_make(guest, 1, RELAY_OUT);
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
			read_pattern(p[0], 1, &pos);
			if (pos == was || pos == total)
				break;
		}
		if (!breaks)
			break;
	}
	CU_ASSERT_EQUAL(pos, total);
	pthread_join(t, NULL);
	join(-1, -1); /* the end of file comes through as well, and the hub lets go of the original (our p[1]) only when freed */
	CU_ASSERT_EQUAL(relay_drain(guest, 5000), 0);
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

static void test_reader_gone(void)
{
	int p[2], fam;
	char junk[100] = "";
	ssize_t r = 0;

	setup();
	CU_ASSERT_EQUAL_FATAL(pipe(p), 0);
	CU_ASSERT_EQUAL(relay_add(home, 1, RELAY_OUT, p[1], getpid()), 0);
	fam = relay_make(guest, 1, RELAY_OUT);
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
	CU_ASSERT_EQUAL(relay_add(home, 1, RELAY_IN, p[0], getpid()), 0);
	fam = relay_make(guest, 1, RELAY_IN);
	join(-1, -1);
	unsigned char b[3] = { byte_at(0), byte_at(1), byte_at(2) };
	CU_ASSERT_EQUAL(write(p[1], b, 3), 3);
	close(p[1]);
	CU_ASSERT_EQUAL(read_pattern(fam, 100, &pos), 3); /* and then end of file */
	close(fam);
	teardown();
}

static void test_quiesce_waits_for_reader(void)
{
	int p[2], fam;
	static char block[300 << 10];

	setup();
	CU_ASSERT_EQUAL_FATAL(pipe(p), 0);
	CU_ASSERT_EQUAL(relay_add(home, 1, RELAY_OUT, p[1], getpid()), 0);
	fam = relay_make(guest, 1, RELAY_OUT);
	fcntl(fam, F_SETFL, O_NONBLOCK);
	join(-1, -1);
	for (size_t done = 0; done < 100 << 10;) {
		ssize_t r = write(fam, block, 4096);

		done += r > 0 ? r : 0;
		if (r < 0)
			usleep(1000);
	}
	CU_ASSERT_EQUAL(relay_quiesce(guest, 100), -ETIMEDOUT); /* the pipe at home holds 64 KiB and nobody reads */
	relay_resume(guest);
	CU_ASSERT_EQUAL(read(p[0], block, sizeof(block)), 64 << 10);
	CU_ASSERT_EQUAL(relay_quiesce(guest, 5000), 0);
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
	CU_ASSERT_EQUAL(relay_add(home, 1, RELAY_IN, p[0], getpid()), 0);
	CU_ASSERT_EQUAL(relay_add(home, 2, RELAY_OUT, q[1], getpid()), 0);
	unsigned char b[64];
	for (size_t i = 0; i < sizeof(b); i++)
		b[i] = byte_at(i);
	CU_ASSERT_EQUAL(write(p[1], b, sizeof(b)), sizeof(b));
	for (int gen = 0; gen < 4; gen++) { /* guest to guest: each new one starts with what has not been read */
		fam = relay_make(guest, 1, RELAY_IN);
		int out = relay_make(guest, 2, RELAY_OUT);
		join(-1, -1);
		CU_ASSERT_EQUAL(read_pattern(fam, 10, &pos), 10);
		CU_ASSERT_EQUAL(write(out, b, 5), 5);
		CU_ASSERT_EQUAL(relay_quiesce(guest, 5000), 0);
		relay_down(guest);
		relay_down(home);
		close(fam);
		close(out);
		relay_hub_free(guest);
		relay_reset(home);
		CU_ASSERT_EQUAL_FATAL(relay_hub_new(false, &guest), 0);
		char got[5];
		CU_ASSERT_EQUAL(read(q[0], got, 5), 5);
		CU_ASSERT_EQUAL(memcmp(got, b, 5), 0);
	}
	int orig = relay_original(home, 1);
	CU_ASSERT_EQUAL(read_pattern(orig, 24, &pos), 24);
	close(orig);
	CU_ASSERT_EQUAL(relay_original(home, 99), -ENOENT);
	teardown();
}

static void test_nonsense(void)
{
	struct relay_frame f = { .id = 1, .kind = RF_DATA, .offset = 5, .data = "x", .len = 1 };
	int p[2];

	setup();
	CU_ASSERT_EQUAL_FATAL(pipe(p), 0);
	CU_ASSERT_EQUAL(relay_add(home, 1, RELAY_OUT, p[1], getpid()), 0);
	CU_ASSERT_EQUAL(relay_input(home, &f), -EPROTO); /* a gap */
	f.id = 2;
	CU_ASSERT_EQUAL(relay_input(home, &f), -EPROTO); /* no such relay */
	f.id = 1;
	f.kind = RF_ACK;
	CU_ASSERT_EQUAL(relay_input(home, &f), -EPROTO); /* home sends nothing on it */
	f.kind = RF_SYNCED;
	CU_ASSERT_EQUAL(relay_input(home, &f), -EPROTO);
	f.kind = RF_TERMIOS;
	CU_ASSERT_EQUAL(relay_input(home, &f), -EPROTO);
	f.kind = RF_KINDS;
	CU_ASSERT_EQUAL(relay_input(home, &f), -EPROTO);
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
	CU_add_test(s, "a reader at home goes: EPIPE over there", test_reader_gone);
	CU_add_test(s, "a writer at home goes: end of file over there", test_writer_gone);
	CU_add_test(s, "quiesce waits for a reader, not for ever", test_quiesce_waits_for_reader);
	CU_add_test(s, "generation after generation", test_second_generation);
	CU_add_test(s, "nonsense is refused", test_nonsense);
	CU_basic_run_tests();
	return CU_get_number_of_failures() ? 1 : 0;
}
