// SPDX-License-Identifier: Apache-2.0
/*
 * The local control protocol: its decoder alone, and now and then the whole server and client over real sockets, with the same bytes. Every
 * complete line sent to the server must be answered, and it must go on serving.
 */
#include "rpc/local.h"
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include "tests/fuzz/fuzz.h"

static const char *const words[] = {
	"\"verb\"", "\"ok\"", "\"errno\"", "\"error\"", "\"row\"", "true", "false", "null", "{}", "[", "{\"verb\":\"x\"}\n", "\n", "\n\n", "\\u0000", "\xc3\x28", "-1",
	"99999999999999999999", "1e400", "{\"a\":", NULL,
};
#define SEED(s) {s, sizeof(s) - 1}
static const struct fuzz_seed seeds[] = {
	SEED("{\"verb\":\"ping\"}\n"),
	SEED("{\"verb\":\"grant\",\"host\":\"ws2\",\"uid\":1000,\"family\":\"0123\"}\n{\"verb\":\"revoke\",\"rows\":[1,2,{\"x\":null}]}\n"),
	SEED("{\"row\":{\"pid\":5}}\n{\"ok\":true,\"n\":1}\n"),
	SEED("{\"ok\":false,\"errno\":2,\"error\":\"no such thing\"}\n"),
	SEED("{\"ok\":false,\"errno\":2,\"error\":\"\"}\n"),
};
static char path[88];
static int hostile; /* listening socket of a daemon that answers with the fuzzed bytes */
static char hostile_path[88];

static void handler(void *ctx, struct local_conn *c, const struct local_cred *who, json_t *rq)
{
	(void)ctx;
	(void)who;
	local_row(c, json_incref(rq));
	local_ok(c, json_incref(rq));
}

static int dial(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(a.sun_path, path);
	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)))
		abort();
	return fd;
}

static size_t lines(const uint8_t *p, size_t len)
{
	size_t n = 0;

	for (size_t i = 0; i < len; i++)
		n += p[i] == '\n';
	return n;
}

static void to_server(const uint8_t *data, size_t len)
{
	static uint8_t got[1 << 22];
	size_t n = 0;
	ssize_t r;
	int fd = dial();

	if (send(fd, data, len, MSG_NOSIGNAL) != (ssize_t)len)
		abort();
	shutdown(fd, SHUT_WR);
	while (n < sizeof(got) && (r = read(fd, got + n, sizeof(got) - n)) > 0)
		n += (size_t)r;
	close(fd);
	if (lines(got, n) < lines(data, len))
		abort(); /* a line without an answer */
}

static void to_client(const uint8_t *data, size_t len)
{
	int fd;
	struct error e = {0};
	json_t *answer = NULL;
	pid_t pid = fork(); /* the daemon's part */

	if (!pid) {
		char b[256];

		fd = accept(hostile, NULL, NULL);
		if (read(fd, b, sizeof(b)) < 0 || send(fd, data, len, MSG_NOSIGNAL) < 0)
			_exit(0);
		_exit(0);
	}
	if (pid < 0)
		abort();
	if (local_call(hostile_path, json_pack("{s:s}", "verb", "x"), NULL, NULL, &answer, &e) && (!e.code || !e.text[0]))
		abort(); /* failed without a word */
	json_decref(answer);
	while (waitpid(pid, NULL, 0) < 0)
		;
}

static void one(const uint8_t *data, size_t len)
{
	static unsigned count;
	struct error e = {0};
	json_t *o = local_decode((const char *)data, len, fuzz_below(2), &e);

	if (!o == !e.code)
		abort();
	json_decref(o);
	count++;
	if (count % 16 == 0)
		to_server(data, len);
	if (count % 256 == 0)
		to_client(data, len);
}

int main(int argc, char **argv)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	char dir[72];
	struct local_server *s;
	struct error e = {0};
	int r;

	if (!fuzz_dir(dir, sizeof(dir)))
		return 2;
	snprintf(path, sizeof(path), "%s/s", dir);
	snprintf(hostile_path, sizeof(hostile_path), "%s/h", dir);
	strcpy(a.sun_path, hostile_path);
	hostile = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (hostile < 0 || bind(hostile, (struct sockaddr *)&a, sizeof(a)) || listen(hostile, 4) || local_server_start(path, 0600, handler, NULL, &s, &e)) {
		fprintf(stderr, "%s\n", e.text);
		return 2;
	}
	r = fuzz_main(argc, argv, "local", seeds, ARRAY_SIZE(seeds), words, one);
	local_server_stop(s);
	unlink(hostile_path);
	rmdir(dir);
	return r;
}
