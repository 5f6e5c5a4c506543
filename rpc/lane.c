/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lanes: how calls go by a connection of their own; see lane.h.
 *
 * On the connection: struct lane_head, little-endian, and `len` bytes.
 *	CALL	to the server: the method's name, a frame (frame.c)
 *	REPLY	to the client: a frame, or with a status that is not OK a text
 *	CANCEL	to the server: nobody waits for this one any more. It is answered all the same
 *
 * One set of epoll(7) for all lanes of the process, which threads of poll.c wait in by turns. A connection that is ready is one thread's until it has read a frame (EPOLLONESHOT); before
 * it does what the frame says the connection is armed again, so that the next frame is for whoever waits then. A frame that is in our buffers already is no news to epoll: the
 * connection is armed for writing as well, which it is ready for at once.
 * Who sends, sends himself; what the socket does not take waits in raw.c, and goes when epoll says so. A server reads no more of a client who does not take its answers, or has too much unanswered.
 *
 * End: lane_kill() from anywhere (or the peer, or the network) makes the socket ready; whoever is told of it ends what is under way, and gives the connection's reference back.
 *
 * Locking: lane.lock for the struct and the connection; never held while a call-back runs. The channel's and the server's lock are taken before it, or alone.
 */
#include "rpc/lane.h"
#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <arpa/inet.h>
#include <netdb.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include <grpc/support/string_util.h>
#include "conf/log.h"
#include "rpc/server.h"

enum { CALL = 1, REPLY, CANCEL };

#define NAME_LEN_MAX 64
#define FRAME_MAX    (RPC_BULK_MAX + NAME_LEN_MAX)
#define UNSENT_MAX   (4u << 20)  /* bytes of answers that a client has still to take before more of it is read; */
#define DEAF	     (32u << 20) /* one that lets so many lie is sent away */
#define PIECE	     (64u << 10) /* bytes that are decrypted before who wants to send gets his turn */
#define SMALL	     4096u	 /* bytes that go as one record */
#define SEND	     (128u << 10) /* bytes that go by one send(2) */

static struct {
	pthread_mutex_t lock;
	int epoll, stop;
} set = {.lock = PTHREAD_MUTEX_INITIALIZER, .epoll = -1, .stop = -1};

/* ---- the set ---- */
int lanes_start(void)
{
	struct epoll_event ev = {.events = EPOLLIN};
	int r = 0;

	pthread_mutex_lock(&set.lock);
	if (set.epoll < 0) {
		set.epoll = epoll_create1(EPOLL_CLOEXEC);
		set.stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (set.epoll < 0 || set.stop < 0 || epoll_ctl(set.epoll, EPOLL_CTL_ADD, set.stop, &ev) < 0)
			r = -errno;
	}
	if (!r)
		r = rt_threads_add(RT_LANES, 0);
	pthread_mutex_unlock(&set.lock);
	return r;
}

void lanes_stop(void)
{
	if (set.stop >= 0)
		eventfd_write(set.stop, 1);
}

void lanes_stopped(void)
{
	eventfd_t v;

	if (set.stop >= 0)
		eventfd_read(set.stop, &v);
}

bool lanes_next(struct rt_tag **t, bool *ok)
{
	struct epoll_event ev;

	while (epoll_wait(set.epoll, &ev, 1, -1) != 1)
		;
	*t = ev.data.ptr;
	*ok = true;
	return ev.data.ptr;
}

void lanes_watch(int fd, struct rt_tag *t, bool add, uint32_t events)
{
	struct epoll_event ev = {.events = events | EPOLLONESHOT, .data.ptr = t};

	if (epoll_ctl(set.epoll, add ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, &ev) < 0)
		log_error("lanes: epoll: %s", strerror(errno));
}

void lanes_unwatch(int fd)
{
	epoll_ctl(set.epoll, EPOLL_CTL_DEL, fd, NULL);
}

/* ---- life ---- */
static void ready(struct rt_tag *t, bool ok);

struct lane *lane_new(struct rpc_raw *raw, struct rpc_channel *ch, struct rpc_server *srv)
{
	struct lane *l = calloc(1, sizeof(*l));

	if (!l) {
		rpc_raw_close(raw);
		return NULL;
	}
	l->tag.fn = ready;
	l->refs = 2;
	l->raw = raw;
	l->ch = ch;
	l->srv = srv;
	l->reading = true;
	l->judged_ns = rt_now_ns();
	l->body = grpc_empty_slice();
	pthread_mutex_init(&l->lock, NULL);
	LIST_INIT(&l->requests);
	return l;
}

void lane_go(struct lane *l)
{
	pthread_mutex_lock(&l->lock);
	l->reading = false;
	lanes_watch(rpc_raw_fd(l->raw), &l->tag, true, EPOLLIN | EPOLLOUT); /* something may be in our buffers */
	pthread_mutex_unlock(&l->lock);
}

struct lane *lane_ref(struct lane *l)
{
	atomic_fetch_add(&l->refs, 1);
	return l;
}

void lane_unref(struct lane *l)
{
	if (atomic_fetch_sub(&l->refs, 1) != 1)
		return;
	rpc_raw_close(l->raw);
	grpc_slice_unref(l->body);
	pthread_mutex_destroy(&l->lock);
	free(l);
}

char *lane_addr(struct lane *l)
{
	struct sockaddr_storage a = {0};
	socklen_t len = sizeof(a);
	char host[INET6_ADDRSTRLEN] = "?", port[8] = "0", *s = NULL;

	getpeername(rpc_raw_fd(l->raw), (struct sockaddr *)&a, &len);
	getnameinfo((struct sockaddr *)&a, len, host, sizeof(host), port, sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV);
	gpr_asprintf(&s, a.ss_family == AF_INET6 ? "ipv6:[%s]:%s" : "ipv4:%s:%s", host, port);
	return s;
}

void lane_kill(struct lane *l)
{
	shutdown(rpc_raw_fd(l->raw), SHUT_RDWR);
}

/* Lock held. Who is told next that the socket is ready may read, or go on sending. */
static void arm(struct lane *l)
{
	uint32_t events = 0;

	l->paused = l->srv && (l->n >= 2 * LANE_CALLS || l->bytes >= 2 * LANE_BYTES || rpc_raw_unsent(l->raw) > UNSENT_MAX);
	if (!l->paused)
		events |= EPOLLIN;
	if (rpc_raw_unsent(l->raw) || (!l->paused && !l->drained && rpc_raw_pending(l->raw)))
		events |= EPOLLOUT;
	l->reading = false;
	lanes_watch(rpc_raw_fd(l->raw), &l->tag, false, events);
}

/* Lock held, after sending, and after something was answered. */
static void look_again(struct lane *l)
{
	if (!l->reading && !l->dead && (rpc_raw_unsent(l->raw) || l->paused))
		arm(l);
}

/* By who reads. */
static void die(struct lane *l)
{
	struct lane_call *calls[LANE_CALLS];
	struct rpc_request *rq;
	unsigned i, n = 0;

	pthread_mutex_lock(&l->lock);
	l->dead = true;
	lanes_unwatch(rpc_raw_fd(l->raw));
	for (i = 0; i < LANE_CALLS; i++)
		if (l->calls[i]) {
			l->calls[i]->id = 0;
			calls[n++] = l->calls[i];
			l->calls[i] = NULL;
		}
	pthread_mutex_unlock(&l->lock);
	for (i = 0; i < n; i++)
		calls[i]->done(calls[i], GRPC_STATUS_UNAVAILABLE, grpc_slice_from_static_string("the direct connection was lost"));
	for (;;) {
		pthread_mutex_lock(&l->lock);
		rq = LIST_FIRST(&l->requests);
		if (rq) {
			LIST_REMOVE(rq, in_lane);
			rq->in_list = false;
		}
		pthread_mutex_unlock(&l->lock);
		if (!rq)
			break;
		request_cancelled(rq);
		request_unref(rq);
	}
	if (l->ch)
		channel_lane_down(l->ch, l);
	else
		server_lane_down(l->srv, l);
	lane_unref(l);
}

/* ---- sending; lock held ---- */
struct out {
	struct lane *l;
	int r;
	size_t n;
	uint8_t small[SMALL];
};

static void put_now(struct out *o, const void *p, size_t n)
{
	struct rpc_raw *raw = o->l->raw;

	while (n && (o->r == 0 || o->r == -EAGAIN)) {
		size_t k = n < SEND ? n : SEND;
		int r = rpc_raw_write(raw, p, k, true);

		o->r = r ? r : o->r;
		if (o->r == 0 && rpc_raw_unsent(raw) >= SEND)
			o->r = rpc_raw_flush(raw);
		p = (const uint8_t *)p + k;
		n -= k;
	}
}

static void put(struct out *o, const void *p, size_t n)
{
	if (o->n + n > SMALL) {
		put_now(o, o->small, o->n);
		o->n = 0;
	}
	if (n > SMALL) {
		put_now(o, p, n);
	} else {
		memcpy(o->small + o->n, p, n);
		o->n += n;
	}
}

static void put_head(struct out *o, unsigned kind, unsigned more, uint64_t id, size_t len)
{
	struct lane_head h = {.len = htole32((uint32_t)len), .kind = htole16((uint16_t)kind), .more = htole16((uint16_t)more), .id = htole64(id)};

	put(o, &h, sizeof(h));
}

/* `hold`, if not NULL, is given back when the bytes are with us, before the answer to them can come: it is never the last one. */
static void put_end(struct out *o, struct frame_hold *hold)
{
	put_now(o, o->small, o->n);
	if (hold)
		atomic_fetch_sub(&hold->count, 1);
	if (o->r == 0)
		o->r = rpc_raw_flush(o->l->raw);
	if ((o->r < 0 && o->r != -EAGAIN) || rpc_raw_unsent(o->l->raw) > DEAF)
		lane_kill(o->l);
	else
		look_again(o->l);
}

static void put_frame(struct out *o, grpc_slice control, const struct iovec *bulk, int nbulk)
{
	put(o, GRPC_SLICE_START_PTR(control), GRPC_SLICE_LENGTH(control));
	for (int i = 0; i < nbulk; i++)
		put(o, bulk[i].iov_base, bulk[i].iov_len);
}

static size_t frame_len(grpc_slice control, const struct iovec *bulk, int nbulk)
{
	size_t n = GRPC_SLICE_LENGTH(control);

	for (int i = 0; i < nbulk; i++)
		n += bulk[i].iov_len;
	return n;
}

/* ---- the client's calls ---- */
bool lane_begin(struct lane *l, struct lane_call *c, size_t bytes)
{
	bool room;
	unsigned i;

	pthread_mutex_lock(&l->lock);
	room = !l->dead && l->n < LANE_CALLS && l->bytes < LANE_BYTES;
	for (i = 0; room && l->calls[i]; i++)
		;
	if (room) {
		l->calls[i] = c;
		c->id = ++l->ids * LANE_CALLS + i;
		c->bytes = bytes;
		l->n++;
		l->bytes += bytes;
	}
	pthread_mutex_unlock(&l->lock);
	return room;
}

bool lane_send(struct lane *l, const struct lane_call *c, const struct rpc_method *m, grpc_slice control, const struct iovec *bulk, int nbulk)
{
	struct out o = {.l = l};
	size_t name = strlen(m->name);
	bool wanted;

	pthread_mutex_lock(&l->lock);
	wanted = c->id; /* 0: cancelled, or the connection was lost */
	if (wanted) {
		put_head(&o, CALL, (unsigned)name, c->id, name + frame_len(control, bulk, nbulk));
		put(&o, m->name, name);
		put_frame(&o, control, bulk, nbulk);
		put_end(&o, c->hold);
	}
	pthread_mutex_unlock(&l->lock);
	return wanted;
}

/* Lock held: it is under way no more. */
static struct lane_call *take_call(struct lane *l, uint64_t id)
{
	struct lane_call *c = l->calls[id % LANE_CALLS];

	if (!c || c->id != id)
		return NULL;
	l->calls[id % LANE_CALLS] = NULL;
	l->n--;
	l->bytes -= c->bytes;
	c->id = 0;
	return c;
}

bool lane_forget(struct lane *l, struct lane_call *c)
{
	struct out o = {.l = l};
	uint64_t id;

	pthread_mutex_lock(&l->lock);
	id = c->id;
	if (id && take_call(l, id) && !l->dead) {
		put_head(&o, CANCEL, 0, id, 0);
		put_end(&o, NULL);
	}
	pthread_mutex_unlock(&l->lock);
	return id;
}

void lane_retire(struct lane *l)
{
	pthread_mutex_lock(&l->lock);
	if (!l->n)
		lane_kill(l);
	pthread_mutex_unlock(&l->lock);
}

/* ---- the server's requests ---- */
void lane_add(struct lane *l, struct rpc_request *rq)
{
	pthread_mutex_lock(&l->lock);
	LIST_INSERT_HEAD(&l->requests, rq, in_lane);
	rq->in_list = true;
	l->n++;
	l->bytes += rq->lane_bytes;
	pthread_mutex_unlock(&l->lock);
}

void lane_reply(struct lane *l, struct rpc_request *rq, grpc_status_code status, grpc_slice control, const struct iovec *bulk, int nbulk)
{
	struct out o = {.l = l};
	bool listed;

	pthread_mutex_lock(&l->lock);
	listed = rq->in_list;
	if (listed) {
		LIST_REMOVE(rq, in_lane);
		rq->in_list = false;
		l->n--;
		l->bytes -= rq->lane_bytes;
	}
	if (listed && !l->dead) {
		put_head(&o, REPLY, status, rq->lane_id, frame_len(control, bulk, nbulk));
		put_frame(&o, control, bulk, nbulk);
		put_end(&o, NULL);
	}
	pthread_mutex_unlock(&l->lock);
	if (listed)
		request_unref(rq);
}

void lane_refuse(struct lane *l, uint64_t id, grpc_status_code status, const char *text)
{
	struct out o = {.l = l};

	pthread_mutex_lock(&l->lock);
	if (!l->dead) {
		put_head(&o, REPLY, status, id, strlen(text));
		put(&o, text, strlen(text));
		put_end(&o, NULL);
	}
	pthread_mutex_unlock(&l->lock);
}

static void cancelled(struct lane *l, uint64_t id)
{
	struct rpc_request *rq;

	pthread_mutex_lock(&l->lock);
	LIST_FOREACH(rq, &l->requests, in_lane)
		if (rq->lane_id == id)
			break;
	if (rq)
		atomic_fetch_add(&rq->refs, 1);
	pthread_mutex_unlock(&l->lock);
	if (!rq)
		return; /* answered meanwhile */
	request_cancelled(rq);
	request_unref(rq);
}

/* ---- receiving ---- */

/* What one side may send to the other. */
static bool head_read(struct lane *l)
{
	struct lane_head h;

	memcpy(&h, l->head, sizeof(h));
	l->is = (struct lane_head){.len = le32toh(h.len), .kind = le16toh(h.kind), .more = le16toh(h.more), .id = le64toh(h.id)};
	if (l->srv ? l->is.kind == CALL : l->is.kind == REPLY)
		return l->is.len <= FRAME_MAX && (!l->srv || (l->is.more <= NAME_LEN_MAX && l->is.more <= l->is.len));
	return l->srv && l->is.kind == CANCEL && l->is.len == 0;
}

/* Lock held, and let go of now and then. 1: a whole frame; -EAGAIN: not yet; other -errno: the end. */
static int receive(struct lane *l)
{
	size_t since = 0;

	for (;;) {
		size_t all = l->in_body ? l->is.len : sizeof(l->head), n = all - l->got;
		uint8_t *to = (l->in_body ? GRPC_SLICE_START_PTR(l->body) : l->head) + l->got;
		ssize_t r = n ? rpc_raw_read(l->raw, to, n < PIECE ? n : PIECE) : 0;

		l->drained = r == -EAGAIN;
		if (r < 0 || (r == 0 && n))
			return r ? (int)r : -EPIPE;
		l->got += (size_t)r;
		if (l->got < all) {
			since += (size_t)r;
			if (since >= PIECE) {
				pthread_mutex_unlock(&l->lock);
				since = 0;
				pthread_mutex_lock(&l->lock);
			}
			continue;
		}
		l->got = 0;
		l->in_body = !l->in_body;
		if (!l->in_body)
			return 1;
		if (!head_read(l))
			return -EPROTO;
		l->body = grpc_slice_malloc(l->is.len);
	}
}

/* After the connection was armed again. */
static void act(struct lane *l, const struct lane_head *h, struct rpc_request *rq, grpc_slice body)
{
	struct lane_call *c;

	if (rq) {
		server_take(l->srv, rq);
	} else if (h->kind == CANCEL) {
		cancelled(l, h->id);
	} else if (h->kind == REPLY) {
		pthread_mutex_lock(&l->lock);
		c = take_call(l, h->id);
		pthread_mutex_unlock(&l->lock);
		if (c) /* else nobody waits for it any more */
			c->done(c, h->more, grpc_slice_ref(body));
	}
	grpc_slice_unref(body);
}

/* Is there somebody at the other end? For who does not read. */
static bool hung_up(struct lane *l)
{
	struct pollfd p = {.fd = rpc_raw_fd(l->raw)};

	return poll(&p, 1, 0) == 1;
}

static void ready(struct rt_tag *t, bool ok)
{
	struct lane *l = container_of(t, struct lane, tag);
	grpc_slice body = grpc_empty_slice();
	struct rpc_request *rq = NULL;
	struct lane_head h = {0};
	int r;

	(void)ok;
	pthread_mutex_lock(&l->lock);
	l->reading = true;
	r = rpc_raw_flush(l->raw);
	if (r == 0 || r == -EAGAIN)
		r = !l->paused ? receive(l) : hung_up(l) ? -EPIPE : -EAGAIN;
	if (r == 1) {
		body = l->body;
		h = l->is;
		l->body = grpc_empty_slice();
		pthread_mutex_unlock(&l->lock);
		if (h.kind == CALL) /* noted before another thread may read that it is cancelled */
			rq = server_lane_call(l->srv, l, h.id, (const char *)GRPC_SLICE_START_PTR(body), h.more, grpc_slice_sub(body, h.more, h.len));
		pthread_mutex_lock(&l->lock);
	}
	if (r == 1 || r == -EAGAIN) {
		lane_ref(l);
		arm(l);
	}
	pthread_mutex_unlock(&l->lock);
	if (r == 1)
		act(l, &h, rq, body);
	if (r == 1 || r == -EAGAIN)
		lane_unref(l);
	else
		die(l);
}
