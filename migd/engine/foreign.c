// SPDX-License-Identifier: Apache-2.0
/* The calls that may be about somebody who is not here (foreign.h). Linked into sprite-keeper too. */
#include "migd/engine/foreign.h"
#include <linux/ioprio.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/syscall.h>

const struct foreign_call foreign_table[FOREIGN_CALLS] = {
	{SYS_kill, 0, -1, -1, 0, -1},
	{SYS_tkill, 0, -1, -1, 0, -1},
	{SYS_tgkill, 0, -1, -1, 0, -1},
	{SYS_rt_sigqueueinfo, 0, 2, -1, 128, -1},
	{SYS_rt_tgsigqueueinfo, 0, 3, -1, 128, -1},
	{SYS_getpgid, 0, -1, -1, 0, -1},
	{SYS_getsid, 0, -1, -1, 0, -1},
	{SYS_setpgid, 0, -1, -1, 0, -1},
	{SYS_getpriority, 1, -1, -1, 0, PRIO_PROCESS},
	{SYS_setpriority, 1, -1, -1, 0, PRIO_PROCESS},
	{SYS_ioprio_get, 1, -1, -1, 0, IOPRIO_WHO_PROCESS},
	{SYS_ioprio_set, 1, -1, -1, 0, IOPRIO_WHO_PROCESS},
	{SYS_sched_getscheduler, 0, -1, -1, 0, -1},
	{SYS_sched_setscheduler, 0, 2, -1, 4, -1},
	{SYS_sched_getparam, 0, -1, 1, 4, -1},
	{SYS_sched_setparam, 0, 1, -1, 4, -1},
	{SYS_sched_rr_get_interval, 0, -1, 1, 16, -1},
	{SYS_sched_getaffinity, 0, -1, 2, 0, -1},
	{SYS_sched_setaffinity, 0, 2, -1, 0, -1},
	{SYS_prlimit64, 0, 2, 3, 16, -1},
};

const struct foreign_call *foreign_find(long nr)
{
	for (int i = 0; i < FOREIGN_CALLS; i++)
		if (foreign_table[i].nr == nr)
			return &foreign_table[i];
	return NULL;
}

size_t foreign_length(const struct foreign_call *t, const uint64_t arg[6], int at)
{
	size_t len = t->len ? (size_t)t->len : arg[at - 1];

	return len > FOREIGN_MAX ? FOREIGN_MAX : len;
}

static bool pointer_fits(const struct foreign_call *t, const struct eng_foreign *c, int at, int given, size_t len)
{
	if (given < 0)
		return at < 0 || c->arg[at] == 0;
	return given == at && len == foreign_length(t, c->arg, at);
}

bool foreign_valid(const struct eng_foreign *c)
{
	const struct foreign_call *t = foreign_find(c->nr);

	return t && pointer_fits(t, c, t->in, c->in_arg, c->in_len) && pointer_fits(t, c, t->out, c->out_arg, c->out_len);
}
