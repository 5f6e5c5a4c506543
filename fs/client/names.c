// SPDX-License-Identifier: Apache-2.0
/*
 * Directories whose names we all know: one that was made here and is still under LEASE_NAMES, or one that was read to its end in one page. A name that
 * cannot be in it needs no call: that is most of what a program asks before it creates files.
 *
 * The set holds every name that may be there, perhaps more: names are added before our own change is sent and when another client's change recalls
 * one; taken out only by a change under an exclusive lease (ops_here.c). With a name goes the node id it was last seen as, or NAMES_UNKNOWN. Under inode.lock;
 * it ends with the lease.
 */
#include "fs/client/client.h"
#include <stdlib.h>
#include <string.h>
#include "fs/dirent.h"

#define NAMES_MAX 50000 /* of one directory; beyond it the server is asked */

/* With inode.lock. */
void names_end(struct inode *dir)
{
	dir->complete = false;
	hash_clear(&dir->names, NULL);
}

/* With inode.lock. */
static void add(struct inode *dir, const char *name, size_t len, uint64_t id)
{
	if (dir->names.count >= NAMES_MAX || hash_set(&dir->names, name, len, (void *)(uintptr_t)id, NULL) < 0)
		names_end(dir);
}

void names_add(struct inode *dir, const char *name)
{
	pthread_mutex_lock(&dir->lock);
	if (dir->complete)
		add(dir, name, strlen(name), NAMES_UNKNOWN);
	pthread_mutex_unlock(&dir->lock);
}

void names_begin_empty(struct inode *dir)
{
	pthread_mutex_lock(&dir->lock);
	if (dir->lease & SPRITE__FS__LEASE_BITS__LEASE_NAMES) {
		names_end(dir);
		dir->complete = true;
	}
	pthread_mutex_unlock(&dir->lock);
}

void names_begin_page(struct inode *dir, const uint8_t *page, size_t len, uint64_t changes)
{
	struct fs_dirent d;
	size_t at = 0, n;

	pthread_mutex_lock(&dir->lock);
	if (!dir->complete && (dir->lease & SPRITE__FS__LEASE_BITS__LEASE_NAMES)) {
		dir->complete = true;
		while (dir->complete && at < len && (n = fs_dirent_get(page + at, len - at, &d))) {
			add(dir, d.name, d.namelen, NAMES_UNKNOWN);
			at += n;
		}
		/* a change of our own began meanwhile: its name may be missing */
		if (changes != atomic_load(&dir->changes))
			names_end(dir);
	}
	pthread_mutex_unlock(&dir->lock);
}

uint64_t names_id(struct inode *dir, const char *name)
{
	void *v;

	if (!dir->complete || !(dir->lease & SPRITE__FS__LEASE_BITS__LEASE_NAMES))
		return NAMES_UNKNOWN;
	v = hash_get(&dir->names, name, strlen(name));
	return v ? (uint64_t)(uintptr_t)v : 0;
}

void names_set(struct inode *dir, const char *name, uint64_t id)
{
	if (!id)
		hash_take(&dir->names, name, strlen(name));
	else if (dir->complete)
		add(dir, name, strlen(name), id);
}

void names_learn(struct inode *dir, const char *name, uint64_t id, uint64_t changes)
{
	pthread_mutex_lock(&dir->lock);
	if (dir->complete && (dir->lease & SPRITE__FS__LEASE_BITS__LEASE_NAMES) && changes == atomic_load(&dir->changes) &&
		hash_get(&dir->names, name, strlen(name)))
		add(dir, name, strlen(name), id);
	pthread_mutex_unlock(&dir->lock);
}

bool names_absent(struct inode *dir, const char *name)
{
	bool r;

	pthread_mutex_lock(&dir->lock);
	r = dir->complete && (dir->lease & SPRITE__FS__LEASE_BITS__LEASE_NAMES) && !hash_get(&dir->names, name, strlen(name));
	pthread_mutex_unlock(&dir->lock);
	return r;
}
