// SPDX-License-Identifier: Apache-2.0
/*
 * See terminal.h. The terminal lies in a devpts on no path (relay/tty.c): its file alone is mounted, by a thread that goes into the family's mount namespace and ends there.
 * (Before Linux 6.15 a file of such a mount cannot be mounted elsewhere.)
 */
#include "migd/terminal.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/log.h"

enum { DEV_TTY = 5 }; /* major number of /dev/tty itself */

struct show {
	pid_t keeper;
	int terminal, err;
};

static int mount_it(const struct show *s)
{
	char path[40];
	_cleanup_close_ int tree = open_tree(s->terminal, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH), ns = -1;

	if (tree < 0)
		return -errno;
	snprintf(path, sizeof(path), "/proc/%d/ns/mnt", s->keeper);
	ns = open(path, O_RDONLY | O_CLOEXEC);
	if (ns < 0 || unshare(CLONE_FS) || setns(ns, CLONE_NEWNS))
		return -errno;
	return move_mount(tree, "", AT_FDCWD, "/dev/tty", MOVE_MOUNT_F_EMPTY_PATH) ? -errno : 0;
}

static void *show_main(void *arg)
{
	struct show *s = arg;

	s->err = mount_it(s);
	return NULL;
}

int terminal_show(pid_t keeper, int terminal)
{
	struct show s = { .keeper = keeper, .terminal = terminal };
	char path[40];
	struct stat st;
	pthread_t t;
	int err;

	snprintf(path, sizeof(path), "/proc/%d/root/dev/tty", keeper);
	if (keeper <= 0 || stat(path, &st) || !S_ISCHR(st.st_mode) || major(st.st_rdev) != DEV_TTY)
		return 0;
	err = pthread_create(&t, NULL, show_main, &s);
	if (!err)
		pthread_join(t, NULL);
	err = err ? -err : s.err;
	if (err)
		log_debug("/dev/tty of the guests of process %d is none: %s", keeper, strerror(-err));
	return err;
}
