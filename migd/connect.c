// SPDX-License-Identifier: Apache-2.0
/*
 * See connect.h. The connection is made by a process with the family's ids (user.c), so that the rights of the socket file, and who the server sees (SO_PEERCRED: uid and gid; the number
 * is of one that has ended), are as they would be. Its number as a relay comes from that of the call, so that one that is asked for again is the same.
 *
 * A datagram is sent by one that has them for files alone: to say who sends, by the number of the caller's hollow (a service manager tells by that whose message it is), takes root.
 */
#include "migd/connect.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>
#include "conf/log.h"
#include "migd/mig_rpc.h"
#include "migd/relay_rpc.h"
#include "migd/relays.h"
#include "migd/user.h"

enum { MADE_MS = 2000 };

static uint64_t number(uint64_t call)
{
	return RELAY_BORN_UNIX | (call & (RELAY_BORN_UNIX - RELAY_BORN - 1));
}

static bool kind_of(uint64_t type, enum relay_kind *kind)
{
	*kind = type == SOCK_STREAM ? RELAY_SOCK : type == SOCK_SEQPACKET ? RELAY_SEQ : RELAY_DGRAM;
	return type == SOCK_STREAM || type == SOCK_SEQPACKET || type == SOCK_DGRAM;
}

/* ---- guest host ---- */

int connect_made(struct family *f, const struct eng_foreign *c)
{
	enum relay_kind kind;
	int fd = kind_of(c->arg[1], &kind) ? relays_make_born(f->relays, number(c->id), kind) : -EINVAL;

	if (fd >= 0)
		relay_rpc_open(f);
	else
		log_warn("family %s: a connection to %.*s of its home cannot be relayed: %s", f->id, c->in_len, (const char *)c->in, strerror(-fd));
	return fd;
}

void connect_taken(struct family *f, const struct eng_foreign *c)
{
	relays_taken(f->relays, number(c->id));
}

/* ---- home ---- */

struct making {
	struct family *f;
	struct rpc_request *rq;
	uint64_t gen, id;
	enum relay_kind kind;
	int type;
	struct sockaddr_un to;
	struct user_ids user;
};

/* Our own daemons ask who is at the other end, and mean a process of this host. By whatever path: it is told by the name that they gave their socket. */
static bool is_our_own(const char *run, int fd)
{
	struct sockaddr_un peer = { 0 };
	socklen_t len = sizeof(peer) - 1;
	size_t n = strlen(run);

	return getpeername(fd, (struct sockaddr *)&peer, &len) || (!strncmp(peer.sun_path, run, n) && peer.sun_path[n] == '/');
}

/* A socket that is connected to it, or -errno. */
static int connect_to(const struct sockaddr_un *to, int type, const char *run)
{
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	int err = fd < 0 || connect(fd, (const struct sockaddr *)to, sizeof(*to)) ? -errno : is_our_own(run, fd) ? -ECONNREFUSED : 0;

	return err ? err : fd;
}

/* As a guest host tells it. */
static bool name_of(struct sockaddr_un *to, const uint8_t *p, size_t len)
{
	if (!len || len >= sizeof(to->sun_path) || p[0] != '/' || memchr(p, 0, len))
		return false;
	*to = (struct sockaddr_un){ .sun_family = AF_UNIX };
	memcpy(to->sun_path, p, len);
	return true;
}

/* In a process of its own. */
static int child_connect(const void *arg, void *answer)
{
	const struct making *k = arg;
	int *err = answer;
	int fd = user_become(&k->user) ? connect_to(&k->to, k->type, k->f->m->conf->run_dir) : -EPERM;

	*err = fd < 0 ? fd : 0;
	return fd < 0 ? -1 : fd;
}

/* The connection or -errno; -EAGAIN: the server does not take it just now. */
static int connect_as_user(const struct making *k)
{
	int fd = -1, err, r = user_run(child_connect, k, MADE_MS, &err, sizeof(err), &fd);

	return r ? r : err ? err : fd >= 0 ? fd : -EAGAIN;
}

static void *make_main(void *arg)
{
	struct making *k = arg;
	Sprite__Mig__CallRep rep = SPRITE__MIG__CALL_REP__INIT;
	int fd = relays_original(k->f->relays, k->id), err = 0;

	if (fd >= 0) { /* asked again: it is there */
		close(fd);
	} else {
		fd = connect_as_user(k);
		rep.ret = fd >= 0 ? relays_bear(k->f->relays, k->gen, k->id, k->kind, fd) : fd;
		if (rep.ret == -EAGAIN && k->kind != RELAY_DGRAM) /* as one waits for room in its queue */
			err = EAGAIN;
	}
	log_debug("family %s: connects to %s: %lld", k->f->id, k->to.sun_path, (long long)rep.ret);
	rpc_reply(k->rq, err, &rep.base, NULL, 0, NULL, NULL);
	family_put(k->f);
	free(k);
	return NULL;
}

void connect_serve(struct family *f, struct rpc_request *rq)
{
	const Sprite__Mig__CallReq *r = (const Sprite__Mig__CallReq *)rpc_request_msg(rq)->msg;
	Sprite__Mig__CallRep no = SPRITE__MIG__CALL_REP__INIT;
	struct making *k = calloc(1, sizeof(*k));

	if (k && r->n_arg == 6 && kind_of(r->arg[1], &k->kind) && name_of(&k->to, r->in.data, r->in.len)) {
		k->f = f;
		k->rq = rq;
		k->gen = r->gen;
		k->id = number(r->id);
		k->type = (int)r->arg[1];
		user_of(&k->user, f, r->pid, (uid_t)r->arg[4], (gid_t)r->arg[5]);
		if (!thread_run(make_main, k))
			return;
	}
	free(k);
	rpc_reply(rq, EINVAL, &no.base, NULL, 0, NULL, NULL);
	family_put(f);
}

struct sending {
	struct user_ids user;
	struct sockaddr_un to;
	const char *run;
	pid_t pid;
	const void *data;
	size_t len;
};

/* In a process of its own. */
static int child_send(const void *arg, void *answer)
{
	const struct sending *s = arg;
	union {
		char buf[CMSG_SPACE(sizeof(struct ucred))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec v = { (void *)s->data, s->len };
	struct msghdr h = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	struct ucred who = { s->pid, s->user.uid, s->user.gid };
	int64_t *ret = answer;
	int fd = user_files(&s->user) ? connect_to(&s->to, SOCK_DGRAM, s->run) : -EPERM;

	*ret = fd;
	if (fd < 0)
		return -1;
	*CMSG_FIRSTHDR(&h) = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(who)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_CREDENTIALS };
	memcpy(CMSG_DATA(CMSG_FIRSTHDR(&h)), &who, sizeof(who));
	*ret = sendmsg(fd, &h, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (*ret < 0)
		*ret = -errno;
	return -1;
}

bool connect_send_valid(const struct eng_foreign *c)
{
	struct sockaddr_un to;

	return c->nr == SYS_sendto && c->in_arg == 4 && c->out_arg == -1 && name_of(&to, c->in, c->in_len);
}

int64_t connect_send(struct family *f, const struct eng_foreign *c, const void *data, size_t len)
{
	struct sending *s = calloc(1, sizeof(*s));
	const struct member *m;
	int64_t ret = -ENOMEM;

	if (!s || !name_of(&s->to, c->in, c->in_len)) {
		free(s);
		return ret;
	}
	if (c->arg[2]) {
		log_warn("family %s: a datagram for %s cannot be sent from another host: %s", f->id, s->to.sun_path,
			c->arg[2] & SEND_DESCRIPTORS ? "it carries descriptors (SCM_RIGHTS)" : "its socket has a name, to which no answer would find");
		free(s);
		return -EOPNOTSUPP;
	}
	user_of(&s->user, f, c->pid, (uid_t)c->arg[4], (gid_t)c->arg[5]);
	s->run = f->m->conf->run_dir;
	s->data = data;
	s->len = len;
	pthread_mutex_lock(&f->lock);
	m = family_member(f, c->pid);
	s->pid = m && m->hollow ? c->pid : f->pid;
	pthread_mutex_unlock(&f->lock);
	if (user_run(child_send, s, MADE_MS, &ret, sizeof(ret), NULL))
		ret = -EHOSTDOWN;
	log_debug("family %s: %zu bytes to %s: %lld", f->id, len, s->to.sun_path, (long long)ret);
	free(s);
	return ret;
}
