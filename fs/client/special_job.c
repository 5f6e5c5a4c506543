// SPDX-License-Identifier: Apache-2.0
/*
 * Nodes of .sprite, and requests about them that may block (asking another program): a thread for each, JOBS_MAX at most.
 *
 * Node numbers: SPECIAL_OURS | hash of "directory/name". The names behind numbers are kept while the kernel knows them (those of what is always there for good); one that is
 * not known after a restart is ESTALE, which the kernel answers by looking the name up again.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/hash.h"
#include "fs/client/special_int.h"

enum { JOBS_MAX = 64, TEXT_MAX = 4 << 20, NODES_MAX = 65536 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct hash nodes; /* lock: by id */
static unsigned jobs;	  /* lock */

/* ---- nodes ---- */

static uint64_t number_of(const struct special_dir *d, const char *name)
{
	uint64_t h = 14695981039346656037ull; /* FNV-1a */

	for (const char *c = d->name; *c; c++)
		h = (h ^ (unsigned char)*c) * 1099511628211ull;
	h = (h ^ '/') * 1099511628211ull;
	for (const char *c = name; *c; c++)
		h = (h ^ (unsigned char)*c) * 1099511628211ull;
	return SPECIAL_OURS | (h & (SPECIAL_OURS - 1));
}

struct node special_node_of(const struct special_dir *d, const struct special_file *f, const char *name)
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
void special_node_forget(uint64_t id, uint64_t count)
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

bool special_node_get(fuse_ino_t id, struct node *n, char **name)
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

bool special_is_dir(const struct node *n)
{
	return !n->file && !n->name;
}

void special_stat_of(const struct node *n, size_t size, struct stat *st)
{
	*st = (struct stat){.st_ino = n->id, .st_nlink = 1, .st_size = (off_t)size, .st_blksize = 4096};
	/* Everybody sees his own: what a name means is decided by who asks, not by its mode. */
	st->st_mode = n->file ? S_IFREG | n->file->mode : n->name ? S_IFREG | 0666 : S_IFDIR | (n->dir->names ? 0777 : 0555);
	if (special_is_dir(n))
		st->st_nlink = 2;
	clock_gettime(CLOCK_REALTIME, &st->st_mtim);
	st->st_atim = st->st_ctim = st->st_mtim;
}

/* ---- requests that may block ---- */

static void entry_of(const struct node *n, size_t size, struct fuse_entry_param *p)
{
	*p = (struct fuse_entry_param){.generation = 1, .ino = n->id};
	special_stat_of(n, size, &p->attr);
}

void special_reply_entry(fuse_req_t req, const struct node *n, size_t size)
{
	struct fuse_entry_param p;

	entry_of(n, size, &p);
	if (!node_told(n))
		fuse_reply_err(req, ENOMEM);
	else if (fuse_reply_entry(req, &p) < 0)
		special_node_forget(n->id, 1); /* whoever asked has gone */
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
	struct node n = special_node_of(j->dir, j->file, j->name);
	_cleanup_free_ char *text = NULL;
	struct stat st;
	size_t len = 0;
	int err = text_of(j, &text, &len);

	special_stat_of(&n, len, &st);
	if (err)
		fuse_reply_err(j->req, -err);
	else if (j->what == ENTRY)
		special_reply_entry(j->req, &n, len);
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
	struct node n = special_node_of(j->dir, NULL, j->name);
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
		special_node_forget(n.id, 1);
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

void special_start(const struct job *j)
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

struct job special_job_of(fuse_req_t req, enum what what, const struct special_dir *d, const struct special_file *f, const char *name)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);

	return (struct job){.fs = fuse_req_userdata(req), .req = req, .fd = session_fd(), .what = what, .dir = d, .file = f, .name = name ? strdup(name) : NULL,
		.who = {ctx->pid, ctx->uid}};
}

bool special_job_on(fuse_req_t req, enum what what, fuse_ino_t ino, struct fuse_file_info *fi, struct job *j)
{
	struct node n;
	char *name;

	if (!special_node_get(ino, &n, &name)) {
		fuse_reply_err(req, ESTALE);
		return false;
	}
	if (special_is_dir(&n)) {
		fuse_reply_err(req, EISDIR);
		return false;
	}
	*j = special_job_of(req, what, n.dir, n.file, NULL);
	j->name = name;
	j->id = ino;
	if (fi)
		j->fi = *fi;
	return true;
}
