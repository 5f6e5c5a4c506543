// SPDX-License-Identifier: Apache-2.0
/*
 * connect(2) and sendto(2) to a socket file of the home (an ssh-agent, a syslog, an X server that stayed there): the file is in the family's tree, but who listens is in another kernel.
 * Is there somebody here, the call is made as it stands; else the home connects, and what it has got is relayed: the caller's descriptor becomes an end of that.
 * A datagram goes along with the question, and is sent there; of sendmmsg(2) that is the first one, and its result 1.
 *
 * Whether somebody is here a socket of our own is told, of the wrong type: EPROTOTYPE, or that it is connected. It makes no connection, and nobody sees it.
 * The name is looked up here, as the caller's root and working directory have it, and goes home as a whole; whether he may connect is asked there, as him.
 *
 * The engine's own calls in the family's processes carry CONNECT_HERE in an argument that connect(2) does not have.
 *
 * A thread for each call looks, since a name may have to be asked for at the home: it gives the main loop what is to be asked (a pointer through a pipe). `asked` is the main loop's.
 */
#include "migd/engine/keeper_connect.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

enum { THREADS = 64, STACK = 128 << 10 };

struct connecting {
	struct connecting *next;
	struct seccomp_notif n;
	pid_t process;
	uint64_t name, name_len; /* in its memory */
	int sock;	/* the caller's */
	unsigned flags; /* of its descriptor and description */
	int err; /* it is for home, but so: */
	uint8_t *data; /* sendto: what is sent, `len` bytes */
	size_t len;
	struct eng_foreign c;
};

static struct connecting *asked;
static int ready[2] = {-1, -1};
static atomic_int threads;

static void drop(struct connecting *k)
{
	if (k->sock >= 0)
		close(k->sock);
	free(k->data);
	free(k);
}

static void as_it_stands(struct connecting *k)
{
	calls_respond(k->n.id, 0, true);
	drop(k);
}

/* ---- looking: a thread of its own ---- */

static bool sends(const struct connecting *k)
{
	return k->n.data.nr != SYS_connect;
}

static bool read_name(const struct connecting *k, struct sockaddr_un *a)
{
	memset(a, 0, sizeof(*a));
	return k->name_len > offsetof(struct sockaddr_un, sun_path) && k->name_len <= sizeof(*a) && calls_copy((pid_t)k->n.pid, k->name, a, k->name_len, false) &&
	       a->sun_family == AF_UNIX && a->sun_path[0];
}

/* This thread looks at files with the rights of the caller: the home's tree is his, not ours. */
static bool become(struct connecting *k)
{
	enum { GROUPS = 1024 };
	char name[32], text[16384], *u, *g, *list;
	uint32_t groups[GROUPS];
	size_t n = 0;

	snprintf(name, sizeof(name), "/proc/%d/status", k->n.pid);
	calls_read(name, text, sizeof(text));
	u = strstr(text, "\nUid:");
	g = strstr(text, "\nGid:");
	list = strstr(text, "\nGroups:");
	if (!u || !g || !list || sscanf(u + 5, "%*u %*u %*u %lu", &k->c.arg[4]) != 1 || sscanf(g + 5, "%*u %*u %*u %lu", &k->c.arg[5]) != 1)
		return false;
	for (char *at = list + 8, *end = strchr(at, '\n'); n < GROUPS && end; n++) {
		at += strspn(at, "\t ");
		if (at >= end)
			break;
		groups[n] = (uint32_t)strtoul(at, &at, 10);
	}
	if (syscall(SYS_setgroups, n, groups) < 0)
		return false;
	syscall(SYS_setfsgid, k->c.arg[5]);
	syscall(SYS_setfsuid, k->c.arg[4]);
	return true;
}

/* Where names begin for the caller. */
static int open_start(const struct connecting *k, const char *path)
{
	char name[32];

	snprintf(name, sizeof(name), "/proc/%d/%s", k->n.pid, *path == '/' ? "root" : "cwd");
	return open(name, O_PATH | O_DIRECTORY | O_CLOEXEC);
}

static bool is_nobodys(int file)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int s = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), err;

	snprintf(a.sun_path, sizeof(a.sun_path), "/proc/self/fd/%d", file);
	err = s < 0 ? 0 : calls_own(SYS_connect, s, (long)&a, sizeof(a), 0) < 0 ? errno : 0;
	if (s >= 0)
		close(s);
	return err == ECONNREFUSED;
}

/* A unix socket, and how the caller has it open. */
static bool take_socket(struct connecting *k)
{
	int pidfd = (int)syscall(SYS_pidfd_open, k->process, 0), domain = 0, type = 0, num = (int)k->n.data.args[0];
	struct sockaddr_un peer;
	socklen_t n = sizeof(int), len = sizeof(peer);
	char name[64], text[512], *flags;

	k->sock = pidfd < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, pidfd, num, 0);
	if (pidfd >= 0)
		close(pidfd);
	if (k->sock < 0 || getsockopt(k->sock, SOL_SOCKET, SO_DOMAIN, &domain, &n) < 0 || getsockopt(k->sock, SOL_SOCKET, SO_TYPE, &type, &n) < 0 || domain != AF_UNIX ||
	    (type != SOCK_DGRAM && (sends(k) || (type != SOCK_STREAM && type != SOCK_SEQPACKET))))
		return false;
	if (type != SOCK_DGRAM && getpeername(k->sock, (struct sockaddr *)&peer, &len) == 0)
		k->err = -EISCONN;
	len = sizeof(peer);
	if (sends(k))
		k->c.arg[2] = getsockname(k->sock, (struct sockaddr *)&peer, &len) == 0 && len > offsetof(struct sockaddr_un, sun_path) ? SEND_NAME : 0;
	else
		k->c.arg[1] = (uint64_t)type;
	snprintf(name, sizeof(name), "/proc/%d/fdinfo/%d", k->n.pid, num);
	calls_read(name, text, sizeof(text));
	flags = strstr(text, "flags:");
	k->flags = flags ? (unsigned)strtoul(flags + 6, NULL, 8) : 0;
	return flags;
}

/* What goes beside the bytes: descriptors cannot, and the home says who the caller is as the caller would. */
static int take_control(struct connecting *k, struct msghdr h)
{
	union {
		char buf[4096];
		struct cmsghdr align;
	} control;
	struct ucred who;

	if (h.msg_controllen > sizeof(control))
		return -ENOBUFS;
	if (!calls_copy((pid_t)k->n.pid, (uintptr_t)h.msg_control, &control, h.msg_controllen, false))
		return -EFAULT;
	h.msg_control = &control;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&h); c; c = CMSG_NXTHDR(&h, c)) {
		if (c->cmsg_len < sizeof(*c) || (char *)c + c->cmsg_len > control.buf + h.msg_controllen)
			return -EINVAL;
		if (c->cmsg_level != SOL_SOCKET)
			continue;
		if (c->cmsg_type == SCM_RIGHTS)
			k->c.arg[2] |= SEND_DESCRIPTORS;
		if (c->cmsg_type != SCM_CREDENTIALS || c->cmsg_len != CMSG_LEN(sizeof(who)))
			continue;
		memcpy(&who, CMSG_DATA(c), sizeof(who));
		if (who.pid != k->process || who.uid != k->c.arg[4] || who.gid != k->c.arg[5])
			return -EPERM;
	}
	return 0;
}

static int take_pieces(struct connecting *k, const struct iovec *v, size_t n)
{
	struct iovec to;

	for (size_t i = 0; i < n; i++) {
		if (v[i].iov_len > FOREIGN_DATA_MAX - k->len)
			return -EMSGSIZE;
		k->len += v[i].iov_len;
	}
	k->data = malloc(k->len + 1);
	if (!k->data)
		return -ENOMEM;
	to = (struct iovec){k->data, k->len};
	return process_vm_readv((pid_t)k->n.pid, &to, 1, v, n, 0) == (ssize_t)k->len ? 0 : -EFAULT;
}

/* The datagram: what a call would say of it here. */
static int take_data(struct connecting *k)
{
	const uint64_t *a = (const uint64_t *)k->n.data.args;
	struct iovec one = {(void *)a[1], a[2]}, *v;
	struct msghdr h;
	int r;

	k->c.arg[3] = a[k->n.data.nr == SYS_sendmsg ? 2 : 3] & MSG_DONTWAIT;
	if (k->flags & O_NONBLOCK)
		k->c.arg[3] = MSG_DONTWAIT;
	if (k->n.data.nr == SYS_sendto)
		return take_pieces(k, &one, 1);
	if (!calls_copy((pid_t)k->n.pid, a[1], &h, sizeof(h), false))
		return -EFAULT;
	if (h.msg_iovlen > IOV_MAX)
		return -EMSGSIZE;
	v = calloc(h.msg_iovlen + 1, sizeof(*v));
	r = !v ? -ENOMEM : h.msg_iovlen && !calls_copy((pid_t)k->n.pid, (uintptr_t)h.msg_iov, v, h.msg_iovlen * sizeof(*v), false) ? -EFAULT : take_pieces(k, v, h.msg_iovlen);
	free(v);
	return r == 0 && h.msg_control && h.msg_controllen ? take_control(k, h) : r;
}

/* Its name in the family's tree. */
static bool describe(struct connecting *k, int file)
{
	char name[32], path[sizeof(k->c.in)];
	struct sockaddr_un a;
	ssize_t n;

	snprintf(name, sizeof(name), "/proc/self/fd/%d", file);
	n = readlink(name, path, sizeof(path));
	if (n <= 0 || n >= (ssize_t)sizeof(a.sun_path) || path[0] != '/')
		return false;
	memcpy(k->c.in, path, (size_t)n);
	k->c.in_len = (uint16_t)n;
	k->c.id = k->n.id;
	k->c.pid = k->process;
	k->c.nr = sends(k) ? SYS_sendto : SYS_connect;
	k->c.in_arg = sends(k) ? 4 : 2;
	k->c.out_arg = -1;
	k->c.arg[0] = k->n.data.args[0];
	return true;
}

static bool is_for_home(struct connecting *k)
{
	int start = -1, file = -1;
	struct sockaddr_un a;
	char path[sizeof(a.sun_path) + 1] = "";
	bool yes = false;

	if (read_name(k, &a) && take_socket(k)) {
		memcpy(path, a.sun_path, sizeof(a.sun_path));
		start = open_start(k, path);
		file = start >= 0 && become(k) ? openat(start, *path == '/' ? path + strspn(path, "/") : path, O_PATH | O_CLOEXEC) : -1;
		yes = file >= 0 && is_nobodys(file) && describe(k, file);
	}
	if (yes && sends(k))
		k->err = take_data(k);
	if (start >= 0)
		close(start);
	if (file >= 0)
		close(file);
	return yes;
}

static void *look(void *arg)
{
	struct connecting *k = arg;

	if (is_for_home(k) && k->err) {
		calls_respond(k->n.id, k->err, false);
		drop(k);
	} else if (!k->c.id || write(ready[1], &k, sizeof(k)) != sizeof(k)) {
		as_it_stands(k);
	}
	atomic_fetch_sub(&threads, 1);
	return NULL;
}

/* ---- the main loop ---- */

int connect_start(void)
{
	if (pipe2(ready, O_CLOEXEC) < 0)
		return -errno;
	return ready[0];
}

bool connect_is(int nr)
{
	return nr == SYS_connect || nr == SYS_sendto || nr == SYS_sendmsg || nr == SYS_sendmmsg;
}

/* Where the name is, in the caller's memory. */
static bool name_of(const struct seccomp_notif *n, uint64_t *at, uint64_t *len)
{
	const uint64_t *a = (const uint64_t *)n->data.args;
	struct msghdr h;

	switch (n->data.nr) {
	case SYS_connect:
		*at = a[1];
		*len = a[2];
		return a[3] != CONNECT_HERE;
	case SYS_sendto:
		*at = a[4];
		*len = a[5];
		return true;
	default: /* of sendmmsg(2) the first one's */
		if ((n->data.nr == SYS_sendmmsg && !a[2]) || !calls_copy((pid_t)n->pid, a[1], &h, sizeof(h), false))
			return false;
		*at = (uintptr_t)h.msg_name;
		*len = h.msg_namelen;
		return *at;
	}
}

void connect_take(const struct seccomp_notif *n)
{
	struct connecting *k = NULL;
	sa_family_t family = 0;
	uint64_t name, len;
	pthread_attr_t attr;
	pthread_t t;
	bool goes;

	/* most are for the network: no thread for those */
	if (ready[1] >= 0 && name_of(n, &name, &len) && calls_copy((pid_t)n->pid, name, &family, sizeof(family), false) && family == AF_UNIX)
		k = calloc(1, sizeof(*k));
	if (!k) {
		calls_respond(n->id, 0, true);
		return;
	}
	*k = (struct connecting){.n = *n, .process = calls_process((pid_t)n->pid), .name = name, .name_len = len, .sock = -1};
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	goes = atomic_fetch_add(&threads, 1) < THREADS && pthread_create(&t, &attr, look, k) == 0;
	pthread_attr_destroy(&attr);
	if (goes)
		return;
	atomic_fetch_sub(&threads, 1);
	as_it_stands(k);
}

static void ask_for(const struct connecting *k, connect_ask_fn ask)
{
	struct keeper_msg m = {.op = KEEPER_CALL, .status = (int32_t)k->len, .call = k->c};

	ask(&m, k->data);
}

void connect_ask(connect_ask_fn ask)
{
	struct connecting *k;

	if (read(ready[0], &k, sizeof(k)) != sizeof(k))
		return;
	k->next = asked;
	asked = k;
	ask_for(k, ask);
}

void connect_again(connect_ask_fn ask)
{
	for (struct connecting *k = asked; k; k = k->next)
		ask_for(k, ask);
}

static bool number(int fd, int option, int *v)
{
	socklen_t n = sizeof(*v);

	return getsockopt(fd, SOL_SOCKET, option, v, &n) == 0;
}

/* What the program has set on its socket and may rely on, as socket_options_set() has it. (Not who sends, or that descriptors may come: the other end is not the one that it seems.) */
static void as_before(int from, int to)
{
	static const int times[] = {SO_RCVTIMEO, SO_SNDTIMEO}, buffers[][2] = {{SO_SNDBUF, SO_SNDBUFFORCE}, {SO_RCVBUF, SO_RCVBUFFORCE}};
	static const int numbers[] = {SO_RCVLOWAT, SO_OOBINLINE, SO_KEEPALIVE, SO_PRIORITY, SO_TIMESTAMP, SO_TIMESTAMPNS};
	struct timeval t;
	int v, is;

	for (unsigned i = 0; i < sizeof(times) / sizeof(*times); i++) {
		socklen_t n = sizeof(t);

		if (getsockopt(from, SOL_SOCKET, times[i], &t, &n) == 0)
			setsockopt(to, SOL_SOCKET, times[i], &t, sizeof(t));
	}
	for (unsigned i = 0; i < sizeof(numbers) / sizeof(*numbers); i++)
		if (number(from, numbers[i], &v) && number(to, numbers[i], &is) && v != is)
			setsockopt(to, SOL_SOCKET, numbers[i], &v, sizeof(v));
	for (unsigned i = 0; i < sizeof(buffers) / sizeof(*buffers); i++)
		if (number(from, buffers[i][0], &v) && number(to, buffers[i][0], &is) && v != is) {
			v /= 2; /* the kernel doubles it */
			if (setsockopt(to, SOL_SOCKET, buffers[i][1], &v, sizeof(v)) < 0)
				setsockopt(to, SOL_SOCKET, buffers[i][0], &v, sizeof(v));
		}
}

void connect_answer(int listener, const struct eng_foreign *c, int got)
{
	struct connecting **at = &asked, *k;
	int64_t ret = c->ret;

	while (*at && (*at)->c.id != c->id)
		at = &(*at)->next;
	k = *at;
	if (!k)
		return;
	*at = k->next;
	if (sends(k)) {
		unsigned n = (unsigned)ret;

		if (ret >= 0 && k->n.data.nr == SYS_sendmmsg) {
			if (calls_waits(k->c.id))
				calls_copy((pid_t)k->n.pid, k->n.data.args[1] + offsetof(struct mmsghdr, msg_len), &n, sizeof(n), true);
			ret = 1;
		}
	} else if (ret == 0 && got >= 0) {
		struct seccomp_notif_addfd a = {.id = k->c.id, .flags = SECCOMP_ADDFD_FLAG_SETFD, .srcfd = (uint32_t)got, .newfd = (uint32_t)k->c.arg[0],
			.newfd_flags = k->flags & O_CLOEXEC};

		as_before(k->sock, got);
		fcntl(got, F_SETFL, (int)(k->flags & (O_NONBLOCK | O_ASYNC)));
		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &a) < 0)
			ret = -errno;
	} else if (ret == 0) {
		ret = -ECONNREFUSED; /* a migd that cannot give it */
	}
	calls_respond(k->c.id, ret, false);
	drop(k);
}
