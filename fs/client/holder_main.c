// SPDX-License-Identifier: Apache-2.0
/*
 * sprite-holder SPRITEFS [ARGUMENT...]: runs spritefs and keeps what a mount lives by while no spritefs does; see holder.h.
 * sprite-holder --keep PATH: spritefsd's, see hold.h.
 *
 *	START -> RUNNING -(ends without a word)-> WAITING -(none of its threads runs any more)-> START
 *	START -(cannot be started)-> WAITING
 *	RUNNING -(HOLD_BYE and its end)-> the same exit status
 *
 * Once a mount has been in service only spritefs itself ends it: whatever else happens to one - killed, aborted, no memory or process for the next, a
 * program file that is just being replaced - another is tried, after a pause that grows with each that came to nothing, for GIVE_UP_NS. A spritefs dies with the SIGTERM it
 * had been sent: the next one gets it again. Signals wait in it, blocked, until it reads them.
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
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "conf/clock.h"
#include "conf/daemon.h"
#include "conf/log.h"
#include "conf/notify.h"
#include "fs/client/keep.h"

#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL
#endif
#define SHORT_NS  300000000ull /* a spritefs that lived no longer, or never came into service, counts as a failed start */
#define FAILS_MAX 10
#define PAUSE_MS  100 /* after the second failed start, then twice as long each time, up to */
#define PAUSE_MAX 5000
#define GIVE_UP_NS 300000000000ull
#define STUCK_MS  500 /* a thread that sleeps uninterruptibly for so long will take no request any more */

struct holder {
	char **args; /* of spritefs */
	struct hold_store store;
	int signals, sock, pidfd, alive, up;
	pid_t pid, old[FAILS_MAX]; /* old: dead, but not whole */
	sigset_t mask;		   /* that we were started with */
	char oom[16];		   /* our oom_score_adj before, for spritefs */
	uint64_t started, well; /* well: a life that counts ended then, or we began */
	unsigned fails, nold;
	bool stopping, bye, ready, served; /* served: some life was ready */
	int status;
};

static void __attribute__((noreturn)) child(struct holder *h, int sock, pid_t parent)
{
	char number[16];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	sigaddset(&h->mask, SIGTERM); /* until it reads them */
	sigaddset(&h->mask, SIGINT);
	sigaddset(&h->mask, SIGHUP);
	sigprocmask(SIG_SETMASK, &h->mask, NULL);
	snprintf(number, sizeof(number), "%d", sock);
	fcntl(sock, F_SETFD, 0);
	setenv(HOLD_ENV, number, 1);
	unsetenv("NOTIFY_SOCKET"); /* we speak to it */
	hold_oom(h->oom, NULL);
	execv(h->args[0], h->args);
	log_error("%s: %s", h->args[0], strerror(errno));
	_exit(1);
}

/* 0, or -errno and nothing is started. */
static int start(struct holder *h)
{
	pid_t parent = getpid();
	int s[2], r = 0;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s) < 0)
		return -errno;
	h->pid = fork();
	if (h->pid == 0)
		child(h, s[1], parent);
	r = h->pid < 0 ? -errno : 0;
	close(s[1]);
	h->pidfd = r ? -1 : (int)syscall(SYS_pidfd_open, h->pid, PIDFD_THREAD);
	if (!r && h->pidfd < 0) {
		r = -errno;
		kill(h->pid, SIGKILL);
		waitpid(h->pid, NULL, 0);
	}
	if (r) {
		close(s[0]);
		h->pid = 0;
		return r;
	}
	h->sock = s[0];
	h->bye = h->ready = false;
	h->alive = -1;
	h->started = clock_boot_ns();
	hold_store_give(&h->store, h->sock);
	if (h->stopping) /* the last one died with it */
		kill(h->pid, SIGTERM);
	return 0; /* one that does not take what we hold has died, which we are told */
}

static void ready(struct holder *h)
{
	h->ready = h->served = true;
	notify_ready();
	if (h->up >= 0 && write(h->up, "", 1) == 1) {
		log_leave_pipe();
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
	struct hold_msg m;
	int fd, r = hold_receive(h->sock, &m, &fd, MSG_DONTWAIT);

	if (r < 0)
		return r == -EPROTO;
	if (fd >= 0)
		hold_store_keep(&h->store, &m, fd);
	if (m.op == HOLD_DROP)
		hold_store_drop(&h->store, m.key);
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

/* spritefs is dead: takes in what it left. Returns true when it is for us to start the next one; else h->status is our own. */
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
	h->pid = 0;
	close(h->sock);
	close(h->pidfd);
	if (h->alive >= 0)
		close(h->alive);
	if (h->bye)
		return false;
	h->status = whole && WIFEXITED(status) && WEXITSTATUS(status) ? WEXITSTATUS(status) : 1;
	if (!h->served && (h->stopping || (whole && WIFEXITED(status)))) /* never came up: it said why */
		return false;
	if (h->ready && clock_boot_ns() - h->started >= SHORT_NS) {
		h->fails = 0;
		h->well = clock_boot_ns();
	} else {
		h->fails++;
	}
	log_warn("spritefs %s%s: starting it again, its files stay open", whole && WIFSIGNALED(status) ? "was killed by signal " : whole ? "ended by itself" : "was killed",
		whole && WIFSIGNALED(status) ? strsignal(WTERMSIG(status)) : "");
	return true;
}

/* Asked to end, but no spritefs lives that could unmount. */
static void unmount(struct holder *h)
{
	int fd = hold_store_fd(&h->store, HOLD_STATE);
	struct keep_head *head = fd < 0 ? NULL : mmap(NULL, sizeof(*head), PROT_READ, MAP_SHARED, fd, 0);

	if (head && head != MAP_FAILED && *head->mount && umount2(head->mount, MNT_DETACH) < 0)
		log_warn("%s: cannot unmount: %s", head->mount, strerror(errno));
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
	if (h->pid > 0)
		kill(h->pid, (int)i.ssi_signo);
}

/* Before the next try. Returns false when there is to be none. */
static bool again(struct holder *h)
{
	unsigned ms = h->fails < 2 ? 0 : h->fails > 8 ? PAUSE_MAX : PAUSE_MS << (h->fails - 2);
	uint64_t end = clock_boot_ns() + (ms < PAUSE_MAX ? ms : PAUSE_MAX) * 1000000ull, now;
	struct pollfd p = {h->signals, POLLIN, 0};

	if (h->fails >= FAILS_MAX && (!h->served || clock_boot_ns() - h->well > GIVE_UP_NS)) {
		log_error("spritefs failed %u times at its start: giving the mount up", h->fails);
		return false;
	}
	while (!h->stopping && (now = clock_boot_ns()) < end)
		if (poll(&p, 1, (int)((end - now) / 1000000 + 1)) > 0)
			signalled(h);
	if (!h->stopping || h->fails < 3)
		return true;
	unmount(h);
	return false;
}

static void setup(struct holder *h, char **argv)
{
	const char *up = getenv(HOLD_UP_ENV);
	sigset_t set;

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
	sigprocmask(SIG_BLOCK, &set, &h->mask);
	h->signals = signalfd(-1, &set, SFD_CLOEXEC);
	hold_oom(HOLD_SPARED, h->oom);
}

/* Until it is dead. */
static void serve(struct holder *h)
{
	for (;;) {
		struct pollfd p[4] = {{h->pidfd, POLLIN, 0}, {h->alive, POLLIN, 0}, {h->sock, POLLIN, 0}, {h->signals, POLLIN, 0}};

		if (poll(p, 4, -1) < 0)
			continue;
		if (p[0].revents || p[1].revents)
			return;
		if (p[2].revents && !hear(h)) /* closed before its end is seen: nothing more will come */
			poll(p, 2, -1);
		if (p[3].revents)
			signalled(h);
	}
}

/* One life of a spritefs. Returns true when another is to follow. */
static bool live(struct holder *h)
{
	int r = start(h);

	if (r == 0) {
		serve(h);
		return died(h);
	}
	log_error("cannot start %s: %s", h->args[0], strerror(-r));
	h->status = 1;
	h->fails++;
	return h->served;
}

int main(int argc, char **argv)
{
	static const char usage[] = "usage: sprite-holder SPRITEFS [ARGUMENT...]\n"
				    "       sprite-holder --keep SOCKET\n"
				    "Keeps what a mount lives by while a killed spritefs is started again; what spritefsd has locked until another has started. They start it themselves. Details: sprite-holder(8)\n";
	struct holder h = {0};

	if (daemon_part_asked(argc, argv, "sprite-holder", usage))
		return 0;
	if (argc == 3 && !strcmp(argv[1], "--keep")) {
		log_init("sprite-locks");
		return hold_serve(argv[2]);
	}
	if (argc < 2 || argv[1][0] == '-') {
		fputs(usage, stderr);
		return 64;
	}
	log_init("sprite-holder");
	setup(&h, argv);
	if (h.signals < 0) {
		log_error("signalfd: %s", strerror(errno));
		return 1;
	}
	h.well = clock_boot_ns();
	while (live(&h) && again(&h))
		;
	hold_store_clear(&h.store);
	return h.status;
}
