// SPDX-License-Identifier: Apache-2.0
/* fs_rows OP DIR N: one operation on N small files of DIR, over and over; prints how many a second. For fs_table.sh. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static char data[1024];

static void create(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0644);

	if (fd < 0 || write(fd, data, sizeof(data)) != (ssize_t)sizeof(data) || close(fd) < 0)
		exit(2);
}

static void stat_it(const char *path)
{
	struct stat st;

	if (lstat(path, &st) < 0 || st.st_size != (off_t)sizeof(data))
		exit(2);
}

static void read_it(const char *path)
{
	char buf[4096];
	int fd = open(path, O_RDONLY);

	if (fd < 0 || read(fd, buf, sizeof(buf)) != (ssize_t)sizeof(data) || memcmp(buf, data, sizeof(data)) != 0)
		exit(2);
	close(fd);
}

static void rename_it(const char *path)
{
	char to[4200];

	snprintf(to, sizeof(to), "%s.new", path);
	if (rename(path, to) < 0 || rename(to, path) < 0)
		exit(2);
}

static void unlink_it(const char *path)
{
	if (unlink(path) < 0)
		exit(2);
}

static const struct {
	const char *name;
	void (*fn)(const char *path);
} ops[] = {{"create", create}, {"stat", stat_it}, {"read", read_it}, {"rename", rename_it}, {"unlink", unlink_it}};

int main(int argc, char **argv)
{
	struct timespec a, b;
	char path[4096];
	size_t i;
	int k, n;

	memset(data, 's', sizeof(data));
	for (i = 0; argc == 4 && i < sizeof(ops) / sizeof(ops[0]); i++) {
		if (strcmp(argv[1], ops[i].name) != 0)
			continue;
		n = atoi(argv[3]);
		clock_gettime(CLOCK_MONOTONIC, &a);
		for (k = 0; k < n; k++) {
			snprintf(path, sizeof(path), "%s/%05d", argv[2], k);
			ops[i].fn(path);
		}
		clock_gettime(CLOCK_MONOTONIC, &b);
		printf("%.0f\n", n / ((double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9));
		return 0;
	}
	fprintf(stderr, "usage: fs_rows create|stat|read|rename|unlink DIR N\n");
	return 64;
}
