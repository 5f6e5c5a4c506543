// SPDX-License-Identifier: Apache-2.0
/*
 * See connect.h. The connection is made by a process with the family's ids, so that the rights of the socket file, and who the server sees (SO_PEERCRED: uid and gid; the number
 * is of one that has ended), are as they would be. Its number as a relay comes from that of the call, so that one that is asked for again is the same.
 *
 * A guest host is not believed about whose the process is, but of a family of root, which could be anybody.
 */
#include "migd/connect.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/log.h"
#include "migd/engine/aim.h"
#include "migd/mig_rpc.h"
#include "migd/relay_rpc.h"
#include "migd/relays.h"

enum { MADE_MS = 2000, GROUPS = 1024 };

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
	uid_t uid;
	gid_t gid, groups[GROUPS];
	size_t ngroups;
};

/* Those of the hollow, which are the process's own as it left. */
static void read_groups(struct making *k, pid_t pid)
{
	_cleanup_free_ char *line = NULL;
	char path[40];
	size_t room = 0;
	FILE *f;

	pthread_mutex_lock(&k->f->lock);
	const struct member *m = family_member(k->f, pid);

	if (!m || !m->hollow)
		pid = k->f->pid;
	pthread_mutex_unlock(&k->f->lock);
	k->groups[k->ngroups++] = k->gid;
	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	f = fopen(path, "re");
	while (f && getline(&line, &room, f) > 0) {
		char *s = line + 7, *end;

		if (strncmp(line, "Groups:", 7))
			continue;
		for (unsigned long g = strtoul(s, &end, 10); end != s && k->ngroups < GROUPS; g = strtoul(s, &end, 10)) {
			k->groups[k->ngroups++] = (gid_t)g;
			s = end;
		}
	}
	if (f)
		fclose(f);
}

struct made {
	int err;
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
};

static struct msghdr message(struct made *m, struct iovec *v)
{
	*v = (struct iovec){ &m->err, sizeof(m->err) };
	return (struct msghdr){ .msg_iov = v, .msg_iovlen = 1, .msg_control = &m->control, .msg_controllen = sizeof(m->control) };
}

/* Our own daemons ask who is at the other end, and mean a process of this host. By whatever path: it is told by the name that they gave their socket. */
static bool is_our_own(const struct making *k, int fd)
{
	const char *run = k->f->m->conf->run_dir;
	struct sockaddr_un peer = { 0 };
	socklen_t len = sizeof(peer) - 1;
	size_t n = strlen(run);

	return getpeername(fd, (struct sockaddr *)&peer, &len) || (!strncmp(peer.sun_path, run, n) && peer.sun_path[n] == '/');
}

/* In a process of its own. Raw calls: nobody else of our threads lives here. */
static void child_main(const struct making *k, int answer)
{
	struct made m = { .err = -EPERM };
	struct iovec v;
	struct msghdr h;
	int fd = -1;

	if (!syscall(SYS_setgroups, k->ngroups, k->groups) && !syscall(SYS_setresgid, k->gid, k->gid, k->gid) && !syscall(SYS_setresuid, k->uid, k->uid, k->uid) &&
		!prctl(PR_SET_DUMPABLE, 0) && !prctl(PR_SET_PDEATHSIG, SIGKILL)) { /* not this user's to look into; nor does it stay when we die */
		fd = socket(AF_UNIX, k->type | SOCK_CLOEXEC, 0);
		m.err = fd < 0 || connect(fd, (const struct sockaddr *)&k->to, sizeof(k->to)) ? -errno : is_our_own(k, fd) ? -ECONNREFUSED : 0;
	}
	h = message(&m, &v);
	*CMSG_FIRSTHDR(&h) = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
	memcpy(CMSG_DATA(CMSG_FIRSTHDR(&h)), &fd, sizeof(fd));
	if (m.err)
		h.msg_controllen = 0;
	_exit(sendmsg(answer, &h, MSG_NOSIGNAL) != sizeof(m.err));
}

/* The connection or -errno; -EAGAIN: the server does not take it just now. */
static int connect_as_user(const struct making *k)
{
	struct pollfd p = { .events = POLLIN };
	struct made m = { .err = -EAGAIN };
	struct iovec v;
	struct msghdr h = message(&m, &v);
	int s[2], fd = -1;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s))
		return -errno;
	aim_hold();
	pid = _Fork();
	if (!pid)
		child_main(k, s[1]);
	aim_let_go();
	close(s[1]);
	p.fd = s[0];
	if (pid > 0 && poll(&p, 1, MADE_MS) == 1 && recvmsg(s[0], &h, MSG_CMSG_CLOEXEC) == sizeof(m.err) && !m.err && CMSG_FIRSTHDR(&h))
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&h)), sizeof(fd));
	close(s[0]);
	if (pid > 0) {
		kill(pid, SIGKILL);
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	return fd >= 0 ? fd : m.err ? m.err : -EAGAIN;
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

	if (k && r->n_arg == 6 && kind_of(r->arg[1], &k->kind) && r->in.len && r->in.len < sizeof(k->to.sun_path) && r->in.data[0] == '/' && !memchr(r->in.data, 0, r->in.len)) {
		k->f = f;
		k->rq = rq;
		k->gen = r->gen;
		k->id = number(r->id);
		k->type = (int)r->arg[1];
		k->to.sun_family = AF_UNIX;
		memcpy(k->to.sun_path, r->in.data, r->in.len);
		k->uid = f->uid ? f->uid : (uid_t)r->arg[4];
		k->gid = f->uid ? f->gid : (gid_t)r->arg[5];
		if (f->uid || !k->uid)
			read_groups(k, r->pid);
		if (!thread_run(make_main, k))
			return;
	}
	free(k);
	rpc_reply(rq, EINVAL, &no.base, NULL, 0, NULL, NULL);
	family_put(f);
}
