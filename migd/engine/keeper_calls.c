// SPDX-License-Identifier: Apache-2.0
/*
 * Calls about processes that are not here: kill(2) of a shell that stayed at home, getpgid(2) of its parent; connect(2) and sendto(2) to one are keeper_connect.c. A seccomp filter of the whole family hands a
 * few calls to this listener (seccomp_unotify(2)); who is meant decides: a process of the family on this host, then the call is made as it stands;
 * somebody else, then the home makes it, in the caller's hollow, and its result is the call's.
 *
 * All other calls are allowed without running the filter (the kernel keeps a bitmap of what it always allows). The keeper's own are known by a random number in an
 * argument that these calls do not have.
 *
 * One notification stays one call: once received, a waiting thread leaves its wait only with our answer or killed (WAIT_KILLABLE_RECV), so a freeze waits for
 * the answer. The keeper outlives migd, and asks a new one again under the same id, by which the home knows it.
 */
#include "migd/engine/keeper_calls.h"
#include "migd/engine/keeper_connect.h"
#include "migd/engine/keeper_stat.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif

enum { CALLS = FOREIGN_CALLS, PENDING = 256 };

static int listener = -1, stats_in = -1; /* stats_in: what its threads pass on */
static uint64_t cookie;
static struct asked {
	struct eng_foreign c;
	pid_t tid; /* the calling thread, as we see it */
	uint64_t out_addr;
	bool used;
} pending[PENDING];

long calls_own(long nr, long a, long b, long c, long d)
{
	return syscall(nr, a, b, c, d, 0l, cookie);
}

int calls_statx(int dir, const char *path, int flags, unsigned mask, struct statx *out)
{
	return (int)syscall(SYS_statx, dir, path, flags, mask, out, cookie);
}

#define LOAD(field)   BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define LOAD_ARG(n)   BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args) + (n) * 8)
#define LOAD_HIGH(n)  BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args) + (n) * 8 + 4)
#define EQ(k, yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (k), (yes), (no))
#define RET(k)	      BPF_STMT(BPF_RET | BPF_K, (k))

/*
 * arch, number against the tables; then: oneself (0; a group for kill) passes, sendto(2) without an address (send(2)), ours pass. sendmsg(2) has its address in memory, where no filter looks.
 * Jumps are counted from the next instruction.
 */
static unsigned filter_make(struct sock_filter *f, unsigned stats)
{
	static const unsigned other[] = {SYS_connect, SYS_sendto, SYS_sendmsg, SYS_sendmmsg};
	unsigned n = 0, tail = 8 + CALLS + stats; /* index of the first instruction behind the tables */

	f[n++] = (struct sock_filter)LOAD(arch);
	f[n++] = (struct sock_filter)EQ(AUDIT_ARCH_X86_64, 0, CALLS + stats + 5);
	f[n++] = (struct sock_filter)LOAD(nr);
	for (unsigned i = 0; i < CALLS; i++) { /* kill has a meaning for 0 of its own */
		unsigned to = foreign_table[i].nr == SYS_kill ? tail + 4 : foreign_table[i].who == 0 ? tail : tail + 2;

		f[n] = (struct sock_filter)EQ((unsigned)foreign_table[i].nr, to - n - 1, 0);
		n++;
	}
	for (unsigned i = 0; i < sizeof(other) / sizeof(*other); i++, n++)
		f[n] = (struct sock_filter)EQ(other[i], (other[i] == SYS_sendto ? tail + 10 : tail + 4) - n - 1, 0);
	for (unsigned i = 0; i < stats; i++, n++)
		f[n] = (struct sock_filter)EQ(stat_calls[i], tail + 4 - n - 1, 0);
	f[n++] = (struct sock_filter)RET(SECCOMP_RET_ALLOW);
	f[n++] = (struct sock_filter)LOAD_ARG(0);  /* tail */
	f[n++] = (struct sock_filter)EQ(0, 6, 2);
	f[n++] = (struct sock_filter)LOAD_ARG(1);  /* tail + 2 */
	f[n++] = (struct sock_filter)EQ(0, 4, 0);
	f[n++] = (struct sock_filter)LOAD_ARG(5);  /* tail + 4 */
	f[n++] = (struct sock_filter)EQ((uint32_t)cookie, 0, 3);
	f[n++] = (struct sock_filter)LOAD_HIGH(5);
	f[n++] = (struct sock_filter)EQ((uint32_t)(cookie >> 32), 0, 1);
	f[n++] = (struct sock_filter)RET(SECCOMP_RET_ALLOW);
	f[n++] = (struct sock_filter)RET(SECCOMP_RET_USER_NOTIF);
	f[n++] = (struct sock_filter)LOAD_ARG(4); /* tail + 10 */
	f[n++] = (struct sock_filter)EQ(0, 0, 3);
	f[n++] = (struct sock_filter)LOAD_HIGH(4);
	f[n++] = (struct sock_filter)EQ(0, 0, 1);
	f[n++] = (struct sock_filter)RET(SECCOMP_RET_ALLOW);
	f[n++] = (struct sock_filter)RET(SECCOMP_RET_USER_NOTIF);
	return n;
}

int calls_start(int num)
{
	struct sock_filter f[CALLS + STAT_CALLS + 30];
	struct sock_fprog prog;
	int fd;

	if (getentropy(&cookie, sizeof(cookie)) < 0)
		return -errno;
	prog = (struct sock_fprog){filter_make(f, stat_wanted() ? STAT_CALLS : 0), f};
	fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_SPEC_ALLOW | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
		&prog);
	if (fd < 0 || dup3(fd, num, O_CLOEXEC) < 0)
		return -errno; /* before Linux 5.19: an interrupted call could be made twice, so rather not */
	close(fd);
	listener = num;
	if (stat_wanted())
		stats_in = stat_start(num); /* else the main loop takes them all, and answers those about files as they stand: the filter is on */
	return stats_in >= 0 ? stats_in : num;
}

void calls_respond(uint64_t id, int64_t ret, bool as_it_stands)
{
	struct seccomp_notif_resp r = {.id = id, .flags = as_it_stands ? SECCOMP_USER_NOTIF_FLAG_CONTINUE : 0};

	if (!as_it_stands && ret < 0)
		r.error = (int)ret;
	else if (!as_it_stands)
		r.val = ret;
	ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &r); /* it may have been killed meanwhile */
}

bool calls_waits(uint64_t id)
{
	return ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &id) == 0;
}

bool calls_copy(pid_t tid, uint64_t addr, void *buf, size_t len, bool out)
{
	struct iovec l = {buf, len}, r = {(void *)addr, len};

	return (out ? process_vm_writev(tid, &l, 1, &r, 1, 0) : process_vm_readv(tid, &l, 1, &r, 1, 0)) == (ssize_t)len;
}

/* The number that decides where the call is made; kill(2) of a group: negative. */
static pid_t who(const struct foreign_call *t, struct seccomp_notif *n)
{
	pid_t pid = (pid_t)n->data.args[t->who];

	if (t->nr != SYS_kill || pid > 0)
		return pid;
	if (pid == 0) { /* the caller's own: by its number, which is the same at home */
		pid = -calls_own(SYS_getpgid, n->pid, 0, 0, 0);
		n->data.args[0] = pid;
	}
	return pid;
}

void calls_read(const char *path, char *text, size_t room)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, room - 1);

	if (fd >= 0)
		close(fd);
	text[n > 0 ? n : 0] = 0;
}

pid_t calls_process(pid_t tid)
{
	char path[64], text[4096], *s;

	snprintf(path, sizeof(path), "/proc/%d/status", tid);
	calls_read(path, text, sizeof(text));
	s = strstr(text, "\nTgid:");
	return s ? atoi(s + 6) : tid;
}

static int describe(const struct foreign_call *t, const struct seccomp_notif *n, struct asked *a)
{
	*a = (struct asked){.c = {.id = n->id, .pid = calls_process(n->pid), .nr = n->data.nr, .in_arg = -1, .out_arg = -1}, .tid = n->pid};
	memcpy(a->c.arg, n->data.args, sizeof(a->c.arg));
	if (t->in >= 0 && n->data.args[t->in]) {
		a->c.in_arg = t->in;
		a->c.in_len = foreign_length(t, a->c.arg, t->in);
		if (!calls_copy(n->pid, n->data.args[t->in], a->c.in, a->c.in_len, false))
			return -EFAULT;
	}
	if (t->out >= 0 && n->data.args[t->out]) {
		a->c.out_arg = t->out;
		a->c.out_len = foreign_length(t, a->c.arg, t->out);
		a->out_addr = n->data.args[t->out];
	}
	return 0;
}

static void ask_home(const struct foreign_call *t, const struct seccomp_notif *n, connect_ask_fn ask)
{
	struct keeper_msg m = {.op = KEEPER_CALL};
	struct asked *a = NULL;
	int r;

	for (unsigned i = 0; i < PENDING && !a; i++)
		if (!pending[i].used)
			a = &pending[i];
	r = a ? describe(t, n, a) : -EAGAIN;
	if (r < 0) {
		calls_respond(n->id, r, false);
		return;
	}
	a->used = true;
	m.call = a->c;
	ask(&m, NULL);
}

void calls_take(bool (*here)(pid_t pid), connect_ask_fn ask)
{
	struct seccomp_notif n = {0};
	const struct foreign_call *t;

	if (stats_in >= 0 ? read(stats_in, &n, sizeof(n)) != sizeof(n) : ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &n) < 0)
		return;
	if (connect_is(n.data.nr)) {
		connect_take(&n);
		return;
	}
	t = foreign_find(n.data.nr);
	if (!t || (t->process_only >= 0 && (int)n.data.args[0] != t->process_only) || here(who(t, &n)))
		calls_respond(n.id, 0, true);
	else
		ask_home(t, &n, ask);
}

void calls_answer(const struct eng_foreign *c, int got)
{
	if (connect_is(c->nr))
		connect_answer(listener, c, got);
	for (unsigned i = 0; i < PENDING; i++) {
		struct asked *a = &pending[i];
		int64_t ret = c->ret;
		/* sched_getaffinity writes as much as it returns */
		size_t len = a->c.nr == SYS_sched_getaffinity && ret >= 0 && (uint64_t)ret < a->c.out_len ? (size_t)ret : a->c.out_len;

		if (!a->used || a->c.id != c->id)
			continue;
		a->used = false;
		if (ret >= 0 && a->out_addr && calls_waits(c->id) &&
		    !calls_copy(a->tid, a->out_addr, (void *)c->out, len, true))
			ret = -EFAULT;
		calls_respond(c->id, ret, false);
		return;
	}
}

void calls_again(connect_ask_fn ask)
{
	connect_again(ask);
	for (unsigned i = 0; i < PENDING; i++) {
		struct keeper_msg m = {.op = KEEPER_CALL, .call = pending[i].c};

		if (pending[i].used && calls_waits(pending[i].c.id))
			ask(&m, NULL);
		else
			pending[i].used = false;
	}
}
