/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a process has around it that no module carries: only refusals here, by name and with the remedy. Namespaces of its own, 32-bit code,
 * memory shared with a process that stays.
 */
#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "migd/engine/procfs.h"
#include "migd/engine/res_util.h"

/* ---- namespaces ------------------------------------------------------------------------------------- */

static bool ns_differs(int dir, int other, const char *ns)
{
	char name[32], a[64], b[64];

	snprintf(name, sizeof name, "ns/%s", ns);
	return res_readlink(dir, name, a, sizeof a) > 0 && res_readlink(other, name, b, sizeof b) > 0 && strcmp(a, b);
}

/* A process that lives in this host's own namespaces: init, or, where we may not look at that, who started us. */
static int host_process(void)
{
	const pid_t pid[] = {1, getppid(), getpid()};

	for (size_t i = 0; i < ARRAY_SIZE(pid); i++) {
		char name[40], ns[64];

		snprintf(name, sizeof name, "/proc/%d", pid[i]);
		int dir = open(name, O_PATH | O_DIRECTORY | O_CLOEXEC);

		if (dir >= 0 && res_readlink(dir, "ns/mnt", ns, sizeof ns) > 0)
			return dir;
		if (dir >= 0)
			close(dir);
	}
	return -1;
}

/* The family's first process is measured against this host's init, unless it is a guest (one pid namespace deeper: the nest); the others against it. */
static void probe_namespaces(struct eng_probe *p)
{
	static const struct {
		const char *ns, *what;
	} table[] = {
		{"mnt", "mount"}, {"net", "network"}, {"ipc", "IPC"}, {"uts", "host name"}, {"user", "user"}, {"time", "time"}, {"time_for_children", "time"},
	};
	char self[40];
	pid_t vpid;
	int depth = 0, ours = 0;

	snprintf(self, sizeof self, "/proc/%d", p->root);
	_cleanup_close_ int other = p->pid == p->root ? host_process() : open(self, O_PATH | O_DIRECTORY | O_CLOEXEC);
	_cleanup_close_ int me = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (other < 0 || me < 0)
		return;
	procfs_nspid(p->dir, "status", &vpid, &depth);
	procfs_nspid(me, "status", &vpid, &ours);
	if (p->pid == p->root && depth != ours)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++)
		if (ns_differs(p->dir, other, table[i].ns)) {
			eng_reason(p, "lives in a %s namespace of its own: start it without", table[i].what);
			if (!strcmp(table[i].ns, "time"))
				break;
		}
	char link[64]; /* of one that has no process yet nothing can be read */

	if (res_readlink(p->dir, "ns/uts", link, sizeof link) < 0) /* a zombie has none at all */
		return;
	if (res_readlink(p->dir, "ns/pid_for_children", link, sizeof link) == -ENOENT || ns_differs(p->dir, other, "pid_for_children"))
		eng_reason(p, "has a pid namespace of its own for its children (unshare): start it without");
}

/* ---- code -------------------------------------------------------------------------------------------- */

static void probe_code(struct eng_probe *p)
{
	unsigned char id[EI_NIDENT + 4];
	_cleanup_close_ int fd = openat(p->dir, "exe", O_RDONLY | O_CLOEXEC);

	if (fd < 0 || read(fd, id, sizeof id) != sizeof id || memcmp(id, ELFMAG, SELFMAG))
		return;
	if (id[EI_CLASS] == ELFCLASS32)
		eng_reason(p, "is a 32-bit program: use its 64-bit version");
}

/* ---- memory and handlers of another process ------------------------------------------------------------ */

static void probe_shared(struct eng_probe *p)
{
	struct procfs_stat st;

	for (size_t i = 0; i < p->nfamily; i++) {
		pid_t q = p->family[i];

		if (q != p->pid && q < p->pid && res_shares(p->pid, q, KCMP_VM))
			eng_reason(p, "shares its memory with process %d (vfork in progress or clone): try again later", q);
	}
	if (p->pid == p->root && !procfs_stat(p->dir, &st) && st.ppid > 0 && res_shares(p->pid, st.ppid, KCMP_VM))
		eng_reason(p, "shares its memory with its parent (vfork in progress): try again later");
}

pid_t res_mapper_outside(struct eng_probe *p, unsigned major, unsigned minor, uint64_t ino)
{
	char key[64];
	DIR *proc = opendir("/proc");
	pid_t found = 0;

	snprintf(key, sizeof key, " %02x:%02x %llu ", major, minor, (unsigned long long)ino);
	for (struct dirent *e; proc && !found && (e = readdir(proc));) {
		pid_t pid = atoi(e->d_name);
		char name[40];

		snprintf(name, sizeof name, "/proc/%d/maps", pid);
		_cleanup_free_ char *text = pid <= 0 || pid == getpid() ? NULL : eng_proc_read(AT_FDCWD, name, NULL);

		if (text && strstr(text, key) && !res_inside(p, pid))
			found = pid;
	}
	if (proc)
		closedir(proc);
	return found;
}

/* Shared memory without a name (or with one that only this host has) must be the family's alone: it travels with it. */
static void probe_objects(struct eng_probe *p)
{
	_cleanup_free_ char *status = eng_proc_read(p->dir, "status", NULL);
	struct maps *maps;
	uint64_t last = 0;

	if (res_field_u64(status, "TracerPid", 10, 0) == (uint64_t)gettid()) /* looked at when it still ran */
		return;
	if (procfs_maps(p->dir, false, &maps) < 0)
		return;
	for (size_t i = 0; i < maps->n; i++) {
		const struct map *m = &maps->m[i];

		if (m->kind != KIND_OBJECT || m->ino == last)
			continue;
		last = m->ino;
		pid_t who = res_mapper_outside(p, m->dev >> 32, m->dev, m->ino);

		if (who)
			eng_reason(p, "shares memory (%s) with process %d, which stays: move that one",
				   strncmp(m->path, "/dev/zero", 9) ? m->path : "mmap", who);
	}
	maps_free(maps);
}

static int misc_probe(struct eng_probe *p)
{
	probe_namespaces(p);
	probe_code(p);
	probe_shared(p);
	probe_objects(p);
	return 0;
}

const struct eng_res res_misc = {.name = "surroundings", .probe = misc_probe};
