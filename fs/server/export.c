/* SPDX-License-Identifier: Apache-2.0 */
/* From handles to objects and back, never out of the export; see export.h. */
#include "fs/server/export.h"
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/log.h"
#include "conf/save.h"
#include "fs/prefix.h"
#include "fs/server/mounts.h"

#define RESOLVE_CONFINED (RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV)

union kernel_handle {
	struct file_handle h;
	char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
};

void object_clear(struct object *o)
{
	if (o->fd >= 0 && !o->borrowed)
		close(o->fd);
	mount_node_put(o->mount);
	o->fd = -1;
	o->mount = NULL;
	o->ex = NULL;
}

/* ---- names and lookups ------------------------------------------------------------------------------ */

int export_name_check(const char *name)
{
	size_t n = name ? strlen(name) : 0;

	if (n == 0 || !strcmp(name, ".") || !strcmp(name, "..") || strchr(name, '/'))
		return -EINVAL;
	return n > 255 ? -ENAMETOOLONG : 0;
}

static int open_confined(int dirfd, const char *name, uint64_t flags, uint64_t resolve)
{
	struct open_how how = {.flags = flags | O_CLOEXEC, .resolve = resolve};
	int fd = (int)syscall(SYS_openat2, dirfd, name, &how, sizeof(how));

	return fd < 0 ? -errno : fd;
}

static void object_set(struct object *o, int fd, struct export *ex, struct mount_node *m)
{
	o->fd = fd;
	o->ex = ex;
	o->mount = mount_node_get(m);
}

/* What is mounted on this directory of mount `m`, counted; NULL when nothing is. */
static struct mount_node *export_covering(struct export *ex, const struct mount_node *m, const struct stat *st)
{
	struct mount_node *found = NULL;

	if (!ex->conf->home)
		return NULL;
	pthread_rwlock_rdlock(&ex->lock);
	for (size_t i = 1; i < ex->nmounts && !found; i++) {
		struct mount_node *c = ex->mounts[i];

		if (c->parent == m->number && c->cover_ino == st->st_ino && c->cover_dev == st->st_dev)
			found = mount_node_get(c);
	}
	pthread_rwlock_unlock(&ex->lock);
	return found;
}

int export_wrap(const struct object *dir, int fd, struct object *out, struct stat *st)
{
	struct mount_node *over;

	if (fstat(fd, st) < 0) {
		int r = -errno;

		close(fd);
		return r;
	}
	over = export_covering(dir->ex, dir->mount, st);
	if (over) {
		int root = fcntl(over->tree, F_DUPFD_CLOEXEC, 3);

		close(fd);
		if (root < 0 || fstat(root, st) < 0) {
			int r = -errno;

			if (root >= 0)
				close(root);
			mount_node_put(over);
			return r;
		}
		object_set(out, root, dir->ex, over);
		mount_node_put(over);
	} else {
		object_set(out, fd, dir->ex, dir->mount);
	}
	out->dev = st->st_dev;
	out->ino = st->st_ino;
	return 0;
}

bool export_is_private(const struct object *dir, const char *name)
{
	return name[0] == '.' && !strcmp(name, EXPORT_PRIVATE) && !dir->ex->conf->home && dir->ino == dir->mount->ino && dir->dev == dir->mount->dev;
}

int export_lookup(const struct object *dir, const char *name, struct object *out, struct stat *st)
{
	int r = export_name_check(name);
	int fd;

	if (r < 0)
		return r;
	if (export_is_private(dir, name))
		return -ENOENT;
	fd = open_confined(dir->fd, name, O_PATH | O_NOFOLLOW, RESOLVE_CONFINED);
	if (fd < 0)
		return fd == -EXDEV ? -EACCES : fd;
	return export_wrap(dir, fd, out, st);
}

/* ---- handles ------------------------------------------------------------------------------------------ */

int export_pack(struct exports *x, const struct object *o, unsigned char out[HANDLE_MAX])
{
	union kernel_handle k = {.h.handle_bytes = MAX_HANDLE_SZ};
	struct handle h;
	size_t n;
	int mnt;

	if (name_to_handle_at(o->fd, "", &k.h, &mnt, AT_EMPTY_PATH) < 0)
		return -errno;
	if (k.h.handle_bytes > HANDLE_FH_MAX)
		return -EOPNOTSUPP;
	h.domain = o->ex->domain;
	h.mount = o->mount->number;
	h.type = k.h.handle_type;
	h.len = k.h.handle_bytes;
	memcpy(h.fh, k.h.f_handle, h.len);
	n = handle_pack(&x->key, &h, out);
	return n ? (int)n : -EOPNOTSUPP;
}

int export_unpack(struct exports *x, const void *bytes, size_t len, struct handle *h, struct export **ex)
{
	int r = handle_unpack(&x->key, bytes, len, h);

	if (r < 0)
		return r;
	*ex = exports_by_domain(x, h->domain);
	return *ex ? 0 : -ESTALE;
}

static struct mount_node *export_mount(struct export *ex, uint64_t number)
{
	struct mount_node *m = NULL;

	pthread_rwlock_rdlock(&ex->lock);
	for (size_t i = 0; i < ex->nmounts && !m; i++)
		if (ex->mounts[i]->number == number)
			m = mount_node_get(ex->mounts[i]);
	pthread_rwlock_unlock(&ex->lock);
	return m;
}

bool export_is_local(struct export *ex, const struct handle *h)
{
	struct mount_node *m = export_mount(ex, h->mount);
	bool r = m && m->local;

	mount_node_put(m);
	return r;
}

int export_open_handle(struct export *ex, const struct handle *h, struct object *out)
{
	union kernel_handle k = {.h = {.handle_bytes = h->len, .handle_type = h->type}};
	struct mount_node *m = export_mount(ex, h->mount);
	int fd;

	if (!m)
		return -ESTALE;
	memcpy(k.h.f_handle, h->fh, h->len);
	fd = open_by_handle_at(m->dirfd, &k.h, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0) {
		int r = -errno;

		mount_node_put(m);
		return r == -ENOENT || r == -EINVAL ? -ESTALE : r;
	}
	out->fd = fd;
	out->ex = ex;
	out->mount = m;
	return 0;
}

int export_open_root(struct export *ex, struct object *out)
{
	int fd;

	pthread_rwlock_rdlock(&ex->lock);
	fd = fcntl(ex->mounts[0]->tree, F_DUPFD_CLOEXEC, 3);
	if (fd >= 0)
		object_set(out, fd, ex, ex->mounts[0]);
	pthread_rwlock_unlock(&ex->lock);
	return fd < 0 ? -errno : 0;
}

struct export *exports_by_prefix(struct exports *x, const char *prefix)
{
	for (size_t i = 0; i < x->n; i++)
		if (!strcmp(x->list[i].conf->prefix, prefix))
			return &x->list[i];
	return NULL;
}

struct export *exports_by_domain(struct exports *x, uint64_t domain)
{
	for (size_t i = 0; i < x->n; i++)
		if (x->list[i].domain == domain)
			return &x->list[i];
	return NULL;
}

/* ---- mounts of a home --------------------------------------------------------------------------------- */

/* Stable across restarts: place and, where the filesystem has one, its id. */
static uint64_t mount_number(const char *place)
{
	static const struct handle_key fixed = {{0x737072697465ull, 1}};
	unsigned char mac[HANDLE_MAC];
	uint64_t n;

	handle_mac(&fixed, place, strlen(place), mac);
	memcpy(&n, mac, sizeof(n));
	return n ? n : 1;
}

/* The mount of `fresh` on which `place` lies, and the rest of the path in it. */
static struct mount_node *place_parent(struct mount_node **v, size_t n, const char *place, const char **rest)
{
	struct mount_node *best = v[0];

	*rest = place;
	for (size_t i = 1; i < n; i++) {
		size_t len = strlen(v[i]->place);

		if (!strncmp(v[i]->place, place, len) && place[len] == '/' && len > strlen(best->place)) {
			best = v[i];
			*rest = place + len + 1;
		}
	}
	return best;
}

static bool place_is_top(const struct mount_place *p)
{
	struct statx sx;

	return statx(AT_FDCWD, p->path, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_MNT_ID, &sx) == 0 &&
		(sx.stx_mask & STATX_MNT_ID) && sx.stx_mnt_id == p->mnt_id;
}

/* The node for one place: the old one when it is the same filesystem still, or a new clone. NULL: not served. */
static struct mount_node *place_node(struct export *ex, const struct mount_place *p, const char *place, struct mount_node **v,
	size_t n)
{
	const char *rest;
	struct mount_node *parent = place_parent(v, n, place, &rest), *m;
	_cleanup_close_ int cover = -1;
	struct stat st, root;

	if (!place_is_top(p) || stat(p->path, &root) < 0)
		return NULL;
	cover = open_confined(parent->tree, rest, O_PATH | O_NOFOLLOW, RESOLVE_CONFINED | RESOLVE_NO_SYMLINKS);
	if (cover < 0 || fstat(cover, &st) < 0)
		return NULL;
	for (size_t i = 1; i < ex->nmounts; i++) {
		m = ex->mounts[i];
		if (!strcmp(m->place, place) && m->dev == root.st_dev && m->cover_ino == st.st_ino)
			return mount_node_get(m);
	}
	if (mount_node_open(p->path, ex->conf->readonly, &m) < 0)
		return NULL;
	m->place = strdup(place);
	if (!m->handles || !m->place) {
		if (!m->handles)
			log_warn("%s: not served: its filesystem has no file handles", p->path);
		mount_node_put(m);
		return NULL;
	}
	m->number = mount_number(place);
	m->parent = parent->number;
	m->cover_dev = st.st_dev;
	m->cover_ino = st.st_ino;
	return m;
}

static int export_scan(struct export *ex, const char *skip)
{
	struct mount_place *places = NULL;
	struct mount_node **fresh, **old;
	size_t n = 0, count = 1, nold;
	int r = mounts_list(ex->conf->path, skip, &places, &n);

	if (r < 0)
		return r;
	fresh = calloc(n + 1, sizeof(*fresh));
	if (!fresh) {
		mounts_free(places, n);
		return -ENOMEM;
	}
	fresh[0] = mount_node_get(ex->mounts[0]);
	for (size_t i = 0; i < n; i++) {
		const char *place;
		struct mount_node *m;

		prefix_covers(ex->conf->path, places[i].path, &place);
		m = place_node(ex, &places[i], place, fresh, count);
		if (m)
			fresh[count++] = m;
	}
	mounts_free(places, n);
	pthread_rwlock_wrlock(&ex->lock);
	old = ex->mounts;
	nold = ex->nmounts;
	ex->mounts = fresh;
	ex->nmounts = count;
	pthread_rwlock_unlock(&ex->lock);
	for (size_t i = 0; i < nold; i++)
		mount_node_put(old[i]);
	free(old);
	return 0;
}

void exports_rescan(struct exports *x)
{
	for (size_t i = 0; i < x->n; i++) {
		int r = x->list[i].conf->home ? export_scan(&x->list[i], x->sprite_mount) : 0;

		if (r < 0)
			log_warn("%s: cannot follow its mounts: %s", x->list[i].conf->path, strerror(-r));
	}
	if (!atomic_load(&x->mounts))
		atomic_store(&x->mounts, clock_epoch());
	atomic_fetch_add(&x->mounts, 1); /* when what was mounted can be seen, not before */
}

/* ---- opening ------------------------------------------------------------------------------------------ */

/* Domain ids are random numbers kept in state_dir/domains.json, by prefix and path: another directory is another domain. */
static int domain_id(json_t *known, const struct conf_export *c, uint64_t *id, bool *changed)
{
	char name[4096 + 1100], hex[20];
	const char *text;

	snprintf(name, sizeof(name), "%s %s", c->prefix, c->path);
	text = json_string_value(json_object_get(known, name));
	if (text) {
		*id = strtoull(text, NULL, 16);
		return 0;
	}
	do {
		if (getrandom(id, sizeof(*id), 0) != sizeof(*id))
			return -EIO;
	} while (*id == 0);
	snprintf(hex, sizeof(hex), "%016llx", (unsigned long long)*id);
	*changed = true;
	return json_object_set_new(known, name, json_string(hex)) < 0 ? -ENOMEM : 0;
}

static int export_open(struct export *ex, const struct conf_export *c, json_t *known, bool *changed, struct error *e)
{
	int r;

	ex->conf = c;
	pthread_rwlock_init(&ex->lock, NULL);
	ex->mounts = calloc(1, sizeof(*ex->mounts));
	if (!ex->mounts)
		return error_set(e, ENOMEM, "no memory");
	r = mount_node_open(c->path, c->readonly, &ex->mounts[0]);
	if (r < 0)
		return error_set(e, -r, "export %s: cannot open %s: %s", c->prefix, c->path, strerror(-r));
	ex->nmounts = 1;
	ex->mounts[0]->place = strdup("");
	if (!ex->mounts[0]->handles)
		return error_set(e, EOPNOTSUPP, "export %s: the filesystem of %s has no file handles (overlay without nfs_export?)",
			c->prefix, c->path);
	r = domain_id(known, c, &ex->domain, changed);
	return r < 0 ? error_set(e, -r, "export %s: no domain id: %s", c->prefix, strerror(-r)) : 0;
}

int exports_open(const struct conf *c, struct exports *x, struct error *e)
{
	char path[4096];
	bool changed = false;
	json_t *known;
	int r = 0;

	memset(x, 0, sizeof(*x));
	x->sprite_mount = c->mount;
	x->mountinfo = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
	if (x->mountinfo < 0)
		return error_set(e, errno, "/proc/self/mountinfo: %s", strerror(errno));
	snprintf(path, sizeof(path), "%s/server.key", c->state_dir);
	r = handle_key_load(path, &x->key, e);
	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "%s/domains.json", c->state_dir);
	known = json_load_file(path, 0, NULL);
	if (!known)
		known = json_object();
	x->list = calloc(c->nexports ? c->nexports : 1, sizeof(*x->list));
	if (!x->list)
		r = error_set(e, ENOMEM, "no memory");
	for (size_t i = 0; r == 0 && i < c->nexports; i++) {
		x->n = i + 1;
		r = export_open(&x->list[i], &c->exports[i], known, &changed, e);
	}
	if (r == 0 && changed) {
		r = save_json(path, known, JSON_INDENT(1), true);
		if (r < 0)
			r = error_set(e, -r, "%s: cannot write: %s", path, strerror(-r));
	}
	json_decref(known);
	if (r == 0)
		exports_rescan(x);
	return r;
}

void exports_close(struct exports *x)
{
	for (size_t i = 0; i < x->n; i++) {
		for (size_t k = 0; k < x->list[i].nmounts; k++)
			mount_node_put(x->list[i].mounts[k]);
		free(x->list[i].mounts);
		pthread_rwlock_destroy(&x->list[i].lock);
	}
	free(x->list);
	if (x->mountinfo > 0)
		close(x->mountinfo);
	memset(x, 0, sizeof(*x));
	x->mountinfo = -1;
}
