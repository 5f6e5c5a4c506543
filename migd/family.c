// SPDX-License-Identifier: Apache-2.0
/* Family records and their actors; see family.h for the rules. */
#include "migd/family.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "conf/clock.h"
#include "conf/log.h"
#include "conf/text.h"
#include "migd/agent.h"
#include "migd/outbox.h"
#include "migd/relays.h"

struct families {
	struct migd *m;
	pthread_mutex_t lock;
	struct list list; /* lock */
	uint64_t next;	  /* lock: number for the next id */
	atomic_size_t alive; /* records that somebody holds, in the table or not */
};

struct job {
	struct list node;
	int (*fn)(struct family *f, void *arg);
	void *arg;
	/* for family_call() */
	bool waited, done;
	int result;
	pthread_cond_t *cond;
};

int thread_run(void *(*fn)(void *), void *arg)
{
	pthread_attr_t attr;
	sigset_t all, old;
	pthread_t t;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	err = pthread_create(&t, &attr, fn, arg);
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -err;
}

int families_open(struct migd *m, struct families **out)
{
	struct families *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->m = m;
	pthread_mutex_init(&t->lock, NULL);
	list_init(&t->list);
	*out = t;
	return 0;
}

void families_close(struct families *t)
{
	if (!t)
		return;
	/* Records still there belong to families that live on without us; their actors end with the process. */
	pthread_mutex_destroy(&t->lock);
	free(t);
}

/* ---- actor ---- */

static void run_job(struct family *f, struct job *j)
{
	int r = j->fn(f, j->arg);

	if (!j->waited) {
		free(j);
		return;
	}
	pthread_mutex_lock(&f->box_lock);
	j->result = r;
	j->done = true;
	pthread_cond_broadcast(j->cond);
	pthread_mutex_unlock(&f->box_lock);
}

static struct job *next_job(struct family *f, bool *quit)
{
	struct list *n;

	pthread_mutex_lock(&f->box_lock);
	n = list_pop(&f->box);
	*quit = f->quit && !n;
	pthread_mutex_unlock(&f->box_lock);
	return n ? list_entry(n, struct job, node) : NULL;
}

static void family_free(struct family *f)
{
	atomic_fetch_sub(&f->m->families->alive, 1);
	relays_free(f->relays);
	outbox_free(f->outbox);
	close(f->box_fd);
	pthread_mutex_destroy(&f->box_lock);
	pthread_cond_destroy(&f->changed);
	pthread_mutex_destroy(&f->lock);
	free(f->members);
	free(f->calls);
	free(f->replay_state);
	free(f->saved);
	free(f);
}

void family_events(struct family *f)
{
	struct eng_event ev;

	while (f->eng && eng_next_event(f->eng, &ev) == 1)
		if (ev.kind != ENG_NOTHING)
			f->on_event(f, &ev);
}

static void *actor_main(void *arg)
{
	struct family *f = arg;
	uint64_t junk;
	bool quit = false;

	while (!quit) {
		struct pollfd p[2] = { { .fd = f->box_fd, .events = POLLIN }, { .fd = -1, .events = POLLIN } };
		struct job *j;

		if (f->eng)
			p[1].fd = eng_event_fd(f->eng);
		poll(p, 2, -1);
		if (p[0].revents && read(f->box_fd, &junk, sizeof(junk)) < 0)
			junk = 0;
		while ((j = next_job(f, &quit)))
			run_job(f, j);
		if (!quit)
			family_events(f);
	}
	family_free(f);
	return NULL;
}

static void poke(struct family *f)
{
	uint64_t one = 1;

	if (write(f->box_fd, &one, sizeof(one)) < 0)
		log_debug("family %s: mailbox is full of wake-ups", f->id);
}

int family_call(struct family *f, int (*fn)(struct family *f, void *arg), void *arg)
{
	pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
	struct job j = { .fn = fn, .arg = arg, .waited = true, .cond = &cond };

	pthread_mutex_lock(&f->box_lock);
	list_add_tail(&f->box, &j.node);
	poke(f);
	while (!j.done)
		pthread_cond_wait(&cond, &f->box_lock);
	pthread_mutex_unlock(&f->box_lock);
	pthread_cond_destroy(&cond);
	return j.result;
}

int family_post(struct family *f, int (*fn)(struct family *f, void *arg), void *arg)
{
	struct job *j = calloc(1, sizeof(*j));

	if (!j)
		return -ENOMEM;
	j->fn = fn;
	j->arg = arg;
	pthread_mutex_lock(&f->box_lock);
	list_add_tail(&f->box, &j->node);
	poke(f);
	pthread_mutex_unlock(&f->box_lock);
	return 0;
}

/* ---- records ---- */

struct family *family_get(struct family *f)
{
	atomic_fetch_add(&f->refs, 1);
	return f;
}

void family_put(struct family *f)
{
	if (!f || atomic_fetch_sub(&f->refs, 1) != 1)
		return;
	pthread_mutex_lock(&f->box_lock);
	f->quit = true;
	poke(f);
	pthread_mutex_unlock(&f->box_lock);
}

static struct family *lookup(struct families *t, enum family_role role, const char *id)
{
	struct family *f;

	list_each(f, &t->list, node)
		if (f->role == role && !strcmp(f->id, id))
			return f;
	return NULL;
}

/* Two who would move one process at once: the second finds the first one's record. */
static bool pid_taken(struct families *t, pid_t pid)
{
	struct family *f;

	list_each(f, &t->list, node)
		if (f->role == FAM_HOME && f->pid == pid)
			return true;
	return false;
}

static int family_init(struct family *f, struct families *t, const struct family_new *n)
{
	f->m = t->m;
	f->role = n->role;
	f->uid = n->uid;
	f->gid = n->gid;
	f->pid = n->pid;
	f->adopt = n->adopt;
	f->on_event = n->on_event;
	f->since = clock_real_ns();
	f->machine.state = n->role == FAM_HOME ? MC_IDLE : MD_NONE;
	snprintf(f->home, sizeof(f->home), "%s", n->home);
	snprintf(f->comm, sizeof(f->comm), "%s", n->comm ? n->comm : "");
	text_valid(f->comm);
	snprintf(f->host, sizeof(f->host), "%s", t->m->conf->name);
	atomic_init(&f->refs, 1);
	list_init(&f->node);
	list_init(&f->box);
	pthread_mutex_init(&f->lock, NULL);
	pthread_mutex_init(&f->box_lock, NULL);
	pthread_cond_init(&f->changed, NULL);
	f->box_fd = eventfd(0, EFD_CLOEXEC);
	if (f->box_fd < 0)
		return -errno;
	if (relays_new(t->m, n->role == FAM_HOME, &f->relays) || outbox_new(f, &f->outbox))
		return -ENOMEM;
	return 0;
}

int family_create(struct families *t, const struct family_new *n, struct family **out)
{
	struct family *f = calloc(1, sizeof(*f));
	int err;

	if (!f)
		return -ENOMEM;
	f->box_fd = -1;
	f->m = t->m;
	atomic_fetch_add(&t->alive, 1);
	err = family_init(f, t, n);
	if (err)
		goto fail;
	pthread_mutex_lock(&t->lock);
	if (n->id)
		snprintf(f->id, sizeof(f->id), "%s", n->id);
	else
		snprintf(f->id, sizeof(f->id), "%.60s.%08x.%llu", n->home, (unsigned)clock_epoch(), (unsigned long long)++t->next);
	if (n->role == FAM_HOME)
		relays_name(f->relays, f->id, 0);
	err = lookup(t, n->role, f->id) ? -EEXIST : !n->id && pid_taken(t, n->pid) ? -EBUSY : 0;
	if (!err)
		err = thread_run(actor_main, f);
	if (!err)
		list_add_tail(&t->list, &f->node);
	pthread_mutex_unlock(&t->lock);
	if (!err) {
		*out = family_get(f); /* one for the table, one for the caller */
		return 0;
	}
fail:
	family_free(f);
	return err;
}

void family_remove(struct family *f)
{
	struct families *t = f->m->families;
	uint64_t slot;
	bool was;

	pthread_mutex_lock(&t->lock);
	was = !list_empty(&f->node);
	list_del(&f->node);
	pthread_mutex_unlock(&t->lock);
	pthread_mutex_lock(&f->lock);
	f->dead = true;
	slot = f->slot;
	f->slot = 0;
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->lock);
	agent_leave(f->m, slot);
	outbox_stop(f->outbox);
	if (was)
		family_put(f);
}

struct family *family_find(struct families *t, enum family_role role, const char *id)
{
	struct family *f;

	pthread_mutex_lock(&t->lock);
	f = lookup(t, role, id);
	if (f)
		family_get(f);
	pthread_mutex_unlock(&t->lock);
	return f;
}

/* The first of that role of which is() says so, under its lock. Referenced. */
static struct family *find_by(struct families *t, enum family_role role, bool (*is)(struct family *f, const void *arg), const void *arg)
{
	struct family *f, *found = NULL;

	pthread_mutex_lock(&t->lock);
	list_each(f, &t->list, node) {
		if (f->role != role)
			continue;
		pthread_mutex_lock(&f->lock);
		if (is(f, arg))
			found = f;
		pthread_mutex_unlock(&f->lock);
		if (found)
			break;
	}
	if (found)
		family_get(found);
	pthread_mutex_unlock(&t->lock);
	return found;
}

static bool has_cgroup(struct family *f, const void *name)
{
	return *f->cgroup && !strcmp(f->cgroup, name);
}

struct family *family_of_cgroup(struct families *t, const char *cgroup)
{
	return find_by(t, FAM_GUEST, has_cgroup, cgroup);
}

static bool has_pid(struct family *f, const void *arg)
{
	pid_t pid = *(const pid_t *)arg;

	return f->pid == pid || family_member(f, pid);
}

struct family *family_of_pid(struct families *t, pid_t pid)
{
	return find_by(t, FAM_HOME, has_pid, &pid);
}

size_t families_list(struct families *t, enum family_role role, struct family ***out)
{
	struct family *f, **v;
	size_t n = 0, max = 0;

	pthread_mutex_lock(&t->lock);
	list_each(f, &t->list, node)
		max++;
	v = calloc(max + 1, sizeof(*v));
	if (v)
		list_each(f, &t->list, node)
			if (f->role == role)
				v[n++] = family_get(f);
	pthread_mutex_unlock(&t->lock);
	*out = v;
	return n;
}

void families_list_free(struct family **v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		family_put(v[i]);
	free(v);
}

size_t families_alive(struct families *t)
{
	return t ? atomic_load(&t->alive) : 0;
}

size_t families_count(struct families *t, enum family_role role)
{
	struct family *f;
	size_t n = 0;

	pthread_mutex_lock(&t->lock);
	list_each(f, &t->list, node)
		n += f->role == role;
	pthread_mutex_unlock(&t->lock);
	return n;
}

struct member *family_member(struct family *f, pid_t pid)
{
	for (size_t i = 0; i < f->nmembers; i++)
		if (f->members[i].pid == pid && !f->members[i].ended)
			return &f->members[i];
	return NULL;
}

struct member *family_add_member(struct family *f, pid_t pid, pid_t ppid, const char *comm, bool hollow)
{
	struct member *m = family_member(f, pid);

	if (!m) {
		size_t i;

		for (i = 0; i < f->nmembers && !f->members[i].ended; i++)
			;
		if (i == f->nmembers) {
			m = f->nmembers < FAMILY_MEMBERS_MAX ? realloc(f->members, (f->nmembers + 1) * sizeof(*m)) : NULL;
			if (!m)
				return NULL;
			f->members = m;
			f->nmembers++;
		}
		m = &f->members[i];
	}
	*m = (struct member){ .pid = pid, .ppid = ppid, .hollow = hollow };
	snprintf(m->comm, sizeof(m->comm), "%s", comm ? comm : "");
	text_valid(m->comm);
	return m;
}

void family_rename(struct family *f, pid_t pid, const char *comm)
{
	struct member *m = family_member(f, pid);

	if (m)
		text_valid(strncpy(m->comm, comm, sizeof(m->comm) - 1));
	if (pid == f->pid)
		text_valid(strncpy(f->comm, comm, sizeof(f->comm) - 1));
}

int family_step(struct family *f, enum mig_event ev, enum mig_action *act)
{
	enum mig_state was = f->machine.state;
	int err = mig_step(&f->machine, ev, act);

	if (err)
		log_warn("family %s: event %s does not belong into state \"%s\"", f->id, mig_event_name(ev), mig_state_name(was));
	else
		log_debug("family %s: %s --%s--> %s", f->id, mig_state_name(was), mig_event_name(ev), mig_state_name(f->machine.state));
	pthread_cond_broadcast(&f->changed);
	return err;
}
