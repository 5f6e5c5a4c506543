// SPDX-License-Identifier: Apache-2.0
/*
 * Objects of /dev/shm with a name: a semaphore (sem_open(3)), an area whose descriptor is closed (shm_open(3)), one that is open. Children that know only the names find the same ones,
 * wherever the family is; names come and go meanwhile; at the end none is left.
 */
#include "move.h"
#include <semaphore.h>

enum { ROUNDS = 3 };
static char sem_name[40], area_name[40], open_name[40], later_name[40];

static int *area_of(const char *name, int flags, int *keep)
{
	int fd = shm_open(name, O_RDWR | flags, 0600);

	CHECK(fd >= 0, "shm_open %s: %s", name, strerror(errno));
	if (flags & O_CREAT)
		SYS(ftruncate(fd, 8192));
	int *at = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	CHECK(at != MAP_FAILED, "mmap %s", name);
	if (keep)
		*keep = fd;
	else
		close(fd);
	return at;
}

/* By name alone. */
static void child(void)
{
	sem_t *s = sem_open(sem_name, 0);

	CHECK(s != SEM_FAILED, "sem_open %s: %s", sem_name, strerror(errno));
	int *area = area_of(area_name, 0, NULL), *other = area_of(open_name, 0, NULL);

	for (int i = 0; i < ROUNDS; i++) {
		while (sem_wait(s) < 0)
			CHECK(errno == EINTR, "sem_wait: %s", strerror(errno));
		int seen = area[0];

		move_nap(200);
		CHECK(area[0] == seen, "somebody else was let in");
		area[0] = seen + 1;
		other[1024]++;
		sem_post(s);
	}
	_exit(0);
}

int main(int argc, char **argv)
{
	int fd, rounds = 0, st;

	move_begin(argc, argv);
	snprintf(sem_name, sizeof(sem_name), "/mv.sem.%d", getpid());
	snprintf(area_name, sizeof(area_name), "/mv.area.%d", getpid());
	snprintf(open_name, sizeof(open_name), "/mv.open.%d", getpid());
	sem_t *s = sem_open(sem_name, O_CREAT | O_EXCL, 0600, 1);

	CHECK(s != SEM_FAILED, "sem_open: %s", strerror(errno));
	int *area = area_of(area_name, O_CREAT | O_EXCL, NULL), *other = area_of(open_name, O_CREAT | O_EXCL, &fd), *later = NULL;

	area[100] = 4711;
	move_ready();
	while (move_more()) {
		pid_t pid[2];

		for (int i = 0; i < 2; i++)
			if ((pid[i] = SYS(fork())) == 0)
				child();
		for (int i = 0; i < 2; i++) {
			SYS(waitpid(pid[i], &st, 0));
			CHECK(st == 0, "a child ended with %#x", st);
		}
		rounds++;
		CHECK(area[0] == rounds * 2 * ROUNDS, "%d entries, wanted %d", area[0], rounds * 2 * ROUNDS);
		CHECK(other[1024] == area[0] && area[100] == 4711, "the areas hold %d, %d", other[1024], area[100]);
		int back = -1;

		CHECK(pread(fd, &back, 4, 4096) == 4 && back == area[0], "through the descriptor: %d", back);
		/* one that comes, and goes by and by */
		if (!later) {
			snprintf(later_name, sizeof(later_name), "/mv.later.%d.%d", getpid(), rounds);
			later = area_of(later_name, O_CREAT | O_EXCL, NULL);
			later[5] = rounds;
		} else if (rounds % 4 == 0) {
			CHECK(area_of(later_name, 0, NULL)[5] == later[5], "%s is another one by name", later_name);
			SYS(shm_unlink(later_name));
			CHECK(shm_open(later_name, O_RDWR, 0) < 0 && errno == ENOENT, "%s was removed", later_name);
			SYS(munmap(later, 8192));
			later = NULL;
		}
	}
	if (later)
		SYS(shm_unlink(later_name));
	SYS(sem_unlink(sem_name));
	SYS(shm_unlink(area_name));
	SYS(shm_unlink(open_name));
	return move_pass();
}
