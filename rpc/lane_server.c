/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lanes at the server: the ports where they come in, handshakes, and what a call by one becomes. See lane.h.
 *
 * A door's event accepts; each handshake has a thread of its own, HANDSHAKES at most: who finds no place is sent away, and goes by gRPC. A client whose certificate is not to be believed any
 * more is noticed by its next call, as by gRPC.
 *
 * Locking: srv->lock for the lists.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <fcntl.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/log.h"
#include "rpc/server.h"

#define HANDSHAKES 16
#define LANES_MAX  512
#define LANES_PEER 8
#define JUDGE_NS   5000000000ull

struct door {
	struct rt_tag tag;
	struct rpc_server *srv;
	int fd;
};

struct shaking {
	LIST_ENTRY(shaking) link; /* srv->lock */
	struct rpc_server *srv;
	int fd;
	int own; /* the same socket: to end it from outside */
};

/* ---- calls ---- */
static const struct rpc_service *service(const struct rpc_server *srv, const char *name, size_t len)
{
	for (size_t i = 0; i < srv->o.nservices; i++) {
		const struct rpc_method *m = srv->o.services[i].method;

		if (!strncmp(m->name, name, len) && !m->name[len] && m->kind == RPC_UNARY)
			return &srv->o.services[i];
	}
	return NULL;
}

/* Certificates are revoked, and expire, while connections live. Of who reads. */
static bool believed(struct rpc_server *srv, struct lane *l, struct error *e)
{
	char *addr;
	int r = 0;

	if (rt_now_ns() - l->judged_ns > JUDGE_NS) {
		pthread_mutex_lock(&l->lock);
		r = rpc_raw_judge(l->raw, srv->o.tls, e);
		pthread_mutex_unlock(&l->lock);
		l->judged_ns = rt_now_ns();
	}
	if (r < 0 && tls_may_warn(srv->o.tls, e->text)) {
		addr = lane_addr(l);
		log_warn("%s: refused: %s", addr, e->text);
		gpr_free(addr);
	}
	return r == 0;
}

struct rpc_request *server_lane_call(struct rpc_server *srv, struct lane *l, uint64_t id, const char *name, size_t len, grpc_slice frame)
{
	const struct rpc_service *svc = service(srv, name, len);
	struct error e = {0};
	struct rpc_request *rq;

	if (!svc || !believed(srv, l, &e)) {
		lane_refuse(l, id, svc ? GRPC_STATUS_UNAUTHENTICATED : GRPC_STATUS_UNIMPLEMENTED, svc ? e.text : "no such method");
		grpc_slice_unref(frame);
		if (svc)
			lane_kill(l);
		return NULL;
	}
	atomic_fetch_add_explicit(&srv->lane_calls, 1, memory_order_relaxed);
	rq = request_by_lane(srv, svc, l, id, rpc_raw_peer(l->raw), frame);
	lane_add(l, rq);
	return rq;
}

/* ---- lanes come and go ---- */
void server_lane_down(struct rpc_server *srv, struct lane *l)
{
	pthread_mutex_lock(&srv->lock);
	LIST_REMOVE(l, link);
	srv->nlanes--;
	pthread_cond_broadcast(&srv->idle);
	pthread_mutex_unlock(&srv->lock);
}

/* Takes over raw. */
static void welcome(struct rpc_server *srv, struct rpc_raw *raw)
{
	struct lane *l = lane_new(raw, NULL, srv), *other;
	unsigned n = 0;
	bool full;

	if (!l)
		return;
	pthread_mutex_lock(&srv->lock);
	LIST_FOREACH(other, &srv->lanes, link)
		n += !strcmp(rpc_raw_peer(other->raw), rpc_raw_peer(raw));
	full = srv->stopping || srv->nlanes >= LANES_MAX || n >= LANES_PEER;
	if (!full) {
		LIST_INSERT_HEAD(&srv->lanes, l, link);
		srv->nlanes++;
		lane_go(l);
	}
	pthread_mutex_unlock(&srv->lock);
	if (full)
		lane_unref(l); /* the connection's */
	lane_unref(l);
}

static void *shake(void *arg)
{
	struct shaking *s = arg;
	struct rpc_server *srv = s->srv;
	struct rpc_raw *raw = NULL;
	struct error e = {0};

	if (rpc_raw_accept(srv->o.tls, s->fd, &raw, &e) == 0)
		welcome(srv, raw);
	else if (e.code != EACCES && server_may_warn(srv)) /* a certificate: has been told */
		log_note("a direct connection from another host: %s", e.text);
	pthread_mutex_lock(&srv->lock);
	LIST_REMOVE(s, link);
	srv->nshaking--;
	pthread_cond_broadcast(&srv->idle);
	pthread_mutex_unlock(&srv->lock);
	close(s->own);
	free(s);
	return NULL;
}

/* Takes over fd. */
static void shake_start(struct rpc_server *srv, int fd)
{
	struct shaking *s = malloc(sizeof(*s));
	bool room = false;
	pthread_t t;

	if (s)
		*s = (struct shaking){.srv = srv, .fd = fd, .own = fcntl(fd, F_DUPFD_CLOEXEC, 0)};
	pthread_mutex_lock(&srv->lock);
	if (s && s->own >= 0 && srv->nshaking < HANDSHAKES && !srv->stopping && rt_thread(&t, shake, s, "rpc-shake") == 0) {
		LIST_INSERT_HEAD(&srv->shaking, s, link);
		srv->nshaking++;
		pthread_detach(t);
		room = true;
	}
	pthread_mutex_unlock(&srv->lock);
	if (room)
		return;
	close(fd);
	if (s && s->own >= 0)
		close(s->own);
	free(s);
}

/* ---- doors ---- */
static void knock(struct rt_tag *t, bool ok)
{
	struct door *d = container_of(t, struct door, tag);
	struct rpc_server *srv = d->srv;
	int fd;

	(void)ok;
	while ((fd = accept4(d->fd, NULL, NULL, SOCK_CLOEXEC)) >= 0)
		shake_start(srv, fd);
	if (errno == EAGAIN || errno == ECONNABORTED || errno == EINTR) {
		lanes_watch(d->fd, &d->tag, false, EPOLLIN);
		return;
	}
	if (errno != EINVAL) /* that is how it is told to end */
		log_warn("no more direct connections: %s", strerror(errno));
	lanes_unwatch(d->fd);
	pthread_mutex_lock(&srv->lock);
	close(d->fd);
	d->fd = -1;
	srv->ndoors--;
	pthread_cond_broadcast(&srv->idle);
	pthread_mutex_unlock(&srv->lock);
}

static int door_open(struct door *d, struct conf_addr addr, uint16_t *port)
{
	struct error e = {0};
	int fd;

	addr.port = addr.port && addr.port < UINT16_MAX - LANE_PORT ? (uint16_t)(addr.port + LANE_PORT) : 0;
	fd = rpc_raw_listen(&addr, port, &e);
	if (fd < 0) {
		addr.port = 0;
		fd = rpc_raw_listen(&addr, port, &e);
	}
	if (fd < 0 || fcntl(fd, F_SETFL, O_NONBLOCK) < 0) {
		log_note("no direct connections by %s: %s", addr.host, e.text);
		return -EADDRNOTAVAIL;
	}
	d->fd = fd;
	return 0;
}

int server_lanes_listen(struct rpc_server *srv)
{
	uint16_t port = 0;
	size_t i;
	int r = lanes_start();

	if (r < 0 || rt_threads_add(RT_LANES, srv->o.workers) < 0) {
		log_note("no direct connections: %s", strerror(r < 0 ? -r : EAGAIN));
		return -EAGAIN;
	}
	srv->doors = calloc(srv->o.nlisten ? srv->o.nlisten : 1, sizeof(*srv->doors));
	if (!srv->doors) {
		rt_threads_del(RT_LANES, srv->o.workers);
		return -ENOMEM;
	}
	for (i = 0; i < srv->o.nlisten; i++) {
		struct door *d = &srv->doors[i];
		struct conf_addr addr = srv->o.listen[i];

		*d = (struct door){.tag.fn = knock, .srv = srv, .fd = -1};
		addr.port = srv->ports[i];
		if (door_open(d, addr, &port) < 0)
			continue;
		srv->lane_port = srv->lane_port ? srv->lane_port : port;
		pthread_mutex_lock(&srv->lock);
		srv->ndoors++;
		lanes_watch(d->fd, &d->tag, true, EPOLLIN);
		pthread_mutex_unlock(&srv->lock);
	}
	return 0;
}

void server_lanes_stop(struct rpc_server *srv)
{
	struct shaking *s;
	struct lane *l;

	pthread_mutex_lock(&srv->lock);
	for (size_t i = 0; srv->doors && i < srv->o.nlisten; i++)
		if (srv->doors[i].fd >= 0)
			shutdown(srv->doors[i].fd, SHUT_RDWR);
	LIST_FOREACH(s, &srv->shaking, link)
		shutdown(s->own, SHUT_RDWR);
	LIST_FOREACH(l, &srv->lanes, link)
		lane_kill(l);
	pthread_mutex_unlock(&srv->lock);
}

uint64_t rpc_server_direct(const struct rpc_server *srv, unsigned *lanes)
{
	*lanes = srv->nlanes;
	return atomic_load(&srv->lane_calls);
}
