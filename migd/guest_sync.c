// SPDX-License-Identifier: Apache-2.0
/* A guest whose fate is in doubt, or that has run for some seconds: its home is asked, and does what it says; or a person decides (guest.h). */
#include "migd/guest_parts.h"
#include <errno.h>
#include "conf/clock.h"
#include "conf/log.h"
#include "migd/hosts.h"

enum { SYNC_DOUBT_S = 1, SYNC_RUN_S = 5 };

static void apply_verdict(struct family *f, Sprite__Mig__SyncRep__Verdict v)
{
	enum mig_state s;

	pthread_mutex_lock(&f->lock);
	s = f->machine.state;
	f->orphaned = false;
	pthread_mutex_unlock(&f->lock);
	if (v == SPRITE__MIG__SYNC_REP__VERDICT__DROP) {
		if (s == MS_DOUBT) {
			guest_decide(family_get(f), NULL, ME_RELEASE);
		} else if (s == MD_DOUBT || s == MD_READY) {
			guest_decide(family_get(f), NULL, ME_ABORT);
		} else if (s == MD_RUNNING || s == MS_RUNNING) {
			log_warn("family %s: its home no longer knows it: %d (%s) is ended", f->id, f->pid, f->comm);
			family_call(f, guest_actor_end, NULL);
			guest_forget(f);
		}
	} else if (v == SPRITE__MIG__SYNC_REP__VERDICT__RUN) {
		if (s == MS_DOUBT)
			guest_decide(family_get(f), NULL, ME_ABORT);
		else if (s == MD_DOUBT)
			guest_decide(family_get(f), NULL, ME_GO);
	}
}

int guest_resolve(struct family *f, bool run, struct error *e)
{
	enum mig_state s;

	pthread_mutex_lock(&f->lock);
	s = f->machine.state;
	pthread_mutex_unlock(&f->lock);
	if (s != MS_DOUBT && s != MD_DOUBT)
		return error_set(e, EALREADY, "%d (%s) is not in doubt here: %s", f->pid, f->comm, mig_state_name(s));
	log_warn("family %s: %d (%s) was in doubt (%s); a person decides: it %s here", f->id, f->pid, f->comm, mig_state_name(s), run ? "runs" : "ends");
	guest_decide(family_get(f), NULL, run ? (s == MS_DOUBT ? ME_ABORT : ME_GO) : s == MS_DOUBT ? ME_RELEASE : ME_ABORT);
	return 0;
}

static void guest_sync(struct family *f)
{
	Sprite__Mig__SyncReq r = SPRITE__MIG__SYNC_REQ__INIT;
	struct error e = { 0 };
	struct rpc_msg out;
	struct host *h = hosts_find(f->m->hosts, f->home, &e);
	int err;

	r.family = f->id;
	pthread_mutex_lock(&f->lock);
	r.gen = f->gen;
	pthread_mutex_unlock(&f->lock);
	r.boot_id = (char *)clock_boot_id();
	err = h ? host_call(h, MIG_SYNC, &r.base, 3000, &out, &e) : -EHOSTDOWN;
	if (err) {
		pthread_mutex_lock(&f->lock);
		if (!f->orphaned)
			log_warn("family %s: its home does not answer (%s): it goes on as an orphan", f->id, e.text);
		f->orphaned = true;
		pthread_mutex_unlock(&f->lock);
		return;
	}
	apply_verdict(f, ((const Sprite__Mig__SyncRep *)out.msg)->verdict);
	rpc_msg_clear(&out);
}

static void *sync_main(void *arg)
{
	struct family *f = arg;

	guest_sync(f);
	family_put(f);
	return NULL;
}

void guests_tick(struct migd *m)
{
	struct family **v;
	size_t n = families_list(m->families, FAM_GUEST, &v);
	uint64_t now = clock_boot_ns();

	for (size_t i = 0; i < n; i++) {
		struct family *f = v[i];
		uint64_t every = SYNC_RUN_S;
		bool due, unnoted;

		pthread_mutex_lock(&f->lock);
		if (f->machine.state == MS_DOUBT || f->machine.state == MD_DOUBT || f->machine.state == MD_READY)
			every = SYNC_DOUBT_S;
		if (!f->sync_ns)
			f->sync_ns = now;
		unnoted = f->unnoted && f->machine.state == MD_RUNNING;
		if (unnoted)
			every = SYNC_DOUBT_S;
		due = !f->dead && now - f->sync_ns >= every * 1000000000ull;
		if (due)
			f->sync_ns = now;
		pthread_mutex_unlock(&f->lock);
		if (due && unnoted)
			family_post(f, guest_actor_journal, NULL);
		if (due && thread_run(sync_main, family_get(f)))
			family_put(f);
	}
	families_list_free(v, n);
}
