// SPDX-License-Identifier: Apache-2.0
/* Messages and store of what sprite-holder keeps; see hold.h. */
#include "fs/hold.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "conf/log.h"

#define HEAD offsetof(struct hold_msg, bytes)

struct kept {
	int fd;
	uint32_t len;
	unsigned char bytes[];
};

int hold_send(int sock, uint32_t op, uint64_t key, const void *bytes, size_t len, int fd)
{
	union {
		struct cmsghdr h;
		char buf[CMSG_SPACE(sizeof(int))];
	} c;
	struct hold_msg m = {.op = op, .len = (uint32_t)len, .key = key};
	struct iovec v[2] = {{&m, HEAD}, {(void *)bytes, len}};
	struct msghdr h = {.msg_iov = v, .msg_iovlen = len ? 2 : 1};
	ssize_t n;

	if (len > HOLD_BYTES_MAX)
		return -EMSGSIZE;
	if (fd >= 0) {
		memset(&c, 0, sizeof(c));
		c.h.cmsg_level = SOL_SOCKET;
		c.h.cmsg_type = SCM_RIGHTS;
		c.h.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&c.h), &fd, sizeof(int));
		h.msg_control = &c;
		h.msg_controllen = sizeof(c);
	}
	do
		n = sendmsg(sock, &h, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : 0;
}

int hold_receive(int sock, struct hold_msg *m, int *fd, int flags)
{
	union {
		struct cmsghdr h;
		char buf[CMSG_SPACE(sizeof(int))];
	} c;
	struct iovec iov = {m, sizeof(*m)};
	struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof(c)};
	int fds[2] = {-1, -1}; /* as many as fit, the padding included */
	struct cmsghdr *x;
	ssize_t n;

	*fd = -1;
	m->op = m->len = 0;
	m->key = 0;
	n = recvmsg(sock, &h, MSG_CMSG_CLOEXEC | flags);
	if (n <= 0)
		return n < 0 ? -errno : -EPIPE;
	x = CMSG_FIRSTHDR(&h);
	if (x && x->cmsg_type == SCM_RIGHTS && x->cmsg_len <= CMSG_LEN(sizeof(fds)))
		memcpy(fds, CMSG_DATA(x), x->cmsg_len - CMSG_LEN(0));
	if (fds[1] >= 0)
		close(fds[1]);
	if ((size_t)n < HEAD || (size_t)n != HEAD + m->len || (fds[0] >= 0 && m->op != HOLD_KEEP)) {
		if (fds[0] >= 0)
			close(fds[0]);
		m->op = 0;
		return -EPROTO;
	}
	*fd = fds[0];
	return 0;
}

static void kept_free(void *p)
{
	struct kept *k = p;

	if (!k)
		return;
	close(k->fd);
	free(k);
}

void hold_store_keep(struct hold_store *s, const struct hold_msg *m, int fd)
{
	struct kept *k = malloc(sizeof(*k) + m->len);
	void *old = NULL;

	if (k) {
		k->fd = fd;
		k->len = m->len;
		memcpy(k->bytes, m->bytes, m->len);
	}
	if (!k || hash_set_u64(&s->kept, m->key, k, &old) < 0) {
		log_warn("no memory to keep a descriptor");
		close(fd);
		free(k);
	}
	kept_free(old);
}

void hold_store_drop(struct hold_store *s, uint64_t key)
{
	kept_free(hash_take_u64(&s->kept, key));
}

int hold_store_fd(const struct hold_store *s, uint64_t key)
{
	const struct kept *k = hash_get_u64(&s->kept, key);

	return k ? k->fd : -1;
}

int hold_store_give(const struct hold_store *s, int sock)
{
	struct hash_iter it = {0};
	const struct kept *k;
	int r = 0;

	while (r == 0 && (k = hash_next(&s->kept, &it)))
		r = hold_send(sock, HOLD_KEEP, hash_iter_u64(&it), k->bytes, k->len, k->fd);
	return r ? r : hold_send(sock, HOLD_END, 0, NULL, 0, -1);
}

void hold_store_clear(struct hold_store *s)
{
	hash_clear(&s->kept, kept_free);
}

int hold_program(char *out, size_t room)
{
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (n <= 0)
		return -errno;
	self[n] = 0;
	return snprintf(out, room, "%.*s/sprite-holder", (int)(strrchr(self, '/') - self), self) < (int)room ? 0 : -ENAMETOOLONG;
}

void hold_oom(const char *adj, char before[16])
{
	int fd = open("/proc/self/oom_score_adj", O_RDWR | O_CLOEXEC);
	ssize_t n = fd >= 0 && before ? read(fd, before, 15) : 0;

	if (before && n <= 0)
		strcpy(before, "0");
	else if (before)
		before[n] = 0;
	if (fd < 0)
		return;
	if (write(fd, adj, strlen(adj)) < 0)
		log_debug("oom_score_adj: %s", strerror(errno));
	close(fd);
}
