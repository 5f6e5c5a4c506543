/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a process has of the file tree apart from descriptors: working directory, umask; a root of its own is refused (the home's root view is the root of every guest).
 * Read: /proc/PID/cwd, status. Restored by fchdir in the vessel on what it opened as the family's user, with a check that it is the same directory. At home a hollow has
 * stayed in its own, so that no change of names there keeps anybody away (go_home()).
 */
#include "migd/engine/res_util.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "migd/engine/inject.h"
#include "migd/engine/procfs.h"
#include "rpc/image_res.pb-c.h"

const struct eng_res res_fs;

/* Directory of the other host itself, or of nothing: cannot be in the home's root view. */
static const char *cwd_refused(const char *path, const struct stat *st)
{
	if (!st->st_nlink)
		return "has been removed: cd elsewhere";
	if (!strncmp(path, "/proc/", 6) || !strcmp(path, "/proc") || !strncmp(path, "/sys/", 5) || !strcmp(path, "/sys"))
		return "belongs to this host alone: cd elsewhere";
	if (!strncmp(path, "/dev/", 5) && strcmp(path, "/dev/"))
		return "belongs to this host alone: cd elsewhere";
	return NULL;
}

/* At home one may be in a directory that has been removed, and comes home to it; elsewhere there is none. */
static bool homes_removed(const char *cwd, const struct stat *st)
{
	return !st->st_nlink && strncmp(cwd, "/sprite/", 8);
}

/* A thread that ends has none of the two any more, and no directory to show. */
static bool thread_apart(const struct eng_probe *p, pid_t tid)
{
	char name[48], link[16];

	if (tid == p->pid)
		return false;
	snprintf(name, sizeof name, "task/%d/cwd", tid);
	for (int i = 0; i < 5; i++) {
		if (syscall(SYS_kcmp, p->pid, tid, KCMP_FS, 0, 0) <= 0 && syscall(SYS_kcmp, p->pid, tid, KCMP_FILES, 0, 0) <= 0)
			return false;
		if (readlinkat(p->dir, name, link, sizeof link) < 0)
			return false;
		nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
	}
	return !res_ended(p->pid);
}

static int fs_probe(struct eng_probe *p)
{
	char root[PATH_MAX], cwd[PATH_MAX];
	struct stat st, a, b;
	_cleanup_free_ pid_t *task = NULL;
	int r = res_readlink(p->dir, "root", root, sizeof root);

	if (r < 0 || (r = res_readlink(p->dir, "cwd", cwd, sizeof cwd)) < 0)
		return r == -ESRCH || r == -ENOENT ? 0 : r;
	/* A guest's root is a mount of its own: what counts is that it is the one that its family's first process has. */
	char name[40];

	snprintf(name, sizeof name, "/proc/%d/root/.", p->root);
	if (strcmp(root, "/") || (!fstatat(p->dir, "root/.", &a, 0) && !stat(name, &b) && (a.st_dev != b.st_dev || a.st_ino != b.st_ino)))
		eng_reason(p, "root directory %s is not the system's (chroot): start it without chroot", root);
	if (!fstatat(p->dir, "cwd/.", &st, 0)) {
		res_undelete(p->dir, cwd, &st);
		const char *why = cwd_refused(cwd, &st);

		if (why && !(p->goes_home && homes_removed(cwd, &st)))
			eng_reason(p, "working directory %s %s", cwd, why);
		else if (!res_may(p->dir, cwd, X_OK) && !p->goes_home) /* looked at all the same: res_hold() need not ask its home then, in the freeze */
			eng_reason(p, "working directory %s was entered with rights that the process no longer has: cd elsewhere", cwd);
	}
	ssize_t n = procfs_tasks(p->pid, &task);

	for (ssize_t i = 0; i < n; i++)
		if (thread_apart(p, task[i])) {
			eng_reason(p, "thread %d has descriptors or a working directory of its own (unshare): cannot be carried", task[i]);
			break;
		}
	for (size_t i = 0; i < p->nfamily; i++)
		if (p->family[i] != p->pid && p->family[i] < p->pid &&
		    (res_shares(p->pid, p->family[i], KCMP_FS) || res_shares(p->pid, p->family[i], KCMP_FILES)))
			eng_reason(p, "shares descriptors or working directory with process %d (clone): cannot be carried", p->family[i]);
	return 0;
}

struct fs_state { /* ->res[] */
	Sprite__Img__Fs *image, *ahead; /* destination; ahead: it has been there already */
	int held;			/* source: what res_hold() gave */
	uint64_t came_to;		/* inode */
};

static struct fs_state *state_of(struct eng_proc *p)
{
	void **s = &p->res[eng_res_index(&res_fs)];

	if (!*s && (*s = calloc(1, sizeof(struct fs_state))))
		((struct fs_state *)*s)->held = -1;
	return *s;
}

static void hold(struct fs_state *s, int fd)
{
	if (s->held >= 0)
		close(s->held);
	s->held = fd;
}

static void record_free(Sprite__Img__Fs **m)
{
	if (*m)
		sprite__img__fs__free_unpacked(*m, NULL);
	*m = NULL;
}

static int put(struct eng_proc *p, uint32_t type, struct eng_image *out, struct error *e)
{
	Sprite__Img__Fs m = SPRITE__IMG__FS__INIT;
	char cwd[PATH_MAX];
	struct stat st;
	ssize_t r = res_readlink(p->dir, "cwd", cwd, sizeof cwd);
	_cleanup_free_ char *status = eng_proc_read(p->dir, "status", NULL);

	if (r < 0)
		return error_set(e, -r, "working directory of %d: %s", p->vpid, strerror(-r));
	bool home = p->family->hooks.goes_home;
	int err = fstatat(p->dir, "cwd/.", &st, 0) < 0 ? errno : 0;

	if (home && (err == ESTALE || err == ENOENT)) { /* removed there, and nobody else is in it */
		st = (struct stat){.st_mode = S_IFDIR};
		err = 0;
	}
	if (err)
		return error_set(e, err, "working directory %s of %d: %s", cwd, p->vpid, strerror(err));
	res_undelete(p->dir, cwd, &st);
	const char *why = cwd_refused(cwd, &st);

	m.removed = home && (homes_removed(cwd, &st) || (type == RES_FS && state_of(p) && state_of(p)->held == -ESTALE));
	if (why && !m.removed)
		return error_set(e, ENOENT, "working directory %s of %d %s", cwd, p->vpid, why);
	m.cwd = cwd;
	m.cwd_ino = st.st_ino;
	m.umask = res_field_u64(status, "Umask", 8, 022);
	return eng_image_put_msg(out, type, p->vpid, &m.base);
}

static int fs_dump(struct eng_proc *p, struct eng_image *out, struct error *e)
{
	struct fs_state *s = p->family->hooks.goes_home ? state_of(p) : NULL;
	struct stat st;

	if (s) /* where it came with the image its hollow is too, mostly, and the kernel here may not know yet that a name is gone */
		hold(s, res_hold(p->dir, "cwd", fstatat(p->dir, "cwd/.", &st, 0) < 0 || st.st_ino != s->came_to));
	return put(p, RES_FS, out, e);
}

int fs_put_ahead(struct eng_proc *p, struct eng_image *out)
{
	struct error guess = {0};
	int r = put(p, RES_FS_AHEAD, out, &guess);

	return r == -ENOMEM || r == -EPIPE ? r : 0; /* else the dump says why, if it is still so then */
}

static int enter(struct eng_proc *p, int num, uint32_t umask)
{
	struct eng_call c[3] = {{SYS_fchdir, {num}, 0, 0, 0}, {SYS_close, {num}, 0, 0, 0}, {SYS_umask, {umask & 0777}, 0, 0, 0}};

	return eng_batch(p->threads[0], c, 3, NULL);
}

static int go_by_name(struct eng_proc *p, const Sprite__Img__Fs *m, struct error *e)
{
	struct stat st = {0};

	eng_scratch_reset(p);
	uint64_t path = eng_scratch_put(p, m->cwd, strlen(m->cwd) + 1), at = eng_scratch_put(p, NULL, sizeof st);
	struct eng_call c[6];
	size_t n = 0, opened;

	if (!path || !at)
		return error_set(e, ENAMETOOLONG, "working directory of %d", p->vpid);
	if (p->core->caps) { /* else it is its user */
		c[n++] = (struct eng_call){SYS_setfsgid, {p->core->gid}, 0, 0, 0};
		c[n++] = (struct eng_call){SYS_setfsuid, {p->core->uid}, 0, 0, 0};
	}
	opened = n;
	c[n++] = (struct eng_call){SYS_openat, {AT_FDCWD, path, O_PATH | O_DIRECTORY | O_CLOEXEC}, 0, 1, 0};
	if (p->core->caps) {
		c[n++] = (struct eng_call){SYS_setfsuid, {0}, 0, 0, 0};
		c[n++] = (struct eng_call){SYS_setfsgid, {0}, 0, 0, 0};
	}
	c[n++] = (struct eng_call){SYS_fstat, {opened, at}, 0, 0, 1};
	int r = eng_batch(p->threads[0], c, n, NULL), num = c[opened].ret;

	if (num < 0)
		r = num;
	if (r == 0)
		r = eng_peek(p, at, &st, sizeof st);
	if (r == 0 && !res_same_ino(st.st_ino, m->cwd_ino))
		r = error_set(e, ESTALE, "working directory %s of %d is another directory there", m->cwd, p->vpid);
	if (r == 0) /* not before: at home it is in the right one perhaps */
		r = enter(p, num, m->umask);
	else if (num >= 0)
		ENG_SYS(p->threads[0], SYS_close, num);
	return r < 0 ? error_set(e, -r, "working directory %s of %d: %s", m->cwd, p->vpid, strerror(-r)) : 0;
}

static int first_free(struct eng_proc *p)
{
	char name[24];
	struct stat st;

	for (int n = 0;; n++) {
		snprintf(name, sizeof name, "fd/%d", n);
		if (fstatat(p->dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			return n;
	}
}

/*
 * At home, and the name is another one's or nobody's by now. The hollow has stayed where the program was when it left, whatever that is called, and if it is called
 * anything; where it went since, the source has opened (fs_dump).
 */
static int go_home(struct eng_proc *p, const Sprite__Img__Fs *m)
{
	struct stat st;
	long r;

	if (m->cwd_ino && fstatat(p->dir, "cwd/.", &st, 0) == 0 && res_same_ino(st.st_ino, m->cwd_ino)) {
		r = ENG_SYS(p->threads[0], SYS_umask, m->umask & 0777);
		return r < 0 ? r : 0;
	}
	_cleanup_close_ int fd = res_by_inode(p, m->cwd, m->cwd_ino, S_IFDIR, O_PATH | O_DIRECTORY);

	if (fd < 0 && m->removed)
		fd = res_removed_directory(O_PATH);
	if (fd < 0)
		return fd;
	int num = first_free(p);

	r = eng_fd_install(p, fd, num, O_CLOEXEC);
	if (r == 0)
		r = enter(p, num, m->umask);
	inject_transfer_close(p);
	return r;
}

static int go_there(struct eng_proc *p, const Sprite__Img__Fs *m, struct error *e)
{
	struct error why = {0};
	int r = go_by_name(p, m, &why);

	if (r == 0 || (!p->core->caps && go_home(p, m) == 0))
		return 0;
	return error_set(e, -r, "%s", why.text);
}

/* A path costs round trips to its home: it goes there before the freeze. Not a hollow, whose directory is seen at home. */
static void go_ahead(struct eng_proc *p, struct fs_state *s, Sprite__Img__Fs *m)
{
	struct error guess = {0};

	record_free(&s->ahead);
	if (p->core->caps && go_there(p, m, &guess) == 0)
		s->ahead = m;
	else
		record_free(&m);
}

static int fs_fill(struct eng_family *f, struct eng_proc *p, uint32_t type, const void *body, size_t len, struct error *e)
{
	struct fs_state *s = p ? state_of(p) : NULL;
	Sprite__Img__Fs *m = s ? sprite__img__fs__unpack(NULL, len, body) : NULL;

	(void)f;
	if (!m)
		return res_bad_record(e, "working directory");
	if (type == RES_FS_AHEAD) {
		go_ahead(p, s, m);
		return 0;
	}
	record_free(&s->image);
	s->image = m;
	return 0;
}

static int fs_finish(struct eng_proc *p, struct error *e)
{
	struct fs_state *s = state_of(p);
	int r = 0;

	if (!s || !s->image)
		return error_set(e, EBADMSG, "image: no working directory of process %d", p->vpid);
	const Sprite__Img__Fs *m = s->image, *a = s->ahead;

	if (!a || a->cwd_ino != m->cwd_ino || a->umask != m->umask || strcmp(a->cwd, m->cwd))
		r = go_there(p, m, e);
	s->came_to = m->cwd_ino;
	record_free(&s->image);
	record_free(&s->ahead);
	return r;
}

static int fs_hollow(struct eng_proc *p, struct error *e)
{
	(void)e;
	/* The hollow keeps its working directory: `ls -l /proc/PID/cwd`, pwdx and lsof at home show what the program has. */
	(void)p;
	return 0;
}

static void fs_thaw(struct eng_family *f)
{
	for (size_t i = 0; i < eng_nprocs(f); i++) {
		struct fs_state *s = eng_proc_at(f, i)->res[eng_res_index(&res_fs)];

		if (s)
			hold(s, -1);
	}
}

static void fs_release(struct eng_family *f, struct eng_proc *p)
{
	(void)f;
	struct fs_state *s = p ? p->res[eng_res_index(&res_fs)] : NULL;

	if (!s)
		return;
	record_free(&s->image);
	record_free(&s->ahead);
	hold(s, -1);
	free(s);
	p->res[eng_res_index(&res_fs)] = NULL;
}

const struct eng_res res_fs = {
	.name = "working directory",
	.types = {RES_FS, RES_FS_AHEAD},
	.probe = fs_probe,
	.dump = fs_dump,
	.fill = fs_fill,
	.finish = fs_finish,
	.hollow = fs_hollow,
	.thaw = fs_thaw,
	.release = fs_release,
};
