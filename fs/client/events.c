// SPDX-License-Identifier: Apache-2.0
/*
 * The Events stream of one server: it speaks, we acknowledge. Broken streams are opened again for as long as the mount lasts. What it says is taken by the thread of rpc that
 * receives it; the stream's own thread waits for its end.
 *
 * RECALL: give up what is cached of a handle: lease.c. PREFIXES: the table has changed. CHANGED, REVOKED: something at a home has: home.c.
 */
#include "fs/client/client.h"
#include <errno.h>
#include <string.h>
#include <unistd.h>
#include "conf/clock.h"
#include "conf/log.h"

void events_ack(struct server *s, uint64_t id)
{
	Sprite__Fs__EventAck ack = SPRITE__FS__EVENT_ACK__INIT;

	ack.id = id;
	pthread_mutex_lock(&s->ack_lock);
	if (s->stream && rpc_stream_post(s->stream, &ack.base) == -EBUSY)
		rpc_stream_send(s->stream, &ack.base, NULL, 0);
	pthread_mutex_unlock(&s->ack_lock);
}

static void event_take(void *arg, struct rpc_stream *stream, struct rpc_msg *m)
{
	const Sprite__Fs__Event *ev = (const Sprite__Fs__Event *)m->msg;
	struct server *s = arg;

	if (s->fs->stopping)
		return;
	switch (ev->kind) {
	case SPRITE__FS__EVENT__KIND__RECALL:
		lease_recall(s, ev, stream);
		break;
	case SPRITE__FS__EVENT__KIND__PREFIXES:
		prefix_changed(s->fs);
		break;
	case SPRITE__FS__EVENT__KIND__CHANGED:
	case SPRITE__FS__EVENT__KIND__REVOKED:
		home_event(s, ev);
		break;
	default: /* the first of a stream says which life of the server this is */
		pthread_mutex_lock(&s->lock);
		if (ev->server_epoch && s->epoch && ev->server_epoch != s->epoch)
			s->renew_at = 0;
		pthread_mutex_unlock(&s->lock);
		home_event(s, ev);
		if (s == s->fs->root_server) /* only from here on are we told of changes: what came before the stream was there is asked for */
			prefix_changed(s->fs);
		break;
	}
}

static void stream_set(struct server *s, struct rpc_stream *stream)
{
	home_event(s, NULL);
	pthread_mutex_lock(&s->ack_lock);
	pthread_mutex_lock(&s->lock);
	s->stream = stream;
	pthread_mutex_unlock(&s->lock);
	pthread_mutex_unlock(&s->ack_lock);
}

static int events_talk(struct server *s, struct rpc_stream *stream)
{
	Sprite__Fs__EventAck hello = SPRITE__FS__EVENT_ACK__INIT;
	struct rpc_msg m;
	int r;

	hello.epoch = clock_epoch();
	hello.instance = (char *)s->fs->mount;
	r = rpc_stream_send(stream, &hello.base, NULL, 0);
	if (r < 0)
		return r;
	rpc_stream_take(stream, event_take, s);
	return rpc_stream_recv(stream, &m, -1); /* at its end */
}

static void *events_main(void *arg)
{
	struct server *s = arg;
	struct rpc_stream *stream;
	unsigned wait;

	pthread_setname_np(pthread_self(), "events");
	while (!s->fs->stopping) {
		stream = NULL;
		if (rpc_stream_open(s->meta, &fs_methods[FS_EVENTS], -1, &stream) == 0) {
			stream_set(s, stream);
			events_talk(s, stream);
			stream_set(s, NULL);
			rpc_stream_cancel(stream);
			rpc_stream_finish(stream, 0);
		}
		prefix_changed(s->fs);
		for (wait = 0; wait < 5 && !s->fs->stopping; wait++)
			usleep(100000);
	}
	return NULL;
}

int events_start(struct server *s)
{
	pthread_t t;
	int r = 0;

	pthread_mutex_lock(&s->lock);
	if (!s->has_events) {
		r = -pthread_create(&t, NULL, events_main, s);
		s->has_events = r == 0;
		if (r == 0)
			pthread_detach(t);
	}
	pthread_mutex_unlock(&s->lock);
	return r;
}
