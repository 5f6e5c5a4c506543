/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Seccomp filters, of each thread: read by PTRACE_SECCOMP_GET_FILTER in the frozen family, installed again in the same order. While we trace, no filter acts
 * (PTRACE_O_SUSPEND_SECCOMP); they work from the moment in which the threads are let go.
 *
 * A vessel on a guest host has the keeper's filter before all others (calls that the home answers). It is not the program's and is left out. A hollow at home
 * still has those with which the program left; what it added away comes on top.
 *
 * Refused: strict mode; filters that ask a supervisor; filters that would not let a parked process sleep: a hollow whose migd died would be killed by them.
 * They can be read only when frozen: so the move is refused then, and all runs on.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include "conf/cleanup.h"
#include "migd/engine/core.h"
#include "migd/engine/inject.h"
#include "migd/engine/nest.h"
#include "migd/engine/res_util.h"
#include "migd/engine/seccomp_run.h"
#include "rpc/image_res.pb-c.h"

#ifndef PTRACE_SECCOMP_GET_FILTER
#define PTRACE_SECCOMP_GET_FILTER 0x420c
#endif
#ifndef PTRACE_SECCOMP_GET_METADATA
#define PTRACE_SECCOMP_GET_METADATA 0x420d
#endif
enum { FILTER_MAX = 4096, FILTERS_MAX = 256 };
/* Flags that come back from the metadata; SPEC_ALLOW and the rest are of the moment of installing. */
static const uint64_t flags_kept = SECCOMP_FILTER_FLAG_LOG;

const struct eng_res res_seccomp;

struct filters {
	struct sock_fprog v[FILTERS_MAX]; /* the oldest first, as ptrace(2) counts */
	uint32_t flags[FILTERS_MAX];
	size_t n;
};

static void filters_free(struct filters *f)
{
	if (!f)
		return;
	for (size_t i = 0; i < f->n; i++)
		free(f->v[i].filter);
	free(f);
}
static void filters_freep(struct filters **f)
{
	filters_free(*f);
}

/* How many all processes of a nest are born with: none where calls about processes at home are not forwarded. */
static size_t keepers_filters(const struct eng_family *f)
{
	char name[40];

	if (!f->nest)
		return 0;
	snprintf(name, sizeof name, "/proc/%d/status", f->nest->keeper);
	_cleanup_free_ char *s = eng_proc_read(AT_FDCWD, name, NULL);

	return s ? res_field_u64(s, "Seccomp_filters", 10, 0) : 0;
}

/* Without the keeper's. NULL and errno. */
static struct filters *filters_read(struct eng_thread *t)
{
	struct filters *f = calloc(1, sizeof *f);

	for (; f; f->n++) {
		long n = ptrace(PTRACE_SECCOMP_GET_FILTER, t->tid, (void *)f->n, NULL);
		struct {
			uint64_t off, flags;
		} meta = {.off = f->n};

		if (n < 0 && (errno == ENOENT || (errno == EINVAL && !f->n))) /* no more; none at all */
			break;
		struct sock_filter *code = n > 0 && n <= FILTER_MAX && f->n < FILTERS_MAX ? malloc(n * sizeof *code) : NULL;

		if (!code || ptrace(PTRACE_SECCOMP_GET_FILTER, t->tid, (void *)f->n, code) != n) {
			int err = errno;

			free(code);
			filters_free(f);
			errno = n > 0 ? E2BIG : err;
			return NULL;
		}
		if (ptrace(PTRACE_SECCOMP_GET_METADATA, t->tid, (void *)sizeof meta, &meta) > 0)
			f->flags[f->n] = meta.flags & flags_kept;
		f->v[f->n] = (struct sock_fprog){.len = n, .filter = code};
	}
	size_t born = f ? keepers_filters(t->proc->family) : 0;

	if (born > f->n)
		born = f->n;
	for (size_t i = 0; i < born; i++)
		free(f->v[i].filter);
	f->n -= born;
	memmove(f->v, f->v + born, f->n * sizeof *f->v);
	memmove(f->flags, f->flags + born, f->n * sizeof *f->flags);
	return f;
}

static unsigned mode_of(struct eng_thread *t)
{
	return res_field_u64(thread_status(t), "Seccomp", 10, 0);
}

/* ---- what cannot be carried -------------------------------------------------------------------------- */

static int seccomp_probe(struct eng_probe *p)
{
	_cleanup_free_ char *s = eng_proc_read(p->dir, "status", NULL);

	if (res_field_u64(s, "Seccomp", 10, 0) == 1)
		eng_reason(p, "is in strict seccomp mode: cannot be carried; start it without");
	return 0;
}

/* The calls that a parked process makes by itself (blob_code.c). NULL: all may be made. */
static const char *sleepless(const struct filters *f)
{
	static const struct {
		int nr;
		const char *name;
	} calls[] = {{SYS_rt_sigtimedwait, "rt_sigtimedwait"}, {SYS_ppoll, "ppoll"}, {SYS_rt_sigreturn, "rt_sigreturn"}};

	for (size_t c = 0; c < ARRAY_SIZE(calls); c++)
		for (size_t i = 0; i < f->n; i++) {
			struct seccomp_data d = {.nr = calls[c].nr, .arch = AUDIT_ARCH_X86_64};
			uint32_t r = seccomp_run(f->v[i].filter, f->v[i].len, &d) & SECCOMP_RET_ACTION_FULL;

			if (r != SECCOMP_RET_ALLOW && r != SECCOMP_RET_LOG)
				return calls[c].name;
		}
	return NULL;
}

static int seccomp_settled(struct eng_proc *p, struct error *e)
{
	for (unsigned i = 0; i < p->nthreads; i++) {
		if (mode_of(p->threads[i]) != 2)
			continue;
		struct filters *f __attribute__((cleanup(filters_freep))) = filters_read(p->threads[i]);
		const char *call = f ? sleepless(f) : NULL;

		if (!f)
			return error_set(e, errno == ESRCH ? ESRCH : EOPNOTSUPP, "process %d: its seccomp filters cannot be read: %s", p->vpid, strerror(errno));
		if (call)
			return error_set(e, EOPNOTSUPP, "process %d (%s): its seccomp filter forbids %s, which it needs to sleep at home while it is away: start it without (--no-sandbox and the like)",
				p->vpid, p->core->comm, call);
		for (size_t k = 0; k < f->n; k++)
			if (seccomp_may_return(f->v[k].filter, f->v[k].len, SECCOMP_RET_USER_NOTIF))
				return error_set(e, EOPNOTSUPP, "process %d (%s): its seccomp filter asks a supervisor: end that first", p->vpid, p->core->comm);
	}
	return 0;
}

/* ---- dump -------------------------------------------------------------------------------------------- */

static int seccomp_put(struct eng_thread *t, struct eng_image *out)
{
	struct filters *f __attribute__((cleanup(filters_freep))) = filters_read(t);
	Sprite__Img__Seccomp m = SPRITE__IMG__SECCOMP__INIT;
	ProtobufCBinaryData data[FILTERS_MAX];

	if (!f)
		return -errno;
	for (size_t i = 0; i < f->n; i++)
		data[i] = (ProtobufCBinaryData){f->v[i].len * sizeof *f->v[i].filter, (void *)f->v[i].filter};
	m.tid = t->vtid;
	m.filter = data;
	m.flags = f->flags;
	m.n_filter = m.n_flags = f->n;
	m.no_new_privs = res_field_u64(thread_status(t), "NoNewPrivs", 10, 0) != 0;
	return f->n ? eng_image_put_msg(out, RES_SECCOMP, t->proc->vpid, &m.base) : 0;
}

static int seccomp_dump(struct eng_proc *p, struct eng_image *out, struct error *e)
{
	for (unsigned i = 0; i < p->nthreads; i++) {
		int r = mode_of(p->threads[i]) == 2 ? seccomp_put(p->threads[i], out) : 0;

		if (r < 0)
			return error_set(e, -r, "process %d: seccomp filters cannot be read: %s", p->vpid, strerror(-r));
	}
	return 0;
}

/* ---- restore ----------------------------------------------------------------------------------------- */

struct wanted {
	Sprite__Img__Seccomp *m;
	struct wanted *next;
};

static int seccomp_fill(struct eng_family *f, struct eng_proc *p, uint32_t type, const void *body, size_t len, struct error *e)
{
	struct wanted *w = p ? calloc(1, sizeof *w) : NULL;

	(void)f, (void)type;
	if (w)
		w->m = sprite__img__seccomp__unpack(NULL, len, body);
	bool good = w && w->m && w->m->n_flags == w->m->n_filter && w->m->n_filter <= FILTERS_MAX;

	for (size_t i = 0; good && i < w->m->n_filter; i++)
		good = w->m->filter[i].len && w->m->filter[i].len % sizeof(struct sock_filter) == 0 && w->m->filter[i].len <= FILTER_MAX * sizeof(struct sock_filter);
	if (!good) {
		if (w && w->m)
			sprite__img__seccomp__free_unpacked(w->m, NULL);
		free(w);
		return res_bad_record(e, "seccomp filters");
	}
	w->next = p->res[eng_res_index(&res_seccomp)];
	p->res[eng_res_index(&res_seccomp)] = w;
	return 0;
}

static int install(struct eng_thread *t, const ProtobufCBinaryData *code, uint32_t flags)
{
	struct sock_fprog prog = {.len = code->len / sizeof(struct sock_filter)};

	eng_scratch_reset(t->proc);
	prog.filter = (void *)eng_scratch_put(t->proc, code->data, code->len);

	uint64_t at = eng_scratch_put(t->proc, &prog, sizeof prog);

	return prog.filter && at ? eng_syscall(t, SYS_seccomp, (long)SECCOMP_SET_MODE_FILTER, (long)flags, at) : -ENOMEM;
}

/* Those that the thread has must be the oldest of what it shall have. */
static int thread_finish(struct eng_thread *t, const Sprite__Img__Seccomp *m, struct error *e)
{
	struct filters *have __attribute__((cleanup(filters_freep))) = filters_read(t);
	long r = have ? 0 : -errno;

	if (!r && have->n > m->n_filter)
		r = -EEXIST;
	for (size_t i = 0; !r && i < have->n; i++) {
		const struct sock_fprog *g = &have->v[i];

		if (g->len * sizeof *g->filter != m->filter[i].len || memcmp(g->filter, m->filter[i].data, m->filter[i].len))
			r = -EEXIST;
	}
	if (!r && have->n < m->n_filter && m->no_new_privs)
		r = eng_syscall(t, SYS_prctl, (long)PR_SET_NO_NEW_PRIVS, 1l, 0l, 0l, 0l);
	for (size_t i = have ? have->n : 0; !r && i < m->n_filter; i++)
		r = install(t, &m->filter[i], m->flags[i]);
	return r < 0 ? error_set(e, -r, "seccomp filters of thread %d: %s", t->vtid, r == -EEXIST ? "it has others" : strerror(-r)) : 0;
}

static int seccomp_finish(struct eng_proc *p, struct error *e)
{
	struct wanted *w = p->res[eng_res_index(&res_seccomp)];

	for (; w; w = w->next) {
		struct eng_thread *t = res_thread_by_vtid(p, w->m->tid);

		if (!t)
			return res_bad_record(e, "seccomp filters");
		int r = inject_filters_sleep(t);

		if (r < 0)
			return error_set(e, -r, "seccomp filters cannot be put to sleep here: %s", strerror(-r));
		r = thread_finish(t, w->m, e);

		if (r < 0)
			return r;
	}
	return 0;
}

static void seccomp_release(struct eng_family *f, struct eng_proc *p)
{
	struct wanted *w = p ? p->res[eng_res_index(&res_seccomp)] : NULL;

	(void)f;
	while (w) {
		struct wanted *next = w->next;

		sprite__img__seccomp__free_unpacked(w->m, NULL);
		free(w);
		w = next;
	}
	if (p)
		p->res[eng_res_index(&res_seccomp)] = NULL;
}

const struct eng_res res_seccomp = {
	.name = "seccomp filters",
	.types = {RES_SECCOMP, RES_SECCOMP},
	.probe = seccomp_probe,
	.settled = seccomp_settled,
	.dump = seccomp_dump,
	.fill = seccomp_fill,
	.finish = seccomp_finish,
	.release = seccomp_release,
};
