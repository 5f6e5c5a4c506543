/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unix sockets whose both ends are in the family (socketpair(2), or connected over a name), with what is under way in them; fresh ones; listening and other
 * named ones. A connected socket whose peer stays at home is relayed, as a pipe is;
 * one of datagrams if it has no name itself (others could send to it). TCP and UDP: res_file_inet.c. Everything else is refused by name: other families of
 * sockets, other kinds of peers that stay, descriptors under way (SCM_RIGHTS), connections not yet accepted.
 *
 * A name in the file tree is bound again after the commit (before, the source may yet go on): the socket file is replaced by one of the same mode. While a family
 * is away its names answer members of the family only. An accepted connection travels as a pair: it forgets over which name it came.
 *
 * Who is whose peer, and which half is shut down, the kernel tells by sock_diag(7), asked in the family's network namespace.
 * A pair is made by the process that made it (SO_PEERCRED shows that one), with the family's user ids; what waited is sent again from the other end.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "migd/engine/core.h"
#include "migd/engine/res_files.h"
#include "migd/engine/res_file_socket.h"

enum { MESSAGE_MAX = 1 << 20, QUEUE_MAX = 1 << 16 };

struct peer { /* what sock_diag tells */
	bool has_peer;
	uint32_t ino; /* of the peer; 0 with has_peer false: none */
	uint32_t waiting, backlog; /* waiting: connections of a listening one, else bytes; backlog: a listening one's */
	uint8_t shut, type, state;
};

/* ---- sock_diag -------------------------------------------------------------------------------------- */

static int diag_ask(int nl, uint32_t ino, struct peer *out)
{
	struct {
		struct nlmsghdr h;
		struct unix_diag_req r;
	} q = {
		.h = {.nlmsg_len = sizeof q, .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST},
		.r = {.sdiag_family = AF_UNIX, .udiag_states = ~0u, .udiag_ino = ino, .udiag_show = UDIAG_SHOW_PEER | UDIAG_SHOW_RQLEN,
		      .udiag_cookie = {~0u, ~0u}},
	};
	char buf[8192] __attribute__((aligned(8)));

	memset(out, 0, sizeof *out);
	if (send(nl, &q, sizeof q, 0) < 0)
		return -errno;
	ssize_t n = recv(nl, buf, sizeof buf, 0);
	struct nlmsghdr *h = (struct nlmsghdr *)buf;

	if (n < 0 || !NLMSG_OK(h, n))
		return n < 0 ? -errno : -EBADMSG;
	if (h->nlmsg_type == NLMSG_ERROR)
		return ((struct nlmsgerr *)NLMSG_DATA(h))->error;
	struct unix_diag_msg *m = NLMSG_DATA(h);
	int left = h->nlmsg_len - NLMSG_LENGTH(sizeof *m);

	out->type = m->udiag_type;
	out->state = m->udiag_state;
	for (struct rtattr *a = (struct rtattr *)(m + 1); RTA_OK(a, left); a = RTA_NEXT(a, left))
		switch (a->rta_type) {
		case UNIX_DIAG_PEER:
			out->has_peer = true;
			out->ino = *(uint32_t *)RTA_DATA(a);
			break;
		case UNIX_DIAG_RQLEN:
			out->waiting = ((struct unix_diag_rqlen *)RTA_DATA(a))->udiag_rqueue;
			out->backlog = ((struct unix_diag_rqlen *)RTA_DATA(a))->udiag_wqueue;
			break;
		case UNIX_DIAG_SHUTDOWN:
			out->shut = *(uint8_t *)RTA_DATA(a);
			break;
		}
	return 0;
}

/* Asks in the network namespace of the process behind dir; the calling thread goes there and comes back. One that is relayed is of this host's own. */
static int diag(int dir, uint32_t ino, struct peer *out)
{
	_cleanup_close_ int there = openat(dir, "ns/net", O_RDONLY | O_CLOEXEC);
	_cleanup_close_ int here = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);

	if (there < 0 || here < 0)
		return -errno;
	if (setns(there, CLONE_NEWNET) < 0)
		return -errno;
	_cleanup_close_ int nl = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	int r = nl < 0 ? -errno : 0;

	if (setns(here, CLONE_NEWNET) < 0)
		return -errno; /* cannot be: it was ours a moment ago */
	r = r < 0 ? r : diag_ask(nl, ino, out);
	if (r != -ENOENT)
		return r;
	_cleanup_close_ int own = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);

	return own < 0 ? -errno : diag_ask(own, ino, out);
}

/* What is refused in socket_dump() and mostly over in a moment; NULL: nothing. */
static const char *waits(const struct peer *s)
{
	if (s->waiting && s->state == TCP_LISTEN)
		return "a connection waits to be accepted: try again later";
	if (s->has_peer && !s->ino && !s->shut && s->type != SOCK_DGRAM) /* one that has gone has shut both directions */
		return "a connection of its own has not been accepted yet: try again later";
	return s->waiting && s->type == SOCK_DGRAM && !s->has_peer ? "messages wait in a unix datagram socket: try again later" : NULL;
}

const char *socket_waits(struct eng_proc *p, uint32_t ino)
{
	struct peer s;

	return diag(p->dir, ino, &s) < 0 ? NULL : waits(&s);
}

/* ---- probe ------------------------------------------------------------------------------------------ */

static bool is_socket(const struct file_look *l)
{
	return S_ISSOCK(l->st.st_mode);
}

static void socket_kind(int fd, int *domain, int *type, int *protocol)
{
	socklen_t n = sizeof *domain;

	*domain = *type = *protocol = 0;
	if (fd < 0)
		return;
	getsockopt(fd, SOL_SOCKET, SO_DOMAIN, domain, &n);
	getsockopt(fd, SOL_SOCKET, SO_TYPE, type, &n);
	getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, protocol, &n);
}

/* "TCP socket", "unix stream socket", ... */
static void socket_name(int domain, int type, char *out, size_t size)
{
	static const char *const types[] = {"?", "stream", "datagram", "raw", "reliable datagram", "seqpacket"};
	const char *kind = type > 0 && type < 6 ? types[type] : "";

	if (domain == AF_INET || domain == AF_INET6)
		snprintf(out, size, "%s%s socket", type == SOCK_STREAM ? "TCP" : type == SOCK_DGRAM ? "UDP" : "raw IP",
			 domain == AF_INET6 ? " (IPv6)" : "");
	else if (domain == AF_UNIX)
		snprintf(out, size, "unix %s socket", kind);
	else if (domain == AF_NETLINK)
		snprintf(out, size, "netlink socket");
	else
		snprintf(out, size, "%s socket of family %d", kind, domain);
}

struct holder {
	uint32_t ino;
	bool found;
};
static int holder_one(const struct file_look *l, void *ctx)
{
	struct holder *h = ctx;

	h->found |= S_ISSOCK(l->st.st_mode) && (uint32_t)l->st.st_ino == h->ino;
	return h->found;
}

/* Does a process of the family hold the socket? */
static bool in_family(struct eng_probe *p, uint32_t ino)
{
	struct holder h = {.ino = ino};

	for (size_t i = 0; i < p->nfamily && !h.found; i++) {
		char name[32];

		snprintf(name, sizeof name, "/proc/%d", p->family[i]);
		_cleanup_close_ int dir = open(name, O_PATH | O_DIRECTORY | O_CLOEXEC);

		if (dir >= 0)
			files_each(p->family[i], dir, holder_one, &h);
	}
	return h.found;
}

/* What cannot be taken out of a live socket, nor put into a fresh one. Only looked at: asking for an error would take it away from the program. */
const char *socket_state_reason(int fd, bool filter)
{
	struct pollfd p = {.fd = fd, .events = POLLPRI};
	socklen_t n = 0;

	if (poll(&p, 1, 0) > 0 && p.revents & POLLERR)
		return "with an error that has not been read yet (its peer has gone): try again later";
	if (p.revents & POLLPRI)
		return "with an out-of-band byte under way (MSG_OOB): try again later";
	if (filter && getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, NULL, &n) == 0 && n)
		return "with a filter (SO_ATTACH_FILTER): detach it first";
	return NULL;
}

static bool has_name(int fd)
{
	struct sockaddr_un a;
	socklen_t n = sizeof a;

	return getsockname(fd, (struct sockaddr *)&a, &n) == 0 && n > sizeof a.sun_family;
}

/* Its peer is no member. */
static const char *apart_reason(int fd, int type)
{
	if (type == SOCK_DGRAM && has_name(fd))
		return "that has a name, whose other end stays here: close it first";
	if (socket_number(fd, SO_PASSCRED))
		return "that asks who sends (SO_PASSCRED), whose other end stays here: close it first";
	if (socket_number(fd, SO_PEEK_OFF) >= 0)
		return "with a peek offset (SO_PEEK_OFF), whose other end stays here: close it first";
	return NULL;
}

static void apart_probe(struct eng_probe *p, const struct file_look *l, int fd, int type, const char *name)
{
	const char *why = apart_reason(fd, type);

	struct outside o = {0};

	if (why) {
		file_reason(p, l, "%s %s", name, why);
		return;
	}
	/* When the family closes it, away, its end is shut down here: that must not be somebody else's too. */
	if (outside_add(&o, l, OUTSIDE_NOT_FILE) == 0)
		outside_report(p, &o);
	outside_free(&o);
}

static void unix_probe(struct eng_probe *p, const struct file_look *l, int fd, const char *name)
{
	const char *why = socket_state_reason(fd, true);
	struct peer peer;

	if (why)
		file_reason(p, l, "%s %s", name, why);
	else if (diag(l->dir, l->st.st_ino, &peer) < 0)
		file_reason(p, l, "%s: this kernel does not tell its peer (unix_diag)", name);
	else if (peer.has_peer && peer.ino && !in_family(p, peer.ino))
		apart_probe(p, l, fd, peer.type, name);
}

static void socket_probe(struct eng_probe *p, const struct file_look *l)
{
	char name[80];
	int domain, type, protocol;
	_cleanup_close_ int pidfd = syscall(SYS_pidfd_open, l->pid, 0);
	_cleanup_close_ int fd = pidfd < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, pidfd, l->num, 0);

	if (fd < 0 && (errno == EBADF || errno == ESRCH)) /* closed, or its process has ended, since it was looked at */
		return;
	socket_kind(fd, &domain, &type, &protocol);
	socket_name(domain, type, name, sizeof name);
	if (domain == AF_UNIX)
		unix_probe(p, l, fd, name);
	else if (inet_is(domain, type, protocol))
		inet_probe(p, l, fd, name);
	else if ((domain == AF_INET || domain == AF_INET6) && type == SOCK_STREAM)
		file_reason(p, l, "%s of another protocol (%s): close it first", name, protocol == 262 ? "MPTCP" : "not TCP's");
	else
		file_reason(p, l, "%s: close it first", name);
}

/* ---- dump ------------------------------------------------------------------------------------------- */

uint64_t socket_timeout(int fd, int option)
{
	struct timeval t = {0};
	socklen_t n = sizeof t;

	getsockopt(fd, SOL_SOCKET, option, &t, &n);
	return (uint64_t)t.tv_sec * 1000000u + t.tv_usec;
}

/* One message (or a piece of a stream) at the peeking offset. 1, 0: nothing more; -errno. A message comes with credentials (SO_PASSCRED is on), an end without. */
static int peek_one(int fd, Sprite__Img__Socket *m, char *buf)
{
	bool message = false;
	char control[256];
	struct iovec v = {buf, MESSAGE_MAX};
	struct msghdr h = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	ssize_t n = recvmsg(fd, &h, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC | MSG_TRUNC);

	if (n < 0)
		return errno == EAGAIN ? 0 : -errno;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&h); c; c = CMSG_NXTHDR(&h, c)) {
		message |= c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_CREDENTIALS;
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
			for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++)
				close(((int *)CMSG_DATA(c))[i]);
			return -EPERM;
		}
	}
	if (n == 0 && (!message || m->type == SOCK_STREAM))
		return 0;
	if (n > MESSAGE_MAX || m->n_queue >= QUEUE_MAX)
		return -EMSGSIZE;
	void *more = realloc(m->queue, (m->n_queue + 1) * sizeof *m->queue);

	if (!more)
		return -ENOMEM;
	m->queue = more;
	m->queue[m->n_queue].data = malloc(n + 1);
	if (!m->queue[m->n_queue].data)
		return -ENOMEM;
	memcpy(m->queue[m->n_queue].data, buf, n);
	m->queue[m->n_queue++].len = n;
	return 1;
}

static int queue_dump(int fd, Sprite__Img__Socket *m, struct error *e)
{
	int off = socket_number(fd, SO_PEEK_OFF), pass = socket_number(fd, SO_PASSCRED), zero = 0, one = 1, r;
	_cleanup_free_ char *buf = malloc(MESSAGE_MAX);

	if (!buf)
		return -ENOMEM;
	if (setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &zero, sizeof zero) < 0)
		return error_set(e, errno, "unix socket: SO_PEEK_OFF: %s", strerror(errno));
	if (setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &one, sizeof one) < 0)
		return error_set(e, errno, "unix socket: SO_PASSCRED: %s", strerror(errno));
	while ((r = peek_one(fd, m, buf)) > 0)
		;
	setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &pass, sizeof pass);
	setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &off, sizeof off);
	if (r == -EPERM)
		return error_set(e, EBUSY, "descriptors are under way in a unix socket (SCM_RIGHTS): try again later");
	if (r == 0 && pass && m->n_queue)
		return error_set(e, EBUSY, "messages with their senders' credentials wait in a unix socket (SO_PASSCRED): try again later");
	return r < 0 ? error_set(e, -r, "unix socket: what is under way cannot be read: %s", strerror(-r)) : 0;
}

/* All of them, changed or not: one that was changed at home may be changed back away. */
static int options_dump(int fd, Sprite__Img__Socket *m)
{
	m->option = calloc(2 * SOCKET_OPTIONS_MAX, sizeof *m->option);
	if (!m->option)
		return -ENOMEM;
	for (const int *o = socket_options; *o; o++) {
		socklen_t n = sizeof(int);
		int v = 0;

		if (getsockopt(fd, SOL_SOCKET, *o, &v, &n) < 0)
			continue;
		m->option[m->n_option++] = *o;
		m->option[m->n_option++] = v;
	}
	return 0;
}

/* Name and, in the file tree, mode of the socket file. */
static int name_dump(const struct file_look *l, int fd, Sprite__Img__Socket *m)
{
	struct sockaddr_un a = {0};
	socklen_t n = sizeof a;
	struct stat st;

	if (getsockname(fd, (struct sockaddr *)&a, &n) < 0 || n <= sizeof a.sun_family)
		return 0;
	m->name.len = n - sizeof a.sun_family;
	m->name.data = malloc(m->name.len);
	if (!m->name.data)
		return -ENOMEM;
	memcpy(m->name.data, a.sun_path, m->name.len);
	if (a.sun_path[0]) {
		char path[sizeof a.sun_path + 8];

		snprintf(path, sizeof path, "%s/%.*s", a.sun_path[0] == '/' ? "root" : "cwd", (int)sizeof a.sun_path, a.sun_path);
		m->name_mode = fstatat(l->dir, path, &st, 0) == 0 ? st.st_mode & 07777 : 0700;
	}
	return 0;
}

/* A datagram socket that sends to a named one, which does not send back: connected by that name again. */
static int one_way(const struct file_look *l, int fd, Sprite__Img__Socket *m)
{
	struct sockaddr_un a = {0};
	socklen_t n = sizeof a;
	struct peer other;

	if (m->type != SOCK_DGRAM || !m->peer || diag(l->dir, m->peer, &other) < 0 || other.ino == (uint32_t)m->sock)
		return 0;
	if (getpeername(fd, (struct sockaddr *)&a, &n) < 0 || n <= sizeof a.sun_family)
		return -ENOTSUP;
	m->connected = false;
	m->to.len = n - sizeof a.sun_family;
	m->to.data = malloc(m->to.len);
	if (!m->to.data)
		return -ENOMEM;
	memcpy(m->to.data, a.sun_path, m->to.len);
	return 0;
}

/* Connected to somebody who stays. */
static int apart_dump(struct eng_family *f, struct file_desc *d, int fd, Sprite__Img__File *m, struct error *e)
{
	Sprite__Img__Socket *s = m->socket;
	const char *why = apart_reason(fd, s->type);
	int r;

	if (why)
		return error_set(e, ENOTSUP, "unix socket %s", why);
	enum eng_relay_kind kind = s->type == SOCK_SEQPACKET ? ENG_RELAY_SEQ : s->type == SOCK_DGRAM ? ENG_RELAY_DGRAM : ENG_RELAY_SOCK;
	const struct eng_hooks *h = eng_hooks(f);
	uint64_t id;

	if (!f->home && !relay_known(f, &d->look.st, kind)) { /* connected away, to one at home? */
		if (!h->relay_whose || h->relay_whose(h->ctx, d->look.st.st_ino, &id) < 0)
			return error_set(e, ENOTSUP, "unix socket whose other end is not of its family");
		r = relay_learn(f, &d->look.st, id, kind);
		if (r < 0)
			return r;
	}
	r = relay_dump(f, d, m, kind, e);
	if (r >= 0 && f->home) /* no descriptor may be on its way, and from here on none can be sent; the bytes stay where they are */
		r = queue_dump(fd, s, e);
	for (size_t i = 0; i < s->n_queue; i++)
		free(s->queue[i].data);
	free(s->queue);
	s->queue = NULL;
	s->n_queue = 0;
	s->connected = false;
	s->peer = 0;
	return r;
}

static int socket_dump(struct eng_family *f, struct file_desc *d, Sprite__Img__File *m, struct error *e)
{
	_cleanup_close_ int fd = eng_fd_get(d->holder, d->look.num);
	int domain, type, protocol;
	struct peer peer;
	struct ucred cred = {0};
	socklen_t n = sizeof cred;

	if (fd < 0)
		return fd;
	socket_kind(fd, &domain, &type, &protocol);
	if (inet_is(domain, type, protocol))
		return inet_dump(f, d, fd, m, e);
	if (domain != AF_UNIX)
		return error_set(e, ENOTSUP, "this socket cannot be carried");
	int r = diag(d->look.dir, d->look.st.st_ino, &peer);

	if (r < 0)
		return error_set(e, -r, "unix_diag: %s", strerror(-r));
	Sprite__Img__Socket *s = m->socket = malloc(sizeof *s);

	if (!s)
		return -ENOMEM;
	sprite__img__socket__init(s);
	s->sock = d->look.st.st_ino;
	s->type = type;
	s->connected = peer.has_peer;
	s->peer = peer.ino;
	s->shut_rd = peer.shut & 1;
	s->shut_wr = peer.shut & 2;
	s->sndbuf = socket_number(fd, SO_SNDBUF);
	s->rcvbuf = socket_number(fd, SO_RCVBUF);
	s->passcred = socket_number(fd, SO_PASSCRED);
	s->rcvtimeo = socket_timeout(fd, SO_RCVTIMEO);
	s->sndtimeo = socket_timeout(fd, SO_SNDTIMEO);
	s->peek_off = socket_number(fd, SO_PEEK_OFF);
	s->listening = socket_number(fd, SO_ACCEPTCONN);
	s->backlog = s->listening ? peer.backlog : 0;
	if (s->listening && waits(&peer))
		return error_set(e, EBUSY, "%s", waits(&peer));
	if (socket_state_reason(fd, true))
		return error_set(e, EBUSY, "unix socket %s", socket_state_reason(fd, true));
	r = options_dump(fd, s);
	if (r < 0)
		return error_set(e, -r, "unix socket: %s", strerror(-r));
	if (waits(&peer) && s->connected)
		return error_set(e, EBUSY, "%s", waits(&peer));
	r = name_dump(&d->look, fd, s);
	if (!r)
		r = one_way(&d->look, fd, s);
	if (r < 0)
		return error_set(e, -r, "unix socket: %s", strerror(-r));
	bool there = false;

	for (struct file_desc *c = files_first(f); c; c = c->next)
		there |= c->kind == &file_socket && (uint32_t)c->look.st.st_ino == peer.ino;
	if (peer.ino && !there)
		return apart_dump(f, d, fd, m, e);
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &n) == 0)
		for (size_t i = 0; i < eng_nprocs(f); i++)
			if (eng_proc_at(f, i)->pid == cred.pid)
				s->maker = eng_proc_at(f, i)->vpid;
	r = s->connected || type == SOCK_DGRAM ? queue_dump(fd, s, e) : 0;
	if (!r && !s->connected && s->n_queue)
		return error_set(e, EBUSY, "messages wait in a unix datagram socket: try again later");
	return r;
}

const struct file_kind file_socket = {
	.name = "socket", .is = is_socket, .probe = socket_probe, .dump = socket_dump, .open = socket_open, .finish = socket_finish};
