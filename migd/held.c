// SPDX-License-Identifier: Apache-2.0
/* See held.h. */
#include "migd/held.h"
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "migd/context.h"
#include "migd/family.h"
#include "rpc/local.h"

enum { TRIES = 50, TRIES_GRACE = 80 /* longer than its clients have to come back */, PAUSE_US = 100000 };

/* One that was killed is there again in a moment, and its clients open again what they had open. */
static int ask(const char *path, json_t *rq, json_t **answer)
{
	struct error e = { 0 };
	int r;

	for (int i = 0;; i++) {
		e = (struct error){ 0 };
		r = local_call(path, json_incref(rq), NULL, NULL, answer, &e);
		if (!e.absent && r != -ECONNRESET && r != -EAGAIN)
			break;
		if (i >= (r == -EAGAIN ? TRIES_GRACE : TRIES))
			break;
		json_decref(*answer); /* a refusal is one, too */
		*answer = NULL;
		usleep(PAUSE_US);
	}
	json_decref(rq);
	return r;
}

/* spritefsd's descriptor, as a duplicate. The source stands still, so that it stays open; which one it was is looked at by the caller. */
static int servers_own(struct family *f, uint64_t ino, int *access)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_close_ int pidfd = -1;
	char host[HOST_NAME_MAX_];
	json_t *answer = NULL;
	int r, pid = 0, fd = -1, reads = 0, writes = 0;

	pthread_mutex_lock(&f->lock);
	snprintf(host, sizeof(host), "%s", f->host);
	pthread_mutex_unlock(&f->lock);
	if (asprintf(&path, "%s/spritefsd.sock", f->m->conf->run_dir) < 0)
		return -ENOMEM;
	r = ask(path, json_pack("{s:s, s:s, s:I, s:I}", "verb", "held", "host", host, "uid", (json_int_t)f->uid, "ino", (json_int_t)ino), &answer);
	if (!r && json_unpack(answer, "{s:i, s:i, s:b, s:b}", "pid", &pid, "fd", &fd, "read", &reads, "write", &writes))
		r = -EPROTO;
	json_decref(answer);
	if (r)
		return r;
	*access = (reads ? R_OK : 0) | (writes ? W_OK : 0);
	pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	fd = pidfd < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);
	return fd < 0 ? -errno : fd;
}

static bool same(int fd, const struct stat *want)
{
	struct stat st;

	return !fstat(fd, &st) && st.st_dev == want->st_dev && st.st_ino == want->st_ino;
}

/*
 * The server's descriptors are of mounts of its own, in which nothing else is mounted and paths begin elsewhere. So the file is opened by its handle on the mount that its
 * path leads to: on the last directory of that which is there.
 */
static int on_own_mount(int fd, const struct stat *st, const char *path)
{
	union {
		struct file_handle h;
		char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
	} x = { .h.handle_bytes = MAX_HANDLE_SZ };
	char dir[PATH_MAX], *slash;
	int id, own;

	if (snprintf(dir, sizeof(dir), "%s", path) >= (int)sizeof(dir) || name_to_handle_at(fd, "", &x.h, &id, AT_EMPTY_PATH))
		return -1;
	while ((slash = strrchr(dir, '/'))) {
		_cleanup_close_ int at = -1;
		struct stat is;

		slash[slash == dir] = '\0';
		at = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		own = at >= 0 && !fstat(at, &is) && is.st_dev == st->st_dev ? open_by_handle_at(at, &x.h, O_PATH | O_CLOEXEC) : -1;
		if (own >= 0 && same(own, st))
			return own;
		if (own >= 0)
			close(own);
		if (slash == dir)
			break;
	}
	return -1;
}

int held_open(void *ctx, uint64_t ino, uint32_t mode, const char *path, int *access)
{
	const uint64_t inode_bits = 0xffffffffffff; /* the mount is in the others */
	struct family *f = ctx;
	_cleanup_close_ int fd = -1;
	char name[40];
	struct stat st;
	int own;

	if (f->role != FAM_HOME)
		return -ENOENT;
	fd = servers_own(f, ino, access);
	if (fd < 0)
		return fd;
	if (fstat(fd, &st) || ((st.st_ino ^ ino) & inode_bits) || (mode && ((st.st_mode ^ mode) & S_IFMT)))
		return -ESTALE;
	own = on_own_mount(fd, &st, path);
	if (own < 0) { /* a filesystem without handles: as it is there */
		snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
		own = open(name, O_PATH | O_CLOEXEC);
	}
	return own < 0 ? -errno : own;
}
