// SPDX-License-Identifier: Apache-2.0
/* See make_far.h. */
#include "migd/cli/make_far.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "migd/cli/far.h"

extern char **environ;

struct far {
	struct list node;
	struct fars *all;
	uint64_t slot;
	pid_t pid;
	int pidfd, in, out; /* in: what it reads; out: what it says; -1: closed */
	bool ready, leaves;
	uint32_t recipe;    /* number of the one that it runs, 0: none */
	char *queue;	    /* what it has to be sent */
	size_t at, queued;
	char *text;	    /* what it has said, no whole frame yet */
	size_t len, cap;
};

void fars_init(struct fars *f, const struct far_hooks *h)
{
	f->hooks = *h;
	list_init(&f->list);
}

size_t fars_count(const struct fars *f)
{
	struct list *l;
	size_t n = 0;

	for (l = f->list.next; l != &f->list; l = l->next)
		n++;
	return n;
}

static void shut(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void far_free(struct far *w)
{
	list_del(&w->node);
	shut(&w->in);
	shut(&w->out);
	shut(&w->pidfd);
	free(w->queue);
	free(w->text);
	free(w);
}

static int spawn(struct far *w, const char *host)
{
	char exe[PATH_MAX], *slash, *argv[] = {(char *)"sprite-sh", (char *)"--far", (char *)host, NULL};
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 16);
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t all, none;
	int in[2], out[2], err;

	exe[n > 0 ? n : 0] = 0;
	slash = strrchr(exe, '/');
	if (!slash)
		return -ENOENT;
	strcpy(slash + 1, "sprite-sh");
	if (pipe2(in, O_CLOEXEC))
		return -errno;
	if (pipe2(out, O_CLOEXEC)) {
		close(in[0]);
		close(in[1]);
		return -EMFILE;
	}
	sigfillset(&all);
	sigemptyset(&none);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setsigdefault(&attr, &all);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_adddup2(&files, in[0], 0);
	posix_spawn_file_actions_adddup2(&files, out[1], 1);
	posix_spawn_file_actions_addopen(&files, 2, "/dev/null", O_WRONLY, 0);
	posix_spawn_file_actions_addclosefrom_np(&files, 3);
	err = posix_spawn(&w->pid, exe, &files, &attr, argv, environ);
	posix_spawn_file_actions_destroy(&files);
	posix_spawnattr_destroy(&attr);
	close(in[0]);
	close(out[1]);
	w->in = in[1];
	w->out = out[0];
	if (err)
		return -err;
	fcntl(w->in, F_SETFL, O_NONBLOCK);
	fcntl(w->out, F_SETFL, O_NONBLOCK);
	w->pidfd = (int)syscall(SYS_pidfd_open, w->pid, 0);
	return w->pidfd < 0 ? -errno : 0;
}

int far_start(struct fars *f, uint64_t slot, const char *host)
{
	struct far *w = calloc(1, sizeof(*w));
	int err;

	if (!w)
		return -ENOMEM;
	*w = (struct far){.all = f, .slot = slot, .pidfd = -1, .in = -1, .out = -1};
	list_init(&w->node);
	err = spawn(w, host);
	if (err)
		far_free(w);
	else
		list_add_tail(&f->list, &w->node);
	return err;
}

static struct far *find(const struct fars *f, uint64_t slot)
{
	struct far *w;

	list_each(w, &f->list, node)
		if (w->slot == slot && !w->leaves)
			return w;
	return NULL;
}

struct far *far_of(struct fars *f, uint64_t slot)
{
	struct far *w = find(f, slot);

	return w && w->ready && !w->recipe && w->in >= 0 ? w : NULL;
}

int far_pid(const struct fars *f, uint64_t slot)
{
	struct far *w = find(f, slot);

	return w ? w->pid : 0;
}

/* ---- to it ---- */

static void push(struct far *w)
{
	while (w->in >= 0 && w->at < w->queued) {
		ssize_t n = write(w->in, w->queue + w->at, w->queued - w->at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0) { /* it is gone: its pidfd tells */
			shut(&w->in);
			return;
		}
		w->at += (size_t)n;
	}
	w->at = w->queued = 0;
	if (w->leaves && !w->recipe)
		shut(&w->in);
}

static int queue(struct far *w, const struct far_frame *f, const void *bytes)
{
	char *more = realloc(w->queue, w->queued + sizeof(*f) + f->len);

	if (!more)
		return -ENOMEM;
	w->queue = more;
	memcpy(more + w->queued, f, sizeof(*f));
	memcpy(more + w->queued + sizeof(*f), bytes, f->len);
	w->queued += sizeof(*f) + f->len;
	push(w);
	return 0;
}

int far_run(struct far *w, struct recipe *r, const char *bytes, size_t len)
{
	struct far_frame f = {FAR_RUN, r->number, (uint32_t)len};
	int err;

	w->recipe = r->number;
	r->worker = w->pid;
	err = queue(w, &f, bytes);
	if (err) {
		w->recipe = 0;
		r->far_open = 0;
	}
	return err;
}

void far_kill(struct fars *all, struct recipe *r, int sig)
{
	struct far *w;

	list_each(w, &all->list, node)
		if (w->recipe == r->number)
			queue(w, &(struct far_frame){FAR_KILL, r->number, sizeof(sig)}, &sig);
}

static void leave(struct far *w)
{
	w->leaves = true;
	if (!w->recipe)
		shut(&w->in);
}

void far_leave(struct fars *f, uint64_t slot)
{
	struct far *w = find(f, slot);

	if (w)
		leave(w);
}

void fars_end(struct fars *f)
{
	struct far *w, *tmp;

	list_each_safe(w, tmp, &f->list, node)
		far_free(w);
}

/* ---- from it ---- */

static void recipe_over(struct far *w, int status)
{
	struct recipe *r = w->recipe ? w->all->hooks.recipe(w->all->hooks.ctx, w->recipe) : NULL;

	w->recipe = 0;
	if (w->leaves)
		leave(w);
	if (r)
		w->all->hooks.ended(w->all->hooks.ctx, r, status);
}

static void take(struct far *w, const struct far_frame *f, const char *bytes)
{
	struct recipe *r = f->recipe ? w->all->hooks.recipe(w->all->hooks.ctx, f->recipe) : NULL;
	int status;

	if (f->kind == FAR_READY && !w->ready) {
		w->ready = true;
		w->all->hooks.ready(w->all->hooks.ctx, w->slot);
	} else if ((f->kind == FAR_OUT || f->kind == FAR_ERR) && r) {
		output_add(r, f->kind == FAR_ERR, bytes, f->len);
		if (r->ended) /* a daemon it left behind still writes */
			output_flush(r);
	} else if (f->kind == FAR_CLOSED && r && f->len == 1) {
		r->far_open &= ~(1u << (*bytes & 1));
	} else if (f->kind == FAR_END && f->len == sizeof(status) && f->recipe == w->recipe) {
		memcpy(&status, bytes, sizeof(status));
		recipe_over(w, status);
		return;
	}
	if (r && recipe_is_over(r))
		recipe_free(r);
}

static void hear(struct far *w)
{
	struct far_frame f;
	ssize_t n;
	size_t at = 0;

	if (w->cap - w->len < 65536) {
		char *more = realloc(w->text, w->cap + 131072);

		if (!more)
			return;
		w->text = more;
		w->cap += 131072;
	}
	n = read(w->out, w->text + w->len, w->cap - w->len);
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0) {
		shut(&w->out);
		return;
	}
	w->len += (size_t)n;
	while (w->len - at >= sizeof(f)) {
		memcpy(&f, w->text + at, sizeof(f));
		if (f.len > FAR_MAX) { /* no worker of ours */
			shut(&w->out);
			return;
		}
		if (w->len - at - sizeof(f) < f.len)
			break;
		take(w, &f, w->text + at + sizeof(f));
		at += sizeof(f) + f.len;
	}
	memmove(w->text, w->text + at, w->len - at);
	w->len -= at;
}

/* Its process here has ended, and so it has over there. What it said before is heard first. */
static void gone(struct far *w)
{
	int status;

	while (w->out >= 0) {
		size_t before = w->len;
		struct pollfd p = {.fd = w->out, .events = POLLIN};

		if (poll(&p, 1, 0) != 1)
			break;
		hear(w);
		if (w->len == before && w->out >= 0 && !(p.revents & POLLIN))
			break;
	}
	if (waitpid(w->pid, &status, 0) != w->pid)
		status = 0;
	if (w->recipe) /* as a recipe that went by itself would have ended with its host */
		recipe_over(w, WIFSIGNALED(status) ? status : SIGKILL);
	w->all->hooks.gone(w->all->hooks.ctx, w->pid);
	far_free(w);
}

void fars_poll(struct fars *f, struct pollfd *p)
{
	struct far *w;

	list_each(w, &f->list, node) {
		*p++ = (struct pollfd){.fd = w->pidfd, .events = POLLIN};
		*p++ = (struct pollfd){.fd = w->out, .events = POLLIN};
		*p++ = (struct pollfd){.fd = w->queued ? w->in : -1, .events = POLLOUT};
	}
}

void fars_look(struct fars *f, const struct pollfd *p, size_t n)
{
	struct far *w, *tmp;

	list_each_safe(w, tmp, &f->list, node) {
		if (!n--)
			return; /* came after the poll */
		if (p[1].revents && w->out >= 0)
			hear(w);
		if (p[2].revents && w->in >= 0)
			push(w);
		if (p[0].revents)
			gone(w);
		p += FAR_FDS;
	}
}
