// SPDX-License-Identifier: Apache-2.0
/* sprite-relay and one who asks and is killed before it is heard: what it told is heard, what it wanted made is not. The program is $SPRITE_BIN/sprite-relay, or build/bin's. */
#include <CUnit/Basic.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include "migd/relay/hub.h"
#include "migd/relay/wire.h"

enum { LISTEN_FD = 3, TRIES = 2000, AGAIN_US = 10000 };
static struct sockaddr_un at = {.sun_family = AF_UNIX};
static pid_t relay;
static int owner = -1; /* the connection of a migd that lives */

static int asks(enum relay_op op, const char *hub, uint64_t id, uint32_t kind)
{
	struct relay_ask a = {.version = RELAY_WIRE_VERSION, .op = op, .id = id, .number = op == RELAY_OP_OPEN ? id >= RELAY_BORN_UNIX : id, .kind = kind};
	int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	strcpy(a.hub, hub);
	CU_ASSERT_FATAL(s >= 0 && !connect(s, (const struct sockaddr *)&at, sizeof(at)) && send(s, &a, sizeof(a), MSG_NOSIGNAL) == sizeof(a));
	return s;
}

static int result(int s)
{
	struct relay_answer r = {.result = -EIO};

	CU_ASSERT(recv(s, &r, sizeof(r), MSG_CMSG_CLOEXEC) == sizeof(r));
	return r.result;
}

static int asked(enum relay_op op, const char *hub, uint64_t id, uint32_t kind)
{
	int s = asks(op, hub, id, kind), r = result(s);

	close(s);
	return r;
}

/* Says it, and is gone before it is heard. */
static void asked_and_gone(enum relay_op op, const char *hub, uint64_t id, uint32_t kind)
{
	kill(relay, SIGSTOP);
	CU_ASSERT_FATAL(waitpid(relay, NULL, WUNTRACED) == relay);
	close(asks(op, hub, id, kind));
	kill(relay, SIGCONT);
}

static int begin(void)
{
	const char *bin = getenv("SPRITE_BIN");
	char path[512];
	int s = socket(AF_UNIX, SOCK_SEQPACKET, 0);

	snprintf(path, sizeof(path), "%s/sprite-relay", bin ? bin : "build/bin");
	if (s < 0 || bind(s, (const struct sockaddr *)&at, sizeof(at)) || listen(s, 16))
		return -1;
	relay = fork();
	if (!relay) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (s != LISTEN_FD)
			dup2(s, LISTEN_FD);
		execl(path, "sprite-relay", NULL);
		_exit(127);
	}
	close(s);
	return relay < 0;
}

static int end(void)
{
	kill(relay, SIGKILL);
	waitpid(relay, NULL, 0);
	close(owner);
	return 0;
}

/* A link of that generation: is it taken? */
static bool links(const char *hub, uint64_t gen)
{
	struct relay_packet p = {.id = 0, .offset = 9, .kind = RF_SYNC};
	int s = asks(RELAY_OP_LINK, hub, gen, 0);
	bool yes = false;

	CU_ASSERT_EQUAL(result(s), 0);
	if (send(s, &p, sizeof(p), MSG_NOSIGNAL) == sizeof(p))
		yes = recv(s, &p, sizeof(p), 0) == sizeof(p) && p.kind == RF_SYNCED;
	close(s);
	return yes;
}

static void test_told(void)
{
	int i;

	owner = asks(RELAY_OP_OWNER, "", 0, 0);
	CU_ASSERT_EQUAL(result(owner), 0);
	CU_ASSERT_EQUAL(asked(RELAY_OP_MAKE, "h:a", 0, true), 0);
	asked_and_gone(RELAY_OP_RESET, "h:a", 5, 0);
	for (i = 0; i < TRIES && !links("h:a", 5); i++)
		usleep(AGAIN_US);
	CU_ASSERT(i < TRIES);
	CU_ASSERT(!links("h:a", 4));
	CU_ASSERT_EQUAL(asked(RELAY_OP_FREE, "h:a", 0, 0), 0);
}

static void test_not_made(void)
{
	CU_ASSERT_EQUAL(asked(RELAY_OP_MAKE, "g:b:1", 0, 0), 0);
	asked_and_gone(RELAY_OP_OPEN, "g:b:1", 7, RELAY_IN);
	CU_ASSERT_EQUAL(asked(RELAY_OP_OPEN, "g:b:1", 7, RELAY_IN), 0);
	CU_ASSERT_EQUAL(asked(RELAY_OP_FREE, "g:b:1", 0, 0), 0);
}

/* The end of a connection that was made and not handed on is there for who asks again, until it is. */
static void test_made_again(void)
{
	uint64_t id = RELAY_BORN_UNIX | 3;

	CU_ASSERT_EQUAL(asked(RELAY_OP_MAKE, "g:b:1", 0, 0), 0);
	CU_ASSERT_EQUAL(asked(RELAY_OP_OPEN, "g:b:1", id, RELAY_SOCK), 0);
	CU_ASSERT_EQUAL(asked(RELAY_OP_OPEN, "g:b:1", id, RELAY_SOCK), 0);
	CU_ASSERT_EQUAL(asked(RELAY_OP_OPEN, "g:b:1", id, RELAY_SEQ), -EEXIST);
	CU_ASSERT_EQUAL(asked(RELAY_OP_TAKEN, "g:b:1", id, 0), 0);
	CU_ASSERT_EQUAL(asked(RELAY_OP_OPEN, "g:b:1", id, RELAY_SOCK), -EEXIST);
	CU_ASSERT_EQUAL(asked(RELAY_OP_FREE, "g:b:1", 0, 0), 0);
}

int main(void)
{
	char dir[] = "/tmp/test_relay_asked.XXXXXX";
	CU_pSuite s;

	if (geteuid() || !mkdtemp(dir)) {
		puts("needs root");
		return geteuid() ? 0 : 1;
	}
	snprintf(at.sun_path, sizeof(at.sun_path), "%s/relay.sock", dir);
	CU_initialize_registry();
	s = CU_add_suite("relay_asked", begin, end);
	CU_add_test(s, "told by one who is gone", test_told);
	CU_add_test(s, "not made for nobody", test_not_made);
	CU_add_test(s, "made again", test_made_again);
	CU_basic_run_tests();
	unlink(at.sun_path);
	rmdir(dir);
	return CU_get_number_of_failures() || CU_get_number_of_tests_run() != 3;
}
