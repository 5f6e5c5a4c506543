/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A spritefs that was killed in the middle of something can leave processes of its node in uninterruptible sleep, which wait for an answer that nobody gives.
 * The kernel's way out is to abort the connection (fusectl, Documentation/filesystems/fuse.rst). Its files are called as the device of the mount.
 */
#include "lab.h"
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>

/* Is this process still in the root of that node? Numbers of processes are used again. */
static bool is_of_node(const struct lab_node *n)
{
	_cleanup_free_ char *path = xasprintf("/proc/%d/root/usr/sprite-node", n->pid), *want = xasprintf("%s\n", n->name);
	char mark[64];

	return n->pid > 0 && read_file(path, mark, sizeof(mark)) > 0 && strcmp(mark, want) == 0;
}

/* Numbers of the FUSE connections of all nodes; as many as fit. */
size_t fuse_connections(const struct lab *lab, unsigned *minor, size_t room)
{
	size_t n = 0;

	for (size_t i = 0; i < lab->nnodes; i++) {
		_cleanup_free_ char *path = xasprintf("/proc/%d/mountinfo", lab->node[i].pid);
		_cleanup_fclose_ FILE *f = is_of_node(&lab->node[i]) ? fopen(path, "re") : NULL;
		char line[4096];

		while (f && fgets(line, sizeof(line), f) && n < room)
			if (strstr(line, " - fuse.sprite ") && sscanf(line, "%*s %*s %*u:%u", &minor[n]) == 1)
				n++;
	}
	return n;
}

/* In a child with mounts of its own, since fusectl may not be mounted here and shall not stay so. */
void fuse_abort(const unsigned *minor, size_t n)
{
	pid_t pid = n ? fork() : 0;

	if (n && pid == 0) {
		if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
			mount("fusectl", "/sys/fs/fuse/connections", "fusectl", 0, NULL) < 0)
			_exit(1);
		for (size_t i = 0; i < n; i++) {
			_cleanup_free_ char *path = xasprintf("/sys/fs/fuse/connections/%u/abort", minor[i]);
			write_file(path, "1", 0200); /* gone already: all the better */
		}
		_exit(0);
	}
	if (n && pid > 0)
		waitpid(pid, NULL, 0);
}
