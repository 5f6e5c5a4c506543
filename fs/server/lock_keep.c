/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is locked in homes stays locked while no spritefsd runs: every description by which lock_home.c holds something is with a child of ours too
 * (sprite-holder --keep; fs/hold.h), which outlives us however we end. The next spritefsd fetches them before it serves. Until the clients of before have come back,
 * or are waited for no longer, they are held for whom they were; then what nobody has claimed is let go of.
 *
 * The child is started when the first lock is held, and again, and given everything, when it has died: noticed by the next message, or within a second. So a lock is lost if both
 * die at once. Closing here lets go of nothing: lock_home.c unlocks first.
 *
 * Locking: all under locks.lock. A message waits for the child SEND_S at most; one that takes none for so long is ended.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/log.h"
#include "fs/hold.h"
#include "fs/server/locks_int.h"

enum { USER = 0, LISTENER = 3, SEND_S = 1, FETCH_S = 5 };

/* What goes with a description: whose it is, by names that the next run knows. */
struct label {
	uint64_t epoch, owner;
	uint32_t len; /* of the handle */
	uint8_t whole, write;
	unsigned char handle[HANDLE_MAX];
	char peer[256];
};

extern char **environ;

static void lost(struct lock_keeper *k)
{
	if (k->sock >= 0)
		close(k->sock);
	k->sock = -1;
	if (k->pid > 0 && kill(k->pid, SIGKILL) == 0)
		waitpid(k->pid, NULL, 0);
	k->pid = 0;
}

static void wait_at_most(int sock, int option, time_t s)
{
	struct timeval t = {.tv_sec = s};

	setsockopt(sock, SOL_SOCKET, option, &t, sizeof(t));
}

static int listen_at(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), r;

	if (fd < 0)
		return -errno;
	strcpy(a.sun_path, path);
	unlink(path);
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0 && chmod(path, 0600) == 0 && listen(fd, 1) == 0)
		return fd;
	r = -errno;
	close(fd);
	return r;
}

static int spawn(struct lock_keeper *k, int user, int listener)
{
	char program[4096], *argv[] = {program, "--keep", k->path, NULL};
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t none;
	int r = hold_program(program, sizeof(program));

	if (r < 0)
		return r;
	sigemptyset(&none);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_adddup2(&files, user, USER);
	posix_spawn_file_actions_adddup2(&files, listener, LISTENER);
	r = -posix_spawn(&k->pid, program, &files, &attr, argv, environ);
	posix_spawn_file_actions_destroy(&files);
	posix_spawnattr_destroy(&attr);
	if (r < 0)
		k->pid = 0;
	return r;
}

static int tell(struct lock_keeper *k, const struct native *n)
{
	struct label l = {.epoch = n->epoch, .owner = n->who.owner, .len = (uint32_t)n->len, .whole = n->t->whole, .write = n->write};

	memcpy(l.handle, n->handle, n->len);
	snprintf(l.peer, sizeof(l.peer), "%s", n->peer);
	return hold_send(k->sock, HOLD_KEEP, n->key, &l, offsetof(struct label, peer) + strlen(l.peer) + 1, n->fd);
}

/* Another child, which is given everything. */
static int start(struct locks *l)
{
	struct lock_keeper *k = &l->keeper;
	_cleanup_close_ int listener = -1, user = -1;
	struct native *n;
	int pair[2], r = 0;

	if (!*k->path)
		return -ENAMETOOLONG;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	k->sock = pair[0];
	user = pair[1];
	wait_at_most(k->sock, SO_SNDTIMEO, SEND_S);
	listener = listen_at(k->path);
	r = listener < 0 ? listener : spawn(k, user, listener);
	list_each(n, &l->natives, link)
		if (n->held && r == 0)
			r = tell(k, n);
	if (r < 0)
		lost(k);
	return r;
}

static void start_again(struct locks *l)
{
	int r;

	lost(&l->keeper);
	r = start(l);
	if (r < 0 && !l->keeper.said)
		log_warn("locks that processes from elsewhere hold on this host's files will not outlive this server: %s", strerror(-r));
	l->keeper.said = r < 0;
}

void lock_keep(struct locks *l, struct native *n)
{
	struct lock_keeper *k = &l->keeper;

	if (!n->held)
		n->key = ++k->last;
	n->held = true;
	if (k->sock < 0 && k->said)
		return; /* it is tried once a second */
	if (k->sock < 0 || tell(k, n) < 0)
		start_again(l);
}

void lock_keep_drop(struct locks *l, const struct native *n)
{
	struct lock_keeper *k = &l->keeper;

	if (n->held && k->sock >= 0 && hold_send(k->sock, HOLD_DROP, n->key, NULL, 0, -1) < 0)
		lost(k); /* started again, if there is still something to keep, within a second */
}

void lock_keep_tick(struct locks *l)
{
	struct lock_keeper *k = &l->keeper;
	struct pollfd p = {k->sock, 0, 0};
	struct native *n;
	bool any = false;

	if (k->sock >= 0 && poll(&p, 1, 0) == 0)
		return;
	if (k->sock >= 0)
		lost(k);
	list_each(n, &l->natives, link)
		any |= n->held;
	if (any)
		start_again(l);
}

static int fetched(struct locks *l, const struct hold_msg *m, int fd)
{
	const struct label *x = (const void *)m->bytes;
	struct lock_owner who = {0};
	struct native *n;

	if (m->len <= offsetof(struct label, peer) || m->len > sizeof(*x) || m->bytes[m->len - 1] || x->len > HANDLE_MAX)
		return -EPROTO;
	who.owner = x->owner;
	n = native_new(l, x->whole ? &l->flock : &l->fcntl, x->peer, x->epoch, who, x->handle, x->len);
	if (!n)
		return -ENOMEM;
	n->fd = fd;
	n->write = x->write;
	n->held = n->inherited = true;
	n->key = m->key;
	if (l->keeper.last < m->key)
		l->keeper.last = m->key;
	return 0;
}

static int fetch(struct locks *l, int sock)
{
	struct ucred who = {.uid = 1};
	socklen_t len = sizeof(who);
	struct hold_msg m;
	int fd, r;

	if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &who, &len) < 0 || who.uid)
		return -EPERM;
	wait_at_most(sock, SO_RCVTIMEO, FETCH_S);
	wait_at_most(sock, SO_SNDTIMEO, SEND_S);
	while ((r = hold_receive(sock, &m, &fd, 0)) == 0 && m.op == HOLD_KEEP && fd >= 0) {
		r = fetched(l, &m, fd);
		if (r < 0) {
			close(fd);
			return r;
		}
		l->inherited++;
	}
	return r == 0 && m.op != HOLD_END ? -EPROTO : r;
}

void lock_keep_start(struct locks *l, const char *run_dir)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	struct lock_keeper *k = &l->keeper;
	int sock, r;

	k->sock = -1;
	if (snprintf(k->path, sizeof(k->path), "%s/locks.sock", run_dir) >= (int)sizeof(a.sun_path))
		*k->path = 0;
	strcpy(a.sun_path, k->path);
	sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (sock < 0 || connect(sock, (struct sockaddr *)&a, sizeof(a)) < 0) {
		if (sock >= 0)
			close(sock);
		return; /* nobody keeps anything */
	}
	r = fetch(l, sock);
	if (l->inherited)
		log_note("%zu locks of the last run are still held", l->inherited);
	if (r == 0) {
		k->sock = sock;
		return;
	}
	log_warn("%s: not all that was locked is known: %s", k->path, strerror(-r));
	close(sock); /* what came is given to another child */
}

void lock_keep_stop(struct locks *l)
{
	if (l->keeper.sock >= 0)
		close(l->keeper.sock); /* the child goes on for a while, if it has something */
	l->keeper.sock = -1;
}
