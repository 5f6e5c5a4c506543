// SPDX-License-Identifier: Apache-2.0
/*
 * migd: moves processes between workstations. See context.h for its parts.
 * Families that are away, and guests, live on when it ends: a new one finds them again by its journal.
 */
#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include "conf/daemon.h"
#include "conf/log.h"
#include "conf/notify.h"
#include "migd/ahead.h"
#include "migd/context.h"
#include "migd/family.h"
#include "migd/guest.h"
#include "migd/home.h"
#include "migd/view.h"

/* CALM_MS: a tick of a host that has nobody away and no guest. */
enum { TICK_MS = 1000, CALM_MS = 4000, HOMES_EVERY = 3, TRIM_EVERY = 4, ARENAS = 2, GRPC_SLACK_MS = 400 };

static bool calm(struct migd *m)
{
	return !families_count(m->families, FAM_HOME) && !families_count(m->families, FAM_GUEST) && !aheads_any(m->aheads);
}

static void run(struct daemon *d, struct migd *m)
{
	struct pollfd p = { .fd = d->signal_fd, .events = POLLIN };
	size_t away = SIZE_MAX, guests = SIZE_MAX;
	unsigned images = 0;

	for (unsigned n = 1;; n++) {
		notify_alive();
		if (poll(&p, 1, calm(m) ? CALM_MS : TICK_MS) > 0) {
			int sig = daemon_signal(d);

			if (sig == SIGTERM || sig == SIGINT)
				return;
			continue;
		}
		guests_tick(m);
		if (n % HOMES_EVERY == 0)
			homes_tick(m);
		aheads_tick(m->aheads);
		views_tick(m->views);
		if (n % TRIM_EVERY == 0 && m->images != images) { /* the memory that images went through belongs to this host's owner */
			images = m->images;
			malloc_trim(0);
		}
		if (away != families_count(m->families, FAM_HOME) || guests != families_count(m->families, FAM_GUEST)) {
			away = families_count(m->families, FAM_HOME);
			guests = families_count(m->families, FAM_GUEST);
			notify_status("%zu away, %zu guests", away, guests);
		}
	}
}

/* A process that moves takes its names along: the tree has this one in every nest. */
static int tree_check(const struct conf *c, struct error *e)
{
	return strcmp(c->mount, "/sprite") ? error_set(e, EINVAL, "mount: expected \"/sprite\" where migd runs, found \"%s\": programs that move find the tree by one name on all hosts", c->mount) : 0;
}

static int check(const struct conf *c, struct error *e)
{
	int r = tree_check(c, e);

	return r < 0 ? r : rpc_tls_check_pair(c, e);
}

static int check_more(const struct conf *c, struct error *e)
{
	int r = rpc_tls_check(c, e);

	return r < 0 ? r : rpc_listen_check(c->mig_listen, c->mig_nlisten, false, e);
}

int main(int argc, char **argv)
{
	struct daemon d = { .program = "migd", .summary = "moves processes between workstations", .check = check, .check_more = check_more, .root = true };
	struct rlimit files = { 65536, 65536 };
	static struct migd *m; /* never freed: actors of families that live on without us may look at it until the process is gone */
	struct error e = { 0 };
	int status;

	if (!daemon_begin(&d, argc, argv, &status))
		return status;
	setrlimit(RLIMIT_NOFILE, &files);
	mallopt(M_ARENA_MAX, ARENAS);
	rpc_init_slack(GRPC_SLACK_MS);
	status = rpc_init();
	if (status) {
		log_error("cannot start threads: %s", strerror(-status));
		daemon_end(&d);
		return 1;
	}
	if (context_open(d.conf, &m, &e) || context_start(m, &e)) {
		log_error("cannot start: %s", e.text);
		context_close(m);
		daemon_end(&d);
		return 1;
	}
	notify_ready();
	log_note("%s: ready; this host %s", d.conf->name, m->lend ? "lends itself" : "does not lend itself");
	run(&d, m);
	notify_stopping();
	context_close(m);
	if (families_alive(m->families))
		daemon_leave(0);
	rpc_shutdown();
	daemon_end(&d);
	return 0;
}
