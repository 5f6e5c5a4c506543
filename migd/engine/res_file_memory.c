/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files without a name: memfds, and regular files that have been unlinked while open (temporary files, here documents); and objects of /dev/shm. Their content travels: it is an object
 * of the family like shared memory (objects.c), so that a descriptor and a map of one memfd stay one thing. Over there each is a memfd.
 *
 * A home's file that has been removed while its process was away is at home still, in the hands of the server that has it open for the guest: there it is that file itself.
 *
 * An unlinked file that somebody outside of the family has open too is refused, and so is a big one: it would fill the guest host's memory.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "migd/engine/adopt.h"
#include "migd/engine/res_files.h"
#include "migd/engine/res_memory.h"

enum { UNLINKED_MAX = 64 << 20 };

static bool is_memfd(const struct file_look *l)
{
	return !strncmp(l->link, "/memfd:", 7) && S_ISREG(l->st.st_mode);
}

static bool is_unlinked(const struct file_look *l)
{
	return S_ISREG(l->st.st_mode) && !l->st.st_nlink && *l->link == '/' && !(l->flags & O_PATH) && strncmp(l->link, "/proc/", 6) &&
	       strncmp(l->link, "/sys/", 5) && strncmp(l->link, "/secretmem", 10) && strncmp(l->link, "/SYSV", 5);
}

static bool too_big(const struct file_look *l)
{
	return (uint64_t)l->st.st_blocks * 512 > UNLINKED_MAX;
}

/* Its name goes along too (objects.c). */
static bool is_shm(const struct file_look *l)
{
	return S_ISREG(l->st.st_mode) && l->st.st_nlink && !(l->flags & O_PATH) && !strncmp(l->link, "/dev/shm/", 9);
}

static int memory_outside(const struct file_look *l)
{
	(void)l;
	return OUTSIDE_NOT_FILE;
}

static void memory_probe(struct eng_probe *p, const struct file_look *l)
{
	if (eng_field(l->info, "lock"))
		file_reason(p, l, "lock held on %s: release it first", l->link);
	if (is_unlinked(l) && too_big(l) && !(p->goes_home && strncmp(l->link, "/sprite/", 8)))
		file_reason(p, l, "%s has been unlinked and holds %llu MiB, more than the %d that can be carried: close it first", l->link,
			    (unsigned long long)l->st.st_blocks >> 11, UNLINKED_MAX >> 20);
}

static void shm_probe(struct eng_probe *p, const struct file_look *l)
{
	char file[32];
	pid_t who;

	snprintf(file, sizeof file, "fd/%d", l->num);
	object_probe_shm(p, file);
	who = p->nest ? 0 : res_mapper_outside(p, major(l->st.st_dev), minor(l->st.st_dev), l->st.st_ino);
	if (who)
		file_reason(p, l, "%s is mapped by process %d too, which stays: move that one, or close it first", l->link, who);
	memory_probe(p, l);
}

static int memory_dump(struct eng_family *f, struct file_desc *d, Sprite__Img__File *m, struct error *e)
{
	char name[32];

	if (d->kind == &file_unlinked && too_big(&d->look) && f->hooks.goes_home) /* it is there, or it is nowhere */
		return 0;
	snprintf(name, sizeof name, "fd/%d", d->look.num);
	/* Opened anew: the descriptor itself may be for writing only, and its offset is not ours to move. */
	int fd = openat(d->look.dir, name, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return error_set(e, errno, "%s cannot be read: %s", d->look.link, strerror(errno));
	int seals = fcntl(fd, F_GET_SEALS);

	m->seals = seals > 0 ? seals : 0;
	m->uid = d->look.st.st_uid;
	m->gid = d->look.st.st_gid;
	return object_put(d->holder, d->out, fd, d->look.link, &m->object);
}

static int memory_open(struct eng_family *f, struct eng_proc *p, struct file_desc *d, struct error *e)
{
	const Sprite__Img__File *m = d->image;
	int object = object_fd(f, m->object), same = d->kind == &file_unlinked ? res_by_inode(p, m->path, m->ino, m->mode, file_open_flags(m->flags)) : -ENOENT;
	char name[40];

	if (same >= 0)
		return same;
	if (object < 0)
		return res_bad_record(e, "files without a name");
	if (!adopt_may(f, m->uid, m->gid, NULL, 0))
		return error_set(e, EPERM, "%s is of a user or a group that process %d is not here", m->path, p->vpid);
	if (d->kind != &file_shm && (fchmod(object, m->mode & 07777) < 0 || fchown(object, m->uid, m->gid) < 0))
		return error_set(e, errno, "%s: %s", m->path, strerror(errno));
	snprintf(name, sizeof name, "/proc/self/fd/%d", object);
	int fd = open(name, (file_open_flags(m->flags) & ~O_DIRECT) | O_CLOEXEC);

	return fd < 0 ? error_set(e, errno, "%s: %s", m->path, strerror(errno)) : fd;
}

static int memory_finish_it(struct eng_proc *p, struct file_desc *d, int num, struct error *e)
{
	if (d->image->seals && fcntl(object_fd(p->family, d->image->object), F_ADD_SEALS, d->image->seals) < 0 && errno != EPERM)
		return error_set(e, errno, "fd %d: seals of %s: %s", num, d->image->path, strerror(errno));
	return 0;
}

const struct file_kind file_memfd = {.name = "memfd", .is = is_memfd, .probe = memory_probe, .outside = memory_outside, .dump = memory_dump, .open = memory_open, .finish = memory_finish_it};
const struct file_kind file_unlinked = {.name = "unlinked", .is = is_unlinked, .probe = memory_probe, .outside = memory_outside, .dump = memory_dump, .open = memory_open};
const struct file_kind file_shm = {.name = "shm", .is = is_shm, .probe = shm_probe, .outside = memory_outside, .dump = memory_dump, .open = memory_open};
