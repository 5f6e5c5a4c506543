// SPDX-License-Identifier: Apache-2.0
/* How many sockets of the network at one address and port can be away: as many as there are spaces to keep them apart; more are refused by name before anything is frozen. Needs root. */
#include <CUnit/Basic.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include "migd/engine/engine.h"

static const struct state {
	const char *name;
	int type, n, all; /* so many at one port, the first of them at that of all addresses, the others at that of 127.0.0.1 and 127.0.0.2 by turns; -1: each at a port of its own */
	bool shared;	  /* they are a child's too */
	int connections;  /* ... that were made at 127.0.0.1 */
	bool movable;
} states[] = {
	{ "TCP, 64 with those of all addresses", SOCK_STREAM, 124, 4, false, 0, true },
	{ "TCP, 65 with those of all addresses", SOCK_STREAM, 126, 4, false, 0, false },
	{ "TCP, 65 at all addresses", SOCK_STREAM, 65, 65, false, 0, false },
	{ "TCP, 64 that are in two processes", SOCK_STREAM, 64, 64, true, 0, true },
	{ "TCP, 63 and connections", SOCK_STREAM, 63, 63, false, 3, true },
	{ "TCP, 64 and a connection", SOCK_STREAM, 64, 64, false, 1, false },
	{ "UDP, 64 at each of two addresses", SOCK_DGRAM, 128, 0, false, 0, true },
	{ "UDP, 65 at each of two addresses", SOCK_DGRAM, 130, 0, false, 0, false },
	{ "UDP, 1025 at ports of their own", SOCK_DGRAM, 1025, -1, false, 0, false },
};

static int make(const struct state *s)
{
	struct sockaddr_in a = { .sin_family = AF_INET };
	socklen_t len = sizeof(a);
	int on = 1, last = -1;

	for (int i = 0; i < s->n; i++) {
		last = socket(AF_INET, s->type, 0);
		a.sin_port = s->all < 0 ? 0 : a.sin_port;
		a.sin_addr.s_addr = htonl(i < s->all ? INADDR_ANY : INADDR_LOOPBACK + (unsigned)i % 2);
		if (setsockopt(last, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) || bind(last, (struct sockaddr *)&a, sizeof(a)) ||
			(s->type == SOCK_STREAM && listen(last, 5)) || getsockname(last, (struct sockaddr *)&a, &len))
			return -1;
	}
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	for (int i = 0; i < s->connections; i++) {
		int came = -1;

		if (connect(socket(AF_INET, SOCK_STREAM, 0), (struct sockaddr *)&a, sizeof(a)))
			return -1;
		for (int fd = 3; fd <= last && came < 0; fd++) /* the kernel has chosen one */
			came = fcntl(fd, F_SETFL, O_NONBLOCK) ? -1 : accept(fd, NULL, NULL);
		if (came < 0)
			return -1;
	}
	return s->shared && !fork() ? pause() : 0;
}

static void one_state(const struct state *s)
{
	struct eng_reasons why = { 0 };
	struct error e = { 0 };
	char c = 1;
	int told[2], r;
	pid_t pid;

	CU_ASSERT_FATAL(!pipe2(told, O_CLOEXEC));
	pid = fork();
	if (!pid) {
		int null = open("/dev/null", O_RDWR);

		setpgid(0, 0);
		setrlimit(RLIMIT_NOFILE, &(struct rlimit){ 4096, 4096 });
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (int fd = 0; fd < 3; fd++)
			dup2(null, fd);
		for (int fd = 3; fd < 64; fd++)
			if (fd != told[1])
				close(fd);
		c = make(s) ? 1 : 0;
		if (write(told[1], &c, 1) != 1)
			_exit(1);
		close(told[1]);
		for (;;)
			pause();
	}
	setpgid(pid, pid);
	close(told[1]);
	CU_ASSERT(read(told[0], &c, 1) == 1 && !c);
	close(told[0]);
	r = eng_explain(pid, &why, NULL, &e);
	if (r != !s->movable || why.n != !s->movable)
		printf("\n%s: %d %s, reasons: %zu %s\n", s->name, r, e.text, why.n, why.n ? why.line[0] : "");
	CU_ASSERT(r == !s->movable && why.n == !s->movable);
	CU_ASSERT(!why.n || !fnmatch(s->all < 0 ? "* (*): fd *: * socket: more than 1024 of the network are more than can be away: close some first" :
		"* (*): fd *: * socket: more than 64 at port * of one address are more than can be away: close some first", why.line[0], 0));
	eng_reasons_clear(&why);
	kill(-pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static void test_places(void)
{
	for (size_t i = 0; i < sizeof(states) / sizeof(*states); i++)
		one_state(&states[i]);
}

int main(void)
{
	unsigned failed;

	if (geteuid()) {
		puts("skipped: needs root");
		return 0;
	}
	CU_initialize_registry();
	CU_add_test(CU_add_suite("sockets at one place", NULL, NULL), "as many as can be away, and more", test_places);
	CU_basic_run_tests();
	failed = CU_get_number_of_failures();
	CU_cleanup_registry();
	return failed != 0;
}
