// SPDX-License-Identifier: Apache-2.0
/*
 * The jobserver of GNU make 4.4 (--jobserver-style=fifo), as its clients are: each opens the named pipe by itself, waits for a token by poll(2), reads one without waiting, since
 * another may have been faster, and writes it back. Tokens are different letters, and who has one holds a file of its name: one that were doubled would be found there.
 *
 *	jobserver FIFO DIR CLIENTS ROUNDS	CLIENTS processes, each of which has a token ROUNDS times
 *	jobserver FIFO put TOKENS		puts them in and stays until it is ended: the last end must not close
 *	jobserver FIFO left N			waits until N tokens are there, says them in order and whether there are more
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	return 1;
}

/* One token, however long it takes. */
static int take(int r, char *token)
{
	struct pollfd p = {.fd = r, .events = POLLIN};

	for (;;) {
		ssize_t n;

		if (poll(&p, 1, -1) < 0 && errno != EINTR)
			return -1;
		n = read(r, token, 1);
		if (n == 1)
			return 0;
		if (n == 0 || errno != EAGAIN) {
			errno = n ? errno : EPIPE;
			return -1;
		}
	}
}

static int client(const char *fifo, const char *dir, int rounds)
{
	int r = open(fifo, O_RDONLY | O_NONBLOCK), w = open(fifo, O_WRONLY);
	char token, name[4096];

	if (r < 0 || w < 0)
		return fail(fifo);
	for (int i = 0; i < rounds; i++) {
		int fd;

		if (take(r, &token) < 0)
			return fail("read");
		snprintf(name, sizeof(name), "%s/token.%c", dir, token);
		fd = open(name, O_CREAT | O_EXCL | O_WRONLY, 0600);
		if (fd < 0)
			return fail(name);
		close(fd);
		if (unlink(name) < 0 || write(w, &token, 1) != 1)
			return fail("giving it back");
	}
	return 0;
}

static int letters(const void *a, const void *b)
{
	return *(const char *)a - *(const char *)b;
}

static int left(const char *fifo, int n)
{
	int r = open(fifo, O_RDWR | O_NONBLOCK);
	char *t = calloc(1, (size_t)n + 2);

	if (r < 0 || !t)
		return fail(fifo);
	for (int i = 0; i < n; i++)
		if (take(r, t + i) < 0)
			return fail("read");
	qsort(t, (size_t)n, 1, letters);
	printf("%s%s\n", t, read(r, t + n, 1) == 1 ? " and more" : "");
	return 0;
}

int main(int argc, char **argv)
{
	int bad = 0, status;

	if (argc == 4 && !strcmp(argv[2], "put")) {
		int fd = open(argv[1], O_RDWR);

		if (fd < 0 || write(fd, argv[3], strlen(argv[3])) != (ssize_t)strlen(argv[3]))
			return fail(argv[1]);
		puts("ready");
		fflush(stdout);
		pause();
		return 0;
	}
	if (argc == 4 && !strcmp(argv[2], "left"))
		return left(argv[1], atoi(argv[3]));
	if (argc != 5)
		return 2;
	for (int i = 0; i < atoi(argv[3]); i++)
		if (fork() == 0)
			_exit(client(argv[1], argv[2], atoi(argv[4])));
	while (wait(&status) > 0)
		bad |= status;
	return bad != 0;
}
