// SPDX-License-Identifier: Apache-2.0
/* The master (master.h). An agent's stream has two threads: the server's reads, one of ours writes what the policy decided, so that nobody waits for a slow peer. */
#include "migd/master.h"
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/hash.h"
#include "conf/list.h"
#include "conf/log.h"
#include "migd/mig_rpc.h"

#define SILENT_NS 15000000000ull /* a host that has not reported for so long is down */
enum { OUT_MAX = 65536 };	 /* frames that wait for one agent: it is broken then */

struct seen { /* when a host reported last */
	uint64_t ns;
};

struct out {
	struct list node;
	int kind, err;
	uint64_t id, tag;
	uint32_t want;
	char host[256];
	char text[120];
};

struct client {
	uint64_t id;
	struct rpc_stream *stream;
	struct list out; /* lock */
	size_t nout;
	pthread_cond_t wake;
	bool done; /* lock */
};

struct master {
	pthread_mutex_t lock;
	struct select *sel; /* lock; NULL: this host is not the master */
	struct hash seen;   /* lock: by host */
	struct hash clients; /* lock: by id */
	uint64_t next_client;
};

/* ---- what the policy says, under the lock ---- */

static struct out *queue(struct client *c, int kind)
{
	struct out *o = c->nout < OUT_MAX ? calloc(1, sizeof *o) : NULL;

	if (!o) {
		rpc_stream_cancel(c->stream); /* it comes back and adopts */
		return NULL;
	}
	o->kind = kind;
	list_add_tail(&c->out, &o->node);
	c->nout++;
	pthread_cond_signal(&c->wake);
	return o;
}

static void tell(struct master *ms, const struct select_grant *g, int kind)
{
	struct client *c = hash_get_u64(&ms->clients, g->client);
	struct out *o = c && !c->done ? queue(c, kind) : NULL;

	if (!o)
		return;
	o->id = g->id;
	strncpy(o->host, g->host, sizeof o->host - 1);
}

static void on_granted(void *ctx, const struct select_grant *g)
{
	tell(ctx, g, SPRITE__MASTER__FRAME__KIND__GRANTED);
}
static void on_reclaim(void *ctx, const struct select_grant *g)
{
	tell(ctx, g, SPRITE__MASTER__FRAME__KIND__RECLAIM);
}
static void on_lost(void *ctx, const struct select_grant *g)
{
	tell(ctx, g, SPRITE__MASTER__FRAME__KIND__LOST);
}

/* ---- the office ---- */

static void take_up(struct master *ms)
{
	struct select_hooks h = {ms, on_granted, on_reclaim, on_lost};

	ms->sel = select_new(&h);
	if (ms->sel)
		log_note("this host is the master now");
}

static void lay_down(struct master *ms)
{
	struct hash_iter it = {0};
	struct client *c;

	log_note("this host is no longer the master");
	while ((c = hash_next(&ms->clients, &it)))
		rpc_stream_cancel(c->stream);
	select_free(ms->sel);
	ms->sel = NULL;
	hash_clear(&ms->seen, free);
}

static void forget_silent(struct master *ms)
{
	struct hash_iter it = {0};
	uint64_t now = clock_boot_ns();
	struct seen *s;

	while ((s = hash_next(&ms->seen, &it)))
		if (now - s->ns > SILENT_NS) {
			log_note("host %s is down: silent for %llu s", (const char *)it.key, (unsigned long long)(SILENT_NS / 1000000000));
			select_host_gone(ms->sel, it.key);
			free(hash_take(&ms->seen, it.key, it.len));
		}
}

void master_tick(struct master *ms, bool holding)
{
	pthread_mutex_lock(&ms->lock);
	if (holding && !ms->sel)
		take_up(ms);
	else if (!holding && ms->sel)
		lay_down(ms);
	if (ms->sel)
		forget_silent(ms);
	pthread_mutex_unlock(&ms->lock);
}

void master_host(struct master *ms, const char *host, const Sprite__Master__Report *r)
{
	uint64_t now = clock_boot_ns(), idle = r->idle_ms * 1000000ull;
	struct select_host h = {.name = host, .arch = r->arch, .features = r->features, .offers = r->offers, .slots = r->slots,
		.import = r->import <= POLICY_NONE ? (enum select_policy)r->import : POLICY_NONE, .idle_since = idle < now ? now - idle : 0};

	pthread_mutex_lock(&ms->lock);
	if (ms->sel) {
		struct seen *s = hash_get_str(&ms->seen, host);

		if (!s && (s = calloc(1, sizeof *s)) && hash_set_str(&ms->seen, host, s, NULL)) {
			free(s);
			s = NULL;
		}
		if (s) {
			s->ns = now;
			select_host_set(ms->sel, &h);
		}
	}
	pthread_mutex_unlock(&ms->lock);
}

/* ---- rpc ---- */

void master_serve_report(void *ctx, struct rpc_request *rq)
{
	struct master *ms = ((struct migd *)ctx)->master;
	Sprite__Master__ReportRep rep = SPRITE__MASTER__REPORT_REP__INIT;

	pthread_mutex_lock(&ms->lock);
	rep.master = ms->sel != NULL;
	pthread_mutex_unlock(&ms->lock);
	if (rep.master)
		master_host(ms, rpc_request_peer(rq), (const Sprite__Master__Report *)rpc_request_msg(rq)->msg);
	rpc_reply(rq, 0, &rep.base, NULL, 0, NULL, NULL);
}

static void *writer_main(void *arg)
{
	struct {
		struct master *ms;
		struct client *c;
	} *a = arg;
	struct client *c = a->c;

	pthread_mutex_lock(&a->ms->lock);
	for (;;) {
		Sprite__Master__Frame f = SPRITE__MASTER__FRAME__INIT;
		struct list *n;
		struct out *o;

		while (!c->done && list_empty(&c->out))
			pthread_cond_wait(&c->wake, &a->ms->lock);
		if (c->done)
			break;
		n = list_pop(&c->out);
		c->nout--;
		pthread_mutex_unlock(&a->ms->lock);
		o = list_entry(n, struct out, node);
		f.kind = (Sprite__Master__Frame__Kind)o->kind;
		f.id = o->id;
		f.tag = o->tag;
		f.want = o->want;
		f.err = o->err;
		f.host = o->host;
		f.text = o->text;
		int err = rpc_stream_send(c->stream, &f.base, NULL, 0);

		free(o);
		pthread_mutex_lock(&a->ms->lock);
		if (err)
			break;
	}
	pthread_mutex_unlock(&a->ms->lock);
	return NULL;
}

/* Under the lock. */
static void ask(struct master *ms, struct client *c, const Sprite__Master__Frame *f, bool adopt)
{
	struct select_ask a = {.client = c->id, .home = adopt ? NULL : rpc_stream_peer(c->stream), .uid = f->uid, .want = f->want, .wait = f->wait, .now = clock_boot_ns(),
		.priority = f->priority < SELECT_PRIORITIES ? (enum select_priority)f->priority : SELECT_NORMAL,
		.arch = f->arch[0] ? f->arch : NULL, .features = f->features[0] ? f->features : NULL, .not_host = f->not_host[0] ? f->not_host : NULL,
		.host = f->host[0] ? f->host : NULL};
	struct select_grant *g = f->want && f->want <= SELECT_WANT_MAX ? calloc(f->want, sizeof *g) : NULL;
	int n = g ? select_ask(ms->sel, &a, g) : -EINVAL;
	struct out *o;

	for (int i = 0; i < n; i++) {
		o = queue(c, SPRITE__MASTER__FRAME__KIND__GRANTED);
		if (o) {
			o->id = g[i].id;
			o->tag = f->tag;
			strncpy(o->host, g[i].host, sizeof o->host - 1);
		}
	}
	o = adopt && n > 0 ? NULL : queue(c, adopt ? SPRITE__MASTER__FRAME__KIND__REFUSED : SPRITE__MASTER__FRAME__KIND__ANSWERED);
	if (o) {
		o->tag = f->tag;
		o->want = n > 0 ? (uint32_t)n : 0;
		o->err = n < 0 ? -n : 0;
	}
	free(g);
}

static void handle(struct master *ms, struct client *c, const Sprite__Master__Frame *f)
{
	pthread_mutex_lock(&ms->lock);
	if (!ms->sel)
		rpc_stream_cancel(c->stream);
	else if (f->kind == SPRITE__MASTER__FRAME__KIND__ASK || f->kind == SPRITE__MASTER__FRAME__KIND__ADOPT)
		ask(ms, c, f, f->kind == SPRITE__MASTER__FRAME__KIND__ADOPT);
	else if (f->kind == SPRITE__MASTER__FRAME__KIND__RELEASE)
		select_release(ms->sel, f->id);
	else if (f->kind == SPRITE__MASTER__FRAME__KIND__STOP)
		select_stop_waiting(ms->sel, c->id);
	pthread_mutex_unlock(&ms->lock);
}

void master_serve_ask(void *ctx, struct rpc_stream *s)
{
	struct master *ms = ((struct migd *)ctx)->master;
	struct client c = {.stream = s, .wake = PTHREAD_COND_INITIALIZER};
	struct {
		struct master *ms;
		struct client *c;
	} a = {ms, &c};
	struct rpc_msg m = {0};
	struct list *n;
	pthread_t writer;
	bool there;

	list_init(&c.out);
	pthread_mutex_lock(&ms->lock);
	c.id = ++ms->next_client;
	there = ms->sel && !hash_set_u64(&ms->clients, c.id, &c, NULL);
	pthread_mutex_unlock(&ms->lock);
	if (!there) {
		rpc_stream_finish(s, EAGAIN);
		return;
	}
	if (pthread_create(&writer, NULL, writer_main, &a)) {
		pthread_mutex_lock(&ms->lock);
		hash_take_u64(&ms->clients, c.id);
		pthread_mutex_unlock(&ms->lock);
		rpc_stream_finish(s, ENOMEM);
		return;
	}
	while (rpc_stream_recv(s, &m, -1) == 1) {
		handle(ms, &c, (const Sprite__Master__Frame *)m.msg);
		rpc_msg_clear(&m);
	}
	pthread_mutex_lock(&ms->lock);
	c.done = true;
	hash_take_u64(&ms->clients, c.id);
	if (ms->sel)
		select_client_gone(ms->sel, c.id);
	pthread_cond_signal(&c.wake);
	pthread_mutex_unlock(&ms->lock);
	rpc_stream_cancel(s); /* a writer that waits for flow control */
	pthread_join(writer, NULL);
	while ((n = list_pop(&c.out)))
		free(list_entry(n, struct out, node));
	rpc_stream_finish(s, 0);
}

int master_open(struct migd *m, struct master **out)
{
	struct master *ms = calloc(1, sizeof *ms);

	(void)m;
	if (!ms)
		return -ENOMEM;
	pthread_mutex_init(&ms->lock, NULL);
	*out = ms;
	return 0;
}

void master_close(struct master *ms)
{
	if (!ms)
		return;
	if (ms->sel)
		lay_down(ms);
	hash_clear(&ms->seen, free);
	hash_clear(&ms->clients, NULL);
	pthread_mutex_destroy(&ms->lock);
	free(ms);
}
