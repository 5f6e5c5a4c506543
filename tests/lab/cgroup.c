/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Control groups of a lab's nodes: BASE/sprite-lab/NAME@RUN/NODE (lab.tag) in the v2 hierarchy and in each v1 hierarchy that nodes use. BASE is the root of v2 (in an inner
 * group no controllers could be handed down) and the caller's own group of v1, so that a limit which the caller is under holds for the lab too.
 * A node sees its group as the root (cgroup namespace). On a v2 host its processes live in the leaf `init`, or the kernel would not let migd turn on controllers.
 */
#include "lab.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>

struct hierarchy {
	char mount[256];
	char base[256];	      /* below mount, "" or "/..." */
	char controllers[64]; /* v1: as mounted; v2: "" */
	bool v2;
};
static struct hierarchy hier[16]; /* filled once by cgroup_probe(), before any fork */
static size_t nhier;

/* v1 hierarchies that nodes get. Not cpuset: a new group of it has no CPUs until told. */
static bool wanted(const char *controllers)
{
	static const char *const names[] = {"cpu", "memory", "freezer", "pids", "blkio"};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		for (const char *p = strstr(controllers, names[i]); p; p = strstr(p + 1, names[i])) {
			char after = p[strlen(names[i])];
			if ((p == controllers || p[-1] == ',') && (after == 0 || after == ','))
				return true;
		}
	return false;
}

/* The caller's group in the hierarchy with these controllers, from /proc/self/cgroup ("4:memory:/a/b"); cut by the root of what is mounted. */
static void own_group(struct hierarchy *h, const char *root)
{
	char buf[8192], *line, *save = NULL;

	if (read_file("/proc/self/cgroup", buf, sizeof(buf)) < 0)
		return;
	for (line = strtok_r(buf, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *names = strchr(line, ':'), *path = names ? strchr(names + 1, ':') : NULL;
		size_t cut = strcmp(root, "/") ? strlen(root) : 0;
		if (!path)
			continue;
		*path++ = 0;
		if (strcmp(names + 1, h->controllers) != 0 || strcmp(path, "/") == 0)
			continue;
		if (strncmp(path, root, cut) == 0)
			snprintf(h->base, sizeof(h->base), "%s", path + cut);
	}
}

void cgroup_probe(void)
{
	_cleanup_fclose_ FILE *f = fopen("/proc/self/mountinfo", "re");
	char line[4096];

	nhier = 0;
	while (f && fgets(line, sizeof(line), f) && nhier < ARRAY_SIZE(hier)) {
		struct hierarchy *h = &hier[nhier];
		char root[256], *sep = strstr(line, " - "), type[32], super[256], *p;

		memset(h, 0, sizeof(*h));
		if (!sep || sscanf(line, "%*s %*s %*s %255s %255s", root, h->mount) != 2 || sscanf(sep, " - %31s %*s %255s", type, super) != 2)
			continue;
		if (strcmp(type, "cgroup2") == 0) {
			h->v2 = true;
			nhier++;
		} else if (strcmp(type, "cgroup") == 0 && wanted(super)) {
			/* super options are "rw,cpu,cpuacct": the controllers come after the flags */
			for (p = strtok(super, ","); p; p = strtok(NULL, ","))
				if (strcmp(p, "rw") && strcmp(p, "ro") && !strchr(p, '=') && strcmp(p, "xattr") && strcmp(p, "noprefix") && strcmp(p, "clone_children"))
					snprintf(h->controllers + strlen(h->controllers), sizeof(h->controllers) - strlen(h->controllers), "%s%s",
						h->controllers[0] ? "," : "", p);
			own_group(h, root);
			nhier++;
		}
	}
}

static char *group_path(const struct hierarchy *h, const char *lab, const char *node, const char *file)
{
	return xasprintf("%s%s/sprite-lab/%s%s%s%s", h->mount, h->base, lab, node ? "/" : "", node ? node : "", file);
}

/* v2: controllers must be handed down at each level; those that this host lacks are skipped. */
static void hand_down(const char *group)
{
	static const char *const want[] = {"+cpu", "+memory", "+pids", "+io"};
	_cleanup_free_ char *path = xasprintf("%s/cgroup.subtree_control", group);

	for (size_t i = 0; i < ARRAY_SIZE(want); i++)
		write_file(path, want[i], 0644);
}

int cgroup_node_create(const struct lab *lab, const char *node, struct error *e)
{
	for (size_t i = 0; i < nhier; i++) {
		_cleanup_free_ char *path = group_path(&hier[i], lab->tag, node, ""), *top = xasprintf("%s/sprite-lab", hier[i].mount),
				    *group = group_path(&hier[i], lab->tag, NULL, "");
		int rc = make_dirs(path, 0755);

		if (rc < 0)
			return error_set(e, -rc, "%s: %s", path, strerror(-rc));
		if (!hier[i].v2)
			continue;
		hand_down(hier[i].mount);
		hand_down(top);
		hand_down(group);
	}
	return 0;
}

int cgroup_node_join(const struct lab *lab, const char *node, struct error *e)
{
	for (size_t i = 0; i < nhier; i++) {
		_cleanup_free_ char *path = group_path(&hier[i], lab->tag, node, "/cgroup.procs");
		int rc = write_file(path, "0", 0644);

		if (rc < 0)
			return error_set(e, -rc, "%s: %s", path, strerror(-rc));
	}
	return 0;
}

int cgroup_node_settle(void)
{
	for (size_t i = 0; i < nhier; i++) {
		char path[512];
		int rc;

		if (!hier[i].v2)
			continue;
		/* as the node sees it after cgroup_node_mount() */
		snprintf(path, sizeof(path), "/sys/fs/cgroup%s/init", nhier > 1 ? "/unified" : "");
		rc = make_dirs(path, 0755);
		if (rc < 0)
			return rc;
		strcat(path, "/cgroup.procs");
		rc = write_file(path, "0", 0644);
		if (rc < 0)
			return rc;
		*strrchr(path, '/') = 0;
		*strrchr(path, '/') = 0;
		hand_down(path);
	}
	return 0;
}

static int mount_one(const char *where, const char *type, const char *options, struct error *e)
{
	if (mkdir(where, 0755) < 0 && errno != EEXIST)
		return error_set(e, errno, "%s: %s", where, strerror(errno));
	if (mount(type, where, type, MS_NOSUID | MS_NODEV | MS_NOEXEC, options) < 0)
		return error_set(e, errno, "mount %s (%s) on %s: %s", type, options ? options : "", where, strerror(errno));
	return 0;
}

int cgroup_node_mount(const char *root, struct error *e)
{
	char where[512];
	int rc;

	snprintf(where, sizeof(where), "%s/sys/fs/cgroup", root);
	if (nhier == 1 && hier[0].v2)
		return mount(hier[0].v2 ? "cgroup2" : "", where, "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0
			       ? error_set(e, errno, "mount cgroup2 on %s: %s", where, strerror(errno))
			       : 0;
	if (mount("tmpfs", where, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=755,size=64k") < 0)
		return error_set(e, errno, "mount tmpfs on %s: %s", where, strerror(errno));
	for (size_t i = 0; i < nhier; i++) {
		const struct hierarchy *h = &hier[i];

		snprintf(where, sizeof(where), "%s/sys/fs/cgroup/%s", root, h->v2 ? "unified" : strrchr(h->mount, '/') + 1);
		rc = mount_one(where, h->v2 ? "cgroup2" : "cgroup", h->v2 ? NULL : h->controllers, e);
		if (rc < 0)
			return rc;
	}
	return 0;
}

int cgroup_node_cpu(const struct lab *lab, const char *node, int percent, struct error *e)
{
	cgroup_probe();
	for (size_t i = 0; i < nhier; i++) {
		const struct hierarchy *h = &hier[i];
		_cleanup_free_ char *path = group_path(h, lab->tag, node, h->v2 ? "/cpu.max" : "/cpu.cfs_quota_us"), *text = NULL;
		int rc;

		if (access(path, W_OK) < 0)
			continue;
		if (percent)
			text = xasprintf(h->v2 ? "%d 100000" : "%d", percent * 1000);
		else
			text = xasprintf(h->v2 ? "max" : "-1");
		rc = write_file(path, text, 0644);
		return rc < 0 ? error_set(e, -rc, "%s: %s", path, strerror(-rc)) : 0;
	}
	return error_set(e, ENOTSUP, "this kernel has no CPU bandwidth control for groups (cpu.max or cpu.cfs_quota_us)");
}

/* ---- removal -------------------------------------------------------------------------------------- */

static bool busy; /* of the nftw(3) walk below, which has no argument */

static int remove_group(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	char file[4200], buf[16384], *save = NULL;

	(void)st;
	(void)ftw;
	if (type != FTW_DP)
		return 0;
	/* the frozen must thaw to die (v1 only) */
	snprintf(file, sizeof(file), "%s/freezer.state", path);
	if (access(file, F_OK) == 0)
		write_file(file, "THAWED", 0644);
	snprintf(file, sizeof(file), "%s/cgroup.procs", path);
	if (read_file(file, buf, sizeof(buf)) > 0)
		for (char *p = strtok_r(buf, "\n", &save); p; p = strtok_r(NULL, "\n", &save))
			if (atoi(p) > 0)
				kill(atoi(p), SIGKILL);
	if (rmdir(path) < 0 && errno != ENOENT)
		busy = true;
	return 0;
}

/* The caller may be in another group than `up` was: looks for sprite-lab in all of the hierarchy, not too deep. */
static void remove_below(const char *dir, const char *lab, int depth)
{
	DIR *d = opendir(dir);
	struct dirent *entry;

	while (d && (entry = readdir(d))) {
		_cleanup_free_ char *path = NULL;

		if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
			continue;
		path = xasprintf("%s/%s", dir, entry->d_name);
		if (strcmp(entry->d_name, "sprite-lab") == 0) {
			_cleanup_free_ char *group = xasprintf("%s/%s", path, lab);
			nftw(group, remove_group, 16, FTW_PHYS | FTW_DEPTH | FTW_MOUNT);
			rmdir(path); /* the last lab's */
		} else if (depth > 0) {
			remove_below(path, lab, depth - 1);
		}
	}
	if (d)
		closedir(d);
}

int cgroup_lab_remove(const struct lab *lab)
{
	cgroup_probe();
	for (int try = 0; try < 600; try++) {
		busy = false;
		for (size_t i = 0; i < nhier; i++)
			remove_below(hier[i].mount, lab->tag, 6);
		if (!busy)
			return 0;
		nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL); /* the killed are on their way */
	}
	return -EBUSY;
}
