/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is known of a lab from outside: LAB_RUN/NAME/state.json, written by `up`, and the removal of everything that a lab leaves there.
 * Locking: commands that change a lab hold flock(2) on its directory, and so does its hub until the lab is complete, or has been cleared away because `up` was
 * killed: no command meets a lab half way. The directory is removed while locked, so whoever waited looks again. The servers' disks are locked by the hub, all its life:
 * one that is not is nobody's.
 */
#include "lab.h"
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

uint64_t proc_start_time(pid_t pid)
{
	char path[64], buf[1024], *p;
	uint64_t start = 0;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	if (read_file(path, buf, sizeof(buf)) <= 0)
		return 0;
	p = strrchr(buf, ')'); /* the name may hold anything */
	if (p && (p[2] == 'Z' || p[2] == 'X'))
		return 0; /* dead, its parent has not looked yet */
	for (int field = 2; p && field < 22; field++)
		p = strchr(p + 1, ' ');
	if (p)
		start = strtoull(p + 1, NULL, 10);
	return start;
}

static int name_check(const char *name, struct error *e)
{
	size_t len = strlen(name);

	for (size_t i = 0; i < len; i++)
		if (!isalnum((unsigned char)name[i]) && !(i > 0 && strchr("-_.", name[i])))
			len = 0;
	if (len < 1 || len > 24)
		return error_set(e, EINVAL, "lab name \"%s\": expected 1 to 24 letters, digits, - _ .", name);
	return 0;
}

static int state_parse(struct lab *lab, json_t *state)
{
	json_t *nodes = NULL, *row;
	size_t i;

	if (json_unpack(state, "{s:i, s:i, s:I, s:o}", "subnet", &lab->subnet, "hub", &lab->hub, "hub_start", (json_int_t *)&lab->hub_start,
		    "nodes", &nodes) < 0)
		return -EINVAL;
	json_array_foreach(nodes, i, row) {
		struct lab_node *n = &lab->node[lab->nnodes];
		const char *name, *address;
		int server;

		if (lab->nnodes == LAB_NODES_MAX || json_unpack(row, "{s:s, s:b, s:s, s:i}", "name", &name, "server", &server, "address", &address,
							"pid", &n->pid) < 0)
			return -EINVAL;
		snprintf(n->name, sizeof(n->name), "%s", name);
		snprintf(n->address, sizeof(n->address), "%s", address);
		n->server = server;
		n->index = lab->nnodes++;
	}
	return 0;
}

static int state_read(struct lab *lab)
{
	_cleanup_free_ char *path = xasprintf("%s/state.json", lab->dir);
	json_t *state = json_load_file(path, 0, NULL);
	int rc;

	lab->nnodes = 0;
	lab->hub = 0;
	if (!state)
		return -ENOENT;
	rc = state_parse(lab, state);
	json_decref(state);
	if (rc == 0)
		return 0;
	lab->nnodes = 0; /* half written: treat as none */
	lab->hub = 0;
	return -ENOENT;
}

int lab_open(struct lab *lab, const char *name, struct error *e)
{
	struct stat run = {0};
	char *slash;
	int rc;

	memset(lab, 0, sizeof(*lab));
	lab->lock = lab->disk_lock = -1;
	rc = name_check(name, e);
	if (rc < 0)
		return rc;
	if (stat("/run", &run) < 0)
		return error_set(e, errno, "/run: %s", strerror(errno));
	snprintf(lab->name, sizeof(lab->name), "%s", name);
	snprintf(lab->tag, sizeof(lab->tag), "%s@%llx-%llx", name, (unsigned long long)run.st_dev, (unsigned long long)run.st_ino);
	snprintf(lab->dir, sizeof(lab->dir), LAB_RUN "/%s", name);
	snprintf(lab->disk, sizeof(lab->disk), LAB_DISK "/%s", lab->tag);
	if (readlink("/proc/self/exe", lab->bindir, sizeof(lab->bindir) - 1) < 0)
		return error_set(e, errno, "/proc/self/exe: %s", strerror(errno));
	slash = strrchr(lab->bindir, '/');
	*slash = 0;
	return state_read(lab);
}

bool lab_alive(const struct lab *lab)
{
	return lab->hub > 0 && proc_start_time(lab->hub) == lab->hub_start;
}

static int take_lock(const struct lab *lab)
{
	int rc = flock(lab->lock, LOCK_EX | LOCK_NB);

	if (rc < 0 && errno == EWOULDBLOCK) {
		fprintf(stderr, "sprite-lab: lab %s: waiting for another sprite-lab that is starting or ending it\n", lab->name);
		while ((rc = flock(lab->lock, LOCK_EX)) < 0 && errno == EINTR)
			;
	}
	return rc;
}

int lab_lock(struct lab *lab, bool create, struct error *e)
{
	struct stat held, now;

	for (;;) {
		int rc = create ? make_dirs(lab->dir, 0755) : 0;
		if (rc < 0)
			return error_set(e, -rc, "%s: %s", lab->dir, strerror(-rc));
		lab->lock = open(lab->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (lab->lock < 0 && errno == ENOENT && create)
			continue; /* a `down` has just removed it */
		if (lab->lock < 0)
			return errno == ENOENT ? -ENOENT : error_set(e, errno, "%s: %s", lab->dir, strerror(errno));
		if (take_lock(lab) < 0) {
			error_set(e, errno, "%s: lock: %s", lab->dir, strerror(errno));
			close(lab->lock);
			lab->lock = -1;
			return -e->code;
		}
		if (fstat(lab->lock, &held) == 0 && stat(lab->dir, &now) == 0 && held.st_ino == now.st_ino && held.st_dev == now.st_dev) {
			state_read(lab); /* what was read before may be long past */
			return 0;
		}
		close(lab->lock);
		lab->lock = -1;
	}
}

int lab_save(const struct lab *lab, struct error *e)
{
	_cleanup_free_ char *path = xasprintf("%s/state.json", lab->dir), *tmp = xasprintf("%s/state.tmp", lab->dir);
	json_t *nodes = json_array(), *state;
	int rc;

	for (size_t i = 0; i < lab->nnodes; i++) {
		const struct lab_node *n = &lab->node[i];
		json_array_append_new(nodes, json_pack("{s:s, s:b, s:s, s:i}", "name", n->name, "server", n->server, "address", n->address, "pid", n->pid));
	}
	state = json_pack("{s:i, s:i, s:I, s:o}", "subnet", lab->subnet, "hub", lab->hub, "hub_start", (json_int_t)lab->hub_start, "nodes", nodes);
	rc = json_dump_file(state, tmp, JSON_INDENT(1));
	json_decref(state);
	if (rc < 0 || rename(tmp, path) < 0)
		return error_set(e, EIO, "%s: cannot write the lab's state", path);
	return 0;
}

int lab_free_subnet(void)
{
	bool used[256] = {false};
	DIR *d = opendir(LAB_RUN);
	struct dirent *entry;

	while (d && (entry = readdir(d))) {
		struct lab other;
		if (entry->d_name[0] != '.' && lab_open(&other, entry->d_name, NULL) == 0)
			used[other.subnet & 255] = true;
	}
	if (d)
		closedir(d);
	for (int i = 1; i < 255; i++)
		if (!used[i])
			return i;
	return 255;
}

struct lab_node *lab_find(struct lab *lab, const char *node)
{
	for (size_t i = 0; i < lab->nnodes; i++)
		if (strcmp(lab->node[i].name, node) == 0)
			return &lab->node[i];
	return NULL;
}

int lab_use(struct lab *lab, const char *name, struct error *e)
{
	int rc = lab_open(lab, name, e);

	if (rc < 0 && rc != -ENOENT)
		return rc;
	if (rc == -ENOENT || !lab_alive(lab))
		return error_set(e, ENOENT, "lab %s is not up: sprite-lab --name %s up", name, name);
	return 0;
}

int lab_use_node(struct lab *lab, const char *name, const char *node, struct lab_node **out, struct error *e)
{
	int rc = lab_use(lab, name, e);

	if (rc < 0)
		return rc;
	*out = lab_find(lab, node);
	if (!*out)
		return error_set(e, ENOENT, "lab %s has no node %s: it has %s to %s", name, node, lab->node[0].name, lab->node[lab->nnodes - 1].name);
	return 0;
}

int lab_disk_make(struct lab *lab, struct error *e)
{
	struct stat held, now;

	for (;;) {
		int fd, rc = make_dirs(lab->disk, 0755);

		if (rc < 0)
			return error_set(e, -rc, "%s: %s", lab->disk, strerror(-rc));
		fd = open(lab->disk, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0 && errno != ENOENT)
			return error_set(e, errno, "%s: %s", lab->disk, strerror(errno));
		if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0 && fstat(fd, &held) == 0 && stat(lab->disk, &now) == 0 && held.st_ino == now.st_ino) {
			lab->disk_lock = fd;
			return 0;
		}
		if (fd >= 0) /* somebody who clears has just taken it for one that is nobody's */
			close(fd);
	}
}

/* Ours, and those of our name that an earlier life of this machine left. */
static int disks_clear(const struct lab *lab, struct error *e)
{
	size_t len = strlen(lab->name);
	DIR *d = opendir(LAB_DISK);
	struct dirent *entry;
	int rc = 0;

	while (d && (entry = readdir(d))) {
		_cleanup_free_ char *path = xasprintf(LAB_DISK "/%s", entry->d_name);
		_cleanup_close_ int fd = -1;

		if (strncmp(entry->d_name, lab->name, len) != 0 || entry->d_name[len] != '@')
			continue;
		fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
			rc = rc ? rc : remove_tree(path, e);
		else if (strcmp(path, lab->disk) == 0)
			rc = error_set(e, EBUSY, "%s: somebody holds it", path);
	}
	if (d)
		closedir(d);
	return rc;
}

/* Ends the hub and all beneath it, then removes what a lab leaves behind; works on any mixture of remains. */
int lab_clear(struct lab *lab, struct error *e)
{
	unsigned connection[256];
	size_t n = fuse_connections(lab, connection, ARRAY_SIZE(connection));
	int rc;

	if (lab_alive(lab)) {
		kill(lab->hub, SIGKILL);
		for (int i = 0; i < 10000 && lab_alive(lab); i++) {
			waitpid(lab->hub, NULL, WNOHANG); /* in `up` it is a child */
			nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
			if (i % 1000 == 500) /* somebody waits for a file system whose daemon is dead */
				fuse_abort(connection, n);
		}
	}
	rc = cgroup_lab_remove(lab);
	if (rc < 0)
		return error_set(e, -rc, "lab %s: its control groups do not go away: %s", lab->name, strerror(-rc));
	rc = disks_clear(lab, e);
	if (rc == 0)
		rc = remove_tree(lab->dir, e);
	if (rc < 0)
		return rc;
	rmdir(LAB_DISK); /* only when no other lab is there */
	rmdir(LAB_RUN);
	return 0;
}
