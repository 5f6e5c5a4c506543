/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Gives a process all its descriptors in few injected calls: they travel in one message each of up to CHUNK (SCM_RIGHTS, unix(7)) over a socket of
 * its own, land on the lowest free numbers, and go to their places from there.
 *
 * No place is ever in the way: sorted by number, the i-th wanted number is at least i, and the table is empty at first. So chunks go from the highest numbers
 * down, what arrives takes 0, 1, 2, ..., and within a chunk the highest moves first.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "migd/engine/res_files.h"

enum { CHUNK = 100 }; /* two calls each, ENG_BATCH_MAX; the kernel takes 253 */

static int by_number(const void *a, const void *b)
{
	const struct file_gift *x = a, *y = b;

	return (x->num > y->num) - (x->num < y->num);
}

/* A socket between us and the target, there above all numbers that are to be given; of its own pair, 0 and 1, the second is still open. */
static int channel_open(struct eng_proc *p, int above, int *ours, int *theirs)
{
	int num[2];

	eng_scratch_reset(p);
	uint64_t at = eng_scratch_put(p, NULL, sizeof num);
	struct eng_call c[3] = {
		{SYS_socketpair, {AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, at}, 0, 0, 0},
		{SYS_fcntl, {0, F_DUPFD_CLOEXEC, above}, 0, 0, 0},
		{SYS_close, {0}, 0, 0, 0},
	};
	int r = at ? eng_batch(p->threads[0], c, ARRAY_SIZE(c), NULL) : -ENOMEM;

	if (r < 0 || (r = eng_peek(p, at, num, sizeof num)) < 0)
		return r;
	*theirs = c[1].ret;
	if (num[0] != 0 || num[1] != 1)
		return -EPROTO;
	*ours = eng_fd_get(p, 1);
	return *ours < 0 ? *ours : 0;
}

static int chunk_send(int sock, const struct file_gift *g, size_t n)
{
	char byte = 0, space[CMSG_SPACE(CHUNK * sizeof(int))] = {0};
	struct iovec v = {&byte, 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = space, .msg_controllen = CMSG_SPACE(n * sizeof(int))};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(n * sizeof(int));
	for (size_t i = 0; i < n; i++)
		((int *)CMSG_DATA(c))[i] = g[i].fd;
	return sendmsg(sock, &m, MSG_NOSIGNAL) == 1 ? 0 : -errno;
}

/* From where they land to their places. */
static size_t chunk_place(const struct file_gift *g, size_t n, struct eng_call *c)
{
	size_t k = 0;

	for (size_t i = n; i-- > 0;) {
		if (g[i].num == (int)i) { /* by chance the right one; it came with close-on-exec */
			if (!g[i].cloexec)
				c[k++] = (struct eng_call){SYS_fcntl, {i, F_SETFD, 0}, 0, 0, 0};
			continue;
		}
		c[k++] = (struct eng_call){SYS_dup3, {i, g[i].num, g[i].cloexec ? O_CLOEXEC : 0}, 0, 0, 0};
		c[k++] = (struct eng_call){SYS_close, {i}, 0, 0, 0};
	}
	return k;
}

/* The target takes the message; its descriptors must have landed on 0, 1, 2, ..., from where they go to their places in the same go. */
static int chunk_take(struct eng_proc *p, int num, const struct file_gift *g, size_t n, bool first, bool last)
{
	struct { /* as the target sees it */
		struct msghdr m;
		struct iovec v;
		char byte[16], control[CMSG_SPACE(CHUNK * sizeof(int))];
	} x = {0};
	struct eng_call c[2 * CHUNK + 3];
	size_t k = 0;

	eng_scratch_reset(p);
	uint64_t at = eng_scratch_put(p, NULL, sizeof x);

	if (!at)
		return -ENOMEM;
	x.m.msg_iov = (void *)(at + offsetof(typeof(x), v));
	x.m.msg_iovlen = 1;
	x.m.msg_control = (void *)(at + offsetof(typeof(x), control));
	x.m.msg_controllen = sizeof x.control;
	x.v.iov_base = (void *)(at + offsetof(typeof(x), byte));
	x.v.iov_len = 1;
	if (first)
		c[k++] = (struct eng_call){SYS_close, {1}, 0, 0, 0};
	c[k++] = (struct eng_call){SYS_recvmsg, {num, at, MSG_CMSG_CLOEXEC | MSG_DONTWAIT}, 0, 0, 0};
	k += chunk_place(g, n, c + k);
	if (last)
		c[k++] = (struct eng_call){SYS_close, {num}, 0, 0, 0};
	int r = eng_poke(p, at, &x, sizeof x);

	if (!r)
		r = eng_batch(p->threads[0], c, k, NULL);
	if (!r)
		r = eng_peek(p, at, &x, sizeof x);
	if (r < 0)
		return r;
	const int *got = (const int *)(x.control + CMSG_LEN(0));

	if (((struct cmsghdr *)x.control)->cmsg_len != CMSG_LEN(n * sizeof(int)))
		return -EPROTO;
	for (size_t i = 0; i < n; i++)
		if (got[i] != (int)i)
			return -EPROTO;
	return 0;
}

int files_give(struct eng_proc *p, struct file_gift *g, size_t n)
{
	int sock = -1, there = -1;

	if (!n)
		return 0;
	qsort(g, n, sizeof *g, by_number);
	int r = channel_open(p, g[n - 1].num + 1, &sock, &there);

	for (size_t hi = n; !r && hi > 0;) {
		size_t lo = hi > CHUNK ? hi - CHUNK : 0;

		r = chunk_send(sock, g + lo, hi - lo);
		if (!r)
			r = chunk_take(p, there, g + lo, hi - lo, hi == n, lo == 0);
		hi = lo;
	}
	if (sock >= 0)
		close(sock);
	return r;
}
