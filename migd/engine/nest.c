// SPDX-License-Identifier: Apache-2.0
/*
 * Nests: starting the keeper, asking it for vessels, hearing of exits and stops (keeper.h). The keeper is not our child for long (its outer half ends),
 * so that a nest survives us; its death shows on its pidfd.
 */
#include "migd/engine/aim.h"
#include "migd/engine/nest.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/log.h"
#include "migd/engine/procfs.h"

enum { KEEPER_SOCK = 3, KEEPER_LISTEN = 4, REPLY_MS = 20000, OFFSET_TICKS = 10 };

static int listen_abstract(struct nest *n)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), len;
	uint64_t random = 0;

	if (getentropy(&random, sizeof(random)) < 0 || fd < 0)
		return -errno;
	len = snprintf(n->name, sizeof(n->name), "sprite-keeper-%016lx", (long)random);
	memcpy(a.sun_path + 1, n->name, len);
	if (bind(fd, (void *)&a, offsetof(struct sockaddr_un, sun_path) + 1 + len) < 0 || listen(fd, 1) < 0) {
		close(fd);
		return -errno;
	}
	return fd;
}

static pid_t spawn(const char *keeper, int sock, int lsock)
{
	char *const argv[] = {(char *)keeper, NULL}, *const envp[] = {NULL};
	pid_t pid;

	aim_hold();
	pid = vfork();
	if (pid) {
		aim_let_go();
		return pid;
	}
	/* our numbers are close-on-exec and may themselves be 3 or 4 */
	{
		int s = fcntl(sock, F_DUPFD, 10), l = fcntl(lsock, F_DUPFD, 10);
		sigset_t none;

		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		if (s < 0 || l < 0 || dup2(s, KEEPER_SOCK) < 0 || dup2(l, KEEPER_LISTEN) < 0)
			_exit(127);
		syscall(SYS_close_range, 5, ~0U, 0);
		execve(keeper, argv, envp);
		_exit(127);
	}
}

/* One message with its sender's pid. 0, -ETIMEDOUT, -ECONNRESET. */
static int receive(struct nest *n, struct keeper_msg *m, pid_t *sender, int ms)
{
	char space[CMSG_SPACE(sizeof(struct ucred))];
	struct iovec v[2] = {{m, sizeof(*m)}, {n->data, sizeof(n->data)}};
	struct msghdr h = {.msg_iov = v, .msg_iovlen = 2, .msg_control = space, .msg_controllen = sizeof(space)};
	struct pollfd pf = {n->sock, POLLIN, 0};
	struct cmsghdr *c;
	ssize_t got;
	int r;

	while ((r = poll(&pf, 1, ms)) < 0 && errno == EINTR)
		;
	if (r <= 0)
		return r < 0 ? -errno : -ETIMEDOUT;
	got = recvmsg(n->sock, &h, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	if (got < (ssize_t)sizeof(*m) || (size_t)got - sizeof(*m) != (m->op == KEEPER_CALL ? (size_t)m->status : 0))
		return got < 0 ? -errno : -ECONNRESET;
	if (sender)
		*sender = 0;
	for (c = CMSG_FIRSTHDR(&h); c; c = CMSG_NXTHDR(&h, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_CREDENTIALS && sender)
			*sender = ((struct ucred *)CMSG_DATA(c))->pid;
	return 0;
}

/* fd: a descriptor that goes along; -1: none. */
static int send_along(int sock, const struct keeper_msg *m, int fd)
{
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	struct iovec v = {(void *)m, sizeof(*m)};
	struct msghdr h = {.msg_iov = &v, .msg_iovlen = 1};

	if (fd >= 0) {
		h.msg_control = &control;
		h.msg_controllen = sizeof(control);
		*CMSG_FIRSTHDR(&h) = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&h)), &fd, sizeof(fd));
	}
	return sendmsg(sock, &h, MSG_NOSIGNAL) == sizeof(*m) ? 0 : -errno;
}

static int timer_start(struct eng_family *f);

/* The family's number of a process of this host, 0: it has none. */
static pid_t family_number_of(pid_t host)
{
	char path[64];
	pid_t vpid;
	int depth;

	snprintf(path, sizeof(path), "/proc/%d/status", host);
	return host > 0 && procfs_nspid(AT_FDCWD, path, &vpid, &depth) == 0 && depth > 1 ? vpid : 0;
}

static void on_event(struct eng_family *f, const struct keeper_msg *m)
{
	struct eng_event ev = {.pid = m->pid, .status = m->status, .usage = m->usage};
	struct eng_proc *p = eng_proc_by_vpid(f, m->pid);

	switch (m->op) {
	case KEEPER_EXIT:
		ev.kind = ENG_EXITED;
		if (p) {
			if (p->core->exit_sent)
				return;
			p->core->dead = p->core->exit_sent = p->core->known = true;
		}
		nest_tell_young(f);
		held_tell(f);
		break;
	case KEEPER_STOP:
		ev.kind = ENG_STOPPED;
		ev.info.si_signo = m->status;
		break;
	case KEEPER_CONT:
		ev.kind = ENG_CONTINUED;
		break;
	case KEEPER_CALL:
		if (f->hooks.call)
			f->hooks.call(f->hooks.ctx, &m->call, f->nest->data, (size_t)m->status);
		return;
	default:
		return;
	}
	event_push(f, &ev);
}

/* The reply to `op`; events that come before it are queued. */
static int await(struct eng_family *f, struct nest *n, uint32_t op, struct keeper_msg *m, pid_t *sender)
{
	for (;;) {
		int r = receive(n, m, sender, REPLY_MS);

		if (r < 0)
			return r;
		if (m->op == op || (m->op == KEEPER_READY && m->err))
			return m->err ? -m->err : 0;
		n->awaited = true;
		if (f)
			on_event(f, m);
		n->awaited = false;
	}
}

int eng_nest_make(const struct eng_nest_opts *o, struct nest **out, struct error *e)
{
	struct keeper_setup s = {.op = KEEPER_SETUP_AHEAD, .host_network = o->host_network};
	struct nest *n = calloc(1, sizeof(*n));
	int pair[2] = {-1, -1}, lsock, one = 1, st, r;
	struct keeper_msg m;
	pid_t outer;

	if (!n)
		return error_set(e, ENOMEM, "no memory");
	n->pidfd = n->sock = n->timer = -1;
	snprintf(s.hostname, sizeof(s.hostname), "%s", o->hostname);
	snprintf(s.root, sizeof(s.root), "%s", o->root ? o->root : "");
	snprintf(s.sprite, sizeof(s.sprite), "%s", o->sprite ? o->sprite : "");
	snprintf(s.cgroup, sizeof(s.cgroup), "%s", o->cgroup ? o->cgroup : "");
	lsock = listen_abstract(n);
	if (lsock < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		nest_free(n);
		return error_set(e, errno, "keeper: sockets: %s", strerror(errno));
	}
	n->sock = pair[0];
	setsockopt(n->sock, SOL_SOCKET, SO_PASSCRED, &one, sizeof(one));
	outer = spawn(o->keeper, pair[1], lsock);
	close(pair[1]);
	close(lsock);
	r = outer < 0 ? -errno : send(n->sock, &s, sizeof(s), MSG_NOSIGNAL) < 0 ? -errno : await(NULL, n, KEEPER_READY, &m, &n->keeper);
	if (outer > 0)
		waitpid(outer, &st, 0);
	if (r == 0)
		n->pidfd = syscall(SYS_pidfd_open, n->keeper, 0);
	if (r < 0 || n->pidfd < 0) {
		nest_free(n);
		return error_set(e, r < 0 ? -r : ESRCH, "%s cannot make the namespaces (root %s): %s", o->keeper, s.root, strerror(r < 0 ? -r : ESRCH));
	}
	*out = n;
	return 0;
}

pid_t eng_nest_keeper(const struct nest *n)
{
	struct pollfd pf = {n->pidfd, POLLIN, 0};

	return poll(&pf, 1, 0) == 0 ? n->keeper : -ESRCH;
}

pid_t eng_keeper(const struct eng_family *f)
{
	return f->nest ? eng_nest_keeper(f->nest) : -ESRCH;
}

void eng_nest_drop(struct nest *n)
{
	if (n)
		nest_kill(n);
	nest_free(n);
}

int nest_keep(struct eng_family *f, int fd)
{
	struct keeper_msg m = {.op = KEEPER_KEEP};
	int r = send_along(f->nest->sock, &m, fd);

	if (r == 0)
		r = await(f, f->nest, KEEPER_KEEP, &m, NULL);
	return r < 0 ? r : m.status;
}

/* What numbers its files had where it remembers them from. */
static void give_devices(struct eng_family *f, struct nest *n)
{
	int len = f->devices ? (int)strlen(f->devices) : 0, r;
	struct keeper_msg m = {.op = KEEPER_DEVICES, .status = len};

	if (!len)
		return;
	r = send(n->sock, &m, sizeof(m), MSG_NOSIGNAL) < 0 || send(n->sock, f->devices, len, MSG_NOSIGNAL) < 0 ? -errno : await(f, n, KEEPER_DEVICES, &m, NULL);
	if (r < 0)
		log_warn("engine: the family of process %d sees other device numbers (st_dev) here than at home: %s", f->nprocs ? f->procs[0]->vpid : 0, strerror(-r));
}

void nest_hear(struct eng_family *f)
{
	struct keeper_msg m;

	if (!f->nest || f->nest->lost)
		return;
	f->nest->awaited = true;
	while (receive(f->nest, &m, NULL, 0) == 0)
		on_event(f, &m);
	f->nest->awaited = false;
}

void nest_hurry(struct eng_family *f, pid_t vtid)
{
	struct keeper_msg m = {.op = KEEPER_HURRY, .tid = vtid};

	/* The answer is waited for: who is let go of before would be told to restart a call with nothing that makes it do so. */
	if (send(f->nest->sock, &m, sizeof(m), MSG_NOSIGNAL) == sizeof(m))
		await(f, f->nest, KEEPER_HURRY, &m, NULL);
}

int nest_settle(struct eng_family *f, struct nest *n, int64_t mono_offset, int64_t boot_offset, struct error *e)
{
	struct keeper_msg m = {.op = KEEPER_CLOCKS, .mono_offset = mono_offset, .boot_offset = boot_offset};
	int r;

	give_devices(f, n);
	r = send(n->sock, &m, sizeof(m), MSG_NOSIGNAL) < 0 ? -errno : await(f, n, KEEPER_CLOCKS, &m, NULL);
	f->nest = n;
	if (r < 0)
		return error_set(e, -r, "the clocks of the nest (keeper: process %d) cannot be set: %s", n->keeper, strerror(-r));
	r = events_add(f, n->sock);
	return r < 0 ? r : timer_start(f);
}

int nest_attach(struct eng_family *f, const char *name, pid_t keeper, struct error *e)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	struct nest *n = calloc(1, sizeof(*n));
	int len, one = 1, r;

	if (!n)
		return error_set(e, ENOMEM, "no memory");
	len = snprintf(n->name, sizeof(n->name), "%s", name);
	n->keeper = keeper;
	n->timer = -1;
	n->pidfd = syscall(SYS_pidfd_open, keeper, 0);
	n->sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	memcpy(a.sun_path + 1, name, len);
	setsockopt(n->sock, SOL_SOCKET, SO_PASSCRED, &one, sizeof(one));
	r = connect(n->sock, (void *)&a, offsetof(struct sockaddr_un, sun_path) + 1 + len) < 0 ? -errno : 0;
	if (r < 0) {
		nest_free(n);
		return error_set(e, -r, "the keeper of the nest (process %d) does not answer: %s", keeper, strerror(-r));
	}
	f->nest = n;
	r = events_add(f, n->sock);
	return r < 0 ? r : timer_start(f);
}

int nest_hello(struct eng_family *f, struct error *e)
{
	struct keeper_msg m = {.op = KEEPER_HELLO};
	int r = send(f->nest->sock, &m, sizeof(m), MSG_NOSIGNAL) < 0 ? -errno : await(f, f->nest, KEEPER_READY, &m, NULL);

	return r < 0 ? error_set(e, -r, "the keeper of the nest (process %d) does not answer: %s", f->nest->keeper, strerror(-r)) : 0;
}

int nest_vessel(struct nest *n, pid_t vpid, pid_t ppid, pid_t pgid, pid_t sid, pid_t *pid, struct error *e)
{
	struct keeper_msg m = {.op = KEEPER_VESSEL, .pid = vpid, .ppid = ppid, .pgid = pgid, .sid = sid};
	int r = send(n->sock, &m, sizeof(m), MSG_NOSIGNAL) < 0 ? -errno : await(NULL, n, KEEPER_VESSEL, &m, pid);

	if (r < 0)
		return error_set(e, -r, "no vessel with pid %d: %s", vpid, strerror(-r));
	return 0;
}

void nest_kill(struct nest *n)
{
	struct pollfd pf = {n->pidfd, POLLIN, 0};

	if (n->pidfd < 0)
		return;
	syscall(SYS_pidfd_send_signal, n->pidfd, SIGKILL, NULL, 0);
	/* The kernel has taken all of the nest with it when this is readable; it waits for us to reap what we trace. */
	for (int i = 0; i < 5000 && poll(&pf, 1, i ? 1 : 0) == 0; i++) {
		int st;
		pid_t r;

		while ((r = waitpid(-1, &st, __WALL | __WNOTHREAD | WNOHANG)) > 0)
			if (WIFSTOPPED(st))
				ptrace(PTRACE_CONT, r, 0, 0);
	}
}

void nest_free(struct nest *n)
{
	if (!n)
		return;
	if (n->sock >= 0)
		close(n->sock);
	if (n->pidfd >= 0)
		close(n->pidfd);
	if (n->timer >= 0)
		close(n->timer);
	free(n);
}

pid_t nest_refreeze(struct eng_family *f, pid_t vpid)
{
	struct eng_proc *p;

	for (size_t i = f->nprocs; i-- > 0;) {
		f->procs[i]->core->seen = false;
		while (f->procs[i]->nthreads)
			thread_drop(f->procs[i], f->procs[i]->nthreads - 1);
		if (f->procs[i]->core->dead)
			proc_drop(f, i);
	}
	p = eng_proc_by_vpid(f, vpid);
	if (!p && f->nprocs) /* the root has ended: whom it left are a family all the same */
		p = f->procs[0];
	return p ? p->pid : -ESRCH;
}

bool nest_is_standin(const struct nest *n, pid_t pid)
{
	struct stat a, b;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/exe", n->keeper);
	if (stat(path, &a) < 0)
		return false;
	snprintf(path, sizeof(path), "/proc/%d/exe", pid);
	return stat(path, &b) == 0 && a.st_ino == b.st_ino && a.st_dev == b.st_dev;
}

void nest_running(struct eng_family *f)
{
	f->state = ENG_RUNNING;
	for (size_t i = 0; i < f->nprocs; i++) { /* nothing is traced any more */
		struct eng_proc *p = f->procs[i];

		if (p->nthreads) /* what its home calls it */
			memcpy(p->core->comm, p->threads[0]->core->comm, sizeof(p->core->comm));
		while (p->nthreads)
			thread_drop(p, p->nthreads - 1);
	}
}

/* ---- births and deaths ------------------------------------------------------------------------------ */
enum { LOOKS_UNTOLD = 3 }; /* who is not there in so many looks, a tenth of a second apart, need not be known at home */

static void tell_born(struct eng_family *f, struct eng_proc *p)
{
	struct eng_event ev = {.kind = ENG_BORN, .pid = p->vpid, .ppid = p->core->born_of};
	struct procfs_stat st;

	p->core->known = true;
	if (p->dir < 0 && proc_open(p) < 0)
		return;
	if (procfs_stat(p->dir, &st) < 0)
		return;
	ev.pgid = family_number_of(st.pgid);
	ev.sid = family_number_of(st.sid);
	ev.exit_signal = 1 + st.exit_signal;
	snprintf(ev.comm, sizeof(ev.comm), "%.16s", st.comm);
	memcpy(p->core->comm, ev.comm, sizeof(ev.comm));
	event_push(f, &ev);
}

static void named(struct eng_family *f, struct eng_proc *p, const char *status)
{
	struct eng_event ev = {.kind = ENG_NAMED, .pid = p->vpid};
	const char *s = eng_field(status, "Name");

	snprintf(ev.comm, sizeof(ev.comm), "%.*s", s ? (int)strcspn(s, "\n") : 0, s ? s : "");
	if (!*ev.comm || !strcmp(ev.comm, p->core->comm))
		return;
	memcpy(p->core->comm, ev.comm, sizeof(ev.comm));
	event_push(f, &ev);
}

static void born(struct eng_family *f, pid_t pid, pid_t ppid)
{
	_cleanup_free_ char *status = NULL;
	struct eng_proc *p;
	char path[64];
	pid_t vpid;
	int depth;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	status = eng_proc_read(AT_FDCWD, path, NULL);
	if (procfs_nspid_in(status, &vpid, &depth) < 0)
		return;
	p = eng_proc_by_vpid(f, vpid);
	if (!p) {
		p = proc_new(f, pid, vpid);
		if (!p)
			return;
		p->core->born_of = ppid; /* 1: its parent has ended already */
	}
	if (!p->core->known && ++p->core->fresh >= LOOKS_UNTOLD)
		tell_born(f, p);
	else if (p->core->known)
		named(f, p, status);
	p->core->seen = true;
}

/* own: below the keeper or one of its stand-ins, who tell of its end. */
static void scan_below(struct eng_family *f, pid_t pid, pid_t vpid, bool own)
{
	_cleanup_free_ pid_t *kids = NULL;
	ssize_t n = procfs_children(pid, &kids);

	for (ssize_t i = 0; i < n; i++) {
		struct eng_proc *p = NULL;

		if (nest_is_standin(f->nest, kids[i])) {
			scan_below(f, kids[i], vpid, true);
			continue;
		}
		born(f, kids[i], vpid);
		for (size_t k = 0; k < f->nprocs && !p; k++)
			if (f->procs[k]->pid == kids[i])
				p = f->procs[k];
		if (!p)
			continue;
		p->core->of_member = !own;
		scan_below(f, kids[i], p->vpid, false);
	}
}

/* Forks are not traced (that would cost every fork): the tree is looked at ten times a second. */
static void scan(struct eng_family *f)
{
	for (size_t i = 0; i < f->nprocs; i++)
		f->procs[i]->core->seen = false;
	scan_below(f, f->nest->keeper, 1, true);
	for (size_t i = f->nest->awaited ? 0 : f->nprocs; i-- > 0;) {
		struct eng_proc *p = f->procs[i];
		struct eng_event ev = {.kind = ENG_EXITED, .pid = p->vpid};

		if (p->core->seen || (i == 0 && (p->core->dead || !p->core->of_member))) /* the root's status is on its way */
			continue;
		if (!p->core->exit_sent && p->core->known) /* its own parent has waited for it: nobody else wants its status */
			event_push(f, &ev);
		proc_drop(f, i);
	}
}

/* Somebody ends: who is an orphan now must be known at home before that, while there is a hollow that its placeholder can be a child of. */
void nest_tell_young(struct eng_family *f)
{
	if (f->state == ENG_RUNNING)
		scan(f);
	for (size_t i = 0; i < f->nprocs; i++) {
		struct eng_proc *p = f->procs[i];

		if (p->core->known || p->core->dead)
			continue;
		if (!p->core->born_of)
			p->core->born_of = p->parent ? p->parent->vpid : 1;
		tell_born(f, p);
	}
}

void nest_all_known(struct eng_family *f)
{
	for (size_t i = 0; i < f->nprocs; i++)
		f->procs[i]->core->known = true;
}

static int timer_start(struct eng_family *f)
{
	struct itimerspec every = {{0, 100000000}, {0, 100000000}};

	f->nest->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (f->nest->timer < 0 || timerfd_settime(f->nest->timer, 0, &every, NULL) < 0)
		return -errno;
	return events_add(f, f->nest->timer);
}

/* Who kills the pid 1 of a namespace kills all in it. */
static void all_killed(struct eng_family *f)
{
	for (size_t i = f->nprocs; i-- > 0;) {
		struct eng_proc *p = f->procs[i];
		struct eng_event ev = {.kind = ENG_EXITED, .pid = p->vpid, .status = SIGKILL};

		if (!p->core->exit_sent && p->core->known)
			event_push(f, &ev);
		p->core->dead = p->core->exit_sent = p->core->known = true;
	}
}

void nest_collect(struct eng_family *f)
{
	struct nest *n = f->nest;
	struct keeper_msg m;
	uint64_t ticks;
	int r;

	while (!n->lost && (r = receive(n, &m, NULL, 0)) != -ETIMEDOUT && r != -EAGAIN && r != -EINTR) {
		if (r == 0) {
			on_event(f, &m);
			continue;
		}
		log_error("engine: the keeper (process %d) of a nest with %zu processes has died, and they with it", n->keeper, f->nprocs);
		n->lost = true;
		epoll_ctl(f->event_fd, EPOLL_CTL_DEL, n->sock, NULL);
	}
	if (read(n->timer, &ticks, sizeof(ticks)) != sizeof(ticks) || f->state != ENG_RUNNING)
		return; /* of who is parked nobody knows yet whether it was this copy that counts */
	if (++n->ticks % OFFSET_TICKS == 0)
		held_tell(f);
	if (n->lost)
		all_killed(f);
	else
		scan(f);
}

int eng_exit_told(struct eng_family *f, pid_t pid)
{
	struct keeper_msg m = {.op = KEEPER_TOLD, .pid = pid};

	if (!f->nest)
		return -EINVAL;
	return send(f->nest->sock, &m, sizeof(m), MSG_NOSIGNAL) < 0 ? -errno : 0;
}

int eng_nest_held(struct eng_family *f)
{
	struct keeper_msg m = {.op = KEEPER_HELD};

	return send(f->nest->sock, &m, sizeof(m), MSG_NOSIGNAL) < 0 ? -errno : 0;
}

int eng_answer_fd(struct eng_family *f)
{
	int fd = f->nest ? fcntl(f->nest->sock, F_DUPFD_CLOEXEC, 0) : -1;

	return fd < 0 ? -ESRCH : fd;
}

int eng_call_answer(int fd, const struct eng_foreign *c, int got)
{
	struct keeper_msg m = {.op = KEEPER_ANSWER, .call = *c};

	return send_along(fd, &m, got) < 0 ? -ESRCH : 0;
}

int nest_self_begin(struct eng_family *f, uint64_t seq)
{
	struct keeper_msg m = {.op = KEEPER_SELF, .seq = seq};
	int r;

	if (!seq)
		return 0;
	if (send(f->nest->sock, &m, sizeof(m), MSG_NOSIGNAL) < 0)
		return -errno;
	r = await(f, f->nest, KEEPER_SELF, &m, NULL);
	return r == -EINVAL ? 0 : r; /* a keeper of before an upgrade: as it was then */
}

void nest_self_done(const struct nest *n, uint64_t seq)
{
	struct keeper_msg m = {.op = KEEPER_SELF_DONE, .seq = seq};

	if (seq)
		send(n->sock, &m, sizeof(m), MSG_NOSIGNAL);
}

int eng_signal(struct eng_family *f, pid_t pid, pid_t tid, const siginfo_t *info, uint64_t seq)
{
	struct keeper_msg m = {.op = KEEPER_SIGNAL, .pid = pid, .tid = tid, .seq = seq, .info = *info};

	if (!f->nest)
		return -EINVAL;
	if (sigqueue_needed(info)) { /* what only the target may queue with its siginfo */
		struct eng_proc *p = eng_proc_by_vpid(f, pid);

		int r = p ? sigqueue_self(f, p, tid, info, seq) : -ESRCH;

		if (r == 0 || r == -EINPROGRESS)
			return r ? -EAGAIN : 0;
	}
	if (send(f->nest->sock, &m, sizeof(m), MSG_NOSIGNAL) < 0)
		return -errno;
	return await(f, f->nest, KEEPER_SIGNAL, &m, NULL);
}
