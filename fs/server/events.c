/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Events streams: what the server has to tell its clients by itself (changes of the prefix table, recalls). One stream per client; its thread receives
 * the client's acknowledgements, a second thread sends what is queued, so that a client that does not read holds up nobody else.
 *
 * Locking: events.lock guards the list of streams and their queues. Nothing is called under it but conf.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "conf/clock.h"
#include "conf/log.h"
#include "fs/server/lease.h"

#define EVENTS_QUEUE_MAX 65536 /* a client that lets more pile up is cut off and comes again */

struct event_item {
	struct list link;
	Sprite__Fs__Event msg;
	Sprite__Fs__Recall recall, *recalls;
	unsigned char handle[HANDLE_MAX];
	char name[256];
};

struct event_stream {
	struct list link;
	struct rpc_stream *s;
	struct client *client; /* counted */
	struct list queue;
	size_t queued;
	pthread_cond_t wake;
	bool closing;
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
	return it;
}

/* events.lock is held. */
static void stream_queue(struct event_stream *es, struct event_item *it)
{
	if (!it || es->queued >= EVENTS_QUEUE_MAX) {
		free(it);
		rpc_stream_cancel(es->s);
		return;
	}
	list_add_tail(&es->queue, &it->link);
	es->queued++;
	pthread_cond_signal(&es->wake);
}

void events_push_prefixes(struct fsd *d)
{
	struct events *ev = d->events;
	struct event_stream *es;

	pthread_mutex_lock(&ev->lock);
	list_each(es, &ev->streams, link)
		if (!es->closing)
			stream_queue(es, item_new(ev, SPRITE__FS__EVENT__KIND__PREFIXES));
	pthread_mutex_unlock(&ev->lock);
}

void events_push_recall(struct fsd *d, const struct cs_recall *r)
{
	struct events *ev = d->events;
	struct event_stream *es;

	pthread_mutex_lock(&ev->lock);
	list_each(es, &ev->streams, link) {
		struct event_item *it;

		if (es->closing || es->client->id != r->client)
			continue;
		it = item_new(ev, SPRITE__FS__EVENT__KIND__RECALL);
		if (it) {
			it->msg.id = r->id;
			sprite__fs__recall__init(&it->recall);
			it->recalls = &it->recall;
			it->msg.recalls = &it->recalls;
			it->msg.n_recalls = 1;
			it->recall.bits = r->bits;
			it->recall.lease_seq = r->seq;
			memcpy(it->handle, r->handle, r->handle_len);
			it->recall.handle.data = it->handle;
			it->recall.handle.len = r->handle_len;
			memcpy(it->name, r->name, sizeof(it->name));
			it->recall.name = it->name;
		}
		stream_queue(es, it);
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
		es->queued--;
		pthread_mutex_unlock(&sd->ev->lock);
		it = list_entry(l, struct event_item, link);
		r = rpc_stream_send(es->s, &it->msg.base, NULL, 0);
		free(it);
		if (r < 0)
			rpc_stream_cancel(es->s); /* wakes the receiver, who ends it all */
		pthread_mutex_lock(&sd->ev->lock);
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
	pthread_cond_signal(&es->wake);
	while ((l = list_pop(&es->queue)))
		free(list_entry(l, struct event_item, link));
	pthread_mutex_unlock(&d->events->lock);
}

static void stream_receive(struct fsd *d, struct event_stream *es)
{
	struct rpc_msg m;

	while (rpc_stream_recv(es->s, &m, -1) == 1) {
		const Sprite__Fs__EventAck *ack = (const void *)m.msg;

		if (ack && ack->id)
			lease_ack(d, es->client->id, ack->id);
		rpc_msg_clear(&m);
	}
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
