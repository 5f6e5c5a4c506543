/* SPDX-License-Identifier: Apache-2.0 */
/* Resource limits (soft and hard), nice, scheduling policy, affinity, timer slack, personality, death signal, subreaper, I/O priority, OOM score. */
#include "move.h"
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>

static int oom(int set)
{
	char b[16] = {0};
	int fd = open("/proc/self/oom_score_adj", set >= 0 ? O_WRONLY : O_RDONLY);
	if (fd < 0)
		return -9999;
	if (set >= 0) {
		snprintf(b, sizeof b, "%d", set);
		SYS(write(fd, b, strlen(b)));
	} else {
		SYS(read(fd, b, sizeof b - 1));
	}
	close(fd);
	return atoi(b);
}

int main(int argc, char **argv)
{
	move_begin(argc, argv);
	struct rlimit set[RLIM_NLIMITS], is;
	for (int i = 0; i < RLIM_NLIMITS; i++) {
		SYS(getrlimit(i, &set[i]));
		/* Lower what can be told apart and hurts nobody. */
		if (i == RLIMIT_CORE || i == RLIMIT_FSIZE || i == RLIMIT_MSGQUEUE || i == RLIMIT_SIGPENDING) {
			rlim_t top = set[i].rlim_max == RLIM_INFINITY ? 1u << 30 : set[i].rlim_max;
			set[i].rlim_cur = top / 4 + i;
			set[i].rlim_max = top / 2 + i;
			SYS(setrlimit(i, &set[i]));
		}
		if (i == RLIMIT_NOFILE) {
			set[i].rlim_cur = 321;
			set[i].rlim_max = 654;
			SYS(setrlimit(i, &set[i]));
		}
	}
	SYS(setpriority(PRIO_PROCESS, 0, 7));
	struct sched_param p = {0}, q;
	SYS(sched_setscheduler(0, SCHED_BATCH, &p));
	cpu_set_t one, now;
	CPU_ZERO(&one);
	SYS(sched_getaffinity(0, sizeof now, &now));
	for (int c = 0; c < CPU_SETSIZE; c++)
		if (CPU_ISSET(c, &now)) {
			CPU_SET(c, &one);
			break;
		}
	SYS(sched_setaffinity(0, sizeof one, &one));
	SYS(personality(ADDR_NO_RANDOMIZE | READ_IMPLIES_EXEC));
	SYS(prctl(PR_SET_PDEATHSIG, SIGUSR2));
	signal(SIGUSR2, SIG_IGN);
	SYS(prctl(PR_SET_CHILD_SUBREAPER, 1));
	SYS(prctl(PR_SET_TIMERSLACK, 123456));
	SYS(prctl(PR_SET_NAME, "limits-test"));
	SYS(syscall(SYS_ioprio_set, 1, 0, (2 << 13) | 6));
	oom(333);
	move_ready();
	while (move_more()) {
		for (int i = 0; i < RLIM_NLIMITS; i++) {
			SYS(getrlimit(i, &is));
			CHECK(is.rlim_cur == set[i].rlim_cur && is.rlim_max == set[i].rlim_max, "limit %d was %lld/%lld, is %lld/%lld", i,
			      (long long)set[i].rlim_cur, (long long)set[i].rlim_max, (long long)is.rlim_cur, (long long)is.rlim_max);
		}
		errno = 0;
		int nice = getpriority(PRIO_PROCESS, 0);
		CHECK(nice == 7, "nice was 7, is %d", nice);
		CHECK(sched_getscheduler(0) == SCHED_BATCH && !sched_getparam(0, &q), "scheduling policy is %d", sched_getscheduler(0));
		SYS(sched_getaffinity(0, sizeof now, &now));
		CHECK(CPU_EQUAL(&one, &now), "affinity changed");
		int per = personality(0xffffffff);
		CHECK(per == (ADDR_NO_RANDOMIZE | READ_IMPLIES_EXEC), "personality is %x", per);
		int v = 0;
		SYS(prctl(PR_GET_PDEATHSIG, &v));
		CHECK(v == SIGUSR2, "death signal is %d", v);
		SYS(prctl(PR_GET_CHILD_SUBREAPER, &v));
		CHECK(v == 1, "no longer a subreaper");
		CHECK(prctl(PR_GET_TIMERSLACK) == 123456, "timer slack is %d", prctl(PR_GET_TIMERSLACK));
		char name[16];
		SYS(prctl(PR_GET_NAME, name));
		CHECK(!strcmp(name, "limits-test"), "name is %s", name);
		long io = SYS(syscall(SYS_ioprio_get, 1, 0));
		CHECK(io == ((2 << 13) | 6), "I/O priority is %lx", io);
		CHECK(oom(-1) == 333, "oom_score_adj was 333, is %d", oom(-1));
		move_nap(2000);
	}
	return move_pass();
}
