// SPDX-License-Identifier: Apache-2.0
/* What becomes of a guest: events of its engine, told to the home in order by the outbox; and its end. In its actor, but for what says otherwise. */
#include "migd/guest_parts.h"
#include "conf/log.h"
#include "migd/ahead.h"
#include "migd/outbox.h"

int guest_actor_end(struct family *f, void *unused)
{
	(void)unused;
	if (f->eng) {
		eng_discard(f->eng);
		f->eng = NULL;
	}
	return 0;
}

/* The last process has ended and the home knows of it all. */
static void *bury_main(void *arg)
{
	struct family *f = arg;

	while (outbox_flush(f->outbox, 3600 * 1000) && !f->dead)
		;
	family_call(f, guest_actor_end, NULL);
	guest_forget(f);
	family_put(f);
	return NULL;
}

static void guest_ended(struct family *f)
{
	Sprite__Mig__ReportReq r = SPRITE__MIG__REPORT_REQ__INIT;

	r.kind = SPRITE__MIG__REPORT_REQ__KIND__EMPTY;
	outbox_report(f->outbox, &r);
	f->ended = true;
	aheads_want(f->m->aheads, f->home); /* who ran something small may run something else */
	family_get(f);
	if (thread_run(bury_main, f))
		family_put(f);
}

int guest_actor_caught_up(struct family *f, void *unused)
{
	size_t left = 0;

	(void)unused;
	family_events(f);
	if (f->eng)
		eng_pids(f->eng, &left);
	if (!left && f->eng && !f->ended)
		guest_ended(f);
	return 0;
}

void guest_event(struct family *f, const struct eng_event *ev)
{
	Sprite__Mig__ReportReq r = SPRITE__MIG__REPORT_REQ__INIT;
	uint8_t args[ENG_ARGS_MAX];
	size_t left = 1;
	int stopped;

	r.pid = ev->pid;
	r.ppid = ev->ppid;
	switch (ev->kind) {
	case ENG_EXITED:
		r.kind = SPRITE__MIG__REPORT_REQ__KIND__EXITED;
		r.status = ev->status;
		r.utime_us = ev->usage.ru_utime.tv_sec * 1000000ull + ev->usage.ru_utime.tv_usec;
		r.stime_us = ev->usage.ru_stime.tv_sec * 1000000ull + ev->usage.ru_stime.tv_usec;
		r.maxrss_kb = ev->usage.ru_maxrss;
		eng_pids(f->eng, &left);
		break;
	case ENG_STOPPED:
	case ENG_CONTINUED:
		/* In this order: what has arrived since is not counted, or was acted on before the look. wait(2) does not tell of a stop that is over, either. */
		r.heard = 1 + f->signal_seq;
		stopped = eng_stopped(f->eng, ev->pid);
		if (stopped >= 0 && stopped == (ev->kind == ENG_CONTINUED))
			return;
		r.kind = ev->kind == ENG_STOPPED ? SPRITE__MIG__REPORT_REQ__KIND__STOPPED : SPRITE__MIG__REPORT_REQ__KIND__CONTINUED;
		r.status = ev->kind == ENG_STOPPED ? ev->info.si_signo : 0;
		break;
	case ENG_OFFSET:
		r.kind = SPRITE__MIG__REPORT_REQ__KIND__OFFSET;
		r.num = ev->num;
		r.pos = ev->offset;
		break;
	case ENG_BORN:
		r.kind = SPRITE__MIG__REPORT_REQ__KIND__BORN;
		r.pgid = ev->pgid;
		r.sid = ev->sid;
		r.exit_signal = ev->exit_signal;
		break;
	case ENG_NAMED:
		r.kind = SPRITE__MIG__REPORT_REQ__KIND__NAMED;
		break;
	default:
		return;
	}
	if (ev->kind == ENG_BORN || ev->kind == ENG_NAMED) {
		r.comm = (char *)ev->comm;
		r.args.data = args;
		r.args.len = eng_args(f->eng, ev->pid, (char *)args, sizeof(args));
	}
	log_debug("family %s: report %d of %d, status %#x, %zu left", f->id, r.kind, ev->pid, ev->status, left);
	pthread_mutex_lock(&f->lock);
	if (ev->kind == ENG_BORN) {
		family_add_member(f, ev->pid, ev->ppid, ev->comm, false);
	} else if (ev->kind == ENG_NAMED) {
		family_rename(f, ev->pid, ev->comm);
	} else if (ev->kind == ENG_EXITED) {
		struct member *m = family_member(f, ev->pid);

		if (m)
			m->ended = true;
	}
	pthread_mutex_unlock(&f->lock);
	outbox_report(f->outbox, &r);
	if (!left) /* there may be other ends to tell: EMPTY is the last word */
		family_post(f, guest_actor_caught_up, NULL);
}
