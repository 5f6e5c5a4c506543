/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unix sockets inside of the family: stream, datagram and seqpacket pairs with messages under way in both directions, between threads and with a child;
 * one whose other end is gone (of messages: after an empty one), one half shut down, a fresh one; buffers and time-outs.
 */
#include "move.h"
#include <sys/prctl.h>
#include <sys/socket.h>

static const int types[3] = {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET};

/* Answers every message with its bytes turned round, until the end of file. */
static void echo(int fd)
{
	unsigned char b[4096];
	for (;;) {
		ssize_t n = recv(fd, b, sizeof b, 0);
		if (n == 0)
			_exit(9);
		CHECK(n > 0, "child: recv: %s", strerror(errno));
		for (ssize_t i = 0; i < n; i++)
			b[i] ^= 0xff;
		CHECK(send(fd, b, n, 0) == n, "child: send: %s", strerror(errno));
	}
}

static void fill(unsigned char *b, size_t n, uint64_t seed)
{
	for (size_t i = 0; i < n; i++)
		b[i] = move_rand(&seed);
}

int main(int argc, char **argv)
{
	move_begin(argc, argv);
	signal(SIGPIPE, SIG_IGN);
	int pair[3][2], kid[2], widow[2], half[2][2];
	for (int i = 0; i < 3; i++)
		SYS(socketpair(AF_UNIX, types[i] | SOCK_NONBLOCK, 0, pair[i]));
	SYS(socketpair(AF_UNIX, SOCK_STREAM, 0, kid));
	pid_t child = SYS(fork());
	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		signal(SIGTERM, SIG_IGN);
		close(kid[0]);
		echo(kid[1]);
	}
	close(kid[1]);
	for (int i = 0; i < 2; i++) {
		SYS(socketpair(AF_UNIX, types[2 * i], 0, half[i]));
		SYS(shutdown(half[i][0], SHUT_WR));
	}
	int fresh = SYS(socket(AF_UNIX, SOCK_STREAM, 0));
	struct timeval tv = {1, 500000}, is;
	socklen_t n = sizeof is;
	SYS(setsockopt(pair[0][0], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv));
	int buf = 300000, got;
	setsockopt(pair[0][1], SOL_SOCKET, SO_SNDBUF, &buf, sizeof buf);
	socklen_t gn = sizeof buf;
	SYS(getsockopt(pair[0][1], SOL_SOCKET, SO_SNDBUF, &buf, &gn));
	move_ready();
	for (uint64_t round = 1; move_more(); round++) {
		unsigned char out[4096], in[8192];
		bool messages = round % 2;
		SYS(socketpair(AF_UNIX, messages ? SOCK_SEQPACKET : SOCK_STREAM, 0, widow));
		if (messages)
			CHECK(send(widow[1], "", 0, 0) == 0, "send of nothing");
		CHECK(send(widow[1], "farewell", 8, 0) == 8, "send");
		close(widow[1]);
		/* Five messages of different length each way, then a move may come, then they are read. */
		for (int t = 0; t < 3; t++)
			for (int dir = 0; dir < 2; dir++)
				for (int k = 0; k < 5; k++) {
					fill(out, 100 + k * 700, round * 100 + t * 20 + dir * 10 + k + 1);
					CHECK(send(pair[t][dir], out, 100 + k * 700, 0) == 100 + k * 700, "send: %s", strerror(errno));
				}
		fill(out, 3000, round);
		CHECK(send(kid[0], out, 3000, 0) == 3000, "send to the child: %s", strerror(errno));
		move_nap(20000);
		for (int t = 0; t < 3; t++)
			for (int dir = 0; dir < 2; dir++)
				for (int k = 0; k < 5; k++) {
					size_t len = 100 + k * 700;
					unsigned char want[4096];
					fill(want, len, round * 100 + t * 20 + !dir * 10 + k + 1);
					ssize_t r = recv(pair[t][dir], in, t ? sizeof in : len, 0);
					CHECK(r == (ssize_t)len, "type %d: message %d has %zd bytes, not %zu", types[t], k, r, len);
					CHECK(!memcmp(in, want, len), "type %d: message %d differs", types[t], k);
				}
		for (int t = 0; t < 3; t++)
			CHECK(recv(pair[t][0], in, 1, 0) < 0 && errno == EAGAIN, "type %d: something is left", types[t]);
		fill(out, 3000, round);
		for (size_t have = 0; have < 3000;) {
			ssize_t r = recv(kid[0], in + have, 3000 - have, 0);
			CHECK(r > 0, "recv from the child: %s", strerror(errno));
			have += r;
		}
		for (int i = 0; i < 3000; i++)
			CHECK((in[i] ^ 0xff) == out[i], "the child's answer differs at %d", i);
		if (messages)
			CHECK(recv(widow[0], in, sizeof in, MSG_DONTWAIT) == 0, "an empty message is gone");
		CHECK(recv(widow[0], in, sizeof in, 0) == 8 && !memcmp(in, "farewell", 8), "what a dead peer had sent is gone");
		CHECK(recv(widow[0], in, sizeof in, 0) == 0, "no end of file after a dead peer");
		CHECK(send(widow[0], "x", 1, 0) < 0 && errno == EPIPE, "no EPIPE after a dead peer");
		close(widow[0]);
		for (int i = 0; i < 2; i++) {
			CHECK(recv(half[i][1], in, 1, 0) == 0, "a shut down half is open again");
			CHECK(send(half[i][0], "x", 1, 0) < 0 && errno == EPIPE, "the shut down half can be written");
			CHECK(send(half[i][1], "y", 1, 0) == 1 && recv(half[i][0], in, 1, 0) == 1, "the open half is shut");
		}
		CHECK(send(fresh, "x", 1, 0) < 0 && errno == ENOTCONN, "the fresh socket is %s", strerror(errno));
		n = sizeof is;
		SYS(getsockopt(pair[0][0], SOL_SOCKET, SO_RCVTIMEO, &is, &n));
		CHECK(is.tv_sec == 1 && is.tv_usec == 500000, "SO_RCVTIMEO changed");
		gn = sizeof got;
		SYS(getsockopt(pair[0][1], SOL_SOCKET, SO_SNDBUF, &got, &gn));
		CHECK(got == buf, "SO_SNDBUF was %d, is %d", buf, got);
		struct ucred c;
		n = sizeof c;
		SYS(getsockopt(pair[0][0], SOL_SOCKET, SO_PEERCRED, &c, &n));
		CHECK(c.uid == geteuid() && c.gid == getegid() && c.pid == getpid(), "SO_PEERCRED is pid %d uid %u gid %u", c.pid, c.uid, c.gid);
	}
	close(kid[0]);
	int st;
	SYS(waitpid(child, &st, 0));
	CHECK(WIFEXITED(st) && WEXITSTATUS(st) == 9, "child ended with status %x", st);
	return move_pass();
}
