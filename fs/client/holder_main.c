// SPDX-License-Identifier: Apache-2.0
/*
 * sprite-holder SPRITEFS [ARGUMENT...]: runs spritefs and keeps what a mount lives by while no spritefs does; see holder.h.
 *
 *	START -> RUNNING -(killed by a signal)-> WAITING -(none of its threads runs any more)-> START
 *	RUNNING -(exits)-> the same exit status
 *
 * A thread of a dead spritefs may hang in the kernel: in an invalidation that waits for a page whose read nobody answers. It keeps its process from
 * being reaped until the next spritefs has answered. So the death of a thread that does nothing counts (HOLD_ALIVE; pidfd of a thread, Linux 6.9; one of
 * the first thread tells nothing before all others are over), and only threads that could still take a request from the kernel are waited for.
 *
 * Signals to us are passed on. If we die, spritefs is killed: two of them would serve one mount when the service is started again. One thread, no
 * memory to speak of: this is the process that must not die, so it is small and asks the kernel to spare it.
 */
#include "fs/client/holder.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "conf/clock.h"
#include "conf/log.h"
#include "conf/notify.h"

#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL
#endif
#define SHORT_NS  300000000ull /* a spritefs that lived no longer, or never came into service, counts as a failed start */
#define FAILS_MAX 10
#define STUCK_MS  500 /* a thread that sleeps uninterruptibly for so long will take no request any more */

struct kept {
	uint64_t key;
	int fd;
};

struct holder {
	char **args; /* of spritefs */
	struct kept *kept;
	unsigned nkept;
	int signals, sock, pidfd, alive, up;
	pid_t pid, old[FAILS_MAX]; /* old: dead, but not whole */
	char oom[16];		   /* our oom_score_adj before, for spritefs */
	uint64_t started;
	unsigned fails, nold;
	bool stopping, bye, ready;
	int status;
};

static void drop(struct holder *h, uint64_t key)
{
	unsigned i;

	for (i = 0; i < h->nkept; i++)
		if (h->kept[i].key == key) {
			close(h->kept[i].fd);
			h->kept[i] = h->kept[--h->nkept];
			return;
		}
}

static void keep(struct holder *h, uint64_t key, int fd)
{
	struct kept *more;

	drop(h, key);
	more = realloc(h->kept, (h->nkept + 1) * sizeof(*more));
	if (!more) {
		close(fd);
		return;
	}
	h->kept = more;
	h->kept[h->nkept++] = (struct kept){key, fd};
}

static int send_msg(int sock, uint32_t op, uint64_t key, int fd)
{
	union {
		struct cmsghdr h;
		char buf[CMSG_SPACE(sizeof(int))];
	} c = {.h = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))}};
	struct hold_msg m = {.op = op, .key = key};
	struct iovec iov = {&m, sizeof(m)};
	struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1};

	if (fd >= 0) {
		memcpy(CMSG_DATA(&c.h), &fd, sizeof(fd));
		h.msg_control = &c;
		h.msg_controllen = sizeof(c);
	}
	return sendmsg(sock, &h, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static void oom_set(const char *adj)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	if (write(fd, adj, strlen(adj)) < 0)
		log_debug("oom_score_adj: %s", strerror(errno));
	close(fd);
}

static void __attribute__((noreturn)) child(struct holder *h, int sock, pid_t parent)
{
	char number[16];
	sigset_t none;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	snprintf(number, sizeof(number), "%d", sock);
	fcntl(sock, F_SETFD, 0);
	setenv(HOLD_ENV, number, 1);
	unsetenv("NOTIFY_SOCKET"); /* we speak to it */
	oom_set(h->oom);
	execv(h->args[0], h->args);
	log_error("%s: %s", h->args[0], strerror(errno));
	_exit(1);
}

static int start(struct holder *h)
{
	pid_t parent = getpid();
	unsigned i;
	int s[2], r = 0;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s) < 0)
		return -errno;
	h->pid = fork();
	if (h->pid < 0)
		return -errno;
	if (h->pid == 0)
		child(h, s[1], parent);
	close(s[1]);
	h->sock = s[0];
	h->bye = h->ready = false;
	h->alive = -1;
	h->started = clock_boot_ns();
	h->pidfd = (int)syscall(SYS_pidfd_open, h->pid, PIDFD_THREAD);
	if (h->pidfd < 0)
		return -errno;
	for (i = 0; i < h->nkept && !r; i++)
		r = send_msg(h->sock, HOLD_KEEP, h->kept[i].key, h->kept[i].fd);
	if (!r)
		send_msg(h->sock, HOLD_END, 0, -1);
	return 0; /* one that does not take them has died, which we are told */
}

static void ready(struct holder *h)
{
	h->ready = true;
	notify_ready();
	if (h->up >= 0 && write(h->up, "", 1) == 1) {
		close(h->up);
		h->up = -1;
	}
}

/* Only a thread of our own spritefs. */
static void alive(struct holder *h, pid_t tid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/task/%d", h->pid, tid);
	if (h->alive < 0 && access(path, F_OK) == 0)
		h->alive = (int)syscall(SYS_pidfd_open, tid, PIDFD_THREAD);
}

/* One message; false: no more. */
static bool hear(struct holder *h)
{
	union {
		struct cmsghdr h;
		char buf[CMSG_SPACE(sizeof(int))];
	} c;
	struct hold_msg m = {0};
	struct iovec iov = {&m, sizeof(m)};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof(c)};
	ssize_t n = recvmsg(h->sock, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	int fds[2] = {-1, -1}; /* as many as fit, the padding included */
	struct cmsghdr *x;

	if (n <= 0)
		return false;
	x = CMSG_FIRSTHDR(&msg);
	if (x && x->cmsg_type == SCM_RIGHTS && x->cmsg_len <= CMSG_LEN(sizeof(fds)))
		memcpy(fds, CMSG_DATA(x), x->cmsg_len - CMSG_LEN(0));
	if (fds[0] >= 0 && m.op == HOLD_KEEP)
		keep(h, m.key, fds[0]);
	else if (fds[0] >= 0)
		close(fds[0]);
	if (fds[1] >= 0)
		close(fds[1]);
	if (m.op == HOLD_DROP)
		drop(h, m.key);
	else if (m.op == HOLD_READY)
		ready(h);
	else if (m.op == HOLD_ALIVE)
		alive(h, (pid_t)m.key);
	else if (m.op == HOLD_BYE) {
		h->bye = true;
		h->status = (int)m.key;
	}
	return true;
}

static char task_state(pid_t pid, const char *tid)
{
	char path[320], buf[512], *p;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/task/%s/stat", pid, tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 'X';
	n = read(fd, buf, sizeof(buf) - 1);
	close(fd);
	if (n <= 0)
		return 'X';
	buf[n] = 0;
	p = strrchr(buf, ')');
	return p && p[1] == ' ' ? p[2] : 'X';
}

/* Of the threads of a process whose first one has died: 0 all are over, 1 the others hang in the kernel, 2 some still run. */
static int threads_left(pid_t pid)
{
	char path[64], s;
	struct dirent *e;
	int left = 0;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	d = opendir(path);
	if (!d)
		return 0;
	while ((e = readdir(d))) {
		if (*e->d_name == '.')
			continue;
		s = task_state(pid, e->d_name);
		if (s == 'Z' || s == 'X')
			continue;
		if (s != 'D')
			left = 2;
		else if (!left)
			left = 1;
	}
	closedir(d);
	return left;
}

/* Returns true when the whole process is gone and *status is how. */
static bool wait_over(struct holder *h, int *status)
{
	int stuck = 0, left;

	while ((left = threads_left(h->pid)) != 0) {
		stuck = left == 1 ? stuck + 1 : 0;
		if (stuck > STUCK_MS)
			break;
		usleep(1000);
	}
	return waitpid(h->pid, status, left ? WNOHANG : 0) == h->pid;
}

/* spritefs is dead. Returns true to start the next one; else h->status is our own. */
static bool died(struct holder *h)
{
	int status = 0;
	bool whole;

	while (hear(h))
		;
	whole = wait_over(h, &status);
	if (!whole) {
		h->old[h->nold] = h->pid;
		h->nold = (h->nold + 1) % FAILS_MAX;
	}
	close(h->sock);
	close(h->pidfd);
	if (h->alive >= 0)
		close(h->alive);
	if (h->bye || (whole && WIFEXITED(status))) {
		if (!h->bye)
			h->status = WEXITSTATUS(status);
		return false;
	}
	h->status = 1;
	if (h->stopping)
		return false;
	h->fails = !h->ready || clock_boot_ns() - h->started < SHORT_NS ? h->fails + 1 : 0;
	if (h->fails >= FAILS_MAX) {
		log_error("spritefs died %u times at its start: giving the mount up", h->fails);
		return false;
	}
	log_warn("spritefs was killed%s%s: starting it again, its files stay open", whole ? " by signal " : "", whole ? strsignal(WTERMSIG(status)) : "");
	return true;
}

static void signalled(struct holder *h)
{
	struct signalfd_siginfo i;

	if (read(h->signals, &i, sizeof(i)) != sizeof(i))
		return;
	if (i.ssi_signo == SIGCHLD) { /* earlier ones that hung; the present one is died()'s */
		unsigned k;

		for (k = 0; k < FAILS_MAX; k++)
			if (h->old[k] && waitpid(h->old[k], NULL, WNOHANG) != 0)
				h->old[k] = 0;
		return;
	}
	h->stopping |= i.ssi_signo != SIGHUP;
	kill(h->pid, (int)i.ssi_signo);
}

static void setup(struct holder *h, char **argv)
{
	const char *up = getenv(HOLD_UP_ENV);
	sigset_t set;
	int fd;

	h->args = argv + 1;
	h->up = -1;
	if (up) {
		h->up = atoi(up);
		fcntl(h->up, F_SETFD, FD_CLOEXEC);
		unsetenv(HOLD_UP_ENV);
	}
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_SETMASK, &set, NULL);
	h->signals = signalfd(-1, &set, SFD_CLOEXEC);
	fd = open("/proc/self/oom_score_adj", O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, h->oom, sizeof(h->oom) - 1) <= 0)
		strcpy(h->oom, "0");
	if (fd >= 0)
		close(fd);
	oom_set("-900");
}

int main(int argc, char **argv)
{
	struct holder h = {0};
	int r;

	if (argc < 2) {
		fprintf(stderr, "usage: sprite-holder SPRITEFS [ARGUMENT...] (started by spritefs itself)\n");
		return 64;
	}
	log_init("sprite-holder");
	setup(&h, argv);
	do {
		r = h.signals < 0 ? -errno : start(&h);
		if (r < 0) {
			log_error("cannot start %s: %s", argv[1], strerror(-r));
			return 1;
		}
		for (;;) {
			struct pollfd p[4] = {{h.pidfd, POLLIN, 0}, {h.alive, POLLIN, 0}, {h.sock, POLLIN, 0}, {h.signals, POLLIN, 0}};

			if (poll(p, 4, -1) < 0)
				continue;
			if (p[0].revents || p[1].revents)
				break;
			if (p[2].revents && !hear(&h)) /* closed before its end is seen: nothing more will come */
				poll(p, 2, -1);
			if (p[3].revents)
				signalled(&h);
		}
	} while (died(&h));
	free(h.kept);
	return h.status;
}
