// SPDX-License-Identifier: Apache-2.0
/* What this host says of itself to others (rpc Status). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "conf/clock.h"
#include "migd/engine/engine.h"
#include "migd/family.h"
#include "migd/cgroup.h"
#include "migd/hosts.h"
#include "migd/office.h"
#include "migd/owner.h"
#include "migd/proc.h"
#include "migd/stats.h"
#include "migd/status.h"

/* Everything the reply points to, in one piece. */
struct own {
	Sprite__Mig__StatusRep rep;
	struct family **list;
	size_t nlist;
	Sprite__Mig__Guest *guests, **pguests;
	char *stats;
	struct idle_source idle[32];
	Sprite__Mig__Source sources[32], *psources[32];
};

static void add_guests(struct own *o)
{
	o->guests = calloc(o->nlist + 1, sizeof(*o->guests));
	o->pguests = calloc(o->nlist + 1, sizeof(*o->pguests));
	if (!o->guests || !o->pguests)
		return;
	for (size_t i = 0; i < o->nlist; i++) {
		struct family *f = o->list[i];
		Sprite__Mig__Guest *g = &o->guests[i];

		*g = (Sprite__Mig__Guest)SPRITE__MIG__GUEST__INIT;
		pthread_mutex_lock(&f->lock);
		g->family = f->id;
		g->gen = f->gen;
		g->home = f->home;
		g->uid = f->uid;
		g->pid = f->pid;
		g->comm = f->comm;
		g->state = (char *)mig_state_name(f->machine.state);
		g->since = f->since;
		g->procs = 1;
		for (size_t k = 0; k < f->nmembers; k++)
			g->procs += !f->members[k].ended && f->members[k].pid != f->pid;
		pthread_mutex_unlock(&f->lock);
		o->pguests[i] = g;
	}
	o->rep.guest = o->pguests;
	o->rep.n_guest = o->nlist;
}

static void add_sources(struct own *o, struct migd *m)
{
	uint64_t now = clock_boot_ns();

	o->rep.n_source = m->owner ? owner_sources(m->owner, o->idle, 32) : 0;
	for (size_t i = 0; i < o->rep.n_source; i++) {
		Sprite__Mig__Source *s = &o->sources[i];

		*s = (Sprite__Mig__Source)SPRITE__MIG__SOURCE__INIT;
		s->name = o->idle[i].name;
		s->readable = o->idle[i].readable;
		s->text = o->idle[i].text;
		s->ago_ms = o->idle[i].last_ns && now > o->idle[i].last_ns ? (now - o->idle[i].last_ns) / 1000000 : 0;
		o->psources[i] = s;
	}
	o->rep.source = o->psources;
}

/* They do not change, and the master is told them every few seconds. */
const char *status_cpu_features(struct migd *m)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static char *known;

	pthread_mutex_lock(&lock);
	if (!known)
		known = strdup(eng_cpu_features((const char *const *)m->conf->cpu_hide));
	pthread_mutex_unlock(&lock);
	return known ? known : "";
}

Sprite__Mig__StatusRep *host_own_status(struct migd *m, const struct hosts_ask *q)
{
	struct own *o = calloc(1, sizeof(*o));
	struct owner_view v = { 0 };
	bool none = !strcmp(m->conf->imports, "none");

	if (!o)
		return NULL;
	o->rep = (Sprite__Mig__StatusRep)SPRITE__MIG__STATUS_REP__INIT;
	o->nlist = families_list(m->families, FAM_GUEST, &o->list);
	if (m->owner)
		owner_look(m->owner, &v);
	o->rep.name = m->conf->name;
	o->rep.boot_id = (char *)clock_boot_id();
	o->rep.epoch = clock_epoch();
	o->rep.lend = m->lend && !none;
	o->rep.idle = v.idle;
	o->rep.idle_ms = v.idle_ms;
	o->rep.why = (char *)(m->lend && none ? "imports" : v.why ? v.why : "");
	o->rep.cpus = proc_cpus();
	o->rep.load = v.load[0] * o->rep.cpus;
	o->rep.memory_free = proc_memory_free();
	o->rep.guests = o->nlist;
	o->rep.away = families_count(m->families, FAM_HOME);
	o->rep.root_guests = m->conf->root_guests;
	o->rep.cpu = (char *)status_cpu_features(m);
	o->rep.version = SPRITE_VERSION;
	o->rep.cgroups = (char *)(m->cgroups ? cgroups_describe(m->cgroups) : "none");
	o->rep.master = m->office && office_holding(m->office);
	if (q->stats) {
		json_t *s = stats_json(m);

		o->stats = json_dumps(s, JSON_COMPACT);
		json_decref(s);
		if (o->stats)
			o->rep.stats = o->stats;
	}
	if (q->guests) {
		add_guests(o);
		add_sources(o, m);
	}
	return &o->rep;
}

void host_own_free(Sprite__Mig__StatusRep *rep)
{
	struct own *o = (struct own *)rep;

	if (!o)
		return;
	families_list_free(o->list, o->nlist);
	free(o->guests);
	free(o->pguests);
	free(o->stats);
	free(o);
}

void status_serve(void *ctx, struct rpc_request *rq)
{
	const Sprite__Mig__StatusReq *r = (const Sprite__Mig__StatusReq *)rpc_request_msg(rq)->msg;
	Sprite__Mig__StatusRep *rep = host_own_status(ctx, &(struct hosts_ask){ .guests = r->guests, .stats = r->stats });

	rpc_reply(rq, rep ? 0 : ENOMEM, rep ? &rep->base : NULL, NULL, 0, NULL, NULL);
	host_own_free(rep);
}
