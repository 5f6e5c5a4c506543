// SPDX-License-Identifier: Apache-2.0
/* Clocks with an offset and faked; boot identity; the notice to systemd; the log's lines. Each case that reads the environment is a child process. */
#include "conf/clock.h"

#include <CUnit/Basic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "conf/log.h"
#include "conf/notify.h"

/* Runs fn in a child: the environment is read once per process. */
static int child(int (*fn)(void))
{
	int st;
	pid_t pid = fork();

	if (!pid)
		_exit(fn());
	waitpid(pid, &st, 0);
	return st;
}

static int64_t kernel(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static int offset_child(void)
{
	setenv("SPRITE_CLOCK_OFFSET_MS", "3600000", 1);
	int64_t want = kernel(CLOCK_BOOTTIME) + 3600000000000ll, got = (int64_t)clock_boot_ns();
	if (got < want || got > want + 1000000000)
		return 1;
	want = kernel(CLOCK_MONOTONIC) + 3600000000000ll, got = (int64_t)clock_mono_ns();
	if (got < want || got > want + 1000000000)
		return 2;
	want = kernel(CLOCK_REALTIME) + 3600000000000ll, got = clock_real_ns();
	return got < want || got > want + 1000000000 ? 3 : 0;
}

static int negative_child(void) /* never before the boot */
{
	setenv("SPRITE_CLOCK_OFFSET_MS", "-999999999999", 1);
	return clock_boot_ns() != 0 || clock_mono_ns() != 0;
}

static void test_offset(void)
{
	CU_ASSERT_EQUAL(child(offset_child), 0);
	CU_ASSERT_EQUAL(child(negative_child), 0);
}

static uint64_t fake(void)
{
	return 42;
}

static void test_fake(void)
{
	clock_fake(fake);
	CU_ASSERT_EQUAL(clock_boot_ns(), 42);
	CU_ASSERT_EQUAL(clock_mono_ns(), 42);
	CU_ASSERT_EQUAL(clock_real_ns(), 42);
	clock_fake(NULL);
	CU_ASSERT_NOT_EQUAL(clock_boot_ns(), 42);
	uint64_t a = clock_mono_ns();
	CU_ASSERT_TRUE(clock_mono_ns() >= a);
}

static int epoch_pipe[2];

static int epoch_child(void)
{
	uint64_t e = clock_epoch();

	return !e || e != clock_epoch() || write(epoch_pipe[1], &e, sizeof(e)) != sizeof(e);
}

static void test_epoch(void) /* every start another one */
{
	uint64_t a = 0, b = 0;

	CU_ASSERT_EQUAL(pipe(epoch_pipe), 0);
	CU_ASSERT_EQUAL(child(epoch_child), 0);
	CU_ASSERT_EQUAL(child(epoch_child), 0);
	CU_ASSERT_EQUAL(read(epoch_pipe[0], &a, sizeof(a)), sizeof(a));
	CU_ASSERT_EQUAL(read(epoch_pipe[0], &b, sizeof(b)), sizeof(b));
	CU_ASSERT_NOT_EQUAL(a, b);
	CU_ASSERT_NOT_EQUAL(a, 0);
}

static int boot_child(void)
{
	setenv("SPRITE_BOOT_ID", "01234567-89ab-cdef-0123-456789abcdef", 1);
	return strcmp(clock_boot_id(), "01234567-89ab-cdef-0123-456789abcdef");
}

static int boot_kernel_child(void)
{
	char id[40] = "";
	FILE *f = fopen("/proc/sys/kernel/random/boot_id", "r");

	unsetenv("SPRITE_BOOT_ID");
	return !f || fscanf(f, "%36s", id) != 1 || strcmp(clock_boot_id(), id);
}

static void test_boot_id(void)
{
	CU_ASSERT_EQUAL(child(boot_child), 0);
	CU_ASSERT_EQUAL(child(boot_kernel_child), 0);
}

static void test_notify(void)
{
	char dir[] = "/tmp/sprite-notify-XXXXXX", got[600];
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
	ssize_t n;

	unsetenv("NOTIFY_SOCKET");
	CU_ASSERT_EQUAL(notify_ready(), 0);
	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(dir));
	snprintf(a.sun_path, sizeof(a.sun_path), "%s/s", dir);
	CU_ASSERT_EQUAL_FATAL(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	setenv("NOTIFY_SOCKET", a.sun_path, 1);
	CU_ASSERT_EQUAL(notify_ready(), 0);
	n = recv(fd, got, sizeof(got), MSG_DONTWAIT);
	CU_ASSERT_TRUE(n == 7 && !memcmp(got, "READY=1", 7));
	CU_ASSERT_EQUAL(notify_status("serving %d\nREADY=1", 3), 0); /* no second variable by a newline */
	n = recv(fd, got, sizeof(got), MSG_DONTWAIT);
	CU_ASSERT_TRUE(n == 24 && !memcmp(got, "STATUS=serving 3 READY=1", 24));
	CU_ASSERT_EQUAL(notify_alive(), 0); /* no watchdog waits */
	CU_ASSERT_TRUE(recv(fd, got, sizeof(got), MSG_DONTWAIT) < 0);
	setenv("WATCHDOG_USEC", "30000000", 1);
	setenv("WATCHDOG_PID", "1", 1); /* for another */
	CU_ASSERT_EQUAL(notify_alive(), 0);
	CU_ASSERT_TRUE(recv(fd, got, sizeof(got), MSG_DONTWAIT) < 0);
	snprintf(got, sizeof(got), "%d", (int)getpid());
	setenv("WATCHDOG_PID", got, 1);
	CU_ASSERT_EQUAL(notify_alive(), 0);
	n = recv(fd, got, sizeof(got), MSG_DONTWAIT);
	CU_ASSERT_TRUE(n == 10 && !memcmp(got, "WATCHDOG=1", 10));
	unsetenv("WATCHDOG_USEC");
	unsetenv("WATCHDOG_PID");
	close(fd);
	CU_ASSERT_NOT_EQUAL(notify_ready(), 0);
	unlink(a.sun_path);
	rmdir(dir);
	unsetenv("NOTIFY_SOCKET");
}

static int log_pipe[2];

static int log_child(void)
{
	struct stat st;
	char v[80];

	dup2(log_pipe[1], 2);
	fstat(2, &st);
	snprintf(v, sizeof(v), "%llu:%llu", (unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
	setenv("JOURNAL_STREAM", v, 1);
	setenv("SPRITE_LOG", "info", 1);
	log_init("t");
	log_info("one\n<3>two");
	log_debug("not this");
	log_error("last");
	return 0;
}

static int log_plain_child(void)
{
	dup2(log_pipe[1], 2);
	unsetenv("JOURNAL_STREAM");
	unsetenv("SPRITE_LOG");
	log_init("t");
	log_info("not this");
	log_warn("x");
	return 0;
}

static void test_log(void)
{
	char got[400];
	ssize_t n;

	CU_ASSERT_EQUAL(pipe(log_pipe), 0);
	CU_ASSERT_EQUAL(child(log_child), 0);
	n = read(log_pipe[0], got, sizeof(got) - 1);
	got[n > 0 ? n : 0] = 0;
	CU_ASSERT_STRING_EQUAL(got, "<6>one?<3>two\n<3>last\n");
	CU_ASSERT_EQUAL(child(log_plain_child), 0);
	n = read(log_pipe[0], got, sizeof(got) - 1);
	got[n > 0 ? n : 0] = 0;
	/* 2026-11-26T22:00:00.000000Z t[123] warning: x */
	CU_ASSERT_TRUE(got[4] == '-' && got[10] == 'T' && got[26] == 'Z');
	CU_ASSERT_PTR_NOT_NULL(strstr(got, "Z t["));
	CU_ASSERT_PTR_NOT_NULL(strstr(got, "] warning: x\n"));
	CU_ASSERT_PTR_NULL(strstr(got, "not this"));
}

int main(void)
{
	CU_pSuite s;

	CU_initialize_registry();
	s = CU_add_suite("clock", NULL, NULL);
	/* the children of these read the environment themselves: before anything here has */
	CU_add_test(s, "offset", test_offset);
	CU_add_test(s, "epoch", test_epoch);
	CU_add_test(s, "boot id", test_boot_id);
	CU_add_test(s, "notify", test_notify);
	CU_add_test(s, "log", test_log);
	CU_add_test(s, "fake", test_fake);
	CU_basic_run_tests();
	return CU_get_number_of_failures() || CU_get_number_of_tests_run() != 6;
}
