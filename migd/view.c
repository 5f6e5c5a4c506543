// SPDX-License-Identifier: Apache-2.0
/* Root views for guests; see view.h. */
#include "migd/view.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/list.h"
#include "conf/log.h"
#include "migd/proc.h"

#define IDLE_NS (60ull * 1000000000)
enum { MOUNT_MS = 15000 };

struct view {
	struct list node;
	char *home, *dir;
	unsigned users; /* and those who wait for it to be mounted */
	bool mounting;	/* by one of them, without the lock */
	uint64_t unused_ns;
};

struct views {
	struct migd *m;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct list list;
};

int views_open(struct migd *m, struct views **out)
{
	struct views *v = calloc(1, sizeof(*v));

	if (!v)
		return -ENOMEM;
	v->m = m;
	pthread_mutex_init(&v->lock, NULL);
	pthread_cond_init(&v->changed, NULL);
	list_init(&v->list);
	*out = v;
	return 0;
}

static void view_unmount(struct view *w)
{
	if (umount2(w->dir, 0) && errno == EBUSY && umount2(w->dir, MNT_DETACH))
		log_warn("%s: cannot unmount: %s", w->dir, strerror(errno));
	rmdir(w->dir);
}

static void view_free(struct view *w)
{
	list_del(&w->node);
	free(w->home);
	free(w->dir);
	free(w);
}

void views_close(struct views *v)
{
	if (!v)
		return;
	while (!list_empty(&v->list)) {
		struct view *w = list_entry(v->list.next, struct view, node);

		if (!w->users)
			view_unmount(w);
		view_free(w);
	}
	pthread_cond_destroy(&v->changed);
	pthread_mutex_destroy(&v->lock);
	free(v);
}

/*
 * Does its spritefs live, or the holder that is about to start another one? They keep a lock. Asking the mount itself could wait for a home that is cut
 * off, and root may not be let in there at all.
 */
static bool daemon_lives(struct views *v, const char *home)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_close_ int fd = -1;

	if (asprintf(&path, "%s/spritefs-hosts-%s.lock", v->m->conf->run_dir, home) < 0)
		return true;
	fd = open(path, O_RDWR | O_CLOEXEC);
	return fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0;
}

static bool mounted(struct views *v, const struct view *w)
{
	char dev[32];

	if (!proc_mounted("self", w->dir, dev))
		return false;
	if (daemon_lives(v, w->home))
		return true;
	log_warn("%s: its spritefs has died: mounting it again", w->dir);
	umount2(w->dir, MNT_DETACH);
	return false;
}

/* Waits for a child with a time limit, or until migd ends. Returns its wait status, or -errno. */
static int wait_child(const struct migd *m, pid_t pid)
{
	uint64_t end = clock_mono_ns() + MOUNT_MS * 1000000ull;
	int status;

	for (;;) {
		pid_t r = waitpid(pid, &status, WNOHANG);

		if (r == pid)
			return status;
		if (r < 0)
			return -errno;
		if (clock_mono_ns() > end || m->stopping) {
			kill(pid, SIGKILL);
			waitpid(pid, &status, 0);
			return m->stopping ? -ECANCELED : -ETIMEDOUT;
		}
		usleep(2000);
	}
}

static int view_mount(struct views *v, struct view *w, struct error *e)
{
	_cleanup_free_ char *prefix = NULL;
	posix_spawnattr_t attr;
	sigset_t none;
	char *argv[10];
	pid_t pid;
	int n = 0, err, status;

	if (asprintf(&prefix, "/hosts/%s", w->home) < 0)
		return error_set(e, ENOMEM, "out of memory");
	if (mkdir(w->dir, 0700) && errno != EEXIST)
		return error_set(e, errno, "%s: cannot make the directory: %m", w->dir);
	argv[n++] = v->m->spritefs;
	argv[n++] = "--config";
	argv[n++] = v->m->conf->file;
	argv[n++] = "--prefix";
	argv[n++] = prefix;
	argv[n++] = "--mount";
	argv[n++] = w->dir;
	argv[n++] = "--background";
	argv[n] = NULL;
	posix_spawnattr_init(&attr);
	sigemptyset(&none);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID);
	err = posix_spawn(&pid, v->m->spritefs, NULL, &attr, argv, environ);
	posix_spawnattr_destroy(&attr);
	if (err)
		return error_set(e, err, "cannot start %s: %s", v->m->spritefs, strerror(err));
	status = wait_child(v->m, pid);
	if (status == 0 && mounted(v, w))
		return 0;
	umount2(w->dir, MNT_DETACH);
	return error_set(e, status < 0 ? -status : EHOSTUNREACH, "the files of %s cannot be mounted on %s (see the log of migd there)", w->home,
		v->m->conf->name);
}

static struct view *view_lookup(struct views *v, const char *home)
{
	struct view *w;

	list_each(w, &v->list, node)
		if (!strcmp(w->home, home))
			return w;
	w = calloc(1, sizeof(*w));
	if (!w)
		return NULL;
	w->home = strdup(home);
	if (!w->home || asprintf(&w->dir, "%s/homes/%s", v->m->conf->run_dir, home) < 0) {
		free(w->home);
		free(w);
		return NULL;
	}
	list_add_tail(&v->list, &w->node);
	return w;
}

/* Under the lock, which is let go of while it is mounted: a home that is away holds up its own guests, and neither those of others nor the ticks. */
static int view_use(struct views *v, struct view *w, struct error *e)
{
	int err = 0;

	w->users++;
	while (w->mounting)
		pthread_cond_wait(&v->changed, &v->lock);
	if (!mounted(v, w)) {
		w->mounting = true;
		pthread_mutex_unlock(&v->lock);
		err = view_mount(v, w, e);
		pthread_mutex_lock(&v->lock);
		w->mounting = false;
		pthread_cond_broadcast(&v->changed);
	}
	if (err && !--w->users)
		view_free(w);
	return err;
}

int view_get(struct views *v, const char *home, char **dir, struct error *e)
{
	_cleanup_free_ char *parent = NULL;
	struct view *w;
	int err = 0;

	if (strchr(home, '/') || !*home || *home == '.')
		return error_set(e, EINVAL, "\"%s\" is no host name", home);
	if (asprintf(&parent, "%s/homes", v->m->conf->run_dir) < 0)
		return error_set(e, ENOMEM, "out of memory");
	mkdir(parent, 0700);
	pthread_mutex_lock(&v->lock);
	w = view_lookup(v, home);
	if (!w)
		err = error_set(e, ENOMEM, "out of memory");
	else
		err = view_use(v, w, e);
	if (!err)
		*dir = strdup(w->dir);
	pthread_mutex_unlock(&v->lock);
	return err;
}

void view_put(struct views *v, const char *home)
{
	struct view *w;

	pthread_mutex_lock(&v->lock);
	list_each(w, &v->list, node) {
		if (strcmp(w->home, home) || !w->users)
			continue;
		if (!--w->users)
			w->unused_ns = clock_boot_ns();
		break;
	}
	pthread_mutex_unlock(&v->lock);
}

void views_adopt(struct views *v)
{
	_cleanup_free_ char *parent = NULL;
	struct dirent **list;
	struct view *w;
	int n = asprintf(&parent, "%s/homes", v->m->conf->run_dir) < 0 ? -1 : scandir(parent, &list, NULL, NULL);

	pthread_mutex_lock(&v->lock);
	for (int i = 0; i < n; i++) {
		if (list[i]->d_name[0] != '.' && (w = view_lookup(v, list[i]->d_name)) && !w->users)
			w->unused_ns = clock_boot_ns();
		free(list[i]);
	}
	pthread_mutex_unlock(&v->lock);
	if (n >= 0)
		free(list);
}

void views_tick(struct views *v)
{
	struct view *w, *tmp;
	uint64_t now = clock_boot_ns();

	pthread_mutex_lock(&v->lock);
	list_each_safe(w, tmp, &v->list, node) {
		if (w->users || now - w->unused_ns < IDLE_NS)
			continue;
		view_unmount(w);
		view_free(w);
	}
	pthread_mutex_unlock(&v->lock);
}
