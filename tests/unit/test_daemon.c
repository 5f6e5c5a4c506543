// SPDX-License-Identifier: Apache-2.0
/* The common start of the daemons: options, exit statuses, --check, signals. Each case is a child process whose output is read. */
#include "conf/daemon.h"

#include <CUnit/Basic.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *opt_mount;
static bool opt_loud;
static const struct daemon_option options[] = {
	{"mount", "DIR", "mount there", &opt_mount, NULL},
	{"loud", NULL, "be loud", NULL, &opt_loud},
	{0},
};
static char good[] = "/tmp/sprite-daemon-XXXXXX", bad[] = "/tmp/sprite-daemon-XXXXXX", tls[] = "/tmp/sprite-daemon-XXXXXX";
static char out[8192];

/* Runs a daemon with these arguments; `body` is what it does once begun (its result is the exit status). Output goes to `out`. */
static int run(const char *const *args, const char *operands, int (*body)(struct daemon *d))
{
	char *argv[16] = {(char *)"tested"};
	int p[2], st, n = 1;
	size_t got = 0;
	ssize_t r;
	pid_t pid;

	while (*args && n < 15)
		argv[n++] = (char *)*args++;
	CU_ASSERT_EQUAL_FATAL(pipe(p), 0);
	fflush(NULL);
	pid = fork();
	if (!pid) {
		struct daemon d = {.program = "tested", .summary = "is tested", .options = options, .operands = operands};
		int status = 99;

		dup2(p[1], 1);
		dup2(p[1], 2);
		if (daemon_begin(&d, n, argv, &status)) {
			status = body ? body(&d) : 50;
			daemon_end(&d);
		}
		fflush(NULL);
		_exit(status);
	}
	close(p[1]);
	while ((r = read(p[0], out + got, sizeof(out) - 1 - got)) > 0)
		got += (size_t)r;
	out[got] = 0;
	close(p[0]);
	waitpid(pid, &st, 0);
	return WIFEXITED(st) ? WEXITSTATUS(st) : -WTERMSIG(st);
}
#define RUN(operands, body, ...) run((const char *const[]){__VA_ARGS__ __VA_OPT__(, ) NULL}, operands, body)

static void test_usage(void)
{
	CU_ASSERT_EQUAL(RUN(NULL, NULL, "--config", good, "--chek"), 64);
	CU_ASSERT_PTR_NOT_NULL(strstr(out, "tested: no option --chek"));
	CU_ASSERT_EQUAL(RUN(NULL, NULL, "x"), 64);
	CU_ASSERT_EQUAL(RUN(NULL, NULL, "-x"), 64);
	CU_ASSERT_EQUAL(RUN("[FILE]", NULL, "-x"), 64);
	CU_ASSERT_EQUAL(RUN(NULL, NULL, "--config"), 64);
	CU_ASSERT_PTR_NOT_NULL(strstr(out, "--config needs FILE"));
	CU_ASSERT_EQUAL(RUN(NULL, NULL, "--check=yes"), 64);
	CU_ASSERT_EQUAL(RUN(NULL, NULL, "--moun", "x"), 64); /* no abbreviations: a new option must not break a unit file */
}

static void test_help(void)
{
	CU_ASSERT_EQUAL(RUN(NULL, NULL, "--help"), 0);
	CU_ASSERT_EQUAL(RUN(NULL, NULL, "-h"), 0);
	CU_ASSERT_PTR_NOT_NULL(strstr(out, "usage: tested [OPTION]...\n"));
	CU_ASSERT_PTR_NOT_NULL(strstr(out, "--mount DIR"));
	CU_ASSERT_PTR_NOT_NULL(strstr(out, "--check"));
	CU_ASSERT_EQUAL(RUN(NULL, NULL, "--version"), 0);
	CU_ASSERT_PTR_NOT_NULL(strstr(out, "tested (Sprite for Linux) "));
}

static void test_check(void)
{
	CU_ASSERT_EQUAL(RUN(NULL, NULL, "--check", "--config", good), 0);
	CU_ASSERT_PTR_NOT_NULL(strstr(out, ": good\n"));
	CU_ASSERT_EQUAL(RUN(NULL, NULL, "--check", "--config", bad), 78);
	CU_ASSERT_PTR_NOT_NULL(strstr(out, "root_server: expected a value"));
	CU_ASSERT_EQUAL(RUN(NULL, NULL, "--config", bad), 78);
	CU_ASSERT_EQUAL(RUN(NULL, NULL, "--config=/nowhere"), 78);
	CU_ASSERT_EQUAL(setenv("SPRITE_CONF", good, 1), 0);
	CU_ASSERT_EQUAL(RUN(NULL, NULL, "--check"), 0);
	unsetenv("SPRITE_CONF");
}

static int options_body(struct daemon *d)
{
	return strcmp(opt_mount, "/x") || !opt_loud || strcmp(d->args[0], "a") || strcmp(d->args[1], "--b") || d->args[2] || strcmp(d->conf->name, "ws1");
}

static void test_options(void)
{
	CU_ASSERT_EQUAL(RUN("FILE...", options_body, "--config", good, "a", "--mount=/x", "--loud", "--foreground", "--", "--b"), 0);
	CU_ASSERT_EQUAL(RUN("FILE...", options_body, "--loud", "a", "--mount", "/x", "--config", good, "--", "--b"), 0);
}

static void count_hup(void *arg)
{
	(*(int *)arg)++;
}

static int signal_body(struct daemon *d)
{
	int hups = 0;

	kill(getpid(), SIGPIPE); /* ignored */
	kill(getpid(), SIGHUP);
	if (fork() == 0) {
		usleep(100000);
		kill(getppid(), SIGTERM);
		_exit(0);
	}
	if (daemon_wait(d, count_hup, &hups) != SIGTERM)
		return 1;
	return hups != 1 || daemon_signal(d) != 0;
}

static void test_signals(void)
{
	CU_ASSERT_EQUAL(RUN(NULL, signal_body, "--config", good), 0);
}

static int put(char *template, const char *text)
{
	int fd = mkstemp(template);

	return fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text) || close(fd);
}

int main(void)
{
	char text[400];
	CU_pSuite s;

	if (put(tls, "-----BEGIN CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n"))
		return 2;
	snprintf(text, sizeof(text), "{\"name\":\"ws1\",\"root_server\":\"fs1\",\"tls\":{\"ca\":\"%s\",\"cert\":\"%s\",\"key\":\"%s\"}}", tls, tls, tls);
	if (put(good, text) || put(bad, "{\"name\":\"ws1\"}"))
		return 2;
	CU_initialize_registry();
	s = CU_add_suite("daemon", NULL, NULL);
	CU_add_test(s, "usage", test_usage);
	CU_add_test(s, "help", test_help);
	CU_add_test(s, "check", test_check);
	CU_add_test(s, "options", test_options);
	CU_add_test(s, "signals", test_signals);
	CU_basic_run_tests();
	unlink(good);
	unlink(bad);
	unlink(tls);
	return CU_get_number_of_failures() || CU_get_number_of_tests_run() != 5;
}
