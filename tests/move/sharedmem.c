/* SPDX-License-Identifier: Apache-2.0 */
/* Shared anonymous memory and a shared file map: stay shared between a process and its two children (with process-shared mutex and futex), and with the file. */
#include "move.h"
#include <sys/prctl.h>

struct page {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	volatile uint64_t count, turn, stop;
	uint64_t log[4096];
};

static void play(struct page *s, volatile uint64_t *file, unsigned me)
{
	for (;;) {
		pthread_mutex_lock(&s->lock);
		while (s->turn != me && !s->stop)
			pthread_cond_wait(&s->cond, &s->lock);
		if (s->stop) {
			pthread_mutex_unlock(&s->lock);
			return;
		}
		CHECK(file[0] == s->count, "process %u: the file map says %llu, shared memory %llu", me, (unsigned long long)file[0],
		      (unsigned long long)s->count);
		s->log[s->count % 4096] = s->count * 3 + me;
		s->count++;
		file[0] = s->count;
		file[1 + me]++;
		s->turn = (me + 1) % 3;
		pthread_cond_broadcast(&s->cond);
		pthread_mutex_unlock(&s->lock);
		if (!me)
			return;
	}
}

int main(int argc, char **argv)
{
	move_begin(argc, argv);
	struct page *s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	char *path = move_path("shared");
	int fd = SYS(open(path, O_RDWR | O_CREAT | O_TRUNC, 0600));
	SYS(ftruncate(fd, 4096));
	volatile uint64_t *file = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(s != MAP_FAILED && file != MAP_FAILED, "mmap");
	pthread_mutexattr_t ma;
	pthread_condattr_t ca;
	pthread_mutexattr_init(&ma);
	pthread_mutexattr_setpshared(&ma, PTHREAD_PROCESS_SHARED);
	pthread_condattr_init(&ca);
	pthread_condattr_setpshared(&ca, PTHREAD_PROCESS_SHARED);
	pthread_mutex_init(&s->lock, &ma);
	pthread_cond_init(&s->cond, &ca);
	pid_t kid[2];
	for (int i = 0; i < 2; i++) {
		kid[i] = SYS(fork());
		if (!kid[i]) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			signal(SIGTERM, SIG_IGN);
			play(s, file, i + 1);
			_exit(0);
		}
	}
	move_ready();
	while (move_more()) {
		uint64_t before = s->count;
		play(s, file, 0);
		for (int i = 0; i < 12000 && s->turn != 0; i++)
			move_nap(5000);
		CHECK(s->turn == 0 && s->count == before + 3, "the children stand still at turn %llu of count %llu", (unsigned long long)s->turn,
		      (unsigned long long)s->count);
		for (uint64_t i = before; i < s->count; i++)
			CHECK(s->log[i % 4096] == i * 3 + i % 3, "entry %llu of the log is wrong", (unsigned long long)i);
		uint64_t in_file;
		CHECK(pread(fd, &in_file, 8, 0) == 8 && in_file == s->count, "read() sees %llu in the file, the map %llu",
		      (unsigned long long)in_file, (unsigned long long)s->count);
		move_nap(300);
	}
	pthread_mutex_lock(&s->lock);
	s->stop = 1;
	pthread_cond_broadcast(&s->cond);
	pthread_mutex_unlock(&s->lock);
	for (int i = 0; i < 2; i++) {
		int st;
		SYS(waitpid(kid[i], &st, 0));
		CHECK(WIFEXITED(st) && !WEXITSTATUS(st), "child %d ended with status %x", i, st);
	}
	unlink(path);
	return move_pass();
}
