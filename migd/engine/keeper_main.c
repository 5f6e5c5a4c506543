// SPDX-License-Identifier: Apache-2.0
/*
 * sprite-keeper: stays in the namespaces of a guest family as their pid 1. Static, because below it the root view is the home's. Its outer half, which makes them
 * and ends, is keeper_nest.c.
 *
 *   inner   (pid 1) makes vessels on request, delivers signals, reaps, reports. When migd goes away it goes on and lets a new migd connect.
 *   stand-in  a process that has the number of somebody who stayed at home (parent, group or session leader) so that getppid, getpgrp and getsid of
 *           the family are the home's. It reaps its children and tells the inner by a pipe.
 *   vessel  a child that closed everything, blocks all signals and sleeps: the engine does the rest.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "migd/engine/keeper_calls.h"
#include "migd/engine/keeper_connect.h"
#include "migd/engine/keeper_nest.h"
#include "migd/engine/keeper_stat.h"

enum { SOCK = 3, LISTEN = 4, REPORT_IN = 5, REPORT_OUT = 6, CALLS = 7, OLD = 8 };
static bool held; /* a migd that comes after ours can find us */
static int calls = -1; /* readable: calls_take() */
static int connects = -1; /* connect_ask() */
static int conn = SOCK; /* -1: migd is away; events wait in the kernel as zombies and in the report pipe */

void fail(const char *what)
{
	struct keeper_msg m = {.op = KEEPER_READY, .err = errno ? errno : EINVAL};

	fprintf(stderr, "sprite-keeper: %s: %s\n", what, strerror(errno));
	if (conn >= 0)
		send(conn, &m, sizeof(m), MSG_NOSIGNAL);
	_exit(1);
}

/* ---- processes ------------------------------------------------------------------------------------- */
static pid_t clone_as(pid_t want)
{
	pid_t tid[1] = {want};
	struct clone_args a = {.exit_signal = SIGCHLD, .set_tid = (uintptr_t)tid, .set_tid_size = 1};

	return syscall(SYS_clone3, &a, sizeof(a));
}

/* What a waitid() has brought, as a message. false: a tracer's business. */
static bool report_of(const siginfo_t *si, const struct rusage *ru, struct keeper_msg *out)
{
	struct keeper_msg m = {.op = KEEPER_EXIT, .pid = si->si_pid, .usage = *ru};

	switch (si->si_code) {
	case CLD_EXITED:
		m.status = (si->si_status & 0xff) << 8;
		break;
	case CLD_KILLED:
		m.status = si->si_status & 0x7f;
		break;
	case CLD_DUMPED:
		m.status = (si->si_status & 0x7f) | 0x80;
		break;
	case CLD_STOPPED:
		m.op = KEEPER_STOP;
		m.status = si->si_status;
		break;
	case CLD_CONTINUED:
		m.op = KEEPER_CONT;
		break;
	default:
		return false;
	}
	*out = m;
	return true;
}

/* Ends that the home does not know of yet, as far as we know: kept for a migd that comes after one which died with them. */
static struct keeper_msg *untold;
static size_t nuntold, untold_room;

static void tell(const struct keeper_msg *m)
{
	if (m->op == KEEPER_EXIT) {
		if (nuntold == untold_room) {
			size_t room = untold_room ? untold_room * 2 : 16;
			struct keeper_msg *more = realloc(untold, room * sizeof(*more));

			if (!more)
				fail("memory"); /* the nest ends with us: its home learns that it is lost, which is true */
			untold = more;
			untold_room = room;
		}
		untold[nuntold++] = *m;
	}
	send(conn, m, sizeof(*m), MSG_NOSIGNAL);
}

/* KEEPER_CALL, with its data in the same packet. */
static void tell_call(const struct keeper_msg *m, const void *data)
{
	struct iovec v[2] = {{(void *)m, sizeof(*m)}, {(void *)data, (size_t)m->status}};
	struct msghdr h = {.msg_iov = v, .msg_iovlen = data ? 2 : 1};

	calls_own(SYS_sendmsg, conn, (long)&h, MSG_NOSIGNAL, 0);
}

static void tell_again(void)
{
	for (size_t i = 0; i < nuntold; i++)
		send(conn, &untold[i], sizeof(untold[i]), MSG_NOSIGNAL);
}

static void told(pid_t pid)
{
	for (size_t i = 0; i < nuntold; i++)
		if (untold[i].pid == pid) {
			memmove(&untold[i], &untold[i + 1], (--nuntold - i) * sizeof(*untold));
			return;
		}
}

static int wait_one(siginfo_t *si, int flags, struct rusage *ru)
{
	memset(si, 0, sizeof(*si));
	return syscall(SYS_waitid, P_ALL, 0, si, WEXITED | WSTOPPED | WCONTINUED | flags, ru);
}

/* Which stand-ins there are: they live as long as the nest. */
static pid_t standin[16];
static unsigned nstandins;

static bool is_standin(pid_t pid)
{
	for (unsigned i = 0; i < nstandins; i++)
		if (standin[i] == pid)
			return true;
	return false;
}

static void vessel_main(pid_t pgid, pid_t sid)
{
	struct keeper_msg m = {.op = KEEPER_VESSEL, .pid = getpid()};
	sigset_t all;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	for (int s = 1; s < 65; s++)
		signal(s, SIG_DFL);
	if (sid == getpid() ? setsid() < 0 : (pgid && getpgrp() != pgid && setpgid(0, pgid) < 0))
		m.err = errno;
	send(conn, &m, sizeof(m), MSG_NOSIGNAL);
	syscall(SYS_close_range, 0, ~0U, 0);
	for (;;)
		ppoll(NULL, 0, NULL, &all);
}

/*
 * A stand-in is told what to make next by a pipe of its own, for parent and session are inherited: who has to be in a session is forked by its leader. All
 * pipes are made before the first stand-in, so that the inner can speak to a grandchild.
 */
struct order {
	pid_t pid, pgid, sid;
	int slot; /* stand-in: which pipe is its own; -1: a vessel */
};
enum { STANDINS = 16, PIPES = 130, KEPT = PIPES + 2 * STANDINS }; /* numbers: above the pipes is what KEEPER_KEEP brings */

static int order_in(int slot)
{
	return PIPES + slot * 2;
}

static int order_out(int slot)
{
	return PIPES + slot * 2 + 1;
}

static void serve_orders(int in);

static pid_t make_child(const struct order *o)
{
	pid_t pid = clone_as(o->pid);

	if (pid == 0) {
		if (o->slot < 0)
			vessel_main(o->pgid, o->sid);
		if (o->sid == getpid())
			setsid();
		else if (o->pgid == getpid())
			setpgid(0, 0);
		serve_orders(order_in(o->slot));
	}
	if (pid > 0 && o->slot >= 0 && o->pgid == o->pid && o->sid != o->pid)
		calls_own(SYS_setpgid, pid, pid, 0, 0); /* as shells do: whoever is made next can join it */
	return pid;
}

/* A stand-in's life. Reports go to the inner. */
static void serve_orders(int in)
{
	sigset_t chld;
	int sfd;

	sigfillset(&chld);
	sigprocmask(SIG_SETMASK, &chld, NULL);
	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	sfd = signalfd(-1, &chld, SFD_CLOEXEC | SFD_NONBLOCK);
	for (;;) {
		struct pollfd pf[2] = {{in, POLLIN, 0}, {sfd, POLLIN, 0}};
		struct signalfd_siginfo ignored;
		struct keeper_msg m;
		struct rusage ru;
		struct order o;
		siginfo_t si;

		if (poll(pf, 2, -1) < 0)
			continue;
		if (pf[0].revents & POLLIN && read(in, &o, sizeof(o)) == sizeof(o) && make_child(&o) < 0) {
			m = (struct keeper_msg){.op = KEEPER_VESSEL, .pid = o.pid, .err = errno};
			send(conn, &m, sizeof(m), MSG_NOSIGNAL);
		}
		if (pf[0].revents & POLLHUP && !(pf[0].revents & POLLIN))
			in = -1;
		while (read(sfd, &ignored, sizeof(ignored)) > 0)
			;
		while (wait_one(&si, WNOHANG, &ru) == 0 && si.si_pid)
			if (report_of(&si, &ru, &m))
				while (write(REPORT_OUT, &m, sizeof(m)) < 0 && errno == EINTR)
					;
	}
}

/* ---- inner ----------------------------------------------------------------------------------------- */
static int find_standin(pid_t pid)
{
	for (unsigned i = 0; i < nstandins; i++)
		if (standin[i] == pid)
			return i;
	return -1;
}

static int give_order(int by, const struct order *o)
{
	if (by < 0)
		return make_child(o) < 0 ? -errno : 0;
	return write(order_out(by), o, sizeof(*o)) == sizeof(*o) ? 0 : -EIO;
}

/* The stand-in's slot, or -errno. by: slot of who forks it, -1: the inner. */
static int have_standin(pid_t pid, pid_t pgid, pid_t sid, int by)
{
	struct order o = {.pid = pid, .pgid = pgid, .sid = sid, .slot = nstandins};
	int r = find_standin(pid);

	if (r >= 0)
		return r;
	if (nstandins == STANDINS)
		return -ENFILE;
	r = give_order(by, &o);
	if (r < 0)
		return r;
	standin[nstandins] = pid;
	return nstandins++;
}

/* Is there a process with this number that is no stand-in: one of the family? */
static bool is_guest(pid_t pid)
{
	return pid > 1 && find_standin(pid) < 0 && calls_own(SYS_kill, pid, 0, 0, 0) == 0;
}

/* For calls about others (keeper_calls.c): a group is here if it does not belong to somebody who stayed at home. */
static bool is_here(pid_t pid)
{
	return pid > 0 ? is_guest(pid) : pid < -1 && find_standin(-pid) < 0 && calls_own(SYS_kill, pid, 0, 0, 0) == 0;
}

/* A vessel with the right parent, group and session, whose owners may all have stayed at home. */
static int make_vessel(const struct keeper_msg *m)
{
	struct order o = {.pid = m->pid, .pgid = m->pgid, .sid = m->sid, .slot = -1};
	int session = -1, group = -1, parent;

	if (m->sid > 1 && m->sid != m->pid && !is_guest(m->sid)) {
		session = have_standin(m->sid, m->sid, m->sid, -1);
		if (session < 0)
			return session;
	}
	if (m->pgid > 1 && m->pgid != m->pid && m->pgid != m->sid && !is_guest(m->pgid)) {
		group = have_standin(m->pgid, m->pgid, m->sid, session);
		if (group < 0)
			return group;
	}
	parent = session;
	if (m->ppid > 1 && m->ppid == m->pgid && group >= 0) {
		parent = group;
	} else if (m->ppid > 1 && m->ppid != m->sid && !is_guest(m->ppid)) {
		parent = have_standin(m->ppid, 0, m->sid, session);
		if (parent < 0)
			return parent;
	}
	if (m->pgid <= 1)
		o.pgid = 0;
	return give_order(parent, &o);
}

static int send_signal(const struct keeper_msg *m)
{
	int sig = m->info.si_signo;
	long r;

	/* SI_USER and the kernel's own codes cannot be queued for others; their sender's number goes along as it was all the same where the kernel lets us. */
	if (m->tid)
		r = calls_own(SYS_rt_tgsigqueueinfo, m->pid, m->tid, sig, (long)&m->info);
	else
		r = calls_own(SYS_rt_sigqueueinfo, m->pid, sig, (long)&m->info, 0);
	if (r < 0 && errno == EPERM)
		r = m->tid ? calls_own(SYS_tgkill, m->pid, m->tid, sig, 0) : calls_own(SYS_kill, m->pid, sig, 0, 0);
	return r < 0 ? -errno : 0;
}

/*
 * A migd that dies after a signal was delivered and before it has noted it is sent it again by the home, and its successor sends it here again.
 * One that its target sends itself (sigqueue.c) is delivered by a tracer that may outlive its migd: it has that one's connection, which we keep for so long.
 */
static uint64_t delivered, begun;
static int old = -1; /* the connection of a migd that has died, perhaps still its tracer's */

static int signal_once(const struct keeper_msg *m)
{
	int r;

	if (m->seq && m->seq <= delivered)
		return 0;
	r = send_signal(m);
	if (m->seq && (r == 0 || r == -ESRCH))
		delivered = m->seq;
	return r;
}

static int may_begin(uint64_t seq)
{
	if (seq <= delivered)
		return -EALREADY;
	if (old >= 0 && begun > delivered)
		return -EINPROGRESS;
	begun = seq;
	return 0;
}

static void signal_done(uint64_t seq)
{
	if (seq > delivered)
		delivered = seq;
}

static void filter_on(void)
{
	connects = connect_start();
	calls = calls_start(CALLS);
	if (calls < 0)
		fprintf(stderr, "sprite-keeper: calls about processes at home are not forwarded: %s\n", strerror(-calls));
}

static void handle(struct keeper_msg *m, int got)
{
	struct keeper_msg reply = {.op = m->op, .pid = m->pid};
	int r = 0;

	switch (m->op) {
	case KEEPER_VESSEL:
		r = make_vessel(m);
		if (r == 0)
			return; /* the vessel itself says so */
		break;
	case KEEPER_SIGNAL:
		r = signal_once(m);
		break;
	case KEEPER_HELD:
		held = true;
		return;
	case KEEPER_DEVICES:
		r = stat_table(SOCK, m->status);
		break;
	case KEEPER_HURRY:
		stat_hurry(m->tid);
		break;
	case KEEPER_KEEP:
		reply.status = fcntl(got, F_DUPFD_CLOEXEC, KEPT);
		r = reply.status < 0 ? -errno : 0;
		break;
	case KEEPER_CLOCKS:
		set_clocks(m->mono_offset, m->boot_offset);
		filter_on();
		prctl(PR_SET_NAME, KEEPER_NAME);
		break;
	case KEEPER_SELF:
		r = may_begin(m->seq);
		break;
	case KEEPER_SELF_DONE:
		signal_done(m->seq);
		return;
	case KEEPER_TOLD:
		told(m->pid);
		return;
	case KEEPER_ANSWER:
		calls_answer(&m->call, got);
		return;
	case KEEPER_HELLO:
		tell_again();
		reply.op = KEEPER_READY;
		send(conn, &reply, sizeof(reply), MSG_NOSIGNAL);
		calls_again(tell_call);
		return;
	default:
		r = -EINVAL;
	}
	reply.err = -r;
	send(conn, &reply, sizeof(reply), MSG_NOSIGNAL);
}

static void reap(void)
{
	struct keeper_msg m;
	struct rusage ru;
	siginfo_t si;

	while (conn >= 0 && wait_one(&si, WNOHANG | WNOWAIT, &ru) == 0 && si.si_pid) {
		wait_one(&si, WNOHANG, &ru);
		if (!is_standin(si.si_pid) && report_of(&si, &ru, &m))
			tell(&m);
	}
}

/* What comes from the connection of a migd that has died: only what tells of something that has been done. */
static void hear_old(void)
{
	struct keeper_msg m;
	ssize_t n;

	while ((n = recv(old, &m, sizeof(m), MSG_DONTWAIT)) == sizeof(m))
		if (m.op == KEEPER_SELF_DONE || m.op == KEEPER_TOLD)
			handle(&m, -1);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	close(old);
	old = -1;
}

static void take_connection(void)
{
	int fd = accept4(LISTEN, NULL, NULL, SOCK_CLOEXEC);
	struct ucred cred;
	socklen_t n = sizeof(cred);

	if (fd < 0)
		return;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &n) < 0 || cred.uid != 0) {
		close(fd);
		return;
	}
	if (conn >= 0 && old < 0 && begun > delivered)
		old = dup3(conn, OLD, O_CLOEXEC);
	if (dup3(fd, SOCK, O_CLOEXEC) < 0) /* vessels and stand-ins speak on the same number */
		conn = -1;
	else
		conn = SOCK;
	close(fd);
}

/* A message, and the descriptor that came along, or -1. */
static ssize_t hear(struct keeper_msg *m, int *along)
{
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec v = {m, sizeof(*m)};
	struct msghdr h = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(conn, &h, MSG_CMSG_CLOEXEC);
	struct cmsghdr *c = n >= 0 ? CMSG_FIRSTHDR(&h) : NULL;

	*along = -1;
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
		memcpy(along, CMSG_DATA(c), sizeof(*along));
	return n;
}

void inner_main(const struct keeper_setup *s)
{
	struct keeper_msg m = {.op = KEEPER_READY}, got;
	int pipe_fd[2], sfd;
	sigset_t all;

	if (s->op != KEEPER_SETUP_AHEAD)
		set_clocks(s->mono_offset, s->boot_offset);
	if (sethostname(s->hostname, strlen(s->hostname)) < 0)
		fail("hostname");
	if (!s->host_network)
		lo_up();
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	sigemptyset(&all);
	sigaddset(&all, SIGCHLD);
	sfd = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
	if (sfd < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pipe_fd) < 0)
		fail("report pipe");
	sfd = fcntl(sfd, F_DUPFD_CLOEXEC, 20);
	pipe_fd[0] = fcntl(pipe_fd[0], F_DUPFD_CLOEXEC, 20);
	pipe_fd[1] = fcntl(pipe_fd[1], F_DUPFD_CLOEXEC, 20);
	if (dup3(pipe_fd[0], REPORT_IN, O_CLOEXEC) < 0 || dup3(pipe_fd[1], REPORT_OUT, O_CLOEXEC) < 0)
		fail("report pipe");
	for (int i = 0; i < STANDINS; i++) {
		int p[2];

		if (pipe2(p, O_CLOEXEC) < 0 || p[0] > PIPES || dup3(p[0], order_in(i), O_CLOEXEC) < 0 || dup3(p[1], order_out(i), O_CLOEXEC) < 0)
			fail("order pipes");
		close(p[0]);
		close(p[1]);
	}
	umask(022);
	if (s->op != KEEPER_SETUP_AHEAD) /* else when it is known what the family has to be told */
		filter_on();
	if (send(conn, &m, sizeof(m), MSG_NOSIGNAL) < 0) /* nobody will ever know of this nest */
		_exit(1);
	for (;;) {
		struct pollfd pf[7] = {{conn, POLLIN, 0}, {sfd, POLLIN, 0}, {conn >= 0 ? REPORT_IN : -1, POLLIN, 0}, {LISTEN, POLLIN, 0}, {calls, POLLIN, 0}, {old, POLLIN, 0}, {connects, POLLIN, 0}};
		struct signalfd_siginfo ignored;
		ssize_t n;
		int along;

		if (poll(pf, 7, -1) < 0)
			continue;
		while (read(sfd, &ignored, sizeof(ignored)) > 0)
			;
		reap();
		if (conn >= 0 && pf[2].revents & POLLIN && read(REPORT_IN, &got, sizeof(got)) == sizeof(got) && !is_standin(got.pid))
			tell(&got);
		if (pf[4].revents & POLLIN)
			calls_take(is_here, tell_call);
		if (conn >= 0 && pf[6].revents & POLLIN)
			connect_ask(tell_call);
		if (pf[5].revents)
			hear_old();
		if (pf[3].revents & POLLIN)
			take_connection();
		if (conn < 0 || !(pf[0].revents & (POLLIN | POLLHUP)))
			continue;
		n = hear(&got, &along);
		if (n == sizeof(got)) {
			handle(&got, along);
			if (along >= 0)
				close(along);
		} else if (n == 0) {
			if (!held) /* nobody knows of us, and nothing has run here yet */
				_exit(1);
			conn = -1; /* migd is away; the number stays taken for its return */
		}
	}
}

/* Not migd, as it seems. */
static int asked(const char *what)
{
	bool help = !strcmp(what, "--help");

	if (!strcmp(what, "--version"))
		return printf("sprite-keeper (Sprite for Linux) %s\n", SPRITE_VERSION) < 0;
	fputs("usage: sprite-keeper\n"
	      "Is process 1 of a family of guests. Started by migd, with its socket as descriptor 3. Details: sprite-keeper(8)\n", help ? stdout : stderr);
	return help ? 0 : 64;
}

int main(int argc, char **argv)
{
	static struct keeper_setup s;
	ssize_t n = argc > 1 ? 0 : recv(SOCK, &s, sizeof(s), 0);

	held = s.op == KEEPER_SETUP;
	if (n != sizeof(s) || (s.op != KEEPER_SETUP && s.op != KEEPER_SETUP_NEW && s.op != KEEPER_SETUP_AHEAD))
		return asked(argc == 2 ? argv[1] : "");
	prctl(PR_SET_NAME, s.op == KEEPER_SETUP_AHEAD ? KEEPER_NAME_AHEAD : KEEPER_NAME);
	return outer_main(&s);
}
