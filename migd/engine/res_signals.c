/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Signals: what each one does (sigactions) and what waits (queue of the process and of each thread, with siginfo, in order).
 * Masks and alternate stacks belong to threads and travel with them.
 *
 * Read: rt_sigaction by injection, PTRACE_PEEKSIGINFO. Restored: every thread queues its own to itself, because only then the kernel takes any
 * si_code (rt_sigqueueinfo(2): "si_code >= 0 or SI_TKILL" only to oneself).
 *
 * A POSIX timer's signal that waits has an overrun count that the kernel fills in only when it is taken; so those are taken and queued again
 * as ordinary signals with that count in them. Meanwhile the timer goes on: when it falls due next is read after that and before the queues, and
 * all again if a timer has signalled in between. So an expiry is told by a signal of the image or by the timer of the image: none is lost and none
 * told twice. The source may run on with them after a thaw.
 *
 * hollow(): stop signals stop; what was in the image leaves the hollow's queues; signals that came since stay there, to be forwarded.
 */
#include "migd/engine/res_signals.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include "conf/cleanup.h"
#include "rpc/image_res.pb-c.h"

struct kernel_action {
	uint64_t handler, flags, restorer, mask;
};
enum { SETTLE_ROUNDS = 64, PUT_MAX = 128 };

struct signals_state { /* ->res[]: at the source what was dumped, at the destination what to restore */
	Sprite__Img__Signals *image;
	unsigned *dumped; /* [nthreads + 1][NSIGS + 1]: how many of each went into the image; row 0: the process */
	unsigned rows;
	unsigned later[NSIGS + 1]; /* between signals_queue_open() and signals_queue_close() */
};

const struct eng_res res_signals;

static struct signals_state *state_of(struct eng_proc *p)
{
	struct signals_state **s = (struct signals_state **)&p->res[eng_res_index(&res_signals)];

	if (!*s)
		*s = calloc(1, sizeof **s);
	return *s;
}

static void state_clear(struct signals_state *s)
{
	if (s->image)
		sprite__img__signals__free_unpacked(s->image, NULL);
	free(s->dumped);
	memset(s, 0, sizeof *s);
}

/* Standard signals are not queued twice: one that the timer has sent since takes the place of ours, and gets its expiries. */
static int queue_put_timers(struct eng_thread *t, bool shared, siginfo_t *info)
{
	siginfo_t since;
	int r = sigqueue_put(t, shared, info);

	while (!r && info->si_signo < __SIGRTMIN && info->si_code == SI_TIMER && !sigqueue_has(t, shared, info)) {
		r = sigqueue_take(t, info->si_signo, &since);
		if (r > 0 && since.si_code == SI_TIMER)
			info->si_overrun += 1 + since.si_overrun;
		if (r >= 0)
			r = sigqueue_put(t, shared, info);
	}
	return r;
}

/* Takes all waiting `sig` of thread t (and, by the leader, of the process) and queues them again: see above. */
static int timers_to_plain(struct eng_thread *t, int sig, size_t own, size_t shared, size_t *told)
{
	siginfo_t *info = calloc(own + shared, sizeof *info);
	struct sigqueue_room room;
	size_t n = 0;
	int r = info ? 0 : -ENOMEM;

	sigqueue_room_make(t->proc, &room);
	while (!r && n < own + shared && (r = sigqueue_take(t, sig, &info[n])) > 0) {
		n++;
		r = 0;
	}
	for (size_t i = 0; i < n; i++) { /* also after a failure: they must not get lost */
		int q = queue_put_timers(t, i >= own, &info[i]);

		if (q < 0 && !r)
			r = q;
		*told += info[i].si_code == SI_TIMER;
	}
	sigqueue_room_end(t->proc, &room);
	free(info);
	return r;
}

/* *told: how many signals of timers wait now, with their counts in them. */
static int timers_settle(struct eng_proc *p, size_t *told)
{
	*told = 0;
	for (unsigned i = p->nthreads; i-- > 0;) { /* the leader last: it takes the process's too */
		struct eng_thread *t = p->threads[i];
		struct sig_list own, shared = {NULL, 0};
		bool has[NSIGS + 1] = {false};
		unsigned nown[NSIGS + 1] = {0}, nshared[NSIGS + 1] = {0};
		int r = sigqueue_peek(t, false, &own);

		if (r < 0)
			return r;
		if (i == 0 && (r = sigqueue_peek(t, true, &shared)) < 0) {
			free(own.info);
			return r;
		}
		for (size_t k = 0; k < own.n; k++) {
			nown[own.info[k].si_signo]++;
			has[own.info[k].si_signo] |= own.info[k].si_code == SI_TIMER;
		}
		for (size_t k = 0; k < shared.n; k++) {
			nshared[shared.info[k].si_signo]++;
			has[shared.info[k].si_signo] |= shared.info[k].si_code == SI_TIMER;
		}
		free(own.info);
		free(shared.info);
		for (int s = 1; s <= NSIGS && r >= 0; s++)
			if (has[s])
				r = timers_to_plain(t, s, nown[s], nshared[s], told);
		if (r < 0)
			return r;
	}
	return 0;
}

static int actions_read(struct eng_proc *p, struct kernel_action *act)
{
	struct eng_call c[NSIGS];
	unsigned n = 0;

	eng_scratch_reset(p);
	uint64_t at = eng_scratch_put(p, NULL, NSIGS * sizeof *act);

	if (!at)
		return -ENOMEM;
	for (int s = 1; s <= NSIGS; s++)
		c[n++] = (struct eng_call){SYS_rt_sigaction, {s, 0, at + (s - 1) * sizeof *act, 8}, 0, 0, 0};
	int r = eng_batch(p->threads[0], c, n, NULL);

	if (!r)
		r = eng_peek(p, at, act, NSIGS * sizeof *act);
	if (!r)
		eng_sigtrap_action(p, &act[SIGTRAP - 1]); /* the process has the blob's now */
	return r;
}

static int queue_dump(struct eng_thread *t, bool shared, Sprite__Img__SigQueue *q, unsigned *count, size_t *timers)
{
	struct sig_list l;
	int r = sigqueue_peek(t, shared, &l);

	if (r < 0)
		return r;
	q->tid = shared ? 0 : t->vtid;
	q->info = calloc(l.n + 1, sizeof *q->info);
	if (!q->info) {
		free(l.info);
		return -ENOMEM;
	}
	for (size_t i = 0; i < l.n; i++) {
		int s = l.info[i].si_signo;

		if (s < 1 || s > NSIGS || s == SIGKILL || s == SIGSTOP)
			continue;
		count[s]++;
		*timers += l.info[i].si_code == SI_TIMER;
		q->info[q->n_info].data = malloc(sizeof(siginfo_t));
		if (!q->info[q->n_info].data) {
			free(l.info);
			return -ENOMEM;
		}
		q->info[q->n_info].len = sizeof(siginfo_t);
		memcpy(q->info[q->n_info++].data, &l.info[i], sizeof(siginfo_t));
	}
	free(l.info);
	return 0;
}

static void queues_forget(Sprite__Img__Signals *m, struct signals_state *s)
{
	for (size_t i = 0; i < m->n_queue; i++)
		sprite__img__sig_queue__free_unpacked(m->queue[i], NULL);
	free(m->queue);
	m->queue = NULL;
	m->n_queue = 0;
	free(s->dumped);
	s->dumped = NULL;
}

static int signals_dump_queues(struct eng_proc *p, Sprite__Img__Signals *m, struct signals_state *s, size_t *timers)
{
	*timers = 0;
	s->rows = p->nthreads + 1;
	s->dumped = calloc(s->rows, sizeof(unsigned[NSIGS + 1]));
	m->queue = calloc(s->rows, sizeof *m->queue);
	if (!s->dumped || !m->queue)
		return -ENOMEM;
	for (unsigned i = 0; i < s->rows; i++) {
		Sprite__Img__SigQueue *q = calloc(1, sizeof *q);

		if (!q)
			return -ENOMEM;
		sprite__img__sig_queue__init(q);
		m->queue[m->n_queue++] = q;
		int r = queue_dump(p->threads[i ? i - 1 : 0], i == 0, q, s->dumped + i * (NSIGS + 1), timers);

		if (r < 0)
			return r;
	}
	return 0;
}

/* Timers and queues as of one moment. A timer that is faster than we look (less than a millisecond) is taken as it is at last. */
static int queues_and_timers(struct eng_proc *p, Sprite__Img__Signals *m, struct signals_state *s)
{
	size_t told, wait = 0, n = 0;
	int r;

	for (int round = 0; round < SETTLE_ROUNDS; round++) {
		queues_forget(m, s);
		r = timers_settle(p, &told);
		if (!r)
			r = res_timers_look(p, &n);
		if (!r)
			r = signals_dump_queues(p, m, s, &wait);
		if (r < 0 || !n || wait == told)
			return r;
	}
	return 0;
}

static int signals_dump(struct eng_proc *p, struct eng_image *out, struct error *e)
{
	struct signals_state *s = state_of(p);
	struct kernel_action act[NSIGS];
	Sprite__Img__Signals *m = calloc(1, sizeof *m);
	int r = s && m ? 0 : -ENOMEM;

	if (r < 0) {
		free(m);
		return r;
	}
	state_clear(s);
	sprite__img__signals__init(m);
	r = queues_and_timers(p, m, s);
	if (!r)
		r = actions_read(p, act);
	if (!r && !(m->action = calloc(NSIGS, sizeof *m->action)))
		r = -ENOMEM;
	for (int i = 0; !r && i < NSIGS; i++) {
		if (!act[i].handler && !act[i].flags && !act[i].mask)
			continue;
		Sprite__Img__SigAction *a = malloc(sizeof *a);

		if (!a) {
			r = -ENOMEM;
			break;
		}
		sprite__img__sig_action__init(a);
		a->sig = i + 1;
		a->handler = act[i].handler;
		a->flags = act[i].flags;
		a->restorer = act[i].restorer;
		a->mask = act[i].mask;
		m->action[m->n_action++] = a;
	}
	if (!r)
		r = eng_image_put_msg(out, RES_SIGNALS, p->vpid, &m->base);
	sprite__img__signals__free_unpacked(m, NULL);
	return r < 0 ? error_set(e, -r, "signals of %d cannot be read: %s", p->vpid, strerror(-r)) : 0;
}

static int signals_fill(struct eng_family *f, struct eng_proc *p, uint32_t type, const void *body, size_t len, struct error *e)
{
	struct signals_state *s = p ? state_of(p) : NULL;

	(void)f, (void)type;
	if (!s)
		return res_bad_record(e, "signals");
	state_clear(s);
	s->image = sprite__img__signals__unpack(NULL, len, body);
	return s->image ? 0 : res_bad_record(e, "signals");
}

/* Setting it would take away one that waits, where it does nothing by itself; but that one continues a stopped family (thaw_stop()). */
static bool cont_stands(struct eng_proc *p, const struct kernel_action *want)
{
	struct kernel_action is = {0};
	uint64_t at = eng_scratch_put(p, &is, sizeof is);

	return want->handler <= 1 && at && ENG_SYS(p->threads[0], SYS_rt_sigaction, SIGCONT, 0, at, 8) == 0 && eng_peek(p, at, &is, sizeof is) == 0 && is.handler == want->handler;
}

static int actions_write(struct eng_proc *p, const Sprite__Img__Signals *m)
{
	struct kernel_action act[NSIGS] = {{0}};
	struct eng_call c[NSIGS];
	unsigned n = 0;

	for (size_t i = 0; i < m->n_action; i++) {
		const Sprite__Img__SigAction *a = m->action[i];

		if (a->sig >= 1 && a->sig <= NSIGS)
			act[a->sig - 1] = (struct kernel_action){a->handler, a->flags, a->restorer, a->mask};
	}
	eng_scratch_reset(p);
	uint64_t at = eng_scratch_put(p, act, sizeof act);

	if (!at)
		return -ENOMEM;
	bool skip = cont_stands(p, &act[SIGCONT - 1]);

	for (int s = 1; s <= NSIGS; s++)
		if (s != SIGKILL && s != SIGSTOP && s != SIGTRAP && !(skip && s == SIGCONT))
			c[n++] = (struct eng_call){SYS_rt_sigaction, {s, at + (s - 1) * sizeof *act, 0, 8}, 0, 0, 0};
	int r = eng_batch(p->threads[0], c, n, NULL);

	if (!r)
		eng_sigtrap_set(p, &act[SIGTRAP - 1]); /* the core gives it to the process at the very end */
	return r;
}

/* What is queued again is counted as dumped(): should this fill be abandoned, hollow() takes it out again, for the guest still has it. */
static int queue_fill(struct eng_proc *p, const Sprite__Img__SigQueue *q, struct signals_state *s, struct error *e)
{
	struct eng_thread *t = q->tid ? res_thread_by_vtid(p, q->tid) : p->threads[0];
	struct sigqueue_room room;
	unsigned row = 0;
	int r = 0;

	for (unsigned i = 0; q->tid && i < p->nthreads; i++)
		if (p->threads[i] == t)
			row = i + 1;
	for (size_t k = 0; t && k < q->n_info; k++) {
		siginfo_t si;

		if (q->info[k].len != sizeof si)
			return res_bad_record(e, "signals");
		memcpy(&si, q->info[k].data, sizeof si);
		if (si.si_signo < 1 || si.si_signo > NSIGS)
			return res_bad_record(e, "signals");
		s->dumped[row * (NSIGS + 1) + si.si_signo]++;
	}
	if (!t || !q->n_info)
		return 0;
	sigqueue_room_make(p, &room);
	for (size_t k = 0, n; r == 0 && k < q->n_info; k += n) { /* in one go: others may send here meanwhile */
		struct eng_call c[PUT_MAX];
		size_t bad = 0;

		eng_scratch_reset(p);
		for (n = 0; n < PUT_MAX && k + n < q->n_info; n++) {
			const siginfo_t *si = (const siginfo_t *)q->info[k + n].data;
			uint64_t at = eng_scratch_put(p, si, sizeof *si);

			c[n] = q->tid ? (struct eng_call){SYS_rt_tgsigqueueinfo, {p->vpid, t->vtid, si->si_signo, at}, 0, 0, 0}
				      : (struct eng_call){SYS_rt_sigqueueinfo, {p->vpid, si->si_signo, at}, 0, 0, 0};
		}
		r = eng_batch(t, c, n, &bad);
		if (r < 0)
			error_set(e, -r, "a signal cannot be queued again for %d (number %zu of %zu): %s", t->vtid, k + bad + 1, q->n_info, strerror(-r));
	}
	sigqueue_room_end(p, &room);
	return r;
}

/*
 * Signals that came here since it left are later than those that it brings, and than those that were on their way to it: what stands before the first that it has
 * brought goes behind. Standard ones do not queue. A failure only costs the order.
 */
static void queue_after_image(struct eng_proc *p, const Sprite__Img__SigQueue *q, const struct signals_state *s)
{
	struct sig_list l;

	if (q->tid || sigqueue_peek(p->threads[0], true, &l) < 0)
		return;
	for (int sig = __SIGRTMIN; sig <= NSIGS; sig++) {
		const void *first = NULL;
		unsigned before = 0;
		bool found = false;

		for (size_t i = 0; i < q->n_info && !first; i++)
			if (((const siginfo_t *)q->info[i].data)->si_signo == sig)
				first = q->info[i].data;
		for (size_t i = 0; first && i < l.n && !found; i++)
			if (l.info[i].si_signo == sig && !(found = !memcmp(&l.info[i], first, sizeof *l.info)))
				before++;
		if (found && before && s->dumped[sig] && !sigqueue_own(p->threads[0], sig))
			sigqueue_turn(p, sig, before);
	}
	free(l.info);
}

void signals_queue_open(struct eng_proc *p)
{
	struct signals_state *s = state_of(p);

	if (!s || !s->dumped)
		return;
	sigqueue_count(p, s->later);
	for (int sig = __SIGRTMIN; sig <= NSIGS; sig++)
		if (s->later[sig] > s->dumped[sig] && !sigqueue_own(p->threads[0], sig)) {
			sigqueue_turn(p, sig, s->dumped[sig]);
			s->later[sig] -= s->dumped[sig];
		} else {
			s->later[sig] = 0;
		}
}

void signals_queue_close(struct eng_proc *p)
{
	struct signals_state *s = state_of(p);

	for (int sig = __SIGRTMIN; s && s->dumped && sig <= NSIGS; sig++)
		if (s->later[sig])
			sigqueue_turn(p, sig, s->later[sig]);
}

static int signals_finish(struct eng_proc *p, struct error *e)
{
	struct signals_state *s = state_of(p);

	if (!s || !s->image)
		return error_set(e, EBADMSG, "image: no signals of process %d", p->vpid);
	Sprite__Img__Signals *m = s->image;

	s->image = NULL;
	state_clear(s);
	s->rows = p->nthreads + 1;
	s->dumped = calloc(s->rows, sizeof(unsigned[NSIGS + 1]));
	int r = s->dumped ? actions_write(p, m) : -ENOMEM;

	for (size_t i = 0; !r && i < m->n_queue; i++)
		r = queue_fill(p, m->queue[i], s, e);
	for (size_t i = 0; !r && i < m->n_queue; i++)
		queue_after_image(p, m->queue[i], s);
	sprite__img__signals__free_unpacked(m, NULL);
	return r < 0 ? error_set(e, -r, "signals of %d cannot be set: %s", p->vpid, strerror(-r)) : 0;
}

/* Timers' own signals never go on: the timers are over there now. The image's copy of what waited does not either. */
static bool from_timer(const siginfo_t *si)
{
	return si->si_code == SI_TIMER ||
	       (si->si_code == SI_KERNEL && (si->si_signo == SIGALRM || si->si_signo == SIGVTALRM || si->si_signo == SIGPROF));
}

/* What is over, `skip` of them at the front, is taken out; the rest is left as it stands, in its order, unless a timer's is among it. */
static int hollow_queue_of(struct eng_thread *t, bool shared, int sig, const struct sig_list *l, unsigned skip)
{
	siginfo_t *keep = calloc(l->n + 1, sizeof *keep);
	struct sigqueue_room room;
	unsigned waits = 0, n = 0;
	bool timers = false;

	for (size_t i = 0; i < l->n; i++)
		if (l->info[i].si_signo == sig && waits++ >= skip)
			timers |= from_timer(&l->info[i]);
	if (!timers && waits > skip)
		waits = skip;
	if (!keep)
		return -ENOMEM;
	sigqueue_room_make(t->proc, &room);
	for (siginfo_t si; waits && sigqueue_take(t, sig, &si) > 0; waits--) { /* no more than these: a thread would go on with the process's */
		if (skip)
			skip--;
		else if (!from_timer(&si))
			keep[n++] = si;
	}
	for (unsigned i = 0; i < n; i++)
		sigqueue_put(t, shared, &keep[i]);
	sigqueue_room_end(t->proc, &room);
	free(keep);
	return 0;
}

static int hollow_queue(struct eng_thread *t, bool shared, const unsigned *dumped)
{
	bool seen[NSIGS + 1] = {[0] = true, [SIGKILL] = true, [SIGSTOP] = true};
	struct sig_list l;
	int r = sigqueue_peek(t, shared, &l);

	if (r < 0)
		return r;
	for (size_t i = 0; i < l.n && !r; i++) {
		int s = l.info[i].si_signo;

		if (s >= 0 && s <= NSIGS && !seen[s])
			r = hollow_queue_of(t, shared, s, &l, dumped[s]);
		if (s >= 0 && s <= NSIGS)
			seen[s] = true;
	}
	free(l.info);
	return r;
}

/* The guest's stops are played on the hollow by these signals, which must stop it, whatever the program had set for them when it left: its handlers are gone. */
static int stops_default(struct eng_proc *p)
{
	struct kernel_action dfl = {0};
	struct eng_call c[3];
	unsigned n = 0;

	eng_scratch_reset(p);
	uint64_t at = eng_scratch_put(p, &dfl, sizeof dfl);

	if (!at)
		return -ENOMEM;
	for (int s = SIGTSTP; s <= SIGTTOU; s++)
		c[n++] = (struct eng_call){SYS_rt_sigaction, {s, at, 0, 8}, 0, 0, 0};
	return eng_batch(p->threads[0], c, n, NULL);
}

static int signals_hollow(struct eng_proc *p, struct error *e)
{
	struct signals_state *s = state_of(p);
	unsigned none[NSIGS + 1] = {0};
	int r = stops_default(p);

	if (r < 0 || !s || !s->dumped)
		return r < 0 ? error_set(e, -r, "stop signals of %d: %s", p->vpid, strerror(-r)) : 0;
	for (unsigned i = p->nthreads + 1; !r && i-- > 0;) /* threads first: a thread takes its own before the process's */
		r = hollow_queue(p->threads[i ? i - 1 : 0], i == 0, i < s->rows ? s->dumped + i * (NSIGS + 1) : none);
	state_clear(s);
	return r < 0 ? error_set(e, -r, "pending signals of %d: %s", p->vpid, strerror(-r)) : 0;
}

static void signals_release(struct eng_family *f, struct eng_proc *p)
{
	(void)f;
	if (!p || !p->res[eng_res_index(&res_signals)])
		return;
	state_clear(p->res[eng_res_index(&res_signals)]);
	free(p->res[eng_res_index(&res_signals)]);
	p->res[eng_res_index(&res_signals)] = NULL;
}

const struct eng_res res_signals = {
	.name = "signals",
	.types = {RES_SIGNALS, RES_SIGNALS},
	.dump = signals_dump,
	.fill = signals_fill,
	.finish = signals_finish,
	.hollow = signals_hollow,
	.release = signals_release,
};
