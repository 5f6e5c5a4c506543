// SPDX-License-Identifier: Apache-2.0
/*
 * What is known here of a directory's names, under LEASE_NAMES and as long as it is held:
 *  - which node id a name was last seen as (positive knowledge, of as many names as came by);
 *  - whether the set holds every name that may be there (`complete`): made here, or read to its end. A name that is not in such a set is not there, which is most of
 *    what a program asks before it creates files. It may hold more: names are added before our own change is sent and when another client's change recalls one; taken out only
 *    by a change under an exclusive lease (ops_here.c). What such a name means now is NAMES_UNKNOWN;
 *  - the listing as the server gave it, with its cookies, until any name changes: it is read again without a call.
 *
 * All under inode.lock. Bounded for a directory, and together; beyond it the server is asked.
 */
#include "fs/client/client.h"
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include "fs/dirent.h"

#define NAMES_MAX   50000		 /* of one directory */
#define ALL_MAX	    200000		 /* of all */
#define LISTING_MAX (4u << 20)		 /* bytes of one */
#define LISTINGS_MAX (16u << 20)	 /* of all */
#define AFTER_MAX    (256u << 10)	 /* longer ones are not walked through for names_dirs_after() */

static atomic_size_t all_names, all_listings;

static void listing_free(struct inode *dir)
{
	atomic_fetch_sub(&all_listings, dir->listing_len);
	free(dir->listing);
	dir->listing = NULL;
	dir->listing_len = dir->listing_room = 0;
}

static void listing_end(struct inode *dir)
{
	listing_free(dir);
	dir->reading = dir->listed = dir->listing_over = false;
}

/* With inode.lock. */
void names_end(struct inode *dir)
{
	dir->complete = false;
	atomic_fetch_sub(&all_names, dir->names.count);
	hash_clear(&dir->names, NULL);
	listing_end(dir);
}

/* With inode.lock. */
static bool add(struct inode *dir, const char *name, size_t len, uint64_t id)
{
	size_t before = dir->names.count;

	if (before < NAMES_MAX && atomic_load(&all_names) < ALL_MAX && hash_set(&dir->names, name, len, (void *)(uintptr_t)id, NULL) == 0) {
		atomic_fetch_add(&all_names, dir->names.count - before);
		return true;
	}
	names_end(dir);
	return false;
}

static void drop(struct inode *dir, const char *name, size_t len)
{
	if (hash_take(&dir->names, name, len))
		atomic_fetch_sub(&all_names, 1);
}

void names_add(struct inode *dir, const char *name)
{
	pthread_mutex_lock(&dir->lock);
	listing_end(dir);
	if (dir->complete)
		add(dir, name, strlen(name), NAMES_UNKNOWN);
	else
		drop(dir, name, strlen(name));
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

static bool is_dots(const struct fs_dirent *d)
{
	return d->namelen <= 2 && d->name[0] == '.' && d->name[d->namelen - 1] == '.';
}

/* One name as it came from the server; its place in the listing too. */
static bool page_add(struct inode *dir, const struct fs_dirent *d)
{
	struct fs_dirent bare = *d;
	size_t need = FS_DIRENT_HEAD + d->namelen;

	bare.entrylen = 0;
	bare.datalen = FS_DIRENT_NODATA;
	dir->listing_next = d->cookie;
	if (!is_dots(d) && !hash_get(&dir->names, d->name, d->namelen) && !add(dir, d->name, d->namelen, NAMES_UNKNOWN))
		return false;
	if (dir->listing_over)
		return true;
	if (dir->listing_len + need > dir->listing_room) {
		size_t room = dir->listing_room * 2 + 4096;
		uint8_t *p = room > LISTING_MAX || atomic_load(&all_listings) > LISTINGS_MAX ? NULL : realloc(dir->listing, room);

		if (!p) { /* the names are good without */
			listing_free(dir);
			dir->listing_over = true;
			return true;
		}
		dir->listing = p;
		dir->listing_room = room;
	}
	dir->listing_len += fs_dirent_put(dir->listing + dir->listing_len, dir->listing_room - dir->listing_len, &bare);
	atomic_fetch_add(&all_listings, need);
	return true;
}

void names_page(struct inode *dir, const uint8_t *page, size_t len, uint64_t cookie, bool end, uint64_t changes)
{
	struct fs_dirent d;
	size_t at = 0, n;

	pthread_mutex_lock(&dir->lock);
	if (!(dir->lease & SPRITE__FS__LEASE_BITS__LEASE_NAMES) || changes != atomic_load(&dir->changes) || (cookie && !(dir->reading && cookie == dir->listing_next)))
		goto out;
	if (!cookie) {
		listing_end(dir);
		dir->reading = true;
	}
	for (; dir->reading && at < len && (n = fs_dirent_get(page + at, len - at, &d)); at += n)
		if (!page_add(dir, &d))
			listing_end(dir);
	if (at < len) /* not understood to its end */
		listing_end(dir);
	if (dir->reading && end) {
		dir->reading = false;
		dir->listed = !dir->listing_over;
		dir->complete = true;
	}
out:
	pthread_mutex_unlock(&dir->lock);
}

bool names_listing(struct inode *dir, uint64_t cookie, uint8_t *to, size_t room, size_t *len, bool *end)
{
	struct fs_dirent d;
	size_t at = 0, n;
	bool found = !cookie;

	*len = 0;
	pthread_mutex_lock(&dir->lock);
	if (!dir->listed || !(dir->lease & SPRITE__FS__LEASE_BITS__LEASE_NAMES)) {
		pthread_mutex_unlock(&dir->lock);
		return false;
	}
	while (!found && at < dir->listing_len && (n = fs_dirent_get(dir->listing + at, dir->listing_len - at, &d))) {
		found = d.cookie == cookie;
		at += n;
	}
	while (found && at < dir->listing_len && (n = fs_dirent_get(dir->listing + at, dir->listing_len - at, &d)) && *len + n <= room) {
		memcpy(to + *len, dir->listing + at, n);
		*len += n;
		at += n;
	}
	*end = at >= dir->listing_len;
	pthread_mutex_unlock(&dir->lock);
	return found;
}

uint64_t names_id(struct inode *dir, const char *name)
{
	void *v;

	if (!(dir->lease & SPRITE__FS__LEASE_BITS__LEASE_NAMES))
		return NAMES_UNKNOWN;
	v = hash_get(&dir->names, name, strlen(name));
	return v ? (uint64_t)(uintptr_t)v : dir->complete ? 0 : NAMES_UNKNOWN;
}

uint64_t names_known(struct inode *dir, const char *name, size_t len)
{
	uint64_t id = 0;

	pthread_mutex_lock(&dir->lock);
	if (dir->lease & SPRITE__FS__LEASE_BITS__LEASE_NAMES)
		id = (uint64_t)(uintptr_t)hash_get(&dir->names, name, len);
	if (id > NAMES_UNKNOWN)
		ahead_paid(dir, AHEAD_NAMES);
	pthread_mutex_unlock(&dir->lock);
	return id == NAMES_UNKNOWN ? 0 : id;
}

void names_set(struct inode *dir, const char *name, uint64_t id)
{
	listing_end(dir);
	if (!id)
		drop(dir, name, strlen(name));
	else
		add(dir, name, strlen(name), id);
}

void names_learn(struct inode *dir, const char *name, size_t len, uint64_t id, uint64_t changes)
{
	pthread_mutex_lock(&dir->lock);
	if ((dir->lease & SPRITE__FS__LEASE_BITS__LEASE_NAMES) && changes == atomic_load(&dir->changes))
		add(dir, name, len, id);
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

int names_dirs_after(struct inode *dir, uint64_t id, uint64_t *ids, int max)
{
	struct fs_dirent d;
	size_t at = 0, n;
	bool found = false;
	uint64_t of;
	int k = 0;

	pthread_mutex_lock(&dir->lock);
	if (!dir->listed || dir->listing_len > AFTER_MAX || !(dir->lease & SPRITE__FS__LEASE_BITS__LEASE_NAMES))
		max = 0;
	while (k < max && at < dir->listing_len && (n = fs_dirent_get(dir->listing + at, dir->listing_len - at, &d))) {
		at += n;
		of = d.type == DT_DIR && !is_dots(&d) ? (uint64_t)(uintptr_t)hash_get(&dir->names, d.name, d.namelen) : 0;
		if (found && of > NAMES_UNKNOWN)
			ids[k++] = of;
		found = found || of == id;
	}
	pthread_mutex_unlock(&dir->lock);
	return k;
}
