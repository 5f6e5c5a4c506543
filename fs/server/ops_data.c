/* SPDX-License-Identifier: Apache-2.0 */
/*
 * File contents. Reads go by the open's descriptor, whose opening was checked. Writes act as the writer: quota, reserved blocks and the clearing of
 * setuid bits are decided by who writes, not by who opened.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/fault.h"
#include "fs/server/hand.h"
#include "fs/server/lease.h"
#include "fs/server/mounts.h"
#include "fs/server/ops.h"
#include "fs/server/recover.h"
#include "fs/server/unlinked.h"

#define COPY_MAX    (64u << 20) /* per call, so that a caller is not kept for long */
#define STREAM_NEAR (8u << 20)	/* writes are a stream while they are that near to its end (several are under way at once, in any order) */
#define STREAM_LEAST (8u << 20) /* from so much on what a stream has written is sent to the disk at once */
#define STREAM_PIECE (256u << 10)
#define APPEND_NEAR  (1u << 20) /* so far behind its place the append of a call that comes again is looked for */

/* `size`: where the file seems to end. */
static ssize_t read_full(int fd, char *to, size_t n, off_t at, off_t size)
{
	size_t got = 0;

	while (got < n) {
		ssize_t r = pread(fd, to + got, n - got, at + (off_t)got);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return got ? (ssize_t)got : -errno;
		got += (size_t)r;
		if (r == 0 || at + (off_t)got == size)
			break;
	}
	return (ssize_t)got;
}

/* A descriptor for one call: the open's, or (open 0) one opened as the caller. *own is to be closed. */
static int data_fd(struct op *o, ProtobufCBinaryData handle, uint64_t open_id, const Sprite__Fs__Cred *cred, struct open **f, int *own,
	struct export **ex)
{
	struct object obj _cleanup_object_ = OBJECT_INIT;
	struct stat st;
	int r = 0;

	if (open_id) {
		*f = op_open(o, open_id, &r);
		if (*f)
			*ex = (*f)->ex;
		return *f ? (*f)->fd : r;
	}
	r = op_begin(o, cred, handle, &obj);
	if (r < 0)
		return r;
	if (fstat(obj.fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return S_ISDIR(st.st_mode) ? -EISDIR : -ENXIO;
	*ex = obj.ex;
	*own = open(op_path(obj.fd).s, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	return *own < 0 ? -errno : *own;
}

int op_read(struct op *o, const ProtobufCMessage *m)
{
	const Sprite__Fs__ReadReq *in = (const void *)m;
	Sprite__Fs__ReadRep rep = SPRITE__FS__READ_REP__INIT;
	struct open *f = NULL;
	struct export *ex = NULL;
	_cleanup_close_ int own = -1;
	size_t size = in->size > FS_IO_MAX ? FS_IO_MAX : in->size;
	struct cs_key key = {0, 0};
	struct stat st;
	char *data = NULL;
	ssize_t n = 0;
	int fd, r;

	fd = data_fd(o, in->handle, in->open, in->cred, &f, &own, &ex);
	if (fd < 0)
		return fd;
	r = in->offset > INT64_MAX ? -EINVAL : !f && fstat(fd, &st) < 0 ? -errno : 0;
	if (r == 0) {
		key = f ? (struct cs_key){f->dev, f->ino} : lease_key(&st);
		r = lease_look(o, ex, key, true);
	}
	if (r == 0) {
		/* a page may stay in the reader's kernel: it needs a lease even while others write */
		rep.lease = lease_grant(o, ex, key, f ? open_handle_of(f) : in->handle, CS_DATA | CS_ATTR, true,
			&rep.lease_seq);
		data = malloc(size ? size : 1);
		r = !data ? -ENOMEM : fstat(fd, &st) < 0 ? -errno : 0; /* before the data: a change while reading shows as a later `change` */
	}
	if (r == 0) {
		rep.change = op_change(o->d, &st);
		n = read_full(fd, data, size, (off_t)in->offset, st.st_size);
		r = n < 0 ? (int)n : 0;
	}
	open_put(f);
	if (r) {
		free(data);
		return r;
	}
	return op_done_bulk(o, &rep.base, data, (size_t)n);
}

/* Writes all of the iovec (a private copy); returns bytes written, or -errno when none was, or (`whole`) not all. */
static ssize_t write_full(int fd, struct iovec *v, int n, off_t at, bool whole)
{
	ssize_t done = 0;

	while (n > 0) {
		ssize_t r = pwritev(fd, v, n, at + done);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return done && !whole ? done : -errno;
		done += r;
		while (n > 0 && (size_t)r >= v->iov_len) {
			r -= (ssize_t)v->iov_len;
			v++;
			n--;
		}
		if (n > 0) {
			v->iov_base = (char *)v->iov_base + r;
			v->iov_len -= (size_t)r;
		}
	}
	return done;
}

/* Do the bytes at `at` equal these? */
static bool written_at(int fd, const struct iovec *v, int n, uint64_t at)
{
	char buf[16384];

	for (int i = 0; i < n; i++)
		for (size_t done = 0; done < v[i].iov_len;) {
			size_t len = v[i].iov_len - done < sizeof(buf) ? v[i].iov_len - done : sizeof(buf);

			if (pread(fd, buf, len, (off_t)at) != (ssize_t)len || memcmp(buf, (char *)v[i].iov_base + done, len))
				return false;
			done += len;
			at += len;
		}
	return true;
}

/*
 * Is this append, which was to land at *at, there? In a home others append natively, so it may stand some way behind; where it begins is looked for by its first bytes. (What somebody else has
 * written there meanwhile and is equal to the last byte cannot be told from it.)
 */
static bool appended_before(int fd, const struct iovec *v, int n, bool home, uint64_t *at)
{
	_cleanup_free_ char *behind = NULL;
	const char *p, *end;
	ssize_t len;

	if (!n || written_at(fd, v, n, *at))
		return true;
	behind = home ? malloc(APPEND_NEAR) : NULL;
	len = behind ? pread(fd, behind, APPEND_NEAR, (off_t)*at) : 0;
	for (p = behind, end = behind + len; len > 0 && (p = memmem(p, (size_t)(end - p), v[0].iov_base, v[0].iov_len < 16 ? v[0].iov_len : 16)); p++)
		if (written_at(fd, v, n, *at + (uint64_t)(p - behind))) {
			*at += (uint64_t)(p - behind);
			return true;
		}
	return false;
}

/*
 * An append lands at the end as it is then, together with the native writers of a home: RWF_APPEND with the descriptor's own offset tells where. A
 * second, partial round (disk full) would not be contiguous, so there is only one.
 */
static ssize_t write_append(struct op *o, struct open *f, struct iovec *v, int n, uint64_t *offset)
{
	const struct intent *it = op_repeated(o);
	struct stat st;
	ssize_t r;

	*offset = it ? it->extra : 0;
	if (it && appended_before(f->fd, v, n, f->ex->conf->home, offset))
		return (ssize_t)o->in->bulk_len;
	if (fstat(f->fd, &st) == 0)
		op_intend(o, &st, (uint64_t)st.st_size); /* nobody else appends meanwhile, but in a home: the file is ours to change now */

	pthread_mutex_lock(&f->lock);
	do
		r = pwritev2(f->fd, v, n, -1, RWF_APPEND);
	while (r < 0 && errno == EINTR);
	if (r < 0)
		r = -errno;
	else
		*offset = (uint64_t)lseek(f->fd, 0, SEEK_CUR) - (uint64_t)r;
	pthread_mutex_unlock(&f->lock);
	return r;
}

/* At the offset that this open shares with others, as write(2) does at that of a descriptor. */
static ssize_t write_shared(struct op *o, struct open *f, struct iovec *v, int n, uint64_t *offset)
{
	const struct intent *it = op_repeated(o);
	struct stat st;
	ssize_t r;

	pthread_mutex_lock(&f->offset->lock);
	if (it && written_at(f->fd, v, n, it->extra)) {
		*offset = it->extra;
		r = (ssize_t)o->in->bulk_len;
	} else {
		*offset = f->offset->pos;
		if (fstat(f->fd, &st) == 0)
			op_intend(o, &st, *offset);
		hand_offset_intend(o->d, f->offset, o->in->bulk_len);
		r = write_full(f->fd, v, n, (off_t)*offset, false);
	}
	if (r > 0 && *offset + (uint64_t)r > f->offset->pos)
		f->offset->pos = *offset + (uint64_t)r;
	pthread_mutex_unlock(&f->offset->lock);
	return r;
}

/* Before the contents of an open file change: become the writer, and take what others have of it. */
static int write_begin(struct op *o, struct open *f, const Sprite__Fs__Cred *cred, bool mapped)
{
	struct cs_need need = lease_change((struct cs_key){f->dev, f->ino}, CS_DATA | CS_ATTR, NULL);
	int r = op_access(o, f->ex, cred);

	need.early = mapped;
	if (r == 0)
		r = op_become(o);
	return r < 0 ? r : lease_begin(o, f->ex, &need, 1);
}

/* After it: what the writer may keep. Write-behind only for who has the file open for writing, and has not given it up. */
static uint32_t write_grant(struct op *o, struct open *f, uint32_t give_up, uint64_t *seq)
{
	struct cs_key key = {f->dev, f->ino};
	uint32_t want = CS_DATA | CS_ATTR | (f->write ? CS_WRITE : 0);

	if (give_up)
		lease_release(o, f->ex, key, give_up, seq);
	return lease_grant(o, f->ex, key, open_handle_of(f), want & ~give_up, false, seq);
}

/*
 * The open is of the server's last life, and this append may have been made in that life. Answered "open it again", the client would send it as a new call under the new open, and
 * nobody would know it again. So it is answered as what it was. Only the bytes where the intent says they went are compared.
 */
static bool append_was_done(struct op *o, const Sprite__Fs__WriteReq *in, Sprite__Fs__WriteRep *rep, Sprite__Fs__Attr *attr)
{
	const struct intent *it = in->append || in->stream ? op_repeated(o) : NULL;
	const struct rpc_msg *msg = o->in;
	struct object obj _cleanup_object_ = OBJECT_INIT;
	_cleanup_close_ int fd = -1;
	struct stat st;

	if (!it || op_resolve(o, in->handle, &obj) < 0 || fstat(obj.fd, &st) < 0 || !S_ISREG(st.st_mode) || !op_intent_is(it, &st))
		return false;
	fd = open(op_path(obj.fd).s, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	rep->offset = it->extra;
	if (fd < 0 || !appended_before(fd, msg->iov, msg->niov, in->append && obj.ex->conf->home, &rep->offset))
		return false;
	rep->size = msg->bulk_len;
	op_attr(o->d, obj.mount, obj.fd, &st, attr);
	rep->attr = attr;
	return true;
}

/* Is this a part of a large file being written from its beginning to its end? Then the disk is to be at it while the rest comes, not only when fsync(2) waits for it. */
static bool write_streams(struct open *f, uint64_t off, size_t n)
{
	bool r;

	pthread_mutex_lock(&f->lock);
	if (off + STREAM_NEAR < f->front || off > f->front + STREAM_NEAR)
		f->streamed = f->front = 0;
	f->streamed += n;
	if (off + n > f->front)
		f->front = off + n;
	r = n >= STREAM_PIECE && f->streamed >= STREAM_LEAST;
	pthread_mutex_unlock(&f->lock);
	return r;
}

int op_write(struct op *o, const ProtobufCMessage *m)
{
	const Sprite__Fs__WriteReq *in = (const void *)m;
	const struct rpc_msg *msg = o->in;
	Sprite__Fs__WriteRep rep = SPRITE__FS__WRITE_REP__INIT;
	struct iovec v[RPC_IOV_MAX];
	unsigned sync = in->fsync ? in->fsync : in->sync ? 1 : 0; /* 2: the data only */
	enum cs_after after;
	Sprite__Fs__Attr attr;
	struct open *f;
	struct stat st;
	ssize_t n = 0;
	bool streams;
	int r;

	f = op_open(o, in->open, &r);
	if (!f && r == -FS_EREOPEN && append_was_done(o, in, &rep, &attr))
		return op_done(o, &rep.base);
	if (!f)
		return r;
	r = in->lease_epoch && !recover_may_write(o, in->lease_epoch) ? -ESTALE : in->offset > INT64_MAX ? -EFBIG : write_begin(o, f, in->cred, in->mapped);
	if (r == 0) {
		memcpy(v, msg->iov, (size_t)msg->niov * sizeof(v[0]));
		rep.offset = in->offset;
		n = in->append		     ? write_append(o, f, v, msg->niov, &rep.offset) :
		    in->stream && f->offset ? write_shared(o, f, v, msg->niov, &rep.offset) :
				 write_full(f->fd, v, msg->niov, (off_t)in->offset, in->lease_epoch != 0); /* who was answered already cannot be told of a part */
		r = n < 0 ? (int)n : fstat(f->fd, &st) < 0 ? -errno : 0;
	}
	if (r == 0) {
		op_changed(o->d, &st);
		atomic_store(&f->wrote, true);
		if (in->close) /* before who waits for what is given up is woken: he is to find the file closed */
			lease_close(o->d, f);
		rep.lease = write_grant(o, f, (uint32_t)in->give_up, &rep.lease_seq);
		if (rep.lease && fstat(f->fd, &st) < 0)
			r = -errno;
		op_attr(o->d, f->mount, f->fd, &st, &attr);
	}
	if (r == 0 && in->give_up)
		fault_point("write-given-up");
	if (r == 0 && sync) {
		fault_point("write-fsync");
		lease_end(o); /* the write is done: nobody need wait for the disk */
		r = (sync == 1 ? fsync(f->fd) : fdatasync(f->fd)) < 0 ? -errno : 0;
		rep.synced = r == 0;
	}
	if (in->close && r == 0) {
		struct open *taken = openstate_take(&o->d->opens, o->client, in->open);

		if (taken)
			open_put(taken);
	}
	streams = r == 0 && !sync && write_streams(f, rep.offset, (size_t)n);
	if (!streams)
		open_put(f);
	if (r)
		return r;
	op_root(o);
	unlinked_run(o->d);
	rep.size = (uint64_t)n;
	rep.attr = &attr;
	after = in->mapped ? lease_linger(o) : CS_SETTLED;
	rep.unsettled = after != CS_SETTLED;
	r = after == CS_LINGERS ? op_done_lingering(o, &rep.base) : op_done(o, &rep.base);
	if (streams) { /* it has been answered */
		sync_file_range(f->fd, (off_t)rep.offset, n, SYNC_FILE_RANGE_WRITE);
		open_put(f);
	}
	return r;
}

int op_fsync(struct op *o, const ProtobufCMessage *m)
{
	const Sprite__Fs__FsyncReq *in = (const void *)m;
	Sprite__Fs__Empty rep = SPRITE__FS__EMPTY__INIT;
	struct object obj _cleanup_object_ = OBJECT_INIT;
	struct open *f = NULL;
	_cleanup_close_ int own = -1;
	struct stat st;
	int r = 0, fd;

	if (in->open) {
		f = op_open(o, in->open, &r);
		if (!f)
			return r;
		fd = f->fd;
	} else {
		r = op_resolve(o, in->handle, &obj);
		if (r < 0)
			return r;
		if (fstat(obj.fd, &st) < 0)
			return -errno;
		if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
			return op_done(o, &rep.base);
		fd = own = open(op_path(obj.fd).s, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
		if (fd < 0)
			return -errno;
	}
	if (f && !f->dir)
		r = lease_settle(o, f->ex, (struct cs_key){f->dev, f->ino});
	if (r == 0 && !in->settle && (in->data_only ? fdatasync(fd) : fsync(fd)) < 0)
		r = -errno;
	open_put(f);
	return r ? r : op_done(o, &rep.base);
}

int op_fallocate(struct op *o, const ProtobufCMessage *m)
{
	const Sprite__Fs__FallocateReq *in = (const void *)m;
	Sprite__Fs__GetattrRep rep = SPRITE__FS__GETATTR_REP__INIT;
	Sprite__Fs__Attr attr;
	struct open *f;
	struct stat st;
	int r;

	f = op_open(o, in->open, &r);
	if (!f)
		return r;
	r = in->offset > INT64_MAX || in->length > INT64_MAX ? -EFBIG : write_begin(o, f, in->cred, false);
	if (r == 0 && (fallocate(f->fd, (int)in->mode, (off_t)in->offset, (off_t)in->length) < 0 || fstat(f->fd, &st) < 0))
		r = -errno;
	if (r == 0) {
		op_changed(o->d, &st);
		rep.lease = write_grant(o, f, 0, &rep.lease_seq);
		if (rep.lease && fstat(f->fd, &st) < 0)
			r = -errno;
		op_attr(o->d, f->mount, f->fd, &st, &attr);
	}
	open_put(f);
	if (r)
		return r;
	rep.attr = &attr;
	return op_done(o, &rep.base);
}

/* The source must be as its writers see it, the target ours. */
static int copy_begin(struct op *o, struct open *from, struct open *to, const Sprite__Fs__Cred *cred)
{
	struct cs_need need[2] = {{.key = {from->dev, from->ino}, .breaks = CS_WRITE},
		lease_change((struct cs_key){to->dev, to->ino}, CS_DATA | CS_ATTR, NULL)};
	int r = op_access(o, to->ex, cred);

	if (r == 0)
		r = op_become(o);
	return r < 0 ? r : lease_begin(o, to->ex, need, 2);
}

int op_copy(struct op *o, const ProtobufCMessage *m)
{
	const Sprite__Fs__CopyReq *in = (const void *)m;
	Sprite__Fs__CopyRep rep = SPRITE__FS__COPY_REP__INIT;
	struct open *from, *to;
	off_t off_in = (off_t)in->off_in, off_out = (off_t)in->off_out;
	ssize_t n = 0;
	int r;

	from = op_open(o, in->open_in, &r);
	if (!from)
		return r;
	to = op_open(o, in->open_out, &r);
	if (!to) {
		open_put(from);
		return r;
	}
	if (in->flags || in->off_in > INT64_MAX || in->off_out > INT64_MAX)
		r = -EINVAL;
	else if (from->ex != to->ex)
		r = -EXDEV;
	else
		r = copy_begin(o, from, to, in->cred);
	if (r == 0) {
		n = copy_file_range(from->fd, &off_in, to->fd, &off_out, in->length > COPY_MAX ? COPY_MAX : in->length, 0);
		if (n < 0)
			r = -errno;
		else if (n > 0)
			op_changed_fd(o->d, to->fd);
	}
	open_put(from);
	open_put(to);
	if (r)
		return r;
	rep.copied = (uint64_t)n;
	return op_done(o, &rep.base);
}

int op_seek(struct op *o, const ProtobufCMessage *m)
{
	const Sprite__Fs__SeekReq *in = (const void *)m;
	Sprite__Fs__SeekRep rep = SPRITE__FS__SEEK_REP__INIT;
	struct open *f;
	off_t at;
	int r;

	if ((in->whence != SEEK_DATA && in->whence != SEEK_HOLE) || in->offset > INT64_MAX)
		return -EINVAL;
	f = op_open(o, in->open, &r);
	if (!f)
		return r;
	r = lease_look(o, f->ex, (struct cs_key){f->dev, f->ino}, false);
	if (r) {
		open_put(f);
		return r;
	}
	pthread_mutex_lock(&f->lock); /* the descriptor's offset also serves append and readdir, which find it anew */
	at = lseek(f->fd, (off_t)in->offset, (int)in->whence);
	r = at < 0 ? -errno : 0;
	pthread_mutex_unlock(&f->lock);
	open_put(f);
	if (r < 0)
		return r;
	rep.offset = (uint64_t)at;
	return op_done(o, &rep.base);
}
