/* SPDX-License-Identifier: Apache-2.0 */
/*
 * POSIX message queues inside a family of two processes: one with a name, worked to and fro; one that has been removed; one with messages of
 * several priorities that wait in it all along, in order. Attributes, modes and names stay, and a name that was removed can be used again.
 */
#include "move.h"
#include <mqueue.h>

static char name[3][64];

static void put(mqd_t q, unsigned priority, unsigned n)
{
	char text[120];
	int len = snprintf(text, sizeof text, "%u of priority %u %.*s", n, priority, n % 60, "............................................................");

	SYS(mq_send(q, text, len, priority));
}
static void take(mqd_t q, unsigned priority, unsigned n)
{
	char text[128], want[120];
	unsigned p;
	int len = SYS(mq_receive(q, text, sizeof text, &p)),
	    wanted = snprintf(want, sizeof want, "%u of priority %u %.*s", n, priority, n % 60, "............................................................");

	CHECK(p == priority && len == wanted && !memcmp(text, want, len), "message \"%.*s\" of priority %u, not \"%s\"", len, text, p, want);
}

static void look(mqd_t q, const char *what, long max, mode_t mode, long waiting)
{
	struct mq_attr a;
	struct stat st;

	SYS(mq_getattr(q, &a));
	SYS(fstat(q, &st));
	CHECK(a.mq_maxmsg == max && a.mq_msgsize == 128 && a.mq_curmsgs == waiting && (st.st_mode & 0777) == mode && st.st_uid == geteuid(),
	      "%s: %ld messages of %ld, %ld wait, mode %o, uid %u", what, a.mq_maxmsg, a.mq_msgsize, a.mq_curmsgs, st.st_mode, st.st_uid);
}

/* Hands back what comes. */
static void partner(mqd_t q, mqd_t gone)
{
	for (unsigned n = 1;; n++) {
		struct mq_attr a;

		take(q, n % 4 + 1, n);
		put(gone, 6, n);
		SYS(mq_getattr(gone, &a));
		CHECK(a.mq_curmsgs == 3 || a.mq_curmsgs == 2, "the removed queue has %ld messages", a.mq_curmsgs);
	}
}

static void look_full(mqd_t full, struct mq_attr *a)
{
	mqd_t shut = SYS(mq_open(name[2], O_RDWR)); /* a second description */

	look(full, "the queue with messages", 7, 0622, 4);
	take(shut, 9, 3), take(shut, 3, 1), take(shut, 3, 2), take(shut, 0, 4);
	put(shut, 0, 4), put(shut, 3, 1), put(shut, 3, 2), put(shut, 9, 3);
	SYS(mq_close(shut));
	/* a name that was removed is free */
	mqd_t again = SYS(mq_open(name[1], O_RDWR | O_CREAT | O_EXCL, 0600, a));

	move_nap(2000);
	SYS(mq_close(again));
	SYS(mq_unlink(name[1]));
}

int main(int argc, char **argv)
{
	move_begin(argc, argv);
	struct mq_attr a = {.mq_maxmsg = 7, .mq_msgsize = 128}, b = {.mq_maxmsg = 10, .mq_msgsize = 128};

	for (int i = 0; i < 3; i++)
		snprintf(name[i], sizeof name[i], "/move.%d.%d", getpid(), i);
	umask(0);
	mqd_t q = SYS(mq_open(name[0], O_RDWR | O_CREAT | O_EXCL, 0640, &a)), gone = SYS(mq_open(name[1], O_RDWR | O_CREAT | O_EXCL, 0600, &b)),
	      shut = SYS(mq_open(name[2], O_RDWR | O_CREAT | O_EXCL, 0622, &a));

	SYS(mq_unlink(name[1]));
	put(shut, 3, 1), put(shut, 3, 2), put(shut, 9, 3), put(shut, 0, 4);
	put(gone, 1, 500), put(gone, 1, 501);
	pid_t pid = SYS(fork());

	if (!pid)
		partner(q, gone);
	move_ready();
	for (unsigned n = 1; move_more(); n++) {
		put(q, n % 4 + 1, n);
		do /* what waits there for ever is of lower priority */
			SYS(mq_getattr(gone, &b));
		while (b.mq_curmsgs < 3);
		take(gone, 6, n);
		if (n % 50 == 0) {
			look(q, "the queue with a name", 7, 0640, 0);
			look(gone, "the removed queue", 10, 0600, 2);
			look_full(shut, &b);
		}
		move_nap(300);
	}
	SYS(kill(pid, SIGKILL));
	SYS(waitpid(pid, NULL, 0));
	take(gone, 1, 500), take(gone, 1, 501);
	SYS(mq_unlink(name[0]));
	SYS(mq_unlink(name[2]));
	CHECK(mq_open(name[0], O_RDWR) < 0 && errno == ENOENT, "a queue is left");
	return move_pass();
}
