// SPDX-License-Identifier: Apache-2.0
/*
 * What cannot be carried is refused by name, with its remedy, before anything is frozen: a child brings each state about, and eng_explain() must say exactly
 * this and nothing else. (`*` stands for what differs from run to run.) Needs root; a state that this machine cannot give is left out and told.
 */
#include <CUnit/Basic.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <glob.h>
#include <ifaddrs.h>
#include <linux/aio_abi.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <linux/io_uring.h>
#include <linux/netlink.h>
#include <linux/perf_event.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
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
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "migd/engine/engine.h"
#include "tests/unit/refuse_files.h"

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
/* Who has closed the pipe to the test once the first thread may only read and write. */
static void *watch_strict(void *unused)
{
	char text[4096], *is = NULL;

	do {
		int fd = open("/proc/self/status", O_RDONLY);
		ssize_t n = read(fd, text, sizeof text - 1);

		close(fd);
		text[n > 0 ? n : 0] = 0;
		is = strstr(text, "\nSeccomp:");
	} while (is && atoi(is + 9) != 1);
	close(report);
	for (;;)
		pause();
	return unused;
}
static int s_strict(void)
{
	pthread_t t;
	int p[2];
	char c;

	if (pipe(p) || pthread_create(&t, NULL, watch_strict, NULL))
		return 1;
	close_range(50, 99, 0); /* what run() would close */
	return has(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT)) || read(p[0], &c, 1) != 1;
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
	{"TCP socket, being connected", s_tcp_connecting, "fd *: TCP socket is just being connected: try again later"},
	{"TCP socket, unread error", s_tcp_error, "fd *: TCP socket with an error that has not been read yet (its peer has gone): try again later"},
	{"TCP socket, out-of-band byte", s_tcp_oob, "fd *: TCP socket with an out-of-band byte under way (MSG_OOB): try again later"},
	{"TCP socket, TLS in the kernel", s_tcp_ulp, "fd *: TCP socket with a protocol of its own upon it (TCP_ULP: TLS in the kernel): close it first"},
	{"TCP socket, one link", s_tcp_link, "fd *: TCP (IPv6) socket with an address that means something on one link only: close it first"},
	{"packet socket's ring", s_packet_ring, "memory * socket:*: a packet socket's ring is mapped: close it first"},
	{"UDP socket", s_udp6, NULL},
	{"UDP socket, bound", s_udp_bound, NULL},
	{"unix socket", s_unix, NULL},
	{"named unix socket", s_unix_named, NULL},
	{"unix socket, other end stays, shared", s_unix_half, "fd *: socket:* is open in process * too, which stays: move that one, or close it first"},
	{"unix packets, other end stays, shared", s_unix_half_packets, "fd *: socket:* is open in process * too, which stays: move that one, or close it first"},
	{"unix socket, other end stays, peeked", s_unix_half_peeked, "fd *: unix stream socket with a peek offset (SO_PEEK_OFF), whose other end stays here: close it first"},
	{"unix packets, other end stays, asks who", s_unix_half_asks,
		"fd *: unix seqpacket socket that asks who sends (SO_PASSCRED), whose other end stays here: close it first"},
	{"unix socket, out-of-band byte", s_unix_oob, "fd *: unix stream socket with an out-of-band byte under way (MSG_OOB): try again later"},
	{"unix socket, unread error", s_unix_error, "fd *: unix stream socket with an error that has not been read yet (its peer has gone): try again later"},
	{"unix socket, filter", s_unix_filter, "fd *: unix datagram socket with a filter (SO_ATTACH_FILTER): detach it first"},
	{"unix pair", s_unix_pair, NULL},
	{"netlink socket", s_netlink, "fd *: netlink socket: close it first"},
	{"memfd", s_memfd, NULL},
	{"inotify", s_inotify, NULL},
	{"inotify, name gone", s_inotify_lost, "fd *: inotify watches a file (inode *) whose name cannot be found: watch it by another name"},
	{"fanotify", s_fanotify, "fd *: fanotify watches files from this host: close it first"},
	{"io_uring", s_uring, "fd *: io_uring ring: close it first"},
	{"userfaultfd", s_uffd, "fd *: userfaultfd: its owner handles page faults from outside; close it first"},
	{"perf event", s_perf, "fd *: performance counter of this host's CPU: close it first"},
	{"BPF map", s_bpf, "fd *: BPF map: belongs to this kernel; close it first"},
	{"BPF program", s_bpf_program, "fd *: BPF program: belongs to this kernel; close it first"},
	{"virtual machine", s_kvm, "fd *: virtual machine (KVM): shut it down first"},
	{"file system context", s_fsopen, "fd *: file system context: close it first"},
	{"Landlock rules", s_landlock, "fd *: Landlock rules: cannot be carried; close it first"},
	{"seccomp listener", s_supervises, "fd *: seccomp listener: supervises another process; close it first"},
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
	{"disk", s_disk, "fd *: */disk is a disk of this host: close it first"},
	{"device, shared map", s_device_shared, "memory * /dev/test-refuse-*: a shared map of a device: close it first"},
	{"device, mapped", s_device_map, "memory * */mem: a device is mapped: close it first"},
	{"rights that are gone", s_rights, "fd *: */roots was opened with rights that the process no longer has: let its user have them (chmod, chown)"},
	{"object of /dev/shm, two names", s_shm_names,
		"map_files/*: a file of /dev/shm that has more names than one, or one in a directory there: remove those"},
	{"object of /dev/shm, another's", s_shm_owner, "map_files/*: /dev/shm/test-refuse-* belongs to another user: unmap or close it first"},
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
	{"strict seccomp", s_strict, "is in strict seccomp mode: cannot be carried; start it without"},
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

static void *sleeps(void *unused)
{
	for (;;)
		pause();
	return unused;
}

/* Ends, and takes its time: the last one to give back large files without a name does that when its namespaces are gone already. */
static void end_slowly(bool threads)
{
	pthread_t t;

	for (int i = 0; i < 4; i++) {
		int fd = memfd_create("large", MFD_CLOEXEC);

		if (fd < 0 || fallocate(fd, 0, 0, 5 << 20))
			_exit(1);
	}
	if (threads && pthread_create(&t, NULL, sleeps, NULL))
		_exit(1);
	_exit(0);
}

static void test_ending(void)
{
	struct error e = {0};
	unsigned looks = 0, wrong = 0;
	int p[2];
	char c;

	CU_ASSERT_FATAL(pipe(p) == 0);
	pid_t pid = fork();

	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(p[1], 64);
		close_range(3, 63, 0);
		int null = open("/dev/null", O_RDWR);

		dup2(null, 0), dup2(null, 1), dup2(null, 2), close(null);
		munmap(shared_map, 4096);
		munmap(left, 4096);
		close_range(64, ~0U, 0);
		for (int i = 0; i < 3000; i++) {
			if (!fork()) {
				if (i % 100 == 0)
					end_slowly(i % 200);
				_exit(0);
			}
			wait(NULL);
		}
		_exit(0);
	}
	alarm(60);
	close(p[1]);
	CU_ASSERT(read(p[0], &c, 1) == 0); /* it has nothing of ours any more */
	close(p[0]);
	for (siginfo_t si = {0}; !waitid(P_PID, pid, &si, WEXITED | WNOWAIT | WNOHANG) && !si.si_pid; looks++) {
		struct eng_reasons why = {0};
		int r = eng_explain(pid, &why, NULL, &e);

		if (r == 1 && (why.n != 1 || !strstr(why.line[0], "(zombie)"))) {
			wrong++;
			printf("\n    %s", why.line[0]);
		}
		eng_reasons_clear(&why);
	}
	waitpid(pid, NULL, 0);
	CU_ASSERT(looks > 20);
	CU_ASSERT(!wrong);
}

/* What the children left in the kernel: only their own. */
static void sweep(void)
{
	char cmd[340];

	shmctl(shared_segment, IPC_RMID, NULL);
	semctl(shared_sem, 0, IPC_RMID);
	msgctl(shared_queue, IPC_RMID, NULL);
	snprintf(cmd, sizeof cmd, "rm -rf %s /dev/shm/test-refuse-* /dev/test-refuse-*", dir);
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
	CU_add_test(s, "who is ending has no reasons", test_ending);
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	unsigned failed = CU_get_number_of_failures();

	CU_cleanup_registry();
	kill(outsider, SIGKILL);
	waitpid(outsider, NULL, 0);
	sweep();
	return failed != 0;
}
