// SPDX-License-Identifier: Apache-2.0
/*
 * logind as a source of idle detection, on a system bus of this test's own: dbus-daemon, and a service that answers as systemd-logind does (org.freedesktop.login1(5)).
 *   test_idle_logind serve FILE    is that service alone, for tests/lab/test_idle.sh
 * FILE holds what it says, read at each question: "lid mains sessions idle locked remote since" (numbers; since: CLOCK_MONOTONIC in us; sessions: 0 or 1).
 */
#include "migd/idle.h"

#include <CUnit/Basic.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <systemd/sd-bus.h>
#include <time.h>
#include <unistd.h>
#include "conf/clock.h"

/* ---- the service ---- */

static const char *file;

static struct said {
	int lid, mains, sessions, idle, locked, remote;
	unsigned long long since;
} said(void)
{
	struct said s = {.mains = 1};
	FILE *f = fopen(file, "r");

	if (f && fscanf(f, "%d %d %d %d %d %d %llu", &s.lid, &s.mains, &s.sessions, &s.idle, &s.locked, &s.remote, &s.since) != 7)
		s = (struct said){.mains = 1};
	if (f)
		fclose(f);
	return s;
}

static int get(sd_bus *bus, const char *path, const char *iface, const char *property, sd_bus_message *reply, void *arg, sd_bus_error *e)
{
	struct said s = said();

	(void)bus, (void)path, (void)iface, (void)arg, (void)e;
	if (!strcmp(property, "IdleSinceHintMonotonic"))
		return sd_bus_message_append(reply, "t", (uint64_t)s.since);
	return sd_bus_message_append(reply, "b",
		!strcmp(property, "LidClosed")		? s.lid
		: !strcmp(property, "OnExternalPower") ? s.mains
		: !strcmp(property, "IdleHint")	? s.idle
		: !strcmp(property, "LockedHint")	? s.locked
							: s.remote);
}

static int list_sessions(sd_bus_message *m, void *arg, sd_bus_error *e)
{
	sd_bus_message *reply = NULL;
	int r = sd_bus_message_new_method_return(m, &reply);

	(void)arg, (void)e;
	if (r >= 0)
		r = sd_bus_message_open_container(reply, 'a', "(susso)");
	if (r >= 0 && said().sessions)
		r = sd_bus_message_append(reply, "(susso)", "c1", 1000, "anna", said().remote ? "" : "seat0", "/org/freedesktop/login1/session/c1");
	if (r >= 0)
		r = sd_bus_message_close_container(reply);
	if (r >= 0)
		r = sd_bus_send(NULL, reply, NULL);
	sd_bus_message_unref(reply);
	return r;
}

static const sd_bus_vtable manager[] = {SD_BUS_VTABLE_START(0), SD_BUS_METHOD("ListSessions", "", "a(susso)", list_sessions, SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_PROPERTY("LidClosed", "b", get, 0, 0), SD_BUS_PROPERTY("OnExternalPower", "b", get, 0, 0), SD_BUS_VTABLE_END};
static const sd_bus_vtable session[] = {SD_BUS_VTABLE_START(0), SD_BUS_PROPERTY("IdleHint", "b", get, 0, 0), SD_BUS_PROPERTY("LockedHint", "b", get, 0, 0),
	SD_BUS_PROPERTY("Remote", "b", get, 0, 0), SD_BUS_PROPERTY("IdleSinceHintMonotonic", "t", get, 0, 0), SD_BUS_VTABLE_END};

/* Serves for ever; a line on standard output when it has its name. */
static int serve(void)
{
	sd_bus *bus = NULL;
	int r;

	/* the bus may be about to start */
	for (int i = 0; (r = sd_bus_open_system(&bus)) < 0 && i < 1000; i++)
		usleep(20000);
	if (r >= 0)
		r = sd_bus_add_object_vtable(bus, NULL, "/org/freedesktop/login1", "org.freedesktop.login1.Manager", manager, NULL);
	if (r >= 0)
		r = sd_bus_add_object_vtable(bus, NULL, "/org/freedesktop/login1/session/c1", "org.freedesktop.login1.Session", session, NULL);
	if (r >= 0)
		r = sd_bus_request_name(bus, "org.freedesktop.login1", 0);
	if (r >= 0)
		puts("serving");
	fflush(stdout);
	while (r >= 0)
		r = sd_bus_process(bus, NULL) ?: sd_bus_wait(bus, UINT64_MAX);
	fprintf(stderr, "bus: %s\n", strerror(-r));
	return 1;
}

/* ---- the test ---- */

static char dir[] = "/tmp/test-logind.XXXXXX", state[80], config[80];
static pid_t daemon_pid, service_pid;

static void say(int lid, int mains, int sessions, int idle, int locked, int remote, uint64_t ago_s)
{
	FILE *f = fopen(state, "w");

	CU_ASSERT_PTR_NOT_NULL_FATAL(f);
	fprintf(f, "%d %d %d %d %d %d %llu\n", lid, mains, sessions, idle, locked, remote, (unsigned long long)(clock_host_mono_ns() / 1000 - ago_s * 1000000));
	fclose(f);
}

static pid_t child(void)
{
	pid_t pid = fork();

	if (!pid)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	return pid;
}

static bool bus_start(void)
{
	char address[120], line[16] = "";
	int ready[2];
	FILE *f;

	if (!mkdtemp(dir) || pipe(ready))
		return false;
	snprintf(state, sizeof(state), "%s/state", dir);
	snprintf(config, sizeof(config), "%s/bus.conf", dir);
	snprintf(address, sizeof(address), "unix:path=%s/bus", dir);
	f = fopen(config, "w");
	if (!f)
		return false;
	fprintf(f, "<busconfig><type>session</type><listen>%s</listen><auth>EXTERNAL</auth><policy context=\"default\"><allow send_destination=\"*\"/>"
		   "<allow receive_sender=\"*\"/><allow own=\"*\"/><allow user=\"*\"/></policy></busconfig>\n", address);
	fclose(f);
	setenv("DBUS_SYSTEM_BUS_ADDRESS", address, 1);
	daemon_pid = child();
	if (!daemon_pid) {
		execlp("dbus-daemon", "dbus-daemon", "--nofork", "--nopidfile", "--config-file", config, NULL);
		_exit(127);
	}
	file = state;
	service_pid = child();
	if (!service_pid) {
		dup2(ready[1], 1);
		close(ready[0]);
		_exit(serve());
	}
	close(ready[1]);
	bool ok = read(ready[0], line, sizeof(line)) > 0;

	close(ready[0]);
	return ok;
}

static void bus_end(void)
{
	const char *const names[] = {"state", "bus.conf", "bus"};

	for (int i = 0; i < 2; i++) {
		pid_t pid = i ? daemon_pid : service_pid;

		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
	for (int i = 0; i < 3; i++) {
		char path[80];

		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		unlink(path);
	}
	rmdir(dir);
}

static void source(struct idle_watch *w, const char *name, struct idle_source *out)
{
	struct idle_source s[64];
	size_t n = idle_sources(w, s, 64);

	*out = (struct idle_source){.text = "missing"};
	for (size_t i = 0; i < n; i++)
		if (!strcmp(s[i].name, name))
			*out = s[i];
}

static void look(struct idle_watch *w, struct idle_view *v)
{
	idle_sample(w, true, 0, v);
}

static void test_sessions(void)
{
	struct idle_rules rules = idle_rules_default;
	struct idle_watch *w = NULL;
	struct idle_source s;
	struct error e = {0};
	struct idle_view v;
	uint64_t first, before;

	rules.remote_logins = false;
	say(0, 1, 0, 0, 0, 0, 0);
	CU_ASSERT_EQUAL_FATAL(idle_open(&rules, &w, &e), 0);
	look(w, &v);
	first = v.last_input_ns; /* of the terminals of this machine, if it has any */
	source(w, "logind", &s);
	CU_ASSERT_TRUE(s.readable);
	CU_ASSERT_STRING_EQUAL(s.text, "no sessions");
	say(0, 1, 1, 0, 0, 1, 0); /* just now, but from afar, which does not count */
	look(w, &v);
	source(w, "logind", &s);
	CU_ASSERT_STRING_EQUAL(s.text, "anna on the network active");
	CU_ASSERT_EQUAL(v.last_input_ns, first);
	before = clock_boot_ns();
	say(0, 1, 1, 0, 0, 0, 0); /* somebody began to use his session, or read his terminal, this very moment */
	look(w, &v);
	CU_ASSERT_TRUE(v.last_input_ns > first && v.last_input_ns + 1000000000 > before);
	source(w, "logind", &s);
	CU_ASSERT_STRING_EQUAL(s.text, "anna on seat0 active");
	first = v.last_input_ns;
	CU_ASSERT_TRUE(first > 0);
	say(0, 1, 1, 1, 1, 0, 3600); /* an hour of silence is no input, and takes none back */
	look(w, &v);
	CU_ASSERT_EQUAL(v.last_input_ns, first);
	source(w, "logind", &s);
	CU_ASSERT_STRING_EQUAL(s.text, "anna on seat0 idle, locked");
	idle_close(w);
}

static void test_lid_and_power(void)
{
	struct idle_watch *w = NULL;
	struct idle_source s;
	struct error e = {0};
	struct idle_view v;

	say(0, 0, 0, 0, 0, 0, 0);
	CU_ASSERT_EQUAL_FATAL(idle_open(&idle_rules_default, &w, &e), 0);
	look(w, &v);
	CU_ASSERT_TRUE(v.battery && !v.lid_closed);
	source(w, "power", &s);
	CU_ASSERT_STRING_EQUAL(s.text, "on battery, lid open");
	say(1, 1, 0, 0, 0, 0, 0);
	look(w, &v);
	CU_ASSERT_TRUE(v.lid_closed);
	source(w, "power", &s);
	CU_ASSERT_PTR_NOT_NULL(strstr(s.text, "lid closed"));
	idle_close(w);
}

/* A logind that is gone, and one that hangs: said, soon, and it is asked again. */
static void test_gone_and_back(void)
{
	struct idle_watch *w = NULL;
	struct idle_source s;
	struct error e = {0};
	struct idle_view v;

	say(0, 1, 1, 0, 0, 0, 10);
	CU_ASSERT_EQUAL_FATAL(idle_open(&idle_rules_default, &w, &e), 0);
	look(w, &v);
	kill(service_pid, SIGSTOP);
	look(w, &v);
	source(w, "logind", &s);
	CU_ASSERT_FALSE(s.readable);
	CU_ASSERT_TRUE(*s.text);
	kill(service_pid, SIGCONT);
	for (int i = 0; i < 600 && !s.readable; i++) { /* what it answers too late is not for us */
		look(w, &v);
		source(w, "logind", &s);
	}
	CU_ASSERT_TRUE(s.readable);
	kill(daemon_pid, SIGKILL);
	waitpid(daemon_pid, NULL, 0);
	look(w, &v);
	source(w, "logind", &s);
	CU_ASSERT_FALSE(s.readable);
	look(w, &v);
	source(w, "logind", &s);
	CU_ASSERT_PTR_NOT_NULL(strstr(s.text, "no system bus"));
	idle_close(w);
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "serve")) {
		file = argv[2];
		return serve();
	}
	if (system("command -v dbus-daemon >/dev/null")) {
		puts("skipped: dbus-daemon is not installed");
		return 77;
	}
	if (!bus_start()) {
		puts("no bus could be started");
		return EXIT_FAILURE;
	}
	CU_initialize_registry();
	CU_pSuite s = CU_add_suite("idle_logind", NULL, NULL);

	CU_add_test(s, "sessions", test_sessions);
	CU_add_test(s, "lid and power", test_lid_and_power);
	CU_add_test(s, "a bus that hangs or is gone", test_gone_and_back);
	CU_basic_run_tests();
	int failed = CU_get_number_of_failures();

	CU_cleanup_registry();
	bus_end();
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
