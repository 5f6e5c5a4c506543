// SPDX-License-Identifier: Apache-2.0
/* The agent of mig make; see make_agent.h. One thread polls everything; one more sits in the question to migd and passes its rows on by a pipe. */
#include "migd/cli/make_agent.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/io.h"
#include "migd/cli/cli.h"
#include "migd/cli/make_pool.h"

enum { OUTPUT_MAX = 16 << 20, COMMAND_MAX = 256 << 10 };

struct recipe {
	struct list node;
	char *command;
	int pid, pidfd;
	int from[2]; /* its output and error, our ends; -1: ended */
	int to[2];   /* where they would have gone */
	int lock_fd; /* the agent's */
	uint64_t start_ns;
	bool ended;
	char *text; /* chunks: 1 byte which, 4 bytes length, bytes */
	size_t len, cap;
};

struct make_agent {
	struct make_opts o;
	char dir[64], path[80];
	int listen_fd, stop_fd, lock_fd, rows[2];
	int jobs[2];
	unsigned debt; /* tokens to take out of the job server as they come back */
	struct pool pool;
	struct list recipes;
	uint64_t agent; /* as migd numbers us */
	pthread_t thread, asker;
	bool asking;
	struct list errands; /* the agent's thread */
};

/* A question to migd that takes its time, asked by a thread of its own. */
struct errand {
	struct list node;
	pthread_t thread;
	json_t *question;
	int stop_fd;
	atomic_bool over;
};

/* ---- migd's rows ---- */

static void row_in(void *arg, json_t *line)
{
	struct make_agent *a = arg;
	json_t *copy = json_incref(line);

	if (write(a->rows[1], &copy, sizeof(copy)) != sizeof(copy))
		json_decref(copy);
}

static void *asker_main(void *arg)
{
	struct make_agent *a = arg;
	struct error e = {0};
	json_t *rq = json_pack("{s:s, s:i, s:b, s:s}", "verb", "ask", "want", (int)a->o.remote, "wait", 1, "priority", a->o.priority);
	int r = ask_until(rq, row_in, a, a->stop_fd, NULL, &e);

	if (r && r != -ECANCELED)
		failed("all runs here: %s", e.text);
	return NULL;
}

static void token_put(struct make_agent *a)
{
	if (a->debt)
		a->debt--;
	else if (write(a->jobs[1], "+", 1) != 1)
		failed("job server: %s", strerror(errno));
}

static void token_take(struct make_agent *a)
{
	struct pollfd p = {.fd = a->jobs[0], .events = POLLIN};
	char c;

	/* Others read there too: never wait. What is in use now comes back when its recipe ends. */
	if (poll(&p, 1, 0) != 1 || read(a->jobs[0], &c, 1) != 1)
		a->debt++;
}

static void simple_verb(struct make_agent *a, const char *verb, json_t *extra)
{
	json_t *rq = json_pack("{s:s, s:I}", "verb", verb, "agent", (json_int_t)a->agent);

	json_object_update(rq, extra);
	json_decref(extra);
	ask(rq, NULL, NULL, NULL, NULL);
}

static void slot_back(struct make_agent *a, struct pool_slot *s)
{
	simple_verb(a, "release", json_pack("{s:I}", "id", (json_int_t)s->id));
	pool_lose(&a->pool, s);
	token_take(a);
}

static void *errand_main(void *arg)
{
	struct errand *x = arg;

	ask_until(x->question, NULL, NULL, x->stop_fd, NULL, NULL);
	x->over = true;
	return NULL;
}

static void errands_end(struct make_agent *a, bool all)
{
	struct errand *x, *tmp;

	list_each_safe(x, tmp, &a->errands, node)
		if (all || x->over) {
			pthread_join(x->thread, NULL);
			list_del(&x->node);
			free(x);
		}
}

/* Not in the loop: the recipe's output, which has to be drained before it moves, is read there. */
static void bring_home(struct make_agent *a, int pid)
{
	struct errand *x = calloc(1, sizeof(*x));

	errands_end(a, false);
	if (!x)
		return;
	x->question = json_pack("{s:s, s:i}", "verb", "home", "pid", pid);
	x->stop_fd = a->stop_fd;
	if (x->question && !pthread_create(&x->thread, NULL, errand_main, x)) {
		list_add_tail(&a->errands, &x->node);
	} else {
		json_decref(x->question);
		free(x);
	}
}

static void row(struct make_agent *a, json_t *line)
{
	json_t *g = json_object_get(line, "granted"), *l = json_object_get(line, "lost"), *r = json_object_get(line, "reclaim");
	json_t *x = g ? g : l ? l : r;
	uint64_t id = (uint64_t)json_integer_value(json_object_get(x, "id"));
	const char *host = json_string_value(json_object_get(x, "host"));
	struct pool_slot *s = x ? pool_find(&a->pool, id) : NULL;

	if (json_object_get(line, "agent"))
		a->agent = (uint64_t)json_integer_value(json_object_get(line, "agent"));
	if (x && a->o.verbose)
		fprintf(stderr, "mig: %s %s\n", host, g ? "works for us" : l ? "is lost (its owner is back, or it is down)" : "is wanted by others");
	if (g && host && !pool_grant(&a->pool, id, host)) {
		token_put(a);
	} else if (l && s) {
		pool_lose(&a->pool, s);
		token_take(a);
		/* Its place is still wanted: from whoever becomes idle next. */
		simple_verb(a, "more", json_pack("{s:i, s:b, s:s}", "want", 1, "wait", 1, "priority", a->o.priority));
	} else if (r && s && s->pid) {
		s->reclaimed = true; /* given back when it has come home; another is waited for */
		simple_verb(a, "more", json_pack("{s:i, s:b, s:s}", "want", 1, "wait", 1, "priority", a->o.priority));
		bring_home(a, s->pid);
	} else if (r && s) {
		slot_back(a, s);
		simple_verb(a, "more", json_pack("{s:i, s:b, s:s}", "want", 1, "wait", 1, "priority", a->o.priority));
	}
}

/* ---- output ---- */

/* In one piece, whatever small recipes say at that time. */
static void output_flush(struct recipe *r)
{
	if (r->len)
		flock(r->lock_fd, LOCK_EX);
	for (size_t at = 0; at < r->len;) {
		uint32_t n;

		memcpy(&n, r->text + at + 1, sizeof(n));
		io_write_all(r->to[(int)r->text[at]], r->text + at + 5, n);
		at += 5 + n;
	}
	if (r->len)
		flock(r->lock_fd, LOCK_UN);
	r->len = 0;
}

static void output_add(struct recipe *r, int which, const char *p, uint32_t n)
{
	if (r->len + n + 5 > r->cap) {
		size_t cap = r->cap ? r->cap * 2 : 65536;
		char *bigger = cap <= OUTPUT_MAX ? realloc(r->text, cap) : NULL;

		if (!bigger) { /* too much to keep: from here on as it comes */
			output_flush(r);
			io_write_all(r->to[which], p, n);
			return;
		}
		r->text = bigger;
		r->cap = cap;
	}
	r->text[r->len] = (char)which;
	memcpy(r->text + r->len + 1, &n, sizeof(n));
	memcpy(r->text + r->len + 5, p, n);
	r->len += 5 + n;
}

static void output_read(struct recipe *r, int which)
{
	char buf[16384];
	ssize_t n;

	while ((n = read(r->from[which], buf, sizeof(buf))) > 0)
		output_add(r, which, buf, (uint32_t)n);
	if (n == 0) {
		close(r->from[which]);
		r->from[which] = -1;
	}
	if (r->ended) /* a daemon it left behind still writes */
		output_flush(r);
}

/* ---- recipes ---- */

static void recipe_free(struct recipe *r)
{
	output_flush(r);
	list_del(&r->node);
	for (int i = 0; i < 2; i++) {
		if (r->from[i] >= 0)
			close(r->from[i]);
		if (r->to[i] >= 0)
			close(r->to[i]);
	}
	if (r->pidfd >= 0)
		close(r->pidfd);
	free(r->text);
	free(r->command);
	free(r);
}

static void recipe_end(struct make_agent *a, struct recipe *r)
{
	struct pool_slot *s = pool_end(&a->pool, r->command, r->pid, clock_mono_ns() - r->start_ns);

	for (int i = 0; i < 2; i++)
		if (r->from[i] >= 0)
			output_read(r, i);
	output_flush(r);
	r->ended = true;
	close(r->pidfd);
	r->pidfd = -1;
	if (s && s->reclaimed)
		slot_back(a, s);
}

/* The command, as a string, and two descriptors. */
static int receive(int fd, char *buf, size_t size, int to[2])
{
	char control[CMSG_SPACE(2 * sizeof(int))] __attribute__((aligned(8)));
	uint32_t len = 0;
	struct iovec iov[2] = {{&len, sizeof(len)}, {buf, size - 1}};
	struct msghdr mh = {.msg_iov = iov, .msg_iovlen = 2, .msg_control = control, .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(fd, &mh, MSG_CMSG_CLOEXEC);
	struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&mh) : NULL;

	if (!c || c->cmsg_type != SCM_RIGHTS || c->cmsg_len > CMSG_LEN(2 * sizeof(int)))
		return -EPROTO;
	memcpy(to, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0)); /* one or two: the caller closes them */
	if (to[1] < 0)
		return -EPROTO;
	n -= sizeof(len);
	if (n < 0 || len >= size)
		return -EPROTO;
	while ((size_t)n < len) {
		ssize_t k = read(fd, buf + n, len - (size_t)n);

		if (k <= 0)
			return -EPROTO;
		n += k;
	}
	buf[len] = 0;
	return 0;
}

static int answer(int fd, const char *host, const int ends[2])
{
	char control[CMSG_SPACE(2 * sizeof(int))] __attribute__((aligned(8))) = {0};
	struct iovec iov = {(char *)host, strlen(host) + 1};
	struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&mh);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(2 * sizeof(int));
	memcpy(CMSG_DATA(c), ends, 2 * sizeof(int));
	return sendmsg(fd, &mh, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static struct recipe *recipe_new(int fd, const char *command)
{
	struct recipe *r = calloc(1, sizeof(*r));
	struct ucred who;
	socklen_t n = sizeof(who);

	if (r && !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &n)) {
		list_init(&r->node);
		r->command = strdup(command);
		r->pid = who.pid;
		r->pidfd = (int)syscall(SYS_pidfd_open, who.pid, 0);
		r->start_ns = clock_mono_ns();
		r->from[0] = r->from[1] = r->to[0] = r->to[1] = -1;
	}
	if (r && r->command && r->pidfd >= 0)
		return r;
	if (r) {
		free(r->command);
		if (r->pidfd > 0)
			close(r->pidfd);
	}
	free(r);
	return NULL;
}

static void say_where(const char *command, const char *host)
{
	char text[64];

	snprintf(text, sizeof(text), "%.60s", command);
	fprintf(stderr, "mig: %s -> %s\n", printable(text), host);
}

static void accept_recipe(struct make_agent *a)
{
	static char line[COMMAND_MAX];
	struct timeval patience = {.tv_sec = 5};
	_cleanup_close_ int fd = accept4(a->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	int to[2] = {-1, -1}, out[2], err[2];
	struct pool_slot *s;
	struct recipe *r;

	if (fd < 0)
		return;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	r = receive(fd, line, sizeof(line), to) ? NULL : recipe_new(fd, line);
	if (!r || pipe2(out, O_CLOEXEC)) {
		for (int i = 0; i < 2; i++)
			if (to[i] >= 0)
				close(to[i]);
		if (r)
			recipe_free(r);
		return;
	}
	r->lock_fd = a->lock_fd;
	r->to[0] = to[0];
	r->to[1] = to[1];
	r->from[0] = out[0];
	if (pipe2(err, O_CLOEXEC)) {
		close(out[1]);
		recipe_free(r);
		return;
	}
	r->from[1] = err[0];
	fcntl(r->from[0], F_SETFL, O_NONBLOCK);
	fcntl(r->from[1], F_SETFL, O_NONBLOCK);
	s = pool_start(&a->pool, r->command, r->pid);
	answer(fd, s ? s->host : "", (const int[2]){out[1], err[1]});
	if (a->o.verbose)
		say_where(r->command, s ? s->host : "here");
	close(out[1]);
	close(err[1]);
	list_add_tail(&a->recipes, &r->node);
}

/* ---- the loop ---- */

static size_t fill_poll(struct make_agent *a, struct pollfd **fds, size_t *cap)
{
	size_t n = 0, need = 4;
	struct recipe *r;

	list_each(r, &a->recipes, node)
		need += 3;
	if (need > *cap) {
		struct pollfd *more = realloc(*fds, need * 2 * sizeof(*more));

		if (!more)
			return 0;
		*fds = more;
		*cap = need * 2;
	}
	(*fds)[n++] = (struct pollfd){.fd = a->stop_fd, .events = POLLIN};
	(*fds)[n++] = (struct pollfd){.fd = a->listen_fd, .events = POLLIN};
	(*fds)[n++] = (struct pollfd){.fd = a->rows[0], .events = POLLIN};
	(*fds)[n++] = (struct pollfd){.fd = a->debt ? a->jobs[0] : -1, .events = POLLIN};
	list_each(r, &a->recipes, node) {
		(*fds)[n++] = (struct pollfd){.fd = r->pidfd, .events = POLLIN};
		(*fds)[n++] = (struct pollfd){.fd = r->from[0], .events = POLLIN};
		(*fds)[n++] = (struct pollfd){.fd = r->from[1], .events = POLLIN};
	}
	return n;
}

static void look_at_recipes(struct make_agent *a, const struct pollfd *p, size_t n)
{
	struct recipe *r, *tmp;
	size_t i = 4;

	list_each_safe(r, tmp, &a->recipes, node) {
		if (i + 3 > n)
			return; /* came after the poll */
		for (int k = 0; k < 2; k++)
			if (p[i + 1 + (size_t)k].revents && r->from[k] >= 0)
				output_read(r, k);
		if (p[i].revents && r->pidfd >= 0)
			recipe_end(a, r);
		if (r->ended && r->from[0] < 0 && r->from[1] < 0)
			recipe_free(r);
		i += 3;
	}
}

static void *agent_main(void *arg)
{
	struct make_agent *a = arg;
	struct pollfd *p = NULL;
	size_t cap = 0, n;
	char c;

	while ((n = fill_poll(a, &p, &cap)) && (poll(p, n, -1) >= 0 || errno == EINTR)) {
		json_t *line;

		look_at_recipes(a, p, n);
		if (p[2].revents && read(a->rows[0], &line, sizeof(line)) == sizeof(line)) {
			row(a, line);
			json_decref(line);
		}
		if (p[3].revents && a->debt && poll(&p[3], 1, 0) == 1 && read(a->jobs[0], &c, 1) == 1)
			a->debt--;
		if (p[1].revents)
			accept_recipe(a);
		if (p[0].revents)
			break;
	}
	free(p);
	return NULL;
}

static void tidy(struct make_agent *a)
{
	static const char *const ours[] = {"lock", "last.mk", "make", "sh", "sprite-sh"}; /* from last.mk on: cmd_make.c */
	char path[96];

	for (size_t i = 0; i < ARRAY_SIZE(ours); i++) {
		snprintf(path, sizeof(path), "%s/%s", a->dir, ours[i]);
		unlink(path);
	}
	unlink(a->path);
	rmdir(a->dir);
}

static int listen_at(struct make_agent *a, struct error *e)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	char lock[80];

	strcpy(a->dir, "/tmp/mig-make.XXXXXX");
	if (!mkdtemp(a->dir))
		return error_set(e, errno, "/tmp: cannot make a directory: %s", strerror(errno));
	snprintf(a->path, sizeof(a->path), "%s/agent", a->dir);
	strcpy(un.sun_path, a->path);
	snprintf(lock, sizeof(lock), "%s/lock", a->dir);
	a->lock_fd = open(lock, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (a->lock_fd < 0)
		return error_set(e, errno, "%s: %s", lock, strerror(errno));
	a->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (a->listen_fd < 0 || bind(a->listen_fd, (struct sockaddr *)&un, sizeof(un)) || listen(a->listen_fd, 1024))
		return error_set(e, errno, "%s: %s", a->path, strerror(errno));
	return 0;
}

int make_agent_start(const struct make_opts *o, const int jobs[2], struct make_agent **out, struct error *e)
{
	struct make_agent *a = calloc(1, sizeof(*a));
	int err;

	if (!a)
		return error_set(e, ENOMEM, "out of memory");
	a->o = *o;
	a->jobs[0] = jobs[0];
	a->jobs[1] = jobs[1];
	a->listen_fd = -1;
	list_init(&a->recipes);
	list_init(&a->errands);
	pool_init(&a->pool);
	a->stop_fd = eventfd(0, EFD_CLOEXEC);
	err = a->stop_fd < 0 || pipe2(a->rows, O_CLOEXEC) ? error_set(e, errno, "%s", strerror(errno)) : listen_at(a, e);
	for (unsigned i = 1; !err && i < o->local; i++) /* make has one token of its own */
		token_put(a);
	if (!err && pthread_create(&a->thread, NULL, agent_main, a))
		err = error_set(e, EAGAIN, "no thread");
	if (err) {
		if (a->dir[0])
			tidy(a);
		free(a);
		return err;
	}
	a->asking = o->remote && !pthread_create(&a->asker, NULL, asker_main, a);
	*out = a;
	return 0;
}

const char *make_agent_path(const struct make_agent *a)
{
	return a->path;
}

void make_agent_stop(struct make_agent *a)
{
	struct recipe *r, *tmp;
	uint64_t one = 1;
	json_t *line;

	if (write(a->stop_fd, &one, sizeof(one)) != sizeof(one))
		return;
	pthread_join(a->thread, NULL);
	list_each_safe(r, tmp, &a->recipes, node) {
		if (!r->ended)
			recipe_end(a, r);
		recipe_free(r);
	}
	tidy(a);
	if (a->asking)
		pthread_join(a->asker, NULL); /* which closes its connection: every slot is given back */
	errands_end(a, true);
	close(a->rows[1]);
	while (read(a->rows[0], &line, sizeof(line)) == sizeof(line))
		json_decref(line);
	close(a->rows[0]);
	pool_clear(&a->pool);
	close(a->listen_fd);
	close(a->stop_fd);
	close(a->lock_fd);
	free(a);
}
