// SPDX-License-Identifier: Apache-2.0
/*
 * Mounting, by hand, and what is already mounted there.
 *
 * The kernel's own root directory is not what is seen: it is made before INIT has said that there are ACLs, and of an inode that was made so none is ever kept (ACL_DONT_CACHE), so that
 * each walk from it by anybody but root would ask us. A directory below it is (ROOT_DIR): a clone of the mount at that directory is put beneath it, and the mount taken away again; a
 * kernel that puts nothing beneath (before Linux 6.5) has a moment without a mount. Killed before the holder has the device, we leave a dead mount or two, which the next spritefs
 * removes (mount_busy()).
 */
#include "fs/client/client.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/statfs.h>
#include <unistd.h>
#include "conf/fault.h"
#include "conf/log.h"
#include "conf/text.h"
#include "fs/client/holder.h"

#ifndef MOVE_MOUNT_BENEATH
#define MOVE_MOUNT_BENEATH 0x200
#endif
#define READ_AHEAD_KB 4096u /* several READs of 1 MiB are under way then: the server reads one, encrypts one, we decrypt one */

/* ---- what is there */

struct probe {
	const char *dir;
	int err;
};

static void *probe_main(void *arg)
{
	struct probe *p = arg;
	struct statfs s;

	p->err = statfs(p->dir, &s) == 0 ? 0 : errno;
	return NULL;
}

/* Looks without entering: a dead server must not hang us. The probe is left behind when its thread hangs. */
static int probe_statfs(const char *dir)
{
	struct probe *p = calloc(1, sizeof(*p));
	struct timespec ts;
	pthread_t t;
	int r;

	if (!p)
		return ENOMEM;
	p->dir = dir;
	if (pthread_create(&t, NULL, probe_main, p) != 0) {
		free(p);
		return EAGAIN;
	}
	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_sec += 3;
	if (pthread_timedjoin_np(t, NULL, &ts) != 0) {
		pthread_detach(t);
		return 0;
	}
	r = p->err;
	free(p);
	return r;
}

/* Is one of ours the topmost there? Then its device's number is written to *dev (of 32 bytes), if not NULL. */
static bool mounted_here(const char *dir, char *dev)
{
	char line[8192], point[4096], type[256], number[32], *dash;
	FILE *f = fopen("/proc/self/mountinfo", "re");
	bool found = false;

	if (!f)
		return false;
	while (fgets(line, sizeof(line), f)) {
		dash = strstr(line, " - ");
		if (dash && sscanf(line, "%*s %*s %31s %*s %4095s", number, point) == 2 && sscanf(dash + 3, "%255s", type) == 1 && text_unescape(point) == 0 &&
		    !strcmp(point, dir)) {
			found = !strcmp(type, "fuse.sprite"); /* the topmost counts */
			if (dev)
				strcpy(dev, number);
		}
	}
	fclose(f);
	return found;
}

int mount_busy(const char *dir)
{
	while (mounted_here(dir, NULL)) {
		if (probe_statfs(dir) != ENOTCONN)
			return 1;
		log_note("%s: removing the mount that a spritefs left behind", dir);
		if (umount2(dir, MNT_FORCE | MNT_DETACH) < 0)
			return -errno;
	}
	return 0;
}

/* ---- how far the kernel reads ahead */

/* Where /sys is mounted read-only, as in a container: one of our own, which nobody sees. */
static int sysfs_open(const char *path)
{
	int fd = open("/sys", O_PATH | O_CLOEXEC), f = openat(fd, path, O_WRONLY | O_CLOEXEC), fsfd;

	if (fd >= 0)
		close(fd);
	if (f >= 0 || errno != EROFS)
		return f;
	fsfd = fsopen("sysfs", FSOPEN_CLOEXEC);
	fd = fsfd >= 0 && fsconfig(fsfd, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0 ? fsmount(fsfd, FSMOUNT_CLOEXEC, 0) : -1;
	f = fd >= 0 ? openat(fd, path, O_WRONLY | O_CLOEXEC) : -1;
	if (fd >= 0)
		close(fd);
	if (fsfd >= 0)
		close(fsfd);
	return f;
}

/*
 * The kernel reads 128 KiB ahead of a FUSE file whatever INIT says (it takes the lower one): a call for each, one after the other. There is no other way to
 * tell it. Home domains keep that: what is read there are programs, by page faults, which fetch so much around each.
 */
static void read_ahead(struct fs *fs)
{
	char dev[32], path[64];
	int f = -1;

	if (fs->whole && mounted_here(fs->mount, dev)) {
		snprintf(path, sizeof(path), "class/bdi/%s/read_ahead_kb", dev);
		f = sysfs_open(path);
		if (f < 0 || dprintf(f, "%u", READ_AHEAD_KB) < 0)
			log_note("%s: cannot set how far the kernel reads ahead: %s", fs->mount, strerror(errno));
	}
	if (f >= 0)
		close(f);
}

/* ---- mounting */

struct root_change {
	struct fs *fs;
	int done[2], err;
};

/* The directory that is to be seen (ROOT_DIR) takes the place of the mount; the kernel asks for it, and that is answered meanwhile. errno */
static void *root_change(void *arg)
{
	struct root_change *c = arg;
	char path[PATH_MAX];
	bool beneath;
	int tree;

	snprintf(path, sizeof(path), "%s/" ROOT_DIR, c->fs->mount);
	tree = open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	c->err = tree < 0 ? errno : 0;
	fault_point("mount-made");
	beneath = !c->err && move_mount(tree, "", AT_FDCWD, c->fs->mount, MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_BENEATH) == 0;
	if (!c->err && umount2(c->fs->mount, MNT_DETACH) < 0)
		c->err = errno;
	fault_point("mount-away");
	if (!c->err && !beneath && move_mount(tree, "", AT_FDCWD, c->fs->mount, MOVE_MOUNT_F_EMPTY_PATH) < 0) {
		c->err = errno;
		c->fs->mounted = false; /* what is there now is not ours */
	}
	fault_point("mount-shown");
	if (tree >= 0)
		close(tree);
	if (write(c->done[1], "", 1) != 1)
		abort(); /* a pipe with room */
	return NULL;
}

static int root_show(struct fs *fs)
{
	struct root_change c = {.fs = fs};
	struct pollfd p[2] = {{.fd = fs->dev, .events = POLLIN}, {.events = POLLIN}};
	bool started;
	pthread_t t;
	int r;

	if (pipe2(c.done, O_CLOEXEC) < 0)
		return -errno;
	r = -pthread_create(&t, NULL, root_change, &c);
	started = r == 0;
	p[1].fd = c.done[0];
	while (r == 0 && !p[1].revents)
		if (poll(p, 2, -1) > 0 && p[0].revents)
			r = session_answer();
	if (started)
		pthread_join(t, NULL); /* should the connection have ended, what it asks for ends too */
	close(c.done[0]);
	close(c.done[1]);
	return c.err ? -c.err : r;
}

int mount_make(struct fs *fs, bool nosuid, struct error *e)
{
	char opts[256];
	int r;

	fs->dev = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (fs->dev < 0)
		return error_set(e, errno, "/dev/fuse: %s (is the fuse module loaded?)", strerror(errno));
	snprintf(opts, sizeof(opts), "fd=%d,rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other", fs->dev);
	if (mount("sprite", fs->mount, "fuse.sprite", nosuid ? MS_NOSUID : 0, opts) < 0)
		return error_set(e, errno, "%s: cannot mount: %s", fs->mount, strerror(errno));
	fs->mounted = true;
	r = session_begin(fs, e);
	if (r < 0)
		return r;
	r = root_show(fs);
	if (r < 0)
		return error_set(e, -r, "%s: its directory cannot be mounted in its place: %s", fs->mount, strerror(-r));
	hold_keep(HOLD_DEV, fs->dev);
	session_clones(fs);
	read_ahead(fs);
	return 0;
}

void mount_end(struct fs *fs)
{
	/* in use: its requests are ended too, or a thread that waits for one would keep us and the connection */
	if (umount2(fs->mount, 0) < 0 && errno == EBUSY)
		umount2(fs->mount, MNT_FORCE | MNT_DETACH);
	fuse_session_exit(fs->se);
}
