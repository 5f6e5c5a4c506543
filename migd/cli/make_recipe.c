// SPDX-License-Identifier: Apache-2.0
/* See make_recipe.h. */
#include "migd/cli/make_recipe.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "conf/clock.h"
#include "conf/io.h"
#include "migd/cli/far.h"

enum { OUTPUT_MAX = 16 << 20 };

/* ---- output ---- */

/* In one piece, whatever small recipes say at that time. */
void output_flush(struct recipe *r)
{
	if (r->len)
		flock(r->lock_fd, LOCK_EX);
	for (size_t at = 0; at < r->len;) {
		uint32_t n;

		memcpy(&n, r->text + at + 1, sizeof(n));
		io_write_all(r->to[(int)r->text[at]], r->text + at + 5, n);
		at += 5 + n;
	}
	if (r->len)
		flock(r->lock_fd, LOCK_UN);
	r->len = 0;
}

void output_add(struct recipe *r, int which, const char *p, uint32_t n)
{
	if (r->len + n + 5 > r->cap) {
		size_t cap = r->cap ? r->cap * 2 : 65536;
		char *bigger = cap <= OUTPUT_MAX ? realloc(r->text, cap) : NULL;

		if (!bigger) { /* too much to keep: from here on as it comes */
			output_flush(r);
			io_write_all(r->to[which], p, n);
			return;
		}
		r->text = bigger;
		r->cap = cap;
	}
	r->text[r->len] = (char)which;
	memcpy(r->text + r->len + 1, &n, sizeof(n));
	memcpy(r->text + r->len + 5, p, n);
	r->len += 5 + n;
}

void output_read(struct recipe *r, int which)
{
	char buf[16384];
	ssize_t n;

	while ((n = read(r->from[which], buf, sizeof(buf))) > 0)
		output_add(r, which, buf, (uint32_t)n);
	if (n == 0) {
		close(r->from[which]);
		r->from[which] = -1;
	}
	if (r->ended) /* a daemon it left behind still writes */
		output_flush(r);
}

/* ---- recipes ---- */

void recipe_free(struct recipe *r)
{
	output_flush(r);
	list_del(&r->node);
	for (int i = 0; i < 2; i++) {
		if (r->from[i] >= 0)
			close(r->from[i]);
		if (r->to[i] >= 0)
			close(r->to[i]);
	}
	if (r->pidfd >= 0)
		close(r->pidfd);
	if (r->shell_fd >= 0)
		close(r->shell_fd);
	free(r->text);
	free(r->command);
	free(r);
}

void recipe_ended(struct recipe *r)
{
	for (int i = 0; i < 2; i++)
		if (r->from[i] >= 0)
			output_read(r, i);
	output_flush(r);
	r->ended = true;
	if (r->pidfd >= 0)
		close(r->pidfd);
	r->pidfd = -1;
}

bool recipe_is_over(const struct recipe *r)
{
	return r->ended && r->from[0] < 0 && r->from[1] < 0 && !r->far_open;
}

void recipe_tell(struct recipe *r, int status)
{
	if (r->shell_fd < 0)
		return;
	send(r->shell_fd, &status, sizeof(status), MSG_NOSIGNAL);
	close(r->shell_fd);
	r->shell_fd = -1;
}

/* ---- a shell and we ---- */

/* u32 length, bytes; and two descriptors. */
static int receive(int fd, char *buf, size_t size, size_t *got, int to[2])
{
	char control[CMSG_SPACE(2 * sizeof(int))] __attribute__((aligned(8)));
	uint32_t len = 0;
	struct iovec iov[2] = {{&len, sizeof(len)}, {buf, size}};
	struct msghdr mh = {.msg_iov = iov, .msg_iovlen = 2, .msg_control = control, .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(fd, &mh, MSG_CMSG_CLOEXEC);
	struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&mh) : NULL;

	if (!c || c->cmsg_type != SCM_RIGHTS || c->cmsg_len > CMSG_LEN(2 * sizeof(int)))
		return -EPROTO;
	memcpy(to, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0)); /* one or two: the caller closes them */
	n -= sizeof(len);
	if (to[1] < 0 || n < 0 || len > size)
		return -EPROTO;
	*got = len;
	return (size_t)n < len ? io_read_all(fd, buf + n, len - (size_t)n) : 0;
}

struct recipe *recipe_receive(int fd, char *buf, size_t size, size_t *len)
{
	static uint32_t numbers;
	struct recipe *r = calloc(1, sizeof(*r));
	struct far_recipe what = {.args = NULL};
	struct ucred who;
	socklen_t n = sizeof(who);
	bool good = r;

	if (!r)
		return NULL;
	*r = (struct recipe){.number = ++numbers, .pidfd = -1, .from = {-1, -1}, .to = {-1, -1}, .shell_fd = -1, .start_ns = clock_mono_ns()};
	list_init(&r->node);
	good = !receive(fd, buf, size, len, r->to) && !far_unpack(buf, *len, &what) && !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &n);
	if (good) {
		r->command = strdup(what.command);
		r->pid = who.pid;
		r->pidfd = (int)syscall(SYS_pidfd_open, who.pid, 0);
	}
	free(what.args);
	if (good && r->command && r->pidfd >= 0)
		return r;
	recipe_free(r);
	return NULL;
}

static int answer(int fd, const char *text, const int *ends)
{
	char control[CMSG_SPACE(2 * sizeof(int))] __attribute__((aligned(8))) = {0};
	struct iovec iov = {(char *)text, strlen(text) + 1};
	struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};
	struct cmsghdr *c;

	if (ends) {
		mh.msg_control = control;
		mh.msg_controllen = sizeof(control);
		c = CMSG_FIRSTHDR(&mh);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(2 * sizeof(int));
		memcpy(CMSG_DATA(c), ends, 2 * sizeof(int));
	}
	return sendmsg(fd, &mh, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

int recipe_answer(struct recipe *r, int fd, const char *host)
{
	int out[2], err[2];

	if (pipe2(out, O_CLOEXEC))
		return -errno;
	r->from[0] = out[0];
	if (pipe2(err, O_CLOEXEC)) {
		close(out[1]);
		return -EMFILE;
	}
	r->from[1] = err[0];
	fcntl(r->from[0], F_SETFL, O_NONBLOCK);
	fcntl(r->from[1], F_SETFL, O_NONBLOCK);
	answer(fd, host, (const int[2]){out[1], err[1]});
	close(out[1]);
	close(err[1]);
	return 0;
}

bool recipe_is_collected(const struct recipe *r)
{
	struct stat st;

	for (int i = 0; i < 2; i++)
		if (!fstat(r->to[i], &st) && S_ISREG(st.st_mode) && !st.st_nlink)
			return true;
	return false;
}

int recipe_answer_here(int fd)
{
	return answer(fd, "", NULL);
}

int recipe_answer_far(struct recipe *r, int fd)
{
	int err;

	r->shell_fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (r->shell_fd < 0)
		return -errno;
	err = answer(fd, "@", NULL); /* last: a shell takes one answer */
	if (err) {
		close(r->shell_fd);
		r->shell_fd = -1;
		return err;
	}
	r->far_open = 3;
	return 0;
}
