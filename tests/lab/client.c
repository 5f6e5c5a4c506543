/* SPDX-License-Identifier: Apache-2.0 */
/* Packets between the command and a lab's pid 1s (server.h). */
#include "lab.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#define PACKET_MAX (1 << 20)

int client_connect(const struct lab *lab, const char *node, struct error *e)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), size = PACKET_MAX;

	snprintf(un.sun_path, sizeof(un.sun_path), "%s/%s.sock", lab->dir, node);
	if (fd < 0 || connect(fd, (struct sockaddr *)&un, sizeof(un)) < 0) {
		error_set(e, errno, "lab %s: %s does not answer: %s", lab->name, node, strerror(errno));
		if (fd >= 0)
			close(fd);
		return -e->code;
	}
	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)); /* long command lines */
	return fd;
}

int client_send(int sock, json_t *message, const int *fds, size_t nfds)
{
	_cleanup_free_ char *text = message ? json_dumps(message, JSON_COMPACT) : NULL;
	struct iovec iov = {.iov_base = text, .iov_len = text ? strlen(text) : 0};
	union {
		char buf[CMSG_SPACE(3 * sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
	struct cmsghdr *h;

	json_decref(message);
	if (!text)
		return -EINVAL;
	if (nfds) {
		m.msg_control = &control;
		m.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		h = CMSG_FIRSTHDR(&m);
		h->cmsg_level = SOL_SOCKET;
		h->cmsg_type = SCM_RIGHTS;
		h->cmsg_len = CMSG_LEN(nfds * sizeof(int));
		memcpy(CMSG_DATA(h), fds, nfds * sizeof(int));
	}
	return sendmsg(sock, &m, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

json_t *client_receive(int sock, int *fd)
{
	_cleanup_free_ char *buf = xcalloc(1, PACKET_MAX);
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = {.iov_base = buf, .iov_len = PACKET_MAX};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
	struct cmsghdr *h;
	ssize_t n;

	do {
		n = recvmsg(sock, &m, MSG_CMSG_CLOEXEC);
	} while (n < 0 && errno == EINTR);
	if (n <= 0)
		return NULL;
	h = CMSG_FIRSTHDR(&m);
	if (h && h->cmsg_type == SCM_RIGHTS) {
		int got;
		memcpy(&got, CMSG_DATA(h), sizeof(got));
		if (fd)
			*fd = got;
		else
			close(got);
	}
	return json_loadb(buf, n, 0, NULL);
}

/* One request, one answer. `request` is stolen; *answer may be NULL when its content does not matter. */
int client_call(const struct lab *lab, const char *node, json_t *request, json_t **answer, struct error *e)
{
	_cleanup_close_ int sock = client_connect(lab, node, e);
	json_t *a;
	int rc = sock < 0 ? sock : client_send(sock, request, NULL, 0);

	if (sock < 0) {
		json_decref(request);
		return rc;
	}
	a = rc < 0 ? NULL : client_receive(sock, NULL);
	if (!a)
		return error_set(e, EPIPE, "lab %s: %s hung up", lab->name, node);
	if (!json_is_true(json_object_get(a, "ok"))) {
		const char *text = json_string_value(json_object_get(a, "error"));
		rc = error_set(e, EIO, "%s: %s", node, text ? text : "failed");
		json_decref(a);
		return rc;
	}
	if (answer)
		*answer = a;
	else
		json_decref(a);
	return 0;
}
