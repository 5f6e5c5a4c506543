/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spritefsd: the file server. Serves the exports of the configuration as domains, keeps the prefix table when this host is the root server,
 * and ends in order on SIGTERM.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include "conf/daemon.h"
#include "conf/log.h"
#include "conf/notify.h"
#include "fs/server/fsd.h"
#include "fs/server/ids.h"
#include "fs/server/metrics.h"

#define STOP_S 3 /* for an orderly end */

static int print_status(const struct conf *c, bool metrics)
{
	struct error e = {0};
	json_t *answer = NULL;
	char path[4096];

	snprintf(path, sizeof(path), "%s/spritefsd.sock", c->run_dir);
	if (local_call(path, json_pack("{s:s}", "verb", "status"), NULL, NULL, &answer, &e) < 0) {
		fprintf(stderr, "spritefsd: %s\n", e.text);
		return EXIT_FAILURE;
	}
	if (metrics) {
		metrics_print(stdout, json_object_get(answer, "status"));
	} else {
		json_dumpf(json_object_get(answer, "status"), stdout, JSON_INDENT(2));
		putchar('\n');
	}
	json_decref(answer);
	return EXIT_SUCCESS;
}

/* One descriptor per open file of every client. */
static void limit_raise(void)
{
	struct rlimit l = {1 << 20, 1 << 20};

	if (setrlimit(RLIMIT_NOFILE, &l) == 0)
		return;
	if (getrlimit(RLIMIT_NOFILE, &l) == 0) {
		l.rlim_cur = l.rlim_max;
		setrlimit(RLIMIT_NOFILE, &l);
	}
}

static int dirs_make(const struct conf *c, struct error *e)
{
	if ((mkdir(c->run_dir, 0755) < 0 && errno != EEXIST))
		return error_set(e, errno, "%s: %s", c->run_dir, strerror(errno));
	if ((mkdir(c->state_dir, 0700) < 0 && errno != EEXIST))
		return error_set(e, errno, "%s: %s", c->state_dir, strerror(errno));
	return daemon_alone("spritefsd", c->state_dir, e);
}

static void run(struct fsd *d, struct daemon *dm)
{
	struct pollfd p = {.fd = dm->signal_fd, .events = POLLIN};

	notify_ready();
	log_note("serving %zu domains%s", d->exports.n, d->root ? ", root server" : "");
	for (;;) {
		int sig = poll(&p, 1, 1000) > 0 ? daemon_signal(dm) : 0;

		if (sig == SIGTERM || sig == SIGINT)
			break;
		fsd_tick(d);
		notify_alive();
	}
	notify_stopping();
}

/* A call may hang in a slow disk. Nothing is lost by not waiting for it: clients bring back what they hold, and repeat what was not answered. */
static void leave(int sig)
{
	static const char text[] = "spritefsd: calls are still under way; leaving them to the next run\n";

	(void)sig;
	if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0) {
		/* nowhere to say it */
	}
	_exit(EXIT_SUCCESS);
}

static int serve(struct daemon *dm)
{
	const struct conf *c = dm->conf;
	struct rpc_tls *tls = NULL;
	struct error e = {0};
	struct fsd *d;
	int r;

	signal(SIGXFSZ, SIG_IGN); /* a limit of ours is the caller's EFBIG */
	umask(022);
	limit_raise();
	r = dirs_make(c, &e);
	if (r == 0)
		r = ids_init(&e);
	d = calloc(1, sizeof(*d));
	if (!d)
		r = error_set(&e, ENOMEM, "no memory");
	if (r == 0 && (r = rpc_init()) < 0)
		error_set(&e, -r, "cannot start threads: %s", strerror(-r));
	if (r < 0) {
		log_error("%s", e.text);
		free(d);
		return EXIT_FAILURE;
	}
	r = rpc_tls_load(c, &tls, &e);
	if (r == 0) {
		r = fsd_start(d, c, tls, &e);
		if (r == 0)
			run(d, dm);
		signal(SIGALRM, leave);
		alarm(STOP_S);
		fsd_stop(d);
		alarm(0);
		rpc_tls_free(tls);
	}
	rpc_shutdown();
	if (r < 0)
		log_error("%s", e.text);
	free(d);
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

static bool status_wanted, metrics_wanted;
static const struct daemon_option options[] = {
	{"status", NULL, "print the running server's status as JSON", NULL, &status_wanted},
	{"metrics", NULL, "print it as Prometheus text", NULL, &metrics_wanted},
	{0},
};

static int check_more(const struct conf *c, struct error *e)
{
	int r = rpc_tls_check(c, e);

	return r < 0 ? r : rpc_listen_check(c->fs_listen, c->fs_nlisten, false, e);
}

int main(int argc, char **argv)
{
	struct daemon dm = {.program = "spritefsd", .summary = "serves directories as domains of /sprite", .options = options, .check = rpc_tls_check_pair, .check_more = check_more,
			    .root = true};
	int status;

	if (!daemon_begin(&dm, argc, argv, &status))
		return status;
	status = status_wanted || metrics_wanted ? print_status(dm.conf, metrics_wanted) : serve(&dm);
	daemon_end(&dm);
	return status;
}
