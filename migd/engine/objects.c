// SPDX-License-Identifier: Apache-2.0
/*
 * Shared anonymous memory, memfds and objects of /dev/shm (sem_open(3), shm_open(3)) that are mapped: each once a family, whoever maps it. Known at the source by
 * (device, inode), in the image by a number. At the destination each is a memfd of ours, given to the vessels that map it; one that has a name in /dev/shm is a file of
 * that directory, and goes with its name: here it goes when the family has left (hollow()), there it comes when it runs (resume()). So a family that ends away
 * leaves none.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/log.h"
#include "migd/engine/adopt.h"
#include "migd/engine/inject.h"
#include "migd/engine/res_memory.h"
#include "migd/engine/res_util.h"
#include "rpc/image.pb-c.h"

struct object {
	uint64_t dev, ino; /* destination: 0 */
	int fd; /* source: the object itself; destination: ours; -1: found again, known by what it is */
	char *shm; /* its name in /dev/shm, or NULL */
};
struct objects {
	struct object *v;
	size_t n;
};
enum { OBJ_CHUNK = 1 << 20 };

static void objects_free(struct eng_family *f, struct eng_proc *p)
{
	struct objects *o = f->objects;

	if (p || !o)
		return;
	for (size_t i = 0; i < o->n; i++) {
		if (o->v[i].fd >= 0)
			close(o->v[i].fd);
		free(o->v[i].shm);
	}
	free(o->v);
	free(o);
	f->objects = NULL;
}

static struct object *object_add(struct eng_family *f, uint64_t dev, uint64_t ino, int fd)
{
	struct object *v;

	if (!f->objects)
		f->objects = calloc(1, sizeof(*f->objects));
	if (!f->objects)
		return NULL;
	v = realloc(f->objects->v, (f->objects->n + 1) * sizeof(*v));
	if (!v)
		return NULL;
	f->objects->v = v;
	v[f->objects->n] = (struct object){dev, ino, fd, NULL};
	return &v[f->objects->n++];
}

static struct object *object_find(struct eng_family *f, uint64_t dev, uint64_t ino)
{
	for (size_t i = 0; f->objects && i < f->objects->n; i++)
		if (f->objects->v[i].dev == dev && f->objects->v[i].ino == ino)
			return &f->objects->v[i];
	return NULL;
}

static uint64_t device_of(const struct stat *st)
{
	return (uint64_t)major(st->st_dev) << 32 | minor(st->st_dev); /* as procfs_maps() has it */
}

int object_number(struct eng_proc *p, const struct map *m, uint32_t *number)
{
	struct object *o = object_find(p->family, m->dev, m->ino);

	if (!o)
		return -ENOENT;
	*number = o - p->family->objects->v + 1;
	return 0;
}

int object_fd(struct eng_family *f, uint32_t number)
{
	return f->objects && number && number <= f->objects->n ? f->objects->v[number - 1].fd : -1;
}

/* ---- names in /dev/shm ------------------------------------------------------------------------------ */
static int shm_directory(int dir)
{
	return openat(dir, "root/dev/shm", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* The name that leads to it, malloc'd; NULL: there is none. (glibc links a semaphore from a temporary name, by which the kernel goes on calling it, as deleted.) */
static char *shm_name(int dir, const struct stat *st)
{
	int fd = st->st_nlink ? shm_directory(dir) : -1;
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	char *name = NULL;
	struct stat is;

	if (fd >= 0 && !d)
		close(fd);
	for (struct dirent *e; d && !name && (e = readdir(d));)
		if (e->d_ino == st->st_ino && fstatat(fd, e->d_name, &is, AT_SYMLINK_NOFOLLOW) == 0 && is.st_ino == st->st_ino && is.st_dev == st->st_dev)
			name = strdup(e->d_name);
	if (d)
		closedir(d);
	return name;
}

void object_probe_shm(struct eng_probe *p, const char *file)
{
	_cleanup_free_ char *name = NULL;
	struct stat st, owner;

	if (p->nest || fstatat(p->dir, file, &st, 0) < 0 || !st.st_nlink || fstat(p->dir, &owner) < 0) /* a guest's is its family's alone */
		return;
	name = shm_name(p->dir, &st);
	if (!name || st.st_nlink > 1)
		eng_reason(p, "%s: a file of /dev/shm that has more names than one, or one in a directory there: remove those", file);
	else if (st.st_uid != owner.st_uid)
		eng_reason(p, "%s: /dev/shm/%s belongs to another user: unmap or close it first", file, name);
}

/* Of the family's user, whoever the image says it is of: it may come from a guest host. */
static void shm_owner(struct eng_family *f, uint32_t *uid, uint32_t *gid)
{
	struct stat st;

	if (!adopt_may(f, *uid, *gid, NULL, 0))
		*uid = f->adopt_uid, *gid = f->adopt_groups[0];
	else if (f->home && !f->adopted && fstat(f->procs[0]->dir, &st) == 0 && st.st_uid)
		*uid = st.st_uid, *gid = st.st_gid;
}

static bool shm_valid(const char *name)
{
	return *name && strlen(name) < 256 && !strchr(name, '/') && strcmp(name, ".") && strcmp(name, "..");
}

/* Without its name until the move is decided. */
static int shm_make(struct eng_family *f, const Sprite__Image__ImgObject *im)
{
	_cleanup_close_ int dir = f->nprocs && shm_valid(im->shm) ? shm_directory(f->procs[0]->dir) : -1;
	uint32_t uid = im->uid, gid = im->gid;
	int fd = dir < 0 ? -1 : openat(dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	if (fd < 0)
		return -1;
	shm_owner(f, &uid, &gid);
	if (fchown(fd, uid, gid) == 0 && fchmod(fd, im->mode & 0777) == 0)
		return fd;
	close(fd);
	return -1;
}

static bool is_object(const struct object *x, const struct stat *st)
{
	return x->ino == st->st_ino && x->dev == device_of(st);
}

static bool leads_to(int dir, const struct object *x)
{
	struct stat st;

	return fstatat(dir, x->shm, &st, AT_SYMLINK_NOFOLLOW) == 0 && is_object(x, &st);
}

/* Below /proc/PID/`where`, by what it is: a descriptor, or -1. */
static int find_below(const struct eng_proc *p, const char *where, const struct object *x)
{
	int at = openat(p->dir, where, O_RDONLY | O_DIRECTORY | O_CLOEXEC), found = -1;
	DIR *d = at < 0 ? NULL : fdopendir(at);
	struct stat st;

	if (at >= 0 && !d)
		close(at);
	for (struct dirent *e; d && found < 0 && (e = readdir(d));)
		if (*e->d_name != '.' && fstatat(at, e->d_name, &st, 0) == 0 && is_object(x, &st))
			found = openat(at, e->d_name, O_PATH | O_CLOEXEC);
	if (d)
		closedir(d);
	return found;
}

static void find_again(struct eng_family *f, struct object *x)
{
	for (size_t i = 0; i < f->nprocs && x->fd < 0; i++) {
		x->fd = find_below(f->procs[i], "map_files", x);
		if (x->fd < 0)
			x->fd = find_below(f->procs[i], "fd", x);
	}
}

static void shm_link(struct eng_proc *p)
{
	struct objects *o = p->family->objects;
	_cleanup_close_ int dir = -1;
	char path[40];

	if (p != p->family->procs[0])
		return;
	for (size_t i = 0; o && i < o->n; i++) {
		struct object *x = &o->v[i];

		if (!x->shm)
			continue;
		if (dir < 0)
			dir = shm_directory(p->dir);
		if (x->ino && leads_to(dir, x)) /* by our predecessor */
			continue;
		find_again(p->family, x);
		snprintf(path, sizeof(path), "/proc/self/fd/%d", x->fd);
		if (linkat(AT_FDCWD, path, dir, x->shm, AT_SYMLINK_FOLLOW) < 0)
			log_warn("engine: process %d: /dev/shm/%s cannot have its name here: %s", p->vpid, x->shm, strerror(errno));
	}
}

/* In a nest nobody sees it before the family runs. */
static int objects_finish(struct eng_proc *p, struct error *e)
{
	(void)e;
	if (p->family->nest)
		shm_link(p);
	return 0;
}

static void objects_resume(struct eng_proc *p)
{
	if (!p->family->nest)
		shm_link(p);
}

static int objects_hollow(struct eng_proc *p, struct error *e)
{
	struct objects *o = p->family->objects;

	(void)e;
	for (size_t i = 0; o && p == p->family->procs[0] && i < o->n; i++) {
		_cleanup_close_ int dir = o->v[i].shm ? shm_directory(p->dir) : -1;

		if (dir >= 0 && leads_to(dir, &o->v[i]))
			unlinkat(dir, o->v[i].shm, 0);
	}
	return 0;
}

/* shm DEV INO NAME: whoever finds the family parked takes the name away, or gives it. */
static int objects_save(const struct eng_family *f, FILE *out)
{
	const struct objects *o = f->nest ? NULL : f->objects;

	for (size_t i = 0; o && i < o->n; i++) {
		const struct object *x = &o->v[i];
		struct stat st;

		if (!x->shm)
			continue;
		if (!x->ino && fstat(x->fd, &st) < 0)
			continue;
		fprintf(out, "shm %lx %lx ", (long)(x->ino ? x->dev : device_of(&st)), (long)(x->ino ? x->ino : st.st_ino));
		res_save_name(out, x->shm);
	}
	return 0;
}

static int objects_restore(struct eng_family *f, const char *line, bool hollow)
{
	struct object *x;
	unsigned long dev, ino;
	int at = 0;
	char *name;

	if (strncmp(line, "shm ", 4))
		return 0;
	if (sscanf(line, "shm %lx %lx %n", &dev, &ino, &at) != 2 || !at)
		return -EPROTO;
	if (hollow) /* the name is gone, and the object */
		return 1;
	name = res_load_name(line + at);
	x = name && shm_valid(name) ? object_add(f, dev, ino, -1) : NULL;
	if (x)
		x->shm = name;
	else
		free(name);
	return x ? 1 : -ENOMEM;
}

/* ---- out, in ------------------------------------------------------------------------------------------ */
static int put_data(struct eng_image *out, int fd, uint32_t id, off_t size)
{
	off_t at = 0, end;

	while (at < size && (at = lseek(fd, at, SEEK_DATA)) >= 0) {
		end = lseek(fd, at, SEEK_HOLE);
		while (at < end) {
			size_t take = end - at < OBJ_CHUNK ? end - at : OBJ_CHUNK;
			char *body = image_reserve(out, 16 + take);
			uint64_t head[2] = {id, at};
			int r;

			if (!body)
				return -EPIPE;
			memcpy(body, head, sizeof(head));
			if (pread(fd, body + 16, take, at) != (ssize_t)take)
				return -EIO;
			r = image_commit(out, IMG_OBJECT_PAGES, 0, 16 + take);
			if (r < 0)
				return r;
			at += take;
		}
	}
	return 0;
}

int object_put(struct eng_proc *p, struct eng_image *out, int fd, const char *path, uint32_t *number)
{
	struct eng_family *f = p->family;
	Sprite__Image__ImgObject im = SPRITE__IMAGE__IMG_OBJECT__INIT;
	_cleanup_free_ char *label = NULL;
	uint64_t dev;
	struct stat st;
	struct object *o;
	int r;

	if (fstat(fd, &st) < 0) {
		r = -errno;
		close(fd);
		return r;
	}
	dev = device_of(&st);
	o = object_find(f, dev, st.st_ino);
	if (o) {
		close(fd);
		*number = o - f->objects->v + 1;
		return 0;
	}
	o = object_add(f, dev, st.st_ino, fd);
	if (!o) {
		close(fd);
		return -ENOMEM;
	}
	im.id = *number = o - f->objects->v + 1;
	im.size = st.st_size;
	im.memfd = !strncmp(path, "/memfd:", 7);
	label = strdup(im.memfd ? path + 7 : strrchr(path, '/') ? strrchr(path, '/') + 1 : "shared");
	if (label && strstr(label, " (deleted)"))
		*strstr(label, " (deleted)") = '\0';
	if (label && strlen(label) > 200) /* memfd_create(2) takes 249 */
		label[200] = '\0';
	im.name = label ? label : "";
	o->shm = strncmp(path, "/dev/shm/", 9) ? NULL : shm_name(p->dir, &st);
	if (o->shm) {
		im.shm = o->shm;
		im.mode = st.st_mode & 0777;
		im.uid = st.st_uid;
		im.gid = st.st_gid;
	}
	r = eng_image_put_msg(out, IMG_OBJECT, 0, &im.base);
	return r < 0 ? r : put_data(out, fd, im.id, st.st_size);
}

static int put_object(struct eng_proc *p, const struct map *m, struct eng_image *out)
{
	uint32_t number;
	char name[64];
	int fd;

	if (object_find(p->family, m->dev, m->ino))
		return 0;
	snprintf(name, sizeof(name), "map_files/%lx-%lx", (long)m->start, (long)m->end);
	fd = openat(p->dir, name, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : object_put(p, out, fd, m->path, &number);
}

static int objects_dump_family(struct eng_family *f, struct eng_image *out, struct error *e)
{
	objects_free(f, NULL);
	for (size_t i = 0; i < f->nprocs; i++) {
		const struct maps *maps = dump_layout(f->procs[i]);
		int r = maps ? 0 : -ESRCH;

		for (size_t k = 0; r == 0 && k < maps->n; k++)
			if (maps->m[k].shared) { /* which of them is one is told apart when all is read */
				maps = dump_maps(f->procs[i]);
				r = maps ? 0 : -ESRCH;
				break;
			}

		for (size_t k = 0; r == 0 && k < maps->n; k++)
			if (maps->m[k].kind == KIND_OBJECT)
				r = put_object(f->procs[i], &maps->m[k], out);
		if (r < 0)
			return error_set(e, -r, "process %d: shared memory cannot be read: %s", f->procs[i]->vpid, strerror(-r));
	}
	return 0;
}

static int fill_object(struct eng_family *f, const void *body, size_t len, struct error *e)
{
	Sprite__Image__ImgObject *im = sprite__image__img_object__unpack(NULL, len, body);
	int fd = !im ? -1 : *im->shm ? shm_make(f, im) : memfd_create(im->name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	struct object *o = fd >= 0 && im->id == (f->objects ? f->objects->n : 0) + 1 && ftruncate(fd, im->size) == 0 ? object_add(f, 0, 0, fd) : NULL;
	bool ok = o && (!*im->shm || (o->shm = strdup(im->shm)));

	if (o)
		fd = -1; /* the table's */
	sprite__image__img_object__free_unpacked(im, NULL);
	if (ok)
		return 0;
	if (fd >= 0)
		close(fd);
	return error_set(e, EPROTO, "image: shared memory cannot be made");
}

static int objects_fill(struct eng_family *f, struct eng_proc *p, uint32_t type, const void *body, size_t len, struct error *e)
{
	uint64_t head[2];
	int fd;

	(void)p;
	if (type == IMG_OBJECT)
		return fill_object(f, body, len, e);
	if (len < sizeof(head))
		return error_set(e, EPROTO, "image: short record of shared memory");
	memcpy(head, body, sizeof(head));
	fd = object_fd(f, head[0]);
	if (fd < 0 || pwrite(fd, (const char *)body + 16, len - 16, head[1]) != (ssize_t)(len - 16))
		return error_set(e, EPROTO, "image: shared memory cannot be written");
	return 0;
}

const struct eng_res res_objects = {
	.name = "shared memory",
	.types = {IMG_OBJECT, IMG_OBJECT_PAGES},
	.dump_family = objects_dump_family,
	.fill = objects_fill,
	.finish = objects_finish,
	.resume = objects_resume,
	.hollow = objects_hollow,
	.save = objects_save,
	.restore = objects_restore,
	.release = objects_free,
};
