/* SPDX-License-Identifier: Apache-2.0 */
/* Parents, process groups and sessions inside of the family: getppid, getpgid, getsid, kill of a group, wait for a group. */
#include "move.h"
#include <sys/prctl.h>

static volatile sig_atomic_t hits;
static void on_usr2(int sig)
{
	(void)sig;
	hits++;
}

struct seen { /* shared with the children */
	volatile int hits[4];
	volatile pid_t pid[4], ppid[4], pgid[4], sid[4];
	volatile int wrong;
};

static void child(struct seen *s, int i, pid_t parent, pid_t group)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGTERM, SIG_DFL);
	if (i == 3)
		SYS(setsid());
	else
		SYS(setpgid(0, i == 1 ? 0 : group)); /* 1 leads a group, 2 joins it; 0 stays in the parent's */
	pid_t me = getpid(), pg = getpgrp(), sid = getsid(0);
	s->pgid[i] = pg;
	s->sid[i] = sid;
	s->ppid[i] = parent;
	s->pid[i] = me;
	for (;;) {
		s->hits[i] = hits;
		if (getpid() != me || getppid() != parent || getpgrp() != pg || getsid(0) != sid)
			fail("child %d: pid %d ppid %d pgrp %d sid %d were %d %d %d %d", i, getpid(), getppid(), getpgrp(), getsid(0), me, parent, pg,
			     sid);
		move_nap(2000);
	}
}

static bool within(volatile int *v, int want)
{
	for (int i = 0; i < 12000 && *v != want; i++)
		move_nap(5000);
	return *v == want;
}

int main(int argc, char **argv)
{
	move_begin(argc, argv);
	struct sigaction sa = {.sa_handler = on_usr2, .sa_flags = SA_RESTART};
	SYS(sigaction(SIGUSR2, &sa, NULL));
	struct seen *s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t kid[4], me = getpid(), pg = getpgrp(), sid = getsid(0), parent = getppid();
	for (int i = 0; i < 4; i++) {
		kid[i] = SYS(fork());
		if (!kid[i])
			child(s, i, me, i == 2 ? kid[1] : pg);
		while (!s->pid[i])
			move_nap(1000);
	}
	move_ready();
	int grouped = 0, alone = 0;
	while (move_more()) {
		move_nap(50000);
		CHECK(getpid() == me && getppid() == parent && getpgrp() == pg && getsid(0) == sid,
		      "pid %d ppid %d pgrp %d sid %d were %d %d %d %d", getpid(), getppid(), getpgrp(), getsid(0), me, parent, pg, sid);
		for (int i = 0; i < 4; i++) {
			CHECK(getpgid(kid[i]) == s->pgid[i], "child %d: getpgid says %d, not %d", i, getpgid(kid[i]), s->pgid[i]);
			CHECK(getsid(kid[i]) == s->sid[i], "child %d: getsid says %d, not %d", i, getsid(kid[i]), s->sid[i]);
		}
		SYS(kill(-kid[1], SIGUSR2)); /* 1 and 2 */
		grouped++;
		SYS(kill(kid[3], SIGUSR2));
		alone++;
		CHECK(within(&s->hits[1], grouped) && within(&s->hits[2], grouped), "signal to a group: %d and %d, not %d times", s->hits[1],
		      s->hits[2], grouped);
		CHECK(within(&s->hits[3], alone), "signal to a session's leader: %d, not %d times", s->hits[3], alone);
		CHECK(s->hits[0] == 0 && hits == 0, "a signal went to who was not in the group");
	}
	SYS(kill(-kid[1], SIGTERM));
	SYS(kill(kid[3], SIGTERM));
	SYS(kill(kid[0], SIGTERM));
	int st, n = 0;
	while (waitpid(-kid[1], &st, 0) > 0)
		n++;
	CHECK(n == 2, "%d members of the group were waited for, not 2", n);
	for (n = 0; waitpid(-1, &st, 0) > 0; n++)
		CHECK(WIFSIGNALED(st) && WTERMSIG(st) == SIGTERM, "a child ended with status %x", st);
	CHECK(n == 2, "%d others were waited for, not 2", n);
	return move_pass();
}
