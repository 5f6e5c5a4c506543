/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files of /sprite that a path does not lead to again as they are: with locks, unlinked and too big to be carried, or handed over before. Their server gives the open
 * file to the other node (fs/hand.h): both have it, and its locks, until one of them closes.
 *
 *	dump	SPRITE_IOC_LIST, SPRITE_IOC_OFFER on a duplicate that is closed at once: the offer lives with the program's own descriptor; if the move comes to
 *		nothing it just goes on
 *	open	the offered name is looked up, by us, and the file opened by its own path if that still leads to it (so that /proc shows it), else by that name;
 *		flock and OFD locks are taken: nobody can be in the way
 *	each	fcntl locks, by the processes whose they are
 *
 * A home's file that has lost its name goes from guest host to guest host in the same way (res_file_path.c; file_offer(), file_claim()).
 *
 * Commit: the source closes. Abort: we close. A lock that somebody waits for is no lock yet: that call is made again over there.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "fs/hand.h"
#include "migd/engine/core.h"
#include "migd/engine/res_files.h"

#define MOUNT "/sprite/"
enum { CARRIED_MAX = 64 << 20 }; /* bytes of a file without a name that res_file_memory.c carries */

static int lock_place(const struct sprite_lock *l, struct flock *out)
{
	*out = (struct flock){.l_type = (short)l->type, .l_whence = SEEK_SET, .l_start = (off_t)l->start, .l_len = l->end >= INT64_MAX ? 0 : (off_t)(l->end - l->start + 1)};
	return l->start > INT64_MAX || l->end < l->start || (l->type != F_RDLCK && l->type != F_WRLCK) ? -EBADMSG : 0;
}

/* The locks on an open file of the whole tree; -ENOTTY: it is none, -E2BIG: too many. */
static int locks_of(int fd, struct sprite_locks *out)
{
	struct flock self = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = SPRITE_OWNER_AT, .l_len = 1};

	if (fcntl(fd, F_OFD_GETLK, &self) < 0 || ioctl(fd, SPRITE_IOC_LIST, out) < 0)
		return errno == E2BIG ? -E2BIG : -ENOTTY;
	return out->flags & SPRITE_LIST_WHOLE ? 0 : -ENOTTY;
}

static int look_fd(const struct file_look *l)
{
	_cleanup_close_ int pidfd = syscall(SYS_pidfd_open, l->pid, 0);

	return pidfd < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, pidfd, l->num, 0);
}

bool file_handed_before(const char *link)
{
	const char *name = strrchr(link, '/');

	return name && !strncmp(name + 1, HAND_PREFIX, strlen(HAND_PREFIX));
}

bool file_is_handed(const struct file_look *l)
{
	_cleanup_free_ struct sprite_locks *locks = NULL;
	_cleanup_close_ int fd = -1;
	bool big = (uint64_t)l->st.st_blocks * 512 > CARRIED_MAX;
	int r;

	if (l->flags & O_PATH || !S_ISREG(l->st.st_mode) || *l->link != '/' || major(l->st.st_dev)) /* FUSE has no device */
		return false;
	fd = look_fd(l);
	locks = malloc(sizeof *locks);
	if (fd < 0 || !locks)
		return false;
	if (ioctl(fd, SPRITE_IOC_LIST, locks) < 0)
		return errno == E2BIG;
	if (!(locks->flags & SPRITE_LIST_LOCKED) && !file_handed_before(l->link) && (l->st.st_nlink || !big))
		return false;
	r = locks_of(fd, locks);
	if (r)
		return r == -E2BIG;
	return locks->n || file_handed_before(l->link) || (!l->st.st_nlink && (locks->flags & SPRITE_LIST_LOCKED || big));
}

static bool in_family(const struct eng_probe *p, pid_t pid)
{
	for (size_t i = 0; i < p->nfamily; i++)
		if (p->family[i] == pid)
			return true;
	return pid == p->pid;
}

static void handed_probe(struct eng_probe *p, const struct file_look *l)
{
	_cleanup_free_ struct sprite_locks *locks = malloc(sizeof *locks);
	_cleanup_close_ int fd = look_fd(l);
	int r = fd < 0 || !locks ? -ENOTTY : locks_of(fd, locks);

	if (r == -E2BIG)
		file_reason(p, l, "more than %d locks held on %s: release some first", SPRITE_LOCKS_MAX, l->link);
	for (uint32_t i = 0; !r && i < locks->n; i++)
		if (locks->lock[i].kind == SPRITE_POSIX && !in_family(p, locks->lock[i].pid)) {
			file_reason(p, l, "fcntl lock held on %s by process %d, which stays: release it first", l->link, locks->lock[i].pid);
			return;
		}
}

static int handed_outside(const struct file_look *l)
{
	(void)l;
	return OUTSIDE_NOT_OFFSET; /* its locks are shared as well */
}

/* The family's number of a process of this host, 0: none of it. */
static pid_t number_of(struct eng_family *f, pid_t pid)
{
	for (size_t i = 0; i < eng_nprocs(f); i++)
		if (eng_proc_at(f, i)->pid == pid)
			return eng_proc_at(f, i)->vpid;
	return 0;
}

static int lock_put(struct eng_family *f, Sprite__Img__File *m, const struct sprite_lock *l)
{
	Sprite__Img__Lock *x = malloc(sizeof *x);

	if (!x)
		return -ENOMEM;
	sprite__img__lock__init(x);
	x->kind = l->kind;
	x->type = l->type;
	x->start = l->start;
	x->end = l->end;
	m->lock[m->n_lock++] = x;
	if (l->kind == SPRITE_POSIX && !(x->pid = number_of(f, l->pid)))
		return -ENOTSUP;
	return 0;
}

/* Does some process of the family share memory with that file? */
static bool is_mapped(struct eng_family *f, const struct stat *st)
{
	for (size_t i = 0; i < eng_nprocs(f); i++) {
		_cleanup_free_ char *maps = eng_proc_read(eng_proc_at(f, i)->dir, "maps", NULL);
		char how[5];
		unsigned long long ino;

		for (char *line = maps; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
			if (sscanf(line, "%*x-%*x %4s %*x %*x:%*x %llu", how, &ino) == 2 && how[3] == 's' && ino == st->st_ino)
				return true;
	}
	return false;
}

/* A file without a name goes in one way or the other: carried (res_file_memory.c) by one description and handed over by another it would be two files; so all of them are
 * handed over as soon as one has a lock, and one that a map shows too cannot be. */
static int in_one_piece(struct eng_family *f, struct file_desc *d, struct error *e)
{
	const struct stat *st = &d->look.st;

	if (st->st_nlink)
		return 0;
	for (struct file_desc *x = files_first(f); x; x = x->next)
		if (x->kind != &file_handed && x->look.st.st_ino == st->st_ino && x->look.st.st_dev == st->st_dev && !(x->look.flags & O_PATH))
			return error_set(e, ENOTSUP, "lock held on %s, which has been unlinked and is open in another way too: release it first", d->look.link);
	return is_mapped(f, st) ? error_set(e, ENOTSUP, "lock held on %s, which has been unlinked and is mapped: release it first", d->look.link) : 0;
}

static int handed_dump(struct eng_family *f, struct file_desc *d, Sprite__Img__File *m, struct error *e)
{
	_cleanup_free_ struct sprite_locks *locks = malloc(sizeof *locks);
	_cleanup_close_ int fd = eng_fd_get(d->holder, d->look.num);
	struct sprite_hand h = {.pos = (uint64_t)m->pos};
	int r = !locks ? -ENOMEM : fd < 0 ? fd : locks_of(fd, locks);

	if (r < 0)
		return error_set(e, -r, "locks on %s: %s", m->path, strerror(-r));
	r = in_one_piece(f, d, e);
	if (r < 0)
		return r;
	if (ioctl(fd, SPRITE_IOC_OFFER, &h) < 0)
		return error_set(e, errno, "%s cannot be handed over: %s", m->path, strerror(errno));
	h.name[sizeof h.name - 1] = 0;
	m->hand = strdup(h.name);
	m->lock = calloc(locks->n + 1, sizeof *m->lock);
	r = m->hand && m->lock ? 0 : -ENOMEM;
	for (uint32_t i = 0; !r && i < locks->n; i++)
		r = lock_put(f, m, &locks->lock[i]);
	return r == -ENOTSUP ? error_set(e, ENOTSUP, "fcntl lock held on %s by a process that stays: release it first", m->path) : r;
}

/* ---- over there ------------------------------------------------------------------------------------- */

static bool same(const struct stat *a, const struct stat *b)
{
	return a->st_ino == b->st_ino && a->st_dev == b->st_dev && S_ISREG(a->st_mode);
}

/* Is it ".sprite-hand-TOKEN", perhaps below a prefix? It comes from another host. */
static bool is_name(const char *hand)
{
	const char *last = strrchr(hand, '/');

	last = last ? last + 1 : hand;
	return *hand != '/' && !strstr(hand, "..") && !strncmp(last, HAND_PREFIX, strlen(HAND_PREFIX)) && strlen(last) == strlen(HAND_PREFIX) + 2 * HAND_TOKEN;
}

/*
 * Looking the name up claims the file; the open(2) that follows in this thread, by whatever path leads to it, takes what was claimed. We are root: nothing else
 * than what was handed over may be opened here.
 */
static int claim(const char *mount, const Sprite__Img__File *m, struct error *e)
{
	int flags = (int)(m->flags & (O_ACCMODE | O_APPEND | O_SYNC | O_DSYNC)) | O_NOCTTY | O_NONBLOCK | O_CLOEXEC, fd = -1;
	_cleanup_free_ char *name = NULL;
	struct stat given, there, got;

	if (!is_name(m->hand))
		return error_set(e, EBADMSG, "image: \"%s\" is no name of an open file", m->hand);
	if (asprintf(&name, "%s%s", mount, m->hand) < 0)
		return -ENOMEM;
	if (stat(name, &given) < 0)
		return error_set(e, errno, "%s was handed over and cannot be taken: %s", m->path, strerror(errno));
	if (!strncmp(m->path, MOUNT, strlen(MOUNT)) && !file_handed_before(m->path) && stat(m->path, &there) == 0 && same(&given, &there)) {
		fd = open(m->path, flags | O_NOFOLLOW);
		if (fd >= 0 && (fstat(fd, &got) < 0 || !same(&given, &got))) { /* renamed in between */
			close(fd);
			fd = -1;
		}
	}
	if (fd < 0)
		fd = open(name, flags);
	if (fd < 0)
		return error_set(e, errno, "%s was handed over and cannot be opened: %s", m->path, strerror(errno));
	if (fstat(fd, &got) == 0 && S_ISREG(got.st_mode) && res_same_ino(got.st_ino, m->ino))
		return fd;
	close(fd);
	return error_set(e, ESTALE, "%s is another file there", m->path);
}

int file_claim(struct eng_proc *p, const Sprite__Img__File *m, struct error *e)
{
	char root[32];

	snprintf(root, sizeof root, "/proc/%d/root/", p->pid);
	return claim(root, m, e);
}

char *file_offer(struct file_desc *d)
{
	_cleanup_close_ int fd = eng_fd_get(d->holder, d->look.num);
	struct sprite_hand h = {.pos = (uint64_t)d->look.pos};

	if (fd < 0 || ioctl(fd, SPRITE_IOC_OFFER, &h) < 0)
		return NULL;
	h.name[sizeof h.name - 1] = 0;
	return strdup(h.name);
}

static struct sprite_lock lock_of(const Sprite__Img__Lock *l)
{
	return (struct sprite_lock){.start = l->start, .end = l->end, .kind = l->kind, .type = l->type, .pid = l->pid};
}

static int lock_again(int fd, const Sprite__Img__Lock *m)
{
	struct sprite_lock l = lock_of(m);
	struct flock place;
	int r = lock_place(&l, &place);

	if (r < 0 || l.kind == SPRITE_POSIX)
		return r;
	if (l.kind == SPRITE_FLOCK)
		r = flock(fd, (l.type == F_WRLCK ? LOCK_EX : LOCK_SH) | LOCK_NB);
	else if (l.kind == SPRITE_OFD)
		r = fcntl(fd, F_OFD_SETLK, &place);
	else
		return -EBADMSG;
	return r < 0 ? -errno : 0;
}

static int handed_open(struct eng_family *f, struct eng_proc *p, struct file_desc *d, struct error *e)
{
	const Sprite__Img__File *m = d->image;
	int fd, r = 0;

	(void)f;
	(void)p;
	if (!m->hand || !*m->hand || !m->path)
		return res_bad_record(e, "files handed over");
	fd = claim(MOUNT, m, e);
	if (fd < 0)
		return fd;
	for (size_t i = 0; !r && i < m->n_lock; i++)
		r = lock_again(fd, m->lock[i]);
	if (!r)
		return fd;
	close(fd);
	return error_set(e, -r, "a lock on %s cannot be taken along: %s", m->path, strerror(-r));
}

static int handed_each(struct eng_proc *p, struct file_desc *d, int num, struct error *e)
{
	const Sprite__Img__File *m = d->image;

	for (size_t i = 0; i < m->n_lock; i++) {
		struct sprite_lock l = lock_of(m->lock[i]);
		struct flock place;
		size_t mark = p->core->scratch;
		uint64_t at;
		long r;

		if (l.kind != SPRITE_POSIX || l.pid != p->vpid)
			continue;
		r = lock_place(&l, &place);
		at = r ? 0 : eng_scratch_put(p, &place, sizeof place);
		if (!r)
			r = at ? ENG_SYS(p->threads[0], SYS_fcntl, (uint64_t)num, F_SETLK, at) : -ENOMEM;
		p->core->scratch = mark;
		if (r < 0)
			return error_set(e, (int)-r, "a lock on %s cannot be taken along: %s", m->path, strerror((int)-r));
	}
	return 0;
}

const struct file_kind file_handed = {.name = "handed", .is = file_is_handed, .probe = handed_probe, .outside = handed_outside, .dump = handed_dump, .open = handed_open, .each = handed_each};
