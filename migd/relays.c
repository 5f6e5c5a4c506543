// SPDX-License-Identifier: Apache-2.0
/* Questions to sprite-relay; see relays.h. */
#include "migd/relays.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/log.h"
#include "migd/context.h"
#include "migd/relay/half.h"
#include "migd/relay/wire.h"

enum { LISTEN_FD = 3, BACKLOG = 128, START_TRIES = 3, ANSWER_MS = 5000 };
_Static_assert(RELAY_FRAME_BUF >= RELAY_CHUNK + sizeof(struct relay_packet), "a frame fits");

struct relayd {
	pthread_mutex_t lock; /* one at a time starts it */
	const char *program;
	struct sockaddr_un addr;
	int owner; /* lock: the connection that says that we live */
	pid_t pid; /* lock: of the one that we started, 0: none */
};

struct relays {
	struct relayd *d;
	bool home;
	pthread_mutex_t lock;
	char name[RELAY_HUB_NAME_MAX];
	bool there;   /* lock: there is a hub */
	size_t count; /* lock */
};

/* ---- the process ---- */

/* One that is stopped, or hangs, is not waited for longer than that; 0: without end. */
static void wait_at_most(int s, uint64_t ms)
{
	struct timeval t = { .tv_sec = (time_t)(ms / 1000), .tv_usec = (suseconds_t)(ms % 1000 * 1000) };

	setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
	setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof(t)); /* connect(2), too */
}

static int wire_connect(const struct relayd *d)
{
	_cleanup_close_ int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (s >= 0)
		wait_at_most(s, ANSWER_MS);
	if (s < 0 || connect(s, (const struct sockaddr *)&d->addr, sizeof(d->addr)))
		return errno == EAGAIN ? -ETIME : -errno;
	return steal_fd(&s);
}

/* Asks over s. -ETIME: it does not answer. fd: to go along, or -1; *got: what came, may be NULL. */
static int ask_over(int s, struct relay_ask *a, int fd, struct relay_answer *r, int *got)
{
	ssize_t n;
	int err;

	a->version = RELAY_WIRE_VERSION;
	if (a->op == RELAY_OP_DRAIN || a->op == RELAY_OP_QUIESCE || a->op == RELAY_OP_HOLD)
		wait_at_most(s, ANSWER_MS + a->number);
	err = wire_send(s, a, sizeof(*a), NULL, 0, fd);
	if (err)
		return err == -EAGAIN ? -ETIME : err;
	n = wire_recv(s, r, sizeof(*r), got);
	return n == -EAGAIN ? -ETIME : n == sizeof(*r) ? r->result : n < 0 ? (int)n : -ECONNRESET;
}

static int listen_there(const struct relayd *d)
{
	_cleanup_close_ int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	unlink(d->addr.sun_path);
	if (s < 0 || bind(s, (const struct sockaddr *)&d->addr, sizeof(d->addr)) || chmod(d->addr.sun_path, 0600) || listen(s, BACKLOG))
		return -errno;
	return steal_fd(&s);
}

/* It finds its socket at descriptor 3, with who came first waiting there already. */
static int start(struct relayd *d)
{
	char *argv[] = { (char *)"sprite-relay", NULL };
	posix_spawn_file_actions_t files;
	_cleanup_close_ int s = listen_there(d);
	posix_spawnattr_t attr;
	sigset_t none;
	pid_t pid;
	int err;

	if (s < 0)
		return s;
	if (s == LISTEN_FD) { /* dup2() to itself would leave it close-on-exec */
		s = fcntl(s, F_DUPFD_CLOEXEC, LISTEN_FD + 1);
		close(LISTEN_FD);
	}
	sigemptyset(&none);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID);
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_adddup2(&files, s, LISTEN_FD);
	if (d->pid)
		waitpid(d->pid, NULL, WNOHANG);
	err = posix_spawn(&pid, d->program, &files, &attr, argv, environ);
	posix_spawn_file_actions_destroy(&files);
	posix_spawnattr_destroy(&attr);
	d->pid = err ? 0 : pid;
	return -err;
}

/* There is one, and it knows that we live. d->lock held. */
static int own(struct relayd *d)
{
	int err = 0;

	for (int i = 0; i < START_TRIES; i++) {
		struct relay_ask a = { .op = RELAY_OP_OWNER };
		struct relay_answer r;
		_cleanup_close_ int s = wire_connect(d);

		if (s == -ECONNREFUSED || s == -ENOENT) {
			err = start(d);
			if (err)
				return err;
			s = wire_connect(d);
		}
		err = s < 0 ? s : ask_over(s, &a, -1, &r, NULL);
		if (!err) {
			if (d->owner >= 0)
				close(d->owner);
			d->owner = steal_fd(&s);
			return 0;
		}
		/* else it was just about to end */
	}
	return err;
}

int relayd_open(struct migd *m, struct relayd **out, struct error *e)
{
	struct relayd *d = calloc(1, sizeof(*d));
	int err;

	if (!d)
		return error_set(e, ENOMEM, "out of memory");
	pthread_mutex_init(&d->lock, NULL);
	d->program = m->relay;
	d->owner = -1;
	d->addr.sun_family = AF_UNIX;
	*out = d;
	if (snprintf(d->addr.sun_path, sizeof(d->addr.sun_path), "%s/relay.sock", m->conf->run_dir) >= (int)sizeof(d->addr.sun_path))
		return error_set(e, ENAMETOOLONG, "%s: too long a name for a directory of sockets", m->conf->run_dir);
	err = own(d);
	if (err == -EPROTO) { /* left by an upgrade, with relays of families that are away: all else works */
		log_error("the sprite-relay that runs here is of another version: pipes and terminals of families away are cut, and no more are relayed, until it is killed");
		return 0;
	}
	if (err == -ETIME) {
		log_error("the sprite-relay that runs here does not answer: pipes and terminals of families away stand still, and no more are relayed");
		return 0;
	}
	return err ? error_set(e, -err, "%s cannot be started: %s", m->relay, strerror(-err)) : 0;
}

void relayd_close(struct relayd *d)
{
	if (!d)
		return;
	if (d->owner >= 0)
		close(d->owner);
	pthread_mutex_destroy(&d->lock);
	free(d);
}

/* One question; if nobody is there to hear it, and a new one will do, one is started. */
static int ask(struct relayd *d, struct relay_ask *a, int fd, struct relay_answer *r, int *got)
{
	_cleanup_close_ int s = wire_connect(d);

	if ((s == -ECONNREFUSED || s == -ENOENT) && a->op == RELAY_OP_MAKE) {
		pthread_mutex_lock(&d->lock);
		log_warn("sprite-relay was killed: what it had of relays is lost");
		own(d);
		pthread_mutex_unlock(&d->lock);
		s = wire_connect(d);
	}
	return s < 0 ? s : ask_over(s, a, fd, r, got);
}

void relayd_sweep(struct relayd *d)
{
	struct relay_ask a = { .op = RELAY_OP_SWEEP };
	struct relay_answer r;

	ask(d, &a, -1, &r, NULL);
}

/* ---- a family's ---- */

int relays_new(struct migd *m, bool home, struct relays **out)
{
	struct relays *r = calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	r->d = m->relayd;
	r->home = home;
	pthread_mutex_init(&r->lock, NULL);
	*out = r;
	return 0;
}

void relays_name(struct relays *r, const char *family, uint64_t gen)
{
	pthread_mutex_lock(&r->lock);
	if (r->home)
		snprintf(r->name, sizeof(r->name), "h:%s", family);
	else
		snprintf(r->name, sizeof(r->name), "g:%.127s:%llu", family, (unsigned long long)gen);
	pthread_mutex_unlock(&r->lock);
}

static bool is_there(struct relays *r)
{
	bool yes;

	pthread_mutex_lock(&r->lock);
	yes = r->there;
	pthread_mutex_unlock(&r->lock);
	return yes;
}

static int hub_ask(struct relays *r, struct relay_ask *a, int fd, int *got)
{
	struct relay_answer ans = { 0 };
	int err;

	strcpy(a->hub, r->name);
	err = ask(r->d, a, fd, &ans, got);
	if (a->op == RELAY_OP_WHOSE)
		a->id = ans.id;
	pthread_mutex_lock(&r->lock);
	if (ans.count)
		r->count = ans.count;
	if (err == -ECONNREFUSED || err == -ECONNRESET || (err == -ENOENT && a->op != RELAY_OP_ORIGINAL && a->op != RELAY_OP_WHOSE)) { /* it was killed: they are cut, and there is nothing to wait for */
		r->there = false;
		r->count = 0;
	}
	if (a->op == RELAY_OP_MAKE)
		r->there |= !err;
	pthread_mutex_unlock(&r->lock);
	return err;
}

static int plain(struct relays *r, enum relay_op op, uint64_t number, pid_t pid, uint32_t kind)
{
	struct relay_ask a = { .op = op, .number = number, .pid = pid, .kind = kind };

	int err = is_there(r) ? hub_ask(r, &a, -1, NULL) : 0;

	return is_there(r) ? err : 0;
}

void relays_close(struct relays *r)
{
	plain(r, RELAY_OP_FREE, 0, 0, 0);
	pthread_mutex_lock(&r->lock);
	r->there = false;
	pthread_mutex_unlock(&r->lock);
}

void relays_free(struct relays *r)
{
	if (!r)
		return;
	relays_close(r);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

static int make_hub(struct relays *r)
{
	struct relay_ask a = { .op = RELAY_OP_MAKE, .kind = r->home };

	return is_there(r) ? 0 : hub_ask(r, &a, -1, NULL);
}

void relays_find(struct relays *r)
{
	struct relay_ask a = { .op = RELAY_OP_FIND };

	if (hub_ask(r, &a, -1, NULL))
		return;
	pthread_mutex_lock(&r->lock);
	r->there = true;
	pthread_mutex_unlock(&r->lock);
}

size_t relays_count(const struct relays *r)
{
	return r ? r->count : 0;
}

int relays_add(struct relays *r, uint64_t id, enum relay_kind kind, int fd, pid_t holder)
{
	struct relay_ask a = { .op = RELAY_OP_ADD, .id = id, .kind = kind, .pid = holder };
	int err = make_hub(r);

	if (!err)
		err = hub_ask(r, &a, fd, NULL);
	close(fd);
	return err;
}

int relays_bear(struct relays *r, uint64_t gen, uint64_t id, enum relay_kind kind, int fd)
{
	bool was = is_there(r);
	int err = relays_add(r, id, kind, fd, 0);

	if (!err && !was) /* no link comes to a hub that knows of no generation */
		relays_reset(r, gen);
	return err;
}

static int get_fd(struct relays *r, struct relay_ask *a)
{
	int fd = -1, err = hub_ask(r, a, -1, &fd);

	if (err && fd >= 0)
		close(fd);
	return err ? err : fd < 0 ? -EBADF : fd;
}

int relays_original(struct relays *r, uint64_t id)
{
	struct relay_ask a = { .op = RELAY_OP_ORIGINAL, .id = id };

	return is_there(r) ? get_fd(r, &a) : -ENOENT;
}

int relays_make(struct relays *r, uint64_t id, enum relay_kind kind, const struct relay_net *net)
{
	struct relay_ask a = { .op = RELAY_OP_OPEN, .id = id, .kind = kind };
	int err = make_hub(r);

	if (net)
		a.net = *net;
	return err ? err : get_fd(r, &a);
}

void relays_taken(struct relays *r, uint64_t id)
{
	struct relay_ask a = { .op = RELAY_OP_TAKEN, .id = id };

	if (is_there(r))
		hub_ask(r, &a, -1, NULL);
}

int relays_make_born(struct relays *r, uint64_t id, enum relay_kind kind)
{
	struct relay_ask a = { .op = RELAY_OP_OPEN, .id = id, .kind = kind, .number = 1 };
	int err = make_hub(r);

	return err ? err : get_fd(r, &a);
}

int relays_whose(struct relays *r, uint64_t ino, uint64_t *id)
{
	struct relay_ask a = { .op = RELAY_OP_WHOSE, .number = ino };
	int err = is_there(r) ? hub_ask(r, &a, -1, NULL) : -ENOENT;

	*id = a.id;
	return err;
}

void relays_reset(struct relays *r, uint64_t gen)
{
	plain(r, RELAY_OP_RESET, gen, 0, 0);
}

void relays_unread(struct relays *r)
{
	plain(r, RELAY_OP_UNREAD, 0, 0, 0);
}

void relays_left(struct relays *r, pid_t pid, bool ended)
{
	plain(r, RELAY_OP_LEFT, 0, pid, ended);
}

void relays_back(struct relays *r, pid_t pid)
{
	plain(r, RELAY_OP_BACK, 0, pid, 0);
}

void relays_down(struct relays *r)
{
	plain(r, RELAY_OP_DOWN, 0, 0, 0);
}

int relays_drain(struct relays *r, int timeout_ms)
{
	return relays_count(r) ? plain(r, RELAY_OP_DRAIN, timeout_ms, 0, 0) : 0;
}

int relays_quiesce(struct relays *r, int timeout_ms)
{
	int err = relays_count(r) ? plain(r, RELAY_OP_QUIESCE, timeout_ms, 0, 0) : 0;

	return err == -ENOENT || err == -ECONNREFUSED ? 0 : err; /* sprite-relay was killed: what it had is lost, and there is nothing to wait for */
}

int relays_hold(struct relays *r, int timeout_ms)
{
	return relays_count(r) ? plain(r, RELAY_OP_HOLD, timeout_ms, 0, 0) : 0;
}

void relays_resume(struct relays *r)
{
	plain(r, RELAY_OP_RESUME, 0, 0, 0);
}

/* ---- the link ---- */

int relays_link(struct relays *r, uint64_t gen)
{
	struct relay_ask a = { .op = RELAY_OP_LINK, .number = gen };
	struct relay_answer ans;
	_cleanup_close_ int s = -1;
	int err;

	strcpy(a.hub, r->name);
	for (int i = 0; i < 2; i++) {
		s = wire_connect(r->d);
		err = s < 0 ? s : ask_over(s, &a, -1, &ans, NULL);
		if (!err) {
			wait_at_most(s, 0); /* from here on it carries frames, and what is not read waits */
			return steal_fd(&s);
		}
		if (!r->home || (err != -ENOENT && err != -ECONNREFUSED))
			break;
		if (s >= 0)
			close(steal_fd(&s));
		pthread_mutex_lock(&r->lock);
		r->there = false;
		pthread_mutex_unlock(&r->lock);
		make_hub(r);
		relays_reset(r, gen);
	}
	return err;
}

int relay_frame_send(int link, const struct relay_frame *f)
{
	struct relay_packet p = { .id = f->id, .offset = f->offset, .kind = f->kind, .len = f->len };

	return f->len > RELAY_CHUNK ? -EPROTO : wire_send(link, &p, sizeof(p), f->data, f->len, -1);
}

int relay_frame_recv(int link, void *buf, struct relay_frame *f)
{
	ssize_t n = wire_recv(link, buf, RELAY_FRAME_BUF, NULL);
	struct relay_packet p;

	if (n <= 0)
		return (int)n;
	if (n < (ssize_t)sizeof(p))
		return -EPROTO;
	memcpy(&p, buf, sizeof(p));
	*f = (struct relay_frame){ .id = p.id, .offset = p.offset, .kind = p.kind, .data = (char *)buf + sizeof(p), .len = n - sizeof(p) };
	return 1;
}
