// SPDX-License-Identifier: Apache-2.0
/*
 * The pipe agent: one thread holds all of it, so that nothing needs a lock but its mailbox. It opens our ends through our own mount (those opens come
 * back as GETATTRs of our own threads, which are answered at once) and carries bytes between them and the hub. A second thread per server receives.
 *
 *	role SINK    `end` is a write end: bytes of the hub go in, each acknowledged when it is in; its error means that all readers have gone
 *	role SOURCE  `end` is a read end: what comes out goes to the hub, at most WINDOW unacknowledged; its end means that all writers have gone
 *
 * An end is opened before the process it is for has come in, so "gone" may also be "not there yet": `openers` are those that are between the GETATTR
 * and the end of their open; while there is one for that direction, we look again a little later.
 *
 * When the stream to a server breaks, waiting opens go on natively and all ends are closed: processes see end of file or EPIPE.
 */
#include "fs/client/pipe_agent.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/log.h"
#include "fs/client/client.h"
#include "fs/client/pipe_proc.h"

enum { NONE, SINK, SOURCE };
#define WINDOW	 (64u << 10)
#define CHUNK	 (256u << 10)
#define PAGE	 4096
#define SHARE_NS 5000000ull /* readers on several nodes: so long bytes may lie unread */
#define AGAIN_NS 1000000ull    /* when an end says "nobody" and an opener is on its way */
#define IDLE_NS	 10000000000ull /* a FIFO of which nothing was heard for so long is forgotten */
#define ANSWER_NS 2000000000ull /* an open waits no longer for a server that is away */

struct opener {
	struct list link;
	struct pipe_proc who;
	fuse_req_t req; /* NULL: answered */
	int fd;
	struct stat st;
	uint64_t id, since;
};

struct bytes {
	struct list link;
	size_t off, len;
	uint8_t data[];
};

struct fifo {
	struct list link;
	struct inode *ino;
	struct hub *hub;
	int role, end; /* end -1: none */
	bool r, w;     /* what the hub was told */
	bool shared;   /* SINK: there are readers on other nodes too. SOURCE: chunks of at most a page */
	int size;      /* SOURCE: of the pipe before we made it small, 0: we did not */
	int unread;    /* SINK and shared: bytes in the pipe when it was looked at last */
	unsigned idle; /* how often it was empty since */
	struct list openers;
	struct list out; /* SINK: bytes for the pipe */
	size_t unacked;	 /* of what we sent as a SOURCE; outlives the role, as the hub's queue does */
	uint64_t again;	 /* look at it then, 0: never */
	uint64_t used;
};

/* The stream to one server. */
struct hub {
	struct list link;
	struct agent *a;
	struct server *server;
	struct rpc_stream *stream; /* NULL: not up */
	bool starting;
};

enum mail_kind { MAIL_OPEN, MAIL_UP, MAIL_DOWN, MAIL_MSG };
struct mail {
	struct list link;
	enum mail_kind kind;
	struct inode *ino; /* OPEN */
	struct opener *opener;
	struct hub *hub; /* the others */
	struct rpc_stream *stream;
	sem_t *seen; /* DOWN */
	struct rpc_msg msg;
};

struct agent {
	struct fs *fs;
	pthread_t thread;
	int epoll, wake;
	pthread_mutex_t lock;
	struct list mails; /* lock */
	struct list fifos, hubs;
	uint64_t next_id;
	uint8_t buf[CHUNK];
};

static pthread_mutex_t start_lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- mailbox ---- */

static void post(struct agent *a, struct mail *m)
{
	pthread_mutex_lock(&a->lock);
	list_add_tail(&a->mails, &m->link);
	pthread_mutex_unlock(&a->lock);
	eventfd_write(a->wake, 1);
}

/* ---- openers ---- */

static void opener_answer(struct opener *o)
{
	int old;

	if (!o->req)
		return;
	old = session_reply_on(o->fd);
	fuse_reply_attr(o->req, &o->st, 0);
	session_reply_on(old);
	o->req = NULL;
}

/* Is somebody on its way in, to read (or to write)? Forgets those that have arrived. */
static bool coming(struct fifo *f, bool r)
{
	struct opener *o, *tmp;
	bool any = false;

	list_each_safe(o, tmp, &f->openers, link) {
		if (!o->req && pipe_proc_left(&o->who)) {
			list_del(&o->link);
			free(o);
		} else {
			any |= r ? o->who.r : o->who.w;
		}
	}
	return any;
}

/* ---- our ends ---- */

/* Opens the FIFO as what the kernel has under this node id, whatever its name is now. */
static int fifo_open(struct fs *fs, const struct inode *ino, int flags)
{
	struct {
		struct file_handle h;
		uint32_t id[3];
	} fh = {.h = {.handle_bytes = 12, .handle_type = 0x81}, .id = {(uint32_t)(ino->id >> 32), (uint32_t)ino->id, 1}}; /* FILEID_INO64_GEN */
	_cleanup_close_ int mount = open(fs->mount, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_close_ int path = mount < 0 ? -1 : open_by_handle_at(mount, &fh.h, O_PATH | O_CLOEXEC);
	char name[40];
	int fd;

	if (path < 0)
		return -errno;
	snprintf(name, sizeof(name), "/proc/self/fd/%d", path);
	if (flags == O_RDWR) { /* to be a write end before the reader is in */
		_cleanup_close_ int both = open(name, O_RDWR | O_NONBLOCK | O_CLOEXEC);

		fd = both < 0 ? -1 : open(name, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
		return fd < 0 ? -errno : fd;
	}
	fd = open(name, flags | O_NONBLOCK | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* A pipe of one page gives out whole writes only (pipe_state.h). Not while more is in it: then a little later. */
static void source_size(struct fifo *f)
{
	int size = fcntl(f->end, F_GETPIPE_SZ);

	if (f->shared && !f->size && size > PAGE && fcntl(f->end, F_SETPIPE_SZ, PAGE) >= 0)
		f->size = size;
	else if (!f->shared && f->size && fcntl(f->end, F_SETPIPE_SZ, f->size) >= 0)
		f->size = 0;
}

static void end_close(struct fifo *f)
{
	struct list *l;

	if (f->size) { /* the writers go on with the pipe as it was */
		f->shared = false;
		source_size(f);
		f->size = 0;
	}
	if (f->end >= 0)
		close(f->end); /* epoll forgets it */
	f->end = -1;
	f->role = NONE;
	f->again = 0;
	while ((l = list_pop(&f->out)))
		free(list_entry(l, struct bytes, link));
}

static void arm(struct agent *a, struct fifo *f, uint32_t events)
{
	struct epoll_event ev = {.events = events | EPOLLONESHOT, .data.ptr = f};

	if (epoll_ctl(a->epoll, EPOLL_CTL_MOD, f->end, &ev) && errno == ENOENT)
		epoll_ctl(a->epoll, EPOLL_CTL_ADD, f->end, &ev);
}

static int end_take(struct fifo *f, int role, int fd)
{
	if (fd < 0)
		return fd;
	f->end = fd;
	f->role = role;
	f->size = 0;
	return 0;
}

/* ---- messages ---- */

static void say(struct fifo *f, Sprite__Fs__PipeMsg__Kind kind, uint64_t id, size_t n, const void *bytes, size_t len)
{
	Sprite__Fs__PipeMsg m = SPRITE__FS__PIPE_MSG__INIT;
	struct iovec v = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = len};

	if (!f->hub->stream)
		return;
	m.kind = kind;
	m.handle = (ProtobufCBinaryData){.len = f->ino->handle_len, .data = f->ino->handle};
	m.id = id;
	m.n = n;
	m.role = (uint32_t)f->role;
	m.r = f->r;
	m.w = f->w;
	rpc_stream_send(f->hub->stream, &m.base, len ? &v : NULL, len ? 1 : 0);
}

static void report(struct fifo *f, uint64_t round)
{
	say(f, SPRITE__FS__PIPE_MSG__KIND__REPORT, round, 0, NULL, 0);
}

/* ---- SINK ---- */

/* What is in the pipe and will be read by nobody here (`leaves`), or not soon, goes back. */
static void give_back(struct agent *a, struct fifo *f, bool leaves)
{
	_cleanup_close_ int fd = fifo_open(a->fs, f->ino, O_RDONLY);
	ssize_t n;

	while (fd >= 0 && (n = read(fd, a->buf, sizeof(a->buf))) > 0)
		say(f, SPRITE__FS__PIPE_MSG__KIND__RETURN, 0, leaves, a->buf, (size_t)n);
}

static bool end_has_error(const struct fifo *f)
{
	struct pollfd p = {.fd = f->end};

	return poll(&p, 1, 0) > 0 && p.revents & (POLLERR | POLLNVAL);
}

/*
 * The other end of ours is gone. False: somebody is on its way, look again later. `on_way` must have been asked (coming()) before the pipe was looked at: who comes in, writes
 * and leaves between a look at the pipe and a look at the openers would be in neither.
 */
static bool lost(struct agent *a, struct fifo *f, bool on_way)
{
	bool sink = f->role == SINK;

	if (on_way) {
		f->again = clock_mono_ns() + AGAIN_NS;
		return false;
	}
	if (sink) {
		give_back(a, f, true);
		f->r = false;
	} else {
		f->w = false;
	}
	end_close(f);
	return true;
}

/* Readers here and elsewhere: what lies here unread is for whoever reads first. Looked at every few ms: nothing tells that somebody reads. */
static void share(struct agent *a, struct fifo *f)
{
	int n = 0;

	ioctl(f->end, FIONREAD, &n);
	if (n && n == f->unread) {
		give_back(a, f, false);
		n = 0;
	}
	f->idle = n ? 0 : f->idle + 1;
	f->unread = n;
	f->again = clock_mono_ns() + (f->idle < 100 ? SHARE_NS : 4 * SHARE_NS);
}

/* Returns false when the readers have gone (and it is no sink any more). */
static bool sink_pump(struct agent *a, struct fifo *f)
{
	bool on_way;

	while (!list_empty(&f->out)) {
		struct bytes *b = list_entry(f->out.next, struct bytes, link);
		ssize_t n;

		on_way = coming(f, true);
		n = write(f->end, b->data + b->off, b->len - b->off);

		if (n < 0 && errno == EAGAIN) {
			arm(a, f, EPOLLOUT);
			return true;
		}
		if (n < 0 && errno == EPIPE) {
			if (lost(a, f, on_way))
				return false;
			return true;
		}
		if (n < 0)
			return true;
		b->off += (size_t)n;
		say(f, SPRITE__FS__PIPE_MSG__KIND__ACK, 0, (size_t)n, NULL, 0);
		if (b->off == b->len) {
			list_del(&b->link);
			free(b);
		}
	}
	on_way = coming(f, true);
	if (end_has_error(f))
		return !lost(a, f, on_way);
	arm(a, f, 0);
	if (f->shared)
		share(a, f);
	return true;
}

/* ---- SOURCE ---- */

/* Returns false when the writers have gone (and it is no source any more). */
static bool source_pump(struct agent *a, struct fifo *f)
{
	ssize_t n;

	while (f->unacked < WINDOW) {
		bool on_way = coming(f, false);

		if (f->shared != (f->size > 0))
			source_size(f);
		n = read(f->end, a->buf, sizeof(a->buf));
		if (n < 0 && errno == EAGAIN) {
			arm(a, f, EPOLLIN);
			return true;
		}
		if (n <= 0)
			return !lost(a, f, on_way);
		f->unacked += (size_t)n;
		say(f, SPRITE__FS__PIPE_MSG__KIND__DATA, 0, 0, a->buf, (size_t)n);
	}
	return true; /* an acknowledgement goes on */
}

static bool pump(struct agent *a, struct fifo *f)
{
	f->again = 0;
	return f->role == SINK ? sink_pump(a, f) : f->role == SOURCE ? source_pump(a, f) : true;
}

/* ---- roles ---- */

static void role_take(struct agent *a, struct fifo *f, int role)
{
	int fd;

	if (role == SINK) {
		fd = fifo_open(a->fs, f->ino, O_WRONLY);
		if (fd == -ENXIO && coming(f, true))
			fd = fifo_open(a->fs, f->ino, O_RDWR);
		if (end_take(f, SINK, fd))
			f->r = false;
	} else if (role == SOURCE) {
		fd = fifo_open(a->fs, f->ino, O_RDONLY);
		if (end_take(f, SOURCE, fd))
			f->w = false;
	}
	pump(a, f); /* finds out whether there is anybody */
}

static void on_role(struct agent *a, struct fifo *f, const Sprite__Fs__PipeMsg *m)
{
	int role = (int)m->role;

	f->r |= m->r;
	f->w |= m->w;
	f->unread = 0;
	if (f->role == role) {
		f->shared = m->shared;
		pump(a, f);
	} else {
		end_close(f);
		f->shared = m->shared;
		role_take(a, f, role);
	}
	report(f, m->id);
}

/* ---- fifos ---- */

static struct hub *hub_of(struct agent *a, struct server *s);

static struct fifo *fifo_find(struct agent *a, const struct inode *ino)
{
	struct fifo *f;

	list_each(f, &a->fifos, link)
		if (f->ino == ino)
			return f;
	return NULL;
}

/* Takes over a reference of ino. */
static struct fifo *fifo_get(struct agent *a, struct inode *ino)
{
	struct fifo *f = fifo_find(a, ino);

	if (f) {
		inode_put(a->fs, ino);
	} else {
		f = calloc(1, sizeof(*f));
		if (!f || !ino->dom || !ino->dom->server || !(f->hub = hub_of(a, ino->dom->server))) {
			free(f);
			inode_put(a->fs, ino);
			return NULL;
		}
		f->ino = ino;
		f->end = -1;
		list_init(&f->openers);
		list_init(&f->out);
		list_add_tail(&a->fifos, &f->link);
	}
	f->used = clock_mono_ns();
	return f;
}

static void fifo_free(struct agent *a, struct fifo *f)
{
	struct list *l;

	end_close(f);
	while ((l = list_pop(&f->openers))) {
		opener_answer(list_entry(l, struct opener, link));
		free(list_entry(l, struct opener, link));
	}
	list_del(&f->link);
	inode_put(a->fs, f->ino);
	free(f);
}

static void open_send(struct fifo *f, struct opener *o)
{
	Sprite__Fs__PipeMsg m = SPRITE__FS__PIPE_MSG__INIT;

	f->r |= o->who.r;
	f->w |= o->who.w;
	m.kind = SPRITE__FS__PIPE_MSG__KIND__OPEN;
	m.handle = (ProtobufCBinaryData){.len = f->ino->handle_len, .data = f->ino->handle};
	m.id = o->id;
	m.r = o->who.r;
	m.w = o->who.w;
	if (rpc_stream_send(f->hub->stream, &m.base, NULL, 0) < 0)
		opener_answer(o);
}

static void on_open(struct agent *a, struct inode *ino, struct opener *o)
{
	struct fifo *f, *g;
	struct opener *old, *tmp;

	/* whatever this thread was opening before, it has left that */
	list_each(g, &a->fifos, link)
		list_each_safe(old, tmp, &g->openers, link)
			if (old->who.tid == o->who.tid && !old->req) {
				list_del(&old->link);
				free(old);
			}
	f = fifo_get(a, ino);
	if (!f) {
		opener_answer(o);
		free(o);
		return;
	}
	o->id = ++a->next_id;
	o->since = clock_mono_ns();
	list_add_tail(&f->openers, &o->link);
	if (f->hub->stream)
		open_send(f, o);
}

/* ---- the hub's side ---- */

static void on_message(struct agent *a, struct hub *h, struct rpc_msg *in)
{
	const Sprite__Fs__PipeMsg *m = (const void *)in->msg;
	struct inode *ino = m ? inode_by_handle(a->fs, &m->handle) : NULL;
	struct opener *o;
	struct fifo *f;
	struct bytes *b;

	if (!ino) { /* the kernel has forgotten it: nobody has it open here */
		Sprite__Fs__PipeMsg no = SPRITE__FS__PIPE_MSG__INIT;

		if (m && m->kind == SPRITE__FS__PIPE_MSG__KIND__ROLE) {
			no.kind = SPRITE__FS__PIPE_MSG__KIND__REPORT;
			no.handle = m->handle;
			no.id = m->id;
			rpc_stream_send(h->stream, &no.base, NULL, 0);
		}
		return;
	}
	f = fifo_get(a, ino);
	if (!f)
		return;
	switch (m->kind) {
	case SPRITE__FS__PIPE_MSG__KIND__OPENED:
		list_each(o, &f->openers, link)
			if (o->id == m->id)
				opener_answer(o);
		break;
	case SPRITE__FS__PIPE_MSG__KIND__ROLE:
		on_role(a, f, m);
		break;
	case SPRITE__FS__PIPE_MSG__KIND__DATA:
		b = f->role == SINK ? malloc(sizeof(*b) + in->bulk_len) : NULL;
		if (!b)
			break; /* the hub has it still */
		*b = (struct bytes){.len = in->bulk_len};
		rpc_msg_copy(in, b->data, b->len);
		list_add_tail(&f->out, &b->link);
		if (!pump(a, f))
			report(f, 0);
		break;
	case SPRITE__FS__PIPE_MSG__KIND__ACK:
		f->unacked -= m->n < f->unacked ? m->n : f->unacked;
		if (!pump(a, f))
			report(f, 0);
		break;
	default:
		break;
	}
}

static void *hub_main(void *arg)
{
	Sprite__Fs__PipeMsg hello = SPRITE__FS__PIPE_MSG__INIT;
	struct hub *h = arg;
	struct rpc_stream *s;
	struct mail *m;
	sem_t seen;

	pthread_setname_np(pthread_self(), "pipe-hub");
	sem_init(&seen, 0, 0);
	hello.kind = SPRITE__FS__PIPE_MSG__KIND__HELLO;
	hello.id = clock_epoch();
	while (!h->a->fs->stopping) {
		if (rpc_stream_open(h->server->bulk, &fs_methods[FS_PIPE], -1, &s) == 0) {
			if (rpc_stream_send(s, &hello.base, NULL, 0) == 0 && (m = calloc(1, sizeof(*m)))) {
				m->kind = MAIL_UP;
				m->hub = h;
				m->stream = s;
				post(h->a, m);
				while ((m = calloc(1, sizeof(*m))) && rpc_stream_recv(s, &m->msg, -1) == 1) {
					m->kind = MAIL_MSG;
					m->hub = h;
					post(h->a, m);
				}
				rpc_stream_cancel(s); /* the agent may hang in a send */
				if (m || (m = calloc(1, sizeof(*m)))) {
					m->kind = MAIL_DOWN;
					m->hub = h;
					m->seen = &seen;
					post(h->a, m);
					sem_wait(&seen);
				}
			}
			rpc_stream_cancel(s);
			rpc_stream_finish(s, 0);
		}
		usleep(200000);
	}
	return NULL;
}

static struct hub *hub_of(struct agent *a, struct server *s)
{
	struct hub *h;
	pthread_t t;

	list_each(h, &a->hubs, link)
		if (h->server == s)
			return h;
	h = calloc(1, sizeof(*h));
	if (!h)
		return NULL;
	h->a = a;
	h->server = s;
	if (pthread_create(&t, NULL, hub_main, h)) {
		free(h);
		return NULL;
	}
	pthread_detach(t); /* lives as long as the process */
	list_add_tail(&a->hubs, &h->link);
	return h;
}

static void on_up(struct agent *a, struct hub *h, struct rpc_stream *s)
{
	struct opener *o;
	struct fifo *f;

	h->stream = s;
	list_each(f, &a->fifos, link) {
		if (f->hub != h)
			continue;
		list_each(o, &f->openers, link)
			open_send(f, o); /* those that wait, and those that are in their open natively */
	}
}

static void on_down(struct agent *a, struct hub *h)
{
	struct opener *o;
	struct fifo *f;

	h->stream = NULL;
	list_each(f, &a->fifos, link) {
		if (f->hub != h)
			continue;
		end_close(f);
		f->unacked = 0;
		list_each(o, &f->openers, link)
			opener_answer(o);
	}
}

/* ---- the thread ---- */

static void mail_handle(struct agent *a, struct mail *m)
{
	switch (m->kind) {
	case MAIL_OPEN:
		on_open(a, m->ino, m->opener);
		break;
	case MAIL_UP:
		on_up(a, m->hub, m->stream);
		break;
	case MAIL_DOWN:
		on_down(a, m->hub);
		sem_post(m->seen);
		break;
	case MAIL_MSG:
		if (m->hub->stream)
			on_message(a, m->hub, &m->msg);
		rpc_msg_clear(&m->msg);
		break;
	}
	free(m);
}

static void mails_handle(struct agent *a)
{
	eventfd_t n;
	struct list *l;

	eventfd_read(a->wake, &n);
	for (;;) {
		pthread_mutex_lock(&a->lock);
		l = list_pop(&a->mails);
		pthread_mutex_unlock(&a->lock);
		if (!l)
			return;
		mail_handle(a, list_entry(l, struct mail, link));
	}
}

/* Milliseconds until something is to be looked at again; does what is due. */
static int due(struct agent *a)
{
	uint64_t now = clock_mono_ns(), next = now + 1000000000ull;
	struct fifo *f, *tmp;
	struct opener *o;
	bool waits;

	list_each_safe(f, tmp, &a->fifos, link) {
		waits = false;
		list_each(o, &f->openers, link) {
			if (o->req && now - o->since > ANSWER_NS && !f->hub->stream)
				opener_answer(o);
			waits |= o->req != NULL;
		}
		if (f->again && f->again <= now && f->end >= 0 && !pump(a, f))
			report(f, 0);
		if (f->again && f->again < next)
			next = f->again;
		if (f->role == NONE && !waits && !f->unacked && now - f->used > IDLE_NS && !coming(f, true) && !coming(f, false))
			fifo_free(a, f);
	}
	now = clock_mono_ns();
	return next > now ? (int)((next - now) / 1000000) + 1 : 1;
}

static void *agent_main(void *arg)
{
	struct agent *a = arg;
	struct epoll_event ev[16];
	int n;

	pthread_setname_np(pthread_self(), "pipes");
	while (!a->fs->stopping) {
		n = epoll_wait(a->epoll, ev, 16, due(a));
		for (int i = 0; i < n; i++) {
			struct fifo *f = ev[i].data.ptr;

			if (f && f->end >= 0 && !pump(a, f))
				report(f, 0);
		}
		mails_handle(a);
	}
	return NULL;
}

static struct agent *agent_start(struct fs *fs)
{
	struct agent *a = calloc(1, sizeof(*a));
	struct epoll_event ev = {.events = EPOLLIN};

	if (!a)
		return NULL;
	a->fs = fs;
	pthread_mutex_init(&a->lock, NULL);
	list_init(&a->mails);
	list_init(&a->fifos);
	list_init(&a->hubs);
	a->epoll = epoll_create1(EPOLL_CLOEXEC);
	a->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (a->epoll >= 0 && a->wake >= 0 && !epoll_ctl(a->epoll, EPOLL_CTL_ADD, a->wake, &ev) && !pthread_create(&a->thread, NULL, agent_main, a))
		return a;
	free(a);
	return NULL;
}

static struct agent *agent_of(struct fs *fs)
{
	struct agent *a;

	pthread_mutex_lock(&start_lock);
	if (!fs->pipes)
		fs->pipes = agent_start(fs);
	a = fs->pipes;
	pthread_mutex_unlock(&start_lock);
	return a;
}

/* ---- the hook ---- */

static void *group_room(void *arg, size_t n)
{
	(void)arg;
	return malloc(n);
}

/* As the kernel will decide: an opener that is to be refused must not look like one to the others. (An ACL counts as its mask, the group's bits.) */
static bool may(const struct fuse_ctx *who, const struct stat *st, bool r, bool w)
{
	_cleanup_free_ uint32_t *groups = NULL;
	unsigned need = (r ? 4u : 0) | (w ? 2u : 0), mode = st->st_mode;
	bool in_group = who->gid == st->st_gid;
	size_t n = 0;

	if (who->uid == 0)
		return true;
	if (who->uid == st->st_uid)
		return (mode >> 6 & need) == need;
	if (!in_group && cred_groups(who->pid, &groups, &n, group_room, NULL) == 0)
		for (size_t i = 0; i < n; i++)
			in_group |= groups[i] == st->st_gid;
	return ((in_group ? mode >> 3 : mode) & need) == need;
}

bool pipe_agent_open(struct fs *fs, fuse_req_t req, int fd, struct inode *ino, const struct stat *st)
{
	const struct fuse_ctx *who = fuse_req_ctx(req);
	struct pipe_proc p;
	struct agent *a;
	struct opener *o;
	struct mail *m;

	if (!ino->dom || ino->dom->home || !pipe_proc_opening(who->pid, &p) || !may(who, st, p.r, p.w))
		return false;
	a = agent_of(fs);
	m = a ? calloc(1, sizeof(*m)) : NULL;
	o = m ? calloc(1, sizeof(*o)) : NULL;
	if (!o) {
		free(m);
		return false;
	}
	*o = (struct opener){.who = p, .req = req, .fd = fd, .st = *st};
	*m = (struct mail){.kind = MAIL_OPEN, .ino = inode_hold(fs, ino), .opener = o};
	post(a, m);
	return true;
}
