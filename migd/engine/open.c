// SPDX-License-Identifier: Apache-2.0
/*
 * Opening a path as the family sees it: the vessel itself does, in its own root view, as the family's user (the home's server may squash root), and we take
 * a duplicate.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include "migd/engine/inject.h"

int eng_open(struct eng_proc *p, const char *path, int flags, mode_t mode)
{
	struct eng_thread *t = p->threads[0];
	struct eng_call c[5];
	size_t mark = p->core->scratch, n = 0, at;
	uint64_t name = eng_scratch_put(p, path, strlen(path) + 1);
	int r, fd;

	if (!name)
		return -ENAMETOOLONG;
	if (p->core->caps) {
		c[n++] = (struct eng_call){.nr = SYS_setfsgid, .arg = {p->core->gid}};
		c[n++] = (struct eng_call){.nr = SYS_setfsuid, .arg = {p->core->uid}};
	}
	at = n;
	c[n++] = (struct eng_call){.nr = SYS_openat, .arg = {AT_FDCWD, name, flags | O_NOCTTY | O_CLOEXEC, mode}, .may_fail = 1};
	if (p->core->caps) {
		c[n++] = (struct eng_call){.nr = SYS_setfsuid, .arg = {0}};
		c[n++] = (struct eng_call){.nr = SYS_setfsgid, .arg = {0}};
	}
	r = eng_batch(t, c, n, NULL);
	p->core->scratch = mark;
	if (r < 0 || c[at].ret < 0)
		return r < 0 ? r : (int)c[at].ret;
	fd = eng_fd_get(p, c[at].ret);
	ENG_SYS(t, SYS_close, c[at].ret);
	return fd;
}
