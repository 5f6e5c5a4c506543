/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading directories, a page of names at a time; with `plus` what is known of each entry, a lease on it and the contents of small files (fs/dirent.h).
 *
 * Leases on the entries (entry_want) are taken in bulk: the names of the page are read, what others have to give up for them is asked of each other client in
 * one event, and when all have answered, or lost their leases, the page is read anew and what can be granted is granted. An entry that cannot be had
 * then comes without: it never holds up the page a second time.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "fs/dirent.h"
#include "fs/server/lease.h"
#include "fs/server/mounts.h"
#include "fs/server/ops.h"

#define NAMES_MAX (128u << 10) /* bytes of the kernel's records for one page */
#define NAMES_MIN 320u	       /* room for the longest one */
#define DATA_MEAN 1024u	       /* what is reckoned for the contents of a file */

struct kernel_dirent {
	uint64_t d_ino;
	int64_t d_off;
	unsigned short d_reclen;
	unsigned char d_type;
	char d_name[];
};

struct listing {
	struct op *o;
	const Sprite__Fs__ReaddirReq *in;
	const struct object *dir;
	struct cs_key key; /* of the directory */
	char *names;	   /* NAMES_MAX bytes, records of the kernel */
	uint8_t *out;
	size_t room, len;
	uint64_t cookie; /* after what is in `out` */
	bool end;
};

/* ---- entries -------------------------------------------------------------------------------------------- */

static uint32_t entry_want(const struct listing *l, const struct object *child, const struct stat *st)
{
	uint64_t alone = l->in->entry_want & CS_WRITE;

	if (S_ISDIR(st->st_mode) && alone)
		return lease_dir_bits(child, alone);
	return op_want(st) | (S_ISREG(st->st_mode) ? (uint32_t)alone : 0);
}

/* What is known of the entry: nothing when the caller may not see it, or somebody else has changes of it that are not told yet. */
static void entry_fill(struct listing *l, const char *name, uint8_t *packed, struct fs_dirent *d)
{
	struct object child _cleanup_object_ = OBJECT_INIT;
	size_t head = FS_DIRENT_HEAD + d->namelen + FS_DIRENT_ENTRYMAX;
	struct op_entry e;
	struct stat st;
	ssize_t n;

	if (export_lookup(l->dir, name, &child, &st) < 0)
		return;
	/* after the grant nobody can hide it */
	if (op_entry(l->o, &child, &st, entry_want(l, &child, &st), &e) < 0 || (!e.msg.lease && lease_hidden(l->o, child.ex, lease_key(&st))) ||
		sprite__fs__entry__get_packed_size(&e.msg) > FS_DIRENT_ENTRYMAX)
		return;
	d->ino = e.attr.ino;
	d->entrylen = (uint32_t)sprite__fs__entry__pack(&e.msg, packed);
	d->entry = packed;
	if (!l->in->data_max || !(e.msg.lease & CS_DATA) || l->room - l->len < head + (size_t)st.st_size)
		return;
	d->data = l->out + l->len + FS_DIRENT_HEAD + d->namelen + d->entrylen; /* where it will lie */
	n = op_contents(child.fd, &st, l->in->data_max < FS_DIRENT_DATAMAX ? l->in->data_max : FS_DIRENT_DATAMAX, (uint8_t *)d->data);
	if (n >= 0)
		d->datalen = (uint32_t)n;
}

static bool is_dots(const char *name)
{
	return !strcmp(name, ".") || !strcmp(name, "..");
}

/* Would an Entry without the contents be worth little, because those begin the next page? */
static bool page_is_full(const struct listing *l, const struct fs_dirent *d)
{
	return l->in->data_max && d->type == DT_REG && l->room - l->len < FS_DIRENT_HEAD + 255 + FS_DIRENT_ENTRYMAX + 4 * DATA_MEAN && l->len > l->room / 2;
}

/* Adds records until the kernel's or ours are used up. Returns false when the reply is full. */
static bool list_chunk(struct listing *l, size_t n)
{
	for (size_t at = 0; at < n;) {
		const struct kernel_dirent *k = (const void *)(l->names + at);
		uint8_t packed[FS_DIRENT_ENTRYMAX];
		struct fs_dirent d = {.ino = k->d_ino,
			.cookie = (uint64_t)k->d_off,
			.type = k->d_type,
			.namelen = (uint32_t)strlen(k->d_name),
			.datalen = FS_DIRENT_NODATA,
			.name = k->d_name};
		size_t put;

		if (page_is_full(l, &d))
			return false;
		at += k->d_reclen;
		if (export_is_private(l->dir, k->d_name))
			continue;
		if (l->in->plus && !is_dots(k->d_name))
			entry_fill(l, k->d_name, packed, &d);
		put = fs_dirent_put(l->out + l->len, l->room - l->len, &d);
		if (!put)
			return false;
		l->len += put;
		l->cookie = d.cookie;
	}
	return true;
}

/* ---- names ---------------------------------------------------------------------------------------------- */

/*
 * Before anything of the page is told: what others must give up for it. 0: go on; OP_PARK: they were asked. Entries are known by the directory's device and the number in their
 * record; where that is another's (a mount point), too much or nothing is asked.
 */
static int list_hope(struct listing *l, size_t n)
{
	struct op *o = l->o;
	_cleanup_free_ struct cs_key *keys = malloc((n / sizeof(struct kernel_dirent) + 1) * sizeof(*keys));
	struct cs_need *hopes = calloc(n / sizeof(struct kernel_dirent) + 3, sizeof(*hopes));
	int nkeys = 0, nhopes = 1;

	o->hoped = true;
	o->hopes = hopes;
	if (!keys || !hopes)
		return -ENOMEM;
	hopes[0] = (struct cs_need){.key = l->key, .breaks = CS_WRITE};
	if (l->in->want & CS_WRITE)
		nhopes += lease_hopes(o, l->dir->ex, &l->key, 1, true, hopes + nhopes);
	for (size_t at = 0; at < n && l->in->plus && l->in->entry_want;) {
		const struct kernel_dirent *k = (const void *)(l->names + at);

		if (!is_dots(k->d_name))
			keys[nkeys++] = (struct cs_key){l->key.dev, k->d_ino};
		at += k->d_reclen;
	}
	nhopes += lease_hopes(o, l->dir->ex, keys, nkeys, l->in->entry_want & CS_WRITE, hopes + nhopes);
	o->nhopes = nhopes;
	hopes = realloc(hopes, (size_t)nhopes * sizeof(*hopes)); /* while it is parked, only what counts (ops.c) */
	if (hopes)
		o->hopes = hopes;
	return nhopes > 1 ? lease_begin(o, l->dir->ex, o->hopes, nhopes) : 0;
}

/* How many bytes to ask the kernel for so that all of it surely fits: asking again for what did not would need a seek. */
static size_t list_ask(const struct listing *l)
{
	size_t per = FS_DIRENT_HEAD + 24 + (l->in->plus ? 200 : 0) + (l->in->data_max ? DATA_MEAN : 0); /* a short name's record, of 24 bytes in the kernel */
	size_t n = (l->room - l->len) / per * 24;

	return n > NAMES_MAX ? NAMES_MAX : n < NAMES_MIN && !l->len ? NAMES_MIN : n;
}

static int list_fill(struct listing *l, int fd)
{
	while (list_ask(l) >= NAMES_MIN) {
		long n = syscall(SYS_getdents64, fd, l->names, list_ask(l));
		int r = n < 0 ? -errno : 0;

		if (r < 0)
			return l->len ? 0 : r;
		if (!l->o->hoped && (l->in->want & CS_WRITE || (l->in->plus && l->in->entry_want)))
			r = list_hope(l, (size_t)n);
		if (r)
			return r;
		if (n == 0) {
			l->end = true;
			return 0;
		}
		/* what follows the first records was asked of nobody: it would come without leases, and not again */
		if ((l->len && l->o->nhopes > 1) || !list_chunk(l, (size_t)n))
			return 0;
	}
	return 0;
}

/* As the caller: his right to search decides whose attributes he gets. */
static int list_open_dir(struct listing *l, struct open *f)
{
	int r = 0;

	pthread_mutex_lock(&f->lock);
	if (l->in->cookie != f->dir_pos && lseek(f->fd, (off_t)l->in->cookie, SEEK_SET) < 0)
		r = -errno;
	l->cookie = l->in->cookie;
	if (r == 0)
		r = list_fill(l, f->fd);
	/* the descriptor stands after everything it gave: when not all of that fitted, the next call must seek */
	f->dir_pos = r == 0 && lseek(f->fd, 0, SEEK_CUR) == (off_t)l->cookie ? l->cookie : UINT64_MAX;
	pthread_mutex_unlock(&f->lock);
	return r;
}

static int list_by_handle(struct listing *l)
{
	_cleanup_close_ int fd = open(op_path(l->dir->fd).s, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	if (l->in->cookie && lseek(fd, (off_t)l->in->cookie, SEEK_SET) < 0)
		return -errno;
	return list_fill(l, fd);
}

/* Run again after what was hoped for was asked of others, it begins with all of that. */
static int list_begin(struct listing *l)
{
	l->key = lease_dir_key(l->dir);
	if (l->o->hoped && l->o->nhopes > 1)
		return lease_begin(l->o, l->dir->ex, l->o->hopes, l->o->nhopes);
	return lease_look(l->o, l->dir->ex, l->key, false);
}

int op_readdir(struct op *o, const ProtobufCMessage *m)
{
	const Sprite__Fs__ReaddirReq *in = (const void *)m;
	Sprite__Fs__ReaddirRep rep = SPRITE__FS__READDIR_REP__INIT;
	struct object dir _cleanup_object_ = OBJECT_INIT;
	struct listing l = {.o = o, .in = in, .dir = &dir};
	_cleanup_free_ char *names = NULL;
	struct open *f = NULL;
	int r = 0;

	l.room = in->size < 8192 ? 8192 : in->size > FS_IO_MAX ? FS_IO_MAX : in->size;
	if (in->open) {
		f = op_open(o, in->open, &r);
		if (!f)
			return r;
	}
	r = op_begin_dir(o, in->cred, in->handle, &dir);
	if (r == 0)
		r = list_begin(&l);
	if (r) {
		open_put(f);
		return r;
	}
	rep.dir_lease = lease_grant_dir(o, &dir, in->handle, in->want, &rep.dir_lease_seq);
	l.out = malloc(l.room);
	l.names = names = malloc(NAMES_MAX);
	r = !l.out || !names ? -ENOMEM : f ? list_open_dir(&l, f) : list_by_handle(&l);
	open_put(f);
	if (r) {
		free(l.out);
		return r;
	}
	rep.end = l.end;
	return op_done_bulk(o, &rep.base, l.out, l.len);
}
