/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unix sockets with names, server and client in one family: a listening stream socket that takes new connections after every move while an old one lives on, and
 * a datagram server whose client is connected to its name.
 */
#include "move.h"
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>

static struct sockaddr_un name_of(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
	return a;
}

static int dial(const struct sockaddr_un *a, int type)
{
	int fd = SYS(socket(AF_UNIX, type, 0));
	CHECK(connect(fd, (const struct sockaddr *)a, sizeof *a) == 0, "connect to %s: %s", a->sun_path, strerror(errno));
	return fd;
}

static uint64_t ask(int fd, uint64_t v)
{
	CHECK(send(fd, &v, 8, 0) == 8, "send: %s", strerror(errno));
	ssize_t n = recv(fd, &v, 8, 0);
	CHECK(n == 8, "recv: %zd, %s", n, n < 0 ? strerror(errno) : "");
	return v;
}

/* Serves every connection in turn: the answer to n is 3n + 1. */
static void *serve(void *arg)
{
	int fd = (int)(intptr_t)arg;
	uint64_t v;
	while (recv(fd, &v, 8, 0) == 8) {
		v = 3 * v + 1;
		if (send(fd, &v, 8, MSG_NOSIGNAL) != 8)
			break;
	}
	close(fd);
	return NULL;
}

static void server(int lfd)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGTERM, SIG_IGN);
	for (;;) {
		int fd = accept(lfd, NULL, NULL);
		CHECK(fd >= 0, "accept: %s", strerror(errno));
		pthread_t t;
		pthread_create(&t, NULL, serve, (void *)(intptr_t)fd);
		pthread_detach(t);
	}
}

int main(int argc, char **argv)
{
	move_begin(argc, argv);
	struct sockaddr_un s = name_of(move_path("stream")), d = name_of(move_path("dgram")), is;
	int lfd = SYS(socket(AF_UNIX, SOCK_STREAM, 0)), dfd = SYS(socket(AF_UNIX, SOCK_DGRAM, 0));
	struct stat st;
	SYS(bind(lfd, (struct sockaddr *)&s, sizeof s));
	SYS(chmod(s.sun_path, 0741));
	SYS(listen(lfd, 7));
	SYS(bind(dfd, (struct sockaddr *)&d, sizeof d));
	pid_t kid = SYS(fork());
	if (!kid)
		server(lfd);
	int old = dial(&s, SOCK_STREAM), sender = dial(&d, SOCK_DGRAM);
	move_ready();
	for (uint64_t n = 1; move_more(); n++) {
		move_nap(20000);
		CHECK(ask(old, n) == 3 * n + 1, "the old connection answers wrongly");
		int fresh = dial(&s, SOCK_STREAM);
		CHECK(ask(fresh, n + 5) == 3 * n + 16, "a new connection answers wrongly");
		close(fresh);
		uint64_t v = 0;
		CHECK(send(sender, &n, 8, 0) == 8, "datagram: send: %s", strerror(errno));
		CHECK(recv(dfd, &v, 8, 0) == 8 && v == n, "datagram %llu came as %llu", (unsigned long long)n, (unsigned long long)v);
		socklen_t len = sizeof is;
		memset(&is, 0, sizeof is);
		SYS(getsockname(lfd, (struct sockaddr *)&is, &len));
		CHECK(!strcmp(is.sun_path, s.sun_path), "the name was %s, is %s", s.sun_path, is.sun_path);
		SYS(stat(s.sun_path, &st));
		CHECK(S_ISSOCK(st.st_mode) && (st.st_mode & 0777) == 0741 && st.st_uid == geteuid(), "socket file: mode %o, owner %u", st.st_mode,
		      st.st_uid);
	}
	kill(kid, SIGKILL);
	waitpid(kid, NULL, 0);
	unlink(s.sun_path);
	unlink(d.sun_path);
	return move_pass();
}
