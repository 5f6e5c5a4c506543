/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Events streams: what the server has to tell its clients by itself (changes of the prefix table, recalls). One stream per client; acknowledgements are taken by the thread of
 * rpc that receives them. An event is sent by whoever brings it about, when nothing else is on its way to that client; else it is queued, and a thread of the stream
 * sends it, so that a client that does not read holds up nobody. A recall and its acknowledgement so wake nobody but those who have to do something.
 *
 * Locking: events.lock guards the list of streams and their queues. Nothing is called under it but conf.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "conf/clock.h"
#include "conf/log.h"
#include "fs/server/lease.h"

struct event_item {
	struct list link;
	Sprite__Fs__Event msg;
	struct list recalls; /* struct cs_recall */
	size_t n;
};

struct event_stream {
	struct list link;
	struct rpc_stream *s;
	struct client *client; /* counted */
	struct list queue;
	pthread_cond_t wake; /* also: `users` is 0 */
	bool closing, busy;  /* busy: its thread sends one */
	unsigned users;	     /* who send without the lock */
};

struct events {
	pthread_mutex_t lock;
	struct list streams;
	uint64_t next_id;
};

int events_start(struct fsd *d)
{
	d->events = calloc(1, sizeof(*d->events));
	if (!d->events)
		return -ENOMEM;
	pthread_mutex_init(&d->events->lock, NULL);
	list_init(&d->events->streams);
	return 0;
}

/* After the rpc server has stopped: no stream is left. */
void events_stop(struct fsd *d)
{
	if (!d->events)
		return;
	pthread_mutex_destroy(&d->events->lock);
	free(d->events);
	d->events = NULL;
}

static struct event_item *item_new(struct events *ev, Sprite__Fs__Event__Kind kind)
{
	struct event_item *it = calloc(1, sizeof(*it));

	if (!it)
		return NULL;
	sprite__fs__event__init(&it->msg);
	it->msg.id = ++ev->next_id;
	it->msg.kind = kind;
	it->msg.server_epoch = clock_epoch();
	list_init(&it->recalls);
	it->n = 1;
	return it;
}

static void item_free(struct event_item *it)
{
	struct list *l;

	while (it && (l = list_pop(&it->recalls)))
		free(list_entry(l, struct cs_recall, link));
	free(it);
}

/* events.lock is held. */
static void stream_queue(struct event_stream *es, struct event_item *it)
{
	if (!it || atomic_load(&es->client->host->events) >= CLIENT_MAX_EVENTS) {
		item_free(it);
		rpc_stream_cancel(es->s);
		return;
	}
	list_add_tail(&es->queue, &it->link);
	atomic_fetch_add(&es->client->host->events, (int)it->n);
	pthread_cond_signal(&es->wake);
}

void events_push(struct fsd *d, Sprite__Fs__Event__Kind kind, const char *host)
{
	struct events *ev = d->events;
	struct event_stream *es;

	pthread_mutex_lock(&ev->lock);
	list_each(es, &ev->streams, link)
		if (!es->closing && (!host || !strcmp(es->client->peer, host)))
			stream_queue(es, item_new(ev, kind));
	pthread_mutex_unlock(&ev->lock);
}

/* The recalls of one event, which stand together. */
static struct event_item *item_recalls(struct events *ev, struct list *recalls)
{
	struct event_item *it = item_new(ev, SPRITE__FS__EVENT__KIND__RECALL);
	struct cs_recall *first = list_entry(recalls->next, struct cs_recall, link);
	uint64_t id = first->id;

	if (it)
		it->n = 0;
	while (!list_empty(recalls)) {
		struct cs_recall *r = list_entry(recalls->next, struct cs_recall, link);

		if (r->id != id)
			break;
		list_del(&r->link);
		if (it) {
			it->msg.id = id;
			list_add_tail(&it->recalls, &r->link);
			it->n++;
		} else {
			free(r);
		}
	}
	return it;
}

/* `post`: without waiting, or not at all (-EBUSY). */
static int item_send(struct event_stream *es, struct event_item *it, bool post)
{
	size_t n = list_empty(&it->recalls) ? 0 : it->n, i = 0;
	Sprite__Fs__Recall *v = calloc(n + 1, sizeof(*v)), **p = calloc(n + 1, sizeof(*p));
	struct cs_recall *r;
	int ret = -ENOMEM;

	if (v && p) {
		if (n)
			list_each(r, &it->recalls, link) {
				sprite__fs__recall__init(&v[i]);
				v[i].handle = (ProtobufCBinaryData){r->handle_len, r->handle};
				v[i].bits = r->bits;
				v[i].lease_seq = r->seq;
				v[i].name = r->name;
				p[i] = &v[i];
				i++;
			}
		it->msg.recalls = p;
		it->msg.n_recalls = n;
		ret = post ? rpc_stream_post(es->s, &it->msg.base) : rpc_stream_send(es->s, &it->msg.base, NULL, 0);
	}
	free(v);
	free(p);
	return ret;
}

/* With events.lock, which is let go of meanwhile. */
static void stream_push(struct events *ev, struct event_stream *es, struct event_item *it)
{
	bool sent;

	if (it && !es->busy && list_empty(&es->queue)) {
		es->users++;
		pthread_mutex_unlock(&ev->lock);
		sent = item_send(es, it, true) == 0;
		pthread_mutex_lock(&ev->lock);
		if (!--es->users && es->closing)
			pthread_cond_broadcast(&es->wake);
		if (sent || es->closing) { /* closing: what was not sent is sent again on the next stream */
			item_free(it);
			return;
		}
	}
	stream_queue(es, it);
}

void events_push_recalls(struct fsd *d, struct list *recalls)
{
	struct events *ev = d->events;
	struct event_stream *es;

	if (list_empty(recalls))
		return;
	pthread_mutex_lock(&ev->lock);
	while (!list_empty(recalls)) {
		uint64_t client = list_entry(recalls->next, struct cs_recall, link)->client;
		struct event_item *it = item_recalls(ev, recalls);
		struct event_stream *to = NULL;

		list_each(es, &ev->streams, link)
			if (!es->closing && es->client->id == client)
				to = es; /* the newest: what an older one still has to send is sent again on it */
		if (to)
			stream_push(ev, to, it);
		else
			item_free(it);
	}
	pthread_mutex_unlock(&ev->lock);
}

void events_drop(struct fsd *d, const struct client *c)
{
	struct event_stream *es;

	pthread_mutex_lock(&d->events->lock);
	list_each(es, &d->events->streams, link)
		if (es->client == c)
			rpc_stream_cancel(es->s);
	pthread_mutex_unlock(&d->events->lock);
}

struct sender {
	struct events *ev;
	struct event_stream *es;
};

static void *sender_run(void *arg)
{
	struct sender *sd = arg;
	struct event_stream *es = sd->es;

	pthread_mutex_lock(&sd->ev->lock);
	for (;;) {
		struct list *l;
		struct event_item *it;
		int r;

		while (!es->closing && list_empty(&es->queue))
			pthread_cond_wait(&es->wake, &sd->ev->lock);
		if (es->closing)
			break;
		l = list_pop(&es->queue);
		it = list_entry(l, struct event_item, link);
		atomic_fetch_sub(&es->client->host->events, (int)it->n);
		es->busy = true;
		pthread_mutex_unlock(&sd->ev->lock);
		r = item_send(es, it, false);
		item_free(it);
		if (r < 0)
			rpc_stream_cancel(es->s); /* wakes the receiver, who ends it all */
		pthread_mutex_lock(&sd->ev->lock);
		es->busy = false;
	}
	pthread_mutex_unlock(&sd->ev->lock);
	return NULL;
}

/* The client's first message: which of the peer's processes this is. */
static struct client *stream_hello(struct fsd *d, struct rpc_stream *s)
{
	struct list gone = LIST_INIT(gone);
	struct client *c = NULL;
	struct rpc_msg m;
	int r = rpc_stream_recv(s, &m, 10000);

	if (r != 1)
		return NULL;
	if (m.msg) {
		const Sprite__Fs__EventAck *hello = (const void *)m.msg;

		if (hello->epoch)
			c = clients_get(&d->clients, rpc_stream_peer(s), hello->epoch);
		if (c)
			clients_claim(&d->clients, c, hello->instance, &gone);
	}
	rpc_msg_clear(&m);
	fsd_release(d, &gone);
	return c;
}

static void stream_attach(struct fsd *d, struct event_stream *es)
{
	struct events *ev = d->events;

	pthread_mutex_lock(&ev->lock);
	list_add_tail(&ev->streams, &es->link);
	stream_queue(es, item_new(ev, SPRITE__FS__EVENT__KIND__NONE));
	pthread_mutex_unlock(&ev->lock);
	pthread_mutex_lock(&d->clients.lock);
	es->client->stream = es; /* the newest stream of a client counts */
	pthread_mutex_unlock(&d->clients.lock);
	if (atomic_load(&es->client->gone)) /* between its hello and now: events_drop() has not seen it */
		rpc_stream_cancel(es->s);
	lease_repeat(d, es->client->id);
}

static void stream_detach(struct fsd *d, struct event_stream *es)
{
	struct list *l;

	pthread_mutex_lock(&d->clients.lock);
	if (es->client->stream == es)
		es->client->stream = NULL;
	pthread_mutex_unlock(&d->clients.lock);
	pthread_mutex_lock(&d->events->lock);
	es->closing = true;
	list_del(&es->link);
	pthread_cond_broadcast(&es->wake);
	while (es->users)
		pthread_cond_wait(&es->wake, &d->events->lock);
	while ((l = list_pop(&es->queue))) {
		atomic_fetch_sub(&es->client->host->events, (int)list_entry(l, struct event_item, link)->n);
		item_free(list_entry(l, struct event_item, link));
	}
	pthread_mutex_unlock(&d->events->lock);
}

struct receiver {
	struct fsd *d;
	struct event_stream *es;
};

static void ack_take(void *arg, struct rpc_stream *s, struct rpc_msg *m)
{
	const Sprite__Fs__EventAck *ack = (const void *)m->msg;
	struct receiver *r = arg;

	if (ack && ack->id)
		lease_ack(r->d, r->es->client->id, ack->id, s);
}

static void stream_receive(struct fsd *d, struct event_stream *es)
{
	struct receiver r = {d, es};
	struct rpc_msg m;

	rpc_stream_take(es->s, ack_take, &r);
	while (rpc_stream_recv(es->s, &m, -1) == 1)
		rpc_msg_clear(&m);
}

void events_serve(void *ctx, struct rpc_stream *s)
{
	struct fsd *d = ctx;
	struct event_stream es = {.s = s};
	struct sender sd = {d->events, &es};
	pthread_t thread;

	es.client = stream_hello(d, s);
	if (!es.client) {
		rpc_stream_finish(s, EPROTO);
		return;
	}
	list_init(&es.queue);
	pthread_cond_init(&es.wake, NULL);
	stream_attach(d, &es);
	if (pthread_create(&thread, NULL, sender_run, &sd) == 0) {
		stream_receive(d, &es);
		stream_detach(d, &es);
		rpc_stream_cancel(s); /* a sender that is blocked by flow control */
		pthread_join(thread, NULL);
	} else {
		stream_detach(d, &es);
	}
	pthread_cond_destroy(&es.wake);
	client_put(es.client);
	rpc_stream_finish(s, 0);
}
