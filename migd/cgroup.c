// SPDX-License-Identifier: Apache-2.0
/*
 * Guest cgroups (cgroup.h; kernel Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/). A group of the same name is made in every hierarchy that
 * is of use: the v2 one (freezer and kill are in its core and need no controller), and each v1 hierarchy that has a controller v2 lacks.
 * In each, OURS/sprite-guests holds one group per family: weights and the limits of all guests together are the parent's, so that ten guests
 * are no more of a burden to the owner than one.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/log.h"
#include "migd/cgroup.h"

#define PARENT "sprite-guests"

enum { KILL_AT_ONCE = 256, ARRIVAL_NS = 1000000000 };

enum controller { CG_CPU, CG_MEMORY, CG_PIDS, CG_IO, CG_FREEZER, CG_COUNT };
static const struct {
	const char *v2, *v1;
} controller_name[CG_COUNT] = {
	[CG_CPU] = {"cpu", "cpu"}, [CG_MEMORY] = {"memory", "memory"}, [CG_PIDS] = {"pids", "pids"},
	[CG_IO] = {"io", "blkio"}, [CG_FREEZER] = {NULL, "freezer"}, /* v2: part of the core */
};

struct cgroups {
	char *v2;		/* our own group in the v2 hierarchy: groups are made below it */
	bool in_v2[CG_COUNT];
	char *v1[CG_COUNT];	/* our own group in that controller's v1 hierarchy, when v2 has it not */
	char text[160];
	pthread_mutex_t lock;
	/* lock: why guests get the CPU like anybody, and whether that is what is written into the groups */
	uint64_t hurry_ns;    /* since when all are to leave, 0: they are not */
	unsigned arriving;
	uint64_t arriving_ns; /* since when somebody arrives */
	bool slow, hurried;   /* slow: he takes too long for that */
};

static int write_file(const char *dir, const char *name, const char *value)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_close_ int fd = -1;

	if (asprintf(&path, "%s/%s", dir, name) < 0)
		return -ENOMEM;
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, value, strlen(value)) < 0)
		return -errno;
	return 0;
}

static int read_file(const char *dir, const char *name, char *buf, size_t n)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_close_ int fd = -1;
	ssize_t k;

	if (asprintf(&path, "%s/%s", dir, name) < 0)
		return -ENOMEM;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	k = fd < 0 ? -1 : read(fd, buf, n - 1);
	if (k < 0)
		return -errno;
	buf[k] = 0;
	return (int)k;
}

static bool word_in(const char *list, const char *word, const char *separators)
{
	_cleanup_free_ char *copy = strdup(list);
	char *save = NULL;

	for (char *p = copy ? strtok_r(copy, separators, &save) : NULL; p; p = strtok_r(NULL, separators, &save))
		if (!strcmp(p, word))
			return true;
	return false;
}

/* Our own group in a hierarchy: third field of /proc/self/cgroup for the line whose controller list has `controller` ("" = v2). */
static char *own_group(const char *controller)
{
	_cleanup_fclose_ FILE *f = fopen("/proc/self/cgroup", "re");
	_cleanup_free_ char *line = NULL;
	size_t cap = 0;

	while (f && getline(&line, &cap, f) > 0) {
		char *list = strchr(line, ':'), *path = list ? strchr(list + 1, ':') : NULL;

		if (!path)
			continue;
		*path++ = 0;
		path[strcspn(path, "\n")] = 0;
		if (*controller ? word_in(list + 1, controller, ",") : !list[1])
			return strdup(strcmp(path, "/") ? path : "");
	}
	return NULL;
}

/* Where a hierarchy is mounted and what is its root: "/sys/fs/cgroup/cpu" shows "/" or, in a container, a part of it. */
static char *own_directory(const char *fstype, const char *controller)
{
	_cleanup_fclose_ FILE *f = fopen("/proc/self/mountinfo", "re");
	_cleanup_free_ char *line = NULL, *group = own_group(controller);
	size_t cap = 0;
	char *dir = NULL;
	struct stat st;

	while (!dir && f && group && getline(&line, &cap, f) > 0) {
		char root[512], point[512], type[32], opts[512];
		char *tail = strstr(line, " - ");

		if (!tail || sscanf(line, "%*d %*d %*s %511s %511s", root, point) != 2 || sscanf(tail, " - %31s %*s %511s", type, opts) != 2)
			continue;
		if (strcmp(type, fstype) || (*controller && !word_in(opts, controller, ",")))
			continue;
		size_t skip = strcmp(root, "/") && !strncmp(group, root, strlen(root)) ? strlen(root) : 0;

		if (asprintf(&dir, "%s%s", point, group + skip) < 0)
			return NULL;
		if (stat(dir, &st) || access(dir, W_OK)) { /* a group seen from another cgroup namespace: the mount's root is ours */
			free(dir);
			dir = access(point, W_OK) ? NULL : strdup(point);
		}
	}
	return dir;
}

/* A v2 group with controllers may not hold processes itself: ours go to a leaf. */
static void v2_make_room(struct cgroups *c)
{
	_cleanup_free_ char *leaf = NULL;
	char have[256], pid[16];

	if (read_file(c->v2, "cgroup.controllers", have, sizeof have) < 0)
		return;
	bool any = false;

	for (int i = 0; i < CG_COUNT; i++)
		any |= controller_name[i].v2 && word_in(have, controller_name[i].v2, " \n");
	if (!any)
		return;
	if (asprintf(&leaf, "%s/migd", c->v2) < 0 || (mkdir(leaf, 0755) && errno != EEXIST))
		return;
	snprintf(pid, sizeof pid, "%d", getpid());
	if (write_file(leaf, "cgroup.procs", pid))
		return;
	for (int i = 0; i < CG_COUNT; i++) {
		char word[16];

		if (!controller_name[i].v2 || !word_in(have, controller_name[i].v2, " \n"))
			continue;
		snprintf(word, sizeof word, "+%s", controller_name[i].v2);
		c->in_v2[i] = write_file(c->v2, "cgroup.subtree_control", word) == 0;
	}
}

static void describe(struct cgroups *c)
{
	size_t n = 0;

	c->text[0] = 0;
	for (int i = 0; i < CG_COUNT && n < sizeof c->text - 32; i++)
		if (c->in_v2[i])
			n += (size_t)snprintf(c->text + n, sizeof c->text - n, " v2:%s", controller_name[i].v2 ? controller_name[i].v2 : "freezer");
		else if (c->v1[i])
			n += (size_t)snprintf(c->text + n, sizeof c->text - n, " v1:%s", controller_name[i].v1);
}

const char *cgroups_describe(const struct cgroups *c)
{
	return c->text[0] ? c->text + 1 : "none";
}

/* Calls fn for the group's directory in each hierarchy once (v1 controllers may share one). */
static int each_directory(struct cgroups *c, const char *name, int (*fn)(const char *dir, void *arg), void *arg)
{
	int err = 0;

	for (int i = -1; i < CG_COUNT && !err; i++) {
		const char *base = i < 0 ? c->v2 : c->v1[i];
		_cleanup_free_ char *dir = NULL;

		for (int j = 0; j < i && base; j++)
			if (c->v1[j] && !strcmp(c->v1[j], base))
				base = NULL;
		if (!base)
			continue;
		if (asprintf(&dir, "%s/" PARENT "/%s", base, name) < 0)
			return -ENOMEM;
		err = fn(dir, arg);
	}
	return err;
}

struct making {
	char *paths;
	struct error *e;
};

static int make_one(const char *dir, void *arg)
{
	struct making *m = arg;
	char *longer;

	if (mkdir(dir, 0755) && errno != EEXIST)
		return error_set(m->e, errno, "cgroup %s: %s", dir, strerror(errno));
	if (asprintf(&longer, "%s%s%s", m->paths ? m->paths : "", m->paths ? ":" : "", dir) < 0)
		return -ENOMEM;
	free(m->paths);
	m->paths = longer;
	return 0;
}

static int set_limit(struct cgroups *c, const char *name, enum controller k, const char *v2_file, const char *v1_file, const char *value,
	const char *v1_value)
{
	const char *base = c->in_v2[k] ? c->v2 : c->v1[k], *file = c->in_v2[k] ? v2_file : v1_file;
	_cleanup_free_ char *dir = NULL;

	if (!base || !file)
		return -ENOSYS;
	if (asprintf(&dir, "%s/" PARENT "/%s", base, name) < 0)
		return -ENOMEM;
	return write_file(dir, file, c->in_v2[k] ? value : v1_value);
}

static int parent_one(const char *dir, void *arg)
{
	struct cgroups *c = arg;

	if (mkdir(dir, 0755) && errno != EEXIST)
		return -errno;
	if (!c->v2 || strncmp(dir, c->v2, strlen(c->v2)) || strcmp(dir + strlen(c->v2), "/" PARENT "/"))
		return 0;
	for (int i = 0; i < CG_COUNT; i++) {
		char word[16];

		if (!controller_name[i].v2 || !c->in_v2[i])
			continue;
		snprintf(word, sizeof word, "+%s", controller_name[i].v2);
		write_file(dir, "cgroup.subtree_control", word);
	}
	return 0;
}

/* Weights are best effort: a host may lack the controller, and says so in cgroups_describe(). */
static void lowest_weight(struct cgroups *c, const char *name)
{
	if (set_limit(c, name, CG_CPU, "cpu.idle", "cpu.idle", "1", "1"))
		set_limit(c, name, CG_CPU, "cpu.weight", "cpu.shares", "1", "2");
	if (set_limit(c, name, CG_IO, "io.weight", "blkio.weight", "1", "10"))
		set_limit(c, name, CG_IO, "io.bfq.weight", "blkio.bfq.weight", "1", "1");
}

/* Under the lock: writes what is due, if it is not so. */
static void weigh(struct cgroups *c)
{
	bool hurry = c->hurry_ns || (c->arriving && !c->slow);

	if (hurry == c->hurried)
		return;
	c->hurried = hurry;
	if (!hurry)
		lowest_weight(c, "");
	else if (set_limit(c, "", CG_CPU, "cpu.idle", "cpu.idle", "0", "0")) /* which makes the weight that of everybody */
		set_limit(c, "", CG_CPU, "cpu.weight", "cpu.shares", "100", "1024");
}

void cgroups_hurry(struct cgroups *c)
{
	pthread_mutex_lock(&c->lock);
	c->hurry_ns = clock_boot_ns();
	weigh(c);
	pthread_mutex_unlock(&c->lock);
}

void cgroups_arrival(struct cgroups *c, bool begins)
{
	pthread_mutex_lock(&c->lock);
	c->arriving += begins ? 1 : -1;
	if (!c->arriving)
		c->slow = false;
	else if (begins && c->arriving == 1)
		c->arriving_ns = clock_boot_ns();
	weigh(c);
	pthread_mutex_unlock(&c->lock);
}

void cgroups_calm(struct cgroups *c, uint64_t after_ns)
{
	pthread_mutex_lock(&c->lock);
	if (c->hurry_ns && clock_boot_ns() - c->hurry_ns >= after_ns)
		c->hurry_ns = 0;
	c->slow |= c->arriving && clock_boot_ns() - c->arriving_ns > ARRIVAL_NS;
	weigh(c);
	pthread_mutex_unlock(&c->lock);
}

/* Those that were asked for are not best effort. */
static int set_limits(struct cgroups *c, const char *name, const struct cgroup_limits *l)
{
	char number[32];
	int err = 0;

	if (l->memory_max) {
		snprintf(number, sizeof number, "%llu", (unsigned long long)l->memory_max);
		/* No swap storm on the owner's disk. v1 keeps memory <= memory and swap: a raised limit needs the second first, a lowered one the first. */
		set_limit(c, name, CG_MEMORY, "memory.swap.max", "memory.memsw.limit_in_bytes", "0", number);
		err = set_limit(c, name, CG_MEMORY, "memory.max", "memory.limit_in_bytes", number, number);
		set_limit(c, name, CG_MEMORY, NULL, "memory.memsw.limit_in_bytes", NULL, number);
		set_limit(c, name, CG_MEMORY, NULL, "memory.swappiness", NULL, "0");
	}
	if (!err && l->pids_max) {
		snprintf(number, sizeof number, "%u", l->pids_max);
		err = set_limit(c, name, CG_PIDS, "pids.max", "pids.max", number, number);
	}
	return err;
}

int cgroups_limit_all(struct cgroups *c, const struct cgroup_limits *l, struct error *e)
{
	int err;

	lowest_weight(c, "");
	err = set_limits(c, "", l);
	return err ? error_set(e, -err, "cgroup " PARENT ": limit not settable: %s (controllers here: %s)", strerror(-err), cgroups_describe(c)) : 0;
}

/* Stays while there are guests in it. */
static int remove_parent(const char *dir, void *unused)
{
	(void)unused;
	rmdir(dir);
	return 0;
}

int cgroups_open(struct cgroups **out, struct error *e)
{
	struct cgroups *c = calloc(1, sizeof *c);
	int err;

	if (!c)
		return error_set(e, ENOMEM, "cgroups: out of memory");
	pthread_mutex_init(&c->lock, NULL);
	c->v2 = own_directory("cgroup2", "");
	if (c->v2) {
		size_t n = strlen(c->v2);

		/* Started again inside our own leaf: groups belong beside it. */
		if (n > 5 && !strcmp(c->v2 + n - 5, "/migd"))
			c->v2[n - 5] = 0;
		v2_make_room(c);
		c->in_v2[CG_FREEZER] = true;
	}
	for (int i = 0; i < CG_COUNT; i++)
		if (!c->in_v2[i])
			c->v1[i] = own_directory("cgroup", controller_name[i].v1);
	if (!c->in_v2[CG_FREEZER] && !c->v1[CG_FREEZER]) {
		cgroups_close(c);
		return error_set(e, ENOSYS, "cgroups: neither cgroup v2 nor a v1 freezer is mounted and writable: guests could not be stopped at once");
	}
	describe(c);
	err = each_directory(c, "", parent_one, c);
	if (err) {
		cgroups_close(c);
		return error_set(e, -err, "cgroup " PARENT ": %s", strerror(-err));
	}
	*out = c;
	return 0;
}

void cgroups_close(struct cgroups *c)
{
	if (!c)
		return;
	each_directory(c, "", remove_parent, NULL);
	pthread_mutex_destroy(&c->lock);
	free(c->v2);
	for (int i = 0; i < CG_COUNT; i++)
		free(c->v1[i]);
	free(c);
}


int cgroup_make(struct cgroups *c, const char *name, const struct cgroup_limits *l, char **paths, struct error *e)
{
	struct making m = {.e = e};
	int err;

	if (!*name || strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.") != strlen(name) || strlen(name) > 100)
		return error_set(e, EINVAL, "cgroup name '%s': expected letters, digits, '-' and '.'", name);
	err = each_directory(c, name, make_one, &m);
	if (err) {
		free(m.paths);
		cgroup_remove(c, name, 0);
		return err;
	}
	err = set_limits(c, name, l);
	if (err) {
		free(m.paths);
		cgroup_remove(c, name, 0);
		return error_set(e, -err, "cgroup %s: limit not settable: %s (controllers here: %s)", name, strerror(-err), cgroups_describe(c));
	}
	*paths = m.paths;
	return 0;
}

static void nap_ms(int ms)
{
	nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}, NULL);
}

static bool frozen_is(struct cgroups *c, const char *dir, bool frozen)
{
	char buf[256];

	if (c->in_v2[CG_FREEZER])
		return read_file(dir, "cgroup.events", buf, sizeof buf) > 0 && !!strstr(buf, "frozen 1") == frozen;
	return read_file(dir, "freezer.state", buf, sizeof buf) > 0 && !strncmp(buf, frozen ? "FROZEN" : "THAWED", 6);
}

/* NULL: out of memory. Caller frees. */
static char *freezer_dir(const struct cgroups *c, const char *name)
{
	char *dir;

	return asprintf(&dir, "%s/" PARENT "/%s", c->in_v2[CG_FREEZER] ? c->v2 : c->v1[CG_FREEZER], name) < 0 ? NULL : dir;
}

bool cgroup_told_to_freeze(struct cgroups *c, const char *name)
{
	_cleanup_free_ char *dir = freezer_dir(c, name);
	char buf[64];

	if (!dir)
		return false;
	if (c->in_v2[CG_FREEZER])
		return read_file(dir, "cgroup.freeze", buf, sizeof buf) > 0 && *buf == '1';
	return read_file(dir, "freezer.state", buf, sizeof buf) > 0 && *buf == 'F'; /* FREEZING, FROZEN */
}

int cgroup_freeze(struct cgroups *c, const char *name, bool frozen, int timeout_ms)
{
	_cleanup_free_ char *dir = freezer_dir(c, name);
	uint64_t end = clock_mono_ns() + (uint64_t)timeout_ms * 1000000;
	int err;

	if (!dir)
		return -ENOMEM;
	err = c->in_v2[CG_FREEZER] ? write_file(dir, "cgroup.freeze", frozen ? "1" : "0") :
				     write_file(dir, "freezer.state", frozen ? "FROZEN" : "THAWED");
	while (!err && timeout_ms >= 0 && !frozen_is(c, dir, frozen)) {
		if (clock_mono_ns() >= end)
			return -ETIMEDOUT;
		nap_ms(1);
	}
	return err;
}

int cgroup_pids(struct cgroups *c, const char *name, pid_t *pids, size_t max)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_fclose_ FILE *f = NULL;
	int n = 0, pid;

	if (asprintf(&path, "%s/" PARENT "/%s/cgroup.procs", c->in_v2[CG_FREEZER] ? c->v2 : c->v1[CG_FREEZER], name) < 0)
		return -ENOMEM;
	f = fopen(path, "re");
	if (!f)
		return -errno;
	while (fscanf(f, "%d", &pid) == 1) {
		if ((size_t)n < max)
			pids[n] = pid;
		n++;
	}
	return n;
}

void cgroups_each(struct cgroups *c, void (*fn)(void *arg, const char *name), void *arg)
{
	_cleanup_free_ char *dir = freezer_dir(c, "");
	struct dirent **list;
	int n = dir ? scandir(dir, &list, NULL, NULL) : -1;

	for (int i = 0; i < n; i++) {
		if (!strncmp(list[i]->d_name, "sprite-", 7))
			fn(arg, list[i]->d_name);
		free(list[i]);
	}
	if (n >= 0)
		free(list);
}

/* Guests run a few CPU seconds a minute: microseconds are exact enough. The v2 core counts without any controller; v1 has cpuacct. */
int cgroup_cpu_us(struct cgroups *c, const char *name, uint64_t *us)
{
	_cleanup_free_ char *dir = NULL;
	char buf[1024], *p;
	int n;

	if (asprintf(&dir, "%s/" PARENT "/%s", c->v2 ? c->v2 : c->v1[CG_CPU] ? c->v1[CG_CPU] : "", name) < 0)
		return -ENOMEM;
	n = read_file(dir, c->v2 ? "cpu.stat" : "cpuacct.usage", buf, sizeof buf);
	p = n > 0 && c->v2 ? strstr(buf, "usage_usec ") : buf;
	if (n <= 0 || !p)
		return n < 0 ? n : -ENODATA;
	*us = c->v2 ? strtoull(p + strlen("usage_usec "), NULL, 10) : strtoull(p, NULL, 10) / 1000;
	return 0;
}

int cgroup_memory(struct cgroups *c, const char *name, uint64_t *bytes)
{
	const char *base = c->in_v2[CG_MEMORY] ? c->v2 : c->v1[CG_MEMORY], *key = c->in_v2[CG_MEMORY] ? "anon " : "rss ";
	_cleanup_free_ char *dir = NULL;
	char buf[4096], *p;
	int n;

	if (!base)
		return -ENOSYS;
	if (asprintf(&dir, "%s/" PARENT "/%s", base, name) < 0)
		return -ENOMEM;
	n = read_file(dir, "memory.stat", buf, sizeof buf);
	if (n <= 0)
		return n < 0 ? n : -ENODATA;
	p = !strncmp(buf, key, strlen(key)) ? buf : strstr(buf, c->in_v2[CG_MEMORY] ? "\nanon " : "\nrss ");
	if (!p)
		return -ENODATA;
	*bytes = strtoull(strchr(p, ' '), NULL, 10);
	return 0;
}

static int remove_one(const char *dir, void *arg)
{
	int *left = arg;

	if (rmdir(dir) && errno != ENOENT)
		*left = -errno;
	return 0;
}

/* Not by numbers: one that has ended meanwhile may be another's by now. A pidfd of who is in the group before and after it was opened is its. */
static int kill_some(struct cgroups *c, const char *name)
{
	pid_t before[KILL_AT_ONCE], after[KILL_AT_ONCE];
	int fd[KILL_AT_ONCE], n = cgroup_pids(c, name, before, KILL_AT_ONCE), m;
	int some = n < KILL_AT_ONCE ? n : KILL_AT_ONCE;

	for (int i = 0; i < some; i++)
		fd[i] = before[i] > 0 ? (int)syscall(SYS_pidfd_open, before[i], 0) : -1;
	m = n > 0 ? cgroup_pids(c, name, after, KILL_AT_ONCE) : 0;
	for (int i = 0; i < some; i++) {
		if (fd[i] < 0)
			continue;
		for (int k = 0; k < m && k < KILL_AT_ONCE; k++)
			if (after[k] == before[i])
				syscall(SYS_pidfd_send_signal, fd[i], SIGKILL, NULL, 0);
		close(fd[i]);
	}
	return n;
}

/* How many are in it still, or -errno. Linux 5.14 has cgroup.kill, for all at once; the v2 group has the same members as those of v1. */
static int kill_all(struct cgroups *c, const char *name)
{
	_cleanup_free_ char *dir = NULL;
	pid_t one;

	if (c->v2 && asprintf(&dir, "%s/" PARENT "/%s", c->v2, name) < 0)
		return -ENOMEM;
	return dir && !write_file(dir, "cgroup.kill", "1") ? cgroup_pids(c, name, &one, 1) : kill_some(c, name);
}

int cgroup_remove(struct cgroups *c, const char *name, int timeout_ms)
{
	uint64_t end = clock_mono_ns() + (uint64_t)timeout_ms * 1000000;

	for (;;) {
		int left = 0, n = kill_all(c, name);

		if (n > 0)
			cgroup_freeze(c, name, false, 0); /* v1: a frozen task does not die */
		each_directory(c, name, remove_one, &left);
		if (!left)
			return 0;
		if (clock_mono_ns() >= end)
			return left;
		nap_ms(2);
	}
}
