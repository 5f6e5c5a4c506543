// SPDX-License-Identifier: Apache-2.0
/*
 * What of a process shows only when it stands still: freeze or dump fails in words, or wait for it, and all runs on. (test_refuse.c has what is refused before.) Needs
 * root; a state that this machine cannot give is left out and told.
 */
#include <CUnit/Basic.h>
#include <asm/ldt.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/io.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "migd/engine/engine.h"

struct state {
	const char *name;
	int (*make)(void); /* 0: brought about; 1: not to be had here */
	const char *expect; /* of the error; NULL: it can move */
};

static int has(long r)
{
	return r < 0;
}
static int f_none(void)
{
	return 0;
}
static int f_own_calls(void)
{
	static char allow; /* SYSCALL_DISPATCH_FILTER_ALLOW */

	return has(prctl(59 /* PR_SET_SYSCALL_USER_DISPATCH */, 1, 0, 0, &allow));
}
static int f_waiting_connection(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int l = socket(AF_UNIX, SOCK_STREAM, 0), c = socket(AF_UNIX, SOCK_STREAM, 0);

	return has(bind(l, (struct sockaddr *)&a, sizeof a.sun_family)) || has(listen(l, 5)) ||
	       has(getsockname(l, (struct sockaddr *)&a, &(socklen_t){sizeof a})) || has(connect(c, (struct sockaddr *)&a, sizeof(short) + 6));
}
static int f_descriptor_under_way(void)
{
	int s[2], fd = 0;
	char c = 'x', control[CMSG_SPACE(sizeof fd)] = {0};
	struct iovec io = {&c, 1};
	struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, s))
		return 1;
	*CMSG_FIRSTHDR(&m) = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fd)};
	memcpy(CMSG_DATA(CMSG_FIRSTHDR(&m)), &fd, sizeof fd);
	return has(sendmsg(s[0], &m, 0));
}
static int f_senders_credentials(void)
{
	int s[2];

	return has(socketpair(AF_UNIX, SOCK_DGRAM, 0, s)) || has(setsockopt(s[1], SOL_SOCKET, SO_PASSCRED, &(int){1}, sizeof(int))) || has(send(s[0], "x", 1, 0));
}
/* To nobody in particular: it has no peer that could send it again. */
static int f_waiting_packet(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int l = socket(AF_UNIX, SOCK_DGRAM, 0), c = socket(AF_UNIX, SOCK_DGRAM, 0);

	return has(bind(l, (struct sockaddr *)&a, sizeof a.sun_family)) || has(getsockname(l, (struct sockaddr *)&a, &(socklen_t){sizeof a})) ||
	       has(sendto(c, "x", 1, 0, (struct sockaddr *)&a, sizeof(short) + 6));
}
static int f_unread_event(void)
{
	int fd = inotify_init1(0);

	return has(inotify_add_watch(fd, "/tmp", IN_ATTRIB)) || has(utimensat(AT_FDCWD, "/tmp", NULL, 0));
}
/* The other end stays, in the test. */
static int packets_fd = -1;
static int f_packet_mode(void)
{
	return has(fcntl(packets_fd, F_DUPFD, 0));
}
static int filtered(int nr, uint32_t answer)
{
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0 /* nr */),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, answer),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {ARRAY_SIZE(f), f};

	return has(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) || has(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog));
}
static int f_sleepless(void)
{
	return filtered(SYS_ppoll, SECCOMP_RET_ERRNO | EPERM);
}
static int f_supervised(void)
{
	return filtered(SYS_mknod, SECCOMP_RET_USER_NOTIF);
}
static int f_ldt(void)
{
	struct user_desc d = {.base_addr = 0x10000, .limit = 0xfff, .seg_32bit = 1, .useable = 1};

	return has(syscall(SYS_modify_ldt, 1, &d, sizeof d));
}
static int f_ports(void)
{
	return has(ioperm(0x80, 1, 1));
}
static int f_signals_others(void)
{
	int s[2];

	return has(socketpair(AF_UNIX, SOCK_STREAM, 0, s)) || has(fcntl(s[0], F_SETOWN, getppid())) || has(fcntl(s[0], F_SETFL, O_ASYNC));
}
/* A thread that cannot be stopped for some seconds (it waits for a child of CLONE_VFORK): it is left alone until then, and moves; or the move gives up. */
static int vfork_seconds;
static void *vfork_thread(void *told)
{
	if (write(*(int *)told, "y", 1) < 0)
		_exit(1);
	if (syscall(SYS_clone, CLONE_VFORK | SIGCHLD, 0, 0, 0, 0) == 0) {
		close_range(0, ~0u, 0);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		nanosleep(&(struct timespec){vfork_seconds, 0}, NULL);
		_exit(0);
	}
	for (;;)
		pause();
}
static int uninterruptible(int seconds)
{
	pthread_t t;
	int p[2];
	char c;

	vfork_seconds = seconds;
	if (pipe(p) || pthread_create(&t, NULL, vfork_thread, &p[1]) || read(p[0], &c, 1) != 1)
		return 1;
	close(p[0]), close(p[1]);
	return 0;
}
static int f_uninterruptible(void)
{
	return uninterruptible(1);
}
static int f_stuck(void)
{
	return uninterruptible(3600);
}
static const struct state frozen[] = {
	{"uninterruptible for a second", f_uninterruptible, NULL},
	{"uninterruptible for an hour", f_stuck, "*thread * does not stop: it is in an uninterruptible wait (vfork or a device): try again later*"},
	{"own system calls", f_own_calls, "*thread * catches its own system calls (PR_SET_SYSCALL_USER_DISPATCH): cannot be carried; start it without*"},
	{"waiting connection", f_waiting_connection, "*a connection waits to be accepted: try again later*"},
	{"descriptor under way", f_descriptor_under_way, "*descriptors are under way in a unix socket (SCM_RIGHTS): try again later*"},
	{"senders' credentials", f_senders_credentials, "*messages with their senders' credentials wait in a unix socket (SO_PASSCRED): try again later*"},
	{"waiting packet", f_waiting_packet, "*messages wait in a unix datagram socket: try again later*"},
	{"unread event", f_unread_event, "*inotify has events that the program does not read: let it read them*"},
	{"packets of a pipe whose other end stays", f_packet_mode, "*pipe in packet mode (O_DIRECT) whose other end stays here*"},
	{"filter that forbids to sleep", f_sleepless,
		"*its seccomp filter forbids ppoll, which it needs to sleep at home while it is away: start it without (--no-sandbox and the like)*"},
	{"filter that asks", f_supervised, "*its seccomp filter asks a supervisor: end that first*"},
	{"segments", f_ldt, "*has segments of its own (modify_ldt): cannot be carried*"},
	{"ports", f_ports, "*thread * may use I/O ports of this host (ioperm, iopl): cannot be carried*"},
	{"signals to somebody else", f_signals_others, "*fd * signals a process outside of its family (F_SETOWN): turn O_ASYNC off first*"},
	{"nothing special", f_none, NULL},
};

static int freeze_and_dump(pid_t pid, struct error *e)
{
	struct eng_hooks hooks = {0};
	struct eng_family *f = NULL;
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC), r = eng_freeze(pid, &hooks, &f, NULL, e);

	if (r == 0) {
		r = eng_dump(f, null, e);
		eng_thaw(f);
	}
	close(null);
	return r;
}

static void run_frozen(const struct state *s)
{
	struct error e = {0};
	int answer[2];
	char c = 0;

	CU_ASSERT_FATAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, answer) == 0);
	pid_t pid = fork();

	if (!pid) { /* asked by a signal, answers by its exit: nothing is shared with us */
		sigset_t set;
		int sig;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		sigemptyset(&set);
		sigaddset(&set, SIGUSR1);
		sigprocmask(SIG_BLOCK, &set, NULL);
		for (int fd = 3; fd < 64; fd++)
			if (fd != answer[1] && fd != packets_fd)
				close(fd);
		close_range(64, ~0u, 0);
		int missing = s->make() != 0;

		close(packets_fd);

		if (write(answer[1], missing ? "x" : "y", 1) != 1)
			_exit(1);
		int null = open("/dev/null", O_RDWR);

		dup2(null, 0), dup2(null, 1), dup2(null, 2), close(null), close(answer[1]);
		sigwait(&set, &sig);
		_exit(42);
	}
	close(answer[1]);
	bool there = read(answer[0], &c, 1) == 1 && c == 'y';

	while (there && read(answer[0], &c, 1) == 1) /* until it has closed all that is ours */
		;
	if (!there) {
		printf("\n    (%s: not to be had here)", s->name);
	} else {
		int r = freeze_and_dump(pid, &e), st = 0;
		bool right = s->expect ? r < 0 && !fnmatch(s->expect, e.text, 0) : r == 0;

		if (!right)
			printf("\n    %s: r=%d %s", s->name, r, e.text);
		CU_ASSERT(right);
		kill(pid, SIGUSR1);
		CU_ASSERT(waitpid(pid, &st, 0) == pid && WIFEXITED(st) && WEXITSTATUS(st) == 42); /* it ran on */
		pid = 0;
	}
	close(answer[0]);
	if (pid) {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
}

static void test_frozen(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(frozen); i++)
		run_frozen(&frozen[i]);
}

int main(void)
{
	if (geteuid()) {
		printf("needs root\n");
		return 77;
	}
	int pair[2];

	if (pipe2(pair, O_DIRECT | O_CLOEXEC))
		return 1;
	packets_fd = pair[1];
	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGIO, SIG_IGN); /* f_signals_others() */
	CU_initialize_registry();
	CU_pSuite s = CU_add_suite("refusals, standing still", NULL, NULL);
	CU_add_test(s, "each by its name", test_frozen);
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	unsigned failed = CU_get_number_of_failures();

	CU_cleanup_registry();
	return failed != 0;
}
