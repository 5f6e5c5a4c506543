/* SPDX-License-Identifier: Apache-2.0 */
/* For test_refuse.c alone: what brings about the states of open files, and of memory that is mapped from them. 0: it is there; 1: not to be had here. */
#ifndef TEST_REFUSE_FILES_H
#define TEST_REFUSE_FILES_H
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
/* One that listens, and how to get there. */
static int tcp_listens(struct sockaddr_in *a, int backlog)
{
	int l = socket(AF_INET, SOCK_STREAM, 0);

	*a = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	if (bind(l, (struct sockaddr *)a, sizeof(*a)) < 0 || listen(l, backlog) < 0 || getsockname(l, (struct sockaddr *)a, &(socklen_t){sizeof(*a)}) < 0)
		return -1;
	return l;
}
/* More than it takes: the last one goes on asking. */
static int s_tcp_connecting(void)
{
	struct sockaddr_in a;

	if (tcp_listens(&a, 0) < 0)
		return 1;
	for (int i = 0; i < 20; i++) {
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		struct tcp_info t;

		connect(fd, (struct sockaddr *)&a, sizeof(a));
		if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &t, &(socklen_t){sizeof(t)}) == 0 && t.tcpi_state == TCP_SYN_SENT)
			return 0;
	}
	return 1;
}
static int tcp_pair(int s[2])
{
	struct sockaddr_in a;
	int l = tcp_listens(&a, 1);

	s[0] = socket(AF_INET, SOCK_STREAM, 0);
	s[1] = l < 0 || connect(s[0], (struct sockaddr *)&a, sizeof(a)) < 0 ? -1 : accept(l, NULL, NULL);
	close(l);
	return s[1];
}
static int s_tcp_error(void)
{
	struct linger hard = {1, 0};
	int s[2], r = has(tcp_pair(s)) || has(setsockopt(s[1], SOL_SOCKET, SO_LINGER, &hard, sizeof(hard)));

	close(s[1]);
	return r;
}
static int s_tcp_oob(void)
{
	int s[2];

	return has(tcp_pair(s)) || has(send(s[0], "a", 1, MSG_OOB));
}
static int s_tcp_ulp(void)
{
	int s[2];

	return has(tcp_pair(s)) || has(setsockopt(s[0], IPPROTO_TCP, TCP_ULP, "tls", 3));
}
/* fe80::1%lo, say: means something on one link only. */
static int s_tcp_link(void)
{
	struct ifaddrs *all, *i;
	int fd = socket(AF_INET6, SOCK_STREAM, 0), r = 1;

	if (getifaddrs(&all) < 0)
		return 1;
	for (i = all; i && r; i = i->ifa_next) {
		const struct sockaddr_in6 *a = (void *)i->ifa_addr;

		r = !a || a->sin6_family != AF_INET6 || !IN6_IS_ADDR_LINKLOCAL(&a->sin6_addr) || bind(fd, (void *)a, sizeof(*a)) < 0 || listen(fd, 1) < 0;
	}
	freeifaddrs(all);
	return r;
}
static int s_packet_ring(void)
{
	struct tpacket_req r = {.tp_block_size = 4096, .tp_block_nr = 1, .tp_frame_size = 2048, .tp_frame_nr = 2};
	int fd = socket(AF_PACKET, SOCK_RAW, 0);
	void *p = fd < 0 || setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &r, sizeof(r)) < 0 ? MAP_FAILED : mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);

	if (fd >= 0)
		close(fd);
	return p == MAP_FAILED;
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
/* (The socket keeps it: after all that have it as it was.) */
static int s_unix_half_peeked(void)
{
	return has(setsockopt(half_fd, SOL_SOCKET, SO_PEEK_OFF, &(int){0}, sizeof(int))) || has(fcntl(half_fd, F_DUPFD, 0));
}
static int s_unix_half_asks(void)
{
	return has(setsockopt(half_packets_fd, SOL_SOCKET, SO_PASSCRED, &(int){1}, sizeof(int))) || has(fcntl(half_packets_fd, F_DUPFD, 0));
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
/* It has no name any more, and is still there: somebody has it open. */
static int s_inotify_lost(void)
{
	char path[200];
	int fd = inotify_init1(0);

	snprintf(path, sizeof path, "%s/watched", dir);
	return has(at("watched", O_RDWR)) || has(inotify_add_watch(fd, path, IN_MODIFY)) || has(unlink(path));
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
static int s_bpf_program(void)
{
	struct bpf_insn code[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K}, {.code = BPF_JMP | BPF_EXIT}};
	union bpf_attr a = {.prog_type = BPF_PROG_TYPE_SOCKET_FILTER, .insn_cnt = 2, .insns = (uintptr_t)code, .license = (uintptr_t)"GPL"};

	return has(syscall(SYS_bpf, BPF_PROG_LOAD, &a, sizeof a));
}
static int s_kvm(void)
{
	int kvm = open("/dev/kvm", O_RDWR), vm = kvm < 0 ? -1 : ioctl(kvm, 0xae01 /* KVM_CREATE_VM */, 0);

	close(kvm);
	return has(vm);
}
static int s_fsopen(void)
{
	return has(syscall(430 /* fsopen */, "tmpfs", 0));
}
static int s_landlock(void)
{
	uint64_t access = 1;

	return has(syscall(444 /* landlock_create_ruleset */, &access, sizeof access, 0));
}
static int s_supervises(void)
{
	struct sock_filter f[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
	struct sock_fprog prog = {1, f};

	return has(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) || has(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &prog));
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
/* As a frame buffer is; any file there will do. */
static int s_device_shared(void)
{
	char name[40];

	snprintf(name, sizeof name, "/dev/test-refuse-%d", getpid());
	int fd = open(name, O_RDWR | O_CREAT, 0600), missing = has(fd) || has(ftruncate(fd, 4096)) || mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED;

	close(fd);
	return missing;
}
static int s_kmsg(void)
{
	return has(open("/dev/kmsg", O_RDONLY | O_NONBLOCK));
}
static int s_rights(void)
{
	char self[PATH_MAX] = "";

	/* Whoever may not read this program itself, or enter its directory, is refused for that too: below /root, say. */
	return has(readlink("/proc/self/exe", self, sizeof self - 1)) || has(chdir("/")) || has(at("roots", O_RDWR)) || has(setresgid(65534, 65534, 65534)) ||
	       has(setresuid(65534, 65534, 65534)) || has(access(self, R_OK));
}
/* The first disk that there is, under a name of ours. */
static int s_disk(void)
{
	char path[200], text[32] = "";
	int fd = -1, major, minor;
	glob_t g;

	snprintf(path, sizeof path, "%s/disk", dir);
	if (glob("/sys/class/block/*/dev", 0, NULL, &g))
		return 1;
	for (size_t i = 0; i < g.gl_pathc && fd < 0; i++) {
		int in = open(g.gl_pathv[i], O_RDONLY);
		ssize_t n = read(in, text, sizeof text - 1);

		close(in);
		if (n < 3 || sscanf(text, "%d:%d", &major, &minor) != 2)
			continue;
		unlink(path);
		if (mknod(path, S_IFBLK | 0600, makedev(major, minor)) == 0)
			fd = open(path, O_RDONLY | O_NONBLOCK);
	}
	globfree(&g);
	return has(fd);
}
static int s_device_map(void)
{
	char path[200];

	snprintf(path, sizeof path, "%s/mem", dir);
	int fd = mknod(path, S_IFCHR | 0600, makedev(1, 1)) ? -1 : open(path, O_RDONLY);
	void *p = fd < 0 ? MAP_FAILED : mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0xf0000);

	if (fd >= 0)
		close(fd);
	return p == MAP_FAILED;
}
/* An object of /dev/shm with a name of this child's; `more`: with one more. */
static char *shm_object(const char *more)
{
	static char name[64];

	snprintf(name, sizeof name, "/dev/shm/test-refuse-%d%s", getpid(), more);
	return name;
}
static int shm_mapped(void)
{
	int fd = open(shm_object(""), O_RDWR | O_CREAT, 0666);
	void *p = fd < 0 || ftruncate(fd, 4096) ? MAP_FAILED : mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	close(fd);
	return p == MAP_FAILED;
}
static int s_shm_names(void)
{
	char one[64];

	if (shm_mapped())
		return 1;
	snprintf(one, sizeof one, "%s", shm_object(""));
	return has(link(one, shm_object("-too")));
}
static int s_shm_owner(void)
{
	return shm_mapped() || has(chown(shm_object(""), 65534, 65534));
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
#endif
