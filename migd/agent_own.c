// SPDX-License-Identifier: Apache-2.0
/* Slots that migd itself asks for, for commands and families that it places: one agent with nobody at its other end. */
#include "migd/agent_in.h"
#include <errno.h>
#include <string.h>
#include <time.h>
#include "migd/office.h"

enum { PLACE_MS = 2000 };

static void *own_main(void *arg)
{
	agent_run(arg);
	return NULL;
}

static struct agent *own_agent(struct migd *m)
{
	struct agent *a = m->agents->own;

	if (a)
		return a;
	a = agent_new(m, 0, NULL);
	if (!a)
		return NULL;
	pthread_mutex_lock(&m->agents->lock);
	bool first = !m->agents->own;

	if (first)
		m->agents->own = a;
	pthread_mutex_unlock(&m->agents->lock);
	if (first && pthread_create(&m->agents->own_thread, NULL, own_main, a)) {
		m->agents->own = NULL;
		first = false;
	}
	if (!first)
		agent_end(a);
	return m->agents->own;
}

int agent_place(struct migd *m, uid_t uid, uint32_t priority, const char *not_host, char **host, uint64_t *slot, struct error *e)
{
	char master[256];
	struct timespec until;
	struct agent *a;
	struct want *w;
	struct slot *s;
	int err;

	office_master(m->office, master, sizeof master);
	if (!master[0])
		return error_set(e, EHOSTDOWN, "no master is known");
	a = own_agent(m);
	w = a ? agent_want(a, uid, priority, 1, false, NULL, not_host) : NULL;
	if (!w)
		return error_set(e, ENOMEM, "out of memory");
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += PLACE_MS / 1000;
	pthread_mutex_lock(&a->lock);
	while (!w->got && !w->answered && !pthread_cond_timedwait(&a->changed, &a->lock, &until))
		;
	s = w->got ? agent_slot(a, w->last_slot) : NULL;
	if (s) {
		*slot = s->id;
		*host = strdup(s->host);
		err = *host ? 0 : -ENOMEM;
	} else {
		err = w->answered ? -EBUSY : -EHOSTDOWN;
	}
	list_del(&w->node);
	pthread_mutex_unlock(&a->lock);
	free(w);
	if (err == -EBUSY)
		error_set(e, EBUSY, "no host is idle and lends itself now (mig hosts shows why): name one with -H, or wait");
	else if (err)
		error_set(e, -err, "no master answers");
	return err;
}

void agent_leave(struct migd *m, uint64_t slot)
{
	struct agents *t = m->agents;
	struct agent *a;

	if (!slot || !t)
		return;
	pthread_mutex_lock(&t->lock);
	a = t->own;
	if (a)
		a->refs++;
	pthread_mutex_unlock(&t->lock);
	if (!a)
		return;
	agent_give_back(a, slot);
	agent_put(a);
}
