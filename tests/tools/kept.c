/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Does with open files, maps and its working directory what it is told to on its standard input, a line each, and says what came of it (test_move_names.sh):
 *	open N PATH FLAGS   chdir PATH   watch PATH   map N shared|private   close N   write N TEXT   poke N TEXT     N: a number of its own choice
 *	look                all of it: contents, link counts, size of each file, what the maps show, the working directory and what is in it
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILES = 8 };
static int fds[FILES];
static char *maps[FILES];
static int events = -1; /* inotify */

static void say_error(int r)
{
	printf("%s\n", r < 0 ? strerror(errno) : "ok");
}

static void look_file(int i)
{
	char name[32], text[200];
	struct stat st;
	ssize_t n;
	int fd;

	if (fstat(fds[i], &st) < 0) {
		printf(" %d:%s", i, strerror(errno));
		return;
	}
	printf(" %d:links=%lu", i, (long)st.st_nlink);
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fds[i]);
	if (S_ISREG(st.st_mode)) {
		fd = fcntl(fds[i], F_GETFL) & O_PATH ? -1 : fds[i];
		n = fd < 0 ? -1 : pread(fd, text, sizeof(text) - 1, 0);
		if (n >= 0)
			printf(",text=%.*s", (int)n, text);
		printf(",size=%ld,mode=%o,flags=%o", (long)st.st_size, st.st_mode & 0777, fcntl(fds[i], F_GETFL) & (O_ACCMODE | O_APPEND));
	}
}

static void look_events(void)
{
	char buf[4096];
	ssize_t n = events < 0 ? 0 : read(events, buf, sizeof(buf));

	for (ssize_t at = 0; at < n;) {
		const struct inotify_event *e = (const void *)(buf + at);

		printf(" event=%d:%x", e->wd, e->mask);
		at += sizeof(*e) + e->len;
	}
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static void look(void)
{
	char cwd[PATH_MAX];
	struct dirent **e;
	struct stat st;
	int n;

	for (int i = 0; i < FILES; i++) {
		if (fds[i] >= 0)
			look_file(i);
		if (maps[i])
			printf(" map%d=%.20s", i, maps[i]);
	}
	look_events();
	printf(" cwd=%s", getcwd(cwd, sizeof(cwd)) ? cwd : strerror(errno));
	n = scandir(".", &e, NULL, by_name);
	if (n < 0)
		printf(" ls=%s", strerror(errno));
	for (int i = 0; i < n; i++)
		printf(" %s", e[i]->d_name);
	printf(" dot=%s", stat(".", &st) < 0 ? strerror(errno) : st.st_nlink ? "linked" : "removed");
	n = open("new", O_CREAT | O_EXCL | O_WRONLY, 0600);
	printf(" new=%s\n", n < 0 ? strerror(errno) : "made");
	if (n >= 0)
		close(n), unlink("new");
}

int main(void)
{
	char line[600], a[300], b[300];
	int i, flags;

	memset(fds, -1, sizeof(fds));
	setlinebuf(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "open %d %299s %i", &i, a, &flags) == 3)
			say_error(fds[i] = open(a, flags | O_CLOEXEC, 0644));
		else if (sscanf(line, "chdir %299s", a) == 1)
			say_error(chdir(a));
		else if (sscanf(line, "watch %299s", a) == 1)
			events = inotify_init1(IN_NONBLOCK | IN_CLOEXEC), say_error(inotify_add_watch(events, a, IN_MODIFY | IN_DELETE_SELF));
		else if (sscanf(line, "close %d", &i) == 1)
			say_error(close(fds[i])), fds[i] = -1;
		else if (sscanf(line, "write %d %299s", &i, a) == 2)
			say_error(write(fds[i], a, strlen(a)) == (ssize_t)strlen(a) ? 0 : -1);
		else if (sscanf(line, "poke %d %299s", &i, a) == 2)
			memcpy(maps[i], a, strlen(a)), say_error(0);
		else if (sscanf(line, "map %d %299s", &i, b) == 2) {
			maps[i] = mmap(NULL, 4096, *b == 's' ? PROT_READ | PROT_WRITE : PROT_READ, *b == 's' ? MAP_SHARED : MAP_PRIVATE, fds[i], 0);
			say_error(maps[i] == MAP_FAILED ? -1 : 0);
		} else
			look();
	}
	return 0;
}
