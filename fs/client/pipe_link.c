// SPDX-License-Identifier: Apache-2.0
/*
 * The stream of the pipe agent to each server: a thread of its own receives, messages go out by the agent's thread. When it breaks, waiting opens go on natively and all
 * ends are closed: processes see end of file or EPIPE. When it is up again the hub is told of all that is open here.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
#include "conf/clock.h"
#include "conf/fault.h"
#include "conf/log.h"
#include "fs/client/pipe_wire.h"

static void say(struct fifo *f, Sprite__Fs__PipeMsg m, const void *bytes, size_t len)
{
	struct iovec v = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = len};

	if (!f->hub->stream)
		return;
	if (m.kind == SPRITE__FS__PIPE_MSG__KIND__ACK) {
		m.n += f->done;
		f->done = 0;
	} else if (f->done) { /* or the hub would take them for bytes that are nowhere */
		pipe_say(f, SPRITE__FS__PIPE_MSG__KIND__ACK, 0, 0, NULL, 0);
	}
	log_debug("pipe %llu: says kind %d, id %llu, role %d, r %d, w %d, kept %d, alive %d, n %llu, %zu bytes", (unsigned long long)f->ino->id, (int)m.kind,
		  (unsigned long long)m.id, f->role, f->r, f->w, f->kept >= 0, m.alive, (unsigned long long)m.n, len);
	m.handle = (ProtobufCBinaryData){.len = f->ino->handle_len, .data = f->ino->handle};
	m.role = (uint32_t)f->role;
	m.r = f->r;
	m.w = f->w;
	m.kept = f->kept >= 0;
	m.stands = pipe_standing(f);
	rpc_stream_send(f->hub->stream, &m.base, len ? &v : NULL, len ? 1 : 0);
}

void pipe_say(struct fifo *f, Sprite__Fs__PipeMsg__Kind kind, uint64_t id, size_t n, const void *bytes, size_t len)
{
	Sprite__Fs__PipeMsg m = SPRITE__FS__PIPE_MSG__INIT;

	m.kind = kind;
	m.id = id;
	m.n = n;
	say(f, m, bytes, len);
}

void pipe_settled(struct fifo *f, uint64_t id, uint64_t n, bool unasked)
{
	Sprite__Fs__PipeMsg m = SPRITE__FS__PIPE_MSG__INIT;

	m.kind = SPRITE__FS__PIPE_MSG__KIND__SETTLED;
	m.id = id;
	m.n = n;
	m.gone = unasked;
	say(f, m, NULL, 0);
}

void pipe_answer(struct fifo *f, uint64_t round, bool alive)
{
	Sprite__Fs__PipeMsg m = SPRITE__FS__PIPE_MSG__INIT;

	m.kind = SPRITE__FS__PIPE_MSG__KIND__REPORT;
	m.id = round;
	m.alive = alive;
	say(f, m, NULL, 0);
}

void pipe_report(struct fifo *f, uint64_t round)
{
	pipe_say(f, SPRITE__FS__PIPE_MSG__KIND__REPORT, round, 0, NULL, 0);
}

int pipe_tell(struct fifo *f, Sprite__Fs__PipeMsg__Kind kind, uint64_t id, bool r, bool w, uint64_t token)
{
	Sprite__Fs__PipeMsg m = SPRITE__FS__PIPE_MSG__INIT;

	if (!f->hub->stream)
		return -ENOTCONN;
	m.kind = kind;
	m.handle = (ProtobufCBinaryData){.len = f->ino->handle_len, .data = f->ino->handle};
	m.id = id;
	m.r = r;
	m.w = w;
	m.token = token;
	return rpc_stream_send(f->hub->stream, &m.base, NULL, 0);
}

static void *hub_main(void *arg)
{
	Sprite__Fs__PipeMsg hello = SPRITE__FS__PIPE_MSG__INIT;
	struct hub *h = arg;
	struct rpc_stream *s;
	struct mail *m;
	sem_t seen;

	pthread_setname_np(pthread_self(), "pipe-hub");
	sem_init(&seen, 0, 0);
	hello.kind = SPRITE__FS__PIPE_MSG__KIND__HELLO;
	hello.id = clock_epoch();
	while (!h->a->fs->stopping) {
		hello.address = (char *)wires_listen(h->a);
		if (rpc_stream_open(h->server->bulk, &fs_methods[FS_PIPE], -1, &s) == 0) {
			if (rpc_stream_send(s, &hello.base, NULL, 0) == 0 && (m = calloc(1, sizeof(*m)))) {
				m->kind = MAIL_UP;
				m->hub = h;
				m->stream = s;
				pipe_post(h->a, m);
				while ((m = calloc(1, sizeof(*m))) && rpc_stream_recv(s, &m->msg, -1) == 1) {
					m->kind = MAIL_MSG;
					m->hub = h;
					fault_point("pipe-heard");
					pipe_post(h->a, m);
				}
				rpc_stream_cancel(s); /* the agent may hang in a send */
				if (m || (m = calloc(1, sizeof(*m)))) {
					m->kind = MAIL_DOWN;
					m->hub = h;
					m->seen = &seen;
					pipe_post(h->a, m);
					sem_wait(&seen);
				}
			}
			rpc_stream_cancel(s);
			rpc_stream_finish(s, 0);
		}
		usleep(100000);
	}
	return NULL;
}

struct hub *hub_of(struct agent *a, struct server *s)
{
	struct hub *h;
	pthread_t t;

	list_each(h, &a->hubs, link)
		if (h->server == s)
			return h;
	h = calloc(1, sizeof(*h));
	if (!h)
		return NULL;
	h->a = a;
	h->server = s;
	if (pthread_create(&t, NULL, hub_main, h)) {
		free(h);
		return NULL;
	}
	pthread_detach(t); /* lives as long as the process */
	list_add_tail(&a->hubs, &h->link);
	return h;
}

