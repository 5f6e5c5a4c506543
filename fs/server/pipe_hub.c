// SPDX-License-Identifier: Apache-2.0
/*
 * The hub of named pipes: one Pipe stream per client; its thread receives and lets pipe_state.c decide, a second one sends what is queued, so that a client that
 * does not read holds up nobody. A client whose stream breaks has no part in any FIFO any more: the others see end of file, or EPIPE.
 *
 * Locking: pipes.lock guards the decisions, the list of streams and their queues. No call leaves the process under it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include "conf/clock.h"
#include "conf/log.h"
#include "fs/server/op.h"
#include "fs/server/pipe_state.h"

#define ANSWER_NS 30000000000ull
#define QUEUE_MAX (64u << 20) /* bytes for one client; windows keep it far below */

struct item {
	struct list link;
	Sprite__Fs__PipeMsg msg;
	struct ps_key key;
	char peer[CONF_ADDR_MAX], address[CONF_ADDR_MAX]; /* PATH */
	size_t len;
	unsigned char bytes[];
};

struct pipe_stream {
	struct rpc_stream *s;
	struct list link;  /* these: pipes.lock */
	unsigned asked;	   /* questions it has not answered, and since when the oldest may wait */
	uint64_t asked_at;
	struct list queue;
	size_t queued;
	bool closing;
	char address[CONF_ADDR_MAX]; /* where its agent listens; "": nowhere */
	pthread_cond_t wake;
	struct pipes *pipes;
};

struct pipes {
	pthread_mutex_t lock;
	struct ps state;
	struct list streams;
};

/* ---- what the decisions send ---- */

static void queue(struct pipe_stream *st, Sprite__Fs__PipeMsg__Kind kind, const struct ps_key *k, const Sprite__Fs__PipeMsg *fields, const void *bytes, size_t n)
{
	struct item *it = st->closing || st->queued > QUEUE_MAX ? NULL : malloc(sizeof(*it) + n);

	if (!it) {
		rpc_stream_cancel(st->s); /* it comes again */
		return;
	}
	it->msg = *fields;
	it->msg.kind = kind;
	it->key = *k;
	it->msg.handle = (ProtobufCBinaryData){.len = it->key.len, .data = it->key.bytes};
	snprintf(it->peer, sizeof(it->peer), "%s", fields->peer);
	snprintf(it->address, sizeof(it->address), "%s", fields->address);
	it->msg.peer = it->peer;
	it->msg.address = it->address;
	it->len = n;
	if (n)
		memcpy(it->bytes, bytes, n);
	list_add_tail(&st->queue, &it->link);
	st->queued += sizeof(*it) + n;
	pthread_cond_signal(&st->wake);
}

static void out_role(void *arg, void *node, const struct ps_key *k, const struct ps_ask *ask)
{
	Sprite__Fs__PipeMsg m = SPRITE__FS__PIPE_MSG__INIT;
	struct pipe_stream *st = node;

	(void)arg;
	m.id = ask->round;
	m.role = ask->role;
	m.r = ask->r;
	m.w = ask->w;
	m.shared = ask->shared;
	m.prove = ask->prove;
	m.discard = ask->discard;
	if (ask->round && !st->asked++)
		st->asked_at = clock_boot_ns();
	queue(st, SPRITE__FS__PIPE_MSG__KIND__ROLE, k, &m, NULL, 0);
}

static void out_opened(void *arg, void *node, const struct ps_key *k, uint64_t req)
{
	Sprite__Fs__PipeMsg m = SPRITE__FS__PIPE_MSG__INIT;

	(void)arg;
	m.id = req;
	queue(node, SPRITE__FS__PIPE_MSG__KIND__OPENED, k, &m, NULL, 0);
}

static void out_data(void *arg, void *node, const struct ps_key *k, const void *bytes, size_t n)
{
	Sprite__Fs__PipeMsg m = SPRITE__FS__PIPE_MSG__INIT;

	(void)arg;
	queue(node, SPRITE__FS__PIPE_MSG__KIND__DATA, k, &m, bytes, n);
}

static void out_ack(void *arg, void *node, const struct ps_key *k, size_t n)
{
	Sprite__Fs__PipeMsg m = SPRITE__FS__PIPE_MSG__INIT;

	(void)arg;
	m.n = n;
	queue(node, SPRITE__FS__PIPE_MSG__KIND__ACK, k, &m, NULL, 0);
}

static void out_release(void *arg, void *node, const struct ps_key *k, uint64_t token)
{
	Sprite__Fs__PipeMsg m = SPRITE__FS__PIPE_MSG__INIT;

	(void)arg;
	m.token = token;
	queue(node, SPRITE__FS__PIPE_MSG__KIND__RELEASE, k, &m, NULL, 0);
}

static bool reachable(void *arg, void *node)
{
	(void)arg;
	return ((struct pipe_stream *)node)->address[0];
}

/* A question that has to be answered in bounded time. */
static void ask(struct pipe_stream *st, Sprite__Fs__PipeMsg__Kind kind, const struct ps_key *k, const Sprite__Fs__PipeMsg *fields)
{
	if (!st->asked++)
		st->asked_at = clock_boot_ns();
	queue(st, kind, k, fields, NULL, 0);
}

static void out_path(void *arg, void *node, const struct ps_key *k, uint64_t id, void *peer, bool sink)
{
	Sprite__Fs__PipeMsg m = SPRITE__FS__PIPE_MSG__INIT;
	struct pipe_stream *other = peer;

	(void)arg;
	m.id = id;
	m.role = sink ? PS_SINK : PS_SOURCE;
	m.peer = (char *)rpc_stream_peer(other->s); /* both may be gone before it is sent: copied */
	m.address = sink ? "" : other->address;
	if (sink)
		ask(node, SPRITE__FS__PIPE_MSG__KIND__PATH, k, &m);
	else
		queue(node, SPRITE__FS__PIPE_MSG__KIND__PATH, k, &m, NULL, 0);
}

static void out_settle(void *arg, void *node, const struct ps_key *k, uint64_t id, uint64_t n, bool gone)
{
	Sprite__Fs__PipeMsg m = SPRITE__FS__PIPE_MSG__INIT;

	(void)arg;
	m.id = id;
	m.n = n;
	m.gone = gone;
	ask(node, SPRITE__FS__PIPE_MSG__KIND__SETTLE, k, &m);
}

static const struct ps_ops state_ops = {.role = out_role, .opened = out_opened, .data = out_data, .ack = out_ack, .release = out_release, .reachable = reachable, .path = out_path, .settle = out_settle};

/* ---- life ---- */

int pipes_start(struct fsd *d)
{
	d->pipes = calloc(1, sizeof(*d->pipes));
	if (!d->pipes)
		return -ENOMEM;
	pthread_mutex_init(&d->pipes->lock, NULL);
	ps_init(&d->pipes->state, &state_ops, NULL);
	if (getrandom(&d->pipes->state.paths, sizeof(d->pipes->state.paths), 0) < 0) /* agents know those of several servers, and of our earlier lives, by their numbers */
		d->pipes->state.paths = clock_boot_ns() << 20;
	list_init(&d->pipes->streams);
	return 0;
}

/* Once a second: who does not answer holds up the opens of others no longer. */
void pipes_tick(struct fsd *d)
{
	uint64_t now = clock_boot_ns();
	struct pipe_stream *st;

	pthread_mutex_lock(&d->pipes->lock);
	list_each(st, &d->pipes->streams, link)
		if (st->asked && now - st->asked_at > ANSWER_NS)
			rpc_stream_cancel(st->s);
	pthread_mutex_unlock(&d->pipes->lock);
}

/* After the rpc server has stopped: no stream is left. */
void pipes_stop(struct fsd *d)
{
	if (!d->pipes)
		return;
	ps_destroy(&d->pipes->state);
	pthread_mutex_destroy(&d->pipes->lock);
	free(d->pipes);
	d->pipes = NULL;
}

/* ---- receiving ---- */

/* The first message about a FIFO proves that the handle is ours, open to this host, and a FIFO of a served domain. */
static int check(struct fsd *d, struct client *client, const Sprite__Fs__PipeMsg *m)
{
	struct op o = {.d = d, .client = client};
	_cleanup_object_ struct object obj = OBJECT_INIT;
	struct stat st;
	int r = op_resolve(&o, m->handle, &obj);

	if (r < 0)
		return r;
	if (obj.ex->conf->home)
		return -EOPNOTSUPP;
	if (fstat(obj.fd, &st) < 0)
		return -errno;
	return S_ISFIFO(st.st_mode) ? 0 : -EINVAL;
}

static bool is_opening(const Sprite__Fs__PipeMsg *m)
{
	return m->kind == SPRITE__FS__PIPE_MSG__KIND__OPEN || m->kind == SPRITE__FS__PIPE_MSG__KIND__PLEDGE || m->kind == SPRITE__FS__PIPE_MSG__KIND__TAKE;
}

/* OPEN, PLEDGE, TAKE: what may be the first that is heard of a FIFO. */
static int opening(struct fsd *d, struct client *client, struct pipe_stream *st, const struct ps_key *k, const Sprite__Fs__PipeMsg *m)
{
	int r = check(d, client, m);

	pthread_mutex_lock(&d->pipes->lock);
	if (r == 0 && m->kind == SPRITE__FS__PIPE_MSG__KIND__OPEN)
		r = ps_open(&d->pipes->state, k, st, m->r, m->w, m->id);
	else if (r == 0 && m->kind == SPRITE__FS__PIPE_MSG__KIND__PLEDGE)
		r = ps_pledge(&d->pipes->state, k, st, m->id, m->token);
	else if (r == 0)
		r = ps_take(&d->pipes->state, k, st, m->r, m->w, m->id, m->token);
	if (r < 0) /* not bridged: it goes on as it would with no other node */
		out_opened(NULL, st, k, m->id);
	pthread_mutex_unlock(&d->pipes->lock);
	return 0;
}

static void answered(struct pipe_stream *st)
{
	if (!st->asked)
		return;
	st->asked--;
	st->asked_at = clock_boot_ns();
}

static int message(struct fsd *d, struct client *client, struct pipe_stream *st, const struct rpc_msg *in)
{
	const Sprite__Fs__PipeMsg *m = (const void *)in->msg;
	struct ps *p = &d->pipes->state;
	unsigned char *bytes = NULL;
	struct ps_key k;
	int r;

	if (!m || !m->handle.len || m->handle.len > PS_KEY_MAX || in->bulk_len > PS_CHUNK_MAX)
		return -EPROTO;
	k.len = m->handle.len;
	memcpy(k.bytes, m->handle.data, k.len);
	if (is_opening(m))
		return opening(d, client, st, &k, m);
	if (in->bulk_len) {
		bytes = malloc(in->bulk_len);
		if (!bytes)
			return -ENOMEM;
		rpc_msg_copy(in, bytes, in->bulk_len);
	}
	pthread_mutex_lock(&d->pipes->lock);
	switch (m->kind) {
	case SPRITE__FS__PIPE_MSG__KIND__REPORT:
		if (m->id)
			answered(st);
		r = m->role > PS_SOURCE ? -EPROTO : ps_report(p, &k, st, m->id, &(struct ps_part){(enum ps_role)m->role, m->r, m->w, m->kept, m->stands, m->alive});
		break;
	case SPRITE__FS__PIPE_MSG__KIND__DATA:
		r = ps_data(p, &k, st, bytes, in->bulk_len);
		break;
	case SPRITE__FS__PIPE_MSG__KIND__RETURN:
		r = ps_return(p, &k, st, bytes, in->bulk_len, m->n == 1);
		break;
	case SPRITE__FS__PIPE_MSG__KIND__ACK:
		r = ps_ack(p, &k, st, m->n);
		break;
	case SPRITE__FS__PIPE_MSG__KIND__DROP:
		r = ps_drop(p, &k, st, m->token);
		break;
	case SPRITE__FS__PIPE_MSG__KIND__ORPHAN:
		r = ps_orphan(p, &k, st, m->token);
		break;
	case SPRITE__FS__PIPE_MSG__KIND__RELEASED:
		r = ps_released(p, &k, st, m->token);
		break;
	case SPRITE__FS__PIPE_MSG__KIND__PATH:
		answered(st);
		r = ps_path_ready(p, &k, st, m->id);
		break;
	case SPRITE__FS__PIPE_MSG__KIND__SETTLE:
		r = ps_settle(p, &k, st, m->id, m->n == 1);
		break;
	case SPRITE__FS__PIPE_MSG__KIND__SETTLED:
		if (!m->gone) /* what it does by itself answers nothing: its answer to what may be on its way comes too */
			answered(st);
		r = ps_settled(p, &k, st, m->id, m->n);
		break;
	default:
		r = -EPROTO;
	}
	pthread_mutex_unlock(&d->pipes->lock);
	free(bytes);
	return r;
}

static void *sender_run(void *arg)
{
	struct pipe_stream *st = arg;
	struct pipes *p = st->pipes;

	pthread_mutex_lock(&p->lock);
	for (;;) {
		struct item *it;
		struct iovec v;
		int r;

		while (!st->closing && list_empty(&st->queue))
			pthread_cond_wait(&st->wake, &p->lock);
		if (st->closing)
			break;
		it = list_entry(list_pop(&st->queue), struct item, link);
		st->queued -= sizeof(*it) + it->len;
		pthread_mutex_unlock(&p->lock);
		v = (struct iovec){.iov_base = it->bytes, .iov_len = it->len};
		it->msg.handle.data = it->key.bytes;
		r = rpc_stream_send(st->s, &it->msg.base, it->len ? &v : NULL, it->len ? 1 : 0);
		free(it);
		if (r < 0)
			rpc_stream_cancel(st->s); /* wakes the receiver, who ends it all */
		pthread_mutex_lock(&p->lock);
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

static struct client *hello(struct fsd *d, struct pipe_stream *st)
{
	struct client *c = NULL;
	const Sprite__Fs__PipeMsg *h;
	struct conf_addr a;
	struct rpc_msg m;

	if (rpc_stream_recv(st->s, &m, 10000) != 1)
		return NULL;
	h = (const void *)m.msg;
	if (h && h->kind == SPRITE__FS__PIPE_MSG__KIND__HELLO && h->id)
		c = clients_get(&d->clients, rpc_stream_peer(st->s), h->id);
	if (c && conf_addr_parse(h->address, CONF_PIPE_PORT, &a) == 0)
		snprintf(st->address, sizeof(st->address), "%s", h->address);
	rpc_msg_clear(&m);
	return c;
}

static void receive(struct fsd *d, struct client *client, struct pipe_stream *st)
{
	struct rpc_msg m;
	int r = 0;

	while (r == 0 && rpc_stream_recv(st->s, &m, -1) == 1) {
		r = message(d, client, st, &m);
		rpc_msg_clear(&m);
	}
	if (r < 0)
		log_warn("pipes of %s: broken off: %s", client->peer, strerror(-r));
}

void pipes_serve(void *ctx, struct rpc_stream *s)
{
	struct fsd *d = ctx;
	struct pipe_stream st = {.s = s, .pipes = d->pipes};
	struct client *client = hello(d, &st);
	pthread_t thread;
	struct list *l;

	if (!client) {
		rpc_stream_finish(s, EPROTO);
		return;
	}
	list_init(&st.queue);
	pthread_cond_init(&st.wake, NULL);
	if (pthread_create(&thread, NULL, sender_run, &st) == 0) {
		pthread_mutex_lock(&d->pipes->lock);
		list_add_tail(&d->pipes->streams, &st.link);
		pthread_mutex_unlock(&d->pipes->lock);
		receive(d, client, &st);
		pthread_mutex_lock(&d->pipes->lock);
		list_del(&st.link);
		st.closing = true;
		ps_gone(&d->pipes->state, &st);
		pthread_cond_signal(&st.wake);
		pthread_mutex_unlock(&d->pipes->lock);
		rpc_stream_cancel(s); /* a sender that is blocked by flow control */
		pthread_join(thread, NULL);
	}
	while ((l = list_pop(&st.queue)))
		free(list_entry(l, struct item, link));
	pthread_cond_destroy(&st.wake);
	client_put(client);
	rpc_stream_finish(s, 0);
}
