// SPDX-License-Identifier: Apache-2.0
/*
 * The kernel's side of the mount: /dev/fuse, its clones, the threads that read them.
 *
 * We give libfuse our own reads and writes, for three reasons. Each thread reads a clone of the device, and a reply must go to
 * the clone that its request came from, also when it is sent hours later from an rpc thread (session_reply_on). The INIT reply needs flags that
 * libfuse 3.14 does not know: FUSE_DIRECT_IO_ALLOW_MMAP, or MAP_SHARED fails on files without a cache, and FUSE_HANDLE_KILLPRIV_V2, or every
 * write asks for security.capability first. And a handler may keep the buffer of a WRITE instead of copying a megabyte.
 *
 * With a holder (holder.h) the device and its clones outlive us. The next spritefs feeds libfuse the kernel's first request once more and swallows the
 * answer, then has the kernel ask again (FUSE_NOTIFY_RESEND) whatever was read and not answered; such requests have a bit in their number.
 */
#include "fs/client/client.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "conf/clock.h"
#include "conf/fault.h"
#include "conf/log.h"
#include "fs/client/holder.h"
#include "fs/client/kept.h"

#ifndef FUSE_DIRECT_IO_ALLOW_MMAP
#define FUSE_DIRECT_IO_ALLOW_MMAP (1ULL << 36)
#endif
#define FUSE_NOTIFY_RESEND_CODE	   7 /* FUSE_NOTIFY_RESEND, Linux 6.9 */
#define RESENT			   (1ull << 63) /* FUSE_UNIQUE_RESEND */
#define INTERRUPTS		   1ull /* FUSE_INT_REQ_BIT */
#define FUSE_NOTIFY_INC_EPOCH_CODE 8 /* FUSE_NOTIFY_INC_EPOCH, Linux 6.16 */
#define EPOCH_MINOR		   44 /* of the kernel's protocol that has it */
#define BUFFER	   ((1u << 20) + 8192u)
#define RESERVE	   128u /* before it, for what is said of data that stay there: struct kept_chunk */
#define THREADS	   4
#define SPARE	   16
#define SETTLE_US  200
#define SETTLE_TRIES 5000

static __thread int reply_fd = -1;
static __thread void *buffer;
static __thread bool buffer_taken, kill_suid, swallow;
static __thread uint64_t second; /* since when it was put aside; 0: it was not */
static __thread uint64_t unique;
static __thread const void *request;
static __thread size_t request_len;
static int clones[THREADS];

_Static_assert(sizeof(struct kept_chunk) <= RESERVE, "a chunk's record has no room before the buffer");

static pthread_mutex_t spare_lock = PTHREAD_MUTEX_INITIALIZER;
static void *spare[SPARE];
static unsigned nspare;

int session_reply_on(int fd)
{
	int old = reply_fd;

	reply_fd = fd;
	return old;
}

int session_fd(void)
{
	return reply_fd;
}

bool session_kill_suid(void)
{
	return kill_suid;
}

uint64_t session_unique(void)
{
	return unique & ~RESENT;
}

bool session_resent(void)
{
	return unique & RESENT;
}

struct keep *session_buffer_record(void *buf)
{
	return (struct keep *)((uint8_t *)buf - RESERVE - sizeof(struct keep));
}

void *session_buffer_take(void)
{
	buffer_taken = true;
	return buffer;
}

void session_buffer_give(void *buf)
{
	struct keep *k = session_buffer_record(buf);

	atomic_store(&k->kind, KEEP_NONE); /* what was kept of it is no more */
	pthread_mutex_lock(&spare_lock);
	if (nspare < SPARE) {
		spare[nspare++] = buf;
		k = NULL;
	}
	pthread_mutex_unlock(&spare_lock);
	keep_free(k);
}

bool session_names_back(struct fs *fs)
{
	return fs->whole || !fs->root->dom->home;
}

int session_bump_epoch(struct fs *fs)
{
	struct fuse_out_header h = {.len = sizeof(h), .error = FUSE_NOTIFY_INC_EPOCH_CODE};

	if (!session_names_back(fs))
		return 0;
	atomic_fetch_add(&fs->epochs, 1);
	return write(fs->dev, &h, sizeof(h)) == (ssize_t)sizeof(h) ? 0 : -errno;
}

static void *buffer_get(void)
{
	void *b = NULL;
	struct keep *k;

	pthread_mutex_lock(&spare_lock);
	if (nspare)
		b = spare[--nspare];
	pthread_mutex_unlock(&spare_lock);
	while (!b) {
		k = keep_new(RESERVE + BUFFER);
		if (!k) {
			usleep(10000);
			continue;
		}
		b = k->data + RESERVE;
		/* its pages must be there: the kernel cannot fetch one for a thread that is being killed, and would fail the request */
		madvise((void *)((uintptr_t)k & ~4095ul), (RESERVE + BUFFER + sizeof(*k) + 4095) & ~4095ul, MADV_POPULATE_WRITE);
	}
	return b;
}

/* ---- what libfuse reads and writes by */

static void init_patch(const struct iovec *iov, const struct fuse_init_in *in, struct fuse_init_out *out)
{
	uint64_t offered = in->flags;

	memset(out, 0, sizeof(*out));
	memcpy(out, iov->iov_base, iov->iov_len < sizeof(*out) ? iov->iov_len : sizeof(*out));
	if (in->flags & FUSE_INIT_EXT) {
		offered |= (uint64_t)in->flags2 << 32;
		out->flags |= FUSE_INIT_EXT;
	}
	if (offered & FUSE_HANDLE_KILLPRIV_V2)
		out->flags |= FUSE_HANDLE_KILLPRIV_V2;
	if (offered & FUSE_DIRECT_IO_ALLOW_MMAP)
		out->flags2 |= (uint32_t)(FUSE_DIRECT_IO_ALLOW_MMAP >> 32);
}

static __thread const struct fuse_init_in *init_in;

static ssize_t io_writev(int fd, struct iovec *iov, int count, void *userdata)
{
	struct fuse_init_out out;
	struct iovec patched[2];

	(void)userdata;
	if (swallow) { /* the kernel had this answer long ago */
		ssize_t n = 0;

		while (count--)
			n += (ssize_t)iov[count].iov_len;
		return n;
	}
	if (init_in && count == 2 && iov[1].iov_len >= 24) {
		init_patch(&iov[1], init_in, &out);
		patched[0] = iov[0];
		patched[1] = (struct iovec){.iov_base = &out, .iov_len = iov[1].iov_len};
		return writev(fd, patched, 2);
	}
	return writev(reply_fd >= 0 ? reply_fd : fd, iov, count);
}

static ssize_t io_read(int fd, void *buf, size_t n, void *userdata)
{
	(void)userdata;
	return read(fd, buf, n);
}

/* ---- reading requests */

static void request_look(const void *buf, size_t n)
{
	const struct fuse_in_header *h = buf;
	const void *arg = h + 1;

	kill_suid = false;
	unique = 0;
	if (n < sizeof(*h))
		return;
	n -= sizeof(*h);
	unique = h->unique;
	if (h->opcode == FUSE_WRITE && n >= sizeof(struct fuse_write_in))
		kill_suid = ((const struct fuse_write_in *)arg)->write_flags & FUSE_WRITE_KILL_SUIDGID;
	else if (h->opcode == FUSE_OPEN && n >= sizeof(struct fuse_open_in))
		kill_suid = ((const struct fuse_open_in *)arg)->open_flags & FUSE_OPEN_KILL_SUIDGID;
	else if (h->opcode == FUSE_SETATTR && n >= sizeof(struct fuse_setattr_in))
		kill_suid = ((const struct fuse_setattr_in *)arg)->valid & FATTR_KILL_SUIDGID;
}

/* The kernel's first request, to feed the next spritefs's libfuse with. */
static void init_save(const void *buf, size_t n)
{
	struct keep_head *h = keep_head();

	if (n > sizeof(h->init))
		n = sizeof(h->init);
	memcpy(h->init, buf, n);
	h->init_len = (uint32_t)n;
}

const void *session_request(size_t *len)
{
	*len = request_len;
	return request;
}

bool session_second(void)
{
	return second;
}

uint64_t session_began(void)
{
	return second ? second : clock_mono_ns();
}

/* As if the kernel had asked that it be interrupted: libfuse finds it when the request comes, or has the kernel say it again. */
static void interrupt_feed(struct fs *fs, const struct fuse_in_header *of)
{
	struct {
		struct fuse_in_header h;
		struct fuse_interrupt_in in;
	} m = {.h = {.len = sizeof(m), .opcode = FUSE_INTERRUPT, .unique = of->unique | INTERRUPTS}, .in = {.unique = of->unique}};
	struct fuse_buf fb = {.mem = &m, .size = sizeof(m)};

	fuse_session_process_buf(fs->se, &fb);
}

void session_replay(struct fs *fs, const void *bytes, size_t len, int fd, uint64_t since, bool interrupted)
{
	struct fuse_buf fb = {.mem = (void *)bytes, .size = len};
	const void *old = request;
	uint64_t old_unique = unique;
	size_t old_len = request_len;
	bool old_kill = kill_suid;

	fd = session_reply_on(fd);
	request = bytes;
	request_len = len;
	request_look(bytes, len);
	second = since;
	if (interrupted)
		interrupt_feed(fs, bytes);
	fuse_session_process_buf(fs->se, &fb);
	second = 0;
	session_reply_on(fd);
	request = old;
	request_len = old_len;
	unique = old_unique;
	kill_suid = old_kill;
}

struct reader {
	struct fs *fs;
	pthread_t thread;
	int fd;
	_Atomic pid_t tid;
	_Atomic uint32_t doing; /* the request's opcode, | AGAIN; 0: it reads */
};

#define AGAIN (1u << 31) /* the kernel asks again */

static struct reader readers[THREADS];
static atomic_bool none_again; /* no reader will be given such a one any more: they come first */

/* Has it taken a request from the kernel, or may it have, that its handler has not seen? One that sleeps in its read(2) has taken nothing. */
static bool may_have_taken(struct reader *r)
{
	char path[64], stat[256], *p;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", atomic_load(&r->tid));
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, stat, sizeof(stat) - 1);
	if (fd >= 0)
		close(fd);
	if (n <= 0)
		return false;
	stat[n] = 0;
	p = strrchr(stat, ')');
	return p && p[1] && p[2] != 'S';
}

static bool release_on_its_way(struct reader *r)
{
	uint32_t doing = atomic_load(&r->doing);

	return doing ? (doing & ~AGAIN) == FUSE_RELEASE : may_have_taken(r);
}

bool session_asked_again(struct fs *fs)
{
	struct pollfd p = {fs->dev, POLLIN, 0};

	if (!atomic_load(&none_again) && poll(&p, 1, 0) != 0)
		return false;
	for (unsigned i = 0; i < THREADS && readers[i].fs; i++) {
		uint32_t doing = atomic_load(&readers[i].doing);

		if (doing ? doing & AGAIN : may_have_taken(&readers[i]))
			return false;
	}
	return true;
}

void session_settle_releases(void)
{
	for (unsigned i = 0; i < THREADS; i++)
		for (unsigned n = 0; n < SETTLE_TRIES && release_on_its_way(&readers[i]); n++)
			usleep(SETTLE_US);
}

static void took(struct reader *r, const struct fuse_in_header *h)
{
	atomic_store(&r->doing, h->opcode | (h->unique & RESENT ? AGAIN : 0));
	/* these have queues of their own */
	if (!(h->unique & RESENT) && h->opcode != FUSE_FORGET && h->opcode != FUSE_BATCH_FORGET && h->opcode != FUSE_INTERRUPT)
		atomic_store(&none_again, true);
}

/* One request; 0, or -errno when the mount has gone. */
static int request_read(struct reader *r)
{
	struct fs *fs = r->fs;
	struct fuse_buf fb = {.flags = 0};
	ssize_t n;

	if (!buffer)
		buffer = buffer_get();
	atomic_store(&r->doing, 0);
	n = read(r->fd, buffer, BUFFER);
	if (n > 0)
		took(r, buffer);
	if (n < 0)
		return errno == ENODEV || errno == EBADF ? -errno : 0;
	if (n == 0)
		return -ENODEV;
	request_look(buffer, (size_t)n);
	request = buffer;
	request_len = (size_t)n;
	if (session_resent() && !dirq_made(fs, session_unique()))
		stream_untell(fs, session_unique());
	if (((struct fuse_in_header *)buffer)->opcode == FUSE_INIT) {
		init_save(buffer, (size_t)n);
		init_in = (const struct fuse_init_in *)((char *)buffer + sizeof(struct fuse_in_header));
	}
	fb.mem = buffer;
	fb.size = (size_t)n;
	buffer_taken = false;
	fuse_session_process_buf(fs->se, &fb);
	init_in = NULL;
	if (buffer_taken)
		buffer = NULL;
	return 0;
}

static void *reader_main(void *arg)
{
	struct reader *r = arg;

	pthread_setname_np(pthread_self(), "fuse");
	atomic_store(&r->tid, gettid());
	reply_fd = r->fd;
	while (!fuse_session_exited(r->fs->se) && request_read(r) == 0)
		;
	return NULL; /* the mount has gone, and we with it */
}

static int device_clone(int dev, unsigned i)
{
	int kept = hold_take(HOLD_CLONE + i);
	uint32_t master = (uint32_t)dev;
	int fd = kept >= 0 ? kept : open("/dev/fuse", O_RDWR | O_CLOEXEC);

	if (kept >= 0)
		return kept;
	if (fd >= 0 && ioctl(fd, FUSE_DEV_IOC_CLONE, &master) < 0) {
		close(fd);
		fd = -1;
	}
	if (fd < 0)
		return dup(dev);
	hold_keep(HOLD_CLONE + i, fd); /* or what was read from it and not answered ends with us */
	return fd;
}

int session_run(struct fs *fs)
{
	struct reader *r = readers;
	int i, n = 0;

	fault_point("spritefs-reads");
	for (i = 0; i < THREADS; i++) {
		r[i].fs = fs;
		r[i].fd = clones[i];
		if (r[i].fd < 0)
			break;
		if (pthread_create(&r[i].thread, NULL, reader_main, &r[i]) != 0) {
			close(r[i].fd);
			break;
		}
		n++;
	}
	if (!n)
		return -EAGAIN;
	for (i = 0; i < n; i++)
		pthread_join(r[i].thread, NULL);
	/* the clones stay open: late completions still answer on them */
	return 0;
}

void session_clones(struct fs *fs)
{
	unsigned i;

	for (i = 0; i < THREADS; i++)
		clones[i] = device_clone(fs->dev, i);
}

static int resend(struct fs *fs)
{
	struct fuse_out_header h = {.len = sizeof(h), .error = FUSE_NOTIFY_RESEND_CODE};

	return write(fs->dev, &h, sizeof(h)) == (ssize_t)sizeof(h) ? 0 : -errno;
}

static int custom_io(struct fs *fs, struct error *e)
{
	static const struct fuse_custom_io io = {.writev = io_writev, .read = io_read};
	int r = fuse_session_custom_io(fs->se, &io, fs->dev);

	return r < 0 ? error_set(e, -r, "libfuse: %s", strerror(-r)) : 0;
}

int session_begin(struct fs *fs, struct error *e)
{
	int r;

	if (custom_io(fs, e) < 0)
		return -e->code;
	readers[0] = (struct reader){.fs = fs, .fd = fs->dev};
	r = request_read(&readers[0]);
	fs->has_epoch = r == 0 && session_bump_epoch(fs) == 0;
	return r < 0 ? error_set(e, -r, "%s: the kernel did not begin: %s", fs->mount, strerror(-r)) : 0;
}

int session_answer(void)
{
	return request_read(&readers[0]);
}

int session_resume(struct fs *fs, int dev, struct error *e)
{
	struct keep_head *h = keep_head();
	struct fuse_buf fb = {.mem = h->init, .size = h->init_len};
	int r;

	fs->dev = dev;
	fs->mounted = true;
	if (custom_io(fs, e) < 0)
		return -e->code;
	swallow = true;
	fuse_session_process_buf(fs->se, &fb);
	swallow = false;
	session_clones(fs);
	fs->has_epoch = ((struct fuse_init_in *)(h->init + sizeof(struct fuse_in_header)))->minor >= EPOCH_MINOR;
	if (!fs->names_until)
		session_bump_epoch(fs);
	r = resend(fs);
	return r < 0 ? error_set(e, -r, "%s: the kernel does not ask again: %s", fs->mount, strerror(-r)) : 0;
}
