/* SPDX-License-Identifier: Apache-2.0 */
/* Starting and stopping the parts, and what is done once a second; see fsd.h. */
#include "fs/server/fsd.h"
#include "fs/server/hand.h"
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "conf/clock.h"
#include "conf/log.h"
#include "conf/save.h"
#include "fs/server/intent.h"
#include "fs/server/lease.h"
#include "fs/server/recover.h"
#include "fs/server/unlinked.h"
#include "fs/server/watch.h"

#define WORKERS 16

int fsd_own_prefixes(struct fsd *d, struct prefix **out, size_t *n)
{
	const struct conf *c = d->conf;
	struct prefix *rows = calloc(d->exports.n + 1, sizeof(*rows));

	if (!rows)
		return -ENOMEM;
	for (size_t i = 0; i < d->exports.n; i++) {
		const struct export *ex = &d->exports.list[i];

		rows[i] = (struct prefix){
			.prefix = ex->conf->prefix,
			.server = c->name,
			.host = c->fs_listen[0].host,
			.port = rpc_server_port(d->server, 0),
			.mig_port = c->mig_nlisten ? c->mig_listen[0].port : CONF_MIG_PORT,
			.domain = ex->domain,
			.home = ex->conf->home,
		};
	}
	*out = rows;
	*n = d->exports.n;
	return 0;
}

static int own_rows_put(struct fsd *d)
{
	struct prefix *rows;
	size_t n;
	int r = fsd_own_prefixes(d, &rows, &n);

	if (r < 0)
		return r;
	pthread_mutex_lock(&d->prefix_lock);
	for (size_t i = 0; i < n && r == 0; i++)
		r = prefix_table_put(&d->prefixes, &rows[i], clock_boot_ns());
	pthread_mutex_unlock(&d->prefix_lock);
	free(rows);
	return r;
}

/* ---- the table outlives a restart of the root server --------------------------------------------------- */

static void prefixes_path(const struct fsd *d, char *out, size_t n)
{
	snprintf(out, n, "%s/prefixes.json", d->conf->state_dir);
}

void fsd_prefixes_save(struct fsd *d)
{
	json_t *rows = json_array();
	char path[4096];
	int r;

	pthread_mutex_lock(&d->prefix_lock);
	for (size_t i = 0; i < d->prefixes.n; i++) {
		const struct prefix *p = &d->prefixes.rows[i];

		if (p->expires)
			json_array_append_new(rows,
				json_pack("{s:s,s:s,s:s,s:i,s:i,s:I,s:b}", "prefix", p->prefix, "server", p->server, "host", p->host,
					"port", (int)p->port, "mig_port", (int)p->mig_port, "domain", (json_int_t)p->domain, "home",
					p->home));
	}
	prefixes_path(d, path, sizeof(path));
	r = save_json(path, rows, JSON_INDENT(1), false);
	if (r < 0)
		log_warn("%s: cannot write the prefix table: %s", path, strerror(-r));
	pthread_mutex_unlock(&d->prefix_lock);
	json_decref(rows);
}

void fsd_prefixes_load(struct fsd *d)
{
	uint64_t now = clock_boot_ns();
	char path[4096];
	json_t *rows, *row;
	size_t i;

	prefixes_path(d, path, sizeof(path));
	rows = json_load_file(path, 0, NULL);
	json_array_foreach(rows, i, row)
	{
		char *prefix, *server, *host;
		int port, mig_port, home;
		json_int_t domain;
		struct prefix p;

		if (json_unpack(row, "{s:s,s:s,s:s,s:i,s:i,s:I,s:b}", "prefix", &prefix, "server", &server, "host", &host, "port",
			    &port, "mig_port", &mig_port, "domain", &domain, "home", &home) < 0)
			continue;
		p = (struct prefix){prefix, server, host, (uint16_t)port, (uint16_t)mig_port, (uint64_t)domain, home != 0,
			now + PREFIX_TTL_NS};
		prefix_table_put(&d->prefixes, &p, now);
	}
	json_decref(rows);
}

/* ---- life ------------------------------------------------------------------------------------------------- */

static int server_start(struct fsd *d, struct error *e)
{
	struct rpc_server_opts opts = {.tls = d->tls, .workers = WORKERS, .lanes = true, .ctx = d, .listen = d->conf->fs_listen, .nlisten = d->conf->fs_nlisten};

	opts.services = fsd_services(&opts.nservices);
	return rpc_server_start(&opts, &d->server, e);
}

static bool open_closed(void *arg, struct open *f)
{
	struct fsd *d = arg;

	lease_close(d, f);
	hand_offset_put(d, f->offset);
	unlinked_closed(d, f);
	/* not a home's: a program that was just written could not be started there (ETXTBSY) */
	return atomic_load(&f->wrote) && !f->ex->conf->home && graves_close(&d->graves, f->fd);
}

int fsd_start(struct fsd *d, const struct conf *c, struct rpc_tls *tls, struct error *e)
{
	int r;

	memset(d, 0, sizeof(*d));
	d->conf = c;
	d->tls = tls;
	d->root = !strcmp(c->name, c->root_server.host);
	pthread_mutex_init(&d->prefix_lock, NULL);
	pthread_mutex_init(&d->elect_lock, NULL);
	d->elect = elect_new(clock_boot_ns());
	/* a restarted root server's table is another version than any that a client has seen */
	d->prefixes.version = (uint64_t)clock_real_ns() / 1000;
	for (size_t i = 0; i < FSD_CHANGES; i++)
		atomic_init(&d->changes[i], clock_epoch() & 0xffffff);
	clients_init(&d->clients);
	openstate_init(&d->opens);
	d->opens.closed = open_closed;
	d->opens.closed_arg = d;
	grants_init(&d->grants);
	grants_load(&d->grants, c->state_dir);
	graves_init(&d->graves);
	r = exports_open(c, &d->exports, e);
	if (r < 0)
		return r;
	if (!d->elect || locks_start(d) < 0 || hands_start(d) < 0 || events_start(d) < 0 || pipes_start(d) < 0 || leases_start(d) < 0 ||
		recover_start(d) < 0 || graves_start(&d->graves) < 0 || unlinked_start(d) < 0 || watches_start(d) < 0)
		return error_set(e, ENOMEM, "no memory");
	d->intents = intents_open(c->state_dir);
	if (!d->intents)
		return error_set(e, errno, "%s/intents: %s", c->state_dir, strerror(errno));
	atomic_store(&d->grace_hint, recover_in_grace(d));
	if (d->root)
		fsd_prefixes_load(d);
	r = server_start(d, e);
	if (r < 0)
		return r;
	r = own_rows_put(d);
	if (r < 0)
		return error_set(e, -r, "own prefixes: %s", strerror(-r));
	r = registrar_start(d, e);
	if (r < 0)
		return r;
	return control_start(d, e);
}

/* Parked requests must be answered before rpc can stop. */
static void clients_drop_all(struct fsd *d)
{
	struct list gone = LIST_INIT(gone);

	if (!d->leases || !d->locks || !d->recover)
		return;
	d->stopping = true; /* they are clients still, and will come back to the next run */
	recover_abandon(d);
	clients_sweep(&d->clients, UINT64_MAX, NULL, NULL, &gone);
	fsd_release(d, &gone);
}

/* While rpc stops: it first cuts the calls off (their callers will ask the next run), then waits until they were answered. */
static void *drop_later(void *arg)
{
	usleep(50000);
	clients_drop_all(arg);
	return NULL;
}

void fsd_stop(struct fsd *d)
{
	pthread_t dropper;
	bool dropping = d->server && pthread_create(&dropper, NULL, drop_later, d) == 0;

	if (d->control)
		local_server_stop(d->control);
	registrar_stop(d);
	if (d->server)
		rpc_server_stop(d->server);
	if (dropping)
		pthread_join(dropper, NULL);
	openstate_destroy(&d->opens);
	leases_stop(d);
	intents_close(d->intents);
	recover_stop(d);
	hands_stop(d); /* an offer counts at its host */
	clients_destroy(&d->clients);
	locks_stop(d);
	watches_stop(d);
	events_stop(d);
	pipes_stop(d);
	graves_stop(&d->graves);
	unlinked_stop(d);
	exports_close(&d->exports);
	grants_destroy(&d->grants);
	elect_free(d->elect);
	pthread_mutex_destroy(&d->elect_lock);
	prefix_table_clear(&d->prefixes);
	pthread_mutex_destroy(&d->prefix_lock);
}

void fsd_release(struct fsd *d, struct list *gone)
{
	struct list *l;

	while ((l = list_pop(gone))) {
		struct client *c = list_entry(l, struct client, link);
		size_t n = openstate_drop_client(&d->opens, c);

		locks_drop_client(d, c->id);
		lease_client_gone(d, c->id);
		events_drop(d, c);
		if (!d->stopping)
			recover_forget(d, c);
		log_info("client %s (%s) is gone, with %zu open files", c->peer, c->instance, n);
		client_put(c);
	}
}

static void mounts_follow(struct fsd *d)
{
	struct pollfd p = {.fd = d->exports.mountinfo, .events = POLLPRI};

	if (poll(&p, 1, 0) > 0) { /* the first poll after a change says so once */
		exports_rescan(&d->exports);
		watches_tell(d);
	}
}

static bool in_the_way(void *arg, struct client *c)
{
	return lease_owes(arg, c->id) || locks_in_the_way(arg, c->id);
}

static void overdue(struct fsd *d, uint64_t client)
{
	clients_fence(&d->clients, client, clock_boot_ns());
}

void fsd_tick(struct fsd *d)
{
	struct list gone = LIST_INIT(gone);
	uint64_t now = clock_boot_ns();
	size_t expired = 0;

	recover_tick(d);
	locks_tick(d);
	pipes_tick(d);
	graves_expire(&d->graves, now);
	unlinked_tick(d);
	lease_overdue(d, now - CLIENT_TERM_NS, overdue);
	clients_sweep(&d->clients, now, in_the_way, d, &gone);
	fsd_release(d, &gone);
	if (d->root) {
		pthread_mutex_lock(&d->prefix_lock);
		expired = prefix_table_expire(&d->prefixes, now);
		pthread_mutex_unlock(&d->prefix_lock);
	}
	if (expired) {
		fsd_prefixes_save(d);
		events_push(d, SPRITE__FS__EVENT__KIND__PREFIXES, NULL);
	}
	mounts_follow(d);
}
