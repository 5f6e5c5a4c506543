// SPDX-License-Identifier: Apache-2.0
/*
 * A thread or process with a given number, where nobody may name one.
 *
 * The kernel's counter is set to the number before, and the target clones at once. Whoever forks on this host in that moment has the number instead, for as
 * long as he lives. Most who would are threads of this daemon itself (every call that arrives is one), so they wait: pthread_create goes by the same lock.
 */
#include "migd/engine/aim.h"
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/log.h"
#include "migd/engine/inject.h"

/*
 * At home the number is had by the kernel's own counter: nobody but root may name it, and a hollow is not root. Numbers born away lie above the usual
 * pid_max, which is raised for that moment, to the number and no further: who forks after it begins anew at the low ones, and does not take that of the next
 * who was born away.
 */
struct aim {
	char last[16], max[16], want[16], next[16];
};

/* One at a time, and no new thread of this daemon meanwhile. */
static pthread_mutex_t aiming = PTHREAD_MUTEX_INITIALIZER;

void aim_hold(void)
{
	pthread_mutex_lock(&aiming);
}

void aim_let_go(void)
{
	pthread_mutex_unlock(&aiming);
}

/* In place of libc's, for gRPC too. */
int pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
	static _Atomic(typeof(&pthread_create)) real;
	int r;

	if (!real)
		real = (typeof(&pthread_create))dlsym(RTLD_NEXT, "pthread_create");
	aim_hold();
	r = real(t, attr, fn, arg);
	aim_let_go();
	return r;
}

static void put_sysctl(const char *name, const char *text)
{
	int fd = open(name, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		log_warn("engine: %s: %s", name, strerror(errno));
	if (fd >= 0)
		close(fd);
}

static void get_sysctl(const char *name, char *text, size_t len)
{
	_cleanup_free_ char *s = eng_proc_read(AT_FDCWD, name, NULL);

	snprintf(text, len, "%s", s ? s : "");
}

static void aim_last(void *arg)
{
	const struct aim *a = arg;

	put_sysctl("/proc/sys/kernel/ns_last_pid", a->want);
}

/*
 * clone3 with those arguments in the leader's thread, so that the new one gets number `want`. Its number (another one, if somebody was faster: any fork of
 * this host between the counter's setting and ours) or -errno. The target runs at once for that moment.
 */
long clone_aimed(struct eng_proc *p, uint64_t args, size_t len, uint64_t slot, pid_t want)
{
	struct eng_call c = {.nr = SYS_clone3, .arg = {args, len, 0, 0, 0, slot}, .may_fail = 1};
	struct sched_param fifo = {.sched_priority = 1}, normal = {0};
	pid_t tid = p->threads[0]->tid;
	struct aim a = {0};
	int r, policy;

	if (p->core->caps) {
		r = eng_batch(p->threads[0], &c, 1, NULL);
		return r < 0 ? r : c.ret;
	}
	aim_hold();
	get_sysctl("/proc/sys/kernel/pid_max", a.max, sizeof(a.max));
	get_sysctl("/proc/sys/kernel/ns_last_pid", a.last, sizeof(a.last));
	snprintf(a.want, sizeof(a.want), "%d", want - 1);
	snprintf(a.next, sizeof(a.next), "%d", want + 1);
	policy = sched_getscheduler(tid);
	if (policy == SCHED_OTHER)
		sched_setscheduler(tid, SCHED_FIFO | SCHED_RESET_ON_FORK, &fifo);
	if (want >= atoi(a.max))
		put_sysctl("/proc/sys/kernel/pid_max", a.next);
	r = batch_after(p->threads[0], &c, 1, NULL, aim_last, &a);
	put_sysctl("/proc/sys/kernel/ns_last_pid", a.last);
	if (want >= atoi(a.max))
		put_sysctl("/proc/sys/kernel/pid_max", a.max);
	aim_let_go();
	if (policy == SCHED_OTHER)
		sched_setscheduler(tid, SCHED_OTHER, &normal);
	return r < 0 ? r : c.ret;
}

/* Before another try: whoever has the number may be short-lived. */
void aim_again(pid_t want)
{
	for (int i = 0; i < 20 && kill(want, 0) == 0; i++)
		nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
}
