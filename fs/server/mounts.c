/* SPDX-License-Identifier: Apache-2.0 */
/* Cloning mounts and finding those below a home export; see export.h. A mount_node is unchanged after it was made, but for its count. */
#include "fs/server/mounts.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/text.h"
#include "fs/prefix.h"

#ifndef NTFS3_MAGIC
#define NTFS3_MAGIC 0x7366746e
#endif
#ifndef HFSPLUS_MAGIC
#define HFSPLUS_MAGIC 0x482b
#endif
#ifndef ZFS_SUPER_MAGIC
#define ZFS_SUPER_MAGIC 0x2fc12fc1
#endif
#ifndef BCACHEFS_SUPER_MAGIC
#define BCACHEFS_SUPER_MAGIC 0xca451a4e
#endif

/* Only those that are known for it: of what is not, an open or a lock may wait without end (NFS, CIFS, 9p, ceph: their server is away). */
static bool type_is_local(const struct statfs *fs)
{
	switch ((uint32_t)fs->f_type) {
	case EXT4_SUPER_MAGIC: /* ext2 and ext3, too */
	case XFS_SUPER_MAGIC:
	case BTRFS_SUPER_MAGIC:
	case F2FS_SUPER_MAGIC:
	case ZFS_SUPER_MAGIC:
	case BCACHEFS_SUPER_MAGIC:
	case TMPFS_MAGIC:
	case RAMFS_MAGIC:
	case OVERLAYFS_SUPER_MAGIC:
		return true;
	default:
		return false;
	}
}

static int clone_protect(int tree, bool readonly)
{
	struct mount_attr a = {
		.attr_set = MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOSYMFOLLOW,
		.propagation = MS_PRIVATE,
	};

	if (readonly)
		a.attr_set |= MOUNT_ATTR_RDONLY;
	return syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &a, sizeof(a)) < 0 ? -errno : 0;
}

int mount_node_open(const char *path, bool readonly, struct mount_node **out)
{
	struct mount_node *m = calloc(1, sizeof(*m));
	char buf[sizeof(struct file_handle) + MAX_HANDLE_SZ];
	struct file_handle *fh = (struct file_handle *)buf;
	struct statfs fs;
	struct stat st;
	int r, mnt;

	if (!m)
		return -ENOMEM;
	atomic_init(&m->refs, 1);
	m->dirfd = -1;
	m->tree = (int)syscall(SYS_open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	if (m->tree < 0)
		goto fail;
	r = clone_protect(m->tree, readonly);
	if (r < 0) {
		errno = -r;
		goto fail;
	}
	if (fstat(m->tree, &st) < 0)
		goto fail;
	if (S_ISDIR(st.st_mode)) {
		m->dirfd = openat(m->tree, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	} else if (S_ISREG(st.st_mode)) { /* a file can be mounted on a file */
		char proc[40];

		snprintf(proc, sizeof(proc), "/proc/self/fd/%d", m->tree);
		m->dirfd = open(proc, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	} else {
		errno = ENOTDIR;
	}
	if (m->dirfd < 0)
		goto fail;
	m->dev = st.st_dev;
	m->ino = st.st_ino;
	if (fstatfs(m->tree, &fs) < 0)
		m->folds = true;
	else {
		m->folds = fs.f_type == MSDOS_SUPER_MAGIC || fs.f_type == EXFAT_SUPER_MAGIC || fs.f_type == NTFS3_MAGIC || fs.f_type == HFSPLUS_MAGIC;
		m->local = type_is_local(&fs);
	}
	fh->handle_bytes = MAX_HANDLE_SZ;
	m->handles = name_to_handle_at(m->tree, "", fh, &mnt, AT_EMPTY_PATH) == 0;
	*out = m;
	return 0;
fail:
	r = -errno;
	mount_node_put(m);
	return r;
}

struct mount_node *mount_node_get(struct mount_node *m)
{
	atomic_fetch_add(&m->refs, 1);
	return m;
}

void mount_node_put(struct mount_node *m)
{
	if (!m || atomic_fetch_sub(&m->refs, 1) != 1)
		return;
	if (m->dirfd >= 0)
		close(m->dirfd);
	if (m->tree >= 0)
		close(m->tree);
	free(m->place);
	free(m);
}

bool mounts_served_type(const char *t)
{
	static const char *const kernel[] = {"proc", "sysfs", "devtmpfs", "devpts", "cgroup", "cgroup2", "securityfs", "debugfs",
		"tracefs", "bpf", "pstore", "mqueue", "hugetlbfs", "configfs", "fusectl", "binfmt_misc", "autofs", "efivarfs",
		"rpc_pipefs", "nsfs", "selinuxfs", "resctrl", "fuse", "fuseblk"};

	for (size_t i = 0; i < ARRAY_SIZE(kernel); i++)
		if (!strcmp(t, kernel[i]))
			return false;
	return strncmp(t, "fuse.", 5) != 0;
}

void mounts_free(struct mount_place *m, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(m[i].path);
	free(m);
}

static int place_order(const void *a, const void *b)
{
	return strcmp(((const struct mount_place *)a)->path, ((const struct mount_place *)b)->path);
}

static bool place_skipped(const char *path, const char *skip, char *const *dropped, size_t ndropped)
{
	if (skip && prefix_covers(skip, path, NULL))
		return true;
	if (prefix_covers("/dev", path, NULL) || prefix_covers("/proc", path, NULL) || prefix_covers("/sys", path, NULL))
		return true;
	for (size_t i = 0; i < ndropped; i++)
		if (prefix_covers(dropped[i], path, NULL))
			return true;
	return false;
}

struct listing {
	struct mount_place *v;
	size_t n;
	char **dropped; /* mounts that are not served: nor is what lies on them */
	size_t ndropped;
};

static int listing_line(struct listing *l, char *line, const char *root, const char *skip)
{
	char *save, *field, *path = NULL, *type = NULL;
	uint64_t id = 0;
	const char *rest;
	void *grown;
	int i = 0;

	for (field = strtok_r(line, " \n", &save); field; field = strtok_r(NULL, " \n", &save), i++) {
		if (i == 0)
			id = strtoull(field, NULL, 10);
		else if (i == 4)
			path = field;
		else if (!strcmp(field, "-")) {
			type = strtok_r(NULL, " \n", &save);
			break;
		}
	}
	if (!path || !type)
		return 0;
	if (text_unescape(path) < 0 || !prefix_covers(root, path, &rest) || !*rest)
		return 0;
	if (!mounts_served_type(type) || place_skipped(path, skip, l->dropped, l->ndropped)) {
		grown = realloc(l->dropped, (l->ndropped + 1) * sizeof(*l->dropped));
		if (!grown)
			return -ENOMEM;
		l->dropped = grown;
		l->dropped[l->ndropped] = strdup(path);
		return l->dropped[l->ndropped++] ? 0 : -ENOMEM;
	}
	grown = realloc(l->v, (l->n + 1) * sizeof(*l->v));
	if (!grown)
		return -ENOMEM;
	l->v = grown;
	l->v[l->n].path = strdup(path);
	l->v[l->n].mnt_id = id;
	return l->v[l->n++].path ? 0 : -ENOMEM;
}

int mounts_list(const char *root, const char *skip, struct mount_place **out, size_t *n)
{
	_cleanup_fclose_ FILE *f = fopen("/proc/self/mountinfo", "re");
	_cleanup_free_ char *line = NULL;
	struct listing l = {0};
	size_t cap = 0;
	int r = 0;

	if (!f)
		return -errno;
	while (r == 0 && getline(&line, &cap, f) > 0)
		r = listing_line(&l, line, root, skip);
	for (size_t i = 0; i < l.ndropped; i++)
		free(l.dropped[i]);
	free(l.dropped);
	if (r < 0) {
		mounts_free(l.v, l.n);
		return r;
	}
	if (l.n)
		qsort(l.v, l.n, sizeof(*l.v), place_order); /* parents before what lies on them */
	*out = l.v;
	*n = l.n;
	return 0;
}
