// SPDX-License-Identifier: Apache-2.0
/*
 * What time does to calls that wait (call.c has their states). One thread, the ticker: it sends again what a server that was away did not answer, decides about those that are
 * interrupted, and has each of the other parts do what is due.
 *
 * A call that waits for a server that is away can be interrupted: FUSE sends INTERRUPT for every signal, but a program does not expect EINTR
 * from stat(2) of a server that is well. So an interrupt ends a call at once when the signal kills the caller (or the server is away), else
 * only when the call has gone on for half a minute more. Waiting locks are ended by the server (LockReq.cancel), which knows whether it was granted.
 *
 * Locking: fs.wait_lock, as in call.c; let go of for whatever may finish or send a call.
 */
#include "fs/client/client.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include "conf/clock.h"

#define TICK_NS	     (100 * 1000000ull)
#define PATIENCE_NS  (30 * 1000000000ull) /* a move stops its program by an interrupt too: unlink(2) must not fail for that on a busy host */
#define CANCEL_NS    (2 * 1000000000ull)

/* Is the thread about to die? complete_signal() turns a fatal signal into a pending SIGKILL of every thread. */
static bool caller_is_dying(pid_t tid)
{
	char path[64], buf[4096], *p;
	unsigned long long pending;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/status", tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return true;
	n = read(fd, buf, sizeof(buf) - 1);
	close(fd);
	if (n <= 0)
		return true;
	buf[n] = 0;
	p = strstr(buf, "\nSigPnd:");
	if (!p || sscanf(p + 8, "%llx", &pending) != 1)
		return false;
	return pending & (1ull << (9 - 1));
}

static void cancel_lock_sent(struct call *c, int err, struct rpc_msg *out)
{
	(void)c;
	(void)err;
	(void)out;
}

/* Asks the server to end a waiting lock: it answers the waiting call itself. */
static void call_cancel_lock(struct fs *fs, struct inode *ino, uint64_t ticket, uint64_t owner, bool flock)
{
	struct call *k = call_new(fs, NULL, FS_LOCK, ino, cancel_lock_sent);

	if (!k)
		return;
	k->handle = &k->m.lock.handle;
	k->m.lock.cancel = true;
	k->m.lock.ticket = ticket;
	k->m.lock.owner = owner;
	k->m.lock.flock = flock;
	k->quick = true;
	call_submit(k);
}

/* One interrupted call, with fs.wait_lock held; drops and takes it. Returns true when the list must be walked anew. */
static bool call_judge(struct fs *fs, struct call *c, uint64_t now)
{
	struct server *s = c->server ? c->server : c->dom->server;
	struct rpc_channel *ch;
	uint64_t ticket;
	pid_t tid = c->req ? fuse_req_ctx(c->req)->pid : 0;
	/* NEW is on its way to be sent, or answered this moment; PARKED, of a server that is well, is in a gate (dirq.c): no reason to give up */
	bool away = !s || !atomic_load(&s->up) || c->state == CALL_RETRY, give_up;

	if (c->waits && !away && now - c->intr_at < CANCEL_NS) {
		struct inode *ino = c->ino;
		uint64_t t = c->m.lock.ticket, owner = c->m.lock.owner;
		bool flock = c->m.lock.flock;

		if (c->cancelled)
			return false;
		c->cancelled = true;
		pthread_mutex_unlock(&fs->wait_lock);
		call_cancel_lock(fs, inode_hold(fs, ino), t, owner, flock);
		pthread_mutex_lock(&fs->wait_lock);
		return true;
	}
	/* of a thread outside of our pid namespace (0) nobody can tell whether it is dying */
	give_up = away || now - c->intr_at > (c->waits || !tid ? CANCEL_NS : PATIENCE_NS) || (tid && caller_is_dying(tid));
	if (!give_up)
		return false;
	list_del(&c->intr_link);
	c->cancelled = true;
	if (c->state == CALL_RETRY || c->state == CALL_PARKED) {
		list_del(&c->link);
		c->state = CALL_NEW;
		pthread_mutex_unlock(&fs->wait_lock);
		call_fail(c, EINTR);
	} else if (c->state == CALL_SENT && c->ticket) {
		ch = c->on_bulk ? s->bulk : s->meta;
		ticket = c->ticket;
		pthread_mutex_unlock(&fs->wait_lock);
		rpc_cancel(ch, ticket);
	} else {
		pthread_mutex_unlock(&fs->wait_lock);
	}
	pthread_mutex_lock(&fs->wait_lock);
	return true;
}

static void *call_ticker(void *arg)
{
	struct fs *fs = arg;
	uint64_t now, last_tick = 0;
	struct timespec ts;
	struct call *c;
	bool again;

	pthread_setname_np(pthread_self(), "ticker");
	pthread_mutex_lock(&fs->wait_lock);
	while (!fs->stopping) {
		now = clock_boot_ns();
		do {
			again = false;
			list_each(c, &fs->interrupted, intr_link)
				if ((again = call_judge(fs, c, now)))
					break;
		} while (again && !fs->stopping);
		while (!list_empty(&fs->retry)) {
			struct call *due = NULL;

			list_each(c, &fs->retry, link)
				if (c->retry_at <= now) {
					due = c;
					break;
				}
			if (!due)
				break;
			list_del(&due->link);
			due->state = CALL_NEW;
			pthread_mutex_unlock(&fs->wait_lock);
			call_send(due);
			pthread_mutex_lock(&fs->wait_lock);
		}
		if (!list_empty(&fs->parked_intr)) {
			pthread_mutex_unlock(&fs->wait_lock);
			park_tick(fs);
			pthread_mutex_lock(&fs->wait_lock);
		}
		if (now - last_tick >= TICK_NS) {
			last_tick = now;
			pthread_mutex_unlock(&fs->wait_lock);
			prefix_tick(fs, now);
			stream_tick(fs, clock_mono_ns());
			wb_tick(fs, now, false);
			resume_tick(fs, now);
			hand_tick(fs, now);
			pthread_mutex_lock(&fs->wait_lock);
		}
		if (fs->stopping)
			break;
		clock_gettime(CLOCK_MONOTONIC, &ts);
		ts.tv_nsec += list_empty(&fs->retry) && list_empty(&fs->interrupted) && list_empty(&fs->parked_intr) ? 100000000 : 20000000;
		if (ts.tv_nsec >= 1000000000) {
			ts.tv_nsec -= 1000000000;
			ts.tv_sec++;
		}
		pthread_cond_timedwait(&fs->wait_cond, &fs->wait_lock, &ts);
	}
	pthread_mutex_unlock(&fs->wait_lock);
	return NULL;
}

int call_ticker_start(struct fs *fs)
{
	return -pthread_create(&fs->ticker, NULL, call_ticker, fs);
}

void call_stop_all(struct fs *fs)
{
	struct list *l;

	pthread_mutex_lock(&fs->wait_lock);
	fs->stopping = true;
	pthread_cond_broadcast(&fs->wait_cond);
	pthread_mutex_unlock(&fs->wait_lock);
	pthread_join(fs->ticker, NULL);
	pthread_mutex_lock(&fs->wait_lock);
	while ((l = list_pop(&fs->retry))) {
		struct call *c = list_entry(l, struct call, link);

		c->state = CALL_NEW;
		pthread_mutex_unlock(&fs->wait_lock);
		call_fail(c, ENOTCONN);
		pthread_mutex_lock(&fs->wait_lock);
	}
	pthread_mutex_unlock(&fs->wait_lock);
}
