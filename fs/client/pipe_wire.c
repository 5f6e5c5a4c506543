// SPDX-License-Identifier: Apache-2.0
/*
 * Connections between agents; see pipe_wire.h. Made and accepted in threads of their own, which end when the handshake has; from then on the agent's thread reads and writes
 * them, and never waits: what the socket does not take at once waits in rpc/raw.c, and no source reads on until it is gone (wire.full).
 */
#include "fs/client/pipe_wire.h"
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
#include "conf/clock.h"
#include "conf/log.h"

#define REFUSED_NS  30000000000ull /* a node that could not be reached is left alone for so long; one whose connection broke: */
#define BROKEN_NS   2000000000ull
#define UNUSED_NS   60000000000ull
#define JUDGE_NS    5000000000ull
#define ACCEPTED_MAX 8 /* of one host */
#define UNSENT_MAX  (2u << 20)
#define SMALL	    4096u
#define SHAKING_MAX 64 /* handshakes of others under way, */
#define SHAKING_ONE 4  /* of one address */
#define AT_ONCE	    (256u << 10) /* bytes of one connection, then the others */

static pthread_mutex_t shaking_lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
	bool taken;
	struct in6_addr from;
} shaking[SHAKING_MAX];

/* A place for a handshake with that address, which has shown no certificate yet; -1: there is none. */
static int shaking_take(const struct sockaddr_storage *from)
{
	struct in6_addr a = {0};
	int place = -1;
	unsigned same = 0;

	if (from->ss_family == AF_INET6)
		a = ((const struct sockaddr_in6 *)from)->sin6_addr;
	else if (from->ss_family == AF_INET)
		memcpy(&a, &((const struct sockaddr_in *)from)->sin_addr, sizeof(struct in_addr));
	pthread_mutex_lock(&shaking_lock);
	for (int i = 0; i < SHAKING_MAX; i++) {
		if (!shaking[i].taken)
			place = i;
		else
			same += !memcmp(&shaking[i].from, &a, sizeof(a));
	}
	if (same >= SHAKING_ONE)
		place = -1;
	if (place >= 0) {
		shaking[place].taken = true;
		shaking[place].from = a;
	}
	pthread_mutex_unlock(&shaking_lock);
	return place;
}

static void shaking_drop(int place)
{
	pthread_mutex_lock(&shaking_lock);
	if (place >= 0)
		shaking[place].taken = false;
	pthread_mutex_unlock(&shaking_lock);
}

/* ---- making ---- */

struct maker {
	struct agent *a;
	struct wire *w; /* NULL: `fd` was accepted, and has `place` among the handshakes */
	int place;
	struct conf_addr addr;
	char peer[CONF_ADDR_MAX];
	int fd;
};

static void *make_main(void *arg)
{
	struct maker *k = arg;
	struct mail *m = calloc(1, sizeof(*m));
	struct rpc_raw *raw = NULL;
	struct error e = {0};

	pthread_setname_np(pthread_self(), "pipe-wire");
	if (k->w ? rpc_raw_connect(k->a->fs->tls, &k->addr, k->peer, &raw, &e) : rpc_raw_accept(k->a->fs->tls, k->fd, &raw, &e))
		log_note("named pipes: %s%s%s", k->w ? k->peer : "a connection from another host: ", k->w ? ": " : "", e.text);
	shaking_drop(k->place);
	if (m && (k->w || raw)) {
		m->kind = MAIL_WIRE;
		m->wire = k->w;
		m->raw = raw;
		pipe_post(k->a, m);
	} else {
		rpc_raw_close(raw);
		free(m);
	}
	free(k);
	return NULL;
}

static int maker_start(struct agent *a, struct wire *w, int fd, int place)
{
	struct maker *k = calloc(1, sizeof(*k));
	pthread_t t;

	if (!k)
		return -ENOMEM;
	*k = (struct maker){.a = a, .w = w, .fd = fd, .place = place};
	if (w) {
		k->addr = w->addr;
		strcpy(k->peer, w->peer);
	}
	if (pthread_create(&t, NULL, make_main, k)) {
		free(k);
		return -EAGAIN;
	}
	pthread_detach(t);
	return 0;
}

static struct wire *wire_new(struct agent *a, const char *peer, bool ours)
{
	struct wire *w = calloc(1, sizeof(*w));

	if (!w)
		return NULL;
	w->a = a;
	w->ours = ours;
	w->used = clock_mono_ns();
	snprintf(w->peer, sizeof(w->peer), "%s", peer);
	list_add_tail(&a->wires, &w->link);
	return w;
}

static void wire_free(struct wire *w)
{
	rpc_raw_close(w->raw);
	list_del(&w->link);
	free(w);
}

struct wire *wire_to(struct agent *a, const char *peer, const char *address)
{
	struct conf_addr addr;
	struct wire *w;

	if (conf_addr_parse(address, CONF_PIPE_PORT, &addr))
		return NULL;
	list_each(w, &a->wires, link)
		if (w->ours && !strcmp(w->peer, peer) && !strcmp(w->addr.host, addr.host) && w->addr.port == addr.port)
			return w->state == WIRE_DOWN ? NULL : w;
	w = wire_new(a, peer, true);
	if (!w)
		return NULL;
	w->addr = addr;
	if (maker_start(a, w, -1, -1)) {
		wire_free(w);
		return NULL;
	}
	return w;
}

bool wire_from(const struct agent *a, const char *peer)
{
	const struct wire *w;

	list_each(w, &a->wires, link)
		if (!w->ours && w->state == WIRE_UP && !strcmp(w->peer, peer))
			return true;
	return false;
}

static void watch(struct wire *w, int op, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.u64 = (uint64_t)(uintptr_t)w | EVENT_WIRE};

	epoll_ctl(w->a->epoll, op, rpc_raw_fd(w->raw), &ev);
}

static unsigned accepted(const struct agent *a, const char *peer)
{
	const struct wire *w;
	unsigned n = 0;

	list_each(w, &a->wires, link)
		n += !w->ours && !strcmp(w->peer, peer);
	return n;
}

void wire_mail(struct agent *a, struct wire *w, struct rpc_raw *raw)
{
	if (!w && (accepted(a, rpc_raw_peer(raw)) >= ACCEPTED_MAX || !(w = wire_new(a, rpc_raw_peer(raw), false)))) {
		rpc_raw_close(raw);
		return;
	}
	w->raw = raw;
	w->used = w->judged = clock_mono_ns();
	w->retry = w->used + REFUSED_NS;
	w->state = raw ? WIRE_UP : WIRE_DOWN;
	if (!raw)
		return; /* wires_tick() tells */
	watch(w, EPOLL_CTL_ADD, EPOLLIN);
	path_wire(a, w);
	wire_event(a, w, EPOLLIN); /* something may have come with the handshake */
}

/* ---- listening ---- */

struct listener {
	struct agent *a;
	int fd;
};

static void *listen_main(void *arg)
{
	struct listener *l = arg;

	pthread_setname_np(pthread_self(), "pipe-listen");
	for (;;) {
		struct sockaddr_storage from = {0};
		socklen_t len = sizeof(from);
		int fd = accept4(l->fd, (struct sockaddr *)&from, &len, SOCK_CLOEXEC), place;

		if (fd < 0) {
			usleep(10000); /* no descriptors: they wait */
			continue;
		}
		place = shaking_take(&from);
		if (place < 0 || maker_start(l->a, NULL, fd, place)) {
			shaking_drop(place);
			close(fd);
		}
	}
	return NULL;
}

/* Who listens at all addresses is found by its name. */
static const char *shown(const struct agent *a, const char *host)
{
	return strcmp(host, "::") && strcmp(host, "0.0.0.0") ? host : a->fs->conf->name;
}

static int listen_at(struct agent *a, struct conf_addr at, struct error *e)
{
	const char *host = shown(a, at.host);
	struct listener *l = calloc(1, sizeof(*l));
	int fd = l ? rpc_raw_listen(&at, &at.port, e) : -ENOMEM;
	pthread_t t;

	if (fd < 0) {
		free(l);
		return fd;
	}
	*l = (struct listener){a, fd};
	if (pthread_create(&t, NULL, listen_main, l)) {
		close(fd);
		free(l);
		return -EAGAIN;
	}
	pthread_detach(t);
	if (!a->address[0])
		snprintf(a->address, sizeof(a->address), strchr(host, ':') ? "[%s]:%u" : "%s:%u", host, at.port);
	return 0;
}

const char *wires_listen(struct agent *a)
{
	const struct conf *c = a->fs->conf;
	struct error e = {0};

	pthread_mutex_lock(&a->listen_lock);
	if (!a->address[0] && a->fs->whole) {
		for (size_t i = 0; i < c->pipe_nlisten; i++)
			listen_at(a, c->pipe_listen[i], &e);
		if (e.code)
			log_note("named pipes: cannot listen: %s%s", e.text, a->address[0] ? "" : "; bytes for this host go by way of the file server");
	}
	pthread_mutex_unlock(&a->listen_lock);
	return a->address;
}

/* ---- sending ---- */

void wire_fail(struct wire *w, const char *why)
{
	if (w->state != WIRE_UP)
		return;
	log_debug("named pipes: connection with %s: %s", w->peer, why);
	w->state = WIRE_DOWN;
	w->retry = clock_mono_ns() + BROKEN_NS;
	w->full = false;
	watch(w, EPOLL_CTL_DEL, 0);
}

static void sent(struct wire *w, int err)
{
	if (err && err != -EAGAIN)
		wire_fail(w, strerror(-err));
	else if (rpc_raw_unsent(w->raw) > UNSENT_MAX)
		wire_fail(w, "it takes nothing any more");
	else if (w->full != (err != 0))
		watch(w, EPOLL_CTL_MOD, err ? EPOLLIN | EPOLLOUT : EPOLLIN);
	w->full = w->state == WIRE_UP && err;
}

void wire_send(struct wire *w, enum frame kind, uint64_t id, const void *p, size_t n)
{
	struct head h = {.kind = (uint32_t)kind, .len = (uint32_t)n, .id = id};
	uint8_t small[sizeof(h) + SMALL];
	int err;

	if (w->state != WIRE_UP)
		return;
	if (n <= SMALL) { /* one record */
		memcpy(small, &h, sizeof(h));
		if (n)
			memcpy(small + sizeof(h), p, n);
		err = rpc_raw_write(w->raw, small, sizeof(h) + n, false);
	} else {
		err = rpc_raw_write(w->raw, &h, sizeof(h), true);
		err = err ? err : rpc_raw_write(w->raw, p, n, false);
	}
	sent(w, err);
}

static void send_on(struct agent *a, struct wire *w)
{
	sent(w, rpc_raw_flush(w->raw));
	if (w->state == WIRE_UP && !w->full)
		path_wire(a, w);
}

/* ---- receiving ---- */

static bool head_ok(struct wire *w)
{
	const struct head *h = &w->head;

	return h->kind == FRAME_DATA ? !w->ours && h->len && h->len <= FRAME_MAX : h->kind == FRAME_STOP ? !w->ours && !h->len : h->kind == FRAME_ACK && w->ours && h->len == 8;
}

static void body(struct agent *a, struct wire *w, const uint8_t *p, size_t n)
{
	uint64_t number;

	if (w->head.kind == FRAME_DATA) {
		path_data(a, w, w->head.id, p, n);
		return;
	}
	memcpy(w->number + 8 - w->left, p, n);
	if (n == w->left) {
		memcpy(&number, w->number, sizeof(number));
		path_ack(a, w, w->head.id, number);
	}
}

static void received(struct agent *a, struct wire *w, const uint8_t *p, size_t n)
{
	while (n && w->state == WIRE_UP) {
		size_t part = sizeof(w->head) - w->got;

		if (part) {
			part = part < n ? part : n;
			memcpy((uint8_t *)&w->head + w->got, p, part);
			w->got += part;
			if (w->got == sizeof(w->head)) {
				w->left = w->head.len;
				if (!head_ok(w))
					wire_fail(w, "not a frame of ours");
				else if (!w->left)
					path_end(a, w, w->head.id);
			}
		} else {
			part = w->left < n ? w->left : n;
			body(a, w, p, part);
			w->left -= part;
		}
		if (w->got == sizeof(w->head) && !w->left)
			w->got = 0;
		p += part;
		n -= part;
	}
}

void wire_event(struct agent *a, struct wire *w, uint32_t events)
{
	size_t n = 0;
	ssize_t k = 1;

	if (w->state != WIRE_UP)
		return;
	if (events & EPOLLOUT)
		send_on(a, w);
	while (w->state == WIRE_UP && n + RPC_RAW_RECORD <= AT_ONCE && (n == 0 || rpc_raw_pending(w->raw))) {
		k = rpc_raw_read(w->raw, a->wire_buf + n, AT_ONCE - n);
		if (k <= 0)
			break;
		n += (size_t)k;
	}
	received(a, w, a->wire_buf, n);
	if (w->state == WIRE_UP && k <= 0 && k != -EAGAIN)
		wire_fail(w, k ? strerror((int)-k) : "closed");
	else if (w->state == WIRE_UP && k > 0 && rpc_raw_pending(w->raw))
		a->wires_pending = true;
}

/* ---- life ---- */

/* Certificates are revoked, and end, while connections live. What goes by this one goes by the file server then, and by another one if the other side shows a certificate that is good. */
static void judge(struct wire *w, uint64_t now)
{
	struct error e = {0};

	if (w->state != WIRE_UP || now - w->judged < JUDGE_NS)
		return;
	w->judged = now;
	if (rpc_raw_judge(w->raw, w->a->fs->tls, &e) < 0) {
		log_note("named pipes: connection with %s ended: %s", w->peer, e.text);
		wire_fail(w, "not believed any more");
	}
}

void wires_tick(struct agent *a)
{
	struct wire *w, *tmp;
	uint64_t now;

	if (list_empty(&a->wires))
		return;
	if (a->wires_pending) { /* no poll tells of these */
		a->wires_pending = false;
		list_each(w, &a->wires, link)
			if (w->state == WIRE_UP && rpc_raw_pending(w->raw))
				wire_event(a, w, EPOLLIN);
	}
	list_each(w, &a->wires, link)
		if (w->state == WIRE_DOWN && !w->told) {
			w->told = true;
			path_wire(a, w);
			rpc_raw_close(w->raw);
			w->raw = NULL;
		}
	now = clock_mono_ns();
	if (now - a->wires_looked < 1000000000ull)
		return;
	a->wires_looked = now;
	list_each_safe(w, tmp, &a->wires, link) {
		judge(w, now);
		if (w->state == WIRE_UP && path_uses(a, w))
			w->used = now;
		else if (w->state == WIRE_UP && now - w->used > (w->ours ? UNUSED_NS : 2 * UNUSED_NS)) /* who made it closes it first */
			wire_fail(w, "not used any more");
		else if (w->state == WIRE_DOWN && w->told && (!w->ours || now > w->retry))
			wire_free(w);
	}
}
