/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Credentials of every thread: uids and gids (with fsuid, fsgid), groups, the five capability sets, securebits, no_new_privs; dumpable; and the death
 * signal, which every change of credentials clears. The last of all modules but seccomp: afterwards the target can do no more than the program could.
 *
 * Read: /proc/PID/task/TID/status (in the reader's user namespace; the family's is an identity map), prctl by injection.
 * Restored in an order in which nothing is lost on the way: groups, bounding set, inheritable, ambient, "no fixup" securebits, gids, uids, securebits, capabilities.
 * Only what differs is set: a hollow at home still has its own credentials, and an unprivileged one could not change them.
 */
#include "migd/engine/res_util.h"
#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include "conf/cleanup.h"
#include "migd/engine/adopt.h"
#include "rpc/image_res.pb-c.h"

const struct eng_res res_creds;

static int numbers(const char *v, uint32_t *out, int max)
{
	int n = 0;

	for (char *end; v && *v && *v != '\n' && n < max; v = end) {
		unsigned long x = strtoul(v, &end, 10);

		if (end == v)
			break;
		out[n++] = x;
		while (*end == ' ' || *end == '\t')
			end++;
	}
	return n;
}

/* From its /proc/TID/status: all but securebits and death signal. 0 or -errno. */
static int cred_status(const char *s, Sprite__Img__Cred *c)
{
	uint32_t id[4];

	if (!s)
		return -ESRCH;
	if (numbers(eng_field(s, "Uid"), id, 4) != 4)
		return -EBADMSG;
	c->ruid = id[0], c->euid = id[1], c->suid = id[2], c->fsuid = id[3];
	if (numbers(eng_field(s, "Gid"), id, 4) != 4)
		return -EBADMSG;
	c->rgid = id[0], c->egid = id[1], c->sgid = id[2], c->fsgid = id[3];
	const char *list = eng_field(s, "Groups");
	int n = 1 + (list ? strcspn(list, "\n") / 2 : 0); /* a digit and a blank at least */

	c->groups = calloc(n, sizeof *c->groups);
	if (!c->groups)
		return -ENOMEM;
	c->n_groups = numbers(list, c->groups, n);
	c->inheritable = res_field_u64(s, "CapInh", 16, 0);
	c->permitted = res_field_u64(s, "CapPrm", 16, 0);
	c->effective = res_field_u64(s, "CapEff", 16, 0);
	c->bounding = res_field_u64(s, "CapBnd", 16, 0);
	c->ambient = res_field_u64(s, "CapAmb", 16, 0);
	c->no_new_privs = res_field_u64(s, "NoNewPrivs", 10, 0);
	return 0;
}

static int cred_ask(struct eng_thread *t, Sprite__Img__Cred *c)
{
	int32_t sig = 0;

	if (t->core->asked.is) { /* by the dump of threads, in passing */
		c->securebits = t->core->asked.securebits;
		c->pdeath_sig = t->core->asked.pdeath_sig;
		return 0;
	}
	eng_scratch_reset(t->proc);
	uint64_t at = eng_scratch_put(t->proc, &sig, sizeof sig);
	struct eng_call call[2] = {
		{SYS_prctl, {PR_GET_SECUREBITS}, 0, 0, 0},
		{SYS_prctl, {PR_GET_PDEATHSIG, at}, 0, 0, 0},
	};
	int r = eng_batch(t, call, 2, NULL);

	if (r < 0 || (r = eng_peek(t->proc, at, &sig, sizeof sig)) < 0)
		return r;
	c->securebits = call[0].ret;
	c->pdeath_sig = sig;
	return 0;
}

static char *status_now(const struct eng_thread *t)
{
	char name[40];

	snprintf(name, sizeof name, "task/%d/status", t->tid);
	return eng_proc_read(t->proc->dir, name, NULL);
}

static Sprite__Img__Cred *cred_read(struct eng_thread *t, const char *status, int *r)
{
	Sprite__Img__Cred *c = malloc(sizeof *c);

	*r = -ENOMEM;
	if (!c)
		return NULL;
	sprite__img__cred__init(c);
	c->tid = t->vtid;
	*r = cred_status(status, c);
	if (!*r)
		*r = cred_ask(t, c);
	if (!*r)
		return c;
	sprite__img__cred__free_unpacked(c, NULL);
	return NULL;
}

static bool same_ids(const Sprite__Img__Cred *a, const Sprite__Img__Cred *b)
{
	return a->ruid == b->ruid && a->euid == b->euid && a->suid == b->suid && a->fsuid == b->fsuid && a->rgid == b->rgid &&
	       a->egid == b->egid && a->sgid == b->sgid && a->fsgid == b->fsgid;
}
static bool same_groups(const Sprite__Img__Cred *a, const Sprite__Img__Cred *b)
{
	return a->n_groups == b->n_groups && (!a->n_groups || !memcmp(a->groups, b->groups, a->n_groups * sizeof *a->groups));
}
static bool same_caps(const Sprite__Img__Cred *a, const Sprite__Img__Cred *b)
{
	return a->inheritable == b->inheritable && a->permitted == b->permitted && a->effective == b->effective && a->ambient == b->ambient;
}

static int creds_dump(struct eng_proc *p, struct eng_image *out, struct error *e)
{
	Sprite__Img__Creds *m = calloc(1, sizeof *m);
	int r = m ? 0 : -ENOMEM;

	if (r < 0)
		return r;
	sprite__img__creds__init(m);
	m->cred = calloc(p->nthreads, sizeof *m->cred);
	if (!m->cred)
		r = -ENOMEM;
	for (unsigned i = 0; !r && i < p->nthreads; i++) {
		Sprite__Img__Cred *c = cred_read(p->threads[i], thread_status(p->threads[i]), &r);

		if (!c)
			break;
		const Sprite__Img__Cred *lead = m->n_cred ? m->cred[0] : NULL;

		if (lead && same_ids(lead, c) && same_groups(lead, c) && same_caps(lead, c) && lead->bounding == c->bounding &&
		    lead->securebits == c->securebits && lead->no_new_privs == c->no_new_privs && lead->pdeath_sig == c->pdeath_sig)
			sprite__img__cred__free_unpacked(c, NULL);
		else
			m->cred[m->n_cred++] = c;
	}
	if (!r) {
		m->dumpable = p->threads[0]->core->asked.dumpable;
		r = eng_image_put_msg(out, RES_CREDS, p->vpid, &m->base);
	}
	for (unsigned i = 0; i < p->nthreads; i++) { /* the last that asks; at home it will be a hollow's */
		p->threads[i]->core->asked.is = false;
		free(p->threads[i]->core->status);
		p->threads[i]->core->status = NULL;
	}
	sprite__img__creds__free_unpacked(m, NULL);
	return r < 0 ? error_set(e, -r, "credentials of %d cannot be read: %s", p->vpid, strerror(-r)) : 0;
}

/* An image is not believed where it would be this host's own. */
static bool may_have(const struct eng_family *f, const Sprite__Img__Cred *c)
{
	if (adopt_privileged(f))
		return true;
	return !c->permitted && !c->effective && !c->inheritable && !c->ambient && adopt_may(f, c->ruid, c->rgid, c->groups, c->n_groups) &&
	       adopt_may(f, c->euid, c->egid, NULL, 0) && adopt_may(f, c->suid, c->sgid, NULL, 0) && adopt_may(f, c->fsuid, c->fsgid, NULL, 0);
}

static int creds_fill(struct eng_family *f, struct eng_proc *p, uint32_t type, const void *body, size_t len, struct error *e)
{
	(void)f, (void)type;
	if (!p)
		return res_bad_record(e, "credentials");
	void **s = &p->res[eng_res_index(&res_creds)];

	if (*s)
		sprite__img__creds__free_unpacked(*s, NULL);
	Sprite__Img__Creds *m = sprite__img__creds__unpack(NULL, len, body);

	*s = m;
	for (size_t i = 0; m && i < m->n_cred; i++)
		if (!may_have(f, m->cred[i]))
			return adopt_refuse(p->vpid, e);
	return m && m->n_cred ? 0 : res_bad_record(e, "credentials");
}

/* ---- restore -------------------------------------------------------------------------------------- */

struct batch {
	struct eng_call call[80];
	const char *what[80];
	size_t n;
};
static void add(struct batch *b, const char *what, long nr, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3)
{
	if (b->n < ARRAY_SIZE(b->call)) {
		b->what[b->n] = what;
		b->call[b->n++] = (struct eng_call){nr, {a0, a1, a2, a3}, 0, 0, 0};
	}
}

static uint64_t put_caps(struct eng_proc *p, uint64_t effective, uint64_t permitted, uint64_t inheritable)
{
	struct __user_cap_data_struct d[2];

	for (int i = 0; i < 2; i++)
		d[i] = (struct __user_cap_data_struct){effective >> 32 * i, permitted >> 32 * i, inheritable >> 32 * i};
	return eng_scratch_put(p, d, sizeof d);
}

static void add_caps(struct batch *b, struct eng_proc *p, const Sprite__Img__Cred *want, const Sprite__Img__Cred *is, uint64_t header)
{
	bool ambient = want->ambient != is->ambient || want->ambient != (want->ambient & is->inheritable);

	if (ambient) { /* needs them permitted and inheritable, and securebits that allow it: while we still can */
		add(b, "inheritable capabilities", SYS_capset, header, put_caps(p, is->effective, is->permitted, want->inheritable), 0, 0);
		add(b, "ambient capabilities", SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0);
		for (int i = 0; i < 64; i++)
			if (want->ambient >> i & 1)
				add(b, "ambient capabilities", SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, i, 0);
	}
}

/* The capabilities that the kernel knows at all. */
static uint64_t caps_known(void)
{
	static _Atomic int known;
	int last = known;

	if (!last) {
		_cleanup_free_ char *s = eng_proc_read(-100 /* AT_FDCWD */, "/proc/sys/kernel/cap_last_cap", NULL);

		known = last = s && atoi(s) > 0 ? atoi(s) : CAP_LAST_CAP;
	}
	return last >= 63 ? ~0ull : (1ull << (last + 1)) - 1;
}

static int cred_build(struct batch *b, struct eng_thread *t, const Sprite__Img__Cred *want, const Sprite__Img__Cred *is)
{
	struct eng_proc *p = t->proc;
	struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
	const unsigned nofix = SECBIT_NO_SETUID_FIXUP | SECBIT_KEEP_CAPS;
	uint64_t drop = is->bounding & ~want->bounding & caps_known();
	bool ids = !same_ids(want, is), caps = !same_caps(want, is);

	eng_scratch_reset(p);
	uint64_t header = eng_scratch_put(p, &h, sizeof h);

	if (!same_groups(want, is)) {
		uint64_t at = eng_scratch_put(p, want->groups, want->n_groups * sizeof *want->groups);

		if (!at)
			return -ENOMEM;
		add(b, "groups", SYS_setgroups, want->n_groups, at, 0, 0);
	}
	for (int i = 0; i < 64; i++)
		if (drop >> i & 1)
			add(b, "capability bounding set", SYS_prctl, PR_CAPBSET_DROP, i, 0, 0);
	bool lifted = ids && (is->securebits & nofix) != nofix && (is->effective >> CAP_SETPCAP & 1);

	if (lifted)
		add(b, "securebits", SYS_prctl, PR_SET_SECUREBITS, is->securebits | nofix, 0, 0);
	if (ids) {
		add(b, "gids", SYS_setresgid, want->rgid, want->egid, want->sgid, 0);
		add(b, "fsgid", SYS_setfsgid, want->fsgid, 0, 0, 0);
		add(b, "uids", SYS_setresuid, want->ruid, want->euid, want->suid, 0);
		add(b, "fsuid", SYS_setfsuid, want->fsuid, 0, 0, 0);
	}
	if (caps)
		add_caps(b, p, want, is, header);
	if (!lifted && (want->securebits ^ is->securebits) == SECBIT_KEEP_CAPS) /* that one needs no rights */
		add(b, "keepcaps", SYS_prctl, PR_SET_KEEPCAPS, !!(want->securebits & SECBIT_KEEP_CAPS), 0, 0);
	else if (want->securebits != is->securebits || lifted)
		add(b, "securebits", SYS_prctl, PR_SET_SECUREBITS, want->securebits, 0, 0);
	if (caps)
		add(b, "capabilities", SYS_capset, header, put_caps(p, want->effective, want->permitted, want->inheritable), 0, 0);
	if (want->no_new_privs && !is->no_new_privs)
		add(b, "no_new_privs", SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0);
	return 0;
}

static bool came_out(const Sprite__Img__Cred *want, struct eng_thread *t)
{
	Sprite__Img__Cred is = SPRITE__IMG__CRED__INIT;
	_cleanup_free_ char *status = status_now(t);
	uint64_t known = caps_known();
	bool right = cred_status(status, &is) == 0 && same_ids(want, &is) && same_groups(want, &is) && !((want->permitted ^ is.permitted) & known) &&
		     !((want->effective ^ is.effective) & known) && want->no_new_privs == is.no_new_privs;

	free(is.groups);
	return right;
}

/* What a vessel on a guest host may do, in its own user namespace; securebits and death signal are the default. Who and in which groups it is need not be known: that is set. */
static void fresh_cred(Sprite__Img__Cred *c)
{
	sprite__img__cred__init(c);
	c->permitted = c->effective = c->bounding = caps_known();
	c->ruid = c->euid = c->suid = c->fsuid = c->rgid = c->egid = c->sgid = c->fsgid = UINT32_MAX;
	c->n_groups = SIZE_MAX; /* as nobody's */
}

/*
 * One batch a thread. fsuid calls return the old value, so their failure shows only in a look afterwards: of all threads of a fresh vessel which are made what its
 * first one is, each by the same calls, that one's is enough.
 */
static int cred_set(struct eng_thread *t, const Sprite__Img__Cred *want, bool look, int dumpable, struct error *e)
{
	int r = 0;
	bool fresh = t->proc->core->caps;
	_cleanup_free_ char *status = fresh ? NULL : status_now(t);
	Sprite__Img__Cred seen = SPRITE__IMG__CRED__INIT, *is = fresh ? &seen : cred_read(t, status, &r);
	struct batch *b = calloc(1, sizeof *b);
	size_t at = 0;

	if (fresh)
		fresh_cred(&seen);
	if (is && b)
		r = cred_build(b, t, want, is);
	if (!b)
		r = -ENOMEM;
	bool changes = b && b->n;

	if (!r && (changes || is->pdeath_sig != want->pdeath_sig))
		add(b, "death signal", SYS_prctl, PR_SET_PDEATHSIG, want->pdeath_sig, 0, 0);
	if (!r && dumpable >= 0)
		add(b, "dumpable", SYS_prctl, PR_SET_DUMPABLE, dumpable, 0, 0);
	if (!r && b->n && (r = eng_batch(t, b->call, b->n, &at)) < 0)
		error_set(e, -r, "%s of thread %d cannot be set: %s", b->what[at], t->vtid, strerror(-r));
	if (!r && changes && (look || !fresh) && !came_out(want, t))
		r = error_set(e, EPERM, "credentials of thread %d did not come out as they were", t->vtid);
	if (is && !fresh)
		sprite__img__cred__free_unpacked(is, NULL);
	free(b);
	return r < 0 ? error_set(e, -r, "credentials of thread %d: %s", t->vtid, strerror(-r)) : 0;
}

static int creds_finish(struct eng_proc *p, struct error *e)
{
	void **s = &p->res[eng_res_index(&res_creds)];
	Sprite__Img__Creds *m = *s;
	int r = 0;

	if (!m || !m->n_cred)
		return error_set(e, EBADMSG, "image: no credentials of process %d", p->vpid);
	for (unsigned i = p->nthreads; !r && i-- > 0;) {
		const Sprite__Img__Cred *want = m->cred[0];

		for (size_t k = 1; k < m->n_cred; k++)
			if ((pid_t)m->cred[k]->tid == p->threads[i]->vtid)
				want = m->cred[k];
		/* By the last, for each change takes it away. 2 cannot be set; it is what a change of credentials leaves where the host has it so. */
		r = cred_set(p->threads[i], want, i == 0 || want != m->cred[0], i == 0 && m->dumpable <= 1 ? (int)m->dumpable : -1, e);
	}
	sprite__img__creds__free_unpacked(m, NULL);
	*s = NULL;
	return r < 0 ? error_set(e, -r, "credentials of %d: %s", p->vpid, strerror(-r)) : 0;
}

/* A parent inside of the family that ends over there ends at home too: the child has got its signal over there already. */
static int creds_hollow(struct eng_proc *p, struct error *e)
{
	(void)e;
	for (unsigned i = 0; p->parent && i < p->nthreads; i++)
		eng_syscall(p->threads[i], SYS_prctl, (long)PR_SET_PDEATHSIG, 0l);
	return 0;
}

static void creds_release(struct eng_family *f, struct eng_proc *p)
{
	(void)f;
	if (!p || !p->res[eng_res_index(&res_creds)])
		return;
	sprite__img__creds__free_unpacked(p->res[eng_res_index(&res_creds)], NULL);
	p->res[eng_res_index(&res_creds)] = NULL;
}

const struct eng_res res_creds = {
	.name = "credentials",
	.types = {RES_CREDS, RES_CREDS},
	.dump = creds_dump,
	.fill = creds_fill,
	.finish = creds_finish,
	.hollow = creds_hollow,
	.release = creds_release,
};
