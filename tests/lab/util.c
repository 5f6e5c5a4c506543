/* SPDX-License-Identifier: Apache-2.0 */
/* Small file and process helpers of sprite-lab. No state, no locking: every process of a lab has one thread. */
#include "lab.h"
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

int write_file(const char *path, const char *text, mode_t mode)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
	size_t len = strlen(text), done = 0;

	if (fd < 0)
		return -errno;
	while (done < len) {
		ssize_t n = write(fd, text + done, len - done);
		if (n < 0)
			return -errno;
		done += n;
	}
	return 0;
}

int read_file(const char *path, char *buf, size_t size)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t done = 0;

	if (fd < 0)
		return -errno;
	while (done + 1 < size) {
		ssize_t n = read(fd, buf + done, size - 1 - done);
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		done += n;
	}
	buf[done] = 0;
	return done;
}

int make_dirs(const char *path, mode_t mode)
{
	char part[4096];
	size_t len = strlen(path);

	if (len >= sizeof(part))
		return -ENAMETOOLONG;
	memcpy(part, path, len + 1);
	for (char *p = part + 1; *p; p++) {
		if (*p != '/')
			continue;
		*p = 0;
		if (mkdir(part, 0755) < 0 && errno != EEXIST)
			return -errno;
		*p = '/';
	}
	if (mkdir(part, mode) < 0) {
		struct stat st;
		if (errno != EEXIST)
			return -errno;
		if (stat(part, &st) < 0)
			return -errno;
		return S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
	}
	return chmod(part, mode) < 0 ? -errno : 0; /* whatever the umask */
}

int remove_tree(const char *path, struct error *e)
{
	/* not nftw(3), which takes no path of more than PATH_MAX */
	return run_program((const char *const[]){"rm", "-rf", "--one-file-system", "--", path, NULL}, NULL, e);
}

int copy_file(const char *from, const char *to, mode_t mode)
{
	_cleanup_close_ int in = open(from, O_RDONLY | O_CLOEXEC);
	_cleanup_close_ int out = -1;
	char buf[16384];
	ssize_t n;

	if (in < 0)
		return -errno;
	out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
	if (out < 0)
		return -errno;
	while ((n = read(in, buf, sizeof(buf))) > 0)
		if (write(out, buf, n) != n)
			return errno ? -errno : -ENOSPC;
	return n < 0 ? -errno : 0;
}

/* Keeps the tail of what the program says, for the error text. */
static void collect(int fd, char *tail, size_t size)
{
	char buf[1024];
	size_t len = 0;
	ssize_t n;

	while ((n = read(fd, buf, sizeof(buf))) > 0) {
		if ((size_t)n >= size)
			n = size - 1;
		if (len + n >= size) {
			size_t drop = len + n - (size - 1);
			memmove(tail, tail + drop, len - drop);
			len -= drop;
		}
		memcpy(tail + len, buf, n);
		len += n;
	}
	while (len > 0 && tail[len - 1] == '\n')
		len--;
	tail[len] = 0;
	for (size_t i = 0; i < len; i++)
		if (tail[i] == '\n')
			tail[i] = ' ';
}

int run_program(const char *const *argv, const char *input, struct error *e)
{
	int in[2], out[2], status;
	char tail[400] = "";
	pid_t pid;

	if (pipe2(in, O_CLOEXEC) < 0)
		return error_set(e, errno, "pipe: %s", strerror(errno));
	if (pipe2(out, O_CLOEXEC) < 0) {
		close(in[0]);
		close(in[1]);
		return error_set(e, errno, "pipe: %s", strerror(errno));
	}
	pid = fork();
	if (pid == 0) {
		dup2(in[0], 0);
		dup2(out[1], 1);
		dup2(out[1], 2);
		execvp(argv[0], (char *const *)argv);
		dprintf(2, "%s: %s", argv[0], strerror(errno));
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	if (pid > 0) {
		if (input && write(in[1], input, strlen(input)) < 0)
			input = NULL; /* it has died: its status tells */
		close(in[1]);
		collect(out[0], tail, sizeof(tail));
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
	} else {
		close(in[1]);
	}
	close(out[0]);
	if (pid < 0)
		return error_set(e, EAGAIN, "fork: no more processes");
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	return error_set(e, EIO, "%s %s: %s", argv[0], argv[1] ? argv[1] : "", tail[0] ? tail : "failed");
}

void *xcalloc(size_t n, size_t size)
{
	void *p = calloc(n, size);

	if (!p) {
		fprintf(stderr, "sprite-lab: no memory left\n");
		exit(LAB_FAILURE);
	}
	return p;
}

char *xasprintf(const char *fmt, ...)
{
	va_list ap;
	char *s;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&s, fmt, ap);
	va_end(ap);
	if (n < 0) {
		fprintf(stderr, "sprite-lab: no memory left\n");
		exit(LAB_FAILURE);
	}
	return s;
}
