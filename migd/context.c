// SPDX-License-Identifier: Apache-2.0
/* Puts migd together and takes it apart; see context.h. */
#include "migd/access.h"
#include "migd/context.h"
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/daemon.h"
#include "conf/log.h"
#include "migd/agent.h"
#include "migd/ahead.h"
#include "migd/cgroup.h"
#include "migd/ctl.h"
#include "migd/engine/engine.h"
#include "migd/env.h"
#include "migd/family.h"
#include "migd/forward.h"
#include "migd/guest.h"
#include "migd/home.h"
#include "migd/hosts.h"
#include "migd/journal.h"
#include "migd/master.h"
#include "migd/office.h"
#include "migd/owner.h"
#include "migd/relay_rpc.h"
#include "migd/relays.h"
#include "migd/stats.h"
#include "migd/status.h"
#include "migd/transfer.h"
#include "migd/view.h"

enum { WORKERS = 8 };

/*
 * One migd a host: what its journal does not know it takes for left over, among the cgroups and processes of the whole host. So the lock that says so is where no
 * configuration leads elsewhere.
 */
#define MIGD_OF_THE_HOST "/run/sprite"

static const struct rpc_service services[] = {
	{ &mig_methods[MIG_STATUS], status_serve, NULL },
	{ &mig_methods[MIG_PREPARE], guest_prepare, NULL },
	{ &mig_methods[MIG_SEND], guest_send, NULL },
	{ &mig_methods[MIG_RELEASE], guest_release, NULL },
	{ &mig_methods[MIG_GO], guest_go, NULL },
	{ &mig_methods[MIG_ABORT], guest_abort, NULL },
	{ &mig_methods[MIG_SIGNAL], guest_signal, NULL },
	{ &mig_methods[MIG_REPORT], home_report, NULL },
	{ &mig_methods[MIG_SYNC], home_sync, NULL },
	{ &mig_methods[MIG_EVICT], home_evict, NULL },
	{ &mig_methods[MIG_ENV], env_serve, NULL },
	{ &mig_methods[MIG_CALL], forward_serve, NULL },
	{ &mig_methods[MIG_IMAGE], NULL, transfer_serve },
	{ &mig_methods[MIG_RELAY], NULL, relay_rpc_serve },
	{ &mig_methods[MIG_MASTER_REPORT], master_serve_report, NULL },
	{ &mig_methods[MIG_MASTER_ASK], NULL, master_serve_ask },
};

/* Our programs lie beside us. */
static char *beside_us(const char *name)
{
	char exe[PATH_MAX], *slash, *out;
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);

	if (n < 0)
		return NULL;
	exe[n] = 0;
	slash = strrchr(exe, '/');
	if (!slash)
		return NULL;
	*slash = 0;
	return asprintf(&out, "%s/%s", exe, name) < 0 ? NULL : out;
}

static int make_dir(const char *path, struct error *e)
{
	if (mkdir(path, 0755) && errno != EEXIST)
		return error_set(e, errno, "%s: cannot make the directory: %s", path, strerror(errno));
	return 0;
}

static void replay(void *arg, json_t *r)
{
	struct migd *m = arg;
	const char *t = json_string_value(json_object_get(r, "t"));

	if (!strcmp(t, "guest"))
		guest_replay(m, r);
	else if (!strcmp(t, "adopted"))
		guest_replay_adopted(m, r);
	else if (!strcmp(t, "heard"))
		guest_replay_heard(m, r);
	else if (!strcmp(t, "sig") || !strcmp(t, "rep") || !strcmp(t, "call"))
		json_array_append(m->replay_later, r);
	else if (!strcmp(t, "away") || !strcmp(t, "move") || !strcmp(t, "commit"))
		home_replay(m, r);
}

int context_open(const struct conf *conf, struct migd **out, struct error *e)
{
	struct migd *m = calloc(1, sizeof(*m));
	struct error cge = { 0 };
	int err;

	if (!m)
		return error_set(e, ENOMEM, "out of memory");
	*out = m;
	m->conf = conf;
	m->keeper = beside_us("sprite-keeper");
	m->spritefs = beside_us("spritefs");
	m->relay = beside_us("sprite-relay");
	lend_load(m);
	if (!m->keeper || !m->spritefs || !m->relay)
		err = error_set(e, ENOENT, "cannot find where this program lies");
	else
		err = make_dir(MIGD_OF_THE_HOST, e);
	if (!err) /* wherever our state is */
		err = daemon_alone("migd", MIGD_OF_THE_HOST, e);
	if (!err)
		err = make_dir(conf->run_dir, e);
	if (!err)
		err = make_dir(conf->state_dir, e);
	if (!err) /* which another host's, or a container's, may be by mistake */
		err = daemon_alone("migd", conf->state_dir, e);
	if (!err)
		err = rpc_tls_load(conf, &m->tls, e);
	if (!err)
		err = relayd_open(m, &m->relayd, e);
	if (!err && (hosts_open(m, &m->hosts) || families_open(m, &m->families) || access_open(m, &m->access) || views_open(m, &m->views) || aheads_open(m, &m->aheads) || adopteds_open(&m->adopteds) ||
			    master_open(m, &m->master) || agents_open(m, &m->agents) || stats_open(m, &m->stats) || envs_open(m, &m->envs)))
		err = error_set(e, ENOMEM, "out of memory");
	if (!err && cgroups_open(&m->cgroups, &cge)) {
		log_note("guests get no cgroup of their own: %s", cge.text);
		m->cgroups = NULL;
	}
	return err;
}

int context_start(struct migd *m, struct error *e)
{
	struct rpc_server_opts o = { .tls = m->tls, .listen = m->conf->mig_listen, .nlisten = m->conf->mig_nlisten, .workers = WORKERS, .services = services,
		.nservices = ARRAY_SIZE(services), .ctx = m };
	_cleanup_free_ char *journal = NULL, *sock = NULL;
	int err;

	if (asprintf(&journal, "%s/migd.journal", m->conf->state_dir) < 0 || asprintf(&sock, "%s/migd.sock", m->conf->run_dir) < 0)
		return error_set(e, ENOMEM, "out of memory");
	/* Nobody may ask before we know again what we hold. */
	m->replay_later = json_array();
	err = journal_open(journal, replay, m, &m->journal, e);
	if (!err) {
		guests_replayed(m);
		homes_replayed(m);
		eng_end_strays();
		relayd_sweep(m->relayd);
	}
	json_decref(m->replay_later);
	if (!err && access_start(m->access))
		err = error_set(e, EAGAIN, "no thread for the grants on this host's files");
	if (!err && owner_open(m, &m->owner, e))
		err = -EIO;
	if (!err)
		err = rpc_server_start(&o, &m->server, e);
	if (!err)
		err = office_open(m, &m->office, e);
	if (!err)
		err = local_server_start(sock, 0666, ctl_handler, m, &m->ctl, e);
	return err;
}

void context_close(struct migd *m)
{
	if (!m)
		return;
	m->stopping = true;
	if (m->ctl)
		local_server_stop(m->ctl);
	agents_close(m->agents);
	office_close(m->office);
	if (m->server)
		rpc_server_stop(m->server);
	master_close(m->master);
	stats_close(m->stats);
	aheads_close(m->aheads);
	owner_stop(m->owner);
	if (families_alive(m->families))
		return; /* the rest is in use by actors of families that live on without us, until the process is gone */
	owner_close(m->owner);
	office_free(m->office);
	access_close(m->access);
	views_close(m->views);
	hosts_close(m->hosts);
	journal_close(m->journal);
	if (m->cgroups)
		cgroups_close(m->cgroups);
	/* The families' table stays: actors of families that live on without us may still look at it until the process is gone. */
	if (m->tls)
		rpc_tls_free(m->tls);
	free(m->keeper);
	free(m->spritefs);
	relayd_close(m->relayd);
	free(m->relay);
}
