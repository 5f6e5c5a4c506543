/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a process has of the file tree apart from descriptors: working directory, umask; a root of its own is refused (the home's root view is the root of every guest).
 * Read: /proc/PID/cwd, status. Restored by fchdir in the vessel on what it opened as the family's user, with a check that it is the same directory.
 */
#include "migd/engine/res_util.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/kcmp.h>
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

		if (why)
			eng_reason(p, "working directory %s %s", cwd, why);
		else if (!res_may(p->dir, cwd, X_OK))
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

struct fs_state { /* ->res[], destination */
	Sprite__Img__Fs *image, *ahead; /* ahead: it has been there already */
};

static struct fs_state *state_of(struct eng_proc *p)
{
	void **s = &p->res[eng_res_index(&res_fs)];

	if (!*s)
		*s = calloc(1, sizeof(struct fs_state));
	return *s;
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
	if (fstatat(p->dir, "cwd/.", &st, 0) < 0)
		return error_set(e, errno, "working directory %s of %d: %s", cwd, p->vpid, strerror(errno));
	res_undelete(p->dir, cwd, &st);
	const char *why = cwd_refused(cwd, &st);

	if (why)
		return error_set(e, ENOENT, "working directory %s of %d %s", cwd, p->vpid, why);
	m.cwd = cwd;
	m.cwd_ino = st.st_ino;
	m.umask = res_field_u64(status, "Umask", 8, 022);
	return eng_image_put_msg(out, type, p->vpid, &m.base);
}

static int fs_dump(struct eng_proc *p, struct eng_image *out, struct error *e)
{
	return put(p, RES_FS, out, e);
}

int fs_put_ahead(struct eng_proc *p, struct eng_image *out)
{
	struct error guess = {0};
	int r = put(p, RES_FS_AHEAD, out, &guess);

	return r == -ENOMEM || r == -EPIPE ? r : 0; /* else the dump says why, if it is still so then */
}

static int go_there(struct eng_proc *p, const Sprite__Img__Fs *m, struct error *e)
{
	struct stat st;

	eng_scratch_reset(p);
	uint64_t path = eng_scratch_put(p, m->cwd, strlen(m->cwd) + 1), at = eng_scratch_put(p, NULL, sizeof st);
	struct eng_call c[9];
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
	c[n++] = (struct eng_call){SYS_fchdir, {opened}, 0, 0, 1};
	c[n++] = (struct eng_call){SYS_close, {opened}, 0, 0, 1};
	c[n++] = (struct eng_call){SYS_umask, {m->umask & 0777}, 0, 0, 0};
	int r = eng_batch(p->threads[0], c, n, NULL);

	if ((int)c[opened].ret < 0)
		r = c[opened].ret;
	if (r == 0)
		r = eng_peek(p, at, &st, sizeof st);
	if (r < 0)
		return error_set(e, -r, "working directory %s of %d: %s", m->cwd, p->vpid, strerror(-r));
	if (!res_same_ino(st.st_ino, m->cwd_ino))
		return error_set(e, ESTALE, "working directory %s of %d is another directory there", m->cwd, p->vpid);
	return 0;
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

static void fs_release(struct eng_family *f, struct eng_proc *p)
{
	(void)f;
	struct fs_state *s = p ? p->res[eng_res_index(&res_fs)] : NULL;

	if (!s)
		return;
	record_free(&s->image);
	record_free(&s->ahead);
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
	.release = fs_release,
};
