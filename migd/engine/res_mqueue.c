/* SPDX-License-Identifier: Apache-2.0 */
/*
 * POSIX message queues of the family: names, attributes, modes and the messages with their priorities. Which queues: those that a member has open; on a guest host all of
 * its IPC namespace, so that one that is closed for the moment is not lost. A queue that a process that stays has open too is refused by name (res_files.c),
 * and so is mq_notify(3), whose value the kernel does not tell.
 *
 * A queue can be read only by taking the messages out. They are taken and put back, in the same order, by a child of ours that nothing we die of can stop in between;
 * the family stands still and nobody else has the queue.
 *
 * At home a queue stays while the family is away as a shell that nobody may open (mode 0), as SysV objects do (res_sysv.c).
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/sched.h>
#include <mqueue.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/log.h"
#include "migd/engine/core.h"
#include "migd/engine/res_files.h"
#include "migd/engine/res_sysv.h"

enum { MQUEUE_MAGIC = 0x19800202, HELD_MAX = 64 << 20 };

const struct eng_res res_mqueue;

struct queue {
	uint64_t ino; /* at the source: its name in the image */
	char *name;   /* without '/'; NULL: removed */
	int fd;	      /* destination: ours */
	unsigned mode;
};
struct mq_state {
	struct queue *v; /* source: written; destination: made */
	size_t n;
	struct queue *left; /* home: they went with the family */
	size_t nleft;
	bool shells;
};

static struct mq_state *state_of(struct eng_family *f)
{
	struct mq_state **s = (struct mq_state **)eng_family_res(f, &res_mqueue);

	if (!*s)
		*s = calloc(1, sizeof **s);
	return *s;
}

static void queues_clear(struct queue **v, size_t *n)
{
	for (size_t i = 0; i < *n; i++) {
		free((*v)[i].name);
		if ((*v)[i].fd >= 0)
			close((*v)[i].fd);
	}
	free(*v);
	*v = NULL;
	*n = 0;
}

static struct queue *queue_add(struct queue **v, size_t *n, uint64_t ino, const char *name, int fd, unsigned mode)
{
	struct queue *more = realloc(*v, (*n + 1) * sizeof **v);

	if (!more)
		return NULL;
	*v = more;
	more[*n] = (struct queue){.ino = ino, .name = name ? strdup(name) : NULL, .fd = fd, .mode = mode};
	return name && !more[*n].name ? NULL : &more[(*n)++];
}

/* In the thread's IPC namespace. fd or -errno. */
static int queue_open(const char *name, int flags, unsigned mode, struct mq_attr *a)
{
	int fd = syscall(SYS_mq_open, name, flags | O_CLOEXEC | O_NONBLOCK, mode, a);

	return fd < 0 ? -errno : fd;
}

/* ---- reading ----------------------------------------------------------------------------------------- */

struct held { /* shared with the child that empties and refills */
	int64_t done; /* messages taken, or -errno */
	size_t slot;
	char data[];
};
struct held_message {
	uint32_t priority, len;
	char text[];
};

static void take_and_put(int fd, struct held *h, size_t room)
{
	struct held_message *m;
	size_t n = 0;
	long r = 0;

	for (; n < room; n++) {
		m = (void *)(h->data + n * h->slot);
		r = syscall(SYS_mq_timedreceive, fd, m->text, h->slot - sizeof *m, &m->priority, NULL);
		if (r < 0)
			break;
		m->len = r;
	}
	int64_t done = r < 0 && errno != EAGAIN ? -errno : (int64_t)n;

	for (size_t i = 0; i < n; i++) {
		m = (void *)(h->data + i * h->slot);
		if (syscall(SYS_mq_timedsend, fd, m->text, (size_t)m->len, m->priority, NULL) < 0)
			done = -errno;
	}
	h->done = done;
	syscall(SYS_exit_group, 0);
}

static int messages_read(int fd, Sprite__Img__Mqueue *q)
{
	struct mq_attr a;
	struct clone_args how = {0}; /* no SIGCHLD: nobody but us hears of it */
	int r = 0;

	if (mq_getattr(fd, &a) < 0)
		return -errno;
	q->maxmsg = a.mq_maxmsg;
	q->msgsize = a.mq_msgsize;
	if (!a.mq_curmsgs)
		return 0;
	size_t slot = (sizeof(struct held_message) + a.mq_msgsize + 7) & ~7ul, size = sizeof(struct held) + a.mq_curmsgs * slot;
	struct held *h = size > HELD_MAX ? MAP_FAILED : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (h == MAP_FAILED)
		return -ENOMEM;
	h->slot = slot;
	h->done = -ECHILD;
	pid_t pid = syscall(SYS_clone3, &how, sizeof how);

	if (!pid)
		take_and_put(fd, h, a.mq_curmsgs);
	while (pid > 0 && waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
		;
	r = pid < 0 ? -errno : h->done < 0 ? (int)h->done : 0;
	q->message = r ? NULL : calloc(h->done, sizeof *q->message);
	for (int64_t i = 0; !r && i < h->done; i++) {
		const struct held_message *m = (void *)(h->data + i * slot);
		Sprite__Img__MqMessage *to = q->message ? malloc(sizeof *to) : NULL;

		if (!to) {
			r = -ENOMEM;
			break;
		}
		sprite__img__mq_message__init(to);
		q->message[q->n_message++] = to;
		to->priority = m->priority;
		to->text.data = malloc(m->len + 1);
		if (!to->text.data)
			r = -ENOMEM;
		else
			memcpy(to->text.data, m->text, m->len), to->text.len = m->len;
	}
	munmap(h, size);
	return r;
}

/* Writes the queue behind fd (ours to keep), unless it has been written. name: NULL when it has none any more. */
static int queue_put(struct eng_family *f, struct eng_image *out, int fd, const char *name)
{
	struct mq_state *s = state_of(f);
	Sprite__Img__Mqueue *q = malloc(sizeof *q);
	struct stat st;
	int r = s && q ? 0 : -ENOMEM;

	if (!r && fstat(fd, &st) < 0)
		r = -errno;
	for (size_t i = 0; !r && i < s->n; i++)
		if (s->v[i].ino == st.st_ino) {
			free(q);
			close(fd);
			return 0;
		}
	if (r || !queue_add(&s->v, &s->n, st.st_ino, name, fd, st.st_mode)) {
		free(q);
		close(fd);
		return r ? r : -ENOMEM;
	}
	sprite__img__mqueue__init(q);
	q->queue = st.st_ino;
	q->name = name ? strdup(name) : (char *)protobuf_c_empty_string;
	q->mode = st.st_mode & 07777;
	q->uid = st.st_uid;
	q->gid = st.st_gid;
	r = q->name ? messages_read(fd, q) : -ENOMEM;
	if (!r)
		r = eng_image_put_msg(out, RES_MQUEUE, 0, &q->base);
	if (!r && name && !f->nest && !queue_add(&s->left, &s->nleft, st.st_ino, name, -1, st.st_mode))
		r = -ENOMEM;
	sprite__img__mqueue__free_unpacked(q, NULL);
	return r;
}

struct put_ctx {
	struct eng_family *f;
	struct eng_image *out;
	int dir;
};

static int put_one(const struct file_look *l, void *arg)
{
	struct put_ctx *x = arg;
	char name[24], plain[NAME_MAX + 1];

	if (!file_mqueue.is(l))
		return 0;
	snprintf(name, sizeof name, "fd/%d", l->num);
	int fd = openat(x->dir, name, O_RDWR | O_NONBLOCK | O_CLOEXEC);

	snprintf(plain, sizeof plain, "%s", l->link + 1);
	return fd < 0 ? -errno : queue_put(x->f, x->out, fd, l->st.st_nlink ? plain : NULL);
}

/* All queues of the thread's namespace, open or not. */
static int put_all(struct eng_family *f, struct eng_image *out)
{
	_cleanup_close_ int fs = syscall(SYS_fsopen, "mqueue", 1 /* FSOPEN_CLOEXEC */);
	int root = -1, r = 0;
	DIR *d;

	if (fs >= 0 && syscall(SYS_fsconfig, fs, 6 /* FSCONFIG_CMD_CREATE */, NULL, NULL, 0) == 0)
		root = syscall(SYS_fsmount, fs, 1 /* FSMOUNT_CLOEXEC */, 0);
	if (root < 0)
		return -errno;
	int list = openat(root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	d = list < 0 ? NULL : fdopendir(list);
	for (struct dirent *e; d && !r && (e = readdir(d));) {
		if (*e->d_name == '.' && (!e->d_name[1] || (e->d_name[1] == '.' && !e->d_name[2])))
			continue;
		int fd = openat(root, e->d_name, O_RDWR | O_NONBLOCK | O_CLOEXEC);

		r = fd < 0 ? -errno : queue_put(f, out, fd, e->d_name);
	}
	if (d)
		closedir(d);
	close(root);
	return d ? r : -EIO;
}

static bool has_mqueue(struct eng_proc *p)
{
	int at = openat(p->dir, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = at < 0 ? NULL : fdopendir(at);
	char link[PATH_MAX];
	bool has = false;

	for (struct dirent *e; d && !has && (e = readdir(d));)
		has = res_readlink(at, e->d_name, link, sizeof link) > 0 && *link == '/' && !strchr(link + 1, '/');
	if (d)
		closedir(d);
	return has;
}

static int mq_dump_family(struct eng_family *f, struct eng_image *out, struct error *e)
{
	struct mq_state *s = state_of(f);
	int r = s ? 0 : -ENOMEM;

	if (!s)
		return r;
	queues_clear(&s->v, &s->n);
	queues_clear(&s->left, &s->nleft);
	s->shells = false;
	for (size_t i = 0; !r && i < eng_nprocs(f); i++) {
		struct put_ctx x = {f, out, eng_proc_at(f, i)->dir};

		if (has_mqueue(eng_proc_at(f, i)))
			r = files_each(eng_proc_at(f, i)->pid, x.dir, put_one, &x);
	}
	if (!r && f->nest) {
		int here = sysv_enter(eng_proc_at(f, 0)->dir);

		r = here < 0 ? here : put_all(f, out);
		sysv_leave(here);
	}
	queues_clear(&s->v, &s->n);
	return r < 0 ? error_set(e, -r, "a message queue cannot be read: %s", strerror(-r)) : 0;
}

/* ---- making ------------------------------------------------------------------------------------------ */

static int queue_make(struct eng_family *f, const Sprite__Img__Mqueue *q, struct error *e)
{
	struct mq_attr want = {.mq_maxmsg = q->maxmsg, .mq_msgsize = q->msgsize}, is;
	char spare[64];
	const char *name = *q->name ? q->name : spare;
	struct mq_state *s = state_of(f);
	unsigned priority;
	struct stat st;
	int r = 0;

	snprintf(spare, sizeof spare, "sprite.%d.%llu", eng_proc_at(f, 0)->vpid, (unsigned long long)q->queue);
	int fd = queue_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, &want);

	if (fd == -EEXIST && !f->nest) { /* the shell, with what was in it */
		fd = queue_open(name, O_RDWR, 0, NULL);
		_cleanup_free_ char *old = fd < 0 ? NULL : malloc(q->msgsize + 1);

		/* its mode is 0: nobody uses it; one of that name that is not ours keeps what is in it */
		if (fd >= 0 && (fstat(fd, &st) < 0 || st.st_mode & 0777 || mq_getattr(fd, &is) < 0 || is.mq_maxmsg != want.mq_maxmsg || is.mq_msgsize != want.mq_msgsize || !old)) {
			close(fd);
			return error_set(e, EEXIST, "message queue /%s: its name is in use on this host", name);
		}
		while (fd >= 0 && mq_receive(fd, old, q->msgsize, &priority) >= 0)
			;
	}
	if (fd < 0)
		return error_set(e, -fd, "message queue /%s cannot be made: %s", name, strerror(-fd));
	if (!*q->name)
		syscall(SYS_mq_unlink, name);
	if (!s || !queue_add(&s->v, &s->n, q->queue, *q->name ? q->name : NULL, fd, q->mode)) {
		close(fd);
		return -ENOMEM;
	}
	for (size_t i = 0; !r && i < q->n_message; i++)
		if (mq_send(fd, (char *)q->message[i]->text.data, q->message[i]->text.len, q->message[i]->priority) < 0)
			r = -errno;
	if (!r && (fchown(fd, q->uid, q->gid) < 0 || fchmod(fd, q->mode) < 0))
		r = -errno;
	return r < 0 ? error_set(e, -r, "message queue /%s cannot be filled: %s", name, strerror(-r)) : 0;
}

static int mq_fill(struct eng_family *f, struct eng_proc *p, uint32_t type, const void *body, size_t len, struct error *e)
{
	Sprite__Img__Mqueue *q = sprite__img__mqueue__unpack(NULL, len, body);
	int here = q ? sysv_enter(eng_proc_at(f, 0)->dir) : -1;

	(void)p, (void)type;
	if (!q || here < 0) {
		if (q)
			sprite__img__mqueue__free_unpacked(q, NULL);
		return res_bad_record(e, "message queues");
	}
	int r = queue_make(f, q, e);

	sysv_leave(here);
	sprite__img__mqueue__free_unpacked(q, NULL);
	return r;
}

/* The descriptions are open: ours go; and what this family left here and removed away goes too. */
static int mq_finish(struct eng_proc *p, struct error *e)
{
	struct eng_family *f = p->family;
	struct mq_state *s = state_of(f);

	(void)e;
	if (!s || p != eng_proc_at(f, eng_nprocs(f) - 1))
		return 0;
	for (size_t i = 0; s->shells && i < s->nleft; i++) {
		bool lives = false;

		for (size_t k = 0; k < s->n; k++)
			lives |= s->v[k].name && !strcmp(s->v[k].name, s->left[i].name);
		if (!lives)
			syscall(SYS_mq_unlink, s->left[i].name);
	}
	queues_clear(&s->left, &s->nleft);
	s->shells = false;
	for (size_t i = 0; !f->nest && i < s->n; i++)
		if (s->v[i].name && !queue_add(&s->left, &s->nleft, s->v[i].ino, s->v[i].name, -1, s->v[i].mode))
			return -ENOMEM;
	queues_clear(&s->v, &s->n);
	return 0;
}

static void shells_mode(struct mq_state *s, bool shell)
{
	for (size_t i = 0; i < s->nleft; i++) {
		_cleanup_close_ int fd = queue_open(s->left[i].name, O_RDONLY, 0, NULL);

		if (fd >= 0 && fchmod(fd, shell ? 0 : s->left[i].mode & 07777) < 0)
			log_warn("engine: message queue /%s: %s", s->left[i].name, strerror(errno));
	}
	s->shells = shell && s->nleft;
}

static int mq_hollow(struct eng_proc *p, struct error *e)
{
	struct mq_state *s = state_of(p->family);

	(void)e;
	if (!s || p->family->nest || p != eng_proc_at(p->family, 0))
		return 0;
	for (size_t i = 0; i < s->n; i++) /* of a return that was given up */
		if (s->v[i].fd >= 0 && fchmod(s->v[i].fd, 0) < 0)
			log_warn("engine: message queue /%s: %s", s->v[i].name ? s->v[i].name : "", strerror(errno));
	queues_clear(&s->v, &s->n);
	shells_mode(s, true);
	return 0;
}

static int mq_save(const struct eng_family *f, FILE *o)
{
	const struct mq_state *s = f->nest ? NULL : f->res[eng_res_index(&res_mqueue)];

	for (size_t i = 0; s && i < s->nleft; i++)
		fprintf(o, "mqueue %o ", s->left[i].mode), res_save_name(o, s->left[i].name);
	return 0;
}

static int mq_restore(struct eng_family *f, const char *line, bool hollow)
{
	_cleanup_free_ char *name = NULL;
	struct mq_state *s;
	unsigned mode;
	int at = 0;

	if (strncmp(line, "mqueue ", 7))
		return 0;
	if (sscanf(line, "mqueue %o %n", &mode, &at) != 1 || !at || !line[at])
		return -EPROTO;
	s = state_of(f);
	name = res_load_name(line + at);
	if (!s || !name || !queue_add(&s->left, &s->nleft, 0, name, -1, mode))
		return -ENOMEM;
	s->shells = hollow;
	return 1;
}

static void mq_release(struct eng_family *f, struct eng_proc *p)
{
	struct mq_state **s = (struct mq_state **)eng_family_res(f, &res_mqueue);

	if (p || !*s || ((*s)->shells && f->nprocs)) /* a hollow forgets the image, not what it left */
		return;
	if ((*s)->shells) /* the family has ended away */
		shells_mode(*s, false);
	queues_clear(&(*s)->v, &(*s)->n);
	queues_clear(&(*s)->left, &(*s)->nleft);
	free(*s);
	*s = NULL;
}

const struct eng_res res_mqueue = {
	.name = "message queues",
	.types = {RES_MQUEUE, RES_MQUEUE},
	.dump_family = mq_dump_family,
	.fill = mq_fill,
	.finish = mq_finish,
	.hollow = mq_hollow,
	.save = mq_save,
	.restore = mq_restore,
	.release = mq_release,
};

/* ---- descriptors ------------------------------------------------------------------------------------- */

/* A queue's link is "/NAME", like that of a file: the file system tells. */
static bool is_mqueue(const struct file_look *l)
{
	struct statfs fs;
	char name[24];

	snprintf(name, sizeof name, "fd/%d", l->num);
	if (*l->link != '/' || strchr(l->link + 1, '/') || !S_ISREG(l->st.st_mode))
		return false;
	_cleanup_close_ int fd = openat(l->dir, name, O_PATH | O_CLOEXEC);

	return fd >= 0 && fstatfs(fd, &fs) == 0 && fs.f_type == MQUEUE_MAGIC;
}

static int mqueue_outside(const struct file_look *l)
{
	(void)l;
	return OUTSIDE_NOT_FILE;
}

static void mqueue_probe(struct eng_probe *p, const struct file_look *l)
{
	char name[24];

	snprintf(name, sizeof name, "fd/%d", l->num);
	_cleanup_free_ char *text = eng_proc_read(p->dir, name, NULL);
	const char *who = text ? strstr(text, "NOTIFY_PID:") : NULL;

	if (who && atoi(who + 11))
		file_reason(p, l, "a signal or thread waits for a message in queue %s (mq_notify): end that first (mq_notify(queue, NULL))", l->link);
}

static int mqueue_dump(struct eng_family *f, struct file_desc *d, Sprite__Img__File *m, struct error *e)
{
	(void)f, (void)d, (void)m, (void)e; /* the inode says which */
	return 0;
}

static int mqueue_open(struct eng_family *f, struct eng_proc *p, struct file_desc *d, struct error *e)
{
	struct mq_state *s = state_of(f);
	char name[40];

	(void)p;
	for (size_t i = 0; s && i < s->n; i++) {
		if (s->v[i].ino != d->image->ino)
			continue;
		snprintf(name, sizeof name, "/proc/self/fd/%d", s->v[i].fd);
		int fd = open(name, (d->image->flags & (O_ACCMODE | O_NONBLOCK)) | O_CLOEXEC);

		return fd < 0 ? error_set(e, errno, "message queue %s: %s", d->image->path, strerror(errno)) : fd;
	}
	return res_bad_record(e, "message queues");
}

const struct file_kind file_mqueue = {
	.name = "mqueue", .is = is_mqueue, .probe = mqueue_probe, .outside = mqueue_outside, .dump = mqueue_dump, .open = mqueue_open};
