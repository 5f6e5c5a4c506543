// SPDX-License-Identifier: Apache-2.0
/*
 * A numbered stream through a named pipe, for tests/lab/pipes_random.py: whoever moves, every record must come once and in order.
 *
 *	fifo_stream w PATH NAME COUNT [SIZE [GAP [UNTIL]]]	writes COUNT records of SIZE bytes (512), pausing GAP us (0) after each, until there is a file UNTIL
 *	fifo_stream r PATH LOG [SIZE]			reads to the end; appends a line "NAME SEQ" to LOG for each record, "end N" at the end
 *	fifo_stream pong PATH1 PATH2			reads a byte from PATH1, writes it to PATH2, to the end
 * Any error, and a record that is not whole, ends it with status 1 and a line on stderr.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SIZE_MAX_ = 65536 };

static int fail(const char *what, long n)
{
	fprintf(stderr, "%s: %s (%ld)\n", what, strerror(errno), n);
	return 1;
}

/* Every byte of a record can be told from those of its neighbours. */
static void record_make(char *p, size_t size, const char *name, long seq)
{
	int n = snprintf(p, size, "%s %ld %zu\n", name, seq, size);

	for (size_t i = (size_t)n; i < size; i++)
		p[i] = (char)('!' + (seq * 31 + (long)i * 7) % 90);
}

static int writes(int fd, const char *name, long count, size_t size, useconds_t gap, const char *until)
{
	static char rec[SIZE_MAX_];

	for (long seq = 0; seq < count; seq++) {
		record_make(rec, size, name, seq);
		for (size_t at = 0; at < size;) {
			ssize_t n = write(fd, rec + at, size - at);

			if (n <= 0)
				return fail("write", seq);
			at += (size_t)n;
		}
		if (gap && until && !access(until, F_OK))
			gap = 0;
		if (gap)
			usleep(gap);
	}
	return 0;
}

static int reads(int fd, const char *log, size_t size)
{
	static char rec[SIZE_MAX_], want[SIZE_MAX_];
	FILE *out = fopen(log, "ae");
	long total = 0;

	if (!out)
		return fail(log, 0);
	if (getenv("EVERY_LINE")) /* who is to be killed */
		setlinebuf(out);
	for (;;) {
		size_t got = 0, len;
		char name[64];
		long seq;

		while (got < size) { /* who shares a pipe with other readers must not take parts: records of one page or less come whole */
			ssize_t n = read(fd, rec + got, size - got);

			if (n < 0)
				return fail("read", total);
			if (!n)
				break;
			got += (size_t)n;
		}
		if (!got) {
			fprintf(out, "end %ld\n", total);
			return fclose(out) ? fail(log, total) : 0;
		}
		if (got < size || sscanf(rec, "%63s %ld %zu\n", name, &seq, &len) != 3 || len != size)
			return fail("a record that is none", total);
		record_make(want, size, name, seq);
		if (memcmp(want, rec, size))
			return fail("a record that was changed", total);
		fprintf(out, "%s %ld\n", name, seq);
		total++;
	}
}

static int pong(const char *in, const char *out)
{
	int r = open(in, O_RDONLY), w = open(out, O_WRONLY);
	char c;

	if (r < 0 || w < 0)
		return fail("open", 0);
	while (read(r, &c, 1) == 1)
		if (write(w, &c, 1) != 1)
			return fail("write", 0);
	return 0;
}

int main(int argc, char **argv)
{
	signal(SIGPIPE, SIG_IGN);
	if (argc >= 5 && argv[1][0] == 'w') {
		int fd = open(argv[2], O_WRONLY);

		if (fd < 0)
			return fail(argv[2], 0);
		return writes(fd, argv[3], atol(argv[4]), argc > 5 ? (size_t)atol(argv[5]) : 512, argc > 6 ? (useconds_t)atol(argv[6]) : 0, argc > 7 ? argv[7] : NULL);
	}
	if (argc >= 4 && argv[1][0] == 'r') {
		int fd = open(argv[2], O_RDONLY);

		return fd < 0 ? fail(argv[2], 0) : reads(fd, argv[3], argc > 4 ? (size_t)atol(argv[4]) : 512);
	}
	if (argc == 4 && !strcmp(argv[1], "pong"))
		return pong(argv[2], argv[3]);
	fprintf(stderr, "usage: %s w PATH NAME COUNT [SIZE [GAP [UNTIL]]] | r PATH LOG [SIZE] | pong PATH1 PATH2\n", argv[0]);
	return 64;
}
