/* SPDX-License-Identifier: Apache-2.0 */
/* Unix sockets at the destination (res_file_socket.c says what is carried): pairs are made when the first of their ends comes, names are bound after the commit. */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>
#include "conf/log.h"
#include "migd/engine/core.h"
#include "migd/engine/res_files.h"
#include "migd/engine/res_file_socket.h"

struct pair { /* destination: a pair that has been made, its ends not all given out yet */
	struct pair *next;
	uint64_t sock[2];
	int fd[2];
};
struct name_todo { /* destination: what resume() does in process p with its descriptor num */
	struct name_todo *next;
	struct eng_proc *p;
	int num;
	Sprite__Img__Socket *m;
};
struct sockets_state { /* ->res[] of the family */
	struct pair *pairs;
	struct name_todo *names;
};

const struct eng_res res_sockets;

enum { PASSPIDFD = 76, PASSRIGHTS = 83 }; /* SO_...: younger than the C library's headers */
const int socket_options[SOCKET_OPTIONS_MAX] = {SO_RCVLOWAT, SO_OOBINLINE, SO_KEEPALIVE, SO_PRIORITY, SO_TIMESTAMP, SO_TIMESTAMPNS, SO_PASSSEC, PASSPIDFD, PASSRIGHTS, 0};

int socket_number(int fd, int option)
{
	int v = 0;
	socklen_t n = sizeof v;

	getsockopt(fd, SOL_SOCKET, option, &v, &n);
	return v;
}

static struct sockets_state *state_of(struct eng_family *f)
{
	struct sockets_state **s = (struct sockets_state **)eng_family_res(f, &res_sockets);

	if (!*s)
		*s = calloc(1, sizeof **s);
	return *s;
}

int socket_by_target(struct eng_proc *p, int domain, int type, bool pair, int fd[2])
{
	struct eng_thread *t = p->threads[0];
	struct eng_call c[6];
	size_t n = 0, at;
	int num[2];

	eng_scratch_reset(p);
	uint64_t where = eng_scratch_put(p, NULL, sizeof num);

	if (p->core->caps) {
		c[n++] = (struct eng_call){SYS_setresgid, {-1u, p->core->gid, -1u}, 0, 0, 0};
		c[n++] = (struct eng_call){SYS_setresuid, {-1u, p->core->uid, 0}, 0, 0, 0};
	}
	at = n;
	c[n++] = pair ? (struct eng_call){SYS_socketpair, {domain, type | SOCK_CLOEXEC, 0, where}, 0, 1, 0}
		      : (struct eng_call){SYS_socket, {domain, type | SOCK_CLOEXEC, 0}, 0, 1, 0};
	if (p->core->caps) {
		c[n++] = (struct eng_call){SYS_setresuid, {-1u, 0, -1u}, 0, 0, 0};
		c[n++] = (struct eng_call){SYS_setresgid, {-1u, 0, -1u}, 0, 0, 0};
	}
	int r = eng_batch(t, c, n, NULL);

	if (r < 0 || c[at].ret < 0)
		return r < 0 ? r : (int)c[at].ret;
	num[0] = num[1] = c[at].ret;
	if (pair && (r = eng_peek(p, where, num, sizeof num)) < 0)
		return r;
	fd[0] = eng_fd_get(p, num[0]);
	fd[1] = pair ? eng_fd_get(p, num[1]) : -1;
	eng_syscall(t, SYS_close, (long)num[0]);
	if (pair)
		eng_syscall(t, SYS_close, (long)num[1]);
	return fd[0] < 0 ? fd[0] : pair && fd[1] < 0 ? fd[1] : 0;
}

void socket_options_set(int fd, const Sprite__Img__Socket *m)
{
	struct timeval r = {m->rcvtimeo / 1000000, m->rcvtimeo % 1000000}, s = {m->sndtimeo / 1000000, m->sndtimeo % 1000000};
	int sndbuf = m->sndbuf / 2, rcvbuf = m->rcvbuf / 2, pass = m->passcred, off = m->peek_off; /* the kernel doubles buffers */

	if (socket_number(fd, SO_SNDBUF) != (int)m->sndbuf && setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &sndbuf, sizeof sndbuf) < 0)
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &sndbuf, sizeof sndbuf);
	if (socket_number(fd, SO_RCVBUF) != (int)m->rcvbuf && setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &rcvbuf, sizeof rcvbuf) < 0)
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &rcvbuf, sizeof rcvbuf);
	for (size_t i = 0; i + 1 < m->n_option; i += 2)
		if (socket_number(fd, m->option[i]) != m->option[i + 1])
			setsockopt(fd, SOL_SOCKET, m->option[i], &m->option[i + 1], sizeof m->option[i + 1]);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &r, sizeof r);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &s, sizeof s);
	if (pass)
		setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &pass, sizeof pass);
	if (off >= 0)
		setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &off, sizeof off);
}

/* What waited at m's socket is sent from its other end, `from`, with room for all of it. */
static int queue_fill(int from, const Sprite__Img__Socket *m)
{
	int was = socket_number(from, SO_SNDBUF) / 2, room = 8 << 20;

	if (m->n_queue && setsockopt(from, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room) < 0)
		setsockopt(from, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
	for (size_t i = 0; i < m->n_queue; i++)
		if (send(from, m->queue[i].data, m->queue[i].len, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)m->queue[i].len)
			return errno ? -errno : -EIO;
	if (m->n_queue)
		setsockopt(from, SOL_SOCKET, SO_SNDBUF, &was, sizeof was);
	return 0;
}

/* One end of a new pair: the other one waits in the list until its description comes, or is closed if it has none. */
static int pair_make(struct eng_family *f, struct eng_proc *p, const Sprite__Img__Socket *m, int *out)
{
	struct eng_proc *maker = m->maker ? eng_proc_by_vpid(f, m->maker) : NULL;
	struct pair *q = calloc(1, sizeof *q);

	if (!q)
		return -ENOMEM;
	int r = socket_by_target(maker ? maker : p, AF_UNIX, m->type, true, q->fd);

	if (r < 0) {
		free(q);
		return r;
	}
	q->sock[0] = m->sock;
	q->sock[1] = m->peer;
	*out = q->fd[0];
	r = queue_fill(q->fd[1], m);
	if (!m->peer) { /* the other end is gone: so are we with it, after what it had sent */
		close(q->fd[1]);
		free(q);
		return r;
	}
	q->fd[0] = -1;
	q->next = state_of(f)->pairs;
	state_of(f)->pairs = q;
	return r;
}

/* While it was away nobody could send it a descriptor (relay_sock_rights()); who denied that may have been killed. */
static void rights_back(int fd, const Sprite__Img__Socket *m)
{
	int on = 1;

	for (size_t i = 0; i + 1 < m->n_option; i += 2)
		on = m->option[i] == PASSRIGHTS ? m->option[i + 1] : on;
	if (socket_number(fd, PASSRIGHTS) != on)
		setsockopt(fd, SOL_SOCKET, PASSRIGHTS, &on, sizeof on);
}

int socket_open(struct eng_family *f, struct eng_proc *p, struct file_desc *d, struct error *e)
{
	const Sprite__Img__Socket *m = d->image->socket;
	int fd[2] = {-1, -1}, r = 0;

	if (!m || !state_of(f))
		return res_bad_record(e, "sockets");
	if (m->domain)
		return inet_open(f, p, d, e);
	if (d->image->relay) {
		r = relay_open(f, d, NULL, e);
		if (r >= 0)
			socket_options_set(r, m); /* at home too: they may have been changed away */
		if (r >= 0 && f->home)
			rights_back(r, m);
		return r;
	}
	if (!m->connected) {
		r = socket_by_target(p, AF_UNIX, m->type, false, fd);
	} else {
		struct pair *q = state_of(f)->pairs;

		while (q && !(q->sock[1] == m->sock && q->fd[1] >= 0))
			q = q->next;
		if (q) {
			fd[0] = q->fd[1];
			q->fd[1] = -1;
			for (struct file_desc *c = files_first(f); c; c = c->next) /* its peer, whose end sends what waits here */
				if (c != d && c->image && c->image->socket && c->image->socket->sock == m->peer && c->fd >= 0)
					r = queue_fill(c->fd, m);
		} else {
			r = pair_make(f, p, m, &fd[0]);
		}
	}
	if (r < 0)
		return error_set(e, -r, "unix socket: %s", strerror(-r));
	socket_options_set(fd[0], m);
	return fd[0];
}

/* Shutting down comes after both ends have got what waited for them; names come after the commit. */
int socket_finish(struct eng_proc *p, struct file_desc *d, int num, struct error *e)
{
	Sprite__Img__Socket *m = d->image->socket;

	if (d->image->relay) { /* what its peer has shut is told by the relay, behind what waits */
		if (m->shut_wr && !p->family->home)
			shutdown(d->fd, SHUT_WR);
		return 0;
	}
	if (m->domain)
		return 0;
	if (m->shut_rd || m->shut_wr)
		shutdown(d->fd, m->shut_rd && m->shut_wr ? SHUT_RDWR : m->shut_rd ? SHUT_RD : SHUT_WR);
	if ((m->connected && m->type != SOCK_DGRAM) || !(m->name.len || m->to.len))
		return 0;
	struct name_todo *t = calloc(1, sizeof *t);

	if (!t)
		return error_set(e, ENOMEM, "no memory");
	*t = (struct name_todo){state_of(p->family)->names, p, num, m};
	d->image->socket = NULL; /* ours now: the description's image goes before we resume */
	state_of(p->family)->names = t;
	return 0;
}

static void pairs_free(struct sockets_state *s)
{
	for (struct pair *q; (q = s->pairs);) {
		s->pairs = q->next;
		for (int i = 0; i < 2; i++)
			if (q->fd[i] >= 0)
				close(q->fd[i]);
		free(q);
	}
}

static void names_free(struct sockets_state *s)
{
	for (struct name_todo *t; (t = s->names);) {
		s->names = t->next;
		sprite__img__socket__free_unpacked(t->m, NULL);
		free(t);
	}
}

static int sockets_finish(struct eng_proc *p, struct error *e)
{
	(void)e;
	if (p == eng_proc_at(p->family, eng_nprocs(p->family) - 1) && state_of(p->family))
		pairs_free(state_of(p->family));
	return 0;
}

static uint64_t put_name(struct eng_proc *p, ProtobufCBinaryData name, socklen_t *len)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	*len = sizeof a.sun_family + name.len;
	if (name.len > sizeof a.sun_path)
		return 0;
	if (name.len)
		memcpy(a.sun_path, name.data, name.len);
	return eng_scratch_put(p, &a, sizeof a);
}

/* The program itself, by now with its own rights, takes the place of the socket file that is there; of nothing but a socket. */
static void name_bind(const struct name_todo *t)
{
	struct eng_thread *h = t->p->threads[0];
	const Sprite__Img__Socket *m = t->m;
	bool in_tree = m->name.data[0];
	struct stat st;
	socklen_t len;

	eng_scratch_reset(t->p);
	uint64_t addr = put_name(t->p, m->name, &len), path = addr + offsetof(struct sockaddr_un, sun_path),
		 at = eng_scratch_put(t->p, NULL, sizeof st);

	if (!at)
		return;
	if (in_tree && eng_syscall(h, SYS_lstat, path, at) == 0 && eng_peek(t->p, at, &st, sizeof st) == 0 && S_ISSOCK(st.st_mode))
		eng_syscall(h, SYS_unlink, path);
	long r = eng_syscall(h, SYS_bind, (long)t->num, addr, (long)len);

	if (r == 0 && in_tree)
		eng_syscall(h, SYS_chmod, path, (long)m->name_mode);
	if (r == 0 && m->listening)
		r = eng_syscall(h, SYS_listen, (long)t->num, (long)m->backlog);
	if (r < 0)
		log_error("process %d: its socket %.*s cannot be bound again: %s", t->p->vpid, (int)m->name.len - !in_tree,
			  (char *)m->name.data + !in_tree, strerror(-r));
}

static void name_connect(const struct name_todo *t)
{
	socklen_t len;

	eng_scratch_reset(t->p);
	uint64_t addr = put_name(t->p, t->m->to, &len);
	long r = eng_syscall(t->p->threads[0], SYS_connect, (long)t->num, addr, (long)len, (long)CONNECT_HERE);

	if (r < 0)
		log_error("process %d: its datagram socket cannot be connected again: %s", t->p->vpid, strerror(-r));
}

static void sockets_resume(struct eng_proc *p)
{
	struct sockets_state *s = state_of(p->family);

	if (!s || p != eng_proc_at(p->family, eng_nprocs(p->family) - 1))
		return;
	for (struct name_todo *t = s->names; t; t = t->next)
		if (t->m->name.len)
			name_bind(t);
	for (struct name_todo *t = s->names; t; t = t->next)
		if (t->m->to.len)
			name_connect(t);
	names_free(s);
}

static void sockets_release(struct eng_family *f, struct eng_proc *p)
{
	struct sockets_state **s = (struct sockets_state **)eng_family_res(f, &res_sockets);

	if (p || !*s)
		return;
	pairs_free(*s);
	names_free(*s);
	free(*s);
	*s = NULL;
}

const struct eng_res res_sockets = {.name = "sockets", .finish = sockets_finish, .resume = sockets_resume, .release = sockets_release};
