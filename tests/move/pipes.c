/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pipes inside of the family: bytes under way between parent and child, a pipe that is partly full for long, a changed size, non-blocking ends, a pipe whose
 * packets that keep their borders (O_DIRECT), a pipe whose
 * writer is gone (data, then end of file) and one whose reader is gone (EPIPE). Each belongs to whom it belonged to, and can be opened by /proc/self/fd.
 */
#include "move.h"
#include <sys/ioctl.h>
#include <sys/prctl.h>

static void check_owner(int fd, mode_t mode)
{
	char path[40];
	struct stat st;
	SYS(fstat(fd, &st));
	CHECK(st.st_uid == geteuid() && st.st_gid == getegid() && (st.st_mode & 0777) == mode, "the pipe belongs to %d:%d, mode %o", st.st_uid, st.st_gid, st.st_mode);
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	SYS(close(SYS(open(path, O_RDONLY | O_NONBLOCK))));
}

static void child(int in, int out)
{
	unsigned char b[777];
	uint64_t n = 0;
	for (;;) {
		ssize_t k = read(in, b, sizeof b);
		if (k == 0)
			_exit(7);
		CHECK(k > 0, "child: read: %s", strerror(errno));
		for (ssize_t i = 0; i < k; i++, n++) {
			CHECK(b[i] == (unsigned char)(n * 31), "child: byte %llu is %x", (unsigned long long)n, b[i]);
			b[i] ^= 0x55;
		}
		for (ssize_t i = 0, w; i < k; i += w) {
			w = write(out, b + i, k - i);
			CHECK(w > 0, "child: write: %s", strerror(errno));
		}
	}
}

int main(int argc, char **argv)
{
	move_begin(argc, argv);
	signal(SIGPIPE, SIG_IGN);
	int to[2], from[2], half[2], eof[2], broken[2], packets[2], n;
	SYS(pipe2(to, O_CLOEXEC));
	SYS(pipe(from));
	pid_t kid = SYS(fork());
	if (!kid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		signal(SIGTERM, SIG_IGN);
		close(to[1]);
		close(from[0]);
		child(to[0], from[1]);
	}
	close(to[0]);
	close(from[1]);
	SYS(pipe2(half, O_NONBLOCK));
	SYS(fcntl(half[1], F_SETPIPE_SZ, 1 << 18));
	SYS(fchmod(half[0], 0640));
	unsigned char big[200000], is[200000];
	for (size_t i = 0; i < sizeof big; i++)
		big[i] = i * 7 + (i >> 8);
	CHECK(write(half[1], big, sizeof big) == sizeof big, "write to a bigger pipe");
	SYS(pipe2(packets, O_DIRECT | O_NONBLOCK));
	CHECK(write(packets[1], "abc", 3) == 3 && write(packets[1], "de", 2) == 2, "write of packets");
	move_ready();
	uint64_t sent = 0, got = 0, seed = 4711;
	while (move_more()) {
		unsigned char b[3000];
		size_t len = 1 + move_rand(&seed) % sizeof b;
		for (size_t i = 0; i < len; i++)
			b[i] = (unsigned char)((sent + i) * 31);
		char three[100];
		CHECK(read(packets[0], three, sizeof three) == 3 && !memcmp(three, "abc", 3), "a packet is not what was written");
		CHECK(write(packets[1], "abc", 3) == 3 && write(packets[1], "de", 2) == 2, "write of packets");
		CHECK(read(packets[0], three, sizeof three) == 2 && !memcmp(three, "de", 2), "the packet behind it is not what was written");
		CHECK(write(to[1], b, len) == (ssize_t)len, "write: %s", strerror(errno));
		sent += len;
		SYS(pipe(eof));
		CHECK(write(eof[1], "last words", 10) == 10, "write");
		close(eof[1]);
		SYS(pipe(broken));
		close(broken[0]);
		while (got < sent) {
			ssize_t k = read(from[0], b, sizeof b);
			CHECK(k > 0, "read: %s", strerror(errno));
			for (ssize_t i = 0; i < k; i++, got++)
				CHECK(b[i] == ((unsigned char)(got * 31) ^ 0x55), "byte %llu came back as %x", (unsigned long long)got, b[i]);
		}
		move_nap(3000);
		check_owner(from[0], 0600);
		check_owner(half[0], 0640);
		SYS(ioctl(half[0], FIONREAD, &n));
		CHECK(n == sizeof big, "a waiting pipe holds %d bytes, not %zu", n, sizeof big);
		CHECK(fcntl(half[0], F_GETPIPE_SZ) == 1 << 18, "pipe size is %d", fcntl(half[0], F_GETPIPE_SZ));
		CHECK(fcntl(half[0], F_GETFL) & O_NONBLOCK, "O_NONBLOCK was lost");
		ssize_t k = read(eof[0], b, sizeof b);
		CHECK(k == 10 && !memcmp(b, "last words", 10), "what a dead writer left: %zd bytes", k);
		k = read(eof[0], b, sizeof b);
		CHECK(k == 0, "no end of file after a dead writer: %zd", k);
		CHECK(write(broken[1], "x", 1) < 0 && errno == EPIPE, "no EPIPE without a reader");
		close(eof[0]);
		close(broken[1]);
	}
	CHECK(read(half[0], is, sizeof is) == sizeof is && !memcmp(is, big, sizeof big), "content of the waiting pipe changed");
	CHECK(read(half[0], is, 1) < 0 && errno == EAGAIN, "the empty pipe does not say EAGAIN");
	close(to[1]);
	int st;
	SYS(waitpid(kid, &st, 0));
	CHECK(WIFEXITED(st) && WEXITSTATUS(st) == 7, "child ended with status %x", st);
	return move_pass();
}
