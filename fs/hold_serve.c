// SPDX-License-Identifier: Apache-2.0
/*
 * Keeps descriptors for a user that may be killed, until the next one comes for them: see hold_serve() in hold.h.
 *
 *	SERVED -(the user's end of the connection is closed)-> ALONE -(another connects)-> it is given everything -> SERVED
 *	ALONE -(nothing is kept; HOLD_ALONE_NS; the socket's name leads elsewhere, so that nobody will come)-> the end
 *
 * What a user sent before it died is in the connection and is read first. Whoever connects is root: the socket's mode says so, and is looked at again. One thread.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>
#include "conf/clock.h"
#include "conf/log.h"
#include "fs/hold.h"

enum { USER = 0, LISTENER = 3, SEND_S = 5 };

struct server {
	struct hold_store store;
	struct stat socket;
	int user; /* -1: none */
	uint64_t since; /* there was none */
};

/* One message; false: the user has gone. */
static bool hear(struct server *s)
{
	struct hold_msg m;
	int fd, r = hold_receive(s->user, &m, &fd, 0);

	if (r < 0)
		return r == -EPROTO || r == -EINTR;
	if (fd >= 0)
		hold_store_keep(&s->store, &m, fd);
	else if (m.op == HOLD_KEEP)
		log_warn("a descriptor was lost: there are too many");
	if (m.op == HOLD_DROP || (m.op == HOLD_KEEP && fd < 0)) /* what was kept before is not what is in use now */
		hold_store_drop(&s->store, m.key);
	return true;
}

static void welcome(struct server *s)
{
	int fd = accept4(LISTENER, NULL, NULL, SOCK_CLOEXEC);
	struct timeval t = {.tv_sec = SEND_S};
	struct ucred who = {.uid = 1};
	socklen_t len = sizeof(who);

	if (fd < 0)
		return;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) < 0 || who.uid || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof(t)) < 0 ||
		hold_store_give(&s->store, fd) < 0) { /* it has died meanwhile */
		close(fd);
		return;
	}
	s->user = fd;
}

static bool is_known(const struct server *s, const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && st.st_dev == s->socket.st_dev && st.st_ino == s->socket.st_ino;
}

int hold_serve(const char *path)
{
	struct server s = {.user = USER};

	prctl(PR_SET_NAME, "sprite-locks");
	close_range(LISTENER + 1, ~0u, 0);
	signal(SIGPIPE, SIG_IGN);
	hold_oom(HOLD_SPARED, NULL);
	if (stat(path, &s.socket) < 0) {
		log_error("%s: %m", path);
		return 1;
	}
	while (s.user >= 0 || (s.store.kept.count && clock_boot_ns() - s.since < HOLD_ALONE_NS && is_known(&s, path))) {
		struct pollfd p = {s.user >= 0 ? s.user : LISTENER, POLLIN, 0};

		if (poll(&p, 1, s.user >= 0 ? -1 : 1000) <= 0)
			continue;
		if (s.user < 0) {
			welcome(&s);
		} else if (!hear(&s)) {
			close(s.user);
			s.user = -1;
			s.since = clock_boot_ns();
		}
	}
	if (is_known(&s, path))
		unlink(path);
	hold_store_clear(&s.store);
	return 0;
}
