/* SPDX-License-Identifier: Apache-2.0 */
/* Always forking and waiting, three threads at once, with exec and vfork in between: every child's status comes to its parent, every pid is new. */
#include "move.h"
#include <spawn.h>

static volatile bool stop;
static uint64_t made[3];

static void *work(void *arg)
{
	unsigned me = (unsigned)(uintptr_t)arg;
	for (unsigned n = 0; !stop; n++) {
		unsigned want = (n * 7 + me) & 127;
		pid_t kid;
		int st;
		if (n % 4 == 3) {
			char cmd[40], *av[] = {"sh", "-c", cmd, NULL}, *env[] = {NULL};
			snprintf(cmd, sizeof cmd, "exit %u", want);
			int r = posix_spawn(&kid, "/bin/sh", NULL, NULL, av, env);
			CHECK(r == 0, "posix_spawn: %s", strerror(r));
		} else {
			kid = SYS(fork());
			if (!kid) {
				signal(SIGTERM, SIG_IGN);
				if (n % 4 == 2)
					move_nap(20000);
				_exit(want);
			}
		}
		CHECK(kid != getpid() && kid > 1, "child with pid %d", kid);
		pid_t r = waitpid(kid, &st, 0);
		CHECK(r == kid, "thread %u: waiting for %d: %s", me, kid, r < 0 ? strerror(errno) : "another one came");
		CHECK(WIFEXITED(st) && WEXITSTATUS(st) == (int)want, "child %d: status %x, not exit %u", kid, st, want);
		made[me]++;
	}
	return NULL;
}

int main(int argc, char **argv)
{
	move_begin(argc, argv);
	pthread_t t[3];
	sigset_t s;
	sigemptyset(&s);
	sigaddset(&s, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &s, NULL);
	for (uintptr_t i = 0; i < 3; i++)
		pthread_create(&t[i], NULL, work, (void *)i);
	pthread_sigmask(SIG_UNBLOCK, &s, NULL);
	move_ready();
	while (move_more())
		move_nap(20000);
	stop = true;
	for (int i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	CHECK(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD, "a child is left over");
	return move_pass();
}
