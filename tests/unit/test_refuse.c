// SPDX-License-Identifier: Apache-2.0
/*
 * What cannot be carried is refused by name, with its remedy, before anything is frozen: a child brings each state about, and eng_explain() must say exactly
 * this and nothing else. (`*` stands for what differs from run to run.) Needs root; a state that this machine cannot give is left out and told.
 */
#include <CUnit/Basic.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <linux/aio_abi.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/io_uring.h>
#include <linux/netlink.h>
#include <linux/perf_event.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "migd/engine/engine.h"

static char dir[] = "/tmp/test-refuse-XXXXXX";
static int shared_fd = -1, unlinked_fd = -1, half_fd = -1, half_packets_fd = -1, other_half = -1; /* shared with the outsider */
static int report = -1; /* the child's end: closed when the state is there */
static int shared_mq = -1, shared_segment, shared_sem, shared_queue; /* SysV objects that the outsider uses */
static int *left; /* SysV objects that a child made: a page shared with us */
static pid_t outsider;	/* a process that is not in the family and lives as long as the test */

static int has(long r) /* 0: brought about; 1: not to be had here */
{
	return r < 0;
}
static int at(const char *name, int flags)
{
	char path[200];

	snprintf(path, sizeof path, "%s/%s", dir, name);
	return open(path, flags | O_CREAT, 0600);
}

static int s_none(void)
{
	signal(SIGUSR1, SIG_IGN);
	return has(at("plain", O_RDWR | O_APPEND));
}
static int s_tcp(void)
{
	return has(socket(AF_INET, SOCK_STREAM, 0));
}
static int s_tcp_bound(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	return fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 ? -1 : has(fd);
}
static int s_mptcp(void)
{
	return has(socket(AF_INET, SOCK_STREAM, 262 /* IPPROTO_MPTCP */));
}
static int s_udp6(void)
{
	return has(socket(AF_INET6, SOCK_DGRAM, 0));
}
static int s_udp_bound(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	return fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 ? -1 : has(fd);
}
static int s_unix(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(a.sun_path, sizeof a.sun_path, "%s/sock", dir);
	return has(bind(fd, (struct sockaddr *)&a, sizeof a)) || has(listen(fd, 1));
}
static int s_unix_named(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	snprintf(a.sun_path, sizeof a.sun_path, "%s/named", dir);
	return has(bind(socket(AF_UNIX, SOCK_DGRAM, 0), (struct sockaddr *)&a, sizeof a));
}
static int s_unix_half(void)
{
	return has(fcntl(half_fd, F_DUPFD, 0));
}
static int s_unix_half_packets(void)
{
	return has(fcntl(half_packets_fd, F_DUPFD, 0));
}
static int s_unix_oob(void)
{
	int s[2];

	return has(socketpair(AF_UNIX, SOCK_STREAM, 0, s)) || has(send(s[0], "ab", 2, MSG_OOB));
}
static int s_unix_error(void)
{
	int s[2], r = has(socketpair(AF_UNIX, SOCK_STREAM, 0, s)) || has(send(s[0], "ab", 2, 0));

	close(s[1]);
	return r;
}
static int s_unix_filter(void)
{
	struct sock_filter all = { BPF_RET | BPF_K, 0, 0, ~0u };
	struct sock_fprog prog = { 1, &all };
	int s[2];

	return has(socketpair(AF_UNIX, SOCK_DGRAM, 0, s)) || has(setsockopt(s[0], SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog)));
}
static int s_unix_pair(void)
{
	int s[2];

	return has(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s));
}
static int s_netlink(void)
{
	return has(socket(AF_NETLINK, SOCK_RAW, 0));
}
static int s_memfd(void)
{
	return has(memfd_create("thing", 0));
}
static int s_inotify(void)
{
	return has(inotify_init1(0));
}
static int s_fanotify(void)
{
	return has(fanotify_init(FAN_CLASS_NOTIF, O_RDONLY));
}
static int s_uring(void)
{
	struct io_uring_params p = {0};

	return has(syscall(SYS_io_uring_setup, 4, &p));
}
static int s_uffd(void)
{
	return has(syscall(SYS_userfaultfd, 0));
}
static int s_perf(void)
{
	struct perf_event_attr a = {.type = PERF_TYPE_SOFTWARE, .size = sizeof a, .config = PERF_COUNT_SW_TASK_CLOCK};

	return has(syscall(SYS_perf_event_open, &a, 0, -1, -1, 0));
}
static int s_bpf(void)
{
	union bpf_attr a = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};

	return has(syscall(SYS_bpf, BPF_MAP_CREATE, &a, sizeof a));
}
static int s_mq(void)
{
	char name[40];

	snprintf(name, sizeof name, "/test-refuse-%d", getpid());
	mqd_t q = mq_open(name, O_CREAT | O_RDWR, 0600, NULL);

	mq_unlink(name);
	return has(q);
}
static int s_mq_notify(void)
{
	char name[40];
	struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};

	snprintf(name, sizeof name, "/test-refuse-%d", getpid());
	mqd_t q = mq_open(name, O_CREAT | O_RDWR, 0600, NULL);

	mq_unlink(name);
	return has(q) || has(mq_notify(q, &e));
}
static int s_mq_shared(void)
{
	return has(fcntl(shared_mq, F_DUPFD, 100));
}
static int s_fifo(void)
{
	char path[200];

	snprintf(path, sizeof path, "%s/fifo", dir);
	return has(mkfifo(path, 0600)) || has(open(path, O_RDWR));
}
static int s_unlinked(void)
{
	char path[200];

	snprintf(path, sizeof path, "%s/gone", dir);
	return has(at("gone", O_RDWR)) || has(unlink(path));
}
static int s_renamed(void)
{
	char path[200], other[200];

	snprintf(path, sizeof path, "%s/first", dir);
	snprintf(other, sizeof other, "%s/second", dir);
	return has(at("first", O_RDWR | O_APPEND)) || has(link(path, other)) || has(unlink(path));
}
/* As a network file system does that forgets a name for a while: /proc says "deleted", and it is there. */
static int s_returned(void)
{
	char path[200], other[200];

	snprintf(path, sizeof path, "%s/returned", dir);
	snprintf(other, sizeof other, "%s/aside", dir);
	int fd = at("returned", O_RDWR);

	return has(ftruncate(fd, 4096)) || mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED || has(link(path, other)) ||
	       has(unlink(path)) || has(link(other, path)) || has(unlink(other));
}
static int s_proc(void)
{
	return has(open("/proc/meminfo", O_RDONLY));
}
static int s_kmsg(void)
{
	return has(open("/dev/kmsg", O_RDONLY | O_NONBLOCK));
}
static int s_flock(void)
{
	return has(flock(at("flock", O_RDWR), LOCK_EX));
}
static int s_fcntl(void)
{
	struct flock l = {.l_type = F_WRLCK};

	return has(fcntl(at("fcntl", O_RDWR), F_SETLK, &l));
}
static int s_ofd(void)
{
	struct flock l = {.l_type = F_RDLCK};

	return has(fcntl(at("ofd", O_RDWR), F_OFD_SETLK, &l));
}
static int s_lease(void)
{
	return has(fcntl(at("lease", O_RDONLY), F_SETLEASE, F_RDLCK));
}
static int s_offset(void)
{
	return has(fcntl(shared_fd, F_DUPFD, 0));
}
static int s_unlinked_shared(void)
{
	return has(fcntl(unlinked_fd, F_DUPFD, 0));
}
static int s_unlinked_big(void)
{
	int fd = at("big", O_RDWR);
	char path[200];

	snprintf(path, sizeof path, "%s/big", dir);
	return has(unlink(path)) || has(fallocate(fd, 0, 0, 65 << 20));
}
static int s_pidfd(void)
{
	return has(syscall(SYS_pidfd_open, outsider, 0));
}
static int s_nsfd(void)
{
	return has(open("/proc/self/ns/net", O_RDONLY));
}
static int s_chroot(void)
{
	return has(chdir(dir)) || has(chroot(dir)) || has(chdir("/"));
}
static int s_cwd(void)
{
	char path[200];

	snprintf(path, sizeof path, "%s/cwd", dir);
	return has(mkdir(path, 0700)) || has(chdir(path)) || has(rmdir(path));
}
static int s_cwd_proc(void)
{
	return has(chdir("/proc/sys"));
}
static int s_mnt(void)
{
	return has(unshare(CLONE_NEWNS));
}
static int s_net(void)
{
	return has(unshare(CLONE_NEWNET));
}
static int s_uts(void)
{
	return has(unshare(CLONE_NEWUTS));
}
static int s_ipc(void)
{
	return has(unshare(CLONE_NEWIPC));
}
static int s_user(void)
{
	return has(unshare(CLONE_NEWUSER));
}
static int s_pidns(void)
{
	return has(unshare(CLONE_NEWPID));
}
static int s_time(void)
{
	return has(unshare(0x80 /* CLONE_NEWTIME */));
}
static int s_fifo_sched(void)
{
	struct sched_param p = {.sched_priority = 1};

	return has(sched_setscheduler(0, SCHED_FIFO, &p));
}
static void *one_thread(void *sem)
{
	struct sched_param p = {.sched_priority = 1};
	int missing = has(sched_setscheduler(0, SCHED_RR, &p));

	if (write(*(int *)sem, missing ? "x" : "y", 1) < 0)
		_exit(1);
	for (;;)
		pause();
}
static int s_rr_thread(void)
{
	pthread_t t;
	int p[2];
	char c;

	if (pipe(p) || pthread_create(&t, NULL, one_thread, &p[1]) || read(p[0], &c, 1) != 1)
		return 1;
	close(p[0]), close(p[1]);
	return c == 'x';
}
static int s_deadline(void)
{
	struct {
		uint32_t size, policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime, deadline, period;
	} a = {.size = sizeof a, .policy = 6, .runtime = 1000000, .deadline = 100000000, .period = 100000000};

	return has(syscall(SYS_sched_setattr, 0, &a, 0));
}
static int s_secret(void)
{
	int fd = syscall(447 /* memfd_secret */, 0);

	return has(fd);
}
static int s_secret_map(void)
{
	int fd = syscall(447, 0);
	void *p = fd < 0 || ftruncate(fd, 4096) ? MAP_FAILED : mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (fd >= 0)
		close(fd);
	return p == MAP_FAILED;
}
static int s_mseal(void)
{
	void *p = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED || has(syscall(462 /* mseal */, p, 4096, 0));
}
static int s_pkey(void)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int key = pkey_alloc(0, 0);

	return has(key) || has(pkey_mprotect(p, 4096, PROT_READ | PROT_WRITE, key));
}
static int s_hugetlb(void)
{
	return mmap(NULL, 2 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE, -1, 0) == MAP_FAILED;
}
static int s_ring(void)
{
	struct perf_event_attr a = {.type = PERF_TYPE_SOFTWARE, .size = sizeof a, .config = PERF_COUNT_SW_TASK_CLOCK};
	int fd = syscall(SYS_perf_event_open, &a, 0, -1, -1, 0);
	void *p = fd < 0 ? MAP_FAILED : mmap(NULL, 2 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (fd >= 0)
		close(fd);
	return p == MAP_FAILED;
}
static int s_filter(void)
{
	struct sock_filter f[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
	struct sock_fprog prog = {1, f};

	return has(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) || has(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog));
}
static int s_sem(void)
{
	struct sembuf up = {0, 1, 0};
	int id = left[0] = semget(IPC_PRIVATE, 1, 0600);

	return has(id) || has(semop(id, &up, 1));
}
static int s_sem_shared(void)
{
	return has(semop(shared_sem, &(struct sembuf){0, 1, 0}, 1));
}
struct message {
	long type;
	char text[4];
};
static int s_msg(void)
{
	int id = left[1] = msgget(IPC_PRIVATE, 0600);

	return has(id) || has(msgsnd(id, &(struct message){1, "abc"}, 4, 0));
}
static int s_msg_shared(void)
{
	return has(msgrcv(shared_queue, &(struct message){0}, 4, 0, IPC_NOWAIT));
}
static void *attach_new(void)
{
	int id = shmget(IPC_PRIVATE, 8192, 0600);
	void *p = id < 0 ? (void *)-1 : shmat(id, NULL, 0);

	if (id >= 0)
		shmctl(id, IPC_RMID, NULL);
	return p;
}
static int s_shm(void)
{
	return attach_new() == (void *)-1;
}
static int s_shm_part(void)
{
	char *p = attach_new();

	return p == (void *)-1 || has(munmap(p + 4096, 4096));
}
static int s_shm_shared(void)
{
	return shmat(shared_segment, NULL, 0) == (void *)-1;
}
static int s_aio(void)
{
	aio_context_t c = 0;

	return has(syscall(SYS_io_setup, 8, &c));
}
static int s_traced(void)
{
	pid_t parent = getpid(), tracer = fork();

	if (!tracer) {
		close_range(3, ~0u, 0);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		ptrace(PTRACE_SEIZE, parent, 0, 0);
		for (;;)
			pause();
	}
	char text[4096], *at = NULL;

	for (int i = 0; i < 1000 && (!at || !atoi(at + 10)); i++) { /* until it has us */
		int fd = open("/proc/self/status", O_RDONLY);
		ssize_t n = read(fd, text, sizeof text - 1);

		close(fd);
		text[n > 0 ? n : 0] = 0;
		at = strstr(text, "TracerPid:");
		usleep(10000);
	}
	return tracer < 0;
}
static volatile bool is_apart;
static void *apart(void *arg)
{
	(void)arg;
	if (unshare(CLONE_FILES) == 0)
		close_range(3, ~0u, 0);
	is_apart = true;
	for (;;)
		pause();
	return NULL;
}
static int s_thread(void)
{
	pthread_t t;

	pthread_create(&t, NULL, apart, NULL);
	while (!is_apart)
		usleep(1000);
	return 0;
}
static int sleeper(void *arg)
{
	(void)arg;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	close_range(3, ~0u, 0); /* or the pipe to the test stays open */
	for (;;)
		pause();
	return 0;
}
static char stack[3][32768] __attribute__((aligned(16)));
static int s_clone_fs(void)
{
	return has(clone(sleeper, stack[0] + sizeof stack[0], CLONE_FS | SIGCHLD, NULL));
}
static int s_clone_vm(void)
{
	return has(clone(sleeper, stack[1] + sizeof stack[1], CLONE_VM | SIGCHLD, NULL));
}
static char *shared_map; /* the outsider has it too */
static int s_shared_map(void)
{
	return shared_map[0]++ > 100;
}
static int s_cputimer(void)
{
	clockid_t c;
	timer_t t;
	struct sigevent ev = {.sigev_notify = SIGEV_NONE};

	return clock_getcpuclockid(outsider, &c) || has(timer_create(c, &ev, &t));
}
static int s_zombie(void)
{
	_exit(0);
}
static void *outlive_main(void *unused)
{
	char path[64], text[512], *s;

	snprintf(path, sizeof path, "/proc/self/task/%d/stat", (int)getpid());
	do { /* until the first thread has ended */
		int fd = open(path, O_RDONLY);
		ssize_t n = read(fd, text, sizeof text - 1);

		close(fd);
		text[n > 0 ? n : 0] = 0;
		s = strrchr(text, ')');
	} while (s && s[2] != 'Z');
	close(report);
	for (;;)
		pause();
	return unused;
}
static int s_headless(void)
{
	pthread_t t;

	if (pthread_create(&t, NULL, outlive_main, NULL))
		return 1;
	syscall(SYS_exit, 0);
	return 1;
}
/* pause() as a 32-bit ELF: int 0x80, call 29. */
static int s_32bit(void)
{
	static const unsigned char elf[] = {
		0x7f, 'E', 'L', 'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 3, 0, 1, 0, 0, 0, 0x54, 0x80, 4, 8, 0x34, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		0x34, 0, 0x20, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 4, 8, 0, 0x80, 4, 8, 0x5d, 0, 0, 0, 0x5d, 0, 0, 0, 5, 0, 0, 0, 0,
		0x10, 0, 0, 0xb8, 29, 0, 0, 0, 0xcd, 0x80, 0xeb, 0xf7};
	char path[200];
	int fd = at("pause32", O_WRONLY);

	snprintf(path, sizeof path, "%s/pause32", dir);
	if (write(fd, elf, sizeof elf) != sizeof elf || fchmod(fd, 0700) < 0)
		return 1;
	close(fd);
	close(shared_fd);
	close(unlinked_fd);
	close(half_fd);
	close(half_packets_fd);
	execl(path, path, NULL);
	return 1;
}

static const struct state {
	const char *name;
	int (*make)(void);
	const char *expect; /* after "PID (COMM): "; NULL: movable */
} states[] = {
	{"nothing special", s_none, NULL},
	{"TCP socket", s_tcp, NULL},
	{"TCP socket, bound only", s_tcp_bound, "fd *: TCP socket is bound, and neither listens nor is connected yet: try again later"},
	{"MPTCP socket", s_mptcp, "fd *: TCP socket of another protocol (MPTCP): close it first"},
	{"UDP socket", s_udp6, NULL},
	{"UDP socket, bound", s_udp_bound, NULL},
	{"unix socket", s_unix, NULL},
	{"named unix socket", s_unix_named, NULL},
	{"unix socket, other end stays, shared", s_unix_half, "fd *: socket:* is open in process * too, which stays: move that one, or close it first"},
	{"unix packets, other end stays, shared", s_unix_half_packets, "fd *: socket:* is open in process * too, which stays: move that one, or close it first"},
	{"unix socket, out-of-band byte", s_unix_oob, "fd *: unix stream socket with an out-of-band byte under way (MSG_OOB): try again later"},
	{"unix socket, unread error", s_unix_error, "fd *: unix stream socket with an error that has not been read yet (its peer has gone): try again later"},
	{"unix socket, filter", s_unix_filter, "fd *: unix datagram socket with a filter (SO_ATTACH_FILTER): detach it first"},
	{"unix pair", s_unix_pair, NULL},
	{"netlink socket", s_netlink, "fd *: netlink socket: close it first"},
	{"memfd", s_memfd, NULL},
	{"inotify", s_inotify, NULL},
	{"fanotify", s_fanotify, "fd *: fanotify watches files from this host: close it first"},
	{"io_uring", s_uring, "fd *: io_uring ring: close it first"},
	{"userfaultfd", s_uffd, "fd *: userfaultfd: its owner handles page faults from outside; close it first"},
	{"perf event", s_perf, "fd *: performance counter of this host's CPU: close it first"},
	{"BPF map", s_bpf, "fd *: BPF map: belongs to this kernel; close it first"},
	{"message queue", s_mq, NULL},
	{"message queue, mq_notify", s_mq_notify,
		"fd *: a signal or thread waits for a message in queue /test-refuse-* (deleted) (mq_notify): end that first (mq_notify(queue, NULL))"},
	{"message queue, shared", s_mq_shared, "fd *: /test-refuse-shared* (deleted) is open in process * too, which stays: move that one, or close it first"},
	{"named pipe", s_fifo, "fd *: named pipe */fifo is on a disk of this host: close it first, or make it in the cluster's tree"},
	{"unlinked file", s_unlinked, NULL},
	{"unlinked file, shared", s_unlinked_shared,
		"fd *: */nameless (deleted) is open in process * too, which stays: move that one, or close it first"},
	{"unlinked file, big", s_unlinked_big,
		"fd *: */big (deleted) has been unlinked and holds 65 MiB, more than the 64 that can be carried: close it first"},
	{"name that is gone", s_renamed, "fd *: */first (deleted) is a name that is gone (the file has others): open it by another name"},
	{"name that came back", s_returned, NULL},
	{"/proc file", s_proc, "fd *: /proc/meminfo belongs to this host alone: close it first"},
	{"device", s_kmsg, "fd *: /dev/kmsg is a device of this host: close it first"},
	{"flock", s_flock, "fd *: flock held on */flock: release it first"},
	{"fcntl lock", s_fcntl, "fd *: fcntl lock held on */fcntl: release it first"},
	{"OFD lock", s_ofd, "fd *: OFD lock held on */ofd: release it first"},
	{"lease", s_lease, "fd *: lease held on */lease: release it first"},
	{"shared offset", s_offset,
		"fd *: the offset in */offset is shared with process *, which stays: move that one, or open the file for append"},
	{"pidfd", s_pidfd, "fd *: pidfd of process *, which stays: close it first"},
	{"namespace", s_nsfd, "fd *: namespace of this host (net:\\[*\\]): close it first"},
	{"chroot", s_chroot, "root directory /tmp/test-refuse-* is not the system's (chroot): start it without chroot"},
	{"removed cwd", s_cwd, "working directory */cwd (deleted) has been removed: cd elsewhere"},
	{"cwd in /proc", s_cwd_proc, "working directory /proc/sys belongs to this host alone: cd elsewhere"},
	{"mount namespace", s_mnt, "lives in a mount namespace of its own: start it without"},
	{"network namespace", s_net, "lives in a network namespace of its own: start it without"},
	{"UTS namespace", s_uts, "lives in a host name namespace of its own: start it without"},
	{"IPC namespace", s_ipc, "lives in a IPC namespace of its own: start it without"},
	{"user namespace", s_user, "lives in a user namespace of its own: start it without"},
	{"pid namespace", s_pidns, "has a pid namespace of its own for its children (unshare): start it without"},
	{"time namespace", s_time, "lives in a time namespace of its own: start it without"},
	{"real-time class", s_fifo_sched, "real-time scheduling: a guest may not hold its host back; chrt -o -p 0 * first"},
	{"real-time class of a thread", s_rr_thread, "real-time scheduling: a guest may not hold its host back; chrt -o -p 0 * first"},
	{"deadline class", s_deadline, "deadline scheduling: a guest may not hold its host back; chrt -o -p 0 * first"},
	{"secret memory", s_secret, "fd *: secret memory*"},
	{"secret memory, mapped", s_secret_map, "memory *secretmem*: *"},
	{"sealed memory", s_mseal, "memory *: sealed memory (mseal): cannot be laid out again"},
	{"hugetlbfs", s_hugetlb, "memory *: memory of hugetlbfs: use transparent huge pages (madvise)"},
	{"protection key", s_pkey, "memory *: has a protection key (pkey_mprotect), which is not carried: give it key 0 first"},
	{"ring of a counter", s_ring, "memory *[[]perf_event]*: *"},
	{"seccomp filter", s_filter, NULL},
	{"SysV semaphore", s_sem, NULL},
	{"SysV semaphore, shared", s_sem_shared,
		"shares SysV semaphores (id *, key 0x0) with process *, which stays: move that one, or remove it first (ipcrm -s *)"},
	{"SysV queue", s_msg, NULL},
	{"SysV queue, shared", s_msg_shared,
		"shares a SysV message queue (id *, key 0x0) with process *, which stays: move that one, or remove it first (ipcrm -q *)"},
	{"SysV shared memory", s_shm, NULL},
	{"SysV shared memory, part", s_shm_part, "has SysV shared memory (id *) attached in part (munmap): shmdt it first"},
	{"SysV shared memory, shared", s_shm_shared,
		"shares SysV shared memory (id *, key 0x0) with process *, which stays: move that one, or remove it first (ipcrm -m *)"},
	{"AIO ring", s_aio, "memory * /[[]aio] (deleted): AIO rings are in use (io_setup): io_destroy them first"},
	{"traced", s_traced, "is traced by process *: end the debugger first"},
	{"thread apart", s_thread, "thread * has descriptors or a working directory of its own (unshare): cannot be carried"},
	{"clone(CLONE_FS)", s_clone_fs, "shares descriptors or working directory with process * (clone): cannot be carried"},
	{"clone(CLONE_VM)", s_clone_vm, "shares its memory with process * (vfork in progress or clone): try again later"},
	{"shared memory", s_shared_map, "shares memory (mmap) with process *, which stays: move that one"},
	{"foreign CPU timer", s_cputimer, "POSIX timer on the CPU clock of process *: delete it first"},
	{"zombie", s_zombie, "has ended already and waits for its parent (zombie): let the parent wait for it"},
	{"first thread ended", s_headless, "its first thread has ended while others run on: cannot be carried; let that one wait for them (pthread_join)"},
	{"32-bit", s_32bit, "is a 32-bit program: use its 64-bit version"},
};

static void run(const struct state *s)
{
	struct eng_reasons why = {0};
	struct error e = {0};
	int p[2];
	char c;

	if (getenv("VERBOSE"))
		printf("\n    %s", s->name);
	CU_ASSERT_FATAL(pipe2(p, O_CLOEXEC) == 0);
	pid_t pid = fork();

	if (!pid) {
		int null = open("/dev/null", O_RDWR);

		dup2(null, 0), dup2(null, 1), dup2(null, 2);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (int fd = 3; fd < 64; fd++)
			if (fd != p[1] && fd != shared_fd && fd != unlinked_fd && fd != half_fd && fd != half_packets_fd && fd != shared_mq)
				close(fd);
		if (s->make != s_shared_map)
			munmap(shared_map, 4096);
		bool leaves = s->make == s_sem || s->make == s_msg;

		if (!leaves)
			munmap(left, 4096);
		report = fcntl(p[1], F_DUPFD_CLOEXEC, 100);
		close(p[1]);
		int r = s->make();

		if (leaves)
			munmap(left, 4096);
		close(shared_fd);
		close(unlinked_fd);
		close(half_fd);
		close(half_packets_fd);
		close(shared_mq);
		if (r && write(report, "x", 1) < 0)
			_exit(1);
		close(report);
		for (;;)
			pause();
	}
	close(p[1]);
	alarm(20); /* for a child that never gets there */
	bool missing = read(p[0], &c, 1) == 1;

	close(p[0]);
	if (missing) {
		printf("\n    (%s: not to be had here)", s->name);
	} else {
		siginfo_t si;

		if (s->make == s_zombie) /* the pipe closes a moment before it is one */
			waitid(P_PID, pid, &si, WEXITED | WNOWAIT);
		int r = eng_explain(pid, &why, NULL, &e);
		const char *text = why.n ? strstr(why.line[0], "): ") : NULL;

		text = text ? text + 3 : "";
		bool right = s->expect ? r == 1 && why.n >= 1 && !fnmatch(s->expect, text, 0) : r == 0 && !why.n;
		size_t others = 0; /* reasons that have nothing to do with it */

		for (size_t i = 1; i < why.n; i++)
			others += fnmatch(s->expect ? s->expect : "", strstr(why.line[i], "): ") + 3, 0) != 0;
		if (!right || others) {
			printf("\n    %s: r=%d %s", s->name, r, e.text);
			for (size_t i = 0; i < why.n; i++)
				printf("\n      %s", why.line[i]);
		}
		CU_ASSERT(right);
		CU_ASSERT(!others);
	}
	eng_reasons_clear(&why);
	kill(pid, SIGKILL);
	for (int st; waitpid(pid, &st, 0) == pid && !WIFEXITED(st) && !WIFSIGNALED(st);)
		;
	if (left[0] >= 0)
		semctl(left[0], 0, IPC_RMID);
	if (left[1] >= 0)
		msgctl(left[1], IPC_RMID, NULL);
	left[0] = left[1] = -1;
}

static void test_states(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(states); i++)
		run(&states[i]);
}

static void test_nobody(void)
{
	struct eng_reasons why = {0};
	struct error e = {0};

	CU_ASSERT(eng_explain(4194300, &why, NULL, &e) == -ESRCH);
	CU_ASSERT(why.n == 0);
	CU_ASSERT(!strcmp(e.text, "no process 4194300"));
}

/* What the children left in the kernel: only their own. */
static void sweep(void)
{
	char cmd[300];

	shmctl(shared_segment, IPC_RMID, NULL);
	semctl(shared_sem, 0, IPC_RMID);
	msgctl(shared_queue, IPC_RMID, NULL);
	snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
	if (system(cmd))
		printf("%s: not removed\n", dir);
}

int main(void)
{
	if (geteuid()) {
		printf("needs root\n");
		return 77;
	}
	if (!mkdtemp(dir))
		return 1;
	shared_fd = at("offset", O_RDWR);
	shared_fd = fcntl(shared_fd, F_DUPFD, 50);
	char nameless[200];

	snprintf(nameless, sizeof nameless, "%s/nameless", dir);
	unlinked_fd = fcntl(at("nameless", O_RDWR), F_DUPFD, 51);
	unlink(nameless);
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
		return 1;
	half_fd = fcntl(pair[0], F_DUPFD, 52);
	other_half = pair[1];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair))
		return 1;
	half_packets_fd = fcntl(pair[0], F_DUPFD, 54); /* the other one stays as it is */
	snprintf(nameless, sizeof nameless, "/test-refuse-shared-%d", getpid());
	shared_mq = fcntl(mq_open(nameless, O_CREAT | O_RDWR, 0600, NULL), F_DUPFD_CLOEXEC, 53);
	mq_unlink(nameless);
	shared_map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared_map == MAP_FAILED)
		return 1;
	left = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (left == MAP_FAILED)
		return 1;
	left[0] = left[1] = -1;
	shared_segment = shmget(IPC_PRIVATE, 8192, 0600);
	shared_sem = semget(IPC_PRIVATE, 2, 0600);
	shared_queue = msgget(IPC_PRIVATE, 0600);
	int ready[2];

	if (pipe(ready))
		return 1;
	outsider = fork();
	if (!outsider) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(0);
		struct message m = {1, "abc"};

		if (shmat(shared_segment, NULL, 0) == (void *)-1 || semop(shared_sem, &(struct sembuf){1, 1, 0}, 1) || msgsnd(shared_queue, &m, 4, 0) ||
		    write(ready[1], "", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	char byte;

	if (read(ready[0], &byte, 1) != 1)
		return 1;
	close(ready[0]);
	close(ready[1]);
	setvbuf(stdout, NULL, _IOLBF, 0);
	CU_initialize_registry();
	CU_pSuite s = CU_add_suite("refusals", NULL, NULL);
	CU_add_test(s, "each by its name", test_states);
	CU_add_test(s, "no such process", test_nobody);
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	unsigned failed = CU_get_number_of_failures();

	CU_cleanup_registry();
	kill(outsider, SIGKILL);
	waitpid(outsider, NULL, 0);
	sweep();
	return failed != 0;
}
