// SPDX-License-Identifier: Apache-2.0
/* The local control protocol between two ends in one process: answers, rows, refusals, garbage, callers that leave, stopping. */
#include "rpc/local.h"

#include <CUnit/Basic.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[] = "/tmp/sprite-local-XXXXXX";
static char path[64];
static struct local_server *server;
static atomic_int waiting, ended;

static void wait_gone(struct local_conn *c)
{
	atomic_fetch_add(&waiting, 1);
	while (!local_gone(c))
		usleep(2000);
	atomic_fetch_add(&ended, 1);
	local_fail(c, ECANCELED, "nobody waits");
}

static void handler(void *ctx, struct local_conn *c, const struct local_cred *who, json_t *rq)
{
	const char *verb = json_string_value(json_object_get(rq, "verb"));

	CU_ASSERT_PTR_EQUAL(ctx, &server);
	if (!strcmp(verb, "echo")) {
		local_ok(c, json_pack("{s:O}", "back", rq));
	} else if (!strcmp(verb, "who")) {
		local_ok(c, json_pack("{s:i, s:i, s:i}", "pid", who->pid, "uid", (int)who->uid, "gid", (int)who->gid));
	} else if (!strcmp(verb, "rows")) {
		for (int i = 0; i < 1000; i++)
			CU_ASSERT_EQUAL(local_row(c, json_pack("{s:i}", "row", i)), 0);
		local_ok(c, NULL);
	} else if (!strcmp(verb, "fail")) {
		local_fail(c, ENOSPC, "no room for %s", "that");
		local_ok(c, NULL); /* too late: ignored */
	} else if (!strcmp(verb, "big")) {
		char *s = calloc(1, LOCAL_LINE_MAX + 1);

		memset(s, 'x', LOCAL_LINE_MAX);
		CU_ASSERT_EQUAL(local_row(c, json_pack("{s:s}", "row", s)), -EMSGSIZE);
		local_ok(c, json_pack("{s:s}", "row", s));
		free(s);
	} else if (!strcmp(verb, "absent")) {
		local_fail(c, ENOENT, "no such thing");
	} else if (!strcmp(verb, "wait")) {
		wait_gone(c);
	} else if (strcmp(verb, "forget")) {
		local_fail(c, EOPNOTSUPP, "no verb \"%s\"", verb);
	}
}

static json_t *request(const char *verb)
{
	return json_pack("{s:s}", "verb", verb);
}

static void test_echo(void)
{
	struct error e = {0};
	json_t *a;

	CU_ASSERT_EQUAL_FATAL(local_call(path, json_pack("{s:s, s:[i,i]}", "verb", "echo", "x", 1, 2), NULL, NULL, &a, &e), 0);
	CU_ASSERT_TRUE(json_is_true(json_object_get(a, "ok")));
	CU_ASSERT_EQUAL(json_integer_value(json_array_get(json_object_get(json_object_get(a, "back"), "x"), 1)), 2);
	json_decref(a);
	CU_ASSERT_EQUAL(local_call(path, request("echo"), NULL, NULL, NULL, NULL), 0);
}

static void test_cred(void) /* the kernel says who calls, here a child with another uid */
{
	int st;
	pid_t pid = fork();

	if (!pid) {
		json_t *a = NULL;
		uid_t uid = 12345;

		if (setgid(54321) || setuid(uid)) /* not root: as we are */
			uid = getuid();
		_exit(local_call(path, request("who"), NULL, NULL, &a, NULL) || json_integer_value(json_object_get(a, "uid")) != (int)uid ||
		      json_integer_value(json_object_get(a, "pid")) != getpid());
	}
	CU_ASSERT_EQUAL(waitpid(pid, &st, 0), pid);
	CU_ASSERT_EQUAL(st, 0);
}

static void count_row(void *arg, json_t *line)
{
	int *n = arg;

	CU_ASSERT_EQUAL(json_integer_value(json_object_get(line, "row")), *n);
	(*n)++;
}

static void test_rows(void)
{
	int n = 0;

	CU_ASSERT_EQUAL(local_call(path, request("rows"), count_row, &n, NULL, NULL), 0);
	CU_ASSERT_EQUAL(n, 1000);
}

static void call_fails(const char *verb, int err, const char *text)
{
	struct error e = {0};

	CU_ASSERT_EQUAL(local_call(path, request(verb), NULL, NULL, NULL, &e), -err);
	CU_ASSERT_EQUAL(e.code, err);
	CU_ASSERT_STRING_EQUAL(e.text, text);
}

static void test_fail(void)
{
	call_fails("fail", ENOSPC, "no room for that");
	call_fails("forget", EIO, "the request was not answered");
	call_fails("big", EMSGSIZE, "the answer could not be sent: Message too long");
	call_fails("dance", EOPNOTSUPP, "no verb \"dance\"");
}

static int dial(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strcpy(a.sun_path, path);
	CU_ASSERT_EQUAL_FATAL(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	return fd;
}

static size_t read_all(int fd, char *to, size_t size)
{
	size_t n = 0;
	ssize_t r;

	while (n < size - 1 && (r = read(fd, to + n, size - 1 - n)) > 0)
		n += (size_t)r;
	to[n] = 0;
	close(fd);
	return n;
}

static void garbage(const char *bytes, size_t len, const char *want)
{
	char got[2048];
	int fd = dial();

	CU_ASSERT_EQUAL(send(fd, bytes, len, MSG_NOSIGNAL), (ssize_t)len);
	shutdown(fd, SHUT_WR);
	read_all(fd, got, sizeof(got));
	if (!strstr(got, want)) {
		printf("\nwanted %s\ngot %s\n", want, got);
		CU_FAIL("answer to garbage");
	}
}

static void test_garbage(void)
{
	garbage("rubbish\n", 8, "{\"ok\":false,\"errno\":22,\"error\":\"expected one JSON object per line, found:");
	garbage("\n", 1, "expected one JSON object per line");
	garbage("\0\0\0\n", 4, "expected one JSON object per line");
	garbage("[]\n", 3, "expected a JSON object, found a list");
	garbage("{\"verb\":5}\n", 11, "expected a request with a string \\\"verb\\\"");
	garbage("{\"verb\":\"who\"", 13, "expected a line that ends with a newline, found an end after 13 bytes");
	garbage("{\"verb\":\"a\",\"verb\":\"b\"}\n", 24, "duplicate object key");
	/* the line after a bad one is still answered, and several requests may come at once */
	garbage("x\n{\"verb\":\"echo\"}\n{\"verb\":\"fail\"}\n", 34, "}\n{\"ok\":true,\"back\":{\"verb\":\"echo\"}}\n{\"ok\":false,\"errno\":28");
}

static void test_too_long(void)
{
	char *big = malloc(LOCAL_LINE_MAX + 10), got[1024];
	int fd = dial();

	memset(big, ' ', LOCAL_LINE_MAX + 10);
	send(fd, big, LOCAL_LINE_MAX + 10, MSG_NOSIGNAL);
	read_all(fd, got, sizeof(got));
	CU_ASSERT_PTR_NOT_NULL(strstr(got, "\"errno\":90,\"error\":\"expected a line of less than 1048576 bytes"));
	/* just below is fine */
	fd = dial();
	memcpy(big, "{\"verb\":\"fail\"", 14);
	big[LOCAL_LINE_MAX - 2] = '}';
	big[LOCAL_LINE_MAX - 1] = '\n';
	CU_ASSERT_EQUAL(send(fd, big, LOCAL_LINE_MAX, MSG_NOSIGNAL), (ssize_t)LOCAL_LINE_MAX);
	shutdown(fd, SHUT_WR);
	read_all(fd, got, sizeof(got));
	CU_ASSERT_PTR_NOT_NULL(strstr(got, "no room for that"));
	free(big);
}

static bool comes_true(atomic_int *v, int want)
{
	for (int i = 0; i < 5000 && atomic_load(v) != want; i++)
		usleep(1000);
	return atomic_load(v) == want;
}

static void test_gone(void) /* Ctrl-C of the caller reaches a long request */
{
	int fd = dial();

	ended = waiting = 0;
	CU_ASSERT_EQUAL(send(fd, "{\"verb\":\"wait\"}\n", 16, MSG_NOSIGNAL), 16);
	CU_ASSERT_TRUE(comes_true(&waiting, 1));
	shutdown(fd, SHUT_WR); /* half closed: still wants its answer */
	usleep(20000);
	CU_ASSERT_EQUAL(ended, 0);
	close(fd);
	CU_ASSERT_TRUE(comes_true(&ended, 1));
}

/* A daemon that hangs holds nobody up for ever: neither when it has taken the question, nor when it takes nobody in any more. */
static void test_silent(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int waits = atomic_load(&waiting), s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), full[8], n = 0;
	struct error e = {0};

	CU_ASSERT_EQUAL(local_call_within(path, json_pack("{s:s}", "verb", "wait"), NULL, NULL, 50, NULL, &e), -ETIMEDOUT);
	CU_ASSERT_TRUE(strstr(e.text, "timed out") != NULL);
	while (atomic_load(&waiting) == waits || atomic_load(&ended) < atomic_load(&waiting))
		usleep(1000);
	snprintf(a.sun_path, sizeof(a.sun_path), "%s/hung.sock", dir);
	CU_ASSERT_EQUAL_FATAL(bind(s, (struct sockaddr *)&a, sizeof(a)), 0);
	CU_ASSERT_EQUAL_FATAL(listen(s, 0), 0);
	do {
		full[n] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	} while (!connect(full[n++], (struct sockaddr *)&a, sizeof(a)) && n < 8);
	CU_ASSERT_EQUAL(local_call_within(a.sun_path, json_pack("{s:s}", "verb", "x"), NULL, NULL, 50, NULL, &e), -ETIMEDOUT);
	while (n--)
		close(full[n]);
	close(s);
	unlink(a.sun_path);
}

static void test_limit(void) /* one user cannot take all threads */
{
	int st;
	pid_t pid;

	if (geteuid()) {
		puts(" (needs root: skipped)");
		return;
	}
	pid = fork();
	if (!pid) {
		struct error e = {0};

		if (setgid(12345) || setuid(12345))
			_exit(2);
		for (int i = 0; i < LOCAL_CONNS_PER_UID; i++)
			dial();
		_exit(local_call(path, request("echo"), NULL, NULL, NULL, &e) != -EUSERS || !strstr(e.text, "too many requests"));
	}
	CU_ASSERT_EQUAL(waitpid(pid, &st, 0), pid);
	CU_ASSERT_EQUAL(st, 0);
	CU_ASSERT_EQUAL(local_call(path, request("echo"), NULL, NULL, NULL, NULL), 0);
}

static void *caller(void *arg)
{
	for (int i = 0; i < 50; i++)
		if (local_call(path, request("echo"), NULL, NULL, NULL, NULL))
			return arg;
	return NULL;
}

static void test_parallel(void)
{
	pthread_t t[8];
	void *r;

	for (int i = 0; i < 8; i++)
		CU_ASSERT_EQUAL_FATAL(pthread_create(&t[i], NULL, caller, &server), 0);
	for (int i = 0; i < 8; i++) {
		pthread_join(t[i], &r);
		CU_ASSERT_PTR_NULL(r);
	}
}

static void test_start(void)
{
	struct local_server *s = NULL;
	struct error e = {0};
	struct stat st;
	char p[200];
	int fd;

	CU_ASSERT_EQUAL(stat(path, &st), 0);
	CU_ASSERT_EQUAL(st.st_mode & 07777, 0666);
	CU_ASSERT_EQUAL(local_server_start(path, 0600, handler, NULL, &s, &e), -EADDRINUSE);
	CU_ASSERT_PTR_NOT_NULL(strstr(e.text, "another daemon answers there"));
	e.code = 0;
	snprintf(p, sizeof(p), "%s/file", dir);
	close(open(p, O_CREAT | O_WRONLY, 0600));
	CU_ASSERT_EQUAL(local_server_start(p, 0600, handler, NULL, &s, &e), -EEXIST);
	CU_ASSERT_EQUAL(access(p, F_OK), 0);
	memset(p, 'x', sizeof(p) - 1);
	p[sizeof(p) - 1] = 0;
	CU_ASSERT_EQUAL(local_server_start(p, 0600, handler, NULL, &s, NULL), -ENAMETOOLONG);
	CU_ASSERT_EQUAL(local_call(p, request("x"), NULL, NULL, NULL, NULL), -ENAMETOOLONG);

	/* the socket of a daemon that was killed is replaced; the directory is made */
	snprintf(p, sizeof(p), "%s/run/x.sock", dir);
	CU_ASSERT_EQUAL_FATAL(local_server_start(p, 0600, handler, &server, &s, &e), 0);
	local_server_stop(s);
	CU_ASSERT_EQUAL(access(p, F_OK), -1);
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	strcpy(a.sun_path, p);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	CU_ASSERT_EQUAL(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	close(fd);
	e = (struct error){0};
	CU_ASSERT_EQUAL(local_call(p, request("echo"), NULL, NULL, NULL, &e), -ECONNREFUSED);
	CU_ASSERT_TRUE(e.absent);
	CU_ASSERT_EQUAL_FATAL(local_server_start(p, 0600, handler, &server, &s, NULL), 0);
	/* an errno of the daemon's own says nothing of whether it is there */
	e = (struct error){0};
	CU_ASSERT_EQUAL(local_call(p, request("absent"), NULL, NULL, NULL, &e), -ENOENT);
	CU_ASSERT_FALSE(e.absent);
	CU_ASSERT_EQUAL(local_call(p, request("echo"), NULL, NULL, NULL, NULL), 0);
	unlink(p); /* somebody else's successor must not lose its socket */
	close(open(p, O_CREAT | O_WRONLY, 0600));
	local_server_stop(s);
	CU_ASSERT_EQUAL(unlink(p), 0);
	CU_ASSERT_EQUAL(local_call(p, request("echo"), NULL, NULL, NULL, NULL), -ENOENT);
}

static void *waiter(void *arg)
{
	*(int *)arg = local_call(path, request("wait"), NULL, NULL, NULL, NULL);
	return NULL;
}

static void test_stop(void) /* a long request is told and still answered; an idle connection does not hold it up */
{
	int fd = dial(), r = 0;
	pthread_t t;

	ended = waiting = 0;
	pthread_create(&t, NULL, waiter, &r);
	CU_ASSERT_TRUE(comes_true(&waiting, 1));
	local_server_stop(server);
	CU_ASSERT_EQUAL(ended, 1);
	pthread_join(t, NULL);
	CU_ASSERT_EQUAL(r, -ECANCELED);
	CU_ASSERT_EQUAL(local_call(path, request("echo"), NULL, NULL, NULL, NULL), -ENOENT);
	close(fd);
}

static void *dying_daemon(void *arg)
{
	int fd = accept(*(int *)arg, NULL, NULL);
	char b[64];

	while (read(fd, b, sizeof(b)) > 0 && !memchr(b, '\n', sizeof(b)))
		;
	if (write(fd, "{\"row\":1}\n{\"ok\":tr", 18) != 18)
		return arg;
	close(fd);
	return NULL;
}

static void test_daemon_dies(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	struct error e = {0};
	json_t *answer = (json_t *)&e;
	pthread_t t;

	snprintf(a.sun_path, sizeof(a.sun_path), "%s/dying", dir);
	CU_ASSERT_EQUAL_FATAL(bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, 1), 0);
	pthread_create(&t, NULL, dying_daemon, &fd);
	CU_ASSERT_EQUAL(local_call(a.sun_path, request("x"), NULL, NULL, &answer, &e), -ECONNRESET);
	CU_ASSERT_PTR_NULL(answer);
	CU_ASSERT_STRING_EQUAL(e.text, "the daemon ended before it answered");
	pthread_join(t, NULL);
	close(fd);
}

int main(void)
{
	struct error e = {0};
	char rm[80];
	CU_pSuite s;

	if (!mkdtemp(dir) || chmod(dir, 0755))
		return 2;
	snprintf(path, sizeof(path), "%s/d.sock", dir);
	if (local_server_start(path, 0666, handler, &server, &server, &e)) {
		fprintf(stderr, "%s\n", e.text);
		return 2;
	}
	CU_initialize_registry();
	s = CU_add_suite("local", NULL, NULL);
	CU_add_test(s, "echo", test_echo);
	CU_add_test(s, "credentials", test_cred);
	CU_add_test(s, "rows", test_rows);
	CU_add_test(s, "failures", test_fail);
	CU_add_test(s, "garbage", test_garbage);
	CU_add_test(s, "too long", test_too_long);
	CU_add_test(s, "caller gone", test_gone);
	CU_add_test(s, "nobody answers", test_silent);
	CU_add_test(s, "limit per user", test_limit);
	CU_add_test(s, "parallel", test_parallel);
	CU_add_test(s, "start", test_start);
	CU_add_test(s, "daemon dies", test_daemon_dies);
	CU_add_test(s, "stop", test_stop);
	CU_basic_run_tests();
	snprintf(rm, sizeof(rm), "rm -rf %s", dir);
	return CU_get_number_of_failures() || CU_get_number_of_tests_run() != 13 || system(rm);
}
