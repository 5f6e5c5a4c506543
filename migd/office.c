// SPDX-License-Identifier: Apache-2.0
/* Election and reports; see office.h. The lease counts from before the question was sent, so we stop before the server gives the office to another. */
#include "migd/office.h"
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
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

#define REPORT_NS 6000000000ull /* the time of two elections, with the second of which it goes: this host wakes once for both */
#define REPORT_EARLY_NS 1000000000ull
#define REPORT_AGAIN_NS 2000000000ull /* one that was not heard */
enum { ELECT_MS = 2000, TURN_MS = 1000, SPREAD_MS = 200, REPORT_CALL_MS = 2000 };

struct office {
	struct migd *m;
	char *spritefs_sock;
	char arch[65];
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	bool stop, report, look; /* lock; look: who is the master now? */
	uint64_t until_ns;     /* lock: we hold the office until then; 0: not at all */
	uint64_t term;	       /* lock: the highest heard of */
	char master[256];      /* lock */
	bool reported;	       /* the thread's: the master heard the last report */
	bool heard, told;      /* the thread's: the last election was answered; it was said that the first was not */
	uint64_t due_ns;       /* lock: before that an election would change nothing */
};

/* Who holds the office asks with each turn; the others when it may be free: they hear for how long it is not. All do so then, so not all at once. */
static uint64_t next_election(uint64_t now, bool you, uint64_t left_ms)
{
	uint32_t spread = 0; /* not random(3): its numbers are the same on every host */

	if (getrandom(&spread, sizeof(spread), GRND_NONBLOCK) < 0)
		spread = (uint32_t)now;
	return you || !left_ms ? now : now + (left_ms + spread % SPREAD_MS) * 1000000;
}

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
	err = local_call_within(o->spritefs_sock, rq, NULL, NULL, ELECT_MS, &rep, &e);
	if (err) {
		if (o->heard)
			log_info("election: %s", e.text);
		else if (!o->told && !resign)
			log_warn("no election yet: %s%s", e.text, err == -ENOENT || err == -ECONNREFUSED ? " Nothing moves before Sprite's tree is mounted." : "");
		o->heard = false;
		o->told = true;
		pthread_mutex_lock(&o->lock);
		o->due_ns = 0;
		pthread_mutex_unlock(&o->lock);
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
	o->due_ns = next_election(clock_boot_ns(), you, (uint64_t)json_integer_value(json_object_get(rep, "left_ms")));
	if (holder && strcmp(o->master, holder)) {
		snprintf(o->master, sizeof o->master, "%s", holder);
		o->report = true;
		if (holder[0] && !you)
			log_note("the master is %s", holder);
	}
	pthread_mutex_unlock(&o->lock);
	json_decref(rep);
}

/* Whom guest.c would refuse is not to be sent by the master. */
static enum select_policy import_policy(const struct conf *c, bool root_guests)
{
	if (!strcmp(c->imports, "none") || (!strcmp(c->imports, "root") && !root_guests))
		return POLICY_NONE;
	return !strcmp(c->imports, "root") ? POLICY_ROOT : root_guests ? POLICY_ALL : POLICY_USERS;
}

/* false: who is thought to be the master does not hear it, or is not. */
static bool report(struct office *o)
{
	Sprite__Master__Report r = SPRITE__MASTER__REPORT__INIT;
	Sprite__Mig__StatusRep *own = host_own_status(o->m, &(struct hosts_ask){0});
	struct rpc_msg out = {0};
	struct error e = {0};
	char master[256];
	struct host *h;
	bool heard = true;
	int err;

	if (!own)
		return true;
	office_master(o, master, sizeof master);
	r.arch = o->arch;
	r.features = own->cpu;
	r.offers = own->lend && own->idle;
	r.import = import_policy(o->m->conf, own->root_guests);
	r.idle_ms = own->idle_ms;
	r.slots = own->cpus;
	if (!strcmp(master, o->m->conf->name)) {
		master_host(o->m->master, master, &r);
	} else if (master[0] && ((h = o->reported ? hosts_known(o->m->hosts, master) : NULL) || (h = hosts_find(o->m->hosts, master, &e)))) {
		err = host_call(h, MIG_MASTER_REPORT, &r.base, REPORT_CALL_MS, &out, &e);
		heard = !err && ((const Sprite__Master__ReportRep *)out.msg)->master;
		rpc_msg_clear(&out);
	}
	o->reported = heard;
	host_own_free(own);
	return heard;
}

static bool offers(struct migd *m)
{
	struct owner_view v = {0};

	if (m->owner)
		owner_look(m->owner, &v);
	return m->lend && v.idle;
}

/* Until the next turn, or until somebody has something to say. Returns whether there is one. */
static bool rest(struct office *o, uint64_t report_ns)
{
	struct timespec until;
	uint64_t now = clock_boot_ns(), ms = TURN_MS, next;
	bool stop;

	clock_gettime(CLOCK_MONOTONIC, &until);
	pthread_mutex_lock(&o->lock);
	next = o->due_ns < report_ns ? o->due_ns : report_ns;
	if (o->due_ns > now) /* else we hold the office, or look for who does: every TURN_MS */
		ms = next > now ? (next - now) / 1000000 + 1 : 1;
	until.tv_nsec += (long)(ms % 1000) * 1000000;
	until.tv_sec += (time_t)(ms / 1000) + until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	while (!o->stop && !o->report && !o->look && !pthread_cond_timedwait(&o->wake, &o->lock, &until))
		;
	stop = o->stop;
	pthread_mutex_unlock(&o->lock);
	return !stop;
}

static void *office_main(void *arg)
{
	struct office *o = arg;
	uint64_t report_ns = 0;
	bool told = false;

	do {
		bool now, offer, due;

		pthread_mutex_lock(&o->lock);
		due = o->look || clock_boot_ns() >= o->due_ns;
		o->look = false;
		pthread_mutex_unlock(&o->lock);
		if (due)
			stand(o, false);
		master_tick(o->m->master, office_holding(o));
		offer = offers(o->m);
		pthread_mutex_lock(&o->lock);
		now = o->report || offer != told || clock_boot_ns() + (due ? REPORT_EARLY_NS : 0) >= report_ns;
		o->report = false;
		pthread_mutex_unlock(&o->lock);
		told = offer;
		if (!now)
			continue;
		report_ns = clock_boot_ns() + REPORT_NS;
		if (!report(o)) {
			report_ns -= REPORT_NS - REPORT_AGAIN_NS;
			office_look_soon(o);
		}
	} while (rest(o, report_ns));
	return NULL;
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

void office_look_soon(struct office *o)
{
	pthread_mutex_lock(&o->lock);
	o->look = true;
	pthread_cond_signal(&o->wake);
	pthread_mutex_unlock(&o->lock);
}
