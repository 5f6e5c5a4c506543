// SPDX-License-Identifier: Apache-2.0
/*
 * The local control protocol: lines of JSON over unix sockets. See local.h.
 * Server: one thread accepts, one thread per connection reads requests and runs the handler. Lock order: server.lock, then conn.out; neither is
 * held while a handler runs.
 */
#include "rpc/local.h"

#include <errno.h>
#include <malloc.h>
#include <libgen.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/list.h"
#include "conf/log.h"
#include "conf/text.h"

#define REQUEST_WAIT_MS 10000 /* a connection that sends nothing for so long is closed */
#define TAKEN_MS	1000  /* a daemon that takes nobody in for so long hangs */
#define SEND_WAIT_S	10    /* a caller that reads nothing for so long has gone */

/* ---- lines ---- */

struct lines {
	int fd;
	int stop_fd;	/* -1: none */
	int timeout_ms; /* -1: none */
	char *buf;
	size_t have, seen, size; /* bytes in buf; of these without a newline; allocated */
};

/* Waits until the fd can be read: 0, -ETIMEDOUT, -ECANCELED (stop_fd). */
static int lines_wait(struct lines *l)
{
	struct pollfd p[2] = {{.fd = l->fd, .events = POLLIN}, {.fd = l->stop_fd, .events = POLLIN}};
	int r;

	do
		r = poll(p, l->stop_fd >= 0 ? 2 : 1, l->timeout_ms);
	while (r < 0 && errno == EINTR);
	if (r < 0)
		return -errno;
	if (l->stop_fd >= 0 && p[1].revents)
		return -ECANCELED;
	return r ? 0 : -ETIMEDOUT;
}

static int lines_room(struct lines *l)
{
	size_t n = l->size ? l->size * 2 : 4096;
	char *b;

	if (l->have < l->size)
		return 0;
	if (l->size >= LOCAL_LINE_MAX)
		return -EMSGSIZE;
	b = realloc(l->buf, n);
	if (!b)
		return -ENOMEM;
	l->buf = b;
	l->size = n;
	return 0;
}

/*
 * The next line is buf[0..*len) (its newline not counted); give it back with lines_drop(*len + 1).
 * 1: a line; 0: the peer closed (what follows the last newline is lost); -errno.
 */
static int lines_next(struct lines *l, size_t *len)
{
	char *nl;
	ssize_t n;
	int r;

	for (;;) {
		nl = l->have > l->seen ? memchr(l->buf + l->seen, '\n', l->have - l->seen) : NULL;
		if (nl) {
			*len = (size_t)(nl - l->buf);
			return 1;
		}
		l->seen = l->have;
		r = lines_room(l);
		if (!r)
			r = lines_wait(l);
		if (r)
			return r;
		n = recv(l->fd, l->buf + l->have, l->size - l->have, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (!n)
			return 0;
		l->have += (size_t)n;
	}
}

static void lines_drop(struct lines *l, size_t n)
{
	l->have -= n;
	memmove(l->buf, l->buf + n, l->have);
	l->seen = 0;
}

json_t *local_decode(const char *line, size_t len, bool request, struct error *e)
{
	json_error_t je;
	json_t *o;

	if (len >= LOCAL_LINE_MAX) {
		error_set(e, EMSGSIZE, "expected a line of less than %u bytes, found %zu", LOCAL_LINE_MAX, len);
		return NULL;
	}
	o = json_loadb(line, len, JSON_REJECT_DUPLICATES, &je);
	if (!o) {
		error_set(e, EINVAL, "expected one JSON object per line, found: %s", je.text);
		return NULL;
	}
	if (!json_is_object(o)) {
		error_set(e, EINVAL, "expected a JSON object, found a list");
	} else if (request && !json_is_string(json_object_get(o, "verb"))) {
		error_set(e, EINVAL, "expected a request with a string \"verb\", found none");
	} else {
		return o;
	}
	json_decref(o);
	return NULL;
}

/* Writes `o` (borrowed) as one line. -EPIPE: the peer has gone (or does not read). */
static int line_send(int fd, json_t *o)
{
	_cleanup_free_ char *text = json_dumps(o, JSON_COMPACT);
	size_t n, done = 0;
	ssize_t r;

	if (!text)
		return -ENOMEM;
	n = strlen(text);
	if (n >= LOCAL_LINE_MAX)
		return -EMSGSIZE;
	text[n++] = '\n'; /* over the NUL */
	while (done < n) {
		r = send(fd, text + done, n - done, MSG_NOSIGNAL);
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return errno == EAGAIN || errno == ECONNRESET ? -EPIPE : -errno;
		done += (size_t)r;
	}
	return 0;
}

static int address(const char *path, struct sockaddr_un *a, struct error *e)
{
	size_t n = strlen(path);

	*a = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (n >= sizeof(a->sun_path))
		return error_set(e, ENAMETOOLONG, "%s: expected a socket path of at most %zu bytes, found %zu", path, sizeof(a->sun_path) - 1, n);
	memcpy(a->sun_path, path, n);
	return 0;
}

/* ---- client ---- */

/* ms: how long a server that takes nobody in is waited for, -1: for ever. */
static int client_connect(const char *path, int ms, struct error *e)
{
	struct timeval patience = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
	_cleanup_close_ int fd = -1;
	struct sockaddr_un a;
	int r = address(path, &a, e);

	if (r)
		return r;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return error_set(e, errno, "socket: %s", strerror(errno));
	if (ms > 0)
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	do
		r = connect(fd, (struct sockaddr *)&a, sizeof(a));
	while (r && errno == EINTR);
	if (r && (errno == ENOENT || errno == ECONNREFUSED)) {
		if (e)
			e->absent = true;
		return error_set(e, errno, "%s: nobody answers there: is the daemon running?", path);
	}
	if (r && errno == EAGAIN)
		return error_set(e, ETIMEDOUT, "%s: %s", path, strerror(ETIMEDOUT));
	if (r)
		return error_set(e, errno, "%s: %s", path, strerror(errno));
	return steal_fd(&fd);
}

/* Takes over `o`: the last line of an answer. */
static int client_answer(json_t *o, json_t **answer, struct error *e)
{
	const char *text = json_string_value(json_object_get(o, "error"));
	json_int_t err = json_integer_value(json_object_get(o, "errno"));
	int r = 0;

	if (!json_is_true(json_object_get(o, "ok"))) {
		if (err <= 0 || err > 4095)
			err = EPROTO;
		r = error_set(e, (int)err, "%s", text && *text ? text : strerror((int)err));
	}
	if (answer)
		*answer = json_incref(o);
	json_decref(o);
	return r;
}

static int client_read(struct lines *l, void (*row)(void *arg, json_t *line), void *arg, json_t **answer, struct error *e)
{
	json_t *o;
	size_t n;
	int r;

	for (;;) {
		r = lines_next(l, &n);
		if (r == 0 || r == -ECONNRESET)
			return error_set(e, ECONNRESET, "the daemon ended before it answered");
		if (r < 0)
			return error_set(e, -r, "reading the answer: %s", strerror(-r));
		o = local_decode(l->buf, n, false, e);
		if (!o) {
			error_prefix(e, "the daemon's answer");
			return -EPROTO;
		}
		lines_drop(l, n + 1);
		if (json_object_get(o, "ok"))
			return client_answer(o, answer, e);
		if (row)
			row(arg, o);
		json_decref(o);
	}
}

static int call(const char *socket_path, json_t *request, void (*row)(void *arg, json_t *line), void *arg, int stop_fd, int ms, json_t **answer, struct error *e)
{
	struct lines l = {.stop_fd = stop_fd, .timeout_ms = ms};
	int r;

	if (answer)
		*answer = NULL;
	if (!request) /* json_pack() refused what somebody typed */
		return error_set(e, EINVAL, "an argument is not UTF-8 text");
	r = l.fd = client_connect(socket_path, ms, e);
	if (r >= 0) {
		r = line_send(l.fd, request);
		/* A server that refused us at once may have closed before reading: its reason is still there to be read. */
		if (r && r != -EPIPE)
			error_set(e, -r, "%s: sending the request: %s", socket_path, strerror(-r));
		else
			r = client_read(&l, row, arg, answer, e);
		close(l.fd);
	}
	json_decref(request);
	free(l.buf);
	return r;
}

int local_call(const char *socket_path, json_t *request, void (*row)(void *arg, json_t *line), void *arg, json_t **answer, struct error *e)
{
	return call(socket_path, request, row, arg, -1, -1, answer, e);
}

int local_call_until(const char *socket_path, json_t *request, void (*row)(void *arg, json_t *line), void *arg, int stop_fd, json_t **answer, struct error *e)
{
	return call(socket_path, request, row, arg, stop_fd, -1, answer, e);
}

int local_call_within(const char *socket_path, json_t *request, void (*row)(void *arg, json_t *line), void *arg, int ms, json_t **answer, struct error *e)
{
	return call(socket_path, request, row, arg, -1, ms, answer, e);
}

/* ---- server ---- */

struct local_server {
	int listen_fd, stop_fd;
	pthread_t acceptor;
	local_handler fn;
	void *ctx;
	dev_t dev; /* of the socket file we made */
	ino_t ino;
	pthread_mutex_t lock;
	pthread_cond_t empty;
	struct list conns; /* lock */
	char path[];
};

struct local_conn {
	struct list link; /* server.lock */
	struct local_server *s;
	struct local_cred who;
	struct lines in; /* the connection's thread */
	pthread_mutex_t out;
	bool answered; /* out: the request under way has its last line */
	bool broken;   /* out: nothing can be sent any more */
};

/* Sends under c->out. `last` ends the answer; nothing is sent after it. */
static int conn_send(struct local_conn *c, json_t *o, bool last)
{
	int r = -EPIPE;

	pthread_mutex_lock(&c->out);
	if (!c->answered && !c->broken) {
		r = line_send(c->in.fd, o);
		c->broken = r == -EPIPE;
		c->answered = last && !r;
	}
	pthread_mutex_unlock(&c->out);
	return r;
}

int local_row(struct local_conn *c, json_t *line)
{
	int r = json_is_object(line) && !json_object_get(line, "ok") ? conn_send(c, line, false) : -EINVAL;

	json_decref(line);
	return r;
}

void local_ok(struct local_conn *c, json_t *fields)
{
	json_t *o = json_pack("{s:b}", "ok", 1);
	int r = -ENOMEM;

	if (o) {
		if (fields)
			json_object_update_missing(o, fields);
		r = conn_send(c, o, true);
	}
	json_decref(o);
	json_decref(fields);
	if (r && r != -EPIPE)
		local_fail(c, -r, "the answer could not be sent: %s", strerror(-r));
}

void local_fail(struct local_conn *c, int err, const char *fmt, ...)
{
	char text[1024];
	va_list ap;
	json_t *o;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	o = json_pack("{s:b, s:i, s:s}", "ok", 0, "errno", err > 0 ? err : EIO, "error", text_valid(text));
	if (o)
		conn_send(c, o, true);
	json_decref(o);
}

static bool stopping(const struct local_server *s)
{
	struct pollfd p = {.fd = s->stop_fd, .events = POLLIN};

	return poll(&p, 1, 0) > 0;
}

bool local_gone(const struct local_conn *c)
{
	struct pollfd p = {.fd = c->in.fd}; /* POLLHUP: closed altogether; half closed (POLLRDHUP) still wants its answer */

	return stopping(c->s) || (poll(&p, 1, 0) > 0 && p.revents & (POLLHUP | POLLERR));
}

int local_conn_fd(const struct local_conn *c)
{
	return c->in.fd;
}

/* Every daemon tells root how much it has allocated: what it holds of the system's memory says little, since the allocator keeps what is freed. */
static void heap(struct local_conn *c)
{
	struct mallinfo2 m = mallinfo2();

	local_ok(c, json_pack("{s:I}", "bytes", (json_int_t)(m.uordblks + m.hblkhd)));
}

static void conn_request(struct local_conn *c, size_t len)
{
	struct error e = {0};
	json_t *o = local_decode(c->in.buf, len, true, &e);

	lines_drop(&c->in, len + 1);
	c->answered = false; /* no other thread knows the connection now */
	if (!o) {
		local_fail(c, e.code, "%s", e.text);
		return;
	}
	if (!c->who.uid && !strcmp(json_string_value(json_object_get(o, "verb")), "heap"))
		heap(c);
	else
		c->s->fn(c->s->ctx, c, &c->who, o);
	local_fail(c, EIO, "the request was not answered"); /* does nothing when it was */
	json_decref(o);
}

static void conn_free(struct local_conn *c)
{
	close(c->in.fd);
	free(c->in.buf);
	pthread_mutex_destroy(&c->out);
	free(c);
}

static void *conn_main(void *arg)
{
	struct local_conn *c = arg;
	struct local_server *s = c->s;
	size_t len;
	int r;

	while ((r = lines_next(&c->in, &len)) == 1 && !c->broken)
		conn_request(c, len);
	c->answered = false;
	if (r == -EMSGSIZE)
		local_fail(c, EMSGSIZE, "expected a line of less than %u bytes, found a longer one", LOCAL_LINE_MAX);
	else if (r == 0 && c->in.have)
		local_fail(c, EINVAL, "expected a line that ends with a newline, found an end after %zu bytes", c->in.have);
	else if (r == -ETIMEDOUT && c->in.have)
		local_fail(c, ETIMEDOUT, "expected a line that ends with a newline, found nothing more in %d s", REQUEST_WAIT_MS / 1000);
	pthread_mutex_lock(&s->lock);
	list_del(&c->link);
	conn_free(c); /* before stop may return: its fd is closed then */
	if (list_empty(&s->conns))
		pthread_cond_broadcast(&s->empty);
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

/* Threads of the server take no signals: those belong to main. */
static int thread_start(pthread_t *t, bool detached, void *(*fn)(void *), void *arg)
{
	pthread_attr_t attr;
	sigset_t all, old;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, detached ? PTHREAD_CREATE_DETACHED : PTHREAD_CREATE_JOINABLE);
	r = pthread_create(t, &attr, fn, arg);
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -r;
}

static bool too_many(struct local_server *s, uid_t uid)
{
	struct local_conn *c;
	unsigned n = 0;

	list_each(c, &s->conns, link)
		n += c->who.uid == uid;
	return uid && n >= LOCAL_CONNS_PER_UID;
}

static struct local_conn *conn_new(struct local_server *s, int fd)
{
	struct timeval tv = {.tv_sec = SEND_WAIT_S};
	struct local_conn *c;
	struct ucred u;
	socklen_t n = sizeof(u);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &u, &n) || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv)))
		return NULL;
	c = calloc(1, sizeof(*c));
	if (!c)
		return NULL;
	c->s = s;
	c->who = (struct local_cred){.pid = u.pid, .uid = u.uid, .gid = u.gid};
	c->in = (struct lines){.fd = fd, .stop_fd = s->stop_fd, .timeout_ms = REQUEST_WAIT_MS};
	pthread_mutex_init(&c->out, NULL);
	list_init(&c->link);
	return c;
}

static void serve(struct local_server *s, int fd)
{
	struct local_conn *c = conn_new(s, fd);
	pthread_t t;
	int r;

	if (!c) {
		close(fd);
		return;
	}
	pthread_mutex_lock(&s->lock);
	r = too_many(s, c->who.uid) ? -EUSERS : thread_start(&t, true, conn_main, c);
	if (!r)
		list_add_tail(&s->conns, &c->link); /* the thread cannot end before: it takes the lock to unlink itself */
	pthread_mutex_unlock(&s->lock);
	if (!r)
		return;
	local_fail(c, -r, r == -EUSERS ? "too many requests of this user at once" : "no thread for this request: %s", strerror(-r));
	conn_free(c);
}

static void *acceptor_main(void *arg)
{
	struct local_server *s = arg;
	struct pollfd p[2] = {{.fd = s->listen_fd, .events = POLLIN}, {.fd = s->stop_fd, .events = POLLIN}};
	int fd;

	for (;;) {
		if (poll(p, 2, -1) < 0 && errno != EINTR)
			break;
		if (p[1].revents)
			break;
		fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC);
		if (fd >= 0) {
			serve(s, fd);
		} else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
			log_error("%s: accept: %s", s->path, strerror(errno));
			poll(&p[1], 1, 500); /* until somebody gives a descriptor back */
		}
	}
	return NULL;
}

/* Is there a daemon behind the path? 0 no (or no such file), -EADDRINUSE, -errno. */
static int path_free(const char *path, struct error *e)
{
	struct stat st;
	int fd;

	if (lstat(path, &st))
		return errno == ENOENT ? 0 : error_set(e, errno, "%s: %s", path, strerror(errno));
	if (!S_ISSOCK(st.st_mode))
		return error_set(e, EEXIST, "%s: expected a socket or nothing, found another kind of file", path);
	fd = client_connect(path, TAKEN_MS, NULL);
	if (fd < 0 && fd != -ETIMEDOUT) /* one that hangs is there too */
		return 0;
	if (fd >= 0)
		close(fd);
	return error_set(e, EADDRINUSE, "%s: another daemon answers there already", path);
}

/* Binds beside and renames, so that there is no moment with a socket of wrong mode or with nobody listening. */
static int server_bind(struct local_server *s, mode_t mode, struct error *e)
{
	_cleanup_free_ char *dir = strdup(s->path), *tmp = NULL;
	struct sockaddr_un a;
	struct stat st;
	int r;

	if (!dir || asprintf(&tmp, "%s.new", s->path) < 0) {
		tmp = NULL;
		return error_set(e, ENOMEM, "out of memory");
	}
	r = address(tmp, &a, e);
	if (r)
		return r;
	if (mkdir(dirname(dir), 0755) && errno != EEXIST)
		return error_set(e, errno, "%s: %s", dir, strerror(errno));
	r = path_free(s->path, e);
	if (r)
		return r;
	unlink(tmp);
	s->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (s->listen_fd < 0 || bind(s->listen_fd, (struct sockaddr *)&a, sizeof(a)) || chmod(tmp, mode) || listen(s->listen_fd, 128) ||
		lstat(tmp, &st) || rename(tmp, s->path)) {
		r = error_set(e, errno, "%s: %s", s->path, strerror(errno));
		unlink(tmp);
		return r;
	}
	s->dev = st.st_dev;
	s->ino = st.st_ino;
	return 0;
}

static void server_free(struct local_server *s)
{
	if (s->listen_fd >= 0)
		close(s->listen_fd);
	if (s->stop_fd >= 0)
		close(s->stop_fd);
	pthread_cond_destroy(&s->empty);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

/* Ours may have been replaced by a successor's. */
static void server_unlink(struct local_server *s)
{
	struct stat st;

	if (!lstat(s->path, &st) && st.st_dev == s->dev && st.st_ino == s->ino)
		unlink(s->path);
}

int local_server_start(const char *socket_path, mode_t mode, local_handler fn, void *ctx, struct local_server **out, struct error *e)
{
	struct local_server *s = calloc(1, sizeof(*s) + strlen(socket_path) + 1);
	int r;

	if (!s)
		return error_set(e, ENOMEM, "out of memory");
	strcpy(s->path, socket_path);
	s->fn = fn;
	s->ctx = ctx;
	s->listen_fd = -1;
	list_init(&s->conns);
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->empty, NULL);
	s->stop_fd = eventfd(0, EFD_CLOEXEC);
	r = s->stop_fd < 0 ? error_set(e, errno, "eventfd: %s", strerror(errno)) : server_bind(s, mode, e);
	if (!r) {
		r = thread_start(&s->acceptor, false, acceptor_main, s);
		if (r) {
			error_set(e, -r, "no thread for %s: %s", socket_path, strerror(-r));
			server_unlink(s);
		}
	}
	if (r) {
		server_free(s);
		return r;
	}
	*out = s;
	return 0;
}

void local_server_stop(struct local_server *s)
{
	if (!s)
		return;
	server_unlink(s);
	eventfd_write(s->stop_fd, 1);
	pthread_join(s->acceptor, NULL);
	pthread_mutex_lock(&s->lock);
	while (!list_empty(&s->conns))
		pthread_cond_wait(&s->empty, &s->lock);
	pthread_mutex_unlock(&s->lock);
	server_free(s);
}
