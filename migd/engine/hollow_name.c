// SPDX-License-Identifier: Apache-2.0
/*
 * What ps(1) shows of a hollow: the name and the arguments of its process, which change with an exec away. The arguments stay in the pages in which the hollow has
 * had its own (memory_hollow() keeps these): whoever looks for them there later finds them where the kernel says that they are.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include "migd/engine/inject.h"
#include "migd/engine/procfs.h"
#include "migd/engine/vessel.h"

void hollow_call_it(struct eng_proc *p, const char *name)
{
	char text[17] = "";
	uint64_t at;

	snprintf(text, sizeof(text), "%.16s", name);
	eng_scratch_reset(p);
	at = eng_scratch_put(p, text, sizeof(text));
	if (*text && at)
		ENG_SYS(p->threads[0], SYS_prctl, PR_SET_NAME, at);
}

static int show_args(struct eng_proc *p, const char *args, size_t len)
{
	struct procfs_stat st;
	struct prctl_mm_map m;
	uint64_t start, first, end;
	long brk;
	int r = procfs_stat(p->dir, &st);

	if (r < 0)
		return r;
	start = st.arg_start;
	first = st.arg_start & ~0xfffULL;
	end = (st.arg_end + 0xfff) & ~0xfffULL;
	if (len > end - start)
		start = first;
	if (len > end - start)
		len = end - start;
	if (!len)
		return 0;
	r = eng_poke(p, start, args, len - 1);
	if (r == 0)
		r = eng_poke(p, start + len - 1, "", 1);
	brk = r == 0 ? ENG_SYS(p->threads[0], SYS_brk, 0) : 0;
	if (r < 0 || brk < 0)
		return r < 0 ? r : (int)brk;
	m = (struct prctl_mm_map){.start_code = st.start_code, .end_code = st.end_code, .start_data = st.start_data, .end_data = st.end_data,
		.start_brk = st.start_brk, .brk = (uint64_t)brk, .start_stack = st.start_stack, .arg_start = start, .arg_end = start + len,
		.env_start = st.env_start, .env_end = st.env_end, .exe_fd = (uint32_t)-1};
	if (m.env_start < m.arg_end && m.env_end > m.arg_start) /* written over */
		m.env_start = m.env_end = m.arg_end;
	eng_scratch_reset(p);
	return (int)ENG_SYS(p->threads[0], SYS_prctl, PR_SET_MM, PR_SET_MM_MAP, eng_scratch_put(p, &m, sizeof(m)), sizeof(m));
}

int eng_hollow_named(struct eng_family *f, pid_t pid, const char *comm, const void *args, size_t len)
{
	struct eng_proc *p = eng_proc_by_vpid(f, pid);
	bool waits;
	int r;

	if (f->nest || f->state != ENG_HOLLOW)
		return -EBUSY;
	if (!p || p->core->dead)
		return -ESRCH;
	if (p->core->stop_sig)
		return -EAGAIN;
	waits = !p->threads[0]->core->stopped;
	r = hollow_stop_one(p);
	if (r < 0)
		return r;
	hollow_call_it(p, comm);
	r = show_args(p, args, len);
	if (waits)
		hollow_watch_one(p);
	return r;
}
