/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Resource limits, scheduling (nice, policy, affinity, I/O priority, timer slack), personality, death signal, subreaper, OOM score, THP and
 * machine-check settings, merging of pages, W^X (PR_SET_MDWE), mlockall for what is mapped later; what membarrier(2) was registered for, what a core file holds.
 *
 * Limits are set in the target itself, and by us where it may not (raising a hard limit needs CAP_SYS_RESOURCE of the host).
 * Real-time classes are refused: a guest must never hold back the host's owner.
 * Affinity: "all CPUs of this host" stays that over there. A narrower set is cut to what the host has, and remembered for the way on and home.
 * The death signal is cleared by every change of credentials (prctl(2)), so res_creds.c sets it.
 */
#include "migd/engine/res_util.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/membarrier.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "migd/engine/adopt.h"
#include "migd/engine/core.h"
#include "migd/engine/procfs.h"
#include "rpc/image_res.pb-c.h"

#ifndef PR_SET_MDWE /* Linux 6.3 */
#define PR_SET_MDWE 65
#define PR_GET_MDWE 66
#endif
#ifndef PR_SET_MEMORY_MERGE /* Linux 6.4 */
#define PR_SET_MEMORY_MERGE 67
#define PR_GET_MEMORY_MERGE 68
#endif
enum { IOPRIO_WHO_PROCESS = 1, CPU_BYTES = 1024, BARRIERS = 1 << 2 | 1 << 4 | 1 << 6 | 1 << 8 /* MEMBARRIER_CMD_REGISTER_* */ };
struct sched_attr_0 { /* struct sched_attr of sched_setattr(2), first version */
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};
struct cpus {
	uint8_t bit[CPU_BYTES];
	size_t len; /* bytes; 0: all */
};
struct limits_state { /* ->res[] */
	Sprite__Img__Limits *image;
	struct rlimit now[RLIM_NLIMITS]; /* home: of the hollow, */
	uint32_t said;			 /* bits: set there while the process was away (prlimit --pid): that was said last */
	struct wish { /* what a thread asked for and this host could not give in full */
		pid_t vtid;
		struct cpus want, got;
	} *wish;
	size_t nwish;
};

const struct eng_res res_limits;

static struct limits_state *state_of(struct eng_proc *p)
{
	void **s = &p->res[eng_res_index(&res_limits)];

	if (!*s)
		*s = calloc(1, sizeof(struct limits_state));
	return *s;
}

/* ---- affinity ------------------------------------------------------------------------------------- */

static void cpus_trim(struct cpus *c)
{
	while (c->len && !c->bit[c->len - 1])
		c->len--;
}
static bool cpus_equal(const struct cpus *a, const struct cpus *b)
{
	return a->len == b->len && !memcmp(a->bit, b->bit, a->len);
}
static int cpus_of(pid_t tid, struct cpus *c)
{
	memset(c, 0, sizeof *c);
	long r = syscall(SYS_sched_getaffinity, tid, sizeof c->bit, c->bit);

	if (r < 0)
		return -errno;
	c->len = r;
	cpus_trim(c);
	return 0;
}
/* All that a process may have here: what pid 1 of our namespace... is not to be relied on; the online set is. */
static void cpus_host(struct cpus *c)
{
	_cleanup_free_ char *text = eng_proc_read(AT_FDCWD, "/sys/devices/system/cpu/online", NULL);

	memset(c, 0, sizeof *c);
	for (char *s = text; s && *s >= '0' && *s <= '9';) {
		unsigned long a = strtoul(s, &s, 10), b = a;

		if (*s == '-')
			b = strtoul(s + 1, &s, 10);
		for (; a <= b && a < CPU_BYTES * 8; a++)
			c->bit[a / 8] |= 1 << a % 8;
		s += *s == ',';
	}
	c->len = CPU_BYTES;
	cpus_trim(c);
}
static bool cpus_cover(const struct cpus *a, const struct cpus *all) /* a has all of `all` */
{
	for (size_t i = 0; i < all->len; i++)
		if (all->bit[i] & ~(i < a->len ? a->bit[i] : 0))
			return false;
	return true;
}

static struct wish *wish_of(struct limits_state *s, pid_t vtid)
{
	for (size_t i = 0; i < s->nwish; i++)
		if (s->wish[i].vtid == vtid)
			return &s->wish[i];
	return NULL;
}

static int affinity_dump(struct limits_state *s, struct eng_thread *t, Sprite__Img__ThreadLimits *m, const struct cpus *all)
{
	struct cpus is = {.len = t->core->ncpus};
	int r = 0;

	memcpy(is.bit, t->core->cpus, is.len);
	cpus_trim(&is);
	if (!t->core->ncpus) /* else it is kept on one for us (pin.c) */
		r = cpus_of(t->tid, &is);
	struct wish *w = wish_of(s, t->vtid);

	if (r < 0)
		return r;
	if (w && cpus_equal(&w->got, &is))
		is = w->want; /* not touched since: what it asked for at first goes on */
	else if (cpus_cover(&is, all))
		return 0;
	m->affinity.data = malloc(is.len + 1);
	if (!m->affinity.data)
		return -ENOMEM;
	memcpy(m->affinity.data, is.bit, is.len);
	m->affinity.len = is.len;
	return 0;
}

static void affinity_finish(struct limits_state *s, struct eng_thread *t, const Sprite__Img__ThreadLimits *m, const struct cpus *all)
{
	struct cpus want = {.len = m->affinity.len}, now;

	if (t->core->ncpus) /* it is kept on one for us */
		pin_release(t);
	if (want.len > sizeof want.bit)
		return;
	if (!want.len) {
		if (!cpus_of(t->tid, &now) && !cpus_cover(&now, all))
			syscall(SYS_sched_setaffinity, t->tid, all->len, all->bit);
		return;
	}
	memcpy(want.bit, m->affinity.data, want.len);
	struct cpus got = want;

	for (size_t i = 0; i < got.len; i++)
		got.bit[i] &= i < all->len ? all->bit[i] : 0;
	cpus_trim(&got);
	if (!got.len)
		got = *all;
	size_t len = got.len < 8 ? 8 : (got.len + 7) & ~7ul; /* the kernel wants whole words */

	syscall(SYS_sched_setaffinity, t->tid, len, got.bit);
	struct wish *w = realloc(s->wish, (s->nwish + 1) * sizeof *w);

	if (!w || cpus_of(t->tid, &got) < 0)
		return;
	s->wish = w;
	s->wish[s->nwish++] = (struct wish){t->vtid, want, got};
}

/* ---- probe ---------------------------------------------------------------------------------------- */

static int limits_probe(struct eng_probe *p)
{
	_cleanup_free_ pid_t *task = NULL;
	ssize_t n = procfs_tasks(p->pid, &task);

	for (ssize_t i = 0; i < n; i++) {
		int policy = sched_getscheduler(task[i]) & ~SCHED_RESET_ON_FORK;

		if (policy == SCHED_FIFO || policy == SCHED_RR || policy == 6 /* SCHED_DEADLINE */)
			eng_reason(p, "%s scheduling: a guest may not hold its host back; chrt -o -p 0 %d first", policy == 6 ? "deadline" : "real-time", task[i]);
	}
	return 0;
}

/* ---- dump ----------------------------------------------------------------------------------------- */

/* By us, who may ask for all that we may trace; by the process itself, which costs two switches to it, where we may not. */
static int rlimits_read(struct eng_proc *p, struct rlimit l[RLIM_NLIMITS])
{
	struct eng_call c[RLIM_NLIMITS];
	int i = 0;

	while (i < RLIM_NLIMITS && prlimit(p->pid, i, NULL, &l[i]) == 0)
		i++;
	if (i == RLIM_NLIMITS)
		return 0;
	eng_scratch_reset(p);
	uint64_t at = eng_scratch_put(p, NULL, RLIM_NLIMITS * sizeof *l);

	for (i = 0; i < RLIM_NLIMITS; i++)
		c[i] = (struct eng_call){SYS_prlimit64, {0, i, 0, at + i * sizeof l[0]}, 0, 0, 0};
	int r = at ? eng_batch(p->threads[0], c, RLIM_NLIMITS, NULL) : -ENOMEM;

	return r < 0 ? r : eng_peek(p, at, l, RLIM_NLIMITS * sizeof *l);
}

static int rlimits_dump(struct eng_proc *p, Sprite__Img__Limits *m)
{
	struct rlimit l[RLIM_NLIMITS];
	int r = rlimits_read(p, l);

	if (r < 0)
		return r;
	memcpy(p->core->left, l, sizeof l);
	p->core->left_known = !p->family->nest;
	m->rlimit = calloc(RLIM_NLIMITS, sizeof *m->rlimit);
	if (!m->rlimit)
		return -ENOMEM;
	for (int i = 0; i < RLIM_NLIMITS; i++) {
		Sprite__Img__RLimit *x = malloc(sizeof *x);

		if (!x)
			return -ENOMEM;
		sprite__img__rlimit__init(x);
		x->which = i;
		x->soft = l[i].rlim_cur;
		x->hard = l[i].rlim_max;
		m->rlimit[m->n_rlimit++] = x;
	}
	return 0;
}

/* What only it can tell, or (the slack of who has more than an int can say) what stands in a file that costs more to open than to ask. */
static int thread_ask(struct eng_thread *t, Sprite__Img__ThreadLimits *m)
{
	int r = threads_ask(t);

	m->timer_slack = t->core->asked.slack;
	m->personality = t->core->asked.personality;
	if (r < 0 || m->timer_slack < INT_MAX)
		return r;
	char path[48];

	snprintf(path, sizeof path, "/proc/%d/timerslack_ns", t->tid); /* (that name is there of each thread, though it is not listed) */
	_cleanup_free_ char *text = eng_proc_read(AT_FDCWD, path, NULL);

	m->timer_slack = text ? strtoull(text, NULL, 10) : m->timer_slack;
	return 0;
}

static int thread_dump(struct limits_state *s, struct eng_thread *t, Sprite__Img__ThreadLimits *m, const struct cpus *all)
{
	struct sched_attr_0 a = {.size = sizeof a};

	m->tid = t->vtid;
	if (syscall(SYS_sched_getattr, t->tid, &a, sizeof a, 0) < 0)
		return -errno;
	m->policy = a.policy;
	m->sched_flags = a.flags & 1; /* SCHED_FLAG_RESET_ON_FORK */
	m->nice = a.nice;
	if (a.policy == SCHED_IDLE) { /* keeps its nice value, though sched_getattr does not tell it */
		errno = 0;
		m->nice = getpriority(PRIO_PROCESS, t->tid);
	}
	long io = syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, t->tid);

	m->ioprio = io > 0 ? io : 0;
	int r = affinity_dump(s, t, m, all);

	return r < 0 ? r : thread_ask(t, m);
}

/* Registrations, as bits: each has the number of the command that makes it, which is twice that of the barrier itself. Before Linux 6.3 a barrier tells: EPERM without. */
static uint32_t barriers_of(struct eng_proc *p, long all)
{
	static const int barrier[] = {MEMBARRIER_CMD_PRIVATE_EXPEDITED, MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, 1 << 7 /* ..._RSEQ */};
	uint32_t bits = 0;

	if (all >= 0)
		return (uint32_t)all;
	for (size_t i = 0; i < ARRAY_SIZE(barrier); i++)
		if (eng_syscall(p->threads[0], SYS_membarrier, (long)barrier[i], 0l, 0l) == 0)
			bits |= 2u * barrier[i];
	return bits;
}

static size_t barriers_calls(uint32_t bits, struct eng_call *c)
{
	size_t n = 0;

	for (uint32_t b = 1; b && b <= bits; b <<= 1)
		if (bits & b & BARRIERS)
			c[n++] = (struct eng_call){SYS_membarrier, {b, 0, 0}, 0, 1, 0};
	return n;
}

static int process_dump(struct eng_proc *p, Sprite__Img__Limits *m)
{
	_cleanup_free_ char *core = eng_proc_read(p->dir, "coredump_filter", NULL);
	_cleanup_free_ char *oom = eng_proc_read(p->dir, "oom_score_adj", NULL);
	int32_t sub = 0;

	m->oom_score_adj = oom ? atoi(oom) : 0;
	eng_scratch_reset(p);
	uint64_t at = eng_scratch_put(p, &sub, sizeof sub);
	struct eng_call c[6] = {
		{SYS_prctl, {PR_GET_CHILD_SUBREAPER, at}, 0, 0, 0},
		{SYS_prctl, {PR_GET_THP_DISABLE}, 0, 1, 0},
		{SYS_prctl, {PR_MCE_KILL_GET}, 0, 1, 0},
		{SYS_prctl, {PR_GET_MDWE}, 0, 1, 0},
		{SYS_prctl, {PR_GET_MEMORY_MERGE}, 0, 1, 0},
		{SYS_membarrier, {1 << 9 /* MEMBARRIER_CMD_GET_REGISTRATIONS */}, 0, 1, 0},
	};
	int r = eng_batch(p->threads[0], c, ARRAY_SIZE(c), NULL);

	if (r < 0 || (r = eng_peek(p, at, &sub, sizeof sub)) < 0)
		return r;
	m->subreaper = sub;
	m->thp_disable = c[1].ret == 1;
	m->mce_kill = c[2].ret < 0 ? PR_MCE_KILL_DEFAULT : c[2].ret;
	m->mdwe = c[3].ret > 0 ? c[3].ret : 0;
	m->memory_merge = c[4].ret == 1;
	m->mlockall = p->core->mlockall;
	m->barriers = barriers_of(p, c[5].ret);
	m->core_filter = core && *core ? strtoul(core, NULL, 16) + 1 : 0;
	return 0;
}

static int limits_dump(struct eng_proc *p, struct eng_image *out, struct error *e)
{
	struct limits_state *s = state_of(p);
	Sprite__Img__Limits *m = calloc(1, sizeof *m);
	int r = s && m ? 0 : -ENOMEM;

	if (r < 0) {
		free(m);
		return r;
	}
	struct cpus all;

	cpus_host(&all);
	sprite__img__limits__init(m);
	m->thread = calloc(p->nthreads, sizeof *m->thread);
	if (!m->thread)
		r = -ENOMEM;
	if (!r)
		r = rlimits_dump(p, m);
	for (unsigned i = 0; !r && i < p->nthreads; i++) {
		Sprite__Img__ThreadLimits *t = malloc(sizeof *t);

		if (!t) {
			r = -ENOMEM;
			break;
		}
		sprite__img__thread_limits__init(t);
		m->thread[m->n_thread++] = t;
		r = thread_dump(s, p->threads[i], t, &all);
	}
	if (!r)
		r = process_dump(p, m);
	if (!r)
		r = eng_image_put_msg(out, RES_LIMITS, p->vpid, &m->base);
	sprite__img__limits__free_unpacked(m, NULL);
	return r < 0 ? error_set(e, -r, "limits of %d cannot be read: %s", p->vpid, strerror(-r)) : 0;
}

/* ---- fill ----------------------------------------------------------------------------------------- */

/* What sets it before others of its host no user gives himself; nor more than this host's first process has, which is what a login begins with (pam_limits(8)). */
static void without_privileges(Sprite__Img__Limits *m)
{
	m->oom_score_adj = m->oom_score_adj < 0 ? 0 : m->oom_score_adj;
	for (size_t i = 0; i < m->n_thread; i++) {
		m->thread[i]->nice = m->thread[i]->nice < 0 ? 0 : m->thread[i]->nice;
		if (m->thread[i]->ioprio >> 13 == 1) /* IOPRIO_CLASS_RT */
			m->thread[i]->ioprio = 0;
	}
	for (size_t i = 0; i < m->n_rlimit; i++) {
		Sprite__Img__RLimit *is = m->rlimit[i];
		bool ahead = is->which == RLIMIT_NICE || is->which == RLIMIT_RTPRIO;
		struct rlimit most = {0};

		if (!ahead && prlimit(1, is->which, NULL, &most) < 0)
			getrlimit(is->which, &most);
		is->hard = is->hard < most.rlim_max ? is->hard : most.rlim_max; /* none is the highest number */
		is->soft = is->soft < is->hard ? is->soft : is->hard;
	}
}

static int limits_fill(struct eng_family *f, struct eng_proc *p, uint32_t type, const void *body, size_t len, struct error *e)
{
	struct limits_state *s = p ? state_of(p) : NULL;

	(void)type;
	if (!s)
		return res_bad_record(e, "limits");
	if (s->image)
		sprite__img__limits__free_unpacked(s->image, NULL);
	s->image = sprite__img__limits__unpack(NULL, len, body);
	s->said = 0;
	if (s->image && !adopt_privileged(f))
		without_privileges(s->image);
	if (!p->core->caps && p->core->left_known && rlimits_read(p, s->now) == 0) /* before others raise what they need */
		for (int i = 0; i < RLIM_NLIMITS; i++)
			s->said |= (uint32_t)(memcmp(&s->now[i], &p->core->left[i], sizeof s->now[i]) != 0) << i;
	return s->image ? 0 : res_bad_record(e, "limits");
}

static const char *limit_name(unsigned which)
{
	static const char *const name[] = {"cpu", "fsize", "data", "stack", "core", "rss", "nproc", "nofile", "memlock", "as", "locks",
					   "sigpending", "msgqueue", "nice", "rtprio", "rttime"};

	return which < ARRAY_SIZE(name) ? name[which] : "?";
}

/* Only what differs; one batch to look, one to set, and what the target may not set itself by us. */
static int rlimits_set(struct eng_proc *p, struct limits_state *s, struct error *e)
{
	const Sprite__Img__Limits *m = s->image;
	struct eng_call c[RLIM_NLIMITS];
	struct rlimit is[RLIM_NLIMITS];
	const Sprite__Img__RLimit *set[RLIM_NLIMITS];
	size_t n = 0;

	int r = rlimits_read(p, is);

	if (r < 0)
		return error_set(e, -r, "limits of %d cannot be read: %s", p->vpid, strerror(-r));
	eng_scratch_reset(p);
	for (size_t i = 0; i < m->n_rlimit; i++) {
		Sprite__Img__RLimit *x = m->rlimit[i];

		if (x->which >= RLIM_NLIMITS || n == RLIM_NLIMITS)
			return res_bad_record(e, "limits");
		if (s->said >> x->which & 1) {
			x->soft = s->now[x->which].rlim_cur;
			x->hard = s->now[x->which].rlim_max;
		}
		if (is[x->which].rlim_cur == x->soft && is[x->which].rlim_max == x->hard)
			continue;
		struct rlimit want = {x->soft, x->hard};

		set[n] = x;
		c[n++] = (struct eng_call){SYS_prlimit64, {0, x->which, eng_scratch_put(p, &want, sizeof want), 0}, 0, 1, 0};
	}
	r = n ? eng_batch(p->threads[0], c, n, NULL) : 0;
	for (size_t i = 0; !r && i < n; i++) {
		struct rlimit want = {set[i]->soft, set[i]->hard};
		int k = c[i].ret;

		if (k == -EPERM)
			k = prlimit(p->pid, set[i]->which, &want, NULL) < 0 ? -errno : 0;
		if (k == -EPERM && !p->core->caps) { /* likewise, when another migd saw it leave */
			want.rlim_max = is[set[i]->which].rlim_max;
			want.rlim_cur = want.rlim_cur < want.rlim_max ? want.rlim_cur : want.rlim_max;
			k = prlimit(p->pid, set[i]->which, &want, NULL) < 0 ? -errno : 0;
		}
		if (k < 0)
			r = error_set(e, -k, "limit %s of %d cannot be set to %lld/%lld here: %s", limit_name(set[i]->which), p->vpid,
				      (long long)set[i]->soft, (long long)set[i]->hard, strerror(-k));
	}
	return r;
}

static int sched_set(struct eng_thread *t, const Sprite__Img__ThreadLimits *m)
{
	struct sched_attr_0 a = {.size = sizeof a, .policy = m->policy, .flags = m->sched_flags, .nice = m->nice}, is = {.size = sizeof is};

	if (m->policy != SCHED_OTHER && m->policy != SCHED_BATCH && m->policy != SCHED_IDLE)
		return -EINVAL;
	if (syscall(SYS_sched_getattr, t->tid, &is, sizeof is, 0) == 0 && is.policy == a.policy && is.flags == a.flags && is.nice == a.nice)
		return 0;
	if (syscall(SYS_sched_setattr, t->tid, &a, 0) < 0)
		return -errno;
	if (m->policy == SCHED_IDLE && setpriority(PRIO_PROCESS, t->tid, m->nice) < 0)
		return -errno;
	return 0;
}

static int thread_finish(struct limits_state *s, struct eng_thread *t, const Sprite__Img__ThreadLimits *m, const struct cpus *all, struct error *e)
{
	int r = sched_set(t, m);

	if (r < 0)
		return error_set(e, -r, "scheduling of thread %d (policy %u, nice %d) cannot be set here: %s", t->vtid, m->policy, m->nice,
				 strerror(-r));
	affinity_finish(s, t, m, all);
	pin_again(t);
	if (syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, t->tid) != (long)m->ioprio)
		syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, t->tid, m->ioprio);
	t->core->slack = m->timer_slack; /* with what else it is told (res_threads.c) */
	t->core->personality = m->personality;
	t->core->has_settings = true;
	return 0;
}

/* Lowering the score below what the process came with needs CAP_SYS_RESOURCE of the host: written by us; where even we may not, it stays as near as it may. */
static void oom_set(struct eng_proc *p, int adj)
{
	char text[16];
	int fd = openat(p->dir, "oom_score_adj", O_WRONLY | O_CLOEXEC);
	_cleanup_free_ char *is = eng_proc_read(p->dir, "oom_score_adj", NULL);

	if (fd < 0)
		return;
	int n = snprintf(text, sizeof text, "%d", adj);

	if ((!is || atoi(is) != adj) && write(fd, text, n) < 0 && adj < 0)
		(void)!write(fd, "0", 1);
	close(fd);
}

static void core_filter_set(struct eng_proc *p, uint32_t filter)
{
	_cleanup_close_ int fd = openat(p->dir, "coredump_filter", O_WRONLY | O_CLOEXEC);
	char text[16];
	int n = snprintf(text, sizeof text, "0x%x", filter);

	if (fd >= 0)
		(void)!write(fd, text, n);
}

static int process_finish(struct eng_proc *p, const Sprite__Img__Limits *m, struct error *e)
{
	struct eng_call c[6 + 32] = {
		{SYS_prctl, {PR_SET_CHILD_SUBREAPER, m->subreaper}, 0, 0, 0},
		{SYS_prctl, {PR_SET_THP_DISABLE, m->thp_disable}, 0, 1, 0},
		{SYS_prctl, {PR_MCE_KILL, m->mce_kill == PR_MCE_KILL_DEFAULT ? PR_MCE_KILL_CLEAR : PR_MCE_KILL_SET, m->mce_kill}, 0, 1, 0},
	};
	size_t n = 3;

	if (m->mce_kill == PR_MCE_KILL_DEFAULT)
		c[2].arg[2] = 0;
	if (m->memory_merge) /* (to take it away would take the advice of each map away) */
		c[n++] = (struct eng_call){SYS_prctl, {PR_SET_MEMORY_MERGE, 1}, 0, 1, 0};
	if (m->mdwe) /* the memory is as it shall be by now; at home it may be set already */
		c[n++] = (struct eng_call){SYS_prctl, {PR_SET_MDWE, m->mdwe}, 0, 0, 0};
	if (m->mlockall)
		c[n++] = (struct eng_call){SYS_mlockall, {m->mlockall}, 0, 0, 0};
	n += barriers_calls(m->barriers, c + n);
	int r = eng_batch(p->threads[0], c, n, NULL);

	if (m->core_filter)
		core_filter_set(p, m->core_filter - 1);
	oom_set(p, m->oom_score_adj);
	return r < 0 ? error_set(e, -r, "settings of %d: %s", p->vpid, strerror(-r)) : 0;
}

static int limits_finish(struct eng_proc *p, struct error *e)
{
	struct limits_state *s = state_of(p);
	struct cpus all;
	int r = 0;

	if (!s || !s->image)
		return error_set(e, EBADMSG, "image: no limits of process %d", p->vpid);
	cpus_host(&all);
	s->nwish = 0;
	for (size_t i = 0; !r && i < s->image->n_thread; i++) {
		struct eng_thread *t = res_thread_by_vtid(p, s->image->thread[i]->tid);

		if (t)
			r = thread_finish(s, t, s->image->thread[i], &all, e);
	}
	if (!r)
		r = process_finish(p, s->image, e);
	if (!r)
		r = rlimits_set(p, s, e);
	sprite__img__limits__free_unpacked(s->image, NULL);
	s->image = NULL;
	return r;
}

static void limits_release(struct eng_family *f, struct eng_proc *p)
{
	struct limits_state *s = p ? p->res[eng_res_index(&res_limits)] : NULL;

	(void)f;
	if (!s)
		return;
	if (s->image)
		sprite__img__limits__free_unpacked(s->image, NULL);
	free(s->wish);
	free(s);
	p->res[eng_res_index(&res_limits)] = NULL;
}

const struct eng_res res_limits = {
	.name = "limits",
	.types = {RES_LIMITS, RES_LIMITS},
	.probe = limits_probe,
	.dump = limits_dump,
	.fill = limits_fill,
	.finish = limits_finish,
	.release = limits_release,
};
