// SPDX-License-Identifier: Apache-2.0
/*
 * Which handle the kernel means by a node id.
 *
 * An id is given to a handle once and never again: a changed generation would split a FIFO that is in use and a changed type gives EIO
 * (pipes.md). Two tables, by id and by handle, under fs.inode_lock. An inode goes when the kernel's lookups are all forgotten and no call holds
 * it; then the same handle gets a new id when it is met again, which the kernel cannot tell from a new file. But one whose attributes are under a lease is kept, `idle`, with
 * its id and what is known of it (a directory: its names), so that look-ups, listings and opens after the kernel has forgotten it, or before it has heard of it at all,
 * need no call. There are at most IDLE_MAX of those; they leave no record for a later spritefs.
 */
#include "fs/client/client.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "conf/clock.h"
#include "fs/client/kept.h"

#define IDLE_MAX 16384 /* somewhat more than a kB each */

void inode_table_init(struct fs *fs)
{
	pthread_mutex_init(&fs->inode_lock, NULL);
	pthread_mutex_init(&fs->stream_lock, NULL);
	list_init(&fs->idle);
	fs->next_id = ROOT_ID;
	if (!keep_head() && keep_open(-1) < 0)
		abort();
}

static bool inode_stays(const struct inode *ino)
{
	return ino->id == ROOT_ID || (ino->pnode && ino->pnode->inode == ino);
}

/* With fs.inode_lock: somebody uses it again. */
static void idle_end(struct fs *fs, struct inode *ino)
{
	if (list_empty(&ino->idle))
		return;
	list_del(&ino->idle);
	fs->nidle--;
}

/* With fs.inode_lock. Nobody has it, so that its lease does not change: a recall takes a reference first. What lost a name of late is as good as gone. */
static bool worth_keeping(const struct inode *ino)
{
	return (ino->lease & SPRITE__FS__LEASE_BITS__LEASE_ATTR) && ino->handle_len && (S_ISDIR(ino->type) || (ino->attr_valid && (S_ISREG(ino->type) || S_ISLNK(ino->type))));
}

/* With fs.inode_lock. Returns one that was taken out of the tables, to be freed by the caller: this one, or what has to make room for it; NULL: none. */
static struct inode *inode_retire(struct fs *fs, struct inode *ino)
{
	if (ino->nlookup || ino->refs || inode_stays(ino))
		return NULL;
	if (worth_keeping(ino)) {
		keep_free(ino->keep);
		ino->keep = NULL;
		list_move_tail(&fs->idle, &ino->idle);
		if (++fs->nidle <= IDLE_MAX)
			return NULL;
		ino = list_entry(fs->idle.next, struct inode, idle);
	}
	idle_end(fs, ino);
	hash_take_u64(&fs->by_id, ino->id);
	if (ino->handle_len && hash_get(&fs->by_handle, ino->handle, ino->handle_len) == ino)
		hash_take(&fs->by_handle, ino->handle, ino->handle_len);
	return ino;
}

/* With fs.inode_lock. */
static struct inode *inode_ref(struct fs *fs, struct inode *ino)
{
	idle_end(fs, ino);
	ino->refs++;
	return ino;
}

static void inode_free(struct inode *ino)
{
	keep_free(ino->keep);
	recover_forget_locks(ino);
	names_end(ino);
	free(ino->ahead.dirs);
	home_end(ino);
	blocks_forget(&ino->blocks);
	pthread_mutex_destroy(&ino->lock);
	free(ino);
}

static struct kept_inode *kept(struct inode *ino)
{
	return ino->keep ? (struct kept_inode *)ino->keep->data : NULL;
}

/* With fs.inode_lock. */
static void lookups_are(struct inode *ino, uint64_t nlookup)
{
	ino->nlookup = nlookup;
	if (kept(ino))
		atomic_store(&kept(ino)->nlookup, nlookup);
	else if (nlookup && ino->handle_len && !inode_stays(ino))
		inode_save(ino);
}

/* With fs.inode_lock. */
static void lookup_more(struct fs *fs, struct inode *ino)
{
	idle_end(fs, ino);
	lookups_are(ino, ino->nlookup + 1);
}

struct inode *inode_get(struct fs *fs, uint64_t id)
{
	struct inode *ino;

	pthread_mutex_lock(&fs->inode_lock);
	ino = hash_get_u64(&fs->by_id, id == FUSE_ROOT_ID ? ROOT_ID : id);
	if (!ino)
		abort(); /* the kernel speaks of a node that we never told it of */
	inode_ref(fs, ino);
	pthread_mutex_unlock(&fs->inode_lock);
	return ino;
}

struct inode *inode_hold(struct fs *fs, struct inode *ino)
{
	pthread_mutex_lock(&fs->inode_lock);
	inode_ref(fs, ino);
	pthread_mutex_unlock(&fs->inode_lock);
	return ino;
}

void inode_put(struct fs *fs, struct inode *ino)
{
	struct inode *gone;

	pthread_mutex_lock(&fs->inode_lock);
	ino->refs--;
	gone = inode_retire(fs, ino);
	pthread_mutex_unlock(&fs->inode_lock);
	if (gone)
		inode_free(gone);
}

void inode_forget(struct fs *fs, uint64_t id, uint64_t n)
{
	struct inode *ino, *gone = NULL;

	pthread_mutex_lock(&fs->inode_lock);
	ino = hash_get_u64(&fs->by_id, id);
	if (ino && id != ROOT_ID && ino->nlookup) {
		lookups_are(ino, ino->nlookup - (n < ino->nlookup ? n : ino->nlookup));
		gone = inode_retire(fs, ino);
	}
	pthread_mutex_unlock(&fs->inode_lock);
	if (gone)
		inode_free(gone);
}

void inode_save(struct inode *ino)
{
	struct keep *k = keep_new(sizeof(struct kept_inode) + ino->handle_len);
	struct kept_inode *i;

	if (!k)
		return;
	i = (struct kept_inode *)k->data;
	atomic_store(&i->nlookup, ino->nlookup);
	atomic_store(&i->wb_error, ino->wb_error);
	i->domain = ino->dom ? ino->dom->index : 0;
	i->type = ino->type;
	i->handle_len = ino->handle_len;
	memcpy(i->handle, ino->handle, ino->handle_len);
	keep_commit(k, KEEP_INODE, ino->id);
	keep_free(ino->keep);
	ino->keep = k;
}

void inode_told(struct fs *fs, struct inode *ino)
{
	pthread_mutex_lock(&fs->inode_lock);
	inode_save(ino);
	pthread_mutex_unlock(&fs->inode_lock);
}

void inode_wb_error(struct inode *ino, int err)
{
	ino->wb_error = err;
	if (kept(ino))
		atomic_store(&kept(ino)->wb_error, err);
}

static struct inode *inode_make(struct fs *fs, struct domain *dom, struct pnode *pnode)
{
	struct inode *ino = calloc(1, sizeof(*ino));

	if (!ino)
		return NULL;
	ino->id = fs->next_id;
	ino->dom = dom;
	ino->pnode = pnode;
	pthread_mutex_init(&ino->lock, NULL);
	ino->stamp = 1; /* told is 0 */
	blocks_of_init(&ino->blocks, &fs->blocks, ino->id);
	list_init(&ino->idle);
	list_init(&ino->ahead.waiters);
	list_init(&ino->streams);
	list_init(&ino->locks);
	list_init(&ino->unlock_waiters);
	list_init(&ino->dirty);
	list_init(&ino->flying);
	list_init(&ino->wb_waiters);
	list_init(&ino->wb_link);
	if (hash_set_u64(&fs->by_id, ino->id, ino, NULL) < 0) {
		inode_free(ino);
		return NULL;
	}
	fs->next_id++;
	if (fs->next_id > atomic_load(&keep_head()->next_id))
		atomic_store(&keep_head()->next_id, fs->next_id);
	return ino;
}

struct inode *inode_new(struct fs *fs, struct domain *dom, struct pnode *pnode)
{
	struct inode *ino;

	pthread_mutex_lock(&fs->inode_lock);
	ino = inode_make(fs, dom, pnode);
	if (ino)
		ino->refs = 1;
	pthread_mutex_unlock(&fs->inode_lock);
	return ino;
}

/* With fs.inode_lock: the inode of a handle, found or made. */
static struct inode *inode_of(struct fs *fs, struct domain *dom, const ProtobufCBinaryData *h, uint32_t mode)
{
	struct inode *ino;

	if (!h->len || h->len > FS_HANDLE_MAX)
		return NULL;
	ino = hash_get(&fs->by_handle, h->data, h->len);
	/* The handle of a removed file may come back as another one's only by a fault of the server; a type must never change under the kernel. */
	if (ino && ino->type && ino->type != (mode & S_IFMT)) {
		hash_take(&fs->by_handle, h->data, h->len);
		ino = NULL;
	}
	if (ino)
		return ino;
	ino = inode_make(fs, dom, NULL);
	if (!ino)
		return NULL;
	memcpy(ino->handle, h->data, h->len);
	ino->handle_len = h->len;
	ino->type = mode & S_IFMT;
	ino->born_seq = dom->server ? atomic_load(&dom->server->recalled_seq) : 0; /* lease.c, invariant 1 */
	if (hash_set(&fs->by_handle, h->data, h->len, ino, NULL) < 0) {
		hash_take_u64(&fs->by_id, ino->id);
		inode_free(ino);
		return NULL;
	}
	return ino;
}

struct inode *inode_looked_up(struct fs *fs, struct domain *dom, const ProtobufCBinaryData *h, uint32_t mode)
{
	struct inode *ino;

	pthread_mutex_lock(&fs->inode_lock);
	ino = inode_of(fs, dom, h, mode);
	if (ino)
		lookup_more(fs, ino);
	pthread_mutex_unlock(&fs->inode_lock);
	return ino;
}

struct inode *inode_met(struct fs *fs, struct domain *dom, const ProtobufCBinaryData *h, uint32_t mode)
{
	struct inode *ino;

	pthread_mutex_lock(&fs->inode_lock);
	ino = inode_of(fs, dom, h, mode);
	if (ino)
		inode_ref(fs, ino);
	pthread_mutex_unlock(&fs->inode_lock);
	return ino;
}

struct inode *inode_born(struct fs *fs, struct domain *dom, const struct stat *guess)
{
	struct inode *ino;

	pthread_mutex_lock(&fs->inode_lock);
	ino = inode_make(fs, dom, NULL);
	if (ino) {
		ino->type = guess->st_mode & S_IFMT;
		ino->lease = SPRITE__FS__LEASE_BITS__LEASE_ATTR | SPRITE__FS__LEASE_BITS__LEASE_DATA | SPRITE__FS__LEASE_BITS__LEASE_WRITE;
		ino->no_acl = ino->no_cap = ino->newborn = ino->guessed = true;
		ino->guess = *guess;
		ino->guess.st_ino = (1ull << 62) + ino->id; /* seen by nobody: whoever asks waits for the true one */
		ino->nlookup = ino->refs = 1;
	}
	pthread_mutex_unlock(&fs->inode_lock);
	return ino;
}

struct inode *inode_find(struct fs *fs, uint64_t id)
{
	struct inode *ino;

	pthread_mutex_lock(&fs->inode_lock);
	ino = hash_get_u64(&fs->by_id, id);
	if (ino)
		inode_ref(fs, ino);
	pthread_mutex_unlock(&fs->inode_lock);
	return ino;
}

void inode_count_lookup(struct fs *fs, struct inode *ino)
{
	pthread_mutex_lock(&fs->inode_lock);
	lookup_more(fs, ino);
	pthread_mutex_unlock(&fs->inode_lock);
}

struct inode *inode_resume(struct fs *fs, struct domain *dom, struct keep *k)
{
	struct kept_inode *i = (struct kept_inode *)k->data;
	struct inode *ino;

	pthread_mutex_lock(&fs->inode_lock);
	fs->next_id = k->key;
	ino = inode_make(fs, dom, NULL);
	if (!ino)
		abort();
	ino->handle_len = i->handle_len;
	memcpy(ino->handle, i->handle, i->handle_len);
	ino->type = i->type;
	ino->nlookup = i->nlookup;
	ino->wb_error = i->wb_error;
	ino->keep = k;
	ino->newborn = !i->handle_len; /* dirq_keep.c finds what makes it */
	ino->stillborn = ino->newborn ? EIO : 0;
	ino->born_tid = BORN_OPENED;
	ino->born_seq = dom->server ? atomic_load(&dom->server->recalled_seq) : 0; /* as if it were met now */
	if (ino->handle_len && hash_set(&fs->by_handle, ino->handle, ino->handle_len, ino, NULL) < 0)
		abort();
	pthread_mutex_unlock(&fs->inode_lock);
	return ino;
}

void inode_resumed(struct fs *fs)
{
	struct hash_iter it = {0};
	struct inode *ino;

	pthread_mutex_lock(&fs->inode_lock);
	while ((ino = hash_next(&fs->by_id, &it)))
		if (inode_retire(fs, ino)) /* this one: it holds no lease yet */
			inode_free(ino);
	pthread_mutex_unlock(&fs->inode_lock);
}

void inode_set_handle(struct fs *fs, struct inode *ino, const ProtobufCBinaryData *h)
{
	if (!h->len || h->len > FS_HANDLE_MAX)
		return;
	pthread_mutex_lock(&fs->inode_lock);
	if (ino->handle_len != h->len || memcmp(ino->handle, h->data, h->len) != 0) {
		if (ino->handle_len && hash_get(&fs->by_handle, ino->handle, ino->handle_len) == ino)
			hash_take(&fs->by_handle, ino->handle, ino->handle_len);
		memcpy(ino->handle, h->data, h->len);
		ino->handle_len = h->len;
		hash_set(&fs->by_handle, h->data, h->len, ino, NULL);
		if (ino->newborn)
			inode_save(ino);
	}
	pthread_mutex_unlock(&fs->inode_lock);
}

/*
 * One FUSE mount has one st_dev, so that equal inode numbers of two domains would look like hard links to tar. The numbers of the root domain
 * and of a mount with one domain only are the server's own; another domain's get its id in the upper bits, the same on every node.
 */
uint64_t inode_show_ino(const struct fs *fs, const struct domain *dom, uint64_t ino)
{
	if (!fs->whole || !dom || !strcmp(dom->prefix, "/"))
		return ino;
	return ino ^ ((((dom->id * 0x9e3779b97f4a7c15ull) >> 48) | 1) << 47);
}

static void stat_time(struct timespec *ts, int64_t ns)
{
	ts->tv_sec = ns / 1000000000;
	ts->tv_nsec = ns % 1000000000;
	if (ts->tv_nsec < 0) {
		ts->tv_nsec += 1000000000;
		ts->tv_sec--;
	}
}

void inode_stat(struct fs *fs, const struct domain *dom, const Sprite__Fs__Attr *a, struct stat *st)
{
	memset(st, 0, sizeof(*st));
	st->st_ino = inode_show_ino(fs, dom, a->ino);
	st->st_mode = a->mode;
	st->st_nlink = a->nlink;
	st->st_uid = a->uid;
	st->st_gid = a->gid;
	st->st_rdev = a->rdev;
	st->st_size = (off_t)a->size;
	st->st_blocks = (blkcnt_t)a->blocks;
	st->st_blksize = a->blksize;
	stat_time(&st->st_atim, a->atime);
	stat_time(&st->st_mtim, a->mtime);
	stat_time(&st->st_ctim, a->ctime);
}

void inode_virtual_stat(struct fs *fs, const struct inode *ino, struct stat *st)
{
	memset(st, 0, sizeof(*st));
	st->st_ino = ino->id == ROOT_ID ? 1 : (1ull << 62) + ino->id;
	st->st_mode = S_IFDIR | 0755;
	st->st_nlink = 2;
	st->st_blksize = 4096;
	stat_time(&st->st_mtim, (int64_t)fs->started_ns);
	st->st_atim = st->st_ctim = st->st_mtim;
}

/*
 * How long the kernel may believe attributes and names, in seconds. Served domains: not at all, without a lease (invariant 7). Home domains are
 * changed natively by their host, without asking anybody: there the bound is one second (fs.md). A FIFO's attributes never: every open of one
 * must be seen (pipes.md).
 */
double inode_timeout(const struct inode *ino, uint32_t mode)
{
	if (S_ISFIFO(mode) || !ino->dom)
		return 0;
	return ino->dom->home ? 1.0 : 0;
}

bool inode_is_virtual(struct fs *fs, const struct inode *ino)
{
	bool known;

	if (!ino->dom)
		return true;
	if (ino->dom->server)
		return false;
	pthread_mutex_lock(&fs->table_lock);
	known = fs->table_known;
	pthread_mutex_unlock(&fs->table_lock);
	return known && ino->pnode && fs->whole;
}

uint64_t inode_any_open(struct inode *ino)
{
	struct stream *st;
	uint64_t open = 0;

	pthread_mutex_lock(&ino->lock);
	list_each(st, &ino->streams, link)
		if (st->open && st->open != STREAM_UNBORN && !st->spare) {
			open = st->open;
			break;
		}
	pthread_mutex_unlock(&ino->lock);
	return open;
}

uint64_t inode_any_writer(struct inode *ino)
{
	struct stream *st;
	uint64_t open = 0;

	pthread_mutex_lock(&ino->lock);
	list_each(st, &ino->streams, link)
		if (!open && st->open && st->open != STREAM_UNBORN && (st->flags & O_ACCMODE) != O_RDONLY)
			open = st->open;
	pthread_mutex_unlock(&ino->lock);
	return open ? open : inode_any_open(ino);
}

bool inode_is_known(struct fs *fs, struct inode *ino)
{
	bool r;

	pthread_mutex_lock(&fs->inode_lock);
	r = ino->nlookup || inode_stays(ino);
	pthread_mutex_unlock(&fs->inode_lock);
	return r;
}

bool inode_is_awaited(struct fs *fs, struct inode *ino)
{
	bool r;

	pthread_mutex_lock(&fs->inode_lock);
	r = ino->nlookup > ino->miscounted;
	pthread_mutex_unlock(&fs->inode_lock);
	return r;
}

void inode_miscounted(struct fs *fs, struct inode *ino)
{
	pthread_mutex_lock(&fs->inode_lock);
	ino->miscounted = ino->nlookup;
	pthread_mutex_unlock(&fs->inode_lock);
}

size_t inode_count(struct fs *fs)
{
	size_t n;

	pthread_mutex_lock(&fs->inode_lock);
	n = fs->by_id.count - fs->nidle;
	pthread_mutex_unlock(&fs->inode_lock);
	return n;
}

void inode_each(struct fs *fs, void (*fn)(void *arg, struct inode *ino), void *arg)
{
	struct hash_iter it = {0};
	struct inode *ino;

	pthread_mutex_lock(&fs->inode_lock);
	while ((ino = hash_next(&fs->by_id, &it))) {
		pthread_mutex_lock(&ino->lock);
		fn(arg, ino);
		pthread_mutex_unlock(&ino->lock);
	}
	pthread_mutex_unlock(&fs->inode_lock);
}

struct inode *inode_by_handle(struct fs *fs, const ProtobufCBinaryData *h)
{
	struct inode *ino;

	pthread_mutex_lock(&fs->inode_lock);
	ino = h->len ? hash_get(&fs->by_handle, h->data, h->len) : NULL;
	if (ino)
		inode_ref(fs, ino);
	pthread_mutex_unlock(&fs->inode_lock);
	return ino;
}

size_t inode_leased(struct fs *fs, const struct server *s, bool reset, struct inode ***all)
{
	struct hash_iter it = {0};
	struct inode *ino;
	size_t n = 0;

	pthread_mutex_lock(&fs->inode_lock);
	*all = calloc(fs->by_id.count + 1, sizeof(**all));
	while (*all && (ino = hash_next(&fs->by_id, &it))) {
		if (!ino->dom || ino->dom->server != s)
			continue;
		pthread_mutex_lock(&ino->lock);
		if (reset)
			ino->recalled_seq = ino->born_seq = 0;
		if (ino->lease) {
			(*all)[n++] = inode_ref(fs, ino);
		}
		pthread_mutex_unlock(&ino->lock);
	}
	pthread_mutex_unlock(&fs->inode_lock);
	return n;
}

size_t inode_of_server(struct fs *fs, const struct server *s, struct inode ***all)
{
	struct hash_iter it = {0};
	struct inode *ino;
	size_t n = 0;

	pthread_mutex_lock(&fs->inode_lock);
	*all = calloc(fs->by_id.count + 1, sizeof(**all));
	while (*all && (ino = hash_next(&fs->by_id, &it))) {
		if (!ino->dom || ino->dom->server != s)
			continue;
		pthread_mutex_lock(&ino->lock);
		if (!list_empty(&ino->streams) || !list_empty(&ino->locks) || !list_empty(&ino->dirty)) {
			(*all)[n++] = inode_ref(fs, ino);
		}
		pthread_mutex_unlock(&ino->lock);
	}
	pthread_mutex_unlock(&fs->inode_lock);
	return n;
}
