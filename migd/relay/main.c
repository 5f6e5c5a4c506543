// SPDX-License-Identifier: Apache-2.0
/*
 * sprite-relay: one process on each host, started by migd and outliving it: it holds the ends of all pipes and terminals that are relayed, with what has been read
 * and not been acknowledged. migd only carries frames: one that is killed, at any instruction, loses none but those that are sent again (wire.h, hub.h).
 *
 * The listening socket is descriptor 3. A thread for each connection. It ends when there is neither a hub nor a migd; whoever kills it before cuts the relays:
 * the family sees what it would see if those at the other end had been killed.
 *
 * Locking: `lock` guards the list of hubs and the counts; a hub that is taken out of the list is freed by the last thread that works on it.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/daemon.h"
#include "conf/list.h"
#include "conf/log.h"
#include "migd/relay/half.h"
#include "migd/relay/hub.h"
#include "migd/relay/wire.h"

enum { LISTEN_FD = 3, STACK = 512 << 10, FILES_MAX = 65536, AGAIN_US = 10000 };

struct entry {
	struct list node;
	char name[RELAY_HUB_NAME_MAX];
	struct relay_hub *hub;
	unsigned refs;	    /* lock; one is the list's */
	unsigned long owner; /* lock: the last migd that has asked for it */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct list hubs = LIST_INIT(hubs); /* lock */
static unsigned long owner;		    /* lock: how many migds there have been */
static unsigned owners;			    /* lock: ... and are */

/* ---- hubs by name ---- */

/* Lock held. */
static struct entry *look(const char *name)
{
	struct entry *e;

	list_each(e, &hubs, node)
		if (!strcmp(e->name, name))
			return e;
	return NULL;
}

static struct entry *entry_get(const char *name)
{
	struct entry *e;

	pthread_mutex_lock(&lock);
	e = look(name);
	if (e) {
		e->refs++;
		e->owner = owner;
	}
	pthread_mutex_unlock(&lock);
	return e;
}

static void entry_put(struct entry *e)
{
	bool last;

	pthread_mutex_lock(&lock);
	last = --e->refs == 0;
	pthread_mutex_unlock(&lock);
	if (!last)
		return;
	hub_free(e->hub);
	free(e);
}

static int entry_make(const char *name, bool home)
{
	struct entry *e = entry_get(name);
	int err;

	if (e) {
		entry_put(e);
		return 0;
	}
	e = calloc(1, sizeof(*e));
	err = e ? hub_new(home, &e->hub) : -ENOMEM;
	if (err) {
		free(e);
		return err;
	}
	strcpy(e->name, name);
	e->refs = 1;
	pthread_mutex_lock(&lock);
	if (look(name)) { /* in this very moment */
		pthread_mutex_unlock(&lock);
		entry_put(e);
		return 0;
	}
	e->owner = owner;
	list_add_tail(&hubs, &e->node);
	pthread_mutex_unlock(&lock);
	return 0;
}

/* Frees the hub of that name, or (NULL) all that the migd of now has not asked for. */
static void entries_free(const char *name)
{
	struct list gone = LIST_INIT(gone);
	struct entry *e, *next;
	struct list *n;

	pthread_mutex_lock(&lock);
	list_each_safe(e, next, &hubs, node)
		if (name ? !strcmp(e->name, name) : e->owner != owner) {
			list_del(&e->node);
			list_add_tail(&gone, &e->node);
		}
	pthread_mutex_unlock(&lock);
	while ((n = list_pop(&gone))) {
		e = list_entry(n, struct entry, node);
		hub_down(e->hub);
		entry_put(e);
	}
}

/* ---- a link ---- */

struct link {
	int sock;
	unsigned char buf[sizeof(struct relay_packet) + RELAY_CHUNK];
};

static int link_send(void *ctx, const struct relay_frame *f)
{
	struct relay_packet p = { .id = f->id, .offset = f->offset, .kind = f->kind, .len = f->len };
	const struct link *l = ctx;

	return wire_send(l->sock, &p, sizeof(p), f->data, f->len, -1);
}

static int link_input(struct relay_hub *h, struct link *l, ssize_t n)
{
	struct relay_packet p;
	struct relay_frame f;

	if (n < (ssize_t)sizeof(p))
		return -EPROTO;
	memcpy(&p, l->buf, sizeof(p));
	if (p.len != n - sizeof(p) || p.kind >= RF_KINDS)
		return -EPROTO;
	f = (struct relay_frame){ .id = p.id, .kind = p.kind, .offset = p.offset, .data = l->buf + sizeof(p), .len = p.len };
	return hub_input(h, l, &f);
}

static void link_serve(struct entry *e, int sock, const struct relay_ask *a)
{
	struct relay_answer ok = { .count = hub_count(e->hub) };
	struct link *l = malloc(sizeof(*l));
	ssize_t n;
	int err;

	if (l)
		l->sock = sock;
	/* The answer goes first: from hub_up() on the hub's thread sends. */
	ok.result = l ? 0 : -ENOMEM;
	if (wire_send(sock, &ok, sizeof(ok), NULL, 0, -1) || !l) {
		free(l);
		return;
	}
	err = hub_up(e->hub, a->number, &(struct relay_link){ link_send, l });
	while (!err && (n = wire_recv(sock, l->buf, sizeof(l->buf), NULL)) > 0)
		err = link_input(e->hub, l, n);
	if (err == -EPROTO)
		log_warn("%s: a frame that makes no sense", e->name);
	shutdown(sock, SHUT_RDWR); /* a thread that sends there ends */
	hub_leave(e->hub, l);
	free(l);
}

/* ---- questions ---- */

/* Returns 0 or -errno; *out: a descriptor, *id: a number for the answer. in: one that came, ours. */
static int carry_out(struct entry *e, const struct relay_ask *a, int *in, int *out, uint64_t *id)
{
	struct relay_hub *h = e->hub;
	int fd;

	switch (a->op) {
	case RELAY_OP_FIND:
		return 0;
	case RELAY_OP_ADD:
		return *in < 0 ? -EBADF : hub_add(h, a->id, a->kind, steal_fd(in), a->pid);
	case RELAY_OP_ORIGINAL:
	case RELAY_OP_OPEN:
		fd = a->op == RELAY_OP_OPEN ? hub_make(h, a->id, a->kind, &a->net) : hub_original(h, a->id);
		*out = fd;
		if (fd >= 0 && a->op == RELAY_OP_OPEN && a->number)
			hub_keep(h, a->id, fd);
		return fd < 0 ? fd : 0;
	case RELAY_OP_RESET:
		hub_reset(h, a->number);
		return 0;
	case RELAY_OP_UNREAD:
		hub_unread(h);
		return 0;
	case RELAY_OP_LEFT:
		hub_left(h, a->pid, a->kind);
		return 0;
	case RELAY_OP_BACK:
		hub_back(h, a->pid);
		return 0;
	case RELAY_OP_DRAIN:
		return hub_drain(h, (int)a->number);
	case RELAY_OP_QUIESCE:
		return hub_quiesce(h, (int)a->number);
	case RELAY_OP_RESUME:
		hub_resume(h);
		return 0;
	case RELAY_OP_HOLD:
		return hub_hold(h, (int)a->number);
	case RELAY_OP_WHOSE:
		return hub_whose(h, a->number, id);
	case RELAY_OP_DOWN:
		hub_down(h);
		return 0;
	case RELAY_OP_TAKEN:
		hub_taken(h, a->id);
		return 0;
	default:
		return -ENOSYS;
	}
}

static void answer(int sock, int result, size_t count, int fd, uint64_t id)
{
	struct relay_answer r = { .result = result, .count = count, .id = id };

	wire_send(sock, &r, sizeof(r), NULL, 0, fd);
}

static void ask_hub(int sock, const struct relay_ask *a, int *in)
{
	struct entry *e = entry_get(a->hub);
	_cleanup_close_ int out = -1;
	uint64_t id = 0;
	int r;

	if (!e) {
		answer(sock, -ENOENT, 0, -1, 0);
		return;
	}
	if (a->op == RELAY_OP_LINK) {
		link_serve(e, sock, a);
	} else {
		r = carry_out(e, a, in, &out, &id);
		answer(sock, r, hub_count(e->hub), out, id);
	}
	entry_put(e);
}

static void owner_serve(int sock)
{
	char junk;

	pthread_mutex_lock(&lock);
	owner++;
	owners++;
	pthread_mutex_unlock(&lock);
	answer(sock, 0, 0, -1, 0);
	while (wire_recv(sock, &junk, 1, NULL) > 0)
		;
	pthread_mutex_lock(&lock);
	owners--;
	pthread_mutex_unlock(&lock);
}

/* Not a question but what has come to pass: a migd that is killed meanwhile has said it, and the next one does not know that it was not heard. */
static bool is_told(uint32_t op)
{
	switch (op) {
	case RELAY_OP_FREE:
	case RELAY_OP_SWEEP:
	case RELAY_OP_RESET:
	case RELAY_OP_UNREAD:
	case RELAY_OP_LEFT:
	case RELAY_OP_BACK:
	case RELAY_OP_RESUME:
	case RELAY_OP_DOWN:
	case RELAY_OP_TAKEN:
		return true;
	default:
		return false;
	}
}

/* Who asked has given up (we were stopped, say): what it wanted made, or handed out, nobody would take, and what was to stand still until it says otherwise would do so for ever. */
static bool is_gone(int sock)
{
	struct pollfd p = { .fd = sock };

	return poll(&p, 1, 0) > 0 && p.revents & (POLLHUP | POLLERR);
}

static void serve(int sock)
{
	struct relay_ask a;
	_cleanup_close_ int in = -1;
	ssize_t n = wire_recv(sock, &a, sizeof(a), &in);

	if (n != sizeof(a) || a.version != RELAY_WIRE_VERSION || !memchr(a.hub, 0, sizeof(a.hub))) {
		answer(sock, -EPROTO, 0, -1, 0);
		return;
	}
	if (!is_told(a.op) && is_gone(sock))
		return;
	switch (a.op) {
	case RELAY_OP_OWNER:
		owner_serve(sock);
		break;
	case RELAY_OP_MAKE:
		answer(sock, entry_make(a.hub, a.kind), 0, -1, 0);
		break;
	case RELAY_OP_FREE:
	case RELAY_OP_SWEEP:
		entries_free(a.op == RELAY_OP_FREE ? a.hub : NULL);
		answer(sock, 0, 0, -1, 0);
		break;
	default:
		ask_hub(sock, &a, &in);
	}
}

/* Nobody needs us, and nobody is about to: a migd that has found the socket is in its queue by now, or finds it closed. */
static void end_if_idle(void)
{
	struct pollfd p = { .fd = LISTEN_FD, .events = POLLIN };

	pthread_mutex_lock(&lock);
	if (!owners && list_empty(&hubs) && owner && poll(&p, 1, 0) == 0)
		_exit(0);
	pthread_mutex_unlock(&lock);
}

static void *connection_main(void *arg)
{
	int sock = (int)(intptr_t)arg;

	serve(sock);
	close(sock);
	end_if_idle();
	return NULL;
}

static bool from_root(int sock)
{
	struct ucred c;
	socklen_t n = sizeof(c);

	return !getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &c, &n) && !c.uid;
}

static bool listens(int fd)
{
	socklen_t n = sizeof(int);
	int on = 0;

	return !getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &n) && on;
}

int main(int argc, char **argv)
{
	static const char usage[] = "usage: sprite-relay\n"
				    "Holds the ends of pipes, sockets and terminals between jobs and their homes. Started by migd, with its socket as descriptor 3. Details: sprite-relay(8)\n";
	struct rlimit files = { FILES_MAX, FILES_MAX };
	pthread_attr_t attr;
	pthread_t t;

	if (daemon_part_asked(argc, argv, "sprite-relay", usage))
		return 0;
	if (argc > 1 || !listens(LISTEN_FD)) {
		fputs(usage, stderr);
		return 64;
	}
	log_init("sprite-relay");
	log_leave_pipe();
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	setrlimit(RLIMIT_NOFILE, &files);
	if (chdir("/"))
		log_warn("cannot change to /: %s", strerror(errno));
	fcntl(LISTEN_FD, F_SETFD, FD_CLOEXEC);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	for (;;) {
		int sock = accept4(LISTEN_FD, NULL, NULL, SOCK_CLOEXEC);

		if (sock < 0 && (errno == EBADF || errno == EINVAL || errno == ENOTSOCK))
			return 1;
		if (sock < 0) {
			usleep(AGAIN_US); /* no descriptor is free, perhaps */
			continue;
		}
		if (!from_root(sock)) {
			close(sock);
			continue;
		}
		/* A question that is dropped would be taken for our death. It is asked, and waits, until the process table has room: so do all others. */
		while (pthread_create(&t, &attr, connection_main, (void *)(intptr_t)sock))
			usleep(AGAIN_US);
	}
}
