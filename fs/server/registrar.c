/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keeps our domains in the root server's prefix table: registers every 10 s, and at once when the connection comes up or the root server was
 * restarted. The root server itself needs none: its rows are put into the table directly.
 *
 * Locking: registrar.lock guards `stop` and `now`.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "conf/log.h"
#include "fs/server/fsd.h"

#define REGISTER_EVERY_S 10
#define REGISTER_RETRY_S 1

struct registrar {
	struct fsd *d;
	struct rpc_channel *ch;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	bool stop;
	bool now; /* the connection has just come up */
	bool running;
};

static int register_once(struct registrar *rg)
{
	Sprite__Fs__RegisterReq req = SPRITE__FS__REGISTER_REQ__INIT;
	struct prefix *rows = NULL;
	Sprite__Fs__Prefix *w;
	Sprite__Fs__Prefix **list;
	struct rpc_msg rep;
	size_t n = 0;
	int r = fsd_own_prefixes(rg->d, &rows, &n);

	if (r < 0)
		return r;
	w = calloc(n + 1, sizeof(*w));
	list = calloc(n + 1, sizeof(Sprite__Fs__Prefix *));
	for (size_t i = 0; w && list && i < n; i++) {
		sprite__fs__prefix__init(&w[i]);
		w[i].prefix = rows[i].prefix;
		w[i].server = rows[i].server;
		w[i].host = rows[i].host;
		w[i].port = rows[i].port;
		w[i].mig_port = rows[i].mig_port;
		w[i].domain = rows[i].domain;
		w[i].home = rows[i].home;
		list[i] = &w[i];
	}
	req.n_prefixes = n;
	req.prefixes = list;
	r = w && list ? rpc_call(rg->ch, &fs_methods[FS_REGISTER], &req.base, NULL, 0, 5000, &rep) : -ENOMEM;
	if (r == 0) {
		r = -rep.err;
		rpc_msg_clear(&rep);
	}
	free(w);
	free(list);
	free(rows);
	return r;
}

static void *registrar_run(void *arg)
{
	struct registrar *rg = arg;
	int last = 1;

	pthread_mutex_lock(&rg->lock);
	while (!rg->stop) {
		struct timespec until;
		int r;

		rg->now = false;
		pthread_mutex_unlock(&rg->lock);
		r = register_once(rg);
		if (r != last && r < 0)
			log_warn("root server %s: registration: %s", rg->d->conf->root_server.host,
				r == -EHOSTDOWN && !rpc_resolves(rg->d->conf->root_server.host) ? "it does not resolve (DNS or /etc/hosts)"
				: r == -EPERM ? "it lets this host add no domain but its own home (spritefsd.servers there names who may)"
					      : strerror(-r));
		else if (r != last)
			log_note("registered with root server %s", rg->d->conf->root_server.host);
		last = r;
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_sec += r < 0 ? REGISTER_RETRY_S : REGISTER_EVERY_S;
		pthread_mutex_lock(&rg->lock);
		while (!rg->stop && !rg->now && pthread_cond_timedwait(&rg->wake, &rg->lock, &until) != ETIMEDOUT)
			;
	}
	pthread_mutex_unlock(&rg->lock);
	return NULL;
}

static void channel_changed(void *arg, bool up)
{
	struct registrar *rg = arg;

	if (!up)
		return;
	pthread_mutex_lock(&rg->lock);
	rg->now = true;
	pthread_cond_signal(&rg->wake);
	pthread_mutex_unlock(&rg->lock);
}

int registrar_start(struct fsd *d, struct error *e)
{
	struct registrar *rg;
	pthread_condattr_t a;

	if (d->root)
		return 0;
	rg = calloc(1, sizeof(*rg));
	if (!rg)
		return error_set(e, ENOMEM, "no memory");
	rg->d = d;
	pthread_mutex_init(&rg->lock, NULL);
	pthread_condattr_init(&a);
	pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
	pthread_cond_init(&rg->wake, &a);
	pthread_condattr_destroy(&a);
	d->registrar = rg;
	rg->ch = rpc_channel_open(d->tls, &d->conf->root_server, d->conf->root_server.host, "register");
	if (!rg->ch)
		return error_set(e, ENOMEM, "no channel to the root server");
	rpc_channel_watch(rg->ch, channel_changed, rg);
	if (pthread_create(&rg->thread, NULL, registrar_run, rg) != 0)
		return error_set(e, EAGAIN, "no thread");
	rg->running = true;
	return 0;
}

void registrar_stop(struct fsd *d)
{
	struct registrar *rg = d->registrar;

	if (!rg)
		return;
	pthread_mutex_lock(&rg->lock);
	rg->stop = true;
	pthread_cond_signal(&rg->wake);
	pthread_mutex_unlock(&rg->lock);
	if (rg->running)
		pthread_join(rg->thread, NULL);
	if (rg->ch)
		rpc_channel_close(rg->ch);
	pthread_cond_destroy(&rg->wake);
	pthread_mutex_destroy(&rg->lock);
	free(rg);
	d->registrar = NULL;
}
