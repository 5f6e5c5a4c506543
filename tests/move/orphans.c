/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Daemons: children of children that have ended, with a session of their own. Each works for a while, wherever it is carried, and reports to a file; all of them do. One that came
 * home as an orphan stays there when its family moves on.
 */
#include "move.h"

static char *file;

static void daemon_main(unsigned n, pid_t old)
{
	char line[40];
	uint64_t until, h = n;

	SYS(setsid());
	for (until = now_ns(CLOCK_MONOTONIC) + 500000000ull + n % 5 * 100000000ull; now_ns(CLOCK_MONOTONIC) < until; move_nap(5000))
		h = h * 6364136223846793005u + 1;
	while (getppid() == old)
		move_nap(1000);
	CHECK(getsid(0) == getpid() && getpgrp() == getpid(), "daemon %u: session %d, group %d", n, getsid(0), getpgrp());
	int fd = SYS(open(file, O_WRONLY | O_APPEND));
	int len = snprintf(line, sizeof line, "%06u\n", n);

	CHECK(write(fd, line, len) == len, "report");
	_exit(0);
}

int main(int argc, char **argv)
{
	move_begin(argc, argv);
	file = move_path("done");
	SYS(close(SYS(open(file, O_WRONLY | O_CREAT | O_TRUNC, 0600))));
	signal(SIGHUP, SIG_IGN);
	move_ready();
	unsigned n = 0;

	for (; move_more(); n++) {
		pid_t pid = SYS(fork());
		int st;

		if (!pid) {
			pid_t me = getpid();

			if (!SYS(fork()))
				daemon_main(n, me);
			_exit(3);
		}
		CHECK(SYS(waitpid(pid, &st, 0)) == pid && WIFEXITED(st) && WEXITSTATUS(st) == 3, "child ended with %x", st);
		move_nap(60000);
	}
	struct stat is;

	for (int i = 0; i < 6000; i++, move_nap(10000)) { /* a minute, for a busy machine */
		SYS(stat(file, &is));
		if (is.st_size >= 7l * n)
			break;
	}
	CHECK(is.st_size == 7l * n, "%u daemons, %ld bytes of reports", n, (long)is.st_size);
	char *text = calloc(1, is.st_size + 1);
	int fd = SYS(open(file, O_RDONLY));

	CHECK(read(fd, text, is.st_size) == is.st_size, "reports");
	for (unsigned k = 0; k < n; k++) {
		char line[40];

		snprintf(line, sizeof line, "%06u\n", k);
		char *at = strstr(text, line);

		CHECK(at && !strstr(at + 1, line), "daemon %u reported %s", k, at ? "twice" : "never");
	}
	unlink(file);
	return move_pass();
}
