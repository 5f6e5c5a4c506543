// SPDX-License-Identifier: Apache-2.0
/*
 * Threads: registers, extended state (NT_X86_XSTATE), signal mask, alternate stack, restartable sequence, robust list, tid address, name.
 * fill() keeps what came; the registers are set when the family resumes (fill.c).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "rpc/image.pb-c.h"
#include "migd/engine/inject.h"
#include "migd/engine/procfs.h"

enum { XSTATE_MAX = 16384, NT_XSTATE = 0x202 };
enum { ARCH_GET_XCOMP_PERM = 0x1022, ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_TILE_DATA = 18 }; /* asm/prctl.h: AMX is had only by who asks for it */

/* Its name, which stands in its status too; there with what is not to be in a line written otherwise. */
static void get_comm(struct eng_thread *t)
{
	const char *status = thread_status(t), *name = status ? eng_field(status, "Name") : NULL;
	int len = name ? (int)strcspn(name, "\n") : 0;
	char path[64];
	_cleanup_free_ char *text = NULL;

	if (!name || memchr(name, '\\', len)) {
		snprintf(path, sizeof(path), "task/%d/comm", t->tid);
		name = text = eng_proc_read(t->proc->dir, path, NULL);
		len = name ? (int)strcspn(name, "\n") : 0;
	}
	snprintf(t->core->comm, sizeof(t->core->comm), "%.*s", len, name ? name : "");
}

int threads_ask(struct eng_thread *t)
{
	struct thread_asked *a = &t->core->asked;
	struct {
		stack_t alt;
		uint64_t tid_addr, permitted;
		uint32_t tsc;
		int32_t death;
		char segment[16];
	} got = {0};
	struct eng_call call[10 + SPECULATIONS];
	uint64_t at;
	int r;

	if (a->is)
		return 0;
	eng_scratch_reset(t->proc);
	at = eng_scratch_put(t->proc, &got, sizeof(got));
	call[0] = (struct eng_call){.nr = SYS_sigaltstack, .arg = {0, at}};
	call[1] = (struct eng_call){.nr = SYS_prctl, .arg = {PR_GET_TID_ADDRESS, at + offsetof(typeof(got), tid_addr)}};
	call[2] = (struct eng_call){.nr = SYS_arch_prctl, .arg = {ARCH_GET_XCOMP_PERM, at + offsetof(typeof(got), permitted)}, .may_fail = 1};
	call[3] = (struct eng_call){.nr = SYS_prctl, .arg = {PR_GET_TSC, at + offsetof(typeof(got), tsc)}, .may_fail = 1};
	call[4] = (struct eng_call){.nr = SYS_prctl, .arg = {PR_GET_SECUREBITS}};
	call[5] = (struct eng_call){.nr = SYS_prctl, .arg = {PR_GET_PDEATHSIG, at + offsetof(typeof(got), death)}};
	call[6] = (struct eng_call){.nr = SYS_prctl, .arg = {PR_GET_DUMPABLE}};
	call[7] = (struct eng_call){.nr = SYS_modify_ldt, .arg = {0, at + offsetof(typeof(got), segment), sizeof(got.segment)}, .may_fail = 1};
	call[8] = (struct eng_call){.nr = SYS_prctl, .arg = {PR_GET_TIMERSLACK}};
	call[9] = (struct eng_call){.nr = SYS_personality, .arg = {0xffffffff}};
	for (unsigned i = 0; i < SPECULATIONS; i++)
		call[10 + i] = (struct eng_call){.nr = SYS_prctl, .arg = {PR_GET_SPECULATION_CTRL, i}, .may_fail = 1};
	r = eng_batch(t, call, ARRAY_SIZE(call), NULL);
	if (r == 0)
		r = eng_peek(t->proc, at, &got, sizeof(got));
	if (r < 0)
		return r;
	*a = (struct thread_asked){.is = true, .alt = got.alt, .tid_addr = got.tid_addr, .permitted = got.permitted, .tsc = got.tsc, .pdeath_sig = got.death,
		.securebits = call[4].ret, .dumpable = call[6].ret, .segments = call[7].ret > 0, .slack = call[8].ret, .personality = call[9].ret};
	for (unsigned i = 0; i < SPECULATIONS; i++)
		a->speculation[i] = call[10 + i].ret > 0 ? call[10 + i].ret : 0;
	return 0;
}

static int dump_thread(struct eng_thread *t, struct eng_image *out, struct error *e)
{
	struct eng_thread_core *c = t->core;
	Sprite__Image__ImgThread m = SPRITE__IMAGE__IMG_THREAD__INIT;
	char xstate[XSTATE_MAX] __attribute__((aligned(64)));
	struct iovec v = {xstate, sizeof(xstate)};
	uint64_t head = 0, len = 0;
	int r = threads_ask(t);

	if (r == 0 && syscall(SYS_get_robust_list, t->tid, &head, &len) < 0)
		r = -errno;
	if (r == 0 && ptrace(PTRACE_GETREGSET, t->tid, NT_XSTATE, &v) < 0)
		r = -errno;
	if (r < 0)
		return error_set(e, -r, "thread %d: its state cannot be read: %s", t->vtid, strerror(-r));
	if (c->asked.segments)
		return error_set(e, EOPNOTSUPP, "process %d has segments of its own (modify_ldt): cannot be carried", t->proc->vpid);
	get_comm(t);
	/* The parked blob runs with its own frame pointer on the alternate stack question: SS_ONSTACK depends on rsp alone and is not carried. */
	m.tid = t->vtid;
	m.regs.data = (void *)&t->regs;
	m.regs.len = sizeof(t->regs);
	m.xstate.data = (void *)xstate;
	m.xstate.len = v.iov_len;
	m.sigmask = t->sigmask;
	m.rseq = c->rseq;
	m.rseq_len = c->rseq_len;
	m.rseq_sig = c->rseq_sig;
	m.robust = head;
	m.tid_addr = c->asked.tid_addr;
	m.alt_sp = (uint64_t)c->asked.alt.ss_sp;
	m.alt_size = c->asked.alt.ss_size;
	m.alt_flags = c->asked.alt.ss_flags & ~SS_ONSTACK;
	m.comm = c->comm;
	m.remaining = c->remaining;
	m.has_remaining = c->has_remaining;
	m.amx = c->asked.permitted >> XFEATURE_TILE_DATA & 1;
	m.wait_nr = c->wait_nr;
	m.tsc = c->asked.tsc;
	m.speculation = c->asked.speculation;
	m.n_speculation = SPECULATIONS;
	return eng_image_put_msg(out, IMG_THREAD, t->proc->vpid, &m.base);
}

/* What x86 has for old programs: leave to use I/O ports (and segments of one's own, modify_ldt(2), which emulators have: dump_thread()). */
static int old_ways(struct eng_proc *p, struct error *e)
{
	char bits[8192 + 8];
	struct iovec v = {bits, sizeof(bits)};

	for (unsigned i = 0; i < p->nthreads; i++, v.iov_len = sizeof(bits))
		if (ptrace(PTRACE_GETREGSET, p->threads[i]->tid, 0x201 /* NT_386_IOPERM */, &v) == 0 && v.iov_len)
			return error_set(e, EOPNOTSUPP, "thread %d may use I/O ports of this host (ioperm, iopl): cannot be carried", p->threads[i]->vtid);
	return 0;
}

static int threads_dump(struct eng_proc *p, struct eng_image *out, struct error *e)
{
	int old = old_ways(p, e);

	if (old < 0)
		return old;
	for (unsigned i = 0; i < p->nthreads; i++) {
		int r = dump_thread(p->threads[i], out, e);

		if (r < 0)
			return r;
	}
	return 0;
}

static struct eng_thread *by_vtid(struct eng_proc *p, pid_t vtid)
{
	for (unsigned i = 0; i < p->nthreads; i++)
		if (p->threads[i]->vtid == vtid)
			return p->threads[i];
	return NULL;
}

static int threads_fill(struct eng_family *f, struct eng_proc *p, uint32_t type, const void *body, size_t len, struct error *e)
{
	Sprite__Image__ImgThread *m = sprite__image__img_thread__unpack(NULL, len, body);
	struct eng_thread *t = p && m ? by_vtid(p, m->tid) : NULL;

	(void)f;
	(void)type;
	if (!t || m->regs.len != sizeof(t->regs) || m->xstate.len > XSTATE_MAX) {
		sprite__image__img_thread__free_unpacked(m, NULL);
		return error_set(e, EPROTO, "image: a thread's record is not what it should be");
	}
	memcpy(&t->regs, m->regs.data, sizeof(t->regs));
	t->sigmask = m->sigmask;
	free(t->core->xstate);
	t->core->xstate = m->xstate.data;
	t->core->xstate_len = m->xstate.len;
	m->xstate.data = NULL; /* ours now */
	m->xstate.len = 0;
	t->core->rseq = m->rseq;
	t->core->rseq_len = m->rseq_len;
	t->core->rseq_sig = m->rseq_sig;
	t->core->robust = m->robust;
	t->core->tid_addr = m->tid_addr;
	t->core->alt = (stack_t){.ss_sp = (void *)m->alt_sp, .ss_size = m->alt_size, .ss_flags = m->alt_flags};
	snprintf(t->core->comm, sizeof(t->core->comm), "%s", m->comm);
	t->core->remaining = m->remaining;
	t->core->has_remaining = m->has_remaining;
	t->core->wait_nr = m->wait_nr;
	t->core->amx = m->amx;
	t->core->tsc = m->tsc;
	for (unsigned i = 0; i < SPECULATIONS; i++)
		t->core->speculation[i] = i < m->n_speculation ? m->speculation[i] : 0;
	sprite__image__img_thread__free_unpacked(m, NULL);
	return 0;
}

/* By the header of its XSAVE area: what is not in its initial state. */
static bool uses_tiles(const struct eng_thread_core *c)
{
	uint64_t in_use = 0;

	if (c->xstate_len >= 520)
		memcpy(&in_use, (const char *)c->xstate + 512, sizeof(in_use));
	return in_use >> XFEATURE_TILE_DATA & 1;
}

/* From the layout of the host that it was read on into this one's. */
static int set_xstate(struct eng_thread *t, struct error *e)
{
	struct eng_thread_core *c = t->core;
	struct xsave_part here[XSAVE_PARTS];
	const struct eng_family *f = t->proc->family;
	size_t n = xsave_layout(here);
	struct iovec v = {c->xstate, c->xstate_len};
	int part = 0;

	if (f->n_xsave && (n != f->n_xsave || memcmp(here, f->xsave, n * sizeof(*here)))) {
		void *mine = calloc(1, XSTATE_MAX);

		v = (struct iovec){mine, XSTATE_MAX};
		if (!mine || ptrace(PTRACE_GETREGSET, t->tid, NT_XSTATE, &v) < 0) {
			free(mine);
			return error_set(e, mine ? ESRCH : ENOMEM, "thread %d: its vector registers", t->vtid);
		}
		part = xsave_convert(c->xstate, c->xstate_len, f->xsave, f->n_xsave, mine, v.iov_len, here, n);
		free(c->xstate);
		c->xstate = mine;
		c->xstate_len = v.iov_len;
	}
	if (part > 0)
		return error_set(e, EOPNOTSUPP, "thread %d: this processor cannot take its %s", t->vtid, xsave_name(part));
	if (part < 0 || ptrace(PTRACE_SETREGSET, t->tid, NT_XSTATE, &v) < 0)
		return error_set(e, part < 0 ? -part : errno, "thread %d: its vector registers (%zu bytes) do not fit this processor", t->vtid, c->xstate_len);
	return 0;
}

static int finish_thread(struct eng_thread *t, struct error *e)
{
	struct eng_thread_core *c = t->core;
	struct eng_call call[8 + SPECULATIONS];
	size_t n = 0, failed = 0;
	uint64_t alt, comm;
	int r;

	eng_scratch_reset(t->proc);
	alt = eng_scratch_put(t->proc, &c->alt, sizeof(c->alt));
	comm = eng_scratch_put(t->proc, c->comm, sizeof(c->comm));
	call[n++] = (struct eng_call){.nr = SYS_sigaltstack, .arg = {alt, 0}};
	call[n++] = (struct eng_call){.nr = SYS_set_tid_address, .arg = {c->tid_addr}};
	call[n++] = (struct eng_call){.nr = SYS_set_robust_list, .arg = {c->robust, 24}};
	call[n++] = (struct eng_call){.nr = SYS_prctl, .arg = {PR_SET_NAME, comm}};
	if (c->rseq)
		call[n++] = (struct eng_call){.nr = SYS_rseq, .arg = {c->rseq, c->rseq_len, 0, c->rseq_sig}};
	/* A vessel is as all begin: what differs is set; a hollow may be otherwise by itself. A processor that has no such fault refuses: nothing is missed there. */
	if (c->tsc && (c->tsc != PR_TSC_ENABLE || t->proc->family->home))
		call[n++] = (struct eng_call){.nr = SYS_prctl, .arg = {PR_SET_TSC, c->tsc}, .may_fail = 1};
	for (unsigned i = 0; i < SPECULATIONS; i++)
		if (c->speculation[i] & PR_SPEC_PRCTL && (!(c->speculation[i] & PR_SPEC_ENABLE) || t->proc->family->home))
			call[n++] = (struct eng_call){.nr = SYS_prctl, .arg = {PR_SET_SPECULATION_CTRL, i, c->speculation[i] & ~PR_SPEC_PRCTL}, .may_fail = 1};
	if (c->has_settings) {
		call[n++] = (struct eng_call){.nr = SYS_prctl, .arg = {PR_SET_TIMERSLACK, c->slack}, .may_fail = 1};
		call[n++] = (struct eng_call){.nr = SYS_personality, .arg = {c->personality}};
	}
	r = eng_batch(t, call, n, &failed);
	if (r < 0)
		return error_set(e, -r, "thread %d: step %zu of its state: %s", t->vtid, failed, strerror(-r));
	r = c->amx ? (int)ENG_SYS(t, SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_TILE_DATA) : 0;
	if (r == 0 && c->amx && uses_tiles(c))
		r = inject_tiles(t);
	if (r < 0)
		return error_set(e, -r, "thread %d uses AMX, which this host does not permit: %s", t->vtid, strerror(-r));
	return set_xstate(t, e);
}

static int threads_finish(struct eng_proc *p, struct error *e)
{
	for (unsigned i = 0; i < p->nthreads; i++) {
		int r = finish_thread(p->threads[i], e);

		if (r < 0)
			return r;
	}
	return 0;
}

/* What points into memory that goes away: rseq (else the kernel kills the thread), robust list, tid address, alternate stack. */
static int threads_hollow(struct eng_proc *p, struct error *e)
{
	for (unsigned i = 0; i < p->nthreads; i++) {
		struct eng_thread *t = p->threads[i];
		stack_t off = {.ss_flags = SS_DISABLE};
		struct eng_call call[5];
		size_t n = 0;
		uint64_t at;
		int r;

		eng_scratch_reset(p);
		at = eng_scratch_put(p, &off, sizeof(off));
		call[n++] = (struct eng_call){.nr = SYS_sigaltstack, .arg = {at, 0}, .may_fail = 1};
		call[n++] = (struct eng_call){.nr = SYS_set_tid_address, .arg = {0}};
		call[n++] = (struct eng_call){.nr = SYS_set_robust_list, .arg = {0, 24}, .may_fail = 1};
		if (t->core->rseq)
			call[n++] = (struct eng_call){.nr = SYS_rseq, .arg = {t->core->rseq, t->core->rseq_len, 1, t->core->rseq_sig}, .may_fail = 1};
		r = eng_batch(t, call, n, NULL);
		t->core->rseq = 0;
		if (r < 0)
			return error_set(e, -r, "thread %d cannot be emptied: %s", t->vtid, strerror(-r));
	}
	return 0;
}

const struct eng_res res_threads = {
	.name = "threads",
	.types = {IMG_THREAD, IMG_THREAD},
	.dump = threads_dump,
	.fill = threads_fill,
	.finish = threads_finish,
	.hollow = threads_hollow,
};
