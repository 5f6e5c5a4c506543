// SPDX-License-Identifier: Apache-2.0
/*
 * One side of a measure of named pipes, for pipe_bench.sh. All print one number.
 *
 *	pipe_bench ping OUT IN N [WARM]		median round trip of a byte, us; the other side is `pong`
 *	pipe_bench pong IN OUT			sends back each byte, to the end
 *	pipe_bench tcpping HOST PORT N		the same over a TCP connection (TCP_NODELAY)
 *	pipe_bench tcppong PORT			one connection
 *	pipe_bench send OUT MB			writes so much in blocks of 64 KiB
 *	pipe_bench recv IN			reads to the end; MB/s, from its first byte
 *	pipe_bench open FIFO N			median open (read and write) and close, us
 *	pipe_bench switch N			median of two context switches: a byte there and back through pipes to a thread, us
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static double now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static _Noreturn void die(const char *what)
{
	perror(what);
	exit(1);
}

static int open_or_die(const char *path, int flags)
{
	int fd = open(path, flags);

	if (fd < 0)
		die(path);
	return fd;
}

static int by_size(const void *a, const void *b)
{
	double d = *(const double *)a - *(const double *)b;

	return d < 0 ? -1 : d > 0;
}

static void print_median(double *v, size_t n)
{
	qsort(v, n, sizeof(*v), by_size);
	printf("%.1f\n", v[n / 2]);
}

static void ping(int out, int in, size_t n)
{
	double *v = calloc(n, sizeof(*v));
	char c = 'x';

	for (size_t i = 0; v && i < n + n / 10; i++) { /* the first tenth warms up */
		double t = now_us();

		if (write(out, &c, 1) != 1 || read(in, &c, 1) != 1)
			die("ping");
		if (i >= n / 10)
			v[i - n / 10] = now_us() - t;
	}
	print_median(v, n);
	free(v);
}

static void pong(int in, int out)
{
	char c;

	while (read(in, &c, 1) == 1)
		if (write(out, &c, 1) != 1)
			die("pong");
}

static int tcp(const char *host, int port, int on)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = host ? inet_addr(host) : INADDR_ANY};
	int s = socket(AF_INET, SOCK_STREAM, 0), one = on, fd = s;

	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (host) {
		for (int i = 0; connect(s, (struct sockaddr *)&a, sizeof(a)); i++) { /* the other side is just starting */
			if (i == 200)
				die("connect");
			usleep(20000);
		}
	} else if (bind(s, (struct sockaddr *)&a, sizeof(a)) || listen(s, 1) || (fd = accept(s, NULL, NULL)) < 0) {
		die("tcp");
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

static void send_all(int fd, size_t mb)
{
	static char block[65536];

	for (size_t left = mb << 20; left;) {
		ssize_t n = write(fd, block, left < sizeof(block) ? left : sizeof(block));

		if (n <= 0)
			die("write");
		left -= (size_t)n;
	}
}

static void receive(int fd)
{
	static char block[65536];
	double start = 0;
	uint64_t all = 0;
	ssize_t n;

	while ((n = read(fd, block, sizeof(block))) > 0) {
		if (!all)
			start = now_us();
		all += (uint64_t)n;
	}
	printf("%.1f\n", (double)all / (now_us() - start));
}

static void opens(const char *path, size_t n)
{
	double *v = calloc(n, sizeof(*v));

	for (size_t i = 0; v && i < n; i++) {
		double t = now_us();

		close(open_or_die(path, O_RDWR));
		v[i] = now_us() - t;
	}
	print_median(v, n);
	free(v);
}

static int there[2], back[2];

static void *partner(void *unused)
{
	pong(there[0], back[1]);
	return unused;
}

int main(int argc, char **argv)
{
	const char *m = argc > 1 ? argv[1] : "";
	pthread_t t;

	if (!strcmp(m, "ping") && argc > 4) {
		int out = open_or_die(argv[2], O_WRONLY);

		ping(out, open_or_die(argv[3], O_RDONLY), (size_t)atol(argv[4]));
	} else if (!strcmp(m, "pong") && argc > 3) {
		int in = open_or_die(argv[2], O_RDONLY);

		pong(in, open_or_die(argv[3], O_WRONLY));
	} else if (!strcmp(m, "tcpping") && argc > 4) {
		int fd = tcp(argv[2], atoi(argv[3]), 1);

		ping(fd, fd, (size_t)atol(argv[4]));
	} else if (!strcmp(m, "tcppong") && argc > 2) {
		int fd = tcp(NULL, atoi(argv[2]), 1);

		pong(fd, fd);
	} else if (!strcmp(m, "send") && argc > 3) {
		send_all(open_or_die(argv[2], O_WRONLY), (size_t)atol(argv[3]));
	} else if (!strcmp(m, "recv") && argc > 2) {
		receive(open_or_die(argv[2], O_RDONLY));
	} else if (!strcmp(m, "open") && argc > 3) {
		opens(argv[2], (size_t)atol(argv[3]));
	} else if (!strcmp(m, "switch") && argc > 2) {
		if (pipe(there) || pipe(back) || pthread_create(&t, NULL, partner, NULL))
			die("pipe");
		ping(there[1], back[0], (size_t)atol(argv[2]));
	} else {
		fprintf(stderr, "usage: see the head of pipe_bench.c\n");
		return 64;
	}
	return 0;
}
