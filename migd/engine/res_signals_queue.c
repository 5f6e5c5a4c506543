// SPDX-License-Identifier: Apache-2.0
/* Queues of signals of a stopped process, see res_signals.h. */
#include "migd/engine/res_signals.h"
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include "migd/engine/core.h"

enum { INFO_SIZE = sizeof(siginfo_t) };

/* From outside; and where we may not (no CAP_SYS_RESOURCE), by the process itself, which may go up to its hard limit. */
static bool limit_set(struct eng_proc *p, const struct rlimit *to)
{
	uint64_t at;

	if (!prlimit(p->pid, RLIMIT_SIGPENDING, to, NULL))
		return true;
	eng_scratch_reset(p);
	at = eng_scratch_put(p, to, sizeof *to);
	return at && eng_syscall(p->threads[0], SYS_prlimit64, 0l, (long)RLIMIT_SIGPENDING, at, 0l) == 0;
}

static int head_set(struct eng_proc *p, const struct rlimit *was, bool raised)
{
	struct blob_head h = {.sigpending = *was, .raised = raised};
	size_t from = offsetof(struct blob_head, sigpending);

	return eng_poke(p, p->core->blob + BLOB_HEAD + from, &h.sigpending, offsetof(struct blob_head, raised) + sizeof h.raised - from);
}

void sigqueue_room_make(struct eng_proc *p, struct sigqueue_room *room)
{
	struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY};
	uint64_t at;

	room->made = false;
	eng_scratch_reset(p);
	at = eng_scratch_put(p, NULL, sizeof room->was);
	if (!at || eng_syscall(p->threads[0], SYS_prlimit64, 0l, (long)RLIMIT_SIGPENDING, 0l, at) || eng_peek(p, at, &room->was, sizeof room->was) || head_set(p, &room->was, true))
		return;
	if (prlimit(p->pid, RLIMIT_SIGPENDING, &all, NULL)) {
		all.rlim_cur = all.rlim_max = room->was.rlim_max;
		if (room->was.rlim_cur == all.rlim_cur || !limit_set(p, &all)) {
			head_set(p, &room->was, false);
			return;
		}
	}
	room->made = true;
}

void sigqueue_room_end(struct eng_proc *p, struct sigqueue_room *room)
{
	if (room->made && limit_set(p, &room->was))
		head_set(p, &room->was, false);
	room->made = false;
}

void sigqueue_room_found(struct eng_proc *p, const struct blob_head *head)
{
	if (head->raised && limit_set(p, &head->sigpending))
		head_set(p, &head->sigpending, false);
}

int sigqueue_peek(struct eng_thread *t, bool shared, struct sig_list *out)
{
	struct __ptrace_peeksiginfo_args a = {.off = 0, .flags = shared ? PTRACE_PEEKSIGINFO_SHARED : 0, .nr = 32};

	*out = (struct sig_list){NULL, 0};
	for (;;) {
		siginfo_t *more = realloc(out->info, (out->n + a.nr) * sizeof *more);

		if (!more) {
			free(out->info);
			return -ENOMEM;
		}
		out->info = more;
		a.off = out->n;
		long r = ptrace(PTRACE_PEEKSIGINFO, t->tid, &a, out->info + out->n);

		if (r < 0) {
			r = -errno;
			free(out->info);
			return r;
		}
		if (r == 0)
			return 0;
		out->n += r;
	}
}

int sigqueue_take(struct eng_thread *t, int sig, siginfo_t *info)
{
	struct eng_proc *p = t->proc;
	uint64_t mask = 1ull << (sig - 1), zero[2] = {0, 0};

	eng_scratch_reset(p);
	uint64_t am = eng_scratch_put(p, &mask, sizeof mask), at = eng_scratch_put(p, zero, sizeof zero),
		 ai = eng_scratch_put(p, NULL, INFO_SIZE);

	if (!ai)
		return -ENOMEM;
	long r = eng_syscall(t, SYS_rt_sigtimedwait, am, ai, at, 8ul);

	if (r == -EAGAIN || r == -EINTR)
		return 0;
	if (r < 0)
		return r;
	r = eng_peek(p, ai, info, sizeof *info);
	return r < 0 ? r : 1;
}

int sigqueue_put(struct eng_thread *t, bool shared, const siginfo_t *info)
{
	struct eng_proc *p = t->proc;

	eng_scratch_reset(p);
	uint64_t at = eng_scratch_put(p, info, sizeof *info);

	if (!at)
		return -ENOMEM;
	if (shared)
		return eng_syscall(t, SYS_rt_sigqueueinfo, (long)p->vpid, (long)info->si_signo, at);
	return eng_syscall(t, SYS_rt_tgsigqueueinfo, (long)p->vpid, (long)t->vtid, (long)info->si_signo, at);
}

bool sigqueue_has(struct eng_thread *t, bool shared, const siginfo_t *info)
{
	struct sig_list l;
	bool has = false;

	if (sigqueue_peek(t, shared, &l) < 0)
		return true;
	for (size_t i = 0; i < l.n; i++)
		has |= !memcmp(&l.info[i], info, sizeof *info);
	free(l.info);
	return has;
}

/* One that waits for this thread alone: it would take that first. */
bool sigqueue_own(struct eng_thread *t, int sig)
{
	struct sig_list l;
	bool has = false;

	if (sigqueue_peek(t, false, &l) < 0)
		return true;
	for (size_t i = 0; i < l.n; i++)
		has |= l.info[i].si_signo == sig;
	free(l.info);
	return has;
}

void sigqueue_count(struct eng_proc *p, unsigned n[NSIGS + 1])
{
	struct sig_list l;

	memset(n, 0, sizeof(unsigned[NSIGS + 1]));
	if (sigqueue_peek(p->threads[0], true, &l) < 0)
		return;
	for (size_t i = 0; i < l.n; i++)
		n[l.info[i].si_signo]++;
	free(l.info);
}

/* The process does it by itself in one go: it is done also if we die now. */
int sigqueue_turn(struct eng_proc *p, int sig, unsigned n)
{
	uint64_t mask = 1ull << (sig - 1), zero[2] = {0, 0}, am, at, ai;
	struct eng_call c[ENG_BATCH_MAX & ~1];
	struct sigqueue_room room;
	int r = 0;

	sigqueue_room_make(p, &room);
	eng_scratch_reset(p);
	am = eng_scratch_put(p, &mask, sizeof mask);
	at = eng_scratch_put(p, zero, sizeof zero);
	ai = eng_scratch_put(p, NULL, INFO_SIZE);
	while (ai && n && !r) {
		size_t k = 0;

		for (; n && k < sizeof c / sizeof *c; n--) {
			c[k++] = (struct eng_call){SYS_rt_sigtimedwait, {am, ai, at, 8}, 0, 0, 0};
			c[k++] = (struct eng_call){SYS_rt_sigqueueinfo, {p->vpid, sig, ai}, 0, 0, 0};
		}
		r = eng_batch(p->threads[0], c, k, NULL);
	}
	sigqueue_room_end(p, &room);
	return ai ? r : -ENOMEM;
}
