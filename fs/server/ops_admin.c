/* SPDX-License-Identifier: Apache-2.0 */
/* The prefix table, attaching to a domain, and staying alive as a client. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "conf/clock.h"
#include "conf/log.h"
#include "fs/server/lease.h"
#include "fs/server/ops.h"
#include "fs/server/recover.h"

int op_prefixes(struct op *o, const ProtobufCMessage *m)
{
	Sprite__Fs__PrefixesRep rep;
	struct fsd *d = o->d; /* o is gone once it was answered */
	int r;

	(void)m;
	pthread_mutex_lock(&d->prefix_lock);
	r = prefix_table_to_rep(&d->prefixes, &rep);
	if (r == 0)
		r = op_done(o, &rep.base); /* packs under the lock: the rows are borrowed */
	prefix_rep_free(&rep);
	pthread_mutex_unlock(&d->prefix_lock);
	return r;
}

static bool listed(char *const *v, const char *name)
{
	for (; v && *v; v++)
		if (!strcmp(*v, name))
			return true;
	return false;
}

/* A host may announce its own root; more only when the root server's configuration names it. */
static bool may_register(const struct fsd *d, const char *peer, const Sprite__Fs__Prefix *p)
{
	static const char hosts[] = "/hosts/";

	if (strcmp(p->server, peer) != 0)
		return false;
	if (p->home || !strncmp(p->prefix, hosts, sizeof(hosts) - 1))
		return p->home && !strncmp(p->prefix, hosts, sizeof(hosts) - 1) && !strcmp(p->prefix + sizeof(hosts) - 1, peer);
	return listed(d->conf->fs_servers, peer);
}

static int register_rows(struct op *o, const Sprite__Fs__RegisterReq *in, struct prefix *rows)
{
	uint64_t now = clock_boot_ns();

	for (size_t i = 0; i < in->n_prefixes; i++) {
		const Sprite__Fs__Prefix *w = in->prefixes[i];
		int r;

		if (!prefix_valid(w->prefix) || w->port == 0 || w->port > UINT16_MAX || w->mig_port > UINT16_MAX)
			return -EINVAL;
		if (!may_register(o->d, o->client->peer, w)) {
			log_info("%s: %s is not for it to add: expected its name in spritefsd.servers here (its own /hosts/%s needs no leave)", o->client->peer, w->prefix, o->client->peer);
			return -EPERM;
		}
		rows[i] = (struct prefix){w->prefix, w->server, w->host, (uint16_t)w->port, (uint16_t)w->mig_port, w->domain, w->home,
			now + PREFIX_TTL_NS};
		r = prefix_table_put(&o->d->prefixes, &rows[i], now);
		if (r < 0)
			return r;
	}
	prefix_table_retain(&o->d->prefixes, o->client->peer, rows, in->n_prefixes);
	return 0;
}

int op_register(struct op *o, const ProtobufCMessage *m)
{
	const Sprite__Fs__RegisterReq *in = (const void *)m;
	Sprite__Fs__RegisterRep rep = SPRITE__FS__REGISTER_REP__INIT;
	struct fsd *d = o->d;
	struct prefix *rows;
	uint64_t before;
	int r;

	if (!d->root || in->n_prefixes > PREFIX_MAX)
		return -EINVAL;
	if (!strcmp(o->client->peer, d->conf->name))
		return -EPERM; /* our own rows never expire and come from our configuration */
	rows = calloc(in->n_prefixes + 1, sizeof(*rows));
	if (!rows)
		return -ENOMEM;
	pthread_mutex_lock(&d->prefix_lock);
	before = d->prefixes.version;
	r = register_rows(o, in, rows);
	rep.version = d->prefixes.version;
	pthread_mutex_unlock(&d->prefix_lock);
	free(rows);
	if (rep.version != before) {
		fsd_prefixes_save(d);
		events_push(d, SPRITE__FS__EVENT__KIND__PREFIXES, NULL);
	}
	if (r < 0) {
		log_info("%s: registration refused: %s", o->client->peer, strerror(-r));
		return r;
	}
	return op_done(o, &rep.base);
}

int op_attach(struct op *o, const ProtobufCMessage *m)
{
	const Sprite__Fs__AttachReq *in = (const void *)m;
	Sprite__Fs__AttachRep rep = SPRITE__FS__ATTACH_REP__INIT;
	struct export *ex = exports_by_prefix(&o->d->exports, in->prefix);
	struct object root _cleanup_object_ = OBJECT_INIT;
	struct list gone = LIST_INIT(gone);
	struct op_entry e;
	struct stat st;
	int r;

	if (!ex)
		return -ENOENT;
	r = export_open_root(ex, &root);
	if (r == 0 && fstat(root.fd, &st) < 0)
		r = -errno;
	if (r == 0)
		r = op_entry(o, &root, &st, 0, &e);
	if (r < 0)
		return r;
	r = op_resolve_allowed(o, ex);
	if (r < 0)
		return r;
	clients_claim(&o->d->clients, o->client, in->instance, &gone);
	fsd_release(o->d, &gone);
	r = recover_note(o->d, o->client);
	if (r < 0)
		return r;
	if (in->leases && !ex->conf->home)
		lease_client_add(o, in->ack_now);
	rep.handle = e.msg.handle;
	rep.attr = &e.attr;
	rep.domain = ex->domain;
	rep.readonly = ex->conf->readonly;
	rep.exclusive = lease_exclusive(ex);
	rep.server_epoch = clock_epoch();
	rep.lease_ms = (uint32_t)(CLIENT_TERM_NS / 1000000);
	rep.lease_epoch = o->client->id;
	return op_done(o, &rep.base);
}

int op_renew(struct op *o, const ProtobufCMessage *m)
{
	const Sprite__Fs__RenewReq *in = (const void *)m;
	Sprite__Fs__RenewRep rep = SPRITE__FS__RENEW_REP__INIT;

	/* Who has not heard of our restart yet speaks of the life before it: ending the grace for that would give his locks away. */
	if (in->recovered && in->server_epoch == clock_epoch())
		recover_done(o->d, o->client);
	rep.grace = recover_in_grace(o->d);
	rep.server_epoch = clock_epoch();
	rep.lease_epoch = o->client->id;
	rep.real_ns = (uint64_t)clock_real_ns();
	rep.lease_ms = (uint32_t)(CLIENT_TERM_NS / 1000000);
	return op_done(o, &rep.base);
}

int op_status(struct op *o, const ProtobufCMessage *m)
{
	Sprite__Fs__Empty rep = SPRITE__FS__EMPTY__INIT;
	json_t *status = fsd_status(o->d);
	char *text = json_dumps(status, JSON_COMPACT);

	(void)m;
	json_decref(status);
	if (!text)
		return -ENOMEM;
	if (strlen(text) > FS_IO_MAX) {
		free(text);
		return -EFBIG;
	}
	return op_done_bulk(o, &rep.base, text, strlen(text));
}

int op_elect(struct op *o, const ProtobufCMessage *m)
{
	const Sprite__Fs__ElectReq *in = (const void *)m;
	Sprite__Fs__ElectRep rep = SPRITE__FS__ELECT_REP__INIT;
	struct elect_ask ask = {in->office, o->client->peer, in->value, in->term, in->holding, in->resign};
	struct elect_answer answer;
	int r;

	if (!o->d->root)
		return -EOPNOTSUPP;
	pthread_mutex_lock(&o->d->elect_lock);
	r = elect_ask(o->d->elect, &ask, clock_boot_ns(), &answer);
	pthread_mutex_unlock(&o->d->elect_lock);
	if (r < 0)
		return r;
	rep.holder = answer.holder;
	rep.value = answer.value;
	rep.term = answer.term;
	rep.you = answer.you;
	rep.ttl_ms = (uint32_t)(ELECT_TTL_NS / 1000000);
	rep.left_ms = (uint32_t)(answer.left_ns / 1000000);
	return op_done(o, &rep.base);
}
