// SPDX-License-Identifier: Apache-2.0
/* Election and reports; see office.h. The lease counts from before the question was sent, so we stop before the server gives the office to another. */
#include "migd/office.h"
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/log.h"
#include "migd/hosts.h"
#include "migd/select.h"
#include "migd/master.h"
#include "migd/owner.h"
#include "rpc/master.pb-c.h"

enum { ELECT_MS = 1000, REPORT_EVERY = 5, REPORT_CALL_MS = 2000 };

struct office {
	struct migd *m;
	char *spritefs_sock;
	char arch[65];
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	bool stop, report;     /* lock */
	uint64_t until_ns;     /* lock: we hold the office until then; 0: not at all */
	uint64_t term;	       /* lock: the highest heard of */
	char master[256];      /* lock */
	bool heard, told;      /* the thread's: the last election was answered; it was said that the first was not */
};

/* Asks once. resign: gives up, or only looks. */
static void stand(struct office *o, bool resign)
{
	json_t *rq, *rep = NULL;
	struct error e = {0};
	uint64_t sent = clock_boot_ns();
	int err;

	pthread_mutex_lock(&o->lock);
	rq = json_pack("{s:s, s:s, s:s, s:I, s:b, s:b}", "verb", "elect", "office", "master", "value", "", "term", (json_int_t)o->term, "holding",
		o->until_ns > sent, "resign", resign);
	pthread_mutex_unlock(&o->lock);
	if (!rq)
		return;
	err = local_call(o->spritefs_sock, rq, NULL, NULL, &rep, &e);
	if (err) {
		if (o->heard)
			log_info("election: %s", e.text);
		else if (!o->told && !resign)
			log_warn("no election yet: %s%s", e.text, err == -ENOENT || err == -ECONNREFUSED ? " Nothing moves before Sprite's tree is mounted." : "");
		o->heard = false;
		o->told = true;
		json_decref(rep);
		return; /* what we hold runs out by itself */
	}
	const char *holder = json_string_value(json_object_get(rep, "holder"));
	bool you = json_is_true(json_object_get(rep, "you"));
	uint64_t ttl = (uint64_t)json_integer_value(json_object_get(rep, "ttl_ms")) * 1000000;

	pthread_mutex_lock(&o->lock);
	o->heard = o->told = true;
	o->term = (uint64_t)json_integer_value(json_object_get(rep, "term"));
	o->until_ns = you ? sent + ttl : 0;
	if (holder && strcmp(o->master, holder)) {
		snprintf(o->master, sizeof o->master, "%s", holder);
		o->report = true;
		if (holder[0] && !you)
			log_note("the master is %s", holder);
	}
	pthread_mutex_unlock(&o->lock);
	json_decref(rep);
}

static void report(struct office *o)
{
	Sprite__Master__Report r = SPRITE__MASTER__REPORT__INIT;
	Sprite__Mig__StatusRep *own = host_own_status(o->m, &(struct hosts_ask){0});
	struct rpc_msg out = {0};
	struct error e = {0};
	char master[256];
	struct host *h;

	if (!own)
		return;
	office_master(o, master, sizeof master);
	r.arch = o->arch;
	r.features = own->cpu;
	r.offers = own->lend && own->idle;
	r.import = own->root_guests ? POLICY_ALL : POLICY_USERS;
	r.idle_ms = own->idle_ms;
	r.slots = own->cpus;
	if (!strcmp(master, o->m->conf->name)) {
		master_host(o->m->master, master, &r);
	} else if (master[0] && (h = hosts_find(o->m->hosts, master, &e))) {
		host_call(h, MIG_MASTER_REPORT, &r.base, REPORT_CALL_MS, &out, &e);
		rpc_msg_clear(&out);
	}
	host_own_free(own);
}

static bool offers(struct migd *m)
{
	struct owner_view v = {0};

	if (m->owner)
		owner_look(m->owner, &v);
	return m->lend && v.idle;
}

static void *office_main(void *arg)
{
	struct office *o = arg;
	bool told = false;

	for (unsigned n = 0;; n++) {
		struct timespec until;
		bool now, offer;

		stand(o, false);
		master_tick(o->m->master, office_holding(o));
		offer = offers(o->m);
		pthread_mutex_lock(&o->lock);
		now = o->report || offer != told || n % REPORT_EVERY == 0;
		o->report = false;
		pthread_mutex_unlock(&o->lock);
		told = offer;
		if (now)
			report(o);
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_sec += ELECT_MS / 1000;
		pthread_mutex_lock(&o->lock);
		while (!o->stop && !o->report && !pthread_cond_timedwait(&o->wake, &o->lock, &until))
			;
		now = o->stop;
		pthread_mutex_unlock(&o->lock);
		if (now)
			return NULL;
	}
}

int office_open(struct migd *m, struct office **out, struct error *e)
{
	struct office *o = calloc(1, sizeof *o);
	pthread_condattr_t attr;
	struct utsname u;

	if (!o || asprintf(&o->spritefs_sock, "%s/spritefs.sock", m->conf->run_dir) < 0) {
		free(o);
		return error_set(e, ENOMEM, "out of memory");
	}
	o->m = m;
	uname(&u);
	snprintf(o->arch, sizeof o->arch, "%s", u.machine);
	pthread_mutex_init(&o->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&o->wake, &attr);
	if (pthread_create(&o->thread, NULL, office_main, o)) {
		free(o->spritefs_sock);
		free(o);
		return error_set(e, EAGAIN, "no thread for elections: %s", strerror(EAGAIN));
	}
	__atomic_store_n(out, o, __ATOMIC_RELEASE);
	return 0;
}

void office_close(struct office *o)
{
	if (!o)
		return;
	pthread_mutex_lock(&o->lock);
	o->stop = true;
	pthread_cond_signal(&o->wake);
	pthread_mutex_unlock(&o->lock);
	pthread_join(o->thread, NULL);
	if (office_holding(o))
		stand(o, true);
}

void office_free(struct office *o)
{
	if (!o)
		return;
	free(o->spritefs_sock);
	pthread_cond_destroy(&o->wake);
	pthread_mutex_destroy(&o->lock);
	free(o);
}

bool office_holding(struct office *o)
{
	pthread_mutex_lock(&o->lock);
	bool yes = o->until_ns > clock_boot_ns();
	pthread_mutex_unlock(&o->lock);
	return yes;
}

uint64_t office_master(struct office *o, char *name, size_t n)
{
	pthread_mutex_lock(&o->lock);
	uint64_t term = o->term;

	snprintf(name, n, "%s", o->master);
	pthread_mutex_unlock(&o->lock);
	return term;
}

void office_report_soon(struct office *o)
{
	pthread_mutex_lock(&o->lock);
	o->report = true;
	pthread_cond_signal(&o->wake);
	pthread_mutex_unlock(&o->lock);
}
