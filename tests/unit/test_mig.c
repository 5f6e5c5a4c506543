// SPDX-License-Identifier: Apache-2.0
/*
 * mig against a migd that answers as told: what is asked for, what is printed, exit statuses. The program is $SPRITE_BIN/mig, or build/bin/mig.
 */
#include <CUnit/Basic.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "rpc/local.h"

static char dir[] = "/tmp/sprite-mig-XXXXXX", mig[4096], out[16384];
static char asked[4096]; /* the last request, compact and sorted */
static atomic_int requests;
static int last_pid;	 /* of its sender */

static void ps_rows(struct local_conn *c)
{
	local_row(c, json_pack("{s:i, s:i, s:s, s:i, s:s, s:s, s:s, s:s, s:i, s:s, s:I, s:s, s:b}", "pid", 4711, "ppid", 1, "comm", "xz\033[2J", "uid", 1000,
			    "user", "anna", "where", "away", "home", "ws1", "host", "ws2", "root", 4711, "family", "ws1:4711", "since",
			    (json_int_t)1795730400000000000, "state", "AWAY", "stopped", 0));
	local_row(c, json_pack("{s:i, s:s, s:i, s:s, s:s, s:s, s:s, s:s}", "pid", 9, "comm", "cc1", "uid", 0, "user", "root", "where", "guest", "home", "ws3",
			    "host", "", "family", "ws3:9"));
	local_row(c, json_pack("{s:i, s:s, s:i, s:s, s:s, s:s, s:s, s:s}", "pid", 10, "comm", "as", "uid", 0, "user", "root", "where", "guest", "home", "ws3",
			    "host", "", "family", "ws3:9"));
	local_ok(c, NULL);
}

static void host_rows(struct local_conn *c)
{
	local_row(c, json_pack("{s:s, s:s, s:b, s:b, s:i, s:s, s:f, s:i, s:i, s:i, s:I, s:[{s:s, s:b, s:i, s:s}]}", "name", "ws2", "state", "up", "lend", 1,
			    "idle", 1, "idle_ms", 61200000, "why", "idle", "load", 0.25, "cpus", 8, "guests", 0, "away", 2, "memory_free",
			    (json_int_t)3 << 30, "sources", "name", "tty pts/0", "readable", 1, "ago_ms", 61200000, "text", ""));
	local_row(c, json_pack("{s:s, s:s, s:s}", "name", "ws3", "state", "down", "error", "No route to host"));
	local_ok(c, NULL);
}

static void move(struct local_conn *c, json_t *rq)
{
	int pid = (int)json_integer_value(json_object_get(rq, "pid"));

	local_row(c, json_pack("{s:s}", "progress", "sending"));
	if (pid == 2) {
		local_fail(c, EPERM, "2 (init) is not yours");
	} else if (pid == 3) {
		local_row(c, json_pack("{s:s}", "reason", "fd 5: a socket: close it"));
		local_ok(c, json_pack("{s:b}", "movable", 0));
	} else if (json_is_true(json_object_get(rq, "explain"))) {
		local_ok(c, json_pack("{s:b, s:s}", "movable", 1, "host", "ws2"));
	} else {
		local_ok(c, json_pack("{s:i, s:s, s:i, s:i, s:i}", "pid", pid, "host", "ws2", "bytes", 3 << 20, "frozen_us", 5250, "total_us", 120000));
	}
}

static void handler(void *ctx, struct local_conn *c, const struct local_cred *who, json_t *rq)
{
	const char *verb = json_string_value(json_object_get(rq, "verb"));
	char *text = json_dumps(rq, JSON_COMPACT | JSON_SORT_KEYS);

	(void)ctx;
	snprintf(asked, sizeof(asked), "%s", text);
	free(text);
	last_pid = who->pid;
	atomic_fetch_add(&requests, 1);
	if (!strcmp(verb, "move") || !strcmp(verb, "home"))
		move(c, rq);
	else if (!strcmp(verb, "ps"))
		ps_rows(c);
	else if (!strcmp(verb, "hosts"))
		host_rows(c);
	else if (!strcmp(verb, "run") && json_object_get(rq, "host") && !strcmp(json_string_value(json_object_get(rq, "host")), "nowhere"))
		local_fail(c, ENXIO, "no host nowhere");
	else if (!strcmp(verb, "run"))
		local_ok(c, json_pack("{s:b, s:s}", "go", 1, "host", "ws2"));
	else if (!strcmp(verb, "evict") || !strcmp(verb, "stop-all"))
		local_ok(c, json_pack("{s:i}", "asked", 1));
	else if (!strcmp(verb, "lend"))
		local_ok(c, json_pack("{s:b, s:b, s:s, s:i}", "lend", json_is_true(json_object_get(rq, "on")), "idle", 1, "why", "idle", "idle_ms", 400000));
	else if (!strcmp(verb, "explain"))
		local_ok(c, json_pack("{s:b, s:s, s:i, s:i, s:i, s:i, s:i, s:i}", "movable", 1, "comm", "xz", "resident", 2048, "to_send", 1 << 20, "procs", 1,
				    "threads", 3, "fds", 4, "freeze_ms", 7));
	else
		local_fail(c, EOPNOTSUPP, "unknown");
}

/* Runs "mig ARGS" by the shell; output (both) in `out`. Returns the exit status. */
static int run(const char *args)
{
	char cmd[8192];
	size_t n = 0;
	ssize_t r;
	FILE *f;
	int st;

	snprintf(cmd, sizeof(cmd), "SPRITE_CONF=%s/conf %s %s 2>&1 </dev/null", dir, mig, args);
	f = popen(cmd, "r");
	while ((r = read(fileno(f), out + n, sizeof(out) - 1 - n)) > 0)
		n += (size_t)r;
	out[n] = 0;
	st = pclose(f);
	return WIFEXITED(st) ? WEXITSTATUS(st) : -1;
}

#define HAS(text)                                                                                            \
	do {                                                                                                 \
		if (!strstr(out, text))                                                                      \
			printf("\nwanted: %s\ngot: %s\n", text, out);                                        \
		CU_ASSERT_PTR_NOT_NULL(strstr(out, text));                                                   \
	} while (0)

static void test_usage(void)
{
	int before = requests;

	CU_ASSERT_EQUAL(run(""), 64);
	CU_ASSERT_EQUAL(run("dance"), 64);
	HAS("mig: no verb \"dance\"");
	CU_ASSERT_EQUAL(run("move"), 64);
	CU_ASSERT_EQUAL(run("move 12x"), 64);
	HAS("\"12x\": expected the number of a process\nusage: mig move");
	CU_ASSERT_EQUAL(run("move 0"), 64);
	CU_ASSERT_EQUAL(run("move -1"), 64);
	CU_ASSERT_EQUAL(run("move 5000000"), 64);
	CU_ASSERT_EQUAL(run("move --max-freeze x 5"), 64);
	CU_ASSERT_EQUAL(run("lend maybe"), 64);
	CU_ASSERT_EQUAL(run("lend on --until soon"), 64);
	CU_ASSERT_EQUAL(run("lend status --until +1h"), 64);
	CU_ASSERT_EQUAL(run("stats x"), 64);
	CU_ASSERT_EQUAL(run("top -d 0"), 64);
	CU_ASSERT_EQUAL(run("top -n x"), 64);
	CU_ASSERT_EQUAL(run("env get"), 64);
	CU_ASSERT_EQUAL(run("env set A"), 64);
	CU_ASSERT_EQUAL(run("env frob"), 64);
	CU_ASSERT_EQUAL(run("evict"), 64);
	CU_ASSERT_EQUAL(run("evict --all 5"), 64);
	CU_ASSERT_EQUAL(run("explain 1 2"), 64);
	CU_ASSERT_EQUAL(run("ps x"), 64);
	CU_ASSERT_EQUAL(run("run"), 125);
	CU_ASSERT_EQUAL(run("--help"), 0);
	HAS("mig move [-n]");
	CU_ASSERT_EQUAL(requests, before); /* nothing of it reached migd */
}

static void test_move(void)
{
	CU_ASSERT_EQUAL(run("move -H ws2 --max-freeze 20 17"), 0);
	CU_ASSERT_STRING_EQUAL(asked, "{\"host\":\"ws2\",\"max_freeze\":20,\"pid\":17,\"verb\":\"move\"}");
	CU_ASSERT_STRING_EQUAL(out, "17: on ws2 (3.0M sent, stood still for 5.2 ms of 120.0 ms)\n");
	CU_ASSERT_EQUAL(run("move -q 17"), 0);
	CU_ASSERT_STRING_EQUAL(asked, "{\"pid\":17,\"verb\":\"move\"}");
	CU_ASSERT_STRING_EQUAL(out, "");
	/* one that fails: its reason once, the others go on, exit status 1 */
	CU_ASSERT_EQUAL(run("move -H ws2 2 18"), 1);
	CU_ASSERT_STRING_EQUAL(out, "mig: 2 (init) is not yours\n18: on ws2 (3.0M sent, stood still for 5.2 ms of 120.0 ms)\n");
	CU_ASSERT_EQUAL(run("home 19"), 0);
	CU_ASSERT_STRING_EQUAL(asked, "{\"pid\":19,\"verb\":\"home\"}");
}

static void test_dry(void)
{
	CU_ASSERT_EQUAL(run("move -n 17"), 0);
	CU_ASSERT_STRING_EQUAL(asked, "{\"explain\":true,\"pid\":17,\"verb\":\"move\"}");
	CU_ASSERT_STRING_EQUAL(out, "17: can move to ws2\n");
	CU_ASSERT_EQUAL(run("move -n 3"), 1);
	CU_ASSERT_STRING_EQUAL(out, "mig: 3: fd 5: a socket: close it\n");
	CU_ASSERT_EQUAL(run("explain 5"), 0);
	HAS("5 xz: 1 process(es), 3 thread(s), 4 open descriptor(s), 2.0K in memory, 1.0M to send\n5 can move: would stand still for about 7 ms");
	CU_ASSERT_EQUAL(run("explain --json 5"), 0);
	HAS("\"resident\": 2048");
}

static void test_run(void) /* mig becomes the command: same pid */
{
	CU_ASSERT_EQUAL(run("run -H ws2 -- sh -c 'echo $$; exit 7'"), 7);
	CU_ASSERT_STRING_EQUAL(asked, "{\"host\":\"ws2\",\"local_ok\":false,\"verb\":\"run\"}");
	CU_ASSERT_EQUAL(atoi(out), last_pid);
	CU_ASSERT_EQUAL(run("run -v sh -c 'ls -l /proc/self/fd | grep -c socket; exit 0'"), 0);
	HAS("mig: sh goes to ws2\n0\n"); /* nor does the command hold our connection */
	CU_ASSERT_EQUAL(run("run -H nowhere true"), 125);
	CU_ASSERT_STRING_EQUAL(out, "mig: no host nowhere\n");
	CU_ASSERT_EQUAL(run("run /nosuch"), 127);
	CU_ASSERT_EQUAL(run("run nosuch-command"), 127);
	CU_ASSERT_EQUAL(run("run /dev/null"), 126);
	CU_ASSERT_EQUAL(run("run --priority low --kill-if-stuck=9 true"), 0);
	CU_ASSERT_STRING_EQUAL(asked, "{\"kill_if_stuck\":9,\"local_ok\":false,\"priority\":\"low\",\"verb\":\"run\"}");
	CU_ASSERT_EQUAL(run("run --kill-if-stuck=soon true"), 125);
	HAS("--kill-if-stuck: expected seconds, 1 to 604800, found \"soon\"");
	CU_ASSERT_EQUAL(run("run -b true"), 0);
	CU_ASSERT_TRUE(atoi(out) > 1);
}

static void test_lists(void)
{
	CU_ASSERT_EQUAL(run("ps"), 0);
	CU_ASSERT_STRING_EQUAL(asked, "{\"all\":false,\"verb\":\"ps\"}");
	/* no escape sequence of a process's name reaches the terminal */
	CU_ASSERT_STRING_EQUAL(out, " PID  USER  WHERE  HOME  HOST  SINCE                 COMMAND\n"
				    "4711  anna  away   ws1   ws2   2026-11-26T22:00:00Z  xz?[2J\n"
				    "   9  root  guest  ws3   -     -                     cc1\n"
				    "  10  root  guest  ws3   -     -                     as\n");
	CU_ASSERT_EQUAL(run("ps -a --no-header -o pid,HOST"), 0);
	CU_ASSERT_STRING_EQUAL(asked, "{\"all\":true,\"verb\":\"ps\"}");
	CU_ASSERT_STRING_EQUAL(out, "4711  ws2\n   9  -\n  10  -\n");
	CU_ASSERT_EQUAL(run("ps -o pid,shoe"), 64);
	HAS("no column \"shoe\"; there are pid,user,");
	CU_ASSERT_EQUAL(run("ps --json"), 0);
	HAS("\"since\": 1795730400000000000");
	CU_ASSERT_EQUAL(run("hosts"), 0);
	CU_ASSERT_STRING_EQUAL(out, "NAME  STATE    IDLE  LOAD  CPUS  FREE  GUESTS  AWAY  LEND  WHY\n"
				    "ws2   idle   17h00m  0.25     8  3.0G       0     2  yes   idle\n"
				    "ws3   down        -     -     -     -       -     -  -     No route to host\n");
	CU_ASSERT_EQUAL(run("hosts -v"), 0);
	HAS("ws2: tty pts/0: last input 17h00m");
}

static void test_owner(void)
{
	CU_ASSERT_EQUAL(run("lend on"), 0);
	CU_ASSERT_STRING_EQUAL(asked, "{\"on\":true,\"verb\":\"lend\"}");
	HAS("on: this host takes guests (nobody has used it for 6m40s)");
	CU_ASSERT_EQUAL(run("lend off"), 0);
	HAS("off: ");
	CU_ASSERT_EQUAL(run("lend status"), 0);
	CU_ASSERT_STRING_EQUAL(asked, "{\"verb\":\"lend\"}");
	CU_ASSERT_EQUAL(run("evict --all"), 0);
	CU_ASSERT_STRING_EQUAL(asked, "{\"verb\":\"evict\"}");
	CU_ASSERT_EQUAL(run("evict 10"), 0); /* its family, once */
	CU_ASSERT_STRING_EQUAL(asked, "{\"family\":\"ws3:9\",\"verb\":\"evict\"}");
	CU_ASSERT_EQUAL(run("evict root"), 0);
	HAS("1 family asked to leave\n"); /* two processes, one family */
	CU_ASSERT_EQUAL(run("evict 4711"), 1); /* away, no guest here */
	CU_ASSERT_EQUAL(run("evict nosuchuser"), 1);
	CU_ASSERT_EQUAL(run("stop-all"), 0);
}

static void test_conf(void)
{
	char cmd[200];

	snprintf(cmd, sizeof(cmd), "echo '{\"name\":\"x\"}' >%s/conf", dir);
	CU_ASSERT_EQUAL(system(cmd), 0);
	CU_ASSERT_EQUAL(run("ps"), 78);
	HAS("root_server: expected a value");
}

static struct local_server *server;

static void test_absent(void)
{
	local_server_stop(server);
	server = NULL;
	CU_ASSERT_EQUAL(run("ps"), 69);
	HAS("is the daemon running?");
	CU_ASSERT_EQUAL(run("move 1 2 3"), 69);
	CU_ASSERT_EQUAL(run("run true"), 125);
	CU_ASSERT_EQUAL(run("run --local-ok true"), 0);
}

int main(void)
{
	const char *bin = getenv("SPRITE_BIN");
	char path[200], text[600];
	struct error e = {0};
	CU_pSuite s;
	FILE *f;

	snprintf(mig, sizeof(mig), "%s/mig", bin ? bin : "build/bin");
	if (access(mig, X_OK)) {
		printf("%s is not built: skipped\n", mig);
		return 77;
	}
	if (!mkdtemp(dir))
		return 2;
	snprintf(path, sizeof(path), "%s/conf", dir);
	snprintf(text, sizeof(text), "{\"name\":\"ws1\",\"root_server\":\"fs1\",\"tls\":{\"ca\":\"/no\",\"cert\":\"/no\",\"key\":\"/no\"},\"run_dir\":\"%s\"}", dir);
	f = fopen(path, "w");
	if (!f || fputs(text, f) < 0 || fclose(f))
		return 2;
	snprintf(path, sizeof(path), "%s/migd.sock", dir);
	if (local_server_start(path, 0600, handler, NULL, &server, &e)) {
		fprintf(stderr, "%s\n", e.text);
		return 2;
	}
	CU_initialize_registry();
	s = CU_add_suite("mig", NULL, NULL);
	CU_add_test(s, "usage", test_usage);
	CU_add_test(s, "move", test_move);
	CU_add_test(s, "dry", test_dry);
	CU_add_test(s, "run", test_run);
	CU_add_test(s, "lists", test_lists);
	CU_add_test(s, "owner", test_owner);
	CU_add_test(s, "absent", test_absent);
	CU_add_test(s, "conf", test_conf);
	CU_basic_run_tests();
	snprintf(text, sizeof(text), "rm -rf %s", dir);
	return CU_get_number_of_failures() || CU_get_number_of_tests_run() != 8 || system(text);
}
