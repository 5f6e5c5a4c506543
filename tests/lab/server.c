/* SPDX-License-Identifier: Apache-2.0 */
/* The loop of a lab's pid 1s; see server.h for what they answer. One thread; nothing in it blocks: no call here may touch /sprite. */
#include "server.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

#define PACKET_MAX (1 << 20)
#define FDS_MAX	   3

uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000ull + t.tv_nsec / 1000000;
}

int server_listen(const char *path, struct error *e)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
	if (fd >= 0 && bind(fd, (struct sockaddr *)&un, sizeof(un)) == 0 && listen(fd, 64) == 0)
		return fd;
	error_set(e, errno, "%s: %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
	return -e->code;
}

void conn_answer(struct conn *c, json_t *answer)
{
	client_send(c->fd, answer, NULL, 0); /* if it has hung up the loop will see */
}

void conn_fail(struct conn *c, const char *fmt, ...)
{
	char text[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	conn_answer(c, json_pack("{s:b, s:s}", "ok", 0, "error", text));
}

static void conn_close(struct conn *c)
{
	close(c->fd);
	list_del(&c->link);
	free(c);
}

/* ---- requests ------------------------------------------------------------------------------------- */

static void on_exec(struct server *s, struct conn *c, json_t *request, const int *fds, size_t nfds)
{
	struct error e = {0};
	int master = -1, rc = job_start(c, request, fds, nfds, &master, &e);

	(void)s;
	if (rc < 0) {
		conn_fail(c, "%s", e.text);
		return;
	}
	client_send(c->fd, json_pack("{s:b, s:i}", "ok", 1, "pid", c->job), &master, master >= 0);
	if (master >= 0)
		close(master);
}

static void on_start(struct server *s, struct conn *c, json_t *request)
{
	const char *name = json_string_value(json_object_get(request, "daemon"));
	struct service *v = name ? service_find(s, name) : NULL;
	json_t *env = json_object_get(request, "env"), *item;
	struct error e = {0};
	size_t i;

	if (!v) {
		conn_fail(c, "no daemon %s on this node", name ? name : "?");
		return;
	}
	if (v->pid) {
		conn_fail(c, "%s runs already (process %d)", name, v->pid);
		return;
	}
	for (i = 0; v->env && v->env[i]; i++)
		free(v->env[i]);
	free(v->env);
	v->env = xcalloc(json_array_size(env) + 1, sizeof(char *));
	json_array_foreach(env, i, item)
		v->env[i] = xasprintf("%s", json_string_value(item));
	if (service_start(s, v, &e) < 0)
		conn_fail(c, "%s", e.text);
	else
		c->waits_start = v->name;
}

enum { KILL_MAX = 10000 }; /* ms */

static void on_kill(struct server *s, struct conn *c, json_t *request)
{
	const char *name = json_string_value(json_object_get(request, "daemon"));
	int sig = json_integer_value(json_object_get(request, "signal"));
	struct service *v = name ? service_find(s, name) : NULL;

	if (!v)
		conn_fail(c, "no daemon %s on this node", name ? name : "?");
	else if (!v->pid)
		conn_fail(c, "%s does not run", name);
	else if (kill(v->pid, sig) < 0)
		conn_fail(c, "%s: %s", name, strerror(errno));
	else {
		v->killed = true;
		if (sig == SIGKILL) { /* answered when it is gone: the next command may be `start` */
			c->waits_end = v->pid;
			c->kill_until = now_ms() + KILL_MAX;
		} else {
			conn_answer(c, json_pack("{s:b}", "ok", 1));
		}
	}
}

static void on_input(struct server *s, struct conn *c)
{
	struct error e = {0};

	if (s->console < 0)
		s->console = console_open(&e);
	if (s->console < 0)
		conn_fail(c, "%s", e.text);
	else if (write(s->console, "k", 1) != 1)
		conn_fail(c, "console: %s", strerror(errno));
	else
		conn_answer(c, json_pack("{s:b}", "ok", 1));
}

static void on_request(struct server *s, struct conn *c, json_t *request, const int *fds, size_t nfds)
{
	const char *verb = json_string_value(json_object_get(request, "verb"));
	json_t *signal = json_object_get(request, "signal");

	if (!verb && signal && c->job) {
		int sig = json_integer_value(signal);
		/* what a terminal's keys send goes to the whole group, as there */
		kill(sig == SIGINT || sig == SIGQUIT ? -c->job : c->job, sig);
	} else if (!verb) {
		conn_fail(c, "no verb");
	} else if (strcmp(verb, "exec") == 0) {
		on_exec(s, c, request, fds, nfds);
	} else if (strcmp(verb, "boot") == 0) {
		services_boot(s);
		c->waits_boot = true;
	} else if (strcmp(verb, "start") == 0) {
		on_start(s, c, request);
	} else if (strcmp(verb, "kill") == 0) {
		on_kill(s, c, request);
	} else if (strcmp(verb, "status") == 0) {
		conn_answer(c, json_pack("{s:b, s:o}", "ok", 1, "daemons", services_rows(s)));
	} else if (strcmp(verb, "stop") == 0) {
		c->waits_stop = true;
		if (s->stopping < 0) {
			s->stopping = s->nservices;
			s->stop_since = 0;
		}
	} else if (strcmp(verb, "input") == 0) {
		on_input(s, c);
	} else {
		conn_fail(c, "unknown verb %s", verb);
	}
}

static void on_packet(struct server *s, struct conn *c)
{
	static char buf[PACKET_MAX];
	char control[CMSG_SPACE(FDS_MAX * sizeof(int))];
	struct iovec iov = {.iov_base = buf, .iov_len = sizeof(buf)};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(c->fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	int fds[FDS_MAX];
	size_t nfds = 0;
	json_t *request;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		conn_close(c); /* its command, if any, runs on: as one that nohup'ed */
		return;
	}
	for (struct cmsghdr *h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h)) {
		if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
			continue;
		nfds = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		memcpy(fds, CMSG_DATA(h), nfds * sizeof(int));
	}
	request = json_loadb(buf, n, 0, NULL);
	if (request)
		on_request(s, c, request, fds, nfds);
	else
		conn_fail(c, "not JSON");
	json_decref(request);
	for (size_t i = 0; i < nfds; i++)
		close(fds[i]);
}

/* ---- the loop -------------------------------------------------------------------------------------- */

static void reap(struct server *s)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		struct conn *c;

		if (services_ended(s, pid, status))
			continue;
		for (struct list *l = s->conns.next; l != &s->conns; l = l->next) {
			c = container_of(l, struct conn, link);
			if (c->job == pid) {
				conn_answer(c, json_pack("{s:i}", "status", status));
				c->job = 0;
				break;
			}
		}
	}
}

static void kill_all(void)
{
	kill(-1, SIGKILL);
	while (waitpid(-1, NULL, 0) > 0 || errno == EINTR)
		;
}

static bool service_runs(const struct server *s, pid_t pid)
{
	for (size_t i = 0; i < s->nservices; i++)
		if (s->service[i].pid == pid)
			return true;
	return false;
}

/* Answers those who wait for states. */
static void answer_waiters(struct server *s)
{
	for (struct list *l = s->conns.next; l != &s->conns; l = l->next) {
		struct conn *c = container_of(l, struct conn, link);

		if (c->waits_boot && services_settled(s)) {
			c->waits_boot = false;
			conn_answer(c, json_pack("{s:b, s:o}", "ok", 1, "daemons", services_rows(s)));
		}
		if (c->waits_stop && s->stopping < 0) {
			c->waits_stop = false;
			conn_answer(c, json_pack("{s:b, s:o}", "ok", 1, "daemons", services_rows(s)));
		}
		if (c->waits_end && (!service_runs(s, c->waits_end) || now_ms() > c->kill_until)) {
			c->waits_end = 0;
			conn_answer(c, json_pack("{s:b}", "ok", 1));
		}
		if (c->waits_start) {
			struct service *v = service_find(s, c->waits_start);
			if (v->state == SERVICE_STARTING)
				continue;
			c->waits_start = NULL;
			if (v->state == SERVICE_READY)
				conn_answer(c, json_pack("{s:b}", "ok", 1));
			else
				conn_fail(c, "%s ended (status 0x%x): see its log", v->name, v->status);
		}
	}
}

static void accept_one(struct server *s)
{
	int fd = accept4(s->o->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct conn *c;

	if (fd < 0)
		return;
	c = xcalloc(1, sizeof(*c));
	c->fd = fd;
	list_add_tail(&s->conns, &c->link);
}

/* The leash: a byte frees us, and the lab is anybody's; end of file means that `up` died. SIGTERM ends a lab too. */
static bool leash_broken(struct server *s, int *leash)
{
	char byte;
	ssize_t n = read(*leash, &byte, 1);

	if (n < 0)
		return false;
	close(*leash);
	*leash = -1;
	if (n > 0)
		close(s->o->lock);
	return n == 0;
}

static bool on_signals(struct server *s)
{
	struct signalfd_siginfo si;
	bool term = false;

	while (read(s->signals, &si, sizeof(si)) == sizeof(si))
		term |= si.ssi_signo == SIGTERM;
	reap(s);
	return term;
}

void server_run(const struct server_options *o)
{
	struct server s = {.o = o, .notify = -1, .console = -1, .stopping = -1};
	int leash = o->leash;
	sigset_t set;

	list_init(&s.conns);
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	s.signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (o->node)
		services_init(&s);
	for (;;) {
		struct pollfd p[4 + 512];
		struct conn *of[4 + 512];
		bool waits = false;
		nfds_t n = 4;

		p[0] = (struct pollfd){.fd = o->listener, .events = POLLIN};
		p[1] = (struct pollfd){.fd = s.signals, .events = POLLIN};
		p[2] = (struct pollfd){.fd = s.notify, .events = POLLIN};
		p[3] = (struct pollfd){.fd = leash, .events = POLLIN};
		for (struct list *l = s.conns.next; l != &s.conns && n < ARRAY_SIZE(p); l = l->next) {
			of[n] = container_of(l, struct conn, link);
			p[n] = (struct pollfd){.fd = of[n]->fd, .events = POLLIN};
			waits |= of[n]->waits_end != 0;
			n++;
		}
		if (poll(p, n, services_pending(&s) ? 5 : waits ? 100 : -1) < 0 && errno != EINTR)
			continue;
		if (p[1].revents && on_signals(&s)) {
			kill_all();
			if (o->abandon)
				o->abandon(o->arg);
			_exit(0);
		}
		if (p[3].revents && leash_broken(&s, &leash)) {
			kill_all();
			o->abandon(o->arg);
			_exit(1);
		}
		if (p[2].revents)
			services_told(&s);
		for (nfds_t i = 4; i < n; i++)
			if (p[i].revents)
				on_packet(&s, of[i]);
		if (p[0].revents)
			accept_one(&s);
		services_step(&s);
		answer_waiters(&s);
	}
}
