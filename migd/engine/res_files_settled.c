/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a frozen process has open and must not have just now, but will not have in a moment: inotify with events that it has not read, unix sockets with connections
 * not yet accepted or datagrams of nobody in particular, locks on files of a home that it took since the probe looked (those on /sprite go along,
 * res_file_sprite.c), named pipes of this host's disks. Cheap: only links are read, and only files on /sprite and sockets are asked about.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "migd/engine/res_files.h"

static bool o_path(struct eng_proc *p, const char *num)
{
	char name[32];

	snprintf(name, sizeof name, "fdinfo/%.16s", num);
	_cleanup_free_ char *info = eng_proc_read(p->dir, name, NULL);
	const char *flags = info ? eng_field(info, "flags") : NULL;

	return flags && strtoul(flags, NULL, 8) & O_PATH;
}

static int look(struct eng_proc *p, int at, const char *num, struct error *e)
{
	char link[PATH_MAX], info[] = "";
	struct file_look l = {.pid = p->pid, .dir = p->dir, .num = atoi(num), .link = link, .info = info};
	const char *what;
	unsigned ino;

	if (res_readlink(at, num, link, sizeof link) < 0)
		return 0;
	if (!strcmp(link, "anon_inode:inotify") && inotify_unread(p, l.num))
		return error_set(e, EBUSY, "process %d: fd %s: inotify has events that the program does not read: let it read them", p->vpid, num);
	what = sscanf(link, "socket:[%u]", &ino) == 1 ? socket_waits(p, ino) : NULL;
	if (what)
		return error_set(e, EBUSY, "process %d: fd %s: %s", p->vpid, num, what);
	if (*link != '/' || !strncmp(link, "/dev/", 5) || !strncmp(link, "/proc/", 6) || fstatat(at, num, &l.st, 0) < 0)
		return 0;
	if (S_ISFIFO(l.st.st_mode) && !o_path(p, num) && !fifo_in_cluster_tree(&l))
		return error_set(e, EBUSY, "process %d: fd %s: named pipe %s is on a disk of this host: close it first", p->vpid, num, link);
	if (!S_ISREG(l.st.st_mode))
		return 0;
	what = file_lock_held(&l);
	return what && !file_is_handed(&l) ? error_set(e, EBUSY, "process %d: fd %s: %s held on %s: release it first", p->vpid, num, what, link) : 0;
}

int files_settled(struct eng_proc *p, struct error *e)
{
	int at = openat(p->dir, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
	DIR *d = at < 0 ? NULL : fdopendir(at);

	for (struct dirent *f; d && !r && (f = readdir(d));)
		if (*f->d_name != '.')
			r = look(p, at, f->d_name, e);
	if (d)
		closedir(d);
	else if (at >= 0)
		close(at);
	return r;
}
