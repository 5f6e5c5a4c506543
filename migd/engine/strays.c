// SPDX-License-Identifier: Apache-2.0
/*
 * Hollows that no family of this home has, after its migd was started again: what the journal knew of them is lost. Their guests are ended by their hosts as soon as
 * these ask; so are they, or who waits for them would wait for ever.
 *
 * A hollow is known by the engine's page in it (its magic, and the number of the process), by its mode, and by having no tracer: those of families have been caught.
 */
#include <dirent.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/log.h"
#include "migd/engine/core.h"
#include "migd/engine/engine.h"
#include "migd/engine/procfs.h"

static bool traced(const struct eng_proc *p)
{
	_cleanup_free_ char *status = eng_proc_read(p->dir, "status", NULL);
	const char *by = status ? eng_field(status, "TracerPid") : NULL;

	return !by || atoi(by); /* (or it is ending) */
}

static void look_at(struct eng_family *f, pid_t pid)
{
	struct eng_proc *p = proc_new(f, pid, pid);
	struct blob_head head;
	struct maps *maps;
	int found;

	if (!p || proc_open(p) < 0 || proc_identity(p) < 0 || procfs_maps(p->dir, false, &maps) < 0)
		return;
	found = blob_find(p, &head, maps);
	maps_free(maps);
	if (found != 1 || traced(p))
		return;
	if (head.mode != BLOB_WATCH)
		log_warn("process %d (%s) stands still for a move of which nothing is known any more", pid, p->core->comm);
	else if (syscall(SYS_pidfd_send_signal, p->pidfd, SIGKILL, NULL, 0) == 0)
		log_error("process %d (%s) is away, and nothing is known any more of where: it ends here by SIGKILL", pid, p->core->comm);
}

void eng_end_strays(void)
{
	DIR *d = opendir("/proc");
	const struct dirent *de;

	while (d && (de = readdir(d))) {
		struct eng_family *f = atoi(de->d_name) > 1 ? family_new(&(struct eng_hooks){0}) : NULL;

		if (!f)
			continue;
		look_at(f, atoi(de->d_name));
		family_free(f);
	}
	if (d)
		closedir(d);
}
