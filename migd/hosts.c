// SPDX-License-Identifier: Apache-2.0
/* The list of hosts and calls to their migds; see hosts.h. */
#include "migd/hosts.h"
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/list.h"
#include "conf/text.h"

enum { TABLE_MS = 5000, /* for spritefs to tell it */ PING_MS = 8000, LOOK_S = 2, AGAIN_US = 200000 };
#define DIRECT_AGAIN_NS 60000000000ull
#define REMEMBER_NS	(86400 * 1000000000ull) /* who is in no table any more is shown that long */

struct host {
	struct list node;
	struct hosts *hosts;
	struct conf_addr addr;	     /* lock */
	uint64_t read;		     /* lock: number of the last reading of the table that held it */
	uint64_t read_ns;	     /* lock: and when that was */
	_Atomic int64_t answered;    /* host_answered() */
	bool told_none;		     /* lock: the table says that no migd runs there. It may be 10 s old: calling it tells */
	struct rpc_channel *ch[2];   /* lock: control, bulk */
	_Atomic uint64_t direct_after; /* host_direct(): not before */
	char name[256];
};

struct hosts {
	struct migd *m;
	pthread_mutex_t lock;
	struct list list;    /* lock: by name */
	struct rpc_channel **retired; /* lock: to addresses that are no more. Somebody may be about to call on them: closed at the end */
	size_t nretired;
	uint64_t fresh_ns;   /* lock: when the table was read; 0: never */
	uint64_t failed_ns;  /* lock: when it could not be read last */
	pthread_mutex_t asking; /* before lock: one reads it at a time */
	uint64_t reading, whole; /* lock: number of the latest reading begun, and of the latest that came to its end */
};

int hosts_open(struct migd *m, struct hosts **out)
{
	struct hosts *h = calloc(1, sizeof(*h));

	if (!h)
		return -ENOMEM;
	h->m = m;
	pthread_mutex_init(&h->lock, NULL);
	pthread_mutex_init(&h->asking, NULL);
	list_init(&h->list);
	*out = h;
	return 0;
}

void hosts_close(struct hosts *h)
{
	struct list *n;

	if (!h)
		return;
	while ((n = list_pop(&h->list))) {
		struct host *x = list_entry(n, struct host, node);

		for (int i = 0; i < 2; i++)
			if (x->ch[i])
				rpc_channel_close(x->ch[i]);
		free(x);
	}
	for (size_t i = 0; i < h->nretired; i++)
		rpc_channel_close(h->retired[i]);
	free(h->retired);
	pthread_mutex_destroy(&h->lock);
	free(h);
}

static struct host *lookup(struct hosts *h, const char *name)
{
	struct host *x;

	list_each(x, &h->list, node)
		if (!strcmp(x->name, name))
			return x;
	return NULL;
}

static void insert_sorted(struct hosts *h, struct host *n)
{
	struct host *x;

	list_each(x, &h->list, node)
		if (strcmp(x->name, n->name) > 0)
			break;
	list_add_tail(&x->node, &n->node); /* before x; x is the head itself at the end */
}

struct row_arg {
	struct hosts *h;
	uint64_t reading;
};

/* It has moved: calls under way on the old address end. Lock held. */
static void retire(struct hosts *h, struct rpc_channel *ch)
{
	struct rpc_channel **more = ch ? realloc(h->retired, (h->nretired + 1) * sizeof(*more)) : NULL;

	if (more) { /* else it is never closed */
		h->retired = more;
		h->retired[h->nretired++] = ch;
	}
	if (ch)
		rpc_channel_cancel(ch);
}

/* One row of the table. Only a host's own root tells of its migd. */
static void table_row(void *arg, json_t *line)
{
	struct row_arg *ra = arg;
	struct hosts *h = ra->h;
	const char *server = json_string_value(json_object_get(line, "server"));
	const char *host = json_string_value(json_object_get(line, "host"));
	json_int_t port = json_integer_value(json_object_get(line, "mig_port"));
	struct host *x;

	if (!server || !host || !json_is_true(json_object_get(line, "home")) || strlen(server) >= sizeof(x->name) || port < 0 || port > 65535)
		return;
	pthread_mutex_lock(&h->lock);
	x = lookup(h, server);
	if (!x) {
		x = calloc(1, sizeof(*x));
		if (!x) {
			pthread_mutex_unlock(&h->lock);
			return;
		}
		x->hosts = h;
		strcpy(x->name, server);
		insert_sorted(h, x);
	}
	if (x->read < ra->reading)
		x->read = ra->reading;
	x->read_ns = clock_boot_ns();
	x->told_none = !port;
	if (!port)
		port = x->addr.port ? x->addr.port : CONF_MIG_PORT;
	if (x->addr.port != port || strcmp(x->addr.host, host)) {
		retire(h, x->ch[0]);
		retire(h, x->ch[1]);
		memset(x->ch, 0, sizeof(x->ch));
		x->addr.port = port;
		strncpy(x->addr.host, host, sizeof(x->addr.host) - 1);
	}
	pthread_mutex_unlock(&h->lock);
}

/* asking held. Who has waited for another's question has its answer, or knows that there is none. */
static int read_table(struct hosts *h, uint64_t since, struct error *e)
{
	_cleanup_free_ char *path = NULL;
	struct row_arg ra = { .h = h };
	json_t *answer = NULL;
	bool failed, fresh;
	uint64_t now = clock_boot_ns();
	int err;

	pthread_mutex_lock(&h->lock);
	fresh = h->fresh_ns && h->fresh_ns >= since;
	failed = !fresh && h->failed_ns && h->failed_ns >= since;
	if (!fresh && !failed)
		ra.reading = ++h->reading;
	pthread_mutex_unlock(&h->lock);
	if (fresh)
		return 0;
	if (failed)
		return error_set(e, ETIMEDOUT, "the list of hosts comes from spritefs, which does not answer (is %s mounted?)", h->m->conf->mount);
	if (asprintf(&path, "%s/spritefs.sock", h->m->conf->run_dir) < 0)
		return error_set(e, ENOMEM, "out of memory");
	err = local_call_within(path, json_pack("{s:s}", "verb", "prefixes"), table_row, &ra, TABLE_MS, &answer, e);
	json_decref(answer);
	pthread_mutex_lock(&h->lock);
	if (err) {
		h->failed_ns = clock_boot_ns();
	} else {
		h->fresh_ns = now;
		if (h->whole < ra.reading)
			h->whole = ra.reading;
	}
	pthread_mutex_unlock(&h->lock);
	if (err)
		error_prefix(e, "the list of hosts comes from spritefs, which does not answer (is %s mounted?)", h->m->conf->mount);
	return err;
}

int hosts_refresh(struct hosts *h, int max_age_ms, struct error *e)
{
	uint64_t now = clock_boot_ns();
	bool good;
	int err;

	pthread_mutex_lock(&h->lock);
	good = h->fresh_ns && now - h->fresh_ns < max_age_ms * 1000000ull;
	pthread_mutex_unlock(&h->lock);
	if (good)
		return 0;
	pthread_mutex_lock(&h->asking);
	err = read_table(h, now, e);
	pthread_mutex_unlock(&h->asking);
	return err;
}

struct host *hosts_known(struct hosts *h, const char *name)
{
	struct host *x;

	pthread_mutex_lock(&h->lock);
	x = lookup(h, name);
	pthread_mutex_unlock(&h->lock);
	return x;
}

struct host *hosts_find(struct hosts *h, const char *name, struct error *e)
{
	struct error own = { 0 };
	struct host *x;

	for (int i = 0; i < 2; i++) { /* what is not in a table of a second ago may be in a new one */
		own.code = 0;
		hosts_refresh(h, i ? 0 : 1000, &own);
		x = hosts_known(h, name);
		if (x)
			return x; /* also one that fell out of the table a moment ago: calling it tells */
	}
	if (own.code)
		error_set(e, own.code, "%s", own.text);
	else
		error_set(e, ENXIO, "%s: no such host: see mig hosts", name);
	return NULL;
}

bool host_without_migd(struct host *h)
{
	bool none;

	pthread_mutex_lock(&h->hosts->lock);
	none = h->told_none;
	pthread_mutex_unlock(&h->hosts->lock);
	return none;
}

const char *host_name(const struct host *h)
{
	return h->name;
}

int64_t host_answered(struct host *h)
{
	return atomic_load(&h->answered);
}

void host_addr(struct host *h, struct conf_addr *out)
{
	pthread_mutex_lock(&h->hosts->lock);
	*out = h->addr;
	pthread_mutex_unlock(&h->hosts->lock);
}

static struct rpc_channel *channel(struct host *h, int i)
{
	struct rpc_channel *ch;

	pthread_mutex_lock(&h->hosts->lock);
	if (!h->ch[i])
		h->ch[i] = rpc_channel_open(h->hosts->m->tls, &h->addr, h->name, i ? "bulk" : "mig");
	ch = h->ch[i];
	pthread_mutex_unlock(&h->hosts->lock);
	return ch;
}

struct rpc_channel *host_channel(struct host *h)
{
	return channel(h, 0);
}

struct rpc_channel *host_bulk_channel(struct host *h)
{
	return channel(h, 1);
}

bool host_direct(struct host *h)
{
	return clock_mono_ns() >= atomic_load(&h->direct_after);
}

void host_direct_failed(struct host *h)
{
	atomic_store(&h->direct_after, clock_mono_ns() + DIRECT_AGAIN_NS);
}

bool host_lost(int err)
{
	return err == -EHOSTDOWN || err == -ETIMEDOUT || err == -ECANCELED || err == -EPIPE || err == -ECONNRESET;
}

/* All our replies carry their words in field 1. */
static const char *reply_text(const struct rpc_msg *out)
{
	if (!out->msg)
		return NULL;
	if (out->msg->descriptor == &sprite__mig__reply__descriptor)
		return ((const Sprite__Mig__Reply *)out->msg)->text;
	if (out->msg->descriptor == &sprite__mig__send_rep__descriptor)
		return ((const Sprite__Mig__SendRep *)out->msg)->text;
	if (out->msg->descriptor == &sprite__mig__go_rep__descriptor)
		return ((const Sprite__Mig__GoRep *)out->msg)->text;
	return NULL;
}

static int call_failed(struct host *h, int err, struct error *e)
{
	switch (-err) {
	case EHOSTDOWN:
		if (host_without_migd(h))
			return error_set(e, EHOSTDOWN, "%s runs no migd: start it there (systemctl start migd)", h->name);
		return error_set(e, EHOSTDOWN, "%s does not answer: is it up, does its name resolve here, and does its migd run?", h->name);
	case ETIMEDOUT:
		return error_set(e, ETIMEDOUT, "%s did not answer in time", h->name);
	case EACCES:
		return error_set(e, EACCES, "%s: certificates refused: they must come from the same CA, be valid now and carry the host's name (sprite-pki)", h->name);
	default:
		return error_set(e, -err, "calling %s: %s", h->name, strerror(-err));
	}
}

/* Steals the reply. */
static int take_reply(struct rpc_msg *reply, struct rpc_msg *out, struct error *e)
{
	const char *text = reply_text(reply);
	int err = reply->err ? error_set(e, reply->err, "%s", text && *text ? text : strerror(reply->err)) : 0;

	if (out && !err)
		*out = *reply;
	else
		rpc_msg_clear(reply);
	return err;
}

int host_call(struct host *h, enum mig_method method, const ProtobufCMessage *in, int deadline_ms, struct rpc_msg *out, struct error *e)
{
	struct rpc_channel *ch = host_channel(h);
	struct rpc_msg local = { 0 };
	int err;

	if (!ch)
		return error_set(e, ENOMEM, "cannot open a channel to %s", h->name);
	err = rpc_call(ch, &mig_methods[method], in, NULL, 0, deadline_ms, &local);
	return err ? call_failed(h, err, e) : take_reply(&local, out, e);
}

int host_answers(struct host *h, struct error *e)
{
	Sprite__Mig__StatusReq r = SPRITE__MIG__STATUS_REQ__INIT;
	uint64_t end = clock_mono_ns() + PING_MS * 1000000ull;

	for (;;) {
		struct error why = { 0 };
		int err = host_call(h, MIG_STATUS, &r.base, PING_MS, NULL, &why);

		if (err && host_lost(err) && clock_mono_ns() < end) {
			usleep(AGAIN_US);
			continue;
		}
		return err ? error_set(e, -err, "%s", why.text) : 0;
	}
}

struct long_call {
	sem_t done;
	int status;
	struct rpc_msg reply;
};

static void long_done(void *arg, int status, struct rpc_msg *out)
{
	struct long_call *c = arg;

	c->status = status;
	c->reply = *out;
	sem_post(&c->done);
}

int host_call_long(struct host *h, enum mig_method method, const ProtobufCMessage *in, struct rpc_msg *out, struct error *e)
{
	struct rpc_channel *ch = host_channel(h);
	struct long_call c = { 0 };
	struct error silent = { 0 };
	struct timespec until;
	bool over = false;
	uint64_t ticket;

	if (!ch)
		return error_set(e, ENOMEM, "cannot open a channel to %s", h->name);
	sem_init(&c.done, 0, 0);
	ticket = rpc_call_async(ch, &mig_methods[method], in, NULL, 0, -1, long_done, &c);
	while (!over) {
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_sec += LOOK_S;
		over = sem_clockwait(&c.done, CLOCK_MONOTONIC, &until) == 0;
		if (!over && errno == ETIMEDOUT && host_answers(h, &silent)) {
			rpc_cancel(ch, ticket);
			while (sem_wait(&c.done))
				;
			over = true;
		}
	}
	sem_destroy(&c.done);
	if (c.status && silent.code)
		return error_set(e, silent.code, "%s", silent.text);
	return c.status ? call_failed(h, c.status, e) : take_reply(&c.reply, out, e);
}

/* ---- asking everybody at once ---- */

struct status_call {
	struct host_status *s;
	sem_t *done;
};

/* What a host says of itself is shown to users; a string of a message may hold anything. */
static void texts_valid(ProtobufCMessage *m)
{
	for (unsigned i = 0; i < m->descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *d = &m->descriptor->fields[i];
		bool many = d->label == PROTOBUF_C_LABEL_REPEATED;
		void **at = (void **)((char *)m + d->offset);
		size_t n = many ? *(size_t *)((char *)m + d->quantifier_offset) : 1;

		if (d->type != PROTOBUF_C_TYPE_STRING && d->type != PROTOBUF_C_TYPE_MESSAGE)
			continue;
		for (size_t k = 0; k < n; k++) {
			void *x = many ? ((void **)*at)[k] : *at;

			if (x && d->type == PROTOBUF_C_TYPE_STRING)
				text_valid(x);
			else if (x)
				texts_valid(x);
		}
	}
}

static void status_done(void *arg, int status, struct rpc_msg *out)
{
	struct status_call *c = arg;

	if (!status || !atomic_load(&c->s->host->answered))
		atomic_store(&c->s->host->answered, (int64_t)clock_real_ns());
	c->s->err = status ? status : -out->err;
	if (!c->s->err && out->msg) {
		c->s->msg = *out;
		texts_valid(out->msg);
		c->s->rep = (Sprite__Mig__StatusRep *)out->msg;
	} else if (!status) {
		rpc_msg_clear(out);
	}
	sem_post(c->done);
}

static bool is_asked(const struct hosts *h, const struct hosts_ask *q, const struct host *x)
{
	const char *const *name = q->only;

	while (name && *name && strcmp(*name, x->name))
		name++;
	return name ? *name != NULL : x->read >= h->whole || clock_boot_ns() - x->read_ns < REMEMBER_NS;
}

int hosts_status(struct hosts *h, const struct hosts_ask *q, int timeout_ms, struct host_status **out, size_t *n, struct error *e)
{
	Sprite__Mig__StatusReq req = SPRITE__MIG__STATUS_REQ__INIT;
	struct status_call *calls;
	struct host_status *s;
	size_t count = 0, sent = 0;
	struct host *x;
	sem_t done;
	int err = q->only ? 0 : hosts_refresh(h, 1000, e);

	if (err)
		return err;
	pthread_mutex_lock(&h->lock);
	list_each(x, &h->list, node)
		count++;
	s = calloc(count + 1, sizeof(*s));
	calls = calloc(count + 1, sizeof(*calls));
	count = 0;
	if (s && calls)
		list_each(x, &h->list, node)
			if (is_asked(h, q, x))
				s[count++] = (struct host_status){ .host = x, .err = q->only || x->read >= h->whole ? 0 : -EHOSTDOWN };
	pthread_mutex_unlock(&h->lock);
	if (!s || !calls) {
		free(s);
		free(calls);
		return error_set(e, ENOMEM, "out of memory");
	}
	req.guests = q->guests;
	req.stats = q->stats;
	sem_init(&done, 0, 0);
	for (size_t i = 0; i < count; i++) {
		struct rpc_channel *ch = s[i].err ? NULL : host_channel(s[i].host);

		if (!ch) {
			s[i].err = s[i].err ? s[i].err : -ENOMEM;
			continue;
		}
		calls[i] = (struct status_call){ &s[i], &done };
		rpc_call_async(ch, &mig_methods[MIG_STATUS], &req.base, NULL, 0, timeout_ms, status_done, &calls[i]);
		sent++;
	}
	while (sent--)
		while (sem_wait(&done))
			;
	sem_destroy(&done);
	free(calls);
	*out = s;
	*n = count;
	return 0;
}

void hosts_status_free(struct host_status *s, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (s[i].rep)
			rpc_msg_clear(&s[i].msg);
	free(s);
}
