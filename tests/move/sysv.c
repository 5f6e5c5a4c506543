/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SysV IPC inside a family of two processes: a segment with a key (attached for writing and read-only), one that has been removed while attached, one that nobody has
 * attached; semaphores that the two hand to and fro; a message queue with messages of several types always in it. Objects that are made and removed
 * in between. Ids, keys, owners, modes and contents stay.
 */
#include "move.h"
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

enum { WORDS = 60000 };
struct box { /* in the segment with a key */
	volatile uint32_t turn, end;
	uint32_t word[WORDS];
};
static int sem, queue, seg, gone, idle;
static key_t key;

static void sem_do(int i, int op)
{
	struct sembuf b = {.sem_num = i, .sem_op = op};

	while (semop(sem, &b, 1) < 0)
		if (errno != EINTR || !move_told) /* SIGTERM's handler ends it, anywhere */
			fail("semop %d of %d: %s", op, i, strerror(errno));
}

struct message {
	long type;
	uint32_t n;
	char text[200];
};

static void put(long type, uint32_t n)
{
	struct message m = {.type = type, .n = n};

	memset(m.text, 'a' + n % 26, n % 200);
	SYS(msgsnd(queue, &m, sizeof m.n + n % 200, 0));
}
static void take(long type, uint32_t n)
{
	struct message m;
	long r = SYS(msgrcv(queue, &m, sizeof m - sizeof m.type, type, 0));

	CHECK(m.type == type && m.n == n && r == (long)(sizeof m.n + n % 200), "message of type %ld: number %u, %ld bytes; not %u", m.type, m.n, r, n);
	for (uint32_t i = 0; i < n % 200; i++)
		CHECK(m.text[i] == (char)('a' + n % 26), "text of message %u", n);
}

/* The other process: answers every turn. */
static void partner(struct box *b)
{
	struct box *again = shmat(seg, NULL, 0);

	CHECK(again != (void *)-1, "second attachment: %s", strerror(errno));
	for (uint32_t n = 1;; n++) {
		sem_do(0, -1);
		if (b->end)
			_exit(0);
		CHECK(b->turn == n && again->turn == n, "turn %u and %u, not %u", b->turn, again->turn, n);
		take(n % 3 + 1, n);
		b->word[n % WORDS] += n;
		CHECK(again->word[n % WORDS] == b->word[n % WORDS], "two attachments differ");
		sem_do(1, 1);
	}
}

static void look(void)
{
	struct shmid_ds sh;
	struct semid_ds se;
	struct msqid_ds ms;

	SYS(shmctl(seg, IPC_STAT, &sh));
	CHECK(sh.shm_perm.__key == key && sh.shm_segsz == sizeof(struct box) && (sh.shm_perm.mode & 0777) == 0640 && sh.shm_perm.uid == getuid() &&
		      sh.shm_perm.cuid == geteuid() && sh.shm_nattch == 5,
	      "segment: key %x size %zu mode %o uid %u cuid %u attached %lu", sh.shm_perm.__key, sh.shm_segsz, sh.shm_perm.mode, sh.shm_perm.uid, sh.shm_perm.cuid,
	      (unsigned long)sh.shm_nattch);
	CHECK(shmget(key, 0, 0) == seg, "the key leads to another segment");
	SYS(semctl(sem, 0, IPC_STAT, &se));
	CHECK(se.sem_nsems == 3 && (se.sem_perm.mode & 0777) == 0600, "semaphores: %lu, mode %o", (unsigned long)se.sem_nsems, se.sem_perm.mode);
	CHECK(SYS(semctl(sem, 2, GETVAL)) == 77, "third semaphore");
	CHECK(semctl(sem, 2, GETPID) == getpid(), "third semaphore was last changed by %d", semctl(sem, 2, GETPID));
	SYS(msgctl(queue, IPC_STAT, &ms));
	CHECK(ms.msg_perm.__key == key && (ms.msg_perm.mode & 0777) == 0622, "queue: key %x mode %o", ms.msg_perm.__key, ms.msg_perm.mode);
	SYS(shmctl(gone, IPC_STAT, &sh));
	CHECK(sh.shm_perm.mode & SHM_DEST && sh.shm_nattch == 2, "removed segment: mode %o attached %lu", sh.shm_perm.mode, (unsigned long)sh.shm_nattch);
}

int main(int argc, char **argv)
{
	move_begin(argc, argv);
	key = 0x53000000 | getpid();
	seg = SYS(shmget(key, sizeof(struct box), IPC_CREAT | IPC_EXCL | 0640));
	gone = SYS(shmget(IPC_PRIVATE, 5000, 0600));
	idle = SYS(shmget(IPC_PRIVATE, 12345, 0600));
	sem = SYS(semget(IPC_PRIVATE, 3, 0600));
	queue = SYS(msgget(key, IPC_CREAT | IPC_EXCL | 0622));
	struct box *b = shmat(seg, NULL, 0), *ro = shmat(seg, NULL, SHM_RDONLY);
	char *g = shmat(gone, NULL, 0), *i = shmat(idle, NULL, 0);

	CHECK(b != (void *)-1 && ro != (void *)-1 && g != (void *)-1 && i != (void *)-1, "shmat: %s", strerror(errno));
	SYS(shmctl(gone, IPC_RMID, NULL));
	strcpy(g + 4500, "removed but here");
	strcpy(i + 9000, "not attached");
	SYS(shmdt(i));
	SYS(semctl(sem, 2, SETVAL, 77));
	put(50, 1234);
	put(51, 99);
	pid_t pid = SYS(fork());

	if (!pid)
		partner(b);
	while (semctl(sem, 0, GETNCNT) != 1) /* it has attached twice */
		move_nap(500);
	move_ready();
	static uint32_t want[WORDS];

	for (uint32_t n = 1; move_more(); n++) {
		b->turn = n;
		put(n % 3 + 1, n);
		sem_do(0, 1);
		sem_do(1, -1);
		want[n % WORDS] += n;
		CHECK(ro->word[n % WORDS] == want[n % WORDS], "word %u is %u, not %u", n % WORDS, ro->word[n % WORDS], want[n % WORDS]);
		if (n % 50 == 0) {
			look();
			CHECK(!memcmp((void *)b->word, want, sizeof want), "the segment's contents differ");
			CHECK(!strcmp(g + 4500, "removed but here"), "the removed segment's contents");
			i = shmat(idle, NULL, SHM_RDONLY);
			CHECK(i != (void *)-1 && !strcmp(i + 9000, "not attached") && !i[0], "the idle segment's contents");
			SYS(shmdt(i));
			int s = SYS(semget(IPC_PRIVATE, 1, 0600)), m = SYS(msgget(IPC_PRIVATE, 0600)), t = SYS(shmget(IPC_PRIVATE, 100, 0600));

			move_nap(2000);
			SYS(semctl(s, 0, IPC_RMID));
			SYS(msgctl(m, IPC_RMID, NULL));
			SYS(shmctl(t, IPC_RMID, NULL));
		}
		move_nap(200);
	}
	b->end = 1;
	sem_do(0, 1);
	int st;

	SYS(waitpid(pid, &st, 0));
	CHECK(st == 0, "the other process ended with %x", st);
	take(50, 1234);
	take(51, 99);
	SYS(semctl(sem, 0, IPC_RMID));
	SYS(msgctl(queue, IPC_RMID, NULL));
	SYS(shmctl(seg, IPC_RMID, NULL));
	SYS(shmctl(idle, IPC_RMID, NULL));
	CHECK(shmdt(b) == 0 && shmdt(ro) == 0 && shmdt(g) == 0, "shmdt: %s", strerror(errno));
	CHECK(shmctl(gone, IPC_STAT, &(struct shmid_ds){0}) < 0, "the removed segment is still there");
	return move_pass();
}
