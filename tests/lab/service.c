/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemons of a node, as a small systemd would run them: started in order, ready when they say READY=1 on $NOTIFY_SOCKET, their control socket takes
 * connections and their mount is there; not started again when they end (tests want to see that).
 *
 *   STOPPED/ENDED -> STARTING -> READY -> ENDED        MISSING: the program is not there
 */
#include "server.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#define NOTIFY_PATH "/run/sprite-lab.notify"
#define START_MAX   120000 /* ms: what hangs, not what is slow */
#define STOP_MAX    30000
#define SANITIZER_EXIT 99 /* what `make asan` tells sanitizers to exit with when they have found something */

extern char **environ;

static const char *const state_names[] = {"stopped", "starting", "ready", "ended", "missing"};

void services_init(struct server *s)
{
	static const struct service on_server[] = {{.name = "spritefsd", .after = -1}};
	static const struct service on_workstation[] = {{.name = "spritefsd", .after = -1}, {.name = "spritefs", .mount = "/sprite", .after = -1},
		{.name = "migd", .after = 1}};
	struct sockaddr_un un = {.sun_family = AF_UNIX, .sun_path = NOTIFY_PATH};
	int on = 1;

	s->nservices = s->o->node->server ? ARRAY_SIZE(on_server) : ARRAY_SIZE(on_workstation);
	memcpy(s->service, s->o->node->server ? on_server : on_workstation, s->nservices * sizeof(struct service));
	s->notify = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (s->notify < 0 || setsockopt(s->notify, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0 ||
		bind(s->notify, (struct sockaddr *)&un, sizeof(un)) < 0) {
		close(s->notify);
		s->notify = -1;
	}
	if (!s->o->node->server)
		s->console = console_open(NULL);
}

struct service *service_find(struct server *s, const char *name)
{
	for (size_t i = 0; i < s->nservices; i++)
		if (strcmp(s->service[i].name, name) == 0)
			return &s->service[i];
	return NULL;
}

/* Environment of a daemon: nothing of the caller's but what sanitizers and our own switches read. */
static char **daemon_env(const struct server *s, const struct service *v)
{
	static const char *const pass[] = {"ASAN_OPTIONS=", "UBSAN_OPTIONS=", "TSAN_OPTIONS=", "LSAN_OPTIONS=", "SPRITE_LOG=", "GRPC_"};
	char **env = xcalloc(64, sizeof(char *));
	size_t n = 0;
	/* 61 s per node, by turns ahead and behind (less than the time namespace's offset, so no clock falls below zero) */
	int offset = s->o->node->index * 61000 * (s->o->node->index % 2 ? 1 : -1);

	env[n++] = xasprintf("PATH=" LAB_BIN ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
	env[n++] = xasprintf("HOME=/root");
	env[n++] = xasprintf("LANG=C.UTF-8");
	env[n++] = xasprintf("NOTIFY_SOCKET=" NOTIFY_PATH);
	env[n++] = xasprintf("SPRITE_CLOCK_OFFSET_MS=%d", offset);
	for (char **p = environ; *p; p++)
		for (size_t i = 0; i < ARRAY_SIZE(pass); i++)
			if (strncmp(*p, pass[i], strlen(pass[i])) == 0 && n < 32)
				env[n++] = *p;
	for (char **p = v->env; p && *p && n < 63; p++) { /* these win */
		size_t name = strcspn(*p, "="), i;
		for (i = 0; i < n && (strncmp(env[i], *p, name) != 0 || env[i][name] != '='); i++)
			;
		env[i] = *p;
		n += i == n;
	}
	return env;
}

static void __attribute__((noreturn)) daemon_child(const struct server *s, const struct service *v)
{
	_cleanup_free_ char *program = xasprintf(LAB_BIN "/%s", v->name), *log = xasprintf("/var/log/sprite/%s.log", v->name);
	char *const argv[] = {program, "--config", "/etc/sprite/sprite.conf", NULL};
	const struct rlimit files = {65536, 524288};
	int null = open("/dev/null", O_RDWR), out = open(log, O_WRONLY | O_CREAT | O_APPEND, 0644);
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	setsid();
	setrlimit(RLIMIT_NOFILE, &files);
	dup2(null, 0);
	dup2(out, 1);
	dup2(out, 2);
	close_range(3, ~0u, 0);
	if (chdir("/") == 0)
		execve(program, argv, daemon_env(s, v));
	dprintf(2, "sprite-lab: %s: %s\n", program, strerror(errno));
	_exit(127);
}

int service_start(struct server *s, struct service *v, struct error *e)
{
	_cleanup_free_ char *program = xasprintf(LAB_BIN "/%s", v->name);

	v->boot = false;
	if (access(program, X_OK) < 0) {
		v->state = SERVICE_MISSING;
		return error_set(e, ENOENT, "%s: not built", program);
	}
	v->pid = fork();
	if (v->pid == 0)
		daemon_child(s, v);
	if (v->pid < 0) {
		v->pid = 0;
		v->state = SERVICE_ENDED;
		return error_set(e, errno, "fork: %s", strerror(errno));
	}
	v->state = SERVICE_STARTING;
	v->since = now_ms();
	v->told = v->killed = false;
	return 0;
}

void services_boot(struct server *s)
{
	for (size_t i = 0; i < s->nservices; i++)
		s->service[i].boot = s->service[i].pid == 0;
}

static bool socket_answers(const struct service *v)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	bool yes;

	snprintf(un.sun_path, sizeof(un.sun_path), "/run/sprite/%s.sock", v->name);
	yes = fd >= 0 && connect(fd, (struct sockaddr *)&un, sizeof(un)) == 0;
	if (fd >= 0)
		close(fd);
	return yes;
}

/* From the kernel's table: a stat could hang in a filesystem that does not answer. */
static bool mount_there(const char *where)
{
	_cleanup_fclose_ FILE *f = fopen("/proc/self/mountinfo", "re");
	char line[4096], point[1024];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "%*s %*s %*s %*s %1023s", point) == 1 && strcmp(point, where) == 0 && strstr(line, " - fuse"))
			return true;
	return false;
}

static bool answers(const struct service *v)
{
	return v->told && socket_answers(v) && (!v->mount || mount_there(v->mount));
}

/* Ends the daemons one by one, the last started first. */
static void stop_step(struct server *s)
{
	struct service *v;

	while (s->stopping > 0) {
		v = &s->service[s->stopping - 1];
		v->boot = false;
		if (v->pid && !s->stop_since) {
			v->killed = true;
			kill(v->pid, SIGTERM);
			kill(-v->pid, SIGCONT); /* a test may have stopped it, or a child of it */
			s->stop_since = now_ms();
		} else if (v->pid && now_ms() - s->stop_since > STOP_MAX) {
			v->killed = false; /* it did not listen: that is to complain of */
			kill(v->pid, SIGKILL);
			s->stop_since = now_ms();
		}
		if (v->pid)
			return;
		s->stopping--;
		s->stop_since = 0;
	}
	s->stopping = -1;
}

void services_step(struct server *s)
{
	for (size_t i = 0; i < s->nservices; i++) {
		struct service *v = &s->service[i], *before = v->after >= 0 ? &s->service[v->after] : NULL;

		if (v->state == SERVICE_STARTING && answers(v))
			v->state = SERVICE_READY;
		if (v->state == SERVICE_STARTING && now_ms() - v->since > START_MAX)
			kill(v->pid, SIGKILL);
		if (v->boot && (!before || (!before->boot && before->state != SERVICE_STARTING)))
			service_start(s, v, NULL);
	}
	if (s->stopping >= 0)
		stop_step(s);
}

bool services_settled(const struct server *s)
{
	for (size_t i = 0; i < s->nservices; i++)
		if (s->service[i].boot || s->service[i].state == SERVICE_STARTING)
			return false;
	return true;
}

bool services_pending(const struct server *s)
{
	return s->stopping >= 0 || !services_settled(s);
}

void services_told(struct server *s)
{
	char buf[4096], control[CMSG_SPACE(sizeof(struct ucred))];
	struct iovec iov = {.iov_base = buf, .iov_len = sizeof(buf) - 1};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(s->notify, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	struct cmsghdr *h = n > 0 ? CMSG_FIRSTHDR(&m) : NULL;
	struct ucred who;

	if (!h || h->cmsg_type != SCM_CREDENTIALS)
		return;
	buf[n] = 0;
	memcpy(&who, CMSG_DATA(h), sizeof(who));
	for (size_t i = 0; i < s->nservices; i++)
		if (s->service[i].pid == who.pid && strstr(buf, "READY=1"))
			s->service[i].told = true;
}

/* Was it started to kill itself at some step (SPRITE_FAULT)? */
static bool asked_to_die(const struct service *v)
{
	for (char **p = v->env; p && *p; p++)
		if (!strncmp(*p, "SPRITE_FAULT=", 13))
			return true;
	return false;
}

bool services_ended(struct server *s, pid_t pid, int status)
{
	for (size_t i = 0; i < s->nservices; i++) {
		struct service *v = &s->service[i];

		if (v->pid != pid)
			continue;
		v->pid = 0;
		v->status = status;
		v->state = SERVICE_ENDED;
		if (WIFSIGNALED(status) ? !v->killed && !(WTERMSIG(status) == SIGKILL && asked_to_die(v)) : WEXITSTATUS(status) == SANITIZER_EXIT)
			v->crash = status;
		return true;
	}
	return false;
}

json_t *services_rows(const struct server *s)
{
	json_t *rows = json_array();

	for (size_t i = 0; i < s->nservices; i++) {
		const struct service *v = &s->service[i];
		bool bad = v->crash || (v->state == SERVICE_ENDED && v->status != 0 && !(v->killed && WIFSIGNALED(v->status)));

		json_array_append_new(rows, json_pack("{s:s, s:s, s:i, s:i, s:b}", "name", v->name, "state", state_names[v->state], "pid", v->pid, "status",
						    v->crash ? v->crash : v->status, "failed", bad));
	}
	return rows;
}
