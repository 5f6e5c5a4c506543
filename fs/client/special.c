// SPDX-License-Identifier: Apache-2.0
/*
 * The directory .sprite (special.h). Its operations are put before those of the mount, which never see a node number of ours. What may block (asking another program)
 * is done in a thread per request, JOBS_MAX at most.
 *
 * Node numbers: OURS | hash of "directory/name". The names behind numbers are kept while the kernel knows them (those of what is always there for good); one that is
 * not known after a restart is ESTALE, which the kernel answers by looking the name up again.
 */
#include "fs/client/special.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/hash.h"

#define OURS (1ull << 60)
#define ROOT_NAME ".sprite"
enum { JOBS_MAX = 64, TEXT_MAX = 4 << 20, NODES_MAX = 65536 };

struct node {
	uint64_t id;
	const struct special_dir *dir; /* that it is, or that it is in */
	const struct special_file *file; /* NULL: a directory, or a name that comes and goes */
	char *name;			 /* of one that comes and goes; NULL otherwise */
	uint64_t nlookup;		 /* lock: how often the kernel was told of it, less what it forgot */
};

static struct fuse_lowlevel_ops below; /* those of the mount */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct hash nodes; /* lock: by id */
static unsigned jobs;	  /* lock */

static bool ours(fuse_ino_t ino)
{
	return ino & OURS;
}

/* ---- nodes ---- */

static uint64_t number_of(const struct special_dir *d, const char *name)
{
	uint64_t h = 14695981039346656037ull; /* FNV-1a */

	for (const char *c = d->name; *c; c++)
		h = (h ^ (unsigned char)*c) * 1099511628211ull;
	h = (h ^ '/') * 1099511628211ull;
	for (const char *c = name; *c; c++)
		h = (h ^ (unsigned char)*c) * 1099511628211ull;
	return OURS | (h & (OURS - 1));
}

static struct node node_of(const struct special_dir *d, const struct special_file *f, const char *name)
{
	return (struct node){.id = number_of(d, f ? f->name : name ? name : ""), .dir = d, .file = f, .name = f ? NULL : (char *)name};
}

/* The kernel is about to be told of it; false: no memory. */
static bool node_told(const struct node *like)
{
	struct node *n;

	pthread_mutex_lock(&lock);
	n = hash_get_u64(&nodes, like->id);
	if (!n && nodes.count < NODES_MAX && (n = calloc(1, sizeof(*n)))) {
		*n = *like;
		n->name = like->name ? strdup(like->name) : NULL;
		if ((like->name && !n->name) || hash_set_u64(&nodes, n->id, n, NULL)) {
			free(n->name);
			free(n);
			n = NULL;
		}
	}
	if (n)
		n->nlookup++;
	pthread_mutex_unlock(&lock);
	return n;
}

/* What a spritefs before us told of is not counted here: at worst a name goes early, and the kernel looks it up again. */
static void node_forget(uint64_t id, uint64_t count)
{
	struct node *n;

	pthread_mutex_lock(&lock);
	n = hash_get_u64(&nodes, id);
	if (n)
		n->nlookup -= count < n->nlookup ? count : n->nlookup;
	if (n && n->name && !n->nlookup) {
		hash_take_u64(&nodes, id);
		free(n->name);
		free(n);
	}
	pthread_mutex_unlock(&lock);
}

size_t special_known(void)
{
	size_t n;

	pthread_mutex_lock(&lock);
	n = nodes.count;
	pthread_mutex_unlock(&lock);
	return n;
}

/* A copy; *name (may be NULL): one of its name, to be freed. Without it n->name says only whether there is one. */
static bool node_get(fuse_ino_t id, struct node *n, char **name)
{
	struct node *found;

	pthread_mutex_lock(&lock);
	found = hash_get_u64(&nodes, id);
	if (found)
		*n = *found;
	if (name)
		*name = found && found->name ? strdup(found->name) : NULL;
	pthread_mutex_unlock(&lock);
	return found;
}

static bool is_dir(const struct node *n)
{
	return !n->file && !n->name;
}

static void stat_of(const struct node *n, size_t size, struct stat *st)
{
	*st = (struct stat){.st_ino = n->id, .st_nlink = 1, .st_size = (off_t)size, .st_blksize = 4096};
	/* Everybody sees his own: what a name means is decided by who asks, not by its mode. */
	st->st_mode = n->file ? S_IFREG | n->file->mode : n->name ? S_IFREG | 0666 : S_IFDIR | (n->dir->names ? 0777 : 0555);
	if (is_dir(n))
		st->st_nlink = 2;
	clock_gettime(CLOCK_REALTIME, &st->st_mtim);
	st->st_atim = st->st_ctim = st->st_mtim;
}

/* ---- requests that may block ---- */

enum what { ENTRY, ATTR, OPEN, READ, WRITE, TRUNCATE, CREATE, UNLINK, LIST };

struct job {
	struct fs *fs;
	fuse_req_t req;
	int fd; /* the clone of /dev/fuse for the answer */
	enum what what;
	const struct special_dir *dir;
	const struct special_file *file;
	char *name;
	uint64_t id; /* ENTRY, ATTR */
	struct special_who who;
	char *data; /* WRITE */
	size_t size;
	off_t off;
	bool plus; /* LIST */
	struct fuse_file_info fi;
};

static void entry_of(const struct node *n, size_t size, struct fuse_entry_param *p)
{
	*p = (struct fuse_entry_param){.generation = 1, .ino = n->id};
	stat_of(n, size, &p->attr);
}

static void reply_entry(fuse_req_t req, const struct node *n, size_t size)
{
	struct fuse_entry_param p;

	entry_of(n, size, &p);
	if (!node_told(n))
		fuse_reply_err(req, ENOMEM);
	else if (fuse_reply_entry(req, &p) < 0)
		node_forget(n->id, 1); /* whoever asked has gone */
}

/* The whole text of the file that a job is about. */
static int text_of(struct job *j, char **text, size_t *len)
{
	json_t *names, *v;
	int err;

	*text = NULL;
	if (j->file)
		return j->file->read(j->fs, &j->who, text, len);
	names = json_object();
	err = j->dir->names->list(j->fs, &j->who, names);
	v = err ? NULL : json_object_get(names, j->name);
	if (!err && !v)
		err = -ENOENT;
	if (!err) {
		*len = json_string_length(v);
		*text = strdup(json_string_value(v));
		err = *text ? 0 : -ENOMEM;
	}
	json_decref(names);
	return err;
}

static void do_entry(struct job *j)
{
	struct node n = node_of(j->dir, j->file, j->name);
	_cleanup_free_ char *text = NULL;
	struct stat st;
	size_t len = 0;
	int err = text_of(j, &text, &len);

	stat_of(&n, len, &st);
	if (err)
		fuse_reply_err(j->req, -err);
	else if (j->what == ENTRY)
		reply_entry(j->req, &n, len);
	else
		fuse_reply_attr(j->req, &st, 0);
}

static void do_open(struct job *j)
{
	int err = 0;

	if (j->fi.flags & O_TRUNC && !j->file)
		err = j->dir->names->set(j->fs, &j->who, j->name, "", 0);
	j->fi.direct_io = 1;
	j->fi.fh = j->id;
	if (err)
		fuse_reply_err(j->req, -err);
	else
		fuse_reply_open(j->req, &j->fi);
}

static void do_read(struct job *j)
{
	_cleanup_free_ char *text = NULL;
	size_t len = 0, off = (size_t)j->off;
	int err = text_of(j, &text, &len);

	if (err)
		fuse_reply_err(j->req, -err);
	else
		fuse_reply_buf(j->req, off < len ? text + off : NULL, off < len ? (len - off < j->size ? len - off : j->size) : 0);
}

/* The first `keep` bytes of what is there, then the new ones. */
static int splice_in(struct job *j, size_t keep, const char *data, size_t n)
{
	_cleanup_free_ char *old = NULL, *all = malloc(keep + n + 1);
	size_t len = 0;
	int err = keep ? text_of(j, &old, &len) : 0;

	if (err)
		return err;
	if (!all)
		return -ENOMEM;
	memset(all, 0, keep);
	if (old)
		memcpy(all, old, len < keep ? len : keep);
	if (n)
		memcpy(all + keep, data, n);
	all[keep + n] = 0;
	return j->dir->names->set(j->fs, &j->who, j->name, all, keep + n);
}

static void do_write(struct job *j)
{
	_cleanup_free_ char *old = NULL;
	size_t len = 0;
	int err = 0;

	if (j->fi.flags & O_APPEND && !(err = text_of(j, &old, &len)))
		j->off = (off_t)len;
	if (!err)
		err = j->off + (off_t)j->size > TEXT_MAX ? -EFBIG : splice_in(j, (size_t)j->off, j->data, j->size);
	if (err)
		fuse_reply_err(j->req, -err);
	else
		fuse_reply_write(j->req, j->size);
}

static void do_truncate(struct job *j)
{
	int err = j->size > TEXT_MAX ? -EFBIG : j->file ? -EPERM : splice_in(j, j->size, NULL, 0);

	if (err)
		fuse_reply_err(j->req, -err);
	else
		do_entry(j);
}

static void do_create(struct job *j)
{
	struct node n = node_of(j->dir, NULL, j->name);
	struct fuse_entry_param p;
	int err = j->dir->names->set(j->fs, &j->who, j->name, "", 0);

	if (!err && !node_told(&n))
		err = -ENOMEM;
	if (err) {
		fuse_reply_err(j->req, -err);
		return;
	}
	entry_of(&n, 0, &p);
	j->fi.direct_io = 1;
	j->fi.fh = n.id;
	if (fuse_reply_create(j->req, &p, &j->fi) < 0)
		node_forget(n.id, 1);
}

static bool add_name(struct job *j, char *buf, size_t *used, const char *name, mode_t type, off_t next)
{
	struct fuse_entry_param p = {.attr = {.st_ino = number_of(j->dir, name), .st_mode = type}}; /* no node: the kernel looks it up when it wants it */
	size_t room = j->size - *used, need = j->plus ? fuse_add_direntry_plus(j->req, buf + *used, room, name, &p, next) :
							fuse_add_direntry(j->req, buf + *used, room, name, &p.attr, next);

	if (need > j->size - *used)
		return false;
	*used += need;
	return true;
}

static void do_list(struct job *j)
{
	_cleanup_free_ char *buf = malloc(j->size ? j->size : 1);
	json_t *names = json_object(), *v;
	size_t used = 0;
	off_t n = 0;
	const char *name;
	int err = !buf ? -ENOMEM : j->dir->names ? j->dir->names->list(j->fs, &j->who, names) : 0;
	bool room = !err;

	for (const struct special_file *f = j->dir->files; room && f && f->name; f++)
		if (++n > j->off)
			room = add_name(j, buf, &used, f->name, S_IFREG, n);
	for (const struct special_dir *d = special_dirs; room && !j->dir->name[0] && d->name; d++)
		if (d->name[0] && ++n > j->off)
			room = add_name(j, buf, &used, d->name, S_IFDIR, n);
	json_object_foreach(names, name, v)
		if (room && ++n > j->off)
			room = add_name(j, buf, &used, name, S_IFREG, n);
	json_decref(names);
	if (err)
		fuse_reply_err(j->req, -err);
	else
		fuse_reply_buf(j->req, buf, used);
}

static void do_unlink(struct job *j)
{
	fuse_reply_err(j->req, -j->dir->names->unset(j->fs, &j->who, j->name));
}

static void (*const doing[])(struct job *) = {[ENTRY] = do_entry, [ATTR] = do_entry, [OPEN] = do_open, [READ] = do_read, [WRITE] = do_write,
	[TRUNCATE] = do_truncate, [CREATE] = do_create, [UNLINK] = do_unlink, [LIST] = do_list};

static void *job_main(void *arg)
{
	struct job *j = arg;

	session_reply_on(j->fd);
	doing[j->what](j);
	free(j->name);
	free(j->data);
	free(j);
	pthread_mutex_lock(&lock);
	jobs--;
	pthread_mutex_unlock(&lock);
	return NULL;
}

/* Starts a copy of *j; what it points to is its own from here on. */
static void start(const struct job *j)
{
	struct job *copy = malloc(sizeof(*copy));
	pthread_attr_t attr;
	pthread_t t;
	bool room;

	pthread_mutex_lock(&lock);
	room = copy && jobs < JOBS_MAX;
	jobs += room;
	pthread_mutex_unlock(&lock);
	if (room) {
		*copy = *j;
		pthread_attr_init(&attr);
		pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
		if (!pthread_create(&t, &attr, job_main, copy))
			return;
		pthread_mutex_lock(&lock);
		jobs--;
		pthread_mutex_unlock(&lock);
	}
	fuse_reply_err(j->req, EAGAIN);
	free(j->name);
	free(j->data);
	free(copy);
}

static struct job job_of(fuse_req_t req, enum what what, const struct special_dir *d, const struct special_file *f, const char *name)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);

	return (struct job){.fs = fuse_req_userdata(req), .req = req, .fd = session_fd(), .what = what, .dir = d, .file = f, .name = name ? strdup(name) : NULL,
		.who = {ctx->pid, ctx->uid}};
}

/* The job for a file that the kernel knows; false after an answer. */
static bool job_on(fuse_req_t req, enum what what, fuse_ino_t ino, struct fuse_file_info *fi, struct job *j)
{
	struct node n;
	char *name;

	if (!node_get(ino, &n, &name)) {
		fuse_reply_err(req, ESTALE);
		return false;
	}
	if (is_dir(&n)) {
		fuse_reply_err(req, EISDIR);
		return false;
	}
	*j = job_of(req, what, n.dir, n.file, NULL);
	j->name = name;
	j->id = ino;
	if (fi)
		j->fi = *fi;
	return true;
}

/* ---- operations ---- */

static const struct special_file *file_in(const struct special_dir *d, const char *name)
{
	for (const struct special_file *f = d->files; f && f->name; f++)
		if (!strcmp(f->name, name))
			return f;
	return NULL;
}

static const struct special_dir *dir_named(const char *name)
{
	for (const struct special_dir *d = special_dirs; d->name; d++)
		if (!strcmp(d->name, name))
			return d;
	return NULL;
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	const struct special_dir *sub;
	struct node dir, n;
	struct job j;

	if (parent == FUSE_ROOT_ID && !strcmp(name, ROOT_NAME) && ((struct fs *)fuse_req_userdata(req))->whole) {
		n = node_of(dir_named(""), NULL, NULL);
		reply_entry(req, &n, 0);
		return;
	}
	if (!ours(parent)) {
		below.lookup(req, parent, name);
		return;
	}
	if (!node_get(parent, &dir, NULL) || !is_dir(&dir)) {
		fuse_reply_err(req, ESTALE);
		return;
	}
	sub = !dir.dir->name[0] && name[0] ? dir_named(name) : NULL;
	if (sub || file_in(dir.dir, name)) {
		n = sub ? node_of(sub, NULL, NULL) : node_of(dir.dir, file_in(dir.dir, name), NULL);
		reply_entry(req, &n, 0);
	} else if (dir.dir->names) {
		j = job_of(req, ENTRY, dir.dir, NULL, name);
		start(&j);
	} else {
		fuse_reply_err(req, ENOENT);
	}
}

static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t n)
{
	if (ours(ino)) {
		node_forget(ino, n);
		fuse_reply_none(req);
	} else {
		below.forget(req, ino, n);
	}
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *f)
{
	size_t kept = 0;

	for (size_t i = 0; i < count; i++) {
		if (ours(f[i].ino))
			node_forget(f[i].ino, f[i].nlookup);
		else
			f[kept++] = f[i];
	}
	below.forget_multi(req, kept, f);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct node n;
	struct stat st;
	struct job j;

	if (!ours(ino)) {
		below.getattr(req, ino, fi);
		return;
	}
	if (node_get(ino, &n, NULL) && !n.name) {
		stat_of(&n, 0, &st);
		fuse_reply_attr(req, &st, 0);
	} else if (job_on(req, ATTR, ino, fi, &j)) {
		start(&j);
	}
}

/* The directory behind a node number; NULL: there is none. */
static const struct special_dir *dir_at(fuse_ino_t ino)
{
	struct node n;

	return node_get(ino, &n, NULL) && is_dir(&n) ? n.dir : NULL;
}

static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *st, int valid, struct fuse_file_info *fi)
{
	struct job j;

	if (!ours(ino)) {
		below.setattr(req, ino, st, valid, fi);
		return;
	}
	if (valid & (FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)) {
		fuse_reply_err(req, EPERM);
		return;
	}
	if (!job_on(req, valid & FUSE_SET_ATTR_SIZE ? TRUNCATE : ATTR, ino, fi, &j))
		return;
	j.size = (size_t)st->st_size;
	start(&j);
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct job j;

	if (!ours(ino))
		below.open(req, ino, fi);
	else if (job_on(req, OPEN, ino, fi, &j))
		start(&j);
}

static void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	const struct special_dir *d = ours(parent) ? dir_at(parent) : NULL;
	struct job j;

	if (!ours(parent)) {
		below.create(req, parent, name, mode, fi);
	} else if (!d || !d->names) {
		fuse_reply_err(req, d ? EPERM : ESTALE);
	} else {
		j = job_of(req, CREATE, d, NULL, name);
		j.fi = *fi;
		start(&j);
	}
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct job j;

	if (!ours(ino)) {
		below.read(req, ino, size, off, fi);
	} else if (job_on(req, READ, ino, fi, &j)) {
		j.size = size;
		j.off = off;
		start(&j);
	}
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct job j;

	if (!ours(ino)) {
		below.write(req, ino, data, size, off, fi);
	} else if (job_on(req, WRITE, ino, fi, &j)) {
		j.size = size;
		j.off = off;
		j.data = malloc(size ? size : 1);
		if (j.data)
			memcpy(j.data, data, size);
		if (j.data && !j.file) {
			start(&j);
		} else {
			fuse_reply_err(req, j.file ? EPERM : ENOMEM);
			free(j.data);
			free(j.name);
		}
	}
}

static void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	const struct special_dir *d = ours(parent) ? dir_at(parent) : NULL;
	struct job j;

	if (!ours(parent)) {
		below.unlink(req, parent, name);
	} else if (!d || !d->names) {
		fuse_reply_err(req, d ? EPERM : ESTALE);
	} else {
		j = job_of(req, UNLINK, d, NULL, name);
		start(&j);
	}
}

static void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	if (!ours(ino)) {
		below.opendir(req, ino, fi);
	} else if (!dir_at(ino)) {
		fuse_reply_err(req, ESTALE);
	} else {
		fi->fh = ino;
		fuse_reply_open(req, fi);
	}
}

static void list(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, bool plus)
{
	const struct special_dir *d = dir_at(ino);
	struct job j;

	if (!d) {
		fuse_reply_err(req, ESTALE);
		return;
	}
	j = job_of(req, LIST, d, NULL, NULL);
	j.size = size;
	j.off = off;
	j.plus = plus;
	start(&j);
}

static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	if (ours(ino))
		list(req, ino, size, off, false);
	else
		below.readdir(req, ino, size, off, fi);
}

static void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	if (ours(ino))
		list(req, ino, size, off, true);
	else
		below.readdirplus(req, ino, size, off, fi);
}

/* What there is nothing to do about. */
#define NOTHING(op, err, params, args)                          \
	static void op_##op params                              \
	{                                                       \
		if (ours(ino))                                  \
			fuse_reply_err(req, err);               \
		else                                            \
			below.op args;                          \
	}
#define FI struct fuse_file_info *fi
NOTHING(release, 0, (fuse_req_t req, fuse_ino_t ino, FI), (req, ino, fi))
NOTHING(releasedir, 0, (fuse_req_t req, fuse_ino_t ino, FI), (req, ino, fi))
NOTHING(flush, 0, (fuse_req_t req, fuse_ino_t ino, FI), (req, ino, fi))
NOTHING(fsync, 0, (fuse_req_t req, fuse_ino_t ino, int datasync, FI), (req, ino, datasync, fi))
NOTHING(mkdir, EPERM, (fuse_req_t req, fuse_ino_t ino, const char *name, mode_t mode), (req, ino, name, mode))
NOTHING(mknod, EPERM, (fuse_req_t req, fuse_ino_t ino, const char *name, mode_t mode, dev_t rdev), (req, ino, name, mode, rdev))
NOTHING(rmdir, EPERM, (fuse_req_t req, fuse_ino_t ino, const char *name), (req, ino, name))
NOTHING(readlink, EINVAL, (fuse_req_t req, fuse_ino_t ino), (req, ino))
NOTHING(getxattr, ENODATA, (fuse_req_t req, fuse_ino_t ino, const char *name, size_t size), (req, ino, name, size))
NOTHING(setxattr, EOPNOTSUPP, (fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags), (req, ino, name, value, size, flags))
NOTHING(removexattr, EOPNOTSUPP, (fuse_req_t req, fuse_ino_t ino, const char *name), (req, ino, name))
NOTHING(fallocate, EOPNOTSUPP, (fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len, FI), (req, ino, mode, off, len, fi))
NOTHING(lseek, EINVAL, (fuse_req_t req, fuse_ino_t ino, off_t off, int whence, FI), (req, ino, off, whence, fi))
NOTHING(getlk, EOPNOTSUPP, (fuse_req_t req, fuse_ino_t ino, FI, struct flock *l), (req, ino, fi, l))
NOTHING(setlk, EOPNOTSUPP, (fuse_req_t req, fuse_ino_t ino, FI, struct flock *l, int sleep), (req, ino, fi, l, sleep))
NOTHING(flock, EOPNOTSUPP, (fuse_req_t req, fuse_ino_t ino, FI, int op), (req, ino, fi, op))

static void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	if (!ours(ino))
		below.listxattr(req, ino, size);
	else if (size)
		fuse_reply_buf(req, NULL, 0);
	else
		fuse_reply_xattr(req, 0);
}

static void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	if (ours(parent))
		fuse_reply_err(req, EPERM);
	else
		below.symlink(req, target, parent, name);
}

static void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t to, const char *to_name, unsigned flags)
{
	if (ours(parent) || ours(to))
		fuse_reply_err(req, ours(parent) && ours(to) ? EPERM : EXDEV);
	else
		below.rename(req, parent, name, to, to_name, flags);
}

static void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
	if (ours(ino) || ours(parent))
		fuse_reply_err(req, ours(ino) && ours(parent) ? EPERM : EXDEV);
	else
		below.link(req, ino, parent, name);
}

static void op_copy(fuse_req_t req, fuse_ino_t in, off_t off_in, FI, fuse_ino_t out, off_t off_out, struct fuse_file_info *fi_out, size_t len, int flags)
{
	if (ours(in) || ours(out))
		fuse_reply_err(req, EXDEV); /* read and write it, then */
	else
		below.copy_file_range(req, in, off_in, fi, out, off_out, fi_out, len, flags);
}

static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
	below.statfs(req, ours(ino) ? FUSE_ROOT_ID : ino);
}

/* An operation that the mount has not is not ours either: libfuse answers it. */
void special_wrap(struct fuse_lowlevel_ops *ops)
{
#define PUT(op) if (ops->op) ops->op = op_##op
	below = *ops;
	PUT(lookup); PUT(forget); PUT(forget_multi); PUT(getattr); PUT(setattr); PUT(open); PUT(create); PUT(read); PUT(write); PUT(unlink); PUT(opendir);
	PUT(readdir); PUT(readdirplus); PUT(release); PUT(releasedir); PUT(flush); PUT(fsync); PUT(mkdir); PUT(mknod); PUT(rmdir); PUT(readlink); PUT(getxattr);
	PUT(listxattr); PUT(setxattr); PUT(removexattr); PUT(fallocate); PUT(lseek); PUT(getlk); PUT(setlk); PUT(flock); PUT(symlink); PUT(rename); PUT(link);
	PUT(statfs);
	if (ops->copy_file_range)
		ops->copy_file_range = op_copy;
}
