/* SPDX-License-Identifier: Apache-2.0 */
/* Files without a name that somebody has open; see unlinked.h. */
#include "fs/server/unlinked.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/fault.h"
#include "conf/log.h"
#include "fs/server/mounts.h"
#include "fs/server/recover.h"

struct unlinked {
	pthread_mutex_t lock;
	struct hash kept, due; /* struct inode_key -> struct export, where its name is; due: somebody has closed it, */
	struct hash late;      /* or was given up, and may come back for it */
	uint64_t late_until;   /* for so long: all of them */
	atomic_size_t n, ndue; /* of them, for those who look without the lock */
	atomic_size_t freeing; /* names are gone, and the inodes are going */
	bool warned, swept;
};

static struct inode_key key_of(dev_t dev, ino_t ino)
{
	return (struct inode_key){dev, ino};
}

/* Our directory in an export, O_PATH: root's alone, or it is none of ours. -1: there is none. */
static int dir_open(const struct export *ex)
{
	int fd = openat(ex->mounts[0]->tree, EXPORT_PRIVATE, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || (fstat(fd, &st) == 0 && st.st_uid == 0 && !(st.st_mode & 077)))
		return fd;
	close(fd);
	errno = EPERM;
	return -1;
}

static void name_of(const struct inode_key *k, char name[24])
{
	snprintf(name, 24, "%llx", (unsigned long long)k->ino);
}

/*
 * The lock is held, and the thread is root. Returns a descriptor of it, to be closed without the lock: that is when a large file's blocks are freed, which
 * takes its time, while everybody's attributes need the lock. -1: none.
 */
static int drop(struct unlinked *u, const struct export *ex, const struct inode_key *k)
{
	_cleanup_close_ int dir = dir_open(ex);
	char name[24];
	int fd;

	name_of(k, name);
	fd = dir < 0 ? -1 : openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (dir >= 0)
		unlinkat(dir, name, 0);
	hash_take(&u->due, k, sizeof(*k));
	hash_take(&u->late, k, sizeof(*k));
	atomic_store(&u->ndue, u->due.count);
	hash_take(&u->kept, k, sizeof(*k));
	atomic_store(&u->n, u->kept.count);
	return fd;
}

static void warn(struct unlinked *u, const struct export *ex)
{
	if (!u->warned)
		log_warn("%s: an open file that is removed will not outlive this server: %s", ex->conf->path, strerror(errno));
	u->warned = true;
}

/* Makes our directory, while nobody has a lease on that in which it lies, or finds it and what is in it. */
static void find(struct unlinked *u, struct export *ex)
{
	int made = mkdirat(ex->mounts[0]->tree, EXPORT_PRIVATE, 0700);
	_cleanup_close_ int dir = made < 0 && errno != EEXIST ? -1 : dir_open(ex);
	int fd = dir < 0 ? -1 : openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *list = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	if (!list)
		warn(u, ex);
	ex->mounts[0]->private_dir = list != NULL;

	while (list && (e = readdir(list))) {
		struct inode_key k = key_of(ex->mounts[0]->dev, e->d_ino);
		char ours[24];

		name_of(&k, ours);
		if (!strcmp(e->d_name, ours) && hash_set(&u->kept, &k, sizeof(k), ex, NULL) == 0)
			atomic_fetch_add(&u->n, 1);
	}
	if (list)
		closedir(list);
	else if (fd >= 0)
		close(fd);
}

int unlinked_start(struct fsd *d)
{
	struct unlinked *u = d->unlinked = calloc(1, sizeof(*u));

	if (!u)
		return -ENOMEM;
	pthread_mutex_init(&u->lock, NULL);
	for (size_t i = 0; i < d->exports.n; i++)
		if (!d->exports.list[i].conf->home && !d->exports.list[i].conf->readonly)
			find(u, &d->exports.list[i]);
	return 0;
}

void unlinked_stop(struct fsd *d)
{
	if (!d->unlinked)
		return;
	hash_clear(&d->unlinked->kept, NULL);
	hash_clear(&d->unlinked->due, NULL);
	hash_clear(&d->unlinked->late, NULL);
	pthread_mutex_destroy(&d->unlinked->lock);
	free(d->unlinked);
	d->unlinked = NULL;
}

static bool link_made(struct unlinked *u, struct export *ex, const struct object *dir, const char *name, const struct inode_key *k)
{
	_cleanup_close_ int to = dir_open(ex);
	struct stat st;
	char ours[24];
	int r;

	name_of(k, ours);
	r = to < 0 ? -1 : linkat(dir->fd, name, to, ours, 0);
	/* it is there already when the server was killed between this and the unlink */
	if (r < 0 && to >= 0 && errno == EEXIST && fstatat(to, ours, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_dev == (dev_t)k->dev && st.st_ino == (ino_t)k->ino)
		r = 0;
	if (r < 0) {
		warn(u, ex);
		return false;
	}
	return true;
}

bool unlinked_keep(struct op *o, const struct object *dir, const char *name, const struct stat *st)
{
	struct unlinked *u = o->d->unlinked;
	struct inode_key k = key_of(st->st_dev, st->st_ino);
	_cleanup_close_ int gone = -1;
	bool made;

	if (dir->ex->conf->home || !S_ISREG(st->st_mode) || st->st_nlink - unlinked_links(o->d, dir->mount, st) != 1)
		return false;
	/* in grace somebody may have it open who has not said so yet */
	if (!openstate_is_open(&o->d->opens, st->st_dev, st->st_ino) && !atomic_load(&o->d->grace_hint))
		return false;
	op_root(o);
	pthread_mutex_lock(&u->lock);
	made = link_made(u, dir->ex, dir, name, &k);
	if (made && hash_set(&u->kept, &k, sizeof(k), dir->ex, NULL) < 0) {
		gone = drop(u, dir->ex, &k);
		made = false;
	}
	atomic_store(&u->n, u->kept.count);
	if (made && !openstate_is_open(&o->d->opens, st->st_dev, st->st_ino)) /* closed since we looked, and unlinked_closed() saw nothing yet; or kept for grace alone */
		hash_set(&u->due, &k, sizeof(k), dir->ex, NULL);
	atomic_store(&u->ndue, u->due.count);
	pthread_mutex_unlock(&u->lock);
	fault_point("unlink-kept");
	if (op_become(o) < 0)
		abort(); /* it was possible a moment ago */
	return made;
}

void unlinked_undo(struct op *o, const struct object *dir, const struct stat *st)
{
	struct unlinked *u = o->d->unlinked;
	struct inode_key k = key_of(st->st_dev, st->st_ino);
	_cleanup_close_ int gone = -1;

	op_root(o);
	pthread_mutex_lock(&u->lock);
	gone = drop(u, dir->ex, &k);
	pthread_mutex_unlock(&u->lock);
}

void unlinked_closed(struct fsd *d, const struct open *f)
{
	struct unlinked *u = d->unlinked;
	struct inode_key k = key_of(f->dev, f->ino);

	if (!u || !atomic_load(&u->n) || d->stopping) /* clients come back to the next run */
		return;
	pthread_mutex_lock(&u->lock);
	if (hash_get(&u->kept, &k, sizeof(k)) && atomic_load(&f->client->given_up)) {
		hash_set(&u->late, &k, sizeof(k), f->ex, NULL);
		u->late_until = clock_boot_ns() + CLIENT_FORGET_NS;
	} else if (hash_get(&u->kept, &k, sizeof(k))) {
		hash_set(&u->due, &k, sizeof(k), f->ex, NULL); /* no memory: it stays until the next start */
	}
	atomic_store(&u->ndue, u->due.count);
	pthread_mutex_unlock(&u->lock);
}

/* Those of `h` that nobody has open; returns how many. What is open again is due when that ends. */
static size_t let_go(struct fsd *d, struct hash *h)
{
	struct unlinked *u = d->unlinked;
	size_t count = 0;
	int fds[64], n;

	do {
		struct hash_iter it = {0};
		struct export *ex;

		n = 0;
		pthread_mutex_lock(&u->lock);
		while (n < (int)(sizeof(fds) / sizeof(fds[0])) && (ex = hash_next(h, &it))) {
			struct inode_key k;

			memcpy(&k, it.key, sizeof(k));
			if (!openstate_is_open(&d->opens, (dev_t)k.dev, (ino_t)k.ino))
				fds[n++] = drop(u, ex, &k);
			else
				hash_take(h == &u->late ? &u->late : &u->due, &k, sizeof(k));
		}
		atomic_store(&u->ndue, u->due.count);
		atomic_fetch_add(&u->freeing, (size_t)n);
		pthread_mutex_unlock(&u->lock);
		for (int i = 0; i < n; i++)
			if (fds[i] >= 0)
				close(fds[i]);
		atomic_fetch_sub(&u->freeing, (size_t)n);
		count += (size_t)n;
	} while (n == (int)(sizeof(fds) / sizeof(fds[0])));
	return count;
}

bool unlinked_busy(struct fsd *d)
{
	return d->unlinked && atomic_load(&d->unlinked->n) + atomic_load(&d->unlinked->freeing);
}

size_t unlinked_run(struct fsd *d)
{
	struct unlinked *u = d->unlinked;

	if (!u || !atomic_load(&u->ndue) || atomic_load(&d->grace_hint)) /* in grace others may still take it */
		return 0;
	return let_go(d, &u->due);
}

void unlinked_tick(struct fsd *d)
{
	struct unlinked *u = d->unlinked;

	unlinked_run(d);
	if (u->late_until && clock_boot_ns() > u->late_until && !atomic_load(&d->grace_hint)) {
		u->late_until = 0;
		let_go(d, &u->late);
	}
	if (u->swept || atomic_load(&d->grace_hint))
		return;
	u->swept = true;
	let_go(d, &u->kept);
}

unsigned unlinked_links(struct fsd *d, const struct mount_node *m, const struct stat *st)
{
	struct unlinked *u = d->unlinked;
	struct inode_key k = key_of(st->st_dev, st->st_ino);
	unsigned n = 0;

	if (S_ISDIR(st->st_mode)) /* our directory counts in that above it, where the filesystem counts directories */
		return m->private_dir && st->st_ino == m->ino && st->st_dev == m->dev && st->st_nlink > 2;
	if (!u || !atomic_load(&u->n))
		return 0;
	pthread_mutex_lock(&u->lock);
	n = hash_get(&u->kept, &k, sizeof(k)) != NULL;
	pthread_mutex_unlock(&u->lock);
	return n;
}
