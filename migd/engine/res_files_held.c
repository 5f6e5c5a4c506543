/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptions of files that a command of `mig run` has in common with who started it (mostly a shell that waits for it): what one of them reads or writes, the other goes on behind it.
 * Over there it is another description; the hollow keeps the very one (as of a relayed pipe), and the two offsets are one by these rules:
 *
 *	leaving		it is noted, with a process and number that has it at home, which is its name from then on; the keeper of the nest has a duplicate of its own, from which
 *			the offset can be read when all of the family have closed theirs, and after a migd
 *	away		before an end is told, and each second, the offset is told if it has changed (ENG_OFFSET); the home sets it, if nobody there has moved it meanwhile
 *	tail		standard output or error, at the end of its file: others may write meanwhile, who are not asked to wait (a shell that goes on, other commands in the background).
 *			So all of them append: at home the description itself, by O_APPEND, away by spritefs, which can tell who has sought elsewhere (fs/hand.h, SPRITE_IOC_TAIL). The signal
 *			of F_SETSIG, of which nobody else makes use on a file, marks it: O_APPEND is ours, to be taken back by the last family that has it away
 *	coming home	the process gets the very description again, at the offset that it has had away
 *
 * What two move at once that is no tail is not to be had: who reads, or writes into the middle of, a file beside the guest gets where he himself has got to.
 *
 * held_lock: the list, and the flags of what is in it. Each entry is its family's actor's.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/log.h"
#include "fs/hand.h"
#include "migd/engine/nest.h"
#include "migd/engine/res_files.h"

enum { MARK = 64, AT_END = -1, UNTOLD = -2 }; /* SIGRTMAX of the kernel */

struct held {
	struct held *next;
	const struct eng_family *f;
	int fd;	    /* ours */
	int keeper; /* guest host: its number there, -1: it has none */
	pid_t pid;  /* a holder at home, and its number */
	int num;
	bool tail;
	int64_t pos; /* as the other side knows it; AT_END; UNTOLD */
};
static pthread_mutex_t held_lock = PTHREAD_MUTEX_INITIALIZER;
static struct held *first;

/* owns fd, if it succeeds */
static struct held *held_add(const struct eng_family *f, int fd, pid_t pid, int num, bool tail, int64_t pos)
{
	struct held *h = calloc(1, sizeof(*h));

	if (!h)
		return NULL;
	*h = (struct held){.f = f, .fd = fd, .keeper = -1, .pid = pid, .num = num, .tail = tail, .pos = pos};
	pthread_mutex_lock(&held_lock);
	h->next = first;
	first = h;
	pthread_mutex_unlock(&held_lock);
	return h;
}

static struct held *held_next(const struct eng_family *f, struct held *after)
{
	struct held *h;

	pthread_mutex_lock(&held_lock);
	for (h = after ? after->next : first; h && h->f != f; h = h->next)
		;
	pthread_mutex_unlock(&held_lock);
	return h;
}

static struct held *by_name(const struct eng_family *f, pid_t pid, int num)
{
	struct held *h = NULL;

	while ((h = held_next(f, h)) && (h->pid != pid || h->num != num))
		;
	return h;
}

static struct held *by_descriptor(const struct eng_family *f, pid_t pid, int num)
{
	struct held *h = NULL;

	while ((h = held_next(f, h)) && !res_same(getpid(), pid, KCMP_FILE, h->fd, num))
		;
	return h;
}

/* ---- leaving ---------------------------------------------------------------------------------------- */

static bool has_offset(const struct file_desc *d)
{
	return (d->kind == &file_regular || d->kind == &file_directory || d->kind == &file_unlinked) && !(d->look.flags & O_PATH);
}

static bool writes(uint32_t flags)
{
	return (flags & O_ACCMODE) != O_RDONLY;
}

static bool is_output(const struct file_look *l)
{
	for (int num = 1; num <= 2; num++)
		if (l->num == num || res_same(l->pid, l->pid, KCMP_FILE, l->num, num))
			return true;
	return false;
}

/* Who shares it may be writing: lseek(2) waits for a write(2) of his (f_pos_lock), fstat(2) does not. */
static bool at_end(int fd)
{
	for (int i = 0; i < 1000; i++) {
		off_t before = lseek(fd, 0, SEEK_CUR);
		struct stat st;

		if (before < 0 || fstat(fd, &st) < 0)
			return false;
		if (lseek(fd, 0, SEEK_CUR) == before)
			return before == st.st_size;
	}
	return true; /* that is where it grows */
}

/* Is it to be a tail? If another family's has put O_APPEND there, the program has not. */
static int tail_begin(struct held *h, struct file_desc *d)
{
	int flags = fcntl(h->fd, F_GETFL), r = 0;
	bool marked = fcntl(h->fd, F_GETSIG) == MARK;

	if (flags < 0)
		return -errno;
	if (marked || !(flags & O_APPEND))
		d->look.flags &= ~O_APPEND;
	if (!marked && (d->kind != &file_regular || !writes(flags) || flags & O_APPEND || !is_output(&d->look) || !at_end(h->fd)))
		return 0;
	if (fcntl(h->fd, F_SETSIG, MARK) < 0 || fcntl(h->fd, F_SETFL, flags | O_APPEND) < 0)
		r = -errno;
	h->tail = true;
	h->pos = AT_END;
	return r;
}

/* The description of d is another process's too. */
static int hold(struct eng_family *f, struct file_desc *d, struct error *e)
{
	int fd = eng_fd_get(d->holder, d->look.num), r = 0;
	struct held *h;

	if (fd < 0)
		return fd;
	if (d->kind == &file_unlinked && writes(d->look.flags)) { /* over there it would be another file */
		close(fd);
		return error_set(e, EOPNOTSUPP, "fd %d: %s has been unlinked and is open in another process too, which stays: give it a file with a name", d->look.num, d->look.link);
	}
	h = held_add(f, fd, d->holder->vpid, d->look.num, false, d->look.pos);
	if (!h) {
		close(fd);
		return -ENOMEM;
	}
	pthread_mutex_lock(&held_lock); /* after the others can see it: the last of them takes O_APPEND back */
	r = tail_begin(h, d);
	pthread_mutex_unlock(&held_lock);
	return r;
}

int held_begin(struct eng_family *f, struct error *e)
{
	struct eng_proc *p = eng_proc_at(f, 0);
	struct eng_probe look = {.pid = p->pid, .root = p->pid, .dir = p->dir, .family = &p->pid, .nfamily = 1};
	struct outside o = {0};
	int r = 0;

	if (!f->just_begun || held_next(f, NULL))
		return 0;
	for (struct file_desc *d = files_first(f); d && r == 0; d = d->next)
		if (has_offset(d))
			r = outside_add(&o, &d->look, OUTSIDE_NOT_OFFSET);
	if (r == 0)
		outside_find(&look, &o);
	for (struct file_desc *d = files_first(f); d && r == 0; d = d->next)
		if (has_offset(d) && outside_has(&o, d->look.num))
			r = hold(f, d, e);
	outside_free(&o);
	return r;
}

static int tail_at(int fd, uint64_t at, int64_t *stands)
{
	if (ioctl(fd, SPRITE_IOC_TAIL, &at) < 0)
		return -errno;
	*stands = (int64_t)at;
	return 0;
}

/* Where a guest's description stands: AT_END: where it would append. */
static int64_t offset_of(const struct held *h)
{
	int64_t pos = lseek(h->fd, 0, SEEK_CUR), stands = 0;

	return h->tail && tail_at(h->fd, UINT64_MAX, &stands) == 0 && stands == pos ? AT_END : pos;
}

void held_dump(struct eng_family *f, struct file_desc *d, Sprite__Img__File *m)
{
	struct held *h = by_descriptor(f, d->look.pid, d->look.num);
	int64_t stands = d->look.pos;

	if (!h)
		return;
	m->held_pid = h->pid;
	m->held_num = h->num;
	m->tail = h->tail && (f->home || tail_at(h->fd, UINT64_MAX, &stands) == 0);
	m->stands = (uint64_t)stands;
}

/* ---- away ------------------------------------------------------------------------------------------- */

int held_arrive(struct eng_family *f, const struct file_desc *d)
{
	const Sprite__Img__File *m = d->image;
	bool tail = m->tail;
	int64_t stands = 0;
	struct held *h;
	int fd;

	if (!m->held_pid || f->home || by_name(f, m->held_pid, m->held_num))
		return 0;
	if (tail && tail_at(d->fd, m->stands, &stands) < 0) { /* a spritefs of before an upgrade */
		log_warn("engine: what others write to the end of %s meanwhile may be written over", m->path);
		tail = false;
	}
	fd = fcntl(d->fd, F_DUPFD_CLOEXEC, 0);
	h = fd < 0 ? NULL : held_add(f, fd, m->held_pid, m->held_num, tail, tail && (uint64_t)m->pos == m->stands ? AT_END : m->pos);
	if (!h) {
		if (fd >= 0)
			close(fd);
		return -ENOMEM;
	}
	h->keeper = f->nest ? nest_keep(f, fd) : -1;
	return 0;
}

void held_tell(struct eng_family *f)
{
	for (struct held *h = held_next(f, NULL); h; h = held_next(f, h)) {
		int64_t pos = offset_of(h);

		if (pos == h->pos)
			continue;
		h->pos = pos;
		event_push(f, &(struct eng_event){.kind = ENG_OFFSET, .pid = h->pid, .num = h->num, .offset = pos});
	}
}

void eng_hollow_offset(struct eng_family *f, pid_t pid, int num, int64_t pos)
{
	struct held *h = by_name(f, pid, num);
	int64_t now = h ? lseek(h->fd, 0, SEEK_CUR) : 0;
	bool moved;

	if (!h || pos < AT_END || pos == h->pos)
		return;
	moved = !h->tail && now != h->pos;
	h->pos = pos;
	if (h->tail) /* it is set when it ends: until then others append */
		return;
	if (moved)
		log_warn("engine: process %d: the offset of its descriptor %d is moved here and away at once, to %lld and %lld", pid, num, (long long)now, (long long)pos);
	if (!moved || (pos > now && writes((uint32_t)fcntl(h->fd, F_GETFL))))
		lseek(h->fd, pos, SEEK_SET);
}

/* ---- home again ------------------------------------------------------------------------------------- */

bool held_stays(struct eng_proc *p, const struct file_look *l)
{
	return by_descriptor(p->family, l->pid, l->num);
}

int held_take(struct eng_family *f, const Sprite__Img__File *m)
{
	struct held *h = m->held_pid && f->home && !f->adopted ? by_name(f, m->held_pid, m->held_num) : NULL;

	if (!h)
		return -ENOENT;
	h->pos = h->tail && m->tail && (uint64_t)m->pos == m->stands ? AT_END : m->pos;
	return fcntl(h->fd, F_DUPFD_CLOEXEC, 0);
}

/* With held_lock. Nobody appends any more but who says so: the offset is where the last has left it. */
static void tail_end(const struct held *h)
{
	for (const struct held *x = first; x; x = x->next)
		if (x->tail && x != h && res_same(getpid(), getpid(), KCMP_FILE, h->fd, x->fd))
			return;
	lseek(h->fd, h->pos == AT_END ? 0 : h->pos, h->pos == AT_END ? SEEK_END : SEEK_SET);
	fcntl(h->fd, F_SETFL, fcntl(h->fd, F_GETFL) & ~O_APPEND);
	fcntl(h->fd, F_SETSIG, 0);
}

void held_drop(struct eng_family *f)
{
	pthread_mutex_lock(&held_lock);
	for (struct held **at = &first; *at;) {
		struct held *h = *at;

		if (h->f != f) {
			at = &h->next;
			continue;
		}
		if (h->tail && f->home)
			tail_end(h);
		*at = h->next;
		close(h->fd);
		free(h);
	}
	pthread_mutex_unlock(&held_lock);
}

void eng_hollow_over(struct eng_family *f)
{
	if (!f->nest)
		held_drop(f);
}

/* ---- a migd that comes after us: "held PID NUM TAIL POS KEEPER" -------------------------------------- */

void held_save(const struct eng_family *f, FILE *o)
{
	for (const struct held *h = held_next(f, NULL); h; h = held_next(f, (struct held *)h))
		fprintf(o, "held %d %d %d %lld %d\n", h->pid, h->num, h->tail, (long long)h->pos, h->keeper);
}

int held_restore(struct eng_family *f, const char *line)
{
	struct eng_proc *p;
	int pid, num, tail, keeper, fd;
	struct held *h;
	long long pos;

	if (sscanf(line, "held %d %d %d %lld %d", &pid, &num, &tail, &pos, &keeper) != 5)
		return 0;
	p = f->nest ? NULL : eng_proc_by_vpid(f, pid);
	fd = f->nest ? (int)syscall(SYS_pidfd_getfd, f->nest->pidfd, keeper, 0) : p && !p->core->dead ? eng_fd_get(p, num) : -ESRCH;
	if (f->nest) /* what was to be told may have died with who was at it */
		pos = UNTOLD;
	else if (!tail && fd >= 0) /* it was told more since this was written */
		pos = lseek(fd, 0, SEEK_CUR);
	h = fd < 0 ? NULL : held_add(f, fd, pid, num, tail, pos);
	if (h)
		h->keeper = keeper;
	else
		log_warn("engine: process %d: its descriptor %d cannot be found again: its offset stays what was told last", pid, num);
	return 1;
}
