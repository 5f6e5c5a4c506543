/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pipes, and for res_file_tty.c terminals, res_file_socket.c and res_file_inet.c sockets, whose other end stays.
 *
 * A pipe with both ends in the family travels with its content. One with a single end there has the other at home: it is relayed (engine.h), and so are
 * terminals. The hollow keeps the original descriptor at its number; over there the caller's hook gives an end that stands for it.
 *
 * A relay has an id that stays with it over all moves. On a guest host it is known again by the inode of what the hook gave; the table of relays lives as
 * long as the family (->res[] of res_relays) and is written into every image with the descriptions.
 * A pipe with one end whose other end nobody has any more goes on as that, with what is left in it.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/log.h"
#include "migd/engine/core.h"
#include "migd/engine/res_files.h"
#include "migd/engine/res_file_socket.h"

struct relay {
	struct relay *next;
	struct eng_relay r;
	uint64_t key[2]; /* how it looks on this host: device, inode (terminals: 0, rdev) */
	int open_fd;	 /* destination, during a fill: what the hook gave */
	int size;	 /* pipes: when it was dumped or made last; 0: not here */
};
struct pair { /* a pipe being made at the destination: its ends until every description has its own */
	struct pair *next;
	uint64_t id;
	int fd[2];
	bool used[2];
};
#define BORN_AWAY (1ull << 62) /* from there on: of connections that came in while it was away */
struct relay_table {
	struct relay *first;
	uint64_t last;
	struct pair *pairs;
};

const struct eng_res res_relays;

static struct relay_table *table_of(struct eng_family *f)
{
	struct relay_table **t = (struct relay_table **)eng_family_res(f, &res_relays);

	if (!*t)
		*t = calloc(1, sizeof **t);
	return *t;
}

static void relay_key(const struct stat *st, uint64_t key[2])
{
	bool tty = S_ISCHR(st->st_mode);

	key[0] = tty ? 0 : st->st_dev;
	key[1] = tty ? st->st_rdev : st->st_ino;
}

static struct relay *relay_find(struct relay_table *t, const struct stat *st, enum eng_relay_kind kind)
{
	uint64_t key[2];

	relay_key(st, key);
	for (struct relay *r = t->first; r; r = r->next)
		if (r->r.kind == kind && r->key[0] == key[0] && r->key[1] == key[1])
			return r;
	if (kind == ENG_RELAY_TTY && st->st_rdev == makedev(5, 0)) /* /dev/tty: the family's one terminal */
		for (struct relay *r = t->first; r; r = r->next)
			if (r->r.kind == kind)
				return r;
	return NULL;
}

static struct relay *relay_add(struct relay_table *t, uint64_t id, enum eng_relay_kind kind)
{
	struct relay *r = calloc(1, sizeof *r);

	if (!r)
		return NULL;
	r->r = (struct eng_relay){.id = id, .kind = kind, .fd = -1};
	r->open_fd = -1;
	r->next = t->first;
	t->first = r;
	if (id > t->last && id < BORN_AWAY)
		t->last = id;
	return r;
}

bool relay_known(struct eng_family *f, const struct stat *st, enum eng_relay_kind kind)
{
	struct relay_table *t = table_of(f);

	return t && relay_find(t, st, kind);
}

int relay_learn(struct eng_family *f, const struct stat *st, uint64_t id, enum eng_relay_kind kind)
{
	struct relay_table *t = table_of(f);
	struct relay *r = t ? relay_add(t, id, kind) : NULL;

	if (!r)
		return -ENOMEM;
	relay_key(st, r->key);
	return 0;
}

/* A pipe or terminal that stands for another: /dev/fd/N opens it by its owner and mode, as that one. */
static void owner_put(const struct file_desc *d, Sprite__Img__File *m)
{
	m->uid = d->look.st.st_uid;
	m->gid = d->look.st.st_gid;
}

static void owner_take(int fd, const Sprite__Img__File *m)
{
	if (fchown(fd, m->uid, m->gid) < 0 || fchmod(fd, m->mode & 0777) < 0)
		log_debug("engine: owner of %s: %s", m->path, strerror(errno));
}

static const char *why_not(int err)
{
	return err == ETIME ? "sprite-relay does not answer" : strerror(err);
}

/* Source: the description is (or becomes, at home) a relayed one. */
int relay_dump(struct eng_family *f, struct file_desc *d, Sprite__Img__File *m, enum eng_relay_kind kind, struct error *e)
{
	struct relay_table *t = table_of(f);
	struct relay *r = t ? relay_find(t, &d->look.st, kind) : NULL;
	const struct eng_hooks *h = eng_hooks(f);

	if (!t)
		return -ENOMEM;
	if (!h->relay_found)
		return error_set(e, ENOTSUP, "its other end stays here, and nobody relays it");
	if (!r) {
		r = relay_add(t, t->last + 1, kind);
		if (!r)
			return -ENOMEM;
		relay_key(&d->look.st, r->key);
	}
	if (f->home) { /* its hollow will have it there */
		r->r.pid = d->holder->vpid;
		r->r.num = d->look.num;
	}
	struct eng_relay found = r->r;
	int size;

	found.fd = eng_fd_get(d->holder, d->look.num);
	if (found.fd < 0)
		return found.fd;
	size = kind <= ENG_RELAY_PIPE_OUT ? fcntl(found.fd, F_GETPIPE_SZ) : 0;
	if (size > 0) {
		m->pipe = malloc(sizeof *m->pipe);
		if (!m->pipe) {
			close(found.fd);
			return -ENOMEM;
		}
		sprite__img__pipe__init(m->pipe);
		m->pipe->size = r->size = size;
	}
	int k = h->relay_found(h->ctx, &found); /* owns found.fd from here on */

	if (k < 0)
		return error_set(e, -k, "cannot be relayed: %s", why_not(-k));
	owner_put(d, m);
	m->relay = r->r.id;
	m->relay_kind = r->r.kind;
	m->relay_pid = r->r.pid;
	m->relay_num = r->r.num;
	return 0;
}

/* Another description of the same thing (its own flags), through the magic link. */
static int reopen(int fd, uint32_t flags, struct error *e)
{
	char name[40];

	snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
	int r = open(name, (flags & (O_ACCMODE | O_NONBLOCK)) | O_NOCTTY | O_CLOEXEC);

	return r < 0 ? error_set(e, errno, "relayed descriptor cannot be opened again: %s", strerror(errno)) : r;
}

/* What the family sees when nobody has the other end any more. */
static int dead_end(const Sprite__Img__File *m)
{
	enum eng_relay_kind kind = m->relay_kind;
	int p[2], keep = kind == ENG_RELAY_PIPE_OUT;

	if (kind == ENG_RELAY_TTY)
		return -ENOENT;
	if (kind >= ENG_RELAY_TCP && kind <= ENG_RELAY_UDP)
		return inet_dead_end(m);
	int type = kind == ENG_RELAY_SEQ ? SOCK_SEQPACKET : kind == ENG_RELAY_DGRAM ? SOCK_DGRAM : SOCK_STREAM;

	if (kind >= ENG_RELAY_SOCK ? socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, p) : pipe2(p, O_CLOEXEC))
		return -errno;
	close(p[!keep]);
	return p[keep];
}

/* The pipe at home and the one that stands for it are as large as the other was when the family left it: at home only if that was changed away. */
static void size_take(const struct eng_family *f, struct relay *r, const Sprite__Img__File *m)
{
	int was = r->size, want = m->pipe && m->pipe->size <= INT32_MAX ? (int)m->pipe->size : 0;

	if (r->r.kind > ENG_RELAY_PIPE_OUT || !want || (f->home && want == was))
		return;
	r->size = want;
	if (fcntl(r->r.fd, F_GETPIPE_SZ) != want && fcntl(r->r.fd, F_SETPIPE_SZ, want) < 0)
		log_debug("engine: relay %llu: a pipe of %d bytes: %s", (unsigned long long)r->r.id, want, strerror(errno));
}

/* Destination. The first description of a relay is what the hook gave. */
int relay_open(struct eng_family *f, struct file_desc *d, const struct eng_net *net, struct error *e)
{
	const Sprite__Img__File *m = d->image;
	struct relay_table *t = table_of(f);
	const struct eng_hooks *h = eng_hooks(f);
	struct relay *r = t ? t->first : NULL;

	if (!t)
		return -ENOMEM;
	while (r && r->r.id != m->relay)
		r = r->next;
	if (!r && !(r = relay_add(t, m->relay, m->relay_kind)))
		return -ENOMEM;
	if (r->open_fd >= 0)
		return reopen(r->open_fd, m->flags, e);
	r->r.pid = m->relay_pid;
	r->r.num = m->relay_num;
	r->r.kind = m->relay_kind;
	r->r.fd = -1;
	r->r.net = net;
	int k = h->relay_open ? h->relay_open(h->ctx, &r->r) : -ENOTSUP;

	r->r.net = NULL;
	/* At home: whoever kept the original was killed, and the hollow does not have it either. */
	if (f->home && (k == -ENOENT || k == -ECONNREFUSED || k == -EBADF) && (r->r.fd = dead_end(m)) >= 0)
		k = 0;

	if (k < 0 || r->r.fd < 0)
		return error_set(e, k < 0 ? -k : EBADF, "relay %llu cannot be opened: %s", (unsigned long long)r->r.id, why_not(-k));
	struct stat st;

	size_take(f, r, m);
	if (!f->home && r->r.kind < ENG_RELAY_SOCK) /* there it is the original; a socket belongs to nobody */
		owner_take(r->r.fd, m);
	uid_t uid = eng_proc_at(f, 0)->core->uid;

	/* As /dev/tty it is opened by path, which at home asks nobody whose it is. */
	if (!f->home && r->r.kind == ENG_RELAY_TTY && m->uid != uid && fchown(r->r.fd, uid, -1) < 0)
		log_debug("engine: owner of a terminal: %s", strerror(errno));
	if (fstat(r->r.fd, &st) == 0)
		relay_key(&st, r->key);
	r->open_fd = fcntl(r->r.fd, F_DUPFD_CLOEXEC, 0);
	int fd = r->r.fd;

	r->r.fd = -1;
	return fd;
}

/* ---- pipes ------------------------------------------------------------------------------------------ */

static bool is_pipe(const struct file_look *l)
{
	return S_ISFIFO(l->st.st_mode) && !strncmp(l->link, "pipe:[", 6) && !(l->flags & O_PATH);
}

static bool reads(uint32_t flags)
{
	return (flags & O_ACCMODE) != O_WRONLY;
}
static bool writes(uint32_t flags)
{
	return (flags & O_ACCMODE) != O_RDONLY;
}

/* Which ends of d's pipe the family holds: bit 0 a reading, bit 1 a writing one; *first: its first description. */
static int pipe_ends(struct eng_family *f, const struct file_desc *d, const struct file_desc **first)
{
	int ends = 0;

	*first = NULL;
	for (const struct file_desc *c = files_first(f); c; c = c->next) {
		if (c->kind != &file_pipe || c->look.st.st_ino != d->look.st.st_ino || c->look.st.st_dev != d->look.st.st_dev)
			continue;
		if (!*first)
			*first = c;
		ends |= reads(c->look.flags) | writes(c->look.flags) << 1;
	}
	return ends;
}

/* What is in the pipe, without taking it out: tee(2) into one of our own. */
static int pipe_content(int fd, Sprite__Img__Pipe *m)
{
	int n = 0, p[2];

	if (ioctl(fd, FIONREAD, &n) < 0)
		return -errno;
	if (!n)
		return 0;
	if (pipe2(p, O_CLOEXEC | O_NONBLOCK) < 0)
		return -errno;
	if (m->size && fcntl(p[1], F_SETPIPE_SZ, (int)m->size) < 0) {
		close(p[0]);
		close(p[1]);
		return -errno;
	}
	ssize_t got = tee(fd, p[1], n, SPLICE_F_NONBLOCK);
	int r = got != n ? (got < 0 ? -errno : -EAGAIN) : 0;

	if (!r && !(m->content.data = malloc(n)))
		r = -ENOMEM;
	while (!r && m->content.len < (size_t)n) { /* a read ends with a packet */
		ssize_t k = read(p[0], m->content.data + m->content.len, n - m->content.len);
		void *more = k > 0 ? realloc(m->piece, (m->n_piece + 1) * sizeof *m->piece) : NULL;

		if (k <= 0)
			r = k < 0 ? -errno : -EIO;
		else if (!more)
			r = -ENOMEM;
		else {
			m->piece = more;
			m->piece[m->n_piece++] = k;
			m->content.len += k;
		}
	}
	close(p[0]);
	close(p[1]);
	return r;
}

static int pipe_inside(struct eng_family *f, struct file_desc *d, const struct file_desc *first, Sprite__Img__File *m, struct error *e)
{
	Sprite__Img__Pipe *x = m->pipe = malloc(sizeof *m->pipe);

	if (!x)
		return -ENOMEM;
	sprite__img__pipe__init(x);
	owner_put(d, m);
	x->pipe = first->id;
	if (first != d)
		return 0;
	for (struct file_desc *c = d; c; c = c->next)
		x->packets |= c->kind == &file_pipe && c->look.st.st_ino == d->look.st.st_ino && c->look.flags & O_DIRECT;
	for (struct file_desc *c = d; c; c = c->next) { /* the first reading end; without one nobody will ever see what is in it */
		if (c->kind != &file_pipe || c->look.st.st_ino != d->look.st.st_ino || (!reads(c->look.flags) && c != d))
			continue;
		_cleanup_close_ int fd = eng_fd_get(c->holder, c->look.num);

		if (fd < 0)
			return fd;
		int size = fcntl(fd, F_GETPIPE_SZ);

		x->size = size > 0 ? size : 0;
		if (!reads(c->look.flags))
			continue;
		int r = pipe_content(fd, x);

		return r < 0 ? error_set(e, -r, "content of the pipe: %s", strerror(-r)) : 0;
	}
	(void)f;
	return 0;
}

/* Nobody has the other end any more: there is nothing to relay to. */
static bool pipe_widowed(const struct file_desc *d)
{
	_cleanup_close_ int fd = eng_fd_get(d->holder, d->look.num);
	struct pollfd p = {.fd = fd};

	return fd >= 0 && poll(&p, 1, 0) == 1 && p.revents & (reads(d->look.flags) ? POLLHUP : POLLERR);
}

static int pipe_dump(struct eng_family *f, struct file_desc *d, Sprite__Img__File *m, struct error *e)
{
	const struct file_desc *first;
	int ends = pipe_ends(f, d, &first);
	enum eng_relay_kind kind = reads(d->look.flags) ? ENG_RELAY_PIPE_IN : ENG_RELAY_PIPE_OUT;

	if (ends == 3 || pipe_widowed(d) || (!f->home && !relay_find(table_of(f), &d->look.st, kind)))
		return pipe_inside(f, d, first, m, e);
	if (d->look.flags & O_DIRECT)
		return error_set(e, ENOTSUP, "pipe in packet mode (O_DIRECT) whose other end stays here");
	return relay_dump(f, d, m, kind, e);
}

/* Packet by packet, if that is what it holds. */
static int pipe_refill(int fd, const Sprite__Img__Pipe *m)
{
	const uint8_t *p = m->content.data, *end = p + m->content.len;

	if (fcntl(fd, F_SETFL, O_NONBLOCK | (m->packets ? O_DIRECT : 0)) < 0)
		return -errno;
	for (size_t i = 0; i < m->n_piece; i++) {
		ssize_t n = m->piece[i] <= (size_t)(end - p) ? write(fd, p, m->piece[i]) : -1;

		if (n != (ssize_t)m->piece[i])
			return -EIO;
		p += n;
	}
	return p == end && fcntl(fd, F_SETFL, 0) == 0 ? 0 : -EIO;
}

static struct pair *pair_get(struct eng_family *f, const Sprite__Img__File *of, struct error *e)
{
	const Sprite__Img__Pipe *m = of->pipe;
	struct relay_table *t = table_of(f);
	struct pair *q = t ? t->pairs : NULL;

	while (q && q->id != m->pipe)
		q = q->next;
	if (q)
		return q;
	q = calloc(1, sizeof *q);
	if (!t || !q || pipe2(q->fd, O_CLOEXEC) < 0) {
		error_set(e, errno, "pipe: %s", strerror(errno));
		free(q);
		return NULL;
	}
	q->id = m->pipe;
	q->next = t->pairs;
	t->pairs = q;
	owner_take(q->fd[0], of);
	if (m->size && fcntl(q->fd[1], F_GETPIPE_SZ) != (int)m->size && fcntl(q->fd[1], F_SETPIPE_SZ, (int)m->size) < 0) {
		error_set(e, errno, "pipe of %llu bytes: %s", (unsigned long long)m->size, strerror(errno));
		return NULL;
	}
	if (pipe_refill(q->fd[1], m) < 0) {
		error_set(e, EIO, "content of a pipe does not fit");
		return NULL;
	}
	return q;
}

static int pipe_open(struct eng_family *f, struct eng_proc *p, struct file_desc *d, struct error *e)
{
	const Sprite__Img__File *m = d->image;

	(void)p;
	if (m->relay)
		return relay_open(f, d, NULL, e);
	struct pair *q = m->pipe ? pair_get(f, m, e) : NULL;

	if (!q)
		return res_bad_record(e, "pipes");
	int end = !reads(m->flags);

	if (q->used[end] || (reads(m->flags) && writes(m->flags)))
		return reopen(q->fd[end], m->flags, e);
	q->used[end] = true;
	int fd = fcntl(q->fd[end], F_DUPFD_CLOEXEC, 0);

	return fd < 0 ? error_set(e, errno, "pipe: %s", strerror(errno)) : fd;
}

/* What it reads nobody else may read at the same time; of one that only writes others may have both ends. */
static int pipe_outside(const struct file_look *l)
{
	return reads(l->flags) ? OUTSIDE_NOT_PIPE : OUTSIDE_ALL;
}

static bool pipe_stays(struct eng_proc *p, const struct file_look *l)
{
	struct relay_table *t = table_of(p->family);

	return t && (relay_find(t, &l->st, ENG_RELAY_PIPE_IN) || relay_find(t, &l->st, ENG_RELAY_PIPE_OUT));
}

/* ---- the module that keeps the table ------------------------------------------------------------------ */

static void pairs_close(struct relay_table *t)
{
	while (t->pairs) {
		struct pair *q = t->pairs;

		t->pairs = q->next;
		close(q->fd[0]);
		close(q->fd[1]);
		free(q);
	}
	for (struct relay *r = t->first; r; r = r->next)
		if (r->open_fd >= 0) {
			close(r->open_fd);
			r->open_fd = -1;
		}
}

/* All descriptors have been given out (this module comes after files): our ends must not keep the pipes open. */
static int relays_finish(struct eng_proc *p, struct error *e)
{
	(void)e;
	if (p == eng_proc_at(p->family, eng_nprocs(p->family) - 1) && table_of(p->family))
		pairs_close(table_of(p->family));
	return 0;
}

/* Known again by a migd that comes after us: "relay ID KIND KEY KEY PID NUM". */
static int relays_save(const struct eng_family *f, FILE *o)
{
	const struct relay_table *t = *(struct relay_table **)eng_family_res((struct eng_family *)f, &res_relays);

	for (const struct relay *r = t ? t->first : NULL; r; r = r->next)
		fprintf(o, "relay %llu %d %llu %llu %d %d\n", (unsigned long long)r->r.id, r->r.kind, (unsigned long long)r->key[0],
			(unsigned long long)r->key[1], r->r.pid, r->r.num);
	return 0;
}

static int relays_restore(struct eng_family *f, const char *line, bool hollow)
{
	unsigned long long id, key[2];
	int kind, pid, num;

	(void)hollow;
	if (sscanf(line, "relay %llu %d %llu %llu %d %d", &id, &kind, &key[0], &key[1], &pid, &num) != 6)
		return 0;
	struct relay_table *t = table_of(f);
	struct relay *r = t ? relay_add(t, id, kind) : NULL;

	if (!r)
		return -ENOMEM;
	r->key[0] = key[0];
	r->key[1] = key[1];
	r->r.pid = pid;
	r->r.num = num;
	return 1;
}

static void relays_release(struct eng_family *f, struct eng_proc *p)
{
	if (p)
		return;
	struct relay_table **t = (struct relay_table **)eng_family_res(f, &res_relays);

	if (!*t)
		return;
	pairs_close(*t);
	if (eng_nprocs(f)) /* an image is over, the family is not: on a guest host nothing else tells which of its pipes and sockets are relays */
		return;
	while ((*t)->first) {
		struct relay *r = (*t)->first;

		(*t)->first = r->next;
		free(r);
	}
	free(*t);
	*t = NULL;
}

const struct file_kind file_pipe = {.name = "pipe", .is = is_pipe, .outside = pipe_outside, .dump = pipe_dump, .open = pipe_open, .stays = pipe_stays};
const struct eng_res res_relays = {.name = "relays", .finish = relays_finish, .save = relays_save, .restore = relays_restore, .release = relays_release};

/* ---- hollows ---------------------------------------------------------------------------------------- */
struct letting {
	struct eng_proc *p;
	const struct relay *r;
	bool now;
	unsigned n;
};

static int let_go(const struct file_look *l, void *ctx)
{
	struct letting *c = ctx;
	uint64_t key[2];

	relay_key(&l->st, key);
	if (!is_pipe(l) || key[0] != c->r->key[0] || key[1] != c->r->key[1] || !(c->r->r.kind == ENG_RELAY_PIPE_IN ? reads(l->flags) : writes(l->flags)))
		return 0;
	c->n++;
	return c->now ? (int)ENG_SYS(c->p->threads[0], SYS_close, l->num) : 0;
}

int eng_hollow_let_go(struct eng_family *f, uint64_t id)
{
	struct relay_table *t = table_of(f);
	struct letting c = {0};
	int r = 0;

	for (c.r = t ? t->first : NULL; c.r && c.r->r.id != id; c.r = c.r->next)
		;
	if (!c.r || (c.r->r.kind != ENG_RELAY_PIPE_IN && c.r->r.kind != ENG_RELAY_PIPE_OUT))
		return 0;
	if (f->nest || f->state != ENG_HOLLOW)
		return -EBUSY;
	for (size_t i = 0; i < f->nprocs; i++) {
		c.p = f->procs[i];
		c.n = 0;
		c.now = false;
		if (c.p->core->dead || files_each(c.p->pid, c.p->dir, let_go, &c) < 0 || !c.n)
			continue;
		if (c.p->core->stop_sig) { /* a stopped program makes no calls */
			r = -EAGAIN;
			continue;
		}
		c.now = true;
		int one = hollow_stop_one(c.p);

		if (one == 0)
			one = files_each(c.p->pid, c.p->dir, let_go, &c);
		if (!c.p->threads[0]->core->gone)
			hollow_watch_one(c.p);
		if (one < 0)
			r = one;
	}
	return r;
}
