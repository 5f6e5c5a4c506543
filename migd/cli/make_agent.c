// SPDX-License-Identifier: Apache-2.0
/* The agent of mig make; see make_agent.h. One thread polls everything; one more sits in the question to migd and passes its rows on by a pipe. */
#include "migd/cli/make_agent.h"
#include <dirent.h>
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
#include "migd/cli/cli.h"
#include "migd/cli/far.h"
#include "migd/cli/make_far.h"
#include "migd/cli/make_pool.h"

struct make_agent {
	struct make_opts o;
	char dir[64], path[80];
	int listen_fd, stop_fd, lock_fd, rows[2];
	int jobs[2];
	unsigned debt; /* tokens to take out of the job server as they come back */
	struct pool pool;
	struct list recipes;
	struct fars fars;
	struct far_self self; /* and the workers' */
	uint64_t agent; /* as migd numbers us */
	pthread_t thread, asker;
	bool runs, asking; /* the two threads */
	struct list errands; /* the agent's thread */
	struct list quiet;   /* hosts that did not answer when they were asked last */
	uint64_t reach_ns;   /* when that was */
};

/* A question to migd that takes its time, asked by a thread of its own. */
struct errand {
	struct list node;
	pthread_t thread;
	json_t *question;
	int stop_fd;
	struct make_agent *rows; /* what is answered goes to its rows; NULL: nowhere */
	atomic_bool over;
};

enum { REACH_S = 3, QUIET_TIMES = 2 }; /* recipes away that last longer make us ask; so often in a row, and it is said. A busy host may miss one question */

struct quiet_host {
	struct list node;
	char name[256];
	unsigned times;
	bool said;
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

static void slot_gone(struct make_agent *a, struct pool_slot *s)
{
	far_leave(&a->fars, s->id);
	pool_lose(&a->pool, s);
	token_take(a);
}

static void slot_back(struct make_agent *a, struct pool_slot *s)
{
	simple_verb(a, "release", json_pack("{s:I}", "id", (json_int_t)s->id));
	slot_gone(a, s);
}

/* At the end. That our connection is closed would be seen a moment later, and who asks for a host in between hear that there is none. */
static void slots_back(struct make_agent *a)
{
	struct pool_slot *s;

	list_each(s, &a->pool.slots, node)
		simple_verb(a, "release", json_pack("{s:I}", "id", (json_int_t)s->id));
}

static void *errand_main(void *arg)
{
	struct errand *x = arg;

	ask_until(x->question, x->rows ? row_in : NULL, x->rows, x->stop_fd, NULL, NULL);
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

/* Not in the loop: it takes its time, and the recipes' output, which has to be drained before one moves, is read there. Steals the question. */
static void send_errand(struct make_agent *a, json_t *question, bool rows)
{
	struct errand *x = calloc(1, sizeof(*x));

	errands_end(a, false);
	if (!x) {
		json_decref(question);
		return;
	}
	x->question = question;
	x->stop_fd = a->stop_fd;
	x->rows = rows ? a : NULL;
	if (x->question && !pthread_create(&x->thread, NULL, errand_main, x)) {
		list_add_tail(&a->errands, &x->node);
	} else {
		json_decref(x->question);
		free(x);
	}
}

static void bring_home(struct make_agent *a, int pid)
{
	send_errand(a, json_pack("{s:s, s:i}", "verb", "home", "pid", pid), false);
}

/* ---- hosts that are silent while recipes are there ---- */

static struct quiet_host *quiet_host(struct make_agent *a, const char *name)
{
	struct quiet_host *q;

	list_each(q, &a->quiet, node)
		if (!strcmp(q->name, name))
			return q;
	q = calloc(1, sizeof(*q));
	if (q) {
		snprintf(q->name, sizeof(q->name), "%s", name);
		list_add_tail(&a->quiet, &q->node);
	}
	return q;
}

static void quiet_over(struct quiet_host *q)
{
	list_del(&q->node);
	free(q);
}

/* Who can decide it needs their numbers. */
static void say_silent(const char *host, json_t *pids)
{
	size_t n = json_array_size(pids), i, len = 0;
	char list[200] = "";
	json_t *pid;

	json_array_foreach(pids, i, pid)
		if (len < sizeof(list) - 12)
			len += (size_t)snprintf(list + len, sizeof(list) - len, " %d", (int)json_integer_value(pid));
	fprintf(stderr, "mig: %s does not answer: %zu %s (root can give up on it: mig resolve --drop%s)\n", host, n, n == 1 ? "recipe waits for it" : "recipes wait for it", list);
}

/* Once for each outage. */
static void reach_row(struct make_agent *a, const char *host, json_t *line)
{
	bool answers = json_is_true(json_object_get(line, "answers"));
	json_t *pids = json_object_get(line, "pids");
	struct quiet_host *q = quiet_host(a, host);

	if (!q)
		return;
	if (answers && q->said)
		fprintf(stderr, "mig: %s answers again\n", host);
	if (answers || (!q->said && !json_array_size(pids))) {
		quiet_over(q);
	} else if (!q->said && ++q->times >= QUIET_TIMES) {
		say_silent(host, pids);
		q->said = true;
	}
}

static bool reach_asked(const struct make_agent *a)
{
	struct errand *x;

	list_each(x, &a->errands, node)
		if (x->rows && !x->over)
			return true;
	return false;
}

/* ms until it is to be called again, -1: when something happens. Only a build that waits for a recipe asks. */
static int reach_look(struct make_agent *a)
{
	uint64_t now = clock_mono_ns();
	bool long_one = !list_empty(&a->quiet), away = long_one;
	struct quiet_host *q;
	json_t *pids, *hosts;
	struct recipe *r;

	list_each(r, &a->recipes, node) {
		away |= r->away && !r->ended;
		long_one |= r->away && !r->ended && now - r->start_ns > REACH_S * 1000000000ull;
	}
	if (!long_one || reach_asked(a) || now - a->reach_ns < REACH_S * 1000000000ull)
		return away ? 1000 : -1;
	a->reach_ns = now;
	pids = json_array();
	hosts = json_array();
	list_each(r, &a->recipes, node)
		if (r->away && !r->ended)
			json_array_append_new(pids, json_integer(r->worker ? r->worker : r->pid));
	list_each(q, &a->quiet, node)
		json_array_append_new(hosts, json_string(q->name));
	send_errand(a, json_pack("{s:s, s:o, s:o}", "verb", "reach", "pids", pids, "hosts", hosts), true);
	return 1000;
}

static void wants_more(struct make_agent *a)
{
	simple_verb(a, "more", json_pack("{s:i, s:b, s:s}", "want", 1, "wait", 1, "priority", a->o.priority));
}

/* There are workers: a shell that asks says all that one needs to know. */
static void say_far(const struct make_agent *a)
{
	char path[96];
	int fd;

	snprintf(path, sizeof(path), "%s/far", a->dir);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd >= 0)
		close(fd);
}

static void worker_ready(void *ctx, uint64_t slot)
{
	(void)slot;
	say_far(ctx);
}

/* Recipes may be sent there at once: until the worker is there, or if it does not get there, each goes by itself. */
static void slot_granted(struct make_agent *a, const struct pool_slot *s)
{
	far_start(&a->fars, s->id, s->host);
	token_put(a);
}

static void row(struct make_agent *a, json_t *line)
{
	json_t *g = json_object_get(line, "granted"), *l = json_object_get(line, "lost"), *r = json_object_get(line, "reclaim");
	json_t *x = g ? g : l ? l : r;
	uint64_t id = (uint64_t)json_integer_value(json_object_get(x, "id"));
	const char *host = json_string_value(json_object_get(x, "host"));
	struct pool_slot *s = x ? pool_find(&a->pool, id) : NULL;
	int far;

	if (json_object_get(line, "answers") && json_is_string(json_object_get(line, "host")))
		reach_row(a, json_string_value(json_object_get(line, "host")), line);
	if (json_object_get(line, "agent"))
		a->agent = (uint64_t)json_integer_value(json_object_get(line, "agent"));
	if (x && a->o.verbose)
		fprintf(stderr, "mig: %s %s\n", host, g ? "works for us" : l ? "is lost (its owner is back, or it is down)" : "is wanted by others");
	if (g && host && !pool_grant(&a->pool, id, host)) {
		slot_granted(a, pool_find(&a->pool, id));
	} else if (l && s) {
		slot_gone(a, s);
		wants_more(a); /* its place is still wanted: from whoever becomes idle next */
	} else if (r && s && s->pid) {
		s->reclaimed = true; /* given back when it has come home; another is waited for */
		wants_more(a);
		far = far_pid(&a->fars, s->id);
		bring_home(a, far ? far : s->pid);
	} else if (r && s) {
		slot_back(a, s);
		wants_more(a);
	}
}

/* ---- recipes ---- */

static void recipe_end(struct make_agent *a, struct recipe *r)
{
	struct pool_slot *s = pool_end(&a->pool, r->command, r->pid, clock_mono_ns() - r->start_ns);

	recipe_ended(r);
	if (s && s->reclaimed)
		slot_back(a, s);
}

/* Its shell has ended. A worker's recipe goes with it (make has killed it, or a key): it is over when the worker says so. */
static void shell_ended(struct make_agent *a, struct recipe *r)
{
	if (r->shell_fd < 0) {
		recipe_end(a, r);
		return;
	}
	close(r->pidfd);
	r->pidfd = -1;
	far_kill(&a->fars, r, SIGTERM);
}

static void far_ended(void *ctx, struct recipe *r, int status)
{
	recipe_end(ctx, r);
	recipe_tell(r, status); /* make goes on */
	if (recipe_is_over(r))
		recipe_free(r);
}

static void worker_gone(void *ctx, int worker)
{
	struct make_agent *a = ctx;
	struct recipe *r, *tmp;

	list_each_safe(r, tmp, &a->recipes, node) {
		if (r->worker != worker)
			continue;
		r->far_open = 0;
		if (recipe_is_over(r))
			recipe_free(r);
	}
}

static struct recipe *recipe_numbered(void *ctx, uint32_t number)
{
	struct make_agent *a = ctx;
	struct recipe *r;

	list_each(r, &a->recipes, node)
		if (r->number == number)
			return r;
	return NULL;
}

static void say_where(const char *command, const char *host)
{
	char text[64];

	snprintf(text, sizeof(text), "%.60s", command);
	fprintf(stderr, "mig: %s -> %s\n", printable(text), host);
}

/* Is there a worker for it? */
static bool runs_far(struct make_agent *a, struct recipe *r, const struct pool_slot *s, int fd, const char *bytes, size_t len)
{
	const struct far_head *h = (const struct far_head *)bytes;
	bool ours = h->able && !memcmp(&h->self, &a->self, sizeof(a->self));
	struct far *w = s && ours ? far_of(&a->fars, s->id) : NULL;

	if (!w || recipe_answer_far(r, fd))
		return false;
	if (far_run(w, r, bytes, len))
		recipe_tell(r, 1 << 8);
	return true;
}

static void accept_recipe(struct make_agent *a)
{
	static char bytes[FAR_MAX] __attribute__((aligned(8)));
	struct timeval patience = {.tv_sec = 5};
	_cleanup_close_ int fd = accept4(a->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	const char *host;
	struct pool_slot *s;
	struct recipe *r;
	bool own, far;
	size_t len;

	if (fd < 0)
		return;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	r = recipe_receive(fd, bytes, sizeof(bytes), &len);
	if (!r)
		return;
	r->lock_fd = a->lock_fd;
	s = pool_start(&a->pool, r->command, r->pid);
	far = runs_far(a, r, s, fd, bytes, len);
	own = !far && recipe_is_collected(r);
	host = s && !own ? s->host : "";
	if (!far && (own ? recipe_answer_here(fd) : recipe_answer(r, fd, host))) {
		pool_end(&a->pool, r->command, r->pid, EXPORT_WORTH_NS);
		recipe_free(r);
		return;
	}
	r->away = *host != 0;
	if (a->o.verbose)
		say_where(r->command, *host ? host : "here");
	list_add_tail(&a->recipes, &r->node);
}

/* ---- the loop ---- */

/* *nr: how many of them before those of the workers. */
static size_t fill_poll(struct make_agent *a, struct pollfd **fds, size_t *cap, size_t *nr)
{
	size_t n = 0, need = 4;
	struct recipe *r;

	list_each(r, &a->recipes, node)
		need += 3;
	need += FAR_FDS * fars_count(&a->fars);
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
	*nr = n;
	fars_poll(&a->fars, *fds + n);
	return need;
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
			shell_ended(a, r);
		if (recipe_is_over(r))
			recipe_free(r);
		i += 3;
	}
}

static void *agent_main(void *arg)
{
	struct make_agent *a = arg;
	struct pollfd *p = NULL;
	size_t cap = 0, n, nr;
	char c;

	while ((n = fill_poll(a, &p, &cap, &nr)) && (poll(p, n, reach_look(a)) >= 0 || errno == EINTR)) {
		json_t *line;

		look_at_recipes(a, p, nr);
		fars_look(&a->fars, p + nr, (n - nr) / FAR_FDS);
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

static void tidy(const char *dir)
{
	static const char *const ours[] = {"agent", "agent.new", "lock", "far", "last.mk", "make", "sh", "sprite-sh"}; /* from last.mk on: cmd_make.c */
	char path[96];

	for (size_t i = 0; i < ARRAY_SIZE(ours); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, ours[i]);
		unlink(path);
	}
	rmdir(dir);
}

/* Its make goes on without it, and needs a shell. */
static bool has_make(const char *agent)
{
	static const char name[] = "MIG_MAKE_AGENT=";
	_cleanup_free_ char *var = NULL;
	DIR *d = opendir("/proc");
	struct dirent *de;
	bool found = !d; /* nobody knows */
	size_t cap = 0;

	while (!found && (de = readdir(d))) {
		_cleanup_fclose_ FILE *f = NULL;
		char path[300];

		snprintf(path, sizeof(path), "/proc/%s/environ", de->d_name);
		f = de->d_name[0] >= '1' && de->d_name[0] <= '9' ? fopen(path, "re") : NULL;
		while (f && !found && getdelim(&var, &cap, 0, f) > 0)
			found = !strncmp(var, name, sizeof(name) - 1) && !strcmp(var + sizeof(name) - 1, agent);
	}
	if (d)
		closedir(d);
	return found;
}

/* What one that was killed has left: nobody listens at its socket. */
static void tidy_after_dead(void)
{
	DIR *d = opendir("/tmp");
	struct dirent *de;

	while (d && (de = readdir(d))) {
		struct sockaddr_un un = {.sun_family = AF_UNIX};
		_cleanup_close_ int fd = -1;
		struct stat st;
		char dir[64];

		if (strncmp(de->d_name, "mig-make.", 9) || strlen(de->d_name) != sizeof("mig-make.XXXXXX") - 1)
			continue;
		snprintf(dir, sizeof(dir), "/tmp/%.40s", de->d_name);
		snprintf(un.sun_path, sizeof(un.sun_path), "%s/agent", dir);
		if (lstat(dir, &st) || !S_ISDIR(st.st_mode) || st.st_uid != geteuid())
			continue;
		fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		if (fd >= 0 && connect(fd, (struct sockaddr *)&un, sizeof(un)) && errno == ECONNREFUSED && !has_make(un.sun_path))
			tidy(dir);
	}
	if (d)
		closedir(d);
}

static int listen_at(struct make_agent *a, struct error *e)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	char lock[80];

	tidy_after_dead();
	strcpy(a->dir, "/tmp/mig-make.XXXXXX");
	if (!mkdtemp(a->dir))
		return error_set(e, errno, "/tmp: cannot make a directory: %s", strerror(errno));
	snprintf(a->path, sizeof(a->path), "%s/agent", a->dir);
	snprintf(un.sun_path, sizeof(un.sun_path), "%s.new", a->path); /* for who looks whether we are dead: there is no socket that nobody listens at */
	snprintf(lock, sizeof(lock), "%s/lock", a->dir);
	a->lock_fd = open(lock, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (a->lock_fd < 0)
		return error_set(e, errno, "%s: %s", lock, strerror(errno));
	a->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (a->listen_fd < 0 || bind(a->listen_fd, (struct sockaddr *)&un, sizeof(un)) || listen(a->listen_fd, 1024) ||
		rename(un.sun_path, a->path))
		return error_set(e, errno, "%s: %s", a->path, strerror(errno));
	return 0;
}

int make_agent_new(const struct make_opts *o, const int jobs[2], struct make_agent **out, struct error *e)
{
	struct make_agent *a = calloc(1, sizeof(*a));
	int err;

	if (!a)
		return error_set(e, ENOMEM, "out of memory");
	a->o = *o;
	a->jobs[0] = jobs[0];
	a->jobs[1] = jobs[1];
	a->listen_fd = a->lock_fd = a->rows[0] = a->rows[1] = -1;
	list_init(&a->recipes);
	list_init(&a->errands);
	list_init(&a->quiet);
	far_self(&a->self);
	fars_init(&a->fars, &(struct far_hooks){.ctx = a, .ready = worker_ready, .recipe = recipe_numbered, .ended = far_ended, .gone = worker_gone});
	pool_init(&a->pool);
	a->stop_fd = eventfd(0, EFD_CLOEXEC);
	err = a->stop_fd < 0 || pipe2(a->rows, O_CLOEXEC) ? error_set(e, errno, "%s", strerror(errno)) : listen_at(a, e);
	if (err)
		make_agent_stop(a);
	else
		*out = a;
	return err;
}

int make_agent_start(struct make_agent *a, struct error *e)
{
	for (unsigned i = 1; i < a->o.local; i++) /* make has one token of its own */
		token_put(a);
	if (pthread_create(&a->thread, NULL, agent_main, a))
		return error_set(e, EAGAIN, "cannot start a thread: %s", strerror(EAGAIN));
	a->runs = true;
	a->asking = a->o.remote && !pthread_create(&a->asker, NULL, asker_main, a);
	return 0;
}

const char *make_agent_path(const struct make_agent *a)
{
	return a->path;
}

void make_agent_stop(struct make_agent *a)
{
	struct quiet_host *q, *next;
	struct recipe *r, *tmp;
	uint64_t one = 1;
	json_t *line;

	if (a->runs && write(a->stop_fd, &one, sizeof(one)) != sizeof(one))
		return;
	if (a->runs)
		pthread_join(a->thread, NULL);
	list_each_safe(r, tmp, &a->recipes, node) {
		if (!r->ended)
			recipe_end(a, r);
		recipe_free(r);
	}
	fars_end(&a->fars);
	slots_back(a);
	if (a->dir[0])
		tidy(a->dir);
	if (a->asking)
		pthread_join(a->asker, NULL); /* which closes its connection: every slot is given back */
	errands_end(a, true);
	list_each_safe(q, next, &a->quiet, node)
		quiet_over(q);
	cleanup_close(&a->rows[1]);
	while (a->rows[0] >= 0 && read(a->rows[0], &line, sizeof(line)) == sizeof(line))
		json_decref(line);
	cleanup_close(&a->rows[0]);
	pool_clear(&a->pool);
	cleanup_close(&a->listen_fd);
	cleanup_close(&a->stop_fd);
	cleanup_close(&a->lock_fd);
	free(a);
}
